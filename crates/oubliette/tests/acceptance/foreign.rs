//! Clients of MCP that nobody here wrote. `scripts/clients.sh` installs them; where they are not, the test is skipped and
//! says so, and with `CI=true` it fails.

use std::path::PathBuf;
use std::process::Command;

use ob_testkit::Answer;
use ob_testkit::ModelServer;
use serde_json::Value;

use crate::client::Http;
use crate::harness::Home;
use crate::harness::can_sandbox;
use crate::harness::shown;

const SCRIPT: &str = include_str!("foreign/python_client.py");

/// The Python that has the SDK.
fn python() -> Option<PathBuf> {
    let tools = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/mcp/bin/python");
    if tools.exists() {
        return Some(tools);
    }
    let missing = "the Python SDK of MCP is not installed: run `scripts/clients.sh`";
    assert!(std::env::var_os("CI").is_none(), "{missing}");
    eprintln!("skipped: {missing}");
    None
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_python_sdk_runs_a_session_to_its_end_on_every_wire() {
    let (true, Some(python)) = (can_sandbox(), python()) else { return };
    let model = ModelServer::start().await.unwrap();
    for _ in 0..4 {
        model.push(Answer::text("Said."));
    }
    tokio::task::spawn_blocking(move || {
        let mut home = Home::new(&model);
        home.set("OUBLIETTE_RATE_LIMIT__REQUESTS_PER_SECOND", "100000");
        home.set("OUBLIETTE_RATE_LIMIT__BURST", "100000");
        home.start();
        let project = home.json(&["project", "create", "thing"])["id"].as_str().unwrap().to_owned();
        let http = Http::with_scope(&home, "python", &format!("project:{project}"));
        let url = format!("http://{}/mcp", http.address());
        let (program, root) = (env!("CARGO_BIN_EXE_oubliette"), home.root());
        for (wire, program) in [("legacy", ""), ("2026-07-28", ""), ("auto", ""), ("legacy", program)] {
            let output = Command::new(&python)
                .args(["-c", SCRIPT, &url, http.token(), &project, wire, program])
                .arg(&root)
                .output()
                .unwrap();
            assert!(output.status.success(), "{wire} {program}: {}", shown(&output));
            let saw: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(
                saw["tools"],
                serde_json::json!([
                    "project",
                    "workspace",
                    "session",
                    "caller_tool_response",
                    "config_limits",
                    "agent",
                    "model",
                    "server"
                ]),
                "{wire}"
            );
            assert_eq!(saw["said"][0], "Said.", "{wire}: {saw}");
            assert!(saw["transcript"].as_str().unwrap().contains("Say it."), "{wire}: {saw}");
            if wire == "legacy" {
                assert!(saw["pushed"].as_u64().unwrap() > 0, "{wire} {program}: {saw}");
            }
        }
    })
    .await
    .unwrap();
}
