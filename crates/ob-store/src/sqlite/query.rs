//! Reads. Each is one statement, so it sees one state.

use std::fmt::Display;

use ob_core::Event;
use ob_core::MicroUsd;
use ob_core::ProjectId;
use ob_core::SessionId;
use ob_core::Timestamp;
use ob_core::check_invariant;
use ob_core::event::PAYLOAD_VERSION;
use ob_core::ledger::Amount;
use ob_core::ledger::Ledger;
use ob_core::record::SessionRecord;
use ob_core::record::TurnRecord;
use rusqlite::Connection;
use rusqlite::OptionalExtension as _;
use rusqlite::Params;
use rusqlite::params;
use rusqlite::types::Value;
use serde::de::DeserializeOwned;

use super::blob::BlobHash;
use super::blob::Blobs;
use super::change::Payload;
use super::fault::Fault;
use super::ledger;
use super::record::missing;
use super::record::parse;
use super::tail::Newest;
use crate::OpenCharge;
use crate::SessionFilter;
use crate::SessionSummary;

/// Payload bytes that one call of `events` returns, unless a single event has more.
pub(crate) const EVENTS_BYTES: usize = 4 * 1024 * 1024;

/// The record in the first column of the row that `select` finds.
pub(crate) fn one<T: DeserializeOwned>(
    connection: &Connection,
    select: &'static str,
    parameters: impl Params,
) -> Result<Option<T>, Fault> {
    let json: Option<String> =
        connection.prepare_cached(select)?.query_row(parameters, |row| row.get(0)).optional()?;
    Ok(json.map(|json| serde_json::from_str(&json)).transpose()?)
}

/// The records in the first column of the rows that `select` finds.
pub(crate) fn all<T: DeserializeOwned>(
    connection: &Connection,
    select: &str,
    parameters: impl Params,
) -> Result<Vec<T>, Fault> {
    let mut statement = connection.prepare_cached(select)?;
    let mut rows = statement.query(parameters)?;
    let mut records = Vec::new();
    while let Some(row) = rows.next()? {
        records.push(serde_json::from_str(row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?)?);
    }
    Ok(records)
}

/// The number of the next event of a session.
pub(crate) fn next_index(connection: &Connection, session: &str) -> Result<u64, Fault> {
    let newest: Option<u64> = connection
        .prepare_cached(
            "SELECT (SELECT max(seq) FROM events WHERE session_key = sessions.key) FROM sessions WHERE id = ?1",
        )?
        .query_row([session], |row| row.get(0))
        .optional()?
        .ok_or_else(|| missing("session", session))?;
    Ok(newest.map_or(0, |newest| newest + 1))
}

/// Events from a number on, bounded by count and bytes: older ones from the table, the others as `newest` has them,
/// which must have been read from memory before this is called.
pub(crate) fn events(
    connection: &Connection,
    blobs: &Blobs,
    session: &SessionId,
    (from, limit): (u64, usize),
    newest: Option<Newest>,
) -> Result<Vec<Event>, Fault> {
    let id = session.as_str();
    let from = i64::try_from(from).unwrap_or(i64::MAX);
    let before = newest.as_ref().map_or(i64::MAX, |newest| i64::try_from(newest.first).unwrap_or(i64::MAX));
    let mut page = Page::new(session, limit);
    let mut statement = connection.prepare_cached(
        "SELECT seq, at, version, payload, blob FROM events
         WHERE session_key = (SELECT key FROM sessions WHERE id = ?1) AND seq >= ?2 AND seq < ?3 ORDER BY seq LIMIT ?4",
    )?;
    let mut rows = statement.query(params![id, from, before, i64::try_from(limit).unwrap_or(i64::MAX)])?;
    while let Some(row) = rows.next()? {
        let (index, at, version) = (row.get(0)?, Timestamp::from_micros(row.get(1)?), row.get(2)?);
        let is_taken = match row.get::<_, Option<BlobHash>>(4)? {
            Some(hash) => page.take(index, at, version, &blobs.get(&hash)?)?,
            None => {
                let payload = row.get_ref(3)?.as_bytes().map_err(rusqlite::Error::from)?;
                page.take(index, at, version, payload)?
            }
        };
        if !is_taken {
            return Ok(page.events);
        }
    }
    match newest {
        Some(newest) => page.take_newest(&newest, |hash| blobs.get(hash))?,
        // Nothing yet, or nothing ever?
        None if page.events.is_empty() => drop(next_index(connection, id)?),
        None => {}
    }
    Ok(page.events)
}

/// [`events`] if memory has all that was asked for, and none of it is in a blob.
pub(crate) fn newest_events(session: &SessionId, limit: usize, newest: &Newest) -> Result<Vec<Event>, Fault> {
    let mut page = Page::new(session, limit);
    page.take_newest(newest, |_| Err(Fault::engine("a blob is not in memory")))?;
    Ok(page.events)
}

/// Events of one answer.
struct Page<'a> {
    session: &'a SessionId,
    limit: usize,
    bytes: usize,
    events: Vec<Event>,
}

// === impl Page ===

impl<'a> Page<'a> {
    fn new(session: &'a SessionId, limit: usize) -> Self {
        Self { session, limit, bytes: 0, events: Vec::new() }
    }

    /// Takes the next event; false if the page is full.
    fn take(&mut self, index: u64, at: Timestamp, version: u8, payload: &[u8]) -> Result<bool, Fault> {
        let session = self.session;
        if self.events.len() >= self.limit
            || (!self.events.is_empty() && self.bytes + payload.len() > EVENTS_BYTES)
        {
            return Ok(false);
        }
        if let Some(Event { index: before, .. }) = self.events.last() {
            check_invariant!(
                AcknowledgedMeansKept,
                index == before + 1,
                "{session}: {index} follows {before}"
            );
        }
        if version != PAYLOAD_VERSION {
            return Err(malformed(session, index, format!("its payload has version {version}")));
        }
        self.bytes += payload.len();
        let body = serde_json::from_slice(payload).map_err(|error| malformed(session, index, error))?;
        self.events.push(Event { index, at, body });
        Ok(true)
    }

    fn take_newest(
        &mut self,
        newest: &Newest,
        blob: impl Fn(&BlobHash) -> Result<Vec<u8>, Fault>,
    ) -> Result<(), Fault> {
        for (index, event) in (newest.from..).zip(&newest.events) {
            let is_taken = match &event.payload {
                Payload::Inline(text) => self.take(index, event.at, event.version, text.as_bytes())?,
                Payload::Blob(hash) => self.take(index, event.at, event.version, &blob(hash)?)?,
            };
            if !is_taken {
                break;
            }
        }
        Ok(())
    }
}

fn malformed(session: &SessionId, index: u64, why: impl Display) -> Fault {
    Fault::engine(format!("event {index} of session {session} is malformed: {why}"))
}

/// Sessions by a filter, newest first.
pub(crate) fn sessions(connection: &Connection, filter: &SessionFilter) -> Result<Vec<SessionRecord>, Fault> {
    let mut select = String::from("SELECT record FROM sessions WHERE 1");
    let mut parameters: Vec<Value> = Vec::new();
    if let Some(projects) = &filter.projects {
        select.push_str(
            " AND project_key IN (SELECT key FROM projects WHERE id IN (SELECT value FROM json_each(?)))",
        );
        parameters.push(Value::Text(serde_json::to_string(projects)?));
    }
    if let Some(status) = filter.status {
        // Literally, since an index that covers only active sessions is not considered for a parameter.
        select.push_str(match status {
            ob_core::session::SessionStatus::Active => " AND status = 'active'",
            ob_core::session::SessionStatus::Completed => " AND status = 'completed'",
            ob_core::session::SessionStatus::Failed => " AND status = 'failed'",
        });
    }
    if let Some(tree) = &filter.tree {
        select.push_str(" AND tree_key = (SELECT key FROM trees WHERE id = ?)");
        parameters.push(Value::Text(tree.as_str().to_owned()));
    }
    if let Some(before) = &filter.before {
        let key: i64 = connection
            .prepare_cached("SELECT key FROM sessions WHERE id = ?1")?
            .query_row([before.as_str()], |row| row.get(0))
            .optional()?
            .ok_or_else(|| missing("session", before))?;
        select.push_str(" AND key < ?");
        parameters.push(Value::Integer(key));
    }
    select.push_str(" ORDER BY key DESC LIMIT ?");
    parameters.push(Value::Integer(i64::try_from(filter.limit).unwrap_or(i64::MAX)));
    all(connection, &select, rusqlite::params_from_iter(parameters))
}

/// How many sessions are not over.
pub(crate) fn active_sessions(connection: &Connection) -> Result<u64, Fault> {
    Ok(connection
        .prepare_cached("SELECT count(*) FROM sessions WHERE status = 'active'")?
        .query_row([], |row| row.get(0))?)
}

/// Every project, with how many of its sessions are not over.
pub(crate) fn active_by_project(connection: &Connection) -> Result<Vec<(ProjectId, u64)>, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT projects.id, coalesce(active.sessions, 0) FROM projects LEFT JOIN
           (SELECT project_key, count(*) AS sessions FROM sessions WHERE status = 'active' GROUP BY project_key) AS active
         ON active.project_key = projects.key",
    )?;
    let mut rows = statement.query([])?;
    let mut counts = Vec::new();
    while let Some(row) = rows.next()? {
        counts.push((parse(&row.get::<_, String>(0)?)?, row.get(1)?));
    }
    Ok(counts)
}

/// A session with what is shown of it; `next` is the number of its next event, if that is known already.
pub(crate) fn summary(
    connection: &Connection,
    id: &SessionId,
    next: Option<u64>,
) -> Result<Option<SessionSummary>, Fault> {
    // One transaction, so that all of it is of the same moment.
    let _moment = connection.unchecked_transaction()?;
    let select = "SELECT record FROM sessions WHERE id = ?1";
    let Some(record) = one::<SessionRecord>(connection, select, [id.as_str()])? else { return Ok(None) };
    let next_index = next.map_or_else(|| next_index(connection, id.as_str()), Ok)?;
    let ledger = ledger(connection, record.tree.as_str())?.unwrap_or_default();
    // Nearly always the newest turn or the one before it has one.
    let mut turns = connection.prepare_cached(
        "SELECT turns.record FROM turns JOIN sessions ON sessions.key = session_key
         WHERE sessions.id = ?1 ORDER BY number DESC",
    )?;
    let mut rows = turns.query([id.as_str()])?;
    let mut last_stop = None;
    while let (None, Some(row)) = (&last_stop, rows.next()?) {
        let json = row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?;
        last_stop = serde_json::from_str::<TurnRecord>(json)?.stop;
    }
    Ok(Some(SessionSummary { record, next_index, ledger, last_stop }))
}

/// What a driver saved.
pub(crate) fn driver(connection: &Connection, session: &str) -> Result<Option<Vec<u8>>, Fault> {
    Ok(connection
        .prepare_cached(
            "SELECT drivers.state FROM drivers JOIN sessions ON sessions.key = session_key WHERE sessions.id = ?1",
        )?
        .query_row([session], |row| row.get(0))
        .optional()?)
}

/// The books of a tree.
pub(crate) fn ledger(connection: &Connection, tree: &str) -> Result<Option<Ledger>, Fault> {
    Ok(connection
        .prepare_cached(&format!("SELECT key, {} FROM trees WHERE id = ?1", ledger::COLUMNS))?
        .query_row([tree], ledger::read)
        .optional()?)
}

/// Reservations that no one has settled, oldest first.
pub(crate) fn open_charges(connection: &Connection) -> Result<Vec<OpenCharge>, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT charges.id, trees.id, sessions.id, charges.cost, charges.tokens FROM charges
         JOIN trees ON trees.key = charges.tree_key JOIN sessions ON sessions.key = charges.session_key
         WHERE charges.settled_at IS NULL ORDER BY charges.key",
    )?;
    let mut rows = statement.query([])?;
    let mut charges = Vec::new();
    while let Some(row) = rows.next()? {
        charges.push(OpenCharge {
            charge: parse(&row.get::<_, String>(0)?)?,
            tree: parse(&row.get::<_, String>(1)?)?,
            session: parse(&row.get::<_, String>(2)?)?,
            amount: Amount::new(row.get(4)?, MicroUsd(row.get(3)?)),
        });
    }
    Ok(charges)
}
