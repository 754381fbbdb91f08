//! Host, Origin, request ids, and starting.

use std::sync::atomic::Ordering;

use ob_server::Phase;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;

use crate::fake::ADMIN;
use crate::fake::empty;
use crate::fake::json_of;
use crate::fake::server;
use crate::fake::server_at;
use crate::fake::soon;

#[tokio::test]
async fn a_loopback_listener_serves_loopback_hosts_only() {
    let server = server(true).await;
    let with_host = |host: String| {
        http::Request::get("/api/v1/server")
            .header("host", host)
            .header("authorization", format!("Bearer {ADMIN}"))
            .body(empty())
            .expect("a request")
    };
    for host in ["localhost", "LOCALHOST", "127.0.0.1", "[::1]", "proxy.example"] {
        for port in [String::new(), format!(":{}", server.port)] {
            let response = soon(server.send(with_host(format!("{host}{port}")))).await;
            assert_eq!(response.status(), 200, "{host}{port}");
        }
    }
    for host in ["evil.example", "localhost.evil.example", "10.1.2.3", "user@evil.example"] {
        let (status, answer) = json_of(soon(server.send(with_host(host.into()))).await).await;
        assert_eq!((status, answer["code"].as_str()), (403, Some("forbidden")), "{host}");
    }
}

#[tokio::test]
async fn a_listener_of_all_interfaces_serves_any_host() {
    let server = server_at("0.0.0.0:0", true).await;
    let request = http::Request::get("/api/v1/server")
        .header("host", "oubliette.example")
        .header("authorization", format!("Bearer {ADMIN}"))
        .body(empty())
        .expect("a request");
    assert_eq!(soon(server.send(request)).await.status(), 200);
}

#[tokio::test]
async fn pages_of_other_origins_are_refused() {
    let server = server(true).await;
    for (origin, status) in [
        ("http://localhost:3000", 200),
        ("http://127.0.0.1", 200),
        ("https://evil.example", 403),
        ("http://localhost.evil.example", 403),
        ("null", 403),
    ] {
        let request = server
            .request("GET", "/api/v1/server")
            .header("origin", origin)
            .header("authorization", format!("Bearer {ADMIN}"))
            .body(empty())
            .expect("a request");
        assert_eq!(soon(server.send(request)).await.status(), status, "{origin}");
    }
}

#[tokio::test]
async fn only_one_bearer_secret_in_one_header_is_looked_up() {
    let server = server(true).await;
    let valid = format!("Bearer {ADMIN}");
    let ask = |authorizations: &[&str]| {
        let mut request = server.request("GET", "/api/v1/server");
        for value in authorizations {
            request = request.header("authorization", *value);
        }
        server.send(request.body(empty()).expect("a request"))
    };
    let basic = format!("Basic {ADMIN}");
    let no_scheme = format!(" {ADMIN}");
    let bare = ADMIN.to_owned();
    let other = format!("BearerX {ADMIN}");
    let long = format!("Bearer oub_{}", "a".repeat(600));
    let refused: [&[&str]; 11] = [
        &[],
        &[""],
        &[&basic],
        &[&no_scheme],
        &[&bare],
        &[&other],
        &["Bearer "],
        &["Bearer    "],
        &[&valid, &valid],
        &[&valid, &basic],
        &[&long],
    ];
    for authorizations in refused {
        let response = soon(ask(authorizations)).await;
        assert_eq!(response.status(), 401, "{authorizations:?}");
        assert_eq!(server.fake.looked_up.load(Ordering::SeqCst), 0, "{authorizations:?}");
    }
    // What is one secret is looked up, however the scheme is written.
    for scheme in ["Bearer", "bearer", "BEARER"] {
        assert_eq!(soon(ask(&[&format!("{scheme} {ADMIN}")])).await.status(), 200, "{scheme}");
        assert_eq!(soon(ask(&[&format!("{scheme}   {ADMIN}")])).await.status(), 200, "{scheme}");
    }
    assert_eq!(server.fake.looked_up.load(Ordering::SeqCst), 6);
}

#[tokio::test]
async fn a_request_without_a_valid_token_is_told_of_with_its_id_and_its_address() {
    let server = server(true).await;
    let unknown = ("authorization", "Bearer oub_nobody");
    for (path, id, header) in [
        ("/api/v1/server", "none", ("x-other", "1")),
        ("/api/v1/server", "unknown", unknown),
        ("/mcp", "mcp", unknown),
        ("/api/v1/openapi.json", "document", unknown),
    ] {
        let request = server.request("GET", path).header("x-request-id", id).header(header.0, header.1);
        assert_eq!(soon(server.send(request.body(empty()).expect("a request"))).await.status(), 401, "{id}");
    }
    let valid = server.request("GET", "/api/v1/server").header("authorization", format!("Bearer {ADMIN}"));
    assert_eq!(soon(server.send(valid.body(empty()).expect("a request"))).await.status(), 200);
    let told = server.fake.logins.lock().expect("no panic").clone();
    let here = "127.0.0.1".parse().ok();
    let expected = ["none", "unknown", "mcp", "document"].map(|id| (id.to_owned(), here));
    assert_eq!(told, expected);
}

#[tokio::test]
async fn a_request_id_is_taken_or_made_and_echoed() {
    let server = server(true).await;
    let with = |id: &str| {
        server.request("GET", "/api/v1/none").header("x-request-id", id).body(empty()).expect("a request")
    };
    let echoed = |response: &http::Response<hyper::body::Incoming>| {
        response.headers()["x-request-id"].to_str().expect("text").to_owned()
    };
    let response = soon(server.send(with("run-17.a_b"))).await;
    assert_eq!(echoed(&response), "run-17.a_b");
    assert_eq!(json_of(response).await.1["request_id"], "run-17.a_b");
    let response = soon(server.send(with("two words"))).await;
    assert_eq!(echoed(&response).len(), 32);
}

#[tokio::test]
async fn while_the_engine_starts_the_api_refuses_and_then_serves() {
    let server = server(false).await;
    let request = || {
        server
            .request("GET", "/api/v1/server")
            .header("authorization", format!("Bearer {ADMIN}"))
            .body(empty())
            .expect("a request")
    };
    let response = soon(server.send(request())).await;
    assert_eq!(response.headers()["retry-after"], "1");
    let (status, answer) = json_of(response).await;
    assert_eq!((status, answer["code"].as_str()), (503, Some("unavailable")));
    assert!(answer["detail"].as_str().is_some_and(|m| m.contains("recovering sessions")));
    server.phase.send_replace(Phase::Serving(server.fake.clone()));
    assert_eq!(soon(server.send(request())).await.status(), 200);
    server.phase.send_replace(Phase::Draining);
    assert_eq!(soon(server.send(request())).await.status(), 503);
}

#[tokio::test]
async fn what_is_no_http_hurts_nobody_else() {
    let server = server(true).await;
    for garbage in
        [&b"\x16\x03\x01\x02\x00\x01\x00"[..], b"GET\r\n\r\n", b"GET / HTTP/1.1\r\nhost: a\r\n bad\r\n\r\n"]
    {
        let mut stream =
            tokio::net::TcpStream::connect(("127.0.0.1", server.port)).await.expect("the server listens");
        stream.write_all(garbage).await.expect("sent");
        let mut answer = Vec::new();
        soon(stream.read_to_end(&mut answer)).await.expect("the server closes");
        assert!(answer.starts_with(b"HTTP/1.1 400") || answer.is_empty(), "{answer:?}");
    }
    let huge = format!("GET / HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "y".repeat(256 * 1024));
    let mut stream =
        tokio::net::TcpStream::connect(("127.0.0.1", server.port)).await.expect("the server listens");
    // The server may close before everything was sent; then there is nothing more to check here.
    if stream.write_all(huge.as_bytes()).await.is_ok() {
        let mut answer = Vec::new();
        if soon(stream.read_to_end(&mut answer)).await.is_ok() {
            assert!(answer.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&answer));
        }
    }
    let (status, _) = soon(server.call("GET", "/api/v1/server", "")).await;
    assert_eq!(status, 200);
}
