//! One server per home: a lock that the kernel drops when its holder dies, and who holds it.
//!
//! The file's content is the holder as JSON. It is empty after a clean stop, so content without a lock means that the
//! last server was killed.

use std::fs::File;
use std::fs::OpenOptions;
use std::fs::TryLockError;
use std::io;
use std::io::Read as _;
use std::io::Seek as _;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::Duration;

use ob_core::Home;
use ob_core::Refusal;
use ob_core::Timestamp;
use ob_crash::CrashPoint;
use ob_crash::reach;
use serde::Deserialize;
use serde::Serialize;
use tokio::time::Instant;

use super::attend::DRAIN_MAX;
use super::cannot;

/// Who only looks holds the lock for a moment too; so does a holder that has not written its name yet.
const MOMENT: Duration = Duration::from_millis(500);

/// How often to try again.
const AGAIN: Duration = Duration::from_millis(20);

/// The most bytes of the file that are read.
const CONTENT_MAX: u64 = 64 * 1024;

/// Who serves a home.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holder {
    /// Its process id.
    pub(crate) pid: u32,
    /// Its version; empty if it was one that did not say.
    #[serde(default)]
    pub(crate) version: String,
    /// The addresses that it listens on.
    pub(crate) addresses: Vec<String>,
    /// When it started.
    pub(crate) started_at: Timestamp,
    /// True if it is about to let go.
    pub(crate) draining: bool,
}

/// The lock of a home, held until dropped.
#[derive(Debug)]
pub(crate) struct ServerLock {
    file: File,
}

// === impl ServerLock ===

impl ServerLock {
    /// Takes the lock for `holder`. If a server that drains has it, or one that was `told` to, waits for that; any other
    /// refuses, by name.
    pub(crate) async fn acquire(home: &Home, holder: &Holder, told: bool) -> Result<Self, Refusal> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(home.lock())
            .map_err(|error| cannot(&format!("open {}", home.lock().display()), &error))?;
        let started = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(cannot("lock the home", &error)),
            }
            let other = read(&file).map_err(|error| cannot("read the lock", &error))?;
            let draining = told || other.as_ref().is_some_and(|other| other.draining);
            let patience = if draining { DRAIN_MAX + Duration::from_secs(5) } else { MOMENT };
            if started.elapsed() >= patience {
                return Err(held(home, other.as_ref()));
            }
            tokio::time::sleep(AGAIN).await;
        }
        let mut lock = Self { file };
        reach(CrashPoint::LockTaken);
        lock.write(holder).map_err(|error| cannot("write the lock", &error))?;
        Ok(lock)
    }

    /// Writes who holds it.
    pub(crate) fn write(&mut self, holder: &Holder) -> io::Result<()> {
        let content = serde_json::to_vec(holder)?;
        self.file.rewind()?;
        self.file.write_all(&content)?;
        self.file.set_len(content.len() as u64)
    }

    /// Lets go after a clean stop.
    pub(crate) fn release(self) -> io::Result<()> {
        self.file.set_len(0)
    }
}

/// The server of a home, if one runs.
pub(crate) fn holder(home: &Home) -> Option<Holder> {
    let file = File::open(home.lock()).ok()?;
    let deadline = std::time::Instant::now() + MOMENT;
    loop {
        match file.try_lock_shared() {
            // Dropping the file lets go again.
            Ok(()) | Err(TryLockError::Error(_)) => return None,
            Err(TryLockError::WouldBlock) => {}
        }
        if let Ok(Some(holder)) = read(&file) {
            return Some(holder);
        }
        if std::time::Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(AGAIN);
    }
}

/// True if the last server of this home ended without letting go.
pub(crate) fn was_killed(home: &Home) -> bool {
    let Ok(file) = File::open(home.lock()) else { return false };
    matches!(file.try_lock_shared(), Ok(())) && matches!(read(&file), Ok(Some(_)))
}

fn read(mut file: &File) -> io::Result<Option<Holder>> {
    let mut content = Vec::new();
    file.rewind()?;
    file.take(CONTENT_MAX).read_to_end(&mut content)?;
    Ok(serde_json::from_slice(&content).ok())
}

fn held(home: &Home, holder: Option<&Holder>) -> Refusal {
    let home = home.root().display();
    let who = holder.map_or_else(
        || "another process".to_owned(),
        |holder| {
            let version = if holder.version.is_empty() { "unknown" } else { &holder.version };
            format!(
                "pid {} ({}), version {version}, since {}",
                holder.pid,
                holder.addresses.join(", "),
                holder.started_at
            )
        },
    );
    Refusal::conflict(format!("a server runs on {home} already: {who}"))
        .fix(format!(
            "use it, stop it with `oubliette stop --dir {home}`, take its place with `--takeover`, or take another home \
             with `--dir`"
        ))
}

#[cfg(test)]
mod tests {
    use ob_core::RefusalCode;
    use ob_core::home::Layout;

    use super::*;

    fn home(folder: &tempfile::TempDir) -> Home {
        let home = Home::new(folder.path().join("home"), Layout::V2, folder.path().join("run"));
        std::fs::create_dir_all(home.data()).expect("made");
        home
    }

    fn me(draining: bool) -> Holder {
        let started_at = Timestamp::from_micros(1_795_000_000_000_000);
        Holder {
            pid: 4711,
            version: "1.2.3".into(),
            addresses: vec!["127.0.0.1:8080".into()],
            started_at,
            draining,
        }
    }

    #[tokio::test]
    async fn a_second_server_is_refused_with_the_name_of_the_first() {
        let folder = tempfile::tempdir().expect("a folder");
        let home = home(&folder);
        assert_eq!(holder(&home), None);
        let lock = ServerLock::acquire(&home, &me(false), false).await.expect("free");
        assert_eq!(holder(&home), Some(me(false)));
        let refusal = ServerLock::acquire(&home, &me(false), false).await.expect_err("taken");
        assert_eq!((refusal.code, refusal.code.exit_code()), (RefusalCode::Conflict, 5));
        let told = refusal.to_string();
        for part in [
            "4711",
            "1.2.3",
            "since 2026-11-18T11:06:40",
            "--takeover",
            "127.0.0.1:8080",
            &home.root().display().to_string(),
            "oubliette stop",
        ] {
            assert!(told.contains(part), "{part} in {told}");
        }
        lock.release().expect("let go");
        assert_eq!(holder(&home), None);
        assert!(!was_killed(&home));
        ServerLock::acquire(&home, &me(false), false).await.expect("free again");
    }

    #[tokio::test]
    async fn a_server_that_drains_is_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let home = home(&folder);
        let first = ServerLock::acquire(&home, &me(true), false).await.expect("free");
        let next = Holder { pid: 4712, ..me(false) };
        let mut second = std::pin::pin!(ServerLock::acquire(&home, &next, false));
        tokio::select! {
            biased;
            _ = second.as_mut() => panic!("the first still has it"),
            () = tokio::task::yield_now() => {}
        }
        first.release().expect("let go");
        second.await.expect("it is free now");
    }

    #[tokio::test]
    async fn a_server_that_was_told_to_go_is_waited_for_before_it_says_so() {
        let folder = tempfile::tempdir().expect("a folder");
        let home = home(&folder);
        let first = ServerLock::acquire(&home, &me(false), false).await.expect("free");
        let next = Holder { pid: 4712, ..me(false) };
        let mut second = std::pin::pin!(ServerLock::acquire(&home, &next, true));
        tokio::select! {
            _ = second.as_mut() => panic!("the first still has it"),
            stranger = ServerLock::acquire(&home, &next, false) => assert!(stranger.is_err(), "not told: refused"),
        }
        first.release().expect("let go");
        second.await.expect("it is free now");
        assert_eq!(holder(&home), None, "dropped");
    }

    #[test]
    fn a_holder_that_an_older_version_wrote_is_known() {
        let text = r#"{"pid":1,"addresses":[],"started_at":"2026-11-18T11:06:40Z","draining":false}"#;
        let holder: Holder = serde_json::from_str(text).expect("a holder");
        assert_eq!((holder.pid, holder.version.as_str()), (1, ""));
    }

    #[tokio::test]
    async fn a_killed_server_leaves_its_name_but_no_lock() {
        let folder = tempfile::tempdir().expect("a folder");
        let home = home(&folder);
        // Dropping without release is what the kernel does to a killed process.
        drop(ServerLock::acquire(&home, &me(false), false).await.expect("free"));
        assert_eq!(holder(&home), None);
        assert!(was_killed(&home));
        ServerLock::acquire(&home, &me(false), false).await.expect("free");
    }

    #[test]
    fn garbage_in_the_file_is_no_holder() {
        let folder = tempfile::tempdir().expect("a folder");
        let home = home(&folder);
        std::fs::write(home.lock(), b"\xff\x00{").expect("written");
        assert_eq!((holder(&home), was_killed(&home)), (None, false));
    }
}
