//! The home: can it be written, can others look into it, what is it on, can its databases be opened.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use ob_config::Loaded;
use ob_core::Check;
use ob_core::Home;
use ob_engine::health::existing;
use ob_engine::health::in_time;
use ob_sandbox::machine::Distribution;
use ob_store::sqlite::VerifyOptions;

use super::mount_of;
use super::quoted;

/// File systems by the number that they report (`linux/magic.h`): what they are called, and what is lost on them.
const FILE_SYSTEMS: [(u64, &str, Loss); 12] = [
    (0xef53, "ext4", Loss::Nothing),
    (0x5846_5342, "xfs", Loss::Nothing),
    (0x9123_683e, "btrfs", Loss::Nothing),
    (0x2fc1_2fc1, "zfs", Loss::Nothing),
    (0xf2f5_2010, "f2fs", Loss::Nothing),
    (0x794c_7630, "overlayfs", Loss::WithContainer),
    (0x0102_1994, "tmpfs", Loss::WithReboot),
    (0x6969, "nfs", Loss::Locks),
    (0xff53_4d42, "cifs", Loss::Locks),
    (0xfe53_4d42, "smb2", Loss::Locks),
    (0x0102_1997, "9p", Loss::Locks),
    (0x6573_5546, "fuse", Loss::Locks),
];

/// What a file system does not keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    Nothing,
    WithReboot,
    WithContainer,
    Locks,
}

/// Whether the home is there or can be made, and everything in it that a server writes can be written.
pub(super) fn home(home: &Home) -> Check {
    const NAME: &str = "home";
    const COST: &str = "the server cannot start";
    let root = home.root();
    let parts = [home.config(), home.data(), home.blobs(), home.logs(), home.projects()];
    let files = [home.database(), home.auth_database(), home.audit_database(), home.log_file(), home.lock()];
    let shut = parts.into_iter().chain(files).find(|path| path.exists() && !is_writable(path));
    let there = shut.as_deref().unwrap_or_else(|| existing(root));
    let error = match access(there) {
        Ok(()) if !there.is_dir() => rustix::io::Errno::NOTDIR,
        Ok(()) if there == root => {
            return Check::ok(NAME, format!("{} is writable", root.display())).required();
        }
        Ok(()) => return Check::ok(NAME, format!("{} will be made", root.display())).required(),
        Err(error) => error,
    };
    let failed =
        Check::failed(NAME, format!("{} is not writable: {error}", there.display()), COST).required();
    let distribution = Distribution::this();
    match error {
        rustix::io::Errno::ROFS => {
            let at = mount_of(there).map_or_else(|| "/".into(), |(at, _)| at);
            let remount = distribution.as_root(&format!("mount -o remount,rw {}", quoted(&at)));
            failed.mend("make it writable, or name another home with `--dir D`", [remount])
        }
        rustix::io::Errno::NOTDIR => failed.fix("name another home with `--dir D`"),
        _ => {
            let us = rustix::process::geteuid().as_raw();
            let own = distribution.as_root(&format!("chown -R {us} {}", quoted(there)));
            failed.mend("name another home with `--dir D`, or make it yours", [own])
        }
    }
}

/// Whether we may write this, and enter it if it is a folder.
fn access(path: &Path) -> rustix::io::Result<()> {
    let enter = if path.is_dir() { rustix::fs::Access::EXEC_OK } else { rustix::fs::Access::empty() };
    rustix::fs::access(path, rustix::fs::Access::WRITE_OK | enter)
}

fn is_writable(path: &Path) -> bool {
    access(path).is_ok()
}

/// Whether others can look into the home, or own parts of it.
pub(super) fn permissions(home: &Home) -> Check {
    const NAME: &str = "permissions";
    let folders = [home.root().to_owned(), home.config(), home.data(), home.logs(), home.projects()];
    let files = [home.database(), home.auth_database(), home.audit_database(), home.log_file()];
    // Under a folder that nobody may enter it does not matter what others could read.
    let root_is_open = fs::metadata(home.root()).is_ok_and(|found| found.mode() & 0o011 != 0);
    let us = rustix::process::geteuid().as_raw();
    let (mut open, mut foreign, mut commands) = (Vec::new(), Vec::new(), Vec::new());
    for path in folders.iter().chain(&files) {
        let Ok(found) = fs::metadata(path) else { continue };
        if found.uid() != us && us != 0 {
            foreign.push(path.display().to_string());
        }
        // Projects are entered by the sandboxes of a root server, each its own.
        let is_entered = *path == home.projects() && us == 0;
        let bits = if is_entered { 0o066 } else { 0o077 };
        if found.mode() & bits != 0
            && (root_is_open || path == home.root())
            && !(us == 0 && may_pass(home, path))
        {
            open.push(path.display().to_string());
            let mode = if found.is_dir() { "700" } else { "600" };
            commands.push(format!("chmod {mode} {}", quoted(path)));
        }
    }
    if !foreign.is_empty() {
        let chown = Distribution::this().as_root(&format!("chown -R {us} {}", quoted(home.root())));
        return Check::failed(
            NAME,
            format!("not ours: {}", foreign.join(", ")),
            "the server cannot use them",
        )
        .mend("make them yours, or be the user that they belong to", [chown])
        .required();
    }
    if open.is_empty() {
        return Check::ok(NAME, "only their owner can look into the home's files").required();
    }
    let cost = "other users of this machine can read people's work, or tokens' names";
    Check::warn(NAME, format!("others can look into {}", open.join(", ")), cost)
        .mend("close them", commands)
        .required()
}

/// True if a root server opens this folder on purpose: its sandboxes have other uids and pass through.
fn may_pass(home: &Home, path: &Path) -> bool {
    let mode = fs::metadata(path).map_or(0, |found| found.mode());
    home.projects().starts_with(path) && mode & 0o066 == 0
}

/// What the home is on, and what that does not keep.
pub(super) fn file_system(home: &Home) -> Check {
    const NAME: &str = "filesystem";
    let there = existing(home.root());
    match rustix::fs::statfs(there) {
        #[expect(clippy::cast_sign_loss, reason = "a number that the kernel defines as bits")]
        Ok(found) => judge(found.f_type as u64 & 0xffff_ffff),
        Err(error) => Check::failed(NAME, error.to_string(), "nobody knows what it keeps")
            .mend("look at it yourself", [format!("stat -f {}", quoted(there))]),
    }
}

fn judge(kind: u64) -> Check {
    const NAME: &str = "filesystem";
    let Some((_, name, loss)) = FILE_SYSTEMS.iter().find(|(known, ..)| *known == kind) else {
        return Check::ok(NAME, format!("of kind {kind:#x}, which we know nothing against"));
    };
    match loss {
        Loss::Nothing => Check::ok(NAME, *name),
        Loss::WithReboot => {
            Check::warn(NAME, format!("{name}, in memory"), "everything is gone after a reboot")
                .fix("name a home on a disk with `--dir D`")
        }
        Loss::WithContainer => {
            Check::warn(NAME, format!("{name}, as in a container"), "everything goes with the container")
                .fix("put the home on a volume of its own and name it with `--dir D`")
        }
        Loss::Locks => {
            let cost =
                "its locks and flushes may not hold, so a crash or a second machine may break the store";
            Check::warn(NAME, format!("{name}, over a network or a program"), cost)
                .fix("name a home on a disk of this machine with `--dir D`")
        }
    }
}

/// Whether the databases can be opened and are ours.
pub(super) async fn database(loaded: Arc<Loaded>) -> Check {
    const NAME: &str = "database";
    const COST: &str = "the server cannot start";
    let look = async {
        let looked = ob_store::sqlite::look(places(&loaded.home)).await;
        looked.unwrap_or_else(|error| Check::refused(NAME, &error.refusal(), COST))
    };
    in_time(NAME, COST, look).await.required()
}

/// Where the store of a home is.
pub(crate) fn places(home: &Home) -> VerifyOptions {
    VerifyOptions { database: home.database(), auth_database: home.auth_database(), blobs: home.blobs() }
}

/// When the newest of the home's files was written.
pub(super) fn newest(home: &Home) -> Option<SystemTime> {
    let wal = |path: PathBuf| {
        let mut name = path.into_os_string();
        name.push("-wal");
        PathBuf::from(name)
    };
    [home.database(), wal(home.database()), home.auth_database(), home.log_file()]
        .iter()
        .filter_map(|path| fs::metadata(path).ok()?.modified().ok())
        .max()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use ob_core::CheckState;
    use ob_core::home::Layout;

    use super::*;

    fn made() -> (tempfile::TempDir, Home) {
        let folder = tempfile::tempdir().expect("a folder");
        let home = Home::new(folder.path().join("a home"), Layout::V2, folder.path().join("run"));
        ob_config::make_home(&home).expect("made");
        (folder, home)
    }

    #[test]
    fn a_home_in_a_missing_folder_is_looked_for_above() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |path: &str| Home::new(folder.path().join(path), Layout::V2, folder.path().into());
        let check = home(&at("a/b/c"));
        assert!(check.state == CheckState::Ok && check.found.contains("will be made"), "{check:?}");
        assert!(home(&at("")).found.contains("is writable"));
        fs::write(folder.path().join("file"), "").expect("written");
        let check = home(&at("file"));
        assert!(check.state == CheckState::Failed && check.fix.is_some_and(|fix| fix.contains("--dir")));
    }

    #[test]
    fn what_others_can_read_is_named_and_the_commands_close_it() {
        let (_folder, home) = made();
        assert_eq!(permissions(&home).state, CheckState::Ok);
        for (path, mode) in [(home.root().to_owned(), 0o755), (home.data(), 0o750)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("loosened");
        }
        let check = permissions(&home);
        assert_eq!(check.state, CheckState::Warn, "{check:?}");
        assert!(check.found.contains("a home/data"), "{check:?}");
        for command in &check.commands {
            assert!(
                std::process::Command::new("sh").args(["-c", command]).status().expect("a shell").success()
            );
        }
        assert_eq!(permissions(&home).state, CheckState::Ok, "the commands mended it");
    }

    #[test]
    fn what_a_file_system_does_not_keep_is_told() {
        for (kind, state) in [
            (0xef53, CheckState::Ok),
            (0x1234, CheckState::Ok),
            (0x6969, CheckState::Warn),
            (0x0102_1994, CheckState::Warn),
            (0x794c_7630, CheckState::Warn),
        ] {
            let check = judge(kind);
            assert_eq!(check.state, state, "{check:?}");
            assert_eq!(check.cost.is_some() && check.fix.is_some(), state == CheckState::Warn, "{check:?}");
        }
    }
}
