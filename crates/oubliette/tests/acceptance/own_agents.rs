//! Agents of the configuration: plain programs, and programs that speak ACP well, badly or not at all. All are shell scripts,
//! so these run wherever a sandbox does.

use std::path::Path;

use ob_testkit::Answer;
use ob_testkit::ModelServer;
use serde_json::Value;
use serde_json::json;

use crate::harness::Home;
use crate::harness::can_sandbox;
use crate::harness::shown;
use crate::harness::until;

/// Speaks ACP as far as the prompt; what follows comes from the test.
const HANDSHAKE: &str = r#"
say() { printf '%s\n' "$1"; }
while read -r line; do
  case "$line" in
    *'"initialize"'*) say '{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":1}}' ;;
    *'"session/new"'*) say '{"jsonrpc":"2.0","id":2,"result":{"sessionId":"s1"}}' ;;
    *'"session/prompt"'*) PROMPT ;;
    ANSWER
  esac
done
"#;

/// A home with this agent, as the configuration has it.
fn home(model: &ModelServer, definition: &Value) -> Home {
    let mut home = Home::new(model);
    for (key, value) in definition.as_object().unwrap() {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        home.set(&format!("OUBLIETTE_AGENTS__AGENTS__MINE__{}", key.to_uppercase()), &value);
    }
    home.start();
    home
}

fn acp(prompt: &str, answer: &str) -> Value {
    let script = HANDSHAKE.replace("PROMPT", prompt).replace("ANSWER", answer);
    json!({ "command": ["sh", "-c", script] })
}

fn spawn(home: &Home, project: &Path, more: &[&str]) -> String {
    let mut run = vec!["run", "do it", "--project", project.to_str().unwrap(), "--agent", "mine"];
    run.extend(["--detach", "--keep"]);
    run.extend(more);
    home.json(&run)["session_id"].as_str().unwrap().to_owned()
}

/// Waits for the turn; the session, and its events as text.
fn turn(home: &Home, session: &str) -> (Value, String) {
    until("the turn", || {
        let view = home.json(&["session", "get", session]);
        view["last_stop"].is_string() || view["status"] == "failed"
    });
    (home.json(&["session", "get", session]), serde_json::to_string(&home.events(session)).unwrap())
}

/// Runs a test's work with a model that nobody needs to ask.
async fn with_model(work: impl FnOnce(&ModelServer) + Send + 'static) {
    if !can_sandbox() {
        return;
    }
    let model = ModelServer::start().await.unwrap();
    tokio::task::spawn_blocking(move || work(&model)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_program_is_an_agent() {
    with_model(|model| {
        let script = r#"echo "told: $1"; echo mended > a.txt; curl -s -H 'content-type: application/json' \
            -d '{"model":"x","messages":[{"role":"user","content":"hello"}]}' "$BASE/chat/completions""#;
        let home = home(
            model,
            &json!({
                "command": ["sh", "-c", script, "sh", "{prompt}"], "protocol": "plain",
                "env": { "BASE": "{gate}/v1" },
            }),
        );
        model.push(Answer::text("the model answers plain programs too"));
        let source = home.repository("thing", &[("a.txt", "broken\n")]);
        let session = spawn(&home, &source, &[]);
        let (view, told) = turn(&home, &session);
        assert_eq!(view["last_stop"], "end_turn", "{told}");
        assert!(
            told.contains("told: do it") && told.contains("the model answers plain programs too"),
            "{told}"
        );
        let diff = home.json(&["session", "diff", &session]);
        assert!(diff["patch"].as_str().unwrap().contains("+mended"), "{diff}");
        let row = home.json(&["agent", "check", "mine"]);
        assert_eq!((&row["protocol"], &row["can"]["autonomy"]), (&json!("plain"), &json!(["high"])), "{row}");

        // What it cannot be told is refused, with its name and before anything is started.
        let refused = home.run([
            "run",
            "x",
            "--project",
            source.to_str().unwrap(),
            "--agent",
            "mine",
            "--autonomy",
            "low",
        ]);
        assert_eq!(refused.status.code(), Some(2), "{}", shown(&refused));
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(text.contains("the agent `mine` cannot be told autonomy `low`"), "{text}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_program_that_fails_says_how_and_one_that_does_not_end_is_stopped() {
    with_model(|model| {
        let script = r#"read -r task; case "$task" in fail*) echo "no such luck" >&2; exit 3;; esac
            echo begun > a.txt; sleep 86400"#;
        let definition = json!({ "command": ["sh", "-c", script], "protocol": "plain", "prompt": "input" });
        let home = home(model, &definition);
        let source = home.repository("thing", &[("a.txt", "broken\n")]);
        let run = [
            "run",
            "fail now",
            "--project",
            source.to_str().unwrap(),
            "--agent",
            "mine",
            "--detach",
            "--keep",
        ];
        let failing = home.json(&run)["session_id"].as_str().unwrap().to_owned();
        let (view, told) = turn(&home, &failing);
        assert_eq!(view["last_stop"], "error", "{told}");
        assert!(told.contains("the program exited with code 3: no such luck"), "{told}");

        let endless = spawn(&home, &source, &[]);
        until("its first step", || {
            home.json(&["session", "diff", &endless])["patch"].as_str().unwrap().contains("+begun")
        });
        home.ok(["session", "interrupt", &endless]);
        let (view, told) = turn(&home, &endless);
        assert_eq!(view["last_stop"], "cancelled", "{told}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_is_answered_by_the_autonomy_and_the_rule_is_recorded() {
    with_model(|model| {
        let ask = r#"say '{"jsonrpc":"2.0","id":"q","method":"session/request_permission","params":{"sessionId":"s1","toolCall":{"toolCallId":"t","title":"make","kind":"execute"},"options":[{"optionId":"yes","name":"y","kind":"allow_once"},{"optionId":"no","name":"n","kind":"reject_once"}]}}'"#;
        let answer = r#"*'"id":"q"'*) printf '%s\n' "$line" > a.txt; say '{"jsonrpc":"2.0","id":3,"result":{"stopReason":"end_turn"}}' ;;"#;
        let home = home(model, &acp(ask, answer));
        let source = home.repository("thing", &[("a.txt", "broken\n")]);
        for (level, option, rule) in [
            ("high", "yes", "autonomy high: running commands is allowed"),
            ("low", "no", "autonomy low: running commands needs medium"),
        ] {
            let session = spawn(&home, &source, &["--autonomy", level]);
            let (view, told) = turn(&home, &session);
            assert_eq!(view["last_stop"], "end_turn", "{told}");
            assert_eq!(view["agent_options"]["autonomy"], level);
            assert!(told.contains(rule), "{told}");
            let diff = home.json(&["session", "diff", &session]);
            assert!(diff["patch"].as_str().unwrap().contains(&format!(r#""optionId":"{option}""#)), "{diff}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_crashes_or_speaks_nonsense_is_told_of_and_never_hangs_a_session() {
    with_model(|model| {
        let garbage = r#"say 'not json'; say '{"jsonrpc":"2.0"'; say '[1,2]'; say '{"id":99,"result":{}}'
            say '{"jsonrpc":"2.0","method":"_vendor/news","params":{"x":1}}'
            say '{"jsonrpc":"2.0","id":7,"method":"fs/read_text_file","params":{"path":"/etc/passwd"}}'
            say '{"jsonrpc":"2.0","id":3,"result":{"stopReason":"end_turn"}}'"#;
        let home_of_garbage = home(model, &acp(garbage, ""));
        let source = home_of_garbage.repository("thing", &[("a.txt", "x\n")]);
        let session = spawn(&home_of_garbage, &source, &[]);
        let (view, told) = turn(&home_of_garbage, &session);
        assert_eq!(view["last_stop"], "end_turn", "{told}");
        for kept in ["not json", "_vendor/news", "fs/read_text_file", "which is not offered"] {
            assert!(told.contains(kept), "{kept}: {told}");
        }

        let home_of_crash = home(model, &acp("exit 3", ""));
        let source = home_of_crash.repository("thing", &[("a.txt", "x\n")]);
        let session = spawn(&home_of_crash, &source, &[]);
        let (view, told) = turn(&home_of_crash, &session);
        assert_eq!(view["status"], "failed", "{told}");
        let reason = view["reason"].as_str().unwrap();
        assert!(reason.contains("the agent exited with exit code 3"), "{reason}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_not_there_is_refused_with_how_to_get_it() {
    with_model(|model| {
        let home = home(model, &json!({ "command": ["no-such-program"] }));
        let source = home.repository("thing", &[("a.txt", "x\n")]);
        let project = source.to_str().unwrap();
        let refused = home.run(["run", "x", "--project", project, "--agent", "mine", "--json"]);
        assert_eq!(refused.status.code(), Some(6), "{}", shown(&refused));
        assert!(
            shown(&refused).contains("its program `no-such-program` was not found"),
            "{}",
            shown(&refused)
        );
        let unknown = home.run(["run", "x", "--project", project, "--agent", "nobody"]);
        assert_eq!(unknown.status.code(), Some(3), "{}", shown(&unknown));
        let checked = home.run(["agent", "check", "mine"]);
        assert_eq!(checked.status.code(), Some(4), "{}", shown(&checked));
        let listed = home.json(&["agent", "list"]);
        let names: Vec<&str> =
            listed.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
        assert_eq!(
            names,
            ["builtin", "mine", "opencode", "codex", "claude-code", "gemini", "qwen", "goose", "droid", "pi"]
        );
        let builtin = home.run(["run", "x", "--project", project, "--deny-tool", "bash"]);
        assert_eq!(builtin.status.code(), Some(2), "{}", shown(&builtin));
        assert!(shown(&builtin).contains("has no tool `bash`"), "{}", shown(&builtin));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_built_in_agent_has_no_tool_that_was_taken_from_it() {
    with_model(|model| {
        let home = Home::new(model);
        home.start();
        let source = home.repository("thing", &[("a.txt", "broken\n")]);
        model.push(Answer::tool("run", json!({ "command": "echo mended > a.txt" })));
        model.push(Answer::text("It cannot be done without commands."));
        let project = source.to_str().unwrap();
        let run = [
            "run",
            "do it",
            "--project",
            project,
            "--autonomy",
            "low",
            "--reasoning",
            "low",
            "--detach",
            "--keep",
        ];
        let session = home.json(&run)["session_id"].as_str().unwrap().to_owned();
        let (view, told) = turn(&home, &session);
        assert_eq!(view["last_stop"], "end_turn", "{told}");
        assert!(told.contains("`run` may not be used in this session"), "{told}");
        let diff = home.json(&["session", "diff", &session]);
        assert_eq!(diff["patch"], "", "nothing was run");
        let asked = &model.requests()[0].body;
        assert_eq!(asked["reasoning_effort"], "low");
        let names: Vec<&str> = asked["tools"]
            .as_array()
            .unwrap()
            .iter()
            .map(|t| t["function"]["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["read", "write", "edit", "patch", "list", "search", "plan"]);
    })
    .await;
}
