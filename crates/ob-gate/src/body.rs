//! The body of an agent's request: how large it may be, how long it may take, and how many there may be at once.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use http_body::Body as _;
use http_body_util::BodyExt as _;
use http_body_util::LengthLimitError;
use http_body_util::Limited;
use hyper::body::Incoming;
use ob_core::Refusal;

use crate::listen::Gate;
use crate::refuse::GateRefusal;

/// The unit in which the memory of request bodies is counted.
const BODY_UNIT: usize = 64 * 1024;

/// Waits until this session's requests in flight leave room in memory for this one.
pub(crate) async fn room_for(
    gate: &Gate,
    body: &Incoming,
) -> Result<tokio::sync::OwnedSemaphorePermit, GateRefusal> {
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

/// The whole body, of at most `max` bytes.
pub(crate) async fn read(gate: &Gate, body: Incoming, max: usize) -> Result<Bytes, GateRefusal> {
    let options = &gate.shared.options;
    let collecting = Limited::new(body, max).collect();
    match tokio::time::timeout(options.body_timeout, collecting).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large(max)),
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
