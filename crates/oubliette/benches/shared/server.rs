//! What the benches of the server's doors share: a server on a home of its own, answers, and how figures are printed.

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

use ob_testkit::ModelServer;
use serde_json::Value;
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Live sessions, with a sandbox each.
pub(crate) const SESSIONS: usize = 20;
/// Clients that ask at once, each on a connection of its own.
pub(crate) const CLIENTS: usize = 50;
/// How long one measurement runs, and how many there are.
pub(crate) const SPAN: Duration = Duration::from_secs(4);
pub(crate) const ROUNDS: usize = 3;
/// Nothing takes so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A server on a home of its own.
pub(crate) struct Server {
    folder: tempfile::TempDir,
    pub(crate) address: String,
    token: String,
    child: Child,
}

// === impl Server ===

impl Server {
    pub(crate) fn start(model: &ModelServer) -> Self {
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
    pub(crate) fn ask(&self, method: &str, path: &str, body: &Value) -> Option<(u16, Value)> {
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
    pub(crate) fn request(&self, method: &str, path: &str, headers: &str) -> String {
        format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\n{headers}\r\n",
            self.address, self.token
        )
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Value {
        let (status, answer) = self.ask("POST", path, body).unwrap();
        assert!((200..300).contains(&status), "{path}: {status} {answer}");
        answer
    }

    /// Sessions that have done their first task and wait for another one.
    pub(crate) fn sessions(&self) -> Vec<String> {
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
    pub(crate) fn rss(&self) -> f64 {
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

pub(crate) fn path_of(session: &str) -> String {
    format!("/api/v1/sessions/{session}")
}

/// A connection that asks for the same again and again.
struct Asker {
    stream: TcpStream,
    request: String,
    /// What each answer must have in it.
    sign: &'static str,
    buffer: Vec<u8>,
}

// === impl Asker ===

impl Asker {
    async fn connect(address: &str, request: &str, sign: &'static str) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, request: request.to_owned(), sign, buffer: Vec::with_capacity(16 * 1024) }
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
        let is_good = self.buffer.starts_with(b"HTTP/1.1 200 ")
            && self.buffer.windows(self.sign.len()).any(|window| window == self.sign.as_bytes());
        assert!(is_good, "{}", String::from_utf8_lossy(&self.buffer));
    }
}

/// As many answers in a second as the clients get when each asks again at once.
pub(crate) async fn per_second(address: &str, requests: &[String], sign: &'static str) -> f64 {
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for n in 0..CLIENTS {
        let mut asker = Asker::connect(address, &requests[n % requests.len()], sign).await;
        let stop = Arc::clone(&stop);
        clients.spawn(async move {
            let mut answers = 0_u32;
            while !stop.load(Ordering::Relaxed) {
                asker.ask().await;
                answers += 1;
            }
            answers
        });
    }
    let began = Instant::now();
    tokio::time::sleep(SPAN).await;
    stop.store(true, Ordering::Relaxed);
    let answers: u32 = clients.join_all().await.into_iter().sum();
    f64::from(answers) / began.elapsed().as_secs_f64()
}

/// How long answers take, in milliseconds, if together so many are asked for in a second. From when each was to be asked,
/// so that one that waits for the one before is counted with its wait.
pub(crate) async fn latencies(address: &str, requests: &[String], sign: &'static str, rate: f64) -> Vec<f64> {
    let mut clients = JoinSet::new();
    let pause = Duration::from_secs_f64(CLIENTS as f64 / rate);
    let count = (SPAN.as_secs_f64() / pause.as_secs_f64()) as u32;
    let began = tokio::time::Instant::now() + Duration::from_millis(50);
    for n in 0..CLIENTS {
        let mut asker = Asker::connect(address, &requests[n % requests.len()], sign).await;
        // Spread over one pause, as clients that know nothing of each other are.
        let first = began + pause * u32::try_from(n).unwrap() / u32::try_from(CLIENTS).unwrap();
        clients.spawn(async move {
            let mut took = Vec::with_capacity(count as usize);
            for number in 0..count {
                let due = first + pause * number;
                tokio::time::sleep_until(due).await;
                asker.ask().await;
                took.push(due.elapsed().as_secs_f64() * 1e3);
            }
            took
        });
    }
    clients.join_all().await.into_iter().flatten().collect()
}

/// The length of an answer with its head, once the head is there.
fn length(answer: &[u8]) -> Option<usize> {
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&answer[..head]).unwrap();
    let value = text.split_once("content-length: ").unwrap().1.split_once("\r\n").unwrap().0;
    Some(head + value.parse::<usize>().unwrap())
}

pub(crate) fn median(values: &mut [f64]) -> f64 {
    percentile(values, 50)
}

pub(crate) fn percentile(samples: &mut [f64], percent: usize) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[(samples.len() - 1) * percent / 100]
}

pub(crate) fn print(json: bool, name: &str, value: f64, unit: &str, method: &str) {
    if json {
        println!("{}", json!({ "name": name, "value": value, "unit": unit, "method": method }));
    } else {
        println!("{name:24} {value:10.2} {unit:4} {method}");
    }
}
