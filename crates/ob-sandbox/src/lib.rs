//! Sandboxes: isolated places, one for each session, and the link to the guest in them.
//!
//! A [`Backend`] has one job: start the guest as the first process of an isolated place, with a workspace's files and
//! the gate's folder, report how that place ended, and end it. Everything else runs over the [`link::Guest`].

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ob_core::Refusal;
use ob_core::Timestamp;
use serde::Deserialize;
use serde::Serialize;

pub mod link;
pub mod machine;
pub mod namespace;

pub use namespace::give_to;

/// What to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// Names the sandbox; 1 to 32 of `[a-z0-9-]`, unique among those that run.
    pub id: String,
    /// The sandbox's runtime folder on the host. The backend makes it and what it needs in it.
    pub runtime: PathBuf,
    /// The folder on the host that holds the gate's socket `gate.sock`; seen inside, read-only, at
    /// [`ob_core::link::GATE_DIR`].
    pub gate_dir: PathBuf,
    /// The working directory.
    pub workspace: WorkspaceMount,
    /// The agent's private home on the host; writable inside at [`ob_core::link::HOME_DIR`]. A private empty one in
    /// memory if unset.
    pub home: Option<PathBuf>,
    /// Further folders or files of the host, read-only inside at the same path (toolchains).
    pub read_only: Vec<PathBuf>,
    /// Folders or files of the host, read-only inside at another path.
    pub read_only_at: Vec<(PathBuf, String)>,
    /// Environment of everything inside, besides `PATH`, `HOME`, `LANG`, `TERM` and the gate's variables.
    pub env: Vec<(String, String)>,
    /// The unprivileged host uid and gid that the sandbox runs as, if the server is root. Never 0.
    pub host_uid: u32,
    /// What it may use.
    pub limits: Limits,
    /// How long it lives without its server before it ends itself.
    pub lease: Duration,
}

/// A workspace inside a sandbox, always at [`ob_core::link::WORKSPACE_DIR`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkspaceMount {
    /// The folder on the host.
    pub path: PathBuf,
    /// False for looking only.
    pub writable: bool,
    /// The folder belongs to the user: `.git/hooks` and `.git/config` are read-only inside, and files keep the
    /// owner that the folder has on the host.
    pub in_place: bool,
}

/// What a sandbox may use. `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u32>,
    /// Thousandths of a processor.
    pub cpu_millis: Option<u32>,
}

/// How much of the asked limits a machine enforces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Enforcement {
    /// All of them.
    Full,
    /// Some or none; shown on the session.
    BestEffort,
}

/// A sandbox that was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// How much of its limits is enforced.
    pub enforcement: Enforcement,
}

/// How a sandbox ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxEnd {
    /// In words: `ended by its server`, `lease ran out`, `first process exited with code 1`, …
    pub reason: String,
    /// When.
    pub at: Timestamp,
}

/// Why a sandbox could not be started, found or ended.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// This machine or this build cannot; says what mends it.
    #[error("{0}")]
    Refused(Refusal),
    /// It was tried and failed.
    #[error("sandbox {id}: {what}")]
    Failed {
        /// Which.
        id: String,
        /// What failed.
        what: String,
    },
}

/// Makes and ends sandboxes. One implementation for each kind of isolation.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// Its name in configuration and records.
    fn name(&self) -> &'static str;

    /// What this machine lacks for it, if anything, with the fix.
    async fn check(&self) -> Result<(), Refusal>;

    /// Starts the guest in a new sandbox. Returns when the sandbox is being set up; the guest dials the gate when it is
    /// there. The sandbox outlives this process.
    async fn start(&self, spec: &SandboxSpec) -> Result<Started, SandboxError>;

    /// Takes care of a sandbox that an earlier server started: `None` if it still runs, else how it ended (also if
    /// nothing is known of it).
    async fn adopt(&self, id: &str, runtime: &std::path::Path) -> Result<Option<SandboxEnd>, SandboxError>;

    /// Waits until the sandbox has ended. It must have been started or adopted.
    async fn ended(&self, id: &str, runtime: &std::path::Path) -> SandboxEnd;

    /// Ends it and everything in it, waits for that, and removes its runtime folder. Idempotent.
    async fn end(&self, id: &str, runtime: &std::path::Path) -> Result<(), SandboxError>;
}

/// A backend that everyone shares.
pub type SharedBackend = Arc<dyn Backend>;
