//! Typed ids. Every id is parsed once, at the edge; behind it no bare string names a thing.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::Serialize;
use uuid::Uuid;

use crate::time::Timestamp;

/// A text that is not an id of the kind that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {kind}: expected {expected}")]
pub struct InvalidId {
    /// What kind of id was expected.
    pub kind: &'static str,
    /// The form it has.
    pub expected: &'static str,
    /// The text that was given, cut to 80 characters.
    pub text: String,
}

impl InvalidId {
    fn new(kind: &'static str, expected: &'static str, text: &str) -> Self {
        Self { kind, expected, text: text.chars().take(80).collect() }
    }
}

macro_rules! text_serde {
    ($name:ident, $expected:expr) => {
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "description": $expected })
            }
        }
    };
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// Wraps a UUID that the caller drew.
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The UUID.
            pub const fn as_uuid(&self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                // Only the hyphenated form in lower case: an id has one spelling.
                if text.len() != 36 || text.bytes().any(|byte| byte.is_ascii_uppercase()) {
                    return Err(InvalidId::new($kind, "a UUID", text));
                }
                Uuid::try_parse(text).map(Self).map_err(|_| InvalidId::new($kind, "a UUID", text))
            }
        }

        text_serde!($name, "a UUID");
    };
}

uuid_id!(
    /// A project.
    ProjectId,
    "project id"
);
uuid_id!(
    /// A workspace of a project.
    WorkspaceId,
    "workspace id"
);
uuid_id!(
    /// One model call, from reservation to settlement.
    ChargeId,
    "charge id"
);

macro_rules! stamped_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $kind:literal, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            /// A new id from the time and 32 random bits.
            pub fn new(now: Timestamp, random: u32) -> Self {
                Self(format!(concat!($prefix, "_{}_{:08x}"), now.compact(), random).into_boxed_str())
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The random part, 8 hexadecimal digits: short, and safe as a file name.
            pub fn suffix(&self) -> &str {
                &self.0[self.0.len() - 8..]
            }

            /// True if a text may be the [`Self::suffix`] of an id.
            pub fn is_suffix(text: &str) -> bool {
                text.len() == 8 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                is_stamped(text, $prefix)
                    .then(|| Self(text.into()))
                    .ok_or_else(|| InvalidId::new($kind, $expected, text))
            }
        }

        text_serde!($name, $expected);
    };
}

stamped_id!(
    /// A session: `gogol_YYYYMMDD_HHMMSS_hex8`.
    SessionId,
    "gogol",
    "session id",
    "gogol_YYYYMMDD_HHMMSS_hex8"
);
stamped_id!(
    /// A tree of sessions, which limits belong to: `exp_YYYYMMDD_HHMMSS_hex8`.
    TreeId,
    "exp",
    "tree id",
    "exp_YYYYMMDD_HHMMSS_hex8"
);

fn is_stamped(text: &str, prefix: &str) -> bool {
    let mut parts = text.split('_');
    let digits = |part: Option<&str>, len: usize| {
        part.is_some_and(|p| p.len() == len && p.bytes().all(|b| b.is_ascii_digit()))
    };
    parts.next() == Some(prefix)
        && digits(parts.next(), 8)
        && digits(parts.next(), 6)
        && parts.next().is_some_and(|p| p.len() == 8 && p.bytes().all(is_lower_hex))
        && parts.next().is_none()
}

fn is_lower_hex(byte: u8) -> bool {
    byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)
}

/// The public id of a token: `tok_` and 12 hexadecimal digits. It is not the secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(Box<str>);

impl TokenId {
    /// A new id from 48 random bits.
    pub fn new(random: u64) -> Self {
        Self(format!("tok_{:012x}", random & 0xffff_ffff_ffff).into_boxed_str())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TokenId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        text.strip_prefix("tok_")
            .filter(|hex| hex.len() == 12 && hex.bytes().all(is_lower_hex))
            .map(|_| Self(text.into()))
            .ok_or_else(|| InvalidId::new("token id", "tok_hex12", text))
    }
}

text_serde!(TokenId, "tok_hex12");

/// A question of a session: `q` and its number in the session, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct QuestionId(u32);

impl QuestionId {
    /// The id after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// True if nothing was asked yet.
    pub const fn is_none(&self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for QuestionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "q{}", self.0)
    }
}

impl FromStr for QuestionId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        text.strip_prefix('q')
            // An id has one spelling.
            .filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0'))
            .and_then(|digits| digits.parse().ok())
            .map(Self)
            .ok_or_else(|| InvalidId::new("question id", "q and a number", text))
    }
}

text_serde!(QuestionId, "q and its number in the session");

/// The number of a turn in its session, from 1.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema, Default,
)]
#[serde(transparent)]
pub struct TurnNumber(pub u32);

impl TurnNumber {
    /// The number after this one.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for TurnNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_id_has_one_form() {
        let id = SessionId::new(Timestamp::from_micros(1_795_000_000_000_000), 0xdead_beef);
        assert_eq!(id.as_str(), "gogol_20261118_110640_deadbeef");
        assert_eq!(id.suffix(), "deadbeef");
        assert_eq!(id.to_string().parse::<SessionId>(), Ok(id));
        for wrong in [
            "",
            "gogol_20261118_110640_deadbeeF",
            "gogol_20261118_110640_deadbee",
            "gogol_2026111x_110640_deadbeef",
            "exp_20261118_110640_deadbeef",
            "gogol_20261118_110640_deadbeef_",
            "gogol_20261118_110640_deadbeef/../..",
        ] {
            assert!(wrong.parse::<SessionId>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_project_id_is_a_hyphenated_uuid_and_nothing_else() {
        let id = ProjectId::from_uuid(Uuid::from_u128(7));
        assert_eq!(id.to_string().parse::<ProjectId>(), Ok(id));
        for wrong in [
            "",
            "7",
            "00000000000000000000000000000007",
            "{00000000-0000-0000-0000-000000000007}",
            "00000000-0000-0000-0000-00000000000A",
        ] {
            assert!(wrong.parse::<ProjectId>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_invalid_id_says_what_was_expected_and_is_short() {
        let error = "x".repeat(500).parse::<SessionId>().expect_err("not an id");
        assert!(error.to_string().len() < 200);
        assert!(error.to_string().contains("gogol_"));
    }

    #[test]
    fn a_question_id_has_one_spelling() {
        let id = QuestionId::default().next().next();
        assert_eq!((id.to_string().as_str(), "q2".parse()), ("q2", Ok(id)));
        for wrong in ["", "q", "q0", "q02", "2", "Q2", "q-2", "q+2", "q99999999999"] {
            assert!(wrong.parse::<QuestionId>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_token_id_is_lower_hex() {
        assert_eq!(TokenId::new(0xabc).as_str(), "tok_000000000abc");
        assert!("tok_00000000000G".parse::<TokenId>().is_err());
    }
}
