//! The routes of the operation table.

use std::sync::atomic::Ordering;

use ob_core::operation::Method;
use ob_core::operation::Operation;
use serde_json::Value;
use serde_json::json;

use crate::fake::ADMIN;
use crate::fake::SESSION;
use crate::fake::empty;
use crate::fake::json_of;
use crate::fake::server;
use crate::fake::soon;
use crate::fake::text;

const ID: &str = "00000000-0000-0000-0000-000000000001";

fn path_of(operation: Operation) -> String {
    operation
        .spec()
        .path
        .replace("{project_id}", ID)
        .replace("{workspace_id}", ID)
        .replace("{session_id}", SESSION)
        .replace("{token}", "tok_000000000001")
}

fn method_of(operation: Operation) -> &'static str {
    match operation.spec().method {
        Method::Get => "GET",
        Method::Post => "POST",
        Method::Delete => "DELETE",
    }
}

#[tokio::test]
async fn every_operation_of_the_table_has_its_route() {
    let server = server(true).await;
    for operation in Operation::ALL {
        // So that `token.create`, which waits in the fake, goes on at once.
        server.fake.gate.notify_one();
        let path = format!("/api/v1{}", path_of(*operation));
        let (_, body) = soon(server.call(method_of(*operation), &path, "")).await;
        let (principal, called, params) = server.last_call();
        assert_eq!(called, *operation, "{path}: {body}");
        assert!(principal.starts_with("token "), "{principal}");
        for name in operation.spec().path.split(['{', '}']).skip(1).step_by(2) {
            assert!(params.get(name).is_some(), "{path}: {name} in {params}");
        }
    }
}

#[tokio::test]
async fn no_operation_is_reached_without_a_token() {
    let server = server(true).await;
    for operation in Operation::ALL {
        for authorization in
            [None, Some("Bearer wrong"), Some("Basic b3Vi"), Some("Bearer "), Some("oub_admin")]
        {
            let mut request =
                server.request(method_of(*operation), &format!("/api/v1{}", path_of(*operation)));
            if let Some(value) = authorization {
                request = request.header("authorization", value);
            }
            let response = soon(server.send(request.body(empty()).expect("a request"))).await;
            assert_eq!(response.status(), 401, "{operation:?} with {authorization:?}");
            let challenge = response.headers().get("www-authenticate").expect("a challenge");
            assert!(challenge.to_str().expect("text").starts_with("Bearer"));
            let (_, body) = json_of(response).await;
            assert_eq!(body["code"], "unauthenticated");
            assert!(body["fix"].is_string());
        }
    }
    assert!(server.fake.calls.lock().expect("no panic").is_empty(), "nothing reached the engine");
}

#[tokio::test]
async fn the_control_socket_is_the_operator_and_needs_no_token() {
    let server = server(true).await;
    let request = server.request("GET", "/api/v1/server").body(empty()).expect("a request");
    let (status, _) = json_of(soon(server.control(request)).await).await;
    assert_eq!((status, server.last_call().0.as_str()), (200, "operator"));
}

#[tokio::test]
async fn parameters_come_from_path_query_and_body() {
    let server = server(true).await;
    let path = format!("/api/v1/sessions/{SESSION}/message");
    let (status, _) = soon(server.call("POST", &path, r#"{"message":"go on"}"#)).await;
    assert_eq!(status, 200);
    assert_eq!(server.last_call().2, json!({ "session_id": SESSION, "message": "go on" }));
    let (status, _) = soon(server.call("GET", "/api/v1/sessions?limit=5&status=active", "")).await;
    assert_eq!(status, 200);
    assert_eq!(server.last_call().2, json!({ "limit": 5, "status": "active" }));
}

#[tokio::test]
async fn refusals_are_problems_with_code_fix_and_request_id() {
    let server = server(true).await;
    let cases: [(&str, String, &str, u16, &str); 7] = [
        ("GET", "/api/v1/sessions?limt=5".into(), "", 400, "invalid_argument"),
        ("GET", "/api/v1/sessions?limit=5&limit=6".into(), "", 400, "invalid_argument"),
        ("POST", "/api/v1/sessions".into(), "[]", 400, "invalid_argument"),
        ("DELETE", format!("/api/v1/projects/{ID}/workspaces/{ID}"), "", 409, "conflict"),
        ("GET", "/api/v1/nothing".into(), "", 404, "not_found"),
        ("PUT", "/api/v1/sessions".into(), "", 405, "invalid_argument"),
        ("GET", "/api/v1/sessions".into(), "{}", 400, "invalid_argument"),
    ];
    for (method, path, body, status, code) in cases {
        let (got, answer) = soon(server.call(method, &path, body)).await;
        assert_eq!((got, answer["code"].as_str()), (status, Some(code)), "{method} {path}");
        assert!(answer["fix"].is_string(), "{answer}");
        assert!(answer["request_id"].as_str().is_some_and(|id| !id.is_empty()));
    }
}

#[tokio::test]
async fn a_body_must_be_json_and_small() {
    let server = server(true).await;
    let post = |kind: &str, body: &str| {
        server
            .request("POST", "/api/v1/sessions")
            .header("authorization", format!("Bearer {ADMIN}"))
            .header("content-type", kind)
            .body(text(body))
            .expect("a request")
    };
    let (status, _) = json_of(soon(server.send(post("text/plain", "{}"))).await).await;
    assert_eq!(status, 415);
    let large = format!(r#"{{"message":"{}"}}"#, "x".repeat(1024 * 1024));
    let (status, answer) = json_of(soon(server.send(post("application/json", &large))).await).await;
    assert_eq!(status, 413, "{answer}");
    let fits = format!(r#"{{"message":"{}"}}"#, "x".repeat(256 * 1024));
    let (status, _) = json_of(soon(server.send(post("application/json; charset=utf-8", &fits))).await).await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn a_panic_is_an_answer_and_the_server_goes_on() {
    let server = server(true).await;
    let (status, answer) = soon(server.call("DELETE", &format!("/api/v1/projects/{ID}"), "")).await;
    assert_eq!((status, answer["code"].as_str()), (500, Some("internal")));
    assert!(!answer.to_string().contains("the fake panics"), "the inside stays inside");
    let (status, _) = soon(server.call("GET", "/api/v1/server", "")).await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn an_operation_that_changes_something_finishes_though_its_caller_left() {
    let server = server(true).await;
    let request = server
        .request("POST", "/api/v1/tokens")
        .header("authorization", format!("Bearer {ADMIN}"))
        .body(empty())
        .expect("a request");
    tokio::select! {
        _ = server.send(request) => panic!("the fake still waits"),
        () = soon(server.fake.entered.notified()) => {}
    }
    // The connection is gone; the operation is not.
    server.fake.gate.notify_one();
    server.shutdown.cancel();
    soon(async {
        while server.fake.finished.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn requests_are_observed_by_route_and_probes_are_not() {
    let server = server(true).await;
    drop(soon(server.call("GET", &format!("/api/v1/sessions/{SESSION}"), "")).await);
    drop(soon(server.call("GET", "/api/v1/random-4711", "")).await);
    drop(soon(server.call("GET", "/health", "")).await);
    drop(soon(server.call("GET", "/ready", "")).await);
    let observed = server.observed.lock().expect("no panic").clone();
    let expected = [("GET", "/api/v1/sessions/{session_id}", 200), ("GET", "unmatched", 404)];
    assert_eq!(observed.len(), expected.len());
    for (got, want) in observed.iter().zip(expected) {
        assert_eq!((got.0.as_str(), got.1.as_str(), got.2), want);
    }
}

#[tokio::test]
async fn a_page_may_wait_for_its_first_event() {
    let server = server(true).await;
    let path = format!("/api/v1/sessions/{SESSION}/events?cursor=-1&wait_ms=10000");
    let page = server.call("GET", &path, "");
    let write = async {
        soon(async {
            while server.fake.calls.lock().expect("no panic").is_empty() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        server.fake.events.send_modify(|events| events.0 = 2);
    };
    let ((status, page), ()) = soon(async { tokio::join!(page, write) }).await;
    assert_eq!(status, 200);
    let indices: Vec<_> = page["events"].as_array().expect("events").iter().map(|e| &e["index"]).collect();
    assert_eq!(indices, [&Value::from(0), &Value::from(1)]);
}
