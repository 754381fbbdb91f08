//! Health: what is required and down makes a server not ready, what is not configured is never healthy.

use ob_core::CheckState;
use ob_testkit::memory_store::StoreFault;

use super::world::Broken;
use super::world::World;

#[tokio::test]
async fn a_store_that_cannot_write_is_not_ready_and_the_checks_say_why() {
    let world = World::new().await;
    let engine = world.engine(Broken::unfit()).await;
    world.store.fail_next(2, StoreFault::Full);
    let why = engine.readiness().await.expect_err("nothing can be kept");
    assert_eq!(why.missing, ["store"]);
    assert!(why.reason.contains("full"), "{why:?}");
    assert_eq!(
        engine.readiness().await.expect_err("asked again at once"),
        why,
        "the answer holds for a moment"
    );

    let checks = engine.checks().await;
    let state = |name: &str| {
        let check = checks.iter().find(|check| check.name == name).expect(name);
        (check.state, check.required, check.fix.is_some())
    };
    assert_eq!(state("store"), (CheckState::Failed, true, true));
    assert_eq!(state("sandbox"), (CheckState::Failed, false, true), "this backend lacks something");
    assert_eq!(state("model"), (CheckState::Ok, false, false));
    assert!(world.model.requests().is_empty(), "a probe asks no model");

    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    while engine.readiness().await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "it is ready again once the store can write");
        tokio::task::yield_now().await;
    }
    assert!(engine.store_answers().await.is_ok(), "a store that could not write can be read");
    assert_eq!(engine.gauges().await.map(|gauges| gauges.projects), Ok(0));
    engine.shutdown(false).await;
    assert!(engine.store_answers().await.is_err(), "one that cannot be read does not keep the server alive");
    assert!(engine.gauges().await.is_err(), "and nothing is not said to be there");
    assert_eq!(engine.readiness().await.expect_err("it stops").missing, ["engine"]);
}
