//! Limits hold (invariant 5): whatever happens at once.

use futures_util::future::join_all;
use ob_core::EventKind;
use ob_core::MicroUsd;
use ob_core::ledger::TreeLimits;
use ob_store::Commit;
use ob_store::Store as _;
use ob_store::Write;
use ob_testkit::Answer;
use ob_testkit::model_server::Latch;
use ob_testkit::model_server::Step;
use serde_json::json;

use super::world::World;
use super::world::hello;
use crate::GateOptions;

#[tokio::test]
async fn a_call_over_the_limit_is_refused_before_it_is_sent_and_the_log_tells_it_once() {
    let limits = TreeLimits { max_cost: Some(MicroUsd(1000)), max_tokens: None, ..TreeLimits::default() };
    let world = World::with(limits, GateOptions::default()).await;
    for _ in 0..3 {
        let answered = world.chat(&hello()).await;
        assert_eq!((answered.status, answered.code().as_str()), (429, "limit_exceeded"));
        assert_eq!(answered.json()["error"]["type"], "insufficient_quota");
        assert_eq!(answered.headers["x-should-retry"], "false");
        assert!(answered.message().contains("limit of $0.001"), "{}", answered.message());
    }
    assert_eq!(world.provider.requests().len(), 0);
    assert_eq!(world.kinds(), [EventKind::Error]);
    assert_eq!(world.events()[0].body.data.as_ref().expect("details")["code"], "limit_exceeded");

    // A call that fits is made; the next one over the limit is news again.
    let mut small = hello();
    small["max_tokens"] = json!(1);
    assert_eq!(world.chat(&small).await.status, 200, "the positive control");
    assert_eq!(world.chat(&hello()).await.status, 429);
    assert_eq!(world.kinds(), [EventKind::Error, EventKind::Usage, EventKind::Error]);
}

#[tokio::test]
async fn a_token_limit_counts_input_and_output() {
    let limits = TreeLimits { max_cost: None, max_tokens: Some(500), ..TreeLimits::default() };
    let world = World::with(limits, GateOptions::default()).await;
    let mut request = hello();
    request["max_tokens"] = json!(400);
    assert_eq!(world.chat(&request).await.status, 200, "the positive control");
    request["messages"][0]["content"] = json!("word ".repeat(200));
    assert_eq!(world.chat(&request).await.code(), "limit_exceeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_calls_at_once_never_overshoot() {
    let limit = MicroUsd(250_000);
    let world = World::with(TreeLimits::default(), GateOptions::default()).await;
    let limits = TreeLimits { max_cost: Some(limit), max_tokens: None, ..TreeLimits::default() };
    let put = Write::PutTree { tree: world.record.tree.clone(), limits };
    world.store.commit(Commit { writes: vec![put], fence: None }).await.expect("a tree");
    // All that are let through wait inside the provider until every one has been decided.
    let latch = Latch::new();
    let usage = json!({"prompt_tokens": 20, "completion_tokens": 200});
    world.provider.otherwise(Answer::text("ok").usage(usage).before_head(Step::Wait(latch.clone())));
    let mut request = hello();
    request["max_tokens"] = json!(200);
    let calls = join_all((0..50).map(|_| world.chat(&request)));
    let observed = async {
        // Twelve reservations of 20 thousand and a little fit into 250 thousand.
        world.provider.requests_reached(12).await;
        let ledger = world.ledger().await;
        assert!(ledger.reserved.cost.plus(ledger.used.cost) <= limit, "{ledger:?}");
        latch.open();
    };
    let (answers, ()) = tokio::join!(calls, observed);
    let ledger = world.ledger().await;
    assert!(ledger.used.cost <= limit, "{ledger:?}");
    let allowed = answers.iter().filter(|answered| answered.status == 200).count();
    assert!(answers.iter().all(|answered| matches!(answered.status, 200 | 429)));
    assert_eq!(world.provider.requests().len(), allowed);
    assert_eq!(world.usages().len(), allowed);
    assert_eq!(ledger.used.cost, MicroUsd(20_200 * u64::try_from(allowed).expect("small")));
    world.assert_settled().await;
}
