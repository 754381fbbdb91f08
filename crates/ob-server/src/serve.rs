//! Listeners: a list of {bound socket, route groups, authentication}, and their connections.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use axum::Router;
use axum::middleware;
use axum::routing::get;
use futures_util::future::BoxFuture;
use tokio::net::TcpListener;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::NotForContentType;
use tower_http::compression::predicate::Predicate as _;
use tower_http::compression::predicate::SizeAbove;

use crate::api;
use crate::connection::Driver;
use crate::connection::Limits;
use crate::connection::Places;
use crate::connection::turn_away;
use crate::doors::Phase;
use crate::edge;
use crate::edge::Peer;
use crate::edge::Site;
use crate::mcp;
use crate::openapi;
use crate::probes;
use crate::throttle::RateLimit;
use crate::throttle::Throttle;

/// Answers from this size on are compressed for those who ask for it: smaller ones fit one packet anyway.
const COMPRESS_FROM: u64 = 1024;

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
    /// How often each token, and each address without one, may ask; another value is taken at once.
    pub rate_limit: watch::Receiver<RateLimit>,
    /// What connections and requests may take.
    pub limits: Limits,
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
    // Of all listeners together: whoever knows two addresses of ours has no more than others.
    let throttle = Arc::new(Throttle::new(options.rate_limit));
    let limits = Arc::new(options.limits);
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
            throttle: Arc::clone(&throttle),
            limits: Arc::clone(&limits),
            last_ok: Arc::clone(&last_ok),
        });
        let accepted = Accepted {
            driver: Driver {
                router: router(&site, listener.routes),
                limits: Arc::clone(&limits),
                shutdown: shutdown.clone(),
                cut: cut.clone(),
            },
            connections: connections.clone(),
            places: Places::new(&limits),
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
    if tokio::time::timeout(limits.grace, finished).await.is_err() {
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
        router = router.route(openapi::ROUTE, get(openapi::serve)).merge(api::routes(site));
    }
    if groups.mcp {
        router = router.merge(mcp::routes(site));
    }
    // An event is to leave when it happens, not when a block of a compressor is full.
    let compressed = SizeAbove::new(COMPRESS_FROM).and(NotForContentType::SSE);
    router
        .method_not_allowed_fallback(edge::no_method)
        .fallback(edge::no_route)
        .layer(middleware::from_fn_with_state(Arc::clone(site), edge::pass))
        .layer(CompressionLayer::new().quality(CompressionLevel::Fastest).compress_when(compressed))
        .with_state(Arc::clone(site))
}

/// What each connection of a listener gets.
struct Accepted {
    driver: Driver,
    connections: TaskTracker,
    places: Places,
}

async fn accept(binding: Binding, authentication: Authentication, accepted: Accepted) {
    let shutdown = accepted.driver.shutdown.clone();
    loop {
        let next = async {
            let room = accepted.places.room().await;
            (room, one(&binding, authentication).await)
        };
        let (room, socket) = tokio::select! {
            next = next => next,
            () = shutdown.cancelled() => return,
        };
        let (driver, connections) = (accepted.driver.clone(), &accepted.connections);
        match socket {
            Ok(Some(Socket::Tcp(stream, address))) => {
                let peer = Peer(Some(address));
                match accepted.places.place(room, peer) {
                    Ok(place) => {
                        connections.spawn(async move {
                            driver.drive(stream, peer).await;
                            drop(place);
                        });
                    }
                    Err(refusal) => {
                        if let Some(turn) = accepted.places.farewell() {
                            connections.spawn(async move {
                                turn_away(stream, address, refusal).await;
                                drop(turn);
                            });
                        }
                    }
                }
            }
            Ok(Some(Socket::Unix(stream))) => {
                connections.spawn(async move {
                    driver.drive(stream, Peer(None)).await;
                    drop(room);
                });
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::select! {
                    () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                    () = shutdown.cancelled() => return,
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
