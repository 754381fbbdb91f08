//! The armed form of crash points: one of them kills this process the n-th time that it is reached.

use std::num::NonZeroU32;
use std::str::FromStr as _;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

use rustix::process::Signal;
use rustix::process::getpid;
use rustix::process::kill_process;

use crate::CrashPoint;

/// The one point that kills, and how often it may still be reached before.
static PLAN: OnceLock<Plan> = OnceLock::new();

struct Plan {
    point: CrashPoint,
    left: AtomicU32,
}

/// A text that names no crash point, or not how often it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidPlan(pub String);

/// Makes `NAME:N` the death of this process: the point NAME, the N-th time that it is reached, from 1. Only the first
/// call counts.
///
/// # Errors
/// If there is no such point, or N is not a number from 1 on.
pub fn arm(text: &str) -> Result<(), InvalidPlan> {
    let plan = parse(text).ok_or_else(|| InvalidPlan(text.to_owned()))?;
    PLAN.get_or_init(|| plan);
    Ok(())
}

/// Says that this point is reached. Does not return if it is the armed one, and it is its time.
#[inline]
pub fn reach(point: CrashPoint) {
    if let Some(plan) = PLAN.get()
        && plan.point == point
        && plan.left.fetch_sub(1, Ordering::Relaxed) == 1
    {
        die();
    }
}

/// Ends this process as `kill -9` does.
fn die() -> ! {
    loop {
        if kill_process(getpid(), Signal::KILL).is_err() {
            std::process::abort();
        }
    }
}

fn parse(text: &str) -> Option<Plan> {
    let (name, count) = text.rsplit_once(':')?;
    let point = *CrashPoint::ALL.iter().find(|point| point.name() == name)?;
    let count = NonZeroU32::from_str(count).ok()?;
    Some(Plan { point, left: AtomicU32::new(count.get()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_names_a_point_and_counts_from_one() {
        for point in CrashPoint::ALL {
            let plan = parse(&format!("{}:7", point.name())).expect("a plan");
            assert_eq!((plan.point, plan.left.into_inner()), (*point, 7));
        }
        for text in
            ["", "store.commit.before", "store.commit.before:0", "store.nothing:1", "store.commit.before:x"]
        {
            assert!(parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn a_point_that_is_not_armed_does_nothing() {
        for point in CrashPoint::ALL {
            reach(*point);
        }
    }
}
