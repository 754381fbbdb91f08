//! Drives the real agent over stdio against a scripted model.

#![expect(clippy::disallowed_methods, reason = "a channel of a test holds what that test sends")]

mod cancel;
mod faults;
mod flow;
mod harness;
mod load;
mod memory;
mod protocol;
mod repairs;
