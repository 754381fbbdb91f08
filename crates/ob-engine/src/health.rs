//! What `/health`, `doctor` and `/metrics` tell of the engine.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use ob_core::ProjectId;
use ob_core::resource::is_isolated;
use ob_core::resource::marked_backend;
use ob_core::session::SessionStatus;
use ob_store::SessionFilter;
use ob_telemetry::Gauges;
use serde::Serialize;

use crate::Engine;

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

// === impl Engine ===

impl Engine {
    /// Checks for `/health`.
    pub async fn checks(&self) -> Vec<Check> {
        let store = match self.shared.store.check().await {
            Ok(()) => Check {
                name: "store",
                status: "ok",
                required: true,
                message: "events can be written".to_owned(),
                fix: None,
            },
            Err(error) => {
                let refusal = error.refusal();
                Check {
                    name: "store",
                    status: "down",
                    required: true,
                    message: refusal.message,
                    fix: refusal.fix,
                }
            }
        };
        let backend = match self.shared.backend() {
            Ok(backend) => match backend.check().await {
                Ok(()) => backend.holds(&self.shared.sandbox_limits()).map(|()| backend.name()),
                Err(refusal) => Err(refusal),
            },
            Err(refusal) => Err(refusal),
        };
        let sandbox = match backend {
            Ok(name) if !is_isolated(name) => Check {
                name: "sandbox",
                status: "degraded",
                required: false,
                message: format!("backend `{}`", marked_backend(name)),
                fix: Some("set `sandbox.backend` to `auto`, unless this is meant".to_owned()),
            },
            Ok(name) => Check {
                name: "sandbox",
                status: "ok",
                required: false,
                message: format!("backend `{name}` works on this machine"),
                fix: None,
            },
            Err(refusal) => Check {
                name: "sandbox",
                status: "degraded",
                required: false,
                message: refusal.message,
                fix: refusal.fix,
            },
        };
        let model = match self.shared.catalogue.resolve(None).await {
            Ok(model) => Check {
                name: "model",
                status: "ok",
                required: false,
                message: format!("sessions use {model}"),
                fix: None,
            },
            Err(refusal) => Check {
                name: "model",
                status: "not_configured",
                required: false,
                message: refusal.message,
                fix: refusal.fix,
            },
        };
        vec![store, sandbox, model]
    }

    /// Numbers for `/metrics`.
    pub async fn gauges(&self) -> Gauges {
        let sandboxes = self.shared.sandboxes.load(Ordering::Relaxed);
        let projects = self.shared.store.projects().await.map_or(0, |projects| projects.len() as u64);
        let mut by_project: HashMap<ProjectId, u64> = HashMap::new();
        let active =
            SessionFilter { status: Some(SessionStatus::Active), limit: 10_000, ..SessionFilter::default() };
        for record in self.shared.store.sessions(active).await.unwrap_or_default() {
            *by_project.entry(record.project).or_default() += 1;
        }
        let active_sessions = by_project.into_iter().map(|(id, count)| (id.to_string(), count)).collect();
        Gauges { active_sessions, sandboxes, projects }
    }
}
