//! What `config_limits` tells of a project and of a session's tree.

use ob_core::RefusalCode;
use ob_core::operation::Operation;
use serde_json::Value;
use serde_json::json;

use super::world::Broken;
use super::world::World;
use super::world::ask;
use super::world::project;
use super::world::refused;
use super::world::spawn;

fn of<'a>(shown: &'a Value, name: &str) -> &'a Value {
    let limits = shown["limits"].as_array().expect("limits");
    limits.iter().find(|limit| limit["name"] == name).expect("every limit is told")
}

#[tokio::test(flavor = "multi_thread")]
async fn each_limit_is_told_with_who_sets_it_and_what_is_left() {
    let world = World::new().await;
    let engine = world.engine(Broken::new(true)).await;
    let plain = project(&engine, json!({})).await;
    let shown = ask(&engine, Operation::ConfigLimits, json!({ "project_id": plain })).await;
    assert_eq!(
        of(&shown, "cost"),
        &json!({ "name": "cost", "unit": "micro_usd", "limit": 10_000_000, "source": "server" })
    );
    assert_eq!(
        (&of(&shown, "memory")["limit"], &of(&shown, "memory")["source"]),
        (&Value::Null, &json!("nobody"))
    );

    let own = project(&engine, json!({ "max_cost_usd": 2.5, "limits": { "memory": 1_073_741_824 } })).await;
    let shown = ask(&engine, Operation::ConfigLimits, json!({ "project_id": own })).await;
    assert_eq!(
        (&of(&shown, "cost")["limit"], &of(&shown, "cost")["source"]),
        (&json!(2_500_000), &json!("project"))
    );
    let memory = of(&shown, "memory");
    assert_eq!((&memory["limit"], &memory["source"]), (&json!(1_073_741_824), &json!("project")));

    let session = spawn(&engine, own, json!({})).await;
    let shown = ask(&engine, Operation::ConfigLimits, json!({ "session_id": session })).await;
    assert_eq!((&shown["project_id"], &shown["session_id"]), (&json!(own), &json!(session)));
    assert_eq!(
        of(&shown, "cost"),
        &json!({
            "name": "cost", "unit": "micro_usd", "limit": 2_500_000, "source": "tree",
            "used": 0, "reserved": 0, "remaining": 2_500_000,
        })
    );

    for params in [json!({}), json!({ "project_id": own, "session_id": session })] {
        let refusal = refused(&engine, Operation::ConfigLimits, params).await;
        assert_eq!(refusal.code, RefusalCode::InvalidArgument);
    }
}
