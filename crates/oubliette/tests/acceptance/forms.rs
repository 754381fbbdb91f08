//! The forms that scripts rely on: JSON of every command that prints data, exit codes, and what goes where.

use ob_testkit::ModelServer;
use serde_json::Value;

use crate::harness::Home;
use crate::harness::shown;

/// Commands that print data, in an order in which each finds what it needs, and the exit code of each.
const DATA: &[(&[&str], i32)] = &[
    (&["init"], 0),
    (&["init", "--force"], 0),
    (&["--daemon"], 0),
    (&["status"], 0),
    (&["project", "create", "tool"], 0),
    (&["project", "list"], 0),
    (&["session", "list"], 0),
    (&["token", "create", "--name", "ci", "--scope", "admin:ro"], 0),
    (&["token", "list"], 0),
    (&["token", "info", "ci"], 0),
    (&["token", "revoke", "ci"], 0),
    (&["config", "check"], 0),
    (&["config", "show"], 0),
    (&["config", "show", "--origin"], 0),
    (&["config", "diff"], 0),
    (&["config", "schema"], 0),
    (&["reload"], 0),
    (&["store", "check"], 0),
    (&["man", "--out", "pages"], 0),
    (&["stop"], 0),
    (&["status"], 4),
];

/// Lines that are refused: what was typed, the exit code, and the code in JSON.
const REFUSED: &[(&[&str], i32, &str)] = &[
    (&["sesion"], 2, "invalid_argument"),
    (&["init"], 5, "conflict"),
    (&["run"], 2, "invalid_argument"),
    (&["session", "list", "--status", "done"], 2, "invalid_argument"),
    (&["session", "list", "--limit", "0"], 2, "invalid_argument"),
    (&["token", "create", "--name", "A", "--scope", "admin"], 2, "invalid_argument"),
    (&["token", "create", "--name", "a", "--scope", "root"], 2, "invalid_argument"),
    (&["session", "get", "last"], 3, "not_found"),
    (&["session", "get", "gogol_20261118_110640_deadbeef"], 3, "not_found"),
    (&["project", "get", "00000000-0000-4000-8000-000000000001"], 3, "not_found"),
    (&["token", "info", "nobody"], 3, "not_found"),
    (&["run", "x", "--project", "nowhere"], 3, "not_found"),
    (&["run", "x"], 6, "unavailable"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_that_prints_data_prints_json_and_only_that() {
    let model = ModelServer::start().await.unwrap();
    tokio::task::spawn_blocking(move || {
        let home = Home::new(&model);
        for (words, code) in DATA {
            let output = home.run(words.iter().copied().chain(["--json"]));
            assert_eq!(output.status.code(), Some(*code), "{words:?}: {}", shown(&output));
            let text = String::from_utf8_lossy(&output.stdout);
            let value: Result<Value, _> = serde_json::from_str(&text);
            assert!(value.is_ok(), "{words:?}: {value:?}: {text}");
        }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_refusal_has_a_code_says_why_and_what_to_do() {
    tokio::task::spawn_blocking(|| {
        // Without a model a task is refused.
        let home = Home::without_model();
        home.start();
        for (words, code, name) in REFUSED {
            let output = home.run(words.iter().copied().chain(["--json"]));
            assert_eq!(output.status.code(), Some(*code), "{words:?}: {}", shown(&output));
            assert!(output.stdout.is_empty(), "{words:?}: {}", shown(&output));
            let text = String::from_utf8_lossy(&output.stderr);
            let last = text.lines().last().unwrap_or_default();
            let said: Value =
                serde_json::from_str(last).unwrap_or_else(|error| panic!("{words:?}: {error}: {text}"));
            assert_eq!(said["error"]["code"], *name, "{words:?}: {text}");
            for part in ["message", "fix"] {
                assert!(
                    said["error"][part].as_str().is_some_and(|text| !text.is_empty()),
                    "{words:?}: {text}"
                );
            }
            // The same for people.
            let output = home.run(*words);
            let text = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(*code), "{words:?}: {}", shown(&output));
            assert!(text.contains("error: "), "{words:?}: {text}");
            assert!(text.contains("fix: ") || text.contains("--help"), "{words:?}: {text}");
        }
    })
    .await
    .unwrap();
}
