//! What gates touch outside of this process: unix sockets, providers, and the randomness that names a charge.
//!
//! [`Machine`] is the real one. The simulation of the engine has another, without sockets and without a network.

use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use ob_core::Timestamp;
use ob_core::id::ChargeId;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::net::UnixListener;

use crate::upstream;

/// A connection that came to a gate.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// What gates touch outside of this process.
pub trait Outside: Send + Sync + 'static {
    /// Listens at a path, in the place of a socket that an earlier server left there; makes the folder if it is missing.
    fn listen(&self, path: &Path) -> io::Result<Listening>;

    /// Sends a request to a provider and waits for the head of its answer.
    fn ask(&self, request: reqwest::Request) -> BoxFuture<'static, Result<reqwest::Response, NoAnswer>>;

    /// A name that no other charge has.
    fn charge_id(&self) -> ChargeId;

    /// What time it is, for the price of the day.
    fn now(&self) -> Timestamp;
}

/// A socket that takes connections.
pub struct Listening {
    /// The connections to it.
    pub incoming: Box<dyn Incoming>,
    /// Dropping it takes the socket away, unless another one is in its place by then.
    pub socket: Box<dyn Send + Sync>,
}

/// The connections to a socket.
pub trait Incoming: Send {
    /// The next one.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Accepted>>;
}

/// A connection and who is at its other end.
pub struct Accepted {
    /// The connection.
    pub io: Box<dyn Io>,
    /// Who the kernel says it is.
    pub peer: io::Result<Peer>,
}

/// A process at the other end of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its uid on this host.
    pub uid: u32,
    /// Its pid, if that is known.
    pub pid: Option<i32>,
}

/// Why a provider did not even answer with a status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// This server has no client for it.
    NoClient(String),
    /// There was no connection, so the request was not taken.
    NoConnection,
    /// The connection broke after the request may have been taken.
    BrokenOff,
}

/// The machine's sockets and its network.
pub struct Machine {
    client: Result<reqwest::Client, String>,
}

/// A socket file, known by its inode: a later gate may have put another in its place.
struct Socket {
    path: PathBuf,
    device: u64,
    inode: u64,
}

// === impl Machine ===

impl Machine {
    /// Connections to providers are given up after `connect_timeout`.
    pub fn new(connect_timeout: Duration) -> Self {
        Self { client: upstream::client(connect_timeout) }
    }
}

impl Outside for Machine {
    fn listen(&self, path: &Path) -> io::Result<Listening> {
        let (listener, socket) = bind(path)?;
        Ok(Listening { incoming: Box::new(listener), socket: Box::new(socket) })
    }

    fn ask(&self, request: reqwest::Request) -> BoxFuture<'static, Result<reqwest::Response, NoAnswer>> {
        let client = self.client.clone();
        async move {
            let client = client.map_err(NoAnswer::NoClient)?;
            client.execute(request).await.map_err(|error| {
                if error.is_connect() { NoAnswer::NoConnection } else { NoAnswer::BrokenOff }
            })
        }
        .boxed()
    }

    fn charge_id(&self) -> ChargeId {
        ChargeId::from_uuid(uuid::Uuid::now_v7())
    }

    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_micros(0).saturating_add(since)
    }
}

// === impl Incoming ===

impl Incoming for UnixListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Accepted>> {
        async {
            let (stream, _) = Self::accept(self).await?;
            let peer = stream.peer_cred().map(|peer| Peer { uid: peer.uid(), pid: peer.pid() });
            Ok(Accepted { io: Box::new(stream), peer })
        }
        .boxed()
    }
}

// === impl Socket ===

impl Drop for Socket {
    fn drop(&mut self) {
        let is_ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == (self.device, self.inode));
        if is_ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a gate's socket was not removed");
        }
    }
}

fn bind(path: &Path) -> io::Result<(UnixListener, Socket)> {
    if let Some(dir) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path)?,
        Ok(_) => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is something that is no socket"));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    // Who may connect is decided by the peer's uid, and by who sees the folder.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    let made = std::fs::symlink_metadata(path)?;
    Ok((listener, Socket { path: path.to_path_buf(), device: made.dev(), inode: made.ino() }))
}
