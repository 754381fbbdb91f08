//! kill -9 of the real server, again and again, while sessions stream.

use std::collections::HashSet;
use std::process::Command;

use ob_crash::CrashPoint;
use ob_testkit::Answer;
use ob_testkit::ModelServer;
use serde_json::Value;
use serde_json::json;

use crate::harness::Home;
use crate::harness::can_sandbox;
use crate::harness::until;

/// How often the server is killed.
const KILLS: usize = 50;
/// How many sessions stream meanwhile.
const SESSIONS: usize = 4;

/// Nothing that a client saw is lost, doubled or renumbered, and the sessions go on by themselves. W41: what was published is,
/// byte for byte, what is kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_kills_of_the_server_lose_nothing_that_anyone_saw() {
    if !can_sandbox() {
        return;
    }
    let model = ModelServer::start().await.unwrap();
    // An agent that works for long: each answer calls a tool whose result is new each time.
    model.otherwise(Answer::message(
        Some("Another look.".to_owned()),
        vec![("run".to_owned(), json!({ "command": "cat /proc/uptime; seq 1 30" }))],
    ));
    tokio::task::spawn_blocking(move || {
        let home = Home::new(&model);
        home.start();
        let source = home.repository("thing", &[("a.txt", "one\n")]);
        let sessions: Vec<String> =
            (0..SESSIONS).map(|number| home.spawn(&source, &format!("Look around, {number}"))).collect();
        // For each session, every line that any follower printed, in order.
        let mut seen: Vec<Vec<String>> = vec![Vec::new(); SESSIONS];

        for kill in 0..KILLS {
            let followers: Vec<_> = sessions
                .iter()
                .zip(&seen)
                .map(|(session, seen)| home.follow(session, i64::try_from(seen.len()).unwrap() - 1))
                .collect();
            // Each session has got on since the last kill: it resumed by itself. How far differs from kill to kill.
            let progress = 1 + kill % 7;
            until("every session to go on", || {
                sessions.iter().zip(&followers).all(|(session, follower)| {
                    let goes_on = follower.lines().len() > progress;
                    // The agent stops by itself after some hundred looks.
                    if !goes_on && home.state(session) == "idle" {
                        home.ok(["session", "message", session, "Look again."]);
                    }
                    goes_on
                })
            });
            home.kill();
            for (follower, seen) in followers.into_iter().zip(&mut seen) {
                seen.extend(follower.stop());
            }
            home.start();
        }

        for (session, seen) in sessions.iter().zip(&seen) {
            home.ok(["session", "end", session]);
            until("the session to end", || home.state(session) == "ended");
            let log = home.ok(["session", "events", session, "--json"]);
            let log: Vec<&str> = log.lines().collect();
            assert!(seen.len() <= log.len(), "{session}: {} seen, {} kept", seen.len(), log.len());
            for (number, (seen, kept)) in seen.iter().zip(&log).enumerate() {
                assert_eq!(seen, kept, "{session}: event {number} differs from what was seen");
            }
            check_log(session, &log);
        }
    })
    .await
    .unwrap();
}

/// A server with one session that has done one task and rests.
fn at_rest(model: &ModelServer, task: &str) -> (Home, String) {
    let home = Home::new(model);
    home.start();
    let source = home.repository("thing", &[("a.txt", "one\n")]);
    let session = home.spawn(&source, task);
    until("the session to rest", || home.state(&session) == "idle");
    (home, session)
}

/// W29: events are in no process's memory: a server that never saw them tells them from any cursor, as they were.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_before_a_kill_are_read_after_it_from_every_cursor_without_a_gap() {
    if !can_sandbox() {
        return;
    }
    let model = ModelServer::start().await.unwrap();
    model.push(Answer::tool("run", json!({ "command": "seq 1 300" })));
    model.push(Answer::text("counted"));
    tokio::task::spawn_blocking(move || {
        let (home, session) = at_rest(&model, "Count");
        let before = home.ok(["session", "events", &session, "--json"]);
        home.kill();
        home.start();
        let count = before.lines().count();
        for cursor in 0..count {
            let cursor_text = (i64::try_from(cursor).unwrap() - 1).to_string();
            let after = home.ok(["session", "events", &session, "--json", "--cursor", &cursor_text]);
            let expected: Vec<&str> = before.lines().skip(cursor).collect();
            assert_eq!(after.lines().take(count - cursor).collect::<Vec<_>>(), expected, "from {cursor}");
        }
    })
    .await
    .unwrap();
}

/// W32: a conversation goes on where it was, whether its sandbox outlived the server or not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_after_a_restart_goes_on_with_the_same_conversation() {
    if !can_sandbox() {
        return;
    }
    let model = ModelServer::start().await.unwrap();
    model.otherwise(Answer::text("I keep that in mind."));
    tokio::task::spawn_blocking(move || {
        let (home, session) = at_rest(&model, "The word is heliotrope");
        for restart in [|home: &Home| home.kill(), |home: &Home| drop(home.ok(["stop"]))] {
            let known = model.requests().len();
            restart(&home);
            home.start();
            home.ok(["session", "message", &session, "Which word?"]);
            until("the model to be asked", || model.requests().len() > known);
            until("the session to rest", || home.state(&session) == "idle");
            let asked = &model.requests()[known].body["messages"].to_string();
            for part in ["The word is heliotrope", "I keep that in mind.", "Which word?"] {
                assert!(asked.contains(part), "`{part}` is forgotten: {asked}");
            }
        }
    })
    .await
    .unwrap();
}

/// W33: what a session is, is on the disk: after a kill none is active that is over, and none has failed by it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_changes_no_session_from_what_it_was() {
    if !can_sandbox() {
        return;
    }
    let model = ModelServer::start().await.unwrap();
    tokio::task::spawn_blocking(move || {
        let (home, ended) = at_rest(&model, "End");
        let resting = home.spawn(&home.user("thing"), "Rest");
        until("the session to rest", || home.state(&resting) == "idle");
        home.ok(["session", "end", &ended]);
        until("the session to end", || home.state(&ended) == "ended");
        for _ in 0..2 {
            home.kill();
            home.start();
            let of = |status: &str| -> Vec<String> {
                let listed = home.json(&["session", "list", "--status", status]);
                let listed = listed.as_array().unwrap();
                listed.iter().map(|view| view["session_id"].as_str().unwrap().to_owned()).collect()
            };
            assert_eq!(of("active"), std::slice::from_ref(&resting));
            assert_eq!(of("completed"), std::slice::from_ref(&ended));
            assert_eq!(of("failed"), Vec::<String>::new());
            until("the session to rest", || home.state(&resting) == "idle");
        }
    })
    .await
    .unwrap();
}

/// The program that ships cannot be made to die at a crash point; the one for the crash harness can.
#[test]
fn only_the_program_of_the_crash_harness_knows_crash_points() {
    let names: Vec<&str> = CrashPoint::ALL.iter().map(|point| point.name()).collect();
    let patterns = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&patterns, names.join("\n")).unwrap();
    let mut grep = Command::new("grep");
    grep.args(["--text", "--only-matching", "--fixed-strings", "--file"]);
    let found = grep.arg(patterns.path()).arg(env!("CARGO_BIN_EXE_oubliette")).output().unwrap().stdout;
    let found: HashSet<&str> = str::from_utf8(&found).unwrap().lines().collect();
    assert_eq!(found.len(), if ob_crash::ENABLED { names.len() } else { 0 }, "{found:?}");
}

/// Numbered from 0 without a gap; each tool call once, and no more than one end of it.
fn check_log(session: &str, log: &[&str]) {
    let mut calls = HashSet::new();
    let mut results = HashSet::new();
    for (number, line) in log.iter().enumerate() {
        let event: Value = serde_json::from_str(line).unwrap();
        assert_eq!(event["index"], number, "{session}: a gap");
        let id = event["tool_call_id"].as_str().unwrap_or_default().to_owned();
        if event["type"] == "tool_call" {
            assert!(calls.insert(id.clone()), "{session}: call {id} twice");
        }
        if event["type"] == "tool_result" && event["data"]["status"] == "completed" {
            assert!(results.insert(id.clone()), "{session}: result of {id} twice");
        }
    }
    assert!(calls.len() > KILLS, "{session}: only {} calls: it did not go on", calls.len());
}
