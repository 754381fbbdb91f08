//! Which server is meant, where several of one home may be alive at once: one that was stopped for long and goes on does
//! not know that it has a successor.

use serde::Deserialize;
use serde::Serialize;

/// Counts the servers that owned a home's state; a later one is higher, and the first is 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

// === impl Epoch ===

impl Epoch {
    /// Of whoever names none: a server of an earlier version. Nothing is kept from it, as nothing was then.
    pub const UNKNOWN: Self = Self(0);

    /// True if what belongs to `owner` is not this one's any more.
    pub fn is_late_for(self, owner: Self) -> bool {
        self != Self::UNKNOWN && self < owner
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_has_a_successor_is_late() {
        assert!(Epoch(1).is_late_for(Epoch(2)));
        for (who, owner) in [(2, 2), (3, 2), (1, 0), (0, 2)] {
            assert!(!Epoch(who).is_late_for(Epoch(owner)), "{who} for {owner}");
        }
    }
}
