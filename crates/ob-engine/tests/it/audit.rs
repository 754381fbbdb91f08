//! What the engine tells the audit, and that nothing is done that it could not be told of.

use std::collections::BTreeMap;

use ob_core::Principal;
use ob_core::RefusalCode;
use ob_core::audit::Asker;
use ob_core::audit::Verdict;
use ob_core::authorize::Scope;
use ob_core::id::TokenId;
use ob_core::operation::Access;
use ob_core::operation::Operation;
use serde_json::Value;
use serde_json::json;

use super::world::Broken;
use super::world::World;
use super::world::ask;
use super::world::project;
use super::world::refused;

#[tokio::test(flavor = "multi_thread")]
async fn every_write_and_every_refusal_is_in_the_audit_with_who_asked_in_which_request() {
    let world = World::new().await;
    let engine = world.engine(Broken::new(true)).await;
    let own = project(&engine, json!({})).await;
    ask(&engine, Operation::ProjectGet, json!({ "project_id": own })).await;
    let reader = Principal::Token { id: TokenId::new(7), scope: Scope::ProjectReadOnly(own) };
    let asker = Asker { principal: reader, request: Some("r-1".to_owned()) };
    let forbidden = engine.call(&asker, Operation::ProjectDelete, json!({ "project_id": own })).await;
    assert_eq!(forbidden.expect_err("it only reads").code, RefusalCode::Forbidden);
    // Allowed, and not possible: both are told.
    let secret = "oub_0123456789abcdef";
    refused(&engine, Operation::TokenRevoke, json!({ "token": secret })).await;

    let told: Vec<_> = world
        .audit
        .rows()
        .into_iter()
        .map(|row| (row.entry.operation, row.entry.verdict, row.entry.code, row.entry.request_id))
        .collect();
    let none = None;
    assert_eq!(
        told,
        [
            ("project.create".to_owned(), Verdict::Permitted, None, none.clone()),
            (
                "project.delete".to_owned(),
                Verdict::Refused,
                Some(RefusalCode::Forbidden),
                Some("r-1".to_owned())
            ),
            ("token.revoke".to_owned(), Verdict::Permitted, None, none.clone()),
            ("token.revoke".to_owned(), Verdict::Refused, Some(RefusalCode::NotFound), none),
        ]
    );
    let delete = &world.audit.rows()[1].entry;
    assert!(delete.principal.starts_with("token tok_"), "{delete:?}");
    assert_eq!(delete.about, BTreeMap::from([("project".to_owned(), own.to_string())]));
    let text = serde_json::to_string(&world.audit.rows()).expect("JSON");
    assert!(!text.contains(secret), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_changed_that_the_audit_could_not_be_told_of() {
    let world = World::new().await;
    let engine = world.engine(Broken::new(true)).await;
    let own = project(&engine, json!({})).await;
    world.audit.set_full(true);
    for operation in Operation::ALL.iter().filter(|operation| operation.spec().access != Access::Read) {
        // Parameters that would do: what is wrong with others is told before.
        let params = match operation {
            Operation::ProjectCreate => json!({ "name": "other" }),
            Operation::ProjectDelete => json!({ "project_id": own }),
            Operation::SessionSpawn => json!({ "project_id": own, "message": "x" }),
            Operation::TokenCreate => json!({ "name": "ci", "scope": "admin" }),
            Operation::TokenInfo => json!({ "token": "nobody" }),
            Operation::TokenList
            | Operation::AuditList
            | Operation::AuditVerify
            | Operation::AuditExport
            | Operation::ServerReload => json!({}),
            // What only ends something, and what is about a session or workspace that would have to be made first.
            _ => continue,
        };
        let refusal = refused(&engine, *operation, params).await;
        assert_eq!(refusal.code, RefusalCode::Unavailable, "{operation:?}: {refusal}");
        assert!(refusal.message.contains("audit"), "{refusal}");
    }
    let revoked = refused(&engine, Operation::TokenRevoke, json!({ "token": "nobody" })).await;
    assert_eq!(revoked.code, RefusalCode::NotFound, "a token can be revoked on a full disk");
    // What only looks goes on.
    let left = ask(&engine, Operation::ProjectList, json!({})).await;
    assert_eq!(left.as_array().map(Vec::len), Some(1));
    world.audit.set_full(false);
    ask(&engine, Operation::ProjectDelete, json!({ "project_id": own })).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_is_read_page_by_page_in_both_directions_and_in_both_forms() {
    let world = World::new().await;
    let engine = world.engine(Broken::new(true)).await;
    for _ in 0..5 {
        project(&engine, json!({})).await;
    }
    // Whoever looks is in it as well, so each answer begins with itself.
    let newest = ask(&engine, Operation::AuditList, json!({ "limit": 2 })).await;
    let seqs = |rows: &Value| {
        rows.as_array().map(|rows| rows.iter().map(|row| row["seq"].clone()).collect::<Vec<_>>())
    };
    assert_eq!(seqs(&newest), Some(vec![json!(6), json!(5)]));
    let older = ask(&engine, Operation::AuditList, json!({ "limit": 2, "before": 5 })).await;
    assert_eq!(seqs(&older), Some(vec![json!(4), json!(3)]));
    let exported = ask(&engine, Operation::AuditExport, json!({ "limit": 3 })).await;
    assert_eq!(
        (seqs(&exported["entries"]), &exported["last"]),
        (Some(vec![json!(1), json!(2), json!(3)]), &json!(3))
    );
    let ocsf =
        ask(&engine, Operation::AuditExport, json!({ "after": 3, "limit": 1, "format": "ocsf" })).await;
    let event = &ocsf["entries"][0];
    assert_eq!((&event["class_uid"], &event["metadata"]["sequence"]), (&json!(6003), &json!(4)));
    let end = ask(&engine, Operation::AuditExport, json!({ "after": 1000 })).await;
    assert_eq!((&end["entries"], &end["last"]), (&json!([]), &json!(1000)));
    let verdict = ask(&engine, Operation::AuditVerify, json!({})).await;
    assert_eq!(verdict["intact"], true);
    for limit in [0, 1001] {
        refused(&engine, Operation::AuditList, json!({ "limit": limit })).await;
    }
}
