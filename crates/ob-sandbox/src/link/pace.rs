//! How fast an output may be read: whoever writes more waits behind its full pipe.
//!
//! A bucket of [`BURST`] seconds' worth fills at the rate; what is read is taken out of it. A reader whose bucket is
//! below nothing pauses until it is not, and the guest's window, the pipe and the writer stop behind it. Nothing is
//! dropped.

use std::time::Duration;

use ob_core::resource::Consequence;
use ob_core::resource::LimitHit;
use ob_core::resource::Resource;
use tokio::time::Instant;

/// Seconds of output that may come at once, after a silence.
const BURST: u64 = 2;
/// A writer that is held back is told of no more often than this.
const REPORT: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug)]
pub struct Pace {
    /// Bytes a second. Not 0.
    rate: u64,
    /// Bytes that may be read now; below nothing after a large read.
    left: i128,
    filled_at: Option<Instant>,
    /// Pauses since the last report.
    pauses: u64,
    reported_at: Option<Instant>,
}

// === impl Pace ===

impl Pace {
    /// So many bytes a second; at least one.
    pub fn new(rate: u64) -> Self {
        let rate = rate.max(1);
        Self { rate, left: i128::from(rate * BURST), filled_at: None, pauses: 0, reported_at: None }
    }

    /// Notes that so many bytes were read. Returns how long to wait before reading more, if at all.
    pub fn take(&mut self, count: usize, now: Instant) -> Option<Duration> {
        let since = self.filled_at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.filled_at = Some(now);
        let filled = i128::try_from(since.as_micros()).unwrap_or(i128::MAX).saturating_mul(self.rate.into());
        let full = i128::from(self.rate) * i128::from(BURST);
        self.left = self.left.saturating_add(filled / 1_000_000).min(full);
        self.left -= i128::try_from(count).unwrap_or(i128::MAX);
        if self.left >= 0 {
            return None;
        }
        self.pauses += 1;
        let micros = self.left.unsigned_abs() * 1_000_000 / u128::from(self.rate);
        Some(Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX)))
    }

    /// What there is to tell of pauses, if it is time to.
    pub fn report(&mut self, now: Instant) -> Option<LimitHit> {
        let is_due = self.reported_at.is_none_or(|at| now.saturating_duration_since(at) >= REPORT);
        if self.pauses == 0 || !is_due {
            return None;
        }
        self.reported_at = Some(now);
        Some(LimitHit {
            resource: Resource::OutputRate,
            used: self.rate,
            bound: self.rate,
            times: std::mem::take(&mut self.pauses),
            consequence: Consequence::Slowed,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_burst_goes_through_and_a_flood_waits_and_is_told_of() {
        let start = Instant::now();
        let mut pace = Pace::new(1000);
        assert_eq!(pace.take(2000, start), None, "two seconds' worth at once");
        assert_eq!(pace.report(start), None);
        assert_eq!(pace.take(500, start), Some(Duration::from_millis(500)));
        let hit = pace.report(start).expect("the first pause is told of");
        assert_eq!((hit.resource, hit.bound, hit.times), (Resource::OutputRate, 1000, 1));
        assert!(pace.take(500, start).is_some());
        assert_eq!(pace.report(start + Duration::from_secs(1)), None, "once in a while");
        assert_eq!(pace.report(start + REPORT).map(|hit| hit.times), Some(1));
        assert_eq!(pace.take(2000, start + Duration::from_secs(60)), None, "a silence fills the bucket");
    }

    proptest! {
        /// Whoever waits as told never reads faster than the rate, but for one burst and one read.
        #[test]
        fn the_rate_holds_for_every_pattern_of_reads(
            rate in 1_u64..1_000_000,
            reads in proptest::collection::vec((0_usize..100_000, 0_u64..3000), 1..100),
        ) {
            let start = Instant::now();
            let (mut pace, mut now, mut total) = (Pace::new(rate), start, 0_u64);
            let mut largest = 0;
            for (count, silence) in reads {
                now += Duration::from_millis(silence);
                total += count as u64;
                largest = largest.max(count as u64);
                now += pace.take(count, now).unwrap_or_default();
                let allowed = rate as f64 * (now - start).as_secs_f64() + (rate * BURST) as f64;
                // Micro-seconds are cut off.
                prop_assert!(total as f64 <= allowed + rate as f64 / 1000.0 + 1.0, "{total} of {allowed}");
            }
        }
    }
}
