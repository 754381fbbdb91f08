//! Checks: what was looked at, what was found, what it costs not to have it, and what mends it.
//!
//! One type for everybody who tells of health: `oubliette doctor`, `oubliette store check` and `/health` print the same
//! checks, so that what one of them calls healthy no other calls broken (invariant 11, `honest_health`).

use std::fmt;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::Serialize;

use crate::Refusal;

/// What became of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CheckState {
    /// It is there and works.
    Ok,
    /// It works, with a loss that the check names.
    Warn,
    /// It is not there.
    Missing,
    /// It is there and does not work.
    Failed,
    /// Nobody asked for it. Never healthy, and never a fault.
    NotConfigured,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Check {
    /// Its name, stable: scripts look for it.
    pub name: String,
    /// What became of it.
    pub state: CheckState,
    /// True if nothing works without it: a required check that is missing or failed is not ready.
    pub required: bool,
    /// What was found, one line.
    pub found: String,
    /// The number behind it, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none", flatten)]
    pub measure: Option<Measure>,
    /// What it costs not to have it; only where something is lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<String>,
    /// What mends it, as a sentence with its commands in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
    /// The commands of `fix`, in order, as they are typed. Empty if no command does it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<String>,
}

/// A number that was measured, and where it begins to be a fault.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Measure {
    /// What was measured.
    pub value: f64,
    /// In what: `bytes`, `s`, `percent`.
    pub unit: String,
    /// The bound that the state was decided by.
    pub threshold: f64,
}

// === impl CheckState ===

impl CheckState {
    /// The state in one word, as on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Missing => "missing",
            Self::Failed => "failed",
            Self::NotConfigured => "not_configured",
        }
    }

    /// True if it works, perhaps with a loss.
    pub const fn works(self) -> bool {
        matches!(self, Self::Ok | Self::Warn)
    }
}

impl fmt::Display for CheckState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

// === impl Check ===

impl Check {
    fn new(name: impl Into<String>, state: CheckState, found: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            state,
            required: false,
            found: found.into(),
            measure: None,
            cost: None,
            fix: None,
            commands: Vec::new(),
        }
    }

    /// It is there and works.
    pub fn ok(name: impl Into<String>, found: impl Into<String>) -> Self {
        Self::new(name, CheckState::Ok, found)
    }

    /// It works, and this is lost.
    pub fn warn(name: impl Into<String>, found: impl Into<String>, cost: impl Into<String>) -> Self {
        Self { cost: Some(cost.into()), ..Self::new(name, CheckState::Warn, found) }
    }

    /// It is not there, and this is lost.
    pub fn missing(name: impl Into<String>, found: impl Into<String>, cost: impl Into<String>) -> Self {
        Self { cost: Some(cost.into()), ..Self::new(name, CheckState::Missing, found) }
    }

    /// It is there and does not work, and this is lost.
    pub fn failed(name: impl Into<String>, found: impl Into<String>, cost: impl Into<String>) -> Self {
        Self { cost: Some(cost.into()), ..Self::new(name, CheckState::Failed, found) }
    }

    /// Nobody asked for it.
    pub fn not_configured(name: impl Into<String>, found: impl Into<String>) -> Self {
        Self::new(name, CheckState::NotConfigured, found)
    }

    /// A refusal as a check: what it says is what was found, what it advises is the fix.
    pub fn refused(name: impl Into<String>, refusal: &Refusal, cost: impl Into<String>) -> Self {
        Self { fix: refusal.fix.clone(), ..Self::failed(name, refusal.message.clone(), cost) }
    }

    /// Nothing works without it.
    #[must_use]
    pub fn required(mut self) -> Self {
        self.required = true;
        self
    }

    /// The number behind it.
    #[must_use]
    pub fn measured(mut self, value: f64, unit: &str, threshold: f64) -> Self {
        self.measure = Some(Measure { value, unit: unit.to_owned(), threshold });
        self
    }

    /// What mends it, where no command does.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    /// What mends it: a sentence, and the commands that do it, which are set behind the sentence.
    #[must_use]
    pub fn mend<C: Into<String>>(mut self, what: &str, commands: impl IntoIterator<Item = C>) -> Self {
        self.commands = commands.into_iter().map(Into::into).collect();
        self.fix = Some(match self.commands.as_slice() {
            [] => what.to_owned(),
            commands => format!("{what}: `{}`", commands.join("`, then `")),
        });
        self
    }

    /// True if the whole is healthy as far as this goes: what is required works, and nothing that is there has failed.
    pub const fn is_healthy(&self) -> bool {
        match self.state {
            CheckState::Ok | CheckState::Warn => true,
            CheckState::Missing | CheckState::NotConfigured | CheckState::Failed => !self.required,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_required_makes_the_whole_unhealthy_and_not_configured_is_never_ok() {
        let state =
            |check: Check| (check.is_healthy(), check.clone().required().is_healthy(), check.state.works());
        assert_eq!(state(Check::ok("a", "b")), (true, true, true));
        assert_eq!(state(Check::warn("a", "b", "c")), (true, true, true));
        assert_eq!(state(Check::missing("a", "b", "c")), (true, false, false));
        assert_eq!(state(Check::failed("a", "b", "c")), (true, false, false));
        assert_eq!(state(Check::not_configured("a", "b")), (true, false, false));
    }

    #[test]
    fn a_check_is_read_as_it_is_written() {
        let check = Check::failed("disk", "1 GiB free", "work is refused")
            .required()
            .measured(1.5, "bytes", 2.0)
            .mend("make room", ["df -h", "rm x"]);
        let json = serde_json::to_value(&check).expect("json");
        assert_eq!(
            json,
            serde_json::json!({
                "name": "disk", "state": "failed", "required": true, "found": "1 GiB free",
                "value": 1.5, "unit": "bytes", "threshold": 2.0, "cost": "work is refused",
                "fix": "make room: `df -h`, then `rm x`", "commands": ["df -h", "rm x"],
            })
        );
        assert_eq!(serde_json::from_value::<Check>(json).expect("the same"), check);
        let plain = serde_json::to_value(Check::ok("a", "b")).expect("json");
        assert_eq!(plain, serde_json::json!({ "name": "a", "state": "ok", "required": false, "found": "b" }));
        assert_eq!(serde_json::from_value::<Check>(plain).expect("the same"), Check::ok("a", "b"));
    }
}
