//! A command must not outlive an agent that was killed: nobody would read its output or stop it.
#![expect(unsafe_code, reason = "only code between fork and exec can ask for a signal at the parent's death")]

use std::io;

use rustix::io::Errno;
use rustix::process::Signal;
use tokio::process::Command;

/// Has the command's first process killed when this thread ends. The thread must live as long as the agent: it is the
/// only one that runs the runtime.
pub(super) fn end_with_parent(command: &mut Command) {
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
