//! What becomes of a session while one server drives it.

use std::sync::atomic::Ordering;

use ob_core::EventKind;
use ob_core::Principal;
use ob_core::operation::Operation;
use ob_testkit::Answer;
use ob_testkit::memory_store::StoreFault;
use serde_json::json;

use super::world::Broken;
use super::world::World;
use super::world::ask;
use super::world::eventually;
use super::world::has_text;
use super::world::project;
use super::world::refused;
use super::world::spawn;
use super::world::states;
use super::world::texts;

#[tokio::test(flavor = "multi_thread")]
async fn a_session_works_idles_takes_another_message_and_ends() {
    let world = World::new().await;
    let Some(backend) = world.sandboxes() else { return };
    let engine = world.engine(backend).await;
    let project = project(&engine, json!({})).await;
    world.model.push(Answer::text("first done"));
    let session = spawn(&engine, project, json!({})).await;
    let log = world.state(&session, "idle", 1).await;
    assert_eq!(states(&log), ["created", "starting", "running", "idle"]);
    assert!(has_text(&log, "first done"), "{:?}", texts(&log));
    assert_eq!(engine.sandboxes(), 1);

    world.model.push(Answer::text("second done"));
    let asked = json!({ "session_id": session, "message": "and now?" });
    let accepted = ask(&engine, Operation::SessionMessage, asked.clone()).await;
    let after = accepted["last_index"].as_i64().expect("a number") + 1;
    let message = &world.store.log(&session)[usize::try_from(after).expect("small")];
    assert_eq!(message.body.text.as_deref(), Some("and now?"), "the cursor is right before the message");
    let log = world.state(&session, "idle", 2).await;
    assert!(has_text(&log, "second done"));

    // A disk that is full for a moment: the person is told, and nothing of it stays.
    world.store.fail_next(1, StoreFault::Full);
    let refusal = refused(&engine, Operation::SessionMessage, asked.clone()).await;
    assert!(refusal.message.contains("full"), "{refusal}");
    assert_eq!(world.store.log(&session).len(), log.len());
    let view = ask(&engine, Operation::SessionGet, json!({ "session_id": session })).await;
    assert_eq!((view["turns"].as_u64(), view["state"].as_str()), (Some(2), Some("idle")));

    let target = json!({ "session_id": session });
    // The fault may have met what the agent still had to say; then the session waits a moment for its store.
    eventually("the end", async || {
        engine.call(&Principal::Operator, Operation::SessionEnd, target.clone()).await.is_ok()
    })
    .await;
    let log = world.state(&session, "ended", 1).await;
    assert!(log.iter().any(|event| event.body.kind == EventKind::Usage));
    ask(&engine, Operation::SessionEnd, target).await;
    refused(&engine, Operation::SessionMessage, asked).await;
    assert_eq!(engine.sandboxes(), 0);
    assert!(!world.home.sandbox_runtime(&session).exists());
    engine.shutdown(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_killed_is_started_again_and_given_its_turn_again() {
    let world = World::new().await;
    let Some(backend) = world.sandboxes() else { return };
    let engine = world.engine(backend).await;
    let project = project(&engine, json!({})).await;
    world.model.push(Answer::tool("run", json!({ "command": "kill -9 $PPID" })));
    world.model.otherwise(Answer::text("done after all"));
    let session = spawn(&engine, project, json!({ "end_when_idle": true })).await;
    let log = world.state(&session, "ended", 1).await;
    assert!(has_text(&log, "done after all"), "{:?}", texts(&log));
    assert_eq!(states(&log).iter().filter(|state| *state == "interrupted").count(), 1, "{:?}", states(&log));
    assert_eq!(log.iter().filter(|event| event.body.text.as_deref() == Some("sandbox started")).count(), 2);
    let requests = world.model.requests();
    let last = requests.last().expect("a request").body.to_string();
    assert!(last.contains("do it") && last.contains("interrupted"), "{last}");
    engine.shutdown(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_that_is_lost_comes_again_and_the_turn_is_finished() {
    let world = World::new().await;
    let Some(backend) = world.sandboxes() else { return };
    let engine = world.engine(std::sync::Arc::clone(&backend)).await;
    let project = project(&engine, json!({})).await;
    world.model.push(Answer::text("never said").before_head(ob_testkit::model_server::Step::Hang));
    world.model.otherwise(Answer::text("done after all"));
    let session = spawn(&engine, project, json!({})).await;
    world.model.requests_reached(1).await;
    backend
        .end(session.suffix(), &world.home.sandbox_runtime(&session), ob_core::Epoch(1))
        .await
        .expect("ended");
    let log = world.state(&session, "idle", 1).await;
    assert!(has_text(&log, "the sandbox is gone"), "{:?}", texts(&log));
    assert_eq!(log.iter().filter(|event| event.body.text.as_deref() == Some("sandbox started")).count(), 2);
    assert!(has_text(&log, "done after all"));
    engine.shutdown(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_that_is_interrupted_stops_and_the_session_goes_on() {
    let world = World::new().await;
    let Some(backend) = world.sandboxes() else { return };
    let engine = world.engine(backend).await;
    let project = project(&engine, json!({})).await;
    world.model.push(Answer::text("never said").before_head(ob_testkit::model_server::Step::Hang));
    let session = spawn(&engine, project, json!({})).await;
    world.model.requests_reached(1).await;
    ask(&engine, Operation::SessionInterrupt, json!({ "session_id": session })).await;
    world.state(&session, "idle", 1).await;
    let view = ask(&engine, Operation::SessionGet, json!({ "session_id": session })).await;
    assert_eq!(view["last_stop"], "cancelled");
    world.model.push(Answer::text("second done"));
    ask(&engine, Operation::SessionMessage, json!({ "session_id": session, "message": "go on" })).await;
    let log = world.state(&session, "idle", 2).await;
    assert!(has_text(&log, "second done"));
    engine.shutdown(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_failures_in_a_row_fail_the_session_with_the_reason() {
    let world = World::new().await;
    let backend = Broken::new(false);
    let engine = world.engine(backend.clone()).await;
    let project = project(&engine, json!({})).await;
    let session = spawn(&engine, project, json!({})).await;
    let log = world.state(&session, "failed", 1).await;
    assert_eq!(backend.starts.load(Ordering::Relaxed), 3);
    assert_eq!(states(&log).iter().filter(|state| *state == "starting").count(), 3, "{:?}", states(&log));
    let view = ask(&engine, Operation::SessionGet, json!({ "session_id": session })).await;
    assert!(view["reason"].as_str().expect("a reason").contains("the walls fell down"), "{view}");
    engine.shutdown(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_machine_lacks_is_not_tried_again() {
    let world = World::new().await;
    let backend = Broken::new(true);
    let engine = world.engine(backend.clone()).await;
    let project = project(&engine, json!({})).await;
    let session = spawn(&engine, project, json!({})).await;
    world.state(&session, "failed", 1).await;
    assert_eq!(backend.starts.load(Ordering::Relaxed), 1);
    engine.shutdown(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_at_its_limit_gets_no_model_and_its_log_says_so() {
    let world = World::new().await;
    let Some(backend) = world.sandboxes() else { return };
    let engine = world.engine(backend).await;
    let project = project(&engine, json!({ "max_cost_usd": 0.01 })).await;
    let session = spawn(&engine, project, json!({ "model": "dear", "end_when_idle": true })).await;
    let log = world.state(&session, "ended", 1).await;
    let is_limit = |event: &&ob_core::Event| {
        event.body.kind == EventKind::Error
            && event.body.data.as_ref().is_some_and(|data| data.to_string().contains("limit_exceeded"))
    };
    assert!(log.iter().any(|event| is_limit(&event)), "{log:?}");
    assert!(world.model.requests().is_empty(), "nothing was sent");
    let view = ask(&engine, Operation::SessionGet, json!({ "session_id": session })).await;
    assert_ne!(view["reason"], "the task is done", "the turn failed");
    engine.shutdown(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_although_the_disk_is_full() {
    let world = World::new().await;
    let Some(backend) = world.sandboxes() else { return };
    let engine = world.engine(backend).await;
    let project = project(&engine, json!({})).await;
    let session = spawn(&engine, project, json!({})).await;
    world.state(&session, "idle", 1).await;
    world.store.fail_next(2, StoreFault::Full);
    let refusal = refused(&engine, Operation::SessionEnd, json!({ "session_id": session })).await;
    assert!(refusal.message.contains("full"), "{refusal}");
    let log = world.state(&session, "ended", 1).await;
    assert_eq!(states(&log).iter().filter(|state| *state == "starting").count(), 1, "{:?}", states(&log));
    eventually("the end of the sandbox", async || !world.home.sandbox_runtime(&session).exists()).await;
    engine.shutdown(false).await;
}
