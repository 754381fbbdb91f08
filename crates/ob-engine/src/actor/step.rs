//! One step of an actor: what several inputs made of the session, committed together, then done.

use std::sync::Arc;

use ob_agent::Driver;
use ob_core::EventBody;
use ob_core::EventKind;
use ob_core::Refusal;
use ob_core::TurnNumber;
use ob_core::record::SessionRecord;
use ob_core::record::TurnRecord;
use ob_core::session::Denied;
use ob_core::session::Effect;
use ob_core::session::Input;
use ob_core::session::SessionState;
use ob_core::session::TurnStop;
use ob_core::turn::TurnState;
use ob_crash::CrashPoint;
use ob_crash::reach;
use ob_store::Commit;
use ob_store::StoreError;
use ob_store::Write;
use ob_telemetry::EventsAppended;
use ob_telemetry::SessionEnded;
use ob_telemetry::TurnDone;
use tokio_util::sync::CancellationToken;

use super::Actor;
use super::Command;
use super::RESTART_PAUSE;
use super::STORE_RETRY;
use super::live;
use super::live::SavedDriver;
use crate::family;

/// What a step has gathered so far.
#[derive(Default)]
pub(super) struct Step {
    events: Vec<EventBody>,
    turns: Vec<TurnRecord>,
    /// What they were before, if they were there; the first of a number counts.
    turns_before: Vec<(TurnNumber, Option<TurnRecord>)>,
    session_changed: bool,
    driver_changed: bool,
    start_sandbox: bool,
    end_sandbox: bool,
    ends_children: bool,
}

/// What to go back to if a command's commit is refused, beside the turns: the step has those that it changed.
pub(super) struct Undo {
    record: SessionRecord,
    driver: Option<Vec<u8>>,
    cancelling: bool,
}

// === impl Step ===

impl Step {
    pub(super) fn event(&mut self, event: EventBody) {
        self.events.push(event);
    }

    /// A turn is there that was not.
    pub(super) fn new_turn(&mut self, turn: TurnRecord) {
        self.turns_before.push((turn.number, None));
        self.put_turn(turn);
    }

    fn put_turn(&mut self, turn: TurnRecord) {
        self.session_changed = true;
        self.turns.push(turn);
    }

    /// The record is to be written.
    pub(super) fn session_changed(&mut self) {
        self.session_changed = true;
    }

    pub(super) fn driver_changed(&mut self) {
        self.driver_changed = true;
    }

    pub(super) fn without_effects(&mut self) {
        self.start_sandbox = false;
        self.end_sandbox = false;
    }

    /// True if the sandbox that was there before the step is not there after it.
    pub(super) fn lets_go_of_sandbox(&self) -> bool {
        self.start_sandbox || self.end_sandbox
    }

    fn is_empty(&self) -> bool {
        self.events.is_empty() && self.turns.is_empty() && !self.session_changed && !self.driver_changed
    }
}

// === impl Actor ===

impl Actor {
    /// Puts an input through the machine and gathers what follows.
    pub(super) fn apply(&mut self, step: &mut Step, input: Input) -> Result<(), Denied> {
        let before = self.record.core.state;
        let (core, effects) = self.record.core.clone().step(input)?;
        self.record.core = core;
        let after = self.record.core.state;
        for effect in effects {
            match effect {
                Effect::RecordTurn(number, state) => {
                    let now = self.shared.now();
                    if let Some(turn) = self.turns.get_mut(&number) {
                        step.turns_before.push((number, Some(turn.clone())));
                        if state == TurnState::Running {
                            self.given_again =
                                turn.state == TurnState::Interrupted && self.undelivered != Some(number);
                        }
                        turn.state = state;
                        if state.is_over() {
                            turn.ended_at = Some(now);
                            turn.stop = match input {
                                Input::TurnStopped(stop) => Some(stop),
                                Input::Fail => Some(TurnStop::Error),
                                _ => Some(TurnStop::Cancelled),
                            };
                        }
                        step.put_turn(turn.clone());
                        if state.is_over() {
                            TurnDone {
                                session: &self.record.id,
                                turn: number,
                                state,
                                took: now.since(turn.created_at),
                            }
                            .emit(&self.shared.metrics);
                            self.turns.remove(&number);
                        }
                    }
                }
                Effect::Prompt(number) => self.prompt(step, number),
                Effect::CancelPrompt(_) => {
                    self.cancelling = true;
                    if let Some(driver) = &mut self.driver {
                        let outputs = driver.cancel();
                        step.driver_changed();
                        self.take(step, outputs);
                    }
                }
                Effect::StartSandbox => step.start_sandbox = true,
                Effect::EndSandbox => step.end_sandbox = true,
            }
        }
        if before != after {
            step.session_changed = true;
            step.ends_children |= after.takes_no_children() && !before.takes_no_children();
            self.record.updated_at = self.shared.now();
            step.event(status_event(&self.record));
            if after.is_over() {
                SessionEnded {
                    session: &self.record.id,
                    project: self.record.project,
                    status: after.status(),
                    lived: self.record.updated_at.since(self.record.created_at),
                }
                .emit(&self.shared.metrics);
            }
        }
        if after == SessionState::Idle && self.record.end_when_idle && before != SessionState::Idle {
            self.record.reason = Some(match input {
                Input::TurnStopped(TurnStop::EndTurn) => "the task is done".to_owned(),
                Input::TurnStopped(stop) => format!("the last turn stopped: {}", stop.as_str()),
                _ => "nothing is left to do".to_owned(),
            });
            self.apply(step, Input::End)?;
        }
        Ok(())
    }

    /// As [`Actor::apply`], for inputs that come from below: one that comes too late is no fault.
    pub(super) fn input_into(&mut self, step: &mut Step, input: Input) {
        if let Err(denied) = self.apply(step, input) {
            tracing::debug!(session = %self.record.id, %denied, "an input came too late");
        }
    }

    /// One input, durable and done.
    pub(super) async fn input(&mut self, input: Input) {
        let mut step = Step::default();
        self.input_into(&mut step, input);
        self.commit(step).await;
    }

    /// One input that a person asked for: refused as a whole if it cannot be made durable.
    pub(super) async fn try_input(&mut self, input: Input, event: Option<EventBody>) -> Result<(), Refusal> {
        let undo = self.checkpoint();
        let mut step = Step::default();
        if let Some(event) = event {
            step.event(event);
        }
        if let Err(denied) = self.apply(&mut step, input) {
            self.undo(undo, &step);
            return Err(Refusal::conflict(denied.to_string()).fix("see `oubliette session get`"));
        }
        self.commit_or_undo(step, undo).await
    }

    pub(super) fn prompt(&mut self, step: &mut Step, number: TurnNumber) {
        let Some(turn) = self.turns.get(&number) else { return };
        // An agent that did not stop when it was told is about to be replaced.
        let Some(driver) = self.driver.as_mut().filter(|driver| driver.active().is_none()) else {
            self.undelivered = Some(number);
            return;
        };
        self.undelivered = None;
        let resumed = self.live.as_ref().is_some_and(|live| live.resumed);
        let text = match (self.given_again, resumed) {
            (false, _) => turn.prompt.clone(),
            // The agent remembers what it read, and nobody knows whether it came to read this.
            (true, true) => format!(
                "{}\n\n(You may have begun this task already, see above, and were interrupted: the sandbox was started \
                 again. Look at the state of the workspace, then go on and finish the task.)",
                turn.prompt
            ),
            (true, false) => format!(
                "{}\n\n(You began this task before and were interrupted: the sandbox was lost and started again. The \
                 workspace holds what you had done so far; look at it first.)",
                turn.prompt
            ),
        };
        let outputs = driver.prompt(number, &text);
        step.driver_changed();
        self.take(step, outputs);
    }

    pub(super) fn checkpoint(&self) -> Undo {
        Undo {
            record: self.record.clone(),
            driver: self.driver.as_ref().map(Driver::save),
            cancelling: self.cancelling,
        }
    }

    pub(super) fn undo(&mut self, undo: Undo, step: &Step) {
        self.record = undo.record;
        for (number, before) in step.turns_before.iter().rev() {
            match before {
                Some(turn) => drop(self.turns.insert(*number, turn.clone())),
                None => drop(self.turns.remove(number)),
            }
        }
        self.driver = undo.driver.and_then(|saved| Driver::restore(&saved).ok());
        self.cancelling = undo.cancelling;
    }

    /// Makes the step durable, trying for as long as it takes, then does what follows from it.
    pub(super) async fn commit(&mut self, step: Step) {
        let mut warned = false;
        loop {
            match self.commit_once(&step).await {
                Ok(()) => break,
                Err(error @ (StoreError::Fenced { .. } | StoreError::Closed)) => {
                    tracing::warn!(session = %self.record.id, %error, "the session is no longer ours");
                    self.dispossessed = true;
                    return;
                }
                Err(error @ StoreError::Missing { .. }) => {
                    tracing::warn!(session = %self.record.id, %error, "the session was deleted; its sandbox goes");
                    self.dispossessed = true;
                    self.unwanted.cancel();
                    let (live, starting) = (self.live.take(), self.starting.take());
                    drop(
                        live::end(Arc::clone(&self.shared), self.record.clone(), live, starting, None).await,
                    );
                    return;
                }
                Err(error) => {
                    if !warned {
                        tracing::error!(session = %self.record.id, %error, "cannot write; the agent waits");
                        warned = true;
                    }
                    self.wait_for_store(&error).await;
                    if self.dispossessed {
                        return;
                    }
                }
            }
        }
        if warned {
            tracing::info!(session = %self.record.id, "can write again");
        }
        self.after(step).await;
    }

    /// As [`Actor::commit`], but one that is refused leaves everything as it was.
    pub(super) async fn commit_or_undo(&mut self, step: Step, undo: Undo) -> Result<(), Refusal> {
        match self.commit_once(&step).await {
            Ok(()) => {
                self.after(step).await;
                Ok(())
            }
            Err(StoreError::Fenced { .. } | StoreError::Closed) => Err(self.lost_ownership()),
            Err(error) => {
                // A deleted session is noticed by the next commit of its own.
                self.undo(undo, &step);
                Err(error.refusal())
            }
        }
    }

    pub(super) async fn commit_once(&mut self, step: &Step) -> Result<(), StoreError> {
        if step.is_empty() {
            return Ok(());
        }
        let mut writes = Vec::with_capacity(step.turns.len() + 3);
        if step.session_changed {
            writes.push(Write::PutSession(Box::new(self.record.clone())));
        }
        writes.extend(step.turns.iter().cloned().map(Write::PutTurn));
        if step.driver_changed
            && let (Some(driver), Some(live)) = (&self.driver, &self.live)
        {
            let state = SavedDriver { process: live.process.clone(), driver: driver.save() }.encode();
            writes.push(Write::PutDriver { session: self.record.id.clone(), state });
        }
        if !step.events.is_empty() {
            writes.push(Write::Append { session: self.record.id.clone(), events: step.events.clone() });
        }
        reach(CrashPoint::StepBefore);
        let count = step.events.len() as u64;
        let committed = self.shared.store.commit(Commit { writes, fence: Some(self.shared.epoch) }).await?;
        reach(CrashPoint::StepCommitted);
        if let Some(first) = committed.first_index.first() {
            self.first_index = *first;
            EventsAppended { count }.emit(&self.shared.metrics);
        }
        Ok(())
    }

    /// Does what follows from a step that is durable.
    pub(super) async fn after(&mut self, step: Step) {
        self.after_effects(&step);
        if step.ends_children
            && let Some(actors) = self.place.actors()
        {
            let ending = family::end_children(Arc::clone(&self.shared), actors, self.record.clone());
            self.shared.tracker.spawn(ending);
        }
        reach(CrashPoint::StepEffects);
        if let (Some(driver), Some(live)) = (&self.driver, &mut self.live) {
            live.flush(driver);
            reach(CrashPoint::StepFlushed);
            if step.driver_changed {
                live.acknowledge(driver.stdout_offset());
            }
        }
        reach(CrashPoint::StepDone);
    }

    pub(super) fn after_effects(&mut self, step: &Step) {
        if step.end_sandbox {
            // What a start that is under way, or the sandbox itself, still has to say is no news.
            self.generation += 1;
            self.unwanted.cancel();
            let generation = self.generation;
            self.driver = None;
            self.deadline = None;
            self.starting = Some(live::end(
                Arc::clone(&self.shared),
                self.record.clone(),
                self.live.take(),
                self.starting.take(),
                Some((generation, self.signal.clone())),
            ));
        } else if step.start_sandbox {
            self.starts += 1;
            self.generation += 1;
            self.unwanted = CancellationToken::new();
            self.driver = None;
            self.deadline = None;
            let start = live::Start {
                old: self.live.take(),
                before: self.starting.take(),
                after: RESTART_PAUSE * self.starts.saturating_sub(1),
                unwanted: self.unwanted.clone(),
                generation: self.generation,
                signal: self.signal.clone(),
            };
            self.starting = Some(live::start(Arc::clone(&self.shared), self.record.clone(), start));
        }
    }

    /// The store cannot write: commands are refused, and everything else waits.
    async fn wait_for_store(&mut self, error: &StoreError) {
        let retry = tokio::time::sleep(STORE_RETRY);
        tokio::pin!(retry);
        loop {
            tokio::select! {
                () = &mut retry => return,
                command = self.place.inbox.recv() => {
                    let refusal = error.refusal();
                    match command {
                        Some(Command::Message { reply, .. }) => { drop(reply.send(Err(refusal))); }
                        Some(Command::Interrupt { reply }) => { drop(reply.send(Err(refusal))); }
                        Some(Command::End { reply, reason }) => {
                            // Killed at once, and ended when the store can write again.
                            self.end_asked = Some(reason);
                            if let Some(live) = &self.live {
                                live.kill();
                            }
                            drop(reply.send(Err(refusal)));
                        }
                        Some(Command::Park { reply, .. }) => {
                            self.dispossessed = true;
                            reply.send(()).ok();
                            return;
                        }
                        None => return,
                    }
                }
            }
        }
    }
}

fn status_event(record: &SessionRecord) -> EventBody {
    let mut event = EventBody::new(EventKind::Status)
        .text(record.core.state.as_str())
        .data(serde_json::json!({ "state": record.core.state.as_str(), "reason": record.reason }));
    event.turn = record.core.active;
    event
}
