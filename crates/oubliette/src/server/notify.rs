//! What a service manager is told: starting, ready, reloading, stopping, alive; see `sd_notify(3)`.
//!
//! Only a server in the foreground tells. One in the background may have the socket of a unit in which somebody's
//! command happened to start it, and must not speak for that unit.

use std::convert::Infallible;
use std::time::Duration;

use ob_core::Refusal;
use ob_engine::Engine;
use sd_notify::NotifyState;
use tokio::time::Instant;

use crate::cli::Context;

/// How often a start that takes long says that it goes on, and how much time it asks for each time.
const START_TICK: Duration = Duration::from_secs(10);
const START_EXTENSION: Duration = Duration::from_secs(60);

/// The variable by which a service manager names its socket.
const SOCKET: &str = "NOTIFY_SOCKET";

/// Tells the service manager, if there is one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Notifier {
    is_asked: bool,
    /// How often to say that we live: twice within the time that the service manager allows.
    pulse: Option<Duration>,
}

// === impl Notifier ===

impl Notifier {
    /// The service manager of this process.
    pub(super) fn new(context: &Context, detached: bool) -> Self {
        let is_asked = !detached && context.var(SOCKET).is_some();
        let pulse = sd_notify::watchdog_enabled().filter(|_| is_asked).map(|allowed| allowed / 2);
        Self { is_asked, pulse: pulse.filter(|pulse| !pulse.is_zero()) }
    }

    /// Says what the server is at while it starts.
    pub(super) fn starting(&self, what: &str) {
        self.tell(&[NotifyState::Status(&format!("starting: {what}"))]);
    }

    /// Asks for more time as long as it is polled: recovering and migrating may take longer than any start is allowed.
    pub(super) async fn ask_for_time(&self) -> Infallible {
        let micros = u32::try_from(START_EXTENSION.as_micros()).unwrap_or(u32::MAX);
        loop {
            self.tell(&[NotifyState::ExtendTimeoutUsec(micros)]);
            tokio::time::sleep(START_TICK).await;
        }
    }

    /// Says that the server serves.
    pub(super) fn ready(&self, addresses: &[String]) {
        let status = format!("serving on {}", addresses.join(", "));
        self.tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
    }

    /// Says that the configuration is being read anew; [`Notifier::ready`] ends that.
    pub(super) fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.tell(&[NotifyState::Reloading, now]),
            // A service manager that gets one without the other ends the service.
            Err(error) => tracing::warn!(%error, "the service manager is not told of a reload"),
        }
    }

    /// Says that the server is about to end.
    pub(super) fn stopping(&self) {
        self.tell(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
    }

    /// Resolves when it is time to say that we live; never if nobody asks for that.
    pub(super) async fn pulse(&self, last: Instant) {
        match self.pulse {
            Some(pulse) => tokio::time::sleep_until(last + pulse).await,
            None => std::future::pending().await,
        }
    }

    /// Says that we live, if the store still answers: a server that cannot read is better started anew.
    pub(super) async fn say_alive(&self, engine: &Engine) {
        let Some(pulse) = self.pulse else { return };
        match in_time(pulse, engine.store_answers()).await {
            Ok(()) => self.tell(&[NotifyState::Watchdog]),
            Err(why) => tracing::error!(
                why,
                "the store does not answer; the service manager is not told that we live"
            ),
        }
    }

    fn tell(&self, states: &[NotifyState<'_>]) {
        if self.is_asked
            && let Err(error) = sd_notify::notify(states)
        {
            tracing::warn!(%error, "the service manager does not listen");
        }
    }
}

/// Whether the store answered within this time, and well; else why not.
async fn in_time(most: Duration, answers: impl Future<Output = Result<(), Refusal>>) -> Result<(), String> {
    match tokio::time::timeout(most, answers).await {
        Ok(answer) => answer.map_err(|refusal| refusal.to_string()),
        Err(_) => Err(format!("nothing within {} ms", most.as_millis())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A store that is quick to say that it cannot read is as dead as one that says nothing.
    #[tokio::test(start_paused = true)]
    async fn only_a_store_that_answers_in_time_and_well_keeps_the_server_alive() {
        let most = Duration::from_secs(30);
        assert_eq!(in_time(most, async { Ok(()) }).await, Ok(()));
        let fails = async { Err(Refusal::unavailable("the store failed").fix("look at the disk")) };
        assert!(in_time(most, fails).await.is_err_and(|why| why.contains("the store failed")));
        assert_eq!(in_time(most, std::future::pending()).await, Err("nothing within 30000 ms".to_owned()));
    }
}
