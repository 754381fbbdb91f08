//! Configuration: files and environment into one typed tree, with the origin of each value. No other crate reads the
//! environment.
//!
//! ```text
//! home (where) -> jsonc (file to tree) -> env (variables over it) -> check (every key by the schema)
//!              -> resolve (what the keys mean together) -> Settings
//! ```
//!
//! **Invariant:** all mistakes are told at once, each with its place, what is allowed and, for a wrong name, the name
//! that was probably meant. No message, `Debug` or origin holds a key.

mod address;
mod check;
mod env;
mod home;
mod jsonc;
mod read_only;
mod reference;
mod resolve;
mod schema;
mod settings;
mod sizes;
mod tree;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use ob_core::Home;
use ob_core::redact::Redactor;

pub use address::bind_addresses;
pub use env::VARIABLES;
pub use env::Variable;
pub use home::DEFAULT_FILE;
pub use home::make_home;
pub use home::make_runtime;
pub use reference::KeyReference;
pub use reference::reference;
pub use reference::reference_later;
pub use settings::DEFAULT_ADDRESS;
pub use settings::DEFAULT_CPU_MILLIS;
pub use settings::DEFAULT_DISCOVER_PORTS;
pub use settings::DEFAULT_FILTER;
pub use settings::DEFAULT_IDLE;
pub use settings::DEFAULT_LEASE;
pub use settings::DEFAULT_MAX_COST;
pub use settings::DEFAULT_MEMORY;
pub use settings::DEFAULT_PIDS;
pub use settings::LimitSettings;
pub use settings::LogSettings;
pub use settings::ModelAlias;
pub use settings::ModelSettings;
pub use settings::ProviderSettings;
pub use settings::SandboxSettings;
pub use settings::ServerSettings;
pub use settings::Settings;

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

fn load_on(options: &LoadOptions, machine: Machine) -> Result<Loaded, Mistakes> {
    let read = || {
        let environment = env::Environment::new(&options.env)?;
        let found = home::find(options, &environment)?;
        let file = match &found.file {
            Some(path) => jsonc::read_file(path)?,
            None => None,
        };
        let mut warnings = found.warnings();
        let mut mistakes = Vec::new();
        let name = found.file.clone().unwrap_or_default();
        let (root, mode) = file.map_or((tree::Node::empty(), 0o600), |file| (file.root, file.mode));
        let root = env::overlay(root, &environment, &mut mistakes, &mut warnings);
        let findings = check::check(&root, &name.display().to_string());
        if findings.holds_file_secret && mode & 0o077 != 0 {
            let name = name.display();
            warnings.push(format!("{name} holds a key and others can read it; fix: chmod 600 {name}"));
        }
        let resolved = resolve::resolve(findings, &found, &environment, machine);
        mistakes.extend(resolved.mistakes);
        warnings.extend(resolved.warnings);
        if mistakes.is_empty() {
            Ok(Loaded { home: found.home, settings: resolved.settings, origins: resolved.origins, warnings })
        } else {
            Err(Mistakes(mistakes))
        }
    };
    read().map_err(Mistakes::without_secrets)
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
