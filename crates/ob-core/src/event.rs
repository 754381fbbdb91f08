//! Events: what happened in a session, numbered from 0 without a gap, durable, never changed.

use schemars::JsonSchema;
use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;

use crate::id::TurnNumber;
use crate::ledger::MicroUsd;
use crate::time::Timestamp;

/// The version of the stored payload that this code writes.
pub const PAYLOAD_VERSION: u8 = 1;

/// A payload of more bytes than this is kept as a content-addressed blob and referred to.
pub const INLINE_PAYLOAD_MAX: usize = 64 * 1024;

/// What kind of thing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// Something of the system: sandbox started, agent ready, model chosen, plan, mode.
    System,
    /// A whole message, of the user or of the agent.
    Message,
    /// A piece of the agent's message while it is being written.
    Delta,
    /// The agent calls a tool.
    ToolCall,
    /// A tool answered, or moved on.
    ToolResult,
    /// A turn ended.
    Completion,
    /// Something failed.
    Error,
    /// The session changed its state.
    Status,
    /// A question of permission or to a person, or its answer.
    Approval,
    /// Tokens and money were spent.
    Usage,
    /// The agent calls a tool of the session's caller.
    CallerToolRequest,
}

/// Who speaks in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The person or program that gave the task.
    User,
    /// The agent.
    Agent,
    /// The agent's reasoning.
    Thought,
}

/// What one model call used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    /// Tokens read.
    pub input_tokens: u64,
    /// Tokens written.
    pub output_tokens: u64,
    /// Of the tokens read, those that came from the provider's cache.
    #[serde(default)]
    pub cached_tokens: u64,
    /// What it cost, in millionths of a US dollar.
    pub cost: MicroUsd,
    /// The model that answered.
    pub model: String,
    /// True if the provider reported nothing and these are our estimate.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub estimated: bool,
}

/// The content of an event, before it has a number. Unset fields are left out on the wire and in the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EventBody {
    /// What kind of thing happened.
    #[serde(rename = "type")]
    pub kind: EventKind,
    /// The turn it belongs to, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<TurnNumber>,
    /// Text for people: message, delta, error, status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Who speaks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// The tool's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_name: Option<String>,
    /// Ties a result to its call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// What the tool was called with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments: Option<Value>,
    /// What the tool answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// What was spent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// Details by kind: the new state of a status, the stop reason of a completion, the code of an error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
}

/// One thing that happened in a session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Its number in the session, from 0, without a gap.
    pub index: u64,
    /// When it was committed.
    pub at: Timestamp,
    /// What happened.
    pub body: EventBody,
}

// === impl EventKind ===

impl EventKind {
    /// Every kind, with the number it has in the store. Append only: a number is never used again.
    pub const STORED: [(Self, u8); 11] = [
        (Self::System, 1),
        (Self::Message, 2),
        (Self::Delta, 3),
        (Self::ToolCall, 4),
        (Self::ToolResult, 5),
        (Self::Completion, 6),
        (Self::Error, 7),
        (Self::Status, 8),
        (Self::Approval, 9),
        (Self::Usage, 10),
        (Self::CallerToolRequest, 11),
    ];

    /// The number of this kind in the store.
    pub fn stored(self) -> u8 {
        Self::STORED.iter().find(|(kind, _)| *kind == self).map_or(0, |(_, number)| *number)
    }

    /// The kind that has this number in the store.
    pub fn from_stored(number: u8) -> Option<Self> {
        Self::STORED.iter().find(|(_, n)| *n == number).map(|(kind, _)| *kind)
    }
}

// === impl EventBody ===

impl EventBody {
    /// An event of this kind with nothing set.
    pub const fn new(kind: EventKind) -> Self {
        Self {
            kind,
            turn: None,
            text: None,
            role: None,
            tool_name: None,
            tool_call_id: None,
            arguments: None,
            result: None,
            usage: None,
            data: None,
        }
    }

    /// A `system` event with a text.
    pub fn system(text: impl Into<String>) -> Self {
        Self::new(EventKind::System).text(text)
    }

    /// An `error` event with a text and the refusal's code.
    pub fn error(refusal: &crate::Refusal) -> Self {
        Self::new(EventKind::Error)
            .text(refusal.to_string())
            .data(serde_json::json!({ "code": refusal.code, "message": refusal.message, "fix": refusal.fix }))
    }

    /// Sets the text.
    #[must_use]
    pub fn text(mut self, text: impl Into<String>) -> Self {
        self.text = Some(text.into());
        self
    }

    /// Sets the turn.
    #[must_use]
    pub const fn turn(mut self, turn: TurnNumber) -> Self {
        self.turn = Some(turn);
        self
    }

    /// Sets who speaks.
    #[must_use]
    pub const fn role(mut self, role: Role) -> Self {
        self.role = Some(role);
        self
    }

    /// Sets the details.
    #[must_use]
    pub fn data(mut self, data: Value) -> Self {
        self.data = Some(data);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_numbers_are_unique_and_go_both_ways() {
        for (kind, number) in EventKind::STORED {
            assert_eq!(EventKind::from_stored(number), Some(kind));
            assert_eq!(kind.stored(), number);
        }
        assert_eq!(EventKind::from_stored(0), None);
    }

    #[test]
    fn unset_fields_stay_off_the_wire() {
        let body = EventBody::system("ready");
        assert_eq!(serde_json::to_string(&body).expect("json"), r#"{"type":"system","text":"ready"}"#);
    }
}
