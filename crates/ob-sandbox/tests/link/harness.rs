//! A guest, a gate for it to dial, and a proxy between them that cuts connections.

use std::fs;
use std::future::Future;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use futures_util::StreamExt as _;
use ob_core::link::Ack;
use ob_core::link::ProcessSpec;
use ob_sandbox::link::Guest;
use ob_sandbox::link::LinkError;
use ob_sandbox::link::Output;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixListener;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::task::JoinSet;

/// A test that takes longer hangs.
const DEADLINE: Duration = Duration::from_secs(120);

/// A running guest and the server's end of its link.
pub(crate) struct Sandbox {
    pub(crate) guest: Guest,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) port: u16,
    program: PathBuf,
    child: Child,
    gate: Option<JoinHandle<()>>,
    dials: &'static str,
}

/// Cuts connections that go through it.
pub(crate) struct Cutter {
    /// How many were cut.
    pub(crate) cuts: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

/// Small, fast, reproducible.
pub(crate) struct Random(pub(crate) u64);

/// Fails instead of hanging.
pub(crate) async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("hung")
}

/// Waits until `is_so`.
pub(crate) async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !is_so().await {
        assert!(Instant::now() < deadline, "never came true: {what}");
        // tidy: sleep: paces a poll that has a deadline.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) fn sh(script: &str) -> ProcessSpec {
    ProcessSpec {
        argv: ["sh", "-c", script].map(String::from).to_vec(),
        cwd: None,
        env: Default::default(),
        stdin: false,
    }
}

pub(crate) fn cat() -> ProcessSpec {
    ProcessSpec { argv: vec!["cat".into()], cwd: None, env: Default::default(), stdin: true }
}

/// Reads a stream to its end, acknowledging all of it. Only for one stream of a process.
pub(crate) async fn read_all(guest: &Guest, id: &str, output: Output) -> Result<Vec<u8>, LinkError> {
    let mut stream = guest.output(id, output, 0);
    let (mut all, mut acked) = (Vec::new(), 0);
    while let Some(bytes) = stream.next().await {
        all.extend_from_slice(&bytes?);
        let at = all.len() as u64;
        if at - acked >= 64 * 1024 {
            acked = at;
            let ack = match output {
                Output::Stdout => Ack { stdout: at, stderr: 0 },
                Output::Stderr => Ack { stdout: 0, stderr: at },
            };
            guest.ack(id, ack).await?;
        }
    }
    Ok(all)
}

/// What `seq 1 last` prints.
pub(crate) fn seq(last: u64) -> Vec<u8> {
    use std::io::Write as _;
    let mut text = Vec::new();
    for n in 1..=last {
        writeln!(text, "{n}").expect("memory");
    }
    text
}

pub(crate) fn refusal<T: std::fmt::Debug>(result: Result<T, LinkError>) -> String {
    match result {
        Err(LinkError::Refused { code, .. }) => code,
        other => panic!("not a refusal: {other:?}"),
    }
}

// === impl Sandbox ===

impl Sandbox {
    /// None if the guest was not built.
    pub(crate) async fn start() -> Option<Self> {
        Self::start_dialling("gate.sock").await
    }

    /// A guest that dials another socket of the folder than the gate's.
    pub(crate) async fn start_dialling(dials: &'static str) -> Option<Self> {
        let program = guest_program()?;
        let dir = tempfile::tempdir().expect("a temporary folder");
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a free port")
            .port();
        let guest = Guest::new();
        let gate = Some(listen(&dir.path().join("gate.sock"), guest.clone()));
        let child = spawn(&program, dir.path(), dials, port);
        Some(Self { guest, dir, port, program, child, gate, dials })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Ends the server: nothing listens, and all of its connections are cut.
    pub(crate) async fn stop_server(&mut self) {
        let gate = self.gate.take().expect("it runs");
        gate.abort();
        // Its connections end with its task.
        assert!(gate.await.expect_err("it was aborted").is_cancelled());
        fs::remove_file(self.path("gate.sock")).expect("the socket");
    }

    /// Starts another server, which knows nothing of the earlier one's handle.
    pub(crate) fn start_server(&mut self) {
        self.guest = Guest::new();
        self.gate = Some(listen(&self.path("gate.sock"), self.guest.clone()));
    }

    /// Kills the guest and starts another in its place.
    pub(crate) fn restart_guest(&mut self) {
        self.kill();
        self.child = spawn(&self.program, self.dir.path(), self.dials, self.port);
    }

    /// The guest's children, in any state.
    pub(crate) fn children(&self) -> Vec<i32> {
        let pid = self.pid();
        let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    }

    fn kill(&mut self) {
        for group in self.children() {
            if let Some(group) = rustix::process::Pid::from_raw(group) {
                rustix::process::kill_process_group(group, rustix::process::Signal::KILL).ok();
            }
        }
        self.child.kill().expect("the guest is ours");
        self.child.wait().expect("the guest is ours");
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.kill();
        if let Some(gate) = self.gate.take() {
            gate.abort();
        }
    }
}

// === impl Cutter ===

impl Cutter {
    /// Leads `from` to `to`, and cuts each of the first `count` connections after a random number of bytes.
    pub(crate) fn start(from: &Path, to: PathBuf, count: u64, most_bytes: u64, mut random: Random) -> Self {
        let listener = UnixListener::bind(from).expect("a free path");
        let cuts = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&cuts);
        let task = tokio::spawn(async move {
            loop {
                let (near, _) = listener.accept().await.expect("a dial");
                let Ok(far) = UnixStream::connect(&to).await else { continue };
                let is_cut = counter.load(Ordering::Relaxed) < count;
                let budget = if is_cut { 1 + random.next() % most_bytes } else { u64::MAX };
                pass(near, far, budget).await;
                if is_cut {
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Self { cuts, task }
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

// === impl Random ===

impl Random {
    /// SplitMix64.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..count.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).collect();
        bytes.truncate(count);
        bytes
    }
}

/// Copies both ways until `budget` bytes have passed.
async fn pass(mut near: UnixStream, mut far: UnixStream, mut budget: u64) {
    let (mut up, mut down) = ([0; 4096], [0; 4096]);
    while budget > 0 {
        let (count, bytes, to) = tokio::select! {
            count = near.read(&mut up) => (count, &up, &mut far),
            count = far.read(&mut down) => (count, &down, &mut near),
        };
        let count = (count.unwrap_or(0) as u64).min(budget);
        if count == 0 || to.write_all(&bytes[..count as usize]).await.is_err() {
            return;
        }
        budget -= count;
    }
}

fn spawn(program: &Path, dir: &Path, dials: &str, port: u16) -> Child {
    Command::new(program)
        .args(["init", "--socket"])
        .arg(dir.join(dials))
        .args(["--port", &port.to_string(), "--workspace"])
        .arg(dir)
        .spawn()
        .expect("the guest starts")
}

/// The gate: links are upgraded, anything else is echoed.
fn listen(path: &Path, guest: Guest) -> JoinHandle<()> {
    let listener = UnixListener::bind(path).expect("a free path");
    tokio::spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.expect("a dial");
            connections.spawn(answer(stream, guest.clone()));
            while connections.try_join_next().is_some() {}
        }
    })
}

async fn answer(mut stream: UnixStream, guest: Guest) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let text = String::from_utf8(head.clone()).expect("a head is text").to_lowercase();
    if !text.starts_with("get /link http/1.1\r\n") {
        let (mut read, mut write) = stream.split();
        if write.write_all(&head).await.is_ok() {
            // The peer may leave whenever it likes.
            tokio::io::copy(&mut read, &mut write).await.ok();
            write.shutdown().await.ok();
        }
        return;
    }
    assert!(text.contains("upgrade: guest-link/1\r\n") && text.contains("connection: upgrade\r\n"), "{text}");
    let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: guest-link/1\r\n\r\n";
    if stream.write_all(answer.as_bytes()).await.is_ok() {
        guest.serve(stream).await;
    }
}

/// The newest guest that was built.
fn guest_program() -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guest");
    let mut found: Vec<PathBuf> =
        std::env::var_os("OUBLIETTE_GUEST").map(PathBuf::from).into_iter().collect();
    found.retain(|path| path.is_file());
    if found.is_empty() {
        for triple in fs::read_dir(target).into_iter().flatten().flatten() {
            for profile in ["guest", "debug"] {
                found.push(triple.path().join(profile).join("oubliette-guest"));
            }
        }
    }
    let newest = found.into_iter().max_by_key(|path| path.metadata().and_then(|found| found.modified()).ok());
    let newest = newest.filter(|path| path.is_file());
    if newest.is_none() {
        assert!(
            std::env::var_os("CI").is_none_or(|ci| ci != "true"),
            "the guest was not built: `make guest`"
        );
        eprintln!("skipped: the guest was not built: `make guest GUEST_PROFILE=dev`");
    }
    newest
}
