//! OpenAI's responses.
//!
//! What refers to something that the provider keeps is refused: neither its size nor whose it is could be known before
//! the call is made.

use ob_core::model::Tokens;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::Chunk;
use super::Prepared;
use super::Reported;
use super::count;
use super::estimate;
use super::fields::Fields;
use super::reach;
use super::text_bytes;
use super::tokens;
use crate::refuse::GateRefusal;

/// Fields that lead to what the provider keeps, or to a call that outlives this one.
const KEPT: [&str; 4] = ["previous_response_id", "conversation", "prompt", "background"];

#[derive(Deserialize)]
struct WireEvent {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    response: Option<WireResponse>,
    #[serde(default)]
    delta: Value,
    #[serde(default)]
    message: Value,
    #[serde(default)]
    error: Value,
    #[serde(default)]
    code: Value,
}

#[derive(Deserialize)]
struct WireResponse {
    #[serde(default)]
    object: Option<String>,
    #[serde(default)]
    status: Option<String>,
    #[serde(default)]
    output: Vec<Value>,
    #[serde(default)]
    usage: Option<Value>,
    #[serde(default)]
    error: Option<Value>,
}

pub(super) fn prepare(body: &[u8], model: &str, most: u64) -> Result<Prepared, GateRefusal> {
    let mut fields = Fields::parse(body)?;
    for name in KEPT {
        if fields.has(name) && fields.raw(name).is_some_and(|value| value.get() != "false") {
            let what = format!("`{name}` leads to what the provider keeps, and the gate cannot bound that");
            return Err(GateRefusal::invalid(Some(name), what, "send the whole conversation in `input`"));
        }
    }
    let is_text =
        fields.get::<&RawValue>("input", "a text or a list")?.map(|input| input.get().starts_with('"'));
    let items = match is_text {
        Some(true) => Vec::new(),
        _ => fields.items("input", "{\"role\": \"user\", \"content\": \"…\"}")?,
    };
    let number = items.len().max(1);
    reach::responses(&fields, &items)?;
    let stream = fields.get("stream", "true or false")?.unwrap_or(false);
    let output_tokens = fields.bound_or_put("max_output_tokens", most)?;
    fields.put("model", model);
    let body = fields.body();
    let input_tokens = estimate(&body, number);
    Ok(Prepared { body, stream, hide_usage: false, input_tokens, output_tokens })
}

/// Reads an event of a stream.
pub(super) fn event(data: &[u8]) -> Option<Chunk> {
    let event: WireEvent = serde_json::from_slice(data).ok()?;
    let kind = event.kind.as_str();
    let mut chunk = Chunk::default();
    match kind {
        "response.completed" | "response.incomplete" | "response.failed" => {
            let response = event.response?;
            chunk.usage = response.usage.as_ref().and_then(usage);
            chunk.ends = true;
            chunk.finishes = true;
            if kind == "response.failed" {
                chunk.error = Some(response.error.unwrap_or(Value::Null));
            }
        }
        "error" => {
            let said = [event.error, event.message, event.code].into_iter().find(|said| !said.is_null());
            chunk.error = Some(said.unwrap_or(Value::Null));
        }
        _ if kind.ends_with(".delta") => chunk.written_bytes = text_bytes(&event.delta),
        _ => {}
    }
    Some(chunk)
}

/// Reads a whole answer.
pub(super) fn whole(body: &[u8]) -> Option<Chunk> {
    let response: WireResponse = serde_json::from_slice(body).ok()?;
    if response.object.as_deref() != Some("response") {
        return None;
    }
    let status = response.status.as_deref().unwrap_or_default();
    if response.error.as_ref().is_some_and(|error| !error.is_null()) || status == "failed" {
        return None;
    }
    Some(Chunk {
        usage: response.usage.as_ref().and_then(usage),
        finishes: matches!(status, "completed" | "incomplete"),
        written_bytes: response
            .output
            .iter()
            .map(text_bytes)
            .fold(0, u64::saturating_add)
            .min(count(body.len())),
        ..Chunk::default()
    })
}

fn usage(usage: &Value) -> Option<Reported> {
    Some(Reported::last(Tokens {
        input: tokens(usage, &["input_tokens"])?,
        cached: tokens(usage, &["input_tokens_details", "cached_tokens"]).unwrap_or(0),
        cache_written: 0,
        output: tokens(usage, &["output_tokens"]).unwrap_or(0),
        reasoning: tokens(usage, &["output_tokens_details", "reasoning_tokens"]).unwrap_or(0),
    }))
}
