//! The edge: listeners, probes, metrics, REST, event streams and MCP. It translates; it decides no policy.
//!
//! ```text
//! listener --> connection (bounded, peer known) --> edge middleware --> route --> caller --> Doors::call / follow
//!   TCP: Bearer          id, span, panic, time-out,      |    (rate limits, whose token)
//!   unix: operator       Host and Origin, sizes          +--> probes, metrics: also while the engine starts
//! ```
//!
//! **Architecture invariant:** the routes under `/api/v1` and the tools of `/mcp` come from the operation table and from
//! nowhere else, and everything they do goes through [`Doors`], so that one authoriser sees every request.
//!
//! **Architecture invariant:** a follower of a session costs one cursor. Nothing is queued for it here: its stream is
//! read from the log as fast as the connection takes it.

mod api;
mod body;
mod connection;
mod doors;
mod edge;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod mcp;
pub mod openapi;
mod params;
mod probes;
mod reply;
mod serve;
mod stream;
mod throttle;

pub use connection::Limits;
pub use doors::Doors;
pub use doors::Phase;
pub use doors::SharedDoors;
pub use mcp::Inside;
pub use mcp::tools_of;
pub use serve::Authentication;
pub use serve::Binding;
pub use serve::Listener;
pub use serve::MetricsText;
pub use serve::ObserveRequest;
pub use serve::RouteGroups;
pub use serve::ServerOptions;
pub use serve::serve;
pub use throttle::Denied;
pub use throttle::RateLimit;
pub use throttle::Throttle;
