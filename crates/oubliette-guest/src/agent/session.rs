//! A session: its transcript, its context window, and what its turn has under way.

use std::hash::BuildHasher as _;
use std::hash::RandomState;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use agent_client_protocol_schema::v1::ContentBlock;
use agent_client_protocol_schema::v1::ContentChunk;
use agent_client_protocol_schema::v1::EmbeddedResourceResource;
use agent_client_protocol_schema::v1::MessageId;
use agent_client_protocol_schema::v1::Meta;
use agent_client_protocol_schema::v1::SessionId;
use agent_client_protocol_schema::v1::SessionUpdate;
use agent_client_protocol_schema::v1::ToolCall;
use agent_client_protocol_schema::v1::ToolCallContent;
use agent_client_protocol_schema::v1::ToolCallStatus;
use agent_client_protocol_schema::v1::ToolCallUpdate;
use agent_client_protocol_schema::v1::ToolCallUpdateFields;
use agent_client_protocol_schema::v1::ToolKind;
use serde_json::Value;

use super::context::Window;
use super::rpc::Outbox;
use super::tools::Outcome;
use super::tools::Tool;
use super::transcript::Call;
use super::transcript::Item;
use super::transcript::OpenError;
use super::transcript::Transcript;

/// The longest id of a session, in bytes.
const MAX_ID: usize = 64;

/// A conversation and the place it works in.
#[derive(Debug)]
pub(crate) struct Session {
    /// Names it, also in the file system.
    pub(crate) id: SessionId,
    /// Where it works.
    pub(crate) cwd: PathBuf,
    /// Where outputs are kept that are too long to be shown.
    pub(crate) outputs: PathBuf,
    /// What happened.
    pub(crate) transcript: Transcript,
    /// What of it the model is given.
    pub(crate) window: Window,
    /// What the model said of an answer that is not complete. The client has seen it.
    pub(crate) partial: String,
    /// How many messages the client was given; names the next.
    messages: u64,
}

// === impl Session ===

impl Session {
    /// A new conversation.
    pub(crate) fn create(home: &Path, cwd: PathBuf, tokens: usize) -> Result<Self, OpenError> {
        // Unique, not secret: a name that is taken is refused by the file system.
        let id = format!("{:016x}", RandomState::new().hash_one(std::process::id()));
        let transcript = Transcript::create(&folder(home), &id)?;
        Ok(Self::new(home, id, cwd, transcript, tokens))
    }

    /// A conversation from before. Calls that were under way when its agent ended are noted as interrupted.
    pub(crate) fn load(home: &Path, id: &str, cwd: PathBuf, tokens: usize) -> Result<Self, OpenError> {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if id.is_empty() || id.len() > MAX_ID || !id.bytes().all(is_name) {
            return Err(OpenError::Missing);
        }
        let folder = folder(home);
        let mut transcript = Transcript::open(&folder, id)?;
        for call_id in transcript.unanswered() {
            let text = "interrupted: the agent was restarted before this call ended; it may have done part of its work";
            transcript
                .append(Item::Tool { call_id, ok: false, text: text.to_owned() })
                .map_err(|source| OpenError::Io { path: folder.clone(), source })?;
        }
        Ok(Self::new(home, id.to_owned(), cwd, transcript, tokens))
    }

    fn new(home: &Path, id: String, cwd: PathBuf, transcript: Transcript, tokens: usize) -> Self {
        Self {
            outputs: home.join(".agent").join("outputs").join(&id),
            id: SessionId::new(id),
            cwd,
            transcript,
            window: Window::new(tokens),
            partial: String::new(),
            messages: 0,
        }
    }

    /// Tells the client all that happened so far.
    pub(crate) async fn replay(&mut self, out: &Outbox) {
        for item in self.transcript.items() {
            match item {
                Item::User { text } => {
                    self.messages += 1;
                    let chunk = chunk(text.clone(), self.messages);
                    out.update(&self.id, SessionUpdate::UserMessageChunk(chunk)).await;
                }
                Item::Assistant { text, calls } => {
                    self.messages += 1;
                    if !text.is_empty() {
                        let chunk = chunk(text.clone(), self.messages);
                        out.update(&self.id, SessionUpdate::AgentMessageChunk(chunk)).await;
                    }
                    for call in calls {
                        let tool = Tool::parse(&call.name, &call.arguments).ok();
                        let announced = announcement(call, tool.as_ref(), &self.cwd);
                        out.update(&self.id, SessionUpdate::ToolCall(announced)).await;
                    }
                }
                Item::Tool { call_id, ok, text } => {
                    let outcome = Outcome { ok: *ok, text: text.clone(), ..Outcome::default() };
                    out.update(&self.id, result(call_id, &outcome)).await;
                }
                Item::Session { .. } | Item::Unknown => {}
            }
        }
    }

    /// Begins the model's next message.
    pub(crate) fn begin_message(&mut self) {
        self.messages += 1;
        self.partial.clear();
    }

    /// A piece of the model's present message.
    pub(crate) fn chunk(&self, text: String) -> ContentChunk {
        chunk(text, self.messages)
    }

    /// Notes a result and tells the client, both or neither.
    pub(crate) async fn settle(&mut self, out: &Outbox, call_id: &str, outcome: &Outcome) -> io::Result<()> {
        let room = out.room().await;
        self.transcript.append(Item::Tool {
            call_id: call_id.to_owned(),
            ok: outcome.ok,
            text: outcome.text.clone(),
        })?;
        room.update(&self.id, result(call_id, outcome));
        Ok(())
    }

    /// Closes what a turn left open when it ended early: the half answer, and calls without a result.
    pub(crate) async fn abandon(&mut self, out: &Outbox, why: &str) -> io::Result<()> {
        let said = std::mem::take(&mut self.partial);
        if !said.is_empty() {
            let text = format!("{said}\n[{why}]");
            self.transcript.append(Item::Assistant { text, calls: Vec::new() })?;
        }
        for call_id in self.transcript.unanswered() {
            let outcome = Outcome { text: why.to_owned(), ..Outcome::default() };
            self.settle(out, &call_id, &outcome).await?;
        }
        Ok(())
    }

    /// The model's calls with ids that are unique in the session; many models count from 0 in each answer.
    pub(crate) fn unique(&self, calls: Vec<Call>) -> Vec<Call> {
        let mut unique: Vec<Call> = Vec::with_capacity(calls.len());
        for mut call in calls {
            let is_taken =
                |id: &str| self.transcript.has_call(id) || unique.iter().any(|other| other.id == id);
            if call.id.is_empty() || is_taken(&call.id) {
                let base = if call.id.is_empty() { "call" } else { &call.id };
                let mut number = self.transcript.items().len();
                while is_taken(&format!("{base}-{number}")) {
                    number += 1;
                }
                call.id = format!("{base}-{number}");
            }
            unique.push(call);
        }
        unique
    }
}

/// A prompt as text. The error is for the client.
pub(crate) fn prompt_text(blocks: Vec<ContentBlock>) -> Result<String, &'static str> {
    let mut parts = Vec::new();
    for block in blocks {
        match block {
            ContentBlock::Text(text) => parts.push(text.text),
            ContentBlock::ResourceLink(link) => parts.push(format!("[{}]({})", link.name, link.uri)),
            ContentBlock::Resource(resource) => match resource.resource {
                EmbeddedResourceResource::TextResourceContents(contents) => {
                    parts
                        .push(format!("<resource uri=\"{}\">\n{}\n</resource>", contents.uri, contents.text));
                }
                _ => return Err("this agent takes no binary resources; put the file into the workspace"),
            },
            _ => return Err("this agent takes text only; put other files into the workspace"),
        }
    }
    let text = parts.join("\n\n");
    if text.trim().is_empty() { Err("the prompt is empty") } else { Ok(text) }
}

/// A call as the client first hears of it. `tool` is `None` if the call makes no sense.
pub(crate) fn announcement(call: &Call, tool: Option<&Tool>, cwd: &Path) -> ToolCall {
    // What is no JSON is shown as the text that it is.
    let input =
        serde_json::from_str(&call.arguments).unwrap_or_else(|_bad| Value::from(call.arguments.as_str()));
    ToolCall::new(call.id.clone(), tool.map_or_else(|| call.name.clone(), Tool::title))
        .name(call.name.clone())
        .kind(tool.map_or(ToolKind::Other, Tool::kind))
        .locations(tool.map(|tool| tool.locations(cwd)).unwrap_or_default())
        .raw_input(input)
}

fn result(call_id: &str, outcome: &Outcome) -> SessionUpdate {
    let status = if outcome.ok { ToolCallStatus::Completed } else { ToolCallStatus::Failed };
    let mut content = vec![ToolCallContent::from(outcome.text.clone())];
    content.extend(outcome.diffs.iter().cloned().map(ToolCallContent::from));
    let fields = ToolCallUpdateFields::new().status(status).content(content);
    let update = ToolCallUpdate::new(call_id.to_owned(), fields);
    // There is no field for it, and whole raw output beside the content would be the same text twice.
    let meta = outcome.exit_code.map(|code| Meta::from_iter([("exitCode".to_owned(), Value::from(code))]));
    SessionUpdate::ToolCallUpdate(update.meta(meta))
}

fn chunk(text: String, message: u64) -> ContentChunk {
    ContentChunk::new(ContentBlock::from(text)).message_id(MessageId::new(format!("m{message}")))
}

fn folder(home: &Path) -> PathBuf {
    home.join(".agent").join("sessions")
}
