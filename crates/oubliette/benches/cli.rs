//! The command line, timed as a person has it, whole process: the shortest command, and a list on a large home.
//!
//! A plain program: `cargo bench -p oubliette --bench cli [-- --json]`.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot be made ends the program")]

use std::path::Path;
use std::time::Instant;

use ob_core::ledger::TreeLimits;
use ob_core::model::ModelRef;
use ob_core::model::ModelSource;
use ob_core::session::SessionState;
use ob_store::Commit;
use ob_store::Write;
use ob_store::sqlite::SqliteOptions;
use ob_testkit::bench::Program;
use ob_testkit::bench::median;
use ob_testkit::bench::print;
use ob_testkit::fixtures;

/// Stored sessions, all of them over.
const SESSIONS: u32 = 10_000;
/// Runs of each command.
const RUNS: usize = 60;
/// Sessions that the server lists at once, at most.
const PAGE_MAX: u32 = 1000;

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
fn timed(program: &Program, words: &[&str], lines: usize) -> f64 {
    let mut samples: Vec<f64> = (0..RUNS)
        .map(|_| {
            let mut command = program.command(words);
            let began = Instant::now();
            let output = command.output().unwrap();
            let took = began.elapsed().as_secs_f64() * 1e3;
            let printed = output.stdout.iter().filter(|byte| **byte == b'\n').count();
            assert!(output.status.success() && printed == lines, "{words:?}: {printed} lines, {output:?}");
            took
        })
        .collect();
    median(&mut samples)
}

fn main() {
    let json = std::env::args().any(|argument| argument == "--json");
    let program = Program::new(env!("CARGO_BIN_EXE_oubliette"));
    let ok = |words: &[&str]| {
        let output = program.command(words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
    };
    // The first start makes the home.
    ok(&["--daemon"]);
    ok(&["stop"]);
    tokio::runtime::Runtime::new().unwrap().block_on(fill(&program.home()));
    ok(&["--daemon"]);
    let method = format!("`oubliette --version`, from spawn to exit; {RUNS} runs, median");
    print(json, "cli_start", timed(&program, &["--version"], 1), "ms", &method);
    let list = timed(&program, &["session", "list"], 101);
    let method = format!(
        "`oubliette session list` with {SESSIONS} sessions in the store, the newest 100 shown, from spawn to exit; \
         {RUNS} runs, median"
    );
    print(json, "cli_list", list, "ms", &method);
    let limit = PAGE_MAX.to_string();
    let list = timed(&program, &["session", "list", "--limit", &limit], PAGE_MAX as usize + 1);
    let method = format!("the same with `--limit {limit}`, the most of one list");
    print(json, "cli_list_whole_page", list, "ms", &method);
    ok(&["stop"]);
}
