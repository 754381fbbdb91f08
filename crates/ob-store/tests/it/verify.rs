//! `store check`: a store that is whole is called so, and each way of breaking one is found, named, and not made worse.

use std::fs;
use std::path::Path;
use std::process::Command;

use ob_core::Check;
use ob_core::CheckState;
use ob_core::MicroUsd;
use ob_core::event::INLINE_PAYLOAD_MAX;
use ob_core::id::ChargeId;
use ob_core::ledger::Amount;
use ob_store::Write;
use ob_store::conformance::append;
use ob_store::conformance::commit;
use ob_store::conformance::event;
use ob_store::conformance::seed;
use ob_store::sqlite::VerifyOptions;
use rusqlite::Connection;

use crate::Folder;
use crate::open;
use crate::options;

fn places(folder: &Path) -> VerifyOptions {
    let options = options(folder);
    VerifyOptions {
        auth_database: options.database.with_file_name("auth.db"),
        database: options.database,
        blobs: options.blobs,
    }
}

async fn verify(folder: &Path) -> Vec<Check> {
    ob_store::sqlite::verify(places(folder)).await.expect("it looks")
}

/// The checks that are not well.
async fn broken(folder: &Path) -> Vec<Check> {
    verify(folder).await.into_iter().filter(|check| check.state != CheckState::Ok).collect()
}

/// A closed store with a session, events, a blob, charges and no token.
async fn filled() -> Folder {
    stores().await.1
}

/// The same as a crash leaves it, with the newest events in the tail.
async fn crashed() -> Folder {
    stores().await.0
}

/// A store as it is while it is open, and after it was closed.
async fn stores() -> (Folder, Folder) {
    let folder = Folder::new();
    let store = open(folder.path()).await;
    let record = seed(&store).await;
    let events = (0..500).map(|n| event(format!("{n} {}", "x".repeat(200)))).collect();
    commit(&store, vec![Write::Append { session: record.id.clone(), events }]).await.expect("append");
    commit(&store, vec![append(&record.id, "x".repeat(2 * INLINE_PAYLOAD_MAX))]).await.expect("append");
    for (id, settle) in [(1, true), (2, false)] {
        let charge = ChargeId::from_uuid(uuid::Uuid::from_u128(id));
        let amount = Amount::new(10, MicroUsd(100));
        let (tree, session) = (record.tree.clone(), record.id.clone());
        commit(&store, vec![Write::Reserve { charge, tree, session, amount }]).await.expect("reserve");
        if settle {
            let used = Amount::new(5, MicroUsd(50));
            commit(&store, vec![Write::Settle { charge, used }]).await.expect("settle");
        }
    }
    drop(ob_store::sqlite::open_tokens(&places(folder.path()).auth_database).await.expect("made"));
    let copy = Folder::new();
    let copied = Command::new("cp").arg("-a").arg(folder.path().join("data")).arg(copy.path()).status();
    assert!(copied.expect("cp").success());
    store.close().await.expect("close");
    (copy, folder)
}

/// Changes the database behind the store's back.
fn edit(folder: &Path, sql: &str) {
    let connection = Connection::open(options(folder).database).expect("opens");
    connection.pragma_update(None, "foreign_keys", false).expect("off");
    assert!(connection.execute(sql, []).expect("runs") > 0, "{sql} changes something");
}

/// Every blob's file.
fn blobs(folder: &Path) -> Vec<std::path::PathBuf> {
    let list =
        |path: &Path| fs::read_dir(path).expect("list").map(|e| e.expect("entry").path()).collect::<Vec<_>>();
    list(&options(folder).blobs).iter().flat_map(|shard| list(shard)).collect()
}

#[tokio::test]
async fn nothing_is_stored_yet_is_healthy_and_makes_nothing() {
    let folder = Folder::new();
    assert_eq!(broken(folder.path()).await, []);
    assert_eq!(fs::read_dir(folder.path()).expect("list").count(), 0, "looking makes nothing");
    let look = ob_store::sqlite::look(places(folder.path())).await.expect("it looks");
    assert_eq!((look.state, look.required), (CheckState::Ok, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_store_is_called_whole_also_while_it_is_written() {
    let folder = filled().await;
    let checks = verify(folder.path()).await;
    let names: Vec<&str> = checks.iter().map(|check| check.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "database",
            "integrity",
            "foreign_keys",
            "event_numbers",
            "event_payloads",
            "blobs",
            "session_states",
            "turns",
            "ledger",
            "tokens"
        ]
    );
    assert!(checks.iter().all(|check| check.state == CheckState::Ok && check.required), "{checks:#?}");
    assert!(checks[3].found.starts_with("501 events of 1 sessions"), "{:?}", checks[3]);

    let store = open(folder.path()).await;
    let id = seed(&store).await.id;
    for _ in 0..5 {
        let events = (0..200).map(|n| event(format!("{n}"))).collect();
        let (written, found) = tokio::join!(
            commit(&store, vec![Write::Append { session: id.clone(), events }]),
            broken(folder.path())
        );
        written.expect("a reader hinders no writer");
        assert_eq!(found, []);
    }
    store.close().await.expect("close");
}

/// Each row: what is done to the store behind its back, the check that finds it, and words of what it says.
#[tokio::test]
async fn each_broken_promise_is_found_and_named() {
    let table = [
        (
            "UPDATE tail SET body = json_remove(body, '$[7]') WHERE body LIKE '%498 xxx%'",
            "event_numbers",
            "8 where 7 is due",
        ),
        (
            "UPDATE tail SET body = json_replace(body, '$[3][4]', '{') WHERE body LIKE '%498 xxx%'",
            "event_payloads",
            "event 3 of session gogol_",
        ),
        (
            "UPDATE tail SET body = json_replace(body, '$[3][2]', 200) WHERE body LIKE '%498 xxx%'",
            "event_payloads",
            "kind 200",
        ),
        ("UPDATE tail SET body = '[' WHERE body LIKE '%498 xxx%'", "event_numbers", "malformed JSON"),
        ("DELETE FROM events WHERE seq = 7", "event_numbers", "8 where 7 is due"),
        ("DELETE FROM events WHERE seq = 0", "event_numbers", "1 where 0 is due"),
        (
            "UPDATE events SET session_key = 99 WHERE seq = 500",
            "event_numbers",
            "a session (key 99) that is not there",
        ),
        ("UPDATE events SET payload = '{' WHERE seq = 3", "event_payloads", "event 3 of session gogol_"),
        ("UPDATE events SET kind = 200 WHERE seq = 3", "event_payloads", "kind 200"),
        ("UPDATE events SET kind = 2 WHERE seq = 3", "event_payloads", "filed as a Message"),
        ("UPDATE events SET version = 9 WHERE seq = 3", "event_payloads", "version 9"),
        ("UPDATE events SET payload = NULL WHERE seq = 3", "event_payloads", "no payload"),
        ("UPDATE sessions SET state = 'dreaming'", "session_states", "its state is `dreaming`"),
        ("UPDATE sessions SET state = 'ended', status = 'completed'", "session_states", "filed as ended"),
        ("UPDATE sessions SET status = 'failed'", "session_states", "and failed at once"),
        ("UPDATE sessions SET epoch = 77", "session_states", "a server that never was"),
        ("UPDATE sessions SET record = '{}'", "session_states", "missing field"),
        (
            "UPDATE trees SET reserved_cost = 7",
            "ledger",
            "reserved $0.000007 in its books, $0.0001 in its calls",
        ),
        ("UPDATE trees SET used_cost = 7", "ledger", "spent $0.000007 in its books, $0.00005 in its calls"),
        ("UPDATE trees SET used_tokens = 1", "ledger", "spent 1 tokens in its books, 5 in its calls"),
        (
            "UPDATE charges SET tree_key = 99 WHERE settled_at IS NULL",
            "foreign_keys",
            "belongs to no row of trees",
        ),
    ];
    for (sql, name, says) in table {
        let folder = if sql.contains("tail") { crashed().await } else { filled().await };
        edit(folder.path(), sql);
        let found = broken(folder.path()).await;
        let check =
            found.iter().find(|check| check.name == name).unwrap_or_else(|| panic!("{sql}: {found:#?}"));
        assert!(check.found.contains(says), "{sql}: {check:?}");
        assert_eq!(check.state, CheckState::Failed);
        assert!(!check.is_healthy() && check.cost.is_some() && check.fix.is_some(), "{check:?}");
        let others: Vec<&str> =
            found.iter().map(|c| c.name.as_str()).filter(|other| *other != name).collect();
        assert!(others.is_empty() || sql.contains("tree_key"), "{sql} is one fault, found as {others:?} too");
    }
}

#[tokio::test]
async fn a_store_that_a_crash_left_is_whole() {
    let folder = crashed().await;
    let connection = Connection::open(options(folder.path()).database).expect("opens");
    let tail: u64 = connection.query_row("SELECT count(*) FROM tail", [], |row| row.get(0)).expect("counts");
    assert!(tail > 0, "the newest events are in the tail");
    assert_eq!(broken(folder.path()).await, []);
}

#[tokio::test]
async fn a_blob_that_is_missing_or_changed_is_found() {
    let folder = filled().await;
    let [blob] = blobs(folder.path()).try_into().expect("one blob");
    let content = fs::read(&blob).expect("read");
    fs::write(&blob, b"other").expect("written");
    let [check] = broken(folder.path()).await.try_into().expect("one fault");
    assert!(check.name == "blobs" && check.found.contains("another content"), "{check:?}");
    fs::remove_file(&blob).expect("removed");
    let [check] = broken(folder.path()).await.try_into().expect("one fault");
    assert!(check.name == "blobs" && check.found.contains("cannot be read"), "{check:?}");
    fs::write(&blob, content).expect("written back");
    assert_eq!(broken(folder.path()).await, []);
}

#[tokio::test]
async fn a_token_that_cannot_be_read_is_found() {
    let folder = filled().await;
    let auth = Connection::open(places(folder.path()).auth_database).expect("opens");
    let insert = "INSERT INTO tokens (id, name, prefix, hash, record) VALUES ('tok_000000000abc', 'a', 1, x'00', '{}')";
    auth.execute(insert, []).expect("runs");
    drop(auth);
    let [check] = broken(folder.path()).await.try_into().expect("one fault");
    assert!(check.name == "tokens" && check.found.contains("tok_000000000abc"), "{check:?}");
}

/// A page is overwritten, as a bad disk does. The commands that the check names get what can be read into a store that
/// is whole by SQLite's own account.
#[tokio::test]
async fn a_corrupt_page_is_found_and_the_commands_that_mend_it_work() {
    let folder = filled().await;
    let database = options(folder.path()).database;
    // Without free pages, where a fault would be none.
    let packing = Connection::open(&database).expect("opens");
    packing.execute_batch("VACUUM; PRAGMA wal_checkpoint(TRUNCATE);").expect("packed");
    drop(packing);
    // A leaf of the events, which are the most of the file.
    let mut bytes = fs::read(&database).expect("read");
    let page = bytes.len() / 4096 / 2 * 4096;
    bytes[page..page + 4096].fill(0x5a);
    fs::write(&database, &bytes).expect("written");
    let before = fs::read(&database).expect("read");
    let found = broken(folder.path()).await;
    assert!(found.iter().any(|check| check.name == "integrity"), "{found:#?}");
    assert_eq!(fs::read(&database).expect("read"), before, "looking changes nothing");
    let look = ob_store::sqlite::look(places(folder.path())).await.expect("it looks");
    assert_eq!(look.state, CheckState::Ok, "a quick look reads the first pages only");

    if Command::new("sqlite3").arg("--version").output().is_ok_and(|out| out.status.success()) {
        for command in &found[0].commands {
            let status = Command::new("sh").args(["-ec", command]).status().expect("a shell");
            assert!(status.success(), "{command}");
        }
        let connection = Connection::open(&database).expect("opens");
        let said: String =
            connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("checks");
        assert_eq!(said, "ok");
        let kept: u64 =
            connection.query_row("SELECT count(*) FROM events", [], |row| row.get(0)).expect("counts");
        assert!(kept > 100, "what can be read is there: {kept}");
        assert!(database.with_file_name("oubliette.db.broken").exists(), "the broken one is kept");
    }
}

#[tokio::test]
async fn a_file_that_is_no_database_of_ours_is_told_by_a_quick_look() {
    let folder = filled().await;
    let database = options(folder.path()).database;
    fs::write(&database, "this is no database, and long enough to be looked at as one").expect("written");
    let look = ob_store::sqlite::look(places(folder.path())).await.expect("it looks");
    assert!(look.state == CheckState::Failed && look.required && look.fix.is_some(), "{look:?}");
    assert!(!broken(folder.path()).await.is_empty());

    fs::remove_file(&database).expect("removed");
    Connection::open(&database).expect("opens").execute_batch("CREATE TABLE a (b)").expect("a foreign one");
    let look = ob_store::sqlite::look(places(folder.path())).await.expect("it looks");
    assert!(look.found.contains("not a database of Oubliette"), "{look:?}");
}
