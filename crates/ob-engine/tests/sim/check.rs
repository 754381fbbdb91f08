//! What must be so when everything has come to rest.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;

use ob_core::Event;
use ob_core::EventKind;
use ob_core::QuestionId;
use ob_core::SessionId;
use ob_core::event::Role;
use ob_core::ledger::Amount;
use ob_core::ledger::MicroUsd;
use ob_core::record::SessionRecord;
use ob_core::session::SessionState;
use ob_core::turn::TurnState;
use ob_store::Store as _;
use tokio::time::Instant;

use crate::told;
use crate::told::Fate;
use crate::world::World;

/// After the last fault, everything is at rest within this: the longest patience of the engine is a minute, a session
/// is started three times, and turns wait for each other.
const REST: Duration = Duration::from_secs(900);

/// Waits until something is so; false if it is not so in time.
pub(crate) async fn eventually(mut is_so: impl AsyncFnMut() -> bool) -> bool {
    let until = Instant::now() + REST;
    while Instant::now() < until {
        if is_so().await {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    false
}

/// Waits until no session has anything to do.
pub(crate) async fn rest(world: &World) {
    let at_rest = eventually(async || {
        let sessions = records(world).await;
        sessions.iter().all(is_at_rest)
    });
    if !at_rest.await {
        for record in records(world).await.iter().filter(|record| !is_at_rest(record)) {
            world.wrong(&format!("{} is stuck: {:?}", record.id, record.core));
        }
    }
}

fn is_at_rest(record: &SessionRecord) -> bool {
    let idle = matches!(record.core.state, SessionState::Idle | SessionState::Asleep)
        && record.core.queue.is_empty();
    record.core.state.is_over() || idle
}

pub(crate) async fn records(world: &World) -> Vec<SessionRecord> {
    let mut records = Vec::new();
    for id in world.disk.session_ids() {
        records.extend(world.disk.session(&id).await.ok().flatten());
    }
    records
}

/// Holds all logs against what was told.
pub(crate) async fn logs(world: &World) {
    for (session, told) in world.told.sessions() {
        let Ok(Some(record)) = world.disk.session(&session).await else {
            world.wrong(&format!("acknowledged_means_kept: {session} is gone"));
            continue;
        };
        if told.ended && !record.core.state.is_over() {
            world.wrong(&format!("{session} was ended and is {}", record.core.state.as_str()));
        }
    }
    messages(world);
    for record in records(world).await {
        let log = world.disk.log(&record.id);
        for (event, expected) in log.iter().zip(0..) {
            if event.index != expected {
                world.wrong(&format!("{} has event {} in the place of {expected}", record.id, event.index));
            }
        }
        world.told.check_seen(world, &record.id, &log);
        questions(world, &record, &log);
        turns(world, &record).await;
        runs(world, &record, &log).await;
        books(world, &record, &log).await;
    }
}

/// Each accepted message is in its log once, and no refused one is in any.
fn messages(world: &World) {
    let sessions = world.disk.session_ids();
    let kept = world.told.sessions();
    let mut times: BTreeMap<u64, Vec<SessionId>> = BTreeMap::new();
    for session in &sessions {
        for event in world.disk.log(session) {
            let is_users = event.body.kind == EventKind::Message && event.body.role == Some(Role::User);
            if let Some(task) = event.body.text.as_deref().filter(|_| is_users).and_then(told::task_of) {
                times.entry(task).or_default().push(session.clone());
            }
        }
    }
    for (number, task) in world.told.tasks() {
        let found = times.get(&number).map_or(&[][..], Vec::as_slice);
        let is_right = match task.fate {
            Fate::Unknown => found.len() <= 1,
            Fate::Refused => found.is_empty(),
            Fate::Accepted => match &task.session {
                Some(session) if kept.contains_key(session) => found == std::slice::from_ref(session),
                _ => true,
            },
        };
        if !is_right {
            world.wrong(&format!(
                "task {number} of {:?} was {:?} and is in {found:?}",
                task.session, task.fate
            ));
        }
    }
}

/// A question is asked once and closed at most once; and as was said, if somebody was told that the answer is taken.
fn questions(world: &World, record: &SessionRecord, log: &[Event]) {
    let mut told: BTreeMap<QuestionId, Vec<(String, Option<&str>)>> = BTreeMap::new();
    for event in log {
        let Some(data) = &event.body.data else { continue };
        let id = data["question_id"].as_str().and_then(|id| id.parse::<QuestionId>().ok());
        let (Some(id), Some(state)) = (id, data["state"].as_str()) else { continue };
        told.entry(id).or_default().push((state.to_owned(), event.body.text.as_deref()));
    }
    for (id, states) in &told {
        let is_right = match &states[..] {
            [(first, _)] => first == "open",
            [(first, _), (last, _)] => first == "open" && last != "open",
            _ => false,
        };
        if !is_right {
            world.wrong(&format!("question {id} of {} is told as {states:?}", record.id));
        }
        if let Some(answer) = world.told.answer(&record.id, *id)
            && states.last() != Some(&("answered".to_owned(), Some(answer.as_str())))
        {
            world.wrong(&format!(
                "acknowledged_means_kept: question {id} of {} was answered `{answer}` and is {states:?}",
                record.id
            ));
        }
    }
    if record.core.active.is_none() && record.questions.iter().any(|question| !question.is_open()) {
        world.wrong(&format!("{} has answers that nobody was told: {:?}", record.id, record.questions));
    }
}

/// No turn is forgotten.
async fn turns(world: &World, record: &SessionRecord) {
    let turns = world.disk.turns(&record.id).await.unwrap_or_default();
    for (turn, expected) in turns.iter().zip(1..) {
        if turn.number.0 != expected {
            world.wrong(&format!("{} has turn {} in the place of {expected}", record.id, turn.number));
        }
        if !turn.state.is_over() {
            world.wrong(&format!("turn {} of {} is {:?} at rest", turn.number, record.id, turn.state));
        }
    }
    if turns.last().map(|turn| turn.number) != Some(record.last_turn) {
        world.wrong(&format!("{} has {} turns and says {}", record.id, turns.len(), record.last_turn));
    }
}

/// What agents wrote is in the log once, in order, without a hole; and all of it, if the turn was completed.
async fn runs(world: &World, record: &SessionRecord, log: &[Event]) {
    let mut next: BTreeMap<u64, u64> = BTreeMap::new();
    for event in log.iter().filter(|event| event.body.kind == EventKind::Delta) {
        let text = event.body.text.as_deref().unwrap_or_default();
        let Some((run, piece)) = piece_of(text) else { continue };
        let expected = next.entry(run).or_default();
        if piece != *expected {
            world.wrong(&format!("run {run} in {} has piece {piece} in the place of {expected}", record.id));
        }
        *expected = piece + 1;
    }
    let (tasks, runs) = (world.told.tasks(), world.told.runs());
    for turn in world.disk.turns(&record.id).await.unwrap_or_default() {
        if turn.state != TurnState::Completed {
            continue;
        }
        let task = told::task_of(&turn.prompt).and_then(|task| tasks.get(&task));
        let Some(last) = task.and_then(|task| task.runs.last()) else {
            world.wrong(&format!("turn {} of {} was completed by nobody", turn.number, record.id));
            continue;
        };
        let finished = runs.get(last).and_then(|run| run.finished);
        if finished != Some(next.get(last).copied().unwrap_or(0)) {
            let (number, session) = (turn.number, &record.id);
            world.wrong(&format!(
                "turn {number} of {session} has {:?} of {finished:?} pieces",
                next.get(last)
            ));
        }
    }
    for (run, pieces) in next {
        if runs.get(&run).is_none_or(|known| known.written < pieces.saturating_sub(1)) {
            world.wrong(&format!("run {run} in {} has more than was written", record.id));
        }
    }
}

/// The run and the number of a piece of an agent's message.
fn piece_of(text: &str) -> Option<(u64, u64)> {
    let (run, rest) = text.strip_prefix('r')?.split_once('.')?;
    let (piece, _) = rest.split_once(' ')?;
    Some((run.parse().ok()?, piece.parse().ok()?))
}

/// The books are what the log says was spent.
async fn books(world: &World, record: &SessionRecord, log: &[Event]) {
    let mut charges = BTreeSet::new();
    let mut spent = MicroUsd(0);
    for event in log {
        let Some(usage) = &event.body.usage else { continue };
        spent = spent.plus(usage.cost);
        let charge = event.body.data.as_ref().map(|data| data["charge"].to_string());
        if !charges.insert(charge.clone()) {
            world.wrong(&format!("{} has charge {charge:?} twice", record.id));
        }
    }
    let ledger = world.disk.ledger(&record.tree).await.ok().flatten().unwrap_or_default();
    if ledger.used.cost != spent {
        world.wrong(&format!("{} used {} and its log says {spent}", record.tree, ledger.used.cost));
    }
    if ledger.reserved != Amount::default() {
        world.wrong(&format!("limits_hold: {} still has {:?} reserved", record.tree, ledger.reserved));
    }
}
