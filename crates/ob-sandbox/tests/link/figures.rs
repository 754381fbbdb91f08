//! Figures of the link alone: `cargo test -p ob-sandbox --test link figures -- --ignored --nocapture`.

use std::time::Instant;

use futures_util::StreamExt as _;
use ob_sandbox::link::Output;

use super::harness::Sandbox;
use super::harness::read_all;
use super::harness::sh;

const ROUNDS: usize = 300;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures"]
async fn figures() {
    let Some(sandbox) = Sandbox::start().await else { return };
    let guest = &sandbox.guest;
    let mut spec = sh("");
    spec.argv = vec!["echo".into(), "x".into()];
    guest.run("warm", &spec, 100).await.expect("it runs");
    print_memory(&sandbox, "idle");
    let (mut bare, mut first, mut whole) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let began = Instant::now();
        let output = std::process::Command::new("echo").arg("x").output().expect("it runs");
        bare.push(began.elapsed());
        assert_eq!(output.stdout, b"x\n");
    }
    for n in 0..ROUNDS {
        let id = format!("e{n}");
        let began = Instant::now();
        guest.spawn(&id, &spec).await.expect("it starts");
        let byte = guest.output(&id, Output::Stdout, 0).next().await.expect("a line").expect("a line");
        first.push(began.elapsed());
        assert_eq!(&byte[..], b"x\n");
        guest.exit(&id).await.expect("it ends");
        guest.forget(&id).await.expect("it has exited");
    }
    for n in 0..ROUNDS {
        let began = Instant::now();
        guest.run(&format!("r{n}"), &spec, 100).await.expect("it runs");
        whole.push(began.elapsed());
    }
    for (name, mut times) in
        [("bare echo without a link", bare), ("exec to first byte", first), ("run to end", whole)]
    {
        times.sort();
        eprintln!("{name}: p50 {:?} p99 {:?}", times[ROUNDS / 2], times[ROUNDS * 99 / 100]);
    }
    let began = Instant::now();
    guest.spawn("big", &sh("head -c 268435456 /dev/zero")).await.expect("it starts");
    let bytes = read_all(guest, "big", Output::Stdout).await.expect("all of it");
    let rate = bytes.len() as f64 / 1e6 / began.elapsed().as_secs_f64();
    eprintln!("output: {rate:.0} MB/s");
    print_memory(&sandbox, "after that");
}

fn print_memory(sandbox: &Sandbox, when: &str) {
    let smaps = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", sandbox.pid())).expect("its maps");
    for line in smaps.lines().filter(|line| line.starts_with("Pss:") || line.starts_with("Private_Dirty:")) {
        eprintln!("guest {when}: {line}");
    }
}
