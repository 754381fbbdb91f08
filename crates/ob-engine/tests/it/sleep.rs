//! Sessions that have nothing to do: they sleep, and keep nothing but what is in the store.

use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use ob_core::Epoch;
use ob_core::Event;
use ob_core::EventKind;
use ob_core::Refusal;
use ob_core::operation::Operation;
use ob_sandbox::Backend;
use ob_sandbox::Inside;
use ob_sandbox::SandboxEnd;
use ob_sandbox::SandboxError;
use ob_sandbox::SandboxSpec;
use ob_sandbox::SharedBackend;
use ob_sandbox::Started;
use ob_testkit::Answer;
use ob_testkit::model_server::Latch;
use ob_testkit::model_server::Step;
use serde_json::json;

use super::world::World;
use super::world::ask;
use super::world::eventually;
use super::world::has_text;
use super::world::project;
use super::world::spawn;
use super::world::states;
use super::world::texts;

/// Short enough for a test, and long enough that an answer of the model comes in between.
const SOON: Duration = Duration::from_millis(300);

/// Turns that were completed.
fn answers_in(log: &[Event]) -> usize {
    log.iter().filter(|event| event.body.kind == EventKind::Completion).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_session_sleeps_and_a_message_wakes_it_with_its_conversation() {
    let mut world = World::new().await;
    world.idle = SOON;
    let Some(backend) = world.sandboxes() else { return };
    let engine = world.engine(backend).await;
    let project = project(&engine, json!({})).await;
    world.model.push(Answer::text("remember the word heron"));
    let session = spawn(&engine, project, json!({})).await;
    let log = world.state(&session, "asleep", 1).await;
    assert_eq!(states(&log), ["created", "starting", "running", "idle", "asleep"]);
    eventually("the end of its sandbox", async || {
        engine.sandboxes() == 0 && !world.home.sandbox_runtime(&session).exists()
    })
    .await;
    let view = ask(&engine, Operation::SessionGet, json!({ "session_id": session })).await;
    assert_eq!((view["state"].as_str(), view["status"].as_str()), (Some("asleep"), Some("active")));
    // An interrupt of one that sleeps is nothing, and wakes nothing.
    ask(&engine, Operation::SessionInterrupt, json!({ "session_id": session })).await;

    world.model.push(Answer::text("still here"));
    ask(&engine, Operation::SessionMessage, json!({ "session_id": session, "message": "which word?" })).await;
    let log = world.state(&session, "asleep", 2).await;
    assert!(has_text(&log, "still here"), "{:?}", texts(&log));
    let requests = world.model.requests();
    let last = requests.last().expect("a request").body.to_string();
    assert!(last.contains("heron") && last.contains("which word?"), "the conversation goes on: {last}");

    ask(&engine, Operation::SessionEnd, json!({ "session_id": session })).await;
    world.state(&session, "ended", 1).await;
    engine.shutdown(false).await;
}

/// W34: what counts is that there is nothing to do, not how long nobody said anything.
#[tokio::test(flavor = "multi_thread")]
async fn a_turn_that_takes_longer_than_the_idle_time_is_not_cut_off() {
    let mut world = World::new().await;
    world.idle = Duration::from_millis(50);
    let Some(backend) = world.sandboxes() else { return };
    let engine = world.engine(backend).await;
    let project = project(&engine, json!({})).await;
    world.model.push(Answer::tool("run", json!({ "command": "sleep 1; echo slow" })));
    world.model.otherwise(Answer::text("done after all"));
    let session = spawn(&engine, project, json!({})).await;
    let log = world.state(&session, "asleep", 1).await;
    assert!(has_text(&log, "done after all"), "{:?}", texts(&log));
    assert_eq!(
        states(&log),
        ["created", "starting", "running", "idle", "asleep"],
        "never before it was done"
    );
    engine.shutdown(false).await;
}

/// W40: whoever comes first wakes it, and everybody else finds it awake.
#[tokio::test(flavor = "multi_thread")]
async fn many_messages_at_once_to_a_sleeping_session_wake_one_actor_and_none_is_lost() {
    const MESSAGES: usize = 12;
    let mut world = World::new().await;
    world.idle = Duration::from_millis(1);
    let Some(backend) = world.sandboxes() else { return };
    let engine = world.engine(backend).await;
    let project = project(&engine, json!({})).await;
    let session = spawn(&engine, project, json!({})).await;
    world.state(&session, "asleep", 1).await;
    let asked = (0..MESSAGES).map(|n| {
        let params = json!({ "session_id": session, "message": format!("message {n}") });
        ask(&engine, Operation::SessionMessage, params)
    });
    let answers = futures_util::future::join_all(asked).await;
    let mut turns: Vec<u64> =
        answers.iter().map(|answer| answer["turn"].as_u64().expect("a number")).collect();
    turns.sort_unstable();
    assert_eq!(turns, (2..2 + MESSAGES as u64).collect::<Vec<_>>(), "each is a turn of its own");
    let log = world.until(&session, "all answers", |log| answers_in(log) == MESSAGES + 1).await;
    let prompts: Vec<&str> = texts(&log).into_iter().filter(|text| text.starts_with("message ")).collect();
    assert_eq!(prompts.len(), MESSAGES, "{prompts:?}");
    engine.shutdown(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_race_with_falling_asleep_are_all_answered() {
    const ROUNDS: usize = 12;
    let mut world = World::new().await;
    world.idle = Duration::from_millis(1);
    let Some(backend) = world.sandboxes() else { return };
    let engine = world.engine(backend).await;
    let project = project(&engine, json!({})).await;
    let session = spawn(&engine, project, json!({})).await;
    for round in 0..ROUNDS {
        // Sometimes before it sleeps, sometimes in the middle of it, sometimes after.
        world.until(&session, "the answer", |log| answers_in(log) == round + 1).await;
        for _ in 0..round * round * 20 {
            tokio::task::yield_now().await;
        }
        ask(&engine, Operation::SessionMessage, json!({ "session_id": session, "message": "more" })).await;
    }
    world.until(&session, "the last answer", |log| answers_in(log) == ROUNDS + 1).await;
    engine.shutdown(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_session_whose_server_stops_waits_without_a_sandbox_for_its_next_message() {
    let world = World::new().await;
    let (Some(first), Some(second)) = (world.sandboxes(), world.sandboxes()) else { return };
    let engine = world.engine(first).await;
    let project = project(&engine, json!({})).await;
    let session = spawn(&engine, project, json!({})).await;
    world.state(&session, "idle", 1).await;
    engine.shutdown(false).await;

    let engine = world.engine(second).await;
    ask(&engine, Operation::SessionMessage, json!({ "session_id": session, "message": "and now?" })).await;
    let log = world.state(&session, "idle", 2).await;
    assert_eq!(
        states(&log),
        ["created", "starting", "running", "idle", "asleep", "starting", "running", "idle"]
    );
    engine.shutdown(false).await;
}

/// W35, W36: an end stops what runs, and what is over holds nothing.
#[tokio::test(flavor = "multi_thread")]
async fn an_ended_session_leaves_no_process_and_its_project_can_be_deleted() {
    let world = World::new().await;
    let Some(backend) = world.sandboxes() else { return };
    let engine = world.engine(backend).await;
    let project = project(&engine, json!({})).await;
    let latch = Latch::new();
    world.model.push(Answer::text("never said").before_head(Step::Wait(latch.clone())));
    let session = spawn(&engine, project, json!({})).await;
    world.model.requests_reached(1).await;
    ask(&engine, Operation::SessionEnd, json!({ "session_id": session })).await;
    world.state(&session, "ended", 1).await;
    world.model.hang_ups_reached(1).await;
    assert!(!world.home.sandbox_runtime(&session).exists(), "the agent is gone, and all that it ran");
    ask(&engine, Operation::ProjectDelete, json!({ "project_id": project })).await;
    assert!(!world.home.project(project).exists());
    engine.shutdown(false).await;
}

/// W39: whatever the old run still does, it neither ends nor completes the new one, which does not begin before it is over.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_goes_on_is_not_touched_by_the_run_before() {
    let mut world = World::new().await;
    world.idle = Duration::from_millis(1);
    let Some(inner) = world.sandboxes() else { return };
    let latch = tokio::sync::watch::Sender::new(false);
    let slow = Arc::new(SlowEnd { inner, latch: latch.clone(), seen: Mutex::default() });
    let engine = world.engine(Arc::<SlowEnd>::clone(&slow)).await;
    let project = project(&engine, json!({})).await;
    world.model.push(Answer::text("first answer"));
    world.model.otherwise(Answer::text("second answer"));
    let session = spawn(&engine, project, json!({})).await;
    world.state(&session, "asleep", 1).await;
    // The old run is being ended, which takes long.
    ask(&engine, Operation::SessionMessage, json!({ "session_id": session, "message": "and now?" })).await;
    world.state(&session, "starting", 2).await;
    // Time for a start that does not wait.
    for _ in 0..200 {
        ask(&engine, Operation::SessionGet, json!({ "session_id": session })).await;
    }
    latch.send_replace(true);
    let log = world.until(&session, "the second answer", |log| answers_in(log) == 2).await;
    assert!(has_text(&log, "second answer"), "{:?}", texts(&log));
    world.state(&session, "asleep", 2).await;
    let log = world.store.log(&session);
    assert_eq!(
        states(&log),
        ["created", "starting", "running", "idle", "asleep", "starting", "running", "idle", "asleep"],
        "neither completed, nor failed, nor started again"
    );
    assert!(!has_text(&log, "the sandbox is gone"), "{:?}", texts(&log));
    let seen = slow.seen.lock().expect("no one panics with it").clone();
    let second = seen.iter().rposition(|what| *what == "start").expect("it started");
    assert!(
        seen[..second].contains(&"first ended"),
        "the old run is over before the new one begins: {seen:?}"
    );
    engine.shutdown(false).await;
}

/// A backend whose first sandbox is ended only when a test lets it.
struct SlowEnd {
    inner: SharedBackend,
    latch: tokio::sync::watch::Sender<bool>,
    /// What was done, in order.
    seen: Mutex<Vec<&'static str>>,
}

impl SlowEnd {
    fn saw(&self, what: &'static str) -> usize {
        let mut seen = self.seen.lock().expect("no one panics with it");
        let before = seen.iter().filter(|known| **known == what).count();
        seen.push(what);
        before
    }

    fn has_started(&self) -> bool {
        self.seen.lock().expect("no one panics with it").contains(&"start")
    }
}

#[async_trait]
impl Backend for SlowEnd {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    async fn check(&self) -> Result<(), Refusal> {
        self.inner.check().await
    }

    fn inside(&self, spec: &SandboxSpec) -> Inside {
        self.inner.inside(spec)
    }

    async fn start(&self, spec: &SandboxSpec) -> Result<Started, SandboxError> {
        self.saw("start");
        self.inner.start(spec).await
    }

    async fn adopt(
        &self,
        id: &str,
        runtime: &Path,
        epoch: Epoch,
    ) -> Result<Option<SandboxEnd>, SandboxError> {
        self.inner.adopt(id, runtime, epoch).await
    }

    async fn ended(&self, id: &str, runtime: &Path) -> SandboxEnd {
        self.inner.ended(id, runtime).await
    }

    async fn end(&self, id: &str, runtime: &Path, epoch: Epoch) -> Result<(), SandboxError> {
        // A start ends what may be left of an earlier one; that is none of a run.
        let is_first = self.has_started() && self.saw("end") == 0;
        if is_first {
            drop(self.latch.subscribe().wait_for(|open| *open).await);
        }
        let ended = self.inner.end(id, runtime, epoch).await;
        if is_first {
            self.saw("first ended");
        }
        ended
    }
}
