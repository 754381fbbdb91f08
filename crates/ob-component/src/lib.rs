//! Components: an implementation behind a `(domain, key)`, asked for by permit and never held from wiring.

use std::sync::Arc;

use ob_core::Refusal;
use ob_core::Timestamp;

/// What kind of thing a component is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Domain {
    /// Something outside: a sandbox backend, a model provider.
    Adapter,
    /// Something that runs.
    Service,
    /// Something that runs now and then.
    Task,
    /// Something that reacts.
    Event,
    /// Several steps.
    Workflow,
    /// One step.
    Action,
}

/// Why a component takes no more work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Who said so.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// Until when; for ever if unset.
    pub expires_at: Option<Timestamp>,
}

/// The components of a server. Cheap to clone.
#[derive(Clone, Default)]
pub struct Registry {
    _shared: Arc<()>,
}

/// Leave to use a component; it is counted until dropped, so a drain knows when the last user has gone.
pub struct Permit<T: ?Sized> {
    component: Arc<T>,
}

// === impl Registry ===

impl Registry {
    /// Makes `component` the implementation called `provider` of `(domain, key)`. `T` is a trait object.
    pub fn register<T: ?Sized + Send + Sync + 'static>(
        &self,
        _domain: Domain,
        _key: &str,
        _provider: &str,
        _component: Arc<T>,
    ) {
        todo!()
    }

    /// Leave to use the component, unless it is missing, paused or draining.
    pub fn permit<T: ?Sized + Send + Sync + 'static>(
        &self,
        _domain: Domain,
        _key: &str,
        _now: Timestamp,
    ) -> Result<Permit<T>, Refusal> {
        todo!()
    }

    /// Refuses new permits; those that are out stay good.
    pub fn pause(&self, _domain: Domain, _key: &str, _hold: Hold) -> Result<(), Refusal> {
        todo!()
    }

    /// Gives permits again.
    pub fn resume(&self, _domain: Domain, _key: &str) -> Result<(), Refusal> {
        todo!()
    }

    /// Refuses new permits and waits until those that are out have come back.
    pub async fn drain(&self, _domain: Domain, _key: &str, _hold: Hold) -> Result<(), Refusal> {
        todo!()
    }
}

impl<T: ?Sized> std::ops::Deref for Permit<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.component
    }
}
