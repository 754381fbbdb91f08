//! The journal of a disk, and what may be left of it after a power loss.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use rand::Rng as _;
use rand::rngs::StdRng;

/// What a disk writes whole or not at all, in bytes.
const SECTOR: usize = 512;

static ON: AtomicBool = AtomicBool::new(false);
static DISK: Mutex<Option<Disk>> = Mutex::new(None);
/// One disk is watched at a time.
static TURN: Mutex<()> = Mutex::new(());

/// One change, in the order in which the kernel did them.
#[derive(Debug)]
pub(crate) enum Op {
    /// A name in a folder means this, or nothing.
    Name { folder: PathBuf, name: OsString, node: Option<Node> },
    /// A name moves, at once.
    Rename { from: (PathBuf, OsString), to: (PathBuf, OsString), node: Node },
    /// Bytes of a file.
    Write { file: usize, at: u64, bytes: Vec<u8> },
    /// A file's length.
    Length { file: usize, length: u64 },
    /// All that was written to a file before is on the disk.
    Flush { file: usize },
    /// All names of a folder are on the disk.
    FlushFolder { folder: PathBuf },
    /// Something was acknowledged; the caller knows what.
    Mark { number: usize },
}

/// What a name means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    File(usize),
    Folder,
}

/// A call that is to fail.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    /// With this error.
    pub(crate) errno: i32,
    /// A write does half of it, and the next one fails.
    pub(crate) is_short: bool,
    /// All calls fail from there on.
    pub(crate) stays: bool,
    /// Flushes fail as well.
    pub(crate) hits_flushes: bool,
}

/// Flushes that a lying disk does not do: the positive controls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lie {
    /// It tells the truth.
    None,
    /// Those of the database and its log: what `synchronous = OFF` would mean.
    Database,
    /// Those of blobs.
    Blobs,
    /// Those of folders.
    Folders,
}

/// A folder whose changes are journaled.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    root: PathBuf,
    open: HashMap<i32, Open>,
    inodes: HashMap<u64, usize>,
    /// The names as every process sees them.
    names: Names,
    /// The path that each file was made at.
    pub(crate) files: Vec<PathBuf>,
    /// What happened.
    pub(crate) journal: Vec<Op>,
    fault: Option<(usize, Fault)>,
}

#[derive(Clone, Debug)]
enum Open {
    File(usize),
    Folder(PathBuf),
}

/// Journals for as long as it lives.
pub(crate) struct Watch {
    _turn: MutexGuard<'static, ()>,
}

fn lock() -> MutexGuard<'static, Option<Disk>> {
    DISK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// True if the path is on the disk that is watched.
pub(crate) fn is_watched(path: &Path) -> bool {
    ON.load(Ordering::Acquire) && lock().as_ref().is_some_and(|disk| path.starts_with(&disk.root))
}

/// Does something with the disk that is watched.
pub(crate) fn locked<T>(work: impl FnOnce(&mut Disk) -> T) -> T {
    work(lock().get_or_insert_default())
}

/// Does something with the disk if one is watched.
pub(crate) fn if_on<T>(work: impl FnOnce(&mut Disk) -> T) -> Option<T> {
    if !ON.load(Ordering::Acquire) {
        return None;
    }
    lock().as_mut().map(work)
}

// === impl Watch ===

impl Watch {
    /// Journals every change under `root` from now on.
    pub(crate) fn start(root: &Path) -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        *lock() = Some(Disk { root: root.to_owned(), ..Disk::default() });
        ON.store(true, Ordering::Release);
        Self { _turn: turn }
    }

    /// Notes that something was acknowledged.
    pub(crate) fn mark(number: usize) {
        locked(|disk| disk.journal.push(Op::Mark { number }));
    }

    /// Lets the `nth` call from now on fail, from 1.
    pub(crate) fn fail(nth: usize, fault: Fault) {
        locked(|disk| disk.fault = Some((nth, fault)));
    }

    /// No call fails any more. True if one did.
    pub(crate) fn mend() -> bool {
        locked(|disk| disk.fault.take().is_some_and(|(left, _)| left == 0))
    }

    /// The journal, whole.
    pub(crate) fn end(self) -> Disk {
        ON.store(false, Ordering::Release);
        lock().take().unwrap_or_default()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        ON.store(false, Ordering::Release);
    }
}

// === impl Disk ===

impl Disk {
    pub(crate) fn has(&self, fd: i32) -> bool {
        self.open.contains_key(&fd)
    }

    pub(crate) fn opened(&mut self, fd: i32, path: &Path, inode: u64, is_folder: bool, is_new: bool) {
        if is_folder {
            self.open.insert(fd, Open::Folder(path.to_owned()));
            return;
        }
        // The shared memory of SQLite is made anew by whoever comes first.
        if path.as_os_str().as_encoded_bytes().ends_with(b"-shm") {
            return;
        }
        if is_new || !self.inodes.contains_key(&inode) {
            self.inodes.insert(inode, self.files.len());
            self.name(path, Some(Node::File(self.files.len())));
            self.files.push(path.to_owned());
        }
        self.open.insert(fd, Open::File(self.inodes[&inode]));
    }

    pub(crate) fn closed(&mut self, fd: i32) {
        self.open.remove(&fd);
    }

    pub(crate) fn wrote(&mut self, fd: i32, at: u64, bytes: &[u8]) {
        if let Some(Open::File(file)) = self.open.get(&fd) {
            self.journal.push(Op::Write { file: *file, at, bytes: bytes.to_vec() });
        }
    }

    pub(crate) fn truncated(&mut self, fd: i32, length: u64) {
        if let Some(Open::File(file)) = self.open.get(&fd) {
            self.journal.push(Op::Length { file: *file, length });
        }
    }

    pub(crate) fn flushed(&mut self, fd: i32) {
        match self.open.get(&fd).cloned() {
            Some(Open::File(file)) => self.journal.push(Op::Flush { file }),
            Some(Open::Folder(folder)) => self.journal.push(Op::FlushFolder { folder }),
            None => {}
        }
    }

    pub(crate) fn renamed(&mut self, from: &Path, to: &Path) {
        let (from, to) = (split(from), split(to));
        if let Some(node) = self.names.0.get(&from).copied() {
            self.keep(Op::Rename { from, to, node });
        }
    }

    pub(crate) fn linked(&mut self, from: &Path, to: &Path) {
        let node = self.names.0.get(&split(from)).copied();
        self.name(to, node);
    }

    pub(crate) fn unlinked(&mut self, path: &Path) {
        self.name(path, None);
    }

    pub(crate) fn made_folder(&mut self, path: &Path) {
        self.name(path, Some(Node::Folder));
    }

    fn name(&mut self, path: &Path, node: Option<Node>) {
        let (folder, name) = split(path);
        self.keep(Op::Name { folder, name, node });
    }

    /// A change of names.
    fn keep(&mut self, op: Op) {
        self.names.apply(&op);
        self.journal.push(op);
    }

    /// The fault that the call at hand is to have.
    pub(crate) fn next_fault(&mut self, is_flush: bool) -> Option<Fault> {
        let (left, fault) = self.fault.as_mut().filter(|(_, fault)| fault.hits_flushes || !is_flush)?;
        match *left {
            0 if fault.stays => Some(*fault),
            0 => None,
            1 => {
                *left = 0;
                let now = *fault;
                // Half of a write, and nothing of the next one.
                if fault.is_short {
                    (*left, fault.is_short) = (1, false);
                }
                Some(now)
            }
            _ => {
                *left -= 1;
                None
            }
        }
    }

    /// Makes in `target` what may be on the disk if the power fails after so many changes.
    pub(crate) fn image(&self, until: usize, lie: Lie, rng: &mut StdRng, target: &Path) {
        let mut files: Vec<Pending<&Op, Vec<u8>>> = Vec::new();
        files.resize_with(self.files.len(), Pending::default);
        let mut names = Pending::<&Op, Names>::default();
        for op in &self.journal[..until] {
            match op {
                Op::Write { file, .. } | Op::Length { file, .. } => files[*file].changes.push(op),
                Op::Flush { file } if !self.is_lie(lie, *file) => files[*file].flush(|_| true, put),
                Op::Name { .. } | Op::Rename { .. } => names.changes.push(op),
                Op::FlushFolder { folder } if lie != Lie::Folders => {
                    names.flush(|op| concerns(op, folder), Names::apply);
                }
                Op::Flush { .. } | Op::FlushFolder { .. } | Op::Mark { .. } => {}
            }
        }
        // Between nothing and all of what was not flushed.
        let chance = [0.0, 0.2, 0.5, 0.9, 1.0][rng.random_range(0..5)];
        for op in &names.changes {
            if rng.random_bool(chance) {
                names.flushed.apply(op);
            }
        }
        for file in &mut files {
            for op in std::mem::take(&mut file.changes) {
                put_part(&mut file.flushed, op, chance, rng);
            }
        }
        self.write_out(&self.root, &names.flushed, &files, target);
    }

    fn is_lie(&self, lie: Lie, file: usize) -> bool {
        let is_blob = self.files[file].components().any(|part| part.as_os_str() == "blobs");
        match lie {
            Lie::None | Lie::Folders => false,
            Lie::Database => !is_blob,
            Lie::Blobs => is_blob,
        }
    }

    fn write_out(&self, folder: &Path, names: &Names, files: &[Pending<&Op, Vec<u8>>], target: &Path) {
        for ((within, name), node) in &names.0 {
            if within != folder {
                continue;
            }
            let path = target.join(name);
            match node {
                Node::Folder => {
                    std::fs::create_dir(&path).expect("a new folder");
                    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).expect("ours");
                    self.write_out(&folder.join(name), names, files, &path);
                }
                Node::File(file) => {
                    std::fs::write(&path, &files[*file].flushed).expect("a new file");
                    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("ours");
                }
            }
        }
    }
}

/// What is on the disk, and what is not yet.
struct Pending<C, T> {
    flushed: T,
    changes: Vec<C>,
}

impl<C, T: Default> Default for Pending<C, T> {
    fn default() -> Self {
        Self { flushed: T::default(), changes: Vec::new() }
    }
}

impl<C: Copy, T> Pending<C, T> {
    fn flush(&mut self, concerned: impl Fn(C) -> bool, apply: impl Fn(&mut T, C)) {
        let (now, later) =
            std::mem::take(&mut self.changes).into_iter().partition::<Vec<C>, _>(|op| concerned(*op));
        self.changes = later;
        for op in now {
            apply(&mut self.flushed, op);
        }
    }
}

/// The names on the disk: what each means in its folder.
#[derive(Debug, Default)]
struct Names(BTreeMap<(PathBuf, OsString), Node>);

// === impl Names ===

impl Names {
    fn apply(&mut self, op: &Op) {
        match op {
            Op::Name { folder, name, node } => {
                let key = (folder.clone(), name.clone());
                match node {
                    Some(node) => drop(self.0.insert(key, *node)),
                    None => drop(self.0.remove(&key)),
                }
            }
            Op::Rename { from, to, node } => {
                self.0.remove(from);
                self.0.insert(to.clone(), *node);
            }
            _ => {}
        }
    }
}

fn concerns(op: &Op, flushed: &Path) -> bool {
    match op {
        Op::Name { folder, .. } => folder == flushed,
        Op::Rename { from, to, .. } => from.0 == flushed || to.0 == flushed,
        _ => false,
    }
}

fn split(path: &Path) -> (PathBuf, OsString) {
    let folder = path.parent().map(Path::to_owned).unwrap_or_default();
    (folder, path.file_name().map(OsString::from).unwrap_or_default())
}

/// One change of a file, whole.
fn put(content: &mut Vec<u8>, op: &Op) {
    match op {
        Op::Write { at, bytes, .. } => put_bytes(content, index(*at), bytes),
        Op::Length { length, .. } => content.resize(index(*length), 0),
        _ => {}
    }
}

/// Some sectors of a change of a file, or none.
fn put_part(content: &mut Vec<u8>, op: &Op, chance: f64, rng: &mut StdRng) {
    match op {
        Op::Write { at, bytes, .. } => {
            let mut from = 0;
            while from < bytes.len() {
                let at = index(*at) + from;
                let to = bytes.len().min(from + SECTOR - at % SECTOR);
                if rng.random_bool(chance) {
                    put_bytes(content, at, &bytes[from..to]);
                }
                from = to;
            }
        }
        Op::Length { .. } if rng.random_bool(chance) => put(content, op),
        _ => {}
    }
}

fn put_bytes(content: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let end = at + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[at..end].copy_from_slice(bytes);
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("files in tests are small")
}
