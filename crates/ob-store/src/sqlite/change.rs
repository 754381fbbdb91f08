//! A commit made ready for the writer: encoded in the caller's task, so that the one writer only binds and inserts.

use std::sync::Arc;

use ob_core::EventBody;
use ob_core::SessionId;
use ob_core::event::INLINE_PAYLOAD_MAX;
use ob_core::record::SessionRecord;
use ob_core::record::TurnRecord;
use ob_core::record::WorkspaceRecord;

use super::blob::BlobHash;
use super::blob::Blobs;
use super::fault::Fault;
use crate::Commit;
use crate::Epoch;
use crate::Write;

/// What a change costs in the queue beside its content, in bytes; a fair guess.
const CHANGE_OVERHEAD: usize = 128;

/// What one commit may hold in memory, in bytes; larger payloads are in blobs and do not count.
pub(crate) const COMMIT_BYTES_MAX: usize = 32 * 1024 * 1024;

/// The content of an event in the form it is kept in.
#[derive(Clone, Debug)]
pub(crate) enum Payload {
    /// In the row.
    Inline(Arc<str>),
    /// In a blob that is durable already.
    Blob(BlobHash),
}

/// An event that waits for its number.
#[derive(Clone, Debug)]
pub(crate) struct EncodedEvent {
    /// The stored number of its kind.
    pub(crate) kind: u8,
    /// Its content.
    pub(crate) payload: Payload,
}

/// A [`Write`] whose large parts are encoded.
#[derive(Debug)]
pub(crate) enum Change {
    /// Adds events.
    Append { session: SessionId, events: Vec<EncodedEvent> },
    /// Makes or replaces a session, with its JSON.
    PutSession(Box<SessionRecord>, String),
    /// Makes or replaces a turn, with its JSON.
    PutTurn(Box<TurnRecord>, String),
    /// Makes or replaces a workspace, with its JSON.
    PutWorkspace(Box<WorkspaceRecord>, String),
    /// Replaces a driver's state.
    PutDriver { session: SessionId, state: Vec<u8> },
    /// What needs no work before.
    Plain(Box<Write>),
}

/// A [`Commit`] that is encoded.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// The changes, in order.
    pub(crate) changes: Vec<Change>,
    /// The epoch that must own the sessions written.
    pub(crate) fence: Option<Epoch>,
    /// About how many bytes it holds.
    pub(crate) bytes: usize,
}

// === impl Payload ===

impl Payload {
    /// How many bytes it takes in a row.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Inline(text) => text.len(),
            Self::Blob(hash) => hash.len(),
        }
    }
}

// === impl Prepared ===

impl Prepared {
    /// Encodes a commit, and writes its blobs, on a thread that may block if there are any.
    pub(crate) async fn new(commit: Commit, blobs: &Blobs) -> Result<Self, Fault> {
        let mut prepared =
            Self { changes: Vec::with_capacity(commit.writes.len()), fence: commit.fence, bytes: 0 };
        for write in commit.writes {
            prepared.bytes += CHANGE_OVERHEAD;
            let change = match write {
                Write::Append { session, events } => {
                    let mut encoded = Vec::with_capacity(events.len());
                    for event in events {
                        let event = encode_event(&event, blobs).await?;
                        prepared.bytes += CHANGE_OVERHEAD;
                        prepared.bytes += event.payload.len();
                        encoded.push(event);
                    }
                    Change::Append { session, events: encoded }
                }
                Write::PutSession(record) => {
                    let json = prepared.json(&record)?;
                    Change::PutSession(record, json)
                }
                Write::PutTurn(record) => {
                    let json = prepared.json(&record)?;
                    Change::PutTurn(Box::new(record), json)
                }
                Write::PutWorkspace(record) => {
                    let json = prepared.json(&record)?;
                    Change::PutWorkspace(Box::new(record), json)
                }
                Write::PutDriver { session, state } => {
                    prepared.bytes += state.len();
                    Change::PutDriver { session, state }
                }
                plain => Change::Plain(Box::new(plain)),
            };
            prepared.changes.push(change);
        }
        if prepared.bytes > COMMIT_BYTES_MAX {
            return Err(Fault::engine(format!(
                "a commit of {} bytes is over the most of {COMMIT_BYTES_MAX}",
                prepared.bytes
            )));
        }
        if let Some(fence) = prepared.fence {
            check_epoch(fence)?;
        }
        Ok(prepared)
    }

    fn json(&mut self, record: &impl serde::Serialize) -> Result<String, Fault> {
        let json = serde_json::to_string(record)?;
        self.bytes += json.len();
        Ok(json)
    }
}

/// Refuses an epoch that no store has given out, before it can hurt a transaction.
pub(crate) fn check_epoch(epoch: Epoch) -> Result<(), Fault> {
    match i64::try_from(epoch.0) {
        Ok(_) => Ok(()),
        Err(_) => Err(Fault::engine(format!("epoch {} was never given out", epoch.0))),
    }
}

async fn encode_event(body: &EventBody, blobs: &Blobs) -> Result<EncodedEvent, Fault> {
    let kind = body.kind.stored();
    let json = serde_json::to_string(body)?;
    if json.len() <= INLINE_PAYLOAD_MAX {
        return Ok(EncodedEvent { kind, payload: Payload::Inline(json.into()) });
    }
    let blobs = blobs.clone();
    let put = tokio::task::spawn_blocking(move || blobs.put(json.as_bytes())).await;
    let hash = put.map_err(|error| Fault::engine(format!("writing a blob failed: {error}")))??;
    Ok(EncodedEvent { kind, payload: Payload::Blob(hash) })
}
