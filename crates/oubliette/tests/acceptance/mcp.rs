//! MCP as its clients use it: a whole job over the wire, standard input and output, and `mcp --setup`.

use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use ob_testkit::Answer;
use ob_testkit::ModelServer;
use serde_json::Value;
use serde_json::json;

use crate::client::Http;
use crate::client::Mcp;
use crate::harness::Home;
use crate::harness::can_sandbox;
use crate::harness::shown;
use crate::harness::until;

/// W28: polled events had no arguments, results, ids, times and roles, and prompts came back as the agent's words.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w28_a_job_over_mcp_from_the_project_to_the_patch() {
    if !can_sandbox() {
        return;
    }
    let model = ModelServer::start().await.unwrap();
    model.push(Answer::tool("run", json!({ "command": "echo two > a.txt; echo said" })));
    model.push(Answer::text("Changed it."));
    model.push(Answer::text("Went on."));
    tokio::task::spawn_blocking(move || {
        let mut home = Home::new(&model);
        // More in a second than a client may ask by default.
        home.set("OUBLIETTE_RATE_LIMIT__REQUESTS_PER_SECOND", "100000");
        home.set("OUBLIETTE_RATE_LIMIT__BURST", "100000");
        home.start();
        let source = home.repository("thing", &[("a.txt", "one\n")]);
        let http = Http::with_scope(&home, "client", "admin");
        let mcp = Mcp::open(&http);
        let (_, project) =
            mcp.call("project", &json!({ "action": "create", "name": "thing", "source": source })).unwrap();
        let spawn = json!({ "action": "spawn", "project_id": project["id"], "prompt": "Change it." });
        let (said, accepted) = mcp.call("session", &spawn).unwrap();
        let session = accepted["session_id"].as_str().unwrap().to_owned();
        assert!(said.contains("New session created") && said.contains(&session), "{said}");

        let (mut cursor, mut events) = (-1, Vec::new());
        until("the end of the turn", || {
            let poll = json!({
                "action": "events", "session_id": session, "since_index": cursor, "max_events": 5, "wait_ms": 500,
            });
            let (_, page) = mcp.call("session", &poll).unwrap();
            assert_eq!((&page["completed"], &page["dropped_events"]), (&json!(false), &json!(0)));
            events.extend(page["events"].as_array().unwrap().iter().cloned());
            cursor = page["last_index"].as_i64().unwrap();
            events.iter().any(|event| event["type"] == "completion")
        });
        let numbers: Vec<_> = events.iter().map(|event| event["index"].as_u64().unwrap()).collect();
        assert_eq!(numbers, (0..events.len() as u64).collect::<Vec<_>>(), "none is skipped, none comes twice");
        let of = |kind: &str| events.iter().find(|event| event["type"] == kind).unwrap();
        assert_eq!(of("message")["role"], "user");
        let (call, result) = (of("tool_call"), of("tool_result"));
        assert!(call["arguments"].to_string().contains("echo two"), "{call}");
        assert_eq!(call["tool_call_id"], result["tool_call_id"]);
        assert!(call["tool_call_id"].is_string() && call["at"] != Value::Null && call["tool_name"].is_string());
        assert!(events.iter().any(|event| event["role"] == "agent" && event["text"] == "Changed it."));

        // A second spawn goes on where the first was, as the first clients mean it.
        let (said, again) = mcp.call("session", &spawn).unwrap();
        assert!(said.contains("resumed") && said.contains(&session), "{said}");
        assert_eq!(again["session_id"], session.as_str());
        let (_, diff) = mcp.call("session", &json!({ "action": "diff", "session_id": session })).unwrap();
        assert!(diff["patch"].as_str().unwrap().contains("+two"), "{diff}");
        let read = mcp.ask("resources/read", &json!({ "uri": format!("oubliette://sessions/{session}/transcript") }));
        let transcript = read["result"]["contents"][0]["text"].as_str().unwrap().to_owned();
        for part in ["## User\n\nChange it.", "calls `", "## Agent\n\nChanged it."] {
            assert!(transcript.contains(part), "{part}: {transcript}");
        }
        let ended = mcp.call("session", &json!({ "action": "end", "session_id": session })).unwrap();
        assert_eq!(ended.1["ended"], true);
        let late = mcp.call("session", &json!({ "action": "message", "session_id": session, "message": "x" }));
        assert_eq!(late.unwrap_err().0, "conflict");
    })
    .await
    .unwrap();
}

/// W7: ids shorter than eight bytes ended the process. W11: ids with `..` reached paths. Both are parsed before anything
/// else, and an unknown one is not found.
#[test]
fn w7_w11_ids_are_parsed_before_they_are_used() {
    let mut home = Home::without_model();
    // More in a second than a client may ask by default.
    home.set("OUBLIETTE_RATE_LIMIT__REQUESTS_PER_SECOND", "100000");
    home.set("OUBLIETTE_RATE_LIMIT__BURST", "100000");
    home.start();
    let http = Http::with_scope(&home, "client", "admin");
    let mcp = Mcp::open(&http);
    for id in ["", "1", "../../../etc", "child_1", "00000000-0000-4000-8000-00000000000/", "\u{0}"] {
        for (tool, arguments) in [
            ("project", json!({ "action": "get", "project_id": id })),
            ("project", json!({ "action": "delete", "project_id": id })),
            ("workspace", json!({ "action": "list", "project_id": id })),
            (
                "workspace",
                json!({
                    "action": "delete", "project_id": "00000000-0000-4000-8000-000000000000", "workspace_id": id,
                }),
            ),
            ("session", json!({ "action": "get", "session_id": id })),
            ("session", json!({ "action": "spawn", "project_id": id, "message": "x" })),
        ] {
            let (code, text) = mcp.call(tool, &arguments).unwrap_err();
            assert_eq!(code, "invalid_argument", "{arguments}: {text}");
        }
    }
    let unknown = json!({ "action": "get", "project_id": "00000000-0000-4000-8000-000000000000" });
    let (code, text) = mcp.call("project", &unknown).unwrap_err();
    assert!(code == "not_found" && text.contains("not found"), "{text}");
    let scope = json!({ "action": "create", "name": "x", "scope": "everything" });
    assert!(mcp.call("token", &scope).unwrap_err().1.contains("invalid scope"));
}

/// W1: tokens were stored as they are. W2: answers carried the secret of another token.
#[test]
fn w1_w2_a_secret_is_in_one_answer_and_nowhere_else() {
    let home = Home::without_model();
    home.start();
    let http = Http::with_scope(&home, "client", "admin");
    let mcp = Mcp::open(&http);
    let create = json!({ "action": "create", "name": "other", "scope": "admin:ro", "expires_in": 3600 });
    let (_, made) = mcp.call("token", &create).unwrap();
    let secret = made["secret"].as_str().unwrap().to_owned();
    assert!(secret.starts_with("oub_") && secret.len() == 68);
    let (listed, _) = mcp.call("token", &json!({ "action": "list" })).unwrap();
    assert!(listed.contains("\"other\"") && !listed.contains(&secret) && !listed.contains(http.token()));
    // The positive control: what is searched holds the name.
    let mut found = false;
    for file in ["data/auth.db", "data/auth.db-wal"] {
        let bytes = std::fs::read(home.root().join(file)).unwrap_or_default();
        let holds = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        found |= holds("other");
        assert!(!holds(&secret) && !holds(&secret[4..]), "{file}");
    }
    assert!(found);
    let (_, revoked) = mcp.call("token", &json!({ "action": "revoke", "token_id": "other" })).unwrap();
    assert!(revoked["revoked_at"] != Value::Null);
    let answer = Http::new(&home, &secret).ask("POST", "/mcp", "", "{}");
    assert_eq!(answer.status, 401);
    assert!(
        answer.body.contains("-32001") && answer.body.contains("Invalid or expired token"),
        "{}",
        answer.body
    );
}

/// Asks over standard input and output; the answers in order, and the exit code.
fn over_stdio(home: &Home, token: Option<&str>, messages: &[Value]) -> (Vec<Value>, Option<i32>) {
    let mut command = home.command(["mcp"]);
    if let Some(token) = token {
        command.env("OUBLIETTE_TOKEN", token);
    }
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut answers = Vec::new();
    for message in messages {
        writeln!(stdin, "{message}").unwrap();
        if message.get("id").is_some() {
            let line = lines.next().expect("an answer").unwrap();
            answers.push(serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}")));
        }
    }
    drop(stdin);
    (answers, child.wait().unwrap().code())
}

fn handshake() -> Vec<Value> {
    let params = json!({
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "test", "version": "1" },
    });
    vec![
        json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params }),
        json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }),
        json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" }),
    ]
}

#[test]
fn a_client_on_standard_input_has_the_rights_of_its_token_and_the_server_is_started() {
    let home = Home::without_model();
    let made = home.json(&["token", "create", "--name", "reader", "--scope", "admin:ro"]);
    let secret = made["secret"].as_str().unwrap();
    let mut messages = handshake();
    messages.push(json!({
        "jsonrpc": "2.0", "id": 2, "method": "tools/call",
        "params": { "name": "project", "arguments": { "action": "create", "name": "x" } },
    }));
    // No server runs yet.
    let (answers, code) = over_stdio(&home, Some(secret), &messages);
    assert_eq!(code, Some(0));
    assert_eq!(answers[0]["result"]["serverInfo"]["name"], "oubliette", "{answers:?}");
    assert!(!answers[1].to_string().contains("\"spawn\""), "{}", answers[1]);
    assert_eq!(answers[2]["result"]["structuredContent"]["error"]["code"], "forbidden", "{}", answers[2]);
    let environment = std::fs::read(format!("/proc/{}/environ", home.pid())).unwrap();
    assert!(!String::from_utf8_lossy(&environment).contains(secret), "the server has not the client's token");

    let (answers, code) = over_stdio(&home, None, &messages);
    assert_eq!(code, Some(0));
    assert!(answers[1].to_string().contains("\"spawn\""), "{}", answers[1]);
    assert_eq!(answers[2]["result"]["structuredContent"]["name"], "x", "{}", answers[2]);

    // A token that is none: the client is told, and the bridge does not go on as somebody else.
    let (answers, _) = over_stdio(&home, Some("oub_none"), &handshake()[..1]);
    assert!(answers[0]["error"].is_object(), "{answers:?}");
}

#[test]
fn setup_merges_the_file_makes_a_narrow_token_and_revokes_the_one_before() {
    let home = Home::without_model();
    let file = home.user("client.json");
    std::fs::write(&file, "{\n  // mine\n  \"mcpServers\": { \"other\": { \"command\": \"x\" } }\n}\n")
        .unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let path = file.to_str().unwrap();
    let setup = |more: &[&str]| {
        let args = [&["mcp", "--setup", "cursor", "--config", path][..], more].concat();
        home.json(&args)
    };
    let first = setup(&[]);
    assert_eq!(first["token"]["scope"], "admin:ro", "the folder is no project: as little as is of use");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("// mine") && text.contains("\"other\": { \"command\": \"x\" }"), "{text}");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let entry =
        &serde_json::from_str::<Value>(&text.replace("// mine", "")).unwrap()["mcpServers"]["oubliette"];
    let secret = entry["env"]["OUBLIETTE_TOKEN"].as_str().unwrap().to_owned();
    assert_eq!(entry["args"][2], "mcp");
    let http = Http::new(&home, &secret);
    assert_eq!(http.ask("GET", "/api/v1/projects", "", "").status, 200, "the token in the file works");

    let second = setup(&["--scope", "admin"]);
    assert_eq!((&second["token"]["scope"], &second["revoked"]), (&json!("admin"), &first["token"]["id"]));
    assert_eq!(http.ask("GET", "/api/v1/projects", "", "").status, 401, "the token before is revoked");

    // In the folder of a project the token is for that project.
    let folder = home.user("thing");
    std::fs::create_dir(&folder).unwrap();
    home.ok(["project", "create", "thing", "--source", folder.to_str().unwrap()]);
    let output = home.command(["mcp", "--setup", "codex", "--json"]).current_dir(&folder).output().unwrap();
    assert!(output.status.success(), "{}", shown(&output));
    let made: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(made["token"]["scope"].as_str().unwrap().starts_with("project:"), "{made}");
    let toml = std::fs::read_to_string(home.user(".codex/config.toml")).unwrap();
    assert!(toml.contains("[mcp_servers.oubliette]") && toml.contains("OUBLIETTE_TOKEN"), "{toml}");

    // What cannot be merged is left as it is, and no token is made for it.
    std::fs::write(&file, "{ \"mcpServers\": [] }").unwrap();
    let count = home.json(&["token", "list"]).as_array().unwrap().len();
    let output = home.run(["mcp", "--setup", "cursor", "--config", path]);
    assert_eq!(output.status.code(), Some(5), "{}", shown(&output));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "{ \"mcpServers\": [] }");
    assert_eq!(home.json(&["token", "list"]).as_array().unwrap().len(), count);
}
