//! Refusals: a typed, explained no. Each says what was asked, why not, and what to do (invariant 9).

use std::fmt;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::Serialize;

/// Why, in one stable word: clients branch on this and on nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    /// A parameter is malformed, missing, unknown or out of bounds.
    InvalidArgument,
    /// The thing does not exist, or the asker may not know that it does.
    NotFound,
    /// No valid identity came with the request.
    Unauthenticated,
    /// The identity is known and may not do this.
    Forbidden,
    /// The thing is in a state that does not allow this now.
    Conflict,
    /// A limit of a tree, a project or the server would be exceeded.
    LimitExceeded,
    /// Something this needs is missing, full or down.
    Unavailable,
    /// The answer waits for a person or another party.
    Waiting,
    /// A fault of ours; the log has the details under the request id.
    Internal,
}

/// A typed, explained no.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, thiserror::Error)]
pub struct Refusal {
    /// The stable code.
    pub code: RefusalCode,
    /// What was asked and why not, one sentence without full stop.
    pub message: String,
    /// What to do about it, as a sentence or a command to type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

// === impl RefusalCode ===

impl RefusalCode {
    /// Every code.
    pub const ALL: [Self; 9] = [
        Self::InvalidArgument,
        Self::NotFound,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::Conflict,
        Self::LimitExceeded,
        Self::Unavailable,
        Self::Waiting,
        Self::Internal,
    ];

    /// The code as it stands on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidArgument => "invalid_argument",
            Self::NotFound => "not_found",
            Self::Unauthenticated => "unauthenticated",
            Self::Forbidden => "forbidden",
            Self::Conflict => "conflict",
            Self::LimitExceeded => "limit_exceeded",
            Self::Unavailable => "unavailable",
            Self::Waiting => "waiting",
            Self::Internal => "internal",
        }
    }

    /// The exit code of a command that was refused so (CLI contract: 2 usage, 3 not found, 5 refused, 6 unavailable).
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::InvalidArgument => 2,
            Self::NotFound => 3,
            Self::Unauthenticated
            | Self::Forbidden
            | Self::Conflict
            | Self::LimitExceeded
            | Self::Waiting => 5,
            Self::Unavailable => 6,
            Self::Internal => 1,
        }
    }

    /// The HTTP status that carries this code.
    pub const fn http_status(self) -> u16 {
        match self {
            Self::InvalidArgument => 400,
            Self::NotFound => 404,
            Self::Unauthenticated => 401,
            Self::Forbidden => 403,
            Self::Conflict => 409,
            Self::LimitExceeded => 429,
            Self::Unavailable => 503,
            Self::Waiting => 409,
            Self::Internal => 500,
        }
    }
}

impl fmt::Display for RefusalCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Refusal ===

impl Refusal {
    /// A refusal without a fix; prefer to add one with [`Refusal::fix`].
    pub fn new(code: RefusalCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), fix: None }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    /// `invalid_argument`.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(RefusalCode::InvalidArgument, message)
    }

    /// `not_found`: "`kind` `id` not found".
    pub fn not_found(kind: &str, id: impl fmt::Display) -> Self {
        Self::new(RefusalCode::NotFound, format!("{kind} `{id}` not found"))
    }

    /// `conflict`.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(RefusalCode::Conflict, message)
    }

    /// `unavailable`.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(RefusalCode::Unavailable, message)
    }

    /// `internal`; the message must be safe to show.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(RefusalCode::Internal, message)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.fix {
            Some(fix) => write!(f, "; {fix}"),
            None => Ok(()),
        }
    }
}

impl From<crate::id::InvalidId> for Refusal {
    fn from(error: crate::id::InvalidId) -> Self {
        Self::invalid(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_written_as_serde_writes_it() {
        for code in RefusalCode::ALL {
            assert_eq!(serde_json::to_value(code).expect("a code"), code.as_str());
        }
    }

    #[test]
    fn a_refusal_reads_as_one_line_with_its_fix() {
        let refusal = Refusal::not_found("session", "gogol_1").fix("list them with `oubliette session list`");
        assert_eq!(
            refusal.to_string(),
            "session `gogol_1` not found; list them with `oubliette session list`"
        );
    }
}
