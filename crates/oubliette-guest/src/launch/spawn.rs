//! Starts bubblewrap as the launcher's child.
//!
//! The order in the child is security: groups are joined and sources staged while it is still root; then it becomes
//! the sandbox's uid for good; then it binds its life to the launcher's (a change of uid clears that); then it
//! executes bubblewrap, with all arguments in a descriptor, so that no command line shows them.

use std::fs::File;
use std::io;
use std::io::Read as _;
use std::io::Seek as _;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use base64::Engine as _;
use ob_core::launch::ARGS_FD;
use ob_core::launch::Direct;
use ob_core::launch::FIRST_DATA_FD;
use ob_core::launch::LaunchPlan;
use ob_core::launch::ProcessLimit;
use ob_core::launch::ProcessLimitKind;
use rustix::fs::MemfdFlags;
use rustix::process::Pid;
use rustix::process::Resource;
use rustix::process::Rlimit;
use rustix::process::Signal;
use rustix::process::WaitOptions;

use super::bound;
use super::group::Groups;
use super::stage;
use super::sys;
use super::sys::Forked;

/// Descriptors of this program that a child passes on lie at least here, above those bubblewrap is given.
const LOWEST_OWN_FD: i32 = 200;
/// The most descriptors a plan may have.
const MAX_DATA: usize = 100;
/// The most bytes that a child says about why it failed.
const MAX_FAILURE: u64 = 2048;

/// bubblewrap, running.
#[derive(Debug)]
pub(super) struct Bubblewrap {
    pub(super) pid: Pid,
    pub(super) handle: OwnedFd,
    /// What it and the first process inside say for people.
    pub(super) output: OwnedFd,
}

/// Starts it; returns once it is executed, or with the reason why it was not.
pub(super) fn bubblewrap(plan: &LaunchPlan, groups: &Groups) -> Result<Bubblewrap, String> {
    if plan.data.len() > MAX_DATA {
        return Err(format!("{} files are more than {MAX_DATA}", plan.data.len()));
    }
    let mut passed = vec![(memory_file(&arguments(&plan.args)?)?, ARGS_FD)];
    for (number, text) in (FIRST_DATA_FD..).zip(&plan.data) {
        let bytes =
            base64::engine::general_purpose::STANDARD.decode(text).map_err(|e| format!("data: {e}"))?;
        passed.push((memory_file(&bytes)?, number));
    }
    let (output, output_write) = io::pipe().map_err(|e| format!("cannot make a pipe: {e}"))?;
    let (mut failure, failure_write) = io::pipe().map_err(|e| format!("cannot make a pipe: {e}"))?;
    let output_write = lift(output_write.into())?;
    let failure_write = lift(failure_write.into())?;

    let launcher = rustix::process::getpid();
    let birthplace = groups.birthplace();
    let born_inside = birthplace.as_ref().and_then(|group| sys::fork_into(group.as_fd()).ok());
    let was_born_inside = born_inside.is_some();
    let forked = born_inside.map_or_else(sys::fork, Ok);
    let pid = match forked.map_err(|e| format!("cannot fork: {e}"))? {
        Forked::Child => {
            let joined = groups.join(was_born_inside);
            let joined = joined.map_err(|e| format!("cannot join its control group: {e}"));
            let become_it = || become_bubblewrap(plan, launcher, &passed, &output_write);
            let what = match joined.and_then(|()| become_it()) {
                Ok(never) => match never {},
                Err(what) => what,
            };
            drop(File::from(failure_write).write_all(what.as_bytes()));
            sys::exit_now(127)
        }
        Forked::Parent(pid) => pid,
    };
    drop((failure_write, output_write, passed));

    // The pipe closes without a word when bubblewrap is executed.
    let mut what = String::new();
    let told = (&mut failure).take(MAX_FAILURE).read_to_string(&mut what);
    if told.is_err() || !what.is_empty() {
        rustix::process::waitpid(Some(pid), WaitOptions::empty()).ok();
        return Err(what);
    }
    match rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) {
        Ok(handle) => Ok(Bubblewrap { pid, handle, output: output.into() }),
        Err(error) => {
            rustix::process::kill_process(pid, Signal::KILL).ok();
            rustix::process::waitpid(Some(pid), WaitOptions::empty()).ok();
            Err(format!("cannot watch bubblewrap: {error}"))
        }
    }
}

enum Never {}

fn become_bubblewrap(
    plan: &LaunchPlan,
    launcher: Pid,
    passed: &[(OwnedFd, u32)],
    output: &OwnedFd,
) -> Result<Never, String> {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    if let Some(user) = plan.user {
        stage::enter(&plan.stage, user, plan.direct.is_some())?;
        // As root: some may be raised.
        set_limits(&plan.rlimits)?;
        drop_to(user).map_err(|e| format!("cannot become uid {user}: {e}"))?;
    } else {
        set_limits(&plan.rlimits)?;
    }
    bound::set(&plan.bounds)?;
    rustix::thread::set_no_new_privs(true).map_err(|e| format!("cannot give up new privileges: {e}"))?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|e| format!("cannot bind to the launcher: {e}"))?;
    if rustix::process::getppid() != Some(launcher) {
        return Err("the launcher is gone".into());
    }

    let descriptors = (|| {
        let null = File::open("/dev/null")?;
        rustix::stdio::dup2_stdin(null)?;
        rustix::stdio::dup2_stdout(output)?;
        rustix::stdio::dup2_stderr(output)?;
        passed.iter().try_for_each(|(fd, number)| sys::duplicate_at(fd.as_fd(), *number))?;
        io::Result::Ok(())
    })();
    descriptors.map_err(|e| format!("cannot pass descriptors: {e}"))?;
    if let Some(direct) = &plan.direct {
        return Err(become_first_process(direct, &plan.command));
    }
    let mut bwrap = Command::new(&plan.bwrap);
    bwrap.arg0("bwrap").arg("--args").arg(ARGS_FD.to_string()).arg("--").args(&plan.command);
    if !plan.keeps_environment {
        bwrap.env_clear();
    }
    let error = bwrap.current_dir("/").exec();
    Err(format!("cannot execute {}: {error}", plan.bwrap.display()))
}

/// Executes the first process without walls; returns why not.
fn become_first_process(direct: &Direct, command: &[String]) -> String {
    let Some((program, args)) = command.split_first() else { return "there is no first process".into() };
    let error = Command::new(program)
        .arg0("sandbox")
        .args(args)
        .env_clear()
        .envs(direct.env.iter().map(|(name, value)| (name, value)))
        .current_dir(&direct.cwd)
        .exec();
    format!("cannot execute {program} in {}: {error}", direct.cwd.display())
}

/// Sets limits that this process and all that come from it have. None is raised above what there is.
fn set_limits(limits: &[ProcessLimit]) -> Result<(), String> {
    for limit in limits {
        let resource = match limit.kind {
            ProcessLimitKind::OpenFiles => Resource::Nofile,
            ProcessLimitKind::FileSize => Resource::Fsize,
            ProcessLimitKind::Processes => Resource::Nproc,
        };
        let now = rustix::process::getrlimit(resource);
        let lower = |known: Option<u64>| Some(known.map_or(limit.most, |known| known.min(limit.most)));
        let wanted = Rlimit { current: lower(now.current), maximum: lower(now.maximum) };
        rustix::process::setrlimit(resource, wanted)
            .map_err(|e| format!("cannot limit {:?} to {}: {e}", limit.kind, limit.most))?;
    }
    Ok(())
}

/// Becomes an unprivileged user for good: no groups, no way back, and with the last uid 0 the kernel takes every
/// capability.
fn drop_to(user: u32) -> rustix::io::Result<()> {
    let (uid, gid) = (rustix::process::Uid::from_raw(user), rustix::process::Gid::from_raw(user));
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    // A kernel that let us keep anything is not one to run strangers' code on.
    let left = rustix::thread::capabilities(None)?;
    if !left.effective.is_empty() || !left.permitted.is_empty() || rustix::process::geteuid() != uid {
        return Err(rustix::io::Errno::PERM);
    }
    Ok(())
}

/// Arguments as bubblewrap reads them from a descriptor. A NUL within one would start another.
fn arguments(args: &[String]) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    for arg in args {
        if arg.contains('\0') {
            return Err("an argument has a NUL byte".into());
        }
        bytes.extend_from_slice(arg.as_bytes());
        bytes.push(0);
    }
    Ok(bytes)
}

/// A file in memory with this content, to be read from its start.
fn memory_file(bytes: &[u8]) -> Result<OwnedFd, String> {
    let make = || {
        let mut file = File::from(rustix::fs::memfd_create("data", MemfdFlags::CLOEXEC)?);
        file.write_all(bytes)?;
        file.rewind()?;
        io::Result::Ok(OwnedFd::from(file))
    };
    make().map_err(|e| format!("cannot make a file in memory: {e}")).and_then(lift)
}

/// The same descriptor at a number that is out of the way.
fn lift(fd: OwnedFd) -> Result<OwnedFd, String> {
    rustix::io::fcntl_dupfd_cloexec(&fd, LOWEST_OWN_FD).map_err(|e| format!("cannot move a descriptor: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_end_in_nul_and_never_hold_one() {
        assert_eq!(arguments(&["--proc".into(), "/proc".into()]).expect("plain"), b"--proc\0/proc\0");
        let smuggled = arguments(&["/home\0--bind\0/\0/host".into()]);
        assert!(smuggled.is_err(), "a NUL would smuggle options in");
    }
}
