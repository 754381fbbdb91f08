//! A provider's key is outside and nowhere else: not in events, logs, files, environments or memory of the sandbox.

use std::io::Read as _;
use std::io::Seek as _;
use std::path::Path;

use ob_testkit::Answer;
use ob_testkit::ModelServer;
use ob_testkit::model_server::Latch;
use ob_testkit::model_server::Step;
use serde_json::json;

use crate::harness::Home;
use crate::harness::KEY;
use crate::harness::can_sandbox;
use crate::harness::until;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_providers_key_is_found_nowhere_inside() {
    if !can_sandbox() {
        return;
    }
    let model = ModelServer::start().await.unwrap();
    let hold = Latch::new();
    // One that leaks the key back in an error, one that works, and one that stays open while we look.
    model.push(Answer::status(401, format!(r#"{{"error":{{"message":"bad key {KEY}"}}}}"#)));
    model.push(Answer::tool("run", json!({ "command": "env; cat /proc/*/environ; find / -xdev -type f -size -100k 2>/dev/null | head -2000 | xargs grep -l canary 2>/dev/null" })));
    model.push(Answer::stream(vec![Step::Wait(hold.clone())]));
    tokio::task::spawn_blocking(move || {
        let home = Home::new(&model);
        home.start();
        let source = home.repository("thing", &[("a.txt", "one\n")]);
        let session = home.spawn(&source, "Try.");
        until("the refused turn", || home.json(&["session", "get", &session])["last_stop"] == "error");
        home.ok(["session", "message", &session, "Look for the key."]);
        until("the last call", || model.requests().len() >= 3);

        let sent = &model.requests()[1];
        assert!(
            format!("{:?}", sent.headers).contains(KEY),
            "the positive control: the provider got the key"
        );

        assert!(!home.ok(["session", "events", &session, "--json"]).contains(KEY), "events");
        for name in ["data/logs", "data/projects", "data/oubliette.db", "data/oubliette.db-wal", "data/blobs"]
        {
            no_key_below(&home.root().join(name));
        }
        // The server's own memory holds it, which shows that the search finds it; no process of the sandbox's does.
        let server = home.pid();
        assert!(memory_holds_key(server), "the positive control");
        let inside = sandbox_processes(server);
        assert!(inside.len() >= 3, "launcher, bubblewrap, guest and agent");
        for pid in inside {
            assert!(!memory_holds_key(pid), "memory of {pid}");
            let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            assert!(!holds_key(&environ), "environment of {pid}");
        }
        hold.open();
    })
    .await
    .unwrap();
}

fn holds_key(bytes: &[u8]) -> bool {
    bytes.windows(KEY.len()).any(|window| window == KEY.as_bytes())
}

fn no_key_below(path: &Path) {
    if path.is_dir() {
        for entry in std::fs::read_dir(path).unwrap().flatten() {
            if !entry.file_type().unwrap().is_symlink() {
                no_key_below(&entry.path());
            }
        }
    } else if let Ok(bytes) = std::fs::read(path) {
        assert!(!holds_key(&bytes), "{}", path.display());
    }
}

/// Reads all writable private memory of a process.
fn memory_holds_key(pid: u32) -> bool {
    let Ok(maps) = std::fs::read_to_string(format!("/proc/{pid}/maps")) else { return false };
    let Ok(mut memory) = std::fs::File::open(format!("/proc/{pid}/mem")) else { return false };
    for line in maps.lines().filter(|line| line.contains(" rw-p ")) {
        let range = line.split(' ').next().unwrap_or_default();
        let Some((from, to)) = range.split_once('-') else { continue };
        let (Ok(from), Ok(to)) = (u64::from_str_radix(from, 16), u64::from_str_radix(to, 16)) else {
            continue;
        };
        let size = usize::try_from(to - from).unwrap().min(256 << 20);
        let mut bytes = vec![0; size];
        if memory.seek(std::io::SeekFrom::Start(from)).is_ok()
            && memory.read_exact(&mut bytes).is_ok()
            && holds_key(&bytes)
        {
            return true;
        }
    }
    false
}

fn sandbox_processes(server: u32) -> Vec<u32> {
    crate::isolation::descendants(server)
}
