//! Sockets without a kernel: gates that listen by path, and connections whose bytes come late, in pieces, or no more.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use ob_core::Timestamp;
use ob_core::id::ChargeId;
use ob_engine::Clock as _;
use ob_gate::outside::Accepted;
use ob_gate::outside::Incoming;
use ob_gate::outside::Listening;
use ob_gate::outside::NoAnswer;
use ob_gate::outside::Outside;
use ob_gate::outside::Peer;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::io::DuplexStream;
use tokio::io::ReadHalf;
use tokio::io::WriteHalf;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::provider;
use crate::world::Life;
use crate::world::World;

/// Connections that wait to be taken, as a kernel's backlog.
const BACKLOG: usize = 64;
/// Bytes on their way in each part of a connection.
const ON_THE_WAY: usize = 16 * 1024;

/// All sockets.
#[derive(Default)]
pub(crate) struct Net {
    listening: Mutex<BTreeMap<PathBuf, Socket>>,
    wires: Mutex<BTreeMap<u64, CancellationToken>>,
}

struct Socket {
    number: u64,
    life: Arc<Life>,
    connections: mpsc::Sender<Accepted>,
}

/// The world as one server's gates touch it.
pub(crate) struct SimOutside {
    life: Arc<Life>,
}

struct Backlog {
    life: Arc<Life>,
    connections: mpsc::Receiver<Accepted>,
}

/// A socket file; dropping it removes it.
struct SocketFile {
    life: Arc<Life>,
    path: PathBuf,
    number: u64,
}

/// A connection among those that there are.
struct Listed {
    world: Arc<World>,
    number: u64,
}

// === impl Net ===

impl Net {
    fn listening(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Socket>> {
        self.listening.lock().expect("no one panics with it")
    }

    fn wires(&self) -> MutexGuard<'_, BTreeMap<u64, CancellationToken>> {
        self.wires.lock().expect("no one panics with it")
    }

    /// Cuts one connection.
    pub(crate) fn cut_one(&self, world: &World) {
        let wires: Vec<(u64, CancellationToken)> =
            self.wires().iter().map(|(number, cut)| (*number, cut.clone())).collect();
        if !wires.is_empty() {
            let (number, cut) = world.chance.pick(&wires);
            world.note(&format!("cut {number}"));
            cut.cancel();
        }
    }

    /// Cuts all connections.
    pub(crate) fn cut_all(&self, world: &World) {
        world.note("cut all");
        let all: Vec<CancellationToken> = self.wires().values().cloned().collect();
        all.iter().for_each(CancellationToken::cancel);
    }

    /// Sockets of servers that live.
    pub(crate) fn open(&self) -> Vec<PathBuf> {
        let listening = self.listening();
        listening.iter().filter(|(_, socket)| !socket.life.is_dead()).map(|(path, _)| path.clone()).collect()
    }
}

/// Dials a gate as the uid of a sandbox; `gone` ends the connection with whoever dials.
pub(crate) fn dial(
    world: &Arc<World>,
    path: &Path,
    uid: u32,
    gone: &CancellationToken,
) -> io::Result<DuplexStream> {
    let (life, connections) = {
        let listening = world.net.listening();
        let socket = listening.get(path).filter(|socket| !socket.life.is_dead());
        let socket = socket.ok_or(io::ErrorKind::ConnectionRefused)?;
        (Arc::clone(&socket.life), socket.connections.clone())
    };
    let (ours, near) = tokio::io::duplex(ON_THE_WAY);
    let (theirs, far) = tokio::io::duplex(ON_THE_WAY);
    let accepted = Accepted { io: Box::new(theirs), peer: Ok(Peer { uid, pid: None }) };
    connections.try_send(accepted).map_err(|_| io::ErrorKind::ConnectionRefused)?;
    let number = world.number();
    let cut = gone.child_token();
    world.net.wires().insert(number, cut.clone());
    let listed = Listed { world: Arc::clone(world), number };
    world.note(&format!("wire {number} {}", path.display()));
    tokio::spawn(async move {
        let world = &listed.world;
        let ((from_near, to_near), (from_far, to_far)) = (tokio::io::split(near), tokio::io::split(far));
        let both = async {
            tokio::join!(carry(world, &life, from_near, to_far), carry(world, &life, from_far, to_near))
        };
        tokio::select! {
            biased;
            () = cut.cancelled() => {}
            () = life.died() => {}
            _ = both => {}
        }
        world.note(&format!("unwire {number}"));
    });
    Ok(ours)
}

/// Carries bytes in pieces of any size, some of them late.
async fn carry(
    world: &World,
    life: &Life,
    mut from: ReadHalf<DuplexStream>,
    mut to: WriteHalf<DuplexStream>,
) {
    let mut piece = vec![0; 4096];
    loop {
        let most = usize::try_from(if world.chance.one_in(8) { world.chance.between(1..=40) } else { 4096 });
        let Ok(length @ 1..) = from.read(&mut piece[..most.unwrap_or(1)]).await else { break };
        if world.chance.one_in(8) {
            tokio::time::sleep(world.chance.millis(1..=25)).await;
        }
        if life.pass().await.is_err() || to.write_all(&piece[..length]).await.is_err() {
            return;
        }
    }
    to.shutdown().await.ok();
}

// === impl SimOutside ===

impl SimOutside {
    pub(crate) fn new(life: Arc<Life>) -> Self {
        Self { life }
    }
}

impl Outside for SimOutside {
    fn listen(&self, path: &Path) -> io::Result<Listening> {
        if self.life.is_dead() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let world = &self.life.world;
        let (sender, connections) = mpsc::channel(BACKLOG);
        let number = world.number();
        world.note(&format!("listen {} {}", self.life.number, path.display()));
        let socket = Socket { number, life: Arc::clone(&self.life), connections: sender };
        world.net.listening().insert(path.to_owned(), socket);
        Ok(Listening {
            incoming: Box::new(Backlog { life: Arc::clone(&self.life), connections }),
            socket: Box::new(SocketFile { life: Arc::clone(&self.life), path: path.to_owned(), number }),
        })
    }

    fn ask(&self, request: reqwest::Request) -> BoxFuture<'static, Result<reqwest::Response, NoAnswer>> {
        let life = Arc::clone(&self.life);
        async move {
            life.pause(life.world.chance.millis(0..=20)).await.map_err(|_| NoAnswer::NoConnection)?;
            provider::answer(&life, &request).await
        }
        .boxed()
    }

    fn charge_id(&self) -> ChargeId {
        ChargeId::from_uuid(self.life.world.uuid())
    }

    fn now(&self) -> Timestamp {
        self.life.world.now()
    }
}

// === impl Backlog ===

impl Incoming for Backlog {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Accepted>> {
        async {
            let accepted = self.connections.recv().await;
            if self.life.pass().await.is_err() || accepted.is_none() {
                // Nobody can connect any more; whoever waits for it is about to be told to stop.
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            accepted.ok_or_else(|| io::ErrorKind::BrokenPipe.into())
        }
        .boxed()
    }
}

// === impl SocketFile ===

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.life.is_dead() {
            return;
        }
        let mut listening = self.life.world.net.listening();
        if listening.get(&self.path).is_some_and(|socket| socket.number == self.number) {
            listening.remove(&self.path);
        }
    }
}

// === impl Listed ===

impl Drop for Listed {
    fn drop(&mut self) {
        self.world.net.wires().remove(&self.number);
    }
}
