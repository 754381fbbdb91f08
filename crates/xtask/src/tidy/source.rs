//! The house rules of Rust sources.
//!
//! | rule | what |
//! | --- | --- |
//! | `head` | a file of a crate's `src` begins with a `//!` that says what it is for |
//! | `length` | a file of more than [`LINES_MAX`] lines is split, and from [`LINES_MANY`] on it should be |
//! | `allow` | a lint is expected with a reason, and not allowed |
//! | `unfinished` | nothing is left to do, or left from looking for a fault |
//! | `unwrap` | what cannot fail says why |
//! | `environment` | only `ob-config` and programs' `main` read the environment |
//! | `sleep` | a test waits for what it wants, and not for a time |
//! | `sql` | only `ob-store` speaks SQL |
//! | `crash_point` | what becomes durable in store, engine and gate has a crash point beside it |
//! | `names` | types and modules have names that say something |

use std::collections::BTreeSet;
use std::sync::LazyLock;

use regex::Regex;

use super::File;
use super::Finding;
use super::Report;
use super::tokens;
use super::tokens::Token;
use super::words;

/// A file may have this many lines.
pub const LINES_MAX: usize = 1000;
/// A file should have fewer.
pub const LINES_MANY: usize = 600;

/// Statements of SQL that begin a string.
static SQL: LazyLock<Regex> = LazyLock::new(|| {
    let words = r"SELECT\s.+|INSERT\s+(OR\s+\w+\s+)?INTO|UPDATE\s+\w+\s+SET|DELETE\s+FROM|PRAGMA\s+\w+";
    let more =
        r"(CREATE|DROP|ALTER)\s+(TABLE|INDEX|VIEW|TRIGGER|VIRTUAL)|BEGIN\s+(IMMEDIATE|EXCLUSIVE|DEFERRED)";
    Regex::new(&format!(r#"^(b|c)?r?#*"\s*({words}|{more})\b"#)).expect("the pattern is right")
});

/// One kind of thing that must not stand in code.
struct Ban {
    rule: &'static str,
    /// See [`tokens::find`].
    words: &'static str,
    place: Place,
    text: &'static str,
}

/// Where a ban holds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Everywhere,
    OutsideTests,
    /// In tests whose time is that of the clock on the wall.
    InTimedTests,
    /// Outside of tests, and not where the environment is read.
    OutsideConfig,
}

const UNFINISHED: &str = "is for code that is not finished";
const ENVIRONMENT: &str = "reads or changes the environment; take it as an argument, resolved by `ob-config`";
const SLEEP: &str = "waits for a time; wait for what the test wants, with a deadline";

const BANS: [Ban; 15] = [
    Ban::new(
        "allow",
        "# [ allow",
        Place::Everywhere,
        "hides a lint; use `#[expect(lint, reason = \"...\")]`",
    ),
    Ban::new(
        "allow",
        "# ! [ allow",
        Place::Everywhere,
        "hides a lint; use `#![expect(lint, reason = \"...\")]`",
    ),
    Ban::new("unfinished", "todo !", Place::Everywhere, UNFINISHED),
    Ban::new("unfinished", "unimplemented !", Place::Everywhere, UNFINISHED),
    Ban::new("unfinished", "dbg !", Place::Everywhere, UNFINISHED),
    Ban::new(
        "unwrap",
        ". unwrap ( )",
        Place::OutsideTests,
        "does not say why it cannot fail; use `expect` or `?`",
    ),
    Ban::new("environment", "env : : var", Place::OutsideConfig, ENVIRONMENT),
    Ban::new("environment", "env : : var_os", Place::OutsideConfig, ENVIRONMENT),
    Ban::new("environment", "env : : vars", Place::OutsideConfig, ENVIRONMENT),
    Ban::new("environment", "env : : vars_os", Place::OutsideConfig, ENVIRONMENT),
    Ban::new("environment", "env : : set_var", Place::Everywhere, ENVIRONMENT),
    Ban::new("environment", "env : : remove_var", Place::Everywhere, ENVIRONMENT),
    Ban::new("sleep", "thread : : sleep", Place::InTimedTests, SLEEP),
    Ban::new("sleep", "time : : sleep", Place::InTimedTests, SLEEP),
    Ban::new("sleep", "thread : : sleep_ms", Place::Everywhere, SLEEP),
];

/// Where something becomes durable: a folder, and what it is called there. See [`tokens::find`].
const DURABLE: [(&str, &str); 7] = [
    ("crates/ob-engine/src/", "store . commit ("),
    ("crates/ob-engine/src/", "store . claim ( & id"),
    ("crates/ob-engine/src/", "store . claim ( & open"),
    ("crates/ob-engine/src/", ". new_epoch ("),
    ("crates/ob-gate/src/", "store . commit ("),
    ("crates/ob-store/src/", "fs : : rename"),
    ("crates/ob-store/src/", "fs : : hard_link"),
];
/// A crash point belongs to a write within so many lines: it is of the same function, or of the one that calls it.
const POINT_WITHIN: usize = 25;

// === impl Ban ===

impl Ban {
    const fn new(rule: &'static str, words: &'static str, place: Place, text: &'static str) -> Self {
        Self { rule, words, place, text }
    }

    fn holds(&self, token: &Token, path: &str) -> bool {
        match self.place {
            Place::Everywhere => true,
            Place::OutsideTests => !token.in_test,
            Place::InTimedTests => token.in_test && !may_sleep(path),
            Place::OutsideConfig => !token.in_test && !may_read_environment(path),
        }
    }
}

/// Checks all Rust sources.
pub fn check(files: &[File], report: &mut Report) {
    let sources: Vec<&File> = files.iter().filter(|file| is_our_source(&file.path)).collect();
    let mut test_files = BTreeSet::new();
    let mut read = Vec::new();
    for file in &sources {
        match tokens::read(&file.text, is_test_path(&file.path)) {
            Ok(tokens) => {
                test_files.extend(test_modules(&file.path, &tokens));
                read.push((*file, tokens));
            }
            Err((line, text)) => {
                report.errors.push(finding(file, line, "head", format!("this is not Rust: {text}")))
            }
        }
    }
    for (file, mut tokens) in read {
        if test_files.iter().any(|module| is_module(&file.path, module)) {
            tokens.iter_mut().for_each(|token| token.in_test = true);
        }
        check_head(file, &mut report.errors);
        check_length(file, report);
        check_bans(file, &tokens, &mut report.errors);
        check_sql(file, &tokens, &mut report.errors);
        check_crash_points(file, &tokens, &mut report.errors);
        check_names(file, &tokens, &mut report.errors);
    }
}

/// True if everything in files of this path is only for tests.
pub(super) fn is_test_path(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    parts.iter().any(|part| matches!(*part, "tests" | "benches" | "examples"))
        || parts.last() == Some(&"tests.rs")
}

/// True for Rust that is ours; what lies in `fixtures` is what somebody else could have written.
fn is_our_source(path: &str) -> bool {
    path.ends_with(".rs") && !path.split('/').any(|part| part == "fixtures")
}

/// True for `crates/NAME/src/...`.
fn is_in_src(path: &str) -> bool {
    path.split('/').nth(2) == Some("src")
}

/// Measurements, which assert nothing; and the simulation, where a sleep passes simulated time and takes none.
fn may_sleep(path: &str) -> bool {
    path.contains("/benches/") || path.starts_with("crates/ob-engine/tests/sim/")
}

fn may_read_environment(path: &str) -> bool {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let is_tool = path.starts_with("crates/xtask/") || path.starts_with("crates/ob-testkit/");
    path.starts_with("crates/ob-config/")
        || is_tool
        || matches!(name, "main.rs" | "build.rs")
        || folder.ends_with("/src/bin")
}

/// The modules that this file has only for tests, as paths without an end: `crates/a/src/b/c` for `b/c.rs`.
fn test_modules(path: &str, tokens: &[Token]) -> Vec<String> {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let base = match name {
        "lib.rs" | "main.rs" | "mod.rs" => folder.to_owned(),
        _ => path.trim_end_matches(".rs").to_owned(),
    };
    tokens::find(tokens, "mod * ;")
        .filter(|found| found[0].in_test)
        .map(|found| format!("{base}/{}", found[1].text))
        .collect()
}

fn is_module(path: &str, module: &str) -> bool {
    path.strip_prefix(module).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
}

fn check_head(file: &File, errors: &mut Vec<Finding>) {
    if is_in_src(&file.path) && !file.text.trim_start().starts_with("//!") {
        let text = "the file does not begin with a `//!` that says what it is for".to_owned();
        errors.push(finding(file, 1, "head", text));
    }
}

fn check_length(file: &File, report: &mut Report) {
    let lines = file.text.lines().count();
    let text = format!("the file has {lines} lines; split it where a second thought begins");
    if lines > LINES_MAX {
        report.errors.push(finding(file, lines, "length", text));
    } else if lines > LINES_MANY {
        report.warnings.push(finding(file, lines, "length", text));
    }
}

fn check_bans(file: &File, tokens: &[Token], errors: &mut Vec<Finding>) {
    for ban in &BANS {
        for found in tokens::find(tokens, ban.words).filter(|found| ban.holds(&found[0], &file.path)) {
            let words = ban.words.replace(' ', "");
            errors.push(finding(file, found[0].line, ban.rule, format!("`{words}` {}", ban.text)));
        }
    }
}

fn check_sql(file: &File, tokens: &[Token], errors: &mut Vec<Finding>) {
    if file.path.starts_with("crates/ob-store/") {
        return;
    }
    for token in tokens.iter().filter(|token| SQL.is_match(&token.text)) {
        let text = "SQL is spoken in `ob-store` only; give its trait a method for this".to_owned();
        errors.push(finding(file, token.line, "sql", text));
    }
}

/// What becomes durable in the crates that are killed at each such moment has a crash point beside it.
fn check_crash_points(file: &File, tokens: &[Token], errors: &mut Vec<Finding>) {
    let points: Vec<usize> = tokens::find(tokens, "reach ( CrashPoint").map(|found| found[0].line).collect();
    for (place, words) in DURABLE.iter().filter(|(place, _)| file.path.starts_with(place)) {
        for found in tokens::find(tokens, words).filter(|found| !found[0].in_test) {
            let line = found[0].line;
            if !points.iter().any(|point| point.abs_diff(line) <= POINT_WITHIN) {
                let text = format!(
                    "`{}` in {place} is a durable write without a crash point near it; add one to \
                     `ob_crash::CrashPoint` and say in the harness how it is reached",
                    words.replace(' ', "")
                );
                errors.push(finding(file, line, "crash_point", text));
            }
        }
    }
}

fn check_names(file: &File, tokens: &[Token], errors: &mut Vec<Finding>) {
    for kind in ["struct", "enum", "trait", "union"] {
        for found in tokens::find(tokens, &format!("{kind} *")) {
            if let Some(word) = words::empty_word(&found[1].text) {
                let text = format!("`{word}` in `{}` says nothing; name the thing that it is", found[1].text);
                errors.push(finding(file, found[1].line, "names", text));
            }
        }
    }
    let modules = tokens::find(tokens, "mod * ;").chain(tokens::find(tokens, "mod * {"));
    for found in modules.filter(|found| words::is_empty_module(&found[1].text)) {
        let text = format!("the module `{}` has room for everything; name what is in it", found[1].text);
        errors.push(finding(file, found[1].line, "names", text));
    }
}

fn finding(file: &File, line: usize, rule: &'static str, text: String) -> Finding {
    Finding { path: file.path.clone(), line, rule, text }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIB: &str = "crates/ob-engine/src/lib.rs";

    /// The rules that a file with this body breaks.
    fn rules(path: &str, body: &str) -> Vec<&'static str> {
        let file = File { path: path.to_owned(), text: format!("//! Head.\n{body}\n") };
        let mut report = Report::default();
        check(&[file], &mut report);
        report.errors.into_iter().map(|finding| finding.rule).collect()
    }

    #[test]
    fn each_rule_finds_what_it_is_for_and_nothing_else() {
        let in_tests = |body: &str| format!("#[cfg(test)] mod tests {{ {body} }}");
        let table = [
            ("#[allow(dead_code)] fn f() {}", vec!["allow"]),
            ("#![allow(dead_code)]", vec!["allow"]),
            ("#[expect(dead_code, reason = \"x\")] fn f() { allow() }", vec![]),
            ("fn f() { todo!() }", vec!["unfinished"]),
            ("fn f() { unimplemented!(\"x\") }", vec!["unfinished"]),
            ("fn f() { dbg!(1); }", vec!["unfinished"]),
            ("fn f(todo: u8) -> u8 { todo }", vec![]),
            ("fn f() { x.unwrap(); }", vec!["unwrap"]),
            ("fn f() { assert_eq!(x.unwrap(), 1); }", vec!["unwrap"]),
            ("fn f() { x.unwrap_or(1); y.expect(\"why\"); \".unwrap()\"; }", vec![]),
            ("fn f() { std::env::var(\"X\"); }", vec!["environment"]),
            ("fn f() { env::vars_os(); }", vec!["environment"]),
            ("fn f() { env!(\"X\"); std::env::args(); let var = 1; }", vec![]),
            ("fn f() { std::thread::sleep(d); }", vec![]),
            ("fn f() { q(\"SELECT a FROM b\"); }", vec!["sql"]),
            ("fn f() { q(r#\"\n  INSERT INTO b VALUES (1)\"#); }", vec!["sql"]),
            ("fn f() { q(\"SELECT\"); q(\"please SELECT a thing\"); q(\"UPDATE it\"); }", vec![]),
            ("pub struct SessionManager;", vec!["names"]),
            ("pub(crate) enum ErrorHandler { A }", vec!["names"]),
            ("mod utils;", vec!["names"]),
            ("pub struct Session { handler: Handler }", vec![]),
            ("fn f( {", vec!["head"]),
        ];
        for (body, expected) in table {
            assert_eq!(rules(LIB, body), expected, "{body}");
        }
        let table = [
            ("fn f() { std::thread::sleep(d); }", vec!["sleep"]),
            ("use tokio::time::sleep;", vec!["sleep"]),
            ("fn f() { tokio::time::timeout(d, x); }", vec![]),
            ("fn f() { x.unwrap(); std::env::var(\"X\"); }", vec![]),
            ("fn f() { todo!(); std::env::set_var(\"X\", \"1\"); }", vec!["unfinished", "environment"]),
        ];
        for (body, expected) in table {
            assert_eq!(rules(LIB, &in_tests(body)), expected, "in tests: {body}");
            assert_eq!(
                rules("crates/ob-engine/tests/it/main.rs", body),
                expected,
                "in a test's file: {body}"
            );
        }
    }

    #[test]
    fn some_places_may_what_others_may_not() {
        let environment = "fn f() { std::env::var(\"X\"); }";
        for path in
            ["crates/ob-config/src/lib.rs", "crates/oubliette/src/main.rs", "crates/oubliette/build.rs"]
        {
            assert_eq!(rules(path, environment), [] as [&str; 0], "{path}");
        }
        let sql = "fn f() { q(\"DELETE FROM b\"); }";
        assert_eq!(rules("crates/ob-store/src/sqlite.rs", sql), [] as [&str; 0]);
        assert_eq!(rules(LIB, sql), ["sql"], "the control");
    }

    #[test]
    fn a_durable_write_without_a_crash_point_beside_it_is_found() {
        let write = "fn f() { store.commit(x); }";
        let far = "\n".repeat(POINT_WITHIN + 1);
        let table = [
            ("crates/ob-engine/src/a.rs", write.to_owned(), vec!["crash_point"]),
            ("crates/ob-engine/src/a.rs", format!("{write} fn g() {{ reach(CrashPoint::A); }}"), vec![]),
            (
                "crates/ob-engine/src/a.rs",
                format!("{write}{far}fn g() {{ reach(CrashPoint::A); }}"),
                vec!["crash_point"],
            ),
            ("crates/ob-store/src/a.rs", "fn f() { fs::rename(a, b); }".to_owned(), vec!["crash_point"]),
            ("crates/ob-config/src/a.rs", "fn f() { fs::rename(a, b); }".to_owned(), vec![]),
            ("crates/ob-engine/tests/it/a.rs", write.to_owned(), vec![]),
        ];
        for (path, body, expected) in table {
            assert_eq!(rules(path, &body), expected, "{path}: {body}");
        }
    }

    #[test]
    fn a_file_has_a_head_and_an_end() {
        let report = |text: String| {
            let mut report = Report::default();
            check(&[File { path: LIB.to_owned(), text }], &mut report);
            (report.errors.len(), report.warnings.len())
        };
        assert_eq!(report("fn f() {}\n".to_owned()), (1, 0));
        assert_eq!(report("#![expect(x)]\n//! Head.\n".to_owned()), (1, 0), "the head comes first");
        assert_eq!(report("//! Head.\n".repeat(LINES_MANY)), (0, 0));
        assert_eq!(report("//! Head.\n".repeat(LINES_MANY + 1)), (0, 1));
        assert_eq!(report("//! Head.\n".repeat(LINES_MAX + 1)), (1, 0));
    }

    #[test]
    fn a_head_is_asked_of_our_own_sources_only() {
        let table = [
            (LIB, 1),
            ("crates/ob-core/src/session/tests.rs", 1),
            ("crates/ob-core/tests/it/main.rs", 0),
            ("crates/ob-testkit/fixtures/repo/src/lib.rs", 0),
        ];
        for (path, expected) in table {
            let mut report = Report::default();
            check(&[File { path: path.to_owned(), text: "fn f() {}\n".to_owned() }], &mut report);
            assert_eq!(report.errors.len(), expected, "{path}");
        }
    }

    #[test]
    fn a_module_for_tests_in_its_own_file_is_a_test() {
        let file =
            |path: &str, text: &str| File { path: path.to_owned(), text: format!("//! Head.\n{text}") };
        let sleeps = "fn f() { std::thread::sleep(d); }";
        let table = [
            (LIB, "crates/ob-engine/src/fakes.rs"),
            (LIB, "crates/ob-engine/src/fakes/deep.rs"),
            ("crates/ob-engine/src/a/mod.rs", "crates/ob-engine/src/a/fakes.rs"),
            ("crates/ob-engine/src/a.rs", "crates/ob-engine/src/a/fakes/mod.rs"),
        ];
        for (parent, child) in table {
            let errors = |text: &str| {
                let mut report = Report::default();
                check(&[file(child, sleeps), file(parent, text)], &mut report);
                report.errors.len()
            };
            assert_eq!(errors("#[cfg(test)]\nmod fakes;"), 1, "{parent} {child}");
            assert_eq!(errors("mod fakes;"), 0, "{parent} {child}: the control");
        }
    }
}
