//! Agents that start agents: from within a sandbox, through the gate of its session, over MCP.

use ob_testkit::Answer;
use ob_testkit::ModelServer;
use serde_json::Value;
use serde_json::json;

use crate::harness::Home;
use crate::harness::can_sandbox;
use crate::harness::until;

/// Posts its argument to the session's tools, with what every system has.
const ASK: &str = r#"body=$1
exec 3<>/dev/tcp/127.0.0.1/4000
printf 'POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:4000\r\nContent-Type: application/json\r\nContent-Length: %s\r\nConnection: close\r\n\r\n%s' \
  "${#body}" "$body" >&3
cat <&3
"#;

/// The model has the agent call a tool of its session.
fn ask(arguments: &Value) -> Answer {
    let call = json!({
        "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": "session", "arguments": arguments },
    });
    Answer::tool("run", json!({ "command": format!("bash ask.sh '{call}'") }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_starts_another_waits_for_it_and_finds_nobody_elses() {
    if !can_sandbox() {
        return;
    }
    let model = ModelServer::start().await.unwrap();
    model.push(Answer::text("I am nobody's child."));
    tokio::task::spawn_blocking(move || {
        let home = Home::new(&model);
        home.start();
        let source = home.repository("thing", &[("ask.sh", ASK)]);
        let stranger = home.spawn(&source, "Stay.");
        until("the stranger to idle", || home.state(&stranger) == "idle");

        model.push(ask(
            &json!({ "action": "spawn", "message": "What is six times seven?", "wait_ms": 60_000 }),
        ));
        model.push(Answer::text("The answer is 42."));
        model.push(ask(&json!({ "action": "get", "session_id": stranger })));
        model.push(ask(&json!({ "action": "list" })));
        model.push(Answer::text("All done."));
        let parent = home.spawn(&source, "Ask somebody.");
        until("the parent to idle", || home.state(&parent) == "idle");

        let events = home.events(&parent);
        let results: Vec<String> = events
            .iter()
            .filter(|event| event["type"] == "tool_result" && event["result"] != Value::Null)
            .map(|event| event["result"].to_string())
            .collect();
        let all = results.join("\n");
        assert!(all.contains("New session created") && all.contains("The answer is 42."), "{all}");
        assert!(all.contains("not found"), "the stranger is not there: {all}");
        assert!(!all.contains("nobody's child"), "{all}");
        let sessions = home.json(&["session", "list"]);
        let child =
            sessions.as_array().unwrap().iter().find(|session| session["parent_id"] == parent.as_str());
        let child = child.unwrap_or_else(|| panic!("no child: {sessions}"));
        assert_eq!(child["turns"], 1);
        let id = child["session_id"].as_str().unwrap();
        assert!(all.matches(id).count() >= 2, "spawned and listed: {all}");
        assert!(
            events.iter().any(|event| event["data"]["child"] == id),
            "the parent's log tells of it: {events:?}"
        );
        // It is gone with its answer, as nothing else was asked for.
        until("the child to end", || home.state(id) == "ended");
        assert_eq!(home.state(&parent), "idle");
    })
    .await
    .unwrap();
}
