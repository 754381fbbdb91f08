//! What the edge needs of the live system, and where that stands while the listener is already open.

use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use ob_core::Check;
use ob_core::Principal;
use ob_core::Refusal;
use ob_core::audit::Asker;
use ob_core::operation::EventView;
use ob_core::operation::Operation;
use ob_core::operation::SessionEvents;
use ob_engine::Engine;
use ob_engine::NotReady;
use serde_json::Value;

/// What the edge needs of the live system.
#[async_trait]
pub trait Doors: Send + Sync + 'static {
    /// Does an operation for a principal: authorises, checks the parameters, performs.
    async fn call(&self, asker: &Asker, operation: Operation, params: Value) -> Result<Value, Refusal>;

    /// A session's events from a cursor on, as they become durable; ends when the session is over.
    async fn follow(
        &self,
        asker: &Asker,
        params: SessionEvents,
    ) -> Result<BoxStream<'static, Result<EventView, Refusal>>, Refusal>;

    /// Whose secret this is.
    async fn authenticate(&self, secret: &str) -> Result<Principal, Refusal>;

    /// Told of each request without a valid token: its id, and where it came from.
    async fn login_failed(&self, request: &str, address: Option<IpAddr>);

    /// Resolves when this principal may do nothing any more, because its token was revoked or has expired; never for the
    /// operator.
    fn lapsed(&self, principal: &Principal) -> BoxFuture<'static, Refusal>;

    /// Ready, or why not: all that is required works.
    async fn ready(&self) -> Result<(), NotReady>;

    /// Checks for `/health`.
    async fn checks(&self) -> Vec<Check>;
}

/// The live system, shared by all requests.
pub type SharedDoors = Arc<dyn Doors>;

/// Where the server stands. The listener opens before the engine exists.
#[derive(Clone)]
pub enum Phase {
    /// The engine is being made; the API refuses, probes answer.
    Starting {
        /// What it is doing: `migrating the store`, `recovering sessions`.
        reason: String,
    },
    /// The engine answers.
    Serving(SharedDoors),
    /// The server stops; the API refuses.
    Draining,
}

// === impl Phase ===

impl std::fmt::Debug for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Starting { reason } => f.debug_struct("Starting").field("reason", reason).finish(),
            Self::Serving(_) => f.write_str("Serving"),
            Self::Draining => f.write_str("Draining"),
        }
    }
}

#[async_trait]
impl Doors for Arc<Engine> {
    async fn call(&self, asker: &Asker, operation: Operation, params: Value) -> Result<Value, Refusal> {
        Engine::call(self, asker, operation, params).await
    }

    async fn follow(
        &self,
        asker: &Asker,
        params: SessionEvents,
    ) -> Result<BoxStream<'static, Result<EventView, Refusal>>, Refusal> {
        Engine::follow(self, asker, params).await
    }

    async fn authenticate(&self, secret: &str) -> Result<Principal, Refusal> {
        Engine::authenticate(self, secret).await
    }

    async fn login_failed(&self, request: &str, address: Option<IpAddr>) {
        Engine::login_failed(self, Some(request.to_owned()), address).await;
    }

    fn lapsed(&self, principal: &Principal) -> BoxFuture<'static, Refusal> {
        Engine::lapsed(self, principal)
    }

    async fn ready(&self) -> Result<(), NotReady> {
        Engine::readiness(self).await
    }

    async fn checks(&self) -> Vec<Check> {
        Engine::checks(self).await
    }
}
