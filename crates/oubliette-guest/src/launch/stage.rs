//! The private view that bubblewrap is started in when the server is root.
//!
//! bubblewrap runs as an unprivileged uid and opens the sources of its mounts as that uid. Sources that lie under
//! folders which that uid may not enter (`/root/.rustup`, a home of mode 0700) are therefore first mounted, by root,
//! under [`STAGE_DIR`] in a mount namespace that nobody else sees and that goes with the sandbox. No permission of
//! anything on disk is changed.
//!
//! A user's own folder is shown with its owner changed to the sandbox's uid (an id-mapped mount), so that what the
//! sandbox writes belongs to the user.

use std::fs;
use std::io::Read as _;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::Path;

use ob_core::launch::Owner;
use ob_core::launch::STAGE_DIR;
use ob_core::launch::StagedSource;
use rustix::mount::MountFlags;
use rustix::mount::MountPropagationFlags;
use rustix::mount::MoveMountFlags;
use rustix::mount::OpenTreeFlags;
use rustix::process::WaitOptions;
use rustix::thread::UnshareFlags;

use super::sys;
use super::sys::Forked;
use super::sys::MountAttributes;

/// Enters a private mount namespace and mounts the sources under [`STAGE_DIR`], by number. If it stays the first
/// process's view, everyone may write there: it is its `/tmp`.
pub(super) fn enter(sources: &[StagedSource], user: u32, stays: bool) -> Result<(), String> {
    sys::unshare(UnshareFlags::NEWNS).map_err(|e| {
        format!("cannot make a mount namespace: {e} (a server that runs as root needs CAP_SYS_ADMIN)")
    })?;
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|e| format!("cannot make mounts private: {e}"))?;

    // All sources are opened before anything is mounted over: some may lie under the stage's folder themselves.
    let mut trees = Vec::with_capacity(sources.len());
    for source in sources {
        trees.push(detached_tree(source, user)?);
    }
    let (more, options) = match stays {
        true => (MountFlags::empty(), c"mode=1777"),
        false => (MountFlags::NOEXEC, c"mode=0755,size=1m"),
    };
    let flags = MountFlags::NOSUID | MountFlags::NODEV | more;
    rustix::mount::mount("tmpfs", STAGE_DIR, "tmpfs", flags, Some(options))
        .map_err(|e| format!("cannot mount the stage: {e}"))?;
    for (number, (source, (tree, is_folder))) in sources.iter().zip(trees).enumerate() {
        let target = Path::new(STAGE_DIR).join(number.to_string());
        let made = if is_folder { fs::create_dir(&target) } else { fs::write(&target, b"") };
        made.map_err(|e| format!("cannot make {}: {e}", target.display()))?;
        rustix::mount::move_mount(
            &tree,
            "",
            rustix::fs::CWD,
            &target,
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
        )
        .map_err(|e| format!("cannot stage {}: {e}", source.path.display()))?;
    }
    Ok(())
}

/// A copy of the mount at a path, attached nowhere, with what the sandbox may do to it. And whether it is a folder.
fn detached_tree(source: &StagedSource, user: u32) -> Result<(OwnedFd, bool), String> {
    let shown = source.path.display();
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let tree = rustix::mount::open_tree(rustix::fs::CWD, &source.path, flags)
        .map_err(|e| format!("cannot open {shown}: {e}"))?;
    let is_folder = rustix::fs::fstat(&tree)
        .map(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir())
        .map_err(|e| format!("cannot look at {shown}: {e}"))?;
    let namespace = match source.owner {
        Some(owner) => Some(mapping(owner, user)?),
        None => None,
    };
    sys::set_mount_attributes(
        &tree,
        MountAttributes {
            read_only: source.read_only,
            user_namespace: namespace.as_ref().map(std::os::fd::AsFd::as_fd),
        },
    )
    .map_err(|e| match source.owner {
        Some(_) => format!(
            "cannot keep the owner of files in {shown}: {e} (its file system has no id-mapped mounts; work on a clone instead)"
        ),
        None => format!("cannot restrict {shown}: {e}"),
    })?;
    Ok((tree, is_folder))
}

/// A user namespace whose only content is that `owner` on disk appears as `user`. It lives as long as the descriptor.
fn mapping(owner: Owner, user: u32) -> Result<OwnedFd, String> {
    let failed = |e: std::io::Error| format!("cannot map uid {} to {user}: {e}", owner.uid);
    let (ready_read, ready_write) = std::io::pipe().map_err(failed)?;
    let (done_read, done_write) = std::io::pipe().map_err(failed)?;
    let holder = match sys::fork().map_err(|e| failed(e.into()))? {
        Forked::Child => {
            drop((ready_read, done_write));
            let entered = sys::unshare(UnshareFlags::NEWUSER).is_ok();
            drop((&ready_write).write_all(if entered { b"y" } else { b"n" }));
            // The end of the pipe says that the namespace was opened.
            drop((&done_read).read(&mut [0]));
            sys::exit_now(0)
        }
        Forked::Parent(pid) => pid,
    };
    drop((ready_write, done_read));
    let mapped = (|| {
        let mut entered = [0];
        (&ready_read).read_exact(&mut entered)?;
        if entered != *b"y" {
            return Err(std::io::Error::other("user namespaces are switched off"));
        }
        let process = format!("/proc/{}", holder.as_raw_nonzero());
        fs::write(format!("{process}/uid_map"), format!("{} {user} 1", owner.uid))?;
        fs::write(format!("{process}/gid_map"), format!("{} {user} 1", owner.gid))?;
        fs::File::open(format!("{process}/ns/user"))
    })();
    drop(done_write);
    rustix::process::waitpid(Some(holder), WaitOptions::empty()).ok();
    mapped.map(OwnedFd::from).map_err(failed)
}
