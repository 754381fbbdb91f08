//! Figures of the store: `cargo bench -p ob-store`, with `-- --json` as JSON lines on standard output.
//!
//! `-- --tables` compares the two shapes that the event table could have (`docs/design/event-table.md`).
#![expect(clippy::print_stdout, reason = "a program that prints figures")]

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use ob_core::EventBody;
use ob_core::EventKind;
use ob_core::SessionId;
use ob_core::TurnNumber;
use ob_core::ledger::TreeLimits;
use ob_store::Commit;
use ob_store::SharedStore;
use ob_store::Write;
use ob_store::conformance::TREE_STEPS;
use ob_store::conformance::TREE_TASKS;
use ob_store::conformance::count;
use ob_store::conformance::seed;
use ob_store::conformance::seed_with;
use ob_store::conformance::tree_of;
use ob_store::conformance::tree_step;
use ob_store::sqlite::SqliteOptions;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Writers, each with a session of its own.
const WRITERS: usize = 64;
/// Appends that a writer may have unacknowledged.
const DEPTH: usize = 16;
/// How long one measurement runs.
const SPAN: Duration = Duration::from_secs(4);
/// Each figure is the median of so many measurements.
const ROUNDS: usize = 3;
/// Subscribers, one for each of as many sessions.
const SUBSCRIBERS: usize = 100;
/// Events a second that subscribers are measured at: a tenth of the bar.
const SUBSCRIBED_RATE: u64 = 10_000;
/// Single writes that a latency is measured with.
const SINGLES: usize = 400;
/// The most sessions that the measured tree may have.
const AGENTS: u32 = 50;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    // `cargo test --benches` asks for nothing.
    if !has("--bench") && !has("--json") && !has("--tables") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    if has("--tables") {
        tables::compare();
        return;
    }
    for figure in runtime.block_on(figures()) {
        if has("--json") {
            let (name, value, unit, method) = (figure.name, figure.value, figure.unit, figure.method);
            println!(
                "{}",
                serde_json::json!({ "name": name, "value": value, "unit": unit, "method": method })
            );
        } else {
            println!("{:32} {:>12.3} {:4} {}", figure.name, figure.value, figure.unit, figure.method);
        }
    }
}

/// One line of the result.
struct Figure {
    name: &'static str,
    value: f64,
    unit: &'static str,
    method: String,
}

async fn figures() -> Vec<Figure> {
    let mut rounds = Vec::new();
    let mut overshoot = 0_u32;
    for _ in 0..ROUNDS {
        let folder = folder();
        let store = open(folder.path()).await;
        let deep = throughput(&store, DEPTH).await;
        let flat = throughput(&store, 1).await;
        let (alone, disk_p50, disk_p99) = alone(&store, folder.path()).await;
        let seen = subscribers(&store).await;
        overshoot = overshoot.max(tree(&store).await);
        store.close().await.expect("close");
        rounds.push([disk_p50, disk_p99, deep, flat, alone, seen]);
    }
    let figure = |index: usize, name, unit, method: String| {
        let mut values: Vec<f64> = rounds.iter().map(|round| round[index]).collect();
        values.sort_by(f64::total_cmp);
        Figure {
            name,
            value: values[values.len() / 2],
            unit,
            method: format!("{method}; median of {ROUNDS} runs"),
        }
    };
    let each = format!("{WRITERS} writers, one event a commit, {} bytes", payload_bytes());
    vec![
        figure(
            0,
            "fdatasync_p50",
            "ms",
            format!("{SINGLES} appends of 4 KiB to a file, each flushed, in turn with lone commits"),
        ),
        figure(
            1,
            "fdatasync_p99",
            "ms",
            format!("{SINGLES} appends of 4 KiB to a file, each flushed, in turn with lone commits"),
        ),
        figure(
            2,
            "events_durable_per_s",
            "1/s",
            format!("{each}, at most {DEPTH} unacknowledged each, {SPAN:?}"),
        ),
        figure(
            3,
            "events_durable_depth1_per_s",
            "1/s",
            format!("{each}, at most 1 unacknowledged each, {SPAN:?}"),
        ),
        figure(
            4,
            "append_alone_p50",
            "ms",
            format!("{SINGLES} commits of one event, in turn with bare flushes"),
        ),
        figure(
            5,
            "append_to_subscriber_p99",
            "ms",
            format!(
                "{SUBSCRIBERS} subscribers of as many sessions, {SUBSCRIBED_RATE} events/s, from append to read"
            ),
        ),
        Figure {
            name: "tree_overshoot",
            value: overshoot.into(),
            unit: "sessions",
            method: format!(
                "{TREE_STEPS} steps of a tree by {TREE_TASKS} tasks at a limit of {AGENTS}; the most over it in {ROUNDS} runs"
            ),
        },
    ]
}

/// On the disk of the build, not on a `/tmp` that may be memory.
fn folder() -> tempfile::TempDir {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    tempfile::tempdir_in(target).expect("a folder")
}

async fn open(folder: &Path) -> SharedStore {
    let options = SqliteOptions { database: folder.join("oubliette.db"), blobs: folder.join("blobs") };
    ob_store::sqlite::open(options).await.expect("the store opens")
}

/// A piece of an agent's message, as most events are.
fn event() -> EventBody {
    EventBody::new(EventKind::Delta).turn(TurnNumber(3)).text(
        "the quick brown fox jumps over the lazy dog and goes on to say something of a usual length here",
    )
}

fn payload_bytes() -> usize {
    serde_json::to_vec(&event()).expect("json").len()
}

async fn append(store: &SharedStore, session: &SessionId) -> u64 {
    let writes = vec![Write::Append { session: session.clone(), events: vec![event()] }];
    store.commit(Commit { writes, fence: None }).await.expect("append").first_index[0]
}

fn percentile(mut latencies: Vec<Duration>, percent: usize) -> f64 {
    latencies.sort();
    latencies[(latencies.len() * percent / 100).min(latencies.len() - 1)].as_secs_f64() * 1e3
}

async fn throughput(store: &SharedStore, depth: usize) -> f64 {
    let mut sessions = Vec::new();
    for _ in 0..WRITERS {
        sessions.push(seed(store).await.id);
    }
    let start = Instant::now();
    let mut writers = JoinSet::new();
    for session in sessions {
        // Each lane has one append unacknowledged.
        for _ in 0..depth {
            let (store, session) = (Arc::clone(store), session.clone());
            writers.spawn(async move {
                let mut count = 0_u64;
                while start.elapsed() < SPAN {
                    append(&store, &session).await;
                    count += 1;
                }
                count
            });
        }
    }
    let events: u64 = writers.join_all().await.into_iter().sum();
    events as f64 / start.elapsed().as_secs_f64()
}

/// Lone appends, and bare flushes of the disk. In turn, since a disk's flush may take 0.2 ms in one second and 4 ms in
/// the next: only what was measured at the same time can be compared.
async fn alone(store: &SharedStore, folder: &Path) -> (f64, f64, f64) {
    let session = seed(store).await.id;
    let mut probe = File::create(folder.join("probe")).expect("a file");
    let (mut appends, mut flushes) = (Vec::new(), Vec::new());
    for _ in 0..SINGLES {
        let start = Instant::now();
        append(store, &session).await;
        appends.push(start.elapsed());
        let start = Instant::now();
        probe.write_all(&[7; 4096]).expect("write");
        probe.sync_data().expect("flush");
        flushes.push(start.elapsed());
    }
    (percentile(appends, 50), percentile(flushes.clone(), 50), percentile(flushes, 99))
}

/// By how many sessions a tree is ever over its limit.
async fn tree(store: &SharedStore) -> u32 {
    let limits = TreeLimits {
        max_depth: Some(3),
        max_agents: Some(AGENTS),
        max_live: Some(AGENTS),
        ..Default::default()
    };
    let root = seed_with(store, limits, None).await;
    let mut tasks = JoinSet::new();
    for _ in 0..TREE_TASKS {
        let (store, root) = (store.clone(), root.clone());
        tasks.spawn(async move {
            let mut most = 0;
            for _ in 0..TREE_STEPS.div_ceil(TREE_TASKS) {
                tree_step(&store, &root).await;
                most = most.max(count(&tree_of(&store, &root.tree).await).0);
            }
            most
        });
    }
    let most = tasks.join_all().await.into_iter().max().unwrap_or_default();
    assert!(most >= AGENTS, "the limit was never reached: {most}");
    most - AGENTS
}

/// The time between the call of an append and the moment its event has been read by the session's subscriber.
async fn subscribers(store: &SharedStore) -> f64 {
    let epoch = Instant::now();
    let mut readers = JoinSet::new();
    let mut sessions = Vec::new();
    let total = SUBSCRIBED_RATE * SPAN.as_secs();
    let each = total / SUBSCRIBERS as u64;
    for _ in 0..SUBSCRIBERS {
        let session = seed(store).await.id;
        let (store, id) = (Arc::clone(store), session.clone());
        let mut bell = store.doorbell(&session).await.expect("doorbell");
        sessions.push(session);
        readers.spawn(async move {
            let mut seen = Vec::new();
            while (seen.len() as u64) < each {
                if *bell.borrow_and_update() <= seen.len() as u64 {
                    bell.changed().await.expect("open");
                    continue;
                }
                for event in store.events(&id, seen.len() as u64, 1000).await.expect("events") {
                    let sent: u64 = event.body.text.expect("a text").parse().expect("nanoseconds");
                    seen.push(epoch.elapsed().saturating_sub(Duration::from_nanos(sent)));
                }
            }
            seen
        });
    }
    // One millisecond's events at a time; a session's order is kept by waiting for its last append.
    let lanes: Vec<Arc<Semaphore>> = sessions.iter().map(|_| Arc::new(Semaphore::new(1024))).collect();
    let mut appends = JoinSet::new();
    let mut tick = tokio::time::interval(Duration::from_millis(1));
    let per_tick = SUBSCRIBED_RATE / 1000;
    for first in (0..total).step_by(usize::try_from(per_tick).expect("small")) {
        tick.tick().await;
        for n in first..(first + per_tick).min(total) {
            let lane = usize::try_from(n).expect("small") % SUBSCRIBERS;
            let (store, session) = (Arc::clone(store), sessions[lane].clone());
            let room = Arc::clone(&lanes[lane]).acquire_owned().await.expect("open");
            appends.spawn(async move {
                let sent = epoch.elapsed().as_nanos().to_string();
                let writes = vec![Write::Append { session, events: vec![event().text(sent)] }];
                store.commit(Commit { writes, fence: None }).await.expect("append");
                drop(room);
            });
        }
        while appends.try_join_next().is_some() {}
    }
    appends.join_all().await;
    percentile(readers.join_all().await.into_iter().flatten().collect(), 99)
}

/// The two shapes of the event table, without the store around it.
mod tables {
    use std::path::Path;
    use std::process::Command;
    use std::time::Duration;
    use std::time::Instant;

    use rusqlite::Connection;
    use rusqlite::params;

    /// Sessions that append in turn.
    const SESSIONS: i64 = 64;
    /// Events of a session in one transaction.
    const RUN: i64 = 16;
    /// Transactions.
    const COMMITS: i64 = 1000;

    const CLUSTERED: &str = "CREATE TABLE events (session_key INTEGER NOT NULL, seq INTEGER NOT NULL,
      at INTEGER NOT NULL, kind INTEGER NOT NULL, version INTEGER NOT NULL, payload TEXT, blob BLOB,
      PRIMARY KEY (session_key, seq)) STRICT, WITHOUT ROWID";
    const ROWID: &str = "CREATE TABLE events (session_key INTEGER NOT NULL, seq INTEGER NOT NULL,
      at INTEGER NOT NULL, kind INTEGER NOT NULL, version INTEGER NOT NULL, payload TEXT, blob BLOB) STRICT;
      CREATE UNIQUE INDEX events_seq ON events (session_key, seq)";

    pub(crate) fn compare() {
        for (name, schema) in [("clustered", CLUSTERED), ("rowid and index", ROWID)] {
            for sync in ["FULL", "OFF"] {
                let folder = super::folder();
                let path = folder.path().join("t.db");
                let rate = fill(&path, schema, sync);
                let size = std::fs::metadata(&path).expect("size").len() as f64 / (1024.0 * 1024.0);
                let cold = read_cold(&path);
                println!(
                    "{name:16} synchronous={sync:4} {rate:>9.0} events/s {size:>7.1} MiB, one session cold {cold:.1?}"
                );
            }
        }
    }

    fn fill(path: &Path, schema: &str, sync: &str) -> f64 {
        let mut connection = Connection::open(path).expect("open");
        connection.pragma_update(None, "journal_mode", "WAL").expect("pragma");
        connection.pragma_update(None, "synchronous", sync).expect("pragma");
        connection.execute_batch(schema).expect("schema");
        let payload = serde_json::to_string(&super::event()).expect("json");
        let start = Instant::now();
        for commit in 0..COMMITS {
            let transaction = connection.transaction().expect("begin");
            {
                let mut insert = transaction
                    .prepare_cached("INSERT INTO events VALUES (?1, ?2, ?3, 3, 1, ?4, NULL)")
                    .expect("prepare");
                for run in 0..RUN {
                    for session in 0..SESSIONS {
                        insert
                            .execute(params![
                                session,
                                commit * RUN + run,
                                1_795_000_000_000_000_i64 + commit,
                                payload
                            ])
                            .expect("insert");
                    }
                }
            }
            transaction.commit().expect("commit");
        }
        let rate = (COMMITS * RUN * SESSIONS) as f64 / start.elapsed().as_secs_f64();
        connection.pragma_update(None, "wal_checkpoint", "TRUNCATE").ok();
        rate
    }

    /// Reads one session from the disk, by a new connection.
    fn read_cold(path: &Path) -> Duration {
        // Drops this one file from the kernel's cache.
        let input = format!("if={}", path.display());
        let status =
            Command::new("dd").args([input.as_str(), "iflag=nocache", "count=0", "status=none"]).status();
        assert!(status.is_ok_and(|status| status.success()), "dd");
        let connection = Connection::open(path).expect("open");
        let start = Instant::now();
        let select =
            "SELECT count(payload) FROM (SELECT payload FROM events WHERE session_key = 7 ORDER BY seq)";
        let count: i64 = connection.query_row(select, [], |row| row.get(0)).expect("read");
        assert_eq!(count, COMMITS * RUN);
        start.elapsed()
    }
}
