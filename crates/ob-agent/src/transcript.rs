//! Turns what an agent reports into events, without loss: what has no field of its own in an event is in its `data`.
//!
//! | update | event |
//! | --- | --- |
//! | `agent_message_chunk` | `delta`, and one whole `message` when the message ends |
//! | `agent_thought_chunk` | `delta` of the role `thought` |
//! | `tool_call` | `tool_call`, and `tool_result` if it is over already |
//! | `tool_call_update` | `tool_result` if it tells anything new |
//! | `user_message_chunk` | none: the engine recorded the user's message itself |
//! | all others | `system` with the update in `data` |
//!
//! A message ends with the next thought, tool call, plan, message with another id, or with the turn. News about the
//! session as a whole (tokens used, commands, modes, titles) may stand in the middle of one.

use std::collections::BTreeMap;

use ob_core::EventBody;
use ob_core::EventKind;
use ob_core::TurnNumber;
use ob_core::event::Role;
use serde::Deserialize;
use serde::Serialize;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;
use sha2::Digest as _;
use sha2::Sha256;

use crate::bounds;
use crate::bounds::NAME_MAX;
use crate::bounds::TEXT_MAX;
use crate::driver::Output;

/// The most stray lines that become events in one turn; the others are counted.
pub(crate) const NOISE_MAX: u32 = 50;
/// The most tool calls of a turn that are remembered; of the others, repeated updates are recorded again.
const CALLS_MAX: usize = 1024;
/// The fields of a tool call whose last value is remembered.
const REMEMBERED: [&str; 9] =
    ["name", "title", "kind", "status", "content", "locations", "rawInput", "rawOutput", "_meta"];

/// Collects the outputs of a step, and puts the turn on its events.
#[derive(Debug)]
pub(crate) struct Sink {
    /// The turn that events belong to.
    pub(crate) turn: Option<TurnNumber>,
    /// What came out.
    pub(crate) outputs: Vec<Output>,
}

/// What must be remembered from update to update.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Transcript {
    /// The message that the agent is writing.
    message: Option<Message>,
    /// The last whole message of this turn.
    last: Option<String>,
    /// The tool calls of this turn.
    calls: BTreeMap<String, Call>,
    /// Stray lines of this turn that became events.
    noise_shown: u32,
    /// Stray lines of this turn that did not.
    noise_suppressed: u64,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Message {
    /// The agent's own id of it.
    id: Option<String>,
    /// At most [`TEXT_MAX`] bytes.
    text: String,
    /// How many bytes came after those.
    omitted: usize,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Call {
    name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    /// The last value of each field, as a digest: contents may be large.
    seen: BTreeMap<String, u64>,
}

// === impl Sink ===

impl Sink {
    /// Nothing yet, for this turn.
    pub(crate) fn new(turn: Option<TurnNumber>) -> Self {
        Self { turn, outputs: Vec::new() }
    }

    /// Adds an event.
    pub(crate) fn event(&mut self, mut body: EventBody) {
        body.turn = self.turn;
        self.outputs.push(Output::Event(Box::new(body)));
    }
}

// === impl Transcript ===

impl Transcript {
    /// One `session/update`.
    pub(crate) fn update(&mut self, update: Value, sink: &mut Sink) {
        let kind = update["sessionUpdate"].as_str().unwrap_or_default().to_owned();
        match (kind.as_str(), update) {
            ("user_message_chunk", _) => self.end_message(sink),
            ("agent_message_chunk", update) => self.message_chunk(update, sink),
            ("agent_thought_chunk", update) => {
                self.end_message(sink);
                delta(Role::Thought, update, sink);
            }
            ("tool_call", Value::Object(call)) => {
                self.end_message(sink);
                self.tool_call(call, sink);
            }
            ("tool_call_update", Value::Object(update)) => {
                self.end_message(sink);
                self.tool_update(update, sink);
            }
            (kind, update) => {
                if kind == "plan" {
                    self.end_message(sink);
                }
                let text = describe(kind, &update);
                sink.event(EventBody::system(text).data(bounds::data(json!({ "update": update }))));
            }
        }
    }

    /// A line that is not of the protocol, or an event about one. Only so many of them in one turn.
    pub(crate) fn noise(&mut self, body: EventBody, sink: &mut Sink) {
        if self.noise_shown < NOISE_MAX {
            self.noise_shown += 1;
            sink.event(body);
        } else {
            self.noise_suppressed += 1;
        }
    }

    /// What kind of thing a tool call does, as the call says now or said before; empty if it never did.
    pub(crate) fn kind_of<'a>(&'a self, call: &'a Value) -> &'a str {
        let before = || self.calls.get(call["toolCallId"].as_str()?)?.kind.as_deref();
        call["kind"].as_str().or_else(before).unwrap_or_default()
    }

    /// The turn is over, or another stage begins: everything buffered becomes events. Tells the last message.
    pub(crate) fn end_stage(&mut self, sink: &mut Sink) -> Option<String> {
        self.end_message(sink);
        if self.noise_suppressed > 0 {
            let text = format!("suppressed {} more lines of the agent's output", self.noise_suppressed);
            sink.event(EventBody::system(text).data(json!({ "suppressed": self.noise_suppressed })));
        }
        std::mem::take(self).last
    }

    fn message_chunk(&mut self, update: Value, sink: &mut Sink) {
        let id = update["messageId"].as_str().map(|id| bounds::prefix(id, NAME_MAX).to_owned());
        let is_another = |message: &Message| id.is_some() && message.id.is_some() && message.id != id;
        if self.message.as_ref().is_some_and(is_another) {
            self.end_message(sink);
        }
        let message = self.message.get_or_insert_default();
        message.id = id.or(message.id.take());
        match update["content"]["text"].as_str() {
            Some(text) => message.push(text),
            None => message.push(&format!("[{}]", content_kind(&update))),
        }
        delta(Role::Agent, update, sink);
    }

    fn end_message(&mut self, sink: &mut Sink) {
        let Some(text) = self.message.take().map(Message::finish).filter(|text| !text.is_empty()) else {
            return;
        };
        self.last = Some(text.clone());
        sink.event(EventBody::new(EventKind::Message).role(Role::Agent).text(text));
    }

    fn tool_call(&mut self, mut call: Map<String, Value>, sink: &mut Sink) {
        let id = tool_call_id(&call);
        // Some agents repeat the whole call where others send an update.
        if self.calls.contains_key(&id) {
            return self.tool_update(call, sink);
        }
        self.remember(&id, &call);
        let over = matches!(call.get("status").and_then(Value::as_str), Some("completed" | "failed"));
        let name = tool_name(&call);
        let result = if over { take_result(&mut call) } else { None };
        let mut event = EventBody::new(EventKind::ToolCall);
        event.tool_name = name.clone().or_else(|| Some("tool".to_owned()));
        event.tool_call_id = Some(id.clone());
        event.arguments = take(&mut call, "rawInput").map(bounds::data);
        let data = rest(call);
        event.data = data.clone();
        sink.event(event);
        if over {
            let mut event = EventBody::new(EventKind::ToolResult);
            event.tool_name = name;
            event.tool_call_id = Some(id);
            event.result = result.map(bounds::data);
            event.data = data.map(|data| json!({ "status": data["status"] }));
            sink.event(event);
        }
    }

    fn tool_update(&mut self, mut update: Map<String, Value>, sink: &mut Sink) {
        let id = tool_call_id(&update);
        if !self.remember(&id, &update) {
            return;
        }
        let remembered = self.calls.get(&id).and_then(|call| call.name.clone());
        let mut event = EventBody::new(EventKind::ToolResult);
        event.tool_name = remembered.or_else(|| tool_name(&update));
        event.tool_call_id = Some(id);
        event.arguments = take(&mut update, "rawInput").map(bounds::data);
        event.result = take_result(&mut update).map(bounds::data);
        event.data = rest(update);
        sink.event(event);
    }

    /// Remembers the fields of a tool call; true if any is new or not as before.
    fn remember(&mut self, id: &str, fields: &Map<String, Value>) -> bool {
        if !self.calls.contains_key(id) {
            if self.calls.len() >= CALLS_MAX {
                return true;
            }
            let name = tool_name(fields);
            self.calls.insert(id.to_owned(), Call { name, kind: None, seen: BTreeMap::new() });
        }
        let Some(call) = self.calls.get_mut(id) else { return true };
        if let Some(kind) = fields.get("kind").and_then(Value::as_str) {
            call.kind = Some(bounds::prefix(kind, NAME_MAX).to_owned());
        }
        let mut changed = false;
        for (field, value) in fields {
            if matches!(field.as_str(), "sessionUpdate" | "toolCallId") || value.is_null() {
                continue;
            }
            // A field that we do not know cannot be remembered within bounds, so it counts as new.
            changed |= !REMEMBERED.contains(&field.as_str()) || {
                let digest = digest(value);
                call.seen.insert(field.clone(), digest) != Some(digest)
            };
        }
        changed
    }
}

// === impl Message ===

impl Message {
    fn push(&mut self, text: &str) {
        // Once something was left out nothing more is taken, or the text would have holes.
        let room = if self.omitted > 0 { 0 } else { TEXT_MAX - self.text.len() };
        let kept = bounds::prefix(text, room);
        self.text.push_str(kept);
        self.omitted += text.len() - kept.len();
    }

    fn finish(mut self) -> String {
        if self.omitted > 0 {
            self.text.push_str(&bounds::cut_note(self.omitted));
        }
        self.text
    }
}

/// A piece of a message as events. Pieces that are too long are split; what is no text is in `data`.
fn delta(role: Role, mut update: Value, sink: &mut Sink) {
    match update["content"]["text"].as_str() {
        Some(text) => {
            for piece in bounds::pieces(text, TEXT_MAX) {
                sink.event(EventBody::new(EventKind::Delta).role(role).text(piece));
            }
        }
        None => {
            let content = update.get_mut("content").map(Value::take);
            let event = EventBody::new(EventKind::Delta).role(role);
            sink.event(event.data(bounds::data(json!({ "content": content }))));
        }
    }
}

/// The kind of a chunk's content, for a text that stands for it.
fn content_kind(update: &Value) -> &str {
    bounds::prefix(update["content"]["type"].as_str().unwrap_or("content"), NAME_MAX)
}

/// What an update without an event of its own says, for people.
fn describe(kind: &str, update: &Value) -> String {
    let length = |field: &str| update[field].as_array().map_or(0, Vec::len);
    match kind {
        "plan" => {
            let entries = update["entries"].as_array().map(Vec::as_slice).unwrap_or_default();
            let done = entries.iter().filter(|entry| entry["status"] == "completed").count();
            format!("plan: {done} of {} done", entries.len())
        }
        "usage_update" => match (update["used"].as_u64(), update["size"].as_u64()) {
            (Some(used), Some(size)) => format!("context: {used} of {size} tokens"),
            _ => "context changed".to_owned(),
        },
        "current_mode_update" => {
            let mode = update["currentModeId"].as_str().unwrap_or("unknown");
            format!("mode: {}", bounds::prefix(mode, NAME_MAX))
        }
        "available_commands_update" => format!("commands: {}", length("availableCommands")),
        "" => "an update without a kind".to_owned(),
        kind => format!("update: {}", bounds::prefix(kind, NAME_MAX)),
    }
}

fn tool_call_id(fields: &Map<String, Value>) -> String {
    let id = fields.get("toolCallId").and_then(Value::as_str).unwrap_or_default();
    bounds::prefix(id, NAME_MAX).to_owned()
}

/// The tool's own name, else its title, else its kind.
fn tool_name(fields: &Map<String, Value>) -> Option<String> {
    ["name", "title", "kind"]
        .into_iter()
        .filter_map(|field| fields.get(field)?.as_str())
        .find(|name| !name.is_empty())
        .map(|name| bounds::cut(name, NAME_MAX).into_owned())
}

/// The raw output, else the content. If both are there, the content stays in the data.
fn take_result(fields: &mut Map<String, Value>) -> Option<Value> {
    take(fields, "rawOutput").or_else(|| {
        take(fields, "content").filter(|content| content.as_array().is_none_or(|a| !a.is_empty()))
    })
}

fn take(fields: &mut Map<String, Value>, field: &str) -> Option<Value> {
    fields.shift_remove(field).filter(|value| !value.is_null())
}

/// What has no field of its own in an event.
fn rest(mut fields: Map<String, Value>) -> Option<Value> {
    fields
        .retain(|field, value| !matches!(field.as_str(), "sessionUpdate" | "toolCallId") && !value.is_null());
    (!fields.is_empty()).then(|| bounds::data(Value::Object(fields)))
}

fn digest(value: &Value) -> u64 {
    let hash = Sha256::digest(value.to_string().as_bytes());
    hash.iter().take(8).fold(0, |digest, byte| digest << 8 | u64::from(*byte))
}
