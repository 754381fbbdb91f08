//! What the measurements of the real program share: a server on a home of its own, asked over loopback, and figures.
//!
//! A measurement that cannot be made ends the program that makes it, with the reason.

#![expect(clippy::print_stdout, reason = "figures are the output of those who measure")]

use std::io::Read as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use serde_json::json;
use tempfile::TempDir;

use crate::ModelServer;

/// Longer than anything takes that is measured; only a hang reaches it.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// How often a server that starts is asked whether it is ready.
const ASK_AGAIN: Duration = Duration::from_micros(500);

/// The program in a home of its own, with nothing of this process's environment but where programs are; and its server,
/// which is stopped with it.
pub struct Program {
    folder: TempDir,
    program: PathBuf,
    address: SocketAddr,
    token: String,
    env: Vec<(String, String)>,
    child: Option<Child>,
}

// === impl Program ===

impl Program {
    /// The program that this file is. There is no home yet, no model and no limit on how often anyone may ask.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        // The path of a socket may have 108 bytes at most.
        let folder = tempfile::Builder::new().prefix("obl").tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("source")).expect("a folder");
        std::fs::write(folder.path().join("source/a.txt"), "one\n").expect("a file");
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = free.expect("a free port");
        let program = Self {
            folder,
            program: program.into(),
            address,
            token: String::new(),
            env: Vec::new(),
            child: None,
        };
        program
            .set("OUBLIETTE_SERVER__ADDRESS", &address.to_string())
            .set("OUBLIETTE_MODELS__DEMONSTRATION", "false")
            .set("OUBLIETTE_MODELS__DISCOVER_PORTS", "[]")
            .set("OUBLIETTE_RATE_LIMIT__REQUESTS_PER_SECOND", "1000000")
            .set("OUBLIETTE_RATE_LIMIT__BURST", "1000000")
    }

    /// With this scripted model.
    #[must_use]
    pub fn with_model(self, model: &ModelServer) -> Self {
        self.set("OPENAI_API_KEY", "sk-bench")
            .set("OPENAI_BASE_URL", &model.base_url())
            .set("OPENAI_MODEL", "scripted-1")
    }

    /// With this variable.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The home.
    pub fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    /// A folder to be the source of projects, with one file.
    pub fn source(&self) -> PathBuf {
        self.folder.path().join("source")
    }

    /// Where the server listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A command of this home.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.env_clear().env("HOME", self.folder.path());
        command.envs(std::env::var_os("PATH").map(|path| ("PATH", path))).envs(self.env.iter().cloned());
        command.arg("--dir").arg(self.home()).args(words).stdin(Stdio::null());
        command
    }

    /// Spawns the server; how long it took until `/ready` answered 200.
    pub fn start(&mut self) -> Duration {
        let began = Instant::now();
        let mut serve = self.command(&["serve"]);
        let child = serve.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.child = Some(child.expect("the program"));
        while self.get("/ready").is_none_or(|(status, _)| status != 200) {
            assert!(began.elapsed() < PATIENCE, "the server is not ready");
            std::thread::sleep(ASK_AGAIN);
        }
        let took = began.elapsed();
        if self.token.is_empty() {
            let words = ["token", "create", "--name", "bench", "--scope", "admin", "--json"];
            let made = self.command(&words).output().expect("the program");
            let made: Value = serde_json::from_slice(&made.stdout).expect("a token");
            made["secret"].as_str().expect("a token").clone_into(&mut self.token);
        }
        took
    }

    /// Kills the server with -9.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().and_then(|()| child.wait()).expect("a server of ours");
        }
    }

    /// Stops the server, if it runs.
    pub fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let mut stop = self.command(&["stop"]);
        // If it cannot be asked, waiting for it says so by not ending.
        stop.stdout(Stdio::null()).stderr(Stdio::null()).status().ok();
        child.wait().expect("a server of ours");
    }

    /// The server's resident memory, in KiB.
    pub fn rss(&self) -> f64 {
        let pid = self.child.as_ref().expect("a server that runs").id();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("the kernel says so");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
    }

    /// The head of a request with our token; `headers` end each with a line break.
    pub fn request(&self, method: &str, path: &str, headers: &str) -> String {
        let token = if self.token.is_empty() {
            String::new()
        } else {
            format!("Authorization: Bearer {}\r\n", self.token)
        };
        format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n{token}{headers}\r\n", self.address)
    }

    /// Asks on a connection of its own; nothing if there was no whole answer.
    pub fn get(&self, path: &str) -> Option<(u16, Value)> {
        self.exchange("GET", path, "")
    }

    /// Asks for something that must be done.
    pub fn post(&self, path: &str, body: &Value) -> Value {
        let (status, answer) = self.exchange("POST", path, &body.to_string()).expect("an answer");
        assert!((200..300).contains(&status), "{path}: {status} {answer}");
        answer
    }

    fn exchange(&self, method: &str, path: &str, body: &str) -> Option<(u16, Value)> {
        let mut stream = TcpStream::connect(self.address).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let length = body.len();
        let headers =
            format!("Connection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n");
        stream.write_all(self.request(method, path, &headers).as_bytes()).ok()?;
        stream.write_all(body.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, serde_json::from_str(body).unwrap_or_default()))
    }

    /// Makes a project of the source; its id.
    pub fn project(&self) -> String {
        let made = self.post("/api/v1/projects", &json!({ "name": "bench", "source": self.source() }));
        made["id"].as_str().expect("an id").to_owned()
    }

    /// Starts a session in a project; its id.
    pub fn spawn(&self, project: &str) -> String {
        let made = self.post("/api/v1/sessions", &json!({ "project_id": project, "message": "look" }));
        made["session_id"].as_str().expect("an id").to_owned()
    }

    /// Waits until a session is in a state.
    pub fn wait(&self, session: &str, state: &str) {
        let began = Instant::now();
        while self.get(&session_path(session)).expect("an answer").1["state"] != state {
            assert!(began.elapsed() < PATIENCE, "{session} is not {state}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Where a session is read.
pub fn session_path(session: &str) -> String {
    format!("/api/v1/sessions/{session}")
}

/// The value that this percentage of the samples is not above.
pub fn percentile(samples: &mut [f64], percent: usize) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[(samples.len() - 1) * percent / 100]
}

/// The middle one.
pub fn median(samples: &mut [f64]) -> f64 {
    percentile(samples, 50)
}

/// Prints a figure: as a line of JSON for `xtask bench`, or for people.
pub fn print(json: bool, name: &str, value: f64, unit: &str, method: &str) {
    if json {
        println!("{}", json!({ "name": name, "value": value, "unit": unit, "method": method }));
    } else {
        println!("{name:28} {value:10.2} {unit:5} {method}");
    }
}
