//! How sandboxes start, outlive their server, and end.

use std::time::Duration;

use ob_core::RefusalCode;
use ob_core::launch::CONTROL_SOCKET;
use ob_core::link::ProcessSpec;
use tokio::net::UnixStream;

use super::Ground;
use super::ground::EPOCH;
use super::ground::LATER;
use super::until;
use crate::Limits;
use crate::SandboxError;
use crate::SandboxSpec;

/// Its commands begin in the workspace, and what they write there is the host's.
pub async fn a_command_runs_in_the_workspace_and_what_it_writes_is_on_the_host(ground: &Ground) {
    let live = ground.start(ground.spec("work")).await;
    let inside = ground.backend().inside(&live.spec).workspace;
    assert_eq!(live.said("pwd; echo written > made").await.trim(), inside);
    assert_eq!(std::fs::read_to_string(ground.path("work/made")).expect("on the host"), "written\n");
    live.end().await;
}

/// `$HOME` and `$TMPDIR` are writable, not those of the server, and not shared.
pub async fn home_and_temporary_folder_are_its_own(ground: &Ground) {
    let one = ground.start(ground.spec("one")).await;
    let mut spec = ground.spec("two");
    spec.home = None;
    let two = ground.start(spec).await;
    let write = "echo mark > $HOME/mark && echo mark > $TMPDIR/mark && echo $((1 + 1))-written";
    assert_eq!(one.said(write).await.trim(), "2-written");
    assert_eq!(std::fs::read_to_string(ground.path("home/mark")).expect("on the host"), "mark\n");
    assert_eq!(two.said("ls $HOME $TMPDIR/mark 2>/dev/null | grep -c mark").await.trim(), "0");
    assert_eq!(two.said(write).await.trim(), "2-written", "the control: it has both");
    one.end().await;
    two.end().await;
}

/// Variables of the server do not come in.
pub async fn nothing_of_the_servers_environment_is_inside(ground: &Ground) {
    let mut spec = ground.spec("environment");
    spec.env = vec![("MARK".into(), "given".into())];
    let live = ground.start(spec).await;
    let said = live.said("env").await;
    assert!(said.contains("MARK=given"), "{said}");
    // Cargo sets these for the test, which plays the server.
    // tidy: environment: the test plays the server, whose environment must not come in.
    assert!(std::env::vars().any(|(name, _)| name.starts_with("CARGO")), "the control");
    assert!(!said.contains("CARGO"), "{said}");
    live.end().await;
}

/// Also processes that left their session and their parents are gone.
pub async fn an_end_leaves_no_process_group_or_folder(ground: &Ground) {
    let limits = Limits { memory: Some(256 << 20), pids: Some(64), best_effort: true, ..Limits::NONE };
    let Some(live) = ground.limited("gone", limits).await else { return };
    let mark = format!("4{}", std::process::id());
    let spec = ProcessSpec {
        argv: ["sh", "-c", &format!("setsid sleep {mark} & sleep {mark} & sleep {mark}")]
            .map(String::from)
            .to_vec(),
        cwd: None,
        env: Default::default(),
        stdin: false,
    };
    live.guest.spawn("sleepers", &spec).await.expect("it starts");
    until("they sleep", || with_argument(&mark) == 3).await;
    let groups = std::fs::read(live.spec.runtime.join("groups.json")).expect("the launcher's list");
    let groups: Vec<std::path::PathBuf> = serde_json::from_slice(&groups).expect("a list");
    assert!(groups.iter().all(|group| group.is_dir()), "the control: they are there");
    let runtime = live.spec.runtime.clone();
    live.end().await;
    assert_eq!(with_argument(&mark), 0);
    assert!(!groups.iter().any(|group| group.exists()));
    assert!(!runtime.exists());
    ground.backend().end("gone", &runtime, EPOCH).await.expect("a second end changes nothing");
}

/// A sandbox outlives its server; how its limits are held is known to the next one.
pub async fn a_later_server_adopts_it_and_knows_how_its_limits_are_held(ground: &Ground) {
    let limits =
        Limits { pids: Some(64), wall: Some(Duration::from_secs(600)), best_effort: true, ..Limits::NONE };
    let Some(live) = ground.limited("adopted", limits).await else { return };
    let later = ground.later_backend();
    let runtime = live.spec.runtime.clone();
    assert_eq!(later.adopt("adopted", &runtime, LATER).await.expect("answers"), None, "it runs");
    assert_eq!(later.enforcement(&runtime).await, Some(live.started.enforcement.clone()));
    assert!(!live.started.enforcement.0.is_empty(), "the control: there is something to know");
    later.end("adopted", &runtime, LATER).await.expect("ends");
    assert!(later.adopt("adopted", &runtime, LATER).await.expect("answers").is_some(), "it has ended");
    assert_eq!(later.enforcement(&runtime).await, None);
}

/// A server that was stopped for long and goes on does not know that it has a successor. It does not end the successor's
/// sandbox, and where that has gone it does not take away the folder.
pub async fn a_late_owner_ends_nothing_that_a_later_server_has(ground: &Ground) {
    let live = ground.start(ground.spec("fenced")).await;
    let (late, later) = (ground.backend(), ground.later_backend());
    let runtime = live.spec.runtime.clone();
    let is_fenced = |what: Result<(), SandboxError>| matches!(what, Err(SandboxError::Owned { .. }));
    assert_eq!(later.adopt("fenced", &runtime, LATER).await.expect("answers"), None, "it runs");
    assert!(is_fenced(late.end("fenced", &runtime, EPOCH).await));
    assert!(is_fenced(late.adopt("fenced", &runtime, EPOCH).await.map(drop)));
    assert_eq!(live.said("echo on").await, "on\n", "it goes on");
    later.end("fenced", &runtime, LATER).await.expect("ends");

    // In its place its successor has another one, and loses it.
    let second = ground.start(SandboxSpec { epoch: LATER, ..live.spec.clone() }).await;
    assert!(is_fenced(late.end("fenced", &runtime, EPOCH).await));
    assert_eq!(second.said("echo on").await, "on\n", "it goes on");
    let control = UnixStream::connect(runtime.join(CONTROL_SOCKET)).await.expect("its launcher listens");
    let launcher = control.peer_cred().expect("a peer").pid().and_then(rustix::process::Pid::from_raw);
    rustix::process::kill_process(launcher.expect("a pid"), rustix::process::Signal::KILL).expect("ours");
    second.ended().await;
    assert!(is_fenced(late.end("fenced", &runtime, EPOCH).await));
    assert!(is_fenced(late.start(&live.spec).await.map(drop)));
    assert!(runtime.exists(), "it is still there");
    later.end("fenced", &runtime, LATER).await.expect("its owner may");
    assert!(!runtime.exists());
    late.end("fenced", &runtime, EPOCH).await.expect("where nothing is, nobody is late");
}

/// The lease is its owner's: an earlier one that is still connected does not keep the sandbox alive.
pub async fn a_late_owner_keeps_nothing_alive(ground: &Ground) {
    let mut spec = ground.spec("left");
    spec.lease = Duration::from_millis(1200);
    let live = ground.start(spec).await;
    let runtime = live.spec.runtime.clone();
    // A later server of its own, which goes: its connections close.
    let (later, place) = (ground.later_backend(), runtime.clone());
    let server = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async { later.adopt("left", &place, LATER).await.expect("answers") })
    });
    let adopted = tokio::task::spawn_blocking(move || server.join().expect("no panic")).await;
    assert_eq!(adopted.expect("no panic"), None, "it ran");
    until("its end", || runtime.join("end.json").exists()).await;
    assert_eq!(live.ended().await.reason, "lease ran out");
    ground.later_backend().end("left", &runtime, LATER).await.expect("ends");
}

/// Nobody holds it, so it goes.
pub async fn it_ends_itself_when_its_lease_runs_out(ground: &Ground) {
    let mut spec = ground.spec("lease");
    spec.lease = Duration::from_millis(1200);
    let runtime = spec.runtime.clone();
    let alone = ground.later_backend();
    // A server of its own, which goes: its connections close.
    let plan = spec.clone();
    let server = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async { alone.start(&plan).await.expect("starts") });
    });
    tokio::task::spawn_blocking(move || server.join().expect("no panic")).await.expect("no panic");
    until("its end", || runtime.join("end.json").exists()).await;
    let end = ground.backend().adopt("lease", &runtime, LATER).await.expect("answers").expect("ended");
    assert_eq!((end.reason.as_str(), end.limit), ("lease ran out", None));
    ground.backend().end("lease", &runtime, LATER).await.expect("ends");
}

/// The one that runs goes on.
pub async fn a_second_start_of_the_same_name_is_refused_and_harms_nothing(ground: &Ground) {
    let live = ground.start(ground.spec("twice")).await;
    match ground.backend().start(&live.spec).await {
        Err(SandboxError::Refused(refusal)) => assert_eq!(refusal.code, RefusalCode::Conflict),
        other => panic!("expected a refusal, got {other:?}"),
    }
    assert_eq!(live.said("echo on").await, "on\n");
    live.end().await;
}

/// The built-in agent is the guest program, by the name that the backend gives.
pub async fn the_guest_program_starts_by_the_name_it_has_inside(ground: &Ground) {
    let live = ground.start(ground.spec("guest")).await;
    let argv = vec![ground.backend().inside(&live.spec).guest, "no-such-part".to_owned()];
    let spec = ProcessSpec { argv, cwd: None, env: Default::default(), stdin: false };
    let output = live.guest.run("guest", &spec, 1000).await.expect("it starts");
    assert_eq!(output.exit.code, Some(2), "it is the guest program, which does not know this part");
    live.end().await;
}

/// Processes on this host that have this argument.
fn with_argument(mark: &str) -> usize {
    std::fs::read_dir("/proc")
        .expect("processes")
        .flatten()
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .filter(|line| {
            line.starts_with(b"sleep\0") && line.split(|byte| *byte == 0).any(|w| w == mark.as_bytes())
        })
        .count()
}
