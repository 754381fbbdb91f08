//! Things that tests begin with: a repository with a fault in it, records of a session.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::process::Command;

use ob_core::ProjectId;
use ob_core::SessionId;
use ob_core::Timestamp;
use ob_core::TreeId;
use ob_core::TurnNumber;
use ob_core::WorkspaceId;
use ob_core::model::ModelRef;
use ob_core::record::ProjectRecord;
use ob_core::record::SessionRecord;
use ob_core::record::WorkspaceKind;
use ob_core::record::WorkspaceRecord;
use ob_core::session::Session;
use uuid::Uuid;

/// Every file of the demonstration repository, by its path in it.
pub const DEMO_REPO: [(&str, &str); 8] = [
    (".gitignore", include_str!("../fixtures/demo-repo/.gitignore")),
    ("Cargo.lock", include_str!("../fixtures/demo-repo/Cargo.lock")),
    ("Cargo.toml", include_str!("../fixtures/demo-repo/Cargo.toml")),
    ("README.md", include_str!("../fixtures/demo-repo/README.md")),
    ("src/calendar.rs", include_str!("../fixtures/demo-repo/src/calendar.rs")),
    ("src/interval.rs", include_str!("../fixtures/demo-repo/src/interval.rs")),
    ("src/lib.rs", include_str!("../fixtures/demo-repo/src/lib.rs")),
    ("tests/calendar.rs", include_str!("../fixtures/demo-repo/tests/calendar.rs")),
];

/// The author and the date of every commit that a fixture makes, so that its hashes are always the same.
const GIT_IDENTITY: [(&str, &str); 6] = [
    ("GIT_AUTHOR_NAME", "Ada Example"),
    ("GIT_AUTHOR_EMAIL", "ada@example.org"),
    ("GIT_AUTHOR_DATE", "2026-01-05T09:00:00Z"),
    ("GIT_COMMITTER_NAME", "Ada Example"),
    ("GIT_COMMITTER_EMAIL", "ada@example.org"),
    ("GIT_COMMITTER_DATE", "2026-01-05T09:00:00Z"),
];

/// Writes the demonstration repository into `dir` (made if missing) and commits it: a small Rust library without
/// dependencies, seven tests, two of them red because of one fault in `src/interval.rs`.
pub fn demo_repo(dir: &Path) -> io::Result<()> {
    repo(dir, &DEMO_REPO)
}

/// Writes these files into `dir` (made if missing) and makes a git repository of it with one commit.
pub fn repo(dir: &Path, files: &[(&str, &str)]) -> io::Result<()> {
    for (path, text) in files {
        let path = dir.join(path);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(path, text)?;
    }
    git(dir, &["init", "--quiet", "--initial-branch=main"])?;
    git(dir, &["add", "--all"])?;
    git(dir, &["commit", "--quiet", "--no-gpg-sign", "--message=Bookings of rooms"])
}

/// The record of a session that was just accepted; `n` makes its ids.
pub fn session_record(n: u32, model: ModelRef) -> SessionRecord {
    let at = Timestamp::from_micros(1_795_000_000_000_000 + i64::from(n));
    let uuid = Uuid::from_u128(u128::from(n));
    SessionRecord {
        enforcement: None,
        id: SessionId::new(at, n),
        project: ProjectId::from_uuid(uuid),
        workspace: WorkspaceId::from_uuid(uuid),
        tree: TreeId::new(at, n),
        parent: None,
        core: Session::new(Some(TurnNumber(1))),
        agent: "builtin".into(),
        agent_options: Default::default(),
        model,
        backend: "namespace".into(),
        title: "a test".into(),
        last_turn: TurnNumber(1),
        callers: Vec::new(),
        questions: Vec::new(),
        last_question: Default::default(),
        end_when_idle: false,
        reason: None,
        created_at: at,
        updated_at: at,
    }
}

/// What must be stored before a session of [`session_record`] is: its project and its workspace.
pub fn records_around(session: &SessionRecord) -> (ProjectRecord, WorkspaceRecord) {
    let created_at = Timestamp::from_micros(0);
    let project = ProjectRecord {
        id: session.project,
        number: 0,
        name: "old".to_owned(),
        description: String::new(),
        source: None,
        max_cost: None,
        model: None,
        trees: Default::default(),
        limits: BTreeMap::new(),
        agent: Default::default(),
        created_at,
    };
    let workspace = WorkspaceRecord {
        id: session.workspace,
        project: session.project,
        kind: WorkspaceKind::Clone,
        path: "/nowhere".into(),
        base_commit: None,
        created_at,
    };
    (project, workspace)
}

fn git(dir: &Path, arguments: &[&str]) -> io::Result<()> {
    let output = Command::new("git")
        .current_dir(dir)
        .args(arguments)
        // Neither the machine's nor the user's settings may change the commit.
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        .envs(GIT_IDENTITY)
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("git {} failed: {}", arguments.join(" "), said.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_repository_has_always_the_same_commit_and_is_clean() {
        let dir = tempfile::tempdir().expect("a folder");
        let commit = |name: &str| {
            let path = dir.path().join(name);
            demo_repo(&path).expect("git is installed");
            let said =
                Command::new("git").current_dir(&path).args(["rev-parse", "HEAD"]).output().expect("git");
            String::from_utf8(said.stdout).expect("a hash")
        };
        let (one, two) = (commit("one"), commit("two"));
        assert_eq!(one.trim().len(), 40);
        assert_eq!(one, two);
    }

    #[test]
    fn every_file_of_the_folder_is_in_the_list() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/demo-repo");
        let mut found = Vec::new();
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("the fixture is there") {
                let path = entry.expect("an entry").path();
                if path.is_dir() && !path.ends_with("target") {
                    folders.push(path);
                } else if path.is_file() {
                    let inside = path.strip_prefix(&root).expect("inside");
                    found.push(inside.to_str().expect("text").to_string());
                }
            }
        }
        found.sort();
        assert_eq!(found, DEMO_REPO.map(|(path, _)| path));
    }
}
