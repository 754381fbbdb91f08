//! The driver: what to say to an agent next, and what follows from what it says.
//!
//! ```text
//!            initialize ok, may load      load ok
//! Initializing ---------------> Loading ----------> Idle <-----------+
//!   |     |                        | load refused    | prompt()      | answered
//!   |     | initialize ok          v                 v               |
//!   |     +---------------------> Opening --ok--> (Idle)  Prompting -+
//!   |                              |                         |
//!   +-> Gone <---------------------+-------------------------+   (exited, broke the protocol)
//! ```
//! An agent that is to work in another mode than its own is told so in `Settling`, on the way to `Idle`.
//!
//! Only one of our requests waits for its answer at any time, and the state says which. Nothing leaves `Gone`.

use agent_client_protocol_schema::ProtocolVersion;
use agent_client_protocol_schema::v1::AGENT_METHOD_NAMES;
use agent_client_protocol_schema::v1::CLIENT_METHOD_NAMES;
use agent_client_protocol_schema::v1::CancelNotification;
use agent_client_protocol_schema::v1::ContentBlock;
use agent_client_protocol_schema::v1::Error as ProtocolError;
use agent_client_protocol_schema::v1::Implementation;
use agent_client_protocol_schema::v1::InitializeRequest;
use agent_client_protocol_schema::v1::LoadSessionRequest;
use agent_client_protocol_schema::v1::McpServer;
use agent_client_protocol_schema::v1::McpServerHttp;
use agent_client_protocol_schema::v1::NewSessionRequest;
use agent_client_protocol_schema::v1::PromptRequest;
use agent_client_protocol_schema::v1::RequestId;
use agent_client_protocol_schema::v1::SetSessionModeRequest;
use agent_client_protocol_schema::v1::TextContent;
use ob_core::EventBody;
use ob_core::EventKind;
use ob_core::Refusal;
use ob_core::TurnNumber;
use ob_core::agent::Autonomy;
use ob_core::link::ExitStatus;
use ob_core::session::TurnStop;
use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;
use serde_json::json;

use crate::bounds;
use crate::bounds::NAME_MAX;
use crate::bounds::NOTE_MAX;
use crate::lines::LINE_MAX;
use crate::lines::Lines;
use crate::outbox::Full;
use crate::outbox::Outbox;
use crate::permission;
use crate::transcript::Sink;
use crate::transcript::Transcript;
use crate::wire;
use crate::wire::AgentError;
use crate::wire::Line;

/// The version of the saved state that this code writes.
const STATE_VERSION: u32 = 1;
/// The code with which an agent says that it must be authenticated first.
const AUTH_REQUIRED: i64 = -32000;
/// The code with which an agent says that a request was cancelled.
const REQUEST_CANCELLED: i64 = -32800;

/// What agents call the server of their session's tools.
const TOOLS_NAME: &str = "oubliette";

/// What the driver needs to know of its session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverOptions {
    /// The working directory inside the sandbox.
    pub cwd: String,
    /// The agent's own session id from before, if it should continue that conversation.
    pub resume: Option<String>,
    /// By which rules its questions for leave are answered.
    pub autonomy: Autonomy,
    /// The mode to put it into, if not its own default. An agent without that mode stays in its own, and an event says so.
    pub mode: Option<String>,
    /// Where in the sandbox it finds the tools of its session, over MCP; it is told of them if it takes such servers.
    pub tools: Option<String>,
}

/// What came out of a step.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Something to append to the session's log.
    Event(Box<EventBody>),
    /// The agent waits for a prompt.
    Ready {
        /// True if the agent continues its earlier conversation; false if it knows nothing of it.
        resumed: bool,
    },
    /// The active turn is over.
    TurnStopped(TurnStop),
    /// The agent is of no more use (it exited, or broke the protocol): end its process. The session decides what then.
    Failed(Refusal),
}

/// Drives one agent process.
#[derive(Debug)]
pub struct Driver {
    state: State,
}

/// Everything that a crash must not lose.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    cwd: String,
    phase: Phase,
    stdout: Lines,
    stdin: Outbox,
    /// The conversation to resume, and from `Idle` on the one that is.
    agent_session: Option<String>,
    /// Who the agent says it is.
    agent: Value,
    transcript: Transcript,
    #[serde(default, skip_serializing_if = "is_default")]
    autonomy: Autonomy,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mode: Option<String>,
    /// Nothing once the agent said that it takes no MCP server over HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tools: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
enum Phase {
    /// `initialize` was sent.
    Initializing { request: u64 },
    /// `session/load` was sent; what the agent replays is in the session's log already.
    Loading { request: u64 },
    /// `session/new` was sent.
    Opening { request: u64 },
    /// `session/set_mode` was sent.
    Settling { request: u64, resumed: bool },
    /// The agent waits for a prompt.
    Idle,
    /// `session/prompt` was sent.
    Prompting { request: u64, turn: TurnNumber, cancelling: bool },
    /// The agent is of no more use.
    Gone,
}

/// A saved state as it is written.
#[derive(Serialize)]
struct Saved<'a> {
    version: u32,
    state: &'a State,
}

/// A saved state as it is read, once its version is known to be ours.
#[derive(Deserialize)]
struct Restored {
    state: State,
}

/// The part of a saved state that every version has.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

// === impl Phase ===

impl Phase {
    /// The request that waits for its answer.
    fn request(self) -> Option<u64> {
        match self {
            Self::Initializing { request }
            | Self::Loading { request }
            | Self::Opening { request }
            | Self::Settling { request, .. }
            | Self::Prompting { request, .. } => Some(request),
            Self::Idle | Self::Gone => None,
        }
    }
}

// === impl Driver ===

impl Driver {
    /// A driver for an agent process that was just started; the outbox holds the handshake.
    pub fn new(options: DriverOptions) -> Self {
        let mut stdin = Outbox::default();
        let hello = InitializeRequest::new(ProtocolVersion::V1)
            .client_info(Implementation::new("oubliette", env!("CARGO_PKG_VERSION")));
        let request = stdin.request(AGENT_METHOD_NAMES.initialize, &hello);
        Self {
            state: State {
                cwd: options.cwd,
                phase: Phase::Initializing { request },
                stdout: Lines::default(),
                stdin,
                agent_session: options.resume,
                agent: Value::Null,
                transcript: Transcript::default(),
                autonomy: options.autonomy,
                mode: options.mode,
                tools: options.tools,
            },
        }
    }

    /// A driver as it was saved.
    ///
    /// # Errors
    /// `unavailable` if a later version wrote it, `internal` if it is damaged.
    pub fn restore(state: &[u8]) -> Result<Self, Refusal> {
        let damaged = |error: serde_json::Error| {
            Refusal::internal(format!("the saved state of the agent's driver is damaged: {error}"))
                .fix("end the session and start another one in its workspace")
        };
        let Versioned { version } = serde_json::from_slice(state).map_err(damaged)?;
        if version != STATE_VERSION {
            return Err(Refusal::unavailable(format!(
                "the saved state of the agent's driver has version {version}, and this program reads {STATE_VERSION}"
            ))
            .fix("start the version of Oubliette that wrote it"));
        }
        let Restored { state } = serde_json::from_slice(state).map_err(damaged)?;
        Ok(Self { state })
    }

    /// The whole state, to be committed with the outputs of the steps before.
    #[must_use]
    pub fn save(&self) -> Vec<u8> {
        serde_json::to_vec(&Saved { version: STATE_VERSION, state: &self.state })
            .expect("a tree of strings, numbers and maps with string keys is always JSON")
    }

    /// The next bytes of the agent's standard output, of any length.
    #[must_use]
    pub fn receive(&mut self, bytes: &[u8]) -> Vec<Output> {
        self.state.stdout.count(bytes.len());
        let mut sink = Sink::new(self.active());
        let mut rest = bytes;
        while self.state.phase != Phase::Gone && !rest.is_empty() {
            match self.state.stdout.next(&mut rest) {
                Ok(Some(line)) => self.line(&line, &mut sink),
                Ok(None) => break,
                Err(_) => self.fail(
                    Refusal::unavailable(format!("the agent wrote a line of more than {LINE_MAX} bytes"))
                        .fix("have the agent work with smaller files and outputs, or use another agent"),
                    &mut sink,
                ),
            }
        }
        sink.outputs
    }

    /// The offset in the agent's standard output up to which everything is in this state.
    #[must_use]
    pub fn stdout_offset(&self) -> u64 {
        self.state.stdout.offset()
    }

    /// The agent's process ended, and everything that it wrote was received. Twice is fine.
    #[must_use]
    pub fn exited(&mut self, exit: ExitStatus) -> Vec<Output> {
        let mut sink = Sink::new(self.active());
        if self.state.phase == Phase::Gone {
            return sink.outputs;
        }
        let last = self.state.stdout.finish();
        self.line(&last, &mut sink);
        let refusal = Refusal::unavailable(format!("the agent exited with {exit}"));
        let fix = match (exit.code, exit.signal) {
            (Some(126 | 127), _) => {
                "check that the agent's program is in the sandbox and can be executed there"
            }
            (_, Some(9)) => "it was killed: check the sandbox's memory limit and the host's memory",
            _ => "read the agent's error output, and check that its command works in the sandbox",
        };
        self.fail(refusal.fix(fix), &mut sink);
        sink.outputs
    }

    /// Gives the agent a turn. Only when it is ready and no turn is active; else an `error` event says so, and nothing
    /// is sent.
    #[must_use]
    pub fn prompt(&mut self, turn: TurnNumber, text: &str) -> Vec<Output> {
        let mut sink = Sink::new(Some(turn));
        let (Phase::Idle, Some(session)) = (self.state.phase, self.state.agent_session.clone()) else {
            let refusal =
                Refusal::conflict(format!("turn {turn} was given to an agent that is not ready for it"))
                    .fix("wait until the agent is ready and has no other turn");
            sink.event(EventBody::error(&refusal));
            return sink.outputs;
        };
        // What the agent said between the turns belongs to none.
        sink.turn = None;
        self.state.transcript.end_stage(&mut sink);
        let prompt = PromptRequest::new(session, vec![ContentBlock::Text(TextContent::new(text))]);
        let request = self.state.stdin.request(AGENT_METHOD_NAMES.session_prompt, &prompt);
        self.state.phase = Phase::Prompting { request, turn, cancelling: false };
        sink.outputs
    }

    /// The turn that the agent works on.
    #[must_use]
    pub fn active(&self) -> Option<TurnNumber> {
        match self.state.phase {
            Phase::Prompting { turn, .. } => Some(turn),
            _ => None,
        }
    }

    /// True if the agent is of no more use: nothing that it says or does leads out of this.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.state.phase == Phase::Gone
    }

    /// True if the agent was told to stop the active turn and has not answered yet.
    #[must_use]
    pub fn is_cancelling(&self) -> bool {
        matches!(self.state.phase, Phase::Prompting { cancelling: true, .. })
    }

    /// Tells the agent to stop the active turn; nothing if there is none. Twice is fine.
    #[must_use]
    pub fn cancel(&mut self) -> Vec<Output> {
        if let (Phase::Prompting { cancelling, .. }, Some(session)) =
            (&mut self.state.phase, &self.state.agent_session)
            && !*cancelling
        {
            *cancelling = true;
            let cancel = CancelNotification::new(session.clone());
            self.state.stdin.notify(AGENT_METHOD_NAMES.session_cancel, &cancel);
        }
        Vec::new()
    }

    /// The agent's own id of the conversation, to resume it later. Until the agent is ready, the one to be resumed.
    #[must_use]
    pub fn agent_session(&self) -> Option<&str> {
        self.state.agent_session.as_deref()
    }

    /// What is still to be written to the agent's standard input: the offset of the first byte, and the bytes.
    #[must_use]
    pub fn outbox(&self) -> (u64, &[u8]) {
        self.state.stdin.waiting()
    }

    /// The agent's standard input has taken everything below this offset. A claim beyond the end counts as the end.
    pub fn sent(&mut self, offset: u64) {
        self.state.stdin.taken(offset);
    }

    fn line(&mut self, line: &[u8], sink: &mut Sink) {
        sink.turn = self.active();
        let line = String::from_utf8_lossy(line);
        match wire::parse(&line) {
            Line::Blank => {}
            Line::Noise => self.stray(&line, "stdout", sink),
            Line::Request { id, method, params } => self.request(&id, &method, &params, sink),
            Line::Notification { method, params } => self.notification(&method, params, sink),
            Line::Response { id: Some(id), answer } if self.state.phase.request() == Some(id) => {
                self.response(answer, sink);
            }
            Line::Response { .. } => self.stray(&line, "unknown_response", sink),
        }
    }

    fn request(&mut self, id: &RequestId, method: &str, params: &Value, sink: &mut Sink) {
        let answered = if method == CLIENT_METHOD_NAMES.session_request_permission {
            let cancelling = matches!(self.state.phase, Phase::Prompting { cancelling: true, .. });
            // A question may be about a call whose kind was told before.
            let kind = self.state.transcript.kind_of(&params["toolCall"]);
            let answer = permission::answer(params, kind, self.state.autonomy, cancelling);
            sink.event(answer.event);
            self.state.stdin.answer(id, &answer.response)
        } else {
            let text =
                format!("the agent asked for `{}`, which is not offered", bounds::prefix(method, NAME_MAX));
            self.stray(&text, "unknown_request", sink);
            self.state.stdin.refuse(id, &ProtocolError::method_not_found())
        };
        if let Err(Full) = answered {
            let refusal = Refusal::unavailable("the agent asks more and more and does not read the answers");
            self.fail(refusal.fix("use another version of the agent: this one breaks the protocol"), sink);
        }
    }

    fn notification(&mut self, method: &str, mut params: Value, sink: &mut Sink) {
        if method != CLIENT_METHOD_NAMES.session_update {
            let text = format!("notification: {}", bounds::prefix(method, NAME_MAX));
            sink.event(EventBody::system(text).data(bounds::data(json!({ "params": params }))));
            return;
        }
        match self.state.phase {
            Phase::Loading { .. } => {}
            Phase::Settling { .. } | Phase::Idle | Phase::Prompting { .. }
                if params["sessionId"].as_str() != self.state.agent_session.as_deref() =>
            {
                let event = EventBody::system("an update of another conversation of the agent");
                sink.event(event.data(bounds::data(json!({ "params": params }))));
            }
            _ => {
                // Without an update in it, all of it is kept as an update of an unknown kind.
                let update = params.get_mut("update").map(Value::take);
                self.state.transcript.update(update.unwrap_or(params), sink);
            }
        }
    }

    fn response(&mut self, answer: Result<Value, AgentError>, sink: &mut Sink) {
        match (self.state.phase, answer) {
            (Phase::Initializing { .. }, Ok(result)) => self.initialized(&result, sink),
            (Phase::Initializing { .. }, Err(error)) => {
                let refusal = error.refusal("the agent refused the handshake");
                self.fail(
                    refusal.fix("check the agent's command and its version: ACP version 1 is needed"),
                    sink,
                );
            }
            (Phase::Loading { .. }, Ok(result)) => self.settle(true, &result, sink),
            (Phase::Loading { .. }, Err(error)) => {
                let text = format!("the agent cannot resume the conversation: {}", error.message);
                sink.event(EventBody::system(text).data(json!({ "code": error.code })));
                self.open();
            }
            (Phase::Opening { .. }, Ok(result)) => match result["sessionId"].as_str() {
                Some(session) if (1..=NAME_MAX).contains(&session.len()) => {
                    self.state.agent_session = Some(session.to_owned());
                    self.settle(false, &result, sink);
                }
                _ => {
                    let refusal = Refusal::unavailable("the agent opened a conversation without a proper id");
                    self.fail(
                        refusal.fix("use another version of the agent: this one breaks the protocol"),
                        sink,
                    );
                }
            },
            (Phase::Opening { .. }, Err(error)) => {
                let refusal = error.refusal("the agent opened no conversation");
                let fix = match error.code {
                    AUTH_REQUIRED => {
                        "give the agent its credentials, or point it at the model of the sandbox's gate"
                    }
                    _ => "check the agent's configuration in the sandbox",
                };
                self.fail(refusal.fix(fix), sink);
            }
            (Phase::Settling { resumed, .. }, answer) => {
                if let Err(error) = answer {
                    let text = format!("the agent does not take the mode: {}", error.message);
                    sink.event(EventBody::system(text).data(json!({ "code": error.code })));
                }
                self.ready(resumed, sink);
            }
            (Phase::Prompting { cancelling, .. }, answer) => self.stopped(answer, cancelling, sink),
            // No request waits in these, so no answer comes here.
            (Phase::Idle | Phase::Gone, _) => {}
        }
    }

    fn initialized(&mut self, result: &Value, sink: &mut Sink) {
        let version = &result["protocolVersion"];
        if version.as_u64() != Some(u64::from(ProtocolVersion::V1.as_u16())) {
            let version = version.to_string();
            let refusal = Refusal::unavailable(format!(
                "the agent speaks version {} of ACP, and version 1 is needed",
                bounds::prefix(&version, 40)
            ));
            return self.fail(refusal.fix("use a version of the agent that speaks ACP version 1"), sink);
        }
        let mut agent = json!({});
        for field in ["name", "title", "version"] {
            if let Some(text) = result["agentInfo"][field].as_str() {
                agent[field] = bounds::prefix(text, NAME_MAX).into();
            }
        }
        self.state.agent = agent;
        if result["agentCapabilities"]["mcpCapabilities"]["http"] != true {
            self.state.tools = None;
        }
        match &self.state.agent_session {
            Some(session) if result["agentCapabilities"]["loadSession"] == true => {
                let load = LoadSessionRequest::new(session.clone(), self.state.cwd.clone())
                    .mcp_servers(self.servers());
                let request = self.state.stdin.request(AGENT_METHOD_NAMES.session_load, &load);
                self.state.phase = Phase::Loading { request };
            }
            _ => self.open(),
        }
    }

    /// The MCP servers that the agent is told of.
    fn servers(&self) -> Vec<McpServer> {
        let tools = self.state.tools.iter();
        tools.map(|url| McpServer::Http(McpServerHttp::new(TOOLS_NAME, url.clone()))).collect()
    }

    fn open(&mut self) {
        let new = NewSessionRequest::new(self.state.cwd.clone()).mcp_servers(self.servers());
        let request = self.state.stdin.request(AGENT_METHOD_NAMES.session_new, &new);
        self.state.phase = Phase::Opening { request };
    }

    /// The conversation is open; `opened` is what the agent answered. Puts it into the mode that it is to work in.
    fn settle(&mut self, resumed: bool, opened: &Value, sink: &mut Sink) {
        let (Some(mode), Some(session)) = (self.state.mode.clone(), self.state.agent_session.clone()) else {
            return self.ready(resumed, sink);
        };
        let modes = &opened["modes"];
        if modes["currentModeId"] == mode.as_str() {
            return self.ready(resumed, sink);
        }
        let offered = modes["availableModes"].as_array().map(Vec::as_slice).unwrap_or_default();
        // What a loaded conversation offers need not be told again.
        if !resumed && !offered.iter().any(|offer| offer["id"] == mode.as_str()) {
            let text = format!("the agent has no mode `{mode}` and stays in its own");
            sink.event(EventBody::system(text).data(bounds::data(json!({ "modes": modes }))));
            return self.ready(resumed, sink);
        }
        let set = SetSessionModeRequest::new(session, mode);
        let request = self.state.stdin.request(AGENT_METHOD_NAMES.session_set_mode, &set);
        self.state.phase = Phase::Settling { request, resumed };
    }

    fn ready(&mut self, resumed: bool, sink: &mut Sink) {
        self.state.transcript.end_stage(sink);
        self.state.phase = Phase::Idle;
        sink.event(EventBody::system("agent ready").data(json!({
            "agent": self.state.agent,
            "agent_session": self.state.agent_session,
            "resumed": resumed,
        })));
        sink.outputs.push(Output::Ready { resumed });
    }

    /// The prompt was answered.
    fn stopped(&mut self, answer: Result<Value, AgentError>, cancelling: bool, sink: &mut Sink) {
        let last = self.state.transcript.end_stage(sink);
        self.state.phase = Phase::Idle;
        let stop = match answer {
            Ok(result) => match result["stopReason"].as_str() {
                Some(reason) => {
                    let mut data = json!({ "stop_reason": bounds::prefix(reason, NAME_MAX) });
                    if let Some(usage) = result.get("usage").filter(|usage| !usage.is_null()) {
                        data["usage"] = usage.clone();
                    }
                    complete(last, data, sink);
                    stop_of(reason)
                }
                None => {
                    let refusal = Refusal::unavailable("the agent ended the turn without saying why");
                    sink.event(EventBody::error(
                        &refusal.fix("send the message again, or use another agent"),
                    ));
                    TurnStop::Error
                }
            },
            // Agents should say `cancelled`; many fail instead, because cancelling made something in them fail.
            Err(error) if cancelling || error.code == REQUEST_CANCELLED => {
                complete(last, json!({ "stop_reason": "cancelled", "error": error.message }), sink);
                TurnStop::Cancelled
            }
            Err(error) => {
                let mut event = EventBody::error(&error.refusal("the agent failed"));
                if let Some(data) = &mut event.data {
                    data["agent_code"] = error.code.into();
                    data["agent_data"] = bounds::data(error.data);
                }
                sink.event(event);
                TurnStop::Error
            }
        };
        sink.outputs.push(Output::TurnStopped(stop));
    }

    /// Something that the agent wrote and that has no meaning in the protocol now.
    fn stray(&mut self, text: &str, source: &str, sink: &mut Sink) {
        let event = EventBody::system(bounds::cut(text.trim(), NOTE_MAX)).data(json!({ "source": source }));
        self.state.transcript.noise(event, sink);
    }

    fn fail(&mut self, refusal: Refusal, sink: &mut Sink) {
        if self.state.phase == Phase::Gone {
            return;
        }
        // The last line may have ended the turn.
        sink.turn = self.active();
        self.state.transcript.end_stage(sink);
        self.state.phase = Phase::Gone;
        self.state.stdout.finish();
        self.state.stdin.taken(u64::MAX);
        sink.outputs.push(Output::Failed(refusal));
    }
}

/// So that a state without it reads as it always did.
fn is_default(autonomy: &Autonomy) -> bool {
    *autonomy == Autonomy::default()
}

fn complete(last: Option<String>, data: Value, sink: &mut Sink) {
    let mut event = EventBody::new(EventKind::Completion).data(bounds::data(data));
    event.text = last;
    sink.event(event);
}

/// What a stop reason means. One that we do not know came from a later protocol; the agent did stop by itself.
fn stop_of(reason: &str) -> TurnStop {
    match reason {
        "max_tokens" => TurnStop::MaxTokens,
        "max_turn_requests" => TurnStop::MaxTurnRequests,
        "refusal" => TurnStop::Refusal,
        "cancelled" => TurnStop::Cancelled,
        _ => TurnStop::EndTurn,
    }
}

#[cfg(test)]
mod tests;
