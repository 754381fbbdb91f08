//! The sessions that are driven, each by one actor.
//!
//! A session is driven from its spawn, its recovery or the first operation that needs it, until it is over, asleep or
//! another server's. An actor that falls asleep leaves only while nobody is about to tell it anything, so no command is
//! lost between one actor of a session and the next, and no session ever has two.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::Weak;

use ob_core::Refusal;
use ob_core::SessionId;
use tokio::sync::mpsc;

use crate::actor;
use crate::actor::Command;
use crate::shared::Shared;

/// Operations that wait for one session. More than a few at once is a mistake of the caller, which then waits.
const COMMANDS: usize = 16;
/// A table with room for this many is small enough to stay as it is.
const SHRINK_FROM: usize = 64;

/// Who drives what.
#[derive(Default)]
pub(crate) struct Actors {
    driven: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    /// By the short form of the id. It names the sandbox, so no two sessions with the same one are driven at once.
    by_suffix: HashMap<String, Driven>,
    /// No session is driven any more.
    closed: bool,
}

struct Driven {
    session: SessionId,
    commands: mpsc::Sender<Command>,
}

/// What became of asking for a session's place.
pub(crate) enum Entered {
    /// An actor is there already.
    Driven(mpsc::Sender<Command>),
    /// The place is the caller's, who must fill it.
    Vacant(Place),
    /// Another session of the same short name is driven.
    Taken(SessionId),
    /// The server lets go of its sessions.
    Closed,
}

/// The place of one actor, for as long as it is there.
pub(crate) struct Place {
    actors: Weak<Actors>,
    session: SessionId,
    commands: mpsc::WeakSender<Command>,
    /// What the actor is told; ends when there is no engine any more.
    pub(crate) inbox: mpsc::Receiver<Command>,
}

// === impl Actors ===

impl Actors {
    /// The actor of a session, or the place for one.
    pub(crate) fn enter(self: &Arc<Self>, session: &SessionId) -> Entered {
        let mut table = self.table();
        if let Some(driven) = table.by_suffix.get(session.suffix()) {
            return if driven.session == *session {
                Entered::Driven(driven.commands.clone())
            } else {
                Entered::Taken(driven.session.clone())
            };
        }
        if table.closed {
            return Entered::Closed;
        }
        let (commands, inbox) = mpsc::channel(COMMANDS);
        let weak = commands.downgrade();
        table.by_suffix.insert(session.suffix().to_owned(), Driven { session: session.clone(), commands });
        Entered::Vacant(Place {
            actors: Arc::downgrade(self),
            session: session.clone(),
            commands: weak,
            inbox,
        })
    }

    /// The actor of a session that is not over; if there is none, one takes the session over.
    pub(crate) fn actor(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        session: &SessionId,
    ) -> Result<mpsc::Sender<Command>, Refusal> {
        let gone = || Refusal::unavailable("the server is stopping").fix("try again when it is back");
        match self.enter(session) {
            Entered::Driven(commands) => Ok(commands),
            Entered::Vacant(place) => {
                let commands = place.commands().ok_or_else(gone)?;
                shared.tracker.spawn(actor::take_over(Arc::clone(shared), place, None));
                Ok(commands)
            }
            Entered::Taken(other) => Err(Refusal::conflict(format!(
                "session `{other}`, which has the same short name, has its sandbox now"
            ))
            .fix("end the other session, or try again when it sleeps")),
            Entered::Closed => Err(gone()),
        }
    }

    /// True if a session with this short name is driven.
    pub(crate) fn is_driven(&self, suffix: &str) -> bool {
        self.table().by_suffix.contains_key(suffix)
    }

    /// How many sessions are driven.
    pub(crate) fn count(&self) -> usize {
        self.table().by_suffix.len()
    }

    /// From now on nobody enters; those who are there.
    pub(crate) fn close(&self) -> Vec<mpsc::Sender<Command>> {
        let mut table = self.table();
        table.closed = true;
        table.by_suffix.values().map(|driven| driven.commands.clone()).collect()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.driven.lock().expect("no one panics with it")
    }
}

// === impl Table ===

impl Table {
    fn remove(&mut self, session: &SessionId) {
        self.by_suffix.remove(session.suffix());
        // After many sessions at once, the table is not kept at the size that it had.
        if self.by_suffix.capacity() > SHRINK_FROM && self.by_suffix.len() < self.by_suffix.capacity() / 4 {
            self.by_suffix.shrink_to_fit();
        }
    }
}

// === impl Place ===

impl Place {
    /// The session whose place it is.
    pub(crate) fn session(&self) -> &SessionId {
        &self.session
    }

    /// All places; none if there is no engine any more.
    pub(crate) fn actors(&self) -> Option<Arc<Actors>> {
        self.actors.upgrade()
    }

    /// Where to tell the actor something. `None` if there is no engine any more.
    pub(crate) fn commands(&self) -> Option<mpsc::Sender<Command>> {
        self.commands.upgrade()
    }

    /// Gives the place up, unless somebody has told something that was not taken yet, or is about to.
    pub(crate) fn leave(&mut self) -> bool {
        let Some(actors) = self.actors.upgrade() else { return true };
        let mut table = actors.table();
        // Commands are sent by clones of the table's own handle, which are made under this lock.
        let is_alone = self.inbox.is_empty() && self.inbox.sender_strong_count() == 1;
        if is_alone {
            table.remove(&self.session);
        }
        is_alone
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Also after a panic. The place may be a later actor's already.
        self.inbox.close();
        let Some(actors) = self.actors.upgrade() else { return };
        let mut table = actors.table();
        let is_mine = table.by_suffix.get(self.session.suffix()).is_some_and(|driven| {
            self.commands.upgrade().is_some_and(|mine| mine.same_channel(&driven.commands))
        });
        if is_mine {
            table.remove(&self.session);
        }
    }
}
