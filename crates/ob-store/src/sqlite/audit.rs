//! The audit in `audit.db`: one thread adds what has come meanwhile in one transaction, and other processes may too.
//!
//! The chain goes on from the head that the transaction reads, so writers of several processes make one chain.

use std::path::PathBuf;
use std::thread;

use async_trait::async_trait;
use ob_core::audit::AuditEntry;
use ob_core::audit::AuditRow;
use ob_core::audit::AuditVerdict;
use rusqlite::Connection;
use rusqlite::OptionalExtension as _;
use rusqlite::TransactionBehavior;
use rusqlite::params;
use tokio::sync::mpsc;
use tokio::sync::oneshot;

use super::blocking;
use super::fault::Fault;
use super::file;
use super::migrate;
use crate::StoreError;
use crate::audit::Audit;
use crate::audit::AuditPage;
use crate::audit::FIRST;
use crate::audit::link;

/// Entries that may wait for the thread, and of one transaction; callers beyond wait before they queue.
const QUEUE: usize = 1024;

/// Faults that a look at the chain tells of.
const FAULTS_TOLD: usize = 10;

/// An entry, and who waits for it.
struct Request {
    entry: AuditEntry,
    answer: oneshot::Sender<Result<(), StoreError>>,
}

/// The audit's handle: it only talks to the thread, or opens the file for reading. Dropping it ends the thread.
pub(crate) struct SqliteAudit {
    requests: mpsc::Sender<Request>,
    database: PathBuf,
}

// === impl SqliteAudit ===

impl SqliteAudit {
    /// Opens the database, making or migrating it.
    pub(crate) fn open(database: PathBuf) -> Result<Self, Fault> {
        let connection = migrate::open(&database, migrate::AUDIT)?;
        let (requests, queue) = mpsc::channel(QUEUE);
        thread::Builder::new().name("ob-audit-writer".into()).spawn(move || write_all(connection, queue))?;
        Ok(Self { requests, database })
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let database = self.database.clone();
        blocking(move || work(&file::open_readable(&database)?)).await
    }
}

#[async_trait]
impl Audit for SqliteAudit {
    async fn append(&self, entry: AuditEntry) -> Result<(), StoreError> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(Request { entry, answer }).await.map_err(|_| StoreError::Closed)?;
        answered
            .await
            .map_err(|_| StoreError::Engine { message: "the audit's writer panicked".to_owned() })?
    }

    async fn page(&self, page: AuditPage, limit: usize) -> Result<Vec<AuditRow>, StoreError> {
        self.read(move |connection| rows(connection, page, limit)).await
    }

    async fn verify(&self) -> Result<AuditVerdict, StoreError> {
        self.read(verify).await
    }
}

/// The thread: until everyone who may ask is gone.
fn write_all(mut connection: Connection, mut queue: mpsc::Receiver<Request>) {
    let mut batch = Vec::new();
    while queue.blocking_recv_many(&mut batch, QUEUE) > 0 {
        let outcome = add(&mut connection, &batch);
        for Request { answer, .. } in batch.drain(..) {
            // Who waited may be gone.
            answer.send(outcome.as_ref().copied().map_err(Fault::to_error)).ok();
        }
    }
}

/// Adds entries in one transaction that is flushed when this returns.
fn add(connection: &mut Connection, batch: &[Request]) -> Result<(), Fault> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let (mut seq, mut hash) = head(&transaction)?;
    for Request { entry, .. } in batch {
        let text = serde_json::to_string(entry)?;
        seq += 1;
        hash = link(&hash, seq, &text);
        transaction
            .prepare_cached("INSERT INTO audit (seq, entry, hash) VALUES (?1, ?2, ?3)")?
            .execute(params![seq, text, hash])?;
    }
    transaction
        .prepare_cached("UPDATE head SET seq = ?1, hash = ?2 WHERE one = 1")?
        .execute(params![seq, hash])?;
    let outcome = transaction.commit();
    outcome.map_err(|error| Fault::of(connection, error))
}

/// How far the chain reaches.
fn head(connection: &Connection) -> Result<(u64, [u8; 32]), Fault> {
    let head = connection
        .prepare_cached("SELECT seq, hash FROM head WHERE one = 1")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    head.ok_or_else(|| Fault::engine("the audit has lost its head; `oubliette audit verify` tells more"))
}

fn rows(connection: &Connection, page: AuditPage, limit: usize) -> Result<Vec<AuditRow>, Fault> {
    let (select, bound) = match page {
        AuditPage::After(seq) => {
            ("SELECT seq, entry, hash FROM audit WHERE seq > ?1 ORDER BY seq LIMIT ?2", seq)
        }
        AuditPage::Before(seq) => {
            ("SELECT seq, entry, hash FROM audit WHERE seq < ?1 ORDER BY seq DESC LIMIT ?2", seq)
        }
    };
    let mut statement = connection.prepare(select)?;
    let bound = i64::try_from(bound).unwrap_or(i64::MAX);
    let mut rows = statement.query(params![bound, i64::try_from(limit).unwrap_or(i64::MAX)])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let hash: Vec<u8> = row.get(2)?;
        let entry = serde_json::from_str(row.get_ref(1)?.as_str().map_err(rusqlite::Error::from)?)?;
        found.push(AuditRow { seq: row.get(0)?, entry, hash: hex::encode(hash) });
    }
    Ok(found)
}

/// Goes along the whole chain in one read, so that it sees one state.
fn verify(connection: &Connection) -> Result<AuditVerdict, Fault> {
    let transaction = connection.unchecked_transaction()?;
    let mut faults = Vec::new();
    let mut fault = |text: String| {
        if faults.len() < FAULTS_TOLD {
            faults.push(text);
        }
    };
    let (mut seq, mut hash, mut entries) = (0_u64, FIRST, 0);
    let mut statement =
        transaction.prepare("SELECT seq, CAST(entry AS BLOB), hash FROM audit ORDER BY seq")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (found, text, stored): (i64, Vec<u8>, Vec<u8>) = (row.get(0)?, row.get(1)?, row.get(2)?);
        entries += 1;
        let found = u64::try_from(found).unwrap_or(0);
        match found.checked_sub(seq + 1) {
            Some(0) => {}
            Some(1) => fault(format!("entry {} is missing", seq + 1)),
            Some(_) => fault(format!("entries {} to {} are missing", seq + 1, found.saturating_sub(1))),
            None => fault(format!("entry {found} is out of order")),
        }
        let text = String::from_utf8(text).unwrap_or_default();
        // After a gap the chain cannot go on from what was before: the gap is told, and the rest is looked at.
        if found == seq + 1 && link(&hash, found, &text)[..] != stored[..] {
            fault(format!("entry {found} is not as it was written"));
        } else if serde_json::from_str::<AuditEntry>(&text).is_err() {
            fault(format!("entry {found} cannot be read"));
        }
        seq = found;
        hash = stored.try_into().unwrap_or(FIRST);
    }
    let (reaches, last) = head(&transaction)?;
    if reaches > seq {
        fault(format!("the last {} entries are missing", reaches - seq));
    } else if (reaches, last) != (seq, hash) {
        fault(format!("the head does not fit entry {seq}"));
    }
    Ok(AuditVerdict { intact: faults.is_empty(), entries, head: hex::encode(last), faults })
}
