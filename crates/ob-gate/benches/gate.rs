//! Figures of the gate: `cargo bench -p ob-gate`, with `-- --json` as JSON lines on standard output.
//!
//! Provider, gate and agents are in this one process; each figure compares the same calls with and without the gate between
//! them, over a socket either way. The store is the real one, on disk.
#![expect(clippy::print_stdout, reason = "a program that prints figures")]
#![expect(clippy::unwrap_used, reason = "a program that ends when something is wrong")]

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use futures_util::future::join_all;
use http::Request;
use http_body_util::BodyExt as _;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use ob_core::MicroUsd;
use ob_core::model::ModelRef;
use ob_core::model::ModelSource;
use ob_core::model::Price;
use ob_core::model::Prices;
use ob_core::model::Wire;
use ob_gate::GateSession;
use ob_gate::Gates;
use ob_gate::OpenGate;
use ob_gate::models::Keys;
use ob_gate::models::Models;
use ob_gate::models::Provider;
use ob_sandbox::link::Guest;
use ob_store::Commit;
use ob_store::SharedStore;
use ob_store::Write;
use ob_store::conformance::seed;
use ob_store::sqlite::SqliteOptions;
use ob_telemetry::Metrics;
use tokio::io::AsyncBufReadExt as _;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::io::BufReader;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::net::UnixStream;
use tokio::sync::Barrier;
use tokio::time::MissedTickBehavior;

/// Calls that the added time to the first byte is measured with, of each kind, in turn.
const CALLS: usize = 300;
/// Bytes of a stream that the throughput is measured with, some of the longest answer that a model gives.
const FLOOD: usize = 16 << 20;
/// Bytes of text in each event of that stream: what a provider sends at once if it is fast.
const FLOOD_EVENT: usize = 1024;
/// Streams at once.
const STREAMS: usize = 500;
/// Streams of one gate: a gate takes 64 connections.
const STREAMS_OF_A_GATE: usize = 50;
/// Events a second of each of them.
const RATE: u32 = 50;
/// How long they run.
const SPAN: Duration = Duration::from_secs(5);
/// The most that the gate may add to the slowest hundredth of the events.
const ADDED_P99: f64 = 10.0;
/// Each figure is the median of so many measurements.
const ROUNDS: usize = 3;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    // `cargo test --benches` asks for nothing.
    if !has("--bench") && !has("--json") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    for Figure { name, value, unit, method } in runtime.block_on(figures()) {
        if has("--json") {
            println!(
                "{}",
                serde_json::json!({ "name": name, "value": value, "unit": unit, "method": method })
            );
        } else {
            println!("{name:32} {value:>12.3} {unit:4} {method}");
        }
    }
}

/// One line of the result.
struct Figure {
    name: &'static str,
    value: f64,
    unit: &'static str,
    method: String,
}

async fn figures() -> Vec<Figure> {
    let bench = Bench::new().await;
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let (added, reserved) = bench.first_byte().await;
        let (direct, through) = bench.flood().await;
        rounds.push([added, reserved, through / direct, through]);
    }
    let streams = bench.streams().await;
    let median = |index: usize| middle(rounds.iter().map(|round| round[index]).collect());
    let once =
        format!("{CALLS} streamed calls of each kind in turn, one connection each; median of {ROUNDS} runs");
    let flood = format!(
        "one stream of {} MiB in events of {FLOOD_EVENT} bytes, as fast as it goes; median of {ROUNDS} runs",
        FLOOD >> 20
    );
    let figure = |name, value, unit, method: &str| Figure { name, value, unit, method: method.to_owned() };
    let [direct, through] = streams.late_p99;
    let held = format!(
        "{STREAMS} streams at once, {RATE} events/s each for {SPAN:?}, over {} gates: an event is late by {direct:.2} ms at \
         p99 without the gate and by {through:.2} ms with it; counted while the gate adds at most {ADDED_P99} ms",
        STREAMS / STREAMS_OF_A_GATE
    );
    vec![
        figure(
            "gate_added_ttfb_p50",
            median(0),
            "ms",
            &format!("first byte with the gate less without it; {once}"),
        ),
        figure(
            "gate_reservation_p50",
            median(1),
            "ms",
            &format!("a reservation alone, in turn with the calls; {once}"),
        ),
        figure(
            "gate_throughput_ratio",
            median(2),
            "",
            &format!("bytes/s with the gate by those without; {flood}"),
        ),
        figure("gate_throughput", median(3), "MB/s", &flood),
        figure("gate_streams", streams.count, "", &held),
    ]
}

struct Bench {
    _folder: tempfile::TempDir,
    store: SharedStore,
    provider: std::net::SocketAddr,
    gates: Vec<(OpenGate, GateSession)>,
}

/// How streams at once did.
struct Streams {
    /// How many, if the gate did not make them late.
    count: f64,
    /// Milliseconds by which the slowest hundredth of events was late: without the gate, and with it.
    late_p99: [f64; 2],
}

// === impl Bench ===

impl Bench {
    async fn new() -> Self {
        // On the disk that the server's home would be on, and not in memory.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let data = |name: &str| folder.path().join(name);
        let options = SqliteOptions { database: data("db"), blobs: data("blobs") };
        let store = ob_store::sqlite::open(options).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let provider = listener.local_addr().unwrap();
        tokio::spawn(serve(listener));
        let models = Arc::new(Models::new());
        let model =
            ModelRef { provider: "bench".into(), model: "large".into(), source: ModelSource::Configured };
        models.put(
            model.clone(),
            Provider {
                base_url: format!("http://{provider}/v1"),
                wires: vec![Wire::Chat],
                holds_calls: false,
                keys: Arc::new(Keys::new(vec!["a-key-of-the-bench".to_owned().into()])),
                extra_headers: Vec::new(),
                max_output_tokens: 8192,
                prices: Prices::always(Price { input: MicroUsd(1), output: MicroUsd(1), ..Price::default() }),
                must_have_price: false,
                retries: 0,
            },
        );
        let shared = Gates::new(Arc::clone(&store), models, Metrics::new("bench"));
        let mut gates = Vec::new();
        for number in 0..STREAMS / STREAMS_OF_A_GATE {
            let record = seed(&store).await;
            let epoch = store.new_epoch().await.unwrap();
            store.claim(&record.id, epoch).await.unwrap();
            let peer_uid = std::fs::metadata(folder.path()).unwrap().uid();
            let session = GateSession {
                id: record.id,
                project: record.project,
                tree: record.tree,
                model: model.clone(),
                epoch,
                peer_uid,
            };
            // A path of a socket may have 108 bytes.
            let place = PathBuf::from(format!("/tmp/ob-gate-bench-{}-{number}", std::process::id()));
            let gate = shared.open(&place, session.clone(), Guest::new()).await.unwrap();
            gates.push((gate, session));
        }
        Self { _folder: folder, store, provider, gates }
    }

    async fn connect(&self, through: Option<usize>) -> Connection {
        match through {
            None => Connection::over(TcpStream::connect(self.provider).await.unwrap()).await,
            Some(gate) => {
                Connection::over(UnixStream::connect(self.gates[gate].0.path()).await.unwrap()).await
            }
        }
    }

    /// Milliseconds that the gate adds to the first byte of an answer, and those of a reservation; both p50.
    async fn first_byte(&self) -> (f64, f64) {
        let mut direct = self.connect(None).await;
        let mut through = self.connect(Some(0)).await;
        let session = &self.gates[0].1;
        let mut samples = [Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..CALLS {
            samples[0].push(direct.first_byte().await);
            samples[1].push(through.first_byte().await);
            let charge = ob_core::id::ChargeId::from_uuid(uuid::Uuid::now_v7());
            let amount = ob_core::ledger::Amount::new(1, MicroUsd(1));
            let (tree, id) = (session.tree.clone(), session.id.clone());
            let reserve = Write::Reserve { charge, tree, session: id, amount };
            let began = Instant::now();
            self.store.commit(Commit { writes: vec![reserve], fence: Some(session.epoch) }).await.unwrap();
            samples[2].push(millis(began.elapsed()));
            let settle = Write::Settle { charge, used: amount };
            self.store.commit(Commit { writes: vec![settle], fence: Some(session.epoch) }).await.unwrap();
        }
        let [direct, through, reserved] = samples.map(middle);
        (through - direct, reserved)
    }

    /// Megabytes a second of one stream, without the gate and with it.
    async fn flood(&self) -> (f64, f64) {
        let mut speeds = [0.0; 2];
        for (speed, through) in speeds.iter_mut().zip([None, Some(0)]) {
            let mut connection = self.connect(through).await;
            let mut body = connection.ask("flood").await;
            let (mut seen, began) = (0, Instant::now());
            while let Some(frame) = body.frame().await {
                seen += frame.unwrap().into_data().map_or(0, |data| data.len());
            }
            *speed = seen as f64 / began.elapsed().as_secs_f64() / 1e6;
            assert!(seen > FLOOD, "the whole stream came");
        }
        (speeds[0], speeds[1])
    }

    async fn streams(&self) -> Streams {
        let mut late = [f64::NAN; 2];
        for (late, is_through) in late.iter_mut().zip([false, true]) {
            let all_connected = Arc::new(Barrier::new(STREAMS));
            let runs = (0..STREAMS).map(|number| {
                let all_connected = Arc::clone(&all_connected);
                async move {
                    let through = is_through.then_some(number / STREAMS_OF_A_GATE);
                    let mut connection = self.connect(through).await;
                    all_connected.wait().await;
                    let body = connection.ask("paced").await;
                    lateness(body).await
                }
            });
            let mut all: Vec<f64> = join_all(runs).await.into_iter().flatten().collect();
            all.sort_by(f64::total_cmp);
            let expected = STREAMS * usize::try_from(SPAN.as_secs()).unwrap() * RATE as usize;
            assert!(all.len() * 10 >= expected * 9, "{} of {expected} events came", all.len());
            *late = all[all.len() * 99 / 100];
        }
        let added = late[1] - late[0];
        let is_held = added <= ADDED_P99;
        Streams { count: if is_held { STREAMS as f64 } else { 0.0 }, late_p99: late }
    }
}

/// One connection of an agent.
struct Connection {
    sender: SendRequest<Full<Bytes>>,
}

// === impl Connection ===

impl Connection {
    async fn over(io: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static) -> Self {
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await.unwrap();
        tokio::spawn(connection);
        Self { sender }
    }

    async fn ask(&mut self, what: &str) -> Incoming {
        let messages = serde_json::json!([{ "role": "user", "content": what }]);
        let body = serde_json::json!({ "model": "any", "stream": true, "messages": messages });
        let request = Request::post("/v1/chat/completions").header("host", "gate");
        let request = request.header("content-type", "application/json");
        self.sender.ready().await.unwrap();
        let asked = self.sender.send_request(request.body(Full::new(body.to_string().into())).unwrap());
        let response = asked.await.unwrap();
        assert_eq!(response.status(), 200);
        response.into_body()
    }

    /// Milliseconds to the first byte of a short answer.
    async fn first_byte(&mut self) -> f64 {
        let began = Instant::now();
        let mut body = self.ask("short").await;
        drop(body.frame().await.unwrap().unwrap());
        let took = began.elapsed();
        while body.frame().await.is_some() {}
        millis(took)
    }
}

/// Milliseconds by which each event is late that says when it was due.
async fn lateness(mut body: Incoming) -> Vec<f64> {
    let mut late = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.unwrap().into_data() else { continue };
        let now = since_epoch();
        let text = std::str::from_utf8(&data).unwrap();
        for due in text.split("due:").skip(1).filter_map(|rest| rest.split(':').next()?.parse::<u64>().ok()) {
            late.push(now.saturating_sub(due) as f64 / 1000.0);
        }
    }
    late
}

/// A provider: reads a request, answers with the stream that it asks for, and keeps the connection.
async fn serve(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).unwrap();
        tokio::spawn(async move {
            // Ends when the agent goes away.
            drop(answer(stream).await);
        });
    }
}

async fn answer(stream: TcpStream) -> std::io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let (mut length, mut line) = (0, String::new());
        loop {
            line.clear();
            if reader.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            let lower = line.trim().to_ascii_lowercase();
            if let Some(value) = lower.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if lower.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).await?;
        let body = String::from_utf8(body).unwrap();
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        writer.write_all(head.as_bytes()).await?;
        if body.contains("flood") {
            let piece = event(&"x".repeat(FLOOD_EVENT)).repeat(16);
            for _ in 0..FLOOD / (FLOOD_EVENT * 16) {
                chunk(&mut writer, &piece).await?;
            }
        } else if body.contains("paced") {
            let mut ticks = tokio::time::interval(Duration::from_secs(1) / RATE);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let began = Instant::now();
            while began.elapsed() < SPAN {
                ticks.tick().await;
                chunk(&mut writer, &event(&format!("due:{}:", since_epoch()))).await?;
            }
        } else {
            chunk(&mut writer, &event("short")).await?;
        }
        let finish = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
        let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":9}}\n\n";
        chunk(&mut writer, &format!("{finish}{usage}data: [DONE]\n\n")).await?;
        writer.write_all(b"0\r\n\r\n").await?;
    }
}

fn event(text: &str) -> String {
    let delta = serde_json::json!({ "content": text });
    let choices = serde_json::json!([{ "index": 0, "delta": delta, "finish_reason": null }]);
    let id = "chatcmpl-bench";
    let chunk =
        serde_json::json!({ "id": id, "object": "chat.completion.chunk", "created": 1, "choices": choices });
    format!("data: {chunk}\n\n")
}

async fn chunk(writer: &mut (impl tokio::io::AsyncWrite + Unpin), data: &str) -> std::io::Result<()> {
    writer.write_all(format!("{:x}\r\n{data}\r\n", data.len()).as_bytes()).await
}

/// Microseconds since the epoch: provider and agent read one clock.
fn since_epoch() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    u64::try_from(now.as_micros()).unwrap()
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn middle(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}
