//! Every wire through a real gate: what goes out, what comes back byte by byte, what it costs, and how faults read.

use http::Method;
use ob_core::EventKind;
use ob_core::MicroUsd;
use ob_core::Timestamp;
use ob_core::ledger::TreeLimits;
use ob_core::model::Price;
use ob_core::model::Prices;
use ob_core::model::Wire;
use ob_testkit::Answer;
use ob_testkit::model_server::Step;
use serde_json::Value;
use serde_json::json;

use super::world::Answered;
use super::world::HEADER_SECRET;
use super::world::KEY;
use super::world::World;
use super::world::acme;
use super::world::get;
use super::world::keys;
use super::world::request;
use crate::GateOptions;
use crate::models::Provider;
use crate::translate::tests::meaning;
use crate::translate::tests::recorded;
use crate::translate::tests::said_by_stream;
use crate::translate::tests::said_by_whole;

const WIRES: [Wire; 4] = [Wire::Chat, Wire::Responses, Wire::Messages, Wire::Google];

/// Where an agent of a wire asks, and what.
fn asking(wire: Wire, streams: bool) -> (&'static str, Value) {
    let turns = json!([{"role": "user", "content": "hello"}]);
    match (wire, streams) {
        (Wire::Chat, _) => {
            ("/v1/chat/completions", json!({"model": "any", "messages": turns, "stream": streams}))
        }
        (Wire::Responses, _) => ("/v1/responses", json!({"model": "any", "input": turns, "stream": streams})),
        (Wire::Messages, _) => (
            "/v1/messages?beta=true",
            json!({"model": "any", "messages": turns, "max_tokens": 500, "stream": streams}),
        ),
        (Wire::Google, false) => ("/v1beta/models/any:generateContent", google()),
        (Wire::Google, true) => ("/v1beta/models/any:streamGenerateContent?alt=sse", google()),
    }
}

fn google() -> Value {
    json!({"contents": [{"role": "user", "parts": [{"text": "hello"}]}]})
}

/// Where a provider of a wire is asked, and in which header it gets its key.
fn asked(wire: Wire, streams: bool) -> (&'static str, &'static str, String) {
    match (wire, streams) {
        (Wire::Chat, _) => ("/v1/chat/completions", "authorization", format!("Bearer {KEY}")),
        (Wire::Responses, _) => ("/v1/responses", "authorization", format!("Bearer {KEY}")),
        (Wire::Messages, _) => ("/v1/messages", "x-api-key", KEY.to_owned()),
        (Wire::Google, false) => ("/v1/models/large-1:generateContent", "x-goog-api-key", KEY.to_owned()),
        (Wire::Google, true) => {
            ("/v1/models/large-1:streamGenerateContent?alt=sse", "x-goog-api-key", KEY.to_owned())
        }
    }
}

/// A world whose provider speaks these wires.
async fn speaking(wires: &[Wire]) -> World {
    let world = World::new().await;
    world.put(|provider| Provider { wires: wires.to_vec(), ..provider });
    world
}

impl World {
    /// Puts another provider in the place of the model's.
    fn put(&self, change: impl FnOnce(Provider) -> Provider) {
        self.models.put(self.session.model.clone(), change(acme(&self.provider.base_url())));
    }

    async fn ask(&self, wire: Wire, streams: bool) -> Answered {
        let (path, body) = asking(wire, streams);
        self.connect().await.read(request(Method::POST, path, &body.to_string())).await
    }
}

/// In the worst pieces: through the middle of characters and line ends.
fn in_pieces(stream: &str) -> Answer {
    Answer::stream(stream.as_bytes().chunks(5).map(|piece| Step::Send(piece.to_vec().into())).collect())
}

#[tokio::test]
async fn an_agent_gets_the_bytes_of_a_provider_that_speaks_its_wire() {
    for wire in WIRES {
        let world = speaking(&[Wire::Chat, wire]).await;
        let (stream, whole) = recorded(wire);
        for streams in [true, false] {
            world.provider.push(if streams { in_pieces(stream) } else { Answer::status(200, whole) });
            let answered = world.ask(wire, streams).await;
            assert_eq!(answered.status, 200, "{wire}: {}", answered.text());
            let expected = match (wire, streams) {
                // The usage was asked for by us.
                (Wire::Chat, true) => stream.replace(usage_chunk(stream), ""),
                (_, true) => stream.to_owned(),
                (_, false) => whole.to_owned(),
            };
            assert_eq!(answered.text(), expected, "{wire}, streams: {streams}");
            let (path, header, key) = asked(wire, streams);
            let sent = world.provider.requests().pop().expect("it was asked");
            assert_eq!(sent.path, path, "{wire}");
            assert_eq!(sent.headers[header], key, "{wire}");
            assert_eq!(sent.headers["x-acme-team"], HEADER_SECRET, "{wire}");
            if wire == Wire::Messages {
                assert_eq!(sent.headers["anthropic-version"], "2023-06-01");
            }
            let usage = world.usages().pop().expect("it was charged");
            assert_eq!(
                (usage.input_tokens, usage.cached_tokens, usage.output_tokens),
                (120, 40, 30),
                "{wire}"
            );
            // 80 tokens at 10, 40 at 1 and 30 at 100 micro-dollars.
            assert_eq!((usage.cost, usage.estimated), (MicroUsd(3840), false), "{wire}");
            let data = world.events().pop().expect("an event").body.data.expect("details");
            assert_eq!(data["reasoning_tokens"], 8, "{wire}");
        }
        world.assert_settled().await;
    }
}

/// The chunk of a recorded stream that only holds the usage.
fn usage_chunk(stream: &str) -> &str {
    let at = stream.find("\"choices\":[],").expect("it is there");
    let begins = stream[..at].rfind("data: ").expect("it is an event");
    &stream[begins..at + stream[at..].find("\n\n").expect("it ends") + 2]
}

#[tokio::test]
async fn an_agent_reaches_a_model_of_another_wire() {
    for provider in WIRES {
        let world = speaking(&[provider]).await;
        for agent in WIRES.into_iter().filter(|agent| *agent != provider) {
            let (stream, whole) = recorded(provider);
            world.provider.push(in_pieces(stream));
            let answered = world.ask(agent, true).await;
            assert_eq!(answered.headers["content-type"], "text/event-stream", "{}", answered.text());
            assert_eq!(said_by_stream(agent, &answered.body), meaning(), "{agent} on {provider}");
            world.provider.push(Answer::status(200, whole));
            let answered = world.ask(agent, false).await;
            assert_eq!(answered.headers["content-type"], "application/json", "{}", answered.text());
            assert_eq!(said_by_whole(agent, &answered.body), meaning(), "{agent} on {provider}");
            let sent = world.provider.requests().pop().expect("it was asked");
            assert_eq!(sent.path, asked(provider, false).0, "{agent} on {provider}");
            let usage = world.usages().pop().expect("it was charged");
            assert_eq!((usage.input_tokens, usage.output_tokens, usage.estimated), (120, 30, false));
        }
        assert_eq!(world.kinds(), [EventKind::Usage; 6]);
        world.assert_settled().await;
    }
}

#[tokio::test]
async fn what_cannot_be_translated_is_refused_before_anything_is_sent() {
    let world = speaking(&[Wire::Messages]).await;
    let body = json!({"messages": [{"role": "user", "content": "x"}], "logprobs": true});
    let answered = world.chat(&body).await;
    assert_eq!((answered.status, answered.code().as_str()), (400, "cannot_translate"));
    assert!(answered.message().contains("`logprobs` has no counterpart"), "{}", answered.message());
    assert_eq!(world.provider.requests().len(), 0);
    assert_eq!(world.events(), []);
}

#[tokio::test]
async fn a_fault_is_told_in_the_form_of_the_agents_wire() {
    let message = |wire: Wire, body: &Value| match wire {
        Wire::Chat | Wire::Responses => body["error"]["message"].as_str().map(str::to_owned),
        Wire::Messages => {
            body["error"]["message"].as_str().filter(|_| body["type"] == "error").map(str::to_owned)
        }
        Wire::Google => {
            body["error"]["message"].as_str().filter(|_| body["error"]["code"] == 429).map(str::to_owned)
        }
    };
    for agent in WIRES {
        for provider in WIRES {
            let world = speaking(&[provider]).await;
            // Before the stream: a status, in the words of each provider.
            let words = json!({"type": "error", "error": {"message": "calm down", "code": 429}});
            let words = if provider == Wire::Google { json!([words]) } else { words };
            world.provider.push(Answer::status(429, words.to_string()).header("retry-after", "60"));
            let answered = world.ask(agent, true).await;
            assert_eq!(answered.status, 429, "{agent} on {provider}");
            assert_eq!(answered.headers["retry-after"], "60");
            let said = message(agent, &answered.json()).expect("an error of its wire");
            assert!(said.contains("calm down"), "{agent} on {provider}: {said}");
            // In the middle of it: an event.
            let (stream, _) = recorded(provider);
            let half = &stream[..stream.find("Let me").expect("it is said")];
            let half = &half[..half.rfind("\n\n").expect("events before") + 2];
            world.provider.push(Answer::stream(vec![Step::Send(half.to_owned().into()), Step::Cut]));
            let answered = world.ask(agent, true).await;
            assert_eq!(answered.status, 200, "{agent} on {provider}: {}", answered.text());
            let text = answered.text();
            let last = text.trim_end().rsplit("\n\n").next().expect("events");
            let data = last.split_once("data: ").expect("data").1;
            let error: Value = serde_json::from_str(data).expect("JSON");
            let said = match agent {
                Wire::Chat | Wire::Google => &error["error"]["message"],
                Wire::Messages => &error["error"]["message"],
                Wire::Responses => &error["response"]["error"]["message"],
            };
            assert!(
                said.as_str().is_some_and(|said| said.contains("breaks off")),
                "{agent} on {provider}: {last}"
            );
            let usage = world.usages().pop().expect("what was seen was charged");
            assert!(usage.estimated && usage.output_tokens > 0, "{usage:?}");
            world.assert_settled().await;
        }
    }
}

#[tokio::test]
async fn a_cut_stream_is_charged_with_what_its_provider_had_told_by_then() {
    let world = speaking(&[Wire::Messages]).await;
    let (stream, _) = recorded(Wire::Messages);
    let half = &stream[..stream.find("event: content_block_stop").expect("blocks end")];
    world.provider.push(Answer::stream(vec![Step::Send(half.to_owned().into()), Step::Cut]));
    assert_eq!(world.ask(Wire::Messages, true).await.status, 200);
    let usage = world.usages().pop().expect("it was charged");
    // What was read was told with the first event; of what was written, two chunks were seen.
    assert_eq!((usage.input_tokens, usage.cached_tokens, usage.estimated), (120, 40, true));
    assert!((2..30).contains(&usage.output_tokens), "{usage:?}");
}

#[tokio::test]
async fn models_are_listed_in_the_form_of_whoever_asks() {
    let world = World::new().await;
    let mut connection = world.connect().await;
    let google = connection.read(get("/v1beta/models")).await.json();
    assert_eq!(google["models"][0]["name"], "models/large-1");
    let openai = connection.read(get("/v1beta/openai/models")).await.json();
    assert_eq!(openai["data"][0]["id"], "large-1");
    let mut asks = get("/v1/models");
    asks.headers_mut().insert("anthropic-version", "2023-06-01".parse().expect("a value"));
    let anthropic = connection.read(asks).await.json();
    assert_eq!((&anthropic["data"][0]["type"], &anthropic["has_more"]), (&json!("model"), &json!(false)));
    assert_eq!(connection.read(get("/v1/models/large-1")).await.json()["id"], "large-1");
    assert_eq!(connection.read(get("/v1/models/small-2")).await.status, 404);
    assert_eq!(world.provider.requests().len(), 0);
}

#[tokio::test]
async fn tokens_are_counted_by_the_provider_or_estimated_here() {
    let count = async |world: &World, path: &str, body: Value| {
        world.connect().await.read(request(Method::POST, path, &body.to_string())).await
    };
    let world = speaking(&[Wire::Messages]).await;
    world.provider.push(Answer::status(200, "{\"input_tokens\": 7}"));
    let body = json!({"model": "any", "messages": [{"role": "user", "content": "hello"}]});
    let answered = count(&world, "/v1/messages/count_tokens", body.clone()).await;
    assert_eq!(answered.text(), "{\"input_tokens\": 7}");
    assert_eq!(world.provider.requests()[0].path, "/v1/messages/count_tokens");
    assert_eq!(world.provider.requests()[0].body["model"], "large-1");
    let estimated = count(&world, "/v1beta/models/x:countTokens", google()).await;
    assert_eq!(estimated.headers["x-estimated"], "true");
    assert!(estimated.json()["totalTokens"].as_u64().is_some_and(|tokens| tokens > 0));
    assert_eq!(world.provider.requests().len(), 1);
    world.provider.push(Answer::status(500, "no"));
    let failed = count(&world, "/v1/messages/count_tokens", body).await;
    assert_eq!((failed.status, failed.json()["type"].as_str()), (500, Some("error")));
    // A count costs nothing.
    assert_eq!(world.events(), []);
}

#[tokio::test]
async fn a_call_is_tried_again_as_long_as_nothing_was_delivered() {
    let world = World::new().await;
    world.put(|provider| Provider { retries: 2, ..provider });
    let again = |status| Answer::status(status, "not now").header("retry-after", "0");
    let error = "data: {\"error\":{\"message\":\"overloaded\"}}\n\n";
    let failures = [
        ("a status", again(503)),
        ("its own status", again(529)),
        ("a rate", again(429)),
        ("cut before the first event", Answer::stream(vec![Step::Send("data: {".into()), Step::Cut])),
        ("an error before the first event", Answer::stream(vec![Step::Send(error.into())])),
    ];
    for (number, (name, failure)) in failures.into_iter().enumerate() {
        world.provider.push(failure);
        let answered = world.ask(Wire::Chat, true).await;
        assert_eq!(answered.status, 200, "{name}: {}", answered.text());
        assert_eq!(world.provider.requests().len(), 2 * (number + 1), "{name}");
    }
    world.assert_settled().await;
    assert!(!world.kinds().contains(&EventKind::Error), "what was mended is no news: {:?}", world.kinds());

    // Not for ever, and not where it would not help.
    let before = world.provider.requests().len();
    for _ in 0..3 {
        world.provider.push(again(503));
    }
    assert_eq!(world.ask(Wire::Chat, true).await.status, 503);
    assert_eq!(world.provider.requests().len(), before + 3);
    for (name, failure) in [
        ("our request is wrong", Answer::status(400, "no")),
        ("a long pause", Answer::status(429, "no").header("retry-after", "3600")),
        ("not a stream", Answer::raw("text/html", vec![Step::Send("<html>".into())])),
    ] {
        let before = world.provider.requests().len();
        world.provider.push(failure);
        assert_ne!(world.ask(Wire::Chat, true).await.status, 200, "{name}");
        assert_eq!(world.provider.requests().len(), before + 1, "{name}");
    }
    // And never after the first event.
    let before = world.provider.requests().len();
    let chunk = "data: {\"choices\":[{\"delta\":{\"content\":\"word\"}}]}\n\n";
    world.provider.push(Answer::stream(vec![Step::Send(chunk.into()), Step::Cut]));
    let answered = world.ask(Wire::Chat, true).await;
    assert!(
        answered.text().starts_with(chunk) && answered.text().contains("breaks off"),
        "{}",
        answered.text()
    );
    assert_eq!(world.provider.requests().len(), before + 1);
    world.assert_settled().await;
}

#[tokio::test]
async fn each_try_is_within_the_limits() {
    let limits = TreeLimits { max_cost: Some(MicroUsd(150_000)), max_tokens: None, ..TreeLimits::default() };
    let world = World::with(limits, GateOptions::default()).await;
    world.put(|provider| Provider { wires: vec![Wire::Messages], retries: 10, ..provider });
    // What was read is told before there is anything for the agent, and is paid for.
    let usage = json!({"input_tokens": 10_000, "output_tokens": 0});
    let begins = json!({"type": "message_start", "message": {"usage": usage}});
    let begins = Step::Send(format!("data: {begins}\n\n").into());
    world.provider.otherwise(Answer::stream(vec![begins, Step::Cut]));
    let answered = world.ask(Wire::Chat, true).await;
    assert_eq!((answered.status, answered.code().as_str()), (429, "limit_exceeded"), "{}", answered.text());
    assert_eq!(world.provider.requests().len(), 1, "the second try would not have fitted");
    assert_eq!(world.ledger().await.used.cost, MicroUsd(100_000));
    world.assert_settled().await;
}

#[tokio::test]
async fn a_key_that_is_refused_is_passed_over_and_the_next_calls_begin_with_the_other() {
    const KEYS: [&str; 3] = ["first-key-0123456789", "second-key-0123456789", "third-key-0123456789"];
    let world = World::new().await;
    world.put(|provider| Provider { keys: keys(&KEYS), ..provider });
    world.provider.push(Answer::status(401, "no"));
    world.provider.push(Answer::status(429, "slow").header("retry-after", "3600"));
    assert_eq!(world.ask(Wire::Chat, true).await.status, 200);
    assert_eq!(world.ask(Wire::Chat, false).await.status, 200);
    let used: Vec<String> = world
        .provider
        .requests()
        .iter()
        .map(|request| request.headers["authorization"].to_str().expect("text")["Bearer ".len()..].to_owned())
        .collect();
    assert_eq!(used, [KEYS[0], KEYS[1], KEYS[2], KEYS[2]]);
    // Each at most once in a call; then the refusal is told.
    for _ in 0..3 {
        world.provider.push(Answer::status(401, format!("{KEYS:?}")));
    }
    let refused = world.ask(Wire::Chat, true).await;
    assert_eq!((refused.status, refused.code().as_str()), (502, "provider_refused_key"));
    assert_eq!(world.provider.requests().len(), 7);
    let said = format!("{} {:?}", refused.text(), world.events());
    assert!(KEYS.iter().all(|key| !said.contains(key)), "{said}");
    world.assert_settled().await;
}

#[tokio::test]
async fn a_model_without_a_price_is_free_or_refused_as_configured() {
    let world = World::new().await;
    let price = Price { input: MicroUsd(1), output: MicroUsd(1), ..Price::default() };
    let prices = |since: i64| Prices::new(vec![(Timestamp::from_micros(since), price)]);
    let (past, future) = (0, i64::MAX);
    for (must_have_price, prices, status) in [
        (true, Prices::default(), 403),
        (true, prices(future), 403),
        (true, prices(past), 200),
        (false, prices(future), 200),
    ] {
        world.put(|provider| Provider { must_have_price, prices, ..provider });
        let answered = world.ask(Wire::Messages, false).await;
        assert_eq!(answered.status, status, "{}", answered.text());
        if status == 403 {
            let error = &answered.json()["error"];
            assert_eq!(
                (&error["type"], &error["code"]),
                (&json!("permission_error"), &json!("model_unpriced"))
            );
            assert!(
                error["message"].as_str().is_some_and(|text| text.contains("models.prices.large-1")),
                "{error}"
            );
        }
    }
    assert_eq!(world.provider.requests().len(), 2);
}
