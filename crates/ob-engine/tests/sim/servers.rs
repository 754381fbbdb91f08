//! Servers, one after the other and sometimes two at once: started, stopped, killed, frozen.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ob_component::Domain;
use ob_component::Registry;
use ob_config::AgentSettings;
use ob_config::CleanupSettings;
use ob_config::LimitSettings;
use ob_config::ModelAlias;
use ob_config::ModelSettings;
use ob_config::ProviderSettings;
use ob_config::SandboxSettings;
use ob_core::MicroUsd;
use ob_core::Refusal;
use ob_core::model::Price;
use ob_engine::Agents;
use ob_engine::Catalogue;
use ob_engine::Clock;
use ob_engine::Engine;
use ob_engine::EngineOptions;
use ob_gate::GateOptions;
use ob_gate::Gates;
use ob_gate::models::Models;
use ob_sandbox::Backend;
use ob_store::SharedStore;
use ob_telemetry::Metrics;
use ob_testkit::MemoryAudit;
use tokio::sync::watch;

use crate::machine::NoTokens;
use crate::machine::SimBackend;
use crate::machine::SimFiles;
use crate::net::SimOutside;
use crate::store::SimStore;
use crate::world::Life;
use crate::world::World;

/// A stop takes less than this: 20 s to let go of sessions and 5 s for the books, and the slowest of disks.
const STOP: Duration = Duration::from_secs(60);
/// A session that has nothing to do for so long falls asleep.
const IDLE: Duration = Duration::from_secs(10);
/// The uid of all sandboxes.
const UID: u32 = 1000;

/// A server that runs.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) life: Arc<Life>,
    pub(crate) engine: Arc<Engine>,
}

/// The servers that run; the newest is the last.
pub(crate) struct Servers {
    world: Arc<World>,
    running: watch::Sender<Vec<Server>>,
    /// The newest one took over from one that still ran. What that one accepted afterwards, the newest does not know of.
    overlaps: AtomicBool,
}

// === impl Server ===

impl Server {
    async fn start(life: &Arc<Life>) -> Result<Self, Refusal> {
        let world = &life.world;
        let registry = Registry::default();
        let backend: Arc<dyn Backend> = Arc::new(SimBackend(Arc::clone(life)));
        registry.register::<dyn Backend>(Domain::Adapter, ob_engine::SANDBOX, "simulation", backend);
        let store: SharedStore = Arc::new(SimStore::new(Arc::clone(life)));
        let (models, metrics) = (Arc::new(Models::new()), Metrics::new("simulation"));
        let outside = Arc::new(SimOutside::new(Arc::clone(life)));
        let gates = Gates::over(
            Arc::clone(&store),
            Arc::clone(&models),
            metrics.clone(),
            GateOptions::default(),
            outside,
        );
        let clock: Arc<dyn Clock> = Arc::<World>::clone(world);
        let engine = Engine::start(EngineOptions {
            home: world.home.clone(),
            sandbox: SandboxSettings {
                lease: Duration::from_secs(90),
                idle: IDLE,
                ..SandboxSettings::default()
            },
            limits: LimitSettings { max_cost: MicroUsd(2_000_000), ..LimitSettings::default() },
            cleanup: CleanupSettings::default(),
            store,
            files: Arc::new(SimFiles(Arc::clone(life))),
            tokens: Arc::new(NoTokens),
            audit: Arc::new(MemoryAudit::default()),
            registry,
            gates,
            catalogue: Catalogue::new(model_settings(), models, None),
            agents: Agents::new(AgentSettings::default()),
            clock,
            is_root: false,
            uid: UID,
            addresses: Vec::new(),
            version: "0.0.0".to_owned(),
            metrics,
        })
        .await?;
        Ok(Self { life: Arc::clone(life), engine })
    }
}

// === impl Servers ===

impl Servers {
    pub(crate) fn new(world: &Arc<World>) -> Self {
        Self {
            world: Arc::clone(world),
            running: watch::Sender::new(Vec::new()),
            overlaps: AtomicBool::new(false),
        }
    }

    /// A server to ask: mostly the newest.
    pub(crate) async fn any(&self) -> Server {
        let mut running = self.running.subscribe();
        let running = running.wait_for(|running| !running.is_empty()).await.expect("we are here").clone();
        let newest = running.last().expect("not empty").clone();
        if self.world.chance.one_in(5) { self.world.chance.pick(&running).clone() } else { newest }
    }

    pub(crate) fn newest(&self) -> Option<Server> {
        self.running.borrow().last().cloned()
    }

    pub(crate) fn oldest(&self) -> Option<Server> {
        self.running.borrow().first().cloned()
    }

    pub(crate) fn count(&self) -> usize {
        self.running.borrow().len()
    }

    /// Starts one, as often as that takes. It may be killed while it starts.
    pub(crate) async fn start(&self) {
        let (world, chance) = (&self.world, &self.world.chance);
        loop {
            let life = Life::new(world);
            self.overlaps.store(self.count() > 0, Ordering::Relaxed);
            world.note(&format!("server {}", life.number));
            let killed = async {
                if !world.is_calm() && chance.one_in(4) {
                    tokio::time::sleep(chance.millis(0..=700)).await;
                } else {
                    std::future::pending::<()>().await;
                }
            };
            let started = tokio::select! {
                biased;
                started = Server::start(&life) => started,
                () = killed => {
                    life.kill();
                    world.note(&format!("kill {} while it starts", life.number));
                    continue;
                }
            };
            match started {
                Ok(server) => {
                    world.note(&format!("ready {}", life.number));
                    self.running.send_modify(|running| running.push(server));
                    return;
                }
                Err(refusal) => {
                    world.note(&format!("unready {}: {refusal}", life.number));
                    life.kill();
                    tokio::time::sleep(chance.millis(100..=2000)).await;
                }
            }
        }
    }

    pub(crate) fn overlaps(&self) -> bool {
        self.overlaps.load(Ordering::Relaxed)
    }

    /// Nobody asks it any more.
    fn forget(&self, server: &Server) {
        self.running.send_modify(|running| running.retain(|known| known.life.number != server.life.number));
    }

    /// kill -9.
    pub(crate) fn kill(&self, server: Server) {
        self.world.note(&format!("kill {}", server.life.number));
        server.life.kill();
        self.forget(&server);
    }

    /// A stop as asked for, which in bad weather may be cut short.
    pub(crate) async fn stop(&self, server: Server, keep_sandboxes: bool) {
        let (world, number) = (&self.world, server.life.number);
        world.note(&format!("stop {number} {keep_sandboxes}"));
        let impatience =
            if !world.is_calm() && world.chance.one_in(4) { world.chance.millis(0..=3000) } else { STOP };
        let stopping = tokio::time::timeout(impatience, server.engine.shutdown(keep_sandboxes)).await;
        if stopping.is_err() && world.is_calm() {
            world.wrong(&format!("server {number} did not stop"));
        }
        world.note(&format!("stopped {number}"));
        server.life.kill();
        self.forget(&server);
    }
}

/// One model, of which a call costs some cents, so that limits are reached.
fn model_settings() -> ModelSettings {
    let provider = ProviderSettings {
        base_url: "http://model.sim/v1".to_owned(),
        wires: vec![ob_core::model::Wire::Chat],
        holds_calls: false,
        api_key: None,
        more_keys: Vec::new(),
        default_model: None,
    };
    let alias = ModelAlias {
        provider: "sim".to_owned(),
        model: "dear".to_owned(),
        base_url: None,
        api_key: None,
        max_output_tokens: Some(200),
        wires: None,
        holds_calls: None,
        extra_headers: BTreeMap::new(),
        price: Some(Price {
            input: MicroUsd(100_000_000),
            output: MicroUsd(1_000_000_000),
            cached_input: None,
            cache_write: None,
        }),
    };
    ModelSettings {
        providers: [("sim".to_owned(), provider)].into(),
        aliases: [("dear".to_owned(), alias)].into(),
        session_model: Some("dear".to_owned()),
        discover_ports: Vec::new(),
        demonstration: false,
        ..ModelSettings::default()
    }
}
