//! Small repositories whose tests fail, and a model that follows what the tools say: it goes on only when it saw what it needs to
//! know. What the repositories look like is in `tests/repairs`, beside what the model does.

use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;

use serde::Deserialize;
use serde_json::Value;
use serde_json::json;

use crate::harness::Agent;
use crate::harness::Bench;
use crate::harness::Model;
use crate::harness::Reply;
use crate::harness::assert_valid_history;
use crate::harness::calls;
use crate::harness::contents;
use crate::harness::delta;
use crate::harness::open_stream;
use crate::harness::said;
use crate::harness::status;

/// A repository, and how it is mended.
#[derive(Clone, Deserialize)]
struct Repair {
    task: String,
    /// A command whose exit code says whether it is mended.
    test: String,
    steps: Vec<Step>,
    /// The model's last words.
    done: String,
}

/// Calls of one answer, and what their results must show.
#[derive(Clone, Deserialize)]
struct Step {
    calls: Vec<(String, Value)>,
    sees: Vec<String>,
}

/// The model of a repair: the steps that were made, and an answer that went wrong before it is given whole.
struct Follower {
    repair: Repair,
    made: usize,
    broken: Option<(usize, Reply)>,
}

// === impl Repair ===

impl Repair {
    fn named(name: &str) -> Self {
        let text = std::fs::read_to_string(folder().join(format!("{name}.json"))).expect("it is readable");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// With a step before the one of this number.
    fn with(mut self, at: usize, step: &[(&str, Value)], sees: &[&str]) -> Self {
        let calls = step.iter().map(|(name, arguments)| ((*name).to_owned(), arguments.clone())).collect();
        let sees = sees.iter().map(|text| (*text).to_owned()).collect();
        self.steps.insert(at, Step { calls, sees });
        self
    }

    fn test(&self, workspace: &Path) -> Output {
        let mut test = Command::new("sh");
        test.args(["-c", &self.test]).current_dir(workspace).env("PYTHONDONTWRITEBYTECODE", "1");
        test.output().expect("there is a shell")
    }

    /// Lets the agent do it, and checks that it is done. `broken` goes wrong in place of the answer of that number.
    fn run(self, name: &str, broken: Option<(usize, Reply)>) -> Agent {
        let mut follower = Follower { repair: self.clone(), made: 0, broken };
        let model = Model::following(move |request| follower.answer(request));
        let bench = Bench::new(&model);
        copy(&folder().join(name), &bench.workspace());
        assert!(
            !self.test(&bench.workspace()).status.success(),
            "{name}: the control: its tests fail before"
        );
        let (mut agent, session) = bench.session();
        let response = agent.turn(&session, &self.task);
        let said = agent.text("agent_message_chunk");
        assert_eq!(response["result"]["stopReason"], "end_turn", "{name}: {response}");
        assert!(said.ends_with(&self.done), "{name}: {said}");
        let tested = self.test(&bench.workspace());
        assert!(tested.status.success(), "{name}: {}", String::from_utf8_lossy(&tested.stdout));
        model.requests().iter().for_each(assert_valid_history);
        agent
    }
}

// === impl Follower ===

impl Follower {
    fn answer(&mut self, request: &Value) -> Reply {
        if let Some((_, reply)) = self.broken.take_if(|(at, _)| *at == self.made) {
            return reply;
        }
        if let Some(last) = self.made.checked_sub(1).and_then(|last| self.repair.steps.get(last)) {
            let results = contents(request, "tool");
            let new = results[results.len() - last.calls.len()..].join("\n");
            if let Some(missing) = last.sees.iter().find(|text| !new.contains(*text)) {
                return said(&format!("I am lost: there is no {missing:?} in {new}"));
            }
        }
        self.made += 1;
        match self.repair.steps.get(self.made - 1) {
            Some(step) => {
                let step: Vec<(&str, Value)> =
                    step.calls.iter().map(|(name, arguments)| (name.as_str(), arguments.clone())).collect();
                calls(&step)
            }
            None => said(&self.repair.done),
        }
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/repairs")
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-r").arg(from.join(".")).arg(to).status();
    assert!(status.expect("there is cp").success());
}

/// True if the machine has what a repository's tests need; with `CI=true` it must.
fn can_test(name: &str) -> bool {
    let program = match name.split('-').next() {
        Some("py") => "python3",
        Some("c") => "cc",
        Some("js") => "node",
        _ => "sh",
    };
    let is_there = Command::new(program).arg("--version").output().is_ok();
    assert!(is_there || std::env::var_os("CI").is_none(), "{program} is not installed");
    is_there
}

fn repairs(names: &[&str]) {
    for name in names.iter().filter(|name| can_test(name)) {
        Repair::named(name).run(name, None);
    }
}

#[test]
fn repositories_in_python_are_repaired() {
    repairs(&["py-slugs", "py-shares", "py-cache", "py-settings"]);
}

#[test]
fn repositories_in_c_and_shell_are_repaired() {
    repairs(&["c-ring", "c-text", "sh-rotate"]);
}

#[test]
fn repositories_in_javascript_are_repaired() {
    repairs(&["js-query", "js-versions", "js-queue"]);
}

#[test]
fn a_model_that_does_not_see_what_it_needs_repairs_nothing() {
    let mut lost = Repair::named("sh-rotate");
    lost.steps[0].sees = vec!["what no test says".to_owned()];
    let failed = std::panic::catch_unwind(|| lost.run("sh-rotate", None));
    assert!(failed.is_err(), "the control: these tests can fail");
}

/// The repair with an answer that is broken in the middle of the work.
fn survives_answer(reply: Reply, told: &str) {
    let agent = Repair::named("sh-rotate").run("sh-rotate", Some((2, reply)));
    let thoughts = agent.text("agent_thought_chunk");
    assert!(thoughts.contains(told), "{thoughts}");
}

/// The repair with a call that fails in the middle of the work.
fn survives_call(calls: &[(&str, Value)], sees: &[&str]) {
    Repair::named("sh-rotate").with(1, calls, sees).run("sh-rotate", None);
}

#[test]
fn a_fault_of_the_model_500_is_survived() {
    survives_answer(status("500 Internal Server Error", "", "oops"), "oops; asking again");
}

#[test]
fn a_fault_of_the_model_429_is_survived() {
    let body = r#"{"error":{"message":"slow down"}}"#;
    survives_answer(status("429 Too Many Requests", "retry-after: 0\r\n", body), "slow down; asking again");
}

#[test]
fn a_fault_of_the_model_a_cut_stream_is_survived() {
    let half = delta(json!({"tool_calls": [{"index": 0, "id": "x", "function":
        {"name": "write", "arguments": "{\"path\": \"rotate.sh\", \"content\": \"\"}"}}]}));
    survives_answer(Reply::Raw(open_stream(&[half])), "cut off");
}

#[test]
fn a_fault_of_the_model_garbage_arguments_is_survived() {
    survives_call(
        &[("edit", json!("not even an object")), ("read", json!({"file": "rotate.sh"}))],
        &["they must be a JSON object", "unknown field `file`"],
    );
}

#[test]
fn a_fault_of_the_model_an_unknown_tool_is_survived() {
    survives_call(
        &[("str_replace_editor", json!({"command": "view"}))],
        &["there is no tool `str_replace_editor`"],
    );
}

#[test]
fn a_fault_of_the_model_a_loop_is_told_and_survived() {
    let look = || [("run", json!({"command": "sh test.sh"}))];
    let mut repair = Repair::named("sh-rotate");
    for _ in 0..3 {
        repair = repair.with(1, &look(), &["plain: left"]);
    }
    repair.steps[3].sees = vec!["this call gave the same result 4 times".to_owned()];
    repair.run("sh-rotate", None);
}

#[test]
fn a_fault_of_the_tools_one_that_hangs_is_survived() {
    let hangs = json!({"command": "sleep 600 & sleep 600", "timeout_s": 1});
    survives_call(&[("run", hangs)], &["killed: it took longer than 1 s"]);
}

#[test]
fn a_fault_of_the_tools_a_flood_is_survived() {
    survives_call(
        &[("run", json!({"command": "yes 'all work and no play' | head -c 20000000"}))],
        &["bytes left out", "look there with `search` and `read`"],
    );
}

#[test]
fn a_fault_of_the_files_one_that_vanished_is_survived() {
    survives_call(
        &[
            ("run", json!({"command": "mv rotate.sh kept"})),
            ("edit", json!({"path": "rotate.sh", "old": "a", "new": "b"})),
            ("patch", json!({"patch": "--- a/rotate.sh\n+++ b/rotate.sh\n@@\n-a\n+b\n"})),
            ("run", json!({"command": "mv kept rotate.sh"})),
        ],
        &["`rotate.sh` does not exist", "nothing was changed"],
    );
}

#[test]
fn a_fault_of_the_files_one_that_cannot_be_written_is_survived() {
    // One that not even root can write.
    survives_call(
        &[
            ("edit", json!({"path": "/proc/version", "old": "Linux", "new": "Minix"})),
            ("write", json!({"path": "/proc/version", "content": "Minix"})),
        ],
        &["cannot edit `/proc/version`", "cannot write `/proc/version`"],
    );
}
