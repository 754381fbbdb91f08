//! What goes over the wire. Requests are exact; of what comes back only the known fields are looked at.

use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;

/// A request for a streamed completion.
#[derive(Debug, Serialize)]
pub(crate) struct Request<'a> {
    /// The model's name.
    pub(crate) model: &'a str,
    /// The conversation, the system prompt first.
    pub(crate) messages: &'a [Message],
    /// What the model may call.
    pub(crate) tools: &'a Value,
    /// How hard it shall think; as its provider has it if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reasoning_effort: Option<&'a str>,
    /// Always true.
    pub(crate) stream: bool,
    /// Asks for the count of tokens.
    pub(crate) stream_options: StreamOptions,
}

/// What shall come beside the answer.
#[derive(Debug, Serialize)]
pub(crate) struct StreamOptions {
    /// Always true.
    pub(crate) include_usage: bool,
}

/// A message of the conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "role", rename_all = "snake_case")]
pub(crate) enum Message {
    /// Instructions.
    System {
        /// The text.
        content: String,
    },
    /// A prompt.
    User {
        /// The text.
        content: String,
    },
    /// An answer.
    Assistant {
        /// Null if there are only calls.
        content: Option<String>,
        /// Absent if there are none.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        tool_calls: Vec<MessageCall>,
    },
    /// The result of a call.
    Tool {
        /// Which call.
        tool_call_id: String,
        /// The result.
        content: String,
    },
}

/// A call in an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct MessageCall {
    /// Names it.
    pub(crate) id: String,
    r#type: &'static str,
    function: Function,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Function {
    name: String,
    arguments: String,
}

/// One event of the stream.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Chunk {
    #[serde(default)]
    pub(super) choices: Option<Vec<Choice>>,
    #[serde(default)]
    pub(super) error: Option<Value>,
    // Only counted with; whatever shape it has is no reason to refuse an answer.
    #[serde(default)]
    pub(super) usage: Option<Value>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Choice {
    #[serde(default)]
    pub(super) delta: Option<Delta>,
    #[serde(default)]
    pub(super) finish_reason: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Delta {
    #[serde(default)]
    pub(super) content: Option<String>,
    #[serde(default)]
    pub(super) refusal: Option<String>,
    // Two names are in use for the same thing.
    #[serde(default)]
    pub(super) reasoning_content: Option<String>,
    #[serde(default)]
    pub(super) reasoning: Option<String>,
    #[serde(default)]
    pub(super) tool_calls: Option<Vec<CallDelta>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct CallDelta {
    #[serde(default)]
    pub(super) index: Option<usize>,
    #[serde(default)]
    pub(super) id: Option<String>,
    #[serde(default)]
    pub(super) function: Option<FunctionDelta>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct FunctionDelta {
    #[serde(default)]
    pub(super) name: Option<String>,
    #[serde(default)]
    pub(super) arguments: Option<String>,
}

/// The text and the code of an error object, however it is shaped.
pub(super) fn error_text(error: &Value) -> (String, Option<String>) {
    let code = match error.get("code").or_else(|| error.get("type")) {
        Some(Value::String(code)) => Some(code.clone()),
        Some(Value::Number(code)) => Some(code.to_string()),
        _ => error.get("type").and_then(Value::as_str).map(str::to_owned),
    };
    let message = match error.get("message").unwrap_or(error) {
        Value::String(message) => message.clone(),
        other => other.to_string(),
    };
    (message, code)
}

// === impl MessageCall ===

impl MessageCall {
    /// A call of a function.
    pub(crate) fn new(id: &str, name: &str, arguments: String) -> Self {
        Self {
            id: id.to_owned(),
            r#type: "function",
            function: Function { name: name.to_owned(), arguments },
        }
    }
}
