//! The backend without walls: the guest as a plain process group of this machine, by explicit choice only.
//!
//! What runs in such a "sandbox" reads what its uid may read, reaches the network, sees other processes, and may harm
//! them. It has a home, a folder for temporary files and an environment of its own, and the limits that this machine
//! can hold without walls. For machines that cannot make namespaces, for debugging, and as the control of escape
//! tests: what is an escape elsewhere works here. Everything that lists it marks it unsafe.
//!
//! A root server starts it under the project's own uid, in a view of files in which the workspace is reachable for
//! that uid; a server of an ordinary user starts it as that user.

use std::path::Path;
use std::path::PathBuf;
use std::sync::OnceLock;

use async_trait::async_trait;
use ob_core::Epoch;
use ob_core::Refusal;
use ob_core::launch::Direct;
use ob_core::launch::LaunchPlan;
use ob_core::link::OUTSIDE_SOCKET;
use ob_core::link::OUTSIDE_WORKSPACE;
use ob_core::resource::Enforcement;
use ob_core::resource::LimitHit;
use ob_core::resource::UNSAFE_BACKEND;
use tokio::sync::mpsc;

use crate::Backend;
use crate::Inside;
use crate::Limits;
use crate::SandboxEnd;
use crate::SandboxError;
use crate::SandboxSpec;
use crate::Started;
use crate::Turn;
use crate::host::GuestImage;
use crate::host::GuestProgram;
use crate::host::Hierarchy;
use crate::host::Launched;
use crate::host::Sources;
use crate::host::check_spec;
use crate::host::make_private;
use crate::host::watched;
use crate::namespace::BOUNDS;
use crate::namespace::policy;
use crate::namespace::rlimits;

/// The guest program, for processes that the guest starts: no path of the host is in their command lines.
const OWN_PROGRAM: &str = "/proc/self/exe";
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the backend needs to know.
#[derive(Clone, Debug)]
pub struct ProcessOptions {
    /// The guest program.
    pub guest: GuestImage,
    /// The folder that the guest program is unpacked to; made if missing.
    pub programs: PathBuf,
}

/// Starts guests without walls.
#[derive(Debug)]
pub struct ProcessBackend {
    is_root: bool,
    program: GuestProgram,
    groups: OnceLock<Hierarchy>,
    launched: Launched,
}

/// Where the processes of one sandbox find its things.
struct Places {
    workspace: String,
    home: String,
    temporary: String,
    gate: String,
    guest: String,
    read_only_at: Vec<String>,
}

// === impl ProcessBackend ===

impl ProcessBackend {
    /// A backend; looks at nothing yet. Its methods need a tokio runtime.
    pub fn new(options: ProcessOptions) -> Self {
        Self {
            is_root: rustix::process::geteuid().is_root(),
            program: GuestProgram::new(options.guest, options.programs),
            groups: OnceLock::new(),
            launched: Launched::default(),
        }
    }

    fn groups(&self) -> &Hierarchy {
        self.groups.get_or_init(Hierarchy::detect)
    }

    fn enforcement_of(&self, runtime: &Path, limits: &Limits) -> Enforcement {
        let mut enforcement = limits.without_groups();
        enforcement.0.extend(self.groups().groups(runtime, limits).enforcement.0);
        enforcement
    }

    /// The places, and what has to be staged for them.
    fn places(&self, spec: &SandboxSpec, guest: &Path) -> Result<(Places, Sources), Refusal> {
        let mut sources = Sources { user: self.is_root.then_some(spec.host_uid), stage: Vec::new() };
        let places = Places {
            workspace: sources.add(&spec.workspace.path, !spec.workspace.writable, None)?,
            home: sources.add(&home(spec), false, None)?,
            temporary: match self.is_root {
                true => ob_core::launch::STAGE_DIR.to_owned(),
                false => policy::check_source(&temporary(spec))?.to_owned(),
            },
            gate: sources.add(&spec.gate_dir, true, None)?,
            guest: sources.add(guest, true, None)?,
            read_only_at: spec
                .read_only_at
                .iter()
                .map(|(path, _)| sources.add(path, true, None))
                .collect::<Result<_, _>>()?,
        };
        Ok((places, sources))
    }

    fn plan(&self, spec: &SandboxSpec, guest: &Path) -> Result<LaunchPlan, Refusal> {
        if spec.workspace.in_place && self.is_root {
            return Err(Refusal::invalid("a root server without walls does not work in a user's own folder")
                .fix("work on a clone, which is the default, or run the server as the folder's owner"));
        }
        let (places, sources) = self.places(spec, guest)?;
        let groups = self.groups().groups(&spec.runtime, &spec.limits);
        let temporary = temporary(spec);
        Ok(LaunchPlan {
            runtime: spec.runtime.clone(),
            bwrap: PathBuf::new(),
            args: Vec::new(),
            command: vec![places.guest.clone(), "init".to_owned(), "--outside".to_owned()],
            direct: Some(Direct { env: environment(spec, &places)?, cwd: places.workspace.into() }),
            keeps_environment: false,
            data: Vec::new(),
            stage: sources.stage,
            user: sources.user,
            bounds: BOUNDS.to_vec(),
            groups: groups.wanted,
            rlimits: rlimits(&spec.limits, false),
            watch: watched(spec, if self.is_root { &[] } else { std::slice::from_ref(&temporary) }),
            enforcement: self.enforcement_of(&spec.runtime, &spec.limits),
            placeholders: None,
            lease_ms: u64::try_from(spec.lease.as_millis()).unwrap_or(u64::MAX),
            epoch: spec.epoch,
        })
    }
}

#[async_trait]
impl Backend for ProcessBackend {
    fn name(&self) -> &'static str {
        UNSAFE_BACKEND
    }

    fn isolates(&self) -> bool {
        false
    }

    async fn check(&self) -> Result<(), Refusal> {
        self.program.path().map(drop)
    }

    fn holds(&self, limits: &Limits) -> Result<(), Refusal> {
        match self.enforcement_of(Path::new("/"), limits).missing() {
            missing if missing.is_empty() || limits.best_effort => Ok(()),
            missing => Err(Enforcement::refusal(&missing)),
        }
    }

    fn inside(&self, spec: &SandboxSpec) -> Inside {
        let given = |places: Places| Inside {
            workspace: places.workspace,
            guest: OWN_PROGRAM.to_owned(),
            read_only_at: places.read_only_at,
        };
        // A path that cannot be used is refused by the start.
        self.places(spec, Path::new("/")).map_or_else(
            |_| Inside {
                workspace: spec.workspace.path.to_string_lossy().into_owned(),
                guest: OWN_PROGRAM.to_owned(),
                read_only_at: Vec::new(),
            },
            |(places, _)| given(places),
        )
    }

    async fn turn(&self, id: &str, runtime: &Path, epoch: Epoch) -> Result<Turn, SandboxError> {
        self.launched.turn(id, runtime, epoch).await
    }

    async fn start(&self, spec: &SandboxSpec) -> Result<Started, SandboxError> {
        check_spec(spec, self.is_root).map_err(SandboxError::Refused)?;
        self.holds(&spec.limits).map_err(SandboxError::Refused)?;
        self.launched.prepare(spec, self.is_root).await?;
        let owner = self.is_root.then_some(spec.host_uid);
        for folder in [home(spec), temporary(spec)] {
            make_private(&folder, owner).await.map_err(|error| SandboxError::Failed {
                id: spec.id.clone(),
                what: format!("cannot make {}: {error}", folder.display()),
            })?;
        }
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

/// Its home, in the runtime folder if the specification names none.
fn home(spec: &SandboxSpec) -> PathBuf {
    spec.home.clone().unwrap_or_else(|| spec.runtime.join("home"))
}

/// Its folder for temporary files; it goes with the sandbox.
fn temporary(spec: &SandboxSpec) -> PathBuf {
    spec.runtime.join("tmp")
}

/// Nothing of the server's environment, as in a sandbox with walls.
fn environment(spec: &SandboxSpec, places: &Places) -> Result<Vec<(String, String)>, Refusal> {
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let mut all = vec![
        pair("PATH", PATH),
        pair("HOME", &places.home),
        pair("USER", "agent"),
        pair("LANG", "C.UTF-8"),
        pair("TERM", "dumb"),
        pair("TMPDIR", &places.temporary),
    ];
    for (name, value) in &spec.env {
        policy::check_variable(name, value)?;
        all.push((name.clone(), value.clone()));
    }
    all.push(pair(OUTSIDE_SOCKET, &format!("{}/gate.sock", places.gate)));
    all.push(pair(OUTSIDE_WORKSPACE, &places.workspace));
    all.push(pair("OPENAI_API_KEY", "local"));
    Ok(all)
}
