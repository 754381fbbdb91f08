//! What bombs do to their neighbours: commands in another sandbox and reads of the server's interface, while a sandbox
//! does its worst under the default limits, against the same without it.
//!
//! A plain program: `cargo bench -p oubliette --bench neighbours [-- --json]`. Each bomb has a quiet measurement before
//! it, so that what the machine does meanwhile hits both. Also: how far a writer gets past the limit of its disk.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot be made ends the program")]

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use futures_util::StreamExt as _;
use ob_core::link::Ack;
use ob_core::link::ProcessSpec;
use ob_core::resource::Resource;
use ob_sandbox::GuestImage;
use ob_sandbox::Limits;
use ob_sandbox::conformance::Ground;
use ob_sandbox::conformance::Live;
use ob_sandbox::link::Output;
use ob_sandbox::namespace::NamespaceBackend;
use ob_sandbox::namespace::NamespaceOptions;
use ob_testkit::bench::Program;
use ob_testkit::bench::print;

/// Commands and reads of each kind, before and during a bomb.
const SAMPLES: usize = 150;
/// Rounds of all bombs, whose samples are taken together: the p99 of one round alone hangs on two of them.
const ROUNDS: usize = 5;
/// Limits as the configuration has them by default, on a machine of two processors.
const LIMITS: Limits = Limits {
    memory: Some(4 << 30),
    pids: Some(4096),
    cpu_millis: Some(2000),
    open_files: Some(16_384),
    disk: Some(20 << 30),
    inodes: Some(2_000_000),
    ..Limits::NONE
};
/// A bomb has gone off after this.
const FUSE: Duration = Duration::from_millis(700);

/// Programs that do their worst and do not end.
const BOMBS: [(&str, &str); 6] = [
    ("fork", "f() { f | f & }; f; sleep 100"),
    ("memory", "while :; do head -c 6G /dev/zero | tail; done"),
    ("disk", "while :; do head -c 400m /dev/zero > full; done"),
    ("output", "yes"),
    ("inode", "mkdir d; while :; do seq 1 20000 | (cd d && xargs touch); rm -rf d; mkdir d; done"),
    ("busy", "for i in $(seq 64); do while :; do :; done & done; wait"),
];

/// One read: the list of projects.
fn read(server: &Program) -> Duration {
    let began = Instant::now();
    let (status, answer) = server.get("/api/v1/projects").unwrap();
    assert_eq!(status, 200, "{answer}");
    began.elapsed()
}

/// One command, from asking to its first byte.
async fn exec(live: &Live, id: &str) -> Duration {
    let argv = vec!["/bin/echo".to_owned(), "x".to_owned()];
    let spec = ProcessSpec { argv, cwd: None, env: Default::default(), stdin: false };
    let began = Instant::now();
    live.guest.spawn(id, &spec).await.unwrap();
    live.guest.output(id, Output::Stdout, 0).next().await.unwrap().unwrap();
    let took = began.elapsed();
    live.guest.exit(id).await.unwrap();
    live.guest.ack(id, Ack { stdout: 2, stderr: 0 }).await.unwrap();
    live.guest.forget(id).await.unwrap();
    took
}

/// How long each command and each read took.
#[derive(Clone, Default)]
struct Samples {
    execs: Vec<Duration>,
    reads: Vec<Duration>,
}

/// Some of each.
async fn sample(samples: &mut Samples, neighbour: &Live, server: &Arc<Program>, number: &mut u64) {
    for _ in 0..SAMPLES {
        *number += 1;
        samples.execs.push(exec(neighbour, &format!("e{number}")).await);
        let server = Arc::clone(server);
        samples.reads.push(tokio::task::spawn_blocking(move || read(&server)).await.unwrap());
    }
}

fn p99(samples: &mut [Duration]) -> f64 {
    samples.sort_unstable();
    samples[(samples.len() - 1) * 99 / 100].as_secs_f64()
}

fn ground(guest: PathBuf) -> Ground {
    Ground::new(move |programs: &Path| {
        Arc::new(NamespaceBackend::new(NamespaceOptions {
            guest: GuestImage::File(guest.clone()),
            programs: programs.to_owned(),
            bwrap: None,
            first_process: None,
        }))
    })
}

/// Samples before a bomb and while it goes off.
async fn bombed(
    ground: &Ground,
    script: &str,
    neighbour: &Live,
    server: &Arc<Program>,
    n: &mut u64,
    [quiet, loud]: &mut [Samples; 2],
) {
    sample(quiet, neighbour, server, n).await;
    *n += 1;
    let bomb = ground.limited(&format!("bomb-{n}"), LIMITS).await.unwrap();
    let argv = ["sh", "-c", script].map(String::from).to_vec();
    let spec = ProcessSpec { argv, cwd: None, env: Default::default(), stdin: false };
    bomb.guest.spawn("bomb", &spec).await.unwrap();
    // As the engine does: read, and acknowledged.
    let guest = bomb.guest.clone();
    let reader = tokio::spawn(async move {
        let (mut at, mut output) = (0, guest.output("bomb", Output::Stdout, 0));
        let mut pace = ob_sandbox::link::Pace::new(4 << 20);
        while let Some(Ok(bytes)) = output.next().await {
            at += bytes.len() as u64;
            guest.ack("bomb", Ack { stdout: at, stderr: 0 }).await.ok();
            if let Some(pause) = pace.take(bytes.len(), tokio::time::Instant::now()) {
                // tidy: sleep: the pace that the engine keeps as well.
                tokio::time::sleep(pause).await;
            }
        }
    });
    // tidy: sleep: a bomb has no sign by which to know that it has gone off.
    tokio::time::sleep(FUSE).await;
    sample(loud, neighbour, server, n).await;
    reader.abort();
    bomb.end().await;
}

/// Bytes beyond the limit of its disk that a writer had written when it was ended.
async fn overshoot(ground: &Ground, number: usize) -> f64 {
    let limit = 512 << 20;
    let limits = Limits { disk: Some(limit), ..LIMITS };
    let live = ground.limited(&format!("full-{number}"), limits).await.unwrap();
    // Four writers, files that are small against the limit, so that no limit on one file helps.
    let script = "for w in 1 2 3 4; do (i=0; while :; do head -c 16m /dev/zero > w$w-$i; i=$((i + 1)); done) & done; wait";
    live.try_sh(script).await.ok();
    let end = live.ended().await;
    assert_eq!(end.limit.map(|hit| hit.resource), Some(Resource::Disk), "{end:?}");
    let work = ground.path("work");
    let files = std::fs::read_dir(&work).unwrap().flatten();
    let stored: u64 = files.filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum();
    live.end().await;
    for file in std::fs::read_dir(&work).unwrap().flatten() {
        std::fs::remove_file(file.path()).ok();
    }
    stored.saturating_sub(limit) as f64 / f64::from(1 << 20)
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let json = std::env::args().any(|argument| argument == "--json");
    let guest = option_env!("OUBLIETTE_GUEST").map(PathBuf::from).filter(|path| path.is_file());
    let ground = ground(guest.expect("build the guest first: `make guest`"));
    let mut server = Program::new(env!("CARGO_BIN_EXE_oubliette"));
    server.start();
    let server = Arc::new(server);
    let neighbour = ground.limited("neighbour", LIMITS).await.unwrap();
    let mut number = 0;
    sample(&mut Samples::default(), &neighbour, &server, &mut number).await;
    let mut samples = vec![<[Samples; 2]>::default(); BOMBS.len()];
    for _ in 0..ROUNDS {
        for (samples, (_, script)) in samples.iter_mut().zip(BOMBS) {
            bombed(&ground, script, &neighbour, &server, &mut number, samples).await;
        }
    }
    neighbour.end().await;
    let mut full = Vec::new();
    for round in 0..5 {
        full.push(overshoot(&ground, round).await);
    }
    tokio::task::spawn_blocking(move || drop(server)).await.unwrap();

    type Part = fn(&mut Samples) -> &mut [Duration];
    let which: [(_, _, Part); 2] = [
        ("bomb_neighbour_exec_p99", "`echo` in another sandbox", |samples| &mut samples.execs),
        ("bomb_neighbour_read_p99", "`GET /api/v1/projects` of a server", |samples| &mut samples.reads),
    ];
    for (name, what, of) in which {
        let ratio = |[quiet, loud]: &mut [Samples; 2]| p99(of(loud)) / p99(of(quiet));
        let each: Vec<(f64, &str)> =
            samples.iter_mut().zip(BOMBS).map(|(samples, (bomb, _))| (ratio(samples), bomb)).collect();
        let shown: Vec<String> = each.iter().map(|(ratio, bomb)| format!("{bomb} {ratio:.2}")).collect();
        let worst = each.iter().map(|(ratio, _)| *ratio).fold(0.0, f64::max);
        let method = format!(
            "p99 of {what} from {:.1} s after a bomb was lit, against just before; {SAMPLES} samples each in each of {ROUNDS} \
             rounds, the worst bomb: {}",
            FUSE.as_secs_f64(),
            shown.join(", ")
        );
        print(json, name, worst, "times", &method);
    }
    let worst = full.iter().copied().fold(0.0, f64::max);
    let method =
        "beyond a limit of 512 MiB, written by four writers at once until the sandbox was ended; worst of 5";
    print(json, "disk_overshoot", worst, "MiB", method);
}
