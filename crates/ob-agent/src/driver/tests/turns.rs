//! Turns: prompts, what is reported in them, how they stop, and cancelling.

use agent_client_protocol_schema::v1 as acp;
use ob_core::event::Role;

use super::*;
use crate::bounds::TEXT_MAX;

#[test]
fn a_prompt_is_sent_once_and_only_to_an_agent_that_waits_for_it() {
    let mut script = Script::ready();
    assert_eq!(script.driver.prompt(T1, "fix \"it\"\nnow"), []);
    assert_eq!(script.driver.active(), Some(T1));
    let prompt = script.heard();
    assert_eq!(prompt[0]["method"], "session/prompt");
    let text = json!([{ "type": "text", "text": "fix \"it\"\nnow" }]);
    assert_eq!(prompt[0]["params"], json!({ "sessionId": "s1", "prompt": text }));
    for turn in [T1, T2] {
        let outputs = script.driver.prompt(turn, "again");
        assert!(
            matches!(outputs.as_slice(), [Output::Event(body)] if body.kind == EventKind::Error),
            "{outputs:?}"
        );
        assert_eq!(script.driver.active(), Some(T1));
        assert_eq!(script.heard(), [] as [Value; 0]);
    }
    let mut early = Script::new(None);
    assert_eq!(events(&early.driver.prompt(T1, "early")).len(), 1);
    assert_eq!(early.driver.active(), None);
}

#[test]
fn every_way_to_stop_has_its_outputs() {
    let unsaid =
        "error: the agent ended the turn without saying why; send the message again, or use another agent";
    let failed = r#"{"id":3,"error":{"code":-32603,"message":"Internal error","data":{"details":"429 from the model"}}}"#;
    let table = [
        (r#"{"id":3,"result":{"stopReason":"end_turn"}}"#, ["completion: hi", "stopped: EndTurn"]),
        (r#"{"id":3,"result":{"stopReason":"max_tokens"}}"#, ["completion: hi", "stopped: MaxTokens"]),
        (
            r#"{"id":3,"result":{"stopReason":"max_turn_requests"}}"#,
            ["completion: hi", "stopped: MaxTurnRequests"],
        ),
        (r#"{"id":3,"result":{"stopReason":"refusal"}}"#, ["completion: hi", "stopped: Refusal"]),
        (r#"{"id":3,"result":{"stopReason":"cancelled"}}"#, ["completion: hi", "stopped: Cancelled"]),
        (r#"{"id":3,"result":{"stopReason":"tired"}}"#, ["completion: hi", "stopped: EndTurn"]),
        (
            r#"{"id":3,"error":{"code":-32800,"message":"cancelled"}}"#,
            ["completion: hi", "stopped: Cancelled"],
        ),
        (r#"{"id":3,"result":{}}"#, [unsaid, "stopped: Error"]),
        (failed, ["error: the agent failed: Internal error: 429 from the model", "stopped: Error"]),
    ];
    for (line, rest) in table {
        let mut script = Script::prompted();
        assert_eq!(short(&script.updates(&message("hi"))), ["delta: hi"]);
        let outputs = script.says(line);
        assert_eq!(short(&outputs), ["message: hi", rest[0], rest[1]], "{line}");
        assert!(events(&outputs).iter().all(|event| event.turn == Some(T1)), "{outputs:?}");
        assert_eq!(script.driver.active(), None);
        assert_eq!(script.driver.prompt(T2, "next"), [], "the agent waits again after {line}");
    }
}

#[test]
fn an_agents_error_carries_its_code_and_data_and_is_bounded() {
    let mut script = Script::prompted();
    let error = json!({ "code": -32603, "message": "m".repeat(2 * NOTE_MAX), "data": { "status": 500 } });
    let outputs = script.says(&json!({ "id": 3, "error": error }).to_string());
    let data = events(&outputs)[0].data.as_ref().expect("details");
    assert_eq!(data["code"], "unavailable");
    assert_eq!(data["agent_code"], -32603);
    assert_eq!(data["agent_data"], json!({ "status": 500 }));
    assert!(events(&outputs)[0].text.as_ref().is_some_and(|text| text.len() < NOTE_MAX + 100), "bounded");
}

#[test]
fn a_completion_tells_the_stop_reason_the_usage_and_the_last_message() {
    let mut script = Script::prompted();
    script.updates(&message("first"));
    script.updates(&json!({ "sessionUpdate": "tool_call", "toolCallId": "t", "title": "ls" }));
    script.updates(&message("sec"));
    script.updates(&message("ond"));
    let outputs = script.says(r#"{"id":3,"result":{"stopReason":"end_turn","usage":{"totalTokens":7}}}"#);
    let told = events(&outputs);
    assert_eq!(told[0].text.as_deref(), Some("second"));
    assert_eq!(told[1].kind, EventKind::Completion);
    assert_eq!(told[1].text.as_deref(), Some("second"));
    assert_eq!(told[1].data, Some(json!({ "stop_reason": "end_turn", "usage": { "totalTokens": 7 } })));

    script.driver.prompt(T2, "next").clear();
    let outputs = script.says(r#"{"id":4,"result":{"stopReason":"end_turn"}}"#);
    assert_eq!(short(&outputs), ["completion", "stopped: EndTurn"], "no text of the turn before");
}

#[test]
fn a_message_ends_where_something_else_begins_and_not_at_news_of_the_session() {
    let plan = json!({ "sessionUpdate": "plan", "entries": [
        { "content": "look", "priority": "high", "status": "completed" },
        { "content": "mend", "priority": "high", "status": "pending" }] });
    let call = json!({ "sessionUpdate": "tool_call", "toolCallId": "t1", "title": "ls" });
    let usage = json!({ "sessionUpdate": "usage_update", "used": 5, "size": 10 });
    let mut other = message("x");
    other["messageId"] = "m2".into();
    let table = [
        (thought("hm"), vec!["message: a", "delta: hm"]),
        (call, vec!["message: a", "tool_call: ls"]),
        (plan, vec!["message: a", "system: plan: 1 of 2 done"]),
        (other, vec!["message: a", "delta: x"]),
        (message("b"), vec!["delta: b"]),
        (usage, vec!["system: context: 5 of 10 tokens"]),
        (
            json!({ "sessionUpdate": "current_mode_update", "currentModeId": "ask" }),
            vec!["system: mode: ask"],
        ),
        (json!({ "sessionUpdate": "from_the_future", "x": 1 }), vec!["system: update: from_the_future"]),
        (json!({ "no": "kind" }), vec!["system: an update without a kind"]),
        (json!("no object"), vec!["system: an update without a kind"]),
    ];
    for (update, expected) in table {
        let mut script = Script::prompted();
        let mut begun = message("a");
        begun["messageId"] = "m1".into();
        script.updates(&begun);
        assert_eq!(short(&script.updates(&update)), expected, "{update}");
    }
}

#[test]
fn tool_calls_and_their_results_are_recorded_whole_and_once() {
    let mut script = Script::prompted();
    let call = json!({ "sessionUpdate": "tool_call", "toolCallId": "t1", "title": "Edit `a.rs`", "kind": "edit",
        "status": "pending", "locations": [{ "path": "/workspace/a.rs", "line": 3 }], "rawInput": { "path": "a.rs" } });
    let outputs = script.updates(&call);
    let event = events(&outputs)[0];
    assert_eq!(event.kind, EventKind::ToolCall);
    assert_eq!(event.tool_name.as_deref(), Some("Edit `a.rs`"));
    assert_eq!(event.tool_call_id.as_deref(), Some("t1"));
    assert_eq!(event.arguments, Some(json!({ "path": "a.rs" })));
    let data = json!({ "title": "Edit `a.rs`", "kind": "edit", "status": "pending",
        "locations": [{ "path": "/workspace/a.rs", "line": 3 }] });
    assert_eq!(event.data, Some(data));

    let progress =
        json!({ "sessionUpdate": "tool_call_update", "toolCallId": "t1", "status": "in_progress" });
    let outputs = script.updates(&progress);
    assert_eq!(short(&outputs), ["tool_result: Edit `a.rs`"]);
    assert_eq!(events(&outputs)[0].data, Some(json!({ "status": "in_progress" })));
    assert_eq!(events(&outputs)[0].result, None);
    assert_eq!(script.updates(&progress), [], "nothing changed");
    assert_eq!(script.updates(&call).len(), 1, "a repeated call is an update: its status went back");

    let diff = json!([{ "type": "diff", "path": "/workspace/a.rs", "oldText": "x", "newText": "y" }]);
    let done = json!({ "sessionUpdate": "tool_call_update", "toolCallId": "t1", "status": "completed", "content": diff });
    let outputs = script.updates(&done);
    assert_eq!(events(&outputs)[0].result.as_ref(), Some(&diff));
    assert_eq!(events(&outputs)[0].data, Some(json!({ "status": "completed" })));
    assert_eq!(script.updates(&done), []);

    let both = json!({ "sessionUpdate": "tool_call_update", "toolCallId": "t2", "title": "sh", "status": "failed",
        "content": diff, "rawOutput": { "exit": 1 } });
    let outputs = script.updates(&both);
    assert_eq!(events(&outputs)[0].tool_name.as_deref(), Some("sh"), "a result without a call names itself");
    assert_eq!(events(&outputs)[0].result, Some(json!({ "exit": 1 })));
    assert_eq!(events(&outputs)[0].data.as_ref().map(|data| &data["content"]), Some(&diff));
}

#[test]
fn a_call_that_is_over_when_it_is_told_is_a_call_and_a_result() {
    let mut script = Script::prompted();
    let outputs = script.updates(&json!({ "sessionUpdate": "tool_call", "toolCallId": "t1", "title": "List",
        "name": "ls", "status": "completed", "rawInput": {}, "rawOutput": "a.rs" }));
    let told = events(&outputs);
    assert_eq!((told[0].kind, told[1].kind), (EventKind::ToolCall, EventKind::ToolResult));
    assert_eq!(told[0].tool_name.as_deref(), Some("ls"), "the tool's own name before its title");
    assert_eq!(told[1].result, Some(json!("a.rs")));
    assert_eq!(told[1].data, Some(json!({ "status": "completed" })));
}

#[test]
fn content_that_is_no_text_is_kept_as_it_is() {
    let mut script = Script::prompted();
    let image = json!({ "type": "image", "mimeType": "image/png", "data": "AAAA" });
    script.updates(&message("see "));
    let outputs = script.updates(&json!({ "sessionUpdate": "agent_message_chunk", "content": image }));
    assert_eq!(events(&outputs)[0].role, Some(Role::Agent));
    assert_eq!(events(&outputs)[0].data, Some(json!({ "content": image })));
    assert_eq!(short(&script.says(END))[0], "message: see [image]");
}

#[test]
fn a_text_that_is_too_long_is_split_in_deltas_and_cut_in_the_message() {
    let mut script = Script::prompted();
    let text = "é".repeat(TEXT_MAX);
    let outputs = script.updates(&message(&text));
    let pieces: Vec<&str> = events(&outputs).iter().filter_map(|event| event.text.as_deref()).collect();
    assert_eq!(pieces.len(), 2);
    assert!(pieces.concat() == text, "nothing is missing");
    let outputs = script.says(END);
    for event in &events(&outputs)[..2] {
        let text = event.text.as_deref().expect("a text");
        assert!(text.len() < TEXT_MAX + 64 && text.ends_with(&format!("[cut: {TEXT_MAX} more bytes]")));
    }
}

#[test]
fn cancelling_tells_the_agent_once() {
    let mut script = Script::ready();
    assert_eq!(script.driver.cancel(), []);
    assert_eq!(script.heard(), [] as [Value; 0], "nothing to cancel");

    script.driver.prompt(T1, "fix it").clear();
    script.driver.cancel().clear();
    script.driver.cancel().clear();
    let said = script.heard();
    assert_eq!(said.len(), 2, "{said:?}");
    assert_eq!(
        said[1],
        json!({ "jsonrpc": "2.0", "method": "session/cancel", "params": { "sessionId": "s1" } })
    );
    assert_eq!(script.driver.active(), Some(T1), "until the agent says so");
    assert_eq!(short(&script.updates(&message("wait"))), ["delta: wait"], "what still comes is kept");
    let outputs = script.says(r#"{"id":3,"result":{"stopReason":"cancelled"}}"#);
    assert_eq!(short(&outputs), ["message: wait", "completion: wait", "stopped: Cancelled"]);

    script.driver.prompt(T2, "again").clear();
    script.driver.cancel().clear();
    assert_eq!(script.heard().len(), 2, "another turn can be cancelled again");
}

#[test]
fn cancel_races_end_as_the_agent_says() {
    let table = [
        (r#"{"id":3,"result":{"stopReason":"end_turn"}}"#, TurnStop::EndTurn),
        (r#"{"id":3,"result":{"stopReason":"cancelled"}}"#, TurnStop::Cancelled),
        (r#"{"id":3,"error":{"code":-32603,"message":"aborted"}}"#, TurnStop::Cancelled),
    ];
    for (line, stop) in table {
        let mut script = Script::prompted();
        script.driver.cancel().clear();
        assert_eq!(script.says(line).last(), Some(&Output::TurnStopped(stop)), "{line}");
        script.heard();
        script.driver.cancel().clear();
        assert_eq!(script.heard(), [] as [Value; 0], "a late cancel is nothing");
    }
}

#[test]
fn permission_is_answered_and_recorded_and_refused_while_cancelling() {
    let ask = json!({ "jsonrpc": "2.0", "id": "p-1", "method": "session/request_permission", "params": {
        "sessionId": "s1", "toolCall": { "toolCallId": "t1", "title": "rm -r target" },
        "options": [{ "optionId": "no", "name": "No", "kind": "reject_once" },
                    { "optionId": "yes", "name": "Yes", "kind": "allow_once" }] } });
    let mut script = Script::prompted();
    let outputs = script.says(&ask.to_string());
    assert_eq!(short(&outputs), ["approval: rm -r target"]);
    assert_eq!(events(&outputs)[0].turn, Some(T1));
    let outcome = json!({ "outcome": "selected", "optionId": "yes" });
    assert_eq!(script.heard(), [json!({ "jsonrpc": "2.0", "id": "p-1", "result": { "outcome": outcome } })]);

    script.driver.cancel().clear();
    script.heard();
    let outputs = script.says(&ask.to_string());
    assert_eq!(events(&outputs)[0].data.as_ref().map(|data| &data["answer"]), Some(&json!("cancelled")));
    assert_eq!(script.heard()[0]["result"], json!({ "outcome": { "outcome": "cancelled" } }));
}

#[test]
fn what_is_not_offered_is_refused_as_unknown() {
    for method in ["fs/read_text_file", "fs/write_text_file", "terminal/create", "elicitation/create", "x/y"]
    {
        let mut script = Script::prompted();
        let outputs = script.says(&json!({ "id": 7, "method": method, "params": {} }).to_string());
        assert_eq!(
            short(&outputs),
            [format!("system: the agent asked for `{method}`, which is not offered")]
        );
        let answer = script.heard();
        assert_eq!((&answer[0]["id"], &answer[0]["error"]["code"]), (&json!(7), &json!(-32601)), "{method}");
    }
}

#[test]
fn updates_of_another_conversation_are_kept_apart() {
    let mut script = Script::prompted();
    let line = update_line(&message("from a child")).replace("\"s1\"", "\"s2\"");
    let outputs = script.says(&line);
    assert_eq!(short(&outputs), ["system: an update of another conversation of the agent"]);
    assert_eq!(short(&script.says(END)), ["completion", "stopped: EndTurn"]);
}

/// What the official types write is what we read.
#[test]
fn the_official_types_are_understood() {
    use acp::SessionUpdate as U;
    let text = |text: &str| acp::ContentChunk::new(acp::ContentBlock::Text(acp::TextContent::new(text)));
    let fields = acp::ToolCallUpdateFields::new().title("cat").status(acp::ToolCallStatus::Completed);
    let table = [
        (U::AgentMessageChunk(text("a")), vec!["delta: a"]),
        (U::AgentThoughtChunk(text("b")), vec!["delta: b"]),
        (U::UserMessageChunk(text("c")), vec![]),
        (U::ToolCall(acp::ToolCall::new("t1", "ls")), vec!["tool_call: ls"]),
        (U::ToolCallUpdate(acp::ToolCallUpdate::new("t2", fields)), vec!["tool_result: cat"]),
        (U::Plan(acp::Plan::new(vec![])), vec!["system: plan: 0 of 0 done"]),
        (U::UsageUpdate(acp::UsageUpdate::new(1, 2)), vec!["system: context: 1 of 2 tokens"]),
        (U::CurrentModeUpdate(acp::CurrentModeUpdate::new("code")), vec!["system: mode: code"]),
        (U::AvailableCommandsUpdate(acp::AvailableCommandsUpdate::new(vec![])), vec!["system: commands: 0"]),
    ];
    for (update, expected) in table {
        let mut script = Script::prompted();
        let notification = acp::SessionNotification::new("s1", update);
        let line = json!({ "jsonrpc": "2.0", "method": "session/update", "params": notification });
        assert_eq!(short(&script.says(&line.to_string())), expected, "{line}");
    }
}

/// W26: a question that nobody answers is an agent that hangs.
#[test]
fn a_question_about_a_call_is_answered_by_the_kind_that_the_call_had() {
    let ask = |id: &str| {
        json!({ "jsonrpc": "2.0", "id": "q", "method": "session/request_permission", "params": {
            "sessionId": "s1", "toolCall": { "toolCallId": id }, "options": [
                { "optionId": "y", "name": "Yes", "kind": "allow_once" },
                { "optionId": "n", "name": "No", "kind": "reject_once" }] } })
        .to_string()
    };
    let mut script = Script::with(None, Autonomy::Low, None);
    script.says(HELLO);
    script.says(OPENED);
    script.driver.prompt(T1, "fix it").clear();
    for (id, kind) in [("t1", "edit"), ("t2", "execute")] {
        script.updates(&json!({ "sessionUpdate": "tool_call", "toolCallId": id, "title": id, "kind": kind }));
    }
    script.heard();
    for (id, option) in [("t1", "y"), ("t2", "n"), ("t3", "n")] {
        script.says(&ask(id));
        let answered = script.heard();
        assert_eq!(answered[0]["result"]["outcome"]["optionId"], option, "{id}");
    }
}
