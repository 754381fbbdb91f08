//! Where data and hints go, and how they look there.

use std::io;
use std::io::IsTerminal as _;
use std::io::Write as _;

use ob_core::Refusal;
use serde::Serialize;

use super::Context;
use super::text;

/// The width of a terminal that does not tell.
const WIDTH: usize = 80;

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
    /// Colours may be used there.
    pub(crate) colour: bool,
    sink: Sink,
}

// === impl Output ===

impl Output {
    pub(crate) fn new(context: &Context, json: bool) -> Self {
        let shown = io::stdout().is_terminal();
        let terminal = shown && !json && context.var("TERM") != Some("dumb");
        let colour = terminal && context.var("NO_COLOR").is_none();
        Self { json, shown, terminal, colour, sink: Sink::Standard }
    }

    /// Keeps data and hints for a test to look at.
    #[cfg(test)]
    pub(crate) fn memory(json: bool) -> Self {
        let sink = Sink::Memory(std::sync::Arc::default());
        Self { json, shown: false, terminal: false, colour: false, sink }
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
            rustix::termios::tcgetwinsize(io::stdout())
                .map(|size| usize::from(size.ws_col))
                .ok()
                .filter(|columns| *columns >= 20)
                .unwrap_or(WIDTH)
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

    /// Prints rows under a header.
    pub(crate) fn table(&self, header: &[&str], rows: &[Vec<String>]) -> String {
        text::table(header, rows, self.width())
    }

    /// Tells people something on standard error.
    pub(crate) fn hint(&self, line: &str) {
        match &self.sink {
            Sink::Standard => {
                if writeln!(io::stderr().lock(), "{}", text::sanitise(line)).is_err() {
                    // There is nobody to tell.
                }
            }
            #[cfg(test)]
            Sink::Memory(kept) => {
                let mut kept = kept.lock().expect("no test panics with it");
                kept.1.extend([line, "\n"]);
            }
        }
    }

    /// Tells of a refusal on standard error: what, why, and what to do.
    pub(crate) fn refused(&self, refusal: &Refusal) {
        if self.json {
            self.hint(&text::plain_json(&serde_json::json!({ "error": refusal }).to_string()));
            return;
        }
        self.hint(&format!("error: {}", refusal.message));
        if let Some(fix) = &refusal.fix {
            self.hint(&format!("  fix: {fix}"));
        }
    }
}
