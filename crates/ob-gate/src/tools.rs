//! Tools for the session's agent: what it may ask of Oubliette itself, over MCP on `/mcp`.
//!
//! The gate says who asks, by the socket that the request came through, and knows nothing of what is asked: whoever offers
//! the tools sits above and goes through the one authoriser. No header and no parameter of the request says whose it is.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::Request;
use http::Response;
use http::StatusCode;
use http_body_util::BodyExt as _;
use http_body_util::Full;
use hyper::body::Incoming;
use ob_core::Principal;
use ob_core::Refusal;

use crate::body;
use crate::listen::Gate;
use crate::refuse::GateRefusal;
use crate::route::Body;

/// The path of the tools.
pub(crate) const PATH: &str = "/mcp";

/// The most bytes of a request; a task may have 256 KiB, and JSON may double that.
const BODY_MAX: usize = 1024 * 1024;

/// What offers tools to agents.
pub trait Tools: Send + Sync + 'static {
    /// Answers one MCP request of the session that `asker` is. The answer is whole: nothing is pushed to agents.
    fn answer(&self, asker: Principal, request: Request<Bytes>) -> BoxFuture<'static, Response<Bytes>>;
}

/// Hands a request on, with the gate's word on whose it is.
pub(crate) async fn pass(
    gate: &Arc<Gate>,
    request: Request<Incoming>,
) -> Result<Response<Body>, GateRefusal> {
    let Some(tools) = gate.shared.tools.get().cloned() else {
        let refusal = Refusal::unavailable("this server offers no tools yet").fix("try again in a moment");
        return Err(GateRefusal::new(StatusCode::SERVICE_UNAVAILABLE, "no_tools", refusal));
    };
    let (parts, incoming) = request.into_parts();
    let room = body::room_for(gate, &incoming).await?;
    let body = body::read(gate, incoming, BODY_MAX).await?;
    // A call may wait for long, and is small: calls to models must not wait for its room.
    drop(room);
    let asker = Principal::Session { id: gate.session.id.clone(), project: gate.session.project };
    let answer = tools.answer(asker, Request::from_parts(parts, body)).await;
    Ok(answer.map(|body| Full::new(body).boxed_unsync()))
}
