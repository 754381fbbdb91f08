//! The server tries a model itself.

use std::time::Duration;

use ob_core::MicroUsd;
use ob_core::Refusal;
use ob_core::model::Tokens;
use ob_core::model::ToolCall;
use ob_core::model::Wire;
use ob_testkit::Answer;
use ob_testkit::model_server::Step;
use serde_json::json;

use super::world::DEADLINE;
use super::world::KEY;
use super::world::World;
use super::world::acme;
use crate::Trial;
use crate::models::Provider;

async fn try_it(world: &World) -> Result<Trial, Refusal> {
    world.gates.try_model(&world.session.model, DEADLINE).await
}

#[tokio::test]
async fn a_model_is_asked_as_agents_ask_it_in_whichever_wire_and_nobody_pays() {
    let world = World::new().await;
    for wire in [Wire::Chat, Wire::Responses, Wire::Messages, Wire::Google] {
        let provider = Provider { wires: vec![wire], ..acme(&world.provider.base_url()) };
        world.models.put(world.session.model.clone(), provider);
        world.provider.push(Answer::tool("add", json!({ "a": 20, "b": 22 })));
        let trial = try_it(&world).await.expect("it answers");
        assert_eq!(trial.tool_call, ToolCall::WellFormed, "{wire}");
        assert!(trial.first_byte <= trial.took, "{wire}");
        let asked = world.provider.requests().pop().expect("it was asked");
        assert!(asked.headers.values().any(|value| value.to_str().is_ok_and(|v| v.ends_with(KEY))), "{wire}");
        assert!(asked.body.to_string().contains("Adds two numbers."), "{wire}");
    }
    assert_eq!(world.events(), [], "it is in no session's log");
    world.assert_settled().await;
}

#[tokio::test]
async fn what_a_trial_used_and_cost_is_told() {
    let world = World::new().await;
    let usage = json!({"prompt_tokens": 100, "completion_tokens": 20});
    world.provider.push(Answer::text("It is 42.").usage(usage));
    let trial = try_it(&world).await.expect("it answers");
    assert_eq!(trial.tool_call, ToolCall::Missing);
    assert_eq!(trial.tokens, Some(Tokens { input: 100, output: 20, ..Tokens::default() }));
    // 100 tokens at 10 and 20 at 100 micro-dollars.
    assert_eq!(trial.cost, Some(MicroUsd(3000)));
    world.provider.push(Answer::text("x").without_usage());
    assert_eq!(try_it(&world).await.expect("it answers").cost, None);
}

#[tokio::test]
async fn a_trial_that_fails_says_why_at_once_and_shows_no_key() {
    let world = World::new().await;
    world
        .models
        .put(world.session.model.clone(), Provider { retries: 9, ..acme(&world.provider.base_url()) });
    let cut = Step::Send("data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n".into());
    for (answer, expected) in [
        (Answer::status(401, format!("{{\"error\":\"no {KEY}\"}}")), "refused our key"),
        (Answer::status(500, "{}"), "status 500"),
        (Answer::raw("text/html", vec![Step::Send("<html>".into())]), "instead of an event stream"),
        (Answer::stream(vec![cut, Step::Cut]), "breaks off in the middle"),
    ] {
        let asked = world.provider.requests().len();
        world.provider.push(answer);
        let refused = try_it(&world).await.expect_err(expected);
        assert!(refused.message.contains(expected), "{refused}");
        assert!(!refused.to_string().contains(KEY), "{refused}");
        assert_eq!(world.provider.requests().len(), asked + 1, "one request and no more: {expected}");
    }
    let endless = "data: {\"choices\":[{\"delta\":{\"content\":\"word\"}}]}\n\n".repeat(8000);
    world.provider.push(Answer::stream(vec![Step::Send(endless.into()), Step::Hang]));
    assert!(try_it(&world).await.expect_err("too long").message.contains("come to an end"));
    world.provider.push(Answer::text("x").before_head(Step::Hang));
    let late = world.gates.try_model(&world.session.model, Duration::from_millis(50)).await;
    assert!(late.expect_err("too late").message.contains("within 50ms"));
}

#[tokio::test]
async fn a_model_without_a_price_is_not_tried_where_such_calls_are_refused() {
    let world = World::new().await;
    let provider = Provider {
        prices: ob_core::model::Prices::default(),
        must_have_price: true,
        ..acme(&world.provider.base_url())
    };
    world.models.put(world.session.model.clone(), provider);
    assert!(try_it(&world).await.expect_err("it has no price").message.contains("has no price today"));
    assert_eq!(world.provider.requests().len(), 0);
}

/// What a server says that holds its answers to the schema.
const HELD: &str = r#"{"tool":"add","arguments":{"a":20,"b":22}}"#;

#[tokio::test]
async fn a_model_whose_calls_are_held_to_a_schema_calls_well_in_every_wire() {
    let world = World::new().await;
    for wire in [Wire::Chat, Wire::Responses, Wire::Google] {
        let provider = acme(&world.provider.base_url());
        // The control: the same words of a model that is trusted to call by itself are only words.
        for (holds_calls, expected) in [(false, ToolCall::Missing), (true, ToolCall::WellFormed)] {
            let provider = Provider { wires: vec![wire], holds_calls, ..provider.clone() };
            world.models.put(world.session.model.clone(), provider);
            world.provider.push(Answer::text(HELD));
            assert_eq!(try_it(&world).await.expect("it answers").tool_call, expected, "{wire} {holds_calls}");
            let asked = world.provider.requests().pop().expect("it was asked").body;
            assert_eq!(asked.get("tools").is_none(), holds_calls, "{wire}: {asked}");
            assert_eq!(asked.to_string().contains("anyOf"), holds_calls, "{wire}: {asked}");
        }
    }
    // In one piece it is the same.
    world
        .models
        .put(world.session.model.clone(), Provider { holds_calls: true, ..acme(&world.provider.base_url()) });
    let function = json!({ "name": "add", "parameters": { "type": "object" } });
    let mut request = super::world::hello();
    request["tools"] = json!([{ "type": "function", "function": function }]);
    world.provider.push(Answer::text(HELD));
    let answered = world.chat(&request).await.json();
    let choice = &answered["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls", "{answered}");
    let call = &choice["message"]["tool_calls"][0]["function"];
    assert_eq!((&call["name"], &call["arguments"]), (&json!("add"), &json!("{\"a\":20,\"b\":22}")));
    let sent = world.provider.requests().pop().expect("it was asked").body;
    assert_eq!(sent["response_format"]["type"], "json_schema", "{sent}");
    world.provider.push(Answer::text(r#"{"answer":"It is 42."}"#));
    let answered = world.chat(&request).await.json();
    assert_eq!(answered["choices"][0]["message"]["content"], "It is 42.");
}
