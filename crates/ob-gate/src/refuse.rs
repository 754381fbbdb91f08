//! Refusals in the form that agents' model clients understand.

use http::HeaderValue;
use http::StatusCode;
use http_body_util::BodyExt as _;
use http_body_util::Full;
use hyper::Response;
use ob_core::EventBody;
use ob_core::Refusal;
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
}

// === impl GateRefusal ===

impl GateRefusal {
    pub(crate) fn new(status: StatusCode, code: &'static str, refusal: Refusal) -> Self {
        Self { status, code, refusal, param: None, retry_after: None, upstream: None }
    }

    pub(crate) fn invalid(param: Option<&'static str>, message: impl Into<String>, fix: &str) -> Self {
        let refusal = Refusal::invalid(message).fix(fix);
        Self { param, ..Self::new(StatusCode::BAD_REQUEST, "invalid_request", refusal) }
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

    /// The body: OpenAI's form of an error.
    pub(crate) fn json(&self) -> serde_json::Value {
        let kind = match self.status.as_u16() {
            429 if self.code == LIMIT_EXCEEDED => "insufficient_quota",
            429 => "rate_limit_error",
            400..=499 => "invalid_request_error",
            _ => "server_error",
        };
        json!({ "error": {
            "message": self.refusal.to_string(), "type": kind, "code": self.code, "param": self.param,
        }})
    }

    /// The same inside a stream that has begun.
    pub(crate) fn sse(&self) -> bytes::Bytes {
        format!("data: {}\n\n", self.json()).into()
    }

    pub(crate) fn response(&self) -> Response<Body> {
        let mut response = json_response(self.status, &self.json());
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
}

/// A limit of the tree forbids the call.
pub(crate) const LIMIT_EXCEEDED: &str = "limit_exceeded";

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
    fn a_refusal_reads_as_openai_writes_errors() {
        let refused = GateRefusal::invalid(Some("messages"), "there are no messages", "send some");
        assert_eq!(
            refused.json(),
            json!({"error": {
                "message": "there are no messages; send some", "type": "invalid_request_error",
                "code": "invalid_request", "param": "messages",
            }})
        );
        assert!(refused.sse().starts_with(b"data: {\"error\":"));
        assert!(refused.sse().ends_with(b"\n\n"));
    }

    #[test]
    fn only_a_limit_says_that_retrying_is_useless() {
        let limit = GateRefusal::new(
            StatusCode::TOO_MANY_REQUESTS,
            LIMIT_EXCEEDED,
            Refusal::new(ob_core::RefusalCode::LimitExceeded, "too much"),
        );
        assert_eq!(limit.response().headers()["x-should-retry"], "false");
        let busy = GateRefusal { code: "provider_error", ..limit };
        assert!(!busy.response().headers().contains_key("x-should-retry"));
    }
}
