//! Families: the sessions of one tree, who is below whom, and what a session that ends does to those below it.
//!
//! A session that is ending starts no children: the store refuses them in the same transaction that would record them. So
//! whoever looks for its children after that finds them all, and ends each; each ends its own. What a crash leaves half
//! done, the next start does.

use std::sync::Arc;
use std::time::Duration;

use ob_core::SessionId;
use ob_core::TreeId;
use ob_core::record::SessionRecord;
use ob_store::SessionFilter;
use ob_store::SharedStore;
use ob_store::StoreError;
use tokio::sync::oneshot;

use crate::actor::Command;
use crate::actors::Actors;
use crate::shared::Shared;

/// A store that cannot be read is tried again after this.
const AGAIN: Duration = Duration::from_millis(500);

/// The sessions of a tree, newest first.
pub(crate) struct Family(Vec<SessionRecord>);

// === impl Family ===

impl Family {
    /// Everybody who is or was in a tree: as many as its limits let in.
    pub(crate) async fn of(store: &SharedStore, tree: &TreeId) -> Result<Self, StoreError> {
        let filter =
            SessionFilter { tree: Some(tree.clone()), limit: usize::MAX, ..SessionFilter::default() };
        Ok(Self(store.sessions(filter).await?))
    }

    /// How many there ever were.
    pub(crate) fn agents(&self) -> usize {
        self.0.len()
    }

    /// How many are not over.
    pub(crate) fn live(&self) -> usize {
        self.0.iter().filter(|session| !session.core.state.is_over()).count()
    }

    /// How far below the root a session is.
    pub(crate) fn depth(&self, session: &SessionId) -> usize {
        self.above(session).count()
    }

    /// Those that a session started, and those that they started, newest first.
    pub(crate) fn below<'a>(&'a self, session: &'a SessionId) -> impl Iterator<Item = &'a SessionRecord> {
        self.0.iter().filter(move |other| self.above(&other.id).any(|above| above == session))
    }

    /// A session's parent, that one's parent, and so on.
    fn above<'a>(&'a self, session: &'a SessionId) -> impl Iterator<Item = &'a SessionId> {
        let parent = |id: &SessionId| self.0.iter().find(|s| s.id == *id).and_then(|s| s.parent.as_ref());
        std::iter::successors(parent(session), move |id| parent(id))
    }
}

/// Ends the children of a session that has ended, or is about to.
pub(crate) async fn end_children(shared: Arc<Shared>, actors: Arc<Actors>, parent: SessionRecord) {
    let family = loop {
        match Family::of(&shared.store, &parent.tree).await {
            Ok(family) => break family,
            // The next start does it.
            Err(StoreError::Closed) => return,
            Err(error) => {
                tracing::error!(session = %parent.id, %error, "cannot look for the children of a session that ends; trying again");
                tokio::time::sleep(AGAIN).await;
            }
        }
    };
    let children = family.0.iter().filter(|session| session.parent.as_ref() == Some(&parent.id));
    for child in children.filter(|child| !child.core.state.takes_no_children()) {
        end_child(&shared, &actors, child, &parent.id).await;
    }
}

/// Ends one session, since its parent has ended.
pub(crate) async fn end_child(
    shared: &Arc<Shared>,
    actors: &Arc<Actors>,
    child: &SessionRecord,
    parent: &SessionId,
) {
    let (reply, ended) = oneshot::channel();
    let reason = format!("its parent `{parent}` ended");
    let outcome = match actors.actor(shared, &child.id) {
        // One that goes away meanwhile is over, or the next server's, which does it.
        Ok(actor) => match actor.send(Command::End { reason, reply }).await {
            Ok(()) => ended.await.unwrap_or(Ok(())),
            Err(_) => Ok(()),
        },
        Err(refusal) => Err(refusal),
    };
    if let Err(refusal) = outcome {
        tracing::warn!(session = %child.id, %parent, %refusal, "a child of a session that ended is not ended yet");
    }
}
