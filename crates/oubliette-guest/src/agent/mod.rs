//! The built-in agent: a server of the Agent Client Protocol (ACP, version 1) over stdio.
//!
//! ```text
//!  stdin  -> rpc::Lines -> server::Server -> turn::Turn -> model (through the gate) -> tools -> model ...
//!  stdout <- rpc::Outbox <----------+------------+--- session/update, responses
//!                                   session::Session: transcript on disk, context window
//! ```
//!
//! Invariants:
//! - Every request gets exactly one response, whatever its turn meets; bad input never ends the agent.
//! - What a turn did is in the transcript before the client hears of it, so a restarted agent knows it.
//! - Cancelling drops the turn's future: connections close and process groups are killed by their guards.

mod context;
mod model;
mod options;
mod prompt;
mod repetition;
pub(crate) mod rpc;
mod server;
pub(crate) mod session;
mod text;
mod tools;
mod transcript;
mod turn;

use std::future::Future;
use std::io;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::fd::BorrowedFd;
use std::process::ExitCode;
use std::time::Duration;

use tokio::fs::File;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;

use options::Options;

/// Lines read ahead of the server. Small: a line may be large, and the client waits for answers anyway.
const READ_AHEAD: usize = 8;
/// How long the last answers may take to leave after the end of input; the reader of our output may be gone.
const DRAIN: Duration = Duration::from_secs(2);
/// File work and standard streams run on a few threads with small stacks; the agent must stay small.
const BLOCKING_THREADS: usize = 8;
const BLOCKING_STACK: usize = 512 * 1024;

pub(crate) fn main() -> ExitCode {
    // tidy: environment: this is the main of its program; ob-config is not in the guest.
    let (home, gate) = (std::env::var_os("HOME"), std::env::var_os(ob_core::link::OUTSIDE_SOCKET));
    let options = match Options::parse(std::env::args().skip(2), home, gate) {
        Ok(options) => options,
        Err(refusal) => {
            report(&refusal);
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_stack_size(BLOCKING_STACK)
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            report(&format!("cannot start the runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(LocalSet::new().run_until(run(options)));
    // A thread may still sit in a read of standard input; it must not hold up the end.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&format!("cannot serve: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Serves until the input ends, the output is gone, or SIGTERM.
async fn run(options: Options) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let input = own(io::stdin().as_fd())?;
    let output = own(io::stdout().as_fd())?;
    let ended = CancellationToken::new();
    let (lines, incoming) = mpsc::channel(READ_AHEAD);
    let reader = tokio::task::spawn_local(read(lines, input, ended.clone()));
    let (outbox, outgoing) = rpc::outbox();
    let mut writer = tokio::task::spawn_local(rpc::write(outgoing, output));

    let server = server::Server::new(options, outbox).serve(incoming);
    let mut server = Box::pin(within(server, &ended));
    tokio::select! {
        () = &mut server => {}
        _ = terminate.recv() => {}
        // The reader of our output is gone: nothing that is done now could be told to anyone.
        _ = &mut writer => return Ok(()),
    }
    reader.abort();
    // Turns that were under way end here, and with the server the last sender of the outbox.
    drop(server);
    // Whatever could not be written by now has no reader.
    let _drained = tokio::time::timeout(DRAIN, writer).await;
    Ok(())
}

/// Runs the server to its end, but no longer than [`DRAIN`] after the input has ended.
async fn within(server: impl Future<Output = ()>, ended: &CancellationToken) {
    tokio::select! {
        () = server => {}
        () = async {
            ended.cancelled().await;
            tokio::time::sleep(DRAIN).await;
        } => {}
    }
}

/// A standard stream to read or write from the runtime. Its mode stays as it is: others may share it.
pub(crate) fn own(stream: BorrowedFd<'_>) -> io::Result<File> {
    Ok(File::from_std(stream.try_clone_to_owned()?.into()))
}

async fn read(lines: mpsc::Sender<rpc::Line>, input: File, ended: CancellationToken) {
    let _guard = ended.drop_guard();
    let mut input = rpc::Lines::new(input);
    // An unreadable input is an ended input.
    while let Ok(Some(line)) = input.next().await {
        if lines.send(line).await.is_err() {
            return;
        }
    }
}

/// Says something to whoever reads the agent's error output, which may be no one.
fn report(text: &str) {
    let _written = writeln!(io::stderr(), "agent: {text}");
}
