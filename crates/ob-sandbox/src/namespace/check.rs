//! What a machine lacks for sandboxes, and what mends it.

use std::path::Path;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use ob_core::Refusal;
use tokio::process::Command;

/// The oldest kernel with everything: id-mapped mounts came last.
const OLDEST_KERNEL: (u32, u32) = (5, 12);
/// The oldest bubblewrap with everything; Debian 12 has it.
const OLDEST_BUBBLEWRAP: (u32, u32) = (0, 8);
/// A probe that takes longer hangs.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
/// Whom a probe runs as if the server is root: `nobody`, who owns nothing.
const PROBE_UID: u32 = 65_534;
/// Where programs are looked for.
const PROGRAM_FOLDERS: [&str; 4] = ["/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin"];

/// The path of bubblewrap: the configured one, or the first in the system's program folders. A fixed list and not
/// the environment, since a root server must not run what a user's path names.
pub(crate) fn find_bubblewrap(configured: Option<&Path>) -> Result<PathBuf, Refusal> {
    let is_program =
        |path: &Path| rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok() && path.is_file();
    match configured {
        Some(path) if is_program(path) => Ok(path.to_owned()),
        // A bare name is what the PATH was asked for in vain.
        Some(path) if path.is_relative() => Err(not_installed()),
        Some(path) => Err(Refusal::unavailable(format!("bubblewrap is not at {}", path.display())).fix(
            "correct `sandbox.bubblewrap`, or leave it out and install it with `apt-get install bubblewrap`",
        )),
        None => PROGRAM_FOLDERS
            .iter()
            .map(|folder| Path::new(folder).join("bwrap"))
            .find(|path| is_program(path))
            .ok_or_else(not_installed),
    }
}

fn not_installed() -> Refusal {
    Refusal::unavailable("bubblewrap is not installed, so sandboxes cannot be made").fix(
        "install it with `apt-get install bubblewrap` (Debian, Ubuntu) or `dnf install bubblewrap` (Fedora)",
    )
}

/// Everything that can be wrong with the machine itself.
pub(super) async fn machine(bwrap: &Path) -> Result<(), Refusal> {
    kernel(&rustix::system::uname().release().to_string_lossy())?;
    switches(|name| std::fs::read_to_string(Path::new("/proc/sys").join(name)).ok())?;
    found_version(bwrap).await?;
    probe(bwrap).await
}

/// Refuses a kernel that is too old.
pub(crate) fn kernel(release: &str) -> Result<(), Refusal> {
    match two_numbers(release) {
        Some(found) if found < OLDEST_KERNEL => Err(Refusal::unavailable(format!(
            "this kernel is Linux {release}, and sandboxes need {}.{} or later",
            OLDEST_KERNEL.0, OLDEST_KERNEL.1
        ))
        .fix("update the system's kernel")),
        _ => Ok(()),
    }
}

/// What bubblewrap says of itself, if it is new enough.
pub(crate) async fn found_version(bwrap: &Path) -> Result<String, Refusal> {
    let said = said(Command::new(bwrap).arg("--version")).await?.1;
    version(&said)?;
    Ok(said.trim().to_owned())
}

fn version(said: &str) -> Result<(), Refusal> {
    let number = said.trim().rsplit(' ').next().unwrap_or_default();
    match two_numbers(number) {
        Some(found) if found >= OLDEST_BUBBLEWRAP => Ok(()),
        _ => Err(Refusal::unavailable(format!(
            "bubblewrap {}.{} or later is needed, found `{}`",
            OLDEST_BUBBLEWRAP.0,
            OLDEST_BUBBLEWRAP.1,
            said.trim()
        ))
        .fix("update it with `apt-get install bubblewrap`")),
    }
}

/// Settings that switch user namespaces off: file, key, the value that does, and the one that does not.
const SWITCHES: [(&str, &str, &str, &str); 3] = [
    ("kernel/unprivileged_userns_clone", "kernel.unprivileged_userns_clone", "0", "1"),
    ("user/max_user_namespaces", "user.max_user_namespaces", "0", "15000"),
    (
        "kernel/apparmor_restrict_unprivileged_userns",
        "kernel.apparmor_restrict_unprivileged_userns",
        "1",
        "0",
    ),
];

/// The keys of settings that switch user namespaces off here, each with its value and the one that switches them on.
pub(crate) fn switched_off(
    read: impl Fn(&str) -> Option<String>,
) -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    SWITCHES
        .into_iter()
        .filter(move |(name, key, bad, _)| {
            read(name).is_some_and(|value| value.trim() == *bad) && !is_excepted(key)
        })
        .map(|(_, key, bad, good)| (key, bad, good))
}

/// Refuses a machine without user namespaces, with the command that switches them on.
fn switches(read: impl Fn(&str) -> Option<String>) -> Result<(), Refusal> {
    let Some((key, bad, good)) = switched_off(read).next() else { return Ok(()) };
    Err(Refusal::unavailable(format!(
        "user namespaces are switched off on this machine ({key} is {bad}), and sandboxes need them"
    ))
    .fix(format!("switch them on with `sysctl -w {key}={good}`, and keep it in /etc/sysctl.d/")))
}

/// AppArmor's switch leaves out programs with a profile of their own, as distributions give bubblewrap; the probe
/// shows the truth.
fn is_excepted(key: &str) -> bool {
    key.contains("apparmor") && Path::new("/etc/apparmor.d/bwrap-userns-restrict").exists()
}

/// Makes a smallest sandbox, as the uid that a real one would have.
pub(crate) async fn probe(bwrap: &Path) -> Result<(), Refusal> {
    let mut command = Command::new(bwrap);
    command.args(["--unshare-user", "--unshare-pid", "--unshare-net", "--uid", "1000", "--gid", "1000"]);
    command.args(["--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "true"]);
    if rustix::process::geteuid().is_root() {
        command.uid(PROBE_UID).gid(PROBE_UID);
    }
    let (worked, said) = said(command.current_dir("/")).await?;
    if worked {
        return Ok(());
    }
    Err(Refusal::unavailable(format!("bubblewrap cannot make a sandbox here: {}", said.trim()))
        .fix("allow unprivileged user namespaces; in a container, run it with `--privileged`, or with `--cap-add SYS_ADMIN --security-opt seccomp=unconfined --security-opt systempaths=unconfined`"))
}

/// Runs a program to its end: whether it succeeded, and what it said.
async fn said(command: &mut Command) -> Result<(bool, String), Refusal> {
    command.stdin(Stdio::null()).env_clear().kill_on_drop(true);
    let failed = |what: String| {
        Refusal::unavailable(format!("bubblewrap cannot be run: {what}"))
            .fix("install it anew: `apt-get install --reinstall bubblewrap`")
    };
    match tokio::time::timeout(PROBE_TIMEOUT, command.output()).await {
        Ok(Ok(output)) => {
            let bytes = if output.stdout.is_empty() { output.stderr } else { output.stdout };
            Ok((output.status.success(), String::from_utf8_lossy(&bytes).chars().take(500).collect()))
        }
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_) => Err(failed(format!("it did not end within {PROBE_TIMEOUT:?}"))),
    }
}

/// The first two numbers of a version.
pub(super) fn two_numbers(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_switch_is_refused_with_the_command_that_turns_it() {
        for (name, value, command) in [
            ("kernel/unprivileged_userns_clone", "0\n", "sysctl -w kernel.unprivileged_userns_clone=1"),
            ("user/max_user_namespaces", "0\n", "sysctl -w user.max_user_namespaces=15000"),
        ] {
            let refusal = switches(|asked| (asked == name).then(|| value.to_owned())).expect_err(name);
            assert!(refusal.fix.as_deref().is_some_and(|fix| fix.contains(command)), "{refusal}");
        }
        assert!(switches(|_| None).is_ok());
        assert!(switches(|_| Some("100\n".into())).is_ok());
    }

    #[test]
    fn old_kernels_and_bubblewraps_are_refused_and_new_ones_taken() {
        assert!(kernel("5.11.0-generic").is_err());
        assert!(kernel("5.12.0").is_ok());
        assert!(kernel("6.18.44-fc").is_ok());
        assert!(version("bubblewrap 0.7.1").is_err());
        assert!(version("bubblewrap 0.8.0\n").is_ok());
        assert!(version("bubblewrap 1.0").is_ok());
        assert!(version("nonsense").is_err());
    }

    #[test]
    fn a_missing_bubblewrap_is_refused_with_the_package_to_install() {
        let refusal = find_bubblewrap(Some(Path::new("/nonexistent/bwrap"))).expect_err("missing");
        assert!(refusal.fix.is_some());
    }
}
