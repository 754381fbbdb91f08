//! Components: an implementation behind a `(domain, key)`, asked for by permit and never held from wiring.
//!
//! ```text
//! open -- pause --> paused     resume, or the hold runs out: open again
//!   |                 |
//!   +---- drain ------+--> draining --> (the last permit is back) drained, still held
//! ```
//!
//! **Invariant C1:** a permit is counted under the lock that looks at the hold, so once a drain has begun the number
//! of permits that are out only falls. Whoever drains sees zero exactly when the last one is dropped.
//!
//! **Invariant C2:** a permit keeps the component it was given. A component that is replaced lives until its last
//! permit is dropped, and no permit changes under its user.

mod registry;

use std::fmt;

use ob_core::Timestamp;
use serde::Serialize;

pub use registry::Permit;
pub use registry::Registry;

/// The priority of a candidate that names none.
pub const DEFAULT_PRIORITY: i32 = 0;

/// What kind of thing a component is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Domain {
    /// Something outside: a sandbox backend, a model provider.
    Adapter,
    /// Something that runs.
    Service,
    /// Something that runs now and then.
    Task,
    /// Something that reacts.
    Event,
    /// Several steps.
    Workflow,
    /// One step.
    Action,
}

/// Why a component takes no more work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hold {
    /// Who said so.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// Until when; for ever if unset. At this instant the hold is over.
    pub expires_at: Option<Timestamp>,
}

/// How a held component is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldKind {
    /// Someone paused it.
    Paused,
    /// Someone waits, or waited, for its last permit.
    Draining,
}

/// One implementation that could stand behind a `(domain, key)`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CandidateView {
    /// Its name.
    pub provider: String,
    /// The highest wins.
    pub priority: i32,
    /// The number of its registration in this registry, from 0. Among equal priorities the latest wins.
    pub registered: u64,
    /// True for the one that new permits get.
    pub chosen: bool,
}

/// What stands behind a `(domain, key)`, and why (`decisions_explain`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// What kind of thing it is.
    pub domain: Domain,
    /// Its key.
    pub key: String,
    /// The rule that chose, in words.
    pub rule: &'static str,
    /// The candidates, the chosen one first, then in the order in which they would follow.
    pub candidates: Vec<CandidateView>,
    /// How and by whom it is held, if it is. It may have run out: that is seen when the next permit is asked for.
    pub hold: Option<(HoldKind, Hold)>,
    /// Permits that are out, of replaced components too.
    pub permits: u64,
}

// === impl Domain ===

impl Domain {
    /// Every domain.
    pub const ALL: [Self; 6] =
        [Self::Adapter, Self::Service, Self::Task, Self::Event, Self::Workflow, Self::Action];

    /// The domain in one word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Adapter => "adapter",
            Self::Service => "service",
            Self::Task => "task",
            Self::Event => "event",
            Self::Workflow => "workflow",
            Self::Action => "action",
        }
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl HoldKind ===

impl HoldKind {
    /// The kind in one word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Paused => "paused",
            Self::Draining => "draining",
        }
    }
}

impl fmt::Display for HoldKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Hold ===

impl Hold {
    /// A hold without an end.
    pub fn new(actor: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { actor: actor.into(), reason: reason.into(), expires_at: None }
    }

    /// The same hold until `at`.
    #[must_use]
    pub fn until(mut self, at: Timestamp) -> Self {
        self.expires_at = Some(at);
        self
    }

    /// True if it is over at `now`.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|end| end <= now)
    }
}
