//! Words that have no place in the tree: names of types that say nothing, and paths of somebody's machine.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use regex::Regex;

use super::File;
use super::Finding;
use super::source;
use super::tokens;

/// Words in a type's name that say nothing about it.
const EMPTY_WORDS: [&str; 6] = ["Manager", "Helper", "Helpers", "Util", "Utils", "Handler"];
/// Names of modules in which everything ends up.
const EMPTY_MODULES: [&str; 6] = ["util", "utils", "helper", "helpers", "misc", "common"];

/// Absolute paths below folders that only some machines have. Written so that it does not find itself.
static PLACES: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?m)(?:^|[^\w./*{}-])(/(?:work|root|home/[a-z]+)/)").expect("the pattern is right")
});
/// Folders inside a sandbox, which look like those of a machine.
const IN_SANDBOX: [&str; 1] = ["/home/agent/"];

/// The word in this name of a type that says nothing.
pub(super) fn empty_word(name: &str) -> Option<&'static str> {
    let starts: Vec<usize> =
        name.char_indices().filter(|(_, c)| c.is_uppercase()).map(|(at, _)| at).collect();
    let ends = starts.iter().skip(1).copied().chain([name.len()]);
    let words: Vec<&str> = starts.iter().zip(ends).map(|(start, end)| &name[*start..end]).collect();
    EMPTY_WORDS.into_iter().find(|empty| words.contains(empty))
}

/// True if a module of this name says nothing.
pub(super) fn is_empty_module(name: &str) -> bool {
    EMPTY_MODULES.contains(&name)
}

/// Finds paths of somebody's machine, everywhere but in tests and what is generated.
pub(super) fn check_places(files: &[File], errors: &mut Vec<Finding>) {
    for file in files.iter().filter(|file| !source::is_test_path(&file.path) && !file.path.ends_with(".lock"))
    {
        let in_tests = test_lines(file);
        for (number, line) in
            file.text.lines().enumerate().filter(|(number, _)| !in_tests.contains(&(number + 1)))
        {
            // Comments in Rust may speak of people's homes.
            let may_name_homes = file.path.ends_with(".rs") && line.trim_start().starts_with("//");
            let hit = PLACES.captures_iter(line).filter_map(|found| found.get(1)).find(|found| {
                let is_home = found.as_str().trim_matches('/') != "work";
                let is_fine = IN_SANDBOX.contains(&found.as_str()) || is_home && may_name_homes;
                !is_fine
            });
            if let Some(found) = hit {
                let text =
                    format!("`{}` is a place on one machine; take it from configuration", found.as_str());
                errors.push(Finding { path: file.path.clone(), line: number + 1, rule: "places", text });
            }
        }
    }
}

/// The lines of a Rust source that only tests see.
fn test_lines(file: &File) -> BTreeSet<usize> {
    let tokens = if file.path.ends_with(".rs") { tokens::read(&file.text, false) } else { Ok(Vec::new()) };
    // A source that is not Rust is reported by another rule.
    tokens.unwrap_or_default().into_iter().filter(|token| token.in_test).map(|token| token.line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_judged_by_its_words() {
        let table = [
            ("SessionManager", Some("Manager")),
            ("Handler", Some("Handler")),
            ("HandlerTable", Some("Handler")),
            ("PathUtils", Some("Utils")),
            ("Manage", None),
            ("Utility", None),
            ("HandlersEnd", None),
            ("Session", None),
            ("", None),
        ];
        for (name, expected) in table {
            assert_eq!(empty_word(name), expected, "{name}");
        }
        assert!(is_empty_module("utils"));
        assert!(!is_empty_module("bounds"));
    }

    #[test]
    fn places_of_one_machine_are_found() {
        let place = |folder: &str| format!("open(\"/{folder}/x\")");
        let table = [
            ("crates/a/src/lib.rs", place("work"), 1),
            ("crates/a/src/lib.rs", place("root").replace("open", "// open"), 0),
            ("crates/a/src/lib.rs", place("work").replace("open", "// open"), 1),
            ("README.md", place("root"), 1),
            ("scripts/x.sh", place("root").replace("open(", "cd "), 1),
            (
                "crates/a/src/lib.rs",
                format!("#[cfg(test)]\nmod tests {{ fn f() {{ {} }} }}", place("work")),
                0,
            ),
            (
                "crates/a/src/lib.rs",
                format!("#[cfg(test)]\nmod tests {{}}\nfn f() {{ {} }}", place("work")),
                1,
            ),
            ("a.toml", place("home/ada"), 1),
            ("crates/a/src/lib.rs", place("home/agent"), 0),
            ("crates/a/src/lib.rs", place("workspace"), 0),
            ("crates/a/src/lib.rs", "target/work/x and ./work/x".to_owned(), 0),
            ("crates/a/src/lib.rs", "the rootless /rooted/ one".to_owned(), 0),
            ("crates/a/tests/it/main.rs", place("work"), 0),
            ("Cargo.lock", place("work"), 0),
        ];
        for (path, text, expected) in table {
            let mut errors = Vec::new();
            check_places(&[File { path: path.to_owned(), text: text.clone() }], &mut errors);
            assert_eq!(errors.len(), expected, "{path}: {text}");
        }
    }
}
