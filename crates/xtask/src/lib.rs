//! Chores of this repository that need more than a line of shell. Run one with `cargo xtask NAME`.

pub mod bench;
pub mod tidy;
