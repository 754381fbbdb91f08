//! What a sandbox stores, measured from outside, so that it is ended soon after it stores more than it may.
//!
//! ```text
//! idle ──(due by headroom)──> look at the file system's free space ──(may be over)──> measure, frozen ──> over | idle
//! ```
//!
//! A file system without project quotas has no count of one folder. So two things are combined. The file system's free
//! space is one cheap system call: what it lost since the last measurement, all writers together, bounds from above
//! what this sandbox can have written. Only if that could pass the limit are the folders walked, while the sandbox is
//! frozen, so that it cannot outrun the walk. The pause between looks follows the room that is left, so that even a
//! writer of [`FASTEST`] passes the limit by little.
//!
//! The walk follows no link and leaves no file system. Files that were deleted while a process has them open are not
//! in any folder: they are found by the processes' descriptors.

use std::collections::HashSet;
use std::ffi::CString;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use ob_core::launch::WatchedDisk;
use ob_core::resource::Resource;
use rustix::fs::AtFlags;
use rustix::fs::Dir;
use rustix::fs::FileType;
use rustix::fs::Mode;
use rustix::fs::OFlags;

/// A writer is not expected to be faster, in bytes a second. One that is passes the limit by what it writes more.
const FASTEST: u64 = 2 << 30;
/// A maker of files is not expected to be faster, in files a second.
const FASTEST_FILES: u64 = 200_000;
/// The pause between two looks at the file system.
const PAUSE: std::ops::RangeInclusive<Duration> = Duration::from_millis(5)..=Duration::from_secs(2);
/// A step of a walk takes this long; then the control socket is served.
const STEP: Duration = Duration::from_millis(5);
/// After a measurement that took T, the next one waits this many times T, so that a sandbox that stays close to its
/// limit does not keep a processor busy with measuring.
const REST: u32 = 3;
/// Folders may be nested this deep; what is below is not measured, and the walk counts as incomplete.
const MAX_DEPTH: usize = 512;
/// What was written may be hidden by what others removed, so the folders are measured again after this if anything
/// changed on the file system,
const AGAIN: Duration = Duration::from_secs(60);
/// and after this many times what a measurement takes.
const AGAIN_TIMES: u32 = 200;
/// Hard links of one file count as a part of it each; sums are kept in these parts.
const PARTS: u64 = 1_000_000;
/// Processes are looked at for deleted files for this long at most.
const LOOK_AT_PROCESSES: Duration = Duration::from_millis(200);

/// See the module.
pub(super) struct Disk {
    folders: Vec<PathBuf>,
    bounds: Bounds,
    only_growth: bool,
    freezer: Option<PathBuf>,
    state: State,
    /// What was there at first, if only growth counts.
    first: Option<Amount>,
    /// What the last measurement found.
    used: Amount,
    /// The free space at that time.
    free: Amount,
    /// Free space less what was found, before anything was written by the sandbox.
    free_at_start: Amount,
    next: Instant,
    /// No measurement begins before.
    rested: Instant,
    /// A measurement begins then, if anything was written or removed.
    again: Instant,
}

/// What may be stored.
#[derive(Clone, Copy)]
struct Bounds {
    bytes: Option<u64>,
    inodes: Option<u64>,
}

/// Bytes and inodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Amount {
    bytes: u64,
    inodes: u64,
}

enum State {
    Idle,
    Measuring(Box<Walk>),
}

/// What a look found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Within,
    Over { resource: Resource, used: u64, bound: u64 },
}

// === impl Disk ===

impl Disk {
    pub(super) fn new(watched: &WatchedDisk, freezer: Option<PathBuf>) -> Self {
        let now = Instant::now();
        let free = free(&watched.folders);
        Self {
            folders: watched.folders.clone(),
            bounds: Bounds { bytes: watched.bytes, inodes: watched.inodes },
            only_growth: watched.only_growth,
            freezer,
            // Not frozen: a sandbox starts without waiting for it, and what it writes meanwhile is in the walk or in
            // the next one.
            state: State::Measuring(Box::new(Walk::new(&watched.folders, free, now))),
            first: None,
            used: Amount::default(),
            free,
            free_at_start: free,
            next: now,
            rested: now,
            again: now + AGAIN,
        }
    }

    pub(super) fn pause(&self, now: Instant) -> Duration {
        match self.state {
            State::Measuring(_) => Duration::ZERO,
            State::Idle => self.next.saturating_duration_since(now),
        }
    }

    pub(super) fn look(&mut self, now: Instant) -> Verdict {
        match &mut self.state {
            State::Measuring(walk) => {
                if !walk.step(now + STEP) {
                    return Verdict::Within;
                }
                let State::Measuring(walk) = std::mem::replace(&mut self.state, State::Idle) else {
                    return Verdict::Within;
                };
                self.measured(*walk)
            }
            State::Idle if now >= self.again && free(&self.folders) != self.free => {
                self.measure(now);
                Verdict::Within
            }
            State::Idle if now >= self.next => {
                let room = self.room();
                if room.bytes > 0 && room.inodes > 0 {
                    self.plan(room);
                } else {
                    // It may be over. It does not get further while it is found out.
                    self.freeze(true);
                    if now >= self.rested {
                        self.measure(now);
                    } else {
                        self.next = self.rested;
                    }
                }
                Verdict::Within
            }
            State::Idle => Verdict::Within,
        }
    }

    fn measure(&mut self, now: Instant) {
        self.state = State::Measuring(Box::new(Walk::new(&self.folders, free(&self.folders), now)));
    }

    /// Room that is certainly left.
    fn room(&self) -> Amount {
        let lost = self.free.less(free(&self.folders));
        let used = self.counted(self.used);
        let left = |bound: Option<u64>, used: u64, lost: u64| {
            bound.map_or(u64::MAX, |bound| bound.saturating_sub(used.saturating_add(lost)))
        };
        Amount {
            bytes: left(self.bounds.bytes, used.bytes, lost.bytes),
            inodes: left(self.bounds.inodes, used.inodes, lost.inodes),
        }
    }

    /// When to look again, by the room that is left: in half of the time in which it could be used up.
    fn plan(&mut self, room: Amount) {
        let seconds = (room.bytes / FASTEST).min(room.inodes / FASTEST_FILES);
        let pause = if seconds >= 2 * PAUSE.end().as_secs() {
            *PAUSE.end()
        } else {
            let micros = (room.bytes / (FASTEST / 1_000_000))
                .min(room.inodes.saturating_mul(1_000_000 / FASTEST_FILES));
            (Duration::from_micros(micros) / 2).clamp(*PAUSE.start(), *PAUSE.end())
        };
        self.next = Instant::now() + pause;
    }

    fn counted(&self, used: Amount) -> Amount {
        match self.first {
            Some(first) => used.less(first),
            None => used,
        }
    }

    fn measured(&mut self, walk: Walk) -> Verdict {
        let took = walk.began.elapsed();
        let mut used = walk.found();
        if self.only_growth && self.first.is_none() {
            self.first = Some(used);
        }
        // What the file system lost since the start and is in no folder: others wrote it, or it is hidden.
        let lost = self.free_at_start.less(walk.free).bytes;
        let unexplained = lost.saturating_sub(self.counted(used).bytes);
        let may_hide = self.bounds.bytes.is_some_and(|bound| self.counted(used).bytes + unexplained >= bound);
        if may_hide {
            let deleted = deleted_bytes(self.freezer.as_deref(), &self.folders);
            used.bytes = used.bytes.saturating_add(deleted);
            if walk.is_incomplete {
                used.bytes = used.bytes.saturating_add(unexplained.saturating_sub(deleted));
            }
        }
        (self.used, self.free) = (used, walk.free);
        self.rested = Instant::now() + took * REST;
        self.again = Instant::now() + AGAIN.max(took * AGAIN_TIMES);
        let counted = self.counted(used);
        let over = [
            (Resource::Disk, counted.bytes, self.bounds.bytes),
            (Resource::Inodes, counted.inodes, self.bounds.inodes),
        ]
        .into_iter()
        .find_map(|(resource, used, bound)| Some((resource, used, bound.filter(|bound| used > *bound)?)));
        if let Some((resource, used, bound)) = over {
            return Verdict::Over { resource, used, bound };
        }
        self.freeze(false);
        self.plan(self.room());
        Verdict::Within
    }

    fn freeze(&self, frozen: bool) {
        if let Some(group) = &self.freezer {
            // Without it the sandbox goes on meanwhile, and the walk is less exact.
            fs::write(group.join("cgroup.freeze"), if frozen { "1" } else { "0" }).ok();
        }
    }
}

// === impl Amount ===

impl Amount {
    const fn less(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_sub(other.bytes),
            inodes: self.inodes.saturating_sub(other.inodes),
        }
    }
}

/// Free space of the file systems of these folders, together.
fn free(folders: &[PathBuf]) -> Amount {
    let mut all = Amount::default();
    let mut seen = HashSet::new();
    for folder in folders {
        let device = fs::metadata(folder).map_or(0, |metadata| metadata.dev());
        if seen.insert(device)
            && let Ok(space) = rustix::fs::statvfs(folder)
        {
            all.bytes = all.bytes.saturating_add(space.f_bfree.saturating_mul(space.f_frsize));
            all.inodes = all.inodes.saturating_add(space.f_ffree);
        }
    }
    all
}

/// A walk through folders, in steps.
struct Walk {
    began: Instant,
    /// Free space when it began.
    free: Amount,
    roots: Vec<PathBuf>,
    stack: Vec<Level>,
    /// In [`PARTS`] of an inode.
    inode_parts: u64,
    bytes: u64,
    /// Something could not be looked at.
    is_incomplete: bool,
}

/// A folder that is being read.
struct Level {
    dir: Dir,
    fd: OwnedFd,
    device: u64,
}

// === impl Walk ===

impl Walk {
    fn new(folders: &[PathBuf], free: Amount, now: Instant) -> Self {
        Self {
            began: now,
            free,
            roots: folders.to_vec(),
            stack: Vec::new(),
            inode_parts: 0,
            bytes: 0,
            is_incomplete: false,
        }
    }

    fn found(&self) -> Amount {
        Amount { bytes: self.bytes, inodes: self.inode_parts / PARTS }
    }

    /// Walks on; true when it is done.
    fn step(&mut self, until: Instant) -> bool {
        let mut count = 0_u32;
        loop {
            count = count.wrapping_add(1);
            if count.is_multiple_of(64) && Instant::now() >= until {
                return false;
            }
            let Some(level) = self.stack.last_mut() else {
                let Some(root) = self.roots.pop() else { return true };
                self.enter_root(&root);
                continue;
            };
            match level.dir.read() {
                None => drop(self.stack.pop()),
                Some(Err(_)) => {
                    self.is_incomplete = true;
                    self.stack.pop();
                }
                Some(Ok(entry)) => {
                    let name = entry.file_name();
                    if !matches!(name.to_bytes(), b"." | b"..") {
                        let name = name.to_owned();
                        self.entry(&name);
                    }
                }
            }
        }
    }

    fn enter_root(&mut self, root: &Path) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::open(root, flags, Mode::empty());
        let Ok(fd) = opened else {
            self.is_incomplete = true;
            return;
        };
        let device = rustix::fs::fstat(&fd).map_or(0, |stat| stat.st_dev);
        self.push(fd, device);
    }

    fn entry(&mut self, name: &CString) {
        let Some(level) = self.stack.last() else { return };
        // Gone meanwhile.
        let Ok(stat) = rustix::fs::statat(&level.fd, name.as_c_str(), AtFlags::SYMLINK_NOFOLLOW) else {
            return;
        };
        if stat.st_dev != level.device {
            return;
        }
        let is_folder = FileType::from_raw_mode(stat.st_mode).is_dir();
        #[expect(clippy::useless_conversion, reason = "it has 32 bits on aarch64")]
        let links = if is_folder { 1 } else { u64::from(stat.st_nlink).max(1) };
        let bytes = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
        self.bytes = self.bytes.saturating_add(bytes / links);
        self.inode_parts = self.inode_parts.saturating_add(PARTS / links);
        if !is_folder {
            return;
        }
        if self.stack.len() >= MAX_DEPTH {
            self.is_incomplete = true;
            return;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&level.fd, name.as_c_str(), flags, Mode::empty()) {
            Ok(fd) => {
                let device = level.device;
                self.push(fd, device);
            }
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => {}
            Err(_) => self.is_incomplete = true,
        }
    }

    fn push(&mut self, fd: OwnedFd, device: u64) {
        match Dir::read_from(&fd) {
            Ok(dir) => self.stack.push(Level { dir, fd, device }),
            Err(_) => self.is_incomplete = true,
        }
    }
}

/// Bytes of deleted files that processes of the group have open, on the file systems of these folders.
fn deleted_bytes(group: Option<&Path>, folders: &[PathBuf]) -> u64 {
    let until = Instant::now() + LOOK_AT_PROCESSES;
    let devices: HashSet<u64> =
        folders.iter().filter_map(|folder| Some(fs::metadata(folder).ok()?.dev())).collect();
    let members = match group {
        Some(group) => numbers(&group.join("cgroup.procs")),
        None => descendants(until),
    };
    let mut seen = HashSet::new();
    let mut bytes = 0_u64;
    for pid in members {
        for below in ["fd", "map_files"] {
            for entry in fs::read_dir(format!("/proc/{pid}/{below}")).into_iter().flatten().flatten() {
                if Instant::now() >= until {
                    return bytes;
                }
                let Ok(file) = fs::metadata(entry.path()) else { continue };
                if file.nlink() == 0
                    && file.is_file()
                    && devices.contains(&file.dev())
                    && seen.insert((file.dev(), file.ino()))
                {
                    bytes = bytes.saturating_add(file.blocks().saturating_mul(512));
                }
            }
        }
    }
    bytes
}

/// All that comes from this launcher, for where there is no group that lists it.
fn descendants(until: Instant) -> Vec<u32> {
    let mut found = vec![std::process::id()];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied().filter(|_| Instant::now() < until) {
        for thread in fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten() {
            found.extend(numbers(&thread.path().join("children")));
        }
        next += 1;
    }
    found.remove(0);
    found
}

fn numbers(file: &Path) -> Vec<u32> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn disk(folder: &Path, bytes: Option<u64>, inodes: Option<u64>, only_growth: bool) -> Disk {
        let watched = WatchedDisk { folders: vec![folder.to_owned()], bytes, inodes, only_growth };
        Disk::new(&watched, None)
    }

    /// Looks until a measurement is done, and once more if there is reason to.
    fn verdict(disk: &mut Disk) -> Verdict {
        loop {
            let verdict = disk.look(Instant::now());
            if verdict != Verdict::Within || matches!(disk.state, State::Idle) {
                return verdict;
            }
        }
    }

    fn measure_anew(disk: &mut Disk) -> Verdict {
        disk.measure(Instant::now());
        verdict(disk)
    }

    fn fill(path: &Path, kib: usize) {
        fs::write(path, vec![7; kib * 1024]).expect("written");
        fs::File::open(path).and_then(|file| file.sync_all()).expect("on disk");
    }

    #[test]
    fn what_lies_in_the_folders_counts_and_links_do_not_lead_out() {
        let outside = tempfile::tempdir().expect("a folder");
        fill(&outside.path().join("large"), 4096);
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(folder.path().join("a/b")).expect("folders");
        fill(&folder.path().join("a/b/file"), 100);
        symlink(outside.path(), folder.path().join("link")).expect("a link");
        let mut small = disk(folder.path(), Some(1 << 20), None, false);
        assert_eq!(verdict(&mut small), Verdict::Within);
        assert!((100 << 10..1 << 20).contains(&small.used.bytes), "{:?}", small.used);
        assert_eq!(small.used.inodes, 4, "two folders, a file, a link");
        fill(&folder.path().join("a/more"), 1200);
        let over = measure_anew(&mut small);
        assert!(matches!(over, Verdict::Over { resource: Resource::Disk, bound: 0x10_0000, .. }), "{over:?}");
    }

    #[test]
    fn hard_links_count_once_together() {
        let folder = tempfile::tempdir().expect("a folder");
        fill(&folder.path().join("one"), 300);
        for n in 0..10 {
            fs::hard_link(folder.path().join("one"), folder.path().join(format!("link{n}"))).expect("a link");
        }
        let mut disk = disk(folder.path(), Some(1 << 30), None, false);
        verdict(&mut disk);
        assert!(disk.used.bytes <= 320 << 10, "{:?}", disk.used);
        assert!(disk.used.inodes <= 1, "{:?}", disk.used);
    }

    #[test]
    fn many_small_files_pass_the_limit_of_inodes() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut disk = disk(folder.path(), None, Some(50), false);
        assert_eq!(verdict(&mut disk), Verdict::Within);
        for n in 0..60 {
            fs::write(folder.path().join(n.to_string()), "").expect("written");
        }
        let over = measure_anew(&mut disk);
        assert_eq!(over, Verdict::Over { resource: Resource::Inodes, used: 60, bound: 50 });
    }

    #[test]
    fn a_users_own_folder_counts_by_its_growth() {
        let folder = tempfile::tempdir().expect("a folder");
        fill(&folder.path().join("before"), 2048);
        let mut disk = disk(folder.path(), Some(1 << 20), None, true);
        assert_eq!(verdict(&mut disk), Verdict::Within, "what was there before is the user's");
        fill(&folder.path().join("after"), 1500);
        assert!(matches!(measure_anew(&mut disk), Verdict::Over { .. }), "what came counts");
    }

    #[test]
    fn folders_nested_deeper_than_can_be_walked_make_the_walk_incomplete() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut fd = rustix::fs::open(folder.path(), OFlags::DIRECTORY, Mode::empty()).expect("opens");
        for _ in 0..MAX_DEPTH + 10 {
            rustix::fs::mkdirat(&fd, "d", Mode::RWXU).expect("a folder");
            fd = rustix::fs::openat(&fd, "d", OFlags::DIRECTORY, Mode::empty()).expect("opens");
        }
        let mut walk = Walk::new(&[folder.path().to_owned()], Amount::default(), Instant::now());
        while !walk.step(Instant::now() + STEP) {}
        assert!(walk.is_incomplete);
        let mut flat = Walk::new(&[], Amount::default(), Instant::now());
        assert!(flat.step(Instant::now() + STEP) && !flat.is_incomplete, "the control");
    }

    #[test]
    fn looks_come_sooner_the_less_room_is_left() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut roomy = disk(folder.path(), Some(100 << 30), None, false);
        verdict(&mut roomy);
        let mut narrow = disk(folder.path(), Some(1 << 20), None, false);
        verdict(&mut narrow);
        let now = Instant::now();
        assert!(roomy.pause(now) > Duration::from_secs(1));
        assert!(narrow.pause(now) <= *PAUSE.start());
    }
}
