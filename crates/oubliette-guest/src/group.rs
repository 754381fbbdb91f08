//! Programs that are run for someone: each in a process group of its own, which goes whole, and not outliving us.
#![expect(unsafe_code, reason = "only code between fork and exec can ask for a signal at the parent's death")]

use std::io;

use rustix::io::Errno;
use rustix::process::Pid;
use rustix::process::Signal;
use tokio::process::Child;
use tokio::process::Command;

/// Kills a process group when dropped, so that neither a timeout nor a cancelled turn leaves anything behind.
#[derive(Debug)]
pub(crate) struct Group(Pid);

/// Has the command's first process killed when this thread ends: nobody would read its output or stop it. The thread must
/// live as long as the program: it is the only one that runs the runtime.
pub(crate) fn end_with_parent(command: &mut Command) {
    let parent = rustix::process::getpid();
    let arm = move || -> io::Result<()> {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died before the signal was asked for.
        if rustix::process::getppid() == Some(parent) { Ok(()) } else { Err(Errno::SRCH.into()) }
    };
    // SAFETY: the closure makes two system calls and allocates nothing, so it may run between fork and exec.
    unsafe {
        command.pre_exec(arm);
    }
}

// === impl Group ===

impl Group {
    /// The group of a child that was started with `process_group(0)`; nothing if its end was seen already.
    pub(crate) fn of(child: &Child) -> Option<Self> {
        child.id().and_then(|id| Pid::from_raw(id.cast_signed())).map(Self)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // It may be empty by now. Its number cannot have been given away in the moment since its first process ended.
        let _killed = rustix::process::kill_process_group(self.0, Signal::KILL);
    }
}
