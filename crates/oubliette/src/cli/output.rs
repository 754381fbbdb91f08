//! Where data and hints go, and how they look there.

use std::io;
use std::io::IsTerminal as _;
use std::io::Write as _;

use ob_core::Refusal;
use serde::Serialize;

use super::Context;
use super::args::Global;
use super::paint::Ink;
use super::paint::Paint;
use super::table::Table;
use super::text;

/// The width of a terminal that does not tell.
const WIDTH: usize = 80;
/// Nothing is made to fit fewer columns: a person who makes a window smaller does not read it.
const WIDTH_LEAST: usize = 20;

/// Where text goes.
#[derive(Clone, Debug)]
enum Sink {
    /// Standard output and standard error.
    Standard,
    /// Data and hints, kept for a test.
    #[cfg(test)]
    Memory(std::sync::Arc<std::sync::Mutex<(String, String)>>),
}

/// Standard output and standard error.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    /// Data is printed as JSON.
    pub(crate) json: bool,
    /// Standard output is a terminal, of whatever kind: what it shows must be safe.
    pub(crate) shown: bool,
    /// Standard output is a terminal that can be drawn on, and data is for people.
    pub(crate) terminal: bool,
    /// There is a terminal to ask on, and one to answer from.
    asks: bool,
    /// Colours of data.
    pub(crate) paint: Paint,
    /// Colours of hints.
    hints: Paint,
    sink: Sink,
}

// === impl Output ===

impl Output {
    pub(crate) fn new(context: &Context, global: &Global) -> Self {
        let (shown, told) = (io::stdout().is_terminal(), io::stderr().is_terminal());
        let is_dumb = context.var("TERM") == Some("dumb");
        // JSON is for programs, also where a person looks on.
        let paint = if global.json { Paint(false) } else { Paint::of(context, global.color, shown) };
        Self {
            json: global.json,
            shown,
            terminal: shown && !global.json && !is_dumb,
            asks: told && io::stdin().is_terminal(),
            paint,
            hints: if global.json { Paint(false) } else { Paint::of(context, global.color, told) },
            sink: Sink::Standard,
        }
    }

    /// Keeps data and hints for a test to look at.
    #[cfg(test)]
    pub(crate) fn memory(json: bool) -> Self {
        let sink = Sink::Memory(std::sync::Arc::default());
        let none = Paint(false);
        Self { json, shown: false, terminal: false, asks: false, paint: none, hints: none, sink }
    }

    /// Data and hints so far.
    #[cfg(test)]
    pub(crate) fn kept(&self) -> (String, String) {
        match &self.sink {
            Sink::Standard => unreachable!("a test keeps its output"),
            Sink::Memory(kept) => kept.lock().expect("no test panics with it").clone(),
        }
    }

    /// The terminal's width; nothing if lines may have any length.
    pub(crate) fn width(&self) -> Option<usize> {
        self.terminal.then(|| {
            let size = rustix::termios::tcgetwinsize(io::stdout()).map(|size| usize::from(size.ws_col));
            // Zero is a terminal that does not know, as a serial line.
            size.ok().filter(|columns| *columns > 0).map_or(WIDTH, |columns| columns.max(WIDTH_LEAST))
        })
    }

    /// Prints text as it is. A reader that went away (`| head`) is no failure.
    pub(crate) fn text(&self, text: &str) {
        self.bytes(text.as_bytes());
    }

    /// Prints bytes as they are.
    pub(crate) fn bytes(&self, bytes: &[u8]) {
        match &self.sink {
            Sink::Standard => {
                let mut out = io::stdout().lock();
                if out.write_all(bytes).and_then(|()| out.flush()).is_err() {
                    // There is nobody to tell: who reads the data is gone.
                }
            }
            #[cfg(test)]
            Sink::Memory(kept) => {
                kept.lock().expect("no test panics with it").0.push_str(&String::from_utf8_lossy(bytes));
            }
        }
    }

    /// Prints a value as one line of JSON.
    pub(crate) fn json_line(&self, value: &impl Serialize) {
        match serde_json::to_string(value) {
            Ok(line) => self.text(&format!("{}\n", text::plain_json(&line))),
            Err(error) => self.hint(&format!("cannot write as JSON: {error}")),
        }
    }

    /// Prints a value as JSON for `--json`, else what `people` makes of it.
    pub(crate) fn data(&self, value: &impl Serialize, people: impl FnOnce() -> String) {
        if self.json {
            match serde_json::to_string_pretty(value) {
                Ok(json) => self.text(&format!("{}\n", text::plain_json(&json))),
                Err(error) => self.hint(&format!("cannot write as JSON: {error}")),
            }
        } else {
            self.text(&people());
        }
    }

    /// Rows under a header, as wide as there is room.
    pub(crate) fn table(&self, table: &Table<'_>) -> String {
        table.show(self.width(), self.paint)
    }

    /// Tells people something on standard error.
    pub(crate) fn hint(&self, line: &str) {
        self.tell(&format!("{}\n", text::sanitise(line)));
    }

    /// True if a person can be asked now. In the background nobody can: who reads from the terminal there is stopped.
    pub(crate) fn can_ask(&self) -> bool {
        let in_front = rustix::termios::tcgetpgrp(io::stdin());
        self.asks && in_front.is_ok_and(|group| group == rustix::process::getpgrp())
    }

    /// Asks people something on standard error; the answer is typed behind it.
    pub(crate) fn ask(&self, question: &str) {
        self.tell(&format!("{} ", self.hints.text(Ink::Bold, &text::sanitise(question))));
    }

    /// Tells of something that may turn out to be wrong.
    pub(crate) fn warn(&self, line: &str) {
        self.tell(&format!("{} {}\n", self.hints.text(Ink::Yellow, "warning:"), text::sanitise(line)));
    }

    /// Tells of a refusal on standard error: what, why, and what to do.
    pub(crate) fn refused(&self, refusal: &Refusal) {
        if self.json {
            self.hint(&text::plain_json(&serde_json::json!({ "error": refusal }).to_string()));
            return;
        }
        self.tell(&format!("{} {}\n", self.hints.text(Ink::Red, "error:"), text::sanitise(&refusal.message)));
        if let Some(fix) = &refusal.fix {
            self.tell(&format!("  {} {}\n", self.hints.text(Ink::Cyan, "fix:"), text::sanitise(fix)));
        }
    }

    /// Writes what is safe already to standard error.
    fn tell(&self, text: &str) {
        match &self.sink {
            Sink::Standard => {
                let mut err = io::stderr().lock();
                if err.write_all(text.as_bytes()).and_then(|()| err.flush()).is_err() {
                    // There is nobody to tell.
                }
            }
            #[cfg(test)]
            Sink::Memory(kept) => kept.lock().expect("no test panics with it").1.push_str(text),
        }
    }
}
