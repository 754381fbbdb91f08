//! Follows a session from a cursor to its end, over lost connections and restarted servers, with nothing lost and
//! nothing doubled: the cursor is the number of the last event that was shown.

use std::time::Duration;

use ob_core::EventKind;
use ob_core::Refusal;
use ob_core::SessionId;
use ob_core::TurnNumber;
use ob_core::operation::EventPage;
use ob_core::operation::Operation;
use ob_core::operation::SessionEvents;
use ob_core::operation::SessionTarget;
use ob_core::session::SessionStatus;
use serde_json::Value;
use tokio::signal::unix::Signal;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio::time::Instant;
use tokio::time::MissedTickBehavior;

use super::client::CallError;
use super::failed;
use super::hub::Hub;
use super::hub::LOOK_AGAIN;
use super::output::Output;
use super::view::Style;
use super::view::View;
use crate::server;

/// How long one request waits for the next event. The server allows 60 s.
const WAIT_MS: u32 = 20_000;

/// Events of one page.
const PAGE: u32 = 1000;

/// How long a server that was lost may take to come back by itself (a supervisor restarts it) before we start one.
const COME_BACK: Duration = Duration::from_secs(2);

/// How long to try in all before giving up.
const GIVE_UP: Duration = Duration::from_secs(120);

/// How often the elapsed time on the last line moves.
const TICK: Duration = Duration::from_millis(500);

/// When to stop following.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// When everything that there is now was shown.
    Now,
    /// When the session is over.
    Over,
    /// When this turn, or the session, is over.
    Turn(TurnNumber),
}

/// What Ctrl-C does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnInterrupt {
    /// Stops watching; the session is not ours.
    Detach,
    /// First stops the turn, then ends the session, then stops watching.
    StopSession,
}

/// How following ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watched {
    /// It came to its end; true if the user interrupted it.
    Done { interrupted: bool },
    /// The user, or whoever sent TERM, stopped watching; the session goes on.
    Detached,
}

/// Follows a session.
pub(crate) struct Watch<'a> {
    pub(crate) hub: &'a Hub,
    pub(crate) output: &'a Output,
    pub(crate) session: SessionId,
    pub(crate) cursor: i64,
    pub(crate) until: Until,
    pub(crate) on_interrupt: OnInterrupt,
}

/// What a person told us while we watched.
struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
    count: u32,
}

// === impl Watch ===

impl Watch<'_> {
    /// Shows events until the end.
    pub(crate) async fn run(mut self) -> Result<Watched, Refusal> {
        let style = match self.output.width() {
            Some(width) => Style::Terminal { width, colour: self.output.paint.0 },
            None => Style::Plain,
        };
        let mut view = View::new(style);
        let started = Instant::now();
        let mut interrupts = Interrupts::listen()?;
        let mut seen_over = false;
        let mut lost: Option<Instant> = None;
        loop {
            let wait_ms = if seen_over || self.until == Until::Now { 0 } else { WAIT_MS };
            let page = match self.page(wait_ms, &mut view, started, &mut interrupts).await {
                Some(page) => page,
                None => {
                    self.print(&view.finish(started.elapsed().as_secs()));
                    return Ok(Watched::Detached);
                }
            };
            let page = match page {
                Ok(page) => page,
                Err(error) if error.may_pass() && self.until != Until::Now => {
                    self.reconnect(error, &mut lost).await?;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            if lost.take().is_some() {
                self.output.hint(&format!("connected again; going on after event {}", self.cursor));
            }
            let turn_over = self.show(&page, &mut view);
            if turn_over && interrupts.count > 0 && page.status == SessionStatus::Active {
                // The second Ctrl-C was promised to end the session, so there must be somebody to take it.
                self.output.hint(&format!(
                    "the session is idle and kept; Ctrl-C again ends it, `oubliette session message {} TASK` goes on",
                    self.session
                ));
                self.until = Until::Over;
                continue;
            }
            let over = page.status != SessionStatus::Active;
            let done = match self.until {
                Until::Now => page.events.is_empty(),
                // One more page after the state was seen, since the last events may be newer than the page.
                Until::Over => seen_over && page.events.is_empty(),
                Until::Turn(_) => turn_over || (seen_over && page.events.is_empty()),
            };
            seen_over = over;
            if done {
                if self.until != Until::Now {
                    self.print(&view.finish(started.elapsed().as_secs()));
                }
                return Ok(Watched::Done { interrupted: interrupts.count > 0 });
            }
        }
    }

    /// The next page; nothing if the user stopped watching while we waited for it.
    async fn page(
        &self,
        wait_ms: u32,
        view: &mut View,
        started: Instant,
        interrupts: &mut Interrupts,
    ) -> Option<Result<EventPage, CallError>> {
        let params = SessionEvents {
            session_id: self.session.clone(),
            cursor: self.cursor,
            limit: Some(PAGE),
            wait_ms: Some(wait_ms),
        };
        let mut request =
            std::pin::pin!(self.hub.client.call::<EventPage>(Operation::SessionEvents, &params));
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                page = &mut request => return Some(page),
                _ = tick.tick(), if self.output.terminal && self.until != Until::Now => {
                    self.print(&view.footer(started.elapsed().as_secs()));
                }
                _ = interrupts.interrupt.recv() => {
                    interrupts.count += 1;
                    self.stop(interrupts.count).await?;
                }
                // An attached command that gets TERM lets go.
                _ = interrupts.terminate.recv() => return None,
            }
        }
    }

    /// Does what the n-th Ctrl-C asks for; nothing to stop watching.
    async fn stop(&self, count: u32) -> Option<()> {
        if self.on_interrupt == OnInterrupt::Detach {
            return None;
        }
        let (operation, said) = match count {
            1 => (Operation::SessionInterrupt, "stopping the turn; again to end the session"),
            2 => (Operation::SessionEnd, "ending the session; again to leave it alone"),
            _ => return None,
        };
        self.output.hint(said);
        let target = SessionTarget { session_id: self.session.clone() };
        if let Err(error) = self.hub.client.call::<Value>(operation, &target).await {
            self.output.hint(&format!("that did not work: {}", Refusal::from(error)));
        }
        Some(())
    }

    /// Shows a page; true if it ends the turn that we wait for.
    fn show(&mut self, page: &EventPage, view: &mut View) -> bool {
        let mut text = String::new();
        let mut turn_over = false;
        for event in &page.events {
            // A server that repeats an event, or leaves one out, would be a fault; neither is passed on unseen.
            let index = i64::try_from(event.index).unwrap_or(i64::MAX);
            if index <= self.cursor {
                continue;
            }
            if index != self.cursor + 1 {
                self.output.hint(&format!(
                    "warning: events {} to {} are missing",
                    self.cursor + 1,
                    index - 1
                ));
            }
            self.cursor = index;
            if self.output.json {
                self.output.json_line(event);
            } else {
                text.push_str(&view.event(event));
            }
            if let Until::Turn(turn) = self.until {
                turn_over |= event.body.kind == EventKind::Completion && event.body.turn == Some(turn);
            }
        }
        self.print(&text);
        turn_over
    }

    fn print(&self, text: &str) {
        if !self.output.json && !text.is_empty() {
            self.output.text(text);
        }
    }

    /// Waits for the server to come back; starts one if it does not. Says so once.
    async fn reconnect(&self, error: CallError, lost: &mut Option<Instant>) -> Result<(), Refusal> {
        let since = *lost.get_or_insert_with(|| {
            self.output.hint(&format!(
                "the server is gone; waiting for it (nothing is lost: event {} was the last)",
                self.cursor
            ));
            Instant::now()
        });
        if since.elapsed() > GIVE_UP {
            return Err(error.into());
        }
        if matches!(error, CallError::Absent) && since.elapsed() >= COME_BACK {
            if !server::lock::was_killed(&self.hub.loaded.home) {
                return Err(Refusal::unavailable("the server was stopped; the session goes on when it starts again").fix(
                    format!(
                        "start it with `oubliette --daemon`, then `oubliette session events {} --follow --cursor {}`",
                        self.session, self.cursor
                    ),
                ));
            }
            self.output.hint("it did not come back: starting it again");
            // Also fine if somebody else just did; a failure is the answer, with its reason.
            self.hub.start(false)?;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
        Ok(())
    }
}

// === impl Interrupts ===

impl Interrupts {
    fn listen() -> Result<Self, Refusal> {
        let listen = |kind| signal(kind).map_err(|error| failed("listen to signals", &error));
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            count: 0,
        })
    }
}
