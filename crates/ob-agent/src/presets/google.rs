//! Gemini CLI, and Qwen Code, which was made from it. Both speak ACP by themselves.

use ob_core::agent::AgentProtocol;
use ob_core::agent::AgentStart;
use ob_core::agent::Autonomy;
use serde_json::Value;
use serde_json::json;

use super::ALL_LEVELS;
use super::Can;
use super::Launch;
use super::Preset;
use super::start_of;

/// What Gemini CLI calls a model that is not one of its own: it configures itself by the name.
const GEMINI_MODEL: &str = "gemini-2.5-flash";

pub(super) const GEMINI: Preset = Preset {
    name: "gemini",
    title: "Gemini CLI",
    programs: &["gemini"],
    protocol: AgentProtocol::Acp,
    install: "npm install -g @google/gemini-cli",
    needs: &["node 20"],
    tested: None,
    can: Can { autonomy: ALL_LEVELS, reasoning: false, tools_allowed: true, tools_disallowed: true },
    mode: None,
    start: gemini,
};

pub(super) const QWEN: Preset = Preset {
    name: "qwen",
    title: "Qwen Code",
    programs: &["qwen"],
    protocol: AgentProtocol::Acp,
    install: "npm install -g @qwen-code/qwen-code",
    needs: &["node 22"],
    tested: None,
    can: Can { autonomy: ALL_LEVELS, reasoning: false, tools_allowed: true, tools_disallowed: true },
    mode: None,
    start: qwen,
};

fn gemini(launch: &Launch<'_>) -> AgentStart {
    let model = if launch.model.starts_with("gemini") { launch.model } else { GEMINI_MODEL };
    let mut start = start_of(
        launch.program,
        &["--acp", "-m", model, "--approval-mode", approval(launch)],
        &[("GEMINI_CLI_TRUST_WORKSPACE", "true"), ("GEMINI_CLI_NO_RELAUNCH", "true")],
    );
    start.files.insert(".gemini/settings.json".to_owned(), settings(launch, "gemini-api-key").to_string());
    start
}

fn qwen(launch: &Launch<'_>) -> AgentStart {
    let mut start = start_of(
        launch.program,
        &["--acp", "--approval-mode", approval(launch)],
        &[("OPENAI_MODEL", launch.model)],
    );
    start.files.insert(".qwen/settings.json".to_owned(), settings(launch, "openai").to_string());
    start
}

/// Below the highest level it asks, and is answered by the rules of the level.
fn approval(launch: &Launch<'_>) -> &'static str {
    match launch.options.autonomy {
        Autonomy::High => "yolo",
        Autonomy::Off | Autonomy::Low | Autonomy::Medium => "default",
    }
}

fn settings(launch: &Launch<'_>, authentication: &str) -> Value {
    let mut settings = json!({
        "security": { "auth": { "selectedType": authentication } },
        "general": { "enableAutoUpdate": false, "disableAutoUpdate": true, "disableUpdateNag": true },
        "privacy": { "usageStatisticsEnabled": false },
        "telemetry": { "enabled": false },
    });
    if !launch.options.tools_allowed.is_empty() {
        settings["tools"]["core"] = launch.options.tools_allowed.clone().into();
    }
    if !launch.options.tools_disallowed.is_empty() {
        settings["tools"]["exclude"] = launch.options.tools_disallowed.clone().into();
    }
    settings
}
