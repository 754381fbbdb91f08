//! Which sessions an MCP session follows, and from where: what its stream of notifications is made of.

use std::collections::BTreeMap;
use std::str::FromStr;

use ob_core::SessionId;
use tokio::sync::watch;

/// Sessions that one MCP session follows at a time; the one that was added first makes room.
const FOLLOWS_MAX: usize = 64;

/// A followed session's number in its MCP session: small, so that a cursor over all of them is short.
pub(super) type Slot = u32;

/// What an MCP session follows.
#[derive(Debug)]
pub(super) struct Follows {
    list: watch::Sender<Vec<Follow>>,
    /// Counts streams: the newest has the notifications, those before it end.
    streams: watch::Sender<u64>,
}

/// One followed session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Follow {
    pub(super) slot: Slot,
    pub(super) session: SessionId,
    /// The number of the last event that its client has, from elsewhere; -1 if none.
    pub(super) cursor: i64,
}

/// Where a stream stands in each session that it follows: its event ids, `S.N-S.N`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cursors(BTreeMap<Slot, i64>);

// === impl Follows ===

impl Default for Follows {
    fn default() -> Self {
        Self { list: watch::Sender::new(Vec::new()), streams: watch::Sender::new(0) }
    }
}

impl Follows {
    /// Follows a session behind an event; one that is followed goes on behind the later of the two.
    pub(super) fn add(&self, session: &SessionId, cursor: i64) {
        self.list.send_if_modified(|list| {
            if let Some(known) = list.iter_mut().find(|follow| follow.session == *session) {
                known.cursor = known.cursor.max(cursor);
                return false;
            }
            if list.len() == FOLLOWS_MAX {
                list.remove(0);
            }
            let slot = list.last().map_or(0, |last| last.slot + 1);
            list.push(Follow { slot, session: session.clone(), cursor });
            true
        });
    }

    /// The list, as it changes.
    pub(super) fn watch(&self) -> watch::Receiver<Vec<Follow>> {
        self.list.subscribe()
    }

    /// Begins a stream: its number, and what tells that there is a newer one or that the MCP session is over.
    pub(super) fn begin_stream(&self) -> (u64, watch::Receiver<u64>) {
        self.streams.send_modify(|count| *count += 1);
        let newest = self.streams.subscribe();
        let number = *newest.borrow();
        (number, newest)
    }
}

// === impl Cursors ===

impl Cursors {
    /// Where it stands in a session.
    pub(super) fn get(&self, slot: Slot) -> Option<i64> {
        self.0.get(&slot).copied()
    }

    /// Notes that an event was sent.
    pub(super) fn set(&mut self, slot: Slot, cursor: i64) {
        self.0.insert(slot, cursor);
        // What is not followed any more is of no use.
        while self.0.len() > FOLLOWS_MAX {
            self.0.pop_first();
        }
    }
}

impl std::fmt::Display for Cursors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (position, (slot, cursor)) in self.0.iter().enumerate() {
            let dash = if position == 0 { "" } else { "-" };
            write!(f, "{dash}{slot}.{cursor}")?;
        }
        Ok(())
    }
}

impl FromStr for Cursors {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut cursors = Self::default();
        for part in text.split('-') {
            let (slot, cursor) = part.split_once('.').ok_or(())?;
            let cursor: u64 = cursor.parse().map_err(drop)?;
            cursors.set(slot.parse().map_err(drop)?, i64::try_from(cursor).map_err(drop)?);
        }
        Ok(cursors)
    }
}

#[cfg(test)]
mod tests {
    use ob_core::Timestamp;

    use super::*;

    fn session(number: u32) -> SessionId {
        SessionId::new(Timestamp::from_micros(1_795_000_000_000_000), number)
    }

    #[test]
    fn a_session_is_followed_once_and_behind_the_later_event() {
        let follows = Follows::default();
        follows.add(&session(1), 5);
        follows.add(&session(2), -1);
        follows.add(&session(1), 3);
        follows.add(&session(2), 7);
        let list = follows.watch().borrow().clone();
        assert_eq!(
            list,
            [
                Follow { slot: 0, session: session(1), cursor: 5 },
                Follow { slot: 1, session: session(2), cursor: 7 },
            ]
        );
    }

    #[test]
    fn the_first_makes_room_and_its_slot_is_not_given_again() {
        let follows = Follows::default();
        for number in 0..=u32::try_from(FOLLOWS_MAX).expect("small") {
            follows.add(&session(number), -1);
        }
        let list = follows.watch().borrow().clone();
        assert_eq!(list.len(), FOLLOWS_MAX);
        assert_eq!((list[0].slot, list.last().map(|last| last.slot)), (1, Some(64)));
    }

    #[test]
    fn cursors_go_both_ways_and_nothing_else_parses() {
        let mut cursors = Cursors::default();
        cursors.set(3, 12);
        cursors.set(0, 4711);
        assert_eq!(cursors.to_string(), "0.4711-3.12");
        assert_eq!("0.4711-3.12".parse(), Ok(cursors));
        for wrong in ["", "1", "1.", ".1", "1.-1", "1.2-", "x.1", "1.99999999999999999999", "3/1"] {
            assert!(wrong.parse::<Cursors>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_newer_stream_is_told_to_the_older() {
        let follows = Follows::default();
        let (one, told) = follows.begin_stream();
        assert_eq!(*told.borrow(), one);
        let (two, _) = follows.begin_stream();
        assert!(two > one && *told.borrow() == two);
    }
}
