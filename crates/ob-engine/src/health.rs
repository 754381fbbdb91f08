//! What `/health`, `/ready` and `/metrics` tell of the engine.
//!
//! Looking changes nothing: a probe starts no model and makes no sandbox's files. Nothing here waits for longer than
//! [`CHECK_MAX`], so a probe answers while a disk or a provider hangs.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ob_config::CleanupSettings;
use ob_core::Home;
use ob_core::Refusal;
use ob_core::check::Check;
use ob_core::check::CheckState;
use ob_core::resource::is_isolated;
use ob_core::resource::marked_backend;
use ob_telemetry::DiskLevel;
use ob_telemetry::DiskUse;
use ob_telemetry::Gauges;
use rustix::fs::StatVfs;
use tokio::time::Instant;

use crate::Engine;

/// The longest that one check may take.
pub const CHECK_MAX: Duration = Duration::from_millis(1500);

/// An answer about what is required is kept for so long: each asks the store to write, and anyone may ask.
const READY_HOLDS: Duration = Duration::from_secs(1);

/// Under this, events of a busy server fill the disk within hours.
pub const FREE_BYTES_LEAST: u64 = 1024 * 1024 * 1024;

/// Under this nothing can be promised: the store's log alone may grow to as much.
pub const FREE_BYTES_FLOOR: u64 = 64 * 1024 * 1024;

/// Under this, in percent, a clone of a middling repository may not find room for its files' names.
pub const FREE_INODES_LEAST: f64 = 2.0;

/// Why a server is not ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotReady {
    /// In words.
    pub reason: String,
    /// The names of what is missing.
    pub missing: Vec<String>,
}

/// The last answer about what is required, and when it was given.
pub(crate) type Asked = tokio::sync::Mutex<Option<(Instant, Result<(), NotReady>)>>;

// === impl Engine ===

impl Engine {
    /// Ready for work, or why not: all that is required works.
    pub async fn readiness(&self) -> Result<(), NotReady> {
        self.ready().map_err(|reason| NotReady { reason, missing: vec!["engine".to_owned()] })?;
        let mut asked = self.asked_ready.lock().await;
        if let Some((at, answer)) = &*asked
            && at.elapsed() < READY_HOLDS
        {
            return answer.clone();
        }
        let store = self.check_store().await;
        let answer = if store.is_healthy() {
            Ok(())
        } else {
            Err(NotReady { reason: store.found, missing: vec![store.name] })
        };
        *asked = Some((Instant::now(), answer.clone()));
        answer
    }

    /// Checks for `/health`, side by side.
    pub async fn checks(&self) -> Vec<Check> {
        let (home, limits) = (self.shared.home.clone(), self.shared.cleanup.get());
        let disk = tokio::task::spawn_blocking(move || disk(&home, &limits));
        let (store, sandbox, model, disk) = tokio::join!(
            self.check_store(),
            in_time("sandbox", "sessions cannot start", self.check_sandbox()),
            in_time("model", "sessions that name no model are refused", self.shared.catalogue.check()),
            in_time("disk", "nobody knows when the disk will be full", async {
                disk.await
                    .unwrap_or_else(|error| Check::failed("disk", error.to_string(), "it is not watched"))
            }),
        );
        vec![store, sandbox, model, disk]
    }

    async fn check_store(&self) -> Check {
        const COST: &str = "nothing can be accepted, since nothing can be kept";
        let check = in_time("store", COST, async {
            match self.shared.store.check().await {
                Ok(()) => Check::ok("store", "events can be written"),
                Err(error) => Check::refused("store", &error.refusal(), COST),
            }
        });
        check.await.required()
    }

    async fn check_sandbox(&self) -> Check {
        let works = match self.shared.backend() {
            Ok(backend) => match backend.check().await {
                Ok(()) => backend.holds(&self.shared.sandbox_limits()).map(|()| backend.name()),
                Err(refusal) => Err(refusal),
            },
            Err(refusal) => Err(refusal),
        };
        match works {
            Ok(name) if !is_isolated(name) => Check::warn(
                "sandbox",
                format!("backend `{}`", marked_backend(name)),
                "an agent may do whatever this user may",
            )
            .fix("set `sandbox.backend` to `auto`, unless this is meant"),
            Ok(name) => Check::ok("sandbox", format!("backend `{name}` works on this machine")),
            Err(refusal) => Check::refused("sandbox", &refusal, "sessions cannot start"),
        }
    }

    /// Numbers for `/metrics`; none if the store cannot be read, since a zero would be a lie.
    pub async fn gauges(&self) -> Result<Gauges, Refusal> {
        let by_project = self.shared.store.active_by_project().await.map_err(|error| error.refusal())?;
        let projects = by_project.len() as u64;
        let active = by_project.into_iter().filter(|(_, active)| *active > 0);
        let active_sessions = active.map(|(id, n)| (id.to_string(), n)).collect();
        Ok(Gauges { active_sessions, sandboxes: self.sandboxes(), projects })
    }

    /// Sandboxes that run.
    pub fn sandboxes(&self) -> u64 {
        self.shared.sandboxes.load(Ordering::Relaxed)
    }

    /// Whether the store can be read. A full disk is no reason to say no: it goes away without a new server.
    pub async fn store_answers(&self) -> Result<(), Refusal> {
        self.shared.store.active_sessions().await.map(drop).map_err(|error| error.refusal())
    }
}

/// A check, or that it did not end in time.
pub async fn in_time(name: &str, cost: &str, check: impl Future<Output = Check>) -> Check {
    match tokio::time::timeout(CHECK_MAX, check).await {
        Ok(check) => check,
        Err(_) => Check::failed(name, format!("no answer within {} ms", CHECK_MAX.as_millis()), cost)
            .fix("look at what it waits for: a disk or a network that hangs"),
    }
}

/// The nearest folder above that exists: a home that is not there yet is made in it.
pub fn existing(path: &Path) -> &Path {
    path.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"))
}

/// How full the disk of a home is, as `df` has it; nothing if nobody can tell. Blocks.
pub fn disk_use(home: &Home, limits: &CleanupSettings) -> Option<DiskUse> {
    rustix::fs::statvfs(existing(home.root())).ok().map(|stat| use_of(&stat, limits))
}

/// How much room the disk of a home has. Blocks.
pub fn disk(home: &Home, limits: &CleanupSettings) -> Check {
    const NAME: &str = "disk";
    let there = existing(home.root());
    let stat = match rustix::fs::statvfs(there) {
        Ok(stat) => stat,
        Err(error) => {
            return Check::failed(NAME, error.to_string(), "nobody knows when the disk will be full")
                .mend("look at it yourself", [format!("df -h {}", there.display())]);
        }
    };
    const LATER: &str = "when it is full, new work is refused; nothing that was kept is lost";
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let DiskUse { percent, level } = use_of(&stat, limits);
    let found = format!("{} free, {percent}% used", bytes(free));
    let check = match level {
        _ if free < FREE_BYTES_FLOOR => {
            Check::failed(NAME, found, "new work is refused; nothing that was kept is lost")
        }
        DiskLevel::Error => Check::failed(NAME, found, LATER),
        DiskLevel::Warning => Check::warn(NAME, found, LATER),
        DiskLevel::Fine if free < FREE_BYTES_LEAST => Check::warn(NAME, found, LATER),
        DiskLevel::Fine => Check::ok(NAME, found),
    };
    let check = match check.state {
        CheckState::Ok => check,
        _ => check.mend(
            "remove what is large, or give the home another disk",
            [format!("du -xh --max-depth=4 {} | sort -h | tail -n 20", there.display())],
        ),
    };
    #[expect(clippy::cast_precision_loss, reason = "for people; a disk of 9 PB is off by one byte")]
    check.measured(free as f64, "bytes", FREE_BYTES_LEAST as f64)
}

/// What is taken of what an ordinary user may take, rounded up.
fn use_of(stat: &StatVfs, limits: &CleanupSettings) -> DiskUse {
    let used = u128::from(stat.f_blocks.saturating_sub(stat.f_bfree));
    let all = used + u128::from(stat.f_bavail);
    let percent = u32::try_from((used * 100).div_ceil(all.max(1))).unwrap_or(100);
    let level = match percent {
        _ if percent >= limits.disk_error_percent => DiskLevel::Error,
        _ if percent >= limits.disk_warn_percent => DiskLevel::Warning,
        _ => DiskLevel::Fine,
    };
    DiskUse { percent, level }
}

/// How many names the file system of a home still has room for. Blocks.
pub fn inodes(home: &Home) -> Check {
    const NAME: &str = "inodes";
    const COST: &str = "workspaces cannot be cloned, although there is space";
    let there = existing(home.root());
    match rustix::fs::statvfs(there) {
        // File systems that make them as needed (btrfs, some network ones) report none.
        Ok(stat) if stat.f_files == 0 => Check::ok(NAME, "as many as there is space for"),
        Ok(stat) => {
            #[expect(clippy::cast_precision_loss, reason = "a percentage for people")]
            let percent = stat.f_favail as f64 * 100.0 / stat.f_files as f64;
            let found = format!("{} of {} free", stat.f_favail, stat.f_files);
            let check = if percent >= FREE_INODES_LEAST {
                Check::ok(NAME, found)
            } else {
                let what = "remove folders with many small files, such as old workspaces";
                let command =
                    format!("du -x --inodes --max-depth=4 {} | sort -n | tail -n 20", there.display());
                Check::warn(NAME, found, COST).mend(what, [command])
            };
            check.measured(percent, "percent", FREE_INODES_LEAST)
        }
        Err(error) => Check::failed(NAME, error.to_string(), COST)
            .mend("look at it yourself", [format!("df -i {}", there.display())]),
    }
}

/// A number of bytes as people read it.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
    let mut number = count as f64;
    let mut unit = 0;
    while number >= 1024.0 && unit + 1 < UNITS.len() {
        number /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{number:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use ob_core::home::Layout;

    use super::*;

    #[test]
    fn sizes_read_like_sizes() {
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536 << 20, "1.5 GiB"),
            (5 << 50, "5120.0 TiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn the_disk_of_a_home_that_is_not_there_yet_is_that_of_the_folder_above() {
        let folder = tempfile::tempdir().expect("a folder");
        let home = Home::new(folder.path().join("a/b"), Layout::V2, folder.path().into());
        assert_eq!(existing(home.root()), folder.path());
        let limits = CleanupSettings::default();
        let check = disk(&home, &limits);
        let measure = check.measure.clone().expect("it is measured");
        assert_eq!((measure.unit.as_str(), check.name.as_str()), ("bytes", "disk"));
        assert!(inodes(&home).state.works());
        let percent = disk_use(&home, &limits).expect("it can be told").percent;
        assert!(check.found.contains(&format!(", {percent}% used")), "{check:?}");
    }

    /// Percents count whatever there is in bytes, and bytes whatever that is in percent.
    #[test]
    fn a_disk_is_too_full_by_what_the_configuration_says() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut stat = rustix::fs::statvfs(folder.path()).expect("a disk");
        (stat.f_blocks, stat.f_bfree, stat.f_bavail) = (1000, 300, 200);
        let level = |warn, error| {
            let limits = CleanupSettings {
                disk_warn_percent: warn,
                disk_error_percent: error,
                ..CleanupSettings::default()
            };
            use_of(&stat, &limits)
        };
        // 700 of the 900 that are not kept for root, as `df` says.
        assert_eq!(level(80, 90), DiskUse { percent: 78, level: DiskLevel::Fine });
        assert_eq!(level(78, 90).level, DiskLevel::Warning);
        assert_eq!(level(50, 78).level, DiskLevel::Error);
        (stat.f_blocks, stat.f_bfree, stat.f_bavail) = (0, 0, 0);
        assert_eq!(use_of(&stat, &CleanupSettings::default()).percent, 0, "some file systems tell nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_that_hangs_fails_in_time_and_names_its_cost() {
        let check = in_time("x", "y is lost", std::future::pending()).await;
        assert_eq!((check.state, check.cost.as_deref()), (CheckState::Failed, Some("y is lost")));
        assert!(check.found.contains("1500 ms") && check.fix.is_some());
    }
}
