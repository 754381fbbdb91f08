//! Notifications without being asked: `notifications/message` for each event of the sessions that an MCP session follows.
//!
//! A stream costs one cursor for each followed session and no queue: the next event is read from the log when the
//! connection took the last one. Its event ids are those cursors, so it goes on after a cut where it stood. It is never
//! in the way of the library's own streams, and needs no `logging/setLevel`. What the library itself says without being
//! asked has no other way to the client, so it is passed on between them.

use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::sync::Arc;

use axum::response::Response;
use axum::response::sse::Event;
use futures_util::Stream;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream;
use futures_util::stream::BoxStream;
use futures_util::stream::SelectAll;
use http::HeaderMap;
use http::header;
use ob_core::EventKind;
use ob_core::Refusal;
use ob_core::SessionId;
use ob_core::audit::Asker;
use ob_core::operation::EventView;
use ob_core::operation::SessionEvents;
use serde_json::Value;
use serde_json::json;
use tokio::sync::watch;

use super::Caller;
use super::follows::Cursors;
use super::follows::Follow;
use super::follows::Slot;
use super::sessions::Sessions;
use super::wire::Problem;
use crate::doors::SharedDoors;
use crate::edge::Site;

/// The stream of an MCP session.
pub(super) async fn stream(
    site: &Arc<Site>,
    sessions: &Sessions,
    caller: Caller,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let follows = caller.follows.ok_or_else(|| {
        Refusal::invalid("this stream belongs to an MCP session, and the request names none")
            .fix("initialize first and send `Mcp-Session-Id`; the protocol of 2026-07-28 has no such stream")
    })?;
    let takes_events = headers.get_all(header::ACCEPT).iter().any(|value| {
        value.to_str().is_ok_and(|text| text.contains("text/event-stream") || text.contains("*/*"))
    });
    if !takes_events {
        return Err(Problem::NotAcceptable);
    }
    let cursors = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let (number, newest) = follows.begin_stream();
    let unasked = sessions.unasked(headers).await;
    let push = Push {
        lapsed: caller.doors.lapsed(&caller.asker.principal),
        doors: caller.doors,
        asker: caller.asker,
        number,
        newest,
        list: follows.watch(),
        opened: BTreeSet::new(),
        cursors: cursors.and_then(|text| text.parse().ok()).unwrap_or_default(),
        events: SelectAll::new(),
        fresh: true,
        refused: VecDeque::new(),
        unasked,
    };
    drop(follows);
    Ok(crate::stream::response(site, push.into_stream().take_until(site.shutdown.clone().cancelled_owned())))
}

/// One event of a followed session, or why there is none.
type Told = (Slot, SessionId, Result<EventView, Refusal>);

/// The state of a stream.
struct Push {
    /// Resolves when the token that opened the stream is good no more.
    lapsed: BoxFuture<'static, Refusal>,
    doors: SharedDoors,
    asker: Asker,
    number: u64,
    newest: watch::Receiver<u64>,
    list: watch::Receiver<Vec<Follow>>,
    /// Sessions whose events are read.
    opened: BTreeSet<Slot>,
    cursors: Cursors,
    events: SelectAll<BoxStream<'static, Told>>,
    /// True if the list was not looked at since it changed.
    fresh: bool,
    refused: VecDeque<Event>,
    /// What the library says of itself.
    unasked: BoxStream<'static, String>,
}

// === impl Push ===

impl Push {
    fn into_stream(self) -> impl Stream<Item = Event> {
        stream::unfold(self, |mut push| async move { push.next().await.map(|event| (event, push)) })
    }

    /// The next event; nothing if the stream is over.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if *self.newest.borrow() != self.number {
                return None;
            }
            if std::mem::take(&mut self.fresh) {
                self.open().await;
            }
            if let Some(event) = self.refused.pop_front() {
                return Some(event);
            }
            tokio::select! {
                // First, so that nothing more is told to a token that was revoked.
                biased;
                _ = &mut self.lapsed => return None,
                Some(message) = self.unasked.next() => return Some(self.carried(message)),
                told = self.events.next(), if !self.events.is_empty() => {
                    let Some((slot, session, told)) = told else { continue };
                    return Some(self.event(slot, &session, told));
                }
                changed = self.list.changed() => {
                    // The MCP session is over.
                    changed.ok()?;
                    self.fresh = true;
                }
                changed = self.newest.changed() => changed.ok()?,
            }
        }
    }

    /// Begins to read what is followed and not yet read.
    async fn open(&mut self) {
        let list = self.list.borrow_and_update().clone();
        for Follow { slot, session, cursor } in list {
            if !self.opened.insert(slot) {
                continue;
            }
            let cursor = self.cursors.get(slot).unwrap_or(cursor);
            let params = SessionEvents { session_id: session.clone(), cursor, limit: None, wait_ms: None };
            match self.doors.follow(&self.asker, params).await {
                Ok(events) => {
                    self.events.push(events.map(move |told| (slot, session.clone(), told)).boxed());
                }
                Err(refusal) => {
                    let event = self.event(slot, &session, Err(refusal));
                    self.refused.push_back(event);
                }
            }
        }
    }

    fn event(&mut self, slot: Slot, session: &SessionId, told: Result<EventView, Refusal>) -> Event {
        let (level, logger, data) = match told {
            Ok(view) => {
                self.cursors.set(slot, i64::try_from(view.index).unwrap_or(i64::MAX));
                let level = if view.body.kind == EventKind::Error { "error" } else { "info" };
                let logger = if view.body.kind == EventKind::CallerToolRequest {
                    "oubliette.caller_tool"
                } else {
                    "oubliette.session"
                };
                let mut data = serde_json::to_value(&view).unwrap_or_default();
                data["session_id"] = json!(session);
                (level, logger, data)
            }
            Err(refusal) => {
                ("error", "oubliette.session", json!({ "session_id": session, "error": refusal }))
            }
        };
        let message: Value = json!({
            "jsonrpc": "2.0",
            "method": "notifications/message",
            "params": { "level": level, "logger": logger, "data": data },
        });
        self.carried(message.to_string())
    }

    /// A message under the cursors as they are now.
    fn carried(&self, message: String) -> Event {
        let event = Event::default().event("message").data(message);
        let id = self.cursors.to_string();
        if id.is_empty() { event } else { event.id(id) }
    }
}
