//! Changing files: whole, or a text in them. A file is replaced in one step, so nobody sees half of it.

use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::ErrorKind;
use std::io::Read as _;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use agent_client_protocol_schema::v1::Diff;
use serde::Deserialize;

use super::read;
use super::resolve;
use crate::agent::text::clean;
use crate::agent::text::cut;

/// The largest file that can be edited, in bytes.
const MAX_EDIT: u64 = 8 * 1024 * 1024;
/// The most text on each side of a diff for the client, in bytes.
pub(super) const MAX_DIFF: usize = 64 * 1024;
/// Lines around a change in a diff.
const AROUND: usize = 3;
/// How many lines, and how many bytes of each, are compared to find the one that was meant. The time grows with the
/// square of the latter.
const MAX_COMPARED: usize = 2000;
/// See [`MAX_COMPARED`].
const MAX_COMPARED_LINE: usize = 80;

/// A file and all of its content.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WriteArguments {
    pub(super) path: String,
    content: String,
}

/// A text to replace.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EditArguments {
    pub(super) path: String,
    old: String,
    new: String,
    #[serde(default)]
    replace_all: bool,
}

/// Writes a whole file.
pub(super) fn write(cwd: &Path, arguments: &WriteArguments) -> Result<(String, Diff), String> {
    let WriteArguments { path, content } = arguments;
    let resolved = resolve(cwd, path);
    let failed = |error: io::Error| format!("cannot write `{path}`: {error}");
    let before = match fs::metadata(&resolved) {
        Ok(metadata) if metadata.is_dir() => return Err(format!("`{path}` is a folder")),
        Ok(metadata) if !metadata.is_file() => return Err(format!("`{path}` is not a regular file")),
        Ok(_) => Some(beginning(&resolved).map_err(failed)?),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(failed(error)),
    };
    if let Some(folder) = resolved.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    replace(&resolved, content.as_bytes()).map_err(failed)?;
    let done = if before.is_some() { "replaced" } else { "made" };
    let summary = format!("{done} `{path}`: {} lines, {} bytes", content.lines().count(), content.len());
    Ok((summary, Diff::new(resolved, cut(content, MAX_DIFF)).old_text(before)))
}

/// Replaces a text in a file.
pub(super) fn edit(cwd: &Path, arguments: &EditArguments) -> Result<(String, Diff), String> {
    let EditArguments { path, old, new, replace_all } = arguments;
    if old.is_empty() {
        return Err("`old` is empty; use `write` for a new file".to_owned());
    }
    if old == new {
        return Err("`old` and `new` are the same".to_owned());
    }
    let failed = |error: io::Error| format!("cannot edit `{path}`: {error}");
    let content = text(cwd, path)?;
    // `read` shows no carriage returns, so the model cannot know of them.
    let (old, new) = if !content.contains(old.as_str()) && content.contains("\r\n") && !old.contains('\r') {
        (old.replace('\n', "\r\n"), new.replace('\n', "\r\n"))
    } else {
        (old.clone(), new.clone())
    };
    let places: Vec<usize> = content.match_indices(old.as_str()).map(|(at, _)| at).collect();
    let Some(&first) = places.first() else { return Err(not_found("`old`", path, &content, &old)) };
    if places.len() > 1 && !replace_all {
        let lines: Vec<String> =
            places.iter().take(20).map(|&at| line_number(&content, at).to_string()).collect();
        return Err(format!(
            "`old` occurs {} times in `{path}`, at lines {}; take in more lines around it, or set `replace_all`",
            places.len(),
            lines.join(", ")
        ));
    }
    let changed = content.replace(old.as_str(), &new);
    let resolved = resolve(cwd, path);
    replace(&resolved, changed.as_bytes()).map_err(failed)?;
    let line = line_number(&content, first);
    let summary = match places.len() {
        1 => format!("edited `{path}` at line {line}"),
        many => format!("edited `{path}` in {many} places, the first at line {line}"),
    };
    let last = places.last().copied().unwrap_or(first);
    let start = line_start(&content, first, AROUND);
    let end = line_end(&content, last + old.len(), AROUND);
    // What follows the change is the same text in both, so it is found by its distance to the end.
    let changed_end = changed.len() - (content.len() - end);
    let diff = Diff::new(resolved, cut(&changed[start..changed_end], MAX_DIFF))
        .old_text(cut(&content[start..end], MAX_DIFF));
    Ok((summary, diff))
}

/// All of a file that can be changed.
pub(super) fn text(cwd: &Path, path: &str) -> Result<String, String> {
    let failed = |error: io::Error| format!("cannot edit `{path}`: {error}");
    let file = read::open(cwd, path)?;
    if file.metadata().map_err(failed)?.len() > MAX_EDIT {
        return Err(format!("`{path}` is larger than {MAX_EDIT} bytes; change it with `run`"));
    }
    let mut content = String::new();
    match file.take(MAX_EDIT + 1).read_to_string(&mut content) {
        Ok(_) => Ok(content),
        Err(error) if error.kind() == ErrorKind::InvalidData => {
            Err(format!("`{path}` is not UTF-8 text; change it with `run`"))
        }
        Err(error) => Err(failed(error)),
    }
}

/// Puts a file in the place of another in one step. Keeps its permissions, and follows a link to it.
pub(super) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    struct RemoveOnDrop(Option<PathBuf>);
    impl Drop for RemoveOnDrop {
        fn drop(&mut self) {
            if let Some(path) = &self.0 {
                let _removed = fs::remove_file(path);
            }
        }
    }
    let target = fs::canonicalize(path).unwrap_or_else(|_new| path.to_path_buf());
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let draft = target.with_file_name(format!(".draft-{}-{number}", std::process::id()));
    let mut file = match OpenOptions::new().write(true).create_new(true).open(&draft) {
        Ok(file) => file,
        // A file in a folder that may not be changed can only be overwritten in place.
        Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) => {
            return OpenOptions::new().write(true).truncate(true).open(&target)?.write_all(content);
        }
        Err(error) => return Err(error),
    };
    let mut guard = RemoveOnDrop(Some(draft.clone()));
    file.write_all(content)?;
    if let Ok(metadata) = fs::metadata(&target) {
        file.set_permissions(metadata.permissions())?;
    }
    drop(file);
    fs::rename(&draft, &target)?;
    guard.0 = None;
    Ok(())
}

/// The beginning of a file, for a diff.
fn beginning(path: &Path) -> io::Result<String> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut bytes = Vec::new();
    file.take(MAX_DIFF as u64).read_to_end(&mut bytes)?;
    let mut text = clean(&bytes);
    if length > MAX_DIFF as u64 {
        text.push_str("[...]");
    }
    Ok(text)
}

/// Why the text is not in the file, as far as can be told, with the lines that come closest.
pub(super) fn not_found(what: &str, path: &str, content: &str, old: &str) -> String {
    let squeeze = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let wanted: Vec<String> = old.lines().map(squeeze).collect();
    let lines: Vec<&str> = content.lines().collect();
    if wanted.iter().any(|line| !line.is_empty()) {
        let squeezed: Vec<String> = lines.iter().copied().map(squeeze).collect();
        let found = squeezed.windows(wanted.len()).position(|window| window == wanted);
        if let Some(start) = found {
            return format!(
                "{what} is not in `{path}`; it differs only in spaces or tabs from this:\n{}",
                numbered(&lines, start, start + wanted.len())
            );
        }
    }
    let Some(first) = old.lines().map(str::trim).find(|line| !line.is_empty()) else {
        return format!("{what} is not in `{path}`");
    };
    let beginning = |line: &str| line.trim()[..line.trim().floor_char_boundary(MAX_COMPARED_LINE)].to_owned();
    let first = beginning(first);
    let likeness = |line: &str| similar::TextDiff::from_chars(&first, beginning(line)).ratio();
    let nearest = lines
        .iter()
        .take(MAX_COMPARED)
        .enumerate()
        .map(|(index, line)| (likeness(line), index))
        .max_by(|one, two| one.0.total_cmp(&two.0).then(two.1.cmp(&one.1)));
    match nearest {
        Some((ratio, index)) if ratio >= 0.5 => {
            let end = (index + old.lines().count().max(1) + 2).min(lines.len());
            format!(
                "{what} is not in `{path}`; the nearest lines are:\n{}",
                numbered(&lines, index.saturating_sub(2), end)
            )
        }
        _ => format!("{what} is not in `{path}`, nor anything like it; `read` the file"),
    }
}

fn numbered(lines: &[&str], start: usize, end: usize) -> String {
    let shown = lines[start..end].iter().take(40).enumerate();
    shown.map(|(index, line)| format!("{:>6}\t{}\n", start + index + 1, cut(line, 500))).collect()
}

fn line_number(content: &str, at: usize) -> usize {
    content[..at].matches('\n').count() + 1
}

/// Where the line starts that is `lines` before the one at `at`.
pub(super) fn line_start(content: &str, at: usize, lines: usize) -> usize {
    content[..at].rmatch_indices('\n').nth(lines).map_or(0, |(end, _)| end + 1)
}

/// Where the line ends that is `lines` after the one at `at`.
pub(super) fn line_end(content: &str, at: usize, lines: usize) -> usize {
    content[at..].match_indices('\n').nth(lines).map_or(content.len(), |(end, _)| at + end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;
    use tempfile::TempDir;

    fn folder(content: &str) -> TempDir {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::write(folder.path().join("f"), content).expect("it is writable");
        folder
    }

    fn content(folder: &TempDir) -> String {
        fs::read_to_string(folder.path().join("f")).expect("it is readable")
    }

    fn edit_with(
        folder: &TempDir,
        old: &str,
        new: &str,
        replace_all: bool,
    ) -> Result<(String, Diff), String> {
        let arguments =
            EditArguments { path: "f".to_owned(), old: old.to_owned(), new: new.to_owned(), replace_all };
        edit(folder.path(), &arguments)
    }

    fn write_with(folder: &TempDir, path: &str, content: &str) -> Result<(String, Diff), String> {
        write(folder.path(), &WriteArguments { path: path.to_owned(), content: content.to_owned() })
    }

    #[test]
    fn an_edit_changes_one_place_and_shows_it_with_its_surroundings() {
        let folder = folder("1\n2\n3\n4\n5\n6\n7\n8\n9\n");
        let (summary, diff) = edit_with(&folder, "5\n", "five\n", false).expect("it is there once");
        assert_eq!(summary, "edited `f` at line 5");
        assert_eq!(content(&folder), "1\n2\n3\n4\nfive\n6\n7\n8\n9\n");
        assert_eq!(diff.old_text.as_deref(), Some("2\n3\n4\n5\n6\n7\n8\n9\n"));
        assert_eq!(diff.new_text, "2\n3\n4\nfive\n6\n7\n8\n9\n");
    }

    #[test]
    fn an_edit_that_fits_in_several_places_is_refused_unless_all_are_meant() {
        let folder = folder("a\nb\na\n");
        let refusal = edit_with(&folder, "a", "x", false).expect_err("it is there twice");
        assert!(refusal.contains("occurs 2 times in `f`, at lines 1, 3"), "{refusal}");
        assert_eq!(content(&folder), "a\nb\na\n");
        let (summary, diff) = edit_with(&folder, "a", "x", true).expect("all are meant");
        assert_eq!(summary, "edited `f` in 2 places, the first at line 1");
        assert_eq!((content(&folder).as_str(), diff.new_text.as_str()), ("x\nb\nx\n", "x\nb\nx\n"));
    }

    #[test]
    fn an_edit_that_fits_nowhere_is_answered_with_what_is_near() {
        let folder = folder("fn main() {\n    let total = a + b;\n}\n");
        let spaces = edit_with(&folder, "let  total = a + b;", "x", false).expect_err("it is not there");
        assert!(spaces.contains("only in spaces") && spaces.contains("     2\t    let total"), "{spaces}");
        let near = edit_with(&folder, "let total = a - b;", "x", false).expect_err("it is not there");
        assert!(near.contains("nearest lines") && near.contains("let total = a + b;"), "{near}");
        let far = edit_with(&folder, "0123456789", "x", false).expect_err("it is not there");
        assert!(far.contains("nor anything like it"), "{far}");
    }

    #[test]
    fn edits_that_make_no_sense_are_refused() {
        let folder = folder("a");
        assert!(edit_with(&folder, "", "x", false).is_err_and(|refusal| refusal.contains("empty")));
        assert!(edit_with(&folder, "a", "a", false).is_err_and(|refusal| refusal.contains("the same")));
        fs::write(folder.path().join("f"), b"caf\xe9").expect("it is writable");
        assert!(edit_with(&folder, "caf", "x", false).is_err_and(|refusal| refusal.contains("not UTF-8")));
    }

    #[test]
    fn line_ends_of_dos_are_kept() {
        let folder = folder("a\r\nb\r\nc\r\n");
        edit_with(&folder, "a\nb", "x\ny", false).expect("it is there but for the line ends");
        assert_eq!(content(&folder), "x\r\ny\r\nc\r\n");
    }

    #[test]
    fn a_write_makes_folders_and_keeps_permissions_and_links() {
        let folder = folder("old");
        let (summary, diff) = write_with(&folder, "deep/er/file", "one\ntwo\n").expect("folders are made");
        assert_eq!(summary, "made `deep/er/file`: 2 lines, 8 bytes");
        assert_eq!(diff.old_text, None);

        let path = folder.path().join("f");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).expect("it is ours");
        std::os::unix::fs::symlink("f", folder.path().join("link")).expect("it is writable");
        let (summary, diff) = write_with(&folder, "link", "new").expect("links are followed");
        assert_eq!(summary, "replaced `link`: 1 lines, 3 bytes");
        assert_eq!(diff.old_text.as_deref(), Some("old"));
        assert_eq!(content(&folder), "new");
        assert_eq!(fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o750);
        assert!(folder.path().join("link").is_symlink());
        let left: Vec<_> = fs::read_dir(folder.path()).expect("it is readable").flatten().collect();
        assert_eq!(left.len(), 3, "no draft is left: {left:?}");
    }

    #[test]
    fn a_write_onto_something_else_is_refused() {
        let folder = folder("old");
        assert!(write_with(&folder, ".", "x").is_err_and(|refusal| refusal.contains("is a folder")));
        assert!(
            write_with(&folder, "/dev/null", "x").is_err_and(|refusal| refusal.contains("not a regular"))
        );
        assert!(write_with(&folder, "f/x", "x").is_err_and(|refusal| refusal.contains("cannot write")));
        assert_eq!(content(&folder), "old");
    }
}
