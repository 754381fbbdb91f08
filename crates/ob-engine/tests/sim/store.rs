//! The store as one server has it: the disk that all share, with slow commits, late answers, and an end that may come in
//! the middle of each.

use std::sync::Arc;
use std::time::Duration;

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
use ob_store::Commit;
use ob_store::Committed;
use ob_store::Doorbell;
use ob_store::Epoch;
use ob_store::OpenCharge;
use ob_store::SessionFilter;
use ob_store::Store;
use ob_store::StoreError;
use ob_store::Write;
use ob_testkit::MemoryStore;

use crate::world::Dead;
use crate::world::Life;
use crate::world::World;
use crate::world::hash;

/// See the module.
pub(crate) struct SimStore {
    life: Arc<Life>,
}

// === impl SimStore ===

impl SimStore {
    pub(crate) fn new(life: Arc<Life>) -> Self {
        Self { life }
    }

    fn world(&self) -> &World {
        &self.life.world
    }

    /// The disk, when this server may read it.
    async fn disk(&self) -> Result<&MemoryStore, StoreError> {
        let world = self.world();
        world.hesitate().await;
        self.life.pass().await?;
        if self.life.is_closed() {
            return Err(StoreError::Closed);
        }
        Ok(&world.disk)
    }

    /// How long the disk takes before a commit is durable, and the answer after it.
    fn delays(&self) -> (Duration, Duration) {
        let (chance, weather) = (&self.world().chance, &self.world().weather);
        let most = if weather.is(&weather.slow_disk) { 1000 } else { 6 };
        (chance.millis(0..=most), if chance.one_in(3) { chance.millis(0..=most) } else { Duration::ZERO })
    }

    fn fault(&self) -> Option<StoreError> {
        let (chance, weather) = (&self.world().chance, &self.world().weather);
        if weather.is(&weather.full_disk) {
            return Some(StoreError::Full);
        }
        (weather.is(&weather.bad_disk) && chance.one_in(4))
            .then(|| StoreError::Engine { message: "the disk is bad".to_owned() })
    }

    /// What would be wrong with this commit, should it become durable.
    async fn faults_of(&self, commit: &Commit) -> Vec<String> {
        let mut faults = Vec::new();
        let disk = &self.world().disk;
        for write in &commit.writes {
            let session = match write {
                Write::Append { session, .. }
                | Write::PutDriver { session, .. }
                | Write::Reserve { session, .. } => session,
                Write::PutSession(record) => &record.id,
                Write::PutTurn(turn) => &turn.session,
                _ => continue,
            };
            if let Some(owner) = disk.owner(session)
                && Some(owner) != commit.fence
            {
                faults.push(format!(
                    "one_owner: {session} is of {owner:?} and was written by {:?}",
                    commit.fence
                ));
            }
            if let Write::PutSession(record) = write
                && let Ok(Some(before)) = disk.session(session).await
                && before.core.state.is_over()
                && before.core != record.core
            {
                faults.push(format!("{session} was over and became {}", record.core.state.as_str()));
            }
            if let Write::PutTurn(turn) = write
                && let Ok(Some(before)) = disk.turn(session, turn.number).await
                && before.state.is_over()
                && before.state != turn.state
            {
                faults
                    .push(format!("turn {} of {session} was over and became {:?}", turn.number, turn.state));
            }
        }
        faults
    }

    async fn check_limits(&self, commit: &Commit) {
        for write in &commit.writes {
            let Write::Reserve { tree, .. } = write else { continue };
            let Ok(Some(ledger)) = self.world().disk.ledger(tree).await else { continue };
            let spent = ledger.used.cost.plus(ledger.reserved.cost);
            if ledger.limits.max_cost.is_some_and(|most| spent > most) {
                self.world()
                    .wrong(&format!("limits_hold: {tree} has {spent} of {:?}", ledger.limits.max_cost));
            }
        }
    }
}

#[async_trait]
impl Store for SimStore {
    async fn commit(&self, commit: Commit) -> Result<Committed, StoreError> {
        let disk = self.disk().await?;
        let (before, after) = self.delays();
        self.life.pause(before).await?;
        if let Some(fault) = self.fault() {
            self.world().note(&format!("refuse {} {}: {fault}", self.life.number, summary(&commit)));
            return Err(fault);
        }
        let faults = self.faults_of(&commit).await;
        let copy = commit.clone();
        let said = disk.commit(commit).await;
        let outcome = match &said {
            Ok(done) => format!("at {:?}", done.first_index),
            Err(error) => format!("refused: {error}"),
        };
        self.world().note(&format!("commit {} {} {outcome}", self.life.number, summary(&copy)));
        if said.is_ok() {
            faults.iter().for_each(|fault| self.world().wrong(fault));
            self.check_limits(&copy).await;
        }
        self.life.pause(after).await?;
        said
    }

    async fn new_epoch(&self) -> Result<Epoch, StoreError> {
        let disk = self.disk().await?;
        if let Some(fault) = self.fault() {
            return Err(fault);
        }
        let epoch = disk.new_epoch().await?;
        self.life.begin_epoch(epoch.0);
        self.world().note(&format!("epoch {} {}", self.life.number, epoch.0));
        Ok(epoch)
    }

    async fn claim(&self, session: &SessionId, epoch: Epoch) -> Result<(), StoreError> {
        let disk = self.disk().await?;
        let (before, after) = self.delays();
        self.life.pause(before).await?;
        if let Some(fault) = self.fault() {
            return Err(fault);
        }
        let claimed = disk.claim(session, epoch).await;
        self.world().note(&format!("claim {} {session} {}", self.life.number, claimed.is_ok()));
        self.life.pause(after).await?;
        claimed
    }

    async fn doorbell(&self, session: &SessionId) -> Result<Doorbell, StoreError> {
        self.disk().await?.doorbell(session).await
    }

    async fn events(&self, session: &SessionId, from: u64, limit: usize) -> Result<Vec<Event>, StoreError> {
        // Pages of any size: a reader must not care.
        let limit = if self.world().chance.one_in(2) { limit.min(3) } else { limit };
        self.disk().await?.events(session, from, limit).await
    }

    async fn session(&self, id: &SessionId) -> Result<Option<SessionRecord>, StoreError> {
        self.disk().await?.session(id).await
    }

    async fn sessions(&self, filter: SessionFilter) -> Result<Vec<SessionRecord>, StoreError> {
        self.disk().await?.sessions(filter).await
    }

    async fn active_sessions(&self) -> Result<u64, StoreError> {
        self.disk().await?.active_sessions().await
    }

    async fn active_by_project(&self) -> Result<Vec<(ProjectId, u64)>, StoreError> {
        self.disk().await?.active_by_project().await
    }

    async fn driver(&self, session: &SessionId) -> Result<Option<Vec<u8>>, StoreError> {
        self.disk().await?.driver(session).await
    }

    async fn turn(&self, session: &SessionId, number: TurnNumber) -> Result<Option<TurnRecord>, StoreError> {
        self.disk().await?.turn(session, number).await
    }

    async fn turns(&self, session: &SessionId) -> Result<Vec<TurnRecord>, StoreError> {
        self.disk().await?.turns(session).await
    }

    async fn project(&self, id: ProjectId) -> Result<Option<ProjectRecord>, StoreError> {
        self.disk().await?.project(id).await
    }

    async fn projects(&self) -> Result<Vec<ProjectRecord>, StoreError> {
        self.disk().await?.projects().await
    }

    async fn workspace(&self, id: WorkspaceId) -> Result<Option<WorkspaceRecord>, StoreError> {
        self.disk().await?.workspace(id).await
    }

    async fn workspaces(&self, project: ProjectId) -> Result<Vec<WorkspaceRecord>, StoreError> {
        self.disk().await?.workspaces(project).await
    }

    async fn ledger(&self, tree: &TreeId) -> Result<Option<Ledger>, StoreError> {
        self.disk().await?.ledger(tree).await
    }

    async fn open_charges(&self) -> Result<Vec<OpenCharge>, StoreError> {
        self.disk().await?.open_charges().await
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.disk().await.map(drop)
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.life.pass().await?;
        self.life.close();
        Ok(())
    }
}

impl From<Dead> for StoreError {
    fn from(_: Dead) -> Self {
        Self::Closed
    }
}

/// A commit in one line; the number at its end stands for all of it.
fn summary(commit: &Commit) -> String {
    let mut session = None;
    let mut parts = Vec::new();
    for write in &commit.writes {
        match write {
            Write::Append { session: of, events } => {
                session = Some(of.clone());
                let kinds: Vec<String> = events.iter().map(|event| format!("{:?}", event.kind)).collect();
                parts.push(format!("+{}", kinds.join("+")));
            }
            Write::PutSession(record) => {
                session = Some(record.id.clone());
                parts.push(record.core.state.as_str().to_owned());
            }
            Write::PutTurn(turn) => parts.push(format!("turn{}={:?}", turn.number, turn.state)),
            Write::PutDriver { session: of, .. } => {
                session = Some(of.clone());
                parts.push("driver".to_owned());
            }
            Write::Reserve { session: of, .. } => {
                session = Some(of.clone());
                parts.push("reserve".to_owned());
            }
            Write::Settle { .. } => parts.push("settle".to_owned()),
            Write::PutProject(_) => parts.push("project".to_owned()),
            Write::DeleteProject(_) => parts.push("-project".to_owned()),
            Write::PutWorkspace(_) => parts.push("workspace".to_owned()),
            Write::DeleteWorkspace(_) => parts.push("-workspace".to_owned()),
            Write::PutTree { .. } => parts.push("tree".to_owned()),
        }
    }
    let session = session.map_or_else(String::new, |session| session.suffix().to_owned());
    format!("{session} {} #{:08x}", parts.join(" "), hash(0, format!("{commit:?}").as_bytes()) as u32)
}
