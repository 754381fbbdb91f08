//! The wiring: the only place that names concrete engines and backends.
//!
//! Settings -> telemetry -> store -> backend -> models -> engine. The listeners are open before any of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::Request;
use http::Response;
use ob_component::Domain;
use ob_component::Registry;
use ob_config::Loaded;
use ob_core::Principal;
use ob_core::Refusal;
use ob_core::redact::Redactor;
use ob_core::resource::UNSAFE_BACKEND;
use ob_core::resource::marked_backend;
use ob_engine::Agents;
use ob_engine::Catalogue;
use ob_engine::Demonstration;
use ob_engine::Engine;
use ob_engine::EngineOptions;
use ob_engine::HostFiles;
use ob_engine::SystemClock;
use ob_gate::Gates;
use ob_gate::Tools;
use ob_gate::models::Models;
use ob_sandbox::Backend;
use ob_sandbox::namespace::GuestImage;
use ob_sandbox::namespace::NamespaceBackend;
use ob_sandbox::namespace::NamespaceOptions;
use ob_sandbox::process::ProcessBackend;
use ob_sandbox::process::ProcessOptions;
use ob_server::Inside;
use ob_server::MetricsText;
use ob_server::ObserveRequest;
use ob_store::sqlite::SqliteOptions;
use ob_telemetry::Log;
use ob_telemetry::LogOptions;
use ob_telemetry::Metrics;
use ob_telemetry::RequestDone;

use super::demo_model;
use super::demo_model::DemoModel;
use super::lock::Holder;
use super::own_program;
use crate::cli::Context;
use crate::guest;
use crate::version::VERSION;

/// The log and the metrics.
pub(crate) struct Telemetry {
    /// The running log.
    pub(crate) log: Log,
    /// Where internal events are counted.
    pub(crate) counted: Metrics,
    /// The metrics page.
    pub(crate) metrics: MetricsText,
    /// Told of each request.
    pub(crate) observe_request: ObserveRequest,
    /// Filled when there is an engine, for the gauges of the metrics page.
    engine: Arc<OnceLock<Arc<Engine>>>,
}

/// Opens the log and makes the metrics.
pub(crate) fn telemetry(loaded: &Loaded, foreground: bool) -> Result<Telemetry, Refusal> {
    let log = ob_telemetry::init(LogOptions {
        json: loaded.settings.log.json,
        filter: loaded.settings.log.filter.clone(),
        file: Some(loaded.home.log_file()),
        stderr: foreground,
        redactor: Redactor::new(loaded.settings.redactor_secrets()),
    })
    .map_err(|error| {
        let source =
            std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
        Refusal::unavailable(format!("{error}{source}")).fix("see `oubliette doctor`")
    })?;
    let counted = Metrics::new(VERSION);
    ob_telemetry::install_panic_hook(counted.clone());
    let engine: Arc<OnceLock<Arc<Engine>>> = Arc::default();
    let (gauges_of, page, observed) = (Arc::clone(&engine), counted.clone(), counted.clone());
    Ok(Telemetry {
        log,
        counted,
        metrics: Arc::new(move || {
            let (engine, page) = (gauges_of.get().cloned(), page.clone());
            Box::pin(async move {
                if let Some(engine) = engine {
                    match engine.gauges().await {
                        Ok(gauges) => page.set_gauges(gauges),
                        Err(refusal) => {
                            tracing::warn!(%refusal, "the page of metrics says what was last known")
                        }
                    }
                }
                page.render()
            })
        }),
        observe_request: Arc::new(move |method, path, status, seconds| {
            // The id is in the span that this is called from.
            let took = Duration::from_secs_f64(seconds);
            RequestDone { method, path, status, took, request_id: "" }.emit(&observed);
        }),
        engine,
    })
}

/// Makes the engine: opens the store, recovers sessions. Says what it is at through `progress`.
pub(crate) async fn build(
    context: &Context,
    loaded: &Loaded,
    holder: &Holder,
    telemetry: &Telemetry,
    inside: Inside,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<Arc<Engine>, Refusal> {
    let (home, settings) = (&loaded.home, &loaded.settings);
    progress("opening the store");
    let options = SqliteOptions { database: home.database(), blobs: home.blobs() };
    let store = ob_store::sqlite::open(options).await.map_err(|error| error.refusal())?;
    let tokens =
        ob_store::sqlite::open_tokens(&home.auth_database()).await.map_err(|error| error.refusal())?;
    let audit =
        ob_store::sqlite::open_audit(&home.audit_database()).await.map_err(|error| error.refusal())?;

    let registry = Registry::default();
    let backend = backend(context, loaded);
    registry.register(Domain::Adapter, ob_engine::SANDBOX, backend.name(), backend);

    let models = Arc::new(Models::new());
    let demonstration = demo_model::find(&own_program())
        .map(|program| Arc::new(DemoModel::new(program)) as Arc<dyn Demonstration>);
    progress("recovering sessions");
    let uid = rustix::process::geteuid();
    let engine = Engine::start(EngineOptions {
        home: home.clone(),
        sandbox: settings.sandbox.clone(),
        limits: settings.limits,
        cleanup: settings.cleanup.clone(),
        gates: Gates::new(Arc::clone(&store), Arc::clone(&models), telemetry.counted.clone())
            .with_tools(Arc::new(AgentsDoor(inside))),
        store,
        files: Arc::new(HostFiles),
        tokens,
        audit,
        registry,
        catalogue: Catalogue::new(settings.models.clone(), models, demonstration),
        agents: Agents::new(settings.agents.clone()),
        clock: Arc::new(SystemClock),
        is_root: uid.is_root(),
        uid: uid.as_raw(),
        addresses: holder.addresses.clone(),
        version: VERSION.to_owned(),
        metrics: telemetry.counted.clone(),
    })
    .await?;
    Ok(Arc::clone(telemetry.engine.get_or_init(|| engine)))
}

/// What agents find behind their gates: the MCP server of the edge.
struct AgentsDoor(Inside);

impl Tools for AgentsDoor {
    fn answer(&self, asker: Principal, request: Request<Bytes>) -> BoxFuture<'static, Response<Bytes>> {
        let inside = self.0.clone();
        Box::pin(async move { inside.answer(asker, request).await })
    }
}

/// The sandbox backend that is configured.
fn backend(context: &Context, loaded: &Loaded) -> Arc<dyn Backend> {
    let settings = &loaded.settings.sandbox;
    let image = guest::GUEST.map_or(GuestImage::Missing, GuestImage::Embedded);
    let programs = loaded.home.programs();
    if settings.backend == UNSAFE_BACKEND {
        tracing::warn!(
            backend = marked_backend(UNSAFE_BACKEND),
            "agents run as plain processes of this machine"
        );
        return Arc::new(ProcessBackend::new(ProcessOptions { guest: image, programs }));
    }
    Arc::new(NamespaceBackend::new(NamespaceOptions {
        guest: image,
        programs,
        bwrap: settings.bubblewrap.clone().or_else(|| bubblewrap(context)),
        first_process: None,
    }))
}

/// bubblewrap as the PATH has it. The system's folders are looked through only if there is no PATH: whoever sets one
/// says which programs there are.
pub(crate) fn bubblewrap(context: &Context) -> Option<PathBuf> {
    context.var("PATH").map(|_| context.find_program("bwrap").unwrap_or_else(|| "bwrap".into()))
}
