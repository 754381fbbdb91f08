//! A small world for one test: folders, a backend, and shell scripts as first processes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use ob_core::Epoch;
use ob_sandbox::Backend as _;
use ob_sandbox::Limits;
use ob_sandbox::SandboxEnd;
use ob_sandbox::SandboxSpec;
use ob_sandbox::WorkspaceMount;
use ob_sandbox::namespace::GuestImage;
use ob_sandbox::namespace::Hierarchy;
use ob_sandbox::namespace::NamespaceBackend;
use ob_sandbox::namespace::NamespaceOptions;
use ob_sandbox::namespace::give_to;
use ob_sandbox::namespace::protection::Protection;

/// The server that these tests play.
pub(crate) const EPOCH: Epoch = Epoch(1);
/// The host uid of sandboxes in these tests, if the tests run as root.
pub(crate) const HOST_UID: u32 = 54_321;
/// What the first process does with a script.
const SCRIPT: &str = "sh /home/agent/script > /home/agent/said 2>&1";
/// A deadline for what takes milliseconds.
const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) struct World {
    folder: tempfile::TempDir,
    image: PathBuf,
}

// === impl World ===

impl World {
    /// `None`, with the reason printed, if this machine or build cannot run sandboxes. An error where it must (CI).
    pub(crate) fn new() -> Option<Self> {
        let lacks = |what: &str| {
            assert!(std::env::var_os("CI").is_none(), "{what}");
            eprintln!("skipped: {what}");
            None
        };
        if !Path::new("/usr/bin/bwrap").exists() {
            return lacks("bubblewrap is not installed");
        }
        let Some(image) = guest() else {
            return lacks("no guest program: run `make guest`");
        };
        let folder = tempfile::Builder::new().prefix("w").tempdir().expect("a folder");
        // Nobody but the server's user may pass: staging has to cope with that.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).expect("private");
        for name in ["work", "gate", "home"] {
            fs::create_dir(folder.path().join(name)).expect("a folder");
        }
        let world = Self { folder, image };
        world.give_workspace();
        Some(world)
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join(below)
    }

    pub(crate) fn give_workspace(&self) {
        if is_root() {
            give_to(&self.path("work"), HOST_UID).expect("given");
        }
    }

    /// A backend whose sandboxes run `script` first.
    pub(crate) fn backend(&self, script: &str) -> NamespaceBackend {
        self.weakened(script, &[])
    }

    fn weakened(&self, script: &str, left_out: &[Protection]) -> NamespaceBackend {
        let first_process = Some(vec!["/bin/sh".into(), "-c".into(), script.into()]);
        NamespaceBackend::weakened(self.options(first_process), left_out)
    }

    /// A backend whose sandboxes run the guest.
    pub(crate) fn guests(&self, left_out: &[Protection]) -> NamespaceBackend {
        NamespaceBackend::weakened(self.options(None), left_out)
    }

    fn options(&self, first_process: Option<Vec<String>>) -> NamespaceOptions {
        NamespaceOptions {
            guest: GuestImage::File(self.image.clone()),
            programs: self.path("programs"),
            bwrap: None,
            first_process,
        }
    }

    pub(crate) fn spec(&self, id: &str) -> SandboxSpec {
        SandboxSpec {
            id: id.into(),
            runtime: self.path(id),
            gate_dir: self.path("gate"),
            workspace: WorkspaceMount { path: self.path("work"), writable: true, in_place: false },
            home: Some(self.path("home")),
            read_only: vec![],
            read_only_at: vec![],
            env: vec![],
            host_uid: HOST_UID,
            limits: Limits::default(),
            lease: Duration::from_secs(60),
            epoch: EPOCH,
        }
    }

    /// Runs a script to its end in a sandbox of its own and returns what it said.
    pub(crate) async fn inside(&self, script: &str) -> String {
        self.inside_of(&self.spec("walls"), script).await
    }

    pub(crate) async fn inside_of(&self, spec: &SandboxSpec, script: &str) -> String {
        self.inside_without(&[], spec, script).await
    }

    /// The same in one that lacks some protections: a control.
    pub(crate) async fn inside_without(
        &self,
        left_out: &[Protection],
        spec: &SandboxSpec,
        script: &str,
    ) -> String {
        self.run(self.weakened(SCRIPT, left_out), spec, script).await
    }

    /// The same on a machine with these control groups.
    pub(crate) async fn inside_with(&self, groups: Hierarchy, spec: &SandboxSpec, script: &str) -> String {
        self.run(self.backend(SCRIPT).with_groups(groups), spec, script).await
    }

    async fn run(&self, backend: NamespaceBackend, spec: &SandboxSpec, script: &str) -> String {
        let output = self.path("home").join("said");
        fs::write(self.path("home/script"), script).expect("a script");
        if is_root() {
            give_to(&self.path("home"), HOST_UID).expect("given");
        }
        backend.start(spec).await.expect("starts");
        let end = within(backend.ended(&spec.id, &spec.runtime)).await;
        let said = fs::read_to_string(&output).unwrap_or_default();
        assert!(end.reason.starts_with("first process exited"), "{end:?} {said}");
        backend.end(&spec.id, &spec.runtime, EPOCH).await.expect("ends");
        said
    }

    /// Starts a sandbox that stays, and returns when its first process has begun.
    pub(crate) async fn staying(&self, spec: &SandboxSpec) -> NamespaceBackend {
        let ready = self.path("work").join(format!("ready-{}", spec.id));
        let backend =
            self.backend(&format!("sleep 1000 & sleep 1000 & : > /workspace/ready-{}; wait", spec.id));
        backend.start(spec).await.expect("starts");
        until(|| ready.exists()).await;
        backend
    }
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Waits for a condition.
pub(crate) async fn until(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "the condition did not come true");
        // tidy: sleep: paces a poll that has a deadline.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("in time")
}

/// What is left of a sandbox on this host, by any trace that holds its mark.
pub(crate) fn traces(id: &str, runtime: &Path, end: &SandboxEnd) -> Vec<String> {
    let mut found = Vec::new();
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    for line in mounts.lines().filter(|line| line.contains(&format!("sandbox-{id}"))) {
        found.push(format!("mount {line} after {end:?}"));
    }
    for folder in groups_named(Path::new("/sys/fs/cgroup"), &Hierarchy::group_name(runtime), 4) {
        found.push(format!("group {} after {end:?}", folder.display()));
    }
    found
}

pub(crate) fn groups_named(folder: &Path, name: &str, depth: u32) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if entry.file_name().to_string_lossy() == name {
                found.push(entry.path());
            } else if depth > 0 {
                found.extend(groups_named(&entry.path(), name, depth - 1));
            }
        }
    }
    found
}

/// Processes on this host whose files in `/proc` satisfy a condition: pid and folder.
pub(crate) fn processes(condition: impl Fn(&Path) -> bool) -> Vec<u32> {
    fs::read_dir("/proc")
        .expect("processes")
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
        .filter(|(_, folder)| condition(folder))
        .map(|(pid, _)| pid)
        .collect()
}

/// The guest program, built by `make guest`.
pub(crate) fn guest() -> Option<PathBuf> {
    let named = std::env::var_os("OUBLIETTE_GUEST").map(PathBuf::from).filter(|path| path.exists());
    named.or_else(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guest");
        let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        // The younger of the two: what was built last is what is meant.
        ["guest", "debug"]
            .iter()
            .map(|profile| root.join(&triple).join(profile).join("oubliette-guest"))
            .filter_map(|path| Some((fs::metadata(&path).ok()?.modified().ok()?, path)))
            .max()
            .map(|(_, path)| path)
    })
}
