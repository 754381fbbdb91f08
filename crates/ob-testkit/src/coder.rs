//! A model that does a fixed list of commands with whatever shell an agent offers, in whatever wire the agent speaks. It
//! remembers nothing: how far the work is stands in the conversation. So one server serves many agents.

use serde_json::Value;
use serde_json::json;

use crate::model_server::Answer;
use crate::model_server::Recorded;
use crate::wires::Offered;
use crate::wires::Wire;

/// Names of the tools with which agents run commands.
const SHELLS: [&str; 8] =
    ["run", "bash", "Bash", "exec_command", "shell_command", "shell", "run_shell_command", "terminal"];
/// What it says where there is no shell: agents ask for titles and summaries on the side.
const ASIDE: &str = "A title";

/// The list.
#[derive(Clone, Debug)]
pub struct Coder {
    /// Commands, one for each answer.
    pub commands: Vec<String>,
    /// The last words.
    pub done: String,
}

// === impl Coder ===

impl Coder {
    /// Does these commands, then says this.
    pub fn new(commands: &[&str], done: &str) -> Self {
        Self {
            commands: commands.iter().map(|command| (*command).to_owned()).collect(),
            done: done.to_owned(),
        }
    }

    /// The answer to a request.
    pub fn answer(&self, request: &Recorded) -> Answer {
        let wire = Wire::of(&request.path);
        if request.path.contains("count_tokens") {
            return Answer::status(200, r#"{"input_tokens": 10}"#);
        }
        if request.path.contains(":countTokens") {
            return Answer::status(200, r#"{"totalTokens": 10}"#);
        }
        let Some(shell) = Self::shell(request) else { return Answer::text(ASIDE) };
        match self.commands.get(wire.calls_before(&request.body)) {
            Some(command) => Answer::tool(&shell.name, arguments(&shell.schema, command)),
            None => Answer::text(&self.done),
        }
    }

    /// The tool of a request that runs commands; nothing for a request on the side.
    pub fn shell(request: &Recorded) -> Option<Offered> {
        let offered = Wire::of(&request.path).offered(&request.body);
        offered.into_iter().find(|tool| SHELLS.contains(&tool.name.as_str()))
    }
}

/// The command as the tool wants it, with something for whatever else it insists on.
fn arguments(schema: &Value, command: &str) -> Value {
    let name = if schema["properties"]["cmd"].is_object() { "cmd" } else { "command" };
    let takes_words =
        schema["properties"][name]["type"].as_str().is_some_and(|t| t.eq_ignore_ascii_case("array"));
    let mut arguments = json!({});
    arguments[name] = if takes_words { json!(["bash", "-c", command]) } else { command.into() };
    for required in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if arguments[required].is_null() {
            let kind =
                schema["properties"][required]["type"].as_str().unwrap_or("string").to_ascii_lowercase();
            arguments[required] = match kind.as_str() {
                "boolean" => false.into(),
                "integer" | "number" => 60_000.into(),
                _ => "a step of the work".into(),
            };
        }
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_fits_every_shell() {
        let words = json!({ "properties": { "command": { "type": "array" } }, "required": ["command"] });
        assert_eq!(arguments(&words, "ls"), json!({ "command": ["bash", "-c", "ls"] }));
        let with_more = json!({
            "properties": { "command": { "type": "string" }, "description": { "type": "string" } },
            "required": ["command", "description"],
        });
        assert_eq!(
            arguments(&with_more, "ls"),
            json!({ "command": "ls", "description": "a step of the work" })
        );
        let short = json!({ "properties": { "cmd": { "type": "string" } }, "required": ["cmd"] });
        assert_eq!(arguments(&short, "ls"), json!({ "cmd": "ls" }));
    }
}
