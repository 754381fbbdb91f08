//! The API of the real program over loopback: reads by many clients, and many event streams at once.
//!
//! The clients share the machine's processors with the server, so they do as little as they can: requests are made
//! once, answers are read as far as their length says, and nothing is parsed.
//!
//! A plain program: `cargo bench -p oubliette --bench http [-- --json]`.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot be made ends the program")]

#[path = "shared/askers.rs"]
mod askers;

use std::sync::Arc;

use ob_testkit::Answer;
use ob_testkit::ModelServer;
use ob_testkit::bench::PATIENCE;
use ob_testkit::bench::Program;
use ob_testkit::bench::median;
use ob_testkit::bench::percentile;
use ob_testkit::bench::print;
use ob_testkit::bench::session_path;
use rustix::process::Resource;
use rustix::process::Rlimit;
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use askers::CLIENTS;
use askers::ROUNDS;
use askers::SESSIONS;
use askers::SPAN;
use askers::latencies;
use askers::per_second;

/// What the answer to a read has in it.
const SIGN: &str = "\"session_id\"";
/// Streams at once.
const STREAMS: usize = 2000;

/// A stream, read until a text comes; gives the connection back.
async fn stream(server: Arc<Program>, session: String, until: &'static str) -> TcpStream {
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let path = session_path(&session) + "/events";
    stream.write_all(server.request("GET", &path, "Accept: text/event-stream\r\n").as_bytes()).await.unwrap();
    read_until(&mut stream, until).await;
    stream
}

async fn read_until(stream: &mut TcpStream, until: &str) {
    let mut seen: Vec<u8> = Vec::new();
    while !seen.windows(until.len()).any(|window| window == until.as_bytes()) {
        // What was looked at already is kept only as far as the text may have begun in it.
        seen.drain(..seen.len().saturating_sub(until.len()));
        assert!(stream.read_buf(&mut seen).await.unwrap() > 0, "the server closed");
    }
}

/// Opens all streams, lets something happen that each has to receive, twice; how many did, and the memory of one.
async fn streams(server: &Arc<Program>, sessions: &[String]) -> (usize, f64) {
    let before = server.rss();
    let mut opening = JoinSet::new();
    for n in 0..STREAMS {
        opening.spawn(stream(Arc::clone(server), sessions[n % SESSIONS].clone(), "look"));
    }
    let mut open = opening.join_all().await;
    for mark in ["first-mark", "second-mark"] {
        let mut receiving = JoinSet::new();
        for mut stream in open.drain(..) {
            receiving.spawn(async move {
                read_until(&mut stream, mark).await;
                stream
            });
        }
        let (asked, all) = (Arc::clone(server), sessions.to_vec());
        let messages = tokio::task::spawn_blocking(move || {
            for session in &all {
                asked.post(&(session_path(session) + "/message"), &json!({ "message": mark }));
            }
        });
        messages.await.unwrap();
        let received = tokio::time::timeout(PATIENCE, receiving.join_all()).await;
        open = received.expect("every stream receives");
    }
    let memory = (server.rss() - before) / STREAMS as f64;
    (open.len(), memory)
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    // `cargo test --benches` asks for nothing.
    if !has("--bench") && !has("--json") {
        return;
    }
    let json = has("--json");
    let Rlimit { maximum, .. } = rustix::process::getrlimit(Resource::Nofile);
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    // The scripted model has threads of its own; the clients share one.
    let models = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let model = models.block_on(ModelServer::start()).unwrap();
    model.otherwise(Answer::text("ok"));
    let mut server = Program::new(env!("CARGO_BIN_EXE_oubliette")).with_model(&model);
    server.start();
    let server = Arc::new(server);
    let sessions = askers::sessions(&server);
    let reads: Vec<String> =
        sessions.iter().map(|session| server.request("GET", &session_path(session), "")).collect();
    let clients = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    clients.block_on(async {
        let mut rates = Vec::new();
        for _ in 0..ROUNDS {
            rates.push(per_second(server.address(), &reads, SIGN).await);
        }
        let rate = median(&mut rates);
        let method = format!(
            "GET of one of {SESSIONS} live sessions with a token, {CLIENTS} clients on as many connections, each asking again \
             at once, for {} s; the clients share the processors; median of {ROUNDS}",
            SPAN.as_secs()
        );
        print(json, "http_reads_per_s", rate, "1/s", &method);
        let mut p99: Vec<f64> = Vec::new();
        for _ in 0..ROUNDS {
            p99.push(percentile(&mut latencies(server.address(), &reads, SIGN, rate / 2.0).await, 99));
        }
        let method = format!(
            "the same at {:.0} reads a second, from when each was due to its whole answer, p99; median of {ROUNDS}",
            rate / 2.0
        );
        print(json, "http_read_p99", median(&mut p99), "ms", &method);
        let (open, memory) = streams(&server, &sessions).await;
        let method = format!(
            "event streams of {SESSIONS} live sessions, all open at once, that received every event of two more turns"
        );
        print(json, "sse_streams", open as f64, "", &method);
        let method = format!("VmRSS with {STREAMS} open streams that received, less that before they opened, by stream");
        print(json, "sse_stream_rss", memory, "KiB", &method);
    });
}
