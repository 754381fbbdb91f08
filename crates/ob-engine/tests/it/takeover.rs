//! What becomes of sessions when servers come and go.

use ob_core::EventKind;
use ob_core::MicroUsd;
use ob_core::id::ChargeId;
use ob_core::ledger::Amount;
use ob_core::ledger::TreeLimits;
use ob_core::model::ModelRef;
use ob_core::model::ModelSource;
use ob_core::operation::Operation;
use ob_core::record::SessionRecord;
use ob_core::session::SessionState;
use ob_store::Commit;
use ob_store::Store as _;
use ob_store::Write;
use ob_testkit::Answer;
use ob_testkit::fixtures;
use ob_testkit::model_server::Latch;
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

fn seeded(n: u32) -> SessionRecord {
    let (provider, model) = ("test".to_owned(), "cheap".to_owned());
    fixtures::session_record(n, ModelRef { provider, model, source: ModelSource::Configured })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_parks_the_session_and_the_next_server_goes_on_with_it() {
    let world = World::new().await;
    let (Some(first), Some(second)) = (world.sandboxes(), world.sandboxes()) else { return };
    let engine = world.engine(first).await;
    let project = project(&engine, json!({})).await;
    world.model.push(Answer::text("never said").before_head(Step::Hang));
    world.model.otherwise(Answer::text("done after all"));
    let session = spawn(&engine, project, json!({ "end_when_idle": true })).await;
    world.model.requests_reached(1).await;
    engine.shutdown(false).await;
    let log = world.store.log(&session);
    assert_eq!(states(&log).last().map(String::as_str), Some("interrupted"));
    assert!(!world.home.sandbox_runtime(&session).exists(), "the sandbox is gone");
    world.store.reopen();
    assert!(world.store.open_charges().await.expect("charges").is_empty(), "the cut call is booked");
    assert!(log.iter().any(|event| event.body.usage.as_ref().is_some_and(|usage| usage.estimated)));

    let engine = world.engine(second).await;
    let log = world.state(&session, "ended", 1).await;
    assert!(has_text(&log, "done after all"), "{:?}", texts(&log));
    engine.shutdown(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_that_was_kept_is_found_again_in_the_middle_of_its_turn() {
    let world = World::new().await;
    let (Some(first), Some(second)) = (world.sandboxes(), world.sandboxes()) else { return };
    let engine = world.engine(first).await;
    let project = project(&engine, json!({})).await;
    // Whichever of the two makes `go` first: the command waits until there is something in it.
    let command = "mkfifo go; cat go; touch went";
    world.model.push(Answer::tool("run", json!({ "command": command })));
    world.model.otherwise(Answer::text("done after all"));
    let session = spawn(&engine, project, json!({})).await;
    world
        .until(&session, "the tool call", |log| {
            log.iter().any(|event| event.body.kind == EventKind::ToolCall)
        })
        .await;
    engine.shutdown(true).await;
    assert!(world.home.sandbox_runtime(&session).exists(), "the sandbox is still there");

    let engine = world.engine(second).await;
    world.until(&session, "the sandbox", |log| has_text(log, "sandbox found again")).await;
    let listed = ask(&engine, Operation::WorkspaceList, json!({ "project_id": project })).await;
    let workspace = std::path::PathBuf::from(listed[0]["path"].as_str().expect("a path"));
    std::fs::write(workspace.join("go"), "now").expect("a file");
    let log = world.state(&session, "idle", 1).await;
    assert!(workspace.join("went").exists(), "the same command went on");
    assert!(has_text(&log, "done after all"));
    assert_eq!(states(&log), ["created", "starting", "running", "idle"], "it was never interrupted");
    engine.shutdown(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_comes_while_the_sandbox_is_being_found_again_is_done() {
    let world = World::new().await;
    let (Some(first), Some(second)) = (world.sandboxes(), world.sandboxes()) else { return };
    let engine = world.engine(first).await;
    let project = project(&engine, json!({})).await;
    let session = spawn(&engine, project, json!({})).await;
    world.state(&session, "idle", 1).await;
    engine.shutdown(true).await;

    let engine = world.engine(second).await;
    world.model.push(Answer::text("the answer of the second server"));
    ask(&engine, Operation::SessionMessage, json!({ "session_id": session, "message": "more" })).await;
    let log = world.state(&session, "idle", 2).await;
    assert!(has_text(&log, "the answer of the second server"), "{:?}", texts(&log));
    engine.shutdown(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_server_takes_over_and_the_earlier_one_lets_go() {
    let world = World::new().await;
    let (Some(first), Some(second)) = (world.sandboxes(), world.sandboxes()) else { return };
    let earlier = world.engine(first).await;
    let project = project(&earlier, json!({})).await;
    let session = spawn(&earlier, project, json!({})).await;
    world.state(&session, "idle", 1).await;
    let later = world.engine(second).await;

    let asked = json!({ "session_id": session, "message": "whose are you?" });
    refused(&earlier, Operation::SessionMessage, asked.clone()).await;
    // The guest dials again as soon as the earlier server has closed its gate.
    world.until(&session, "the sandbox", |log| has_text(log, "sandbox found again")).await;
    eventually("the earlier owner's leave", async || earlier.sandboxes() == 0).await;
    refused(&earlier, Operation::SessionMessage, asked.clone()).await;
    world.model.push(Answer::text("yours"));
    ask(&later, Operation::SessionMessage, asked).await;
    let log = world.state(&session, "idle", 2).await;
    assert!(has_text(&log, "yours"), "{:?}", texts(&log));
    assert_eq!(log.iter().filter(|event| event.body.text.as_deref() == Some("whose are you?")).count(), 1);
    later.shutdown(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_call_that_a_crash_cut_off_is_booked_as_reserved_and_told() {
    let world = World::new().await;
    let record = seeded(1);
    let limits =
        TreeLimits { max_cost: Some(MicroUsd(1_000_000)), max_tokens: None, ..TreeLimits::default() };
    world.store.seed_session(&record, limits).await.expect("a session");
    let epoch = world.store.new_epoch().await.expect("an epoch");
    world.store.claim(&record.id, epoch).await.expect("claimed");
    let reserve = Write::Reserve {
        charge: ChargeId::from_uuid(uuid::Uuid::from_u128(7)),
        tree: record.tree.clone(),
        session: record.id.clone(),
        amount: Amount::new(30, MicroUsd(900)),
    };
    world.store.commit(Commit { writes: vec![reserve], fence: Some(epoch) }).await.expect("reserved");

    let engine = world.engine(Broken::new(true)).await;
    let log =
        world.until(&record.id, "the usage", |log| log.iter().any(|e| e.body.kind == EventKind::Usage)).await;
    let usage = log.iter().find_map(|event| event.body.usage.clone()).expect("a usage");
    assert!(usage.estimated);
    assert_eq!((usage.input_tokens, usage.cost), (30, MicroUsd(900)));
    let ledger = world.store.ledger(&record.tree).await.expect("readable").expect("a ledger");
    assert_eq!((ledger.used.cost, ledger.reserved.cost), (MicroUsd(900), MicroUsd(0)));
    engine.shutdown(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_a_crash_cut_off_is_finished() {
    let world = World::new().await;
    let mut record = seeded(1);
    record.core.state = SessionState::Ending;
    record.core.queue.clear();
    world.store.seed_session(&record, TreeLimits::default()).await.expect("a session");
    let engine = world.engine(Broken::new(true)).await;
    let log = world.state(&record.id, "ended", 1).await;
    assert_eq!(states(&log), ["ended"], "no sandbox is looked for");
    engine.shutdown(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_sessions_are_taken_over() {
    const SESSIONS: u32 = 2_000;
    let world = World::new().await;
    for n in 0..SESSIONS {
        let mut record = seeded(n);
        record.core.state = SessionState::Ending;
        record.core.queue.clear();
        world.store.seed_session(&record, TreeLimits::default()).await.expect("a session");
    }
    let engine = world.engine(Broken::new(true)).await;
    eventually("the end of all", async || world.store.active_sessions().await.expect("a count") == 0).await;
    engine.shutdown(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_while_the_model_answers_waits_for_the_books() {
    let world = World::new().await;
    let Some(backend) = world.sandboxes() else { return };
    let engine = world.engine(backend).await;
    let project = project(&engine, json!({})).await;
    let latch = Latch::new();
    world.model.push(Answer::text("late").before_head(Step::Wait(latch.clone())));
    spawn(&engine, project, json!({})).await;
    world.model.requests_reached(1).await;
    assert_eq!(world.store.open_charges().await.expect("charges").len(), 1, "reserved before it was sent");
    engine.shutdown(false).await;
    latch.open();
    world.store.reopen();
    assert!(world.store.open_charges().await.expect("charges").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_belong_to_nobody_go_at_the_next_start_and_all_others_stay() {
    let world = World::new().await;
    let mut record = seeded(1);
    record.core.state = SessionState::Ended;
    world.store.seed_session(&record, TreeLimits::default()).await.expect("a session");
    let gone = seeded(2);
    let home = &world.home;
    let stays = [
        home.workspace(record.project, record.workspace),
        home.workspace_base(record.project, record.workspace),
        home.session_home(record.project, &record.id),
        home.projects().join("not-ours"),
    ];
    let goes = [
        home.project(gone.project),
        home.workspace(record.project, gone.workspace),
        home.workspace_base(record.project, gone.workspace),
        home.session_home(record.project, &gone.id),
    ];
    for folder in stays.iter().chain(&goes) {
        std::fs::create_dir_all(folder.join("inside")).expect("a folder");
    }
    let engine = world.engine(Broken::new(true)).await;
    eventually("the removal", async || goes.iter().all(|folder| !folder.exists())).await;
    engine.shutdown(false).await;
    for folder in &stays {
        assert!(folder.join("inside").exists(), "{}", folder.display());
    }
}
