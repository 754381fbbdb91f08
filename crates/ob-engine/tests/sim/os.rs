//! The operating system's randomness and clocks, for threads that are simulated.
//!
//! The libraries under the engine draw random numbers on their own: the standard library for the order of hash maps, tokio
//! for which branch of a `select!` is looked at first. They all ask the C library, and a program may put its own function
//! in the place of the C library's. In a thread that runs a simulation, ours answers from the seed, and time stands still
//! but for tokio's own clock; in all other threads it asks the kernel.
#![expect(unsafe_code, reason = "functions of the C library are replaced, which Rust cannot say otherwise")]

use std::cell::Cell;
use std::ffi::c_int;
use std::ffi::c_uint;
use std::ffi::c_void;

use crate::chance::next_of;

/// What a clock shows in a simulated thread, in seconds.
const STANDS_STILL: libc::time_t = 1_000_000;

thread_local! {
    /// The state of the generator, if this thread is simulated.
    static SIMULATED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// From now on, this thread's randomness comes from the seed, and its clocks stand still.
pub(crate) fn simulate(seed: u64) {
    SIMULATED.set(Some(seed));
}

/// True in a thread that runs a simulation.
pub(crate) fn is_simulated() -> bool {
    SIMULATED.get().is_some()
}

// SAFETY: the symbol has the C library's signature and keeps its contract; nothing else in this program defines it.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut c_void, length: usize, flags: c_uint) -> isize {
    let Some(mut state) = SIMULATED.get() else {
        // SAFETY: the arguments are the caller's, who promises the kernel what it promised us.
        return unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) as isize };
    };
    // SAFETY: the caller owns `length` writable bytes from `buffer` on.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
    for piece in bytes.chunks_mut(8) {
        piece.copy_from_slice(&next_of(&mut state).to_le_bytes()[..piece.len()]);
    }
    SIMULATED.set(Some(state));
    isize::try_from(length).unwrap_or(isize::MAX)
}

// SAFETY: as above.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> c_int {
    if !is_simulated() {
        // SAFETY: the arguments are the caller's, who promises the kernel what it promised us.
        return unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) as c_int };
    }
    // SAFETY: the caller owns what `time` points at.
    unsafe { time.write(libc::timespec { tv_sec: STANDS_STILL, tv_nsec: 0 }) };
    0
}
