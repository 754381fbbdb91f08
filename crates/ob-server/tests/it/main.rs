//! The edge over real sockets, with a fake engine behind it.

#![expect(clippy::print_stderr, reason = "a skipped test says so")]

mod api;
mod fake;
mod guard;
mod limits;
mod mcp;
mod network;
mod probes;
mod problems;
mod streams;
