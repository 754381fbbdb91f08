//! When a call that failed is tried again, as long as nothing of its answer was delivered.
//!
//! With another key at once, each key once; else after a pause, as often as `models.retries` says.

use std::time::Duration;

use crate::models::Key;
use crate::models::Provider;
use crate::refuse::Again;
use crate::refuse::GateRefusal;

/// The pause before the first further try; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause. Whoever is told to wait longer than this hears it from us and can do something else meanwhile.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How often and when a call is tried again.
pub(crate) struct Tries {
    left: u32,
    pause: Duration,
    /// Keys that were not tried yet, the one in use included.
    other_keys: usize,
}

// === impl Tries ===

impl Tries {
    /// Those of a call.
    pub(crate) fn of(provider: &Provider) -> Self {
        Self { left: provider.retries, pause: FIRST_PAUSE, other_keys: provider.keys.count() }
    }

    /// The pause before the next try; `None` if there is none.
    pub(crate) fn after(
        &mut self,
        refused: &GateRefusal,
        provider: &Provider,
        key: Option<Key<'_>>,
    ) -> Option<Duration> {
        if let (Again::OtherKey | Again::Slower, Some(key)) = (refused.again, key)
            && self.other_keys > 1
        {
            self.other_keys -= 1;
            provider.keys.pass_over(key);
            return Some(Duration::ZERO);
        }
        if matches!(refused.again, Again::No | Again::OtherKey) || self.left == 0 {
            return None;
        }
        let asked = refused.retry_after.as_ref().and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let pause = asked.map_or(self.pause, Duration::from_secs);
        if pause > LONGEST_PAUSE {
            return None;
        }
        self.left -= 1;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Some(pause)
    }
}
