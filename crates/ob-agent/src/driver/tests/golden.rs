//! Saved states of each version, as files: what an older server saved must be read by this one.

use super::*;

/// A state of version 1: in a turn that is being cancelled, with half a line, half a message and half a sent line.
const V1: &str = include_str!("golden/state_v1.json");

fn in_the_middle() -> Driver {
    let mut script = Script::prompted();
    script.updates(&message("half a "));
    script.updates(
        &json!({ "sessionUpdate": "tool_call", "toolCallId": "t1", "title": "ls", "status": "pending" }),
    );
    script.updates(&message("sen"));
    script.says("noise");
    script.driver.cancel().clear();
    let (base, _) = script.driver.outbox();
    script.driver.sent(base + 10);
    script.driver.receive(br#"{"jsonrpc":"2.0","id":3,"res"#).clear();
    // The handshake names this program's version, so the offset moves with it.
    script.driver.state.stdin.rebase(1000);
    script.driver
}

#[test]
fn the_saved_state_of_version_1_is_as_it_was() {
    let saved: Value = serde_json::from_slice(&in_the_middle().save()).expect("JSON");
    let golden: Value = serde_json::from_str(V1).expect("JSON");
    assert_eq!(saved, golden, "a changed form needs a new version: {saved:#}");
}

#[test]
fn a_saved_state_of_version_1_goes_on_where_it_was() {
    let mut driver = Driver::restore(V1.as_bytes()).expect("it is read");
    assert_eq!(driver.active(), Some(T1));
    assert_eq!(driver.agent_session(), Some("s1"));
    let (base, waiting) = driver.outbox();
    assert_eq!(base, 1000);
    assert!(waiting.ends_with(b"\"method\":\"session/cancel\",\"params\":{\"sessionId\":\"s1\"}}\n"));
    let outputs = driver.receive(b"ult\":{\"stopReason\":\"cancelled\"}}\n");
    assert_eq!(short(&outputs), ["message: sen", "completion: sen", "stopped: Cancelled"]);
    driver.prompt(T2, "again").clear();
    let (_, waiting) = driver.outbox();
    assert!(String::from_utf8_lossy(waiting).contains(r#""id":4"#), "ids go on");
}

#[test]
fn a_state_that_cannot_be_read_is_refused_with_a_fix() {
    let newer = V1.replacen("\"version\": 1", "\"version\": 2", 1);
    let refusal = Driver::restore(newer.as_bytes()).expect_err("a later version");
    assert_eq!(refusal.code, ob_core::RefusalCode::Unavailable);
    assert!(refusal.fix.is_some());
    for damaged in ["", "{}", "null", r#"{"version":1}"#, r#"{"version":1,"state":{}}"#, &V1[..V1.len() / 2]]
    {
        let refusal = Driver::restore(damaged.as_bytes()).expect_err(damaged);
        assert_eq!(refusal.code, ob_core::RefusalCode::Internal, "{damaged}");
        assert!(refusal.fix.is_some(), "{damaged}");
    }
}
