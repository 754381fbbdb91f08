//! Connections: how many there may be, and what each may take of our time.
//!
//! ```text
//! accepted --> places (all together, and for other machines: fewer, and so many for each) --503, 429--> closed
//!          --> head within its time --408--> closed        an answer that is not taken for long --> closed
//!          --> told to stop: answers what it has begun, then closes;  cut: closes
//! ```

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use ob_core::Refusal;
use ob_core::RefusalCode;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutWriter;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::edge::Peer;
use crate::reply;
use crate::throttle::Origin;

/// Bytes of a request's head that are read at most. Above [`crate::edge::HEAD_MAX`], so that what is only somewhat too
/// large gets an answer with a reason; what is larger than this gets a bare status line.
const HEAD_BUFFER: usize = 64 * 1024;

/// How long a client that is turned away may take to read why.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

/// Clients that are told at a time why they are turned away; others are only turned away, so that a flood of them costs
/// nothing.
const FAREWELLS_MAX: usize = 32;

/// What connections and requests may take.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections of one listener at a time; more wait in the kernel's queue. Each costs about 20 KiB and a descriptor.
    pub connections: usize,
    /// Of which one address of another machine may have so many.
    pub per_address: usize,
    /// How long a connection may take to send a request's head, and may be idle between requests.
    pub head_time: Duration,
    /// How long a request's body may take to arrive.
    pub body_time: Duration,
    /// How long a client may take none of the bytes that are there for it.
    pub stall_time: Duration,
    /// A comment is sent on a stream after so long without an event.
    pub heartbeat: Duration,
    /// How long requests may run on after the server was told to stop.
    pub grace: Duration,
}

/// The places of a listener.
#[derive(Clone)]
pub(crate) struct Places {
    all: Arc<Semaphore>,
    /// Fewer than all: other machines cannot keep this one's clients out.
    remote: Arc<Semaphore>,
    per_address: usize,
    taken: Arc<Mutex<HashMap<Origin, usize>>>,
    farewells: Arc<Semaphore>,
}

/// A place; free again when it is dropped.
pub(crate) struct Place {
    _all: OwnedSemaphorePermit,
    _remote: Option<(OwnedSemaphorePermit, Taken)>,
}

/// One of an address's places.
struct Taken {
    origin: Origin,
    taken: Arc<Mutex<HashMap<Origin, usize>>>,
}

/// What drives connections.
#[derive(Clone)]
pub(crate) struct Driver {
    pub(crate) router: Router,
    pub(crate) limits: Arc<Limits>,
    /// Answer what has begun, then close.
    pub(crate) shutdown: CancellationToken,
    /// Close.
    pub(crate) cut: CancellationToken,
}

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            per_address: 256,
            head_time: Duration::from_secs(30),
            body_time: Duration::from_secs(30),
            stall_time: Duration::from_secs(60),
            heartbeat: Duration::from_secs(15),
            grace: Duration::from_secs(5),
        }
    }
}

// === impl Places ===

impl Places {
    pub(crate) fn new(limits: &Limits) -> Self {
        let all = limits.connections.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            all: Arc::new(Semaphore::new(all)),
            remote: Arc::new(Semaphore::new(all - all / 8)),
            per_address: limits.per_address.max(1),
            taken: Arc::default(),
            farewells: Arc::new(Semaphore::new(FAREWELLS_MAX)),
        }
    }

    /// Room for one more connection, when there is some.
    pub(crate) async fn room(&self) -> OwnedSemaphorePermit {
        let room = Arc::clone(&self.all).acquire_owned().await;
        room.expect("the semaphore is never closed")
    }

    /// Gives a peer its place, or tells why it has none.
    pub(crate) fn place(&self, room: OwnedSemaphorePermit, peer: Peer) -> Result<Place, Refusal> {
        let remote = peer.0.map(|peer| Origin::of(peer.ip())).filter(|origin| !origin.is_loopback());
        let remote = remote.map(|origin| self.remote_place(origin)).transpose()?;
        Ok(Place { _all: room, _remote: remote })
    }

    /// A turn to tell a client why it is turned away.
    pub(crate) fn farewell(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.farewells).try_acquire_owned().ok()
    }

    fn remote_place(&self, origin: Origin) -> Result<(OwnedSemaphorePermit, Taken), Refusal> {
        let permit = Arc::clone(&self.remote).try_acquire_owned().map_err(|_| {
            Refusal::unavailable("the server has as many connections as it takes")
                .fix("try again in a moment")
        })?;
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = taken.entry(origin).or_default();
        if *mine >= self.per_address {
            return Err(Refusal::new(
                RefusalCode::LimitExceeded,
                format!("this address has {} connections, and may have no more", self.per_address),
            )
            .fix("close some, or use one for several requests"));
        }
        *mine += 1;
        drop(taken);
        Ok((permit, Taken { origin, taken: Arc::clone(&self.taken) }))
    }
}

// === impl Taken ===

impl Drop for Taken {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mine) = taken.get_mut(&self.origin) {
            *mine -= 1;
            if *mine == 0 {
                taken.remove(&self.origin);
            }
        }
    }
}

// === impl Driver ===

impl Driver {
    /// Serves one connection to its end.
    pub(crate) async fn drive<S>(self, stream: S, peer: Peer)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self { router, limits, shutdown, cut } = self;
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let mut request: Request = request.map(Body::new);
            request.extensions_mut().insert(peer);
            let router = router.clone();
            async move {
                Ok::<_, Infallible>(router.oneshot(request).await.unwrap_or_else(|never| match never {}))
            }
        });
        let mut patient = TimeoutWriter::new(stream);
        patient.set_timeout(Some(limits.stall_time));
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head_time)
            .max_buf_size(HEAD_BUFFER)
            .half_close(false)
            .serve_connection(TokioIo::new(Box::pin(patient)), service);
        let mut told = false;
        let ended = loop {
            tokio::select! {
                ended = &mut connection => break ended,
                () = shutdown.cancelled(), if !told => {
                    told = true;
                    Pin::new(&mut connection).graceful_shutdown();
                }
                () = cut.cancelled() => return,
            }
        };
        let Err(error) = ended else { return };
        // The client went away, was too slow, or spoke no HTTP: its affair.
        tracing::debug!(%error, "connection ended");
        let parts = connection.into_parts();
        if error.is_timeout() && !parts.read_buf.is_empty() {
            let refusal = Refusal::invalid(format!(
                "the head of the request did not arrive in {} s",
                limits.head_time.as_secs_f64()
            ));
            let status = http::StatusCode::REQUEST_TIMEOUT;
            say(parts.io.into_inner(), &reply::bare(status, &refusal.fix("send it at once"))).await;
        }
    }
}

/// Tells a client why it is not served, and closes.
pub(crate) async fn turn_away(stream: tokio::net::TcpStream, peer: SocketAddr, refusal: Refusal) {
    tracing::debug!(%peer, %refusal, "turned away");
    say(stream, &reply::bare(reply::status_of(&refusal), &refusal)).await;
}

/// Last words on a connection: what cannot be said in time, or is not listened to, is not said.
async fn say(mut stream: impl AsyncWrite + Unpin, answer: &[u8]) {
    let said = async {
        stream.write_all(answer).await?;
        stream.shutdown().await
    };
    if !matches!(tokio::time::timeout(FAREWELL_MAX, said).await, Ok(Ok(()))) {
        tracing::trace!("the client did not wait for an answer");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: &str) -> Peer {
        Peer(Some(address.parse().expect("an address")))
    }

    #[tokio::test]
    async fn an_address_has_its_share_and_this_machine_is_always_let_in() {
        let places = Places::new(&Limits { connections: 16, per_address: 4, ..Limits::default() });
        let take = async |who: &str| places.place(places.room().await, peer(who));
        let mut held = Vec::new();
        for _ in 0..4 {
            held.push(take("192.0.2.1:1").await.expect("its share"));
        }
        let refusal = take("192.0.2.1:9").await.err().expect("more than its share");
        assert_eq!(refusal.code, RefusalCode::LimitExceeded);
        for other in 2..12 {
            held.push(take(&format!("192.0.2.{other}:1")).await.expect("a place for another"));
        }
        // 14 of 16 places are for other machines.
        let refusal = take("192.0.2.99:1").await.err().expect("all are taken");
        assert_eq!(refusal.code, RefusalCode::Unavailable);
        for here in ["127.0.0.1:1", "[::1]:1"] {
            held.push(take(here).await.expect("places that other machines cannot have"));
        }
        held.remove(0);
        held.push(take("192.0.2.1:2").await.expect("one was given back"));
        drop(held);
        assert!(places.taken.lock().expect("no panic").is_empty(), "nothing is kept of who is gone");
        assert_eq!((places.all.available_permits(), places.remote.available_permits()), (16, 14));
    }
}
