//! The crash harness: the real server dies at every named crash point and at random moments, and a checker compares what
//! its clients saw with what it kept.
//!
//! ```text
//! run: start (armed with one point) -> load: streams, messages, interrupts, spawns, ends, ... -> it dies -> next run
//!                                                                         |
//! what clients saw: every event, every answer  <--------------------------+
//!      checked after some runs in one home: nothing lost, nothing twice, nothing renumbered, every session goes on
//! ```
//!
//! `make test` does 200 runs; `OUBLIETTE_CRASH_RUNS` sets another number (`make soak`: 1000) and `OUBLIETTE_CRASH_SEED`
//! the seed that chooses. It needs the build with crash points: `--features oubliette/failpoints`.

#![expect(clippy::unwrap_used, reason = "a test says what it expects by failing")]
#![expect(clippy::print_stderr, reason = "a harness says what it did")]

mod check;
mod client;
#[expect(dead_code, reason = "shared with the acceptance tests, which need more of it")]
#[path = "../acceptance/harness.rs"]
mod harness;
mod load;
mod points;
mod runs;
mod server;
