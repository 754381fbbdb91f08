//! The one writer: group commit.
//!
//! ```text
//! callers -> bounded queue -> take what is there -> BEGIN IMMEDIATE, apply each, COMMIT -> announcer: ring, answer each
//!                                   ^                                                |
//!                                   +---- move some events of the tail <-------------+
//! ```
//!
//! The announcer is a task of the callers' runtime: waking many of its tasks from there costs a fraction of waking them
//! from this thread, which meanwhile writes the next batch.
//!
//! No timer: a lone caller waits for one flush of the disk, and while that runs the next batch queues. If the
//! transaction fails, everyone in it is told so, nothing is announced, and what the writer remembers is forgotten.

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::thread;

use ob_core::SessionId;
use ob_core::Timestamp;
use ob_crash::CrashPoint;
use ob_crash::reach;
use rusqlite::Connection;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::sync::watch;

use super::apply::Applier;
use super::change::Prepared;
use super::checkpoint;
use super::copies::Copies;
use super::doorbell::Doorbells;
use super::fault::Fault;
use super::reader::Readers;
use super::summaries::Summaries;
use super::tail::Tail;
use crate::Committed;
use crate::Epoch;
use crate::StoreError;

/// Commits of one transaction: with few bytes each, more of them bring no more speed, only later answers.
const BATCH_COMMITS: usize = 2048;

/// Bytes of one transaction, so that a row of large commits is answered piece by piece.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// Durable batches that are not announced yet; the writer waits when there are more.
const UNANNOUNCED: usize = 4;

/// Events that one step moves when nobody waits for a commit any more.
const STEP_OF_ALL: usize = 4096;

/// Whoever wants to know what became of a request.
pub(crate) type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

/// How the store ended: not yet, or what closing it came to.
pub(crate) type Ended = Option<Result<(), String>>;

/// What the writer is asked to do.
#[derive(Debug)]
pub(crate) enum Request {
    /// Apply a commit. The permit is the room in the queue that it takes.
    Commit { commit: Prepared, room: OwnedSemaphorePermit, answer: Answer<Committed> },
    /// A new epoch.
    NewEpoch { answer: Answer<Epoch> },
    /// Let this epoch own the session.
    Claim { session: SessionId, epoch: Epoch, answer: Answer<()> },
    /// Write something.
    Check { answer: Answer<()> },
    /// Finish what is queued and end.
    Close,
}

/// A request that was applied in the open transaction, with what to answer when it is durable.
enum Applied {
    Commit(Answer<Committed>, Result<Committed, StoreError>, OwnedSemaphorePermit),
    Epoch(Answer<Epoch>, Result<Epoch, StoreError>),
    Done(Answer<()>, Result<(), StoreError>),
}

/// What a durable transaction has to tell.
struct Announcement {
    reached: Vec<(SessionId, u64)>,
    gone: Vec<SessionId>,
    applied: Vec<Applied>,
}

/// What the writer's thread owns.
pub(crate) struct Writer {
    pub(crate) connection: Connection,
    pub(crate) database: PathBuf,
    pub(crate) copies: Arc<Copies>,
    pub(crate) requests: mpsc::Receiver<Request>,
    pub(crate) doorbells: Arc<Doorbells>,
    pub(crate) tail: Arc<Tail>,
    pub(crate) summaries: Arc<Summaries>,
    pub(crate) readers: Arc<Readers>,
    pub(crate) ended: watch::Sender<Ended>,
    /// Where the announcer runs.
    pub(crate) runtime: tokio::runtime::Handle,
}

/// The state of the loop.
struct Batches<'a> {
    connection: &'a Connection,
    doorbells: &'a Doorbells,
    tail: &'a Tail,
    summaries: &'a Summaries,
    announcements: mpsc::Sender<Announcement>,
    applier: Applier,
    wal: checkpoint::WalLength,
    copies: &'a Copies,
    checkpoints: std_mpsc::SyncSender<()>,
    newest: Timestamp,
    /// True if moving events failed and no commit has succeeded since.
    is_move_stalled: bool,
}

// === impl Writer ===

impl Writer {
    /// Starts the thread.
    pub(crate) fn start(self) -> Result<(), Fault> {
        thread::Builder::new().name("ob-store-writer".into()).spawn(move || self.run())?;
        Ok(())
    }

    fn run(mut self) {
        // A panic here is a defect of ours; whoever waits is told by its answer channel closing.
        let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| self.work()));
        let outcome = outcome.unwrap_or_else(|_| Err(Fault::engine("the writer panicked")));
        self.requests.close();
        self.readers.stop();
        self.summaries.clear();
        self.doorbells.close_all();
        reach(CrashPoint::CloseBefore);
        // None of us reads any more, so this empties the WAL unless another process does.
        if let Err(fault) = checkpoint::finish(&self.connection, &self.copies) {
            tracing::warn!(?fault, "the WAL could not be emptied at the end; the next start does it");
        }
        reach(CrashPoint::CloseAfter);
        let outcome = outcome.and(self.connection.close().map_err(|(_, error)| Fault::from(error)));
        let outcome = outcome.map_err(|fault| StoreError::from(fault).to_string());
        if let Err(error) = &outcome {
            tracing::error!(error, "closing the store failed");
        }
        self.ended.send_replace(Some(outcome));
    }

    fn work(&mut self) -> Result<(), Fault> {
        let wal = checkpoint::WalLength::watch(&mut self.connection)?;
        let (checkpoints, checkpointer) = checkpoint::start(self.database.clone(), Arc::clone(&self.copies))?;
        let mut applier = Applier::new(Arc::clone(&self.tail), Arc::clone(&self.summaries));
        applier.must_purge = has_purges(&self.connection)?;
        let (announcements, announced) = mpsc::channel(UNANNOUNCED);
        let (all_told, told_all) = oneshot::channel::<()>();
        self.runtime.spawn(announce(announced, Arc::clone(&self.doorbells), all_told));
        let mut batches = Batches {
            connection: &self.connection,
            doorbells: &self.doorbells,
            tail: &self.tail,
            summaries: &self.summaries,
            announcements,
            applier,
            wal,
            copies: &self.copies,
            checkpoints,
            newest: Timestamp::default(),
            is_move_stalled: false,
        };
        let mut taken = Vec::new();
        loop {
            if batches.has_chores() {
                while taken.len() < BATCH_COMMITS
                    && let Ok(request) = self.requests.try_recv()
                {
                    taken.push(request);
                }
                if taken.is_empty() {
                    batches.do_chore()?;
                }
            } else if self.requests.blocking_recv_many(&mut taken, BATCH_COMMITS) == 0 {
                break;
            }
            let mut requests = taken.drain(..).peekable();
            while requests.peek().is_some() {
                let mut bytes = 0;
                let mut batch = Vec::new();
                while bytes < BATCH_BYTES
                    && let Some(request) = requests.next()
                {
                    match request {
                        Request::Close => self.requests.close(),
                        request => {
                            bytes += request.bytes();
                            batch.push(request);
                        }
                    }
                }
                batches.write(batch)?;
            }
            drop(requests);
            if self.requests.is_closed() && self.requests.is_empty() {
                // The rest is purged after the next start.
                batches.applier.must_purge = false;
                batches.move_all()?;
            }
        }
        drop(batches);
        // Told by the channel closing: either the announcer is done, or its runtime is gone.
        told_all.blocking_recv().ok();
        checkpointer.join().map_err(|_| Fault::engine("the checkpointer panicked"))
    }
}

// === impl Request ===

impl Request {
    fn bytes(&self) -> usize {
        match self {
            Self::Commit { commit, .. } => commit.bytes,
            _ => 0,
        }
    }
}

// === impl Batches ===

impl Batches<'_> {
    /// One transaction for all of `batch`. An error means that the connection is of no more use.
    fn write(&mut self, batch: Vec<Request>) -> Result<(), Fault> {
        if batch.is_empty() {
            return Ok(());
        }
        let at = self.now();
        let mut applied = Vec::with_capacity(batch.len());
        let mut batch = batch.into_iter();
        let outcome = self.transaction(|batches| {
            for request in batch.by_ref() {
                applied.push(batches.apply(request, at)?);
                reach(CrashPoint::RequestApplied);
            }
            let Applier { mover, appended, .. } = &batches.applier;
            let written = mover.write(batches.connection, batches.tail, appended, at)?;
            if batches.applier.must_purge {
                batches.applier.purge(batches.connection)?;
            }
            Ok(written)
        });
        match outcome {
            Ok(written) => {
                let appended = std::mem::take(&mut self.applier.appended);
                let gone = std::mem::take(&mut self.applier.gone);
                let (count, reached) = (appended.events(), appended.reached());
                self.applier.mover.written(self.tail, written, appended, at);
                self.tail.forget(&gone);
                self.summaries.committed(&reached, &std::mem::take(&mut self.applier.changed), &gone);
                let announcement = Announcement { reached, gone, applied };
                if let Err(unsent) = self.announcements.blocking_send(announcement) {
                    // The runtime of whoever opened us is gone; others may still wait.
                    unsent.0.tell(self.doorbells);
                }
                self.is_move_stalled = false;
                if self.applier.mover.has_work() {
                    // Twice what came, so that it ends before as many are there again.
                    self.move_some(2 * count)?;
                }
                self.checkpoint_if_long();
            }
            Err(fault) => {
                for one in applied {
                    one.answer(Some(&fault));
                }
                for request in batch {
                    request.fail(&fault);
                }
                if matches!(fault, Fault::Full) {
                    // What is in the WAL may be in the database too: this gives its space back.
                    self.shrink();
                }
            }
        }
        Ok(())
    }

    /// True if there is something to do while nothing is asked for.
    fn has_chores(&self) -> bool {
        self.applier.must_purge || self.can_move()
    }

    fn can_move(&self) -> bool {
        self.applier.mover.has_work() && !self.is_move_stalled
    }

    /// Does a piece of what is to do while nothing is asked for.
    fn do_chore(&mut self) -> Result<(), Fault> {
        if self.can_move() {
            self.move_some(0)?;
            self.checkpoint_if_long();
        } else {
            self.purge();
        }
        Ok(())
    }

    /// Moves some events of the tail to their place. A fault in doing so is only logged: they stay where they are. It
    /// need not be flushed, since after a power failure they are there again.
    fn move_some(&mut self, at_least: usize) -> Result<(), Fault> {
        self.connection.pragma_update(None, "synchronous", "NORMAL")?;
        let outcome = self.transaction(|batches| {
            let step = batches.applier.mover.step(batches.connection, batches.tail, at_least)?;
            reach(CrashPoint::EventsMoved);
            Ok(step)
        });
        self.connection.pragma_update(None, "synchronous", "FULL")?;
        reach(CrashPoint::MoveCommitted);
        match outcome {
            Ok(step) => self.applier.mover.stepped(self.tail, step),
            Err(fault) => {
                tracing::warn!(
                    ?fault,
                    "moving events to their place failed; it is tried again after a commit"
                );
                self.is_move_stalled = true;
            }
        }
        Ok(())
    }

    /// Leaves the tail empty, if that is possible.
    fn move_all(&mut self) -> Result<(), Fault> {
        while !self.tail.is_empty() && !self.is_move_stalled {
            if !self.applier.mover.has_work() {
                self.applier.mover.seal(self.tail);
            }
            self.move_some(STEP_OF_ALL)?;
        }
        Ok(())
    }

    /// Removes some events of deleted sessions while there is nothing else to do. A fault is only logged: they are out of sight already.
    fn purge(&mut self) {
        let outcome = self.transaction(|batches| batches.applier.purge(batches.connection));
        match outcome {
            Ok(()) => self.checkpoint_if_long(),
            Err(fault) => {
                tracing::warn!(
                    ?fault,
                    "purging deleted events failed; it goes on after the next deletion or start"
                );
                self.applier.must_purge = false;
            }
        }
    }

    fn transaction<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, Fault>) -> Result<T, Fault> {
        let outcome = self.begin().and_then(|()| work(self)).and_then(|done| {
            reach(CrashPoint::CommitBefore);
            let committed = self.connection.prepare_cached("COMMIT")?.execute([]);
            committed.map_err(|error| Fault::of(self.connection, error))?;
            reach(CrashPoint::CommitAfter);
            Ok(done)
        });
        if outcome.is_err() {
            self.applier.forget();
            // SQLite has rolled back by itself after some faults.
            if !self.connection.is_autocommit()
                && let Err(error) = self.connection.execute_batch("ROLLBACK")
            {
                tracing::error!(%error, "a failed transaction could not be rolled back");
            }
        }
        outcome
    }

    fn begin(&mut self) -> Result<(), Fault> {
        reach(CrashPoint::TransactionBefore);
        self.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        reach(CrashPoint::TransactionBegun);
        self.applier.begin(self.connection)
    }

    /// Applies one request; an error loses the transaction, and this request is answered here.
    fn apply(&mut self, request: Request, at: Timestamp) -> Result<Applied, Fault> {
        let connection = self.connection;
        match request {
            Request::Commit { commit, room, answer } => {
                match refusal_apart(self.applier.commit(connection, &commit, at)) {
                    Ok(outcome) => Ok(Applied::Commit(answer, outcome, room)),
                    Err(fault) => Err(told(answer, fault)),
                }
            }
            Request::NewEpoch { answer } => match refusal_apart(new_epoch(connection, at)) {
                Ok(outcome) => Ok(Applied::Epoch(answer, outcome)),
                Err(fault) => Err(told(answer, fault)),
            },
            Request::Claim { session, epoch, answer } => {
                match refusal_apart(self.applier.claim(connection, &session, epoch)) {
                    Ok(outcome) => Ok(Applied::Done(answer, outcome)),
                    Err(fault) => Err(told(answer, fault)),
                }
            }
            Request::Check { answer } => match refusal_apart(check(connection, at)) {
                Ok(outcome) => Ok(Applied::Done(answer, outcome)),
                Err(fault) => Err(told(answer, fault)),
            },
            Request::Close => Err(Fault::engine("closing is not a write")),
        }
    }

    /// The time of this batch; never earlier than that of the one before.
    fn now(&mut self) -> Timestamp {
        self.newest = self.newest.max(Timestamp::from_micros(jiff::Timestamp::now().as_microsecond()));
        self.newest
    }

    fn checkpoint_if_long(&mut self) {
        let is_worth_it = self.wal.is_worth_a_checkpoint();
        if self.wal.is_over_the_cap() {
            // One in the background, asked for now, would only be in the way.
            if let Err(fault) =
                checkpoint::restart_apart(self.connection, self.copies, self.wal.is_far_over_the_cap())
            {
                tracing::warn!(?fault, "the WAL could not be started anew");
            }
        } else if is_worth_it {
            // Full means that one is asked for already.
            self.checkpoints.try_send(()).ok();
        }
    }

    fn shrink(&self) {
        if let Err(fault) = checkpoint::truncate(self.connection) {
            tracing::warn!(?fault, "the WAL could not be emptied on a full disk");
        }
    }
}

// === impl Announcement ===

impl Announcement {
    /// Rings first, so that whoever is answered finds the doorbell rung.
    fn tell(self, doorbells: &Doorbells) {
        doorbells.raise_all(&self.reached);
        doorbells.close(&self.gone);
        reach(CrashPoint::DoorbellsRung);
        for one in self.applied {
            one.answer(None);
        }
        reach(CrashPoint::BatchAnswered);
    }
}

/// Tells of durable batches, in their order.
async fn announce(
    mut announcements: mpsc::Receiver<Announcement>,
    doorbells: Arc<Doorbells>,
    all_told: oneshot::Sender<()>,
) {
    while let Some(announcement) = announcements.recv().await {
        announcement.tell(&doorbells);
    }
    drop(all_told);
}

// === impl Applied ===

impl Applied {
    /// Answers; nobody may be listening any more, which is fine.
    fn answer(self, fault: Option<&Fault>) {
        match self {
            Self::Commit(answer, outcome, room) => {
                answer.send(unless(fault, outcome)).ok();
                drop(room);
            }
            Self::Epoch(answer, outcome) => drop(answer.send(unless(fault, outcome))),
            Self::Done(answer, outcome) => drop(answer.send(unless(fault, outcome))),
        }
    }
}

impl Request {
    /// Answers a request that was not come to in a transaction that failed.
    fn fail(self, fault: &Fault) {
        match self {
            Self::Commit { answer, .. } => drop(answer.send(Err(fault.to_error()))),
            Self::NewEpoch { answer } => drop(answer.send(Err(fault.to_error()))),
            Self::Claim { answer, .. } | Self::Check { answer } => drop(answer.send(Err(fault.to_error()))),
            Self::Close => {}
        }
    }
}

fn unless<T>(fault: Option<&Fault>, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
    match fault {
        None => outcome,
        Some(fault) => Err(fault.to_error()),
    }
}

fn refusal_apart<T>(outcome: Result<T, Fault>) -> Result<Result<T, StoreError>, Fault> {
    match outcome {
        Ok(value) => Ok(Ok(value)),
        Err(Fault::Refused(refusal)) => Ok(Err(refusal)),
        Err(fault) => Err(fault),
    }
}

fn told<T>(answer: Answer<T>, fault: Fault) -> Fault {
    answer.send(Err(fault.to_error())).ok();
    fault
}

fn new_epoch(connection: &Connection, at: Timestamp) -> Result<Epoch, Fault> {
    let epoch = connection
        .prepare_cached("INSERT INTO epochs (taken_at) VALUES (?1) RETURNING epoch")?
        .query_row([at.as_micros()], |row| row.get(0))?;
    Ok(Epoch(epoch))
}

fn check(connection: &Connection, at: Timestamp) -> Result<(), Fault> {
    // The time alone could be the same twice, and SQLite writes no page that does not change.
    connection
        .prepare_cached("UPDATE meta SET value = max(value + 1, ?1) WHERE name = 'checked_at'")?
        .execute([at.as_micros()])?;
    Ok(())
}

fn has_purges(connection: &Connection) -> Result<bool, Fault> {
    Ok(connection.query_row("SELECT EXISTS (SELECT 1 FROM purges)", [], |row| row.get(0))?)
}
