//! The demonstration model as a program: an OpenAI-compatible server on loopback that repairs small faults by script.
//!
//! With `--port 0` it prints one line, `{"port":N}`, when it listens. With `--with-parent` it ends when its input closes,
//! so that it never outlives whoever started it.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use ob_testkit::repairer::serve::Pace;
use ob_testkit::repairer::serve::router;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;

/// The scripted demonstration model of Oubliette. Not a language model.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The port on 127.0.0.1; with 0 a free one is taken and printed as one line of JSON.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Milliseconds between two pieces of an answer.
    #[arg(long, default_value_t = 15)]
    pace_ms: u64,
    /// End when standard input closes.
    #[arg(long)]
    with_parent: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for signals")?;
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, arguments.port))
        .await
        .with_context(|| format!("cannot listen on 127.0.0.1:{}", arguments.port))?;
    let port = listener.local_addr().context("no local address")?.port();
    writeln!(std::io::stdout(), "{}", serde_json::json!({ "port": port })).context("cannot tell the port")?;
    let pace = Pace { between_pieces: Duration::from_millis(arguments.pace_ms) };
    let serving = std::future::IntoFuture::into_future(axum::serve(listener, router(pace)));
    // Answers in flight are cut: whoever asked for them is going away as well.
    tokio::select! {
        served = serving => served.context("the server failed"),
        _ = terminate.recv() => Ok(()),
        () = parent_gone(), if arguments.with_parent => Ok(()),
    }
}

/// Returns when standard input is closed. A plain thread reads it: one of the runtime's would keep the program from
/// ending on a signal.
async fn parent_gone() {
    let (closed, wait) = tokio::sync::oneshot::channel::<()>();
    std::thread::spawn(move || {
        let copied = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        drop((copied, closed));
    });
    // The sender is only dropped, never used.
    drop(wait.await);
}
