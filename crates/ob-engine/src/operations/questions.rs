//! Questions of agents to people, and their calls of tools of their sessions' callers. The session's actor keeps them; here they are asked, waited for and answered.

use std::time::Duration;

use ob_core::Principal;
use ob_core::QuestionId;
use ob_core::Refusal;
use ob_core::RefusalCode;
use ob_core::SessionId;
use ob_core::caller::Caller;
use ob_core::caller::CallerTool;
use ob_core::operation::CallerToolCall;
use ob_core::operation::CallerToolResponse;
use ob_core::operation::SessionAnswer;
use ob_core::operation::SessionAsk;
use ob_core::question::Asked;
use ob_core::question::Outcome;
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
        let asked = Asked::Person { text: params.question, choices: params.choices };
        asked.check()?;
        self.ask(record, |reply| Command::Ask { asked, timeout, reply }).await
    }

    /// A call of a caller's tool, as soon as it is durable.
    pub(super) async fn caller_tool_call(
        &self,
        record: &SessionRecord,
        params: CallerToolCall,
    ) -> Result<Question, Refusal> {
        result_wait(params.wait_ms)?;
        let CallerToolCall { tool, arguments, wait_ms: _ } = params;
        let found = record.callers.iter().find_map(|caller| caller.tool(&tool));
        let declared = found.ok_or_else(|| {
            let shown: String = tool.chars().take(80).collect();
            Refusal::not_found("tool", shown).fix("list them with the method `tools/list`")
        })?;
        let timeout = Duration::from_secs(declared.timeout_s.into());
        let asked = Asked::CallerTool { tool, arguments };
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
        let is_to_person = |known: &Question| matches!(known.asked, Asked::Person { .. });
        if record.questions.iter().any(|known| Some(known.question_id) == question && !is_to_person(known)) {
            return Err(Refusal::invalid("that is no question to a person, but a call of a caller's tool")
                .fix("answer it with `caller_tool_response`"));
        }
        let outcome = Outcome::Answered { answer: answer.into(), by: principal.to_string() };
        self.ask(record, |reply| Command::Answer { question, outcome, reply }).await
    }

    /// `caller_tool_response`.
    pub(super) async fn caller_tool_response(
        &self,
        record: &SessionRecord,
        params: CallerToolResponse,
        principal: &Principal,
    ) -> Result<Question, Refusal> {
        let CallerToolResponse { session_id: _, request_id, result, error } = params;
        let is_call = |known: &Question| matches!(known.asked, Asked::CallerTool { .. });
        if record.questions.iter().any(|known| known.question_id == request_id && !is_call(known)) {
            return Err(
                Refusal::not_found("request", request_id).fix("answer questions with `session answer`")
            );
        }
        let by = principal.to_string();
        let outcome = match (result, error) {
            (Some(_), Some(_)) => {
                return Err(Refusal::invalid("both `result` and `error` were given").fix("give one of them"));
            }
            (_, Some(error)) => Outcome::Failed { error, by },
            (result, None) => Outcome::Answered { answer: result.unwrap_or_default(), by },
        };
        self.ask(record, |reply| Command::Answer { question: Some(request_id), outcome, reply }).await
    }
}

/// What whoever asks does for the agent. A session does nothing for others: nobody would tell it of a call.
pub(super) fn declared(
    principal: &Principal,
    caller_id: Option<String>,
    tools: Vec<CallerTool>,
) -> Result<Option<Caller>, Refusal> {
    if matches!(principal, Principal::Session { .. }) && !tools.is_empty() {
        return Err(Refusal::new(RefusalCode::Forbidden, "a session has no tools for others")
            .fix("leave `caller_tools` out"));
    }
    Caller::declared(caller_id, tools)
}
