//! The MCP server on `/mcp`: the operation table as tools, for clients of both wires.
//!
//! ```text
//! POST --> who asks --> bare call? --> one answer as JSON
//!               |            no
//!               +--> MCP session of this caller? --> rmcp --> Answers --> api::perform --> Doors::call
//! GET  --> who asks --> MCP session of this caller --> Push: events of the followed sessions, read from the log
//! ```
//!
//! Wires up to 2025-11-25 have MCP sessions; 2026-07-28 has none, and each of its requests stands for itself.
//!
//! **Architecture invariant:** who asks is told by each request and kept nowhere. An MCP session belongs to the token that
//! opened it and gives no right: another token's request with its id is answered as if there were no such session.
//!
//! **Architecture invariant:** tools, their actions and parameters come from the operation table, and everything they do
//! goes through [`crate::Doors`].
//!
//! Agents in sandboxes have a door of their own, [`Inside`]: the same handler, without MCP sessions and without a listener.

mod answers;
mod bare;
#[cfg(feature = "conformance")]
mod fixture;
mod follows;
mod inside;
mod outcome;
mod prompts;
#[cfg(feature = "fuzzing")]
pub(crate) mod properties;
mod push;
mod resources;
mod schema;
mod sessions;
mod tools;
mod wire;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::IntoResponse as _;
use axum::response::Response;
use axum::routing::any;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Method;
use http::header;
use ob_core::audit::Asker;
use rmcp::transport::streamable_http_server::StreamableHttpServerConfig;
use rmcp::transport::streamable_http_server::StreamableHttpService;

use crate::body;
use crate::doors::SharedDoors;
use crate::edge::Site;
use crate::edge::id_of;
use crate::edge::peer_of;
use crate::reply::RequestId;
use follows::Follows;
use sessions::Sessions;
use wire::Problem;

#[cfg(not(feature = "conformance"))]
use answers::Answers;
/// Ours with what the conformance suite wants to find besides; in no build that ships.
#[cfg(feature = "conformance")]
use fixture::Fixture as Answers;

pub use inside::Inside;
pub use tools::tools_of;

/// The header that names an MCP session.
const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");

/// The largest body of a request, in bytes; a task may have 256 KiB, and JSON may double that.
const BODY_MAX: usize = 1024 * 1024;

/// Who asks in one request, and through which MCP session. Handlers find it in the request's extensions.
#[derive(Clone)]
pub(crate) struct Caller {
    doors: SharedDoors,
    asker: Asker,
    /// What the request's MCP session follows; nothing on a wire without sessions.
    follows: Option<Arc<Follows>>,
    request: RequestId,
}

/// The MCP side of one listener.
struct Mcp {
    site: Arc<Site>,
    sessions: Arc<Sessions>,
    library: StreamableHttpService<Answers, Sessions>,
}

/// `/mcp` and `/mcp/`.
pub(crate) fn routes(site: &Arc<Site>) -> Router<Arc<Site>> {
    let mcp = Arc::new(Mcp::new(Arc::clone(site)));
    let handler = move |request: Request| {
        let mcp = Arc::clone(&mcp);
        async move { mcp.answer(request).await }
    };
    Router::new().route("/mcp", any(handler.clone())).route("/mcp/", any(handler))
}

// === impl Mcp ===

impl Mcp {
    fn new(site: Arc<Site>) -> Self {
        let sessions = Arc::new(Sessions::default());
        let mut config = StreamableHttpServerConfig::default().disable_allowed_hosts();
        // Host and Origin were judged by the edge, for every route alike.
        config.cancellation_token = site.shutdown.clone();
        config.json_response = true;
        config.max_request_body_bytes = BODY_MAX;
        let handler = Answers::new(Arc::clone(&site));
        let library = StreamableHttpService::new(move || Ok(handler.clone()), Arc::clone(&sessions), config);
        Self { site, sessions, library }
    }

    async fn answer(&self, request: Request) -> Response {
        let id = id_of(&request);
        self.pass(request, &id).await.unwrap_or_else(|problem| problem.response(&id))
    }

    async fn pass(&self, mut request: Request, id: &RequestId) -> Result<Response, Problem> {
        // Who asks comes before what is asked.
        let (doors, asker) = self.site.caller(peer_of(&request), request.headers(), id).await?;
        let follows = match request.headers().get(SESSION) {
            None => None,
            Some(session) => Some(self.sessions.of(session, &asker.principal).ok_or(Problem::NoSession)?),
        };
        let caller = Caller { doors, asker, follows, request: id.clone() };
        match *request.method() {
            Method::POST => self.post(request, caller).await,
            Method::GET if !is_of_the_library(request.headers()) => {
                push::stream(&self.site, &self.sessions, caller, request.headers()).await
            }
            _ => {
                request.extensions_mut().insert(caller);
                Ok(self.library.handle(request).await.map(Body::new))
            }
        }
    }

    async fn post(&self, request: Request, caller: Caller) -> Result<Response, Problem> {
        let (mut parts, body) = request.into_parts();
        let body = body::read(body, BODY_MAX, self.site.limits.body_time).await?;
        let envelope = wire::Envelope::of(&body)?;
        if !envelope.is_rpc {
            return Ok(bare::answer(&self.site, caller, &body).await);
        }
        let principal = caller.asker.principal.clone();
        let opens = envelope.opens_session && caller.follows.is_none();
        if opens {
            self.sessions.admit(&principal)?;
        }
        accept_both(&mut parts.headers);
        parts.extensions.insert(caller);
        let response = self.library.handle(Request::from_parts(parts, Body::from(body))).await;
        if opens && let Some(session) = response.headers().get(SESSION) {
            self.sessions.bind(session, &principal);
        }
        Ok(response.map(Body::new).into_response())
    }
}

/// True if a GET resumes the answer to one request: the library has that. Ids of its streams are `N/M`, ours are not.
fn is_of_the_library(headers: &HeaderMap) -> bool {
    headers.get("last-event-id").and_then(|id| id.to_str().ok()).is_some_and(|id| id.contains('/'))
}

/// A client that takes anything, or does not say, takes what the library wants to hear.
fn accept_both(headers: &mut HeaderMap) {
    let anything = headers.get_all(header::ACCEPT).iter().all(|value| {
        value.to_str().is_ok_and(|text| text.split(',').any(|range| range.trim().starts_with("*/*")))
    });
    if anything {
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
    }
}
