//! A turn: one prompt until the agent stops.
//!
//! ```text
//! queued -> running -> completed | cancelled | failed
//!   |         |  ^
//!   |         v  |
//!   |     interrupted          (the sandbox was lost; the turn is prompted again)
//!   v
//! cancelled
//! ```

use schemars::JsonSchema;
use serde::Deserialize;
use serde::Serialize;

/// Where a turn stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TurnState {
    /// Accepted and durable, not yet given to the agent.
    Queued,
    /// The agent works on it.
    Running,
    /// The sandbox was lost while the agent worked on it; it will be given again.
    Interrupted,
    /// The agent stopped by itself.
    Completed,
    /// A person stopped it, or its session ended first.
    Cancelled,
    /// The agent or its model failed.
    Failed,
}

/// What can happen to a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TurnInput {
    /// It is given to the agent.
    Start,
    /// The sandbox was lost.
    Lose,
    /// The agent stopped by itself.
    Complete,
    /// It was stopped.
    Cancel,
    /// The agent or its model failed.
    Fail,
}

/// A turn that is over does not change, and a queued one was never with an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a turn that is {state:?} cannot {input:?}")]
pub struct IllegalTurnStep {
    /// Where the turn stood.
    pub state: TurnState,
    /// What was tried.
    pub input: TurnInput,
}

// === impl TurnState ===

impl TurnState {
    /// Every state.
    pub const ALL: [Self; 6] =
        [Self::Queued, Self::Running, Self::Interrupted, Self::Completed, Self::Cancelled, Self::Failed];

    /// True if nothing can happen to it any more.
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Completed | Self::Cancelled | Self::Failed)
    }

    /// The state as it stands on the wire and in the store.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Interrupted => "interrupted",
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }

    /// The state of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }

    /// The next state.
    pub const fn step(self, input: TurnInput) -> Result<Self, IllegalTurnStep> {
        match (self, input) {
            (Self::Queued | Self::Interrupted, TurnInput::Start) => Ok(Self::Running),
            (Self::Running, TurnInput::Lose) => Ok(Self::Interrupted),
            (Self::Running, TurnInput::Complete) => Ok(Self::Completed),
            (Self::Queued | Self::Running | Self::Interrupted, TurnInput::Cancel) => Ok(Self::Cancelled),
            (Self::Queued | Self::Running | Self::Interrupted, TurnInput::Fail) => Ok(Self::Failed),
            (state, input) => Err(IllegalTurnStep { state, input }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_table() {
        use TurnInput as I;
        use TurnState as S;
        let inputs = [I::Start, I::Lose, I::Complete, I::Cancel, I::Fail];
        let table = [
            (S::Queued, [Some(S::Running), None, None, Some(S::Cancelled), Some(S::Failed)]),
            (
                S::Running,
                [None, Some(S::Interrupted), Some(S::Completed), Some(S::Cancelled), Some(S::Failed)],
            ),
            (S::Interrupted, [Some(S::Running), None, None, Some(S::Cancelled), Some(S::Failed)]),
            (S::Completed, [None; 5]),
            (S::Cancelled, [None; 5]),
            (S::Failed, [None; 5]),
        ];
        assert_eq!(table.len(), S::ALL.len());
        for (state, row) in table {
            for (input, expected) in inputs.into_iter().zip(row) {
                assert_eq!(state.step(input).ok(), expected, "{state:?} + {input:?}");
            }
        }
    }

    #[test]
    fn names_go_both_ways() {
        for state in TurnState::ALL {
            assert_eq!(TurnState::parse(state.as_str()), Some(state));
            assert_eq!(serde_json::to_value(state).expect("json"), state.as_str());
        }
    }
}
