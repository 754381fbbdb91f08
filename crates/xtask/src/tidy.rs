//! Checks what the compiler does not: the layers of the crates, the words, the house rules of the sources.
//!
//! [`run`] reads the tree; everything after that is pure, so each rule is tested with a sample that breaks it and one
//! that does not. A line may be excused from a rule by a comment on it or on the line above, with the reason:
//! `// tidy: RULE: because ...`.

use std::fmt;
use std::path::Path;

use anyhow::Context as _;
use xshell::Shell;
use xshell::cmd;

pub mod crates;
pub mod source;
mod tokens;
mod words;

/// Something that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The file, from the root.
    pub path: String,
    /// The line, from 1.
    pub line: usize,
    /// The rule's name.
    pub rule: &'static str,
    /// What is wrong and what to do instead.
    pub text: String,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Must be mended.
    pub errors: Vec<Finding>,
    /// Should be.
    pub warnings: Vec<Finding>,
    /// How many files were read.
    pub files: usize,
}

/// A text file of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// From the root, with `/`.
    pub path: String,
    /// What is in it.
    pub text: String,
}

// === impl Finding ===

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, line, rule, text } = self;
        write!(f, "{path}:{line}: {rule}: {text}")
    }
}

// === impl Report ===

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for warning in &self.warnings {
            writeln!(f, "warning: {warning}")?;
        }
        for error in &self.errors {
            writeln!(f, "error: {error}")?;
        }
        let Self { errors, warnings, files } = self;
        writeln!(f, "tidy: {files} files, {} errors, {} warnings", errors.len(), warnings.len())
    }
}

/// Checks the tree at `root`: all files that git knows, and new ones that it does not ignore.
///
/// # Errors
/// If git or cargo cannot be run there, or a file cannot be read.
pub fn run(root: &Path) -> anyhow::Result<Report> {
    let shell = Shell::new()?;
    shell.change_dir(root);
    let listing = cmd!(shell, "git ls-files --cached --others --exclude-standard").quiet().read()?;
    let mut files = Vec::new();
    for path in listing.lines() {
        let whole = root.join(path);
        // A file may be deleted and git not told yet; a link is checked where it leads.
        if !whole.is_file() || whole.is_symlink() {
            continue;
        }
        let bytes = std::fs::read(&whole).with_context(|| format!("cannot read {}", whole.display()))?;
        // What is no text has no lines to check.
        if let Ok(text) = String::from_utf8(bytes) {
            files.push(File { path: path.to_owned(), text });
        }
    }
    let metadata = cmd!(shell, "cargo metadata --no-deps --format-version 1").quiet().read()?;
    let crates = crates::read(&metadata)?;
    Ok(check(&files, &crates))
}

/// Checks the files and the crates.
#[must_use]
pub fn check(files: &[File], crates: &[crates::Crate]) -> Report {
    let mut report = Report { files: files.len(), ..Report::default() };
    crates::check(crates, &mut report.errors);
    crates::check_manifests(files, &mut report.errors);
    source::check(files, &mut report);
    words::check_places(files, &mut report.errors);
    report.errors.retain(|finding| !is_excused(files, finding));
    report.errors.sort();
    report.warnings.sort();
    report
}

/// True if a comment on the line or on the one above excuses it from the rule, with a reason.
fn is_excused(files: &[File], finding: &Finding) -> bool {
    let Some(file) = files.iter().find(|file| file.path == finding.path) else { return false };
    let excuse = format!("// tidy: {}: ", finding.rule);
    let gives_reason =
        |line: &str| line.split_once(&excuse).is_some_and(|(_, reason)| reason.trim().len() > 3);
    file.text.lines().skip(finding.line.saturating_sub(2)).take(2.min(finding.line)).any(gives_reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rules on the tree that they are for.
    #[test]
    fn the_tree_is_tidy() {
        let root =
            Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("two folders below the root");
        let report = run(root).expect("the tree can be read");
        assert!(report.files > 20, "the tree was read: {}", report.files);
        assert!(report.errors.is_empty(), "{report}");
    }

    #[test]
    fn a_report_reads_like_this() {
        let finding =
            |rule, text: &str| Finding { path: "a/b.rs".to_owned(), line: 3, rule, text: text.to_owned() };
        let report = Report {
            errors: vec![finding("layers", "no")],
            warnings: vec![finding("length", "long")],
            files: 2,
        };
        let text = "warning: a/b.rs:3: length: long\nerror: a/b.rs:3: layers: no\ntidy: 2 files, 1 errors, 1 warnings\n";
        assert_eq!(report.to_string(), text);
    }

    #[test]
    fn an_excuse_needs_the_rule_and_a_reason_and_stands_on_the_line_or_above() {
        let finding = |line| Finding { path: "a.rs".to_owned(), line, rule: "sleep", text: String::new() };
        let excused = |text: &str, line| {
            is_excused(&[File { path: "a.rs".to_owned(), text: text.to_owned() }], &finding(line))
        };
        assert!(excused("x(); // tidy: sleep: polls a process of the host", 1));
        assert!(excused("// tidy: sleep: polls a process of the host\nx();", 2));
        assert!(!excused("// tidy: sleep: polls a process of the host\ny();\nx();", 3), "too far away");
        assert!(!excused("x();\n// tidy: sleep: polls a process of the host", 1), "below");
        assert!(!excused("x(); // tidy: sleep:", 1), "no reason");
        assert!(!excused("x(); // tidy: unwrap: polls a process of the host", 1), "another rule");
    }
}
