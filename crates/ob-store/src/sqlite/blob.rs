//! Payloads too large for a row: files named by the SHA-256 of their content.
//!
//! A blob is durable before the commit that refers to it; a crash between the two leaves a file that no one refers to,
//! which is harmless and is found again if the same content comes back.

use std::fs;
use std::io;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;

use sha2::Digest as _;
use sha2::Sha256;

use super::fault::Fault;
use super::file;

/// The SHA-256 of a blob's content.
pub(crate) type BlobHash = [u8; 32];

/// The folder of blobs.
#[derive(Clone, Debug)]
pub(crate) struct Blobs {
    folder: PathBuf,
}

// === impl Blobs ===

impl Blobs {
    /// Opens the folder, making it if missing.
    pub(crate) fn open(folder: &Path) -> Result<Self, Fault> {
        file::make_folder(folder)?;
        Ok(Self { folder: folder.to_owned() })
    }

    /// The folder as it is; for reading only.
    pub(crate) fn at(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// Keeps `content`; durable when this returns.
    pub(crate) fn put(&self, content: &[u8]) -> Result<BlobHash, Fault> {
        let hash: BlobHash = Sha256::digest(content).into();
        let path = self.path(&hash);
        let shard = file::folder_of(&path);
        if path.exists() {
            // Whoever wrote it may not have come to this yet.
            file::sync_folder(shard)?;
            return Ok(hash);
        }
        if !shard.exists() {
            file::make_folder(shard)?;
            file::sync_folder(&self.folder)?;
        }
        let draft = self.folder.join(format!("new-{:016x}", rand::random::<u64>()));
        let written = write_durable(&draft, content).and_then(|()| fs::rename(&draft, &path));
        if let Err(error) = written {
            // What could be written of it takes space that is needed.
            fs::remove_file(&draft).ok();
            return Err(error.into());
        }
        file::sync_folder(shard)?;
        Ok(hash)
    }

    /// The content of a blob; a file that is missing or changed is a fault.
    pub(crate) fn get(&self, hash: &BlobHash) -> Result<Vec<u8>, Fault> {
        let name = hex::encode(hash);
        let content = fs::read(self.path(hash))
            .map_err(|error| Fault::engine(format!("blob {name} cannot be read: {error}")))?;
        if Sha256::digest(&content).as_slice() != hash {
            return Err(Fault::engine(format!("blob {name} has another content than its name says")));
        }
        Ok(content)
    }

    fn path(&self, hash: &BlobHash) -> PathBuf {
        let name = hex::encode(hash);
        self.folder.join(&name[..2]).join(&name[2..])
    }
}

fn write_durable(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = file::make_file(path)?;
    file.write_all(content)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_kept_once_and_a_changed_one_is_noticed() {
        let folder = tempfile::tempdir().expect("folder");
        let blobs = Blobs::open(&folder.path().join("blobs")).expect("open");
        let hash = blobs.put(b"content").expect("put");
        assert_eq!(blobs.put(b"content").expect("again"), hash);
        assert_eq!(blobs.get(&hash).expect("get"), b"content");
        fs::write(blobs.path(&hash), b"other").expect("write");
        let fault = blobs.get(&hash).expect_err("changed");
        assert!(format!("{fault:?}").contains("another content"));
        fs::remove_file(blobs.path(&hash)).expect("remove");
        assert!(format!("{:?}", blobs.get(&hash).expect_err("missing")).contains("cannot be read"));
    }
}
