//! Questions: what an agent asks a person or its session's caller, until it is told the answer.
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
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::event::EventBody;
use crate::event::EventKind;
use crate::id::QuestionId;
use crate::id::TurnNumber;
use crate::refusal::Refusal;
use crate::session::WaitReason;
use crate::time::Timestamp;

/// The most bytes of a question.
pub const QUESTION_MAX: usize = 16 * 1024;
/// The most answers to choose from.
pub const CHOICES_MAX: usize = 20;
/// The most bytes of an answer to choose.
pub const CHOICE_MAX: usize = 200;
/// The most bytes of the arguments of a caller's tool.
pub const ARGUMENTS_MAX: usize = 32 * 1024;
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
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Asked {
    /// A person, in words.
    Person {
        /// The question.
        text: String,
        /// If there are any, the answer is one of them.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        choices: Vec<String>,
    },
    /// The session's caller, to do something.
    CallerTool {
        /// The tool, as the agent is offered it.
        tool: String,
        /// What it is called with.
        arguments: Map<String, Value>,
    },
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
        /// The answer of a person, or the result of a caller's tool.
        answer: Value,
        /// Who.
        by: String,
    },
    /// The caller could not do it.
    Failed {
        /// Why not.
        error: String,
        /// Who says so.
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
        let (text, choices) = match self {
            Self::Person { text, choices } => (text, choices),
            Self::CallerTool { arguments, .. } => {
                let size = Value::Object(arguments.clone()).to_string().len();
                return if size <= ARGUMENTS_MAX {
                    Ok(())
                } else {
                    Err(Refusal::invalid(format!("the arguments have {size} bytes"))
                        .fix("use at most 32 KiB; put the rest into a file of the workspace and name it"))
                };
            }
        };
        if text.trim().is_empty() {
            return Err(Refusal::invalid("the question is empty").fix("say what you want to know"));
        }
        if text.len() > QUESTION_MAX {
            return Err(Refusal::invalid(format!("the question has {} bytes", text.len()))
                .fix("use at most 16 KiB; put the rest into a file of the workspace and name it"));
        }
        let is_wrong = |choice: &String| choice.trim().is_empty() || choice.len() > CHOICE_MAX;
        if choices.len() > CHOICES_MAX || choices.iter().any(is_wrong) {
            return Err(Refusal::invalid("the choices are out of bounds")
                .fix("use at most 20, each of 1 to 200 bytes, or none for an answer in any words"));
        }
        Ok(())
    }

    /// Refuses what is no answer to this.
    pub fn check_outcome(&self, outcome: &Outcome) -> Result<(), Refusal> {
        let size = match outcome {
            Outcome::Answered { answer: Value::String(answer), .. } => answer.len(),
            Outcome::Answered { answer, .. } => answer.to_string().len(),
            Outcome::Failed { error, .. } => error.len(),
            Outcome::TimedOut | Outcome::Withdrawn => 0,
        };
        if size > ANSWER_MAX {
            return Err(Refusal::invalid(format!("the answer has {size} bytes"))
                .fix("use at most 64 KiB; put the rest into a file of the project"));
        }
        let Self::Person { choices, .. } = self else { return Ok(()) };
        match outcome {
            Outcome::Answered { answer: Value::String(answer), .. } if answer.trim().is_empty() => {
                Err(Refusal::invalid("the answer is empty").fix("say something"))
            }
            Outcome::Answered { answer, .. } if !choices.is_empty() => {
                if choices.iter().any(|choice| answer == choice.as_str()) {
                    return Ok(());
                }
                let choices: Vec<_> = choices.iter().map(|choice| format!("`{choice}`")).collect();
                Err(Refusal::invalid("the answer is none of those to choose from")
                    .fix(format!("answer {}", choices.join(" or "))))
            }
            _ => Ok(()),
        }
    }

    /// What a session waits for that has asked this.
    pub const fn wait_reason(&self) -> WaitReason {
        match self {
            Self::Person { .. } => WaitReason::Answer,
            Self::CallerTool { .. } => WaitReason::CallerTool,
        }
    }
}

// === impl Outcome ===

impl Outcome {
    /// True if it says the same, whoever says it.
    pub fn says_the_same_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Answered { answer: one, .. }, Self::Answered { answer: other, .. }) => one == other,
            (Self::Failed { error: one, .. }, Self::Failed { error: other, .. }) => one == other,
            _ => self == other,
        }
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
        let Self { question_id, expires_at, .. } = self;
        match &self.asked {
            Asked::Person { text, choices } => {
                EventBody::new(EventKind::Approval).text(text).turn(self.turn).data(json!({
                    "question_id": question_id, "state": "open", "choices": choices, "expires_at": expires_at,
                }))
            }
            Asked::CallerTool { tool, arguments } => {
                let mut event = EventBody::new(EventKind::CallerToolRequest)
                    .text(format!("calls {tool}"))
                    .turn(self.turn);
                event.tool_name = Some(tool.clone());
                event.tool_call_id = Some(question_id.to_string());
                event.arguments = Some(Value::Object(arguments.clone()));
                event.data(json!({ "request_id": question_id, "state": "open", "expires_at": expires_at }))
            }
        }
    }

    /// The event that it is closed by; nothing if it is open.
    pub fn closed_event(&self) -> Option<EventBody> {
        let id = self.question_id;
        let (state, text, by) = match self.outcome.as_ref()? {
            Outcome::Answered { answer, by } => ("answered", in_words(answer), Some(by)),
            Outcome::Failed { error, by } => ("failed", error.clone(), Some(by)),
            Outcome::TimedOut => ("timed_out", format!("nobody answered {id} in time"), None),
            Outcome::Withdrawn => ("withdrawn", format!("{id} was withdrawn"), None),
        };
        // A client serves what comes as a request of a caller's tool: its end is none.
        let (kind, name) = match &self.asked {
            Asked::Person { .. } => (EventKind::Approval, "question_id"),
            Asked::CallerTool { .. } => (EventKind::System, "request_id"),
        };
        let mut event =
            EventBody::new(kind).turn(self.turn).data(json!({ name: id, "state": state, "by": by }));
        if let Asked::CallerTool { tool, .. } = &self.asked {
            event.tool_name = Some(tool.clone());
            event.tool_call_id = Some(id.to_string());
            event.text = Some(format!("{tool}: {text}"));
        } else {
            event.text = Some(text);
        }
        Some(event)
    }

    /// What the agent is told if the turn that asked is over; nothing if there is nothing to tell.
    pub fn late_message(&self) -> Option<String> {
        let asked = match &self.asked {
            Asked::Person { text, .. } => format!("You asked: {text}"),
            Asked::CallerTool { tool, arguments } => {
                format!("You called `{tool}` with {}", Value::Object(arguments.clone()))
            }
        };
        match self.outcome.as_ref()? {
            Outcome::Answered { answer, .. } => Some(format!("{asked}\n\nThe answer: {}", in_words(answer))),
            Outcome::Failed { error, .. } => Some(format!("{asked}\n\nThat failed: {error}")),
            Outcome::TimedOut => Some(format!(
                "{asked}\n\nNobody answered in time. Go on as seems best to you, and say what you assumed."
            )),
            Outcome::Withdrawn => None,
        }
    }
}

/// A text as it is, anything else as JSON.
pub fn in_words(answer: &Value) -> String {
    answer.as_str().map_or_else(|| answer.to_string(), ToOwned::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(text: &str, choices: &[&str]) -> Asked {
        Asked::Person {
            text: text.to_owned(),
            choices: choices.iter().map(|&choice| choice.to_owned()).collect(),
        }
    }

    fn answered(answer: &str) -> Outcome {
        Outcome::Answered { answer: answer.into(), by: "operator".to_owned() }
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
        assert_eq!(asked(&"x".repeat(QUESTION_MAX), &[most.as_str(); CHOICES_MAX]).check(), Ok(()));
    }

    #[test]
    fn an_answer_is_one_of_the_choices_if_there_are_any() {
        let chosen = asked("?", &["yes", "no"]);
        assert_eq!(chosen.check_outcome(&answered("no")), Ok(()));
        let refusal = chosen.check_outcome(&answered("perhaps")).expect_err("none of them");
        assert_eq!(refusal.fix.as_deref(), Some("answer `yes` or `no`"));
        let free = asked("?", &[]);
        assert_eq!(free.check_outcome(&answered(&"x".repeat(ANSWER_MAX))), Ok(()));
        assert!(
            free.check_outcome(&answered(&"x".repeat(ANSWER_MAX + 1))).is_err()
                && free.check_outcome(&answered(" ")).is_err()
        );
    }

    #[test]
    fn each_outcome_has_its_event_and_all_but_a_withdrawal_are_told_late() {
        let answered = answered("a");
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

    #[test]
    fn a_call_of_a_callers_tool_is_a_request_and_its_end_is_none() {
        let arguments = Map::from_iter([("id".to_owned(), 7.into())]);
        let asked = Asked::CallerTool { tool: "crm_look_up".to_owned(), arguments };
        let call = |outcome| Question { asked: asked.clone(), ..question(outcome) };
        let event = call(None).asked_event();
        assert_eq!(
            (event.kind, event.tool_name.as_deref()),
            (EventKind::CallerToolRequest, Some("crm_look_up"))
        );
        assert_eq!(event.data.expect("details")["request_id"], "q1");
        let failed = Outcome::Failed { error: "no such customer".to_owned(), by: "operator".to_owned() };
        let result = Outcome::Answered { answer: json!({ "name": "Ada" }), by: "operator".to_owned() };
        for (outcome, words) in [(failed, "no such customer"), (result, r#"{"name":"Ada"}"#)] {
            assert_eq!(asked.check_outcome(&outcome), Ok(()));
            let closed = call(Some(outcome));
            let event = closed.closed_event().expect("it is closed");
            assert_eq!(event.kind, EventKind::System);
            assert!(event.text.is_some_and(|text| text.contains(words)), "{words}");
            assert!(closed.late_message().is_some_and(|text| text.contains(words)), "{words}");
        }
        let endless = Map::from_iter([("x".to_owned(), "x".repeat(ARGUMENTS_MAX).into())]);
        assert!(Asked::CallerTool { tool: "crm_look_up".to_owned(), arguments: endless }.check().is_err());
    }
}
