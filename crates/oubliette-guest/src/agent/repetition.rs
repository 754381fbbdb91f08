//! Notices a model that goes round in circles: the same call with the same result, with nothing new in between.
//!
//! Repeating a call is fine while something else changes: running the tests after each edit often gives the same text.
//! So any call or result that this turn has not seen before sets all counts back.

use std::collections::HashMap;
use std::collections::HashSet;
use std::hash::BuildHasher as _;
use std::hash::RandomState;

/// How often a call may give the same result before the model is told.
pub(crate) const LIMIT: u32 = 4;

/// What a repetition calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing.
    Fine,
    /// Tell the model that it repeats itself.
    Tell,
    /// It was told and goes on: stop the turn.
    Stop,
}

/// Watches the calls of one turn.
#[derive(Debug, Default)]
pub(crate) struct Repetition {
    hasher: RandomState,
    seen: HashSet<u64>,
    counts: HashMap<u64, u32>,
    told: bool,
}

// === impl Repetition ===

impl Repetition {
    /// Takes note of a call and its result.
    pub(crate) fn observe(&mut self, name: &str, arguments: &str, result: &str) -> Verdict {
        let call = self.hasher.hash_one((name, arguments, result));
        if self.seen.insert(call) {
            self.counts.clear();
        }
        let count = self.counts.entry(call).or_default();
        *count += 1;
        if *count < LIMIT {
            return Verdict::Fine;
        }
        if self.told {
            return Verdict::Stop;
        }
        self.told = true;
        // The same patience again, for it and for every other call.
        self.counts.clear();
        Verdict::Tell
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(calls: &[(&str, &str)]) -> Vec<Verdict> {
        let mut repetition = Repetition::default();
        calls.iter().map(|(arguments, result)| repetition.observe("run", arguments, result)).collect()
    }

    #[test]
    fn the_fourth_identical_call_is_told_and_four_more_stop() {
        let verdicts = verdicts(&[("make", "red"); 8]);
        let mut expected = [Verdict::Fine; 8];
        expected[3] = Verdict::Tell;
        expected[7] = Verdict::Stop;
        assert_eq!(verdicts, expected);
    }

    #[test]
    fn two_calls_in_turns_are_a_circle_too() {
        let calls = [("a", "1"), ("b", "2")].repeat(8);
        assert!(verdicts(&calls).contains(&Verdict::Stop));
    }

    #[test]
    fn the_same_red_test_after_each_new_edit_is_no_circle() {
        let edits: Vec<String> = (0..20).map(|number| format!("edit {number}")).collect();
        let calls: Vec<(&str, &str)> =
            edits.iter().flat_map(|edit| [(edit.as_str(), "done"), ("make", "red")]).collect();
        assert!(verdicts(&calls).iter().all(|verdict| *verdict == Verdict::Fine));
    }

    #[test]
    fn another_result_is_progress() {
        let results: Vec<String> = (0..20).map(|number| number.to_string()).collect();
        let calls: Vec<(&str, &str)> = results.iter().map(|result| ("poll", result.as_str())).collect();
        assert!(verdicts(&calls).iter().all(|verdict| *verdict == Verdict::Fine));
    }
}
