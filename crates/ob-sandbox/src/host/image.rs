//! The guest program on disk: unpacked once, under a neutral name that tells its content.

use std::fs;
use std::io;
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;

use ob_core::Refusal;
use sha2::Digest as _;
use sha2::Sha256;

/// The guest program, as it comes with the server.
#[derive(Clone, Debug)]
pub enum GuestImage {
    /// Built into the server's file.
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

/// Puts the image into `folder` and returns its path. What is there already is used if its content is right; it may
/// be in use, so it is never written in place.
fn unpack(image: &GuestImage, folder: &Path) -> Result<PathBuf, Refusal> {
    let bytes = match image {
        GuestImage::Embedded(bytes) => std::borrow::Cow::Borrowed(*bytes),
        GuestImage::File(path) => fs::read(path).map(std::borrow::Cow::Owned).map_err(|error| {
            Refusal::unavailable(format!("cannot read the guest program {}: {error}", path.display()))
                .fix("build it with `make guest`")
        })?,
        GuestImage::Missing => {
            return Err(Refusal::unavailable(
                "this build has no guest program, so it cannot start sandboxes",
            )
            .fix("build with `make build`, which builds the guest and embeds it"));
        }
    };
    let hash = hex::encode(Sha256::digest(&bytes));
    let path = folder.join(format!("sandbox-{}", &hash[..16]));
    place(&bytes, folder, &path).map_err(|error| {
        Refusal::unavailable(format!("cannot unpack the guest program to {}: {error}", folder.display()))
            .fix("make the folder writable for the server, on a file system that allows programs to run")
    })?;
    Ok(path)
}

fn place(bytes: &[u8], folder: &Path, path: &Path) -> io::Result<()> {
    if is_intact(bytes, path) {
        return Ok(());
    }
    // Others may pass and execute, not write: the sandbox's uid starts it.
    fs::DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
    let temporary =
        folder.join(format!(".{}-{}", std::process::id(), path.file_name().unwrap_or_default().display()));
    let written = (|| {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(&temporary)?;
        file.write_all(bytes)?;
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
fn is_intact(bytes: &[u8], path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| {
        m.is_file() && m.uid() == rustix::process::geteuid().as_raw() && m.mode() & 0o7777 == 0o755
    }) && fs::read(path).is_ok_and(|found| found == bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_unpacked_once_and_mended_when_it_was_changed() {
        let folder = tempfile::tempdir().expect("a folder");
        let image = GuestImage::Embedded(b"program");
        let path = unpack(&image, folder.path()).expect("unpacks");
        let first = fs::metadata(&path).expect("there").ino();
        assert_eq!(unpack(&image, folder.path()).expect("again"), path);
        assert_eq!(fs::metadata(&path).expect("there").ino(), first, "the same file is used");
        fs::write(&path, b"changed").expect("writable for its owner");
        unpack(&image, folder.path()).expect("again");
        assert_eq!(fs::read(&path).expect("there"), b"program");
        assert_eq!(fs::read_dir(folder.path()).expect("there").count(), 1, "nothing else is left");
    }

    #[test]
    fn a_missing_guest_is_refused_with_the_command_that_builds_it() {
        let refusal = unpack(&GuestImage::Missing, Path::new("/nonexistent")).expect_err("missing");
        assert!(refusal.fix.is_some_and(|fix| fix.contains("make build")));
    }
}
