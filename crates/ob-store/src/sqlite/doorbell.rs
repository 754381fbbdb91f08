//! Doorbells: how far each session's log reaches. One watch channel per session that somebody listens to.
//!
//! The writer rings after the commit (invariant 1, `commit_before_announce`). A value only grows, so it does not
//! matter whether a listener's first look at the database or the writer's ring comes first.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use ob_core::SessionId;
use tokio::sync::watch;

use crate::Doorbell;

/// Channels without a listener are looked for when so many more are there than after the last time.
const SWEEP_SLACK: usize = 64;

/// The channels of the sessions that somebody listens to.
#[derive(Debug, Default)]
pub(crate) struct Doorbells {
    channels: Mutex<Channels>,
}

#[derive(Debug, Default)]
struct Channels {
    by_session: HashMap<SessionId, watch::Sender<u64>>,
    sweep_at: usize,
}

// === impl Doorbells ===

impl Doorbells {
    /// A receiver for a session. Its value is too low until [`Self::raise`] was called once.
    pub(crate) fn listen(&self, session: &SessionId) -> Doorbell {
        let mut channels = self.lock();
        if let Some(channel) = channels.by_session.get(session) {
            return channel.subscribe();
        }
        if channels.by_session.len() >= channels.sweep_at {
            channels.by_session.retain(|_, channel| channel.receiver_count() > 0);
            channels.sweep_at = 2 * channels.by_session.len() + SWEEP_SLACK;
        }
        let (channel, receiver) = watch::channel(0);
        channels.by_session.insert(session.clone(), channel);
        receiver
    }

    /// Tells that the log of `session` reaches `next`, which is durable.
    pub(crate) fn raise(&self, session: &SessionId, next: u64) {
        raise(&mut self.lock(), session, next);
    }

    /// [`Self::raise`] for many: of one session the last entry counts.
    pub(crate) fn raise_all(&self, reached: &[(SessionId, u64)]) {
        let mut channels = self.lock();
        if channels.by_session.is_empty() {
            return;
        }
        // From the end: the highest number of a session comes first, and its others wake nobody.
        for (session, next) in reached.iter().rev() {
            raise(&mut channels, session, *next);
        }
    }

    /// Closes the channels of sessions that are deleted; their listeners are told by the closing.
    pub(crate) fn close(&self, sessions: &[SessionId]) {
        let mut channels = self.lock();
        for session in sessions {
            channels.by_session.remove(session);
        }
    }

    /// Closes all channels.
    pub(crate) fn close_all(&self) {
        self.lock().by_session.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Channels> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn raise(channels: &mut Channels, session: &SessionId, next: u64) {
    let Some(channel) = channels.by_session.get(session) else { return };
    if channel.receiver_count() == 0 {
        channels.by_session.remove(session);
        return;
    }
    channel.send_if_modified(|value| {
        let higher = next > *value;
        *value = next.max(*value);
        higher
    });
}

#[cfg(test)]
mod tests {
    use ob_core::Timestamp;

    use super::*;

    fn session(n: u32) -> SessionId {
        SessionId::new(Timestamp::from_micros(0), n)
    }

    #[test]
    fn ten_thousand_sessions_come_and_go_and_leave_nothing_that_grows() {
        let bells = Doorbells::default();
        let kept = bells.listen(&session(u32::MAX));
        for n in 0..10_000 {
            let bell = bells.listen(&session(n));
            bells.raise(&session(n), 1);
            assert_eq!(*bell.borrow(), 1);
        }
        assert!(bells.lock().by_session.len() <= 2 + 2 * SWEEP_SLACK);
        bells.raise(&session(u32::MAX), 5);
        assert_eq!(*kept.borrow(), 5, "one that is listened to stays");
    }

    #[test]
    fn a_value_never_falls() {
        let bells = Doorbells::default();
        let mut bell = bells.listen(&session(1));
        bells.raise_all(&[(session(1), 3), (session(1), 4), (session(2), 9)]);
        bells.raise(&session(1), 2);
        assert_eq!(*bell.borrow_and_update(), 4);
        assert!(!bell.has_changed().expect("open"));
        bells.close(&[session(1)]);
        bell.has_changed().expect_err("closed");
    }
}
