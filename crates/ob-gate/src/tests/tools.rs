//! The tools of a session: whose they are is the gate's word, and nothing of the request's.

use std::sync::Arc;
use std::sync::Mutex;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::Method;
use http::Request;
use http::Response;
use ob_core::Principal;

use super::world::World;
use super::world::get;
use super::world::request;
use crate::Tools;

/// Notes who asked for what, and answers the same each time.
#[derive(Default)]
struct Noting(Mutex<Vec<(Principal, Bytes)>>);

impl Tools for Noting {
    fn answer(&self, asker: Principal, request: Request<Bytes>) -> BoxFuture<'static, Response<Bytes>> {
        self.0.lock().expect("no panic").push((asker, request.into_body()));
        let mut response = Response::new(Bytes::from_static(br#"{"jsonrpc":"2.0"}"#));
        *response.status_mut() = http::StatusCode::ACCEPTED;
        async { response }.boxed()
    }
}

#[tokio::test]
async fn a_call_of_a_tool_is_of_the_session_whose_gate_it_came_through_whatever_it_says() {
    let world = World::new().await;
    let mut connection = world.connect().await;
    let body = r#"{"session_id":"gogol_20261118_110640_deadbeef"}"#;
    let early = connection.read(request(Method::POST, "/mcp", body)).await;
    assert_eq!((early.status, early.code()), (503, "no_tools".to_owned()), "{}", early.text());

    let tools = Arc::new(Noting::default());
    assert!(world.gates.shared.tools.set(Arc::clone(&tools) as Arc<dyn Tools>).is_ok());
    let mut lying = request(Method::POST, "/mcp", body);
    for (name, value) in [
        ("authorization", "Bearer oub_0"),
        ("mcp-session-id", "of another"),
        ("x-session-id", "gogol_20261118_110640_deadbeef"),
    ] {
        lying.headers_mut().insert(name, value.parse().expect("a value"));
    }
    let mut connection = world.connect().await;
    let answered = connection.read(lying).await;
    assert_eq!((answered.status, &*answered.text()), (202, r#"{"jsonrpc":"2.0"}"#));
    let asker = Principal::Session { id: world.session.id.clone(), project: world.session.project };
    assert_eq!(*tools.0.lock().expect("no panic"), [(asker, Bytes::from(body))]);

    let mut connection = world.connect().await;
    let answered = connection.read(get("/mcp")).await;
    assert_eq!(answered.status, 405, "nothing is pushed to agents: {}", answered.text());
    let large = "x".repeat(1024 * 1024 + 1);
    let mut connection = world.connect().await;
    let answered = connection.read(request(Method::POST, "/mcp", &large)).await;
    assert_eq!(answered.status, 413, "{}", answered.text());
    assert_eq!(tools.0.lock().expect("no panic").len(), 1, "what is refused is not handed on");
}
