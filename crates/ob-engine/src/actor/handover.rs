//! Taking a session over from an earlier server, and letting go of it.

use std::sync::Arc;

use ob_agent::Driver;
use ob_core::EventBody;
use ob_core::session::Input;
use ob_core::session::SessionState;

use super::Actor;
use super::What;
use super::live;
use super::live::SavedDriver;
use super::step::Step;

// === impl Actor ===

impl Actor {
    /// Takes over from an earlier server: finds the sandbox again, or starts anew.
    pub(super) async fn recover(&mut self) {
        match self.record.core.state {
            SessionState::Interrupted if self.turns.is_empty() => self.input(Input::Sleep).await,
            SessionState::Created | SessionState::Interrupted => self.input(Input::Start).await,
            state if state.is_over() => {}
            // A sandbox that a crash left goes.
            SessionState::Asleep => self.input(Input::Sleep).await,
            // The end was durable, and what was to be done about it may not have been.
            SessionState::Ending => self.input(Input::End).await,
            _ => {
                let saved = match self.shared.store.driver(&self.record.id).await {
                    Ok(saved) => saved.and_then(|bytes| SavedDriver::decode(&bytes)),
                    Err(error) => {
                        tracing::error!(session = %self.record.id, %error, "cannot read the driver's state");
                        None
                    }
                };
                // Should it not be found again: a turn that a person stopped is not given again.
                self.cancelling = saved
                    .as_ref()
                    .and_then(|saved| Driver::restore(&saved.driver).ok())
                    .is_some_and(|driver| driver.is_cancelling());
                self.generation += 1;
                self.starting = Some(live::adopt(
                    Arc::clone(&self.shared),
                    self.record.clone(),
                    saved,
                    self.generation,
                    self.signal.clone(),
                ));
            }
        }
    }

    /// Lets go of the session because the server stops. Everything is durable already.
    pub(super) async fn park(&mut self, keep_sandbox: bool) {
        self.unwanted.cancel();
        let mut late = Vec::new();
        if let Some(mut starting) = self.starting.take() {
            // A start that is under way ends in bounded time, and what it made must be known to be ended. Its report may
            // wait behind older ones.
            loop {
                tokio::select! {
                    _ = &mut starting => break,
                    signal = self.signals.recv() => late.extend(signal),
                }
            }
        }
        late.extend(std::iter::from_fn(|| self.signals.try_recv().ok()));
        let mut step = Step::default();
        for signal in late {
            match signal.what {
                What::Started(live) if signal.generation == self.generation => self.live = Some(*live),
                // What the agent said already is kept, so that no work is done twice.
                What::Stdout(_) if !keep_sandbox => self.on_signal(&mut step, signal),
                _ => {}
            }
        }
        let state = self.record.core.state;
        if keep_sandbox || state.is_over() || state == SessionState::Asleep {
            return;
        }
        if state == SessionState::Idle {
            step.event(EventBody::system("the server stops; the session goes on with its next message"));
            self.input_into(&mut step, Input::Sleep);
        } else {
            step.event(EventBody::system("the server stops; the session goes on when it is back"));
            self.stop_cancelled(&mut step);
            self.input_into(&mut step, Input::Lost);
        }
        step.without_effects();
        if let Err(error) = self.commit_once(&step).await {
            tracing::error!(session = %self.record.id, %error, "cannot record that the server stops");
        }
        self.generation += 1;
        let end = live::end(Arc::clone(&self.shared), self.record.clone(), self.live.take(), None, None);
        drop(end.await);
    }
}
