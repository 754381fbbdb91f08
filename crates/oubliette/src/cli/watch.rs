//! Follows a session from a cursor to its end, over lost connections and restarted servers, with nothing lost and
//! nothing doubled: the cursor is the number of the last event that was shown.
//!
//! ```text
//!  watching --Ctrl-C--> asked --i, e--> stopping --Ctrl-C--> left alone
//!      ^                  | \                |
//!      +------Enter-------+  d, Ctrl-C        +--it stops--> done
//!                             \--> left alone
//! ```
//!
//! While a question is open nothing is shown: events wait in the log. Where there is no terminal to ask on, the first
//! Ctrl-C stops the agent.

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
use ob_engine::Clock as _;
use ob_engine::SystemClock;
use serde_json::Value;
use tokio::signal::unix::Signal;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio::time::Instant;
use tokio::time::Interval;
use tokio::time::MissedTickBehavior;

use super::client::CallError;
use super::failed;
use super::hub::Hub;
use super::hub::LOOK_AGAIN;
use super::output::Output;
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
    /// Asks what to do with the session; where nobody can be asked, stops the agent. A second one stops watching.
    Ask,
}

/// How following ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watched {
    /// It came to its end; true if the user interrupted it.
    Done { interrupted: bool },
    /// The user, or whoever sent TERM, stopped watching after this event; the session goes on.
    Detached { cursor: i64 },
}

/// What to follow.
pub(crate) struct Watch<'a> {
    pub(crate) hub: &'a Hub,
    pub(crate) output: &'a Output,
    pub(crate) session: SessionId,
    pub(crate) cursor: i64,
    pub(crate) until: Until,
    pub(crate) on_interrupt: OnInterrupt,
}

/// A session that is being followed.
struct Following<'a> {
    watch: Watch<'a>,
    view: View,
    signals: Signals,
    tick: Interval,
    /// True if the user had the agent stopped, or the session ended.
    stopping: bool,
}

/// What a person, or a terminal, tells us while we watch.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    resize: Signal,
}

/// What to do after somebody spoke up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    GoOn,
    Leave,
}

/// Tells how to come back to a session that goes on without us.
pub(crate) fn tell_way_back(session: &SessionId, cursor: i64, output: &Output) {
    output.hint(&format!(
        "the session goes on; come back with `oubliette session events {session} --follow --cursor {cursor}`"
    ));
}

// === impl Watch ===

impl<'a> Watch<'a> {
    /// Shows events until the end.
    pub(crate) async fn run(self) -> Result<Watched, Refusal> {
        let view = View::new(self.output.width(), self.output.paint);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let signals = Signals::listen()?;
        Following { watch: self, view, signals, tick, stopping: false }.run().await
    }
}

// === impl Following ===

impl Following<'_> {
    async fn run(mut self) -> Result<Watched, Refusal> {
        let until = self.watch.until;
        let mut seen_over = false;
        let mut lost: Option<Instant> = None;
        loop {
            let wait_ms = if seen_over || until == Until::Now { 0 } else { WAIT_MS };
            let Some(page) = self.page(wait_ms).await else { return Ok(self.leave()) };
            let page = match page {
                Ok(page) => page,
                Err(error) if error.may_pass() && until != Until::Now => {
                    if self.reconnect(error, &mut lost).await? == Next::Leave {
                        return Ok(self.leave());
                    }
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            if lost.take().is_some() {
                self.say(&format!("connected again; going on after event {}", self.watch.cursor));
            }
            let turn_over = self.show(&page);
            let over = page.status != SessionStatus::Active;
            let done = match until {
                Until::Now => page.events.is_empty(),
                // One more page after the state was seen, since the last events may be newer than the page.
                Until::Over => seen_over && page.events.is_empty(),
                Until::Turn(_) => turn_over || (seen_over && page.events.is_empty()),
            };
            seen_over = over;
            if done {
                let last = if until == Until::Now { self.view.pause() } else { self.view.finish() };
                self.print(&last);
                return Ok(Watched::Done { interrupted: self.stopping });
            }
        }
    }

    /// The next page; nothing if the user stopped watching while we waited for it.
    async fn page(&mut self, wait_ms: u32) -> Option<Result<EventPage, CallError>> {
        let params = SessionEvents {
            session_id: self.watch.session.clone(),
            cursor: self.watch.cursor,
            limit: Some(PAGE),
            wait_ms: Some(wait_ms),
        };
        let client = &self.watch.hub.client;
        let mut request = std::pin::pin!(client.call::<EventPage>(Operation::SessionEvents, &params));
        let is_live = self.watch.output.terminal && self.watch.until != Until::Now;
        loop {
            tokio::select! {
                page = &mut request => return Some(page),
                _ = self.tick.tick(), if is_live => self.draw(),
                _ = self.signals.resize.recv(), if is_live => {
                    self.view.resize(self.watch.output.width());
                    self.draw();
                }
                _ = self.signals.interrupt.recv() => {
                    if self.interrupted().await == Next::Leave {
                        return None;
                    }
                }
                // An attached command that gets TERM lets go.
                _ = self.signals.terminate.recv() => return None,
            }
        }
    }

    /// Does what Ctrl-C asks for.
    async fn interrupted(&mut self) -> Next {
        if self.watch.on_interrupt == OnInterrupt::Detach || self.stopping {
            return Next::Leave;
        }
        let (operation, said) = if self.watch.output.can_ask() {
            match self.asked().await.as_deref() {
                Some("i" | "interrupt") => (Operation::SessionInterrupt, "stopping the agent"),
                Some("e" | "end") => (Operation::SessionEnd, "ending the session"),
                None | Some("d" | "detach") => return Next::Leave,
                Some(_) => {
                    self.say("going on");
                    return Next::GoOn;
                }
            }
        } else {
            (Operation::SessionInterrupt, "stopping the agent")
        };
        self.stopping = true;
        self.say(&format!("{said}; Ctrl-C leaves it alone"));
        let target = SessionTarget { session_id: self.watch.session.clone() };
        if let Err(error) = self.watch.hub.client.call::<Value>(operation, &target).await {
            self.say(&format!("that did not work: {}", Refusal::from(error)));
            self.stopping = false;
        }
        Next::GoOn
    }

    /// What the user wants, in one word; nothing if there is no answer but to leave.
    async fn asked(&mut self) -> Option<String> {
        self.print_clear();
        self.watch.output.ask(
            "interrupt the agent (i), end the session (e), or detach and let it work (d, or Ctrl-C again)? \
             Enter goes on:",
        );
        // If the question is left open this still waits for a line; we leave then, and it ends with us.
        let line = tokio::task::spawn_blocking(|| {
            let mut line = String::new();
            std::io::stdin().read_line(&mut line).map(|bytes| (bytes > 0).then_some(line))
        });
        let answer = tokio::select! {
            line = line => line.ok().and_then(Result::ok).flatten(),
            _ = self.signals.interrupt.recv() => None,
            _ = self.signals.terminate.recv() => None,
        };
        if answer.is_none() {
            // The cursor still stands behind the question.
            self.watch.output.hint("");
        }
        answer.map(|line| line.trim().to_lowercase())
    }

    /// Shows a page; true if it ends the turn that we wait for.
    fn show(&mut self, page: &EventPage) -> bool {
        let mut text = String::new();
        let mut turn_over = false;
        for event in &page.events {
            // A server that repeats an event, or leaves one out, would be a fault; neither is passed on unseen.
            let index = i64::try_from(event.index).unwrap_or(i64::MAX);
            let expected = self.watch.cursor + 1;
            if index < expected {
                continue;
            }
            if index > expected {
                self.watch.output.warn(&format!("events {expected} to {} are missing", index - 1));
            }
            self.watch.cursor = index;
            if self.watch.output.json {
                self.watch.output.json_line(event);
            } else {
                text.push_str(&self.view.event(event));
            }
            if let Until::Turn(turn) = self.watch.until {
                turn_over |= event.body.kind == EventKind::Completion && event.body.turn == Some(turn);
            }
        }
        if self.watch.until != Until::Now && !page.events.is_empty() {
            // In one piece with the lines above it, or it would flicker.
            text.push_str(&self.view.footer(SystemClock.now()));
        }
        self.print(&text);
        turn_over
    }

    /// Stops watching: what stands there stays, and the session goes on.
    fn leave(&mut self) -> Watched {
        let last = self.view.pause();
        self.print(&last);
        Watched::Detached { cursor: self.watch.cursor }
    }

    fn draw(&mut self) {
        let line = self.view.footer(SystemClock.now());
        self.print(&line);
    }

    fn print(&self, text: &str) {
        if !self.watch.output.json && !text.is_empty() {
            self.watch.output.text(text);
        }
    }

    fn print_clear(&mut self) {
        let clear = self.view.clear();
        self.print(&clear);
    }

    /// Tells people something, on a line of its own.
    fn say(&mut self, line: &str) {
        self.print_clear();
        self.watch.output.hint(line);
    }

    /// Waits for the server to come back; starts it again if it was killed. Says so once.
    async fn reconnect(&mut self, error: CallError, lost: &mut Option<Instant>) -> Result<Next, Refusal> {
        let home = &self.watch.hub.loaded.home;
        let was_stopped = matches!(error, CallError::Absent) && !server::lock::was_killed(home);
        if lost.is_none() {
            let cursor = self.watch.cursor;
            self.say(&format!(
                "the server is gone; waiting for it (nothing is lost: event {cursor} was the last)"
            ));
        }
        let since = *lost.get_or_insert_with(Instant::now);
        if since.elapsed() > GIVE_UP {
            if !was_stopped {
                return Err(error.into());
            }
            return Err(Refusal::unavailable(
                "the server was stopped; the session goes on when it starts again",
            )
            .fix(format!(
                "start it with `oubliette --daemon`, then `oubliette session events {} --follow --cursor {}`",
                self.watch.session, self.watch.cursor
            )));
        }
        if matches!(error, CallError::Absent) && !was_stopped && since.elapsed() >= COME_BACK {
            self.say("it did not come back: starting it again");
            // Also fine if somebody else just did; a failure is the answer, with its reason.
            self.watch.hub.start(false)?;
        }
        // There is no agent to be stopped while there is no server: Ctrl-C can only mean to leave.
        Ok(tokio::select! {
            () = tokio::time::sleep(LOOK_AGAIN) => Next::GoOn,
            _ = self.signals.interrupt.recv() => Next::Leave,
            _ = self.signals.terminate.recv() => Next::Leave,
        })
    }
}

// === impl Signals ===

impl Signals {
    fn listen() -> Result<Self, Refusal> {
        let listen = |kind| signal(kind).map_err(|error| failed("listen to signals", &error));
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            resize: listen(SignalKind::window_change())?,
        })
    }
}
