//! How long a sandbox takes, beside bare bubblewrap in the same run. Prints; asserts nothing.

use std::fs;
use std::process::Command;
use std::time::Duration;
use std::time::Instant;

use ob_sandbox::Backend as _;
use ob_sandbox::Limits;

use crate::world::EPOCH;
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
    let ballast: Vec<u8> = vec![1; 500 << 20];
    let plain = world.spec("plain");
    let mut limited = world.spec("limited");
    limited.limits =
        Limits { memory: Some(1 << 30), pids: Some(256), cpu_millis: Some(1000), ..Limits::NONE };
    let (mut bare, mut starts, mut runs, mut with_limits, mut ends) =
        (vec![], vec![], vec![], vec![], vec![]);
    // In turns, so that what else the machine does falls on all alike.
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        assert!(bare_bubblewrap().status().expect("runs").success());
        bare.push(begun.elapsed());
        for (spec, all) in [(&plain, &mut runs), (&limited, &mut with_limits)] {
            let begun = Instant::now();
            backend.start(spec).await.expect("starts");
            starts.push(begun.elapsed());
            within(backend.ended(&spec.id, &spec.runtime)).await;
            all.push(begun.elapsed());
            let begun = Instant::now();
            backend.end(&spec.id, &spec.runtime, EPOCH).await.expect("ends");
            ends.push(begun.elapsed());
        }
    }
    drop(ballast);
    eprintln!("bare bubblewrap, `true`: {}", p50(bare));
    eprintln!("start answered: {}", p50(starts));
    eprintln!("start to the end of `true`, all gone: {}", p50(runs));
    eprintln!("the same with limits: {}", p50(with_limits));
    eprintln!("clean-up of what has ended: {}", p50(ends));
    assert!(fs::exists(world.path("programs")).expect("looked"), "the launcher was unpacked");
}

fn bare_bubblewrap() -> Command {
    // Not the uid of `Command`: that would fork this large process, and measure that.
    let uid = HOST_UID.to_string();
    let mut command = Command::new(if is_root() { "setpriv" } else { "bwrap" });
    if is_root() {
        command.args(["--reuid", &uid, "--regid", &uid, "--clear-groups", "--", "bwrap"]);
    }
    command.args(["--unshare-all", "--die-with-parent", "--as-pid-1", "--cap-drop", "ALL"]);
    command.args(["--uid", "1000", "--gid", "1000", "--ro-bind", "/usr", "/usr", "--proc", "/proc"]);
    command.args(["--dev", "/dev", "--tmpfs", "/tmp", "--symlink", "usr/lib", "/lib"]);
    command.args(["--symlink", "usr/lib64", "/lib64", "--symlink", "usr/bin", "/bin", "true"]);
    command
}

fn p50(mut all: Vec<Duration>) -> String {
    all.sort();
    let at = |hundredth: usize| all[all.len() * hundredth / 100];
    format!("p5 {:?} p50 {:?} p95 {:?}", at(5), at(50), at(95))
}
