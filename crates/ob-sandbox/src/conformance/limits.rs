//! What sandboxes may use, with programs that use more. Each limit is held, and told by name.

use std::time::Duration;

use ob_core::resource::Consequence;
use ob_core::resource::LimitHit;
use ob_core::resource::Resource;
use tokio::sync::mpsc;

use super::Ground;
use crate::Limits;

/// A report of this limit; others are passed over.
async fn told(hits: &mut mpsc::Receiver<LimitHit>, resource: Resource) -> LimitHit {
    loop {
        let hit = hits.recv().await.expect("told before the end");
        if hit.resource == resource {
            return hit;
        }
    }
}

/// A fork bomb in small.
const FORKS: &str = "i=0; while [ $i -lt 200 ]; do sleep 30 & i=$((i + 1)); done 2>/dev/null; echo made";

/// Forks fail.
pub async fn processes_beyond_the_limit_are_refused_and_it_is_told(ground: &Ground) {
    let Some(live) = ground.limited("pids", Limits { pids: Some(40), ..Limits::NONE }).await else { return };
    let mut hits = live.hits();
    live.try_sh(FORKS).await.ok();
    if live.tells(Resource::Pids) {
        let hit = told(&mut hits, Resource::Pids).await;
        assert_eq!((hit.bound, hit.consequence), (40, Consequence::Refused));
        assert!(hit.used >= 40 && hit.times > 0, "{hit:?}");
    }
    assert!(live.guest.is_connected(), "the sandbox goes on");
    live.end().await;
}

/// The kernel kills what took it, and not the guest.
pub async fn memory_beyond_the_limit_costs_a_process_and_it_is_told(ground: &Ground) {
    let Some(live) = ground.limited("memory", Limits { memory: Some(64 << 20), ..Limits::NONE }).await else {
        return;
    };
    let mut hits = live.hits();
    let bomb = live.sh("head -c 400m /dev/zero | tail; echo $?").await;
    assert!(!String::from_utf8_lossy(&bomb.stdout).starts_with('0'), "{bomb:?}");
    let hit = told(&mut hits, Resource::Memory).await;
    assert_eq!((hit.bound, hit.consequence), (64 << 20, Consequence::Killed));
    assert_eq!(live.said("echo on").await, "on\n", "the sandbox goes on");
    live.end().await;
}

/// Two loops on a fiftieth of a processor: so little that they are held back on a busy machine as well.
pub async fn a_busy_loop_gets_its_share_and_it_is_told(ground: &Ground) {
    let Some(live) = ground.limited("busy", Limits { cpu_millis: Some(20), ..Limits::NONE }).await else {
        return;
    };
    let mut hits = live.hits();
    let one = "timeout 10 sh -c 'while :; do :; done'";
    let used = live.said(&format!("{one} & {one}; wait; times")).await;
    let hit = told(&mut hits, Resource::Cpu).await;
    assert_eq!((hit.bound, hit.consequence), (20, Consequence::Slowed));
    let seconds = used
        .split_whitespace()
        .filter_map(|time| time.strip_prefix("0m")?.strip_suffix('s')?.parse::<f64>().ok());
    let seconds: f64 = seconds.sum();
    assert!(seconds > 0.0 && seconds < 2.0, "of 20 s without a limit: {used}");
    live.end().await;
}

/// The next `open` fails.
pub async fn open_files_are_limited_for_each_process(ground: &Ground) {
    let Some(live) = ground.limited("files", Limits { open_files: Some(300), ..Limits::NONE }).await else {
        return;
    };
    assert_eq!(live.said("ulimit -Hn; ulimit -n 301 2>/dev/null && echo raised").await, "300\n");
    live.end().await;
}

/// Many files of some size, faster than anything that works.
const FILL: &str =
    "i=0; while [ $i -lt 400 ]; do head -c 4m /dev/zero > fill$i || break; i=$((i + 1)); done; echo made";

/// It ends soon after, and the limit has a name.
pub async fn a_full_workspace_ends_it_by_name_of_the_limit(ground: &Ground) {
    let Some(live) = ground.limited("disk", Limits { disk: Some(64 << 20), ..Limits::NONE }).await else {
        return;
    };
    let outcome = live.try_sh(FILL).await;
    let end = live.ended().await;
    let hit = end.limit.unwrap_or_else(|| panic!("{end:?} after {outcome:?}"));
    assert_eq!((hit.resource, hit.bound, hit.consequence), (Resource::Disk, 64 << 20, Consequence::Ended));
    let stored = stored(&ground.path("work"));
    assert!(stored < 1 << 30, "far from the 1.6 GiB that it would write: {stored}");
    assert!(end.reason.contains("limit `disk` reached"), "{end:?}");
    live.end().await;
}

/// The kernel stops one file at the limit, however fast it grows.
pub async fn a_file_alone_cannot_pass_the_limit_of_disk(ground: &Ground) {
    let Some(live) = ground.limited("file", Limits { disk: Some(64 << 20), ..Limits::NONE }).await else {
        return;
    };
    live.try_sh("head -c 2G /dev/zero > large; sleep 20").await.ok();
    let stored = stored(&ground.path("work"));
    assert!(stored <= 65 << 20, "{stored}");
    assert!(stored >= 32 << 20, "it was written at all: {stored}");
    live.end().await;
}

/// They are in no folder and on the disk all the same.
pub async fn deleted_files_that_are_open_count(ground: &Ground) {
    let Some(live) = ground.limited("deleted", Limits { disk: Some(32 << 20), ..Limits::NONE }).await else {
        return;
    };
    let hide = "for n in 3 4 5 6 7 8; do eval \"exec $n> hidden\"; rm hidden; head -c 20m /dev/zero >&$n; done; sleep 30";
    let outcome = live.try_sh(hide).await;
    let end = live.ended().await;
    assert_eq!(end.limit.map(|hit| hit.resource), Some(Resource::Disk), "{end:?} after {outcome:?}");
    live.end().await;
}

/// Empty files take no bytes.
pub async fn too_many_files_end_it_by_name_of_the_limit(ground: &Ground) {
    let Some(live) = ground.limited("inodes", Limits { inodes: Some(500), ..Limits::NONE }).await else {
        return;
    };
    let outcome = live.try_sh("mkdir d; cd d; seq 1 100000 | xargs touch; sleep 30").await;
    let end = live.ended().await;
    let hit = end.limit.unwrap_or_else(|| panic!("{end:?} after {outcome:?}"));
    assert_eq!((hit.resource, hit.bound), (Resource::Inodes, 500));
    live.end().await;
}

/// It ends whether it works or not.
pub async fn its_time_runs_out(ground: &Ground) {
    let Some(live) =
        ground.limited("wall", Limits { wall: Some(Duration::from_millis(700)), ..Limits::NONE }).await
    else {
        return;
    };
    let end = live.ended().await;
    let hit = end.limit.expect("a limit");
    assert_eq!((hit.resource, hit.bound), (Resource::WallTime, 700));
    assert!(hit.used >= 700, "{hit:?}");
    live.end().await;
}

/// While there is no server, reports wait.
pub async fn what_nobody_heard_is_told_to_the_next_server(ground: &Ground) {
    let mut spec = ground.spec("unheard");
    spec.limits = Limits { pids: Some(40), best_effort: true, ..Limits::NONE };
    let (alone, plan) = (ground.later_backend(), spec.clone());
    // A server that starts it, has it work, and goes before it can hear of anything.
    let server = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async { alone.start(&plan).await.expect("starts") });
    });
    tokio::task::spawn_blocking(move || server.join().expect("no panic")).await.expect("no panic");
    let live = ground.found_again(spec).await;
    if !live.tells(Resource::Pids) {
        return live.end().await;
    }
    // By its link alone: nobody holds it.
    live.sh(FORKS).await;
    let later = ground.later_backend();
    assert_eq!(later.adopt("unheard", &live.spec.runtime, live.spec.epoch).await.expect("answers"), None);
    let mut hits = later.limit_hits("unheard").expect("it is held");
    assert_eq!(told(&mut hits, Resource::Pids).await.bound, 40);
    live.end().await;
}

/// The control of all of the above.
pub async fn without_limits_the_same_work_goes_through(ground: &Ground) {
    let live = ground.start(ground.spec("free")).await;
    assert_eq!(live.said("head -c 100m /dev/zero | tail | wc -c").await.trim(), (100 << 20).to_string());
    let said = live.said("i=0; while [ $i -lt 60 ]; do sleep 1 & i=$((i + 1)); done && echo forked").await;
    assert_eq!(said.trim(), "forked");
    assert_eq!(
        live.said("head -c 80m /dev/zero > large && wc -c < large").await.trim(),
        (80 << 20).to_string()
    );
    assert_eq!(live.said("mkdir d; cd d; seq 1 600 | xargs touch; ls | wc -l").await.trim(), "600");
    assert!(live.started.enforcement.0.is_empty(), "nothing was asked for");
    live.end().await;
}

/// Bytes of a folder's own files.
fn stored(folder: &std::path::Path) -> u64 {
    let files = std::fs::read_dir(folder).expect("the workspace").flatten();
    files.filter_map(|entry| entry.metadata().ok()).filter(|file| file.is_file()).map(|file| file.len()).sum()
}
