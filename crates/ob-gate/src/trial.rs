//! A trial of a model: one small request, made like those of agents, and what came back.
//!
//! It is asked in the wire of the built-in agent, so a provider of another wire is asked by translation. It is in nobody's
//! ledger, since no tree asks; what it used is told instead.

use std::time::Duration;
use std::time::Instant;

use http::HeaderMap;
use http_body_util::BodyExt as _;
use ob_core::MicroUsd;
use ob_core::Refusal;
use ob_core::model::ModelRef;
use ob_core::model::Tokens;
use ob_core::model::ToolCall;
use ob_core::model::Wire;
use serde_json::Value;
use serde_json::json;

use crate::Gates;
use crate::caller::Caller;
use crate::models::Provider;
use crate::proxy;
use crate::sse::Splitter;
use crate::wire::Watch;

/// The tool that the model is to call.
const TOOL: &str = "add";
/// What it is to call it with.
const ARGUMENTS: [(&str, f64); 2] = [("a", 20.0), ("b", 22.0)];
/// The most bytes of an answer: far more than a call of a tool, or some thinking before it.
const MAX_ANSWER: usize = 256 * 1024;

/// What came of a trial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// How long it took until the first piece of the answer.
    pub first_byte: Duration,
    /// How long it took until the end of it.
    pub took: Duration,
    /// What became of the tool.
    pub tool_call: ToolCall,
    /// What was used, as far as the provider reports it.
    pub tokens: Option<Tokens>,
    /// What that cost, if the model has a price.
    pub cost: Option<MicroUsd>,
}

/// What an answer says, piece by piece.
#[derive(Debug, Default)]
struct Answer {
    calls: Vec<(String, String)>,
    tokens: Option<Tokens>,
}

// === impl Gates ===

impl Gates {
    /// Tries a model that the gates know.
    ///
    /// # Errors
    /// What an agent would be told: the provider does not answer within this time, refuses the key, or answers with
    /// something else than its wire.
    pub async fn try_model(&self, model: &ModelRef, within: Duration) -> Result<Trial, Refusal> {
        let trying = tokio::time::timeout(within, self.trial(model)).await;
        trying.unwrap_or_else(|_| {
            let what = format!("the model {model} was not done with a short answer within {within:?}");
            Err(Refusal::unavailable(what)
                .fix("try again: a model that is loaded first is slow once; or use another"))
        })
    }

    async fn trial(&self, model: &ModelRef) -> Result<Trial, Refusal> {
        let caller = Caller::server(&self.shared, model);
        // What goes wrong is told at once.
        let provider = Provider { retries: 0, ..self.shared.models.provider(model)? };
        let price = caller.price(&provider).map_err(|refused| refused.refusal)?;
        let body = request().to_string();
        let plan = proxy::plan(Wire::Chat, &provider, &model.model, body.as_bytes(), true)
            .map_err(|refused| refused.refusal)?;
        let began = Instant::now();
        let answered = proxy::call(caller, &provider, price, &plan, &HeaderMap::new()).await;
        let mut body = answered.map_err(|refused| refused.refusal)?.into_body();
        let (mut splitter, mut answer) = (Splitter::new(MAX_ANSWER), Answer::default());
        let (mut first_byte, mut length) = (None, 0);
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame;
            let Ok(bytes) = frame.into_data() else { continue };
            first_byte.get_or_insert_with(|| began.elapsed());
            length += bytes.len();
            if length > MAX_ANSWER {
                let what = format!("the model {model} does not come to an end");
                return Err(Refusal::unavailable(what).fix("use another model"));
            }
            splitter.push(&bytes);
            while let Ok(Some(block)) = splitter.next_block() {
                answer.read(&block.data.unwrap_or_default())?;
            }
        }
        let took = began.elapsed();
        Ok(Trial {
            first_byte: first_byte.unwrap_or(took),
            took,
            tool_call: answer.verdict(),
            tokens: answer.tokens,
            cost: price.zip(answer.tokens).map(|(price, tokens)| price.cost(tokens)),
        })
    }
}

// === impl Answer ===

impl Answer {
    /// Reads an event of chat completions.
    fn read(&mut self, data: &[u8]) -> Result<(), Refusal> {
        let Some(chunk) = Watch::new(Wire::Chat).event(data) else { return Ok(()) };
        if let Some(error) = chunk.error {
            // The gate's own words: a fault in the middle of an answer is its last event.
            let message = error["message"].as_str().unwrap_or("the answer broke off");
            return Err(Refusal::unavailable(message));
        }
        if let Some(usage) = chunk.usage {
            self.tokens = Some(usage.tokens);
        }
        let event: Value = serde_json::from_slice(data).unwrap_or_default();
        for call in
            event.pointer("/choices/0/delta/tool_calls").and_then(Value::as_array).into_iter().flatten()
        {
            let text = |path: &str| call.pointer(path).and_then(Value::as_str).unwrap_or_default();
            let is_new =
                call["id"].as_str().is_some_and(|id| !id.is_empty()) && !text("/function/name").is_empty();
            if is_new || self.calls.is_empty() {
                self.calls.push(Default::default());
            }
            if let Some((name, arguments)) = self.calls.last_mut() {
                name.push_str(text("/function/name"));
                arguments.push_str(text("/function/arguments"));
            }
        }
        Ok(())
    }

    fn verdict(&self) -> ToolCall {
        let is_meant = |(name, arguments): &(String, String)| {
            let arguments: Value = serde_json::from_str(arguments).unwrap_or_default();
            name == TOOL && ARGUMENTS.iter().all(|(name, value)| arguments[name].as_f64() == Some(*value))
        };
        match self.calls.as_slice() {
            [] => ToolCall::Missing,
            // One that calls twice called well.
            calls if calls.iter().all(is_meant) => ToolCall::WellFormed,
            _ => ToolCall::Malformed,
        }
    }
}

/// What the model is asked.
fn request() -> Value {
    let properties: serde_json::Map<String, Value> =
        ARGUMENTS.iter().map(|(name, _)| ((*name).to_owned(), json!({ "type": "number" }))).collect();
    let [(_, a), (_, b)] = ARGUMENTS;
    json!({
        "stream": true,
        "stream_options": { "include_usage": true },
        "messages": [
            { "role": "system", "content": "You do what you are asked with the tools that you have." },
            { "role": "user", "content": format!("Call the tool `{TOOL}` with {a} and {b}, in this order.") },
        ],
        "tools": [{ "type": "function", "function": {
            "name": TOOL,
            "description": "Adds two numbers.",
            "parameters": {
                "type": "object", "properties": properties, "required": ARGUMENTS.map(|(name, _)| name),
            },
        }}],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(deltas: &[Value]) -> Answer {
        let mut answer = Answer::default();
        for delta in deltas {
            let chunk = json!({ "choices": [{ "index": 0, "delta": { "tool_calls": [delta] } }] });
            answer.read(chunk.to_string().as_bytes()).expect("no error");
        }
        answer
    }

    fn call(name: &str, arguments: &str) -> Value {
        json!({ "index": 0, "id": "c", "function": { "name": name, "arguments": arguments } })
    }

    #[test]
    fn a_call_is_judged_by_its_name_and_its_arguments() {
        let rest = |text: &str| json!({ "index": 0, "function": { "arguments": text } });
        for (what, deltas, expected) in [
            ("nothing", vec![], ToolCall::Missing),
            ("whole", vec![call("add", r#"{"a":20,"b":22}"#)], ToolCall::WellFormed),
            (
                "in pieces",
                vec![call("add", ""), rest(r#"{"a":20.0,"#), rest(r#""b":22}"#)],
                ToolCall::WellFormed,
            ),
            ("twice", vec![call("add", r#"{"a":20,"b":22}"#); 2], ToolCall::WellFormed),
            ("another tool", vec![call("sub", r#"{"a":20,"b":22}"#)], ToolCall::Malformed),
            ("texts", vec![call("add", r#"{"a":"20","b":"22"}"#)], ToolCall::Malformed),
            ("swapped", vec![call("add", r#"{"a":22,"b":20}"#)], ToolCall::Malformed),
            ("cut", vec![call("add", r#"{"a":20,"b""#)], ToolCall::Malformed),
            ("no object", vec![call("add", "[20,22]")], ToolCall::Malformed),
        ] {
            assert_eq!(answer(&deltas).verdict(), expected, "{what}");
        }
    }

    #[test]
    fn a_fault_in_the_middle_is_a_refusal_in_the_gates_words() {
        let mut answer = Answer::default();
        assert!(answer.read(b"[DONE]").is_ok() && answer.read(b"").is_ok());
        let refused =
            answer.read(br#"{"error":{"message":"it broke off; try again"}}"#).expect_err("an error");
        assert_eq!(refused.message, "it broke off; try again");
    }
}
