//! The limits ledger: what a tree may spend, has reserved and has spent.
//!
//! A cost is reserved before it is incurred and settled when it is known, both in the store's transaction, so that
//! concurrent calls never overshoot (invariant 5, `limits_hold`). A session joins its tree the same way: who is in a tree
//! is what the store has of it, counted in the transaction that records the new one.

use std::fmt;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::Serialize;

use crate::time::Timestamp;

/// Millionths of a US dollar. Money is never a float inside.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(transparent)]
pub struct MicroUsd(pub u64);

/// Tokens and money together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Amount {
    /// Tokens, read and written.
    pub tokens: u64,
    /// Money.
    pub cost: MicroUsd,
}

/// What a tree may spend. `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TreeLimits {
    /// The most money, reserved and spent together.
    pub max_cost: Option<MicroUsd>,
    /// The most tokens, reserved and spent together.
    pub max_tokens: Option<u64>,
    /// How far below the root, which is at 0, a session may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_depth: Option<u32>,
    /// The most sessions that it may ever have, the root among them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_agents: Option<u32>,
    /// The most sessions that are not over at any time, the root among them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_live: Option<u32>,
    /// For how long after its beginning it may start sessions and call models, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_wall_ms: Option<u64>,
}

/// The books of one tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Ledger {
    /// What it may spend.
    pub limits: TreeLimits,
    /// Reserved by calls that have not settled.
    pub reserved: Amount,
    /// Spent.
    pub used: Amount,
    /// When the tree began; unknown of those that an earlier version made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began_at: Option<Timestamp>,
}

/// Who is in a tree already, and where a new session would be in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Joining {
    /// How far below the root it would be; 0 for the root itself.
    pub depth: u32,
    /// Sessions that the tree ever had.
    pub agents: u32,
    /// Of these, those that are not over.
    pub live: u32,
}

/// Which limit a reservation would exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum OverLimit {
    /// Money.
    #[error("{asked} more would exceed the limit of {limit} ({used} used, {reserved} reserved)")]
    Cost {
        /// What was asked for.
        asked: MicroUsd,
        /// The limit.
        limit: MicroUsd,
        /// What is spent.
        used: MicroUsd,
        /// What is reserved.
        reserved: MicroUsd,
    },
    /// Tokens.
    #[error("{asked} tokens more would exceed the limit of {limit} ({used} used, {reserved} reserved)")]
    Tokens {
        /// What was asked for.
        asked: u64,
        /// The limit.
        limit: u64,
        /// What is spent.
        used: u64,
        /// What is reserved.
        reserved: u64,
    },
    /// How far below the root.
    #[error("a session at depth {asked} would exceed `max_recursion_depth`, which is {limit}")]
    Depth {
        /// Where the session would be.
        asked: u32,
        /// The limit.
        limit: u32,
    },
    /// Sessions that the tree ever had.
    #[error("one session more would exceed `max_agents_per_session`, which is {limit} ({used} used)")]
    Agents {
        /// The limit.
        limit: u32,
        /// How many there were.
        used: u32,
    },
    /// Sessions that are not over.
    #[error("one session more would exceed `max_live_agents`, which is {limit} ({used} are not over)")]
    Live {
        /// The limit.
        limit: u32,
        /// How many there are.
        used: u32,
    },
    /// Time since the tree began.
    #[error("the tree may work for {} s (`max_wall_s`), and began {} s ago", .limit_ms / 1000, .used_ms / 1000)]
    WallTime {
        /// The limit, in milliseconds.
        limit_ms: u64,
        /// What is used of it.
        used_ms: u64,
    },
}

// === impl MicroUsd ===

impl MicroUsd {
    /// From US dollars as configuration writes them; refuses what is negative, not finite, or over a billion.
    pub fn from_usd(usd: f64) -> Option<Self> {
        if !usd.is_finite() || !(0.0..=1e9).contains(&usd) {
            return None;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "bounded above and below by the line before"
        )]
        Some(Self((usd * 1e6).round() as u64))
    }

    /// The sum, saturating.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference, zero if `other` is more.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl fmt::Display for MicroUsd {
    /// `$1.23`, or with up to six digits where cents do not tell.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (dollars, micros) = (self.0 / 1_000_000, self.0 % 1_000_000);
        if micros.is_multiple_of(10_000) {
            write!(f, "${dollars}.{:02}", micros / 10_000)
        } else {
            let digits = format!("{micros:06}");
            write!(f, "${dollars}.{}", digits.trim_end_matches('0'))
        }
    }
}

// === impl Amount ===

impl Amount {
    /// Tokens and money.
    pub const fn new(tokens: u64, cost: MicroUsd) -> Self {
        Self { tokens, cost }
    }

    const fn plus(self, other: Self) -> Self {
        Self { tokens: self.tokens.saturating_add(other.tokens), cost: self.cost.plus(other.cost) }
    }

    const fn minus(self, other: Self) -> Self {
        Self { tokens: self.tokens.saturating_sub(other.tokens), cost: self.cost.minus(other.cost) }
    }
}

// === impl OverLimit ===

impl OverLimit {
    /// The limit's name, as `config_limits` shows it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Cost { .. } => "cost",
            Self::Tokens { .. } => "tokens",
            Self::Depth { .. } => "depth",
            Self::Agents { .. } => "agents",
            Self::Live { .. } => "live_agents",
            Self::WallTime { .. } => "time",
        }
    }

    /// The limit's value, in its unit.
    pub const fn limit(&self) -> u64 {
        match self {
            Self::Cost { limit, .. } => limit.0,
            Self::Tokens { limit, .. } => *limit,
            Self::Depth { limit, .. } | Self::Agents { limit, .. } | Self::Live { limit, .. } => {
                *limit as u64
            }
            Self::WallTime { limit_ms, .. } => *limit_ms,
        }
    }

    /// What to do about it.
    pub const fn fix(&self) -> &'static str {
        match self {
            Self::Cost { .. } => "raise the project's `max_cost_usd`, or start a new session",
            Self::Tokens { .. } => "start a new session",
            Self::Depth { .. } => {
                "do it in this session, or have the project's `max_recursion_depth` raised for trees to come"
            }
            Self::Agents { .. } => {
                "do it in this session, or have the project's `max_agents_per_session` raised for trees to come"
            }
            Self::Live { .. } => "wait for a child to end, or end one with `session end`",
            Self::WallTime { .. } => "start a new session from outside, which begins a new tree",
        }
    }
}

// === impl Ledger ===

impl Ledger {
    /// Lets one more session join, or says which limit forbids it. `at` is now.
    pub fn join(&self, joining: Joining, at: Timestamp) -> Result<(), OverLimit> {
        let TreeLimits { max_depth, max_agents, max_live, .. } = self.limits;
        if let Some(limit) = max_depth
            && joining.depth > limit
        {
            return Err(OverLimit::Depth { asked: joining.depth, limit });
        }
        if let Some(limit) = max_agents
            && joining.agents >= limit
        {
            return Err(OverLimit::Agents { limit, used: joining.agents });
        }
        if let Some(limit) = max_live
            && joining.live >= limit
        {
            return Err(OverLimit::Live { limit, used: joining.live });
        }
        self.in_time(at)
    }

    /// How long ago the tree began, in milliseconds; nothing if that is unknown.
    pub fn age_ms(&self, at: Timestamp) -> Option<u64> {
        let began = self.began_at?;
        Some(u64::try_from(at.since(began).as_millis()).unwrap_or(u64::MAX))
    }

    fn in_time(&self, at: Timestamp) -> Result<(), OverLimit> {
        match (self.limits.max_wall_ms, self.age_ms(at)) {
            (Some(limit_ms), Some(used_ms)) if used_ms > limit_ms => {
                Err(OverLimit::WallTime { limit_ms, used_ms })
            }
            _ => Ok(()),
        }
    }

    /// Reserves `amount`, or says which limit forbids it. `at` is now.
    pub fn reserve(self, amount: Amount, at: Timestamp) -> Result<Self, OverLimit> {
        self.in_time(at)?;
        let next = Self { reserved: self.reserved.plus(amount), ..self };
        if let Some(limit) = self.limits.max_cost
            && next.used.cost.plus(next.reserved.cost) > limit
        {
            return Err(OverLimit::Cost {
                asked: amount.cost,
                limit,
                used: self.used.cost,
                reserved: self.reserved.cost,
            });
        }
        if let Some(limit) = self.limits.max_tokens
            && next.used.tokens.saturating_add(next.reserved.tokens) > limit
        {
            return Err(OverLimit::Tokens {
                asked: amount.tokens,
                limit,
                used: self.used.tokens,
                reserved: self.reserved.tokens,
            });
        }
        Ok(next)
    }

    /// Gives a reservation back and books what was really used.
    #[must_use]
    pub const fn settle(self, reserved: Amount, used: Amount) -> Self {
        Self { reserved: self.reserved.minus(reserved), used: self.used.plus(used), ..self }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(5_000_000);

    fn usd(cents: u64) -> MicroUsd {
        MicroUsd(cents * 10_000)
    }

    #[test]
    fn money_reads_as_money() {
        for (micros, text) in [
            (0, "$0.00"),
            (10_000, "$0.01"),
            (1_500_000, "$1.50"),
            (1_234, "$0.001234"),
            (10_000_000, "$10.00"),
        ] {
            assert_eq!(MicroUsd(micros).to_string(), text);
        }
        assert_eq!(MicroUsd::from_usd(10.0), Some(MicroUsd(10_000_000)));
        for wrong in [-0.01, f64::NAN, f64::INFINITY, 1e10] {
            assert_eq!(MicroUsd::from_usd(wrong), None);
        }
    }

    #[test]
    fn a_limit_counts_what_is_reserved() {
        let ledger = Ledger {
            limits: TreeLimits { max_cost: Some(usd(100)), max_tokens: None, ..Default::default() },
            ..Ledger::default()
        };
        let ledger = ledger.reserve(Amount::new(10, usd(60)), NOW).expect("fits");
        let over = ledger.reserve(Amount::new(10, usd(60)), NOW).expect_err("does not fit");
        assert_eq!(
            over.to_string(),
            "$0.60 more would exceed the limit of $1.00 ($0.00 used, $0.60 reserved)"
        );
        let ledger = ledger.settle(Amount::new(10, usd(60)), Amount::new(3, usd(5)));
        assert_eq!(ledger.used, Amount::new(3, usd(5)));
        ledger.reserve(Amount::new(10, usd(95)), NOW).expect("exactly the rest fits");
    }

    #[test]
    fn each_limit_of_a_tree_stops_whoever_would_exceed_it_and_says_which_it_is() {
        let limits = TreeLimits {
            max_depth: Some(3),
            max_agents: Some(50),
            max_live: Some(4),
            max_wall_ms: Some(2000),
            ..TreeLimits::default()
        };
        let began_at = Some(Timestamp::from_micros(3_000_000));
        let tree = Ledger { limits, began_at, ..Ledger::default() };
        let last = Joining { depth: 3, agents: 49, live: 3 };
        assert_eq!(tree.join(last, NOW), Ok(()), "exactly the rest fits");
        let refused = |joining, at| {
            let over = tree.join(joining, at).expect_err("over a limit");
            (over.name(), over.limit(), over.to_string())
        };
        let later = Timestamp::from_micros(5_001_000);
        insta::assert_debug_snapshot!([
            refused(Joining { depth: 4, ..last }, NOW),
            refused(Joining { agents: 50, ..last }, NOW),
            refused(Joining { live: 4, ..last }, NOW),
            refused(last, later),
        ]);
        assert!(matches!(tree.reserve(Amount::default(), later), Err(OverLimit::WallTime { .. })));
        let unlimited = Ledger::default();
        assert_eq!(unlimited.join(Joining { depth: 900, agents: u32::MAX, live: u32::MAX }, later), Ok(()));
    }

    proptest! {
        /// Reservations that are settled at or under their amount never exceed the limits.
        #[test]
        fn reserved_and_used_never_exceed_the_limits(
            steps in proptest::collection::vec((0u64..50, 0u64..50, 0u64..=100), 0..100),
        ) {
            let limits = TreeLimits { max_cost: Some(MicroUsd(200)), max_tokens: Some(300), ..Default::default() };
            let mut ledger = Ledger { limits, ..Ledger::default() };
            let mut open = Vec::new();
            for (tokens, cost, percent) in steps {
                let amount = Amount::new(tokens, MicroUsd(cost));
                match ledger.reserve(amount, NOW) {
                    Ok(next) => { ledger = next; open.push((amount, percent)); }
                    Err(_) => if let Some((held, percent)) = open.pop() {
                        let used = Amount::new(held.tokens * percent / 100, MicroUsd(held.cost.0 * percent / 100));
                        ledger = ledger.settle(held, used);
                    }
                }
                prop_assert!(ledger.used.cost.plus(ledger.reserved.cost) <= MicroUsd(200));
                prop_assert!(ledger.used.tokens + ledger.reserved.tokens <= 300);
            }
        }
    }
}
