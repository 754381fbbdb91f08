//! From one wire to another: requests on their way out, answers and streams on their way back.
//!
//! ```text
//! agent's request   -> hub::Request -> provider's request
//! agent's answer    <- hub::Reply   <- provider's answer
//! agent's stream    <- hub::Delta   <- provider's stream
//! ```
//!
//! Pure: values in, values out. The hub knows what chat completions know, which every wire has: texts, images, calls of
//! tools and their results. A field that only tunes, or speaks of a cache or of billing, is left out; anything else without
//! a counterpart is refused by name. The page `docs/design/gate.md` lists both.

use bytes::Bytes;
use bytes::BytesMut;
use http::StatusCode;
use ob_core::Refusal;
use ob_core::model::Tokens;
use ob_core::model::Wire;
use serde_json::Value;

use crate::refuse::GateRefusal;

mod chat;
mod google;
mod held;
mod hub;
mod json;
mod messages;
mod responses;
#[cfg(test)]
pub(crate) mod tests;

use held::Release;
use hub::Delta;
use hub::Reply;
use hub::Stop;

/// What has no counterpart in the other wire, or is malformed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{at}` {why}")]
pub(crate) struct Untranslatable {
    /// Where it stands.
    at: String,
    /// What is the matter with it.
    why: String,
}

/// An answer that cannot be translated, since it is not what its wire says it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Broken(String);

/// A request in the provider's wire.
#[derive(Debug)]
pub(crate) struct Translated {
    /// The body.
    pub(crate) body: Vec<u8>,
    /// The agent wants a stream.
    pub(crate) stream: bool,
    /// The agent wants to see the usage, where its wire leaves that to it.
    pub(crate) wants_usage: bool,
}

/// What a translated answer says of itself.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    /// A name that no other answer has, of letters and digits.
    pub(crate) id: String,
    /// The model that answered.
    pub(crate) model: String,
    /// When, in seconds since the epoch.
    pub(crate) created: u64,
}

/// Turns the events of one wire into those of another.
pub(crate) struct Translator {
    reader: Box<dyn Reader>,
    writer: Box<dyn Writer>,
    /// Room for what an event says, used again.
    deltas: Vec<Delta>,
    stop: Option<Stop>,
    calls: bool,
    /// Gives calls back that are held to a schema.
    release: Option<Release>,
}

/// Reads the events of a wire.
trait Reader: Send {
    /// What the data of an event says.
    fn event(&mut self, data: &Value, deltas: &mut Vec<Delta>) -> Result<(), Broken>;
}

/// Writes the events of a wire.
trait Writer: Send {
    /// What stands before everything else.
    fn begin(&mut self, out: &mut BytesMut);
    /// A piece of the answer.
    fn delta(&mut self, delta: Delta, out: &mut BytesMut);
    /// The end.
    fn finish(&mut self, stop: Stop, tokens: Tokens, out: &mut BytesMut);
}

/// Translates a request. `streams` is what the route says, where the agent's wire does not say it in the body; `holds` is true
/// for a model whose calls are held to a schema.
pub(crate) fn request(
    agent: Wire,
    provider: Wire,
    body: &[u8],
    streams: bool,
    holds: bool,
) -> Result<Translated, GateRefusal> {
    let value: Value = serde_json::from_slice(body).map_err(|error| {
        let what = format!("the body is no JSON object (line {}, column {})", error.line(), error.column());
        GateRefusal::invalid(None, what, "send the request as a JSON object")
    })?;
    let refused = |no: Untranslatable| {
        let what = format!("a request of {agent} cannot be translated to {provider}: {no}");
        let refusal =
            Refusal::invalid(what).fix("leave it out, or use a model whose provider speaks the agent's wire");
        GateRefusal::new(StatusCode::BAD_REQUEST, "cannot_translate", refusal)
    };
    let mut hub = match agent {
        Wire::Chat => chat::read_request(&value),
        Wire::Responses => responses::read_request(&value),
        Wire::Messages => messages::read_request(&value),
        Wire::Google => google::read_request(&value),
    }
    .map_err(refused)?;
    hub.stream |= streams;
    if holds {
        hub = held::hold(hub).map_err(refused)?;
    }
    let written = write_request(provider, &hub).map_err(refused)?;
    let body = serde_json::to_vec(&written).expect("a JSON value is always JSON");
    Ok(Translated { body, stream: hub.stream, wants_usage: hub.wants_usage })
}

fn write_request(wire: Wire, request: &hub::Request) -> Result<Value, Untranslatable> {
    match wire {
        Wire::Chat => chat::write_request(request),
        Wire::Responses => responses::write_request(request),
        Wire::Messages => messages::write_request(request),
        Wire::Google => google::write_request(request),
    }
}

/// Translates a whole answer.
pub(crate) fn answer(
    provider: Wire,
    agent: Wire,
    body: &[u8],
    origin: &Origin,
    tokens: Tokens,
    holds: bool,
) -> Result<Bytes, Broken> {
    let value: Value =
        serde_json::from_slice(body).map_err(|_| Broken("a body that is no JSON object".to_owned()))?;
    let mut reply = read_answer(provider, &value, origin)?;
    if holds {
        reply = held::release(reply, &origin.id);
    }
    if reply.stop == Stop::End && reply.has_calls() {
        reply.stop = Stop::Calls;
    }
    let written = write_answer(agent, &reply, origin, tokens);
    Ok(written.to_string().into())
}

fn read_answer(wire: Wire, value: &Value, origin: &Origin) -> Result<Reply, Broken> {
    match wire {
        Wire::Chat => chat::read_answer(value),
        Wire::Responses => responses::read_answer(value),
        Wire::Messages => messages::read_answer(value),
        Wire::Google => google::read_answer(value, origin),
    }
}

fn write_answer(wire: Wire, reply: &Reply, origin: &Origin, tokens: Tokens) -> Value {
    match wire {
        Wire::Chat => chat::write_answer(reply, origin, tokens),
        Wire::Responses => responses::write_answer(reply, origin, tokens),
        Wire::Messages => messages::write_answer(reply, origin, tokens),
        Wire::Google => google::write_answer(reply, origin, tokens),
    }
}

// === impl Translator ===

impl Translator {
    /// From a provider's wire to an agent's.
    pub(crate) fn new(provider: Wire, agent: Wire, origin: Origin, wants_usage: bool, holds: bool) -> Self {
        let release = holds.then(|| Release::new(&origin.id));
        let reader: Box<dyn Reader> = match provider {
            Wire::Chat => Box::new(chat::Events::default()),
            Wire::Responses => Box::new(responses::Events::default()),
            Wire::Messages => Box::new(messages::Events::default()),
            Wire::Google => Box::new(google::Events::new(&origin)),
        };
        let writer: Box<dyn Writer> = match agent {
            Wire::Chat => Box::new(chat::Chunks::new(origin, wants_usage)),
            Wire::Responses => Box::new(responses::Writing::new(origin)),
            Wire::Messages => Box::new(messages::Writing::new(origin)),
            Wire::Google => Box::new(google::Chunks::new(origin)),
        };
        Self { reader, writer, deltas: Vec::new(), stop: None, calls: false, release }
    }

    /// What the data of an event becomes; nothing, if it says nothing that the other wire says.
    pub(crate) fn event(&mut self, data: &[u8]) -> Result<BytesMut, Broken> {
        let value: Value =
            serde_json::from_slice(data).map_err(|_| Broken("an event that is no JSON object".to_owned()))?;
        self.reader.event(&value, &mut self.deltas)?;
        let mut out = BytesMut::new();
        if let Some(release) = &mut self.release {
            if !self.deltas.is_empty() {
                // What is kept back has begun: the agent hears of it.
                self.writer.begin(&mut out);
            }
            let mut released = Vec::new();
            self.deltas.drain(..).for_each(|delta| release.delta(delta, &mut released));
            self.deltas = released;
        }
        for delta in self.deltas.drain(..) {
            match delta {
                Delta::Stop(stop) => self.stop = Some(stop),
                delta => {
                    self.calls |= matches!(delta, Delta::Call { .. });
                    self.writer.begin(&mut out);
                    self.writer.delta(delta, &mut out);
                }
            }
        }
        Ok(out)
    }

    /// The last events, once the provider's stream is whole.
    pub(crate) fn finish(&mut self, tokens: Tokens) -> Bytes {
        let stop = match self.stop.unwrap_or(Stop::End) {
            Stop::End if self.calls => Stop::Calls,
            stop => stop,
        };
        let mut out = BytesMut::new();
        self.writer.begin(&mut out);
        self.writer.finish(stop, tokens, &mut out);
        out.freeze()
    }
}
