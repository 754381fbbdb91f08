//! Sandboxes, timed: cold start to the first output of a command, the same from a large server and without the cage, a bare
//! bubblewrap beside it, and a command in a live sandbox. And the memory of one that waits.
//!
//! A plain program: `cargo bench -p oubliette --bench sandbox [-- --json]`. Runs of each kind take turns, so that what the
//! machine does meanwhile hits all of them.

#![expect(clippy::print_stdout, reason = "figures are this program's output")]
#![expect(clippy::unwrap_used, reason = "a measurement that cannot be made ends the program")]

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use futures_util::StreamExt as _;
use ob_core::SessionId;
use ob_core::Timestamp;
use ob_core::TreeId;
use ob_core::link::Ack;
use ob_core::link::ProcessSpec;
use ob_core::model::ModelRef;
use ob_core::model::ModelSource;
use ob_gate::GateSession;
use ob_gate::Gates;
use ob_gate::models::Models;
use ob_sandbox::Backend as _;
use ob_sandbox::Limits;
use ob_sandbox::SandboxSpec;
use ob_sandbox::WorkspaceMount;
use ob_sandbox::link::Guest;
use ob_sandbox::link::Output;
use ob_sandbox::namespace::GuestImage;
use ob_sandbox::namespace::NamespaceBackend;
use ob_sandbox::namespace::NamespaceOptions;
use ob_sandbox::namespace::protection::Protection;
use ob_store::Epoch;
use ob_telemetry::Metrics;
use ob_testkit::MemoryStore;

/// Cold starts of each kind.
const COLD: usize = 60;
/// Commands in a live sandbox.
const EXECS: usize = 400;
/// What a large server holds.
const BIG: usize = 500 << 20;
/// The limits of a sandbox as the server sets them by default.
const LIMITS: Limits =
    Limits { memory: Some(4 << 30), pids: Some(4096), cpu_millis: Some(2000), ..Limits::NONE };
/// What a plain sandbox lacks: all that the cage is made of, but not the namespaces.
const CAGE: [Protection; 6] = [
    Protection::SystemCalls,
    Protection::Landlock,
    Protection::ControlGroups,
    Protection::ProcMasks,
    Protection::Bounds,
    Protection::HiddenGuest,
];
/// A sandbox's memory is as small as it gets within this time of quiet.
const QUIET: Duration = Duration::from_secs(10);
/// The uid of sandboxes made by root.
const HOST_UID: u32 = 1_900_000_999;

struct Bench {
    folder: tempfile::TempDir,
    /// With the cage and without.
    backends: [NamespaceBackend; 2],
    gates: Gates,
    number: u32,
}

/// Which backend makes a sandbox.
#[derive(Clone, Copy)]
enum Kind {
    Caged,
    Plain,
}

struct Sandbox {
    kind: Kind,
    spec: SandboxSpec,
    guest: Guest,
    _gate: ob_gate::OpenGate,
}

impl Bench {
    fn new(guest: PathBuf) -> Self {
        let folder = tempfile::Builder::new().prefix("ob").tempdir().unwrap();
        let workspace = folder.path().join("workspace");
        std::fs::create_dir(&workspace).unwrap();
        if rustix::process::geteuid().is_root() {
            ob_sandbox::give_to(&workspace, HOST_UID).unwrap();
        }
        let options = NamespaceOptions {
            guest: GuestImage::File(guest),
            programs: folder.path().join("bin"),
            bwrap: None,
            first_process: None,
        };
        let backends = [NamespaceBackend::new(options.clone()), NamespaceBackend::weakened(options, &CAGE)];
        let gates = Gates::new(Arc::new(MemoryStore::new()), Arc::new(Models::new()), Metrics::new("bench"));
        Self { folder, backends, gates, number: 0 }
    }

    fn backend(&self, kind: Kind) -> &NamespaceBackend {
        &self.backends[kind as usize]
    }

    async fn start(&mut self, kind: Kind) -> Sandbox {
        self.number += 1;
        let id = format!("b{}", self.number);
        let runtime = self.folder.path().join("s").join(&id);
        let is_root = rustix::process::geteuid().is_root();
        let host_uid = if is_root { HOST_UID } else { rustix::process::geteuid().as_raw() };
        let spec = SandboxSpec {
            id,
            gate_dir: runtime.join("gate"),
            runtime,
            workspace: WorkspaceMount {
                path: self.folder.path().join("workspace"),
                writable: true,
                in_place: false,
            },
            home: None,
            read_only: Vec::new(),
            read_only_at: Vec::new(),
            env: Vec::new(),
            host_uid,
            limits: LIMITS,
            lease: Duration::from_secs(60),
            epoch: Epoch(1),
        };
        let session = GateSession {
            id: SessionId::new(Timestamp::default(), self.number),
            project: ob_core::ProjectId::from_uuid(Default::default()),
            tree: TreeId::new(Timestamp::default(), self.number),
            model: ModelRef {
                provider: "none".to_owned(),
                model: "none".to_owned(),
                source: ModelSource::Configured,
            },
            epoch: Epoch(1),
            peer_uid: host_uid,
        };
        let guest = Guest::new();
        let gate = self.gates.open(&spec.gate_dir, session, guest.clone()).await.unwrap();
        self.backend(kind).start(&spec).await.unwrap();
        guest.connected(Duration::from_secs(20)).await.unwrap();
        Sandbox { kind, spec, guest, _gate: gate }
    }

    async fn end(&self, sandbox: Sandbox) {
        sandbox.guest.close();
        self.backend(sandbox.kind)
            .end(&sandbox.spec.id, &sandbox.spec.runtime, sandbox.spec.epoch)
            .await
            .unwrap();
    }

    /// From asking for a sandbox to the first byte that a command in it wrote.
    async fn cold(&mut self, kind: Kind) -> Duration {
        let began = Instant::now();
        let sandbox = self.start(kind).await;
        first_byte(&sandbox.guest, "cold").await;
        let took = began.elapsed();
        self.end(sandbox).await;
        took
    }
}

/// From asking for a command to the first byte that it wrote.
async fn first_byte(guest: &Guest, id: &str) -> Duration {
    let argv = vec!["/bin/echo".to_owned(), "x".to_owned()];
    // As the bare one: without a locale, whose files take `echo` longer to load than everything else takes.
    let env = BTreeMap::from([("LC_ALL".to_owned(), "C".to_owned())]);
    let spec = ProcessSpec { argv, cwd: None, env, stdin: false };
    let began = Instant::now();
    guest.spawn(id, &spec).await.unwrap();
    let mut output = guest.output(id, Output::Stdout, 0);
    output.next().await.unwrap().unwrap();
    began.elapsed()
}

/// bubblewrap alone, with the same namespaces and a root of the same parts, to the first byte of the same command.
fn bare(folder: &Path) -> Duration {
    let began = Instant::now();
    let mut child = Command::new("bwrap")
        .args(["--unshare-all", "--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL"])
        .args(["--ro-bind", "/usr", "/usr", "--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib"])
        .args(["--symlink", "usr/lib64", "/lib64", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"])
        .arg("--bind")
        .arg(folder)
        .args(["/workspace", "/bin/echo", "x"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut byte = [0];
    child.stdout.take().unwrap().read_exact(&mut byte).unwrap();
    let took = began.elapsed();
    child.wait().unwrap();
    took
}

/// Kibibytes of memory, shared ones by share, of all processes of the sandboxes whose programs are in `folder`, as small
/// as they get while nothing happens.
fn idle_pss(folder: &Path) -> u64 {
    let deadline = Instant::now() + QUIET;
    let mut least = u64::MAX;
    while Instant::now() < deadline {
        least = least.min(pss(folder));
        std::thread::sleep(Duration::from_millis(200));
    }
    least
}

fn pss(folder: &Path) -> u64 {
    let own = std::process::id();
    let mut family = children(own);
    family.retain(|pid| {
        std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.starts_with(folder))
    });
    assert_eq!(family.len(), 1, "one launcher");
    let mut next = 0;
    while let Some(pid) = family.get(next) {
        family.extend(children(*pid));
        next += 1;
    }
    assert_eq!(family.len(), 3, "launcher, bubblewrap, guest");
    let of = |pid: &u32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    family.iter().map(of).sum()
}

/// Of all threads.
fn children(pid: u32) -> Vec<u32> {
    let mut all = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
        let text = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        all.extend(text.split_whitespace().filter_map(|word| word.parse::<u32>().ok()));
    }
    all
}

fn percentile(samples: &mut [Duration], percent: usize) -> f64 {
    samples.sort_unstable();
    samples[(samples.len() - 1) * percent / 100].as_secs_f64() * 1e3
}

fn print(json: bool, name: &str, value: f64, method: &str) {
    print_in(json, name, value, "ms", method);
}

fn print_in(json: bool, name: &str, value: f64, unit: &str, method: &str) {
    if json {
        println!("{}", serde_json::json!({ "name": name, "value": value, "unit": unit, "method": method }));
    } else {
        println!("{name:36} {value:9.3} {unit}   {method}");
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let json = std::env::args().any(|argument| argument == "--json");
    let guest = option_env!("OUBLIETTE_GUEST").map(PathBuf::from).filter(|path| path.is_file());
    let guest = guest.expect("build the guest first: `make guest`");
    let mut bench = Bench::new(guest);
    let bare_folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(bare_folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();

    // The first of each kind unpacks programs and fills caches.
    bench.cold(Kind::Caged).await;
    bench.cold(Kind::Plain).await;
    bare(bare_folder.path());
    let (mut cold, mut plain, mut big, mut bares) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    // Each kind comes after each other one: what the kernel still takes apart of one falls to all of them.
    for round in 0..COLD {
        for turn in 0..3 {
            match (round + turn * (1 + round / 3 % 2)) % 3 {
                0 => bares.push(bare(bare_folder.path())),
                1 => cold.push(bench.cold(Kind::Caged).await),
                _ => plain.push(bench.cold(Kind::Plain).await),
            }
        }
    }
    // Every page is written to, so that the server really is that large.
    let ballast: Vec<u8> = (0..BIG).map(|byte| if byte % 4096 == 0 { 1 } else { 0 }).collect();
    for _ in 0..COLD {
        big.push(bench.cold(Kind::Caged).await);
    }
    assert_eq!(ballast.iter().step_by(4096).map(|byte| usize::from(*byte)).sum::<usize>(), BIG / 4096);
    drop(ballast);

    let sandbox = bench.start(Kind::Caged).await;
    let idle = idle_pss(&bench.folder.path().join("bin"));
    let mut execs = Vec::new();
    for number in 0..EXECS {
        let id = format!("e{number}");
        execs.push(first_byte(&sandbox.guest, &id).await);
        sandbox.guest.exit(&id).await.unwrap();
        sandbox.guest.ack(&id, Ack { stdout: 2, stderr: 0 }).await.unwrap();
        sandbox.guest.forget(&id).await.unwrap();
    }
    bench.end(sandbox).await;

    let starts = format!(
        "{COLD} starts in turn with bare bwrap; launcher, cgroup with memory, pids and cpu limits, guest, link, to the \
         first byte of `echo`; p50"
    );
    print(json, "sandbox_cold_namespace_p50", percentile(&mut cold, 50), &starts);
    let added = percentile(&mut cold, 50) - percentile(&mut plain, 50);
    let method = format!(
        "p50 of the starts above, minus that of {COLD} in turn with them without filters, landlock, covered /proc, bounds \
         and cgroup"
    );
    print(json, "cage_added_p50", added, &method);
    let method = "launcher, bubblewrap and guest of one sandbox, alone on the machine, with its link up and nothing to do; \
                  Pss, the least in 10 s";
    #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
    print_in(json, "sandbox_idle_overhead", idle as f64 / 1024.0, "MiB", method);
    let large = format!("the same from a process that holds {} MiB; {COLD} starts, p50", BIG >> 20);
    print(json, "sandbox_cold_big_server_p50", percentile(&mut big, 50), &large);
    let method = format!("bwrap alone, same namespaces, to the first byte of `echo`; {COLD} starts, p50");
    print(json, "bare_bwrap_p50", percentile(&mut bares, 50), &method);
    let method =
        format!("`echo` in a live sandbox, from asking to its first byte; {EXECS} commands one by one, p50");
    print(json, "exec_namespace_p50", percentile(&mut execs, 50), &method);
}
