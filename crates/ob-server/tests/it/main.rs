//! The edge over real sockets, with a fake engine behind it.

mod api;
mod fake;
mod guard;
mod limits;
mod mcp;
mod probes;
mod problems;
mod streams;
