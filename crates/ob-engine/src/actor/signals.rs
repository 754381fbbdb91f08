//! What the sandbox and the agent in it tell.

use ob_agent::Driver;
use ob_agent::DriverOptions;
use ob_agent::Output;
use ob_core::EventBody;
use ob_core::Refusal;
use ob_core::link::WORKSPACE_DIR;
use ob_core::session::Input;
use ob_core::session::SessionState;
use tokio::time::Instant;

use super::Actor;
use super::BATCH;
use super::CANCEL_GRACE;
use super::Deadline;
use super::EXIT_GRACE;
use super::HANDSHAKE;
use super::MAX_STARTS;
use super::Signal;
use super::What;
use super::live::Live;
use super::step::Step;

// === impl Actor ===

impl Actor {
    pub(super) async fn on_signals(&mut self, first: Signal) {
        let mut step = Step::default();
        let mut next = Some(first);
        for _ in 0..BATCH {
            let Some(signal) = next.take() else { break };
            self.on_signal(&mut step, signal);
            next = self.signals.try_recv().ok();
        }
        if let Some(signal) = next {
            self.on_signal(&mut step, signal);
        }
        self.commit(step).await;
    }

    pub(super) fn on_signal(&mut self, step: &mut Step, signal: Signal) {
        // What comes from a sandbox that this very step replaces or ends is as stale as what comes later.
        if signal.generation != self.generation || step.lets_go_of_sandbox() {
            return;
        }
        match signal.what {
            What::Started(live) => self.started(step, *live),
            What::StartFailed { refusal, may_help } => {
                self.starting = None;
                self.fail_or_retry(step, refusal, may_help);
            }
            What::AdoptFailed(reason) => {
                self.starting = None;
                self.lost(step, &reason);
            }
            What::Stdout(bytes) => {
                if let Some(driver) = &mut self.driver {
                    let outputs = driver.receive(&bytes);
                    step.driver_changed();
                    self.take(step, outputs);
                }
            }
            What::StdoutEnd => {
                self.stdout_ended = true;
                self.exited_if_drained(step);
            }
            What::Sent(offset) => {
                if let Some(driver) = &mut self.driver {
                    driver.sent(offset);
                    step.driver_changed();
                }
            }
            What::Exit(exit) => {
                self.exit = Some(exit);
                self.deadline = Some((Instant::now() + EXIT_GRACE, Deadline::Exit));
                self.exited_if_drained(step);
            }
            What::SandboxEnded(reason) => self.lost(step, &reason),
            What::Released => {
                self.starting = None;
                self.live = None;
                self.driver = None;
                self.input_into(step, Input::Released);
            }
        }
    }

    pub(super) fn started(&mut self, step: &mut Step, mut live: Live) {
        self.starting = None;
        self.exit = None;
        self.stdout_ended = false;
        let adopted = live.adopted.is_some();
        let driver = match &live.adopted {
            Some(saved) => match Driver::restore(&saved.driver) {
                Ok(driver) => driver,
                Err(refusal) => {
                    self.live = Some(live);
                    return self.lost(step, &refusal.to_string());
                }
            },
            None => {
                let resume = live.resume.clone();
                Driver::new(DriverOptions { cwd: WORKSPACE_DIR.to_owned(), resume })
            }
        };
        let waits = matches!(self.record.core.state, SessionState::Starting);
        if waits {
            self.deadline = Some((Instant::now() + HANDSHAKE, Deadline::Handshake));
        }
        step.event(EventBody::system(if adopted { "sandbox found again" } else { "sandbox started" }).data(
            serde_json::json!({
                "backend": self.record.backend,
                "enforcement": live.enforcement,
                "adopted": adopted,
            }),
        ));
        live.attach(&driver, self.generation, &self.signal);
        self.driver = Some(driver);
        self.live = Some(live);
        step.driver_changed();
        if self.cancelling
            && let Some(driver) = &mut self.driver
        {
            let outputs = driver.cancel();
            self.take(step, outputs);
            self.expect_stop();
        }
    }

    /// What came out of the driver, in order.
    pub(super) fn take(&mut self, step: &mut Step, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Event(event) => step.event(*event),
                Output::Ready { resumed } => {
                    self.met(Deadline::Handshake);
                    if let Some(live) = &mut self.live {
                        live.resumed = resumed;
                    }
                    self.input_into(step, Input::Ready);
                }
                Output::TurnStopped(stop) => {
                    self.starts = 0;
                    self.cancelling = false;
                    self.met(Deadline::Cancel);
                    self.input_into(step, Input::TurnStopped(stop));
                }
                Output::Failed(refusal) => self.agent_failed(step, refusal),
            }
        }
    }

    pub(super) fn exited_if_drained(&mut self, step: &mut Step) {
        if let Some(exit) = self.exit
            && self.stdout_ended
            && let Some(driver) = &mut self.driver
        {
            let outputs = driver.exited(exit);
            step.driver_changed();
            self.take(step, outputs);
        }
    }

    /// The agent is of no more use: its sandbox goes, and the session starts again if that may help.
    pub(super) fn agent_failed(&mut self, step: &mut Step, refusal: Refusal) {
        let words = self.live.as_ref().map(Live::last_words).unwrap_or_default();
        let refusal = if words.is_empty() {
            refusal
        } else {
            Refusal { message: format!("{} (its last words: {words})", refusal.message), ..refusal }
        };
        self.fail_or_retry(step, refusal, true);
    }

    pub(super) fn fail_or_retry(&mut self, step: &mut Step, refusal: Refusal, may_help: bool) {
        if self.record.core.state == SessionState::Ending {
            return self.input_into(step, Input::Lost);
        }
        step.event(EventBody::error(&refusal));
        if may_help && self.starts < MAX_STARTS {
            self.start_again(step);
        } else {
            self.record.reason = Some(refusal.to_string());
            self.input_into(step, Input::Fail);
        }
    }

    /// The sandbox is gone.
    pub(super) fn lost(&mut self, step: &mut Step, reason: &str) {
        if self.record.core.state == SessionState::Ending {
            self.live = None;
            return self.input_into(step, Input::Lost);
        }
        step.event(EventBody::system(format!("the sandbox is gone: {reason}")));
        if self.starts < MAX_STARTS {
            self.start_again(step);
        } else {
            self.record.reason = Some(format!("the sandbox was lost {MAX_STARTS} times: {reason}"));
            self.input_into(step, Input::Fail);
        }
    }

    /// What is left of the sandbox goes, and another one comes.
    pub(super) fn start_again(&mut self, step: &mut Step) {
        self.deadline = None;
        // A prompt that is still in our hands is one that the agent has not seen.
        if self
            .driver
            .as_ref()
            .is_some_and(|driver| driver.active().is_some() && !driver.outbox().1.is_empty())
        {
            self.undelivered = self.record.core.active;
        }
        // A turn that a person stopped must not be given again.
        if std::mem::take(&mut self.cancelling) {
            self.input_into(step, Input::TurnStopped(ob_core::session::TurnStop::Cancelled));
        }
        if self.record.core.state != SessionState::Ending {
            self.input_into(step, Input::Lost);
            self.restart(step);
        }
    }

    pub(super) fn restart(&mut self, step: &mut Step) {
        if self.record.core.state == SessionState::Interrupted {
            self.input_into(step, Input::Start);
        }
    }

    pub(super) async fn on_deadline(&mut self) {
        let Some((_, deadline)) = self.deadline.take() else { return };
        let mut step = Step::default();
        match deadline {
            Deadline::Handshake => {
                let refusal = Refusal::unavailable(format!(
                    "the agent `{}` did not answer the handshake within {} s",
                    self.record.agent,
                    HANDSHAKE.as_secs()
                ))
                .fix("check that it speaks ACP over stdio");
                self.agent_failed(&mut step, refusal);
            }
            Deadline::Cancel => {
                let refusal = Refusal::unavailable(format!(
                    "the agent did not stop its turn within {} s and was ended",
                    CANCEL_GRACE.as_secs()
                ))
                .fix("nothing to do: the session goes on with another one");
                if let Some(turn) = self.record.core.active {
                    step.event(EventBody::error(&refusal).turn(turn));
                }
                self.cancelling = true;
                self.start_again(&mut step);
            }
            Deadline::Exit => {
                self.stdout_ended = true;
                self.exited_if_drained(&mut step);
            }
        }
        self.commit(step).await;
    }
}
