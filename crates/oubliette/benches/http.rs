//! The API of the real program over loopback: reads by many clients, and many event streams at once.
//!
//! The clients share the machine's processors with the server, so they do as little as they can: requests are made
//! once, answers are read as far as their length says, and nothing is parsed.
//!
//! A plain program: `cargo bench -p oubliette --bench http [-- --json]`.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot be made ends the program")]

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

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

/// Live sessions, with a sandbox each.
const SESSIONS: usize = 20;
/// Clients that read at once, each on a connection of its own.
const CLIENTS: usize = 50;
/// How long one measurement of reads runs, and how many there are.
const SPAN: Duration = Duration::from_secs(4);
const ROUNDS: usize = 3;
/// Streams at once.
const STREAMS: usize = 2000;

/// Sessions that have done their first task and wait for another one.
fn sessions(server: &Program) -> Vec<String> {
    let project = server.project();
    let sessions: Vec<String> = (0..SESSIONS).map(|_| server.spawn(&project)).collect();
    sessions.iter().for_each(|session| server.wait(session, "idle"));
    sessions
}

/// A connection that asks for the same again and again.
struct Reader {
    stream: TcpStream,
    request: String,
    buffer: Vec<u8>,
}

// === impl Reader ===

impl Reader {
    async fn connect(server: &Program, session: &str) -> Self {
        let stream = TcpStream::connect(server.address()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let request = server.request("GET", &session_path(session), "");
        Self { stream, request, buffer: Vec::with_capacity(16 * 1024) }
    }

    /// One request and its whole answer.
    async fn ask(&mut self) {
        self.stream.write_all(self.request.as_bytes()).await.unwrap();
        self.buffer.clear();
        let whole = loop {
            assert!(self.stream.read_buf(&mut self.buffer).await.unwrap() > 0, "the server closed");
            if let Some(whole) = length(&self.buffer) {
                break whole;
            }
        };
        while self.buffer.len() < whole {
            assert!(self.stream.read_buf(&mut self.buffer).await.unwrap() > 0, "the server closed");
        }
        assert!(self.buffer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&self.buffer));
    }
}

/// The length of an answer with its head, once the head is there.
fn length(answer: &[u8]) -> Option<usize> {
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&answer[..head]).unwrap();
    let value = text.split_once("content-length: ").unwrap().1.split_once("\r\n").unwrap().0;
    Some(head + value.parse::<usize>().unwrap())
}

/// As many reads in a second as the clients get when each asks again at once.
async fn reads_per_second(server: &Program, sessions: &[String]) -> f64 {
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for n in 0..CLIENTS {
        let mut reader = Reader::connect(server, &sessions[n % SESSIONS]).await;
        let stop = Arc::clone(&stop);
        clients.spawn(async move {
            let mut reads = 0_u32;
            while !stop.load(Ordering::Relaxed) {
                reader.ask().await;
                reads += 1;
            }
            reads
        });
    }
    let began = Instant::now();
    tokio::time::sleep(SPAN).await;
    stop.store(true, Ordering::Relaxed);
    let reads: u32 = clients.join_all().await.into_iter().sum();
    f64::from(reads) / began.elapsed().as_secs_f64()
}

/// How long reads take, in milliseconds, if together so many are asked for in a second. From when each was to be asked,
/// so that one that waits for the one before is counted with its wait.
async fn latencies(server: &Program, sessions: &[String], rate: f64) -> Vec<f64> {
    let mut clients = JoinSet::new();
    let pause = Duration::from_secs_f64(CLIENTS as f64 / rate);
    let reads = (SPAN.as_secs_f64() / pause.as_secs_f64()) as u32;
    let began = tokio::time::Instant::now() + Duration::from_millis(50);
    for n in 0..CLIENTS {
        let mut reader = Reader::connect(server, &sessions[n % SESSIONS]).await;
        // Spread over one pause, as clients that know nothing of each other are.
        let first = began + pause * u32::try_from(n).unwrap() / u32::try_from(CLIENTS).unwrap();
        clients.spawn(async move {
            let mut took = Vec::with_capacity(reads as usize);
            for read in 0..reads {
                let due = first + pause * read;
                tokio::time::sleep_until(due).await;
                reader.ask().await;
                took.push(due.elapsed().as_secs_f64() * 1e3);
            }
            took
        });
    }
    clients.join_all().await.into_iter().flatten().collect()
}

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
    let sessions = sessions(&server);
    let clients = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    clients.block_on(async {
        let mut rates = Vec::new();
        for _ in 0..ROUNDS {
            rates.push(reads_per_second(&server, &sessions).await);
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
            p99.push(percentile(&mut latencies(&server, &sessions, rate / 2.0).await, 99));
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
