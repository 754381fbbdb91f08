//! Refusals: each says what was asked, why not, and what to do, with the exit code of its kind; nothing is lost.

use std::net::TcpListener;

use ob_testkit::Answer;
use ob_testkit::ModelServer;
use ob_testkit::model_server::Latch;
use ob_testkit::model_server::Step;
use serde_json::json;

use crate::harness::Home;
use crate::harness::Mount;
use crate::harness::can_sandbox;
use crate::harness::fill;
use crate::harness::is_root;
use crate::harness::shown;
use crate::harness::until;

const FILES: &[(&str, &str)] = &[("a.txt", "one\n")];

/// Runs it, expects this exit code, and that what it says on stderr contains all of these.
fn refused(home: &Home, args: &[&str], code: i32, contains: &[&str]) {
    let output = home.run(args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {}", shown(&output));
    for text in contains {
        assert!(said.contains(text), "{args:?}: no `{text}` in: {}", shown(&output));
    }
    assert!(!said.contains("panicked"), "{}", shown(&output));
}

#[test]
fn bad_arguments_are_usage_errors_that_name_the_argument() {
    let home = Home::without_model();
    refused(&home, &["run"], 2, &["TASK"]);
    refused(&home, &["frobnicate"], 2, &["frobnicate"]);
    refused(&home, &["session", "list", "--nope"], 2, &["--nope"]);
    refused(
        &home,
        &["token", "create", "--name", "x", "--scope", "everything"],
        2,
        &["invalid scope", "admin"],
    );
    refused(&home, &["token", "create", "--name", "Not A Name", "--scope", "admin"], 2, &["a-z0-9"]);
}

#[test]
fn unknown_things_are_not_found() {
    let home = Home::without_model();
    home.start();
    refused(
        &home,
        &["project", "get", "00000000-0000-4000-8000-000000000000"],
        3,
        &["not found", "project list"],
    );
    refused(&home, &["session", "get", "gogol_20260101_000000_00000000"], 3, &["not found", "session list"]);
    refused(&home, &["session", "end", "last"], 3, &["session"]);
    refused(&home, &["token", "revoke", "nobody"], 3, &["not found"]);
    refused(&home, &["run", "x", "--project", "/no/such/folder"], 3, &["/no/such/folder"]);
}

#[test]
fn without_a_model_a_task_is_refused_with_the_ways_to_get_one() {
    if !can_sandbox() {
        return;
    }
    let home = Home::without_model();
    let source = home.repository("thing", FILES);
    refused(
        &home,
        &["run", "Mend it.", "--project", source.to_str().unwrap()],
        6,
        &["no model", "OPENAI_API_KEY"],
    );
    assert_eq!(home.json(&["session", "list"]).as_array().unwrap().len(), 0, "no half-made session");
}

#[tokio::test]
async fn without_bubblewrap_a_task_is_refused_with_the_package() {
    let model = ModelServer::start().await.unwrap();
    tokio::task::spawn_blocking(move || {
        let mut home = Home::new(&model);
        home.set("OUBLIETTE_SANDBOX__BUBBLEWRAP", "/no/such/bwrap");
        let source = home.repository("thing", FILES);
        refused(
            &home,
            &["run", "Mend it.", "--project", source.to_str().unwrap()],
            6,
            &["bubblewrap", "apt-get install bubblewrap"],
        );
    })
    .await
    .unwrap();
}

#[test]
fn a_second_server_on_one_home_is_refused_and_named() {
    let home = Home::without_model();
    home.start();
    let pid = home.pid().to_string();
    refused(&home, &["serve"], 5, &[&pid, "already"]);
    // The same home in the background is what was asked for.
    let again = home.run(["--daemon"]);
    assert!(again.status.success(), "{}", shown(&again));
    assert_eq!(home.pid().to_string(), pid);
}

#[test]
fn an_address_in_use_is_refused_with_its_holder() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut home = Home::without_model();
    home.set("OUBLIETTE_SERVER__ADDRESS", &address);
    refused(&home, &["serve"], 6, &[&address, "in use", &std::process::id().to_string()]);
    refused(&home, &["--daemon"], 6, &[&address, "in use"]);
}

/// A model's fault ends the turn with a typed error; the session is there for another try.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_of_the_model_end_the_turn_and_not_the_session() {
    if !can_sandbox() {
        return;
    }
    let model = ModelServer::start().await.unwrap();
    tokio::task::spawn_blocking(move || {
        let home = Home::new(&model);
        home.start();
        let source = home.repository("thing", FILES);
        let broken = Answer::raw("text/event-stream", vec![Step::Send("data: {not json}\n\n".into())]);
        for (fault, answer) in [
            ("a malformed stream", broken),
            ("a refused key", Answer::status(401, r#"{"error":{"message":"bad key"}}"#)),
            ("not what was asked for", Answer::raw("text/html", vec![Step::Send("<html>".into())])),
        ] {
            model.otherwise(answer);
            let session = home.spawn(&source, "Do something.");
            until(fault, || home.state(&session) == "idle");
            let view = home.json(&["session", "get", &session]);
            assert_eq!(view["last_stop"], "error", "{fault}: {view}");
            let errors: Vec<_> =
                home.events(&session).into_iter().filter(|event| event["type"] == "error").collect();
            assert!(!errors.is_empty(), "{fault}");
            model.otherwise(Answer::text("Now it works."));
            home.ok(["session", "message", &session, "Again."]);
            until("the next turn", || home.json(&["session", "get", &session])["last_stop"] == "end_turn");
        }
    })
    .await
    .unwrap();
}

/// A model that never answers can be interrupted, and the session goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hanging_model_can_be_interrupted() {
    if !can_sandbox() {
        return;
    }
    let model = ModelServer::start().await.unwrap();
    model.push(Answer::stream(vec![Step::Wait(Latch::new())]));
    model.otherwise(Answer::text("Done."));
    tokio::task::spawn_blocking(move || {
        let home = Home::new(&model);
        home.start();
        let source = home.repository("thing", FILES);
        let session = home.spawn(&source, "Do something.");
        until("the model to be asked", || !model.requests().is_empty());
        home.ok(["session", "interrupt", &session]);
        until("the turn to stop", || home.state(&session) == "idle");
    })
    .await
    .unwrap();
}

/// The home's disk is full: what was acknowledged stays, new work is refused with the fix, and it goes on when there is space.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_and_loses_nothing() {
    if !can_sandbox() {
        return;
    }
    if !is_root() {
        eprintln!("skipped: a small file system needs root");
        return;
    }
    let model = ModelServer::start().await.unwrap();
    model.otherwise(Answer::message(
        Some("More.".to_owned()),
        vec![(
            "run".to_owned(),
            json!({ "command": "cat /proc/uptime; head -c 3000 /dev/zero | tr '\\0' x" }),
        )],
    ));
    tokio::task::spawn_blocking(move || {
        let home = Home::new(&model);
        std::fs::create_dir(home.root()).unwrap();
        let small = Mount::tmpfs(&home.root(), "48m");
        home.start();
        let source = home.repository("thing", FILES);
        let session = home.spawn(&source, "Fill it.");
        until("some events", || home.events(&session).len() > 20);

        let ballast = home.root().join("ballast");
        fill(&ballast);
        until("work to be refused", || {
            let output = home.run(["session", "message", &session, "More."]);
            output.status.code() == Some(6) && String::from_utf8_lossy(&output.stderr).contains("full")
        });
        let before = home.ok(["session", "events", &session, "--json"]);

        // From here on the agent writes little, so that it does not fill the disk again by itself.
        model.otherwise(Answer::text("Done."));
        std::fs::remove_file(&ballast).unwrap();
        until("the session to go on", || home.events(&session).len() > before.lines().count());
        let after = home.ok(["session", "events", &session, "--json"]);
        assert!(after.starts_with(&before), "what was seen is a prefix of what is there");
        // The session tries its last commit again twice a second; until then it still says that the disk is full.
        until("the end to be accepted", || home.run(["session", "end", &session]).status.success());
        until("the end", || home.state(&session) == "ended");
        home.ok(["stop"]);
        drop(small);
    })
    .await
    .unwrap();
}
