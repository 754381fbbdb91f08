//! Starting, signalling, reaping and forgetting.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use ob_core::link::Ack;
use ob_core::link::ExitStatus;
use ob_core::link::MAX_PROCESSES;
use ob_core::link::ProcessSpec;
use ob_sandbox::link::LinkError;
use ob_sandbox::link::Output;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::harness::Sandbox;
use super::harness::cat;
use super::harness::eventually;
use super::harness::in_time;
use super::harness::refusal;
use super::harness::sh;

const TERM: i32 = 15;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_gets_its_environment_and_folder_and_gives_its_output_and_code() {
    let Some(sandbox) = Sandbox::start().await else { return };
    let mut spec = sh("echo \"$GREETING\"; pwd; echo oh >&2; cat; exit 3");
    spec.env.insert("GREETING".into(), "good day".into());
    spec.cwd = Some("/usr".into());
    let output = in_time(sandbox.guest.run("greet", &spec, 1000)).await.expect("it runs");
    assert_eq!(output.exit, ExitStatus { code: Some(3), signal: None });
    assert_eq!(String::from_utf8_lossy(&output.stdout), "good day\n/usr\n");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "oh\n");
    assert!(!output.truncated);
    assert_eq!(refusal(in_time(sandbox.guest.status("greet")).await), "not_found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_is_looked_up_in_the_path_that_it_is_given() {
    let Some(sandbox) = Sandbox::start().await else { return };
    let program = sandbox.path("only-here");
    fs::write(&program, "#!/bin/sh\necho found\n").expect("a file");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&program, mode).expect("our file");
    let mut spec = ProcessSpec { argv: vec!["only-here".into()], ..sh("") };
    assert_eq!(refusal(in_time(sandbox.guest.run("a", &spec, 100)).await), "spawn_failed");
    spec.env.insert("PATH".into(), format!("/usr/bin:/bin:{}", sandbox.dir.path().display()));
    let output = in_time(sandbox.guest.run("a", &spec, 100)).await.expect("it runs");
    assert_eq!(output.stdout, b"found\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn output_above_the_cap_is_cut_and_says_so() {
    let Some(sandbox) = Sandbox::start().await else { return };
    let output = in_time(sandbox.guest.run("big", &sh("seq 1 1000000"), 1000)).await.expect("it runs");
    assert!(output.truncated && output.exit.is_success());
    assert_eq!(output.stdout, &super::harness::seq(1000)[..1000]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starting_the_same_name_again_changes_nothing() {
    let Some(sandbox) = Sandbox::start().await else { return };
    let spec = sh("echo started >> log; read line");
    let starts = join_all((0..20).map(|_| sandbox.guest.spawn("once", &spec)));
    for started in in_time(starts).await {
        started.expect("every start is good");
    }
    in_time(sandbox.guest.exit("once")).await.expect("it ends");
    in_time(sandbox.guest.spawn("once", &spec)).await.expect("also after its end");
    assert_eq!(sandbox.read("log"), "started\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_started_is_refused_with_the_reason() {
    let Some(sandbox) = Sandbox::start().await else { return };
    let program = |argv: &[&str]| ProcessSpec { argv: argv.iter().map(|a| (*a).into()).collect(), ..sh("") };
    let missing_cwd = ProcessSpec { cwd: Some("/no/such/folder".into()), ..sh("true") };
    let file_cwd = ProcessSpec { cwd: Some("/etc/passwd".into()), ..sh("true") };
    let mut bad_env = sh("true");
    bad_env.env.insert("A=B".into(), String::new());
    let cases = [
        (program(&["no-such-program"]), "spawn_failed", "no-such-program: No such file or directory"),
        (program(&["/etc/passwd"]), "spawn_failed", "Permission denied"),
        (missing_cwd, "spawn_failed", "/no/such/folder: No such file or directory"),
        (file_cwd, "spawn_failed", "/etc/passwd: not a directory"),
        (program(&[]), "invalid", "no program"),
        (program(&[""]), "invalid", "no program"),
        (program(&["a\0b"]), "invalid", "zero byte"),
        (bad_env, "invalid", "equals sign"),
        (program(&["true", &"x".repeat(300_000)]), "invalid", "larger than"),
        (program(&["true", &"x".repeat(200_000)]), "spawn_failed", "Argument list too long"),
    ];
    for (spec, code, words) in cases {
        let error = in_time(sandbox.guest.spawn("bad", &spec)).await.expect_err(words);
        let LinkError::Refused { code: got, message } = error else { panic!("{error:?}") };
        assert_eq!(got, code, "{message}");
        assert!(message.contains(words), "{message}");
    }
    for id in ["", "UP", "a/b", "..%2f", &"x".repeat(65)] {
        assert_eq!(refusal(in_time(sandbox.guest.spawn(id, &sh("true"))).await), "invalid");
    }
    // Nothing stayed behind.
    assert_eq!(refusal(in_time(sandbox.guest.status("bad")).await), "not_found");
    eventually("no child is left", async || sandbox.children().is_empty()).await;
    in_time(sandbox.guest.run("bad", &sh("true"), 0)).await.expect("the name is free");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_about_an_unknown_process_are_refused() {
    let Some(sandbox) = Sandbox::start().await else { return };
    let guest = &sandbox.guest;
    assert_eq!(refusal(in_time(guest.status("x")).await), "not_found");
    assert_eq!(refusal(in_time(guest.exit("x")).await), "not_found");
    assert_eq!(refusal(in_time(guest.signal("x", TERM)).await), "not_found");
    assert_eq!(refusal(in_time(guest.ack("x", Ack::default())).await), "not_found");
    assert_eq!(refusal(in_time(guest.write_stdin("x", 0, Bytes::from_static(b"a"))).await), "not_found");
    assert_eq!(refusal(in_time(guest.close_stdin("x", 0)).await), "not_found");
    assert_eq!(
        refusal(in_time(guest.output("x", Output::Stdout, 0).next()).await.expect("an item")),
        "not_found"
    );
    in_time(guest.forget("x")).await.expect("what is not known is forgotten");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_reaches_the_whole_group_and_the_dead_are_reaped() {
    let Some(sandbox) = Sandbox::start().await else { return };
    let guest = &sandbox.guest;
    in_time(guest.spawn("group", &sh("sleep 1000 & echo $!; wait"))).await.expect("it starts");
    let line =
        in_time(guest.output("group", Output::Stdout, 0).next()).await.expect("a line").expect("a line");
    let grandchild = format!("/proc/{}", String::from_utf8_lossy(&line).trim());
    assert!(fs::exists(&grandchild).expect("proc"), "the positive control: it runs");
    assert_eq!(refusal(in_time(guest.signal("group", 0)).await), "invalid");
    assert_eq!(refusal(in_time(guest.signal("group", 999)).await), "invalid");
    in_time(guest.signal("group", TERM)).await.expect("it is signalled");
    let exit = in_time(guest.exit("group")).await.expect("it ends");
    assert_eq!(exit, ExitStatus { code: None, signal: Some(TERM) });
    eventually("the grandchild is gone", async || !fs::exists(&grandchild).expect("proc")).await;
    eventually("all are reaped", async || sandbox.children().is_empty()).await;
    in_time(guest.signal("group", TERM)).await.expect("a signal to no one is no error");
    in_time(guest.forget("group")).await.expect("it has exited");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orphans_are_adopted_and_reaped() {
    let Some(sandbox) = Sandbox::start().await else { return };
    let script = "for n in $(seq 50); do (sleep 0.0$n &); done; sleep 1000";
    in_time(sandbox.guest.spawn("orphans", &sh(script))).await.expect("it starts");
    eventually("some were adopted", async || sandbox.children().len() > 1).await;
    eventually("only the process is left", async || sandbox.children().len() == 1).await;
    in_time(sandbox.guest.signal("orphans", 9)).await.expect("it is signalled");
    eventually("nothing is left", async || sandbox.children().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_is_known_though_a_grandchild_holds_the_output() {
    let Some(sandbox) = Sandbox::start().await else { return };
    let guest = &sandbox.guest;
    for (id, script, want) in [
        ("quiet", "sleep 1000 & echo hi", b"hi\n".to_vec()),
        ("more", "sleep 1000 & seq 1 100000", super::harness::seq(100_000)),
    ] {
        let output = in_time(guest.run(id, &sh(script), 1 << 20)).await.expect("it runs");
        assert!(output.exit.is_success());
        assert!(output.stdout == want, "{id}: {} bytes", output.stdout.len());
    }
    // One that never stops writing does not hold up its parent's result either.
    let output = in_time(guest.run("noisy", &sh("echo first; yes & exit 4"), 6)).await.expect("it runs");
    assert_eq!(output.exit.code, Some(4));
    assert_eq!(output.stdout, b"first\n");

    in_time(guest.spawn("kept", &sh("sleep 1000 & echo hi"))).await.expect("it starts");
    let mut stream = guest.output("kept", Output::Stdout, 0);
    assert_eq!(&in_time(stream.next()).await.expect("a line").expect("a line")[..], b"hi\n");
    assert!(in_time(guest.exit("kept")).await.expect("it ends").is_success());
    let more = tokio::time::timeout(Duration::from_millis(50), stream.next()).await;
    assert!(more.is_err(), "the stream is still open");
    // The group outlives its leader, and can still be ended.
    in_time(guest.signal("kept", 9)).await.expect("the group is signalled");
    assert!(in_time(stream.next()).await.is_none(), "the stream ends with its last writer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_many_processes_as_allowed_run_at_once_and_no_more() {
    let Some(sandbox) = Sandbox::start().await else { return };
    let guest = &sandbox.guest;
    let spec = cat();
    let ids: Vec<String> = (0..MAX_PROCESSES).map(|n| format!("p-{n}")).collect();
    for spawned in in_time(join_all(ids.iter().map(|id| guest.spawn(id, &spec)))).await {
        spawned.expect("there is room");
    }
    assert_eq!(sandbox.children().len(), MAX_PROCESSES);
    assert_eq!(refusal(in_time(guest.spawn("one-more", &sh("true"))).await), "too_many");
    assert_eq!(refusal(in_time(guest.forget("p-0")).await), "invalid");
    let echoes = ids.iter().map(|id| async move {
        let text = Bytes::from(id.clone().into_bytes());
        let taken = guest.write_stdin(id, 0, text.clone()).await?;
        guest.close_stdin(id, taken).await?;
        let echoed = super::harness::read_all(guest, id, Output::Stdout).await?;
        assert_eq!(echoed, text);
        assert!(guest.exit(id).await?.is_success());
        guest.forget(id).await
    });
    for echoed in in_time(join_all(echoes)).await {
        echoed.expect("every one echoes");
    }
    in_time(guest.run("one-more", &sh("true"), 0)).await.expect("there is room again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_was_started_anew_knows_no_process() {
    let Some(mut sandbox) = Sandbox::start().await else { return };
    in_time(sandbox.guest.spawn("lost", &sh("sleep 1000"))).await.expect("it starts");
    sandbox.restart_guest();
    assert_eq!(refusal(in_time(sandbox.guest.status("lost")).await), "not_found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_files_and_signals_of_the_guest_do_not_reach_its_processes() {
    let Some(sandbox) = Sandbox::start().await else { return };
    in_time(sandbox.guest.spawn("other", &cat())).await.expect("it starts");
    let script =
        "ls /proc/self/fd; grep -E 'Sig(Blk|Ign)' /proc/self/status; ulimit -n; ps -o sid= -p $$; echo $$";
    let output = in_time(sandbox.guest.run("look", &sh(script), 4000)).await.expect("it runs");
    let text = String::from_utf8(output.stdout).expect("text");
    let mut lines = text.lines();
    let fds: BTreeSet<&str> = lines.by_ref().take(4).collect();
    assert_eq!(fds, BTreeSet::from(["0", "1", "2", "3"]), "3 is the folder itself: {text}");
    for line in lines.by_ref().take(2) {
        let mask = line.split_whitespace().last().and_then(|mask| u64::from_str_radix(mask, 16).ok());
        let mask = mask.expect("a mask");
        let (pipe, child) = (1 << 12, 1 << 16);
        assert_eq!(mask & (pipe | child), 0, "{line}");
    }
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    assert_eq!(lines.next().and_then(|line| line.parse().ok()), limit, "{text}");
    let session = lines.next().map(str::trim);
    assert_eq!(session, lines.next(), "it leads its own session: {text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_loopback_port_leads_to_the_gate_and_waits_for_it() {
    let Some(mut sandbox) = Sandbox::start().await else { return };
    in_time(sandbox.guest.connected(Duration::from_secs(60))).await.expect("it dials");
    async fn echo(port: u16) -> Vec<u8> {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
        stream.write_all(b"POST /echo HTTP/1.1\r\n\r\nand more").await.expect("it reads");
        stream.shutdown().await.expect("half of it is closed");
        let mut echoed = Vec::new();
        stream.read_to_end(&mut echoed).await.expect("it answers");
        echoed
    }
    assert_eq!(in_time(echo(sandbox.port)).await, b"POST /echo HTTP/1.1\r\n\r\nand more");
    sandbox.stop_server().await;
    let waiting = tokio::spawn(echo(sandbox.port));
    tokio::task::yield_now().await;
    sandbox.start_server();
    assert_eq!(in_time(waiting).await.expect("no panic"), b"POST /echo HTTP/1.1\r\n\r\nand more");
    // Many more than are forwarded at once.
    for echoed in in_time(join_all((0..400).map(|_| echo(sandbox.port)))).await {
        assert_eq!(echoed.len(), 31);
    }
}
