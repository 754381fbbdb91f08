//! MCP of the real program over loopback: reads and durable writes by many clients, beside an empty server of the same
//! library on the same machine.
//!
//! A plain program: `cargo bench -p oubliette --bench mcp [-- --json]`. As `mcp --empty` it is that empty server.

#![expect(clippy::print_stdout, reason = "figures are this program's output")]
#![expect(clippy::unwrap_used, reason = "a measurement that cannot be made ends the program")]

#[path = "shared/askers.rs"]
mod askers;

use std::hint::black_box;
use std::io::BufRead as _;
use std::io::BufReader;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Instant;

use ob_core::Principal;
use ob_core::ProjectId;
use ob_core::Scope;
use ob_core::TokenId;
use ob_core::authorize::Target;
use ob_core::authorize::authorize;
use ob_core::operation::Operation;
use ob_server::RateLimit;
use ob_server::Throttle;
use ob_testkit::Answer;
use ob_testkit::ModelServer;
use ob_testkit::bench::Program;
use ob_testkit::bench::median;
use ob_testkit::bench::percentile;
use ob_testkit::bench::print;
use rmcp::ErrorData;
use rmcp::RoleServer;
use rmcp::ServerHandler;
use rmcp::model::CallToolRequestParams;
use rmcp::model::CallToolResponse;
use rmcp::model::CallToolResult;
use rmcp::model::ContentBlock;
use rmcp::service::RequestContext;
use rmcp::transport::streamable_http_server::StreamableHttpServerConfig;
use rmcp::transport::streamable_http_server::StreamableHttpService;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use serde_json::json;
use tokio::sync::watch;

use askers::CLIENTS;
use askers::ROUNDS;
use askers::SESSIONS;
use askers::SPAN;
use askers::latencies;
use askers::per_second;

/// The wire without MCP sessions: each request stands for itself.
const WIRE: &str = "2026-07-28";
/// What the answer to a call that went well has in it.
const SIGN: &str = "\"isError\":false";
/// Decisions of one measurement.
const DECISIONS: u32 = 1_000_000;

/// A server that does nothing.
#[derive(Clone)]
struct Empty;

impl ServerHandler for Empty {
    async fn call_tool(
        &self,
        _: CallToolRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        Ok(CallToolResult::success(vec![ContentBlock::text("nothing")]).into())
    }
}

/// That server, in a process of its own.
struct EmptyServer {
    child: Child,
    address: SocketAddr,
}

// === impl EmptyServer ===

impl EmptyServer {
    fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg("--empty")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut address = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Self { child, address: address.trim().parse().unwrap() }
    }

    /// Says its address, and serves until nobody holds its standard input any more.
    fn serve() {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut config = StreamableHttpServerConfig::default();
            config.json_response = true;
            let sessions = std::sync::Arc::new(LocalSessionManager::default());
            let service = StreamableHttpService::new(|| Ok(Empty), sessions, config);
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            println!("{}", listener.local_addr().unwrap());
            let served = axum::serve(listener, axum::Router::new().route_service("/mcp", service));
            let held = tokio::task::spawn_blocking(|| std::io::stdin().lines().for_each(drop));
            tokio::select! {
                served = served.into_future() => served.unwrap(),
                held = held => held.unwrap(),
            }
        });
        // Its runtime would wait for the thread that reads.
        runtime.shutdown_background();
    }
}

impl Drop for EmptyServer {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        self.child.wait().unwrap();
    }
}

/// A request that calls a tool; head and body.
fn call(server: &Program, arguments: &serde_json::Value) -> String {
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": WIRE,
        "io.modelcontextprotocol/clientInfo": { "name": "bench", "version": "1" },
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let params = json!({ "name": "session", "arguments": arguments, "_meta": meta });
    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params }).to_string();
    let headers = format!(
        "Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\nMCP-Protocol-Version: {WIRE}\r\n\
         Mcp-Method: tools/call\r\nMcp-Name: session\r\nContent-Length: {}\r\n",
        body.len()
    );
    server.request("POST", "/mcp", &headers) + &body
}

/// Microseconds for one decision: may this token ask now, and may it do this?
fn authorise_us() -> f64 {
    let many = NonZeroU32::new(1_000_000_000).unwrap();
    let (_limit, limited) = watch::channel(RateLimit { per_1000_s: many, burst: many });
    let throttle = Throttle::new(limited);
    let project: ProjectId = "00000000-0000-0000-0000-000000000001".parse().unwrap();
    let tokens: Vec<_> = (0..64)
        .map(|number| {
            let id = TokenId::new(number);
            (id.clone(), Principal::Token { id, scope: Scope::Project(project) })
        })
        .collect();
    let began = Instant::now();
    for (id, principal) in tokens.iter().cycle().take(DECISIONS as usize) {
        assert!(throttle.token(black_box(id)).is_ok());
        let target = Target::Project(black_box(project));
        assert!(authorize(black_box(principal), Operation::SessionMessage, target).is_ok());
    }
    began.elapsed().as_secs_f64() * 1e6 / f64::from(DECISIONS)
}

/// The rate and, at half of it, the 99th percentile of the time of one.
async fn measured(address: SocketAddr, requests: &[String]) -> (f64, f64) {
    let (mut rates, mut p99) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        rates.push(per_second(address, requests, SIGN).await);
    }
    let rate = median(&mut rates);
    for _ in 0..ROUNDS {
        p99.push(percentile(&mut latencies(address, requests, SIGN, rate / 2.0).await, 99));
    }
    (rate, median(&mut p99))
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    if has("--empty") {
        return EmptyServer::serve();
    }
    // `cargo test --benches` asks for nothing.
    if !has("--bench") && !has("--json") {
        return;
    }
    let json = has("--json");
    let method =
        format!("the rate limit of a token and the authoriser's decision, {DECISIONS} times, 64 tokens");
    print(json, "authorise_us", authorise_us(), "us", &method);

    // The scripted model has threads of its own; the clients share one.
    let models = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let model = models.block_on(ModelServer::start()).unwrap();
    model.otherwise(Answer::text("ok"));
    let mut server = Program::new(env!("CARGO_BIN_EXE_oubliette")).with_model(&model);
    server.start();
    let sessions = askers::sessions(&server);
    let requests = |arguments: &dyn Fn(&str) -> serde_json::Value| -> Vec<String> {
        sessions.iter().map(|session| call(&server, &arguments(session))).collect()
    };
    let reads = requests(&|session| json!({ "action": "get", "session_id": session }));
    let writes =
        requests(&|session| json!({ "action": "message", "session_id": session, "message": "go on" }));
    let clients = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    clients.block_on(async {
        let (read, read_p99) = measured(server.address(), &reads).await;
        let method = format!(
            "`session get` of one of {SESSIONS} live sessions on the wire of {WIRE}, {CLIENTS} clients on as many connections, \
             each asking again at once, for {} s; the clients share the processors; median of {ROUNDS}",
            SPAN.as_secs()
        );
        print(json, "mcp_reads_per_s", read, "1/s", &method);
        let method = format!("the same at {:.0} a second, p99 from when each was due; median of {ROUNDS}", read / 2.0);
        print(json, "mcp_read_p99", read_p99, "ms", &method);
        let empty = EmptyServer::start();
        let mut rates = Vec::new();
        for _ in 0..ROUNDS {
            rates.push(per_second(empty.address, &reads, SIGN).await);
        }
        let bare = median(&mut rates);
        drop(empty);
        let method = format!(
            "mcp_reads_per_s as a share of what a server of the same library gives that does nothing, asks nobody for a token \
             and reads nothing ({bare:.0} a second)"
        );
        print(json, "mcp_reads_vs_empty_server", 100.0 * read / bare, "%", &method);
        // Last, since the sessions are busy with them afterwards.
        let (write, write_p99) = measured(server.address(), &writes).await;
        let method = format!(
            "`session message` to one of {SESSIONS} live sessions, each in the audit and in the log before it is answered; the \
             scripted agents work meanwhile; else as mcp_reads_per_s"
        );
        print(json, "mcp_writes_per_s", write, "1/s", &method);
        let method = format!("the same at {:.0} a second, p99 from when each was due; median of {ROUNDS}", write / 2.0);
        print(json, "mcp_write_p99", write_p99, "ms", &method);
    });
}
