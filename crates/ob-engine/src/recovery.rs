//! What an earlier server left: calls that it did not book, and sessions that were live.

use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream;
use ob_core::EventBody;
use ob_core::EventKind;
use ob_core::Refusal;
use ob_core::event::Usage;
use ob_core::record::SessionRecord;
use ob_core::session::SessionStatus;
use ob_store::Commit;
use ob_store::OpenCharge;
use ob_store::SessionFilter;
use ob_store::StoreError;
use ob_store::Write;

use crate::Engine;
use crate::Shared;
use crate::actor::Begin;

/// Sessions that are taken over at once, so that their claims share transactions.
const RECOVERIES: usize = 64;

// === impl Engine ===

impl Engine {
    /// Calls to a model that a crash cut off: the provider may have answered, so what was reserved counts as spent. What
    /// cannot be booked now stays reserved until the next start.
    pub(super) async fn settle_orphans(&self) -> Result<(), Refusal> {
        for open in self.shared.store.open_charges().await.map_err(|error| error.refusal())? {
            match self.settle_orphan(&open).await {
                Ok(()) => {
                    tracing::warn!(session = %open.session, cost = %open.amount.cost, "a model call was cut off; its reservation counts as spent");
                }
                Err(error) => tracing::error!(session = %open.session, %error, "a model call was not booked"),
            }
        }
        Ok(())
    }

    pub(super) async fn settle_orphan(&self, open: &OpenCharge) -> Result<(), StoreError> {
        let Shared { store, epoch, .. } = &*self.shared;
        let settle = Write::Settle { charge: open.charge, used: open.amount };
        let Some(record) = store.session(&open.session).await? else {
            return store.commit(Commit { writes: vec![settle], fence: None }).await.map(drop);
        };
        // Ours from now on, so that an earlier server which still runs cannot book it as well.
        store.claim(&open.session, *epoch).await?;
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
        store.commit(Commit { writes: vec![settle, append], fence: Some(*epoch) }).await.map(drop)
    }

    pub(super) async fn recover(self: &Arc<Self>) -> Result<(), Refusal> {
        let mut before = None;
        loop {
            let filter = SessionFilter {
                projects: None,
                status: Some(SessionStatus::Active),
                before: before.clone(),
                limit: 500,
            };
            let page = self.shared.store.sessions(filter).await.map_err(|error| error.refusal())?;
            let Some(last) = page.last() else { return Ok(()) };
            before = Some(last.id.clone());
            let taken = stream::iter(page)
                .map(|record| async move { (record.id.clone(), self.take_over(record).await) })
                .buffer_unordered(RECOVERIES)
                .collect::<Vec<_>>()
                .await;
            for (session, taken) in taken {
                // One that cannot be taken over must not keep the others from being.
                if let Err(error) = taken {
                    tracing::error!(%session, %error, "a session was not taken over");
                }
            }
        }
    }

    pub(super) async fn take_over(self: &Arc<Self>, record: SessionRecord) -> Result<(), StoreError> {
        let store = &self.shared.store;
        store.claim(&record.id, self.shared.epoch).await?;
        // As its owner left it: until it was ours, it may have changed.
        let Some(record) = store.session(&record.id).await?.filter(|record| !record.core.state.is_over())
        else {
            return Ok(());
        };
        let turns = store.turns(&record.id).await?;
        tracing::info!(session = %record.id, state = record.core.state.as_str(), "session found");
        self.spawn_actor(record, turns, Begin::Recover);
        Ok(())
    }
}
