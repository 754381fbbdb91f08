//! Crashes and full disks, each in a child process: this program again, with one ignored test as its main function.

use std::collections::BTreeMap;
use std::fs;
use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;

use ob_core::SessionId;
use ob_core::event::INLINE_PAYLOAD_MAX;
use ob_store::SessionFilter;
use ob_store::SharedStore;
use ob_store::StoreError;
use ob_store::conformance;
use ob_store::conformance::append;
use ob_store::conformance::commit;
use ob_store::conformance::in_time;
use ob_store::conformance::log;
use ob_store::conformance::seed;

use crate::Folder;
use crate::open;

/// Times that the child is killed.
const ROUNDS: usize = 20;
/// Lanes in which the child appends at once.
const LANES: usize = 8;

/// Starts `command` with the folder on its standard input.
fn start(mut command: Command, folder: &Folder) -> Child {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the child starts");
    let mut input = child.stdin.take().expect("piped");
    writeln!(input, "{}", folder.path().display()).expect("the child reads");
    child
}

fn child_main(name: &str) -> [String; 4] {
    [format!("crash::{name}"), "--exact".into(), "--ignored".into(), "--nocapture".into()]
}

/// The folder that the parent names; none if a person runs all ignored tests.
fn folder_from_parent() -> Option<PathBuf> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).expect("standard input");
    (!line.trim().is_empty()).then(|| line.trim().into())
}

/// Says something to the parent, whole and at once.
fn say(line: &str) {
    let mut output = std::io::stdout().lock();
    writeln!(output, "\n{line}").and_then(|()| output.flush()).expect("the parent reads");
}

async fn the_session(store: &SharedStore) -> SessionId {
    let found =
        store.sessions(SessionFilter { limit: 1, ..SessionFilter::default() }).await.expect("sessions");
    match found.into_iter().next() {
        Some(session) => session.id,
        None => seed(store).await.id,
    }
}

#[test]
#[ignore = "the child of the test below"]
fn child_appends() {
    let Some(folder) = folder_from_parent() else { return };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
    runtime.block_on(async {
        let store = open(&folder).await;
        let session = the_session(&store).await;
        let mut lanes = tokio::task::JoinSet::new();
        for _ in 0..LANES {
            let (store, session) = (store.clone(), session.clone());
            lanes.spawn(async move {
                loop {
                    let text = format!("{:016x}", rand::random::<u64>());
                    let committed = commit(&store, vec![append(&session, &*text)]).await.expect("append");
                    say(&format!("ack {} {text}", committed.first_index[0]));
                }
            });
        }
        lanes.join_all().await;
    });
}

/// Invariant 2, `acknowledged_means_kept`.
#[test]
fn a_store_that_is_killed_loses_nothing_that_was_acknowledged() {
    let folder = Folder::new();
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let mut acknowledged: BTreeMap<usize, String> = BTreeMap::new();
    for _ in 0..ROUNDS {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(child_main("child_appends"));
        let mut child = start(command, &folder);
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let wanted = acknowledged.len() + rand::random_range(1..300);
        let note = |line: String, acknowledged: &mut BTreeMap<usize, String>| {
            if let Some((index, text)) = line.strip_prefix("ack ").and_then(|rest| rest.split_once(' ')) {
                let twice = acknowledged.insert(index.parse().expect("a number"), text.to_owned());
                assert_eq!(twice, None, "a number is given once");
            }
        };
        while acknowledged.len() < wanted {
            let line = lines.next().expect("the child goes on until it is killed").expect("a line");
            note(line, &mut acknowledged);
        }
        child.kill().expect("kill -9");
        for line in lines.map_while(Result::ok) {
            // The last line may be cut off.
            if line.len() >= "ack 0 0123456789abcdef".len() {
                note(line, &mut acknowledged);
            }
        }
        child.wait().expect("killed");

        runtime.block_on(in_time(async {
            let store = open(folder.path()).await;
            let session = the_session(&store).await;
            let log = log(&store, &session).await;
            for (index, text) in &acknowledged {
                assert_eq!(log[*index].body.text.as_ref(), Some(text), "event {index}");
            }
            // What was written and not acknowledged may be there: at most one append of each lane.
            assert!(log.len() <= acknowledged.len() + ROUNDS * LANES);
            store.close().await.expect("close");
        }));
    }
    assert!(acknowledged.len() >= ROUNDS);
}

#[test]
#[ignore = "the child of the test below"]
fn child_fills_the_disk() {
    let Some(folder) = folder_from_parent() else { return };
    let ballast = folder.join("ballast");
    fs::write(&ballast, vec![1; 8 * 1024 * 1024]).expect("there is room at first");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
    runtime.block_on(in_time(async {
        let store = open(&folder).await;
        let session = seed(&store).await.id;
        let mut bell = store.doorbell(&session).await.expect("doorbell");
        let text = |n: usize| format!("{n} {}", "x".repeat(30_000));
        let mut kept = 0;
        let fault = loop {
            match commit(&store, vec![append(&session, text(kept))]).await {
                Ok(_) => kept += 1,
                Err(fault) => break fault,
            }
            assert!(kept < 10_000, "the disk is small");
        };
        assert!(matches!(fault, StoreError::Full), "{fault:?}");
        let large = append(&session, "x".repeat(32 * INLINE_PAYLOAD_MAX));
        let fault = commit(&store, vec![large]).await.expect_err("no room for a blob");
        assert!(matches!(fault, StoreError::Full), "{fault:?}");
        assert_eq!(*bell.borrow_and_update(), kept as u64, "nothing is announced that was not done");
        assert_eq!(log(&store, &session).await.len(), kept, "reading goes on");

        fs::remove_file(&ballast).expect("make room");
        let after = commit(&store, vec![append(&session, text(kept))]).await.expect("it recovers by itself");
        assert_eq!(after.first_index, [kept as u64], "numbers go on without a gap");
        store.close().await.expect("close");
        let store = open(&folder).await;
        assert_eq!(log(&store, &session).await.len(), kept + 1);
        conformance::commit(&store, vec![append(&session, "on")]).await.expect("append");
        store.close().await.expect("close");
        say(&format!("filled after {kept}"));
    }));
}

#[test]
fn a_full_disk_refuses_loses_nothing_and_passes() {
    let folder = Folder::new();
    // A small disk of its own, in a mount namespace that ends with the child.
    let script = r#"mount -t tmpfs -o size=24m tmpfs "$0" && exec "$@""#;
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-c", script]);
    command.arg(folder.path()).arg(std::env::current_exe().expect("this program"));
    command.args(child_main("child_fills_the_disk"));
    let output = start(command, &folder).wait_with_output().expect("the child ends");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("filled after "), "{said}");
}
