//! The write-ahead log is copied into the database in the background, and never grows far past its cap.
//!
//! A passive checkpoint on a thread of its own hinders nobody, but under a steady load it never reaches the end of the
//! log, so the log is never started anew by itself. Past the cap the writer does that: it copies what little the
//! background has left, and the next commit writes at the start of the file again.

use std::ffi::c_int;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread;
use std::thread::JoinHandle;

use ob_crash::CrashPoint;
use ob_crash::reach;
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use rusqlite::hooks::Wal;

use super::copies::Copies;
use super::copies::Outcome;
use super::fault::Fault;
use super::file;
use super::file::WAL_CAP;

/// A page with its header in the WAL, in bytes.
const FRAME: u64 = 4096 + 24;

/// The background copies the WAL each time it has grown so much, in bytes.
const STEP: u64 = if ob_crash::ENABLED { WAL_CAP / 4 } else { WAL_CAP / 16 };

/// The WAL may grow so long, in bytes, while someone copies the database.
const COPIED_CAP: u64 = 4 * WAL_CAP;

/// How long the WAL is, as the writer's last commit reported it.
#[derive(Debug)]
pub(crate) struct WalLength {
    frames: Arc<AtomicU64>,
    asked_at: u64,
    restart_at: u64,
}

// === impl WalLength ===

impl WalLength {
    /// Watches the commits of `connection`.
    pub(crate) fn watch(connection: &mut Connection) -> Result<Self, Fault> {
        let frames = Arc::new(AtomicU64::new(0));
        let reported = Arc::clone(&frames);
        connection.wal_hook(Some(move |_: &mut Wal, count: c_int| {
            reported.store(u64::try_from(count).unwrap_or(0), Ordering::Relaxed);
            Ok(())
        }))?;
        Ok(Self { frames, asked_at: 0, restart_at: WAL_CAP })
    }

    /// True each time another step was written.
    pub(crate) fn is_worth_a_checkpoint(&mut self) -> bool {
        let bytes = self.bytes();
        if bytes < self.asked_at {
            // The log was started anew.
            self.asked_at = 0;
            self.restart_at = WAL_CAP;
        }
        let worth = bytes >= self.asked_at + STEP;
        if worth {
            self.asked_at = bytes;
        }
        worth
    }

    /// True if the log is so long that it must be started anew even while someone copies the database.
    pub(crate) fn is_far_over_the_cap(&self) -> bool {
        self.bytes() >= COPIED_CAP
    }

    /// True if the log must be started anew; if that fails, it is true again a step later.
    pub(crate) fn is_over_the_cap(&mut self) -> bool {
        let over = self.bytes() >= self.restart_at;
        if over {
            self.restart_at = self.bytes() + STEP;
        }
        over
    }

    fn bytes(&self) -> u64 {
        self.frames.load(Ordering::Relaxed) * FRAME
    }
}

/// Starts the thread that copies the log when it gets a message, and ends when the sender is dropped.
pub(crate) fn start(
    database: PathBuf,
    copies: Arc<Copies>,
) -> Result<(mpsc::SyncSender<()>, JoinHandle<()>), Fault> {
    // One: while a checkpoint runs, another one may be asked for, and a third adds nothing.
    let (sender, receiver) = mpsc::sync_channel(1);
    let thread = thread::Builder::new().name("ob-store-checkpoint".into()).spawn(move || {
        let mut connection = None;
        while receiver.recv().is_ok() {
            if let Err(fault) = passive(&mut connection, &database, &copies) {
                tracing::warn!(?fault, "a checkpoint in the background failed");
            }
        }
    })?;
    Ok((sender, thread))
}

fn passive(connection: &mut Option<Connection>, database: &Path, copies: &Copies) -> Result<(), Fault> {
    let connection = match connection {
        Some(connection) => connection,
        None => connection.insert(file::open_writable(database)?),
    };
    copies.apart(|| copy(connection)).map(drop)
}

/// Copies what no reader stands in the way of.
fn copy(connection: &Connection) -> Result<(), Fault> {
    reach(CrashPoint::PassiveCheckpointBefore);
    connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))?;
    reach(CrashPoint::PassiveCheckpointAfter);
    Ok(())
}

/// Starts a log over its cap anew, unless someone copies the database and it is not far over.
pub(crate) fn restart_apart(
    connection: &Connection,
    copies: &Copies,
    is_far_over: bool,
) -> Result<(), Fault> {
    match copies.apart(|| copy(connection))? {
        Outcome::Done => restart(connection),
        Outcome::Held if is_far_over => {
            copies.give_up()?;
            restart(connection)
        }
        Outcome::Held => Ok(()),
    }
}

/// Empties the log before its last connection closes. If someone copies the database the log stays for the next start.
pub(crate) fn finish(connection: &Connection, copies: &Copies) -> Result<(), Fault> {
    match copies.apart(|| copy(connection))? {
        Outcome::Done => truncate(connection),
        Outcome::Held => {
            tracing::info!("the database is being copied; its log stays for the next start");
            copies.give_up()?;
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
            Ok(())
        }
    }
}

/// Copies the rest of the log; the next commit starts it anew. Waits for readers, within the busy timeout.
pub(crate) fn restart(connection: &Connection) -> Result<(), Fault> {
    reach(CrashPoint::RestartCheckpointBefore);
    checkpoint(connection, "PRAGMA wal_checkpoint(RESTART)")?;
    reach(CrashPoint::RestartCheckpointAfter);
    Ok(())
}

/// Copies the log and empties its file.
pub(crate) fn truncate(connection: &Connection) -> Result<(), Fault> {
    checkpoint(connection, "PRAGMA wal_checkpoint(TRUNCATE)")
}

fn checkpoint(connection: &Connection, pragma: &'static str) -> Result<(), Fault> {
    let is_busy: bool = connection.query_row(pragma, [], |row| row.get(0))?;
    if is_busy { Err(Fault::engine("another connection keeps the WAL busy")) } else { Ok(()) }
}
