//! What the kernel answered to the system call that failed in SQLite, which rusqlite does not tell.

#![expect(unsafe_code, reason = "SQLite tells it by a C function alone")]

use std::io;

use rusqlite::Connection;

/// The error of the last system call that failed on behalf of this connection.
pub(super) fn last(connection: &Connection) -> io::Error {
    // SAFETY: the handle is that of an open connection, which the reference keeps open; the call only reads a number.
    let number = unsafe { rusqlite::ffi::sqlite3_system_errno(connection.handle()) };
    io::Error::from_raw_os_error(number)
}
