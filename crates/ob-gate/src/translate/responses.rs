//! OpenAI's responses, to and from the hub.
//!
//! A conversation is a flat list of items there: what the model said and each of its calls are items of their own.

use bytes::BytesMut;
use ob_core::model::Tokens;
use serde_json::Value;
use serde_json::json;

use super::Broken;
use super::Origin;
use super::Reader;
use super::Untranslatable;
use super::Writer;
use super::chat;
use super::hub::Call;
use super::hub::CallResult;
use super::hub::Choice;
use super::hub::Delta;
use super::hub::Format;
use super::hub::Part;
use super::hub::Reply;
use super::hub::Request;
use super::hub::Said;
use super::hub::Stop;
use super::hub::Turn;
use super::hub::data_url;
use super::json::Fields;
use super::json::event;
use super::json::field;
use super::json::flag;
use super::json::kind;
use super::json::known;
use super::json::list;
use super::json::no;
use super::json::no_kind;
use super::json::number;
use super::json::object;
use super::json::put;
use super::json::text;
use super::json::text_field;
use super::json::text_if;
use super::json::whole;

const CARRIED: [&str; 12] = [
    "model",
    "input",
    "instructions",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "max_output_tokens",
    "temperature",
    "top_p",
    "stream",
    "reasoning",
    "text",
];
/// They tune, or speak of caches, of billing, of what is kept and of who asks.
const LEFT_OUT: [&str; 13] = [
    "store",
    "include",
    "metadata",
    "client_metadata",
    "user",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "truncation",
    "stream_options",
    "top_logprobs",
    "background",
];

// Requests.

pub(super) fn read_request(value: &Value) -> Result<Request, Untranslatable> {
    let fields = object(value, "the body")?;
    known(fields, "", &CARRIED, &LEFT_OUT)?;
    if flag(fields, "background")? == Some(true) {
        return Err(no("background", "has no counterpart"));
    }
    let mut request = Request {
        choice: field(fields, "tool_choice").map(read_choice).transpose()?,
        parallel: flag(fields, "parallel_tool_calls")?,
        max_output: whole(fields, "max_output_tokens")?,
        temperature: number(fields, "temperature")?,
        top_p: number(fields, "top_p")?,
        stream: flag(fields, "stream")?.unwrap_or(false),
        ..Request::default()
    };
    if let Some(reasoning) = field(fields, "reasoning") {
        let reasoning = object(reasoning, "reasoning")?;
        request.effort = text_if(reasoning, "effort", "reasoning")?.map(str::to_owned);
    }
    if let Some(format) = field(fields, "text").and_then(|text| text.get("format")) {
        let format = object(format, "text.format")?;
        request.format = match kind(format) {
            "text" => None,
            "json_object" => Some(Format::Json),
            "json_schema" => Some(chat::read_schema(format, "text.format")?),
            other => return Err(no_kind("text.format", other)),
        };
    }
    for (index, tool) in
        field(fields, "tools").map_or(Ok(&[][..]), |tools| list(tools, "tools"))?.iter().enumerate()
    {
        let at = format!("tools[{index}]");
        let tool = object(tool, &at)?;
        match kind(tool) {
            "function" => request.tools.push(chat::read_tool(tool, &at)?),
            other => return Err(no_kind(&at, other)),
        }
    }
    request.system.extend(text_if(fields, "instructions", "")?.map(str::to_owned));
    match field(fields, "input") {
        None => return Err(no("input", "is missing")),
        Some(Value::String(said)) => request.push(Turn::User(vec![Part::Text(said.clone())])),
        Some(items) => {
            for (index, item) in list(items, "input")?.iter().enumerate() {
                let at = format!("input[{index}]");
                read_item(object(item, &at)?, &at, &mut request)?;
            }
        }
    }
    Ok(request)
}

fn read_choice(choice: &Value) -> Result<Choice, Untranslatable> {
    if let Value::String(word) = choice {
        return chat::choice_word(word);
    }
    let choice = object(choice, "tool_choice")?;
    match kind(choice) {
        "function" => Ok(Choice::Named(text_field(choice, "name", "tool_choice")?.to_owned())),
        other => Err(no_kind("tool_choice", other)),
    }
}

fn read_item(item: &Fields, at: &str, request: &mut Request) -> Result<(), Untranslatable> {
    match kind(item) {
        "" | "message" => {
            let content = field(item, "content").ok_or_else(|| no(at, "has no `content`"))?;
            let parts = read_parts(content, at)?;
            match item.get("role").and_then(Value::as_str).unwrap_or_default() {
                "user" => request.push(Turn::User(parts)),
                "system" | "developer" => request.system.push(Part::text_of(&parts)),
                "assistant" => {
                    let text = Part::text_of(&parts);
                    request.push(Turn::Assistant(if text.is_empty() {
                        Vec::new()
                    } else {
                        vec![Said::Text(text)]
                    }));
                }
                _ => {
                    return Err(no(
                        at,
                        "has a role that is none of `user`, `assistant`, `system` and `developer`",
                    ));
                }
            }
        }
        "function_call" => request.push(Turn::Assistant(vec![Said::Call(Call {
            id: text_field(item, "call_id", at)?.to_owned(),
            name: text_field(item, "name", at)?.to_owned(),
            arguments: text_if(item, "arguments", at)?.unwrap_or_default().to_owned(),
        })])),
        "function_call_output" => {
            let content = field(item, "output").map_or(Ok(Vec::new()), |output| read_parts(output, at))?;
            let call = text_field(item, "call_id", at)?.to_owned();
            request.push(Turn::Result(CallResult { call, content, is_error: false }));
        }
        // Its words are for people, and its contents for its own provider.
        "reasoning" => {}
        other => return Err(no_kind(at, other)),
    }
    Ok(())
}

fn read_parts(content: &Value, at: &str) -> Result<Vec<Part>, Untranslatable> {
    if let Value::String(text) = content {
        return Ok(if text.is_empty() { Vec::new() } else { vec![Part::Text(text.clone())] });
    }
    let read = |part: &Value| {
        let part = object(part, at)?;
        match kind(part) {
            "input_text" | "output_text" | "text" => Ok(Part::Text(text_field(part, "text", at)?.to_owned())),
            "refusal" => Ok(Part::Text(text_field(part, "refusal", at)?.to_owned())),
            "input_image" => {
                let url = text(part.get("image_url").unwrap_or(&Value::Null), at)?;
                Part::from_data_url(url).ok_or_else(|| no(at, "holds an image that is not in it"))
            }
            other => Err(no_kind(at, other)),
        }
    };
    list(content, at)?.iter().map(read).collect()
}

pub(super) fn write_request(request: &Request) -> Result<Value, Untranslatable> {
    if !request.stop.is_empty() {
        return Err(no("stop", "has no counterpart"));
    }
    let mut input = Vec::new();
    for turn in &request.turns {
        match turn {
            Turn::User(parts) => {
                input.push(json!({ "type": "message", "role": "user", "content": write_parts(parts) }));
            }
            Turn::Assistant(said) => input.extend(said.iter().filter_map(write_said)),
            Turn::Result(result) => input.push(json!({
                "type": "function_call_output", "call_id": result.call, "output": write_output(&result.content),
            })),
        }
    }
    // Nothing is to be kept there: the agent sends the whole conversation each time.
    let mut written = json!({ "input": input, "stream": request.stream, "store": false });
    put(&mut written, "instructions", (!request.system.is_empty()).then(|| request.system.join("\n\n")));
    if !request.tools.is_empty() {
        let write = |tool| {
            let mut written = chat::write_tool(tool);
            written["type"] = "function".into();
            // Without it, this wire holds a tool to its schema, which others do not.
            written["strict"] = tool.strict.unwrap_or(false).into();
            written
        };
        written["tools"] = request.tools.iter().map(write).collect();
    }
    put(
        &mut written,
        "tool_choice",
        request.choice.as_ref().map(|choice| match choice {
            Choice::Named(name) => json!({ "type": "function", "name": name }),
            other => chat::write_choice_word(other).into(),
        }),
    );
    put(&mut written, "parallel_tool_calls", request.parallel);
    put(&mut written, "max_output_tokens", request.max_output);
    put(&mut written, "temperature", request.temperature.clone().map(Value::Number));
    put(&mut written, "top_p", request.top_p.clone().map(Value::Number));
    put(&mut written, "reasoning", request.effort.as_ref().map(|effort| json!({ "effort": effort })));
    put(
        &mut written,
        "text",
        request.format.as_ref().map(|format| {
            let mut schema = chat::write_schema(format);
            match format {
                Format::Json => json!({ "format": { "type": "json_object" } }),
                Format::Schema { .. } => {
                    schema["type"] = "json_schema".into();
                    json!({ "format": schema })
                }
            }
        }),
    );
    Ok(written)
}

fn write_parts(parts: &[Part]) -> Value {
    let write = |part: &Part| match part {
        Part::Text(text) => json!({ "type": "input_text", "text": text }),
        Part::Image { media_type, data } => {
            json!({ "type": "input_image", "image_url": data_url(media_type, data) })
        }
    };
    parts.iter().map(write).collect()
}

fn write_output(content: &[Part]) -> Value {
    match content {
        [] => "".into(),
        [Part::Text(text)] => text.clone().into(),
        parts => write_parts(parts),
    }
}

fn write_said(said: &Said) -> Option<Value> {
    match said {
        Said::Text(text) if text.is_empty() => None,
        Said::Text(text) => Some(json!({
            "type": "message", "role": "assistant", "content": [{ "type": "output_text", "text": text }],
        })),
        Said::Reasoning(_) => None,
        Said::Call(call) => Some(json!({
            "type": "function_call", "call_id": call.id, "name": call.name, "arguments": call.arguments,
        })),
    }
}

// Answers.

pub(super) fn read_answer(value: &Value) -> Result<Reply, Broken> {
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

pub(super) fn write_answer(reply: &Reply, origin: &Origin, tokens: Tokens) -> Value {
    let items =
        reply.said.iter().enumerate().map(|(index, said)| write_item(said, index, &origin.id, "completed"));
    response(origin, items.collect(), Some((reply.stop, tokens)))
}

fn write_item(said: &Said, index: usize, id: &str, status: &str) -> Value {
    match said {
        Said::Text(text) => json!({
            "id": format!("msg_{id}_{index}"), "type": "message", "role": "assistant", "status": status,
            "content": [write_part(text)],
        }),
        Said::Reasoning(text) => json!({
            "id": format!("rs_{id}_{index}"), "type": "reasoning",
            "summary": [{ "type": "summary_text", "text": text }],
        }),
        Said::Call(call) => json!({
            "id": format!("fc_{id}_{index}"), "type": "function_call", "status": status, "call_id": call.id,
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

// Streams.

/// Reads events.
#[derive(Default)]
pub(super) struct Events {
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
pub(super) struct Writing {
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
    pub(super) fn new(origin: Origin) -> Self {
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
            data["item_id"] = write_item(said, index, &self.origin.id, "in_progress")["id"].clone();
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
