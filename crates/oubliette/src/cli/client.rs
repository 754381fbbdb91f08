//! Talks to the server over the control socket of its home: HTTP/1.1, as the operator.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http::header;
use http_body_util::BodyExt as _;
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use ob_core::Refusal;
use ob_core::RefusalCode;
use ob_core::operation::Method;
use ob_core::operation::Operation;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::UnixStream;

/// Above the server's own bound for a request, so that the server's answer comes first.
const ANSWER_MAX: Duration = Duration::from_secs(100);

/// The server of a home.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    socket: PathBuf,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum CallError {
    /// No server listens.
    Absent,
    /// The connection broke before the answer was there: the server may have done it or not.
    Lost(String),
    /// The server said no.
    Refused(Refusal),
}

// === impl Client ===

impl Client {
    /// The server that listens on this socket.
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Does an operation and reads its result.
    pub(crate) async fn call<T: DeserializeOwned>(
        &self,
        operation: Operation,
        params: &impl Serialize,
    ) -> Result<T, CallError> {
        let params = serde_json::to_value(params).map_err(|e| internal(&e.to_string()))?;
        let (method, path, body) = request_of(operation, params)?;
        let (status, bytes) = self.exchange(method, &path, body).await?;
        if (200..300).contains(&status) {
            return serde_json::from_slice(&bytes).map_err(|error| {
                internal(&format!(
                    "the server's answer to {} is not understood: {error}",
                    operation.spec().name()
                ))
            });
        }
        #[derive(serde::Deserialize)]
        struct Problem {
            code: RefusalCode,
            detail: String,
            fix: Option<String>,
        }
        match serde_json::from_slice(&bytes) {
            Ok(Problem { code, detail, fix }) => {
                Err(CallError::Refused(Refusal { code, message: detail, fix }))
            }
            Err(_) => Err(internal(&format!("the server answered {status} without saying why"))),
        }
    }

    /// Whether the server can be asked; else why not. One that runs and lacks something, as space on its disk, can: it
    /// says more of that itself, and what it can do without, it does.
    pub(crate) async fn ready(&self) -> Result<(), CallError> {
        let (status, bytes) = self.exchange("GET", "/ready", None).await?;
        let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let is_missing = |name: &str| body["missing"].as_array().is_some_and(|m| m.iter().any(|m| m == name));
        if status == 200 || (body["missing"].is_array() && !is_missing("engine")) {
            return Ok(());
        }
        let reason =
            body["reason"].as_str().map_or_else(|| format!("it answered {status}"), ToOwned::to_owned);
        Err(CallError::Refused(Refusal::unavailable(format!("the server is not ready: {reason}"))))
    }

    /// What a path answers, with its status, as text.
    pub(crate) async fn page(&self, path: &str) -> Result<(u16, String), CallError> {
        let (status, bytes) = self.exchange("GET", path, None).await?;
        Ok((status, String::from_utf8_lossy(&bytes).into_owned()))
    }

    async fn exchange(
        &self,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Result<(u16, Bytes), CallError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|_| CallError::Absent)?;
        let lost = |error: hyper::Error| CallError::Lost(error.to_string());
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "localhost");
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let body = body.map_or_else(Bytes::new, |body| body.to_string().into());
        let request = request.body(Full::new(body)).map_err(|error| internal(&error.to_string()))?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(lost)?;
            let status = response.status().as_u16();
            let bytes = response.into_body().collect().await.map_err(lost)?.to_bytes();
            Ok((status, bytes))
        };
        let driven = async {
            let mut answer = std::pin::pin!(answer);
            let mut connection = std::pin::pin!(connection);
            tokio::select! {
                answer = answer.as_mut() => answer,
                // The connection ended first; the answer, if it is whole, is still there to be read.
                _ = connection.as_mut() => answer.await,
            }
        };
        tokio::time::timeout(ANSWER_MAX, driven)
            .await
            .unwrap_or_else(|_| Err(CallError::Lost("no answer in time".to_owned())))
    }
}

// === impl CallError ===

impl From<CallError> for Refusal {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Absent => Self::unavailable("no server runs on this home")
                .fix("start one with `oubliette --daemon`, or name another home with `--dir`"),
            CallError::Lost(why) => {
                Self::unavailable(format!("the connection to the server was lost: {why}"))
                    .fix("look at `oubliette status`, and at the session before you ask again")
            }
            CallError::Refused(refusal) => refusal,
        }
    }
}

impl CallError {
    /// True if another try a little later may have an answer.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Absent | Self::Lost(_) => true,
            Self::Refused(refusal) => refusal.code == RefusalCode::Unavailable,
        }
    }
}

fn internal(message: &str) -> CallError {
    CallError::Refused(Refusal::internal(message).fix("use programs of one version: `oubliette status`"))
}

/// Method, path and body of an operation, from the table.
fn request_of(
    operation: Operation,
    params: Value,
) -> Result<(&'static str, String, Option<Value>), CallError> {
    let spec = operation.spec();
    let Value::Object(mut params) = params else { return Err(internal("parameters must be an object")) };
    params.retain(|_, value| !value.is_null());
    let mut path = String::from("/api/v1");
    for (position, part) in spec.path.split(['{', '}']).enumerate() {
        if position % 2 == 0 {
            path.push_str(part);
        } else {
            let value = params.remove(part).ok_or_else(|| internal(&format!("`{part}` is missing")))?;
            encode(&mut path, &plain(&value));
        }
    }
    let method = match spec.method {
        Method::Get => "GET",
        Method::Delete => "DELETE",
        Method::Post => return Ok(("POST", path, Some(Value::Object(params)))),
    };
    // In one order, whatever the map's: a request is then the same text each time.
    let sorted: BTreeMap<_, _> = params.iter().collect();
    for (position, (name, value)) in sorted.into_iter().enumerate() {
        path.push(if position == 0 { '?' } else { '&' });
        encode(&mut path, name);
        path.push('=');
        encode(&mut path, &plain(value));
    }
    Ok((method, path, None))
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned)
}

/// Percent-encodes everything but RFC 3986's unreserved characters.
fn encode(into: &mut String, text: &str) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            into.push(char::from(byte));
        } else {
            into.push('%');
            into.push(char::from(HEX[usize::from(byte >> 4)]));
            into.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn requests_follow_the_table() {
        let of = |operation, params| request_of(operation, params).expect("a request");
        let id = "gogol_20261118_110640_deadbeef";
        assert_eq!(
            of(
                Operation::SessionEvents,
                json!({ "session_id": id, "wait_ms": 5, "limit": null, "cursor": -1 })
            ),
            ("GET", format!("/api/v1/sessions/{id}/events?cursor=-1&wait_ms=5"), None)
        );
        assert_eq!(
            of(Operation::SessionMessage, json!({ "session_id": id, "message": "a b" })),
            ("POST", format!("/api/v1/sessions/{id}/message"), Some(json!({ "message": "a b" })))
        );
        assert_eq!(
            of(Operation::TokenInfo, json!({ "token": "../a?b&c=d é" })),
            ("GET", "/api/v1/tokens/..%2Fa%3Fb%26c%3Dd%20%C3%A9".to_owned(), None)
        );
        assert!(request_of(Operation::TokenInfo, json!({})).is_err());
    }
}
