//! The guest link with both real ends: the static guest runs as a plain process and dials a small gate.
#![expect(clippy::print_stderr, reason = "a skipped test says why")]

mod cuts;
mod figures;
mod harness;
mod hostile;
mod processes;
mod streams;
