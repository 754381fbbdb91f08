//! Everything that a provider, an agent and a store can do wrong.

use std::time::Duration;

use http_body_util::BodyExt as _;
use ob_core::EventKind;
use ob_core::MicroUsd;
use ob_core::ledger::TreeLimits;
use ob_testkit::Answer;
use ob_testkit::ModelServer;
use ob_testkit::memory_store::StoreFault;
use ob_testkit::model_server::Step;
use serde_json::json;

use super::world::World;
use super::world::acme;
use super::world::hello;
use super::world::hello_stream;
use super::world::post;
use crate::GateOptions;

const CHUNK: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"word\"}}]}\n\n";

/// Bounds that make a silent provider fail soon, and an event too large at once.
fn small() -> GateOptions {
    GateOptions {
        head_timeout: Duration::from_secs(1),
        stream_idle_timeout: Duration::from_secs(1),
        max_event: 2000,
        settle_backoff: Duration::from_millis(1),
        ..GateOptions::default()
    }
}

fn send(text: impl Into<String>) -> Step {
    Step::Send(text.into().into())
}

#[tokio::test]
async fn a_stream_that_is_none_is_a_typed_refusal_if_nothing_was_delivered_yet() {
    let world = World::with(TreeLimits::default(), small()).await;
    let cases = [
        (
            "not a stream",
            Answer::raw("text/html", vec![send("<html>sign in</html>")]),
            502,
            "bad_model_stream",
        ),
        ("no type", Answer::raw("application/octet-stream", vec![send(CHUNK)]), 502, "bad_model_stream"),
        ("empty", Answer::stream(vec![]), 502, "bad_model_stream"),
        ("no JSON", Answer::stream(vec![send("data: {\"choices\":[\n\n")]), 502, "bad_model_stream"),
        ("a list", Answer::stream(vec![send("data: [1]\n\n")]), 502, "bad_model_stream"),
        ("no chunk", Answer::stream(vec![send("data: {\"choices\": 5}\n\n")]), 502, "bad_model_stream"),
        (
            "too large",
            Answer::stream(vec![send(format!("data: {}", "x".repeat(3000)))]),
            502,
            "bad_model_stream",
        ),
        ("cut", Answer::stream(vec![send("data: {"), Step::Cut]), 502, "bad_model_stream"),
        ("silent", Answer::stream(vec![Step::Hang]), 504, "provider_timeout"),
        (
            "an error",
            Answer::stream(vec![send("data: {\"error\":{\"message\":\"busy\"}}\n\n")]),
            502,
            "provider_error",
        ),
        ("no head", Answer::text("x").before_head(Step::Hang), 504, "provider_timeout"),
    ];
    for (index, (name, answer, status, code)) in cases.into_iter().enumerate() {
        world.provider.push(answer);
        let answered = world.chat(&hello_stream()).await;
        assert_eq!((answered.status, answered.code().as_str()), (status, code), "{name}");
        // The call reached the provider, so it may have cost something; and the log tells what went wrong.
        let kinds = world.kinds();
        assert_eq!(kinds[2 * index..], [EventKind::Usage, EventKind::Error], "{name}");
        let error = world.events().pop().expect("an error").body;
        assert_eq!(error.data.expect("details")["reason"], code, "{name}");
        world.assert_settled().await;
    }
    assert_eq!(world.chat(&hello_stream()).await.status, 200, "the positive control");
}

#[tokio::test]
async fn a_stream_that_goes_wrong_later_ends_with_an_error_event() {
    let world = World::with(TreeLimits::default(), small()).await;
    let broken = [
        ("cut", vec![Step::Cut]),
        ("ends early", vec![]),
        ("no JSON", vec![send("data: oops\n\n"), send(CHUNK)]),
        ("silent", vec![Step::Hang]),
        ("too large", vec![send(format!("data: {}", "x".repeat(3000)))]),
        ("an error", vec![send("data: {\"error\":{\"message\":\"overloaded\"}}\n\n"), send(CHUNK)]),
    ];
    for (name, rest) in broken {
        world.provider.push(Answer::stream([vec![send(CHUNK), send(CHUNK)], rest].concat()));
        let answered = world.chat(&hello_stream()).await;
        assert_eq!(answered.status, 200, "{name}");
        let text = answered.text();
        let error = text.strip_prefix(&CHUNK.repeat(2)).expect(name);
        let error = error.strip_prefix("data: ").and_then(|error| error.strip_suffix("\n\n")).expect(name);
        let error: serde_json::Value = serde_json::from_str(error).expect(name);
        assert!(
            error["error"]["message"].as_str().is_some_and(|text| text.contains("; ")),
            "{name}: {error}"
        );
        assert_eq!(world.events().pop().expect("an event").body.kind, EventKind::Error, "{name}");
        let usage = world.usages().pop().expect("what was seen was charged");
        assert!(usage.estimated && usage.output_tokens >= 2, "{name}: {usage:?}");
        world.assert_settled().await;
    }
}

#[tokio::test]
async fn a_stream_without_done_is_whole_once_its_choice_is_finished() {
    let world = World::with(TreeLimits::default(), small()).await;
    let end = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
    let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3}}";
    for last in [vec![], vec![send(usage)], vec![send("data: [DONE]")]] {
        world.provider.push(Answer::stream([vec![send(CHUNK), send(end)], last].concat()));
        let answered = world.chat(&hello_stream()).await;
        assert!(answered.text().starts_with(&format!("{CHUNK}{end}")), "{}", answered.text());
        assert!(!answered.text().contains("error"), "{}", answered.text());
    }
    assert_eq!(world.kinds(), [EventKind::Usage; 3]);
}

#[tokio::test]
async fn an_answer_that_is_none_is_refused() {
    let world = World::with(TreeLimits::default(), small()).await;
    for (name, answer) in [
        ("html", Answer::raw("text/html", vec![send("<html>")])),
        ("no choices", Answer::status(200, "{}")),
        ("an error with status 200", Answer::status(200, "{\"error\":{\"message\":\"x\"}}")),
        ("too large", Answer::status(200, format!("{{\"x\":\"{}\"}}", "x".repeat(3000)))),
        ("cut", Answer::raw("application/json", vec![send("{\"choices\":"), Step::Cut])),
    ] {
        world.provider.push(answer);
        let answered = world.chat(&hello()).await;
        assert_eq!((answered.status, answered.code().as_str()), (502, "bad_model_answer"), "{name}");
        world.assert_settled().await;
    }
}

#[tokio::test]
async fn a_providers_status_is_passed_on_with_its_words() {
    let world = World::new().await;
    let error = json!({"error": {"message": "too many requests, calm down"}}).to_string();
    world.provider.push(Answer::status(429, error).header("retry-after", "7"));
    let answered = world.chat(&hello_stream()).await;
    assert_eq!((answered.status, answered.code().as_str()), (429, "provider_error"));
    assert_eq!(answered.headers["retry-after"], "7");
    assert!(answered.message().contains("calm down"), "{}", answered.message());
    for status in [400, 404, 500, 503] {
        world.provider.push(Answer::status(status, "plain words"));
        let answered = world.chat(&hello()).await;
        assert_eq!((answered.status, answered.code().as_str()), (status, "provider_error"));
        assert!(answered.message().contains("plain words"), "{}", answered.message());
    }
    // What the provider refused costs nothing.
    assert_eq!(world.kinds(), [EventKind::Error; 5]);
    assert_eq!(world.ledger().await.used.cost, MicroUsd(0));
    world.assert_settled().await;
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_the_key_stays_where_it_was() {
    let world = World::new().await;
    let elsewhere = ModelServer::start().await.expect("a port");
    for status in [301, 302, 307, 308] {
        let to = format!("{}/chat/completions", elsewhere.base_url());
        world.provider.push(Answer::status(status, "").header("location", &to));
        let answered = world.chat(&hello()).await;
        assert_eq!((answered.status, answered.code().as_str()), (502, "provider_redirects"));
    }
    assert_eq!(elsewhere.requests().len(), 0);
    assert_eq!(world.provider.requests().len(), 4);
}

#[tokio::test]
async fn an_unreachable_provider_costs_nothing() {
    let world = World::new().await;
    let gone = ModelServer::start().await.expect("a port").base_url();
    world.models.put(world.session.model.clone(), acme(&gone));
    let answered = world.chat(&hello()).await;
    assert_eq!((answered.status, answered.code().as_str()), (502, "provider_unreachable"));
    assert_eq!(world.kinds(), [EventKind::Error]);
    world.assert_settled().await;
}

#[tokio::test]
async fn a_hang_up_in_the_middle_of_a_stream_stops_the_provider_and_is_charged_as_far_as_it_went() {
    let mut world = World::new().await;
    world.provider.push(Answer::stream(vec![send(CHUNK), send(CHUNK), Step::Hang]));
    let mut connection = world.connect().await;
    let mut body = connection.send(post(&hello_stream().to_string())).await.expect("a head").into_body();
    let mut seen = Vec::new();
    while seen.len() < 2 * CHUNK.len() {
        let frame = body.frame().await.expect("not the end").expect("no fault");
        seen.extend_from_slice(&frame.into_data().expect("data"));
    }
    assert_eq!(world.provider.hang_ups(), 0, "the positive control");
    drop((body, connection));
    world.provider.hang_ups_reached(1).await;
    world.close().await;
    let usage = world.usages().pop().expect("charged");
    assert!(usage.estimated && usage.output_tokens >= 2, "{usage:?}");
    assert_eq!(world.events()[0].body.data.as_ref().expect("details")["cut"], true);
    world.assert_settled().await;
}

#[tokio::test]
async fn a_hang_up_before_the_answer_stops_the_provider_too() {
    for request in [hello(), hello_stream()] {
        let mut world = World::new().await;
        world.provider.push(Answer::text("never").before_head(Step::Hang));
        let mut connection = world.connect().await;
        let asking = tokio::spawn(async move { connection.chat(&request).await.status });
        world.provider.requests_reached(1).await;
        asking.abort();
        world.provider.hang_ups_reached(1).await;
        world.close().await;
        assert_eq!(world.kinds(), [EventKind::Usage]);
        world.assert_settled().await;
    }
}

#[tokio::test]
async fn a_closing_gate_cuts_what_runs_and_settles_it() {
    let mut world = World::new().await;
    world.provider.push(Answer::stream(vec![send(CHUNK), Step::Hang]));
    let mut connection = world.connect().await;
    let mut body = connection.send(post(&hello_stream().to_string())).await.expect("a head").into_body();
    drop(body.frame().await.expect("not the end").expect("no fault"));
    let path = world.gate_dir().join(crate::SOCKET);
    assert!(path.exists());
    world.close().await;
    assert!(!path.exists());
    world.provider.hang_ups_reached(1).await;
    assert_eq!(world.usages().len(), 1);
    world.assert_settled().await;
    assert!(body.collect().await.is_err(), "a cut stream does not look whole");
}

#[tokio::test]
async fn a_store_that_cannot_reserve_lets_nothing_out() {
    for fault in [StoreFault::Full, StoreFault::Engine, StoreFault::Panic] {
        let world = World::new().await;
        world.store.fail_next(1, fault);
        let answered = world.chat(&hello()).await;
        assert_eq!((answered.status, answered.code().as_str()), (503, "accounting_unavailable"), "{fault:?}");
        assert_eq!(world.provider.requests().len(), 0, "{fault:?}");
        assert_eq!(world.chat(&hello()).await.status, 200, "{fault:?}: the positive control");
    }
}

#[tokio::test]
async fn a_settlement_that_fails_is_tried_again() {
    let world = World::with(TreeLimits::default(), small()).await;
    let latch = ob_testkit::model_server::Latch::new();
    world.provider.push(Answer::text("hi").before_head(Step::Wait(latch.clone())));
    let request = hello();
    let (answered, ()) = tokio::join!(world.chat(&request), async {
        world.provider.requests_reached(1).await;
        world.store.fail_next(3, StoreFault::Full);
        latch.open();
    });
    assert_eq!(answered.status, 200);
    assert_eq!(world.kinds(), [EventKind::Usage]);
    world.assert_settled().await;
}

#[tokio::test]
async fn a_late_owners_gate_can_no_longer_spend() {
    use ob_store::Store as _;
    let world = World::new().await;
    let later = world.store.new_epoch().await.expect("an epoch");
    world.store.claim(&world.record.id, later).await.expect("later");
    let answered = world.chat(&hello()).await;
    assert_eq!(answered.status, 503);
    assert_eq!(world.provider.requests().len(), 0);
}
