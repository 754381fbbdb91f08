//! What goes out of each wire's requests, and what is read of each wire's answers.

use proptest::prelude::*;
use serde_json::json;

use super::*;

const WIRES: [Wire; 4] = [Wire::Chat, Wire::Responses, Wire::Messages, Wire::Google];

fn try_prepare(wire: Wire, request: &Value) -> Result<(Prepared, Value), GateRefusal> {
    let prepared = prepare(wire, request.to_string().as_bytes(), "real", 100, false)?;
    let sent = serde_json::from_slice(&prepared.body).expect("JSON");
    Ok((prepared, sent))
}

fn prepared(wire: Wire, request: &Value) -> (Prepared, Value) {
    try_prepare(wire, request).expect("well-formed")
}

/// A request of a wire with further fields.
fn request(wire: Wire, more: Value) -> Value {
    let turns = json!([{"role": "user", "content": "hi"}]);
    let mut request = match wire {
        Wire::Chat => json!({"model": "any", "messages": turns}),
        Wire::Responses => json!({"model": "any", "input": turns, "max_output_tokens": 9}),
        Wire::Messages => json!({"model": "any", "messages": turns, "max_tokens": 9}),
        Wire::Google => json!({"contents": [{"role": "user", "parts": [{"text": "hi"}]}],
                               "generationConfig": {"maxOutputTokens": 9}}),
    };
    request.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    request
}

/// A request of a wire whose user says these parts.
fn saying(wire: Wire, parts: Value) -> Value {
    match wire {
        Wire::Chat | Wire::Messages => {
            request(wire, json!({"messages": [{"role": "user", "content": parts}]}))
        }
        Wire::Responses => request(wire, json!({"input": [{"role": "user", "content": parts}]})),
        Wire::Google => request(wire, json!({"contents": [{"role": "user", "parts": parts}]})),
    }
}

#[test]
fn only_the_model_changes_in_a_plain_request() {
    for wire in WIRES {
        let asked = request(wire, json!({"temperature": 0.25, "x": [{"z": 1, "a": [2.0, null]}]}));
        let (prepared, sent) = prepared(wire, &asked);
        let mut expected = asked;
        if wire != Wire::Google {
            expected["model"] = json!("real");
        }
        assert_eq!(sent, expected, "{wire}");
        assert!(!prepared.stream && !prepared.hide_usage);
        assert_eq!(prepared.output_tokens, if wire == Wire::Chat { 100 } else { 9 }, "{wire}");
    }
}

#[test]
fn a_stream_of_chat_is_asked_for_its_usage_and_other_options_stay() {
    for (asked, hides) in [
        (json!({"stream": true}), true),
        (json!({"stream": true, "stream_options": null}), true),
        (json!({"stream": true, "stream_options": {"include_usage": false, "x": 1}}), true),
        (json!({"stream": true, "stream_options": {"include_usage": true}}), false),
    ] {
        let (prepared, sent) = prepared(Wire::Chat, &request(Wire::Chat, asked.clone()));
        assert_eq!(prepared.hide_usage, hides, "{asked}");
        assert_eq!(sent["stream_options"]["include_usage"], true, "{asked}");
        assert_eq!(sent["stream_options"]["x"], asked["stream_options"]["x"], "{asked}");
    }
}

#[test]
fn the_output_is_bounded_by_the_smaller_of_what_is_asked_and_allowed() {
    for (wire, asked, place, sent_tokens, reserved) in [
        (Wire::Chat, json!({"max_tokens": 7}), "/max_tokens", json!(7), 7),
        (Wire::Chat, json!({"max_tokens": 101}), "/max_tokens", json!(100), 100),
        (Wire::Chat, json!({"max_tokens": 7, "n": 3}), "/max_tokens", json!(7), 21),
        (Wire::Chat, json!({"max_tokens": null}), "/max_tokens", json!(null), 100),
        (Wire::Chat, json!({"max_completion_tokens": 5000}), "/max_completion_tokens", json!(100), 100),
        (Wire::Responses, json!({"max_output_tokens": 5000}), "/max_output_tokens", json!(100), 100),
        (Wire::Responses, json!({"max_output_tokens": null}), "/max_output_tokens", json!(100), 100),
        (Wire::Messages, json!({"max_tokens": 5000}), "/max_tokens", json!(100), 100),
        (
            Wire::Messages,
            json!({"max_tokens": 5000, "thinking": {"type": "enabled", "budget_tokens": 4000}}),
            "/thinking",
            json!({"type": "disabled"}),
            100,
        ),
        (Wire::Google, json!({"generationConfig": {}}), "/generationConfig/maxOutputTokens", json!(100), 100),
        (
            Wire::Google,
            json!({"generationConfig": {"maxOutputTokens": 7, "candidateCount": 2, "topK": 3}}),
            "/generationConfig",
            json!({"maxOutputTokens": 7, "candidateCount": 2, "topK": 3}),
            14,
        ),
    ] {
        let (prepared, sent) = prepared(wire, &request(wire, asked.clone()));
        let found = sent.pointer(place).cloned().unwrap_or_default();
        assert_eq!((found, prepared.output_tokens), (sent_tokens, reserved), "{wire}: {asked}");
    }
    let large = json!({"messages": [1], "max_tokens": 9000, "thinking": {"budget_tokens": 8000}});
    let prepared =
        prepare(Wire::Messages, large.to_string().as_bytes(), "m", 2000, false).expect("well-formed");
    let sent: Value = serde_json::from_slice(&prepared.body).expect("JSON");
    assert_eq!((&sent["max_tokens"], &sent["thinking"]["budget_tokens"]), (&json!(2000), &json!(1999)));
}

#[test]
fn what_is_wrong_is_refused_by_name() {
    for (wire, body, param) in [
        (Wire::Chat, "", None),
        (Wire::Chat, "[]", None),
        (Wire::Chat, "{\"messages\": [", None),
        (Wire::Chat, "{}", Some("messages")),
        (Wire::Chat, "{\"messages\": []}", Some("messages")),
        (Wire::Chat, "{\"messages\": \"hi\"}", Some("messages")),
        (Wire::Chat, "{\"messages\": [1], \"stream\": \"yes\"}", Some("stream")),
        (Wire::Chat, "{\"messages\": [1], \"stream\": true, \"stream_options\": 1}", Some("stream_options")),
        (Wire::Chat, "{\"messages\": [1], \"max_tokens\": -1}", Some("max_tokens")),
        (Wire::Chat, "{\"messages\": [1], \"n\": 0}", Some("n")),
        (Wire::Chat, "{\"messages\": [1], \"n\": 17}", Some("n")),
        (Wire::Responses, "{}", Some("input")),
        (Wire::Responses, "{\"input\": 1}", Some("input")),
        (Wire::Responses, "{\"input\": \"a\", \"max_output_tokens\": \"9\"}", Some("max_output_tokens")),
        (
            Wire::Responses,
            "{\"input\": \"a\", \"previous_response_id\": \"r\"}",
            Some("previous_response_id"),
        ),
        (Wire::Responses, "{\"input\": \"a\", \"background\": true}", Some("background")),
        (Wire::Messages, "{}", Some("messages")),
        (Wire::Messages, "{\"messages\": [1], \"max_tokens\": 1.5}", Some("max_tokens")),
        (Wire::Messages, "{\"messages\": [1], \"thinking\": 1}", Some("thinking")),
        (Wire::Google, "{}", Some("contents")),
        (Wire::Google, "{\"contents\": [1], \"generationConfig\": 1}", Some("generationConfig")),
        (Wire::Google, "{\"contents\": [1], \"generation_config\": {}}", Some("generation_config")),
        (
            Wire::Google,
            "{\"contents\": [1], \"generationConfig\": {\"max_output_tokens\": 9}}",
            Some("max_output_tokens"),
        ),
        (
            Wire::Google,
            "{\"contents\": [1], \"generationConfig\": {\"candidateCount\": 17}}",
            Some("candidateCount"),
        ),
    ] {
        let refused = prepare(wire, body.as_bytes(), "m", 10, false).expect_err(body);
        assert_eq!((refused.status.as_u16(), refused.param), (400, param), "{body}");
        assert!(refused.refusal.fix.is_some(), "{body}");
    }
    for fine in ["{\"input\": \"a\"}", "{\"input\": \"a\", \"background\": false, \"conversation\": null}"] {
        assert!(prepare(Wire::Responses, fine.as_bytes(), "m", 10, false).is_ok(), "{fine}");
    }
}

#[test]
fn a_duplicate_field_cannot_smuggle_a_model() {
    let body = br#"{"model":"a","messages":[1],"model":"b"}"#;
    let prepared = prepare(Wire::Chat, body, "real", 10, false).expect("well-formed");
    assert_eq!(prepared.body, r#"{"messages":[1],"model":"real"}"#);
}

#[test]
fn a_provider_is_not_made_to_reach_out_of_the_sandbox() {
    const FAR: &str = "https://far.example/?stolen=data";
    let image = |source: Value| json!([{"type": "image", "source": source}]);
    let far = |parts: Value, wire| (wire, saying(wire, parts));
    let with = |wire, more: Value| (wire, request(wire, more));
    let tool = |kind: &str| json!({"tools": [{"type": kind, "name": "f"}]});
    let result = |content: Value| json!([{"type": "tool_result", "tool_use_id": "1", "content": content}]);
    let document = json!([{"type": "document", "source": {"type": "content", "content": image(json!({"type": "url", "url": FAR}))}}]);
    let attempts = [
        far(json!([{"type": "image_url", "image_url": {"url": FAR}}]), Wire::Chat),
        far(json!([{"type": "image_url", "image_url": FAR}]), Wire::Chat),
        far(json!([{"type": "image_url", "image_url": {"url": " //far.example"}}]), Wire::Chat),
        far(json!([{"type": "file", "file": {"file_id": "file-1"}}]), Wire::Chat),
        far(json!([{"type": "input_image", "image_url": FAR}]), Wire::Responses),
        far(json!([{"type": "input_file", "file_url": FAR}]), Wire::Responses),
        far(json!([{"type": "input_file", "file_id": "file-1"}]), Wire::Responses),
        with(
            Wire::Responses,
            json!({"input": [{"type": "function_call_output", "call_id": "1",
                              "output": [{"type": "input_image", "image_url": FAR}]}]}),
        ),
        far(image(json!({"type": "url", "url": FAR})), Wire::Messages),
        far(image(json!({"type": "file", "file_id": "f"})), Wire::Messages),
        far(result(image(json!({"type": "url", "url": FAR}))), Wire::Messages),
        far(result(document), Wire::Messages),
        far(json!([{"fileData": {"fileUri": FAR}}]), Wire::Google),
        far(json!([{"file_data": {"file_uri": FAR}}]), Wire::Google),
        far(
            json!([{"functionResponse": {"name": "f", "parts": [{"fileData": {"fileUri": FAR}}]}}]),
            Wire::Google,
        ),
        with(Wire::Google, json!({"systemInstruction": {"parts": [{"fileData": {"fileUri": FAR}}]}})),
        with(Wire::Messages, json!({"system": image(json!({"type": "url", "url": FAR}))})),
        with(Wire::Chat, tool("web_search")),
        with(Wire::Chat, json!({"web_search_options": {}})),
        with(Wire::Responses, tool("web_search")),
        with(Wire::Responses, tool("code_interpreter")),
        with(Wire::Responses, tool("mcp")),
        with(Wire::Responses, json!({"tools": [{"name": "f"}]})),
        with(Wire::Messages, tool("web_fetch_20250910")),
        with(Wire::Messages, tool("code_execution_20250825")),
        with(Wire::Messages, json!({"mcp_servers": [{"type": "url", "url": FAR}]})),
        with(Wire::Google, json!({"tools": [{"functionDeclarations": []}, {"urlContext": {}}]})),
        with(Wire::Google, json!({"tools": [{"google_search": {}}]})),
        with(Wire::Google, json!({"cachedContent": "cachedContents/1"})),
        with(Wire::Chat, json!({"service_tier": "priority"})),
        with(Wire::Messages, json!({"speed": "fast"})),
    ];
    for (wire, request) in attempts {
        let refused = try_prepare(wire, &request).expect_err(&request.to_string());
        assert_eq!(refused.status.as_u16(), 400, "{request}");
        assert!(refused.param.is_some() && refused.refusal.fix.is_some(), "{request}");
    }
    let twice = r#"{"messages":[{"content":[{"image_url":"data:,x","image_url":"https://far.example"}]}]}"#;
    assert!(prepare(Wire::Chat, twice.as_bytes(), "m", 10, false).is_err(), "given twice");
    let deep = format!("{{\"messages\":[{}1{}]}}", "{\"content\":[".repeat(5000), "]}".repeat(5000));
    assert!(prepare(Wire::Chat, deep.as_bytes(), "m", 10, false).is_err(), "too deep");

    // The positive control: the same forms with what is in the request itself, and addresses where only the agent looks.
    let data = "data:image/png;base64,AAAA";
    let args = json!({"url": FAR, "image_url": FAR, "source": {"url": FAR}});
    let harmless = [
        far(
            json!([{"type": "image_url", "image_url": {"url": data}}, {"type": "text", "text": FAR}]),
            Wire::Chat,
        ),
        far(json!([{"type": "input_image", "image_url": data}]), Wire::Responses),
        with(Wire::Responses, tool("custom")),
        far(image(json!({"type": "base64", "media_type": "image/png", "data": "AAAA"})), Wire::Messages),
        far(json!([{"type": "tool_use", "id": "1", "name": "fetch", "input": args}]), Wire::Messages),
        with(Wire::Messages, tool("bash_20250124")),
        far(json!([{"inlineData": {"mimeType": "image/png", "data": "AAAA"}}]), Wire::Google),
        far(json!([{"functionCall": {"name": "fetch", "args": args}}]), Wire::Google),
        with(Wire::Google, json!({"tools": [{"functionDeclarations": [{"name": "f"}]}]})),
        with(Wire::Chat, json!({"service_tier": "auto"})),
    ];
    for (wire, request) in harmless {
        assert!(try_prepare(wire, &request).is_ok(), "{request}");
    }
}

fn event(watch: &mut Watch, data: Value) -> Chunk {
    watch.event(data.to_string().as_bytes()).expect("an event of this wire")
}

fn used(input: u64, cached: u64, output: u64) -> Tokens {
    Tokens { input, cached, output, ..Tokens::default() }
}

#[test]
fn chunks_of_chat_tell_usage_end_and_error() {
    let mut watch = Watch::new(Wire::Chat);
    let usage = json!({"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 3},
                       "completion_tokens_details": {"reasoning_tokens": 2}});
    let only = event(&mut watch, json!({"choices": [], "usage": usage}));
    assert!(only.is_only_usage);
    let tokens = Tokens { reasoning: 2, ..used(9, 3, 4) };
    assert_eq!(only.usage, Some(Reported { tokens, is_final: true }));
    let last =
        event(&mut watch, json!({"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": usage}));
    assert!(last.finishes && !last.is_only_usage && last.usage.is_some());
    let delta =
        json!({"role": "assistant", "content": "four", "tool_calls": [{"function": {"arguments": "{}"}}]});
    let middle =
        event(&mut watch, json!({"choices": [{"delta": delta, "finish_reason": null}], "usage": null}));
    assert_eq!((middle.written_bytes, middle.finishes, middle.usage), (6, false, None));
    assert!(event(&mut watch, json!({"error": {"message": "x"}})).error.is_some());
    for wrong in ["", "[]", "1", "{", "{\"choices\": 1}", "[null, null, null]"] {
        assert_eq!(watch.event(wrong.as_bytes()), None, "{wrong}");
    }
}

#[test]
fn events_of_messages_add_up_to_one_report() {
    let mut watch = Watch::new(Wire::Messages);
    let begins = json!({"input_tokens": 5, "cache_read_input_tokens": 20, "cache_creation_input_tokens": 10,
                        "output_tokens": 1});
    let first = event(&mut watch, json!({"type": "message_start", "message": {"usage": begins}}));
    let begun = Tokens { cache_written: 10, ..used(35, 20, 1) };
    assert_eq!(first.usage, Some(Reported { tokens: begun, is_final: false }));
    let text = event(
        &mut watch,
        json!({"type": "content_block_delta", "index": 0,
                                        "delta": {"type": "text_delta", "text": "four"}}),
    );
    assert_eq!((text.written_bytes, text.usage), (4, None));
    assert_eq!(event(&mut watch, json!({"type": "ping"})), Chunk::default());
    let last = event(
        &mut watch,
        json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"},
                                        "usage": {"output_tokens": 9}}),
    );
    assert!(last.finishes && !last.ends);
    let whole = Reported { tokens: Tokens { output: 9, ..begun }, is_final: true };
    assert_eq!(last.usage, Some(whole));
    assert!(event(&mut watch, json!({"type": "message_stop"})).ends);
    assert!(
        event(&mut watch, json!({"type": "error", "error": {"type": "overloaded_error"}})).error.is_some()
    );
    for wrong in ["{}", "{\"type\": 1}", "[\"ping\"]"] {
        assert_eq!(watch.event(wrong.as_bytes()), None, "{wrong}");
    }
}

#[test]
fn events_of_responses_end_with_their_report() {
    let mut watch = Watch::new(Wire::Responses);
    let delta = event(&mut watch, json!({"type": "response.output_text.delta", "delta": "four"}));
    assert_eq!(delta.written_bytes, 4);
    let usage = json!({"input_tokens": 9, "input_tokens_details": {"cached_tokens": 3}, "output_tokens": 4,
                       "output_tokens_details": {"reasoning_tokens": 2}});
    let last = event(&mut watch, json!({"type": "response.completed", "response": {"usage": usage}}));
    assert!(last.ends && last.error.is_none());
    assert_eq!(last.usage.map(|usage| usage.tokens), Some(Tokens { reasoning: 2, ..used(9, 3, 4) }));
    let failed = json!({"type": "response.failed", "response": {"error": {"message": "no"}, "usage": null}});
    assert_eq!(event(&mut watch, failed).error, Some(json!({"message": "no"})));
    let error = event(&mut watch, json!({"type": "error", "message": "no"}));
    assert_eq!(error.error, Some(json!("no")));
}

#[test]
fn chunks_of_google_report_as_they_go() {
    let mut watch = Watch::new(Wire::Google);
    let parts = json!([{"text": "four", "thoughtSignature": "x"}]);
    let middle = json!({"candidates": [{"content": {"role": "model", "parts": parts}}],
                        "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 1}});
    let middle = event(&mut watch, middle);
    assert_eq!(middle.usage, Some(Reported { tokens: used(9, 0, 1), is_final: false }));
    let usage = json!({"promptTokenCount": 9, "cachedContentTokenCount": 3, "candidatesTokenCount": 4,
                       "thoughtsTokenCount": 5});
    let last = event(&mut watch, json!({"candidates": [{"finishReason": "STOP"}], "usageMetadata": usage}));
    assert!(last.finishes && !last.ends);
    let tokens = Tokens { reasoning: 5, ..used(9, 3, 9) };
    assert_eq!(last.usage, Some(Reported { tokens, is_final: true }));
    assert!(event(&mut watch, json!({"promptFeedback": {"blockReason": "SAFETY"}})).finishes);
    assert!(event(&mut watch, json!({"error": {"code": 503}})).error.is_some());
}

#[test]
fn hostile_numbers_are_no_usage() {
    for usage in [json!({"prompt_tokens": -1}), json!({"prompt_tokens": 1.5}), json!("x"), json!([])] {
        let chunk = event(&mut Watch::new(Wire::Chat), json!({"choices": [], "usage": usage}));
        assert_eq!(chunk.usage, None, "{usage}");
    }
    let most = u64::MAX;
    let usage = json!({"input_tokens": most, "cache_read_input_tokens": most, "output_tokens": most});
    let start = json!({"type": "message_start", "message": {"usage": usage}});
    let tokens = event(&mut Watch::new(Wire::Messages), start).usage.expect("a report").tokens;
    assert_eq!(tokens.total(), most);
}

proptest! {
    #[test]
    fn no_bytes_panic(body in proptest::collection::vec(any::<u8>(), 0..200), wire in 0usize..4) {
        drop(prepare(WIRES[wire], &body, "m", 10, true));
        drop(Watch::new(WIRES[wire]).event(&body));
        drop(Watch::new(WIRES[wire]).whole(&body));
    }

    #[test]
    fn no_text_like_a_request_panics(
        body in r#"\{"(messages|input|contents)":\[(1|\{\}|"x"),?\],"(n|stream|max_tokens|tools)":[-0-9a-z{}\[\]",:]{0,12}\}"#,
        wire in 0usize..4,
    ) {
        drop(prepare(WIRES[wire], body.as_bytes(), "m", 10, false));
    }
}
