//! `oubliette`: the command line, the daemon, and the wiring of everything.
//!
//! ```text
//! main -> names (what argv[0] means) -> cli (parse, run a command) -> control socket of the home -> server
//!                                        `serve` -> server (lock, listeners, wire, signals)
//! ```

mod cli;
mod guest;
mod inherit;
mod names;
mod server;
mod version;

use std::process::ExitCode;

use cli::Context;

fn main() -> ExitCode {
    // The only place of this program that reads its environment; from here on it is an argument.
    let context = Context {
        argv: std::env::args_os().collect(),
        env: std::env::vars_os().collect(),
        cwd: std::env::current_dir().unwrap_or_else(|_| "/".into()),
    };
    #[cfg(feature = "failpoints")]
    if let Some(plan) = context.env.get(std::ffi::OsStr::new("CRASH_POINT")) {
        ob_crash::arm(&plan.to_string_lossy()).expect("CRASH_POINT is NAME:N");
    }
    ExitCode::from(cli::guarded(|| cli::main(&context)))
}
