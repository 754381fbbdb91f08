//! Anthropic's messages, to and from the hub: requests here, answers beside.
//!
//! Thinking is not given back to a provider: its signature has no place in other wires. So a request that comes from another
//! wire does not ask for thinking, and thinking that an agent sends is left out.

use serde_json::Value;
use serde_json::json;

use super::Untranslatable;
use super::chat::no_parameters;
use super::hub::Call;
use super::hub::CallResult;
use super::hub::Choice;
use super::hub::Format;
use super::hub::Part;
use super::hub::Request;
use super::hub::Said;
use super::hub::Tool;
use super::hub::Turn;
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
use super::json::text_field;
use super::json::text_if;
use super::json::texts;
use super::json::whole;

mod answer;

pub(super) use answer::Events;
pub(super) use answer::Writing;
pub(super) use answer::read_answer;
pub(super) use answer::write_answer;

const CARRIED: [&str; 11] = [
    "model",
    "messages",
    "system",
    "tools",
    "tool_choice",
    "max_tokens",
    "temperature",
    "top_p",
    "stop_sequences",
    "stream",
    "output_config",
];
/// They tune, or speak of caches, of billing and of who asks.
const LEFT_OUT: [&str; 8] = [
    "top_k",
    "metadata",
    "service_tier",
    "thinking",
    "context_management",
    "betas",
    "cache_control",
    "inference_geo",
];

pub(super) fn read_request(value: &Value) -> Result<Request, Untranslatable> {
    let fields = object(value, "the body")?;
    known(fields, "", &CARRIED, &LEFT_OUT)?;
    let mut request = Request {
        max_output: whole(fields, "max_tokens")?,
        temperature: number(fields, "temperature")?,
        top_p: number(fields, "top_p")?,
        stop: texts(fields, "stop_sequences")?,
        stream: flag(fields, "stream")?.unwrap_or(false),
        ..Request::default()
    };
    if let Some(system) = field(fields, "system") {
        request.system = text_blocks(system, "system")?;
    }
    if let Some(choice) = field(fields, "tool_choice") {
        read_choice(object(choice, "tool_choice")?, &mut request)?;
    }
    if let Some(config) = field(fields, "output_config") {
        let config = object(config, "output_config")?;
        known(config, "output_config", &["effort", "format"], &["task_budget"])?;
        let effort = text_if(config, "effort", "output_config")?;
        // OpenAI's word for the most is another.
        request.effort = effort.map(|effort| if effort == "max" { "high" } else { effort }.to_owned());
        request.format = field(config, "format").map(read_format).transpose()?;
    }
    for (index, tool) in list_if(fields, "tools", "tools")?.iter().enumerate() {
        let at = format!("tools[{index}]");
        let tool = object(tool, &at)?;
        if !matches!(kind(tool), "" | "custom") {
            return Err(no_kind(&at, kind(tool)));
        }
        request.tools.push(Tool {
            name: text_field(tool, "name", &at)?.to_owned(),
            description: text_if(tool, "description", &at)?.map(str::to_owned),
            parameters: field(tool, "input_schema").cloned().unwrap_or_else(no_parameters),
            strict: flag(tool, "strict")?,
        });
    }
    let messages = field(fields, "messages").ok_or_else(|| no("messages", "is missing"))?;
    for (index, message) in list(messages, "messages")?.iter().enumerate() {
        let at = format!("messages[{index}]");
        let message = object(message, &at)?;
        let content = field(message, "content").ok_or_else(|| no(&at, "has no `content`"))?;
        match message.get("role").and_then(Value::as_str).unwrap_or_default() {
            "user" => read_user(content, &at, &mut request)?,
            "assistant" => read_assistant(content, &at, &mut request)?,
            "system" => request.system.extend(text_blocks(content, &at)?),
            _ => return Err(no(&at, "has a role that is none of `user`, `assistant` and `system`")),
        }
    }
    Ok(request)
}

fn read_choice(choice: &Fields, request: &mut Request) -> Result<(), Untranslatable> {
    request.choice = Some(match kind(choice) {
        "auto" => Choice::Auto,
        "any" => Choice::Required,
        "none" => Choice::None,
        "tool" => Choice::Named(text_field(choice, "name", "tool_choice")?.to_owned()),
        other => return Err(no_kind("tool_choice", other)),
    });
    request.parallel = flag(choice, "disable_parallel_tool_use")?.map(|disabled| !disabled);
    Ok(())
}

fn read_format(format: &Value) -> Result<Format, Untranslatable> {
    const AT: &str = "output_config.format";
    let format = object(format, AT)?;
    match kind(format) {
        "json_schema" => super::chat::read_schema(format, AT),
        other => Err(no_kind(AT, other)),
    }
}

/// A text, or blocks of text.
fn text_blocks(value: &Value, at: &str) -> Result<Vec<String>, Untranslatable> {
    if let Value::String(text) = value {
        return Ok(vec![text.clone()]);
    }
    let read = |block: &Value| {
        let block = object(block, at)?;
        match kind(block) {
            "text" => Ok(text_field(block, "text", at)?.to_owned()),
            other => Err(no_kind(at, other)),
        }
    };
    list(value, at)?.iter().map(read).collect()
}

/// What a user says, and the results of tools that stand among it.
fn read_user(content: &Value, at: &str, request: &mut Request) -> Result<(), Untranslatable> {
    let mut parts = Vec::new();
    if let Value::String(text) = content {
        parts.push(Part::Text(text.clone()));
    } else {
        for block in list(content, at)? {
            let block = object(block, at)?;
            if kind(block) != "tool_result" {
                parts.push(read_part(block, at)?);
                continue;
            }
            if !parts.is_empty() {
                request.push(Turn::User(std::mem::take(&mut parts)));
            }
            let content = match field(block, "content") {
                None => Vec::new(),
                Some(Value::String(text)) => vec![Part::Text(text.clone())],
                Some(blocks) => {
                    let read = |block: &Value| read_part(object(block, at)?, at);
                    list(blocks, at)?.iter().map(read).collect::<Result<_, _>>()?
                }
            };
            request.push(Turn::Result(CallResult {
                call: text_field(block, "tool_use_id", at)?.to_owned(),
                content,
                is_error: flag(block, "is_error")?.unwrap_or(false),
            }));
        }
    }
    if !parts.is_empty() {
        request.push(Turn::User(parts));
    }
    Ok(())
}

fn read_part(block: &Fields, at: &str) -> Result<Part, Untranslatable> {
    match kind(block) {
        "text" => Ok(Part::Text(text_field(block, "text", at)?.to_owned())),
        "image" => {
            let source = object(block.get("source").unwrap_or(&Value::Null), at)?;
            if kind(source) != "base64" {
                return Err(no(at, "holds an image that is not in it"));
            }
            Ok(Part::Image {
                media_type: text_field(source, "media_type", at)?.to_owned(),
                data: text_field(source, "data", at)?.to_owned(),
            })
        }
        other => Err(no_kind(at, other)),
    }
}

fn read_assistant(content: &Value, at: &str, request: &mut Request) -> Result<(), Untranslatable> {
    let mut said = Vec::new();
    if let Value::String(text) = content {
        said.push(Said::Text(text.clone()));
    } else {
        for block in list(content, at)? {
            let block = object(block, at)?;
            match kind(block) {
                "text" => said.push(Said::Text(text_field(block, "text", at)?.to_owned())),
                "tool_use" => said.push(Said::Call(Call {
                    id: text_field(block, "id", at)?.to_owned(),
                    name: text_field(block, "name", at)?.to_owned(),
                    arguments: block.get("input").map(Value::to_string).unwrap_or_default(),
                })),
                "thinking" | "redacted_thinking" => {}
                other => return Err(no_kind(at, other)),
            }
        }
    }
    request.push(Turn::Assistant(said));
    Ok(())
}

pub(super) fn write_request(request: &Request) -> Result<Value, Untranslatable> {
    let mut messages: Vec<Value> = Vec::new();
    for turn in &request.turns {
        let (role, blocks) = match turn {
            Turn::User(parts) => ("user", write_parts(parts)),
            Turn::Assistant(said) => ("assistant", said.iter().filter_map(write_said).collect()),
            Turn::Result(result) => {
                let mut block = json!({
                    "type": "tool_result", "tool_use_id": result.call, "content": write_parts(&result.content),
                });
                put(&mut block, "is_error", result.is_error.then_some(true));
                ("user", vec![block])
            }
        };
        match messages.last_mut().filter(|last| last["role"] == role) {
            // The results of one turn's calls belong into one message, and what the user adds to them too.
            Some(last) => {
                if let Some(all) = last["content"].as_array_mut() {
                    all.extend(blocks);
                }
            }
            None if blocks.is_empty() => {}
            None => messages.push(json!({ "role": role, "content": blocks })),
        }
    }
    let mut written = json!({ "messages": messages, "stream": request.stream });
    let system: Vec<Value> = request
        .system
        .iter()
        .filter(|text| !text.is_empty())
        .map(|text| json!({ "type": "text", "text": text }))
        .collect();
    put(&mut written, "system", (!system.is_empty()).then_some(system));
    if !request.tools.is_empty() {
        written["tools"] = request.tools.iter().map(write_tool).collect();
    }
    put(&mut written, "tool_choice", write_choice(request));
    put(&mut written, "max_tokens", request.max_output);
    put(&mut written, "temperature", request.temperature.as_ref().map(bounded));
    // Its newest models take one of the two.
    let top_p = request.top_p.clone().filter(|_| request.temperature.is_none());
    put(&mut written, "top_p", top_p.map(Value::Number));
    let stop: Vec<&String> = request.stop.iter().filter(|text| !text.trim().is_empty()).collect();
    put(&mut written, "stop_sequences", (!stop.is_empty()).then(|| json!(stop)));
    match &request.format {
        None => {}
        Some(Format::Schema { schema, .. }) => {
            written["output_config"] = json!({ "format": { "type": "json_schema", "schema": schema } });
        }
        Some(Format::Json) => {
            return Err(no("response_format", "asks for JSON without a schema, which has no counterpart"));
        }
    }
    Ok(written)
}

/// Others go up to 2.
fn bounded(temperature: &serde_json::Number) -> Value {
    match temperature.as_f64() {
        Some(high) if high > 1.0 => json!(1),
        _ => Value::Number(temperature.clone()),
    }
}

fn write_tool(tool: &Tool) -> Value {
    let mut written = json!({ "name": tool.name, "input_schema": tool.parameters });
    put(&mut written, "description", tool.description.clone());
    put(&mut written, "strict", tool.strict);
    written
}

fn write_choice(request: &Request) -> Option<Value> {
    if request.tools.is_empty() || (request.choice.is_none() && request.parallel.is_none()) {
        return None;
    }
    let mut choice = match request.choice.as_ref().unwrap_or(&Choice::Auto) {
        Choice::Auto => json!({ "type": "auto" }),
        Choice::None => return Some(json!({ "type": "none" })),
        Choice::Required => json!({ "type": "any" }),
        Choice::Named(name) => json!({ "type": "tool", "name": name }),
    };
    put(&mut choice, "disable_parallel_tool_use", request.parallel.map(|parallel| !parallel));
    Some(choice)
}

/// Blocks; one without a text would be refused.
fn write_parts(parts: &[Part]) -> Vec<Value> {
    let write = |part: &Part| match part {
        Part::Text(text) if text.is_empty() => None,
        Part::Text(text) => Some(json!({ "type": "text", "text": text })),
        Part::Image { media_type, data } => Some(json!({
            "type": "image", "source": { "type": "base64", "media_type": media_type, "data": data },
        })),
    };
    parts.iter().filter_map(write).collect()
}

fn write_said(said: &Said) -> Option<Value> {
    match said {
        Said::Text(text) if text.is_empty() => None,
        Said::Text(text) => Some(json!({ "type": "text", "text": text })),
        Said::Reasoning(_) => None,
        Said::Call(call) => {
            Some(json!({ "type": "tool_use", "id": call.id, "name": call.name, "input": call.input() }))
        }
    }
}
