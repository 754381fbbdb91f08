//! Configuration: files and environment into one typed tree, with the origin of each value. No other crate reads the
//! environment.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use ob_core::Home;
use ob_core::ledger::MicroUsd;
use ob_core::model::Price;
use secrecy::SecretString;

/// Where to look.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// `--dir`.
    pub dir: Option<PathBuf>,
    /// `-config F`, `--config F`.
    pub config_file: Option<PathBuf>,
    /// The environment. Passed in, so that tests need not change the process's own.
    pub env: BTreeMap<OsString, OsString>,
    /// The working directory. Absolute.
    pub cwd: PathBuf,
    /// The effective user id.
    pub uid: u32,
}

/// Everything that configuration says, resolved, without options that mean "default".
#[derive(Clone, Debug)]
pub struct Settings {
    /// Listeners.
    pub server: ServerSettings,
    /// Limits of new trees.
    pub limits: LimitSettings,
    /// Models and their providers.
    pub models: ModelSettings,
    /// Sandboxes.
    pub sandbox: SandboxSettings,
    /// Logs.
    pub log: LogSettings,
}

/// Listeners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSettings {
    /// As written: `localhost:8080`, `:8080`, `127.0.0.1:0`.
    pub address: String,
}

/// Limits of new trees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitSettings {
    /// The most that one tree may spend.
    pub max_cost: MicroUsd,
}

/// Models and their providers.
#[derive(Clone, Debug)]
pub struct ModelSettings {
    /// Providers with a name; those that the environment configures are among them (`openai` by `OPENAI_API_KEY` and
    /// `OPENAI_BASE_URL`).
    pub providers: BTreeMap<String, ProviderSettings>,
    /// Aliases.
    pub aliases: BTreeMap<String, ModelAlias>,
    /// The model for sessions that name none: an alias, or `provider/model`.
    pub session_model: Option<String>,
    /// Look for OpenAI-compatible servers on these loopback ports if no provider is configured.
    pub discover_ports: Vec<u16>,
    /// Use the scripted demonstration model if there is nothing else and its program is installed.
    pub demonstration: bool,
}

/// A provider that speaks OpenAI's chat completions.
#[derive(Clone, Debug)]
pub struct ProviderSettings {
    /// The base URL, with `/v1`.
    pub base_url: String,
    /// The key, if it needs one.
    pub api_key: Option<SecretString>,
    /// The model to use if a session only names the provider.
    pub default_model: Option<String>,
}

/// A name for a model of a provider.
#[derive(Clone, Debug)]
pub struct ModelAlias {
    /// The provider's name.
    pub provider: String,
    /// The model's name at the provider.
    pub model: String,
    /// Overrides the provider's base URL.
    pub base_url: Option<String>,
    /// Overrides the provider's key.
    pub api_key: Option<SecretString>,
    /// The most tokens of one answer.
    pub max_output_tokens: Option<u32>,
    /// Added to each request.
    pub extra_headers: BTreeMap<String, String>,
    /// What it costs; nothing is charged if unset, and the usage event says so.
    pub price: Option<Price>,
}

/// Sandboxes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxSettings {
    /// `auto` or `namespace`.
    pub backend: String,
    /// Further folders of this machine, read-only inside (toolchains). Absolute.
    pub read_only: Vec<PathBuf>,
    /// Environment of everything inside.
    pub env: BTreeMap<String, String>,
    /// Bytes of memory of one sandbox.
    pub memory: Option<u64>,
    /// Thousandths of a processor of one sandbox.
    pub cpu_millis: Option<u32>,
    /// Processes and threads of one sandbox.
    pub pids: Option<u32>,
    /// How long a sandbox lives without its server.
    pub lease: Duration,
}

/// Logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// `text` or `json`.
    pub json: bool,
    /// A level, or `target=level` pairs: `info`, `info,ob_gate=debug`.
    pub filter: String,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The home.
    pub home: Home,
    /// The settings.
    pub settings: Settings,
    /// Where each value that is not a default came from: key path to `file:line:column` or a variable's name.
    pub origins: BTreeMap<String, String>,
    /// Things to tell the operator that are no mistakes.
    pub warnings: Vec<String>,
}

/// A mistake in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {what}")]
pub struct Mistake {
    /// `file:line:column: key.path`, or a variable's name.
    pub place: String,
    /// What is wrong, what is allowed, and a suggestion.
    pub what: String,
}

/// Every mistake at once.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct Mistakes(pub Vec<Mistake>);

/// Finds the home and reads its configuration. Does not make anything.
pub fn load(_options: &LoadOptions) -> Result<Loaded, Mistakes> {
    todo!()
}

/// Makes a missing home: folders with mode 0700. Returns true if it made one.
pub fn make_home(_home: &Home) -> std::io::Result<bool> {
    todo!()
}

/// The addresses to listen on: both loopbacks for `localhost:8080`, all interfaces for `:8080`.
pub fn bind_addresses(_server: &ServerSettings) -> Result<Vec<std::net::SocketAddr>, Mistake> {
    todo!()
}
