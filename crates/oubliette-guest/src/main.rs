//! Static programs at the sandbox's edge, told apart by their first argument: `launch` outside (starts and ends the
//! sandbox), nothing or `init` (first process and guest link), `agent` inside (the built-in agent, an ACP server), `start`
//! inside (another agent).

mod agent;
mod cage;
mod group;
mod idle;
mod init;
mod launch;
mod start;

use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("launch") => launch::main(),
        Some("agent") => agent::main(),
        Some("start") => start::main(),
        // bubblewrap starts the guest without arguments: then it is in a sandbox, and closes the cage first.
        None => match cage::close() {
            Ok(()) => init::main(),
            Err(error) => {
                cage::complain(&error);
                ExitCode::FAILURE
            }
        },
        // The first process of sandboxes that tests look at from inside.
        Some("exec") => cage::execute(std::env::args().skip(2)),
        // Outside of a sandbox there is nothing to close.
        Some("init") => init::main(),
        Some(_) => ExitCode::from(2),
    }
}
