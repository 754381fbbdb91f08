//! Properties of the parsers of model calls, for any bytes; see the crate `ob-fuzz`. Not part of any shipped program.

use serde_json::Value;

use crate::request;
use crate::sse::Block;
use crate::sse::Chunk;
use crate::sse::Splitter;

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

/// A provider's event stream. First byte: the size of pieces. Second: the bound of an event. Panics unless the same blocks
/// come out however it is cut, together they are the stream, and no more than the bound is kept.
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
    for data in whole.blocks.iter().chain(&whole.rest).filter_map(|block| block.data.as_deref()) {
        let Some(chunk) = Chunk::parse(data) else { continue };
        assert!(chunk.written_bytes <= data.len() as u64, "no more was written than came");
        assert!(chunk.usage.is_none_or(|usage| usage.cached <= usage.input), "{:?}", chunk.usage);
        assert!(!chunk.is_only_usage || chunk.usage.is_some());
    }
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

/// An agent's request. Panics unless what is sent to the provider is JSON with our model, within our bounds, and
/// preparing it again changes nothing.
pub fn model_request(data: &[u8]) {
    let (model, most) = MODEL;
    let Ok(prepared) = request::prepare(data, model, most) else { return };
    let sent: Value = serde_json::from_slice(&prepared.body).expect("what is sent is JSON");
    assert_eq!(sent["model"], model, "whatever the agent asks for");
    assert!(sent["messages"].as_array().is_some_and(|messages| !messages.is_empty()));
    for name in ["max_tokens", "max_completion_tokens"] {
        assert!(sent[name].is_null() || sent[name].as_u64().is_some_and(|n| n <= u64::from(most)), "{sent}");
    }
    assert!(prepared.output_tokens <= u64::from(most) * 16 && prepared.input_tokens > 0);
    assert!(!prepared.stream || sent["stream_options"]["include_usage"] == true, "{sent}");
    let again = request::prepare(&prepared.body, model, most).expect("what was prepared can be");
    assert_eq!(again.body, prepared.body, "preparing twice is preparing once");
    assert_eq!(again.output_tokens, prepared.output_tokens);
}
