//! The server over its life, measured on the real program: its start on a large home after kill -9, how fast it finds
//! live sandboxes again, what an idle session keeps in its memory, and what is left of many that came and went.
//!
//! A plain program: `cargo bench -p oubliette --bench life [-- --json]`.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot be made ends the program")]

use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use ob_core::EventBody;
use ob_core::SessionId;
use ob_core::ledger::TreeLimits;
use ob_core::model::ModelRef;
use ob_core::model::ModelSource;
use ob_core::record::SessionRecord;
use ob_core::session::SessionState;
use ob_store::Commit;
use ob_store::SharedStore;
use ob_store::Write;
use ob_store::sqlite::SqliteOptions;
use ob_testkit::Answer;
use ob_testkit::ModelServer;
use ob_testkit::bench::PATIENCE;
use ob_testkit::bench::Program;
use ob_testkit::bench::percentile;
use ob_testkit::bench::print;
use ob_testkit::fixtures;
use serde_json::json;

/// Stored sessions; all but the live ones are over or asleep.
const SESSIONS: u32 = 10_000;
/// Events of each.
const EVENTS: usize = 100;
/// Sessions with a sandbox at the kill.
const LIVE: u32 = 50;
/// Starts on the large home.
const STARTS: usize = 5;
/// The store's cap for its WAL, and how near to it the kill comes.
const WAL_CAP: u64 = 64 << 20;
const WAL_FILLED: u64 = WAL_CAP - (4 << 20);
/// Sessions that go through their whole life, to sleep, with a sandbox each: before the first look, and until the second.
const WARM: u32 = 300;
const SLEEPERS: u32 = 500;
/// Sessions that come and go.
const CHURN: u32 = 10_000;
/// Of which run in a sandbox until they are idle; the others end while they start.
const CHURN_WHOLE: u32 = 300;
/// Clients at once.
const CLIENTS: usize = 16;

/// The program, whose sessions fall asleep after so many seconds.
fn program(model: &ModelServer, idle_s: u32) -> Program {
    Program::new(env!("CARGO_BIN_EXE_oubliette"))
        .with_model(model)
        .set("OUBLIETTE_SANDBOX__IDLE_S", &idle_s.to_string())
}

/// Does `work` for each number, by several clients at once.
fn each(count: u32, work: impl Fn(u32) + Sync) {
    let next = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    work(number);
                }
            });
        }
    });
}

/// As a child process: fills the store of a home, or its WAL, and is killed in the middle of it.
fn fill(what: &str, home: &Path) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let database = home.join("data/oubliette.db");
        let options = SqliteOptions { database: database.clone(), blobs: home.join("data/blobs") };
        let store = ob_store::sqlite::open(options).await.unwrap();
        if what == "sessions" {
            fill_sessions(&store).await;
            store.close().await.unwrap();
            return;
        }
        // From an empty log on: its file keeps its length when it is started anew.
        store.close().await.unwrap();
        let options = SqliteOptions { database: database.clone(), blobs: home.join("data/blobs") };
        let store = ob_store::sqlite::open(options).await.unwrap();
        // One that is over takes no part in what is measured but the WAL.
        let session = record(0).id;
        let wal = home.join("data/oubliette.db-wal");
        loop {
            let events = (0..200).map(event).collect();
            append(&store, &session, events).await;
            if std::fs::metadata(&wal).unwrap().len() >= WAL_FILLED {
                rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)
                    .unwrap();
            }
        }
    });
}

fn record(number: u32) -> SessionRecord {
    let model = ModelRef {
        provider: "openai".to_owned(),
        model: "scripted-1".to_owned(),
        source: ModelSource::Configured,
    };
    let mut record = fixtures::session_record(number, model.clone());
    let first = fixtures::session_record(0, model);
    (record.project, record.workspace) = (first.project, first.workspace);
    record.core.queue.clear();
    record.core.state = match number % 4 {
        0 => SessionState::Ended,
        1 => SessionState::Failed,
        _ => SessionState::Asleep,
    };
    record
}

fn event(number: usize) -> EventBody {
    EventBody::system(format!(
        "event {number} of a session that was here before, as long as a short line of text is"
    ))
}

async fn append(store: &SharedStore, session: &SessionId, events: Vec<EventBody>) {
    let writes = vec![Write::Append { session: session.clone(), events }];
    store.commit(Commit { writes, fence: None }).await.unwrap();
}

async fn fill_sessions(store: &SharedStore) {
    let first = record(0);
    let (project, workspace) = fixtures::records_around(&first);
    let writes = vec![Write::PutProject(project), Write::PutWorkspace(workspace)];
    store.commit(Commit { writes, fence: None }).await.unwrap();
    for numbers in (0..SESSIONS).collect::<Vec<_>>().chunks(100) {
        let mut writes = Vec::new();
        for number in numbers {
            let record = record(*number);
            writes.push(Write::PutTree { tree: record.tree.clone(), limits: TreeLimits::default() });
            let session = record.id.clone();
            writes.push(Write::PutSession(Box::new(record)));
            writes.push(Write::Append { session, events: (0..EVENTS).map(event).collect() });
        }
        store.commit(Commit { writes, fence: None }).await.unwrap();
    }
}

fn run_fill(what: &str, home: &Path) {
    let status =
        Command::new(std::env::current_exe().unwrap()).args(["--fill", what]).arg(home).status().unwrap();
    assert!(what == "wal" || status.success(), "{status}");
}

/// Drops the files of a home from the kernel's cache.
fn forget(home: &Path) {
    for entry in std::fs::read_dir(home.join("data")).unwrap().flatten() {
        if entry.file_type().unwrap().is_file() {
            let file = std::fs::File::open(entry.path()).unwrap();
            file.sync_all().unwrap();
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        }
    }
}

fn micros_now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64() * 1e6
}

/// A large home, killed with its WAL at the cap while sessions are live, and started again.
fn loaded(model: &ModelServer, json: bool) {
    let mut server = program(model, 3600);
    // The first start makes the home.
    server.start();
    server.stop();
    run_fill("sessions", &server.home());
    server.start();
    let project = server.project();
    let sessions: Vec<String> = (0..LIVE).map(|_| server.spawn(&project)).collect();
    sessions.iter().for_each(|session| server.wait(session, "idle"));
    let (mut starts, mut reattached) = (Vec::new(), Vec::new());
    let mut wal = 0;
    for start in 1..=STARTS {
        server.kill();
        run_fill("wal", &server.home());
        wal = std::fs::metadata(server.home().join("data/oubliette.db-wal")).unwrap().len();
        forget(&server.home());
        let spawned = micros_now();
        starts.push(server.start().as_secs_f64() * 1e3);
        for session in &sessions {
            let path = format!("/api/v1/sessions/{session}/events?limit=10000");
            let began = Instant::now();
            let found = loop {
                let events = server.get(&path).unwrap().1;
                let found: Vec<String> = events["events"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .filter(|event| event["text"] == "sandbox found again")
                    .map(|event| event["at"].as_str().unwrap().to_owned())
                    .collect();
                if found.len() == start {
                    break found;
                }
                assert!(began.elapsed() < PATIENCE, "{session} was not found again: {events}");
                std::thread::sleep(Duration::from_millis(5));
            };
            let at: jiff::Timestamp = found.last().unwrap().parse().unwrap();
            #[expect(clippy::cast_precision_loss, reason = "microseconds of this century are exact enough")]
            reattached.push((at.as_microsecond() as f64 - spawned) / 1e3);
        }
    }
    let method = format!(
        "from spawning `oubliette serve` to `/ready` 200, asked every 0.5 ms, on a home with {SESSIONS} sessions (half of \
         them asleep, {LIVE} live) and {} events, killed with -9 with {} MiB of WAL, its files dropped from the page cache; \
         {STARTS} starts, median",
        SESSIONS as usize * EVENTS,
        wal >> 20
    );
    print(json, "start_loaded", percentile(&mut starts, 50), "ms", &method);
    let method = format!(
        "from the same spawn to the commit that says that a live sandbox was found again, its link up; {LIVE} sandboxes, \
         {STARTS} starts, p99 of all"
    );
    print(json, "reattach_p99", percentile(&mut reattached, 99), "ms", &method);
    let with = server.rss();
    sessions
        .iter()
        .for_each(|session| drop(server.post(&format!("/api/v1/sessions/{session}/end"), &json!({}))));
    sessions.iter().for_each(|session| server.wait(session, "ended"));
    print(
        json,
        "rss_loaded",
        with / 1024.0,
        "MiB",
        "VmRSS of that server once all live sandboxes are attached",
    );
}

/// Sessions with and without a sandbox, and what each adds to the server's memory.
fn idle(model: &ModelServer, json: bool) {
    let mut server = program(model, 3600);
    server.start();
    let project = server.project();
    let ready = |count: u32| {
        each(count, |_| {
            let session = server.spawn(&project);
            server.wait(&session, "idle");
        });
        std::thread::sleep(Duration::from_millis(500));
        server.rss()
    };
    // The first ones also fill the allocator's and the database's caches.
    let (before, after) = (ready(LIVE), ready(LIVE));
    let method =
        format!("VmRSS with {} idle sessions, sandboxes linked, less that with {LIVE}, by session", 2 * LIVE);
    print(json, "idle_linked_session_rss", (after - before) / f64::from(LIVE), "KiB", &method);
    server.stop();

    let mut server = program(model, 1);
    server.start();
    let project = server.project();
    let slept = |count: u32| {
        each(count, |_| {
            let session = server.spawn(&project);
            server.wait(&session, "asleep");
        });
        std::thread::sleep(Duration::from_millis(500));
        server.rss()
    };
    let (before, after) = (slept(WARM), slept(SLEEPERS));
    let method = format!(
        "VmRSS after {} sessions ran a turn and fell asleep, less that after {WARM}, by session",
        WARM + SLEEPERS
    );
    print(json, "idle_session_rss", f64::max(0.0, (after - before) / f64::from(SLEEPERS)), "KiB", &method);

    // The same server, and many more.
    let began = Instant::now();
    each(CHURN, |number| {
        let session = server.spawn(&project);
        if number % (CHURN / CHURN_WHOLE) == 0 {
            server.wait(&session, "idle");
        }
        server.post(&format!("/api/v1/sessions/{session}/end"), &json!({}));
        server.wait(&session, "ended");
    });
    std::thread::sleep(Duration::from_secs(1));
    let method = format!(
        "VmRSS one second after {CHURN} more sessions came and went ({CHURN_WHOLE} ran a turn in a sandbox, the others \
         ended while they started), {CLIENTS} at once, in {:.0} s",
        began.elapsed().as_secs_f64()
    );
    print(json, "rss_after_churn", server.rss() / 1024.0, "MiB", &method);
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "--fill") {
        return fill(&arguments[at + 1], Path::new(&arguments[at + 2]));
    }
    let json = arguments.iter().any(|argument| argument == "--json");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let model = runtime.block_on(ModelServer::start()).unwrap();
    model.otherwise(Answer::text("ok"));
    if !arguments.iter().any(|argument| argument == "--idle") {
        loaded(&model, json);
    }
    if !arguments.iter().any(|argument| argument == "--loaded") {
        idle(&model, json);
    }
}
