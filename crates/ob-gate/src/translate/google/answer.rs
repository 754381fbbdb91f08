//! Answers and streams of Google's `generateContent`, to and from the hub.

use bytes::BytesMut;
use ob_core::model::Tokens;
use serde_json::Value;
use serde_json::json;

use crate::translate::Broken;
use crate::translate::Origin;
use crate::translate::Reader;
use crate::translate::Writer;
use crate::translate::hub::Call;
use crate::translate::hub::Delta;
use crate::translate::hub::Reply;
use crate::translate::hub::Said;
use crate::translate::hub::Stop;
use crate::translate::json::event;

pub(in crate::translate) fn read_answer(value: &Value, origin: &Origin) -> Result<Reply, Broken> {
    let mut deltas = Vec::new();
    Events::new(origin).event(value, &mut deltas)?;
    Ok(Reply::of(deltas))
}

pub(in crate::translate) fn write_answer(reply: &Reply, origin: &Origin, tokens: Tokens) -> Value {
    let mut parts = Vec::new();
    for said in &reply.said {
        parts.extend(match said {
            Said::Text(text) => Some(json!({ "text": text })),
            Said::Reasoning(text) => Some(json!({ "text": text, "thought": true })),
            Said::Call(call) => Some(write_call(call)),
        });
    }
    let mut answer = chunk(origin, parts);
    finish(&mut answer, reply.stop, tokens);
    answer
}

fn write_call(call: &Call) -> Value {
    json!({ "functionCall": { "id": call.id, "name": call.name, "args": call.input() } })
}

fn chunk(origin: &Origin, parts: Vec<Value>) -> Value {
    json!({
        "candidates": [{ "index": 0, "content": { "role": "model", "parts": parts } }],
        "modelVersion": origin.model, "responseId": origin.id,
    })
}

fn finish(chunk: &mut Value, stop: Stop, tokens: Tokens) {
    chunk["candidates"][0]["finishReason"] = match stop {
        Stop::End | Stop::Calls => "STOP",
        Stop::Length => "MAX_TOKENS",
        Stop::Filtered => "SAFETY",
    }
    .into();
    chunk["usageMetadata"] = json!({
        "promptTokenCount": tokens.input, "cachedContentTokenCount": tokens.cached,
        "candidatesTokenCount": tokens.output - tokens.reasoning.min(tokens.output),
        "thoughtsTokenCount": tokens.reasoning, "totalTokenCount": tokens.total(),
    });
}

/// Reads chunks. A call comes whole.
pub(in crate::translate) struct Events {
    id: String,
    calls: u64,
}

// === impl Events ===

impl Events {
    pub(in crate::translate) fn new(origin: &Origin) -> Self {
        Self { id: origin.id.clone(), calls: 0 }
    }
}

impl Reader for Events {
    fn event(&mut self, data: &Value, deltas: &mut Vec<Delta>) -> Result<(), Broken> {
        if data.pointer("/promptFeedback/blockReason").is_some() {
            deltas.push(Delta::Stop(Stop::Filtered));
        }
        let Some(candidate) = data.pointer("/candidates/0") else { return Ok(()) };
        for part in candidate.pointer("/content/parts").and_then(Value::as_array).into_iter().flatten() {
            if let Some(call) = part.get("functionCall") {
                let name = call["name"].as_str().filter(|name| !name.is_empty());
                let name = name.ok_or_else(|| Broken("a call without a name".to_owned()))?.to_owned();
                let made = || format!("call_{}_{}", self.id, self.calls);
                let id = call["id"].as_str().filter(|id| !id.is_empty()).map_or_else(made, str::to_owned);
                self.calls += 1;
                deltas.push(Delta::Call { id, name });
                let args = call.get("args").filter(|args| args.is_object());
                deltas.push(Delta::Arguments(args.map_or_else(|| "{}".to_owned(), Value::to_string)));
                continue;
            }
            let Some(text) = part["text"].as_str().filter(|text| !text.is_empty()) else { continue };
            let is_thought = part["thought"] == true;
            deltas.push(if is_thought {
                Delta::Reasoning(text.to_owned())
            } else {
                Delta::Text(text.to_owned())
            });
        }
        match candidate["finishReason"].as_str() {
            None => {}
            Some("STOP" | "FINISH_REASON_UNSPECIFIED") => deltas.push(Delta::Stop(Stop::End)),
            Some("MAX_TOKENS") => deltas.push(Delta::Stop(Stop::Length)),
            // The model failed, and another try may go better: that is an error in every other wire.
            Some(reason @ ("MALFORMED_FUNCTION_CALL" | "UNEXPECTED_TOOL_CALL" | "OTHER")) => {
                return Err(Broken(format!("an answer that ends with {reason}")));
            }
            Some(_) => deltas.push(Delta::Stop(Stop::Filtered)),
        }
        Ok(())
    }
}

/// Writes chunks. A call waits until it is whole.
pub(in crate::translate) struct Chunks {
    origin: Origin,
    call: Option<Call>,
}

// === impl Chunks ===

impl Chunks {
    pub(in crate::translate) fn new(origin: Origin) -> Self {
        Self { origin, call: None }
    }

    fn write(&self, out: &mut BytesMut, part: Value) {
        event(out, None, &chunk(&self.origin, vec![part]));
    }

    fn end_call(&mut self, out: &mut BytesMut) {
        if let Some(call) = self.call.take() {
            self.write(out, write_call(&call));
        }
    }
}

impl Writer for Chunks {
    fn begin(&mut self, _: &mut BytesMut) {}

    fn delta(&mut self, delta: Delta, out: &mut BytesMut) {
        if let (Delta::Arguments(text), Some(call)) = (&delta, &mut self.call) {
            call.arguments.push_str(text);
            return;
        }
        self.end_call(out);
        match delta {
            Delta::Text(text) => self.write(out, json!({ "text": text })),
            Delta::Reasoning(text) => self.write(out, json!({ "text": text, "thought": true })),
            Delta::Call { id, name } => self.call = Some(Call { id, name, arguments: String::new() }),
            Delta::Arguments(_) | Delta::Stop(_) => {}
        }
    }

    fn finish(&mut self, stop: Stop, tokens: Tokens, out: &mut BytesMut) {
        self.end_call(out);
        let mut last = chunk(&self.origin, Vec::new());
        finish(&mut last, stop, tokens);
        event(out, None, &last);
    }
}
