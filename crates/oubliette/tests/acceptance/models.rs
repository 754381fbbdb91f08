//! Models: what is found on this machine, what `model list|check` says, and a session on a model that was found.

use std::process::Output;

use ob_testkit::Answer;
use ob_testkit::ModelServer;
use serde_json::Value;
use serde_json::json;

use crate::harness::Home;
use crate::harness::can_sandbox;
use crate::harness::shown;
use crate::harness::until;

/// A server that says it is vLLM, calls the tool of a check if its model is told to, and else says hello.
async fn vllm() -> ModelServer {
    let server = ModelServer::start().await.unwrap();
    server.respond(|asked| {
        if asked.method == "GET" {
            let model = |id: &str| json!({ "id": id, "owned_by": "vllm", "max_model_len": 32768 });
            let list = json!({ "object": "list", "data": [model("org/able"), model("mute")] });
            return Answer::status(200, list.to_string());
        }
        let offers = |tool: &str| asked.body["tools"].to_string().contains(&format!("\"name\":\"{tool}\""));
        if asked.body["model"] == "org/able" && offers("add") {
            Answer::tool("add", json!({ "a": 20, "b": 22 }))
        } else {
            Answer::text("Hello.")
        }
    });
    server
}

/// Runs a command until the servers that it looks for answer: on a busy machine they may be late.
fn found(home: &Home, args: &[&str]) -> Output {
    let mut output = None;
    until("a model server to be found", || {
        let ran = home.run(args);
        // 6: nothing that it needs answers.
        let is_found = ran.status.code() != Some(6);
        output = Some(ran);
        is_found
    });
    output.unwrap()
}

fn found_json(home: &Home, args: &[&str]) -> Value {
    let output = found(home, &[args, &["--json"]].concat());
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", shown(&output)))
}

fn home(servers: &[&ModelServer]) -> Home {
    let mut home = Home::without_model();
    let ports: Vec<u16> = servers.iter().map(|server| server.address().port()).collect();
    home.set("OUBLIETTE_MODELS__DISCOVER_PORTS", &json!(ports).to_string());
    home.start();
    home
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_this_machine_is_listed_checked_and_works_for_a_session() {
    if !can_sandbox() {
        return;
    }
    let server = vllm().await;
    tokio::task::spawn_blocking(move || {
        let home = home(&[&server]);
        let mut listed = Value::Null;
        // A busy machine may not answer in time.
        until("the server to be found", || {
            listed = home.json(&["model", "list"]);
            listed.as_array().is_some_and(|models| models.len() == 2)
        });
        let model = &listed[0];
        assert_eq!(
            (&model["name"], &model["server"], &model["base_url"], &model["context_window"]),
            (&json!("vllm/org/able"), &json!("vLLM"), &json!(server.base_url()), &json!(32768))
        );
        assert_eq!((&model["is_default"], &model["pricing"]), (&json!(true), &json!("free")));
        until("the same for people", || home.ok(["model", "list"]).contains("vllm/org/able"));

        let checked = found_json(&home, &["model", "check", "vllm/org/able"]);
        assert_eq!((&checked["works"], &checked["tool_call"]), (&json!(true), &json!("well_formed")));
        assert!(checked["first_byte_ms"].is_u64() && checked["model"]["is_reachable"] == true, "{checked}");
        let asked = server.requests();
        let post = asked.iter().find(|request| request.method == "POST").unwrap();
        assert_eq!((post.path.as_str(), &post.body["stream"]), ("/v1/chat/completions", &json!(true)));

        // One that answers and calls nothing is of no use to an agent.
        let mute = found(&home, &["model", "check", "vllm/mute", "--json"]);
        assert_eq!(mute.status.code(), Some(4), "{}", shown(&mute));
        let checked: Value = serde_json::from_slice(&mute.stdout).unwrap();
        assert_eq!((&checked["works"], &checked["tool_call"]), (&json!(false), &json!("missing")));
        let unknown = found(&home, &["model", "check", "vllm/unknown"]);
        assert_eq!(unknown.status.code(), Some(3), "{}", shown(&unknown));
        assert!(shown(&unknown).contains("serves: org/able, mute"), "{}", shown(&unknown));

        let source = home.repository("thing", &[("a.txt", "one\n")]);
        let run = ["run", "Say hello.", "--project", source.to_str().unwrap(), "--model", "vllm/org/able"];
        let session = found_json(&home, &[&run[..], &["--detach", "--keep"]].concat());
        assert_eq!(session["model"]["source"], "local");
        let id = session["session_id"].as_str().unwrap();
        until("the turn", || home.json(&["session", "get", id])["last_stop"].is_string());
        assert_eq!(home.json(&["session", "get", id])["last_stop"], "end_turn");
        let last = server.requests().pop().unwrap();
        assert_eq!(last.body["model"], "org/able");

        // What is done with a provider's key is in the audit.
        let audit = home.json(&["audit", "list"]).to_string();
        assert!(audit.contains("model.check") && !audit.contains("model.list"), "{audit}");
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_refuses_its_key_is_said_so_and_the_key_is_not_shown() {
    const KEY: &str = "sk-models-0123456789abcdef";
    let server = ModelServer::start().await.unwrap();
    server.otherwise(Answer::status(401, format!("{{\"error\":{{\"message\":\"bad {KEY}\"}}}}")));
    tokio::task::spawn_blocking(move || {
        let mut home = Home::without_model();
        home.set("OPENAI_API_KEY", KEY);
        home.set("OPENAI_BASE_URL", &server.base_url());
        home.set("OPENAI_MODEL", "m-1");
        home.start();
        let listed = home.json(&["model", "list"]);
        assert_eq!(
            (&listed[0]["name"], &listed[0]["is_reachable"], &listed[0]["has_key"]),
            (&json!("openai/m-1"), &json!(false), &json!(true))
        );
        assert!(listed[0]["problem"].as_str().unwrap().contains("refuses the key"), "{listed}");
        let checked = home.run(["model", "check", "openai"]);
        assert_eq!(checked.status.code(), Some(4), "{}", shown(&checked));
        assert!(shown(&checked).contains("refused our key"), "{}", shown(&checked));
        for text in [shown(&checked), listed.to_string(), shown(&home.run(["model", "list"]))] {
            assert!(!text.contains(KEY), "{text}");
        }
    })
    .await
    .unwrap();
}
