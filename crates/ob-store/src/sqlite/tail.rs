//! The hot end of the event log (`docs/design/event-table.md`).
//!
//! Events are clustered by session, so a transaction with one event of each of many sessions writes a page for each of
//! them. The newest events are therefore kept together: those of one transaction are one row of the table `tail`, and
//! are in memory as well. Later they are moved into `events`, many of a session at a time.
//!
//! ```text
//! append -> Appended -> row of `tail` -- COMMIT --> recent -- seal --> sealed -- some at a time --> `events`
//!                                                   \_______ in memory _______/
//! ```
//!
//! - Of one session, memory holds the newest events without a gap; all older ones are in `events`. A reader looks into
//!   memory first, then reads from `events` what is older: it misses nothing if events move in between.
//! - A move need not be durable: what a power failure takes back is still in `tail`, and moving it again changes nothing.
//! - The memory is a copy of the table. It is loaded when the store opens, and again if another process wrote.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use ob_core::SessionId;
use ob_core::Timestamp;
use ob_core::check_invariant;
use ob_core::event::PAYLOAD_VERSION;
use rusqlite::Connection;
use rusqlite::OptionalExtension as _;
use rusqlite::params;
use serde::Serializer as _;

use super::blob::BlobHash;
use super::change::EncodedEvent;
use super::change::Payload;
use super::fault::Fault;
use super::record::parse;

/// Events that are sealed together. The more there are of one session, the fewer pages a move writes. The crash harness
/// gets there within a second.
const SEAL_EVENTS: usize = if ob_crash::ENABLED { 64 } else { 4096 };
/// Payload bytes that are sealed together.
const SEAL_BYTES: usize = 1024 * 1024;
/// Payload bytes that are kept in memory at most. A transaction that would exceed it moves them all, and its own too.
const BYTES_MAX: usize = 2 * SEAL_BYTES;
/// Events that one step moves at least, unless fewer are left: so many delay the next commit by less than a flush does.
const STEP_EVENTS: usize = SEAL_EVENTS / 32;

/// Events of one session that were appended together in the open transaction.
#[derive(Debug)]
struct Append {
    session: SessionId,
    key: i64,
    first: u64,
    events: Vec<EncodedEvent>,
}

/// The events of the open transaction, in order.
#[derive(Debug, Default)]
pub(crate) struct Appended {
    appends: Vec<Append>,
    bytes: usize,
}

/// A durable event as it is kept; its number is its place in its run.
#[derive(Clone, Debug)]
pub(crate) struct TailEvent {
    /// When it became durable.
    pub(crate) at: Timestamp,
    /// The stored number of its kind.
    pub(crate) kind: u8,
    /// The version of its payload.
    pub(crate) version: u8,
    /// Its content.
    pub(crate) payload: Payload,
}

/// What memory has of a session, from where a reader asked.
#[derive(Debug)]
pub(crate) struct Newest {
    /// The number of the first event in memory; older ones are in `events`.
    pub(crate) first: u64,
    /// The number of the first of `events`.
    pub(crate) from: u64,
    /// The events asked for that are in memory, without a gap.
    pub(crate) events: Vec<TailEvent>,
}

/// The tail in memory, for readers and the writer.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    recent: HashMap<SessionId, Run>,
    sealed: HashMap<SessionId, Arc<Run>>,
    recent_events: usize,
    recent_bytes: usize,
    sealed_bytes: usize,
}

/// Events of one session that follow each other.
#[derive(Debug)]
struct Run {
    key: i64,
    first: u64,
    events: Vec<TailEvent>,
}

/// Where the writer is with moving.
#[derive(Debug, Default)]
pub(crate) struct Mover {
    /// Sealed sessions that are not moved yet, the next one last.
    queue: Vec<SessionId>,
    /// How many events of the next one are moved.
    moved: usize,
    /// The newest row of `tail`.
    newest_row: i64,
    /// The newest row whose events are sealed.
    sealed_row: i64,
}

/// Where the events of a transaction were written.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Written {
    /// There were none.
    Nowhere,
    /// In this row of `tail`.
    Tail(i64),
    /// In `events`, and all that memory holds as well.
    InPlace,
}

/// What a step has moved, to be told when it is committed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    /// Sealed sessions left.
    left: usize,
    /// How many events of the next one are moved.
    moved: usize,
}

/// One event in the body of a row.
type Row<'a> = (i64, u64, u8, u8, Option<Cow<'a, str>>, Option<String>);

// === impl Newest ===

impl Newest {
    /// True if nothing but memory is needed to answer a reader that asked for events from `from` on.
    pub(crate) fn is_all_since(&self, from: u64) -> bool {
        self.first <= from && self.events.iter().all(|event| matches!(event.payload, Payload::Inline(_)))
    }
}

// === impl Appended ===

impl Appended {
    /// Adds events, at least one, of the session with this key; the first gets the number `first`.
    pub(crate) fn push(&mut self, session: &SessionId, key: i64, first: u64, events: &[EncodedEvent]) {
        let append = Append { session: session.clone(), key, first, events: events.to_vec() };
        self.bytes += append.bytes();
        self.appends.push(append);
    }

    /// How many appends there are.
    pub(crate) fn len(&self) -> usize {
        self.appends.len()
    }

    /// How many events there are.
    pub(crate) fn events(&self) -> usize {
        self.appends.iter().map(|append| append.events.len()).sum()
    }

    /// How far each append takes its session's log, in order.
    pub(crate) fn reached(&self) -> Vec<(SessionId, u64)> {
        self.appends.iter().map(|append| (append.session.clone(), append.next())).collect()
    }

    /// The number after the newest event of the session.
    pub(crate) fn next(&self, session: &SessionId) -> Option<u64> {
        self.appends.iter().rev().find(|append| append.session == *session).map(Append::next)
    }

    /// Forgets all but the first `len` appends.
    pub(crate) fn truncate(&mut self, len: usize) {
        for append in self.appends.drain(len..) {
            self.bytes -= append.bytes();
        }
    }

    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        self.truncate(0);
    }

    /// As the body of a row.
    fn body(&self) -> Result<String, Fault> {
        let mut body = Vec::with_capacity(2 * self.bytes + 64 * self.events());
        serde_json::Serializer::new(&mut body).collect_seq(self.appends.iter().flat_map(Append::rows))?;
        String::from_utf8(body).map_err(|error| Fault::engine(error.to_string()))
    }
}

// === impl Tail ===

impl Tail {
    /// What the table holds.
    pub(crate) fn load(&self, connection: &Connection) -> Result<(), Fault> {
        let mut state = State::default();
        let mut ids: HashMap<i64, Option<SessionId>> = HashMap::new();
        let mut select = connection.prepare_cached("SELECT at, body FROM tail ORDER BY id")?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let at = Timestamp::from_micros(row.get(0)?);
            let body = row.get_ref(1)?.as_str().map_err(rusqlite::Error::from)?;
            for (key, seq, kind, version, text, blob) in serde_json::from_str::<Vec<Row<'_>>>(body)? {
                let session = match ids.get(&key) {
                    Some(session) => session.clone(),
                    None => ids.entry(key).or_insert(session_of(connection, key)?).clone(),
                };
                // A session that was deleted since.
                let Some(session) = session else { continue };
                let payload = match (text, blob) {
                    (Some(text), None) => Payload::Inline(text.into()),
                    (None, Some(hash)) => Payload::Blob(hash_of(&hash)?),
                    _ => return Err(Fault::engine(format!("event {seq} of session {session} is malformed"))),
                };
                state.push(&session, key, seq, TailEvent { at, kind, version, payload });
            }
        }
        *self.lock() = state;
        Ok(())
    }

    /// True if all events are in their place.
    pub(crate) fn is_empty(&self) -> bool {
        let state = self.lock();
        state.recent.is_empty() && state.sealed.is_empty()
    }

    /// Forgets deleted sessions.
    pub(crate) fn forget(&self, sessions: &[SessionId]) {
        if sessions.is_empty() {
            return;
        }
        let mut state = self.lock();
        for session in sessions {
            state.sealed_bytes -= state.sealed.remove(session).map_or(0, |run| run.bytes());
            if let Some(run) = state.recent.remove(session) {
                state.recent_events -= run.events.len();
                state.recent_bytes -= run.bytes();
            }
        }
    }

    /// The number of a session's next event, if memory holds its newest.
    pub(crate) fn next(&self, session: &SessionId) -> Option<u64> {
        self.lock().newest(session).map(Run::next)
    }

    /// A session's events in memory from a number on, at most `limit` of them with `bytes` of payload, but at least one
    /// if there is one. Nothing if memory holds none of the session's events.
    pub(crate) fn read(&self, session: &SessionId, from: u64, limit: usize, bytes: usize) -> Option<Newest> {
        let state = self.lock();
        let (sealed, recent) = (state.sealed.get(session), state.recent.get(session));
        let first = sealed.map(Arc::as_ref).or(recent)?.first;
        let from = from.clamp(first, state.newest(session)?.next());
        let (mut events, mut taken) = (Vec::new(), 0);
        let runs = sealed.map(Arc::as_ref).into_iter().chain(recent);
        let after = runs.flat_map(|run| {
            let skipped = usize::try_from(from.saturating_sub(run.first)).unwrap_or(usize::MAX);
            run.events.iter().skip(skipped)
        });
        for event in after.take(limit) {
            taken += event.payload.len();
            if taken > bytes && !events.is_empty() {
                break;
            }
            events.push(event.clone());
        }
        Some(Newest { first, from, events })
    }

    /// Takes over what became durable.
    fn extend(&self, appended: Appended, at: Timestamp) {
        let mut state = self.lock();
        for Append { session, key, first, events } in appended.appends {
            for (seq, event) in (first..).zip(events) {
                state.push(&session, key, seq, TailEvent::new(event, at));
            }
        }
    }

    /// Puts all into `events`, in the open transaction.
    fn put_all(&self, connection: &Connection) -> Result<(), Fault> {
        let state = self.lock();
        for run in state.sealed.values().map(Arc::as_ref).chain(state.recent.values()) {
            run.put(connection, 0..run.events.len())?;
        }
        Ok(())
    }

    fn bytes(&self) -> usize {
        let state = self.lock();
        state.recent_bytes + state.sealed_bytes
    }

    fn is_long(&self) -> bool {
        let state = self.lock();
        state.recent_events >= SEAL_EVENTS || state.recent_bytes >= SEAL_BYTES
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    /// Where memory holds the newest events of a session.
    fn newest(&self, session: &SessionId) -> Option<&Run> {
        self.recent.get(session).or_else(|| self.sealed.get(session).map(Arc::as_ref))
    }

    fn push(&mut self, session: &SessionId, key: i64, seq: u64, event: TailEvent) {
        self.recent_events += 1;
        self.recent_bytes += event.payload.len();
        let run = match self.recent.get_mut(session) {
            Some(run) => run,
            None => self.recent.entry(session.clone()).or_insert(Run { key, first: seq, events: Vec::new() }),
        };
        check_invariant!(AcknowledgedMeansKept, seq == run.next(), "{session}: {seq} follows {}", run.next());
        run.events.push(event);
    }
}

// === impl Run ===

impl Run {
    fn next(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    fn bytes(&self) -> usize {
        self.events.iter().map(|event| event.payload.len()).sum()
    }

    /// Moves some of the events.
    fn put(&self, connection: &Connection, events: Range<usize>) -> Result<(), Fault> {
        let first = self.first + events.start as u64;
        for (seq, event) in (first..).zip(&self.events[events]) {
            put(connection, self.key, seq, event)?;
        }
        Ok(())
    }
}

// === impl Mover ===

impl Mover {
    /// To be called when the tail was loaded: all of it is recent.
    pub(crate) fn reset(&mut self, connection: &Connection) -> Result<(), Fault> {
        let newest: Option<i64> =
            connection.prepare_cached("SELECT max(id) FROM tail")?.query_row([], |row| row.get(0))?;
        *self = Self { newest_row: newest.unwrap_or(0), ..Self::default() };
        Ok(())
    }

    /// Writes what was appended, in the open transaction; to be told by [`Self::written`] when it is durable.
    pub(crate) fn write(
        &self,
        connection: &Connection,
        tail: &Tail,
        appended: &Appended,
        at: Timestamp,
    ) -> Result<Written, Fault> {
        if appended.appends.is_empty() {
            return Ok(Written::Nowhere);
        }
        if tail.bytes() + appended.bytes > BYTES_MAX {
            tail.put_all(connection)?;
            for Append { key, first, events, .. } in &appended.appends {
                for (seq, event) in (*first..).zip(events) {
                    put(connection, *key, seq, &TailEvent::new(event.clone(), at))?;
                }
            }
            connection.prepare_cached("DELETE FROM tail")?.execute([])?;
            return Ok(Written::InPlace);
        }
        let body = appended.body()?;
        let row = connection
            .prepare_cached("INSERT INTO tail (at, body) VALUES (?1, ?2) RETURNING id")?
            .query_row(params![at.as_micros(), body], |row| row.get(0))?;
        Ok(Written::Tail(row))
    }

    /// Takes over what became durable. Must come before anyone is told of it.
    pub(crate) fn written(&mut self, tail: &Tail, written: Written, appended: Appended, at: Timestamp) {
        match written {
            Written::Nowhere => {}
            Written::InPlace => {
                *tail.lock() = State::default();
                *self = Self::default();
            }
            Written::Tail(row) => {
                tail.extend(appended, at);
                self.newest_row = row;
                if self.queue.is_empty() && tail.is_long() {
                    self.seal(tail);
                }
            }
        }
    }

    /// True if there is something to move.
    pub(crate) fn has_work(&self) -> bool {
        !self.queue.is_empty()
    }

    /// From now on the recent events are those that are moved. None may be sealed.
    pub(crate) fn seal(&mut self, tail: &Tail) {
        let mut state = tail.lock();
        let State { recent, recent_bytes, .. } = std::mem::take(&mut *state);
        let mut queue: Vec<(i64, SessionId)> =
            recent.iter().map(|(session, run)| (run.key, session.clone())).collect();
        // By key, as `events` is.
        queue.sort_unstable_by_key(|(key, _)| Reverse(*key));
        state.sealed = recent.into_iter().map(|(session, run)| (session, Arc::new(run))).collect();
        state.sealed_bytes = recent_bytes;
        self.queue = queue.into_iter().map(|(_, session)| session).collect();
        self.moved = 0;
        self.sealed_row = self.newest_row;
    }

    /// Moves so many sealed events or a few more, in the open transaction; to be told by [`Self::stepped`].
    pub(crate) fn step(&self, connection: &Connection, tail: &Tail, at_least: usize) -> Result<Step, Fault> {
        let mut budget = at_least.max(STEP_EVENTS);
        let mut step = Step { left: self.queue.len(), moved: self.moved };
        while budget > 0 && step.left > 0 {
            // It is gone if the session was deleted.
            let run = tail.lock().sealed.get(&self.queue[step.left - 1]).map(Arc::clone);
            let len = run.as_ref().map_or(0, |run| run.events.len());
            let start = step.moved.min(len);
            let end = len.min(start + budget);
            if let Some(run) = run {
                run.put(connection, start..end)?;
            }
            budget -= end - start;
            if end < len {
                step.moved = end;
            } else {
                step = Step { left: step.left - 1, moved: 0 };
            }
        }
        if step.left == 0 {
            connection.prepare_cached("DELETE FROM tail WHERE id <= ?1")?.execute([self.sealed_row])?;
        }
        Ok(step)
    }

    /// What was moved is committed: readers find it in `events`.
    pub(crate) fn stepped(&mut self, tail: &Tail, step: Step) {
        let mut state = tail.lock();
        for session in self.queue.drain(step.left..) {
            state.sealed_bytes -= state.sealed.remove(&session).map_or(0, |run| run.bytes());
        }
        self.moved = step.moved;
    }
}

// === impl TailEvent ===

impl TailEvent {
    fn new(event: EncodedEvent, at: Timestamp) -> Self {
        Self { at, kind: event.kind, version: PAYLOAD_VERSION, payload: event.payload }
    }
}

// === impl Append ===

impl Append {
    fn next(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    fn bytes(&self) -> usize {
        self.events.iter().map(|event| event.payload.len()).sum()
    }

    fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        (self.first..).zip(&self.events).map(|(seq, event)| {
            let (text, blob) = match &event.payload {
                Payload::Inline(text) => (Some(Cow::Borrowed(&**text)), None),
                Payload::Blob(hash) => (None, Some(hex::encode(hash))),
            };
            (self.key, seq, event.kind, PAYLOAD_VERSION, text, blob)
        })
    }
}

/// Puts an event where it stays; one that is there already stays as it is.
fn put(connection: &Connection, key: i64, seq: u64, event: &TailEvent) -> Result<(), Fault> {
    let (inline, blob) = match &event.payload {
        Payload::Inline(text) => (Some(&**text), None),
        Payload::Blob(hash) => (None, Some(hash.as_slice())),
    };
    connection
        .prepare_cached(
            "INSERT OR IGNORE INTO events (session_key, seq, at, kind, version, payload, blob)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![key, seq, event.at.as_micros(), event.kind, event.version, inline, blob])?;
    Ok(())
}

fn session_of(connection: &Connection, key: i64) -> Result<Option<SessionId>, Fault> {
    let id: Option<String> = connection
        .prepare_cached("SELECT id FROM sessions WHERE key = ?1")?
        .query_row([key], |row| row.get(0))
        .optional()?;
    id.map(|id| parse(&id)).transpose()
}

fn hash_of(text: &str) -> Result<BlobHash, Fault> {
    let mut hash = BlobHash::default();
    hex::decode_to_slice(text, &mut hash)
        .map_err(|error| Fault::engine(format!("a blob's name: {error}")))?;
    Ok(hash)
}
