//! A sandbox and the guest in it: dials its gate, and speaks the real protocol over the real frames.
//!
//! ```text
//! started --dial--> linked <--cut, redial--> dialling --lease ran out--> ended
//! ```

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Request;
use http::Response;
use http::StatusCode;
use http_body_util::BodyExt as _;
use http_body_util::Empty;
use http_body_util::Full;
use http_body_util::StreamBody;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Frame;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use ob_core::Epoch;
use ob_core::SessionId;
use ob_core::link::Ack;
use ob_core::link::GUEST_PROGRAM;
use ob_core::link::ProcessSpec;
use ob_core::link::STREAM_END;
use ob_core::link::StdinTaken;
use ob_core::link::UPGRADE;
use ob_core::link::UPGRADE_PATH;
use ob_gate::SOCKET;
use ob_sandbox::SandboxSpec;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::agent;
use crate::net;
use crate::process::Channel;
use crate::process::Process;
use crate::process::Read;
use crate::world::World;

/// How long a dial that got no answer is waited for.
const HANDSHAKE: Duration = Duration::from_secs(30);

type Body = UnsyncBoxBody<Bytes, Cut>;

/// An output that cannot go on.
#[derive(Debug, thiserror::Error)]
#[error("the stream was cut")]
pub(crate) struct Cut;

/// A sandbox that runs.
pub(crate) struct Sandbox {
    pub(crate) world: Arc<World>,
    pub(crate) id: String,
    pub(crate) session: Option<SessionId>,
    pub(crate) gate: PathBuf,
    pub(crate) uid: u32,
    lease: Duration,
    /// The latest server that made or adopted it.
    owner: Mutex<Epoch>,
    processes: Mutex<BTreeMap<String, Arc<Process>>>,
    /// Cancelled when it ends.
    pub(crate) gone: CancellationToken,
    ended: watch::Sender<Option<String>>,
}

/// Spawns what belongs to a sandbox, and ends it with it.
#[derive(Clone)]
struct Tasks(CancellationToken);

// === impl Sandbox ===

impl Sandbox {
    /// Starts it; it goes on whatever becomes of the server.
    pub(crate) fn start(world: &Arc<World>, spec: &SandboxSpec) -> Arc<Self> {
        let sandbox = Arc::new(Self {
            world: Arc::clone(world),
            id: spec.id.clone(),
            session: spec.home.is_some().then(|| world.session_of(&spec.id)).flatten(),
            gate: spec.gate_dir.join(SOCKET),
            uid: spec.host_uid,
            lease: spec.lease,
            owner: Mutex::new(spec.epoch),
            processes: Mutex::default(),
            gone: CancellationToken::new(),
            ended: watch::Sender::new(None),
        });
        world.sandboxes().insert(spec.id.clone(), Arc::clone(&sandbox));
        let guest = Arc::clone(&sandbox);
        let gone = sandbox.gone.clone();
        tokio::spawn(async move { gone.run_until_cancelled_owned(guest.run()).await });
        sandbox
    }

    /// True if this server may say what becomes of it; then it is its owner.
    pub(crate) fn belongs_to(&self, epoch: Epoch) -> bool {
        let mut owner = self.owner.lock().expect("no one panics with it");
        if epoch.is_late_for(*owner) {
            return false;
        }
        *owner = epoch.max(*owner);
        true
    }

    /// It is over, with everything in it.
    pub(crate) fn end(&self, reason: &str) {
        let first = self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            ended.get_or_insert_with(|| reason.to_owned());
            first
        });
        if first {
            self.world.note(&format!("gone {}: {reason}", self.id));
            self.gone.cancel();
            for process in self.processes().values() {
                process.exit(None, Some(9));
            }
            let mut sandboxes = self.world.sandboxes();
            if sandboxes.get(&self.id).is_some_and(|known| std::ptr::eq(&raw const **known, self)) {
                sandboxes.remove(&self.id);
            }
        }
    }

    pub(crate) async fn ended(&self) -> String {
        let mut ended = self.ended.subscribe();
        let reason = ended.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        reason.unwrap_or_default()
    }

    fn processes(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Process>>> {
        self.processes.lock().expect("no one panics with it")
    }

    async fn run(self: Arc<Self>) {
        let mut last_link = Instant::now();
        let mut delay = 5;
        loop {
            tokio::time::sleep(Duration::from_millis(delay)).await;
            delay = (delay * 2).min(500);
            if let Ok(Ok(upgraded)) = tokio::time::timeout(HANDSHAKE, self.upgrade()).await {
                delay = 5;
                self.world.note(&format!("link {}", self.id));
                self.serve(upgraded).await;
                last_link = Instant::now();
            }
            if last_link.elapsed() > self.lease {
                self.end("its lease ran out");
            }
        }
    }

    async fn upgrade(&self) -> Result<hyper::upgrade::Upgraded, Box<dyn std::error::Error + Send + Sync>> {
        let wire = net::dial(&self.world, &self.gate, self.uid, &self.gone)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(wire)).await?;
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.uri_mut() = http::Uri::from_static(UPGRADE_PATH);
        let headers = request.headers_mut();
        headers.insert(http::header::HOST, HeaderValue::from_static("gate"));
        headers.insert(http::header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(http::header::UPGRADE, HeaderValue::from_static(UPGRADE));
        let asked = async {
            let response = sender.send_request(request).await?;
            if response.status() != StatusCode::SWITCHING_PROTOCOLS {
                return Err("the gate refused the link".into());
            }
            Ok(hyper::upgrade::on(response).await?)
        };
        let mut connection = std::pin::pin!(connection.with_upgrades());
        let mut asked = std::pin::pin!(asked);
        tokio::select! {
            upgraded = &mut asked => upgraded,
            ended = &mut connection => {
                ended?;
                asked.await
            }
        }
    }

    async fn serve(self: &Arc<Self>, upgraded: hyper::upgrade::Upgraded) {
        let guest = Arc::clone(self);
        let service = service_fn(move |request| {
            let guest = Arc::clone(&guest);
            async move { Ok::<_, Infallible>(guest.answer(request).await) }
        });
        let mut server = hyper::server::conn::http2::Builder::new(Tasks(self.gone.clone()));
        server.timer(TokioTimer::new()).auto_date_header(false).max_pending_accept_reset_streams(1024);
        // Why it ended makes no difference: it dials again.
        server.serve_connection(upgraded, service).await.ok();
    }

    async fn answer(self: &Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        self.world.hesitate().await;
        let (head, body) = request.into_parts();
        let parts: Vec<&str> = head.uri.path().split('/').skip(3).collect();
        let number = |name: &str| {
            let query = head.uri.query().unwrap_or_default();
            let pair = query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name);
            pair.and_then(|(_, value)| value.parse::<u64>().ok()).unwrap_or(0)
        };
        let body = match body.collect().await {
            Ok(body) => body.to_bytes(),
            Err(_) => return refusal(StatusCode::BAD_REQUEST, "invalid"),
        };
        let (name, part) = (parts.first().copied().unwrap_or_default(), parts.get(1).copied());
        if let ("PUT", None) = (head.method.as_str(), part) {
            return self.spawn(name, &body);
        }
        let process = self.processes().get(name).cloned();
        let Some(process) = process else {
            // What is not known is forgotten already.
            return if head.method == http::Method::DELETE {
                done()
            } else {
                refusal(StatusCode::NOT_FOUND, "not_found")
            };
        };
        match (head.method.as_str(), part) {
            ("GET", None) => json(&process.status()),
            ("DELETE", None) => {
                self.processes().remove(name);
                done()
            }
            ("GET", Some("stdout")) => output(process, Channel::Stdout, number("offset")),
            ("GET", Some("stderr")) => output(process, Channel::Stderr, number("offset")),
            ("GET", Some("exit")) => json(&process.exited().await),
            ("POST", Some("ack")) => match serde_json::from_slice::<Ack>(&body) {
                Ok(ack) => {
                    self.check_ack(&process, ack).await;
                    process.acknowledge(ack);
                    done()
                }
                Err(_) => refusal(StatusCode::BAD_REQUEST, "invalid"),
            },
            ("POST", Some("stdin")) => {
                let (from, end) = (number("offset"), number("offset") + body.len() as u64);
                self.check_input(&process, end).await;
                if process.take(from, &body) {
                    json(&StdinTaken { offset: end })
                } else {
                    refusal(StatusCode::BAD_REQUEST, "invalid")
                }
            }
            _ => refusal(StatusCode::BAD_REQUEST, "invalid"),
        }
    }

    fn spawn(self: &Arc<Self>, name: &str, body: &[u8]) -> Response<Body> {
        let Ok(spec) = serde_json::from_slice::<ProcessSpec>(body) else {
            return refusal(StatusCode::BAD_REQUEST, "invalid");
        };
        let mut processes = self.processes();
        if processes.contains_key(name) {
            return done();
        }
        self.world.note(&format!("spawn {} {name}", self.id));
        let is_agent = spec.argv.first().is_some_and(|program| program == GUEST_PROGRAM);
        let process = Process::new(name, self.world.number(), is_agent);
        processes.insert(name.to_owned(), Arc::clone(&process));
        drop(processes);
        let (sandbox, gone) = (Arc::clone(self), self.gone.clone());
        tokio::spawn(async move {
            let work = async {
                if is_agent {
                    agent::run(&sandbox, &process).await;
                } else {
                    agent::command(&sandbox, &process).await;
                }
            };
            gone.run_until_cancelled(work).await;
        });
        done()
    }

    /// Commit, then act: what comes in was committed to be said.
    async fn check_input(&self, process: &Process, end: u64) {
        let Some((session, driver)) = self.durable_driver(process).await else { return };
        let (start, bytes) = driver.outbox();
        if end > process.status().stdin_taken && end > start + bytes.len() as u64 {
            let durable = start + bytes.len() as u64;
            self.world.wrong(&format!("{session} says what it did not commit: {end} of {durable}"));
        }
    }

    /// Acknowledged means kept: what may be forgotten here is in the store.
    async fn check_ack(&self, process: &Process, ack: Ack) {
        let Some((session, driver)) = self.durable_driver(process).await else { return };
        if ack.stdout > driver.stdout_offset() {
            let durable = driver.stdout_offset();
            self.world.wrong(&format!("{session} acknowledged {} and kept {durable}", ack.stdout));
        }
    }

    async fn durable_driver(&self, process: &Process) -> Option<(SessionId, ob_agent::Driver)> {
        use ob_store::Store as _;
        let session = self.session.clone()?;
        let saved = self.world.disk.driver(&session).await.ok()?;
        let Some(saved) = saved else {
            // It went with its project, or nothing was committed yet.
            if self.world.disk.session(&session).await.ok()?.is_some() {
                self.world.wrong(&format!("{session} speaks to an agent that it did not commit"));
            }
            return None;
        };
        let saved: serde_json::Value = serde_json::from_slice(&saved).ok()?;
        if saved["process"] != process.name() {
            self.world.wrong(&format!(
                "{session} speaks to {} and committed {}",
                process.name(),
                saved["process"]
            ));
            return None;
        }
        let driver = ob_agent::Driver::restore(saved["driver"].as_str()?.as_bytes()).ok()?;
        Some((session, driver))
    }
}

// === impl Tasks ===

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, work: F) {
        let gone = self.0.clone();
        tokio::spawn(async move { gone.run_until_cancelled_owned(work).await.map(drop) });
    }
}

fn output(process: Arc<Process>, channel: Channel, offset: u64) -> Response<Body> {
    if matches!(process.read(channel, offset, 0), Read::Gone) {
        return refusal(StatusCode::GONE, "gone");
    }
    let frames = stream::unfold(Some((process, offset)), move |place| async move {
        let (process, offset) = place?;
        match process.wait(channel, offset).await {
            Read::Bytes(bytes) => {
                let next = offset + bytes.len() as u64;
                Some((Ok(Frame::data(bytes)), Some((process, next))))
            }
            Read::End => {
                let end = [(HeaderName::from_static(STREAM_END), HeaderValue::from(offset))];
                Some((Ok(Frame::trailers(HeaderMap::from_iter(end))), None))
            }
            Read::Gone | Read::Wait => Some((Err(Cut), None)),
        }
    });
    Response::new(StreamBody::new(frames).boxed_unsync())
}

fn json(value: &impl Serialize) -> Response<Body> {
    Response::new(full(serde_json::to_vec(value).expect("plain fields").into()))
}

fn done() -> Response<Body> {
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

fn refusal(status: StatusCode, code: &str) -> Response<Body> {
    let mut response = json(&ob_core::link::GuestError { code: code.to_owned(), message: String::new() });
    *response.status_mut() = status;
    response
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}
