//! Bodies as they come and errors as they go: JSON-RPC around what the library does not see.

use std::borrow::Cow;
use std::time::Duration;

use axum::Json;
use axum::response::IntoResponse as _;
use axum::response::Response;
use http::HeaderValue;
use http::StatusCode;
use http::header;
use ob_core::Refusal;
use ob_core::RefusalCode;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use crate::body::Unread;
use crate::reply;
use crate::reply::RequestId;
use crate::throttle::Denied;

/// Error codes of JSON-RPC, and those that servers may choose.
const PARSE_ERROR: i32 = -32700;
const INVALID_REQUEST: i32 = -32600;
const INTERNAL_ERROR: i32 = -32603;
/// Nobody, or no session of theirs.
const UNAUTHENTICATED: i32 = -32001;
/// Not now.
const UNAVAILABLE: i32 = -32000;
/// Too much.
const LIMITED: i32 = -32029;

/// What a client is told to wait before it tries again, in seconds, if nothing else is known.
const RETRY_AFTER_S: u64 = 1;

/// Why a request does not reach the library.
#[derive(Debug)]
pub(super) enum Problem {
    /// The edge or the engine says no, and when another try may do.
    Refused(Refusal, Option<Duration>),
    /// There is no MCP session with this id for this caller.
    NoSession,
    /// The body is no JSON.
    NotJson(String),
    /// The body is JSON, and neither a message nor a bare call.
    NotAMessage(&'static str),
    /// The body did not arrive whole.
    Unread(Unread),
    /// The client does not take event streams.
    NotAcceptable,
}

/// What a body is, as far as it decides where it goes.
#[derive(Debug)]
pub(super) struct Envelope {
    /// True if it is a JSON-RPC message; else it is a bare call.
    pub(super) is_rpc: bool,
    /// True if it asks for an MCP session.
    pub(super) opens_session: bool,
}

// === impl Envelope ===

impl Envelope {
    /// Looks at a body without building it.
    pub(super) fn of(body: &[u8]) -> Result<Self, Problem> {
        #[derive(Deserialize)]
        struct Members<'a> {
            #[serde(borrow)]
            jsonrpc: Option<&'a RawValue>,
            #[serde(borrow, default)]
            method: Option<Cow<'a, str>>,
        }
        // The parser looks only at what it keeps: a name that is no text would be passed over.
        let text = std::str::from_utf8(body).map_err(|error| Problem::NotJson(error.to_string()))?;
        // A list would be taken for the members in their order.
        let is_object = text.trim_ascii_start().starts_with('{');
        match serde_json::from_str::<Members<'_>>(text) {
            Ok(members) if is_object => Ok(Self {
                is_rpc: members.jsonrpc.is_some(),
                opens_session: members.method.as_deref() == Some("initialize"),
            }),
            Err(error) if !error.is_data() => Err(Problem::NotJson(error.to_string())),
            Ok(_) | Err(_) => Err(Problem::NotAMessage(
                "send one JSON-RPC message, an object with `jsonrpc` and `method`; batches are not served",
            )),
        }
    }
}

// === impl Problem ===

impl From<Unread> for Problem {
    fn from(unread: Unread) -> Self {
        Self::Unread(unread)
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal, None)
    }
}

impl From<Denied> for Problem {
    fn from(denied: Denied) -> Self {
        Self::Refused(denied.refusal, denied.retry_after)
    }
}

impl Problem {
    /// The status and the JSON-RPC error that carry it.
    pub(super) fn response(self, id: &RequestId) -> Response {
        let (status, code, message) = match &self {
            Self::Refused(refusal, _) => of_refusal(refusal),
            Self::NoSession => {
                (StatusCode::NOT_FOUND, UNAUTHENTICATED, "Session not found; initialize again".to_owned())
            }
            Self::NotJson(why) => (StatusCode::BAD_REQUEST, PARSE_ERROR, format!("Parse error: {why}")),
            Self::NotAMessage(why) => {
                (StatusCode::BAD_REQUEST, INVALID_REQUEST, format!("Invalid request: {why}"))
            }
            Self::Unread(Unread::Cut) => {
                (StatusCode::BAD_REQUEST, PARSE_ERROR, "Parse error: the body was cut off".to_owned())
            }
            Self::Unread(Unread::TooLarge(max)) => (
                StatusCode::PAYLOAD_TOO_LARGE,
                INVALID_REQUEST,
                format!("Invalid request: the body has more than {max} bytes"),
            ),
            Self::NotAcceptable => (
                StatusCode::NOT_ACCEPTABLE,
                INVALID_REQUEST,
                "Not acceptable: the stream needs `Accept: text/event-stream`".to_owned(),
            ),
            Self::Unread(Unread::Late(time)) => (
                StatusCode::REQUEST_TIMEOUT,
                INVALID_REQUEST,
                format!("Invalid request: the body did not arrive in {} s", time.as_secs()),
            ),
        };
        tracing::debug!(%status, code, message, "MCP request refused");
        let mut data = json!({ "request_id": id.0 });
        let mut wait = RETRY_AFTER_S;
        if let Self::Refused(refusal, retry_after) = &self {
            wait = retry_after.map_or(wait, reply::whole_seconds);
            data["code"] = refusal.code.as_str().into();
            data["fix"] = json!(refusal.fix);
        }
        let error = json!({ "code": code, "message": message, "data": data });
        let body = json!({ "jsonrpc": "2.0", "id": null, "error": error });
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        match status {
            StatusCode::UNAUTHORIZED => {
                headers
                    .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"oubliette\""));
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, wait.into());
            }
            _ => {}
        }
        response
    }
}

fn of_refusal(refusal: &Refusal) -> (StatusCode, i32, String) {
    let code = match refusal.code {
        RefusalCode::Unauthenticated => UNAUTHENTICATED,
        RefusalCode::LimitExceeded => LIMITED,
        RefusalCode::Internal => INTERNAL_ERROR,
        RefusalCode::InvalidArgument => INVALID_REQUEST,
        RefusalCode::NotFound
        | RefusalCode::Forbidden
        | RefusalCode::Conflict
        | RefusalCode::Unavailable
        | RefusalCode::Waiting => UNAVAILABLE,
    };
    (reply::status_of(refusal), code, refusal.message.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_a_message_a_bare_call_or_refused() {
        let of = |text: &str| Envelope::of(text.as_bytes());
        let rpc = of(r#"{"jsonrpc":"2.0","id":1,"method":"initialize"}"#).expect("a message");
        assert!(rpc.is_rpc && rpc.opens_session);
        let answer = of(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#).expect("a message");
        assert!(answer.is_rpc && !answer.opens_session);
        assert!(!of(r#"{"method":"tools/call","params":{}}"#).expect("a bare call").is_rpc);
        for batch in ["[]", r#"[{"jsonrpc":"2.0"}]"#, "1", "null", "\"x\""] {
            assert!(matches!(of(batch), Err(Problem::NotAMessage(_))), "{batch}");
        }
        for broken in ["", "{", "nothing", r#"{"a":1} {}"#] {
            assert!(matches!(of(broken), Err(Problem::NotJson(_))), "{broken}");
        }
        assert!(matches!(Envelope::of(b"{\"a\xb0\":1}"), Err(Problem::NotJson(_))), "no text");
    }
}
