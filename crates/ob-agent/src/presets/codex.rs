//! Codex, through the adapter of the protocol's makers. Its own sandbox is off: it would have to make namespaces, which
//! ours does not let it, and ours is the wall. What it would have a provider carry out, and tools that only its makers'
//! wire can carry, are off, so that it works with models of every wire.

use ob_core::agent::AgentProtocol;
use ob_core::agent::AgentStart;
use ob_core::agent::Autonomy;
use ob_core::agent::GATE_PLACE;
use ob_core::agent::HOME_PLACE;
use serde_json::Value;

use super::CONTEXT;
use super::Can;
use super::Launch;
use super::Preset;
use super::start_of;

/// Its folder; never under the temporary folder, or it refuses to make the links that it needs.
const FOLDER: &str = ".codex";

pub(super) const PRESET: Preset = Preset {
    name: "codex",
    title: "Codex",
    programs: &["codex-acp"],
    protocol: AgentProtocol::Acp,
    install: "npm install -g @agentclientprotocol/codex-acp",
    needs: &["node"],
    tested: Some("2.6.0"),
    // Its milder modes ask about what its own sandbox stops, and that one is off.
    can: Can { autonomy: &[Autonomy::High], reasoning: true, tools_allowed: false, tools_disallowed: false },
    mode: Some("agent-full-access"),
    start,
};

fn start(launch: &Launch<'_>) -> AgentStart {
    let home = format!("{HOME_PLACE}/{FOLDER}");
    let mut start =
        start_of(launch.program, &[], &[("CODEX_HOME", &home), ("GATE_KEY", "local"), ("NO_BROWSER", "1")]);
    start.files.insert(format!("{FOLDER}/config.toml"), config(launch));
    start
}

fn config(launch: &Launch<'_>) -> String {
    let text = |text: &str| Value::from(text).to_string();
    let model = text(launch.model);
    let reasoning = launch
        .options
        .reasoning
        .map(|level| format!("model_reasoning_effort = {}\n", text(level.effort())))
        .unwrap_or_default();
    format!(
        r#"model = {model}
model_provider = "gate"
{reasoning}approval_policy = "never"
sandbox_mode = "danger-full-access"
check_for_update_on_startup = false
web_search = "disabled"
model_context_window = {CONTEXT}

[model_providers.gate]
name = "gate"
base_url = "{GATE_PLACE}/v1"
env_key = "GATE_KEY"
wire_api = "responses"
supports_websockets = false

[analytics]
enabled = false

[features]
plugins = false
apps = false
remote_plugin = false
multi_agent = false
goals = false
image_generation = false
"#
    )
}
