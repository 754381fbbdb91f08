//! `cp -r` of the folder of a store that is at work: each copy is a store that opens and has what was acknowledged
//! before the copy began.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use ob_core::SessionId;
use ob_store::SharedStore;
use ob_store::conformance::append;
use ob_store::conformance::commit;
use ob_store::conformance::log;
use ob_store::conformance::seed;
use rusqlite::Connection;
use tokio::sync::Semaphore;

use crate::Folder;
use crate::open;
use crate::options;

/// Copies of one run.
const COPIES: usize = 12;
/// Commits between two copies: together enough for a checkpoint each time if nobody copied, and too few for the log to
/// grow so long that it is started anew all the same.
const COMMITS: usize = 120;

/// Copies the data folder as an operator would.
fn cp(from: &Path, to: &Path) {
    std::fs::create_dir(to).expect("a folder");
    let done = Command::new("cp").arg("-r").arg(from.join("data")).arg(to).status().expect("cp runs");
    assert!(done.success());
}

/// How many events of the session a copy has; that it is whole, and that they are without a gap.
async fn events(copy: &Path, id: &SessionId) -> usize {
    let database = Connection::open(options(copy).database).expect("it opens");
    let intact: String = database.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("a check");
    assert_eq!(intact, "ok", "{}", copy.display());
    drop(database);
    let store = open(copy).await;
    let events = log(&store, id).await;
    assert!(events.iter().enumerate().all(|(at, event)| event.index == at as u64));
    store.close().await.expect("close");
    std::fs::remove_dir_all(copy).expect("removed");
    events.len()
}

/// Appends as often as it is let to; counts what was acknowledged.
async fn append_always(store: SharedStore, id: SessionId, leave: Arc<Semaphore>, kept: Arc<AtomicUsize>) {
    while let Ok(one) = leave.acquire().await {
        one.forget();
        commit(&store, vec![append(&id, "x".repeat(50_000))]).await.expect("append");
        kept.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_under_load_has_all_that_was_acknowledged_before_it() {
    let folder = Folder::new();
    let store = open(folder.path()).await;
    let id = seed(&store).await.id;
    let (leave, kept) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let load = tokio::spawn(append_always(store.clone(), id.clone(), Arc::clone(&leave), Arc::clone(&kept)));
    for n in 0..COPIES {
        leave.add_permits(COMMITS);
        let copy = folder.path().join(format!("copy{n}"));
        let before = kept.load(Ordering::SeqCst);
        let (from, to) = (folder.path().to_owned(), copy.clone());
        tokio::task::spawn_blocking(move || cp(&from, &to)).await.expect("copied");
        assert!(events(&copy, &id).await >= before, "copy {n}");
    }
    leave.close();
    load.await.expect("the load ends");
    assert!(kept.load(Ordering::SeqCst) > COMMITS, "there was load");
    store.close().await.expect("close");
}

/// The worst that `cp -r` can do: between the two files, in either order, come commits enough for checkpoints.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_dawdles_between_the_files_is_whole() {
    for files in [["oubliette.db", "oubliette.db-wal"], ["oubliette.db-wal", "oubliette.db"]] {
        let folder = Folder::new();
        let store = open(folder.path()).await;
        let id = seed(&store).await.id;
        let mut kept = 0;
        for n in 0..COPIES / 4 {
            let copy = folder.path().join(format!("copy{n}"));
            std::fs::create_dir_all(copy.join("data/blobs")).expect("a folder");
            let before = kept;
            for file in files {
                let data = |folder: &Path| folder.join("data").join(file);
                let done =
                    Command::new("cp").arg(data(folder.path())).arg(data(&copy)).status().expect("cp runs");
                assert!(done.success());
                for _ in 0..COMMITS {
                    commit(&store, vec![append(&id, "x".repeat(50_000))]).await.expect("append");
                    kept += 1;
                }
            }
            assert!(events(&copy, &id).await >= before, "copy {n}, {} first", files[0]);
        }
        store.close().await.expect("close");
    }
}

/// As the runbook has it: `kill -TERM`, and `cp -r` right behind it.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_while_the_store_closes_has_all_of_it() {
    let folder = Folder::new();
    let store = open(folder.path()).await;
    let id = seed(&store).await.id;
    store.close().await.expect("close");
    let mut kept = 0;
    for n in 0..COPIES {
        let store = open(folder.path()).await;
        for _ in 0..20 {
            commit(&store, vec![append(&id, "x".repeat(50_000))]).await.expect("append");
            kept += 1;
        }
        let copy = folder.path().join(format!("copy{n}"));
        let (from, to) = (folder.path().to_owned(), copy.clone());
        let copying = tokio::task::spawn_blocking(move || cp(&from, &to));
        store.close().await.expect("close");
        copying.await.expect("copied");
        assert_eq!(events(&copy, &id).await, kept, "copy {n}");
    }
}
