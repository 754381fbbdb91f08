//! Tools from the operation table: what is advertised, and what a call's arguments mean.
//!
//! A tool of the table with several operations takes `action`. Names of parameters are those of the operation, but for
//! the few in [`NAMES`], which clients have always used.

use std::borrow::Cow;
use std::sync::LazyLock;

use ob_core::Principal;
use ob_core::Refusal;
use ob_core::authorize::may_ever;
use ob_core::caller::Caller as ToolsOf;
use ob_core::operation::Access;
use ob_core::operation::Operation;
use rmcp::model::JsonObject;
use rmcp::model::Tool;
use rmcp::model::ToolAnnotations;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use super::Caller;
use super::schema;
use super::schema::Parameter;
use crate::reply::short;

/// Parameters whose name for clients is not the operation's: operation, its name, the name for clients. Both are taken.
const NAMES: &[(Operation, &str, &str)] = &[
    (Operation::SessionEvents, "cursor", "since_index"),
    (Operation::SessionEvents, "limit", "max_events"),
    (Operation::TokenCreate, "expires_in_s", "expires_in"),
    (Operation::TokenRevoke, "token", "token_id"),
    (Operation::TokenInfo, "token", "token_id"),
];

/// Names that are accepted and not advertised, since older clients use them.
const ALSO: &[(&str, &str)] = &[("prompt", "message")];

/// What clients of tools have always meant by leaving a parameter out, where REST means the opposite: a spawn goes on
/// where work was.
const UNLESS_GIVEN: &[(Operation, &str, bool)] =
    &[(Operation::SessionSpawn, "create_workspace", false), (Operation::SessionSpawn, "new_session", false)];

/// What an agent means by leaving a parameter out: its child takes the place of a tool that it calls, and is gone with
/// its answer.
const INSIDE: &[(Operation, &str, bool)] =
    &[(Operation::SessionSpawn, "new_session", true), (Operation::SessionSpawn, "end_when_idle", true)];

/// What its tool is for, to an agent in a sandbox.
const ABOUT_INSIDE: &str = "\
Sessions below yours: other agents that work for you, each in a sandbox, in your workspace or with `create_workspace` in one of \
their own. Start one with `spawn` and say in `message` all that it has to know; `project_id` is yours and may be left out. \
With `wait_ms` the answer has what came of it in `result`; as long as that says that it is not `done`, ask again with `result`. \
How many you may start says `config_limits`, with your own `session_id`.";

/// Not advertised: agents are offered the tools of their callers under their own names, and call them by these.
const HIDDEN: &str = "caller_tool";

/// Tools in words: name, title, what it is for.
const TITLES: &[(&str, &str, &str)] = &[
    (
        "project",
        "Projects",
        "Projects: where agents work. Each has a source folder, a default model and limits.",
    ),
    (
        "workspace",
        "Workspaces",
        "Workspaces of a project: each is one working directory, shared by the sessions in it.",
    ),
    (
        "session",
        "Sessions",
        "Sessions: conversations with AI agents that work unattended, each in a sandbox. Start one with `spawn`, \
         which goes on in the newest session of the workspace unless `new_session` is true; talk to it with `message`, by \
         `session_id`, or by `project_id` as in `spawn`; read what happens with `events` (go on from `last_index`; `wait_ms` waits), see its changes with `diff`.",
    ),
    (
        "caller_tool_response",
        "Answer a tool call",
        "The answer to a `caller_tool_request` event: an agent calls a tool that you declared with `caller_tools`. Its `request_id` \
         is in the event's `data`.",
    ),
    (
        "ask",
        "Ask a person",
        "A question to the people that you work for. The answer is in `outcome`. As long as there is no `outcome`, nobody has answered: \
         call again with the same `question` to wait on, or end your turn, and the answer comes as your next message. Ask only what you \
         can not find out or decide yourself.",
    ),
    (
        "config_limits",
        "Limits",
        "What a project's sessions may use, or what a session's tree may and has used: give `project_id` or `session_id`.",
    ),
    (
        "agent",
        "Agents",
        "Agents: who can work in sessions. `list` names those that `session spawn` takes; `check` says what one can be told.",
    ),
    (
        "model",
        "Models",
        "Models: what agents think with. `list` names those that `session spawn` takes; `check` calls one and says whether it works.",
    ),
    ("token", "Tokens", "Tokens: who may do what with this server."),
    ("audit", "Audit", "The audit: what was changed or refused, by whom, in which request."),
    ("server", "Server", "The server itself."),
];

/// A tool: its row of operations.
struct Row {
    name: &'static str,
    actions: Vec<Action>,
}

/// One operation as an action of its tool.
pub(super) struct Action {
    pub(super) operation: Operation,
    /// Its parameters, with their names for clients.
    parameters: Vec<(&'static str, Parameter)>,
}

/// Why a call is not one of an operation.
#[derive(Debug)]
pub(super) enum NoCall {
    /// There is no such tool.
    UnknownTool(String),
    /// Its arguments are not right.
    Refused(Refusal),
}

static ROWS: LazyLock<Vec<Row>> = LazyLock::new(|| {
    let mut rows: Vec<Row> = Vec::new();
    for operation in Operation::ALL {
        let action = Action::new(*operation);
        match rows.iter_mut().find(|row| row.name == operation.spec().tool) {
            Some(row) => row.actions.push(action),
            None => rows.push(Row { name: operation.spec().tool, actions: vec![action] }),
        }
    }
    rows
});

/// The tools that a principal can use, with the actions that it may ever do.
pub fn tools_of(principal: &Principal) -> Vec<Tool> {
    ROWS.iter().filter(|row| row.name != HIDDEN).filter_map(|row| row.tool(principal)).collect()
}

/// The same with the tools of an agent's callers.
pub(super) async fn offered(caller: &Caller) -> Result<Vec<Tool>, Refusal> {
    let mut tools = tools_of(&caller.asker.principal);
    if let Principal::Session { id, .. } = &caller.asker.principal {
        let own = json!({ "session_id": id });
        let mut view = caller.doors.call(&caller.asker, Operation::SessionGet, own).await?;
        let callers: Vec<ToolsOf> = serde_json::from_value(view["callers"].take()).unwrap_or_default();
        tools.extend(callers.iter().flat_map(of_caller));
    }
    Ok(tools)
}

fn of_caller(caller: &ToolsOf) -> impl Iterator<Item = Tool> {
    caller.tools.iter().map(|tool| {
        let mut schema = tool.input_schema.clone();
        schema.entry("type").or_insert_with(|| "object".into());
        Tool::new(caller.offered(tool), tool.description.clone(), schema)
    })
}

/// The operation that a call means, and its parameters under the operation's names.
pub(super) fn call(
    asker: &Principal,
    tool: &str,
    arguments: Option<JsonObject>,
) -> Result<(Operation, Value), NoCall> {
    let row = ROWS.iter().find(|row| row.name == tool);
    if row.is_none() && matches!(asker, Principal::Session { .. }) {
        let params = json!({ "tool": tool, "arguments": arguments.unwrap_or_default() });
        return Ok((Operation::CallerToolCall, params));
    }
    let row = row.ok_or_else(|| NoCall::UnknownTool(short(tool)))?;
    let mut arguments = arguments.unwrap_or_default();
    // Models write `null` for what they leave out.
    arguments.retain(|_, value| !value.is_null());
    let action = row.action(&mut arguments).map_err(NoCall::Refused)?;
    let mut params = action.params(arguments).map_err(NoCall::Refused)?;
    if let Principal::Session { project, .. } = asker {
        if action.operation == Operation::SessionSpawn {
            params.entry("project_id").or_insert_with(|| project.to_string().into());
        }
        for (_, name, value) in INSIDE.iter().filter(|(operation, ..)| *operation == action.operation) {
            params.entry(*name).or_insert_with(|| (*value).into());
        }
    }
    for (_, name, value) in UNLESS_GIVEN.iter().filter(|(operation, ..)| *operation == action.operation) {
        params.entry(*name).or_insert_with(|| (*value).into());
    }
    Ok((action.operation, Value::Object(params)))
}

// === impl Row ===

impl Row {
    fn tool(&self, principal: &Principal) -> Option<Tool> {
        let actions: Vec<&Action> =
            self.actions.iter().filter(|action| may_ever(principal, action.operation)).collect();
        if actions.is_empty() {
            return None;
        }
        let (title, about) = TITLES
            .iter()
            .find(|(name, ..)| *name == self.name)
            .map_or((self.name, ""), |(_, title, about)| (*title, *about));
        let is_inside = matches!(principal, Principal::Session { .. }) && self.name == "session";
        let about = if is_inside { ABOUT_INSIDE } else { about };
        let lines = actions.iter().map(|action| {
            let spec = action.operation.spec();
            format!("- `{}`: {}", spec.action, spec.doc.trim())
        });
        let description = std::iter::once(about.to_owned()).chain(lines).collect::<Vec<_>>().join("\n");
        let reads = actions.iter().all(|action| action.operation.spec().access == Access::Read);
        let annotations = ToolAnnotations::with_title(title)
            .read_only(reads)
            .destructive(actions.iter().any(|action| action.is_destructive()))
            .open_world(false);
        let tool = Tool::new(self.name, Cow::Owned(description), input_schema(&actions, self.is_single()));
        Some(tool.with_title(title).with_annotations(annotations))
    }

    /// True if it does one thing, whoever asks: then it has no `action`.
    const fn is_single(&self) -> bool {
        self.actions.len() == 1
    }

    /// The action that a call names; `action` is taken out of the arguments.
    fn action(&self, arguments: &mut JsonObject) -> Result<&Action, Refusal> {
        let valid = || self.actions.iter().map(|a| a.operation.spec().action).collect::<Vec<_>>().join(", ");
        let named = match arguments.remove("action") {
            Some(Value::String(name)) => name,
            Some(other) => {
                return Err(Refusal::invalid(format!(
                    "unknown action '{}' for {} tool; valid actions: {}",
                    short(&other.to_string()),
                    self.name,
                    valid()
                )));
            }
            // The form of the first clients.
            None if self.name == "session"
                && arguments.contains_key("project_id")
                && (arguments.contains_key("prompt") || arguments.contains_key("message")) =>
            {
                "spawn".to_owned()
            }
            // A tool that does one thing needs no word for it.
            None if self.is_single() => return Ok(&self.actions[0]),
            None => {
                return Err(Refusal::invalid(format!(
                    "action parameter is required for {} tool; valid actions: {}",
                    self.name,
                    valid()
                )));
            }
        };
        // A message to a project is one to the newest session of its workspace: what a spawn does that asks for no new one.
        let to_project = self.name == "session"
            && named == "message"
            && arguments.contains_key("project_id")
            && !arguments.contains_key("session_id");
        let named = if to_project { "spawn".to_owned() } else { named };
        self.actions.iter().find(|a| a.operation.spec().action == named).ok_or_else(|| {
            Refusal::invalid(format!(
                "unknown action '{}' for {} tool; valid actions: {}",
                short(&named),
                self.name,
                valid()
            ))
        })
    }
}

// === impl Action ===

impl Action {
    fn new(operation: Operation) -> Self {
        let parameters = schema::parameters(&(operation.spec().parameters)());
        let named = |mut parameter: Parameter| {
            let unless =
                UNLESS_GIVEN.iter().find(|(of, name, _)| *of == operation && *name == parameter.name);
            if let Some((_, _, value)) = unless {
                parameter.schema.insert("default".to_owned(), (*value).into());
            }
            let renamed = NAMES.iter().find(|(of, name, _)| *of == operation && *name == parameter.name);
            // The table lives as long as the program.
            let name: &'static str =
                renamed.map_or_else(|| &*parameter.name.clone().leak(), |(_, _, new)| new);
            (name, parameter)
        };
        Self { operation, parameters: parameters.into_iter().map(named).collect() }
    }

    /// True if it takes something away.
    fn is_destructive(&self) -> bool {
        matches!(
            self.operation,
            Operation::ProjectDelete
                | Operation::WorkspaceDelete
                | Operation::SessionEnd
                | Operation::TokenRevoke
                | Operation::ServerStop
        )
    }

    fn params(&self, arguments: JsonObject) -> Result<Map<String, Value>, Refusal> {
        let mut params = Map::new();
        for (given, value) in arguments {
            let also = ALSO.iter().find(|(old, _)| *old == given).map_or(&*given, |(_, new)| new);
            let Some((_, parameter)) =
                self.parameters.iter().find(|(name, parameter)| *name == also || parameter.name == also)
            else {
                return Err(self.unknown(&given));
            };
            if params.insert(parameter.name.clone(), value).is_some() {
                return Err(Refusal::invalid(format!("parameter `{}` was given twice", short(&given)))
                    .fix("give each parameter once, under one name"));
            }
        }
        Ok(params)
    }

    fn unknown(&self, given: &str) -> Refusal {
        let spec = self.operation.spec();
        let refusal = Refusal::invalid(format!(
            "unknown parameter `{}` for {} {}",
            short(given),
            spec.tool,
            spec.action
        ));
        let known: Vec<_> = self.parameters.iter().map(|(name, _)| format!("`{name}`")).collect();
        if known.is_empty() {
            refusal.fix("leave it out: this action has no parameters")
        } else {
            refusal.fix(format!("use {}", known.join(", ")))
        }
    }
}

/// One flat schema for all actions: which action wants what is said in words, since most clients know no conditions.
fn input_schema(actions: &[&Action], is_single: bool) -> JsonObject {
    let names: Vec<_> = actions.iter().map(|action| action.operation.spec().action).collect();
    let mut properties = Map::new();
    if !is_single {
        let words = "What to do; see the tool's description.";
        properties
            .insert("action".to_owned(), json!({ "type": "string", "enum": names, "description": words }));
    }
    let mut wanted: Vec<&'static str> = Vec::new();
    for name in actions.iter().flat_map(|action| action.parameters.iter().map(|(name, _)| *name)) {
        if !wanted.contains(&name) {
            wanted.push(name);
        }
    }
    for name in wanted {
        let uses: Vec<(&str, &Parameter)> = actions
            .iter()
            .flat_map(|action| action.parameters.iter().map(move |(n, p)| (*n, action, p)))
            .filter(|(n, ..)| *n == name)
            .map(|(_, action, parameter)| (action.operation.spec().action, parameter))
            .collect();
        properties.insert(name.to_owned(), Value::Object(merged(&uses)));
    }
    let mut schema = Map::new();
    schema.insert("type".to_owned(), "object".into());
    schema.insert("properties".to_owned(), Value::Object(properties));
    if !is_single {
        schema.insert("required".to_owned(), json!(["action"]));
    }
    schema.insert("additionalProperties".to_owned(), false.into());
    schema
}

/// The schema of a parameter that some actions take: what they agree on, and in words who takes it.
fn merged(uses: &[(&str, &Parameter)]) -> Map<String, Value> {
    let without_words = |parameter: &Parameter| {
        let mut schema = parameter.schema.clone();
        schema.remove("description");
        schema
    };
    let mut schema = uses.first().map(|(_, parameter)| without_words(parameter)).unwrap_or_default();
    for (_, parameter) in uses.iter().skip(1) {
        let other = without_words(parameter);
        // Bounds or defaults that differ are told in the words only.
        schema.retain(|key, value| other.get(key) == Some(value));
    }
    let mut words: Vec<(&str, Vec<String>)> = Vec::new();
    for (action, parameter) in uses {
        let text = parameter.schema.get("description").and_then(Value::as_str).unwrap_or_default();
        let who = if parameter.required { format!("{action} (required)") } else { (*action).to_owned() };
        match words.iter_mut().find(|(known, _)| *known == text) {
            Some((_, actions)) => actions.push(who),
            None => words.push((text, vec![who])),
        }
    }
    let description: Vec<_> =
        words.iter().map(|(text, actions)| format!("{}: {text}", actions.join(", "))).collect();
    schema.insert("description".to_owned(), description.join("\n").into());
    schema
}

#[cfg(test)]
mod tests {
    use ob_core::ProjectId;
    use ob_core::Scope;
    use ob_core::TokenId;

    use super::*;

    const ID: &str = "gogol_20261118_110640_deadbeef";
    const PROJECT: &str = "00000000-0000-0000-0000-000000000001";

    fn of(tool: &str, arguments: Value) -> Result<(Operation, Value), String> {
        let Value::Object(arguments) = arguments else { panic!("arguments are an object") };
        of_asker(&Principal::Operator, tool, arguments)
    }

    fn of_asker(asker: &Principal, tool: &str, arguments: JsonObject) -> Result<(Operation, Value), String> {
        call(asker, tool, Some(arguments)).map_err(|no| match no {
            NoCall::UnknownTool(name) => format!("unknown tool {name}"),
            NoCall::Refused(refusal) => refusal.to_string(),
        })
    }

    fn token(scope: Scope) -> Principal {
        Principal::Token { id: TokenId::new(1), scope }
    }

    #[test]
    fn every_operation_is_an_action_and_every_parameter_is_advertised() {
        let project: ProjectId = PROJECT.parse().expect("an id");
        let mut tools = tools_of(&Principal::Operator);
        tools.extend(tools_of(&Principal::Session { id: ID.parse().expect("an id"), project }));
        for operation in Operation::ALL.iter().filter(|operation| operation.spec().tool != HIDDEN) {
            let spec = operation.spec();
            let tool = tools.iter().find(|tool| tool.name == spec.tool).expect("its tool");
            let properties = &tool.schema_as_json_value()["properties"];
            match properties["action"]["enum"].as_array() {
                Some(actions) => {
                    assert!(actions.iter().any(|action| action == spec.action), "{}", spec.name());
                }
                None => assert!(
                    ["caller_tool_response", "ask", "config_limits"].contains(&spec.tool),
                    "they have a single action"
                ),
            }
            for (name, _) in &Action::new(*operation).parameters {
                assert!(properties[*name]["description"].is_string(), "{}: {name}", spec.name());
            }
        }
    }

    #[test]
    fn a_tool_with_one_action_needs_no_word_for_it() {
        let wanted = Ok((Operation::ConfigLimits, json!({ "project_id": PROJECT })));
        assert_eq!(of("config_limits", json!({ "project_id": PROJECT })), wanted);
        assert_eq!(of("config_limits", json!({ "action": "get", "project_id": PROJECT })), wanted);
        let refused = of("config_limits", json!({ "action": "set" })).expect_err("there is none");
        assert!(
            refused.contains("unknown action 'set' for config_limits tool; valid actions: get"),
            "{refused}"
        );
    }

    #[test]
    fn a_principal_is_shown_what_it_may_ever_do_and_no_more() {
        let project: ProjectId = PROJECT.parse().expect("an id");
        let actions = |scope: Scope, tool: &str| -> Vec<String> {
            let tools = tools_of(&token(scope));
            let found = tools.iter().find(|found| found.name == tool);
            let schema = found.map(Tool::schema_as_json_value).unwrap_or_default();
            schema["properties"]["action"]["enum"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|a| a.as_str().map(ToOwned::to_owned))
                .collect()
        };
        assert_eq!(
            actions(Scope::ProjectReadOnly(project), "session"),
            ["get", "list", "events", "result", "diff"]
        );
        assert!(actions(Scope::Project(project), "session").contains(&"spawn".to_owned()));
        assert!(actions(Scope::Project(project), "token").is_empty());
        assert!(actions(Scope::AdminReadOnly, "token").is_empty());
        assert_eq!(actions(Scope::Admin, "token"), ["create", "list", "revoke", "info"]);
        assert_eq!(actions(Scope::Project(project), "project"), ["list", "get", "delete"]);
        for tool in tools_of(&token(Scope::AdminReadOnly)) {
            assert_eq!(tool.annotations.and_then(|a| a.read_only_hint), Some(true), "{}", tool.name);
        }
    }

    #[test]
    fn names_of_clients_are_translated_and_those_of_the_operation_are_taken_too() {
        let expected = json!({ "session_id": ID, "cursor": 4, "limit": 10 });
        for names in [("since_index", "max_events"), ("cursor", "limit")] {
            let arguments =
                json!({ "action": "events", "session_id": ID, names.0: 4, names.1: 10, "wait_ms": null });
            assert_eq!(of("session", arguments), Ok((Operation::SessionEvents, expected.clone())));
        }
        assert_eq!(
            of("token", json!({ "action": "revoke", "token_id": "tok_000000000001" })),
            Ok((Operation::TokenRevoke, json!({ "token": "tok_000000000001" })))
        );
        assert_eq!(
            of("session", json!({ "project_id": PROJECT, "prompt": "go" })),
            Ok((
                Operation::SessionSpawn,
                json!({ "project_id": PROJECT, "message": "go", "create_workspace": false, "new_session": false })
            ))
        );
        assert_eq!(
            of(
                "session",
                json!({ "action": "message", "project_id": PROJECT, "message": "go", "new_session": true })
            ),
            Ok((
                Operation::SessionSpawn,
                json!({ "project_id": PROJECT, "message": "go", "create_workspace": false, "new_session": true })
            ))
        );
    }

    #[test]
    fn an_agent_is_shown_what_it_may_do_below_it_and_its_project_goes_without_saying() {
        let project: ProjectId = PROJECT.parse().expect("an id");
        let agent = Principal::Session { id: ID.parse().expect("an id"), project };
        let tools = tools_of(&agent);
        let names: Vec<_> = tools.iter().map(|tool| &*tool.name).collect();
        assert_eq!(names, ["session", "ask", "config_limits"]);
        let schema = tools[0].schema_as_json_value();
        let actions = &schema["properties"]["action"]["enum"];
        let expected =
            ["spawn", "message", "answer", "interrupt", "end", "get", "list", "events", "result", "diff"];
        assert_eq!(actions, &json!(expected));
        let asked =
            of_asker(&agent, "ask", JsonObject::from_iter([("question".to_owned(), "Which?".into())]));
        assert_eq!(asked, Ok((Operation::SessionAsk, json!({ "question": "Which?" }))));
        assert!(tools_of(&Principal::Operator).iter().all(|tool| tool.name != "ask"), "it has nobody to ask");
        let called = of_asker(&agent, "crm_look_up", JsonObject::from_iter([("id".to_owned(), 7.into())]));
        let expected = json!({ "tool": "crm_look_up", "arguments": { "id": 7 } });
        assert_eq!(called, Ok((Operation::CallerToolCall, expected)), "what is not ours may be a caller's");
        let Value::Object(arguments) = json!({ "action": "spawn", "message": "go" }) else { unreachable!() };
        let expected = json!({
            "message": "go", "project_id": PROJECT, "create_workspace": false, "new_session": true, "end_when_idle": true,
        });
        assert_eq!(of_asker(&agent, "session", arguments), Ok((Operation::SessionSpawn, expected)));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases = [
            (
                "session",
                json!({}),
                "action parameter is required for session tool; valid actions: spawn, message",
            ),
            (
                "session",
                json!({ "action": "spwn" }),
                "unknown action 'spwn' for session tool; valid actions: spawn",
            ),
            ("session", json!({ "action": 5 }), "unknown action '5' for session tool"),
            (
                "session",
                json!({ "action": "get", "sesion_id": ID }),
                "unknown parameter `sesion_id` for session get",
            ),
            (
                "session",
                json!({ "action": "message", "session_id": ID, "message": "a", "prompt": "b" }),
                "given twice",
            ),
            ("server", json!({ "action": "status", "verbose": true }), "this action has no parameters"),
            ("container", json!({ "action": "start" }), "unknown tool container"),
        ];
        for (tool, arguments, expected) in cases {
            let refused = of(tool, arguments).expect_err(expected);
            assert!(refused.contains(expected), "{refused}");
        }
    }
}
