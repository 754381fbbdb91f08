//! The host's side of the guest link. See [`ob_core::link`] for the vocabulary.
//!
//! A [`Guest`] is the host's lasting handle to one sandbox's guest; connections come and go under it. Every request
//! waits for a connection, and is repeated on the next one if it is cut: the protocol makes that harmless.
//!
//! ```text
//!   requests ──wait──> connection n ──cut──> (none) ──dial──> connection n+1 ──close()──> closed
//! ```
//!
//! Whatever comes from the guest is hostile: headers, frames, bodies and offsets are bounded and checked, a stream is
//! read no faster than its caller takes it, and what breaks the rules is a [`LinkError::Protocol`].

mod connection;
mod output;
mod pace;
mod request;
mod run;

use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use http::Method;
use ob_core::link::Ack;
use ob_core::link::ExitStatus;
use ob_core::link::ProcessSpec;
use ob_core::link::ProcessStatus;
use ob_core::link::SignalRequest;
use ob_core::link::StdinTaken;

use self::connection::Shared;

use self::request::Ask;

pub use self::pace::Pace;

/// How long a guest may take for an answer that needs no waiting inside, once it was asked on a live connection.
const ANSWER: Duration = Duration::from_secs(30);

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
        /// Its code: one of those of [`ob_core::link::GuestError`].
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
    /// No connection or no answer came in time.
    #[error("the guest did not answer within {0:?}")]
    TimedOut(Duration),
}

/// The host's lasting handle to one guest. Cheap to clone.
#[derive(Clone)]
pub struct Guest {
    shared: Arc<Shared>,
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
        // Tells this handle's signal requests from those of an earlier server's.
        let first_request = std::hash::RandomState::new().hash_one(0_u8);
        Self { shared: Arc::new(Shared::new(first_request)) }
    }

    /// Takes a connection that the guest dialled and upgraded. The newest live one is used: an earlier one that is
    /// still alive is replaced. Returns when the connection is over.
    pub async fn serve<I>(&self, io: I)
    where
        I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    {
        connection::serve(&self.shared, io).await;
    }

    /// True while a connection is up.
    pub fn is_connected(&self) -> bool {
        self.shared.is_connected()
    }

    /// Waits until a connection is up. Fails with [`LinkError::TimedOut`] or [`LinkError::Closed`].
    pub async fn connected(&self, within: Duration) -> Result<(), LinkError> {
        let link = tokio::time::timeout(within, self.shared.link(0)).await;
        link.map_err(|_| LinkError::TimedOut(within))?.map(drop)
    }

    /// No request will succeed any more, and those that wait fail now.
    pub fn close(&self) {
        self.shared.close();
    }

    /// Starts a process under a name; the same name again changes nothing. Returns when its program runs.
    pub async fn spawn(&self, id: &str, spec: &ProcessSpec) -> Result<(), LinkError> {
        let ask = Ask::json(Method::PUT, id, "", spec)?;
        self.done(ask).await
    }

    /// Where a process stands.
    pub async fn status(&self, id: &str) -> Result<ProcessStatus, LinkError> {
        let ask = Ask::empty(Method::GET, id, "")?;
        let status = self.shared.call(|link| link.parsed(&ask, Some(ANSWER))).await?;
        request::check_status(id, status)
    }

    /// The bytes of a stream from `offset` on, across cuts of the connection, until the end of the stream.
    ///
    /// It is read no faster than it is polled. At most [`ob_core::link::STREAM_WINDOW`] bytes come before some are
    /// [acknowledged](Self::ack): without that, a process that writes more blocks. An error ends the stream.
    pub fn output(
        &self,
        id: &str,
        output: Output,
        offset: u64,
    ) -> BoxStream<'static, Result<Bytes, LinkError>> {
        output::read(Arc::clone(&self.shared), id, output, offset)
    }

    /// Tells that bytes below these offsets may be forgotten.
    pub async fn ack(&self, id: &str, ack: Ack) -> Result<(), LinkError> {
        let ask = Ask::json(Method::POST, id, "/ack", &ack)?;
        self.shared.acknowledging(id, ack);
        self.done(ask).await
    }

    /// Writes bytes that begin at `offset` of the input, all of them; what was already taken is skipped. Returns the
    /// offset behind them. Waits as long as the process does not read.
    pub async fn write_stdin(&self, id: &str, offset: u64, bytes: Bytes) -> Result<u64, LinkError> {
        self.input(id, offset, bytes, "").await
    }

    /// Closes the input, after `offset` bytes.
    pub async fn close_stdin(&self, id: &str, offset: u64) -> Result<(), LinkError> {
        self.input(id, offset, Bytes::new(), "&close=true").await.map(drop)
    }

    /// Sends a signal to the process group. A process that has exited and left nobody behind is no error.
    pub async fn signal(&self, id: &str, signal: i32) -> Result<(), LinkError> {
        let part = format!("/signal?request={}", self.shared.next_request());
        let ask = Ask::json(Method::POST, id, &part, &SignalRequest { signal })?;
        self.done(ask).await
    }

    /// Waits for the end of a process.
    pub async fn exit(&self, id: &str) -> Result<ExitStatus, LinkError> {
        let ask = Ask::empty(Method::GET, id, "/exit")?;
        let exit = self.shared.call(|link| link.parsed(&ask, None)).await?;
        request::check_exit(exit)
    }

    /// Forgets a process that has exited, and what it wrote. One that is not known is no error.
    pub async fn forget(&self, id: &str) -> Result<(), LinkError> {
        let ask = Ask::empty(Method::DELETE, id, "")?;
        self.done(ask).await?;
        self.shared.forgotten(id);
        Ok(())
    }

    /// Runs a command to its end, keeping at most `cap` bytes of each stream, then forgets it.
    ///
    /// What its descendants write after its end, if they kept its output, is not waited for. If this is dropped half
    /// way, the process goes on.
    pub async fn run(&self, id: &str, spec: &ProcessSpec, cap: usize) -> Result<CommandOutput, LinkError> {
        run::run(self, id, spec, cap).await
    }

    async fn done(&self, ask: Ask) -> Result<(), LinkError> {
        self.shared.call(|link| link.done(&ask, ANSWER)).await
    }

    async fn input(&self, id: &str, offset: u64, bytes: Bytes, flags: &str) -> Result<u64, LinkError> {
        let status = Ask::empty(Method::GET, id, "")?;
        let end = offset.checked_add(bytes.len() as u64).filter(|end| i64::try_from(*end).is_ok());
        let end = end.ok_or_else(|| request::refused("invalid", "the input's offset is too large"))?;
        let mut is_first = true;
        let taken = self.shared.call(|link| {
            let asks_first = !std::mem::take(&mut is_first);
            let (status, bytes) = (status.clone(), bytes.clone());
            async move {
                // After a cut, what was taken before it is not sent again.
                let mut at = offset;
                if asks_first {
                    let status: ProcessStatus = link.clone().parsed(&status, Some(ANSWER)).await?;
                    at = request::check_status(id, status)?.stdin_taken.clamp(offset, end);
                }
                let part = format!("/stdin?offset={at}{flags}");
                let rest = bytes.slice((at - offset) as usize..);
                let ask = Ask::new(Method::POST, id, &part, rest)?;
                link.parsed::<StdinTaken>(&ask, None).await
            }
        });
        match taken.await?.offset {
            taken if taken == end => Ok(end),
            taken => Err(request::protocol(format!("it took input up to {taken}, but {end} was asked"))),
        }
    }
}

impl Default for Guest {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Guest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guest").field("is_connected", &self.is_connected()).finish_non_exhaustive()
    }
}

// === impl Output ===

impl Output {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}
