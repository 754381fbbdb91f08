//! Sessions that outlive their agent.

use serde_json::Value;
use serde_json::json;

use crate::harness::Bench;
use crate::harness::Model;
use crate::harness::assert_valid_history;
use crate::harness::calls;
use crate::harness::contents;
use crate::harness::is_running;
use crate::harness::said;
use crate::harness::wait_until;

#[test]
fn a_killed_agent_leaves_no_command_and_its_successor_knows_all() {
    let model = Model::new([
        calls(&[
            ("read", json!({"path": "a"})),
            ("run", json!({"command": "echo $$ > t; mv t pid; sleep 300"})),
        ]),
        said("Where was I?"),
    ]);
    let bench = Bench::new(&model);
    bench.write("a", "text");
    let (mut agent, session) = bench.session();
    agent.prompt(&session, "the task");
    wait_until("the command runs", || bench.workspace().join("pid").exists());
    let shell = bench.content("pid");
    assert!(is_running(&shell));
    agent.kill();
    wait_until("the command is gone", || !is_running(&shell));

    let mut agent = bench.start();
    let params = json!({"sessionId": session, "cwd": bench.workspace(), "mcpServers": []});
    let response = agent.call("session/load", params);
    assert!(response["result"].is_object(), "{response}");
    let kinds: Vec<&str> =
        agent.updates.iter().filter_map(|update| update["sessionUpdate"].as_str()).collect();
    assert_eq!(
        kinds,
        ["user_message_chunk", "tool_call", "tool_call", "tool_call_update", "tool_call_update"]
    );
    let results = agent.results();
    assert_eq!(results[0], ("completed".to_owned(), "     1\ttext\n".to_owned()));
    assert!(results[1].0 == "failed" && results[1].1.starts_with("interrupted"), "{results:?}");

    assert_eq!(agent.turn(&session, "go on")["result"]["stopReason"], "end_turn");
    let request = &model.requests()[1];
    assert_valid_history(request);
    assert_eq!(contents(request, "user"), ["the task", "go on"]);
    assert!(contents(request, "tool")[1].starts_with("interrupted"));
}

#[test]
fn a_torn_transcript_is_read_up_to_the_tear() {
    let model = Model::new([said("one"), said("two"), said("three")]);
    let bench = Bench::new(&model);
    let (mut agent, session) = bench.session();
    agent.turn(&session, "first");
    agent.turn(&session, "second");
    agent.kill();
    let path = bench.home().join(format!(".agent/sessions/{session}.jsonl"));
    let bytes = std::fs::read(&path).expect("it was written");
    std::fs::write(&path, &bytes[..bytes.len() - 3]).expect("it is writable");

    let mut agent = bench.start();
    let params = json!({"sessionId": session, "cwd": bench.workspace(), "mcpServers": []});
    agent.call("session/load", params.clone());
    assert_eq!(agent.turn(&session, "third")["result"]["stopReason"], "end_turn");
    assert_eq!(contents(&model.requests()[2], "user"), ["first", "second", "third"]);
    assert_eq!(contents(&model.requests()[2], "assistant"), ["one"]);
    // Also in the same process, and what was said since is there.
    agent.updates.clear();
    agent.call("session/load", params);
    assert_eq!(agent.text("agent_message_chunk"), "onethree");
}

#[test]
fn what_cannot_be_loaded_is_refused_with_the_reason() {
    let model = Model::new([]);
    let bench = Bench::new(&model);
    let (_holder, session) = bench.session();
    let mut agent = bench.start();
    let mut load = |id: &str| -> Value {
        let params = json!({"sessionId": id, "cwd": bench.workspace(), "mcpServers": []});
        agent.call("session/load", params)["error"].clone()
    };
    std::fs::write(bench.home().join("secret.jsonl"), "{}\n").expect("it is writable");
    for id in ["0123", "", "../../secret", "a/b", "a.b", &"x".repeat(100)] {
        assert_eq!(load(id)["code"], -32002, "{id}");
    }
    let error = load(&session);
    assert!(error["message"].as_str().is_some_and(|text| text.contains("in use")), "{error}");
}
