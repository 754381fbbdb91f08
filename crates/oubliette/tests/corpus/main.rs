//! The escape corpus: attempts to get out of a session, to get at a neighbour, and to fool the host with what an agent
//! says, each with a positive control that shows that the attempt works where nothing stops it.
//!
//! The table is in the modules; `docs/security-corpus.md` is written from it (`UPDATE_DOCS=1 cargo test -p oubliette
//! --test corpus`). A case fails if its attempt gets something, and also if its control does not: then the attempt
//! shows nothing. One session serves all attempts that are made inside, so a run takes seconds. All of it is tried again on
//! the backend that does not isolate, where each attempt must go as [`without`] says.
//!
//! This program is also the attacker: see [`attack`]. What a machine lacks is said; with `CI=true` a machine that
//! cannot run sandboxes fails.

#![expect(clippy::unwrap_used, reason = "a test says what it expects by failing")]
#![expect(clippy::print_stderr, reason = "a skipped test says so")]
#![expect(clippy::print_stdout, reason = "the summary is for people")]

mod attack;
mod batch;
mod case;
mod document;
#[path = "../acceptance/harness.rs"]
#[expect(dead_code, reason = "it is shared with tests that use the rest of it")]
mod harness;
mod naive;
mod ours;
mod place;
#[path = "../acceptance/terminal.rs"]
#[expect(dead_code, reason = "it is shared with tests that use the rest of it")]
mod terminal;
mod without;

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::Mutex;

use libtest_mimic::Arguments;
use libtest_mimic::Failed;
use libtest_mimic::Trial;

use crate::batch::Verdicts;
use crate::case::Case;
use crate::case::How;
use crate::case::Verdict;
use crate::without::Without;

/// What became of a case: held with a control that worked, held without a control, open as the list says, or not as it
/// should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Held,
    Uncontrolled,
    Open,
    Failed,
}

/// Outcomes by class, for the summary.
type Tally = Arc<Mutex<BTreeMap<&'static str, Vec<Outcome>>>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.get(1).map(String::as_str) == Some("attack") {
        return match attack::main(&arguments[2..]) {
            Ok(()) => ExitCode::SUCCESS,
            Err(what) => {
                eprintln!("{what}");
                ExitCode::FAILURE
            }
        };
    }
    let arguments = Arguments::from_args();
    let cases = all();
    let is_wanted = |case: &Case| {
        arguments.filter.as_ref().is_none_or(|filter| case.id.contains(filter.as_str())) && !arguments.list
    };
    let wants_sandbox = cases.iter().any(|case| !matches!(case.how, How::Part(..)) && is_wanted(case));
    let can_sandbox = wants_sandbox && harness::can_sandbox();
    let verdicts = if can_sandbox { batch::run(&cases) } else { Verdicts::new() };
    // An ordinary user's agents without walls are that user: nothing of it could be held.
    let can_without = can_sandbox && batch::is_root();
    let without = if can_without { batch::run_without_walls(&cases) } else { HashMap::new() };
    let (verdicts, without) = (Arc::new(verdicts), Arc::new(without));
    let (tally, tally_without) = (Tally::default(), Tally::default());
    let mut trials: Vec<Trial> =
        cases.iter().map(|case| trial(*case, &verdicts, &tally, can_sandbox)).collect();
    trials.extend(
        cases
            .iter()
            .filter(|case| Without::of(case).is_tried())
            .map(|case| trial_without(*case, &verdicts, &without, &tally_without, can_without)),
    );
    let rules = document::rules(cases);
    trials.extend(
        rules.into_iter().map(|(name, rule)| Trial::test(name, move || rule().map_err(Failed::from))),
    );
    let conclusion = libtest_mimic::run(&arguments, trials);
    println!("backend namespace");
    summarise(&tally);
    println!("backend process, which isolates nothing");
    summarise(&tally_without);
    conclusion.exit_code()
}

/// The whole corpus.
fn all() -> Vec<Case> {
    [attack::cases(), ours::cases()].concat()
}

fn trial(case: Case, verdicts: &Arc<Verdicts>, tally: &Tally, can_sandbox: bool) -> Trial {
    let is_part = matches!(case.how, How::Part(..));
    let (verdicts, tally) = (Arc::clone(verdicts), Arc::clone(tally));
    let run = move || {
        let (attempt, control) = match case.how {
            How::Part(attempt, naive) => (attempt(case.id), naive(case.id)),
            How::Inside(..) | How::Seen(..) => {
                verdicts.get(case.id).cloned().ok_or("the attempt was never made")?
            }
        };
        let (outcome, why) = judge(&case, &attempt, &control);
        tally.lock().unwrap().entry(case.class()).or_default().push(outcome);
        match outcome {
            Outcome::Failed => Err(Failed::from(why)),
            Outcome::Held | Outcome::Uncontrolled | Outcome::Open => Ok(()),
        }
    };
    Trial::test(case.id, run).with_ignored_flag(!is_part && !can_sandbox)
}

/// The same attempt on the backend that does not isolate: it must go as the list says.
fn trial_without(
    case: Case,
    verdicts: &Arc<Verdicts>,
    without: &Arc<HashMap<String, Verdict>>,
    tally: &Tally,
    can_sandbox: bool,
) -> Trial {
    let (verdicts, without, tally) = (Arc::clone(verdicts), Arc::clone(without), Arc::clone(tally));
    let run = move || {
        let attempt = without.get(case.id).ok_or("the attempt was never made")?;
        let control = verdicts.get(case.id).map(|(_, control)| control);
        let works_here = matches!(control, Some(Verdict::Got(_)));
        let (outcome, why) = match (Without::of(&case), attempt) {
            (_, Verdict::Missing(what)) => (Outcome::Failed, format!("the attempt was not made: {what}")),
            (Without::Open | Without::Depends, Verdict::Got(_)) => (Outcome::Open, String::new()),
            (Without::Open, Verdict::Held(how)) if works_here => {
                (Outcome::Failed, format!("it is held by now ({how}): say so in `without.rs`"))
            }
            (_, Verdict::Got(what)) => {
                (Outcome::Failed, format!("{}: it worked: {what}. {}", case.tries, case.shows))
            }
            (_, Verdict::Held(_)) if works_here => (Outcome::Held, String::new()),
            (_, Verdict::Held(_)) => (Outcome::Uncontrolled, String::new()),
        };
        tally.lock().unwrap().entry(case.class()).or_default().push(outcome);
        if outcome == Outcome::Failed { Err(Failed::from(why)) } else { Ok(()) }
    };
    Trial::test(format!("{}@process", case.id), run).with_ignored_flag(!can_sandbox)
}

fn judge(case: &Case, attempt: &Verdict, control: &Verdict) -> (Outcome, String) {
    match (attempt, control) {
        (Verdict::Got(_), _) => {
            (Outcome::Failed, format!("{}: it worked: {}. {}", case.tries, attempt.words(), case.shows))
        }
        (Verdict::Missing(what), _) => (Outcome::Failed, format!("the attempt was not made: {what}")),
        (Verdict::Held(_), Verdict::Got(_)) => (Outcome::Held, String::new()),
        (Verdict::Held(_), Verdict::Missing(_)) if case.needs.is_some() || !batch::is_root() => {
            (Outcome::Uncontrolled, String::new())
        }
        (Verdict::Held(how), control) => (
            Outcome::Failed,
            format!(
                "the control does not work, so the attempt shows nothing: {} (inside: {how})",
                control.words()
            ),
        ),
    }
}

fn summarise(tally: &Tally) {
    let tally = tally.lock().unwrap();
    let count = |outcomes: &[Outcome], of: Outcome| outcomes.iter().filter(|outcome| **outcome == of).count();
    let line = |class: &str, outcomes: &[Outcome]| {
        let (failed, open) = (count(outcomes, Outcome::Failed), count(outcomes, Outcome::Open));
        let uncontrolled = count(outcomes, Outcome::Uncontrolled);
        let held = outcomes.len() - failed - open;
        println!("{class:<14} {:>8} {held:>8} {open:>8} {uncontrolled:>22}", outcomes.len());
    };
    println!(
        "{:<14} {:>8} {:>8} {:>8} {:>22}",
        "class", "attempts", "held", "open", "without a control here"
    );
    for (class, outcomes) in tally.iter() {
        line(class, outcomes);
    }
    line("all", &tally.values().flatten().copied().collect::<Vec<_>>());
}
