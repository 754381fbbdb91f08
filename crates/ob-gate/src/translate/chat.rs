//! OpenAI's chat completions, to and from the hub: requests here, answers beside.

use serde_json::Value;
use serde_json::json;

use super::Untranslatable;
use super::hub::Call;
use super::hub::CallResult;
use super::hub::Choice;
use super::hub::Format;
use super::hub::Part;
use super::hub::Reply;
use super::hub::Request;
use super::hub::Said;
use super::hub::Stop;
use super::hub::Tool;
use super::hub::Turn;
use super::hub::data_url;
use super::json::Fields;
use super::json::field;
use super::json::flag;
use super::json::kind;
use super::json::known;
use super::json::list;
use super::json::list_if;
use super::json::no;
use super::json::no_counterpart;
use super::json::no_kind;
use super::json::number;
use super::json::object;
use super::json::put;
use super::json::text;
use super::json::text_field;
use super::json::text_if;
use super::json::texts;
use super::json::whole;
use crate::refuse::repeated;

mod answer;

pub(super) use answer::Chunks;
pub(super) use answer::Events;
pub(super) use answer::read_answer;
pub(super) use answer::write_answer;

const CARRIED: [&str; 15] = [
    "model",
    "messages",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "stop",
    "stream",
    "stream_options",
    "reasoning_effort",
    "response_format",
    "n",
];
/// They tune, or speak of caches, of billing and of who asks.
const LEFT_OUT: [&str; 13] = [
    "user",
    "metadata",
    "store",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "verbosity",
    "modalities",
    "top_k",
];

pub(super) fn read_request(value: &Value) -> Result<Request, Untranslatable> {
    let fields = object(value, "the body")?;
    known(fields, "", &CARRIED, &LEFT_OUT)?;
    if whole(fields, "n")?.is_some_and(|choices| choices != 1) {
        return Err(no("n", "has no counterpart; other wires give one answer"));
    }
    let max_output = match whole(fields, "max_completion_tokens")? {
        Some(most) => Some(most),
        None => whole(fields, "max_tokens")?,
    };
    let options = field(fields, "stream_options").and_then(|options| options.get("include_usage"));
    let mut request = Request {
        choice: field(fields, "tool_choice").map(read_choice).transpose()?,
        parallel: flag(fields, "parallel_tool_calls")?,
        max_output,
        temperature: number(fields, "temperature")?,
        top_p: number(fields, "top_p")?,
        stop: texts(fields, "stop")?,
        effort: text_if(fields, "reasoning_effort", "")?.map(str::to_owned),
        format: field(fields, "response_format").map(read_format).transpose()?.flatten(),
        stream: flag(fields, "stream")?.unwrap_or(false),
        wants_usage: options == Some(&Value::Bool(true)),
        ..Request::default()
    };
    for (index, tool) in list_if(fields, "tools", "tools")?.iter().enumerate() {
        let at = format!("tools[{index}]");
        let tool = object(tool, &at)?;
        if kind(tool) != "function" {
            return Err(no_kind(&at, kind(tool)));
        }
        let function = object(tool.get("function").unwrap_or(&Value::Null), &at)?;
        request.tools.push(read_tool(function, &at)?);
    }
    let messages = field(fields, "messages").ok_or_else(|| no("messages", "is missing"))?;
    for (index, message) in list(messages, "messages")?.iter().enumerate() {
        let at = format!("messages[{index}]");
        read_message(object(message, &at)?, &at, &mut request)?;
    }
    Ok(request)
}

/// A tool, whose fields are the same in OpenAI's two wires.
pub(super) fn read_tool(function: &Fields, at: &str) -> Result<Tool, Untranslatable> {
    Ok(Tool {
        name: text_field(function, "name", at)?.to_owned(),
        description: text_if(function, "description", at)?.map(str::to_owned),
        parameters: field(function, "parameters").cloned().unwrap_or_else(no_parameters),
        strict: flag(function, "strict")?,
    })
}

/// The schema of a tool that takes nothing.
pub(super) fn no_parameters() -> Value {
    json!({ "type": "object", "properties": {} })
}

fn read_choice(choice: &Value) -> Result<Choice, Untranslatable> {
    match choice {
        Value::String(word) => choice_word(word),
        choice => {
            let choice = object(choice, "tool_choice")?;
            match (kind(choice), choice.get("function")) {
                ("function", Some(function)) => {
                    let function = object(function, "tool_choice.function")?;
                    Ok(Choice::Named(text_field(function, "name", "tool_choice.function")?.to_owned()))
                }
                (other, _) => Err(no_kind("tool_choice", other)),
            }
        }
    }
}

/// A choice as one word, in OpenAI's two wires.
pub(super) fn choice_word(word: &str) -> Result<Choice, Untranslatable> {
    match word {
        "auto" => Ok(Choice::Auto),
        "none" => Ok(Choice::None),
        "required" => Ok(Choice::Required),
        _ => Err(no("tool_choice", "is none of `auto`, `none` and `required`")),
    }
}

fn read_format(format: &Value) -> Result<Option<Format>, Untranslatable> {
    let format = object(format, "response_format")?;
    match kind(format) {
        "text" => Ok(None),
        "json_object" => Ok(Some(Format::Json)),
        "json_schema" => {
            const AT: &str = "response_format.json_schema";
            let schema = object(format.get("json_schema").unwrap_or(&Value::Null), AT)?;
            read_schema(schema, AT).map(Some)
        }
        other => Err(no_kind("response_format", other)),
    }
}

/// A schema of the answer, whose fields are the same in OpenAI's two wires.
pub(super) fn read_schema(fields: &Fields, at: &str) -> Result<Format, Untranslatable> {
    Ok(Format::Schema {
        name: text_if(fields, "name", at)?.unwrap_or("answer").to_owned(),
        schema: field(fields, "schema").cloned().ok_or_else(|| no(at, "has no `schema`"))?,
        strict: flag(fields, "strict")?,
    })
}

fn read_message(message: &Fields, at: &str, request: &mut Request) -> Result<(), Untranslatable> {
    let content = field(message, "content");
    match message.get("role").and_then(Value::as_str).unwrap_or_default() {
        "system" | "developer" => {
            let parts = content.map_or(Ok(Vec::new()), |content| read_parts(content, at))?;
            request.system.push(Part::text_of(&parts));
        }
        "user" => {
            let parts = content.map_or(Ok(Vec::new()), |content| read_parts(content, at))?;
            request.push(Turn::User(parts));
        }
        "assistant" => {
            let parts = content.map_or(Ok(Vec::new()), |content| read_parts(content, at))?;
            let mut said = Vec::new();
            for part in parts {
                match part {
                    Part::Text(text) => said.push(Said::Text(text)),
                    Part::Image { .. } => return Err(no_kind(at, "image")),
                }
            }
            let calls = list_if(message, "tool_calls", at)?;
            for call in calls {
                let call = object(call, at)?;
                if !matches!(kind(call), "function" | "") {
                    return Err(no_kind(at, kind(call)));
                }
                let function = object(call.get("function").unwrap_or(&Value::Null), at)?;
                said.push(Said::Call(Call {
                    id: text_field(call, "id", at)?.to_owned(),
                    name: text_field(function, "name", at)?.to_owned(),
                    arguments: text_if(function, "arguments", at)?.unwrap_or_default().to_owned(),
                }));
            }
            if field(message, "function_call").is_some() {
                return Err(no_counterpart(&format!("{at}.function_call")));
            }
            request.push(Turn::Assistant(said));
        }
        "tool" => {
            let content = content.map_or(Ok(Vec::new()), |content| read_parts(content, at))?;
            let call = text_field(message, "tool_call_id", at)?.to_owned();
            request.push(Turn::Result(CallResult { call, content, is_error: false }));
        }
        other => {
            return Err(no(at, format!("has the role `{}`, which has no counterpart", repeated(other, 40))));
        }
    }
    Ok(())
}

fn read_parts(content: &Value, at: &str) -> Result<Vec<Part>, Untranslatable> {
    if let Value::String(text) = content {
        return Ok(if text.is_empty() { Vec::new() } else { vec![Part::Text(text.clone())] });
    }
    let mut parts = Vec::new();
    for part in list(content, at)? {
        let part = object(part, at)?;
        match kind(part) {
            "text" => parts.push(Part::Text(text_field(part, "text", at)?.to_owned())),
            "refusal" => parts.push(Part::Text(text_field(part, "refusal", at)?.to_owned())),
            "image_url" => {
                let image = part.get("image_url").unwrap_or(&Value::Null);
                let url = text(image.get("url").unwrap_or(image), at)?;
                parts.push(
                    Part::from_data_url(url).ok_or_else(|| no(at, "holds an image that is not in it"))?,
                );
            }
            other => return Err(no_kind(at, other)),
        }
    }
    Ok(parts)
}

pub(super) fn write_request(request: &Request) -> Result<Value, Untranslatable> {
    let mut messages = Vec::new();
    for text in &request.system {
        messages.push(json!({ "role": "system", "content": text }));
    }
    let mut turns = request.turns.iter().peekable();
    // Results have no images here: they follow as what the user says.
    let mut images: Vec<Part> = Vec::new();
    while let Some(turn) = turns.next() {
        match turn {
            Turn::User(parts) => messages.push(json!({ "role": "user", "content": write_parts(parts) })),
            Turn::Assistant(said) => messages.extend(write_said(said)),
            Turn::Result(result) => {
                let content = Part::text_of(&result.content);
                messages.push(json!({ "role": "tool", "tool_call_id": result.call, "content": content }));
                let is_image = |part: &&Part| matches!(part, Part::Image { .. });
                images.extend(result.content.iter().filter(is_image).cloned());
                if !images.is_empty() && !matches!(turns.peek(), Some(Turn::Result(_))) {
                    messages.push(json!({ "role": "user", "content": write_parts(&images) }));
                    images.clear();
                }
            }
        }
    }
    let mut written = json!({ "messages": messages, "stream": request.stream });
    if !request.tools.is_empty() {
        let function = |tool: &Tool| json!({ "type": "function", "function": write_tool(tool) });
        written["tools"] = request.tools.iter().map(function).collect();
    }
    put(
        &mut written,
        "tool_choice",
        request.choice.as_ref().map(|choice| match choice {
            Choice::Named(name) => json!({ "type": "function", "function": { "name": name } }),
            other => write_choice_word(other).into(),
        }),
    );
    put(&mut written, "parallel_tool_calls", request.parallel.filter(|_| !request.tools.is_empty()));
    put(&mut written, "max_tokens", request.max_output);
    put(&mut written, "temperature", request.temperature.clone().map(Value::Number));
    put(&mut written, "top_p", request.top_p.clone().map(Value::Number));
    put(&mut written, "stop", (!request.stop.is_empty()).then(|| request.stop.clone()));
    put(&mut written, "reasoning_effort", request.effort.clone());
    put(
        &mut written,
        "response_format",
        request.format.as_ref().map(|format| match format {
            Format::Json => json!({ "type": "json_object" }),
            schema => json!({ "type": "json_schema", "json_schema": write_schema(schema) }),
        }),
    );
    Ok(written)
}

/// A tool, whose fields are the same in OpenAI's two wires.
pub(super) fn write_tool(tool: &Tool) -> Value {
    let mut written = json!({ "name": tool.name, "parameters": tool.parameters });
    put(&mut written, "description", tool.description.clone());
    put(&mut written, "strict", tool.strict);
    written
}

pub(super) fn write_choice_word(choice: &Choice) -> &'static str {
    match choice {
        Choice::None => "none",
        Choice::Required => "required",
        Choice::Auto | Choice::Named(_) => "auto",
    }
}

pub(super) fn write_schema(format: &Format) -> Value {
    let Format::Schema { name, schema, strict } = format else { return Value::Null };
    let mut written = json!({ "name": name, "schema": schema });
    put(&mut written, "strict", *strict);
    written
}

fn write_parts(parts: &[Part]) -> Value {
    if let [Part::Text(text)] = parts {
        return text.clone().into();
    }
    let write = |part: &Part| match part {
        Part::Text(text) => json!({ "type": "text", "text": text }),
        Part::Image { media_type, data } => {
            json!({ "type": "image_url", "image_url": { "url": data_url(media_type, data) } })
        }
    };
    parts.iter().map(write).collect()
}

/// The message of a turn; nothing if there is nothing in it that a provider is given back.
fn write_said(said: &[Said]) -> Option<Value> {
    let given_back = said.iter().filter(|said| !matches!(said, Said::Reasoning(_))).cloned().collect();
    let reply = Reply { said: given_back, stop: Stop::End };
    let message = write_message(&reply);
    (message["content"].is_string() || reply.has_calls()).then_some(message)
}

fn write_message(reply: &Reply) -> Value {
    let (text, reasoning) = (reply.text(), reply.reasoning());
    let mut message = json!({ "role": "assistant", "content": (!text.is_empty()).then_some(text) });
    put(&mut message, "reasoning_content", (!reasoning.is_empty()).then_some(reasoning));
    let write = |call: &Call| json!({ "id": call.id, "type": "function", "function": { "name": call.name, "arguments": call.arguments } });
    if reply.has_calls() {
        message["tool_calls"] = reply.calls().map(write).collect();
    }
    message
}
