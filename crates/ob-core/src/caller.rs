//! Tools of callers: what the client that gives a session its tasks does for the session's agent when it is asked to.
//!
//! A client declares them when it starts a session or gives it a message. The agent is offered each as
//! `{caller_id}_{name}`; a call is a [question](crate::question) that the client answers.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::Serialize;
use serde_json::Map;
use serde_json::Value;

use crate::operation::Operation;
use crate::question::TIMEOUT_BOUNDS;
use crate::refusal::Refusal;

/// The most callers of one session.
const CALLERS_MAX: usize = 4;
/// The most tools of one caller.
const TOOLS_MAX: usize = 32;
/// The most bytes of a caller's id.
const CALLER_ID_MAX: usize = 32;
/// The most bytes of a tool's name as the agent is offered it: models take no longer ones.
const NAME_MAX: usize = 64;
/// The most bytes of what one caller's tools are described with.
const DESCRIBED_MAX: usize = 32 * 1024;
/// For how many seconds a call may be answered if its caller does not say.
const TIMEOUT_DEFAULT_S: u32 = 300;

/// A tool of a caller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CallerTool {
    /// Its name, letters, digits, `-` and `_`.
    pub name: String,
    /// What it is for, for the model.
    #[serde(default)]
    pub description: String,
    /// The JSON Schema of its arguments, an object.
    #[serde(default, alias = "inputSchema", alias = "parameters")]
    pub input_schema: Map<String, Value>,
    /// For how many seconds a call may be answered, 10 to 604800.
    #[serde(default = "timeout_default")]
    pub timeout_s: u32,
}

/// Who does something for a session's agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Caller {
    /// Its id, as it names itself.
    pub caller_id: String,
    /// What it does.
    pub tools: Vec<CallerTool>,
}

// === impl Caller ===

impl Caller {
    /// What a client declares; nothing if it names no tools.
    pub fn declared(caller_id: Option<String>, tools: Vec<CallerTool>) -> Result<Option<Self>, Refusal> {
        if tools.is_empty() {
            return Ok(None);
        }
        let caller_id = caller_id.ok_or_else(|| {
            Refusal::invalid("`caller_tools` without `caller_id`").fix("name yourself with `caller_id`")
        })?;
        let caller = Self { caller_id, tools };
        caller.check()?;
        Ok(Some(caller))
    }

    /// The name that the agent is offered a tool by.
    pub fn offered(&self, tool: &CallerTool) -> String {
        format!("{}_{}", self.caller_id, tool.name)
    }

    /// The tool that the agent calls by this name.
    pub fn tool(&self, offered: &str) -> Option<&CallerTool> {
        self.tools.iter().find(|tool| self.offered(tool) == offered)
    }

    fn check(&self) -> Result<(), Refusal> {
        if self.caller_id.len() > CALLER_ID_MAX || !is_name(&self.caller_id) {
            return Err(Refusal::invalid("the `caller_id` is not one")
                .fix("use 1 to 32 letters, digits, `-` and `_`"));
        }
        if self.tools.len() > TOOLS_MAX {
            return Err(Refusal::invalid(format!("a caller with {} tools", self.tools.len()))
                .fix("declare at most 32"));
        }
        let mut described = 0;
        for tool in &self.tools {
            let offered = self.offered(tool);
            if !is_name(&tool.name) || offered.len() > NAME_MAX {
                let name: String = tool.name.chars().take(NAME_MAX).collect();
                return Err(Refusal::invalid(format!("`{name}` is no name of a caller's tool"))
                    .fix("use letters, digits, `-` and `_`, with the `caller_id` at most 63"));
            }
            if Operation::ALL.iter().any(|operation| operation.spec().tool == offered) {
                return Err(Refusal::invalid(format!("`{offered}` is a tool of the session already"))
                    .fix("use another `caller_id`"));
            }
            if !TIMEOUT_BOUNDS.contains(&tool.timeout_s) {
                return Err(Refusal::invalid(format!("timeout_s {} is out of bounds", tool.timeout_s))
                    .fix("use 10 to 604800"));
            }
            let kind = tool.input_schema.get("type");
            if kind.is_some_and(|kind| kind != "object") {
                return Err(Refusal::invalid(format!("the arguments of `{offered}` are no object"))
                    .fix("use a JSON Schema with `\"type\": \"object\"`"));
            }
            described += tool.description.len() + Value::Object(tool.input_schema.clone()).to_string().len();
        }
        if described > DESCRIBED_MAX {
            return Err(Refusal::invalid(format!("the caller's tools are described in {described} bytes"))
                .fix("use at most 32 KiB"));
        }
        Ok(())
    }
}

/// The callers of a session once this one is among them, in the place of what it declared before.
pub fn with(callers: &[Caller], new: Caller) -> Result<Vec<Caller>, Refusal> {
    let mut all: Vec<_> = callers.iter().filter(|known| known.caller_id != new.caller_id).cloned().collect();
    if all.len() >= CALLERS_MAX {
        return Err(Refusal::conflict(format!("the session has {} callers", all.len()))
            .fix("use the `caller_id` of one of them"));
    }
    all.push(new);
    let mut names = BTreeSet::new();
    let offered = all.iter().flat_map(|caller| caller.tools.iter().map(|tool| caller.offered(tool)));
    for name in offered {
        if names.contains(&name) {
            return Err(Refusal::conflict(format!("the session has two tools `{name}`"))
                .fix("give them different names"));
        }
        names.insert(name);
    }
    Ok(all)
}

const fn timeout_default() -> u32 {
    TIMEOUT_DEFAULT_S
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tool(value: Value) -> CallerTool {
        let mut tool = json!({ "name": "look_up" });
        tool.as_object_mut().expect("an object").extend(value.as_object().expect("an object").clone());
        serde_json::from_value(tool).expect("a tool")
    }

    fn declared(id: &str, tools: Vec<CallerTool>) -> Result<Option<Caller>, Refusal> {
        Caller::declared(Some(id.to_owned()), tools)
    }

    #[test]
    fn a_tool_is_offered_under_its_callers_name() {
        let schema = json!({ "type": "object", "properties": { "id": { "type": "string" } } });
        let crm =
            declared("crm", vec![tool(json!({ "inputSchema": schema }))]).expect("right").expect("some");
        assert_eq!(crm.offered(&crm.tools[0]), "crm_look_up");
        assert_eq!(crm.tool("crm_look_up"), Some(&crm.tools[0]));
        assert_eq!(crm.tool("look_up"), None);
        assert_eq!(Value::Object(crm.tools[0].input_schema.clone()), schema);
        assert_eq!(declared("crm", Vec::new()), Ok(None), "who names no tools declares none");
    }

    #[test]
    fn what_is_wrong_with_a_declaration_is_told() {
        let long = "x".repeat(NAME_MAX);
        for (id, tools) in [
            ("", vec![tool(json!({}))]),
            ("a b", vec![tool(json!({}))]),
            (&long, vec![tool(json!({}))]),
            ("crm", vec![tool(json!({ "name": "" }))]),
            ("crm", vec![tool(json!({ "name": "a.b" }))]),
            ("crm", vec![tool(json!({ "name": long }))]),
            ("config", vec![tool(json!({ "name": "limits" }))]),
            ("crm", vec![tool(json!({ "timeout_s": 9 }))]),
            ("crm", vec![tool(json!({ "input_schema": { "type": "string" } }))]),
            ("crm", vec![tool(json!({ "description": "x".repeat(DESCRIBED_MAX) }))]),
            ("crm", vec![tool(json!({})); TOOLS_MAX + 1]),
        ] {
            assert!(declared(id, tools).is_err_and(|refusal| refusal.fix.is_some()), "{id}");
        }
        assert!(Caller::declared(None, vec![tool(json!({}))]).is_err());
    }

    #[test]
    fn a_caller_replaces_what_it_declared_and_no_two_tools_have_one_name() {
        let caller = |id: &str, name: &str| {
            declared(id, vec![tool(json!({ "name": name }))]).expect("right").expect("some")
        };
        let one = with(&[], caller("a", "b_c")).expect("the first");
        assert!(with(&one, caller("a_b", "c")).is_err(), "`a_b_c` is both");
        assert_eq!(with(&one, caller("a", "d")), Ok(vec![caller("a", "d")]));
        let twice =
            declared("a", vec![tool(json!({})), tool(json!({}))]).expect("each is right").expect("some");
        assert!(with(&[], twice).is_err());
        let mut all = one;
        for id in ["e", "f", "g"] {
            all = with(&all, caller(id, "x")).expect("there is room");
        }
        assert!(with(&all, caller("h", "x")).is_err(), "one too many");
    }
}
