//! The requests of the link, as `ob_core::link` lists them.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Method;
use http::Request;
use http::Response;
use http::StatusCode;
use http_body_util::BodyExt as _;
use http_body_util::Full;
use http_body_util::Limited;
use http_body_util::StreamBody;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Frame;
use hyper::body::Incoming;
use ob_core::link::GuestError;
use ob_core::link::MAX_JSON;
use ob_core::link::STREAM_END;
use ob_core::link::StdinTaken;
use ob_core::link::is_process_id;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::process::Channel;
use super::process::Denied;
use super::process::Process;
use super::process::Processes;
use super::window::Read;

/// The most bytes of one frame of an output stream.
const FRAME: usize = 64 * 1024;

type Body = UnsyncBoxBody<Bytes, Cut>;

/// An output stream that cannot go on: its process or its bytes were forgotten.
#[derive(Debug, thiserror::Error)]
#[error("the stream was forgotten")]
pub(super) struct Cut;

/// Where an output stream's reader stands.
enum Place {
    At(u64),
    Done,
}

/// Answers one request.
pub(super) async fn answer(
    processes: Arc<Processes>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    Ok(route(&processes, request).await.unwrap_or_else(|denied| refusal(&denied)))
}

async fn route(processes: &Processes, request: Request<Incoming>) -> Result<Response<Body>, Denied> {
    let uri = request.uri().clone();
    let Some(path) = uri.path().strip_prefix("/v1/processes") else {
        return Err(unknown(&request));
    };
    let query = uri.query().unwrap_or_default();
    let mut parts = path.split('/').skip(1);
    let (name, part) = (parts.next(), parts.next());
    if parts.next().is_some() {
        return Err(unknown(&request));
    }
    let Some(name) = name else {
        return match *request.method() {
            Method::GET => Ok(json(&processes.all())),
            _ => Err(unknown(&request)),
        };
    };
    if !is_process_id(name) {
        return Err(Denied::Invalid("a process's name is 1 to 64 of [a-z0-9._-]".into()));
    }
    match (request.method().as_str(), part) {
        ("PUT", None) => {
            let spec = read_json(request.into_body()).await?;
            processes.start(name, &spec).map(|()| done())
        }
        ("GET", None) => Ok(json(&processes.get(name)?.status())),
        ("DELETE", None) => processes.forget(name).map(|()| done()),
        ("GET", Some("stdout")) => output(processes.get(name)?, Channel::Stdout, number(query, "offset")?),
        ("GET", Some("stderr")) => output(processes.get(name)?, Channel::Stderr, number(query, "offset")?),
        ("GET", Some("exit")) => {
            let status = processes.get(name)?.exited().await;
            status.map(|status| json(&status)).ok_or_else(|| Denied::NotFound(name.to_owned()))
        }
        ("POST", Some("ack")) => {
            let process = processes.get(name)?;
            process.acknowledge(read_json(request.into_body()).await?).map(|()| done())
        }
        ("POST", Some("signal")) => {
            let process = processes.get(name)?;
            let asked: ob_core::link::SignalRequest = read_json(request.into_body()).await?;
            process.signal(asked.signal, number(query, "request")?).map(|()| done())
        }
        ("POST", Some("stdin")) => {
            let process = processes.get(name)?;
            let offset = number(query, "offset")?.unwrap_or(0);
            let close = value(query, "close") == Some("true");
            input(&process, offset, close, request.into_body()).await
        }
        _ => Err(unknown(&request)),
    }
}

/// Streams an output from an offset to its end, which a trailer confirms.
fn output(process: Arc<Process>, channel: Channel, offset: Option<u64>) -> Result<Response<Body>, Denied> {
    let offset = offset.unwrap_or(0);
    let changes = process.window(channel).subscribe();
    match changes.borrow().read(offset, 0) {
        Read::Gone => return Err(Denied::Gone),
        Read::Beyond => return Err(Denied::Invalid("the offset is behind the end of the stream".into())),
        Read::Bytes(_) | Read::Wait | Read::End => {}
    }
    // Not the process: a reader does not keep one that was forgotten.
    let frames = stream::unfold((changes, Place::At(offset)), |(mut changes, place)| async move {
        let Place::At(offset) = place else {
            return None;
        };
        let read = changes
            .wait_for(|window| window.read(offset, 0) != Read::Wait)
            .await
            .map_or(Read::Gone, |window| window.read(offset, FRAME));
        Some(match read {
            Read::Bytes(bytes) => {
                let next = Place::At(offset + bytes.len() as u64);
                (Ok(Frame::data(bytes)), (changes, next))
            }
            Read::End => {
                let trailers =
                    HeaderMap::from_iter([(HeaderName::from_static(STREAM_END), HeaderValue::from(offset))]);
                (Ok(Frame::trailers(trailers)), (changes, Place::Done))
            }
            Read::Wait | Read::Gone | Read::Beyond => (Err(Cut), (changes, Place::Done)),
        })
    });
    Ok(Response::new(StreamBody::new(frames).boxed_unsync()))
}

/// Takes input as it comes; one frame is held while its process does not read.
async fn input(
    process: &Process,
    offset: u64,
    close: bool,
    mut body: Incoming,
) -> Result<Response<Body>, Denied> {
    let mut end = offset;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Denied::Invalid(format!("the body broke off: {error}")))?;
        if let Ok(bytes) = frame.into_data() {
            let next = end.checked_add(bytes.len() as u64);
            let next = next.ok_or_else(|| Denied::Invalid("the offset is too large".into()))?;
            process.take(end, &bytes).await?;
            end = next;
        }
    }
    if close {
        process.close_input(end)?;
    } else {
        // Finds a gap in a request without bytes as well.
        process.take(end, &[]).await?;
    }
    Ok(json(&StdinTaken { offset: end }))
}

async fn read_json<T: DeserializeOwned>(body: Incoming) -> Result<T, Denied> {
    let body = Limited::new(body, MAX_JSON).collect().await;
    let body = body.map_err(|error| Denied::Invalid(format!("the body: {error}")))?.to_bytes();
    serde_json::from_slice(&body).map_err(|error| Denied::Invalid(format!("the body: {error}")))
}

fn value<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value)
}

fn number(query: &str, name: &str) -> Result<Option<u64>, Denied> {
    let Some(text) = value(query, name) else {
        return Ok(None);
    };
    text.parse().map(Some).map_err(|_| Denied::Invalid(format!("{name} is no number")))
}

fn unknown(request: &Request<Incoming>) -> Denied {
    Denied::Invalid(format!("there is no {} {}", request.method(), request.uri().path()))
}

fn json(value: &impl Serialize) -> Response<Body> {
    // These types have string keys only: they cannot fail to serialize.
    let text = serde_json::to_vec(value).unwrap_or_default();
    Response::new(full(text.into()))
}

fn done() -> Response<Body> {
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

fn refusal(denied: &Denied) -> Response<Body> {
    let (status, code) = match denied {
        Denied::NotFound(_) => (StatusCode::NOT_FOUND, "not_found"),
        Denied::SpawnFailed(_) => (StatusCode::UNPROCESSABLE_ENTITY, "spawn_failed"),
        Denied::Invalid(_) => (StatusCode::BAD_REQUEST, "invalid"),
        Denied::TooMany => (StatusCode::TOO_MANY_REQUESTS, "too_many"),
        Denied::Gone => (StatusCode::GONE, "gone"),
    };
    let mut response = json(&GuestError { code: code.to_owned(), message: denied.to_string() });
    *response.status_mut() = status;
    response
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}
