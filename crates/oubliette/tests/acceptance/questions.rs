//! Agents that ask people: from within a sandbox, through the gate of its session, over MCP.

use ob_core::operation::Operation;
use ob_testkit::Answer;
use ob_testkit::ModelServer;
use serde_json::Value;
use serde_json::json;

use crate::client::Http;
use crate::client::Mcp;
use crate::harness::Home;
use crate::harness::can_sandbox;
use crate::harness::until;

/// Posts its argument to the session's tools, with what every system has.
const CALL: &str = r#"body=$1
exec 3<>/dev/tcp/127.0.0.1/4000
printf 'POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:4000\r\nContent-Type: application/json\r\nContent-Length: %s\r\nConnection: close\r\n\r\n%s' \
  "${#body}" "$body" >&3
cat <&3
"#;

/// The model has the agent call a tool of its session.
fn calls(tool: &str, arguments: &Value) -> Answer {
    let call = json!({
        "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": tool, "arguments": arguments },
    });
    Answer::tool("run", json!({ "command": format!("bash call.sh '{call}'") }))
}

/// What the agent's tools answered.
fn results(home: &Home, session: &str) -> String {
    let events = home.events(session);
    let done = events.iter().filter(|event| event["type"] == "tool_result" && event["result"] != Value::Null);
    done.map(|event| event["result"].to_string()).collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_asks_a_person_and_each_door_takes_the_answer() {
    if !can_sandbox() {
        return;
    }
    let model = ModelServer::start().await.unwrap();
    tokio::task::spawn_blocking(move || {
        let home = Home::new(&model);
        home.start();
        let source = home.repository("thing", &[("call.sh", CALL)]);
        for question in ["First?", "Second?", "Third?"] {
            model.push(calls("ask", &json!({ "question": question, "wait_ms": 60_000 })));
        }
        model.push(Answer::text("All is known."));
        let session = home.spawn(&source, "Ask three times.");
        let asks = |id: &str| home.json(&["session", "get", &session])["questions"][0]["question_id"] == id;
        let project = home.json(&["session", "get", &session])["project_id"].as_str().unwrap().to_owned();

        until("the first question", || asks("q1"));
        assert_eq!(home.state(&session), "waiting_answer");
        let shown = home.ok(["session", "get", &session]);
        assert!(shown.contains("First?") && shown.contains("q1 until"), "{shown}");
        home.ok(["session", "answer", &session, "said in a shell"]);

        until("the second question", || asks("q2"));
        let http = Http::with_scope(&home, "own", &format!("project:{project}"));
        let reader = Http::with_scope(&home, "reader", &format!("project:{project}:ro"));
        let params = json!({ "session_id": session, "answer": "said over MCP" });
        let refused = reader.rest(Operation::SessionAnswer, &params).unwrap_err();
        assert_eq!(refused, (403, "forbidden".to_owned()));
        let mcp = Mcp::open(&http);
        let answer = json!({ "action": "answer", "session_id": session, "answer": "said over MCP" });
        let (_, answered) = mcp.call("session", &answer).unwrap();
        assert!(answered["outcome"]["by"].as_str().unwrap().starts_with("token tok_"), "{answered}");

        until("the third question", || asks("q3"));
        let params = json!({ "session_id": session, "question_id": "q3", "answer": "said over REST" });
        http.rest(Operation::SessionAnswer, &params).unwrap();
        until("the session to rest", || home.state(&session) == "idle");
        let all = results(&home, &session);
        for said in ["said in a shell", "said over MCP", "said over REST"] {
            assert!(all.contains(&format!("The answer: {said}")), "`{said}` did not arrive: {all}");
        }
        let events = home.events(&session);
        let late = |event: &Value| event["text"].as_str().is_some_and(|text| text.starts_with("You asked"));
        assert!(!events.iter().any(late), "each is told once: {events:?}");
    })
    .await
    .unwrap();
}

/// The server dies while the agent waits: the call is cut, the question stays, and its answer arrives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_after_a_kill_still_arrives() {
    if !can_sandbox() {
        return;
    }
    let model = ModelServer::start().await.unwrap();
    model.push(calls("ask", &json!({ "question": "Which colour?", "wait_ms": 60_000 })));
    model.otherwise(Answer::text("I see."));
    tokio::task::spawn_blocking(move || {
        let home = Home::new(&model);
        home.start();
        let source = home.repository("thing", &[("call.sh", CALL)]);
        let session = home.spawn(&source, "Ask.");
        let asks = || home.json(&["session", "get", &session])["questions"][0]["question_id"] == "q1";
        until("the question", asks);
        home.kill();
        home.start();
        assert!(asks(), "it is open still");
        home.ok(["session", "answer", &session, "blue"]);
        home.kill();
        home.start();
        // In the turn that asked, or as a message of its own when that is over.
        let arrived = || model.requests().iter().any(|request| request.body.to_string().contains("blue"));
        until("the answer to reach the agent", arrived);
        until("the session to rest", || home.state(&session) == "idle");
        assert_eq!(home.json(&["session", "get", &session])["questions"], Value::Null);
    })
    .await
    .unwrap();
}

/// A client that does something for the agent: asked by an event, and heard though the server dies in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_calls_its_callers_tool_and_the_answer_arrives_after_a_kill_too() {
    if !can_sandbox() {
        return;
    }
    let model = ModelServer::start().await.unwrap();
    let list = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" });
    model.push(Answer::tool("run", json!({ "command": format!("bash call.sh '{list}'") })));
    model.push(calls("crm_look_up", &json!({ "id": 7 })));
    model.push(calls("crm_look_up", &json!({ "id": 8 })));
    model.otherwise(Answer::text("I see."));
    tokio::task::spawn_blocking(move || {
        let home = Home::new(&model);
        home.start();
        let source = home.repository("thing", &[("call.sh", CALL)]);
        let project = home.json(&["project", "create", "thing", "--source", source.to_str().unwrap()]);
        let project = project["id"].as_str().unwrap().to_owned();
        let scope = format!("project:{project}");
        let http = Http::with_scope(&home, "crm", &scope);
        let mcp = Mcp::open(&http);
        let schema = json!({ "type": "object", "properties": { "id": { "type": "integer" } }, "required": ["id"] });
        let tool = json!({ "name": "look_up", "description": "Looks a customer up.", "inputSchema": schema });
        let spawn = json!({
            "action": "spawn", "project_id": project, "message": "Look them up.", "new_session": true,
            "create_workspace": true, "caller_id": "crm", "caller_tools": [tool],
        });
        let (_, accepted) = mcp.call("session", &spawn).unwrap();
        let session = accepted["session_id"].as_str().unwrap().to_owned();
        let request = |number: usize| {
            let events = home.events(&session);
            events.into_iter().filter(|event| event["type"] == "caller_tool_request").nth(number)
        };
        until("the first call", || request(0).is_some());
        let first = request(0).unwrap();
        assert_eq!((&first["tool_name"], &first["arguments"]), (&json!("crm_look_up"), &json!({ "id": 7 })));
        assert_eq!(home.state(&session), "waiting_caller_tool");
        let response = |request: &Value, result: Value| {
            json!({ "session_id": session, "request_id": request["data"]["request_id"], "result": result })
        };
        mcp.call("caller_tool_response", &response(&first, json!({ "name": "Ada" }))).unwrap();
        let unknown = json!({ "session_id": session, "request_id": "q9", "result": 1 });
        let (code, text) = mcp.call("caller_tool_response", &unknown).unwrap_err();
        assert!(code == "not_found" && text.contains("not found"), "{code}: {text}");
        until("the second call", || request(1).is_some());
        let second = request(1).unwrap();
        home.kill();
        home.start();
        let id = second["data"]["request_id"].as_str().unwrap();
        home.ok(["session", "respond", &session, id, "Grace"]);
        let arrived = || model.requests().iter().any(|request| request.body.to_string().contains("Grace"));
        until("the answer to reach the agent", arrived);
        until("the session to rest", || home.state(&session) == "idle");
        let all = results(&home, &session);
        assert!(all.contains("crm_look_up") && all.contains("Looks a customer up."), "it is offered: {all}");
        assert!(all.contains("Ada"), "the call was answered: {all}");
    })
    .await
    .unwrap();
}
