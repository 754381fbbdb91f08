//! The processes that the host asked for, by the names that it gave them.
//!
//! ```text
//!   PUT ──> running ──(reaped)──> exited ──(DELETE)──> forgotten
//! ```
//!
//! A process is remembered, with its unacknowledged output, until the host forgets it. Its output streams end on
//! their own: a grandchild may hold a pipe long after the process exited.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use ob_core::link::Ack;
use ob_core::link::ExitStatus;
use ob_core::link::MAX_PROCESSES;
use ob_core::link::ProcessSpec;
use ob_core::link::ProcessStatus;
use ob_core::link::STREAM_WINDOW;
use rustix::process::Pid;
use rustix::process::Signal;
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::input::Input;
use super::input::InputError;
use super::spawn::SpawnError;
use super::spawn::Spawner;
use super::window::Window;

/// The most bytes of one read from a process; half of what a pipe holds.
const READ_SIZE: usize = 32 * 1024;
/// How many signal requests of a process are remembered, so that a repeated one is not sent again.
const SIGNALS_REMEMBERED: usize = 16;

/// Why the host's request was not carried out.
#[derive(Debug, thiserror::Error)]
pub(super) enum Denied {
    #[error("no process has the name {0}")]
    NotFound(String),
    #[error("{0}")]
    SpawnFailed(SpawnError),
    #[error("{0}")]
    Invalid(String),
    #[error("{MAX_PROCESSES} processes run or are remembered: forget some that have exited")]
    TooMany,
    #[error("the bytes at this offset were acknowledged and forgotten")]
    Gone,
}

/// All processes.
pub(super) struct Processes {
    spawner: Spawner,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    by_name: HashMap<String, Arc<Process>>,
    /// Those that were not reaped yet.
    by_pid: HashMap<Pid, Arc<Process>>,
}

/// One process.
pub(super) struct Process {
    name: String,
    /// Also the number of its session and process group.
    pid: Pid,
    exit: watch::Sender<Option<ExitStatus>>,
    /// None if its input is empty.
    input: Option<Input>,
    stdout: Output,
    stderr: Output,
    group: Mutex<Group>,
}

/// Where a process's signals go.
#[derive(Default)]
struct Group {
    /// The number may belong to someone else from now on.
    is_gone: bool,
    /// Requests that were carried out.
    done: VecDeque<u64>,
}

/// One output stream.
struct Output {
    window: Arc<watch::Sender<Window>>,
    pump: AbortHandle,
}

/// Names an output stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Channel {
    Stdout,
    Stderr,
}

// === impl Processes ===

impl Processes {
    pub(super) fn new(spawner: Spawner) -> Self {
        Self { spawner, table: Mutex::default() }
    }

    /// Starts a process, unless the name is taken: then it was started before.
    pub(super) fn start(&self, name: &str, spec: &ProcessSpec) -> Result<(), Denied> {
        let mut table = self.table();
        if table.by_name.contains_key(name) {
            return Ok(());
        }
        if table.by_name.len() >= MAX_PROCESSES {
            return Err(Denied::TooMany);
        }
        // The table stays locked until the pid is in it; there is one thread, and nothing here waits.
        let spawned = self.spawner.spawn(spec).map_err(|error| match error {
            SpawnError::Invalid(what) => Denied::Invalid(what.into()),
            other => Denied::SpawnFailed(other),
        })?;
        let attach = || {
            let input = spawned.stdin.map(Input::new).transpose()?;
            let stdout = Output::new(spawned.stdout)?;
            let stderr = Output::new(spawned.stderr)?;
            Ok::<_, io::Error>((input, stdout, stderr))
        };
        let (input, stdout, stderr) = attach().map_err(|source| {
            // Nobody would ever hear of it.
            rustix::process::kill_process_group(spawned.pid, Signal::KILL).ok();
            Denied::SpawnFailed(SpawnError::Pipes(source))
        })?;
        let process = Arc::new(Process {
            name: name.to_owned(),
            pid: spawned.pid,
            exit: watch::Sender::new(None),
            input,
            stdout,
            stderr,
            group: Mutex::default(),
        });
        // A number that is used again cannot be an earlier process's group any more.
        for other in table.by_name.values().filter(|other| other.pid == spawned.pid) {
            other.group().is_gone = true;
        }
        table.by_pid.insert(process.pid, Arc::clone(&process));
        table.by_name.insert(name.to_owned(), process);
        Ok(())
    }

    pub(super) fn get(&self, name: &str) -> Result<Arc<Process>, Denied> {
        self.table().by_name.get(name).cloned().ok_or_else(|| Denied::NotFound(name.to_owned()))
    }

    /// All of them, by name.
    pub(super) fn all(&self) -> Vec<ProcessStatus> {
        let mut all: Vec<_> = self.table().by_name.values().map(|process| process.status()).collect();
        all.sort_by(|a, b| a.id.cmp(&b.id));
        all
    }

    /// Forgets a process that has exited, with whatever it wrote. One that is not known is forgotten already.
    pub(super) fn forget(&self, name: &str) -> Result<(), Denied> {
        let mut table = self.table();
        if let Some(process) = table.by_name.get(name) {
            if process.exit.borrow().is_none() {
                return Err(Denied::Invalid(format!("{name} still runs: end it first")));
            }
            table.by_name.remove(name);
        }
        Ok(())
    }

    /// Notes how the child `pid` ended; children that nobody asked for are orphans of our processes.
    pub(super) fn reaped(&self, pid: Pid, status: ExitStatus) {
        let process = self.table().by_pid.remove(&pid);
        if let Some(process) = process {
            process.exit.send_replace(Some(status));
        }
    }

    /// Finds the process groups of exited processes that have no member left.
    pub(super) fn check_groups(&self) {
        for process in self.table().by_name.values() {
            if process.exit.borrow().is_some() {
                let mut group = process.group();
                group.is_gone =
                    group.is_gone || rustix::process::test_kill_process_group(process.pid).is_err();
            }
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Process ===

impl Process {
    pub(super) fn status(&self) -> ProcessStatus {
        ProcessStatus {
            id: self.name.clone(),
            stdin_taken: self.input.as_ref().map_or(0, Input::taken),
            stdout_end: self.stdout.window.borrow().end(),
            stderr_end: self.stderr.window.borrow().end(),
            exit: *self.exit.borrow(),
        }
    }

    /// Waits for its end.
    pub(super) async fn exited(&self) -> Option<ExitStatus> {
        self.exit.subscribe().wait_for(Option::is_some).await.ok().and_then(|status| *status)
    }

    pub(super) fn window(&self, channel: Channel) -> &Arc<watch::Sender<Window>> {
        match channel {
            Channel::Stdout => &self.stdout.window,
            Channel::Stderr => &self.stderr.window,
        }
    }

    pub(super) fn acknowledge(&self, ack: Ack) -> Result<(), Denied> {
        let offsets = [(&self.stdout, ack.stdout), (&self.stderr, ack.stderr)];
        // Both or neither.
        if offsets.iter().any(|(output, offset)| *offset > output.window.borrow().end()) {
            return Err(Denied::Invalid("acknowledges bytes that were never read".into()));
        }
        for (output, offset) in offsets {
            output.window.send_if_modified(|window| window.acknowledge(offset).unwrap_or(false));
        }
        Ok(())
    }

    /// Takes input; see [`Input::take`].
    pub(super) async fn take(&self, offset: u64, bytes: &[u8]) -> Result<(), Denied> {
        Ok(self.input()?.take(offset, bytes).await?)
    }

    /// Closes the input; see [`Input::close`].
    pub(super) fn close_input(&self, offset: u64) -> Result<(), Denied> {
        Ok(self.input()?.close(offset)?)
    }

    /// Signals its process group, once for each request that has a number. No one left to signal is no error.
    pub(super) fn signal(&self, signal: i32, request: Option<u64>) -> Result<(), Denied> {
        let Some(signal) = Signal::from_named_raw(signal) else {
            return Err(Denied::Invalid(format!("{signal} is no signal")));
        };
        let mut group = self.group();
        if request.is_some_and(|request| group.done.contains(&request)) || group.is_gone {
            return Ok(());
        }
        match rustix::process::kill_process_group(self.pid, signal) {
            Ok(()) => {}
            Err(rustix::io::Errno::SRCH) => group.is_gone = self.exit.borrow().is_some(),
            Err(error) => return Err(Denied::Invalid(format!("cannot signal: {error}"))),
        }
        if let Some(request) = request {
            group.done.truncate(SIGNALS_REMEMBERED - 1);
            group.done.push_front(request);
        }
        Ok(())
    }

    fn input(&self) -> Result<&Input, Denied> {
        self.input.as_ref().ok_or_else(|| Denied::Invalid("was started without input".into()))
    }

    fn group(&self) -> MutexGuard<'_, Group> {
        self.group.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Output ===

impl Output {
    fn new(pipe: OwnedFd) -> io::Result<Self> {
        let pipe = pipe::Receiver::from_owned_fd(pipe)?;
        let window = Arc::new(watch::Sender::new(Window::new(STREAM_WINDOW)));
        let pump = tokio::spawn(pump(pipe, Arc::clone(&window))).abort_handle();
        Ok(Self { window, pump })
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.pump.abort();
        self.window.send_modify(Window::abandon);
    }
}

// === impl Denied ===

impl From<InputError> for Denied {
    fn from(error: InputError) -> Self {
        Self::Invalid(error.to_string())
    }
}

/// Reads what a process writes, as long as there is room for it.
async fn pump(pipe: pipe::Receiver, window: Arc<watch::Sender<Window>>) {
    let mut changes = window.subscribe();
    loop {
        if changes.wait_for(|window| window.room() > 0).await.is_err() || pipe.readable().await.is_err() {
            break;
        }
        match fill(&pipe, &window) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => break,
        }
    }
    window.send_modify(Window::finish);
}

/// Reads once. Not part of the task above, so that each task does not hold the buffer.
fn fill(pipe: &pipe::Receiver, window: &watch::Sender<Window>) -> io::Result<usize> {
    let mut buffer = [0; READ_SIZE];
    let room = window.borrow().room().min(READ_SIZE);
    let count = pipe.try_read(&mut buffer[..room])?;
    if count > 0 {
        window.send_modify(|window| window.push(&buffer[..count]));
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::window::Read;
    use super::*;

    fn sh(script: &str) -> ProcessSpec {
        ProcessSpec {
            argv: ["sh", "-c", script].map(String::from).to_vec(),
            cwd: None,
            env: Default::default(),
            stdin: true,
        }
    }

    /// Waits until the process has written `count` bytes.
    async fn written(process: &Process, count: u64) {
        let mut changes = process.stdout.window.subscribe();
        changes.wait_for(|window| window.end() >= count).await.expect("the process is held");
    }

    #[tokio::test]
    async fn a_repeated_signal_request_is_carried_out_once() {
        let processes = Processes::new(Spawner::new(PathBuf::from("/")));
        processes.start("x", &sh("exec cat")).expect("it starts");
        let process = processes.get("x").expect("it is known");
        let (cont, kill) = (Signal::CONT.as_raw(), Signal::KILL.as_raw());
        process.signal(cont, Some(7)).expect("it is signalled");
        process.signal(kill, Some(7)).expect("carried out before");
        process.take(0, b"alive").await.expect("it reads");
        written(&process, 5).await;
        process.signal(kill, Some(8)).expect("it is signalled");
        let mut changes = process.stdout.window.subscribe();
        changes.wait_for(|window| window.read(5, 1) == Read::End).await.expect("the process is held");
    }

    #[tokio::test]
    async fn a_number_that_is_used_again_is_not_signalled_for_the_process_that_had_it() {
        let processes = Processes::new(Spawner::new(PathBuf::from("/")));
        processes.start("x", &sh("read line")).expect("it starts");
        let process = processes.get("x").expect("it is known");
        processes.reaped(process.pid, ExitStatus { code: Some(0), signal: None });
        processes.check_groups();
        assert!(!process.group().is_gone, "it has members");
        process.group().is_gone = true;
        process.signal(Signal::KILL.as_raw(), None).expect("no one is left to signal");
        rustix::process::test_kill_process_group(process.pid).expect("it still runs");
        rustix::process::kill_process_group(process.pid, Signal::KILL).expect("it is ours");
    }
}
