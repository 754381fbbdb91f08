//! The SQLite engine: one writer thread, a few reader threads, and a database that no one else needs to know.
//!
//! ```text
//! commit, claim, new_epoch -> writer (group commit) -> oubliette.db <- readers <- events, sessions, ledger, ...
//!                               |  WAL over its cap -> checkpoint                   |
//!                               +-> tail: the newest events, in memory <------------+
//!                               +-> doorbells (after the commit) -> whoever listens
//! ```
//!
//! - `apply` holds the rules of a commit, `tail` where its events go, `record` and `ledger` its statements, `query` those of reads,
//!   `summaries` what is read most, in memory.
//! - Dropping the store ends it like [`Store::close`], without waiting.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use ob_core::Event;
use ob_core::ProjectId;
use ob_core::SessionId;
use ob_core::TreeId;
use ob_core::TurnNumber;
use ob_core::WorkspaceId;
use ob_core::ledger::Ledger;
use ob_core::record::ProjectRecord;
use ob_core::record::SessionRecord;
use ob_core::record::TurnRecord;
use ob_core::record::WorkspaceRecord;
use tokio::sync::Semaphore;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::sync::watch;

use crate::Commit;
use crate::Committed;
use crate::Doorbell;
use crate::Epoch;
use crate::OpenCharge;
use crate::SessionFilter;
use crate::SessionSummary;
use crate::SharedStore;
use crate::Store;
use crate::StoreError;
use crate::audit::SharedAudit;
use crate::tokens::SharedTokens;

mod apply;
mod audit;
mod auth;
mod blob;
mod change;
mod checkpoint;
mod copies;
mod doorbell;
mod errno;
mod fault;
mod file;
mod ledger;
mod migrate;
mod query;
mod reader;
mod record;
mod summaries;
mod tail;
mod verify;
mod writer;

pub use verify::VerifyOptions;
pub use verify::look;
pub use verify::verify;

use blob::Blobs;
use change::Prepared;
use copies::Copies;
use doorbell::Doorbells;
use fault::Fault;
use reader::Readers;
use summaries::Summaries;
use tail::Tail;
use writer::Ended;
use writer::Request;
use writer::Writer;

/// Requests that may wait for the writer, twice what one transaction takes; callers beyond wait before they queue.
const QUEUE_REQUESTS: usize = 4096;

/// Bytes that may wait for the writer, in KiB: twice the largest commit.
const QUEUE_KIB: usize = 64 * 1024;
const _: () = assert!(QUEUE_KIB * 1024 >= 2 * change::COMMIT_BYTES_MAX);

/// Where the engine keeps its files, and its bounds.
#[derive(Clone, Debug)]
pub struct SqliteOptions {
    /// The database file; made with mode 0600 if missing.
    pub database: PathBuf,
    /// The folder of blobs; made with mode 0700 if missing.
    pub blobs: PathBuf,
}

/// Opens the store, making or migrating it.
pub async fn open(options: SqliteOptions) -> Result<SharedStore, StoreError> {
    let store = blocking(move || SqliteStore::open(&options)).await?;
    Ok(Arc::new(store))
}

/// Opens the token store, making or migrating it.
pub async fn open_tokens(database: &Path) -> Result<SharedTokens, StoreError> {
    let database = database.to_owned();
    let tokens = blocking(move || auth::SqliteTokens::open(database)).await?;
    Ok(Arc::new(tokens))
}

/// Opens the audit, making or migrating it.
pub async fn open_audit(database: &Path) -> Result<SharedAudit, StoreError> {
    let database = database.to_owned();
    let audit = blocking(move || audit::SqliteAudit::open(database)).await?;
    Ok(Arc::new(audit))
}

/// Makes the database as a program made it that knew only the first so many steps of the schema.
#[cfg(feature = "conformance")]
pub async fn make_older(database: &Path, migrations: usize) -> Result<(), StoreError> {
    let database = database.to_owned();
    blocking(move || migrate::make_older(&database, migrations)).await
}

/// The store's handle: it only talks to the threads.
struct SqliteStore {
    writer: mpsc::Sender<Request>,
    room: Arc<Semaphore>,
    readers: Arc<Readers>,
    doorbells: Arc<Doorbells>,
    tail: Arc<Tail>,
    summaries: Arc<Summaries>,
    blobs: Blobs,
    ended: watch::Receiver<Ended>,
}

// === impl SqliteStore ===

impl SqliteStore {
    fn open(options: &SqliteOptions) -> Result<Self, Fault> {
        let blobs = Blobs::open(&options.blobs)?;
        let connection = migrate::open(&options.database, migrate::MAIN)?;
        let readers = Arc::new(Readers::start(&options.database)?);
        let doorbells = Arc::new(Doorbells::default());
        let tail = Arc::new(Tail::default());
        tail.load(&connection)?;
        let summaries = Arc::new(Summaries::default());
        let (writer, requests) = mpsc::channel(QUEUE_REQUESTS);
        let (ended_sender, ended) = watch::channel(None);
        Writer {
            connection,
            database: options.database.clone(),
            copies: Arc::new(Copies::watch(&options.database)?),
            requests,
            doorbells: Arc::clone(&doorbells),
            tail: Arc::clone(&tail),
            summaries: Arc::clone(&summaries),
            readers: Arc::clone(&readers),
            ended: ended_sender,
            runtime: tokio::runtime::Handle::current(),
        }
        .start()?;
        let room = Arc::new(Semaphore::new(QUEUE_KIB));
        Ok(Self { writer, room, readers, doorbells, tail, summaries, blobs, ended })
    }

    async fn ask<T>(&self, request: impl FnOnce(writer::Answer<T>) -> Request) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        self.writer.send(request(answer)).await.map_err(|_| StoreError::Closed)?;
        match answered.await {
            Ok(outcome) => outcome,
            Err(_) => Err(StoreError::Engine { message: "the writer panicked".into() }),
        }
    }
}

#[async_trait]
impl Store for SqliteStore {
    /// Once this was polled to the point where the commit is queued, dropping the future does not take it back.
    async fn commit(&self, commit: Commit) -> Result<Committed, StoreError> {
        if self.writer.is_closed() {
            return Err(StoreError::Closed);
        }
        let commit = Prepared::new(commit, &self.blobs).await?;
        let kib = u32::try_from(commit.bytes / 1024 + 1).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).acquire_many_owned(kib).await.map_err(|_| StoreError::Closed)?;
        self.ask(|answer| Request::Commit { commit, room, answer }).await
    }

    async fn new_epoch(&self) -> Result<Epoch, StoreError> {
        self.ask(|answer| Request::NewEpoch { answer }).await
    }

    async fn claim(&self, session: &SessionId, epoch: Epoch) -> Result<(), StoreError> {
        change::check_epoch(epoch)?;
        self.ask(|answer| Request::Claim { session: session.clone(), epoch, answer }).await
    }

    async fn doorbell(&self, session: &SessionId) -> Result<Doorbell, StoreError> {
        // In this order, so that a commit between the two is not missed.
        let doorbell = self.doorbells.listen(session);
        let id = session.clone();
        let next = match self.tail.next(session) {
            Some(next) => next,
            None => self.readers.read(move |connection| query::next_index(connection, id.as_str())).await?,
        };
        self.doorbells.raise(session, next);
        Ok(doorbell)
    }

    async fn events(&self, session: &SessionId, from: u64, limit: usize) -> Result<Vec<Event>, StoreError> {
        let newest = self.tail.read(session, from, limit, query::EVENTS_BYTES);
        if let Some(newest) = &newest
            && newest.is_all_since(from)
        {
            return Ok(query::newest_events(session, limit, newest)?);
        }
        let (blobs, session) = (self.blobs.clone(), session.clone());
        self.readers
            .read(move |connection| query::events(connection, &blobs, &session, (from, limit), newest))
            .await
    }

    async fn session(&self, id: &SessionId) -> Result<Option<SessionRecord>, StoreError> {
        if let Some(kept) = self.summaries.record(id) {
            return Ok(Some(kept));
        }
        let id = id.clone();
        self.readers
            .read(move |c| query::one(c, "SELECT record FROM sessions WHERE id = ?1", [id.as_str()]))
            .await
    }

    async fn sessions(&self, filter: SessionFilter) -> Result<Vec<SessionRecord>, StoreError> {
        self.readers.read(move |connection| query::sessions(connection, &filter)).await
    }

    /// All of it by one read, and kept: it is what clients ask for most.
    async fn summary(&self, id: &SessionId) -> Result<Option<SessionSummary>, StoreError> {
        if let Some(kept) = self.summaries.get(id) {
            return Ok(Some(kept));
        }
        let (id, tail, summaries) = (id.clone(), Arc::clone(&self.tail), Arc::clone(&self.summaries));
        self.readers
            .read(move |connection| summaries.read(&id, || query::summary(connection, &id, tail.next(&id))))
            .await
    }

    async fn active_sessions(&self) -> Result<u64, StoreError> {
        self.readers.read(query::active_sessions).await
    }

    async fn active_by_project(&self) -> Result<Vec<(ProjectId, u64)>, StoreError> {
        self.readers.read(query::active_by_project).await
    }

    async fn driver(&self, session: &SessionId) -> Result<Option<Vec<u8>>, StoreError> {
        let session = session.clone();
        self.readers.read(move |connection| query::driver(connection, session.as_str())).await
    }

    async fn turn(&self, session: &SessionId, number: TurnNumber) -> Result<Option<TurnRecord>, StoreError> {
        let session = session.clone();
        let select = "SELECT turns.record FROM turns JOIN sessions ON sessions.key = session_key
                      WHERE sessions.id = ?1 AND number = ?2";
        self.readers.read(move |c| query::one(c, select, (session.as_str(), number.0))).await
    }

    async fn turns(&self, session: &SessionId) -> Result<Vec<TurnRecord>, StoreError> {
        let session = session.clone();
        let select = "SELECT turns.record FROM turns JOIN sessions ON sessions.key = session_key
                      WHERE sessions.id = ?1 ORDER BY number";
        self.readers.read(move |c| query::all(c, select, [session.as_str()])).await
    }

    async fn project(&self, id: ProjectId) -> Result<Option<ProjectRecord>, StoreError> {
        self.readers
            .read(move |c| query::one(c, "SELECT record FROM projects WHERE id = ?1", [id.to_string()]))
            .await
    }

    async fn projects(&self) -> Result<Vec<ProjectRecord>, StoreError> {
        self.readers.read(|c| query::all(c, "SELECT record FROM projects ORDER BY key DESC", [])).await
    }

    async fn workspace(&self, id: WorkspaceId) -> Result<Option<WorkspaceRecord>, StoreError> {
        self.readers
            .read(move |c| query::one(c, "SELECT record FROM workspaces WHERE id = ?1", [id.to_string()]))
            .await
    }

    async fn workspaces(&self, project: ProjectId) -> Result<Vec<WorkspaceRecord>, StoreError> {
        let select = "SELECT record FROM workspaces
                      WHERE project_key = (SELECT key FROM projects WHERE id = ?1) ORDER BY key DESC";
        self.readers.read(move |c| query::all(c, select, [project.to_string()])).await
    }

    async fn ledger(&self, tree: &TreeId) -> Result<Option<Ledger>, StoreError> {
        let tree = tree.clone();
        self.readers.read(move |connection| query::ledger(connection, tree.as_str())).await
    }

    async fn open_charges(&self) -> Result<Vec<OpenCharge>, StoreError> {
        self.readers.read(query::open_charges).await
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.ask(|answer| Request::Check { answer }).await
    }

    async fn close(&self) -> Result<(), StoreError> {
        // Refused if it is closing already; then its end is waited for all the same.
        self.writer.send(Request::Close).await.ok();
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(Err(message))) => Err(StoreError::Engine { message: message.clone() }),
            Ok(_) => Ok(()),
            Err(_) => Err(StoreError::Engine { message: "the writer panicked".into() }),
        }
    }
}

/// Runs `work` where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome.map_err(StoreError::from),
        Err(error) => Err(StoreError::Engine { message: format!("the store's work was cut off: {error}") }),
    }
}
