//! Agents that fail, print garbage or mean harm.

use super::*;
use crate::transcript::NOISE_MAX;

#[test]
fn stray_lines_are_recorded_up_to_a_bound_and_then_counted() {
    let mut script = Script::prompted();
    let outputs: Vec<Output> = (0..NOISE_MAX + 7).flat_map(|n| script.says(&format!("debug {n}"))).collect();
    assert_eq!(outputs.len(), NOISE_MAX as usize);
    assert_eq!(short(&outputs[..1]), ["system: debug 0"]);
    assert_eq!(events(&outputs)[0].data, Some(json!({ "source": "stdout" })));
    let counted = "system: suppressed 7 more lines of the agent's output";
    assert_eq!(short(&script.says(END)), [counted, "completion", "stopped: EndTurn"]);
    assert_eq!(script.says("debug again").len(), 1, "the next turn has its own bound");
}

#[test]
fn a_stray_line_is_bounded_and_may_be_anything() {
    let mut script = Script::prompted();
    let outputs = script.says(&"x".repeat(3 * NOTE_MAX));
    let text = events(&outputs)[0].text.as_deref().expect("the line");
    assert!(text.len() < NOTE_MAX + 64 && text.ends_with("more bytes]"), "{}", text.len());
    let outputs = script.driver.receive(b"caf\xe9 \xff\r\n");
    assert_eq!(short(&outputs), ["system: caf\u{fffd} \u{fffd}"]);
}

#[test]
fn an_answer_that_nobody_waits_for_is_recorded_and_changes_nothing() {
    let mut script = Script::prompted();
    for line in
        [r#"{"id":2,"result":{"sessionId":"evil"}}"#, r#"{"id":99,"result":{}}"#, r#"{"id":null,"result":1}"#]
    {
        let outputs = script.says(line);
        assert_eq!(short(&outputs), [format!("system: {line}")]);
        assert_eq!(events(&outputs)[0].data, Some(json!({ "source": "unknown_response" })));
    }
    assert_eq!(script.driver.agent_session(), Some("s1"));
    assert_eq!(script.driver.active(), Some(T1));
}

#[test]
fn a_line_without_end_gives_the_agent_up_and_takes_no_memory() {
    let mut script = Script::prompted();
    script.updates(&message("so far"));
    let chunk = vec![b'x'; 1024 * 1024];
    let outputs: Vec<Output> = (0..20).flat_map(|_| script.driver.receive(&chunk)).collect();
    let failed = "failed: the agent wrote a line of more than 16777216 bytes";
    assert_eq!(short(&outputs), ["message: so far", failed]);
    assert!(script.driver.save().len() < 4096, "nothing of it is kept");
    let before = script.driver.stdout_offset();
    assert_eq!(script.driver.receive(b"more\n"), []);
    assert_eq!(script.driver.stdout_offset(), before + 5, "what comes may still be acknowledged");
    assert_eq!(script.driver.exited(ExitStatus { code: None, signal: Some(9) }), []);
    assert!(script.driver.prompt(T2, "x").iter().all(|output| matches!(output, Output::Event(_))));
    assert_eq!(script.driver.outbox().1, b"");
}

#[test]
fn an_agent_that_exits_is_given_up_once_with_everything_it_said() {
    let table = [
        (ExitStatus { code: Some(1), signal: None }, "the agent exited with exit code 1", "error output"),
        (ExitStatus { code: Some(127), signal: None }, "the agent exited with exit code 127", "program"),
        (ExitStatus { code: None, signal: Some(9) }, "the agent exited with signal 9", "memory"),
        (ExitStatus { code: None, signal: None }, "the agent exited with an unknown end", "error output"),
    ];
    for (exit, text, fix) in table {
        let mut script = Script::prompted();
        script.updates(&message("half a sen"));
        script.driver.receive(b"panic: no end of line").clear();
        let outputs = script.driver.exited(exit);
        let failed = format!("failed: {text}");
        assert_eq!(short(&outputs), ["system: panic: no end of line", "message: half a sen", &failed]);
        let Some(Output::Failed(refusal)) = outputs.last() else { panic!("{outputs:?}") };
        assert!(refusal.fix.as_ref().is_some_and(|words| words.contains(fix)), "{refusal}");
        assert!(events(&outputs).iter().all(|event| event.turn == Some(T1)), "{outputs:?}");
        assert_eq!(script.driver.exited(exit), []);
        assert_eq!(script.driver.active(), None);
    }
}

#[test]
fn an_answer_without_an_end_of_line_still_counts_when_the_agent_exits() {
    let mut script = Script::prompted();
    script.driver.receive(END.as_bytes()).clear();
    let outputs = script.driver.exited(ExitStatus { code: Some(0), signal: None });
    assert_eq!(
        short(&outputs),
        ["completion", "stopped: EndTurn", "failed: the agent exited with exit code 0"]
    );
    assert_eq!(events(&outputs)[0].turn, Some(T1));
}

#[test]
fn a_last_line_that_gives_the_agent_up_does_so_once() {
    let mut script = Script::new(None);
    script.driver.receive(br#"{"id":1,"result":{"protocolVersion":9}}"#).clear();
    let outputs = script.driver.exited(ExitStatus { code: Some(0), signal: None });
    assert_eq!(short(&outputs), ["failed: the agent speaks version 9 of ACP, and version 1 is needed"]);
}

#[test]
fn an_agent_that_asks_without_end_and_never_reads_is_given_up() {
    let mut script = Script::prompted();
    let ask = json!({ "id": "x".repeat(1024 * 1024), "method": "fs/read_text_file" }).to_string();
    let asked = (0..64).find(|_| script.says(&ask).iter().any(|output| matches!(output, Output::Failed(_))));
    assert!(asked.is_some(), "it would go on for ever");
    assert_eq!(script.driver.active(), None);
}

#[test]
fn what_an_agent_names_cannot_make_the_state_large() {
    let mut script = Script::prompted();
    for n in 0..3000 {
        let mut call = json!({ "sessionUpdate": "tool_call", "toolCallId": format!("{n}{}", "i".repeat(10_000)),
            "title": "t".repeat(10_000), "rawInput": "r".repeat(1000) });
        call[format!("field{n}")] = 1.into();
        assert_eq!(script.updates(&call).len(), 1, "each is recorded");
    }
    let size = script.driver.save().len();
    assert!(size < 1024 * 1024, "{size}");
}

#[test]
fn deep_and_wide_updates_become_events_that_can_be_read_again() {
    let mut script = Script::prompted();
    let deep = format!("{}1{}", "[".repeat(110), "]".repeat(110));
    let wide = serde_json::to_string(&vec![0; 200_000]).expect("JSON");
    for (id, raw) in [("deep", deep), ("wide", wide)] {
        let line = update_line(&json!({ "sessionUpdate": "tool_call", "toolCallId": id, "rawInput": "RAW" }));
        let outputs = script.says(&line.replace("\"RAW\"", &raw));
        let stored = serde_json::to_string(events(&outputs)[0]).expect("it can be stored");
        let read: EventBody = serde_json::from_str(&stored).expect("it can be read");
        assert_eq!(&read, events(&outputs)[0]);
        assert!(stored.contains("[cut"), "{id} says that something is missing");
    }
}

#[test]
fn updates_of_a_wrong_form_are_recorded_as_they_are() {
    for params in [json!(null), json!([]), json!(7), json!({}), json!({ "update": [] })] {
        let mut script = Script::new(None);
        let line = json!({ "jsonrpc": "2.0", "method": "session/update", "params": params }).to_string();
        let outputs = script.says(&line);
        assert_eq!(short(&outputs), ["system: an update without a kind"], "{params}");
        let update = params.get("update").unwrap_or(&params);
        assert_eq!(events(&outputs)[0].data, Some(json!({ "update": update })), "{params}");
    }
}
