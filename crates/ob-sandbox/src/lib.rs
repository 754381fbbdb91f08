//! Sandboxes: isolated places, one for each session, and the link to the guest in them.
//!
//! A [`Backend`] has one job: start the guest as the first process of an isolated place, with a workspace's files and
//! the gate's folder, report how that place ended, and end it. Everything else runs over the [`link::Guest`].

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ob_core::Epoch;
use ob_core::Refusal;
use ob_core::Timestamp;
use ob_core::link::GUEST_PROGRAM;
use ob_core::link::WORKSPACE_DIR;
use ob_core::resource::Enforcement;
use ob_core::resource::LimitHit;
use ob_core::resource::Means;
use ob_core::resource::Resource;
use serde::Deserialize;
use serde::Serialize;
use tokio::sync::mpsc;

#[cfg(feature = "conformance")]
pub mod conformance;
mod host;
pub mod link;
pub mod machine;
pub mod namespace;
pub mod process;
pub mod turns;

pub use host::GuestImage;
pub use host::Hierarchy;
pub use host::Turn;
pub use host::give_to;

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
    /// The server that makes it.
    pub epoch: Epoch,
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
    /// Bytes of memory, files in memory (`/tmp`) included.
    pub memory: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u32>,
    /// Thousandths of a processor.
    pub cpu_millis: Option<u32>,
    /// Open files of each process.
    pub open_files: Option<u32>,
    /// Bytes on disk of the workspace and the home together; of a folder in place, what is added to it.
    pub disk: Option<u64>,
    /// Files and folders of the workspace and the home together; of a folder in place, what is added to it.
    pub inodes: Option<u64>,
    /// How long it lives.
    pub wall: Option<Duration>,
    /// Bytes a second of its agent's output. Held by whoever reads it, see [`link::Pace`].
    pub output_rate: Option<u64>,
    /// Start also where some of them cannot be held; they are marked. Else such a start is refused.
    pub best_effort: bool,
}

/// Where a sandbox has its things, as processes in it see them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inside {
    /// The working directory.
    pub workspace: String,
    /// The guest program.
    pub guest: String,
    /// What [`SandboxSpec::read_only_at`] names, in its order.
    pub read_only_at: Vec<String>,
}

/// What holds a backend's sandboxes from within, besides its own way of isolating. The same for all of them on a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Walls {
    /// System calls are filtered.
    pub system_calls: bool,
    /// The version of Landlock's interface that restricts them; `None` where the kernel has none of use.
    pub landlock: Option<u32>,
}

/// A sandbox that was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// How each of its limits is held.
    pub enforcement: Enforcement,
}

/// How a sandbox ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxEnd {
    /// In words: `ended by its server`, `lease ran out`, `first process exited with code 1`, …
    pub reason: String,
    /// When.
    pub at: Timestamp,
    /// The limit that it was ended for, if that is why.
    #[serde(default)]
    pub limit: Option<LimitHit>,
}

/// Why a sandbox could not be started, found or ended.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// This machine or this build cannot; says what mends it.
    #[error("{0}")]
    Refused(Refusal),
    /// A later server owns it.
    #[error("sandbox {id} belongs to a later server")]
    Owned {
        /// Which.
        id: String,
    },
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

    /// True if a sandbox of it keeps what runs inside from the machine and from other sandboxes.
    fn isolates(&self) -> bool {
        true
    }

    /// Whether this machine holds these limits, as far as can be told before a start.
    ///
    /// # Errors
    /// Names the limits that it does not hold, unless the limits accept that.
    fn holds(&self, limits: &Limits) -> Result<(), Refusal> {
        let _: &Limits = limits;
        Ok(())
    }

    /// Where a sandbox of this specification has its things.
    fn inside(&self, spec: &SandboxSpec) -> Inside {
        Inside {
            workspace: WORKSPACE_DIR.to_owned(),
            guest: GUEST_PROGRAM.to_owned(),
            read_only_at: spec.read_only_at.iter().map(|(_, target)| target.clone()).collect(),
        }
    }

    /// What holds its sandboxes from within. One that cannot have all of this is not started.
    fn walls(&self) -> Walls {
        Walls::default()
    }

    /// Waits for this server's turn in a sandbox's runtime folder, for what others than the backend put there: the gate's
    /// socket. Makes the folder. No other server touches it meanwhile, and neither does a start or an end of this one.
    ///
    /// # Errors
    /// [`SandboxError::Owned`] if a later server owns it.
    async fn turn(&self, id: &str, runtime: &std::path::Path, epoch: Epoch) -> Result<Turn, SandboxError> {
        let _: (&str, &std::path::Path, Epoch) = (id, runtime, epoch);
        Ok(Turn::default())
    }

    /// Starts the guest in a new sandbox. Returns when the sandbox is being set up; the guest dials the gate when it is
    /// there. The sandbox outlives this process.
    async fn start(&self, spec: &SandboxSpec) -> Result<Started, SandboxError>;

    /// Takes care of a sandbox that an earlier server started: `None` if it still runs, else how it ended (also if
    /// nothing is known of it). From now on it belongs to the server of this epoch.
    ///
    /// # Errors
    /// [`SandboxError::Owned`] if a later server owns it.
    async fn adopt(
        &self,
        id: &str,
        runtime: &std::path::Path,
        epoch: Epoch,
    ) -> Result<Option<SandboxEnd>, SandboxError>;

    /// How the limits of a sandbox are held, also of one that an earlier server started. `None` if nothing is known.
    async fn enforcement(&self, runtime: &std::path::Path) -> Option<Enforcement> {
        host::recorded_enforcement(runtime)
    }

    /// Limits that a sandbox which was started or adopted runs into from now on, and those that no server has heard
    /// of. There is one receiver; it ends with the sandbox.
    fn limit_hits(&self, id: &str) -> Option<mpsc::Receiver<LimitHit>> {
        let _: &str = id;
        None
    }

    /// Waits until the sandbox has ended. It must have been started or adopted.
    async fn ended(&self, id: &str, runtime: &std::path::Path) -> SandboxEnd;

    /// Ends it and everything in it, waits for that, and removes its runtime folder. Idempotent.
    ///
    /// # Errors
    /// [`SandboxError::Owned`] if a later server than that of this epoch owns it: it goes on then. Whether that is so is
    /// looked at and acted upon in one step, so that a server which was stopped in between ends nobody else's sandbox.
    async fn end(&self, id: &str, runtime: &std::path::Path, epoch: Epoch) -> Result<(), SandboxError>;
}

// === impl Limits ===

impl Limits {
    /// No limit.
    pub const NONE: Self = Self {
        memory: None,
        pids: None,
        cpu_millis: None,
        open_files: None,
        disk: None,
        inodes: None,
        wall: None,
        output_rate: None,
        best_effort: false,
    };

    /// Sets one, in the unit of its resource; what is too large to count is the most that can be.
    pub fn set(&mut self, resource: Resource, amount: u64) {
        let number = u32::try_from(amount).unwrap_or(u32::MAX);
        match resource {
            Resource::Memory => self.memory = Some(amount),
            Resource::Pids => self.pids = Some(number),
            Resource::Cpu => self.cpu_millis = Some(number),
            Resource::OpenFiles => self.open_files = Some(number),
            Resource::Disk => self.disk = Some(amount),
            Resource::Inodes => self.inodes = Some(amount),
            Resource::WallTime => self.wall = Some(Duration::from_millis(amount)),
            Resource::OutputRate => self.output_rate = Some(amount),
        }
    }

    /// Those that are set, in the unit of their resource.
    pub fn bounds(&self) -> Vec<(Resource, u64)> {
        let wall = self.wall.map(|wall| u64::try_from(wall.as_millis()).unwrap_or(u64::MAX));
        [
            (Resource::Memory, self.memory),
            (Resource::Pids, self.pids.map(u64::from)),
            (Resource::Cpu, self.cpu_millis.map(u64::from)),
            (Resource::OpenFiles, self.open_files.map(u64::from)),
            (Resource::Disk, self.disk),
            (Resource::Inodes, self.inodes),
            (Resource::WallTime, wall),
            (Resource::OutputRate, self.output_rate),
        ]
        .into_iter()
        .filter_map(|(resource, bound)| Some((resource, bound?)))
        .collect()
    }

    /// How those are held that need no control group.
    fn without_groups(&self) -> Enforcement {
        let means = |resource| match resource {
            Resource::OpenFiles => Some(Means::Rlimit),
            Resource::Disk | Resource::Inodes | Resource::WallTime => Some(Means::Watch),
            Resource::OutputRate => Some(Means::FlowControl),
            Resource::Memory | Resource::Pids | Resource::Cpu => None,
        };
        let held = self.bounds().into_iter().filter_map(|(resource, _)| Some((resource, means(resource)?)));
        Enforcement(held.collect())
    }
}

/// A backend that everyone shares.
pub type SharedBackend = Arc<dyn Backend>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_that_is_set_is_found_again() {
        let mut limits = Limits::NONE;
        assert_eq!(limits.bounds(), []);
        for resource in Resource::ALL {
            limits.set(resource, 70_000);
        }
        assert_eq!(limits.bounds(), Resource::ALL.map(|resource| (resource, 70_000)));
    }
}
