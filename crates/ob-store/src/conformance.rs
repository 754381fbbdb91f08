//! The promises of [`Store`](crate::Store) as tests, one function each, for every engine.
//!
//! An engine's tests implement [`Place`] and call [`conformance_tests!`](crate::conformance_tests). The functions panic
//! when a promise is broken; nothing here is for production.

mod summaries;

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use ob_core::Event;
use ob_core::EventBody;
use ob_core::EventKind;
use ob_core::MicroUsd;
use ob_core::ProjectId;
use ob_core::SessionId;
use ob_core::Timestamp;
use ob_core::TreeId;
use ob_core::TurnNumber;
use ob_core::WorkspaceId;
use ob_core::event::INLINE_PAYLOAD_MAX;
use ob_core::id::ChargeId;
use ob_core::ledger::Amount;
use ob_core::ledger::Ledger;
use ob_core::ledger::OverLimit;
use ob_core::ledger::TreeLimits;
use ob_core::model::ModelRef;
use ob_core::model::ModelSource;
use ob_core::record::ProjectRecord;
use ob_core::record::SessionRecord;
use ob_core::record::TurnRecord;
use ob_core::record::WorkspaceKind;
use ob_core::record::WorkspaceRecord;
use ob_core::session::Session;
use ob_core::session::SessionState;
use ob_core::session::SessionStatus;
use ob_core::turn::TurnState;
use uuid::Uuid;

use crate::Commit;
use crate::Committed;
use crate::Epoch;
use crate::SessionFilter;
use crate::SharedStore;
use crate::StoreError;
use crate::Write;

pub use summaries::a_summary_is_never_older_than_what_was_acknowledged;

/// How long anything here may take before it counts as never.
const DEADLINE: Duration = Duration::from_secs(60);

/// Where a store lives: opening it again after closing finds what it held.
#[async_trait]
pub trait Place: Send + Sync {
    /// Opens the store.
    async fn open(&self) -> SharedStore;
}

/// Makes one test of each promise for the place that the expression makes.
#[macro_export]
macro_rules! conformance_tests {
    ($place:expr) => {
        $crate::conformance_tests!(
            @each $place;
            numbers_have_no_gap_under_concurrent_writers
            a_refused_commit_leaves_nothing_and_does_not_hurt_its_neighbours
            changes_of_one_commit_see_each_other
            only_the_owner_writes_a_session
            concurrent_reservations_never_exceed_a_limit
            a_tree_never_has_more_sessions_than_its_limits_allow
            a_session_that_is_ending_starts_no_children
            a_tree_that_is_out_of_time_starts_and_calls_nothing
            a_doorbell_rings_after_the_commit_and_only_then
            a_summary_is_never_older_than_what_was_acknowledged
            reopening_keeps_everything
            large_payloads_come_back_as_they_were
            events_are_read_in_pages_without_a_gap
            sessions_are_listed_newest_first_by_filter
            project_numbers_are_never_used_again
            deleting_a_project_removes_what_is_in_it
            charges_settle_once
            what_a_write_needs_must_exist
            a_closed_store_refuses_and_has_finished_what_was_queued
        );
    };
    (@each $place:expr; $($promise:ident)*) => {
        $(
            #[test]
            fn $promise() {
                let runtime = tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(2)
                    .enable_all()
                    .build()
                    .expect("a runtime");
                let place = $place;
                runtime.block_on($crate::conformance::in_time($crate::conformance::$promise(&place)));
            }
        )*
    };
}

/// Fails a promise that hangs.
pub async fn in_time<T>(promise: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, promise).await.expect("a promise takes no longer than a minute")
}

// === samples ===

/// A project without a number.
pub fn project() -> ProjectRecord {
    ProjectRecord {
        id: ProjectId::from_uuid(Uuid::now_v7()),
        number: 0,
        name: "sample".into(),
        description: String::new(),
        source: None,
        max_cost: None,
        model: None,
        trees: Default::default(),
        limits: Default::default(),
        agent: Default::default(),
        created_at: Timestamp::from_micros(1),
    }
}

/// A workspace of a project.
pub fn workspace(project: ProjectId) -> WorkspaceRecord {
    WorkspaceRecord {
        id: WorkspaceId::from_uuid(Uuid::now_v7()),
        project,
        kind: WorkspaceKind::Clone,
        path: "/nowhere".into(),
        base_commit: None,
        created_at: Timestamp::from_micros(2),
    }
}

/// A session of a workspace and a tree.
pub fn session(workspace: &WorkspaceRecord, tree: &TreeId) -> SessionRecord {
    SessionRecord {
        enforcement: None,
        id: SessionId::new(Timestamp::from_micros(0), rand::random()),
        project: workspace.project,
        workspace: workspace.id,
        tree: tree.clone(),
        parent: None,
        core: Session::new(Some(TurnNumber(1))),
        agent: "builtin".into(),
        agent_options: Default::default(),
        model: ModelRef { provider: "p".into(), model: "m".into(), source: ModelSource::Configured },
        backend: "namespace".into(),
        title: "a title with \"quotes\" and umlauts: äöü".into(),
        last_turn: TurnNumber(1),
        end_when_idle: false,
        reason: None,
        created_at: Timestamp::from_micros(3),
        updated_at: Timestamp::from_micros(4),
    }
}

/// A turn of a session.
pub fn turn(session: &SessionId, number: u32, state: TurnState) -> TurnRecord {
    TurnRecord {
        session: session.clone(),
        number: TurnNumber(number),
        prompt: format!("prompt {number}"),
        state,
        stop: None,
        created_at: Timestamp::from_micros(5),
        ended_at: None,
    }
}

/// A tree.
pub fn tree() -> TreeId {
    TreeId::new(Timestamp::from_micros(0), rand::random())
}

/// An event that tells which it is.
pub fn event(text: impl Into<String>) -> EventBody {
    EventBody::system(text)
}

/// An append of one event.
pub fn append(session: &SessionId, text: impl Into<String>) -> Write {
    Write::Append { session: session.clone(), events: vec![event(text)] }
}

/// Commits without a fence.
pub async fn commit(store: &SharedStore, writes: Vec<Write>) -> Result<Committed, StoreError> {
    store.commit(Commit { writes, fence: None }).await
}

/// Makes a project with a workspace, an unlimited tree and a session, and returns the session.
pub async fn seed(store: &SharedStore) -> SessionRecord {
    seed_with(store, TreeLimits::default(), None).await
}

/// [`seed`] with limits and an owner.
pub async fn seed_with(store: &SharedStore, limits: TreeLimits, fence: Option<Epoch>) -> SessionRecord {
    let project = project();
    let workspace = workspace(project.id);
    let tree = tree();
    let session = session(&workspace, &tree);
    let writes = vec![
        Write::PutProject(project),
        Write::PutWorkspace(workspace),
        Write::PutTree { tree, limits },
        Write::PutSession(Box::new(session.clone())),
    ];
    store.commit(Commit { writes, fence }).await.expect("seeding");
    session
}

/// The whole log of a session, read in pages.
pub async fn log(store: &SharedStore, session: &SessionId) -> Vec<Event> {
    let mut log: Vec<Event> = Vec::new();
    loop {
        let page = store.events(session, log.len() as u64, 1000).await.expect("events");
        if page.is_empty() {
            return log;
        }
        for event in page {
            assert_eq!(event.index, log.len() as u64, "numbered without a gap");
            log.push(event);
        }
    }
}

fn texts(log: &[Event]) -> Vec<&str> {
    log.iter().map(|event| event.body.text.as_deref().unwrap_or("")).collect()
}

fn charge() -> ChargeId {
    ChargeId::from_uuid(Uuid::now_v7())
}

fn reserve(charge: ChargeId, session: &SessionRecord, tokens: u64) -> Write {
    Write::Reserve {
        charge,
        tree: session.tree.clone(),
        session: session.id.clone(),
        amount: Amount::new(tokens, MicroUsd(0)),
    }
}

fn tokens(limit: u64) -> TreeLimits {
    TreeLimits { max_tokens: Some(limit), max_cost: None, ..TreeLimits::default() }
}

// === promises ===

/// Each event gets the next number; each writer learns its own; times never fall.
pub async fn numbers_have_no_gap_under_concurrent_writers(place: &impl Place) {
    let store = place.open().await;
    let sessions = [seed(&store).await.id, seed(&store).await.id];
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..16 {
        let (store, sessions) = (store.clone(), sessions.clone());
        writers.spawn(async move {
            let mut told = Vec::new();
            for n in 0..20 {
                let session = sessions[(writer + n) % 2].clone();
                let events = (0..3).map(|part| event(format!("{writer}.{n}.{part}"))).collect();
                let writes = vec![Write::Append { session: session.clone(), events }];
                let committed = commit(&store, writes).await.expect("append");
                told.push((session, committed.first_index[0], format!("{writer}.{n}")));
            }
            told
        });
    }
    let told: Vec<_> = writers.join_all().await.into_iter().flatten().collect();
    let logs = [log(&store, &sessions[0]).await, log(&store, &sessions[1]).await];
    assert_eq!(logs[0].len() + logs[1].len(), 16 * 20 * 3);
    for (session, first, text) in told {
        let log = &logs[usize::from(session != sessions[0])];
        for part in 0..3 {
            let found = &log[usize::try_from(first).expect("small") + part];
            assert_eq!(found.body.text.as_deref(), Some(format!("{text}.{part}").as_str()));
        }
    }
    for log in logs {
        assert!(log.is_sorted_by_key(|event| event.at));
    }
    store.close().await.expect("close");
}

/// Refusals half way undo the first half, whatever shares the transaction.
pub async fn a_refused_commit_leaves_nothing_and_does_not_hurt_its_neighbours(place: &impl Place) {
    let store = place.open().await;
    let record = seed_with(&store, tokens(100), None).await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..100_u32 {
        let (store, record) = (store.clone(), record.clone());
        tasks.spawn(async move {
            let mut writes = vec![append(&record.id, format!("{n}"))];
            if n % 2 == 1 {
                let mut changed = record.clone();
                changed.title = "must not be seen".into();
                writes.extend([
                    Write::PutTurn(turn(&record.id, n, TurnState::Queued)),
                    Write::PutSession(Box::new(changed)),
                    Write::PutDriver { session: record.id.clone(), state: vec![1] },
                    reserve(charge(), &record, 60),
                    append(&record.id, "again"),
                    reserve(charge(), &record, 60),
                ]);
            }
            (n, commit(&store, writes).await)
        });
    }
    for (n, outcome) in tasks.join_all().await {
        match outcome {
            Ok(_) => assert_eq!(n % 2, 0),
            Err(StoreError::OverLimit(_)) => assert_eq!(n % 2, 1),
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(log(&store, &record.id).await.len(), 50);
    assert_eq!(store.session(&record.id).await.expect("read"), Some(record.clone()));
    assert_eq!(store.turns(&record.id).await.expect("read"), []);
    assert_eq!(store.driver(&record.id).await.expect("read"), None);
    assert_eq!(store.open_charges().await.expect("read"), []);
    let ledger = store.ledger(&record.tree).await.expect("read").expect("there");
    assert_eq!(ledger, Ledger { limits: tokens(100), began_at: ledger.began_at, ..Ledger::default() });
    assert!(ledger.began_at.is_some());
    let after = commit(&store, vec![append(&record.id, "after")]).await.expect("append");
    assert_eq!(after.first_index, [50], "a refused append used no number");
    store.close().await.expect("close");
}

/// A session can be made and written in the same commit, and each append learns its number.
pub async fn changes_of_one_commit_see_each_other(place: &impl Place) {
    let store = place.open().await;
    let (project, tree) = (project(), tree());
    let workspace = workspace(project.id);
    let session = session(&workspace, &tree);
    let child = SessionRecord { parent: Some(session.id.clone()), ..self::session(&workspace, &tree) };
    let charge = charge();
    let writes = vec![
        Write::PutProject(project),
        Write::PutWorkspace(workspace),
        Write::PutTree { tree: tree.clone(), limits: tokens(10) },
        Write::PutSession(Box::new(session.clone())),
        append(&session.id, "0"),
        Write::PutSession(Box::new(child.clone())),
        append(&child.id, "0"),
        append(&session.id, "1"),
        Write::PutTurn(turn(&session.id, 1, TurnState::Queued)),
        Write::PutTurn(turn(&session.id, 1, TurnState::Running)),
        reserve(charge, &session, 10),
        Write::Settle { charge, used: Amount::new(4, MicroUsd(0)) },
        reserve(self::charge(), &session, 6),
    ];
    let committed = commit(&store, writes).await.expect("commit");
    assert_eq!(committed.first_index, [0, 0, 1]);
    assert_eq!(texts(&log(&store, &session.id).await), ["0", "1"]);
    assert_eq!(store.session(&child.id).await.expect("read"), Some(child));
    let turn = store.turn(&session.id, TurnNumber(1)).await.expect("read").expect("there");
    assert_eq!(turn.state, TurnState::Running);
    let ledger = store.ledger(&tree).await.expect("read").expect("there");
    assert_eq!((ledger.used.tokens, ledger.reserved.tokens), (4, 6));
    let empty = commit(&store, Vec::new()).await.expect("an empty commit is fine");
    assert!(empty.first_index.is_empty());
    store.close().await.expect("close");
}

/// Invariant 6, `one_owner`.
pub async fn only_the_owner_writes_a_session(place: &impl Place) {
    let store = place.open().await;
    let old = store.new_epoch().await.expect("epoch");
    let new = store.new_epoch().await.expect("epoch");
    assert!(new > old);
    let record = seed_with(&store, TreeLimits::default(), Some(old)).await;
    let free = seed(&store).await;
    let write = async |write: Write, fence| store.commit(Commit { writes: vec![write], fence }).await;
    let fenced = |outcome: Result<Committed, StoreError>| matches!(outcome, Err(StoreError::Fenced { .. }));

    write(append(&record.id, "old"), Some(old)).await.expect("its maker owns it");
    assert!(fenced(write(append(&record.id, "x"), None).await), "an owned session needs a fence");
    assert!(fenced(write(append(&free.id, "x"), Some(old)).await), "a fence needs an owned session");
    write(append(&free.id, "free"), None).await.expect("nobody owns it");

    store.claim(&record.id, new).await.expect("a later owner takes over");
    store.claim(&record.id, new).await.expect("twice is fine");
    assert!(matches!(store.claim(&record.id, old).await, Err(StoreError::Fenced { .. })));
    let late = [
        append(&record.id, "x"),
        Write::PutSession(Box::new(record.clone())),
        Write::PutTurn(turn(&record.id, 1, TurnState::Queued)),
        Write::PutDriver { session: record.id.clone(), state: vec![] },
        reserve(charge(), &record, 1),
    ];
    for late in late {
        assert!(fenced(write(late.clone(), Some(old)).await), "{late:?}");
        write(late, Some(new)).await.expect("the owner may");
    }
    let mixed = vec![append(&record.id, "x"), append(&free.id, "x")];
    assert!(fenced(store.commit(Commit { writes: mixed, fence: Some(new) }).await));
    assert_eq!(texts(&log(&store, &record.id).await), ["old", "x"]);
    assert_eq!(texts(&log(&store, &free.id).await), ["free"]);

    store.close().await.expect("close");
    let store = place.open().await;
    assert!(store.new_epoch().await.expect("epoch") > new, "epochs are durable");
    assert!(fenced(store.commit(Commit { writes: vec![append(&record.id, "x")], fence: Some(old) }).await));
    let nobody = SessionId::new(Timestamp::from_micros(9), 9);
    assert!(matches!(store.claim(&nobody, new).await, Err(StoreError::Missing { .. })));
    store.close().await.expect("close");
}

/// Invariant 5, `limits_hold`.
pub async fn concurrent_reservations_never_exceed_a_limit(place: &impl Place) {
    let store = place.open().await;
    let record = seed_with(&store, tokens(1000), None).await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let (store, record) = (store.clone(), record.clone());
        tasks.spawn(async move {
            let (mut granted, mut refused) = (0_u64, 0_u64);
            for _ in 0..10 {
                let charge = charge();
                match commit(&store, vec![reserve(charge, &record, 30)]).await {
                    Ok(_) => granted += 1,
                    Err(StoreError::OverLimit(_)) => refused += 1,
                    Err(other) => panic!("{other}"),
                }
            }
            (granted, refused)
        });
    }
    let outcomes = tasks.join_all().await;
    let granted: u64 = outcomes.iter().map(|(granted, _)| granted).sum();
    let refused: u64 = outcomes.iter().map(|(_, refused)| refused).sum();
    assert_eq!((granted, refused), (33, 640 - 33), "all that fits, and not one more");
    let ledger = store.ledger(&record.tree).await.expect("read").expect("there");
    assert_eq!(ledger.reserved.tokens, 990);
    assert_eq!(store.open_charges().await.expect("read").len(), 33);
    let raise = Write::PutTree { tree: record.tree.clone(), limits: tokens(2000) };
    commit(&store, vec![raise, reserve(charge(), &record, 1010)])
        .await
        .expect("a raised limit keeps the books");
    store.close().await.expect("close");
}

/// Invariant 5, `limits_hold`: 64 tasks start sessions anywhere in a tree, and end some, a thousand times in all.
pub async fn a_tree_never_has_more_sessions_than_its_limits_allow(place: &impl Place) {
    const AGENTS: u32 = 50;
    const LIVE: u32 = 10;
    const DEPTH: u32 = 3;
    let store = place.open().await;
    let limits = TreeLimits {
        max_depth: Some(DEPTH),
        max_agents: Some(AGENTS),
        max_live: Some(LIVE),
        ..TreeLimits::default()
    };
    let root = seed_with(&store, limits, None).await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..TREE_TASKS {
        let (store, root) = (store.clone(), root.clone());
        tasks.spawn(async move {
            let mut refused = BTreeSet::new();
            for _ in 0..TREE_STEPS.div_ceil(TREE_TASKS) {
                refused.extend(tree_step(&store, &root).await);
                let (agents, live) = count(&tree_of(&store, &root.tree).await);
                assert!(agents <= AGENTS && live <= LIVE, "{agents} sessions, {live} of them live");
            }
            refused
        });
    }
    let refused: BTreeSet<&'static str> = tasks.join_all().await.into_iter().flatten().collect();
    assert_eq!(refused, BTreeSet::from(["agents", "depth", "live_agents"]), "each limit was reached");
    let there = tree_of(&store, &root.tree).await;
    assert_eq!(count(&there).0, AGENTS, "all that fit, and not one more");
    let deepest = there.iter().map(|session| depth_in(&there, session)).max();
    assert_eq!(deepest, Some(DEPTH));
    store.close().await.expect("close");

    let store = place.open().await;
    assert_eq!(tree_of(&store, &root.tree).await, there, "kept");
    let late = commit(&store, vec![child_of(&root)]).await;
    let over = OverLimit::Agents { limit: AGENTS, used: AGENTS };
    assert!(
        matches!(late, Err(StoreError::OverLimit(found)) if found == over),
        "also after a restart: {late:?}"
    );
    store.close().await.expect("close");
}

/// One step of a tree: a session is started below some other, or one below the root ends. The name of the limit that
/// forbade it, if one did.
pub async fn tree_step(store: &SharedStore, root: &SessionRecord) -> Option<&'static str> {
    let there = tree_of(store, &root.tree).await;
    let live: Vec<_> = there.iter().filter(|session| !session.core.state.is_over()).collect();
    let some_live = live[rand::random_range(0..live.len())];
    if rand::random_ratio(1, 8) {
        if some_live.id != root.id {
            let mut ended = some_live.clone();
            ended.core.state = SessionState::Ended;
            commit(store, vec![Write::PutSession(Box::new(ended))]).await.expect("a session may always end");
        }
        return None;
    }
    // Also below some that are over.
    let parent =
        if rand::random_ratio(1, 8) { &there[rand::random_range(0..there.len())] } else { some_live };
    match commit(store, vec![child_of(parent)]).await {
        Ok(_) | Err(StoreError::ParentOver { .. }) => None,
        Err(StoreError::OverLimit(over)) => Some(over.name()),
        Err(other) => panic!("{other}"),
    }
}

/// How many sessions these are, and how many of them are not over.
pub fn count(tree: &[SessionRecord]) -> (u32, u32) {
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let live = tree.iter().filter(|session| !session.core.state.is_over()).count();
    (number(tree.len()), number(live))
}

/// Steps of a tree that are tried, and by how many at once.
pub const TREE_STEPS: usize = 1000;
/// See [`TREE_STEPS`].
pub const TREE_TASKS: usize = 64;

/// The sessions of a tree, newest first.
pub async fn tree_of(store: &SharedStore, tree: &TreeId) -> Vec<SessionRecord> {
    let filter = SessionFilter { tree: Some(tree.clone()), limit: usize::MAX, ..SessionFilter::default() };
    store.sessions(filter).await.expect("read")
}

fn child_of(parent: &SessionRecord) -> Write {
    let id = SessionId::new(Timestamp::from_micros(0), rand::random());
    Write::PutSession(Box::new(SessionRecord {
        id,
        parent: Some(parent.id.clone()),
        core: Session::new(Some(TurnNumber(1))),
        ..parent.clone()
    }))
}

fn depth_in(tree: &[SessionRecord], session: &SessionRecord) -> u32 {
    let parent = session.parent.as_ref().and_then(|id| tree.iter().find(|other| other.id == *id));
    parent.map_or(0, |parent| depth_in(tree, parent) + 1)
}

/// Whoever ends the children of a session that ends finds them all.
pub async fn a_session_that_is_ending_starts_no_children(place: &impl Place) {
    let store = place.open().await;
    for state in SessionState::ALL {
        let mut parent = seed(&store).await;
        parent.core.state = state;
        commit(&store, vec![Write::PutSession(Box::new(parent.clone()))]).await.expect("any state is kept");
        let outcome = commit(&store, vec![child_of(&parent)]).await;
        let refused =
            matches!(&outcome, Err(StoreError::ParentOver { parent: found }) if *found == parent.id);
        assert_eq!(refused, state.takes_no_children(), "{state:?}: {outcome:?}");
        let expected = if refused { 1 } else { 2 };
        assert_eq!(tree_of(&store, &parent.tree).await.len(), expected, "{state:?}");
    }
    let (one, other) = (seed(&store).await, seed(&store).await);
    let stranger = SessionRecord { tree: other.tree.clone(), ..one.clone() };
    let outcome = commit(&store, vec![child_of(&stranger)]).await;
    assert!(matches!(outcome, Err(StoreError::Missing { kind: "session", .. })), "a parent of another tree");
    store.close().await.expect("close");
}

/// Wall time is a limit of the tree: nothing new begins in it, and what it has stays.
pub async fn a_tree_that_is_out_of_time_starts_and_calls_nothing(place: &impl Place) {
    let store = place.open().await;
    let limits = |ms| TreeLimits { max_wall_ms: Some(ms), ..TreeLimits::default() };
    let root = seed_with(&store, limits(3_600_000), None).await;
    commit(&store, vec![child_of(&root), reserve(charge(), &root, 1)]).await.expect("in time");
    let out_of_time = Write::PutTree { tree: root.tree.clone(), limits: limits(0) };
    commit(&store, vec![out_of_time]).await.expect("limits may change");
    let is_late =
        |outcome| matches!(outcome, Err(StoreError::OverLimit(OverLimit::WallTime { limit_ms: 0, .. })));
    // The clock of a store goes on by itself, or with each commit.
    while !is_late(commit(&store, vec![child_of(&root)]).await) {}
    assert!(is_late(commit(&store, vec![reserve(charge(), &root, 1)]).await));
    commit(&store, vec![append(&root.id, "the rest")]).await.expect("what is there goes on");
    store.close().await.expect("close");
}

/// Invariant 1, `commit_before_announce`.
pub async fn a_doorbell_rings_after_the_commit_and_only_then(place: &impl Place) {
    let store = place.open().await;
    let record = seed_with(&store, tokens(1), None).await;
    let other = seed(&store).await;
    commit(&store, vec![append(&record.id, "before")]).await.expect("append");
    let mut bell = store.doorbell(&record.id).await.expect("doorbell");
    assert_eq!(*bell.borrow_and_update(), 1, "it starts with what is there");
    commit(&store, vec![append(&other.id, "elsewhere")]).await.expect("append");
    let refused = commit(&store, vec![append(&record.id, "x"), reserve(charge(), &record, 2)]).await;
    assert!(matches!(refused, Err(StoreError::OverLimit(_))));
    assert!(!bell.has_changed().expect("open"), "no ring for others, nor for what was refused");

    let writer = {
        let (store, id) = (store.clone(), record.id.clone());
        tokio::spawn(async move {
            for n in 0..200 {
                commit(&store, vec![append(&id, format!("{n}"))]).await.expect("append");
            }
        })
    };
    let mut seen = 1;
    while seen < 201 {
        bell.changed().await.expect("open");
        let next = *bell.borrow_and_update();
        assert!(next > seen, "only grows");
        let page = store.events(&record.id, seen, 1000).await.expect("events");
        assert!(page.len() as u64 >= next - seen, "what was announced is there");
        seen = next;
    }
    writer.await.expect("writer");

    commit(&store, vec![Write::DeleteProject(record.project)]).await.expect("delete");
    bell.changed().await.expect_err("closed with its session");
    let nobody = store.doorbell(&record.id).await;
    assert!(matches!(nobody, Err(StoreError::Missing { .. })));
    let mut last = store.doorbell(&other.id).await.expect("doorbell");
    last.borrow_and_update();
    store.close().await.expect("close");
    last.changed().await.expect_err("closed with its store");
}

/// What was acknowledged is there after a restart, and numbering goes on.
pub async fn reopening_keeps_everything(place: &impl Place) {
    let store = place.open().await;
    let mut record = seed_with(&store, tokens(100), None).await;
    let open = charge();
    record.title = "changed".into();
    record.core.state = SessionState::Idle;
    let writes = vec![
        append(&record.id, "one"),
        Write::PutSession(Box::new(record.clone())),
        Write::PutTurn(turn(&record.id, 2, TurnState::Queued)),
        Write::PutTurn(turn(&record.id, 1, TurnState::Completed)),
        Write::PutDriver { session: record.id.clone(), state: b"\x00\xffstate".to_vec() },
        reserve(open, &record, 7),
    ];
    let committed = commit(&store, writes).await.expect("commit");
    let project = store.project(record.project).await.expect("read").expect("there");
    let workspaces = store.workspaces(record.project).await.expect("read");
    store.close().await.expect("close");

    let store = place.open().await;
    let events = log(&store, &record.id).await;
    assert_eq!(events, [Event { index: 0, at: committed.at, body: event("one") }]);
    assert_eq!(store.session(&record.id).await.expect("read"), Some(record.clone()));
    assert_eq!(store.projects().await.expect("read"), [project]);
    assert_eq!(store.workspaces(record.project).await.expect("read"), workspaces);
    assert_eq!(store.workspace(record.workspace).await.expect("read").as_ref(), workspaces.first());
    let turns = store.turns(&record.id).await.expect("read");
    assert_eq!(turns, [turn(&record.id, 1, TurnState::Completed), turn(&record.id, 2, TurnState::Queued)]);
    assert_eq!(store.driver(&record.id).await.expect("read").as_deref(), Some(&b"\x00\xffstate"[..]));
    let charges = store.open_charges().await.expect("read");
    assert_eq!(charges.len(), 1);
    assert_eq!((charges[0].charge, charges[0].amount.tokens), (open, 7));
    assert_eq!((&charges[0].tree, &charges[0].session), (&record.tree, &record.id));
    let next = commit(&store, vec![append(&record.id, "two")]).await.expect("append");
    assert_eq!(next.first_index, [1]);
    assert_eq!(*store.doorbell(&record.id).await.expect("doorbell").borrow(), 2);
    store.check().await.expect("healthy");
    store.close().await.expect("close");
}

/// Payloads on both sides of the bound, and every field of an event.
pub async fn large_payloads_come_back_as_they_were(place: &impl Place) {
    let store = place.open().await;
    let id = seed(&store).await.id;
    let mut full = EventBody::new(EventKind::ToolResult).turn(TurnNumber(3)).text("t\u{0}\n\u{1F600}");
    full.tool_name = Some("run".into());
    full.tool_call_id = Some("call".into());
    full.arguments = Some(serde_json::json!({ "n": 18_446_744_073_709_551_615_u64, "x": [null, -1.5] }));
    full.result = Some(serde_json::json!("r".repeat(INLINE_PAYLOAD_MAX)));
    let mut events = vec![full];
    for size in [0, INLINE_PAYLOAD_MAX - 100, INLINE_PAYLOAD_MAX, 3 * 1024 * 1024] {
        events.push(event("x".repeat(size)));
    }
    // The same content twice is no trouble.
    events.push(event("x".repeat(INLINE_PAYLOAD_MAX)));
    let writes = vec![Write::Append { session: id.clone(), events: events.clone() }];
    commit(&store, writes).await.expect("append");
    store.close().await.expect("close");
    let store = place.open().await;
    let bodies: Vec<EventBody> = log(&store, &id).await.into_iter().map(|event| event.body).collect();
    assert!(bodies == events, "the same content");
    store.close().await.expect("close");
}

/// Limits by count and by bytes, and reading past the end.
pub async fn events_are_read_in_pages_without_a_gap(place: &impl Place) {
    let store = place.open().await;
    let id = seed(&store).await.id;
    let events = (0..40).map(|n| event(format!("{n} {}", "x".repeat(300 * 1024)))).collect();
    commit(&store, vec![Write::Append { session: id.clone(), events }]).await.expect("append");
    let page = store.events(&id, 5, 3).await.expect("events");
    assert_eq!(page.iter().map(|event| event.index).collect::<Vec<_>>(), [5, 6, 7]);
    let page = store.events(&id, 0, usize::MAX).await.expect("events");
    assert!((2..40).contains(&page.len()), "bounded by bytes: {}", page.len());
    assert_eq!(log(&store, &id).await.len(), 40);
    for (from, limit) in [(40, 10), (u64::MAX, 10), (0, 0)] {
        assert_eq!(store.events(&id, from, limit).await.expect("events"), []);
    }
    let nobody = SessionId::new(Timestamp::from_micros(9), 9);
    assert!(matches!(store.events(&nobody, 0, 1).await, Err(StoreError::Missing { .. })));
    store.close().await.expect("close");
}

/// Filters by project, status and place, and the count of those that live.
pub async fn sessions_are_listed_newest_first_by_filter(place: &impl Place) {
    let store = place.open().await;
    let mut made = Vec::new();
    for n in 0..6 {
        let mut record = seed(&store).await;
        if n % 3 == 0 {
            record.core.state = if n == 0 { SessionState::Ended } else { SessionState::Failed };
            commit(&store, vec![Write::PutSession(Box::new(record.clone()))]).await.expect("put");
        }
        made.push(record);
    }
    let list = async |projects: Option<Vec<ProjectId>>, status, before: Option<SessionId>, limit| {
        let filter = SessionFilter { projects, status, tree: None, before, limit };
        let found = store.sessions(filter).await.expect("sessions");
        found.iter().map(|found| made.iter().position(|m| m == found).expect("known")).collect::<Vec<_>>()
    };
    assert_eq!(list(None, None, None, 10).await, [5, 4, 3, 2, 1, 0]);
    assert_eq!(list(None, None, None, 2).await, [5, 4]);
    assert_eq!(list(None, None, Some(made[4].id.clone()), 2).await, [3, 2]);
    assert!(list(None, None, Some(made[0].id.clone()), 2).await.is_empty());
    assert_eq!(list(None, Some(SessionStatus::Active), None, usize::MAX).await, [5, 4, 2, 1]);
    assert_eq!(list(None, Some(SessionStatus::Completed), None, 10).await, [0]);
    assert_eq!(list(None, Some(SessionStatus::Failed), None, 10).await, [3]);
    let projects = vec![made[1].project, made[3].project, project().id];
    assert_eq!(list(Some(projects.clone()), None, None, 10).await, [3, 1]);
    assert_eq!(list(Some(projects), Some(SessionStatus::Active), None, 10).await, [1]);
    assert!(list(Some(Vec::new()), None, None, 10).await.is_empty());
    assert_eq!(store.active_sessions().await.expect("count"), 4);
    let mut counts = store.active_by_project().await.expect("counts");
    counts.retain(|(_, active)| *active > 0);
    counts.sort();
    let mut expected: Vec<(ProjectId, u64)> = Vec::new();
    for at in [5, 4, 2, 1] {
        match expected.iter_mut().find(|(id, _)| *id == made[at].project) {
            Some((_, active)) => *active += 1,
            None => expected.push((made[at].project, 1)),
        }
    }
    expected.sort();
    assert_eq!(counts, expected);
    let projects = store.projects().await.expect("projects").len();
    assert_eq!(store.active_by_project().await.expect("counts").len(), projects, "also those without any");
    let before = Some(SessionId::new(Timestamp::from_micros(9), 9));
    let lost = store.sessions(SessionFilter { before, limit: 1, ..SessionFilter::default() }).await;
    assert!(matches!(lost, Err(StoreError::Missing { .. })));
    store.close().await.expect("close");
}

/// Numbers are given once, also after a deletion and a restart.
pub async fn project_numbers_are_never_used_again(place: &impl Place) {
    let store = place.open().await;
    let number =
        async |store: &SharedStore, id| store.project(id).await.expect("read").expect("there").number;
    let [first, second, third] = [project(), project(), project()];
    commit(&store, vec![Write::PutProject(first.clone()), Write::PutProject(second.clone())])
        .await
        .expect("put");
    assert_eq!((number(&store, first.id).await, number(&store, second.id).await), (1, 2));
    commit(&store, vec![Write::DeleteProject(second.id)]).await.expect("delete");
    store.close().await.expect("close");
    let store = place.open().await;
    commit(&store, vec![Write::PutProject(third.clone())]).await.expect("put");
    assert_eq!(number(&store, third.id).await, 3);
    let renamed = ProjectRecord { name: "renamed".into(), number: 0, ..first.clone() };
    commit(&store, vec![Write::PutProject(renamed)]).await.expect("put");
    assert_eq!(number(&store, first.id).await, 1, "kept");
    let taken = ProjectRecord { number: 3, ..project() };
    commit(&store, vec![Write::PutProject(taken)]).await.expect_err("a number is not given twice");
    let names: Vec<String> =
        store.projects().await.expect("read").into_iter().map(|project| project.name).collect();
    assert_eq!(names, ["sample", "renamed"], "newest first");
    store.close().await.expect("close");
}

/// All of it, and nothing of its neighbours; what does not exist can be deleted.
pub async fn deleting_a_project_removes_what_is_in_it(place: &impl Place) {
    let store = place.open().await;
    let (gone, kept) = (seed(&store).await, seed(&store).await);
    for record in [&gone, &kept] {
        let events = (0..5000).map(|n| event(format!("{n}"))).collect();
        let writes = vec![
            Write::Append { session: record.id.clone(), events },
            Write::PutTurn(turn(&record.id, 1, TurnState::Running)),
            Write::PutDriver { session: record.id.clone(), state: vec![1] },
            reserve(charge(), record, 5),
        ];
        commit(&store, writes).await.expect("commit");
    }
    let delete = || vec![Write::DeleteProject(gone.project)];
    commit(&store, delete()).await.expect("delete");
    commit(&store, delete()).await.expect("again");
    assert_eq!(store.project(gone.project).await.expect("read"), None);
    assert_eq!(store.workspace(gone.workspace).await.expect("read"), None);
    assert_eq!(store.session(&gone.id).await.expect("read"), None);
    assert_eq!(store.turns(&gone.id).await.expect("read"), []);
    assert_eq!(store.driver(&gone.id).await.expect("read"), None);
    assert_eq!(store.ledger(&gone.tree).await.expect("read"), None);
    assert!(matches!(store.events(&gone.id, 0, 1).await, Err(StoreError::Missing { .. })));
    let late = commit(&store, vec![append(&gone.id, "late")]).await;
    assert!(matches!(late, Err(StoreError::Missing { kind: "session", .. })));

    let delete = vec![Write::DeleteWorkspace(kept.workspace), Write::DeleteWorkspace(gone.workspace)];
    commit(&store, delete).await.expect("delete");
    assert_eq!(store.workspace(kept.workspace).await.expect("read"), None);
    commit(&store, vec![Write::PutSession(Box::new(kept.clone()))])
        .await
        .expect("a session outlives its workspace");
    assert_eq!(log(&store, &kept.id).await.len(), 5000);
    assert_eq!(store.open_charges().await.expect("read").len(), 1);
    store.close().await.expect("close");
}

/// Settling what is not open changes nothing, and so does reserving twice.
pub async fn charges_settle_once(place: &impl Place) {
    let store = place.open().await;
    let record = seed_with(&store, tokens(100), None).await;
    let charge = charge();
    for _ in 0..2 {
        commit(&store, vec![reserve(charge, &record, 80)]).await.expect("reserve");
    }
    let used = Amount::new(90, MicroUsd(1_500));
    for _ in 0..2 {
        commit(&store, vec![Write::Settle { charge, used }]).await.expect("settle");
    }
    let unknown = Write::Settle { charge: self::charge(), used };
    commit(&store, vec![unknown, reserve(charge, &record, 80)]).await.expect("nothing");
    let ledger = store.ledger(&record.tree).await.expect("read").expect("there");
    assert_eq!((ledger.used, ledger.reserved), (used, Amount::default()));
    assert_eq!(store.open_charges().await.expect("read"), []);
    let huge = Write::Settle { charge, used: Amount::new(u64::MAX, MicroUsd(u64::MAX)) };
    commit(&store, vec![huge]).await.expect("nothing");

    let free = seed(&store).await;
    let most = self::charge();
    commit(&store, vec![reserve(most, &free, u64::MAX)]).await.expect("no limit");
    commit(&store, vec![reserve(self::charge(), &free, u64::MAX)]).await.expect("saturates");
    commit(&store, vec![Write::Settle { charge: most, used }]).await.expect("settle");
    let over = commit(&store, vec![reserve(self::charge(), &record, u64::MAX)]).await;
    assert!(matches!(over, Err(StoreError::OverLimit(_))));
    store.close().await.expect("close");
}

/// Each missing thing is named.
pub async fn what_a_write_needs_must_exist(place: &impl Place) {
    let store = place.open().await;
    let there = seed(&store).await;
    let nobody = SessionId::new(Timestamp::from_micros(9), 9);
    let stranger = |change: fn(&mut SessionRecord)| {
        let mut record =
            SessionRecord { id: SessionId::new(Timestamp::from_micros(8), rand::random()), ..there.clone() };
        change(&mut record);
        Write::PutSession(Box::new(record))
    };
    let amount = Amount::default();
    let cases = [
        ("session", append(&nobody, "x")),
        ("session", Write::PutTurn(turn(&nobody, 1, TurnState::Queued))),
        ("session", Write::PutDriver { session: nobody.clone(), state: vec![] }),
        (
            "session",
            Write::Reserve { charge: charge(), tree: there.tree.clone(), session: nobody.clone(), amount },
        ),
        ("tree", Write::Reserve { charge: charge(), tree: tree(), session: there.id.clone(), amount }),
        ("project", Write::PutWorkspace(workspace(project().id))),
        ("project", stranger(|record| record.project = project().id)),
        ("workspace", stranger(|record| record.workspace = workspace(record.project).id)),
        ("tree", stranger(|record| record.tree = tree())),
        ("session", stranger(|record| record.parent = Some(SessionId::new(Timestamp::from_micros(9), 9)))),
    ];
    for (expected, write) in cases {
        match commit(&store, vec![append(&there.id, "x"), write.clone()]).await {
            Err(StoreError::Missing { kind, .. }) => assert_eq!(kind, expected, "{write:?}"),
            other => panic!("{write:?}: {other:?}"),
        }
        commit(&store, vec![write]).await.expect_err("alone as well");
    }
    let impossible = Commit { writes: vec![append(&there.id, "x")], fence: Some(Epoch(u64::MAX)) };
    store.commit(impossible).await.expect_err("an epoch that was never given out");
    assert_eq!(log(&store, &there.id).await, []);
    assert_eq!(store.session(&nobody).await.expect("read"), None);
    assert_eq!(store.ledger(&tree()).await.expect("read"), None);
    store.close().await.expect("close");
}

/// Closing is idempotent, also from many at once.
pub async fn a_closed_store_refuses_and_has_finished_what_was_queued(place: &impl Place) {
    let store = place.open().await;
    let record = seed(&store).await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..200 {
        let (store, id) = (store.clone(), record.id.clone());
        tasks.spawn(async move { commit(&store, vec![append(&id, format!("{n}"))]).await.ok().map(|_| n) });
    }
    let (one, two) = tokio::join!(store.close(), store.close());
    one.expect("close");
    two.expect("close");
    let acknowledged: BTreeSet<i32> = tasks.join_all().await.into_iter().flatten().collect();
    let closed = |outcome: Result<Committed, StoreError>| matches!(outcome, Err(StoreError::Closed));
    assert!(closed(commit(&store, vec![append(&record.id, "late")]).await));
    assert!(matches!(store.session(&record.id).await, Err(StoreError::Closed)));
    assert!(matches!(store.doorbell(&record.id).await, Err(StoreError::Closed)));
    assert!(matches!(store.check().await, Err(StoreError::Closed)));
    assert!(matches!(store.new_epoch().await, Err(StoreError::Closed)));
    store.close().await.expect("still closed");

    let store = place.open().await;
    let kept: BTreeSet<i32> =
        texts(&log(&store, &record.id).await).iter().map(|text| text.parse().expect("a number")).collect();
    assert_eq!(kept, acknowledged, "what was acknowledged, and nothing that was refused");
    store.close().await.expect("close");
}
