//! Whole commands against the real edge with a scripted engine behind it: what a person sees and which code the shell
//! gets.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use ob_config::Loaded;
use ob_config::Settings;
use ob_core::Check;
use ob_core::EventBody;
use ob_core::Home;
use ob_core::Principal;
use ob_core::Refusal;
use ob_core::audit::Asker;
use ob_core::home::Layout;
use ob_core::operation::EventView;
use ob_core::operation::Operation;
use ob_core::operation::SessionEvents;
use ob_engine::NotReady;
use ob_server::Authentication;
use ob_server::Binding;
use ob_server::Doors;
use ob_server::Limits;
use ob_server::Listener;
use ob_server::Phase;
use ob_server::RateLimit;
use ob_server::RouteGroups;
use ob_server::ServerOptions;
use serde_json::Value;
use serde_json::json;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::FAILED;
use super::OK;
use super::args::RunArgs;
use super::args::SessionCommand;
use super::args::Told;
use super::hub::Hub;
use super::output::Output;
use super::run;
use super::session;

const SESSION: &str = "gogol_20261118_110640_deadbeef";
const ID: &str = "00000000-0000-0000-0000-000000000001";
const AT: &str = "2026-11-18T11:06:40.000000Z";
const PATCH: &str = "diff --git a/a.txt b/a.txt\n--- a/a.txt\n+++ b/a.txt\n@@ -1 +1 @@\n-one\n+two\n";

/// An engine that has one session, whose events the test adds.
struct Script {
    source: std::path::PathBuf,
    events: watch::Sender<(Vec<EventView>, bool)>,
    stop: Mutex<&'static str>,
    calls: Mutex<Vec<&'static str>>,
}

impl Script {
    fn push(&self, bodies: Value, over: bool) {
        let bodies: Vec<EventBody> = serde_json::from_value(bodies).expect("events");
        self.events.send_modify(|(events, is_over)| {
            for body in bodies {
                let at = AT.parse().expect("an instant");
                events.push(EventView { index: events.len() as u64, at, body });
            }
            *is_over = over;
        });
    }

    fn project(&self) -> Value {
        json!({ "id": ID, "number": 1, "name": "p", "source": self.source, "created_at": AT })
    }

    fn session(&self) -> Value {
        let over = self.events.borrow().1;
        json!({
            "session_id": SESSION, "project_id": ID, "workspace_id": ID, "tree_id": SESSION.replace("gogol", "exp"),
            "state": if over { "ended" } else { "running" }, "status": if over { "completed" } else { "active" },
            "title": "fix\u{1b}[2J it", "agent": "builtin", "model": model(), "backend": "namespace", "turns": 1,
            "last_stop": *self.stop.lock().expect("no panic"), "last_index": self.events.borrow().0.len() as i64 - 1,
            "ledger": ob_core::ledger::Ledger::default(), "created_at": AT, "updated_at": AT,
        })
    }
}

fn model() -> Value {
    json!({ "provider": "demonstration", "model": "demo-repairer", "source": "demonstration" })
}

#[async_trait]
impl Doors for Script {
    async fn call(&self, _: &Asker, operation: Operation, params: Value) -> Result<Value, Refusal> {
        if operation != Operation::SessionEvents {
            self.calls.lock().expect("no panic").push(operation.spec().action);
        }
        Ok(match operation {
            Operation::ProjectList => json!([self.project()]),
            Operation::SessionSpawn => json!({
                "session_id": SESSION, "project_id": ID, "workspace_id": ID, "turn": 1, "last_index": -1,
                "model": model(),
            }),
            Operation::SessionList => json!([self.session()]),
            Operation::SessionGet => self.session(),
            Operation::SessionDiff => json!({
                "session_id": SESSION, "source": self.source, "in_place": false, "patch": PATCH, "files": ["a.txt"],
            }),
            Operation::SessionEvents => {
                let cursor = params["cursor"].as_i64().expect("typed by the edge");
                let wait = Duration::from_millis(params["wait_ms"].as_u64().unwrap_or(0));
                let mut bell = self.events.subscribe();
                let news = bell.wait_for(|(events, over)| events.len() as i64 > cursor + 1 || *over);
                // No news within the time is an empty page.
                drop(tokio::time::timeout(wait, news).await);
                let (events, over) = self.events.borrow().clone();
                let page: Vec<_> = events.into_iter().filter(|e| e.index as i64 > cursor).collect();
                let last = page.last().map_or(cursor, |e| e.index as i64);
                let status = if over { "completed" } else { "active" };
                json!({ "session_id": SESSION, "state": "x", "status": status, "last_index": last, "events": page })
            }
            other => return Err(Refusal::internal(format!("the script has no {other:?}"))),
        })
    }

    async fn follow(
        &self,
        _: &Asker,
        _: SessionEvents,
    ) -> Result<BoxStream<'static, Result<EventView, Refusal>>, Refusal> {
        Err(Refusal::internal("commands read pages"))
    }

    async fn authenticate(&self, _: &str) -> Result<Principal, Refusal> {
        Err(Refusal::internal("the control socket needs no token"))
    }

    async fn login_failed(&self, _: &str, _: Option<IpAddr>) {}

    fn lapsed(&self, _: &Principal) -> BoxFuture<'static, Refusal> {
        Box::pin(std::future::pending())
    }

    async fn ready(&self) -> Result<(), NotReady> {
        Ok(())
    }

    async fn checks(&self) -> Vec<Check> {
        Vec::new()
    }
}

/// A home, a project's folder, an engine, and servers over it that come and go.
struct Scene {
    folder: tempfile::TempDir,
    hub: Hub,
    script: Arc<Script>,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let project = folder.path().join("project");
        fs::create_dir(&project).expect("made");
        fs::write(project.join("a.txt"), "one\n").expect("written");
        let project = project.canonicalize().expect("it is there");
        let home = Home::new(folder.path().join("home"), Layout::V2, folder.path().into());
        let loaded = Loaded {
            home,
            file: None,
            found_by: ob_config::FoundBy::Dir,
            settings: Settings::default(),
            origins: BTreeMap::new(),
            values: Vec::new(),
            warnings: Vec::new(),
        };
        let script = Arc::new(Script {
            source: project.clone(),
            events: watch::Sender::new((Vec::new(), false)),
            stop: Mutex::new("end_turn"),
            calls: Mutex::default(),
        });
        Self { folder, hub: Hub::of(loaded, project), script }
    }

    /// Starts a server on the control socket; it serves until the token is cancelled.
    fn serve(&self) -> (CancellationToken, tokio::task::JoinHandle<std::io::Result<()>>) {
        let control = crate::server::listen::control(&self.hub.loaded.home).expect("a socket");
        let phase = watch::Sender::new(Phase::Serving(self.script.clone()));
        let options = ServerOptions {
            phase: phase.subscribe(),
            metrics: Arc::new(|| Box::pin(async { String::new() })),
            observe_request: Arc::new(|_, _, _, _| {}),
            allowed_hosts: Vec::new(),
            rate_limit: watch::Sender::new(RateLimit::DEFAULT).subscribe(),
            limits: Limits::default(),
        };
        let binding: UnixListener = control;
        let listener = Listener {
            binding: Binding::Unix(binding),
            routes: RouteGroups::ALL,
            authentication: Authentication::Operator,
        };
        let stop = CancellationToken::new();
        (stop.clone(), tokio::spawn(ob_server::serve(options, vec![listener], stop)))
    }

    fn file(&self) -> String {
        fs::read_to_string(self.folder.path().join("project/a.txt")).expect("it is there")
    }
}

fn task(apply: bool) -> RunArgs {
    RunArgs {
        task: "fix it".into(),
        project: Path::new(".").into(),
        in_place: false,
        model: None,
        agent: None,
        told: Told::default(),
        apply,
        keep: false,
        detach: false,
    }
}

fn work() -> Value {
    json!([
        { "type": "message", "role": "user", "text": "fix it", "turn": 1 },
        { "type": "tool_call", "tool_name": "edit", "tool_call_id": "c1", "arguments": { "path": "a.txt" } },
        { "type": "tool_result", "tool_call_id": "c1", "result": "done", "data": { "status": "completed" } },
        { "type": "message", "role": "agent", "text": "Fixed.", "turn": 1 },
        { "type": "completion", "turn": 1, "data": { "stop_reason": "end_turn" } },
    ])
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future).await.expect("within the deadline")
}

#[tokio::test]
async fn a_run_shows_the_work_the_diff_and_what_to_do_with_it() {
    let scene = Scene::new();
    let (_stop, _server) = scene.serve();
    scene.script.push(work(), true);
    let output = Output::memory(false);
    let code = soon(run::command(task(false), &scene.hub, &output)).await.expect("it ran");
    let (data, hints) = output.kept();
    assert_eq!((code, scene.file().as_str()), (OK, "one\n"));
    // Time is the one thing that differs from run to run.
    let data: String = data.lines().filter(|l| !l.starts_with("· ")).map(|l| format!("{l}\n")).collect();
    insta::assert_snapshot!("run", format!("{data}--- standard error\n{hints}"));
}

#[tokio::test]
async fn a_run_applies_what_it_made_only_if_it_completed() {
    for (stop, code, content) in [("end_turn", OK, "two\n"), ("error", FAILED, "one\n")] {
        let scene = Scene::new();
        let (_stop, _server) = scene.serve();
        *scene.script.stop.lock().expect("no panic") = stop;
        scene.script.push(work(), true);
        let output = Output::memory(true);
        assert_eq!(soon(run::command(task(true), &scene.hub, &output)).await, Ok(code));
        assert_eq!(scene.file(), content, "{stop}");
        let lines: Vec<Value> =
            output.kept().0.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
        let (first, last) = (&lines[0], &lines[lines.len() - 1]);
        assert_eq!(first["model_label"], "demo-repairer (scripted demonstration, not a language model)");
        assert_eq!((last["type"].as_str(), last["exit_code"].as_u64()), (Some("end"), Some(u64::from(code))));
        assert_eq!(last["applied"], json!(code == OK));
        let indices: Vec<_> = lines.iter().filter_map(|line| line["index"].as_u64()).collect();
        assert_eq!(indices, [0, 1, 2, 3, 4]);
    }
}

/// The server goes away twice in the middle and comes back: nothing is lost, nothing doubled, and it is said.
#[tokio::test]
async fn a_follower_goes_on_after_its_server_came_back() {
    let scene = Scene::new();
    let message = |text: &str| json!([{ "type": "message", "role": "agent", "text": text }]);
    let output = Output::memory(true);
    let (mut stop, mut server) = scene.serve();
    let follow = session::command(
        SessionCommand::Events { id: SESSION.into(), follow: true, cursor: -1 },
        &scene.hub,
        &output,
    );
    let play = async {
        for round in 0..3 {
            scene.script.push(message(&format!("round {round}")), false);
            while output.kept().0.lines().count() <= round {
                tokio::task::yield_now().await;
            }
            stop.cancel();
            server.await.expect("no panic").expect("a clean end");
            (stop, server) = scene.serve();
        }
        scene.script.push(message("the end"), true);
        (stop, server)
    };
    let (code, (_stop, _server)) = soon(async { tokio::join!(follow, play) }).await;
    assert_eq!(code, Ok(OK));
    let (data, hints) = output.kept();
    let indices: Vec<_> = data
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("a line of JSON")["index"].as_u64())
        .collect();
    assert_eq!(indices, (0..4).map(Some).collect::<Vec<_>>());
    assert!(hints.contains("the server is gone") && hints.contains("connected again"), "{hints}");
}

#[tokio::test]
async fn sessions_are_listed_and_applied_by_short_names() {
    let scene = Scene::new();
    let (_stop, _server) = scene.serve();
    scene.script.push(work(), true);
    let output = Output::memory(false);
    let list = SessionCommand::List { project: None, status: None, limit: None, before: None };
    assert_eq!(soon(session::command(list, &scene.hub, &output)).await, Ok(OK));
    let (data, _) = output.kept();
    assert!(data.starts_with("ID ") && data.contains(SESSION) && !data.contains('\x1b'), "{data}");
    assert!(data.contains("scripted demonstration"), "{data}");
    for (check, content) in [(true, "one\n"), (false, "two\n")] {
        let apply = SessionCommand::Apply { id: "beef".into(), to: None, check };
        assert_eq!(soon(session::command(apply, &scene.hub, &output)).await, Ok(OK));
        assert_eq!(scene.file(), content);
    }
    let again = SessionCommand::Apply { id: "last".into(), to: None, check: false };
    let refusal = soon(session::command(again, &scene.hub, &output)).await.expect_err("it is there already");
    assert_eq!(refusal.code.exit_code(), 5);
}
