//! The API of the real program over loopback: reads by many clients, and many event streams at once.
//!
//! The clients share the machine's processors with the server, so they do as little as they can: requests are made
//! once, answers are read as far as their length says, and nothing is parsed.
//!
//! A plain program: `cargo bench -p oubliette --bench http [-- --json]`.

#![expect(clippy::print_stdout, reason = "figures are this program's output")]
#![expect(clippy::unwrap_used, reason = "a measurement that cannot be made ends the program")]

use std::io::Read as _;
use std::io::Write as _;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use ob_testkit::Answer;
use ob_testkit::ModelServer;
use rustix::process::Resource;
use rustix::process::Rlimit;
use serde_json::Value;
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
const PATIENCE: Duration = Duration::from_secs(120);

/// A server on a home of its own.
struct Server {
    folder: tempfile::TempDir,
    address: String,
    token: String,
    child: Child,
}

// === impl Server ===

impl Server {
    fn start(model: &ModelServer) -> Self {
        let folder = tempfile::Builder::new().prefix("obl").tempdir().unwrap();
        std::fs::create_dir(folder.path().join("source")).unwrap();
        std::fs::write(folder.path().join("source/a.txt"), "one\n").unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let command = |args: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_oubliette"));
            command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", folder.path());
            command
                .env("OUBLIETTE_SERVER__ADDRESS", &address)
                .env("OUBLIETTE_MODELS__DEMONSTRATION", "false")
                .env("OUBLIETTE_RATE_LIMIT__REQUESTS_PER_SECOND", "1000000")
                .env("OUBLIETTE_RATE_LIMIT__BURST", "1000000")
                .env("OPENAI_API_KEY", "sk-bench")
                .env("OPENAI_BASE_URL", model.base_url())
                .env("OPENAI_MODEL", "scripted-1");
            command.arg("--dir").arg(folder.path().join("home")).args(args);
            command.stdin(Stdio::null()).stderr(Stdio::null());
            command
        };
        let made = command(&["token", "create", "--name", "bench", "--scope", "admin", "--json"]).output();
        let made: Value = serde_json::from_slice(&made.unwrap().stdout).unwrap();
        let token = made["secret"].as_str().unwrap().to_owned();
        let child = command(&["serve"]).stdout(Stdio::null()).spawn().unwrap();
        let server = Self { folder, address, token, child };
        let began = Instant::now();
        while server.ask("GET", "/ready", &Value::Null).is_none_or(|(status, _)| status != 200) {
            assert!(began.elapsed() < PATIENCE, "the server is not ready");
            std::thread::sleep(Duration::from_millis(5));
        }
        server
    }

    /// Asks on a connection of its own.
    fn ask(&self, method: &str, path: &str, body: &Value) -> Option<(u16, Value)> {
        let mut stream = std::net::TcpStream::connect(&self.address).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let headers = format!(
            "Connection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n",
            body.len()
        );
        stream.write_all(self.request(method, path, &headers).as_bytes()).ok()?;
        stream.write_all(body.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, serde_json::from_str(body).unwrap_or_default()))
    }

    /// The head of a request with our token.
    fn request(&self, method: &str, path: &str, headers: &str) -> String {
        format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\n{headers}\r\n",
            self.address, self.token
        )
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        let (status, answer) = self.ask("POST", path, body).unwrap();
        assert!((200..300).contains(&status), "{path}: {status} {answer}");
        answer
    }

    /// Sessions that have done their first task and wait for another one.
    fn sessions(&self) -> Vec<String> {
        let source = self.folder.path().join("source");
        let project = self.post("/api/v1/projects", &json!({ "name": "bench", "source": source }));
        let spawn = |_| {
            let body = json!({ "project_id": project["id"], "message": "look" });
            self.post("/api/v1/sessions", &body)["session_id"].as_str().unwrap().to_owned()
        };
        let sessions: Vec<String> = (0..SESSIONS).map(spawn).collect();
        for session in &sessions {
            let began = Instant::now();
            while self.ask("GET", &path_of(session), &Value::Null).unwrap().1["state"] != "idle" {
                assert!(began.elapsed() < PATIENCE, "{session} is not idle");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        sessions
    }

    /// Resident memory, in KiB.
    fn rss(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.ask("POST", "/api/v1/server/stop", &json!({})));
        self.child.wait().unwrap();
    }
}

fn path_of(session: &str) -> String {
    format!("/api/v1/sessions/{session}")
}

/// A connection that asks for the same again and again.
struct Reader {
    stream: TcpStream,
    request: String,
    buffer: Vec<u8>,
}

// === impl Reader ===

impl Reader {
    async fn connect(server: &Server, session: &str) -> Self {
        let stream = TcpStream::connect(&server.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let request = server.request("GET", &path_of(session), "");
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
async fn reads_per_second(server: &Server, sessions: &[String]) -> f64 {
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
async fn latencies(server: &Server, sessions: &[String], rate: f64) -> Vec<f64> {
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
async fn stream(server: Arc<Server>, session: String, until: &'static str) -> TcpStream {
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    let path = path_of(&session) + "/events";
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
async fn streams(server: &Arc<Server>, sessions: &[String]) -> (usize, f64) {
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
                asked.post(&(path_of(session) + "/message"), &json!({ "message": mark }));
            }
        });
        messages.await.unwrap();
        let received = tokio::time::timeout(PATIENCE, receiving.join_all()).await;
        open = received.expect("every stream receives");
    }
    let memory = (server.rss() - before) / STREAMS as f64;
    (open.len(), memory)
}

fn median(values: &mut [f64]) -> f64 {
    percentile(values, 50)
}

fn percentile(samples: &mut [f64], percent: usize) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[(samples.len() - 1) * percent / 100]
}

fn print(json: bool, name: &str, value: f64, unit: &str, method: &str) {
    if json {
        println!("{}", json!({ "name": name, "value": value, "unit": unit, "method": method }));
    } else {
        println!("{name:24} {value:10.2} {unit:4} {method}");
    }
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
    let server = Arc::new(Server::start(&model));
    let sessions = server.sessions();
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
