//! An agent process, and a model that answers from a script.

use std::collections::VecDeque;
use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::ChildStdin;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::mpsc;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::Sender;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use serde_json::json;
use tempfile::TempDir;

/// Longer than anything here takes on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// The agent's program.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_oubliette-guest");

/// What the model does with one request.
pub(crate) enum Reply {
    /// A whole stream of these events.
    Stream(Vec<Value>),
    /// Exactly these bytes, then the connection is closed.
    Raw(Vec<u8>),
    /// These bytes, then nothing; the client's hanging up is told.
    Hang(Vec<u8>, Sender<()>),
    /// These events; before the last, a word is waited for.
    Held(Vec<Value>, Receiver<()>),
}

/// The model server. Once the script is used up it answers with status 418.
pub(crate) struct Model {
    pub(crate) url: String,
    requests: Arc<Mutex<Vec<Value>>>,
}

/// The agent process and what it says.
pub(crate) struct Agent {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<Value>,
    next_id: i64,
    /// Keeps the folders as long as the agent.
    bench: Option<Bench>,
    /// Updates that were passed over while something else was waited for.
    pub(crate) updates: Vec<Value>,
}

/// A workspace, a home and the agent's options.
pub(crate) struct Bench {
    pub(crate) folder: TempDir,
    pub(crate) arguments: Vec<String>,
}

/// Events of an answer that is only text.
pub(crate) fn said(text: &str) -> Reply {
    Reply::Stream(vec![delta(json!({"role": "assistant", "content": text})), end("stop")])
}

/// Events of an answer that makes these calls: name and arguments.
pub(crate) fn calls(calls: &[(&str, Value)]) -> Reply {
    let mut events = Vec::new();
    for (index, (name, arguments)) in calls.iter().enumerate() {
        let id = format!("call_{index}");
        events.push(delta(json!({"tool_calls": [{"index": index, "id": id, "type": "function",
            "function": {"name": name, "arguments": ""}}]})));
        events.push(delta(json!({"tool_calls": [{"index": index,
            "function": {"arguments": arguments.to_string()}}]})));
    }
    events.push(end("tool_calls"));
    Reply::Stream(events)
}

/// An event with a piece of an answer.
pub(crate) fn delta(delta: Value) -> Value {
    json!({"id": "c", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta}]})
}

/// The event with the reason to stop.
pub(crate) fn end(reason: &str) -> Value {
    json!({"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
}

/// A head of a good stream and these events, without an end.
pub(crate) fn open_stream(events: &[Value]) -> Vec<u8> {
    let mut bytes =
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n".to_vec();
    for event in events {
        bytes.extend_from_slice(format!("data: {event}\n\n").as_bytes());
    }
    bytes
}

/// A whole answer that is no stream.
pub(crate) fn status(status: &str, headers: &str, body: &str) -> Reply {
    let length = body.len();
    let text = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{headers}content-length: {length}\r\n\r\n{body}"
    );
    Reply::Raw(text.into_bytes())
}

/// True while the process exists and is not merely waiting to be collected.
pub(crate) fn is_running(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

/// Waits until something is so.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < DEADLINE, "waited in vain until {what}");
        std::thread::yield_now();
    }
}

// === impl Model ===

impl Model {
    /// A model on a loopback port.
    pub(crate) fn new(script: impl IntoIterator<Item = Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let model = Self { url: format!("http://{address}/v1"), requests: Arc::default() };
        model.serve(script, move || listener.accept().expect("it listens").0);
        model
    }

    /// A model on a loopback port that looks at what it is asked.
    pub(crate) fn following(follow: impl FnMut(&Value) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let model = Self { url: format!("http://{address}/v1"), requests: Arc::default() };
        model.serve_with(follow, move || listener.accept().expect("it listens").0);
        model
    }

    /// A model on a unix socket, as the gate is.
    pub(crate) fn on_socket(path: &Path, script: impl IntoIterator<Item = Reply>) -> Self {
        let listener = UnixListener::bind(path).expect("the path is free");
        let model = Self { url: String::new(), requests: Arc::default() };
        model.serve(script, move || listener.accept().expect("it listens").0);
        model
    }

    fn serve<S: Read + Write + Send + 'static>(
        &self,
        script: impl IntoIterator<Item = Reply>,
        accept: impl FnMut() -> S + Send + 'static,
    ) {
        let mut script: VecDeque<Reply> = script.into_iter().collect();
        let over = || status("418 Script Is Over", "", "{}");
        self.serve_with(move |_request| script.pop_front().unwrap_or_else(over), accept);
    }

    fn serve_with<S: Read + Write + Send + 'static>(
        &self,
        mut reply: impl FnMut(&Value) -> Reply + Send + 'static,
        mut accept: impl FnMut() -> S + Send + 'static,
    ) {
        let requests = Arc::clone(&self.requests);
        std::thread::spawn(move || {
            loop {
                let mut stream = accept();
                let Some(request) = read_request(&mut stream) else { continue };
                let reply = reply(&request);
                requests.lock().expect("no holder panics").push(request);
                std::thread::spawn(move || answer(stream, reply));
            }
        });
    }

    /// The requests so far.
    pub(crate) fn requests(&self) -> Vec<Value> {
        self.requests.lock().expect("no holder panics").clone()
    }
}

fn read_request(stream: &mut impl Read) -> Option<Value> {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    let mut line = String::new();
    loop {
        line.clear();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line.starts_with("POST ") {
            assert_eq!(line.trim_end(), "POST /v1/chat/completions HTTP/1.1");
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length is a number");
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(serde_json::from_slice(&body).expect("the agent sends JSON"))
}

/// A client that hung up early is none of the model's concern.
fn answer(mut stream: impl Read + Write, reply: Reply) {
    let _ended = (|| -> std::io::Result<()> {
        match reply {
            Reply::Stream(events) => {
                stream.write_all(&open_stream(&events))?;
                stream.write_all(b"data: [DONE]\n\n")
            }
            Reply::Raw(bytes) => stream.write_all(&bytes),
            Reply::Hang(bytes, gone) => {
                stream.write_all(&bytes)?;
                stream.flush()?;
                let mut byte = [0];
                while stream.read(&mut byte)? > 0 {}
                let _told = gone.send(());
                Ok(())
            }
            Reply::Held(mut events, word) => {
                let last = events.pop().expect("there is a last event");
                stream.write_all(&open_stream(&events))?;
                stream.flush()?;
                word.recv_timeout(DEADLINE).expect("the word comes");
                stream.write_all(format!("data: {last}\n\ndata: [DONE]\n\n").as_bytes())
            }
        }
    })();
}

// === impl Bench ===

impl Bench {
    pub(crate) fn new(model: &Model) -> Self {
        let bench = Self {
            folder: tempfile::tempdir().expect("a temporary folder"),
            arguments: vec!["--model-retry-ms=1".to_owned(), format!("--model-url={}", model.url)],
        };
        std::fs::create_dir(bench.workspace()).expect("it is new");
        std::fs::create_dir(bench.home()).expect("it is new");
        bench
    }

    pub(crate) fn with(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    pub(crate) fn workspace(&self) -> PathBuf {
        self.folder.path().join("workspace")
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    pub(crate) fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.workspace().join(path);
        std::fs::create_dir_all(path.parent().expect("it is in the workspace")).expect("it is writable");
        std::fs::write(path, content).expect("it is writable");
    }

    pub(crate) fn content(&self, path: &str) -> String {
        std::fs::read_to_string(self.workspace().join(path)).expect("it is readable")
    }

    /// Starts an agent and shakes hands.
    pub(crate) fn start(&self) -> Agent {
        let mut agent = self.spawn();
        let answer = agent.call("initialize", json!({"protocolVersion": 1, "clientCapabilities": {}}));
        assert_eq!(answer["result"]["protocolVersion"], 1, "{answer}");
        agent
    }

    /// Starts an agent.
    pub(crate) fn spawn(&self) -> Agent {
        self.spawn_as(Command::new(PROGRAM))
    }

    /// Starts an agent through another program, which is to run [`PROGRAM`].
    pub(crate) fn spawn_as(&self, mut command: Command) -> Agent {
        let mut child = self.set_up(&mut command).spawn().expect("the agent starts");
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).expect("the agent says JSON");
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Agent { child, input, lines, next_id: 0, bench: None, updates: Vec::new() }
    }

    /// Gives a command what an agent needs.
    pub(crate) fn set_up<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .arg("agent")
            .args(&self.arguments)
            .env("HOME", self.home())
            .current_dir(self.workspace())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
    }

    /// Starts an agent that keeps its folders.
    pub(crate) fn spawn_kept(self) -> Agent {
        let mut agent = self.spawn();
        agent.bench = Some(self);
        agent
    }

    /// Starts an agent that keeps its folders, and a session.
    pub(crate) fn session_kept(self) -> (Agent, String) {
        let (mut agent, session) = self.session();
        agent.bench = Some(self);
        (agent, session)
    }

    /// Starts an agent and a session.
    pub(crate) fn session(&self) -> (Agent, String) {
        let mut agent = self.start();
        let answer = agent.call("session/new", json!({"cwd": self.workspace(), "mcpServers": []}));
        let id = answer["result"]["sessionId"].as_str().expect("a session has an id").to_owned();
        (agent, id)
    }
}

// === impl Agent ===

impl Agent {
    /// Sends bytes and a line's end.
    pub(crate) fn send_raw(&mut self, line: &[u8]) {
        let input = self.input.as_mut().expect("the input is open");
        input.write_all(line).and_then(|()| input.write_all(b"\n")).expect("the agent reads");
    }

    /// Sends a notification.
    pub(crate) fn notify(&mut self, method: &str, params: Value) {
        self.send_raw(json!({"jsonrpc": "2.0", "method": method, "params": params}).to_string().as_bytes());
    }

    /// Sends a request, and does not wait.
    pub(crate) fn request(&mut self, method: &str, params: Value) -> i64 {
        self.next_id += 1;
        let id = self.next_id;
        let request = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        self.send_raw(request.to_string().as_bytes());
        id
    }

    /// Sends a request and waits for its response.
    pub(crate) fn call(&mut self, method: &str, params: Value) -> Value {
        let id = self.request(method, params);
        self.response(id)
    }

    /// Sends a prompt, and does not wait.
    pub(crate) fn prompt(&mut self, session: &str, text: &str) -> i64 {
        let prompt = json!([{"type": "text", "text": text}]);
        self.request("session/prompt", json!({"sessionId": session, "prompt": prompt}))
    }

    /// Sends a prompt and waits for the turn's end.
    pub(crate) fn turn(&mut self, session: &str, text: &str) -> Value {
        let id = self.prompt(session, text);
        self.response(id)
    }

    pub(crate) fn cancel(&mut self, session: &str) {
        self.notify("session/cancel", json!({ "sessionId": session }));
    }

    /// The next message.
    pub(crate) fn next(&mut self) -> Value {
        self.lines.recv_timeout(DEADLINE).expect("the agent says something")
    }

    /// Waits for a response; updates are kept.
    pub(crate) fn response(&mut self, id: i64) -> Value {
        loop {
            let message = self.next();
            if message["id"] == id && message.get("method").is_none() {
                return message;
            }
            self.keep(message);
        }
    }

    /// Waits for an update; it and those before are kept.
    pub(crate) fn update(&mut self, is_it: impl Fn(&Value) -> bool) -> Value {
        loop {
            let message = self.next();
            self.keep(message);
            let last = self.updates.last().expect("it was just kept");
            if is_it(last) {
                return last.clone();
            }
        }
    }

    fn keep(&mut self, message: Value) {
        assert_eq!(message["method"], "session/update", "{message}");
        self.updates.push(message["params"]["update"].clone());
    }

    /// What the model said, and what it thought.
    pub(crate) fn text(&self, kind: &str) -> String {
        let chunks = self.updates.iter().filter(|update| update["sessionUpdate"] == kind);
        chunks.filter_map(|update| update["content"]["text"].as_str()).collect()
    }

    /// The last update of each call that settled it: status and text.
    pub(crate) fn results(&self) -> Vec<(String, String)> {
        let settled = self.updates.iter().filter(|update| {
            update["sessionUpdate"] == "tool_call_update" && update["status"] != "in_progress"
        });
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        settled
            .map(|update| (text(&update["status"]), text(&update["content"][0]["content"]["text"])))
            .collect()
    }

    pub(crate) fn pid(&self) -> String {
        self.child.id().to_string()
    }

    /// Closes the input and waits for the end.
    pub(crate) fn close(&mut self) -> ExitStatus {
        self.input = None;
        self.wait()
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("it is our child")
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it is our child");
        self.wait();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _killed = self.child.kill();
        let _collected = self.child.wait();
    }
}

/// The contents of the messages with a role in a request.
pub(crate) fn contents(request: &Value, role: &str) -> Vec<String> {
    let messages = request["messages"].as_array().expect("a request has messages");
    let of_role = messages.iter().filter(|message| message["role"] == role);
    of_role.map(|message| message["content"].as_str().unwrap_or_default().to_owned()).collect()
}

/// Fails unless each call in a request's messages is followed by its result, as providers demand.
pub(crate) fn assert_valid_history(request: &Value) {
    let mut open: Vec<String> = Vec::new();
    for message in request["messages"].as_array().expect("a request has messages") {
        if message["role"] == "tool" {
            let id = message["tool_call_id"].as_str().expect("a result names its call");
            let place = open.iter().position(|other| other == id).expect("a result follows its call");
            open.remove(place);
            continue;
        }
        assert!(open.is_empty(), "calls without a result: {open:?} in {request}");
        for call in message["tool_calls"].as_array().into_iter().flatten() {
            open.push(call["id"].as_str().expect("a call has an id").to_owned());
        }
    }
    assert!(open.is_empty(), "calls without a result: {open:?} in {request}");
}
