//! No secret inside (invariant 4): however a provider tries to give its key away, no one sees it.

use std::fmt::Write as _;

use ob_testkit::Answer;
use ob_testkit::model_server::Step;
use serde_json::json;

use super::world::HEADER_SECRET;
use super::world::KEY;
use super::world::World;
use super::world::hello;
use super::world::hello_stream;

fn echo() -> String {
    format!("your key {KEY} and your header {HEADER_SECRET} were seen")
}

/// Every way in which words of a provider come back.
fn echoes() -> Vec<Answer> {
    let error = json!({"error": {"message": echo(), "key": KEY}}).to_string();
    let chunk = json!({"choices": [{"delta": {"content": echo()}}]});
    let send = |text: String| Step::Send(text.into());
    let mut echoes: Vec<Answer> = [400, 401, 402, 403, 404, 429, 500]
        .into_iter()
        .flat_map(|status| [Answer::status(status, error.clone()), Answer::status(status, echo())])
        .collect();
    echoes.extend([
        Answer::text(echo()),
        Answer::tool(KEY, json!({"key": KEY})),
        Answer::status(302, echo()).header("location", &format!("http://127.0.0.1:1/{KEY}")),
        Answer::status(429, error.clone()).header("retry-after", KEY),
        Answer::text("x").header("x-request-id", KEY).header("x-other", KEY),
        Answer::status(200, error),
        Answer::raw(&format!("text/{KEY}"), vec![send(echo())]),
        Answer::stream(vec![send(format!("data: {}\n\n", echo()))]),
        Answer::stream(vec![send(format!(": {}\n\ndata: {chunk}\n\n", echo())), Step::Cut]),
        Answer::stream(vec![send(format!("data: {chunk}\n\ndata: {{\"error\":\"{}\"}}\n\n", echo()))]),
    ]);
    echoes
}

#[tokio::test]
async fn a_provider_that_repeats_its_key_gives_nothing_away() {
    let mut world = World::new().await;
    let mut seen = String::new();
    let mut calls = 0;
    for request in [hello(), hello_stream()] {
        for answer in echoes() {
            world.provider.push(answer);
            let answered = world.chat(&request).await;
            calls += 1;
            writeln!(seen, "{} {:?} {}", answered.status, answered.headers, answered.text()).expect("a text");
        }
    }
    world.close().await;
    seen.push_str(&serde_json::to_string(&world.events()).expect("JSON"));
    for secret in [KEY, HEADER_SECRET] {
        assert!(!seen.contains(secret), "a secret came through: {seen}");
    }
    // The positive control: the provider got the secrets each time, and its other words came through.
    assert_eq!(world.provider.requests().len(), calls);
    assert!(world.provider.requests().iter().all(|request| request.headers["x-acme-team"] == HEADER_SECRET));
    assert!(seen.contains("your key [redacted] and your header [redacted] were seen"));
}

#[tokio::test]
async fn what_the_gate_says_of_a_broken_configuration_holds_no_secret() {
    let world = World::new().await;
    let good = super::world::acme(&world.provider.base_url());
    let with_url = |base_url: String| crate::models::Provider { base_url, ..good.clone() };
    for provider in [
        with_url(format!("http://127.0.0.1:1/{KEY}/v1")),
        with_url(format!("http://user:{KEY}@127.0.0.1:1/v1")),
        with_url(format!("http://127.0.0.1:1/v1?key={KEY}")),
        with_url(format!("{KEY}://x")),
        crate::models::Provider { keys: super::world::keys(&[&format!("{KEY}\n")]), ..good.clone() },
        crate::models::Provider { extra_headers: vec![("x y".into(), KEY.into())], ..good.clone() },
    ] {
        world.models.put(world.session.model.clone(), provider);
        let answered = world.chat(&hello()).await;
        assert_eq!(answered.status, 502);
        assert!(!answered.text().contains(KEY), "{}", answered.text());
    }
    assert!(!serde_json::to_string(&world.events()).expect("JSON").contains(KEY));
    assert_eq!(world.provider.requests().len(), 0);
}
