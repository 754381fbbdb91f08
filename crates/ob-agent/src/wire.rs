//! Reads one line of an agent: JSON-RPC 2.0, and leniently, because agents differ and some print logs in between.

use std::borrow::Cow;

use agent_client_protocol_schema::v1::RequestId;
use ob_core::Refusal;
use serde_json::Map;
use serde_json::Value;

use crate::bounds;
use crate::bounds::NOTE_MAX;

/// One line of an agent.
#[derive(Debug, PartialEq)]
pub(crate) enum Line {
    /// Nothing on it.
    Blank,
    /// The agent asks.
    Request {
        /// To be repeated in the answer.
        id: RequestId,
        /// What it asks for.
        method: String,
        /// With what.
        params: Value,
    },
    /// The agent tells.
    Notification {
        /// What it tells.
        method: String,
        /// With what.
        params: Value,
    },
    /// The agent answers.
    Response {
        /// Which request; `None` if the id cannot be one of ours.
        id: Option<u64>,
        /// What it answers.
        answer: Result<Value, AgentError>,
    },
    /// Not of the protocol.
    Noise,
}

/// An error that an agent answered with.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AgentError {
    /// The code of JSON-RPC or ACP.
    pub(crate) code: i64,
    /// The message and, where the agent hides the cause in the data, that too. Bounded.
    pub(crate) message: String,
    /// The data as the agent gave it.
    pub(crate) data: Value,
}

// === impl AgentError ===

impl AgentError {
    fn new(error: &Value) -> Self {
        let message = error["message"].as_str().unwrap_or("an error without a message");
        let data = &error["data"];
        let cause = [data, &data["details"], &data["message"], &data["error"]]
            .into_iter()
            .find_map(Value::as_str)
            .filter(|cause| !message.contains(cause));
        let whole = match cause {
            Some(cause) => Cow::Owned(format!("{message}: {cause}")),
            None => Cow::Borrowed(message),
        };
        Self {
            code: error["code"].as_i64().unwrap_or_default(),
            message: bounds::cut(whole.trim(), NOTE_MAX).into_owned(),
            data: data.clone(),
        }
    }

    /// This error as a refusal: `what` it came from, then the agent's own words.
    pub(crate) fn refusal(&self, what: &str) -> Refusal {
        Refusal::unavailable(format!("{what}: {}", self.message))
    }
}

/// Reads one line.
pub(crate) fn parse(line: &str) -> Line {
    let line = line.trim();
    if line.is_empty() {
        return Line::Blank;
    }
    // Most stray lines are no objects: no need to parse those.
    if !line.starts_with('{') {
        return Line::Noise;
    }
    let parsed = bounds::parse(line).or_else(|error| match mend_surrogates(line) {
        Some(mended) => bounds::parse(&mended),
        None => Err(error),
    });
    match parsed {
        Ok(Value::Object(fields)) => message(fields),
        _ => Line::Noise,
    }
}

fn message(mut fields: Map<String, Value>) -> Line {
    let id = fields.remove("id");
    let params = fields.remove("params").unwrap_or_default();
    match (fields.remove("method"), id) {
        (Some(Value::String(method)), Some(id)) => match serde_json::from_value(id) {
            Ok(id) => Line::Request { id, method, params },
            Err(_) => Line::Noise,
        },
        (Some(Value::String(method)), None) => Line::Notification { method, params },
        (None, Some(id)) => {
            let id = id.as_u64().or_else(|| id.as_str().and_then(|id| id.parse().ok()));
            let error = fields.remove("error").filter(|error| !error.is_null());
            match (error, fields.remove("result")) {
                (Some(error), _) => Line::Response { id, answer: Err(AgentError::new(&error)) },
                (None, Some(result)) => Line::Response { id, answer: Ok(result) },
                (None, None) => Line::Noise,
            }
        }
        _ => Line::Noise,
    }
}

/// The line with each half of a surrogate pair that stands alone replaced; `None` if there is none. Agents written in
/// JavaScript cut texts between the two halves, and then JSON has no right way to write them.
fn mend_surrogates(line: &str) -> Option<String> {
    const REPLACEMENT: &str = "\\ufffd";
    let mut mended = String::with_capacity(line.len());
    let mut rest = line;
    let mut changed = false;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        mended.push_str(before);
        let length = match surrogate(escape) {
            Some(0xd800..=0xdbff) if matches!(escape.get(6..).and_then(surrogate), Some(0xdc00..=0xdfff)) => {
                12
            }
            Some(_) => {
                changed = true;
                mended.push_str(REPLACEMENT);
                rest = &escape[6..];
                continue;
            }
            // A backslash and what it escapes; at the end of the line there may be nothing.
            None => 1 + escape[1..].chars().next().map_or(0, char::len_utf8),
        };
        mended.push_str(&escape[..length]);
        rest = &escape[length..];
    }
    mended.push_str(rest);
    changed.then_some(mended)
}

/// The half of a surrogate pair that is escaped at the beginning of `text`.
fn surrogate(text: &str) -> Option<u32> {
    let hex = text.strip_prefix("\\u")?.get(..4)?;
    u32::from_str_radix(hex, 16).ok().filter(|unit| (0xd800..=0xdfff).contains(unit))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_kind_of_line_is_told_from_the_others() {
        let request = |id| Line::Request { id, method: "m".to_owned(), params: json!({ "a": 1 }) };
        let response = |id, answer| Line::Response { id, answer };
        let error = AgentError {
            code: -32603,
            message: "Internal error: no key".to_owned(),
            data: json!({"details":"no key"}),
        };
        let table = [
            ("", Line::Blank),
            (" \r", Line::Blank),
            ("starting up...", Line::Noise),
            ("[1]", Line::Noise),
            (r#"{"level":"info"}"#, Line::Noise),
            (r#"{"id":1}"#, Line::Noise),
            (r#"{"id":1,"method":5}"#, Line::Noise),
            (r#"{"id":{},"method":"m"}"#, Line::Noise),
            (r#"{"id":1,"result":{}"#, Line::Noise),
            (r#"{"id":1,"result":{}} x"#, Line::Noise),
            (r#"{"id":1,"method":"m","params":{"a":1}}"#, request(RequestId::Number(1))),
            (r#"{"id":"x","method":"m","params":{"a":1}}"#, request(RequestId::Str("x".to_owned()))),
            (r#"{"id":null,"method":"m","params":{"a":1}}"#, request(RequestId::Null)),
            (r#"{"method":"m"}"#, Line::Notification { method: "m".to_owned(), params: Value::Null }),
            (r#"{"id":1,"result":null}"#, response(Some(1), Ok(Value::Null))),
            (r#"{"id":"1","result":2,"error":null}"#, response(Some(1), Ok(json!(2)))),
            (r#"{"id":"x","result":2}"#, response(None, Ok(json!(2)))),
            (
                r#"{"id":1,"error":{"code":-32603,"message":"Internal error","data":{"details":"no key"}}}"#,
                response(Some(1), Err(error)),
            ),
        ];
        for (line, expected) in table {
            assert_eq!(parse(line), expected, "{line}");
        }
    }

    #[test]
    fn half_of_a_surrogate_pair_costs_a_character_and_not_the_message() {
        let table = [
            (r#"{"method":"a\ud83d"}"#, Some("a\u{fffd}")),
            (r#"{"method":"\ude00b"}"#, Some("\u{fffd}b")),
            (r#"{"method":"\ud83d\ud83d\ude00"}"#, Some("\u{fffd}\u{1f600}")),
            (r#"{"method":"\ud83d\ude00"}"#, Some("\u{1f600}")),
            (r#"{"method":"\\ud83d"}"#, Some("\\ud83d")),
            (r#"{"method":"\ud83d\"#, None),
            (r#"{"method":"\ud83dé\é"#, None),
        ];
        for (line, expected) in table {
            let method = match parse(line) {
                Line::Notification { method, .. } => Some(method),
                _ => None,
            };
            assert_eq!(method.as_deref(), expected, "{line}");
        }
    }
}
