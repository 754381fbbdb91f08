//! Durable state behind one trait.
//!
//! Everything that changes together is one [`Commit`]; the engine behind the trait puts many commits into one
//! transaction (group commit) and answers each when it is durable. Readers are told by a [`Doorbell`] how far a
//! session's log reaches, and read the log from their own cursor.

use std::sync::Arc;

use async_trait::async_trait;
use ob_core::Event;
use ob_core::EventBody;
use ob_core::ProjectId;
use ob_core::Refusal;
use ob_core::RefusalCode;
use ob_core::SessionId;
use ob_core::Timestamp;
use ob_core::TreeId;
use ob_core::TurnNumber;
use ob_core::WorkspaceId;
use ob_core::id::ChargeId;
use ob_core::ledger::Amount;
use ob_core::ledger::Ledger;
use ob_core::ledger::OverLimit;
use ob_core::ledger::TreeLimits;
use ob_core::record::ProjectRecord;
use ob_core::record::SessionRecord;
use ob_core::record::TurnRecord;
use ob_core::record::WorkspaceRecord;
use ob_core::session::SessionStatus;
use ob_core::session::TurnStop;
use tokio::sync::watch;

pub use ob_core::Epoch;

pub mod audit;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod sqlite;
pub mod tokens;

/// Tells how many events of a session are durable: the number of the next event. Level, not edge.
pub type Doorbell = watch::Receiver<u64>;

/// One change of durable state.
#[derive(Clone, Debug)]
pub enum Write {
    /// Adds events to a session's log; they get the next numbers in the order given.
    Append {
        /// The session.
        session: SessionId,
        /// What happened.
        events: Vec<EventBody>,
    },
    /// Makes or replaces a session's record. Project, workspace, tree and parent must exist when it is made, and never
    /// change. Made in a fenced commit, the session is owned by that epoch. The whole commit is refused if a limit of the
    /// tree would be exceeded, or if the parent is over or ending.
    PutSession(Box<SessionRecord>),
    /// Makes or replaces a turn's record.
    PutTurn(TurnRecord),
    /// Replaces what the agent driver must know to go on after a crash. Opaque to the store.
    PutDriver {
        /// The session.
        session: SessionId,
        /// The driver's state.
        state: Vec<u8>,
    },
    /// Makes or replaces a project. A number of 0 in a new one is replaced by the next free number; the number of one
    /// that exists never changes.
    PutProject(ProjectRecord),
    /// Removes a project with its workspaces, sessions and events.
    DeleteProject(ProjectId),
    /// Makes or replaces a workspace.
    PutWorkspace(WorkspaceRecord),
    /// Removes a workspace; sessions that worked in it stay.
    DeleteWorkspace(WorkspaceId),
    /// Makes a tree with its limits, or changes the limits.
    PutTree {
        /// The tree.
        tree: TreeId,
        /// What it may spend.
        limits: TreeLimits,
    },
    /// Reserves; the whole commit is refused if a limit would be exceeded. A charge that is known changes nothing.
    Reserve {
        /// Names this call.
        charge: ChargeId,
        /// The tree that pays.
        tree: TreeId,
        /// The session that calls.
        session: SessionId,
        /// What it may cost.
        amount: Amount,
    },
    /// Ends a reservation and books what was used; a charge that is not open changes nothing.
    Settle {
        /// The call.
        charge: ChargeId,
        /// What it cost.
        used: Amount,
    },
}

/// Changes that become durable together or not at all.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    /// The changes, in order.
    pub writes: Vec<Write>,
    /// If set, every session written here must be owned by this epoch (invariant 6, `one_owner`).
    pub fence: Option<Epoch>,
}

/// What became of a commit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// When it became durable.
    pub at: Timestamp,
    /// For each `Append`, in order: the number of its first event.
    pub first_index: Vec<u64>,
}

/// A reservation that no one has settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenCharge {
    /// The call.
    pub charge: ChargeId,
    /// The tree that pays.
    pub tree: TreeId,
    /// The session that called.
    pub session: SessionId,
    /// What is reserved.
    pub amount: Amount,
}

/// Which sessions to list, newest first.
#[derive(Clone, Debug, Default)]
pub struct SessionFilter {
    /// Only of these projects; all if unset.
    pub projects: Option<Vec<ProjectId>>,
    /// Only with this status.
    pub status: Option<SessionStatus>,
    /// Only of this tree.
    pub tree: Option<TreeId>,
    /// Only sessions older than this one.
    pub before: Option<SessionId>,
    /// At most so many.
    pub limit: usize,
}

/// A session with what is shown of it beside its record.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionSummary {
    /// The session.
    pub record: SessionRecord,
    /// The number that its next event gets.
    pub next_index: u64,
    /// The books of its tree.
    pub ledger: Ledger,
    /// How its last turn that is over ended.
    pub last_stop: Option<TurnStop>,
}

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A limit would be exceeded; nothing of the commit was done.
    #[error("a limit would be exceeded")]
    OverLimit(#[source] OverLimit),
    /// A session that is over, or ending, starts no children; nothing of the commit was done.
    #[error("session {parent} is over or ending")]
    ParentOver {
        /// The parent.
        parent: SessionId,
    },
    /// Another server owns the session now; nothing of the commit was done.
    #[error("session {session} is owned by a later server")]
    Fenced {
        /// The session.
        session: SessionId,
    },
    /// A record that a write needs does not exist; nothing of the commit was done.
    #[error("{kind} {id} does not exist")]
    Missing {
        /// What kind of thing.
        kind: &'static str,
        /// Its id.
        id: String,
    },
    /// The disk is full; nothing of the commit was done.
    #[error("the disk is full")]
    Full,
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// The engine failed; `message` is safe to log, not to show.
    #[error("the database failed: {message}")]
    Engine {
        /// What it said.
        message: String,
    },
}

// === impl StoreError ===

impl StoreError {
    /// This error as people may see it. What is only for the log is logged.
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::OverLimit(over) => {
                Refusal::new(RefusalCode::LimitExceeded, over.to_string()).fix(over.fix())
            }
            Self::ParentOver { parent } => Refusal::conflict(format!(
                "session `{parent}` is over or ending, and starts no more children"
            ))
            .fix("start a session of its own"),
            Self::Fenced { session } => {
                Refusal::unavailable(format!("session `{session}` is owned by another server"))
                    .fix("ask that server")
            }
            Self::Missing { kind, id } => Refusal::not_found(kind, id),
            Self::Full => Refusal::unavailable("the disk of the home is full; nothing was lost")
                .fix("free some space, then try again"),
            Self::Closed => Refusal::unavailable("the server is stopping").fix("try again when it is back"),
            Self::Engine { message } => {
                tracing::error!(%message, "the store failed");
                Refusal::unavailable("the database cannot be written or read")
                    .fix("see the log, `oubliette doctor` and `oubliette store check`")
            }
        }
    }
}

/// Durable state.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Makes the changes durable, together or not at all. When this returns, no crash undoes them.
    async fn commit(&self, commit: Commit) -> Result<Committed, StoreError>;

    /// A new epoch, higher than every earlier one; the caller is the owner from now on.
    async fn new_epoch(&self) -> Result<Epoch, StoreError>;
    /// Takes over a session: from now on only commits fenced with this epoch (or a later claim's) may write it.
    async fn claim(&self, session: &SessionId, epoch: Epoch) -> Result<(), StoreError>;

    /// Tells how far the session's log reaches, now and on every change. Closes when the session is deleted or the store
    /// is closed. [`StoreError::Missing`] if there is no such session.
    async fn doorbell(&self, session: &SessionId) -> Result<Doorbell, StoreError>;
    /// Events with a number of at least `from`, at most `limit` of them (and at most some MiB, but at least one if
    /// there is one), in order, without a gap. [`StoreError::Missing`] if there is no such session.
    async fn events(&self, session: &SessionId, from: u64, limit: usize) -> Result<Vec<Event>, StoreError>;

    /// One session.
    async fn session(&self, id: &SessionId) -> Result<Option<SessionRecord>, StoreError>;
    /// Sessions, newest first. [`StoreError::Missing`] if `before` does not exist.
    async fn sessions(&self, filter: SessionFilter) -> Result<Vec<SessionRecord>, StoreError>;
    /// One session with what its view shows beside its record.
    async fn summary(&self, id: &SessionId) -> Result<Option<SessionSummary>, StoreError> {
        let Some(record) = self.session(id).await? else { return Ok(None) };
        let next_index = *self.doorbell(id).await?.borrow();
        let ledger = self.ledger(&record.tree).await?.unwrap_or_default();
        let last_stop = self.turns(id).await?.into_iter().rev().find_map(|turn| turn.stop);
        Ok(Some(SessionSummary { record, next_index, ledger, last_stop }))
    }
    /// How many sessions are not over.
    async fn active_sessions(&self) -> Result<u64, StoreError>;
    /// Every project, with how many of its sessions are not over.
    async fn active_by_project(&self) -> Result<Vec<(ProjectId, u64)>, StoreError>;
    /// What the agent driver saved.
    async fn driver(&self, session: &SessionId) -> Result<Option<Vec<u8>>, StoreError>;
    /// One turn.
    async fn turn(&self, session: &SessionId, number: TurnNumber) -> Result<Option<TurnRecord>, StoreError>;
    /// All turns of a session, oldest first.
    async fn turns(&self, session: &SessionId) -> Result<Vec<TurnRecord>, StoreError>;

    /// One project.
    async fn project(&self, id: ProjectId) -> Result<Option<ProjectRecord>, StoreError>;
    /// All projects, newest first.
    async fn projects(&self) -> Result<Vec<ProjectRecord>, StoreError>;
    /// One workspace.
    async fn workspace(&self, id: WorkspaceId) -> Result<Option<WorkspaceRecord>, StoreError>;
    /// The workspaces of a project, newest first.
    async fn workspaces(&self, project: ProjectId) -> Result<Vec<WorkspaceRecord>, StoreError>;

    /// The books of a tree.
    async fn ledger(&self, tree: &TreeId) -> Result<Option<Ledger>, StoreError>;
    /// Reservations that no one has settled.
    async fn open_charges(&self) -> Result<Vec<OpenCharge>, StoreError>;

    /// Proves that the store can still write, for health.
    async fn check(&self) -> Result<(), StoreError>;
    /// Finishes what is queued, truncates the WAL and closes. Idempotent.
    async fn close(&self) -> Result<(), StoreError>;
}

/// A store that everyone shares.
pub type SharedStore = Arc<dyn Store>;
