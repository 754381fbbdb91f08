//! Running a command: its own process group, combined and bounded output, an end in every case.

use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::ExitStatus;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;
use tokio::process::Child;
use tokio::process::Command;
use tokio::time::Instant;

use super::Outcome;
use super::Place;
use super::kept::Output;
use super::resolve;
use crate::group;
use crate::group::Group;

/// How long a command may take if nothing else is asked for, in seconds.
pub(super) const DEFAULT_TIMEOUT: u64 = 120;
/// How long a command may take at most, in seconds.
pub(super) const MAX_TIMEOUT: u64 = 3600;
/// How much of the beginning and of the end of its output is kept, in bytes. Faults are mostly told at the end.
const HEAD: usize = 16 * 1024;
/// See [`HEAD`].
const TAIL: usize = 48 * 1024;
/// How long to read on after the end: a process that left the group may hold the pipe open for ever.
const DRAIN: Duration = Duration::from_millis(200);

/// Which command.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Arguments {
    pub(super) command: String,
    #[serde(default)]
    timeout_s: Option<u64>,
    #[serde(default)]
    cwd: Option<String>,
}

/// Runs it to its end.
pub(super) async fn run(place: &Place, arguments: &Arguments) -> Outcome {
    let seconds = arguments.timeout_s.unwrap_or(DEFAULT_TIMEOUT).clamp(1, MAX_TIMEOUT);
    let folder = match &arguments.cwd {
        Some(folder) => resolve(&place.cwd, folder),
        None => place.cwd.clone(),
    };
    if !folder.is_dir() {
        return failure(format!("cannot run it: `{}` is not a folder", folder.display()));
    }
    let (mut child, mut output) = match start(&arguments.command, &folder) {
        Ok(started) => started,
        Err(error) => return failure(format!("cannot run it: {error}")),
    };
    let Some(group) = Group::of(&child) else {
        return failure("cannot run it: it has no process".to_owned());
    };
    let mut printed = Output::new(&place.outputs, HEAD, TAIL);
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let status = tokio::select! {
        status = finish(&mut child, &mut output, &mut printed) => Some(status),
        () = tokio::time::sleep_until(deadline) => None,
    };
    // What it left in the background goes too, and then the pipe has an end.
    drop(group);
    let _open = tokio::time::timeout(DRAIN, read(&mut output, &mut printed)).await;
    let (mut text, rest) = printed.finish();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    let (ok, end, exit_code) = match status {
        Some(Ok(status)) => ended(status),
        Some(Err(error)) => (false, format!("its end is unknown: {error}"), None),
        None => (false, format!("killed: it took longer than {seconds} s"), None),
    };
    text.push_str(&end);
    Outcome { ok, text, exit_code, rest, ..Outcome::default() }
}

fn start(command: &str, folder: &Path) -> std::io::Result<(Child, Receiver)> {
    let (output, input) = std::io::pipe()?;
    let output = Receiver::from_owned_fd(OwnedFd::from(output))?;
    let mut shell = Command::new("/bin/sh");
    shell
        .arg("-c")
        .arg(command)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(input.try_clone()?)
        .stderr(input)
        .process_group(0)
        .kill_on_drop(true)
        // Nobody looks at a terminal, scrolls a pager or types a password here.
        .env("TERM", "dumb")
        .env("NO_COLOR", "1")
        .env("PAGER", "cat")
        .env("GIT_PAGER", "cat")
        .env("GIT_TERMINAL_PROMPT", "0");
    group::end_with_parent(&mut shell);
    // The command is dropped here, and with it our ends of what it writes to.
    Ok((shell.spawn()?, output))
}

/// Reads until the command has ended.
async fn finish(
    child: &mut Child,
    output: &mut Receiver,
    printed: &mut Output<'_>,
) -> std::io::Result<ExitStatus> {
    let mut is_open = true;
    let mut buffer = vec![0; 16 * 1024];
    loop {
        tokio::select! {
            count = output.read(&mut buffer), if is_open => match count {
                Ok(0) | Err(_) => is_open = false,
                Ok(count) => printed.push(&buffer[..count]),
            },
            status = child.wait() => return status,
        }
    }
}

/// Reads until the pipe has ended.
async fn read(output: &mut Receiver, printed: &mut Output<'_>) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = output.read(&mut buffer).await {
        printed.push(&buffer[..count]);
    }
}

fn ended(status: ExitStatus) -> (bool, String, Option<i32>) {
    match (status.code(), status.signal()) {
        (Some(code), _) => (true, format!("exit code: {code}"), Some(code)),
        (None, Some(signal)) => (false, format!("killed by signal {signal}"), None),
        (None, None) => (false, "it ended in an unknown way".to_owned(), None),
    }
}

fn failure(text: String) -> Outcome {
    Outcome { ok: false, text, ..Outcome::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::Pid;
    use rustix::process::test_kill_process;

    async fn run_with(arguments: serde_json::Value) -> Outcome {
        let arguments = serde_json::from_value(arguments).expect("they are arguments");
        let outputs = tempfile::tempdir().expect("a temporary folder");
        let place = Place { cwd: "/tmp".into(), outputs: outputs.path().to_owned() };
        run(&place, &arguments).await
    }

    fn is_running(pid: &str) -> bool {
        let pid = pid.trim().parse().ok().and_then(Pid::from_raw).expect("it is a process id");
        // A killed process may wait for its parent, which is not us.
        let stat =
            std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
        test_kill_process(pid).is_ok() && !stat.contains(") Z ")
    }

    #[tokio::test]
    async fn output_comes_in_order_and_with_its_exit_code() {
        let outcome = run_with(serde_json::json!({"command": "echo out; echo err >&2; exit 3"})).await;
        let expected = Outcome {
            ok: true,
            text: "out\nerr\nexit code: 3".to_owned(),
            exit_code: Some(3),
            ..Outcome::default()
        };
        assert_eq!(outcome, expected);
    }

    #[tokio::test]
    async fn a_command_that_takes_too_long_is_killed_with_its_children() {
        let outcome =
            run_with(serde_json::json!({"command": "sleep 300 & echo $!; sleep 300", "timeout_s": 1})).await;
        assert!(!outcome.ok && outcome.text.contains("killed: it took longer than 1 s"), "{outcome:?}");
        let pid = outcome.text.lines().next().expect("it printed a process id");
        while is_running(pid) {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_is_left_in_the_background_ends_with_the_command() {
        let outcome = run_with(serde_json::json!({"command": "sleep 300 & echo $!"})).await;
        assert!(outcome.ok, "{outcome:?}");
        let pid = outcome.text.lines().next().expect("it printed a process id");
        while is_running(pid) {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_process_that_keeps_the_output_open_does_not_hold_up_the_end() {
        let outcome = run_with(serde_json::json!({"command": "setsid sleep 5 & echo done"})).await;
        assert_eq!(outcome.text, "done\nexit code: 0");
    }

    #[tokio::test]
    async fn much_and_strange_output_becomes_bounded_text() {
        let outcome = run_with(serde_json::json!({
            "command": "printf '\\033[1mbold\\033[0m \\377\\n'; yes | head -c 50000000; echo last"
        }))
        .await;
        assert!(outcome.text.starts_with("bold \u{fffd}\n"));
        assert!(outcome.text.contains("bytes left out ...]"));
        assert!(outcome.text.ends_with("last\nexit code: 0"));
        assert!(outcome.text.len() <= HEAD + TAIL + 100);
        assert!(outcome.rest.is_some_and(|rest| rest.contains("the first 8388608 bytes of 500000")));
    }

    #[tokio::test]
    async fn what_cannot_be_run_says_why() {
        let outcome = run_with(serde_json::json!({"command": "true", "cwd": "no/such"})).await;
        assert!(!outcome.ok && outcome.text.contains("`/tmp/no/such` is not a folder"), "{outcome:?}");
        let outcome = run_with(serde_json::json!({"command": "nul\u{0}"})).await;
        assert!(!outcome.ok && outcome.text.contains("cannot run it"), "{outcome:?}");
        let outcome = run_with(serde_json::json!({"command": "kill -9 $$"})).await;
        assert_eq!((outcome.ok, outcome.text.as_str()), (false, "killed by signal 9"));
    }
}
