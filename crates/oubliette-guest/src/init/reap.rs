//! Reaping: every child of the guest, asked for or orphaned, is waited for here and nowhere else.
//!
//! Processes are started and entered in the table in one step on the only thread, so a status can never come for a
//! process that is not in it yet. (`std` waits itself for a child whose program could not be started; that happens
//! within the same step.) Nothing uses `tokio::process`, which would compete for the statuses.

use std::io;

use ob_core::link::ExitStatus;
use rustix::process::WaitOptions;
use tokio::signal::unix::Signal;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;

use super::process::Processes;

/// Hears of ended children.
pub(super) struct Reaper {
    ended: Signal,
}

// === impl Reaper ===

impl Reaper {
    /// To be made before the first child is.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { ended: signal(SignalKind::child())? })
    }

    /// Reaps for ever.
    pub(super) async fn run(mut self, processes: &Processes) {
        while self.ended.recv().await.is_some() {
            // One notice may stand for many ends.
            while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
                let ended = ExitStatus { code: status.exit_status(), signal: status.terminating_signal() };
                if ended.code.is_some() || ended.signal.is_some() {
                    processes.reaped(pid, ended);
                }
            }
            processes.check_groups();
        }
    }
}
