//! Answers and streams of OpenAI's chat completions, to and from the hub.

use bytes::BytesMut;
use ob_core::model::Tokens;
use serde_json::Value;
use serde_json::json;

use super::write_message;
use crate::translate::Broken;
use crate::translate::Origin;
use crate::translate::Reader;
use crate::translate::Writer;
use crate::translate::hub::Delta;
use crate::translate::hub::Reply;
use crate::translate::hub::Stop;
use crate::translate::json::event;
use crate::translate::json::put;

pub(in crate::translate) fn read_answer(value: &Value) -> Result<Reply, Broken> {
    let choice =
        value.pointer("/choices/0").ok_or_else(|| Broken("an answer without a choice".to_owned()))?;
    let mut deltas = Vec::new();
    let mut message = choice["message"].clone();
    // A whole call is a call that begins and has all of its arguments.
    let calls = message.get_mut("tool_calls").and_then(Value::as_array_mut);
    for (index, call) in calls.into_iter().flatten().filter_map(Value::as_object_mut).enumerate() {
        call.insert("index".to_owned(), index.into());
    }
    let chunk = json!({ "choices": [{ "delta": message, "finish_reason": choice["finish_reason"] }] });
    Events::default().event(&chunk, &mut deltas)?;
    Ok(Reply::of(deltas))
}

pub(in crate::translate) fn write_answer(reply: &Reply, origin: &Origin, tokens: Tokens) -> Value {
    json!({
        "id": format!("chatcmpl-{}", origin.id), "object": "chat.completion", "created": origin.created,
        "model": origin.model, "usage": write_usage(tokens),
        "choices": [{ "index": 0, "message": write_message(reply), "finish_reason": write_stop(reply.stop) }],
    })
}

fn write_usage(tokens: Tokens) -> Value {
    json!({
        "prompt_tokens": tokens.input, "completion_tokens": tokens.output, "total_tokens": tokens.total(),
        "prompt_tokens_details": { "cached_tokens": tokens.cached },
        "completion_tokens_details": { "reasoning_tokens": tokens.reasoning },
    })
}

fn write_stop(stop: Stop) -> &'static str {
    match stop {
        Stop::End => "stop",
        Stop::Length => "length",
        Stop::Calls => "tool_calls",
        Stop::Filtered => "content_filter",
    }
}

/// Reads chunks. Servers differ in what they repeat of a call: a new index or a new id begins one.
#[derive(Default)]
pub(in crate::translate) struct Events {
    /// Index and id of the call that goes on.
    call: Option<(u64, String)>,
    calls: u64,
}

// === impl Events ===

impl Events {
    fn call(&mut self, call: &Value, deltas: &mut Vec<Delta>) -> Result<(), Broken> {
        let index = call["index"].as_u64();
        let id = call["id"].as_str().filter(|id| !id.is_empty());
        let name = call.pointer("/function/name").and_then(Value::as_str).filter(|name| !name.is_empty());
        let goes_on = self.call.as_ref().is_some_and(|(current, known)| {
            index.is_none_or(|index| index == *current) && id.is_none_or(|id| id == known)
        });
        if !goes_on {
            let Some(name) = name else {
                return Err(Broken("a part of a call that is over or never began".to_owned()));
            };
            let id = id.map_or_else(|| format!("call_{}", self.calls), str::to_owned);
            self.call = Some((index.unwrap_or(self.calls), id.clone()));
            self.calls += 1;
            deltas.push(Delta::Call { id, name: name.to_owned() });
        }
        match call.pointer("/function/arguments") {
            Some(Value::String(arguments)) if !arguments.is_empty() => {
                deltas.push(Delta::Arguments(arguments.clone()));
            }
            // Some servers give the object itself.
            Some(arguments @ Value::Object(_)) => deltas.push(Delta::Arguments(arguments.to_string())),
            _ => {}
        }
        Ok(())
    }
}

impl Reader for Events {
    fn event(&mut self, data: &Value, deltas: &mut Vec<Delta>) -> Result<(), Broken> {
        let Some(choice) = data.pointer("/choices/0") else { return Ok(()) };
        let delta = &choice["delta"];
        let said = |name: &str| delta[name].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        deltas.extend(said("reasoning_content").or_else(|| said("reasoning")).map(Delta::Reasoning));
        deltas.extend(said("content").map(Delta::Text));
        deltas.extend(said("refusal").map(Delta::Text));
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            self.call(call, deltas)?;
        }
        deltas.extend(choice["finish_reason"].as_str().map(|reason| {
            Delta::Stop(match reason {
                "length" => Stop::Length,
                "tool_calls" | "function_call" => Stop::Calls,
                "content_filter" => Stop::Filtered,
                _ => Stop::End,
            })
        }));
        Ok(())
    }
}

/// Writes chunks.
pub(in crate::translate) struct Chunks {
    origin: Origin,
    wants_usage: bool,
    begun: bool,
    calls: u64,
}

// === impl Chunks ===

impl Chunks {
    pub(in crate::translate) fn new(origin: Origin, wants_usage: bool) -> Self {
        Self { origin, wants_usage, begun: false, calls: 0 }
    }

    fn chunk(&self, out: &mut BytesMut, choices: Value, usage: Option<Value>) {
        let Origin { id, model, created } = &self.origin;
        let mut chunk = json!({
            "id": format!("chatcmpl-{id}"), "object": "chat.completion.chunk", "created": created,
            "model": model, "choices": choices,
        });
        put(&mut chunk, "usage", usage);
        event(out, None, &chunk);
    }

    fn said(&self, out: &mut BytesMut, delta: Value) {
        self.chunk(out, json!([{ "index": 0, "delta": delta, "finish_reason": null }]), None);
    }
}

impl Writer for Chunks {
    fn begin(&mut self, out: &mut BytesMut) {
        if !self.begun {
            self.begun = true;
            self.said(out, json!({ "role": "assistant", "content": "" }));
        }
    }

    fn delta(&mut self, delta: Delta, out: &mut BytesMut) {
        match delta {
            Delta::Text(text) => self.said(out, json!({ "content": text })),
            Delta::Reasoning(text) => self.said(out, json!({ "reasoning_content": text })),
            Delta::Call { id, name } => {
                let function = json!({ "name": name, "arguments": "" });
                let call = json!({ "index": self.calls, "id": id, "type": "function", "function": function });
                self.calls += 1;
                self.said(out, json!({ "tool_calls": [call] }));
            }
            Delta::Arguments(text) => {
                let index = self.calls.saturating_sub(1);
                let call = json!({ "index": index, "function": { "arguments": text } });
                self.said(out, json!({ "tool_calls": [call] }));
            }
            Delta::Stop(_) => {}
        }
    }

    fn finish(&mut self, stop: Stop, tokens: Tokens, out: &mut BytesMut) {
        self.chunk(out, json!([{ "index": 0, "delta": {}, "finish_reason": write_stop(stop) }]), None);
        if self.wants_usage {
            self.chunk(out, json!([]), Some(write_usage(tokens)));
        }
        out.extend_from_slice(b"data: [DONE]\n\n");
    }
}
