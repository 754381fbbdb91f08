//! Drives an agent over the Agent Client Protocol (ACP, version 1, JSON-RPC lines over stdio).
//!
//! [`Driver`] is sans-io and its whole state can be saved: the engine commits the state together with the events that
//! came out of the bytes it consumed, so after a crash the next server goes on at exactly that byte
//! (invariant 2, `acknowledged_means_kept`).
//!
//! ```text
//! agent's stdout --bytes--> Lines --line--> wire::parse --message--> Driver --update--> Transcript --> events
//! agent's stdin  <--bytes-- Outbox <------------------- requests, answers -+
//! ```
//!
//! **Architecture invariant:** this crate does no I/O, reads neither clock nor randomness, and believes nothing that
//! an agent says: every line, text, tree and queue is bounded (see `bounds`), and no input makes it panic.

mod bounds;
mod driver;
mod lines;
mod outbox;
mod permission;
pub mod presets;
mod transcript;
mod wire;

pub use driver::Driver;
pub use driver::DriverOptions;
pub use driver::Output;
