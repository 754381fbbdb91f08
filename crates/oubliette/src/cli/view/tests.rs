//! The view of a recorded session, at each width, with colours and without, in a pipe. Terminals are emulated, so that
//! what is compared is what a person sees.

use ob_core::EventBody;
use serde_json::json;

use super::*;

/// A recorded session: a task, a thought, streaming, tools that work, change and fail, an attack, the end.
fn recorded() -> Vec<EventView> {
    let said = "I run the tests, and then I look at what the failing one expects, so that I change as little as I can.\nFirst:";
    let bodies = json!([
        { "type": "status", "text": "created", "data": { "state": "created" } },
        { "type": "status", "text": "starting", "data": { "state": "starting" } },
        { "type": "message", "role": "user", "text": "make the tests pass" },
        { "type": "system", "text": "agent ready: builtin 0.1.0" },
        { "type": "status", "text": "running", "data": { "state": "running" } },
        { "type": "delta", "role": "thought", "text": "I look at the test first." },
        { "type": "delta", "role": "agent", "text": "I run the tests, and then I look at what the failing one expects, " },
        { "type": "delta", "role": "agent", "text": "so that I change as little as I can.\nFirst:" },
        { "type": "message", "role": "agent", "text": said },
        { "type": "tool_call", "tool_name": "run", "tool_call_id": "c1", "arguments": { "command": "cargo test 2>&1 | tail -n 40", "timeout_s": 60 } },
        { "type": "tool_result", "tool_call_id": "c1", "data": { "status": "in_progress" } },
        { "type": "tool_result", "tool_call_id": "c1", "result": [{ "type": "content", "content": { "text": "a\nb\nc" } }], "data": { "status": "failed", "_meta": { "exitCode": 101 } } },
        { "type": "usage", "usage": { "input_tokens": 1200, "output_tokens": 80, "cost": 4800, "model": "m" } },
        { "type": "tool_call", "tool_name": "edit", "tool_call_id": "c2", "arguments": { "path": "src/lib.rs", "old": "a", "new": "b" } },
        { "type": "tool_result", "tool_call_id": "c2", "data": { "status": "completed" }, "result": [
            { "type": "content", "content": { "text": "changed 1 place" } },
            { "type": "diff", "path": "/w/src/lib.rs", "oldText": "fn sum(a: u32, b: u32) -> u32 {\n\ta - b\n}\n", "newText": "fn sum(a: u32, b: u32) -> u32 {\n\t// Both are small: a sum of any two of them fits into the type, which the tests show.\n\ta + b\n}\n" },
        ] },
        { "type": "tool_call", "tool_name": "read", "tool_call_id": "c3", "arguments": { "path": "\u{1b}[2J\u{1b}]0;owned\u{7}no such file" } },
        { "type": "tool_result", "tool_call_id": "c3", "result": [{ "type": "content", "content": { "text": "not found" } }], "data": { "status": "failed" } },
        { "type": "approval", "text": "run `make`? allowed: sandboxed" },
        { "type": "message", "role": "agent", "text": "Done. \u{1b}[31mThe test passes now, and 日本語のテキストも壊れずに折り返されるはずです。" },
        { "type": "error", "text": "the model answered 529; try again" },
        { "type": "tool_call", "tool_name": "run", "tool_call_id": "c4", "arguments": { "command": "sleep 100" } },
        { "type": "tool_call", "tool_name": "read", "tool_call_id": "c5", "arguments": { "path": "a" } },
        { "type": "completion", "text": "Done.", "data": { "stop_reason": "cancelled" } },
        { "type": "status", "text": "idle", "data": { "state": "idle" } },
    ]);
    let bodies: Vec<EventBody> = serde_json::from_value(bodies).expect("events");
    (0..).zip(bodies).map(|(index, body)| EventView { index, at: second(index), body }).collect()
}

/// So many seconds after the beginning.
fn second(number: u64) -> Timestamp {
    let micros = i64::try_from(number).expect("few seconds") * 1_000_000;
    Timestamp::from_micros(1_795_000_000_000_000 + micros)
}

/// What is written, the last line drawn after each event.
fn written(width: Option<usize>, colour: bool) -> String {
    let mut view = View::new(width, Paint(colour));
    let mut text = String::new();
    for event in recorded() {
        text.push_str(&view.event(&event));
        text.push_str(&view.footer(event.at));
    }
    text + &view.finish()
}

/// What stands on a terminal then. With colours, each run of text in one is in brackets behind its letter.
fn screen(width: u16, colour: bool) -> String {
    let mut terminal = vt100::Parser::new(60, width, 0);
    terminal.process(written(Some(width.into()), colour).replace('\n', "\r\n").as_bytes());
    let screen = terminal.screen();
    let mut rows: Vec<String> = (0..60).map(|row| read(screen, row, width)).collect();
    while rows.last().is_some_and(String::is_empty) {
        rows.pop();
    }
    rows.join("\n")
}

fn read(screen: &vt100::Screen, row: u16, width: u16) -> String {
    let mut line = String::new();
    let mut ink = None;
    for cell in (0..width).filter_map(|column| screen.cell(row, column)).filter(|c| !c.is_wide_continuation())
    {
        let now = match cell.fgcolor() {
            vt100::Color::Idx(1) => Some("red"),
            vt100::Color::Idx(2) => Some("green"),
            vt100::Color::Idx(3) => Some("yellow"),
            vt100::Color::Idx(6) => Some("cyan"),
            _ if cell.bold() => Some("bold"),
            _ if cell.dim() => Some("dim"),
            _ => None,
        };
        if now != ink {
            line.push_str(if ink.is_some() { "}" } else { "" });
            line.extend(now.map(|name| format!("{{{name} ")));
            ink = now;
        }
        line.push_str(if cell.has_contents() { cell.contents() } else { " " });
    }
    line.push_str(if ink.is_some() { "}" } else { "" });
    line.trim_end().to_owned()
}

#[test]
fn in_a_pipe_every_line_is_whole() {
    let text = written(None, false);
    assert!(!text.contains('\x1b') && !text.contains('\r'));
    insta::assert_snapshot!("plain", text);
}

#[test]
fn in_a_pipe_in_colour_lines_are_as_whole() {
    let text = written(None, true);
    assert!(!text.contains('\r') && text.contains("\x1b[31m✗\x1b[0m"), "{text:?}");
    assert_eq!(super::super::text::sanitise(&text), written(None, false));
}

#[test]
fn a_terminal_shows_each_width_without_a_broken_line() {
    for width in [40, 80, 120] {
        insta::assert_snapshot!(format!("terminal_{width}"), screen(width, false));
    }
}

#[test]
fn colours_tell_right_from_wrong_and_words_from_asides() {
    insta::assert_snapshot!("terminal_80_colour", screen(80, true));
}

#[test]
fn without_colour_only_the_last_line_is_drawn_over() {
    let text = written(Some(60), false);
    assert!(!text.replace(ERASE, "").contains('\x1b'), "{text:?}");
}

#[test]
fn a_terminal_shows_a_streamed_message_once() {
    assert_eq!(screen(200, false).matches("so that I change as little as I can").count(), 1);
}

#[test]
fn no_line_is_wider_than_the_terminal() {
    for width in 20..100 {
        let text = written(Some(width), false);
        for line in text.split(['\n', '\r']) {
            let line = line.trim_start_matches("\x1b[J");
            assert!(text::columns(line) <= width, "{width}: {line}");
        }
        let mut view = View::new(Some(width), Paint(false));
        for event in recorded() {
            view.event(&event);
            let footer = view.footer(second(100_000)).replace(ERASE, "");
            assert!(text::columns(&footer) < width, "{width}: {footer}");
        }
    }
}

#[test]
fn the_last_line_tells_what_runs_what_it_used_and_how_long_it_took() {
    let mut view = View::new(Some(60), Paint(false));
    let mut shown = Vec::new();
    for event in recorded() {
        view.event(&event);
        shown.push(view.footer(event.at).replace(ERASE, ""));
    }
    insta::assert_snapshot!("last_lines", shown.join("\n"));
}

/// A window that becomes narrower or wider while a message streams: what comes then fits what it is then.
#[test]
fn a_resize_counts_from_the_next_line_on() {
    let mut view = View::new(Some(80), Paint(false));
    let piece = |index: u64| {
        let body = json!({ "type": "delta", "role": "agent", "text": "words and more of them, one after the other " });
        EventView { index, at: second(index), body: serde_json::from_value(body).expect("an event") }
    };
    let widest = |view: &mut View, width: usize| {
        view.resize(Some(width));
        let text: String = (0..8).map(|index| view.event(&piece(index))).collect();
        // The first line was begun at the width before.
        text.lines().skip(1).map(text::columns).max()
    };
    assert!(widest(&mut view, 80).is_some_and(|widest| (60..=80).contains(&widest)));
    assert!(widest(&mut view, 30).is_some_and(|widest| (20..=30).contains(&widest)));
    assert!(widest(&mut view, 100).is_some_and(|widest| (80..=100).contains(&widest)));
    let mut pipe = View::new(None, Paint(false));
    pipe.resize(Some(20));
    assert_eq!(pipe.footer(second(0)), "", "a pipe stays one");
}
