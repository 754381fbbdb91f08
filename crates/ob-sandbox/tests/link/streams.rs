//! Bytes in and out: exactly those, in order, bounded.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use ob_core::link::Ack;
use ob_core::link::STREAM_WINDOW;
use ob_sandbox::link::LinkError;
use ob_sandbox::link::Output;

use super::harness::Random;
use super::harness::Sandbox;
use super::harness::cat;
use super::harness::eventually;
use super::harness::in_time;
use super::harness::read_all;
use super::harness::refusal;
use super::harness::seq;
use super::harness::sh;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_mebibytes_come_through_unchanged() {
    let Some(sandbox) = Sandbox::start().await else { return };
    let guest = &sandbox.guest;
    in_time(guest.spawn("big", &sh("seq 1 9000000 | head -c 67108864"))).await.expect("it starts");
    let bytes = in_time(read_all(guest, "big", Output::Stdout)).await.expect("all of it");
    assert_eq!(bytes.len(), 64 << 20);
    assert!(bytes == seq(9_000_000)[..64 << 20], "other bytes came");
    assert!(in_time(guest.exit("big")).await.expect("it ends").is_success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_mebibytes_are_echoed_unchanged() {
    let Some(sandbox) = Sandbox::start().await else { return };
    let guest = &sandbox.guest;
    let sent = Bytes::from(Random(1).bytes(16 << 20));
    in_time(guest.spawn("echo", &cat())).await.expect("it starts");
    let write = async {
        let taken = guest.write_stdin("echo", 0, sent.clone()).await?;
        guest.close_stdin("echo", taken).await
    };
    let (written, echoed) =
        in_time(async { tokio::join!(write, read_all(guest, "echo", Output::Stdout)) }).await;
    written.expect("all is taken");
    assert!(echoed.expect("all of it") == sent, "other bytes came back");
    let status = in_time(guest.status("echo")).await.expect("it is known");
    assert_eq!((status.stdin_taken, status.stdout_end, status.stderr_end), (16 << 20, 16 << 20, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_window_blocks_the_process_until_it_is_acknowledged() {
    let Some(sandbox) = Sandbox::start().await else { return };
    let guest = &sandbox.guest;
    in_time(guest.spawn("full", &sh("seq 1 1000000; echo done > done"))).await.expect("it starts");
    let window = STREAM_WINDOW as u64;
    let end = async || guest.status("full").await.expect("it is known").stdout_end;
    in_time(eventually("the window is full", async || end().await == window)).await;
    let all = seq(1_000_000);
    let mut stream = guest.output("full", Output::Stdout, 0);
    let mut read = Vec::new();
    while read.len() < STREAM_WINDOW {
        read.extend_from_slice(&in_time(stream.next()).await.expect("more").expect("more"));
    }
    assert!(read == all[..STREAM_WINDOW]);
    let more = tokio::time::timeout(Duration::from_millis(100), stream.next()).await;
    assert!(more.is_err(), "nothing comes before something is acknowledged");
    let status = in_time(guest.status("full")).await.expect("it is known");
    assert_eq!((status.stdout_end, status.exit), (window, None));
    assert_eq!(sandbox.read("done"), "", "it is blocked");

    // Sent again as often as wanted, as long as it is not acknowledged.
    let mut again = guest.output("full", Output::Stdout, 5);
    assert_eq!(in_time(again.next()).await.expect("more").expect("more")[..10], all[5..15]);
    assert_eq!(refusal(in_time(guest.ack("full", Ack { stdout: window + 1, stderr: 0 })).await), "invalid");
    let beyond = in_time(guest.output("full", Output::Stdout, window + 1).next()).await;
    assert_eq!(refusal(beyond.expect("an item")), "invalid");
    in_time(guest.ack("full", Ack { stdout: 1000, stderr: 0 })).await.expect("it was read");
    in_time(guest.ack("full", Ack { stdout: 10, stderr: 0 })).await.expect("an old one changes nothing");
    let gone = in_time(guest.output("full", Output::Stdout, 999).next()).await;
    assert_eq!(refusal(gone.expect("an item")), "gone");
    in_time(eventually("as much more is read", async || end().await == window + 1000)).await;

    while let Some(bytes) = in_time(stream.next()).await {
        read.extend_from_slice(&bytes.expect("more"));
        let ack = Ack { stdout: read.len() as u64, stderr: 0 };
        in_time(guest.ack("full", ack)).await.expect("it was read");
    }
    assert!(read == all);
    assert!(in_time(guest.exit("full")).await.expect("it ends").is_success());
    assert_eq!(sandbox.read("done"), "done\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_is_overtaken_by_an_acknowledgement_is_told() {
    let Some(sandbox) = Sandbox::start().await else { return };
    let guest = &sandbox.guest;
    in_time(guest.spawn("fast", &sh("seq 1 1000000"))).await.expect("it starts");
    let mut slow = guest.output("fast", Output::Stdout, 0);
    in_time(slow.next()).await.expect("more").expect("more");
    in_time(read_all(guest, "fast", Output::Stdout)).await.expect("all of it");
    let error = loop {
        match in_time(slow.next()).await.expect("not the end") {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(refusal::<()>(Err(error)), "gone");
    assert!(in_time(slow.next()).await.is_none(), "an error ends the stream");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_a_forgotten_process_do_not_end_as_if_they_were_complete() {
    let Some(sandbox) = Sandbox::start().await else { return };
    let guest = &sandbox.guest;
    in_time(guest.spawn("held", &sh("sleep 1000 & echo hi"))).await.expect("it starts");
    let mut stream = guest.output("held", Output::Stdout, 0);
    in_time(stream.next()).await.expect("a line").expect("a line");
    in_time(guest.exit("held")).await.expect("it ends");
    in_time(guest.forget("held")).await.expect("it has exited");
    assert_eq!(refusal(in_time(stream.next()).await.expect("not the end")), "not_found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn output_and_error_output_are_apart_and_have_many_readers() {
    let Some(sandbox) = Sandbox::start().await else { return };
    let guest = &sandbox.guest;
    in_time(guest.spawn("two", &sh("seq 1 1000; seq 1 2000 >&2"))).await.expect("it starts");
    let out = || read_all(guest, "two", Output::Stdout);
    let err = || read_all(guest, "two", Output::Stderr);
    let (a, b, c, d) = in_time(async { tokio::join!(out(), out(), err(), err()) }).await;
    for (got, want) in [(a, seq(1000)), (b, seq(1000)), (c, seq(2000)), (d, seq(2000))] {
        assert!(got.expect("all of it") == want);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn input_is_taken_once_in_order_and_not_after_its_close() {
    let Some(sandbox) = Sandbox::start().await else { return };
    let guest = &sandbox.guest;
    in_time(guest.spawn("in", &cat())).await.expect("it starts");
    let write =
        async |offset, text: &'static str| in_time(guest.write_stdin("in", offset, text.into())).await;
    assert_eq!(write(0, "hello").await.expect("taken"), 5);
    assert_eq!(write(0, "hello").await.expect("skipped"), 5);
    assert_eq!(write(3, "lo, you").await.expect("half skipped"), 10);
    assert_eq!(refusal(write(11, "x").await), "invalid");
    assert_eq!(refusal(write(11, "").await), "invalid");
    assert_eq!(refusal(in_time(guest.close_stdin("in", 11)).await), "invalid");
    assert_eq!(refusal(write(u64::MAX, "x").await), "invalid");
    in_time(guest.close_stdin("in", 10)).await.expect("closed");
    in_time(guest.close_stdin("in", 10)).await.expect("closed again");
    assert_eq!(refusal(write(10, "x").await), "invalid");
    assert_eq!(in_time(read_all(guest, "in", Output::Stdout)).await.expect("all of it"), b"hello, you");

    in_time(guest.spawn("none", &sh("cat; sleep 1000"))).await.expect("it starts");
    let refused = in_time(guest.write_stdin("none", 0, "x".into())).await;
    assert_eq!(refusal(refused), "invalid");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn input_that_a_process_does_not_want_is_thrown_away() {
    let Some(sandbox) = Sandbox::start().await else { return };
    let guest = &sandbox.guest;
    let mut spec = sh("exec <&-; sleep 1000");
    spec.stdin = true;
    in_time(guest.spawn("deaf", &spec)).await.expect("it starts");
    let bytes = Bytes::from(vec![7; 1 << 20]);
    assert_eq!(in_time(guest.write_stdin("deaf", 0, bytes)).await.expect("thrown away"), 1 << 20);
    in_time(guest.close_stdin("deaf", 1 << 20)).await.expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_do_not_read_hold_up_no_others() {
    let Some(sandbox) = Sandbox::start().await else { return };
    let guest = sandbox.guest.clone();
    let mut spec = sh("echo up; sleep 1000");
    spec.stdin = true;
    let mut writers = tokio::task::JoinSet::new();
    for n in 0..100 {
        let id = format!("deaf-{n}");
        in_time(guest.spawn(&id, &spec)).await.expect("it starts");
        let guest = guest.clone();
        writers.spawn(async move { guest.write_stdin(&id, 0, Bytes::from(vec![7; 1 << 20])).await });
    }
    // Full pipes, and readers of their output that do not read.
    in_time(eventually("the last pipe is full", async || {
        guest.status("deaf-99").await.expect("it is known").stdin_taken == 64 * 1024
    }))
    .await;
    let output = in_time(guest.run("fine", &sh("seq 1 200000"), 2 << 20)).await.expect("it runs");
    assert!(output.stdout == seq(200_000));
    in_time(guest.spawn("echo", &cat())).await.expect("it starts");
    in_time(guest.write_stdin("echo", 0, Bytes::from(vec![1; 10_000]))).await.expect("taken");
    assert!(writers.try_join_next().is_none(), "the others still wait");
    guest.close();
    while let Some(ended) = in_time(writers.join_next()).await {
        assert_eq!(ended.expect("no panic"), Err(LinkError::Closed));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_give_up_harm_no_one() {
    let Some(sandbox) = Sandbox::start().await else { return };
    let guest = &sandbox.guest;
    in_time(guest.spawn("full", &sh("seq 1 1000000"))).await.expect("it starts");
    let exit = guest.exit("full");
    let give_up = async {
        for _ in 0..4 {
            let mut readers: Vec<_> = (0..500).map(|_| guest.output("full", Output::Stdout, 0)).collect();
            for reader in &mut readers {
                in_time(reader.next()).await.expect("more").expect("more");
            }
            drop(readers);
            in_time(guest.run("small", &sh("true"), 0)).await.expect("it runs");
        }
        in_time(read_all(guest, "full", Output::Stdout)).await
    };
    let (exit, read) = in_time(async { tokio::join!(exit, give_up) }).await;
    assert!(read.expect("all of it") == seq(1_000_000));
    assert!(exit.expect("the link held").is_success());
}
