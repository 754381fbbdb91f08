//! How sandboxes start, outlive their server, and end.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use ob_core::RefusalCode;
use ob_sandbox::Backend as _;
use ob_sandbox::Limits;
use ob_sandbox::SandboxError;
use ob_sandbox::namespace::Hierarchy;
use rustix::process::Pid;
use rustix::process::Signal;

use crate::world::EPOCH;
use crate::world::World;
use crate::world::groups_named;
use crate::world::is_root;
use crate::world::processes;
use crate::world::traces;
use crate::world::until;
use crate::world::within;

/// Set for the child of a test that plays a server which is killed: the folder of its world.
const SERVER_WORLD: &str = "TEST_SERVER_WORLD";

/// Processes whose view of files has the workspace of this world at its place.
fn members(world: &World) -> Vec<u32> {
    let mark = world.path("work").strip_prefix("/").expect("absolute").to_string_lossy().into_owned();
    processes(|folder| {
        fs::read_to_string(folder.join("mountinfo"))
            .is_ok_and(|mounts| mounts.lines().any(|l| l.contains(&mark) && l.contains(" /workspace ")))
    })
}

/// The launcher's pid, by its socket's peer.
fn launcher(runtime: &Path) -> Pid {
    let stream = std::os::unix::net::UnixStream::connect(runtime.join("control.sock")).expect("listens");
    rustix::net::sockopt::socket_peercred(&stream).expect("a peer").pid
}

/// Found by two servers whose first patches had the same id: ending one killed the other through their common group.
#[tokio::test]
async fn sandboxes_of_the_same_id_on_two_homes_do_not_end_each_other() {
    let (Some(one), Some(two)) = (World::new(), World::new()) else { return };
    let limits = Limits {
        memory: Some(256 << 20),
        pids: Some(64),
        cpu_millis: Some(1000),
        best_effort: true,
        ..Limits::NONE
    };
    let (mut first, mut second) = (one.spec("same"), two.spec("same"));
    (first.limits, second.limits) = (limits, limits);
    let backends = (one.staying(&first).await, two.staying(&second).await);
    within(backends.0.end("same", &first.runtime, EPOCH)).await.expect("ends");
    assert!(members(&one).is_empty(), "the control: an end ends it");
    assert!(members(&two).len() >= 3, "the other goes on");
    assert_eq!(backends.1.adopt("same", &second.runtime, EPOCH).await.expect("is asked"), None);
    within(backends.1.end("same", &second.runtime, EPOCH)).await.expect("ends");
}

#[tokio::test]
async fn an_end_leaves_no_process_mount_group_or_folder() {
    let Some(world) = World::new() else { return };
    let mut spec = world.spec("gone");
    spec.limits = Limits {
        memory: Some(256 << 20),
        pids: Some(64),
        cpu_millis: Some(1000),
        best_effort: true,
        ..Limits::NONE
    };
    let backend = world.staying(&spec).await;
    assert!(members(&world).len() >= 3, "the control: they are seen while they run");
    let groups = groups_named(Path::new("/sys/fs/cgroup"), &Hierarchy::group_name(&spec.runtime), 4);
    assert!(!is_root() || !groups.is_empty(), "the control: root has groups");
    for group in groups {
        let inside = fs::read_to_string(group.join("cgroup.procs")).expect("a group").lines().count();
        // bubblewrap, the shell and its two sleeps; the launcher is outside.
        assert_eq!(inside, 4, "{}", group.display());
    }
    let ended = async { backend.ended("gone", &spec.runtime).await };
    let (end, told) = within(async { tokio::join!(ended, backend.end("gone", &spec.runtime, EPOCH)) }).await;
    told.expect("ends");
    assert_eq!(end.reason, "ended by its server");
    assert_eq!(members(&world), Vec::<u32>::new());
    assert_eq!(traces("gone", &spec.runtime, &end), Vec::<String>::new());
    assert!(!spec.runtime.exists());
    backend.end("gone", &spec.runtime, EPOCH).await.expect("a second end changes nothing");
}

#[tokio::test]
async fn processes_are_limited_with_control_groups() {
    let Some(world) = World::new() else { return };
    let mut spec = world.spec("limits");
    spec.limits =
        Limits { memory: None, pids: Some(20), cpu_millis: None, best_effort: true, ..Limits::NONE };
    let script = "for i in $(seq 60); do sleep 20 & done 2>/home/agent/errors; ls /proc | grep -cE '^[0-9]+$' > /home/agent/count";
    let backend = world.backend(script);
    let started = backend.start(&spec).await.expect("starts");
    within(backend.ended("limits", &spec.runtime)).await;
    let count = fs::read_to_string(world.path("home/count")).unwrap_or_default();
    let count: u32 = count.trim().parse().unwrap_or(0);
    assert!(count <= 20, "{count} processes; {:?}", started.enforcement);
    let unlimited = world.spec("unlimited");
    let backend = world.backend(script);
    backend.start(&unlimited).await.expect("starts");
    within(backend.ended("unlimited", &unlimited.runtime)).await;
    let count = fs::read_to_string(world.path("home/count")).expect("counted");
    assert!(
        count.trim().parse::<u32>().expect("a number") > 50,
        "the control: without a limit there are {count}"
    );
    backend.end("unlimited", &unlimited.runtime, EPOCH).await.expect("ends");
    backend.end("limits", &spec.runtime, EPOCH).await.expect("ends");
}

#[tokio::test]
async fn the_first_processs_exit_is_the_sandboxs_end_with_its_last_words() {
    let Some(world) = World::new() else { return };
    let spec = world.spec("exits");
    let backend = world.backend("sleep 1000 & echo 'it broke' >&2; exit 3");
    backend.start(&spec).await.expect("starts");
    let end = within(backend.ended("exits", &spec.runtime)).await;
    assert_eq!(end.reason, "first process exited with code 3: it broke");
    until(|| members(&world).is_empty()).await;
    let again = within(backend.ended("exits", &spec.runtime)).await;
    assert_eq!(end, again, "whoever asks later learns the same");
    backend.end("exits", &spec.runtime, EPOCH).await.expect("ends");
}

#[tokio::test]
async fn a_sandbox_that_cannot_be_set_up_says_why() {
    let Some(world) = World::new() else { return };
    let mut spec = world.spec("broken");
    spec.read_only = vec!["/nonexistent/tools".into()];
    let backend = world.backend("true");
    let said = match backend.start(&spec).await {
        Err(error) => error.to_string(),
        Ok(_) => within(backend.ended("broken", &spec.runtime)).await.reason,
    };
    assert!(said.contains("/nonexistent/tools"), "{said}");
    backend.end("broken", &spec.runtime, EPOCH).await.expect("ends");
    assert!(!spec.runtime.exists());
}

#[tokio::test]
async fn a_second_start_under_the_same_name_is_refused_and_disturbs_nothing() {
    let Some(world) = World::new() else { return };
    let spec = world.spec("twice");
    let backend = world.staying(&spec).await;
    match backend.start(&spec).await {
        Err(SandboxError::Refused(refusal)) => assert_eq!(refusal.code, RefusalCode::Conflict),
        other => panic!("expected a refusal, got {other:?}"),
    }
    assert!(backend.adopt("twice", &spec.runtime, EPOCH).await.expect("answers").is_none(), "still runs");
    within(backend.end("twice", &spec.runtime, EPOCH)).await.expect("ends");
    // What is left of a name does not hinder the next.
    fs::create_dir_all(&spec.runtime).expect("a stale folder");
    fs::write(spec.runtime.join("end.json"), "{").expect("a stale end");
    fs::write(spec.runtime.join("control.sock"), "").expect("a stale socket");
    let backend = world.staying(&spec).await;
    within(backend.end("twice", &spec.runtime, EPOCH)).await.expect("ends");
}

#[tokio::test]
async fn specifications_that_cannot_work_are_refused_with_a_fix() {
    let Some(world) = World::new() else { return };
    let backend = world.backend("true");
    let good = world.spec("refused");
    let mut cases = vec![];
    for id in ["", "UPPER", "a/b", "../x", &"a".repeat(33)] {
        cases.push(ob_sandbox::SandboxSpec { id: id.into(), ..good.clone() });
    }
    cases.push(ob_sandbox::SandboxSpec { runtime: world.path(&"long".repeat(30)), ..good.clone() });
    cases.push(ob_sandbox::SandboxSpec { read_only: vec!["/".into()], ..good.clone() });
    cases.push(ob_sandbox::SandboxSpec { read_only: vec!["/proc".into()], ..good.clone() });
    cases.push(ob_sandbox::SandboxSpec { env: vec![("A".into(), "\0--bind".into())], ..good.clone() });
    if is_root() {
        cases.push(ob_sandbox::SandboxSpec { host_uid: 0, ..good.clone() });
        cases.push(ob_sandbox::SandboxSpec { host_uid: 4711, ..good.clone() });
    }
    for spec in cases {
        match backend.start(&spec).await {
            Err(SandboxError::Refused(refusal)) => assert!(refusal.fix.is_some(), "{refusal}"),
            other => panic!("expected a refusal of {spec:?}, got {other:?}"),
        }
    }
    backend.start(&good).await.expect("the control: the one they were made from starts");
    within(backend.ended("refused", &good.runtime)).await;
    backend.end("refused", &good.runtime, EPOCH).await.expect("ends");
}

#[tokio::test]
async fn killing_the_launcher_takes_everything_with_it() {
    let Some(world) = World::new() else { return };
    let mut spec = world.spec("killed");
    spec.limits =
        Limits { memory: None, pids: Some(64), cpu_millis: None, best_effort: true, ..Limits::NONE };
    let backend = world.staying(&spec).await;
    assert!(members(&world).len() >= 3, "the control");
    rustix::process::kill_process(launcher(&spec.runtime), Signal::KILL).expect("killed");
    let end = within(backend.ended("killed", &spec.runtime)).await;
    assert_eq!(end.reason, "its launcher was killed");
    until(|| members(&world).is_empty()).await;
    assert_eq!(traces("killed", &spec.runtime, &end), Vec::<String>::new());
    let later = world.backend("true");
    assert!(
        later.adopt("killed", &spec.runtime, EPOCH).await.expect("answers").is_some(),
        "a later server sees an end"
    );
    later.end("killed", &spec.runtime, EPOCH).await.expect("ends");
    assert!(!spec.runtime.exists());
}

#[tokio::test]
async fn a_sandbox_without_a_server_ends_when_its_lease_runs_out() {
    let Some(world) = World::new() else { return };
    let mut spec = world.spec("lease");
    spec.lease = Duration::from_millis(1500);
    // A server of its own, which goes: its connections close.
    let inner = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let runtime = spec.runtime.clone();
    let world = std::thread::spawn(move || {
        inner.block_on(async { drop(world.staying(&spec).await) });
        drop(inner);
        world
    })
    .join()
    .expect("started");
    until(|| runtime.join("end.json").exists()).await;
    let end = world.backend("true").adopt("lease", &runtime, EPOCH).await.expect("answers").expect("ended");
    assert_eq!(end.reason, "lease ran out");
    assert_eq!(members(&world), Vec::<u32>::new());
    assert_eq!(traces("lease", &runtime, &end), Vec::<String>::new());
}

#[tokio::test]
async fn a_sandbox_survives_the_kill_of_its_server_and_is_adopted() {
    if let Some(folder) = std::env::var_os(SERVER_WORLD) {
        // This process plays the server: it starts the sandbox and is killed while it holds it.
        let world = World::new().expect("fit");
        let mut spec = world.spec("adopted");
        spec.runtime = Path::new(&folder).join("adopted");
        spec.workspace.path = Path::new(&folder).join("work");
        spec.gate_dir = Path::new(&folder).join("gate");
        spec.home = None;
        let backend = world.backend(": > /workspace/ready; sleep 1000");
        backend.start(&spec).await.expect("starts");
        let programs = world.path("programs");
        fs::write(Path::new(&folder).join("programs-were"), programs.as_os_str().as_encoded_bytes())
            .expect("noted");
        within(backend.ended("adopted", &spec.runtime)).await;
        return;
    }
    let Some(world) = World::new() else { return };
    let mut server = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "life::a_sandbox_survives_the_kill_of_its_server_and_is_adopted"])
        .env(SERVER_WORLD, world.path(""))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a server");
    until(|| world.path("work/ready").exists() && world.path("programs-were").exists()).await;
    server.kill().expect("killed");
    server.wait().expect("dead");

    let runtime = world.path("adopted");
    let backend = world.backend("true");
    assert!(backend.adopt("adopted", &runtime, EPOCH).await.expect("answers").is_none(), "it still runs");
    assert!(!members(&world).is_empty());
    let (end, told) = within(async {
        tokio::join!(backend.ended("adopted", &runtime), backend.end("adopted", &runtime, EPOCH))
    })
    .await;
    told.expect("ends");
    assert_eq!(end.reason, "ended by its server");
    assert_eq!(members(&world), Vec::<u32>::new());
    // The killed server could not clean up its own temporary world.
    let programs = fs::read_to_string(world.path("programs-were")).expect("noted");
    fs::remove_dir_all(Path::new(&programs).parent().expect("a world")).expect("removed");
}

#[tokio::test]
async fn what_is_unknown_has_ended_and_can_be_ended() {
    let Some(world) = World::new() else { return };
    let backend = world.backend("true");
    let runtime = world.path("never");
    let end = backend.adopt("never", &runtime, EPOCH).await.expect("answers").expect("not running");
    assert_eq!(end.reason, "nothing is known of it");
    assert_eq!(backend.ended("never", &runtime).await.reason, "nothing is known of it");
    backend.end("never", &runtime, EPOCH).await.expect("nothing to do");
}
