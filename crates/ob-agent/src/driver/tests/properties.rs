//! Properties: no crash at any byte changes what comes out, nothing is lost, nothing makes it panic.

use ob_core::event::Role;

use super::*;

/// A conversation with everything in it, as the bytes of the agent after the handshake and the first prompt.
fn conversation() -> Vec<u8> {
    let call =
        json!({ "sessionUpdate": "tool_call", "toolCallId": "t1", "title": "ls", "status": "pending" });
    let done = json!({ "sessionUpdate": "tool_call_update", "toolCallId": "t1", "status": "completed", "rawOutput": "é🦀" });
    let ask = json!({ "id": 5, "method": "session/request_permission", "params": { "toolCall": { "title": "rm" },
        "options": [{ "optionId": "y", "kind": "allow_once" }] } });
    let lines = [
        "a log line, café".to_owned(),
        update_line(&thought("höre")),
        update_line(&message("ich 🦀 ")),
        update_line(&json!({ "sessionUpdate": "usage_update", "used": 1, "size": 2 })),
        update_line(&message("sehe")),
        String::new(),
        update_line(&call),
        ask.to_string(),
        update_line(&done),
        update_line(&done),
        r#"{"id":77,"method":"fs/read_text_file","params":{}}"#.to_owned(),
        r#"{"jsonrpc":"2.0","method":"_x/y","params":{"a":"\ud83d"}}"#.to_owned(),
        r#"{"id":42,"result":{}}"#.to_owned(),
        update_line(&message("fertig")),
        END.to_owned(),
        update_line(&json!({ "sessionUpdate": "current_mode_update", "currentModeId": "ask" })),
        "no end of line".to_owned(),
    ];
    let mut bytes = lines.join("\n").into_bytes();
    bytes.extend_from_slice(b" \xff");
    bytes
}

/// What comes out, and what is said to the agent, if the bytes come in these pieces; after each piece the driver may
/// crash and be restored, and the agent takes some of what waits.
fn run(
    pieces: &[&[u8]],
    crash: impl Fn(usize) -> bool,
    takes: impl Fn(usize) -> usize,
) -> (Vec<Output>, Vec<u8>) {
    let mut driver = Script::prompted().driver;
    let (mut outputs, mut said) = (Vec::new(), Vec::new());
    let mut offset = driver.stdout_offset();
    for (n, piece) in pieces.iter().enumerate() {
        outputs.extend(driver.receive(piece));
        let (base, bytes) = driver.outbox();
        let taken = bytes.len().min(takes(n));
        said.extend_from_slice(&bytes[..taken]);
        driver.sent(base + taken as u64);
        if crash(n) {
            driver = Driver::restore(&driver.save()).expect("what was saved restores");
        }
        offset += piece.len() as u64;
        assert_eq!(driver.stdout_offset(), offset);
    }
    outputs.extend(driver.exited(ExitStatus { code: Some(0), signal: None }));
    (outputs, said)
}

fn split<'a>(bytes: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

#[test]
fn a_crash_after_every_single_byte_changes_nothing() {
    let bytes = conversation();
    let (whole, whole_said) = run(&[&bytes], |_| false, |_| usize::MAX);
    assert!(whole.len() > 12, "the conversation has something in it: {whole:?}");
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    let (outputs, said) = run(&single, |_| true, |_| usize::MAX);
    assert_eq!(outputs, whole);
    assert_eq!(String::from_utf8(said), String::from_utf8(whole_said));
}

proptest! {
    #[test]
    fn neither_cuts_nor_crashes_nor_a_slow_reader_change_what_comes_out(
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        crashes in any::<u16>(),
        takes in prop::collection::vec(0_usize..200, 14),
    ) {
        let bytes = conversation();
        let (whole, whole_said) = run(&[&bytes], |_| false, |_| usize::MAX);
        let pieces = split(&bytes, &cuts);
        let (outputs, said) = run(&pieces, |n| crashes >> n & 1 == 1, |n| takes[n]);
        prop_assert_eq!(outputs, whole);
        prop_assert!(whole_said.starts_with(&said), "what was taken is the beginning of what is said");
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..512), code in any::<i32>()) {
        let mut driver = Script::prompted().driver;
        driver.receive(&bytes).clear();
        let mut driver = Driver::restore(&driver.save()).expect("what was saved restores");
        driver.exited(ExitStatus { code: Some(code), signal: None }).clear();
    }

    /// Messages of the right form with anything in them, which get further than mere bytes.
    #[test]
    fn no_message_makes_it_panic(
        lines in prop::collection::vec((0..FORMS.len(), json_values(), json_values()), 0..20),
        stage in 0..3,
    ) {
        let mut script = match stage {
            0 => Script::new(Some("s1")),
            1 => Script::ready(),
            _ => Script::prompted(),
        };
        let mut failures = 0;
        for (form, one, two) in lines {
            let line = FORMS[form].replace("ONE", &one.to_string()).replace("TWO", &two.to_string());
            let outputs = script.says(&line);
            failures += outputs.iter().filter(|output| matches!(output, Output::Failed(_))).count();
            for event in events(&outputs) {
                let stored = serde_json::to_string(event).expect("it can be stored");
                prop_assert_eq!(&serde_json::from_str::<EventBody>(&stored).expect("it can be read"), event);
            }
            script.driver = Driver::restore(&script.driver.save()).expect("what was saved restores");
        }
        prop_assert!(failures <= 1);
    }

    #[test]
    fn no_word_of_the_agent_is_lost_or_doubled(chunks in prop::collection::vec((0..5, ".{0,6}"), 0..30)) {
        let mut script = Script::prompted();
        let mut outputs = Vec::new();
        let (mut said, mut thoughts) = (String::new(), String::new());
        for (kind, text) in &chunks {
            outputs.extend(match kind {
                0 | 1 => {
                    said.push_str(text);
                    script.updates(&message(text))
                }
                2 => {
                    thoughts.push_str(text);
                    script.updates(&thought(text))
                }
                3 => script.updates(&json!({ "sessionUpdate": "tool_call", "toolCallId": text, "title": "x" })),
                _ => script.says("noise"),
            });
        }
        outputs.extend(script.says(END));
        let all = |kind: EventKind, role: Role| -> String {
            events(&outputs)
                .into_iter()
                .filter(|event| event.kind == kind && event.role == Some(role))
                .filter_map(|event| event.text.as_deref())
                .collect()
        };
        prop_assert_eq!(all(EventKind::Delta, Role::Agent), said.as_str());
        prop_assert_eq!(all(EventKind::Message, Role::Agent), said.as_str());
        prop_assert_eq!(all(EventKind::Delta, Role::Thought), thoughts);
    }
}

const FORMS: [&str; 12] = [
    "ONE",
    r#"{"id":ONE,"method":"session/request_permission","params":TWO}"#,
    r#"{"id":ONE,"method":"session/request_permission","params":{"toolCall":TWO,"options":[TWO,{"optionId":TWO,"kind":"allow_once"}]}}"#,
    r#"{"id":ONE,"method":"fs/read_text_file","params":TWO}"#,
    r#"{"method":"session/update","params":ONE}"#,
    r#"{"method":"session/update","params":{"sessionId":"s1","update":{"sessionUpdate":"agent_message_chunk","content":ONE,"messageId":TWO}}}"#,
    r#"{"method":"session/update","params":{"sessionId":"s1","update":{"sessionUpdate":"tool_call","toolCallId":ONE,"title":TWO,"status":"completed","content":ONE}}}"#,
    r#"{"method":"session/update","params":{"sessionId":"s1","update":{"sessionUpdate":"tool_call_update","toolCallId":"t","rawOutput":ONE,"content":TWO}}}"#,
    r#"{"method":"session/update","params":{"sessionId":"s1","update":{"sessionUpdate":"plan","entries":ONE}}}"#,
    r#"{"id":3,"result":ONE}"#,
    r#"{"id":1,"result":{"protocolVersion":1,"agentInfo":ONE,"agentCapabilities":{"loadSession":true}}}"#,
    r#"{"id":2,"error":ONE}"#,
];

fn json_values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        prop::sample::select(vec!["s1", "t", "text", "allow_once", "end_turn", ""]).prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        let keys = vec!["type", "text", "optionId", "kind", "title", "stopReason", "update", "x"];
        let field = (prop::sample::select(keys), inner.clone());
        prop_oneof![
            prop::collection::vec(inner, 0..4).prop_map(Value::from),
            prop::collection::vec(field, 0..4).prop_map(|fields| {
                Value::Object(fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
            }),
        ]
    })
}
