//! Each event touches the metrics that it is about, and no other.

use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::Mutex;

use ob_core::Timestamp;

use ob_core::resource::Consequence;
use ob_core::resource::Resource;

use super::*;

const TOOK: Duration = Duration::from_millis(3);

fn session() -> SessionId {
    SessionId::new(Timestamp::from_micros(0), 7)
}

fn project(n: u32) -> ProjectId {
    format!("00000000-0000-4000-8000-{n:012}").parse().expect("a project id")
}

/// The value of a sample.
fn value(metrics: &Metrics, sample: &str) -> Option<u64> {
    let page = metrics.render();
    let line = page.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '))?;
    line.parse().ok()
}

/// A second subscriber that is always there: with only one, a line that another test's thread comes to first, without a
/// subscriber of its own, is taken for one that nobody wants.
static OTHER: LazyLock<tracing::Dispatch> =
    LazyLock::new(|| tracing::Dispatch::new(tracing_subscriber::registry()));

/// Lines written while `act` runs, without time.
fn lines(act: impl FnOnce()) -> String {
    LazyLock::force(&OTHER);
    let text = Arc::new(Mutex::new(Vec::new()));
    let writer = {
        let text = Arc::clone(&text);
        move || Tee(Arc::clone(&text))
    };
    let subscriber = tracing_subscriber::fmt()
        .without_time()
        .with_ansi(false)
        .with_max_level(tracing::Level::TRACE)
        .with_writer(writer)
        .finish();
    tracing::subscriber::with_default(subscriber, act);
    let text = text.lock().expect("ours").clone();
    String::from_utf8(text).expect("UTF-8")
}

struct Tee(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Tee {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("ours").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn every_event_is_one_line_with_its_fields() {
    let metrics = Metrics::new("1");
    let (session, refusal) = (session(), Refusal::unavailable("no bubblewrap").fix("install it"));
    let text = lines(|| {
        ServerStarted {
            version: "1.0",
            home: Path::new("/h"),
            addresses: &["127.0.0.1:8080".to_owned(), "[::1]:8080".to_owned()],
            took: TOOK,
        }
        .emit(&metrics);
        RequestDone { method: "GET", path: "/api/v1/projects", status: 200, took: TOOK, request_id: "r1" }
            .emit(&metrics);
        RequestDone { method: "GET", path: "/health", status: 200, took: TOOK, request_id: "r2" }
            .emit(&metrics);
        OperationDone { operation: Operation::SessionSpawn, outcome: Err(RefusalCode::NotFound), took: TOOK }
            .emit(&metrics);
        RefusalGiven { asked: "session_spawn", refusal: &refusal }.emit(&metrics);
        RefusalGiven { asked: "session_spawn", refusal: &Refusal::internal("a fault") }.emit(&metrics);
        SessionCreated { session: &session, project: project(1) }.emit(&metrics);
        SandboxStarted { session: &session, backend: "namespace", took: TOOK }.emit(&metrics);
        SandboxStartFailed { session: &session, backend: "namespace", refusal: &refusal }.emit(&metrics);
        EventsAppended { count: 3 }.emit(&metrics);
        ModelCallDone {
            session: &session,
            provider: "openai",
            model: "m",
            status: "ok",
            input_tokens: 10,
            output_tokens: 2,
            cost: MicroUsd(1234),
            took: TOOK,
        }
        .emit(&metrics);
        TurnDone { session: &session, turn: TurnNumber(0), state: TurnState::Completed, took: TOOK }
            .emit(&metrics);
        SandboxEnded { session: &session, backend: "namespace", reason: "the session ended" }.emit(&metrics);
        SessionEnded {
            session: &session,
            project: project(1),
            status: SessionStatus::Completed,
            lived: Duration::from_secs(90),
        }
        .emit(&metrics);
        PanicCaught { message: "boom", location: "a.rs:1:2", backtrace: "0: main" }.emit(&metrics);
        let cleanup = CleanupDone { removed: 1, waiting: 2, disk: None, took: TOOK };
        cleanup.emit(&metrics);
        for (percent, level) in [(65, DiskLevel::Fine), (80, DiskLevel::Warning), (90, DiskLevel::Error)] {
            CleanupDone { disk: Some(DiskUse { percent, level }), ..cleanup }.emit(&metrics);
        }
        ServerStopping { reason: "SIGTERM" }.emit(&metrics);
        ServerStopped.emit(&metrics);
    });
    insta::assert_snapshot!("lines", text);
    assert!(text.ends_with("shutdown complete\n"));
}

#[test]
fn every_event_counts_what_it_says_and_only_once() {
    let metrics = Metrics::new("1");
    let session = session();
    RequestDone { method: "POST", path: "/api/v1/sessions", status: 201, took: TOOK, request_id: "r" }
        .emit(&metrics);
    OperationDone { operation: Operation::SessionSpawn, outcome: Ok(()), took: TOOK }.emit(&metrics);
    RefusalGiven { asked: "x", refusal: &Refusal::conflict("busy") }.emit(&metrics);
    EventsAppended { count: 3 }.emit(&metrics);
    EventsAppended { count: 4 }.emit(&metrics);
    SandboxStarted { session: &session, backend: "namespace", took: TOOK }.emit(&metrics);
    TurnDone { session: &session, turn: TurnNumber(0), state: TurnState::Failed, took: TOOK }.emit(&metrics);
    let hit = LimitHit {
        resource: Resource::Pids,
        used: 64,
        bound: 64,
        times: 9,
        consequence: Consequence::Refused,
    };
    LimitReached { session: &session, hit: &hit }.emit(&metrics);
    SessionEnded {
        session: &session,
        project: project(1),
        status: SessionStatus::Failed,
        lived: Duration::from_secs(90),
    }
    .emit(&metrics);
    let project = project(1);
    for (sample, expected) in [
        (r#"oubliette_requests_total{method="POST",path="/api/v1/sessions",status="201"}"#.to_owned(), 1),
        (r#"oubliette_requests_total{method="POST",path="/api/v1/sessions",status="200"}"#.to_owned(), 0),
        (r#"oubliette_request_duration_seconds_count{method="POST",path="/api/v1/sessions"}"#.to_owned(), 1),
        (
            r#"oubliette_request_duration_seconds_bucket{method="POST",path="/api/v1/sessions",le="0.0025"}"#
                .to_owned(),
            0,
        ),
        (
            r#"oubliette_request_duration_seconds_bucket{method="POST",path="/api/v1/sessions",le="0.005"}"#
                .to_owned(),
            1,
        ),
        (r#"oubliette_tool_calls_total{action="spawn",status="ok",tool="session"}"#.to_owned(), 1),
        (r#"oubliette_refusals_total{code="conflict"}"#.to_owned(), 1),
        ("oubliette_session_events_total".to_owned(), 7),
        (r#"oubliette_sandbox_starts_total{backend="namespace"}"#.to_owned(), 1),
        (r#"oubliette_sandbox_start_failures_total{backend="namespace"}"#.to_owned(), 0),
        ("oubliette_sandbox_start_seconds_count".to_owned(), 1),
        (r#"oubliette_turns_total{state="failed"}"#.to_owned(), 1),
        (r#"oubliette_sandbox_limits_reached_total{limit="pids"}"#.to_owned(), 1),
        (r#"oubliette_sandbox_limits_reached_total{limit="memory"}"#.to_owned(), 0),
        (format!(r#"oubliette_session_duration_seconds_count{{project_id="{project}",status="failed"}}"#), 1),
    ] {
        assert_eq!(value(&metrics, &sample), Some(expected), "{sample}");
    }
}

#[test]
fn probes_do_not_count_as_requests() {
    let metrics = Metrics::new("1");
    let before = metrics.render();
    for path in PROBES {
        RequestDone { method: "GET", path, status: 200, took: TOOK, request_id: "r" }.emit(&metrics);
    }
    assert_eq!(metrics.render(), before);
}

#[test]
fn what_clients_and_configurations_choose_cannot_grow_the_page_without_bound() {
    let metrics = Metrics::new("1");
    let session = session();
    for n in 0..1000 {
        let text = format!("x{n}");
        RequestDone { method: &text, path: &text, status: 200, took: TOOK, request_id: "r" }.emit(&metrics);
        SessionEnded { session: &session, project: project(n), status: SessionStatus::Failed, lived: TOOK }
            .emit(&metrics);
        ModelCallDone {
            session: &session,
            provider: &text,
            model: &text,
            status: "ok",
            input_tokens: 0,
            output_tokens: 0,
            cost: MicroUsd(0),
            took: TOOK,
        }
        .emit(&metrics);
    }
    let page = metrics.render();
    for (family, label) in [
        ("oubliette_requests_total{", "path"),
        ("oubliette_session_duration_seconds_count{", "project_id"),
        ("oubliette_model_calls_total{", "provider"),
    ] {
        let lines = page.lines().filter(|line| line.starts_with(family)).count();
        assert!((201..=230).contains(&lines), "{family} {lines}");
        assert!(page.contains(&format!("{label}=\"other\"")), "{family}");
    }
    assert!(!page.contains("method=\"x1\""), "a method of a client is no label");
    let other = r#"oubliette_session_duration_seconds_count{project_id="other",status="failed"}"#;
    assert_eq!(value(&metrics, other), Some(800), "none is lost");
}
