//! The system calls that no safe wrapper offers.

#![expect(unsafe_code, reason = "landlock_create_ruleset and adjtimex have no safe wrapper")]

use rustix::io::Errno;

/// Asks for the version instead of making a ruleset (`linux/landlock.h`).
const LANDLOCK_CREATE_RULESET_VERSION: libc::c_long = 1;

/// The kernel's version of Landlock's interface, from 1.
pub(super) fn landlock_abi() -> Result<u32, Errno> {
    // SAFETY: with this flag the kernel reads no memory: the pointer must be null and the size 0.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<libc::c_void>(),
            0_usize,
            LANDLOCK_CREATE_RULESET_VERSION,
        )
    };
    u32::try_from(version).map_err(|_| last_error())
}

/// True if something keeps the wall clock to a time server's.
pub(super) fn clock_is_synchronised() -> Result<bool, Errno> {
    // SAFETY: all zeroes is a valid value of this plain structure, and asks for nothing to be changed.
    let mut time: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the structure is ours, whole, and outlives the call.
    let state = unsafe { libc::adjtimex(&raw mut time) };
    match state {
        -1 => Err(last_error()),
        state => Ok(state != libc::TIME_ERROR && time.status & libc::STA_UNSYNC == 0),
    }
}

fn last_error() -> Errno {
    std::io::Error::last_os_error().raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}
