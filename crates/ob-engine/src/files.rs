//! What the engine does to the files of its home. Everything else it does goes through the store, the sandbox backend and
//! the gates; so with another [`Files`], the whole engine runs without a disk.

use std::path::Path;

use async_trait::async_trait;
use ob_core::Home;
use ob_core::Refusal;

use crate::leftovers;
use crate::leftovers::Found;
use crate::workspace;
use crate::workspace::ClonePlan;
use crate::workspace::Cloned;

/// The home's files.
#[async_trait]
pub trait Files: Send + Sync + 'static {
    /// What is there of projects, workspaces, sessions' homes and sandboxes that made patches.
    async fn look(&self, home: &Home) -> Found;

    /// Makes base and workspace. What an earlier, unfinished try left is removed first.
    async fn prepare(&self, plan: &ClonePlan) -> Result<Cloned, Refusal>;

    /// Makes a folder that only its owner may look into; one that is there stays as it is.
    async fn make_home(&self, path: &Path, owner: Option<u32>) -> Result<(), Refusal>;

    /// Removes a folder and what is in it, following no link. Nothing there is fine.
    async fn remove(&self, path: &Path) -> Result<(), Refusal>;
}

/// The machine's files.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostFiles;

// === impl HostFiles ===

#[async_trait]
impl Files for HostFiles {
    async fn look(&self, home: &Home) -> Found {
        leftovers::look(home).await
    }

    async fn prepare(&self, plan: &ClonePlan) -> Result<Cloned, Refusal> {
        workspace::prepare(plan).await
    }

    async fn make_home(&self, path: &Path, owner: Option<u32>) -> Result<(), Refusal> {
        let folder = path.to_owned();
        let made = tokio::task::spawn_blocking(move || -> std::io::Result<()> {
            use std::os::unix::fs::DirBuilderExt as _;
            if folder.is_dir() {
                return Ok(());
            }
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
            match owner {
                Some(uid) => ob_sandbox::give_to(&folder, uid),
                None => Ok(()),
            }
        })
        .await;
        made.map_err(|_| workspace::worker_failed())?.map_err(|error| {
            Refusal::unavailable(format!("cannot make `{}`: {error}", path.display()))
                .fix("check the space and the permissions of the home")
        })
    }

    async fn remove(&self, path: &Path) -> Result<(), Refusal> {
        workspace::remove_all(path).await
    }
}
