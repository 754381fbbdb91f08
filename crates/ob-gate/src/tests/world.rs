//! A gate with everything around it.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::Method;
use http::Request;
use http::Response;
use http_body_util::BodyExt as _;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use ob_core::Event;
use ob_core::EventKind;
use ob_core::MicroUsd;
use ob_core::event::Usage;
use ob_core::ledger::Ledger;
use ob_core::ledger::TreeLimits;
use ob_core::model::ModelRef;
use ob_core::model::ModelSource;
use ob_core::model::Price;
use ob_core::model::Prices;
use ob_core::model::Wire;
use ob_core::record::SessionRecord;
use ob_store::Store as _;
use ob_telemetry::Metrics;
use ob_testkit::MemoryStore;
use ob_testkit::ModelServer;
use serde_json::Value;
use serde_json::json;
use tokio::net::UnixStream;

use crate::GateOptions;
use crate::GateSession;
use crate::Gates;
use crate::OpenGate;
use crate::listen;
use crate::listen::LinkEnd;
use crate::models::Keys;
use crate::models::Models;
use crate::models::Provider;
use crate::outside::Io;

/// The key that no one may ever see.
pub(crate) const KEY: &str = "provider-key-0123456789";
/// A value of a header that no one may ever see.
pub(crate) const HEADER_SECRET: &str = "header-secret-0123456789";
/// How long a test waits for anything, on a loaded machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) struct World {
    pub(crate) store: MemoryStore,
    pub(crate) models: Arc<Models>,
    pub(crate) gates: Gates,
    pub(crate) provider: ModelServer,
    pub(crate) gate: Option<OpenGate>,
    pub(crate) session: GateSession,
    pub(crate) record: SessionRecord,
    pub(crate) dir: tempfile::TempDir,
}

/// Sends back what it gets, as a guest that only echoes.
pub(crate) struct Echo;

impl LinkEnd for Echo {
    fn serve(&self, io: Box<dyn Io>) -> BoxFuture<'static, ()> {
        async move {
            let (mut reader, mut writer) = tokio::io::split(io);
            drop(tokio::io::copy(&mut reader, &mut writer).await);
        }
        .boxed()
    }
}

/// One connection to the gate; dropping it hangs up.
pub(crate) struct Connection {
    sender: hyper::client::conn::http1::SendRequest<Full<Bytes>>,
    task: tokio::task::JoinHandle<()>,
}

// === impl World ===

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(TreeLimits::default(), GateOptions::default()).await
    }

    pub(crate) async fn with(limits: TreeLimits, options: GateOptions) -> Self {
        let provider = ModelServer::start().await.expect("a port");
        let model =
            ModelRef { provider: "acme".into(), model: "large-1".into(), source: ModelSource::Configured };
        let models = Arc::new(Models::new());
        models.put(model.clone(), acme(&provider.base_url()));
        let store = MemoryStore::new();
        let record = ob_testkit::fixtures::session_record(1, model.clone());
        store.seed_session(&record, limits).await.expect("an empty store");
        let epoch = store.new_epoch().await.expect("an epoch");
        store.claim(&record.id, epoch).await.expect("free");
        let gates =
            Gates::with_options(Arc::new(store.clone()), Arc::clone(&models), Metrics::new("test"), options);
        let dir = tempfile::tempdir().expect("a folder");
        let peer_uid = std::fs::metadata(dir.path()).expect("it was made").uid();
        let session = GateSession {
            id: record.id.clone(),
            project: record.project,
            tree: record.tree.clone(),
            model,
            epoch,
            peer_uid,
        };
        let mut world = Self { store, models, gates, provider, gate: None, session, record, dir };
        world.gate = Some(world.open(&world.gate_dir()).await);
        world
    }

    pub(crate) fn gate_dir(&self) -> std::path::PathBuf {
        self.dir.path().join("g")
    }

    pub(crate) async fn open(&self, dir: &Path) -> OpenGate {
        let shared = Arc::clone(&self.gates.shared);
        listen::open(shared, dir, self.session.clone(), Arc::new(Echo)).await.expect("a free path")
    }

    pub(crate) async fn connect(&self) -> Connection {
        Connection::new(&self.gate_dir().join(listen::SOCKET)).await
    }

    pub(crate) async fn chat(&self, request: &Value) -> Answered {
        let mut connection = self.connect().await;
        connection.chat(request).await
    }

    /// Closes the gate and returns when everything is settled.
    pub(crate) async fn close(&mut self) {
        if let Some(gate) = self.gate.take() {
            tokio::time::timeout(DEADLINE, gate.close()).await.expect("a gate closes");
        }
        tokio::time::timeout(DEADLINE, self.gates.settled()).await.expect("everything settles");
    }

    /// The events so far. Whoever wants those of a call that was cut closes first.
    pub(crate) fn events(&self) -> Vec<Event> {
        self.store.log(&self.record.id)
    }

    pub(crate) fn kinds(&self) -> Vec<EventKind> {
        self.events().into_iter().map(|event| event.body.kind).collect()
    }

    pub(crate) fn usages(&self) -> Vec<Usage> {
        self.events().into_iter().filter_map(|event| event.body.usage).collect()
    }

    pub(crate) async fn ledger(&self) -> Ledger {
        self.store.ledger(&self.record.tree).await.expect("open").expect("seeded")
    }

    /// Asserts that nothing is reserved any more.
    pub(crate) async fn assert_settled(&self) {
        assert_eq!(self.store.open_charges().await.expect("open"), []);
        assert_eq!(self.ledger().await.reserved, ob_core::ledger::Amount::default());
    }
}

/// A provider with prices that make every token visible: a cent for a thousand read, ten for a thousand written.
pub(crate) fn acme(base_url: &str) -> Provider {
    Provider {
        base_url: base_url.into(),
        wires: vec![Wire::Chat],
        holds_calls: false,
        keys: keys(&[KEY]),
        extra_headers: vec![("x-acme-team".into(), HEADER_SECRET.into())],
        max_output_tokens: 1000,
        prices: Prices::always(Price {
            input: MicroUsd(10_000_000),
            output: MicroUsd(100_000_000),
            cached_input: Some(MicroUsd(1_000_000)),
            cache_write: Some(MicroUsd(20_000_000)),
        }),
        must_have_price: false,
        retries: 0,
    }
}

pub(crate) fn keys(keys: &[&str]) -> Arc<Keys> {
    Arc::new(Keys::new(keys.iter().map(|key| (*key).to_owned().into()).collect()))
}

pub(crate) fn hello() -> Value {
    json!({"model": "whatever", "messages": [{"role": "user", "content": "hello"}]})
}

pub(crate) fn hello_stream() -> Value {
    json!({"model": "whatever", "messages": [{"role": "user", "content": "hello"}], "stream": true})
}

/// An answer, read to its end.
pub(crate) struct Answered {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Bytes,
}

// === impl Answered ===

impl Answered {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.text()))
    }

    pub(crate) fn code(&self) -> String {
        self.json()["error"]["code"].as_str().expect("an error has a code").to_string()
    }

    pub(crate) fn message(&self) -> String {
        self.json()["error"]["message"].as_str().expect("an error has a message").to_string()
    }
}

// === impl Connection ===

impl Connection {
    pub(crate) async fn new(path: &Path) -> Self {
        Self::over(UnixStream::connect(path).await.expect("the gate listens")).await
    }

    pub(crate) async fn over(stream: UnixStream) -> Self {
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("a handshake");
        let task = tokio::spawn(async move { drop(connection.with_upgrades().await) });
        Self { sender, task }
    }

    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        tokio::time::timeout(DEADLINE, self.sender.send_request(request)).await.expect("an answer in time")
    }

    pub(crate) async fn chat(&mut self, request: &Value) -> Answered {
        self.read(post(&request.to_string())).await
    }

    pub(crate) async fn read(&mut self, request: Request<Full<Bytes>>) -> Answered {
        let response = self.send(request).await.expect("an answer");
        let (head, body) = response.into_parts();
        let body = tokio::time::timeout(DEADLINE, body.collect()).await.expect("an end in time");
        Answered {
            status: head.status.as_u16(),
            headers: head.headers,
            body: body.expect("a whole body").to_bytes(),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) fn post(body: &str) -> Request<Full<Bytes>> {
    request(Method::POST, "/v1/chat/completions", body)
}

pub(crate) fn get(path: &str) -> Request<Full<Bytes>> {
    request(Method::GET, path, "")
}

pub(crate) fn request(method: Method, path: &str, body: &str) -> Request<Full<Bytes>> {
    Request::builder()
        .method(method)
        .uri(path)
        .header("host", "gate")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
        .expect("a request")
}
