//! The server's turns on the processors.

#![expect(unsafe_code, reason = "sched_setattr has no safe wrapper")]

use std::io;

/// The shortest turn that the kernel takes, in nanoseconds.
const SHORTEST: u64 = 100_000;

/// Asks for the shortest turns for the calling thread and those that it starts: who has them is let in at once before
/// those with longer ones, as processes of sandboxes have, however many of these never sleep. Kernels before 6.12 take
/// it and do nothing.
pub fn shorten() -> io::Result<()> {
    let size = u32::try_from(size_of::<libc::sched_attr>()).map_err(io::Error::other)?;
    // SAFETY: all zeroes is a valid value of this plain structure.
    let mut now: libc::sched_attr = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes at most `size` bytes, which is all of the structure, and it outlives the call.
    if unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut now, size, 0) } == -1 {
        return Err(io::Error::last_os_error());
    }
    now.sched_runtime = SHORTEST;
    // SAFETY: the structure is whole, says its own size, and lives through the call.
    match unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const now, 0) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
