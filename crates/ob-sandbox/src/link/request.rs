//! One request and its answer, which is hostile until it is parsed.

use std::error::Error as _;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::Request;
use http::Response;
use http::StatusCode;
use http_body_util::BodyExt as _;
use http_body_util::Full;
use http_body_util::LengthLimitError;
use http_body_util::Limited;
use hyper::body::Incoming;
use ob_core::link::ExitStatus;
use ob_core::link::GuestError;
use ob_core::link::MAX_JSON;
use ob_core::link::ProcessStatus;
use ob_core::link::is_process_id;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::ANSWER;
use super::LinkError;
use super::connection::Link;

/// The most characters of a guest's words that are kept.
const MAX_MESSAGE: usize = 512;
/// What a guest may refuse with.
const CODES: [&str; 5] = ["not_found", "spawn_failed", "invalid", "too_many", "gone"];
/// The largest signal number.
const MAX_SIGNAL: i32 = 64;

/// A request that can be sent again.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    method: Method,
    path: String,
    body: Bytes,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// The connection is gone, or of no use.
    Cut,
    /// The guest gave up this request alone.
    Reset,
}

/// Why a try failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// Another try may succeed.
    Broken(Broken),
    /// It would not.
    Final(LinkError),
}

/// A refusal of our own, before anything is sent.
pub(super) fn refused(code: &str, message: &str) -> LinkError {
    LinkError::Refused { code: code.to_owned(), message: message.to_owned() }
}

/// The guest said what it must not.
pub(super) fn protocol(what: impl Into<String>) -> LinkError {
    LinkError::Protocol { what: what.into() }
}

/// Checks a status that was asked of the process `id`.
pub(super) fn check_status(id: &str, status: ProcessStatus) -> Result<ProcessStatus, LinkError> {
    if status.id != id {
        return Err(protocol("it answered for another process"));
    }
    // Offsets are stored as signed numbers.
    if [status.stdin_taken, status.stdout_end, status.stderr_end].iter().any(|n| i64::try_from(*n).is_err()) {
        return Err(protocol("an offset is too large"));
    }
    status.exit.map(check_exit).transpose()?;
    Ok(status)
}

/// Checks that exactly one of code and signal is there, and possible.
pub(super) fn check_exit(exit: ExitStatus) -> Result<ExitStatus, LinkError> {
    match (exit.code, exit.signal) {
        (Some(0..=255), None) | (None, Some(1..=MAX_SIGNAL)) => Ok(exit),
        _ => Err(protocol("an impossible exit status")),
    }
}

// === impl Ask ===

impl Ask {
    /// A request about a process; `part` is what follows its name in the path.
    pub(super) fn new(method: Method, id: &str, part: &str, body: Bytes) -> Result<Self, LinkError> {
        if !is_process_id(id) {
            return Err(refused("invalid", "a process's name is 1 to 64 of [a-z0-9._-]"));
        }
        Ok(Self { method, path: format!("/v1/processes/{id}{part}"), body })
    }

    pub(super) fn empty(method: Method, id: &str, part: &str) -> Result<Self, LinkError> {
        Self::new(method, id, part, Bytes::new())
    }

    pub(super) fn json(
        method: Method,
        id: &str,
        part: &str,
        body: &impl Serialize,
    ) -> Result<Self, LinkError> {
        let body = serde_json::to_vec(body).map_err(|error| refused("invalid", &error.to_string()))?;
        if body.len() > MAX_JSON {
            return Err(refused("invalid", &format!("the request is larger than {MAX_JSON} bytes")));
        }
        Self::new(method, id, part, body.into())
    }

    fn request(&self) -> Result<Request<Full<Bytes>>, LinkError> {
        Request::builder()
            .method(self.method.clone())
            .uri(format!("http://guest{}", self.path))
            .body(Full::new(self.body.clone()))
            .map_err(|error| refused("invalid", &error.to_string()))
    }
}

// === impl Link ===

impl Link {
    /// Sends a request and waits for the head of its answer, which is good: a refusal is an error.
    pub(super) async fn ask(
        mut self,
        ask: &Ask,
        patience: Option<Duration>,
    ) -> Result<Response<Incoming>, Failure> {
        let answer = self.sender.send_request(ask.request()?);
        let answer = match patience {
            None => answer.await,
            Some(patience) => within(patience, answer).await?,
        };
        let answer = answer.map_err(|error| Failure::from(&error))?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        Err(refusal(answer).await?.into())
    }

    /// Asks for something that has no result.
    pub(super) async fn done(self, ask: &Ask, patience: Duration) -> Result<(), Failure> {
        let answer = self.ask(ask, Some(patience)).await?;
        match answer.status() {
            StatusCode::NO_CONTENT => Ok(()),
            status => Err(protocol(format!("it answered {status} where nothing is to be told")).into()),
        }
    }

    /// Asks for a JSON value. Without `patience`, the guest may wait as long as it likes before it answers.
    pub(super) async fn parsed<T: DeserializeOwned>(
        self,
        ask: &Ask,
        patience: Option<Duration>,
    ) -> Result<T, Failure> {
        let body = body(self.ask(ask, patience).await?).await?;
        serde_json::from_slice(&body).map_err(|error| {
            protocol(format!("an answer of the wrong form: {}", bounded(&error.to_string()))).into()
        })
    }
}

// === impl Failure ===

impl From<LinkError> for Failure {
    fn from(error: LinkError) -> Self {
        Self::Final(error)
    }
}

impl From<&hyper::Error> for Failure {
    fn from(error: &hyper::Error) -> Self {
        match error.source().and_then(|source| source.downcast_ref::<h2::Error>()) {
            // Our side found that the guest breaks the rules of HTTP/2.
            Some(error) if error.is_go_away() && error.is_library() => {
                Self::Final(protocol(format!("HTTP/2: {}", bounded(&error.to_string()))))
            }
            Some(error) if error.is_reset() && error.is_library() => {
                Self::Final(protocol(format!("HTTP/2: {}", bounded(&error.to_string()))))
            }
            Some(error) if error.is_reset() => Self::Broken(Broken::Reset),
            _ => Self::Broken(Broken::Cut),
        }
    }
}

/// Waits for an answer, but not for ever.
async fn within<T>(patience: Duration, answer: impl Future<Output = T>) -> Result<T, LinkError> {
    tokio::time::timeout(patience, answer).await.map_err(|_| LinkError::TimedOut(patience))
}

/// The body of an answer that is a JSON value.
async fn body(answer: Response<Incoming>) -> Result<Bytes, Failure> {
    match within(ANSWER, Limited::new(answer.into_body(), MAX_JSON).collect()).await? {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(protocol(format!("an answer of more than {MAX_JSON} bytes")).into())
        }
        Err(error) => {
            Err(error.downcast_ref::<hyper::Error>().map_or(Failure::Broken(Broken::Cut), Failure::from))
        }
    }
}

/// What the guest refuses with.
async fn refusal(answer: Response<Incoming>) -> Result<LinkError, Failure> {
    let status = answer.status();
    let said: Option<GuestError> = serde_json::from_slice(&body(answer).await?).ok();
    match said {
        Some(said) if status.is_client_error() && CODES.contains(&said.code.as_str()) => {
            Ok(LinkError::Refused { code: said.code, message: bounded(&said.message) })
        }
        _ => Ok(protocol(format!("it answered {status} without a reason"))),
    }
}

/// A guest's words, for a person's terminal: short and without control characters.
fn bounded(text: &str) -> String {
    text.chars().take(MAX_MESSAGE).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
