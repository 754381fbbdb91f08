//! What a gate answers: the link, the routes of models, and a refusal for everything else.

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
use ob_core::model::ModelRef;
use ob_core::model::Wire;
use serde_json::Value;
use serde_json::json;

use crate::listen::Gate;
use crate::listen::Place;
use crate::proxy;
use crate::refuse::GateRefusal;
use crate::refuse::json_response;
use crate::tools;

/// A body of an answer. It never fails: what goes wrong is told in its last event.
pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What the gate has, for whoever asked for something else.
const ROUTES: &str = "`POST /v1/chat/completions`, `/v1/responses`, `/v1/messages`, `/v1/messages/count_tokens`, \
                      `/v1beta/models/MODEL:generateContent`, `:streamGenerateContent`, `:countTokens`, \
                      `/v1beta/openai/chat/completions`, `/mcp`, and `GET /v1/models` and `/v1beta/models`";

/// What a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route<'a> {
    /// The guest's link.
    Link,
    /// An answer of the model. The path says whether it streams where the body does not.
    Generate { wire: Wire, streams: bool },
    /// A count of tokens.
    Count { wire: Wire },
    /// The tools of the session.
    Tools,
    /// The models; all, or the one of this name.
    Models { wire: Wire, name: Option<&'a str> },
}

/// Answers one request.
pub(crate) async fn answer(
    gate: Arc<Gate>,
    place: Arc<Place>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let wire = form(&request);
    // A panic must not look like a hang-up: the agent would try again for ever.
    let answered = AssertUnwindSafe(routed(&gate, place, request)).catch_unwind().await;
    Ok(match answered {
        Ok(Ok(response)) => response,
        Ok(Err(refused)) => {
            tracing::debug!(session = %gate.session.id, code = refused.code, %refused, "refused");
            refused.response(wire)
        }
        Err(_) => {
            tracing::error!(session = %gate.session.id, "a request to the gate panicked");
            let refusal = Refusal::internal("the gate failed").fix("see the server's log");
            GateRefusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", refusal).response(wire)
        }
    })
}

async fn routed(
    gate: &Arc<Gate>,
    place: Arc<Place>,
    request: Request<Incoming>,
) -> Result<Response<Body>, GateRefusal> {
    let route = find(request.uri().path());
    if place.is_for_links() && route != Some(Route::Link) {
        let refusal =
            Refusal::unavailable("too many connections to the gate").fix("close some, or use them again");
        return Err(GateRefusal::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_connections", refusal));
    }
    let Some(route) = route else {
        let asked = request.uri().path().chars().take(200).collect::<String>();
        let what = format!("the gate has no `{} {asked}`", request.method());
        let fix = format!("it has {ROUTES}; nothing else leads out of the sandbox");
        let refusal = Refusal::new(RefusalCode::NotFound, what).fix(fix);
        return Err(GateRefusal::new(StatusCode::NOT_FOUND, "not_found", refusal));
    };
    let allowed = match route {
        Route::Link | Route::Models { .. } => Method::GET,
        // There is no stream of pushed messages to `GET` here, and no MCP session to `DELETE`.
        Route::Generate { .. } | Route::Count { .. } | Route::Tools => Method::POST,
    };
    if request.method() != allowed {
        let (method, path) = (request.method(), request.uri().path());
        let what = format!("`{path}` does not take {method}");
        let refusal = Refusal::invalid(what).fix(format!("use {allowed}"));
        return Err(GateRefusal::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", refusal));
    }
    match route {
        Route::Link => link(gate, place, request),
        Route::Tools => tools::pass(gate, request).await,
        Route::Generate { wire, streams } => {
            // Without it the answer would be one JSON list, in pieces that are no events.
            let is_sse =
                request.uri().query().is_some_and(|query| query.split('&').any(|part| part == "alt=sse"));
            if streams && !is_sse {
                let what = "`streamGenerateContent` without `alt=sse` is no event stream";
                return Err(GateRefusal::invalid(Some("alt"), what, "add `?alt=sse`"));
            }
            proxy::generate(gate, wire, streams, request).await
        }
        Route::Count { wire } => proxy::count(gate, wire, request).await,
        Route::Models { name, .. } => models(&gate.session.model, form(&request), name),
    }
}

/// What a path leads to; nothing if it leads nowhere.
fn find(path: &str) -> Option<Route<'_>> {
    if path == UPGRADE_PATH {
        return Some(Route::Link);
    }
    if path == tools::PATH {
        return Some(Route::Tools);
    }
    let (version, rest) = path.strip_prefix('/')?.split_once('/')?;
    let (rest, is_openai) = match (version, rest.strip_prefix("openai/")) {
        ("v1", _) => (rest, true),
        ("v1beta", Some(rest)) => (rest, true),
        ("v1beta", None) => (rest, false),
        _ => return None,
    };
    let listed = if is_openai { Wire::Chat } else { Wire::Google };
    match rest {
        "chat/completions" if is_openai => Some(Route::Generate { wire: Wire::Chat, streams: false }),
        "responses" if version == "v1" => Some(Route::Generate { wire: Wire::Responses, streams: false }),
        "messages" if version == "v1" => Some(Route::Generate { wire: Wire::Messages, streams: false }),
        "messages/count_tokens" if version == "v1" => Some(Route::Count { wire: Wire::Messages }),
        "models" => Some(Route::Models { wire: listed, name: None }),
        _ => {
            let name = rest.strip_prefix("models/").filter(|name| !name.is_empty())?;
            match name.rsplit_once(':').map(|(_, verb)| verb) {
                Some("generateContent") => Some(Route::Generate { wire: Wire::Google, streams: false }),
                Some("streamGenerateContent") => Some(Route::Generate { wire: Wire::Google, streams: true }),
                Some("countTokens") => Some(Route::Count { wire: Wire::Google }),
                _ => Some(Route::Models { wire: listed, name: Some(name) }),
            }
        }
    }
}

/// The wire whose form of an error the agent understands.
fn form<B>(request: &Request<B>) -> Wire {
    match find(request.uri().path()) {
        Some(Route::Generate { wire, .. } | Route::Count { wire }) => wire,
        Some(Route::Models { wire: Wire::Google, .. }) => Wire::Google,
        // OpenAI and Anthropic share this path, and tell themselves apart by this header.
        _ if request.headers().contains_key("anthropic-version") => Wire::Messages,
        _ => Wire::Chat,
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
fn models(model: &ModelRef, wire: Wire, asked: Option<&str>) -> Result<Response<Body>, GateRefusal> {
    let ModelRef { provider, model: name, .. } = model;
    if asked.is_some_and(|asked| asked != name) {
        let refusal = Refusal::new(RefusalCode::NotFound, "this session has no model of that name")
            .fix(format!("it has `{name}`, which answers by whatever name it is asked"));
        return Err(GateRefusal::new(StatusCode::NOT_FOUND, "model_not_found", refusal));
    }
    let one: Value = match wire {
        Wire::Chat | Wire::Responses => {
            json!({ "id": name, "object": "model", "created": 0, "owned_by": provider })
        }
        Wire::Messages => {
            json!({ "type": "model", "id": name, "display_name": name, "created_at": "1970-01-01T00:00:00Z" })
        }
        Wire::Google => json!({
            "name": format!("models/{name}"), "displayName": name,
            "supportedGenerationMethods": ["generateContent", "countTokens"],
        }),
    };
    let answer = match (asked, wire) {
        (Some(_), _) => one,
        (None, Wire::Chat | Wire::Responses) => json!({ "object": "list", "data": [one] }),
        (None, Wire::Messages) => {
            json!({ "data": [one], "has_more": false, "first_id": name, "last_id": name })
        }
        (None, Wire::Google) => json!({ "models": [one] }),
    };
    Ok(json_response(StatusCode::OK, &answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_leads_where_it_says_or_nowhere() {
        let generate = |wire| Some(Route::Generate { wire, streams: false });
        let models = |wire, name| Some(Route::Models { wire, name });
        for (path, expected) in [
            ("/v1/chat/completions", generate(Wire::Chat)),
            ("/v1beta/openai/chat/completions", generate(Wire::Chat)),
            ("/v1/responses", generate(Wire::Responses)),
            ("/v1/messages", generate(Wire::Messages)),
            ("/v1/messages/count_tokens", Some(Route::Count { wire: Wire::Messages })),
            ("/v1beta/models/a/b:generateContent", generate(Wire::Google)),
            ("/v1/models/a:generateContent", generate(Wire::Google)),
            (
                "/v1beta/models/a:streamGenerateContent",
                Some(Route::Generate { wire: Wire::Google, streams: true }),
            ),
            ("/v1beta/models/a:countTokens", Some(Route::Count { wire: Wire::Google })),
            ("/v1/models", models(Wire::Chat, None)),
            ("/v1/models/a", models(Wire::Chat, Some("a"))),
            ("/v1beta/openai/models", models(Wire::Chat, None)),
            ("/v1beta/models", models(Wire::Google, None)),
            ("/v1beta/models/a:b", models(Wire::Google, Some("a:b"))),
            (UPGRADE_PATH, Some(Route::Link)),
            ("/mcp", Some(Route::Tools)),
        ] {
            assert_eq!(find(path), expected, "{path}");
        }
        for nowhere in [
            "",
            "/",
            "/v1",
            "/v1/",
            "/v1/models/",
            "/v2/models",
            "/mcp/",
            "/v1/mcp",
            "/v1beta/responses",
            "/v1beta/chat/completions",
            "/v1/responses/r-1",
            "/v1/files",
            "/v1/openai/chat/completions",
            "//v1/models",
            "/V1/models",
        ] {
            assert_eq!(find(nowhere), None, "{nowhere}");
        }
    }
}
