//! The live system: session actors, recovery, operations. Speaks no HTTP.
//!
//! [`Engine::call`] is the only way to do anything: it authorises, parses the parameters and performs. A session is
//! driven by one [`actor`]; what it must not forget is in the store before anyone sees it.

mod actor;
mod claims;
mod clock;
mod diff;
pub mod health;
mod leftovers;
mod models;
mod operations;
mod workspace;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::Weak;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use ob_component::Domain;
use ob_component::Permit;
use ob_component::Registry;
use ob_config::SandboxSettings;
use ob_core::EventBody;
use ob_core::EventKind;
use ob_core::Home;
use ob_core::ProjectId;
use ob_core::Refusal;
use ob_core::SessionId;
use ob_core::Timestamp;
use ob_core::WorkspaceId;
use ob_core::event::Usage;
use ob_core::ledger::MicroUsd;
use ob_core::record::ProjectRecord;
use ob_core::record::SessionRecord;
use ob_core::record::TurnRecord;
use ob_core::record::WorkspaceKind;
use ob_core::record::WorkspaceRecord;
use ob_core::session::SessionStatus;
use ob_gate::GateSession;
use ob_gate::Gates;
use ob_gate::OpenGate;
use ob_sandbox::Backend;
use ob_sandbox::Limits;
use ob_sandbox::SandboxSpec;
use ob_sandbox::WorkspaceMount;
use ob_sandbox::link::Guest;
use ob_store::Commit;
use ob_store::Epoch;
use ob_store::OpenCharge;
use ob_store::SessionFilter;
use ob_store::SharedStore;
use ob_store::StoreError;
use ob_store::Write;
use ob_store::tokens::SharedTokens;
use ob_telemetry::Metrics;
use tokio::sync::Semaphore;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

pub use clock::Clock;
pub use clock::SharedClock;
pub use clock::SystemClock;
pub use health::Gauges;
pub use health::NotReady;
pub use models::Catalogue;
pub use models::Demonstration;

use actor::Actor;
use actor::Begin;
use actor::Command;
use claims::Claims;

/// The key under which the sandbox backend is registered, in the domain of adapters.
pub const SANDBOX: &str = "sandbox";
/// The first of the unprivileged host uids that a root server gives to projects: far above those of people, services
/// and containers.
pub const FIRST_HOST_UID: u32 = 1_900_000_000;
/// Where programs are inside, behind the toolchains'.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Letting go of all sessions takes no longer than this at a stop.
const PARK: Duration = Duration::from_secs(20);
/// Calls to models that a stop cut off are booked within this.
const SETTLE: Duration = Duration::from_secs(5);
/// Sandboxes that are being made at once: more of them only wait for each other's processors.
const STARTS: usize = 8;
/// Sandboxes that make patches at once.
const DIFFS: usize = 4;
/// Sessions that are taken over at once, so that their claims share transactions.
const RECOVERIES: usize = 64;

/// What an engine needs.
pub struct EngineOptions {
    /// Where things are.
    pub home: Home,
    /// How sandboxes are.
    pub sandbox: SandboxSettings,
    /// The most that one tree may spend, where the project says nothing.
    pub max_cost: MicroUsd,
    /// Durable state.
    pub store: SharedStore,
    /// Tokens.
    pub tokens: SharedTokens,
    /// Components; the sandbox backend is registered there.
    pub registry: Registry,
    /// The ways out of sandboxes.
    pub gates: Gates,
    /// Models.
    pub catalogue: Catalogue,
    /// Time and randomness.
    pub clock: SharedClock,
    /// True if the server runs as root, and gives each project a host uid of its own.
    pub is_root: bool,
    /// Our own uid.
    pub uid: u32,
    /// The addresses that the server listens on, for its status.
    pub addresses: Vec<String>,
    /// The program's version, for its status.
    pub version: String,
    /// Where internal events are counted.
    pub metrics: Metrics,
}

/// The live system. Shared by all doors.
pub struct Engine {
    shared: Arc<Shared>,
    actors: Mutex<Actors>,
    claims: Claims,
    tracker: TaskTracker,
    draining: AtomicBool,
    stop: watch::Sender<Option<bool>>,
    addresses: Vec<String>,
    version: String,
    started_at: Timestamp,
    asked_ready: health::Asked,
}

/// The sessions that are driven.
#[derive(Default)]
struct Actors {
    by_session: HashMap<SessionId, mpsc::Sender<Command>>,
    /// No session is driven any more.
    closed: bool,
}

/// What actors and operations share.
pub(crate) struct Shared {
    pub(crate) home: Home,
    sandbox: SandboxSettings,
    max_cost: MicroUsd,
    pub(crate) store: SharedStore,
    tokens: SharedTokens,
    registry: Registry,
    gates: Gates,
    pub(crate) catalogue: Catalogue,
    clock: SharedClock,
    is_root: bool,
    uid: u32,
    pub(crate) epoch: Epoch,
    /// One turn for each workspace that is being prepared.
    preparing: Mutex<HashMap<WorkspaceId, Weak<tokio::sync::Mutex<()>>>>,
    /// Turns to make a sandbox.
    pub(crate) starts: Arc<Semaphore>,
    /// Turns to make a patch.
    pub(crate) patches: Arc<Semaphore>,
    diffs: AtomicU64,
    /// Sessions whose sandbox runs.
    pub(crate) sandboxes: AtomicU64,
    pub(crate) metrics: Metrics,
}

// === impl Engine ===

impl Engine {
    /// Takes over the state: becomes its owner, books what a crash left open, and finds the sessions that were live.
    /// They resume by themselves.
    pub async fn start(options: EngineOptions) -> Result<Arc<Self>, Refusal> {
        let refuse = |error: ob_store::StoreError| error.refusal();
        let epoch = options.store.new_epoch().await.map_err(refuse)?;
        // Looked at before anything is made: what is there now and belongs to nobody never will.
        let known = leftovers::look(&options.home).await;
        let started_at = options.clock.now();
        let shared = Arc::new(Shared {
            home: options.home,
            sandbox: options.sandbox,
            max_cost: options.max_cost,
            store: options.store,
            tokens: options.tokens,
            registry: options.registry,
            gates: options.gates,
            catalogue: options.catalogue,
            clock: options.clock,
            is_root: options.is_root,
            uid: options.uid,
            epoch,
            preparing: Mutex::default(),
            starts: Arc::new(Semaphore::new(STARTS)),
            patches: Arc::new(Semaphore::new(DIFFS)),
            diffs: AtomicU64::new(0),
            sandboxes: AtomicU64::new(0),
            metrics: options.metrics,
        });
        let engine = Arc::new(Self {
            shared,
            actors: Mutex::default(),
            claims: Claims::default(),
            tracker: TaskTracker::new(),
            draining: AtomicBool::new(false),
            stop: watch::Sender::new(None),
            addresses: options.addresses,
            version: options.version,
            started_at,
            asked_ready: health::Asked::default(),
        });
        engine.settle_orphans().await?;
        engine.recover().await?;
        // Nobody waits for it, and a stop waits for it.
        let shared = Arc::clone(&engine.shared);
        let claims = engine.claims.clone();
        engine.tracker.spawn(async move { leftovers::remove(&shared, &claims, &known).await });
        Ok(engine)
    }

    /// Calls to a model that a crash cut off: the provider may have answered, so what was reserved counts as spent. What
    /// cannot be booked now stays reserved until the next start.
    async fn settle_orphans(&self) -> Result<(), Refusal> {
        for open in self.shared.store.open_charges().await.map_err(|error| error.refusal())? {
            match self.settle_orphan(&open).await {
                Ok(()) => {
                    tracing::warn!(session = %open.session, cost = %open.amount.cost, "a model call was cut off; its reservation counts as spent");
                }
                Err(error) => tracing::error!(session = %open.session, %error, "a model call was not booked"),
            }
        }
        Ok(())
    }

    async fn settle_orphan(&self, open: &OpenCharge) -> Result<(), StoreError> {
        let Shared { store, epoch, .. } = &*self.shared;
        let settle = Write::Settle { charge: open.charge, used: open.amount };
        let Some(record) = store.session(&open.session).await? else {
            return store.commit(Commit { writes: vec![settle], fence: None }).await.map(drop);
        };
        // Ours from now on, so that an earlier server which still runs cannot book it as well.
        store.claim(&open.session, *epoch).await?;
        let mut event = EventBody::new(EventKind::Usage)
            .data(serde_json::json!({ "charge": open.charge, "cut": true, "reserved": true }));
        event.turn = record.core.active;
        event.usage = Some(Usage {
            // Only the sum was reserved.
            input_tokens: open.amount.tokens,
            cost: open.amount.cost,
            model: record.model.model,
            estimated: true,
            ..Usage::default()
        });
        let append = Write::Append { session: open.session.clone(), events: vec![event] };
        store.commit(Commit { writes: vec![settle, append], fence: Some(*epoch) }).await.map(drop)
    }

    async fn recover(self: &Arc<Self>) -> Result<(), Refusal> {
        let mut before = None;
        loop {
            let filter = SessionFilter {
                projects: None,
                status: Some(SessionStatus::Active),
                before: before.clone(),
                limit: 500,
            };
            let page = self.shared.store.sessions(filter).await.map_err(|error| error.refusal())?;
            let Some(last) = page.last() else { return Ok(()) };
            before = Some(last.id.clone());
            let taken = stream::iter(page)
                .map(|record| async move { (record.id.clone(), self.take_over(record).await) })
                .buffer_unordered(RECOVERIES)
                .collect::<Vec<_>>()
                .await;
            for (session, taken) in taken {
                // One that cannot be taken over must not keep the others from being.
                if let Err(error) = taken {
                    tracing::error!(%session, %error, "a session was not taken over");
                }
            }
        }
    }

    async fn take_over(self: &Arc<Self>, record: SessionRecord) -> Result<(), StoreError> {
        let store = &self.shared.store;
        store.claim(&record.id, self.shared.epoch).await?;
        // As its owner left it: until it was ours, it may have changed.
        let Some(record) = store.session(&record.id).await?.filter(|record| !record.core.state.is_over())
        else {
            return Ok(());
        };
        let turns = store.turns(&record.id).await?;
        tracing::info!(session = %record.id, state = record.core.state.as_str(), "session found");
        self.spawn_actor(record, turns, Begin::Recover);
        Ok(())
    }

    /// Starts the actor of a session. Once the server lets go of its sessions, the next one does.
    fn spawn_actor(self: &Arc<Self>, record: SessionRecord, turns: Vec<TurnRecord>, begin: Begin) {
        let id = record.id.clone();
        let (actor, commands) = Actor::new(Arc::clone(&self.shared), record, turns);
        {
            let mut actors = self.actors();
            if actors.closed {
                return;
            }
            actors.by_session.insert(id.clone(), commands);
        }
        let listed = Listed { engine: Arc::downgrade(self), session: id };
        self.tracker.spawn(async move {
            // Also after a panic.
            let _listed = listed;
            actor.run(begin).await;
        });
    }

    fn actors(&self) -> MutexGuard<'_, Actors> {
        self.actors.lock().expect("no one panics with it")
    }

    fn actor(&self, session: &SessionId) -> Option<mpsc::Sender<Command>> {
        self.actors().by_session.get(session).cloned()
    }

    /// Ready, or why not.
    pub fn ready(&self) -> Result<(), String> {
        if self.draining.load(Ordering::Relaxed) { Err("the server is stopping".to_owned()) } else { Ok(()) }
    }

    /// Resolves when an operation asked the server to stop; true if sandboxes shall stay.
    pub async fn stop_requested(&self) -> bool {
        let mut asked = self.stop.subscribe();
        let keep = asked.wait_for(Option::is_some).await.ok().and_then(|keep| *keep);
        keep.unwrap_or(false)
    }

    /// Takes no more work, ends (or keeps) sandboxes, books what models did, flushes and closes the store.
    pub async fn shutdown(&self, keep_sandboxes: bool) {
        self.draining.store(true, Ordering::Relaxed);
        // Whoever follows a log has seen the last of it.
        self.stop.send_if_modified(|asked| {
            let first = asked.is_none();
            asked.get_or_insert(keep_sandboxes);
            first
        });
        let actors: Vec<_> = {
            let mut actors = self.actors();
            actors.closed = true;
            actors.by_session.values().cloned().collect()
        };
        let parked = async {
            let parks = actors.into_iter().map(|actor| async move {
                let (reply, parked) = tokio::sync::oneshot::channel();
                if actor.send(Command::Park { keep_sandbox: keep_sandboxes, reply }).await.is_ok() {
                    parked.await.ok();
                }
            });
            futures_util::future::join_all(parks).await;
            self.tracker.close();
            self.tracker.wait().await;
        };
        if tokio::time::timeout(PARK, parked).await.is_err() {
            tracing::warn!("some sessions did not let go in time; they are found again at the next start");
        }
        // Closing a gate cuts its calls, and what they cost is booked behind our back.
        if tokio::time::timeout(SETTLE, self.shared.gates.settled()).await.is_err() {
            tracing::warn!("some model calls were not booked in time; the next start books them as reserved");
        }
        if let Err(error) = self.shared.store.close().await {
            tracing::error!(%error, "the store did not close cleanly");
        }
    }
}

/// A session among those that are driven, for as long as its actor runs.
struct Listed {
    engine: Weak<Engine>,
    session: SessionId,
}

// === impl Listed ===

impl Drop for Listed {
    fn drop(&mut self) {
        if let Some(engine) = self.engine.upgrade() {
            engine.actors().by_session.remove(&self.session);
        }
    }
}

// === impl Shared ===

impl Shared {
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The turn of whoever prepares this workspace.
    pub(crate) fn preparing(&self, workspace: WorkspaceId) -> Arc<tokio::sync::Mutex<()>> {
        let mut preparing = self.preparing.lock().expect("no one panics with it");
        preparing.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = preparing.get(&workspace).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        preparing.insert(workspace, Arc::downgrade(&turn));
        turn
    }

    /// Leave to use the sandbox backend.
    pub(crate) fn backend(&self) -> Result<Arc<Permit<dyn Backend>>, Refusal> {
        self.registry.permit::<dyn Backend>(Domain::Adapter, SANDBOX, self.now()).map(Arc::new)
    }

    pub(crate) async fn project(&self, id: ProjectId) -> Result<ProjectRecord, Refusal> {
        let found = self.store.project(id).await.map_err(|error| error.refusal())?;
        found.ok_or_else(|| Refusal::not_found("project", id).fix("list them with `oubliette project list`"))
    }

    /// The uid that a project's sandboxes run as.
    pub(crate) fn host_uid(&self, project: &ProjectRecord) -> u32 {
        if self.is_root { FIRST_HOST_UID + project.number } else { self.uid }
    }

    /// Who must own a project's files, if that is not us.
    pub(crate) fn owner_of(&self, project: &ProjectRecord) -> Option<u32> {
        self.is_root.then(|| self.host_uid(project))
    }

    /// The sandbox of a session.
    pub(crate) async fn sandbox_spec(
        &self,
        record: &SessionRecord,
        workspace: &WorkspaceRecord,
    ) -> Result<SandboxSpec, Refusal> {
        let project = self.project(record.project).await?;
        let runtime = self.home.sandbox_runtime(&record.id);
        let home = self.home.session_home(record.project, &record.id);
        self.make_home(&home, self.owner_of(&project)).await?;
        let mut spec = self.plain_spec(record.id.suffix().to_owned(), runtime, &project, workspace);
        spec.home = Some(home);
        spec.workspace.writable = true;
        Ok(spec)
    }

    /// A sandbox that may only look at the workspace and has a home in memory.
    pub(crate) fn plain_spec(
        &self,
        id: String,
        runtime: PathBuf,
        project: &ProjectRecord,
        workspace: &WorkspaceRecord,
    ) -> SandboxSpec {
        let mut env: Vec<(String, String)> =
            self.sandbox.env.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        env.extend(
            [
                ("GIT_AUTHOR_NAME", "agent"),
                ("GIT_AUTHOR_EMAIL", "agent@localhost"),
                ("GIT_COMMITTER_NAME", "agent"),
                ("GIT_COMMITTER_EMAIL", "agent@localhost"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
        );
        let front: String = self.sandbox.path.iter().map(|folder| format!("{}:", folder.display())).collect();
        env.push(("PATH".to_owned(), front + SYSTEM_PATH));
        SandboxSpec {
            id,
            gate_dir: runtime.join("gate"),
            runtime,
            workspace: WorkspaceMount {
                path: workspace.path.clone(),
                writable: false,
                in_place: workspace.kind == WorkspaceKind::InPlace,
            },
            home: None,
            read_only: self.sandbox.read_only.clone(),
            read_only_at: Vec::new(),
            env,
            host_uid: self.host_uid(project),
            limits: Limits {
                memory: self.sandbox.memory,
                pids: self.sandbox.pids,
                cpu_millis: self.sandbox.cpu_millis,
            },
            lease: self.sandbox.lease,
        }
    }

    pub(crate) async fn open_gate(
        &self,
        record: &SessionRecord,
        spec: &SandboxSpec,
        guest: Guest,
    ) -> Result<OpenGate, Refusal> {
        let session = GateSession {
            id: record.id.clone(),
            tree: record.tree.clone(),
            model: record.model.clone(),
            epoch: self.epoch,
            peer_uid: spec.host_uid,
        };
        self.gates.open(&spec.gate_dir, session, guest).await.map_err(|error| {
            Refusal::unavailable(format!("cannot open the gate in `{}`: {error}", spec.gate_dir.display()))
                .fix("check the space and the permissions of the runtime folder")
        })
    }

    async fn make_home(&self, home: &std::path::Path, owner: Option<u32>) -> Result<(), Refusal> {
        let path = home.to_owned();
        let made = tokio::task::spawn_blocking(move || -> std::io::Result<()> {
            use std::os::unix::fs::DirBuilderExt as _;
            if path.is_dir() {
                return Ok(());
            }
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
            match owner {
                Some(uid) => ob_sandbox::give_to(&path, uid),
                None => Ok(()),
            }
        })
        .await;
        made.map_err(|_| workspace::worker_failed())?.map_err(|error| {
            Refusal::unavailable(format!("cannot make `{}`: {error}", home.display()))
                .fix("check the space and the permissions of the home")
        })
    }
}
