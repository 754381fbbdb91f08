//! Homes: where a server keeps its things. Paths are asked of the home, never joined by hand.

use std::path::Path;
use std::path::PathBuf;

use crate::id::ProjectId;
use crate::id::SessionId;
use crate::id::WorkspaceId;

/// Which layout a home has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// A home with `config.yaml`: `projects/ backups/ logs/ data/` beside it.
    V1,
    /// Any other: `config/`, `data/{auth.db, oubliette.db, logs/, backups/, projects/}`.
    V2,
}

/// A home: a root folder and its layout. Pure; whether anything exists is not known here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    root: PathBuf,
    layout: Layout,
    runtime: PathBuf,
    folders: Folders,
}

/// Folders that are not where the layout has them. Absolute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Folders {
    /// Databases, the lock, the pid file.
    pub data: Option<PathBuf>,
    /// Log files.
    pub logs: Option<PathBuf>,
    /// Projects.
    pub projects: Option<PathBuf>,
}

// === impl Home ===

impl Home {
    /// A home at `root` (absolute) whose sockets and unpacked programs are in `runtime` (absolute, short, private).
    pub fn new(root: PathBuf, layout: Layout, runtime: PathBuf) -> Self {
        Self { root, layout, runtime, folders: Folders::default() }
    }

    /// The same home with some of its folders elsewhere.
    pub fn with_folders(self, folders: Folders) -> Self {
        Self { folders, ..self }
    }

    /// The root folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The layout.
    pub const fn layout(&self) -> Layout {
        self.layout
    }

    /// Databases, the lock, the pid file.
    pub fn data(&self) -> PathBuf {
        self.folders.data.clone().unwrap_or_else(|| self.root.join("data"))
    }

    /// The folder of the configuration file.
    pub fn config(&self) -> PathBuf {
        match self.layout {
            Layout::V1 => self.root.clone(),
            Layout::V2 => self.root.join("config"),
        }
    }

    /// Everything but tokens.
    pub fn database(&self) -> PathBuf {
        self.data().join("oubliette.db")
    }

    /// Tokens.
    pub fn auth_database(&self) -> PathBuf {
        self.data().join("auth.db")
    }

    /// The audit.
    pub fn audit_database(&self) -> PathBuf {
        self.data().join("audit.db")
    }

    /// Blobs: payloads too large for a row, by content.
    pub fn blobs(&self) -> PathBuf {
        self.data().join("blobs")
    }

    /// The lock that names the server of this home.
    pub fn lock(&self) -> PathBuf {
        self.data().join("server.lock")
    }

    /// The server's process id.
    pub fn pid_file(&self) -> PathBuf {
        self.data().join("oubliette.pid")
    }

    /// The folder of log files.
    pub fn logs(&self) -> PathBuf {
        match (&self.folders.logs, self.layout) {
            (Some(logs), _) => logs.clone(),
            (None, Layout::V1) => self.root.join("logs"),
            (None, Layout::V2) => self.data().join("logs"),
        }
    }

    /// The log file.
    pub fn log_file(&self) -> PathBuf {
        self.logs().join("oubliette.log")
    }

    /// The folder of all projects.
    pub fn projects(&self) -> PathBuf {
        match (&self.folders.projects, self.layout) {
            (Some(projects), _) => projects.clone(),
            (None, Layout::V1) => self.root.join("projects"),
            (None, Layout::V2) => self.data().join("projects"),
        }
    }

    /// The folder of one project.
    pub fn project(&self, project: ProjectId) -> PathBuf {
        self.projects().join(project.to_string())
    }

    /// The working directory of one workspace.
    pub fn workspace(&self, project: ProjectId, workspace: WorkspaceId) -> PathBuf {
        self.project(project).join("workspaces").join(workspace.to_string())
    }

    /// The bare repository that a workspace's diffs are made against. Never visible to the agent as writable.
    pub fn workspace_base(&self, project: ProjectId, workspace: WorkspaceId) -> PathBuf {
        self.project(project).join("bases").join(format!("{workspace}.git"))
    }

    /// The private home folder of a session's agent; it outlives the sandbox, so that an agent can resume.
    pub fn session_home(&self, project: ProjectId, session: &SessionId) -> PathBuf {
        self.project(project).join("homes").join(session.as_str())
    }

    /// Sockets and unpacked programs: private, short, gone after a reboot.
    pub fn runtime(&self) -> &Path {
        &self.runtime
    }

    /// The operator's control socket.
    pub fn control_socket(&self) -> PathBuf {
        self.runtime.join("control.sock")
    }

    /// The runtime folder of one sandbox. The name is short: a socket path may have 108 bytes at most.
    pub fn sandbox_runtime(&self, session: &SessionId) -> PathBuf {
        self.runtime.join("s").join(session.suffix())
    }

    /// Programs that run at a sandbox's edge, under neutral names.
    pub fn programs(&self) -> PathBuf {
        self.runtime.join("bin")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_layouts() {
        let at = |layout| Home::new("/h".into(), layout, "/run/x".into());
        let (v1, v2) = (at(Layout::V1), at(Layout::V2));
        assert_eq!(v1.auth_database(), Path::new("/h/data/auth.db"));
        assert_eq!(v2.auth_database(), Path::new("/h/data/auth.db"));
        assert_eq!(v1.log_file(), Path::new("/h/logs/oubliette.log"));
        assert_eq!(v2.log_file(), Path::new("/h/data/logs/oubliette.log"));
        assert_eq!(v1.projects(), Path::new("/h/projects"));
        assert_eq!(v2.projects(), Path::new("/h/data/projects"));
    }

    #[test]
    fn folders_may_be_elsewhere_and_take_with_them_what_is_in_them() {
        let folders = Folders { data: Some("/big".into()), ..Folders::default() };
        let home = Home::new("/h".into(), Layout::V2, "/run/x".into()).with_folders(folders);
        assert_eq!(home.lock(), Path::new("/big/server.lock"));
        assert_eq!(home.log_file(), Path::new("/big/logs/oubliette.log"));
        assert_eq!(home.projects(), Path::new("/big/projects"));
        assert_eq!(home.config(), Path::new("/h/config"));
        let folders = Folders { data: None, logs: Some("/l".into()), projects: Some("/p".into()) };
        let home = Home::new("/h".into(), Layout::V1, "/run/x".into()).with_folders(folders);
        assert_eq!((home.logs(), home.projects()), ("/l".into(), "/p".into()));
        assert_eq!(home.data(), Path::new("/h/data"));
    }
}
