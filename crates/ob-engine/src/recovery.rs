//! What an earlier server left: calls to models that it did not book, sessions that were live, sandboxes that nobody
//! owns, and files of deleted things.
//!
//! All of it is done behind an open door: operations are served meanwhile, and one that needs a session which is not
//! taken over yet takes it over itself.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ob_core::EventBody;
use ob_core::EventKind;
use ob_core::SessionId;
use ob_core::event::Usage;
use ob_core::record::SessionRecord;
use ob_core::session::SessionState;
use ob_core::session::SessionStatus;
use ob_crash::CrashPoint;
use ob_crash::reach;
use ob_store::Commit;
use ob_store::OpenCharge;
use ob_store::SessionFilter;
use ob_store::StoreError;
use ob_store::Write;
use tokio::sync::OwnedSemaphorePermit;

use crate::Engine;
use crate::actor;
use crate::actors::Entered;
use crate::family;
use crate::leftovers;
use crate::leftovers::Found;
use crate::shared::Shared;

/// Records in one read of the store.
const PAGE: usize = 500;
/// A store that cannot be read is tried again after this.
const AGAIN: Duration = Duration::from_millis(500);

// === impl Engine ===

impl Engine {
    /// Takes over what an earlier server left. `cut` are the calls that were open when we started, `found` what was in
    /// the folders of the home.
    pub(crate) async fn recover(&self, cut: Vec<OpenCharge>, found: Found) {
        for open in cut {
            let Ok(turn) = Arc::clone(&self.shared.takeovers).acquire_owned().await else { return };
            self.tracker.spawn(settle_orphan(Arc::clone(&self.shared), open, turn));
        }
        if let Some(sleepers) = self.recover_sessions().await {
            reach(CrashPoint::SessionsRecovered);
            self.reap(&found, &sleepers).await;
        }
        leftovers::remove(&self.shared, &self.claims, &found).await;
    }

    /// Takes over every session that is to be driven; those that sleep, by the short form of their ids. `None` if the
    /// server stopped meanwhile.
    async fn recover_sessions(&self) -> Option<HashMap<String, SessionId>> {
        let mut sleepers = HashMap::new();
        let mut before = None;
        loop {
            let filter = SessionFilter {
                status: Some(SessionStatus::Active),
                before: before.clone(),
                limit: PAGE,
                ..SessionFilter::default()
            };
            let page = match self.shared.store.sessions(filter).await {
                Ok(page) => page,
                Err(StoreError::Closed) => return None,
                // The one that we had got to was deleted: from the top, since who is driven is skipped.
                Err(StoreError::Missing { .. }) => {
                    before = None;
                    continue;
                }
                Err(error) => {
                    tracing::error!(%error, "cannot look for live sessions; trying again");
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
            };
            let Some(last) = page.last() else { return Some(sleepers) };
            before = Some(last.id.clone());
            for record in page {
                if !self.end_orphan(&record).await {
                    return None;
                }
                // One that sleeps and waits for an answer is driven, so that nobody waits for longer than was said.
                if record.core.state == SessionState::Asleep && !record.has_open_question() {
                    sleepers.insert(record.id.suffix().to_owned(), record.id.clone());
                    continue;
                }
                let turn = Arc::clone(&self.shared.takeovers).acquire_owned().await.ok()?;
                match self.actors.enter(&record.id) {
                    Entered::Vacant(place) => {
                        let shared = Arc::clone(&self.shared);
                        self.tracker.spawn(actor::take_over(shared, place, Some(turn)));
                    }
                    Entered::Driven(_) => {}
                    Entered::Taken(other) => {
                        tracing::error!(session = %record.id, %other, "two live sessions have one short name");
                    }
                    Entered::Closed => return None,
                }
            }
        }
    }

    /// Ends a session whose parent has ended, if a crash came before that. False if the server stopped meanwhile.
    async fn end_orphan(&self, record: &SessionRecord) -> bool {
        let Some(parent) = &record.parent else { return true };
        let found = loop {
            match self.shared.store.session(parent).await {
                Ok(found) => break found,
                Err(StoreError::Closed) => return false,
                Err(error) => {
                    tracing::error!(session = %record.id, %error, "cannot look for the parent of a session; trying again");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        };
        if found.is_none_or(|parent| parent.core.state.takes_no_children()) {
            let (shared, actors) = (Arc::clone(&self.shared), Arc::clone(&self.actors));
            let (record, parent) = (record.clone(), parent.clone());
            self.tracker.spawn(async move { family::end_child(&shared, &actors, &record, &parent).await });
        }
        true
    }

    /// Ends the sandboxes that nobody owns: of sessions that are over or unknown, and of those that sleep. Which there
    /// were when we started says the home's own folder of sandboxes; whom to end says each one's control socket.
    async fn reap(&self, found: &Found, sleepers: &HashMap<String, SessionId>) {
        for (suffix, runtime) in &found.sandboxes {
            if let Some(session) = sleepers.get(suffix) {
                // Its actor does it, so that a message which wakes it meanwhile does not lose its new sandbox.
                if let Err(refusal) = self.actor(session) {
                    tracing::warn!(%session, %refusal, "the sandbox of a session that sleeps stays");
                }
            } else if !self.actors.is_driven(suffix)
                && let Ok(backend) = self.shared.backend()
            {
                match backend.end(suffix, runtime, self.shared.epoch).await {
                    Ok(()) => tracing::warn!(sandbox = suffix, "ended a sandbox that nobody owned"),
                    Err(error) => {
                        tracing::error!(sandbox = suffix, %error, "cannot end a sandbox that nobody owns");
                    }
                }
            }
        }
    }
}

/// A call to a model that a crash cut off: the provider may have answered, so what was reserved counts as spent. What
/// cannot be booked now stays reserved until the next start.
async fn settle_orphan(shared: Arc<Shared>, open: OpenCharge, _turn: OwnedSemaphorePermit) {
    match try_settle(&shared, &open).await {
        Ok(()) => {
            tracing::warn!(session = %open.session, cost = %open.amount.cost, "a model call was cut off; its reservation counts as spent");
        }
        Err(error) => tracing::error!(session = %open.session, %error, "a model call was not booked"),
    }
}

async fn try_settle(shared: &Shared, open: &OpenCharge) -> Result<(), StoreError> {
    let Shared { store, epoch, .. } = shared;
    let settle = Write::Settle { charge: open.charge, used: open.amount };
    let Some(record) = store.session(&open.session).await? else {
        return store.commit(Commit { writes: vec![settle], fence: None }).await.map(drop);
    };
    // Ours from now on, so that an earlier server which still runs cannot book it as well.
    store.claim(&open.session, *epoch).await?;
    reach(CrashPoint::OrphanClaimed);
    let mut event = EventBody::new(EventKind::Usage)
        .data(serde_json::json!({ "charge": open.charge, "cut": true, "reserved": true }));
    event.turn = record.core.active;
    event.usage = Some(Usage {
        // Only the sum was reserved.
        input_tokens: open.amount.tokens,
        cost: open.amount.cost,
        model: record.model.model,
        estimated: true,
        ..Usage::default()
    });
    let append = Write::Append { session: open.session.clone(), events: vec![event] };
    store.commit(Commit { writes: vec![settle, append], fence: Some(*epoch) }).await?;
    reach(CrashPoint::OrphanSettled);
    Ok(())
}
