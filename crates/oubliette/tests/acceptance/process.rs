//! The life of the server's process: its signals, its service manager, its log, its names.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Mutex;

use ob_testkit::Answer;
use ob_testkit::ModelServer;
use serde_json::Value;

use crate::harness::Home;
use crate::harness::KEY;
use crate::harness::PATIENCE;
use crate::harness::can_sandbox;
use crate::harness::is_alive;
use crate::harness::shown;
use crate::harness::until;

/// A server in the foreground; killed if a test leaves it.
struct Foreground(Child);

/// What a service manager hears.
struct Supervisor {
    heard: Arc<Mutex<Vec<String>>>,
    path: PathBuf,
}

/// A process that is stopped until this is dropped.
pub(crate) struct Stopped(u32);

// === impl Stopped ===

impl Stopped {
    pub(crate) fn new(pid: u32) -> Self {
        send(pid, "STOP");
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        drop(Command::new("kill").args(["-CONT", &self.0.to_string()]).status());
    }
}

// === impl Foreground ===

impl Foreground {
    fn start(home: &Home, args: &[&str], env: &[(&str, &str)]) -> Self {
        let mut command = home.command(args);
        command.envs(env.iter().copied()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }

    fn signal(&self, name: &str) {
        send(self.0.id(), name);
    }

    /// Its exit code, which comes by itself.
    fn ended(&mut self) -> Option<i32> {
        let mut status = None;
        until("the server to end", || {
            status = self.0.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().code()
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

// === impl Supervisor ===

impl Supervisor {
    fn listen(home: &Home) -> Self {
        let path = home.user("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&heard);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(size) = socket.recv(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..size]);
                sink.lock().unwrap().extend(text.lines().map(str::to_owned));
            }
        });
        Self { heard, path }
    }

    fn count(&self, line: &str) -> usize {
        self.heard.lock().unwrap().iter().filter(|heard| heard.starts_with(line)).count()
    }

    fn position(&self, line: &str) -> usize {
        self.heard.lock().unwrap().iter().position(|heard| heard.starts_with(line)).unwrap()
    }
}

fn send(pid: u32, signal: &str) {
    let status = Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).status().unwrap();
    assert!(status.success(), "{signal}");
}

fn log_file(home: &Home) -> PathBuf {
    home.root().join("data/logs/oubliette.log")
}

fn log(home: &Home) -> String {
    fs::read_to_string(log_file(home)).unwrap_or_default()
}

fn argv0(pid: u32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    String::from_utf8_lossy(line.split(|byte| *byte == 0).next().unwrap()).into_owned()
}

#[test]
fn signals_do_what_they_say_and_only_a_stop_ends_the_server() {
    let home = Home::without_model();
    home.start();
    let pid = home.pid();
    send(pid, "HUP");
    until("the reload", || log(&home).contains("configuration reloaded"));
    send(pid, "USR2");
    until("the status", || log(&home).lines().any(|line| line.contains(": status ready=")));

    let rotated = home.user("rotated.log");
    fs::rename(log_file(&home), &rotated).unwrap();
    send(pid, "USR1");
    until("the new log", || log(&home).contains("log reopened"));
    assert_eq!(fs::metadata(log_file(&home)).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(fs::read_to_string(&rotated).unwrap().contains("server started"), "the old one is whole");

    // As `copytruncate` does: what comes then stands at the start, and not behind a hole.
    fs::File::options().write(true).open(log_file(&home)).unwrap().set_len(0).unwrap();
    assert_eq!(home.json(&["status"])["pid"], pid, "none of these ended it");
    assert_eq!(argv0(pid), "oubliette-server");

    send(pid, "TERM");
    until("the end", || !is_alive(pid));
    let log = log(&home);
    assert!(log.lines().last().unwrap().ends_with("shutdown complete"), "{log}");
    assert!(!log.contains('\0'), "{log:?}");
    assert!(!home.root().join("data/oubliette.pid").exists());
    let status = home.run(["status", "--json"]);
    assert_eq!(status.status.code(), Some(4), "{}", shown(&status));
}

#[test]
fn a_service_manager_is_told_of_each_step_and_only_by_a_server_in_the_foreground() {
    let home = Home::without_model();
    let manager = Supervisor::listen(&home);
    let socket = manager.path.to_str().unwrap();
    // Often, so that the test need not wait long.
    let env = [("NOTIFY_SOCKET", socket), ("WATCHDOG_USEC", "200000")];
    let mut server = Foreground::start(&home, &["serve"], &env);
    until("the server to be ready", || manager.count("READY=1") == 1);
    until("its pulse", || manager.count("WATCHDOG=1") >= 2);
    assert!(manager.position("EXTEND_TIMEOUT_USEC=") < manager.position("READY=1"), "while it starts");
    assert_eq!(manager.count("STATUS=serving on 127.0.0.1:"), 1);
    assert_eq!(argv0(server.0.id()), "oubliette-server");

    server.signal("HUP");
    // A change of the folder may have been one more.
    until("the reload to be over", || {
        let reloads = manager.count("RELOADING=1");
        reloads > 0 && manager.count("MONOTONIC_USEC=") == reloads && manager.count("READY=1") == 1 + reloads
    });
    assert_eq!(manager.count("STOPPING=1"), 0);
    server.signal("TERM");
    assert_eq!(server.ended(), Some(0));
    until("its last words", || manager.count("STOPPING=1") == 1);

    // One in the background does not speak for the unit that its starter is in.
    let before = manager.heard.lock().unwrap().len();
    let output = home.command(["--daemon"]).envs(env).output().unwrap();
    assert!(output.status.success(), "{}", shown(&output));
    home.ok(["stop"]);
    assert_eq!(manager.heard.lock().unwrap().len(), before);
}

#[test]
fn a_server_that_waits_for_its_home_can_be_told_to_stop() {
    let home = Home::without_model();
    home.start();
    // Told to go, but it cannot: whoever wants its place waits.
    let stopped = Stopped::new(home.pid());
    let mut next = Foreground::start(&home, &["serve", "--takeover"], &[]);
    let waiting = || {
        fs::read_link(format!("/proc/{}/exe", next.0.id())).is_ok()
            && argv0(next.0.id()) == "oubliette-server"
    };
    until("the next to run", waiting);
    let mask = || {
        let status = fs::read_to_string(format!("/proc/{}/status", next.0.id())).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap().trim().to_owned();
        u64::from_str_radix(&caught, 16).unwrap()
    };
    // HUP is signal 1, USR2 12, TERM 15; the first is bit 0.
    let all = 1 | 1 << 11 | 1 << 14;
    until("the next to listen to signals", || mask() & all == all);
    next.signal("HUP");
    next.signal("TERM");
    assert_eq!(next.ended(), Some(0));
    drop(stopped);
}

#[test]
fn a_server_in_the_background_keeps_nothing_that_its_starter_had_open() {
    let home = Home::without_model();
    let (lock, program) = (home.user("lock"), env!("CARGO_BIN_EXE_oubliette"));
    let script = format!("exec 9>{}; \"$0\" \"$@\" --daemon", lock.display());
    let daemon = home.command::<_, &str>([]);
    let mut shell = Command::new("sh");
    shell.args(["-c", &script, program]).args(daemon.get_args());
    shell.env_clear().envs(daemon.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = shell.output().unwrap();
    assert!(output.status.success() && lock.exists(), "{}", shown(&output));
    let held: Vec<PathBuf> = fs::read_dir(format!("/proc/{}/fd", home.pid()))
        .unwrap()
        .filter_map(|fd| fs::read_link(fd.unwrap().path()).ok())
        .collect();
    assert!(held.len() > 5 && !held.contains(&fs::canonicalize(&lock).unwrap()), "{held:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_of_json_names_requests_and_sessions_and_its_level_changes_part_by_part_while_it_runs() {
    if !can_sandbox() {
        return;
    }
    let model = ModelServer::start().await.unwrap();
    model.otherwise(Answer::text("Done."));
    tokio::task::spawn_blocking(move || {
        let mut home = Home::new(&model);
        home.set("OUBLIETTE_LOG__FORMAT", "json");
        let file = home.root().join("config/oubliette.jsonc");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        let levels = |levels: &str| {
            let draft = home.user("draft");
            fs::write(&draft, format!("{{ \"log\": {{ \"level\": \"{levels}\" }} }}")).unwrap();
            fs::rename(draft, &file).unwrap();
        };
        levels("info");
        home.start();
        let repository = home.repository("repo", &[("a.txt", "one\n")]);
        let session = home.spawn(&repository, "Say something.");
        until("the session to be done", || home.state(&session) == "idle");

        let lines = || -> Vec<Value> {
            log(&home)
                .lines()
                .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}")))
                .collect()
        };
        let of_target = |target: &str, level: &str| {
            lines().iter().filter(|line| line["target"] == target && line["level"] == level).count()
        };
        let in_session = lines()
            .iter()
            .filter(|line| {
                line["spans"].as_array().is_some_and(|spans| {
                    spans.iter().any(|span| span["name"] == "session" && span["id"] == session.as_str())
                })
            })
            .count();
        assert!(in_session > 0, "lines of a session's work bear its id");
        assert_eq!(of_target("oubliette", "DEBUG"), 0, "nothing was asked for yet");

        levels("warn,oubliette=debug");
        until("the level", || home.json(&["reload"])["changes"] == Value::Array(Vec::new()));
        let info = of_target("oubliette", "INFO");
        let request = "asked-by-a-test";
        let address = home.json(&["status"])["addresses"][0].as_str().unwrap().to_owned();
        let asked = Command::new("curl")
            .args([
                "-s",
                "-H",
                &format!("X-Request-ID: {request}"),
                &format!("http://{address}/api/v1/projects"),
            ])
            .output()
            .unwrap();
        assert!(String::from_utf8_lossy(&asked.stdout).contains(request), "{}", shown(&asked));
        until("a line of the request", || {
            lines().iter().any(|line| line["level"] == "DEBUG" && line.to_string().contains(request))
        });
        assert!(of_target("oubliette", "DEBUG") > 0 && of_target("oubliette", "INFO") >= info);
        let parts: Vec<_> =
            lines().iter().filter(|l| l["level"] == "DEBUG").map(|l| l["target"].clone()).collect();
        assert!(parts.iter().all(|target| target == "oubliette"), "{parts:?}");
        assert!(!log(&home).contains(KEY));
    })
    .await
    .unwrap();
}

#[test]
fn every_failure_ends_with_the_code_of_its_kind() {
    let home = Home::without_model();
    let code = |home: &Home, args: &[&str]| home.run(args).status.code();
    assert_eq!(code(&home, &["--version"]), Some(0));
    assert_eq!(code(&home, &["status"]), Some(4), "no server runs");
    assert_eq!(code(&home, &["--nope"]), Some(2));
    home.start();
    assert_eq!(code(&home, &["status"]), Some(0));
    assert_eq!(code(&home, &["project", "get", "00000000-0000-4000-8000-000000000000"]), Some(3));
    assert_eq!(code(&home, &["serve"]), Some(5), "another serves this home");
    let address = home.json(&["status"])["addresses"][0].as_str().unwrap().to_owned();
    let beside = home.user("beside");
    let taken = Command::new(env!("CARGO_BIN_EXE_oubliette"))
        .env_clear()
        .envs([("OUBLIETTE_SERVER__ADDRESS", address.as_str()), ("PATH", "/usr/bin:/bin")])
        .env("HOME", home.user("."))
        .args(["--daemon", "--dir"])
        .arg(&beside)
        .output()
        .unwrap();
    assert_eq!(taken.status.code(), Some(6), "{}", shown(&taken));
    fs::write(home.root().join("config/oubliette.jsonc"), "{ \"nope\": 1 }").unwrap();
    assert_eq!(code(&home, &["config", "check"]), Some(2));
    assert_eq!(code(&home, &["stop"]), Some(0), "mistakes hinder nobody from stopping");
    assert_eq!(code(&home, &["stop"]), Some(0), "twice is as good as once");
}
