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

mod cgroup;
pub(crate) mod check;
mod etc;
mod git;
mod image;
mod launcher;
mod ownership;
pub mod policy;
mod seccomp;

use std::collections::HashMap;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use async_trait::async_trait;
use base64::Engine as _;
use ob_core::Refusal;
use ob_core::Timestamp;
use ob_core::launch::CONTROL_SOCKET;
use ob_core::launch::FIRST_DATA_FD;
use ob_core::launch::LaunchPlan;
use ob_core::launch::MAX_PLAN;
use ob_core::launch::Owner;
use ob_core::launch::STAGE_DIR;
use ob_core::launch::StagedSource;
use ob_core::link::GUEST_PROGRAM;
use tokio::sync::watch;

pub use self::cgroup::Hierarchy;
pub use self::image::GuestImage;
pub use self::ownership::give_to;

use self::launcher::Hold;
use self::policy::HostLayout;
use self::policy::Mount;
use self::policy::Policy;
use crate::Backend;
use crate::Enforcement;
use crate::SandboxEnd;
use crate::SandboxError;
use crate::SandboxSpec;
use crate::Started;

/// The most bytes of a unix socket's path, without the NUL at its end.
const MAX_SOCKET_PATH: usize = 107;
/// The mode of the gate's folder for a root server: the sandbox's uid passes through to the socket, and lists nothing.
const GATE_DIR_MODE: u32 = 0o711;

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
    program: Mutex<Option<PathBuf>>,
    held: Mutex<HashMap<String, Ending>>,
    /// When the machine was last found able.
    checked_at: Mutex<Option<Instant>>,
}

/// What is found out about the machine once.
#[derive(Debug)]
struct Host {
    layout: HostLayout,
    groups: Hierarchy,
}

/// How a held sandbox ended, once it has.
type Ending = watch::Receiver<Option<SandboxEnd>>;

// === impl NamespaceBackend ===

impl NamespaceBackend {
    /// A backend; looks at nothing yet but the options. Its methods need a tokio runtime.
    pub fn new(options: NamespaceOptions) -> Self {
        Self {
            options,
            is_root: rustix::process::geteuid().is_root(),
            filters: seccomp::filters().map_err(|error| error.to_string()),
            host: OnceLock::new(),
            program: Mutex::default(),
            held: Mutex::default(),
            checked_at: Mutex::default(),
        }
    }

    fn host(&self) -> &Host {
        self.host.get_or_init(|| Host { layout: HostLayout::read(), groups: Hierarchy::detect() })
    }

    /// The unpacked guest program. Its content is verified once for each server; a missing file is made anew.
    fn program(&self) -> Result<PathBuf, Refusal> {
        let mut known = self.program.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(path) = known.as_ref().filter(|path| path.exists()) {
            return Ok(path.clone());
        }
        let path = image::unpack(&self.options.guest, &self.options.programs)?;
        *known = Some(path.clone());
        Ok(path)
    }

    fn filters(&self) -> Result<&[Vec<u8>], Refusal> {
        self.filters.as_deref().map_err(|what| {
            Refusal::unavailable(what.clone()).fix("use x86-64 or 64-bit ARM, or another sandbox backend")
        })
    }

    /// The plan of a sandbox, and whether there is a place for all its limits.
    fn plan(&self, spec: &SandboxSpec, guest: &Path) -> Result<(LaunchPlan, bool), Refusal> {
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
        let data =
            filters.iter().map(|bytes| base64::engine::general_purpose::STANDARD.encode(bytes)).collect();
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
            filter_fds: (FIRST_DATA_FD..).take(filters.len()).collect(),
        };
        let groups = self.host().groups.groups(&spec.runtime, &spec.limits);
        let command = self.options.first_process.clone();
        let plan = LaunchPlan {
            runtime: spec.runtime.clone(),
            bwrap: check::find_bubblewrap(self.options.bwrap.as_deref())?,
            args: policy.argv(),
            command: command.unwrap_or_else(|| vec![GUEST_PROGRAM.to_owned()]),
            data,
            stage: sources.stage,
            user: sources.user,
            groups: groups.wanted,
            placeholders: git.placeholders,
            lease_ms: u64::try_from(spec.lease.as_millis()).unwrap_or(u64::MAX),
        };
        Ok((plan, groups.covers_all))
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

    /// Makes the runtime folder, and what else must be there, on the host.
    async fn prepare(&self, spec: &SandboxSpec) -> Result<(), SandboxError> {
        let failed = |what: &str, path: &Path, error: std::io::Error| SandboxError::Failed {
            id: spec.id.clone(),
            what: format!("{what} {}: {error}", path.display()),
        };
        if launcher::is_there(&spec.runtime).await {
            return Err(SandboxError::Refused(
                Refusal::conflict(format!("the sandbox `{}` runs already", spec.id))
                    .fix("end it first, or adopt it"),
            ));
        }
        launcher::remove_leftover_groups(&spec.runtime).await;
        for name in [CONTROL_SOCKET, ob_core::launch::END_FILE, ob_core::launch::GROUPS_FILE] {
            match std::fs::remove_file(spec.runtime.join(name)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(failed("cannot clear", &spec.runtime, error));
                }
                _ => {}
            }
        }
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&spec.runtime)
            .map_err(|error| failed("cannot make", &spec.runtime, error))?;
        std::fs::create_dir_all(&spec.gate_dir)
            .map_err(|error| failed("cannot make", &spec.gate_dir, error))?;
        if self.is_root {
            std::fs::set_permissions(&spec.gate_dir, std::fs::Permissions::from_mode(GATE_DIR_MODE))
                .map_err(|error| failed("cannot open up", &spec.gate_dir, error))?;
        }
        if let Some(home) = &spec.home {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(home)
                .map_err(|error| failed("cannot make", home, error))?;
            let owner =
                std::fs::symlink_metadata(home).map_err(|error| failed("cannot look at", home, error))?.uid();
            if self.is_root && owner != spec.host_uid {
                let (path, uid) = (home.clone(), spec.host_uid);
                tokio::task::spawn_blocking(move || give_to(&path, uid))
                    .await
                    .unwrap_or_else(|_| Err(std::io::Error::other("interrupted")))
                    .map_err(|error| failed("cannot give away", home, error))?;
            }
        }
        Ok(())
    }

    /// Holds the sandbox and watches for its end. False if no launcher is there.
    async fn hold(&self, id: &str, runtime: &Path) -> Result<bool, SandboxError> {
        let held = Hold::take(runtime).await.map_err(|error| SandboxError::Failed {
            id: id.to_owned(),
            what: format!("its launcher does not answer: {error}"),
        })?;
        let Some(hold) = held else { return Ok(false) };
        let (sender, receiver) = watch::channel(None);
        let runtime = runtime.to_owned();
        drop(tokio::spawn(async move {
            hold.released().await;
            let end = launcher::recorded_end(&runtime, now());
            launcher::remove_leftover_groups(&runtime).await;
            sender.send_replace(Some(end));
        }));
        self.held().insert(id.to_owned(), receiver);
        Ok(true)
    }

    fn held(&self) -> std::sync::MutexGuard<'_, HashMap<String, Ending>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Backend for NamespaceBackend {
    fn name(&self) -> &'static str {
        "namespace"
    }

    async fn check(&self) -> Result<(), Refusal> {
        let bwrap = check::find_bubblewrap(self.options.bwrap.as_deref())?;
        self.filters()?;
        self.program()?;
        let is_fresh = |at: &Instant| at.elapsed() < CHECK_HOLDS;
        if self.checked_at.lock().expect("no one panics with it").as_ref().is_some_and(is_fresh) {
            return Ok(());
        }
        check::machine(&bwrap).await?;
        *self.checked_at.lock().expect("no one panics with it") = Some(Instant::now());
        Ok(())
    }

    async fn start(&self, spec: &SandboxSpec) -> Result<Started, SandboxError> {
        check_spec(spec, self.is_root).map_err(SandboxError::Refused)?;
        self.prepare(spec).await?;
        let guest = self.program().map_err(SandboxError::Refused)?;
        let (plan, covers_all) = self.plan(spec, &guest).map_err(SandboxError::Refused)?;
        let unenforced = launcher::start(&guest, &plan)
            .await
            .map_err(|what| SandboxError::Failed { id: spec.id.clone(), what })?;
        if !self.hold(&spec.id, &spec.runtime).await? {
            // It ended before it could be held: that is an end and not a failure to start.
            let (_, receiver) = watch::channel(Some(launcher::recorded_end(&spec.runtime, now())));
            self.held().insert(spec.id.clone(), receiver);
        }
        let enforcement =
            if covers_all && unenforced.is_empty() { Enforcement::Full } else { Enforcement::BestEffort };
        Ok(Started { enforcement })
    }

    async fn adopt(&self, id: &str, runtime: &Path) -> Result<Option<SandboxEnd>, SandboxError> {
        if self.hold(id, runtime).await? {
            return Ok(None);
        }
        let end = launcher::recorded_end(runtime, now());
        launcher::remove_leftover_groups(runtime).await;
        Ok(Some(end))
    }

    async fn ended(&self, id: &str, runtime: &Path) -> SandboxEnd {
        let held = self.held().get(id).cloned();
        let mut ending = match held {
            Some(ending) => ending,
            None => match self.hold(id, runtime).await {
                Ok(true) => match self.held().get(id).cloned() {
                    Some(ending) => ending,
                    None => return launcher::recorded_end(runtime, now()),
                },
                Ok(false) | Err(_) => return launcher::recorded_end(runtime, now()),
            },
        };
        match ending.wait_for(Option::is_some).await.map(|end| end.clone()) {
            Ok(Some(end)) => end,
            // The runtime that watched is shutting down.
            Ok(None) | Err(_) => launcher::recorded_end(runtime, now()),
        }
    }

    async fn end(&self, id: &str, runtime: &Path) -> Result<(), SandboxError> {
        let failed = |what: String| SandboxError::Failed { id: id.to_owned(), what };
        let told = launcher::end(runtime).await;
        let held = self.held().remove(id);
        if let Err(error) = told {
            launcher::remove_leftover_groups(runtime).await;
            return Err(failed(format!("its launcher did not end it and was killed: {error}")));
        }
        // Whoever waits for the end reads its record before it goes.
        if let Some(mut ending) = held {
            ending.wait_for(Option::is_some).await.ok();
        }
        launcher::remove_leftover_groups(runtime).await;
        match std::fs::remove_dir_all(runtime) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(failed(format!("cannot remove {}: {error}", runtime.display())))
            }
            _ => Ok(()),
        }
    }
}

/// Host paths as bubblewrap is to open them: themselves, or where they are staged.
struct Sources {
    user: Option<u32>,
    stage: Vec<StagedSource>,
}

// === impl Sources ===

impl Sources {
    fn add(&mut self, path: &Path, read_only: bool, owner: Option<Owner>) -> Result<String, Refusal> {
        let text = policy::check_source(path)?;
        if self.user.is_none() {
            return Ok(text.to_owned());
        }
        self.stage.push(StagedSource { path: path.to_owned(), read_only, owner });
        Ok(format!("{STAGE_DIR}/{}", self.stage.len() - 1))
    }
}

/// Refuses what could not work or would not be safe.
fn check_spec(spec: &SandboxSpec, is_root: bool) -> Result<(), Refusal> {
    let is_id = (1..=32).contains(&spec.id.len())
        && spec.id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !is_id {
        return Err(Refusal::invalid(format!("`{}` is not a sandbox id", spec.id.escape_debug()))
            .fix("use 1 to 32 of a-z, 0-9 and -"));
    }
    if is_root && spec.host_uid == 0 {
        return Err(Refusal::invalid("a sandbox never runs as the host's root")
            .fix("give the project an unprivileged uid"));
    }
    for path in [&spec.runtime, &spec.gate_dir, &spec.workspace.path] {
        policy::check_source(path)?;
    }
    let length = spec.runtime.join(CONTROL_SOCKET).as_os_str().len();
    if length > MAX_SOCKET_PATH {
        return Err(Refusal::invalid(format!(
            "the runtime folder {} is too long: a socket in it would have {length} bytes, and {MAX_SOCKET_PATH} are possible",
            spec.runtime.display()
        ))
        .fix("set `paths.sockets` to a shorter folder"));
    }
    let size: usize = spec.env.iter().map(|(name, value)| name.len() + value.len()).sum();
    if size > MAX_PLAN / 4 {
        return Err(Refusal::invalid(format!(
            "the environment has {size} bytes, and {} are possible",
            MAX_PLAN / 4
        ))
        .fix("pass large values in a file of the workspace"));
    }
    Ok(())
}

fn now() -> Timestamp {
    let micros = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros());
    Timestamp::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
}

/// A namespace backend that everyone shares.
pub fn shared(options: NamespaceOptions) -> crate::SharedBackend {
    Arc::new(NamespaceBackend::new(options))
}
