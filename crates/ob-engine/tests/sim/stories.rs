//! Many seeds, each in a process of its own: libraries keep counters for the whole process (tokio mixes one into its
//! random numbers), and in a new process they are as new as the seed.

use std::collections::VecDeque;
use std::process::Command;
use std::sync::Mutex;

use crate::SEED;
use crate::scenario::OUTCOME;
use crate::scenario::Outcome;

/// Tells the stories of these seeds, on all processors; their outcomes, in the same order.
pub(crate) fn of(seeds: Vec<u64>) -> Vec<(u64, Outcome)> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let left: Mutex<VecDeque<(usize, u64)>> = Mutex::new(seeds.into_iter().enumerate().collect());
    let outcomes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let next = left.lock().expect("no one panics with it").pop_front();
                    let Some((place, seed)) = next else { return };
                    let outcome = one(seed);
                    outcomes.lock().expect("no one panics with it").push((place, seed, outcome));
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().expect("no one panics with it");
    outcomes.sort_unstable_by_key(|(place, ..)| *place);
    outcomes.into_iter().map(|(_, seed, outcome)| (seed, outcome)).collect()
}

fn one(seed: u64) -> Outcome {
    let this = std::env::current_exe().expect("this program has a file");
    let said = Command::new(this)
        .args(["--exact", "no_seed_finds_a_fault", "--nocapture"])
        .env(SEED, seed.to_string())
        .output()
        .expect("this program can be started again");
    let said = String::from_utf8_lossy(&said.stderr);
    let outcome = said.lines().find_map(|line| serde_json::from_str(line.strip_prefix(OUTCOME)?).ok());
    outcome.unwrap_or_else(|| panic!("seed {seed} did not come to its end:\n{said}"))
}
