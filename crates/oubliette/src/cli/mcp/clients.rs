//! MCP clients: where each keeps its servers, and in what form.

use std::path::Path;
use std::path::PathBuf;

use clap::ValueEnum;
use ob_core::Refusal;
use serde_json::Value;
use serde_json::json;

use super::TOKEN;
use crate::cli::Context;

/// A client that `mcp --setup` knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum McpClient {
    /// Claude Desktop.
    Claude,
    /// Claude Code.
    ClaudeCode,
    /// Codex.
    Codex,
    /// Cursor.
    Cursor,
    /// Gemini CLI.
    Gemini,
    /// OpenCode.
    Opencode,
    /// Visual Studio Code.
    Vscode,
    /// Zed.
    Zed,
}

/// What a client shall start.
#[derive(Clone, Debug)]
pub(super) struct Launch {
    /// Our program.
    pub(super) program: PathBuf,
    /// The home whose server is meant.
    pub(super) home: PathBuf,
    /// The secret of the client's token.
    pub(super) secret: String,
}

// === impl McpClient ===

impl McpClient {
    /// Its name on the command line.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Claude => "claude",
            Self::ClaudeCode => "claude-code",
            Self::Codex => "codex",
            Self::Cursor => "cursor",
            Self::Gemini => "gemini",
            Self::Opencode => "opencode",
            Self::Vscode => "vscode",
            Self::Zed => "zed",
        }
    }

    /// True if its file is TOML; else it is JSON, with or without comments.
    pub(super) const fn is_toml(self) -> bool {
        matches!(self, Self::Codex)
    }

    /// The key in its file that holds its MCP servers.
    pub(super) const fn section(self) -> &'static str {
        match self {
            Self::Claude | Self::ClaudeCode | Self::Cursor | Self::Gemini => "mcpServers",
            Self::Codex => "mcp_servers",
            Self::Opencode => "mcp",
            Self::Vscode => "servers",
            Self::Zed => "context_servers",
        }
    }

    /// Where the secret stands in an entry of its.
    pub(super) const fn environment(self) -> &'static str {
        match self {
            Self::Opencode => "environment",
            _ => "env",
        }
    }

    /// The file in which it keeps the servers of a person.
    pub(super) fn file(self, context: &Context) -> Result<PathBuf, Refusal> {
        let home =
            context.var("HOME").map(PathBuf::from).filter(|home| home.is_absolute()).ok_or_else(|| {
                Refusal::invalid("$HOME is not set to an absolute path, so the client's file is not found")
                    .fix("name it with `--config PATH`")
            })?;
        let config = match context.var("XDG_CONFIG_HOME").map(PathBuf::from).filter(|dir| dir.is_absolute()) {
            Some(dir) => dir,
            None if cfg!(target_os = "macos") => home.join("Library/Application Support"),
            None => home.join(".config"),
        };
        Ok(match self {
            Self::Claude => config.join("Claude/claude_desktop_config.json"),
            Self::ClaudeCode => home.join(".claude.json"),
            Self::Codex => match context.var("CODEX_HOME") {
                Some(dir) => Path::new(dir).join("config.toml"),
                None => home.join(".codex/config.toml"),
            },
            Self::Cursor => home.join(".cursor/mcp.json"),
            Self::Gemini => home.join(".gemini/settings.json"),
            Self::Opencode => {
                let folder = home.join(".config/opencode");
                let with_comments = folder.join("opencode.jsonc");
                if with_comments.exists() { with_comments } else { folder.join("opencode.json") }
            }
            Self::Vscode => config.join("Code/User/mcp.json"),
            Self::Zed => home.join(".config/zed/settings.json"),
        })
    }

    /// The entry in its file that makes it start us.
    pub(super) fn entry(self, launch: &Launch) -> Value {
        let program = launch.program.to_string_lossy();
        let home = launch.home.to_string_lossy();
        let args = json!(["--dir", home, "mcp"]);
        let env = json!({ TOKEN: launch.secret });
        match self {
            Self::Claude | Self::Codex | Self::Cursor | Self::Gemini => {
                json!({ "command": program, "args": args, "env": env })
            }
            Self::ClaudeCode | Self::Vscode => {
                json!({ "type": "stdio", "command": program, "args": args, "env": env })
            }
            Self::Opencode => json!({
                "type": "local",
                "command": [program, "--dir", home, "mcp"],
                "environment": env,
                "enabled": true,
            }),
            Self::Zed => json!({ "source": "custom", "command": program, "args": args, "env": env }),
        }
    }
}
