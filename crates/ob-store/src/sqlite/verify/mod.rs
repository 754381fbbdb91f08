//! Verifies what is on the disk: SQLite's own checks, and our promises about what the rows mean.
//!
//! It only reads, in one read transaction, so it sees one state also while a server writes. It is for `oubliette store
//! check`; a start never does this, since it reads everything.

mod events;
mod records;

use std::path::Path;
use std::path::PathBuf;

use ob_core::check::Check;
use rusqlite::Connection;
use rusqlite::OpenFlags;

use super::blob::Blobs;
use super::blocking;
use super::fault::Fault;
use super::file;
use super::migrate;
use super::migrate::Migration;
use crate::StoreError;

/// Faults of one kind that are told by name; of the others only their number.
const EXAMPLES: usize = 3;

/// Faults that SQLite looks for before it gives up; what matters is whether there is one.
const INTEGRITY_FAULTS: u32 = 20;

/// What to verify.
#[derive(Clone, Debug)]
pub struct VerifyOptions {
    /// The main database.
    pub database: PathBuf,
    /// The database of tokens.
    pub auth_database: PathBuf,
    /// The folder of blobs.
    pub blobs: PathBuf,
}

/// What was found wrong by one rule, bounded.
#[derive(Debug, Default)]
struct Faults {
    count: u64,
    examples: Vec<String>,
}

/// Verifies everything. Reads every event and every blob, so it takes as long as that.
pub async fn verify(options: VerifyOptions) -> Result<Vec<Check>, StoreError> {
    blocking(move || {
        let mut checks = main_checks(&options);
        checks.extend(token_checks(&options.auth_database));
        Ok(checks)
    })
    .await
}

/// Looks whether a home's databases can be opened and are ours. Takes no longer than reading their first pages.
pub async fn look(options: VerifyOptions) -> Result<Check, StoreError> {
    const NAME: &str = "database";
    blocking(move || {
        let both = [(&options.database, migrate::MAIN), (&options.auth_database, migrate::AUTH)];
        if both.iter().all(|(path, _)| !exists(path)) {
            return Ok(Check::ok(NAME, "none yet; the first start makes it"));
        }
        for (path, migrations) in both.into_iter().filter(|(path, _)| exists(path)) {
            if let Err(fault) = open(path, migrations) {
                return Ok(broken(NAME, &fault, path));
            }
        }
        Ok(Check::ok(NAME, format!("{} can be read", options.database.display())))
    })
    .await
}

fn main_checks(options: &VerifyOptions) -> Vec<Check> {
    let path = &options.database;
    if !exists(path) {
        return vec![Check::ok("database", "nothing is stored yet").required()];
    }
    let (connection, applied) = match open(path, migrate::MAIN) {
        Ok(opened) => opened,
        Err(fault) => return vec![broken("database", &fault, path)],
    };
    let rule = |name: &str, cost: &str, outcome: Result<(String, Faults), Fault>| match outcome {
        Ok((found, faults)) => faults.judged(name, found, cost, path),
        Err(fault) => broken(name, &fault, path),
    };
    let blobs = Blobs::at(&options.blobs);
    let (log, payloads, kept) = events::all(&connection, &blobs);
    vec![
        Check::ok("database", format!("{}, migration {applied} of {}", path.display(), migrate::MAIN.len()))
            .required(),
        rule("integrity", "rows may be lost or wrong", integrity(&connection)),
        rule("foreign_keys", "records belong to things that are not there", foreign_keys(&connection)),
        rule("event_numbers", "a client that follows a session misses events", log),
        rule("event_payloads", "these events cannot be shown", payloads),
        rule("blobs", "the events that refer to them cannot be shown", kept),
        rule("session_states", "these sessions cannot go on", records::sessions(&connection)),
        rule("turns", "these sessions cannot go on", records::turns(&connection)),
        rule("ledger", "limits may be exceeded, or reached too early", records::ledger(&connection)),
    ]
}

fn token_checks(path: &Path) -> Vec<Check> {
    const NAME: &str = "tokens";
    if !exists(path) {
        return vec![Check::ok(NAME, "none were made yet").required()];
    }
    let look = || -> Result<(String, Faults), Fault> {
        let (connection, _) = open(path, migrate::AUTH)?;
        let (_, mut faults) = integrity(&connection)?;
        let (found, wrong) = records::tokens(&connection)?;
        faults.extend(wrong);
        Ok((found, faults))
    };
    vec![match look() {
        Ok((found, faults)) => faults.judged(NAME, found, "these tokens do not work", path),
        Err(fault) => broken(NAME, &fault, path),
    }]
}

/// True if there is something to open; an empty file is what a `touch` leaves, and is made anew.
fn exists(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.len() > 0)
}

/// Opens a database of ours for reading, in a transaction, and says how many migrations are applied.
fn open(path: &Path, migrations: &[Migration]) -> Result<(Connection, usize), Fault> {
    let begin = |connection: Connection| -> Result<(Connection, usize), Fault> {
        connection.execute_batch("BEGIN")?;
        let applied = migrate::verify(&connection, path, migrations)?;
        Ok((connection, applied))
    };
    match file::open_readable(path).and_then(begin) {
        Ok(opened) => Ok(opened),
        // Where nothing can be written, SQLite cannot make the file that readers share. Without a log there is nothing
        // to share.
        Err(_) if is_read_only(path) && !exists(&file::beside(path, "-wal")) => begin(open_immutable(path)?),
        Err(fault) => Err(fault),
    }
}

/// True if no file can be made beside it.
fn is_read_only(path: &Path) -> bool {
    let probe = file::beside(path, &format!(".probe-{:016x}", rand::random::<u64>()));
    match file::make_file(&probe) {
        Ok(_) => std::fs::remove_file(&probe).is_err(),
        Err(_) => true,
    }
}

fn open_immutable(path: &Path) -> Result<Connection, Fault> {
    let text = path.to_str().ok_or_else(|| Fault::engine("the path of the database is not UTF-8"))?;
    let text = text.replace('%', "%25").replace('?', "%3f").replace('#', "%23");
    Ok(Connection::open_with_flags(
        format!("file:{text}?immutable=1"),
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?)
}

/// SQLite's own check of pages, indexes and types.
fn integrity(connection: &Connection) -> Result<(String, Faults), Fault> {
    let mut statement = connection.prepare(&format!("PRAGMA integrity_check({INTEGRITY_FAULTS})"))?;
    let mut rows = statement.query([])?;
    let mut faults = Faults::default();
    while let Some(row) = rows.next()? {
        let said: String = row.get(0)?;
        if said != "ok" {
            faults.add(said.lines().next().unwrap_or_default());
        }
    }
    Ok(("every page, index and type".to_owned(), faults))
}

fn foreign_keys(connection: &Connection) -> Result<(String, Faults), Fault> {
    let mut statement = connection.prepare("PRAGMA foreign_key_check")?;
    let mut rows = statement.query([])?;
    let mut faults = Faults::default();
    while let Some(row) = rows.next()? {
        let (table, key, parent): (String, Option<i64>, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        faults.add(format!("row {} of {table} belongs to no row of {parent}", key.unwrap_or_default()));
    }
    Ok(("every record belongs to something".to_owned(), faults))
}

/// A database that cannot be read at all, or not to its end.
fn broken(name: &str, fault: &Fault, path: &Path) -> Check {
    recover(Check::failed(name, said(fault), "the server cannot start on it, or cannot read all of it"), path)
}

/// What went wrong, for the operator.
fn said(fault: &Fault) -> String {
    match fault.to_error() {
        StoreError::Engine { message } => message,
        other => other.to_string(),
    }
}

/// What to do about a broken database: keep it, then take out of it what can be read.
fn recover(check: Check, path: &Path) -> Check {
    let shown = path.display();
    // Not `.recover`: the one of Debian 12 fails on every database. `.dump` ends with a rollback if it met a fault.
    check.required().mend(
        "restore a backup; or stop the server, keep the file, and take out of it what can be read (package `sqlite3`)",
        [
            format!("cp -a {shown} {shown}.broken"),
            format!("sqlite3 {shown}.broken .dump | sed 's/^ROLLBACK;.*/COMMIT;/' > {shown}.sql"),
            format!("sqlite3 {shown}.recovered < {shown}.sql"),
            format!("rm -f {shown}-wal {shown}-shm && mv {shown}.recovered {shown} && chmod 600 {shown}"),
        ],
    )
}

// === impl Faults ===

impl Faults {
    fn add(&mut self, what: impl Into<String>) {
        self.count += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(what.into());
        }
    }

    fn extend(&mut self, other: Self) {
        self.count += other.count;
        self.examples.extend(other.examples);
        self.examples.truncate(EXAMPLES);
    }

    /// As a check: what is there if nothing is wrong, else what is wrong.
    fn judged(self, name: &str, found: String, cost: &str, path: &Path) -> Check {
        if self.count == 0 {
            return Check::ok(name, found).required();
        }
        let more = match self.count - self.examples.len() as u64 {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        let found = format!("{}{more}", self.examples.join("; "));
        recover(Check::failed(name, found, cost), path)
    }
}
