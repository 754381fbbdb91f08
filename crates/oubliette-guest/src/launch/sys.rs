//! The system calls that no safe wrapper offers.

#![expect(
    unsafe_code,
    reason = "fork, mount_setattr, sched_setattr and fixed descriptor numbers have no safe wrapper"
)]

use std::os::fd::AsFd as _;
use std::os::fd::AsRawFd as _;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::process::Pid;

/// The flag of `clone3`, in the width of its field.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// What a staged mount gets.
#[derive(Clone, Copy, Debug)]
pub(super) struct MountAttributes<'a> {
    pub(super) read_only: bool,
    pub(super) user_namespace: Option<BorrowedFd<'a>>,
}

/// Who one is after a fork.
pub(super) enum Forked {
    Parent(Pid),
    Child,
}

/// Forks. The launcher has one thread, so the child may do anything.
pub(super) fn fork() -> Result<Forked, Errno> {
    // SAFETY: this program starts no thread, so no lock is held by one that the child lacks.
    match unsafe { libc::fork() } {
        -1 => Err(last_error()),
        0 => Ok(Forked::Child),
        pid => Pid::from_raw(pid).map(Forked::Parent).ok_or(Errno::INVAL),
    }
}

/// Forks a child that is born in a version 2 control group. Moving there later would wait for all processors to pass
/// a quiescent state, some 10 ms.
pub(super) fn fork_into(group: BorrowedFd<'_>) -> Result<Forked, Errno> {
    let signal = u64::try_from(libc::SIGCHLD).map_err(|_| Errno::INVAL)?;
    let cgroup = u64::try_from(group.as_raw_fd()).map_err(|_| Errno::BADF)?;
    let arguments = libc::clone_args {
        flags: CLONE_INTO_CGROUP,
        pidfd: 0,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: signal,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup,
    };
    // SAFETY: without shared memory or a stack of its own this is a fork (see `fork`), and the structure lives
    // through the call with its true size. The C library keeps no cache that a fork would have to renew.
    match unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>()) } {
        -1 => Err(last_error()),
        0 => Ok(Forked::Child),
        pid => {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
            pid.map(Forked::Parent).ok_or(Errno::INVAL)
        }
    }
}

/// Ends a forked child at once, without running what the parent's code would at exit.
pub(super) fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` takes no memory of ours and does not return.
    unsafe { libc::_exit(code) }
}

/// Closes what the server may have leaked. Called first, when this program has opened nothing itself.
pub(super) fn close_all_above_stderr() -> Result<(), Errno> {
    // SAFETY: no descriptor above 2 is owned by any value yet.
    match unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32) } {
        -1 => Err(last_error()),
        _ => Ok(()),
    }
}

/// Makes `fd` also `number`, open across exec. The caller keeps `number` free of anything owned.
pub(super) fn duplicate_at(fd: BorrowedFd<'_>, number: u32) -> Result<(), Errno> {
    let number = i32::try_from(number).map_err(|_| Errno::INVAL)?;
    // SAFETY: only a forked child calls this; what it still uses was moved to `LOWEST_OWN_FD` or above, and what it
    // has at `number` it never touches again, for it executes another program or exits at once.
    match unsafe { libc::dup2(fd.as_raw_fd(), number) } {
        -1 => Err(last_error()),
        _ => Ok(()),
    }
}

/// Points standard output at nothing, which hangs up on the server.
pub(super) fn stdout_to_null() {
    if let Ok(null) = std::fs::OpenOptions::new().write(true).open("/dev/null") {
        rustix::stdio::dup2_stdout(&null).ok();
    }
}

/// Sets the attributes of a detached mount and all mounts below it.
pub(super) fn set_mount_attributes(tree: &OwnedFd, wanted: MountAttributes<'_>) -> Result<(), Errno> {
    let mut set = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
    if wanted.read_only {
        set |= libc::MOUNT_ATTR_RDONLY;
    }
    let mut userns_fd = 0;
    if let Some(namespace) = wanted.user_namespace {
        set |= libc::MOUNT_ATTR_IDMAP;
        userns_fd = u64::try_from(namespace.as_raw_fd()).map_err(|_| Errno::BADF)?;
    }
    let attributes = libc::mount_attr { attr_set: set, attr_clr: 0, propagation: 0, userns_fd };
    // SAFETY: the path is a C string constant, and the structure lives through the call with its true size.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == -1 { Err(last_error()) } else { Ok(()) }
}

/// Sets how long this process, and all that come from it, run before others get a turn who want one. Kernels before 6.12
/// take it and do nothing.
pub(super) fn set_slice(slice: std::time::Duration) -> Result<(), Errno> {
    let size = u32::try_from(size_of::<libc::sched_attr>()).map_err(|_| Errno::INVAL)?;
    // SAFETY: all zeroes is a valid value of this plain structure.
    let mut now: libc::sched_attr = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes at most `size` bytes, which is all of the structure, and it outlives the call.
    if unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut now, size, 0) } == -1 {
        return Err(last_error());
    }
    now.sched_runtime = u64::try_from(slice.as_nanos()).map_err(|_| Errno::INVAL)?;
    // SAFETY: the structure is whole, says its own size, and lives through the call.
    match unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const now, 0) } {
        -1 => Err(last_error()),
        _ => Ok(()),
    }
}

/// Leaves for a new namespace.
pub(super) fn unshare(flags: rustix::thread::UnshareFlags) -> Result<(), Errno> {
    // SAFETY: only mount and user namespaces are asked for; no descriptor table is unshared under anyone's feet.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

fn last_error() -> Errno {
    std::io::Error::last_os_error().raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}
