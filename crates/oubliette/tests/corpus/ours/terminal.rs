//! What an agent says, on an operator's terminal: a real one, by the real program.
//!
//! One session, the painter's, says every payload in every place that an agent can put text: messages, names of tools,
//! their arguments and results, names and contents of files, the task. Every view of it is then shown on a terminal.

use std::collections::BTreeMap;
use std::process::Command;

use ob_testkit::Answer;
use serde_json::json;

use crate::batch::Batch;
use crate::case::Case;
use crate::case::Verdict;
use crate::case::Verdict::Got;
use crate::case::Verdict::Held;
use crate::case::Verdict::Missing;
use crate::terminal::Terminal;

/// Wide, so that no payload is torn where a line is.
const COLUMNS: u16 = 200;

const CONTROL: &str = "the same text written to a terminal as it is";

/// Text that a terminal obeys.
struct Payload {
    id: &'static str,
    tries: &'static str,
    shows: &'static str,
    text: &'static str,
}

const fn payload(id: &'static str, tries: &'static str, shows: &'static str, text: &'static str) -> Payload {
    Payload { id, tries, shows, text }
}

const PAYLOADS: &[Payload] = &[
    payload("terminal.clear", "clear the screen", "what was there before is gone", "\x1b[2J\x1b[H"),
    payload("terminal.colour", "colour what follows", "text passes for the program's own", "\x1b[32m"),
    payload("terminal.alternate", "switch to the other screen", "what follows is hidden", "\x1b[?1049h"),
    payload("terminal.title", "set the window's title", "the operator is misled", "\x1b]0;owned\x07"),
    payload(
        "terminal.clipboard",
        "put a command on the clipboard",
        "the operator pastes it",
        "\x1b]52;c;ZXZpbA==\x07",
    ),
    payload(
        "terminal.link",
        "hide a link behind a text",
        "the operator clicks on another one",
        "\x1b]8;;http://evil.invalid\x1b\\",
    ),
    payload("terminal.position", "ask where the cursor is", "the answer is typed into the shell", "\x1b[6n"),
    payload(
        "terminal.report",
        "ask for the window's title",
        "the answer is typed into the shell",
        "\x1b[21t",
    ),
    payload(
        "terminal.device",
        "ask for a setting (DECRQSS)",
        "the answer is typed into the shell",
        "\x1bP$q m\x1b\\",
    ),
    payload(
        "terminal.picture",
        "send a picture (APC)",
        "a parser of pictures is open",
        "\x1b_Gf=24;AAAA\x1b\\",
    ),
    payload("terminal.private", "send a private message (PM)", "what follows is swallowed", "\x1b^x\x1b\\"),
    payload(
        "terminal.one_byte",
        "use the one-character form of an escape sequence",
        "a filter of the longer form is gone around",
        "\u{9b}2J",
    ),
    payload(
        "terminal.one_byte_title",
        "use the one-character form for a title",
        "a filter of the longer form is gone around",
        "\u{9d}0;owned\u{9c}",
    ),
    payload("terminal.answer", "ask for the answerback", "the answer is typed into the shell", "\x05"),
    payload("terminal.bell", "ring", "a nuisance without end", "\x07"),
    payload("terminal.back", "go back and write over", "text is shown that was not said", "\x08\x08\x08"),
    payload(
        "terminal.line_start",
        "return to the line's start and write over",
        "text is shown that was not said",
        "\rover",
    ),
    payload("terminal.shift", "shift to another set of characters", "what follows cannot be read", "\x0e"),
    payload("terminal.reset", "reset the terminal", "its settings are gone", "\x1bc"),
    payload("terminal.delete", "send a delete character", "some terminals obey it", "\x7f"),
    payload(
        "terminal.direction",
        "turn the direction of text",
        "a name reads as another one",
        "\u{202e}gpj.exe",
    ),
    payload(
        "terminal.isolate",
        "turn it with the newer characters",
        "a name reads as another one",
        "\u{2067}gpj.exe",
    ),
];

/// A view of the painter's session on a terminal.
const VIEWS: &[(&str, &str, &[&str])] = &[
    ("terminal.view_run", "obey anything that is shown while a task runs", &[]),
    ("terminal.view_events", "obey anything in the events of a session", &["session", "events"]),
    ("terminal.view_session", "obey anything in what is said of a session", &["session", "get"]),
    ("terminal.view_sessions", "obey anything in the list of sessions", &["session", "list"]),
    ("terminal.view_diff", "obey anything in a patch", &["session", "diff"]),
    ("terminal.view_json", "obey anything in events as JSON", &["session", "events", "--json"]),
    ("terminal.view_diff_json", "obey anything in a patch as JSON", &["session", "diff", "--json"]),
    (
        "terminal.view_sessions_json",
        "obey anything in the list of sessions as JSON",
        &["session", "list", "--json"],
    ),
];

/// All of them.
pub(super) fn cases() -> Vec<Case> {
    let payloads = PAYLOADS.iter().map(|p| Case::seen(p.id, p.tries, p.shows, CONTROL, is_shown, is_obeyed));
    let views = VIEWS.iter().map(|(id, tries, _)| {
        Case::seen(
            id,
            tries,
            "something but colours and the program's own line got through",
            CONTROL,
            has_stray,
            stray_control,
        )
    });
    let exact = Case::seen(
        "terminal.exact",
        "have text changed on its way into JSON",
        "programs see another text than was said",
        "the same text as a terminal is shown it",
        is_changed,
        is_changed_for_people,
    );
    let dumb = Case::seen(
        "terminal.dumb",
        "show a patch on a terminal that says it is dumb",
        "a setting turns the protection off",
        CONTROL,
        has_stray,
        stray_control,
    );
    payloads.chain(views).chain([exact, dumb]).collect()
}

/// A text with every payload in it, each behind a mark of its own.
fn everything() -> String {
    PAYLOADS.iter().map(|payload| format!("{}{}|\n", mark(payload.id), payload.text)).collect()
}

fn mark(id: &str) -> String {
    format!("<{}>", id.rsplit('.').next().unwrap_or(id))
}

/// Has the painter's session say everything, and takes down what an operator sees.
pub(crate) fn paint(batch: &mut Batch) {
    let everything = everything();
    let source = batch.home.repository("painting", &[("a.txt", "one\n")]);
    // Its own file names: what git lets through, and what it quotes.
    let names = "import sys\nfor i, p in enumerate(sys.stdin.read().split('|\\n')):\n    p and open('f%d-' % i + p.replace('/', '_'), 'w').write(p + '\\n')\n";
    let write = format!(
        "cat > all.txt <<'END'\n{everything}END\npython3 -c \"$(printf '%s' '{}')\" < all.txt; cat all.txt",
        names.replace('\'', "'\\''")
    );
    batch
        .model
        .push(Answer::message(Some(everything.clone()), vec![("run".into(), json!({ "command": write }))]));
    batch.model.push(Answer::tool("tool-\u{1b}[2J\u{9b}2J\u{202e}", json!({ "path": everything })));
    batch.model.push(Answer::tool("read", json!({ "path": everything })));
    batch.model.push(Answer::status(400, json!({ "error": { "message": everything } }).to_string()));
    batch.model.otherwise(Answer::text(everything.clone()));
    let task = format!("Paint. {everything}");
    let mut run = batch.home.command(["run", &task, "--project", source.to_str().unwrap()]);
    let shown = on_terminal(run.env("TERM", "xterm-256color"));
    let listed = batch.home.json(&["session", "list"]);
    let sessions = listed["sessions"].as_array().or_else(|| listed.as_array()).expect("sessions");
    let id = |session: &serde_json::Value| session["session_id"].as_str().expect("an id").to_owned();
    batch.painter = sessions
        .iter()
        .find(|s| s["title"].as_str().is_some_and(|t| t.starts_with("Paint.")))
        .map(id)
        .expect("the painter");
    let mut views = BTreeMap::from([("terminal.view_run", shown)]);
    for (name, _, words) in VIEWS.iter().skip(1) {
        views.insert(name, on_terminal(batch.painting(words).env("TERM", "xterm-256color")));
    }
    views.insert("terminal.dumb", on_terminal(batch.painting(&["session", "diff"]).env("TERM", "dumb")));
    batch.views = views;
}

// === impl Batch ===

impl Batch {
    /// A command about the painter's session.
    fn painting(&self, words: &[&str]) -> Command {
        let mut words = words.to_vec();
        if words[1] != "list" {
            words.insert(2, &self.painter);
        }
        self.home.command(words)
    }
}

/// Runs a command on a terminal of its own; what came out of it, byte by byte.
fn on_terminal(command: &Command) -> String {
    Terminal::run(command, COLUMNS).end().1
}

fn of(id: &str) -> &'static Payload {
    PAYLOADS.iter().find(|payload| payload.id == id).expect("a payload")
}

/// Got if a payload stands in a view as it was said; missing if no view shows its mark, which would show nothing.
fn is_shown(batch: &Batch, id: &str) -> Verdict {
    let payload = of(id);
    let mut marks = 0;
    for (view, shown) in &batch.views {
        marks += shown.matches(&mark(id)).count();
        if shown.contains(&format!("{}{}", mark(id), payload.text)) {
            return Got(format!("{view} shows it"));
        }
    }
    if marks == 0 {
        Missing("no view shows where it would be".to_owned())
    } else {
        Held(format!("neutral in {marks} places"))
    }
}

fn is_obeyed(batch: &Batch, id: &str) -> Verdict {
    let text = format!("{}{}", mark(id), of(id).text);
    if raw(batch, &text).contains(&text) {
        Got("it is written as it was said".to_owned())
    } else {
        Held("the terminal changed it".to_owned())
    }
}

/// Text on a terminal without the program.
fn raw(batch: &Batch, text: &str) -> String {
    let file = batch.folder.path().join("raw.txt");
    std::fs::write(&file, text).expect("written");
    on_terminal(Command::new("cat").arg(file))
}

fn has_stray(batch: &Batch, id: &str) -> Verdict {
    let shown = &batch.views[id];
    if !shown.contains("<clear>") && !shown.contains("Paint.") {
        return Missing(format!("it shows nothing of what was said: {shown:?}"));
    }
    match stray(shown) {
        Some(what) => Got(what),
        None => Held(format!("{} bytes, all harmless", shown.len())),
    }
}

fn stray_control(batch: &Batch, _: &str) -> Verdict {
    stray(&raw(batch, &everything())).map_or_else(|| Held("nothing stray".to_owned()), Got)
}

/// The first thing that a terminal obeys and that is not the program's own: colours, and the line that it draws over.
fn stray(shown: &str) -> Option<String> {
    let own = shown.replace("\r\x1b[J", "").replace("\r\n", "\n");
    let mut rest = own.as_str();
    while let Some(at) = rest.find(|c: char| {
        (c.is_control() && c != '\n' && c != '\t')
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    }) {
        let found = &rest[at..];
        let colour = found.strip_prefix("\x1b[").and_then(|code| {
            let end = code.find(|c: char| !c.is_ascii_digit() && c != ';')?;
            // Its own colours only: an agent's green is none of them, it stands behind a mark.
            code[end..].starts_with('m').then_some(at + 2 + end + 1)
        });
        match colour {
            Some(next) => rest = &rest[next..],
            None => return Some(found.escape_debug().take(24).collect()),
        }
    }
    None
}

/// Got if a program that reads the events does not find a payload as it was said.
fn is_changed(batch: &Batch, _: &str) -> Verdict {
    let output = batch.painting(&["session", "events", "--json"]).output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let said: Vec<serde_json::Value> =
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let messages: Vec<&str> = said
        .iter()
        .filter(|e| e["type"] == "message" && e["role"] == "agent")
        .filter_map(|e| e["text"].as_str())
        .collect();
    let is_there = |payload: &Payload| {
        messages.iter().any(|text| text.contains(&format!("{}{}|", mark(payload.id), payload.text)))
    };
    match PAYLOADS.iter().find(|payload| !is_there(payload)) {
        Some(payload) => Got(format!("{} is not exact in {messages:?} of {} events", payload.id, said.len())),
        None => Held(format!("all exact in {} messages", messages.len())),
    }
}

fn is_changed_for_people(batch: &Batch, _: &str) -> Verdict {
    let shown = &batch.views["terminal.view_events"];
    let exact = PAYLOADS.iter().all(|payload| shown.contains(payload.text));
    if exact {
        Held("a terminal is shown all".to_owned())
    } else {
        Got("a terminal is shown less".to_owned())
    }
}
