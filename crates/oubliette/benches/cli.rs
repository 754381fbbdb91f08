//! The command line, timed as a person has it, whole process: the shortest command, and a list on a large home.
//!
//! A plain program: `cargo bench -p oubliette --bench cli [-- --json]`.

#![expect(clippy::print_stdout, reason = "figures are this program's output")]
#![expect(clippy::unwrap_used, reason = "a measurement that cannot be made ends the program")]

use std::path::Path;
use std::process::Command;
use std::process::Stdio;
use std::time::Instant;

use ob_core::ledger::TreeLimits;
use ob_core::model::ModelRef;
use ob_core::model::ModelSource;
use ob_core::session::SessionState;
use ob_store::Commit;
use ob_store::Write;
use ob_store::sqlite::SqliteOptions;
use ob_testkit::fixtures;
use serde_json::json;

/// Stored sessions, all of them over.
const SESSIONS: u32 = 10_000;
/// Runs of each command.
const RUNS: usize = 60;
/// Sessions that the server lists at once, at most.
const PAGE_MAX: u32 = 1000;

/// The program in a home, with nothing of this process's environment that could change what it does.
fn program(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oubliette"));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", folder);
    command.envs([
        ("OUBLIETTE_SERVER__ADDRESS", "127.0.0.1:0"),
        ("OUBLIETTE_MODELS__DEMONSTRATION", "false"),
        ("OUBLIETTE_MODELS__DISCOVER_PORTS", "[]"),
    ]);
    command.arg("--dir").arg(folder.join("home")).stdin(Stdio::null());
    command
}

/// Fills the store of a home whose server is down.
async fn fill(home: &Path) {
    let options = SqliteOptions { database: home.join("data/oubliette.db"), blobs: home.join("data/blobs") };
    let store = ob_store::sqlite::open(options).await.unwrap();
    let model = ModelRef {
        provider: "openai".to_owned(),
        model: "scripted-1".to_owned(),
        source: ModelSource::Configured,
    };
    let first = fixtures::session_record(0, model.clone());
    let (project, workspace) = fixtures::records_around(&first);
    let mut writes = vec![Write::PutProject(project), Write::PutWorkspace(workspace)];
    for number in 0..SESSIONS {
        let mut record = fixtures::session_record(number, model.clone());
        (record.project, record.workspace) = (first.project, first.workspace);
        record.core.queue.clear();
        record.core.state = SessionState::Ended;
        writes.push(Write::PutTree { tree: record.tree.clone(), limits: TreeLimits::default() });
        writes.push(Write::PutSession(Box::new(record)));
        if writes.len() > 200 {
            store.commit(Commit { writes: std::mem::take(&mut writes), fence: None }).await.unwrap();
        }
    }
    store.commit(Commit { writes, fence: None }).await.unwrap();
    store.close().await.unwrap();
}

/// Milliseconds from spawn to exit, the median, with what it printed read.
fn timed(folder: &Path, words: &[&str], lines: usize) -> f64 {
    let mut samples: Vec<f64> = (0..RUNS)
        .map(|_| {
            let mut command = program(folder);
            command.args(words);
            let began = Instant::now();
            let output = command.output().unwrap();
            let took = began.elapsed().as_secs_f64() * 1e3;
            let printed = output.stdout.iter().filter(|byte| **byte == b'\n').count();
            assert!(output.status.success() && printed == lines, "{words:?}: {printed} lines, {output:?}");
            took
        })
        .collect();
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

fn main() {
    let json = std::env::args().any(|argument| argument == "--json");
    let print = |name: &str, value: f64, method: &str| {
        if json {
            println!("{}", json!({ "name": name, "value": value, "unit": "ms", "method": method }));
        } else {
            println!("{name:24} {value:10.2} ms   {method}");
        }
    };
    let folder = tempfile::Builder::new().prefix("obc").tempdir().unwrap();
    let ok = |words: &[&str]| {
        let output = program(folder.path()).args(words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
    };
    // The first start makes the home.
    ok(&["--daemon"]);
    ok(&["stop"]);
    tokio::runtime::Runtime::new().unwrap().block_on(fill(&folder.path().join("home")));
    ok(&["--daemon"]);
    let method = format!("`oubliette --version`, from spawn to exit; {RUNS} runs, median");
    print("cli_start", timed(folder.path(), &["--version"], 1), &method);
    let list = timed(folder.path(), &["session", "list"], 101);
    let method = format!(
        "`oubliette session list` with {SESSIONS} sessions in the store, the newest 100 shown, from spawn to exit; \
         {RUNS} runs, median"
    );
    print("cli_list", list, &method);
    let limit = PAGE_MAX.to_string();
    let list = timed(folder.path(), &["session", "list", "--limit", &limit], PAGE_MAX as usize + 1);
    let method = format!("the same with `--limit {limit}`, the most of one list");
    print("cli_list_whole_page", list, &method);
    ok(&["stop"]);
}
