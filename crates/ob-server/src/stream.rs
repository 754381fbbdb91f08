//! A session's events as a stream of server-sent events.
//!
//! `id` is the event's number, `event` its type, `data` the event as JSON. A client resumes with `Last-Event-ID` or
//! `cursor`. The last event says why there are no more:
//!
//! - `end`: the session is over, and everything was delivered.
//! - `closing`: the server stops; resume at the next one.
//! - `refused`: a fault, or the token does not work any more; with the problem.
//!
//! A stream that ends without one of them was cut and is to be resumed.
//!
//! Back-pressure is the connection's own: the next event is read from the log when the last one was taken.

use std::convert::Infallible;
use std::time::Duration;

use axum::response::IntoResponse as _;
use axum::response::Response;
use axum::response::Sse;
use axum::response::sse::Event;
use axum::response::sse::KeepAlive;
use futures_util::Stream;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream;
use futures_util::stream::BoxStream;
use http::HeaderMap;
use http::HeaderValue;
use http::header;
use ob_core::Refusal;
use ob_core::RefusalCode;
use ob_core::SessionId;
use ob_core::audit::Asker;
use ob_core::operation::EventView;
use ob_core::operation::Operation;
use ob_core::operation::SessionEvents;
use serde_json::Value;
use serde_json::json;

use crate::doors::SharedDoors;
use crate::edge::Site;
use crate::reply;

/// How long a client is told to wait before it connects again: a server that was stopped for the next one is back.
const RETRY: Duration = Duration::from_secs(1);

/// A stream on its way.
struct Feed {
    followed: BoxStream<'static, Result<EventView, Refusal>>,
    /// Resolves with the last event if the stream ends before the session does.
    cut: BoxFuture<'static, Event>,
    doors: SharedDoors,
    asker: Asker,
    session: SessionId,
}

/// The response that carries the stream.
pub(crate) async fn events(
    site: &Site,
    doors: SharedDoors,
    asker: Asker,
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
    let (lapsed, stopping) = (doors.lapsed(&asker.principal), site.shutdown.clone().cancelled_owned());
    let cut = Box::pin(async move {
        tokio::select! {
            biased;
            refusal = lapsed => refused(&refusal),
            () = stopping => closing(),
        }
    });
    let followed = doors.follow(&asker, params).await?;
    let feed = Feed { followed, cut, doors, asker, session };
    Ok(response(site, stream::unfold(Some(feed), Feed::next)))
}

/// The response that carries a stream of events, whatever they are.
pub(crate) fn response(site: &Site, events: impl Stream<Item = Event> + Send + 'static) -> Response {
    // At once, so that a client knows that it is connected before anything happens.
    let hello = stream::once(std::future::ready(Event::default().retry(RETRY)));
    let keep_alive = KeepAlive::new().interval(site.limits.heartbeat);
    let body = hello.chain(events).map(Ok::<_, Infallible>);
    let mut response = Sse::new(body).keep_alive(keep_alive).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // For nginx: events are to be passed on as they come.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

// === impl Feed ===

impl Feed {
    /// The next event, and what is left to come after it.
    async fn next(feed: Option<Self>) -> Option<(Event, Option<Self>)> {
        let mut feed = feed?;
        tokio::select! {
            // First, so that nothing more is told to a token that was revoked.
            biased;
            last = &mut feed.cut => Some((last, None)),
            followed = feed.followed.next() => match followed {
                Some(Ok(view)) => Some((sent(&view), Some(feed))),
                Some(Err(refusal)) => Some((refused(&refusal), None)),
                None => Some((feed.last().await, None)),
            },
        }
    }

    /// What there is to say when no more events come: the session is over or gone, or the server stops.
    async fn last(self) -> Event {
        let params = json!({ "session_id": self.session });
        match self.doors.call(&self.asker, Operation::SessionGet, params).await {
            Ok(view) if is_over(&view) => Event::default().event("end").data(end_data(&view).to_string()),
            Ok(_) => closing(),
            // The store is closed already.
            Err(refusal) if refusal.code == RefusalCode::Unavailable => closing(),
            Err(refusal) => refused(&refusal),
        }
    }
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

fn refused(refusal: &Refusal) -> Event {
    let problem = reply::details(reply::status_of(refusal), refusal, None);
    Event::default().event("refused").data(problem.to_string())
}

fn closing() -> Event {
    let why = json!({ "detail": "the server is stopping", "fix": "connect again with `Last-Event-ID`" });
    Event::default().event("closing").retry(RETRY).data(why.to_string())
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
