//! An answer of a model in each of the wires that agents speak, as their references show it; and what a request says that is
//! the same in all of them.

use axum::body::Bytes;
use serde_json::Value;
use serde_json::json;

use crate::model_server::Recorded;
use crate::model_server::message_chunks;
use crate::model_server::whole_message;

/// A wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// OpenAI's chat completions.
    Chat,
    /// OpenAI's responses.
    Responses,
    /// Anthropic's messages.
    Messages,
    /// Google's generateContent.
    Google,
}

/// What a model says: a text, calls of tools by name and arguments, and what it read and wrote in tokens.
#[derive(Clone, Copy, Debug)]
pub struct Said<'a> {
    /// The text.
    pub text: Option<&'a str>,
    /// The calls.
    pub calls: &'a [(String, Value)],
    /// The usage, in the form of chat completions.
    pub usage: Option<&'a Value>,
}

/// A tool that an agent offers.
#[derive(Clone, Debug, PartialEq)]
pub struct Offered {
    /// Its name.
    pub name: String,
    /// The schema of its arguments.
    pub schema: Value,
}

// === impl Wire ===

impl Wire {
    /// The wire of a request, by its path.
    pub fn of(path: &str) -> Self {
        let path = path.split('?').next().unwrap_or_default();
        if path.ends_with("/responses") {
            Self::Responses
        } else if path.contains("/messages") {
            Self::Messages
        } else if path.contains(":generateContent")
            || path.contains(":streamGenerateContent")
            || path.contains(":countTokens")
        {
            Self::Google
        } else {
            Self::Chat
        }
    }

    /// The tools that a request offers.
    pub fn offered(self, request: &Value) -> Vec<Offered> {
        let tool = |name: &Value, schema: &Value| {
            Some(Offered { name: name.as_str()?.to_owned(), schema: schema.clone() })
        };
        let tools = request["tools"].as_array().map(Vec::as_slice).unwrap_or_default();
        match self {
            Self::Chat => tools
                .iter()
                .filter_map(|t| tool(&t["function"]["name"], &t["function"]["parameters"]))
                .collect(),
            Self::Responses => tools.iter().filter_map(|t| tool(&t["name"], &t["parameters"])).collect(),
            Self::Messages => tools.iter().filter_map(|t| tool(&t["name"], &t["input_schema"])).collect(),
            Self::Google => tools
                .iter()
                .filter_map(|t| t["functionDeclarations"].as_array())
                .flatten()
                .filter_map(|t| {
                    let schema = if t["parameters"].is_object() {
                        &t["parameters"]
                    } else {
                        &t["parametersJsonSchema"]
                    };
                    tool(&t["name"], schema)
                })
                .collect(),
        }
    }

    /// How many calls of tools stand in the conversation of a request.
    pub fn calls_before(self, request: &Value) -> usize {
        let items = |list: &Value| list.as_array().cloned().unwrap_or_default();
        match self {
            Self::Chat => items(&request["messages"]).iter().map(|m| items(&m["tool_calls"]).len()).sum(),
            Self::Responses => items(&request["input"])
                .iter()
                .filter(|item| matches!(item["type"].as_str(), Some("function_call" | "custom_tool_call")))
                .count(),
            Self::Messages => items(&request["messages"])
                .iter()
                .flat_map(|m| items(&m["content"]))
                .filter(|block| block["type"] == "tool_use")
                .count(),
            Self::Google => items(&request["contents"])
                .iter()
                .flat_map(|content| items(&content["parts"]))
                .filter(|part| part["functionCall"].is_object())
                .count(),
        }
    }

    /// True if the answer is to be a stream.
    pub fn streams(self, request: &Recorded) -> bool {
        match self {
            Self::Google => request.path.contains(":streamGenerateContent"),
            Self::Chat | Self::Responses | Self::Messages => {
                request.body["stream"].as_bool().unwrap_or(false)
            }
        }
    }

    /// What is said, as the pieces of a stream or as one body. A call has the number that it has in the conversation: agents
    /// take two calls of one name for the same.
    pub fn answer(self, request: &Recorded, said: Said<'_>) -> Vec<Bytes> {
        let body = &request.body;
        let streams = self.streams(request);
        match (self, streams) {
            (Self::Chat, true) => {
                let reports = body["stream_options"]["include_usage"].as_bool().unwrap_or(false);
                let usage = said.usage.filter(|_| reports).cloned();
                message_chunks(body, said.text, said.calls, usage)
            }
            (Self::Chat, false) => {
                vec![whole_message(body, said.text, said.calls, said.usage.cloned()).to_string().into()]
            }
            (Self::Responses, true) => events(responses(body, said), true),
            (Self::Responses, false) => vec![response(body, said).to_string().into()],
            (Self::Messages, true) => events(messages(body, said), true),
            (Self::Messages, false) => vec![message(body, said).to_string().into()],
            (Self::Google, true) => events(vec![google(said)], false),
            (Self::Google, false) => vec![google(said).to_string().into()],
        }
    }
}

/// Events as they stand in a stream; some wires name them.
fn events(events: Vec<Value>, named: bool) -> Vec<Bytes> {
    let line = |event: Value| match (named, event["type"].as_str()) {
        (true, Some(name)) => format!("event: {name}\ndata: {event}\n\n"),
        _ => format!("data: {event}\n\n"),
    };
    events.into_iter().map(|event| line(event).into()).collect()
}

/// Tokens read and written.
fn tokens(said: Said<'_>) -> (u64, u64) {
    let count = |name: &str| said.usage.and_then(|usage| usage[name].as_u64()).unwrap_or(0);
    (count("prompt_tokens"), count("completion_tokens"))
}

fn response_items(request: &Value, said: Said<'_>) -> Vec<Value> {
    let text = said.text.map(|text| {
        json!({ "type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
            "content": [{ "type": "output_text", "text": text, "annotations": [] }] })
    });
    let numbers = Wire::Responses.calls_before(request)..;
    let calls = said.calls.iter().zip(numbers).map(|((name, arguments), number)| {
        json!({ "type": "function_call", "id": format!("fc_{number}"), "call_id": format!("call_{number}"),
            "name": name, "arguments": arguments.to_string(), "status": "completed" })
    });
    text.into_iter().chain(calls).collect()
}

fn response(request: &Value, said: Said<'_>) -> Value {
    let (input, output) = tokens(said);
    json!({
        "id": "resp_test", "object": "response", "created_at": 1_795_000_000, "status": "completed",
        "model": request["model"], "output": response_items(request, said),
        "usage": {
            "input_tokens": input, "input_tokens_details": { "cached_tokens": 0 },
            "output_tokens": output, "output_tokens_details": { "reasoning_tokens": 0 },
            "total_tokens": input + output,
        },
    })
}

fn responses(request: &Value, said: Said<'_>) -> Vec<Value> {
    let whole = response(request, said);
    let mut begun = whole.clone();
    begun["status"] = "in_progress".into();
    begun["output"] = json!([]);
    begun["usage"] = Value::Null;
    let mut all = vec![
        json!({ "type": "response.created", "response": begun }),
        json!({ "type": "response.in_progress", "response": begun }),
    ];
    for (index, item) in response_items(request, said).into_iter().enumerate() {
        let at = |kind: &str, fields: Value| {
            let mut event = json!({ "type": kind, "output_index": index, "item_id": item["id"] });
            for (name, value) in fields.as_object().into_iter().flatten() {
                event[name] = value.clone();
            }
            event
        };
        let mut empty = item.clone();
        empty["status"] = "in_progress".into();
        if item["type"] == "message" {
            empty["content"] = json!([]);
            all.push(at("response.output_item.added", json!({ "item": empty })));
            let part = json!({ "type": "output_text", "text": "", "annotations": [] });
            all.push(at("response.content_part.added", json!({ "content_index": 0, "part": part })));
            for word in said.text.unwrap_or_default().split_inclusive(' ') {
                all.push(at("response.output_text.delta", json!({ "content_index": 0, "delta": word })));
            }
            let text = said.text.unwrap_or_default();
            all.push(at("response.output_text.done", json!({ "content_index": 0, "text": text })));
            all.push(at(
                "response.content_part.done",
                json!({ "content_index": 0, "part": item["content"][0] }),
            ));
        } else {
            empty["arguments"] = "".into();
            all.push(at("response.output_item.added", json!({ "item": empty })));
            let arguments = &item["arguments"];
            all.push(at("response.function_call_arguments.delta", json!({ "delta": arguments })));
            all.push(at("response.function_call_arguments.done", json!({ "arguments": arguments })));
        }
        all.push(at("response.output_item.done", json!({ "item": item })));
    }
    all.push(json!({ "type": "response.completed", "response": whole }));
    for (number, event) in all.iter_mut().enumerate() {
        event["sequence_number"] = number.into();
    }
    all
}

fn message_blocks(request: &Value, said: Said<'_>) -> Vec<Value> {
    let text = said.text.map(|text| json!({ "type": "text", "text": text }));
    let numbers = Wire::Messages.calls_before(request)..;
    let calls = said.calls.iter().zip(numbers).map(|((name, arguments), number)| {
        json!({ "type": "tool_use", "id": format!("toolu_{number}"), "name": name, "input": arguments })
    });
    text.into_iter().chain(calls).collect()
}

fn message(request: &Value, said: Said<'_>) -> Value {
    let (input, output) = tokens(said);
    json!({
        "id": "msg_test", "type": "message", "role": "assistant", "model": request["model"],
        "content": message_blocks(request, said), "stop_sequence": null,
        "stop_reason": if said.calls.is_empty() { "end_turn" } else { "tool_use" },
        "usage": {
            "input_tokens": input, "output_tokens": output,
            "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
        },
    })
}

fn messages(request: &Value, said: Said<'_>) -> Vec<Value> {
    let whole = message(request, said);
    let mut begun = whole.clone();
    begun["content"] = json!([]);
    begun["stop_reason"] = Value::Null;
    begun["usage"]["output_tokens"] = 1.into();
    let mut all = vec![json!({ "type": "message_start", "message": begun })];
    for (index, block) in message_blocks(request, said).into_iter().enumerate() {
        let (empty, delta) = if block["type"] == "text" {
            let delta = json!({ "type": "text_delta", "text": block["text"] });
            (json!({ "type": "text", "text": "" }), delta)
        } else {
            let mut empty = block.clone();
            empty["input"] = json!({});
            (empty, json!({ "type": "input_json_delta", "partial_json": block["input"].to_string() }))
        };
        all.push(json!({ "type": "content_block_start", "index": index, "content_block": empty }));
        all.push(json!({ "type": "content_block_delta", "index": index, "delta": delta }));
        all.push(json!({ "type": "content_block_stop", "index": index }));
    }
    let delta = json!({ "stop_reason": whole["stop_reason"], "stop_sequence": null });
    let usage = json!({ "output_tokens": whole["usage"]["output_tokens"] });
    all.push(json!({ "type": "message_delta", "delta": delta, "usage": usage }));
    all.push(json!({ "type": "message_stop" }));
    all
}

fn google(said: Said<'_>) -> Value {
    let (input, output) = tokens(said);
    let text = said.text.map(|text| json!({ "text": text }));
    let calls = said
        .calls
        .iter()
        .map(|(name, arguments)| json!({ "functionCall": { "name": name, "args": arguments } }));
    let parts: Vec<Value> = text.into_iter().chain(calls).collect();
    json!({
        "candidates": [{ "content": { "role": "model", "parts": parts }, "finishReason": "STOP", "index": 0 }],
        "usageMetadata": {
            "promptTokenCount": input, "candidatesTokenCount": output, "totalTokenCount": input + output,
        },
        "modelVersion": "scripted",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATHS: [(&str, Wire); 4] = [
        ("/v1/chat/completions", Wire::Chat),
        ("/v1/responses", Wire::Responses),
        ("/v1/messages?beta=true", Wire::Messages),
        ("/v1beta/models/m:streamGenerateContent?alt=sse", Wire::Google),
    ];

    fn recorded(path: &str, body: Value) -> Recorded {
        Recorded {
            method: "POST".to_owned(),
            path: path.to_owned(),
            headers: Default::default(),
            raw: Bytes::new(),
            body,
        }
    }

    #[test]
    fn every_wire_carries_the_same_call() {
        for (path, wire) in PATHS {
            assert_eq!(Wire::of(path), wire);
            let calls = [("bash".to_owned(), json!({ "command": "true" }))];
            let said = Said { text: Some("Now"), calls: &calls, usage: None };
            let request = recorded(path, json!({ "model": "m", "stream": true }));
            let text: String = wire
                .answer(&request, said)
                .iter()
                .map(|piece| String::from_utf8_lossy(piece).into_owned())
                .collect();
            assert!(
                text.contains("bash") && text.contains("command") && text.contains("Now"),
                "{wire:?}: {text}"
            );
            assert!(text.starts_with("event: ") || text.starts_with("data: "), "{wire:?}");
        }
    }

    #[test]
    fn what_was_called_before_is_counted_in_every_wire() {
        for (wire, conversation) in [
            (Wire::Chat, json!({ "messages": [{ "role": "user" }, { "tool_calls": [{}, {}] }] })),
            (
                Wire::Responses,
                json!({ "input": [{ "type": "function_call" }, { "type": "custom_tool_call" }] }),
            ),
            (
                Wire::Messages,
                json!({ "messages": [{ "content": "x" }, { "content": [{ "type": "tool_use" }, { "type": "tool_use" }] }] }),
            ),
            (
                Wire::Google,
                json!({ "contents": [{ "parts": [{ "functionCall": {} }, { "functionCall": {} }] }] }),
            ),
        ] {
            assert_eq!(wire.calls_before(&conversation), 2, "{wire:?}");
            assert_eq!(wire.calls_before(&json!({})), 0, "{wire:?}");
            let calls = [("bash".to_owned(), json!({}))];
            let said = Said { text: None, calls: &calls, usage: None };
            let answer = wire.answer(&recorded("/", conversation), said);
            // Google's calls have no names of their own.
            assert!(
                wire == Wire::Google || String::from_utf8_lossy(&answer[0]).contains("_2\""),
                "{answer:?}"
            );
        }
    }
}
