//! Starts bubblewrap as the launcher's child.
//!
//! The order in the child is security: groups are joined and sources staged while it is still root; then it becomes
//! the sandbox's uid for good; then it binds its life to the launcher's (a change of uid clears that); then it
//! executes bubblewrap, with all arguments in a descriptor, so that no command line shows them.
//!
//! Moving a process to a version 1 control group waits some 10 ms for all processors. So the launcher does that while
//! bubblewrap puts up the walls, and bubblewrap waits for it before it executes the first process inside.

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
/// The descriptor on which bubblewrap tells the first process's pid.
const INFO_FD: u32 = 7;
/// The descriptor on which bubblewrap waits before it executes the first process.
const BLOCK_FD: u32 = 8;
/// The most bytes that bubblewrap tells; it tells a pid and namespace numbers.
const MAX_INFO: u64 = 4096;
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
    /// Holds the first process back if it could not be put under its limits: the end of this pipe would let it go.
    _held_back: Option<io::PipeWriter>,
}

/// Starts it; returns once it is executed, or with the reason why it was not.
pub(super) fn bubblewrap(plan: &LaunchPlan, groups: &Groups) -> Result<Bubblewrap, String> {
    if plan.data.len() > MAX_DATA {
        return Err(format!("{} files are more than {MAX_DATA}", plan.data.len()));
    }
    let mut args = plan.args.clone();
    let (info, info_write) = io::pipe().map_err(|e| format!("cannot make a pipe: {e}"))?;
    let (block_read, block) = io::pipe().map_err(|e| format!("cannot make a pipe: {e}"))?;
    let mut passed = Vec::new();
    // Without bubblewrap the child moves itself.
    let moves_later = groups.has_legacy() && plan.direct.is_none();
    if moves_later {
        let numbers = [INFO_FD.to_string(), BLOCK_FD.to_string()];
        args.extend(["--info-fd", &numbers[0], "--block-fd", &numbers[1]].map(str::to_owned));
        passed.push((lift(info_write.into())?, INFO_FD));
        passed.push((lift(block_read.into())?, BLOCK_FD));
    }
    passed.push((memory_file(&arguments(&args)?)?, ARGS_FD));
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
            let joined = if was_born_inside { Ok(()) } else { groups.join_unified() };
            let joined = joined.and_then(|()| if moves_later { Ok(()) } else { groups.join_legacy() });
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
    let adopted = if moves_later { adopt(groups, pid, info, block) } else { Ok(None) };
    let handle = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty());
    match (adopted, handle) {
        (Ok(_held_back), Ok(handle)) => Ok(Bubblewrap { pid, handle, output: output.into(), _held_back }),
        (adopted, handle) => {
            rustix::process::kill_process(pid, Signal::KILL).ok();
            rustix::process::waitpid(Some(pid), WaitOptions::empty()).ok();
            let what = adopted.err().map_or_else(String::new, |e| format!("its control group: {e}"));
            Err(format!(
                "cannot watch bubblewrap: {what}{}",
                handle.err().map_or_else(String::new, |e| e.to_string())
            ))
        }
    }
}

/// Moves bubblewrap and the first process, which are all there is, to the version 1 groups, and lets them go on. If
/// one of them is gone already, bubblewrap has failed and its end says why; what holds it back is returned.
fn adopt(
    groups: &Groups,
    bubblewrap: Pid,
    info: io::PipeReader,
    mut block: io::PipeWriter,
) -> io::Result<Option<io::PipeWriter>> {
    let mut text = Vec::new();
    let told = info.take(MAX_INFO).read_to_end(&mut text);
    let Some(first) = told.ok().and_then(|_| child_pid(&text)) else { return Ok(Some(block)) };
    match groups.adopt(&[bubblewrap, first]) {
        Ok(()) => block.write_all(b"1").map(|()| None),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(Some(block)),
        Err(error) => {
            // Killed before the pipe closes, which would let it go without its limits.
            rustix::process::kill_process(bubblewrap, Signal::KILL).ok();
            rustix::process::kill_process(first, Signal::KILL).ok();
            Err(error)
        }
    }
}

/// The pid in what bubblewrap tells.
fn child_pid(text: &[u8]) -> Option<Pid> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "kebab-case")]
    struct Info {
        child_pid: i32,
    }
    serde_json::from_slice::<Info>(text).ok().and_then(|info| Pid::from_raw(info.child_pid))
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
    fn the_first_process_is_known_by_what_bubblewrap_tells() {
        let told = b"{\n    \"child-pid\": 4711,\n    \"net-namespace\": 4026532261\n}\n";
        assert_eq!(child_pid(told), Pid::from_raw(4711));
        assert_eq!(child_pid(b""), None);
        assert_eq!(child_pid(b"{\"child-pid\": 0}"), None);
    }

    #[test]
    fn arguments_end_in_nul_and_never_hold_one() {
        assert_eq!(arguments(&["--proc".into(), "/proc".into()]).expect("plain"), b"--proc\0/proc\0");
        let smuggled = arguments(&["/home\0--bind\0/\0/host".into()]);
        assert!(smuggled.is_err(), "a NUL would smuggle options in");
    }
}
