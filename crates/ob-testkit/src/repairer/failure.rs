//! Reads what a test run printed: did it pass, what failed, and where.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use regex::Regex;

/// What a test run said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Run {
    /// The exit code; `None` if it did not exit by itself or the result was lost.
    pub(super) code: Option<i32>,
    /// The shell or `make` did not find a program.
    missing_program: bool,
    /// It did not get as far as running tests: a compiler or interpreter refused the source.
    pub(super) broken: bool,
    /// Names of tests that failed.
    pub(super) failed: BTreeSet<String>,
    /// Places that it names, in order, each once: a file as printed, and a line.
    pub(super) places: Vec<(String, usize)>,
    /// The most telling lines.
    pub(super) reasons: Vec<String>,
}

macro_rules! pattern {
    ($name:ident, $regex:literal) => {
        static $name: LazyLock<Regex> =
            LazyLock::new(|| Regex::new($regex).expect("a constant expression, compiled in every test"));
    };
}

pattern!(EXIT, r"(?m)exit code:? (-?\d+)");
pattern!(PLACE, r#"(?:^|[\s("'`])(?:\./)?(/?[\w][\w./+-]*\.[A-Za-z]{1,4})(?:", line |:)(\d+)"#);
pattern!(RUST_FAILED, r"(?m)^test (\S+)(?: - should panic)? \.\.\. FAILED");
pattern!(PYTHON_FAILED, r"(?m)^(?:FAIL|ERROR): (\w+)");
pattern!(PYTEST_FAILED, r"(?m)^FAILED (\S+)");
pattern!(OTHER_FAILED, r"(?mi)^\s*(?:not ok \d* ?-? ?|\[?fail(?:ed)?\]?[:\s]\s*|✗ |✖ )(.{1,120})$");
pattern!(REASON, r"(?i)(assert|left:|right:|expected|got |panicked|Error:|not ok|\bfail(ed)?\b.*:)");
pattern!(
    BROKEN,
    r"(?m)(could not compile|^error(\[E\d+\])?: |: (fatal )?error: |SyntaxError|IndentationError|[Ss]yntax error)"
);

// === impl Run ===

impl Run {
    /// Reads a result of the tool `run`.
    pub(super) fn parse(output: &str) -> Self {
        let code = EXIT.captures_iter(output).last().and_then(|found| found[1].parse().ok());
        let mut run = Self { code, ..Self::default() };
        for pattern in [&RUST_FAILED, &PYTHON_FAILED, &PYTEST_FAILED] {
            run.failed.extend(pattern.captures_iter(output).map(|found| found[1].to_string()));
        }
        if run.failed.is_empty() {
            run.failed.extend(OTHER_FAILED.captures_iter(output).map(|found| found[1].trim().to_string()));
        }
        for line in output.lines().filter(|line| !line.contains("/rustc/")) {
            for found in PLACE.captures_iter(line) {
                if let Ok(number) = found[2].parse() {
                    let place = (found[1].to_string(), number);
                    if !run.places.contains(&place) {
                        run.places.push(place);
                    }
                }
            }
            if REASON.is_match(line) && run.reasons.len() < 4 {
                run.reasons.push(line.trim().chars().take(160).collect());
            }
        }
        // Rust prints `error: test failed` after tests that ran.
        let ran = !run.failed.is_empty() || output.contains("test result:") || output.contains("Ran ");
        run.missing_program = output.contains("not found") && output.contains("Error 127");
        run.broken = run.code != Some(0) && !ran && BROKEN.is_match(output);
        run
    }

    /// Every test passed.
    pub(super) fn is_green(&self) -> bool {
        self.code == Some(0)
    }

    /// The program that runs the tests is missing or may not be run.
    pub(super) fn cannot_run(&self) -> bool {
        matches!(self.code, Some(126 | 127) | None) || self.missing_program
    }

    /// Some of what failed in `before` passes, and nothing else fails.
    pub(super) fn is_better_than(&self, before: &Self) -> bool {
        !self.broken
            && !self.failed.is_empty()
            && self.failed.len() < before.failed.len()
            && self.failed.is_subset(&before.failed)
    }

    /// What failed, in a few words.
    pub(super) fn summary(&self) -> String {
        let names: Vec<&str> = self.failed.iter().map(String::as_str).take(4).collect();
        match (self.failed.len(), self.code) {
            (0, Some(code)) => format!("the tests end with exit code {code}"),
            (0, None) => "the tests did not end by themselves".to_string(),
            (count, _) if count > names.len() => {
                format!("{count} tests fail, among them `{}`", names.join("`, `"))
            }
            (1, _) => format!("`{}` fails", names[0]),
            (count, _) => format!("{count} tests fail: `{}`", names.join("`, `")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(output: &str) -> Vec<(String, usize)> {
        Run::parse(output).places
    }

    #[test]
    fn rust() {
        let output = "test tests::a ... ok\ntest tests::b ... FAILED\n\n---- tests::b stdout ----\n\n\
            thread 'tests::b' (77) panicked at tests/calendar.rs:25:5:\nassertion `left == right` failed\n  left: 1\n \
            right: 2\n   0: __rustc\n             at /rustc/59807/library/std/src/panicking.rs:689:5\n\
            test result: FAILED. 1 passed; 1 failed\nerror: test failed, to rerun pass `--lib`\nexit code: 101";
        let run = Run::parse(output);
        assert_eq!(run.code, Some(101));
        assert!(!run.broken && !run.cannot_run());
        assert_eq!(run.failed, BTreeSet::from(["tests::b".to_string()]));
        assert_eq!(run.places, [("tests/calendar.rs".to_string(), 25)]);
        assert!(run.reasons.iter().any(|reason| reason.contains("left: 1")), "{:?}", run.reasons);
    }

    #[test]
    fn c_python_and_shell() {
        let c = "test_ring: test/test_ring.c:14: main: Assertion `ring_next(7) == 0' failed.\nmake: *** [test] Error 134";
        assert_eq!(places(c), [("test/test_ring.c".to_string(), 14)]);
        let python = "FAIL: test_total (test_cart.CartTest)\n  File \"/workspace/test_cart.py\", line 9, in test_total\n\
            AssertionError: 3 != 4\nRan 2 tests\nexit code: 1";
        let run = Run::parse(python);
        assert_eq!(run.failed, BTreeSet::from(["test_total".to_string()]));
        assert_eq!(run.places, [("/workspace/test_cart.py".to_string(), 9)]);
        let shell = "ok 1 - zero\nnot ok 2 - two and three: expected 5 got 6\nexit code: 1";
        assert_eq!(Run::parse(shell).failed.len(), 1);
        assert!(Run::parse("FAIL: add 2 3: expected 5 got 6\nexit code: 1").failed.len() == 1);
    }

    #[test]
    fn what_does_not_build_is_not_a_failing_test() {
        let run = Run::parse(
            "error[E0308]: mismatched types\n --> src/lib.rs:3:5\nerror: could not compile `x`\nexit code: 101",
        );
        assert!(run.broken);
        assert!(Run::parse("sh: 1: cargo: not found\nexit code: 127").cannot_run());
        assert!(Run::parse("killed: it took longer than 600 s").cannot_run());
        assert!(Run::parse("exit code: 0").is_green());
    }

    #[test]
    fn better_is_a_part_of_what_failed_before() {
        let run = |names: &[&str]| Run {
            code: Some(1),
            failed: names.iter().map(ToString::to_string).collect(),
            ..Run::default()
        };
        assert!(run(&["a"]).is_better_than(&run(&["a", "b"])));
        assert!(!run(&["a", "b"]).is_better_than(&run(&["a", "b"])));
        assert!(!run(&["c"]).is_better_than(&run(&["a", "b"])));
        assert!(!run(&[]).is_better_than(&run(&["a", "b"])));
    }
}
