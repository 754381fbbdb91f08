//! Anthropic's messages.
//!
//! Its report comes in parts: what was read with the first event, what was written with each `message_delta`.

use ob_core::model::Tokens;
use serde::Deserialize;
use serde_json::Value;
use serde_json::json;

use super::Chunk;
use super::Prepared;
use super::Reported;
use super::estimate;
use super::fields::Fields;
use super::reach;
use super::text_bytes;
use super::tokens;
use crate::refuse::GateRefusal;

/// The least tokens that can be given to thinking.
const LEAST_THINKING: u64 = 1024;
const EXAMPLE: &str = "{\"role\": \"user\", \"content\": \"…\"}";

#[derive(Deserialize)]
struct WireEvent {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    message: Option<WireMessage>,
    #[serde(default)]
    usage: Option<Value>,
    #[serde(default)]
    delta: Value,
    #[serde(default)]
    content_block: Value,
    #[serde(default)]
    error: Value,
}

#[derive(Deserialize)]
struct WireMessage {
    #[serde(default)]
    usage: Option<Value>,
}

#[derive(Deserialize)]
struct WholeMessage {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    content: Value,
    #[serde(default)]
    stop_reason: Option<String>,
    #[serde(default)]
    usage: Option<Value>,
}

pub(super) fn prepare(body: &[u8], model: &str, most: u64) -> Result<Prepared, GateRefusal> {
    let mut fields = Fields::parse(body)?;
    let messages = fields.items("messages", EXAMPLE)?;
    let count = messages.len();
    reach::messages(&fields, &messages)?;
    let stream = fields.get("stream", "true or false")?.unwrap_or(false);
    let output_tokens = fields.bound_or_put("max_tokens", most)?;
    bound_thinking(&mut fields, output_tokens)?;
    fields.put("model", model);
    let body = fields.body();
    let input_tokens = estimate(&body, count);
    Ok(Prepared { body, stream, hide_usage: false, input_tokens, output_tokens })
}

/// What is given to thinking must be less than the whole answer may have, which may have become less here.
fn bound_thinking(fields: &mut Fields, most: u64) -> Result<(), GateRefusal> {
    let mut thinking = fields.object("thinking")?;
    let Some(budget) = thinking.get::<u64>("budget_tokens", "a number of tokens")? else { return Ok(()) };
    if budget < most {
        return Ok(());
    }
    if most > LEAST_THINKING {
        thinking.put("budget_tokens", &(most - 1));
        fields.put_object("thinking", &thinking);
    } else {
        fields.put("thinking", &json!({ "type": "disabled" }));
    }
    Ok(())
}

pub(super) fn prepare_count(body: &[u8], model: &str) -> Result<Prepared, GateRefusal> {
    let mut fields = Fields::parse(body)?;
    let messages = fields.items("messages", EXAMPLE)?;
    let count = messages.len();
    reach::messages(&fields, &messages)?;
    fields.put("model", model);
    let body = fields.body();
    let input_tokens = estimate(&body, count);
    Ok(Prepared { body, stream: false, hide_usage: false, input_tokens, output_tokens: 0 })
}

/// Reads an event of a stream; `known` is what the events before told.
pub(super) fn event(data: &[u8], known: &mut Reported) -> Option<Chunk> {
    let event: WireEvent = serde_json::from_slice(data).ok()?;
    let mut chunk = Chunk::default();
    match event.kind.as_str() {
        "message_start" => {
            let report = event.message.as_ref().and_then(|message| message.usage.as_ref());
            chunk.usage = report.map(|report| merge(known, report, false));
        }
        "message_delta" => {
            chunk.finishes = event.delta.get("stop_reason").is_some_and(|reason| !reason.is_null());
            chunk.usage = event.usage.as_ref().map(|report| merge(known, report, chunk.finishes));
        }
        "message_stop" => chunk.ends = true,
        "content_block_start" => chunk.written_bytes = text_bytes(&event.content_block),
        "content_block_delta" => chunk.written_bytes = text_bytes(&event.delta),
        "error" => chunk.error = Some(event.error),
        // `ping`, `content_block_stop`, and what will be added: their policy says that new kinds come.
        _ => {}
    }
    Some(chunk)
}

/// Reads a whole answer.
pub(super) fn whole(body: &[u8]) -> Option<Chunk> {
    let message: WholeMessage = serde_json::from_slice(body).ok()?;
    if message.kind != "message" {
        return None;
    }
    let report = message.usage.as_ref().filter(|report| tokens(report, &["input_tokens"]).is_some());
    Some(Chunk {
        usage: report.map(|report| merge(&mut Reported::default(), report, true)),
        finishes: message.stop_reason.is_some(),
        written_bytes: text_bytes(&message.content),
        ..Chunk::default()
    })
}

/// Takes in what a report tells. `input_tokens` there does not count what came from the cache or went into it.
fn merge(known: &mut Reported, report: &Value, is_final: bool) -> Reported {
    let old = known.tokens;
    let cached = tokens(report, &["cache_read_input_tokens"]).unwrap_or(old.cached);
    let cache_written = tokens(report, &["cache_creation_input_tokens"]).unwrap_or(old.cache_written);
    let plain = tokens(report, &["input_tokens"])
        .unwrap_or_else(|| old.input.saturating_sub(old.cached).saturating_sub(old.cache_written));
    let now = Tokens {
        input: plain.saturating_add(cached).saturating_add(cache_written),
        cached,
        cache_written,
        output: tokens(report, &["output_tokens"]).unwrap_or(old.output),
        reasoning: tokens(report, &["output_tokens_details", "thinking_tokens"]).unwrap_or(old.reasoning),
    };
    *known = Reported { tokens: now.plausible(), is_final: known.is_final || is_final };
    *known
}
