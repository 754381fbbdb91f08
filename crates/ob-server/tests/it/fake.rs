//! A fake engine, a server over it, and a client.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use http::Request;
use http::Response;
use http_body_util::BodyExt as _;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use ob_core::Check;
use ob_core::EventBody;
use ob_core::Principal;
use ob_core::Refusal;
use ob_core::RefusalCode;
use ob_core::Scope;
use ob_core::Timestamp;
use ob_core::TokenId;
use ob_core::audit::Asker;
use ob_core::authorize::Target;
use ob_core::authorize::authorize;
use ob_core::operation::EventView;
use ob_core::operation::Operation;
use ob_core::operation::SessionEvents;
use ob_engine::NotReady;
use ob_server::Authentication;
use ob_server::Binding;
use ob_server::Doors;
use ob_server::Limits;
use ob_server::Listener;
use ob_server::Phase;
use ob_server::RateLimit;
use ob_server::RouteGroups;
use ob_server::ServerOptions;
use serde_json::Value;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::net::UnixListener;
use tokio::sync::Notify;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub(crate) const SESSION: &str = "gogol_20261118_110640_deadbeef";
pub(crate) const ADMIN: &str = "oub_admin";
pub(crate) const READER: &str = "oub_reader";
pub(crate) const PROJECT: &str = "oub_project";

/// Remembers calls and answers by rule.
pub(crate) struct Fake {
    pub(crate) calls: Mutex<Vec<(String, Operation, Value)>>,
    /// Events there are so far; followers wait for more until `over`.
    pub(crate) events: watch::Sender<(u64, bool)>,
    /// Set when the tokens are revoked.
    pub(crate) revoked: watch::Sender<bool>,
    /// Released when `token.create` may go on.
    pub(crate) gate: Notify,
    pub(crate) entered: Notify,
    pub(crate) finished: AtomicU64,
    pub(crate) not_ready: Mutex<Option<String>>,
    /// How often it was asked whose secret something is.
    pub(crate) looked_up: AtomicU64,
    /// Requests that came without a valid token.
    pub(crate) logins: Mutex<Vec<(String, Option<IpAddr>)>>,
}

impl Fake {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            calls: Mutex::default(),
            events: watch::Sender::new((0, false)),
            revoked: watch::Sender::new(false),
            gate: Notify::new(),
            entered: Notify::new(),
            finished: AtomicU64::new(0),
            not_ready: Mutex::new(None),
            looked_up: AtomicU64::new(0),
            logins: Mutex::default(),
        })
    }
}

pub(crate) fn event(index: u64) -> EventView {
    let at = Timestamp::from_micros(1_795_000_000_000_000);
    EventView { index, at, body: EventBody::system(format!("event {index}\nsecond line")) }
}

#[async_trait]
impl Doors for Fake {
    async fn call(&self, asker: &Asker, operation: Operation, params: Value) -> Result<Value, Refusal> {
        let principal = &asker.principal;
        self.calls.lock().expect("no panic inside").push((principal.to_string(), operation, params.clone()));
        match operation {
            Operation::ProjectDelete => panic!("the fake panics here"),
            Operation::WorkspaceDelete => {
                Err(Refusal::conflict("the workspace has an active session").fix("end the session"))
            }
            Operation::TokenCreate => {
                self.entered.notify_one();
                self.gate.notified().await;
                self.finished.fetch_add(1, Ordering::SeqCst);
                Ok(json!({}))
            }
            Operation::SessionGet => {
                let (count, over) = *self.events.borrow();
                let (state, status) = if over { ("ended", "completed") } else { ("running", "active") };
                let last = i64::try_from(count).expect("small") - 1;
                Ok(json!({ "session_id": SESSION, "state": state, "status": status, "last_index": last }))
            }
            Operation::SessionEvents => {
                let wait = params["wait_ms"].as_u64().unwrap_or(0);
                let cursor = params["cursor"].as_i64().unwrap_or(-1);
                let mut bell = self.events.subscribe();
                if wait > 0 {
                    bell.wait_for(|(count, _)| i64::try_from(*count).expect("small") > cursor + 1)
                        .await
                        .expect("the fake lives");
                }
                let count = self.events.borrow().0;
                let from = u64::try_from(cursor + 1).expect("not negative");
                let events: Vec<_> = (from..count).map(event).collect();
                Ok(json!({ "session_id": SESSION, "events": events }))
            }
            Operation::SessionSpawn => Ok(json!({
                "operation": operation.spec().name(), "params": params, "session_id": SESSION, "last_index": -1,
            })),
            // As the engine does, for what is about the server as a whole.
            Operation::TokenList => {
                authorize(principal, operation, Target::Global)?;
                Ok(json!([]))
            }
            _ => Ok(json!({ "operation": operation.spec().name(), "params": params })),
        }
    }

    async fn follow(
        &self,
        asker: &Asker,
        params: SessionEvents,
    ) -> Result<BoxStream<'static, Result<EventView, Refusal>>, Refusal> {
        self.calls.lock().expect("no panic inside").push((
            asker.principal.to_string(),
            Operation::SessionEvents,
            json!({ "cursor": params.cursor }),
        ));
        let bell = self.events.subscribe();
        let from = u64::try_from(params.cursor + 1).expect("not negative");
        Ok(futures_util::stream::unfold((bell, from), |(mut bell, next)| async move {
            let (count, _) = *bell.wait_for(|(count, over)| *count > next || *over).await.ok()?;
            (count > next).then(|| (Ok(event(next)), (bell, next + 1)))
        })
        .boxed())
    }

    async fn authenticate(&self, secret: &str) -> Result<Principal, Refusal> {
        self.looked_up.fetch_add(1, Ordering::SeqCst);
        if *self.revoked.borrow() {
            return Err(Refusal::new(RefusalCode::Unauthenticated, "invalid or expired token"));
        }
        let scope = match secret {
            ADMIN => Scope::Admin,
            READER => Scope::AdminReadOnly,
            PROJECT => Scope::Project("00000000-0000-0000-0000-000000000001".parse()?),
            _ => {
                return Err(Refusal::new(RefusalCode::Unauthenticated, "Invalid or expired token")
                    .fix("make a token with `oubliette token create`"));
            }
        };
        Ok(Principal::Token { id: TokenId::new(1), scope })
    }

    async fn login_failed(&self, request: &str, address: Option<IpAddr>) {
        self.logins.lock().expect("no panic inside").push((request.to_owned(), address));
    }

    fn lapsed(&self, principal: &Principal) -> BoxFuture<'static, Refusal> {
        if *principal == Principal::Operator {
            return Box::pin(std::future::pending());
        }
        let mut revoked = self.revoked.subscribe();
        Box::pin(async move {
            revoked.wait_for(|revoked| *revoked).await.expect("the fake lives");
            Refusal::new(RefusalCode::Unauthenticated, "Invalid or expired token")
        })
    }

    async fn ready(&self) -> Result<(), NotReady> {
        let reason = self.not_ready.lock().expect("no panic inside").clone();
        reason.map_or(Ok(()), |reason| Err(NotReady { reason, missing: vec!["store".to_owned()] }))
    }

    async fn checks(&self) -> Vec<Check> {
        let store = match self.ready().await {
            Ok(()) => Check::ok("store", "as the fake says"),
            Err(why) => Check::failed("store", why.reason, "everything").mend("mend it", ["true"]),
        };
        vec![
            store.required(),
            Check::not_configured("model", "as the fake says"),
            Check::warn("disk", "little", "soon nothing").measured(1.5, "bytes", 2.0),
        ]
    }
}

/// A server over a [`Fake`], stopped when dropped.
pub(crate) struct Server {
    pub(crate) fake: Arc<Fake>,
    pub(crate) phase: watch::Sender<Phase>,
    pub(crate) rate_limit: watch::Sender<RateLimit>,
    pub(crate) port: u16,
    pub(crate) socket: std::path::PathBuf,
    pub(crate) observed: Arc<Mutex<Vec<(String, String, u16)>>>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) task: tokio::task::JoinHandle<std::io::Result<()>>,
    _folder: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// Serves, with the engine there or not yet.
pub(crate) async fn server(serving: bool) -> Server {
    server_at("127.0.0.1:0", serving).await
}

pub(crate) async fn server_at(address: &str, serving: bool) -> Server {
    server_with(address, serving, Limits::default()).await
}

/// Serves with these limits. Rates are such that no test that is not about them meets them.
pub(crate) async fn server_with(address: &str, serving: bool, limits: Limits) -> Server {
    let many = NonZeroU32::MAX;
    let rate_limit = watch::Sender::new(RateLimit { per_1000_s: many, burst: many });
    let fake = Fake::new();
    let starting = Phase::Starting { reason: "recovering sessions".into() };
    let phase = watch::Sender::new(if serving { Phase::Serving(fake.clone()) } else { starting });
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("control.sock");
    let tcp = TcpListener::bind(address).await.expect("a free port");
    let port = tcp.local_addr().expect("its address").port();
    let unix = UnixListener::bind(&socket).expect("a socket");
    let observed = Arc::new(Mutex::new(Vec::new()));
    let observer = Arc::clone(&observed);
    let options = ServerOptions {
        phase: phase.subscribe(),
        metrics: Arc::new(|| Box::pin(async { "# HELP x y\n".to_owned() })),
        observe_request: Arc::new(move |method: &str, path: &str, status, seconds: f64| {
            assert!(seconds >= 0.0);
            observer.lock().expect("no panic inside").push((method.into(), path.into(), status));
        }),
        allowed_hosts: vec!["proxy.example".into()],
        rate_limit: rate_limit.subscribe(),
        limits,
    };
    let listener = |binding, authentication| Listener { binding, routes: RouteGroups::ALL, authentication };
    let listeners = vec![
        listener(Binding::Tcp(tcp), Authentication::Bearer),
        listener(Binding::Unix(unix), Authentication::Operator),
    ];
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(ob_server::serve(options, listeners, shutdown.clone()));
    Server { fake, phase, rate_limit, port, socket, observed, shutdown, task, _folder: folder }
}

impl Server {
    /// A request with a loopback Host; `change` adds to it.
    pub(crate) fn request(&self, method: &str, path: &str) -> http::request::Builder {
        Request::builder().method(method).uri(path).header("host", format!("localhost:{}", self.port))
    }

    /// Sends over TCP.
    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Response<Incoming> {
        let stream =
            tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.expect("the server listens");
        exchange(stream, request).await
    }

    /// Sends over the control socket.
    pub(crate) async fn control(&self, request: Request<Full<Bytes>>) -> Response<Incoming> {
        let stream = tokio::net::UnixStream::connect(&self.socket).await.expect("the socket listens");
        exchange(stream, request).await
    }

    /// An authenticated call as admin: status and body.
    pub(crate) async fn call(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let mut request = self.request(method, path).header("authorization", format!("Bearer {ADMIN}"));
        if !body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        json_of(self.send(request.body(text(body)).expect("a request")).await).await
    }

    /// What the fake was asked last.
    pub(crate) fn last_call(&self) -> (String, Operation, Value) {
        self.fake.calls.lock().expect("no panic inside").last().cloned().expect("a call")
    }
}

pub(crate) fn text(body: &str) -> Full<Bytes> {
    Full::new(Bytes::copy_from_slice(body.as_bytes()))
}

pub(crate) fn empty() -> Full<Bytes> {
    Full::default()
}

pub(crate) async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Response<Incoming>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("a connection");
    tokio::spawn(connection);
    sender.send_request(request).await.expect("an answer")
}

pub(crate) async fn json_of(response: Response<Incoming>) -> (u16, Value) {
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.expect("a whole body").to_bytes();
    (status, serde_json::from_slice(&bytes).expect("a JSON body"))
}

/// Fails the test instead of hanging it.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(std::time::Duration::from_secs(20), future).await.expect("within the deadline")
}
