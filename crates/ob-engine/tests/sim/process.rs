//! A process in a sandbox, as its guest knows it: what it was given, what it wrote and what of that may be forgotten.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;

use bytes::Bytes;
use ob_core::link::Ack;
use ob_core::link::ExitStatus;
use ob_core::link::ProcessStatus;
use ob_core::link::STREAM_WINDOW;
use tokio::sync::watch;
use tokio::time::Instant;

/// What is kept of an agent's stream before it has to wait: small, so that it often has to.
const SMALL_WINDOW: usize = 2048;
/// The most bytes of one frame.
const FRAME: usize = 700;

/// See the module.
pub(crate) struct Process {
    name: String,
    /// Tells it from others of the same name.
    number: u64,
    born: Instant,
    /// The most bytes that are kept of each output.
    window: usize,
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    taken: u64,
    input: VecDeque<u8>,
    stdout: Window,
    stderr: Window,
    exit: Option<ExitStatus>,
}

/// What was written and not yet acknowledged.
#[derive(Default)]
struct Window {
    start: u64,
    kept: VecDeque<u8>,
    has_ended: bool,
}

/// One of the two outputs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Channel {
    Stdout,
    Stderr,
}

/// What there is from an offset on.
pub(crate) enum Read {
    Bytes(Bytes),
    Wait,
    End,
    Gone,
}

// === impl Process ===

impl Process {
    pub(crate) fn new(name: &str, number: u64, is_agent: bool) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            number,
            born: Instant::now(),
            // An agent's output is acknowledged with every commit, a command's only now and then.
            window: if is_agent { SMALL_WINDOW } else { STREAM_WINDOW },
            state: Mutex::default(),
            changed: watch::Sender::new(0),
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn key(&self) -> String {
        format!("{} {}", self.name, self.number)
    }

    pub(crate) fn born(&self) -> Instant {
        self.born
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no one panics with it")
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let outcome = change(&mut self.state());
        self.changed.send_modify(|changes| *changes += 1);
        outcome
    }

    /// Waits until `look` finds something.
    async fn until<T>(&self, mut look: impl FnMut(&mut State) -> Option<T>) -> T {
        let mut changed = self.changed.subscribe();
        loop {
            changed.borrow_and_update();
            if let Some(found) = look(&mut self.state()) {
                return found;
            }
            // It cannot close while we are here.
            changed.changed().await.ok();
        }
    }

    // --- the host's side ---

    pub(crate) fn status(&self) -> ProcessStatus {
        let state = self.state();
        ProcessStatus {
            id: self.name.clone(),
            stdin_taken: state.taken,
            stdout_end: state.stdout.end(),
            stderr_end: state.stderr.end(),
            exit: state.exit,
        }
    }

    /// Takes input; false if there is a hole before it.
    pub(crate) fn take(&self, from: u64, bytes: &[u8]) -> bool {
        self.change(|state| {
            if from > state.taken {
                return false;
            }
            let skip = usize::try_from(state.taken - from).unwrap_or(usize::MAX);
            let new = bytes.get(skip..).unwrap_or_default();
            state.taken += new.len() as u64;
            state.input.extend(new);
            true
        })
    }

    pub(crate) fn acknowledge(&self, ack: Ack) {
        self.change(|state| {
            state.stdout.forget(ack.stdout);
            state.stderr.forget(ack.stderr);
        });
    }

    pub(crate) fn read(&self, channel: Channel, offset: u64, most: usize) -> Read {
        self.state().window(channel).read(offset, most)
    }

    /// What there is, as soon as there is something.
    pub(crate) async fn wait(&self, channel: Channel, offset: u64) -> Read {
        self.until(|state| match state.window(channel).read(offset, FRAME) {
            Read::Wait => None,
            read => Some(read),
        })
        .await
    }

    pub(crate) async fn exited(&self) -> ExitStatus {
        self.until(|state| state.exit).await
    }

    // --- the process's side ---

    /// The next line of the input.
    pub(crate) async fn line(&self) -> String {
        self.until(|state| {
            let end = state.input.iter().position(|byte| *byte == b'\n')?;
            let line: Vec<u8> = state.input.drain(..=end).collect();
            Some(String::from_utf8_lossy(&line).into_owned())
        })
        .await
    }

    /// Writes all of it; waits while nobody takes what was written before.
    pub(crate) async fn write(&self, channel: Channel, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let written = self
                .until(|state| {
                    let window = state.window(channel);
                    let room = self.window.saturating_sub(window.kept.len()).min(bytes.len());
                    window.kept.extend(&bytes[..room]);
                    (room > 0).then_some(room)
                })
                .await;
            self.changed.send_modify(|changes| *changes += 1);
            bytes = &bytes[written..];
        }
    }

    /// It is over; the first end counts.
    pub(crate) fn exit(&self, code: Option<i32>, signal: Option<i32>) {
        self.change(|state| {
            state.exit.get_or_insert(ExitStatus { code, signal });
            state.stdout.has_ended = true;
            state.stderr.has_ended = true;
        });
    }
}

// === impl State ===

impl State {
    fn window(&mut self, channel: Channel) -> &mut Window {
        match channel {
            Channel::Stdout => &mut self.stdout,
            Channel::Stderr => &mut self.stderr,
        }
    }
}

// === impl Window ===

impl Window {
    fn end(&self) -> u64 {
        self.start + self.kept.len() as u64
    }

    fn read(&self, offset: u64, most: usize) -> Read {
        if offset < self.start || offset > self.end() {
            return Read::Gone;
        }
        let skip = usize::try_from(offset - self.start).unwrap_or(usize::MAX);
        let bytes: Vec<u8> = self.kept.iter().skip(skip).take(most).copied().collect();
        match (bytes.is_empty(), self.has_ended) {
            (false, _) => Read::Bytes(bytes.into()),
            (true, true) if offset == self.end() => Read::End,
            (true, _) => Read::Wait,
        }
    }

    fn forget(&mut self, below: u64) {
        let length =
            usize::try_from(below.saturating_sub(self.start)).unwrap_or(usize::MAX).min(self.kept.len());
        self.kept.drain(..length);
        self.start += length as u64;
    }
}
