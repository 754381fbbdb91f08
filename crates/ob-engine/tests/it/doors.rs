//! What every door relies on: who may what, what is malformed, and how a log is followed.

use futures_util::StreamExt as _;
use ob_core::Principal;
use ob_core::RefusalCode;
use ob_core::authorize::Scope;
use ob_core::id::TokenId;
use ob_core::operation::Operation;
use ob_core::operation::SessionEvents;
use serde_json::Value;
use serde_json::json;

use super::world::Broken;
use super::world::World;
use super::world::ask;
use super::world::project;
use super::world::refused;
use super::world::refused_to;
use super::world::spawn;

fn token(scope: Scope) -> Principal {
    Principal::Token { id: TokenId::new(1), scope }
}

fn events(session: &ob_core::SessionId, cursor: i64) -> SessionEvents {
    serde_json::from_value(json!({ "session_id": session, "cursor": cursor })).expect("parameters")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_a_project_finds_nothing_of_another_one() {
    let world = World::new().await;
    let engine = world.engine(Broken::new(true)).await;
    let (own, other) = (project(&engine, json!({})).await, project(&engine, json!({})).await);
    let mine = spawn(&engine, own, json!({})).await;
    let theirs = spawn(&engine, other, json!({})).await;
    world.state(&mine, "failed", 1).await;
    world.state(&theirs, "failed", 1).await;
    let workspaces = ask(&engine, Operation::WorkspaceList, json!({ "project_id": other })).await;
    let of_session = |session: &ob_core::SessionId| {
        let target = json!({ "session_id": session });
        let message = json!({ "session_id": session, "message": "x" });
        [
            (Operation::SessionMessage, message),
            (Operation::SessionInterrupt, target.clone()),
            (Operation::SessionEnd, target.clone()),
            (Operation::SessionGet, target.clone()),
            (Operation::SessionEvents, target.clone()),
            (Operation::SessionDiff, target),
        ]
    };
    let of_project = [
        (Operation::ProjectGet, json!({ "project_id": other })),
        (Operation::ProjectDelete, json!({ "project_id": other })),
        (Operation::WorkspaceList, json!({ "project_id": other })),
        (Operation::WorkspaceDelete, json!({ "project_id": other, "workspace_id": workspaces[0]["id"] })),
        (Operation::SessionSpawn, json!({ "project_id": other, "message": "x" })),
        (Operation::SessionList, json!({ "project_id": other })),
        (Operation::SessionList, json!({ "before": theirs })),
    ];
    for scope in [Scope::Project(own), Scope::ProjectReadOnly(own)] {
        let principal = token(scope);
        for (operation, params) in of_session(&theirs).into_iter().chain(of_project.clone()) {
            let refusal = refused_to(&engine, &principal, operation, params).await;
            assert_eq!(refusal.code, RefusalCode::NotFound, "{scope} {operation:?}: {refusal}");
        }
        assert!(engine.follow(&principal, events(&theirs, -1)).await.is_err());
        // The positive control: its own are there, and nothing else in the lists.
        for (operation, params) in [
            (Operation::ProjectGet, json!({ "project_id": own })),
            (Operation::SessionGet, json!({ "session_id": mine })),
            (Operation::SessionEvents, json!({ "session_id": mine })),
        ] {
            engine.call(&principal, operation, params).await.expect("its own");
        }
        let listed = engine.call(&principal, Operation::SessionList, json!({})).await.expect("allowed");
        assert_eq!(listed.as_array().map(Vec::len), Some(1));
        let listed = engine.call(&principal, Operation::ProjectList, json!({})).await.expect("allowed");
        assert_eq!(listed.as_array().map(Vec::len), Some(1));
        for (operation, params) in [
            (Operation::TokenList, Value::Null),
            (Operation::ServerStop, json!({})),
            (Operation::ServerReload, json!({})),
            (Operation::ProjectCreate, json!({ "name": "x" })),
        ] {
            let refusal = refused_to(&engine, &principal, operation, params).await;
            assert_eq!(refusal.code, RefusalCode::Forbidden, "{operation:?}: {refusal}");
        }
    }
    let reader = token(Scope::ProjectReadOnly(own));
    let spawning = json!({ "project_id": own, "message": "x" });
    let refusal = refused_to(&engine, &reader, Operation::SessionSpawn, spawning).await;
    assert_eq!(refusal.code, RefusalCode::Forbidden);
    engine.shutdown(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_parameters_are_refused_with_a_fix() {
    let world = World::new().await;
    let engine = world.engine(Broken::new(true)).await;
    let own = project(&engine, json!({})).await;
    let session = spawn(&engine, own, json!({})).await;
    let cases = [
        (Operation::ProjectCreate, json!({})),
        (Operation::ProjectCreate, json!({ "name": "\u{7}" })),
        (Operation::ProjectCreate, json!({ "name": "x", "source": "relative" })),
        (Operation::ProjectCreate, json!({ "name": "x", "source": "/" })),
        (Operation::ProjectCreate, json!({ "name": "x", "source": world.path("home") })),
        (Operation::ProjectCreate, json!({ "name": "x", "source": world.path("home/data") })),
        (Operation::ProjectCreate, json!({ "name": "x", "max_cost_usd": -1 })),
        (Operation::ProjectCreate, json!({ "name": "x", "unknown": 1 })),
        (Operation::ProjectGet, json!({ "project_id": "nonsense" })),
        (Operation::ProjectList, json!({ "limit": 0 })),
        (Operation::SessionSpawn, json!({ "project_id": own, "message": " \n" })),
        (Operation::SessionSpawn, json!({ "project_id": own, "message": "x".repeat(256 * 1024 + 1) })),
        (Operation::SessionSpawn, json!({ "project_id": own, "message": "x", "in_place": true })),
        (Operation::SessionGet, json!([])),
        (Operation::SessionEvents, json!({ "session_id": session, "cursor": -2 })),
        (Operation::SessionEvents, json!({ "session_id": session, "limit": 10_001 })),
        (Operation::SessionEvents, json!({ "session_id": session, "wait_ms": 60_001 })),
        (Operation::SessionList, json!({ "limit": 1001 })),
        (Operation::ServerStop, json!({ "keep_sandboxes": "yes" })),
    ];
    for (operation, params) in cases {
        let refusal = refused(&engine, operation, params.clone()).await;
        assert_eq!(refusal.code, RefusalCode::InvalidArgument, "{operation:?} {params}: {refusal}");
    }
    engine.shutdown(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_followed_from_a_cursor_to_the_end_of_its_session() {
    let world = World::new().await;
    let engine = world.engine(Broken::new(false)).await;
    let own = project(&engine, json!({})).await;
    let session = spawn(&engine, own, json!({})).await;
    let whole = engine.follow(&Principal::Operator, events(&session, -1)).await.expect("allowed");
    let later = engine.follow(&Principal::Operator, events(&session, 2)).await.expect("allowed");
    let numbers =
        |view: Result<ob_core::operation::EventView, ob_core::Refusal>| view.expect("an event").index;
    let whole: Vec<u64> = whole.map(numbers).collect().await;
    let log = world.store.log(&session);
    assert_eq!(whole, (0..log.len() as u64).collect::<Vec<_>>(), "each event once, in order, to the last");
    let later: Vec<u64> = later.map(numbers).collect().await;
    assert_eq!(later, whole[3..]);
    // Also when it is over already, and for a reader that is behind by all of it.
    let again = engine.follow(&Principal::Operator, events(&session, -1)).await.expect("allowed");
    assert_eq!(again.map(numbers).collect::<Vec<_>>().await, whole);
    engine.shutdown(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_followed_no_longer_than_the_server_runs() {
    let world = World::new().await;
    let Some(backend) = world.sandboxes() else { return };
    let engine = world.engine(backend).await;
    let own = project(&engine, json!({})).await;
    let session = spawn(&engine, own, json!({})).await;
    world.state(&session, "idle", 1).await;
    let follower = engine.follow(&Principal::Operator, events(&session, -1)).await.expect("allowed");
    ask(&engine, Operation::ServerStop, json!({ "keep_sandboxes": false })).await;
    assert!(!engine.stop_requested().await);
    let seen = follower.collect::<Vec<_>>().await;
    assert!(!seen.is_empty());
    engine.shutdown(false).await;
    refused(&engine, Operation::SessionSpawn, json!({ "project_id": own, "message": "x" })).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_in_use_is_not_deleted_and_one_that_is_not_goes_with_its_files() {
    let world = World::new().await;
    let Some(backend) = world.sandboxes() else { return };
    let engine = world.engine(backend).await;
    let source = world.path("source");
    ob_testkit::fixtures::repo(&source, &[("a.txt", "one\n")]).expect("a repository");
    let own = project(&engine, json!({ "source": source })).await;
    let edit = json!({ "command": "printf 'two\\n' > a.txt; mkdir deep; touch deep/x; chmod 0 deep" });
    world.model.push(ob_testkit::Answer::tool("run", edit));
    let session = spawn(&engine, own, json!({})).await;
    world.state(&session, "idle", 1).await;
    let target = json!({ "project_id": own });
    let refusal = refused(&engine, Operation::ProjectDelete, target.clone()).await;
    assert_eq!(refusal.code, RefusalCode::Conflict);
    let made = ask(&engine, Operation::SessionDiff, json!({ "session_id": session })).await;
    assert!(made["patch"].as_str().expect("text").contains("-one\n+two"), "{made}");
    ask(&engine, Operation::SessionEnd, json!({ "session_id": session })).await;
    world.state(&session, "ended", 1).await;
    ask(&engine, Operation::ProjectDelete, target.clone()).await;
    assert!(!world.home.project(own).exists());
    assert!(source.join("a.txt").exists(), "the user's own folder stays");
    refused(&engine, Operation::ProjectGet, target).await;
    engine.shutdown(false).await;
}
