//! Probes and metrics: who sees what, also while the engine starts.

use serde_json::json;

use crate::fake::ADMIN;
use crate::fake::PROJECT;
use crate::fake::READER;
use crate::fake::empty;
use crate::fake::json_of;
use crate::fake::server;
use crate::fake::soon;

#[tokio::test]
async fn health_is_ok_at_once_and_readiness_says_what_is_missing() {
    let server = server(false).await;
    let (status, health) = soon(server.call("GET", "/health", "")).await;
    assert_eq!((status, &health["status"]), (200, &json!("ok")));
    assert_eq!(health["checks"]["engine"]["status"], "missing");
    let (status, ready) = soon(server.call("GET", "/ready", "")).await;
    let expected = json!({ "status": "not ready", "reason": "recovering sessions", "missing": ["engine"] });
    assert_eq!((status, ready), (503, expected));

    server.phase.send_replace(ob_server::Phase::Serving(server.fake.clone()));
    assert_eq!(soon(server.call("GET", "/ready", "")).await, (200, json!({ "status": "ready" })));
    *server.fake.not_ready.lock().expect("no panic") = Some("the store cannot write".into());
    let (status, ready) = soon(server.call("GET", "/ready", "")).await;
    let expected = json!({ "status": "not ready", "reason": "the store cannot write", "missing": ["store"] });
    assert_eq!((status, ready), (503, expected));
    let (status, health) = soon(server.call("GET", "/health", "")).await;
    assert_eq!((status, &health["status"]), (200, &json!("ok")), "alive, and it says what is down");
    let store = &health["checks"]["store"];
    assert_eq!((&store["status"], &store["required"]), (&json!("failed"), &json!(true)));
    assert_eq!((&store["message"], &store["cost"]), (&json!("the store cannot write"), &json!("everything")));
    assert_eq!(store["fix"], "mend it: `true`");
    let disk = &health["checks"]["disk"];
    assert_eq!(
        (&disk["value"], &disk["unit"], &disk["threshold"]),
        (&json!(1.5), &json!("bytes"), &json!(2.0))
    );
    assert_eq!(health["checks"]["model"]["status"], "not_configured", "which is never healthy");
}

#[tokio::test]
async fn checks_are_for_this_machine_or_a_wide_token() {
    let server = server(true).await;
    let get = |host: &str, header: Option<(&str, &str)>| {
        let mut request = http::Request::get("/health").header("host", host);
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        request.body(empty()).expect("a request")
    };
    let (admin, reader) = (format!("Bearer {ADMIN}"), format!("Bearer {READER}"));
    let project = format!("Bearer {PROJECT}");
    let cases = [
        ("localhost", None, true),
        ("localhost", Some(("x-forwarded-for", "1.2.3.4")), false),
        ("localhost", Some(("forwarded", "for=1.2.3.4")), false),
        ("oubliette.example", None, false),
        ("oubliette.example", Some(("authorization", admin.as_str())), true),
        ("oubliette.example", Some(("authorization", reader.as_str())), true),
        ("oubliette.example", Some(("authorization", project.as_str())), false),
        ("oubliette.example", Some(("authorization", "Bearer wrong")), false),
    ];
    for (host, header, shown) in cases {
        let (status, body) = json_of(soon(server.send(get(host, header))).await).await;
        assert_eq!((status, body.get("checks").is_some()), (200, shown), "{host} {header:?}");
    }
    let (_, body) = json_of(soon(server.send(get("localhost", None))).await).await;
    assert!(body["checks"]["store"]["last_ok"].is_string());
    assert!(body["checks"]["model"]["last_ok"].is_null(), "never ok, so never seen ok");
}

#[tokio::test]
async fn metrics_need_a_token_unless_asked_from_here() {
    let server = server(true).await;
    let get = |name: &str, value: &str| {
        server.request("GET", "/metrics").header(name, value).body(empty()).expect("a request")
    };
    let forwarded = |token: &str| {
        server
            .request("GET", "/metrics")
            .header("x-forwarded-for", "1.2.3.4")
            .header("authorization", format!("Bearer {token}"))
            .body(empty())
            .expect("a request")
    };
    let response = soon(server.send(get("accept", "*/*"))).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    assert_eq!(soon(server.send(get("x-forwarded-for", "1.2.3.4"))).await.status(), 401);
    assert_eq!(soon(server.send(forwarded(PROJECT))).await.status(), 403);
    assert_eq!(soon(server.send(forwarded(READER))).await.status(), 200);
}
