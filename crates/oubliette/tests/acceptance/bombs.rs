//! Bombs, through the whole program: contained, seen as events with the limit's name, counted; the session goes on, or
//! fails with what to raise. And the backend that isolates nothing, marked wherever it is listed.

use ob_testkit::Answer;
use ob_testkit::ModelServer;
use serde_json::Value;
use serde_json::json;

use crate::harness::Home;
use crate::harness::can_sandbox;
use crate::harness::until;
use crate::isolation::Inside;

fn home_with_limits(model: &ModelServer, limits: &[(&str, &str)]) -> Home {
    let mut home = Home::new(model);
    for (name, value) in limits {
        home.set(&format!("OUBLIETTE_SANDBOX__{name}"), value);
    }
    home.start();
    home
}

/// The session's report of this limit.
fn report(home: &Home, session: &str, limit: &str) -> Option<Value> {
    let events = home.events(session);
    let found = events.iter().find(|event| event["data"]["limit"]["resource"] == limit);
    found.map(|event| event["data"].clone())
}

fn counted(home: &Home, limit: &str) -> u64 {
    let page = home.get("/metrics");
    let sample = format!("oubliette_sandbox_limits_reached_total{{limit=\"{limit}\"}} ");
    let line = page.lines().find_map(|line| line.strip_prefix(&sample)).unwrap_or_else(|| panic!("{page}"));
    line.trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bombs_that_the_kernel_holds_are_reported_and_the_session_goes_on() {
    if !can_sandbox() {
        return;
    }
    let model = ModelServer::start().await.unwrap();
    tokio::task::spawn_blocking(move || {
        let limits = [("MEMORY", "128M"), ("PIDS", "64"), ("OPEN_FILES", "256")];
        let home = home_with_limits(&model, &limits);
        let source = home.repository("thing", &[("a.txt", "one\n")]);
        let inside = Inside::new(&home, &model, &source);

        // Processes, and in passing threads: the kernel counts both alike. In a session of its own, since a bomb that
        // escapes its command leaves no process to others there; nobody waits for that command.
        let forks = Inside::new(&home, &model, &source);
        model.push(Answer::tool("run", json!({ "command": "f() { f | f & }; f; while :; do :; done" })));
        home.ok(["session", "message", &forks.session, "Go."]);
        until("the fork bomb to be reported", || report(&home, &forks.session, "pids").is_some());
        let seen = report(&home, &forks.session, "pids").unwrap();
        assert_eq!((&seen["limit"]["bound"], &seen["limit"]["consequence"]), (&json!(64), &json!("refused")));
        assert!(seen["fix"].as_str().unwrap().contains("sandbox.pids"), "{seen}");
        home.ok(["session", "end", &forks.session]);
        until("the fork bomb to be over", || home.state(&forks.session) == "ended");

        let said = inside.sh("head -c 1G /dev/zero | tail | wc -c");
        assert!(!said.contains("1073741824"), "{said}");
        until("the memory bomb to be reported", || report(&home, &inside.session, "memory").is_some());

        let said = inside.sh(
            "bash -c 'for n in $(seq 10 400); do eval \"exec $n</dev/null\" || exit 7; done'; echo code-$?",
        );
        assert!(said.contains("code-7"), "{said}");
        let said = inside.sh("/bin/echo $(head -c 5000000 /dev/zero | tr '\\0' x) | wc -c");
        assert!(said.contains("too long"), "{said}");
        let said = inside.sh("head -c 30000000 /dev/zero | tr '\\0' x");
        assert!(said.len() < 400_000, "one line of 30 MB becomes {} bytes", said.len());
        inside.sh("timeout 2 yes; true");

        assert!(inside.sh("echo still-$((40 + 2))").contains("still-42"), "the session goes on");
        let starts = home.events(&inside.session);
        let starts = starts.iter().filter(|event| event["text"] == "sandbox started").count();
        assert_eq!(starts, 1, "in the same sandbox");
        assert_eq!(
            home.json(&["session", "get", &inside.session])["enforcement"]["memory"].as_str(),
            means()
        );
        assert!(counted(&home, "pids") >= 1 && counted(&home, "memory") >= 1);
        assert_eq!(counted(&home, "disk"), 0, "the control: what was not reached is not counted");
    })
    .await
    .unwrap();
}

/// How this machine holds memory.
fn means() -> Option<&'static str> {
    let is_v2 = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").is_ok();
    Some(if is_v2 { "cgroup_v2" } else { "cgroup_v1" })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_bomb_and_an_inode_bomb_end_their_session_by_name_and_no_other() {
    if !can_sandbox() {
        return;
    }
    let model = ModelServer::start().await.unwrap();
    tokio::task::spawn_blocking(move || {
        let home = home_with_limits(&model, &[("DISK", "64M"), ("INODES", "2000")]);
        let source = home.repository("thing", &[("a.txt", "one\n")]);
        let neighbour = Inside::new(&home, &model, &source);
        for (limit, key, bomb) in [
            ("disk", "sandbox.disk", "i=0; while :; do head -c 4m /dev/zero > f$i; i=$((i+1)); done"),
            ("inodes", "sandbox.inodes", "i=0; while :; do mkdir d$i; i=$((i+1)); done"),
        ] {
            let inside = Inside::new(&home, &model, &source);
            model.push(Answer::tool("run", json!({ "command": bomb })));
            home.ok(["session", "message", &inside.session, "Go."]);
            until("the session to fail", || home.state(&inside.session) == "failed");
            let view = home.json(&["session", "get", &inside.session]);
            let reason = view["reason"].as_str().unwrap();
            assert!(reason.contains(&format!("limit `{limit}` reached")) && reason.contains(key), "{reason}");
            let seen = report(&home, &inside.session, limit).unwrap();
            assert_eq!(
                (&seen["code"], &seen["limit"]["consequence"]),
                (&json!("limit_exceeded"), &json!("ended"))
            );
            assert_eq!(counted(&home, limit), 1);
        }
        assert!(neighbour.sh("echo still-$((40 + 2))").contains("still-42"), "the neighbour goes on");
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_loop_and_an_output_flood_are_slowed_and_reported() {
    if !can_sandbox() {
        return;
    }
    let model = ModelServer::start().await.unwrap();
    tokio::task::spawn_blocking(move || {
        let home = home_with_limits(&model, &[("CPUS", "0.05"), ("OUTPUT_RATE", "16K")]);
        let source = home.repository("thing", &[("a.txt", "one\n")]);
        let inside = Inside::new(&home, &model, &source);
        model.push(Answer::tool("run", json!({ "command": "while :; do :; done", "timeout_s": 15 })));
        // Each word is an update of about 190 bytes: twelve seconds at this rate.
        model.push(Answer::text("word ".repeat(1_000)));
        home.ok(["session", "message", &inside.session, "Go."]);
        until("the busy loop to be reported", || report(&home, &inside.session, "cpu").is_some());
        until("the flood to be reported", || report(&home, &inside.session, "output_rate").is_some());
        let seen = report(&home, &inside.session, "output_rate").unwrap();
        assert_eq!(
            (&seen["limit"]["bound"], &seen["limit"]["consequence"]),
            (&json!(16384), &json!("slowed"))
        );
        until("the turn to end", || home.state(&inside.session) == "idle");
    })
    .await
    .unwrap();
}

/// Before, a sandbox that was found again was always said to have no limits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sandbox_that_is_found_again_is_said_to_be_limited_as_it_was() {
    if !can_sandbox() {
        return;
    }
    let model = ModelServer::start().await.unwrap();
    tokio::task::spawn_blocking(move || {
        let home = home_with_limits(&model, &[]);
        let source = home.repository("thing", &[("a.txt", "one\n")]);
        let inside = Inside::new(&home, &model, &source);
        let of = |text: &str| {
            let events = home.events(&inside.session);
            events
                .iter()
                .find(|event| event["text"] == text)
                .map(|event| event["data"]["enforcement"].clone())
        };
        let first = of("sandbox started").unwrap();
        assert!(first["memory"].is_string() && first["disk"] == "watch", "{first}");
        home.kill();
        home.start();
        until("the sandbox to be found", || of("sandbox found again").is_some());
        assert_eq!(of("sandbox found again"), Some(first));
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_walls_the_work_is_the_same_and_every_listing_says_so() {
    if !can_sandbox() {
        return;
    }
    let model = ModelServer::start().await.unwrap();
    tokio::task::spawn_blocking(move || {
        let mut home = Home::new(&model);
        home.set("OUBLIETTE_SANDBOX__BACKEND", "process");
        home.start();
        let source = home.repository("thing", &[("a.txt", "one\n")]);
        let inside = Inside::new(&home, &model, &source);
        let said = inside.sh("pwd; echo two > a.txt; cat /proc/1/comm; env | grep -c ACCEPTANCE");
        assert!(said.contains("two") || inside.workspace().join("a.txt").exists());
        assert_eq!(std::fs::read_to_string(inside.workspace().join("a.txt")).unwrap(), "two\n");
        let patch = home.ok(["session", "diff", &inside.session]);
        assert!(patch.contains("-one") && patch.contains("+two"), "{patch}");

        let view = home.json(&["session", "get", &inside.session]);
        assert_eq!((&view["backend"], &view["isolated"]), (&json!("process"), &json!(false)));
        assert_eq!(home.json(&["session", "list"])[0]["isolated"], json!(false));
        assert!(home.ok(["session", "get", &inside.session]).contains("UNSAFE"));
        assert!(home.ok(["status"]).contains("UNSAFE"));
        assert_eq!(home.json(&["status"])["isolated"], json!(false));
        let started = home.events(&inside.session);
        assert!(started.iter().any(|event| event["data"]["isolated"] == json!(false)), "{started:?}");
        let log = std::fs::read_to_string(home.root().join("data/logs/oubliette.log")).unwrap();
        assert!(log.contains("UNSAFE"), "{log}");
        assert!(home.get("/health").contains("UNSAFE"));
    })
    .await
    .unwrap();
}
