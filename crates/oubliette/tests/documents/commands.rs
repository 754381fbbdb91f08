//! Runs what the documents tell people to type: each `sh` block of a page, in order, in one shell, in a home of its own.
//!
//! A `text` block behind a `sh` block is what it prints, where `…` stands for anything, and a line of only `…` for any
//! number of lines. What cannot be so in a test is put in place of what the page says by [`SUBSTITUTES`]; what cannot be
//! run at all is in [`MAKE`].

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use ob_testkit::Answer;
use ob_testkit::ModelServer;
use ob_testkit::model_server::Step;
use serde_json::json;
use tempfile::TempDir;

use crate::links::documents;
use crate::read;

/// Longer than any page takes on a busy machine; only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(180);

/// Pages whose commands are run.
const RUN: [&str; 6] = [
    "README.md",
    "docs/concepts.md",
    "docs/doctor.md",
    "docs/mcp.md",
    "docs/quick-start.md",
    "docs/troubleshooting.md",
];

/// Lines that build or test this repository itself, by their first two words. Each must be a target of the Makefile.
const MAKE: [&str; 3] = ["make build", "make demo", "make test"];

/// What a page says, and what is there in a test.
const SUBSTITUTES: [(&str, &str); 3] = [
    // The program that the test was built with, instead of a release build.
    ("$PWD/target/release", "$TEST_PROGRAMS"),
    // The scripted model on loopback, instead of a provider that costs money.
    ("https://api.openai.com/v1", "$TEST_MODEL"),
    // Tests run beside each other, so each server has a port of its own, which only the server knows.
    ("localhost:8080", "$(oubliette status | awk '/^addresses/ { print $2 }')"),
];

/// A block of commands, and what it is to print, if the page says so.
#[derive(Debug, PartialEq, Eq)]
struct Block {
    line: usize,
    commands: String,
    prints: Option<String>,
}

/// A person's folder, with what the page takes for granted.
struct Scratch {
    dir: TempDir,
    model: String,
}

// === impl Scratch ===

impl Scratch {
    fn new(model: &ModelServer) -> Self {
        let scratch = Self { dir: tempfile::tempdir().unwrap(), model: model.base_url() };
        // The clone of this repository, in which nothing is built here.
        std::fs::create_dir(scratch.dir.path().join("oubliette")).unwrap();
        let person = "[user]\n\tname = T\n\temail = t@localhost\n[init]\n\tdefaultBranch = main\n";
        std::fs::write(scratch.dir.path().join(".gitconfig"), person).unwrap();
        scratch
    }

    /// `~/src/thing`: a repository whose test fails.
    fn with_thing(&self) {
        let thing = self.dir.path().join("src/thing");
        std::fs::create_dir_all(&thing).unwrap();
        std::fs::write(thing.join("sum.sh"), "echo $(( $1 - $2 ))\n").unwrap();
        std::fs::write(thing.join("test.sh"), "[ \"$(sh sum.sh 2 3)\" = 5 ]\n").unwrap();
        let commit = "git init -q && git add . && git commit -q -m first";
        assert!(self.command("sh").args(["-c", commit]).current_dir(thing).status().unwrap().success());
    }

    /// A program with what a person has, and nothing of this test's own environment.
    fn command(&self, program: &str) -> Command {
        let programs = Path::new(env!("CARGO_BIN_EXE_oubliette")).parent().unwrap();
        let mut path = programs.as_os_str().to_owned();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap());
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.dir.path())
            .env("OUBLIETTE_SERVER__ADDRESS", "127.0.0.1:0")
            .env("TEST_PROGRAMS", programs)
            .env("TEST_MODEL", &self.model)
            .current_dir(self.dir.path().join("oubliette"))
            .stdin(Stdio::null());
        command
    }

    /// Runs the blocks in one shell; what each printed. Fails with the output of the one that failed.
    fn run(&self, page: &str, blocks: &[Block]) -> Vec<String> {
        let file = |number: usize, kind: &str| self.dir.path().join(format!("block-{number}.{kind}"));
        let mut script = "set -e\n".to_owned();
        for (number, block) in blocks.iter().enumerate() {
            std::fs::write(file(number, "sh"), here(&block.commands)).unwrap();
            let (sh, out) = (file(number, "sh"), file(number, "out"));
            writeln!(script, ". {} > {} 2>&1", sh.display(), out.display()).unwrap();
        }
        let mut shell = self
            .command("sh")
            .args(["-c", &script])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            match shell.try_wait().unwrap() {
                Some(status) => break Some(status),
                None if Instant::now() > deadline => {
                    shell.kill().unwrap();
                    shell.wait().unwrap();
                    break None;
                }
                None => std::thread::park_timeout(Duration::from_millis(20)),
            }
        };
        let printed: Vec<String> = (0..blocks.len())
            .map_while(|number| std::fs::read(file(number, "out")).ok())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .collect();
        let failed = printed.len().saturating_sub(1);
        let how = match status {
            Some(status) if status.success() => {
                assert_eq!(printed.len(), blocks.len());
                return printed;
            }
            Some(status) => format!("{status}"),
            None => format!("no end within {PATIENCE:?}"),
        };
        panic!(
            "{page}:{}: {how}\n--- typed\n{}\n--- printed\n{}",
            blocks[failed].line, blocks[failed].commands, printed[failed]
        );
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(self.command("oubliette").arg("stop").output());
    }
}

/// The commands as they are run here.
fn here(commands: &str) -> String {
    let mut text = String::new();
    for line in commands.lines().filter(|line| !is_make(line)) {
        let line = SUBSTITUTES.iter().fold(line.to_owned(), |line, (said, here)| line.replace(said, here));
        text.extend([&line, "\n"]);
    }
    text
}

fn is_make(line: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().take(2).collect();
    MAKE.contains(&words.join(" ").as_str())
}

/// The blocks of a page.
fn blocks(page: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut lines = page.lines().enumerate();
    // True while nothing but prose has come since the last block of commands.
    let mut may_print = false;
    while let Some((number, line)) = lines.next() {
        let Some(language) = line.strip_prefix("```") else {
            may_print &= !line.starts_with('#');
            continue;
        };
        let body: Vec<&str> =
            lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```").collect();
        let body = body.join("\n") + "\n";
        match language {
            "sh" => blocks.push(Block { line: number + 1, commands: body, prints: None }),
            "text" if may_print => blocks.last_mut().unwrap().prints = Some(body),
            _ => {}
        }
        may_print = language == "sh";
    }
    blocks
}

/// True if this is what was to be printed.
fn fits(expected: &[&str], printed: &[&str]) -> bool {
    match expected {
        [] => printed.is_empty(),
        ["…", rest @ ..] => (0..=printed.len()).any(|skipped| fits(rest, &printed[skipped..])),
        [line, rest @ ..] => {
            printed.split_first().is_some_and(|(first, others)| line_fits(line, first) && fits(rest, others))
        }
    }
}

fn line_fits(expected: &str, printed: &str) -> bool {
    match expected.split_once('…') {
        None => expected.trim_end() == printed.trim_end(),
        Some((before, after)) => printed.strip_prefix(before).is_some_and(|rest| {
            rest.char_indices().map(|(at, _)| at).chain([rest.len()]).any(|at| line_fits(after, &rest[at..]))
        }),
    }
}

/// Runs a page and compares what it says with what was printed.
async fn run(page: &'static str, model: ModelServer, prepare: fn(&Scratch)) {
    tokio::task::spawn_blocking(move || {
        let scratch = Scratch::new(&model);
        prepare(&scratch);
        let blocks = blocks(&read(page));
        let printed = scratch.run(page, &blocks);
        for (block, printed) in blocks.iter().zip(&printed) {
            let Some(expected) = &block.prints else { continue };
            assert!(
                fits(&expected.lines().collect::<Vec<_>>(), &printed.lines().collect::<Vec<_>>()),
                "{page}:{} prints something else\n--- expected\n{expected}\n--- printed\n{printed}",
                block.line
            );
        }
    })
    .await
    .unwrap();
}

/// The repair of `~/src/thing`.
fn repair(model: &ModelServer) {
    model.push(Answer::tool("read", json!({ "path": "sum.sh" })));
    model.push(Answer::tool("edit", json!({ "path": "sum.sh", "old": "$1 - $2", "new": "$1 + $2" })));
    model.push(Answer::tool("run", json!({ "command": "sh test.sh" })));
    model.push(Answer::text("Mended: it subtracted."));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_front_page_can_be_typed() {
    if !can_run() {
        return;
    }
    let model = ModelServer::start().await.unwrap();
    repair(&model);
    run("README.md", model, Scratch::with_thing).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_quick_start_can_be_typed() {
    if !can_run() {
        return;
    }
    let model = ModelServer::start().await.unwrap();
    repair(&model);
    model.push(Answer::text("It adds."));
    model.push(Answer::tool("run", json!({ "command": "sh sum.sh -2 -3" })));
    model.push(Answer::text("It adds these as well."));
    model.push(Answer::tool("write", json!({ "path": "README.md", "content": "# A sum\n" })));
    model.push(Answer::text("Written."));
    // The task that is interrupted: nothing comes until it is, and the model may not even be asked before.
    model.push(Answer::text("never").before_head(Step::Hang));
    run("docs/quick-start.md", model, |_| {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_concepts_can_be_typed() {
    if !can_run() {
        return;
    }
    run("docs/concepts.md", ModelServer::start().await.unwrap(), |_| {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_doctor_looks_at_can_be_typed() {
    if !can_run() {
        return;
    }
    run("docs/doctor.md", ModelServer::start().await.unwrap(), |_| {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn troubleshooting_can_be_typed() {
    if !can_run() {
        return;
    }
    run("docs/troubleshooting.md", ModelServer::start().await.unwrap(), |_| {}).await;
}

#[test]
fn every_check_of_doctor_is_on_its_page_as_required_as_it_is() {
    let home = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_oubliette"))
        .args(["doctor", "--json", "--dir"])
        .arg(home.path())
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .envs([("OPENAI_BASE_URL", "http://127.0.0.1:1/v1"), ("OUBLIETTE_SERVER__ADDRESS", "127.0.0.1:0")])
        .output()
        .unwrap();
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let page = read("docs/doctor.md");
    let listed: Vec<(&str, &str)> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
        .filter_map(|(name, rest)| Some((name, rest.split_once(" | ")?.0)))
        .collect();
    let found: Vec<(String, &str)> = said["checks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|check| {
            let name = check["name"].as_str().unwrap().replace(":openai", ":NAME");
            (name, if check["required"] == true { "yes" } else { "no" })
        })
        .collect();
    let found: Vec<(&str, &str)> = found.iter().map(|(name, required)| (name.as_str(), *required)).collect();
    assert_eq!(listed, found);
}

#[test]
fn no_page_has_commands_that_are_not_run() {
    for page in documents() {
        let page = page.to_str().unwrap();
        let has = !blocks(&read(page)).is_empty();
        assert_eq!(has, RUN.contains(&page), "{page}: mark what is not run as `console`, or run it");
    }
}

#[test]
fn what_is_not_run_are_targets_of_the_makefile() {
    let makefile = read("Makefile");
    for line in MAKE {
        let target = line.strip_prefix("make ").unwrap();
        assert!(makefile.lines().any(|line| line.starts_with(&format!("{target}:"))), "{line}");
        assert!(
            RUN.iter().any(|page| blocks(&read(page)).iter().any(|block| block.commands.contains(line))),
            "{line}"
        );
    }
    for page in RUN {
        let all: String = blocks(&read(page)).into_iter().map(|block| block.commands).collect();
        let unknown: Vec<_> =
            all.lines().filter(|line| line.starts_with("make ") && !is_make(line)).collect();
        assert!(unknown.is_empty(), "{page}: {unknown:?}");
    }
}

/// Pages are typed among the processes of whoever runs the tests. What kills by name is in the runbooks, which have process
/// ids of their own.
#[test]
fn no_page_kills_by_name() {
    let by_name = |commands: &str| ["pkill", "killall", "pgrep"].iter().any(|word| commands.contains(word));
    assert!(by_name("kill $(pgrep -f oubliette)"), "the positive control");
    for page in RUN {
        for block in blocks(&read(page)) {
            assert!(!by_name(&block.commands), "{page}:{}", block.line);
        }
    }
}

#[test]
fn every_substitute_is_needed() {
    let all: String = RUN.iter().map(|page| read(page)).collect();
    for (said, _) in SUBSTITUTES {
        assert!(all.contains(said), "{said}");
    }
}

/// The positive control of the tests above: what is wrong in a page is found.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_is_wrong_fails() {
    let page =
        "```sh\necho one; echo two 1\n```\n\nIt prints:\n\n```text\none\ntwo …\n```\n\n```sh\nfalse\n```\n";
    let blocks = blocks(page);
    assert_eq!(blocks.len(), 2);
    assert_eq!((blocks[1].line, blocks[1].prints.as_deref()), (12, None));
    let expected = |text: &'static str| text.lines().collect::<Vec<_>>();
    for (wanted, printed, fitting) in [
        ("one\ntwo …\n", "one\ntwo 1\n", true),
        ("…\ntwo 1\n", "one\ntwo 1\n", true),
        ("…\n", "", true),
        ("o…e\n…\n", "one\ntwo\n", true),
        ("one\n", "one\ntwo 1\n", false),
        ("one\nthree …\n", "one\ntwo 1\n", false),
        ("…\nthree\n", "one\ntwo\n", false),
        ("one\n", "", false),
    ] {
        assert_eq!(fits(&expected(wanted), &expected(printed)), fitting, "{wanted:?} {printed:?}");
    }
    let model = ModelServer::start().await.unwrap();
    let failed = tokio::task::spawn_blocking(move || {
        let scratch = Scratch::new(&model);
        assert_eq!(scratch.run("page", &blocks[..1]), ["one\ntwo 1\n"]);
        scratch.run("page", &blocks);
    })
    .await;
    let said = failed.expect_err("`false` fails").into_panic();
    assert!(said.downcast_ref::<String>().is_some_and(|said| said.contains("page:12")));
}

/// True if this machine has no such program.
pub(crate) fn lacks(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_err()
}

/// True if the pages can be run here; else says why not. With `CI=true` they must.
fn can_run() -> bool {
    let missing = if std::env::var_os("OUBLIETTE_GUEST").is_none() {
        Some("no guest is embedded: run `make test`")
    } else if lacks("bwrap") {
        Some("bubblewrap is not installed")
    } else if lacks("curl") {
        Some("curl is not installed")
    } else {
        None
    };
    if let Some(missing) = missing {
        assert!(std::env::var_os("CI").is_none(), "{missing}");
        eprintln!("skipped: {missing}");
    }
    missing.is_none()
}
