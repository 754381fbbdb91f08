//! There and back keeps what is meant: requests through each wire, one answer in four wires through every pair, streams as
//! well as whole answers; and what cannot be carried is refused by name.

use serde_json::json;

use super::hub::Call;
use super::hub::CallResult;
use super::hub::Choice;
use super::hub::Format;
use super::hub::Part;
use super::hub::Request;
use super::hub::Said;
use super::hub::Tool;
use super::hub::Turn;
use super::*;
use crate::sse::Splitter;
use crate::wire::Watch;

mod properties;

const WIRES: [Wire; 4] = [Wire::Chat, Wire::Responses, Wire::Messages, Wire::Google];

fn origin() -> Origin {
    Origin { id: "0".into(), model: "large-1".into(), created: 1_795_000_000 }
}

/// The recorded answer of a wire: its stream and its whole form.
pub(crate) fn recorded(wire: Wire) -> (&'static str, &'static str) {
    macro_rules! file {
        ($name:literal) => {
            (
                include_str!(concat!("../../fixtures/streams/", $name, ".sse")),
                include_str!(concat!("../../fixtures/streams/", $name, ".json")),
            )
        };
    }
    match wire {
        Wire::Chat => file!("chat"),
        Wire::Responses => file!("responses"),
        Wire::Messages => file!("messages"),
        Wire::Google => file!("google"),
    }
}

/// What every recorded answer says.
pub(crate) fn meaning() -> Reply {
    let call = |id: &str, name: &str, arguments: &str| {
        Said::Call(Call { id: id.into(), name: name.into(), arguments: arguments.into() })
    };
    Reply {
        said: vec![
            Said::Reasoning("First I read é.".into()),
            Said::Text("Let me look.".into()),
            call("call_a1", "read", r#"{"path":"src/lib.rs"}"#),
            call("call_b2", "list", "{}"),
        ],
        stop: Stop::Calls,
    }
}

fn data(stream: &[u8]) -> Vec<Vec<u8>> {
    let mut splitter = Splitter::new(1 << 24);
    splitter.push(stream);
    let mut all = Vec::new();
    while let Some(block) = splitter.next_block().expect("small") {
        all.extend(block.data);
    }
    all.extend(splitter.rest().and_then(|block| block.data));
    all
}

/// What a stream says, read as an agent of its wire reads it.
pub(crate) fn said_by_stream(wire: Wire, stream: &[u8]) -> Reply {
    let mut deltas = Vec::new();
    let mut reader: Box<dyn Reader> = match wire {
        Wire::Chat => Box::new(chat::Events::default()),
        Wire::Responses => Box::new(responses::Events::default()),
        Wire::Messages => Box::new(messages::Events::default()),
        Wire::Google => Box::new(google::Events::new(&origin())),
    };
    for data in data(stream).iter().filter(|data| *data != b"[DONE]") {
        let value = serde_json::from_slice(data).expect("JSON");
        reader.event(&value, &mut deltas).expect("an event of its wire");
    }
    with_calls(Reply::of(deltas))
}

/// What a whole answer says, likewise.
pub(crate) fn said_by_whole(wire: Wire, whole: &[u8]) -> Reply {
    let value = serde_json::from_slice(whole).expect("JSON");
    with_calls(read_answer(wire, &value, &origin()).expect("an answer of its wire"))
}

/// Two wires do not say that they stopped for calls.
fn with_calls(mut reply: Reply) -> Reply {
    if reply.stop == Stop::End && reply.has_calls() {
        reply.stop = Stop::Calls;
    }
    reply
}

fn translated(from: Wire, to: Wire, stream: &[u8]) -> Vec<u8> {
    let (mut translator, mut watch) = (Translator::new(from, to, origin(), true, false), Watch::new(from));
    let (mut out, mut tokens) = (Vec::new(), Tokens::default());
    for data in data(stream).iter().filter(|data| *data != b"[DONE]") {
        let chunk = watch.event(data).expect("an event of its wire");
        tokens = chunk.usage.map_or(tokens, |usage| usage.tokens);
        out.extend_from_slice(&translator.event(data).expect("an event of its wire"));
    }
    out.extend_from_slice(&translator.finish(tokens));
    out
}

fn used(wire: Wire, stream: &[u8]) -> (u64, u64, u64) {
    let mut watch = Watch::new(wire);
    let events = data(stream);
    let usage = events.iter().filter_map(|data| watch.event(data)?.usage).last().expect("a report").tokens;
    (usage.input, usage.cached, usage.output)
}

#[test]
fn one_answer_means_the_same_through_every_pair_of_wires() {
    for from in WIRES {
        let (stream, whole) = recorded(from);
        assert_eq!(said_by_stream(from, stream.as_bytes()), meaning(), "{from}, recorded");
        assert_eq!(said_by_whole(from, whole.as_bytes()), meaning(), "{from}, recorded");
        for to in WIRES {
            let translated = translated(from, to, stream.as_bytes());
            assert_eq!(said_by_stream(to, &translated), meaning(), "{from} to {to}");
            assert_eq!(used(to, &translated), (120, 40, 30), "{from} to {to}");
            let tokens = Tokens { input: 120, cached: 40, output: 30, ..Tokens::default() };
            let answer = answer(from, to, whole.as_bytes(), &origin(), tokens, false).expect("translatable");
            assert_eq!(said_by_whole(to, &answer), meaning(), "{from} to {to}");
            let chunk = Watch::new(to).whole(&answer).expect("an answer of its wire");
            assert_eq!(chunk.usage.expect("a report").tokens.total(), 150, "{from} to {to}");
            // And back again.
            let back = self::translated(to, from, &translated);
            assert_eq!(said_by_stream(from, &back), meaning(), "{from} to {to} and back");
        }
    }
}

/// The order of events that clients of these wires rely on.
#[test]
fn a_translated_stream_has_the_events_that_its_wire_promises() {
    let kinds = |stream: &[u8]| -> Vec<String> {
        let events = data(stream);
        let mut kinds: Vec<String> = events
            .iter()
            .map(|data| {
                serde_json::from_slice::<Value>(data).expect("JSON")["type"]
                    .as_str()
                    .unwrap_or_default()
                    .into()
            })
            .collect();
        kinds.dedup();
        kinds
    };
    let (stream, _) = recorded(Wire::Chat);
    let messages = translated(Wire::Chat, Wire::Messages, stream.as_bytes());
    let block = ["content_block_start", "content_block_delta", "content_block_stop"];
    let expected =
        [&["message_start"][..], &block, &block, &block, &block, &["message_delta", "message_stop"]].concat();
    assert_eq!(kinds(&messages), expected);
    let responses = translated(Wire::Chat, Wire::Responses, stream.as_bytes());
    let added = "response.output_item.added";
    let done = "response.output_item.done";
    let call =
        [added, "response.function_call_arguments.delta", "response.function_call_arguments.done", done];
    let expected = [
        &["response.created", "response.in_progress", added, "response.reasoning_summary_part.added"][..],
        &["response.reasoning_summary_text.delta", "response.reasoning_summary_text.done"],
        &["response.reasoning_summary_part.done", done, added, "response.content_part.added"],
        &["response.output_text.delta", "response.output_text.done", "response.content_part.done", done],
        &call,
        &call,
        &["response.completed"],
    ]
    .concat();
    assert_eq!(kinds(&responses), expected);
    let numbers: Vec<u64> = data(&responses)
        .iter()
        .map(|data| {
            serde_json::from_slice::<Value>(data).expect("JSON")["sequence_number"]
                .as_u64()
                .expect("a number")
        })
        .collect();
    assert!(numbers.iter().copied().eq(0..numbers.len() as u64), "{numbers:?}");
    for (name, data) in
        String::from_utf8(responses).expect("text").split("\n\n").filter_map(|e| e.split_once('\n'))
    {
        let kind = name.strip_prefix("event: ").expect("each event has a name");
        assert!(data.contains(&format!("\"type\":\"{kind}\"")), "{name}: {data}");
    }
    let chat = translated(Wire::Messages, Wire::Chat, recorded(Wire::Messages).0.as_bytes());
    assert!(chat.ends_with(b"data: [DONE]\n\n"));
}

#[test]
fn every_way_to_stop_is_told_in_every_wire() {
    for stop in [Stop::End, Stop::Length, Stop::Filtered] {
        for wire in WIRES {
            let reply = Reply { said: vec![Said::Text("x".into())], stop };
            let written = write_answer(wire, &reply, &origin(), Tokens::default());
            assert_eq!(said_by_whole(wire, written.to_string().as_bytes()), reply, "{wire}");
        }
    }
}

#[test]
fn what_is_no_answer_of_its_wire_breaks_and_does_not_panic() {
    for wire in WIRES {
        for wrong in [
            json!({}),
            json!([]),
            json!("x"),
            json!({"choices": [{"message": "x"}], "content": "x", "output": [7], "candidates": [{"content": []}]}),
            json!({"choices": [{"message": {"tool_calls": ["x", {}]}}], "content": [[]], "candidates": ["x"]}),
        ] {
            drop(read_answer(wire, &wrong, &origin()));
            drop(
                Translator::new(wire, Wire::Chat, origin(), false, false).event(wrong.to_string().as_bytes()),
            );
        }
    }
    let late = r#"{"choices":[{"delta":{"tool_calls":[{"index":3,"function":{"arguments":"x"}}]}}]}"#;
    let mut translator = Translator::new(Wire::Chat, Wire::Messages, origin(), false, false);
    assert!(translator.event(late.as_bytes()).is_err(), "arguments of a call that never began");
    let malformed = json!({"candidates": [{"finishReason": "MALFORMED_FUNCTION_CALL"}]});
    assert!(
        Translator::new(Wire::Google, Wire::Chat, origin(), false, false)
            .event(malformed.to_string().as_bytes())
            .is_err()
    );
}

/// What agents send, in the form of each.
fn asked(wire: Wire) -> Value {
    let schema = json!({"type": "object", "properties": {"path": {"type": "string"}}});
    let png = "iVBORw0KGgo=";
    match wire {
        Wire::Chat => json!({
            "model": "any", "stream": true, "stream_options": {"include_usage": true}, "max_tokens": 50,
            "temperature": 0.5, "tool_choice": "auto", "user": "u-1", "reasoning_effort": "low",
            "tools": [{"type": "function", "function": {"name": "read", "description": "Reads.", "parameters": schema}}],
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "Look."},
                                             {"type": "image_url", "image_url": {"url": format!("data:image/png;base64,{png}")}}]},
                {"role": "assistant", "content": "I do.", "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "read", "arguments": "{\"path\":\"a\"}"}}]},
                {"role": "tool", "tool_call_id": "c1", "content": "text of a"},
                {"role": "user", "content": "And now?"},
            ],
        }),
        Wire::Responses => json!({
            "model": "any", "stream": true, "max_output_tokens": 50, "temperature": 0.5, "tool_choice": "auto",
            "store": false, "include": ["reasoning.encrypted_content"], "prompt_cache_key": "k",
            "reasoning": {"effort": "low", "summary": "auto"}, "instructions": "Be brief.",
            "tools": [{"type": "function", "name": "read", "description": "Reads.", "parameters": schema}],
            "input": [
                {"type": "message", "role": "user", "content": [
                    {"type": "input_text", "text": "Look."},
                    {"type": "input_image", "image_url": format!("data:image/png;base64,{png}")}]},
                {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"},
                {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I do."}]},
                {"type": "function_call", "call_id": "c1", "name": "read", "arguments": "{\"path\":\"a\"}"},
                {"type": "function_call_output", "call_id": "c1", "output": "text of a"},
                {"role": "user", "content": "And now?"},
            ],
        }),
        Wire::Messages => json!({
            "model": "any", "stream": true, "max_tokens": 50, "temperature": 0.5, "tool_choice": {"type": "auto"},
            "metadata": {"user_id": "u-1"}, "thinking": {"type": "enabled", "budget_tokens": 1024},
            "output_config": {"effort": "low"},
            "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
            "tools": [{"name": "read", "description": "Reads.", "input_schema": schema}],
            "messages": [
                {"role": "user", "content": [
                    {"type": "text", "text": "Look."},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": png}}]},
                {"role": "assistant", "content": [
                    {"type": "thinking", "thinking": "Hm.", "signature": "x"},
                    {"type": "text", "text": "I do."},
                    {"type": "tool_use", "id": "c1", "name": "read", "input": {"path": "a"}}]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "text of a"}]},
                    {"type": "text", "text": "And now?", "cache_control": {"type": "ephemeral"}}]},
            ],
        }),
        Wire::Google => json!({
            "systemInstruction": {"parts": [{"text": "Be brief."}]}, "safetySettings": [],
            "generationConfig": {"maxOutputTokens": 50, "temperature": 0.5, "topK": 64, "thinkingConfig": {}},
            "toolConfig": {"functionCallingConfig": {"mode": "AUTO"}},
            "tools": [{"functionDeclarations": [{"name": "read", "description": "Reads.", "parameters":
                {"type": "OBJECT", "properties": {"path": {"type": "STRING"}}}}]}],
            "contents": [
                {"role": "user", "parts": [{"text": "Look."}, {"inlineData": {"mimeType": "image/png", "data": png}}]},
                {"role": "model", "parts": [{"text": "Hm.", "thought": true}, {"text": "I do."},
                    {"functionCall": {"name": "read", "args": {"path": "a"}}, "thoughtSignature": "x"}]},
                {"role": "user", "parts": [{"functionResponse": {"name": "read", "response": {"output": "text of a"}}}]},
                {"role": "user", "parts": [{"text": "And now?"}]},
            ],
        }),
    }
}

#[test]
fn one_request_means_the_same_through_every_pair_of_wires() {
    let call = |id: &str| Call { id: id.into(), name: "read".into(), arguments: r#"{"path":"a"}"#.into() };
    let expected = Request {
        system: vec!["Be brief.".into()],
        turns: vec![
            Turn::User(vec![
                Part::Text("Look.".into()),
                Part::Image { media_type: "image/png".into(), data: "iVBORw0KGgo=".into() },
            ]),
            Turn::Assistant(vec![Said::Text("I do.".into()), Said::Call(call("c1"))]),
            Turn::Result(CallResult {
                call: "c1".into(),
                content: vec![Part::Text("text of a".into())],
                is_error: false,
            }),
            Turn::User(vec![Part::Text("And now?".into())]),
        ],
        tools: vec![Tool {
            name: "read".into(),
            description: Some("Reads.".into()),
            parameters: json!({"type": "object", "properties": {"path": {"type": "string"}}}),
            strict: None,
        }],
        choice: Some(Choice::Auto),
        max_output: Some(50),
        temperature: serde_json::Number::from_f64(0.5),
        ..Request::default()
    };
    for from in WIRES {
        let read = normal(read_request(from, &asked(from)).expect("translatable"));
        assert_eq!(read, expected, "{from}");
        for to in WIRES {
            let written = write_request(to, &read).expect("translatable");
            let back = normal(read_request(to, &written).expect("what we write, we read"));
            assert_eq!(back, expected, "{from} to {to}");
        }
    }
}

fn read_request(wire: Wire, value: &Value) -> Result<Request, Untranslatable> {
    match wire {
        Wire::Chat => chat::read_request(value),
        Wire::Responses => responses::read_request(value),
        Wire::Messages => messages::read_request(value),
        Wire::Google => google::read_request(value),
    }
}

/// Without what only some wires say, and with calls named in their order.
fn normal(mut request: Request) -> Request {
    let mut ids: Vec<String> = Vec::new();
    for turn in &mut request.turns {
        match turn {
            Turn::Assistant(said) => {
                for said in said {
                    let Said::Call(call) = said else { continue };
                    ids.push(call.id.clone());
                    call.id = format!("c{}", ids.len());
                    let arguments: Value = serde_json::from_str(&call.arguments).expect("JSON");
                    call.arguments = arguments.to_string();
                }
            }
            Turn::Result(result) => {
                let at = ids.iter().position(|id| *id == result.call).expect("of a call");
                result.call = format!("c{}", at + 1);
                result.is_error = false;
            }
            Turn::User(_) => {}
        }
    }
    for tool in &mut request.tools {
        tool.strict = None;
    }
    Request { stream: false, wants_usage: false, effort: None, parallel: None, ..request }
}

#[test]
fn what_has_no_counterpart_is_refused_by_name() {
    let chat = |more: Value| (Wire::Chat, Wire::Messages, with(asked(Wire::Chat), more));
    let responses = |more: Value| (Wire::Responses, Wire::Chat, with(asked(Wire::Responses), more));
    let messages = |more: Value| (Wire::Messages, Wire::Google, with(asked(Wire::Messages), more));
    let google = |more: Value| (Wire::Google, Wire::Chat, with(asked(Wire::Google), more));
    let user = |content: Value| json!({"messages": [{"role": "user", "content": content}]});
    for ((from, to, request), named) in [
        (chat(json!({"n": 2})), "`n`"),
        (chat(json!({"logprobs": true})), "`logprobs`"),
        (chat(json!({"logit_bias": {"1": 2}})), "`logit_bias`"),
        (chat(json!({"response_format": {"type": "json_object"}})), "`response_format`"),
        (chat(json!({"tools": [{"type": "custom", "custom": {}}]})), "`custom`"),
        (chat(json!({"tool_choice": {"type": "allowed_tools"}})), "`allowed_tools`"),
        (chat(user(json!([{"type": "input_audio", "input_audio": {}}]))), "`input_audio`"),
        (
            chat(user(json!([{"type": "image_url", "image_url": {"url": "https://far.example"}}]))),
            "`messages[0]`",
        ),
        (chat(json!({"messages": [{"role": "function", "content": "x"}]})), "`function`"),
        (chat(json!({"new_field_of_tomorrow": 1})), "`new_field_of_tomorrow`"),
        (responses(json!({"previous_response_id": "r"})), "`previous_response_id`"),
        (responses(json!({"tools": [{"type": "web_search"}]})), "`web_search`"),
        (responses(json!({"input": [{"type": "item_reference", "id": "x"}]})), "`item_reference`"),
        (messages(json!({"mcp_servers": [{}]})), "`mcp_servers`"),
        (
            messages(json!({"tools": [{"type": "web_search_20250305", "name": "web_search"}]})),
            "`web_search_20250305`",
        ),
        (messages(user(json!([{"type": "document", "source": {}}]))), "`document`"),
        (google(json!({"cachedContent": "x"})), "`cachedContent`"),
        (google(json!({"tools": [{"googleSearch": {"x": 1}}]})), "`tools.googleSearch`"),
        (google(json!({"contents": [{"parts": [{"fileData": {}}]}]})), "`contents[0]`"),
        (google(json!({"contents": [{"parts": [{"functionResponse": {"name": "read"}}]}]})), "`contents[0]`"),
        (
            google(json!({"generationConfig": {"responseModalities": ["AUDIO"]}})),
            "`generationConfig.responseModalities`",
        ),
    ] {
        let refused =
            super::request(from, to, request.to_string().as_bytes(), false, false).expect_err(named);
        assert_eq!((refused.status.as_u16(), refused.code), (400, "cannot_translate"), "{named}");
        assert!(refused.refusal.message.contains(named), "{named}: {}", refused.refusal);
    }
    let stops = with(asked(Wire::Chat), json!({"stop": ["END"]}));
    let refused = super::request(Wire::Chat, Wire::Responses, stops.to_string().as_bytes(), false, false)
        .expect_err("stop");
    assert!(refused.refusal.message.contains("`stop`"), "{}", refused.refusal);
    for from in WIRES {
        for to in WIRES {
            let body = asked(from).to_string();
            assert!(
                super::request(from, to, body.as_bytes(), false, false).is_ok(),
                "the positive control: {from} to {to}"
            );
        }
    }
}

fn with(mut request: Value, more: Value) -> Value {
    request.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    request
}

#[test]
fn a_schema_of_the_answer_goes_along() {
    let schema = json!({"type": "object", "properties": {"a": {"type": "string"}}});
    let format = Format::Schema { name: "answer".into(), schema, strict: None };
    let request = Request {
        turns: vec![Turn::User(vec![Part::Text("x".into())])],
        format: Some(format.clone()),
        ..Request::default()
    };
    for wire in WIRES {
        let written = write_request(wire, &request).expect("translatable");
        assert_eq!(read_request(wire, &written).expect("ours").format, Some(format.clone()), "{wire}");
    }
}

#[test]
fn an_image_in_a_result_reaches_a_wire_that_has_none_there() {
    let image = Part::Image { media_type: "image/png".into(), data: "AA==".into() };
    let call = Call { id: "c1".into(), name: "read".into(), arguments: "{}".into() };
    let result = CallResult { call: "c1".into(), content: vec![image.clone()], is_error: false };
    let turns = vec![Turn::Assistant(vec![Said::Call(call)]), Turn::Result(result)];
    let request = Request { turns, ..Request::default() };
    for wire in WIRES {
        let written = write_request(wire, &request).expect("translatable").to_string();
        assert!(written.contains("AA=="), "{wire}: {written}");
    }
}

#[test]
fn arguments_that_are_no_object_stay_readable() {
    for (arguments, input) in
        [("", json!({})), ("{\"a\":", json!({"arguments": "{\"a\":"})), ("7", json!({"arguments": "7"}))]
    {
        let call = Call { arguments: arguments.into(), ..Call::default() };
        assert_eq!(call.input(), input);
    }
}
