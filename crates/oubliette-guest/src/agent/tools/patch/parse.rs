//! The unified format, as models write it: counts in headers are not looked at, and an empty line stands for an empty line of
//! context.

/// What is to become of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FilePatch {
    /// Its name before, as written; nothing if it is made.
    pub(super) from: Option<String>,
    /// Its name after, as written; nothing if it is removed.
    pub(super) to: Option<String>,
    /// The changes, from its beginning to its end.
    pub(super) hunks: Vec<Hunk>,
}

/// One change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hunk {
    /// The line at which it is said to start before any change, from 1.
    pub(super) line: Option<usize>,
    /// In order.
    pub(super) lines: Vec<Line>,
    /// Whether the file has a newline at its end after this, if it is said.
    pub(super) ends_whole: Option<bool>,
}

/// A line of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Stays.
    Same(String),
    /// Goes.
    Old(String),
    /// Comes.
    New(String),
}

/// What git writes before the names, and means nothing here.
const PREAMBLE: [&str; 6] =
    ["diff ", "index ", "new file mode ", "deleted file mode ", "old mode ", "new mode "];

// === impl FilePatch ===

impl FilePatch {
    /// The name as written, after the change if there is one then.
    pub(super) fn name(&self) -> &str {
        self.to.as_deref().or(self.from.as_deref()).unwrap_or_default()
    }

    fn is_move(&self) -> bool {
        let bare = |name: &str, prefix: &str| name.strip_prefix(prefix).unwrap_or(name).to_owned();
        match (&self.from, &self.to) {
            (Some(from), Some(to)) => from != to && bare(from, "a/") != bare(to, "b/"),
            _ => false,
        }
    }
}

// === impl Hunk ===

impl Hunk {
    /// The lines that must be there.
    pub(super) fn old(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().filter_map(|line| match line {
            Line::Same(line) | Line::Old(line) => Some(line.as_str()),
            Line::New(_) => None,
        })
    }
}

/// Reads a patch. The error is for the model.
pub(super) fn parse(patch: &str) -> Result<Vec<FilePatch>, String> {
    let lines: Vec<&str> = patch.lines().collect();
    let mut patches: Vec<FilePatch> = Vec::new();
    let mut at = 0;
    while let Some(line) = lines.get(at) {
        if is_head(&lines, at) {
            let from = name(&line[4..]);
            let to = name(&lines[at + 1][4..]);
            let patch = FilePatch { from, to, hunks: Vec::new() };
            if patch.from.is_none() && patch.to.is_none() {
                return Err(format!("line {}: a file must have a name before or after", at + 1));
            }
            if patch.is_move() {
                return Err(format!("line {}: a patch moves no file; do that with `run`", at + 1));
            }
            patches.push(patch);
            at += 2;
        } else if let Some(header) = line.strip_prefix("@@") {
            let Some(patch) = patches.last_mut() else {
                return Err(format!("line {}: a hunk needs `--- a/FILE` and `+++ b/FILE` before it", at + 1));
            };
            let (hunk, next) = hunk(header, &lines, at + 1)?;
            patch.hunks.push(hunk);
            at = next;
        } else if line.trim().is_empty() || PREAMBLE.iter().any(|known| line.starts_with(known)) {
            at += 1;
        } else {
            return Err(format!(
                "line {}: `{}` is no part of a unified patch; its form is `--- a/FILE`, `+++ b/FILE`, `@@ -1,3 +1,3 @@`, and then \
lines that begin with a space, `-` or `+`",
                at + 1,
                crate::agent::text::cut(line, 100)
            ));
        }
    }
    match patches.iter().find(|patch| patch.hunks.is_empty()) {
        Some(empty) => Err(format!("the patch changes nothing in `{}`", empty.name())),
        None if patches.is_empty() => Err("the patch is empty".to_owned()),
        None => Ok(patches),
    }
}

/// The lines of a hunk from this one on; the line after it.
fn hunk(header: &str, lines: &[&str], mut at: usize) -> Result<(Hunk, usize), String> {
    let mut hunk = Hunk { line: start(header), ..Hunk::default() };
    let mut empty = 0;
    while let Some(line) = lines.get(at) {
        if line.starts_with("@@") || is_head(lines, at) || line.starts_with("diff ") {
            break;
        }
        empty = if line.is_empty() { empty + 1 } else { 0 };
        match line.split_at_checked(1) {
            // Spaces at the end of lines get lost on the way.
            None => hunk.lines.push(Line::Same(String::new())),
            Some((" ", rest)) => hunk.lines.push(Line::Same(rest.to_owned())),
            Some(("-", rest)) => hunk.lines.push(Line::Old(rest.to_owned())),
            Some(("+", rest)) => hunk.lines.push(Line::New(rest.to_owned())),
            // "No newline at end of file", about the line before.
            Some(("\\", _)) => match hunk.lines.last() {
                Some(Line::New(_)) => hunk.ends_whole = Some(false),
                Some(Line::Old(_)) => hunk.ends_whole = Some(true),
                Some(Line::Same(_)) | None => {}
            },
            Some(_) => {
                return Err(format!("line {}: a line of a hunk begins with a space, `-` or `+`", at + 1));
            }
        }
        at += 1;
    }
    // What is empty before the next file or at the end may be none of its own, and is not needed.
    hunk.lines.truncate(hunk.lines.len() - empty);
    if hunk.lines.iter().all(|line| matches!(line, Line::Same(_))) {
        return Err(format!("the hunk before line {} changes nothing", at + 1));
    }
    Ok((hunk, at))
}

/// True if the names of a file begin here. A removed line may look like the first of them.
fn is_head(lines: &[&str], at: usize) -> bool {
    lines[at].starts_with("--- ") && lines.get(at + 1).is_some_and(|next| next.starts_with("+++ "))
}

/// The name in a header, without a time stamp; nothing for the name of no file.
fn name(header: &str) -> Option<String> {
    let name = header.split('\t').next().unwrap_or_default().trim();
    (name != "/dev/null" && !name.is_empty()).then(|| name.to_owned())
}

/// The line before the change in ` -12,3 +12,4 @@`.
fn start(header: &str) -> Option<usize> {
    let digits = header.trim_start().strip_prefix('-')?;
    digits.split([',', ' ']).next()?.parse().ok()
}
