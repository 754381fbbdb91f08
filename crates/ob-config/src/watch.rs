//! Tells when a configuration may have changed. Folders are watched and not files: editors and orchestrators put a new
//! file in the place of the old one, and the old one is what a watch on a file would go on watching.

use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;

use notify::EventKind;
use notify::RecommendedWatcher;
use notify::RecursiveMode;
use notify::Watcher as _;

use crate::Loaded;

/// Watches until dropped.
#[derive(Debug)]
pub struct Watch {
    _watcher: RecommendedWatcher,
    /// What is watched.
    pub folders: Vec<PathBuf>,
}

/// Calls `changed`, on a thread of its own, whenever something in a folder of the configuration changed: once or often
/// for one change, and also for changes that mean nothing. It must not block.
///
/// # Errors
/// If the machine has no more watches to give, or a folder cannot be read.
pub fn watch(loaded: &Loaded, changed: impl Fn() + Send + 'static) -> Result<Watch, notify::Error> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // An error is told too: after one, as an overflow, nobody knows what was missed.
        if !event.is_ok_and(|event| matches!(event.kind, EventKind::Access(kind) if !is_written(kind))) {
            changed();
        }
    })?;
    let folders: Vec<PathBuf> = folders(loaded).into_iter().collect();
    for folder in &folders {
        watcher.watch(folder, RecursiveMode::NonRecursive)?;
    }
    Ok(Watch { _watcher: watcher, folders })
}

/// True if a file was closed after it was open for writing.
fn is_written(kind: notify::event::AccessKind) -> bool {
    use notify::event::AccessKind;
    use notify::event::AccessMode;
    kind == AccessKind::Close(AccessMode::Write)
}

/// Where the file is, where what it links to is, and where one may appear.
fn folders(loaded: &Loaded) -> BTreeSet<PathBuf> {
    let named = loaded.file.as_deref();
    let real = named.and_then(|file| std::fs::canonicalize(file).ok());
    let places = [named, real.as_deref()].into_iter().flatten().filter_map(Path::parent);
    let homes = [loaded.home.root().to_owned(), loaded.home.config()];
    places.map(Path::to_owned).chain(homes).filter(|folder| folder.is_dir()).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::LoadOptions;

    /// Changes that are told and not looked at yet; more of them tell nothing new.
    const CHANGES: usize = 64;

    /// Longer than any event takes on a busy machine.
    const PATIENCE: Duration = Duration::from_secs(30);

    #[test]
    fn a_file_that_is_written_replaced_or_linked_anew_is_noticed() {
        let dir = tempfile::tempdir().expect("a folder");
        let (home, far) = (dir.path().join("home"), dir.path().join("far"));
        fs::create_dir_all(&home).expect("a folder");
        fs::create_dir_all(&far).expect("a folder");
        fs::write(far.join("real"), "{}").expect("a file");
        std::os::unix::fs::symlink(far.join("real"), home.join("oubliette.jsonc")).expect("a link");
        let options =
            LoadOptions { dir: Some(home.clone()), cwd: dir.path().into(), ..LoadOptions::default() };
        let loaded = crate::load(&options).expect("a configuration");
        let (sender, changes) = mpsc::sync_channel(CHANGES);
        let watch = watch(&loaded, move || {
            sender.try_send(()).ok();
        })
        .expect("watches");
        assert!(watch.folders.contains(&fs::canonicalize(&far).expect("it exists")), "{:?}", watch.folders);
        let noticed = |what: &str| {
            changes.recv_timeout(PATIENCE).expect(what);
            // More of the same change; what is left over would hide that the next one is not noticed.
            while changes.recv_timeout(Duration::from_millis(50)).is_ok() {}
        };
        fs::write(far.join("real"), "{} ").expect("a file");
        noticed("a write behind the link");
        fs::write(far.join("new"), "{}").expect("a file");
        noticed("a new file");
        fs::rename(far.join("new"), far.join("real")).expect("replaced");
        noticed("a file in the place of the old one");
        fs::write(far.join("real"), "{}  ").expect("a file");
        noticed("a write to the one that replaced it");
        fs::remove_file(home.join("oubliette.jsonc")).expect("removed");
        noticed("a link that is gone");
        // Reading is no change.
        fs::read(far.join("real")).expect("read");
        assert!(changes.recv_timeout(Duration::from_millis(100)).is_err());
    }
}
