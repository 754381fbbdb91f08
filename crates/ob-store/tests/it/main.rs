//! The SQLite engine: the promises of the trait, crashes, full disks, tokens and a model.

mod audit;
mod copies;
mod crash;
mod files;
mod model;
mod tail;
mod tokens;
mod verify;

use std::path::Path;

use async_trait::async_trait;
use ob_store::SharedStore;
use ob_store::conformance::Place;
use ob_store::sqlite::SqliteOptions;
use tempfile::TempDir;

/// A store in a folder of its own.
struct Folder(TempDir);

// === impl Folder ===

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

#[async_trait]
impl Place for Folder {
    async fn open(&self) -> SharedStore {
        open(self.path()).await
    }
}

fn options(folder: &Path) -> SqliteOptions {
    SqliteOptions { database: folder.join("data/oubliette.db"), blobs: folder.join("data/blobs") }
}

async fn open(folder: &Path) -> SharedStore {
    ob_store::sqlite::open(options(folder)).await.expect("the store opens")
}

mod promises {
    use super::Folder;

    ob_store::conformance_tests!(Folder::new());
}
