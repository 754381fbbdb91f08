//! The namespace backend: sandboxes made by bubblewrap from the kernel's namespaces, each under its own launcher.
//!
//! ```text
//! server --spawns--> launcher --parent of--> bubblewrap --parent of--> first process (the guest) -- agents' processes
//!    \--hold / end---^ control.sock              \-- dies with the launcher     \-- dies with bubblewrap
//! ```
//!
//! Invariants: a sandbox never has the host's uid 0; no command line of it that the host can see has the product's
//! name; it outlives the server by its lease and no longer; when it has ended, no process, mount or control group of
//! it is left. The design is in `docs/design/sandbox.md`.

pub(crate) mod check;
mod etc;
mod git;
pub mod landlock;
pub mod policy;
pub mod protection;
pub mod seccomp;

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::time::Duration;
use std::time::Instant;

use async_trait::async_trait;
use base64::Engine as _;
use ob_core::Epoch;
use ob_core::Refusal;
use ob_core::cage::Cage;
use ob_core::launch::Bound;
use ob_core::launch::FIRST_DATA_FD;
use ob_core::launch::LaunchPlan;
use ob_core::launch::Owner;
use ob_core::launch::ProcessLimit;
use ob_core::launch::ProcessLimitKind;
use ob_core::link::GUEST_PROGRAM;
use ob_core::resource::Enforcement;
use ob_core::resource::LimitHit;
use ob_core::resource::Means;
use ob_core::resource::Resource;
use tokio::sync::mpsc;

pub use crate::host::GuestImage;
pub use crate::host::Hierarchy;
pub use crate::host::give_to;

use self::policy::HostLayout;
use self::policy::Mount;
use self::policy::Policy;
use self::protection::Protection;
use self::protection::Protections;
use crate::Backend;
use crate::Limits;
use crate::SandboxEnd;
use crate::SandboxError;
use crate::SandboxSpec;
use crate::Started;
use crate::Turn;
use crate::Walls;
use crate::host::GuestProgram;
use crate::host::Launched;
use crate::host::Sources;
use crate::host::check_spec;
use crate::host::watched;

/// Bounds of each process inside, whatever the server itself may.
pub(crate) const BOUNDS: [(Bound, u64); 5] = [
    (Bound::Core, 1),
    (Bound::Memlock, 8 << 20),
    (Bound::Msgqueue, 800 << 10),
    (Bound::Nice, 0),
    (Bound::Rtprio, 0),
];
/// Permissions that new files inside do not get, unless a program says otherwise.
const UMASK: u32 = 0o022;

/// What the backend needs to know.
#[derive(Clone, Debug)]
pub struct NamespaceOptions {
    /// The guest program.
    pub guest: GuestImage,
    /// The folder that the guest program and the sandboxes' `/etc` are unpacked to; made if missing.
    pub programs: PathBuf,
    /// bubblewrap, if it is not to be found in the system's program folders.
    pub bwrap: Option<PathBuf>,
    /// Instead of the guest, the first process of every sandbox. For tests of the walls.
    pub first_process: Option<Vec<String>>,
}

/// The machine is tried, which makes a sandbox, no more often than this; only a good answer is kept.
const CHECK_HOLDS: Duration = Duration::from_secs(30);

/// Makes sandboxes with bubblewrap.
#[derive(Debug)]
pub struct NamespaceBackend {
    options: NamespaceOptions,
    is_root: bool,
    filters: Result<Vec<Vec<u8>>, String>,
    host: OnceLock<Host>,
    program: GuestProgram,
    launched: Launched,
    protections: Protections,
    /// When the machine was last found able.
    checked_at: Mutex<Option<Instant>>,
}

/// What is found out about the machine once.
#[derive(Debug)]
struct Host {
    layout: HostLayout,
    groups: Hierarchy,
}

// === impl NamespaceBackend ===

impl NamespaceBackend {
    /// A backend; looks at nothing yet but the options. Its methods need a tokio runtime.
    pub fn new(options: NamespaceOptions) -> Self {
        Self::with(options, Protections::default())
    }

    /// A backend whose sandboxes lack these protections, for the controls of tests: what a protection denies must work
    /// without it. No shipped program is built with this.
    #[cfg(feature = "weakened")]
    pub fn weakened(options: NamespaceOptions, left_out: &[Protection]) -> Self {
        Self::with(options, Protections::without(left_out))
    }

    fn with(options: NamespaceOptions, protections: Protections) -> Self {
        let filters =
            if protections.has(Protection::SystemCalls) { seccomp::filters() } else { Ok(Vec::new()) };
        Self {
            program: GuestProgram::new(options.guest.clone(), options.programs.clone()),
            options,
            is_root: rustix::process::geteuid().is_root(),
            filters: filters.map_err(|error| error.to_string()),
            host: OnceLock::new(),
            launched: Launched::default(),
            protections,
            checked_at: Mutex::default(),
        }
    }

    fn host(&self) -> &Host {
        self.host.get_or_init(|| Host { layout: HostLayout::read(), groups: Hierarchy::detect() })
    }

    fn filters(&self) -> Result<&[Vec<u8>], Refusal> {
        self.filters.as_deref().map_err(|what| {
            Refusal::unavailable(what.clone()).fix("use x86-64 or 64-bit ARM, or another sandbox backend")
        })
    }

    /// The same backend with other control groups than this machine's. For tests of machines that have fewer.
    #[must_use]
    pub fn with_groups(self, groups: Hierarchy) -> Self {
        let layout = HostLayout::read();
        Self { host: OnceLock::from(Host { layout, groups }), ..self }
    }

    /// How the limits of the sandbox in this runtime folder are held, if all goes well.
    fn enforcement_of(&self, runtime: &Path, limits: &Limits) -> Enforcement {
        let mut enforcement = limits.without_groups();
        enforcement.0.extend(self.host().groups.groups(runtime, limits).enforcement.0);
        if enforcement.of(Resource::Pids) == Some(Means::None) && counts_by_namespace() {
            enforcement.set(Resource::Pids, Means::Rlimit);
        }
        enforcement
    }

    /// The plan of a sandbox.
    fn plan(&self, spec: &SandboxSpec, guest: &Path) -> Result<LaunchPlan, Refusal> {
        let mut sources = Sources { user: self.is_root.then_some(spec.host_uid), stage: Vec::new() };
        let workspace = &spec.workspace;
        let owner = if self.is_root { self.workspace_owner(spec)? } else { None };
        let git = if workspace.in_place && workspace.writable {
            git::protect(&workspace.path, owner)?
        } else {
            git::Protection::default()
        };
        let mut read_only = Vec::new();
        let same = spec.read_only.iter().map(|path| (path, path.to_string_lossy().into_owned()));
        let other = spec.read_only_at.iter().map(|(path, target)| (path, target.clone()));
        for (path, target) in same.chain(other) {
            policy::check_target(&target)?;
            read_only.push(Mount { source: sources.add(path, true, None)?, target });
        }
        for (name, value) in &spec.env {
            policy::check_variable(name, value)?;
        }
        let filters = self.filters()?;
        let filter_fds: Vec<u32> = (FIRST_DATA_FD..).take(filters.len()).collect();
        let etc = etc::image(&self.options.programs).map_err(|error| {
            Refusal::unavailable(format!(
                "cannot make a copy of /etc in {}: {error}",
                self.options.programs.display()
            ))
            .fix("make room, and the folder writable for the server")
        })?;
        let policy = Policy {
            layout: self.host().layout.clone(),
            etc: sources.add(&etc, true, None)?,
            workspace: sources.add(&workspace.path, !workspace.writable, owner)?,
            workspace_writable: workspace.writable,
            git: git.mounts,
            home: spec.home.as_deref().map(|home| sources.add(home, false, None)).transpose()?,
            gate: sources.add(&spec.gate_dir, true, None)?,
            guest: sources.add(guest, true, None)?,
            read_only,
            env: spec.env.clone(),
            cage_fd: filter_fds.last().map_or(FIRST_DATA_FD, |last| last + 1),
            filter_fds,
            protections: self.protections.clone(),
            memory_files: [spec.limits.disk, spec.limits.memory].into_iter().flatten().min(),
        };
        let cage = serde_json::to_vec(&self.cage(&policy)).map_err(|error| {
            Refusal::invalid(format!("a path of the sandbox cannot be written: {error}")).fix("use UTF-8")
        })?;
        let encode = |bytes: &Vec<u8>| base64::engine::general_purpose::STANDARD.encode(bytes);
        let data = filters.iter().chain([&cage]).map(encode).collect();
        // Without control groups nothing that needs them is asked for: a control must start.
        let limits = match self.protections.has(Protection::ControlGroups) {
            true => spec.limits,
            false => Limits { memory: None, pids: None, cpu_millis: None, ..spec.limits },
        };
        let groups = self.host().groups.groups(&spec.runtime, &limits);
        let enforcement = self.enforcement_of(&spec.runtime, &limits);
        let rlimits = rlimits(&limits, enforcement.of(Resource::Pids) == Some(Means::Rlimit));
        let command = match &self.options.first_process {
            None => vec![GUEST_PROGRAM.to_owned()],
            Some(words) => [GUEST_PROGRAM, "exec"].map(str::to_owned).iter().chain(words).cloned().collect(),
        };
        let plan = LaunchPlan {
            runtime: spec.runtime.clone(),
            bwrap: check::find_bubblewrap(self.options.bwrap.as_deref())?,
            args: policy.argv(),
            command,
            direct: None,
            keeps_environment: !self.protections.has(Protection::Environment),
            data,
            stage: sources.stage,
            user: sources.user,
            bounds: if self.protections.has(Protection::Bounds) { BOUNDS.to_vec() } else { Vec::new() },
            groups: groups.wanted,
            rlimits,
            watch: watched(spec, &[]),
            enforcement,
            placeholders: git.placeholders,
            lease_ms: u64::try_from(spec.lease.as_millis()).unwrap_or(u64::MAX),
            epoch: spec.epoch,
        };
        Ok(plan)
    }

    /// What the first process is to give up before anything else.
    fn cage(&self, policy: &Policy) -> Cage {
        Cage {
            landlock: self.landlock().map(|abi| landlock::order(policy, abi)),
            umask: UMASK,
            is_guest_hidden: self.protections.has(Protection::HiddenGuest),
        }
    }

    /// The version of Landlock that restricts sandboxes on this machine, if any does.
    fn landlock(&self) -> Option<u32> {
        landlock::usable(landlock::kernel()).filter(|_| self.protections.has(Protection::Landlock))
    }

    /// The owner to keep on disk, if the workspace is a user's folder. One that is ours must belong to the sandbox.
    fn workspace_owner(&self, spec: &SandboxSpec) -> Result<Option<Owner>, Refusal> {
        let path = &spec.workspace.path;
        let metadata = std::fs::symlink_metadata(path).map_err(|error| {
            Refusal::unavailable(format!("cannot look at the workspace {}: {error}", path.display()))
                .fix("check that the folder exists")
        })?;
        if spec.workspace.in_place {
            return Ok(Some(Owner { uid: metadata.uid(), gid: metadata.gid() }));
        }
        if spec.workspace.writable && metadata.uid() != spec.host_uid {
            return Err(Refusal::conflict(format!(
                "the workspace {} belongs to uid {} and not to its sandbox's uid {}",
                path.display(),
                metadata.uid(),
                spec.host_uid
            ))
            .fix("give it to the sandbox when it is cloned"));
        }
        Ok(None)
    }
}

#[async_trait]
impl Backend for NamespaceBackend {
    fn name(&self) -> &'static str {
        "namespace"
    }

    fn walls(&self) -> Walls {
        Walls { system_calls: self.protections.has(Protection::SystemCalls), landlock: self.landlock() }
    }

    async fn check(&self) -> Result<(), Refusal> {
        let bwrap = check::find_bubblewrap(self.options.bwrap.as_deref())?;
        self.filters()?;
        self.program.path()?;
        let is_fresh = |at: &Instant| at.elapsed() < CHECK_HOLDS;
        if self.checked_at.lock().expect("no one panics with it").as_ref().is_some_and(is_fresh) {
            return Ok(());
        }
        check::machine(&bwrap).await?;
        *self.checked_at.lock().expect("no one panics with it") = Some(Instant::now());
        Ok(())
    }

    fn holds(&self, limits: &Limits) -> Result<(), Refusal> {
        let enforcement = self.enforcement_of(Path::new("/"), limits);
        match enforcement.missing() {
            missing if missing.is_empty() || limits.best_effort => Ok(()),
            missing => Err(Enforcement::refusal(&missing)),
        }
    }

    async fn turn(&self, id: &str, runtime: &Path, epoch: Epoch) -> Result<Turn, SandboxError> {
        self.launched.turn(id, runtime, epoch).await
    }

    async fn start(&self, spec: &SandboxSpec) -> Result<Started, SandboxError> {
        check_spec(spec, self.is_root).map_err(SandboxError::Refused)?;
        self.holds(&spec.limits).map_err(SandboxError::Refused)?;
        self.launched.prepare(spec, self.is_root).await?;
        let guest = self.program.path().map_err(SandboxError::Refused)?;
        let plan = self.plan(spec, &guest).map_err(SandboxError::Refused)?;
        self.launched.start(spec, &guest, &plan).await
    }

    async fn adopt(
        &self,
        id: &str,
        runtime: &Path,
        epoch: Epoch,
    ) -> Result<Option<SandboxEnd>, SandboxError> {
        self.launched.adopt(id, runtime, epoch).await
    }

    fn limit_hits(&self, id: &str) -> Option<mpsc::Receiver<LimitHit>> {
        self.launched.limit_hits(id)
    }

    async fn ended(&self, id: &str, runtime: &Path) -> SandboxEnd {
        self.launched.ended(id, runtime).await
    }

    async fn end(&self, id: &str, runtime: &Path, epoch: Epoch) -> Result<(), SandboxError> {
        self.launched.end(id, runtime, epoch).await
    }
}

/// Limits that each process inherits.
pub(crate) fn rlimits(limits: &Limits, also_pids: bool) -> Vec<ProcessLimit> {
    let pids = limits.pids.filter(|_| also_pids);
    [
        (ProcessLimitKind::OpenFiles, limits.open_files.map(u64::from)),
        // A file alone can then not pass the limit, however fast it grows.
        (ProcessLimitKind::FileSize, limits.disk),
        (ProcessLimitKind::Processes, pids.map(u64::from)),
    ]
    .into_iter()
    .filter_map(|(kind, most)| Some(ProcessLimit { kind, most: most? }))
    .collect()
}

/// True if the kernel counts a user's processes in each user namespace alone (since 5.14), so that a limit on them is
/// one on the sandbox.
fn counts_by_namespace() -> bool {
    let uname = rustix::system::uname();
    check::two_numbers(&uname.release().to_string_lossy()).is_some_and(|found| found >= (5, 14))
}

/// A namespace backend that everyone shares.
pub fn shared(options: NamespaceOptions) -> crate::SharedBackend {
    Arc::new(NamespaceBackend::new(options))
}
