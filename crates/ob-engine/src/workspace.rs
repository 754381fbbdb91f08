//! Workspaces: a clone of the user's folder that an agent may ruin, and what it changed, as a patch.
//!
//! A clone is made in two steps. The *base* is a bare repository of ours: the source's history and, if its working tree
//! had changes, one commit more with those. The workspace is a clone of the base. Neither shares an inode with the
//! source: the workspace will belong to somebody else.
//!
//! Only the *source*, which the user trusts, is ever read by git on the host. A workspace is hostile once an agent was in
//! it (its `.git/config` runs programs), so a patch is made inside a fresh sandbox, against the base, which no agent can
//! write.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Output;
use std::process::Stdio;

use ob_core::Refusal;
use ob_core::RefusalCode;

/// Where the base repository is inside the sandbox that makes a patch.
pub(crate) const BASE_DIR: &str = "/base.git";

/// The most bytes of a patch.
pub(crate) const PATCH_MAX: usize = 64 * 1024 * 1024;

/// What a clone needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClonePlan {
    /// The user's folder; none for an empty workspace.
    pub source: Option<PathBuf>,
    /// Our own home: were it inside the source, its keys and tokens would come along.
    pub home: PathBuf,
    /// The base repository to make.
    pub base: PathBuf,
    /// The working directory to make; none if the agent works in the source itself.
    pub workspace: Option<PathBuf>,
    /// Who shall own base and workspace; none if that is us already.
    pub owner: Option<u32>,
}

/// What a clone gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cloned {
    /// The commit in the base that patches are made against.
    pub base_commit: String,
    /// True if changes that were not committed came along.
    pub dirty: bool,
}

/// Makes base and workspace. What an earlier, unfinished try left is removed first.
pub(crate) async fn prepare(plan: &ClonePlan) -> Result<Cloned, Refusal> {
    remove_all(&plan.base).await?;
    make_private_parent(&plan.base).await?;
    let cloned = match &plan.source {
        Some(source) => base_of_source(source, &plan.base, &all_but(source, &plan.home)).await?,
        None => Cloned { base_commit: base_of_nothing(&plan.base).await?, dirty: false },
    };
    if let Some(workspace) = &plan.workspace {
        remove_all(workspace).await?;
        make_private_parent(workspace).await?;
        clone_base(&plan.base, workspace, &cloned).await?;
        give(workspace, plan.owner).await?;
    }
    give(&plan.base, plan.owner).await?;
    Ok(cloned)
}

/// A thread for blocking work was lost.
pub(crate) fn worker_failed() -> Refusal {
    Refusal::internal("a worker thread failed").fix("see the log, then try again")
}

/// Removes a folder and what is in it, following no link. Nothing there is fine.
pub(crate) async fn remove_all(path: &Path) -> Result<(), Refusal> {
    let mut removed = tokio::fs::remove_dir_all(path).await;
    if removed.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied) {
        // An agent that runs as our own user may have closed folders to their owner.
        let closed = path.to_owned();
        let opened = tokio::task::spawn_blocking(move || open_folders(&closed)).await;
        opened.map_err(|_| worker_failed())?;
        removed = tokio::fs::remove_dir_all(path).await;
    }
    match removed {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Refusal::unavailable(format!("cannot remove `{}`: {error}", path.display()))
            .fix("check the permissions of the home's folders")),
    }
}

/// Lets the owner into every folder, as far as that is possible; follows no link.
fn open_folders(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        if !std::fs::symlink_metadata(&folder).is_ok_and(|found| found.is_dir()) {
            continue;
        }
        if let Err(error) = std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)) {
            tracing::debug!(folder = %folder.display(), %error, "a folder cannot be opened");
        }
        folders.extend(std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path()));
    }
}

/// The commands, to be run in order inside a sandbox, whose outputs are the patch and the names of the changed files.
/// `base` and `workspace` are where these are inside.
pub(crate) fn diff_script(base_commit: &str, base: &str, workspace: &str) -> [Vec<String>; 2] {
    let script = |last: &str| {
        vec![
            "/bin/sh".to_owned(),
            "-ec".to_owned(),
            format!(
                "git() {{ command git --git-dir=\"$base\" --work-tree=\"$workspace\" -c core.hooksPath=/dev/null \
                 -c core.fsmonitor=false -c safe.directory='*' -c core.quotePath=false -c diff.noprefix=false \
                 -c advice.addEmbeddedRepo=false \"$@\"; }}\n\
                 base=$2 workspace=$3 own=${{TMPDIR:-/tmp}}\n\
                 export GIT_INDEX_FILE=\"$own/index\" GIT_OBJECT_DIRECTORY=\"$own/objects\" \
                 GIT_ALTERNATE_OBJECT_DIRECTORIES=\"$base/objects\" GIT_OPTIONAL_LOCKS=0\n\
                 mkdir -p \"$own/objects\"\n\
                 cd \"$workspace\"\n\
                 [ -e \"$own/index\" ] || {{ git read-tree \"$1\"; git add --all --ignore-errors . >&2; }}\n\
                 {last}"
            ),
            "diff".to_owned(),
            base_commit.to_owned(),
            base.to_owned(),
            workspace.to_owned(),
        ]
    };
    [
        script("git diff --cached --binary --full-index --no-ext-diff --no-textconv --no-color \"$1\" --"),
        script("git diff --cached --name-only --no-ext-diff --no-textconv --no-color -z \"$1\" --"),
    ]
}

async fn base_of_source(source: &Path, base: &Path, files: &[OsString]) -> Result<Cloned, Refusal> {
    let top = git(Some(source), ["rev-parse", "--show-toplevel"]).await?;
    if !top.status.success() {
        if text(&top.stderr).contains("dubious ownership") {
            return Err(Refusal::new(
                RefusalCode::Forbidden,
                format!("`{}` is a git repository of another user", source.display()),
            )
            .fix("run the server as the owner of the repository"));
        }
        if text(&top.stderr).contains("not a git repository") {
            return snapshot_folder(source, base, files).await;
        }
        // Taken for a plain folder, it would lose its history without a word.
        return Err(failed("read the project's repository", &top));
    }
    let top = PathBuf::from(OsStr::from_bytes(top.stdout.strip_suffix(b"\n").unwrap_or(&top.stdout)));
    if top != source {
        return Err(Refusal::invalid(format!(
            "`{}` is inside the git repository `{}`",
            source.display(),
            top.display()
        ))
        .fix(format!("use `--project {}`", top.display())));
    }
    let head = git(Some(source), ["rev-parse", "--verify", "--quiet", "HEAD^{commit}"]).await?;
    if !head.status.success() {
        // A repository without a commit is a folder with files.
        return snapshot_folder(source, base, files).await;
    }
    let head = text(&head.stdout).trim().to_owned();
    succeed(
        "clone the project",
        git_of_files(
            None,
            [
                OsStr::new("clone"),
                OsStr::new("--quiet"),
                OsStr::new("--bare"),
                OsStr::new("--no-hardlinks"),
                OsStr::new("--"),
                source.as_os_str(),
                base.as_os_str(),
            ],
        )
        .await?,
    )?;
    let mut status = git_command();
    status.current_dir(source).envs(without_filters(source).await?);
    status.args(["status", "--porcelain=v1", "-z", "--ignore-submodules=all", "--"]).args(files);
    let status = succeed("read the state of the project", run_git(status).await?)?;
    if status.stdout.is_empty() {
        return Ok(Cloned { base_commit: head, dirty: false });
    }
    let base_commit = snapshot(source, base, Some(&head), files).await?;
    Ok(Cloned { base_commit, dirty: true })
}

/// The files of the source as git names them: all, without our home if that is among them.
fn all_but(source: &Path, home: &Path) -> Vec<OsString> {
    let mut files = vec![OsString::from(".")];
    if let Ok(inside) = home.strip_prefix(source)
        && !inside.as_os_str().is_empty()
    {
        files.push(exclude(inside.as_os_str()));
    }
    files
}

/// A path that git is to leave out.
fn exclude(path: &OsStr) -> OsString {
    let mut exclude = OsString::from(":(exclude,top,literal)");
    exclude.push(path);
    exclude
}

/// The paths of the submodules in `ls-files --stage -z`.
fn submodules(listed: &[u8]) -> impl Iterator<Item = OsString> {
    let entries = listed.split(|byte| *byte == 0).filter(|entry| entry.starts_with(b"160000 "));
    entries.filter_map(|entry| {
        let tab = entry.iter().position(|byte| *byte == b'\t')?;
        Some(OsStr::from_bytes(&entry[tab + 1..]).to_owned())
    })
}

/// Variables with which git takes the source's files as they are: a repository may have come from anywhere, and a filter
/// that its own configuration names is a program. What the operator's own configuration names, such as Git LFS, stays.
async fn without_filters(source: &Path) -> Result<Vec<(String, String)>, Refusal> {
    let list = ["config", "--list", "--includes", "--show-scope", "--name-only", "-z"];
    let listed = succeed("read the project's configuration", git(Some(source), list).await?)?;
    let listed = text(&listed.stdout);
    let mut words = listed.split('\0');
    let mut names = Vec::new();
    while let (Some(scope), Some(name)) = (words.next(), words.next()) {
        let is_own = !matches!(scope, "system" | "global" | "command");
        let is_program = [".clean", ".smudge", ".process"].iter().any(|end| name.ends_with(end));
        if is_own && is_program && name.starts_with("filter.") {
            names.push(name);
        }
    }
    let mut variables = vec![("GIT_CONFIG_COUNT".to_owned(), names.len().to_string())];
    for (number, name) in names.into_iter().enumerate() {
        variables.push((format!("GIT_CONFIG_KEY_{number}"), name.to_owned()));
        variables.push((format!("GIT_CONFIG_VALUE_{number}"), String::new()));
    }
    Ok(variables)
}

/// A base for a folder that is no repository.
async fn snapshot_folder(source: &Path, base: &Path, files: &[OsString]) -> Result<Cloned, Refusal> {
    init_bare(base).await?;
    Ok(Cloned { base_commit: snapshot(source, base, None, files).await?, dirty: false })
}

async fn base_of_nothing(base: &Path) -> Result<String, Refusal> {
    init_bare(base).await?;
    let empty = base.join("empty");
    make_private_parent(&empty.join("x")).await?;
    let commit = snapshot(&empty, base, None, &[".".into()]).await;
    remove_all(&empty).await?;
    commit
}

async fn init_bare(base: &Path) -> Result<(), Refusal> {
    succeed(
        "make a repository",
        git(
            None,
            [
                OsStr::new("init"),
                OsStr::new("--quiet"),
                OsStr::new("--bare"),
                OsStr::new("--initial-branch=main"),
                base.as_os_str(),
            ],
        )
        .await?,
    )
    .map(|_| ())
}

/// Commits the files of `source`, as they are, to the base, on top of `parent`; without a parent also as its `HEAD`.
async fn snapshot(
    source: &Path,
    base: &Path,
    parent: Option<&str>,
    files: &[OsString],
) -> Result<String, Refusal> {
    let index = base.join("snapshot-index");
    let run = |args: Vec<OsString>| {
        let mut command = git_command();
        command
            .arg("--git-dir")
            .arg(base)
            .arg("--work-tree")
            .arg(source)
            .args(args)
            .current_dir(source)
            .env("GIT_INDEX_FILE", &index)
            .envs(identity());
        run_git(command)
    };
    let args = |list: &[&str]| list.iter().map(OsString::from).collect::<Vec<_>>();
    if let Some(parent) = parent {
        succeed("read the project's commit", run(args(&["read-tree", parent])).await?)?;
    }
    let mut add = args(&["add", "--all", "--"]);
    add.extend(files.iter().cloned());
    // To know whether a submodule has changes, git would run in it, by the submodule's own configuration.
    let listed = succeed("read the project's commit", run(args(&["ls-files", "--stage", "-z"])).await?)?;
    add.extend(submodules(&listed.stdout).map(|path| exclude(&path)));
    succeed("copy the project's files", run(add).await?)?;
    let tree = succeed("copy the project's files", run(args(&["write-tree"])).await?)?;
    let tree = text(&tree.stdout).trim().to_owned();
    let mut commit_args =
        args(&["commit-tree", &tree, "-m", "The working tree as it was when the session began"]);
    if let Some(parent) = parent {
        commit_args.extend(args(&["-p", parent]));
    }
    let commit = succeed("copy the project's files", run(commit_args).await?)?;
    let commit = text(&commit.stdout).trim().to_owned();
    // A reference keeps it through a garbage collection, and lets the workspace's clone find it.
    let reference = if parent.is_some() { "refs/session/base" } else { "HEAD" };
    succeed("copy the project's files", run(args(&["update-ref", reference, &commit])).await?)?;
    tokio::fs::remove_file(&index).await.ok();
    Ok(commit)
}

async fn clone_base(base: &Path, workspace: &Path, cloned: &Cloned) -> Result<(), Refusal> {
    let within = Some(workspace);
    succeed(
        "make the workspace",
        git_of_files(
            None,
            [
                OsStr::new("clone"),
                OsStr::new("--quiet"),
                OsStr::new("--no-hardlinks"),
                OsStr::new("--"),
                base.as_os_str(),
                workspace.as_os_str(),
            ],
        )
        .await?,
    )?;
    // The path of the base means nothing inside a sandbox.
    succeed("make the workspace", git(within, ["remote", "remove", "origin"]).await?)?;
    if cloned.dirty {
        // As in the source: the changes are in the working tree and not committed.
        succeed(
            "make the workspace",
            git_of_files(
                within,
                [
                    OsStr::new("fetch"),
                    OsStr::new("--quiet"),
                    base.as_os_str(),
                    OsStr::new(&cloned.base_commit),
                ],
            )
            .await?,
        )?;
        succeed(
            "make the workspace",
            git(within, ["read-tree", "-u", "--reset", &cloned.base_commit]).await?,
        )?;
        succeed("make the workspace", git(within, ["reset", "--quiet", "--mixed", "HEAD"]).await?)?;
    }
    Ok(())
}

async fn give(path: &Path, owner: Option<u32>) -> Result<(), Refusal> {
    let Some(uid) = owner else { return Ok(()) };
    let path = path.to_owned();
    let given = tokio::task::spawn_blocking(move || {
        ob_sandbox::give_to(&path, uid).map_err(|error| {
            Refusal::unavailable(format!("cannot give `{}` to uid {uid}: {error}", path.display()))
                .fix("check that the home is on a local file system")
        })
    })
    .await;
    given.map_err(|_| worker_failed())?
}

async fn make_private_parent(path: &Path) -> Result<(), Refusal> {
    let Some(parent) = path.parent().map(Path::to_owned) else { return Ok(()) };
    let made = tokio::task::spawn_blocking(move || {
        use std::os::unix::fs::DirBuilderExt as _;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&parent).map_err(|error| {
            Refusal::unavailable(format!("cannot make `{}`: {error}", parent.display()))
                .fix("check the space and the permissions of the home (`oubliette doctor`)")
        })
    })
    .await;
    made.map_err(|_| worker_failed())?
}

fn identity() -> [(&'static str, &'static str); 4] {
    [
        ("GIT_AUTHOR_NAME", "oubliette"),
        ("GIT_AUTHOR_EMAIL", "oubliette@localhost"),
        ("GIT_COMMITTER_NAME", "oubliette"),
        ("GIT_COMMITTER_EMAIL", "oubliette@localhost"),
    ]
}

/// git as we run it on the user's own folder: no hooks, no monitors, no questions, nothing of our environment's git.
fn git_command() -> tokio::process::Command {
    let mut command = tokio::process::Command::new("git");
    command
        .args(["-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "gc.auto=0"])
        // What a repository lacks it must not fetch: by which program is in its own configuration.
        .env("GIT_NO_LAZY_FETCH", "1")
        .env("GIT_ALLOW_PROTOCOL", "none")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_OPTIONAL_LOCKS", "0")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    for name in
        ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_CONFIG_PARAMETERS"]
    {
        command.env_remove(name);
    }
    command
}

async fn git<I, S>(within: Option<&Path>, args: I) -> Result<Output, Refusal>
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut command = git_command();
    if let Some(within) = within {
        command.current_dir(within);
    }
    command.args(args);
    run_git(command).await
}

/// The same for what copies from a repository of this machine.
async fn git_of_files<I, S>(within: Option<&Path>, args: I) -> Result<Output, Refusal>
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut command = git_command();
    command.env("GIT_ALLOW_PROTOCOL", "file").args(args);
    if let Some(within) = within {
        command.current_dir(within);
    }
    run_git(command).await
}

async fn run_git(mut command: tokio::process::Command) -> Result<Output, Refusal> {
    command.output().await.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            Refusal::unavailable("git is not installed").fix("install it: `apt-get install git`")
        }
        _ => Refusal::unavailable(format!("cannot run git: {error}")).fix("see `oubliette doctor`"),
    })
}

fn succeed(what: &str, output: Output) -> Result<Output, Refusal> {
    if output.status.success() { Ok(output) } else { Err(failed(what, &output)) }
}

fn failed(what: &str, output: &Output) -> Refusal {
    let said: String = text(&output.stderr).trim().chars().take(400).collect();
    let fix = if said.contains("No space left") {
        "free some space on the disk of the home"
    } else {
        "mend what git says, then try again"
    };
    Refusal::unavailable(format!("cannot {what}: {said}")).fix(fix)
}

fn text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

#[cfg(test)]
mod tests;
