//! How long a sandbox takes, beside bare bubblewrap in the same run. Prints; asserts nothing.

use std::fs;
use std::process::Command;
use std::time::Duration;
use std::time::Instant;

use ob_sandbox::Backend as _;
use ob_sandbox::Limits;

use crate::world::HOST_UID;
use crate::world::World;
use crate::world::is_root;
use crate::world::within;

const ROUNDS: usize = 60;

#[tokio::test]
#[ignore = "prints figures; run it alone, with a guest built by `make guest`"]
async fn cold_starts_beside_bare_bubblewrap() {
    let Some(world) = World::new() else { return };
    let backend = world.backend("exec true");
    let mut spec = world.spec("figures");
    let ballast: Vec<u8> = vec![1; 500 << 20];
    for (name, limits) in [
        ("without limits", Limits::default()),
        ("with limits", Limits { memory: Some(1 << 30), pids: Some(256), cpu_millis: Some(1000) }),
    ] {
        spec.limits = limits;
        let (mut starts, mut runs, mut ends) = (vec![], vec![], vec![]);
        for _ in 0..ROUNDS {
            let begun = Instant::now();
            backend.start(&spec).await.expect("starts");
            starts.push(begun.elapsed());
            within(backend.ended("figures", &spec.runtime)).await;
            runs.push(begun.elapsed());
            let begun = Instant::now();
            backend.end("figures", &spec.runtime).await.expect("ends");
            ends.push(begun.elapsed());
        }
        eprintln!(
            "{name}: start {} | to the end of `true` {} | cleaned up {}",
            p50(starts),
            p50(runs),
            p50(ends)
        );
    }
    drop(ballast);
    let mut bare = vec![];
    for _ in 0..ROUNDS {
        let mut command = Command::new("bwrap");
        command.args(["--unshare-all", "--die-with-parent", "--as-pid-1", "--cap-drop", "ALL"]);
        command.args(["--uid", "1000", "--gid", "1000", "--ro-bind", "/usr", "/usr", "--proc", "/proc"]);
        command.args(["--dev", "/dev", "--tmpfs", "/tmp", "--symlink", "usr/lib", "/lib"]);
        command.args(["--symlink", "usr/lib64", "/lib64", "--symlink", "usr/bin", "/bin", "true"]);
        if is_root() {
            std::os::unix::process::CommandExt::uid(&mut command, HOST_UID);
        }
        let begun = Instant::now();
        assert!(command.status().expect("runs").success());
        bare.push(begun.elapsed());
    }
    eprintln!("bare bubblewrap, `true`: {}", p50(bare));
    assert!(fs::exists(world.path("programs")).expect("looked"), "the launcher was unpacked");
}

fn p50(mut all: Vec<Duration>) -> String {
    all.sort();
    format!("p50 {:?} p95 {:?}", all[all.len() / 2], all[all.len() * 95 / 100])
}
