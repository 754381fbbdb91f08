//! Everything that is random comes from the seed.

use std::ops::RangeInclusive;
use std::sync::Mutex;
use std::time::Duration;

/// A generator of random numbers. Its algorithm must not change: seeds that are kept as tests would become others.
#[derive(Debug)]
pub(crate) struct Chance {
    state: Mutex<u64>,
}

// === impl Chance ===

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: Mutex::new(seed) }
    }

    pub(crate) fn next(&self) -> u64 {
        next_of(&mut self.state.lock().expect("no one panics with it"))
    }

    /// A number below `bound`, which is not 0.
    pub(crate) fn below(&self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// True once in so many times.
    pub(crate) fn one_in(&self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub(crate) fn between(&self, bounds: RangeInclusive<u64>) -> u64 {
        bounds.start() + self.below(bounds.end() - bounds.start() + 1)
    }

    pub(crate) fn millis(&self, bounds: RangeInclusive<u64>) -> Duration {
        Duration::from_millis(self.between(bounds))
    }

    /// One of these, which are not none.
    pub(crate) fn pick<'a, T>(&self, of: &'a [T]) -> &'a T {
        let position = usize::try_from(self.below(of.len() as u64)).unwrap_or(0);
        &of[position]
    }
}

/// `SplitMix64`, by Steele, Lea and Flood (2014).
pub(crate) fn next_of(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
