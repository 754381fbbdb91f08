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
use ob_core::Check;
use ob_core::CheckState;
use ob_core::Timestamp;
use ob_engine::NotReady;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::doors::Phase;
use crate::edge::Site;
use crate::edge::id_of;
use crate::edge::peer_of;
use crate::reply;

/// How long checks may take before the probe answers without them.
const CHECKS_MAX: Duration = Duration::from_secs(2);

/// Alive; and for this machine or a token, what works and what does not.
pub(crate) async fn health(State(site): State<Arc<Site>>, request: Request) -> Response {
    let (peer, id) = (peer_of(&request), id_of(&request));
    let trusted = site.is_local(peer, request.uri(), request.headers())
        || (request.headers().contains_key(header::AUTHORIZATION)
            && site.may_see_everything(peer, request.headers(), &id).await.is_ok());
    let mut body = json!({ "status": "ok" });
    if trusted {
        body["checks"] = checks(&site).await;
    }
    reply::ok(&body)
}

/// Ready for work, or why not.
pub(crate) async fn ready(State(site): State<Arc<Site>>) -> Response {
    let phase = site.phase.borrow().clone();
    let engine = |reason: String| NotReady { reason, missing: vec!["engine".to_owned()] };
    let NotReady { reason, missing } = match phase {
        Phase::Starting { reason } => engine(reason),
        Phase::Draining => engine("the server is stopping".to_owned()),
        Phase::Serving(doors) => match tokio::time::timeout(CHECKS_MAX, doors.ready()).await {
            Ok(Ok(())) => return reply::ok(&json!({ "status": "ready" })),
            Ok(Err(not_ready)) => not_ready,
            Err(_) => engine("the engine did not answer in time".to_owned()),
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
    let (peer, id) = (peer_of(&request), id_of(&request));
    if !site.is_local(peer, request.uri(), request.headers())
        && let Err(denied) = site.may_see_everything(peer, request.headers(), &id).await
    {
        return reply::denied(&denied, &id);
    }
    let text = (site.metrics)().await;
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

async fn checks(site: &Site) -> Value {
    const COST: &str = "nothing can be asked of it";
    let phase = site.phase.borrow().clone();
    let checks = match phase {
        Phase::Starting { reason } => vec![Check::missing("engine", reason, COST).required().fix("wait")],
        Phase::Draining => vec![Check::missing("engine", "the server is stopping", COST).required()],
        Phase::Serving(doors) => {
            let late = || {
                vec![
                    Check::failed("engine", "the checks did not answer in time", COST)
                        .required()
                        .fix("see the log"),
                ]
            };
            tokio::time::timeout(CHECKS_MAX, doors.checks()).await.unwrap_or_else(|_| late())
        }
    };
    described(site, &checks)
}

/// The checks by name, each with the time when it was last well.
fn described(site: &Site, checks: &[Check]) -> Value {
    let now = Timestamp::from_micros(jiff::Timestamp::now().as_microsecond());
    let mut last_ok = site.last_ok.lock().unwrap_or_else(PoisonError::into_inner);
    let mut all = Map::new();
    for check in checks {
        if check.state == CheckState::Ok {
            last_ok.insert(check.name.clone(), now);
        }
        let mut entry = json!({
            "status": check.state,
            "required": check.required,
            "message": check.found,
            "last_ok": last_ok.get(&check.name),
        });
        if let Some(measure) = &check.measure {
            entry["value"] = measure.value.into();
            entry["unit"] = measure.unit.as_str().into();
            entry["threshold"] = measure.threshold.into();
        }
        if let Some(cost) = &check.cost {
            entry["cost"] = cost.as_str().into();
        }
        if let Some(fix) = &check.fix {
            entry["fix"] = fix.as_str().into();
        }
        all.insert(check.name.clone(), entry);
    }
    Value::Object(all)
}
