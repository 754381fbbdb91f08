//! The edge over real sockets, with a fake engine behind it.

mod api;
mod fake;
mod guard;
mod mcp;
mod probes;
mod streams;
