//! Commands. Data goes to standard output, hints and progress to standard error. Nothing asks, but for Ctrl-C at a task
//! that is watched on a terminal, and `init` before it writes over a configuration.

mod agent;
pub(crate) mod args;
mod audit;
mod checks;
mod client;
mod completions;
mod config;
mod doctor;
mod help;
mod hub;
mod init;
mod man;
mod mcp;
mod model;
mod output;
mod paint;
mod patch;
mod project;
mod run;
#[cfg(test)]
mod scenes;
mod session;
mod store;
mod support;
mod table;
mod text;
mod token;
mod view;
mod watch;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::io::Write as _;
use std::panic::UnwindSafe;
use std::path::PathBuf;

use ob_config::LoadOptions;
use ob_config::Loaded;
use ob_config::Mistakes;
use ob_core::Home;
use ob_core::Refusal;
use ob_core::RefusalCode;
use ob_core::operation::Operation;
use ob_core::operation::ServerStop;

use crate::names;
use crate::server;
use args::Cli;
use args::Command;
use args::Global;
use client::CallError;
use client::Client;
use output::Output;

/// What a process is started with.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    /// The arguments, argv[0] included.
    pub(crate) argv: Vec<OsString>,
    /// The environment.
    pub(crate) env: BTreeMap<OsString, OsString>,
    /// The working directory.
    pub(crate) cwd: PathBuf,
}

// === impl Context ===

impl Context {
    /// A variable, if it is set, not empty and UTF-8.
    pub(crate) fn var(&self, name: &str) -> Option<&str> {
        self.env.get(std::ffi::OsStr::new(name)).and_then(|v| v.to_str()).filter(|v| !v.is_empty())
    }

    /// The folders in which programs are looked up.
    pub(crate) fn find_program(&self, name: &str) -> Option<PathBuf> {
        let path = self.env.get(std::ffi::OsStr::new("PATH"))?;
        std::env::split_paths(path).map(|folder| folder.join(name)).find(|file| file.is_file())
    }
}

/// Exit code of a command that did what was asked.
pub(crate) const OK: u8 = 0;
/// Exit code of a failure that has no code of its own.
pub(crate) const FAILED: u8 = 1;
/// Exit code of "unhealthy": something required is missing, or no server runs.
pub(crate) const UNHEALTHY: u8 = 4;
/// Exit code of "the user stopped it".
pub(crate) const INTERRUPTED: u8 = 130;

/// Ends with a code of the table also after a panic, which the hook has told of: 101 would be none of ours.
pub(crate) fn guarded(work: impl FnOnce() -> u8 + UnwindSafe) -> u8 {
    std::panic::catch_unwind(work).unwrap_or_else(|_| {
        let line =
            "error: a fault of this program\n  fix: report it, with what `oubliette support bundle` packs";
        if writeln!(io::stderr().lock(), "{line}").is_err() {
            // Nobody is there to be told.
        }
        FAILED
    })
}

/// Runs the command that `context` asks for; returns the exit code.
pub(crate) fn main(context: &Context) -> u8 {
    // One provider for everything that speaks TLS; it is set once, here, so a second time cannot be.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        return FAILED;
    }
    let name = names::of(context.argv.first().map(OsString::as_os_str).unwrap_or_default());
    if let Some(code) = completions::answer(context, &Output::new(context, &Global::default())) {
        return code;
    }
    let cli = match args::parse(&context.argv) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to standard output with code 0, mistakes to standard error with code 2.
            let code = error.exit_code();
            if code != 0 && args::is_json(&context.argv) {
                let global = Global { json: true, ..Global::default() };
                let refusal = args::refusal(&error);
                Output::new(context, &global).refused(&refusal);
                return refusal.code.exit_code();
            }
            return match error.print() {
                Ok(()) => u8::try_from(code).unwrap_or(2),
                Err(_) => FAILED,
            };
        }
    };
    let output = Output::new(context, &cli.global);
    match dispatch(context, name, cli, &output) {
        Ok(code) => code,
        Err(refusal) => {
            output.refused(&refusal);
            refusal.code.exit_code()
        }
    }
}

fn dispatch(context: &Context, name: names::ProgramName, cli: Cli, output: &Output) -> Result<u8, Refusal> {
    let Cli { global, daemon, takeover, detached, command } = cli;
    let command = match command {
        Some(command) => command,
        None if name.implied == "serve" => Command::Serve(args::ServeArgs { daemon, takeover, detached }),
        None => return Err(Refusal::invalid("no command was given").fix("see `oubliette --help`")),
    };
    match command {
        Command::Completions { shell } => completions::command(shell, output),
        Command::Man(args) => man::command(&args, &context.cwd, output),
        Command::Serve(serve) if serve.daemon || daemon => {
            let hub = hub::Hub::load(context, &global)?;
            hub.start_command(serve.takeover || takeover, output)
        }
        Command::Serve(serve) => {
            let detached = serve.detached || detached;
            if !detached {
                server::become_server(context)?;
            }
            server::run(context, &global, detached, serve.takeover || takeover)
        }
        Command::Init(args) => wait(init::command(&args, context, &global, output)),
        Command::Doctor(args) => wait(doctor::command(context, &global, &args, output)),
        Command::Store(command) => wait(store::command(command, &load(context, &global)?, output)),
        Command::Support(command) => wait(support::command(command, context, &global, output)),
        Command::Token(command) => wait(token::command(command, context, &global, output)),
        Command::Audit(command) => wait(audit::command(command, context, &global, output)),
        Command::Mcp(args) => wait(mcp::command(args, context, &global, output)),
        Command::Status => wait(hub::Hub::load_anyway(context, &global, output)?.status(output)),
        Command::Stop(stop) => {
            wait(hub::Hub::load_anyway(context, &global, output)?.stop(stop.keep_sandboxes, output))
        }
        Command::Reload => wait(config::reload(&hub::Hub::load_anyway(context, &global, output)?, output)),
        Command::Config(command) => wait(config::command(command, context, &global, output)),
        Command::Agent(command) => {
            let hub = hub::Hub::load(context, &global)?;
            wait(agent::command(command, &hub, output))
        }
        Command::Model(command) => {
            let hub = hub::Hub::load(context, &global)?;
            wait(model::command(command, &hub, output))
        }
        Command::Project(command) => {
            let hub = hub::Hub::load(context, &global)?;
            wait(project::command(command, &hub, output))
        }
        Command::Session(command) => {
            let hub = hub::Hub::load(context, &global)?;
            wait(session::command(command, &hub, output))
        }
        Command::Run(run) => {
            let hub = hub::Hub::load(context, &global)?;
            wait(run::command(run, &hub, output))
        }
    }
}

/// Finds the home and reads its configuration.
pub(crate) fn load(context: &Context, global: &Global) -> Result<Loaded, Refusal> {
    ob_config::load(&options(context, global)).map_err(|mistakes| has_mistakes(&mistakes))
}

/// Where to look for the home and its configuration.
pub(crate) fn options(context: &Context, global: &Global) -> LoadOptions {
    LoadOptions {
        dir: global.dir.clone(),
        config_file: global.config.clone(),
        env: context.env.clone(),
        cwd: context.cwd.clone(),
        uid: rustix::process::geteuid().as_raw(),
    }
}

/// Makes what is missing of the home, and notes that this person uses it. True if the home is new.
pub(crate) fn make_home(context: &Context, global: &Global, loaded: &Loaded) -> Result<bool, Refusal> {
    // First the note: what was made here without it would look as if it had come with a clone.
    ob_config::note_home(&options(context, global), loaded)
        .map_err(|error| failed("note the home", &error))?;
    ob_config::make_home(&loaded.home).map_err(|error| failed("make the home", &error))
}

/// Asks the server of a home to drain and to leave its sandboxes to the next one. False if none listens.
pub(crate) async fn tell_to_drain(home: &Home) -> Result<bool, Refusal> {
    let params = ServerStop { keep_sandboxes: true };
    let client = Client::new(home.control_socket());
    match client.call::<serde_json::Value>(Operation::ServerStop, &params).await {
        // The connection may break before the answer is read: it stops then.
        Ok(_) | Err(CallError::Lost(_)) => Ok(true),
        Err(CallError::Absent) => Ok(false),
        // It drains already, or has just started: the lock tells.
        Err(CallError::Refused(refusal)) if refusal.code == RefusalCode::Unavailable => Ok(true),
        Err(error) => Err(error.into()),
    }
}

fn has_mistakes(mistakes: &Mistakes) -> Refusal {
    Refusal::invalid(format!("the configuration has mistakes\n{mistakes}")).fix("mend them and try again")
}

/// Drives a command on one thread: it waits for one server and prints.
fn wait(command: impl Future<Output = Result<u8, Refusal>>) -> Result<u8, Refusal> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| failed("start", &error))?;
    let outcome = runtime.block_on(command);
    // A look-up or a disk that hangs must not keep a command that has ended.
    runtime.shutdown_background();
    outcome
}

/// A fault of the machine as a refusal.
pub(crate) fn failed(what: &str, error: &io::Error) -> Refusal {
    Refusal::unavailable(format!("cannot {what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_ends_with_the_code_of_a_failure() {
        assert_eq!(guarded(|| 4), 4);
        assert_eq!(guarded(|| panic!("in a test")), FAILED);
    }
}
