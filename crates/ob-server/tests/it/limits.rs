//! What one client may take from the others: connections, time, requests.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ob_server::Limits;
use ob_server::RateLimit;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::fake::ADMIN;
use crate::fake::READER;
use crate::fake::SESSION;
use crate::fake::Server;
use crate::fake::empty;
use crate::fake::exchange;
use crate::fake::json_of;
use crate::fake::server;
use crate::fake::server_with;
use crate::fake::soon;
use crate::network;

/// Shorter than any test waits, longer than a busy machine needs between two bytes of its own.
const SHORT: Duration = Duration::from_millis(300);

/// Three at once, and then none for longer than a test takes.
fn three() -> RateLimit {
    RateLimit { per_1000_s: NonZeroU32::new(1).expect("not 0"), burst: NonZeroU32::new(3).expect("not 0") }
}

async fn ask(server: &Server, path: &str, token: Option<&str>) -> http::Response<hyper::body::Incoming> {
    let mut request = server.request("GET", path);
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    soon(server.send(request.body(empty()).expect("a request"))).await
}

#[tokio::test]
async fn a_token_that_asks_too_often_is_told_when_to_come_back() {
    let server = server(true).await;
    server.rate_limit.send_replace(three());
    for _ in 0..3 {
        assert_eq!(ask(&server, "/api/v1/server", Some(ADMIN)).await.status(), 200);
    }
    let calls = server.fake.calls.lock().expect("no panic").len();
    let response = ask(&server, "/api/v1/server", Some(ADMIN)).await;
    let wait: u64 = response.headers()["retry-after"].to_str().expect("text").parse().expect("seconds");
    assert!((1..=1000).contains(&wait), "{wait}");
    let (status, problem) = json_of(response).await;
    assert_eq!((status, problem["code"].as_str()), (429, Some("limit_exceeded")));
    assert_eq!(server.fake.calls.lock().expect("no panic").len(), calls, "the engine was not asked");
    // Probes cost nothing, and the operator's socket is not counted.
    assert_eq!(ask(&server, "/health", None).await.status(), 200);
    assert_eq!(ask(&server, "/ready", None).await.status(), 200);
    let request = server.request("GET", "/api/v1/server").body(empty()).expect("a request");
    assert_eq!(soon(server.control(request)).await.status(), 200);
    // A higher limit counts at once.
    server.rate_limit.send_replace(RateLimit::DEFAULT);
    assert_eq!(ask(&server, "/api/v1/server", Some(ADMIN)).await.status(), 200);
}

/// W12: the bucket belongs to the address, not to its connection, and the connections here are all new ones.
#[tokio::test]
async fn strangers_are_counted_by_address_and_hurt_no_token_of_this_machine() {
    let server = server(true).await;
    server.rate_limit.send_replace(three());
    for _ in 0..3 {
        assert_eq!(ask(&server, "/api/v1/server", Some("oub_wrong")).await.status(), 401);
    }
    for path in ["/api/v1/server", "/api/v1/openapi.json"] {
        let response = ask(&server, path, Some("oub_wrong")).await;
        assert_eq!(response.status(), 429, "{path}");
        assert!(response.headers().contains_key("retry-after"));
    }
    assert_eq!(ask(&server, "/api/v1/server", Some(ADMIN)).await.status(), 200, "its own bucket");
    assert_eq!(ask(&server, "/metrics", None).await.status(), 200);
}

/// W12, for other machines: one of them that shows no valid token is not even looked up any more.
#[tokio::test]
async fn an_address_without_a_valid_token_is_kept_out_before_it_is_looked_up() {
    const NAME: &str = "limits::an_address_without_a_valid_token_is_kept_out_before_it_is_looked_up";
    let Some(address) = network::address(NAME) else { return };
    let server = server_with("0.0.0.0:0", true, Limits::default()).await;
    server.rate_limit.send_replace(three());
    let ask = async |token: &str| {
        let stream = TcpStream::connect(SocketAddr::new(address, server.port)).await.expect("it listens");
        let request =
            server.request("GET", "/api/v1/server").header("authorization", format!("Bearer {token}"));
        soon(exchange(stream, request.body(empty()).expect("a request"))).await.status()
    };
    for _ in 0..3 {
        assert_eq!(ask("oub_wrong").await, 401);
    }
    assert_eq!(ask("oub_wrong").await, 429);
    let looked_up = server.fake.looked_up.load(Ordering::SeqCst);
    assert_eq!(ask("oub_wrong").await, 429);
    assert_eq!(ask(ADMIN).await, 429, "also with a valid one: it is not looked at");
    assert_eq!(server.fake.looked_up.load(Ordering::SeqCst), looked_up);
    assert_eq!(
        self::ask(&server, "/api/v1/server", Some(READER)).await.status(),
        200,
        "from another address"
    );
}

#[tokio::test]
async fn an_address_has_no_more_than_its_connections() {
    let Some(address) = network::address("limits::an_address_has_no_more_than_its_connections") else {
        return;
    };
    let limits = Limits { per_address: 2, ..Limits::default() };
    let server = server_with("0.0.0.0:0", true, limits).await;
    let connect =
        async || TcpStream::connect(SocketAddr::new(address, server.port)).await.expect("it listens");
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = connect().await;
        get_health(&mut stream).await;
        held.push(stream);
    }
    let mut third = connect().await;
    let mut answer = String::new();
    soon(third.read_to_string(&mut answer)).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 429 ") && answer.contains("limit_exceeded"), "{answer}");
    assert_eq!(self::ask(&server, "/health", None).await.status(), 200, "from another address");
    drop(held.pop());
    soon(async {
        // Until the server has seen that the connection is gone.
        loop {
            let mut stream = connect().await;
            if try_health(&mut stream).await {
                return;
            }
        }
    })
    .await;
}

/// Asks on a connection and leaves it open.
async fn get_health(stream: &mut TcpStream) {
    assert!(soon(try_health(stream)).await);
}

async fn try_health(stream: &mut TcpStream) -> bool {
    // Refused here if the server turned it away before.
    if stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").await.is_err() {
        return false;
    }
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.is_ok() && answer.starts_with(b"HTTP/1.1 200")
}

async fn connect(server: &Server) -> TcpStream {
    TcpStream::connect(("127.0.0.1", server.port)).await.expect("the server listens")
}

#[tokio::test]
async fn a_head_that_comes_too_slowly_is_not_waited_for() {
    let limits = Limits { head_time: SHORT, ..Limits::default() };
    let server = server_with("127.0.0.1:0", true, limits).await;
    let mut slow = connect(&server).await;
    slow.write_all(b"GET /api/v1/server HTTP/1.1\r\nhost: localhost\r\nx-slow: ").await.expect("sent");
    let mut answer = String::new();
    soon(slow.read_to_string(&mut answer)).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("application/problem+json"), "{answer}");
    // Whoever says nothing at all, or nothing more, is told nothing.
    let mut silent = connect(&server).await;
    let mut idle = connect(&server).await;
    get_health(&mut idle).await;
    let mut rest = String::new();
    soon(silent.read_to_string(&mut rest)).await.expect("closed");
    assert_eq!(rest, "");
    soon(idle.read_to_string(&mut rest)).await.expect("closed");
    assert!(!rest.contains("HTTP/1.1"), "{rest}");
}

#[tokio::test]
async fn a_body_that_comes_too_slowly_is_not_waited_for() {
    let limits = Limits { body_time: SHORT, ..Limits::default() };
    let server = server_with("127.0.0.1:0", true, limits).await;
    let mut slow = connect(&server).await;
    let head = format!(
        "POST /api/v1/sessions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {ADMIN}\r\n\
         content-type: application/json\r\ncontent-length: 100\r\n\r\n{{"
    );
    slow.write_all(head.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    soon(slow.read_to_string(&mut answer)).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("did not arrive"), "{answer}");
    assert!(server.fake.calls.lock().expect("no panic").is_empty());
}

/// With one place in all: it is free again only when the connection that takes nothing is cut.
#[tokio::test]
async fn a_client_that_takes_nothing_loses_its_place() {
    let limits = Limits { connections: 1, stall_time: SHORT, ..Limits::default() };
    let server = server_with("127.0.0.1:0", true, limits).await;
    server.fake.events.send_replace((1_000_000, false));
    let mut stalled = connect(&server).await;
    let request = format!(
        "GET /api/v1/sessions/{SESSION}/events HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {ADMIN}\r\n\
         accept: text/event-stream\r\n\r\n"
    );
    stalled.write_all(request.as_bytes()).await.expect("sent");
    soon(stalled.readable()).await.expect("it has begun");
    assert_eq!(ask(&server, "/health", None).await.status(), 200);
}

/// The control of the one before: a client that reads keeps its place, and others wait.
#[tokio::test]
async fn more_connections_wait_until_there_is_a_place() {
    let limits = Limits { connections: 1, ..Limits::default() };
    let server = server_with("127.0.0.1:0", true, limits).await;
    let mut first = connect(&server).await;
    get_health(&mut first).await;
    let mut second = connect(&server).await;
    let mut waits = std::pin::pin!(try_health(&mut second));
    // The first is still served while the second waits.
    tokio::select! {
        biased;
        _ = waits.as_mut() => panic!("there was one place"),
        () = get_health_again(&mut first) => {}
    }
    drop(first);
    assert!(soon(waits).await);
}

/// Reads what is left of one answer, and the next one.
async fn get_health_again(stream: &mut TcpStream) {
    stream.write_all(b"GET /ready HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("sent");
    let mut text = String::new();
    while !text.contains(r#""status":"ready""#) {
        let mut bytes = [0; 4096];
        let n = soon(stream.read(&mut bytes)).await.expect("open");
        assert!(n > 0, "{text}");
        text.push_str(std::str::from_utf8(&bytes[..n]).expect("text"));
    }
}
