//! The server's side of a launcher: starts it, and speaks to it over its control socket.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use ob_core::Epoch;
use ob_core::Timestamp;
use ob_core::launch::CONTROL_SOCKET;
use ob_core::launch::ControlAnswer;
use ob_core::launch::ControlRequest;
use ob_core::launch::END_FILE;
use ob_core::launch::ENFORCEMENT_FILE;
use ob_core::launch::EndRecord;
use ob_core::launch::GROUPS_FILE;
use ob_core::launch::LOG_FILE;
use ob_core::launch::LaunchAnswer;
use ob_core::launch::LaunchPlan;
use ob_core::launch::MAX_LINE;
use ob_core::resource::Enforcement;
use ob_core::resource::LimitHit;
use tokio::io::AsyncBufReadExt as _;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::io::BufReader;
use tokio::net::UnixStream;
use tokio::process::Command;

use super::claim::Claim;
use crate::SandboxEnd;

/// The name that processes of a sandbox show: neutral, so that a search for the product finds servers only.
const ARGV0: &str = "sandbox";
/// A launcher that takes longer to start is stuck.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// A launcher that takes longer to answer is stuck.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The kernel needs this long at most to take a killed sandbox apart, with the last writes of a slow disk.
const END_TIMEOUT: Duration = Duration::from_secs(30);
/// The program was written a moment ago, and another thread's child may hold it open for writing until its exec.
const BUSY_TRIES: u32 = 20;

/// A connection on which a launcher knows that its server is there.
#[derive(Debug)]
pub(super) struct Hold {
    stream: BufReader<UnixStream>,
}

/// What became of asking to hold a sandbox.
#[derive(Debug)]
pub(super) enum Taken {
    /// It runs, and knows that we are there.
    Held(Hold),
    /// A later server owns it.
    Owned,
    /// No launcher is there.
    Missing,
}

/// What became of telling a sandbox to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// Nothing of it is left.
    Ended,
    /// A later server owns it: it goes on.
    Owned,
    /// No launcher is there.
    Missing,
}

/// Tells one launcher's list of groups from another one's in the same folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GroupsMark {
    inode: u64,
    changed: (i64, i64),
}

// === impl GroupsMark ===

impl GroupsMark {
    /// The list that is in `runtime` now, if one is.
    pub(super) fn of(runtime: &Path) -> Option<Self> {
        let found = std::fs::symlink_metadata(runtime.join(GROUPS_FILE)).ok()?;
        Some(Self { inode: found.ino(), changed: (found.ctime(), found.ctime_nsec()) })
    }
}

/// Starts a launcher and gives it the plan; returns how it holds the limits, or why it failed.
///
/// Nothing but the program, its arguments and standard descriptors is set on the command: so the standard library
/// uses `posix_spawn`, whose cost does not grow with the server's memory.
pub(super) async fn start(program: &Path, plan: &LaunchPlan) -> Result<Enforcement, String> {
    let text = serde_json::to_vec(plan).map_err(|e| format!("its plan cannot be written: {e}"))?;
    let log = std::fs::File::create(plan.runtime.join(LOG_FILE)).map_err(|e| format!("its log: {e}"))?;
    let mut command = Command::new(program);
    command
        .arg0(ARGV0)
        .arg("launch")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        .kill_on_drop(false);
    if !plan.keeps_environment {
        command.env_clear();
    }
    let mut tries = 0;
    let mut child = loop {
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && tries < BUSY_TRIES => {
                tries += 1;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            spawned => break spawned.map_err(|e| format!("cannot start its launcher: {e}"))?,
        }
    };
    let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err("its launcher has no pipes".into());
    };
    let talk = async {
        // A launcher that fails early does not read it all; its answer says why.
        let written = stdin.write_all(&text).await;
        drop(stdin);
        let mut line = Vec::new();
        BufReader::new(stdout.take(MAX_LINE as u64)).read_until(b'\n', &mut line).await?;
        if line.is_empty() {
            written?;
        }
        io::Result::Ok(line)
    };
    let line = tokio::time::timeout(START_TIMEOUT, talk).await;
    let answer = match line {
        Ok(Ok(line)) => serde_json::from_slice(&line).map_err(|_| "its launcher gave no answer".to_owned()),
        Ok(Err(error)) => Err(format!("its launcher does not listen: {error}")),
        Err(_) => Err(format!("its launcher did not answer within {START_TIMEOUT:?}")),
    };
    if answer.is_err() {
        // It may be stuck; what it started dies with it.
        child.start_kill().ok();
    }
    // It is our child until we are gone; somebody has to reap it.
    drop(tokio::spawn(async move { child.wait().await }));
    match answer? {
        LaunchAnswer::Ok { enforcement } => Ok(enforcement),
        LaunchAnswer::Error(what) => Err(what),
    }
}

// === impl Hold ===

impl Hold {
    /// Tells the launcher in `runtime` that its server is there.
    pub(super) async fn take(runtime: &Path, epoch: Epoch) -> io::Result<Taken> {
        let Some(mut stream) = dial(runtime).await? else { return Ok(Taken::Missing) };
        Ok(match ask(&mut stream, ControlRequest::Hold { epoch }, ANSWER_TIMEOUT).await? {
            Some(ControlAnswer::Running) => Taken::Held(Self { stream }),
            Some(ControlAnswer::Owned) => Taken::Owned,
            Some(ControlAnswer::Ended | ControlAnswer::Limit(_)) | None => Taken::Missing,
        })
    }

    /// The next limit that the sandbox reached; `None` once the launcher is gone.
    pub(super) async fn next_hit(&mut self) -> Option<LimitHit> {
        let mut line = Vec::new();
        loop {
            line.clear();
            match (&mut self.stream).take(MAX_LINE as u64).read_until(b'\n', &mut line).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
            if let Ok(ControlAnswer::Limit(hit)) = serde_json::from_slice(&line) {
                return Some(hit);
            }
        }
    }
}

/// Ends the sandbox whose launcher is in `runtime`; returns when nothing of it is left.
pub(super) async fn end(runtime: &Path, epoch: Epoch) -> io::Result<Told> {
    let Some(mut stream) = dial(runtime).await? else { return Ok(Told::Missing) };
    let peer = stream.get_ref().peer_cred()?.pid();
    match ask(&mut stream, ControlRequest::End { epoch }, END_TIMEOUT).await {
        Ok(Some(ControlAnswer::Owned)) => Ok(Told::Owned),
        // Or it ended for another reason while we asked.
        Ok(_) => Ok(Told::Ended),
        Err(error) => {
            // Stuck or broken: the kernel ends the rest with it. The peer is who listens, so it is the launcher. One that
            // says nothing cannot say either whose it is; its folder does.
            if let Ok(Claim::Ours(_)) = Claim::take(runtime, epoch).await
                && let Some(pid) = peer.and_then(rustix::process::Pid::from_raw)
            {
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
            }
            Err(error)
        }
    }
}

/// True if a launcher listens in `runtime`.
pub(super) async fn is_there(runtime: &Path) -> bool {
    matches!(dial(runtime).await, Ok(Some(_)))
}

/// How the sandbox of a launcher that is gone ended.
pub(super) fn recorded_end(runtime: &Path, now: Timestamp) -> SandboxEnd {
    let record = std::fs::read(runtime.join(END_FILE))
        .ok()
        .and_then(|text| serde_json::from_slice::<EndRecord>(&text).ok());
    match record {
        Some(record) => SandboxEnd {
            reason: record.reason,
            at: Timestamp::from_micros(record.at_micros),
            limit: record.limit,
        },
        None if runtime.exists() => {
            SandboxEnd { reason: "its launcher was killed".into(), at: now, limit: None }
        }
        None => SandboxEnd { reason: "nothing is known of it".into(), at: now, limit: None },
    }
}

/// How the limits of a sandbox are held, as its launcher noted.
pub(crate) fn recorded_enforcement(runtime: &Path) -> Option<Enforcement> {
    let text = std::fs::read(runtime.join(ENFORCEMENT_FILE)).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Groups that a launcher which was killed left behind, emptied and removed.
pub(super) async fn remove_leftover_groups(runtime: &Path) {
    let Ok(text) = std::fs::read(runtime.join(GROUPS_FILE)) else { return };
    let Ok(groups) = serde_json::from_slice::<Vec<std::path::PathBuf>>(&text) else { return };
    for group in groups {
        let mut pause = Duration::from_millis(1);
        // Members die with the launcher; the last ones may take a moment.
        while group.is_dir() && std::fs::remove_dir(&group).is_err() && pause < Duration::from_secs(1) {
            if std::fs::write(group.join("cgroup.kill"), "1").is_err() {
                let members = std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
                for pid in members.lines().filter_map(|l| rustix::process::Pid::from_raw(l.parse().ok()?)) {
                    rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
                }
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }
}

async fn dial(runtime: &Path) -> io::Result<Option<BufReader<UnixStream>>> {
    match UnixStream::connect(runtime.join(CONTROL_SOCKET)).await {
        Ok(stream) => Ok(Some(BufReader::new(stream))),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Asks and reads one answer; `None` if the launcher hung up first.
async fn ask(
    stream: &mut BufReader<UnixStream>,
    request: ControlRequest,
    within: Duration,
) -> io::Result<Option<ControlAnswer>> {
    let mut line = serde_json::to_vec(&request)?;
    line.push(b'\n');
    let talk = async {
        match stream.get_mut().write_all(&line).await {
            Err(error) if !is_hang_up(&error) => return Err(error),
            _ => line.clear(),
        }
        match stream.take(MAX_LINE as u64).read_until(b'\n', &mut line).await {
            Err(error) if !is_hang_up(&error) => Err(error),
            Ok(0) | Err(_) => Ok(None),
            Ok(_) => Ok(Some(serde_json::from_slice(&line)?)),
        }
    };
    tokio::time::timeout(within, talk).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

fn is_hang_up(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}
