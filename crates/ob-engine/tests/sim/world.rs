//! What outlives every server: the disk, the sandboxes, time, chance, and what was found wrong.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ob_core::Home;
use ob_core::SessionId;
use ob_core::Timestamp;
use ob_core::home::Layout;
use ob_engine::Clock;
use ob_testkit::MemoryStore;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::chance::Chance;
use crate::guest::Sandbox;
use crate::net::Net;
use crate::told::Told;

/// When every simulation begins.
const BEGIN: i64 = 1_795_000_000_000_000;
/// Lines of the trace that are kept for a report.
const KEPT: usize = 60;

/// See the module.
pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) chance: Chance,
    pub(crate) trace: Trace,
    pub(crate) disk: MemoryStore,
    pub(crate) net: Net,
    /// Sandboxes that run, by their ids.
    pub(crate) sandboxes: Mutex<BTreeMap<String, Arc<Sandbox>>>,
    /// Folders that are there.
    pub(crate) folders: Mutex<BTreeSet<PathBuf>>,
    pub(crate) told: Told,
    pub(crate) weather: Weather,
    pub(crate) home: Home,
    began: Instant,
    skew: AtomicI64,
    numbers: AtomicU64,
}

/// What is bad right now. All of it is good again in the end.
#[derive(Default)]
pub(crate) struct Weather {
    /// Commits take up to a second.
    pub(crate) slow_disk: AtomicBool,
    /// Nothing can be written.
    pub(crate) full_disk: AtomicBool,
    /// Commits fail now and then.
    pub(crate) bad_disk: AtomicBool,
    /// Sandboxes cannot be made.
    pub(crate) no_sandboxes: AtomicBool,
    /// The provider of models fails in all its ways.
    pub(crate) bad_provider: AtomicBool,
    /// Nothing bad happens any more, and nobody waits for ever.
    pub(crate) calm: watch::Sender<bool>,
}

/// What happened, as one number and as its last lines.
pub(crate) struct Trace {
    state: Mutex<Traced>,
    began: Instant,
}

#[derive(Default)]
struct Traced {
    hash: u64,
    lines: u64,
    last: VecDeque<String>,
    wrong: Vec<String>,
    kinds: BTreeMap<String, u64>,
}

/// One server's life: what it touches ends with it.
pub(crate) struct Life {
    pub(crate) number: u64,
    pub(crate) world: Arc<World>,
    dead: CancellationToken,
    frozen: watch::Sender<bool>,
    closed: AtomicBool,
    epoch: AtomicU64,
    /// When it last went on after it was frozen.
    thawed: Mutex<Instant>,
    /// Sandboxes that it is ending, and how many times over.
    ending: Mutex<BTreeMap<String, u32>>,
}

/// The server is dead.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dead;

// === impl World ===

impl World {
    pub(crate) fn new(seed: u64) -> Arc<Self> {
        let began = Instant::now();
        Arc::new(Self {
            seed,
            chance: Chance::new(seed),
            trace: Trace { state: Mutex::default(), began },
            disk: MemoryStore::new(),
            net: Net::default(),
            sandboxes: Mutex::default(),
            folders: Mutex::default(),
            told: Told::default(),
            weather: Weather::default(),
            home: Home::new("/sim/home".into(), Layout::V2, "/sim/run".into()),
            began,
            skew: AtomicI64::new(0),
            numbers: AtomicU64::new(0),
        })
    }

    pub(crate) fn note(&self, line: &str) {
        self.trace.note(line);
    }

    /// Something is not as it must be.
    pub(crate) fn wrong(&self, what: &str) {
        self.trace.wrong(what);
    }

    /// A number that nothing else has.
    pub(crate) fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The clock of the machine is set.
    pub(crate) fn jump(&self, micros: i64) {
        self.skew.fetch_add(micros, Ordering::Relaxed);
    }

    pub(crate) fn sandboxes(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Sandbox>>> {
        self.sandboxes.lock().expect("no one panics with it")
    }

    pub(crate) fn folders(&self) -> MutexGuard<'_, BTreeSet<PathBuf>> {
        self.folders.lock().expect("no one panics with it")
    }

    pub(crate) fn is_calm(&self) -> bool {
        *self.weather.calm.borrow()
    }

    pub(crate) async fn calm(&self) {
        drop(self.weather.calm.subscribe().wait_for(|calm| *calm).await);
    }

    /// Waits a little; longer in bad weather.
    pub(crate) async fn hesitate(&self) {
        if self.chance.one_in(4) {
            tokio::time::sleep(self.chance.millis(0..=30)).await;
        } else if self.chance.one_in(2) {
            tokio::task::yield_now().await;
        }
    }

    /// The session whose sandbox has this id.
    pub(crate) fn session_of(&self, sandbox: &str) -> Option<SessionId> {
        self.disk.session_ids().into_iter().find(|id| id.suffix() == sandbox)
    }
}

impl Clock for World {
    fn now(&self) -> Timestamp {
        let passed = i64::try_from(self.began.elapsed().as_micros()).unwrap_or(i64::MAX);
        Timestamp::from_micros(BEGIN + passed + self.skew.load(Ordering::Relaxed))
    }

    fn uuid(&self) -> Uuid {
        let (high, low) = (self.chance.next(), self.chance.next());
        uuid::Builder::from_random_bytes(((u128::from(high) << 64) | u128::from(low)).to_ne_bytes())
            .into_uuid()
    }

    fn random(&self, bytes: &mut [u8]) {
        for piece in bytes.chunks_mut(8) {
            piece.copy_from_slice(&self.chance.next().to_le_bytes()[..piece.len()]);
        }
    }
}

// === impl Weather ===

impl Weather {
    pub(crate) fn is(&self, bad: &AtomicBool) -> bool {
        bad.load(Ordering::Relaxed)
    }

    /// Ends all that is bad, for good.
    pub(crate) fn clear_up(&self) {
        for bad in [&self.slow_disk, &self.full_disk, &self.bad_disk, &self.no_sandboxes, &self.bad_provider]
        {
            bad.store(false, Ordering::Relaxed);
        }
        self.calm.send_replace(true);
    }
}

// === impl Trace ===

impl Trace {
    fn lock(&self) -> MutexGuard<'_, Traced> {
        self.state.lock().expect("no one panics with it")
    }

    fn note(&self, line: &str) {
        let mut text = String::with_capacity(line.len() + 12);
        write!(
            text,
            "{:>9.3} [{}] {line}",
            self.began.elapsed().as_secs_f64(),
            tokio::runtime::Handle::try_current().map_or(0, |handle| handle.metrics().num_alive_tasks())
        )
        .expect("a string takes it");
        let mut traced = self.lock();
        traced.hash = hash(traced.hash, text.as_bytes());
        traced.lines += 1;
        let kind = line.split([' ', ':']).next().unwrap_or_default();
        *traced.kinds.entry(kind.to_owned()).or_default() += 1;
        show(&text);
        if traced.last.len() == KEPT {
            traced.last.pop_front();
        }
        traced.last.push_back(text);
    }

    fn wrong(&self, what: &str) {
        self.note(&format!("WRONG {what}"));
        let mut traced = self.lock();
        // The first fault tells most; hundreds tell nothing more.
        if traced.wrong.len() < 10 {
            let context = traced.last.iter().map(|line| format!("    {line}\n")).collect::<String>();
            let context = if traced.wrong.is_empty() { format!("\n{context}") } else { String::new() };
            traced.wrong.push(format!("{what}{context}"));
        }
    }

    /// One number for all that happened, and how many lines it was.
    pub(crate) fn sum(&self) -> (u64, u64) {
        let traced = self.lock();
        (traced.hash, traced.lines)
    }

    /// How often each kind of thing happened.
    pub(crate) fn kinds(&self) -> BTreeMap<String, u64> {
        self.lock().kinds.clone()
    }

    pub(crate) fn faults(&self) -> Vec<String> {
        self.lock().wrong.clone()
    }
}

/// FNV-1a.
pub(crate) fn hash(mut state: u64, bytes: &[u8]) -> u64 {
    for byte in bytes {
        state = (state ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    state
}

#[expect(clippy::print_stderr, reason = "a trace is for a person who asked for it")]
pub(crate) fn show(line: &str) {
    eprintln!("{line}");
}

/// A sandbox that is being ended.
pub(crate) struct Ends {
    life: Arc<Life>,
    id: String,
}

impl Drop for Ends {
    fn drop(&mut self) {
        let mut ending = self.life.ending();
        match ending.get_mut(&self.id) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(ending.remove(&self.id)),
        }
    }
}

// === impl Life ===

impl Life {
    pub(crate) fn new(world: &Arc<World>) -> Arc<Self> {
        Arc::new(Self {
            number: world.number(),
            world: Arc::clone(world),
            dead: CancellationToken::new(),
            frozen: watch::Sender::new(false),
            closed: AtomicBool::new(false),
            epoch: AtomicU64::new(0),
            thawed: Mutex::new(Instant::now()),
            ending: Mutex::default(),
        })
    }

    /// This server ends a sandbox, until what is returned is dropped.
    pub(crate) fn ends(self: &Arc<Self>, id: &str) -> Ends {
        *self.ending().entry(id.to_owned()).or_default() += 1;
        Ends { life: Arc::clone(self), id: id.to_owned() }
    }

    /// True while this server is still ending a sandbox of this name.
    pub(crate) fn is_ending(&self, id: &str) -> bool {
        self.ending().contains_key(id)
    }

    fn ending(&self) -> MutexGuard<'_, BTreeMap<String, u32>> {
        self.ending.lock().expect("no one panics with it")
    }

    /// Nothing that this server does has an effect any more.
    pub(crate) fn kill(&self) {
        self.dead.cancel();
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead.is_cancelled()
    }

    pub(crate) async fn died(&self) {
        self.dead.cancelled().await;
    }

    /// Stops (or goes on with) everything that this server does to the world.
    pub(crate) fn freeze(&self, frozen: bool) {
        self.frozen.send_replace(frozen);
        *self.thawed.lock().expect("no one panics with it") = Instant::now();
    }

    /// For how long it has been running freely; zero if it is not.
    pub(crate) fn free_for(&self) -> Duration {
        if *self.frozen.borrow() || self.is_dead() {
            return Duration::ZERO;
        }
        self.thawed.lock().expect("no one panics with it").elapsed()
    }

    /// It is the owner of what it claims with this number.
    pub(crate) fn begin_epoch(&self, epoch: u64) {
        self.epoch.store(epoch, Ordering::Relaxed);
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Relaxed)
    }

    /// The server closed its store.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Returns when the server may touch the world.
    pub(crate) async fn pass(&self) -> Result<(), Dead> {
        let mut frozen = self.frozen.subscribe();
        tokio::select! {
            biased;
            () = self.dead.cancelled() => Err(Dead),
            _ = frozen.wait_for(|frozen| !frozen) => Ok(()),
        }
    }

    /// Waits, as long as the server lives.
    pub(crate) async fn pause(&self, pause: Duration) -> Result<(), Dead> {
        if !pause.is_zero() {
            tokio::select! {
                biased;
                () = self.dead.cancelled() => return Err(Dead),
                () = tokio::time::sleep(pause) => {}
            }
        }
        self.pass().await
    }
}
