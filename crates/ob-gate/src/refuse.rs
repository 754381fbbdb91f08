//! Refusals in the form that agents' model clients understand.

use http::HeaderValue;
use http::StatusCode;
use http_body_util::BodyExt as _;
use http_body_util::Full;
use hyper::Response;
use ob_core::EventBody;
use ob_core::Refusal;
use ob_core::model::Wire;
use serde_json::json;

use crate::route::Body;

/// A refusal with what HTTP and model clients need beside it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{refusal}")]
pub(crate) struct GateRefusal {
    /// The status.
    pub(crate) status: StatusCode,
    /// One stable word, finer than the refusal's own code.
    pub(crate) code: &'static str,
    /// What and why and what to do.
    pub(crate) refusal: Refusal,
    /// The parameter that is wrong.
    pub(crate) param: Option<&'static str>,
    /// When to come back. Boxed, since it is rare and every result would carry its room.
    pub(crate) retry_after: Option<Box<HeaderValue>>,
    /// The provider's own status, for the log.
    pub(crate) upstream: Option<u16>,
    /// Whether another try could go better.
    pub(crate) again: Again,
}

/// Whether a call that failed may be tried again, as long as nothing of its answer was delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Again {
    /// It would fail in the same way.
    #[default]
    No,
    /// After a pause.
    Soon,
    /// The key is refused; another one may do.
    OtherKey,
    /// The key's rate is used up; with another one at once, else after a pause.
    Slower,
}

// === impl GateRefusal ===

impl GateRefusal {
    pub(crate) fn new(status: StatusCode, code: &'static str, refusal: Refusal) -> Self {
        Self { status, code, refusal, param: None, retry_after: None, upstream: None, again: Again::No }
    }

    pub(crate) fn invalid(param: Option<&'static str>, message: impl Into<String>, fix: &str) -> Self {
        let refusal = Refusal::invalid(message).fix(fix);
        Self { param, ..Self::new(StatusCode::BAD_REQUEST, "invalid_request", refusal) }
    }

    /// Another try may go better.
    pub(crate) fn again(mut self, again: Again) -> Self {
        self.again = again;
        self
    }

    pub(crate) fn bad_gateway(code: &'static str, refusal: Refusal) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, code, refusal)
    }

    /// The event that tells of it in the session's log.
    pub(crate) fn event(&self) -> EventBody {
        let mut event = EventBody::error(&self.refusal);
        if let Some(data) = event.data.as_mut() {
            data["reason"] = json!(self.code);
            data["source"] = json!("model");
            if let Some(status) = self.upstream {
                data["upstream_status"] = json!(status);
            }
        }
        event
    }

    /// The body, in the form of the agent's wire.
    pub(crate) fn json(&self, wire: Wire) -> serde_json::Value {
        let message = self.refusal.to_string();
        let status = self.status.as_u16();
        match wire {
            Wire::Chat | Wire::Responses => json!({ "error": {
                "message": message, "type": self.openai_type(), "code": self.code, "param": self.param,
            }}),
            Wire::Messages => json!({ "type": "error", "error": {
                "type": self.anthropic_type(), "message": message, "code": self.code,
            }}),
            Wire::Google => json!({ "error": {
                "code": status, "message": message, "status": self.google_status(), "details": [{
                    "@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": self.code, "domain": "oubliette",
                }],
            }}),
        }
    }

    /// The same inside a stream that has begun.
    pub(crate) fn sse(&self, wire: Wire) -> bytes::Bytes {
        match wire {
            Wire::Chat | Wire::Google => format!("data: {}\n\n", self.json(wire)).into(),
            Wire::Messages => format!("event: error\ndata: {}\n\n", self.json(wire)).into(),
            Wire::Responses => {
                let code = if self.status.as_u16() == 429 { "rate_limit_exceeded" } else { "server_error" };
                let failed = json!({ "type": "response.failed", "response": {
                    "object": "response", "status": "failed", "output": [],
                    "error": { "code": code, "message": self.refusal.to_string(), "reason": self.code },
                }});
                format!("event: response.failed\ndata: {failed}\n\n").into()
            }
        }
    }

    pub(crate) fn response(&self, wire: Wire) -> Response<Body> {
        let mut response = json_response(self.status, &self.json(wire));
        let headers = response.headers_mut();
        if let Some(retry_after) = &self.retry_after {
            headers.insert(http::header::RETRY_AFTER, HeaderValue::clone(retry_after));
        }
        if self.code == LIMIT_EXCEEDED {
            // Model clients retry a 429 by habit; the limit is still there in a second.
            headers.insert("x-should-retry", HeaderValue::from_static("false"));
        }
        response
    }

    fn openai_type(&self) -> &'static str {
        match self.status.as_u16() {
            429 if self.code == LIMIT_EXCEEDED => "insufficient_quota",
            429 => "rate_limit_error",
            400..=499 => "invalid_request_error",
            _ => "server_error",
        }
    }

    fn anthropic_type(&self) -> &'static str {
        match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            400..=499 => "invalid_request_error",
            503 | 529 => "overloaded_error",
            504 => "timeout_error",
            _ => "api_error",
        }
    }

    fn google_status(&self) -> &'static str {
        match self.status.as_u16() {
            401 => "UNAUTHENTICATED",
            403 => "PERMISSION_DENIED",
            404 => "NOT_FOUND",
            429 => "RESOURCE_EXHAUSTED",
            400..=499 => "INVALID_ARGUMENT",
            504 => "DEADLINE_EXCEEDED",
            502 | 503 | 529 => "UNAVAILABLE",
            _ => "INTERNAL",
        }
    }
}

/// A limit of the tree forbids the call.
pub(crate) const LIMIT_EXCEEDED: &str = "limit_exceeded";

/// A stranger's word as a message may repeat it: without control characters, and no longer than `most` characters.
pub(crate) fn repeated(word: &str, most: usize) -> String {
    word.chars().filter(|c| !c.is_control()).take(most).collect()
}

pub(crate) fn json_response(status: StatusCode, value: &serde_json::Value) -> Response<Body> {
    let body = Full::new(bytes::Bytes::from(value.to_string())).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_reads_as_each_wire_writes_errors() {
        let refused = GateRefusal::invalid(Some("messages"), "there are no messages", "send some");
        let message = "there are no messages; send some";
        assert_eq!(
            refused.json(Wire::Chat),
            json!({"error": {
                "message": message, "type": "invalid_request_error",
                "code": "invalid_request", "param": "messages",
            }})
        );
        let error = json!({"type": "invalid_request_error", "message": message, "code": "invalid_request"});
        assert_eq!(refused.json(Wire::Messages), json!({"type": "error", "error": error}));
        let google = refused.json(Wire::Google);
        assert_eq!(
            (&google["error"]["code"], &google["error"]["status"]),
            (&json!(400), &json!("INVALID_ARGUMENT"))
        );
        for (wire, begins) in [
            (Wire::Chat, "data: {\"error\":"),
            (Wire::Responses, "event: response.failed\ndata: {"),
            (Wire::Messages, "event: error\ndata: {"),
            (Wire::Google, "data: {\"error\":"),
        ] {
            let event = String::from_utf8(refused.sse(wire).to_vec()).expect("text");
            assert!(
                event.starts_with(begins) && event.ends_with("\n\n") && event.contains(message),
                "{event}"
            );
        }
    }

    #[test]
    fn only_a_limit_says_that_retrying_is_useless() {
        let limit = GateRefusal::new(
            StatusCode::TOO_MANY_REQUESTS,
            LIMIT_EXCEEDED,
            Refusal::new(ob_core::RefusalCode::LimitExceeded, "too much"),
        );
        assert_eq!(limit.response(Wire::Chat).headers()["x-should-retry"], "false");
        let busy = GateRefusal { code: "provider_error", ..limit };
        assert!(!busy.response(Wire::Messages).headers().contains_key("x-should-retry"));
    }
}
