//! Refusals of HTTP itself have the form of all others (RFC 9457), and answers are compressed for who asks.

use std::io::Read as _;

use http::Request;
use http_body_util::BodyExt as _;
use http_body_util::Full;
use serde_json::Value;

use crate::fake::ADMIN;
use crate::fake::SESSION;
use crate::fake::empty;
use crate::fake::json_of;
use crate::fake::server;
use crate::fake::soon;
use crate::fake::text;

#[tokio::test]
async fn every_refusal_is_a_problem_with_a_type_a_status_and_a_fix() {
    let server = server(true).await;
    let ask = |method: &str, path: &str, headers: &[(&str, &str)], body: &str| -> Request<Full<_>> {
        let mut request = server.request(method, path).header("authorization", format!("Bearer {ADMIN}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(text(body)).expect("a request")
    };
    let json = ("content-type", "application/json");
    let long = format!("/api/v1/sessions?{}", "a".repeat(9000));
    let large = format!(r#"{{"message":"{}"}}"#, "x".repeat(1024 * 1024));
    let header = "y".repeat(40 * 1024);
    let cases = [
        (ask("GET", "/nothing", &[], ""), 404, "not_found", true),
        (ask("GET", "/api/v1/nothing", &[], ""), 404, "not_found", true),
        (ask("PUT", "/api/v1/sessions", &[], ""), 405, "invalid_argument", false),
        (ask("OPTIONS", "/health", &[], ""), 405, "invalid_argument", false),
        (ask("POST", "/api/v1/sessions", &[json], &large), 413, "invalid_argument", false),
        (ask("GET", &long, &[], ""), 414, "invalid_argument", false),
        (
            ask("POST", "/api/v1/sessions", &[("content-type", "text/plain")], "{}"),
            415,
            "invalid_argument",
            false,
        ),
        (
            ask("POST", "/api/v1/sessions", &[json, ("content-encoding", "gzip")], "{}"),
            415,
            "invalid_argument",
            false,
        ),
        (ask("GET", "/api/v1/sessions", &[("x-large", &header)], ""), 431, "invalid_argument", false),
        (ask("GET", "/api/v1/sessions?limit=x", &[], ""), 400, "invalid_argument", true),
    ];
    for (request, status, code, is_ours) in cases {
        let what = format!("{} {:.40}", request.method(), request.uri().to_string());
        let response = soon(server.send(request)).await;
        assert_eq!(response.headers()["content-type"], "application/problem+json", "{what}");
        assert_eq!(response.headers().contains_key("allow"), status == 405, "{what}");
        let (got, problem) = json_of(response).await;
        assert_eq!((got, problem["code"].as_str()), (status, Some(code)), "{what}: {problem}");
        assert_eq!(problem["status"], status, "{what}");
        let kind = problem["type"].as_str().expect("a type");
        assert_eq!(kind.starts_with("urn:oubliette:problem:"), is_ours, "{what}: {kind}");
        for member in ["title", "detail", "fix", "request_id"] {
            assert!(
                problem[member].as_str().is_some_and(|text| !text.is_empty()),
                "{what}: {member} in {problem}"
            );
        }
    }
    let (status, _) = soon(server.call("GET", "/api/v1/server", "")).await;
    assert_eq!(status, 200, "the control");
}

#[tokio::test]
async fn large_answers_are_compressed_for_who_asks_and_streams_never() {
    let server = server(true).await;
    server.fake.events.send_replace((1, true));
    let ask = async |path: &str, headers: &[(&str, &str)]| {
        let mut request = server.request("GET", path).header("authorization", format!("Bearer {ADMIN}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = soon(server.send(request.body(empty()).expect("a request"))).await;
        let encoding = response.headers().get("content-encoding").cloned();
        let bytes = soon(response.into_body().collect()).await.expect("a body").to_bytes();
        (encoding, bytes)
    };
    let gzip = ("accept-encoding", "gzip");
    let openapi = "/api/v1/openapi.json";
    let (encoding, plain) = ask(openapi, &[]).await;
    assert_eq!(encoding, None, "only for who asks");
    let (encoding, packed) = ask(openapi, &[gzip]).await;
    assert_eq!(encoding.expect("compressed"), "gzip");
    assert!(packed.len() * 2 < plain.len());
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut unpacked).expect("gzip");
    assert_eq!(unpacked, plain);
    assert_eq!(ask("/api/v1/server", &[gzip]).await.0, None, "what is small is sent as it is");
    let events = format!("/api/v1/sessions/{SESSION}/events");
    let (encoding, stream) = ask(&events, &[gzip, ("accept", "text/event-stream")]).await;
    assert_eq!(encoding, None);
    assert!(stream.starts_with(b"retry"), "{stream:?}");
}

#[tokio::test]
async fn the_document_of_the_routes_is_for_who_has_a_token() {
    let server = server(true).await;
    let request = server.request("GET", "/api/v1/openapi.json").body(empty()).expect("a request");
    assert_eq!(soon(server.send(request)).await.status(), 401);
    let (status, document) = soon(server.call("GET", "/api/v1/openapi.json", "")).await;
    assert_eq!((status, document), (200, ob_server::openapi::document()));
    let (_, problem) = soon(server.call("GET", "/api/v1/nothing", "")).await;
    let described = &ob_server::openapi::document()["components"]["schemas"]["Problem"]["properties"];
    for member in problem.as_object().expect("a problem").keys() {
        assert_ne!(described[member], Value::Null, "{member} is described");
    }
}
