//! The hot end of the log: where events are kept must not be seen from outside, wherever a crash or a cursor falls.

use std::collections::BTreeMap;

use ob_core::SessionId;
use ob_core::event::INLINE_PAYLOAD_MAX;
use ob_store::SharedStore;
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

/// More than the tail holds before it is moved.
const MANY: usize = 6_000;

fn count(folder: &Folder, table: &str) -> usize {
    let other = Connection::open(options(folder.path()).database).expect("another process may look");
    other.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).expect("count")
}

/// Appends `count` events in commits of a few, in turn to all sessions.
async fn fill(store: &SharedStore, sessions: &[SessionId], count: usize) {
    for n in (0..count).step_by(8) {
        let writes = sessions.iter().map(|session| Write::Append {
            session: session.clone(),
            events: (n..n + 8).map(|n| event(format!("{n}"))).collect(),
        });
        commit(store, writes.collect()).await.expect("append");
    }
}

async fn check(store: &SharedStore, session: &SessionId, count: usize) {
    let texts: Vec<String> =
        log(store, session).await.into_iter().map(|event| event.body.text.expect("a text")).collect();
    let expected: Vec<String> = (0..count).map(|n| format!("{n}")).collect();
    assert_eq!(texts, expected);
    for from in [0, 1, count / 3, count / 2, count - 1] {
        let page = store.events(session, from as u64, 700).await.expect("events");
        assert_eq!(page.len(), 700.min(count - from), "from {from}");
        for (index, event) in (from..).zip(page) {
            assert_eq!((event.index, event.body.text), (index as u64, Some(format!("{index}"))));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_read_whole_while_it_is_moved_and_after_a_crash() {
    let folder = Folder::new();
    let store = open(folder.path()).await;
    let sessions = [seed(&store).await.id, seed(&store).await.id, seed(&store).await.id];
    let reader = {
        let (store, session) = (store.clone(), sessions[1].clone());
        tokio::spawn(async move {
            let mut seen = 0;
            let mut bell = store.doorbell(&session).await.expect("doorbell");
            while seen < MANY {
                bell.wait_for(|next| *next > seen as u64).await.expect("open");
                for event in store.events(&session, seen as u64, 50).await.expect("events") {
                    assert_eq!((event.index, event.body.text), (seen as u64, Some(format!("{seen}"))));
                    seen += 1;
                }
            }
        })
    };
    fill(&store, &sessions, MANY).await;
    in_time(reader).await.expect("it saw each event once, in order");
    assert!(count(&folder, "events") > 0, "some were moved");
    assert!(count(&folder, "tail") > 0, "and some were not");
    // As a killed process leaves it: the files of this moment, opened by another.
    let copy = Folder::new();
    let from = options(folder.path()).database;
    let to = options(copy.path()).database;
    std::fs::create_dir_all(to.parent().expect("a folder")).expect("make");
    for suffix in ["", "-wal"] {
        let name = |path: &std::path::Path| format!("{}{suffix}", path.display());
        std::fs::copy(name(&from), name(&to)).expect("copy");
    }
    for store in [store, open(copy.path()).await] {
        for session in &sessions {
            check(&store, session, MANY).await;
        }
        let committed = commit(&store, vec![append(&sessions[0], "more")]).await.expect("append");
        assert_eq!(committed.first_index, [MANY as u64]);
        store.close().await.expect("close");
    }
    for folder in [&folder, &copy] {
        assert_eq!(count(folder, "events"), 3 * MANY + 1, "closing leaves each event in its place");
        assert_eq!(count(folder, "tail"), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_too_large_for_the_tail_keep_their_order_among_small_ones() {
    let folder = Folder::new();
    let store = open(folder.path()).await;
    let id = seed(&store).await.id;
    let mut expected = Vec::new();
    for round in 0..6 {
        for (size, many) in [(10, 3), (INLINE_PAYLOAD_MAX - 1000, 80), (2 * INLINE_PAYLOAD_MAX, 2), (10, 3)] {
            let texts: Vec<String> = (0..many).map(|n| format!("{round} {n} {}", "x".repeat(size))).collect();
            let events = texts.iter().map(event).collect();
            commit(&store, vec![Write::Append { session: id.clone(), events }]).await.expect("append");
            expected.extend(texts);
        }
    }
    let texts = |log: Vec<ob_core::Event>| -> Vec<String> {
        log.into_iter().map(|event| event.body.text.expect("a text")).collect()
    };
    assert!(texts(log(&store, &id).await) == expected, "while it is open");
    drop(store);
    let store = in_time(async { open(folder.path()).await }).await;
    assert!(texts(log(&store, &id).await) == expected, "and by another store");
    store.close().await.expect("close");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_deleted_session_do_not_come_back_from_the_tail() {
    let folder = Folder::new();
    let store = open(folder.path()).await;
    let (gone, kept) = (seed(&store).await, seed(&store).await);
    fill(&store, &[gone.id.clone(), kept.id.clone()], 80).await;
    let writes = vec![append(&gone.id, "the last"), Write::DeleteProject(gone.project)];
    commit(&store, writes).await.expect("delete");
    store.events(&gone.id, 0, 1).await.expect_err("it is gone");
    store.doorbell(&gone.id).await.expect_err("it is gone");
    fill(&store, &[seed(&store).await.id], MANY).await;
    store.close().await.expect("close");
    let store = open(folder.path()).await;
    check(&store, &kept.id, 80).await;
    in_time(async {
        while count(&folder, "purges") > 0 {
            store.check().await.expect("it works on");
        }
    })
    .await;
    assert_eq!(count(&folder, "events"), 80 + MANY);
    store.close().await.expect("close");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_that_append_in_turn_lose_and_repeat_nothing() {
    let folder = Folder::new();
    let stores = [open(folder.path()).await, open(folder.path()).await];
    let ids = [seed(&stores[0]).await.id, seed(&stores[0]).await.id];
    let mut next = BTreeMap::from([(&ids[0], 0_u64), (&ids[1], 0)]);
    for round in 0..40 {
        for (id, next) in &mut next {
            let events = (*next..*next + 256).map(|n| event(format!("{n}"))).collect();
            let write = Write::Append { session: (*id).clone(), events };
            let committed = commit(&stores[round % 2], vec![write]).await.expect("append");
            assert_eq!(committed.first_index, [*next]);
            *next += 256;
        }
    }
    for store in stores {
        store.close().await.expect("close");
    }
    let store = open(folder.path()).await;
    for id in &ids {
        check(&store, id, 40 * 256).await;
    }
    store.close().await.expect("close");
}
