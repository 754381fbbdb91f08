//! The namespace backend against a real kernel: its walls, its life and its end.
//!
//! Each test of a wall has a positive control: the same attempt, where there is no wall, works. The tests run as
//! whoever runs them; run by root, they also run a second time as an unprivileged user (see `walls`).

#![expect(clippy::print_stderr, reason = "tests say why they are skipped")]

mod cage;
mod conformance;
mod figures;
mod life;
mod limits;
mod probe;
mod repository;
mod tools;
mod walls;
mod world;
