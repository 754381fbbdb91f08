//! The gate: the only way out of a sandbox. One unix socket for each session, and the socket is the identity.
//!
//! It carries the guest link (an upgrade), the tools of the session (MCP), and the model routes, in four wires, translated where agent and provider differ.
//! Keys are added outside; what a call may cost is reserved before it is made and settled when it is known:
//!
//! ```text
//! agent -> gate.sock -> check -> reserve (commit) -> provider -> relay -> settle + usage event (one commit) -> agent
//!                         |          |                  |          |
//!                       refusal   over limit         refusal   cut, hang-up, panic: settled with what was seen
//! ```
//!
//! - Invariant 3, `one_way_out`: only the routes of models, the tools and the link are here; everything else is refused, and so is a
//!   request that would make the provider reach out for the sandbox.
//! - Invariant 4, `no_secret_inside`: a key goes to its provider's host and nowhere else; redirects are not followed,
//!   and a provider's words are redacted before anyone sees them.
//! - Invariant 5, `limits_hold`: nothing is sent before its reservation is durable, and every reservation is settled on
//!   every path, a dropped future and a panic included.

use std::path::Path;
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;

use ob_core::ProjectId;
use ob_core::SessionId;
use ob_core::TreeId;
use ob_core::model::ModelRef;
use ob_sandbox::link::Guest;
use ob_store::Epoch;
use ob_store::SharedStore;
use ob_telemetry::Metrics;
use tokio_util::task::TaskTracker;

mod body;
mod caller;
pub mod discovery;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod listen;
mod meter;
pub mod models;
pub mod outside;
mod proxy;
mod refuse;
mod relay;
mod route;
mod sse;
#[cfg(test)]
mod tests;
mod tools;
mod translate;
mod trial;
mod tries;
mod upstream;
mod wire;

pub use listen::OpenGate;
pub use listen::SOCKET;
pub use tools::Tools;
pub use trial::Trial;

use outside::Machine;
use outside::Outside;

/// What all gates of a server share.
pub struct Gates {
    shared: Arc<Shared>,
}

/// Whose gate it is.
#[derive(Clone, Debug)]
pub struct GateSession {
    /// The session.
    pub id: SessionId,
    /// Its project.
    pub project: ProjectId,
    /// The tree that pays.
    pub tree: TreeId,
    /// The model that its agent uses, whatever it asks for.
    pub model: ModelRef,
    /// The owner's epoch, for the fence of each commit.
    pub epoch: Epoch,
    /// The uid that may connect: that of the sandbox.
    pub peer_uid: u32,
}

/// The bounds of a gate. The defaults are meant for production; tests set small ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateOptions {
    /// How long the connection to a provider may take.
    pub connect_timeout: Duration,
    /// How long a provider may think before it answers with a status.
    pub head_timeout: Duration,
    /// How long a provider may be silent in the middle of an answer.
    pub stream_idle_timeout: Duration,
    /// How long an agent may take to send a request's body.
    pub body_timeout: Duration,
    /// How long a connection may be without a complete request head.
    pub request_head_timeout: Duration,
    /// How long a call waits for a model server of this machine that does not answer yet.
    pub model_patience: Duration,
    /// The most bytes of a request's body.
    pub max_body: usize,
    /// The most bytes of one event of a stream, and of an answer that is not a stream.
    pub max_event: usize,
    /// How long to wait before a failed settlement is tried again; doubled each time.
    pub settle_backoff: Duration,
}

/// What gates share inside.
pub(crate) struct Shared {
    pub(crate) store: SharedStore,
    pub(crate) models: Arc<models::Models>,
    pub(crate) outside: Arc<dyn Outside>,
    pub(crate) options: GateOptions,
    pub(crate) tasks: TaskTracker,
    pub(crate) metrics: Metrics,
    /// What agents may ask of Oubliette itself; nothing before there is somebody to answer.
    pub(crate) tools: OnceLock<Arc<dyn Tools>>,
}

// === impl Gates ===

impl Gates {
    /// Gates over this store and these models; calls are counted in `metrics`.
    pub fn new(store: SharedStore, models: Arc<models::Models>, metrics: Metrics) -> Self {
        Self::with_options(store, models, metrics, GateOptions::default())
    }

    /// Gates with other bounds.
    pub fn with_options(
        store: SharedStore,
        models: Arc<models::Models>,
        metrics: Metrics,
        options: GateOptions,
    ) -> Self {
        let outside = Arc::new(Machine::new(options.connect_timeout));
        Self::over(store, models, metrics, options, outside)
    }

    /// Gates over another machine than this one.
    pub fn over(
        store: SharedStore,
        models: Arc<models::Models>,
        metrics: Metrics,
        options: GateOptions,
        outside: Arc<dyn Outside>,
    ) -> Self {
        let tasks = TaskTracker::new();
        // A closed tracker still takes tasks; it only lets `settled` return once none is left.
        tasks.close();
        Self {
            shared: Arc::new(Shared {
                store,
                models,
                outside,
                options,
                tasks,
                metrics,
                tools: OnceLock::new(),
            }),
        }
    }

    /// The same gates, behind which agents find these tools.
    #[must_use]
    pub fn with_tools(self, tools: Arc<dyn Tools>) -> Self {
        if self.shared.tools.set(tools).is_err() {
            tracing::error!("the gates have tools already");
        }
        self
    }

    /// Opens the gate of a session: listens on `dir/gate.sock`, replacing a socket that an earlier server left; makes
    /// `dir` if it is missing. Link connections go to `guest`. Must be called inside a tokio runtime.
    pub async fn open(&self, dir: &Path, session: GateSession, guest: Guest) -> std::io::Result<OpenGate> {
        listen::open(Arc::clone(&self.shared), dir, session, Arc::new(guest)).await
    }

    /// Waits until no gate is open and every reservation is settled. Call it before the store is closed.
    pub async fn settled(&self) {
        self.shared.tasks.wait().await;
    }
}

// === impl GateOptions ===

impl Default for GateOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            head_timeout: Duration::from_secs(120),
            stream_idle_timeout: Duration::from_secs(120),
            body_timeout: Duration::from_secs(60),
            request_head_timeout: Duration::from_secs(60),
            model_patience: Duration::from_secs(90),
            max_body: 32 * 1024 * 1024,
            max_event: 16 * 1024 * 1024,
            settle_backoff: Duration::from_millis(200),
        }
    }
}
