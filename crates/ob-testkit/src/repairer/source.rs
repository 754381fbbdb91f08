//! Source files as the tools show them, and the functions in them.

use std::sync::LazyLock;

use regex::Regex;

/// A file, as far as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    /// Its path in the workspace.
    pub(super) path: String,
    /// Its lines, the first has number 1.
    pub(super) lines: Vec<String>,
}

/// Where a function is in its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Function {
    pub(super) path: String,
    pub(super) name: String,
    /// The first line, counted from 0.
    pub(super) start: usize,
    /// The line behind the last.
    pub(super) end: usize,
}

static NUMBERED: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^\s*(\d+)(?:\t|→|\s?[|:] ?)(.*)$").expect("a constant expression"));
static CALLED: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"([A-Za-z_]\w*)\s*\(").expect("a constant expression"));
static DEFINED: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"(?x)
          ^\s*(?:pub(?:\([^)]*\))?\s+|static\s+|const\s+|async\s+|unsafe\s+|export\s+|default\s+)*
          (?:fn|def|func|function)\s+(?:\([^)]*\)\s*)?(\w+)
        | ^(?:[A-Za-z_][\w\s\*]*[\s\*])?([A-Za-z_]\w*)\s*\([^;]*\)?\s*\{?\s*$
        | ^\s*(?:static\s+|async\s+)*([A-Za-z_]\w*)\s*\([^;]*\)\s*\{\s*$",
    )
    .expect("a constant expression")
});

/// Names that are called everywhere and defined nowhere in a repository.
const COMMON: [&str; 46] = [
    "if",
    "while",
    "for",
    "match",
    "switch",
    "return",
    "assert",
    "expect",
    "unwrap",
    "Some",
    "Ok",
    "Err",
    "len",
    "to_string",
    "print",
    "printf",
    "println",
    "format",
    "main",
    "into",
    "from",
    "clone",
    "iter",
    "collect",
    "map",
    "range",
    "str",
    "int",
    "list",
    "dict",
    "set",
    "sorted",
    "is_some",
    "is_none",
    "assertEqual",
    "assertTrue",
    "assertFalse",
    "assertRaises",
    "sizeof",
    "strcmp",
    "puts",
    "exit",
    "fprintf",
    "describe",
    "it",
    "require",
];

// === impl Source ===

impl Source {
    /// From a result of the tool `read`.
    pub(super) fn parse(path: &str, shown: &str) -> Self {
        let mut lines: Vec<String> = Vec::new();
        for found in shown.lines().filter_map(|line| NUMBERED.captures(line)) {
            // A number that is out of order is a line of the tool's own words.
            if found[1].parse() == Ok(lines.len() + 1) {
                lines.push(found[2].to_string());
            }
        }
        Self { path: path.to_string(), lines }
    }

    /// The old text and the new text of an edit that replaces line `index`: with as many lines before it as it takes to
    /// be unique in the file.
    pub(super) fn edit(&self, index: usize, new_line: &str) -> Option<(String, String)> {
        let old_line = self.lines.get(index)?;
        let whole = format!("{}\n", self.lines.join("\n"));
        (0..=index.min(8)).find_map(|before| {
            let head = &self.lines[index - before..index];
            let join =
                |last: &str| head.iter().map(String::as_str).chain([last]).collect::<Vec<_>>().join("\n");
            let old = join(old_line);
            (whole.matches(&old).count() == 1).then(|| (old, join(new_line)))
        })
    }

    /// The innermost function that a line (from 0) is in.
    pub(super) fn function_at(&self, line: usize) -> Option<Function> {
        self.functions().into_iter().rfind(|f| (f.start..f.end).contains(&line))
    }

    /// Every function, in order.
    pub(super) fn functions(&self) -> Vec<Function> {
        let defined = |line: &String| {
            let found = DEFINED.captures(line)?;
            let name = found.iter().skip(1).flatten().next()?.as_str();
            (!COMMON.contains(&name) || name == "main").then(|| name.to_string())
        };
        let starts = self.lines.iter().enumerate().filter_map(|(start, line)| Some((start, defined(line)?)));
        starts
            .filter_map(|(start, name)| {
                let end = self.end_of(start)?;
                Some(Function { path: self.path.clone(), name, start, end })
            })
            .collect()
    }

    /// The line behind the function that begins at `start`: where its braces close, or its indentation ends.
    fn end_of(&self, start: usize) -> Option<usize> {
        if self.path.ends_with(".py") {
            let indent = |line: &str| line.len() - line.trim_start().len();
            let own = indent(&self.lines[start]);
            let body = self.lines[start + 1..].iter().take_while(|l| l.trim().is_empty() || indent(l) > own);
            return Some(start + 1 + body.count());
        }
        let mut depth = 0_i32;
        let mut opened = false;
        for (index, line) in self.lines.iter().enumerate().skip(start) {
            for character in super::mutate::masked(&self.path, line).chars() {
                match character {
                    '{' => (depth, opened) = (depth + 1, true),
                    '}' => depth -= 1,
                    // Only declared, not defined.
                    ';' if !opened => return None,
                    _ => {}
                }
            }
            if opened && depth <= 0 {
                return Some(index + 1);
            }
        }
        None
    }

    /// Names that are called in these lines, in order, each once.
    pub(super) fn calls(&self, lines: std::ops::Range<usize>) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for line in self.lines.get(lines).unwrap_or_default() {
            for found in CALLED.captures_iter(line) {
                let name = &found[1];
                if !COMMON.contains(&name) && !names.iter().any(|known| known == name) {
                    names.push(name.to_string());
                }
            }
        }
        names
    }

    /// True if the function is a test itself.
    pub(super) fn is_test(&self, function: &Function) -> bool {
        let above = self.lines[function.start.saturating_sub(3)..function.start].iter();
        is_test_path(&self.path)
            || function.name.starts_with("test")
            || above
                .rev()
                .take_while(|line| line.trim_start().starts_with('#'))
                .any(|line| line.contains("test]"))
            || self.lines[..function.start].iter().any(|line| line.contains("#[cfg(test)]"))
    }
}

/// True if a path belongs to tests.
pub(super) fn is_test_path(path: &str) -> bool {
    path.split('/').any(|part| {
        let part = part.to_ascii_lowercase();
        let stem = part.split('.').next().unwrap_or_default();
        matches!(stem, "test" | "tests" | "spec" | "specs")
            || stem.starts_with("test_")
            || stem.starts_with("test-")
            || stem.ends_with("_test")
            || stem.ends_with("-test")
            || stem.ends_with("tests")
            || part.contains(".test.")
            || part.contains(".spec.")
    })
}

/// True if a path is source that can be repaired line by line.
pub(super) fn is_source_path(path: &str) -> bool {
    let extension = path.rsplit_once('.').map_or("", |(_, extension)| extension);
    matches!(
        extension,
        "rs" | "c" | "h" | "cc" | "cpp" | "hpp" | "py" | "js" | "mjs" | "ts" | "go" | "java" | "sh" | "rb"
    )
}

/// The paths of a result of the tool `list`: whole paths line by line, or names that are indented by depth.
pub(super) fn listed(shown: &str) -> Vec<String> {
    let mut folders: Vec<(usize, String)> = Vec::new();
    let mut paths = Vec::new();
    for line in shown.lines() {
        let name = line.trim_start_matches(|c: char| c.is_whitespace() || "│├└─|`*-".contains(c)).trim_end();
        let name = name.strip_prefix("./").unwrap_or(name);
        if name.is_empty() || name.starts_with('[') {
            continue;
        }
        let depth = line.chars().count()
            - line.trim_start_matches(|c: char| c.is_whitespace() || "│├└─|`*-".contains(c)).chars().count();
        folders.retain(|(folder, _)| *folder < depth);
        let parent = folders.last().map_or(String::new(), |(_, path)| format!("{path}/"));
        let path = format!("{parent}{}", name.trim_end_matches('/'));
        if name.ends_with('/') {
            folders.push((depth, path));
        } else {
            paths.push(path);
        }
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source { path: path.into(), lines: text.lines().map(ToString::to_string).collect() }
    }

    #[test]
    fn numbered_lines_are_read_and_the_tools_own_words_are_not() {
        let shown = "     1\tfn a() {\n     2\t\n     3\t\t}\n[more lines follow 3; go on with offset 4]\n";
        assert_eq!(Source::parse("a.rs", shown).lines, ["fn a() {", "", "\t}"]);
        assert_eq!(Source::parse("a.rs", "1: x\n2: y").lines, ["x", "y"]);
    }

    #[test]
    fn lists_come_as_paths_or_as_trees() {
        let paths = "Cargo.toml\nsrc/\nsrc/lib.rs\n[more entries follow]\n";
        assert_eq!(listed(paths), ["Cargo.toml", "src/lib.rs"]);
        let tree = "Cargo.toml\nsrc/\n  a/\n    b.rs\n  lib.rs\nREADME.md\n";
        assert_eq!(listed(tree), ["Cargo.toml", "src/a/b.rs", "src/lib.rs", "README.md"]);
    }

    #[test]
    fn functions_of_several_languages() {
        let names = |path: &str, text: &str| {
            let functions = source(path, text).functions();
            functions.into_iter().map(|f| (f.name, f.start, f.end)).collect::<Vec<_>>()
        };
        let rust = "impl A {\n    pub fn one(&self) -> bool {\n        if a { b } else { c }\n    }\n}\nfn two() {}\n";
        assert_eq!(names("a.rs", rust), [("one".into(), 1, 4), ("two".into(), 5, 6)]);
        let c = "int next(int i);\nint next(int i)\n{\n    return i + 1;\n}\nstatic char *name(void) {\n}\n";
        assert_eq!(names("a.c", c), [("next".into(), 1, 5), ("name".into(), 5, 7)]);
        let python = "class A:\n    def total(self):\n        x = 1\n\n        return x\n\n    def other(self):\n        pass\n";
        assert_eq!(names("a.py", python), [("total".into(), 1, 6), ("other".into(), 6, 8)]);
        assert_eq!(names("a.sh", "add() {\n  echo $(($1 + $2))\n}\n"), [("add".into(), 0, 3)]);
    }

    #[test]
    fn an_edit_takes_in_lines_until_it_is_unique() {
        let source = source("a.rs", "a\nx\nb\nx");
        assert_eq!(source.edit(0, "A"), Some(("a".into(), "A".into())));
        assert_eq!(source.edit(3, "y"), Some(("b\nx".into(), "b\ny".into())));
        assert_eq!(source.edit(9, "y"), None);
    }

    #[test]
    fn tests_are_told_from_source() {
        for test in ["tests/a.rs", "test_a.py", "src/a_test.c", "a.test.js", "src/tests.rs", "run-tests.sh"] {
            assert!(is_test_path(test), "{test}");
        }
        for other in ["src/lib.rs", "latest.py", "src/contest.c", "attest/a.rs"] {
            assert!(!is_test_path(other), "{other}");
        }
    }
}
