//! A store in memory: every promise of [`Store`] but durability, and faults on demand.
//!
//! A commit is applied to a copy of the tables and the copy takes their place only if all of it succeeded; logs are
//! appended and doorbells rung after that. So a refused commit leaves no trace (invariant 1, `commit_before_announce`).

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use async_trait::async_trait;
use ob_core::Event;
use ob_core::EventBody;
use ob_core::ProjectId;
use ob_core::SessionId;
use ob_core::Timestamp;
use ob_core::TreeId;
use ob_core::TurnNumber;
use ob_core::WorkspaceId;
use ob_core::id::ChargeId;
use ob_core::ledger::Joining;
use ob_core::ledger::Ledger;
use ob_core::ledger::TreeLimits;
use ob_core::record::ProjectRecord;
use ob_core::record::SessionRecord;
use ob_core::record::TurnRecord;
use ob_core::record::WorkspaceRecord;
use ob_store::Commit;
use ob_store::Committed;
use ob_store::Doorbell;
use ob_store::Epoch;
use ob_store::OpenCharge;
use ob_store::SessionFilter;
use ob_store::Store;
use ob_store::StoreError;
use ob_store::Write;
use tokio::sync::watch;

/// The most bytes of payload that one page of events holds, unless its first event is larger.
const PAGE_BYTES: usize = 4 * 1024 * 1024;
/// The time of the first commit; each later one is a millisecond on. Nothing here reads a clock.
const FIRST_COMMIT: i64 = 1_795_000_000_000_000;

/// What the store does instead of committing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreFault {
    /// The disk is full.
    Full,
    /// The engine fails.
    Engine,
    /// It panics, as a bug in an engine would.
    Panic,
}

/// A store in memory. Cheap to clone; clones share it.
#[derive(Clone, Default)]
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    tables: Tables,
    logs: HashMap<SessionId, Log>,
    commits: i64,
    closed: bool,
    fault: Option<(StoreFault, usize)>,
}

struct Log {
    events: Vec<Event>,
    bell: watch::Sender<u64>,
}

/// Everything but the events, cheap enough to copy for each commit of a test.
#[derive(Clone, Default)]
struct Tables {
    projects: Vec<ProjectRecord>,
    last_project_number: u32,
    workspaces: Vec<WorkspaceRecord>,
    sessions: BTreeMap<SessionId, SessionRow>,
    last_session_order: u64,
    turns: BTreeMap<(SessionId, TurnNumber), TurnRecord>,
    drivers: BTreeMap<SessionId, Vec<u8>>,
    trees: BTreeMap<TreeId, Ledger>,
    charges: Vec<OpenCharge>,
    epoch: u64,
}

#[derive(Clone)]
struct SessionRow {
    order: u64,
    record: SessionRecord,
    owner: Option<Epoch>,
}

// === impl MemoryStore ===

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next `commits` commits, and checks whether one would work, fail so; nothing of them is done.
    pub fn fail_next(&self, commits: usize, fault: StoreFault) {
        self.lock().fault = Some((fault, commits));
    }

    /// Opens a closed store again, as the next server does.
    pub fn reopen(&self) {
        self.lock().closed = false;
    }

    /// Loses a session and its log, as the restore of an older state does.
    pub fn forget(&self, session: &SessionId) {
        let mut state = self.lock();
        state.tables.sessions.remove(session);
        state.logs.remove(session);
    }

    /// Every event of a session.
    pub fn log(&self, session: &SessionId) -> Vec<Event> {
        self.lock().logs.get(session).map(|log| log.events.clone()).unwrap_or_default()
    }

    /// Every session, in the order of their ids.
    pub fn session_ids(&self) -> Vec<SessionId> {
        self.lock().tables.sessions.keys().cloned().collect()
    }

    /// Who owns a session; none if nobody does, or there is no such session.
    pub fn owner(&self, session: &SessionId) -> Option<Epoch> {
        self.lock().tables.sessions.get(session).and_then(|row| row.owner)
    }

    /// Makes a project, a workspace, a tree with these limits and a session in them, as a test needs before it can
    /// append or reserve.
    pub async fn seed_session(&self, session: &SessionRecord, limits: TreeLimits) -> Result<(), StoreError> {
        let at = session.created_at;
        let project = ProjectRecord {
            id: session.project,
            number: 0,
            name: "test".into(),
            description: String::new(),
            source: None,
            max_cost: limits.max_cost,
            model: None,
            trees: Default::default(),
            limits: Default::default(),
            agent: Default::default(),
            created_at: at,
        };
        let workspace = WorkspaceRecord {
            id: session.workspace,
            project: session.project,
            kind: ob_core::record::WorkspaceKind::Clone,
            path: "/nowhere".into(),
            base_commit: None,
            created_at: at,
        };
        let writes = vec![
            Write::PutProject(project),
            Write::PutWorkspace(workspace),
            Write::PutTree { tree: session.tree.clone(), limits },
            Write::PutSession(Box::new(session.clone())),
        ];
        self.commit(Commit { writes, fence: None }).await.map(drop)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic that was asked for poisons nothing: the tables are only replaced whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> Result<MutexGuard<'_, State>, StoreError> {
        let state = self.lock();
        if state.closed { Err(StoreError::Closed) } else { Ok(state) }
    }
}

// === impl State ===

impl State {
    fn fail_if_asked(&mut self) -> Result<(), StoreError> {
        let Some((fault, left)) = self.fault.take() else { return Ok(()) };
        if left > 1 {
            self.fault = Some((fault, left - 1));
        }
        match fault {
            StoreFault::Full => Err(StoreError::Full),
            StoreFault::Engine => Err(StoreError::Engine { message: "asked to fail".into() }),
            StoreFault::Panic => panic!("the store was asked to panic"),
        }
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn commit(&self, commit: Commit) -> Result<Committed, StoreError> {
        let mut state = self.open()?;
        state.fail_if_asked()?;
        let mut tables = state.tables.clone();
        let mut appended = Vec::new();
        let at = Timestamp::from_micros(FIRST_COMMIT + (state.commits + 1) * 1000);
        for write in commit.writes {
            if let Some(append) = tables.apply(write, commit.fence, at)? {
                appended.push(append);
            }
        }
        state.commits += 1;
        state.tables = tables;
        let mut first_index = Vec::with_capacity(appended.len());
        for (session, events) in appended {
            // A session made and deleted in one commit has no log to append to.
            if !state.tables.sessions.contains_key(&session) {
                first_index.push(0);
                continue;
            }
            let log = state.logs.entry(session).or_default();
            first_index.push(log.append(events, at));
        }
        let State { tables, logs, .. } = &mut *state;
        logs.retain(|session, _| tables.sessions.contains_key(session));
        Ok(Committed { at, first_index })
    }

    async fn new_epoch(&self) -> Result<Epoch, StoreError> {
        let mut state = self.open()?;
        state.tables.epoch += 1;
        Ok(Epoch(state.tables.epoch))
    }

    async fn claim(&self, session: &SessionId, epoch: Epoch) -> Result<(), StoreError> {
        let mut state = self.open()?;
        let row = state.tables.session_mut(session)?;
        if row.owner.is_some_and(|owner| owner > epoch) {
            return Err(StoreError::Fenced { session: session.clone() });
        }
        row.owner = Some(epoch);
        Ok(())
    }

    async fn doorbell(&self, session: &SessionId) -> Result<Doorbell, StoreError> {
        let mut state = self.open()?;
        state.tables.session(session)?;
        Ok(state.logs.entry(session.clone()).or_default().bell.subscribe())
    }

    async fn events(&self, session: &SessionId, from: u64, limit: usize) -> Result<Vec<Event>, StoreError> {
        let state = self.open()?;
        let Some(log) = state.logs.get(session) else { return Ok(Vec::new()) };
        let from = usize::try_from(from).unwrap_or(usize::MAX).min(log.events.len());
        let mut bytes = 0;
        let page = log.events[from..].iter().take(limit).enumerate().take_while(|(position, event)| {
            bytes += serde_json::to_vec(&event.body).map_or(0, |json| json.len());
            *position == 0 || bytes <= PAGE_BYTES
        });
        Ok(page.map(|(_, event)| event.clone()).collect())
    }

    async fn session(&self, id: &SessionId) -> Result<Option<SessionRecord>, StoreError> {
        Ok(self.open()?.tables.sessions.get(id).map(|row| row.record.clone()))
    }

    async fn sessions(&self, filter: SessionFilter) -> Result<Vec<SessionRecord>, StoreError> {
        let state = self.open()?;
        let before = match &filter.before {
            // As in a database: nothing is older than a session that does not exist.
            Some(id) => state.tables.sessions.get(id).map_or(0, |row| row.order),
            None => u64::MAX,
        };
        let mut rows: Vec<&SessionRow> = state
            .tables
            .sessions
            .values()
            .filter(|row| row.order < before)
            .filter(|row| {
                filter.projects.as_ref().is_none_or(|projects| projects.contains(&row.record.project))
            })
            .filter(|row| filter.tree.as_ref().is_none_or(|tree| row.record.tree == *tree))
            .filter(|row| filter.status.is_none_or(|status| row.record.core.state.status() == status))
            .collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.order));
        Ok(rows.into_iter().take(filter.limit).map(|row| row.record.clone()).collect())
    }

    async fn active_sessions(&self) -> Result<u64, StoreError> {
        let state = self.open()?;
        let active = state.tables.sessions.values().filter(|row| !row.record.core.state.is_over()).count();
        Ok(u64::try_from(active).unwrap_or(u64::MAX))
    }

    async fn active_by_project(&self) -> Result<Vec<(ProjectId, u64)>, StoreError> {
        let state = self.open()?;
        let active = |project: ProjectId| {
            let mut sessions = state.tables.sessions.values().map(|row| &row.record);
            sessions
                .by_ref()
                .filter(|session| session.project == project && !session.core.state.is_over())
                .count()
        };
        let projects = state.tables.projects.iter().map(|project| project.id);
        Ok(projects.map(|id| (id, u64::try_from(active(id)).unwrap_or(u64::MAX))).collect())
    }

    async fn driver(&self, session: &SessionId) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.open()?.tables.drivers.get(session).cloned())
    }

    async fn turn(&self, session: &SessionId, number: TurnNumber) -> Result<Option<TurnRecord>, StoreError> {
        Ok(self.open()?.tables.turns.get(&(session.clone(), number)).cloned())
    }

    async fn turns(&self, session: &SessionId) -> Result<Vec<TurnRecord>, StoreError> {
        let state = self.open()?;
        Ok(state.tables.turns.values().filter(|turn| turn.session == *session).cloned().collect())
    }

    async fn project(&self, id: ProjectId) -> Result<Option<ProjectRecord>, StoreError> {
        Ok(self.open()?.tables.projects.iter().find(|project| project.id == id).cloned())
    }

    async fn projects(&self) -> Result<Vec<ProjectRecord>, StoreError> {
        Ok(self.open()?.tables.projects.iter().rev().cloned().collect())
    }

    async fn workspace(&self, id: WorkspaceId) -> Result<Option<WorkspaceRecord>, StoreError> {
        Ok(self.open()?.tables.workspaces.iter().find(|workspace| workspace.id == id).cloned())
    }

    async fn workspaces(&self, project: ProjectId) -> Result<Vec<WorkspaceRecord>, StoreError> {
        let state = self.open()?;
        Ok(state.tables.workspaces.iter().rev().filter(|w| w.project == project).cloned().collect())
    }

    async fn ledger(&self, tree: &TreeId) -> Result<Option<Ledger>, StoreError> {
        Ok(self.open()?.tables.trees.get(tree).copied())
    }

    async fn open_charges(&self) -> Result<Vec<OpenCharge>, StoreError> {
        Ok(self.open()?.tables.charges.clone())
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.open()?.fail_if_asked()
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.lock().closed = true;
        Ok(())
    }
}

// === impl Log ===

impl Default for Log {
    fn default() -> Self {
        Self { events: Vec::new(), bell: watch::Sender::new(0) }
    }
}

impl Log {
    fn append(&mut self, bodies: Vec<EventBody>, at: Timestamp) -> u64 {
        let first = self.next();
        for (index, body) in (first..).zip(bodies) {
            self.events.push(Event { index, at, body });
        }
        let next = self.next();
        self.bell.send_replace(next);
        first
    }

    fn next(&self) -> u64 {
        u64::try_from(self.events.len()).unwrap_or(u64::MAX)
    }
}

// === impl Tables ===

impl Tables {
    fn apply(
        &mut self,
        write: Write,
        fence: Option<Epoch>,
        at: Timestamp,
    ) -> Result<Option<(SessionId, Vec<EventBody>)>, StoreError> {
        match write {
            Write::Append { session, events } => {
                self.owned(&session, fence)?;
                return Ok(Some((session, events)));
            }
            Write::PutSession(record) => self.put_session(*record, fence, at)?,
            Write::PutTurn(turn) => {
                self.owned(&turn.session, fence)?;
                self.turns.insert((turn.session.clone(), turn.number), turn);
            }
            Write::PutDriver { session, state } => {
                self.owned(&session, fence)?;
                self.drivers.insert(session, state);
            }
            Write::PutProject(project) => self.put_project(project),
            Write::DeleteProject(id) => self.delete_project(id),
            Write::PutWorkspace(workspace) => {
                self.need_project(workspace.project)?;
                replace(&mut self.workspaces, workspace, |w| w.id);
            }
            Write::DeleteWorkspace(id) => self.workspaces.retain(|workspace| workspace.id != id),
            Write::PutTree { tree, limits } => {
                let new = Ledger { began_at: Some(at), ..Ledger::default() };
                self.trees.entry(tree).or_insert(new).limits = limits;
            }
            Write::Reserve { charge, tree, session, amount } => {
                self.owned(&session, fence)?;
                let ledger = self.trees.get_mut(&tree).ok_or_else(|| missing("tree", &tree))?;
                *ledger = ledger.reserve(amount, at).map_err(StoreError::OverLimit)?;
                self.charges.push(OpenCharge { charge, tree, session, amount });
            }
            Write::Settle { charge, used } => self.settle(charge, used),
        }
        Ok(None)
    }

    fn session(&self, id: &SessionId) -> Result<&SessionRow, StoreError> {
        self.sessions.get(id).ok_or_else(|| missing("session", id))
    }

    fn session_mut(&mut self, id: &SessionId) -> Result<&mut SessionRow, StoreError> {
        self.sessions.get_mut(id).ok_or_else(|| missing("session", id))
    }

    fn owned(&self, id: &SessionId, fence: Option<Epoch>) -> Result<(), StoreError> {
        if self.session(id)?.owner == fence {
            return Ok(());
        }
        Err(StoreError::Fenced { session: id.clone() })
    }

    fn need_project(&self, id: ProjectId) -> Result<(), StoreError> {
        let exists = self.projects.iter().any(|project| project.id == id);
        if exists { Ok(()) } else { Err(missing("project", id)) }
    }

    fn put_session(
        &mut self,
        record: SessionRecord,
        fence: Option<Epoch>,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        if self.sessions.contains_key(&record.id) {
            self.owned(&record.id, fence)?;
            let row = self.session_mut(&record.id)?;
            row.record = record;
            return Ok(());
        }
        self.need_project(record.project)?;
        if !self.workspaces.iter().any(|workspace| workspace.id == record.workspace) {
            return Err(missing("workspace", record.workspace));
        }
        self.join(&record, at)?;
        self.last_session_order += 1;
        let row = SessionRow { order: self.last_session_order, owner: fence, record };
        self.sessions.insert(row.record.id.clone(), row);
        Ok(())
    }

    /// Lets a session into its tree, below its parent if it has one.
    fn join(&self, record: &SessionRecord, at: Timestamp) -> Result<(), StoreError> {
        let in_tree = || self.sessions.values().map(|row| &row.record).filter(|r| r.tree == record.tree);
        let mut depth = 0;
        let mut above = record.parent.as_ref();
        while let Some(id) = above {
            let parent = in_tree().find(|row| row.id == *id).ok_or_else(|| missing("session", id))?;
            if depth == 0 && parent.core.state.takes_no_children() {
                return Err(StoreError::ParentOver { parent: id.clone() });
            }
            depth += 1;
            above = parent.parent.as_ref();
        }
        let ledger = self.trees.get(&record.tree).ok_or_else(|| missing("tree", &record.tree))?;
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let agents = count(in_tree().count());
        let live = count(in_tree().filter(|row| !row.core.state.is_over()).count());
        ledger.join(Joining { depth, agents, live }, at).map_err(StoreError::OverLimit)
    }

    fn put_project(&mut self, mut project: ProjectRecord) {
        if let Some(known) = self.projects.iter().find(|known| known.id == project.id) {
            project.number = known.number;
        } else if project.number == 0 {
            project.number = self.last_project_number + 1;
        }
        self.last_project_number = self.last_project_number.max(project.number);
        replace(&mut self.projects, project, |p| p.id);
    }

    fn delete_project(&mut self, id: ProjectId) {
        self.projects.retain(|project| project.id != id);
        self.workspaces.retain(|workspace| workspace.project != id);
        self.sessions.retain(|_, row| row.record.project != id);
        let sessions = &self.sessions;
        self.turns.retain(|(session, _), _| sessions.contains_key(session));
        self.drivers.retain(|session, _| sessions.contains_key(session));
        let orphaned: Vec<ChargeId> = self
            .charges
            .iter()
            .filter(|open| !sessions.contains_key(&open.session))
            .map(|open| open.charge)
            .collect();
        for charge in orphaned {
            self.settle(charge, ob_core::ledger::Amount::default());
        }
    }

    fn settle(&mut self, charge: ChargeId, used: ob_core::ledger::Amount) {
        let Some(position) = self.charges.iter().position(|open| open.charge == charge) else { return };
        let open = self.charges.remove(position);
        if let Some(ledger) = self.trees.get_mut(&open.tree) {
            *ledger = ledger.settle(open.amount, used);
        }
    }
}

fn replace<T, K: PartialEq>(rows: &mut Vec<T>, row: T, key: impl Fn(&T) -> K) {
    match rows.iter_mut().find(|known| key(known) == key(&row)) {
        Some(known) => *known = row,
        None => rows.push(row),
    }
}

fn missing(kind: &'static str, id: impl std::fmt::Display) -> StoreError {
    StoreError::Missing { kind, id: id.to_string() }
}

#[cfg(test)]
#[path = "memory_store_tests.rs"]
mod tests;
