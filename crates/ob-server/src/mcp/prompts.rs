//! Prompts: how a model drives sessions, in words that a person picks from a menu.

use ob_core::Refusal;
use rmcp::model::GetPromptResult;
use rmcp::model::JsonObject;
use rmcp::model::Prompt;
use rmcp::model::PromptArgument;
use rmcp::model::PromptMessage;
use rmcp::model::Role;
use serde_json::Value;

use crate::reply::short;

/// A prompt: name, title, description, arguments (name, description, required), text with `{name}` for each argument.
struct Row {
    name: &'static str,
    title: &'static str,
    description: &'static str,
    arguments: &'static [(&'static str, &'static str, bool)],
    text: &'static str,
}

const ROWS: &[Row] = &[
    Row {
        name: "delegate",
        title: "Give a task to an agent",
        description: "Start a session on a project, follow it to its end, and report what it changed.",
        arguments: &[
            ("task", "What the agent shall do.", true),
            ("project_id", "The project; it is looked for if this is left out.", false),
        ],
        text: "Give this task to an Oubliette agent and see it through.\n\nProject: {project_id}\nTask: {task}\n\n\
            1. If no project is named, list projects with the tool `project` and choose the one that fits; ask if it is not clear.\n\
            2. Start a session with the tool `session`, action `spawn`.\n\
            3. Read its events with action `events`, from `last_index` on and with `wait_ms` 30000, until it is completed, failed or waiting.\n\
            4. Read its changes with action `diff`, judge them, and report what was done, what was not, and what it cost.",
    },
    Row {
        name: "follow",
        title: "Follow a session",
        description: "Read what a session did and does, and sum it up.",
        arguments: &[("session_id", "The session.", true)],
        text: "Read the events of the Oubliette session {session_id} with the tool `session`, action `events`, to the last one. \
            Sum up in a few sentences: the task, what the agent did, where it stands, what went wrong, what it cost.",
    },
    Row {
        name: "review",
        title: "Review what a session changed",
        description: "Read a session's changes as a strict reviewer.",
        arguments: &[("session_id", "The session.", true)],
        text: "Read the changes of the Oubliette session {session_id} with the tool `session`, action `diff`, and its task with action `get`. \
            Review them strictly: does the patch do what was asked, all of it and nothing else; what is wrong, missing or risky? \
            End with a verdict: apply, apply with changes, or discard.",
    },
];

/// The most bytes of an argument.
const ARGUMENT_MAX: usize = 64 * 1024;

/// Every prompt.
pub(super) fn all() -> Vec<Prompt> {
    ROWS.iter()
        .map(|row| {
            let arguments = row.arguments.iter().map(|(name, description, required)| {
                PromptArgument::new(*name).with_description(*description).with_required(*required)
            });
            Prompt::new(row.name, Some(row.description), Some(arguments.collect())).with_title(row.title)
        })
        .collect()
}

/// A prompt with its arguments in place.
pub(super) fn get(name: &str, arguments: &JsonObject) -> Result<GetPromptResult, Refusal> {
    let row = ROWS.iter().find(|row| row.name == name).ok_or_else(|| {
        Refusal::invalid(format!("prompt `{}` not found", short(name))).fix("list them with `prompts/list`")
    })?;
    if let Some(unknown) = arguments.keys().find(|key| !row.arguments.iter().any(|(name, ..)| name == key)) {
        let unknown = short(unknown);
        return Err(Refusal::invalid(format!("unknown argument `{unknown}` of prompt `{name}`")));
    }
    let mut pieces = row.text.split('{');
    let mut text = pieces.next().unwrap_or_default().to_owned();
    // Each place is filled once, so an argument that holds braces stays as it is.
    for piece in pieces {
        let (place, rest) = piece.split_once('}').unwrap_or((piece, ""));
        let required = row.arguments.iter().any(|(name, _, required)| *name == place && *required);
        text.push_str(match arguments.get(place) {
            Some(Value::String(value)) if value.len() <= ARGUMENT_MAX => value,
            Some(Value::String(_)) => {
                return Err(Refusal::invalid(format!(
                    "argument `{place}` has more than {ARGUMENT_MAX} bytes"
                )));
            }
            Some(_) => return Err(Refusal::invalid(format!("argument `{place}` is not a text"))),
            None if required => return Err(Refusal::invalid(format!("argument `{place}` is required"))),
            None => "(not named)",
        });
        text.push_str(rest);
    }
    let mut result = GetPromptResult::new(vec![PromptMessage::new_text(Role::User, text)]);
    result.description = Some(row.description.to_owned());
    Ok(result)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn filled(name: &str, arguments: Value) -> Result<String, String> {
        let Value::Object(arguments) = arguments else { panic!("arguments are an object") };
        get(name, &arguments)
            .map(|result| {
                json!(result)["messages"][0]["content"]["text"].as_str().unwrap_or_default().to_owned()
            })
            .map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn every_place_is_an_argument_and_every_argument_has_its_place() {
        for row in ROWS {
            let places: Vec<_> = row.text.split(['{', '}']).skip(1).step_by(2).collect();
            for (name, ..) in row.arguments {
                assert!(places.contains(name), "{}: {name}", row.name);
            }
            assert_eq!(places.len(), row.arguments.len(), "{}", row.name);
        }
    }

    #[test]
    fn arguments_are_put_in_as_they_are() {
        let text = filled("delegate", json!({ "task": "write {project_id}" })).expect("a prompt");
        assert!(text.contains("Task: write {project_id}") && text.contains("Project: (not named)"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (name, arguments, expected) in [
            ("nothing", json!({}), "`nothing` not found"),
            ("review", json!({}), "`session_id` is required"),
            ("review", json!({ "session_id": 5 }), "not a text"),
            ("review", json!({ "session": "x" }), "unknown argument `session`"),
        ] {
            let refused = filled(name, arguments).expect_err(expected);
            assert!(refused.contains(expected), "{refused}");
        }
    }
}
