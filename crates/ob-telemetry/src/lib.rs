//! Logging, metrics: one struct for each internal event, with `emit()`.
//!
//! ```text
//! something happens -> event.emit(&metrics) -> one log line with fields (redacted, then written)
//!                                           -> counters and histograms (read by /metrics)
//! ```
//!
//! **Invariant:** a metric is touched by the event that it counts and by nothing else. Metrics and logs are values that
//! are passed around, so that two servers in one process do not mix; only the tracing subscriber and the panic hook
//! are the process's.

mod event;
mod log;
mod metrics;
mod names;

pub use event::CleanupDone;
pub use event::ConfigRefused;
pub use event::ConfigReloaded;
pub use event::DiskLevel;
pub use event::DiskUse;
pub use event::EventsAppended;
pub use event::LimitReached;
pub use event::ModelCallDone;
pub use event::OperationDone;
pub use event::PanicCaught;
pub use event::RefusalGiven;
pub use event::RequestDone;
pub use event::SandboxEnded;
pub use event::SandboxStartFailed;
pub use event::SandboxStarted;
pub use event::ServerStarted;
pub use event::ServerStopped;
pub use event::ServerStopping;
pub use event::SessionCreated;
pub use event::SessionEnded;
pub use event::TurnDone;
pub use log::Log;
pub use log::LogError;
pub use log::LogOptions;
pub use log::init;
pub use log::install_panic_hook;
pub use metrics::Gauges;
pub use metrics::Metrics;
pub use metrics::TEXT_FORMAT;
pub use names::FAMILIES;
pub use names::Family;
pub use names::Kind;
pub use names::document;
