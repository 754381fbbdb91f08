//! Turns that go well.

use std::sync::mpsc;

use serde_json::Value;
use serde_json::json;

use crate::harness::Bench;
use crate::harness::Model;
use crate::harness::Reply;
use crate::harness::assert_valid_history;
use crate::harness::calls;
use crate::harness::contents;
use crate::harness::delta;
use crate::harness::end;
use crate::harness::said;

#[test]
fn a_fault_is_found_repaired_and_checked_with_every_tool() {
    let model = Model::new([
        calls(&[("list", json!({})), ("search", json!({"pattern": "add", "glob": "*.sh"}))]),
        calls(&[("read", json!({"path": "lib.sh"})), ("run", json!({"command": "sh test.sh"}))]),
        calls(&[("edit", json!({"path": "lib.sh", "old": "$1 - $2", "new": "$1 + $2"}))]),
        calls(&[
            ("write", json!({"path": "notes/done.txt", "content": "repaired\n"})),
            ("run", json!({"command": "sh test.sh"})),
        ]),
        said("The sign was wrong."),
    ]);
    let bench = Bench::new(&model);
    bench.write("lib.sh", "add() {\n    echo $(($1 - $2))\n}\n");
    bench.write("test.sh", ". ./lib.sh\n[ \"$(add 2 2)\" = 4 ] && echo green || { echo red; exit 1; }\n");
    let (mut agent, session) = bench.session();
    let response = agent.turn(&session, "repair add");

    assert_eq!(response["result"]["stopReason"], "end_turn", "{response}");
    assert_eq!(agent.text("agent_message_chunk"), "The sign was wrong.");
    assert!(bench.content("lib.sh").contains("$1 + $2"));
    assert_eq!(bench.content("notes/done.txt"), "repaired\n");
    let done = |text: &str| ("completed".to_owned(), text.to_owned());
    assert_eq!(
        agent.results(),
        [
            done("lib.sh\ntest.sh\n"),
            done(
                "lib.sh:1: add() {\ntest.sh:2: [ \"$(add 2 2)\" = 4 ] && echo green || { echo red; exit 1; }\n"
            ),
            done("     1\tadd() {\n     2\t    echo $(($1 - $2))\n     3\t}\n"),
            done("red\nexit code: 1"),
            done("edited `lib.sh` at line 2"),
            done("made `notes/done.txt`: 1 lines, 9 bytes"),
            done("green\nexit code: 0"),
        ]
    );

    let announced: Vec<Value> =
        agent.updates.iter().filter(|update| update["sessionUpdate"] == "tool_call").cloned().collect();
    let column = |name: &str| -> Vec<&str> {
        announced.iter().map(|call| call[name].as_str().unwrap_or_default()).collect()
    };
    assert_eq!(column("kind"), ["read", "search", "read", "execute", "edit", "edit", "execute"]);
    assert_eq!(column("name"), ["list", "search", "read", "run", "edit", "write", "run"]);
    assert_eq!(column("title")[3..5], ["Run sh test.sh", "Edit lib.sh"]);
    assert_eq!(announced[4]["rawInput"]["old"], "$1 - $2");
    assert_eq!(announced[4]["locations"][0]["path"], json!(bench.workspace().join("lib.sh")));
    let mut ids = column("toolCallId");
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 7, "each call has its own id");
    let diff = agent.updates.iter().find(|update| update["content"][1]["type"] == "diff").expect("a diff");
    assert!(diff["content"][1]["newText"].as_str().is_some_and(|text| text.contains("$1 + $2")));
    let ran = agent.updates.iter().find(|update| !update["_meta"].is_null()).expect("an exit code");
    assert_eq!(ran["_meta"], json!({"exitCode": 1}));

    let requests = model.requests();
    assert_eq!(requests.len(), 5);
    requests.iter().for_each(assert_valid_history);
    assert_eq!(requests[0]["stream"], true);
    assert_eq!(contents(&requests[4], "user"), ["repair add"]);
    assert_eq!(contents(&requests[4], "tool").last().map(String::as_str), Some("green\nexit code: 0"));
}

#[test]
fn a_call_goes_from_pending_to_in_progress_to_completed() {
    let model = Model::new([calls(&[("run", json!({"command": "true"}))]), said("ok")]);
    let (mut agent, session) = Bench::new(&model).session_kept();
    agent.turn(&session, "go");
    let steps: Vec<&Value> = agent
        .updates
        .iter()
        .filter(|update| update["sessionUpdate"].as_str().is_some_and(|kind| kind.starts_with("tool")))
        .map(|update| &update["status"])
        .collect();
    // Pending is the default and so is not written.
    assert_eq!(steps, [&Value::Null, &json!("in_progress"), &json!("completed")]);
}

#[test]
fn text_and_thoughts_are_shown_while_the_model_still_speaks() {
    let (word, held) = mpsc::channel();
    let events = vec![
        delta(json!({"reasoning_content": "let me see"})),
        delta(json!({"content": "Hel"})),
        delta(json!({"content": "lo"})),
        end("stop"),
    ];
    let model = Model::new([Reply::Held(events, held)]);
    let (mut agent, session) = Bench::new(&model).session_kept();
    let id = agent.prompt(&session, "greet");
    agent.update(|update| update["content"]["text"] == "lo");
    assert_eq!(agent.text("agent_thought_chunk"), "let me see");
    assert_eq!(agent.text("agent_message_chunk"), "Hello");
    word.send(()).expect("the model waits");
    assert_eq!(agent.response(id)["result"]["stopReason"], "end_turn");
}

#[test]
fn reads_go_at_once_and_changes_one_after_the_other() {
    let model = Model::new([
        calls(&[
            ("read", json!({"path": "a"})),
            ("read", json!({"path": "b"})),
            ("list", json!({})),
            ("run", json!({"command": "cat a"})),
            ("write", json!({"path": "a", "content": "2"})),
            ("run", json!({"command": "cat a"})),
        ]),
        said("ok"),
    ]);
    let bench = Bench::new(&model);
    bench.write("a", "1");
    bench.write("b", "x");
    let (mut agent, session) = bench.session();
    agent.turn(&session, "go");
    let steps: Vec<&str> = agent.updates.iter().filter_map(|update| update["status"].as_str()).collect();
    let (begun, done) = ("in_progress", "completed");
    assert_eq!(steps, [begun, begun, begun, done, done, done, begun, done, begun, done, begun, done]);
    let texts: Vec<String> = agent.results().into_iter().map(|(_, text)| text).collect();
    assert_eq!(texts[0], "     1\t1\n");
    assert_eq!(texts[3], "1\nexit code: 0");
    assert_eq!(texts[5], "2\nexit code: 0");
}

#[test]
fn calls_that_make_no_sense_are_explained_to_the_model_which_goes_on() {
    let model = Model::new([
        calls(&[
            ("teleport", json!({"to": "moon"})),
            ("read", json!({"file": "a"})),
            ("read", json!("a")),
            ("edit", json!({"path": "absent", "old": "a", "new": "b"})),
        ]),
        said("I see."),
    ]);
    let (mut agent, session) = Bench::new(&model).session_kept();
    assert_eq!(agent.turn(&session, "go")["result"]["stopReason"], "end_turn");
    let results = agent.results();
    let expected =
        ["there is no tool `teleport`", "unknown field `file`", "must be a JSON object", "does not exist"];
    assert_eq!(results.len(), expected.len());
    for ((status, text), expected) in results.iter().zip(expected) {
        assert!(status == "failed" && text.contains(expected), "{text}");
    }
    let request = &model.requests()[1];
    assert_valid_history(request);
    assert_eq!(request["messages"][2]["tool_calls"][2]["function"]["arguments"], "{}");
}

#[test]
fn a_model_that_goes_round_in_circles_is_told_and_then_stopped() {
    let model = Model::new((0..20).map(|_| calls(&[("list", json!({}))])));
    let (mut agent, session) = Bench::new(&model).session_kept();
    let response = agent.turn(&session, "go");
    assert_eq!(response["error"]["data"]["code"], "model_repeats", "{response}");
    assert!(
        response["error"]["message"].as_str().is_some_and(|text| text.contains("`List .`")),
        "{response}"
    );
    let told = agent.results().iter().filter(|(_, text)| text.contains("same result 4 times")).count();
    assert_eq!((told, agent.results().len()), (1, 8));
}

#[test]
fn a_model_without_an_end_is_stopped_after_a_hundred_answers() {
    let model =
        Model::new((0..200).map(|number| calls(&[("list", json!({"path": format!("no/{number}")}))])));
    let (mut agent, session) = Bench::new(&model).session_kept();
    let response = agent.turn(&session, "go");
    assert_eq!(response["result"]["stopReason"], "max_turn_requests", "{response}");
    assert_eq!(model.requests().len(), 100);
}

#[test]
fn the_reason_to_stop_is_passed_on_and_a_cut_call_is_not_made() {
    let cut_call = delta(json!({"tool_calls": [{"index": 0, "id": "c", "function":
        {"name": "write", "arguments": "{\"path\":\"x\",\"content\":\"\"}"}}]}));
    let model = Model::new([
        Reply::Stream(vec![delta(json!({"content": "so far"})), cut_call, end("length")]),
        Reply::Stream(vec![delta(json!({"content": "no"})), end("content_filter")]),
        said("ok"),
    ]);
    let bench = Bench::new(&model);
    let (mut agent, session) = bench.session();
    assert_eq!(agent.turn(&session, "one")["result"]["stopReason"], "max_tokens");
    assert_eq!(agent.turn(&session, "two")["result"]["stopReason"], "refusal");
    assert_eq!(agent.turn(&session, "three")["result"]["stopReason"], "end_turn");
    assert!(!bench.workspace().join("x").exists());
    assert_eq!(contents(&model.requests()[2], "assistant"), ["so far", "no"]);
}

#[test]
fn the_model_is_told_the_place_the_projects_rules_and_only_text_of_the_prompt() {
    let model = Model::new([said("ok")]);
    let bench = Bench::new(&model).with("--model").with("some-model");
    bench.write("AGENTS.md", "Speak like a pirate.");
    let (mut agent, session) = bench.session();
    let prompt = json!([
        {"type": "text", "text": "Look at this:"},
        {"type": "resource_link", "name": "a.rs", "uri": "file:///a.rs"},
        {"type": "resource", "resource": {"uri": "file:///b.rs", "text": "fn b() {}"}},
    ]);
    let response = agent.call("session/prompt", json!({"sessionId": session, "prompt": prompt}));
    assert_eq!(response["result"]["stopReason"], "end_turn", "{response}");
    let request = &model.requests()[0];
    let system = contents(request, "system").remove(0);
    assert!(system.contains(bench.workspace().to_str().expect("it is UTF-8")));
    assert!(system.ends_with("Speak like a pirate."));
    let user = contents(request, "user").remove(0);
    let expected =
        "Look at this:\n\n[a.rs](file:///a.rs)\n\n<resource uri=\"file:///b.rs\">\nfn b() {}\n</resource>";
    assert_eq!(user, expected);
    assert_eq!(request["model"], "some-model");
    assert_eq!(request["tools"].as_array().map(Vec::len), Some(8));
}
