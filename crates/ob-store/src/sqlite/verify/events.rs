//! Events: numbered without a gap, readable, and with the blobs that they refer to.

use std::collections::BTreeMap;

use ob_core::EventBody;
use ob_core::EventKind;
use ob_core::event::PAYLOAD_VERSION;
use rusqlite::Connection;
use rusqlite::Row;

use super::Faults;
use super::said;
use crate::sqlite::blob::BlobHash;
use crate::sqlite::blob::Blobs;
use crate::sqlite::fault::Fault;

/// The events that are in their place.
const PLACED: &str = "SELECT session_key, seq, kind, version, payload, blob FROM events";

/// The newest events, which are kept together. Some may be in their place already, and a deleted session's go later.
const NEWEST: &str = "SELECT session, number, kind, version, payload, blob FROM (
  SELECT value ->> 0 AS session, value ->> 1 AS number, value ->> 2 AS kind, value ->> 3 AS version,
         value ->> 4 AS payload, unhex(value ->> 5) AS blob FROM tail, json_each(tail.body))
  WHERE session IN (SELECT key FROM sessions)
    AND NOT EXISTS (SELECT 1 FROM events WHERE session_key = session AND seq = number)";

/// What one rule says.
type Outcome = Result<(String, Faults), Fault>;

/// The rules of numbers, payloads and blobs, in one pass over the log.
pub(super) fn all(connection: &Connection, blobs: &Blobs) -> (Outcome, Outcome, Outcome) {
    let mut pass = Pass::default();
    let numbers = pass.read(connection).and_then(|()| pass.orphans(connection));
    let numbers = numbers.map(|()| {
        (format!("{} events of {} sessions, without a gap", pass.events, pass.sessions), pass.numbers)
    });
    let payloads = Ok((format!("{} events can be read", pass.events), pass.payloads));
    (numbers, payloads, kept(blobs, &pass.referred))
}

/// What is known after the events so far, which come by session and number.
#[derive(Debug, Default)]
struct Pass {
    events: u64,
    sessions: u64,
    numbers: Faults,
    payloads: Faults,
    /// Blobs, each with an event that refers to it.
    referred: BTreeMap<BlobHash, (i64, i64)>,
    last: Option<(i64, i64)>,
}

// === impl Pass ===

impl Pass {
    fn read(&mut self, connection: &Connection) -> Result<(), Fault> {
        // A database of before has no such table yet.
        let has_tail = connection.prepare("SELECT 1 FROM sqlite_schema WHERE name = 'tail'")?.exists([])?;
        let newest = if has_tail { format!("UNION ALL {NEWEST}") } else { String::new() };
        let mut statement = connection.prepare(&format!("{PLACED} {newest} ORDER BY 1, 2"))?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (session, seq): (i64, i64) = (row.get(0)?, row.get(1)?);
            self.events += 1;
            let expected = match self.last {
                Some((before, last)) if before == session => last + 1,
                _ => {
                    self.sessions += 1;
                    // Of a deleted session the oldest events may be purged already.
                    if is_deleted(connection, session)? { seq } else { 0 }
                }
            };
            if seq != expected {
                self.numbers
                    .add(format!("session {}: {seq} where {expected} is due", name(connection, session)?));
            }
            self.last = Some((session, seq));
            if let Err(why) = self.payload(row, session, seq)? {
                self.payloads.add(format!("event {seq} of session {}: {why}", name(connection, session)?));
            }
        }
        Ok(())
    }

    /// Why the event in a row cannot be shown, if so.
    fn payload(&mut self, row: &Row<'_>, session: i64, seq: i64) -> Result<Result<(), String>, Fault> {
        let (kind, version): (u8, u8) = (row.get(2)?, row.get(3)?);
        let blob: Option<BlobHash> = row.get(5)?;
        let inline = row.get_ref(4)?.as_bytes_or_null().map_err(rusqlite::Error::from)?;
        if version != PAYLOAD_VERSION {
            return Ok(Err(format!("its payload has version {version}")));
        }
        let Some(kind) = EventKind::from_stored(kind) else {
            return Ok(Err(format!("kind {kind} is not known")));
        };
        Ok(match (inline, blob) {
            (Some(json), None) => match serde_json::from_slice::<EventBody>(json) {
                Ok(body) if body.kind == kind => Ok(()),
                Ok(body) => Err(format!("it is a {:?} and is filed as a {kind:?}", body.kind)),
                Err(error) => Err(error.to_string()),
            },
            (None, Some(hash)) => {
                self.referred.entry(hash).or_insert((session, seq));
                Ok(())
            }
            (None, None) => Err("it has no payload".to_owned()),
            (Some(_), Some(_)) => Err("it has two payloads".to_owned()),
        })
    }

    /// Events of sessions that are neither there nor being purged.
    fn orphans(&mut self, connection: &Connection) -> Result<(), Fault> {
        let mut statement = connection.prepare(
            "SELECT session_key, count(*) FROM events
             WHERE session_key NOT IN (SELECT key FROM sessions)
               AND session_key NOT IN (SELECT session_key FROM purges) GROUP BY session_key",
        )?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (session, count): (i64, i64) = (row.get(0)?, row.get(1)?);
            self.numbers.add(format!("{count} events of a session (key {session}) that is not there"));
        }
        Ok(())
    }
}

fn is_deleted(connection: &Connection, session: i64) -> Result<bool, Fault> {
    Ok(connection.prepare_cached("SELECT 1 FROM purges WHERE session_key = ?1")?.exists([session])?)
}

/// A session's id, or its key if it has none.
fn name(connection: &Connection, session: i64) -> Result<String, Fault> {
    let mut statement = connection.prepare_cached("SELECT id FROM sessions WHERE key = ?1")?;
    let mut rows = statement.query([session])?;
    match rows.next()? {
        Some(row) => Ok(row.get(0)?),
        None => Ok(format!("(key {session})")),
    }
}

/// Every blob that is referred to is there with the content that its name says, and is an event.
fn kept(blobs: &Blobs, referred: &BTreeMap<BlobHash, (i64, i64)>) -> Outcome {
    let mut faults = Faults::default();
    for (hash, (session, seq)) in referred {
        let content = match blobs.get(hash) {
            Ok(content) => content,
            Err(fault) => {
                faults.add(format!("{} (of event {seq}, session key {session})", said(&fault)));
                continue;
            }
        };
        if let Err(error) = serde_json::from_slice::<EventBody>(&content) {
            faults.add(format!("blob {} is no event: {error}", hex::encode(hash)));
        }
    }
    Ok((format!("{} are there, with the content that their names say", referred.len()), faults))
}
