//! MCP for the agents in sandboxes: one request in, one answer out, through the gate of a session.
//!
//! Who asks is what the gate says, and nothing in the request. There are no MCP sessions here and nothing is pushed: an agent
//! that waits for another says so in its call.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;

use axum::body::Body;
use axum::response::IntoResponse as _;
use axum::response::Response;
use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt as _;
use http_body_util::Full;
use ob_core::Principal;
use ob_core::audit::Asker;
use rmcp::transport::streamable_http_server::StreamableHttpServerConfig;
use rmcp::transport::streamable_http_server::StreamableHttpService;
use rmcp::transport::streamable_http_server::session::never::NeverSessionManager;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Answers;
use super::BODY_MAX;
use super::Caller;
use super::accept_both;
use super::bare;
use super::wire::Envelope;
use super::wire::Problem;
use crate::edge::Site;
use crate::reply::RequestId;
use crate::serve::Authentication;
use crate::serve::ServerOptions;
use crate::throttle::Throttle;

/// The door of the agents. Cheap to clone; clones share it.
#[derive(Clone)]
pub struct Inside {
    site: Arc<Site>,
    library: StreamableHttpService<Answers, NeverSessionManager>,
}

// === impl Inside ===

impl Inside {
    /// A door to the same live system that the listeners lead to.
    pub fn new(options: &ServerOptions, shutdown: CancellationToken) -> Self {
        let site = Arc::new(Site {
            phase: options.phase.clone(),
            // Who asks is given with each request; nobody is looked up here.
            authentication: Authentication::Bearer,
            loopback_only: false,
            allowed_hosts: Vec::new(),
            metrics: Arc::clone(&options.metrics),
            observe: Arc::clone(&options.observe_request),
            shutdown: shutdown.clone(),
            operations: TaskTracker::new(),
            throttle: Arc::new(Throttle::new(options.rate_limit.clone())),
            limits: Arc::new(options.limits.clone()),
            last_ok: Arc::new(Mutex::new(BTreeMap::new())),
        });
        let mut config = StreamableHttpServerConfig::default().disable_allowed_hosts();
        config.legacy_session_mode = false;
        config.json_response = true;
        config.cancellation_token = shutdown;
        config.max_request_body_bytes = BODY_MAX;
        let handler = Answers::new(Arc::clone(&site));
        let library = StreamableHttpService::new(
            move || Ok(handler.clone()),
            Arc::new(NeverSessionManager::default()),
            config,
        );
        Self { site, library }
    }

    /// Answers one request of whoever the gate says that it is.
    pub async fn answer(&self, principal: Principal, request: Request<Bytes>) -> Response<Bytes> {
        let id = RequestId::made();
        let response = match self.pass(principal, request, &id).await {
            Ok(response) => response,
            Err(problem) => problem.response(&id),
        };
        let (parts, body) = response.into_parts();
        let body = match body.collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => {
                tracing::error!(%error, "an answer to an agent broke off");
                Bytes::new()
            }
        };
        Response::from_parts(parts, body)
    }

    async fn pass(
        &self,
        principal: Principal,
        request: Request<Bytes>,
        id: &RequestId,
    ) -> Result<Response, Problem> {
        let doors = self.site.doors().map_err(|refusal| Problem::Refused(refusal, None))?;
        let asker = Asker { principal, request: Some(id.0.clone()) };
        let caller = Caller { doors, asker, follows: None, request: id.clone() };
        let (mut parts, body) = request.into_parts();
        if !Envelope::of(&body)?.is_rpc {
            return Ok(bare::answer(&self.site, caller, &body).await);
        }
        accept_both(&mut parts.headers);
        parts.extensions.insert(caller);
        let response = self.library.handle(Request::from_parts(parts, Full::new(body))).await;
        Ok(response.map(Body::new).into_response())
    }
}
