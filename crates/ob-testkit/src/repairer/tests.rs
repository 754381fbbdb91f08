//! Whole repairs, on real repositories with real compilers.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use serde_json::json;

use super::Call;
use super::Step;
use super::next_step;
use super::serve::Pace;
use super::serve::router;
use crate::fixtures;

/// No repair takes more calls than an agent allows in a turn.
const MAX_CALLS: usize = 100;

fn tools() -> Vec<Value> {
    ["list", "read", "write", "edit", "search", "run"]
        .into_iter()
        .map(|name| json!({"type": "function", "function": {"name": name, "parameters": {}}}))
        .collect()
}

/// An agent in a folder: calls the tools that the model asks for, until it stops.
struct Agent<'a> {
    dir: &'a Path,
    messages: Vec<Value>,
    calls: Vec<Call>,
}

impl<'a> Agent<'a> {
    fn new(dir: &'a Path) -> Self {
        let messages = vec![
            json!({"role": "system", "content": "You are an agent."}),
            json!({"role": "user", "content": "The tests fail. Find the fault and repair it."}),
        ];
        Self { dir, messages, calls: Vec::new() }
    }

    /// Runs to the end; the last words of the model.
    fn work(&mut self) -> String {
        loop {
            match next_step(&self.messages, &tools()) {
                Step::Say(text) => {
                    self.messages.push(json!({"role": "assistant", "content": text}));
                    return text;
                }
                step @ Step::Call { .. } => self.perform(step),
            }
        }
    }

    fn perform(&mut self, step: Step) {
        let Step::Call { say, call, number } = step else { panic!("a call") };
        assert!(self.calls.len() < MAX_CALLS, "too many calls: {:#?}", self.calls);
        assert!(!say.is_empty());
        let result = tool(self.dir, &call);
        let function = json!({"name": call.name, "arguments": call.arguments.to_string()});
        let id = format!("call_{number}");
        self.messages.push(json!({"role": "assistant", "content": say, "tool_calls": [
            {"id": id, "type": "function", "function": function}
        ]}));
        self.messages.push(json!({"role": "tool", "tool_call_id": id, "content": result}));
        self.calls.push(call);
    }
}

fn tool(dir: &Path, call: &Call) -> String {
    let text = |name: &str| call.arguments[name].as_str().unwrap_or_default().to_string();
    let number =
        |name: &str| usize::try_from(call.arguments[name].as_u64().expect("a number")).expect("small");
    match call.name.as_str() {
        "list" => files(dir).join("\n"),
        "read" => {
            let content = std::fs::read_to_string(dir.join(text("path"))).expect("a file that was listed");
            let (offset, limit) = (number("offset"), number("limit"));
            let lines = content.lines().enumerate().skip(offset - 1).take(limit);
            lines.map(|(index, line)| format!("{:>6}\t{line}\n", index + 1)).collect()
        }
        "search" => {
            let pattern = regex::Regex::new(&text("pattern")).expect("a pattern");
            let mut found = String::new();
            for file in files(dir) {
                let content = std::fs::read_to_string(dir.join(&file)).unwrap_or_default();
                for (index, line) in content.lines().enumerate().filter(|(_, line)| pattern.is_match(line)) {
                    found.push_str(&[&file, ":", &(index + 1).to_string(), ": ", line, "\n"].concat());
                }
            }
            found
        }
        "edit" => {
            let path = dir.join(text("path"));
            let content = std::fs::read_to_string(&path).expect("a file that was read");
            let (old, new) = (text("old"), text("new"));
            if content.matches(&old).count() != 1 {
                return format!("error: `old` occurs {} times", content.matches(&old).count());
            }
            std::fs::write(&path, content.replacen(&old, &new, 1)).expect("written");
            format!("edited `{}` at line 1", text("path"))
        }
        "run" => {
            let output = Command::new("sh")
                .current_dir(dir)
                .arg("-c")
                .arg(text("command"))
                .env_remove("RUST_BACKTRACE")
                .env("CARGO_TARGET_DIR", dir.join("target"))
                .env("PYTHONDONTWRITEBYTECODE", "1")
                .output()
                .expect("a shell");
            let (out, err) =
                (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            format!("{out}{err}exit code: {}", output.status.code().expect("it exits"))
        }
        other => panic!("the agent has no tool `{other}`"),
    }
}

/// The files of a folder, without what tests build.
fn files(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() && !path.ends_with("target") && !path.ends_with(".git") {
                folders.push(path);
            } else if path.is_file() {
                found.push(path.strip_prefix(dir).expect("inside").to_str().expect("text").to_string());
            }
        }
    }
    found.sort();
    found
}

fn snapshot(dir: &Path, names: &[(&str, &str)]) -> Vec<String> {
    names.iter().map(|(name, _)| std::fs::read_to_string(dir.join(name)).expect("still there")).collect()
}

fn temporary() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

/// Writes the demonstration repository with its own fault mended and another put in.
fn demo_with(path: &str, right: &str, wrong: &str) -> tempfile::TempDir {
    let dir = temporary();
    fixtures::demo_repo(dir.path()).expect("git is installed");
    let replace = |path: &str, from: &str, to: &str| {
        let path = dir.path().join(path);
        let content = std::fs::read_to_string(&path).expect("a file of the fixture");
        assert!(content.contains(from), "{from}");
        std::fs::write(path, content.replace(from, to)).expect("written");
    };
    replace("src/interval.rs", "self.start <= other.end", "self.start < other.end");
    replace(path, right, wrong);
    dir
}

#[test]
fn the_demonstration_repository_is_repaired() {
    let dir = temporary();
    fixtures::demo_repo(dir.path()).expect("git is installed");
    let mut agent = Agent::new(dir.path());
    let said = agent.work();
    assert!(said.starts_with("Repaired: all tests pass now."), "{said}");
    assert!(said.contains("src/interval.rs:38"), "{said}");
    let mended = std::fs::read_to_string(dir.path().join("src/interval.rs")).expect("still there");
    assert!(mended.contains("self.start < other.end && other.start < self.end"), "{mended}");
    let used: Vec<&str> = agent.calls.iter().map(|call| call.name.as_str()).collect();
    for name in ["list", "run", "read", "search", "edit"] {
        assert!(used.contains(&name), "{used:?}");
    }
    // Asked again, it finds nothing to do.
    agent.messages.push(json!({"role": "user", "content": "And now?"}));
    assert!(agent.work().starts_with("All tests pass already"), "{:?}", agent.messages.last());
}

#[test]
fn other_faults_in_the_same_repository_are_repaired_as_well() {
    for (path, right, wrong) in [
        ("src/interval.rs", "minute < self.end", "minute <= self.end"),
        ("src/interval.rs", "self.end - self.start", "self.end + self.start"),
        ("src/calendar.rs", "free_from.max(taken.end())", "free_from.min(taken.end())"),
        ("src/calendar.rs", "gap.end() <= until", "gap.end() >= until"),
    ] {
        let dir = demo_with(path, right, wrong);
        let said = Agent::new(dir.path()).work();
        assert!(said.starts_with("Repaired"), "{wrong}: {said}");
    }
}

#[test]
fn a_fault_that_no_small_change_mends_is_admitted_and_the_files_are_as_they_were() {
    let dir = demo_with("src/calendar.rs", "(when, title.to_string())", "(when, title.to_uppercase())");
    let before = snapshot(dir.path(), &fixtures::DEMO_REPO);
    let mut agent = Agent::new(dir.path());
    let said = agent.work();
    assert!(said.starts_with("I could not repair this."), "{said}");
    assert!(said.contains("the files are as they were"), "{said}");
    assert_eq!(snapshot(dir.path(), &fixtures::DEMO_REPO), before);
    let edits = agent.calls.iter().filter(|call| call.name == "edit").count();
    assert!(edits > 0 && edits.is_multiple_of(2), "each change is taken back: {edits}");
}

#[test]
fn a_c_program_is_repaired_through_its_makefile() {
    let dir = temporary();
    let files = [
        (
            "Makefile",
            "test: test_ring\n\t./test_ring\ntest_ring: test_ring.c ring.c ring.h\n\t$(CC) -o $@ test_ring.c ring.c\n",
        ),
        ("ring.h", "int ring_next(int index, int size);\nint ring_distance(int from, int to, int size);\n"),
        (
            "ring.c",
            "#include \"ring.h\"\n\nint ring_next(int index, int size)\n{\n    return index >= size ? 0 : index + 1;\n}\n\n\
             int ring_distance(int from, int to, int size)\n{\n    return (to - from + size) % size;\n}\n",
        ),
        (
            "test_ring.c",
            "#include <assert.h>\n#include \"ring.h\"\n\nint main(void)\n{\n    assert(ring_distance(6, 1, 8) == 3);\n    \
             assert(ring_next(0, 7) == 1);\n    assert(ring_next(6, 7) == 7);\n    assert(ring_next(7, 8) == 8);\n    \
             assert(ring_next(8, 8) == 0);\n    assert(ring_distance(1, 6, 8) == 5);\n    return 0;\n}\n",
        ),
    ];
    fixtures::repo(dir.path(), &files).expect("git is installed");
    let ring = dir.path().join("ring.c");
    let broken = std::fs::read_to_string(&ring).expect("written").replace("to - from", "to + from");
    std::fs::write(&ring, broken).expect("written");
    let said = Agent::new(dir.path()).work();
    assert!(said.starts_with("Repaired") && said.contains("ring.c:10"), "{said}");
}

#[test]
fn a_python_module_is_repaired_with_whatever_runs_its_tests() {
    let dir = temporary();
    let files = [
        (
            "cart.py",
            "def total(prices, discount):\n    return sum(prices) + discount\n\n\ndef is_free(prices):\n    return total(prices, 0) == 0\n",
        ),
        (
            "test_cart.py",
            "import unittest\n\nfrom cart import is_free, total\n\n\nclass CartTest(unittest.TestCase):\n    def test_total(self):\n        \
             self.assertEqual(total([3, 4], 2), 5)\n\n    def test_free(self):\n        self.assertTrue(is_free([]))\n",
        ),
    ];
    fixtures::repo(dir.path(), &files).expect("git is installed");
    let said = Agent::new(dir.path()).work();
    assert!(said.starts_with("Repaired") && said.contains("cart.py:2"), "{said}");
}

#[test]
fn a_shell_script_is_repaired() {
    let dir = temporary();
    let files = [
        (
            "grade.sh",
            "grade() {\n  if [ \"$1\" -gt 50 ]; then\n    echo pass\n  else\n    echo fail\n  fi\n}\n",
        ),
        (
            "test.sh",
            ". ./grade.sh\nfor case in 49:fail 50:pass 51:pass; do\n  got=$(grade \"${case%:*}\")\n  if [ \"$got\" != \
             \"${case#*:}\" ]; then\n    echo \"FAIL: grade ${case%:*}: expected ${case#*:} got $got\"\n    exit 1\n  \
             fi\ndone\n",
        ),
    ];
    fixtures::repo(dir.path(), &files).expect("git is installed");
    let said = Agent::new(dir.path()).work();
    assert!(said.starts_with("Repaired") && said.contains("grade.sh:2"), "{said}");
}

#[test]
fn two_faults_are_repaired_one_after_the_other() {
    let dir = demo_with("src/interval.rs", "minute < self.end", "minute <= self.end");
    let calendar = dir.path().join("src/calendar.rs");
    let content = std::fs::read_to_string(&calendar).expect("a file of the fixture");
    std::fs::write(&calendar, content.replace("gap.end() <= until", "gap.end() >= until")).expect("written");
    let said = Agent::new(dir.path()).work();
    assert!(said.starts_with("Repaired"), "{said}");
    assert!(said.contains("src/interval.rs:") && said.contains("src/calendar.rs:"), "{said}");
}

#[test]
fn what_cannot_be_repaired_is_said_at_once() {
    for (files, expected) in [
        (&[("notes.txt", "nothing here")][..], "no way to run tests"),
        (&[("Makefile", "test:\n\t@no-such-program-anywhere\n")], "cannot run the tests"),
        (&[("test.sh", "exit 0\n")], "All tests pass already"),
        (&[("test.sh", "exit 1\n"), ("empty.txt", "")], "found no line"),
    ] {
        let dir = temporary();
        fixtures::repo(dir.path(), files).expect("git is installed");
        let before = snapshot(dir.path(), files);
        let said = Agent::new(dir.path()).work();
        assert!(
            said.contains(expected) || expected.starts_with("cannot") && said.contains("could not"),
            "{said}"
        );
        assert_eq!(snapshot(dir.path(), files), before);
    }
    let Step::Say(said) = next_step(&[json!({"role": "user", "content": "x"})], &tools()[..3]) else {
        panic!("it cannot call what it is not offered");
    };
    assert!(said.contains("`search`, `edit`, `run`"), "{said}");
}

#[test]
fn a_prompt_that_comes_twice_goes_on_where_the_first_was_cut() {
    let dir = temporary();
    fixtures::demo_repo(dir.path()).expect("git is installed");
    let mut agent = Agent::new(dir.path());
    // As far as its first edit; then the server dies and the turn is prompted again.
    while !agent.calls.iter().any(|call| call.name == "edit") {
        let step = next_step(&agent.messages, &tools());
        agent.perform(step);
    }
    agent.messages.push(json!({"role": "user", "content": "The tests fail. Find the fault and repair it."}));
    let said = agent.work();
    assert!(said.starts_with("Repaired"), "{said}");
    assert_eq!(agent.calls.iter().filter(|call| call.name == "list").count(), 1);
}

#[test]
fn a_lost_result_of_a_run_is_asked_for_again() {
    let dir = temporary();
    fixtures::demo_repo(dir.path()).expect("git is installed");
    let mut agent = Agent::new(dir.path());
    while !agent.calls.iter().any(|call| call.name == "run") {
        let step = next_step(&agent.messages, &tools());
        agent.perform(step);
    }
    agent.messages.last_mut().expect("a result")["content"] = json!("interrupted");
    assert!(agent.work().starts_with("Repaired"));
}

#[test]
fn a_conversation_that_lost_its_beginning_is_not_guessed_at() {
    let dir = temporary();
    fixtures::demo_repo(dir.path()).expect("git is installed");
    let mut agent = Agent::new(dir.path());
    for _ in 0..3 {
        let step = next_step(&agent.messages, &tools());
        agent.perform(step);
    }
    agent.messages.drain(2..4);
    let Step::Say(said) = next_step(&agent.messages, &tools()) else { panic!("it must not go on") };
    assert!(said.contains("no longer all in the conversation"), "{said}");
}

#[tokio::test]
async fn streamed_and_whole_say_the_same() {
    use tokio::io::AsyncReadExt as _;
    use tokio::io::AsyncWriteExt as _;

    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let pace = Pace { between_pieces: std::time::Duration::ZERO };
    let serving = tokio::spawn(async move { axum::serve(listener, router(pace)).await });
    let ask = async |stream: bool, messages: Value| {
        let body = json!({
            "messages": messages, "tools": tools(), "stream": stream, "stream_options": {"include_usage": true},
        })
        .to_string();
        let head = format!(
            "POST /v1/chat/completions HTTP/1.0\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let mut connection = tokio::net::TcpStream::connect(address).await.expect("it listens");
        connection.write_all(format!("{head}{body}").as_bytes()).await.expect("sent");
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.expect("an answer");
        answer.split_once("\r\n\r\n").expect("a head").1.to_string()
    };
    let messages = json!([{"role": "user", "content": "go"}]);
    let whole: Value = serde_json::from_str(&ask(false, messages.clone()).await).expect("JSON");
    let message = &whole["choices"][0]["message"];
    assert_eq!(message["tool_calls"][0]["function"]["name"], "list");
    let (mut text, mut arguments, mut usage) = (String::new(), String::new(), Value::Null);
    let streamed = ask(true, messages).await;
    let events: Vec<&str> = streamed.split("\n\n").filter(|event| !event.is_empty()).collect();
    assert_eq!(events.last(), Some(&"data: [DONE]"));
    for event in &events[..events.len() - 1] {
        let chunk: Value = serde_json::from_str(event.strip_prefix("data: ").expect("data")).expect("JSON");
        let delta = &chunk["choices"][0]["delta"];
        text.push_str(delta["content"].as_str().unwrap_or_default());
        arguments.push_str(delta["tool_calls"][0]["function"]["arguments"].as_str().unwrap_or_default());
        if chunk["usage"].is_object() {
            usage = chunk["usage"].clone();
        }
    }
    assert_eq!(text, message["content"].as_str().expect("it says who it is"));
    assert!(text.contains("not a language model"));
    assert_eq!(arguments, message["tool_calls"][0]["function"]["arguments"].as_str().expect("text"));
    assert!(usage["prompt_tokens"].as_u64().is_some_and(|tokens| tokens > 0));
    assert!(ask(false, Value::Null).await.contains("invalid_request"));
    serving.abort();
}
