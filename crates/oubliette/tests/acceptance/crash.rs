//! kill -9 of the real server, again and again, while sessions stream.

use std::collections::HashSet;

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

/// Nothing that a client saw is lost, doubled or renumbered, and the sessions go on by themselves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_kills_of_the_server_lose_nothing_that_anyone_saw() {
    if !can_sandbox() {
        return;
    }
    let model = ModelServer::start().await.unwrap();
    // An agent that works for ever: each answer calls a tool whose result is new each time.
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
                followers.iter().all(|follower| follower.lines().len() > progress)
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
