//! The engine in a world that is made of a seed: many sessions, servers that die and come back, and whatever can go wrong.
//!
//! Everything above the ports is the real thing: the actors, recovery, the agents' driver, the gates, the guest link with
//! its HTTP/2. Everything below is simulated: the disk, sockets, sandboxes with guests and agents in them, the provider
//! of models, time. All of it runs in one thread, so a seed always tells the same story. See `docs/design/simulation.md`.
//!
//! - `OUBLIETTE_SIM_SEED=n` tells the story of one seed;
//! - `OUBLIETTE_SIM_SEEDS=n` runs so many seeds from a random one on (`make soak`).

mod agent;
mod chance;
mod check;
mod clients;
mod faults;
mod guest;
mod machine;
mod net;
mod os;
mod process;
mod provider;
mod scenario;
mod servers;
mod store;
mod told;
mod world;

use std::collections::BTreeMap;

use scenario::Outcome;

/// Seeds that every run of the tests looks at.
const SEEDS: std::ops::Range<u64> = 0..60;

/// Seeds that found a fault, and what it was. They stay.
const FOUND: &[(u64, &str)] = &[];

#[test]
fn no_seed_finds_a_fault() {
    if let Some(seed) = number("OUBLIETTE_SIM_SEED") {
        let outcome = scenario::run(seed, true);
        world::show(&format!("seed {seed}: {} lines, hash {:016x}", outcome.lines, outcome.hash));
        return assert_right(&[(seed, outcome)]);
    }
    let outcomes = match number("OUBLIETTE_SIM_SEEDS") {
        Some(count) => {
            let first = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0) >> 32;
            world::show(&format!("{count} seeds from {first} on"));
            scenario::run_all(first..first + count)
        }
        None => scenario::run_all(SEEDS),
    };
    let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
    for (_, outcome) in &outcomes {
        outcome.kinds.iter().for_each(|(kind, count)| *kinds.entry(kind).or_default() += count);
    }
    world::show(&format!("{} seeds: {kinds:?}", outcomes.len()));
    assert_right(&outcomes);
    // What never happens is not tested.
    for kind in ["adopt", "claim", "crash", "cut", "freeze", "hang", "jump", "kill", "refuse", "stop", "thaw"] {
        assert!(kinds.contains_key(kind), "no seed had a `{kind}`");
    }
}

#[test]
fn seeds_that_found_a_fault_find_it_no_more() {
    let outcomes: Vec<(u64, Outcome)> =
        FOUND.iter().map(|(seed, _)| (*seed, scenario::run(*seed, false))).collect();
    assert_right(&outcomes);
}

#[test]
fn the_same_seed_tells_the_same_story_and_another_one_another() {
    let stories: Vec<Outcome> = [11, 11, 12].map(|seed| scenario::run(seed, false)).into();
    assert!(stories[0].lines > 100, "something happened");
    assert_eq!((stories[0].hash, stories[0].lines), (stories[1].hash, stories[1].lines));
    assert_ne!(stories[0].hash, stories[2].hash);
}

fn assert_right(outcomes: &[(u64, Outcome)]) {
    let mut report = String::new();
    for (seed, outcome) in outcomes.iter().filter(|(_, outcome)| !outcome.faults.is_empty()) {
        report += &format!("seed {seed} (OUBLIETTE_SIM_SEED={seed} tells all of it):\n");
        outcome.faults.iter().for_each(|fault| report += &format!("  {fault}\n"));
    }
    assert!(report.is_empty(), "{report}");
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}
