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
mod stories;
mod told;
mod world;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use scenario::Outcome;

/// Names the seed whose story is told.
const SEED: &str = "OUBLIETTE_SIM_SEED";
/// Seeds that every run of the tests looks at.
const SEEDS: std::ops::Range<u64> = 0..60;

/// Seeds that found a fault, and what it was. They stay.
const FOUND: &[(u64, &str)] = &[];

#[test]
fn no_seed_finds_a_fault() {
    if let Some(seed) = number(SEED) {
        return scenario::tell(seed);
    }
    let outcomes = match number("OUBLIETTE_SIM_SEEDS") {
        Some(count) => {
            let first = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0) >> 32;
            world::show(&format!("{count} seeds from {first} on"));
            stories::of((first..first + count).collect())
        }
        None => stories::of(SEEDS.collect()),
    };
    let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
    for (_, outcome) in &outcomes {
        outcome.kinds.iter().for_each(|(kind, count)| *kinds.entry(kind).or_default() += count);
    }
    world::show(&format!("{} seeds: {kinds:?}", outcomes.len()));
    assert_right(&outcomes);
    // What never happens is not tested.
    for kind in ["adopt", "claim", "crash", "cut", "freeze", "hang", "jump", "kill", "refuse", "stop", "thaw"]
    {
        assert!(kinds.contains_key(kind), "no seed had a `{kind}`");
    }
}

#[test]
fn seeds_that_found_a_fault_find_it_no_more() {
    assert_right(&stories::of(FOUND.iter().map(|(seed, _)| *seed).collect()));
}

#[test]
fn the_same_seed_tells_the_same_story_and_another_one_another() {
    let stories = [11, 11, 12].map(|seed| stories::of(vec![seed]).remove(0).1);
    assert!(stories[0].lines > 100, "something happened");
    assert_eq!((stories[0].hash, stories[0].lines), (stories[1].hash, stories[1].lines));
    assert_ne!(stories[0].hash, stories[2].hash);
}

fn assert_right(outcomes: &[(u64, Outcome)]) {
    let mut report = String::new();
    for (seed, outcome) in outcomes.iter().filter(|(_, outcome)| !outcome.faults.is_empty()) {
        writeln!(report, "seed {seed} ({SEED}={seed} tells all of it):").expect("a string takes it");
        outcome.faults.iter().for_each(|fault| writeln!(report, "  {fault}").expect("a string takes it"));
    }
    assert!(report.is_empty(), "{report}");
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}
