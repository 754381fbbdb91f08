//! What all wires can say.

use serde_json::Number;
use serde_json::Value;

/// A request.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Request {
    /// Instructions, in order.
    pub(super) system: Vec<String>,
    /// The conversation.
    pub(super) turns: Vec<Turn>,
    /// What the model may call.
    pub(super) tools: Vec<Tool>,
    /// Whether it may, or must.
    pub(super) choice: Option<Choice>,
    /// Whether it may call several at once.
    pub(super) parallel: Option<bool>,
    pub(super) max_output: Option<u64>,
    pub(super) temperature: Option<Number>,
    pub(super) top_p: Option<Number>,
    /// Texts at which it stops.
    pub(super) stop: Vec<String>,
    /// How hard it thinks, in OpenAI's words.
    pub(super) effort: Option<String>,
    /// The form of the answer, if it is not plain text.
    pub(super) format: Option<Format>,
    pub(super) stream: bool,
    /// The agent wants to see the usage of a stream.
    pub(super) wants_usage: bool,
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Turn {
    User(Vec<Part>),
    Assistant(Vec<Said>),
    Result(CallResult),
}

/// A part of what a user says, or of a tool's result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Text(String),
    /// An image in base64.
    Image {
        media_type: String,
        data: String,
    },
}

/// A part of what a model says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Text(String),
    Reasoning(String),
    Call(Call),
}

/// A call of a tool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Call {
    pub(super) id: String,
    pub(super) name: String,
    /// JSON, as the model wrote it.
    pub(super) arguments: String,
}

/// What a call of a tool came to.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct CallResult {
    /// The id of the call.
    pub(super) call: String,
    pub(super) content: Vec<Part>,
    pub(super) is_error: bool,
}

/// A tool that the agent has.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tool {
    pub(super) name: String,
    pub(super) description: Option<String>,
    /// A JSON schema.
    pub(super) parameters: Value,
    pub(super) strict: Option<bool>,
}

/// Which tool is to be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    Auto,
    None,
    Required,
    Named(String),
}

/// The form of an answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Format {
    /// Some JSON.
    Json,
    /// JSON of this schema.
    Schema { name: String, schema: Value, strict: Option<bool> },
}

/// A piece of a streamed answer. Arguments belong to the call that began last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Delta {
    Text(String),
    Reasoning(String),
    Call { id: String, name: String },
    Arguments(String),
    Stop(Stop),
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// It was said.
    End,
    /// It had no more tokens.
    Length,
    /// It waits for the results of its calls.
    Calls,
    /// It was held back.
    Filtered,
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(super) said: Vec<Said>,
    pub(super) stop: Stop,
}

// === impl Request ===

impl Request {
    /// Adds a turn; what a model says in several items of its wire is one turn.
    pub(super) fn push(&mut self, turn: Turn) {
        match (self.turns.last_mut(), turn) {
            (Some(Turn::Assistant(before)), Turn::Assistant(said)) => before.extend(said),
            (_, turn) => self.turns.push(turn),
        }
    }

    /// The name of the tool that was called so.
    pub(super) fn name_of(&self, id: &str) -> Option<&str> {
        self.turns.iter().rev().find_map(|turn| {
            let Turn::Assistant(said) = turn else { return None };
            said.iter().find_map(|said| match said {
                Said::Call(call) if call.id == id => Some(call.name.as_str()),
                _ => None,
            })
        })
    }
}

// === impl Part ===

impl Part {
    /// An image as a `data:` address; nothing if it is another one.
    pub(super) fn from_data_url(url: &str) -> Option<Self> {
        let (media_type, data) = url.strip_prefix("data:")?.split_once(";base64,")?;
        Some(Self::Image { media_type: media_type.to_owned(), data: data.to_owned() })
    }

    /// The texts of some parts, one after the other.
    pub(super) fn text_of(parts: &[Self]) -> String {
        let texts = parts.iter().filter_map(|part| match part {
            Self::Text(text) => Some(text.as_str()),
            Self::Image { .. } => None,
        });
        texts.collect::<Vec<_>>().join("\n")
    }
}

/// The `data:` address of an image.
pub(super) fn data_url(media_type: &str, data: &str) -> String {
    format!("data:{media_type};base64,{data}")
}

// === impl Call ===

impl Call {
    /// Its arguments as an object, for wires that have no text there. A model that wrote none gave none; what is no object
    /// stays readable as it was written.
    pub(super) fn input(&self) -> Value {
        match serde_json::from_str(&self.arguments) {
            Ok(Value::Object(fields)) => Value::Object(fields),
            _ if self.arguments.trim().is_empty() => Value::Object(serde_json::Map::new()),
            _ => serde_json::json!({ "arguments": self.arguments }),
        }
    }
}

// === impl Reply ===

impl Reply {
    /// What the pieces of a stream come to.
    pub(super) fn of(deltas: impl IntoIterator<Item = Delta>) -> Self {
        let mut reply = Self { said: Vec::new(), stop: Stop::End };
        for delta in deltas {
            match (delta, reply.said.last_mut()) {
                (Delta::Text(more), Some(Said::Text(text))) => text.push_str(&more),
                (Delta::Text(text), _) => reply.said.push(Said::Text(text)),
                (Delta::Reasoning(more), Some(Said::Reasoning(text))) => text.push_str(&more),
                (Delta::Reasoning(text), _) => reply.said.push(Said::Reasoning(text)),
                (Delta::Call { id, name }, _) => {
                    reply.said.push(Said::Call(Call { id, name, arguments: String::new() }));
                }
                (Delta::Arguments(more), Some(Said::Call(call))) => call.arguments.push_str(&more),
                // Readers give arguments only to a call that goes on.
                (Delta::Arguments(_), _) => {}
                (Delta::Stop(stop), _) => reply.stop = stop,
            }
        }
        reply
    }

    pub(super) fn has_calls(&self) -> bool {
        self.said.iter().any(|said| matches!(said, Said::Call(_)))
    }

    /// All of its text.
    pub(super) fn text(&self) -> String {
        let texts =
            self.said.iter().filter_map(|said| if let Said::Text(text) = said { Some(text) } else { None });
        texts.map(String::as_str).collect()
    }

    /// All of its reasoning.
    pub(super) fn reasoning(&self) -> String {
        let texts = self
            .said
            .iter()
            .filter_map(|said| if let Said::Reasoning(text) = said { Some(text) } else { None });
        texts.map(String::as_str).collect()
    }

    /// Its calls.
    pub(super) fn calls(&self) -> impl Iterator<Item = &Call> {
        self.said.iter().filter_map(|said| if let Said::Call(call) = said { Some(call) } else { None })
    }
}
