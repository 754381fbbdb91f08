//! Applies commits inside the writer's transaction.
//!
//! A refused commit must not hurt its neighbours in the same transaction. Each change checks everything before it
//! writes anything, so a commit of one change needs no savepoint; nor does one of only appends, turns, driver states
//! and known sessions (the hot path), whose every check is made before its first change. Others get a savepoint.
//!
//! What the writer remembers (next numbers, owners, ledgers) is only a copy of what the open transaction would read:
//! after a rollback it is forgotten, and read again when needed.

use std::collections::HashMap;
use std::sync::Arc;

use ob_core::SessionId;
use ob_core::Timestamp;
use ob_core::TreeId;
use ob_core::ledger::Ledger;
use rusqlite::Connection;
use rusqlite::OptionalExtension as _;
use rusqlite::params;

use super::change::Change;
use super::change::EncodedEvent;
use super::change::Prepared;
use super::fault::Fault;
use super::ledger;
use super::record;
use super::summaries::Changed;
use super::summaries::Summaries;
use super::tail::Appended;
use super::tail::Mover;
use super::tail::Tail;
use crate::Committed;
use crate::Epoch;
use crate::StoreError;
use crate::Write;

/// Sessions and trees that the writer remembers, each. Past it all are forgotten, which costs a few look-ups.
const REMEMBERED: usize = 16 * 1024;

/// Events that one transaction purges, so that others do not wait for long.
const PURGE_EVENTS: usize = 2_000;

/// What the writer remembers of a session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SessionHead {
    /// Its key in this file.
    pub(crate) key: i64,
    /// The number of its next event.
    pub(crate) next: u64,
    /// Who owns it, if it was claimed or made by an owner.
    pub(crate) epoch: Option<Epoch>,
}

/// The state of the open transaction beside the connection.
#[derive(Debug, Default)]
pub(crate) struct Applier {
    sessions: HashMap<SessionId, SessionHead>,
    pub(super) trees: HashMap<TreeId, (i64, Ledger)>,
    touched: Vec<SessionId>,
    tail: Arc<Tail>,
    summaries: Arc<Summaries>,
    /// Moves the events of the tail.
    pub(crate) mover: Mover,
    /// The events of this transaction.
    pub(crate) appended: Appended,
    /// What else it changes that clients ask for; it may tell too much after a refusal.
    pub(crate) changed: Changed,
    data_version: Option<i64>,
    /// Sessions that are gone once the transaction is committed.
    pub(crate) gone: Vec<SessionId>,
    /// True if deleted sessions may still have events.
    pub(crate) must_purge: bool,
}

// === impl Applier ===

impl Applier {
    /// Nothing is remembered yet.
    pub(crate) fn new(tail: Arc<Tail>, summaries: Arc<Summaries>) -> Self {
        Self { tail, summaries, ..Self::default() }
    }

    /// To be called first in every transaction: forgets all if another process wrote in the meantime.
    pub(crate) fn begin(&mut self, connection: &Connection) -> Result<(), Fault> {
        let version: i64 =
            connection.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))?;
        if self.data_version.replace(version) != Some(version) {
            self.forget();
            self.tail.load(connection)?;
            self.mover.reset(connection)?;
        }
        if self.sessions.len() > REMEMBERED {
            self.sessions.clear();
        }
        if self.trees.len() > REMEMBERED {
            self.trees.clear();
        }
        self.forget_transaction();
        Ok(())
    }

    /// To be called after a transaction was rolled back.
    pub(crate) fn forget(&mut self) {
        self.sessions.clear();
        self.trees.clear();
        self.summaries.clear();
        self.forget_transaction();
    }

    fn forget_transaction(&mut self) {
        self.gone.clear();
        self.appended.clear();
        self.changed.clear();
    }

    /// Applies one commit; if it is refused, the transaction is as it was before.
    pub(crate) fn commit(
        &mut self,
        connection: &Connection,
        commit: &Prepared,
        at: Timestamp,
    ) -> Result<Committed, Fault> {
        if !self.needs_savepoint(connection, commit)? {
            return self.changes(connection, commit, at);
        }
        let (appended, gone, must_purge) = (self.appended.len(), self.gone.len(), self.must_purge);
        self.touched.clear();
        connection.prepare_cached("SAVEPOINT one_commit")?.execute([])?;
        let outcome = self.changes(connection, commit, at);
        if let Err(Fault::Refused(_)) = &outcome {
            connection.prepare_cached("ROLLBACK TO one_commit")?.execute([])?;
            for session in self.touched.drain(..) {
                self.sessions.remove(&session);
            }
            self.trees.clear();
            self.appended.truncate(appended);
            self.gone.truncate(gone);
            self.must_purge = must_purge;
        }
        connection.prepare_cached("RELEASE one_commit")?.execute([])?;
        outcome
    }

    /// False if the commit cannot be refused half way; refuses it here if that is known already.
    fn needs_savepoint(&mut self, connection: &Connection, commit: &Prepared) -> Result<bool, Fault> {
        if commit.changes.len() <= 1 {
            return Ok(false);
        }
        for change in &commit.changes {
            let session = match change {
                Change::Append { session, .. } | Change::PutDriver { session, .. } => session,
                Change::PutTurn(record, _) => &record.session,
                Change::PutSession(record, _) => &record.id,
                Change::PutWorkspace(..) | Change::Plain(_) => return Ok(true),
            };
            match self.writable(connection, session, commit.fence) {
                Ok(_) => {}
                // It may be made by an earlier change of this commit.
                Err(Fault::Refused(StoreError::Missing { .. })) => return Ok(true),
                Err(fault) => return Err(fault),
            }
        }
        Ok(false)
    }

    fn changes(
        &mut self,
        connection: &Connection,
        commit: &Prepared,
        at: Timestamp,
    ) -> Result<Committed, Fault> {
        let mut committed = Committed { at, first_index: Vec::new() };
        for change in &commit.changes {
            match change {
                Change::Append { session, events } => {
                    let first = self.append(connection, session, events, commit.fence)?;
                    committed.first_index.push(first);
                }
                Change::PutSession(record, json) => {
                    self.changed.sessions.push(record.id.clone());
                    match self.writable(connection, &record.id, commit.fence) {
                        Ok(head) => record::update_session(connection, head.key, record, json)?,
                        Err(Fault::Refused(StoreError::Missing { .. })) => {
                            let key =
                                record::insert_session(connection, self, record, json, commit.fence, at)?;
                            let head = SessionHead { key, next: 0, epoch: commit.fence };
                            self.touched.push(record.id.clone());
                            self.sessions.insert(record.id.clone(), head);
                        }
                        Err(fault) => return Err(fault),
                    }
                }
                Change::PutTurn(record, json) => {
                    let head = self.writable(connection, &record.session, commit.fence)?;
                    record::put_turn(connection, head.key, record, json)?;
                    self.changed.sessions.push(record.session.clone());
                }
                Change::PutDriver { session, state } => {
                    let head = self.writable(connection, session, commit.fence)?;
                    record::put_driver(connection, head.key, state)?;
                }
                Change::PutWorkspace(record, json) => record::put_workspace(connection, record, json)?,
                Change::Plain(write) => self.plain(connection, write, commit.fence, at)?,
            }
        }
        Ok(committed)
    }

    fn plain(
        &mut self,
        connection: &Connection,
        write: &Write,
        fence: Option<Epoch>,
        at: Timestamp,
    ) -> Result<(), Fault> {
        match write {
            Write::PutProject(project) => record::put_project(connection, project),
            Write::DeleteProject(project) => {
                let gone = record::delete_project(connection, self, *project, at)?;
                for session in &gone {
                    self.touched.push(session.clone());
                    self.sessions.remove(session);
                }
                self.must_purge |= !gone.is_empty();
                self.gone.extend(gone);
                Ok(())
            }
            Write::DeleteWorkspace(workspace) => record::delete_workspace(connection, *workspace),
            Write::PutTree { tree, limits } => ledger::put_tree(connection, self, tree, *limits, at),
            Write::Reserve { charge, tree, session, amount } => {
                let head = self.writable(connection, session, fence)?;
                ledger::reserve(connection, self, (*charge, tree, head.key), *amount, at)
            }
            Write::Settle { charge, used } => ledger::settle(connection, self, *charge, *used, at),
            // These are encoded before they come here.
            Write::Append { .. }
            | Write::PutSession(_)
            | Write::PutTurn(_)
            | Write::PutDriver { .. }
            | Write::PutWorkspace(_) => Err(Fault::engine("a write that was not encoded")),
        }
    }

    fn append(
        &mut self,
        connection: &Connection,
        session: &SessionId,
        events: &[EncodedEvent],
        fence: Option<Epoch>,
    ) -> Result<u64, Fault> {
        let head = self.writable(connection, session, fence)?;
        if !events.is_empty() {
            self.appended.push(session, head.key, head.next, events);
            self.touched.push(session.clone());
        }
        if let Some(head) = self.sessions.get_mut(session) {
            head.next += events.len() as u64;
        }
        Ok(head.next)
    }

    /// The session, if a commit with this fence may write it.
    fn writable(
        &mut self,
        connection: &Connection,
        session: &SessionId,
        fence: Option<Epoch>,
    ) -> Result<SessionHead, Fault> {
        let head = self.head(connection, session)?;
        if head.epoch == fence {
            Ok(head)
        } else {
            Err(StoreError::Fenced { session: session.clone() }.into())
        }
    }

    /// Lets `epoch` own the session from now on.
    pub(crate) fn claim(
        &mut self,
        connection: &Connection,
        session: &SessionId,
        epoch: Epoch,
    ) -> Result<(), Fault> {
        let head = self.head(connection, session)?;
        if head.epoch.is_some_and(|owner| owner > epoch) {
            return Err(StoreError::Fenced { session: session.clone() }.into());
        }
        if head.epoch == Some(epoch) {
            // Asked again, to make sure: nothing is written, and so nothing is flushed.
            return Ok(());
        }
        connection
            .prepare_cached("UPDATE sessions SET epoch = ?2 WHERE key = ?1")?
            .execute(params![head.key, epoch.0])?;
        if let Some(head) = self.sessions.get_mut(session) {
            head.epoch = Some(epoch);
        }
        Ok(())
    }

    fn head(&mut self, connection: &Connection, session: &SessionId) -> Result<SessionHead, Fault> {
        if let Some(head) = self.sessions.get(session) {
            return Ok(*head);
        }
        let newest = self.appended.next(session).or_else(|| self.tail.next(session));
        let head = connection
            .prepare_cached(
                "SELECT key, epoch, (SELECT max(seq) FROM events WHERE session_key = sessions.key)
                 FROM sessions WHERE id = ?1",
            )?
            .query_row([session.as_str()], |row| {
                let moved = row.get::<_, Option<u64>>(2)?.map_or(0, |newest| newest + 1);
                Ok(SessionHead {
                    key: row.get(0)?,
                    epoch: row.get::<_, Option<u64>>(1)?.map(Epoch),
                    next: newest.unwrap_or(moved),
                })
            })
            .optional()?
            .ok_or_else(|| record::missing("session", session))?;
        self.sessions.insert(session.clone(), head);
        Ok(head)
    }

    /// Removes some events of deleted sessions.
    pub(crate) fn purge(&mut self, connection: &Connection) -> Result<(), Fault> {
        let key: Option<i64> = connection
            .prepare_cached("SELECT session_key FROM purges LIMIT 1")?
            .query_row([], |row| row.get(0))
            .optional()?;
        let Some(key) = key else {
            self.must_purge = false;
            return Ok(());
        };
        let removed = connection
            .prepare_cached(
                "DELETE FROM events WHERE session_key = ?1 AND seq <=
                   (SELECT max(seq) FROM
                     (SELECT seq FROM events WHERE session_key = ?1 ORDER BY seq LIMIT ?2))",
            )?
            .execute(params![key, PURGE_EVENTS])?;
        if removed < PURGE_EVENTS {
            connection.prepare_cached("DELETE FROM purges WHERE session_key = ?1")?.execute([key])?;
        }
        Ok(())
    }
}
