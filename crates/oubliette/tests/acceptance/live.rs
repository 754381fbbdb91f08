//! The live view on a real terminal, by the real program, with a real session behind it.

use std::process::Command;

use ob_testkit::Answer;
use ob_testkit::ModelServer;
use ob_testkit::model_server::Latch;
use ob_testkit::model_server::Step;
use ob_testkit::model_server::message_chunks;
use regex::Regex;
use serde_json::json;

use crate::harness::Home;
use crate::harness::can_sandbox;
use crate::harness::shown;
use crate::harness::until;
use crate::terminal::Terminal;

/// What Ctrl-C is on a terminal.
const CTRL_C: &str = "\x03";
const STREAMED: &str = "I think about it for as long as the test wants me to, word by word, line by line.";

fn repair(model: &ModelServer) {
    let say =
        "I look at the test first, and then I change what it says is wrong, and nothing else than that.";
    let run = || json!({ "command": "sh test.sh" });
    model.push(Answer::message(Some(say.into()), vec![("run".into(), run())]));
    model.push(Answer::tool("edit", json!({ "path": "sum.sh", "old": "$1 - $2", "new": "$1 + $2" })));
    model.push(Answer::tool("run", run()));
    model.push(Answer::text("Mended: it subtracted. 直しました。"));
}

const FILES: &[(&str, &str)] = &[
    ("sum.sh", "echo $(( $1 - $2 ))\n"),
    ("test.sh", "[ \"$(sh sum.sh 2 3)\" = 5 ] && echo passed || { echo failed; exit 1; }\n"),
];

/// An answer that streams its words and then waits for the latch.
fn held(latch: &Latch) -> Answer {
    let mut steps: Vec<Step> = message_chunks(&json!({ "model": "scripted-1" }), Some(STREAMED), &[], None)
        .into_iter()
        .map(Step::Send)
        .collect();
    let end = steps.len() - 2;
    steps.insert(end, Step::Wait(latch.clone()));
    Answer::stream(steps)
}

/// What differs from run to run: ids and times.
fn masked(shown: &str) -> String {
    let mut shown = shown.to_owned();
    for (pattern, mask) in [
        (r"gogol_\d{8}_\d{6}_[0-9a-f]{8}", "gogol_ID"),
        (r"[0-9a-f]{8}-[0-9a-f-]{27}", "UUID"),
        // How long a call took is told only if it was long, so on a busy machine.
        (r", \d+s\)", ")"),
        (r"\d+m \d\ds|\d+s", "0s"),
    ] {
        shown = Regex::new(pattern).unwrap().replace_all(&shown, mask).into_owned();
    }
    // Wrapped ids and padding differ with what was masked.
    shown.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// A command of this home as a person types it on a terminal of this kind.
fn on(home: &Home, words: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = home.command(words);
    command.env("TERM", "xterm-256color").envs(variables.iter().copied());
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_on_a_terminal_reads_well_at_each_width_and_with_each_rule_of_colour() {
    if !can_sandbox() {
        return;
    }
    let model = ModelServer::start().await.unwrap();
    tokio::task::spawn_blocking(move || {
        let home = Home::new(&model);
        let source = home.repository("thing", FILES);
        let source = source.to_str().unwrap();
        home.ok(["project", "create", "thing", "--source", source]);
        // Narrow, wide; colours by default, without, and for a terminal that has none.
        for (name, columns, variables, options) in [
            ("narrow", 50, &[][..], &[][..]),
            ("wide", 110, &[][..], &[][..]),
            ("no_color", 80, &[("NO_COLOR", "1")][..], &[][..]),
            ("color_never", 80, &[("CLICOLOR_FORCE", "1")][..], &["--color", "never"][..]),
            ("dumb", 80, &[("TERM", "dumb")][..], &[][..]),
        ] {
            repair(&model);
            let words = [&["run", "The test fails. Mend it.", "--project", source][..], options].concat();
            let mut terminal = Terminal::run(&on(&home, &words, variables), columns);
            let (status, bytes) = terminal.end();
            assert!(status.success(), "{name}: {status}\n{}", terminal.text());
            let shown = masked(&terminal.text());
            let in_colour = bytes.contains("\x1b[32m✓") && bytes.contains("\x1b[31m-echo");
            assert_eq!(in_colour, variables.is_empty(), "{name}: {bytes:?}");
            assert_eq!(bytes.contains("\x1b[J"), name != "dumb", "{name}: a line is drawn over: {bytes:?}");
            if in_colour || name == "dumb" {
                insta::assert_snapshot!(format!("run_{name}"), shown);
            } else {
                assert!(!bytes.contains("\x1b[3") && !bytes.contains("\x1b[1m"), "{name}: {bytes:?}");
            }
        }
        // In a pipe nothing is drawn; colours come if they are asked for.
        repair(&model);
        let words = ["run", "The test fails. Mend it.", "--project", source];
        let output = on(&home, &words, &[("CLICOLOR_FORCE", "1")]).output().unwrap();
        let piped = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && !piped.contains("\x1b[J"), "{}", shown(&output));
        assert!(piped.contains("\x1b[32m✓"), "{piped:?}");
        // A patch in a pipe is one, whatever the colours.
        let diff = on(&home, &["session", "diff"], &[("CLICOLOR_FORCE", "1")]).output().unwrap();
        assert!(!diff.stdout.is_empty() && !diff.stdout.contains(&0x1b), "{}", crate::harness::shown(&diff));
        // Lists fit the terminal that they are shown on.
        for columns in [50, 110] {
            let mut terminal = Terminal::run(&on(&home, &["session", "list"], &[]), columns);
            let (_, bytes) = terminal.end();
            let widest = bytes.lines().map(|line| line.trim_end().chars().count()).max();
            // The header's colours are no columns.
            assert!(widest.is_some_and(|widest| widest <= usize::from(columns) + 8), "{bytes:?}");
        }
    })
    .await
    .unwrap();
}

/// One session that is watched, resized, asked about, left, come back to over a restart, and stopped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_watched_left_and_come_back_to() {
    if !can_sandbox() {
        return;
    }
    let model = ModelServer::start().await.unwrap();
    let latch = Latch::new();
    model.otherwise(held(&latch));
    tokio::task::spawn_blocking(move || {
        let home = Home::new(&model);
        let source = home.repository("thing", FILES);
        home.start();
        let words = ["run", "Think.", "--keep", "--project", source.to_str().unwrap()];
        let mut terminal = Terminal::run(&on(&home, &words, &[("NO_COLOR", "1")]), 70);
        terminal.shows("line by line. [");
        insta::assert_snapshot!("live", masked(&terminal.text()));

        // The last line is drawn again as wide as the window is then.
        terminal.resize(34);
        terminal.shows_what("a last line that fits", |shown| {
            shown.lines().last().is_some_and(|line| line.contains("[") && line.chars().count() < 34)
        });
        terminal.resize(70);

        // Ctrl-C asks; Enter goes on; the question does not stop the agent.
        terminal.keys(CTRL_C);
        terminal.shows("Enter goes on:");
        let asked = terminal.text();
        // What stands above was cut by the narrow window.
        insta::assert_snapshot!("asked", asked.lines().last().unwrap());
        terminal.keys("\n");
        terminal.shows("going on");
        assert_eq!(home.state("last"), "running");

        // Twice leaves it working, and says how to come back.
        terminal.keys(CTRL_C);
        terminal.shows_what("the second question", |shown| shown.matches("Enter goes on:").count() == 2);
        terminal.keys(CTRL_C);
        let (status, _) = terminal.end();
        assert_eq!(status.code(), Some(130), "{status}\n{}", terminal.text());
        let text = terminal.text();
        let back = Regex::new(r"oubliette (session events \S+ --follow --cursor\s+\d+)").unwrap();
        let joined = text.replace('\n', " ");
        let back = &back.captures(&joined).unwrap_or_else(|| panic!("it says no way back: {text}"))[1];
        assert_eq!(home.state("last"), "running");

        // The way back works as it was said, and TERM lets go as well.
        let words: Vec<&str> = back.split_whitespace().collect();
        let mut terminal = Terminal::run(&on(&home, &words, &[]), 120);
        terminal.shows("[");
        let pid = terminal.pid().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let (status, _) = terminal.end();
        assert!(status.success() && terminal.text().contains("come back with"), "{}", terminal.text());
        assert_eq!(home.state("last"), "running");

        // A follower goes on over a restart of the server, and sees the end.
        let mut terminal = Terminal::run(&on(&home, &words, &[]), 120);
        terminal.shows("[");
        home.ok(["stop", "--keep-sandboxes"]);
        terminal.shows("the server is gone; waiting for it");
        home.start();
        terminal.shows("connected again");
        home.ok(["session", "end", "last"]);
        let (status, _) = terminal.end();
        assert!(status.success(), "{status}\n{}", terminal.text());
        latch.open();
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctrl_c_stops_the_agent_if_that_is_the_answer() {
    if !can_sandbox() {
        return;
    }
    let model = ModelServer::start().await.unwrap();
    let latch = Latch::new();
    model.otherwise(held(&latch));
    tokio::task::spawn_blocking(move || {
        let home = Home::new(&model);
        let source = home.repository("thing", FILES);
        home.start();
        for (keep, answer, state) in
            [(true, "i\n", "idle"), (false, "i\n", "ended"), (true, "end\n", "ended")]
        {
            let mut words = vec!["run", "Think.", "--project", source.to_str().unwrap()];
            words.extend(keep.then_some("--keep"));
            let mut terminal = Terminal::run(&on(&home, &words, &[]), 100);
            terminal.shows("line by line.");
            terminal.keys(CTRL_C);
            terminal.shows("Enter goes on:");
            terminal.keys(answer);
            let (status, _) = terminal.end();
            assert_eq!(status.code(), Some(130), "{answer} {status}\n{}", terminal.text());
            until("the session to be as it was asked", || home.state("last") == state);
        }
        latch.open();
    })
    .await
    .unwrap();
}
