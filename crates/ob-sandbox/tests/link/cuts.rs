//! Connections that break, and servers that go.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use ob_core::link::Ack;
use ob_core::link::STREAM_WINDOW;
use ob_sandbox::link::Guest;
use ob_sandbox::link::LinkError;
use ob_sandbox::link::Output;

use super::harness::Cutter;
use super::harness::Random;
use super::harness::Sandbox;
use super::harness::cat;
use super::harness::eventually;
use super::harness::in_time;
use super::harness::read_all;
use super::harness::refusal;
use super::harness::seq;
use super::harness::sh;

const CUTS: u64 = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_cuts_lose_and_double_nothing() {
    let Some(sandbox) = Sandbox::start_dialling("dial.sock").await else { return };
    let seed = 20_261;
    let cutter =
        Cutter::start(&sandbox.path("dial.sock"), sandbox.path("gate.sock"), CUTS, 96 * 1024, Random(seed));
    let guest = &sandbox.guest;
    let sent = Bytes::from(Random(2).bytes(12 << 20));
    in_time(guest.spawn("echo", &cat())).await.expect("it starts");
    let write = async {
        let mut at = 0;
        // In pieces of odd sizes, as an agent's messages are.
        for piece in sent.chunks(777_777) {
            at = guest.write_stdin("echo", at, sent.slice_ref(piece)).await?;
        }
        guest.close_stdin("echo", at).await
    };
    let commands = async {
        let mut count = 0;
        while cutter.cuts.load(Ordering::Relaxed) < CUTS {
            let id = format!("command-{count}");
            let output = guest.run(&id, &sh(&format!("echo {count} >> log; seq 1 3000")), 1 << 20).await?;
            assert!(output.exit.is_success() && output.stdout == seq(3000), "command {count}");
            count += 1;
        }
        Ok::<u64, LinkError>(count)
    };
    let (written, echoed, commands) =
        in_time(async { tokio::join!(write, read_all(guest, "echo", Output::Stdout), commands) }).await;
    written.expect("all is taken");
    assert!(echoed.expect("all of it") == sent, "other bytes came back");
    let ran: String = (0..commands.expect("all ran")).map(|n| format!("{n}\n")).collect();
    assert_eq!(sandbox.read("log"), ran, "each command ran once");
    assert_eq!(cutter.cuts.load(Ordering::Relaxed), CUTS);
    assert!(in_time(guest.exit("echo")).await.expect("it ends").is_success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_goes_on_without_its_server_and_the_next_one_resumes_at_the_next_byte() {
    let Some(mut sandbox) = Sandbox::start().await else { return };
    let script = "seq 1 20000; echo first > log; read line; echo \"$line\" >> log; seq 20001 200000; echo end >> log; exit 7";
    let mut spec = sh(script);
    spec.stdin = true;
    in_time(sandbox.guest.spawn("job", &spec)).await.expect("it starts");
    let mut read = Vec::new();
    let mut stream = sandbox.guest.output("job", Output::Stdout, 0);
    while read.len() < 50_000 {
        read.extend_from_slice(&in_time(stream.next()).await.expect("more").expect("more"));
    }
    let durable = read.len() as u64 - 10_000;
    in_time(sandbox.guest.ack("job", Ack { stdout: durable, stderr: 0 })).await.expect("it was read");
    in_time(sandbox.guest.write_stdin("job", 0, "go".into())).await.expect("taken");

    sandbox.stop_server().await;
    drop(stream);
    eventually("it goes on", async || sandbox.read("log") == "first\n").await;
    sandbox.start_server();

    let guest = &sandbox.guest;
    // What was not durable is sent again; what was cannot be.
    let gone = in_time(guest.output("job", Output::Stdout, durable - 1).next()).await;
    assert_eq!(refusal(gone.expect("an item")), "gone");
    read.truncate(durable as usize);
    assert_eq!(in_time(guest.write_stdin("job", 0, "go on\n".into())).await.expect("the rest"), 6);
    let mut stream = guest.output("job", Output::Stdout, durable);
    while let Some(bytes) = in_time(stream.next()).await {
        read.extend_from_slice(&bytes.expect("more"));
        in_time(guest.ack("job", Ack { stdout: read.len() as u64, stderr: 0 })).await.expect("it was read");
    }
    assert!(read == seq(200_000));
    assert_eq!(in_time(guest.exit("job")).await.expect("it ends").code, Some(7));
    assert_eq!(sandbox.read("log"), "first\ngo on\nend\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_server_a_process_blocks_at_a_full_window_and_then_finishes() {
    let Some(mut sandbox) = Sandbox::start().await else { return };
    in_time(sandbox.guest.spawn("job", &sh("seq 1 500000; echo end > log"))).await.expect("it starts");
    sandbox.stop_server().await;
    sandbox.start_server();
    let guest = &sandbox.guest;
    in_time(eventually("the window is full", async || {
        guest.status("job").await.expect("it is known").stdout_end == STREAM_WINDOW as u64
    }))
    .await;
    assert_eq!(sandbox.read("log"), "");
    assert!(in_time(read_all(guest, "job", Output::Stdout)).await.expect("all of it") == seq(500_000));
    in_time(guest.exit("job")).await.expect("it ends");
    assert_eq!(sandbox.read("log"), "end\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_wait_for_a_server_that_is_not_there_yet() {
    let Some(mut sandbox) = Sandbox::start().await else { return };
    in_time(sandbox.guest.connected(Duration::from_secs(60))).await.expect("it dials");
    sandbox.stop_server().await;
    let old = sandbox.guest.clone();
    eventually("the cut is noticed", async || !old.is_connected()).await;
    let waiting = tokio::spawn(async move { old.connected(Duration::from_millis(20)).await });
    let timed_out = Err(LinkError::TimedOut(Duration::from_millis(20)));
    assert_eq!(in_time(waiting).await.expect("no panic"), timed_out);
    sandbox.start_server();
    in_time(sandbox.guest.run("late", &sh("true"), 0)).await.expect("it waits and runs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_fails_everyone_who_waits() {
    let Some(sandbox) = Sandbox::start().await else { return };
    let guest = sandbox.guest.clone();
    let mut spec = sh("echo up; sleep 1000");
    spec.stdin = true;
    in_time(guest.spawn("job", &spec)).await.expect("it starts");
    let mut stream = guest.output("job", Output::Stdout, 0);
    in_time(stream.next()).await.expect("a line").expect("a line");
    let unconnected = Guest::new();
    let close = async {
        tokio::task::yield_now().await;
        guest.close();
        unconnected.close();
    };
    let (exit, next, written, status, connected, ()) = in_time(async {
        tokio::join!(
            guest.exit("job"),
            stream.next(),
            guest.write_stdin("job", 0, Bytes::from(vec![1; 1 << 20])),
            unconnected.status("job"),
            unconnected.connected(Duration::from_secs(600)),
            close
        )
    })
    .await;
    assert_eq!(exit, Err(LinkError::Closed));
    assert_eq!(next, Some(Err(LinkError::Closed)));
    assert_eq!(written, Err(LinkError::Closed));
    assert_eq!(status.map(drop), Err(LinkError::Closed));
    assert_eq!(connected, Err(LinkError::Closed));
    assert!(!guest.is_connected());
    assert_eq!(in_time(guest.spawn("late", &spec)).await, Err(LinkError::Closed));
}
