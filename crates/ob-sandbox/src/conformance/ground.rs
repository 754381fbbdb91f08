//! A place for one test: folders, a backend, a gate that takes the guest's link and nothing else.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use ob_core::Epoch;
use ob_core::link::ProcessSpec;
use ob_core::resource::LimitHit;
use ob_core::resource::Means;
use ob_core::resource::Resource;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixListener;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::task::JoinSet;

use crate::Limits;
use crate::SandboxError;
use crate::SandboxSpec;
use crate::SharedBackend;
use crate::Started;
use crate::WorkspaceMount;
use crate::give_to;
use crate::link::CommandOutput;
use crate::link::Guest;
use crate::link::LinkError;

/// The server that a promise plays.
pub(super) const EPOCH: Epoch = Epoch(1);
/// The one after it.
pub(super) const LATER: Epoch = Epoch(2);
/// How long anything here may take before it counts as never.
const DEADLINE: Duration = Duration::from_secs(60);
/// The host uid of sandboxes, if the tests run as root.
const HOST_UID: u32 = 54_322;
/// The most output of a command that is kept.
const OUTPUT: usize = 1 << 20;

/// See the module.
pub struct Ground {
    folder: tempfile::TempDir,
    backend_of: Box<dyn Fn(&Path) -> SharedBackend + Send + Sync>,
    backend: SharedBackend,
}

/// A sandbox that runs, with its link.
pub struct Live {
    /// What it was made from.
    pub spec: SandboxSpec,
    /// What its start answered.
    pub started: Started,
    /// Its link.
    pub guest: Guest,
    backend: SharedBackend,
    gate: JoinHandle<()>,
    number: std::sync::atomic::AtomicU32,
}

/// Fails instead of hanging.
pub async fn in_time<T>(promise: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, promise).await.expect("a promise takes no longer than a minute")
}

/// Waits for a condition.
pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE / 2;
    while !is_so() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        // tidy: sleep: paces a poll that has a deadline.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

// === impl Ground ===

impl Ground {
    /// A ground with a backend that unpacks its programs to the folder that it is given.
    pub fn new(backend_of: impl Fn(&Path) -> SharedBackend + Send + Sync + 'static) -> Self {
        let folder = tempfile::Builder::new().prefix("g").tempdir().expect("a folder");
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700)).expect("private");
        let backend = backend_of(&folder.path().join("programs"));
        for name in ["work", "home"] {
            std::fs::create_dir(folder.path().join(name)).expect("a folder");
            if is_root() {
                give_to(&folder.path().join(name), HOST_UID).expect("given");
            }
        }
        Self { folder, backend_of: Box::new(backend_of), backend }
    }

    /// The backend.
    pub fn backend(&self) -> &SharedBackend {
        &self.backend
    }

    /// The same backend, as a later server has it.
    pub fn later_backend(&self) -> SharedBackend {
        (self.backend_of)(&self.path("programs"))
    }

    /// A path below this ground's folder.
    pub fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join(below)
    }

    /// A specification of a sandbox without limits.
    pub fn spec(&self, id: &str) -> SandboxSpec {
        let runtime = self.path(id);
        SandboxSpec {
            id: id.into(),
            gate_dir: runtime.join("gate"),
            runtime,
            workspace: WorkspaceMount { path: self.path("work"), writable: true, in_place: false },
            home: Some(self.path("home")),
            read_only: vec![],
            read_only_at: vec![],
            env: vec![],
            host_uid: HOST_UID,
            limits: Limits::NONE,
            lease: Duration::from_secs(60),
            epoch: EPOCH,
        }
    }

    /// Starts a sandbox and waits for its link.
    pub async fn start(&self, spec: SandboxSpec) -> Live {
        let backend = &self.backend;
        let guest = Guest::new();
        let gate = listen(&spec.gate_dir, guest.clone());
        let started = backend.start(&spec).await.expect("it starts");
        let connected = guest.connected(Duration::from_secs(20)).await;
        if connected.is_err() {
            let end = backend.adopt(&spec.id, &spec.runtime, spec.epoch).await;
            panic!("no link: {connected:?}, {end:?}");
        }
        let backend = SharedBackend::clone(backend);
        Live { spec, started, guest, backend, gate, number: 0.into() }
    }

    /// The link of a sandbox that another server started and left.
    pub async fn found_again(&self, spec: SandboxSpec) -> Live {
        let guest = Guest::new();
        let gate = listen(&spec.gate_dir, guest.clone());
        guest.connected(Duration::from_secs(20)).await.expect("it dials again");
        let enforcement = self.backend.enforcement(&spec.runtime).await.unwrap_or_default();
        let backend = SharedBackend::clone(&self.backend);
        Live { spec, started: Started { enforcement }, guest, backend, gate, number: 0.into() }
    }

    /// Starts one with these limits. Where this machine cannot hold them, a start must be refused; then there is none.
    pub async fn limited(&self, id: &str, limits: Limits) -> Option<Live> {
        let mut spec = self.spec(id);
        spec.limits = limits;
        let Err(refusal) = self.backend.holds(&limits) else { return Some(self.start(spec).await) };
        match self.backend.start(&spec).await {
            Err(SandboxError::Refused(same)) => assert_eq!(same, refusal),
            other => panic!("{refusal}, and yet: {other:?}"),
        }
        assert!(!spec.runtime.exists(), "nothing was made");
        None
    }
}

// === impl Live ===

impl Live {
    /// Runs a script to its end.
    pub async fn sh(&self, script: &str) -> CommandOutput {
        self.run(script).await.expect("the link is up")
    }

    /// Runs a script; an error if the sandbox ends meanwhile.
    pub async fn try_sh(&self, script: &str) -> Result<CommandOutput, String> {
        tokio::select! {
            output = self.run(script) => output.map_err(|error| error.to_string()),
            end = self.backend.ended(&self.spec.id, &self.spec.runtime) => Err(end.reason),
        }
    }

    async fn run(&self, script: &str) -> Result<CommandOutput, LinkError> {
        let number = self.number.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let argv = ["sh", "-c", script].map(String::from).to_vec();
        let spec = ProcessSpec { argv, cwd: None, env: Default::default(), stdin: false };
        self.guest.run(&format!("sh-{number}"), &spec, OUTPUT).await
    }

    /// Runs a script and returns what it said.
    pub async fn said(&self, script: &str) -> String {
        let output = self.sh(script).await;
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }

    /// True if somebody notices when this limit is reached: the kernel does not tell of resource limits.
    pub fn tells(&self, resource: Resource) -> bool {
        !matches!(self.started.enforcement.of(resource), None | Some(Means::None | Means::Rlimit))
    }

    /// The limits that it reaches.
    pub fn hits(&self) -> mpsc::Receiver<LimitHit> {
        self.backend.limit_hits(&self.spec.id).expect("it is held")
    }

    /// How it ended.
    pub async fn ended(&self) -> crate::SandboxEnd {
        self.backend.ended(&self.spec.id, &self.spec.runtime).await
    }

    /// Ends it.
    pub async fn end(self) {
        self.guest.close();
        self.backend.end(&self.spec.id, &self.spec.runtime, self.spec.epoch).await.expect("ends");
        self.gate.abort();
    }
}

/// True if the tests run as root.
pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A gate that leads the guest's dials to its handle.
fn listen(folder: &Path, guest: Guest) -> JoinHandle<()> {
    std::fs::create_dir_all(folder).expect("a folder");
    let path = folder.join("gate.sock");
    std::fs::remove_file(&path).ok();
    let listener = UnixListener::bind(&path).expect("a free path");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666))
        .expect("open to the sandbox's uid");
    tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(upgrade(stream, guest.clone()));
        }
    })
}

async fn upgrade(mut stream: UnixStream, guest: Guest) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: guest-link/1\r\n\r\n";
    if stream.write_all(answer.as_bytes()).await.is_ok() {
        guest.serve(stream).await;
    }
}
