//! From the start until the agent is ready, or is not.

use super::*;

#[test]
fn a_new_conversation_is_opened_in_the_working_directory() {
    let mut script = Script::new(None);
    let hello = script.heard();
    assert_eq!(hello[0]["method"], "initialize");
    assert_eq!(hello[0]["params"]["protocolVersion"], 1);
    assert_eq!(hello[0]["params"]["clientInfo"]["name"], "oubliette");
    let capabilities = &hello[0]["params"]["clientCapabilities"];
    assert_ne!(capabilities["fs"]["readTextFile"], true);
    assert_ne!(capabilities["fs"]["writeTextFile"], true);
    assert_ne!(capabilities["terminal"], true);

    assert_eq!(script.says(HELLO), []);
    let open = script.heard();
    assert_eq!(open.len(), 1);
    assert_eq!(open[0]["method"], "session/new");
    assert_eq!(open[0]["params"], json!({ "cwd": "/workspace", "mcpServers": [] }));

    let outputs = script.says(OPENED);
    assert_eq!(short(&outputs), ["system: agent ready", "ready, resumed: false"]);
    let data = events(&outputs)[0].data.as_ref().expect("details");
    assert_eq!(data["agent"], json!({ "name": "mock", "version": "0.3" }));
    assert_eq!(script.driver.agent_session(), Some("s1"));
}

#[test]
fn a_conversation_is_resumed_and_its_replay_is_not_recorded_again() {
    let mut script = Script::new(Some("s1"));
    assert_eq!(script.driver.agent_session(), Some("s1"), "known before the agent is ready");
    script.heard();
    assert_eq!(script.says(HELLO), []);
    let load = script.heard();
    assert_eq!(load[0]["method"], "session/load");
    assert_eq!(load[0]["params"], json!({ "mcpServers": [], "cwd": "/workspace", "sessionId": "s1" }));
    for update in [
        json!({ "sessionUpdate": "user_message_chunk", "content": { "type": "text", "text": "fix it" } }),
        message("I did"),
        json!({ "sessionUpdate": "tool_call", "toolCallId": "t1", "title": "ls" }),
        json!({ "sessionUpdate": "plan", "entries": [] }),
    ] {
        assert_eq!(script.updates(&update), [], "{update}");
    }
    let outputs = script.says(r#"{"jsonrpc":"2.0","id":2,"result":null}"#);
    assert_eq!(short(&outputs), ["system: agent ready", "ready, resumed: true"]);

    // The control: the same update after the load is recorded, and nothing of the replay is stuck to it.
    script.driver.prompt(T2, "more").clear();
    assert_eq!(short(&script.updates(&message("more"))), ["delta: more"]);
    let outputs = script.says(END);
    assert_eq!(short(&outputs), ["message: more", "completion: more", "stopped: EndTurn"]);
}

#[test]
fn an_agent_that_cannot_load_gets_a_new_conversation() {
    let mut script = Script::new(Some("old"));
    script.heard();
    script.says(r#"{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":1}}"#);
    assert_eq!(script.heard()[0]["method"], "session/new");
    assert_eq!(script.driver.agent_session(), Some("old"), "kept until there is another");
    assert_eq!(script.says(OPENED).last(), Some(&Output::Ready { resumed: false }));
    assert_eq!(script.driver.agent_session(), Some("s1"));
}

#[test]
fn a_refused_load_falls_back_to_a_new_conversation() {
    let mut script = Script::new(Some("old"));
    script.says(HELLO);
    script.heard();
    let refused =
        script.says(r#"{"jsonrpc":"2.0","id":2,"error":{"code":-32002,"message":"no such session"}}"#);
    assert_eq!(short(&refused), ["system: the agent cannot resume the conversation: no such session"]);
    let open = script.heard();
    assert_eq!((&open[0]["method"], &open[0]["id"]), (&json!("session/new"), &json!(3)));
    let outputs = script.says(r#"{"jsonrpc":"2.0","id":3,"result":{"sessionId":"new"}}"#);
    assert_eq!(short(&outputs), ["system: agent ready", "ready, resumed: false"]);
    assert_eq!(script.driver.agent_session(), Some("new"));
}

#[test]
fn an_agent_that_breaks_the_handshake_is_given_up_with_a_fix() {
    let long = format!(r#"{{"id":2,"result":{{"sessionId":"{}"}}}}"#, "x".repeat(NAME_MAX + 1));
    let improper = "the agent opened a conversation without a proper id";
    let table = [
        (
            vec![r#"{"id":1,"result":{"protocolVersion":2}}"#],
            "the agent speaks version 2 of ACP, and version 1 is needed",
        ),
        (vec![r#"{"id":1,"result":{}}"#], "the agent speaks version null of ACP, and version 1 is needed"),
        (
            vec![r#"{"id":1,"result":{"protocolVersion":"1"}}"#],
            "the agent speaks version \"1\" of ACP, and version 1 is needed",
        ),
        (
            vec![r#"{"id":1,"error":{"code":-32603,"message":"no node"}}"#],
            "the agent refused the handshake: no node",
        ),
        (
            vec![HELLO, r#"{"id":2,"error":{"code":-32000,"message":"log in"}}"#],
            "the agent opened no conversation: log in",
        ),
        (
            vec![HELLO, r#"{"id":2,"error":"broken"}"#],
            "the agent opened no conversation: an error without a message",
        ),
        (vec![HELLO, r#"{"id":2,"result":{}}"#], improper),
        (vec![HELLO, r#"{"id":2,"result":{"sessionId":""}}"#], improper),
        (vec![HELLO, &long], improper),
    ];
    for (lines, message) in table {
        let mut script = Script::new(None);
        let outputs: Vec<Output> = lines.iter().flat_map(|line| script.says(line)).collect();
        let [Output::Failed(refusal)] = outputs.as_slice() else { panic!("{message}: {outputs:?}") };
        assert_eq!(refusal.message, message);
        assert!(refusal.fix.is_some(), "{message}");
        assert_eq!(script.driver.outbox().1, b"", "nothing more is said to it");
        assert_eq!(script.says(OPENED), [], "nothing more is heard of it");
    }
}

#[test]
fn an_agent_that_prints_logs_first_is_waited_for() {
    let mut script = Script::new(None);
    let shown: usize = (0..200).map(|n| script.says(&format!("loading {n}")).len()).sum();
    assert_eq!(shown, 50);
    assert_eq!(script.says(HELLO), []);
    let counted = "system: suppressed 150 more lines of the agent's output";
    assert_eq!(short(&script.says(OPENED)), [counted, "system: agent ready", "ready, resumed: false"]);
}

#[test]
fn updates_before_the_conversation_is_open_are_kept() {
    let mut script = Script::new(None);
    script.says(HELLO);
    let commands =
        json!({ "sessionUpdate": "available_commands_update", "availableCommands": [{ "name": "web" }] });
    let outputs = script.updates(&commands);
    assert_eq!(short(&outputs), ["system: commands: 1"]);
    assert_eq!(events(&outputs)[0].data, Some(json!({ "update": commands })));
}

const MODES: &str = r#"{"jsonrpc":"2.0","id":2,"result":{"sessionId":"s1","modes":{"currentModeId":"ask","availableModes":[{"id":"ask","name":"Ask"},{"id":"free","name":"Free"}]}}}"#;

#[test]
fn an_agent_is_put_into_its_mode_before_it_is_ready() {
    let mut script = Script::with(None, Autonomy::High, Some("free"));
    script.says(HELLO);
    script.heard();
    assert_eq!(script.says(MODES), [], "it is not ready yet");
    let told = script.heard();
    assert_eq!(told[0]["method"], "session/set_mode");
    assert_eq!(told[0]["params"], json!({ "sessionId": "s1", "modeId": "free" }));
    let saved = script.driver.save();
    script.driver = Driver::restore(&saved).expect("it restores");
    let outputs = script.says(r#"{"jsonrpc":"2.0","id":3,"result":{}}"#);
    assert_eq!(short(&outputs), ["system: agent ready", "ready, resumed: false"]);
}

#[test]
fn an_agent_without_the_mode_or_that_refuses_it_stays_in_its_own_and_says_so() {
    let mut script = Script::with(None, Autonomy::High, Some("other"));
    script.says(HELLO);
    let outputs = script.says(MODES);
    let said = "system: the agent has no mode `other` and stays in its own";
    assert_eq!(short(&outputs), [said, "system: agent ready", "ready, resumed: false"]);

    let mut script = Script::with(None, Autonomy::High, Some("free"));
    script.says(HELLO);
    script.says(MODES);
    let outputs = script.says(r#"{"jsonrpc":"2.0","id":3,"error":{"code":-32602,"message":"not now"}}"#);
    let said = "system: the agent does not take the mode: not now";
    assert_eq!(short(&outputs), [said, "system: agent ready", "ready, resumed: false"]);
}

#[test]
fn a_mode_that_is_the_agents_own_is_not_set() {
    let mut script = Script::with(None, Autonomy::High, Some("ask"));
    script.says(HELLO);
    assert_eq!(script.says(MODES).last(), Some(&Output::Ready { resumed: false }));
}
