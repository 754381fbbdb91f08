//! Limits on machines that have less than this one.

use std::path::Path;

use ob_core::resource::Means;
use ob_core::resource::Resource;
use ob_sandbox::Backend as _;
use ob_sandbox::Limits;
use ob_sandbox::SandboxError;
use ob_sandbox::namespace::Hierarchy;

use crate::world::EPOCH;
use crate::world::World;
use crate::world::groups_named;
use crate::world::is_root;
use crate::world::until;
use crate::world::within;

const ALL: Limits =
    Limits { memory: Some(256 << 20), pids: Some(40), cpu_millis: Some(1000), ..Limits::NONE };

#[tokio::test]
async fn a_machine_without_control_groups_is_refused_by_the_names_of_the_limits() {
    let Some(world) = World::new() else { return };
    let mut spec = world.spec("refused");
    spec.limits = ALL;
    let backend = world.backend("true").with_groups(Hierarchy::default());
    let Err(SandboxError::Refused(refusal)) = backend.start(&spec).await else { panic!("it starts") };
    assert!(
        refusal.message.contains("sandbox.memory") && refusal.message.contains("sandbox.cpus"),
        "{refusal}"
    );
    assert!(refusal.fix.is_some_and(|fix| fix.contains("best_effort") && fix.contains("systemd-run")));
    assert_eq!(backend.holds(&ALL).expect_err("told before a start, too").message, refusal.message);
    assert!(!spec.runtime.exists(), "nothing was made");
    assert!(!is_root() || world.backend("true").holds(&ALL).is_ok(), "the control: root has them");
}

#[tokio::test]
async fn what_is_accepted_is_started_and_marked_and_processes_are_limited_all_the_same() {
    let Some(world) = World::new() else { return };
    let mut spec = world.spec("accepted");
    spec.limits = Limits { best_effort: true, ..ALL };
    let script = "i=0; while [ $i -lt 100 ]; do sleep 20 & i=$((i + 1)); done 2>/dev/null; true";
    let count = "ls /proc | grep -cE '^[0-9]+$' > /home/agent/count";
    let backend =
        world.backend(&format!("({script}); {count}; kill -9 -1")).with_groups(Hierarchy::default());
    let started = backend.start(&spec).await.expect("accepted");
    assert_eq!(started.enforcement.missing(), [Resource::Memory, Resource::Cpu]);
    assert_eq!(
        started.enforcement.of(Resource::Pids),
        Some(Means::Rlimit),
        "each user namespace counts alone"
    );
    assert_eq!(backend.enforcement(&spec.runtime).await, Some(started.enforcement), "for later servers, too");
    within(backend.ended("accepted", &spec.runtime)).await;
    let count = std::fs::read_to_string(world.path("home/count")).unwrap_or_default();
    // At the limit, even the counting may fail.
    assert!(count.trim().parse::<u32>().unwrap_or(0) <= 41, "{count} processes");
    backend.end("accepted", &spec.runtime, EPOCH).await.expect("ends");
}

#[tokio::test]
async fn a_group_that_takes_no_limit_ends_the_start_unless_that_is_accepted() {
    let Some(world) = World::new() else { return };
    // A folder that looks like a hierarchy, and whose files nobody reads.
    let folder = tempfile::tempdir().expect("a folder");
    let readonly = folder.path().join("no-such-parent");
    let groups = Hierarchy { unified: None, legacy: vec![("memory".into(), readonly)] };
    let mut spec = world.spec("half");
    spec.limits = Limits { memory: Some(256 << 20), ..Limits::NONE };
    let backend = world.backend("sleep 100").with_groups(groups.clone());
    let Err(SandboxError::Refused(refusal)) = backend.start(&spec).await else { panic!("it starts") };
    assert!(refusal.message.contains("sandbox.memory"), "{refusal}");
    assert!(
        backend.adopt("half", &spec.runtime, EPOCH).await.expect("answers").is_some(),
        "what was started was ended"
    );
    spec.limits.best_effort = true;
    let backend = world.backend("sleep 100").with_groups(groups);
    let started = backend.start(&spec).await.expect("accepted");
    assert_eq!(started.enforcement.missing(), [Resource::Memory]);
    within(backend.end("half", &spec.runtime, EPOCH)).await.expect("ends");
}

/// A thread is a process to the kernel: a bomb of threads in one program meets the same bound, whatever holds it.
#[tokio::test]
async fn a_bomb_of_threads_is_held_like_one_of_processes() {
    const THREADS: u32 = 120;
    let Some(world) = World::new() else { return };
    let bomb = format!(
        "import os, threading\n\
         threading.stack_size(65536)\n\
         end, made = threading.Event(), 0\n\
         try:\n    while made < {THREADS}:\n        threading.Thread(target=end.wait, daemon=True).start(); made += 1\n\
         except RuntimeError: pass\n\
         print('MADE', made, flush=True)\n\
         os._exit(0)\n"
    );
    let script = format!("cat > /tmp/bomb.py <<'END'\n{bomb}END\npython3 /tmp/bomb.py");
    let made = |said: &str| -> u32 {
        said.lines()
            .find_map(|line| line.strip_prefix("MADE ")?.parse().ok())
            .unwrap_or_else(|| panic!("{said}"))
    };
    let limited = |name: &str| {
        let limits = Limits { pids: ALL.pids, best_effort: true, ..Limits::NONE };
        ob_sandbox::SandboxSpec { limits, ..world.spec(name) }
    };
    assert_eq!(
        made(&world.inside_of(&world.spec("control"), &script).await),
        THREADS,
        "the control: no limit"
    );
    let held = made(&world.inside_of(&limited("held"), &script).await);
    assert!((1..=40).contains(&held), "{held} threads");
    // Where there are no control groups, each user namespace is counted by itself.
    let held = made(&world.inside_with(Hierarchy::default(), &limited("bound"), &script).await);
    assert!((1..=40).contains(&held), "{held} threads by a resource limit");
}

#[tokio::test]
async fn who_computes_for_long_goes_behind_the_others_until_it_rests() {
    let Some(world) = World::new() else { return };
    let mut spec = world.spec("background");
    spec.limits = Limits { best_effort: true, ..ALL };
    let script = "while [ ! -e /home/agent/rest ]; do :; done; sleep 1000";
    let backend = world.backend(script);
    backend.start(&spec).await.expect("starts");
    let groups = groups_named(Path::new("/sys/fs/cgroup"), &Hierarchy::group_name(&spec.runtime), 4);
    let Some(group) = groups.into_iter().find(|group| group.join("cpu.idle").exists()) else {
        // An older kernel, or a user without the controller.
        backend.end("background", &spec.runtime, EPOCH).await.expect("ends");
        return assert!(!is_root() || std::env::var_os("CI").is_none(), "a test machine has `cpu.idle`");
    };
    let reads =
        |file: &str, text: &str| std::fs::read_to_string(group.join(file)).is_ok_and(|is| is.trim() == text);
    let has_its_share = || reads("cpu.shares", "256") || reads("cpu.weight", "25");
    assert!(has_its_share(), "the control");
    until(|| reads("cpu.idle", "1")).await;
    std::fs::write(world.path("home/rest"), "").expect("written");
    until(|| reads("cpu.idle", "0") && has_its_share()).await;
    within(backend.end("background", &spec.runtime, EPOCH)).await.expect("ends");
}
