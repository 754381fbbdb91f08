//! The session actor: one task that owns one session.
//!
//! ```text
//! commands (operations) ──┐
//!                         ├─> step: pure machine + pure driver ─> one commit ─> effects: sandbox, agent's input, acks
//! signals (sandbox, agent)┘
//! ```
//!
//! Everything a step decides is committed before anything is done about it, and what is done is idempotent, so a
//! crash between the two only means that the next owner does it. The agent's bytes are acknowledged to the guest after
//! the commit that holds what came out of them (invariant 2).

mod commands;
mod handover;
mod live;
mod questions;
mod signals;
mod step;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ob_agent::Driver;
use ob_core::QuestionId;
use ob_core::Refusal;
use ob_core::TurnNumber;
use ob_core::caller::Caller;
use ob_core::question::Asked;
use ob_core::question::Outcome;
use ob_core::question::Question;
use ob_core::record::SessionRecord;
use ob_core::record::TurnRecord;
use ob_core::resource::LimitHit;
use ob_core::session::Input;
use ob_core::session::SessionState;
use ob_crash::CrashPoint;
use ob_crash::reach;
use ob_store::StoreError;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::actors::Place;
use crate::shared::Shared;
use live::Live;
use questions::Waiter;

/// Chunks of output that wait for their commit. Each has up to 64 KiB; the guest holds back the rest.
const SIGNALS: usize = 32;
/// The most signals in one commit.
const BATCH: usize = 64;
/// The agent answers the handshake within this, or is of no use. Some take most of a minute on a busy machine.
const HANDSHAKE: Duration = Duration::from_secs(180);
/// An agent that was told to stop a turn does so within this, or is ended.
const CANCEL_GRACE: Duration = Duration::from_secs(20);
/// An agent that exited has its last output read within this.
const EXIT_GRACE: Duration = Duration::from_secs(2);
/// Starts in a row without a finished turn before the session fails.
const MAX_STARTS: u32 = 3;
/// A sandbox that was lost comes again after this, and that long more for each further loss.
const RESTART_PAUSE: Duration = Duration::from_millis(250);
/// One that sleeps and could not leave its place, since somebody was about to tell it something, tries again after this.
const LEAVE_AGAIN: Duration = Duration::from_secs(1);
/// Requests to stop a turn that wait while its sandbox is being found: one would do, and each has somebody who waits.
const STOPS: usize = 64;
/// While the store cannot write, it is tried again after this.
const STORE_RETRY: Duration = Duration::from_millis(500);

/// What an operation asks of a session.
pub(crate) enum Command {
    /// Another turn.
    Message {
        /// The task.
        text: String,
        /// What whoever gives it does for the agent from now on.
        caller: Option<Caller>,
        /// The turn it became, and the number of the newest event before it.
        reply: oneshot::Sender<Result<(TurnNumber, i64), Refusal>>,
    },
    /// Its agent asks something. The same thing asked again is the same question until it is told what became of it.
    Ask {
        /// What.
        asked: Asked,
        /// For how long it may be answered.
        timeout: Duration,
        /// The question, when it is durable.
        reply: oneshot::Sender<Result<Question, Refusal>>,
    },
    /// Its agent waits for what becomes of a question.
    Await {
        /// Which.
        question: QuestionId,
        /// The question once it is closed. What is sent to somebody who is there counts as told.
        reply: oneshot::Sender<Result<Question, Refusal>>,
    },
    /// Somebody answers.
    Answer {
        /// Which question; the open one to a person if unset and there is only one.
        question: Option<QuestionId>,
        /// What it is answered.
        outcome: Outcome,
        /// The question, when that is durable.
        reply: oneshot::Sender<Result<Question, Refusal>>,
    },
    /// Stop the active turn.
    Interrupt {
        /// When it is durable.
        reply: oneshot::Sender<Result<(), Refusal>>,
    },
    /// End the session.
    End {
        /// Why, for people.
        reason: String,
        /// When it is durable.
        reply: oneshot::Sender<Result<(), Refusal>>,
    },
    /// The server stops.
    Park {
        /// Leave the sandbox running for the next server.
        keep_sandbox: bool,
        /// When the actor has let go.
        reply: oneshot::Sender<()>,
    },
}

/// What the sandbox and the agent in it tell the actor. Each says which start it is of: old ones are no news.
pub(crate) struct Signal {
    generation: u32,
    what: What,
}

enum What {
    /// The sandbox is there and its guest has dialled.
    Started(Box<Live>),
    /// It could not be made.
    StartFailed {
        /// Why.
        refusal: Refusal,
        /// True if another try may help.
        may_help: bool,
    },
    /// An earlier server's sandbox is gone.
    AdoptFailed {
        /// Why.
        reason: String,
        /// The limit that it was ended for, if that is why.
        limit: Option<LimitHit>,
    },
    /// Bytes of the agent's standard output.
    Stdout(bytes::Bytes),
    /// The agent's standard output has ended.
    StdoutEnd,
    /// The agent took input up to this offset.
    Sent(u64),
    /// The agent's process ended.
    Exit(ob_core::link::ExitStatus),
    /// The sandbox ended without having been told to.
    SandboxEnded(String),
    /// The sandbox reached a limit; if that ended it, it is the last that is told of it.
    LimitHit(LimitHit),
    /// The sandbox is gone, as it was told.
    Released,
    /// The model that it waited for answers.
    ModelFound,
}

/// How an actor begins.
pub(crate) enum Begin {
    /// With a new session, or one that has no sandbox: from its state alone.
    Fresh,
    /// With a session that an earlier server drove.
    Recover,
}

/// One session's owner.
pub(crate) struct Actor {
    shared: Arc<Shared>,
    /// Where operations find it.
    place: Place,
    record: SessionRecord,
    /// Turns that are not over.
    turns: BTreeMap<TurnNumber, TurnRecord>,
    signals: mpsc::Receiver<Signal>,
    signal: mpsc::Sender<Signal>,
    generation: u32,
    driver: Option<Driver>,
    live: Option<Live>,
    /// The task that makes, adopts or ends a sandbox.
    starting: Option<tokio::task::JoinHandle<()>>,
    /// Tells a start that is no longer wanted to stop before it makes anything.
    unwanted: CancellationToken,
    /// Starts in a row without a finished turn.
    starts: u32,
    deadline: Option<(Instant, Deadline)>,
    exit: Option<ob_core::link::ExitStatus>,
    stdout_ended: bool,
    /// The turn that is given now was cut off before.
    given_again: bool,
    /// A person stopped the active turn, and the agent has not said yet that it did.
    cancelling: bool,
    /// The active turn, if the agent that was to get it never did.
    undelivered: Option<TurnNumber>,
    /// The session is to end as soon as that can be written.
    end_asked: Option<String>,
    /// The last limit that cost the sandbox a process.
    last_hit: Option<LimitHit>,
    /// Who asked to stop the turn while the sandbox is being found again; at most [`STOPS`].
    stops: Vec<oneshot::Sender<Result<(), Refusal>>>,
    /// Calls of the agent that wait for what becomes of a question.
    waiters: Vec<Waiter>,
    /// Closed questions of the record that a call was told of. Not durable: whether it arrived is known when the turn ends.
    told: Vec<QuestionId>,
    /// The number of the first event of the newest commit.
    first_index: u64,
    /// The session belongs to a later server, or the store is closed.
    dispossessed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deadline {
    Handshake,
    Cancel,
    Exit,
    /// There was nothing to do for long.
    Idle,
}

// === impl Command ===

impl Command {
    /// Tells whoever asks that it cannot be done. Whoever parks a session is told that it is let go of.
    fn refuse(self, refusal: Refusal) {
        // They may be gone.
        match self {
            Self::Message { reply, .. } => drop(reply.send(Err(refusal))),
            Self::Ask { reply, .. } | Self::Await { reply, .. } | Self::Answer { reply, .. } => {
                drop(reply.send(Err(refusal)));
            }
            Self::Interrupt { reply } | Self::End { reply, .. } => drop(reply.send(Err(refusal))),
            Self::Park { reply, .. } => drop(reply.send(())),
        }
    }
}

// === impl Actor ===

impl Actor {
    /// An actor for this session.
    pub(crate) fn new(
        shared: Arc<Shared>,
        place: Place,
        record: SessionRecord,
        turns: Vec<TurnRecord>,
    ) -> Self {
        let (signal, signals) = mpsc::channel(SIGNALS);
        let turns =
            turns.into_iter().filter(|turn| !turn.state.is_over()).map(|turn| (turn.number, turn)).collect();
        Self {
            shared,
            place,
            record,
            turns,
            signals,
            signal,
            generation: 0,
            driver: None,
            live: None,
            starting: None,
            unwanted: CancellationToken::new(),
            starts: 0,
            deadline: None,
            exit: None,
            stdout_ended: false,
            given_again: false,
            cancelling: false,
            undelivered: None,
            end_asked: None,
            last_hit: None,
            stops: Vec::new(),
            waiters: Vec::new(),
            told: Vec::new(),
            first_index: 0,
            dispossessed: false,
        }
    }

    /// Drives the session until it is over, asleep, parked or taken by another server. Whatever is logged meanwhile
    /// bears the session's id.
    pub(crate) fn run(self, begin: Begin) -> impl Future<Output = ()> + Send {
        // Of the highest level, so that no filter lets a line through without it.
        let span = tracing::error_span!("session", id = %self.record.id);
        self.drive(begin).instrument(span)
    }

    async fn drive(mut self, begin: Begin) {
        match begin {
            Begin::Fresh => self.input(Input::Start).await,
            Begin::Recover => self.recover().await,
        }
        while !self.is_done() {
            self.watch_idleness();
            if let Some(reason) = self.end_asked.take() {
                self.end(reason, None).await;
                continue;
            }
            if !self.is_being_found()
                && let Some(reply) = self.stops.pop()
            {
                self.interrupt(reply).await;
                continue;
            }
            let deadline = self.deadline.map(|(at, _)| at);
            let expiry = self.next_expiry();
            // The deadline comes before the signals: an agent that never stops talking must not hold it up.
            tokio::select! {
                biased;
                command = self.place.inbox.recv() => match command {
                    Some(Command::Park { keep_sandbox, reply }) => {
                        self.park(keep_sandbox).await;
                        reply.send(()).ok();
                        return;
                    }
                    Some(command) => self.on_command(command).await,
                    // The engine dropped its handle: it is being torn down without a stop.
                    None => return,
                },
                () = sleep_until(deadline) => self.on_deadline().await,
                () = sleep_until(expiry) => self.expire_questions().await,
                signal = self.signals.recv() => {
                    if let Some(signal) = signal {
                        self.on_signals(signal).await;
                    }
                }
            }
        }
        if self.dispossessed {
            if let Some(starting) = self.starting.take() {
                // What it would make belongs to nobody; what it made already ends by its lease, or by its new owner.
                self.unwanted.cancel();
                starting.abort();
            }
            // If it is a later server's, the whole of this one is told.
            self.shared.still_owns(&self.record.id).await.ok();
        }
    }

    fn is_done(&mut self) -> bool {
        if self.dispossessed {
            return true;
        }
        let state = self.record.core.state;
        let is_out = self.live.is_none() && self.starting.is_none();
        is_out && (state.is_over() || (self.may_leave() && self.place.leave()))
    }

    /// True if it sleeps, and nothing that it asked can come to its time.
    fn may_leave(&self) -> bool {
        self.record.core.state == SessionState::Asleep && !self.record.has_open_question()
    }

    /// Sees to it that a session which has nothing to do falls asleep in time, and that one which sleeps leaves.
    fn watch_idleness(&mut self) {
        let patience = match self.record.core.state {
            SessionState::Idle => Some(self.shared.sandbox.get().idle),
            SessionState::Asleep if self.may_leave() => Some(LEAVE_AGAIN),
            _ => None,
        };
        match (patience, self.deadline) {
            (Some(patience), None) => self.deadline = Some((Instant::now() + patience, Deadline::Idle)),
            (None, Some((_, Deadline::Idle))) => self.deadline = None,
            _ => {}
        }
    }
}

/// Takes a session over from an earlier server, or from its own sleep, and drives it. `turn` limits how many are
/// taken over at once; one that is asked for by an operation waits for its turn here.
pub(crate) async fn take_over(shared: Arc<Shared>, mut place: Place, turn: Option<OwnedSemaphorePermit>) {
    let id = place.session().clone();
    let turn = match turn {
        Some(turn) => turn,
        None => match Arc::clone(&shared.takeovers).acquire_owned().await {
            Ok(turn) => turn,
            Err(_) => return,
        },
    };
    let load = async || {
        shared.store.claim(&id, shared.epoch).await?;
        reach(CrashPoint::SessionClaimed);
        // As its owner left it: until it was ours, it may have changed.
        let Some(record) = shared.store.session(&id).await? else { return Ok(None) };
        let turns = shared.store.turns(&id).await?;
        Ok(Some((record, turns)))
    };
    let loaded = loop {
        match load().await {
            // A session that is to be driven must not wait for somebody to ask for it.
            Err(error @ (StoreError::Full | StoreError::Engine { .. })) => {
                tracing::error!(session = %id, %error, "a session cannot be taken over; trying again");
                if !wait_for_store(&mut place, &error).await {
                    return;
                }
            }
            loaded => break loaded,
        }
    };
    drop(turn);
    match loaded {
        Ok(Some((record, turns))) if !record.core.state.is_over() => {
            tracing::debug!(session = %id, state = record.core.state.as_str(), "session taken over");
            Actor::new(shared, place, record, turns).run(Begin::Recover).await;
        }
        Ok(_) => {}
        // Whoever asked for it learns that it is not driven here.
        Err(error @ (StoreError::Fenced { .. } | StoreError::Closed | StoreError::Missing { .. })) => {
            tracing::info!(session = %id, %error, "a session was not taken over");
            shared.still_owns(&id).await.ok();
        }
        Err(error) => tracing::error!(session = %id, %error, "a session was not taken over"),
    }
}

/// While a session cannot be taken over, whoever asks for it is told why. False if the server lets go of it.
async fn wait_for_store(place: &mut Place, error: &StoreError) -> bool {
    let retry = tokio::time::sleep(STORE_RETRY);
    tokio::pin!(retry);
    loop {
        tokio::select! {
            () = &mut retry => return true,
            command = place.inbox.recv() => match command {
                Some(Command::Park { reply, .. }) => {
                    reply.send(()).ok();
                    return false;
                }
                Some(command) => command.refuse(error.refusal()),
                None => return false,
            }
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
