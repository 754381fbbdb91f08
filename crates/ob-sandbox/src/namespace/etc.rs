//! The `/etc` of sandboxes: a copy of named parts of the host's, and a few files that are made up.
//!
//! One folder, made when the host's parts have changed, and mounted as a whole: thirty mounts of single files would
//! double the time that a sandbox takes to start. An older copy stays, since sandboxes may be looking at it.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;

use sha2::Digest as _;
use sha2::Sha256;

/// What programs need of `/etc`, as far as the host has it and everybody may read it. No passwords, keys, host names,
/// mail or resolver: names are resolved outside.
const PARTS: [&str; 33] = [
    "alternatives",
    "bash.bashrc",
    "ca-certificates",
    "ca-certificates.conf",
    "crypto-policies",
    "debian_version",
    "fonts",
    "gai.conf",
    "host.conf",
    "inputrc",
    "java-11-openjdk",
    "java-17-openjdk",
    "java-21-openjdk",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "locale.alias",
    "localtime",
    "login.defs",
    "magic",
    "magic.mime",
    "maven",
    "mime.types",
    "os-release",
    "perl",
    "pki/ca-trust",
    "pki/tls/certs",
    "protocols",
    "services",
    "ssl/certs",
    "ssl/openssl.cnf",
    "terminfo",
    "timezone",
];
/// Files that are made up, with their content.
const MADE_UP: [(&str, &str); 5] = [
    (
        "passwd",
        "root:x:0:0:root:/root:/bin/sh\n\
         agent:x:1000:1000:agent:/home/agent:/bin/sh\n\
         nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
    ),
    ("group", "root:x:0:\nagent:x:1000:\nnogroup:x:65534:\n"),
    ("hosts", "127.0.0.1 localhost sandbox\n::1 localhost\n"),
    ("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\nservices: files\nprotocols: files\n"),
    ("resolv.conf", ""),
];
/// The most bytes of a file that is copied; a host's certificates together have a quarter of a megabyte.
const MAX_FILE: u64 = 8 * 1024 * 1024;
/// The most folders below a part.
const MAX_DEPTH: u32 = 8;

/// The copy that fits the host as it is now, in `folder`; made if there is none.
pub(super) fn image(folder: &Path) -> io::Result<PathBuf> {
    let path = folder.join(format!("etc-{}", fingerprint(Path::new("/etc"))));
    if path.is_dir() {
        return Ok(path);
    }
    make(Path::new("/etc"), folder, &path)?;
    Ok(path)
}

/// Changes when a part is written, replaced, added or removed.
fn fingerprint(source: &Path) -> String {
    let mut hash = Sha256::new();
    for (name, content) in MADE_UP {
        hash.update(name);
        hash.update(content);
    }
    for name in PARTS {
        if let Ok(metadata) = fs::symlink_metadata(source.join(name)) {
            let traits = [metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()];
            hash.update(name);
            traits.iter().for_each(|value| hash.update(value.to_le_bytes()));
            hash.update(metadata.len().to_le_bytes());
        }
    }
    hex::encode(&hash.finalize()[..8])
}

/// Makes a copy whole or not at all.
fn make(source: &Path, folder: &Path, path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
    let temporary = tempdir_in(folder)?;
    let copied = (|| {
        for name in PARTS {
            let target = temporary.join(name);
            if let Some(parent) = target.parent() {
                make_folder(parent)?;
            }
            copy(&source.join(name), &target, 0)?;
        }
        for (name, content) in MADE_UP {
            write(&temporary.join(name), content.as_bytes())?;
        }
        match fs::rename(&temporary, path) {
            // Somebody made the same at the same time.
            Err(_) if path.is_dir() => Ok(false),
            renamed => renamed.map(|()| true),
        }
    })();
    if !matches!(copied, Ok(true)) {
        fs::remove_dir_all(&temporary).ok();
    }
    copied.map(drop)
}

/// Copies what everybody may read; links as links: they point into `/usr`, or nowhere.
fn copy(from: &Path, to: &Path, depth: u32) -> io::Result<()> {
    let Ok(metadata) = fs::symlink_metadata(from) else { return Ok(()) };
    if metadata.is_symlink() {
        return symlink(fs::read_link(from)?, to);
    }
    let is_shared = metadata.permissions().mode() & 0o004 != 0;
    if is_shared && metadata.is_file() && metadata.len() <= MAX_FILE {
        return write(to, &fs::read(from)?);
    }
    if is_shared && metadata.is_dir() && depth < MAX_DEPTH {
        make_folder(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            copy(&entry.path(), &to.join(entry.file_name()), depth + 1)?;
        }
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::write(path, bytes)?;
    // The mode at creation was subject to the umask, and the sandbox's uid is another.
    fs::set_permissions(path, fs::Permissions::from_mode(0o644))
}

fn make_folder(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

fn tempdir_in(folder: &Path) -> io::Result<PathBuf> {
    for number in 0..100 {
        let path = folder.join(format!(".etc-{}-{number}", std::process::id()));
        match fs::create_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => {
                made?;
                make_folder(&path)?;
                return Ok(path);
            }
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_named_and_readable_parts_only_and_follows_changes() {
        let host = tempfile::tempdir().expect("a folder");
        let folder = tempfile::tempdir().expect("a folder");
        for (name, mode) in [("services", 0o644), ("login.defs", 0o600), ("shadow", 0o644)] {
            fs::write(host.path().join(name), name).expect("a file");
            fs::set_permissions(host.path().join(name), fs::Permissions::from_mode(mode)).expect("a mode");
        }
        symlink("/usr/share/zoneinfo/UTC", host.path().join("localtime")).expect("a link");
        let path = folder.path().join("etc-1");
        make(host.path(), folder.path(), &path).expect("made");
        assert_eq!(fs::read_to_string(path.join("services")).expect("there"), "services");
        assert!(fs::symlink_metadata(path.join("localtime")).expect("there").is_symlink());
        assert!(!path.join("login.defs").exists(), "only root may read it");
        assert!(!path.join("shadow").exists(), "not named");
        assert!(fs::read_to_string(path.join("passwd")).expect("there").contains("agent"));

        let before = fingerprint(host.path());
        assert_eq!(before, fingerprint(host.path()));
        fs::write(host.path().join("services"), "changed").expect("written");
        assert_ne!(before, fingerprint(host.path()));
        make(host.path(), folder.path(), &path).expect("a second time beside the first");
        assert_eq!(fs::read_dir(folder.path()).expect("there").count(), 1, "nothing else is left");
    }
}
