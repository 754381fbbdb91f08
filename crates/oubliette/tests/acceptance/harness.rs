//! A home of its own for each test, and the program in it.

use std::io::BufRead as _;
use std::io::BufReader;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;

use ob_testkit::ModelServer;
use serde_json::Value;
use tempfile::TempDir;

/// Longer than anything takes on a busy machine; only a hang reaches it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
/// The key that the scripted provider is configured with.
pub(crate) const KEY: &str = "sk-acceptance-0123456789abcdefghij-canary";

/// A home with a configured model, and the server of it if one was started. Ends what it started.
pub(crate) struct Home {
    dir: TempDir,
    env: Vec<(String, String)>,
    program: PathBuf,
}

/// Events as a client saw them: the lines that `session events --follow --json` printed.
pub(crate) struct Follower {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

// === impl Home ===

impl Home {
    /// A home whose only model is this scripted one.
    pub(crate) fn new(model: &ModelServer) -> Self {
        Self::new_in(&std::env::temp_dir(), model)
    }

    /// The same below a folder.
    pub(crate) fn new_in(folder: &Path, model: &ModelServer) -> Self {
        let mut home = Self::without_model_in(folder);
        home.set("OPENAI_API_KEY", KEY);
        home.set("OPENAI_BASE_URL", &model.base_url());
        home.set("OPENAI_MODEL", "scripted-1");
        home
    }

    /// A home without any model.
    pub(crate) fn without_model() -> Self {
        Self::without_model_in(&std::env::temp_dir())
    }

    fn without_model_in(folder: &Path) -> Self {
        let mut home = Self {
            dir: tempfile::tempdir_in(folder).unwrap(),
            env: Vec::new(),
            program: env!("CARGO_BIN_EXE_oubliette").into(),
        };
        home.set("OUBLIETTE_SERVER__ADDRESS", "127.0.0.1:0");
        home.set("OUBLIETTE_MODELS__DEMONSTRATION", "false");
        home.set("OUBLIETTE_MODELS__DISCOVER_PORTS", "[]");
        home
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value.to_owned()));
    }

    /// From now on this file is the program.
    pub(crate) fn use_program(&mut self, program: PathBuf) {
        self.program = program;
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    /// A folder beside the home, for the user's own things.
    pub(crate) fn user(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A git repository with these files in one commit.
    pub(crate) fn repository(&self, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let path = self.user(name);
        std::fs::create_dir_all(&path).unwrap();
        for (file, text) in files {
            let file = path.join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        }
        for args in [
            &["init", "-q", "-b", "main"][..],
            &["add", "-A"],
            &["-c", "user.name=T", "-c", "user.email=t@localhost", "commit", "-q", "-m", "first"],
        ] {
            assert!(Command::new("git").current_dir(&path).args(args).status().unwrap().success());
        }
        path
    }

    /// The program in this home, with nothing of the test's environment but what it needs.
    pub(crate) fn command<I, S>(&self, args: I) -> Command
    where
        I: IntoIterator<Item = S>,
        S: AsRef<std::ffi::OsStr>,
    {
        let mut command = Command::new(&self.program);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", self.dir.path());
        for name in ["RUSTUP_HOME", "CARGO_HOME"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.envs(self.env.iter().cloned()).arg("--dir").arg(self.root()).args(args);
        command.current_dir(self.dir.path()).stdin(Stdio::null());
        command
    }

    /// Runs the program to its end.
    pub(crate) fn run<I, S>(&self, args: I) -> Output
    where
        I: IntoIterator<Item = S>,
        S: AsRef<std::ffi::OsStr>,
    {
        self.command(args).output().unwrap()
    }

    /// Runs it, expects success, and gives what it printed.
    pub(crate) fn ok<I, S>(&self, args: I) -> String
    where
        I: IntoIterator<Item = S>,
        S: AsRef<std::ffi::OsStr>,
    {
        let output = self.run(args);
        assert!(output.status.success(), "{}", shown(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs it with `--json`, expects success, and gives the value.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let text = self.ok(args.iter().copied().chain(["--json"]));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Starts the server in the background.
    pub(crate) fn start(&self) {
        self.ok(["--daemon"]);
    }

    pub(crate) fn pid(&self) -> u32 {
        let text = std::fs::read_to_string(self.root().join("data/oubliette.pid")).unwrap();
        text.trim().parse().unwrap()
    }

    /// Kills the server with -9, and waits until it is gone.
    pub(crate) fn kill(&self) {
        let pid = self.pid();
        let status = Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
        assert!(status.success());
        until("the killed server to be gone", || !is_alive(pid));
    }

    /// Spawns a session over the control socket without following it; its id.
    pub(crate) fn spawn(&self, project: &Path, task: &str) -> String {
        let answer = self.json(&["run", task, "--project", project.to_str().unwrap(), "--detach", "--keep"]);
        answer["session_id"].as_str().unwrap().to_owned()
    }

    /// The session's events, all of them.
    pub(crate) fn events(&self, session: &str) -> Vec<Value> {
        let text = self.ok(["session", "events", session, "--json"]);
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// What the server's own address answers to a GET without a token.
    pub(crate) fn get(&self, path: &str) -> String {
        use std::io::Read as _;
        use std::io::Write as _;
        let address = self.json(&["status"])["addresses"][0].as_str().unwrap().to_owned();
        let mut stream = std::net::TcpStream::connect(&address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    pub(crate) fn state(&self, session: &str) -> String {
        self.json(&["session", "get", session])["state"].as_str().unwrap().to_owned()
    }

    /// Follows a session from a cursor on.
    pub(crate) fn follow(&self, session: &str, cursor: i64) -> Follower {
        let cursor = cursor.to_string();
        let mut child = self
            .command(["session", "events", session, "--follow", "--json", "--cursor", &cursor])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let sink = Arc::clone(&lines);
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                sink.lock().unwrap().push(line);
            }
        });
        Follower { child, lines }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        drop(self.command(["stop"]).output());
    }
}

// === impl Follower ===

impl Follower {
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// Ends it; everything that it printed.
    pub(crate) fn stop(mut self) -> Vec<String> {
        self.child.kill().ok();
        self.child.wait().unwrap();
        self.lines()
    }
}

/// Waits for something to become true, looking often; fails with what it waited for.
pub(crate) fn until(what: &str, is_so: impl FnMut() -> bool) {
    until_in(PATIENCE, what, is_so);
}

/// The same with a patience of its own.
pub(crate) fn until_in(patience: Duration, what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited {patience:?} for {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

pub(crate) fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with(['Z', 'X']))
}

pub(crate) fn shown(output: &Output) -> String {
    format!(
        "{}\n--- stdout\n{}\n--- stderr\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// True if sandboxes can run here; else says why not. With `CI=true` they must.
pub(crate) fn can_sandbox() -> bool {
    let missing = if std::env::var_os("OUBLIETTE_GUEST").is_none() {
        Some("no guest is embedded: run `make test`")
    } else if Command::new("bwrap").arg("--version").output().is_err() {
        Some("bubblewrap is not installed")
    } else {
        None
    };
    if let Some(missing) = missing {
        assert!(std::env::var_os("CI").is_none(), "{missing}");
        eprintln!("skipped: {missing}");
    }
    missing.is_none()
}

/// True if we are root.
pub(crate) fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status").unwrap().contains("\nUid:\t0\t0\t")
}

/// Writes until nothing more fits.
pub(crate) fn fill(path: &std::path::Path) {
    use std::io::Write as _;
    let mut file = std::fs::File::create(path).unwrap();
    for size in [1 << 20, 1 << 12, 1] {
        let block = vec![0u8; size];
        while file.write_all(&block).is_ok() {}
    }
}

/// A file system that is there until it is dropped.
pub(crate) struct Mount(std::path::PathBuf);

impl Mount {
    pub(crate) fn tmpfs(at: &std::path::Path, size: &str) -> Self {
        let status = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size},mode=700"), "tmpfs"])
            .arg(at)
            .status()
            .unwrap();
        assert!(status.success());
        Self(at.to_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        std::process::Command::new("umount").arg("-l").arg(&self.0).status().ok();
    }
}
