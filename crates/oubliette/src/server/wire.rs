//! The wiring: the only place that names concrete engines and backends.
//!
//! Settings -> telemetry -> store -> backend -> models -> engine. The listeners are open before any of it.

use std::sync::Arc;
use std::sync::OnceLock;

use ob_config::Loaded;
use ob_core::Refusal;
use ob_engine::Engine;
use ob_server::MetricsText;
use ob_server::ObserveRequest;
use ob_store::SharedStore;
use ob_store::StoreError;
use ob_store::sqlite::SqliteOptions;
use ob_store::tokens::SharedTokens;

use super::demo_model;
use super::demo_model::DemoModel;
use super::lock::Holder;
use super::own_program;
use crate::cli::Context;

/// Logs and metrics, as the rest of the program uses them.
pub(crate) struct Telemetry {
    /// The metrics page.
    pub(crate) metrics: MetricsText,
    /// Told of each request.
    pub(crate) observe_request: ObserveRequest,
    /// Opens the log file anew.
    pub(crate) reopen_log: Box<dyn Fn() + Send + Sync>,
    /// Reads the log level anew.
    pub(crate) reload: Box<dyn Fn() + Send + Sync>,
    /// Filled when there is an engine, for the gauges of the metrics page.
    engine: Arc<OnceLock<Arc<Engine>>>,
}

/// What an engine is made of.
#[expect(dead_code, reason = "read by `engine` below as soon as the engine has its constructor")]
struct Parts<'a> {
    context: &'a Context,
    loaded: &'a Loaded,
    /// What `server status` tells: pid, addresses, start.
    holder: &'a Holder,
    store: SharedStore,
    tokens: SharedTokens,
    /// The guest's program, if this build has one.
    guest: Option<&'static [u8]>,
    /// The demonstration model, if it may be used and is installed.
    demonstration: Option<DemoModel>,
}

/// Opens the log and makes the metrics.
pub(crate) fn telemetry(_loaded: &Loaded) -> Result<Telemetry, Refusal> {
    // ob-telemetry is wired here: its log (file of the home, standard error in the foreground), its registry.
    let engine: Arc<OnceLock<Arc<Engine>>> = Arc::default();
    let gauges_of = Arc::clone(&engine);
    Ok(Telemetry {
        metrics: Arc::new(move || {
            let engine = gauges_of.get().cloned();
            Box::pin(async move {
                let gauges = match engine {
                    Some(engine) => engine.gauges().await,
                    None => ob_engine::Gauges::default(),
                };
                format!(
                    "# HELP oubliette_containers_running Sandboxes that run.\n\
                     # TYPE oubliette_containers_running gauge\n\
                     oubliette_containers_running {}\n",
                    gauges.sandboxes
                )
            })
        }),
        observe_request: Arc::new(|method, path, status, seconds| {
            tracing::info!(method, path, status, seconds, "request");
        }),
        reopen_log: Box::new(|| tracing::info!("nothing to reopen")),
        reload: Box::new(|| tracing::info!("reload is not available yet")),
        engine,
    })
}

/// Makes the engine: opens the store, recovers sessions. Says what it is at through `progress`.
pub(crate) async fn build(
    context: &Context,
    loaded: &Loaded,
    holder: &Holder,
    telemetry: &Telemetry,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<Arc<Engine>, Refusal> {
    let home = &loaded.home;
    progress("opening the store");
    let options = SqliteOptions { database: home.database(), blobs: home.blobs() };
    let store = ob_store::sqlite::open(options).await.map_err(|error| cannot_open("store", &error))?;
    let tokens = ob_store::sqlite::open_tokens(&home.auth_database())
        .await
        .map_err(|error| cannot_open("token store", &error))?;
    let models = &loaded.settings.models;
    let demonstration = (models.providers.is_empty() && models.demonstration)
        .then(|| demo_model::find(&own_program()))
        .flatten()
        .map(DemoModel::new);
    progress("recovering sessions");
    let guest = crate::guest::GUEST;
    let parts = Parts { context, loaded, holder, store, tokens, guest, demonstration };
    let engine = engine(parts).await?;
    // Set once: a server has one engine.
    let engine = telemetry.engine.get_or_init(|| engine);
    Ok(Arc::clone(engine))
}

/// The engine over its parts. Here the backend is chosen, the models are registered and the engine is made.
async fn engine(_parts: Parts<'_>) -> Result<Arc<Engine>, Refusal> {
    Err(Refusal::unavailable("this build has no engine").fix("use a released build"))
}

fn cannot_open(what: &str, error: &StoreError) -> Refusal {
    Refusal::unavailable(format!("the {what} cannot be opened: {error}"))
        .fix("see `oubliette doctor`; the log has the details")
}
