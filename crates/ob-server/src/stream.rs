//! A session's events as a stream of server-sent events.
//!
//! `id` is the event's number, `event` its type, `data` the event as JSON. A client resumes with `Last-Event-ID` or
//! `cursor`. When the session is over and everything was delivered, a last `event: end` says so; a stream that ends
//! without it was cut and is to be resumed. A fault on the way is `event: refused` with the refusal.
//!
//! Back-pressure is the connection's own: the next event is read from the log when the last one was taken.

use std::convert::Infallible;
use std::time::Duration;

use axum::response::IntoResponse as _;
use axum::response::Response;
use axum::response::Sse;
use axum::response::sse::Event;
use axum::response::sse::KeepAlive;
use futures_util::StreamExt as _;
use futures_util::stream;
use http::HeaderMap;
use http::HeaderValue;
use http::header;
use ob_core::Principal;
use ob_core::Refusal;
use ob_core::operation::EventView;
use ob_core::operation::Operation;
use ob_core::operation::SessionEvents;
use serde_json::Value;
use serde_json::json;

use crate::doors::SharedDoors;
use crate::edge::Site;

/// A comment is sent after so long without an event, so that proxies keep the connection and a dead one is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The response that carries the stream.
pub(crate) async fn events(
    site: &Site,
    doors: SharedDoors,
    principal: Principal,
    mut params: Value,
    headers: &HeaderMap,
) -> Result<Response, Refusal> {
    if let Some(id) = last_event_id(headers)? {
        // A browser repeats the first URL when it reconnects, so the header is the newer of the two.
        params["cursor"] = id.into();
    }
    let params: SessionEvents = serde_json::from_value(params)
        .map_err(|error| Refusal::invalid(format!("session.events: {error}")))?;
    if params.limit.is_some() || params.wait_ms.is_some() {
        return Err(Refusal::invalid("`limit` and `wait_ms` are for pages, not for streams")
            .fix("leave them out, or ask without `Accept: text/event-stream`"));
    }
    let session = params.session_id.clone();
    let followed = doors.follow(&principal, params).await?;
    let end = async move {
        let params = json!({ "session_id": session });
        let view = doors.call(&principal, Operation::SessionGet, params).await.ok()?;
        is_over(&view).then(|| Event::default().event("end").data(end_data(&view).to_string()))
    };
    let body = followed
        .map(|item| match item {
            Ok(view) => sent(&view),
            Err(refusal) => Event::default().event("refused").data(json!({ "error": refusal }).to_string()),
        })
        .chain(stream::once(end).filter_map(std::future::ready))
        .map(Ok::<_, Infallible>)
        .take_until(site.shutdown.clone().cancelled_owned());
    let mut response = Sse::new(body).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // For nginx: events are to be passed on as they come.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// The number of the last event that the client has, if it says so.
pub(crate) fn last_event_id(headers: &HeaderMap) -> Result<Option<i64>, Refusal> {
    let Some(id) = headers.get("last-event-id") else { return Ok(None) };
    let id = id.to_str().ok().and_then(|text| text.trim().parse::<i64>().ok()).filter(|id| *id >= -1);
    id.map(Some).ok_or_else(|| {
        Refusal::invalid("`Last-Event-ID` is not the number of an event")
            .fix("send the `id` of the last event that you have")
    })
}

fn sent(view: &EventView) -> Event {
    let kind = serde_json::to_value(view.body.kind).ok();
    let kind = kind.as_ref().and_then(Value::as_str).unwrap_or("system");
    let data = serde_json::to_string(view).unwrap_or_else(|_| "{}".to_owned());
    Event::default().id(view.index.to_string()).event(kind).data(data)
}

fn is_over(view: &Value) -> bool {
    matches!(view["status"].as_str(), Some("completed" | "failed"))
}

fn end_data(view: &Value) -> Value {
    json!({
        "session_id": view["session_id"],
        "state": view["state"],
        "status": view["status"],
        "last_index": view["last_index"],
        "reason": view["reason"],
    })
}
