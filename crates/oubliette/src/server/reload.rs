//! The configuration of a running server: read anew when it changes, on HUP and when asked.
//!
//! ```text
//! folder of the file -> settle -> load whole -> mistakes? keep the last good one, say so
//! HUP, `oubliette reload` ------> load whole -> differences -> log, engine take what they can; say what needs a restart
//! ```

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ob_config::ConfigValue;
use ob_config::Loaded;
use ob_config::Watch;
use ob_core::Home;
use ob_core::Refusal;
use ob_core::operation::ConfigChange;
use ob_core::operation::ServerReloaded;
use ob_core::redact::Redactor;
use ob_engine::Configuration;
use ob_engine::Engine;
use ob_server::RateLimit;
use ob_telemetry::ConfigRefused;
use ob_telemetry::ConfigReloaded;
use ob_telemetry::Log;
use ob_telemetry::Metrics;
use tokio::sync::Mutex;
use tokio::sync::Notify;
use tokio::sync::watch;

use super::wire::Telemetry;
use crate::cli;
use crate::cli::Context;
use crate::cli::args::Global;

/// Editors write a file in several steps; what is half written would be told as a mistake.
const SETTLE: Duration = Duration::from_millis(200);

/// Reads the configuration as the server's start did, and gives the running parts what changed.
pub(crate) struct Reloader {
    context: Context,
    global: Global,
    log: Log,
    metrics: Metrics,
    rate_limit: watch::Sender<RateLimit>,
    state: Mutex<State>,
    changed: Arc<Notify>,
}

/// A change that nobody has acted on: whoever waited for it to settle and is cut off, by a signal, is told again.
struct Unsettled<'a>(Option<&'a Notify>);

struct State {
    home: Home,
    /// What the server runs with.
    running: Vec<ConfigValue>,
    /// What the last reading came to: values, or mistakes.
    last: Result<Vec<ConfigValue>, String>,
    secrets: Vec<String>,
    /// Kept for its watching.
    watch: Option<Watch>,
}

// === impl Reloader ===

impl Reloader {
    /// Watches the configuration from now on.
    pub(crate) fn new(
        context: &Context,
        global: &Global,
        loaded: &Loaded,
        telemetry: &Telemetry,
        rate_limit: watch::Sender<RateLimit>,
    ) -> Self {
        let changed = Arc::new(Notify::new());
        let state = State {
            home: loaded.home.clone(),
            running: loaded.values.clone(),
            last: Ok(loaded.values.clone()),
            secrets: loaded.settings.redactor_secrets(),
            watch: watch(loaded, &changed),
        };
        Self {
            context: context.clone(),
            global: global.clone(),
            log: telemetry.log.clone(),
            metrics: telemetry.counted.clone(),
            rate_limit,
            state: Mutex::new(state),
            changed,
        }
    }

    /// Resolves when something changed where the configuration is, and has settled.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
        let mut unsettled = Unsettled(Some(&self.changed));
        tokio::time::sleep(SETTLE).await;
        unsettled.0 = None;
    }

    /// Reloads after a change of the files. What was told already is not told again.
    pub(crate) async fn reload_if_changed(&self, engine: &Engine) {
        let outcome = self.read().await;
        let mut state = self.state.lock().await;
        let now =
            outcome.as_ref().map(|loaded| loaded.values.clone()).map_err(|refusal| refusal.message.clone());
        if let Ok(loaded) = &outcome {
            // The file may be in another folder now, or a link may lead elsewhere.
            state.watch = watch(loaded, &self.changed);
        }
        if now == state.last {
            return;
        }
        // Told in the log.
        drop(self.take(&mut state, outcome, engine));
    }

    /// Reloads on a signal.
    pub(crate) async fn reload_now(&self, engine: &Engine) {
        let outcome = self.read().await;
        let mut state = self.state.lock().await;
        // Told in the log.
        drop(self.take(&mut state, outcome, engine));
    }

    async fn read(&self) -> Result<Loaded, Refusal> {
        let (context, global) = (self.context.clone(), self.global.clone());
        let reading = tokio::task::spawn_blocking(move || cli::load(&context, &global));
        reading
            .await
            .unwrap_or_else(|error| Err(Refusal::internal(format!("the reading was cut off: {error}"))))
    }

    /// Gives the running parts what they can take.
    fn take(
        &self,
        state: &mut State,
        outcome: Result<Loaded, Refusal>,
        engine: &Engine,
    ) -> Result<ServerReloaded, Refusal> {
        let loaded = match outcome.and_then(|loaded| state.same_home(loaded)) {
            Ok(loaded) => loaded,
            Err(refusal) => {
                ConfigRefused { mistakes: &refusal.message }.emit(&self.metrics);
                state.last = Err(refusal.message.clone());
                return Err(refusal);
            }
        };
        let changes = changes_between(&state.running, &loaded.values);
        let secrets = loaded.settings.redactor_secrets();
        // A key that was replaced may still be in a message that is on its way.
        let known = secrets.iter().chain(&state.secrets).cloned();
        self.log.set_redactor(Redactor::new(known));
        if let Err(error) = self.log.set_filter(&loaded.settings.log.filter) {
            tracing::error!(%error, "the log filter was not reloaded");
        }
        engine.apply(&loaded.settings);
        self.rate_limit.send_replace(super::rate_limit_of(&loaded.settings));
        state.running = ob_config::after_reload(&state.running, &loaded.values);
        state.last = Ok(loaded.values);
        state.secrets = secrets;
        let names = |restart: bool| -> Vec<String> {
            changes.iter().filter(|c| c.needs_restart == restart).map(|c| c.path.clone()).collect()
        };
        ConfigReloaded { applied: &names(false), pending: &names(true) }.emit(&self.metrics);
        Ok(ServerReloaded { applied: true, changes, warnings: loaded.warnings })
    }
}

#[async_trait]
impl Configuration for Reloader {
    async fn reload(&self, engine: &Engine, dry_run: bool) -> Result<ServerReloaded, Refusal> {
        let outcome = self.read().await;
        let mut state = self.state.lock().await;
        if !dry_run {
            return self.take(&mut state, outcome, engine);
        }
        let loaded = outcome.and_then(|loaded| state.same_home(loaded))?;
        let changes = changes_between(&state.running, &loaded.values);
        Ok(ServerReloaded { applied: false, changes, warnings: loaded.warnings })
    }
}

// === impl Unsettled ===

impl Drop for Unsettled<'_> {
    fn drop(&mut self) {
        if let Some(changed) = self.0 {
            changed.notify_one();
        }
    }
}

// === impl State ===

impl State {
    /// What a command would find here may be another home by now; this server serves the one that it started with.
    fn same_home(&self, loaded: Loaded) -> Result<Loaded, Refusal> {
        if loaded.home.root() == self.home.root() && loaded.home.layout() == self.home.layout() {
            return Ok(loaded);
        }
        Err(Refusal::conflict(format!(
            "the configuration is of another home now: {} and not {}",
            loaded.home.root().display(),
            self.home.root().display()
        ))
        .fix("start the server anew"))
    }
}

/// What differs, as it is told.
pub(crate) fn changes_between(from: &[ConfigValue], to: &[ConfigValue]) -> Vec<ConfigChange> {
    ob_config::changes(from, to)
        .into_iter()
        .map(|ob_config::Change { path, from, to, origin, needs_restart }| ConfigChange {
            path,
            from,
            to,
            origin,
            needs_restart,
        })
        .collect()
}

fn watch(loaded: &Loaded, changed: &Arc<Notify>) -> Option<Watch> {
    let changed = Arc::clone(changed);
    match ob_config::watch(loaded, move || changed.notify_one()) {
        Ok(watch) => Some(watch),
        Err(error) => {
            tracing::warn!(%error, "changes of the configuration are not noticed; `oubliette reload` still works");
            None
        }
    }
}
