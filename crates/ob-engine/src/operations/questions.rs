//! Questions of agents to people. The session's actor keeps them; here they are asked, waited for and answered.

use std::time::Duration;

use ob_core::Principal;
use ob_core::QuestionId;
use ob_core::Refusal;
use ob_core::SessionId;
use ob_core::operation::SessionAnswer;
use ob_core::operation::SessionAsk;
use ob_core::question::Asked;
use ob_core::question::Question;
use ob_core::question::TIMEOUT_BOUNDS;
use ob_core::question::TIMEOUT_DEFAULT;
use ob_core::record::SessionRecord;
use serde_json::Value;

use super::answer;
use super::parse;
use super::result::result_wait;
use crate::Engine;
use crate::actor::Command;

/// For how long a call waits if it does not say: most clients give up on a call after a minute.
pub(super) const WAIT_DEFAULT: u32 = 50_000;

// === impl Engine ===

impl Engine {
    /// `ask`: the question, as soon as it is durable.
    pub(super) async fn session_ask(
        &self,
        record: &SessionRecord,
        params: SessionAsk,
    ) -> Result<Question, Refusal> {
        result_wait(params.wait_ms)?;
        let timeout = match params.timeout_s {
            None => TIMEOUT_DEFAULT,
            Some(seconds) if TIMEOUT_BOUNDS.contains(&seconds) => Duration::from_secs(seconds.into()),
            Some(seconds) => {
                return Err(Refusal::invalid(format!("timeout_s {seconds} is out of bounds"))
                    .fix("use 10 to 604800, or leave it out for a day"));
            }
        };
        let asked = Asked { text: params.question, choices: params.choices };
        asked.check()?;
        self.ask(record, |reply| Command::Ask { asked, timeout, reply }).await
    }

    /// The question that was asked, with what became of it within the time.
    pub(super) async fn with_answer(
        &self,
        session: &SessionId,
        asked: Value,
        wait_ms: u32,
    ) -> Result<Value, Refusal> {
        let question: Question = parse(asked)?;
        if question.is_open() && wait_ms == 0 {
            return answer(question);
        }
        let mut stop = self.stop.subscribe();
        // What is closed already is told at once, however short the wait.
        let wait = if question.is_open() { Duration::from_millis(wait_ms.into()) } else { Duration::MAX };
        tokio::select! {
            told = self.told(session, question.question_id) => answer(told?),
            () = tokio::time::sleep(wait) => answer(question),
            _ = stop.wait_for(Option::is_some) => answer(question),
        }
    }

    async fn told(&self, session: &SessionId, question: QuestionId) -> Result<Question, Refusal> {
        let found = self.shared.store.session(session).await.map_err(|error| error.refusal())?;
        let record = found.ok_or_else(|| {
            Refusal::not_found("session", session).fix("it was deleted: there is nothing left to do")
        })?;
        self.ask(&record, |reply| Command::Await { question, reply }).await
    }

    /// `session.answer`.
    pub(super) async fn session_answer(
        &self,
        record: &SessionRecord,
        params: SessionAnswer,
        principal: &Principal,
    ) -> Result<Question, Refusal> {
        let SessionAnswer { session_id: _, question_id: question, answer } = params;
        let by = principal.to_string();
        self.ask(record, |reply| Command::Answer { question, answer, by, reply }).await
    }
}
