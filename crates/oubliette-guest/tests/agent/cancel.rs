//! Turns that are stopped, at any moment.

use std::sync::mpsc;

use serde_json::json;

use crate::harness::Bench;
use crate::harness::DEADLINE;
use crate::harness::Model;
use crate::harness::Reply;
use crate::harness::assert_valid_history;
use crate::harness::calls;
use crate::harness::contents;
use crate::harness::delta;
use crate::harness::is_running;
use crate::harness::open_stream;
use crate::harness::said;
use crate::harness::wait_until;

#[test]
fn a_cancel_while_the_model_speaks_hangs_up_and_keeps_what_it_said() {
    let (gone, was_told) = mpsc::channel();
    let speaking = Reply::Hang(open_stream(&[delta(json!({"content": "I will now"}))]), gone);
    let model = Model::new([speaking, said("ok")]);
    let (mut agent, session) = Bench::new(&model).session_kept();
    let id = agent.prompt(&session, "go");
    agent.update(|update| update["content"]["text"] == "I will now");
    agent.cancel(&session);
    agent.cancel(&session);
    assert_eq!(agent.response(id)["result"]["stopReason"], "cancelled");
    was_told.recv_timeout(DEADLINE).expect("the connection is closed");

    assert_eq!(agent.turn(&session, "go on")["result"]["stopReason"], "end_turn");
    assert_eq!(contents(&model.requests()[1], "assistant"), ["I will now\n[stopped by the user]"]);
}

#[test]
fn a_cancel_before_the_model_answers_works_too() {
    let (gone, was_told) = mpsc::channel();
    let model = Model::new([Reply::Hang(Vec::new(), gone)]);
    let (mut agent, session) = Bench::new(&model).session_kept();
    let id = agent.prompt(&session, "go");
    wait_until("the model is asked", || model.requests().len() == 1);
    agent.cancel(&session);
    assert_eq!(agent.response(id)["result"]["stopReason"], "cancelled");
    was_told.recv_timeout(DEADLINE).expect("the connection is closed");
}

#[test]
fn a_cancel_while_a_command_runs_kills_all_of_its_processes() {
    let command = "sleep 300 & echo $! > child; echo $$ > shell.tmp; mv shell.tmp shell; sleep 300";
    let model = Model::new([
        calls(&[("run", json!({ "command": command })), ("write", json!({"path": "x", "content": ""}))]),
        said("ok"),
    ]);
    let bench = Bench::new(&model);
    let (mut agent, session) = bench.session();
    let id = agent.prompt(&session, "go");
    wait_until("the command runs", || bench.workspace().join("shell").exists());
    let (shell, child) = (bench.content("shell"), bench.content("child"));
    assert!(is_running(&shell) && is_running(&child));
    agent.cancel(&session);
    assert_eq!(agent.response(id)["result"]["stopReason"], "cancelled");
    wait_until("its processes are gone", || !is_running(&shell) && !is_running(&child));
    let stopped = ("failed".to_owned(), "stopped by the user".to_owned());
    assert_eq!(agent.results(), [stopped.clone(), stopped]);
    assert!(!bench.workspace().join("x").exists(), "what comes after is not done");

    assert_eq!(agent.turn(&session, "go on")["result"]["stopReason"], "end_turn");
    assert_valid_history(&model.requests()[1]);
}

#[test]
fn a_cancel_while_a_failed_model_is_waited_for_works_too() {
    let nowhere = Model::new([]);
    let bench = Bench::new(&nowhere).with("--model-socket=/nowhere/gate.sock");
    let (mut agent, session) = bench.session();
    let id = agent.prompt(&session, "go");
    agent.cancel(&session);
    assert_eq!(agent.response(id)["result"]["stopReason"], "cancelled");
}

#[test]
fn a_cancel_without_a_turn_changes_nothing() {
    let model = Model::new([said("ok")]);
    let (mut agent, session) = Bench::new(&model).session_kept();
    agent.cancel(&session);
    agent.cancel("no-such-session");
    agent.notify("session/cancel", json!(7));
    assert_eq!(agent.turn(&session, "go")["result"]["stopReason"], "end_turn");
}

#[test]
fn another_session_goes_on_when_one_is_cancelled() {
    let (gone, _was_told) = mpsc::channel();
    let model = Model::new([Reply::Hang(Vec::new(), gone), said("mine")]);
    let bench = Bench::new(&model);
    let (mut agent, one) = bench.session();
    let answer = agent.call("session/new", json!({"cwd": bench.workspace(), "mcpServers": []}));
    let two = answer["result"]["sessionId"].as_str().expect("a session has an id").to_owned();
    let first = agent.prompt(&one, "hang");
    wait_until("the model is asked", || model.requests().len() == 1);
    assert_eq!(agent.turn(&two, "go")["result"]["stopReason"], "end_turn");
    agent.cancel(&one);
    assert_eq!(agent.response(first)["result"]["stopReason"], "cancelled");
}
