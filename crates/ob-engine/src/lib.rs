//! The live system: session actors, recovery, operations. Speaks no HTTP.
//!
//! [`Engine::call`] is the only way to do anything: it authorises, parses the parameters and performs. A session is
//! driven by one [`actor`]; what it must not forget is in the store before anyone sees it.

mod actor;
mod actors;
mod agents;
mod claims;
mod cleanup;
mod clock;
mod diff;
mod family;
mod files;
pub mod health;
mod leftovers;
mod live;
mod models;
mod operations;
mod recovery;
mod shared;
mod standing;
mod workspace;

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ob_component::Registry;
use ob_config::CleanupSettings;
use ob_config::LimitSettings;
use ob_config::SandboxSettings;
use ob_core::Home;
use ob_core::Refusal;
use ob_core::SessionId;
use ob_core::Timestamp;
use ob_crash::CrashPoint;
use ob_crash::reach;
use ob_gate::Gates;
use ob_store::SharedStore;
use ob_store::audit::SharedAudit;
use ob_store::tokens::SharedTokens;
use ob_telemetry::Metrics;
use tokio::sync::Semaphore;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use actor::Command;
use actors::Actors;
use claims::Claims;
use cleanup::Cleaning;
use live::Live;
use operations::FailedLogins;
use shared::Shared;
use standing::Standing;

pub use agents::Agents;
pub use cleanup::Cleaned;
pub use clock::Clock;
pub use clock::SharedClock;
pub use clock::SystemClock;
pub use files::Files;
pub use files::HostFiles;
pub use health::NotReady;
pub use leftovers::Found;
pub use live::Configuration;
pub use models::Catalogue;
pub use models::Demonstration;
pub use workspace::ClonePlan;
pub use workspace::Cloned;

/// The key under which the sandbox backend is registered, in the domain of adapters.
pub const SANDBOX: &str = "sandbox";
/// The first of the unprivileged host uids that a root server gives to projects: far above those of people, services
/// and containers.
pub const FIRST_HOST_UID: u32 = 1_900_000_000;
/// Letting go of all sessions takes no longer than this at a stop.
const PARK: Duration = Duration::from_secs(20);
/// Calls to models that a stop cut off are booked within this.
const SETTLE: Duration = Duration::from_secs(5);
/// Sessions that are taken over at once, so that their claims share transactions.
const TAKEOVERS: usize = 64;
/// Sandboxes that are being made at once: more of them only wait for each other's processors.
const STARTS: usize = 8;
/// Sandboxes that make patches at once.
const DIFFS: usize = 4;

/// What an engine needs.
pub struct EngineOptions {
    /// Where things are.
    pub home: Home,
    /// How sandboxes are.
    pub sandbox: SandboxSettings,
    /// What one tree may be and spend, where the project says nothing.
    pub limits: LimitSettings,
    /// What nobody needs any more.
    pub cleanup: CleanupSettings,
    /// Durable state.
    pub store: SharedStore,
    /// The home's files.
    pub files: Arc<dyn Files>,
    /// Tokens.
    pub tokens: SharedTokens,
    /// The audit.
    pub audit: SharedAudit,
    /// Components; the sandbox backend is registered there.
    pub registry: Registry,
    /// The ways out of sandboxes.
    pub gates: Gates,
    /// Models.
    pub catalogue: Catalogue,
    /// Agents.
    pub agents: Agents,
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

/// What an engine holds in memory for what it does. It is back at nothing when nothing is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Sessions that are driven.
    pub actors: usize,
    /// Projects and workspaces that operations use or delete.
    pub claims: usize,
    /// Workspaces that are being prepared.
    pub preparing: usize,
}

/// The live system. Shared by all doors.
pub struct Engine {
    shared: Arc<Shared>,
    actors: Arc<Actors>,
    claims: Claims,
    /// Spawns that may go on in a session of a workspace, by the workspace: one at a time.
    starts: Claims,
    standing: Standing,
    failed_logins: FailedLogins,
    tracker: TaskTracker,
    draining: AtomicBool,
    stop: watch::Sender<Option<bool>>,
    configuration: OnceLock<Arc<dyn Configuration>>,
    addresses: Vec<String>,
    version: String,
    started_at: Timestamp,
    asked_ready: health::Asked,
    cleaning: Cleaning,
}

// === impl Engine ===

impl Engine {
    /// Takes over the state: becomes its owner. What a crash left open is booked, and the sessions that were live are
    /// found and resume, in the background.
    pub async fn start(options: EngineOptions) -> Result<Arc<Self>, Refusal> {
        let refuse = |error: ob_store::StoreError| error.refusal();
        let epoch = options.store.new_epoch().await.map_err(refuse)?;
        reach(CrashPoint::EpochTaken);
        // Looked at before anything is made: what is there now and belongs to nobody never will.
        let known = options.files.look(&options.home).await;
        let started_at = options.clock.now();
        let tracker = TaskTracker::new();
        let shared = Arc::new(Shared {
            home: options.home,
            sandbox: Live::new(options.sandbox),
            limits: Live::new(options.limits),
            cleanup: Live::new(options.cleanup),
            store: options.store,
            files: options.files,
            tokens: options.tokens,
            audit: options.audit,
            registry: options.registry,
            gates: options.gates,
            catalogue: options.catalogue,
            agents: options.agents,
            clock: options.clock,
            is_root: options.is_root,
            uid: options.uid,
            epoch,
            superseded: CancellationToken::new(),
            preparing: Mutex::default(),
            takeovers: Arc::new(Semaphore::new(TAKEOVERS)),
            starts: Arc::new(Semaphore::new(STARTS)),
            patches: Arc::new(Semaphore::new(DIFFS)),
            diffs: AtomicU64::new(0),
            sandboxes: AtomicU64::new(0),
            tracker: tracker.clone(),
            metrics: options.metrics,
        });
        let engine = Arc::new(Self {
            shared,
            actors: Arc::default(),
            claims: Claims::default(),
            starts: Claims::default(),
            standing: Standing::default(),
            failed_logins: FailedLogins::default(),
            tracker,
            draining: AtomicBool::new(false),
            stop: watch::Sender::new(None),
            configuration: OnceLock::new(),
            addresses: options.addresses,
            version: options.version,
            started_at,
            asked_ready: health::Asked::default(),
            cleaning: Cleaning::default(),
        });
        // Read before any gate is open: what is open later is ours.
        let cut = engine.shared.store.open_charges().await.map_err(refuse)?;
        // Nobody waits for it, and a stop waits for it.
        let recovering = Arc::clone(&engine);
        engine.tracker.spawn(async move { recovering.recover(cut, known).await });
        Ok(engine)
    }

    /// The actor of a session that is not over; if there is none, one takes the session over.
    pub(crate) fn actor(&self, session: &SessionId) -> Result<mpsc::Sender<Command>, Refusal> {
        self.actors.actor(&self.shared, session)
    }

    /// What is held right now for sessions that are driven and operations that are under way.
    pub fn held(&self) -> Held {
        let preparing = self.shared.preparing.lock().expect("no one panics with it");
        Held {
            actors: self.actors.count(),
            claims: self.claims.count(),
            preparing: preparing.values().filter(|turn| turn.strong_count() > 0).count(),
        }
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

    /// Resolves when it turned out that a later server has taken this one's place. What is left to do is to go, and to leave
    /// everything as it is.
    pub async fn superseded(&self) {
        self.shared.superseded.cancelled().await;
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
        let actors = self.actors.close();
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
        reach(CrashPoint::Parked);
        if let Err(error) = self.shared.store.close().await {
            tracing::error!(%error, "the store did not close cleanly");
        }
    }
}
