//! The runs: which point kills when, in which home, and what came of it.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;

use ob_core::Home as Place;
use ob_crash::CrashPoint;
use ob_testkit::ModelServer;
use rand::Rng as _;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use serde_json::json;
use tokio::runtime::Handle;

use crate::check;
use crate::check::Faults;
use crate::client::Client;
use crate::harness::Home;
use crate::harness::can_sandbox;
use crate::harness::until;
use crate::load;
use crate::load::Clients;
use crate::load::lock;
use crate::points::Way;
use crate::points::way;
use crate::server::Plan;
use crate::server::Server;
use crate::server::place;

/// Runs in `make test`.
const RUNS: usize = 200;
/// Runs in one home before what it holds is checked.
const RUNS_OF_A_HOME: usize = 25;
/// Homes that are worked on at once: most of a run is waiting.
const AT_ONCE: usize = 2;
/// An armed server dies within this, or the point was not reached in this run.
const WITHIN: Duration = Duration::from_secs(10);
/// A point that was not reached is tried again so often, the first time that it is reached.
const TRIES: u32 = 5;
/// How often the server is looked at.
const LOOK: Duration = Duration::from_millis(2);
/// The schema's first step, which older programs made.
const OLDER: usize = 1;

/// What kills the server in a run.
#[derive(Clone, Copy, Debug)]
enum Killer {
    /// The point.
    Point(CrashPoint),
    /// The harness, at any moment.
    Chance,
}

/// A home and the runs that it gets.
struct Life {
    killers: VecDeque<Killer>,
    has_older_database: bool,
}

/// A home while it is worked on.
struct World<'a> {
    home: Home,
    place: Place,
    clients: Option<Clients>,
    rng: StdRng,
    tally: &'a Mutex<Tally>,
}

/// What came of the runs.
#[derive(Default)]
struct Tally {
    runs: usize,
    reached: BTreeMap<CrashPoint, usize>,
    faults: Vec<String>,
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// Invariants 1 and 2: whatever kills the server, nothing that anyone was told is lost, doubled or renumbered, and every
/// session goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_dies_anywhere_loses_nothing_and_does_nothing_twice() {
    if !can_sandbox() {
        return;
    }
    let runs = number("OUBLIETTE_CRASH_RUNS").map_or(RUNS, |runs| usize::try_from(runs).unwrap());
    let seed = number("OUBLIETTE_CRASH_SEED").unwrap_or_else(rand::random);
    eprintln!("{runs} runs, OUBLIETTE_CRASH_SEED={seed}");
    let model = ModelServer::start().await.unwrap();
    load::script(&model);
    let runtime = Handle::current();
    let tally = tokio::task::spawn_blocking(move || {
        let began = Instant::now();
        let lives = Mutex::new(lives(runs, &mut StdRng::seed_from_u64(seed)));
        let tally = Mutex::new(Tally::default());
        std::thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                scope.spawn(|| {
                    while let Some((number, life)) = next(&lives) {
                        let rng = StdRng::seed_from_u64(seed.wrapping_add(number));
                        World::new(&model, life.has_older_database, rng, &tally, &runtime)
                            .live(life, &runtime);
                    }
                });
            }
        });
        let tally = tally.into_inner().unwrap();
        tell(&tally, began.elapsed());
        tally
    })
    .await
    .unwrap();
    assert_eq!(tally.faults, Vec::<String>::new(), "OUBLIETTE_CRASH_SEED={seed}");
    let missed: Vec<&str> = CrashPoint::ALL
        .iter()
        .filter(|point| !tally.reached.contains_key(point))
        .map(|point| point.name())
        .collect();
    assert!(missed.is_empty(), "never reached: {missed:?}");
}

/// Prints the figures, and writes them where those of benches are.
fn tell(tally: &Tally, took: Duration) {
    let method = format!(
        "kill -9 of the real server under streams, tasks, spawns, interrupts and ends: at each of {} named points and at \
         random; {} s",
        tally.reached.len(),
        took.as_secs()
    );
    let figure = |value: usize| json!({ "value": value, "unit": "", "method": method });
    let figures =
        json!({ "crash_runs": figure(tally.runs), "crash_faults": figure(tally.faults.len()) }).to_string();
    eprintln!("{figures}");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/bench");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("crash.json"), figures + "\n").unwrap();
}

/// The next home, with its number.
fn next(lives: &Mutex<VecDeque<Life>>) -> Option<(u64, Life)> {
    let mut lives = lock(lives);
    let number = lives.len() as u64;
    lives.pop_front().map(|life| (number, life))
}

/// Every point at least once, and chance for the rest.
fn lives(runs: usize, rng: &mut StdRng) -> VecDeque<Life> {
    let of_way = |wanted: Way| {
        CrashPoint::ALL.iter().filter(move |point| way(**point) == wanted).map(|point| Killer::Point(*point))
    };
    let is_first = |point: CrashPoint| matches!(way(point), Way::FirstStart | Way::OlderDatabase);
    let points: Vec<CrashPoint> = CrashPoint::ALL.iter().copied().filter(|point| !is_first(*point)).collect();
    let mut killers: Vec<Killer> = points.iter().map(|point| Killer::Point(*point)).collect();
    while killers.len() < runs {
        killers.push(match rng.random_bool(0.5) {
            true => Killer::Chance,
            false => Killer::Point(points[rng.random_range(0..points.len())]),
        });
    }
    killers.shuffle(rng);
    let chunks = killers.chunks(RUNS_OF_A_HOME);
    let mut lives: VecDeque<Life> = chunks
        .map(|chunk| Life { killers: chunk.iter().copied().collect(), has_older_database: false })
        .collect();
    // A home has only one first start, which these share in the order of the catalogue.
    lives[0].killers = of_way(Way::FirstStart).chain(lives[0].killers.drain(..)).collect();
    let last = lives.len() - 1;
    lives[last].has_older_database = true;
    lives[last].killers = of_way(Way::OlderDatabase).chain(lives[last].killers.drain(..)).collect();
    lives
}

// === impl World ===

impl<'a> World<'a> {
    fn new(
        model: &ModelServer,
        has_older_database: bool,
        rng: StdRng,
        tally: &'a Mutex<Tally>,
        runtime: &Handle,
    ) -> Self {
        let home = Home::new(model);
        let place = place(&home);
        if has_older_database {
            runtime.block_on(ob_store::sqlite::make_older(&place.database(), OLDER)).unwrap();
        }
        Self { home, place, clients: None, rng, tally }
    }

    fn live(mut self, life: Life, runtime: &Handle) {
        let mut killers = life.killers;
        while let Some(killer) = killers.pop_front() {
            match killer {
                Killer::Chance => self.die_by_chance(),
                Killer::Point(point) => self.die_at(point),
            }
        }
        self.check(runtime);
    }

    /// Runs until the server dies at the point, which it may not reach at once.
    fn die_at(&mut self, point: CrashPoint) {
        for attempt in 0..TRIES {
            if let Way::StartAfter(before) = way(point) {
                self.run(Some((before, 1)), way(before));
            }
            let often = match way(point) {
                Way::Work if attempt == 0 => 10,
                Way::Spawns if attempt == 0 => 3,
                _ => 1,
            };
            let plan = (point, self.rng.random_range(1..=often));
            if self.run(Some(plan), way(point)) {
                return;
            }
        }
    }

    /// Runs until a run does not come to a clean stop before it is killed.
    fn die_by_chance(&mut self) {
        let ways =
            [Way::Work, Way::Spawns, Way::Start, Way::Patches, Way::Deletions, Way::LargeMessages, Way::Stop];
        loop {
            let way = ways[self.rng.random_range(0..ways.len())];
            if self.run(None, way) {
                return;
            }
        }
    }

    /// One run: the server starts, works and dies. True if it was killed as planned.
    fn run(&mut self, plan: Option<Plan>, way: Way) -> bool {
        let began = Instant::now();
        let mut server = Server::start(&self.home, plan);
        let limit = match (plan, way) {
            (None, Way::Start) => Duration::from_millis(self.rng.random_range(10..600)),
            _ => WITHIN,
        };
        let deadline = Instant::now() + limit;
        if plan.is_none() && way == Way::Start {
            server.ended_until(deadline);
        } else if server.is_ready(&Client::new(&self.place.control_socket())) && self.has_project() {
            self.load(&mut server, plan.is_some(), way, deadline);
        }
        if plan.is_some() {
            // The dead are not always dead already when their clients know it.
            server.ended_until(deadline);
        }
        server.kill();
        let was_killed = server.was_killed();
        let mut tally = lock(self.tally);
        tally.runs += usize::from(was_killed);
        let Some((point, count)) = plan else { return was_killed };
        let as_planned = was_killed && !server.is_killed_by_us();
        if as_planned {
            *tally.reached.entry(point).or_default() += 1;
        } else {
            let state = self.clients.as_ref().map_or_else(|| "no project".to_owned(), Clients::describe);
            eprintln!("{}:{count} was not reached within {:?}: {state}", point.name(), began.elapsed());
        }
        as_planned
    }

    /// Makes the home's project if there is none. False if the server died over it: then it is nobody's loss.
    fn has_project(&mut self) -> bool {
        if self.clients.is_none() {
            let source = self.home.user("thing");
            if !source.exists() {
                self.home.repository("thing", &[("a.txt", "one\n"), ("b/c.txt", "two\n")]);
            }
            self.clients = Clients::new(Client::new(&self.place.control_socket()), &source);
        }
        self.clients.is_some()
    }

    /// Lets the clients work until the server dies of itself, or has worked enough to be killed.
    fn load(&mut self, server: &mut Server, is_armed: bool, way: Way, mut deadline: Instant) {
        let seed = self.rng.random();
        let keep_sandboxes = !is_armed && self.rng.random();
        let enough = self.rng.random_range(1..80);
        let cut = Duration::from_millis(self.rng.random_range(0..400));
        let clients = self.clients.as_ref().expect("there is a project");
        let from = clients.seen();
        std::thread::scope(|scope| {
            let working = scope.spawn(|| clients.work(way, seed));
            let mut is_stopping = false;
            while server.ended().is_none() && Instant::now() < deadline {
                let has_worked = working.is_finished() || clients.seen() >= from + enough;
                if has_worked && way == Way::Stop && !is_stopping {
                    drop(clients.client.post("/server/stop", &json!({ "keep_sandboxes": keep_sandboxes })));
                    is_stopping = true;
                    if !is_armed {
                        deadline = Instant::now() + cut;
                    }
                } else if !is_stopping && (working.is_finished() || has_worked && !is_armed) {
                    break;
                }
                std::thread::park_timeout(LOOK);
            }
            if is_armed {
                server.ended_until(deadline);
            }
            server.kill();
            clients.stop();
        });
    }

    /// Starts it once more and checks everything.
    fn check(self, runtime: &Handle) {
        let Some(clients) = &self.clients else { return };
        let mut faults = Faults::default();
        let mut server = Server::start(&self.home, None);
        assert!(server.is_ready(&clients.client), "a server that nobody kills starts");
        check::check_running(clients, &self.place, &mut faults);
        clients.client.post("/server/stop", &json!({})).unwrap();
        until("the server to stop", || server.ended().is_some());
        faults.expect(server.ended().expect("it stopped").success(), || "the stop was not clean".to_owned());
        check::check_stopped(clients, &self.place, runtime, &mut faults);
        lock(self.tally).faults.append(&mut faults.0);
    }
}
