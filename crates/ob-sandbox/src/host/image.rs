//! The guest program on disk: unpacked once, under a neutral name that tells its content.

use std::fs;
use std::fs::File;
use std::io;
use std::io::BufRead;
use std::io::BufReader;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;

use flate2::bufread::GzDecoder;
use ob_core::Refusal;
use sha2::Digest as _;
use sha2::Sha256;

/// The guest program, as it comes with the server.
#[derive(Clone, Debug)]
pub enum GuestImage {
    /// Built into the server's file, in gzip's form.
    Embedded(&'static [u8]),
    /// A file, for development and tests.
    File(PathBuf),
    /// This build has none.
    Missing,
}

/// The unpacked program. Its content is verified once for each server; a missing file is made anew.
#[derive(Debug)]
pub(crate) struct GuestProgram {
    image: GuestImage,
    folder: PathBuf,
    known: Mutex<Option<PathBuf>>,
}

// === impl GuestProgram ===

impl GuestProgram {
    pub(crate) fn new(image: GuestImage, folder: PathBuf) -> Self {
        Self { image, folder, known: Mutex::default() }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> Result<PathBuf, Refusal> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(path) = known.as_ref().filter(|path| path.exists()) {
            return Ok(path.clone());
        }
        let path = unpack(&self.image, &self.folder)?;
        *known = Some(path.clone());
        Ok(path)
    }
}

// === impl GuestImage ===

impl GuestImage {
    /// What its content is known by.
    fn hash(&self) -> Result<String, Refusal> {
        let hash = match self {
            Self::Embedded(bytes) => Sha256::digest(bytes),
            Self::File(path) => Sha256::digest(fs::read(path).map_err(|error| self.unreadable(&error))?),
            Self::Missing => return Err(Self::missing()),
        };
        Ok(hex::encode(hash))
    }

    /// The program itself, from its first byte.
    fn open(&self) -> Result<Box<dyn BufRead + '_>, Refusal> {
        match self {
            Self::Embedded(bytes) => Ok(Box::new(BufReader::new(GzDecoder::new(*bytes)))),
            Self::File(path) => {
                let file = File::open(path).map_err(|error| self.unreadable(&error))?;
                Ok(Box::new(BufReader::new(file)))
            }
            Self::Missing => Err(Self::missing()),
        }
    }

    fn missing() -> Refusal {
        Refusal::unavailable("this build has no guest program, so it cannot start sandboxes")
            .fix("build with `make build`, which builds the guest and embeds it")
    }

    fn unreadable(&self, error: &io::Error) -> Refusal {
        let place = match self {
            Self::File(path) => path.display().to_string(),
            Self::Embedded(_) | Self::Missing => "in this build".to_owned(),
        };
        Refusal::unavailable(format!("cannot read the guest program {place}: {error}"))
            .fix("build it with `make guest`")
    }
}

/// Puts the image into `folder` and returns its path. What is there already is used if its content is right; it may
/// be in use, so it is never written in place.
fn unpack(image: &GuestImage, folder: &Path) -> Result<PathBuf, Refusal> {
    let path = folder.join(format!("sandbox-{}", &image.hash()?[..16]));
    if is_intact(&mut image.open()?, &path) {
        return Ok(path);
    }
    place(&mut image.open()?, folder, &path).map_err(|error| {
        Refusal::unavailable(format!("cannot unpack the guest program to {}: {error}", folder.display()))
            .fix("make the folder writable for the server, on a file system that allows programs to run")
    })?;
    Ok(path)
}

fn place(program: &mut dyn BufRead, folder: &Path, path: &Path) -> io::Result<()> {
    // Others may pass and execute, not write: the sandbox's uid starts it.
    fs::DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
    let temporary =
        folder.join(format!(".{}-{}", std::process::id(), path.file_name().unwrap_or_default().display()));
    let written = (|| {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(&temporary)?;
        io::copy(program, &mut file)?;
        // The creation mode was subject to the umask.
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        file.sync_all()?;
        drop(file);
        fs::rename(&temporary, path)
    })();
    if written.is_err() {
        fs::remove_file(&temporary).ok();
    }
    written
}

/// True if the file is ours alone to write and has exactly this content.
fn is_intact(program: &mut dyn BufRead, path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| {
        m.is_file() && m.uid() == rustix::process::geteuid().as_raw() && m.mode() & 0o7777 == 0o755
    }) && File::open(path).is_ok_and(|file| is_same(program, &mut BufReader::new(file)).unwrap_or(false))
}

/// True if both have the same bytes until their ends.
fn is_same(one: &mut dyn BufRead, other: &mut dyn BufRead) -> io::Result<bool> {
    loop {
        let (left, right) = (one.fill_buf()?, other.fill_buf()?);
        let common = left.len().min(right.len());
        if common == 0 {
            return Ok(left.is_empty() && right.is_empty());
        }
        if left[..common] != right[..common] {
            return Ok(false);
        }
        one.consume(common);
        other.consume(common);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn embedded(content: &[u8]) -> GuestImage {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        packed.write_all(content).expect("memory");
        GuestImage::Embedded(packed.finish().expect("memory").leak())
    }

    #[test]
    fn what_is_longer_shorter_or_other_is_not_the_same() {
        let long = vec![7; 100_000];
        let is_same = |one: &[u8], other: &[u8]| {
            // Buffers of other lengths, so that their ends do not fall together.
            let mut one = BufReader::with_capacity(100, one);
            is_same(&mut one, &mut BufReader::with_capacity(77, other)).expect("memory")
        };
        assert!(is_same(&long, &long) && is_same(b"", b""));
        assert!(!is_same(&long, &long[1..]) && !is_same(&long[1..], &long) && !is_same(b"", b"a"));
        assert!(!is_same(b"abc", b"abd"));
    }

    #[test]
    fn an_image_is_unpacked_once_and_mended_when_it_was_changed() {
        let folder = tempfile::tempdir().expect("a folder");
        let image = embedded(b"program");
        let path = unpack(&image, folder.path()).expect("unpacks");
        let first = fs::metadata(&path).expect("there").ino();
        assert_eq!(unpack(&image, folder.path()).expect("again"), path);
        assert_eq!(fs::metadata(&path).expect("there").ino(), first, "the same file is used");
        for changed in [&b"changed"[..], b"prog", b"programs"] {
            fs::write(&path, changed).expect("writable for its owner");
            unpack(&image, folder.path()).expect("again");
            assert_eq!(fs::read(&path).expect("there"), b"program");
        }
        assert_eq!(fs::read_dir(folder.path()).expect("there").count(), 1, "nothing else is left");
    }

    #[test]
    fn a_missing_guest_is_refused_with_the_command_that_builds_it() {
        let refusal = unpack(&GuestImage::Missing, Path::new("/nonexistent")).expect_err("missing");
        assert!(refusal.fix.is_some_and(|fix| fix.contains("make build")));
    }
}
