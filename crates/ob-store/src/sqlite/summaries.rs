//! Summaries of sessions that were asked for lately, in memory: what clients ask for most needs no statement.
//!
//! ```text
//! get: kept? ------------------------------------------> answer
//!        no -> announce the read -> statements -> keep, if no commit came between -> answer
//! committed: events -> the next number; session, turn, books -> not kept any more, nor what is being read
//! ```
//!
//! The writer tells of a commit before anyone is answered, so whoever was answered reads what they wrote. If another
//! process wrote, all are forgotten at the next commit, as everything is that the writer remembers.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use ob_core::SessionId;
use ob_core::TreeId;
use ob_core::ledger::Ledger;
use ob_core::record::SessionRecord;

use super::fault::Fault;
use crate::SessionSummary;

/// Sessions that are kept, of some 2 KiB each. Past it all are forgotten, which costs a few reads.
const KEPT: usize = 512;

/// What a transaction changes that summaries are made of, beside the events.
#[derive(Debug, Default)]
pub(crate) struct Changed {
    /// Sessions whose record or turns change.
    pub(crate) sessions: Vec<SessionId>,
    /// Trees whose books change.
    pub(crate) trees: Vec<TreeId>,
}

/// The summaries.
#[derive(Debug, Default)]
pub(crate) struct Summaries {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// With the books as they were when it was read; those that hold are in `books`.
    sessions: HashMap<SessionId, SessionSummary>,
    books: HashMap<TreeId, Ledger>,
    /// Which read of a session is the latest that may be kept. There are no more than threads that read.
    reading: HashMap<SessionId, u64>,
    reads: u64,
}

// === impl Changed ===

impl Changed {
    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        self.sessions.clear();
        self.trees.clear();
    }
}

// === impl Summaries ===

impl Summaries {
    /// The summary, if it is kept.
    pub(crate) fn get(&self, id: &SessionId) -> Option<SessionSummary> {
        let kept = self.lock();
        let summary = kept.sessions.get(id)?;
        let ledger = *kept.books.get(&summary.record.tree)?;
        Some(SessionSummary { ledger, ..summary.clone() })
    }

    /// The record alone, if it is kept.
    pub(crate) fn record(&self, id: &SessionId) -> Option<SessionRecord> {
        self.lock().sessions.get(id).map(|summary| summary.record.clone())
    }

    /// Reads a summary, and keeps it unless a commit may have changed it meanwhile.
    pub(crate) fn read(
        &self,
        id: &SessionId,
        read: impl FnOnce() -> Result<Option<SessionSummary>, Fault>,
    ) -> Result<Option<SessionSummary>, Fault> {
        let ticket = {
            let mut kept = self.lock();
            kept.reads += 1;
            let ticket = kept.reads;
            kept.reading.insert(id.clone(), ticket);
            ticket
        };
        let found = read();
        let mut kept = self.lock();
        if kept.reading.get(id) == Some(&ticket) {
            kept.reading.remove(id);
            if let Ok(Some(summary)) = &found {
                if kept.sessions.len() >= KEPT {
                    kept.sessions.clear();
                    kept.books.clear();
                }
                kept.books.insert(summary.record.tree.clone(), summary.ledger);
                kept.sessions.insert(id.clone(), summary.clone());
            }
        }
        found
    }

    /// To be told of every durable transaction: how far it takes the logs of sessions, what else it changes, and which
    /// sessions are gone.
    pub(crate) fn committed(&self, reached: &[(SessionId, u64)], changed: &Changed, gone: &[SessionId]) {
        let mut kept = self.lock();
        for (session, next) in reached {
            if let Some(summary) = kept.sessions.get_mut(session) {
                summary.next_index = summary.next_index.max(*next);
            }
            kept.reading.remove(session);
        }
        for session in changed.sessions.iter().chain(gone) {
            kept.sessions.remove(session);
            kept.reading.remove(session);
        }
        if !changed.trees.is_empty() {
            for tree in &changed.trees {
                kept.books.remove(tree);
            }
            // Which trees they belong to is not known yet.
            kept.reading.clear();
        }
    }

    /// Forgets all.
    pub(crate) fn clear(&self) {
        let mut kept = self.lock();
        kept.sessions.clear();
        kept.books.clear();
        kept.reading.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
