//! What a gate answers: the link, two routes of models, and a refusal for everything else.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::HeaderValue;
use http::Method;
use http::Request;
use http::Response;
use http::StatusCode;
use http_body_util::BodyExt as _;
use http_body_util::Empty;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use ob_core::Refusal;
use ob_core::RefusalCode;
use ob_core::link::UPGRADE;
use ob_core::link::UPGRADE_PATH;
use serde_json::json;

use crate::listen::Gate;
use crate::listen::Place;
use crate::proxy;
use crate::refuse::GateRefusal;
use crate::refuse::json_response;

/// A body of an answer. It never fails: what goes wrong is told in its last event.
pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

const COMPLETIONS: &str = "/v1/chat/completions";
const MODELS: &str = "/v1/models";

/// Answers one request.
pub(crate) async fn answer(
    gate: Arc<Gate>,
    place: Arc<Place>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    // A panic must not look like a hang-up: the agent would try again for ever.
    let answered = AssertUnwindSafe(routed(&gate, place, request)).catch_unwind().await;
    Ok(match answered {
        Ok(Ok(response)) => response,
        Ok(Err(refused)) => {
            tracing::debug!(session = %gate.session.id, code = refused.code, %refused, "refused");
            refused.response()
        }
        Err(_) => {
            tracing::error!(session = %gate.session.id, "a request to the gate panicked");
            let refusal = Refusal::internal("the gate failed").fix("see the server's log");
            GateRefusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", refusal).response()
        }
    })
}

async fn routed(
    gate: &Arc<Gate>,
    place: Arc<Place>,
    request: Request<Incoming>,
) -> Result<Response<Body>, GateRefusal> {
    let path = request.uri().path();
    if place.is_for_links() && path != UPGRADE_PATH {
        let refusal =
            Refusal::unavailable("too many connections to the gate").fix("close some, or use them again");
        return Err(GateRefusal::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_connections", refusal));
    }
    match (request.method(), path) {
        (&Method::GET, UPGRADE_PATH) => link(gate, place, request),
        (&Method::POST, COMPLETIONS) => proxy::chat(gate, request).await,
        (&Method::GET, MODELS) => Ok(models(gate)),
        (_, UPGRADE_PATH | MODELS) => Err(wrong_method(&request, "GET")),
        (_, COMPLETIONS) => Err(wrong_method(&request, "POST")),
        (method, path) => {
            let asked = path.chars().take(200).collect::<String>();
            let refusal = Refusal::new(RefusalCode::NotFound, format!("the gate has no `{method} {asked}`"))
                .fix(format!(
                    "it has `POST {COMPLETIONS}` and `GET {MODELS}`; nothing else leads out of the sandbox"
                ));
            Err(GateRefusal::new(StatusCode::NOT_FOUND, "not_found", refusal))
        }
    }
}

/// Turns the connection into a guest link.
fn link(
    gate: &Arc<Gate>,
    place: Arc<Place>,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, GateRefusal> {
    let header = |name| request.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let upgrades = header(http::header::CONNECTION)
        .is_some_and(|value| value.split(',').any(|token| token.trim().eq_ignore_ascii_case("upgrade")));
    if !upgrades || header(http::header::UPGRADE) != Some(UPGRADE) {
        let refusal = Refusal::invalid(format!("`{UPGRADE_PATH}` only upgrades to `{UPGRADE}`"))
            .fix(format!("send `Connection: upgrade` and `Upgrade: {UPGRADE}`"));
        return Err(GateRefusal::new(StatusCode::UPGRADE_REQUIRED, "upgrade_required", refusal));
    }
    let upgrading = hyper::upgrade::on(&mut request);
    let link = Arc::clone(&gate.link);
    let session = gate.session.id.clone();
    gate.spawn(async move {
        match upgrading.await {
            Ok(upgraded) => link.serve(Box::new(TokioIo::new(upgraded))).await,
            Err(error) => tracing::debug!(%session, %error, "a guest went away before its link was up"),
        }
        // The link counts among the connections until it is over.
        drop(place);
    });
    let mut response = Response::new(Empty::new().boxed_unsync());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(http::header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(http::header::UPGRADE, HeaderValue::from_static(UPGRADE));
    Ok(response)
}

/// The session's model, and no other: what else the server has is none of the sandbox's business.
fn models(gate: &Gate) -> Response<Body> {
    let model = &gate.session.model;
    let list = json!({ "object": "list", "data": [
        { "id": model.model, "object": "model", "created": 0, "owned_by": model.provider }
    ]});
    json_response(StatusCode::OK, &list)
}

fn wrong_method(request: &Request<Incoming>, allowed: &str) -> GateRefusal {
    let (method, path) = (request.method(), request.uri().path());
    let refusal = Refusal::invalid(format!("`{path}` does not take {method}")).fix(format!("use {allowed}"));
    GateRefusal::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", refusal)
}
