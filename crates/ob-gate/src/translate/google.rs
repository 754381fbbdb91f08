//! Google's `generateContent`, to and from the hub: requests here, answers beside.
//!
//! Calls and their results belong together by name there, and by an id only if one was given: where it is missing, one is
//! made from the order of the calls.

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
use super::json::known;
use super::json::list;
use super::json::list_if;
use super::json::no;
use super::json::no_counterpart;
use super::json::number;
use super::json::object;
use super::json::put;
use super::json::text_field;
use super::json::text_if;
use super::json::texts;
use super::json::whole;

mod answer;

pub(super) use answer::Chunks;
pub(super) use answer::Events;
pub(super) use answer::read_answer;
pub(super) use answer::write_answer;

const CARRIED: [&str; 6] =
    ["contents", "systemInstruction", "system_instruction", "tools", "toolConfig", "generationConfig"];
/// They speak of who asks, of billing, and of filters that are the provider's own.
const LEFT_OUT: [&str; 3] = ["model", "safetySettings", "labels"];
const CONFIG_CARRIED: [&str; 8] = [
    "temperature",
    "topP",
    "maxOutputTokens",
    "stopSequences",
    "candidateCount",
    "responseMimeType",
    "responseSchema",
    "responseJsonSchema",
];
/// They tune.
const CONFIG_LEFT_OUT: [&str; 6] =
    ["topK", "seed", "thinkingConfig", "presencePenalty", "frequencyPenalty", "mediaResolution"];
/// Google's own word for a call whose thought signature is not there, since another model made it.
const NO_SIGNATURE: &str = "skip_thought_signature_validator";

/// Calls of which the result did not come yet: id and name.
#[derive(Default)]
struct Calls {
    open: Vec<(String, String)>,
    made: u64,
}

pub(super) fn read_request(value: &Value) -> Result<Request, Untranslatable> {
    let fields = object(value, "the body")?;
    known(fields, "", &CARRIED, &LEFT_OUT)?;
    let mut request = Request::default();
    if let Some(config) = field(fields, "generationConfig") {
        read_config(object(config, "generationConfig")?, &mut request)?;
    }
    for name in ["systemInstruction", "system_instruction"] {
        let Some(system) = field(fields, name) else { continue };
        for part in list(&system["parts"], name)? {
            request.system.push(text_field(object(part, name)?, "text", name)?.to_owned());
        }
    }
    for tool in list_if(fields, "tools", "tools")? {
        let tool = object(tool, "tools")?;
        known(tool, "tools", &["functionDeclarations", "function_declarations"], &[])?;
        for name in ["functionDeclarations", "function_declarations"] {
            let declared = list_if(tool, name, name)?;
            for function in declared {
                request.tools.push(read_tool(object(function, name)?, name)?);
            }
        }
    }
    if let Some(config) = field(fields, "toolConfig") {
        read_choice(object(config, "toolConfig")?, &mut request)?;
    }
    let contents = field(fields, "contents").ok_or_else(|| no("contents", "is missing"))?;
    let mut calls = Calls::default();
    for (index, content) in list(contents, "contents")?.iter().enumerate() {
        let at = format!("contents[{index}]");
        let content = object(content, &at)?;
        let parts = list(content.get("parts").unwrap_or(&Value::Null), &at)?;
        match content.get("role").and_then(Value::as_str).unwrap_or("user") {
            "user" | "function" => read_user(parts, &at, &mut calls, &mut request)?,
            "model" => read_model(parts, &at, &mut calls, &mut request)?,
            _ => return Err(no(&at, "has a role that is none of `user`, `model` and `function`")),
        }
    }
    Ok(request)
}

fn read_config(config: &Fields, request: &mut Request) -> Result<(), Untranslatable> {
    known(config, "generationConfig", &CONFIG_CARRIED, &CONFIG_LEFT_OUT)?;
    if whole(config, "candidateCount")?.is_some_and(|count| count != 1) {
        return Err(no("generationConfig.candidateCount", "has no counterpart; other wires give one answer"));
    }
    request.temperature = number(config, "temperature")?;
    request.top_p = number(config, "topP")?;
    request.max_output = whole(config, "maxOutputTokens")?;
    request.stop = texts(config, "stopSequences")?;
    let schema = field(config, "responseJsonSchema").cloned();
    let schema = schema.or_else(|| field(config, "responseSchema").map(lower));
    request.format = match (text_if(config, "responseMimeType", "generationConfig")?, schema) {
        (None | Some("text/plain"), None) => None,
        (Some("application/json"), None) => Some(Format::Json),
        (None | Some("application/json"), Some(schema)) => {
            Some(Format::Schema { name: "answer".to_owned(), schema, strict: None })
        }
        _ => return Err(no_counterpart("generationConfig.responseMimeType")),
    };
    Ok(())
}

fn read_tool(function: &Fields, at: &str) -> Result<Tool, Untranslatable> {
    let schema = field(function, "parametersJsonSchema").cloned();
    let schema = schema.or_else(|| field(function, "parameters").map(lower));
    Ok(Tool {
        name: text_field(function, "name", at)?.to_owned(),
        description: text_if(function, "description", at)?.map(str::to_owned),
        parameters: schema.unwrap_or_else(no_parameters),
        strict: None,
    })
}

/// A schema as others write it: the names of types in lower case.
fn lower(schema: &Value) -> Value {
    match schema {
        Value::Object(fields) => Value::Object(
            fields
                .iter()
                .map(|(name, value)| match value {
                    Value::String(kind) if name == "type" => (name.clone(), kind.to_ascii_lowercase().into()),
                    value => (name.clone(), lower(value)),
                })
                .collect(),
        ),
        Value::Array(items) => items.iter().map(lower).collect(),
        value => value.clone(),
    }
}

fn read_choice(config: &Fields, request: &mut Request) -> Result<(), Untranslatable> {
    const AT: &str = "toolConfig.functionCallingConfig";
    known(config, "toolConfig", &["functionCallingConfig"], &[])?;
    let Some(calling) = field(config, "functionCallingConfig") else { return Ok(()) };
    let calling = object(calling, AT)?;
    let allowed = texts(calling, "allowedFunctionNames")?;
    request.choice = match (text_if(calling, "mode", AT)?.unwrap_or("AUTO"), allowed.as_slice()) {
        ("AUTO" | "MODE_UNSPECIFIED", []) => Some(Choice::Auto),
        ("NONE", _) => Some(Choice::None),
        ("ANY", []) => Some(Choice::Required),
        ("ANY", [name]) => Some(Choice::Named(name.clone())),
        _ => return Err(no_counterpart(AT)),
    };
    Ok(())
}

fn read_user(
    parts: &[Value],
    at: &str,
    calls: &mut Calls,
    request: &mut Request,
) -> Result<(), Untranslatable> {
    let mut said = Vec::new();
    for part in parts {
        let part = object(part, at)?;
        let Some(response) = field(part, "functionResponse") else {
            said.push(read_part(part, at)?);
            continue;
        };
        if !said.is_empty() {
            request.push(Turn::User(std::mem::take(&mut said)));
        }
        let response = object(response, at)?;
        if field(response, "parts").is_some() {
            return Err(no_counterpart(&format!("{at}.functionResponse.parts")));
        }
        let name = text_field(response, "name", at)?;
        let id = text_if(response, "id", at)?;
        let call = calls.answered(id, name).ok_or_else(|| no(at, "answers a call that was not made"))?;
        let (text, is_error) = match field(response, "response") {
            None => (String::new(), false),
            Some(Value::Object(fields)) if fields.len() == 1 => {
                match (fields.get("output"), fields.get("error")) {
                    (Some(Value::String(text)), _) => (text.clone(), false),
                    (_, Some(Value::String(text))) => (text.clone(), true),
                    _ => (Value::Object(fields.clone()).to_string(), false),
                }
            }
            Some(value) => (value.to_string(), false),
        };
        let content = if text.is_empty() { Vec::new() } else { vec![Part::Text(text)] };
        request.push(Turn::Result(CallResult { call, content, is_error }));
    }
    if !said.is_empty() {
        request.push(Turn::User(said));
    }
    Ok(())
}

fn read_part(part: &Fields, at: &str) -> Result<Part, Untranslatable> {
    if let Some(data) = field(part, "inlineData") {
        let data = object(data, at)?;
        let media_type = text_field(data, "mimeType", at)?.to_owned();
        if !media_type.starts_with("image/") {
            return Err(no(at, "holds data that is no image, which has no counterpart"));
        }
        return Ok(Part::Image { media_type, data: text_field(data, "data", at)?.to_owned() });
    }
    match field(part, "text") {
        Some(_) => Ok(Part::Text(text_field(part, "text", at)?.to_owned())),
        None => Err(no(at, "holds a part that is no text, image or result, which has no counterpart")),
    }
}

fn read_model(
    parts: &[Value],
    at: &str,
    calls: &mut Calls,
    request: &mut Request,
) -> Result<(), Untranslatable> {
    let mut said = Vec::new();
    for part in parts {
        let part = object(part, at)?;
        if let Some(call) = field(part, "functionCall") {
            let call = object(call, at)?;
            let name = text_field(call, "name", at)?.to_owned();
            let id = calls.made(text_if(call, "id", at)?, &name);
            let arguments = field(call, "args").map_or_else(|| "{}".to_owned(), Value::to_string);
            said.push(Said::Call(Call { id, name, arguments }));
        } else if part.get("thought") == Some(&Value::Bool(true)) {
            // Thinking is not given back.
        } else if field(part, "text").is_some() {
            said.push(Said::Text(text_field(part, "text", at)?.to_owned()));
        } else if part.keys().any(|name| name != "thoughtSignature") {
            return Err(no(at, "holds a part that is no text and no call, which has no counterpart"));
        }
    }
    request.push(Turn::Assistant(said));
    Ok(())
}

// === impl Calls ===

impl Calls {
    fn made(&mut self, id: Option<&str>, name: &str) -> String {
        let id = id.map_or_else(|| format!("call_{}", self.made), str::to_owned);
        self.made += 1;
        self.open.push((id.clone(), name.to_owned()));
        id
    }

    /// The call that a result belongs to: that of its id, else the first of its name.
    fn answered(&mut self, id: Option<&str>, name: &str) -> Option<String> {
        let by_id = self.open.iter().position(|(open, _)| id == Some(open.as_str()));
        let found = by_id.or_else(|| self.open.iter().position(|(_, called)| called == name))?;
        Some(self.open.remove(found).0)
    }
}

pub(super) fn write_request(request: &Request) -> Result<Value, Untranslatable> {
    let mut contents: Vec<Value> = Vec::new();
    let mut were_results = false;
    for turn in &request.turns {
        let is_result = matches!(turn, Turn::Result(_));
        let (role, parts) = match turn {
            Turn::User(parts) => ("user", parts.iter().filter_map(write_part).collect()),
            Turn::Assistant(said) => ("model", write_said(said)),
            Turn::Result(result) => ("user", write_result(result, request)?),
        };
        match contents.last_mut().filter(|_| is_result && were_results) {
            // The results of one turn's calls belong into one content.
            Some(last) => {
                if let Some(all) = last["parts"].as_array_mut() {
                    all.extend(parts);
                }
            }
            None if parts.is_empty() => {}
            None => contents.push(json!({ "role": role, "parts": parts })),
        }
        were_results = is_result;
    }
    let mut written = json!({ "contents": contents });
    if !request.system.is_empty() {
        let parts: Vec<Value> = request.system.iter().map(|text| json!({ "text": text })).collect();
        written["systemInstruction"] = json!({ "parts": parts });
    }
    if !request.tools.is_empty() {
        let declarations: Vec<Value> = request.tools.iter().map(write_tool).collect();
        written["tools"] = json!([{ "functionDeclarations": declarations }]);
        put(
            &mut written,
            "toolConfig",
            request.choice.as_ref().map(|choice| {
                let calling = match choice {
                    Choice::Auto => json!({ "mode": "AUTO" }),
                    Choice::None => json!({ "mode": "NONE" }),
                    Choice::Required => json!({ "mode": "ANY" }),
                    Choice::Named(name) => json!({ "mode": "ANY", "allowedFunctionNames": [name] }),
                };
                json!({ "functionCallingConfig": calling })
            }),
        );
    }
    let mut config = json!({});
    put(&mut config, "temperature", request.temperature.clone().map(Value::Number));
    put(&mut config, "topP", request.top_p.clone().map(Value::Number));
    put(&mut config, "maxOutputTokens", request.max_output);
    put(&mut config, "stopSequences", (!request.stop.is_empty()).then(|| request.stop.clone()));
    if let Some(format) = &request.format {
        config["responseMimeType"] = "application/json".into();
        if let Format::Schema { schema, .. } = format {
            config["responseJsonSchema"] = schema.clone();
        }
    }
    written["generationConfig"] = config;
    Ok(written)
}

fn write_tool(tool: &Tool) -> Value {
    let mut written = json!({ "name": tool.name, "parametersJsonSchema": tool.parameters });
    put(&mut written, "description", tool.description.clone());
    written
}

fn write_part(part: &Part) -> Option<Value> {
    match part {
        Part::Text(text) if text.is_empty() => None,
        Part::Text(text) => Some(json!({ "text": text })),
        Part::Image { media_type, data } => {
            Some(json!({ "inlineData": { "mimeType": media_type, "data": data } }))
        }
    }
}

fn write_said(said: &[Said]) -> Vec<Value> {
    let mut parts = Vec::new();
    let mut calls = 0;
    for said in said {
        match said {
            Said::Text(text) if !text.is_empty() => parts.push(json!({ "text": text })),
            Said::Text(_) | Said::Reasoning(_) => {}
            Said::Call(call) => {
                let mut part =
                    json!({ "functionCall": { "id": call.id, "name": call.name, "args": call.input() } });
                // The first call of a turn must have one.
                put(&mut part, "thoughtSignature", (calls == 0).then_some(NO_SIGNATURE));
                calls += 1;
                parts.push(part);
            }
        }
    }
    parts
}

/// A result, and its images behind it.
fn write_result(result: &CallResult, request: &Request) -> Result<Vec<Value>, Untranslatable> {
    let name = request.name_of(&result.call).ok_or_else(|| {
        no("messages", "hold a result of a call that was not made, and its name is not known")
    })?;
    let field = if result.is_error { "error" } else { "output" };
    let response = json!({ field: Part::text_of(&result.content) });
    let mut parts =
        vec![json!({ "functionResponse": { "id": result.call, "name": name, "response": response } })];
    let is_image = |part: &&Part| matches!(part, Part::Image { .. });
    parts.extend(result.content.iter().filter(is_image).filter_map(write_part));
    Ok(parts)
}
