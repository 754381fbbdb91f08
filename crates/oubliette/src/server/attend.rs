//! What a server that is ready does until it stops, and how it stops.
//!
//! ```text
//! signals, files that change, the service manager's clock, `oubliette stop`, a successor -> attend -> End -> drain
//! ```

use std::io;
use std::sync::Arc;
use std::time::Duration;

use ob_engine::Engine;
use tokio::time::Instant;

use super::notify::Notifier;
use super::reload::Reloader;
use super::signals::Asked;
use super::signals::Signals;
use super::wire;

/// How long a server may take to park its turns and end its sandboxes before it goes anyway.
pub(crate) const DRAIN_MAX: Duration = Duration::from_secs(30);

/// A second signal within this time is the same one again (a terminal and a supervisor both send it).
const SAME_SIGNAL: Duration = Duration::from_secs(2);

/// What a server that is ready attends to.
pub(super) struct Attendance<'a> {
    pub(super) engine: &'a Arc<Engine>,
    pub(super) telemetry: &'a wire::Telemetry,
    pub(super) reloader: &'a Reloader,
    pub(super) notifier: Notifier,
    pub(super) addresses: &'a [String],
}

/// Why a server stops to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// By a signal or an operation.
    Asked {
        /// Sandboxes stay for the next server.
        keep: bool,
    },
    /// It has a successor already: it was stopped for long, and its lock was taken away.
    Superseded,
}

// === impl End ===

impl End {
    /// The same in words.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Asked { .. } => "a signal, or an operator",
            Self::Superseded => "a later server has taken the home over",
        }
    }

    /// True if the next server goes on with the sandboxes.
    pub(super) fn keeps_sandboxes(self) -> bool {
        matches!(self, Self::Asked { keep: true } | Self::Superseded)
    }
}

// === impl Attendance ===

impl Attendance<'_> {
    /// Does what signals ask for, until one of them, or an operation, says stop, or a later server is found to be
    /// there.
    pub(super) async fn attend(
        self,
        signals: &mut Signals,
        serving: &mut tokio::task::JoinHandle<io::Result<()>>,
    ) -> End {
        let mut stop_requested = std::pin::pin!(self.engine.stop_requested());
        let mut said_alive = Instant::now();
        loop {
            tokio::select! {
                keep = stop_requested.as_mut() => return End::Asked { keep },
                () = self.engine.superseded() => return End::Superseded,
                asked = signals.next() => {
                    if asked == Asked::Stop {
                        return End::Asked { keep: false };
                    }
                    self.obey(asked).await;
                }
                () = self.reloader.changed() => self.reload(self.reloader.reload_if_changed(self.engine)).await,
                () = self.notifier.pulse(said_alive) => {
                    said_alive = Instant::now();
                    self.notifier.say_alive(self.engine).await;
                }
                ended = &mut *serving => {
                    tracing::error!(?ended, "the listeners ended by themselves");
                    return End::Asked { keep: false };
                }
            }
        }
    }

    async fn obey(&self, asked: Asked) {
        match asked {
            // Whoever attends stops.
            Asked::Stop => {}
            Asked::Reload => self.reload(self.reloader.reload_now(self.engine)).await,
            Asked::ReopenLog => match self.telemetry.log.reopen() {
                Ok(()) => tracing::info!("log reopened"),
                Err(error) => tracing::error!(%error, "cannot reopen the log"),
            },
            Asked::Dump => {
                let checks = self.engine.checks().await;
                let gauges = self.engine.gauges().await;
                let held = self.engine.held();
                tracing::info!(ready = ?self.engine.ready(), ?gauges, ?held, ?checks, "status");
            }
        }
    }

    async fn reload(&self, reading: impl Future<Output = ()>) {
        self.notifier.reloading();
        reading.await;
        self.notifier.ready(self.addresses);
    }
}

/// Waits until all is `done`: turns parked, sandboxes ended or kept, everything flushed. Cut short by a second signal and
/// by [`DRAIN_MAX`].
pub(super) async fn drain(done: impl Future<Output = ()>, mut next: impl AsyncFnMut() -> Asked) {
    let since = Instant::now();
    let mut done = std::pin::pin!(done);
    let mut late = std::pin::pin!(tokio::time::sleep(DRAIN_MAX));
    loop {
        tokio::select! {
            () = done.as_mut() => return,
            () = late.as_mut() => {
                tracing::error!("draining took too long; what was acknowledged is kept, the rest is recovered at start");
                return;
            }
            asked = next() => {
                if asked == Asked::Stop && since.elapsed() >= SAME_SIGNAL {
                    tracing::warn!("told to hurry");
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::VecDeque;

    use super::*;

    /// How long a drain takes that ends by itself after `done`, with signals at these times.
    async fn drained(done: Duration, signals: &[(Duration, Asked)]) -> Duration {
        let began = Instant::now();
        let coming: RefCell<VecDeque<_>> = RefCell::new(signals.iter().copied().collect());
        let next = async || {
            let first = coming.borrow().front().copied();
            let Some((at, asked)) = first else { return std::future::pending().await };
            tokio::time::sleep_until(began + at).await;
            coming.borrow_mut().pop_front();
            asked
        };
        drain(tokio::time::sleep_until(began + done), next).await;
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_when_it_is_done_or_hurried_by_a_second_signal_or_too_long() {
        let at = Duration::from_secs;
        assert_eq!(drained(at(5), &[]).await, at(5));
        assert_eq!(drained(at(90), &[]).await, DRAIN_MAX);
        assert_eq!(drained(at(20), &[(at(1), Asked::Stop)]).await, at(20), "the same signal, sent twice");
        assert_eq!(
            drained(at(20), &[(at(1), Asked::Stop), (at(2), Asked::Stop)]).await,
            at(2),
            "a second one"
        );
        assert_eq!(drained(at(20), &[(at(3), Asked::Reload), (at(4), Asked::Dump)]).await, at(20));
    }
}
