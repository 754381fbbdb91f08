//! Whose a sandbox's runtime folder is: servers that touch what is in it take turns, and one that has a successor is
//! turned away.
//!
//! While a launcher runs, it knows its owner itself. This is for the rest: a server that was stopped for long, and then
//! goes on to remove what it believes to be the remains of its own sandbox, must not remove the folder in which its
//! successor makes one. So the mark is read, and what it allows is done, under one lock.

use std::fs::File;
use std::io;
use std::io::Read as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use ob_core::Epoch;
use ob_core::launch::OWNER_FILE;
use rustix::fs::FlockOperation;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use tokio::time::Instant;

/// Somebody else's turn takes milliseconds, unless its server is stopped in the middle of it.
const PATIENCE: Duration = Duration::from_secs(10);
/// The pause between two tries.
const AGAIN: Duration = Duration::from_millis(2);
/// The most bytes of a mark that are read.
const MAX_MARK: u64 = 32;

/// A turn in a sandbox's runtime folder; it ends when this is dropped.
#[derive(Debug, Default)]
pub struct Turn {
    /// Its lock is held as long as it is open. A backend whose sandboxes have no such folder has nothing to lock.
    _folder: Option<File>,
}

/// What became of asking for a turn.
#[derive(Debug)]
pub(super) enum Claim {
    /// The folder is the asker's for as long as this lives.
    Ours(Turn),
    /// It belongs to a later server.
    Later,
    /// It is not there.
    Missing,
}

// === impl Claim ===

impl Claim {
    /// Waits for a turn in the folder, and marks it as this server's.
    pub(super) async fn take(runtime: &Path, epoch: Epoch) -> io::Result<Self> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match Self::try_take(runtime, epoch) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                    tokio::time::sleep(AGAIN).await;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::Error::other("an earlier server hangs while it looks after it"));
                }
                taken => return taken,
            }
        }
    }

    /// The same; makes the folder if it is not there.
    pub(super) async fn make(runtime: &Path, epoch: Epoch) -> io::Result<Self> {
        loop {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(runtime)?;
            match Self::take(runtime, epoch).await? {
                // Removed by whoever had the turn before.
                Self::Missing => {}
                taken => return Ok(taken),
            }
        }
    }

    fn try_take(runtime: &Path, epoch: Epoch) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = match rustix::fs::open(runtime, flags, Mode::empty()) {
            Ok(folder) => File::from(folder),
            Err(rustix::io::Errno::NOENT) => return Ok(Self::Missing),
            Err(error) => return Err(error.into()),
        };
        rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive)?;
        // Whoever had the turn before may have removed it, and somebody may have made another one.
        let locked = folder.metadata()?;
        match std::fs::symlink_metadata(runtime) {
            Ok(there) if (there.dev(), there.ino()) == (locked.dev(), locked.ino()) => {}
            Ok(_) => return Err(io::ErrorKind::WouldBlock.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::Missing),
            Err(error) => return Err(error),
        }
        let mark = runtime.join(OWNER_FILE);
        let owner = read(&mark);
        if epoch.is_late_for(owner) {
            return Ok(Self::Later);
        }
        if owner < epoch {
            std::fs::write(&mark, epoch.0.to_string())?;
        }
        Ok(Self::Ours(Turn { _folder: Some(folder) }))
    }
}

/// The owner that a mark names. One that was not written whole names nobody.
fn read(mark: &Path) -> Epoch {
    let mut text = String::new();
    let read = File::open(mark).and_then(|file| file.take(MAX_MARK).read_to_string(&mut text));
    read.ok().and_then(|_| text.parse().ok()).map_or(Epoch::UNKNOWN, Epoch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_later_server_takes_the_folder_and_an_earlier_one_does_not() {
        let place = tempfile::tempdir().expect("a folder");
        let runtime = place.path().join("s");
        assert!(matches!(Claim::take(&runtime, Epoch(1)).await, Ok(Claim::Missing)));
        for (epoch, is_ours) in
            [(1, true), (3, true), (2, false), (3, true), (0, true), (4, true), (3, false)]
        {
            let claim = Claim::make(&runtime, Epoch(epoch)).await.expect("a turn");
            assert_eq!(matches!(claim, Claim::Ours(_)), is_ours, "{epoch}: {claim:?}");
        }
        std::fs::write(runtime.join(OWNER_FILE), "").expect("half a mark");
        assert!(matches!(Claim::take(&runtime, Epoch(1)).await, Ok(Claim::Ours(_))));
    }

    #[tokio::test]
    async fn turns_are_taken_one_after_the_other_and_a_folder_that_went_is_made_anew() {
        let place = tempfile::tempdir().expect("a folder");
        let runtime = place.path().join("s");
        let first = Claim::make(&runtime, Epoch(1)).await.expect("a turn");
        let path = runtime.clone();
        let second = tokio::spawn(async move { Claim::make(&path, Epoch(2)).await.expect("a turn") });
        assert!(Claim::try_take(&runtime, Epoch(2)).is_err(), "the control: it is somebody's turn");
        std::fs::remove_dir_all(&runtime).expect("removed under the lock");
        drop(first);
        assert!(matches!(second.await.expect("no panic"), Claim::Ours(_)));
        assert_eq!(read(&runtime.join(OWNER_FILE)), Epoch(2));
    }
}
