//! The limits ledger: what a tree may spend, has reserved and has spent.
//!
//! A cost is reserved before it is incurred and settled when it is known, both in the store's transaction, so that
//! concurrent calls never overshoot (invariant 5, `limits_hold`).

use std::fmt;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::Serialize;

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

// === impl Ledger ===

impl Ledger {
    /// Reserves `amount`, or says which limit forbids it.
    pub fn reserve(self, amount: Amount) -> Result<Self, OverLimit> {
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
        let ledger =
            Ledger { limits: TreeLimits { max_cost: Some(usd(100)), max_tokens: None }, ..Ledger::default() };
        let ledger = ledger.reserve(Amount::new(10, usd(60))).expect("fits");
        let over = ledger.reserve(Amount::new(10, usd(60))).expect_err("does not fit");
        assert_eq!(
            over.to_string(),
            "$0.60 more would exceed the limit of $1.00 ($0.00 used, $0.60 reserved)"
        );
        let ledger = ledger.settle(Amount::new(10, usd(60)), Amount::new(3, usd(5)));
        assert_eq!(ledger.used, Amount::new(3, usd(5)));
        ledger.reserve(Amount::new(10, usd(95))).expect("exactly the rest fits");
    }

    proptest! {
        /// Reservations that are settled at or under their amount never exceed the limits.
        #[test]
        fn reserved_and_used_never_exceed_the_limits(
            steps in proptest::collection::vec((0u64..50, 0u64..50, 0u64..=100), 0..100),
        ) {
            let limits = TreeLimits { max_cost: Some(MicroUsd(200)), max_tokens: Some(300) };
            let mut ledger = Ledger { limits, ..Ledger::default() };
            let mut open = Vec::new();
            for (tokens, cost, percent) in steps {
                let amount = Amount::new(tokens, MicroUsd(cost));
                match ledger.reserve(amount) {
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
