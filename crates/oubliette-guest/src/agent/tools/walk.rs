//! Going through folders: listing files and searching their lines. What `.gitignore` names is passed over.

use std::fmt::Write as _;
use std::fs::File;
use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Read as _;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use globset::GlobBuilder;
use globset::GlobMatcher;
use ignore::DirEntry;
use ignore::WalkBuilder;
use regex::bytes::Regex;
use regex::bytes::RegexBuilder;
use serde::Deserialize;

use super::resolve;
use crate::agent::text;

/// The most entries of a list.
pub(super) const MAX_ENTRIES: usize = 1000;
/// How deep a list goes if nothing else is asked for, and at most.
pub(super) const DEFAULT_DEPTH: usize = 3;
/// See [`DEFAULT_DEPTH`].
pub(super) const MAX_DEPTH: usize = 20;
/// The most lines that a search finds.
pub(super) const MAX_MATCHES: usize = 200;
/// The longest line that a search shows, in bytes.
const MAX_LINE: usize = 400;
/// Larger files are not searched, in bytes.
const MAX_FILE: u64 = 16 * 1024 * 1024;
/// Folders that are not gone through unless they are asked for.
const KERNEL: [&str; 3] = ["/dev", "/proc", "/sys"];
/// How long a search may take. A model can ask for the whole file system.
const LONGEST_SEARCH: Duration = Duration::from_secs(60);
/// A zero byte among the first of these makes a file binary.
const SNIFF: usize = 8 * 1024;

/// Which folder.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListArguments {
    #[serde(default = "here")]
    pub(super) path: String,
    #[serde(default)]
    depth: Option<usize>,
}

/// What to look for, and where.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SearchArguments {
    pub(super) pattern: String,
    #[serde(default = "here")]
    pub(super) path: String,
    #[serde(default)]
    glob: Option<String>,
}

/// The files and folders below a folder, in order, folders with a slash.
pub(super) fn list(cwd: &Path, arguments: &ListArguments, stop: &AtomicBool) -> Result<String, String> {
    let root = resolve(cwd, &arguments.path);
    if !root.is_dir() {
        let what = if root.exists() { "is not a folder; use `read`" } else { "does not exist" };
        return Err(format!("`{}` {what}", arguments.path));
    }
    let depth = arguments.depth.unwrap_or(DEFAULT_DEPTH).clamp(1, MAX_DEPTH);
    let mut out = String::new();
    let entries = walk(&root, Some(depth)).filter(|entry| entry.depth() > 0);
    for (count, entry) in entries.enumerate() {
        if stop.load(Ordering::Relaxed) {
            return Err("stopped".to_owned());
        }
        if count == MAX_ENTRIES {
            out.push_str("[more entries follow; list a folder of these, or less deep]\n");
            break;
        }
        out.push_str(&relative(&root, &entry));
        out.push_str(if entry.file_type().is_some_and(|kind| kind.is_dir()) { "/\n" } else { "\n" });
    }
    if out.is_empty() {
        out.push_str("[the folder is empty]\n");
    }
    Ok(out)
}

/// The lines that match, each with its file and number.
pub(super) fn search(cwd: &Path, arguments: &SearchArguments, stop: &AtomicBool) -> Result<String, String> {
    let root = resolve(cwd, &arguments.path);
    let pattern = RegexBuilder::new(&arguments.pattern)
        .size_limit(4 * 1024 * 1024)
        .build()
        .map_err(|error| format!("bad pattern: {error}"))?;
    let glob = match &arguments.glob {
        Some(glob) => Some(compile(glob)?),
        None => None,
    };
    if !root.exists() {
        return Err(format!("`{}` does not exist", arguments.path));
    }
    let mut found = Found::default();
    let deadline = Instant::now() + LONGEST_SEARCH;
    for entry in walk(&root, None) {
        if stop.load(Ordering::Relaxed) {
            return Err("stopped".to_owned());
        }
        if Instant::now() >= deadline {
            return Err(format!("the search took too long; narrow the path. Found so far:\n{}", found.out));
        }
        if !entry.file_type().is_some_and(|kind| kind.is_file()) {
            continue;
        }
        let name = relative(&root, &entry);
        if let Some(glob) = &glob
            && !glob.is_match(&name)
            && !glob.is_match(entry.file_name())
        {
            continue;
        }
        // Shown so that `read` takes it as it stands.
        let shown = match entry.path().strip_prefix(cwd) {
            Ok(inside) => inside.display().to_string(),
            Err(_outside) => entry.path().display().to_string(),
        };
        // A file that cannot be read has nothing to find in it.
        if search_file(entry.path(), &shown, &pattern, &mut found).is_some() && found.is_full {
            break;
        }
    }
    let Found { mut out, is_full, .. } = found;
    if out.is_empty() {
        return Ok("[nothing found]\n".to_owned());
    }
    if is_full {
        out.push_str("[more lines match; narrow the pattern, the path or the glob]\n");
    }
    Ok(out)
}

/// What a search has found.
#[derive(Default)]
struct Found {
    out: String,
    count: usize,
    is_full: bool,
}

/// `None` if the file cannot be read, is too large or is binary.
fn search_file(path: &Path, shown: &str, pattern: &Regex, found: &mut Found) -> Option<()> {
    let file = File::open(path).ok()?;
    if file.metadata().ok()?.len() > MAX_FILE {
        return None;
    }
    let mut reader = BufReader::with_capacity(SNIFF, file.take(MAX_FILE));
    if reader.fill_buf().ok()?.contains(&0) {
        return None;
    }
    let mut line = Vec::new();
    let mut number = 0;
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line).ok()? == 0 {
            return Some(());
        }
        number += 1;
        let content = line.strip_suffix(b"\n").unwrap_or(&line);
        let content = content.strip_suffix(b"\r").unwrap_or(content);
        if !pattern.is_match(content) {
            continue;
        }
        if found.count == MAX_MATCHES {
            found.is_full = true;
            return Some(());
        }
        found.count += 1;
        let content = text::cut(&text::clean(content), MAX_LINE);
        let _infallible = writeln!(found.out, "{shown}:{number}: {content}");
    }
}

/// Everything below a folder that is not ignored, in order of names. Hidden files count; git's own do not.
fn walk(root: &Path, depth: Option<usize>) -> impl Iterator<Item = DirEntry> {
    WalkBuilder::new(root)
        .hidden(false)
        .git_global(false)
        .require_git(false)
        .max_depth(depth)
        .sort_by_file_name(std::ffi::OsStr::cmp)
        .filter_entry(|entry| entry.depth() == 0 || !is_passed_over(entry))
        .build()
        .filter_map(Result::ok)
}

/// Git's own files, and what the kernel shows as files: reading some of those waits for ever.
fn is_passed_over(entry: &DirEntry) -> bool {
    entry.file_name() == ".git" || KERNEL.iter().any(|path| entry.path() == Path::new(path))
}

fn relative(root: &Path, entry: &DirEntry) -> String {
    text::clean(entry.path().strip_prefix(root).unwrap_or(entry.path()).as_os_str().as_encoded_bytes())
}

fn compile(glob: &str) -> Result<GlobMatcher, String> {
    let glob = GlobBuilder::new(glob.strip_prefix("./").unwrap_or(glob)).literal_separator(true).build();
    glob.map(|glob| glob.compile_matcher()).map_err(|error| format!("bad glob: {error}"))
}

fn here() -> String {
    ".".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use tempfile::TempDir;

    fn tree(files: &[(&str, &str)]) -> TempDir {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (path, content) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().expect("it is in the folder")).expect("it is writable");
            fs::write(path, content).expect("it is writable");
        }
        folder
    }

    fn list_with(folder: &TempDir, arguments: &str) -> Result<String, String> {
        let arguments = serde_json::from_str(arguments).expect("they are arguments");
        list(folder.path(), &arguments, &AtomicBool::new(false))
    }

    fn search_with(folder: &TempDir, arguments: &str) -> Result<String, String> {
        let arguments = serde_json::from_str(arguments).expect("they are arguments");
        search(folder.path(), &arguments, &AtomicBool::new(false))
    }

    fn sample() -> TempDir {
        tree(&[
            (".git/config", "needle"),
            (".gitignore", "target\n*.log\n"),
            (".hidden", "needle\n"),
            ("a.rs", "one\nneedle two\n"),
            ("src/deep/b.rs", "Needle\r\n"),
            ("src/c.txt", "a needle\n"),
            ("target/x", "needle"),
            ("x.log", "needle"),
        ])
    }

    #[test]
    fn a_list_is_in_order_and_without_what_is_ignored() {
        let all = ".gitignore\n.hidden\na.rs\nsrc/\nsrc/c.txt\nsrc/deep/\nsrc/deep/b.rs\n";
        assert_eq!(list_with(&sample(), "{}").as_deref(), Ok(all));
        let top = ".gitignore\n.hidden\na.rs\nsrc/\n";
        assert_eq!(list_with(&sample(), r#"{"depth":1}"#).as_deref(), Ok(top));
        assert_eq!(list_with(&sample(), r#"{"path":"src/deep"}"#).as_deref(), Ok("b.rs\n"));
    }

    #[test]
    fn a_list_is_bounded_and_says_so() {
        let names: Vec<String> = (0..=MAX_ENTRIES).map(|number| number.to_string()).collect();
        let files: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
        let text = list_with(&tree(&files), "{}").expect("it is a folder");
        assert_eq!(text.lines().count(), MAX_ENTRIES + 1);
        assert!(text.ends_with("[more entries follow; list a folder of these, or less deep]\n"));
    }

    #[test]
    fn what_cannot_be_listed_or_searched_is_refused() {
        let folder = sample();
        assert!(
            list_with(&folder, r#"{"path":"a.rs"}"#).is_err_and(|refusal| refusal.contains("use `read`"))
        );
        assert!(
            list_with(&folder, r#"{"path":"no"}"#).is_err_and(|refusal| refusal.contains("does not exist"))
        );
        for (arguments, expected) in [
            (r#"{"pattern":"("}"#, "bad pattern"),
            (r#"{"pattern":"(a{1000}){1000}"}"#, "bad pattern"),
            (r#"{"pattern":"a","glob":"[z"}"#, "bad glob"),
            (r#"{"pattern":"a","path":"no"}"#, "does not exist"),
        ] {
            assert!(search_with(&folder, arguments).is_err_and(|refusal| refusal.contains(expected)));
        }
    }

    #[test]
    fn a_search_names_file_and_line() {
        let folder = sample();
        let found = ".hidden:1: needle\na.rs:2: needle two\nsrc/c.txt:1: a needle\n";
        assert_eq!(search_with(&folder, r#"{"pattern":"needle"}"#).as_deref(), Ok(found));
        let any_case = "a.rs:2: needle two\nsrc/deep/b.rs:1: Needle\n";
        let arguments = r#"{"pattern":"(?i)^needle","glob":"*.rs"}"#;
        assert_eq!(search_with(&folder, arguments).as_deref(), Ok(any_case));
        let arguments = r#"{"pattern":"(?i)needle$","glob":"src/**/*.rs"}"#;
        assert_eq!(search_with(&folder, arguments).as_deref(), Ok("src/deep/b.rs:1: Needle\n"));
        assert_eq!(
            search_with(&folder, r#"{"pattern":"one","path":"a.rs"}"#).as_deref(),
            Ok("a.rs:1: one\n")
        );
        assert_eq!(search_with(&folder, r#"{"pattern":"absent"}"#).as_deref(), Ok("[nothing found]\n"));
    }

    #[test]
    fn a_search_is_bounded_passes_binary_files_and_can_be_stopped() {
        let many = "needle\n".repeat(MAX_MATCHES + 1);
        let long = format!("needle{}\n", "x".repeat(10_000));
        let folder = tree(&[("a", &long), ("b", &many), ("c", "needle\0")]);
        let text = search_with(&folder, r#"{"pattern":"needle"}"#).expect("it is there");
        assert_eq!(text.lines().count(), MAX_MATCHES + 1);
        assert!(text.len() < 20_000 && !text.contains("c:1"));
        let arguments = serde_json::from_str(r#"{"pattern":"needle"}"#).expect("they are arguments");
        let stopped = search(folder.path(), &arguments, &AtomicBool::new(true));
        assert_eq!(stopped, Err("stopped".to_owned()));
    }
}
