//! Drives the real agent over stdio against a scripted model.

mod cancel;
mod faults;
mod flow;
mod harness;
mod load;
mod protocol;
