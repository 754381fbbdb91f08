//! The invariants catalogue: each promise by name, checked wherever it is cheap.
//!
//! A broken invariant panics in a debug build and is counted and logged in a release build: a test finds it, and a
//! server in production goes on and tells.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

/// A promise that the whole system keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Invariant {
    /// No one sees or is told of an event that a crash could undo.
    CommitBeforeAnnounce,
    /// A crash at any point loses nothing that was acknowledged.
    AcknowledgedMeansKept,
    /// A sandbox reaches nothing but its gate.
    OneWayOut,
    /// Provider keys, people's tokens and store credentials never enter a sandbox.
    NoSecretInside,
    /// What a tree may spend is reserved before it is spent.
    LimitsHold,
    /// A session is driven by one actor; a late owner's writes are refused.
    OneOwner,
    /// Every operation from every door passes one table.
    OneAuthoriser,
    /// A child's sandbox, scope and budget are at most its parent's.
    NeverWeaker,
    /// Every refusal says what was asked, why not, and what to do.
    RefusalsTeach,
    /// Every decision gives its rule and its inputs.
    DecisionsExplain,
    /// Required down is not ready; not configured is never healthy.
    HonestHealth,
    /// Every command in the documents is executed by a test.
    DocumentsRun,
}

static BROKEN: [AtomicU64; Invariant::ALL.len()] = [const { AtomicU64::new(0) }; Invariant::ALL.len()];

// === impl Invariant ===

impl Invariant {
    /// The whole catalogue.
    pub const ALL: [Self; 12] = [
        Self::CommitBeforeAnnounce,
        Self::AcknowledgedMeansKept,
        Self::OneWayOut,
        Self::NoSecretInside,
        Self::LimitsHold,
        Self::OneOwner,
        Self::OneAuthoriser,
        Self::NeverWeaker,
        Self::RefusalsTeach,
        Self::DecisionsExplain,
        Self::HonestHealth,
        Self::DocumentsRun,
    ];

    /// The name, as in metrics and documents.
    pub const fn name(self) -> &'static str {
        match self {
            Self::CommitBeforeAnnounce => "commit_before_announce",
            Self::AcknowledgedMeansKept => "acknowledged_means_kept",
            Self::OneWayOut => "one_way_out",
            Self::NoSecretInside => "no_secret_inside",
            Self::LimitsHold => "limits_hold",
            Self::OneOwner => "one_owner",
            Self::OneAuthoriser => "one_authoriser",
            Self::NeverWeaker => "never_weaker",
            Self::RefusalsTeach => "refusals_teach",
            Self::DecisionsExplain => "decisions_explain",
            Self::HonestHealth => "honest_health",
            Self::DocumentsRun => "documents_run",
        }
    }

    /// How often it was found broken since the program started.
    pub fn broken(self) -> u64 {
        BROKEN[self as usize].load(Ordering::Relaxed)
    }

    /// Notes that it was found broken: panics in a debug build, counts in a release build.
    #[track_caller]
    pub fn report_broken(self, what: &str) {
        BROKEN[self as usize].fetch_add(1, Ordering::Relaxed);
        if cfg!(debug_assertions) {
            panic!("invariant {} broken: {what}", self.name());
        }
    }
}

/// Checks a promise from the catalogue: `check_invariant!(LimitsHold, used <= limit, "used {used}")`.
#[macro_export]
macro_rules! check_invariant {
    ($id:ident, $condition:expr, $($what:tt)+) => {
        if !$condition {
            $crate::invariant::Invariant::$id.report_broken(&format!($($what)+));
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_in_the_order_of_the_numbers() {
        for (index, invariant) in Invariant::ALL.into_iter().enumerate() {
            assert_eq!(invariant as usize, index);
        }
    }

    #[test]
    fn a_kept_promise_is_silent_and_a_broken_one_is_counted() {
        check_invariant!(LimitsHold, true, "never");
        assert_eq!(Invariant::LimitsHold.broken(), 0);
        let outcome = std::panic::catch_unwind(|| check_invariant!(NeverWeaker, 1 > 2, "one is not {}", 2));
        assert_eq!(outcome.is_err(), cfg!(debug_assertions));
        assert_eq!(Invariant::NeverWeaker.broken(), 1);
    }
}
