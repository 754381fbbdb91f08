//! A small world for one test: a home, a store, a scripted model, and engines one after the other.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use ob_component::Domain;
use ob_component::Registry;
use ob_config::AgentSettings;
use ob_config::CleanupSettings;
use ob_config::LimitSettings;
use ob_config::ModelAlias;
use ob_config::ModelSettings;
use ob_config::ProviderSettings;
use ob_config::SandboxSettings;
use ob_core::Epoch;
use ob_core::Event;
use ob_core::EventKind;
use ob_core::Home;
use ob_core::MicroUsd;
use ob_core::Principal;
use ob_core::ProjectId;
use ob_core::Refusal;
use ob_core::SessionId;
use ob_core::Timestamp;
use ob_core::home::Layout;
use ob_core::model::Price;
use ob_core::operation::Operation;
use ob_engine::Agents;
use ob_engine::Catalogue;
use ob_engine::Engine;
use ob_engine::EngineOptions;
use ob_engine::Files;
use ob_engine::HostFiles;
use ob_engine::SystemClock;
use ob_gate::Gates;
use ob_gate::models::Models;
use ob_sandbox::Backend;
use ob_sandbox::SandboxEnd;
use ob_sandbox::SandboxError;
use ob_sandbox::SandboxSpec;
use ob_sandbox::SharedBackend;
use ob_sandbox::Started;
use ob_sandbox::namespace::GuestImage;
use ob_sandbox::namespace::NamespaceBackend;
use ob_sandbox::namespace::NamespaceOptions;
use ob_store::Store as _;
use ob_store::audit::SharedAudit;
use ob_telemetry::Metrics;
use ob_testkit::MemoryAudit;
use ob_testkit::MemoryStore;
use ob_testkit::ModelServer;
use serde_json::Value;
use serde_json::json;

/// A deadline for what takes well under a second on a machine that has nothing else to do.
const DEADLINE: Duration = Duration::from_secs(60);
/// Longer than any test.
const LONG: Duration = Duration::from_secs(3600);

pub(crate) struct World {
    folder: tempfile::TempDir,
    pub(crate) home: Home,
    pub(crate) store: MemoryStore,
    pub(crate) model: ModelServer,
    /// `sandbox.idle_s` of the next engine.
    pub(crate) idle: Duration,
    /// True if the next engine knows no provider and looks for a model server on this machine.
    pub(crate) discovers: bool,
    /// The files of the next engine.
    pub(crate) files: Arc<dyn Files>,
    pub(crate) audit: Arc<MemoryAudit>,
    /// The agents of the next engine.
    pub(crate) agents: AgentSettings,
}

/// A backend that never makes a sandbox.
pub(crate) struct Broken {
    pub(crate) starts: AtomicUsize,
    /// True if this machine lacks something; else each start just fails.
    pub(crate) lacks: bool,
    /// True if that is known before a start.
    pub(crate) says_so: bool,
}

// === impl World ===

impl World {
    pub(crate) async fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("e").tempdir().expect("a folder");
        let root = std::fs::canonicalize(folder.path()).expect("it exists");
        let home = Home::new(root.join("home"), Layout::V2, root.join("run"));
        std::fs::create_dir_all(home.data()).expect("a folder");
        let model = ModelServer::start().await.expect("a loopback port");
        Self {
            folder,
            home,
            store: MemoryStore::new(),
            model,
            idle: LONG,
            discovers: false,
            files: Arc::new(HostFiles),
            audit: Arc::default(),
            agents: AgentSettings::default(),
        }
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join(below)
    }

    /// The kernel's sandboxes; `None`, with the reason printed, if this machine cannot run them. An error in CI.
    pub(crate) fn sandboxes(&self) -> Option<SharedBackend> {
        let lacks = |what: &str| {
            assert!(std::env::var_os("CI").is_none(), "{what}");
            eprintln!("skipped: {what}");
            None
        };
        if !Path::new("/usr/bin/bwrap").exists() {
            return lacks("bubblewrap is not installed");
        }
        let Some(guest) = guest() else { return lacks("no guest program: run `make guest`") };
        Some(Arc::new(NamespaceBackend::new(NamespaceOptions {
            guest: GuestImage::File(guest),
            programs: self.home.programs(),
            bwrap: None,
            first_process: None,
        })))
    }

    /// The next server of this home.
    pub(crate) async fn engine(&self, backend: SharedBackend) -> Arc<Engine> {
        self.store.reopen();
        let registry = Registry::default();
        registry.register::<dyn Backend>(Domain::Adapter, ob_engine::SANDBOX, "test", backend);
        let models = Arc::new(Models::new());
        let store: ob_store::SharedStore = Arc::new(self.store.clone());
        let tokens = ob_store::sqlite::open_tokens(&self.home.auth_database()).await.expect("tokens");
        let uid = rustix::process::geteuid();
        Engine::start(EngineOptions {
            home: self.home.clone(),
            sandbox: SandboxSettings {
                memory: None,
                cpu_millis: None,
                pids: None,
                lease: Duration::from_secs(60),
                idle: self.idle,
                ..SandboxSettings::default()
            },
            limits: LimitSettings::default(),
            cleanup: CleanupSettings::default(),
            gates: Gates::new(Arc::clone(&store), Arc::clone(&models), ob_telemetry::Metrics::new("test")),
            store,
            files: Arc::clone(&self.files),
            tokens,
            audit: Arc::clone(&self.audit) as SharedAudit,
            registry,
            catalogue: Catalogue::new(self.models(), models, None),
            agents: Agents::new(self.agents.clone()),
            clock: Arc::new(SystemClock),
            is_root: uid.is_root(),
            uid: uid.as_raw(),
            addresses: Vec::new(),
            version: "0.0.0".to_owned(),
            metrics: Metrics::new("0.0.0"),
        })
        .await
        .expect("an engine")
    }

    /// `cheap` costs nothing; `dear` costs a dollar for each token.
    fn models(&self) -> ModelSettings {
        if self.discovers {
            let discover_ports = vec![self.model.address().port()];
            return ModelSettings { discover_ports, demonstration: false, ..ModelSettings::default() };
        }
        let provider = ProviderSettings {
            base_url: self.model.base_url(),
            wires: vec![ob_core::model::Wire::Chat],
            holds_calls: false,
            api_key: None,
            more_keys: Vec::new(),
            default_model: Some("cheap".to_owned()),
        };
        let dear = ModelAlias {
            provider: "test".to_owned(),
            model: "dear".to_owned(),
            base_url: None,
            api_key: None,
            max_output_tokens: Some(100),
            wires: None,
            holds_calls: None,
            extra_headers: std::collections::BTreeMap::new(),
            price: Some(Price {
                input: MicroUsd(1_000_000_000_000),
                output: MicroUsd(1_000_000_000_000),
                cached_input: None,
                cache_write: None,
            }),
        };
        ModelSettings {
            providers: [("test".to_owned(), provider)].into(),
            aliases: [("dear".to_owned(), dear)].into(),
            session_model: None,
            discover_ports: Vec::new(),
            demonstration: false,
            ..ModelSettings::default()
        }
    }

    /// Waits until the session's log is as it should be; the log.
    pub(crate) async fn until(
        &self,
        session: &SessionId,
        what: &str,
        is_so: impl Fn(&[Event]) -> bool,
    ) -> Vec<Event> {
        let mut doorbell = self.store.doorbell(session).await.expect("a session");
        let waited = tokio::time::timeout(DEADLINE, async {
            loop {
                doorbell.borrow_and_update();
                let log = self.store.log(session);
                if is_so(&log) {
                    return log;
                }
                doorbell.changed().await.expect("the session is there");
            }
        });
        match waited.await {
            Ok(log) => log,
            Err(_) => panic!("{what} did not come; the log:\n{}", shown(&self.store.log(session))),
        }
    }

    /// Waits until the session is in this state, for the `times`-th time.
    pub(crate) async fn state(&self, session: &SessionId, state: &str, times: usize) -> Vec<Event> {
        self.until(session, state, |log| {
            states(log).into_iter().filter(|seen| seen == state).count() >= times
        })
        .await
    }
}

/// What the operator is answered.
pub(crate) async fn ask(engine: &Arc<Engine>, operation: Operation, params: Value) -> Value {
    engine.call(&Principal::Operator, operation, params).await.expect("allowed and done")
}

/// The refusal that the operator gets; each has a fix.
pub(crate) async fn refused(engine: &Arc<Engine>, operation: Operation, params: Value) -> Refusal {
    refused_to(engine, &Principal::Operator, operation, params).await
}

pub(crate) async fn refused_to(
    engine: &Arc<Engine>,
    principal: &Principal,
    operation: Operation,
    params: Value,
) -> Refusal {
    let refusal = engine.call(principal, operation, params).await.expect_err("to be refused");
    assert!(refusal.fix.is_some(), "{operation:?}: {refusal} has no fix");
    refusal
}

pub(crate) async fn project(engine: &Arc<Engine>, more: Value) -> ProjectId {
    let mut params = json!({ "name": "p" });
    params.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    let made = ask(engine, Operation::ProjectCreate, params).await;
    serde_json::from_value(made["id"].clone()).expect("an id")
}

pub(crate) async fn spawn(engine: &Arc<Engine>, project: ProjectId, more: Value) -> SessionId {
    let mut params = json!({ "project_id": project, "message": "do it" });
    params.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    let accepted = ask(engine, Operation::SessionSpawn, params).await;
    serde_json::from_value(accepted["session_id"].clone()).expect("an id")
}

/// Waits until something outside of a log is so.
pub(crate) async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(DEADLINE, async {
        let mut looks = tokio::time::interval(Duration::from_millis(10));
        while !is_so().await {
            looks.tick().await;
        }
    });
    assert!(waited.await.is_ok(), "{what} did not come");
}

pub(crate) fn states(log: &[Event]) -> Vec<String> {
    log.iter()
        .filter(|event| event.body.kind == EventKind::Status)
        .filter_map(|event| event.body.text.clone())
        .collect()
}

pub(crate) fn texts(log: &[Event]) -> Vec<&str> {
    log.iter().filter_map(|event| event.body.text.as_deref()).collect()
}

pub(crate) fn has_text(log: &[Event], text: &str) -> bool {
    texts(log).iter().any(|seen| seen.contains(text))
}

fn shown(log: &[Event]) -> String {
    log.iter().map(|event| format!("{} {:?} {:?}\n", event.index, event.body.kind, event.body.text)).collect()
}

fn guest() -> Option<PathBuf> {
    let named = std::env::var_os("OUBLIETTE_GUEST").map(PathBuf::from).filter(|path| path.exists());
    named.or_else(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guest");
        let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        ["guest", "debug"]
            .iter()
            .map(|profile| root.join(&triple).join(profile).join("oubliette-guest"))
            .filter_map(|path| Some((std::fs::metadata(&path).ok()?.modified().ok()?, path)))
            .max()
            .map(|(_, path)| path)
    })
}

// === impl Broken ===

impl Broken {
    pub(crate) fn new(lacks: bool) -> Arc<Self> {
        Arc::new(Self { starts: AtomicUsize::new(0), lacks, says_so: false })
    }

    /// One that says that this machine lacks something.
    pub(crate) fn unfit() -> Arc<Self> {
        Arc::new(Self { starts: AtomicUsize::new(0), lacks: true, says_so: true })
    }
}

#[async_trait]
impl Backend for Broken {
    fn name(&self) -> &'static str {
        "broken"
    }

    async fn check(&self) -> Result<(), Refusal> {
        if self.says_so {
            return Err(Refusal::unavailable("no walls here").fix("build some"));
        }
        Ok(())
    }

    async fn start(&self, spec: &SandboxSpec) -> Result<Started, SandboxError> {
        self.starts.fetch_add(1, Ordering::Relaxed);
        if self.lacks {
            return Err(SandboxError::Refused(Refusal::unavailable("no walls here").fix("build some")));
        }
        Err(SandboxError::Failed { id: spec.id.clone(), what: "the walls fell down".to_owned() })
    }

    async fn adopt(&self, _: &str, _: &Path, _: Epoch) -> Result<Option<SandboxEnd>, SandboxError> {
        Ok(Some(SandboxEnd { reason: "it never was".to_owned(), at: Timestamp::from_micros(0), limit: None }))
    }

    async fn ended(&self, _: &str, _: &Path) -> SandboxEnd {
        std::future::pending().await
    }

    async fn end(&self, _: &str, _: &Path, _: Epoch) -> Result<(), SandboxError> {
        Ok(())
    }
}
