//! The audit as people and programs see it: over REST, MCP and the command line, and after somebody changed it.

use std::fs;
use std::process::Command;

use ob_core::operation::Operation;
use serde_json::Value;
use serde_json::json;

use crate::client::Http;
use crate::client::Mcp;
use crate::harness::Home;
use crate::harness::shown;

/// Changes the audit as who has the disk can.
fn sql(home: &Home, statement: &str) {
    let file = home.root().join("data/audit.db");
    let output = Command::new("sqlite3").arg(file).arg(statement).output().unwrap();
    assert!(output.status.success(), "{}", shown(&output));
}

#[test]
fn who_did_what_is_in_the_audit_over_every_door_and_a_change_to_it_is_found() {
    let home = Home::without_model();
    home.start();
    let admin = Http::with_scope(&home, "admin", "admin");
    let reader = Http::with_scope(&home, "reader", "admin:ro");
    let refused = reader.rest(Operation::ProjectCreate, &json!({ "name": "p" })).unwrap_err();
    assert_eq!(refused, (403, "forbidden".to_owned()));
    let wrong = Http::new(&home, &format!("oub_{}", "0".repeat(64)));
    let answer = wrong.ask("GET", "/api/v1/server", "X-Request-ID: guess-1\r\n", "");
    assert_eq!(answer.status, 401);
    admin.rest(Operation::ProjectCreate, &json!({ "name": "p" })).unwrap();

    let of = |row: &Value| {
        let name = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
        (name("operation"), name("verdict"), name("code"))
    };
    let expected = [
        ("token.create", "permitted", ""),
        ("token.create", "permitted", ""),
        ("project.create", "refused", "forbidden"),
        ("login", "refused", "unauthenticated"),
        ("project.create", "permitted", ""),
    ]
    .map(|(operation, verdict, code)| (operation.to_owned(), verdict.to_owned(), code.to_owned()));
    let lines = home.ok(["audit", "export"]);
    let rows: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.iter().map(of).collect::<Vec<_>>(), expected);
    assert_eq!((&rows[3]["request_id"], &rows[3]["address"]), (&json!("guess-1"), &json!("127.0.0.1")));
    assert!(rows[2]["principal"].as_str().unwrap().contains("admin:ro"), "{}", rows[2]);
    assert!(rows[2]["request_id"].is_string(), "{}", rows[2]);

    // The same over the doors; whoever looks is in it too.
    let page = admin.rest(Operation::AuditExport, &json!({ "limit": 5 })).unwrap();
    assert_eq!(page["entries"].as_array().unwrap(), &rows);
    let mcp = Mcp::open(&admin);
    let (_, list) = mcp.call("audit", &json!({ "action": "list", "limit": 1 })).unwrap();
    assert_eq!(list["entries"][0]["operation"], "audit.list");
    let (_, ocsf) =
        mcp.call("audit", &json!({ "action": "export", "format": "ocsf", "after": 3, "limit": 1 })).unwrap();
    assert_eq!(ocsf["entries"][0]["class_uid"], 3002);
    assert!(reader.rest(Operation::AuditList, &json!({})).is_err(), "`admin:ro` sees no audit");
    let table = home.ok(["audit", "list", "--limit", "50"]);
    assert!(table.starts_with("SEQ") && table.contains("project.create"), "{table}");
    let verdict = home.json(&["audit", "verify"]);
    assert_eq!(verdict["intact"], true, "{verdict}");
    assert!(home.ok(["audit", "export", "--ocsf"]).lines().all(|line| line.contains("\"class_uid\"")));

    // Not even a server that is killed loses any.
    home.kill();
    let after = home.json(&["audit", "verify"]);
    assert_eq!(after["entries"].as_u64(), verdict["entries"].as_u64());
    for secret in [admin.token(), reader.token()] {
        for file in ["audit.db", "audit.db-wal"] {
            let bytes = fs::read(home.root().join("data").join(file)).unwrap_or_default();
            assert!(!String::from_utf8_lossy(&bytes).contains(&secret[4..]), "a secret is in {file}");
        }
    }
    sql(
        &home,
        // tidy: sql: an intruder's, not ours.
        "DROP TRIGGER audit_never_changes; UPDATE audit SET entry = replace(entry, 'forbidden', 'permitted')",
    );
    let output = home.run(["audit", "verify"]);
    assert_eq!(output.status.code(), Some(1), "{}", shown(&output));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("entry 3 is not as it was written") && text.contains("NOT intact"), "{text}");
}
