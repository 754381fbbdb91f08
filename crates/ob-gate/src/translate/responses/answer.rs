//! Answers and streams of OpenAI's responses, to and from the hub.

use bytes::BytesMut;
use ob_core::model::Tokens;
use serde_json::Value;
use serde_json::json;

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
    let items = value["output"].as_array().ok_or_else(|| Broken("a response without output".to_owned()))?;
    let mut said = Vec::new();
    for item in items {
        let text = |name: &str| item[name].as_str().unwrap_or_default().to_owned();
        let texts = |name: &str| -> String {
            let parts = item[name].as_array().into_iter().flatten();
            parts.filter_map(|part| part["text"].as_str().or_else(|| part["refusal"].as_str())).collect()
        };
        match item["type"].as_str().unwrap_or_default() {
            "message" => said.push(Said::Text(texts("content"))),
            "reasoning" => {
                let words = texts("summary");
                said.extend((!words.is_empty()).then_some(Said::Reasoning(words)));
            }
            "function_call" => said.push(Said::Call(Call {
                id: text("call_id"),
                name: text("name"),
                arguments: text("arguments"),
            })),
            other => return Err(Broken(format!("an item of the type `{other}`"))),
        }
    }
    Ok(Reply { said, stop: read_stop(value) })
}

fn read_stop(response: &Value) -> Stop {
    match response.pointer("/incomplete_details/reason").and_then(Value::as_str) {
        None => Stop::End,
        Some("content_filter") => Stop::Filtered,
        Some(_) => Stop::Length,
    }
}

pub(in crate::translate) fn write_answer(reply: &Reply, origin: &Origin, tokens: Tokens) -> Value {
    let items =
        reply.said.iter().enumerate().map(|(index, said)| write_item(said, index, &origin.id, "completed"));
    response(origin, items.collect(), Some((reply.stop, tokens)))
}

fn item_id(said: &Said, index: usize, id: &str) -> String {
    let kind = match said {
        Said::Text(_) => "msg",
        Said::Reasoning(_) => "rs",
        Said::Call(_) => "fc",
    };
    format!("{kind}_{id}_{index}")
}

fn write_item(said: &Said, index: usize, id: &str, status: &str) -> Value {
    let id = item_id(said, index, id);
    match said {
        Said::Text(text) => json!({
            "id": id, "type": "message", "role": "assistant", "status": status,
            "content": [write_part(text)],
        }),
        Said::Reasoning(text) => json!({
            "id": id, "type": "reasoning",
            "summary": [{ "type": "summary_text", "text": text }],
        }),
        Said::Call(call) => json!({
            "id": id, "type": "function_call", "status": status, "call_id": call.id,
            "name": call.name, "arguments": call.arguments,
        }),
    }
}

fn write_part(text: &str) -> Value {
    json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": [] })
}

/// The response itself: on its way, or as it ended.
fn response(origin: &Origin, output: Vec<Value>, end: Option<(Stop, Tokens)>) -> Value {
    let reason = match end {
        Some((Stop::Length, _)) => Some("max_output_tokens"),
        Some((Stop::Filtered, _)) => Some("content_filter"),
        _ => None,
    };
    let status = match (end, reason) {
        (None, _) => "in_progress",
        (Some(_), None) => "completed",
        (Some(_), Some(_)) => "incomplete",
    };
    let usage = end.map(|(_, tokens)| {
        json!({
            "input_tokens": tokens.input, "output_tokens": tokens.output, "total_tokens": tokens.total(),
            "input_tokens_details": { "cached_tokens": tokens.cached },
            "output_tokens_details": { "reasoning_tokens": tokens.reasoning },
        })
    });
    json!({
        "id": format!("resp_{}", origin.id), "object": "response", "created_at": origin.created, "status": status,
        "model": origin.model, "output": output, "usage": usage, "error": null, "instructions": null,
        "incomplete_details": reason.map(|reason| json!({ "reason": reason })), "metadata": {},
        "parallel_tool_calls": true, "temperature": null, "tool_choice": "auto", "tools": [], "top_p": null,
    })
}

/// Reads events.
#[derive(Default)]
pub(in crate::translate) struct Events {
    /// Index of the call that goes on.
    call: Option<u64>,
    /// Its arguments came in pieces.
    in_pieces: bool,
}

impl Reader for Events {
    fn event(&mut self, data: &Value, deltas: &mut Vec<Delta>) -> Result<(), Broken> {
        let index = data["output_index"].as_u64();
        let piece = || data["delta"].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        match data["type"].as_str().unwrap_or_default() {
            "response.output_text.delta" | "response.refusal.delta" => {
                deltas.extend(piece().map(Delta::Text))
            }
            "response.reasoning_summary_text.delta" | "response.reasoning_text.delta" => {
                deltas.extend(piece().map(Delta::Reasoning));
            }
            "response.output_item.added" if data["item"]["type"] == "function_call" => {
                let text = |name: &str| data["item"][name].as_str().filter(|text| !text.is_empty());
                let (Some(id), Some(name)) = (text("call_id"), text("name")) else {
                    return Err(Broken("a call without an id or a name".to_owned()));
                };
                (self.call, self.in_pieces) = (index, false);
                deltas.push(Delta::Call { id: id.to_owned(), name: name.to_owned() });
            }
            "response.function_call_arguments.delta" => {
                if self.call.is_none() || self.call != index {
                    return Err(Broken("a part of a call that is over or never began".to_owned()));
                }
                self.in_pieces = true;
                deltas.extend(piece().map(Delta::Arguments));
            }
            // A server may give them at the end only.
            "response.function_call_arguments.done" if self.call == index && !self.in_pieces => {
                self.in_pieces = true;
                let whole = data["arguments"].as_str().filter(|text| !text.is_empty());
                deltas.extend(whole.map(|text| Delta::Arguments(text.to_owned())));
            }
            "response.completed" | "response.incomplete" => {
                deltas.push(Delta::Stop(read_stop(&data["response"])));
            }
            _ => {}
        }
        Ok(())
    }
}

/// Writes events: items one after the other.
pub(in crate::translate) struct Writing {
    origin: Origin,
    begun: bool,
    /// Items that are whole.
    items: Vec<Value>,
    /// The one that is not yet.
    open: Option<Said>,
    /// The number of the next event.
    number: u64,
}

// === impl Writing ===

impl Writing {
    pub(in crate::translate) fn new(origin: Origin) -> Self {
        Self { origin, begun: false, items: Vec::new(), open: None, number: 0 }
    }

    fn write(&mut self, out: &mut BytesMut, kind: &str, mut data: Value) {
        data["type"] = kind.into();
        data["sequence_number"] = self.number.into();
        self.number += 1;
        event(out, Some(kind), &data);
    }

    /// An event of the open item.
    fn write_of_item(&mut self, out: &mut BytesMut, kind: &str, mut data: Value) {
        let index = self.items.len();
        data["output_index"] = index.into();
        if let Some(said) = &self.open {
            data["item_id"] = item_id(said, index, &self.origin.id).into();
        }
        self.write(out, kind, data);
    }

    fn open(&mut self, out: &mut BytesMut, said: Said) {
        self.close(out);
        let index = self.items.len();
        let mut item = write_item(&said, index, &self.origin.id, "in_progress");
        for name in ["content", "summary"] {
            if item.get(name).is_some() {
                item[name] = json!([]);
            }
        }
        let is_text = matches!(said, Said::Text(_));
        let is_reasoning = matches!(said, Said::Reasoning(_));
        self.open = Some(said);
        self.write(out, "response.output_item.added", json!({ "output_index": index, "item": item }));
        if is_text {
            let part = json!({ "content_index": 0, "part": write_part("") });
            self.write_of_item(out, "response.content_part.added", part);
        } else if is_reasoning {
            let part = json!({ "summary_index": 0, "part": { "type": "summary_text", "text": "" } });
            self.write_of_item(out, "response.reasoning_summary_part.added", part);
        }
    }

    fn close(&mut self, out: &mut BytesMut) {
        let Some(said) = self.open.clone() else { return };
        match &said {
            Said::Text(text) => {
                let done = json!({ "content_index": 0, "text": text, "logprobs": [] });
                self.write_of_item(out, "response.output_text.done", done);
                let part = json!({ "content_index": 0, "part": write_part(text) });
                self.write_of_item(out, "response.content_part.done", part);
            }
            Said::Reasoning(text) => {
                let done = json!({ "summary_index": 0, "text": text });
                self.write_of_item(out, "response.reasoning_summary_text.done", done);
                let part = json!({ "summary_index": 0, "part": { "type": "summary_text", "text": text } });
                self.write_of_item(out, "response.reasoning_summary_part.done", part);
            }
            Said::Call(call) => {
                let done = json!({ "name": call.name, "arguments": call.arguments });
                self.write_of_item(out, "response.function_call_arguments.done", done);
            }
        }
        self.open = None;
        let index = self.items.len();
        let item = write_item(&said, index, &self.origin.id, "completed");
        self.items.push(item.clone());
        self.write(out, "response.output_item.done", json!({ "output_index": index, "item": item }));
    }
}

impl Writer for Writing {
    fn begin(&mut self, out: &mut BytesMut) {
        if self.begun {
            return;
        }
        self.begun = true;
        for kind in ["response.created", "response.in_progress"] {
            let begins = response(&self.origin, Vec::new(), None);
            self.write(out, kind, json!({ "response": begins }));
        }
    }

    fn delta(&mut self, delta: Delta, out: &mut BytesMut) {
        match delta {
            Delta::Text(more) => {
                if !matches!(self.open, Some(Said::Text(_))) {
                    self.open(out, Said::Text(String::new()));
                }
                if let Some(Said::Text(text)) = &mut self.open {
                    text.push_str(&more);
                }
                let piece = json!({ "content_index": 0, "delta": more, "logprobs": [] });
                self.write_of_item(out, "response.output_text.delta", piece);
            }
            Delta::Reasoning(more) => {
                if !matches!(self.open, Some(Said::Reasoning(_))) {
                    self.open(out, Said::Reasoning(String::new()));
                }
                if let Some(Said::Reasoning(text)) = &mut self.open {
                    text.push_str(&more);
                }
                let piece = json!({ "summary_index": 0, "delta": more });
                self.write_of_item(out, "response.reasoning_summary_text.delta", piece);
            }
            Delta::Call { id, name } => {
                self.open(out, Said::Call(Call { id, name, arguments: String::new() }));
            }
            Delta::Arguments(more) => {
                if let Some(Said::Call(call)) = &mut self.open {
                    call.arguments.push_str(&more);
                }
                self.write_of_item(out, "response.function_call_arguments.delta", json!({ "delta": more }));
            }
            Delta::Stop(_) => {}
        }
    }

    fn finish(&mut self, stop: Stop, tokens: Tokens, out: &mut BytesMut) {
        self.close(out);
        let ended = response(&self.origin, std::mem::take(&mut self.items), Some((stop, tokens)));
        let is_whole = ended["status"] == "completed";
        let kind = if is_whole { "response.completed" } else { "response.incomplete" };
        self.write(out, kind, json!({ "response": ended }));
    }
}
