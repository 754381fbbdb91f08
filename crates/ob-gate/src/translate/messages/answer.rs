//! Answers and streams of Anthropic's messages, to and from the hub.

use bytes::BytesMut;
use ob_core::model::Tokens;
use serde_json::Value;
use serde_json::json;

use super::write_said;
use crate::translate::Broken;
use crate::translate::Origin;
use crate::translate::Reader;
use crate::translate::Writer;
use crate::translate::hub::Call;
use crate::translate::hub::Delta;
use crate::translate::hub::Reply;
use crate::translate::hub::Said;
use crate::translate::hub::Stop;
use crate::translate::json::event;

pub(in crate::translate) fn read_answer(value: &Value) -> Result<Reply, Broken> {
    let blocks = value["content"].as_array().ok_or_else(|| Broken("a message without content".to_owned()))?;
    let mut said = Vec::new();
    for block in blocks {
        let text = |name: &str| block[name].as_str().unwrap_or_default().to_owned();
        match block["type"].as_str().unwrap_or_default() {
            "text" => said.push(Said::Text(text("text"))),
            "thinking" => said.push(Said::Reasoning(text("thinking"))),
            "tool_use" => said.push(Said::Call(Call {
                id: text("id"),
                name: text("name"),
                arguments: block["input"].to_string(),
            })),
            _ => {}
        }
    }
    Ok(Reply { said, stop: read_stop(value["stop_reason"].as_str().unwrap_or_default()) })
}

fn read_stop(reason: &str) -> Stop {
    match reason {
        "max_tokens" | "model_context_window_exceeded" => Stop::Length,
        "tool_use" => Stop::Calls,
        "refusal" => Stop::Filtered,
        _ => Stop::End,
    }
}

fn write_stop(stop: Stop) -> &'static str {
    match stop {
        Stop::End => "end_turn",
        Stop::Length => "max_tokens",
        Stop::Calls => "tool_use",
        Stop::Filtered => "refusal",
    }
}

pub(in crate::translate) fn write_answer(reply: &Reply, origin: &Origin, tokens: Tokens) -> Value {
    let mut content = Vec::new();
    for said in &reply.said {
        match said {
            // Its signature is empty: nobody but the provider could make one.
            Said::Reasoning(text) => {
                content.push(json!({ "type": "thinking", "thinking": text, "signature": "" }))
            }
            said => content.extend(write_said(said)),
        }
    }
    json!({
        "id": format!("msg_{}", origin.id), "type": "message", "role": "assistant", "model": origin.model,
        "content": content, "stop_reason": write_stop(reply.stop), "stop_sequence": null,
        "usage": write_usage(tokens),
    })
}

fn write_usage(tokens: Tokens) -> Value {
    json!({
        "input_tokens": tokens.input.saturating_sub(tokens.cached).saturating_sub(tokens.cache_written),
        "cache_read_input_tokens": tokens.cached, "cache_creation_input_tokens": tokens.cache_written,
        "output_tokens": tokens.output,
    })
}

/// Reads events.
#[derive(Default)]
pub(in crate::translate) struct Events {
    /// Index of the call that goes on.
    call: Option<u64>,
}

impl Reader for Events {
    fn event(&mut self, data: &Value, deltas: &mut Vec<Delta>) -> Result<(), Broken> {
        match data["type"].as_str().unwrap_or_default() {
            "content_block_start" => {
                let block = &data["content_block"];
                self.call = None;
                let text =
                    |name: &str| block[name].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
                match block["type"].as_str().unwrap_or_default() {
                    "text" => deltas.extend(text("text").map(Delta::Text)),
                    "thinking" => deltas.extend(text("thinking").map(Delta::Reasoning)),
                    "tool_use" => {
                        let (Some(id), Some(name)) = (text("id"), text("name")) else {
                            return Err(Broken("a call without an id or a name".to_owned()));
                        };
                        self.call = data["index"].as_u64();
                        deltas.push(Delta::Call { id, name });
                        let input = block["input"].as_object().filter(|input| !input.is_empty());
                        deltas.extend(input.map(|_| Delta::Arguments(block["input"].to_string())));
                    }
                    _ => {}
                }
            }
            "content_block_delta" => {
                let delta = &data["delta"];
                let text =
                    |name: &str| delta[name].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
                match delta["type"].as_str().unwrap_or_default() {
                    "text_delta" => deltas.extend(text("text").map(Delta::Text)),
                    "thinking_delta" => deltas.extend(text("thinking").map(Delta::Reasoning)),
                    "input_json_delta" if self.call.is_some() && self.call == data["index"].as_u64() => {
                        deltas.extend(text("partial_json").map(Delta::Arguments));
                    }
                    "input_json_delta" => {
                        return Err(Broken("a part of a call that is over or never began".to_owned()));
                    }
                    _ => {}
                }
            }
            "content_block_stop" => self.call = None,
            "message_delta" => {
                deltas.extend(
                    data.pointer("/delta/stop_reason")
                        .and_then(Value::as_str)
                        .map(read_stop)
                        .map(Delta::Stop),
                );
            }
            _ => {}
        }
        Ok(())
    }
}

/// Writes events: blocks one after the other.
pub(in crate::translate) struct Writing {
    origin: Origin,
    begun: bool,
    /// The type of the block that is open.
    open: Option<&'static str>,
    blocks: u64,
}

// === impl Writing ===

impl Writing {
    pub(in crate::translate) fn new(origin: Origin) -> Self {
        Self { origin, begun: false, open: None, blocks: 0 }
    }

    fn write(out: &mut BytesMut, data: &Value) {
        event(out, data["type"].as_str(), data);
    }

    /// Opens a block, unless one of this type is open that may go on.
    fn open(&mut self, out: &mut BytesMut, kind: &'static str, block: Value) {
        if self.open == Some(kind) && kind != "tool_use" {
            return;
        }
        self.close(out);
        Self::write(
            out,
            &json!({ "type": "content_block_start", "index": self.blocks, "content_block": block }),
        );
        self.open = Some(kind);
    }

    fn close(&mut self, out: &mut BytesMut) {
        if self.open.take().is_some() {
            Self::write(out, &json!({ "type": "content_block_stop", "index": self.blocks }));
            self.blocks += 1;
        }
    }

    fn said(&self, out: &mut BytesMut, delta: &Value) {
        Self::write(out, &json!({ "type": "content_block_delta", "index": self.blocks, "delta": delta }));
    }
}

impl Writer for Writing {
    fn begin(&mut self, out: &mut BytesMut) {
        if self.begun {
            return;
        }
        self.begun = true;
        let Origin { id, model, .. } = &self.origin;
        // What was read is known at the end only, and told then.
        let message = json!({
            "id": format!("msg_{id}"), "type": "message", "role": "assistant", "model": model, "content": [],
            "stop_reason": null, "stop_sequence": null, "usage": write_usage(Tokens::default()),
        });
        Self::write(out, &json!({ "type": "message_start", "message": message }));
    }

    fn delta(&mut self, delta: Delta, out: &mut BytesMut) {
        match delta {
            Delta::Text(text) => {
                self.open(out, "text", json!({ "type": "text", "text": "" }));
                self.said(out, &json!({ "type": "text_delta", "text": text }));
            }
            Delta::Reasoning(text) => {
                self.open(out, "thinking", json!({ "type": "thinking", "thinking": "", "signature": "" }));
                self.said(out, &json!({ "type": "thinking_delta", "thinking": text }));
            }
            Delta::Call { id, name } => {
                self.open(
                    out,
                    "tool_use",
                    json!({ "type": "tool_use", "id": id, "name": name, "input": {} }),
                );
            }
            Delta::Arguments(text) => {
                self.said(out, &json!({ "type": "input_json_delta", "partial_json": text }))
            }
            Delta::Stop(_) => {}
        }
    }

    fn finish(&mut self, stop: Stop, tokens: Tokens, out: &mut BytesMut) {
        self.close(out);
        let delta = json!({ "stop_reason": write_stop(stop), "stop_sequence": null });
        Self::write(out, &json!({ "type": "message_delta", "delta": delta, "usage": write_usage(tokens) }));
        Self::write(out, &json!({ "type": "message_stop" }));
    }
}
