//! Event streams: resume, end, and who pays for a slow reader.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use ob_server::Limits;
use serde_json::json;

use crate::fake::ADMIN;
use crate::fake::SESSION;
use crate::fake::Server;
use crate::fake::empty;
use crate::fake::json_of;
use crate::fake::server;
use crate::fake::server_with;
use crate::fake::soon;

/// Reads frames until the text holds `until`, or the body ends.
async fn read_until(body: &mut Incoming, text: &mut String, until: &str) {
    while !text.contains(until) {
        let Some(frame) = body.frame().await else { return };
        let bytes: Bytes = frame.expect("a frame").into_data().unwrap_or_default();
        text.push_str(std::str::from_utf8(&bytes).expect("UTF-8"));
    }
}

async fn open(server: &Server, query: &str, last_event_id: Option<&str>) -> http::Response<Incoming> {
    let mut request = server
        .request("GET", &format!("/api/v1/sessions/{SESSION}/events{query}"))
        .header("accept", "text/event-stream");
    if let Some(id) = last_event_id {
        request = request.header("last-event-id", id);
    }
    soon(server.control(request.body(empty()).expect("a request"))).await
}

#[tokio::test]
async fn a_stream_carries_numbers_types_and_a_last_word() {
    let server = server(true).await;
    server.fake.events.send_replace((2, false));
    let response = open(&server, "", None).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let (mut body, mut text) = (response.into_body(), String::new());
    soon(read_until(&mut body, &mut text, "\"index\":1")).await;
    assert!(text.contains("event: system\n") && text.contains("id: 0\n"), "{text}");
    let data = text.lines().find_map(|l| l.strip_prefix("data: ")).expect("data");
    let view: serde_json::Value = serde_json::from_str(data).expect("one line of JSON");
    assert_eq!(view["text"], "event 0\nsecond line");
    server.fake.events.send_replace((3, true));
    soon(read_until(&mut body, &mut text, "never")).await;
    assert!(text.contains("id: 2\n"), "{text}");
    let end = text.split("event: end\n").nth(1).expect("a last word");
    let data: serde_json::Value =
        serde_json::from_str(end.trim().trim_start_matches("data: ")).expect("JSON");
    assert_eq!(data["status"], "completed");
}

#[tokio::test]
async fn a_stream_resumes_by_header_or_cursor_without_a_gap() {
    let server = server(true).await;
    server.fake.events.send_replace((10, true));
    for (query, header, first) in
        [("", Some("6"), 7), ("?cursor=4", None, 5), ("?cursor=1", Some("8"), 9), ("", Some("-1"), 0)]
    {
        let (mut body, mut text) = (open(&server, query, header).await.into_body(), String::new());
        soon(read_until(&mut body, &mut text, "never")).await;
        let ids: Vec<u64> = text
            .lines()
            .filter_map(|l| l.strip_prefix("id: "))
            .map(|id| id.parse().expect("a number"))
            .collect();
        assert_eq!(ids, (first..10).collect::<Vec<_>>(), "{query} {header:?}");
    }
}

#[tokio::test]
async fn what_a_stream_cannot_take_is_refused() {
    let server = server(true).await;
    for (query, header) in [("?limit=5", None), ("?wait_ms=5", None), ("", Some("x")), ("?cursor=y", None)] {
        let (status, answer) = json_of(open(&server, query, header).await).await;
        assert_eq!((status, answer["code"].as_str()), (400, Some("invalid_argument")), "{query}");
    }
}

#[tokio::test]
async fn a_stream_says_that_the_server_stops_and_when_to_come_back() {
    let mut server = server(true).await;
    server.fake.events.send_replace((1, false));
    let (mut body, mut text) = (open(&server, "", None).await.into_body(), String::new());
    soon(read_until(&mut body, &mut text, "\"index\":0")).await;
    server.shutdown.cancel();
    soon(read_until(&mut body, &mut text, "never")).await;
    assert!(!text.contains("event: end"), "{text}");
    let last = text.split("event: closing\n").nth(1).expect("a last word");
    assert!(last.contains("retry: 1000") && last.contains("Last-Event-ID"), "{text}");
    soon(&mut server.task).await.expect("no panic").expect("a clean end");
}

/// A reader that reads nothing holds back nobody: the other gets everything, and the stop does not wait for it.
#[tokio::test]
async fn a_slow_reader_costs_one_cursor() {
    let mut server = server(true).await;
    server.fake.events.send_replace((200_000, true));
    let slow = open(&server, "", None).await;
    let (mut body, mut text) = (open(&server, "?cursor=199000", None).await.into_body(), String::new());
    soon(read_until(&mut body, &mut text, "event: end")).await;
    assert!(text.contains("id: 199999\n"));
    let request = server.request("GET", "/api/v1/server").body(empty()).expect("a request");
    assert_eq!(json_of(soon(server.control(request)).await).await.1["operation"], json!("server.status"));
    server.shutdown.cancel();
    soon(&mut server.task).await.expect("no panic").expect("a clean end");
    drop(slow);
}

/// Opens a stream with a token.
async fn open_with_token(server: &Server) -> http::Response<Incoming> {
    let request = server
        .request("GET", &format!("/api/v1/sessions/{SESSION}/events"))
        .header("accept", "text/event-stream")
        .header("authorization", format!("Bearer {ADMIN}"));
    soon(server.send(request.body(empty()).expect("a request"))).await
}

#[tokio::test]
async fn a_stream_ends_at_once_when_its_token_is_revoked() {
    let server = server(true).await;
    server.fake.events.send_replace((1, false));
    let (mut mine, mut text) = (open_with_token(&server).await.into_body(), String::new());
    let (mut operators, mut other) = (open(&server, "", None).await.into_body(), String::new());
    soon(read_until(&mut mine, &mut text, "\"index\":0")).await;
    soon(read_until(&mut operators, &mut other, "\"index\":0")).await;
    server.fake.revoked.send_replace(true);
    soon(read_until(&mut mine, &mut text, "never")).await;
    let last = text.split("event: refused\n").nth(1).expect("a last word");
    assert!(last.contains("\"code\":\"unauthenticated\""), "{text}");
    // What happens from now on is for others.
    server.fake.events.send_replace((2, true));
    soon(read_until(&mut operators, &mut other, "event: end")).await;
    assert!(other.contains("\"index\":1") && !text.contains("\"index\":1"));
}

#[tokio::test]
async fn a_page_that_waits_gives_nothing_to_a_token_that_was_revoked_meanwhile() {
    let server = server(true).await;
    let path = format!("/api/v1/sessions/{SESSION}/events?wait_ms=60000");
    let page = server.call("GET", &path, "");
    let revoke = async {
        soon(async {
            while server.fake.calls.lock().expect("no panic").is_empty() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        server.fake.revoked.send_replace(true);
    };
    let ((status, answer), ()) = soon(async { tokio::join!(page, revoke) }).await;
    assert_eq!((status, &answer["code"]), (401, &json!("unauthenticated")));
}

#[tokio::test]
async fn a_stream_says_at_once_that_it_is_open_and_later_that_it_still_is() {
    let limits = Limits { heartbeat: Duration::from_millis(50), ..Limits::default() };
    let server = server_with("127.0.0.1:0", true, limits).await;
    let (mut body, mut text) = (open(&server, "", None).await.into_body(), String::new());
    soon(read_until(&mut body, &mut text, "retry: 1000\n\n")).await;
    soon(read_until(&mut body, &mut text, "\n:")).await;
    assert!(!text.contains("data:"), "nothing has happened: {text}");
}
