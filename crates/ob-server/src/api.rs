//! The routes under `/api/v1`, one for each operation of the table.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::FromRequestParts as _;
use axum::extract::Query;
use axum::extract::RawPathParams;
use axum::extract::Request;
use axum::response::Response;
use axum::routing::MethodRouter;
use axum::routing::delete;
use axum::routing::get;
use axum::routing::post;
use bytes::Bytes;
use http::HeaderMap;
use http::StatusCode;
use http::header;
use http::request::Parts;
use ob_core::Refusal;
use ob_core::audit::Asker;
use ob_core::operation::Access;
use ob_core::operation::Method;
use ob_core::operation::Operation;
use serde_json::Value;
use tracing::Instrument as _;

use crate::body;
use crate::body::Unread;
use crate::doors::SharedDoors;
use crate::edge::Site;
use crate::edge::id_of;
use crate::edge::peer_of;
use crate::params::Parameters;
use crate::reply;
use crate::reply::RequestId;
use crate::stream;
use crate::throttle::Denied;

/// The most bytes of a request's body.
const BODY_MAX: usize = 1024 * 1024;

/// A route for each operation.
pub(crate) fn routes(site: &Arc<Site>) -> Router<Arc<Site>> {
    Operation::ALL.iter().fold(Router::new(), |router, operation| {
        let spec = operation.spec();
        let site = Arc::clone(site);
        let parameters = Arc::new(Parameters::of(*operation));
        let handler = move |request: Request| handle(site, *operation, parameters, request);
        let methods: MethodRouter<Arc<Site>> = match spec.method {
            Method::Get => get(handler),
            Method::Post => post(handler),
            Method::Delete => delete(handler),
        };
        router.route(&format!("/api/v1{}", spec.path), methods)
    })
}

async fn handle(
    site: Arc<Site>,
    operation: Operation,
    parameters: Arc<Parameters>,
    request: Request,
) -> Response {
    let id = id_of(&request);
    match answer(&site, operation, &parameters, request, &id).await {
        Ok(response) => response,
        Err(Problem::Denied(denied)) => reply::denied(&denied, &id),
        Err(Problem::Http(status, refusal)) => reply::problem(status, &refusal, &id),
    }
}

/// Why there is no answer.
enum Problem {
    Denied(Denied),
    /// HTTP has a status of its own for it.
    Http(StatusCode, Refusal),
}

impl From<Denied> for Problem {
    fn from(denied: Denied) -> Self {
        Self::Denied(denied)
    }
}

impl From<Unread> for Problem {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::Late(time) => {
                let refusal =
                    Refusal::invalid(format!("the body did not arrive in {} s", time.as_secs_f64()));
                Self::Http(StatusCode::REQUEST_TIMEOUT, refusal.fix("send the body at once"))
            }
            Unread::TooLarge(max) => {
                let refusal = Refusal::invalid(format!("the body has more than {max} bytes"));
                Self::Http(StatusCode::PAYLOAD_TOO_LARGE, refusal.fix("send less; a task may have 256 KiB"))
            }
            Unread::Cut => Refusal::invalid("the body was cut off").fix("send it again").into(),
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self::Denied(refusal.into())
    }
}

async fn answer(
    site: &Site,
    operation: Operation,
    parameters: &Parameters,
    request: Request,
    id: &RequestId,
) -> Result<Response, Problem> {
    // Who asks comes before what is asked: a stranger learns nothing from malformed requests.
    let (doors, asker) = site.caller(peer_of(&request), request.headers(), id).await?;
    let (mut parts, body) = request.into_parts();
    let body = read(body, &parts.headers, operation, site.limits.body_time).await?;
    let params = merged(parameters, &mut parts, &body).await?;
    if operation == Operation::SessionEvents && wants_stream(&parts.headers) {
        return Ok(stream::events(site, doors, asker, params, &parts.headers).await?);
    }
    let value = perform(site, doors, asker, operation, params).await?;
    Ok(reply::ok(&value))
}

/// Does the operation. One that changes something runs to its end even if the caller goes away half way.
pub(crate) async fn perform(
    site: &Site,
    doors: SharedDoors,
    asker: Asker,
    operation: Operation,
    params: Value,
) -> Result<Value, Refusal> {
    if operation.spec().access == Access::Read {
        let lapsed = params.get("wait_ms").is_some().then(|| doors.lapsed(&asker.principal));
        let answer = doors.call(&asker, operation, params);
        return match lapsed {
            None => answer.await,
            // A token that is revoked while its request waits gets nothing any more.
            Some(lapsed) => tokio::select! {
                biased;
                refusal = lapsed => Err(refusal),
                answer = answer => answer,
            },
        };
    }
    let task = async move { doors.call(&asker, operation, params).await };
    match site.operations.spawn(task.in_current_span()).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            // Caught, logged and answered with the request id by the edge.
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Refusal::unavailable("the server is stopping").fix("wait for the next server")),
        },
    }
}

async fn merged(parameters: &Parameters, parts: &mut Parts, body: &[u8]) -> Result<Value, Refusal> {
    let path = RawPathParams::from_request_parts(parts, &())
        .await
        .map_err(|error| Refusal::invalid(format!("malformed path: {error}")))?;
    let path: Vec<(String, String)> = path.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    let Query(query) = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
        .map_err(|error| Refusal::invalid(format!("malformed query: {error}")))?;
    parameters.merge(&path, &query, body)
}

async fn read(
    body: axum::body::Body,
    headers: &HeaderMap,
    operation: Operation,
    time: Duration,
) -> Result<Bytes, Problem> {
    let bytes = body::read(body, BODY_MAX, time).await?;
    if bytes.is_empty() {
        return Ok(bytes);
    }
    if operation.spec().method != Method::Post {
        return Err(Refusal::invalid("this method takes no body")
            .fix("put parameters into the query")
            .into());
    }
    if headers.contains_key(header::CONTENT_ENCODING) {
        let refusal = Refusal::invalid("the body is compressed").fix("send it as it is");
        return Err(Problem::Http(StatusCode::UNSUPPORTED_MEDIA_TYPE, refusal));
    }
    let json = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"));
    if json {
        Ok(bytes)
    } else {
        let refusal = Refusal::invalid("the body is not marked as JSON");
        let refusal = refusal.fix("send `Content-Type: application/json`");
        Err(Problem::Http(StatusCode::UNSUPPORTED_MEDIA_TYPE, refusal))
    }
}

fn wants_stream(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|range| range.split(';').next())
        .any(|kind| kind.trim().eq_ignore_ascii_case("text/event-stream"))
}
