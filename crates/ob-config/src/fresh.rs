//! A configuration of all defaults, in the place of whatever there was.

use std::fs;
use std::fs::File;
use std::io;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::path::PathBuf;

use crate::home::DEFAULT_FILE;
use crate::migrate::free_name;

/// Writes a file of all defaults, each in a comment, with mode 0600; its folder exists. What was there before is kept
/// beside it, under the name that is returned. At no moment is there no file.
///
/// # Errors
/// If it cannot be written; then what was there is as it was.
pub fn write_default(file: &Path) -> io::Result<Option<PathBuf>> {
    let mut draft = file.as_os_str().to_owned();
    draft.push(".new");
    let draft = PathBuf::from(draft);
    let mut open = File::options().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    open.write_all(DEFAULT_FILE.as_bytes())?;
    open.sync_all()?;
    let old = file.symlink_metadata().is_ok().then(|| free_name(file));
    if let Some(old) = &old {
        // A second name replaces nothing that has it already.
        fs::hard_link(file, old)?;
    }
    fs::rename(&draft, file)?;
    File::open(file.parent().unwrap_or(Path::new("/")))?.sync_all()?;
    Ok(old)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_was_there_is_kept_under_names_of_their_own() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("oubliette.jsonc");
        assert_eq!(write_default(&file).expect("a file"), None);
        fs::write(&file, "{} // mine").expect("our own file");
        let first = write_default(&file).expect("a file").expect("the old one");
        assert_eq!(fs::read_to_string(&first).expect("it is kept"), "{} // mine");
        let second = write_default(&file).expect("a file").expect("the old one");
        assert_ne!(first, second);
        assert_eq!(fs::read_to_string(&file).expect("it is there"), DEFAULT_FILE);
        assert_eq!(fs::metadata(&file).expect("it is there").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 3, "no draft is left");
    }
}
