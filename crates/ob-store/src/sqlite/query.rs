//! Reads. Each is one statement, so it sees one state.

use std::fmt::Display;

use ob_core::Event;
use ob_core::MicroUsd;
use ob_core::Timestamp;
use ob_core::check_invariant;
use ob_core::event::PAYLOAD_VERSION;
use ob_core::ledger::Amount;
use ob_core::ledger::Ledger;
use ob_core::record::SessionRecord;
use rusqlite::Connection;
use rusqlite::OptionalExtension as _;
use rusqlite::Params;
use rusqlite::params;
use rusqlite::types::Value;
use serde::de::DeserializeOwned;

use super::blob::BlobHash;
use super::blob::Blobs;
use super::fault::Fault;
use super::ledger;
use super::record::missing;
use super::record::parse;
use crate::OpenCharge;
use crate::SessionFilter;

/// Payload bytes that one call of `events` returns, unless a single event has more.
const EVENTS_BYTES: usize = 4 * 1024 * 1024;

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

/// Events from a number on, bounded by count and bytes.
pub(crate) fn events(
    connection: &Connection,
    blobs: &Blobs,
    session: &str,
    from: u64,
    limit: usize,
) -> Result<Vec<Event>, Fault> {
    let from = i64::try_from(from).unwrap_or(i64::MAX);
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut statement = connection.prepare_cached(
        "SELECT seq, at, version, payload, blob FROM events
         WHERE session_key = (SELECT key FROM sessions WHERE id = ?1) AND seq >= ?2 ORDER BY seq LIMIT ?3",
    )?;
    let mut rows = statement.query(params![session, from, limit])?;
    let (mut events, mut bytes) = (Vec::new(), 0);
    while bytes < EVENTS_BYTES
        && let Some(row) = rows.next()?
    {
        let index: u64 = row.get(0)?;
        if let Some(last) = events.last() {
            let Event { index: before, .. } = last;
            check_invariant!(
                AcknowledgedMeansKept,
                index == before + 1,
                "{session}: {index} follows {before}"
            );
        }
        let version: u8 = row.get(2)?;
        if version != PAYLOAD_VERSION {
            return Err(malformed(session, index, format!("its payload has version {version}")));
        }
        let blob = match row.get::<_, Option<BlobHash>>(4)? {
            Some(hash) => Some(blobs.get(&hash)?),
            None => None,
        };
        let payload = match &blob {
            Some(content) => content.as_slice(),
            None => row.get_ref(3)?.as_bytes().map_err(rusqlite::Error::from)?,
        };
        if !events.is_empty() && bytes + payload.len() > EVENTS_BYTES {
            break;
        }
        bytes += payload.len();
        let body = serde_json::from_slice(payload).map_err(|error| malformed(session, index, error))?;
        events.push(Event { index, at: Timestamp::from_micros(row.get(1)?), body });
    }
    if events.is_empty() {
        // Nothing yet, or nothing ever?
        next_index(connection, session)?;
    }
    Ok(events)
}

fn malformed(session: &str, index: u64, why: impl Display) -> Fault {
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
