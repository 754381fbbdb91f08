//! What keeps a user's own repository from turning against the user.
//!
//! In a workspace that is the user's folder, whatever the sandbox leaves under `.git` is run by the user's next `git`:
//! hooks, and programs named in configuration. So those are read-only inside, and cannot be slipped in another way:
//!
//! - `.git` is mounted onto itself, since a mount point cannot be renamed away and made anew;
//! - `hooks`, `config`, `config.worktree` and `modules` are read-only;
//! - what is missing is made as a harmless placeholder and mounted read-only, so that it cannot be made inside:
//!   `commondir` would move configuration elsewhere, and a folder without `.git` could be given one;
//! - a `.git` that is a file (a worktree, a submodule) is read-only as it is;
//! - symbolic links at these places are refused: a mount follows them.
//!
//! Not covered: a repository that the agent makes in a folder below, or tracked scripts that the user's configuration
//! already runs.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::path::Path;

use ob_core::Refusal;
use ob_core::launch::Owner;
use ob_core::launch::Placeholders;
use rustix::fs::AtFlags;
use rustix::fs::FileType;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::io::Errno;

/// The content of the placeholder for `commondir`: this folder itself, which is what its absence means.
const COMMON_DIR: &str = ".\n";

/// A mount inside the workspace, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitMount {
    /// Below the workspace.
    pub path: String,
    /// True for `.git` itself.
    pub writable: bool,
}

/// The mounts that protect a repository, and what was put there for them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Protection {
    /// In this order, after the workspace.
    pub(super) mounts: Vec<GitMount>,
    /// To be taken away when the last sandbox ends.
    pub(super) placeholders: Option<Placeholders>,
}

/// Looks at a user's folder and makes the placeholders, owned by `owner`. Follows no symbolic link.
pub(super) fn protect(workspace: &Path, owner: Option<Owner>) -> Result<Protection, Refusal> {
    let failed = |e: Errno| {
        Refusal::unavailable(format!(
            "cannot protect .git in {}: {}",
            workspace.display(),
            io::Error::from(e)
        ))
        .fix("work on a clone, without --in-place")
    };
    let folder = open_folder(rustix::fs::CWD, workspace).map_err(failed)?;
    let mut protection = Protection::default();
    let git = workspace.join(".git");
    // An empty one is the placeholder of a sandbox that still runs, or that a crash left.
    let is_placeholder = fs::read_dir(&git).is_ok_and(|mut entries| entries.next().is_none());
    let mut placeholders = Placeholders { lock: workspace.to_owned(), files: vec![], folders: vec![] };
    match kind(&folder, ".git").map_err(failed)? {
        Some(FileType::RegularFile) => protection.mounts.push(read_only(".git")),
        Some(FileType::Directory) if is_placeholder => {
            placeholders.folders.push(git);
            protection.mounts.push(read_only(".git"));
        }
        Some(FileType::Directory) => {
            let inside = open_folder(&folder, ".git").map_err(failed)?;
            protection.mounts.push(GitMount { path: ".git".into(), writable: true });
            for (name, wanted, content) in [
                ("hooks", FileType::Directory, ""),
                ("config", FileType::RegularFile, ""),
                ("commondir", FileType::RegularFile, COMMON_DIR),
                ("config.worktree", FileType::RegularFile, ""),
                ("modules", FileType::Directory, ""),
            ] {
                let path = git.join(name);
                match kind(&inside, name).map_err(failed)? {
                    Some(found) if found == wanted => {}
                    Some(_) => return Err(unexpected(&path)),
                    // Without its setting, which is read-only, git does not look at it.
                    None if name == "config.worktree" && !has_worktree_config(&git) => continue,
                    None if wanted == FileType::Directory => {
                        make_folder(&inside, name, owner).map_err(failed)?;
                        placeholders.folders.push(path);
                    }
                    None => {
                        make_file(&inside, name, content, owner).map_err(failed)?;
                        placeholders.files.push((path, content.to_owned()));
                    }
                }
                protection.mounts.push(read_only(&format!(".git/{name}")));
            }
            // One that an earlier sandbox left for another that still runs, or that a crash left, is ours as well.
            let common = git.join("commondir");
            if !placeholders.files.iter().any(|(path, _)| *path == common)
                && fs::read(&common).is_ok_and(|found| found == COMMON_DIR.as_bytes())
            {
                placeholders.files.push((common, COMMON_DIR.to_owned()));
            }
        }
        Some(_) => return Err(unexpected(&git)),
        None => {
            make_folder(&folder, ".git", owner).map_err(failed)?;
            placeholders.folders.push(git);
            protection.mounts.push(read_only(".git"));
        }
    }
    protection.placeholders = Some(placeholders);
    Ok(protection)
}

fn read_only(path: &str) -> GitMount {
    GitMount { path: path.to_owned(), writable: false }
}

fn unexpected(path: &Path) -> Refusal {
    Refusal::invalid(format!("{} is a symbolic link or not what git makes there", path.display()))
        .fix("work on a clone, without --in-place")
}

fn has_worktree_config(git: &Path) -> bool {
    fs::read(git.join("config"))
        .is_ok_and(|bytes| String::from_utf8_lossy(&bytes).to_ascii_lowercase().contains("worktreeconfig"))
}

fn open_folder(at: impl AsFd, name: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty())
}

fn kind(folder: &OwnedFd, name: &str) -> Result<Option<FileType>, Errno> {
    match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn make_folder(at: &OwnedFd, name: &str, owner: Option<Owner>) -> Result<(), Errno> {
    rustix::fs::mkdirat(at, name, Mode::from_raw_mode(0o755))?;
    give(at, name, owner)
}

fn make_file(at: &OwnedFd, name: &str, content: &str, owner: Option<Owner>) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(at, name, flags, Mode::from_raw_mode(0o644))?;
    rustix::io::write(&file, content.as_bytes())?;
    give(at, name, owner)
}

fn give(at: &OwnedFd, name: &str, owner: Option<Owner>) -> Result<(), Errno> {
    let Some(owner) = owner else { return Ok(()) };
    let (uid, gid) = (rustix::fs::Uid::from_raw(owner.uid), rustix::fs::Gid::from_raw(owner.gid));
    rustix::fs::chownat(at, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn paths(protection: &Protection) -> Vec<(&str, bool)> {
        protection.mounts.iter().map(|m| (m.path.as_str(), m.writable)).collect()
    }

    #[test]
    fn a_repository_gets_its_git_pinned_and_what_runs_programs_read_only() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(folder.path().join(".git/hooks")).expect("hooks");
        fs::write(folder.path().join(".git/config"), "[core]\n").expect("config");
        let protection = protect(folder.path(), None).expect("a plain repository");
        assert_eq!(
            paths(&protection),
            [
                (".git", true),
                (".git/hooks", false),
                (".git/config", false),
                (".git/commondir", false),
                (".git/modules", false),
            ]
        );
        let placeholders = protection.placeholders.expect("some");
        assert_eq!(placeholders.files.len(), 1, "commondir was missing");
        assert_eq!(placeholders.folders, [folder.path().join(".git/modules")]);
        let again = protect(folder.path(), None).expect("beside a first sandbox").placeholders.expect("some");
        assert_eq!(again.files, placeholders.files, "the last of both takes it away");
    }

    #[test]
    fn a_folder_without_a_repository_cannot_be_given_one() {
        let folder = tempfile::tempdir().expect("a folder");
        for sandbox in ["first", "second"] {
            assert_eq!(paths(&protect(folder.path(), None).expect(sandbox)), [(".git", false)], "{sandbox}");
        }
    }

    #[test]
    fn a_worktree_keeps_its_pointer_as_it_is() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join(".git"), "gitdir: /elsewhere\n").expect("a pointer");
        assert_eq!(paths(&protect(folder.path(), None).expect("a worktree")), [(".git", false)]);
    }

    #[test]
    fn symbolic_links_where_a_mount_would_follow_them_are_refused() {
        for (name, target) in [(".git", "/etc"), (".git/hooks", "/etc"), (".git/config", "/etc/passwd")] {
            let folder = tempfile::tempdir().expect("a folder");
            if name != ".git" {
                fs::create_dir(folder.path().join(".git")).expect("a repository");
                fs::write(folder.path().join(".git/HEAD"), "ref: refs/heads/main\n").expect("a repository");
            }
            symlink(target, folder.path().join(name)).expect("a link");
            assert!(protect(folder.path(), None).is_err(), "{name}");
        }
    }
}
