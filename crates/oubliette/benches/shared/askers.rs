//! What the benches of the server's doors share: sessions to ask for, and clients that ask again and again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use ob_testkit::bench::Program;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Live sessions, with a sandbox each.
pub(crate) const SESSIONS: usize = 20;
/// Clients that ask at once, each on a connection of its own.
pub(crate) const CLIENTS: usize = 50;
/// How long one measurement runs, and how many there are.
pub(crate) const SPAN: Duration = Duration::from_secs(4);
pub(crate) const ROUNDS: usize = 3;

/// Sessions that have done their first task and wait for another one.
pub(crate) fn sessions(server: &Program) -> Vec<String> {
    let project = server.project();
    let sessions: Vec<String> = (0..SESSIONS).map(|_| server.spawn(&project)).collect();
    sessions.iter().for_each(|session| server.wait(session, "idle"));
    sessions
}

/// A connection that asks for the same again and again.
struct Asker {
    stream: TcpStream,
    request: String,
    /// What each answer must have in it.
    sign: &'static str,
    buffer: Vec<u8>,
}

// === impl Asker ===

impl Asker {
    async fn connect(address: SocketAddr, request: &str, sign: &'static str) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, request: request.to_owned(), sign, buffer: Vec::with_capacity(16 * 1024) }
    }

    /// One request and its whole answer.
    async fn ask(&mut self) {
        self.stream.write_all(self.request.as_bytes()).await.unwrap();
        self.buffer.clear();
        let whole = loop {
            assert!(self.stream.read_buf(&mut self.buffer).await.unwrap() > 0, "the server closed");
            if let Some(whole) = length(&self.buffer) {
                break whole;
            }
        };
        while self.buffer.len() < whole {
            assert!(self.stream.read_buf(&mut self.buffer).await.unwrap() > 0, "the server closed");
        }
        let is_good = self.buffer.starts_with(b"HTTP/1.1 200 ")
            && self.buffer.windows(self.sign.len()).any(|window| window == self.sign.as_bytes());
        assert!(is_good, "{}", String::from_utf8_lossy(&self.buffer));
    }
}

/// As many answers in a second as the clients get when each asks again at once.
pub(crate) async fn per_second(address: SocketAddr, requests: &[String], sign: &'static str) -> f64 {
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for n in 0..CLIENTS {
        let mut asker = Asker::connect(address, &requests[n % requests.len()], sign).await;
        let stop = Arc::clone(&stop);
        clients.spawn(async move {
            let mut answers = 0_u32;
            while !stop.load(Ordering::Relaxed) {
                asker.ask().await;
                answers += 1;
            }
            answers
        });
    }
    let began = Instant::now();
    tokio::time::sleep(SPAN).await;
    stop.store(true, Ordering::Relaxed);
    let answers: u32 = clients.join_all().await.into_iter().sum();
    f64::from(answers) / began.elapsed().as_secs_f64()
}

/// How long answers take, in milliseconds, if together so many are asked for in a second. From when each was to be asked,
/// so that one that waits for the one before is counted with its wait.
pub(crate) async fn latencies(
    address: SocketAddr,
    requests: &[String],
    sign: &'static str,
    rate: f64,
) -> Vec<f64> {
    let mut clients = JoinSet::new();
    let pause = Duration::from_secs_f64(CLIENTS as f64 / rate);
    let count = (SPAN.as_secs_f64() / pause.as_secs_f64()) as u32;
    let began = tokio::time::Instant::now() + Duration::from_millis(50);
    for n in 0..CLIENTS {
        let mut asker = Asker::connect(address, &requests[n % requests.len()], sign).await;
        // Spread over one pause, as clients that know nothing of each other are.
        let first = began + pause * u32::try_from(n).unwrap() / u32::try_from(CLIENTS).unwrap();
        clients.spawn(async move {
            let mut took = Vec::with_capacity(count as usize);
            for number in 0..count {
                let due = first + pause * number;
                tokio::time::sleep_until(due).await;
                asker.ask().await;
                took.push(due.elapsed().as_secs_f64() * 1e3);
            }
            took
        });
    }
    clients.join_all().await.into_iter().flatten().collect()
}

/// The length of an answer with its head, once the head is there.
fn length(answer: &[u8]) -> Option<usize> {
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&answer[..head]).unwrap();
    let value = text.split_once("content-length: ").unwrap().1.split_once("\r\n").unwrap().0;
    Some(head + value.parse::<usize>().unwrap())
}
