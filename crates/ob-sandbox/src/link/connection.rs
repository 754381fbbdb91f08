//! The connection under a [`Guest`](super::Guest): at most one, the newest.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http2;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use ob_core::link::Ack;
use ob_core::link::MAX_PROCESSES;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::LinkError;
use super::Output;
use super::request::Broken;
use super::request::Failure;

/// How often a quiet connection is tried.
const PING_EVERY: Duration = Duration::from_secs(5);
/// A connection whose ping is not answered for this long is dead. A slow guest answers: its loop never blocks.
const PING_PATIENCE: Duration = Duration::from_secs(10);
/// The most that the headers or trailers of an answer may take; ours take a few dozen bytes.
const HEADERS: u32 = 8 * 1024;
/// Output of one stream that was sent and not yet taken by the caller.
const STREAM_CREDIT: u32 = 64 * 1024;
/// Callers that do not read must not stop other streams: credit for both outputs of every process. Also the most that
/// a guest can make the host keep.
const CONNECTION_CREDIT: u32 = (2 * MAX_PROCESSES as u32 + 16) * STREAM_CREDIT;
/// Input of one request that is handed to the connection at once.
const SEND_BUFFER: usize = 128 * 1024;
/// Streams that callers gave up and whose last frames may still come: more than there can be at once, so that those
/// frames are never taken for a breach.
const GIVEN_UP_STREAMS: usize = 4 * MAX_PROCESSES + 1024;
/// This many cuts in a row without any progress are followed at once by the next try.
const QUICK_RETRIES: u32 = 3;
/// The longest wait before a further try.
const LONGEST_DELAY: Duration = Duration::from_millis(500);
/// A request that is reset this often in a row on living connections will not be answered.
const MOST_RESETS: u32 = 3;

/// What all clones of a handle share.
pub(super) struct Shared {
    state: watch::Sender<State>,
    /// What the host acknowledged of each process that it did not forget, to bound what may come.
    acked: Mutex<HashMap<String, Ack>>,
    requests: AtomicU64,
}

#[derive(Default)]
struct State {
    /// Counts connections.
    generation: u64,
    link: Option<Link>,
    is_closed: bool,
}

/// A live connection.
#[derive(Clone)]
pub(super) struct Link {
    generation: u64,
    pub(super) sender: http2::SendRequest<Full<Bytes>>,
    cut: CancellationToken,
}

/// What a request went through so far.
#[derive(Default)]
pub(super) struct Retry {
    after: u64,
    cuts: u32,
    resets: u32,
}

/// Takes a connection out of use, however its task ends.
struct Installed<'a> {
    shared: &'a Shared,
    generation: u64,
    cut: CancellationToken,
}

/// Spawns what belongs to one connection, and ends it with it.
#[derive(Clone)]
struct ConnectionTasks {
    cut: CancellationToken,
}

/// Serves one connection until it is over.
pub(super) async fn serve<I>(shared: &Shared, io: I)
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let cut = CancellationToken::new();
    // Also ends the tasks if the handshake fails or this future is dropped in it.
    let _guard = cut.clone().drop_guard();
    let handshake = http2::Builder::new(ConnectionTasks { cut: cut.clone() })
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_PATIENCE)
        .keep_alive_while_idle(true)
        .max_header_list_size(HEADERS)
        .initial_stream_window_size(STREAM_CREDIT)
        .initial_connection_window_size(CONNECTION_CREDIT)
        .max_send_buf_size(SEND_BUFFER)
        .max_concurrent_reset_streams(GIVEN_UP_STREAMS)
        .handshake(TokioIo::new(io))
        .await;
    let Ok((sender, connection)) = handshake else {
        return;
    };
    let Some(_installed) = shared.install(sender, &cut) else {
        return;
    };
    tokio::select! {
        // Why it ended is of no use: the requests on it hear for themselves.
        ended = connection => drop(ended),
        () = cut.cancelled() => {}
    }
}

// === impl Shared ===

impl Shared {
    pub(super) fn new(first_request: u64) -> Self {
        Self {
            state: watch::Sender::default(),
            acked: Mutex::default(),
            requests: AtomicU64::new(first_request),
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        self.state.borrow().link.is_some()
    }

    /// The connection, as soon as there is one later than `after`.
    pub(super) async fn link(&self, after: u64) -> Result<Link, LinkError> {
        let mut changes = self.state.subscribe();
        let state = changes
            .wait_for(|state| {
                state.is_closed || state.link.as_ref().is_some_and(|link| link.generation > after)
            })
            .await;
        // The channel cannot close while `self` is here.
        state
            .ok()
            .filter(|state| !state.is_closed)
            .and_then(|state| state.link.clone())
            .ok_or(LinkError::Closed)
    }

    /// Waits until the handle is closed.
    pub(super) async fn closed(&self) {
        drop(self.state.subscribe().wait_for(|state| state.is_closed).await);
    }

    pub(super) fn close(&self) {
        self.state.send_modify(|state| {
            state.is_closed = true;
            if let Some(link) = state.link.take() {
                link.cut.cancel();
            }
        });
    }

    /// Asks until there is an answer that no cut took away.
    pub(super) async fn call<T, A>(&self, mut ask: impl FnMut(Link) -> A) -> Result<T, LinkError>
    where
        A: Future<Output = Result<T, Failure>>,
    {
        let mut retry = Retry::default();
        loop {
            let link = self.link(retry.after).await?;
            match ask(link.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Broken(broken)) => self.broke(&mut retry, &link, broken).await?,
            }
        }
    }

    /// Notes what broke, and waits before the next try if there were many.
    pub(super) async fn broke(
        &self,
        retry: &mut Retry,
        link: &Link,
        broken: Broken,
    ) -> Result<(), LinkError> {
        match broken {
            Broken::Cut => {
                // If only the request broke, the guest is made to dial again rather than waited for.
                link.cut.cancel();
                retry.after = link.generation;
                retry.cuts += 1;
            }
            Broken::Reset if retry.resets < MOST_RESETS => retry.resets += 1,
            Broken::Reset => {
                let what = "it resets every try of a request".into();
                return Err(LinkError::Protocol { what });
            }
        }
        if let Some(excess) = retry.cuts.checked_sub(QUICK_RETRIES + 1) {
            let delay = Duration::from_millis(5 << excess.min(7)).min(LONGEST_DELAY);
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = self.closed() => return Err(LinkError::Closed),
            }
        }
        Ok(())
    }

    /// Whether bytes of a stream up to `end` may come to a reader that began at `start`.
    pub(super) fn allows(&self, id: &str, output: Output, start: u64, end: u64) -> bool {
        let acked =
            self.acked.lock().unwrap_or_else(PoisonError::into_inner).get(id).copied().unwrap_or_default();
        let acked = match output {
            Output::Stdout => acked.stdout,
            Output::Stderr => acked.stderr,
        };
        end - acked.max(start).min(end) <= ob_core::link::STREAM_WINDOW as u64
    }

    pub(super) fn acknowledging(&self, id: &str, ack: Ack) {
        let mut acked = self.acked.lock().unwrap_or_else(PoisonError::into_inner);
        let known = acked.entry(id.to_owned()).or_default();
        *known = Ack { stdout: known.stdout.max(ack.stdout), stderr: known.stderr.max(ack.stderr) };
    }

    pub(super) fn forgotten(&self, id: &str) {
        self.acked.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// A number that no other request of this sandbox's life has.
    pub(super) fn next_request(&self) -> u64 {
        self.requests.fetch_add(1, Ordering::Relaxed)
    }

    /// Puts a connection in use, in the place of an earlier one. None if the handle is closed.
    fn install(
        &self,
        sender: http2::SendRequest<Full<Bytes>>,
        cut: &CancellationToken,
    ) -> Option<Installed<'_>> {
        let mut installed = None;
        self.state.send_if_modified(|state| {
            if state.is_closed {
                return false;
            }
            state.generation += 1;
            let generation = state.generation;
            let link = Link { generation, sender, cut: cut.clone() };
            if let Some(earlier) = state.link.replace(link) {
                earlier.cut.cancel();
            }
            installed = Some(Installed { shared: self, generation, cut: cut.clone() });
            true
        });
        installed
    }
}

// === impl Retry ===

impl Retry {
    /// The generation of the last connection that failed.
    pub(super) fn after(&self) -> u64 {
        self.after
    }

    /// Something was achieved.
    pub(super) fn progress(&mut self) {
        self.cuts = 0;
        self.resets = 0;
    }
}

// === impl Installed ===

impl Drop for Installed<'_> {
    fn drop(&mut self) {
        self.cut.cancel();
        self.shared.state.send_if_modified(|state| {
            let is_mine = state.link.as_ref().is_some_and(|link| link.generation == self.generation);
            if is_mine {
                state.link = None;
            }
            is_mine
        });
    }
}

// === impl ConnectionTasks ===

impl<F> hyper::rt::Executor<F> for ConnectionTasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        let cut = self.cut.clone();
        tokio::spawn(async move { cut.run_until_cancelled(task).await.map(drop) });
    }
}
