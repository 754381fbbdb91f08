//! What configuration says, resolved: no option here means "default", and nothing here prints a secret.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use ob_core::agent::Autonomy;
use ob_core::agent::BUILTIN;
use ob_core::agent::PromptVia;
use ob_core::agent::Reasoning;
use ob_core::ledger::MicroUsd;
use ob_core::model::Price;
use ob_core::model::Prices;
use ob_core::model::Wire;
use secrecy::ExposeSecret as _;
use secrecy::SecretString;

use crate::read_only;

/// `server.address` if nobody says otherwise.
pub const DEFAULT_ADDRESS: &str = "localhost:8080";

/// `defaults.limits.max_cost_usd` if nobody says otherwise: ten dollars.
pub const DEFAULT_MAX_COST: MicroUsd = MicroUsd(10_000_000);

/// `defaults.limits.max_recursion_depth` if nobody says otherwise.
pub(crate) const DEFAULT_MAX_DEPTH: u32 = 3;

/// `defaults.limits.max_agents_per_session` if nobody says otherwise.
pub(crate) const DEFAULT_MAX_AGENTS: u32 = 50;

/// Where local model servers usually listen: Ollama, vLLM, llama.cpp and LocalAI, LM Studio, llama.cpp's second.
pub const DEFAULT_DISCOVER_PORTS: [u16; 5] = [11434, 8000, 8080, 1234, 8081];

/// `sandbox.memory` if nobody says otherwise, in bytes: 4 GiB, or all of a smaller machine.
pub const DEFAULT_MEMORY: u64 = 4 << 30;

/// `sandbox.cpus` if nobody says otherwise, in thousandths: 4, or all of a smaller machine.
pub const DEFAULT_CPU_MILLIS: u32 = 4000;

/// `sandbox.pids` if nobody says otherwise: far above a parallel build, far below what hurts a machine.
pub const DEFAULT_PIDS: u32 = 4096;

/// `sandbox.open_files` if nobody says otherwise: more than any build needs.
pub const DEFAULT_OPEN_FILES: u32 = 16_384;

/// `sandbox.disk` if nobody says otherwise, in bytes: 20 GiB, room for large builds.
pub const DEFAULT_DISK: u64 = 20 << 30;

/// `sandbox.inodes` if nobody says otherwise: some large trees of dependencies.
pub const DEFAULT_INODES: u32 = 2_000_000;

/// `sandbox.wall_s` if nobody says otherwise: a week, so that nothing runs for ever unnoticed.
pub const DEFAULT_WALL: Duration = Duration::from_secs(604_800);

/// `sandbox.output_rate` if nobody says otherwise, in bytes a second: 4 MiB, far above what a model says.
pub const DEFAULT_OUTPUT_RATE: u64 = 4 << 20;

/// `cleanup.retention_minutes`, and so `sandbox.idle_s`, if nobody says otherwise: longer than a person thinks between two
/// messages.
pub const DEFAULT_RETENTION: Duration = Duration::from_secs(3600);

/// `sandbox.lease_s` if nobody says otherwise: time enough to restart a server by hand.
pub const DEFAULT_LEASE: Duration = Duration::from_secs(900);

/// `models.retries` if nobody says otherwise.
pub(crate) const DEFAULT_RETRIES: u32 = 2;

/// `rate_limit.requests_per_second` if nobody says otherwise, in thousandths: ten.
pub const DEFAULT_REQUESTS_PER_1000_S: NonZeroU32 = NonZeroU32::new(10_000).expect("not 0");

/// `rate_limit.burst` if nobody says otherwise.
pub const DEFAULT_BURST: NonZeroU32 = NonZeroU32::new(20).expect("not 0");

/// `cleanup.interval_minutes` if nobody says otherwise.
pub const DEFAULT_CLEANUP_INTERVAL: Duration = Duration::from_secs(300);

/// `cleanup.disk_warn_percent` if nobody says otherwise.
pub const DEFAULT_DISK_WARN_PERCENT: u32 = 80;

/// `cleanup.disk_error_percent` if nobody says otherwise.
pub const DEFAULT_DISK_ERROR_PERCENT: u32 = 90;

/// `log.level` if nobody says otherwise.
pub const DEFAULT_FILTER: &str = "info";

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
    /// Agents.
    pub agents: AgentSettings,
    /// How often clients may ask.
    pub rate_limit: RateLimitSettings,
    /// What nobody needs any more.
    pub cleanup: CleanupSettings,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitSettings {
    /// The most that one tree may spend.
    pub max_cost: MicroUsd,
    /// How far below the root, which is at 0, a session may be.
    pub max_depth: u32,
    /// The most sessions that a tree may ever have.
    pub max_agents: u32,
    /// The most sessions of a tree that are not over; as many as it may ever have if unset.
    pub max_live: Option<u32>,
    /// For how long a tree may start sessions and call models.
    pub max_wall: Option<Duration>,
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
    /// What models cost, by name; `default` for those that are not here.
    pub prices: BTreeMap<String, Prices>,
    /// Calls of configured models without a price are refused; else they cost nothing.
    pub must_have_price: bool,
    /// How often a call is tried again of whose answer nothing was delivered.
    pub retries: u32,
    /// Look for model servers on these loopback ports.
    pub discover_ports: Vec<u16>,
    /// Use the scripted demonstration model if there is nothing else and its program is installed.
    pub demonstration: bool,
}

/// A provider of models.
#[derive(Clone, Debug)]
pub struct ProviderSettings {
    /// The base URL, with the version.
    pub base_url: String,
    /// The wires that it speaks; the first is the one to translate to.
    pub wires: Vec<Wire>,
    /// Calls of tools are held to a JSON schema.
    pub holds_calls: bool,
    /// The key, if it needs one.
    pub api_key: Option<SecretString>,
    /// Keys to use if that one is refused.
    pub more_keys: Vec<SecretString>,
    /// The model to use if a session only names the provider.
    pub default_model: Option<String>,
}

/// A name for a model of a provider.
#[derive(Clone)]
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
    /// Overrides the provider's wires.
    pub wires: Option<Vec<Wire>>,
    /// Overrides whether calls of tools are held to a JSON schema.
    pub holds_calls: Option<bool>,
    /// Added to each request.
    pub extra_headers: BTreeMap<String, String>,
    /// What it costs; nothing is charged if unset, and the usage event says so.
    pub price: Option<Price>,
}

/// Sandboxes.
#[derive(Clone, PartialEq, Eq)]
pub struct SandboxSettings {
    /// `auto`, `namespace` or `process`.
    pub backend: String,
    /// Further folders of this machine, read-only inside (toolchains). Absolute.
    pub read_only: Vec<PathBuf>,
    /// Folders to put in front of `PATH` inside; each is, or is under, one of `read_only`. Absolute.
    pub path: Vec<PathBuf>,
    /// Environment of everything inside.
    pub env: BTreeMap<String, String>,
    /// The bubblewrap program, if it is not where the system keeps programs. Absolute.
    pub bubblewrap: Option<PathBuf>,
    /// Bytes of memory of one sandbox.
    pub memory: Option<u64>,
    /// Thousandths of a processor of one sandbox.
    pub cpu_millis: Option<u32>,
    /// Processes and threads of one sandbox.
    pub pids: Option<u32>,
    /// Open files of each process of one sandbox.
    pub open_files: Option<u32>,
    /// Bytes on disk of one sandbox's workspace and home.
    pub disk: Option<u64>,
    /// Files and folders of one sandbox's workspace and home.
    pub inodes: Option<u32>,
    /// How long one sandbox may live.
    pub wall: Option<Duration>,
    /// Bytes of output of one sandbox's agent in a second.
    pub output_rate: Option<u64>,
    /// Start also where some limits cannot be held.
    pub best_effort: bool,
    /// How long a sandbox lives without its server.
    pub lease: Duration,
    /// How long a session has nothing to do before it falls asleep and its sandbox ends.
    pub idle: Duration,
}

/// Agents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentSettings {
    /// The agent of sessions that name none.
    pub default: String,
    /// What agents may do without asking, where nobody says otherwise.
    pub autonomy: Autonomy,
    /// How hard their models shall think, where somebody says so.
    pub reasoning: Option<Reasoning>,
    /// Agents of the operator's own.
    pub agents: BTreeMap<String, AgentDefinition>,
    /// Where programs are looked for, in this order: folders of the configuration, then those of the server's `PATH`. Absolute.
    pub search: Vec<PathBuf>,
    /// What of this machine sandboxes must not be shown.
    pub hidden: Hidden,
}

/// An agent of the operator's own.
#[derive(Clone, PartialEq, Eq)]
pub struct AgentDefinition {
    /// Program and arguments. Not empty.
    pub command: Vec<String>,
    /// How a plain program gets its prompt; nothing for one that speaks ACP.
    pub plain: Option<PromptVia>,
    /// Its variables.
    pub env: BTreeMap<String, String>,
}

/// The places of this machine that hold keys or our own files.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Hidden {
    /// The server's home; nothing before one is known.
    pub(crate) home: Option<PathBuf>,
    /// The person's own folder.
    pub(crate) person: Option<PathBuf>,
}

/// How often clients may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimitSettings {
    /// Requests in 1000 seconds, as a steady rate.
    pub per_1000_s: NonZeroU32,
    /// Requests at once.
    pub burst: NonZeroU32,
}

/// What nobody needs any more, and how full the disk may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CleanupSettings {
    /// Whether the server looks for it.
    pub enabled: bool,
    /// How long from one pass to the next.
    pub interval: Duration,
    /// How long what belongs to nobody stays.
    pub retention: Duration,
    /// A disk that is so full, in percent, is warned about.
    pub disk_warn_percent: u32,
    /// A disk that is so full, in percent, is an error.
    pub disk_error_percent: u32,
}

/// Logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// True for `json`, false for `text`.
    pub json: bool,
    /// A level, or `target=level` pairs: `info`, `info,ob_gate=debug`.
    pub filter: String,
}

// === impl Settings ===

impl Settings {
    /// Every key and sensitive header value that the settings hold, for [`ob_core::redact::Redactor`].
    pub fn redactor_secrets(&self) -> Vec<String> {
        let models = &self.models;
        let keys = models
            .providers
            .values()
            .flat_map(|provider| provider.api_key.iter().chain(&provider.more_keys))
            .chain(models.aliases.values().filter_map(|alias| alias.api_key.as_ref()))
            .map(|key| key.expose_secret().to_owned());
        let headers = models
            .aliases
            .values()
            .flat_map(|alias| &alias.extra_headers)
            .filter(|(name, _)| is_sensitive_name(name))
            .map(|(_, value)| value.clone());
        let mut secrets: Vec<String> = keys.chain(headers).collect();
        secrets.sort();
        secrets.dedup();
        secrets
    }
}

impl Default for Settings {
    /// What `{}` says, without what depends on the machine: toolchains and clamps.
    fn default() -> Self {
        Self {
            server: ServerSettings::default(),
            limits: LimitSettings::default(),
            models: ModelSettings::default(),
            sandbox: SandboxSettings::default(),
            agents: AgentSettings::default(),
            rate_limit: RateLimitSettings::default(),
            cleanup: CleanupSettings::default(),
            log: LogSettings::default(),
        }
    }
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self { address: DEFAULT_ADDRESS.to_owned() }
    }
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self {
            max_cost: DEFAULT_MAX_COST,
            max_depth: DEFAULT_MAX_DEPTH,
            max_agents: DEFAULT_MAX_AGENTS,
            max_live: None,
            max_wall: None,
        }
    }
}

impl Default for ModelSettings {
    fn default() -> Self {
        Self {
            providers: BTreeMap::new(),
            aliases: BTreeMap::new(),
            session_model: None,
            prices: BTreeMap::new(),
            must_have_price: false,
            retries: DEFAULT_RETRIES,
            discover_ports: DEFAULT_DISCOVER_PORTS.to_vec(),
            demonstration: true,
        }
    }
}

impl Default for SandboxSettings {
    fn default() -> Self {
        Self {
            backend: "auto".to_owned(),
            read_only: Vec::new(),
            path: Vec::new(),
            env: BTreeMap::new(),
            memory: Some(DEFAULT_MEMORY),
            cpu_millis: Some(DEFAULT_CPU_MILLIS),
            pids: Some(DEFAULT_PIDS),
            open_files: Some(DEFAULT_OPEN_FILES),
            disk: Some(DEFAULT_DISK),
            inodes: Some(DEFAULT_INODES),
            wall: Some(DEFAULT_WALL),
            output_rate: Some(DEFAULT_OUTPUT_RATE),
            best_effort: false,
            bubblewrap: None,
            lease: DEFAULT_LEASE,
            idle: DEFAULT_RETENTION,
        }
    }
}

impl Default for AgentSettings {
    fn default() -> Self {
        Self {
            default: BUILTIN.to_owned(),
            autonomy: Autonomy::default(),
            reasoning: None,
            agents: BTreeMap::new(),
            search: Vec::new(),
            hidden: Hidden::default(),
        }
    }
}

impl Hidden {
    /// Why sandboxes must not be shown this file or folder, if so.
    pub fn why_not(&self, path: &Path) -> Option<&'static str> {
        read_only::why_not(path, self.home.as_deref()?, self.person.as_deref())
    }
}

impl fmt::Debug for Hidden {
    /// Where they are differs from machine to machine.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hidden")
    }
}

impl Default for RateLimitSettings {
    fn default() -> Self {
        Self { per_1000_s: DEFAULT_REQUESTS_PER_1000_S, burst: DEFAULT_BURST }
    }
}

impl Default for CleanupSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            interval: DEFAULT_CLEANUP_INTERVAL,
            retention: DEFAULT_RETENTION,
            disk_warn_percent: DEFAULT_DISK_WARN_PERCENT,
            disk_error_percent: DEFAULT_DISK_ERROR_PERCENT,
        }
    }
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { json: false, filter: DEFAULT_FILTER.to_owned() }
    }
}

impl fmt::Debug for ModelAlias {
    /// Header values are left out: people put keys into them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelAlias")
            .field("provider", &self.provider)
            .field("model", &self.model)
            .field("base_url", &self.base_url)
            .field("api_key", &self.api_key)
            .field("max_output_tokens", &self.max_output_tokens)
            .field("wires", &self.wires)
            .field("holds_calls", &self.holds_calls)
            .field("extra_headers", &self.extra_headers.keys().collect::<Vec<_>>())
            .field("price", &self.price)
            .finish()
    }
}

impl fmt::Debug for AgentDefinition {
    /// Values of the environment are left out: people put tokens into them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentDefinition")
            .field("command", &self.command)
            .field("plain", &self.plain)
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .finish()
    }
}

impl fmt::Debug for SandboxSettings {
    /// Values of the environment are left out: people put tokens into them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SandboxSettings")
            .field("backend", &self.backend)
            .field("read_only", &self.read_only)
            .field("path", &self.path)
            .field("bubblewrap", &self.bubblewrap)
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .field("memory", &self.memory)
            .field("cpu_millis", &self.cpu_millis)
            .field("pids", &self.pids)
            .field("open_files", &self.open_files)
            .field("disk", &self.disk)
            .field("inodes", &self.inodes)
            .field("wall", &self.wall)
            .field("output_rate", &self.output_rate)
            .field("best_effort", &self.best_effort)
            .field("lease", &self.lease)
            .field("idle", &self.idle)
            .finish()
    }
}

/// True if the value of a header, a variable or a key of this name is to be kept secret.
pub fn is_sensitive_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["auth", "key", "token", "secret", "cookie", "password"].iter().any(|word| name.contains(word))
}
