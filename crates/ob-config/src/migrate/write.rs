//! The new text: entries with their comments, moved to their present names, and written with two spaces of indentation.

use std::fmt::Write as _;

use crate::schema::OLD_NAMES;
use crate::tree::Node;
use crate::tree::Origin;
use crate::tree::Value;
use crate::yaml::Comment;

/// What a home of the first version has beside its file, and the present layout has elsewhere.
const FOLDERS: [&str; 2] = ["projects", "logs"];

/// A name and what stands around it.
struct Entry {
    above: Vec<String>,
    name: String,
    content: Content,
    beside: Option<String>,
}

enum Content {
    /// JSON, in one line.
    Plain(String),
    Object(Vec<Entry>),
}

/// Hands out comments in the order of the file.
struct Comments<'a> {
    left: &'a [Comment],
}

/// The tree of a file of the first version as a present one.
pub(super) fn jsonc(old: &str, tree: &Node, comments: &[Comment]) -> String {
    let head = head(old, tree, comments);
    let (head, rest) = comments.split_at(head);
    let mut comments = Comments { left: rest };
    let mut entries = comments.entries(tree);
    let tail: Vec<String> = comments.left.iter().map(|comment| comment.text.clone()).collect();
    for (from, to) in OLD_NAMES {
        rename(&mut entries, from, to);
    }
    spell_out_folders(&mut entries);
    let mut text = String::new();
    for comment in head {
        write_comment(&mut text, 0, &comment.text);
    }
    text.push_str("{\n");
    write_entries(&mut text, 1, &entries);
    for comment in &tail {
        write_comment(&mut text, 1, comment);
    }
    text.push_str("}\n");
    text
}

/// How many comments are about the file as a whole: those before the first name with an empty line behind them.
fn head(old: &str, tree: &Node, comments: &[Comment]) -> usize {
    let first = match &tree.value {
        Value::Object(entries) => entries.first().map_or(usize::MAX, |entry| line(&entry.origin)),
        _ => usize::MAX,
    };
    let before = comments.iter().take_while(|comment| comment.line < first && !comment.is_beside).count();
    let is_empty = |line: &usize| old.lines().nth(line - 1).is_none_or(|text| text.trim().is_empty());
    let gap = (1..first.min(old.lines().count() + 1)).rev().find(is_empty).unwrap_or(0);
    comments.iter().take(before).take_while(|comment| comment.line < gap).count()
}

fn line(origin: &Origin) -> usize {
    match origin {
        Origin::File { line, .. } => *line,
        Origin::Variable(_) => 0,
    }
}

/// Moves one entry to its present name. What stood over its section goes with the first one that moves.
fn rename(entries: &mut Vec<Entry>, from: &str, to: &str) {
    let (Some((section, name)), Some((to, last))) = (from.split_once('.'), to.rsplit_once('.')) else {
        return;
    };
    let Some(at) = entries.iter().position(|entry| entry.name == section) else { return };
    let Content::Object(inner) = &mut entries[at].content else { return };
    let Some(moved) = inner.iter().position(|entry| entry.name == name) else { return };
    let mut entry = inner.remove(moved);
    let is_empty = inner.is_empty();
    let over = std::mem::take(&mut entries[at].above).into_iter().chain(entries[at].beside.take());
    entry.above = over.chain(entry.above).collect();
    last.clone_into(&mut entry.name);
    let mut level = &mut *entries;
    let mut position = at;
    for part in to.split('.') {
        let index = level.iter().position(|entry| entry.name == part).unwrap_or_else(|| {
            let content = Content::Object(Vec::new());
            level.insert(position, Entry { above: Vec::new(), name: part.to_owned(), content, beside: None });
            position
        });
        let Content::Object(next) = &mut level[index].content else { return };
        level = next;
        position = level.len();
    }
    level.push(entry);
    if is_empty {
        entries.retain(|entry| {
            entry.name != section || !matches!(&entry.content, Content::Object(inner) if inner.is_empty())
        });
    }
}

/// The folders are where they have been, though the present layout has them elsewhere.
fn spell_out_folders(entries: &mut Vec<Entry>) {
    if !entries.iter().any(|entry| entry.name == "paths") {
        let above = vec![" Where this home has had its folders.".to_owned()];
        let content = Content::Object(Vec::new());
        entries.push(Entry { above, name: "paths".to_owned(), content, beside: None });
    }
    let paths = entries.iter_mut().find(|entry| entry.name == "paths");
    if let Some(Entry { content, .. }) = paths {
        if matches!(content, Content::Plain(_)) {
            // `null`: anything else was a mistake.
            *content = Content::Object(Vec::new());
        }
        let Content::Object(paths) = content else { return };
        for folder in FOLDERS {
            if !paths.iter().any(|entry| entry.name == folder) {
                let content = Content::Plain(json(&Value::Text(folder.to_owned())));
                paths.push(Entry { above: Vec::new(), name: folder.to_owned(), content, beside: None });
            }
        }
    }
}

fn write_entries(text: &mut String, depth: usize, entries: &[Entry]) {
    for entry in entries {
        for comment in &entry.above {
            write_comment(text, depth, comment);
        }
        indent(text, depth);
        text.push_str(&json(&Value::Text(entry.name.clone())));
        text.push_str(": ");
        let beside = entry.beside.as_ref().map(|comment| format!(" //{comment}")).unwrap_or_default();
        match &entry.content {
            Content::Plain(json) => {
                text.extend([json, ",", &beside, "\n"]);
            }
            Content::Object(inner) if inner.is_empty() => {
                text.extend(["{},", &beside, "\n"]);
            }
            Content::Object(inner) => {
                text.extend(["{", &beside, "\n"]);
                write_entries(text, depth + 1, inner);
                indent(text, depth);
                text.push_str("},\n");
            }
        }
    }
}

fn write_comment(text: &mut String, depth: usize, comment: &str) {
    indent(text, depth);
    text.extend(["//", comment.trim_end(), "\n"]);
}

fn indent(text: &mut String, depth: usize) {
    text.extend(std::iter::repeat_n("  ", depth));
}

/// A value in one line.
fn json(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Flag(flag) => flag.to_string(),
        // YAML has forms of numbers that JSON has not: `.5`, `+1`, `010`.
        Value::Number(text) => match serde_json::from_str::<serde_json::Number>(text) {
            Ok(_) => text.clone(),
            Err(_) => text.parse::<f64>().map_or_else(|_| "null".to_owned(), |number| number.to_string()),
        },
        Value::Text(text) => serde_json::Value::from(text.as_str()).to_string(),
        Value::List(items) => {
            format!("[{}]", items.iter().map(|item| json(&item.value)).collect::<Vec<_>>().join(", "))
        }
        Value::Object(entries) => {
            let mut text = String::from("{");
            for (at, entry) in entries.iter().enumerate() {
                let comma = if at > 0 { ", " } else { " " };
                let name = json(&Value::Text(entry.name.clone()));
                // Cannot fail: it is a `String`.
                write!(text, "{comma}{name}: {}", json(&entry.node.value)).ok();
            }
            text.push_str(if entries.is_empty() { "}" } else { " }" });
            text
        }
    }
}

// === impl Comments ===

impl Comments<'_> {
    fn entries(&mut self, node: &Node) -> Vec<Entry> {
        let Value::Object(entries) = &node.value else { return Vec::new() };
        entries
            .iter()
            .map(|entry| {
                let line = line(&entry.origin);
                let above =
                    self.take(|comment| comment.line < line).map(|comment| comment.text.clone()).collect();
                let beside = self.take(|comment| comment.line == line && comment.is_beside).last();
                let beside = beside.map(|comment| comment.text.clone());
                let content = match &entry.node.value {
                    Value::Object(_) => Content::Object(self.entries(&entry.node)),
                    value => Content::Plain(json(value)),
                };
                Entry { above, name: entry.name.clone(), content, beside }
            })
            .collect()
    }

    fn take(&mut self, is_meant: impl Fn(&Comment) -> bool) -> impl Iterator<Item = &Comment> {
        let count = self.left.iter().take_while(|comment| is_meant(comment)).count();
        let (taken, left) = self.left.split_at(count);
        self.left = left;
        taken.iter()
    }
}
