//! A model server on loopback that answers by script, in the wire in which it is asked: whole, streamed, slow, broken or not at all.
//!
//! Nothing in it waits for a clock. What must wait, waits for a [`Latch`] that the test opens; what must have happened
//! is awaited with [`ModelServer::requests_reached`] and [`ModelServer::hang_ups_reached`].

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::body::Bytes;
use axum::extract::Request;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::StatusCode;
use axum::response::Response;
use futures_util::Stream;
use serde_json::Value;
use serde_json::json;
use tokio::sync::watch;

use crate::wires::Said;
use crate::wires::Wire;

/// How long the awaiting methods wait before they panic: long enough for a loaded machine.
const DEADLINE: Duration = Duration::from_secs(30);
/// The most bytes of a request that are taken.
const MAX_REQUEST: usize = 64 * 1024 * 1024;

/// A server that answers by script. Dropping it stops it.
pub struct ModelServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

/// A request that came in.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// `POST`, …
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// All headers.
    pub headers: HeaderMap,
    /// The body's bytes.
    pub raw: Bytes,
    /// The body as JSON; null if it is none.
    pub body: Value,
}

/// Holds an answer back until the test opens it.
#[derive(Clone, Debug)]
pub struct Latch(watch::Sender<bool>);

/// One step of an answer's body.
#[derive(Clone, Debug)]
pub enum Step {
    /// Send these bytes.
    Send(Bytes),
    /// Wait for the latch.
    Wait(Latch),
    /// Break the connection without an end.
    Cut,
    /// Neither send nor end, until the client hangs up.
    Hang,
}

/// One answer.
#[derive(Clone, Debug)]
pub struct Answer {
    status: StatusCode,
    headers: Vec<(String, String)>,
    before_head: Vec<Step>,
    body: AnswerBody,
}

#[derive(Clone, Debug)]
enum AnswerBody {
    /// A message, put into the form that the request asked for.
    Message { text: Option<String>, calls: Vec<(String, Value)>, usage: Option<Value> },
    /// Exactly these steps.
    Steps(Vec<Step>),
}

struct Shared {
    script: Mutex<Script>,
    requests: watch::Sender<usize>,
    hang_ups: watch::Sender<usize>,
}

/// What an answer is made from when it depends on the request.
type Responder = Arc<dyn Fn(&Recorded) -> Answer + Send + Sync>;

#[derive(Default)]
struct Script {
    queue: VecDeque<Answer>,
    otherwise: Option<Responder>,
    /// What `GET …/models` lists, apart from the script.
    listed: Option<Vec<String>>,
    recorded: Vec<Recorded>,
}

// === impl Latch ===

impl Default for Latch {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Latch {
    /// A closed latch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets through whoever waits, now and later.
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    /// Waits until it is open.
    pub async fn opened(&self) {
        let mut receiver = self.0.subscribe();
        // The sender lives in `self`, so this cannot fail.
        drop(receiver.wait_for(|open| *open).await);
    }
}

// === impl Answer ===

impl Answer {
    /// A message of the model.
    pub fn text(text: impl Into<String>) -> Self {
        Self::message(Some(text.into()), Vec::new())
    }

    /// A call of one tool.
    pub fn tool(name: impl Into<String>, arguments: Value) -> Self {
        Self::message(None, vec![(name.into(), arguments)])
    }

    /// A text and calls of tools.
    pub fn message(text: Option<String>, calls: Vec<(String, Value)>) -> Self {
        let usage = Some(json!({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}));
        Self::with(StatusCode::OK, AnswerBody::Message { text, calls, usage })
    }

    /// A status with a body, as a provider answers what it refuses.
    pub fn status(status: u16, body: impl Into<Bytes>) -> Self {
        let status = StatusCode::from_u16(status).expect("a test names a real status");
        Self::with(status, AnswerBody::Steps(vec![Step::Send(body.into())]))
            .header("content-type", "application/json")
    }

    /// Exactly these steps, as an event stream.
    pub fn stream(steps: Vec<Step>) -> Self {
        Self::with(StatusCode::OK, AnswerBody::Steps(steps)).header("content-type", "text/event-stream")
    }

    /// Exactly these steps, as this type of content.
    pub fn raw(content_type: &str, steps: Vec<Step>) -> Self {
        Self::with(StatusCode::OK, AnswerBody::Steps(steps)).header("content-type", content_type)
    }

    /// Reports this usage instead of the default one (10 read, 5 written).
    #[must_use]
    pub fn usage(mut self, reported: Value) -> Self {
        if let AnswerBody::Message { usage, .. } = &mut self.body {
            *usage = Some(reported);
        }
        self
    }

    /// Reports no usage.
    #[must_use]
    pub fn without_usage(mut self) -> Self {
        if let AnswerBody::Message { usage, .. } = &mut self.body {
            *usage = None;
        }
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Does this before the status line: wait or hang.
    #[must_use]
    pub fn before_head(mut self, step: Step) -> Self {
        self.before_head.push(step);
        self
    }

    fn with(status: StatusCode, body: AnswerBody) -> Self {
        Self { status, headers: Vec::new(), before_head: Vec::new(), body }
    }

    fn steps(self, request: &Recorded) -> (Option<&'static str>, Vec<Step>) {
        match self.body {
            AnswerBody::Steps(steps) => (None, steps),
            AnswerBody::Message { text, calls, usage } => {
                let wire = Wire::of(&request.path);
                let said = Said { text: text.as_deref(), calls: &calls, usage: usage.as_ref() };
                let pieces = wire.answer(request, said).into_iter().map(Step::Send).collect();
                let streams = wire.streams(request);
                (Some(if streams { "text/event-stream" } else { "application/json" }), pieces)
            }
        }
    }
}

/// The chunks of a streamed message, each a whole event, with `[DONE]` last.
pub fn message_chunks(
    request: &Value,
    text: Option<&str>,
    calls: &[(String, Value)],
    usage: Option<Value>,
) -> Vec<Bytes> {
    let chunk = |choices: Value, usage: Option<Value>| {
        let mut chunk = json!({
            "id": "chatcmpl-test", "object": "chat.completion.chunk", "created": 1_795_000_000,
            "model": request["model"], "choices": choices,
        });
        if let Some(usage) = usage {
            chunk["usage"] = usage;
        }
        Bytes::from(format!("data: {chunk}\n\n"))
    };
    let delta = |delta: Value| chunk(json!([{"index": 0, "delta": delta, "finish_reason": null}]), None);
    let mut chunks = vec![delta(json!({"role": "assistant", "content": ""}))];
    for word in text.unwrap_or_default().split_inclusive(' ') {
        chunks.push(delta(json!({"content": word})));
    }
    let before = Wire::Chat.calls_before(request);
    for (index, (name, arguments)) in calls.iter().enumerate() {
        let id = format!("call_{}", before + index);
        let function = json!({"name": name, "arguments": ""});
        chunks.push(delta(json!({"tool_calls": [
            {"index": index, "id": id, "type": "function", "function": function}
        ]})));
        chunks.push(delta(json!({"tool_calls": [
            {"index": index, "function": {"arguments": arguments.to_string()}}
        ]})));
    }
    let reason = if calls.is_empty() { "stop" } else { "tool_calls" };
    chunks.push(chunk(json!([{"index": 0, "delta": {}, "finish_reason": reason}]), None));
    if let Some(usage) = usage {
        chunks.push(chunk(json!([]), Some(usage)));
    }
    chunks.push(Bytes::from_static(b"data: [DONE]\n\n"));
    chunks
}

/// A whole message that is no stream.
pub(crate) fn whole_message(
    request: &Value,
    text: Option<&str>,
    calls: &[(String, Value)],
    usage: Option<Value>,
) -> Value {
    let tool_calls: Vec<Value> = calls
        .iter()
        .zip(Wire::Chat.calls_before(request)..)
        .map(|((name, arguments), number)| {
            json!({"id": format!("call_{number}"), "type": "function",
                   "function": {"name": name, "arguments": arguments.to_string()}})
        })
        .collect();
    let mut message = json!({"role": "assistant", "content": text});
    let reason = if tool_calls.is_empty() { "stop" } else { "tool_calls" };
    if !tool_calls.is_empty() {
        message["tool_calls"] = json!(tool_calls);
    }
    let mut whole = json!({
        "id": "chatcmpl-test", "object": "chat.completion", "created": 1_795_000_000, "model": request["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
    });
    if let Some(usage) = usage {
        whole["usage"] = usage;
    }
    whole
}

// === impl ModelServer ===

impl ModelServer {
    /// Starts on a free port of 127.0.0.1. Without a script every request is answered with the text `ok`.
    pub async fn start() -> std::io::Result<Self> {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            script: Mutex::default(),
            requests: watch::Sender::new(0),
            hang_ups: watch::Sender::new(0),
        });
        let router = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        let task = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                panic!("the model server failed: {error}");
            }
        });
        Ok(Self { shared, address, task })
    }

    /// The base URL, with `/v1`.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Adds the answer to the next request that has none.
    pub fn push(&self, answer: Answer) {
        self.shared.script().queue.push_back(answer);
    }

    /// Answers so whenever the script is empty.
    pub fn otherwise(&self, answer: Answer) {
        self.respond(move |_| answer.clone());
    }

    /// Answers with what this makes of the request, whenever the script is empty. It holds up all other requests.
    pub fn respond(&self, responder: impl Fn(&Recorded) -> Answer + Send + Sync + 'static) {
        self.shared.script().otherwise = Some(Arc::new(responder));
    }

    /// From now on lists these models, apart from the script and unrecorded; with none it is as if it were down for whoever
    /// looks for a model server.
    pub fn lists(&self, models: &[&str]) {
        self.shared.script().listed = Some(models.iter().map(|name| (*name).to_owned()).collect());
    }

    /// Every request so far.
    pub fn requests(&self) -> Vec<Recorded> {
        self.shared.script().recorded.clone()
    }

    /// Waits until so many requests came in.
    pub async fn requests_reached(&self, count: usize) {
        reached(&self.shared.requests, count, "requests").await;
    }

    /// Waits until so many clients hung up before they had the whole answer.
    pub async fn hang_ups_reached(&self, count: usize) {
        reached(&self.shared.hang_ups, count, "clients that hung up").await;
    }

    /// How many clients hung up before they had the whole answer.
    pub fn hang_ups(&self) -> usize {
        *self.shared.hang_ups.borrow()
    }
}

impl Drop for ModelServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn reached(counter: &watch::Sender<usize>, count: usize, what: &str) {
    let mut receiver = counter.subscribe();
    let waited = tokio::time::timeout(DEADLINE, receiver.wait_for(|seen| *seen >= count)).await;
    assert!(waited.is_ok(), "only {} {what} within {DEADLINE:?}, expected {count}", *counter.borrow());
}

// === impl Shared ===

impl Shared {
    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a client that went away before its answer was complete.
struct HangUp {
    shared: Arc<Shared>,
    complete: bool,
}

impl Drop for HangUp {
    fn drop(&mut self) {
        if !self.complete {
            self.shared.hang_ups.send_modify(|count| *count += 1);
        }
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let listed = shared.script().listed.clone();
    if let Some(models) = listed.filter(|_| request.uri().path().ends_with("/models")) {
        return list(&models);
    }
    let mut hang_up = HangUp { shared: Arc::clone(&shared), complete: false };
    let (head, body) = request.into_parts();
    let raw = axum::body::to_bytes(body, MAX_REQUEST).await.unwrap_or_default();
    let body: Value = serde_json::from_slice(&raw).unwrap_or_default();
    let (answer, recorded) = {
        let mut script = shared.script();
        let recorded = Recorded {
            method: head.method.to_string(),
            path: head.uri.to_string(),
            headers: head.headers,
            raw,
            body,
        };
        let scripted = match (script.queue.pop_front(), &script.otherwise) {
            (Some(scripted), _) => scripted,
            (None, Some(otherwise)) => otherwise(&recorded),
            (None, None) => Answer::text("ok"),
        };
        script.recorded.push(recorded.clone());
        (scripted, recorded)
    };
    shared.requests.send_modify(|count| *count += 1);
    for step in answer.before_head.clone() {
        match step {
            Step::Wait(latch) => latch.opened().await,
            Step::Hang => std::future::pending::<()>().await,
            Step::Send(_) | Step::Cut => panic!("nothing can be sent or cut before the head"),
        }
    }
    let mut response = Response::builder().status(answer.status);
    for (name, value) in &answer.headers {
        response = response.header(name, value);
    }
    let (content_type, steps) = answer.steps(&recorded);
    if let Some(content_type) = content_type {
        response = response.header("content-type", content_type);
    }
    if steps.is_empty() {
        hang_up.complete = true;
    }
    response.body(Body::from_stream(play(steps, hang_up))).expect("a test names real headers")
}

fn list(models: &[String]) -> Response {
    let entries: Vec<Value> = models.iter().map(|id| json!({ "id": id })).collect();
    let status = if models.is_empty() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let body = json!({ "object": "list", "data": entries }).to_string();
    let response = Response::builder().status(status).header("content-type", "application/json");
    response.body(Body::from(body)).expect("constant headers")
}

fn play(steps: Vec<Step>, hang_up: HangUp) -> impl Stream<Item = Result<Bytes, std::io::Error>> {
    futures_util::stream::unfold((VecDeque::from(steps), hang_up), async |(mut steps, mut hang_up)| {
        loop {
            match steps.pop_front() {
                Some(Step::Send(bytes)) => {
                    hang_up.complete = steps.is_empty();
                    return Some((Ok(bytes), (steps, hang_up)));
                }
                Some(Step::Wait(latch)) => latch.opened().await,
                Some(Step::Cut) => {
                    // Lets the connection flush what was sent before; else the cut would swallow it.
                    tokio::task::yield_now().await;
                    hang_up.complete = true;
                    return Some((Err(std::io::Error::other("cut as scripted")), (steps, hang_up)));
                }
                Some(Step::Hang) => std::future::pending::<()>().await,
                None => return None,
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_streamed_message_reports_usage_only_when_asked() {
        let recorded = |body: Value| Recorded {
            method: "POST".to_owned(),
            path: "/v1/chat/completions".to_owned(),
            headers: HeaderMap::new(),
            raw: Bytes::new(),
            body,
        };
        let steps = |request: Value| Answer::text("a b").steps(&recorded(request)).1.len();
        let plain = steps(json!({"stream": true}));
        let asked = steps(json!({"stream": true, "stream_options": {"include_usage": true}}));
        assert_eq!(asked, plain + 1);
        assert_eq!(steps(json!({})), 1);
    }
}
