//! The live system: session actors, recovery, operations. Speaks no HTTP.

use std::sync::Arc;

use futures_util::stream::BoxStream;
use ob_core::Principal;
use ob_core::Refusal;
use ob_core::operation::EventView;
use ob_core::operation::Operation;
use ob_core::operation::SessionEvents;
use serde::Serialize;
use serde_json::Value;

/// The live system. Shared by all doors.
pub struct Engine {
    _private: (),
}

/// One thing that `/health` and `doctor` tell.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    /// Its name.
    pub name: &'static str,
    /// `ok`, `degraded`, `down` or `not_configured`.
    pub status: &'static str,
    /// True if the server is not ready without it.
    pub required: bool,
    /// What is so.
    pub message: String,
    /// What mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

/// Numbers for the metrics page, read when it is asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gauges {
    /// Sessions that are not over, by project.
    pub active_sessions: Vec<(String, u64)>,
    /// Sandboxes that run.
    pub sandboxes: u64,
    /// Projects.
    pub projects: u64,
}

// === impl Engine ===

impl Engine {
    /// Does an operation for a principal: authorises, checks the parameters, performs. Every door calls this.
    pub async fn call(
        self: &Arc<Self>,
        _principal: &Principal,
        _operation: Operation,
        _params: Value,
    ) -> Result<Value, Refusal> {
        todo!()
    }

    /// A session's events from a cursor on, as they become durable. Ends when the session is over and everything was
    /// delivered, or the server stops.
    pub async fn follow(
        self: &Arc<Self>,
        _principal: &Principal,
        _params: SessionEvents,
    ) -> Result<BoxStream<'static, Result<EventView, Refusal>>, Refusal> {
        todo!()
    }

    /// Whose secret this is.
    pub async fn authenticate(&self, _secret: &str) -> Result<Principal, Refusal> {
        todo!()
    }

    /// Ready, or why not.
    pub fn ready(&self) -> Result<(), String> {
        todo!()
    }

    /// Checks for `/health`.
    pub async fn checks(&self) -> Vec<Check> {
        todo!()
    }

    /// Numbers for `/metrics`.
    pub async fn gauges(&self) -> Gauges {
        todo!()
    }

    /// Resolves when an operation asked the server to stop; true if sandboxes shall stay.
    pub async fn stop_requested(&self) -> bool {
        todo!()
    }

    /// Takes no more work, ends (or keeps) sandboxes, flushes and closes the store.
    pub async fn shutdown(&self, _keep_sandboxes: bool) {
        todo!()
    }
}
