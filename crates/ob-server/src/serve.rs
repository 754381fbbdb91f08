//! Listeners: a list of {bound socket, route groups, authentication}, and their connections.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware;
use axum::routing::get;
use futures_util::future::BoxFuture;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::net::TcpListener;
use tokio::net::UnixListener;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::Semaphore;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use crate::api;
use crate::doors::Phase;
use crate::edge;
use crate::edge::Peer;
use crate::edge::Site;
use crate::mcp;
use crate::probes;

/// Connections of one listener at a time; more wait in the kernel's queue. Each costs about 20 KiB and one
/// descriptor, and the usual limit of descriptors is 1024.
const CONNECTIONS_MAX: usize = 512;

/// How long a connection may take to send a request's head, and may be idle between requests.
const HEAD_TIME_MAX: Duration = Duration::from_secs(30);

/// The most bytes of a request's head.
const HEAD_MAX: usize = 32 * 1024;

/// How long requests may run on after the server was told to stop.
const GRACE: Duration = Duration::from_secs(5);

/// How long to leave a listener alone whose accept failed: the cause (no descriptors) needs time to pass.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Writes the metrics page, with gauges as they are now.
pub type MetricsText = Arc<dyn Fn() -> BoxFuture<'static, String> + Send + Sync>;

/// Told of each request that is not a probe: method, route (with its braces), status, seconds to the response head.
pub type ObserveRequest = Arc<dyn Fn(&str, &str, u16, f64) + Send + Sync>;

/// How requests on a listener say who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authentication {
    /// Each with a token.
    Bearer,
    /// Whoever may connect is the operator: for the control socket only, whose peers are checked by their uid.
    Operator,
}

/// Which routes a listener has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteGroups {
    /// `/health`, `/ready`.
    pub probes: bool,
    /// `/metrics`.
    pub metrics: bool,
    /// `/api/v1`.
    pub api: bool,
    /// `/mcp`.
    pub mcp: bool,
}

/// A socket that listens.
#[derive(Debug)]
pub enum Binding {
    /// An address.
    Tcp(TcpListener),
    /// A path.
    Unix(UnixListener),
}

/// A listener.
#[derive(Debug)]
pub struct Listener {
    /// The socket, bound.
    pub binding: Binding,
    /// Its routes.
    pub routes: RouteGroups,
    /// Who asks.
    pub authentication: Authentication,
}

/// What all listeners share.
#[derive(Clone)]
pub struct ServerOptions {
    /// Where the server stands; the API refuses until it is [`Phase::Serving`].
    pub phase: watch::Receiver<Phase>,
    /// The metrics page.
    pub metrics: MetricsText,
    /// Told of each request.
    pub observe_request: ObserveRequest,
    /// Hosts besides loopback that a loopback listener serves: names that a proxy on this machine passes on.
    pub allowed_hosts: Vec<String>,
}

// === impl RouteGroups ===

impl RouteGroups {
    /// Everything.
    pub const ALL: Self = Self { probes: true, metrics: true, api: true, mcp: true };
}

/// Serves until `shutdown`, then ends streams, lets requests finish for some seconds, and cuts the rest.
///
/// Fails only if a listener's own address cannot be read.
pub async fn serve(
    options: ServerOptions,
    listeners: Vec<Listener>,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let last_ok = Arc::new(Mutex::new(BTreeMap::new()));
    let connections = TaskTracker::new();
    let operations = TaskTracker::new();
    let cut = CancellationToken::new();
    let mut accepting = Vec::new();
    for listener in listeners {
        let loopback_only = match &listener.binding {
            Binding::Tcp(tcp) => tcp.local_addr()?.ip().to_canonical().is_loopback(),
            Binding::Unix(_) => false,
        };
        let site = Arc::new(Site {
            phase: options.phase.clone(),
            authentication: listener.authentication,
            loopback_only,
            allowed_hosts: options.allowed_hosts.clone(),
            metrics: Arc::clone(&options.metrics),
            observe: Arc::clone(&options.observe_request),
            shutdown: shutdown.clone(),
            operations: operations.clone(),
            last_ok: Arc::clone(&last_ok),
        });
        let router = router(&site, listener.routes);
        let accepted = Accepted {
            router,
            connections: connections.clone(),
            shutdown: shutdown.clone(),
            cut: cut.clone(),
            permits: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        };
        accepting.push(accept(listener.binding, listener.authentication, accepted));
    }
    futures_util::future::join_all(accepting).await;
    connections.close();
    operations.close();
    let finished = async {
        connections.wait().await;
        operations.wait().await;
    };
    if tokio::time::timeout(GRACE, finished).await.is_err() {
        tracing::warn!(connections = connections.len(), "cutting connections that did not finish in time");
        cut.cancel();
        connections.wait().await;
    }
    Ok(())
}

fn router(site: &Arc<Site>, groups: RouteGroups) -> Router {
    let mut router: Router<Arc<Site>> = Router::new();
    if groups.probes {
        router = router.route("/health", get(probes::health)).route("/ready", get(probes::ready));
    }
    if groups.metrics {
        router = router.route("/metrics", get(probes::metrics));
    }
    if groups.api {
        router = router.merge(api::routes(site));
    }
    if groups.mcp {
        router = router.merge(mcp::routes(site));
    }
    router
        .method_not_allowed_fallback(edge::no_method)
        .fallback(edge::no_route)
        .layer(middleware::from_fn_with_state(Arc::clone(site), edge::pass))
        .with_state(Arc::clone(site))
}

/// What each connection of a listener gets.
#[derive(Clone)]
struct Accepted {
    router: Router,
    connections: TaskTracker,
    shutdown: CancellationToken,
    cut: CancellationToken,
    permits: Arc<Semaphore>,
}

async fn accept(binding: Binding, authentication: Authentication, accepted: Accepted) {
    loop {
        let next = async {
            // Never closed, so this fails only if that changes; then the listener ends.
            let permit = Arc::clone(&accepted.permits).acquire_owned().await.ok()?;
            Some((permit, one(&binding, authentication).await))
        };
        let next = tokio::select! {
            next = next => next,
            () = accepted.shutdown.cancelled() => return,
        };
        match next {
            None => return,
            Some((permit, Ok(Some(Socket::Tcp(stream, peer))))) => {
                accepted.spawn(permit, stream, Peer(Some(peer)));
            }
            Some((permit, Ok(Some(Socket::Unix(stream))))) => accepted.spawn(permit, stream, Peer(None)),
            Some((_, Ok(None))) => {}
            Some((_, Err(error))) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::select! {
                    () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                    () = accepted.shutdown.cancelled() => return,
                }
            }
        }
    }
}

enum Socket {
    Tcp(tokio::net::TcpStream, std::net::SocketAddr),
    Unix(tokio::net::UnixStream),
}

/// The next connection; nothing if its peer may not connect.
async fn one(binding: &Binding, authentication: Authentication) -> io::Result<Option<Socket>> {
    match binding {
        Binding::Tcp(listener) => {
            let (stream, peer) = listener.accept().await?;
            // An event is to leave when it is written, not when more have come.
            if let Err(error) = stream.set_nodelay(true) {
                // The peer is gone already; the connection's task will notice.
                tracing::debug!(%error, "cannot set TCP_NODELAY");
            }
            Ok(Some(Socket::Tcp(stream, peer)))
        }
        Binding::Unix(listener) => {
            let (stream, _) = listener.accept().await?;
            let Ok(uid) = stream.peer_cred().map(|peer| peer.uid()) else { return Ok(None) };
            // The socket's mode says so already; this holds if the folder's or the file's mode was changed.
            if authentication == Authentication::Operator
                && uid != 0
                && uid != rustix::process::geteuid().as_raw()
            {
                tracing::warn!(uid, "refused a connection to the control socket");
                return Ok(None);
            }
            Ok(Some(Socket::Unix(stream)))
        }
    }
}

// === impl Accepted ===

impl Accepted {
    fn spawn<S>(&self, permit: OwnedSemaphorePermit, stream: S, peer: Peer)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let accepted = self.clone();
        self.connections.spawn(async move {
            accepted.drive(stream, peer).await;
            drop(permit);
        });
    }

    async fn drive<S>(self, stream: S, peer: Peer)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let router = self.router;
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let mut request: Request = request.map(Body::new);
            request.extensions_mut().insert(peer);
            let router = router.clone();
            async move {
                Ok::<_, Infallible>(router.oneshot(request).await.unwrap_or_else(|never| match never {}))
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME_MAX)
            .max_buf_size(HEAD_MAX)
            .half_close(false)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let mut told = false;
        loop {
            tokio::select! {
                result = connection.as_mut() => {
                    if let Err(error) = result {
                        // The client went away, was too slow, or spoke no HTTP: its affair.
                        tracing::debug!(%error, "connection ended");
                    }
                    return;
                }
                () = self.shutdown.cancelled(), if !told => {
                    told = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = self.cut.cancelled() => return,
            }
        }
    }
}
