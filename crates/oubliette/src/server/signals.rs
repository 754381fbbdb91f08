//! Signals as words. None kills by default.

use std::io;

use tokio::signal::unix::Signal;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// TERM, INT: drain and stop.
    Stop,
    /// HUP: reload.
    Reload,
    /// USR1: open the log anew, after a rotation.
    ReopenLog,
    /// USR2: write the status to the log.
    Dump,
}

/// The signals of a server.
#[derive(Debug)]
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    user1: Signal,
    user2: Signal,
}

// === impl Signals ===

impl Signals {
    /// From now on signals are told here and kill no longer.
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }

    /// The next one.
    pub(super) async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.hang_up.recv() => Asked::Reload,
            _ = self.user1.recv() => Asked::ReopenLog,
            _ = self.user2.recv() => Asked::Dump,
        }
    }

    /// The next one that says stop; the others find nothing to act on while the server starts.
    pub(super) async fn until_stop(&mut self) {
        while self.next().await != Asked::Stop {}
    }
}
