//! Control groups: made by the launcher, joined by what it starts, emptied and removed by it.
//!
//! The launcher itself stays outside, so it can kill all members at once and still remove the group.

use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use ob_core::launch::ControlGroup;
use ob_core::launch::GROUPS_FILE;
use ob_core::resource::Resource;
use rustix::process::Pid;
use rustix::process::Signal;

use super::complain;

/// The groups of one sandbox.
#[derive(Debug, Default)]
pub(super) struct Groups {
    paths: Vec<PathBuf>,
    unenforced: Vec<Resource>,
}

// === impl Groups ===

impl Groups {
    /// Makes the groups and sets their limits. One that cannot be made or set is noted as unenforced.
    pub(super) fn make(wanted: &[ControlGroup], runtime: &Path) -> io::Result<Self> {
        let mut made = Self::default();
        // Written first: a launcher that is killed in the middle leaves no group that nobody knows of.
        let paths: Vec<&PathBuf> = wanted.iter().map(|group| &group.path).collect();
        super::write_whole(runtime, GROUPS_FILE, &serde_json::to_vec(&paths)?)?;
        for group in wanted {
            if let Err(error) = fs::create_dir(&group.path) {
                complain(&format!("cannot make {}: {error}", group.path.display()));
                made.unenforced.extend(group.limits.iter().filter_map(|limit| limit.resource));
                continue;
            }
            for limit in &group.limits {
                if let Err(error) = fs::write(group.path.join(&limit.file), &limit.value) {
                    complain(&format!("cannot set {} of {}: {error}", limit.file, group.path.display()));
                    made.unenforced.extend(limit.resource);
                }
            }
            made.paths.push(group.path.clone());
        }
        Ok(made)
    }

    /// Groups that were made already. For tests.
    #[cfg(test)]
    pub(super) fn of(paths: Vec<PathBuf>) -> Self {
        Self { paths, unenforced: Vec::new() }
    }

    /// Limits that could not be set.
    pub(super) fn unenforced(&self) -> &[Resource] {
        &self.unenforced
    }

    /// The folders.
    pub(super) fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// The group whose members can be frozen.
    pub(super) fn freezer(&self) -> Option<PathBuf> {
        self.paths.iter().find(|path| path.join("cgroup.freeze").exists()).cloned()
    }

    /// The version 2 group, for a child to be born in.
    pub(super) fn birthplace(&self) -> Option<fs::File> {
        self.paths.iter().find(|path| is_unified(path)).and_then(|path| fs::File::open(path).ok())
    }

    /// Takes the calling process, which must have one thread only, into the groups; into that of version 2 unless it was
    /// born there.
    ///
    /// Moving a process waits some 10 ms until all processors have seen it. A thread that moves itself does not wait
    /// (since Linux 5.5), and version 1 moves threads.
    pub(super) fn join(&self, was_born_inside: bool) -> io::Result<()> {
        self.paths.iter().try_for_each(|path| match is_unified(path) {
            true if was_born_inside => Ok(()),
            true => fs::write(path.join("cgroup.procs"), "0"),
            false => fs::write(path.join("tasks"), "0"),
        })
    }

    /// Sends the end to every member.
    pub(super) fn kill(&self) {
        for path in &self.paths {
            // Atomic where the kernel has it (version 2, since 5.14). Otherwise by number, again until none is left.
            if fs::write(path.join("cgroup.kill"), "1").is_err() {
                for pid in members(path) {
                    rustix::process::kill_process(pid, Signal::KILL).ok();
                }
            }
        }
    }

    /// True if no process is left in any.
    pub(super) fn are_empty(&self) -> bool {
        self.paths.iter().all(|path| members(path).is_empty())
    }

    /// Removes them. A member's last traces may keep a group busy for a moment.
    pub(super) fn remove(&self) {
        for path in &self.paths {
            let mut tries = 0;
            while let Err(error) = fs::remove_dir(path) {
                if error.kind() == io::ErrorKind::NotFound {
                    break;
                }
                tries += 1;
                if tries == 200 {
                    complain(&format!("cannot remove {}: {error}", path.display()));
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
    }
}

fn is_unified(group: &Path) -> bool {
    group.join("cgroup.events").exists()
}

fn members(group: &Path) -> Vec<Pid> {
    fs::read_to_string(group.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| Pid::from_raw(line.parse().ok()?))
        .collect()
}
