//! `/health`, `/ready` and `/metrics`: answered at once, also while the engine is still being made.

use std::sync::Arc;
use std::sync::PoisonError;
use std::time::Duration;

use axum::extract::Request;
use axum::extract::State;
use axum::response::IntoResponse as _;
use axum::response::Response;
use http::HeaderValue;
use http::StatusCode;
use http::header;
use ob_core::Timestamp;
use ob_engine::Check;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::doors::Phase;
use crate::edge::Peer;
use crate::edge::Site;
use crate::edge::id_of;
use crate::reply;

/// How long checks may take before the probe answers without them.
const CHECKS_MAX: Duration = Duration::from_secs(2);

/// Alive; and for this machine or a token, what works and what does not.
pub(crate) async fn health(State(site): State<Arc<Site>>, request: Request) -> Response {
    let peer = request.extensions().get().copied().unwrap_or(Peer(None));
    let trusted = site.is_local(peer, request.uri(), request.headers())
        || (request.headers().contains_key(header::AUTHORIZATION)
            && site.may_see_everything(request.headers()).await.is_ok());
    let mut body = json!({ "status": "ok" });
    if trusted {
        body["checks"] = checks(&site).await;
    }
    reply::ok(&body)
}

/// Ready for work, or why not.
pub(crate) async fn ready(State(site): State<Arc<Site>>) -> Response {
    let phase = site.phase.borrow().clone();
    let (reason, missing) = match phase {
        Phase::Starting { reason } => (reason, vec!["engine"]),
        Phase::Draining => ("the server is stopping".to_owned(), vec!["engine"]),
        Phase::Serving(doors) => match doors.ready() {
            Ok(()) => return reply::ok(&json!({ "status": "ready" })),
            Err(reason) => {
                let checks = tokio::time::timeout(CHECKS_MAX, doors.checks()).await.unwrap_or_default();
                let missing =
                    checks.iter().filter(|c| c.required && c.status != "ok").map(|c| c.name).collect();
                (reason, missing)
            }
        },
    };
    let body = json!({ "status": "not ready", "reason": reason, "missing": missing });
    let mut response = reply::ok(&body);
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// The metrics page, text format 0.0.4.
pub(crate) async fn metrics(State(site): State<Arc<Site>>, request: Request) -> Response {
    let peer = request.extensions().get().copied().unwrap_or(Peer(None));
    if !site.is_local(peer, request.uri(), request.headers())
        && let Err(refusal) = site.may_see_everything(request.headers()).await
    {
        return reply::refused(&refusal, &id_of(&request));
    }
    let text = (site.metrics)().await;
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

async fn checks(site: &Site) -> Value {
    let engine = |status: &str, message: &str| json!({ "engine": { "status": status, "required": true, "message": message, "last_ok": null } });
    let phase = site.phase.borrow().clone();
    let doors = match phase {
        Phase::Starting { reason } => return engine("starting", &reason),
        Phase::Draining => return engine("down", "the server is stopping"),
        Phase::Serving(doors) => doors,
    };
    match tokio::time::timeout(CHECKS_MAX, doors.checks()).await {
        Ok(checks) => described(site, &checks),
        Err(_) => engine("degraded", "the checks did not answer in time"),
    }
}

fn described(site: &Site, checks: &[Check]) -> Value {
    let now = Timestamp::from_micros(jiff::Timestamp::now().as_microsecond());
    let mut last_ok = site.last_ok.lock().unwrap_or_else(PoisonError::into_inner);
    let mut all = Map::new();
    for check in checks {
        if check.status == "ok" {
            last_ok.insert(check.name, now);
        }
        let entry = json!({
            "status": check.status,
            "required": check.required,
            "message": check.message,
            "fix": check.fix,
            "last_ok": last_ok.get(check.name),
        });
        all.insert(check.name.to_owned(), entry);
    }
    Value::Object(all)
}
