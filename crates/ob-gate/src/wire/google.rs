//! Google's `generateContent`.
//!
//! The model and whether it streams stand in the route. Every chunk of a stream reports the tokens so far.

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

const EXAMPLE: &str = "{\"role\": \"user\", \"parts\": [{\"text\": \"…\"}]}";

#[derive(Deserialize)]
struct WireChunk {
    #[serde(default)]
    candidates: Option<Vec<WireCandidate>>,
    #[serde(default, rename = "promptFeedback")]
    feedback: Option<Value>,
    #[serde(default, rename = "usageMetadata")]
    usage: Option<Value>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Deserialize)]
struct WireCandidate {
    #[serde(default)]
    content: Value,
    #[serde(default, rename = "finishReason")]
    finish_reason: Option<Value>,
}

pub(super) fn prepare(body: &[u8], most: u64, stream: bool) -> Result<Prepared, GateRefusal> {
    let mut fields = Fields::parse(body)?;
    let contents = fields.items("contents", EXAMPLE)?;
    let count = contents.len();
    reach::google(&fields, &contents)?;
    // The API takes both spellings; of one field given twice it takes either.
    if fields.has("generation_config") {
        return Err(spelling("generation_config", "generationConfig"));
    }
    let mut config = fields.object("generationConfig")?;
    for (snake, camel) in [("max_output_tokens", "maxOutputTokens"), ("candidate_count", "candidateCount")] {
        if config.has(snake) {
            return Err(spelling(snake, camel));
        }
    }
    let choices: u64 = config.get("candidateCount", "a small number")?.unwrap_or(1);
    if !(1..=MAX_CHOICES).contains(&choices) {
        let what = format!("`candidateCount` is {choices}");
        return Err(GateRefusal::invalid(Some("candidateCount"), what, "ask for 1 to 16 answers"));
    }
    let output_tokens = config.bound_or_put("maxOutputTokens", most)?;
    fields.put_object("generationConfig", &config);
    fields.remove("model");
    let body = fields.body();
    let input_tokens = estimate(&body, count);
    Ok(Prepared { body, stream, hide_usage: false, input_tokens, output_tokens: output_tokens * choices })
}

pub(super) fn prepare_count(body: &[u8]) -> Result<Prepared, GateRefusal> {
    let fields = Fields::parse(body)?;
    // The other form holds a whole request, with the name of a model in it.
    if fields.has("generateContentRequest") || fields.has("generate_content_request") {
        let what = "`generateContentRequest` names a model of its own";
        return Err(GateRefusal::invalid(Some("generateContentRequest"), what, "send `contents`"));
    }
    let contents = fields.items("contents", EXAMPLE)?;
    let count = contents.len();
    reach::google(&fields, &contents)?;
    let body = fields.body();
    let input_tokens = estimate(&body, count);
    Ok(Prepared { body, stream: false, hide_usage: false, input_tokens, output_tokens: 0 })
}

fn spelling(snake: &'static str, camel: &str) -> GateRefusal {
    let what = format!("`{snake}` is not the spelling that the gate reads");
    GateRefusal::invalid(Some(snake), what, &format!("write `{camel}`"))
}

/// Reads a chunk, or a whole answer.
pub(super) fn chunk(data: &[u8]) -> Option<Chunk> {
    let wire: WireChunk = serde_json::from_slice(data).ok()?;
    let candidates = wire.candidates.unwrap_or_default();
    let is_blocked = wire.feedback.as_ref().is_some_and(|feedback| feedback.get("blockReason").is_some());
    let finishes = is_blocked
        || candidates.iter().any(|one| one.finish_reason.as_ref().is_some_and(|reason| !reason.is_null()));
    Some(Chunk {
        usage: wire.usage.as_ref().and_then(|report| usage(report, finishes)),
        finishes,
        written_bytes: candidates.iter().map(|one| text_bytes(&one.content)).sum(),
        error: wire.error.filter(|error| !error.is_null()),
        ..Chunk::default()
    })
}

/// The tokens of thinking are not among those of the candidates; those that tools read are not among the prompt's.
fn usage(report: &Value, is_final: bool) -> Option<Reported> {
    let part = |name| tokens(report, &[name]).unwrap_or(0);
    let thoughts = part("thoughtsTokenCount");
    let known = Tokens {
        input: tokens(report, &["promptTokenCount"])?.saturating_add(part("toolUsePromptTokenCount")),
        cached: part("cachedContentTokenCount"),
        cache_written: 0,
        output: part("candidatesTokenCount").saturating_add(thoughts),
        reasoning: thoughts,
    };
    Some(Reported { tokens: known.plausible(), is_final })
}
