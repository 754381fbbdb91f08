//! The image of `deploy/Dockerfile`, built by a real engine and run as the page of the installation says.
//!
//! The engine is Debian's, unpacked by `scripts/setup.sh` where `CI=true` and started here with folders of its own and no
//! network. The base of the image is made of this machine's files, so that nothing is fetched.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use tempfile::TempDir;

use crate::read;

/// Longer than the engine needs for anything here.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a session in the image needs of a base, beside libraries: what the page says, and a shell with the programs that
/// the demonstration uses.
const PROGRAMS: [&str; 16] = [
    "/usr/bin/bwrap",
    "/usr/bin/git",
    "/usr/lib/git-core/git-upload-pack",
    "/usr/bin/bash",
    "/usr/bin/cat",
    "/usr/bin/env",
    "/usr/bin/find",
    "/usr/bin/grep",
    "/usr/bin/head",
    "/usr/bin/ls",
    "/usr/bin/mkdir",
    "/usr/bin/sed",
    "/usr/bin/sort",
    "/usr/bin/tail",
    "/usr/bin/true",
    "/usr/bin/wc",
];

/// A repository with a fault, and a task for the demonstration.
const TASK: &str = r#"set -e
mkdir /srv/thing && cd /srv/thing && git init -q
echo 'echo $(( $1 - $2 ))' > sum.sh
echo '[ "$(sh sum.sh 2 3)" = 5 ]' > test.sh
git add . && git -c user.name=N -c user.email=n@localhost commit -q -m first
oubliette run 'The tests fail. Find the fault and mend it.' --project /srv/thing || echo "exit code $?"
oubliette session events last
"#;

/// A running engine.
struct Engine {
    folder: TempDir,
    programs: PathBuf,
    daemon: Child,
}

// === impl Engine ===

impl Engine {
    /// Starts the engine, if it is there; else says why not. With `CI=true` it must be.
    fn start() -> Option<Self> {
        let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/docker/usr");
        let why = if !programs.join("sbin/dockerd").exists() {
            Some("no container engine: `CI=true scripts/setup.sh` unpacks one")
        } else if !rustix::process::geteuid().is_root() {
            Some("a container engine needs root")
        } else {
            None
        };
        if let Some(why) = why {
            assert!(std::env::var_os("CI").is_none(), "{why}");
            eprintln!("skipped: {why}");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let mut daemon = Command::new(programs.join("sbin/dockerd"));
        daemon
            .env("PATH", path(&programs))
            .arg("--data-root")
            .arg(at("data"))
            .arg("--exec-root")
            .arg(at("exec"));
        daemon.arg("--pidfile").arg(at("pid")).arg("--host").arg(format!("unix://{}", at("s").display()));
        daemon.args(["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"]);
        daemon.args(["--storage-driver=vfs", "--log-level=error"]);
        let log = fs::File::create(at("log")).unwrap();
        let daemon =
            daemon.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let engine = Self { folder, programs, daemon };
        let why = || fs::read_to_string(engine.folder.path().join("log")).unwrap_or_default();
        until("the engine", &why, || engine.docker(&["version"]).status.success());
        Some(engine)
    }

    fn docker(&self, words: &[&str]) -> Output {
        let mut command = Command::new(self.programs.join("bin/docker"));
        command.env_clear().env("PATH", path(&self.programs)).env("HOME", self.folder.path());
        command.env("DOCKER_HOST", format!("unix://{}", self.folder.path().join("s").display()));
        command.env("DOCKER_BUILDKIT", "1").args(words).stdin(Stdio::null()).output().unwrap()
    }

    /// Expects success, and gives what was printed.
    fn ok(&self, words: &[&str]) -> String {
        let output = self.docker(words);
        let [out, err] =
            [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
        assert!(output.status.success(), "docker {words:?}: {}\n{out}{err}", output.status);
        out
    }

    /// Runs the image in the background with these options, and waits for its server.
    fn run(&self, name: &str, options: &[String]) {
        let mut words = vec!["run", "-d", "--network", "none", "--name", name];
        words.extend(options.iter().map(String::as_str));
        words.push("oubliette");
        self.ok(&words);
        let why = || String::from_utf8_lossy(&self.docker(&["logs", name]).stderr).into_owned();
        // What the image asks to know whether it is healthy.
        until("the server in the image", &why, || {
            self.docker(&["exec", name, "oubliette", "status"]).status.success()
        });
    }

    /// What `doctor` finds inside: the state of a check.
    fn state(&self, name: &str, check: &str) -> String {
        // Not everything has to be well.
        let output = self.docker(&["exec", name, "oubliette", "doctor", "--json"]);
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        let checks = found["checks"].as_array().unwrap();
        let state = checks.iter().find(|found| found["name"] == check).map(|found| &found["state"]);
        state.and_then(Value::as_str).unwrap_or_else(|| panic!("no check {check}: {found}")).to_owned()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // It ends its containers, and takes its mounts away.
        let pid = rustix::process::Pid::from_child(&self.daemon);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
        self.daemon.wait().ok();
    }
}

fn path(programs: &Path) -> String {
    format!("{0}/sbin:{0}/bin:/usr/sbin:/usr/bin:/sbin:/bin", programs.display())
}

fn until(what: &str, why: &dyn Fn() -> String, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "{what} is not there:\n{}", why());
        std::thread::yield_now();
    }
}

/// The root of a base: programs of this machine with their libraries, and the folders that every image has.
fn base(root: &Path) {
    let ours = PathBuf::from(env!("CARGO_BIN_EXE_oubliette"));
    let demonstration = ours.with_file_name("oubliette-demo-model");
    let mut files: BTreeSet<PathBuf> = BTreeSet::new();
    for program in PROGRAMS.map(PathBuf::from).iter().chain([&ours, &demonstration]) {
        let output = Command::new("ldd").arg(program).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        files.extend(text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from));
    }
    files.extend(PROGRAMS.map(PathBuf::from));
    files.extend(["/etc/passwd", "/etc/group", "/etc/ssl/certs/ca-certificates.crt"].map(PathBuf::from));
    let put = |from: &Path, to: &Path| {
        let to = root.join(to.strip_prefix("/").unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, &to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    };
    files.iter().for_each(|file| put(file, file));
    put(&demonstration, Path::new("/usr/local/bin/oubliette-demo-model"));
    put(Path::new("/usr/bin/bash"), Path::new("/bin/sh"));
    for (folder, mode) in [("tmp", 0o1777), ("run", 0o755), ("srv", 0o755), ("root", 0o700)] {
        fs::create_dir(root.join(folder)).unwrap();
        fs::set_permissions(root.join(folder), fs::Permissions::from_mode(mode)).unwrap();
    }
}

/// The options of `docker run` on the page of the installation, but for those of the engine's network and of its own init,
/// which the unpacked one has not.
fn documented() -> Vec<String> {
    let page = read("docs/install.md");
    let command =
        page.split_once("$ docker run -d ").unwrap().1.split_once("```").unwrap().0.replace("\\\n", " ");
    let mut words = command.split_whitespace().peekable();
    let mut options = Vec::new();
    while let Some(word) = words.next() {
        // What comes last is the name of the image.
        if words.peek().is_none() {
            break;
        }
        match word {
            "--init" => {}
            "--name" | "-p" => drop(words.next()),
            _ => options.push(word.to_owned()),
        }
    }
    options
}

#[test]
fn the_image_is_built_by_a_real_engine_and_runs_a_session_in_a_sandbox() {
    let Some(engine) = Engine::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (root, context) = (folder.path().join("root"), folder.path().join("context"));
    fs::create_dir(&root).unwrap();
    fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
    base(&root);
    let archive = folder.path().join("base.tar");
    let packed = Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(&root).arg(".").status().unwrap();
    assert!(packed.success());
    engine.ok(&["import", archive.to_str().unwrap(), "base:test"]);

    fs::create_dir(&context).unwrap();
    fs::write(context.join("Dockerfile"), read("deploy/Dockerfile")).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_oubliette"), context.join("oubliette")).unwrap();
    let context = context.to_str().unwrap();
    let build = ["build", "--network", "none", "--build-arg", "BASE=base:test", "-t", "oubliette", context];
    engine.ok(&build);
    let version = engine.ok(&["run", "--rm", "--network", "none", "oubliette", "--version"]);
    assert!(version.starts_with("oubliette "), "{version}");

    let options = documented();
    assert!(options.len() > 8, "{options:?}");
    engine.run("ours", &options);
    for check in ["bubblewrap", "git", "user_namespaces", "control_groups"] {
        assert_eq!(engine.state("ours", check), "ok", "{check}");
    }
    let said = engine.ok(&["exec", "ours", "sh", "-c", TASK]);
    assert!(said.contains("sandbox started"), "{said}");
    assert!(said.contains("+echo $(( $1 + $2 ))"), "{said}");
    engine.ok(&["stop", "ours"]);
    assert_eq!(engine.ok(&["inspect", "-f", "{{.State.ExitCode}}", "ours"]).trim(), "0");
    let log = String::from_utf8(engine.docker(&["logs", "ours"]).stderr).unwrap();
    assert!(log.trim_end().ends_with("shutdown complete"), "{log}");

    // The control: without what the page says there are no sandboxes, and `doctor` tells.
    engine.run("bare", &[]);
    assert_eq!(engine.state("bare", "user_namespaces"), "failed");
    engine.ok(&["rm", "-f", "-v", "ours", "bare"]);
}
