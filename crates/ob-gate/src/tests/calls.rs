//! Calls that go well, and requests that are refused before they go anywhere.

use http::Method;
use http_body_util::BodyExt as _;
use ob_core::EventKind;
use ob_core::MicroUsd;
use ob_core::event::Usage;
use ob_testkit::Answer;
use ob_testkit::model_server::Latch;
use ob_testkit::model_server::Step;
use ob_testkit::model_server::message_chunks;
use serde_json::json;

use super::world::DEADLINE;
use super::world::KEY;
use super::world::World;
use super::world::get;
use super::world::hello;
use super::world::hello_stream;
use super::world::post;
use super::world::request;
use crate::GateOptions;

#[tokio::test]
async fn a_call_goes_out_with_our_key_and_model_and_nothing_of_the_agents_credentials() {
    let world = World::new().await;
    let mut connection = world.connect().await;
    let mut request = post(&hello().to_string());
    for (name, value) in [
        ("authorization", "Bearer agent-token"),
        ("x-api-key", "agent-token"),
        ("api-key", "agent-token"),
        ("cookie", "agent=token"),
        ("proxy-authorization", "Basic agent-token"),
        ("openai-organization", "agent-token"),
        ("x-acme-team", "agent-token"),
        ("x-forwarded-for", "10.0.0.1"),
        ("idempotency-key", "once-7"),
    ] {
        request.headers_mut().insert(name, value.parse().expect("a value"));
    }
    let answered = connection.read(request).await;
    assert_eq!(answered.status, 200, "{}", answered.text());
    assert_eq!(answered.json()["choices"][0]["message"]["content"], "ok");

    let sent = &world.provider.requests()[0];
    assert_eq!(sent.path, "/v1/chat/completions");
    assert_eq!(sent.body["model"], "large-1");
    assert_eq!(sent.headers["authorization"], format!("Bearer {KEY}"));
    assert_eq!(sent.headers["idempotency-key"], "once-7");
    assert!(sent.headers.get("x-forwarded-for").is_none());
    for (name, value) in &sent.headers {
        assert!(!value.to_str().expect("text").contains("agent"), "{name} was passed on");
    }
}

#[tokio::test]
async fn usage_becomes_an_event_and_a_booking_in_one_commit() {
    let world = World::new().await;
    let usage = json!({"prompt_tokens": 100, "completion_tokens": 20, "prompt_tokens_details": {"cached_tokens": 40}});
    world.provider.push(Answer::text("hi").usage(usage));
    assert_eq!(world.chat(&hello()).await.status, 200);
    // 60 tokens at 10, 40 at 1 and 20 at 100 micro-dollars.
    let expected = Usage {
        input_tokens: 100,
        output_tokens: 20,
        cached_tokens: 40,
        cost: MicroUsd(2640),
        model: "large-1".into(),
        estimated: false,
    };
    assert_eq!(world.usages(), [expected]);
    let ledger = world.ledger().await;
    assert_eq!((ledger.used.tokens, ledger.used.cost), (120, MicroUsd(2640)));
    world.assert_settled().await;
}

#[tokio::test]
async fn a_stream_arrives_byte_by_byte_and_the_usage_that_only_we_asked_for_stays_here() {
    let world = World::new().await;
    let chunk =
        |text: &str| format!(r#"data: {{ "choices":[{{"delta":{{"content":"{text}"}}}}] , "x":1.50 }}"#);
    let pieces = [
        ": comment\n\n".to_string(),
        format!("{}\r\n\r\n", chunk("a")),
        format!("event: message\nid: 7\n{}\n\n", chunk("é\\n\\u0000")),
        "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n".to_string(),
    ];
    let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3}}\n\n";
    let done = "data: [DONE]\n\n";
    let whole = format!("{}{usage}{done}", pieces.concat());
    // In the worst pieces: two bytes at a time, through the middle of characters and line ends.
    let steps = whole.as_bytes().chunks(2).map(|piece| Step::Send(piece.to_vec().into())).collect();
    world.provider.push(Answer::stream(steps));
    let answered = world.chat(&hello_stream()).await;
    assert_eq!(answered.headers["content-type"], "text/event-stream");
    assert_eq!(answered.text(), format!("{}{done}", pieces.concat()));
    let usage = &world.usages()[0];
    assert_eq!((usage.input_tokens, usage.output_tokens, usage.estimated), (7, 3, false));
    assert_eq!(world.provider.requests()[0].body["stream_options"], json!({"include_usage": true}));
}

#[tokio::test]
async fn an_agent_that_asks_for_usage_gets_it() {
    let world = World::new().await;
    let mut request = hello_stream();
    request["stream_options"] = json!({"include_usage": true});
    let answered = world.chat(&request).await;
    request["model"] = json!("large-1");
    let usage = json!({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15});
    let expected: Vec<u8> = message_chunks(&request, Some("ok"), &[], Some(usage)).concat();
    assert_eq!(answered.body, expected);
}

#[tokio::test]
async fn an_event_reaches_the_agent_before_the_next_one_exists() {
    let world = World::new().await;
    let latch = Latch::new();
    let mut steps: Vec<Step> =
        message_chunks(&json!({}), Some("now later"), &[], None).into_iter().map(Step::Send).collect();
    steps.insert(2, Step::Wait(latch.clone()));
    world.provider.push(Answer::stream(steps));
    let mut connection = world.connect().await;
    let mut body = connection.send(post(&hello_stream().to_string())).await.expect("a head").into_body();
    let mut seen = String::new();
    while !seen.contains("now ") {
        let frame = tokio::time::timeout(DEADLINE, body.frame()).await.expect("before the latch opens");
        let data = frame.expect("not the end").expect("no fault").into_data().expect("data");
        seen.push_str(&String::from_utf8_lossy(&data));
    }
    assert!(!seen.contains("later"));
    latch.open();
    let rest = body.collect().await.expect("the rest").to_bytes();
    assert!(String::from_utf8_lossy(&rest).ends_with("data: [DONE]\n\n"));
}

#[tokio::test]
async fn one_connection_carries_many_calls() {
    let world = World::new().await;
    let mut connection = world.connect().await;
    for n in 1..=5 {
        assert_eq!(connection.chat(&hello_stream()).await.status, 200);
        assert_eq!(world.usages().len(), n);
    }
}

#[tokio::test]
async fn without_a_report_the_usage_is_estimated_and_without_a_price_it_is_free_and_says_so() {
    let world = World::new().await;
    world.models.put(
        world.session.model.clone(),
        crate::models::Provider {
            prices: ob_core::model::Prices::default(),
            ..super::world::acme(&world.provider.base_url())
        },
    );
    for request in [hello(), hello_stream()] {
        world.provider.push(Answer::text("a few words of an answer").without_usage());
        assert_eq!(world.chat(&request).await.status, 200);
    }
    for event in world.events() {
        let usage = event.body.usage.expect("a usage event");
        assert!(usage.estimated && usage.input_tokens > 0 && usage.output_tokens >= 5, "{usage:?}");
        assert_eq!(usage.cost, MicroUsd(0));
        assert_eq!(event.body.data.expect("details")["unpriced"], true);
    }
    assert_eq!(world.events().len(), 2);
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_said_and_nothing_is_sent_or_reserved() {
    let world =
        World::with(Default::default(), GateOptions { max_body: 100_000, ..GateOptions::default() }).await;
    let large = "x".repeat(100_001);
    for (body, status, code) in [
        ("", 400, "invalid_request"),
        ("{\"messages\": 7}", 400, "invalid_request"),
        ("{\"messages\": []}", 400, "invalid_request"),
        (large.as_str(), 413, "body_too_large"),
    ] {
        let answered = world.connect().await.read(post(body)).await;
        assert_eq!((answered.status, answered.code().as_str()), (status, code));
        let error = answered.json();
        assert_eq!(error["error"]["type"], "invalid_request_error");
        assert!(answered.message().contains("; "), "a fix is missing: {}", answered.message());
    }
    assert_eq!(world.provider.requests().len(), 0);
    assert_eq!(world.events(), []);
    assert_eq!(world.chat(&hello()).await.status, 200, "the positive control");
}

#[tokio::test]
async fn a_body_that_never_comes_is_given_up() {
    let options =
        GateOptions { body_timeout: std::time::Duration::from_millis(50), ..GateOptions::default() };
    let world = World::with(Default::default(), options).await;
    use tokio::io::AsyncReadExt as _;
    use tokio::io::AsyncWriteExt as _;
    let mut stream =
        tokio::net::UnixStream::connect(world.gate_dir().join(crate::SOCKET)).await.expect("it listens");
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\ncontent-length: 100\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut answer = vec![0; 12];
    tokio::time::timeout(DEADLINE, stream.read_exact(&mut answer))
        .await
        .expect("in time")
        .expect("an answer");
    assert_eq!(String::from_utf8_lossy(&answer), "HTTP/1.1 408");
}

#[tokio::test]
async fn only_the_sessions_model_is_listed_and_nothing_else_leads_out() {
    let world = World::new().await;
    let mut connection = world.connect().await;
    let listed = connection.read(get("/v1/models")).await.json();
    assert_eq!(
        listed["data"],
        json!([{"id": "large-1", "object": "model", "created": 0, "owned_by": "acme"}])
    );
    for (method, path, status) in [
        (Method::GET, "/", 404),
        (Method::POST, "/v1/embeddings", 404),
        (Method::GET, "/v1/chat/completions/../models", 404),
        (Method::CONNECT, "example.com:443", 404),
        (Method::GET, "http://example.com/v1/x", 404),
        (Method::GET, "/v1/chat/completions", 405),
        (Method::DELETE, "/v1/models", 405),
    ] {
        let answered = world.connect().await.read(request(method.clone(), path, "")).await;
        assert_eq!(answered.status, status, "{method} {path}");
        assert!(answered.message().contains("/v1/") || status == 405, "{}", answered.message());
    }
    assert_eq!(world.provider.requests().len(), 0);
}

#[tokio::test]
async fn a_session_whose_model_is_gone_is_told_what_there_is() {
    let mut world = World::new().await;
    world.close().await;
    world.session.model.model = "retired".into();
    world.gate = Some(world.open(&world.gate_dir()).await);
    let answered = world.chat(&hello()).await;
    assert_eq!((answered.status, answered.code().as_str()), (503, "no_model"));
    assert!(answered.message().contains("acme/large-1"), "{}", answered.message());
    assert_eq!(world.kinds(), [] as [EventKind; 0]);
}
