//! The demonstration model behind OpenAI's chat completions.

use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::body::Body;
use axum::extract::DefaultBodyLimit;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use axum::response::Response;
use axum::routing::get;
use axum::routing::post;
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde_json::Value;
use serde_json::json;

use super::MODEL;
use super::Step;
use super::next_step;

/// The most bytes of a request: more than any agent's context.
const MAX_REQUEST: usize = 32 * 1024 * 1024;
/// Characters of one piece of a stream, about one token.
const PIECE: usize = 6;
/// Bytes that count as one token.
const BYTES_PER_TOKEN: usize = 4;

/// How the model speaks.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The pause between two pieces of a stream, so that a demonstration can be followed.
    pub between_pieces: Duration,
}

/// The routes of the model.
pub fn router(pace: Pace) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(complete))
        .route("/v1/models", get(models))
        .layer(DefaultBodyLimit::max(MAX_REQUEST))
        .with_state(pace)
}

async fn models() -> Json<Value> {
    let model = json!({"id": MODEL, "object": "model", "created": 0, "owned_by": "demonstration"});
    Json(json!({"object": "list", "data": [model]}))
}

async fn complete(State(pace): State<Pace>, body: Bytes) -> Response {
    let request: Value = serde_json::from_slice(&body).unwrap_or_default();
    let Some(messages) = request["messages"].as_array() else {
        let error = json!({"error": {
            "message": "the body has no `messages`; send an OpenAI chat completion request",
            "type": "invalid_request_error", "code": "invalid_request", "param": "messages",
        }});
        return (StatusCode::BAD_REQUEST, Json(error)).into_response();
    };
    let tools = request["tools"].as_array().map(Vec::as_slice).unwrap_or_default();
    let step = next_step(messages, tools);
    let usage = usage(body.len(), &step);
    if !request["stream"].as_bool().unwrap_or(false) {
        return Json(whole(&step, &usage)).into_response();
    }
    let reports = request["stream_options"]["include_usage"].as_bool().unwrap_or(false);
    let pieces = futures_util::stream::iter(chunks(&step, reports.then_some(usage)));
    let paced = pieces.then(move |piece| async move {
        tokio::time::sleep(pace.between_pieces).await;
        Ok::<_, Infallible>(piece)
    });
    ([("content-type", "text/event-stream")], Body::from_stream(paced)).into_response()
}

fn usage(read: usize, step: &Step) -> Value {
    let written = match step {
        Step::Say(text) => text.len(),
        Step::Call { say, call, .. } => say.len() + call.name.len() + call.arguments.to_string().len(),
    };
    let (input, output) = (read.div_ceil(BYTES_PER_TOKEN), written.div_ceil(BYTES_PER_TOKEN));
    json!({"prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output})
}

fn frame(kind: &str, choice: &Value) -> Value {
    json!({
        "id": "chatcmpl-demonstration", "object": kind, "created": 0, "model": MODEL, "system_fingerprint": MODEL,
        "choices": [choice],
    })
}

fn call_id(number: usize) -> String {
    format!("call_{number}")
}

fn whole(step: &Step, usage: &Value) -> Value {
    let (message, reason) = match step {
        Step::Say(text) => (json!({"role": "assistant", "content": text}), "stop"),
        Step::Call { say, call, number } => {
            let function = json!({"name": call.name, "arguments": call.arguments.to_string()});
            let call = json!({"id": call_id(*number), "type": "function", "function": function});
            (json!({"role": "assistant", "content": say, "tool_calls": [call]}), "tool_calls")
        }
    };
    let mut whole =
        frame("chat.completion", &json!({"index": 0, "message": message, "finish_reason": reason}));
    whole["usage"] = usage.clone();
    whole
}

fn chunks(step: &Step, usage: Option<Value>) -> Vec<Bytes> {
    let event = |value: &Value| Bytes::from(format!("data: {value}\n\n"));
    let delta = |delta: Value, reason: Option<&str>| {
        let choice = json!({"index": 0, "delta": delta, "finish_reason": reason});
        event(&frame("chat.completion.chunk", &choice))
    };
    let (text, call) = match step {
        Step::Say(text) => (text, None),
        Step::Call { say, call, number } => (say, Some((call, *number))),
    };
    let mut chunks = vec![delta(json!({"role": "assistant", "content": ""}), None)];
    chunks.extend(pieces(text).map(|piece| delta(json!({"content": piece}), None)));
    if let Some((call, number)) = call {
        let begun = json!({"index": 0, "id": call_id(number), "type": "function",
                           "function": {"name": call.name, "arguments": ""}});
        chunks.push(delta(json!({"tool_calls": [begun]}), None));
        let arguments = call.arguments.to_string();
        // Arguments in larger pieces: nobody reads along.
        let characters: Vec<char> = arguments.chars().collect();
        chunks.extend(characters.chunks(16 * PIECE).map(|piece| {
            let piece: String = piece.iter().collect();
            delta(json!({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}), None)
        }));
    }
    chunks.push(delta(json!({}), Some(if call.is_some() { "tool_calls" } else { "stop" })));
    if let Some(usage) = usage {
        let mut last = frame("chat.completion.chunk", &Value::Null);
        last["choices"] = json!([]);
        last["usage"] = usage;
        chunks.push(event(&last));
    }
    chunks.push(Bytes::from_static(b"data: [DONE]\n\n"));
    chunks
}

fn pieces(text: &str) -> impl Iterator<Item = String> {
    let characters: Vec<char> = text.chars().collect();
    let count = characters.len().div_ceil(PIECE);
    (0..count).map(move |n| characters[n * PIECE..characters.len().min((n + 1) * PIECE)].iter().collect())
}
