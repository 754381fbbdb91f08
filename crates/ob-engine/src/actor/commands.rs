//! What operations ask of a session.

use ob_core::EventBody;
use ob_core::EventKind;
use ob_core::Refusal;
use ob_core::TurnNumber;
use ob_core::event::Role;
use ob_core::record::TurnRecord;
use ob_core::session::Input;
use ob_core::session::SessionState;
use ob_core::turn::TurnState;
use ob_store::StoreError;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Actor;
use super::CANCEL_GRACE;
use super::Command;
use super::Deadline;
use super::STOPS;
use super::step::Step;

// === impl Actor ===

impl Actor {
    pub(super) async fn on_command(&mut self, command: Command) {
        match command {
            Command::Message { text, reply } => {
                let outcome = self.message(text).await;
                drop(reply.send(outcome));
            }
            Command::Interrupt { reply } if self.is_being_found() && self.stops.len() < STOPS => {
                self.stops.push(reply);
            }
            Command::Interrupt { reply } if self.is_being_found() => {
                let refusal = Refusal::unavailable("many wait for the session to be stopped already");
                drop(reply.send(Err(refusal.fix("wait for its state to change: `oubliette session get`"))));
            }
            Command::Interrupt { reply } => self.interrupt(reply).await,
            Command::End { reason, reply } => {
                self.end(reason, Some(reply)).await;
            }
            Command::Park { .. } => unreachable!("handled by the loop, which it ends"),
        }
    }

    /// True while the sandbox that the session works in is being found again. That the turn is to be stopped is durable
    /// in the driver's state, and there is no driver: who asks for it waits for what is found.
    pub(super) fn is_being_found(&self) -> bool {
        self.record.core.state == SessionState::Running && self.driver.is_none() && self.starting.is_some()
    }

    pub(super) async fn interrupt(&mut self, reply: oneshot::Sender<Result<(), Refusal>>) {
        let outcome = self.try_input(Input::Interrupt, None).await;
        if outcome.is_ok() && self.driver.as_ref().is_some_and(|driver| driver.active().is_some()) {
            self.expect_stop();
        }
        drop(reply.send(outcome));
    }

    pub(super) async fn message(&mut self, text: String) -> Result<(TurnNumber, i64), Refusal> {
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
        step.new_turn(turn.clone());
        self.turns.insert(number, turn);
        self.record.last_turn = number;
        if let Err(denied) = self.apply(&mut step, Input::Message(number)) {
            self.undo(undo, &step);
            return Err(Refusal::conflict(denied.to_string()).fix("see `oubliette session get`"));
        }
        self.commit_or_undo(step, undo).await?;
        // The gate writes to the same log, so only the commit knows which numbers these events got.
        Ok((number, i64::try_from(self.first_index).unwrap_or(i64::MAX) - 1))
    }

    pub(super) async fn end(&mut self, reason: String, reply: Option<oneshot::Sender<Result<(), Refusal>>>) {
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
    pub(super) fn expect_stop(&mut self) {
        self.deadline = Some((Instant::now() + CANCEL_GRACE, Deadline::Cancel));
    }

    /// What this deadline waited for has happened; any other goes on.
    pub(super) fn met(&mut self, kind: Deadline) {
        if self.deadline.is_some_and(|(_, deadline)| deadline == kind) {
            self.deadline = None;
        }
    }

    pub(super) fn over(&self) -> Refusal {
        Refusal::conflict(format!("session `{}` is {}", self.record.id, self.record.core.state.as_str()))
            .fix("start another one with `oubliette run`")
    }

    pub(super) fn lost_ownership(&mut self) -> Refusal {
        self.dispossessed = true;
        Refusal::unavailable("this server no longer owns the session").fix("ask again in a moment")
    }
}
