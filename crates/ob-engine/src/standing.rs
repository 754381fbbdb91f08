//! Tells long requests at once when their token stops working, whichever process revoked it.
//!
//! While somebody waits, one task looks whether anything changed in the token database, and rings; whoever waits then
//! looks at its own token. Nobody waits, nothing runs.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::Weak;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use ob_core::Principal;
use ob_core::Refusal;
use ob_core::TokenId;
use tokio::sync::watch;

use crate::Engine;
use crate::operations::invalid_token;

/// How often changes are looked for that another process made: `oubliette token revoke`.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The longest wait for a token's expiry before the clock is read again, since clocks are set.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Rings when tokens may have changed.
#[derive(Default)]
pub(crate) struct Standing {
    bell: Mutex<Weak<watch::Sender<()>>>,
}

// === impl Standing ===

impl Standing {
    /// Tells that tokens may have changed.
    pub(crate) fn ring(&self) {
        let bell = self.bell.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        if let Some(bell) = bell {
            bell.send_replace(());
        }
    }

    /// The bell; and true for whoever has to ring it when another process changed something.
    fn bell(&self) -> (Arc<watch::Sender<()>>, bool) {
        let mut place = self.bell.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bell) = place.upgrade() {
            return (bell, false);
        }
        let bell = Arc::new(watch::Sender::new(()));
        *place = Arc::downgrade(&bell);
        (bell, true)
    }
}

// === impl Engine ===

impl Engine {
    /// Resolves when this principal may do nothing any more, because its token was revoked or has expired.
    pub fn lapsed(self: &Arc<Self>, principal: &Principal) -> BoxFuture<'static, Refusal> {
        let Principal::Token { id, .. } = principal else { return std::future::pending().boxed() };
        let (engine, id) = (Arc::clone(self), id.clone());
        async move { engine.token_lapsed(&id).await }.boxed()
    }

    async fn token_lapsed(self: &Arc<Self>, id: &TokenId) -> Refusal {
        let (bell, is_first) = self.standing.bell();
        if is_first {
            self.tracker.spawn(look_for_changes(Arc::clone(self), Arc::downgrade(&bell)));
        }
        // Before the token is looked at, so that no change is missed.
        let mut rung = bell.subscribe();
        loop {
            let expires_at = match self.shared.tokens.get(id.as_str()).await {
                Ok(Some(record)) if record.is_valid_at(self.shared.now()) => record.expires_at,
                Ok(_) => return invalid_token(),
                // What cannot be read now was valid when it could.
                Err(error) => {
                    tracing::warn!(%error, token = %id, "cannot look whether a token is still valid");
                    Some(self.shared.now().saturating_add(WAIT_MAX))
                }
            };
            let left = expires_at.map(|at| at.since(self.shared.now()).min(WAIT_MAX));
            tokio::select! {
                // It cannot close: we hold the bell.
                _ = rung.changed() => {}
                () = tokio::time::sleep(left.unwrap_or_default()), if left.is_some() => {}
            }
        }
    }
}

/// Rings when another process changed something, until nobody listens or the server stops.
async fn look_for_changes(engine: Arc<Engine>, bell: Weak<watch::Sender<()>>) {
    let mut stop = engine.stop.subscribe();
    let mut known = None;
    loop {
        let Some(listened) = bell.upgrade() else { return };
        match engine.shared.tokens.revision() {
            Ok(revision) if known != Some(revision) => {
                known = Some(revision);
                listened.send_replace(());
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "cannot look whether tokens changed"),
        }
        drop(listened);
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            _ = stop.wait_for(Option::is_some) => return,
        }
    }
}
