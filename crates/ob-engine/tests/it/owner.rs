//! Who owns a sandbox: nobody's are ended, a model that is late costs none, and an owner that is late harms none.

use ob_core::EventKind;
use ob_core::operation::Operation;
use ob_testkit::Answer;
use ob_testkit::model_server::Step;
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
async fn at_start_a_sandbox_that_nobody_owns_is_ended_and_one_with_an_owner_is_not() {
    let world = World::new().await;
    let (Some(first), Some(second)) = (world.sandboxes(), world.sandboxes()) else { return };
    let engine = world.engine(first).await;
    let project = project(&engine, json!({})).await;
    let (kept, gone) = (spawn(&engine, project, json!({})).await, spawn(&engine, project, json!({})).await);
    for session in [&kept, &gone] {
        world.state(session, "idle", 1).await;
    }
    engine.shutdown(true).await;
    // As after a restore of an older state: of one of them, nobody knows.
    world.store.forget(&gone);
    assert!(world.home.sandbox_runtime(&gone).join("control.sock").exists(), "the control: it still runs");

    let engine = world.engine(second).await;
    world.until(&kept, "the sandbox", |log| has_text(log, "sandbox found again")).await;
    eventually("the end of the other", async || !world.home.sandbox_runtime(&gone).exists()).await;
    assert!(world.home.sandbox_runtime(&kept).join("control.sock").exists());
    assert_eq!(engine.sandboxes(), 1);
    engine.shutdown(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_model_that_is_down_at_a_restart_costs_no_sandbox_and_the_session_says_that_it_waits() {
    let mut world = World::new().await;
    world.discovers = true;
    world.model.lists(&["small"]);
    let (Some(first), Some(second)) = (world.sandboxes(), world.sandboxes()) else { return };
    let engine = world.engine(first).await;
    let project = project(&engine, json!({})).await;
    world.model.push(Answer::tool("run", json!({ "command": "mkfifo go; cat go; touch went" })));
    world.model.otherwise(Answer::text("done after all"));
    let session = spawn(&engine, project, json!({})).await;
    world
        .until(&session, "the tool call", |log| {
            log.iter().any(|event| event.body.kind == EventKind::ToolCall)
        })
        .await;
    engine.shutdown(true).await;

    world.model.lists(&[]);
    let engine = world.engine(second).await;
    world.until(&session, "the waiting", |log| has_text(log, "waiting for the model local/small")).await;
    // The agent goes on and asks its model, which is not there.
    let listed = ask(&engine, Operation::WorkspaceList, json!({ "project_id": project })).await;
    let workspace = std::path::PathBuf::from(listed[0]["path"].as_str().expect("a path"));
    std::fs::write(workspace.join("go"), "now").expect("a file");
    eventually("the command's end", async || workspace.join("went").exists()).await;
    world.model.lists(&["small"]);
    let log = world.state(&session, "idle", 1).await;
    assert!(has_text(&log, "done after all"), "{:?}", texts(&log));
    assert!(has_text(&log, "answers again"), "{:?}", texts(&log));
    assert_eq!(states(&log), ["created", "starting", "running", "idle"], "the sandbox was never lost");
    engine.shutdown(false).await;
}

/// A server that was stopped in its sleep (`SIGSTOP`, a suspended machine) and wakes when another one has taken over.
#[test]
fn an_owner_that_wakes_late_changes_no_log_and_ends_no_sandbox() {
    // Its tasks run only while its own runtime is driven: that is its sleep.
    let sleeper = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let awake = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let world = awake.block_on(World::new());
    let (Some(first), Some(second)) = (world.sandboxes(), world.sandboxes()) else { return };
    world.model.push(Answer::text("never said").before_head(Step::Hang));
    world.model.otherwise(Answer::text("mine"));
    let (earlier, session) = sleeper.block_on(async {
        let engine = world.engine(first).await;
        let project = project(&engine, json!({})).await;
        let session = spawn(&engine, project, json!({})).await;
        world.model.requests_reached(1).await;
        (engine, session)
    });
    // The later one does not find the sandbox, whose link the sleeper holds, and makes another one in its place.
    let later = awake.block_on(async {
        let later = world.engine(second).await;
        world.state(&session, "idle", 1).await;
        later
    });
    let before = world.store.log(&session).len();
    let runtime = world.home.sandbox_runtime(&session);
    let owner = std::fs::read(runtime.join("groups.json")).ok();
    sleeper.block_on(async {
        refused(&earlier, Operation::SessionMessage, json!({ "session_id": session, "message": "mine?" }))
            .await;
        refused(&earlier, Operation::SessionEnd, json!({ "session_id": session })).await;
        // Its actors let go of what they held, and its stop ends no sandbox that is another's.
        eventually("the sleeper's leave", async || earlier.sandboxes() == 0).await;
    });
    awake.block_on(async {
        assert!(runtime.join("control.sock").exists(), "the sandbox of the later one runs");
        assert_eq!(std::fs::read(runtime.join("groups.json")).ok(), owner);
        assert_eq!(world.store.log(&session).len(), before, "no event of the earlier one");
        ask(&later, Operation::SessionMessage, json!({ "session_id": session, "message": "whose?" })).await;
        let log = world.state(&session, "idle", 2).await;
        assert_eq!(states(&log).iter().filter(|state| *state == "starting").count(), 2, "{:?}", states(&log));
        later.shutdown(false).await;
    });
    drop(earlier);
}

/// W33: what a session's state is, the store says, whatever a crash cut off.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_failed_when_its_server_crashed_keeps_no_sandbox() {
    let world = World::new().await;
    let engine = world.engine(Broken::new(true)).await;
    let project = project(&engine, json!({})).await;
    let session = spawn(&engine, project, json!({})).await;
    world.state(&session, "failed", 1).await;
    engine.shutdown(true).await;
    let runtime = world.home.sandbox_runtime(&session);
    std::fs::create_dir_all(&runtime).expect("a folder that the crash left");
    let Some(backend) = world.sandboxes() else { return };
    let engine = world.engine(backend).await;
    eventually("the end of what was left", async || !runtime.exists()).await;
    let view = ask(&engine, Operation::SessionGet, json!({ "session_id": session })).await;
    assert_eq!(view["status"], "failed");
    engine.shutdown(false).await;
}
