//! Settings that a running server takes anew.

use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::RwLock;

use async_trait::async_trait;
use ob_config::Settings;
use ob_core::Refusal;
use ob_core::operation::ServerReloaded;

use crate::Engine;

/// A value that is read often and replaced as a whole. Whoever reads keeps what was read.
#[derive(Debug)]
pub(crate) struct Live<T>(RwLock<Arc<T>>);

/// Where a server's settings come from. Asked by `server reload`.
#[async_trait]
pub trait Configuration: Send + Sync + 'static {
    /// Reads it anew and gives the engine what changed; or only tells what would change. Refuses if it has mistakes, and
    /// then everything stays as it was.
    async fn reload(&self, engine: &Engine, dry_run: bool) -> Result<ServerReloaded, Refusal>;
}

// === impl Live ===

impl<T> Live<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(RwLock::new(Arc::new(value)))
    }

    /// The value as it is now.
    pub(crate) fn get(&self) -> Arc<T> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn set(&self, value: T) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
    }
}

// === impl Engine ===

impl Engine {
    /// Says where the settings come from. Only the first one counts.
    pub fn set_configuration(&self, configuration: Arc<dyn Configuration>) {
        if self.configuration.set(configuration).is_err() {
            tracing::error!("the engine has a configuration already");
        }
    }

    /// Takes these settings from now on: models and keys at the next call, limits for the next tree, sandboxes for the
    /// next one. What is live goes on as it was made.
    pub fn apply(&self, settings: &Settings) {
        self.shared.sandbox.set(settings.sandbox.clone());
        self.shared.limits.set(settings.limits);
        self.shared.catalogue.apply(settings.models.clone());
        if *self.shared.cleanup.get() != settings.cleanup {
            self.shared.cleanup.set(settings.cleanup.clone());
            self.cleaning.changed();
        }
        self.shared.agents.apply(settings.agents.clone());
    }

    pub(crate) async fn reload(&self, dry_run: bool) -> Result<ServerReloaded, Refusal> {
        let configuration = self.configuration.get().ok_or_else(|| {
            Refusal::unavailable("this server cannot read its configuration anew").fix("start it anew")
        })?;
        configuration.reload(self, dry_run).await
    }
}
