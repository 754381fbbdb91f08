//! What the launcher looks at while the sandbox runs: limits that it holds itself, and reports of those that the
//! kernel holds.
//!
//! ```text
//! counters of the groups ──┐
//! clock ───────────────────┼─> look ─> reports, told to the server; or the limit that ends the sandbox
//! disk (see `disk`) ───────┘
//! time used (see `background`) ─> whether the sandbox goes behind others
//! ```
//!
//! A report that no server was there to hear waits for the next one. A limit that is reached again and again is told
//! of once in [`REPEAT`], with how often.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use ob_core::launch::Watched;
use ob_core::resource::Consequence;
use ob_core::resource::LimitHit;
use ob_core::resource::Resource;

use super::background::Background;
use super::disk::Disk;
use super::disk::Verdict;
use super::group::Groups;

/// How often the kernel's counters are read.
const LOOK: Duration = Duration::from_secs(1);
/// The same limit is told of again after this.
const REPEAT: Duration = Duration::from_secs(30);
/// Processors count as too few if a sandbox was held back in at least half of the periods of this long.
const BUSY: Duration = Duration::from_secs(5);

/// See the module.
pub(super) struct Watch {
    started: Instant,
    wall: Option<Duration>,
    bounds: Vec<(Resource, u64)>,
    next_look: Instant,
    counters: Vec<Counter>,
    throttle: Option<Throttle>,
    disk: Option<Disk>,
    background: Option<Background>,
    reports: Vec<Report>,
}

/// What there is to tell of one limit.
struct Report {
    hit: LimitHit,
    told_at: Option<Instant>,
}

/// A number of the kernel that rises when a limit is reached.
struct Counter {
    resource: Resource,
    consequence: Consequence,
    file: PathBuf,
    /// The word before the number.
    name: &'static str,
    last: u64,
    /// Files that say how much was used at most, or is now.
    used: Vec<PathBuf>,
}

/// How often the sandbox had to wait for its processors.
struct Throttle {
    file: PathBuf,
    since: Instant,
    periods: u64,
    throttled: u64,
}

// === impl Watch ===

impl Watch {
    pub(super) fn new(watched: &Watched, groups: &Groups) -> Self {
        let now = Instant::now();
        let asked = |resource| watched.bounds.iter().any(|(known, _)| *known == resource);
        let counters = groups.paths().iter().flat_map(|path| counters(path)).filter(|c| asked(c.resource));
        let throttle = groups.paths().iter().find_map(|path| Throttle::new(path, now));
        Self {
            started: now,
            wall: watched.wall_ms.map(Duration::from_millis),
            bounds: watched.bounds.clone(),
            next_look: now + LOOK,
            counters: counters.collect(),
            throttle: throttle.filter(|_| asked(Resource::Cpu)),
            disk: watched.disk.as_ref().map(|disk| Disk::new(disk, groups.freezer())),
            background: Background::new(groups.paths(), now),
            reports: Vec::new(),
        }
    }

    /// How long there is nothing to look at.
    pub(super) fn pause(&self) -> Duration {
        let now = Instant::now();
        let look = if self.counters.is_empty() && self.throttle.is_none() {
            Duration::MAX
        } else {
            self.next_look.saturating_duration_since(now)
        };
        let wall = self.wall.map_or(Duration::MAX, |wall| wall.saturating_sub(now - self.started));
        let disk = self.disk.as_ref().map_or(Duration::MAX, |disk| disk.pause(now));
        let background = self.background.as_ref().map_or(Duration::MAX, |background| background.pause(now));
        look.min(wall).min(disk).min(background)
    }

    /// Looks at what is due. Returns the limit that the sandbox has to be ended for.
    pub(super) fn look(&mut self) -> Option<LimitHit> {
        let now = Instant::now();
        if let Some(wall) = self.wall.filter(|wall| now - self.started >= *wall) {
            let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            return Some(LimitHit {
                resource: Resource::WallTime,
                used: millis(now - self.started),
                bound: millis(wall),
                times: 1,
                consequence: Consequence::Ended,
            });
        }
        if now >= self.next_look {
            self.next_look = now + LOOK;
            self.read_counters();
            self.read_throttle(now);
        }
        if let Some(background) = &mut self.background {
            background.look(now);
        }
        match self.disk.as_mut().map(|disk| disk.look(now)) {
            Some(Verdict::Over { resource, used, bound }) => {
                Some(LimitHit { resource, used, bound, times: 1, consequence: Consequence::Ended })
            }
            Some(Verdict::Within) | None => None,
        }
    }

    /// Reads the kernel's counters a last time: what ended the sandbox may be in them.
    pub(super) fn look_last(&mut self) {
        self.read_counters();
    }

    /// Reports that are due now.
    pub(super) fn due(&mut self) -> Vec<LimitHit> {
        let now = Instant::now();
        let due = self.reports.iter_mut().filter(|report| {
            report.hit.times > 0 && report.told_at.is_none_or(|at| now.duration_since(at) >= REPEAT)
        });
        due.map(|report| report.hit).collect()
    }

    /// This report reached a server.
    pub(super) fn told(&mut self, hit: &LimitHit) {
        if let Some(report) = self.reports.iter_mut().find(|report| report.hit.resource == hit.resource) {
            report.hit.times = 0;
            report.told_at = Some(Instant::now());
        }
    }

    fn bound(&self, resource: Resource) -> u64 {
        self.bounds.iter().find(|(known, _)| *known == resource).map_or(0, |(_, bound)| *bound)
    }

    fn read_counters(&mut self) {
        let mut risen = Vec::new();
        for counter in &mut self.counters {
            let now = number_after(&counter.file, counter.name).unwrap_or(counter.last);
            let times = now.saturating_sub(counter.last);
            counter.last = now;
            if times > 0 {
                let used = counter.used.iter().filter_map(|file| number_in(file)).max().unwrap_or(0);
                risen.push((counter.resource, counter.consequence, used, times));
            }
        }
        for (resource, consequence, used, times) in risen {
            let bound = self.bound(resource);
            self.note(LimitHit { resource, used: used.max(bound), bound, times, consequence });
        }
    }

    fn read_throttle(&mut self, now: Instant) {
        let Some(throttle) = self.throttle.as_mut() else { return };
        let took = now.duration_since(throttle.since);
        if took < BUSY {
            return;
        }
        let Some((periods, throttled)) = periods(&throttle.file) else { return };
        let (all, held_back) =
            (periods.saturating_sub(throttle.periods), throttled.saturating_sub(throttle.throttled));
        *throttle = Throttle { file: throttle.file.clone(), since: now, periods, throttled };
        // Fewer periods than that: it did not run all the time.
        let possible = u64::try_from(took.as_millis() / 100).unwrap_or(0);
        if all >= possible / 2 && held_back >= all.div_ceil(2) && held_back > 0 {
            let bound = self.bound(Resource::Cpu);
            let resource = Resource::Cpu;
            self.note(LimitHit {
                resource,
                used: bound,
                bound,
                times: held_back,
                consequence: Consequence::Slowed,
            });
        }
    }

    fn note(&mut self, hit: LimitHit) {
        match self.reports.iter_mut().find(|report| report.hit.resource == hit.resource) {
            Some(report) => {
                let times = report.hit.times.saturating_add(hit.times);
                report.hit = LimitHit { times, ..hit };
            }
            None => self.reports.push(Report { hit, told_at: None }),
        }
    }
}

// === impl Throttle ===

impl Throttle {
    fn new(group: &Path, now: Instant) -> Option<Self> {
        let file = group.join("cpu.stat");
        let (periods, throttled) = periods(&file)?;
        Some(Self { file, since: now, periods, throttled })
    }
}

/// Periods that a group was runnable in, and those in which it was held back.
fn periods(file: &Path) -> Option<(u64, u64)> {
    Some((number_after(file, "nr_periods")?, number_after(file, "nr_throttled")?))
}

/// The counters of one group, of either version.
fn counters(group: &Path) -> Vec<Counter> {
    let counter = |resource, consequence, file: &str, name, used: &[&str]| {
        let file = group.join(file);
        let last = number_after(&file, name)?;
        let used = used.iter().map(|file| group.join(file)).collect();
        Some(Counter { resource, consequence, file, name, last, used })
    };
    let (memory, pids) = (Resource::Memory, Resource::Pids);
    let (killed, refused) = (Consequence::Killed, Consequence::Refused);
    let version_1 = ["memory.max_usage_in_bytes"];
    [
        counter(memory, killed, "memory.events", "oom_kill", &["memory.peak", "memory.current"]),
        counter(memory, killed, "memory.oom_control", "oom_kill", &version_1),
        counter(pids, refused, "pids.events", "max", &["pids.peak", "pids.current"]),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The number behind a word at the start of a line.
pub(super) fn number_after(file: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

pub(super) fn number_in(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(group: &Path) -> Watch {
        let bounds = vec![(Resource::Memory, 1 << 20), (Resource::Pids, 64), (Resource::Cpu, 1000)];
        let watched = Watched { bounds, ..Watched::default() };
        Watch::new(&watched, &Groups::of(vec![group.to_owned()]))
    }

    fn write(group: &Path, file: &str, text: &str) {
        fs::write(group.join(file), text).expect("a file");
    }

    #[test]
    fn a_counter_that_rose_is_told_of_once_with_how_often() {
        let group = tempfile::tempdir().expect("a folder");
        write(group.path(), "memory.events", "low 0\nmax 7\noom_kill 2\n");
        write(group.path(), "memory.peak", "2097152\n");
        write(group.path(), "pids.events", "max 0\n");
        let mut watch = watch(group.path());
        watch.read_counters();
        assert!(watch.due().is_empty(), "what was before is no news");
        write(group.path(), "memory.events", "low 0\nmax 9\noom_kill 5\n");
        watch.read_counters();
        let due = watch.due();
        assert_eq!(due.len(), 1);
        let expected = LimitHit {
            resource: Resource::Memory,
            used: 2 << 20,
            bound: 1 << 20,
            times: 3,
            consequence: Consequence::Killed,
        };
        assert_eq!(due[0], expected);
        assert_eq!(watch.due(), due, "until somebody heard it");
        watch.told(&due[0]);
        assert!(watch.due().is_empty());
        write(group.path(), "memory.events", "oom_kill 6\n");
        write(group.path(), "pids.events", "max 4\n");
        watch.read_counters();
        let due = watch.due();
        assert_eq!(due.len(), 1, "the same limit waits, another does not: {due:?}");
        assert_eq!((due[0].resource, due[0].times), (Resource::Pids, 4));
    }

    #[test]
    fn processors_count_as_reached_if_most_periods_were_cut_short() {
        let group = tempfile::tempdir().expect("a folder");
        write(group.path(), "cpu.stat", "usage_usec 1\nnr_periods 0\nnr_throttled 0\n");
        let mut watch = watch(group.path());
        let later = |n: u32| Instant::now() + BUSY * n;
        write(group.path(), "cpu.stat", "nr_periods 50\nnr_throttled 10\n");
        watch.read_throttle(later(1));
        assert!(watch.due().is_empty(), "a build that is held back now and then");
        write(group.path(), "cpu.stat", "nr_periods 100\nnr_throttled 58\n");
        watch.read_throttle(later(2));
        assert_eq!(watch.due().first().map(|hit| (hit.resource, hit.bound)), Some((Resource::Cpu, 1000)));
    }

    #[test]
    fn the_time_of_a_sandbox_runs_out() {
        let watched = Watched { wall_ms: Some(0), ..Watched::default() };
        let mut watch = Watch::new(&watched, &Groups::default());
        assert_eq!(watch.pause(), Duration::ZERO);
        assert_eq!(watch.look().map(|hit| hit.resource), Some(Resource::WallTime));
        let mut endless = Watch::new(&Watched::default(), &Groups::default());
        assert_eq!(endless.pause(), Duration::MAX, "nothing to look at, nothing to wake up for");
        assert_eq!(endless.look(), None);
    }
}
