//! The socket of one gate, who may connect to it, and how many at once.

use std::future::Future;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use ob_sandbox::link::Guest;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::GateSession;
use crate::Shared;
use crate::body;
use crate::meter::Meter;
use crate::outside::Accepted;
use crate::outside::Incoming;
use crate::outside::Io;
use crate::outside::Listening;
use crate::outside::Peer;
use crate::route;

/// The name of the socket in a gate's folder.
pub const SOCKET: &str = "gate.sock";

/// Connections of one sandbox at once. An agent needs one or two; each costs a few KiB.
const MAX_CONNECTIONS: usize = 64;
/// Further connections that may only become links: an agent that holds all others must not keep its guest from
/// dialling again, else the session could not be interrupted over the link.
const LINK_CONNECTIONS: usize = 8;
/// How long a further connection may take to become a link.
const LINK_HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// The most bytes of a request's head.
const MAX_HEAD: usize = 64 * 1024;
/// How long to wait after the kernel refused a connection (no descriptors left), before the next is taken.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// An open gate; dropping it closes the socket and cuts what runs through it. What was cut is settled in the background;
/// [`OpenGate::close`] waits for that.
pub struct OpenGate {
    gate: Arc<Gate>,
    path: PathBuf,
    _socket: Box<dyn Send + Sync>,
}

/// The inside of an open gate.
pub(crate) struct Gate {
    pub(crate) shared: Arc<Shared>,
    pub(crate) session: GateSession,
    pub(crate) link: Arc<dyn LinkEnd>,
    pub(crate) meter: Meter,
    /// Memory for request bodies in flight.
    pub(crate) body_room: Arc<Semaphore>,
    closing: CancellationToken,
    tasks: TaskTracker,
}

/// Where links go: the guest's handle; something smaller in tests.
pub(crate) trait LinkEnd: Send + Sync + 'static {
    /// Serves one link until it is over.
    fn serve(&self, io: Box<dyn Io>) -> BoxFuture<'static, ()>;
}

/// A place among the connections of a gate, given back when dropped.
pub(crate) struct Place {
    for_links: bool,
    _permit: OwnedSemaphorePermit,
}

/// Opens a gate.
pub(crate) async fn open(
    shared: Arc<Shared>,
    dir: &Path,
    session: GateSession,
    link: Arc<dyn LinkEnd>,
) -> io::Result<OpenGate> {
    let path = dir.join(SOCKET);
    let Listening { incoming, socket } = shared
        .outside
        .listen(&path)
        .map_err(|error| io::Error::new(error.kind(), format!("gate {}: {error}", path.display())))?;
    let tasks = TaskTracker::new();
    tasks.close();
    let gate = Arc::new(Gate {
        meter: Meter::new(&shared, session.clone(), tasks.clone()),
        body_room: Arc::new(Semaphore::new(body::body_units(shared.options.max_body))),
        closing: CancellationToken::new(),
        shared,
        session,
        link,
        tasks,
    });
    // The server waits for all gates at once: as long as this gate has tasks, the server has one.
    let (tasks, closing) = (gate.tasks.clone(), gate.closing.clone());
    gate.shared.tasks.spawn(async move {
        closing.cancelled().await;
        tasks.wait().await;
    });
    let accepting = accept(Arc::clone(&gate), incoming);
    gate.spawn(accepting);
    Ok(OpenGate { gate, path, _socket: socket })
}

// === impl OpenGate ===

impl OpenGate {
    /// Closes the socket, cuts what runs through it, and waits until all of that is settled.
    pub async fn close(self) {
        let tasks = self.gate.tasks.clone();
        drop(self);
        tasks.wait().await;
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for OpenGate {
    fn drop(&mut self) {
        self.gate.closing.cancel();
    }
}

// === impl Gate ===

impl Gate {
    /// Runs something of this gate until it ends or the gate closes.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let closing = self.closing.clone();
        drop(self.tasks.spawn(async move {
            tokio::select! {
                () = closing.cancelled() => {}
                () = task => {}
            }
        }));
    }
}

// === impl LinkEnd ===

impl LinkEnd for Guest {
    fn serve(&self, io: Box<dyn Io>) -> BoxFuture<'static, ()> {
        let guest = self.clone();
        async move { Self::serve(&guest, io).await }.boxed()
    }
}

// === impl Place ===

impl Place {
    /// True if the connection may only become a link.
    pub(crate) fn is_for_links(&self) -> bool {
        self.for_links
    }
}

async fn accept(gate: Arc<Gate>, mut incoming: Box<dyn Incoming>) {
    let general = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let for_links = Arc::new(Semaphore::new(LINK_CONNECTIONS));
    loop {
        let accepted = match incoming.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(session = %gate.session.id, %error, "a connection to the gate was not taken");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
                continue;
            }
        };
        if !is_welcome(&gate, &accepted) {
            continue;
        }
        let place = match Arc::clone(&general).try_acquire_owned() {
            Ok(permit) => Place { for_links: false, _permit: permit },
            Err(_) => match Arc::clone(&for_links).try_acquire_owned() {
                Ok(permit) => Place { for_links: true, _permit: permit },
                Err(_) => {
                    tracing::warn!(session = %gate.session.id, "too many connections to the gate; one was closed");
                    continue;
                }
            },
        };
        let connection = serve(Arc::clone(&gate), accepted.io, Arc::new(place));
        gate.spawn(connection);
    }
}

/// True if the peer is the sandbox. The kernel says who it is, and nothing inside can change that.
fn is_welcome(gate: &Gate, accepted: &Accepted) -> bool {
    let expected = gate.session.peer_uid;
    match &accepted.peer {
        Ok(peer) if peer.uid == expected => true,
        Ok(Peer { uid, pid }) => {
            tracing::warn!(session = %gate.session.id, uid, expected, ?pid, "a stranger connected to the gate");
            false
        }
        Err(error) => {
            tracing::warn!(session = %gate.session.id, %error, "a peer without credentials connected to the gate");
            false
        }
    }
}

async fn serve(gate: Arc<Gate>, io: Box<dyn Io>, place: Arc<Place>) {
    let head_timeout =
        if place.is_for_links() { LINK_HEAD_TIMEOUT } else { gate.shared.options.request_head_timeout };
    let session = gate.session.id.clone();
    let service = service_fn(move |request| route::answer(Arc::clone(&gate), Arc::clone(&place), request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    if let Err(error) = connection.await {
        tracing::debug!(%session, %error, "a connection to the gate broke");
    }
}
