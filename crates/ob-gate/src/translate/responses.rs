//! OpenAI's responses, to and from the hub: requests here, answers beside.
//!
//! A conversation is a flat list of items there: what the model said and each of its calls are items of their own.

use serde_json::Value;
use serde_json::json;

use super::Untranslatable;
use super::chat;
use super::hub::Call;
use super::hub::CallResult;
use super::hub::Choice;
use super::hub::Format;
use super::hub::Part;
use super::hub::Request;
use super::hub::Said;
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
use super::json::no_kind;
use super::json::number;
use super::json::object;
use super::json::put;
use super::json::text;
use super::json::text_field;
use super::json::text_if;
use super::json::whole;

mod answer;

pub(super) use answer::Events;
pub(super) use answer::Writing;
pub(super) use answer::read_answer;
pub(super) use answer::write_answer;

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
    for (index, tool) in list_if(fields, "tools", "tools")?.iter().enumerate() {
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
