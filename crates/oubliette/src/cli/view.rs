//! What a person sees of a session's events. Pure: events in, text out.
//!
//! On a terminal text streams, each tool call is folded into one line, and a last line that is drawn over tells what
//! runs, what was used and how long it took. In a pipe each line is whole and final: messages, not pieces of them.
//! Everything that an agent wrote is sanitised before it is shown.

use std::collections::HashMap;

use ob_core::EventKind;
use ob_core::event::Role;
use ob_core::ledger::MicroUsd;
use ob_core::operation::EventView;
use serde_json::Value;

use super::text;

const DIM: &str = "\x1b[2m";
const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const BOLD: &str = "\x1b[1m";
const RESET: &str = "\x1b[0m";

/// Back to the start of the line, and everything from there on is gone.
const ERASE: &str = "\r\x1b[J";

/// Characters of a tool's main argument that are shown in a pipe, where there is no width to cut to.
const ARGUMENT_MAX: usize = 160;

/// How to show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// On a terminal of so many columns.
    Terminal { width: usize, colour: bool },
    /// In a pipe or a file.
    Plain,
}

/// The live view of one session.
#[derive(Debug)]
pub(crate) struct View {
    style: Style,
    /// Text that streams and has no newline yet, and who speaks.
    partial: String,
    speaker: Option<Role>,
    /// True if pieces of the message were shown, so that the whole of it need not be.
    streamed: bool,
    /// Calls without a result: what to write when it comes.
    open: HashMap<String, String>,
    input_tokens: u64,
    output_tokens: u64,
    cost: MicroUsd,
    drawn: bool,
}

// === impl View ===

impl View {
    pub(crate) fn new(style: Style) -> Self {
        Self {
            style,
            partial: String::new(),
            speaker: None,
            streamed: false,
            open: HashMap::new(),
            input_tokens: 0,
            output_tokens: 0,
            cost: MicroUsd(0),
            drawn: false,
        }
    }

    /// What to print for an event.
    pub(crate) fn event(&mut self, event: &EventView) -> String {
        let body = &event.body;
        let shown = body.text.as_deref().map(text::sanitise).unwrap_or_default();
        let mut lines = String::new();
        match body.kind {
            EventKind::Delta => {
                if self.style != Style::Plain {
                    self.stream(&mut lines, &shown, body.role.unwrap_or(Role::Agent));
                }
            }
            EventKind::Message => {
                let was_streamed = std::mem::take(&mut self.streamed) && body.role != Some(Role::User);
                self.end_stream(&mut lines);
                if !was_streamed {
                    let prefix = if body.role == Some(Role::User) { "> " } else { "" };
                    let style = if body.role == Some(Role::User) { BOLD } else { "" };
                    for line in shown.trim_end().lines() {
                        self.line(&mut lines, style, &format!("{prefix}{line}"));
                    }
                }
            }
            EventKind::ToolCall => {
                self.end_stream(&mut lines);
                let call = self.call(body.tool_name.as_deref(), body.arguments.as_ref());
                match &body.tool_call_id {
                    Some(id) => {
                        self.open.insert(id.clone(), call);
                    }
                    None => self.line(&mut lines, "", &format!("  {call}")),
                }
            }
            EventKind::ToolResult => self.result(&mut lines, event),
            EventKind::Completion => {
                self.end_stream(&mut lines);
                self.streamed = false;
                let reason = body.data.as_ref().and_then(|d| d["stop_reason"].as_str()).unwrap_or("end_turn");
                if reason != "end_turn" {
                    let reason = text::one_line(reason).replace('_', " ");
                    self.line(&mut lines, DIM, &format!("the turn stopped: {reason}"));
                }
            }
            EventKind::Error => {
                self.end_stream(&mut lines);
                for line in shown.lines() {
                    self.line(&mut lines, RED, &format!("error: {line}"));
                }
            }
            EventKind::Status | EventKind::System => {
                if !shown.trim().is_empty() && !is_routine(event) {
                    self.end_stream(&mut lines);
                    self.line(&mut lines, DIM, &format!("· {}", text::one_line(&shown)));
                }
            }
            EventKind::Approval | EventKind::CallerToolRequest => {
                self.end_stream(&mut lines);
                let shown = if shown.is_empty() { "a question was answered".to_owned() } else { shown };
                self.line(&mut lines, DIM, &format!("? {}", text::one_line(&shown)));
            }
            EventKind::Usage => {
                if let Some(usage) = &body.usage {
                    self.input_tokens += usage.input_tokens;
                    self.output_tokens += usage.output_tokens;
                    self.cost = MicroUsd(self.cost.0.saturating_add(usage.cost.0));
                }
            }
        }
        if lines.is_empty() { lines } else { format!("{}{lines}", self.clear()) }
    }

    /// The last line, drawn over the one before; nothing in a pipe.
    pub(crate) fn footer(&mut self, seconds: u64) -> String {
        let Style::Terminal { width, colour } = self.style else { return String::new() };
        let mut parts = Vec::new();
        // The text that is being written is more telling than what runs beside it.
        if !self.partial.is_empty() {
            parts.push(self.partial.clone());
        } else if let Some(call) = self.open.values().next() {
            parts.push(format!("… {call}"));
        }
        let used = self.used();
        parts.push(format!(
            "[{used}{}{}]",
            if used.is_empty() { "" } else { " · " },
            text::duration(seconds)
        ));
        let tail_width = parts.last().map_or(0, |tail| tail.chars().count());
        if let [first, _] = parts.as_mut_slice() {
            *first = text::cut(first, width.saturating_sub(tail_width + 2));
        }
        let line = text::cut(&parts.join(" "), width.saturating_sub(1));
        let drawn = format!("{}{}{line}{}", self.clear(), paint(colour, DIM), paint(colour, RESET));
        self.drawn = true;
        drawn
    }

    /// Ends the view: what streams is finished, the last line is gone, and the sum stands.
    pub(crate) fn finish(&mut self, seconds: u64) -> String {
        let mut lines = self.clear();
        self.end_stream(&mut lines);
        for (_, call) in std::mem::take(&mut self.open) {
            self.line(&mut lines, DIM, &format!("  - {call}: no answer"));
        }
        let used = self.used();
        let used = if used.is_empty() { String::new() } else { format!("{used} · ") };
        self.line(&mut lines, DIM, &format!("· {used}{}", text::duration(seconds)));
        lines
    }

    fn used(&self) -> String {
        if self.input_tokens + self.output_tokens == 0 {
            return String::new();
        }
        format!("{} tokens in, {} out, {}", self.input_tokens, self.output_tokens, self.cost)
    }

    /// Takes the last line away, if one is drawn.
    fn clear(&mut self) -> String {
        if std::mem::take(&mut self.drawn) { ERASE.to_owned() } else { String::new() }
    }

    fn line(&self, lines: &mut String, style: &str, line: &str) {
        let colour = matches!(self.style, Style::Terminal { colour: true, .. }) && !style.is_empty();
        lines.push_str(paint(colour, style));
        lines.push_str(line);
        lines.push_str(paint(colour, RESET));
        lines.push('\n');
    }

    /// Adds a piece of a message; whole lines, and lines that are as long as the terminal is wide, are done.
    fn stream(&mut self, lines: &mut String, piece: &str, role: Role) {
        if self.speaker != Some(role) {
            self.end_stream(lines);
            self.speaker = Some(role);
        }
        self.streamed |= role == Role::Agent;
        self.partial.push_str(piece);
        let style = if role == Role::Thought { DIM } else { "" };
        let Style::Terminal { width, .. } = self.style else { return };
        loop {
            let rest = if let Some((whole, rest)) = self.partial.split_once('\n') {
                self.line(lines, style, whole);
                rest.to_owned()
            } else if self.partial.chars().count() > width {
                let cut: usize = self.partial.chars().take(width).map(char::len_utf8).sum();
                let at = self.partial[..cut].rfind(' ').filter(|at| *at > 0).unwrap_or(cut);
                self.line(lines, style, &self.partial[..at]);
                self.partial[at..].trim_start_matches(' ').to_owned()
            } else {
                return;
            };
            self.partial = rest;
        }
    }

    fn end_stream(&mut self, lines: &mut String) {
        let rest = std::mem::take(&mut self.partial);
        let style = if self.speaker.take() == Some(Role::Thought) { DIM } else { "" };
        if !rest.trim().is_empty() {
            self.line(lines, style, rest.trim_end());
        }
    }

    /// A tool's name and what tells most of its arguments.
    fn call(&self, name: Option<&str>, arguments: Option<&Value>) -> String {
        /// The arguments that tell what a call is about, the most telling first.
        const MAIN: [&str; 8] = ["command", "path", "file_path", "pattern", "query", "url", "name", "prompt"];
        let name = text::one_line(name.unwrap_or("tool"));
        let main = arguments.and_then(|arguments| {
            let named = MAIN.iter().find_map(|key| arguments.get(key).and_then(Value::as_str));
            named.or_else(|| arguments.as_object()?.values().find_map(Value::as_str))
        });
        let max = match self.style {
            Style::Terminal { width, .. } => width.saturating_sub(24).max(16),
            Style::Plain => ARGUMENT_MAX,
        };
        match main.map(text::one_line) {
            // Agents often put the argument into the title already.
            Some(main) if !main.is_empty() && !name.contains(&main) => {
                text::cut(&format!("{name} {main}"), max)
            }
            _ => text::cut(&name, max),
        }
    }

    fn result(&mut self, lines: &mut String, event: &EventView) {
        let body = &event.body;
        let status = body.data.as_ref().and_then(|d| d["status"].as_str()).unwrap_or("completed");
        if matches!(status, "pending" | "in_progress") {
            return;
        }
        self.end_stream(lines);
        let known = body.tool_call_id.as_ref().and_then(|id| self.open.remove(id));
        let call = known.unwrap_or_else(|| self.call(body.tool_name.as_deref(), body.arguments.as_ref()));
        let exit = body.result.as_ref().and_then(exit_code);
        let failed = status == "failed" || exit.is_some_and(|code| code != 0);
        let (mark, style) = if failed { ("✗", RED) } else { ("✓", GREEN) };
        let mut notes = Vec::new();
        if let Some(code) = exit {
            notes.push(format!("exit {code}"));
        }
        match body.result.as_ref().map(count_lines) {
            Some(count) if count > 0 => notes.push(text::plural(count, "line")),
            _ => {}
        }
        let notes = if notes.is_empty() { String::new() } else { format!("  ({})", notes.join(", ")) };
        let colour = matches!(self.style, Style::Terminal { colour: true, .. });
        let line = format!(
            "  {}{mark}{} {call}{}{notes}{}",
            paint(colour, style),
            paint(colour, RESET),
            paint(colour, DIM),
            paint(colour, RESET)
        );
        self.line(lines, "", &line);
    }
}

/// A change of state that what stands around it tells already.
fn is_routine(event: &EventView) -> bool {
    const ROUTINE: [&str; 5] = ["created", "running", "idle", "ending", "ended"];
    let state = event.body.data.as_ref().and_then(|data| data["state"].as_str());
    event.body.kind == EventKind::Status && state.is_some_and(|state| ROUTINE.contains(&state))
}

fn paint(colour: bool, code: &str) -> &str {
    if colour { code } else { "" }
}

fn exit_code(result: &Value) -> Option<i64> {
    ["exit_code", "exitCode", "code"].iter().find_map(|key| result.get(key)?.as_i64())
}

/// Lines of the text that a tool answered, wherever it is in the result.
fn count_lines(result: &Value) -> usize {
    match result {
        Value::String(text) => text.lines().count(),
        Value::Array(parts) => parts.iter().map(count_lines).sum(),
        Value::Object(fields) => ["output", "text", "content", "stdout"]
            .iter()
            .find_map(|key| fields.get(*key))
            .map_or(0, count_lines),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A recorded session: a task, a thought, streaming, tools that work and that fail, an attack, the end.
    fn recorded() -> Vec<EventView> {
        let bodies = json!([
            { "type": "status", "text": "created", "data": { "state": "created" } },
            { "type": "status", "text": "starting", "data": { "state": "starting" } },
            { "type": "message", "role": "user", "text": "make the tests pass" },
            { "type": "system", "text": "agent ready: builtin 0.1.0" },
            { "type": "delta", "role": "thought", "text": "I look at the test first." },
            { "type": "delta", "role": "agent", "text": "I run the tests, and then I look at what the failing one expects, " },
            { "type": "delta", "role": "agent", "text": "so that I change as little as I can.\nFirst:" },
            { "type": "message", "role": "agent", "text": "I run the tests, and then I look at what the failing one expects, so that I change as little as I can.\nFirst:" },
            { "type": "tool_call", "tool_name": "run", "tool_call_id": "c1", "arguments": { "command": "cargo test 2>&1 | tail -n 40", "timeout_s": 60 } },
            { "type": "tool_result", "tool_call_id": "c1", "data": { "status": "in_progress" } },
            { "type": "tool_result", "tool_call_id": "c1", "result": { "exit_code": 101, "output": "a\nb\nc" }, "data": { "status": "completed" } },
            { "type": "usage", "usage": { "input_tokens": 1200, "output_tokens": 80, "cost": 4800, "model": "m" } },
            { "type": "tool_call", "tool_name": "edit", "tool_call_id": "c2", "arguments": { "path": "src/lib.rs", "old": "a", "new": "b" } },
            { "type": "tool_result", "tool_call_id": "c2", "result": "done", "data": { "status": "completed" } },
            { "type": "tool_call", "tool_name": "read", "tool_call_id": "c3", "arguments": { "path": "\u{1b}[2J\u{1b}]0;owned\u{7}no such file" } },
            { "type": "tool_result", "tool_call_id": "c3", "result": [{ "type": "content", "content": { "text": "not found" } }], "data": { "status": "failed" } },
            { "type": "approval", "text": "run `make`? allowed: sandboxed" },
            { "type": "message", "role": "agent", "text": "Done. \u{1b}[31mThe test passes now." },
            { "type": "error", "text": "the model answered 529; try again" },
            { "type": "tool_call", "tool_name": "run", "tool_call_id": "c4", "arguments": { "command": "sleep 100" } },
            { "type": "completion", "text": "Done.", "data": { "stop_reason": "cancelled" } },
            { "type": "status", "text": "idle", "data": { "state": "idle" } },
        ]);
        let bodies: Vec<ob_core::EventBody> = serde_json::from_value(bodies).expect("events");
        let at = ob_core::Timestamp::from_micros(1_795_000_000_000_000);
        (0..).zip(bodies).map(|(index, body)| EventView { index, at, body }).collect()
    }

    fn shown(style: Style) -> String {
        let mut view = View::new(style);
        let mut text = String::new();
        for (second, event) in (0..).zip(recorded()) {
            text.push_str(&view.event(&event));
            text.push_str(&view.footer(second));
        }
        text.push_str(&view.finish(75));
        text
    }

    #[test]
    fn in_a_pipe_every_line_is_whole() {
        let text = shown(Style::Plain);
        assert!(!text.contains('\x1b') && !text.contains('\r'));
        insta::assert_snapshot!("view_plain", text);
    }

    #[test]
    fn on_a_terminal_text_streams_and_tools_fold() {
        // Escape and carriage return made visible, so that the snapshot can be read.
        let text = shown(Style::Terminal { width: 60, colour: true });
        insta::assert_snapshot!("view_terminal", text.replace('\x1b', "␛").replace('\r', "␍"));
    }

    #[test]
    fn without_colour_only_the_last_line_is_drawn_over() {
        let text = shown(Style::Terminal { width: 60, colour: false });
        assert!(!text.replace(ERASE, "").contains('\x1b'), "{text:?}");
    }

    #[test]
    fn a_terminal_shows_a_streamed_message_once() {
        let text = shown(Style::Terminal { width: 200, colour: false });
        // What stands on the terminal in the end: what was drawn over is gone.
        let stands: Vec<&str> =
            text.lines().map(|line| line.rsplit(ERASE).next().unwrap_or_default()).collect();
        assert_eq!(
            stands.join("\n").matches("so that I change as little as I can").count(),
            1,
            "{stands:#?}"
        );
    }

    #[test]
    fn no_line_that_is_drawn_over_is_wider_than_the_terminal() {
        for width in 20..80 {
            let mut view = View::new(Style::Terminal { width, colour: false });
            for event in recorded() {
                view.event(&event);
                let footer = view.footer(100_000).replace(ERASE, "");
                assert!(footer.chars().count() < width, "{width}: {footer}");
            }
        }
    }
}
