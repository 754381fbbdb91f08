//! Answers: JSON bodies, and refusals as problems (RFC 9457) with their fix.

use std::time::Duration;

use axum::Json;
use axum::response::IntoResponse as _;
use axum::response::Response;
use http::HeaderValue;
use http::StatusCode;
use http::header;
use ob_core::Refusal;
use ob_core::RefusalCode;
use serde_json::Value;
use serde_json::json;

use crate::throttle::Denied;

/// The content type of RFC 9457.
pub(crate) const PROBLEM_JSON: &str = "application/problem+json";

/// What a client is told to wait before it tries again, in seconds.
const RETRY_AFTER_S: &str = "1";

/// The id of a request: taken from `X-Request-ID` if it is well-formed, else made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequestId(pub(crate) String);

// === impl RequestId ===

impl RequestId {
    /// One that no other request has.
    pub(crate) fn made() -> Self {
        Self(uuid::Uuid::new_v4().simple().to_string())
    }
}

/// A 200 with a JSON body that no cache keeps.
pub(crate) fn ok(value: &Value) -> Response {
    let mut response = Json(value).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A refusal as a problem, under the status of its code.
pub(crate) fn refused(refusal: &Refusal, id: &RequestId) -> Response {
    if refusal.code == RefusalCode::Internal {
        tracing::error!(message = %refusal.message, "request failed");
    } else {
        tracing::debug!(code = %refusal.code, message = %refusal.message, "request refused");
    }
    problem(status_of(refusal), refusal, id)
}

/// The same for someone who may ask again after a while.
pub(crate) fn denied(denied: &Denied, id: &RequestId) -> Response {
    let mut response = refused(&denied.refusal, id);
    if let Some(wait) = denied.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, whole_seconds(wait).into());
    }
    response
}

/// The same under another status, for those that HTTP itself names (404 and 405 of a route, 408, 413, 414, 415, 431).
pub(crate) fn problem(status: StatusCode, refusal: &Refusal, id: &RequestId) -> Response {
    let mut response = (status, Json(details(status, refusal, Some(id)))).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    match refusal.code {
        RefusalCode::Unauthenticated => {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"oubliette\""));
        }
        RefusalCode::Unavailable => {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_S));
        }
        _ => {}
    }
    response
}

/// A whole response for a connection on which no request was read.
pub(crate) fn bare(status: StatusCode, refusal: &Refusal) -> Vec<u8> {
    let body = details(status, refusal, None).to_string();
    let reason = status.canonical_reason().unwrap_or_default();
    format!(
        "HTTP/1.1 {} {reason}\r\ncontent-type: {PROBLEM_JSON}\r\ncontent-length: {}\r\n\
         retry-after: {RETRY_AFTER_S}\r\nconnection: close\r\n\r\n{body}",
        status.as_u16(),
        body.len()
    )
    .into_bytes()
}

/// A refusal in the form of RFC 9457. `code` is ours, and what clients branch on.
pub(crate) fn details(status: StatusCode, refusal: &Refusal, id: Option<&RequestId>) -> Value {
    let code = refusal.code;
    // A status that HTTP names for itself has no type of ours.
    let (kind, title) = if status == status_of(refusal) {
        (format!("urn:oubliette:problem:{code}"), title(code))
    } else {
        ("about:blank".to_owned(), status.canonical_reason().unwrap_or("Refused"))
    };
    let mut details = json!({
        "type": kind,
        "title": title,
        "status": status.as_u16(),
        "code": code,
        "detail": refusal.message,
    });
    if let Some(fix) = &refusal.fix {
        details["fix"] = fix.as_str().into();
    }
    if let Some(id) = id {
        details["request_id"] = id.0.as_str().into();
    }
    details
}

/// The status of a refusal's code.
pub(crate) fn status_of(refusal: &Refusal) -> StatusCode {
    StatusCode::from_u16(refusal.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// The kind of a problem, in words that never change.
const fn title(code: RefusalCode) -> &'static str {
    match code {
        RefusalCode::InvalidArgument => "Something in the request is not right",
        RefusalCode::NotFound => "There is no such thing",
        RefusalCode::Unauthenticated => "Nobody knows who asks",
        RefusalCode::Forbidden => "This one may not",
        RefusalCode::Conflict => "Not in this state",
        RefusalCode::LimitExceeded => "A limit is reached",
        RefusalCode::Unavailable => "Something that this needs is not there",
        RefusalCode::Waiting => "Someone has to answer first",
        RefusalCode::Internal => "A fault of the server",
    }
}

/// A client's text as an answer may repeat it.
pub(crate) fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(80).collect()
}

/// At least so long, in whole seconds, and never none.
pub(crate) fn whole_seconds(wait: Duration) -> u64 {
    wait.as_millis().div_ceil(1000).max(1).try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_told_in_seconds_and_is_never_too_short() {
        for (wait, told) in [(0, 1), (1, 1), (999, 1), (1000, 1), (1001, 2), (59_001, 60)] {
            assert_eq!(whole_seconds(Duration::from_millis(wait)), told, "{wait} ms");
        }
    }

    #[test]
    fn what_http_names_itself_has_no_type_of_ours() {
        let refusal = Refusal::invalid("x");
        let ours = details(StatusCode::BAD_REQUEST, &refusal, None);
        assert_eq!(ours["type"], "urn:oubliette:problem:invalid_argument");
        let https = details(StatusCode::METHOD_NOT_ALLOWED, &refusal, None);
        assert_eq!((&https["type"], &https["title"]), (&json!("about:blank"), &json!("Method Not Allowed")));
    }
}
