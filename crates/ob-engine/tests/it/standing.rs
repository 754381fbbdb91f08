//! A token stops working: whoever waits with it is told, whichever process revoked it.

use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use ob_core::Principal;
use ob_core::Refusal;
use ob_core::RefusalCode;
use ob_core::Timestamp;
use ob_core::operation::Operation;
use serde_json::json;

use super::world::Broken;
use super::world::World;
use super::world::ask;

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_with_a_token_is_told_when_it_stops_working() {
    let world = World::new().await;
    let engine = world.engine(Broken::new(true)).await;
    let made = async |name: &str, expires_in_s: Option<u64>| {
        let params = json!({ "name": name, "scope": "admin", "expires_in_s": expires_in_s });
        let made = ask(&engine, Operation::TokenCreate, params).await;
        engine.authenticate(made["secret"].as_str().expect("a secret")).await.expect("valid")
    };
    let told = async |waiting: BoxFuture<'static, Refusal>| {
        let refusal = tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("told in time");
        assert_eq!(refusal.code, RefusalCode::Unauthenticated);
    };
    let (kept, here, elsewhere) =
        (made("kept", None).await, made("here", None).await, made("else", None).await);
    let mut kept = engine.lapsed(&kept);
    let (here, elsewhere) = (engine.lapsed(&here), engine.lapsed(&elsewhere));

    let waiting = tokio::spawn(here);
    ask(&engine, Operation::TokenRevoke, json!({ "token": "here" })).await;
    told(async { waiting.await.expect("no panic") }.boxed()).await;

    let waiting = tokio::spawn(elsewhere);
    let other = ob_store::sqlite::open_tokens(&world.home.auth_database()).await.expect("another process");
    other.revoke("else", Timestamp::from_micros(1)).await.expect("revoked").expect("known");
    told(async { waiting.await.expect("no panic") }.boxed()).await;

    let brief = made("brief", Some(1)).await;
    told(engine.lapsed(&brief)).await;
    // One that was revoked before anyone waited.
    told(engine.lapsed(&brief)).await;

    assert!((&mut kept).now_or_never().is_none(), "a token that is valid goes on");
    assert!(engine.lapsed(&Principal::Operator).now_or_never().is_none(), "the operator has none");
    engine.shutdown(false).await;
}
