//! Clones of real folders, with the real git.

use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

use ob_core::RefusalCode;
use tempfile::TempDir;

use super::*;

struct Fixture {
    dir: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let fixture = Self { dir: tempfile::tempdir().expect("a temporary folder") };
        std::fs::create_dir(fixture.source()).expect("a folder");
        fixture
    }

    /// A repository with one commit of `a.txt`.
    fn repository() -> Self {
        let fixture = Self::new();
        fixture.git(&["init", "-q", "-b", "main"]);
        fixture.write("a.txt", "one\n");
        fixture.commit();
        fixture
    }

    fn source(&self) -> PathBuf {
        std::fs::canonicalize(self.dir.path()).expect("it exists").join("source")
    }

    fn path(&self, name: &str) -> PathBuf {
        std::fs::canonicalize(self.dir.path()).expect("it exists").join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.source().join(name), text).expect("a file");
    }

    fn git(&self, args: &[&str]) -> String {
        run(&self.source(), args)
    }

    fn commit(&self) {
        self.git(&["add", "-A"]);
        self.git(&["-c", "user.name=T", "-c", "user.email=t@localhost", "commit", "-q", "-m", "m"]);
    }

    fn plan(&self) -> ClonePlan {
        ClonePlan {
            source: Some(self.source()),
            home: self.path("home"),
            base: self.path("base.git"),
            workspace: Some(self.path("workspace")),
            owner: None,
        }
    }
}

fn run(within: &Path, args: &[&str]) -> String {
    let output = Command::new("git").current_dir(within).args(args).output().expect("git runs");
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

fn read(path: PathBuf) -> String {
    std::fs::read_to_string(path).expect("a readable file")
}

#[tokio::test]
async fn a_clean_repository_is_cloned_at_its_head() {
    let fixture = Fixture::repository();
    let cloned = prepare(&fixture.plan()).await.expect("cloned");
    assert_eq!(cloned.base_commit, fixture.git(&["rev-parse", "HEAD"]).trim());
    assert!(!cloned.dirty);
    assert_eq!(read(fixture.path("workspace/a.txt")), "one\n");
    assert_eq!(run(&fixture.path("workspace"), &["remote"]), "", "no path of ours inside");
    assert_eq!(run(&fixture.path("workspace"), &["status", "--porcelain"]), "");
}

#[tokio::test]
async fn changes_that_are_not_committed_come_along_as_such() {
    let fixture = Fixture::repository();
    fixture.write("gone.txt", "x\n");
    fixture.write(".gitignore", "ignored.txt\n");
    fixture.commit();
    fixture.write("a.txt", "two\n");
    fixture.write("new.txt", "new\n");
    fixture.write("ignored.txt", "secret\n");
    std::fs::remove_file(fixture.source().join("gone.txt")).expect("it was there");
    let before = fixture.git(&["status", "--porcelain"]);

    let cloned = prepare(&fixture.plan()).await.expect("cloned");

    assert!(cloned.dirty);
    let workspace = fixture.path("workspace");
    assert_eq!(read(workspace.join("a.txt")), "two\n");
    assert_eq!(read(workspace.join("new.txt")), "new\n");
    assert!(!workspace.join("gone.txt").exists());
    assert!(!workspace.join("ignored.txt").exists(), "what git ignores stays at home");
    assert_eq!(run(&workspace, &["status", "--porcelain"]), before, "the same changes, not committed");
    assert_eq!(fixture.git(&["status", "--porcelain"]), before, "the source is as it was");
}

#[tokio::test]
async fn a_home_inside_the_source_stays_out_of_the_workspace() {
    for fixture in [Fixture::repository(), Fixture::new()] {
        std::fs::create_dir(fixture.source().join("our home")).expect("a folder");
        fixture.write("our home/key", "secret\n");
        fixture.write("new.txt", "new\n");
        let plan = ClonePlan { home: fixture.source().join("our home"), ..fixture.plan() };
        prepare(&plan).await.expect("cloned");
        assert!(!fixture.path("workspace/our home").exists(), "its keys must not come along");
        assert_eq!(read(fixture.path("workspace/new.txt")), "new\n");
        let names = run(&fixture.path("base.git"), &["log", "--all", "--name-only", "--format="]);
        assert!(!names.contains("our home") && names.contains("new.txt"), "{names}");
    }
}

#[tokio::test]
async fn a_folder_without_git_becomes_a_workspace_too() {
    let fixture = Fixture::new();
    fixture.write("a.txt", "one\n");
    prepare(&fixture.plan()).await.expect("cloned");
    assert_eq!(read(fixture.path("workspace/a.txt")), "one\n");
    assert!(!fixture.source().join(".git").exists(), "the source is as it was");
}

#[tokio::test]
async fn a_repository_without_a_commit_and_an_empty_folder_are_fine() {
    let fixture = Fixture::new();
    fixture.git(&["init", "-q"]);
    fixture.write("a.txt", "one\n");
    prepare(&fixture.plan()).await.expect("cloned");
    assert_eq!(read(fixture.path("workspace/a.txt")), "one\n");

    prepare(&Fixture::new().plan()).await.expect("an empty folder");
    let fixture = Fixture::new();
    let plan = ClonePlan { source: None, ..fixture.plan() };
    prepare(&plan).await.expect("no source at all");
    assert!(fixture.path("workspace").is_dir());
}

#[tokio::test]
async fn a_folder_inside_a_repository_is_refused_with_the_repository() {
    let fixture = Fixture::repository();
    std::fs::create_dir(fixture.source().join("inner")).expect("a folder");
    let plan = ClonePlan { source: Some(fixture.source().join("inner")), ..fixture.plan() };
    let refusal = prepare(&plan).await.expect_err("inside");
    assert_eq!(refusal.code, RefusalCode::InvalidArgument);
    assert!(refusal.fix.expect("a fix").contains(&fixture.source().display().to_string()));
}

#[tokio::test]
async fn no_inode_is_shared_with_the_source() {
    let fixture = Fixture::repository();
    prepare(&fixture.plan()).await.expect("cloned");
    let mut files = 0;
    for root in [fixture.source(), fixture.path("base.git"), fixture.path("workspace")] {
        let mut folders = vec![root];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("a folder") {
                let entry = entry.expect("an entry");
                let meta = entry.metadata().expect("its metadata");
                if meta.is_dir() {
                    folders.push(entry.path());
                } else {
                    files += 1;
                    assert_eq!(meta.nlink(), 1, "{}", entry.path().display());
                }
            }
        }
    }
    assert!(files > 10, "the walk saw the objects");
}

#[tokio::test]
async fn an_unfinished_try_is_begun_again() {
    let fixture = Fixture::repository();
    std::fs::create_dir_all(fixture.path("workspace/half")).expect("a folder");
    std::fs::create_dir_all(fixture.path("base.git/half")).expect("a folder");
    prepare(&fixture.plan()).await.expect("cloned");
    assert!(!fixture.path("workspace/half").exists());
}

#[tokio::test]
async fn programs_that_the_source_configures_are_not_run() {
    let fixture = Fixture::repository();
    let ran = fixture.path("ran");
    let script = fixture.path("monitor.sh");
    std::fs::write(&script, format!("#!/bin/sh\ntouch {}\n", ran.display())).expect("a script");
    let mut mode = std::fs::metadata(&script).expect("it is there").permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o755);
    std::fs::set_permissions(&script, mode).expect("executable");
    fixture.git(&["config", "core.fsmonitor", script.to_str().expect("text")]);

    prepare(&fixture.plan()).await.expect("cloned");
    assert!(!ran.exists(), "the monitor must not run");

    fixture.git(&["status"]);
    assert!(ran.exists(), "the positive control: git itself runs it");
}

#[test]
fn the_diff_script_names_the_commit_as_an_argument_and_not_as_text() {
    for argv in diff_script("$(touch /tmp/x)", "/base.git", "/workspace") {
        assert_eq!(argv[4..], ["$(touch /tmp/x)", "/base.git", "/workspace"]);
        assert!(!argv[2].contains("touch"));
    }
}

#[tokio::test]
async fn no_program_that_a_repository_names_is_run() {
    let fixture = Fixture::repository();
    let mark = fixture.path("mark");
    let program = format!("touch '{}'; cat", mark.display());
    // A filter whose name has what separates names from values on a command line.
    fixture.git(&["config", "filter.a=b.clean", &program]);
    fixture.write(".git/info/attributes", "*.txt filter=a=b\n");
    // A nested repository, as a submodule is one, with a filter of its own.
    std::fs::create_dir(fixture.source().join("nested")).expect("a folder");
    let nested = fixture.source().join("nested");
    run(&nested, &["init", "-q"]);
    std::fs::write(nested.join("n"), "1").expect("a file");
    run(&nested, &["add", "n"]);
    run(&nested, &["-c", "user.name=T", "-c", "user.email=t@localhost", "commit", "-q", "-m", "n"]);
    fixture.git(&["-c", "filter.a=b.clean=", "-c", "advice.addEmbeddedRepo=false", "add", "nested"]);
    fixture.git(&["-c", "user.name=T", "-c", "user.email=t@localhost", "commit", "-q", "-m", "nested"]);
    run(&nested, &["config", "filter.n.clean", &program]);
    std::fs::create_dir_all(nested.join(".git/info")).expect("a folder");
    std::fs::write(nested.join(".git/info/attributes"), "* filter=n\n").expect("a file");
    // Same sizes and other times: git has to look into the files.
    fixture.write("a.txt", "two\n");
    std::fs::write(nested.join("n"), "2").expect("a file");
    // Setting it up may have run them.
    std::fs::remove_file(&mark).ok();
    let cloned = prepare(&fixture.plan()).await.expect("it clones");
    assert!(cloned.dirty, "the change came along");
    assert_eq!(read(fixture.path("workspace/a.txt")), "two\n");
    assert!(!mark.exists(), "a program of the repository ran");
    fixture.git(&["status"]);
    assert!(mark.exists(), "the control: a person's git runs it");
}
