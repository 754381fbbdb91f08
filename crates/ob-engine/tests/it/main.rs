//! The engine as a whole: a store in memory, a scripted model, and sandboxes of this machine's kernel where a session
//! has to run. Those tests are skipped where there is no bubblewrap or no guest program, and fail there in CI.

#![expect(clippy::print_stderr, reason = "tests say why they are skipped")]

mod audit;
mod children;
mod churn;
mod cleanup;
mod doors;
mod health;
mod life;
mod limits;
mod owner;
mod panics;
mod questions;
mod resume;
mod sleep;
mod standing;
mod takeover;
mod world;
