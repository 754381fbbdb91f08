//! Calls that fail: a full disk, a broken one, and writes that do only half.

use std::path::Path;

use ob_core::SessionId;
use ob_core::event::INLINE_PAYLOAD_MAX;
use ob_store::SharedStore;
use ob_store::StoreError;
use ob_store::conformance::append;
use ob_store::conformance::commit;
use ob_store::conformance::in_time;
use ob_store::conformance::log;
use ob_store::conformance::seed;

use crate::disk::Fault;
use crate::disk::Watch;
use crate::loss::open;

/// Commits while something may fail.
const COMMITS: usize = 6;
/// Of the calls that can fail, each so many-th does, in `make test`.
const EVERY: usize = 3;

const FULL: Fault = Fault { errno: libc::ENOSPC, is_short: false, stays: true, hits_flushes: false };
const HALF: Fault = Fault { errno: libc::ENOSPC, is_short: true, stays: false, hits_flushes: false };
const NO_ROOM_TO_FLUSH: Fault =
    Fault { errno: libc::ENOSPC, is_short: false, stays: false, hits_flushes: true };
const BROKEN: Fault = Fault { errno: libc::EIO, is_short: false, stays: false, hits_flushes: true };

/// What a few commits came to: the texts that were acknowledged, and the refusals.
#[derive(Default)]
struct Outcome {
    kept: Vec<String>,
    refused: Vec<StoreError>,
}

async fn work(store: &SharedStore, session: &SessionId, outcome: &mut Outcome) {
    let mut bell = store.doorbell(session).await.expect("doorbell");
    for number in 0..COMMITS {
        let length = if number % 3 == 2 { 2 * INLINE_PAYLOAD_MAX } else { 3_000 };
        let text = format!("{number}:{}", "x".repeat(length));
        match commit(store, vec![append(session, &*text)]).await {
            Ok(committed) => {
                assert_eq!(committed.first_index, [outcome.kept.len() as u64], "a number without a gap");
                outcome.kept.push(text);
            }
            Err(fault) => outcome.refused.push(fault),
        }
        assert_eq!(*bell.borrow_and_update(), outcome.kept.len() as u64, "only what was done is announced");
    }
    assert_eq!(texts(store, session).await, outcome.kept, "nothing is half done");
}

async fn texts(store: &SharedStore, session: &SessionId) -> Vec<String> {
    log(store, session).await.into_iter().filter_map(|event| event.body.text).collect()
}

/// A store whose `nth` call fails while it works; after that it goes on. False if there are fewer calls.
async fn one_fault(folder: &Path, nth: usize, fault: Fault, expected: fn(&StoreError) -> bool) -> bool {
    let watch = Watch::start(folder);
    let store = open(folder).await.expect("a sound disk");
    let session = seed(&store).await.id;
    let mut outcome = Outcome::default();
    Watch::fail(nth, fault);
    work(&store, &session, &mut outcome).await;
    let has_failed = Watch::mend();
    for refused in &outcome.refused {
        assert!(expected(refused), "call {nth}: {refused:?}");
        assert!(refused.refusal().fix.is_some(), "{refused:?} teaches nothing");
    }
    // It goes on, now and after a restart.
    let committed = commit(&store, vec![append(&session, "after")]).await.expect("the disk is sound again");
    assert_eq!(committed.first_index, [outcome.kept.len() as u64]);
    outcome.kept.push("after".to_owned());
    in_time(store.close()).await.expect("a clean end");
    let store = open(folder).await.expect("a sound disk");
    assert_eq!(texts(&store, &session).await, outcome.kept, "call {nth}");
    in_time(store.close()).await.expect("a clean end");
    drop(watch);
    has_failed
}

/// Every [`EVERY`]th call fails once in a store of its own.
async fn each_call_fails(fault: Fault, expected: fn(&StoreError) -> bool) {
    let mut failed = 0;
    for nth in (1 + rand::random_range(0..EVERY)..).step_by(EVERY) {
        let folder = tempfile::tempdir().expect("a folder");
        if !one_fault(folder.path(), nth, fault, expected).await {
            break;
        }
        failed += 1;
    }
    assert!(failed > COMMITS, "only {failed} calls failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_from_any_call_on_refuses_and_the_store_goes_on_when_there_is_room() {
    each_call_fails(FULL, |refused| matches!(refused, StoreError::Full)).await;
}

/// Where blocks are given out late (or over a network), the flush is what finds that there are none.
#[tokio::test(flavor = "multi_thread")]
async fn a_flush_that_finds_no_room_is_a_full_disk_too() {
    each_call_fails(NO_ROOM_TO_FLUSH, |refused| matches!(refused, StoreError::Full)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_does_only_half_leaves_nothing_half_done() {
    each_call_fails(HALF, |refused| matches!(refused, StoreError::Full)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_fails_anywhere_refuses_and_the_store_goes_on() {
    each_call_fails(BROKEN, |refused| matches!(refused, StoreError::Engine { .. })).await;
}

/// A store that cannot be opened says so, and can be opened when the disk is sound again.
#[tokio::test(flavor = "multi_thread")]
async fn a_fault_while_a_store_is_made_leaves_nothing_that_is_in_the_way() {
    for fault in [FULL, BROKEN] {
        for nth in (1..).step_by(EVERY) {
            let folder = tempfile::tempdir().expect("a folder");
            let watch = Watch::start(folder.path());
            Watch::fail(nth, fault);
            let opened = open(folder.path()).await;
            let has_failed = Watch::mend();
            if let Ok(store) = opened {
                in_time(store.close()).await.expect("a clean end");
            }
            let store = open(folder.path()).await.expect("the disk is sound again");
            let session = seed(&store).await.id;
            commit(&store, vec![append(&session, "after")]).await.expect("the disk is sound again");
            in_time(store.close()).await.expect("a clean end");
            drop(watch);
            if !has_failed {
                assert!(nth > 5, "making a store takes more calls");
                break;
            }
        }
    }
}
