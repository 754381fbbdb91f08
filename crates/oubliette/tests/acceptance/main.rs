//! The program as its users have it: the real binary, a real home, real sandboxes, a scripted model on loopback.
//!
//! What a machine lacks is listed and skipped; with `CI=true` nothing is skipped.

#![expect(clippy::unwrap_used, reason = "a test says what it expects by failing")]
#![expect(clippy::print_stderr, reason = "a skipped test says so")]

mod agents;
mod audit;
mod bombs;
mod children;
mod client;
mod config;
mod crash;
mod doctor;
mod foreign;
mod forms;
mod harness;
mod http;
mod init;
mod isolation;
mod job;
mod live;
mod mcp;
mod models;
mod own_agents;
mod permissions;
mod process;
mod questions;
mod refusals;
mod secrecy;
mod shells;
mod succession;
mod support;
mod terminal;
mod tools;
mod wires;
