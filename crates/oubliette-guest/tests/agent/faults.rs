//! Models that fail: each fault has its own clear end, and the next prompt works.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::sync::mpsc;

use serde_json::Value;
use serde_json::json;

use crate::harness::Bench;
use crate::harness::Model;
use crate::harness::PROGRAM;
use crate::harness::Reply;
use crate::harness::calls;
use crate::harness::contents;
use crate::harness::delta;
use crate::harness::end;
use crate::harness::open_stream;
use crate::harness::said;
use crate::harness::status;
use crate::harness::wait_until;

/// Runs a turn against a model that fails so, and another that must go well. The error and the number of requests.
fn failure(script: Vec<Reply>, arguments: &[&str]) -> (Value, usize) {
    let failing = script.len();
    let model = Model::new(script.into_iter().chain([said("fine again")]));
    let bench = arguments.iter().fold(Bench::new(&model), |bench, argument| bench.with(argument));
    let (mut agent, session) = bench.session();
    let response = agent.turn(&session, "first");
    let error = response["error"].clone();
    assert!(error["message"].is_string(), "{response}");
    assert_eq!(model.requests().len(), failing, "{response}");
    assert_eq!(agent.turn(&session, "second")["result"]["stopReason"], "end_turn");
    assert_eq!(contents(&model.requests()[failing], "user"), ["first", "second"]);
    (error, failing)
}

fn check(error: &Value, code: &str, message: &str) {
    assert_eq!(error["data"]["code"], code, "{error}");
    assert!(error["message"].as_str().is_some_and(|text| text.contains(message)), "{error}");
}

#[test]
fn a_busy_or_broken_model_is_asked_again() {
    let cut = Reply::Raw(open_stream(&[delta(json!({"content": "half an ans"}))]));
    let model = Model::new([
        status("429 Too Many Requests", "retry-after: 0\r\n", r#"{"error":{"message":"slow down"}}"#),
        status("503 Unavailable", "", "no json"),
        cut,
        said("a whole answer"),
    ]);
    let (mut agent, session) = Bench::new(&model).session_kept();
    assert_eq!(agent.turn(&session, "go")["result"]["stopReason"], "end_turn");
    assert_eq!(model.requests().len(), 4);
    let thoughts = agent.text("agent_thought_chunk");
    for expected in ["slow down; asking again (1 of 3)", "no json; asking again (2 of 3)", "cut off"] {
        assert!(thoughts.contains(expected), "{thoughts}");
    }
    let ids: Vec<&str> = agent
        .updates
        .iter()
        .filter(|update| update["sessionUpdate"] == "agent_message_chunk")
        .filter_map(|update| update["messageId"].as_str())
        .collect();
    assert_ne!(ids[0], ids[1], "the repeated answer is another message");
}

#[test]
fn a_model_that_stays_broken_is_given_up_with_its_own_words() {
    let broken = || status("500 Oh No", "", r#"{"error":{"message":"the disk is on fire","code":"fire"}}"#);
    let (error, _) = failure(vec![broken(), broken(), broken(), broken()], &[]);
    check(&error, "fire", "the model refused the request with status 500: the disk is on fire");
    assert_eq!(error["data"]["status"], 500);
    assert_eq!(error["code"], -32603);
}

#[test]
fn refusals_are_not_asked_for_twice_and_keep_their_words() {
    let limit = r#"{"error":{"message":"the project's limit of $10 is used up; raise max_cost_usd","code":"limit_exceeded","type":"refused"}}"#;
    let (error, _) = failure(vec![status("429 Too Many Requests", "", limit)], &[]);
    check(&error, "limit_exceeded", "raise max_cost_usd");
    let (error, _) = failure(vec![status("401 Unauthorized", "", r#"{"error":{"message":"bad key"}}"#)], &[]);
    check(&error, "model_refused", "bad key; check the provider's key");
    let (error, _) =
        failure(vec![status("400 Bad Request", "", r#"{"message":"too long","code":"context"}"#)], &[]);
    check(&error, "context", "status 400: too long");
}

#[test]
fn answers_that_make_no_sense_are_told_as_such() {
    let event = |data: &str| {
        let mut bytes = open_stream(&[delta(json!({"content": "well"}))]);
        bytes.extend_from_slice(format!("data: {data}\n\n").as_bytes());
        Reply::Raw(bytes)
    };
    for reply in [
        event("{\"choices\":[{"),
        event("[1,2]"),
        event("{\"choices\":\"many\"}"),
        status("200 OK", "", r#"{"choices":[]}"#),
        Reply::Raw(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: \xff\xfe\n\n".to_vec()),
        Reply::Raw(b"this is not HTTP\r\n\r\n".to_vec()),
    ] {
        let (error, _) = failure(vec![reply], &[]);
        check(&error, "bad_model_stream", "makes no sense");
    }
}

#[test]
fn an_error_in_the_middle_of_an_answer_is_passed_on() {
    let error = json!({"error": {"message": "the limit was reached", "code": "limit_exceeded"}});
    let (error, _) = failure(vec![Reply::Stream(vec![delta(json!({"content": "I"})), error])], &[]);
    check(&error, "limit_exceeded", "broke its answer off: the limit was reached");
}

#[test]
fn an_answer_that_is_always_cut_is_given_up() {
    let cut = || Reply::Raw(open_stream(&[delta(json!({"content": "half"}))]));
    let (error, _) = failure(vec![cut(), cut(), cut(), cut()], &[]);
    check(&error, "model_cut", "cut off");
}

#[test]
fn an_event_without_an_end_is_not_collected_for_ever() {
    let mut bytes = open_stream(&[]);
    bytes.extend_from_slice(b"data: {\"choices\":[{\"delta\":{\"content\":\"");
    bytes.resize(bytes.len() + 6 * 1024 * 1024, b'x');
    let (error, _) = failure(vec![Reply::Raw(bytes)], &[]);
    check(&error, "model_answer_too_large", "an event of more than 4194304");
}

#[test]
fn a_model_that_says_nothing_is_hung_up_on() {
    let (gone, was_told) = mpsc::channel();
    let silent = Reply::Hang(Vec::new(), gone.clone());
    let (error, _) = failure(vec![silent], &["--model-idle-timeout-s=1"]);
    check(&error, "model_timeout", "said nothing for 1 s");
    was_told.recv_timeout(crate::harness::DEADLINE).expect("the connection is closed");
    let half = Reply::Hang(open_stream(&[delta(json!({"content": "well"}))]), gone);
    let (error, _) = failure(vec![half], &["--model-idle-timeout-s=1"]);
    check(&error, "model_timeout", "said nothing for 1 s");
    was_told.recv_timeout(crate::harness::DEADLINE).expect("the connection is closed");
}

#[test]
fn a_gate_that_restarts_is_waited_for() {
    let nowhere = Model::new([]);
    let bench = Bench::new(&nowhere);
    let socket = bench.folder.path().join("gate.sock");
    let bench = bench.with("--model-socket").with(socket.to_str().expect("it is UTF-8"));
    let (mut agent, session) = bench.session();
    let id = agent.prompt(&session, "go");
    // The transcript has the prompt once the turn is under way.
    let transcript = bench.home().join(".agent/sessions").join(format!("{session}.jsonl"));
    wait_until("the turn is under way", || {
        std::fs::read_to_string(&transcript).is_ok_and(|text| text.contains("\"user\""))
    });
    let model = Model::on_socket(&socket, [said("here I am")]);
    assert_eq!(agent.response(id)["result"]["stopReason"], "end_turn");
    assert_eq!(model.requests().len(), 1);
}

#[test]
fn a_gate_that_never_comes_is_an_error_in_the_end() {
    let nowhere = Model::new([]);
    let bench = Bench::new(&nowhere).with("--model-socket=/nowhere/gate.sock").with("--model-patience-s=1");
    let (mut agent, session) = bench.session();
    let response = agent.turn(&session, "go");
    check(&response["error"], "model_unreachable", "/nowhere/gate.sock");
}

#[test]
fn a_model_may_stop_without_giving_a_reason() {
    let model = Model::new([Reply::Stream(vec![delta(json!({"content": "done"}))])]);
    let (mut agent, session) = Bench::new(&model).session_kept();
    assert_eq!(agent.turn(&session, "go")["result"]["stopReason"], "end_turn");
}

#[test]
fn an_answer_may_end_with_its_connection() {
    let bytes = open_stream(&[delta(json!({"content": "done"})), end("stop")]);
    let model = Model::new([Reply::Raw(bytes)]);
    let (mut agent, session) = Bench::new(&model).session_kept();
    assert_eq!(agent.turn(&session, "go")["result"]["stopReason"], "end_turn");
}

#[test]
fn a_home_that_cannot_be_written_is_refused() {
    let model = Model::new([]);
    let bench = Bench::new(&model);
    // A file in the way: permissions alone do not stop root.
    std::fs::write(bench.home().join(".agent"), "").expect("it is writable");
    std::fs::set_permissions(bench.home(), std::fs::Permissions::from_mode(0o500)).expect("it is ours");
    let mut agent = bench.start();
    let response = agent.call("session/new", json!({"cwd": bench.workspace(), "mcpServers": []}));
    let message = response["error"]["message"].as_str().unwrap_or_default().to_owned();
    assert!(message.contains("the transcript") && message.contains("cannot be used"), "{response}");
}

#[test]
fn a_full_disk_stops_the_turn_and_leaves_a_whole_transcript() {
    let model = Model::new([said("first"), said("second"), said("third")]);
    let bench = Bench::new(&model);
    let mut limited = Command::new("/bin/sh");
    // The limit is in blocks of 512 or 1024 bytes; its signal is ignored, so writing fails instead.
    limited.arg("-c").arg("trap '' XFSZ; ulimit -f 8; exec \"$0\" \"$@\"").arg(PROGRAM);
    let mut agent = bench.spawn_as(limited);
    let answer = agent.call("session/new", json!({"cwd": bench.workspace(), "mcpServers": []}));
    let session = answer["result"]["sessionId"].as_str().expect("a session has an id").to_owned();
    assert_eq!(agent.turn(&session, "small")["result"]["stopReason"], "end_turn");
    let error = agent.turn(&session, &"large ".repeat(5000))["error"].clone();
    check(&error, "transcript_unwritable", "free some space");
    agent.kill();

    let mut agent = bench.start();
    let params = json!({"sessionId": session, "cwd": bench.workspace(), "mcpServers": []});
    assert!(agent.call("session/load", params)["result"].is_object());
    assert_eq!(agent.turn(&session, "again")["result"]["stopReason"], "end_turn");
    assert_eq!(contents(&model.requests()[1], "user"), ["small", "again"]);
    assert_eq!(contents(&model.requests()[1], "assistant"), ["first"]);
}

#[test]
fn a_call_that_was_made_is_not_made_again_when_the_next_answer_fails() {
    let model = Model::new([
        calls(&[("run", json!({"command": "echo once >> count"}))]),
        status("500 Oh No", "", "{}"),
        Reply::Raw(open_stream(&[])),
        said("ok"),
    ]);
    let bench = Bench::new(&model);
    let (mut agent, session) = bench.session();
    assert_eq!(agent.turn(&session, "go")["result"]["stopReason"], "end_turn");
    assert_eq!(bench.content("count"), "once\n");
}
