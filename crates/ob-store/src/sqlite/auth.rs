//! Tokens in `auth.db`. Operators copy and vacuum this file while servers run, so each commit is in the file itself,
//! not in its WAL, before it is acknowledged, and no transaction lasts longer than its few statements.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use async_trait::async_trait;
use ob_core::Timestamp;
use ob_core::record::TokenRecord;
use ob_crash::CrashPoint;
use ob_crash::reach;
use rusqlite::Connection;
use rusqlite::OptionalExtension as _;
use rusqlite::Transaction;
use rusqlite::TransactionBehavior;
use rusqlite::params;
use subtle::ConstantTimeEq as _;

use super::blocking;
use super::checkpoint;
use super::fault::Fault;
use super::file;
use super::migrate;
use super::query;
use crate::StoreError;
use crate::tokens::SecretHash;
use crate::tokens::Tokens;

/// Connections that look up: about as many as threads that serve. Each keeps a page cache of a few KiB.
const READING: usize = 4;

/// The token store.
pub(crate) struct SqliteTokens {
    inner: Arc<Inner>,
}

struct Inner {
    database: PathBuf,
    writing: Mutex<Open>,
    /// Of which each look-up takes one that nobody uses, so that they rarely wait for each other.
    reading: [Mutex<Open>; READING],
}

/// A connection, and the file that it has open.
struct Open {
    connection: Connection,
    file: FileId,
    /// How often it was opened again.
    opened: u32,
}

/// Which file a path means: another one after it was replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

// === impl SqliteTokens ===

impl SqliteTokens {
    /// Opens the database, making or migrating it.
    pub(crate) fn open(database: PathBuf) -> Result<Self, Fault> {
        let writing = Open::writing(&database)?;
        let reading = (0..READING).map(|_| Ok(Mutex::new(Open::reading(&database)?)));
        let reading: Vec<_> = reading.collect::<Result<_, Fault>>()?;
        let reading =
            reading.try_into().map_err(|_| Fault::engine("not as many connections as asked for"))?;
        let inner = Inner { database, writing: Mutex::new(writing), reading };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Writes in one short transaction that is in the database file when this returns.
    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            let mut open = inner.writing.lock().unwrap_or_else(PoisonError::into_inner);
            if open.is_replaced(&inner.database)? {
                *open = Open::writing(&inner.database)?;
            }
            let transaction = open.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let outcome = work(&transaction)?;
            reach(CrashPoint::TokenCommitBefore);
            transaction.commit()?;
            reach(CrashPoint::TokenCommitAfter);
            if let Err(fault) = checkpoint::truncate(&open.connection) {
                // Durable all the same, so it is not reported as failed: a caller would do it twice.
                tracing::warn!(
                    ?fault,
                    "a token change is still in the WAL; do not copy auth.db without its WAL"
                );
            }
            reach(CrashPoint::TokenCheckpointed);
            Ok(outcome)
        })
        .await
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.read(|open| work(&open.connection))).await
    }
}

#[async_trait]
impl Tokens for SqliteTokens {
    async fn create(&self, record: TokenRecord, hash: SecretHash) -> Result<bool, StoreError> {
        self.write(move |transaction| {
            let taken = transaction
                .prepare_cached("SELECT 1 FROM tokens WHERE name = ?1 AND revoked_at IS NULL")?
                .exists([&record.name])?;
            if taken {
                return Ok(false);
            }
            let revoked_at = record.revoked_at.map(Timestamp::as_micros);
            transaction
                .prepare_cached(
                    "INSERT INTO tokens (id, name, prefix, hash, revoked_at, record) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                )?
                .execute(params![
                    record.id.as_str(),
                    record.name,
                    prefix(&hash),
                    hash.as_slice(),
                    revoked_at,
                    serde_json::to_string(&record)?
                ])?;
            Ok(true)
        })
        .await
    }

    /// Done at once on the caller's thread: it takes less than handing it to another one, and never waits for a writer.
    async fn find(&self, hash: &SecretHash) -> Result<Option<TokenRecord>, StoreError> {
        self.inner.read(|open| find(&open.connection, hash)).map_err(StoreError::from)
    }

    async fn list(&self) -> Result<Vec<TokenRecord>, StoreError> {
        self.read(|connection| query::all(connection, "SELECT record FROM tokens ORDER BY key DESC", []))
            .await
    }

    async fn get(&self, id_or_name: &str) -> Result<Option<TokenRecord>, StoreError> {
        let id_or_name = id_or_name.to_owned();
        self.read(move |connection| Ok(get(connection, &id_or_name)?.map(|(_, record)| record))).await
    }

    fn revision(&self) -> Result<u64, StoreError> {
        // Always of the same one: each counts for itself.
        Ok(self.inner.read_with(&self.inner.reading[0], |open| {
            // Counts what other connections committed, also those of this process.
            let commits: u32 = open.connection.pragma_query_value(None, "data_version", |row| row.get(0))?;
            Ok(u64::from(open.opened) << 32 | u64::from(commits))
        })?)
    }

    async fn revoke(&self, id_or_name: &str, at: Timestamp) -> Result<Option<TokenRecord>, StoreError> {
        let id_or_name = id_or_name.to_owned();
        self.write(move |transaction| {
            let Some((key, record)) = get(transaction, &id_or_name)? else { return Ok(None) };
            if record.revoked_at.is_some() {
                return Ok(Some(record));
            }
            let record = TokenRecord { revoked_at: Some(at), ..record };
            transaction
                .prepare_cached("UPDATE tokens SET revoked_at = ?2, record = ?3 WHERE key = ?1")?
                .execute(params![key, at.as_micros(), serde_json::to_string(&record)?])?;
            Ok(Some(record))
        })
        .await
    }
}

// === impl Inner ===

impl Inner {
    fn read<T>(&self, work: impl FnOnce(&Open) -> Result<T, Fault>) -> Result<T, Fault> {
        let free = self.reading.iter().rev().find_map(|one| one.try_lock().ok());
        match free {
            Some(open) => self.read_locked(open, work),
            None => self.read_with(&self.reading[0], work),
        }
    }

    fn read_with<T>(
        &self,
        one: &Mutex<Open>,
        work: impl FnOnce(&Open) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        self.read_locked(one.lock().unwrap_or_else(PoisonError::into_inner), work)
    }

    fn read_locked<T>(
        &self,
        mut open: MutexGuard<'_, Open>,
        work: impl FnOnce(&Open) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        if open.is_replaced(&self.database)? {
            let opened = open.opened.wrapping_add(1);
            *open = Open { opened, ..Open::reading(&self.database)? };
        }
        work(&open)
    }
}

// === impl Open ===

impl Open {
    fn writing(database: &Path) -> Result<Self, Fault> {
        let connection = migrate::open(database, migrate::AUTH)?;
        Ok(Self { connection, file: FileId::of(database)?, opened: 0 })
    }

    fn reading(database: &Path) -> Result<Self, Fault> {
        let connection = file::open_readable(database)?;
        Ok(Self { connection, file: FileId::of(database)?, opened: 0 })
    }

    /// True if the path means another file now, as after a restore.
    fn is_replaced(&self, database: &Path) -> Result<bool, Fault> {
        Ok(FileId::of(database)? != self.file)
    }
}

impl FileId {
    fn of(path: &Path) -> io::Result<Self> {
        let found = fs::metadata(path)?;
        Ok(Self { device: found.dev(), inode: found.ino() })
    }
}

/// The part of a hash that rows are looked up by. The order of looking up tells nothing of the rest.
fn prefix(hash: &SecretHash) -> i64 {
    let [a, b, c, d, e, f, g, h, ..] = *hash;
    i64::from_be_bytes([a, b, c, d, e, f, g, h])
}

fn find(connection: &Connection, hash: &SecretHash) -> Result<Option<TokenRecord>, Fault> {
    let mut select = connection.prepare_cached("SELECT hash, record FROM tokens WHERE prefix = ?1")?;
    let mut rows = select.query([prefix(hash)])?;
    while let Some(row) = rows.next()? {
        let stored: SecretHash = row.get(0)?;
        if bool::from(stored.ct_eq(hash)) {
            return Ok(Some(serde_json::from_str(row.get_ref(1)?.as_str().map_err(rusqlite::Error::from)?)?));
        }
    }
    Ok(None)
}

/// By public id, or else the newest with this name.
fn get(connection: &Connection, id_or_name: &str) -> Result<Option<(i64, TokenRecord)>, Fault> {
    let found: Option<(i64, String)> = connection
        .prepare_cached(
            "SELECT key, record FROM tokens WHERE id = ?1 OR name = ?1 ORDER BY id = ?1 DESC, key DESC LIMIT 1",
        )?
        .query_row([id_or_name], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    match found {
        None => Ok(None),
        Some((key, json)) => Ok(Some((key, serde_json::from_str(&json)?))),
    }
}
