//! Properties of the parsers of model calls, for any bytes; see the crate `ob-fuzz`. Not part of any shipped program.

use ob_core::model::Tokens;
use ob_core::model::Wire;
use serde_json::Value;

use crate::sse::Block;
use crate::sse::Splitter;
use crate::translate;
use crate::translate::Origin;
use crate::translate::Translator;
use crate::wire;
use crate::wire::Watch;

/// The model that every request gets, and the most tokens of its answers.
const MODEL: (&str, u32) = ("fuzzed", 100);

/// What came out of a stream.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    blocks: Vec<Block>,
    /// It broke off, since an event was over the bound.
    is_too_large: bool,
    rest: Option<Block>,
}

/// The wire that a byte stands for.
fn wire_of(byte: u8) -> Wire {
    [Wire::Chat, Wire::Responses, Wire::Messages, Wire::Google][usize::from(byte) % 4]
}

/// A provider's event stream. First byte: the size of pieces. Second: the bound of an event. Panics unless the same blocks
/// come out however it is cut, together they are the stream, and no more than the bound is kept; in whichever wire it is
/// read, nothing is reported that cannot be.
pub fn model_stream(data: &[u8]) {
    let [piece, limit, stream @ ..] = data else { return };
    let limit = 16 + usize::from(*limit) * 16;
    let whole = split(&[stream], limit);
    let pieces: Vec<&[u8]> = stream.chunks(usize::from(*piece) % 16 + 1).collect();
    assert_eq!(split(&pieces, limit), whole, "cuts change nothing");
    let joined: Vec<u8> =
        whole.blocks.iter().chain(&whole.rest).flat_map(|block| block.raw.to_vec()).collect();
    if whole.is_too_large {
        assert!(stream.starts_with(&joined), "what came before the fault is as it was sent");
    } else {
        assert_eq!(joined, stream, "nothing is changed, lost or added");
    }
    for byte in 0..4 {
        let mut watch = Watch::new(wire_of(byte));
        for data in whole.blocks.iter().chain(&whole.rest).filter_map(|block| block.data.as_deref()) {
            let Some(chunk) = watch.event(data) else { continue };
            assert!(chunk.written_bytes <= data.len() as u64, "no more was written than came");
            let is_plausible = chunk.usage.is_none_or(|usage| usage.tokens == usage.tokens.plausible());
            assert!(is_plausible, "{:?}", chunk.usage);
            assert!(!chunk.is_only_usage || chunk.usage.is_some());
        }
    }
}

/// A provider's event stream that is translated. First byte: its wire and that of the agent. Panics unless what comes out
/// is a stream of the agent's wire, which, once it is finished, is read as whole and as saying the same.
pub fn model_translation(data: &[u8]) {
    let [wires, stream @ ..] = data else { return };
    let (provider, agent) = (wire_of(*wires), wire_of(wires / 4));
    let origin = Origin { id: "0".to_owned(), model: MODEL.0.to_owned(), created: 0 };
    let mut translator = Translator::new(provider, agent, origin, true, false);
    let mut out = Vec::new();
    let whole = split(&[stream], 1 << 16);
    for data in whole.blocks.iter().chain(&whole.rest).filter_map(|block| block.data.as_deref()) {
        match translator.event(data) {
            Ok(bytes) => out.extend_from_slice(&bytes),
            Err(_) => return,
        }
    }
    out.extend_from_slice(&translator.finish(Tokens::default()));
    let translated = split(&[&out], usize::MAX);
    assert_eq!(translated.rest, None, "every event is whole");
    let mut watch = Watch::new(agent);
    let mut is_whole = false;
    for data in translated.blocks.iter().filter_map(|block| block.data.as_deref()) {
        if data == b"[DONE]" {
            continue;
        }
        let chunk = watch.event(data).expect("an event of the agent's wire");
        assert_eq!(chunk.error, None);
        is_whole |= chunk.finishes || chunk.ends;
    }
    assert!(is_whole, "it has an end");
}

fn split(pieces: &[&[u8]], limit: usize) -> Seen {
    let mut splitter = Splitter::new(limit);
    let mut blocks = Vec::new();
    for piece in pieces {
        splitter.push(piece);
        loop {
            match splitter.next_block() {
                Ok(Some(block)) => blocks.push(block),
                Ok(None) => break,
                Err(_) => return Seen { blocks, is_too_large: true, rest: None },
            }
        }
        assert!(splitter.kept() <= limit, "no more is kept than one event may have");
    }
    Seen { blocks, is_too_large: false, rest: splitter.rest() }
}

/// An agent's request. First byte: its wire and that of the provider. Panics unless what is sent to the provider is JSON
/// with our model, within our bounds, and preparing it again changes nothing.
pub fn model_request(data: &[u8]) {
    let [wires, body @ ..] = data else { return };
    let (agent, provider) = (wire_of(*wires), wire_of(wires / 4));
    if agent == provider {
        prepared(agent, body, false);
    } else if let Ok(translated) = translate::request(agent, provider, body, false, false) {
        prepared(provider, &translated.body, translated.stream);
    }
}

fn prepared(spoken: Wire, body: &[u8], streams: bool) {
    let (model, most) = MODEL;
    let Ok(prepared) = wire::prepare(spoken, body, model, most, streams) else { return };
    let sent: Value = serde_json::from_slice(&prepared.body).expect("what is sent is JSON");
    let (model_of, list, bounds): (_, _, &[&str]) = match spoken {
        Wire::Chat => (Some("/model"), "/messages", &["/max_tokens", "/max_completion_tokens"]),
        Wire::Responses => (Some("/model"), "/input", &["/max_output_tokens"]),
        Wire::Messages => (Some("/model"), "/messages", &["/max_tokens"]),
        Wire::Google => (None, "/contents", &["/generationConfig/maxOutputTokens"]),
    };
    if let Some(place) = model_of {
        assert_eq!(sent.pointer(place), Some(&model.into()), "whatever the agent asks for");
    }
    let said = sent.pointer(list).expect("something is said");
    assert!(said.is_string() || said.as_array().is_some_and(|items| !items.is_empty()));
    for place in bounds {
        let bound = sent.pointer(place).filter(|bound| !bound.is_null());
        assert!(bound.is_none_or(|bound| bound.as_u64().is_some_and(|n| n <= u64::from(most))), "{sent}");
    }
    assert!(prepared.output_tokens <= u64::from(most) * 16 && prepared.input_tokens > 0);
    if spoken == Wire::Chat && prepared.stream {
        assert_eq!(sent["stream_options"]["include_usage"], true, "{sent}");
    }
    let again =
        wire::prepare(spoken, &prepared.body, model, most, streams).expect("what was prepared can be");
    assert_eq!(again.body, prepared.body, "preparing twice is preparing once");
    assert_eq!(again.output_tokens, prepared.output_tokens);
}
