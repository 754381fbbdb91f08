//! Static programs at the sandbox's edge, told apart by their first argument: `launch` outside (starts and ends the
//! sandbox), `init` inside (first process and guest link), `agent` inside (the built-in agent, an ACP server).

mod agent;
mod init;
mod launch;

use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("launch") => launch::main(),
        Some("agent") => agent::main(),
        // bubblewrap starts the guest without arguments.
        None | Some("init") => init::main(),
        Some(_) => ExitCode::from(2),
    }
}
