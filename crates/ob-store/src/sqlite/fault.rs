//! What can go wrong inside the engine, before it becomes a [`StoreError`].

use std::io;

use rusqlite::Connection;

use super::errno;
use crate::StoreError;

/// A fault inside the engine, or a refusal on its way out.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The one commit at hand is refused; its neighbours are not hurt.
    Refused(StoreError),
    /// The disk is full: the whole transaction is lost.
    Full,
    /// SQLite or the file system failed: the whole transaction is lost.
    Engine(String),
}

// === impl Fault ===

impl Fault {
    /// A fault that SQLite did not report itself.
    pub(crate) fn engine(message: impl Into<String>) -> Self {
        Self::Engine(message.into())
    }

    /// What a statement of this connection failed with. That a flush finds no room is an I/O error like any other to
    /// SQLite, which keeps the kernel's word on it.
    pub(crate) fn of(connection: &Connection, error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::SystemIoFailure) => match Self::from(errno::last(connection)) {
                Self::Full => Self::Full,
                _ => error.into(),
            },
            _ => error.into(),
        }
    }

    /// The error for one of the waiters of a lost transaction.
    pub(crate) fn to_error(&self) -> StoreError {
        match self {
            Self::Full => StoreError::Full,
            Self::Engine(message) => StoreError::Engine { message: message.clone() },
            Self::Refused(refusal) => StoreError::Engine { message: refusal.to_string() },
        }
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Refused(refusal) => refusal,
            Fault::Full => Self::Full,
            Fault::Engine(message) => Self::Engine { message },
        }
    }
}

impl From<StoreError> for Fault {
    fn from(refusal: StoreError) -> Self {
        Self::Refused(refusal)
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => Self::Full,
            _ => Self::Engine(error.to_string()),
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            _ => Self::Engine(error.to_string()),
        }
    }
}

impl From<serde_json::Error> for Fault {
    fn from(error: serde_json::Error) -> Self {
        Self::Engine(format!("a record is malformed: {error}"))
    }
}
