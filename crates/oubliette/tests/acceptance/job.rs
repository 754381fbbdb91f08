//! The main job: a task, a repository, an agent in a sandbox, a patch.

use std::process::Stdio;

use ob_testkit::Answer;
use ob_testkit::ModelServer;
use ob_testkit::model_server::Latch;
use ob_testkit::model_server::Step;
use serde_json::json;

use crate::harness::Home;
use crate::harness::can_sandbox;
use crate::harness::shown;
use crate::harness::until;

fn call(tool: &str, arguments: serde_json::Value) -> Answer {
    Answer::tool(tool, arguments)
}

/// Read, edit, run the tests, say what was done: the repair of a repository whose test is a shell script.
fn repair(model: &ModelServer) {
    model.push(call("read", json!({ "path": "sum.sh" })));
    model.push(call("run", json!({ "command": "sh test.sh" })));
    model.push(call("edit", json!({ "path": "sum.sh", "old": "$1 - $2", "new": "$1 + $2" })));
    model.push(call("run", json!({ "command": "sh test.sh" })));
    model.push(Answer::text("Mended: it subtracted."));
}

const FILES: &[(&str, &str)] = &[
    ("sum.sh", "echo $(( $1 - $2 ))\n"),
    ("test.sh", "[ \"$(sh sum.sh 2 3)\" = 5 ] && echo passed || { echo failed; exit 1; }\n"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_on_a_repository_becomes_a_patch_that_fits_it() {
    if !can_sandbox() {
        return;
    }
    let model = ModelServer::start().await.unwrap();
    repair(&model);
    tokio::task::spawn_blocking(move || {
        let home = Home::new(&model);
        let source = home.repository("thing", FILES);
        let source_text = source.to_str().unwrap().to_owned();

        let output = home.run(["run", "The test fails. Mend it.", "--project", &source_text]);

        assert!(output.status.success(), "{}", shown(&output));
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("Mended: it subtracted."), "{}", shown(&output));
        assert!(said.contains("+echo $(( $1 + $2 ))"), "the patch is shown: {}", shown(&output));
        assert_eq!(
            std::fs::read_to_string(source.join("sum.sh")).unwrap(),
            FILES[0].1,
            "the source is as it was"
        );

        let session = home.json(&["session", "get", "last"]);
        assert_eq!(
            (session["state"].as_str(), session["last_stop"].as_str()),
            (Some("ended"), Some("end_turn"))
        );
        assert!(session["ledger"]["used"]["tokens"].as_u64().unwrap() > 0, "{session}");
        let events = home.events(session["session_id"].as_str().unwrap());
        let results: Vec<_> = events.iter().filter(|event| event["type"] == "tool_result").collect();
        assert!(results.iter().any(|event| event.to_string().contains("failed")), "red before");
        assert!(results.iter().any(|event| event.to_string().contains("passed")), "green after");
        assert!(events.iter().any(|event| event["type"] == "usage"));

        let metrics = home.get("/metrics");
        assert!(
            metrics.contains("oubliette_model_calls_total{provider=\"openai\",status=\"ok\"} 5"),
            "{metrics}"
        );
        assert!(metrics.contains("oubliette_sandbox_starts_total{backend=\"namespace\"} 1"), "{metrics}");

        home.ok(["session", "apply", "last"]);
        assert_eq!(std::fs::read_to_string(source.join("sum.sh")).unwrap(), "echo $(( $1 + $2 ))\n");
        let again = home.run(["session", "apply", "last"]);
        assert!(!again.status.success(), "a patch fits once: {}", shown(&again));
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_place_works_in_the_folder_itself_and_keeps_its_owner_and_its_hooks() {
    use std::os::unix::fs::MetadataExt as _;
    if !can_sandbox() {
        return;
    }
    let model = ModelServer::start().await.unwrap();
    model.push(call(
        "run",
        json!({ "command": "echo made > made.txt; echo evil > .git/hooks/post-commit; echo evil >> .git/config; ls" }),
    ));
    model.push(Answer::text("Done."));
    tokio::task::spawn_blocking(move || {
        let home = Home::new(&model);
        let source = home.repository("thing", FILES);
        let config = std::fs::read_to_string(source.join(".git/config")).unwrap();

        let output = home.run(["run", "Make a file.", "--in-place", "--project", source.to_str().unwrap()]);

        assert!(output.status.success(), "{}", shown(&output));
        assert_eq!(
            std::fs::read_to_string(source.join("made.txt")).unwrap(),
            "made\n",
            "the positive control"
        );
        let (made, folder) = (source.join("made.txt").metadata().unwrap(), source.metadata().unwrap());
        assert_eq!((made.uid(), made.gid()), (folder.uid(), folder.gid()));
        assert!(!source.join(".git/hooks/post-commit").exists());
        assert_eq!(std::fs::read_to_string(source.join(".git/config")).unwrap(), config);
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_sessions_run_at_once_and_a_message_follows_the_turn_before() {
    if !can_sandbox() {
        return;
    }
    let model = ModelServer::start().await.unwrap();
    model.otherwise(Answer::text("Done."));
    tokio::task::spawn_blocking(move || {
        let home = Home::new(&model);
        home.start();
        let source = home.repository("thing", FILES);
        let sessions: Vec<String> =
            (0..4).map(|number| home.spawn(&source, &format!("Task {number}"))).collect();
        for session in &sessions {
            until("the first turn", || home.state(session) == "idle");
            home.ok(["session", "message", session, "And another."]);
        }
        for session in &sessions {
            until("the second turn", || {
                home.events(session).iter().filter(|event| event["type"] == "completion").count() == 2
            });
            home.ok(["session", "end", session]);
            until("the end", || home.state(session) == "ended");
        }
        assert_eq!(home.json(&["status"])["active_sessions"], 0);
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupt_stops_the_turn_and_leaves_the_session() {
    if !can_sandbox() {
        return;
    }
    let model = ModelServer::start().await.unwrap();
    model.push(call("run", json!({ "command": "sleep 1000" })));
    model.otherwise(Answer::text("Done."));
    tokio::task::spawn_blocking(move || {
        let home = Home::new(&model);
        home.start();
        let source = home.repository("thing", FILES);
        let session = home.spawn(&source, "Wait for long.");
        until("the command to run", || {
            home.events(&session).iter().any(|event| event["type"] == "tool_call")
        });
        home.ok(["session", "interrupt", &session]);
        until("the turn to stop", || home.state(&session) == "idle");
        let view = home.json(&["session", "get", &session]);
        assert_eq!(view["last_stop"], "cancelled");
        home.ok(["session", "message", &session, "Go on."]);
        until("the next turn", || home.json(&["session", "get", &session])["last_stop"] == "end_turn");
    })
    .await
    .unwrap();
}

/// Where nobody can be asked, Ctrl-C stops the turn; the exit code says that a person did it, and the session is kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctrl_c_without_a_terminal_stops_the_turn() {
    if !can_sandbox() {
        return;
    }
    let model = ModelServer::start().await.unwrap();
    let never = Latch::new();
    model.otherwise(Answer::stream(vec![Step::Wait(never.clone())]));
    tokio::task::spawn_blocking(move || {
        let home = Home::new(&model);
        home.start();
        let source = home.repository("thing", FILES);
        let child = home
            .command(["run", "Think for ever.", "--keep", "--project", source.to_str().unwrap()])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let interrupt = |child: &std::process::Child| {
            let pid = child.id().to_string();
            assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        };
        until("the turn to run", || {
            home.run(["session", "get", "last"]).status.success() && home.state("last") == "running"
        });
        until("the model to be asked", || !model.requests().is_empty());
        interrupt(&child);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "{}", shown(&output));
        assert_eq!(home.state("last"), "idle");
        assert!(
            String::from_utf8_lossy(&output.stderr).contains("the session is kept"),
            "{}",
            shown(&output)
        );
    })
    .await
    .unwrap();
}
