//! `POST /v1/chat/completions`: checked, reserved, sent with the key, relayed, settled.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http::HeaderValue;
use http::Request;
use http::Response;
use http::StatusCode;
use http_body::Body as _;
use http_body::Frame;
use http_body_util::BodyExt as _;
use http_body_util::Full;
use http_body_util::LengthLimitError;
use http_body_util::Limited;
use http_body_util::StreamBody;
use hyper::body::Incoming;
use ob_core::Refusal;

use crate::listen::Gate;
use crate::meter::Charge;
use crate::refuse::GateRefusal;
use crate::relay::BAD_STREAM;
use crate::relay::Mask;
use crate::relay::Relay;
use crate::request;
use crate::request::Prepared;
use crate::route::Body;
use crate::sse::Chunk;
use crate::upstream;

/// An answer that is not a stream and not what it should be.
const BAD_ANSWER: &str = "bad_model_answer";
/// The unit in which the memory of request bodies is counted.
const BODY_UNIT: usize = 64 * 1024;

/// Answers a request for a chat completion.
pub(crate) async fn chat(
    gate: &Arc<Gate>,
    request: Request<Incoming>,
) -> Result<Response<Body>, GateRefusal> {
    let session = &gate.session;
    let provider = gate
        .shared
        .models
        .provider_within(&session.model, gate.shared.options.model_patience)
        .await
        .map_err(|refusal| GateRefusal::new(StatusCode::SERVICE_UNAVAILABLE, "no_model", refusal))?;
    let (head, body) = request.into_parts();
    let room = room_for(gate, &body).await?;
    let body = read(gate, body).await?;
    let prepared = request::prepare(&body, &session.model.model, provider.max_output_tokens)?;
    drop(body);
    let mut outgoing = upstream::request(&provider, &head.headers, prepared.stream)?;

    let Prepared { body, stream, hide_usage, input_tokens, output_tokens } = prepared;
    let mut charge = gate.meter.reserve(input_tokens, output_tokens, provider.price).await?;
    charge.sent();
    let options = &gate.shared.options;
    let redactor = gate.shared.models.redactor();
    *outgoing.body_mut() = Some(body.into());
    let answered = tokio::time::timeout(options.head_timeout, gate.shared.outside.ask(outgoing)).await;
    drop(room);
    let response = match answered {
        Err(_) => return fail(charge, upstream::no_head(session, options.head_timeout)).await,
        Ok(Err(error)) => {
            let (refused, not_taken) = upstream::no_answer(&error, session);
            if not_taken {
                charge.not_taken();
            }
            return fail(charge, refused).await;
        }
        Ok(Ok(response)) if !response.status().is_success() => {
            charge.not_taken();
            let refused = upstream::refused(response, session, &redactor, options.stream_idle_timeout).await;
            return fail(charge, refused).await;
        }
        Ok(Ok(response)) => response,
    };
    let passed_back = upstream::passed_back(response.headers(), &redactor);
    let mask = Mask::new(&provider);
    let mut answer = if stream {
        streamed(gate, response, charge, mask, hide_usage).await?
    } else {
        whole(gate, response, charge, &mask).await?
    };
    answer.headers_mut().extend(passed_back);
    Ok(answer)
}

/// Settles and tells of the failure before the agent learns of it.
async fn fail<T>(charge: Charge, refused: GateRefusal) -> Result<T, GateRefusal> {
    charge.finish(Some(&refused)).await;
    Err(refused)
}

async fn streamed(
    gate: &Arc<Gate>,
    response: reqwest::Response,
    charge: Charge,
    mask: Mask,
    hide_usage: bool,
) -> Result<Response<Body>, GateRefusal> {
    let content_type = content_type(&response);
    if content_type != "text/event-stream" {
        let named = upstream::shown(&content_type, &gate.shared.models.redactor());
        let what = format!("`{named}` instead of an event stream");
        return fail(charge, upstream::malformed(&gate.session, BAD_STREAM, &what)).await;
    }
    let options = &gate.shared.options;
    let mut relay = Relay::new(response, charge, gate.session.clone(), mask, options, hide_usage);
    // The first event decides the status: what fails before it is a plain refusal.
    let first = match relay.next().await {
        Some(Err(refused)) => return Err(refused),
        Some(Ok(bytes)) => Some(bytes),
        None => None,
    };
    let frames = stream::unfold((first, relay), async |(first, mut relay)| {
        let bytes = match first {
            Some(first) => first,
            None => match relay.next().await? {
                Ok(bytes) => bytes,
                Err(refused) => refused.sse(),
            },
        };
        Some((Ok::<_, Infallible>(Frame::data(bytes)), (None, relay)))
    });
    let mut answer = Response::new(StreamBody::new(frames).boxed_unsync());
    let headers = answer.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(answer)
}

async fn whole(
    gate: &Arc<Gate>,
    mut response: reqwest::Response,
    mut charge: Charge,
    mask: &Mask,
) -> Result<Response<Body>, GateRefusal> {
    let options = &gate.shared.options;
    let malformed = |what: &str| upstream::malformed(&gate.session, BAD_ANSWER, what);
    let mut body = Vec::new();
    loop {
        let failure = match tokio::time::timeout(options.stream_idle_timeout, response.chunk()).await {
            Ok(Ok(Some(chunk))) if body.len() + chunk.len() <= options.max_event => {
                body.extend_from_slice(&chunk);
                continue;
            }
            Ok(Ok(None)) => break,
            Ok(Ok(Some(_))) => malformed("a body that is too large"),
            Ok(Err(_)) => malformed("a body that breaks off in the middle"),
            Err(_) => upstream::silent(&gate.session, options.stream_idle_timeout),
        };
        // What was seen of it was paid for.
        charge.wrote(u64::try_from(body.len()).unwrap_or(u64::MAX));
        return fail(charge, failure).await;
    }
    let Some(chunk) = Chunk::parse(&body).filter(Chunk::is_answer) else {
        charge.wrote(u64::try_from(body.len()).unwrap_or(u64::MAX));
        return fail(charge, malformed("a body that is no chat completion")).await;
    };
    charge.wrote(chunk.written_bytes);
    if let Some(usage) = chunk.usage {
        charge.reported(usage);
    }
    charge.whole();
    charge.finish(None).await;
    let mut answer = Response::new(Full::new(mask.hide(body.into())).boxed_unsync());
    answer.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(answer)
}

fn content_type(response: &reqwest::Response) -> String {
    let value = response.headers().get(http::header::CONTENT_TYPE);
    let text = value.and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Waits until this session's requests in flight leave room in memory for this one.
async fn room_for(gate: &Gate, body: &Incoming) -> Result<tokio::sync::OwnedSemaphorePermit, GateRefusal> {
    let max = gate.shared.options.max_body;
    let length = body.size_hint().upper().and_then(|length| usize::try_from(length).ok()).unwrap_or(max);
    if length > max {
        return Err(too_large(max));
    }
    let units = u32::try_from(length.div_ceil(BODY_UNIT)).unwrap_or(u32::MAX).max(1);
    let room = Arc::clone(&gate.body_room).acquire_many_owned(units).await;
    room.map_err(|_| {
        let refusal = Refusal::unavailable("the gate is closing").fix("nothing to do: the session is ending");
        GateRefusal::new(StatusCode::SERVICE_UNAVAILABLE, "closing", refusal)
    })
}

/// Units of memory that the bodies of one session may take at once: two of the largest.
pub(crate) fn body_units(max_body: usize) -> usize {
    2 * max_body.div_ceil(BODY_UNIT).max(1)
}

async fn read(gate: &Gate, body: Incoming) -> Result<Bytes, GateRefusal> {
    let options = &gate.shared.options;
    let collecting = Limited::new(body, options.max_body).collect();
    match tokio::time::timeout(options.body_timeout, collecting).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large(options.max_body)),
        Ok(Err(_)) => {
            Err(GateRefusal::invalid(None, "the body breaks off in the middle", "send the whole body"))
        }
        Err(_) => {
            let refusal =
                Refusal::invalid(format!("the body did not arrive within {:?}", options.body_timeout))
                    .fix("send it at once");
            Err(GateRefusal::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", refusal))
        }
    }
}

fn too_large(max: usize) -> GateRefusal {
    let refusal = Refusal::invalid(format!("the body has more than {max} bytes"))
        .fix("shorten the conversation: leave out old results of tools");
    GateRefusal::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", refusal)
}
