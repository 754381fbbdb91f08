//! Sandboxes that hang under a launcher: started, held, adopted and ended the same way by every backend.

use std::collections::HashMap;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use ob_core::Epoch;
use ob_core::Refusal;
use ob_core::Timestamp;
use ob_core::launch::CONTROL_SOCKET;
use ob_core::launch::END_FILE;
use ob_core::launch::ENFORCEMENT_FILE;
use ob_core::launch::GROUPS_FILE;
use ob_core::launch::LaunchPlan;
use ob_core::launch::MAX_PLAN;
use ob_core::launch::Owner;
use ob_core::launch::STAGE_DIR;
use ob_core::launch::StagedSource;
use ob_core::launch::Watched;
use ob_core::launch::WatchedDisk;
use ob_core::resource::Enforcement;
use ob_core::resource::LimitHit;
use tokio::sync::mpsc;
use tokio::sync::watch;

use super::claim::Claim;
use super::claim::Turn;
use super::give_to;
use super::launcher;
use super::launcher::GroupsMark;
use super::launcher::Hold;
use super::launcher::Taken;
use super::launcher::Told;
use crate::SandboxEnd;
use crate::SandboxError;
use crate::SandboxSpec;
use crate::Started;
use crate::namespace::policy;

/// The most bytes of a unix socket's path, without the NUL at its end.
const MAX_SOCKET_PATH: usize = 107;
/// The mode of the gate's folder for a root server: the sandbox's uid passes through to the socket, and lists nothing.
const GATE_DIR_MODE: u32 = 0o711;
/// Limits that were reached and wait to be looked at. The launcher tells of each a few times a minute at most.
const HITS: usize = 16;

/// Sandboxes that this server holds, by id.
#[derive(Debug, Default)]
pub(crate) struct Launched {
    held: Mutex<HashMap<String, Held>>,
}

/// One of them.
#[derive(Debug)]
struct Held {
    /// How it ended, once it has.
    ending: watch::Receiver<Option<SandboxEnd>>,
    /// Limits that it reaches; taken by whoever cares.
    hits: Option<mpsc::Receiver<LimitHit>>,
}

/// Host paths as the sandbox's uid is to open them: themselves, or where they are staged.
#[derive(Debug)]
pub(crate) struct Sources {
    /// The uid to stage for.
    pub(crate) user: Option<u32>,
    /// What to stage.
    pub(crate) stage: Vec<StagedSource>,
}

// === impl Launched ===

impl Launched {
    /// Makes the runtime folder, and what else must be there, on the host.
    pub(crate) async fn prepare(&self, spec: &SandboxSpec, is_root: bool) -> Result<(), SandboxError> {
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
        let _turn = self.turn(&spec.id, &spec.runtime, spec.epoch).await?;
        launcher::remove_leftover_groups(&spec.runtime).await;
        for name in [CONTROL_SOCKET, END_FILE, GROUPS_FILE, ENFORCEMENT_FILE] {
            match std::fs::remove_file(spec.runtime.join(name)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(failed("cannot clear", &spec.runtime, error));
                }
                _ => {}
            }
        }
        std::fs::create_dir_all(&spec.gate_dir)
            .map_err(|error| failed("cannot make", &spec.gate_dir, error))?;
        if is_root {
            std::fs::set_permissions(&spec.gate_dir, std::fs::Permissions::from_mode(GATE_DIR_MODE))
                .map_err(|error| failed("cannot open up", &spec.gate_dir, error))?;
        }
        match &spec.home {
            Some(home) => make_private(home, is_root.then_some(spec.host_uid))
                .await
                .map_err(|error| failed("cannot make", home, error)),
            None => Ok(()),
        }
    }

    /// See [`crate::Backend::turn`].
    pub(crate) async fn turn(&self, id: &str, runtime: &Path, epoch: Epoch) -> Result<Turn, SandboxError> {
        match Claim::make(runtime, epoch).await {
            Ok(Claim::Ours(turn)) => Ok(turn),
            Ok(Claim::Later | Claim::Missing) => Err(SandboxError::Owned { id: id.to_owned() }),
            Err(error) => Err(SandboxError::Failed {
                id: id.to_owned(),
                what: format!("cannot make {}: {error}", runtime.display()),
            }),
        }
    }

    /// Starts a launcher with this plan, and holds it. A limit that turned out not to be held ends it again, unless
    /// the specification accepts that.
    pub(crate) async fn start(
        &self,
        spec: &SandboxSpec,
        program: &Path,
        plan: &LaunchPlan,
    ) -> Result<Started, SandboxError> {
        let enforcement = launcher::start(program, plan)
            .await
            .map_err(|what| SandboxError::Failed { id: spec.id.clone(), what })?;
        if !self.hold(&spec.id, &spec.runtime, spec.epoch).await? {
            // It ended before it could be held: that is an end and not a failure to start.
            let (_, ending) = watch::channel(Some(launcher::recorded_end(&spec.runtime, now())));
            self.held().insert(spec.id.clone(), Held { ending, hits: None });
        }
        let missing = enforcement.missing();
        if !missing.is_empty() && !spec.limits.best_effort {
            self.end(&spec.id, &spec.runtime, spec.epoch).await?;
            return Err(SandboxError::Refused(Enforcement::refusal(&missing)));
        }
        Ok(Started { enforcement })
    }

    /// Holds the sandbox and watches for its end. False if no launcher is there.
    async fn hold(&self, id: &str, runtime: &Path, epoch: Epoch) -> Result<bool, SandboxError> {
        let taken = Hold::take(runtime, epoch).await.map_err(|error| SandboxError::Failed {
            id: id.to_owned(),
            what: format!("its launcher does not answer: {error}"),
        })?;
        let mut hold = match taken {
            Taken::Held(hold) => hold,
            Taken::Owned => return Err(SandboxError::Owned { id: id.to_owned() }),
            Taken::Missing => return Ok(false),
        };
        let (sender, ending) = watch::channel(None);
        let (hit, hits) = mpsc::channel(HITS);
        let runtime = runtime.to_owned();
        let groups = GroupsMark::of(&runtime);
        drop(tokio::spawn(async move {
            while let Some(reached) = hold.next_hit().await {
                // Nobody looks, or too rarely: the next report says how often.
                hit.try_send(reached).ok();
            }
            let end = launcher::recorded_end(&runtime, now());
            // By now another one may be in this place, with groups of the same names: a later server's, or ours.
            if let Ok(Claim::Ours(_turn)) = Claim::take(&runtime, epoch).await
                && GroupsMark::of(&runtime) == groups
            {
                launcher::remove_leftover_groups(&runtime).await;
            }
            sender.send_replace(Some(end));
        }));
        self.held().insert(id.to_owned(), Held { ending, hits: Some(hits) });
        Ok(true)
    }

    /// See [`crate::Backend::adopt`].
    pub(crate) async fn adopt(
        &self,
        id: &str,
        runtime: &Path,
        epoch: Epoch,
    ) -> Result<Option<SandboxEnd>, SandboxError> {
        // The mark outlives the launcher. Where it cannot be written the launcher still knows its owner.
        let turn = Claim::take(runtime, epoch).await;
        if matches!(turn, Ok(Claim::Later)) {
            return Err(SandboxError::Owned { id: id.to_owned() });
        }
        if self.hold(id, runtime, epoch).await? {
            return Ok(None);
        }
        let end = launcher::recorded_end(runtime, now());
        launcher::remove_leftover_groups(runtime).await;
        Ok(Some(end))
    }

    /// See [`crate::Backend::limit_hits`].
    pub(crate) fn limit_hits(&self, id: &str) -> Option<mpsc::Receiver<LimitHit>> {
        self.held().get_mut(id)?.hits.take()
    }

    /// See [`crate::Backend::ended`].
    pub(crate) async fn ended(&self, id: &str, runtime: &Path) -> SandboxEnd {
        let known = self.held().get(id).map(|held| held.ending.clone());
        let Some(mut ending) = known else { return launcher::recorded_end(runtime, now()) };
        match ending.wait_for(Option::is_some).await.map(|end| end.clone()) {
            Ok(Some(end)) => end,
            // The runtime that watched is shutting down.
            Ok(None) | Err(_) => launcher::recorded_end(runtime, now()),
        }
    }

    /// See [`crate::Backend::end`].
    pub(crate) async fn end(&self, id: &str, runtime: &Path, epoch: Epoch) -> Result<(), SandboxError> {
        let failed = |what: String| SandboxError::Failed { id: id.to_owned(), what };
        let told = launcher::end(runtime, epoch).await;
        if matches!(told, Ok(Told::Owned)) {
            return Err(SandboxError::Owned { id: id.to_owned() });
        }
        let held = self.held().remove(id);
        // Whoever waits for the end reads its record before it goes.
        if let Some(mut held) = held
            && told.is_ok()
        {
            held.ending.wait_for(Option::is_some).await.ok();
        }
        let _turn = match Claim::take(runtime, epoch).await {
            Ok(turn @ Claim::Ours(_)) => turn,
            // What is there by now is a later server's, who ends it.
            Ok(Claim::Later) => return Err(SandboxError::Owned { id: id.to_owned() }),
            Ok(Claim::Missing) => return Ok(()),
            Err(error) => return Err(failed(format!("cannot look after {}: {error}", runtime.display()))),
        };
        launcher::remove_leftover_groups(runtime).await;
        if let Err(error) = told {
            return Err(failed(format!("its launcher did not end it and was killed: {error}")));
        }
        match std::fs::remove_dir_all(runtime) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(failed(format!("cannot remove {}: {error}", runtime.display())))
            }
            _ => Ok(()),
        }
    }

    fn held(&self) -> MutexGuard<'_, HashMap<String, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Sources ===

impl Sources {
    /// A path of the host, as it is to be opened.
    pub(crate) fn add(
        &mut self,
        path: &Path,
        read_only: bool,
        owner: Option<Owner>,
    ) -> Result<String, Refusal> {
        let text = policy::check_source(path)?;
        if self.user.is_none() {
            return Ok(text.to_owned());
        }
        self.stage.push(StagedSource { path: path.to_owned(), read_only, owner });
        Ok(format!("{STAGE_DIR}/{}", self.stage.len() - 1))
    }
}

/// Makes a folder that only its sandbox may enter, and gives it to the sandbox's uid.
pub(crate) async fn make_private(folder: &Path, owner: Option<u32>) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let is = std::fs::symlink_metadata(folder)?.uid();
    match owner {
        Some(uid) if uid != is => {
            let path = folder.to_owned();
            tokio::task::spawn_blocking(move || give_to(&path, uid))
                .await
                .unwrap_or_else(|_| Err(std::io::Error::other("interrupted")))
        }
        _ => Ok(()),
    }
}

/// What the launcher watches of a sandbox of this specification; `more` are further folders that it fills.
pub(crate) fn watched(spec: &SandboxSpec, more: &[PathBuf]) -> Watched {
    let limits = &spec.limits;
    let workspace = spec.workspace.writable.then(|| spec.workspace.path.clone());
    let folders: Vec<PathBuf> =
        workspace.into_iter().chain(spec.home.clone()).chain(more.iter().cloned()).collect();
    let is_asked = limits.disk.is_some() || limits.inodes.is_some();
    Watched {
        wall_ms: limits.wall.map(|wall| u64::try_from(wall.as_millis()).unwrap_or(u64::MAX)),
        disk: (is_asked && !folders.is_empty()).then_some(WatchedDisk {
            folders,
            bytes: limits.disk,
            inodes: limits.inodes,
            only_growth: spec.workspace.in_place,
        }),
        bounds: limits.bounds(),
    }
}

/// Refuses what could not work or would not be safe.
pub(crate) fn check_spec(spec: &SandboxSpec, is_root: bool) -> Result<(), Refusal> {
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
