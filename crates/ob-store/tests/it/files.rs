//! What is on the disk: modes, bounds of the WAL, purging, and other processes that look at it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use ob_core::event::INLINE_PAYLOAD_MAX;
use ob_store::Write;
use ob_store::conformance::append;
use ob_store::conformance::commit;
use ob_store::conformance::event;
use ob_store::conformance::in_time;
use ob_store::conformance::log;
use ob_store::conformance::seed;
use rusqlite::Connection;

use crate::Folder;
use crate::open;
use crate::options;

/// The WAL's cap, and one transaction and a checkpoint's step more.
const WAL_MOST: u64 = (64 + 16) * 1024 * 1024;

fn modes(folder: &Path, found: &mut Vec<(String, u32)>) {
    for entry in fs::read_dir(folder).expect("list") {
        let entry = entry.expect("entry");
        let metadata = entry.metadata().expect("metadata");
        found.push((entry.path().display().to_string(), metadata.permissions().mode() & 0o777));
        if metadata.is_dir() {
            modes(&entry.path(), found);
        }
    }
}

fn wal(folder: &Path) -> u64 {
    fs::metadata(folder.join("data/oubliette.db-wal")).map_or(0, |found| found.len())
}

#[tokio::test]
async fn only_the_owner_may_look_into_any_file() {
    let folder = Folder::new();
    let store = open(folder.path()).await;
    let id = seed(&store).await.id;
    commit(&store, vec![append(&id, "x".repeat(2 * INLINE_PAYLOAD_MAX))]).await.expect("append");
    let tokens = ob_store::sqlite::open_tokens(&folder.path().join("data/auth.db")).await.expect("open");
    let mut found = Vec::new();
    modes(folder.path(), &mut found);
    assert!(found.iter().any(|(path, _)| path.ends_with("-wal")), "while it is open");
    assert!(found.len() >= 6, "{found:?}");
    for (path, mode) in found {
        let expected = if Path::new(&path).is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode, expected, "{path}");
    }
    drop(tokens);
    store.close().await.expect("close");

    let database = options(folder.path()).database;
    fs::set_permissions(&database, fs::Permissions::from_mode(0o644)).expect("loosen");
    open(folder.path()).await.close().await.expect("close");
    assert_eq!(fs::metadata(&database).expect("metadata").permissions().mode() & 0o777, 0o600, "tightened");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wal_stays_under_its_cap_and_is_empty_after_closing() {
    let folder = Folder::new();
    let store = open(folder.path()).await;
    let id = seed(&store).await.id;
    let mut longest = 0;
    for _ in 0..100 {
        let events = (0..32).map(|_| event("x".repeat(60_000))).collect();
        commit(&store, vec![Write::Append { session: id.clone(), events }]).await.expect("append");
        longest = longest.max(wal(folder.path()));
    }
    assert!(longest <= WAL_MOST, "{longest}");
    assert!(longest > 1024 * 1024, "it was written at all");
    store.close().await.expect("close");
    assert_eq!(wal(folder.path()), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_deleted_project_are_purged_in_the_background_also_after_a_restart() {
    let folder = Folder::new();
    let store = open(folder.path()).await;
    let (gone, kept) = (seed(&store).await, seed(&store).await);
    for record in [&gone, &kept] {
        let events = (0..9000).map(|n| event(format!("{n}"))).collect();
        commit(&store, vec![Write::Append { session: record.id.clone(), events }]).await.expect("append");
    }
    commit(&store, vec![Write::DeleteProject(gone.project)]).await.expect("delete");
    store.close().await.expect("close");
    let store = open(folder.path()).await;
    let other = Connection::open(options(folder.path()).database).expect("another process may look");
    let count = |table: &str| -> i64 {
        other.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).expect("count")
    };
    in_time(async {
        while count("purges") > 0 {
            store.check().await.expect("it works on");
        }
    })
    .await;
    assert_eq!(count("events"), 9000);
    assert_eq!(log(&store, &kept.id).await.len(), 9000);
    drop(other);
    store.close().await.expect("close");
}

#[tokio::test]
async fn a_reader_of_another_process_stops_neither_commits_nor_closing() {
    let folder = Folder::new();
    let store = open(folder.path()).await;
    let id = seed(&store).await.id;
    let other = Connection::open(options(folder.path()).database).expect("open");
    other.execute_batch("BEGIN; SELECT count(*) FROM events;").expect("an open read transaction");
    commit(&store, vec![append(&id, "x")]).await.expect("append");
    in_time(store.close()).await.expect("close");
    drop(other);
    let store = open(folder.path()).await;
    assert_eq!(log(&store, &id).await.len(), 1);
    store.close().await.expect("close");
}

#[tokio::test]
async fn what_another_process_wrote_is_not_overlooked() {
    let folder = Folder::new();
    let (one, two) = (open(folder.path()).await, open(folder.path()).await);
    let id = seed(&one).await.id;
    for n in 0..10_u64 {
        let store = if n % 2 == 0 { &one } else { &two };
        let committed = commit(store, vec![append(&id, format!("{n}"))]).await.expect("append");
        assert_eq!(committed.first_index, [n]);
    }
    one.close().await.expect("close");
    two.close().await.expect("close");
}

#[tokio::test]
async fn what_a_crash_left_half_made_is_removed_and_what_is_being_made_is_not() {
    let folder = Folder::new();
    open(folder.path()).await.close().await.expect("close");
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(24 * 60 * 60);
    let names = ["blobs/new-01", "blobs/new-02", "oubliette.db.new-01", "oubliette.db.new-02"];
    let drafts = names.map(|name| folder.path().join("data").join(name));
    for draft in &drafts {
        fs::write(draft, "half").expect("write");
        if draft.to_string_lossy().ends_with('1') {
            fs::File::options().write(true).open(draft).expect("open").set_modified(long_ago).expect("aged");
        }
    }
    open(folder.path()).await.close().await.expect("close");
    assert_eq!(drafts.map(|draft| draft.exists()), [false, true, false, true]);
}

#[tokio::test]
async fn a_broken_blob_is_told_and_not_passed_on() {
    let folder = Folder::new();
    let store = open(folder.path()).await;
    let id = seed(&store).await.id;
    commit(&store, vec![append(&id, "small"), append(&id, "x".repeat(2 * INLINE_PAYLOAD_MAX))])
        .await
        .expect("append");
    let mut found = Vec::new();
    modes(&options(folder.path()).blobs, &mut found);
    let (blob, _) = found.iter().find(|(path, _)| Path::new(path).is_file()).expect("one blob");
    fs::write(blob, "changed").expect("write");
    let fault = store.events(&id, 0, 10).await.expect_err("the second event is lost");
    assert!(fault.to_string().contains("another content"), "{fault}");
    assert_eq!(store.events(&id, 0, 1).await.expect("the first is not").len(), 1);
    store.close().await.expect("close");
}
