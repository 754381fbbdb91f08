//! What a crash left behind: folders of projects, workspaces and sessions that are deleted, and sandboxes. The record of a deleted thing goes first and its files after it, so a crash between the two leaves files that
//! belong to nobody.

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

/// Looks at the home. What has a name that we do not give is none of our business.
pub(crate) async fn look(home: &Home) -> Found {
    let home = home.clone();
    let looked = tokio::task::spawn_blocking(move || look_blocking(&home)).await;
    looked.unwrap_or_default()
}

/// Removes what belongs to nobody. What fails is tried again at the next start.
pub(crate) async fn remove(shared: &Shared, claims: &Claims, found: &Found) {
    for (id, runtime) in &found.patches {
        if let Ok(backend) = shared.backend()
            && let Err(error) = backend.end(id, runtime, shared.epoch).await
        {
            tracing::warn!(sandbox = id, %error, "cannot end a sandbox that made a patch");
        }
    }
    if let Err(error) = remove_files(shared, claims, found).await {
        tracing::warn!(%error, "cannot tell which files are left over");
    }
}

async fn remove_files(shared: &Shared, claims: &Claims, found: &Found) -> Result<(), StoreError> {
    let (home, store) = (&shared.home, &shared.store);
    for &project in &found.projects {
        if store.project(project).await?.is_none() {
            remove_one(shared, &home.project(project)).await;
        }
    }
    for &(project, id) in &found.workspaces {
        // One that an operation deletes right now is its business.
        if let Ok(_held) = claims.deletes("workspace", id.as_uuid())
            && store.workspace(id).await?.is_none()
        {
            remove_one(shared, &home.workspace(project, id)).await;
            remove_one(shared, &home.workspace_base(project, id)).await;
        }
    }
    for (project, id) in &found.homes {
        if store.session(id).await?.is_none() {
            remove_one(shared, &home.session_home(*project, id)).await;
        }
    }
    Ok(())
}

async fn remove_one(shared: &Shared, path: &Path) {
    reach(CrashPoint::LeftoverBefore);
    let removed = shared.files.remove(path).await;
    reach(CrashPoint::LeftoverAfter);
    match removed {
        Ok(()) => tracing::info!(path = %path.display(), "removed what a crash had left"),
        Err(refusal) => tracing::warn!(%refusal, "what a crash left stays"),
    }
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
