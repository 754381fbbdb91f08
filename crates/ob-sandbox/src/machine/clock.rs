//! The clock: kept to the right time, and not behind what was written already.

use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use ob_core::check::Check;
use rustix::time::ClockId;
use rustix::time::clock_gettime;

use super::Distribution;
use super::sys;

/// The wall clock shows at least this, in seconds since 1970: the first of January 2026.
const EARLIEST: u64 = 1_767_225_600;

/// A file that is this much newer than now was written by a clock that was ahead, or now it is behind.
const SKEW_MAX: Duration = Duration::from_secs(60);

const NAME: &str = "clock";
const COST: &str = "times of events and the expiry of tokens are off by as much as the clock";

/// What is known of the clock.
#[derive(Clone, Copy, Debug)]
struct Seen {
    now: SystemTime,
    /// How far the monotonic clock went between two looks, in nanoseconds.
    monotonic_step: i128,
    /// Whether it is kept to a time server's; unknown where the kernel does not tell.
    synchronised: Option<bool>,
    /// When the newest of the files was written that show how far time had come.
    newest: Option<SystemTime>,
}

/// Looks at the clock. `newest` is when the newest file was written that the clock can be held against.
pub fn clock(newest: Option<SystemTime>) -> Check {
    let monotonic = || {
        let now = clock_gettime(ClockId::Monotonic);
        i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec)
    };
    let first = monotonic();
    let now = SystemTime::now();
    let synchronised = sys::clock_is_synchronised().ok();
    judge(Seen { now, monotonic_step: monotonic() - first, synchronised, newest }, Distribution::this())
}

fn judge(seen: Seen, distribution: Distribution) -> Check {
    let set = || distribution.as_root("timedatectl set-ntp true");
    if seen.monotonic_step < 0 {
        return Check::failed(NAME, "the monotonic clock goes back", "time limits may never end")
            .fix("start the machine anew; if it goes on, its hardware or hypervisor is broken");
    }
    if seen.now < UNIX_EPOCH + Duration::from_secs(EARLIEST) {
        let cost = "providers' certificates are refused, and tokens expire at the wrong time";
        return Check::failed(NAME, "it shows a time before this program was made", cost)
            .mend("set it", [set()]);
    }
    if let Some(ahead) = seen.newest.and_then(|newest| newest.duration_since(seen.now).ok())
        && ahead > SKEW_MAX
    {
        let found = format!("it is {} s behind the newest file of the home", ahead.as_secs());
        return Check::warn(NAME, found, COST).mend("keep it to a time server's", [set()]);
    }
    match seen.synchronised {
        Some(true) => Check::ok(NAME, "kept to a time server's"),
        Some(false) => Check::warn(NAME, "nothing keeps it to the right time", COST)
            .mend("keep it to a time server's", [set()]),
        None => Check::ok(NAME, "it goes on; whether it is kept right is not told here"),
    }
}

#[cfg(test)]
mod tests {
    use ob_core::CheckState;

    use super::*;

    #[test]
    fn each_fault_of_the_clock_is_told_with_its_cost() {
        let now = UNIX_EPOCH + Duration::from_secs(EARLIEST + 1_000_000);
        let good = Seen { now, monotonic_step: 1, synchronised: Some(true), newest: Some(now) };
        let state = |seen| judge(seen, Distribution::parse("", true)).state;
        assert_eq!(state(good), CheckState::Ok);
        assert_eq!(state(Seen { synchronised: None, ..good }), CheckState::Ok);
        assert_eq!(state(Seen { synchronised: Some(false), ..good }), CheckState::Warn);
        assert_eq!(state(Seen { newest: Some(now + SKEW_MAX), ..good }), CheckState::Ok);
        assert_eq!(state(Seen { newest: Some(now + SKEW_MAX * 2), ..good }), CheckState::Warn);
        assert_eq!(state(Seen { now: UNIX_EPOCH, ..good }), CheckState::Failed);
        assert_eq!(state(Seen { monotonic_step: -1, ..good }), CheckState::Failed);
        let check = judge(Seen { synchronised: Some(false), ..good }, Distribution::parse("", false));
        assert_eq!(check.commands, ["sudo timedatectl set-ntp true"]);
        assert!(check.cost.is_some());
    }
}
