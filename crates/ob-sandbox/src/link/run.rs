//! Running a command to its end.

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::stream::StreamExt as _;
use ob_core::link::Ack;
use ob_core::link::ExitStatus;
use ob_core::link::ProcessSpec;
use ob_core::link::STREAM_WINDOW;

use super::CommandOutput;
use super::Guest;
use super::LinkError;
use super::Output;

/// Acknowledge at the latest after this many bytes: often enough that the process never blocks for long.
const ACK_EVERY: u64 = STREAM_WINDOW as u64 / 4;
/// The most bytes that a pipe can hold for an unprivileged process (`/proc/sys/fs/pipe-max-size`).
const PIPE_MOST: u64 = 1024 * 1024;

/// One stream of the command.
///
/// A descendant may hold it open for ever, so after the process's end it is over where the process's own bytes end:
/// the guest has read those when it has room for more, at the latest after one full pipe.
struct Captured {
    bytes: BoxStream<'static, Result<Bytes, LinkError>>,
    kept: Vec<u8>,
    cap: usize,
    /// Bytes that came.
    at: u64,
    has_ended: bool,
    /// Where to look again.
    next_look: u64,
    /// Nothing behind this is waited for.
    goal: Option<u64>,
}

/// See [`Guest::run`].
pub(super) async fn run(
    guest: &Guest,
    id: &str,
    spec: &ProcessSpec,
    cap: usize,
) -> Result<CommandOutput, LinkError> {
    guest.spawn(id, spec).await?;
    let mut stdout = Captured::new(guest, id, Output::Stdout, cap);
    let mut stderr = Captured::new(guest, id, Output::Stderr, cap);
    let mut exit: Option<ExitStatus> = None;
    let mut exiting = std::pin::pin!(guest.exit(id));
    let mut acked = Ack::default();
    let exit = loop {
        if let Some(exit) = exit {
            if stdout.is_over() && stderr.is_over() {
                break exit;
            }
            if stdout.wants_look() || stderr.wants_look() {
                acked = Ack { stdout: stdout.at, stderr: stderr.at };
                guest.ack(id, acked).await?;
                let status = guest.status(id).await?;
                stdout.look(status.stdout_end);
                stderr.look(status.stderr_end);
                continue;
            }
        }
        if stdout.at - acked.stdout >= ACK_EVERY || stderr.at - acked.stderr >= ACK_EVERY {
            acked = Ack { stdout: stdout.at, stderr: stderr.at };
            guest.ack(id, acked).await?;
        }
        tokio::select! {
            biased;
            more = stdout.next(), if !stdout.is_over() => more?,
            more = stderr.next(), if !stderr.is_over() => more?,
            ended = &mut exiting, if exit.is_none() => exit = Some(ended?),
        }
    };
    guest.forget(id).await?;
    Ok(CommandOutput {
        exit,
        truncated: stdout.is_truncated() || stderr.is_truncated(),
        stdout: stdout.kept,
        stderr: stderr.kept,
    })
}

// === impl Captured ===

impl Captured {
    fn new(guest: &Guest, id: &str, output: Output, cap: usize) -> Self {
        Self {
            bytes: guest.output(id, output, 0),
            kept: Vec::new(),
            cap,
            at: 0,
            has_ended: false,
            next_look: 0,
            goal: None,
        }
    }

    /// Takes the next bytes, or notes the end.
    async fn next(&mut self) -> Result<(), LinkError> {
        match self.bytes.next().await.transpose()? {
            None => self.has_ended = true,
            Some(bytes) => {
                self.at += bytes.len() as u64;
                let room = self.cap - self.kept.len();
                self.kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
        }
        Ok(())
    }

    /// True if nothing more is waited for. Before the process's end, that is only the stream's own end.
    fn is_over(&self) -> bool {
        self.has_ended || self.goal.is_some_and(|goal| self.at >= goal)
    }

    /// True if all that was known to be there has come.
    fn wants_look(&self) -> bool {
        !self.is_over() && self.at >= self.next_look
    }

    /// Takes note of where the guest's reading ends, all that came having been acknowledged.
    fn look(&mut self, end: u64) {
        self.next_look = end;
        if end.saturating_sub(self.at) < STREAM_WINDOW as u64 {
            self.goal = Some(self.goal.map_or(end, |goal| goal.min(end)));
        } else if self.goal.is_none() {
            self.goal = Some(end.saturating_add(PIPE_MOST));
        }
    }

    fn is_truncated(&self) -> bool {
        self.at > self.kept.len() as u64
    }
}
