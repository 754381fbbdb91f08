//! The registry of all families, and the page that is read from it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use ob_core::RefusalCode;
use ob_core::invariant::Invariant;
use ob_core::operation::Method;
use ob_core::operation::Operation;
use ob_core::resource::Resource;
use ob_core::session::SessionStatus;
use ob_core::turn::TurnState;
use prometheus::HistogramOpts;
use prometheus::HistogramVec;
use prometheus::IntCounterVec;
use prometheus::IntGaugeVec;
use prometheus::Opts;
use prometheus::Registry;
use prometheus::TextEncoder;

use crate::names;
use crate::names::FAMILIES;
use crate::names::Family;
use crate::names::Kind;

/// The content type of [`Metrics::render`].
pub const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// At most so many values of one label that others than we choose; a page must not grow with its clients.
pub(crate) const MOST_VALUES: usize = 200;

/// All values of a label beyond [`MOST_VALUES`].
pub(crate) const OTHER: &str = "other";

/// The outcome of a call that was not refused.
pub(crate) const OK: &str = "ok";
/// The status of a configuration that has mistakes.
pub(crate) const REFUSED: &str = "refused";

/// Numbers that are read and not counted, set right before the page is rendered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Sessions that are not over, by project.
    pub active_sessions: Vec<(String, u64)>,
    /// Sandboxes that run.
    pub sandboxes: u64,
    /// Projects.
    pub projects: u64,
}

/// The metrics of a server. Cheap to clone: all clones count into the same families.
#[derive(Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
}

struct Inner {
    registry: Registry,
    counters: Vec<(&'static str, IntCounterVec)>,
    gauges: Vec<(&'static str, IntGaugeVec)>,
    histograms: Vec<(&'static str, HistogramVec)>,
    /// Also the lock of the page: families are reset and set while it is made.
    latest: Mutex<Gauges>,
    projects: Bounded,
    paths: Bounded,
    providers: Bounded,
}

/// The first [`MOST_VALUES`] values of a label; all that come later are [`OTHER`].
#[derive(Default)]
pub(crate) struct Bounded {
    known: Mutex<BTreeSet<String>>,
}

// === impl Metrics ===

impl Metrics {
    /// Registers every family, each with its zeros.
    pub fn new(version: &str) -> Self {
        let registry = Registry::new();
        let (mut counters, mut gauges, mut histograms) = (Vec::new(), Vec::new(), Vec::new());
        for family in FAMILIES {
            register(&registry, family, &mut counters, &mut gauges, &mut histograms)
                .expect("the table is constant, and a test registers it");
        }
        let inner = Inner {
            registry,
            counters,
            gauges,
            histograms,
            latest: Mutex::new(Gauges::default()),
            projects: Bounded::default(),
            paths: Bounded::default(),
            providers: Bounded::default(),
        };
        let metrics = Self { inner: Arc::new(inner) };
        metrics.zeros();
        metrics.gauge(&names::BUILD_INFO, &[version], 1);
        metrics
    }

    /// Sets what the next pages say of sessions, sandboxes and projects.
    pub fn set_gauges(&self, gauges: Gauges) {
        *self.latest() = gauges;
    }

    /// The page, in Prometheus' text format 0.0.4; see [`TEXT_FORMAT`].
    pub fn render(&self) -> String {
        let latest = self.latest();
        self.fill(&latest);
        let families = self.inner.registry.gather();
        drop(latest);
        let page = TextEncoder::new().encode_to_string(&families).unwrap_or_else(|error| {
            // Only an empty family cannot be encoded, and none is empty.
            tracing::error!(%error, "the metrics page cannot be written");
            String::new()
        });
        // The library has no untyped families.
        FAMILIES.iter().filter(|family| family.kind == Kind::Untyped).fold(page, |page, family| {
            let line = |kind: Kind| format!("# TYPE {} {}\n", family.name, kind.as_str());
            page.replacen(&line(Kind::Gauge), &line(Kind::Untyped), 1)
        })
    }

    /// Copies what is read, and not counted, into its families.
    fn fill(&self, gauges: &Gauges) {
        if let Some(active) = self.find_gauge(names::ACTIVE_SESSIONS.name) {
            active.reset();
            active.with_label_values(&[OTHER]).set(0);
            for (project, sessions) in &gauges.active_sessions {
                let label = self.inner.projects.label(project);
                active.with_label_values(&[label.as_str()]).add(whole(*sessions));
            }
        }
        self.gauge(&names::CONTAINERS, &[], gauges.sandboxes);
        self.gauge(&names::PROJECTS, &[], gauges.projects);
        if let Some(broken) = self.find_counter(names::INVARIANTS_BROKEN.name) {
            for invariant in Invariant::ALL {
                let counter = broken.with_label_values(&[invariant.name()]);
                counter.inc_by(invariant.broken().saturating_sub(counter.get()));
            }
        }
    }

    /// A sample of every family, so that nothing is missing before something happened.
    fn zeros(&self) {
        for operation in Operation::ALL {
            let spec = operation.spec();
            let path = self.inner.paths.label(&format!("/api/v1{}", spec.path));
            let method = method_of(spec.method);
            self.count(&names::REQUESTS, &[method, &path, "200"], 0);
            self.touch(&names::REQUEST_SECONDS, &[method, &path]);
            self.count(&names::TOOL_CALLS, &[spec.tool, spec.action, OK], 0);
        }
        for status in [SessionStatus::Completed, SessionStatus::Failed] {
            self.touch(&names::SESSION_SECONDS_FAMILY, &[OTHER, status.as_str()]);
        }
        for state in TurnState::ALL.into_iter().filter(|state| state.is_over()) {
            self.count(&names::TURNS, &[state.as_str()], 0);
        }
        for code in RefusalCode::ALL {
            self.count(&names::REFUSALS, &[code.as_str()], 0);
        }
        for family in [&names::SESSION_EVENTS, &names::PANICS] {
            self.count(family, &[], 0);
        }
        for status in [OK, REFUSED] {
            self.count(&names::CONFIG_RELOADS, &[status], 0);
        }
        for family in [&names::SANDBOX_STARTS, &names::SANDBOX_START_FAILURES] {
            self.count(family, &["namespace"], 0);
        }
        for resource in Resource::ALL {
            self.count(&names::LIMITS_REACHED, &[resource.as_str()], 0);
        }
        self.touch(&names::SANDBOX_START_SECONDS, &[]);
        self.count(&names::MODEL_CALLS, &[OTHER, OK], 0);
        self.fill(&Gauges::default());
    }

    /// The label of a project.
    pub(crate) fn project(&self, project: &str) -> String {
        self.inner.projects.label(project)
    }

    /// The label of a path.
    pub(crate) fn path(&self, path: &str) -> String {
        self.inner.paths.label(path)
    }

    /// The label of a provider.
    pub(crate) fn provider(&self, provider: &str) -> String {
        self.inner.providers.label(provider)
    }

    pub(crate) fn count(&self, family: &Family, labels: &[&str], by: u64) {
        if let Some(counter) = self.find_counter(family.name) {
            counter.with_label_values(labels).inc_by(by);
        }
    }

    pub(crate) fn observe(&self, family: &Family, labels: &[&str], took: Duration) {
        if let Some(histogram) = self.find_histogram(family.name) {
            histogram.with_label_values(labels).observe(took.as_secs_f64());
        }
    }

    fn touch(&self, family: &Family, labels: &[&str]) {
        if let Some(histogram) = self.find_histogram(family.name) {
            drop(histogram.with_label_values(labels));
        }
    }

    fn gauge(&self, family: &Family, labels: &[&str], value: u64) {
        if let Some(gauge) = self.find_gauge(family.name) {
            gauge.with_label_values(labels).set(whole(value));
        }
    }

    fn find_counter(&self, name: &str) -> Option<&IntCounterVec> {
        self.inner.counters.iter().find(|(known, _)| *known == name).map(|(_, vec)| vec)
    }

    fn find_gauge(&self, name: &str) -> Option<&IntGaugeVec> {
        self.inner.gauges.iter().find(|(known, _)| *known == name).map(|(_, vec)| vec)
    }

    fn find_histogram(&self, name: &str) -> Option<&HistogramVec> {
        self.inner.histograms.iter().find(|(known, _)| *known == name).map(|(_, vec)| vec)
    }

    /// Whole at all times, so a poisoned lock still guards it.
    fn latest(&self) -> MutexGuard<'_, Gauges> {
        self.inner.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

// === impl Bounded ===

impl Bounded {
    /// The value itself if there is room for it, else [`OTHER`].
    pub(crate) fn label(&self, value: &str) -> String {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contains(value) || known.len() < MOST_VALUES && known.insert(value.to_owned()) {
            value.to_owned()
        } else {
            OTHER.to_owned()
        }
    }
}

/// The name of a method.
pub(crate) const fn method_of(method: Method) -> &'static str {
    match method {
        Method::Get => "GET",
        Method::Post => "POST",
        Method::Delete => "DELETE",
    }
}

fn register(
    registry: &Registry,
    family: &Family,
    counters: &mut Vec<(&'static str, IntCounterVec)>,
    gauges: &mut Vec<(&'static str, IntGaugeVec)>,
    histograms: &mut Vec<(&'static str, HistogramVec)>,
) -> prometheus::Result<()> {
    match family.kind {
        Kind::Counter => {
            let vec = IntCounterVec::new(Opts::new(family.name, family.help), family.labels)?;
            registry.register(Box::new(vec.clone()))?;
            counters.push((family.name, vec));
        }
        Kind::Gauge | Kind::Untyped => {
            let vec = IntGaugeVec::new(Opts::new(family.name, family.help), family.labels)?;
            registry.register(Box::new(vec.clone()))?;
            gauges.push((family.name, vec));
        }
        Kind::Histogram(bounds) => {
            let options = HistogramOpts::new(family.name, family.help).buckets(bounds.to_vec());
            let vec = HistogramVec::new(options, family.labels)?;
            registry.register(Box::new(vec.clone()))?;
            histograms.push((family.name, vec));
        }
    }
    Ok(())
}

fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Samples by name and labels.
    fn samples(page: &str) -> BTreeMap<&str, f64> {
        page.lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| line.rsplit_once(' ').expect("a sample"))
            .map(|(name, value)| (name, value.parse().expect("a number")))
            .collect()
    }

    #[test]
    fn every_family_is_on_the_first_page_with_help_type_and_a_zero() {
        let page = Metrics::new("1.2.3").render();
        let samples = samples(&page);
        for family in FAMILIES {
            assert!(page.contains(&format!("# HELP {} {}\n", family.name, family.help)), "{}", family.name);
            assert!(page.contains(&format!("# TYPE {} {}\n", family.name, family.kind.as_str())));
            let own: Vec<(&&str, &f64)> = samples
                .iter()
                .filter(|(name, _)| {
                    let rest = name.strip_prefix(family.name);
                    rest.is_some_and(|r| r.is_empty() || r.starts_with(['{']) || r.starts_with("_count"))
                })
                .collect();
            assert!(!own.is_empty(), "{} has no sample", family.name);
            if family.name != names::BUILD_INFO.name {
                assert!(own.iter().all(|(_, value)| **value == 0.0), "{own:?}");
            }
        }
        assert_eq!(samples["oubliette_build_info{version=\"1.2.3\"}"], 1.0);
    }

    /// What `promtool check metrics` looks for: a family in one piece, help and type before it, no sample twice.
    #[test]
    fn the_page_is_well_formed() {
        let metrics = Metrics::new("1");
        metrics.set_gauges(Gauges { active_sessions: vec![("p\"\\\n".into(), 1)], ..Gauges::default() });
        let page = metrics.render();
        assert!(page.ends_with('\n'));
        assert!(page.contains(r#"oubliette_active_sessions{project_id="p\"\\\n"} 1"#), "escaped");
        let mut seen = BTreeSet::new();
        let mut family = "";
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                family = rest.split(' ').next().unwrap_or_default();
                assert!(seen.insert(format!("family {family}")), "{family} comes twice");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                assert_eq!(rest.split(' ').next(), Some(family));
            } else {
                let name = line.rsplit_once(' ').expect("a sample").0;
                assert!(name.starts_with(family), "{line} under {family}");
                assert!(seen.insert(name.to_owned()), "{name} comes twice");
            }
        }
    }

    #[test]
    fn gauges_say_what_was_set_last() {
        let metrics = Metrics::new("1");
        let set = |sessions: &[(&str, u64)], sandboxes| {
            metrics.set_gauges(Gauges {
                active_sessions: sessions.iter().map(|(p, n)| ((*p).to_owned(), *n)).collect(),
                sandboxes,
                projects: 7,
            });
            metrics.render()
        };
        let page = set(&[("a", 2), ("b", 1)], 3);
        assert_eq!(samples(&page)["oubliette_active_sessions{project_id=\"a\"}"], 2.0);
        assert_eq!(samples(&page)["oubliette_containers_running"], 3.0);
        assert_eq!(samples(&page)["oubliette_projects_total"], 7.0);
        let page = set(&[("b", 4)], 0);
        assert!(!page.contains("project_id=\"a\""), "what is over is gone");
        assert_eq!(samples(&page)["oubliette_active_sessions{project_id=\"b\"}"], 4.0);
        assert_eq!(samples(&page)["oubliette_active_sessions{project_id=\"other\"}"], 0.0);
    }

    #[test]
    fn labels_are_bounded_and_nothing_is_lost_in_other() {
        let metrics = Metrics::new("1");
        let sessions = (0..MOST_VALUES + 50).map(|n| (format!("project-{n:04}"), 1)).collect();
        metrics.set_gauges(Gauges { active_sessions: sessions, ..Gauges::default() });
        let page = metrics.render();
        let own: Vec<f64> = samples(&page)
            .into_iter()
            .filter(|(name, _)| name.starts_with("oubliette_active_sessions{"))
            .map(|(_, value)| value)
            .collect();
        assert_eq!(own.len(), MOST_VALUES + 1);
        assert_eq!(own.iter().sum::<f64>(), 250.0);
        assert_eq!(samples(&page)["oubliette_active_sessions{project_id=\"other\"}"], 50.0);
    }

    #[test]
    fn pages_made_at_once_are_whole() {
        let metrics = Metrics::new("1");
        let sessions: Vec<(String, u64)> = (0..50).map(|n| (format!("p{n}"), 1)).collect();
        metrics.set_gauges(Gauges { active_sessions: sessions, ..Gauges::default() });
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        assert_eq!(metrics.render().matches("oubliette_active_sessions{").count(), 51);
                    }
                });
            }
        });
    }
}
