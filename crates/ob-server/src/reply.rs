//! Answers: JSON bodies, and refusals as problems with their fix.

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

/// What a client is told to wait before it tries again, in seconds.
const RETRY_AFTER_S: &str = "1";

/// The id of a request: taken from `X-Request-ID` if it is well-formed, else made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequestId(pub(crate) String);

/// A 200 with a JSON body that no cache keeps.
pub(crate) fn ok(value: &Value) -> Response {
    let mut response = Json(value).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A refusal as a problem: its status, `{"error": …, "request_id": …}`, and the headers that its code asks for.
pub(crate) fn refused(refusal: &Refusal, id: &RequestId) -> Response {
    if refusal.code == RefusalCode::Internal {
        tracing::error!(message = %refusal.message, "request failed");
    } else {
        tracing::debug!(code = %refusal.code, message = %refusal.message, "request refused");
    }
    let status =
        StatusCode::from_u16(refusal.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    problem(status, refusal, id)
}

/// The same under another status, for the few that HTTP itself names (404 and 405 of a route, 408, 413).
pub(crate) fn problem(status: StatusCode, refusal: &Refusal, id: &RequestId) -> Response {
    let body = json!({ "error": refusal, "request_id": id.0 });
    let mut response = (status, Json(body)).into_response();
    let headers = response.headers_mut();
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
