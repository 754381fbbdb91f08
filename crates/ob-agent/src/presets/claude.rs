//! Claude Code, through the adapter of the protocol's makers, which brings the program or uses the user's own.

use ob_core::agent::AgentProtocol;
use ob_core::agent::AgentStart;
use ob_core::agent::HOME_PLACE;
use ob_core::agent::Reasoning;
use serde_json::json;

use super::ALL_LEVELS;
use super::Can;
use super::Launch;
use super::Preset;
use super::start_of;

const FOLDER: &str = ".claude";

pub(super) const PRESET: Preset = Preset {
    name: "claude-code",
    title: "Claude Code",
    programs: &["claude-agent-acp", "claude-code-acp"],
    protocol: AgentProtocol::Acp,
    install: "npm install -g @agentclientprotocol/claude-agent-acp",
    needs: &["node"],
    tested: Some("0.100.0"),
    can: Can { autonomy: ALL_LEVELS, reasoning: true, tools_allowed: false, tools_disallowed: true },
    mode: None,
    start,
};

fn start(launch: &Launch<'_>) -> AgentStart {
    let folder = format!("{HOME_PLACE}/{FOLDER}");
    let mut start = start_of(
        launch.program,
        &[],
        &[
            ("CLAUDE_CONFIG_DIR", &folder),
            ("ANTHROPIC_MODEL", launch.model),
            ("ANTHROPIC_SMALL_FAST_MODEL", launch.model),
            ("ANTHROPIC_DEFAULT_HAIKU_MODEL", launch.model),
            ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"),
            ("DISABLE_AUTOUPDATER", "1"),
            ("DISABLE_TELEMETRY", "1"),
            ("DISABLE_ERROR_REPORTING", "1"),
        ],
    );
    if let Some(reasoning) = launch.options.reasoning {
        let tokens = match reasoning {
            Reasoning::Off => "0",
            Reasoning::Low => "4000",
            Reasoning::Medium => "10000",
            Reasoning::High => "31999",
        };
        start.env.insert("MAX_THINKING_TOKENS".to_owned(), tokens.to_owned());
    }
    // It asks for what it may not do by itself, and is answered by the rules of its autonomy.
    let settings = json!({ "permissions": {
        "deny": launch.options.tools_disallowed,
        "disableBypassPermissionsMode": "disable",
    } });
    start.files.insert(format!("{FOLDER}/settings.json"), settings.to_string());
    start
}
