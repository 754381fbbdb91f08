//! Every metric by name: the one table from which the families are registered and the documents are written.

use std::fmt::Write as _;

/// What kind of numbers a family has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Only rises.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Rises and falls under a name that ends in `_total`, which `promtool` only lets a counter or an untyped family
    /// have. The name is a client's and stays.
    Untyped,
    /// Counts by upper bounds, in the unit of the name.
    Histogram(&'static [f64]),
}

/// A family of metrics.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Family {
    /// The full name.
    pub name: &'static str,
    /// The kind.
    pub kind: Kind,
    /// The names of the labels.
    pub labels: &'static [&'static str],
    /// What it says, one sentence.
    pub help: &'static str,
}

/// Bounds of what a client waits for, in seconds.
pub(crate) const WAIT_SECONDS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Bounds of how long a session lives, in seconds: those of a wait, and on to a day.
pub(crate) const SESSION_SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0,
    3600.0, 14_400.0, 86_400.0,
];

macro_rules! families {
    ($($constant:ident = $name:literal, $kind:expr, [$($label:literal),*], $help:literal;)*) => {
        $(pub(crate) const $constant: Family =
            Family { name: $name, kind: $kind, labels: &[$($label),*], help: $help };)*

        /// Every family, in the order of the document.
        pub const FAMILIES: &[Family] = &[$($constant,)*];
    };
}

families! {
    REQUESTS = "oubliette_requests_total", Kind::Counter, ["method", "path", "status"],
        "Requests answered, without probes and this page.";
    REQUEST_SECONDS = "oubliette_request_duration_seconds", Kind::Histogram(WAIT_SECONDS), ["method", "path"],
        "Time from a request to its response head.";
    ACTIVE_SESSIONS = "oubliette_active_sessions", Kind::Gauge, ["project_id"],
        "Sessions that are not over.";
    SESSION_SECONDS_FAMILY = "oubliette_session_duration_seconds", Kind::Histogram(SESSION_SECONDS),
        ["project_id", "status"], "Time from a session's creation to its end.";
    SESSION_EVENTS = "oubliette_session_events_total", Kind::Counter, [],
        "Session events that became durable.";
    CONTAINERS = "oubliette_containers_running", Kind::Gauge, [],
        "Sandboxes that run, of every backend.";
    PROJECTS = "oubliette_projects_total", Kind::Untyped, [],
        "Projects.";
    TOOL_CALLS = "oubliette_tool_calls_total", Kind::Counter, ["tool", "action", "status"],
        "Operations asked for, from every door, by outcome.";
    SANDBOX_STARTS = "oubliette_sandbox_starts_total", Kind::Counter, ["backend"],
        "Sandboxes that started.";
    SANDBOX_START_FAILURES = "oubliette_sandbox_start_failures_total", Kind::Counter, ["backend"],
        "Sandboxes that were asked for and did not start.";
    SANDBOX_START_SECONDS = "oubliette_sandbox_start_seconds", Kind::Histogram(WAIT_SECONDS), [],
        "Time from asking for a sandbox to its link being up.";
    LIMITS_REACHED = "oubliette_sandbox_limits_reached_total", Kind::Counter, ["limit"],
        "Reports of sandboxes that reached a limit; one report may stand for many times in a row.";
    MODEL_CALLS = "oubliette_model_calls_total", Kind::Counter, ["provider", "status"],
        "Model calls that ended, by outcome.";
    TURNS = "oubliette_turns_total", Kind::Counter, ["state"],
        "Turns that are over, by how they ended.";
    REFUSALS = "oubliette_refusals_total", Kind::Counter, ["code"],
        "Refusals given, by code.";
    CONFIG_RELOADS = "oubliette_config_reloads_total", Kind::Counter, ["status"],
        "Times that the configuration was read anew: `ok`, or `refused` for its mistakes.";
    PANICS = "oubliette_panics_total", Kind::Counter, [],
        "Panics caught; each is a fault of ours, and the log has its backtrace.";
    INVARIANTS_BROKEN = "oubliette_invariants_broken_total", Kind::Counter, ["invariant"],
        "How often a promise of the catalogue was found broken; anything but 0 is a fault of ours.";
    BUILD_INFO = "oubliette_build_info", Kind::Gauge, ["version"],
        "1, for the version that runs.";
}

// === impl Kind ===

impl Kind {
    /// The kind in one word, as on the page.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Untyped => "untyped",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// The document of all metrics, in Markdown.
pub fn document() -> String {
    let mut page = String::from(
        "# Metrics\n\n\
         `GET /metrics` answers in Prometheus' text format 0.0.4. Every family is there from the start, with zeros.\n\
         `project_id`, `path` and `provider` have at most 200 values each; all others are counted as `other`.\n\n\
         <!-- Generated: cargo run -p ob-telemetry --example metrics_page > docs/metrics.md -->\n\n\
         | name | type | labels | meaning |\n| --- | --- | --- | --- |\n",
    );
    for family in FAMILIES {
        let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        let (name, kind, labels, help) = (family.name, family.kind.as_str(), labels.join(", "), family.help);
        writeln!(page, "| `{name}` | {kind} | {labels} | {help} |").expect("a string takes everything");
    }
    let bounds = |bounds: &[f64]| bounds.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    write!(
        page,
        "\nUpper bounds in seconds: {}; of sessions also {}.\n",
        bounds(WAIT_SECONDS),
        bounds(&SESSION_SECONDS[WAIT_SECONDS.len()..])
    )
    .expect("a string takes everything");
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_page_is_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
        let committed = std::fs::read_to_string(path).expect("docs/metrics.md is committed");
        assert_eq!(
            committed,
            document(),
            "run: cargo run -p ob-telemetry --example metrics_page > docs/metrics.md"
        );
    }

    #[test]
    fn names_follow_the_conventions() {
        let mut names: Vec<&str> = FAMILIES.iter().map(|family| family.name).collect();
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all, "each name once");
        for family in FAMILIES {
            assert!(family.name.starts_with("oubliette_"), "{}", family.name);
            assert!(family.help.ends_with('.'), "{}", family.name);
            match family.kind {
                Kind::Counter => assert!(family.name.ends_with("_total"), "{}", family.name),
                Kind::Histogram(bounds) => {
                    assert!(family.name.ends_with("_seconds"), "{}", family.name);
                    assert!(bounds.is_sorted() && bounds.contains(&0.001) && bounds.contains(&10.0));
                    assert!(bounds.contains(&60.0));
                }
                Kind::Gauge => assert!(!family.name.ends_with("_total"), "{}", family.name),
                Kind::Untyped => {}
            }
        }
    }
}
