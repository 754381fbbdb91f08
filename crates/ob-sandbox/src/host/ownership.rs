//! Giving a tree of files to a sandbox's uid.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::path::PathBuf;

use rustix::fs::AtFlags;
use rustix::fs::Dir;
use rustix::fs::FileType;
use rustix::fs::Gid;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::ResolveFlags;
use rustix::fs::Uid;

/// Gives a folder and everything in it to `uid` and the group of the same number.
///
/// Follows no symbolic link and leaves the file system of `path` nowhere: a tree that strangers' code wrote may be
/// given. Hard links made by that code can only lead to files that it could already write.
///
/// # Errors
/// When something cannot be opened or given; what came before stays given.
pub fn give_to(path: &Path, uid: u32) -> io::Result<()> {
    let (owner, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = rustix::fs::open(path, flags, Mode::empty())?;
    rustix::fs::fchown(&top, Some(owner), Some(group))?;
    // Folders are opened from the top by their path, so that depth costs no descriptors.
    let mut folders = vec![PathBuf::from(".")];
    while let Some(below) = folders.pop() {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let folder: OwnedFd = rustix::fs::openat2(&top, &below, flags, Mode::empty(), resolve)?;
        for entry in Dir::read_from(&folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            rustix::fs::chownat(&folder, name, Some(owner), Some(group), AtFlags::SYMLINK_NOFOLLOW)?;
            let kind = match entry.file_type() {
                FileType::Unknown => {
                    let stat = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
                    FileType::from_raw_mode(stat.st_mode)
                }
                known => known,
            };
            if kind.is_dir() {
                folders.push(below.join(std::ffi::OsStr::from_bytes(name.to_bytes())));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt as _;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_tree_is_given_whole_and_links_are_not_followed() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let outside = tempfile::NamedTempFile::new().expect("a file");
        fs::create_dir_all(folder.path().join("a/b")).expect("folders");
        fs::write(folder.path().join("a/b/file"), "x").expect("a file");
        symlink(outside.path(), folder.path().join("a/link")).expect("a link");
        symlink("/etc", folder.path().join("etc")).expect("a link");
        give_to(folder.path(), 4711).expect("given");
        let uid = |path: &Path| fs::symlink_metadata(path).expect("there").uid();
        assert_eq!(uid(&folder.path().join("a/b/file")), 4711);
        assert_eq!(uid(&folder.path().join("a/link")), 4711, "the link itself");
        assert_eq!(uid(outside.path()), 0, "not where it leads");
        assert_eq!(uid(Path::new("/etc/passwd")), 0);
    }
}
