//! Spawns that go on where work was.

use ob_core::RefusalCode;
use ob_core::operation::Operation;
use ob_testkit::Answer;
use serde_json::Value;
use serde_json::json;

use super::world::World;
use super::world::ask;
use super::world::project;
use super::world::refused;
use super::world::spawn;

/// W38: a conversation went on in the newest session of the project, whatever its workspace.
#[tokio::test(flavor = "multi_thread")]
async fn w38_a_spawn_goes_on_in_a_session_of_its_workspace_and_of_no_other() {
    let world = World::new().await;
    let Some(backend) = world.sandboxes() else { return };
    let engine = world.engine(backend).await;
    let project = project(&engine, json!({})).await;
    let go_on = |workspace: Value| {
        let params = json!({
            "project_id": project, "message": "go on", "workspace_id": workspace,
            "create_workspace": false, "new_session": false,
        });
        ask(&engine, Operation::SessionSpawn, params)
    };
    world.model.push(Answer::text("one"));
    let first = go_on(Value::Null).await;
    assert_eq!(first["resumed"], Value::Null, "there was none to go on in");
    let first_id = serde_json::from_value(first["session_id"].clone()).expect("an id");
    world.state(&first_id, "idle", 1).await;

    // A newer session, in a workspace of its own.
    world.model.push(Answer::text("two"));
    let second_id = spawn(&engine, project, json!({})).await;
    world.state(&second_id, "idle", 1).await;
    let second = ask(&engine, Operation::SessionGet, json!({ "session_id": second_id })).await;
    assert_ne!(first["workspace_id"], second["workspace_id"]);

    for (workspace, session, text) in [
        (Value::Null, &first_id, "three"),
        (first["workspace_id"].clone(), &first_id, "four"),
        (second["workspace_id"].clone(), &second_id, "five"),
    ] {
        world.model.push(Answer::text(text));
        let accepted = go_on(workspace).await;
        assert_eq!((&accepted["session_id"], &accepted["resumed"]), (&json!(session), &json!(true)));
        world.until(session, text, |log| super::world::has_text(log, text)).await;
    }
    let other = json!({
        "project_id": project, "message": "x", "new_session": false, "model": "dear",
        "workspace_id": first["workspace_id"],
    });
    assert_eq!(refused(&engine, Operation::SessionSpawn, other).await.code, RefusalCode::Conflict);
    // W27: what a message asked of the agent had no effect, and nobody said so.
    for (name, value) in [
        ("agent", json!("opencode")),
        ("autonomy_level", json!("low")),
        ("reasoning_level", json!("low")),
        ("tools_allowed", json!(["read"])),
        ("tools_disallowed", json!(["run"])),
    ] {
        let mut other = json!({
            "project_id": project, "message": "x", "new_session": false, "workspace_id": first["workspace_id"],
        });
        other[name] = value;
        let refusal = refused(&engine, Operation::SessionSpawn, other).await;
        assert_eq!(refusal.code, RefusalCode::Conflict, "{name}");
        assert!(refusal.message.contains(name), "{refusal}");
    }
    let unknown = json!({
        "project_id": project, "message": "x", "new_session": false,
        "workspace_id": "00000000-0000-4000-8000-000000000000",
    });
    assert_eq!(refused(&engine, Operation::SessionSpawn, unknown).await.code, RefusalCode::NotFound);
    engine.shutdown(false).await;
}

/// W40: two messages at once to an idle workspace started two sessions, one of them for nobody.
#[tokio::test(flavor = "multi_thread")]
async fn w40_messages_at_once_start_one_session() {
    let world = World::new().await;
    let Some(backend) = world.sandboxes() else { return };
    let engine = world.engine(backend).await;
    let project = project(&engine, json!({})).await;
    for _ in 0..8 {
        world.model.push(Answer::text("done"));
    }
    let spawns = (0..8).map(|_| {
        let params = json!({
            "project_id": project, "message": "go", "create_workspace": false, "new_session": false,
        });
        engine.call(&ob_core::Principal::Operator, Operation::SessionSpawn, params)
    });
    let mut accepted = 0;
    for answer in futures_util::future::join_all(spawns).await {
        match answer {
            Ok(_) => accepted += 1,
            Err(refusal) => assert_eq!(refusal.code, RefusalCode::Conflict, "{refusal}"),
        }
    }
    assert!(accepted >= 1);
    let sessions = ask(&engine, Operation::SessionList, json!({ "project_id": project })).await;
    assert_eq!(sessions.as_array().map(Vec::len), Some(1), "{sessions}");
    engine.shutdown(false).await;
}
