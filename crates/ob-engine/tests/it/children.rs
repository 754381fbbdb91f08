//! Sessions that sessions start: whose they are, what bounds them, who has a say over them, and how they end.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use ob_core::Epoch;
use ob_core::EventKind;
use ob_core::MicroUsd;
use ob_core::Principal;
use ob_core::ProjectId;
use ob_core::Refusal;
use ob_core::RefusalCode;
use ob_core::SessionId;
use ob_core::ledger::TreeLimits;
use ob_core::operation::Operation;
use ob_core::session::SessionState;
use ob_engine::Engine;
use ob_sandbox::Backend;
use ob_sandbox::SandboxEnd;
use ob_sandbox::SandboxError;
use ob_sandbox::SandboxSpec;
use ob_sandbox::Started;
use ob_store::Commit;
use ob_store::Store as _;
use ob_store::Write;
use serde_json::Value;
use serde_json::json;
use tokio::sync::watch;

use super::world::World;
use super::world::ask;
use super::world::project;
use super::world::refused_to;
use super::world::spawn;

/// A backend whose sandboxes are not there before they are let: so long, sessions start and are not over.
pub(crate) struct Held(watch::Sender<bool>);

// === impl Held ===

impl Held {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(watch::Sender::new(false)))
    }

    /// No start takes any longer: each fails.
    pub(crate) fn let_go(&self) {
        self.0.send_replace(true);
    }
}

#[async_trait]
impl Backend for Held {
    fn name(&self) -> &'static str {
        "held"
    }

    async fn check(&self) -> Result<(), Refusal> {
        Ok(())
    }

    async fn start(&self, spec: &SandboxSpec) -> Result<Started, SandboxError> {
        self.0.subscribe().wait_for(|is_free| *is_free).await.ok();
        Err(SandboxError::Failed { id: spec.id.clone(), what: "it was only held".to_owned() })
    }

    async fn adopt(&self, _: &str, _: &Path, _: Epoch) -> Result<Option<SandboxEnd>, SandboxError> {
        std::future::pending().await
    }

    async fn ended(&self, _: &str, _: &Path) -> SandboxEnd {
        std::future::pending().await
    }

    async fn end(&self, _: &str, _: &Path, _: Epoch) -> Result<(), SandboxError> {
        Ok(())
    }
}

pub(crate) fn agent(session: &SessionId, project: ProjectId) -> Principal {
    Principal::Session { id: session.clone(), project }
}

fn child_params(project: ProjectId, more: Value) -> Value {
    let mut params = json!({ "project_id": project, "message": "a part of it", "create_workspace": false });
    params.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    params
}

/// A child that a session starts.
pub(crate) async fn child(
    engine: &Arc<Engine>,
    parent: &SessionId,
    project: ProjectId,
    more: Value,
) -> SessionId {
    let params = child_params(project, more);
    let accepted = engine.call(&agent(parent, project), Operation::SessionSpawn, params).await;
    serde_json::from_value(accepted.expect("a child")["session_id"].clone()).expect("an id")
}

pub(crate) async fn view(engine: &Arc<Engine>, session: &SessionId) -> Value {
    ask(engine, Operation::SessionGet, json!({ "session_id": session })).await
}

fn of<'a>(shown: &'a Value, name: &str) -> &'a Value {
    let limits = shown["limits"].as_array().expect("limits");
    limits.iter().find(|limit| limit["name"] == name).expect("every limit is told")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_is_in_its_parents_tree_and_in_its_workspace_or_a_new_one() {
    let world = World::new().await;
    let held = Held::new();
    let engine = world.engine(Arc::clone(&held) as Arc<dyn Backend>).await;
    let own = project(&engine, json!({})).await;
    let root = spawn(&engine, own, json!({ "autonomy_level": "low", "tools_disallowed": ["run"] })).await;
    let shared = child(&engine, &root, own, json!({})).await;
    let apart = child(&engine, &root, own, json!({ "create_workspace": true })).await;
    let [parent, shared_view, apart_view] =
        [view(&engine, &root).await, view(&engine, &shared).await, view(&engine, &apart).await];
    for child in [&shared_view, &apart_view] {
        assert_eq!((&child["parent_id"], &child["tree_id"]), (&json!(root), &parent["tree_id"]));
        assert_eq!(child["model"], parent["model"]);
        assert_eq!(child["agent_options"], parent["agent_options"], "as its parent has it");
    }
    assert_eq!(shared_view["workspace_id"], parent["workspace_id"]);
    assert_ne!(apart_view["workspace_id"], parent["workspace_id"]);
    assert_eq!(parent["parent_id"], Value::Null);
    let again = json!({
        "project_id": own, "message": "more", "workspace_id": parent["workspace_id"], "new_session": false,
    });
    let resumed = ask(&engine, Operation::SessionSpawn, again).await;
    assert_eq!(resumed["session_id"], json!(root), "a message to the workspace is none to a child there");
    let log = world.store.log(&root);
    let told: Vec<_> = log.iter().filter_map(|event| event.body.data.as_ref()?.get("child")).collect();
    assert_eq!(told, [&json!(shared), &json!(apart)], "the parent's log tells of both");
    held.let_go();
    engine.shutdown(false).await;
}

/// The runaway replay: whoever starts children without end is stopped by each limit, and an event says by which.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_spawns_without_end_is_stopped_by_each_limit_and_told_which() {
    let world = World::new().await;
    let held = Held::new();
    let engine = world.engine(Arc::clone(&held) as Arc<dyn Backend>).await;
    let limits = |agents: u32, live: u32, depth: u32| json!({ "max_agents_per_session": agents, "max_live_agents": live, "max_recursion_depth": depth });
    for (bounds, name, value, fits) in [
        (limits(5, 5, 9), "agents", 5, 4),
        (limits(50, 3, 9), "live_agents", 3, 2),
        (limits(50, 50, 0), "depth", 0, 0),
    ] {
        let own = project(&engine, bounds).await;
        let root = spawn(&engine, own, json!({})).await;
        for _ in 0..fits {
            child(&engine, &root, own, json!({})).await;
        }
        for _ in 0..3 {
            let params = child_params(own, json!({}));
            let refusal = refused_to(&engine, &agent(&root, own), Operation::SessionSpawn, params).await;
            assert_eq!(refusal.code, RefusalCode::LimitExceeded, "{refusal}");
            assert!(refusal.message.contains(&value.to_string()), "its value is told: {refusal}");
        }
        let log = world.store.log(&root);
        let events: Vec<_> = log.iter().filter(|event| event.body.kind == EventKind::Error).collect();
        assert_eq!(events.len(), 3, "each refusal is an event");
        let data = events[0].body.data.as_ref().expect("details");
        assert_eq!((&data["code"], &data["limit"]), (&json!("limit_exceeded"), &json!(name)));
        assert_eq!((&data["value"], &data["source"]), (&json!(value), &json!("tree")));

        let shown = ask(&engine, Operation::ConfigLimits, json!({ "session_id": root })).await;
        let reached = of(&shown, name);
        assert_eq!((&reached["limit"], &reached["remaining"]), (&json!(value), &json!(0)), "{shown}");
    }
    held.let_go();
    engine.shutdown(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn depth_counts_from_the_root_and_what_is_left_is_shown_to_each_session() {
    let world = World::new().await;
    let held = Held::new();
    let engine = world.engine(Arc::clone(&held) as Arc<dyn Backend>).await;
    let own = project(&engine, json!({})).await;
    let shown = ask(&engine, Operation::ConfigLimits, json!({ "project_id": own })).await;
    let plain = json!({ "name": "depth", "unit": "levels", "limit": 3, "source": "server" });
    assert_eq!(of(&shown, "depth"), &plain);
    assert_eq!(
        (&of(&shown, "agents")["limit"], &of(&shown, "live_agents")["limit"]),
        (&json!(50), &json!(50))
    );
    assert_eq!(of(&shown, "time")["source"], "nobody");
    let mut deepest = spawn(&engine, own, json!({})).await;
    for level in 0..3 {
        let shown = ask(&engine, Operation::ConfigLimits, json!({ "session_id": deepest })).await;
        let depth = of(&shown, "depth");
        assert_eq!((&depth["used"], &depth["remaining"]), (&json!(level), &json!(3 - level)));
        deepest = child(&engine, &deepest, own, json!({})).await;
    }
    let params = child_params(own, json!({}));
    let refusal = refused_to(&engine, &agent(&deepest, own), Operation::SessionSpawn, params).await;
    assert_eq!(refusal.code, RefusalCode::LimitExceeded);
    assert!(refusal.message.contains("max_recursion_depth"), "{refusal}");
    let shown = ask(&engine, Operation::ConfigLimits, json!({ "session_id": deepest })).await;
    let agents = of(&shown, "agents");
    assert_eq!(
        (&agents["used"], &agents["remaining"]),
        (&json!(4), &json!(46)),
        "children and grandchildren"
    );
    held.let_go();
    engine.shutdown(false).await;
}

/// Trees of before there were limits of sessions have none in the store.
#[tokio::test(flavor = "multi_thread")]
async fn a_tree_that_an_earlier_version_made_is_limited_from_its_first_child_on() {
    let world = World::new().await;
    let held = Held::new();
    let engine = world.engine(Arc::clone(&held) as Arc<dyn Backend>).await;
    let own = project(&engine, json!({ "max_agents_per_session": 2 })).await;
    let root = spawn(&engine, own, json!({})).await;
    let tree = world.store.session(&root).await.expect("read").expect("there").tree;
    let limits = TreeLimits { max_cost: Some(MicroUsd(7)), ..TreeLimits::default() };
    let old = Commit { writes: vec![Write::PutTree { tree: tree.clone(), limits }], fence: None };
    world.store.commit(old).await.expect("as an earlier version left it");
    child(&engine, &root, own, json!({})).await;
    let params = child_params(own, json!({}));
    let refusal = refused_to(&engine, &agent(&root, own), Operation::SessionSpawn, params).await;
    assert_eq!(refusal.code, RefusalCode::LimitExceeded, "{refusal}");
    let ledger = world.store.ledger(&tree).await.expect("read").expect("there");
    assert_eq!(ledger.limits.max_cost, Some(MicroUsd(7)), "what it may spend stays");
    held.let_go();
    engine.shutdown(false).await;
}

/// Invariant 8, `never_weaker`.
#[tokio::test(flavor = "multi_thread")]
async fn a_child_may_not_ask_for_more_than_its_parent_has() {
    let world = World::new().await;
    let held = Held::new();
    let engine = world.engine(Arc::clone(&held) as Arc<dyn Backend>).await;
    let (own, other) = (project(&engine, json!({})).await, project(&engine, json!({})).await);
    let told = json!({ "autonomy_level": "medium", "tools_allowed": ["read", "run"] });
    let root = spawn(&engine, own, told).await;
    let neighbour = spawn(&engine, own, json!({})).await;
    let elsewhere = view(&engine, &neighbour).await["workspace_id"].clone();
    for more in [
        json!({ "autonomy_level": "high" }),
        json!({ "tools_allowed": ["read", "write"] }),
        json!({ "workspace_id": elsewhere }),
        json!({ "in_place": true }),
        json!({ "agent": "codex" }),
    ] {
        let params = child_params(own, more.clone());
        let refusal = refused_to(&engine, &agent(&root, own), Operation::SessionSpawn, params).await;
        assert_eq!(refusal.code, RefusalCode::Forbidden, "{more}: {refusal}");
    }
    let params = child_params(other, json!({}));
    let refusal = refused_to(&engine, &agent(&root, own), Operation::SessionSpawn, params).await;
    assert_eq!(refusal.code, RefusalCode::NotFound, "another project: {refusal}");
    // The positive control: as much as its parent, or less.
    let less =
        child(&engine, &root, own, json!({ "autonomy_level": "low", "tools_allowed": ["read"] })).await;
    assert_eq!(view(&engine, &less).await["agent_options"]["autonomy"], "low");
    let same = child(&engine, &root, own, json!({})).await;
    let options = &view(&engine, &same).await["agent_options"];
    assert_eq!(
        (&options["autonomy"], &options["tools_allowed"]),
        (&json!("medium"), &json!(["read", "run"]))
    );
    held.let_go();
    engine.shutdown(false).await;
}

/// Every operation on a session, by its parent, its child, its sibling, a stranger and itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_has_a_say_over_those_below_it_and_finds_nobody_else() {
    let world = World::new().await;
    let held = Held::new();
    let engine = world.engine(Arc::clone(&held) as Arc<dyn Backend>).await;
    let own = project(&engine, json!({})).await;
    let root = spawn(&engine, own, json!({})).await;
    let one = child(&engine, &root, own, json!({})).await;
    let grandchild = child(&engine, &one, own, json!({})).await;
    let sibling = child(&engine, &root, own, json!({})).await;
    let stranger = spawn(&engine, own, json!({})).await;
    let looks =
        [Operation::SessionGet, Operation::SessionEvents, Operation::SessionResult, Operation::ConfigLimits];
    let steers = [Operation::SessionMessage, Operation::SessionInterrupt, Operation::SessionEnd];
    let params = |operation: Operation, session: &SessionId| match operation {
        Operation::SessionMessage => json!({ "session_id": session, "message": "more" }),
        Operation::SessionAnswer => json!({ "session_id": session, "answer": "blue" }),
        _ => json!({ "session_id": session }),
    };
    let asker = agent(&one, own);
    let answers = [Operation::SessionDiff, Operation::SessionAnswer];
    for operation in looks.into_iter().chain(steers).chain(answers) {
        for hidden in [&root, &sibling, &stranger] {
            let refusal = refused_to(&engine, &asker, operation, params(operation, hidden)).await;
            assert_eq!(refusal.code, RefusalCode::NotFound, "{operation:?}: {refusal}");
        }
    }
    for operation in steers.into_iter().chain([Operation::SessionAnswer]) {
        let refusal = refused_to(&engine, &asker, operation, params(operation, &one)).await;
        assert_eq!(refusal.code, RefusalCode::Forbidden, "{operation:?} itself: {refusal}");
    }
    for (operation, params) in [
        (Operation::ProjectGet, json!({ "project_id": own })),
        (Operation::ProjectDelete, json!({ "project_id": own })),
        (Operation::ProjectList, json!({})),
        (Operation::WorkspaceList, json!({ "project_id": own })),
        (Operation::ConfigLimits, json!({ "project_id": own })),
        (Operation::TokenList, json!({})),
        (Operation::TokenCreate, json!({ "name": "mine", "scope": "admin" })),
        (Operation::AuditList, json!({})),
        (Operation::ServerStatus, json!({})),
        (Operation::ServerStop, json!({})),
    ] {
        let refusal = refused_to(&engine, &asker, operation, params).await;
        assert_eq!(refusal.code, RefusalCode::Forbidden, "{operation:?}: {refusal}");
    }
    // The positive control: itself, and those below it.
    for session in [&one, &grandchild] {
        for operation in looks {
            engine.call(&asker, operation, params(operation, session)).await.expect("it may look");
        }
    }
    let listed = engine.call(&asker, Operation::SessionList, json!({})).await.expect("allowed");
    let ids: Vec<_> = listed.as_array().expect("a list").iter().map(|s| s["session_id"].clone()).collect();
    assert_eq!(ids, [json!(grandchild)], "those below it");
    let listed = engine.call(&agent(&root, own), Operation::SessionList, json!({ "before": sibling })).await;
    let listed = listed.expect("allowed");
    let ids: Vec<_> = listed.as_array().expect("a list").iter().map(|s| s["session_id"].clone()).collect();
    assert_eq!(ids, [json!(grandchild), json!(one)], "newest first");
    for operation in steers {
        engine.call(&asker, operation, params(operation, &grandchild)).await.expect("it may steer");
    }
    world.state(&grandchild, "ending", 1).await;
    held.let_go();
    engine.shutdown(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_ends_takes_those_below_along_and_starts_nobody_any_more() {
    let world = World::new().await;
    let held = Held::new();
    let engine = world.engine(Arc::clone(&held) as Arc<dyn Backend>).await;
    let own = project(&engine, json!({})).await;
    let root = spawn(&engine, own, json!({})).await;
    let middle = child(&engine, &root, own, json!({})).await;
    let below = child(&engine, &middle, own, json!({})).await;
    let sibling = child(&engine, &root, own, json!({})).await;
    ask(&engine, Operation::SessionEnd, json!({ "session_id": middle })).await;
    let params = child_params(own, json!({}));
    let refusal = refused_to(&engine, &agent(&middle, own), Operation::SessionSpawn, params).await;
    assert_eq!(refusal.code, RefusalCode::Conflict, "{refusal}");
    world.state(&below, "ending", 1).await;
    // The positive control: who is not below it goes on. It is looked at before the root fails, which ends it too.
    for stays in [&root, &sibling] {
        let state = world.store.session(stays).await.expect("read").expect("there").core.state;
        assert!(!state.takes_no_children(), "{state:?}");
    }
    held.let_go();
    for gone in [&middle, &below] {
        world.state(gone, "ended", 1).await;
    }
    let reason = view(&engine, &below).await["reason"].clone();
    assert!(reason.as_str().is_some_and(|reason| reason.contains(middle.as_str())), "{reason}");
    engine.shutdown(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_goes_down_to_those_who_work_below() {
    let world = World::new().await;
    let held = Held::new();
    let engine = world.engine(Arc::clone(&held) as Arc<dyn Backend>).await;
    let own = project(&engine, json!({})).await;
    let root = spawn(&engine, own, json!({})).await;
    let below = child(&engine, &child(&engine, &root, own, json!({})).await, own, json!({})).await;
    let stranger = spawn(&engine, own, json!({})).await;
    ask(&engine, Operation::SessionInterrupt, json!({ "session_id": root })).await;
    let result =
        |session: SessionId| ask(&engine, Operation::SessionResult, json!({ "session_id": session }));
    let stopped = result(below).await;
    assert_eq!((&stopped["done"], &stopped["stop"]), (&json!(true), &json!("cancelled")), "{stopped}");
    assert_eq!(result(stranger).await["done"], false, "the positive control");
    held.let_go();
    engine.shutdown(false).await;
}

/// A crash between the end of a parent and that of its children: the next start ends them.
#[tokio::test(flavor = "multi_thread")]
async fn children_that_a_crash_left_behind_end_with_the_next_start() {
    let world = World::new().await;
    let held = Held::new();
    let before = world.engine(Arc::clone(&held) as Arc<dyn Backend>).await;
    let own = project(&before, json!({})).await;
    let root = spawn(&before, own, json!({})).await;
    let middle = child(&before, &root, own, json!({})).await;
    let below = child(&before, &middle, own, json!({})).await;
    let sibling = spawn(&before, own, json!({})).await;
    let mut record = world.store.session(&root).await.expect("read").expect("there");
    record.core.state = SessionState::Ended;
    record.core.queue.clear();
    let fence = world.store.owner(&root);
    let ended = Commit { writes: vec![Write::PutSession(Box::new(record))], fence };
    world.store.commit(ended).await.expect("as its actor would, and then nothing more");
    for session in [&middle, &below] {
        let state = world.store.session(session).await.expect("read").expect("there").core.state;
        assert!(!state.takes_no_children(), "it goes on: {state:?}");
    }
    let after_held = Held::new();
    let after = world.engine(Arc::clone(&after_held) as Arc<dyn Backend>).await;
    for session in [&middle, &below] {
        world.state(session, "ending", 1).await;
    }
    let state = world.store.session(&sibling).await.expect("read").expect("there").core.state;
    assert!(!state.takes_no_children(), "the positive control: {state:?}");
    held.let_go();
    after_held.let_go();
    after.shutdown(false).await;
    before.shutdown(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spawn_that_waits_is_answered_with_what_came_of_it() {
    let world = World::new().await;
    let held = Held::new();
    let engine = world.engine(Arc::clone(&held) as Arc<dyn Backend>).await;
    let own = project(&engine, json!({})).await;
    let root = spawn(&engine, own, json!({})).await;
    let at_once = engine
        .call(&agent(&root, own), Operation::SessionSpawn, child_params(own, json!({ "wait_ms": 0 })))
        .await
        .expect("a child");
    assert_eq!(at_once["result"]["done"], false, "{at_once}");
    let first: SessionId = serde_json::from_value(at_once["session_id"].clone()).expect("an id");

    let waiting = {
        let (engine, asker) = (Arc::clone(&engine), agent(&root, own));
        let params = child_params(own, json!({ "wait_ms": 60_000 }));
        tokio::spawn(async move { engine.call(&asker, Operation::SessionSpawn, params).await })
    };
    // It is there while its spawn waits.
    let told = world
        .until(&root, "the second child", |log| {
            log.iter()
                .filter(|event| event.body.data.as_ref().is_some_and(|data| data["child"].is_string()))
                .count()
                == 2
        })
        .await;
    let child =
        told.iter().rev().find_map(|event| event.body.data.as_ref()?.get("child").cloned()).expect("told");
    ask(&engine, Operation::SessionEnd, json!({ "session_id": child })).await;
    let accepted = waiting.await.expect("it does not panic").expect("a child");
    assert_eq!(accepted["session_id"], child);
    let result = &accepted["result"];
    assert_eq!((&result["done"], &result["stop"]), (&json!(true), &json!("cancelled")), "{result}");
    assert_eq!(result["reason"], "ended by operator");

    let params = child_params(own, json!({ "wait_ms": 60_001 }));
    let refusal = refused_to(&engine, &agent(&root, own), Operation::SessionSpawn, params).await;
    assert_eq!(refusal.code, RefusalCode::InvalidArgument);
    let params = json!({ "session_id": first, "turn": 7 });
    let refusal = refused_to(&engine, &agent(&root, own), Operation::SessionResult, params).await;
    assert_eq!(refusal.code, RefusalCode::NotFound);
    // A server that stops keeps nobody waiting.
    let waiting = {
        let (engine, asker) = (Arc::clone(&engine), agent(&root, own));
        let params = json!({ "session_id": first, "wait_ms": 60_000 });
        tokio::spawn(async move { engine.call(&asker, Operation::SessionResult, params).await })
    };
    held.let_go();
    engine.shutdown(false).await;
    waiting.await.expect("it does not panic").ok();
}
