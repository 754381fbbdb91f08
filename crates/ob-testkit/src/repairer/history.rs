//! What has been done so far, read from the conversation and played again.

use serde_json::Value;

/// A call of a tool.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// The tool.
    pub name: String,
    /// Its arguments.
    pub arguments: Value,
}

/// What the model answers.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Says something and calls a tool.
    Call {
        /// What it says.
        say: String,
        /// What it calls.
        call: Call,
        /// How many calls were made before; names the call.
        number: usize,
    },
    /// Says something and stops.
    Say(String),
}

/// Plays the past again: each call of the plan gets the result that it had, and the first that has none ends the play.
pub(super) struct Replay {
    past: Vec<(Call, String)>,
    next: usize,
}

// === impl Replay ===

impl Replay {
    /// The calls since the model last stopped. A prompt that came twice, because a server died over the first, does not
    /// begin anew: the files are as the calls left them.
    pub(super) fn of(messages: &[Value]) -> Self {
        let mut past = Vec::new();
        for message in messages {
            match message["role"].as_str() {
                Some("assistant") => {
                    let calls = message["tool_calls"].as_array().map(Vec::as_slice).unwrap_or_default();
                    if calls.is_empty() {
                        past.clear();
                    }
                    past.extend(calls.iter().map(|call| {
                        let id = call["id"].as_str().unwrap_or_default();
                        (read_call(call), result_of(messages, id))
                    }));
                }
                _ => continue,
            }
        }
        Self { past, next: 0 }
    }

    /// The result of this call, or the end of the play.
    pub(super) fn call(
        &mut self,
        say: impl Into<String>,
        name: &str,
        arguments: Value,
    ) -> Result<String, Step> {
        let call = Call { name: name.to_string(), arguments };
        let number = self.next;
        let Some((made, result)) = self.past.get(number) else {
            return Err(Step::Call { say: say.into(), call, number });
        };
        if *made != call {
            return Err(Step::Say(format!(
                "I am a script and follow from my earlier steps, but they are no longer all in the conversation (step \
                 {number} was `{}` where I expect `{name}`). I stop here; `git diff` shows what I changed so far.",
                made.name
            )));
        }
        self.next += 1;
        Ok(result.clone())
    }
}

fn read_call(call: &Value) -> Call {
    let function = &call["function"];
    let arguments = function["arguments"].as_str().and_then(|text| serde_json::from_str(text).ok());
    Call {
        name: function["name"].as_str().unwrap_or_default().to_string(),
        arguments: arguments.unwrap_or_default(),
    }
}

fn result_of(messages: &[Value], id: &str) -> String {
    let answer = messages
        .iter()
        .rev()
        .find(|message| message["role"] == "tool" && message["tool_call_id"].as_str() == Some(id));
    match answer.map(|message| &message["content"]) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
        _ => "interrupted".to_string(),
    }
}
