//! Agents that our tests do not drive: their configuration is by their documents.

use ob_core::agent::AgentProtocol;
use ob_core::agent::AgentStart;
use ob_core::agent::Autonomy;
use ob_core::agent::GATE_PLACE;
use ob_core::agent::PromptVia;
use serde_json::json;

use super::ALL_LEVELS;
use super::CONTEXT;
use super::Can;
use super::Launch;
use super::OUTPUT;
use super::Preset;
use super::start_of;

pub(super) const GOOSE: Preset = Preset {
    name: "goose",
    title: "Goose",
    programs: &["goose"],
    protocol: AgentProtocol::Acp,
    install: "see https://block.github.io/goose",
    needs: &[],
    tested: None,
    can: Can { autonomy: ALL_LEVELS, reasoning: false, tools_allowed: false, tools_disallowed: false },
    mode: None,
    start: goose,
};

pub(super) const DROID: Preset = Preset {
    name: "droid",
    title: "Droid",
    programs: &["droid"],
    protocol: AgentProtocol::Acp,
    install: "npm install -g droid",
    // A sandbox reaches nothing but its gate, so what it asks of its makers' service fails.
    needs: &["a version that works without its makers' service"],
    tested: None,
    can: Can { autonomy: ALL_LEVELS, reasoning: true, tools_allowed: false, tools_disallowed: false },
    mode: None,
    start: droid,
};

pub(super) const PI: Preset = Preset {
    name: "pi",
    title: "pi",
    programs: &["pi"],
    protocol: AgentProtocol::Plain,
    install: "npm install -g @mariozechner/pi-coding-agent",
    needs: &["node 20"],
    tested: None,
    can: Can { autonomy: &[Autonomy::High], reasoning: true, tools_allowed: true, tools_disallowed: false },
    mode: None,
    start: pi,
};

fn goose(launch: &Launch<'_>) -> AgentStart {
    let mode = match launch.options.autonomy {
        Autonomy::High => "auto",
        Autonomy::Off | Autonomy::Low | Autonomy::Medium => "approve",
    };
    start_of(
        launch.program,
        &["acp"],
        &[
            ("GOOSE_PROVIDER", "openai"),
            ("GOOSE_MODEL", launch.model),
            ("GOOSE_MODE", mode),
            ("GOOSE_DISABLE_KEYRING", "1"),
            ("GOOSE_TELEMETRY_ENABLED", "false"),
            ("OPENAI_HOST", GATE_PLACE),
        ],
    )
}

fn droid(launch: &Launch<'_>) -> AgentStart {
    let reasoning = launch.options.reasoning.map(|level| level.as_str());
    let mut arguments = vec!["exec", "--output-format", "acp", "--model", "custom:gate"];
    arguments.extend(reasoning.iter().flat_map(|level| ["--reasoning-effort", level]));
    let mut start = start_of(
        launch.program,
        &arguments,
        &[("DROID_DISABLE_AUTO_UPDATE", "true"), ("FACTORY_DROID_AUTO_UPDATE_ENABLED", "false")],
    );
    let settings = json!({
        "customModels": [{
            "model": launch.model, "displayName": "gate", "baseUrl": format!("{GATE_PLACE}/v1"), "apiKey": "local",
            "provider": "generic-chat-completion-api", "maxOutputTokens": OUTPUT,
        }],
        "enableDroidShield": false,
    });
    start.files.insert(".factory/settings.json".to_owned(), settings.to_string());
    start
}

fn pi(launch: &Launch<'_>) -> AgentStart {
    let tools = launch.options.tools_allowed.join(",");
    let mut arguments = vec!["--provider", "gate", "--model", launch.model];
    if !tools.is_empty() {
        arguments.extend(["--tools", &tools]);
    }
    if let Some(reasoning) = launch.options.reasoning {
        arguments.extend(["--thinking", reasoning.as_str()]);
    }
    arguments.push("-p");
    let mut start = start_of(launch.program, &arguments, &[("PI_OFFLINE", "1")]);
    let models = json!({ "providers": { "gate": {
        "baseUrl": format!("{GATE_PLACE}/v1"), "api": "openai-completions", "apiKey": "local",
        "models": [{
            "id": launch.model, "name": launch.model, "reasoning": launch.options.reasoning.is_some(), "input": ["text"],
            "cost": { "input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0 },
            "contextWindow": CONTEXT, "maxTokens": OUTPUT,
        }],
    } } });
    start.files.insert(".pi/agent/models.json".to_owned(), models.to_string());
    start.plain = Some(PromptVia::Argument);
    start
}
