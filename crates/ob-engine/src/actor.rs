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

mod live;
mod step;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ob_agent::Driver;
use ob_agent::DriverOptions;
use ob_agent::Output;
use ob_core::EventBody;
use ob_core::EventKind;
use ob_core::Refusal;
use ob_core::TurnNumber;
use ob_core::event::Role;
use ob_core::link::WORKSPACE_DIR;
use ob_core::record::SessionRecord;
use ob_core::record::TurnRecord;
use ob_core::session::Input;
use ob_core::session::SessionState;
use ob_core::turn::TurnState;
use ob_store::StoreError;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::Shared;
use live::Live;
use live::SavedDriver;
use step::Step;

/// Operations that wait for one session. More than a few at once is a mistake of the caller, which then waits.
const COMMANDS: usize = 16;
/// Chunks of output that wait for their commit. Each has up to 64 KiB; the guest holds back the rest.
const SIGNALS: usize = 32;
/// The most signals in one commit.
const BATCH: usize = 64;
/// The agent answers the handshake within this, or is of no use.
const HANDSHAKE: Duration = Duration::from_secs(60);
/// An agent that was told to stop a turn does so within this, or is ended.
const CANCEL_GRACE: Duration = Duration::from_secs(20);
/// An agent that exited has its last output read within this.
const EXIT_GRACE: Duration = Duration::from_secs(2);
/// Starts in a row without a finished turn before the session fails.
const MAX_STARTS: u32 = 3;
/// A sandbox that was lost comes again after this, and that long more for each further loss.
const RESTART_PAUSE: Duration = Duration::from_millis(250);
/// While the store cannot write, it is tried again after this.
const STORE_RETRY: Duration = Duration::from_millis(500);

/// What an operation asks of a session.
pub(crate) enum Command {
    /// Another turn.
    Message {
        /// The task.
        text: String,
        /// The turn it became, and the number of the newest event before it.
        reply: oneshot::Sender<Result<(TurnNumber, i64), Refusal>>,
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
    AdoptFailed(String),
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
    /// The sandbox is gone, as it was told.
    Released,
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
    record: SessionRecord,
    /// Turns that are not over.
    turns: BTreeMap<TurnNumber, TurnRecord>,
    commands: mpsc::Receiver<Command>,
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
}

// === impl Actor ===

impl Actor {
    /// An actor for this session, and where to send it commands.
    pub(crate) fn new(
        shared: Arc<Shared>,
        record: SessionRecord,
        turns: Vec<TurnRecord>,
    ) -> (Self, mpsc::Sender<Command>) {
        let (command, commands) = mpsc::channel(COMMANDS);
        let (signal, signals) = mpsc::channel(SIGNALS);
        let turns =
            turns.into_iter().filter(|turn| !turn.state.is_over()).map(|turn| (turn.number, turn)).collect();
        let actor = Self {
            shared,
            record,
            turns,
            commands,
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
            first_index: 0,
            dispossessed: false,
        };
        (actor, command)
    }

    /// Drives the session until it is over, parked or taken by another server.
    pub(crate) async fn run(mut self, begin: Begin) {
        match begin {
            Begin::Fresh => self.input(Input::Start).await,
            Begin::Recover => self.recover().await,
        }
        while !self.is_done() {
            if let Some(reason) = self.end_asked.take() {
                self.end(reason, None).await;
                continue;
            }
            let deadline = self.deadline;
            // The deadline comes before the signals: an agent that never stops talking must not hold it up.
            tokio::select! {
                biased;
                command = self.commands.recv() => match command {
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
                signal = self.signals.recv() => {
                    if let Some(signal) = signal {
                        self.on_signals(signal).await;
                    }
                }
            }
        }
        if self.dispossessed
            && let Some(starting) = self.starting.take()
        {
            // What it would make belongs to nobody; what it made already ends by its lease, or by its new owner.
            self.unwanted.cancel();
            starting.abort();
        }
    }

    fn is_done(&self) -> bool {
        self.dispossessed
            || (self.record.core.state.is_over() && self.live.is_none() && self.starting.is_none())
    }

    // --- commands ---

    async fn on_command(&mut self, command: Command) {
        match command {
            Command::Message { text, reply } => {
                let outcome = self.message(text).await;
                drop(reply.send(outcome));
            }
            Command::Interrupt { reply } => {
                let outcome = self.try_input(Input::Interrupt, None).await;
                if outcome.is_ok() && self.driver.as_ref().is_some_and(|driver| driver.active().is_some()) {
                    self.expect_stop();
                }
                drop(reply.send(outcome));
            }
            Command::End { reason, reply } => {
                self.end(reason, Some(reply)).await;
            }
            Command::Park { .. } => unreachable!("handled by the loop, which it ends"),
        }
    }

    async fn message(&mut self, text: String) -> Result<(TurnNumber, i64), Refusal> {
        if self.record.core.state == SessionState::Ending || self.record.core.state.is_over() {
            return Err(self.over());
        }
        let number = self.record.last_turn.next();
        let turn = TurnRecord {
            session: self.record.id.clone(),
            number,
            prompt: text.clone(),
            state: TurnState::Queued,
            stop: None,
            created_at: self.shared.now(),
            ended_at: None,
        };
        let undo = self.checkpoint();
        let mut step = Step::default();
        step.event(EventBody::new(EventKind::Message).turn(number).role(Role::User).text(text));
        step.put_turn(turn.clone());
        self.turns.insert(number, turn);
        self.record.last_turn = number;
        if let Err(denied) = self.apply(&mut step, Input::Message(number)) {
            self.undo(undo);
            return Err(Refusal::conflict(denied.to_string()).fix("see `oubliette session get`"));
        }
        self.commit_or_undo(step, undo).await?;
        // The gate writes to the same log, so only the commit knows which numbers these events got.
        Ok((number, i64::try_from(self.first_index).unwrap_or(i64::MAX) - 1))
    }

    async fn end(&mut self, reason: String, reply: Option<oneshot::Sender<Result<(), Refusal>>>) {
        let tell = |outcome| {
            if let Some(reply) = reply {
                // Whoever asked may be gone.
                drop(reply.send(outcome));
            }
        };
        if self.record.core.state.is_over() {
            return tell(Ok(()));
        }
        if self.record.core.state != SessionState::Ending {
            self.record.reason = Some(reason);
        }
        let mut step = Step::default();
        self.input_into(&mut step, Input::End);
        match self.commit_once(&step).await {
            Ok(()) => {
                self.after(step).await;
                tell(Ok(()));
            }
            Err(StoreError::Fenced { .. } | StoreError::Closed | StoreError::Missing { .. }) => {
                tell(Err(self.lost_ownership()));
            }
            // A session can always be killed: the sandbox goes first, and the record follows when the store can write.
            Err(error) => {
                self.after_effects(&step);
                step.without_effects();
                tell(Err(error.refusal()));
                self.commit(step).await;
            }
        }
    }

    /// The agent was told to stop its turn.
    fn expect_stop(&mut self) {
        self.deadline = Some((Instant::now() + CANCEL_GRACE, Deadline::Cancel));
    }

    /// What this deadline waited for has happened; any other goes on.
    fn met(&mut self, kind: Deadline) {
        if self.deadline.is_some_and(|(_, deadline)| deadline == kind) {
            self.deadline = None;
        }
    }

    fn over(&self) -> Refusal {
        Refusal::conflict(format!("session `{}` is {}", self.record.id, self.record.core.state.as_str()))
            .fix("start another one with `oubliette run`")
    }

    fn lost_ownership(&mut self) -> Refusal {
        self.dispossessed = true;
        Refusal::unavailable("this server no longer owns the session").fix("ask again in a moment")
    }

    // --- signals ---

    async fn on_signals(&mut self, first: Signal) {
        let mut step = Step::default();
        let mut next = Some(first);
        for _ in 0..BATCH {
            let Some(signal) = next.take() else { break };
            self.on_signal(&mut step, signal);
            next = self.signals.try_recv().ok();
        }
        if let Some(signal) = next {
            self.on_signal(&mut step, signal);
        }
        self.commit(step).await;
    }

    fn on_signal(&mut self, step: &mut Step, signal: Signal) {
        // What comes from a sandbox that this very step replaces or ends is as stale as what comes later.
        if signal.generation != self.generation || step.lets_go_of_sandbox() {
            return;
        }
        match signal.what {
            What::Started(live) => self.started(step, *live),
            What::StartFailed { refusal, may_help } => {
                self.starting = None;
                self.fail_or_retry(step, refusal, may_help);
            }
            What::AdoptFailed(reason) => {
                self.starting = None;
                self.lost(step, &reason);
            }
            What::Stdout(bytes) => {
                if let Some(driver) = &mut self.driver {
                    let outputs = driver.receive(&bytes);
                    step.driver_changed();
                    self.take(step, outputs);
                }
            }
            What::StdoutEnd => {
                self.stdout_ended = true;
                self.exited_if_drained(step);
            }
            What::Sent(offset) => {
                if let Some(driver) = &mut self.driver {
                    driver.sent(offset);
                    step.driver_changed();
                }
            }
            What::Exit(exit) => {
                self.exit = Some(exit);
                self.deadline = Some((Instant::now() + EXIT_GRACE, Deadline::Exit));
                self.exited_if_drained(step);
            }
            What::SandboxEnded(reason) => self.lost(step, &reason),
            What::Released => {
                self.starting = None;
                self.live = None;
                self.driver = None;
                self.input_into(step, Input::Released);
            }
        }
    }

    fn started(&mut self, step: &mut Step, mut live: Live) {
        self.starting = None;
        self.exit = None;
        self.stdout_ended = false;
        let adopted = live.adopted.is_some();
        let driver = match &live.adopted {
            Some(saved) => match Driver::restore(&saved.driver) {
                Ok(driver) => driver,
                Err(refusal) => {
                    self.live = Some(live);
                    return self.lost(step, &refusal.to_string());
                }
            },
            None => {
                let resume = live.resume.clone();
                Driver::new(DriverOptions { cwd: WORKSPACE_DIR.to_owned(), resume })
            }
        };
        let waits = matches!(self.record.core.state, SessionState::Starting);
        if waits {
            self.deadline = Some((Instant::now() + HANDSHAKE, Deadline::Handshake));
        }
        step.event(EventBody::system(if adopted { "sandbox found again" } else { "sandbox started" }).data(
            serde_json::json!({
                "backend": self.record.backend,
                "enforcement": live.enforcement,
                "walls": live.walls(),
                "adopted": adopted,
            }),
        ));
        live.attach(&driver, self.generation, &self.signal);
        self.driver = Some(driver);
        self.live = Some(live);
        step.driver_changed();
        if self.cancelling
            && let Some(driver) = &mut self.driver
        {
            let outputs = driver.cancel();
            self.take(step, outputs);
            self.expect_stop();
        }
    }

    /// What came out of the driver, in order.
    fn take(&mut self, step: &mut Step, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Event(event) => step.event(*event),
                Output::Ready { resumed } => {
                    self.met(Deadline::Handshake);
                    if let Some(live) = &mut self.live {
                        live.resumed = resumed;
                    }
                    self.input_into(step, Input::Ready);
                }
                Output::TurnStopped(stop) => {
                    self.starts = 0;
                    self.cancelling = false;
                    self.met(Deadline::Cancel);
                    self.input_into(step, Input::TurnStopped(stop));
                }
                Output::Failed(refusal) => self.agent_failed(step, refusal),
            }
        }
    }

    fn exited_if_drained(&mut self, step: &mut Step) {
        if let Some(exit) = self.exit
            && self.stdout_ended
            && let Some(driver) = &mut self.driver
        {
            let outputs = driver.exited(exit);
            step.driver_changed();
            self.take(step, outputs);
        }
    }

    /// The agent is of no more use: its sandbox goes, and the session starts again if that may help.
    fn agent_failed(&mut self, step: &mut Step, refusal: Refusal) {
        let words = self.live.as_ref().map(Live::last_words).unwrap_or_default();
        let refusal = if words.is_empty() {
            refusal
        } else {
            Refusal { message: format!("{} (its last words: {words})", refusal.message), ..refusal }
        };
        self.fail_or_retry(step, refusal, true);
    }

    fn fail_or_retry(&mut self, step: &mut Step, refusal: Refusal, may_help: bool) {
        if self.record.core.state == SessionState::Ending {
            return self.input_into(step, Input::Lost);
        }
        step.event(EventBody::error(&refusal));
        if may_help && self.starts < MAX_STARTS {
            self.start_again(step);
        } else {
            self.record.reason = Some(refusal.to_string());
            self.input_into(step, Input::Fail);
        }
    }

    /// The sandbox is gone.
    fn lost(&mut self, step: &mut Step, reason: &str) {
        if self.record.core.state == SessionState::Ending {
            self.live = None;
            return self.input_into(step, Input::Lost);
        }
        step.event(EventBody::system(format!("the sandbox is gone: {reason}")));
        if self.starts < MAX_STARTS {
            self.start_again(step);
        } else {
            self.record.reason = Some(format!("the sandbox was lost {MAX_STARTS} times: {reason}"));
            self.input_into(step, Input::Fail);
        }
    }

    /// What is left of the sandbox goes, and another one comes.
    fn start_again(&mut self, step: &mut Step) {
        self.deadline = None;
        // A prompt that is still in our hands is one that the agent has not seen.
        if self
            .driver
            .as_ref()
            .is_some_and(|driver| driver.active().is_some() && !driver.outbox().1.is_empty())
        {
            self.undelivered = self.record.core.active;
        }
        // A turn that a person stopped must not be given again.
        if std::mem::take(&mut self.cancelling) {
            self.input_into(step, Input::TurnStopped(ob_core::session::TurnStop::Cancelled));
        }
        if self.record.core.state != SessionState::Ending {
            self.input_into(step, Input::Lost);
            self.restart(step);
        }
    }

    fn restart(&mut self, step: &mut Step) {
        if self.record.core.state == SessionState::Interrupted {
            self.input_into(step, Input::Start);
        }
    }

    async fn on_deadline(&mut self) {
        let Some((_, deadline)) = self.deadline.take() else { return };
        let mut step = Step::default();
        match deadline {
            Deadline::Handshake => {
                let refusal = Refusal::unavailable(format!(
                    "the agent `{}` did not answer the handshake within {} s",
                    self.record.agent,
                    HANDSHAKE.as_secs()
                ))
                .fix("check that it speaks ACP over stdio");
                self.agent_failed(&mut step, refusal);
            }
            Deadline::Cancel => {
                let refusal = Refusal::unavailable(format!(
                    "the agent did not stop its turn within {} s and was ended",
                    CANCEL_GRACE.as_secs()
                ))
                .fix("nothing to do: the session goes on with another one");
                if let Some(turn) = self.record.core.active {
                    step.event(EventBody::error(&refusal).turn(turn));
                }
                self.cancelling = true;
                self.start_again(&mut step);
            }
            Deadline::Exit => {
                self.stdout_ended = true;
                self.exited_if_drained(&mut step);
            }
        }
        self.commit(step).await;
    }

    // --- beginning and letting go ---

    /// Takes over from an earlier server: finds the sandbox again, or starts anew.
    async fn recover(&mut self) {
        match self.record.core.state {
            SessionState::Created | SessionState::Interrupted => self.input(Input::Start).await,
            state if state.is_over() => {}
            // The end was durable, and what was to be done about it may not have been.
            SessionState::Ending => self.input(Input::End).await,
            _ => {
                let saved = match self.shared.store.driver(&self.record.id).await {
                    Ok(saved) => saved.and_then(|bytes| SavedDriver::decode(&bytes)),
                    Err(error) => {
                        tracing::error!(session = %self.record.id, %error, "cannot read the driver's state");
                        None
                    }
                };
                // Should it not be found again: a turn that a person stopped is not given again.
                self.cancelling = saved
                    .as_ref()
                    .and_then(|saved| Driver::restore(&saved.driver).ok())
                    .is_some_and(|driver| driver.is_cancelling());
                self.generation += 1;
                self.starting = Some(live::adopt(
                    Arc::clone(&self.shared),
                    self.record.clone(),
                    saved,
                    self.generation,
                    self.signal.clone(),
                ));
            }
        }
    }

    /// Lets go of the session because the server stops. Everything is durable already.
    async fn park(&mut self, keep_sandbox: bool) {
        self.unwanted.cancel();
        let mut late = Vec::new();
        if let Some(mut starting) = self.starting.take() {
            // A start that is under way ends in bounded time, and what it made must be known to be ended. Its report may
            // wait behind older ones.
            loop {
                tokio::select! {
                    _ = &mut starting => break,
                    signal = self.signals.recv() => late.extend(signal),
                }
            }
        }
        late.extend(std::iter::from_fn(|| self.signals.try_recv().ok()));
        let mut step = Step::default();
        for signal in late {
            match signal.what {
                What::Started(live) if signal.generation == self.generation => self.live = Some(*live),
                // What the agent said already is kept, so that no work is done twice.
                What::Stdout(_) if !keep_sandbox => self.on_signal(&mut step, signal),
                _ => {}
            }
        }
        if keep_sandbox || self.record.core.state.is_over() {
            return;
        }
        step.event(EventBody::system("the server stops; the session goes on when it is back"));
        self.input_into(&mut step, Input::Lost);
        step.without_effects();
        if let Err(error) = self.commit_once(&step).await {
            tracing::error!(session = %self.record.id, %error, "cannot record that the server stops");
        }
        self.generation += 1;
        let end = live::end(Arc::clone(&self.shared), self.record.clone(), self.live.take(), None, None);
        drop(end.await);
    }
}

async fn sleep_until(deadline: Option<(Instant, Deadline)>) {
    match deadline {
        Some((at, _)) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
