//! The SQLite engine.

use std::path::Path;
use std::path::PathBuf;

use crate::SharedStore;
use crate::StoreError;
use crate::tokens::SharedTokens;

/// Where the engine keeps its files, and its bounds.
#[derive(Clone, Debug)]
pub struct SqliteOptions {
    /// The database file; made with mode 0600 if missing.
    pub database: PathBuf,
    /// The folder of blobs; made with mode 0700 if missing.
    pub blobs: PathBuf,
}

/// Opens the store, making or migrating it.
pub async fn open(_options: SqliteOptions) -> Result<SharedStore, StoreError> {
    todo!()
}

/// Opens the token store, making or migrating it.
pub async fn open_tokens(_database: &Path) -> Result<SharedTokens, StoreError> {
    todo!()
}
