//! What a request may not ask of a provider: to reach out for the sandbox.
//!
//! A provider that fetches an address, searches the web, runs code or calls an MCP server does it with what the agent
//! wrote, so each of these is a second way out of the sandbox (invariant 3, `one_way_out`). They are refused by name, as is
//! what the provider keeps for the account (files, caches), since nobody here knows whose it is, and what costs more than
//! the model's price says. Only the places that a provider looks at are looked at: the arguments of a tool may hold any
//! address.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::fields::Fields;
use crate::refuse::GateRefusal;
use crate::refuse::repeated;

/// How deep contents may lie in contents: an image in a document in a result of a tool is 7 deep.
const MAX_DEPTH: usize = 8;
/// Tools of OpenAI that the agent itself carries out.
const OPENAI_TOOLS: [&str; 5] = ["function", "custom", "local_shell", "apply_patch", "computer_use_preview"];
/// Beginnings of the names of Anthropic's tools that the agent itself carries out.
const ANTHROPIC_TOOLS: [&str; 5] = ["bash_", "text_editor_", "computer_", "memory_", "tool_search_tool_"];

/// The places of a content in which something else can be named, in any wire.
#[derive(Deserialize)]
struct Content<'a> {
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    output: Option<&'a RawValue>,
    #[serde(borrow, default)]
    parts: Option<&'a RawValue>,
    #[serde(borrow, default)]
    source: Option<&'a RawValue>,
    #[serde(borrow, default, alias = "functionResponse")]
    function_response: Option<&'a RawValue>,
    #[serde(borrow, default)]
    image_url: Option<&'a RawValue>,
    #[serde(borrow, default)]
    file_url: Option<&'a RawValue>,
    #[serde(borrow, default)]
    url: Option<&'a RawValue>,
    #[serde(borrow, default, alias = "fileUri")]
    file_uri: Option<&'a RawValue>,
    #[serde(borrow, default)]
    file: Option<&'a RawValue>,
    #[serde(borrow, default, alias = "fileData")]
    file_data: Option<&'a RawValue>,
    #[serde(borrow, default, alias = "fileId")]
    file_id: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Tool<'a> {
    #[serde(borrow, rename = "type", default)]
    kind: Option<Cow<'a, str>>,
}

pub(super) fn chat(fields: &Fields, messages: &[&RawValue]) -> Result<(), GateRefusal> {
    without(fields, &["web_search_options"])?;
    plain_price(fields)?;
    tools(fields, |kind| OPENAI_TOOLS.contains(&kind.unwrap_or("function")))?;
    contents("messages", messages)
}

pub(super) fn responses(fields: &Fields, input: &[&RawValue]) -> Result<(), GateRefusal> {
    plain_price(fields)?;
    tools(fields, |kind| OPENAI_TOOLS.contains(&kind.unwrap_or_default()))?;
    contents("input", input)
}

pub(super) fn messages(fields: &Fields, messages: &[&RawValue]) -> Result<(), GateRefusal> {
    without(fields, &["mcp_servers", "container"])?;
    plain_price(fields)?;
    tools(fields, |kind| {
        kind.is_none_or(|kind| {
            kind == "custom" || ANTHROPIC_TOOLS.iter().any(|beginning| kind.starts_with(beginning))
        })
    })?;
    contents("system", fields.raw("system").as_slice())?;
    contents("messages", messages)
}

pub(super) fn google(fields: &Fields, list: &[&RawValue]) -> Result<(), GateRefusal> {
    without(fields, &["cachedContent", "cached_content"])?;
    let tools: Vec<BTreeMap<String, IgnoredAny>> =
        fields.get("tools", "a list of objects")?.unwrap_or_default();
    for name in tools.iter().flat_map(BTreeMap::keys) {
        if !matches!(name.as_str(), "functionDeclarations" | "function_declarations") {
            return Err(hosted(name));
        }
    }
    for name in ["systemInstruction", "system_instruction"] {
        contents(name, fields.raw(name).as_slice())?;
    }
    contents("contents", list)
}

/// Refuses fields that lead out.
fn without(fields: &Fields, names: &[&'static str]) -> Result<(), GateRefusal> {
    for name in names {
        if fields.has(name) {
            let what = format!("`{name}` makes the provider reach out of the sandbox");
            return Err(GateRefusal::invalid(Some(name), what, "leave it out: the gate is the only way out"));
        }
    }
    Ok(())
}

/// Refuses what is faster and costs more than the model's price.
fn plain_price(fields: &Fields) -> Result<(), GateRefusal> {
    for (name, dear) in [("service_tier", "priority"), ("speed", "fast")] {
        if fields.get::<Cow<'_, str>>(name, "a text")?.is_some_and(|asked| asked == dear) {
            let what = format!("`{name}` `{dear}` costs more than the price of the model");
            return Err(GateRefusal::invalid(Some(name), what, "leave it out"));
        }
    }
    Ok(())
}

fn tools(fields: &Fields, is_ours: impl Fn(Option<&str>) -> bool) -> Result<(), GateRefusal> {
    let tools: Vec<Tool<'_>> = fields.get("tools", "a list of tools")?.unwrap_or_default();
    match tools.iter().find(|tool| !is_ours(tool.kind.as_deref())) {
        Some(tool) => Err(hosted(tool.kind.as_deref().unwrap_or("without a type"))),
        None => Ok(()),
    }
}

fn hosted(name: &str) -> GateRefusal {
    let name = repeated(name, 60);
    let what = format!("the tool `{name}` is carried out by the provider, outside of the sandbox");
    GateRefusal::invalid(
        Some("tools"),
        what,
        "switch it off in the agent's settings; the gate is the only way out",
    )
}

fn contents(place: &'static str, items: &[&RawValue]) -> Result<(), GateRefusal> {
    items.iter().try_for_each(|item| content(place, item, 0))
}

fn content(place: &'static str, value: &RawValue, depth: usize) -> Result<(), GateRefusal> {
    let malformed = |_| {
        let what = format!("`{place}` holds a content that is malformed");
        GateRefusal::invalid(Some(place), what, "send each field once, and of its type")
    };
    if depth > MAX_DEPTH {
        let what = format!("`{place}` holds contents that lie too deep in each other");
        return Err(GateRefusal::invalid(Some(place), what, "nest them less"));
    }
    match value.get().as_bytes().first() {
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(value.get()).map_err(malformed)?;
            items.iter().try_for_each(|item| content(place, item, depth + 1))
        }
        Some(b'{') => {
            let found: Content<'_> = serde_json::from_str(value.get()).map_err(malformed)?;
            found.addresses(place)?;
            let deeper = [
                found.content,
                found.output,
                found.parts,
                found.source,
                found.function_response,
                found.file,
                found.file_data,
                found.image_url,
            ];
            deeper.into_iter().flatten().try_for_each(|value| content(place, value, depth + 1))
        }
        _ => Ok(()),
    }
}

// === impl Content ===

impl Content<'_> {
    /// Refuses an address that the provider would fetch, and a file that it keeps.
    fn addresses(&self, place: &'static str) -> Result<(), GateRefusal> {
        for value in [self.image_url, self.file_url, self.url, self.file_uri].into_iter().flatten() {
            // An image's address may be wrapped in an object, which is looked at in its turn.
            let Ok(address) = serde_json::from_str::<Cow<'_, str>>(value.get()) else { continue };
            let scheme: String = address.trim_start().chars().take(5).collect();
            if !scheme.eq_ignore_ascii_case("data:") {
                let what = format!("`{place}` holds an address that the provider would fetch");
                let fix = "send what is there as base64: the gate is the only way out";
                return Err(GateRefusal::invalid(Some(place), what, fix));
            }
        }
        if self.file_id.is_some_and(|id| id.get() != "null") {
            let what = format!("`{place}` holds a file that the provider keeps");
            return Err(GateRefusal::invalid(Some(place), what, "send the file itself"));
        }
        Ok(())
    }
}
