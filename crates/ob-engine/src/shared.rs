//! What actors and operations share: the ports, and how a session becomes a sandbox.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::Weak;
use std::sync::atomic::AtomicU64;

use ob_component::Domain;
use ob_component::Permit;
use ob_component::Registry;
use ob_config::CleanupSettings;
use ob_config::LimitSettings;
use ob_config::SandboxSettings;
use ob_core::Home;
use ob_core::ProjectId;
use ob_core::Refusal;
use ob_core::SessionId;
use ob_core::Timestamp;
use ob_core::WorkspaceId;
use ob_core::record::ProjectRecord;
use ob_core::record::SessionRecord;
use ob_core::record::WorkspaceKind;
use ob_core::record::WorkspaceRecord;
use ob_crash::CrashPoint;
use ob_crash::reach;
use ob_gate::GateSession;
use ob_gate::Gates;
use ob_gate::OpenGate;
use ob_sandbox::Backend;
use ob_sandbox::Limits;
use ob_sandbox::SandboxSpec;
use ob_sandbox::WorkspaceMount;
use ob_sandbox::link::Guest;
use ob_store::Commit;
use ob_store::Epoch;
use ob_store::SharedStore;
use ob_store::StoreError;
use ob_store::Write;
use ob_store::audit::SharedAudit;
use ob_store::tokens::SharedTokens;
use ob_telemetry::Metrics;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::FIRST_HOST_UID;
use crate::SANDBOX;
use crate::agents::Agents;
use crate::clock::SharedClock;
use crate::files::Files;
use crate::live::Live;
use crate::models::Catalogue;
use crate::workspace;

/// Where programs are inside, behind the toolchains'.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What actors and operations share.
pub(crate) struct Shared {
    pub(crate) home: Home,
    pub(crate) sandbox: Live<SandboxSettings>,
    pub(crate) limits: Live<LimitSettings>,
    pub(crate) cleanup: Live<CleanupSettings>,
    pub(crate) store: SharedStore,
    pub(crate) files: Arc<dyn Files>,
    pub(crate) tokens: SharedTokens,
    pub(crate) audit: SharedAudit,
    pub(crate) registry: Registry,
    pub(crate) gates: Gates,
    pub(crate) catalogue: Catalogue,
    pub(crate) agents: Agents,
    pub(crate) clock: SharedClock,
    pub(crate) is_root: bool,
    pub(crate) uid: u32,
    pub(crate) epoch: Epoch,
    /// Cancelled once a session turned out to belong to a later server: this one has a successor.
    pub(crate) superseded: CancellationToken,
    /// One turn for each workspace that is being prepared.
    pub(crate) preparing: Mutex<HashMap<WorkspaceId, Weak<tokio::sync::Mutex<()>>>>,
    /// Turns to take a session over.
    pub(crate) takeovers: Arc<Semaphore>,
    /// Turns to make a sandbox.
    pub(crate) starts: Arc<Semaphore>,
    /// Turns to make a patch.
    pub(crate) patches: Arc<Semaphore>,
    pub(crate) diffs: AtomicU64,
    /// Sessions whose sandbox runs.
    pub(crate) sandboxes: AtomicU64,
    /// What goes on behind operations; a stop waits for it.
    pub(crate) tracker: TaskTracker,
    pub(crate) metrics: Metrics,
}

// === impl Shared ===

impl Shared {
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The turn of whoever prepares this workspace.
    pub(crate) fn preparing(&self, workspace: WorkspaceId) -> Arc<tokio::sync::Mutex<()>> {
        let mut preparing = self.preparing.lock().expect("no one panics with it");
        preparing.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = preparing.get(&workspace).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        preparing.insert(workspace, Arc::downgrade(&turn));
        turn
    }

    /// Makes sure that no later server has taken the session over. For what is done outside of the store, where no fence
    /// is: right before it.
    ///
    /// A successor may come a moment later all the same; what ends or adopts a sandbox is therefore fenced by the sandbox,
    /// too.
    pub(crate) async fn still_owns(&self, session: &SessionId) -> Result<(), Refusal> {
        match self.store.claim(session, self.epoch).await {
            Err(error @ StoreError::Fenced { .. }) => {
                // Only a later server's claim refuses ours.
                self.superseded.cancel();
                Err(error.refusal().fix("ask the server that owns it"))
            }
            // A sandbox is ended although the store cannot be written, and although the session was deleted.
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Leave to use the sandbox backend.
    pub(crate) fn backend(&self) -> Result<Arc<Permit<dyn Backend>>, Refusal> {
        self.registry.permit::<dyn Backend>(Domain::Adapter, SANDBOX, self.now()).map(Arc::new)
    }

    pub(crate) async fn project(&self, id: ProjectId) -> Result<ProjectRecord, Refusal> {
        let found = self.store.project(id).await.map_err(|error| error.refusal())?;
        found.ok_or_else(|| Refusal::not_found("project", id).fix("list them with `oubliette project list`"))
    }

    /// The uid that a project's sandboxes run as.
    pub(crate) fn host_uid(&self, project: &ProjectRecord) -> u32 {
        if self.is_root { FIRST_HOST_UID + project.number } else { self.uid }
    }

    /// Who must own a project's files, if that is not us.
    pub(crate) fn owner_of(&self, project: &ProjectRecord) -> Option<u32> {
        self.is_root.then(|| self.host_uid(project))
    }

    /// What a sandbox of a project may use.
    pub(crate) fn project_limits(&self, project: &ProjectRecord) -> Limits {
        let mut limits = self.sandbox_limits();
        for (resource, amount) in &project.limits {
            limits.set(*resource, *amount);
        }
        limits
    }

    /// What a sandbox may use if its project says nothing.
    pub(crate) fn sandbox_limits(&self) -> Limits {
        let settings = self.sandbox.get();
        Limits {
            memory: settings.memory,
            pids: settings.pids,
            cpu_millis: settings.cpu_millis,
            open_files: settings.open_files,
            disk: settings.disk,
            inodes: settings.inodes.map(u64::from),
            wall: settings.wall,
            output_rate: settings.output_rate,
            best_effort: settings.best_effort,
        }
    }

    /// The sandbox of a session.
    pub(crate) async fn sandbox_spec(
        &self,
        record: &SessionRecord,
        workspace: &WorkspaceRecord,
    ) -> Result<SandboxSpec, Refusal> {
        let project = self.project(record.project).await?;
        let runtime = self.home.sandbox_runtime(&record.id);
        let home = self.home.session_home(record.project, &record.id);
        self.files.make_home(&home, self.owner_of(&project)).await?;
        let mut spec = self.plain_spec(record.id.suffix().to_owned(), runtime, &project, workspace);
        spec.home = Some(home);
        spec.workspace.writable = true;
        Ok(spec)
    }

    /// A sandbox that may only look at the workspace and has a home in memory.
    pub(crate) fn plain_spec(
        &self,
        id: String,
        runtime: PathBuf,
        project: &ProjectRecord,
        workspace: &WorkspaceRecord,
    ) -> SandboxSpec {
        let sandbox = self.sandbox.get();
        let mut env: Vec<(String, String)> =
            sandbox.env.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        env.extend(
            [
                ("GIT_AUTHOR_NAME", "agent"),
                ("GIT_AUTHOR_EMAIL", "agent@localhost"),
                ("GIT_COMMITTER_NAME", "agent"),
                ("GIT_COMMITTER_EMAIL", "agent@localhost"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
        );
        let front: String = sandbox.path.iter().map(|folder| format!("{}:", folder.display())).collect();
        env.push(("PATH".to_owned(), front + SYSTEM_PATH));
        SandboxSpec {
            id,
            gate_dir: runtime.join("gate"),
            runtime,
            workspace: WorkspaceMount {
                path: workspace.path.clone(),
                writable: false,
                in_place: workspace.kind == WorkspaceKind::InPlace,
            },
            home: None,
            read_only: sandbox.read_only.clone(),
            read_only_at: Vec::new(),
            env,
            host_uid: self.host_uid(project),
            limits: self.project_limits(project),
            lease: sandbox.lease,
            epoch: self.epoch,
        }
    }

    /// Opens the gate of a sandbox of this specification, in the place of an earlier server's.
    pub(crate) async fn open_gate(
        &self,
        backend: &dyn Backend,
        record: &SessionRecord,
        spec: &SandboxSpec,
        guest: Guest,
    ) -> Result<OpenGate, Refusal> {
        // A late owner must not put its gate in the place of its successor's.
        let _turn = backend.turn(&spec.id, &spec.runtime, spec.epoch).await.map_err(|error| {
            Refusal::unavailable(error.to_string()).fix("see the log, and `oubliette doctor`")
        })?;
        let session = GateSession {
            id: record.id.clone(),
            project: record.project,
            tree: record.tree.clone(),
            model: record.model.clone(),
            epoch: self.epoch,
            peer_uid: spec.host_uid,
        };
        self.gates.open(&spec.gate_dir, session, guest).await.map_err(|error| {
            Refusal::unavailable(format!("cannot open the gate in `{}`: {error}", spec.gate_dir.display()))
                .fix("check the space and the permissions of the runtime folder")
        })
    }

    /// The session's workspace with its files; they are copied on first use.
    pub(crate) async fn prepared_workspace(
        &self,
        record: &SessionRecord,
    ) -> Result<WorkspaceRecord, Refusal> {
        let find = async || {
            let found = self.store.workspace(record.workspace).await.map_err(|error| error.refusal())?;
            found.ok_or_else(|| {
                Refusal::not_found("workspace", record.workspace).fix("start a session in a new workspace")
            })
        };
        let workspace = find().await?;
        if workspace.base_commit.is_some() {
            return Ok(workspace);
        }
        // Two sessions may share a workspace that is not there yet. The later one must see what the earlier one did: making
        // it anew would take it away from under an agent.
        let turn = self.preparing(record.workspace);
        let _turn = turn.lock().await;
        let mut workspace = find().await?;
        if workspace.base_commit.is_some() {
            return Ok(workspace);
        }
        let project = self.project(record.project).await?;
        let plan = workspace::ClonePlan {
            source: project.source.clone(),
            home: self.home.root().to_owned(),
            base: self.home.workspace_base(record.project, workspace.id),
            workspace: (workspace.kind == WorkspaceKind::Clone).then(|| workspace.path.clone()),
            owner: self.owner_of(&project),
        };
        let cloned = self.files.prepare(&plan).await?;
        tracing::info!(session = %record.id, workspace = %workspace.id, dirty = cloned.dirty, "workspace prepared");
        reach(CrashPoint::WorkspaceMade);
        workspace.base_commit = Some(cloned.base_commit);
        self.store
            .commit(Commit { writes: vec![Write::PutWorkspace(workspace.clone())], fence: None })
            .await
            .map_err(|error| error.refusal())?;
        reach(CrashPoint::WorkspaceRecorded);
        Ok(workspace)
    }
}
