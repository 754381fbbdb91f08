//! One server, three sessions and their surroundings, in which all attempts against the running program are made.
//!
//! ```text
//! server ── session "attacker" ── attack program: every case of it, in one call of the agent's tool
//!    ├───── session "neighbour" ─ attack program as the neighbour: listens, keeps secrets
//!    └───── session "painter" ─── an agent whose every word is a terminal escape
//! host ──── secrets, listeners, a neighbour without walls; the attack program again, for the controls
//! ```

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::net::TcpListener;
use std::net::UdpSocket;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::OnceLock;

use ob_testkit::Answer;
use ob_testkit::ModelServer;
use serde_json::json;

use crate::attack;
use crate::attack::Report;
use crate::case::Case;
use crate::case::Control;
use crate::case::How;
use crate::case::Verdict;
use crate::harness::Home;
use crate::harness::until;
use crate::naive;
use crate::ours;
use crate::place::Neighbour;
use crate::place::Place;
use crate::without::Without;

/// The port on which a neighbour listens on its own loopback.
const NEIGHBOUR_PORT: u16 = 4711;
/// Agents' commands may take this long.
const COMMAND_S: u32 = 300;

/// What the attempts in here gave: the attempt's verdict and the control's, by case.
pub(crate) type Verdicts = HashMap<String, (Verdict, Verdict)>;

/// Which backend makes the sandboxes of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    /// `namespace`.
    Walls,
    /// `process`, which isolates nothing.
    NoWalls,
}

/// The surroundings while the server runs.
pub(crate) struct Batch {
    pub(crate) home: Home,
    pub(crate) model: ModelServer,
    pub(crate) canary: String,
    pub(crate) folder: tempfile::TempDir,
    /// The attacker's session.
    pub(crate) attacker: String,
    /// The neighbour's session.
    pub(crate) neighbour: String,
    /// The uid of the sandboxes on the host.
    pub(crate) uid: u32,
    /// What attempts know, for the place inside.
    pub(crate) inside: Place,
    /// What the operator sees of the painter's session, by view.
    pub(crate) views: BTreeMap<&'static str, String>,
    /// The painter's session.
    pub(crate) painter: String,
    /// What several cases look at, made when the first of them does.
    pub(crate) once: Once,
    token: OnceLock<String>,
}

/// What is made once in a batch.
#[derive(Default)]
pub(crate) struct Once {
    pub(crate) in_place: OnceLock<ours::in_place::Outcome>,
    pub(crate) left: OnceLock<ours::patch::Left>,
    pub(crate) sprung: OnceLock<ours::git::Sprung>,
}

/// Ends a child that plays something.
struct Player(Child);

impl Drop for Player {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Makes all attempts that need the running program, and their controls.
pub(crate) fn run(cases: &[Case]) -> Verdicts {
    let runtime = runtime();
    let model = runtime.block_on(ModelServer::start()).expect("a port");
    let mut batch = Batch::start(model, Backend::Walls);
    let attempts = batch.attacks();
    let controls = batch.controls(&runtime);
    let mut verdicts: Verdicts = attempts
        .into_iter()
        .map(|(id, verdict)| {
            let control = controls.get(&id).cloned();
            let control = control.unwrap_or_else(|| Verdict::Missing("the control said nothing".to_owned()));
            (id, (verdict, control))
        })
        .collect();
    ours::terminal::paint(&mut batch);
    for case in cases {
        if let How::Seen(attempt, naive) = case.how {
            verdicts.insert(case.id.to_owned(), (batch.tried(case, attempt), batch.tried(case, naive)));
        }
    }
    attack::forget(&batch.outside(Path::new("/nonexistent")));
    verdicts
}

/// Makes those attempts once more that can be made where nothing isolates. Their controls are those of [`run`].
pub(crate) fn run_without_walls(cases: &[Case]) -> HashMap<String, Verdict> {
    let runtime = runtime();
    let model = runtime.block_on(ModelServer::start()).expect("a port");
    let mut batch = Batch::start(model, Backend::NoWalls);
    let mut verdicts = batch.attacks();
    ours::terminal::paint(&mut batch);
    for case in cases {
        if let How::Seen(attempt, _) = case.how
            && Without::of(case).is_tried()
        {
            verdicts.insert(case.id.to_owned(), batch.tried(case, attempt));
        }
    }
    attack::forget(&batch.inside);
    verdicts
}

fn runtime() -> tokio::runtime::Runtime {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime")
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

// === impl Batch ===

impl Batch {
    /// Starts the server, its neighbour and the attacker's session, and puts out what is to be got.
    fn start(model: ModelServer, backend: Backend) -> Self {
        let canary = format!("canary-{:016x}", rand::random::<u64>());
        let has_walls = backend == Backend::Walls;
        // Without walls `/tmp` is the sandbox's own: what is to be got must not be hidden by that.
        let below = if has_walls { std::env::temp_dir() } else { PathBuf::from("/var/tmp") };
        let folder = tempfile::Builder::new().prefix("corpus").tempdir_in(&below).expect("a folder");
        // Everyone may pass: that a file cannot be read must not be for want of a mode.
        open_to_all(folder.path(), 0o755);
        for name in ["program", "secret", "outside", "naive", "places"] {
            std::fs::create_dir(folder.path().join(name)).expect("a folder");
        }
        open_to_all(&folder.path().join("outside"), 0o777);
        open_to_all(&folder.path().join("naive"), 0o777);
        let program = folder.path().join("program/attack");
        std::fs::copy(std::env::current_exe().expect("this program"), &program).expect("a copy");
        let secret = folder.path().join("secret/secret.txt");
        std::fs::write(&secret, &canary).expect("a secret");
        open_to_all(&secret, 0o644);

        let mut home = Home::new_in(&below, &model);
        if !has_walls {
            home.set("OUBLIETTE_SANDBOX__BACKEND", "process");
        }
        // What holds shall not be that there were too many requests.
        home.set("OUBLIETTE_RATE_LIMIT__REQUESTS_PER_SECOND", "100000");
        home.set("OUBLIETTE_RATE_LIMIT__BURST", "100000");
        home.set("OUBLIETTE_SANDBOX__READ_ONLY", &json!([folder.path().join("program")]).to_string());
        home.set("CORPUS_SECRET", &canary);
        home.start();
        let source = home.repository("thing", &[("a.txt", "one\n")]);

        let host = Host::listen(&canary, folder.path());
        let api = home.json(&["status"])["addresses"][0].as_str().expect("an address").to_owned();
        let api = api.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
        let inside = Place {
            is_control: false,
            has_walls,
            canary: canary.clone(),
            secret,
            uid: 0,
            home: home.root(),
            scratch: PathBuf::from("/workspace"),
            tcp4: host.tcp4,
            tcp6: host.tcp6,
            udp4: host.udp4,
            api,
            unix: host.unix,
            abstract_name: host.abstract_name,
            gate: PathBuf::from(ob_core::link::GATE_SOCKET),
            program: PathBuf::from(ob_core::link::GUEST_PROGRAM),
            target: 1,
            neighbour: Neighbour {
                port: if has_walls { NEIGHBOUR_PORT } else { free_port() },
                abstract_name: format!("neighbour-{canary}"),
                file: PathBuf::from(format!("/tmp/neighbour-{canary}.txt")),
                shared_memory: PathBuf::from(format!("/dev/shm/neighbour-{canary}.txt")),
                segment: rand::random::<i32>().saturating_abs().max(2),
                ..Neighbour::default()
            },
        };
        std::fs::write(attack::host_temporary(&inside), &canary).expect("a temporary file");
        let mut batch = Self {
            home,
            model,
            canary,
            folder,
            attacker: String::new(),
            neighbour: String::new(),
            uid: 0,
            inside,
            views: BTreeMap::new(),
            painter: String::new(),
            once: Once::default(),
            token: OnceLock::new(),
        };
        batch.neighbour = batch.session(&source);
        batch.attacker = batch.session(&source);
        let workspace = batch.workspace(&batch.neighbour);
        batch.uid = std::fs::metadata(&workspace).expect("a workspace").uid();
        std::fs::write(workspace.join("canary.txt"), &batch.canary).expect("the neighbour's file");
        batch.meet_neighbour(workspace);
        batch
    }

    /// Has the neighbour's agent start the neighbour, and finds its process and its sockets on the host.
    fn meet_neighbour(&mut self, workspace: PathBuf) {
        let place = self.put("neighbour", &self.inside);
        let program = self.program();
        self.sh(
            &self.neighbour.clone(),
            &format!(
                "setsid {program} attack neighbour {place} </dev/null >neighbour.log 2>&1 & \
                 for n in $(seq 1000); do [ -e neighbour-ready ] && break; sleep 0.02; done; cat neighbour.log",
                program = program.display(),
                place = place.display()
            ),
        );
        assert!(workspace.join("neighbour-ready").exists(), "the neighbour is up");
        let arguments = format!("{}\0attack\0neighbour", program.display());
        let pid = pids().find(|pid| {
            std::fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).starts_with(&arguments))
        });
        self.inside.neighbour.pid = pid.expect("the neighbour's process");
        let sockets = sockets_of(&self.neighbour);
        let socket = |name: &str| sockets.iter().find(|path| path.ends_with(name)).cloned();
        self.inside.neighbour.gate = socket("gate.sock").expect("the neighbour's gate");
        self.inside.neighbour.launcher = socket("control.sock").expect("the neighbour's launcher");
        self.inside.neighbour.workspace = workspace;
    }

    /// A session that is ready.
    pub(crate) fn session(&self, source: &Path) -> String {
        self.model.push(Answer::text("Ready."));
        let session = self.home.spawn(source, "Get ready.");
        until("the session to be ready", || self.home.state(&session) == "idle");
        session
    }

    /// A session in the user's folder itself that is ready.
    pub(crate) fn session_in_place(&self, source: &Path) -> String {
        self.model.push(Answer::text("Ready."));
        let folder = source.to_str().expect("text");
        let words = ["run", "Get ready.", "--project", folder, "--in-place", "--detach", "--keep"];
        let session = self.home.json(&words)["session_id"].as_str().expect("an id").to_owned();
        until("the session to be ready", || self.home.state(&session) == "idle");
        session
    }

    /// Has a session's agent run a command, and waits until its turn is over.
    pub(crate) fn sh(&self, session: &str, command: &str) {
        self.model.push(Answer::tool("run", json!({ "command": command, "timeout_s": COMMAND_S })));
        self.model.otherwise(Answer::text("Done."));
        let turns = || self.home.json(&["session", "get", session])["turns"].clone();
        let before = turns();
        self.home.ok(["session", "message", session, "Run it."]);
        until("the command to end", || turns() != before && self.home.state(session) == "idle");
    }

    pub(crate) fn workspace(&self, session: &str) -> PathBuf {
        let view = self.home.json(&["session", "get", session]);
        let name = |field: &str| view[field].as_str().expect("an id").to_owned();
        let project = self.home.root().join("data/projects").join(name("project_id"));
        project.join("workspaces").join(name("workspace_id"))
    }

    /// The secret of an operator's token, made when it is first needed.
    pub(crate) fn token(&self) -> String {
        let made = self.token.get_or_init(|| {
            let made = self.home.json(&["token", "create", "--name", "corpus", "--scope", "admin"]);
            let fields = made.as_object().expect("an object").values();
            let secret = fields.filter_map(|value| value.as_str()).find(|text| text.starts_with("oub_"));
            secret.expect("a secret").to_owned()
        });
        made.clone()
    }

    fn program(&self) -> PathBuf {
        self.folder.path().join("program/attack")
    }

    /// Writes a place to where the attack program sees it, inside and outside.
    fn put(&self, name: &str, place: &Place) -> PathBuf {
        let path = self.folder.path().join("program").join(format!("{name}.json"));
        std::fs::write(&path, serde_json::to_vec(place).expect("JSON")).expect("written");
        open_to_all(&path, 0o644);
        path
    }

    /// An attempt on what is ours. A case that breaks is one that fails, and not all of them.
    fn tried(&self, case: &Case, what: crate::case::Watched) -> Verdict {
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| what(self, case.id)));
        caught.unwrap_or_else(|_| Verdict::Missing("it panicked, see above".to_owned()))
    }

    /// Every case of the attack program, inside.
    fn attacks(&mut self) -> HashMap<String, Verdict> {
        self.inside.uid = self.uid;
        let place = self.put("inside", &self.inside);
        let program = self.program();
        let attacker = self.attacker.clone();
        let workspace = self.workspace(&attacker);
        let command =
            format!("{} attack run {} >results.jsonl 2>results.log", program.display(), place.display());
        self.sh(&attacker, &command);
        let mut attempts =
            reports(&std::fs::read_to_string(workspace.join("results.jsonl")).unwrap_or_default());
        seen_at(&self.model, &mut attempts);
        attempts
    }

    /// Every case of the attack program where nothing stops it.
    fn controls(&self, runtime: &tokio::runtime::Runtime) -> HashMap<String, Verdict> {
        // A provider of its own: what reaches it came from a control.
        let provider = runtime.block_on(ModelServer::start()).expect("a port");
        provider.otherwise(Answer::text("Done."));
        let gate = self.folder.path().join("naive/gate.sock");
        naive::listen(&gate, &provider.address().to_string()).expect("a naive gate");
        open_to_all(&gate, 0o666);
        let outside = self.outside(&gate);
        let place = self.put("outside", &outside);
        let neighbour = self.neighbour_outside(&place, &outside);
        let mut outside = outside;
        outside.neighbour.pid = neighbour.0.id().cast_signed();
        let place = self.put("outside", &outside);

        let mut verdicts = HashMap::new();
        for control in [Control::SameUser, Control::Root, Control::Network, Control::Naive] {
            let mut command = Command::new(self.program());
            command.args(["attack", "run", place.to_str().expect("text"), attack::name(control)]);
            command.current_dir(&outside.scratch).stdin(Stdio::null());
            if is_root() && control == Control::SameUser {
                command.uid(self.uid).gid(self.uid);
            }
            if !is_root() && matches!(control, Control::Root | Control::Network) {
                continue;
            }
            let output = command.output().expect("the attack program runs");
            verdicts.extend(reports(&String::from_utf8_lossy(&output.stdout)));
        }
        if !is_root() {
            for case in attack::cases() {
                if matches!(case.how, How::Inside(_, Control::Root | Control::Network)) {
                    verdicts.insert(
                        case.id.to_owned(),
                        Verdict::Missing("the tests do not run as root".to_owned()),
                    );
                }
            }
        }
        seen_at(&provider, &mut verdicts);
        verdicts
    }

    /// The place outside, in which everything is reached.
    fn outside(&self, gate: &Path) -> Place {
        let scratch = self.folder.path().join("outside");
        // A program that the attacker may write to, as the next sandbox's would be if it were its.
        let program = scratch.join("next-program");
        if std::fs::write(&program, "x").is_ok() {
            open_to_all(&program, 0o777);
        }
        let mut place = Place {
            is_control: true,
            scratch,
            gate: gate.to_owned(),
            program,
            uid: self.uid,
            ..self.inside.clone()
        };
        place.neighbour.port = free_port();
        place.neighbour.abstract_name = format!("outside-{}", self.canary);
        place.neighbour.file = PathBuf::from(format!("/tmp/outside-{}.txt", self.canary));
        place.neighbour.shared_memory = PathBuf::from(format!("/dev/shm/outside-{}.txt", self.canary));
        place
    }

    /// A neighbour without walls: a process of the same uid, with the secret in its environment and its arguments.
    fn neighbour_outside(&self, at: &Path, place: &Place) -> Player {
        let mut command = Command::new(self.program());
        command.args(["attack", "neighbour", at.to_str().expect("text")]).arg(&self.canary);
        command.env("CORPUS_SECRET", &self.canary).current_dir("/").process_group(0);
        if is_root() {
            command.uid(self.uid).gid(self.uid);
        }
        let child = command.spawn().expect("the attack program runs");
        let ready = place.scratch.join("neighbour-ready");
        until("the neighbour outside", || ready.exists());
        Player(child)
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        // Left in folders of everyone's.
        std::fs::remove_file(attack::host_temporary(&self.inside)).ok();
        for folder in ["/tmp", "/dev/shm"] {
            std::fs::remove_file(format!("{folder}/outside-{}.txt", self.canary)).ok();
            std::fs::remove_file(format!("{folder}/neighbour-{}.txt", self.canary)).ok();
        }
    }
}

/// Listeners of the host, for as long as this process lives.
struct Host {
    tcp4: u16,
    tcp6: u16,
    udp4: u16,
    unix: PathBuf,
    abstract_name: String,
}

// === impl Host ===

impl Host {
    fn listen(canary: &str, folder: &Path) -> Self {
        let say = |incoming: Box<dyn FnOnce(String) + Send>| {
            let canary = canary.to_owned();
            std::thread::spawn(move || incoming(canary));
        };
        let tcp4 = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port4 = tcp4.local_addr().expect("bound").port();
        say(Box::new(move |canary| attack::say_to_all(tcp4.incoming(), &canary)));
        // Without IPv6 its case has nothing to find.
        let tcp6 = TcpListener::bind("[::1]:0").ok();
        let port6 = tcp6.as_ref().and_then(|tcp| tcp.local_addr().ok()).map_or(1, |address| address.port());
        if let Some(tcp6) = tcp6 {
            say(Box::new(move |canary| attack::say_to_all(tcp6.incoming(), &canary)));
        }
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let udp4 = udp.local_addr().expect("bound").port();
        say(Box::new(move |canary| {
            let mut bytes = [0; 64];
            while let Ok((_, from)) = udp.recv_from(&mut bytes) {
                udp.send_to(canary.as_bytes(), from).ok();
            }
        }));
        // The same number, on another address of loopback.
        let other = TcpListener::bind(("127.0.0.2", udp4)).expect("127/8 is loopback");
        say(Box::new(move |canary| attack::say_to_all(other.incoming(), &canary)));
        let unix = folder.join("secret/socket");
        let listener = UnixListener::bind(&unix).expect("a socket");
        open_to_all(&unix, 0o666);
        say(Box::new(move |canary| attack::say_to_all(listener.incoming(), &canary)));
        let datagrams = UnixDatagram::bind(unix.with_extension("dgram")).expect("a socket");
        open_to_all(&unix.with_extension("dgram"), 0o666);
        say(Box::new(move |_| while datagrams.recv(&mut [0; 64]).is_ok() {}));
        let abstract_name = format!("corpus-{canary}");
        let name = std::os::unix::net::SocketAddr::from_abstract_name(&abstract_name).expect("a name");
        let listener = UnixListener::bind_addr(&name).expect("a socket");
        say(Box::new(move |canary| attack::say_to_all(listener.incoming(), &canary)));
        Self { tcp4: port4, tcp6: port6, udp4, unix, abstract_name }
    }
}

pub(crate) fn open_to_all(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("ours");
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|tcp| tcp.local_addr()).expect("a port").port()
}

fn pids() -> impl Iterator<Item = i32> {
    std::fs::read_dir("/proc")
        .expect("processes")
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
}

/// The unix sockets of the host whose path names a session.
pub(crate) fn sockets_of(session: &str) -> Vec<PathBuf> {
    let suffix = session.rsplit('_').next().unwrap_or(session);
    let list = std::fs::read_to_string("/proc/net/unix").expect("sockets");
    let paths = list.lines().filter_map(|line| line.split_whitespace().nth(7));
    paths.filter(|path| path.contains(suffix)).map(PathBuf::from).collect()
}

fn reports(text: &str) -> HashMap<String, Verdict> {
    text.lines()
        .filter_map(|line| serde_json::from_str::<Report>(line).ok())
        .map(|report| (report.id, report.verdict))
        .collect()
}

/// What reached a provider is got, whatever the attacker heard of it.
fn seen_at(provider: &ModelServer, verdicts: &mut HashMap<String, Verdict>) {
    for request in provider.requests() {
        let text = format!("{} {:?} {}", request.path, request.headers, request.body["model"]);
        for (id, verdict) in verdicts.iter_mut() {
            let mark = format!("{}{id}", attack::SMUGGLED);
            // Ends of names: `routes.model` is no `routes.model_twice`.
            let is_there = text.match_indices(&mark).any(|(at, _)| {
                !text[at + mark.len()..].starts_with(|c: char| c == '_' || c.is_ascii_alphanumeric())
            });
            if is_there {
                *verdict = Verdict::Got(format!("the provider saw {} {}", request.method, request.path));
            }
        }
    }
}
