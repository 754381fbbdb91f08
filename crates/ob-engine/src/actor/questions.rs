//! What the session's agent asks a person or a caller's tool: durable until the agent was told what became of it.
//!
//! The call that asks waits for a while. It may be cut at any moment: its client gives up, the server dies, the sandbox is
//! lost. So a closed question stays in the record until it is told: to a call that waits, to one that asks the same
//! again, or, once the turn that asked is over, by a message of its own. A call that was told is remembered by this server
//! only: a crash before the end of the turn may make it told twice, and never not at all.

use std::time::Duration;

use ob_core::QuestionId;
use ob_core::Refusal;
use ob_core::RefusalCode;
use ob_core::question::Asked;
use ob_core::question::KEPT_MAX;
use ob_core::question::OPEN_MAX;
use ob_core::question::Outcome;
use ob_core::question::Question;
use ob_core::session::Input;
use ob_core::session::SessionState;
use ob_core::session::TurnStop;
use ob_core::session::WaitReason;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Actor;
use super::step::Step;

/// Calls that wait for answers of one session: several may ask the same.
const WAITERS: usize = 32;

/// The longest wait for a question's time before the clock is read again, since clocks are set.
const CLOCK_AGAIN: Duration = Duration::from_secs(60);

/// A call that waits for what becomes of a question.
pub(super) struct Waiter {
    question: QuestionId,
    reply: oneshot::Sender<Result<Question, Refusal>>,
}

// === impl Actor ===

impl Actor {
    pub(super) async fn ask(&mut self, asked: Asked, timeout: Duration) -> Result<Question, Refusal> {
        let state = self.record.core.state;
        if state.takes_no_children() {
            return Err(self.over());
        }
        let closed = self.record.questions.iter().find(|q| !q.is_open() && q.asked == asked).cloned();
        match closed {
            // It has heard that answer, and asks anew.
            Some(closed) if self.told.contains(&closed.question_id) => self.forget(closed.question_id),
            Some(closed) => return Ok(closed),
            None => {}
        }
        let turn = self.record.core.active.unwrap_or(self.record.last_turn);
        let undo = self.checkpoint();
        let mut step = Step::default();
        let open = self.record.questions.iter_mut().find(|q| q.is_open() && q.asked == asked);
        let question = if let Some(again) = open {
            if again.turn != turn {
                // The turn that asks last is the one that is told.
                again.turn = turn;
                step.session_changed();
            }
            again.clone()
        } else {
            if self.record.questions.len() >= KEPT_MAX {
                // An agent that asks so much has gone on.
                self.record.questions.retain(|known| !self.told.contains(&known.question_id));
                self.told.clear();
            }
            if self.record.open_questions().count() >= OPEN_MAX || self.record.questions.len() >= KEPT_MAX {
                let message = format!("{OPEN_MAX} questions of the session wait for their answers");
                return Err(Refusal::new(RefusalCode::LimitExceeded, message)
                    .fix("ask one of them again to wait for its answer, or end your turn"));
            }
            let now = self.shared.now();
            let question_id = self.record.last_question.next();
            self.record.last_question = question_id;
            let expires_at = now.saturating_add(timeout);
            let question = Question { question_id, turn, asked, asked_at: now, expires_at, outcome: None };
            step.event(question.asked_event());
            step.session_changed();
            self.record.questions.push(question.clone());
            question
        };
        if state == SessionState::Running {
            self.input_into(&mut step, Input::Wait(question.asked.wait_reason()));
        }
        self.commit_or_undo(step, undo).await?;
        Ok(question)
    }

    /// Tells what became of a question, now or once it is closed.
    pub(super) fn wait_for_answer(
        &mut self,
        question: QuestionId,
        reply: oneshot::Sender<Result<Question, Refusal>>,
    ) {
        self.waiters.retain(|waiter| !waiter.reply.is_closed());
        let found = self.record.questions.iter().find(|known| known.question_id == question).cloned();
        match found {
            Some(open) if open.is_open() && self.waiters.len() < WAITERS => {
                self.waiters.push(Waiter { question, reply });
            }
            Some(open) if open.is_open() => {
                let refusal = Refusal::unavailable("many calls wait for answers of this session already");
                drop(reply.send(Err(refusal.fix("ask again in a moment"))));
            }
            Some(closed) => {
                if reply.send(Ok(closed)).is_ok() {
                    self.told.push(question);
                }
            }
            None => drop(reply.send(Err(self.not_open(question)))),
        }
    }

    pub(super) async fn answer(
        &mut self,
        question: Option<QuestionId>,
        outcome: Outcome,
    ) -> Result<Question, Refusal> {
        let found = self.to_answer(question)?;
        if found.outcome.as_ref().is_some_and(|given| given.says_the_same_as(&outcome)) {
            // Whoever did not hear that it was taken says it again.
            return Ok(found);
        }
        if !found.is_open() {
            return Err(self.not_open(found.question_id));
        }
        found.asked.check_outcome(&outcome)?;
        let undo = self.checkpoint();
        let mut step = Step::default();
        let closed = self.close(&mut step, found, outcome);
        self.commit_or_undo(step, undo).await?;
        Ok(closed)
    }

    /// When the next question comes to its time, or the clock is to be looked at.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        let next = self.record.open_questions().map(|question| question.expires_at).min()?;
        Some(Instant::now() + next.since(self.shared.now()).min(CLOCK_AGAIN))
    }

    pub(super) async fn expire_questions(&mut self) {
        let now = self.shared.now();
        let due: Vec<_> = self.record.open_questions().filter(|q| q.expires_at <= now).cloned().collect();
        if due.is_empty() {
            return;
        }
        let mut step = Step::default();
        for question in due {
            self.close(&mut step, question, Outcome::TimedOut);
        }
        self.commit(step).await;
    }

    /// What an input of the session does to its questions, before it does anything else.
    pub(super) fn settle_questions(&mut self, step: &mut Step, input: Input) {
        match input {
            Input::Interrupt | Input::End | Input::Fail => {
                self.told.clear();
                for mut question in std::mem::take(&mut self.record.questions) {
                    if question.is_open() {
                        question.outcome = Some(Outcome::Withdrawn);
                        step_closed(step, &question);
                    }
                }
                if input == Input::Interrupt {
                    self.resume(step);
                }
            }
            Input::TurnStopped(stop) => {
                let active = self.record.core.active;
                let (over, rest) = std::mem::take(&mut self.record.questions)
                    .into_iter()
                    .partition(|q: &Question| !q.is_open() && Some(q.turn) == active);
                self.record.questions = rest;
                let told = std::mem::take(&mut self.told);
                // Who stopped the turn wants to hear no more of it.
                let is_news = |q: &&Question| stop != TurnStop::Cancelled && !told.contains(&q.question_id);
                for question in over.iter().filter(is_news) {
                    self.tell_late(step, question);
                }
            }
            _ => {}
        }
    }

    /// Tells the calls that wait for these. Whoever is told by a call is not told again, unless the server dies before the
    /// turn is over: nobody knows then whether the words arrived, so the record keeps them until the turn ends.
    pub(super) fn tell_waiters(&mut self, closed: &[Question]) {
        for question in closed {
            let id = question.question_id;
            let (told, rest) = std::mem::take(&mut self.waiters)
                .into_iter()
                .partition(|waiter: &Waiter| waiter.question == id);
            self.waiters = rest;
            for waiter in told {
                if waiter.reply.send(Ok(question.clone())).is_ok() {
                    self.told.push(id);
                }
            }
        }
    }

    /// Gives an open question its outcome. If the turn that asked is over, nobody asks again, and it is told by a message.
    fn close(&mut self, step: &mut Step, mut question: Question, outcome: Outcome) -> Question {
        question.outcome = Some(outcome);
        step_closed(step, &question);
        if Some(question.turn) == self.record.core.active {
            if let Some(known) =
                self.record.questions.iter_mut().find(|known| known.question_id == question.question_id)
            {
                known.clone_from(&question);
            }
            if !self.record.open_questions().any(|open| open.turn == question.turn) {
                self.resume(step);
            }
        } else {
            self.forget(question.question_id);
            self.tell_late(step, &question);
        }
        question
    }

    fn tell_late(&mut self, step: &mut Step, question: &Question) {
        let Some(message) = question.late_message() else { return };
        if let Err(denied) = self.take_message(step, message) {
            tracing::warn!(session = %self.record.id, question = %question.question_id, %denied, "an answer came too late");
        }
    }

    fn resume(&mut self, step: &mut Step) {
        use WaitReason::Answer;
        use WaitReason::CallerTool;
        if let SessionState::Waiting(Answer | CallerTool) = self.record.core.state {
            self.input_into(step, Input::Resume);
        }
    }

    /// The record that is written next is without it; until then a crash lets it be told again.
    fn forget(&mut self, question: QuestionId) {
        self.told.retain(|known| *known != question);
        self.record.questions.retain(|known| known.question_id != question);
    }

    /// The question that is answered.
    fn to_answer(&self, question: Option<QuestionId>) -> Result<Question, Refusal> {
        if let Some(id) = question {
            let found = self.record.questions.iter().find(|known| known.question_id == id);
            return found.cloned().ok_or_else(|| self.not_open(id));
        }
        let to_person = |question: &&Question| matches!(question.asked, Asked::Person { .. });
        let open: Vec<_> = self.record.open_questions().filter(to_person).collect();
        match open[..] {
            [only] => Ok(only.clone()),
            [] => Err(Refusal::conflict(format!("session `{}` asks nothing now", self.record.id))
                .fix("give it a message: `oubliette session message`")),
            _ => {
                let ids: Vec<_> = open.iter().map(|question| question.question_id.to_string()).collect();
                Err(Refusal::conflict(format!("session `{}` asks {} questions", self.record.id, open.len()))
                    .fix(format!("say which one is answered: {}", ids.join(", "))))
            }
        }
    }

    fn not_open(&self, question: QuestionId) -> Refusal {
        if question <= self.record.last_question && !question.is_none() {
            Refusal::conflict(format!("question `{question}` is not open any more"))
                .fix("see what became of it: `oubliette session events`")
        } else {
            Refusal::not_found("question", question).fix("see what is open: `oubliette session get`")
        }
    }
}

fn step_closed(step: &mut Step, question: &Question) {
    if let Some(event) = question.closed_event() {
        step.event(event);
    }
    step.question_closed(question.clone());
}
