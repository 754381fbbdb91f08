//! Why a model call failed, what can be done about it, and whether trying again can help.

use std::io;
use std::time::Duration;

/// By what code, or by which words, providers say that a conversation is longer than their model takes.
const OVERFLOW_CODES: [&str; 2] = ["context_length_exceeded", "context_window_exceeded"];
/// See [`OVERFLOW_CODES`]; most have no code of their own for it.
const OVERFLOW_WORDS: [&str; 7] = [
    "context length",
    "context window",
    "context size",
    "prompt is too long",
    "input is too long",
    "too many tokens",
    "input token count",
];
/// The longest wait that a provider may ask for before we try again.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Why a model call failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ModelError {
    /// Nobody listens.
    #[error("the model cannot be reached at {endpoint}: {source}")]
    Unreachable {
        /// A socket's path or an address.
        endpoint: String,
        /// Why.
        source: io::Error,
    },
    /// It answered, but not with a completion.
    #[error("the model refused the request with status {status}: {message}")]
    Status {
        /// HTTP.
        status: u16,
        /// Of the error object, if it had one.
        code: Option<String>,
        /// For a person; bounded.
        message: String,
        /// How long the provider wants us to wait.
        retry_after: Option<Duration>,
    },
    /// It reported an error in the middle of its answer.
    #[error("the model broke its answer off: {message}")]
    Broken {
        /// Of the error object, if it had one.
        code: Option<String>,
        /// For a person; bounded.
        message: String,
    },
    /// The connection ended before the answer did.
    #[error("the model's answer was cut off: {0}")]
    Cut(String),
    /// It said nothing for too long.
    #[error("the model said nothing for {} s", .0.as_secs())]
    Idle(Duration),
    /// What it said is no completion.
    #[error("the model's answer makes no sense: {0}")]
    Malformed(String),
    /// It said too much.
    #[error("the model's answer is too large: {what} of more than {bound}")]
    TooLarge {
        /// Of what.
        what: &'static str,
        /// How much is taken.
        bound: usize,
    },
}

// === impl ModelError ===

impl ModelError {
    /// A stable name.
    pub(crate) fn code(&self) -> &str {
        match self {
            Self::Unreachable { .. } => "model_unreachable",
            Self::Status { code: Some(code), .. } | Self::Broken { code: Some(code), .. } => code,
            Self::Status { .. } => "model_refused",
            Self::Broken { .. } => "model_broken",
            Self::Cut(_) => "model_cut",
            Self::Idle(_) => "model_timeout",
            Self::Malformed(_) => "bad_model_stream",
            Self::TooLarge { .. } => "model_answer_too_large",
        }
    }

    /// The HTTP status, if there was one.
    pub(crate) fn status(&self) -> Option<u16> {
        match self {
            Self::Status { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// What a person can do. Empty if the message says it: a refusal of the gate carries its own.
    pub(crate) fn fix(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "check that the server runs",
            Self::Status { status: 401 | 403, .. } => "check the provider's key",
            Self::Status { status: 404, .. } => "check the provider's base URL and the model's name",
            Self::Status { status: 429, .. } => "wait, or raise the limit",
            Self::Status { status: 500.., .. } | Self::Broken { .. } | Self::Cut(_) => {
                "send the message again; if it stays, check the provider"
            }
            Self::Status { .. } => "",
            Self::Idle(_) => "send the message again, or give the model more time",
            Self::Malformed(_) | Self::TooLarge { .. } => {
                "check that the provider speaks the OpenAI chat completions protocol"
            }
        }
    }

    /// True if the conversation is longer than the model takes; a shorter one may be taken.
    pub(crate) fn is_overflow(&self) -> bool {
        let Self::Status { status: 400..=422, code, message, .. } = self else { return false };
        let message = message.to_ascii_lowercase();
        code.as_deref().is_some_and(|code| OVERFLOW_CODES.contains(&code))
            || OVERFLOW_WORDS.iter().any(|words| message.contains(words))
    }

    /// True if nobody listened; a server that restarts comes back.
    pub(crate) fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }

    /// True if the same request may well succeed in a moment.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            // A limit of our own does not go away by waiting, and what makes no sense will not begin to.
            Self::Status { code: Some(code), .. } | Self::Broken { code: Some(code), .. }
                if matches!(
                    code.as_str(),
                    "limit_exceeded" | "insufficient_quota" | "bad_model_stream" | "provider_refused_key"
                ) =>
            {
                false
            }
            Self::Status { status, .. } => *status == 429 || *status >= 500,
            Self::Broken { .. } | Self::Cut(_) => true,
            Self::Unreachable { .. } | Self::Idle(_) | Self::Malformed(_) | Self::TooLarge { .. } => false,
        }
    }

    /// How long to wait at least before trying again.
    pub(crate) fn retry_after(&self) -> Duration {
        match self {
            Self::Status { retry_after: Some(wait), .. } => (*wait).min(LONGEST_WAIT),
            _ => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let status = |status, code: Option<&str>| ModelError::Status {
            status,
            code: code.map(str::to_owned),
            message: String::new(),
            retry_after: None,
        };
        for (error, is_transient) in [
            (status(429, None), true),
            (status(429, Some("limit_exceeded")), false),
            (status(429, Some("insufficient_quota")), false),
            (status(503, Some("unavailable")), true),
            (status(502, Some("bad_model_stream")), false),
            (status(400, None), false),
            (status(401, None), false),
            (ModelError::Cut(String::new()), true),
            (ModelError::Broken { code: None, message: String::new() }, true),
            (ModelError::Idle(Duration::ZERO), false),
            (ModelError::Malformed(String::new()), false),
        ] {
            assert_eq!(error.is_transient(), is_transient, "{error:?}");
        }
    }

    #[test]
    fn a_conversation_that_is_too_long_is_known_by_its_code_or_by_its_words() {
        let refused = |status, code: Option<&str>, message: &str| ModelError::Status {
            status,
            code: code.map(str::to_owned),
            message: message.to_owned(),
            retry_after: None,
        };
        assert!(refused(400, Some("context_length_exceeded"), "").is_overflow());
        assert!(refused(400, None, "prompt is too long: 210000 tokens > 200000 maximum").is_overflow());
        assert!(refused(413, None, "This model's maximum context length is 8192 tokens.").is_overflow());
        assert!(!refused(400, None, "unknown tool").is_overflow());
        assert!(!refused(429, None, "too many tokens in this minute").is_overflow());
    }

    #[test]
    fn no_provider_makes_us_wait_forever() {
        let wait = Some(Duration::from_secs(86_400));
        let error = ModelError::Status { status: 429, code: None, message: String::new(), retry_after: wait };
        assert_eq!(error.retry_after(), LONGEST_WAIT);
    }
}
