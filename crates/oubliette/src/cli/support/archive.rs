//! A `tar.gz` that only its owner can read.

use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::path::PathBuf;

use flate2::Compression;
use flate2::write::GzEncoder;
use ob_core::Refusal;

/// Where an archive will be: a new, empty file, which goes away again if nothing comes of it.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    file: Option<File>,
}

// === impl Place ===

impl Place {
    /// Makes the file; what is there already is never written over.
    pub(super) fn make(path: &Path) -> Result<Self, Refusal> {
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let file = made.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Refusal::conflict(format!("{} is there already", path.display()))
                .fix("name another file with `--out F`"),
            _ => cannot(path, &error),
        })?;
        Ok(Self { path: path.to_owned(), file: Some(file) })
    }

    /// Writes the archive, with every part in one folder, and says how large it is.
    pub(super) fn pack<'a>(
        mut self,
        folder: &str,
        at: jiff::Timestamp,
        parts: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Result<u64, Refusal> {
        let Some(file) = &self.file else { return Ok(0) };
        let size = written(file, folder, at, parts).map_err(|error| cannot(&self.path, &error))?;
        self.file = None;
        Ok(size)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.file.is_some() && fs::remove_file(&self.path).is_err() {
            // Somebody else removed it.
        }
    }
}

fn written<'a>(
    file: &File,
    folder: &str,
    at: jiff::Timestamp,
    parts: impl Iterator<Item = (&'a str, &'a str)>,
) -> io::Result<u64> {
    let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::default()));
    for (name, text) in parts {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(at.as_second()).unwrap_or(0));
        archive.append_data(&mut header, format!("{folder}/{name}"), text.as_bytes())?;
    }
    archive.into_inner()?.finish()?;
    file.sync_all()?;
    Ok(file.metadata()?.len())
}

fn cannot(path: &Path, error: &io::Error) -> Refusal {
    Refusal::unavailable(format!("cannot write {}: {error}", path.display()))
        .fix("name a place that you can write, with room, with `--out F`")
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::fs::PermissionsExt as _;

    use flate2::read::GzDecoder;
    use ob_core::RefusalCode;

    use super::*;

    #[test]
    fn an_archive_holds_its_parts_in_one_folder_for_its_owner_only() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.tar.gz");
        let parts = [("one.txt", "1\n"), ("two.txt", "")];
        let size = Place::make(&path)
            .expect("made")
            .pack("top", jiff::Timestamp::UNIX_EPOCH, parts.into_iter())
            .expect("packed");
        let found = fs::metadata(&path).expect("it stays");
        assert_eq!((found.len(), found.permissions().mode() & 0o777), (size, 0o600));
        let mut archive = tar::Archive::new(GzDecoder::new(File::open(&path).expect("opened")));
        let read: Vec<(String, String)> = archive
            .entries()
            .expect("an archive")
            .map(|entry| {
                let mut entry = entry.expect("an entry");
                let mut text = String::new();
                entry.read_to_string(&mut text).expect("text");
                (entry.path().expect("a path").display().to_string(), text)
            })
            .collect();
        assert_eq!(read, [("top/one.txt".into(), "1\n".into()), ("top/two.txt".into(), String::new())]);
    }

    #[test]
    fn nothing_is_written_over_and_nothing_half_made_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.tar.gz");
        fs::write(&path, "mine").expect("written");
        let refusal = Place::make(&path).expect_err("it is there");
        assert!(refusal.code == RefusalCode::Conflict && refusal.fix.is_some(), "{refusal}");
        assert_eq!(fs::read_to_string(&path).expect("untouched"), "mine");
        assert!(Place::make(&folder.path().join("gone/a")).is_err());

        let other = folder.path().join("b.tar.gz");
        drop(Place::make(&other).expect("made"));
        assert!(!other.exists());
        let full = Place {
            path: other,
            file: Some(OpenOptions::new().write(true).open("/dev/full").expect("a device")),
        };
        let refusal =
            full.pack("top", jiff::Timestamp::UNIX_EPOCH, [("a", "b")].into_iter()).expect_err("no room");
        assert!(refusal.message.contains("No space left"), "{refusal}");
    }
}
