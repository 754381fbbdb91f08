//! Questions: what an agent asks a person, until it is told the answer.
//!
//! ```text
//! open -> answered | timed out -> told, and gone from the record
//!   |
//!   v
//! withdrawn, and gone            (its session was interrupted, or is over)
//! ```
//!
//! A question that is not told yet is part of its session's record: it is asked, answered and closed in the commits of the
//! session's actor, whose events keep what became of it.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::Serialize;
use serde_json::json;

use crate::event::EventBody;
use crate::event::EventKind;
use crate::id::QuestionId;
use crate::id::TurnNumber;
use crate::refusal::Refusal;
use crate::time::Timestamp;

/// The most bytes of a question.
pub const QUESTION_MAX: usize = 16 * 1024;
/// The most answers to choose from.
pub const CHOICES_MAX: usize = 20;
/// The most bytes of an answer to choose.
pub const CHOICE_MAX: usize = 200;
/// The most bytes of an answer.
pub const ANSWER_MAX: usize = 64 * 1024;
/// The most questions of a session that are open: whoever has as many shall wait for an answer first.
pub const OPEN_MAX: usize = 8;
/// The most questions in a record, with those that are closed and not told yet.
pub const KEPT_MAX: usize = 2 * OPEN_MAX;
/// For how long a question may be answered if its agent does not say.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(24 * 60 * 60);
/// The least and the most seconds for which a question may be answered.
pub const TIMEOUT_BOUNDS: std::ops::RangeInclusive<u32> = 10..=7 * 24 * 60 * 60;

/// What is asked. The same thing asked again while it is open is the same question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Asked {
    /// The question.
    pub text: String,
    /// If there are any, the answer is one of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<String>,
}

/// A question of a session's agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Question {
    /// Its id in the session.
    pub question_id: QuestionId,
    /// The turn that it was asked in.
    pub turn: TurnNumber,
    /// What is asked.
    pub asked: Asked,
    /// When it was asked.
    pub asked_at: Timestamp,
    /// Until when it may be answered.
    pub expires_at: Timestamp,
    /// What became of it; open if unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
}

/// What became of a question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Outcome {
    /// Somebody answered.
    Answered {
        /// The answer.
        answer: String,
        /// Who.
        by: String,
    },
    /// Nobody answered in time.
    TimedOut,
    /// Its session was interrupted, or is over.
    Withdrawn,
}

// === impl Asked ===

impl Asked {
    /// Refuses what is out of bounds.
    pub fn check(&self) -> Result<(), Refusal> {
        if self.text.trim().is_empty() {
            return Err(Refusal::invalid("the question is empty").fix("say what you want to know"));
        }
        if self.text.len() > QUESTION_MAX {
            return Err(Refusal::invalid(format!("the question has {} bytes", self.text.len()))
                .fix("use at most 16 KiB; put the rest into a file of the workspace and name it"));
        }
        let is_wrong = |choice: &String| choice.trim().is_empty() || choice.len() > CHOICE_MAX;
        if self.choices.len() > CHOICES_MAX || self.choices.iter().any(is_wrong) {
            return Err(Refusal::invalid("the choices are out of bounds")
                .fix("use at most 20, each of 1 to 200 bytes, or none for an answer in any words"));
        }
        Ok(())
    }

    /// Refuses what is no answer to this.
    pub fn check_answer(&self, answer: &str) -> Result<(), Refusal> {
        if answer.trim().is_empty() {
            return Err(Refusal::invalid("the answer is empty").fix("say something"));
        }
        if answer.len() > ANSWER_MAX {
            return Err(Refusal::invalid(format!("the answer has {} bytes", answer.len()))
                .fix("use at most 64 KiB; put the rest into a file of the project"));
        }
        if !self.choices.is_empty() && !self.choices.iter().any(|choice| choice == answer) {
            let choices: Vec<_> = self.choices.iter().map(|choice| format!("`{choice}`")).collect();
            return Err(Refusal::invalid("the answer is none of those to choose from")
                .fix(format!("answer {}", choices.join(" or "))));
        }
        Ok(())
    }
}

// === impl Question ===

impl Question {
    /// True if it may be answered.
    pub const fn is_open(&self) -> bool {
        self.outcome.is_none()
    }

    /// The event that it is asked by.
    pub fn asked_event(&self) -> EventBody {
        EventBody::new(EventKind::Approval).text(&self.asked.text).turn(self.turn).data(json!({
            "question_id": self.question_id, "state": "open", "choices": self.asked.choices,
            "expires_at": self.expires_at,
        }))
    }

    /// The event that it is closed by; nothing if it is open.
    pub fn closed_event(&self) -> Option<EventBody> {
        let (text, data) = match self.outcome.as_ref()? {
            Outcome::Answered { answer, by } => {
                (answer.clone(), json!({ "question_id": self.question_id, "state": "answered", "by": by }))
            }
            Outcome::TimedOut => (
                format!("nobody answered question {} in time", self.question_id),
                json!({ "question_id": self.question_id, "state": "timed_out" }),
            ),
            Outcome::Withdrawn => (
                format!("question {} was withdrawn", self.question_id),
                json!({ "question_id": self.question_id, "state": "withdrawn" }),
            ),
        };
        Some(EventBody::new(EventKind::Approval).text(text).turn(self.turn).data(data))
    }

    /// What the agent is told if the turn that asked is over; nothing if there is nothing to tell.
    pub fn late_message(&self) -> Option<String> {
        let text = &self.asked.text;
        match self.outcome.as_ref()? {
            Outcome::Answered { answer, .. } => Some(format!("You asked: {text}\n\nThe answer: {answer}")),
            Outcome::TimedOut => Some(format!(
                "You asked: {text}\n\nNobody answered in time. Go on as seems best to you, and say what you assumed."
            )),
            Outcome::Withdrawn => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(text: &str, choices: &[&str]) -> Asked {
        Asked { text: text.to_owned(), choices: choices.iter().map(|&choice| choice.to_owned()).collect() }
    }

    fn question(outcome: Option<Outcome>) -> Question {
        Question {
            question_id: QuestionId::default().next(),
            turn: TurnNumber(1),
            asked: asked("Which?", &["a", "b"]),
            asked_at: Timestamp::default(),
            expires_at: Timestamp::default(),
            outcome,
        }
    }

    #[test]
    fn what_is_out_of_bounds_is_refused_and_what_is_at_them_is_not() {
        for wrong in [
            asked(" \n", &[]),
            asked(&"x".repeat(QUESTION_MAX + 1), &[]),
            asked("?", &[""]),
            asked("?", &[&"x".repeat(CHOICE_MAX + 1)]),
            asked("?", &["a"; CHOICES_MAX + 1]),
        ] {
            assert!(wrong.check().is_err_and(|refusal| refusal.fix.is_some()));
        }
        let most = "x".repeat(CHOICE_MAX);
        assert_eq!(asked(&"x".repeat(QUESTION_MAX), &[&most; CHOICES_MAX]).check(), Ok(()));
    }

    #[test]
    fn an_answer_is_one_of_the_choices_if_there_are_any() {
        let chosen = asked("?", &["yes", "no"]);
        assert_eq!(chosen.check_answer("no"), Ok(()));
        let refusal = chosen.check_answer("perhaps").expect_err("none of them");
        assert_eq!(refusal.fix.as_deref(), Some("answer `yes` or `no`"));
        let free = asked("?", &[]);
        assert_eq!(free.check_answer(&"x".repeat(ANSWER_MAX)), Ok(()));
        assert!(free.check_answer(&"x".repeat(ANSWER_MAX + 1)).is_err() && free.check_answer(" ").is_err());
    }

    #[test]
    fn each_outcome_has_its_event_and_all_but_a_withdrawal_are_told_late() {
        let answered = Outcome::Answered { answer: "a".to_owned(), by: "operator".to_owned() };
        let states = [(answered, "answered", true), (Outcome::TimedOut, "timed_out", true)];
        for (outcome, state, is_told) in states.into_iter().chain([(Outcome::Withdrawn, "withdrawn", false)])
        {
            let question = question(Some(outcome));
            let event = question.closed_event().expect("it is closed");
            assert_eq!(event.data.expect("details")["state"], state);
            assert_eq!(question.late_message().is_some(), is_told, "{state}");
            let json = serde_json::to_string(&question).expect("JSON");
            assert_eq!(serde_json::from_str::<Question>(&json).expect("itself"), question);
        }
        let open = question(None);
        assert!(open.is_open() && open.closed_event().is_none() && open.late_message().is_none());
        assert_eq!(open.asked_event().text.as_deref(), Some("Which?"));
    }
}
