//! Sessions that have nothing to do: they sleep, and keep nothing but what is in the store.

use std::time::Duration;

use ob_core::Event;
use ob_core::EventKind;
use ob_core::operation::Operation;
use ob_testkit::Answer;
use ob_testkit::model_server::Latch;
use ob_testkit::model_server::Step;
use serde_json::json;

use super::world::World;
use super::world::ask;
use super::world::eventually;
use super::world::has_text;
use super::world::project;
use super::world::spawn;
use super::world::states;
use super::world::texts;

/// Short enough for a test, and long enough that an answer of the model comes in between.
const SOON: Duration = Duration::from_millis(300);

/// Turns that were completed.
fn answers_in(log: &[Event]) -> usize {
    log.iter().filter(|event| event.body.kind == EventKind::Completion).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_session_sleeps_and_a_message_wakes_it_with_its_conversation() {
    let mut world = World::new().await;
    world.idle = SOON;
    let Some(backend) = world.sandboxes() else { return };
    let engine = world.engine(backend).await;
    let project = project(&engine, json!({})).await;
    world.model.push(Answer::text("remember the word heron"));
    let session = spawn(&engine, project, json!({})).await;
    let log = world.state(&session, "asleep", 1).await;
    assert_eq!(states(&log), ["created", "starting", "running", "idle", "asleep"]);
    eventually("the end of its sandbox", async || {
        engine.gauges().await.sandboxes == 0 && !world.home.sandbox_runtime(&session).exists()
    })
    .await;
    let view = ask(&engine, Operation::SessionGet, json!({ "session_id": session })).await;
    assert_eq!((view["state"].as_str(), view["status"].as_str()), (Some("asleep"), Some("active")));
    // An interrupt of one that sleeps is nothing, and wakes nothing.
    ask(&engine, Operation::SessionInterrupt, json!({ "session_id": session })).await;

    world.model.push(Answer::text("still here"));
    ask(&engine, Operation::SessionMessage, json!({ "session_id": session, "message": "which word?" })).await;
    let log = world.state(&session, "asleep", 2).await;
    assert!(has_text(&log, "still here"), "{:?}", texts(&log));
    let requests = world.model.requests();
    let last = requests.last().expect("a request").body.to_string();
    assert!(last.contains("heron") && last.contains("which word?"), "the conversation goes on: {last}");

    ask(&engine, Operation::SessionEnd, json!({ "session_id": session })).await;
    world.state(&session, "ended", 1).await;
    engine.shutdown(false).await;
}

/// W34: what counts is that there is nothing to do, not how long nobody said anything.
#[tokio::test(flavor = "multi_thread")]
async fn a_turn_that_takes_longer_than_the_idle_time_is_not_cut_off() {
    let mut world = World::new().await;
    world.idle = Duration::from_millis(50);
    let Some(backend) = world.sandboxes() else { return };
    let engine = world.engine(backend).await;
    let project = project(&engine, json!({})).await;
    world.model.push(Answer::tool("run", json!({ "command": "sleep 1; echo slow" })));
    world.model.otherwise(Answer::text("done after all"));
    let session = spawn(&engine, project, json!({})).await;
    let log = world.state(&session, "asleep", 1).await;
    assert!(has_text(&log, "done after all"), "{:?}", texts(&log));
    assert_eq!(
        states(&log),
        ["created", "starting", "running", "idle", "asleep"],
        "never before it was done"
    );
    engine.shutdown(false).await;
}

/// W40: whoever comes first wakes it, and everybody else finds it awake.
#[tokio::test(flavor = "multi_thread")]
async fn many_messages_at_once_to_a_sleeping_session_wake_one_actor_and_none_is_lost() {
    const MESSAGES: usize = 12;
    let mut world = World::new().await;
    world.idle = Duration::from_millis(1);
    let Some(backend) = world.sandboxes() else { return };
    let engine = world.engine(backend).await;
    let project = project(&engine, json!({})).await;
    let session = spawn(&engine, project, json!({})).await;
    world.state(&session, "asleep", 1).await;
    let asked = (0..MESSAGES).map(|n| {
        let params = json!({ "session_id": session, "message": format!("message {n}") });
        ask(&engine, Operation::SessionMessage, params)
    });
    let answers = futures_util::future::join_all(asked).await;
    let mut turns: Vec<u64> =
        answers.iter().map(|answer| answer["turn"].as_u64().expect("a number")).collect();
    turns.sort_unstable();
    assert_eq!(turns, (2..2 + MESSAGES as u64).collect::<Vec<_>>(), "each is a turn of its own");
    let log = world.until(&session, "all answers", |log| answers_in(log) == MESSAGES + 1).await;
    let prompts: Vec<&str> = texts(&log).into_iter().filter(|text| text.starts_with("message ")).collect();
    assert_eq!(prompts.len(), MESSAGES, "{prompts:?}");
    engine.shutdown(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_race_with_falling_asleep_are_all_answered() {
    const ROUNDS: usize = 12;
    let mut world = World::new().await;
    world.idle = Duration::from_millis(1);
    let Some(backend) = world.sandboxes() else { return };
    let engine = world.engine(backend).await;
    let project = project(&engine, json!({})).await;
    let session = spawn(&engine, project, json!({})).await;
    for round in 0..ROUNDS {
        // Sometimes before it sleeps, sometimes in the middle of it, sometimes after.
        world.until(&session, "the answer", |log| answers_in(log) == round + 1).await;
        for _ in 0..round * round * 20 {
            tokio::task::yield_now().await;
        }
        ask(&engine, Operation::SessionMessage, json!({ "session_id": session, "message": "more" })).await;
    }
    world.until(&session, "the last answer", |log| answers_in(log) == ROUNDS + 1).await;
    engine.shutdown(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_session_whose_server_stops_waits_without_a_sandbox_for_its_next_message() {
    let world = World::new().await;
    let (Some(first), Some(second)) = (world.sandboxes(), world.sandboxes()) else { return };
    let engine = world.engine(first).await;
    let project = project(&engine, json!({})).await;
    let session = spawn(&engine, project, json!({})).await;
    world.state(&session, "idle", 1).await;
    engine.shutdown(false).await;

    let engine = world.engine(second).await;
    ask(&engine, Operation::SessionMessage, json!({ "session_id": session, "message": "and now?" })).await;
    let log = world.state(&session, "idle", 2).await;
    assert_eq!(
        states(&log),
        ["created", "starting", "running", "idle", "asleep", "starting", "running", "idle"]
    );
    engine.shutdown(false).await;
}

/// W35, W36: an end stops what runs, and what is over holds nothing.
#[tokio::test(flavor = "multi_thread")]
async fn an_ended_session_leaves_no_process_and_its_project_can_be_deleted() {
    let world = World::new().await;
    let Some(backend) = world.sandboxes() else { return };
    let engine = world.engine(backend).await;
    let project = project(&engine, json!({})).await;
    let latch = Latch::new();
    world.model.push(Answer::text("never said").before_head(Step::Wait(latch.clone())));
    let session = spawn(&engine, project, json!({})).await;
    world.model.requests_reached(1).await;
    ask(&engine, Operation::SessionEnd, json!({ "session_id": session })).await;
    world.state(&session, "ended", 1).await;
    world.model.hang_ups_reached(1).await;
    assert!(!world.home.sandbox_runtime(&session).exists(), "the agent is gone, and all that it ran");
    ask(&engine, Operation::ProjectDelete, json!({ "project_id": project })).await;
    assert!(!world.home.project(project).exists());
    engine.shutdown(false).await;
}
