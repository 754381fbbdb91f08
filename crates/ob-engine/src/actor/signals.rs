//! What the sandbox and the agent in it tell.

use ob_agent::Driver;
use ob_agent::DriverOptions;
use ob_agent::Output;
use ob_core::EventBody;
use ob_core::Refusal;
use ob_core::resource::Consequence;
use ob_core::resource::LimitHit;
use ob_core::resource::is_isolated;
use ob_core::session::Input;
use ob_core::session::SessionState;
use ob_telemetry::LimitReached;
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
            What::AdoptFailed { limit: Some(hit), .. } => {
                self.starting = None;
                self.limit_reached(step, hit);
            }
            What::AdoptFailed { reason, limit: None } => {
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
            What::LimitHit(hit) => self.limit_reached(step, hit),
            What::ModelFound => {
                let text = format!("the model {} answers again", self.record.model);
                step.event(EventBody::system(text));
            }
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
                // An earlier server was about to replace it, and did not come to that.
                Ok(driver) if driver.is_gone() => {
                    self.live = Some(live);
                    return self.lost(step, "its agent had failed");
                }
                Ok(driver) => driver,
                Err(refusal) => {
                    self.live = Some(live);
                    return self.lost(step, &refusal.to_string());
                }
            },
            None => {
                let resume = live.resume.clone();
                let cwd = live.workspace().to_owned();
                let autonomy = self.record.agent_options.autonomy;
                Driver::new(DriverOptions {
                    cwd,
                    resume,
                    autonomy,
                    mode: live.mode.clone(),
                    tools: live.tools(),
                })
            }
        };
        let waits = matches!(self.record.core.state, SessionState::Starting);
        if waits {
            self.deadline = Some((Instant::now() + HANDSHAKE, Deadline::Handshake));
        }
        self.record.enforcement = Some(live.enforcement.clone());
        step.session_changed();
        self.last_hit = None;
        step.event(EventBody::system(if adopted { "sandbox found again" } else { "sandbox started" }).data(
            serde_json::json!({
                "backend": self.record.backend,
                "enforcement": live.enforcement,
                "isolated": is_isolated(&self.record.backend),
                "walls": live.walls(),
                "adopted": adopted,
            }),
        ));
        if let Some(refusal) = live.waits_for.take() {
            step.event(EventBody::system(format!("waiting for the model {}: {refusal}", self.record.model)));
            live.await_model(self.record.model.clone(), self.generation, &self.signal);
        }
        live.attach(&driver, self.generation, &self.signal);
        self.driver = Some(driver);
        self.live = Some(live);
        step.driver_changed();
        self.catch_up(step);
    }

    /// Says to an agent that was found again what it would have been told meanwhile.
    fn catch_up(&mut self, step: &mut Step) {
        let (SessionState::Running, Some(turn), Some(driver)) =
            (self.record.core.state, self.record.core.active, &mut self.driver)
        else {
            return;
        };
        if driver.active().is_none() {
            // The turn came while there was nobody to give it to.
            self.prompt(step, turn);
        } else if self.cancelling {
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
        if self.record.core.state == SessionState::Idle {
            self.sleep(step);
        } else if may_help && self.starts < MAX_STARTS {
            self.start_again(step);
        } else {
            self.record.reason = Some(self.why_it_fails(refusal.to_string()));
            self.input_into(step, Input::Fail);
        }
    }

    /// A limit was reached. What ended the sandbox ends the turn as well: it would be reached again.
    fn limit_reached(&mut self, step: &mut Step, hit: LimitHit) {
        LimitReached { session: &self.record.id, hit: &hit }.emit(&self.shared.metrics);
        let data = serde_json::json!({ "limit": hit, "fix": hit.fix() });
        if hit.consequence != Consequence::Ended {
            if hit.consequence == Consequence::Killed {
                self.last_hit = Some(hit);
            }
            return step.event(EventBody::system(hit.message()).data(data));
        }
        if self.record.core.state == SessionState::Ending {
            self.live = None;
            return self.input_into(step, Input::Lost);
        }
        let refusal = hit.refusal();
        let code = refusal.code;
        step.event(EventBody::error(&refusal).data(
            serde_json::json!({ "code": code, "message": refusal.message, "fix": refusal.fix, "limit": hit }),
        ));
        if self.record.core.state == SessionState::Idle {
            return self.sleep(step);
        }
        self.record.reason = Some(refusal.to_string());
        self.input_into(step, Input::Fail);
    }

    /// The reason of a session that fails, with the limit that probably led to it.
    fn why_it_fails(&self, reason: String) -> String {
        match &self.last_hit {
            Some(hit) => format!("{reason} ({}; {})", hit.message(), hit.fix()),
            None => reason,
        }
    }

    /// The sandbox is gone.
    pub(super) fn lost(&mut self, step: &mut Step, reason: &str) {
        if self.record.core.state == SessionState::Ending {
            self.live = None;
            return self.input_into(step, Input::Lost);
        }
        step.event(EventBody::system(format!("the sandbox is gone: {reason}")));
        if self.record.core.state == SessionState::Idle {
            self.sleep(step);
        } else if self.starts < MAX_STARTS {
            self.start_again(step);
        } else {
            let reason = format!("the sandbox was lost {MAX_STARTS} times: {reason}");
            self.record.reason = Some(self.why_it_fails(reason));
            self.input_into(step, Input::Fail);
        }
    }

    /// What is left of the sandbox goes, and another one comes with the next message.
    pub(super) fn sleep(&mut self, step: &mut Step) {
        self.deadline = None;
        self.starts = 0;
        self.input_into(step, Input::Sleep);
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
        self.stop_cancelled(step);
        if self.record.core.state != SessionState::Ending {
            self.input_into(step, Input::Lost);
            self.restart(step);
        }
    }

    /// A turn that a person stopped must not be given again.
    pub(super) fn stop_cancelled(&mut self, step: &mut Step) {
        if std::mem::take(&mut self.cancelling) {
            self.input_into(step, Input::TurnStopped(ob_core::session::TurnStop::Cancelled));
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
            Deadline::Idle if self.record.core.state == SessionState::Idle => {
                step.event(EventBody::system(format!(
                    "nothing to do for {:?}; the sandbox ends, and the next message starts another one",
                    self.shared.sandbox.get().idle
                )));
                self.sleep(&mut step);
            }
            // The loop tries to leave.
            Deadline::Idle => {}
            Deadline::Exit => {
                self.stdout_ended = true;
                self.exited_if_drained(&mut step);
            }
        }
        self.commit(step).await;
    }
}
