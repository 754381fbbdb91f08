//! Tool calls, each folded into one line: what was called, how it went, and on a terminal the change that it made.

use std::time::Duration;

use ob_core::Timestamp;
use ob_core::operation::EventView;
use serde_json::Value;
use similar::ChangeTag;
use similar::TextDiff;

use super::super::paint::Ink;
use super::super::text;

/// Columns of a call in a pipe, where there is no width to cut to.
const CALL_MAX: usize = 160;
/// Lines of a change that are shown under its call; the patch at the end has all of it.
const CHANGE_LINES: usize = 12;
/// A change of more bytes than this is only counted by its lines' numbers on each side: it is not read by a person.
const CHANGE_BYTES: usize = 64 * 1024;
/// How long two texts may be compared; what is found by then is shown.
const COMPARE_MAX: Duration = Duration::from_millis(50);
/// A call that took less is not worth a word.
const SLOW: Duration = Duration::from_secs(1);

/// Calls that have no result yet, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Calls(Vec<Call>);

#[derive(Debug)]
struct Call {
    id: Option<String>,
    text: String,
    at: Timestamp,
}

/// How a call went.
#[derive(Debug)]
pub(super) struct Outcome {
    /// What was called.
    pub(super) call: String,
    /// Whether it did what was asked.
    pub(super) failed: bool,
    /// What is worth a word: exit code, lines, change, time.
    pub(super) notes: String,
    /// The beginning of the change, line by line, and how many lines are left out.
    pub(super) change: (Vec<(Ink, String)>, usize),
}

// === impl Calls ===

impl Calls {
    /// A call begins.
    pub(super) fn begin(&mut self, event: &EventView) {
        let body = &event.body;
        let text = described(body.tool_name.as_deref(), body.arguments.as_ref());
        self.0.push(Call { id: body.tool_call_id.clone(), text, at: event.at });
    }

    /// A call has an answer; nothing if it only moved on.
    pub(super) fn end(&mut self, event: &EventView) -> Option<Outcome> {
        let body = &event.body;
        let data = body.data.as_ref();
        let status = data.and_then(|data| data["status"].as_str()).unwrap_or("completed");
        if matches!(status, "pending" | "in_progress") {
            return None;
        }
        let known = self.0.iter().position(|call| call.id.is_some() && call.id == body.tool_call_id);
        let call = known.map(|at| self.0.remove(at));
        let exit = body.result.as_ref().and_then(exit_code).or_else(|| exit_code(data?.get("_meta")?));
        let mut notes = Vec::new();
        // The mark says already that it went well.
        notes.extend(exit.filter(|code| *code != 0).map(|code| format!("exit {code}")));
        let change = Change::of(body.result.as_ref()).or_else(|| Change::of(data?.get("content")));
        match &change {
            Some(change) => notes.push(format!("+{} -{}", change.new, change.old)),
            None => {
                let lines = body.result.as_ref().map_or(0, count_lines);
                notes.extend((lines > 0).then(|| text::plural(lines, "line")));
            }
        }
        let took = call.as_ref().map(|call| event.at.since(call.at)).unwrap_or_default();
        notes.extend((took >= SLOW).then(|| text::duration(took.as_secs())));
        Some(Outcome {
            call: call
                .map_or_else(|| described(body.tool_name.as_deref(), body.arguments.as_ref()), |c| c.text),
            failed: status == "failed" || exit.is_some_and(|code| code != 0),
            notes: if notes.is_empty() { String::new() } else { format!("  ({})", notes.join(", ")) },
            change: change.map(|change| (change.lines, change.left_out)).unwrap_or_default(),
        })
    }

    /// What runs now, the newest, and how many others.
    pub(super) fn running(&self) -> Option<String> {
        let (newest, others) = self.0.split_last()?;
        let others = if others.is_empty() { String::new() } else { format!(" (+{})", others.len()) };
        Some(format!("… {}{others}", newest.text))
    }

    /// Calls that will not be answered any more.
    pub(super) fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.0).into_iter().map(|call| call.text).collect()
    }
}

/// What a call changed in a file.
#[derive(Debug, Default)]
struct Change {
    old: usize,
    new: usize,
    lines: Vec<(Ink, String)>,
    left_out: usize,
}

// === impl Change ===

impl Change {
    /// All changes among an answer's parts, in one.
    fn of(content: Option<&Value>) -> Option<Self> {
        let parts = content?.as_array()?.iter().filter(|part| part["type"] == "diff");
        let mut whole: Option<Self> = None;
        for part in parts {
            let old = part["oldText"].as_str().unwrap_or_default();
            let new = part["newText"].as_str().unwrap_or_default();
            whole.get_or_insert_default().add(old, new);
        }
        whole
    }

    fn add(&mut self, old: &str, new: &str) {
        if old.len() + new.len() > CHANGE_BYTES {
            self.old += old.lines().count();
            self.new += new.lines().count();
            return;
        }
        let diff = TextDiff::configure().timeout(COMPARE_MAX).diff_lines(old, new);
        for change in diff.iter_all_changes() {
            let (sign, ink, count) = match change.tag() {
                ChangeTag::Equal => continue,
                ChangeTag::Delete => ("-", Ink::Red, &mut self.old),
                ChangeTag::Insert => ("+", Ink::Green, &mut self.new),
            };
            *count += 1;
            if self.lines.len() < CHANGE_LINES {
                let line = text::expand(&text::sanitise(change.value().trim_end_matches(['\r', '\n'])));
                self.lines.push((ink, format!("{sign} {line}")));
            } else {
                self.left_out += 1;
            }
        }
    }
}

/// A tool's name and what tells most of its arguments.
fn described(name: Option<&str>, arguments: Option<&Value>) -> String {
    /// The arguments that tell what a call is about, the most telling first.
    const MAIN: [&str; 8] = ["command", "path", "file_path", "pattern", "query", "url", "name", "prompt"];
    let name = text::one_line(name.unwrap_or("tool"));
    let main = arguments.and_then(|arguments| {
        let named = MAIN.iter().find_map(|key| arguments.get(key).and_then(Value::as_str));
        named.or_else(|| arguments.as_object()?.values().find_map(Value::as_str))
    });
    // Agents often put the argument into the title already.
    let tells =
        |main: &str| name.split(' ').any(|word| word == main) || (main.len() > 3 && name.contains(main));
    match main.map(text::one_line) {
        Some(main) if !main.is_empty() && !tells(&main) => text::cut(&format!("{name} {main}"), CALL_MAX),
        _ => text::cut(&name, CALL_MAX),
    }
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

    fn change(old: &str, new: &str) -> Change {
        let content = json!([{ "type": "diff", "path": "a", "oldText": old, "newText": new }]);
        Change::of(Some(&content)).expect("a change")
    }

    #[test]
    fn a_change_is_its_lines_in_colours() {
        let changed = change("a\nb\nc\n", "a\nB\nc\nd\n");
        assert_eq!((changed.old, changed.new, changed.left_out), (1, 2, 0));
        let lines: Vec<(Ink, &str)> = changed.lines.iter().map(|(ink, line)| (*ink, line.as_str())).collect();
        assert_eq!(lines, [(Ink::Red, "- b"), (Ink::Green, "+ B"), (Ink::Green, "+ d")]);
    }

    #[test]
    fn a_large_change_is_cut_and_a_huge_one_counted() {
        let many: String = (0..40).map(|line| format!("{line}\n")).collect();
        let changed = change("", &many);
        assert_eq!(
            (changed.new, changed.lines.len(), changed.left_out),
            (40, CHANGE_LINES, 40 - CHANGE_LINES)
        );
        let changed = change("", &"x\n".repeat(CHANGE_BYTES));
        assert_eq!((changed.new, changed.lines.len()), (CHANGE_BYTES, 0));
    }

    #[test]
    fn what_a_terminal_obeys_does_not_get_through_a_change() {
        let changed = change("", "\x1b[2Jevil\u{9b}31m\r\n\tx\n");
        let lines: Vec<&str> = changed.lines.iter().map(|(_, line)| line.as_str()).collect();
        assert_eq!(lines, ["+ evil", "+     x"]);
    }
}
