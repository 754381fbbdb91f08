//! What a person sees of a session's events. Pure: events in, text out.
//!
//! ```text
//!          event                       tick, resize
//!            |                              |
//!   erase the last line              erase the last line
//!   print lines that stay            draw it again: what runs, tokens, cost, time
//! ```
//!
//! On a terminal text streams, each tool call is folded into one line with the change that it made, and a last line that is
//! drawn over tells what runs, what was used and how long it took. Lines are broken between words at the width that the
//! terminal has by then. In a pipe each line is whole and final: messages, not pieces of them. Everything that an agent
//! wrote is sanitised before it is shown.

mod calls;
#[cfg(test)]
mod tests;

use ob_core::EventKind;
use ob_core::Timestamp;
use ob_core::event::Role;
use ob_core::ledger::MicroUsd;
use ob_core::operation::EventView;

use super::paint::Ink;
use super::paint::Paint;
use super::text;
use calls::Calls;
use calls::Outcome;

/// Back to the start of the line, and everything from there on is gone.
const ERASE: &str = "\r\x1b[J";
/// What a call's line begins with, and what stands under it.
const INDENT: &str = "  ";
/// Columns that a call has, however much there is to say of how it went.
const CALL_LEAST: usize = 8;

/// The live view of one session.
#[derive(Debug)]
pub(crate) struct View {
    /// Columns of the terminal; nothing in a pipe or a file.
    width: Option<usize>,
    paint: Paint,
    /// Text that streams and has no newline yet, and who speaks.
    partial: String,
    speaker: Option<Role>,
    /// True if pieces of the message were shown, so that the whole of it need not be.
    streamed: bool,
    calls: Calls,
    used: Used,
    /// The session's state in one word, as its events told it.
    state: String,
    first_at: Option<Timestamp>,
    last_at: Option<Timestamp>,
    /// When the newest task was given.
    task_at: Option<Timestamp>,
    /// True if the last line is one that is drawn over.
    drawn: bool,
}

/// What the model calls that were seen used.
#[derive(Debug, Default)]
struct Used {
    input: u64,
    output: u64,
    cost: MicroUsd,
}

// === impl View ===

impl View {
    /// A view that is so many columns wide, or for a pipe.
    pub(crate) fn new(width: Option<usize>, paint: Paint) -> Self {
        Self {
            width,
            paint,
            partial: String::new(),
            speaker: None,
            streamed: false,
            calls: Calls::default(),
            used: Used::default(),
            state: String::new(),
            first_at: None,
            last_at: None,
            task_at: None,
            drawn: false,
        }
    }

    /// The terminal has another width now.
    pub(crate) fn resize(&mut self, width: Option<usize>) {
        if self.width.is_some() && width.is_some() {
            self.width = width;
        }
    }

    /// What to print for an event.
    pub(crate) fn event(&mut self, event: &EventView) -> String {
        let body = &event.body;
        self.first_at.get_or_insert(event.at);
        self.last_at = Some(event.at);
        let shown = body.text.as_deref().map(text::sanitise).unwrap_or_default();
        let shown = if self.width.is_some() { text::expand(&shown) } else { shown };
        let mut lines = String::new();
        match body.kind {
            EventKind::Delta => {
                if self.width.is_some() {
                    self.stream(&mut lines, &shown, body.role.unwrap_or(Role::Agent));
                }
            }
            EventKind::Message if body.role == Some(Role::User) => {
                self.task_at = Some(event.at);
                self.end_stream(&mut lines);
                for line in shown.trim_end().lines() {
                    self.line(&mut lines, Ink::Bold, &format!("> {line}"));
                }
            }
            EventKind::Message => {
                let was_streamed = std::mem::take(&mut self.streamed);
                self.end_stream(&mut lines);
                for line in shown.trim_end().lines().filter(|_| !was_streamed) {
                    self.line(&mut lines, Ink::Plain, line);
                }
            }
            EventKind::ToolCall => {
                self.end_stream(&mut lines);
                self.calls.begin(event);
            }
            EventKind::ToolResult => {
                if let Some(outcome) = self.calls.end(event) {
                    self.end_stream(&mut lines);
                    self.outcome(&mut lines, &outcome);
                }
            }
            EventKind::Completion => {
                self.end_stream(&mut lines);
                self.end_calls(&mut lines);
                self.streamed = false;
                let reason = body.data.as_ref().and_then(|d| d["stop_reason"].as_str()).unwrap_or("end_turn");
                if reason != "end_turn" {
                    let reason = text::one_line(reason).replace('_', " ");
                    self.line(&mut lines, Ink::Dim, &format!("the turn stopped: {reason}"));
                }
            }
            EventKind::Error => {
                self.end_stream(&mut lines);
                for line in shown.lines() {
                    self.line(&mut lines, Ink::Red, &format!("error: {line}"));
                }
            }
            EventKind::Status | EventKind::System => {
                let state = body.data.as_ref().and_then(|data| data["state"].as_str());
                if let Some(state) = state.filter(|_| body.kind == EventKind::Status) {
                    self.state = text::one_line(state);
                }
                if !shown.trim().is_empty() && !is_routine(event) {
                    self.end_stream(&mut lines);
                    self.line(&mut lines, Ink::Dim, &format!("· {}", text::one_line(&shown)));
                }
            }
            EventKind::Approval if is_closed(event) => {
                self.end_stream(&mut lines);
                let by = body.data.as_ref().and_then(|data| data["by"].as_str()).map(text::one_line);
                let by = by.map(|by| format!("{by} answered: ")).unwrap_or_default();
                self.line(&mut lines, Ink::Dim, &format!("· {by}{}", text::one_line(&shown)));
            }
            EventKind::Approval | EventKind::CallerToolRequest => {
                self.end_stream(&mut lines);
                let shown = if shown.is_empty() { "a question was answered".to_owned() } else { shown };
                self.line(&mut lines, Ink::Yellow, &format!("? {}", text::one_line(&shown)));
            }
            EventKind::Usage => {
                if let Some(usage) = &body.usage {
                    self.used.input += usage.input_tokens;
                    self.used.output += usage.output_tokens;
                    self.used.cost = MicroUsd(self.used.cost.0.saturating_add(usage.cost.0));
                }
            }
        }
        if lines.is_empty() { lines } else { format!("{}{lines}", self.clear()) }
    }

    /// The last line, drawn over the one before; nothing in a pipe.
    pub(crate) fn footer(&mut self, now: Timestamp) -> String {
        let Some(width) = self.width else { return String::new() };
        // In the last column some terminals go on to the next line.
        let room = width.saturating_sub(1);
        // The text that is being written is more telling than what runs beside it.
        let what = if self.partial.is_empty() { self.calls.running() } else { Some(self.partial.clone()) };
        let meters = self.meters(now);
        let what = what.unwrap_or_default();
        let fits = |meter: &&String| text::columns(&what) + 1 + text::columns(meter) <= room;
        let meter = meters.iter().find(fits).or(meters.last()).map_or("", String::as_str);
        let what = text::cut(&what, room.saturating_sub(text::columns(meter) + 1));
        let line = if what.is_empty() { meter.to_owned() } else { format!("{what} {meter}") };
        let drawn = format!("{}{}", self.clear(), self.paint.text(Ink::Dim, &text::cut(&line, room)));
        self.drawn = true;
        drawn
    }

    /// Takes the last line away, if one is drawn.
    pub(crate) fn clear(&mut self) -> String {
        if std::mem::take(&mut self.drawn) { ERASE.to_owned() } else { String::new() }
    }

    /// Ends the view: what streams is finished, the last line is gone, and the sum stands.
    pub(crate) fn finish(&mut self) -> String {
        let mut lines = self.clear();
        self.end_stream(&mut lines);
        self.end_calls(&mut lines);
        let took = match (self.first_at, self.last_at) {
            (Some(first), Some(last)) => last.since(first).as_secs(),
            _ => 0,
        };
        let used = if self.used.is_nothing() { String::new() } else { format!("{} · ", self.used.whole()) };
        self.line(&mut lines, Ink::Dim, &format!("· {used}{}", text::duration(took)));
        lines
    }

    /// Leaves the view while the session goes on: what streams stands as far as it came, and so do calls.
    pub(crate) fn pause(&mut self) -> String {
        let mut lines = self.clear();
        self.end_stream(&mut lines);
        for call in self.calls.take() {
            self.line(&mut lines, Ink::Dim, &format!("{INDENT}… {call}"));
        }
        lines
    }

    /// What stands at the end of the last line, the longest form first.
    fn meters(&self, now: Timestamp) -> Vec<String> {
        /// States in which an agent works: they need no word.
        const WORKS: [&str; 2] = ["", "running"];
        let since = self.task_at.or(self.first_at).unwrap_or(now);
        let time = text::duration(now.since(since).as_secs());
        let state = if WORKS.contains(&self.state.as_str()) { None } else { Some(self.state.clone()) };
        // A session that waits for a task is not busy, for however long.
        let time = if self.state == "idle" { None } else { Some(time) };
        let join = |parts: [Option<String>; 3]| {
            let parts: Vec<String> = parts.into_iter().flatten().collect();
            format!("[{}]", parts.join(" · "))
        };
        let whole = (!self.used.is_nothing()).then(|| self.used.short());
        let cost = (!self.used.is_nothing()).then(|| self.used.cost.to_string());
        vec![
            join([state.clone(), whole, time.clone()]),
            join([state.clone(), cost, time.clone()]),
            join([None, None, time.or(state)]),
        ]
    }

    fn outcome(&self, lines: &mut String, outcome: &Outcome) {
        let (mark, ink) = if outcome.failed { ("✗", Ink::Red) } else { ("✓", Ink::Green) };
        let paint = self.paint;
        let room = self.width.map_or(usize::MAX, |width| width.saturating_sub(INDENT.len() + 2));
        let notes = text::cut(&outcome.notes, room.saturating_sub(CALL_LEAST));
        let call = text::cut(&outcome.call, room.saturating_sub(text::columns(&notes)));
        let mark = paint.text(ink, mark);
        lines.extend([INDENT, &mark, " ", &call, &paint.text(Ink::Dim, &notes), "\n"]);
        // In a pipe a call is one line, and the patch at the end tells what changed.
        let Some(width) = self.width else { return };
        let under = INDENT.repeat(2);
        let (change, left_out) = &outcome.change;
        for (ink, line) in change {
            let line = text::cut(line, width.saturating_sub(under.len()));
            lines.extend([&under, &paint.text(*ink, &line), "\n"]);
        }
        if *left_out > 0 {
            let more = format!("… {} more", text::plural(*left_out, "line"));
            lines.extend([&under, &paint.text(Ink::Dim, &more), "\n"]);
        }
    }

    /// Adds a line that stays, broken to the width.
    fn line(&self, lines: &mut String, ink: Ink, line: &str) {
        let mut rest = line;
        while let Some((first, more)) = self.width.and_then(|width| text::broken(rest, width)) {
            lines.extend([self.paint.text(ink, first).as_str(), "\n"]);
            rest = more;
        }
        lines.extend([self.paint.text(ink, rest).as_str(), "\n"]);
    }

    /// Adds a piece of a message; whole lines, and lines that are as long as the terminal is wide, are done.
    fn stream(&mut self, lines: &mut String, piece: &str, role: Role) {
        if self.speaker != Some(role) {
            self.end_stream(lines);
            self.speaker = Some(role);
        }
        self.streamed |= role == Role::Agent;
        self.partial.push_str(piece);
        let ink = speech(role);
        let partial = std::mem::take(&mut self.partial);
        let mut rest = partial.as_str();
        while let Some((whole, more)) = rest.split_once('\n') {
            self.line(lines, ink, whole);
            rest = more;
        }
        while let Some((first, more)) = self.width.and_then(|width| text::broken(rest, width)) {
            self.line(lines, ink, first);
            rest = more;
        }
        self.partial = rest.to_owned();
    }

    /// Calls that are not answered by now never are.
    fn end_calls(&mut self, lines: &mut String) {
        for call in self.calls.take() {
            self.line(lines, Ink::Dim, &format!("{INDENT}- {call}: no answer"));
        }
    }

    fn end_stream(&mut self, lines: &mut String) {
        let rest = std::mem::take(&mut self.partial);
        let ink = self.speaker.take().map_or(Ink::Plain, speech);
        if !rest.trim().is_empty() {
            self.line(lines, ink, rest.trim_end());
        }
    }
}

// === impl Used ===

impl Used {
    const fn is_nothing(&self) -> bool {
        self.input == 0 && self.output == 0
    }

    fn whole(&self) -> String {
        format!("{} tokens in, {} out, {}", self.input, self.output, self.cost)
    }

    fn short(&self) -> String {
        format!("{} in, {} out, {}", text::short(self.input), text::short(self.output), self.cost)
    }
}

/// What the words of a speaker look like.
const fn speech(role: Role) -> Ink {
    match role {
        Role::Thought => Ink::Dim,
        Role::Agent => Ink::Plain,
        Role::User => Ink::Bold,
    }
}

/// True if a question to a person has its outcome.
fn is_closed(event: &EventView) -> bool {
    let state = event.body.data.as_ref().and_then(|data| data["state"].as_str());
    state.is_some_and(|state| state != "open")
}

/// A change of state that what stands around it tells already.
fn is_routine(event: &EventView) -> bool {
    const ROUTINE: [&str; 5] = ["created", "running", "idle", "ending", "ended"];
    let state = event.body.data.as_ref().and_then(|data| data["state"].as_str());
    event.body.kind == EventKind::Status && state.is_some_and(|state| ROUTINE.contains(&state))
}
