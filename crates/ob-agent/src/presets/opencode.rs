//! OpenCode, which speaks ACP by itself. Its whole configuration is one variable, which goes over a project's own file.

use ob_core::agent::AgentProtocol;
use ob_core::agent::AgentStart;
use ob_core::agent::Autonomy;
use ob_core::agent::GATE_PLACE;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use super::ALL_LEVELS;
use super::CONTEXT;
use super::Can;
use super::Launch;
use super::OUTPUT;
use super::Preset;
use super::start_of;

/// What its configuration calls the gate.
const PROVIDER: &str = "gate";
/// Tools that only look.
const LOOKING: [&str; 7] = ["read", "grep", "glob", "list", "lsp", "todowrite", "todoread"];
/// Tools that need a network or a person.
const NEVER: [&str; 3] = ["webfetch", "websearch", "question"];

pub(super) const PRESET: Preset = Preset {
    name: "opencode",
    title: "OpenCode",
    programs: &["opencode"],
    protocol: AgentProtocol::Acp,
    install: "npm install -g opencode-ai",
    needs: &["node"],
    tested: Some("1.18.33"),
    can: Can { autonomy: ALL_LEVELS, reasoning: true, tools_allowed: true, tools_disallowed: true },
    mode: None,
    start,
};

fn start(launch: &Launch<'_>) -> AgentStart {
    let mut start = start_of(
        launch.program,
        &["acp"],
        &[
            ("OPENCODE_DISABLE_AUTOUPDATE", "1"),
            ("OPENCODE_DISABLE_MODELS_FETCH", "1"),
            ("OPENCODE_DISABLE_LSP_DOWNLOAD", "1"),
            ("OPENCODE_DISABLE_DEFAULT_PLUGINS", "1"),
            ("OPENCODE_PURE", "1"),
        ],
    );
    start.env.insert("OPENCODE_CONFIG_CONTENT".to_owned(), config(launch).to_string());
    start
}

fn config(launch: &Launch<'_>) -> Value {
    let named = format!("{PROVIDER}/{}", launch.model);
    let mut model = json!({
        "name": launch.model, "tool_call": true, "limit": { "context": CONTEXT, "output": OUTPUT },
    });
    if let Some(reasoning) = launch.options.reasoning {
        model["reasoning"] = true.into();
        model["options"] = json!({ "reasoningEffort": reasoning.effort() });
    }
    json!({
        "model": named, "small_model": named,
        "autoupdate": false, "share": "disabled", "snapshot": false,
        "enabled_providers": [PROVIDER],
        "permission": permission(launch),
        "provider": { PROVIDER: {
            "npm": "@ai-sdk/openai-compatible", "name": "Gate",
            "options": { "baseURL": format!("{GATE_PLACE}/v1"), "apiKey": "local" },
            "models": { launch.model: model },
        } },
    })
}

/// The last rule that fits holds.
fn permission(launch: &Launch<'_>) -> Value {
    let options = launch.options;
    let others = match options.autonomy {
        Autonomy::High => "allow",
        // Each question is answered by the rules of the level.
        Autonomy::Off | Autonomy::Low | Autonomy::Medium => "ask",
    };
    let mut rules = Map::new();
    if options.tools_allowed.is_empty() {
        rules.insert("*".to_owned(), others.into());
        rules.extend(LOOKING.map(|tool| (tool.to_owned(), "allow".into())));
    } else {
        rules.insert("*".to_owned(), "deny".into());
        for tool in &options.tools_allowed {
            let rule = if LOOKING.contains(&tool.as_str()) { "allow" } else { others };
            rules.insert(tool.clone(), rule.into());
        }
    }
    for tool in NEVER.into_iter().chain(options.tools_disallowed.iter().map(String::as_str)) {
        // Rules hold in their order, so one that is there already goes to the end.
        rules.shift_remove(tool);
        rules.insert(tool.to_owned(), "deny".into());
    }
    Value::Object(rules)
}
