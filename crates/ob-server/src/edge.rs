//! What every request passes before its route: an id, a span, a time-out, a net under panics, the Host and Origin
//! checks; and who asks.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use axum::extract::MatchedPath;
use axum::extract::Request;
use axum::extract::State;
use axum::middleware::Next;
use axum::response::Response;
use futures_util::FutureExt as _;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Method;
use http::StatusCode;
use http::Uri;
use http::header;
use ob_core::Principal;
use ob_core::Refusal;
use ob_core::RefusalCode;
use ob_core::Scope;
use ob_core::Timestamp;
use ob_core::audit::Asker;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::connection::Limits;
use crate::doors::Phase;
use crate::doors::SharedDoors;
use crate::reply;
use crate::reply::RequestId;
use crate::serve::Authentication;
use crate::serve::MetricsText;
use crate::serve::ObserveRequest;
use crate::throttle::Denied;
use crate::throttle::Origin;
use crate::throttle::Throttle;

/// How long a request may take to its response head. Above the longest wait for an event (60 s).
pub(crate) const REQUEST_MAX: Duration = Duration::from_secs(90);

/// The most bytes of a request's head: its target, and the names and values of its headers.
pub(crate) const HEAD_MAX: usize = 32 * 1024;

/// The most bytes of a request's target.
const TARGET_MAX: usize = 8 * 1024;

/// A secret has 68 bytes; what is longer than this is none, and is not looked up.
const SECRET_MAX: usize = 512;

/// Headers by which a proxy says that the peer is not the caller.
const FORWARDED: [&str; 5] = ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via"];

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// One listener's side of the server, shared by its requests.
pub(crate) struct Site {
    /// Where the server stands.
    pub(crate) phase: watch::Receiver<Phase>,
    /// How requests on this listener say who asks.
    pub(crate) authentication: Authentication,
    /// True if the listener is bound to a loopback address: then only loopback Hosts are served.
    pub(crate) loopback_only: bool,
    /// Further Hosts to serve there, lower case: names that a proxy on this machine passes on.
    pub(crate) allowed_hosts: Vec<String>,
    /// The metrics page.
    pub(crate) metrics: MetricsText,
    /// Told of each request that is not a probe.
    pub(crate) observe: ObserveRequest,
    /// Cancelled when the server stops: streams end.
    pub(crate) shutdown: CancellationToken,
    /// Operations that change something; they finish even if their caller goes away.
    pub(crate) operations: TaskTracker,
    /// How often each token, and each address without one, may ask.
    pub(crate) throttle: Arc<Throttle>,
    /// What a request may take.
    pub(crate) limits: Arc<Limits>,
    /// When each health check was last `ok`. A std lock: held for one look-up, never across an await.
    pub(crate) last_ok: Arc<Mutex<BTreeMap<String, Timestamp>>>,
}

/// The other end of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(
    /// Nothing on a unix socket.
    pub(crate) Option<SocketAddr>,
);

// === impl Site ===

impl Site {
    /// The live system, or why there is none now.
    pub(crate) fn doors(&self) -> Result<SharedDoors, Refusal> {
        match &*self.phase.borrow() {
            Phase::Serving(doors) => Ok(Arc::clone(doors)),
            Phase::Starting { reason } => {
                Err(Refusal::unavailable(format!("the server is starting: {reason}"))
                    .fix("try again in a moment; `GET /ready` tells when it is ready"))
            }
            Phase::Draining => Err(Refusal::unavailable("the server is stopping")
                .fix("wait for the next server, or start one with `oubliette --daemon`")),
        }
    }

    /// The live system and who asks, unless that one asks too often.
    pub(crate) async fn caller(
        &self,
        peer: Peer,
        headers: &HeaderMap,
        id: &RequestId,
    ) -> Result<(SharedDoors, Asker), Denied> {
        let doors = self.doors()?;
        let asker = |principal| Asker { principal, request: Some(id.0.clone()) };
        // Who may be the operator may be less, with a token.
        if self.authentication == Authentication::Operator && !headers.contains_key(header::AUTHORIZATION) {
            return Ok((doors, asker(Principal::Operator)));
        }
        let origin = peer.0.map(|peer| Origin::of(peer.ip()));
        if let Some(origin) = origin {
            self.throttle.admit(origin)?;
        }
        let found = match bearer(headers) {
            Ok(secret) => doors.authenticate(secret).await,
            Err(refusal) => Err(refusal),
        };
        if let (Err(refusal), Some(origin)) = (&found, origin)
            && refusal.code == RefusalCode::Unauthenticated
        {
            self.throttle.stranger(origin)?;
        }
        if let Err(refusal) = &found
            && refusal.code == RefusalCode::Unauthenticated
        {
            doors.login_failed(&id.0, peer.0.map(|peer| peer.ip().to_canonical())).await;
        }
        let principal = found?;
        if let Principal::Token { id, .. } = &principal {
            self.throttle.token(id)?;
        }
        Ok((doors, asker(principal)))
    }

    /// True if the request comes from this machine and nobody forwarded it, or from the control socket.
    pub(crate) fn is_local(&self, peer: Peer, uri: &Uri, headers: &HeaderMap) -> bool {
        if self.authentication == Authentication::Operator {
            return true;
        }
        peer.0.is_some_and(|peer| peer.ip().to_canonical().is_loopback())
            && host(uri, headers).is_some_and(|host| is_loopback_host(&host))
            && !FORWARDED.iter().any(|name| headers.contains_key(*name))
    }

    /// True if the request may read what is about the whole server.
    pub(crate) async fn may_see_everything(
        &self,
        peer: Peer,
        headers: &HeaderMap,
        id: &RequestId,
    ) -> Result<(), Denied> {
        match self.caller(peer, headers, id).await?.1.principal {
            Principal::Operator | Principal::Token { scope: Scope::Admin | Scope::AdminReadOnly, .. } => {
                Ok(())
            }
            Principal::Token { .. } | Principal::Session { .. } => {
                let why = "this shows every project and needs a wider token";
                Err(Refusal::new(RefusalCode::Forbidden, why)
                    .fix("ask with a token of the scope `admin:ro`")
                    .into())
            }
        }
    }

    /// Host and Origin: a page of another site must not reach a loopback listener by a name that it made point here.
    fn admit(&self, probe: bool, uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
        if self.authentication == Authentication::Operator {
            return Ok(());
        }
        let host = host(uri, headers);
        let host_is_ours = host.as_deref().is_some_and(|host| {
            is_loopback_host(host) || self.allowed_hosts.iter().any(|a| a.eq_ignore_ascii_case(host))
        });
        if self.loopback_only && !probe && !host_is_ours {
            return Err(Refusal::new(
                RefusalCode::Forbidden,
                "this listener serves requests to this machine only, and the Host header names another",
            )
            .fix("ask `localhost`, `127.0.0.1` or `[::1]`"));
        }
        let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
        let origin = origin.to_str().ok().and_then(|text| text.parse::<Uri>().ok());
        let own = |authority: &str| {
            headers.get(header::HOST).and_then(|h| h.to_str().ok()) == Some(authority) && !self.loopback_only
        };
        match origin.as_ref().and_then(Uri::authority) {
            Some(authority) if is_loopback_host(authority.host()) || own(authority.as_str()) => Ok(()),
            _ => Err(Refusal::new(
                RefusalCode::Forbidden,
                "requests from pages of other origins are not served",
            )
            .fix("call from a page of this machine, or without a browser")),
        }
    }
}

/// Everything that each request passes.
pub(crate) async fn pass(State(site): State<Arc<Site>>, mut request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    request.extensions_mut().insert(id.clone());
    let method = method_label(request.method());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or("unmatched", MatchedPath::as_str);
    let probe = matches!(route, "/health" | "/ready");
    let started = Instant::now();
    // Of the highest level, so that no filter lets a line through without it.
    let span = tracing::error_span!("request", id = %id.0, method, route);
    let mut response = async {
        if let Err((status, refusal)) = head_fits(request.uri(), request.headers()) {
            return reply::problem(status, &refusal, &id);
        }
        if let Err(refusal) = site.admit(probe, request.uri(), request.headers()) {
            return reply::refused(&refusal, &id);
        }
        let answer = AssertUnwindSafe(next.run(request)).catch_unwind();
        match tokio::time::timeout(REQUEST_MAX, answer).await {
            Ok(Ok(response)) => response,
            Ok(Err(panic)) => {
                tracing::error!(panic = panic_text(&*panic), "a request panicked");
                reply::refused(
                    &Refusal::internal("a fault of the server; the log has it under the request id")
                        .fix("report it with the log lines of this request id"),
                    &id,
                )
            }
            Err(_) => reply::refused(
                &Refusal::unavailable(format!("no answer within {} s", REQUEST_MAX.as_secs()))
                    .fix("look at `oubliette status` and try again"),
                &id,
            ),
        }
    }
    .instrument(span.clone())
    .await;
    if let Ok(value) = HeaderValue::from_str(&id.0) {
        response.headers_mut().insert(X_REQUEST_ID, value);
    }
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if !probe && route != "/metrics" {
        let (status, seconds) = (response.status().as_u16(), started.elapsed().as_secs_f64());
        span.in_scope(|| (site.observe)(method, route, status, seconds));
    }
    response
}

/// A path that no route has.
pub(crate) async fn no_route(request: Request) -> Response {
    let refusal = Refusal::new(RefusalCode::NotFound, "no such route")
        .fix("the API is under `/api/v1`; probes are `/health`, `/ready` and `/metrics`");
    reply::problem(StatusCode::NOT_FOUND, &refusal, &id_of(&request))
}

/// A route that has no such method.
pub(crate) async fn no_method(request: Request) -> Response {
    let refusal = Refusal::invalid(format!("this route has no {}", method_label(request.method())))
        .fix("GET reads, POST changes, DELETE removes");
    reply::problem(StatusCode::METHOD_NOT_ALLOWED, &refusal, &id_of(&request))
}

/// The other end of the request's connection.
pub(crate) fn peer_of(request: &Request) -> Peer {
    request.extensions().get().copied().unwrap_or(Peer(None))
}

/// The id that [`pass`] gave the request.
pub(crate) fn id_of(request: &Request) -> RequestId {
    request.extensions().get().cloned().unwrap_or_else(|| RequestId(String::new()))
}

/// Refuses a head that is larger than any that a client of this API has a reason to send.
fn head_fits(uri: &Uri, headers: &HeaderMap) -> Result<(), (StatusCode, Refusal)> {
    let target = uri.path().len() + uri.query().map_or(0, str::len);
    if target > TARGET_MAX {
        let refusal = Refusal::invalid(format!("the target has {target} bytes, and may have {TARGET_MAX}"));
        return Err((StatusCode::URI_TOO_LONG, refusal.fix("put less into the query")));
    }
    let head = target + headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum::<usize>();
    if head > HEAD_MAX {
        let refusal = Refusal::invalid(format!("the head has {head} bytes, and may have {HEAD_MAX}"));
        let refusal = refusal.fix("send fewer or smaller headers");
        return Err((StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, refusal));
    }
    Ok(())
}

fn request_id(headers: &HeaderMap) -> RequestId {
    let taken = headers.get(X_REQUEST_ID).and_then(|value| value.to_str().ok()).filter(|text| {
        (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    });
    taken.map_or_else(RequestId::made, |text| RequestId(text.to_owned()))
}

fn bearer(headers: &HeaderMap) -> Result<&str, Refusal> {
    let missing = || {
        Refusal::new(RefusalCode::Unauthenticated, "Authentication required (Bearer token)")
            .fix("make a token with `oubliette token create` and send `Authorization: Bearer oub_…`")
    };
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return Err(missing()) };
    let text = value.to_str().map_err(|_| missing())?;
    let (scheme, secret) = text.split_once(' ').ok_or_else(missing)?;
    let secret = secret.trim();
    if !scheme.eq_ignore_ascii_case("bearer") || secret.is_empty() {
        return Err(missing());
    }
    if secret.len() > SECRET_MAX {
        return Err(Refusal::new(RefusalCode::Unauthenticated, "Invalid or expired token")
            .fix("make a token with `oubliette token create`"));
    }
    Ok(secret)
}

/// The host that the request is for, lower case, without port. Both places must agree if both are there.
fn host(uri: &Uri, headers: &HeaderMap) -> Option<String> {
    let mut values = headers.get_all(header::HOST).iter();
    let (value, None) = (values.next(), values.next()) else { return None };
    let from_header = match value {
        Some(value) => {
            Some(value.to_str().ok()?.parse::<http::uri::Authority>().ok()?.host().to_ascii_lowercase())
        }
        None => None,
    };
    match (from_header, uri.host().map(str::to_ascii_lowercase)) {
        (Some(header), Some(uri)) => (header == uri).then_some(header),
        (one, other) => one.or(other),
    }
}

fn is_loopback_host(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// Methods are words of the client; only known ones become label values.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::PATCH => "PATCH",
        Method::OPTIONS => "OPTIONS",
        _ => "OTHER",
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_hosts_are_names_and_addresses_of_this_machine() {
        for ours in ["localhost", "LOCALHOST", "127.0.0.1", "127.9.9.9", "[::1]", "::1"] {
            assert!(is_loopback_host(ours), "{ours}");
        }
        for other in ["localhost.evil.example", "evil.example", "10.0.0.1", "[::2]", "0.0.0.0", ""] {
            assert!(!is_loopback_host(other), "{other}");
        }
    }

    #[test]
    fn a_request_id_is_taken_only_if_it_is_short_and_plain() {
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(X_REQUEST_ID, HeaderValue::from_str(text).expect("a header value"));
            request_id(&headers).0
        };
        assert_eq!(of("a-b.c_1"), "a-b.c_1");
        for bad in ["", "a b", "x;y", &"a".repeat(65)] {
            assert_ne!(of(bad), bad);
            assert_eq!(of(bad).len(), 32);
        }
    }

    #[test]
    fn two_hosts_that_disagree_are_no_host() {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("localhost:8080"));
        assert_eq!(host(&Uri::from_static("/x"), &headers).as_deref(), Some("localhost"));
        assert_eq!(host(&Uri::from_static("http://evil.example/x"), &headers), None);
        headers.append(header::HOST, HeaderValue::from_static("evil.example"));
        assert_eq!(host(&Uri::from_static("/x"), &headers), None);
    }
}
