//! Configuration: files and environment into one typed tree, with the origin of each value. No other crate reads the
//! environment.
//!
//! ```text
//! home (where) -> file: jsonc or yaml (to tree) -> env (variables over it) -> check (every key by the schema)
//!              -> resolve (what the keys mean together) -> Settings
//! ```
//!
//! **Invariant:** all mistakes are told at once, each with its place, what is allowed and, for a wrong name, the name
//! that was probably meant. No message, `Debug` or origin holds a key.

mod address;
mod check;
mod env;
mod file;
mod fresh;
mod home;
mod json_schema;
mod jsonc;
mod migrate;
mod read_only;
mod reference;
mod resolve;
mod schema;
mod settings;
mod sizes;
mod tree;
mod values;
mod watch;
mod yaml;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use ob_core::Home;
use ob_core::redact::Redactor;

use home::known::Known;

pub use address::bind_addresses;
pub use env::VARIABLES;
pub use env::Variable;
pub use fresh::write_default;
pub use home::DEFAULT_FILE;
pub use home::FILE_V2;
pub use home::FoundBy;
pub use home::make_home;
pub use home::make_runtime;
pub use json_schema::json_schema;
pub use migrate::MigrateError;
pub use migrate::Migration;
pub use reference::KeyReference;
pub use reference::reference;
pub use reference::reference_later;
pub use settings::AgentDefinition;
pub use settings::AgentSettings;
pub use settings::CleanupSettings;
pub use settings::DEFAULT_ADDRESS;
pub use settings::DEFAULT_BURST;
pub use settings::DEFAULT_CLEANUP_INTERVAL;
pub use settings::DEFAULT_CPU_MILLIS;
pub use settings::DEFAULT_DISCOVER_PORTS;
pub use settings::DEFAULT_DISK;
pub use settings::DEFAULT_DISK_ERROR_PERCENT;
pub use settings::DEFAULT_DISK_WARN_PERCENT;
pub use settings::DEFAULT_FILTER;
pub use settings::DEFAULT_INODES;
pub use settings::DEFAULT_LEASE;
pub use settings::DEFAULT_MAX_COST;
pub use settings::DEFAULT_MEMORY;
pub use settings::DEFAULT_OPEN_FILES;
pub use settings::DEFAULT_OUTPUT_RATE;
pub use settings::DEFAULT_PIDS;
pub use settings::DEFAULT_REQUESTS_PER_1000_S;
pub use settings::DEFAULT_RETENTION;
pub use settings::DEFAULT_WALL;
pub use settings::Hidden;
pub use settings::LimitSettings;
pub use settings::LogSettings;
pub use settings::ModelAlias;
pub use settings::ModelSettings;
pub use settings::ProviderSettings;
pub use settings::RateLimitSettings;
pub use settings::SandboxSettings;
pub use settings::ServerSettings;
pub use settings::Settings;
pub use settings::is_sensitive_name;
pub use sizes::parse_size;
pub use sizes::parse_thousandths;
pub use values::Change;
pub use values::ConfigValue;
pub use values::after_reload;
pub use values::changes;
pub use values::default_values;
pub use watch::Watch;
pub use watch::watch;

/// Where to look.
#[derive(Clone, Default)]
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

/// What was found.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The home.
    pub home: Home,
    /// The configuration file, if there is one.
    pub file: Option<PathBuf>,
    /// The rule that found the home.
    pub found_by: FoundBy,
    /// The settings.
    pub settings: Settings,
    /// Where each value that is not a default came from: key path to `file:line:column` or a variable's name.
    pub origins: BTreeMap<String, String>,
    /// Every value in effect, by path; secrets are not shown.
    pub values: Vec<ConfigValue>,
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

/// What the machine has, for clamping.
#[derive(Clone, Copy, Debug)]
struct Machine {
    memory: u64,
    cpu_millis: u32,
}

/// Finds the home and reads its configuration. Does not make anything.
pub fn load(options: &LoadOptions) -> Result<Loaded, Mistakes> {
    load_on(options, Machine::this())
}

/// The same for who must go on with a configuration that has mistakes, as to stop a server: what is wrong is as if it
/// was not there, and is told beside. Fails only if there is no telling where the home is.
pub fn load_anyway(options: &LoadOptions) -> Result<(Loaded, Mistakes), Mistakes> {
    read(options, Machine::this(), |_| None).map_err(Mistakes::without_secrets)
}

fn load_on(options: &LoadOptions, machine: Machine) -> Result<Loaded, Mistakes> {
    let (loaded, mistakes) = read(options, machine, |_| None).map_err(Mistakes::without_secrets)?;
    if mistakes.0.is_empty() { Ok(loaded) } else { Err(mistakes) }
}

/// Reads everything. `instead` may give a tree to read in place of the home's file.
fn read(
    options: &LoadOptions,
    machine: Machine,
    instead: impl FnOnce(&mut home::Found) -> Option<tree::Node>,
) -> Result<(Loaded, Mistakes), Mistakes> {
    let environment = env::Environment::new(&options.env)?;
    let mut found = home::find(options, &environment)?;
    let instead = instead(&mut found);
    let mut mistakes = Vec::new();
    let file = match (&instead, &found.file) {
        (None, Some(path)) => file::read(path).unwrap_or_else(|mistake| {
            mistakes.push(mistake);
            None
        }),
        _ => None,
    };
    let is_unreadable = !mistakes.is_empty();
    let mut warnings = found.warnings();
    let name = found.file.clone().unwrap_or_default();
    let (root, mode) =
        file.map_or((instead.unwrap_or_else(tree::Node::empty), 0o600), |file| (file.root, file.mode));
    let root = env::overlay(root, &environment, &mut mistakes, &mut warnings);
    let findings = check::check(&root, &name.display().to_string());
    if findings.holds_file_secret && mode & 0o077 != 0 {
        let name = name.display();
        warnings.push(format!("{name} holds a key and others can read it; fix: chmod 600 {name}"));
    }
    let values = values::in_effect(&findings, &Redactor::default());
    let resolved = resolve::resolve(findings, &found, &environment, machine);
    if !is_unreadable {
        // What follows from a file that cannot be read is no news.
        mistakes.extend(resolved.mistakes);
    }
    warnings.extend(resolved.warnings);
    let loaded = Loaded {
        home: resolved.home,
        found_by: found.by,
        file: found.file,
        settings: resolved.settings,
        origins: resolved.origins,
        values,
        warnings,
    };
    Ok((loaded, Mistakes(mistakes).without_secrets()))
}

/// Notes that this person named the home of `loaded`, or made it in the working directory, so that it is known when it is
/// only found. For who is about to make what is missing of it.
pub fn note_home(options: &LoadOptions, loaded: &Loaded) -> std::io::Result<()> {
    let known = match loaded.found_by {
        FoundBy::Dir | FoundBy::Variable | FoundBy::ConfigFile => Known::Named,
        FoundBy::WorkingDirectory => Known::Made,
        FoundBy::Person => return Ok(()),
    };
    let Ok(environment) = env::Environment::new(&options.env) else { return Ok(()) };
    home::known::note(loaded.home.root(), known, &environment)
}

// === impl LoadOptions ===

impl LoadOptions {
    /// Looks where this process stands: its environment, its working directory, its user.
    ///
    /// # Errors
    /// If the working directory is gone or cannot be read.
    pub fn of_this_process(dir: Option<PathBuf>, config_file: Option<PathBuf>) -> std::io::Result<Self> {
        Ok(Self {
            dir,
            config_file,
            env: std::env::vars_os().collect(),
            cwd: std::env::current_dir()?,
            uid: rustix::process::geteuid().as_raw(),
        })
    }
}

impl fmt::Debug for LoadOptions {
    /// Values of variables are left out: some are keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadOptions")
            .field("dir", &self.dir)
            .field("config_file", &self.config_file)
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .field("cwd", &self.cwd)
            .field("uid", &self.uid)
            .finish()
    }
}

// === impl Mistake ===

impl Mistake {
    fn new(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self { place: place.into(), what: what.into() }
    }
}

impl From<Mistake> for Mistakes {
    fn from(mistake: Mistake) -> Self {
        Self(vec![mistake])
    }
}

// === impl Mistakes ===

impl Mistakes {
    /// A key that was pasted into a wrong place would be quoted as what is wrong there.
    fn without_secrets(self) -> Self {
        let redactor = Redactor::default();
        let clean = |text: String| redactor.redact(&text).into_owned();
        Self(self.0.into_iter().map(|m| Mistake { place: clean(m.place), what: clean(m.what) }).collect())
    }
}

// === impl Machine ===

impl Machine {
    fn this() -> Self {
        let info = rustix::system::sysinfo();
        let memory = info.totalram.saturating_mul(u64::from(info.mem_unit));
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Self { memory, cpu_millis: u32::try_from(cpus).unwrap_or(u32::MAX).saturating_mul(1000) }
    }
}

#[cfg(test)]
mod tests;
