//! System calls by number, which no library offers because nobody should make them.

#![expect(unsafe_code, reason = "an attacker makes calls that no safe wrapper has")]

use std::io;

/// Makes a system call.
pub(super) fn call(number: i64, arguments: &[usize]) -> io::Result<i64> {
    let mut all = [0_usize; 6];
    all[..arguments.len()].copy_from_slice(arguments);
    let [a, b, c, d, e, f] = all;
    // SAFETY: pointers among the arguments are to memory that the caller keeps alive for the call, or are invalid on
    // purpose, which the kernel answers with `EFAULT`. Each attempt runs in a process of its own.
    let answer = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

/// The address of something, as an argument. It must live until after the call.
pub(super) fn address<T: ?Sized>(of: &T) -> usize {
    std::ptr::from_ref(of).cast::<u8>() as usize
}

/// The address of something that the kernel writes to.
pub(super) fn address_mut<T: ?Sized>(of: &mut T) -> usize {
    std::ptr::from_mut(of).cast::<u8>() as usize
}

/// The bytes of a shared segment of the kernel's, as text up to its first NUL.
pub(super) fn segment_text(at: i64, length: usize) -> String {
    let at = usize::try_from(at).unwrap_or_default() as *const u8;
    // SAFETY: the kernel has just attached a segment of at least this length there, and nobody detaches it.
    let bytes = unsafe { std::slice::from_raw_parts(at, length) };
    String::from_utf8_lossy(bytes).split('\0').next().unwrap_or_default().to_owned()
}

/// Writes text into a shared segment that the kernel has attached.
pub(super) fn write_segment(at: i64, text: &str) {
    let at = usize::try_from(at).unwrap_or_default() as *mut u8;
    // SAFETY: the segment was made with more bytes than `text` has, and was attached for writing.
    unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), at, text.len()) };
}

/// Asks for the version in the x32 table: an ordinary call under a number with the x32 bit.
#[cfg(target_arch = "x86_64")]
pub(super) fn x32_getpid() -> i64 {
    let answer: i64;
    // SAFETY: `getpid` has no arguments and touches no memory; the registers that a call changes are named.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") (0x4000_0000_i64 + libc::SYS_getpid) => answer,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    answer
}

/// Makes a call of the 32-bit table.
#[cfg(target_arch = "x86_64")]
pub(super) fn i386_getpid() -> i32 {
    let answer: i32;
    // SAFETY: number 20 is `getpid` there: no arguments, no memory.
    unsafe {
        std::arch::asm!("int 0x80", inlateout("eax") 20_i32 => answer, lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _);
    }
    answer
}
