//! The C library's calls that change files, told to the journal before or after the kernel does them.
//!
//! A function of this program comes before one of the same name in the C library, for SQLite as for the standard
//! library. Each does what the original does, by the system call itself, unless a fault was planned.

#![expect(unsafe_code, reason = "these are functions of the C library")]

use std::ffi::CStr;
use std::ffi::OsStr;
use std::ffi::c_char;
use std::ffi::c_int;
use std::ffi::c_uint;
use std::ffi::c_void;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use libc::mode_t;
use libc::off_t;
use libc::size_t;
use libc::ssize_t;

use crate::disk;

fn fail(errno: c_int) {
    // SAFETY: the location is this thread's own and valid.
    unsafe { *libc::__errno_location() = errno };
}

/// A path of the caller.
///
/// # Safety
/// `path` is a string of C, as the caller promised the C library.
unsafe fn path_of<'a>(path: *const c_char) -> &'a Path {
    // SAFETY: as promised.
    Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(path) }.to_bytes()))
}

/// The identity of an open file, and whether it is a folder.
fn identity(fd: c_int) -> Option<(u64, bool)> {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: the buffer is of the right size, and read only if it was filled.
    let stat = unsafe {
        if libc::fstat(fd, stat.as_mut_ptr()) != 0 {
            return None;
        }
        stat.assume_init()
    };
    Some((stat.st_ino, stat.st_mode & libc::S_IFMT == libc::S_IFDIR))
}

fn open(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    // SAFETY: as promised by the caller.
    let name = unsafe { path_of(path) };
    // SAFETY: the arguments are the caller's.
    let call = || unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path, flags, mode) };
    let opened = if disk::is_watched(name) {
        disk::locked(|disk| {
            let is_new = flags & libc::O_CREAT != 0 && std::fs::symlink_metadata(name).is_err();
            if is_new && let Some(fault) = disk.next_fault(false) {
                fail(fault.errno);
                return -1;
            }
            let fd = call();
            if let Ok(fd) = c_int::try_from(fd)
                && fd >= 0
                && let Some((inode, is_folder)) = identity(fd)
            {
                disk.opened(fd, name, inode, is_folder, is_new);
                if flags & libc::O_TRUNC != 0 && !is_new {
                    disk.truncated(fd, 0);
                }
            }
            fd
        })
    } else {
        call()
    };
    c_int::try_from(opened).unwrap_or(-1)
}

#[unsafe(no_mangle)]
extern "C" fn open64(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    open(path, flags, mode)
}

#[unsafe(no_mangle)]
extern "C" fn close(fd: c_int) -> c_int {
    disk::if_on(|disk| disk.closed(fd));
    // SAFETY: the argument is the caller's.
    c_int::try_from(unsafe { libc::syscall(libc::SYS_close, fd) }).unwrap_or(-1)
}

/// Writes at an offset, or where the file stands.
fn write_at(fd: c_int, buffer: *const c_void, length: size_t, offset: Option<off_t>) -> ssize_t {
    let call = |length: size_t| {
        // SAFETY: the buffer is the caller's and has at least `length` bytes.
        let written = unsafe {
            match offset {
                Some(offset) => libc::syscall(libc::SYS_pwrite64, fd, buffer, length, offset),
                None => libc::syscall(libc::SYS_write, fd, buffer, length),
            }
        };
        ssize_t::try_from(written).unwrap_or(-1)
    };
    let journaled = disk::if_on(|disk| {
        if !disk.has(fd) {
            return None;
        }
        let mut length = length;
        if let Some(fault) = disk.next_fault(false) {
            if !fault.is_short || length < 2 {
                fail(fault.errno);
                return Some(-1);
            }
            length /= 2;
        }
        // SAFETY: asks where the file stands and changes nothing.
        let at = offset.unwrap_or_else(|| unsafe { libc::lseek(fd, 0, libc::SEEK_CUR) });
        let written = call(length);
        if let (Ok(written), Ok(at)) = (usize::try_from(written), u64::try_from(at)) {
            // SAFETY: the kernel has read these bytes.
            let bytes = unsafe { std::slice::from_raw_parts(buffer.cast::<u8>(), written) };
            disk.wrote(fd, at, bytes);
        }
        Some(written)
    });
    journaled.flatten().unwrap_or_else(|| call(length))
}

#[unsafe(no_mangle)]
extern "C" fn write(fd: c_int, buffer: *const c_void, length: size_t) -> ssize_t {
    write_at(fd, buffer, length, None)
}

#[unsafe(no_mangle)]
extern "C" fn pwrite64(fd: c_int, buffer: *const c_void, length: size_t, offset: off_t) -> ssize_t {
    write_at(fd, buffer, length, Some(offset))
}

#[unsafe(no_mangle)]
extern "C" fn ftruncate64(fd: c_int, length: off_t) -> c_int {
    // SAFETY: the arguments are the caller's.
    let call = || c_int::try_from(unsafe { libc::syscall(libc::SYS_ftruncate, fd, length) }).unwrap_or(-1);
    let journaled = disk::if_on(|disk| {
        if !disk.has(fd) {
            return None;
        }
        if let Some(fault) = disk.next_fault(false) {
            fail(fault.errno);
            return Some(-1);
        }
        let done = call();
        if done == 0 {
            disk.truncated(fd, u64::try_from(length).unwrap_or(0));
        }
        Some(done)
    });
    journaled.flatten().unwrap_or_else(call)
}

/// A flush; the kernel need not do it, since no power is lost here.
fn flush(fd: c_int) -> c_int {
    let journaled = disk::if_on(|disk| {
        if !disk.has(fd) {
            return None;
        }
        if let Some(fault) = disk.next_fault(true) {
            fail(fault.errno);
            return Some(-1);
        }
        disk.flushed(fd);
        Some(0)
    });
    // SAFETY: the argument is the caller's.
    journaled
        .flatten()
        .unwrap_or_else(|| c_int::try_from(unsafe { libc::syscall(libc::SYS_fsync, fd) }).unwrap_or(-1))
}

#[unsafe(no_mangle)]
extern "C" fn fsync(fd: c_int) -> c_int {
    flush(fd)
}

#[unsafe(no_mangle)]
extern "C" fn fdatasync(fd: c_int) -> c_int {
    flush(fd)
}

#[unsafe(no_mangle)]
extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    // SAFETY: as promised by the caller.
    let (old, new) = unsafe { (path_of(from), path_of(to)) };
    // SAFETY: the arguments are the caller's.
    let call = || c_int::try_from(unsafe { libc::syscall(libc::SYS_rename, from, to) }).unwrap_or(-1);
    names(old, call, |disk| disk.renamed(old, new))
}

#[unsafe(no_mangle)]
extern "C" fn linkat(
    from_folder: c_int,
    from: *const c_char,
    to_folder: c_int,
    to: *const c_char,
    flags: c_int,
) -> c_int {
    // SAFETY: as promised by the caller.
    let (old, new) = unsafe { (path_of(from), path_of(to)) };
    let call = || {
        // SAFETY: the arguments are the caller's.
        let done = unsafe { libc::syscall(libc::SYS_linkat, from_folder, from, to_folder, to, flags) };
        c_int::try_from(done).unwrap_or(-1)
    };
    names(old, call, |disk| disk.linked(old, new))
}

#[unsafe(no_mangle)]
extern "C" fn unlink(path: *const c_char) -> c_int {
    // SAFETY: as promised by the caller.
    let name = unsafe { path_of(path) };
    // SAFETY: the argument is the caller's.
    let call = || c_int::try_from(unsafe { libc::syscall(libc::SYS_unlink, path) }).unwrap_or(-1);
    names(name, call, |disk| disk.unlinked(name))
}

#[unsafe(no_mangle)]
extern "C" fn mkdir(path: *const c_char, mode: mode_t) -> c_int {
    // SAFETY: as promised by the caller.
    let name = unsafe { path_of(path) };
    // SAFETY: the arguments are the caller's.
    let call = || c_int::try_from(unsafe { libc::syscall(libc::SYS_mkdir, path, mode) }).unwrap_or(-1);
    names(name, call, |disk| disk.made_folder(name))
}

/// A change of names, journaled if it was done.
fn names(path: &Path, call: impl Fn() -> c_int, journal: impl FnOnce(&mut disk::Disk)) -> c_int {
    if !disk::is_watched(path) {
        return call();
    }
    disk::locked(|disk| {
        let done = call();
        if done == 0 {
            journal(disk);
        }
        done
    })
}
