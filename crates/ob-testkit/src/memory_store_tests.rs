//! The promises of a store, kept in memory.

use ob_core::MicroUsd;
use ob_core::ledger::Amount;
use ob_core::model::ModelRef;
use ob_core::model::ModelSource;
use ob_core::session::Session;
use ob_core::session::SessionState;
use ob_core::session::SessionStatus;

use super::*;
use crate::fixtures::session_record;

fn events(texts: &[&str]) -> Vec<EventBody> {
    texts.iter().map(|text| EventBody::system(*text)).collect()
}

fn append(session: &SessionId, texts: &[&str]) -> Write {
    Write::Append { session: session.clone(), events: events(texts) }
}

fn unfenced(writes: Vec<Write>) -> Commit {
    Commit { writes, fence: None }
}

async fn seeded(limits: TreeLimits) -> (MemoryStore, SessionRecord) {
    let store = MemoryStore::new();
    let record = session_record(1, demo());
    store.seed_session(&record, limits).await.expect("an empty store takes it");
    (store, record)
}

fn demo() -> ModelRef {
    ModelRef { provider: "p".into(), model: "m".into(), source: ModelSource::Configured }
}

#[tokio::test]
async fn events_are_numbered_from_zero_and_the_bell_tells_how_far() {
    let (store, record) = seeded(TreeLimits::default()).await;
    let bell = store.doorbell(&record.id).await.expect("a session");
    let done =
        store.commit(unfenced(vec![append(&record.id, &["a", "b"]), append(&record.id, &["c"])])).await;
    assert_eq!(done.expect("committed").first_index, [0, 2]);
    assert_eq!(*bell.borrow(), 3);
    let page = store.events(&record.id, 1, 10).await.expect("a page");
    assert_eq!(page.iter().map(|event| event.index).collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test]
async fn a_refused_commit_leaves_no_trace() {
    let (store, record) =
        seeded(TreeLimits { max_tokens: Some(10), max_cost: None, ..TreeLimits::default() }).await;
    let reserve = Write::Reserve {
        charge: ChargeId::from_uuid(uuid(1)),
        tree: record.tree.clone(),
        session: record.id.clone(),
        amount: Amount::new(11, MicroUsd(0)),
    };
    let refused = store.commit(unfenced(vec![append(&record.id, &["x"]), reserve])).await;
    assert!(matches!(refused, Err(StoreError::OverLimit(_))), "{refused:?}");
    assert_eq!(store.log(&record.id), []);
    assert_eq!(store.open_charges().await.expect("open"), []);
    assert_eq!(store.ledger(&record.tree).await.expect("a tree").expect("made").reserved, Amount::default());
}

#[tokio::test]
async fn a_late_owner_is_refused() {
    let (store, record) = seeded(TreeLimits::default()).await;
    let (old, new) = (store.new_epoch().await.expect("an epoch"), store.new_epoch().await.expect("an epoch"));
    assert!(old < new);
    let by = |fence| Commit { writes: vec![append(&record.id, &["x"])], fence };
    store.claim(&record.id, old).await.expect("free");
    store.commit(by(Some(old))).await.expect("the owner may");
    store.claim(&record.id, new).await.expect("later");
    for fence in [Some(old), None] {
        let refused = store.commit(by(fence)).await;
        assert!(matches!(refused, Err(StoreError::Fenced { .. })), "{fence:?}: {refused:?}");
    }
    store.commit(by(Some(new))).await.expect("the new owner may");
    assert!(matches!(store.claim(&record.id, old).await, Err(StoreError::Fenced { .. })));
}

#[tokio::test]
async fn what_a_write_needs_must_exist() {
    let store = MemoryStore::new();
    let record = session_record(1, demo());
    let refused = store.commit(unfenced(vec![Write::PutSession(Box::new(record.clone()))])).await;
    assert!(matches!(refused, Err(StoreError::Missing { kind: "project", .. })), "{refused:?}");
    let refused = store.commit(unfenced(vec![append(&record.id, &["x"])])).await;
    assert!(matches!(refused, Err(StoreError::Missing { kind: "session", .. })), "{refused:?}");
    assert!(store.doorbell(&record.id).await.is_err());
}

#[tokio::test]
async fn settling_twice_books_once() {
    let (store, record) = seeded(TreeLimits::default()).await;
    let charge = ChargeId::from_uuid(uuid(1));
    let amount = Amount::new(10, MicroUsd(100));
    let reserve = Write::Reserve { charge, tree: record.tree.clone(), session: record.id.clone(), amount };
    store.commit(unfenced(vec![reserve])).await.expect("no limit");
    let settle = Write::Settle { charge, used: Amount::new(4, MicroUsd(40)) };
    store.commit(unfenced(vec![settle.clone(), settle])).await.expect("twice is fine");
    let ledger = store.ledger(&record.tree).await.expect("open").expect("made");
    assert_eq!((ledger.reserved, ledger.used), (Amount::default(), Amount::new(4, MicroUsd(40))));
}

#[tokio::test]
async fn sessions_are_listed_newest_first_and_filtered() {
    let (store, first) = seeded(TreeLimits::default()).await;
    let mut second = session_record(2, demo());
    (second.project, second.workspace, second.tree) = (first.project, first.workspace, first.tree.clone());
    second.core = Session { state: SessionState::Ended, ..Session::new(None) };
    store.commit(unfenced(vec![Write::PutSession(Box::new(second.clone()))])).await.expect("made");
    let list = async |filter| {
        let rows: Vec<SessionRecord> = store.sessions(filter).await.expect("open");
        rows.into_iter().map(|row| row.id.to_string()).collect::<Vec<_>>()
    };
    let all = SessionFilter { limit: 9, ..SessionFilter::default() };
    assert_eq!(list(all.clone()).await, [second.id.as_str(), first.id.as_str()]);
    assert_eq!(
        list(SessionFilter { before: Some(second.id.clone()), ..all.clone() }).await,
        [first.id.as_str()]
    );
    let active = SessionFilter { status: Some(SessionStatus::Active), ..all.clone() };
    assert_eq!(list(active).await, [first.id.as_str()]);
    assert_eq!(list(SessionFilter { projects: Some(vec![]), ..all }).await, [] as [&str; 0]);
    assert_eq!(store.active_sessions().await.expect("open"), 1);
}

#[tokio::test]
async fn a_deleted_project_takes_everything_and_its_number_with_it() {
    let (store, record) = seeded(TreeLimits::default()).await;
    store.commit(unfenced(vec![append(&record.id, &["x"])])).await.expect("committed");
    store.commit(unfenced(vec![Write::DeleteProject(record.project)])).await.expect("deleted");
    assert_eq!(store.session(&record.id).await.expect("open"), None);
    assert_eq!(store.workspace(record.workspace).await.expect("open"), None);
    assert_eq!(store.log(&record.id), []);
    let again = session_record(1, demo());
    store.seed_session(&again, TreeLimits::default()).await.expect("made again");
    assert_eq!(store.project(again.project).await.expect("open").expect("made").number, 2);
}

#[tokio::test]
async fn a_fault_fails_as_many_commits_as_asked_and_a_closed_store_all() {
    let (store, record) = seeded(TreeLimits::default()).await;
    store.fail_next(1, StoreFault::Full);
    let commit = || unfenced(vec![append(&record.id, &["x"])]);
    assert!(matches!(store.commit(commit()).await, Err(StoreError::Full)));
    store.commit(commit()).await.expect("space again");
    store.close().await.expect("closes");
    assert!(matches!(store.commit(commit()).await, Err(StoreError::Closed)));
}

fn uuid(n: u128) -> uuid::Uuid {
    uuid::Uuid::from_u128(n)
}
