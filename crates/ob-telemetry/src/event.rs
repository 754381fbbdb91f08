//! Everything that is logged and counted, one struct each: `emit` writes one line with fields and touches the metrics
//! that no one else touches.

use std::path::Path;
use std::time::Duration;

use ob_core::MicroUsd;
use ob_core::ProjectId;
use ob_core::Refusal;
use ob_core::RefusalCode;
use ob_core::SessionId;
use ob_core::TurnNumber;
use ob_core::operation::Operation;
use ob_core::resource::LimitHit;
use ob_core::resource::is_isolated;
use ob_core::resource::marked_backend;
use ob_core::session::SessionStatus;
use ob_core::turn::TurnState;
use tracing::debug;
use tracing::error;
use tracing::info;
use tracing::trace;
use tracing::warn;

use crate::metrics::Metrics;
use crate::metrics::OK;
use crate::metrics::OTHER;
use crate::metrics::REFUSED;
use crate::names;

/// The target of every line here, for log filters.
const TARGET: &str = "oubliette";

/// Paths that programs ask for all the time; they do not count as requests.
const PROBES: [&str; 3] = ["/health", "/ready", "/metrics"];

/// Methods that get a label of their own; a client may send any word.
const METHODS: [&str; 7] = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"];

/// A request was answered: its response head is out.
#[derive(Clone, Copy, Debug)]
pub struct RequestDone<'a> {
    /// The method.
    pub method: &'a str,
    /// The path of the matched route, with braces; never what the client wrote.
    pub path: &'a str,
    /// The status of the response.
    pub status: u16,
    /// From the request to the response head.
    pub took: Duration,
    /// The request's id.
    pub request_id: &'a str,
}

/// An operation was asked for, through any door, and is over.
#[derive(Clone, Copy, Debug)]
pub struct OperationDone {
    /// The operation.
    pub operation: Operation,
    /// The code if it was refused.
    pub outcome: Result<(), RefusalCode>,
    /// How long it took.
    pub took: Duration,
}

/// A refusal was given to someone.
#[derive(Clone, Copy, Debug)]
pub struct RefusalGiven<'a> {
    /// What was asked for.
    pub asked: &'a str,
    /// The refusal.
    pub refusal: &'a Refusal,
}

/// A session was made.
#[derive(Clone, Copy, Debug)]
pub struct SessionCreated<'a> {
    /// The session.
    pub session: &'a SessionId,
    /// Its project.
    pub project: ProjectId,
}

/// A session is over.
#[derive(Clone, Copy, Debug)]
pub struct SessionEnded<'a> {
    /// The session.
    pub session: &'a SessionId,
    /// Its project.
    pub project: ProjectId,
    /// How it ended.
    pub status: SessionStatus,
    /// From its creation on.
    pub lived: Duration,
}

/// Events of a session became durable.
#[derive(Clone, Copy, Debug)]
pub struct EventsAppended {
    /// How many.
    pub count: u64,
}

/// A sandbox started: its link is up.
#[derive(Clone, Copy, Debug)]
pub struct SandboxStarted<'a> {
    /// The session that it is for.
    pub session: &'a SessionId,
    /// The backend.
    pub backend: &'a str,
    /// From asking for it on.
    pub took: Duration,
}

/// A sandbox did not start.
#[derive(Clone, Copy, Debug)]
pub struct SandboxStartFailed<'a> {
    /// The session that it was for.
    pub session: &'a SessionId,
    /// The backend.
    pub backend: &'a str,
    /// Why.
    pub refusal: &'a Refusal,
}

/// A sandbox is gone.
#[derive(Clone, Copy, Debug)]
pub struct SandboxEnded<'a> {
    /// The session that it was for.
    pub session: &'a SessionId,
    /// The backend.
    pub backend: &'a str,
    /// Why, in words.
    pub reason: &'a str,
}

/// A sandbox reached a limit.
#[derive(Clone, Copy, Debug)]
pub struct LimitReached<'a> {
    /// The session that it is for.
    pub session: &'a SessionId,
    /// Which, and what happened.
    pub hit: &'a LimitHit,
}

/// A model call is over.
#[derive(Clone, Copy, Debug)]
pub struct ModelCallDone<'a> {
    /// The session that called.
    pub session: &'a SessionId,
    /// The provider's name.
    pub provider: &'a str,
    /// The model's name at the provider.
    pub model: &'a str,
    /// `ok`, or why not, in one word of a fixed set.
    pub status: &'static str,
    /// Tokens read.
    pub input_tokens: u64,
    /// Tokens written.
    pub output_tokens: u64,
    /// What it cost.
    pub cost: MicroUsd,
    /// From the request to the end of the answer.
    pub took: Duration,
}

/// A turn is over.
#[derive(Clone, Copy, Debug)]
pub struct TurnDone<'a> {
    /// The session.
    pub session: &'a SessionId,
    /// The turn.
    pub turn: TurnNumber,
    /// How it ended.
    pub state: TurnState,
    /// From its first start on.
    pub took: Duration,
}

/// The server is ready.
#[derive(Clone, Copy, Debug)]
pub struct ServerStarted<'a> {
    /// The version that runs.
    pub version: &'a str,
    /// The home.
    pub home: &'a Path,
    /// Where it listens.
    pub addresses: &'a [String],
    /// From the start of the program on.
    pub took: Duration,
}

/// The configuration was read anew, and what a running server can take of it is in effect.
#[derive(Clone, Copy, Debug)]
pub struct ConfigReloaded<'a> {
    /// The keys that have another value now.
    pub applied: &'a [String],
    /// The keys whose new value needs a restart.
    pub pending: &'a [String],
}

/// The configuration has mistakes: the last good one stays in effect.
#[derive(Clone, Copy, Debug)]
pub struct ConfigRefused<'a> {
    /// Every mistake, one a line, each with its place.
    pub mistakes: &'a str,
}

/// The server looked for what nobody needs any more.
#[derive(Clone, Copy, Debug)]
pub struct CleanupDone {
    /// Things whose files are gone now.
    pub removed: usize,
    /// Things that belong to nobody and stay for now.
    pub waiting: usize,
    /// How full the disk of the home is, if that can be told.
    pub disk: Option<DiskUse>,
    /// How long it took.
    pub took: Duration,
}

/// How full a disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskUse {
    /// In percent, as `df` has it.
    pub percent: u32,
    /// Whether that is too much.
    pub level: DiskLevel,
}

/// Whether a disk is too full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskLevel {
    /// It is not.
    Fine,
    /// It will be.
    Warning,
    /// It is.
    Error,
}

/// The server takes no more work.
#[derive(Clone, Copy, Debug)]
pub struct ServerStopping<'a> {
    /// Why: a signal, or who asked.
    pub reason: &'a str,
}

/// The server has stopped and kept everything. The last line of a clean stop.
#[derive(Clone, Copy, Debug)]
pub struct ServerStopped;

/// A panic was caught: a fault of ours.
#[derive(Clone, Copy, Debug)]
pub struct PanicCaught<'a> {
    /// What it said.
    pub message: &'a str,
    /// Where, as `file:line:column`.
    pub location: &'a str,
    /// How it came there.
    pub backtrace: &'a str,
}

// === impl RequestDone ===

impl RequestDone<'_> {
    /// Logs it at debug level and counts it, unless it is a probe.
    pub fn emit(&self, metrics: &Metrics) {
        let Self { method, path, status, took, request_id } = *self;
        if PROBES.contains(&path) {
            trace!(target: TARGET, method, path, status, ms = ms(took), request_id, "probe answered");
            return;
        }
        debug!(target: TARGET, method, path, status, ms = ms(took), request_id, "request done");
        let method = METHODS.into_iter().find(|known| *known == method).unwrap_or(OTHER);
        let path = metrics.path(path);
        metrics.count(&names::REQUESTS, &[method, &path, &status.to_string()], 1);
        metrics.observe(&names::REQUEST_SECONDS, &[method, &path], took);
    }
}

// === impl OperationDone ===

impl OperationDone {
    /// Logs it at debug level and counts it.
    pub fn emit(&self, metrics: &Metrics) {
        let spec = self.operation.spec();
        let status = match self.outcome {
            Ok(()) => OK,
            Err(code) => code.as_str(),
        };
        debug!(
            target: TARGET, tool = spec.tool, action = spec.action, status, ms = ms(self.took), "operation done"
        );
        metrics.count(&names::TOOL_CALLS, &[spec.tool, spec.action, status], 1);
    }
}

// === impl RefusalGiven ===

impl RefusalGiven<'_> {
    /// Logs it at debug level, a fault of ours as an error, and counts it.
    pub fn emit(&self, metrics: &Metrics) {
        let Self { asked, refusal } = *self;
        let (code, why, fix) = (refusal.code.as_str(), &refusal.message, refusal.fix.as_deref());
        if refusal.code == RefusalCode::Internal {
            error!(target: TARGET, asked, code, why, fix, "refused");
        } else {
            debug!(target: TARGET, asked, code, why, fix, "refused");
        }
        metrics.count(&names::REFUSALS, &[code], 1);
    }
}

// === impl SessionCreated ===

impl SessionCreated<'_> {
    /// Logs it.
    pub fn emit(&self, _metrics: &Metrics) {
        info!(target: TARGET, session = %self.session, project = %self.project, "session created");
    }
}

// === impl SessionEnded ===

impl SessionEnded<'_> {
    /// Logs it and counts how long it lived.
    pub fn emit(&self, metrics: &Metrics) {
        let Self { session, project, status, lived } = *self;
        let status = status.as_str();
        info!(target: TARGET, %session, %project, status, ms = ms(lived), "session ended");
        let project = metrics.project(&project.to_string());
        metrics.observe(&names::SESSION_SECONDS_FAMILY, &[&project, status], lived);
    }
}

// === impl EventsAppended ===

impl EventsAppended {
    /// Logs it at trace level and counts the events.
    pub fn emit(&self, metrics: &Metrics) {
        trace!(target: TARGET, count = self.count, "events appended");
        metrics.count(&names::SESSION_EVENTS, &[], self.count);
    }
}

// === impl SandboxStarted ===

impl SandboxStarted<'_> {
    /// Logs it and counts it.
    pub fn emit(&self, metrics: &Metrics) {
        let Self { session, backend, took } = *self;
        if is_isolated(backend) {
            info!(target: TARGET, %session, backend, ms = ms(took), "sandbox started");
        } else {
            let backend = marked_backend(backend);
            warn!(target: TARGET, %session, backend, ms = ms(took), "sandbox started");
        }
        metrics.count(&names::SANDBOX_STARTS, &[backend], 1);
        metrics.observe(&names::SANDBOX_START_SECONDS, &[], took);
    }
}

// === impl SandboxStartFailed ===

impl SandboxStartFailed<'_> {
    /// Logs it as a warning and counts it.
    pub fn emit(&self, metrics: &Metrics) {
        let Self { session, backend, refusal } = *self;
        let (code, fix) = (refusal.code.as_str(), refusal.fix.as_deref());
        warn!(target: TARGET, %session, backend, code, why = refusal.message, fix, "sandbox did not start");
        metrics.count(&names::SANDBOX_START_FAILURES, &[backend], 1);
    }
}

// === impl SandboxEnded ===

impl SandboxEnded<'_> {
    /// Logs it.
    pub fn emit(&self, _metrics: &Metrics) {
        let Self { session, backend, reason } = *self;
        info!(target: TARGET, %session, backend, reason, "sandbox ended");
    }
}

// === impl LimitReached ===

impl LimitReached<'_> {
    /// Logs it as a warning and counts it.
    pub fn emit(&self, metrics: &Metrics) {
        let Self { session, hit } = *self;
        let (limit, used, bound, times) = (hit.resource.as_str(), hit.used, hit.bound, hit.times);
        warn!(target: TARGET, %session, limit, used, bound, times, what = hit.message(), "limit reached");
        metrics.count(&names::LIMITS_REACHED, &[limit], 1);
    }
}

// === impl ModelCallDone ===

impl ModelCallDone<'_> {
    /// Logs it and counts it.
    pub fn emit(&self, metrics: &Metrics) {
        let Self { session, provider, model, status, input_tokens, output_tokens, cost, took } = *self;
        info!(
            target: TARGET, %session, provider, model, status, input_tokens, output_tokens, %cost, ms = ms(took),
            "model call done"
        );
        let provider = metrics.provider(provider);
        metrics.count(&names::MODEL_CALLS, &[&provider, status], 1);
    }
}

// === impl TurnDone ===

impl TurnDone<'_> {
    /// Logs it and counts it.
    pub fn emit(&self, metrics: &Metrics) {
        let Self { session, turn, state, took } = *self;
        let state = state.as_str();
        info!(target: TARGET, %session, %turn, state, ms = ms(took), "turn done");
        metrics.count(&names::TURNS, &[state], 1);
    }
}

// === impl ServerStarted ===

impl ServerStarted<'_> {
    /// Logs it.
    pub fn emit(&self, _metrics: &Metrics) {
        let Self { version, home, addresses, took } = *self;
        let addresses = addresses.join(" ");
        info!(target: TARGET, version, home = %home.display(), addresses, ms = ms(took), "server started");
    }
}

// === impl ConfigReloaded ===

impl ConfigReloaded<'_> {
    /// Logs it, as a warning if something waits for a restart, and counts it.
    pub fn emit(&self, metrics: &Metrics) {
        let (applied, pending) = (self.applied.join(" "), self.pending.join(" "));
        if pending.is_empty() {
            info!(target: TARGET, applied, "configuration reloaded");
        } else {
            warn!(target: TARGET, applied, needs_restart = pending, "configuration reloaded");
        }
        metrics.count(&names::CONFIG_RELOADS, &[OK], 1);
    }
}

// === impl ConfigRefused ===

impl ConfigRefused<'_> {
    /// Logs it as an error and counts it.
    pub fn emit(&self, metrics: &Metrics) {
        error!(target: TARGET, mistakes = self.mistakes, "configuration refused; the last good one stays");
        metrics.count(&names::CONFIG_RELOADS, &[REFUSED], 1);
    }
}

// === impl CleanupDone ===

impl CleanupDone {
    /// Logs it, as loud as the disk is full. Operators look for how the line begins, also if there was nothing to do.
    pub fn emit(&self, _metrics: &Metrics) {
        let Self { removed, waiting, disk, took } = *self;
        let (disk_percent, ms) = (disk.map(|disk| disk.percent), ms(took));
        match disk.map_or(DiskLevel::Fine, |disk| disk.level) {
            DiskLevel::Fine => info!(target: TARGET, removed, waiting, disk_percent, ms, "🧹 Cleanup"),
            DiskLevel::Warning => {
                warn!(target: TARGET, removed, waiting, disk_percent, ms, "🧹 Cleanup: the disk of the home is nearly full");
            }
            DiskLevel::Error => {
                error!(target: TARGET, removed, waiting, disk_percent, ms, "🧹 Cleanup: the disk of the home is too full");
            }
        }
    }
}

// === impl ServerStopping ===

impl ServerStopping<'_> {
    /// Logs it.
    pub fn emit(&self, _metrics: &Metrics) {
        info!(target: TARGET, reason = self.reason, "server stopping");
    }
}

// === impl ServerStopped ===

impl ServerStopped {
    /// Logs `shutdown complete`. Nothing may be logged after it: operators look for it in the last line.
    pub fn emit(&self, _metrics: &Metrics) {
        info!(target: TARGET, "shutdown complete");
    }
}

// === impl PanicCaught ===

impl PanicCaught<'_> {
    /// Logs it as an error and counts it.
    pub fn emit(&self, metrics: &Metrics) {
        let Self { message, location, backtrace } = *self;
        error!(target: TARGET, panic = message, location, backtrace = %backtrace, "panic caught");
        metrics.count(&names::PANICS, &[], 1);
    }
}

/// Milliseconds with their fraction.
fn ms(took: Duration) -> f64 {
    (took.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests;
