//! What a crash left behind: folders of projects, workspaces and sessions that are deleted, and sandboxes. The record of
//! a deleted thing goes first and its files after it, so a crash between the two leaves files that belong to nobody.

use std::path::Path;
use std::path::PathBuf;
use std::str::FromStr;

use ob_core::Home;
use ob_core::ProjectId;
use ob_core::SessionId;
use ob_core::WorkspaceId;
use ob_crash::CrashPoint;
use ob_crash::reach;
use ob_store::StoreError;

use crate::claims::Claims;
use crate::shared::Shared;

/// What there was before the server made anything.
#[derive(Debug, Default)]
pub struct Found {
    /// Folders of projects.
    pub projects: Vec<ProjectId>,
    /// Folders of workspaces and of their bases.
    pub workspaces: Vec<(ProjectId, WorkspaceId)>,
    /// Homes of sessions' agents.
    pub homes: Vec<(ProjectId, SessionId)>,
    /// Sandboxes that made patches: their ids and runtime folders.
    pub patches: Vec<(String, PathBuf)>,
    /// Sandboxes of sessions: the short forms of their ids, and their runtime folders.
    pub sandboxes: Vec<(String, PathBuf)>,
}

/// What has files of its own and a record that says whose they are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Thing {
    Project(ProjectId),
    Workspace(ProjectId, WorkspaceId),
    /// The home of a session's agent.
    Home(ProjectId, SessionId),
}

// === impl Found ===

impl Found {
    pub(crate) fn things(&self) -> impl Iterator<Item = Thing> {
        let projects = self.projects.iter().map(|&project| Thing::Project(project));
        let workspaces = self.workspaces.iter().map(|&(project, id)| Thing::Workspace(project, id));
        let homes = self.homes.iter().map(|(project, id)| Thing::Home(*project, id.clone()));
        projects.chain(workspaces).chain(homes)
    }
}

// === impl Thing ===

impl Thing {
    /// True if there is a record of it: it belongs to somebody.
    pub(crate) async fn has_record(&self, shared: &Shared) -> Result<bool, StoreError> {
        Ok(match self {
            Self::Project(id) => shared.store.project(*id).await?.is_some(),
            Self::Workspace(_, id) => shared.store.workspace(*id).await?.is_some(),
            Self::Home(_, id) => shared.store.session(id).await?.is_some(),
        })
    }

    /// Removes its files, unless it has a record or an operation deletes it right now, which is then that one's business.
    /// True if they are gone by that.
    pub(crate) async fn remove_unowned(&self, shared: &Shared, claims: &Claims) -> Result<bool, StoreError> {
        // Looked at without the claim first: a claim on what is in use would refuse its users.
        if self.has_record(shared).await? {
            return Ok(false);
        }
        let claim = match self {
            Self::Project(id) => Some(claims.deletes("project", id.as_uuid())),
            Self::Workspace(_, id) => Some(claims.deletes("workspace", id.as_uuid())),
            Self::Home(..) => None,
        };
        let Ok(_held) = claim.transpose() else { return Ok(false) };
        if self.has_record(shared).await? {
            return Ok(false);
        }
        let mut all = true;
        for folder in self.folders(&shared.home) {
            all &= remove_one(shared, &folder).await;
        }
        Ok(all)
    }

    fn folders(&self, home: &Home) -> Vec<PathBuf> {
        match self {
            Self::Project(id) => vec![home.project(*id)],
            Self::Workspace(project, id) => {
                vec![home.workspace(*project, *id), home.workspace_base(*project, *id)]
            }
            Self::Home(project, id) => vec![home.session_home(*project, id)],
        }
    }
}

/// Looks at the home. What has a name that we do not give is none of our business.
pub(crate) async fn look(home: &Home) -> Found {
    let home = home.clone();
    let looked = tokio::task::spawn_blocking(move || look_blocking(&home)).await;
    looked.unwrap_or_default()
}

/// Removes what belongs to nobody. What fails is tried again by the cleanup, and at the next start.
pub(crate) async fn remove(shared: &Shared, claims: &Claims, found: &Found) {
    for (id, runtime) in &found.patches {
        if let Ok(backend) = shared.backend()
            && let Err(error) = backend.end(id, runtime, shared.epoch).await
        {
            tracing::warn!(sandbox = id, %error, "cannot end a sandbox that made a patch");
        }
    }
    for thing in found.things() {
        if let Err(error) = thing.remove_unowned(shared, claims).await {
            tracing::warn!(%error, "cannot tell which files are left over");
            return;
        }
    }
}

async fn remove_one(shared: &Shared, path: &Path) -> bool {
    reach(CrashPoint::LeftoverBefore);
    let removed = shared.files.remove(path).await;
    reach(CrashPoint::LeftoverAfter);
    match &removed {
        Ok(()) => tracing::info!(path = %path.display(), "removed what belonged to nobody"),
        Err(refusal) => tracing::warn!(%refusal, "what belongs to nobody stays for now"),
    }
    removed.is_ok()
}

fn look_blocking(home: &Home) -> Found {
    let mut found = Found::default();
    for project in names::<ProjectId>(&home.projects(), "") {
        found.projects.push(project);
        let folder = home.project(project);
        let mut workspaces = names::<WorkspaceId>(&folder.join("workspaces"), "");
        workspaces.extend(names::<WorkspaceId>(&folder.join("bases"), ".git"));
        workspaces.sort_unstable();
        workspaces.dedup();
        found.workspaces.extend(workspaces.into_iter().map(|workspace| (project, workspace)));
        found.homes.extend(names::<SessionId>(&folder.join("homes"), "").into_iter().map(|id| (project, id)));
    }
    let sandboxes = home.runtime().join("s");
    for name in names::<String>(&sandboxes, "") {
        let runtime = sandboxes.join(&name);
        if crate::diff::is_id(&name) {
            found.patches.push((name, runtime));
        } else if SessionId::is_suffix(&name) {
            found.sandboxes.push((name, runtime));
        }
    }
    found
}

/// The entries of a folder whose names, without `suffix`, are ids.
fn names<T: FromStr>(folder: &Path, suffix: &str) -> Vec<T> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.strip_suffix(suffix)?.parse().ok()).collect()
}
