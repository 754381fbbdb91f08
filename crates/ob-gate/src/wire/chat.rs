//! OpenAI's chat completions.

use ob_core::model::Tokens;
use serde::Deserialize;
use serde_json::Value;

use super::Chunk;
use super::MAX_CHOICES;
use super::Prepared;
use super::Reported;
use super::estimate;
use super::fields::Fields;
use super::reach;
use super::text_bytes;
use super::tokens;
use crate::refuse::GateRefusal;

#[derive(Deserialize)]
struct WireChunk {
    #[serde(default)]
    usage: Option<Value>,
    #[serde(default)]
    choices: Option<Vec<WireChoice>>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Deserialize)]
struct WireChoice {
    #[serde(default)]
    delta: Value,
    #[serde(default)]
    message: Value,
    #[serde(default)]
    text: Value,
    #[serde(default)]
    finish_reason: Option<Value>,
}

pub(super) fn prepare(body: &[u8], model: &str, most: u64) -> Result<Prepared, GateRefusal> {
    let mut fields = Fields::parse(body)?;
    let messages = fields.items("messages", "{\"role\": \"user\", \"content\": \"…\"}")?;
    let count = messages.len();
    reach::chat(&fields, &messages)?;
    let stream = fields.get("stream", "true or false")?.unwrap_or(false);
    let choices: u64 = fields.get("n", "a small number")?.unwrap_or(1);
    if !(1..=MAX_CHOICES).contains(&choices) {
        return Err(GateRefusal::invalid(Some("n"), format!("`n` is {choices}"), "ask for 1 to 16 answers"));
    }
    let mut asked = most;
    for name in ["max_tokens", "max_completion_tokens"] {
        asked = asked.min(fields.bound(name, most)?.unwrap_or(most));
    }
    let hide_usage = stream && ask_for_usage(&mut fields)?;
    fields.put("model", model);
    let body = fields.body();
    let input_tokens = estimate(&body, count);
    Ok(Prepared { body, stream, hide_usage, input_tokens, output_tokens: asked * choices })
}

/// Makes sure that a stream reports its usage. True if the agent had not asked for it.
fn ask_for_usage(fields: &mut Fields) -> Result<bool, GateRefusal> {
    let mut options = fields.object("stream_options")?;
    let asked = options.get("include_usage", "true or false")?.unwrap_or(false);
    if !asked {
        options.put("include_usage", &true);
        fields.put_object("stream_options", &options);
    }
    Ok(!asked)
}

/// Reads a chunk, or a whole answer.
pub(super) fn chunk(data: &[u8]) -> Option<Chunk> {
    let wire: WireChunk = serde_json::from_slice(data).ok()?;
    let choices = wire.choices.unwrap_or_default();
    let usage = wire.usage.as_ref().and_then(usage);
    Some(Chunk {
        is_only_usage: usage.is_some() && choices.is_empty(),
        usage,
        finishes: choices.iter().any(|choice| choice.finish_reason.as_ref().is_some_and(|r| !r.is_null())),
        ends: false,
        written_bytes: choices.iter().map(WireChoice::written_bytes).sum(),
        error: wire.error.filter(|error| !error.is_null()),
    })
}

/// The usage of a chat completion.
fn usage(usage: &Value) -> Option<Reported> {
    Some(Reported::last(Tokens {
        input: tokens(usage, &["prompt_tokens"])?,
        cached: tokens(usage, &["prompt_tokens_details", "cached_tokens"]).unwrap_or(0),
        cache_written: 0,
        output: tokens(usage, &["completion_tokens"]).unwrap_or(0),
        reasoning: tokens(usage, &["completion_tokens_details", "reasoning_tokens"]).unwrap_or(0),
    }))
}

// === impl WireChoice ===

impl WireChoice {
    fn written_bytes(&self) -> u64 {
        text_bytes(&self.delta) + text_bytes(&self.message) + text_bytes(&self.text)
    }
}
