//! What sessions leave behind in a server that outlives them: nothing.

use std::sync::Arc;

use ob_core::SessionId;
use ob_core::operation::Operation;
use ob_engine::Engine;
use ob_store::Store as _;
use ob_telemetry::Metrics;
use serde_json::json;

use super::world::Broken;
use super::world::World;
use super::world::ask;
use super::world::eventually;
use super::world::project;
use super::world::spawn;

/// Sessions in all, unless `OUBLIETTE_CHURN_SESSIONS` says how many: `make soak` has 10,000 of them come and go.
const SESSIONS: usize = 500;
/// Sessions of a project, which come at once and go with it.
const AT_ONCE: usize = 25;
/// A page of metrics does not grow by more than this for what has gone: counters of another outcome may appear.
const LINES: usize = 8;

/// What grows when something is not given back.
#[derive(Debug)]
struct Held {
    tasks: usize,
    descriptors: usize,
    /// Lines of the metrics' page: each label that was ever used is one.
    lines: usize,
    sessions: usize,
    projects: usize,
    /// What the engine holds itself.
    engine: ob_engine::Held,
}

// === impl Held ===

impl Held {
    async fn now(world: &World, engine: &Arc<Engine>, metrics: &Metrics) -> Self {
        metrics.set_gauges(engine.gauges().await.expect("a store"));
        Self {
            tasks: tokio::runtime::Handle::current().metrics().num_alive_tasks(),
            descriptors: std::fs::read_dir("/proc/self/fd").expect("descriptors").count(),
            lines: metrics.render().lines().count(),
            sessions: world.store.session_ids().len(),
            projects: world.store.projects().await.expect("projects").len(),
            engine: engine.held(),
        }
    }
}

/// W42: tasks, descriptors, records and labels of gauges are back where they were.
#[tokio::test]
async fn hundreds_of_sessions_that_come_and_go_leave_nothing_behind() {
    let asked = std::env::var("OUBLIETTE_CHURN_SESSIONS").ok().map(|text| text.parse().expect("a number"));
    let world = World::new().await;
    let metrics = Metrics::new("0.0.0");
    let engine = world.engine(Broken::new(true)).await;
    come_and_go(&world, &engine).await;
    let before = Held::now(&world, &engine, &metrics).await;
    for _ in 1..asked.unwrap_or(SESSIONS) / AT_ONCE {
        come_and_go(&world, &engine).await;
    }
    // Tasks that are about to end may take a moment.
    eventually("the rest to go", async || {
        let now = Held::now(&world, &engine, &metrics).await;
        now.tasks <= before.tasks && now.descriptors <= before.descriptors && now.engine == before.engine
    })
    .await;
    let after = Held::now(&world, &engine, &metrics).await;
    assert_eq!((after.sessions, after.projects), (0, 0), "{after:?}");
    assert!(after.lines <= before.lines + LINES, "before {before:?}, after {after:?}");
    assert_eq!(after.engine, ob_engine::Held::default(), "nothing is held for what is gone");
    engine.shutdown(false).await;
}

/// A project with sessions, each of which fails when its sandbox is to be made; then the project goes, and they with it.
async fn come_and_go(world: &World, engine: &Arc<Engine>) {
    let project = project(engine, json!({})).await;
    let first = spawn(engine, project, json!({})).await;
    world.state(&first, "failed", 1).await;
    // In the same workspace: what is made on disk is another test's.
    let workspace = world.store.session(&first).await.expect("a store").expect("a session").workspace;
    let others = (1..AT_ONCE).map(|_| spawn(engine, project, json!({ "workspace_id": workspace })));
    let sessions: Vec<SessionId> = futures_util::future::join_all(others).await;
    for session in &sessions {
        world.state(session, "failed", 1).await;
    }
    // An actor that has just said so may hold its session for a moment.
    eventually("the project to be deletable", async || {
        let deleted = engine
            .call(&ob_core::Principal::Operator, Operation::ProjectDelete, json!({ "project_id": project }))
            .await;
        deleted.is_ok()
    })
    .await;
}

/// The same with sandboxes, as far as a test has time for them.
#[tokio::test(flavor = "multi_thread")]
async fn sandboxes_that_come_and_go_leave_no_descriptor_and_no_task() {
    let world = World::new().await;
    let Some(backend) = world.sandboxes() else { return };
    let engine = world.engine(backend).await;
    let metrics = Metrics::new("0.0.0");
    let project = project(&engine, json!({})).await;
    let round = async || {
        let session = spawn(&engine, project, json!({ "end_when_idle": true })).await;
        world.state(&session, "ended", 1).await;
        eventually("the sandbox to be gone", async || engine.sandboxes() == 0 && engine.held().actors == 0)
            .await;
    };
    round().await;
    let before = Held::now(&world, &engine, &metrics).await;
    for _ in 0..8 {
        round().await;
    }
    // Connections to the model that are kept for the next call, and the runtime's own, come and go: none for each session.
    eventually("the rest to go", async || {
        let now = Held::now(&world, &engine, &metrics).await;
        now.tasks <= before.tasks + 4 && now.descriptors <= before.descriptors + 4
    })
    .await;
    ask(&engine, Operation::ProjectDelete, json!({ "project_id": project })).await;
    engine.shutdown(false).await;
}
