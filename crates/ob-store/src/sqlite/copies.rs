//! A database that may be copied with `cp` at any time, though it is two files that are read one after the other.
//!
//! As long as the log is not copied into the database and not started anew, any copy of the two is the database at some
//! moment: frames that are half there do not count. So a checkpoint waits while another process has one of the files
//! open, and for a while after, in which it reads the other one. What begins while a checkpoint runs is seen behind it:
//!
//! ```text
//! pin the log at N -> does anyone copy? yes: not now
//!                     no: copy frames up to N -> did anyone begin? no:  let go of the pin: the log may start anew
//!                                                                  yes: keep it: the copy finds all frames up to N
//! ```
//!
//! The pin is a read transaction: while it lasts the log is not started anew, and no frame behind N is copied. So of two
//! files that are read in either order the log's copy has every frame that the database's copy may have half.
//!
//! This is for people who copy; a log that grows far past its cap is copied all the same.

use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use rusqlite::Connection;
use rustix::fs::inotify;
use rustix::fs::inotify::CreateFlags;
use rustix::fs::inotify::ReadFlags;
use rustix::fs::inotify::WatchFlags;

use super::fault::Fault;
use super::file;

/// Between the two files `cp -r` may copy others; after this long with neither of them open, it has both.
const BETWEEN_FILES: Duration = Duration::from_secs(10);

/// Looks at our own files until what the kernel told is found there: it tells of an open a moment before.
const LOOKS: usize = 50;

/// What became of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was done, and the log may start anew.
    Done,
    /// Someone copies: it was not begun, or the log stays as it is for now.
    Held,
}

/// Keeps checkpoints apart from copies.
pub(crate) struct Copies {
    state: Mutex<State>,
}

struct State {
    /// Nothing if the machine gives no more watches: then nobody is seen.
    watch: Option<OwnedFd>,
    /// The database and its log, as the kernel names them.
    files: [PathBuf; 2],
    /// Opens less closes since the watch began, and our own among them.
    open: i64,
    own: i64,
    own_before: i64,
    seen: Option<Instant>,
    between_files: Duration,
    reader: Connection,
    is_pinned: bool,
}

// === impl Copies ===

impl Copies {
    /// Watches the files of a database that is open.
    pub(crate) fn watch(database: &Path) -> Result<Self, Fault> {
        Self::with_patience(database, BETWEEN_FILES)
    }

    fn with_patience(database: &Path, between_files: Duration) -> Result<Self, Fault> {
        let reader = file::open_readable(database)?;
        let real = fs::canonicalize(database)?;
        let log = file::beside(&real, "-wal");
        let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).and_then(|watch| {
            let flags =
                WatchFlags::OPEN | WatchFlags::CLOSE_WRITE | WatchFlags::CLOSE_NOWRITE | WatchFlags::ONLYDIR;
            inotify::add_watch(&watch, file::folder_of(&real), flags)?;
            Ok(watch)
        });
        let watch = watch
            .inspect_err(
                |error| tracing::warn!(%error, "copies of the database are not noticed: do not copy it now"),
            )
            .ok();
        let mut state = State {
            watch,
            files: [real, log],
            open: 0,
            own: 0,
            own_before: 0,
            seen: None,
            between_files,
            reader,
            is_pinned: false,
        };
        // What was opened before the watch began is not told.
        state.own_before = state.count_own();
        state.own = state.own_before;
        Ok(Self { state: Mutex::new(state) })
    }

    /// Does a checkpoint unless someone copies.
    pub(crate) fn apart(&self, checkpoint: impl FnOnce() -> Result<(), Fault>) -> Result<Outcome, Fault> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.is_pinned && state.is_copied()? {
            return Ok(Outcome::Held);
        }
        // Anew, to pin what was written since.
        state.let_go()?;
        state.pin()?;
        if state.is_copied()? {
            state.let_go()?;
            return Ok(Outcome::Held);
        }
        checkpoint()?;
        if state.is_copied()? {
            return Ok(Outcome::Held);
        }
        state.let_go()?;
        Ok(Outcome::Done)
    }

    /// Lets the log start anew, whoever copies.
    pub(crate) fn give_up(&self) -> Result<(), Fault> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).let_go()
    }
}

// === impl State ===

impl State {
    fn pin(&mut self) -> Result<(), Fault> {
        self.is_pinned = true;
        self.reader.execute_batch("BEGIN")?;
        // Only a read begins it.
        self.reader.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        Ok(())
    }

    fn let_go(&mut self) -> Result<(), Fault> {
        if std::mem::take(&mut self.is_pinned) && !self.reader.is_autocommit() {
            self.reader.execute_batch("COMMIT")?;
        }
        Ok(())
    }

    /// True if another process has one of the files open, or had a moment ago.
    fn is_copied(&mut self) -> Result<bool, Fault> {
        let (opens, closes) = self.told()?;
        if opens + closes > 0 {
            self.open += opens - closes;
            let mut ours = self.count_own();
            for _ in 0..LOOKS {
                if (ours - self.own).abs() >= opens + closes {
                    break;
                }
                thread::yield_now();
                ours = self.count_own();
            }
            if opens + closes > (ours - self.own).abs() {
                self.seen = Some(Instant::now());
            }
            self.own = ours;
        }
        let is_open = self.open > self.own - self.own_before;
        Ok(is_open || self.seen.is_some_and(|seen| seen.elapsed() < self.between_files))
    }

    /// How often one of the files was opened and closed since the last time, by anyone.
    fn told(&self) -> Result<(i64, i64), Fault> {
        let Some(watch) = &self.watch else { return Ok((0, 0)) };
        let names = self.files.each_ref().map(|file| file.file_name().unwrap_or_default().as_bytes());
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(watch, &mut buffer);
        let (mut opens, mut closes) = (0, 0);
        loop {
            let event = match events.next() {
                Ok(event) => event,
                Err(rustix::io::Errno::AGAIN) => return Ok((opens, closes)),
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(std::io::Error::from(error).into()),
            };
            if event.file_name().is_some_and(|name| names.contains(&name.to_bytes())) {
                if event.events().contains(ReadFlags::OPEN) {
                    opens += 1;
                } else {
                    closes += 1;
                }
            }
        }
    }

    /// How many of the open files of this process are these.
    fn count_own(&self) -> i64 {
        let Ok(open) = fs::read_dir("/proc/self/fd") else { return 0 };
        let ours = open
            .filter_map(Result::ok)
            .filter_map(|entry| fs::read_link(entry.path()).ok())
            .filter(|target| self.files.contains(target));
        i64::try_from(ours.count()).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::sqlite::checkpoint;

    /// A database with a log, and whoever copies it as another process would: by files that are not ours.
    struct World {
        folder: tempfile::TempDir,
        writer: Connection,
        copies: Copies,
    }

    impl World {
        fn new(between_files: Duration) -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("a.db");
            file::make_database(&path, |connection| Ok(connection.execute_batch("CREATE TABLE t (n, pad)")?))
                .expect("made");
            let writer = file::open_writable(&path).expect("opens");
            writer.execute_batch("INSERT INTO t VALUES (0, '')").expect("written");
            let copies = Copies::with_patience(&path, between_files).expect("watched");
            Self { folder, writer, copies }
        }

        fn path(&self, suffix: &str) -> PathBuf {
            self.folder.path().join(format!("a.db{suffix}"))
        }

        /// Changes many pages.
        fn write(&self, n: u32) {
            let sql = "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 200)
                       INSERT INTO t SELECT ?1, hex(randomblob(300)) FROM c";
            self.writer.execute(sql, [n]).expect("written");
        }

        fn passive(&self) -> Result<(), Fault> {
            Ok(self.writer.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))?)
        }

        fn checkpoint(&self) -> Outcome {
            self.copies.apart(|| self.passive()).expect("no fault")
        }

        /// Rows of a copy of these two files.
        fn rows(database: &[u8], log: &[u8]) -> Result<i64, rusqlite::Error> {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("copy.db");
            fs::write(&path, database).expect("written");
            fs::write(file::beside(&path, "-wal"), log).expect("written");
            let copy = Connection::open(&path)?;
            let intact: String = copy.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
            if intact != "ok" {
                return Ok(-1);
            }
            copy.query_row("SELECT count(*) FROM t", [], |row| row.get(0))
        }
    }

    /// Opened by `cat`, which holds it until its input ends.
    struct Stranger(std::process::Child);

    impl Stranger {
        fn opens(path: &Path) -> Self {
            let shell = std::process::Command::new("sh")
                .args(["-c", "exec 3<\"$1\"; echo open; cat", "sh"])
                .arg(path)
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .spawn();
            let mut child = shell.expect("a shell");
            let mut line = [0; 5];
            let out = child.stdout.as_mut().expect("its output");
            std::io::Read::read_exact(out, &mut line).expect("it opens the file");
            Self(child)
        }

        fn closes(mut self) {
            drop(self.0.stdin.take());
            self.0.wait().expect("it ends");
        }
    }

    #[test]
    fn a_checkpoint_waits_for_whoever_has_a_file_open() {
        let world = World::new(Duration::ZERO);
        world.write(1);
        assert_eq!(world.checkpoint(), Outcome::Done, "nobody copies");
        for suffix in ["", "-wal"] {
            let stranger = Stranger::opens(&world.path(suffix));
            world.write(2);
            assert_eq!(world.checkpoint(), Outcome::Held, "{suffix}");
            assert_eq!(world.checkpoint(), Outcome::Held, "{suffix}");
            stranger.closes();
            assert_eq!(world.checkpoint(), Outcome::Done, "{suffix}");
        }
    }

    #[test]
    fn a_checkpoint_waits_between_the_two_files() {
        let world = World::new(Duration::from_secs(3600));
        assert_eq!(world.checkpoint(), Outcome::Done);
        Stranger::opens(&world.path("")).closes();
        assert_eq!(world.checkpoint(), Outcome::Held, "the log is still to be copied");
    }

    #[test]
    fn our_own_connections_are_no_copies() {
        let world = World::new(Duration::from_secs(3600));
        let readers: Vec<_> = (0..4).map(|_| file::open_readable(&world.path("")).expect("opens")).collect();
        for reader in &readers {
            reader.query_row("SELECT count(*) FROM t", [], |_| Ok(())).expect("read");
        }
        assert_eq!(world.checkpoint(), Outcome::Done);
        drop(readers);
        assert_eq!(world.checkpoint(), Outcome::Done);
        // Other files of the folder are no matter.
        File::create(world.path("-other")).expect("made");
        assert_eq!(world.checkpoint(), Outcome::Done);
    }

    /// A copy that reads the database, then the log, while a checkpoint and commits come between.
    #[test]
    fn a_copy_that_begins_during_a_checkpoint_is_whole() {
        let world = World::new(Duration::from_secs(3600));
        world.write(1);
        let mut database = Vec::new();
        let outcome = world.copies.apart(|| {
            // Read before the checkpoint, noticed behind it.
            Stranger::opens(&world.path("")).closes();
            database = fs::read(world.path(""))?;
            world.passive()
        });
        assert_eq!(outcome.expect("no fault"), Outcome::Held);
        world.write(2);
        let log = fs::read(world.path("-wal")).expect("a log");
        assert_eq!(World::rows(&database, &log).expect("a database"), 401);
    }

    /// The positive control: without the guard the same copy is none.
    #[test]
    fn without_the_guard_such_a_copy_loses_what_was_committed() {
        let world = World::new(Duration::ZERO);
        world.write(1);
        let database = fs::read(world.path("")).expect("a database");
        checkpoint::restart(&world.writer).expect("copied");
        world.write(2);
        let log = fs::read(world.path("-wal")).expect("a log");
        assert_ne!(World::rows(&database, &log).unwrap_or(-1), 401);
    }
}
