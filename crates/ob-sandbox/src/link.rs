//! The host's side of the guest link. See [`ob_core::link`] for the vocabulary.
//!
//! A [`Guest`] is the host's lasting handle to one sandbox's guest; connections come and go under it. Every request
//! waits for a connection, and is repeated on the next one if it is cut: the protocol makes that harmless.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use ob_core::link::Ack;
use ob_core::link::ExitStatus;
use ob_core::link::ProcessSpec;
use ob_core::link::ProcessStatus;

/// One of a process's two output streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Why a request to a guest failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The guest refused: it does not know the process, could not start it, or has forgotten the bytes.
    #[error("the guest refused ({code}): {message}")]
    Refused {
        /// Its code.
        code: String,
        /// Its words, bounded.
        message: String,
    },
    /// The guest said something that it must not.
    #[error("the guest broke the protocol: {what}")]
    Protocol {
        /// What.
        what: String,
    },
    /// The handle was closed, because the sandbox ended.
    #[error("the guest is gone")]
    Closed,
    /// No connection came in time.
    #[error("the guest did not dial within {0:?}")]
    TimedOut(Duration),
}

/// The host's lasting handle to one guest. Cheap to clone.
#[derive(Clone)]
pub struct Guest {
    _shared: Arc<()>,
}

/// What a finished command wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandOutput {
    /// How it ended.
    pub exit: ExitStatus,
    /// Standard output, up to the cap.
    pub stdout: Vec<u8>,
    /// Standard error, up to the cap.
    pub stderr: Vec<u8>,
    /// True if either was cut at the cap.
    pub truncated: bool,
}

// === impl Guest ===

impl Guest {
    /// A handle without a connection.
    pub fn new() -> Self {
        todo!()
    }

    /// Takes a connection that the guest dialled and upgraded. The newest live one is used: an earlier one that is
    /// still alive is replaced. Returns when the connection is over.
    pub async fn serve<I>(&self, _io: I)
    where
        I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    {
        todo!()
    }

    /// True while a connection is up.
    pub fn is_connected(&self) -> bool {
        todo!()
    }

    /// Waits until a connection is up.
    pub async fn connected(&self, _within: Duration) -> Result<(), LinkError> {
        todo!()
    }

    /// No request will succeed any more, and those that wait fail now.
    pub fn close(&self) {
        todo!()
    }

    /// Starts a process under a name; the same name again changes nothing.
    pub async fn spawn(&self, _id: &str, _spec: &ProcessSpec) -> Result<(), LinkError> {
        todo!()
    }

    /// Where a process stands.
    pub async fn status(&self, _id: &str) -> Result<ProcessStatus, LinkError> {
        todo!()
    }

    /// The bytes of a stream from `offset` on, across cuts of the connection, until the end of the stream.
    pub fn output(
        &self,
        _id: &str,
        _output: Output,
        _offset: u64,
    ) -> BoxStream<'static, Result<Bytes, LinkError>> {
        todo!()
    }

    /// Tells that bytes below these offsets may be forgotten.
    pub async fn ack(&self, _id: &str, _ack: Ack) -> Result<(), LinkError> {
        todo!()
    }

    /// Writes bytes that begin at `offset` of the input, all of them; what was already taken is skipped. Returns the
    /// offset behind them.
    pub async fn write_stdin(&self, _id: &str, _offset: u64, _bytes: Bytes) -> Result<u64, LinkError> {
        todo!()
    }

    /// Closes the input, after `offset` bytes.
    pub async fn close_stdin(&self, _id: &str, _offset: u64) -> Result<(), LinkError> {
        todo!()
    }

    /// Sends a signal to the process group.
    pub async fn signal(&self, _id: &str, _signal: i32) -> Result<(), LinkError> {
        todo!()
    }

    /// Waits for the end of a process.
    pub async fn exit(&self, _id: &str) -> Result<ExitStatus, LinkError> {
        todo!()
    }

    /// Forgets a process that has exited.
    pub async fn forget(&self, _id: &str) -> Result<(), LinkError> {
        todo!()
    }

    /// Runs a command to its end, keeping at most `cap` bytes of each stream, then forgets it.
    pub async fn run(&self, _id: &str, _spec: &ProcessSpec, _cap: usize) -> Result<CommandOutput, LinkError> {
        todo!()
    }
}

impl Default for Guest {
    fn default() -> Self {
        Self::new()
    }
}
