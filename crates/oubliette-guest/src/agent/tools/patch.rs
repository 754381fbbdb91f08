//! A patch in the unified format, of one file or several: all of it is applied, or nothing.
//!
//! Models count lines badly, so the numbers in a patch only decide between places that fit equally well: a hunk goes where its
//! lines are. They must be there exactly; only the ends of lines may differ (DOS).

use std::fs;
use std::io;
use std::io::ErrorKind;
use std::path::Path;
use std::path::PathBuf;

use agent_client_protocol_schema::v1::Diff;
use serde::Deserialize;

use super::file;
use super::resolve;
use crate::agent::text;

mod parse;

use parse::FilePatch;
use parse::Hunk;
use parse::Line;

/// The most files of one patch.
const MAX_FILES: usize = 100;
/// Lines around a change in a diff.
const AROUND: usize = 3;

/// The whole patch.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Arguments {
    patch: String,
}

/// What becomes of one file.
struct Change {
    name: String,
    path: PathBuf,
    before: Option<String>,
    after: Option<String>,
}

// === impl Arguments ===

impl Arguments {
    /// The files that it is about, as far as it can be read.
    pub(super) fn paths(&self) -> Vec<String> {
        let patches = parse::parse(&self.patch).unwrap_or_default();
        patches.iter().map(|patch| patch.name().to_owned()).collect()
    }
}

/// Applies it.
pub(super) fn patch(cwd: &Path, arguments: &Arguments) -> Result<(String, Vec<Diff>), String> {
    let patches = parse::parse(&arguments.patch)?;
    if patches.len() > MAX_FILES {
        return Err(format!("the patch is of more than {MAX_FILES} files; make several of it"));
    }
    let mut changes: Vec<Change> = Vec::with_capacity(patches.len());
    for patch in &patches {
        let change = plan(cwd, patch).map_err(|why| format!("{why}; nothing was changed"))?;
        if changes.iter().any(|other| other.path == change.path) {
            return Err(format!(
                "`{}` is in the patch twice; put its hunks together; nothing was changed",
                change.name
            ));
        }
        changes.push(change);
    }
    for (done, change) in changes.iter().enumerate() {
        if let Err(error) = put(&change.path, change.after.as_deref()) {
            let undone =
                changes[..done].iter().all(|change| put(&change.path, change.before.as_deref()).is_ok());
            let rest =
                if undone { "nothing was changed" } else { "files before it in the patch were changed" };
            return Err(format!("cannot change `{}`: {error}; {rest}", change.name));
        }
    }
    let summary: Vec<String> = changes.iter().map(Change::summary).collect();
    Ok((summary.join("\n"), changes.iter().map(Change::diff).collect()))
}

// === impl Change ===

impl Change {
    fn summary(&self) -> String {
        match (&self.before, &self.after) {
            (None, _) => format!("made `{}`", self.name),
            (Some(_), None) => format!("removed `{}`", self.name),
            (Some(before), Some(after)) => {
                let line = same_beginning(before, after).0 + 1;
                format!("patched `{}`, first at line {line}", self.name)
            }
        }
    }

    /// For the client: the lines from the first to the last change, with some around.
    fn diff(&self) -> Diff {
        let before = self.before.as_deref().unwrap_or_default();
        let after = self.after.as_deref().unwrap_or_default();
        let (_, start) = same_beginning(before, after);
        let skipped = file::line_start(before, start, AROUND);
        let same_end: usize = before[start..]
            .split_inclusive('\n')
            .rev()
            .zip(after[start..].split_inclusive('\n').rev())
            .take_while(|(one, two)| one == two)
            .map(|(line, _)| line.len())
            .sum();
        let shown = |content: &str| {
            let end = file::line_end(content, content.len() - same_end, AROUND);
            text::cut(&content[skipped..end.max(skipped)], file::MAX_DIFF)
        };
        Diff::new(self.path.clone(), shown(after)).old_text(self.before.as_deref().map(shown))
    }
}

/// How many lines two texts begin with alike, and how many bytes those are.
fn same_beginning(one: &str, two: &str) -> (usize, usize) {
    let pairs = one.split_inclusive('\n').zip(two.split_inclusive('\n'));
    pairs
        .take_while(|(one, two)| one == two)
        .fold((0, 0), |(lines, bytes), (line, _)| (lines + 1, bytes + line.len()))
}

/// What a patch makes of its file, without touching it.
fn plan(cwd: &Path, patch: &FilePatch) -> Result<Change, String> {
    let (name, path) = place(cwd, patch);
    let before = match (&patch.from, fs::symlink_metadata(&path)) {
        (None, Ok(_)) => return Err(format!("`{name}` is there already, and the patch would make it")),
        (None, Err(error)) if error.kind() == ErrorKind::NotFound => None,
        (None, Err(error)) => return Err(format!("cannot make `{name}`: {error}")),
        (Some(_), _) => Some(file::text(cwd, &name)?),
    };
    let content = apply(&name, before.as_deref().unwrap_or_default(), &patch.hunks)?;
    let after = if patch.to.is_some() {
        Some(content)
    } else if content.is_empty() {
        None
    } else {
        return Err(format!("the patch would remove `{name}`, but not all of its lines"));
    };
    Ok(Change { name, path, before, after })
}

/// The file that is meant. The prefixes that git puts before names are taken off, unless a file has the whole name.
fn place(cwd: &Path, patch: &FilePatch) -> (String, PathBuf) {
    let whole = patch.name();
    let prefix = if patch.to.is_some() { "b/" } else { "a/" };
    let name = match whole.strip_prefix(prefix) {
        Some(bare) if patch.from.is_none() || !resolve(cwd, whole).exists() => bare,
        _ => whole,
    };
    (name.to_owned(), resolve(cwd, name))
}

/// Makes a file be this, or not be.
fn put(path: &Path, content: Option<&str>) -> io::Result<()> {
    match content {
        None => fs::remove_file(path),
        Some(content) => {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            file::replace(path, content.as_bytes())
        }
    }
}

/// The content with the hunks applied, in their order.
fn apply(name: &str, content: &str, hunks: &[Hunk]) -> Result<String, String> {
    let end = if content.contains("\r\n") { "\r" } else { "" };
    let mut ends_whole = content.is_empty() || content.ends_with('\n');
    let mut lines: Vec<String> = content
        .split_inclusive('\n')
        .map(|line| line.strip_suffix('\n').unwrap_or(line).to_owned())
        .collect();
    let mut cursor = 0;
    // By how much the hunks before have moved what follows.
    let mut moved = 0_isize;
    for (number, hunk) in hunks.iter().enumerate() {
        let hint = hunk.line.and_then(|line| line.checked_add_signed(moved));
        let start = find(name, content, &lines, cursor, hint, hunk)
            .map_err(|why| format!("hunk {} does not fit: {why}", number + 1))?;
        let mut at = start;
        let mut new = Vec::with_capacity(hunk.lines.len());
        for line in &hunk.lines {
            match line {
                // As it is in the file, with its end.
                Line::Same(_) => new.push(lines[at].clone()),
                Line::Old(_) => {}
                Line::New(text) => new.push(format!("{}{end}", text.strip_suffix('\r').unwrap_or(text))),
            }
            at += usize::from(!matches!(line, Line::New(_)));
        }
        cursor = start + new.len();
        moved = moved.saturating_add_unsigned(new.len()).saturating_sub_unsigned(at - start);
        lines.splice(start..at, new);
        ends_whole = hunk.ends_whole.unwrap_or(ends_whole);
    }
    let mut content = lines.join("\n");
    if ends_whole && !lines.is_empty() {
        content.push('\n');
    }
    Ok(content)
}

/// The line at which a hunk fits, from 0.
fn find(
    name: &str,
    content: &str,
    lines: &[String],
    cursor: usize,
    hint: Option<usize>,
    hunk: &Hunk,
) -> Result<usize, String> {
    let old: Vec<&str> = hunk.old().collect();
    if old.is_empty() {
        // The number is that of the line before, since the hunk has no line of its own.
        return match hint {
            _ if lines.is_empty() => Ok(0),
            Some(line) if (cursor..=lines.len()).contains(&line) => Ok(line),
            _ => {
                Err("it only adds lines, and does not say where; give a line that is there, before or after"
                    .into())
            }
        };
    }
    let is_same = |(line, old): (&String, &&str)| line.strip_suffix('\r').unwrap_or(line) == *old;
    let fits: Vec<usize> = lines
        .windows(old.len())
        .enumerate()
        .skip(cursor)
        .filter(|(_, window)| window.iter().zip(&old).all(is_same))
        .map(|(at, _)| at)
        .collect();
    match fits.as_slice() {
        [] => Err(file::not_found("its text", name, content, &old.join("\n"))),
        [only] => Ok(*only),
        several => match hint.and_then(|line| line.checked_sub(1)).filter(|at| several.contains(at)) {
            Some(at) => Ok(at),
            None => {
                let places: Vec<String> = several.iter().take(20).map(|at| (at + 1).to_string()).collect();
                let places = places.join(", ");
                Err(format!("it fits `{name}` at lines {places}; take in more lines around it"))
            }
        },
    }
}

#[cfg(test)]
mod tests;
