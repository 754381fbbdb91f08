//! The first process of a sandbox: reaps, runs what the host asks for over the link, and leads loopback to the gate.
//!
//! ```text
//!   gate socket <── dial ── guest ── serves HTTP/2 ──> processes: stdin pipe, stdout and stderr windows, exit
//!        ^                    |
//!        └──── forward <── 127.0.0.1:GATE_PORT <── anything inside
//! ```
//!
//! One thread, no helpers. Processes belong to the guest and not to a connection: when the link drops they keep
//! running, and block once they have written a window that nobody took.
//!
//! As pid 1 it installs no handler for terminating signals, so the kernel shields it from everything inside; whoever
//! started the sandbox ends it with `SIGKILL`.

mod dial;
mod forward;
mod input;
mod process;
mod reap;
mod rest;
mod serve;
mod spawn;
mod window;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use ob_core::link::GATE_PORT;
use ob_core::link::GATE_SOCKET;
use ob_core::link::OUTSIDE_SOCKET;
use ob_core::link::OUTSIDE_WORKSPACE;
use ob_core::link::WORKSPACE_DIR;

use self::process::Processes;
use self::rest::Rest;
use self::spawn::Spawner;

/// Where things are. Fixed inside a sandbox; tests outside of one say otherwise.
struct Places {
    socket: PathBuf,
    port: u16,
    workspace: PathBuf,
}

/// Why the guest could not start.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("unknown argument {0}")]
    Argument(String),
    #[error("{what}: {source}")]
    Io { what: &'static str, source: std::io::Error },
}

pub(crate) fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to do if even this cannot be written.
            drop(writeln!(std::io::stderr(), "init: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), StartError> {
    let places = Places::from_args(std::env::args().skip(2))?;
    // Outside of a pid namespace of its own (tests, `process` backend) orphans come to the guest as well.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|source| StartError::Io { what: "cannot adopt orphans", source: source.into() })?;
    let mut spawner = Spawner::new(places.workspace);
    let rest = Arc::new(Rest::new());
    let waits = Arc::clone(&rest);
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .on_thread_park(move || waits.before_wait())
        .build()
        .map_err(|source| StartError::Io { what: "cannot start the event loop", source })?
        .block_on(async move {
            let reaper = reap::Reaper::new()
                .map_err(|source| StartError::Io { what: "cannot watch for ended processes", source })?;
            // Before the first dial, so that whatever the host starts finds it.
            let loopback = forward::listen(places.port)
                .await
                .map_err(|source| StartError::Io { what: "cannot listen on the loopback port", source })?;
            if places.port == 0 {
                // Nobody outside knows which one it became.
                let port = loopback.local_addr().map_or(0, |address| address.port());
                spawner.set_variable("OPENAI_BASE_URL", format!("http://127.0.0.1:{port}/v1"));
            }
            let processes = Arc::new(Processes::new(spawner));
            tokio::join!(
                reaper.run(&processes),
                forward::run(loopback, &places.socket),
                dial::run(&places.socket, &processes, &rest),
                rest.run(),
            );
            Ok(())
        })
}

// === impl Places ===

impl Places {
    /// Reads `--socket PATH`, `--port N` and `--workspace DIR`, for tests. `--outside` says that there are no walls:
    /// then the places are in variables, since everyone sees a command line, and the port is any free one.
    fn from_args(mut args: impl Iterator<Item = String>) -> Result<Self, StartError> {
        let mut places = Self {
            socket: PathBuf::from(GATE_SOCKET),
            port: GATE_PORT,
            workspace: PathBuf::from(WORKSPACE_DIR),
        };
        while let Some(name) = args.next() {
            if name == "--outside" {
                let variable = |name: &str| {
                    let value = std::env::var_os(name).map(PathBuf::from);
                    value.ok_or_else(|| StartError::Argument(format!("--outside without {name}")))
                };
                places = Self {
                    socket: variable(OUTSIDE_SOCKET)?,
                    port: 0,
                    workspace: variable(OUTSIDE_WORKSPACE)?,
                };
                continue;
            }
            let value = args.next();
            match (name.as_str(), value) {
                ("--socket", Some(path)) => places.socket = PathBuf::from(path),
                ("--workspace", Some(path)) => places.workspace = PathBuf::from(path),
                ("--port", Some(port)) => {
                    places.port = port.parse().map_err(|_| StartError::Argument(format!("--port {port}")))?;
                }
                _ => return Err(StartError::Argument(name)),
            }
        }
        Ok(places)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(text: &str) -> impl Iterator<Item = String> {
        text.split_whitespace().map(String::from).collect::<Vec<_>>().into_iter()
    }

    #[test]
    fn without_arguments_the_places_are_those_of_a_sandbox() {
        let places = Places::from_args(args("")).expect("no arguments are fine");
        assert_eq!(places.socket, PathBuf::from(GATE_SOCKET));
        assert_eq!(places.port, GATE_PORT);
        assert_eq!(places.workspace, PathBuf::from(WORKSPACE_DIR));
    }

    #[test]
    fn unknown_or_incomplete_arguments_are_refused() {
        for text in ["--outside", "--what", "--socket", "--port x", "--port 70000", "stray --port"] {
            assert!(Places::from_args(args(text)).is_err(), "{text} was accepted");
        }
    }
}
