//! A session: one conversation with one agent in one workspace.
//!
//! ```text
//! created -> starting -> running <-> idle -> ending -> ended
//!    |          |  ^        |          |        ^
//!    |          |  |        v          v        |
//!    |          |  +--- interrupted <--+        |      every state that is not over may end
//!    v          v           |                   |
//!  ended      failed        +-------------------+
//!                        running <-> waiting
//!
//! idle, interrupted without a turn -> asleep -> starting (a message wakes it) | ending
//! ```
//!
//! - `created`: the record and its first turn are durable; nothing runs yet.
//! - `starting`: a sandbox, a link and an agent are being made. Failure ends in `failed`.
//! - `running`: the agent works on a turn. `waiting`: it waits for somebody else, such as for an answer to its question.
//! - `idle`: the agent is there and has nothing to do.
//! - `asleep`: it had nothing to do for long; its sandbox is ended, nothing of it is in memory, a message wakes it.
//! - `interrupted`: the sandbox is lost (crash of the machine, drain); it starts again when told to.
//! - `ending`: the sandbox is being ended; a second `End` changes nothing.
//!
//! [`Session::step`] is pure. The engine's actor commits the new state with its events first and performs the
//! effects afterwards; every effect is idempotent, since a crash may come between the two.

use std::collections::VecDeque;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::Serialize;

use crate::id::TurnNumber;
use crate::turn::TurnState;

/// What a waiting session waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WaitReason {
    /// A person's decision.
    Approval,
    /// An answer to what the agent asked.
    Answer,
    /// More money or tokens.
    Budget,
    /// A tool of its caller.
    CallerTool,
    /// The end of a maintenance window.
    Maintenance,
}

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "state", content = "reason")]
pub enum SessionState {
    /// Durable, nothing runs yet.
    Created,
    /// A sandbox, a link and an agent are being made.
    Starting,
    /// The agent works on a turn.
    Running,
    /// The agent is there and has nothing to do.
    Idle,
    /// It had nothing to do for long, and has no sandbox until a message comes.
    Asleep,
    /// A turn waits for somebody else.
    Waiting(WaitReason),
    /// The sandbox is lost; starts again when told to.
    Interrupted,
    /// The sandbox is being ended.
    Ending,
    /// Over, as asked.
    Ended,
    /// Over, by a fault.
    Failed,
}

/// What clients filter by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SessionStatus {
    /// From created to waiting, asleep and interrupted.
    Active,
    /// Ended.
    Completed,
    /// Failed.
    Failed,
}

/// How a turn stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TurnStop {
    /// The agent says it is done.
    EndTurn,
    /// The model reached its output limit.
    MaxTokens,
    /// The agent reached its limit of model calls.
    MaxTurnRequests,
    /// The model refused.
    Refusal,
    /// It was cancelled.
    Cancelled,
    /// The agent or its model failed.
    Error,
}

/// What can happen to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// The engine takes it up, at first or after an interruption.
    Start,
    /// The agent answers in its sandbox and waits for a prompt.
    Ready,
    /// A message was accepted; it becomes this turn.
    Message(TurnNumber),
    /// The agent stopped working on the active turn.
    TurnStopped(TurnStop),
    /// The active turn waits for somebody.
    Wait(WaitReason),
    /// What it waited for came.
    Resume,
    /// A person stops the active turn; the session goes on.
    Interrupt,
    /// It had nothing to do for long.
    Sleep,
    /// A person or a rule ends the session.
    End,
    /// The sandbox is gone without having been told to.
    Lost,
    /// Starting failed, or a fault that no new start can mend.
    Fail,
    /// The sandbox is gone, as it was told.
    Released,
}

/// What the driver does after the step is durable. Each is idempotent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Make a sandbox, a link and an agent; answer with `Ready`, `Lost` or `Fail`.
    StartSandbox,
    /// Give this turn to the agent.
    Prompt(TurnNumber),
    /// Tell the agent to stop working on this turn.
    CancelPrompt(TurnNumber),
    /// Record that this turn is in this state now.
    RecordTurn(TurnNumber, TurnState),
    /// End the sandbox and what runs in it; answer with `Released`.
    EndSandbox,
}

/// An input that a state does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot {} while {}", asked.verb(), state.as_str())]
pub struct Denied {
    /// What was asked.
    pub asked: Input,
    /// Where the session stands.
    pub state: SessionState,
}

/// A session as the machine sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Where it stands.
    pub state: SessionState,
    /// The turn that the agent works on, or that was cut off.
    pub active: Option<TurnNumber>,
    /// Turns that wait, oldest first.
    pub queue: VecDeque<TurnNumber>,
}

// === impl SessionState ===

impl SessionState {
    /// Every state, waiting once for each reason.
    pub const ALL: [Self; 14] = [
        Self::Created,
        Self::Starting,
        Self::Running,
        Self::Idle,
        Self::Asleep,
        Self::Waiting(WaitReason::Approval),
        Self::Waiting(WaitReason::Answer),
        Self::Waiting(WaitReason::Budget),
        Self::Waiting(WaitReason::CallerTool),
        Self::Waiting(WaitReason::Maintenance),
        Self::Interrupted,
        Self::Ending,
        Self::Ended,
        Self::Failed,
    ];

    /// True if the session is over.
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Ended | Self::Failed)
    }

    /// True if the session starts no children any more: it is over, or about to be.
    pub const fn takes_no_children(self) -> bool {
        matches!(self, Self::Ending | Self::Ended | Self::Failed)
    }

    /// What clients filter by.
    pub const fn status(self) -> SessionStatus {
        match self {
            Self::Ended => SessionStatus::Completed,
            Self::Failed => SessionStatus::Failed,
            _ => SessionStatus::Active,
        }
    }

    /// The state in one word, as in the store and on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Idle => "idle",
            Self::Asleep => "asleep",
            Self::Waiting(WaitReason::Approval) => "waiting_approval",
            Self::Waiting(WaitReason::Answer) => "waiting_answer",
            Self::Waiting(WaitReason::Budget) => "waiting_budget",
            Self::Waiting(WaitReason::CallerTool) => "waiting_caller_tool",
            Self::Waiting(WaitReason::Maintenance) => "waiting_maintenance",
            Self::Interrupted => "interrupted",
            Self::Ending => "ending",
            Self::Ended => "ended",
            Self::Failed => "failed",
        }
    }

    /// The state of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }
}

impl SessionStatus {
    /// The status in one word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Completed => "completed",
            Self::Failed => "failed",
        }
    }
}

// === impl Input ===

impl Input {
    const fn verb(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Ready => "become ready",
            Self::Message(_) => "take a message",
            Self::TurnStopped(_) => "stop a turn",
            Self::Wait(_) => "wait",
            Self::Resume => "resume",
            Self::Interrupt => "interrupt",
            Self::Sleep => "sleep",
            Self::End => "end",
            Self::Lost => "lose the sandbox",
            Self::Fail => "fail",
            Self::Released => "release the sandbox",
        }
    }
}

// === impl TurnStop ===

impl TurnStop {
    /// The reason in one word, as on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EndTurn => "end_turn",
            Self::MaxTokens => "max_tokens",
            Self::MaxTurnRequests => "max_turn_requests",
            Self::Refusal => "refusal",
            Self::Cancelled => "cancelled",
            Self::Error => "error",
        }
    }

    /// The state that a turn which stopped so is in.
    pub const fn turn_state(self) -> TurnState {
        match self {
            Self::EndTurn | Self::MaxTokens | Self::MaxTurnRequests => TurnState::Completed,
            Self::Cancelled => TurnState::Cancelled,
            Self::Refusal | Self::Error => TurnState::Failed,
        }
    }
}

// === impl Session ===

impl Session {
    /// A new session whose first turn, if any, is queued.
    pub fn new(first: Option<TurnNumber>) -> Self {
        Self { state: SessionState::Created, active: None, queue: first.into_iter().collect() }
    }

    /// What `input` makes of it, and what to do then.
    pub fn step(mut self, input: Input) -> Result<(Self, Vec<Effect>), Denied> {
        use SessionState as S;
        let denied = Denied { asked: input, state: self.state };
        let effects = match (self.state, input) {
            (S::Created | S::Interrupted, Input::Start) => {
                self.state = S::Starting;
                vec![Effect::StartSandbox]
            }
            (S::Starting, Input::Ready) => self.prompt_next(),

            (
                S::Created | S::Starting | S::Running | S::Waiting(_) | S::Interrupted,
                Input::Message(turn),
            ) => {
                self.queue.push_back(turn);
                Vec::new()
            }
            (S::Idle, Input::Message(turn)) => {
                self.queue.push_back(turn);
                self.prompt_next()
            }

            (S::Asleep, Input::Message(turn)) => {
                self.queue.push_back(turn);
                self.state = S::Starting;
                vec![Effect::StartSandbox]
            }
            (S::Idle | S::Interrupted, Input::Sleep) if self.active.is_none() && self.queue.is_empty() => {
                self.state = S::Asleep;
                vec![Effect::EndSandbox]
            }
            // Its sandbox is gone, or about to be.
            (S::Asleep, Input::Sleep) => vec![Effect::EndSandbox],
            (S::Asleep, Input::Released | Input::Lost) => Vec::new(),

            (S::Running | S::Waiting(_), Input::TurnStopped(stop)) => {
                let mut effects: Vec<Effect> = self
                    .active
                    .take()
                    .map(|turn| Effect::RecordTurn(turn, stop.turn_state()))
                    .into_iter()
                    .collect();
                effects.extend(self.prompt_next());
                effects
            }
            (S::Running, Input::Wait(reason)) => {
                self.state = S::Waiting(reason);
                Vec::new()
            }
            (S::Waiting(_), Input::Resume) => {
                self.state = S::Running;
                Vec::new()
            }

            (S::Running | S::Waiting(_), Input::Interrupt) => {
                self.active.map(Effect::CancelPrompt).into_iter().collect()
            }
            // Nothing is with the agent: what waits is withdrawn.
            (S::Starting | S::Interrupted, Input::Interrupt) => self.cancel_turns(),
            (S::Idle | S::Asleep, Input::Interrupt) => Vec::new(),

            (S::Starting | S::Running | S::Waiting(_), Input::Lost) => {
                self.state = S::Interrupted;
                self.active.map(|turn| Effect::RecordTurn(turn, TurnState::Interrupted)).into_iter().collect()
            }
            (S::Idle, Input::Lost) => {
                self.state = S::Interrupted;
                Vec::new()
            }
            (S::Interrupted, Input::Lost) => Vec::new(),
            (S::Ending, Input::Lost | Input::Released) => {
                self.state = S::Ended;
                Vec::new()
            }

            (S::Created, Input::End) => {
                self.state = S::Ended;
                self.cancel_turns()
            }
            (S::Starting | S::Running | S::Idle | S::Asleep | S::Waiting(_) | S::Interrupted, Input::End) => {
                self.state = S::Ending;
                let mut effects = self.cancel_turns();
                effects.push(Effect::EndSandbox);
                effects
            }
            (S::Ending, Input::End) => vec![Effect::EndSandbox],

            (
                S::Created | S::Starting | S::Running | S::Idle | S::Asleep | S::Waiting(_) | S::Interrupted,
                Input::Fail,
            ) => {
                self.state = S::Failed;
                let mut effects = self.stop_turns(TurnState::Failed);
                effects.push(Effect::EndSandbox);
                effects
            }
            // A sandbox that is gone after the session is over is no news.
            (S::Ended | S::Failed, Input::Released | Input::Lost | Input::End) => Vec::new(),

            _ => return Err(denied),
        };
        Ok((self, effects))
    }

    /// The active turn again if it was cut off, else the next in the queue, else idle.
    fn prompt_next(&mut self) -> Vec<Effect> {
        match self.active.or_else(|| self.queue.pop_front()) {
            Some(turn) => {
                self.active = Some(turn);
                self.state = SessionState::Running;
                vec![Effect::RecordTurn(turn, TurnState::Running), Effect::Prompt(turn)]
            }
            None => {
                self.state = SessionState::Idle;
                Vec::new()
            }
        }
    }

    fn cancel_turns(&mut self) -> Vec<Effect> {
        self.stop_turns(TurnState::Cancelled)
    }

    fn stop_turns(&mut self, state: TurnState) -> Vec<Effect> {
        let active = self.active.take();
        let queued = std::mem::take(&mut self.queue);
        active
            .map(|turn| Effect::RecordTurn(turn, state))
            .into_iter()
            .chain(queued.into_iter().map(|turn| Effect::RecordTurn(turn, TurnState::Cancelled)))
            .collect()
    }
}

#[cfg(test)]
mod tests;
