//! What processes inherit from this one: of descriptors, the three that everybody has.
#![expect(
    unsafe_code,
    reason = "the standard library has no call for the flags of descriptors that are not its own"
)]

use std::io;

/// Lets no child inherit what this process inherited itself. A server in the background would hold it for as long as it
/// lives: the lock of the script that started it, or the pipe of a caller who waits for its end.
pub(crate) fn nothing() -> io::Result<()> {
    const FIRST: libc::c_uint = 3;
    // SAFETY: the call touches no memory and closes nothing; it only marks descriptors, and every one that the standard
    // library opens is marked so already.
    let result =
        unsafe { libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
