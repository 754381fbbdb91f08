//! Who may do what: every operation, for every form of a token's scope, in its own project and in another's, over REST,
//! MCP and bare calls. The expectations are the contract's words, written down here by hand; an operation that has no row
//! here fails the test. W3, W4, W5 and W6 were holes in this table.

use std::collections::BTreeSet;

use ob_core::operation::Operation;
use ob_testkit::Answer;
use ob_testkit::ModelServer;
use serde_json::Value;
use serde_json::json;

use crate::client::Http;
use crate::client::Mcp;
use crate::harness::Home;
use crate::harness::can_sandbox;
use crate::harness::until;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Any token, shown only what it may see.
    GlobalRead,
    /// `admin` only.
    Admin,
    /// Also the project's token, and the `:ro` forms.
    ProjectRead,
    /// `admin` and the project's token.
    ProjectWrite,
    /// Nobody but an agent, from within its sandbox.
    Inside,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Allowed,
    Forbidden,
    /// As if it did not exist.
    Hidden,
}

/// What the rows are about: a project with a session that waits and one that ended.
struct Place {
    project: Value,
    workspace: Value,
    active: Value,
    ended: Value,
}

/// One row: the operation, who may, and parameters that pass the authoriser and then change nothing.
struct Row(&'static str, Kind, fn(&Place) -> Value);

const ROWS: &[Row] = &[
    Row("project.create", Kind::Admin, |_| json!({ "name": "" })),
    Row("project.list", Kind::GlobalRead, |_| json!({})),
    Row("project.get", Kind::ProjectRead, |at| json!({ "project_id": at.project })),
    // It has an active session.
    Row("project.delete", Kind::ProjectWrite, |at| json!({ "project_id": at.project })),
    Row("workspace.list", Kind::ProjectRead, |at| json!({ "project_id": at.project })),
    Row(
        "workspace.delete",
        Kind::ProjectWrite,
        |at| json!({ "project_id": at.project, "workspace_id": at.workspace }),
    ),
    Row("session.spawn", Kind::ProjectWrite, |at| json!({ "project_id": at.project, "message": "" })),
    Row("session.message", Kind::ProjectWrite, |at| json!({ "session_id": at.active, "message": "" })),
    // It asks nothing.
    Row("session.answer", Kind::ProjectWrite, |at| json!({ "session_id": at.active, "answer": "42" })),
    Row("session.interrupt", Kind::ProjectWrite, |at| json!({ "session_id": at.active })),
    Row("session.end", Kind::ProjectWrite, |at| json!({ "session_id": at.ended })),
    Row("session.get", Kind::ProjectRead, |at| json!({ "session_id": at.active })),
    Row("session.list", Kind::GlobalRead, |_| json!({})),
    Row("session.events", Kind::ProjectRead, |at| json!({ "session_id": at.active, "limit": 1 })),
    Row("session.result", Kind::ProjectRead, |at| json!({ "session_id": at.active })),
    Row("session.diff", Kind::ProjectRead, |at| json!({ "session_id": at.active })),
    Row(
        "caller_tool_response.send",
        Kind::ProjectWrite,
        |at| json!({ "session_id": at.active, "request_id": "q1", "result": { "given": true }, "error": "as well" }),
    ),
    Row("caller_tool.call", Kind::Inside, |_| json!({ "tool": "crm_look_up" })),
    Row("ask.person", Kind::Inside, |_| json!({ "question": "Which?" })),
    Row("config_limits.get", Kind::ProjectRead, |at| json!({ "project_id": at.project })),
    Row("agent.list", Kind::GlobalRead, |_| json!({})),
    Row("agent.check", Kind::GlobalRead, |_| json!({ "agent": "builtin" })),
    Row("model.list", Kind::GlobalRead, |_| json!({})),
    Row("model.check", Kind::Admin, |_| json!({ "model": "nobody/nothing" })),
    Row("token.create", Kind::Admin, |_| json!({ "name": "", "scope": "admin" })),
    Row("token.list", Kind::Admin, |_| json!({})),
    Row("token.revoke", Kind::Admin, |_| json!({ "token": "nobody" })),
    Row("token.info", Kind::Admin, |_| json!({ "token": "nobody" })),
    Row("audit.list", Kind::Admin, |_| json!({ "limit": 1 })),
    Row("audit.verify", Kind::Admin, |_| json!({})),
    Row("audit.export", Kind::Admin, |_| json!({ "limit": 1 })),
    Row("server.status", Kind::GlobalRead, |_| json!({})),
    Row("server.stop", Kind::Admin, |_| json!({ "keep_sandboxes": "this is no truth value" })),
    Row("server.reload", Kind::Admin, |_| json!({ "dry_run": true })),
];

/// The forms of scopes; `OWN` is the place's project, `OTHER` another.
const SCOPES: [&str; 6] =
    ["admin", "admin:ro", "project:OWN", "project:OWN:ro", "project:OTHER", "project:OTHER:ro"];

fn expected(kind: Kind, scope: &str) -> Verdict {
    match (kind, scope) {
        (Kind::Inside, _) => Verdict::Forbidden,
        (_, "admin") | (Kind::GlobalRead, _) | (Kind::ProjectRead, "admin:ro") => Verdict::Allowed,
        (Kind::Admin, _) | (Kind::ProjectWrite, "admin:ro") => Verdict::Forbidden,
        (_, "project:OTHER" | "project:OTHER:ro") => Verdict::Hidden,
        (Kind::ProjectRead, _) | (Kind::ProjectWrite, "project:OWN") => Verdict::Allowed,
        (Kind::ProjectWrite, _) => Verdict::Forbidden,
    }
}

/// What an answer says of the permission.
fn verdict(kind: Kind, outcome: &Result<Value, String>) -> Verdict {
    match outcome {
        Err(code) if code == "forbidden" => Verdict::Forbidden,
        Err(code) if code == "not_found" && matches!(kind, Kind::ProjectRead | Kind::ProjectWrite) => {
            Verdict::Hidden
        }
        Err(code) => {
            assert_ne!(code, "unauthenticated");
            // What was only read was read.
            assert!(!matches!(kind, Kind::GlobalRead | Kind::ProjectRead), "{code}");
            Verdict::Allowed
        }
        Ok(_) => Verdict::Allowed,
    }
}

fn arguments(operation: Operation, params: &Value) -> Value {
    let mut arguments = params.clone();
    arguments["action"] = operation.spec().action.into();
    arguments
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_permission_matrix_holds_at_every_door() {
    if !can_sandbox() {
        return;
    }
    let model = ModelServer::start().await.unwrap();
    for text in ["one", "two", "three"] {
        model.push(Answer::text(text));
    }
    tokio::task::spawn_blocking(move || {
        let mut home = Home::new(&model);
        // More in a second than a client may ask by default.
        home.set("OUBLIETTE_RATE_LIMIT__REQUESTS_PER_SECOND", "100000");
        home.set("OUBLIETTE_RATE_LIMIT__BURST", "100000");
        home.start();
        let source = home.repository("own", &[("a.txt", "one\n")]);
        let ended = home.spawn(&source, "End.");
        until("the first session to idle", || home.state(&ended) == "idle");
        home.ok(["session", "end", &ended]);
        let active = home.spawn(&source, "Stay.");
        until("the second session to idle", || home.state(&active) == "idle");
        let view = home.json(&["session", "get", &active]);
        let other = home.json(&["project", "create", "other"])["id"].as_str().unwrap().to_owned();
        let own = view["project_id"].as_str().unwrap().to_owned();
        let place = Place {
            project: view["project_id"].clone(),
            workspace: view["workspace_id"].clone(),
            active: active.clone().into(),
            ended: ended.into(),
        };
        let known: BTreeSet<_> = ROWS.iter().map(|row| row.0.to_owned()).collect();
        let all: BTreeSet<_> = Operation::ALL.iter().map(|operation| operation.spec().name()).collect();
        assert_eq!(known, all, "every operation has a row, and every row an operation");

        for (number, form) in SCOPES.iter().enumerate() {
            let scope = form.replace("OWN", &own).replace("OTHER", &other);
            let http = Http::with_scope(&home, &format!("t{number}"), &scope);
            let mcp = Mcp::open(&http);
            for operation in Operation::ALL {
                let spec = operation.spec();
                let Row(name, kind, params) = ROWS.iter().find(|row| row.0 == spec.name()).unwrap();
                let (params, want) = (params(&place), expected(*kind, form));
                let given = arguments(*operation, &params);
                let rest = http.rest(*operation, &params);
                let bare = http.bare(spec.tool, &given);
                let tool = mcp.call(spec.tool, &given).map(|(_, data)| data).map_err(|(code, _)| code);
                for (door, outcome) in [("REST", &rest), ("bare", &bare)] {
                    let code = outcome.clone().map_err(|(_, code)| code);
                    assert_eq!(verdict(*kind, &code), want, "{name} as {form} over {door}: {outcome:?}");
                    if want == Verdict::Forbidden {
                        assert_eq!(
                            outcome.as_ref().err().map(|(status, _)| *status),
                            Some(403),
                            "{name} {door}"
                        );
                    }
                }
                assert_eq!(verdict(*kind, &tool), want, "{name} as {form} over MCP: {tool:?}");
            }
            // Lists show what may be seen, and no more.
            let sees_own = !form.contains("OTHER");
            let (_, projects) = mcp.call("project", &json!({ "action": "list" })).unwrap();
            assert_eq!(projects.to_string().contains(&own), sees_own, "{form}: {projects}");
            let (_, sessions) = mcp.call("session", &json!({ "action": "list" })).unwrap();
            assert_eq!(sessions.to_string().contains(&active), sees_own, "{form}: {sessions}");
            let read = mcp.ask(
                "resources/read",
                &json!({ "uri": format!("oubliette://sessions/{active}/transcript") }),
            );
            assert_eq!(read["result"]["contents"].is_array(), sees_own, "{form}: {read}");
        }
        assert_eq!(home.state(&active), "idle", "nothing was changed");
    })
    .await
    .unwrap();
}
