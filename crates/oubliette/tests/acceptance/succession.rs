//! One server after another on live sandboxes: an upgrade, a predecessor that will not go, and links that break meanwhile.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use ob_testkit::Answer;
use ob_testkit::ModelServer;
use rustix::net::Shutdown;
use rustix::net::SocketAddrUnix;
use rustix::process::Pid;
use rustix::process::PidfdFlags;
use rustix::process::PidfdGetfdFlags;
use rustix::process::Signal;
use serde_json::Value;
use serde_json::json;

use crate::harness::Home;
use crate::harness::can_sandbox;
use crate::harness::is_alive;
use crate::harness::until;

/// How often links are cut.
const CUTS: u64 = 60;
/// The choice of moments; another one is as good.
const SEED: u64 = 20_262;
/// What an agent says with each look: numbers of which none may be missing.
const LINES: u32 = 700;

/// Everything that agents wrote arrives once and whole, although their links break again and again in the middle.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_that_are_cut_under_load_lose_nothing_and_double_nothing() {
    if !can_sandbox() {
        return;
    }
    let model = ModelServer::start().await.unwrap();
    // New each time: an agent that gets the same answer again and again gives up.
    let look = format!("echo look >> looks; cat /proc/uptime; seq 1 {LINES}");
    model.otherwise(Answer::tool("run", json!({ "command": look })));
    tokio::task::spawn_blocking(move || {
        let home = Home::new(&model);
        home.start();
        let source = home.repository("thing", &[("a.txt", "one\n")]);
        let sessions: Vec<String> = (0..2).map(|n| home.spawn(&source, &format!("Look, {n}"))).collect();
        let server = home.pid();
        let reached = |session: &String| {
            let view = home.json(&["session", "get", session]);
            // The agent stops by itself after some hundred looks, or if its model was cut off too often.
            if view["state"] == "idle" {
                home.ok(["session", "message", session, "Look again."]);
            }
            view["last_index"].as_u64().unwrap()
        };
        let mut dice = SEED;
        let mut cuts = 0;
        while cuts < CUTS {
            // Each of them has got on since its link was cut.
            let before: Vec<u64> = sessions.iter().map(reached).collect();
            until("every session to go on", || {
                sessions.iter().zip(&before).all(|(session, before)| reached(session) > *before + 4)
            });
            for _ in 0..4 {
                for session in &sessions {
                    dice =
                        dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    std::thread::park_timeout(std::time::Duration::from_micros(dice >> 50));
                    cuts += cut(server, session);
                }
            }
        }
        for session in &sessions {
            let view = home.json(&["session", "get", session]);
            home.run(["session", "interrupt", session]);
            until("the session to rest", || home.state(session) == "idle");
            check(&home.events(session));
            let log = home.events(session);
            let started = log.iter().filter(|event| event["text"] == "sandbox started").count();
            assert_eq!(started, 1, "{session}: its sandbox went on");
            let looks = std::fs::read_to_string(workspace(&home, &view).join("looks")).unwrap();
            let calls = log.iter().filter(|event| event["type"] == "tool_call").count();
            // The last one may have been stopped before it began.
            assert!(
                (calls - 1..=calls).contains(&looks.lines().count()),
                "{calls} calls, {} looks",
                looks.len()
            );
        }
    })
    .await
    .unwrap();
}

/// The program is replaced while agents work: their sandboxes, and the processes in them, go on under the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_under_live_sessions_ends_no_process_and_loses_no_event() {
    if !can_sandbox() {
        return;
    }
    let model = ModelServer::start().await.unwrap();
    let work = "echo began > mark; while [ ! -e go ]; do sleep 0.05; done; echo went >> mark; seq 1 1000";
    model.push(Answer::tool("run", json!({ "command": work })));
    model.otherwise(Answer::text("Done."));
    tokio::task::spawn_blocking(move || {
        let mut home = Home::new(&model);
        let (first, second) = (copy_of_program(&home, "first"), copy_of_program(&home, "second"));
        home.use_program(first.clone());
        home.start();
        let source = home.repository("thing", &[("a.txt", "one\n")]);
        let session = home.spawn(&source, "Work.");
        let view = home.json(&["session", "get", &session]);
        let workspace = workspace(&home, &view);
        until("the work to begin", || workspace.join("mark").exists());
        let seen = home.ok(["session", "events", &session, "--json"]);

        let before = home.pid();
        home.ok(["stop", "--keep-sandboxes"]);
        until("the first to be gone", || !is_alive(before));
        // An upgrade in place: the old file is no more.
        std::fs::remove_file(&first).unwrap();
        home.use_program(second.clone());
        home.start();
        let running = std::fs::read_link(format!("/proc/{}/exe", home.pid())).unwrap();
        assert_eq!(running, second, "the other program serves");
        until("the sandbox to be found", || {
            home.events(&session).iter().any(|event| event["text"] == "sandbox found again")
        });
        std::fs::write(workspace.join("go"), "").unwrap();
        until("the session to rest", || home.state(&session) == "idle");
        assert_eq!(std::fs::read_to_string(workspace.join("mark")).unwrap(), "began\nwent\n", "one process");
        let log = home.ok(["session", "events", &session, "--json"]);
        assert!(log.starts_with(&seen), "what was seen is as it was");
        let log = home.events(&session);
        check_of(&log, 1_000);
        assert_eq!(log.iter().filter(|event| event["text"] == "sandbox started").count(), 1);
        home.ok(["session", "end", &session]);
        until("the session to end", || home.state(&session) == "ended");
    })
    .await
    .unwrap();
}

/// A server that is stopped in its tracks keeps its lock. If somebody takes that away, it has a successor and does not
/// know: when it goes on, it finds out, leaves everything as it is, and goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_slept_through_its_succession_goes_and_ends_nobodys_sandbox() {
    if !can_sandbox() {
        return;
    }
    let model = ModelServer::start().await.unwrap();
    model.otherwise(Answer::text("Here."));
    tokio::task::spawn_blocking(move || {
        let home = Home::new(&model);
        home.start();
        let source = home.repository("thing", &[("a.txt", "one\n")]);
        let sessions: Vec<String> = (0..2).map(|n| home.spawn(&source, &format!("Be there, {n}"))).collect();
        for session in &sessions {
            until("the session to rest", || home.state(session) == "idle");
        }
        let late = Stopped::new(home.pid());
        assert_eq!(
            home.json(&["--daemon"])["pid"],
            late.0,
            "the control: while its lock holds there is no other"
        );
        std::fs::remove_file(home.root().join("data/server.lock")).unwrap();
        home.start();
        assert_ne!(home.pid(), late.0, "there is a successor");
        for session in &sessions {
            home.ok(["session", "message", session, "Are you there?"]);
            until("the session to answer its successor", || {
                home.json(&["session", "get", session])["turns"] == 2 && home.state(session) == "idle"
            });
        }
        let sandboxes = |session: &String| {
            let text = home.ok(["session", "events", session, "--json"]);
            text.lines().filter(|line| line.contains("sandbox started")).count()
        };
        let before: Vec<usize> = sessions.iter().map(sandboxes).collect();

        late.go_on();
        until("the late one to be gone", || !is_alive(late.0));
        for (session, before) in sessions.iter().zip(&before) {
            home.ok(["session", "message", session, "And now?"]);
            until("the session to answer again", || {
                home.json(&["session", "get", session])["turns"] == 3 && home.state(session) == "idle"
            });
            assert_eq!(sandboxes(session), *before, "{session}: its sandbox goes on");
            let log = home.events(session);
            assert!(log.iter().enumerate().all(|(number, event)| event["index"] == number), "no gap");
        }
    })
    .await
    .unwrap();
}

/// A process that is stopped; it is let go in any case.
struct Stopped(u32);

// === impl Stopped ===

impl Stopped {
    fn new(pid: u32) -> Self {
        rustix::process::kill_process(raw(pid), Signal::STOP).unwrap();
        until("it to stop", || {
            std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") T "))
        });
        Self(pid)
    }

    fn go_on(&self) {
        rustix::process::kill_process(raw(self.0), Signal::CONT).ok();
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.go_on();
        if is_alive(self.0) {
            rustix::process::kill_process(raw(self.0), Signal::KILL).ok();
        }
    }
}

fn raw(pid: u32) -> Pid {
    Pid::from_raw(pid.cast_signed()).unwrap()
}

/// The program at another path.
fn copy_of_program(home: &Home, name: &str) -> PathBuf {
    let folder = home.user(name);
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("oubliette");
    std::fs::copy(env!("CARGO_BIN_EXE_oubliette"), &path).unwrap();
    path
}

fn workspace(home: &Home, view: &Value) -> PathBuf {
    let id = |field: &str| view[field].as_str().unwrap().to_owned();
    home.root().join("data/projects").join(id("project_id")).join("workspaces").join(id("workspace_id"))
}

/// Cuts every connection that a session's gate has, from the server's side, as a network would: how many there were.
fn cut(server: u32, session: &str) -> u64 {
    let suffix = session.rsplit('_').next().unwrap();
    let process = rustix::process::pidfd_open(raw(server), PidfdFlags::empty()).unwrap();
    let entries = std::fs::read_dir(format!("/proc/{server}/fd")).unwrap().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut count = 0;
    for number in numbers {
        // One that was closed meanwhile is cut already.
        let socket = rustix::process::pidfd_getfd(process.as_fd(), number, PidfdGetfdFlags::empty());
        if let Ok(socket) = socket
            && is_connection_of(suffix, &socket)
            && rustix::net::shutdown(&socket, Shutdown::Both).is_ok()
        {
            count += 1;
        }
    }
    count
}

/// True for a connection that a session's gate accepted.
fn is_connection_of(suffix: &str, socket: &OwnedFd) -> bool {
    let address = rustix::net::getsockname(socket).ok().and_then(|any| SocketAddrUnix::try_from(any).ok());
    let path = address.and_then(|address| Some(address.path()?.to_string_lossy().into_owned()));
    path.is_some_and(|path| path.contains(suffix) && path.ends_with("gate.sock"))
        && !rustix::net::sockopt::socket_acceptconn(socket).unwrap_or(true)
}

fn check(log: &[Value]) {
    check_of(log, LINES);
}

/// Numbered without a gap; each call there once; what it said is there once, whole.
fn check_of(log: &[Value], lines: u32) {
    let said: Vec<String> = (1..=lines).map(|n| n.to_string()).collect();
    let said = json!(said.join("\n")).to_string();
    let said = said.trim_matches('"');
    let mut calls = BTreeMap::new();
    let mut whole = 0;
    for (number, event) in log.iter().enumerate() {
        assert_eq!(event["index"], number, "a gap");
        let id = event["tool_call_id"].as_str().unwrap_or_default().to_owned();
        match event["type"].as_str() {
            Some("tool_call") => assert!(calls.insert(id.clone(), 0).is_none(), "call {id} twice"),
            Some("tool_result") if event["data"]["status"] == "completed" => {
                let results = calls.get_mut(&id).expect("a call before its result");
                *results += 1;
                assert_eq!(*results, 1, "the result of {id} twice");
                assert!(event.to_string().contains(said), "{id}: not whole: {event}");
                whole += 1;
            }
            _ => {}
        }
    }
    assert!(whole > 0, "the control: something was said");
}
