//! The protocol's edges: garbage, unknown methods, refusals, the end.

use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Write as _;
use std::process::Command;
use std::sync::mpsc;

use serde_json::Value;
use serde_json::json;

use crate::harness::Bench;
use crate::harness::Model;
use crate::harness::PROGRAM;
use crate::harness::Reply;
use crate::harness::calls;
use crate::harness::delta;
use crate::harness::is_running;
use crate::harness::said;
use crate::harness::wait_until;

#[test]
fn the_handshake_says_what_the_agent_can() {
    let mut agent = Bench::new(&Model::new([])).spawn_kept();
    let answer =
        agent.call("initialize", json!({"protocolVersion": 7, "clientInfo": {"name": "t", "version": "1"}}));
    let result = &answer["result"];
    assert_eq!(result["protocolVersion"], 1);
    assert_eq!(result["agentCapabilities"]["loadSession"], true);
    assert_eq!(result["agentCapabilities"]["promptCapabilities"]["image"], false);
    assert_eq!(result["agentInfo"]["name"], "oubliette-agent");
}

#[test]
fn garbage_is_answered_and_passed_over() {
    let model = Model::new([said("ok")]);
    let (mut agent, session) = Bench::new(&model).session_kept();
    for (line, code) in [
        (&b"{\"jsonrpc\": nonsense"[..], -32700),
        (b"\xff\xfe\x00", -32700),
        (b"[]", -32600),
        (b"\"text\"", -32600),
        (b"{\"jsonrpc\":\"2.0\",\"id\":9,\"method\":12}", -32600),
        (b"{\"jsonrpc\":\"2.0\",\"id\":9,\"method\":\"session/fly\"}", -32601),
        (b"{\"jsonrpc\":\"2.0\",\"id\":9,\"method\":\"session/new\"}", -32602),
        (b"{\"jsonrpc\":\"2.0\",\"id\":9,\"method\":\"session/prompt\",\"params\":{}}", -32602),
    ] {
        agent.send_raw(line);
        assert_eq!(agent.next()["error"]["code"], code, "{:?}", String::from_utf8_lossy(line));
    }
    // None of these wants an answer.
    agent.send_raw(b"");
    agent.notify("session/unheard_of", json!({}));
    agent.send_raw(b"{\"jsonrpc\":\"2.0\",\"id\":77,\"result\":{}}");
    let mut long = b"{\"jsonrpc\":\"2.0\",\"method\":\"".to_vec();
    long.resize(17 * 1024 * 1024, b'x');
    agent.send_raw(&long);
    assert_eq!(agent.next()["error"]["code"], -32600);
    assert_eq!(agent.turn(&session, "go")["result"]["stopReason"], "end_turn");
}

#[test]
fn requests_that_cannot_be_met_are_refused_with_the_reason() {
    let (gone, _was_told) = mpsc::channel();
    let model = Model::new([Reply::Hang(Vec::new(), gone)]);
    let bench = Bench::new(&model);
    let (mut agent, session) = bench.session();
    let text = json!([{"type": "text", "text": "go"}]);
    let image = json!([{"type": "image", "data": "", "mimeType": "image/png"}]);
    let server = json!([{"name": "s", "command": "/bin/s", "args": [], "env": []}]);
    for (method, params, code, message) in [
        ("session/new", json!({"cwd": "relative", "mcpServers": []}), -32602, "absolute path"),
        ("session/new", json!({"cwd": "/no/such/folder", "mcpServers": []}), -32602, "existing folder"),
        ("session/new", json!({"cwd": "/", "mcpServers": server}), -32602, "no MCP servers"),
        ("session/prompt", json!({"sessionId": "nobody", "prompt": text}), -32002, "not found"),
        ("session/prompt", json!({"sessionId": session, "prompt": image}), -32602, "text only"),
        ("session/prompt", json!({"sessionId": session, "prompt": []}), -32602, "prompt is empty"),
    ] {
        let error = agent.call(method, params.clone())["error"].clone();
        assert_eq!(error["code"], code, "{method} {params}: {error}");
        assert!(error["message"].as_str().is_some_and(|text| text.contains(message)), "{error}");
    }
    let turn = agent.prompt(&session, "hang");
    let error = agent.turn(&session, "me too")["error"].clone();
    assert!(error["message"].as_str().is_some_and(|text| text.contains("under way")), "{error}");
    let params = json!({"sessionId": session, "cwd": bench.workspace(), "mcpServers": []});
    let error = agent.call("session/load", params)["error"].clone();
    assert!(error["message"].as_str().is_some_and(|text| text.contains("under way")), "{error}");
    agent.cancel(&session);
    assert_eq!(agent.response(turn)["result"]["stopReason"], "cancelled");
}

#[test]
fn the_end_of_input_ends_the_agent_and_its_commands() {
    let model = Model::new([calls(&[("run", json!({"command": "echo $$ > t; mv t pid; sleep 300"}))])]);
    let bench = Bench::new(&model);
    let (mut agent, session) = bench.session();
    agent.prompt(&session, "go");
    wait_until("the command runs", || bench.workspace().join("pid").exists());
    let shell = bench.content("pid");
    assert!(agent.close().success());
    wait_until("the command is gone", || !is_running(&shell));
}

#[test]
fn what_was_asked_before_the_end_of_input_is_still_answered() {
    let mut agent = Bench::new(&Model::new([])).spawn_kept();
    let id = agent.request("initialize", json!({"protocolVersion": 1}));
    assert!(agent.close().success());
    assert_eq!(agent.response(id)["result"]["protocolVersion"], 1);
}

#[test]
fn a_termination_signal_ends_the_agent_and_its_commands() {
    let model = Model::new([calls(&[("run", json!({"command": "echo $$ > t; mv t pid; sleep 300"}))])]);
    let bench = Bench::new(&model);
    let (mut agent, session) = bench.session();
    agent.prompt(&session, "go");
    wait_until("the command runs", || bench.workspace().join("pid").exists());
    let shell = bench.content("pid");
    let killed = std::process::Command::new("kill").arg(agent.pid()).status().expect("kill is installed");
    assert!(killed.success() && agent.wait().success());
    wait_until("the command is gone", || !is_running(&shell));
}

#[test]
fn an_agent_that_nobody_reads_still_ends_with_its_input() {
    let events = (0..2000).map(|_| delta(json!({"content": "x".repeat(1000)}))).collect();
    let model = Model::new([Reply::Stream(events)]);
    let bench = Bench::new(&model);
    let mut child = bench.set_up(&mut Command::new(PROGRAM)).spawn().expect("the agent starts");
    let mut input = child.stdin.take().expect("it is piped");
    let mut output = BufReader::new(child.stdout.take().expect("it is piped"));
    let new = json!({"jsonrpc": "2.0", "id": 1, "method": "session/new",
        "params": {"cwd": bench.workspace(), "mcpServers": []}});
    writeln!(input, "{new}").expect("the agent reads");
    let mut line = String::new();
    output.read_line(&mut line).expect("the agent answers");
    let answer: Value = serde_json::from_str(&line).expect("the agent says JSON");
    let prompt = json!({"jsonrpc": "2.0", "id": 2, "method": "session/prompt", "params": {
        "sessionId": answer["result"]["sessionId"], "prompt": [{"type": "text", "text": "go"}]}});
    writeln!(input, "{prompt}").expect("the agent reads");
    line.clear();
    output.read_line(&mut line).expect("the agent streams");
    drop(input);
    assert!(child.wait().expect("it is our child").success());
}

#[test]
fn bad_options_end_the_agent_with_status_2() {
    let bench = Bench::new(&Model::new([])).with("--sing");
    assert_eq!(bench.spawn().wait().code(), Some(2));
}
