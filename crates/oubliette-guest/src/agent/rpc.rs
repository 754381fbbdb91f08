//! JSON-RPC 2.0 over lines: what comes in is classified, what goes out is queued.
//!
//! Nothing that arrives can end the agent: a line that is no message gets an error response, or, if it cannot have been
//! a request, nothing.

use std::io;

use agent_client_protocol_schema::v1::AgentNotification;
use agent_client_protocol_schema::v1::CLIENT_METHOD_NAMES;
use agent_client_protocol_schema::v1::Error;
use agent_client_protocol_schema::v1::JsonRpcMessage;
use agent_client_protocol_schema::v1::Notification;
use agent_client_protocol_schema::v1::RequestId;
use agent_client_protocol_schema::v1::Response;
use agent_client_protocol_schema::v1::SessionId;
use agent_client_protocol_schema::v1::SessionNotification;
use agent_client_protocol_schema::v1::SessionUpdate;
use serde::Serialize;
use serde_json::Value;
use tokio::io::AsyncBufReadExt as _;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::AsyncWriteExt as _;
use tokio::io::BufReader;
use tokio::sync::mpsc;

/// The longest line that is taken, in bytes. A prompt with its attachments is one line.
pub(crate) const MAX_LINE: usize = 16 * 1024 * 1024;
/// Messages that wait for a slow reader. Enough to keep a stream smooth; a turn waits when it is full.
const OUTBOX: usize = 64;

/// A line of input.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// The line without its end.
    Whole(Vec<u8>),
    /// It was longer than [`MAX_LINE`] and is gone.
    TooLong,
}

/// Reads lines of bounded length.
pub(crate) struct Lines<R> {
    reader: BufReader<R>,
}

/// What a line turned out to be.
#[derive(Debug, PartialEq)]
pub(crate) enum Incoming {
    /// Wants a response.
    Request {
        /// To be repeated in the response.
        id: RequestId,
        /// What is asked for.
        method: String,
        /// Null if absent.
        params: Value,
    },
    /// Wants none.
    Notification {
        /// What is told.
        method: String,
        /// Null if absent.
        params: Value,
    },
    /// No message at all; this is to be answered.
    Malformed(RequestId, Error),
    /// Nothing to do: an empty line, or a response to something we never asked.
    Nothing,
}

/// Queues messages for the client.
#[derive(Clone, Debug)]
pub(crate) struct Outbox {
    sender: mpsc::Sender<Vec<u8>>,
}

/// Room for one message. Having it, a step can be taken and told without a wait in between.
#[derive(Debug)]
pub(crate) struct Room<'a> {
    permit: Option<mpsc::Permit<'a, Vec<u8>>>,
}

/// An outbox, and where its lines come out.
pub(crate) fn outbox() -> (Outbox, mpsc::Receiver<Vec<u8>>) {
    let (sender, receiver) = mpsc::channel(OUTBOX);
    (Outbox { sender }, receiver)
}

/// Writes queued lines until the outbox is dropped.
///
/// # Errors
///
/// When nobody reads any more.
pub(crate) async fn write(
    mut lines: mpsc::Receiver<Vec<u8>>,
    mut output: impl AsyncWrite + Unpin,
) -> io::Result<()> {
    while let Some(line) = lines.recv().await {
        output.write_all(&line).await?;
        if lines.is_empty() {
            output.flush().await?;
        }
    }
    output.flush().await
}

/// Classifies a line.
pub(crate) fn parse(line: &[u8]) -> Incoming {
    if line.iter().all(u8::is_ascii_whitespace) {
        return Incoming::Nothing;
    }
    let malformed = |id, error: Error, why: &str| Incoming::Malformed(id, error.data(Value::from(why)));
    let value: Value = match serde_json::from_slice(line) {
        Ok(value) => value,
        Err(error) => return malformed(RequestId::Null, Error::parse_error(), &error.to_string()),
    };
    let Value::Object(mut message) = value else {
        let why = if value.is_array() { "batches are not taken" } else { "a message is an object" };
        return malformed(RequestId::Null, Error::invalid_request(), why);
    };
    let id = match message.remove("id") {
        None => None,
        Some(Value::String(id)) => Some(RequestId::Str(id)),
        Some(Value::Number(id)) if id.is_i64() => id.as_i64().map(RequestId::Number),
        Some(Value::Null) => Some(RequestId::Null),
        Some(_) => {
            return malformed(
                RequestId::Null,
                Error::invalid_request(),
                "`id` must be a string or a whole number",
            );
        }
    };
    let method = match message.remove("method") {
        Some(Value::String(method)) => method,
        None if message.contains_key("result") || message.contains_key("error") => return Incoming::Nothing,
        _ => {
            let id = id.unwrap_or(RequestId::Null);
            return malformed(id, Error::invalid_request(), "`method` must be a string");
        }
    };
    if message.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
        let id = id.unwrap_or(RequestId::Null);
        return malformed(id, Error::invalid_request(), "`jsonrpc` must be \"2.0\"");
    }
    let params = message.remove("params").unwrap_or(Value::Null);
    match id {
        Some(id) => Incoming::Request { id, method, params },
        None => Incoming::Notification { method, params },
    }
}

// === impl Lines ===

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { reader: BufReader::new(input) }
    }

    /// The next line; `None` at the end. A last line without an end counts.
    ///
    /// # Errors
    ///
    /// When the input cannot be read.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Line>> {
        let mut line = Vec::new();
        let mut too_long = false;
        loop {
            let available = self.reader.fill_buf().await?;
            if available.is_empty() {
                let line = match (too_long, line.is_empty()) {
                    (true, _) => Some(Line::TooLong),
                    (false, true) => None,
                    (false, false) => Some(Line::Whole(line)),
                };
                return Ok(line);
            }
            let end = available.iter().position(|&byte| byte == b'\n');
            let taken = &available[..end.unwrap_or(available.len())];
            if line.len() + taken.len() > MAX_LINE {
                too_long = true;
                line = Vec::new();
            }
            if !too_long {
                line.extend_from_slice(taken);
            }
            let used = end.map_or(available.len(), |end| end + 1);
            self.reader.consume(used);
            if end.is_some() {
                return Ok(Some(if too_long { Line::TooLong } else { Line::Whole(line) }));
            }
        }
    }
}

// === impl Outbox ===

impl Outbox {
    /// Waits until a message fits. If the client is gone, the message will go nowhere.
    pub(crate) async fn room(&self) -> Room<'_> {
        Room { permit: self.sender.reserve().await.ok() }
    }

    /// Answers a request.
    pub(crate) async fn respond(&self, id: RequestId, result: Result<Value, Error>) {
        self.room().await.send(&Response::new(id, result));
    }

    /// Tells the client what happened in a session.
    pub(crate) async fn update(&self, session: &SessionId, update: SessionUpdate) {
        self.room().await.update(session, update);
    }
}

// === impl Room ===

impl Room<'_> {
    /// Queues an update.
    pub(crate) fn update(self, session: &SessionId, update: SessionUpdate) {
        let notification = SessionNotification::new(session.clone(), update);
        self.send(&Notification {
            method: CLIENT_METHOD_NAMES.session_update.into(),
            params: Some(AgentNotification::SessionNotification(notification)),
        });
    }

    fn send(self, message: &impl Serialize) {
        let Some(permit) = self.permit else { return };
        // Our own types: strings as keys, no floats; this cannot fail.
        let mut line = serde_json::to_vec(&JsonRpcMessage::wrap(message)).unwrap_or_default();
        line.push(b'\n');
        permit.send(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn error_code(line: &str) -> (RequestId, i32) {
        match parse(line.as_bytes()) {
            Incoming::Malformed(id, error) => (id, error.code.into()),
            other => panic!("{line} is {other:?}"),
        }
    }

    #[test]
    fn requests_and_notifications_are_told_apart_by_their_id() {
        assert_eq!(
            parse(br#"{"jsonrpc":"2.0","id":"a","method":"m","params":{"x":1}}"#),
            Incoming::Request {
                id: RequestId::Str("a".to_owned()),
                method: "m".to_owned(),
                params: json!({"x":1})
            }
        );
        assert_eq!(
            parse(br#"{"jsonrpc":"2.0","method":"m"}"#),
            Incoming::Notification { method: "m".to_owned(), params: Value::Null }
        );
    }

    #[test]
    fn what_is_no_message_gets_the_error_of_the_specification() {
        for (line, expected) in [
            ("{nonsense", (RequestId::Null, -32700)),
            ("[]", (RequestId::Null, -32600)),
            ("7", (RequestId::Null, -32600)),
            (r#"{"id":{},"method":"m"}"#, (RequestId::Null, -32600)),
            (r#"{"id":3,"method":7}"#, (RequestId::Number(3), -32600)),
            (r#"{"id":3,"method":"m"}"#, (RequestId::Number(3), -32600)),
        ] {
            assert_eq!(error_code(line), expected, "{line}");
        }
    }

    #[test]
    fn empty_lines_and_stray_responses_are_passed_over() {
        for line in ["", "  \r", r#"{"jsonrpc":"2.0","id":1,"result":null}"#] {
            assert_eq!(parse(line.as_bytes()), Incoming::Nothing);
        }
    }

    #[tokio::test]
    async fn a_line_beyond_the_bound_is_dropped_and_the_next_is_read() {
        let mut input = vec![b'x'; MAX_LINE + 1];
        input.extend_from_slice(b"\nnext\nlast");
        let mut lines = Lines::new(&input[..]);
        let mut read = Vec::new();
        while let Some(line) = lines.next().await.expect("memory is readable") {
            read.push(line);
        }
        let whole = |text: &str| Line::Whole(text.as_bytes().to_vec());
        assert_eq!(read, [Line::TooLong, whole("next"), whole("last")]);
    }

    proptest::proptest! {
        #[test]
        fn no_line_makes_the_parser_panic(line in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _incoming = parse(&line);
        }
    }
}
