//! Opens a connection, sends a request, and checks the head of the answer.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use http::header::RETRY_AFTER;
use http_body_util::BodyExt as _;
use http_body_util::Full;
use http_body_util::Limited;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::net::UnixStream;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::AnswerStream;
use super::ModelError;
use super::wire;
use crate::agent::options::Endpoint;
use crate::agent::text;

/// How long a connection may take to be made. It never leaves the machine.
const CONNECT: Duration = Duration::from_secs(5);
/// How much of an error's body is read, in bytes.
const MAX_ERROR_BODY: usize = 64 * 1024;
/// How much of an error's text is kept, in bytes.
const MAX_ERROR_TEXT: usize = 2 * 1024;

/// Calls the model.
#[derive(Debug)]
pub(crate) struct Client {
    endpoint: Endpoint,
    idle: Duration,
}

/// Closes the connection when dropped.
#[derive(Debug)]
pub(super) struct Connection(AbortHandle);

// === impl Client ===

impl Client {
    /// A client for an endpoint that may say nothing for `idle`.
    pub(crate) fn new(endpoint: Endpoint, idle: Duration) -> Self {
        Self { endpoint, idle }
    }

    /// Sends a request, a JSON object; the answer has begun when this returns.
    pub(crate) async fn ask(&self, request: Bytes) -> Result<AnswerStream, ModelError> {
        match timeout(self.idle, self.send(request)).await {
            Ok(answer) => answer,
            Err(_elapsed) => Err(ModelError::Idle(self.idle)),
        }
    }

    async fn send(&self, request: Bytes) -> Result<AnswerStream, ModelError> {
        let (response, connection) = match &self.endpoint {
            Endpoint::Socket(path) => {
                let stream = self.connect(UnixStream::connect(path)).await?;
                exchange(stream, "gate", "/v1", request).await?
            }
            Endpoint::Address(address, prefix) => {
                let stream = self.connect(TcpStream::connect(address)).await?;
                exchange(stream, &address.to_string(), prefix, request).await?
            }
        };
        let (head, body) = response.into_parts();
        if head.status != StatusCode::OK {
            return Err(refusal(head.status, &head.headers, body).await);
        }
        let kind = head.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if !kind.starts_with("text/event-stream") {
            return Err(ModelError::Malformed(format!(
                "an event stream was asked for, not `{}`",
                text::cut(kind, 100)
            )));
        }
        Ok(AnswerStream::new(body, self.idle, connection))
    }

    async fn connect<S>(
        &self,
        connecting: impl Future<Output = std::io::Result<S>>,
    ) -> Result<S, ModelError> {
        let connected = match timeout(CONNECT, connecting).await {
            Ok(connected) => connected,
            Err(_elapsed) => Err(std::io::ErrorKind::TimedOut.into()),
        };
        connected.map_err(|source| ModelError::Unreachable {
            endpoint: match &self.endpoint {
                Endpoint::Socket(path) => path.display().to_string(),
                Endpoint::Address(address, _) => address.to_string(),
            },
            source,
        })
    }
}

// === impl Connection ===

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn exchange<S>(
    stream: S,
    host: &str,
    prefix: &str,
    request: Bytes,
) -> Result<(http::Response<Incoming>, Connection), ModelError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let cut = |error: hyper::Error| ModelError::Cut(error.to_string());
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(cut)?;
    let connection = tokio::task::spawn_local(async move {
        // Its error comes out of the response as well.
        let _ended = connection.await;
    });
    let connection = Connection(connection.abort_handle());
    let request = http::Request::post(format!("{prefix}/chat/completions"))
        .header(http::header::HOST, host)
        .header(http::header::ACCEPT, "text/event-stream")
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(request))
        .map_err(|error| ModelError::Malformed(error.to_string()))?;
    let response = sender.send_request(request).await.map_err(|error| {
        if error.is_parse() { ModelError::Malformed(error.to_string()) } else { cut(error) }
    })?;
    Ok((response, connection))
}

/// What an answer with another status says. Its message is passed through: a refusal of the gate names its fix.
async fn refusal(status: StatusCode, headers: &HeaderMap, body: Incoming) -> ModelError {
    let bytes = match Limited::new(body, MAX_ERROR_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_cut_or_too_large) => Bytes::new(),
    };
    let (message, code) = match serde_json::from_slice::<Value>(&bytes) {
        Ok(value) => wire::error_text(value.get("error").unwrap_or(&value)),
        Err(_no_json) => (text::clean(&bytes), None),
    };
    let message = match message.trim() {
        "" => status.canonical_reason().unwrap_or("no reason given").to_owned(),
        message => text::cut(message, MAX_ERROR_TEXT),
    };
    let retry_after = headers.get(RETRY_AFTER).and_then(|wait| wait.to_str().ok()?.parse().ok());
    ModelError::Status {
        status: status.as_u16(),
        code,
        message,
        retry_after: retry_after.map(Duration::from_secs),
    }
}
