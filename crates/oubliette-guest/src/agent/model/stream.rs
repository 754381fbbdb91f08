//! The streamed answer: events in, pieces to show out, the whole answer at the end. Everything is bounded.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::StreamExt as _;
use http_body_util::BodyDataStream;
use hyper::body::Incoming;
use sse_stream::Sse;
use sse_stream::SseByteStream;
use tokio::time::timeout;

use super::ModelError;
use super::client::Connection;
use super::wire;
use super::wire::CallDelta;
use super::wire::Chunk;
use crate::agent::text;
use crate::agent::transcript::Call;

/// The longest event, in bytes.
const MAX_EVENT: usize = 4 * 1024 * 1024;
/// The longest text, and the longest arguments of all calls together, in bytes.
const MAX_TEXT: usize = 8 * 1024 * 1024;
/// The most calls in one answer.
const MAX_CALLS: usize = 128;
/// The longest name or id of a call, in bytes.
const MAX_NAME: usize = 256;

/// Something to show at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Of the answer.
    Text(String),
    /// Of the reasoning before it.
    Thought(String),
}

/// Why the model stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    /// It was done, or wants calls made.
    Done,
    /// It hit its length limit.
    Length,
    /// It, or a filter, would not answer.
    Refused,
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// What was said.
    pub(crate) text: String,
    /// What is to be done; ids are as the model gave them, perhaps empty or used before.
    pub(crate) calls: Vec<Call>,
    /// Why it ends here.
    pub(crate) finish: Finish,
    /// How many tokens the request was, by the provider's count; 0 if it does not say.
    pub(crate) request_tokens: u64,
}

/// An answer that is under way.
pub(crate) struct AnswerStream {
    events: Pin<Box<dyn Stream<Item = Result<Sse, sse_stream::Error>>>>,
    /// Bytes that came since the last event.
    unparsed: Rc<Cell<usize>>,
    idle: Duration,
    answer: Partial,
    pieces: VecDeque<Piece>,
    _connection: Connection,
}

/// What came so far.
#[derive(Debug, Default)]
struct Partial {
    text: String,
    calls: Vec<Call>,
    /// The stream's number of each call; not all providers count from 0 or at all.
    numbers: Vec<Option<usize>>,
    call_bytes: usize,
    finish: Option<Finish>,
    is_refusal: bool,
    request_tokens: u64,
}

// === impl AnswerStream ===

impl AnswerStream {
    pub(super) fn new(body: Incoming, idle: Duration, connection: Connection) -> Self {
        let unparsed = Rc::new(Cell::new(0));
        let counter = Rc::clone(&unparsed);
        let bytes = BodyDataStream::new(body).map(move |bytes| -> io::Result<Bytes> {
            let bytes = bytes.map_err(io::Error::other)?;
            counter.set(counter.get() + bytes.len());
            // The parser itself knows no bound.
            if counter.get() > MAX_EVENT { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
        });
        Self {
            events: Box::pin(SseByteStream::new(bytes)),
            unparsed,
            idle,
            answer: Partial::default(),
            pieces: VecDeque::new(),
            _connection: connection,
        }
    }

    /// The next piece to show, or the whole answer.
    pub(crate) async fn next(&mut self) -> Result<Result<Piece, Answer>, ModelError> {
        loop {
            if let Some(piece) = self.pieces.pop_front() {
                return Ok(Ok(piece));
            }
            let event = match timeout(self.idle, self.events.next()).await {
                Ok(event) => event,
                Err(_elapsed) => return Err(ModelError::Idle(self.idle)),
            };
            let data = match event {
                Some(Ok(event)) => event.data,
                Some(Err(error)) => return Err(self.failure(error)),
                None => {
                    return self
                        .answer
                        .finish()
                        .map(Err)
                        .ok_or_else(|| ModelError::Cut("the stream ended without an end".to_owned()));
                }
            };
            self.unparsed.set(0);
            match data.as_deref().map(str::trim) {
                Some("[DONE]") => {
                    // Some providers give no reason to stop; the end of the stream is one.
                    self.answer.finish.get_or_insert(Finish::Done);
                    return self
                        .answer
                        .finish()
                        .map(Err)
                        .ok_or_else(|| ModelError::Malformed("the answer is empty".to_owned()));
                }
                None | Some("") => {}
                Some(data) => self.answer.take(data, &mut self.pieces)?,
            }
        }
    }

    fn failure(&self, error: sse_stream::Error) -> ModelError {
        match error {
            sse_stream::Error::Body(_) if self.unparsed.get() > MAX_EVENT => {
                ModelError::TooLarge { what: "an event", bound: MAX_EVENT }
            }
            sse_stream::Error::Body(error) => ModelError::Cut(error.to_string()),
            other => ModelError::Malformed(other.to_string()),
        }
    }
}

// === impl Partial ===

impl Partial {
    /// Takes the data of one event.
    fn take(&mut self, data: &str, pieces: &mut VecDeque<Piece>) -> Result<(), ModelError> {
        let nonsense = |why: &str| {
            ModelError::Malformed(format!(
                "an event is no completion chunk ({why}): {}",
                text::cut(data, 200)
            ))
        };
        // Serde would take a list for a struct.
        if !data.starts_with('{') {
            return Err(nonsense("not an object"));
        }
        let chunk: Chunk = serde_json::from_str(data).map_err(|error| nonsense(&error.to_string()))?;
        if let Some(error) = chunk.error.filter(|error| !error.is_null()) {
            let (message, code) = wire::error_text(&error);
            return Err(ModelError::Broken { code, message: text::cut(&message, 2048) });
        }
        if let Some(tokens) = chunk.usage.and_then(|usage| usage.get("prompt_tokens")?.as_u64()) {
            self.request_tokens = tokens;
        }
        // We ask for one answer; a second choice has no place to go.
        let Some(choice) = chunk.choices.and_then(|choices| choices.into_iter().next()) else {
            return Ok(());
        };
        if let Some(delta) = choice.delta {
            if let Some(thought) = delta.reasoning_content.or(delta.reasoning).filter(|text| !text.is_empty())
            {
                pieces.push_back(Piece::Thought(thought));
            }
            if delta.refusal.as_ref().is_some_and(|text| !text.is_empty()) {
                self.is_refusal = true;
            }
            for text in [delta.content, delta.refusal].into_iter().flatten().filter(|text| !text.is_empty()) {
                if self.text.len() + text.len() > MAX_TEXT {
                    return Err(ModelError::TooLarge { what: "a text", bound: MAX_TEXT });
                }
                self.text.push_str(&text);
                pieces.push_back(Piece::Text(text));
            }
            for call in delta.tool_calls.into_iter().flatten() {
                self.take_call(call)?;
            }
        }
        if let Some(reason) = choice.finish_reason {
            self.finish = Some(match reason.as_str() {
                "length" | "max_tokens" => Finish::Length,
                "content_filter" | "refusal" => Finish::Refused,
                _ => Finish::Done,
            });
        }
        Ok(())
    }

    fn take_call(&mut self, delta: CallDelta) -> Result<(), ModelError> {
        let id = delta.id.filter(|id| !id.is_empty());
        let place = match delta.index {
            Some(_) => self.numbers.iter().position(|number| *number == delta.index),
            // Without a number an id begins a call, and no id goes on with the last.
            None if id.is_some() => None,
            None => self.calls.len().checked_sub(1),
        };
        let place = match place {
            Some(place) => place,
            None if self.calls.len() == MAX_CALLS => {
                return Err(ModelError::TooLarge { what: "a list of calls", bound: MAX_CALLS });
            }
            None => {
                self.calls.push(Call { id: String::new(), name: String::new(), arguments: String::new() });
                self.numbers.push(delta.index);
                self.calls.len() - 1
            }
        };
        let call = &mut self.calls[place];
        let function = delta.function.unwrap_or_default();
        // Some repeat id and name with every piece; some stream the name. The first whole one counts.
        if call.id.is_empty()
            && let Some(id) = id
        {
            call.id = id;
        }
        if let Some(name) = function.name
            && call.name != name
        {
            call.name.push_str(&name);
        }
        let arguments = function.arguments.unwrap_or_default();
        self.call_bytes += arguments.len();
        call.arguments.push_str(&arguments);
        if call.id.len() > MAX_NAME || call.name.len() > MAX_NAME {
            return Err(ModelError::TooLarge { what: "a call's name or id", bound: MAX_NAME });
        }
        if self.call_bytes > MAX_TEXT {
            return Err(ModelError::TooLarge { what: "arguments", bound: MAX_TEXT });
        }
        Ok(())
    }

    /// The answer, if it has an end and is anything at all.
    fn finish(&mut self) -> Option<Answer> {
        let finish = self.finish?;
        let answer = Answer {
            text: std::mem::take(&mut self.text),
            calls: std::mem::take(&mut self.calls),
            finish: if self.is_refusal { Finish::Refused } else { finish },
            request_tokens: self.request_tokens,
        };
        Some(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn taken(chunks: &[serde_json::Value]) -> Result<(Partial, Vec<Piece>), ModelError> {
        let mut partial = Partial::default();
        let mut pieces = VecDeque::new();
        for chunk in chunks {
            partial.take(&chunk.to_string(), &mut pieces)?;
        }
        Ok((partial, pieces.into()))
    }

    fn delta(delta: serde_json::Value) -> serde_json::Value {
        json!({"choices": [{"index": 0, "delta": delta}]})
    }

    fn calls(deltas: &[serde_json::Value]) -> Vec<(String, String, String)> {
        let chunks: Vec<_> = deltas.iter().map(|call| delta(json!({"tool_calls": [call]}))).collect();
        let (partial, _) = taken(&chunks).expect("they are calls");
        partial.calls.into_iter().map(|call| (call.id, call.name, call.arguments)).collect()
    }

    fn call(id: &str, name: &str, arguments: &str) -> (String, String, String) {
        (id.to_owned(), name.to_owned(), arguments.to_owned())
    }

    #[test]
    fn text_and_thoughts_come_out_as_they_came_in() {
        let (mut partial, pieces) = taken(&[
            delta(json!({"role": "assistant", "content": ""})),
            delta(json!({"reasoning_content": "hm"})),
            delta(json!({"reasoning": "so", "content": "A"})),
            delta(json!({"content": "B"})),
            json!({"choices": [{"delta": {}, "finish_reason": "stop"}]}),
            json!({"choices": [], "usage": {"prompt_tokens": 7}}),
        ])
        .expect("it is a stream");
        let text = |text: &str| Piece::Text(text.to_owned());
        let thought = |text: &str| Piece::Thought(text.to_owned());
        assert_eq!(pieces, [thought("hm"), thought("so"), text("A"), text("B")]);
        let answer = partial.finish().expect("it has an end");
        assert_eq!((answer.text.as_str(), answer.finish, answer.request_tokens), ("AB", Finish::Done, 7));
    }

    #[test]
    fn calls_are_put_together_however_a_provider_cuts_them() {
        let whole = [call("a", "read", "{\"x\":1}"), call("b", "list", "{}")];
        let by_number = [
            json!({"index": 0, "id": "a", "function": {"name": "read", "arguments": ""}}),
            json!({"index": 1, "id": "b", "function": {"name": "list", "arguments": "{"}}),
            json!({"index": 0, "function": {"arguments": "{\"x\":"}}),
            json!({"index": 1, "function": {"arguments": "}"}}),
            json!({"index": 0, "function": {"arguments": "1}"}}),
        ];
        assert_eq!(calls(&by_number), whole);
        let without_numbers = [
            json!({"id": "a", "function": {"name": "read", "arguments": "{\"x\""}}),
            json!({"function": {"arguments": ":1}"}}),
            json!({"id": "b", "function": {"name": "list", "arguments": "{}"}}),
        ];
        assert_eq!(calls(&without_numbers), whole);
        let repeating = [
            json!({"index": 3, "id": "a", "function": {"name": "read", "arguments": "{\"x\":"}}),
            json!({"index": 3, "id": "a", "function": {"name": "read", "arguments": "1}"}}),
            json!({"index": 4, "id": "b", "function": {"name": "list", "arguments": "{}"}}),
        ];
        assert_eq!(calls(&repeating), whole);
    }

    #[test]
    fn reasons_to_stop_are_understood() {
        for (reason, finish) in [
            ("stop", Finish::Done),
            ("tool_calls", Finish::Done),
            ("length", Finish::Length),
            ("content_filter", Finish::Refused),
            ("something new", Finish::Done),
        ] {
            let (mut partial, _) =
                taken(&[json!({"choices": [{"delta": {"content": "x"}, "finish_reason": reason}]})])
                    .expect("it is a stream");
            assert_eq!(partial.finish().map(|answer| answer.finish), Some(finish), "{reason}");
        }
        let (mut partial, _) = taken(&[
            delta(json!({"refusal": "no"})),
            json!({"choices": [{"delta": {}, "finish_reason": "stop"}]}),
        ])
        .expect("it is a stream");
        assert_eq!(partial.finish().map(|answer| answer.finish), Some(Finish::Refused));
        assert!(Partial::default().finish().is_none());
    }

    #[test]
    fn a_count_in_a_strange_shape_is_none() {
        for usage in [json!(null), json!([]), json!({"prompt_tokens": "many"}), json!({"prompt_tokens": -1})]
        {
            let (partial, _) = taken(&[json!({"choices": [], "usage": usage})]).expect("it is a stream");
            assert_eq!(partial.request_tokens, 0, "{usage}");
        }
    }

    #[test]
    fn errors_in_the_stream_are_typed() {
        let error = taken(&[json!({"error": {"message": "over", "code": "limit_exceeded"}})]);
        assert!(
            matches!(error, Err(ModelError::Broken { code: Some(code), .. }) if code == "limit_exceeded")
        );
        for nonsense in [json!([]), json!("x"), json!({"choices": 3}), json!({"choices": [{"delta": 1}]})] {
            assert!(matches!(taken(&[nonsense]), Err(ModelError::Malformed(_))));
        }
    }

    #[test]
    fn nothing_grows_without_bound() {
        let chunk = delta(json!({"content": "x".repeat(MAX_TEXT / 2)}));
        assert!(matches!(taken(&[chunk.clone(), chunk.clone(), chunk]), Err(ModelError::TooLarge { .. })));
        let many: Vec<_> =
            (0..=MAX_CALLS).map(|index| delta(json!({"tool_calls": [{"index": index}]}))).collect();
        assert!(matches!(taken(&many), Err(ModelError::TooLarge { .. })));
        let arguments =
            delta(json!({"tool_calls": [{"index": 0, "function": {"arguments": "x".repeat(MAX_TEXT)}}]}));
        assert!(matches!(taken(&[arguments.clone(), arguments]), Err(ModelError::TooLarge { .. })));
        let name =
            delta(json!({"tool_calls": [{"index": 0, "function": {"name": "x".repeat(MAX_NAME + 1)}}]}));
        assert!(matches!(taken(&[name]), Err(ModelError::TooLarge { .. })));
    }

    proptest::proptest! {
        #[test]
        fn no_event_makes_it_panic(data in ".{0,200}") {
            let mut pieces = VecDeque::new();
            let _taken = Partial::default().take(&data, &mut pieces);
        }
    }
}
