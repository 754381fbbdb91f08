//! A sandbox that computes for long goes behind everything that answers: while it does, the kernel runs it when nobody else
//! wants the processors (`cpu.idle`, since Linux 5.15). So a build, or a bomb, is as fast as the machine is free, and its
//! neighbours and the server are as quick as without it.
//!
//! ```text
//! in front --- at least MUCH of a processor since the last look ---> behind
//!    ^                                                                 |
//!    +---- less than LITTLE of one: it rests, or gets no more ---------+
//! ```
//!
//! The way back is also taken by one that is starved by what runs beside it: in front it has its share again, and behind it
//! would have none.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use super::watch::number_after;
use super::watch::number_in;

/// How often the time that was used is looked at. A neighbour has to bear a bomb for about as long.
const LOOK: Duration = Duration::from_millis(400);
/// Of a processor, in percent.
const MUCH: u128 = 50;
/// Of a processor, in percent.
const LITTLE: u128 = 25;

/// See the module.
pub(super) struct Background {
    usage: Usage,
    /// The group that is put behind.
    group: PathBuf,
    /// The file of its share of the processors, and what is in it in front: being put behind loses it.
    weight: (PathBuf, String),
    since: Instant,
    used: Duration,
    is_behind: bool,
}

/// Where the kernel tells how much time a sandbox has used.
enum Usage {
    /// Version 2, which has it without a controller too: in microseconds.
    Unified(PathBuf),
    /// Version 1: in nanoseconds.
    Legacy(PathBuf),
}

// === impl Background ===

impl Background {
    /// For a sandbox in these groups, if the kernel can do it.
    pub(super) fn new(groups: &[PathBuf], now: Instant) -> Option<Self> {
        let group = groups.iter().find(|group| group.join("cpu.idle").exists())?.clone();
        let weight = ["cpu.weight", "cpu.shares"].iter().find_map(|file| {
            let file = group.join(file);
            Some((file.clone(), number_in(&file)?.to_string()))
        })?;
        let usage = groups.iter().find_map(|group| Usage::of(group))?;
        let used = usage.read()?;
        Some(Self { usage, group, weight, since: now, used, is_behind: false })
    }

    /// How long there is nothing to look at.
    pub(super) fn pause(&self, now: Instant) -> Duration {
        (self.since + LOOK).saturating_duration_since(now)
    }

    /// Looks, if it is time to.
    pub(super) fn look(&mut self, now: Instant) {
        let took = now.duration_since(self.since);
        if took < LOOK {
            return;
        }
        self.since = now;
        let Some(used) = self.usage.read() else { return };
        let percent = used.saturating_sub(self.used).as_micros() * 100 / took.as_micros().max(1);
        self.used = used;
        if !self.is_behind && percent >= MUCH {
            self.is_behind = fs::write(self.group.join("cpu.idle"), "1").is_ok();
        } else if self.is_behind && percent < LITTLE && fs::write(self.group.join("cpu.idle"), "0").is_ok() {
            self.is_behind = false;
            // The kernel gave it the share that everyone has.
            fs::write(&self.weight.0, &self.weight.1).ok();
        }
    }
}

// === impl Usage ===

impl Usage {
    fn of(group: &Path) -> Option<Self> {
        let (unified, legacy) = (group.join("cpu.stat"), group.join("cpuacct.usage"));
        [Self::Unified(unified), Self::Legacy(legacy)].into_iter().find(|usage| usage.read().is_some())
    }

    fn read(&self) -> Option<Duration> {
        match self {
            Self::Unified(file) => number_after(file, "usage_usec").map(Duration::from_micros),
            Self::Legacy(file) => number_in(file).map(Duration::from_nanos),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(group: &Path, file: &str, text: &str) {
        fs::write(group.join(file), text).expect("a file");
    }

    fn read(group: &Path, file: &str) -> String {
        fs::read_to_string(group.join(file)).expect("a file")
    }

    #[test]
    fn who_computes_for_long_goes_behind_and_comes_back_with_its_share() {
        let group = tempfile::tempdir().expect("a folder");
        let (group, start) = (group.path(), Instant::now());
        write(group, "cpu.idle", "0");
        write(group, "cpu.weight", "25\n");
        write(group, "cpu.stat", "usage_usec 7000000\n");
        let mut background = Background::new(&[group.to_owned()], start).expect("possible");
        assert_eq!(background.pause(start), LOOK);
        let mut look = |number: u32, used_ms: u64| {
            write(group, "cpu.stat", &format!("usage_usec {}\n", 7_000_000 + used_ms * 1000));
            background.look(start + LOOK * number);
            read(group, "cpu.idle")
        };
        assert_eq!(look(1, 190), "0", "less than half of a processor");
        assert_eq!(look(2, 400), "1");
        assert_eq!(look(3, 550), "1", "still more than a little");
        write(group, "cpu.weight", "100");
        assert_eq!(look(4, 640), "0", "it rests");
        assert_eq!(read(group, "cpu.weight"), "25");
        assert_eq!(look(5, 1640), "1", "again");
        fs::remove_file(group.join("cpu.stat")).expect("removed");
        background.look(start + LOOK * 6);
        assert_eq!(
            background.pause(start + LOOK * 6),
            LOOK,
            "what cannot be read is not looked at all the time"
        );
    }

    #[test]
    fn version_one_tells_the_time_elsewhere_and_an_old_kernel_has_no_behind() {
        let folder = tempfile::tempdir().expect("a folder");
        let (cpu, memory) = (folder.path().join("cpu"), folder.path().join("memory"));
        for group in [&cpu, &memory] {
            fs::create_dir(group).expect("made");
        }
        let groups = [memory, cpu.clone()];
        let start = Instant::now();
        write(&cpu, "cpu.shares", "256");
        write(&cpu, "cpu.stat", "nr_periods 0\nnr_throttled 0\n");
        write(&cpu, "cpuacct.usage", "5\n");
        assert!(Background::new(&groups, start).is_none(), "no `cpu.idle`");
        write(&cpu, "cpu.idle", "0");
        let mut background = Background::new(&groups, start).expect("possible");
        write(&cpu, "cpuacct.usage", "400000005\n");
        background.look(start + LOOK);
        assert_eq!(read(&cpu, "cpu.idle"), "1");
    }
}
