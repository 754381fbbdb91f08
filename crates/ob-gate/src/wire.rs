//! The four wires: what is checked of a request before it goes out, and what is read of an answer on its way.
//!
//! A request is looked at on its top level, and where it could make the provider reach out; the rest goes on byte by byte.
//! Of an answer, [`Watch`] reads what it costs, whether it is whole, and whether it is an error.

use bytes::Bytes;
use ob_core::model::Tokens;
use ob_core::model::Wire;
use serde_json::Value;

use crate::refuse::GateRefusal;

mod chat;
pub(crate) mod fields;
mod google;
mod messages;
pub(crate) mod reach;
mod responses;
#[cfg(test)]
mod tests;

/// Bytes of a request that count as one token in an estimate: prose has four or more, code and other scripts three.
const BYTES_PER_TOKEN: u64 = 3;
/// Tokens that each message costs beside its text.
const TOKENS_PER_MESSAGE: u64 = 8;
/// The most answers to one request.
const MAX_CHOICES: u64 = 16;
/// Fields of an answer that the model did not write.
const SILENT: [&str; 6] = ["role", "type", "id", "mimeType", "signature", "thoughtSignature"];

/// A request, ready to be sent.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// What is sent to the provider.
    pub(crate) body: Bytes,
    /// The agent wants an event stream.
    pub(crate) stream: bool,
    /// We asked for the usage and the agent did not: it does not see the event that only holds it.
    pub(crate) hide_usage: bool,
    /// Tokens that the provider will read, rather too many than too few.
    pub(crate) input_tokens: u64,
    /// The most tokens that it may write.
    pub(crate) output_tokens: u64,
}

/// What one event of a stream, or a whole answer, tells.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Chunk {
    /// What is known of the tokens by now, if this says anything of them.
    pub(crate) usage: Option<Reported>,
    /// It is there for its usage alone.
    pub(crate) is_only_usage: bool,
    /// The answer came to its end, but something may follow.
    pub(crate) finishes: bool,
    /// Nothing follows.
    pub(crate) ends: bool,
    /// Bytes of text, reasoning and calls in it.
    pub(crate) written_bytes: u64,
    /// The provider's error, if it is one.
    pub(crate) error: Option<Value>,
}

/// Tokens as a provider reports them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reported {
    pub(crate) tokens: Tokens,
    /// False while the answer goes on: more may be written than this says.
    pub(crate) is_final: bool,
}

/// Reads an answer as it passes.
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    wire: Wire,
    known: Reported,
}

/// Checks a request and prepares it for `model`, whose answers have at most `max_output_tokens` tokens. `streams` is what
/// the route says, where the wire's body does not.
pub(crate) fn prepare(
    wire: Wire,
    body: &[u8],
    model: &str,
    max_output_tokens: u32,
    streams: bool,
) -> Result<Prepared, GateRefusal> {
    let most = u64::from(max_output_tokens);
    match wire {
        Wire::Chat => chat::prepare(body, model, most),
        Wire::Responses => responses::prepare(body, model, most),
        Wire::Messages => messages::prepare(body, model, most),
        Wire::Google => google::prepare(body, most, streams),
    }
}

/// A request to count tokens, with the name of our model.
pub(crate) fn prepare_count(wire: Wire, body: &[u8], model: &str) -> Result<Prepared, GateRefusal> {
    match wire {
        Wire::Google => google::prepare_count(body),
        _ => messages::prepare_count(body, model),
    }
}

/// Rather too many tokens than too few.
fn estimate(body: &Bytes, messages: usize) -> u64 {
    let (bytes, messages) = (count(body.len()), count(messages));
    bytes.div_ceil(BYTES_PER_TOKEN) + messages.saturating_mul(TOKENS_PER_MESSAGE)
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

// === impl Watch ===

impl Watch {
    /// Nothing was seen yet.
    pub(crate) fn new(wire: Wire) -> Self {
        Self { wire, known: Reported::default() }
    }

    /// Reads the data of one event. `None` if it is nothing of this wire.
    pub(crate) fn event(&mut self, data: &[u8]) -> Option<Chunk> {
        if !is_object(data) {
            return None;
        }
        match self.wire {
            Wire::Chat => chat::chunk(data),
            Wire::Responses => responses::event(data),
            Wire::Messages => messages::event(data, &mut self.known),
            Wire::Google => google::chunk(data),
        }
    }

    /// Reads a whole answer that is no stream. `None` if it is none.
    pub(crate) fn whole(&mut self, body: &[u8]) -> Option<Chunk> {
        if !is_object(body) {
            return None;
        }
        let chunk = match self.wire {
            Wire::Chat => chat::chunk(body),
            Wire::Responses => responses::whole(body),
            Wire::Messages => messages::whole(body),
            Wire::Google => google::chunk(body),
        }?;
        (chunk.finishes || chunk.written_bytes > 0).then_some(chunk)
    }
}

/// A list would pass for an object with its fields in order.
fn is_object(data: &[u8]) -> bool {
    data.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{')
}

// === impl Reported ===

impl Reported {
    fn last(tokens: Tokens) -> Self {
        Self { tokens: tokens.plausible(), is_final: true }
    }
}

/// A number of tokens in a report; nothing if it is missing, negative or a fraction.
fn tokens(report: &Value, path: &[&str]) -> Option<u64> {
    path.iter().try_fold(report, |value, name| value.get(name))?.as_u64()
}

/// Bytes of the texts in a value, names and roles left out.
fn text_bytes(value: &Value) -> u64 {
    match value {
        Value::String(text) => count(text.len()),
        Value::Array(items) => items.iter().map(text_bytes).sum(),
        Value::Object(fields) => fields
            .iter()
            .filter(|(name, _)| !SILENT.contains(&name.as_str()))
            .map(|(_, item)| text_bytes(item))
            .sum(),
        _ => 0,
    }
}
