//! MCP over real sockets: both wires, sessions and whose they are, pushed events, bare calls.

use std::num::NonZeroU32;

use http::Response;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use ob_core::operation::Operation;
use ob_server::Phase;
use ob_server::RateLimit;
use serde_json::Value;
use serde_json::json;

use crate::fake::ADMIN;
use crate::fake::PROJECT;
use crate::fake::READER;
use crate::fake::SESSION;
use crate::fake::Server;
use crate::fake::empty;
use crate::fake::json_of;
use crate::fake::server;
use crate::fake::soon;
use crate::fake::text;

const BOTH: &str = "application/json, text/event-stream";

/// A client of the wires with sessions.
struct Client<'a> {
    server: &'a Server,
    token: &'static str,
    version: &'static str,
    session: String,
}

impl<'a> Client<'a> {
    async fn open(server: &'a Server, token: &'static str, version: &'static str) -> Self {
        let mut client = Self { server, token, version, session: String::new() };
        let params = json!({
            "protocolVersion": version, "capabilities": {}, "clientInfo": { "name": "test", "version": "1" },
        });
        let message = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params });
        let response = soon(server.send(client.post(&message))).await;
        assert_eq!(response.status(), 200);
        client.session = response.headers()["mcp-session-id"].to_str().expect("text").to_owned();
        let answer = rpc(response).await;
        assert_eq!(answer["result"]["protocolVersion"], version);
        assert_eq!(answer["result"]["serverInfo"]["name"], "oubliette");
        let initialized = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        assert_eq!(soon(server.send(client.post(&initialized))).await.status(), 202);
        client
    }

    fn post(&self, message: &Value) -> http::Request<http_body_util::Full<bytes::Bytes>> {
        self.request("POST", self.token)
            .header("content-type", "application/json")
            .header("accept", BOTH)
            .body(text(&message.to_string()))
            .expect("a request")
    }

    fn request(&self, method: &str, token: &str) -> http::request::Builder {
        let request = self.server.request(method, "/mcp").header("authorization", format!("Bearer {token}"));
        if self.session.is_empty() {
            return request;
        }
        request.header("mcp-session-id", &self.session).header("mcp-protocol-version", self.version)
    }

    async fn ask(&self, method: &str, params: Value) -> Value {
        let message = json!({ "jsonrpc": "2.0", "id": 7, "method": method, "params": params });
        let answer = rpc(soon(self.server.send(self.post(&message))).await).await;
        assert_eq!(answer["id"], 7, "{answer}");
        answer
    }

    async fn call(&self, tool: &str, arguments: Value) -> Value {
        self.ask("tools/call", json!({ "name": tool, "arguments": arguments })).await["result"].clone()
    }
}

/// The answer in a response, be it JSON or the last message of an event stream.
async fn rpc(response: Response<Incoming>) -> Value {
    let bytes = soon(response.into_body().collect()).await.expect("a whole body").to_bytes();
    let body = String::from_utf8(bytes.to_vec()).expect("text");
    if let Ok(value) = serde_json::from_str(&body) {
        return value;
    }
    let mut data = body.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim);
    let last = data.rfind(|data| !data.is_empty()).unwrap_or_else(|| panic!("no data: {body}"));
    serde_json::from_str(last).expect("a message")
}

/// Messages of a stream until there are so many; their ids and data.
async fn messages(body: &mut Incoming, count: usize) -> Vec<(String, Value)> {
    let mut seen = String::new();
    soon(async {
        while seen.matches("\ndata:").count() < count {
            let frame = body.frame().await.expect("the stream is open").expect("a frame");
            seen.push_str(&String::from_utf8_lossy(frame.data_ref().expect("data")));
        }
    })
    .await;
    let field = |block: &str, name: &str| {
        block.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned())
    };
    seen.split("\n\n")
        .filter_map(|block| {
            let data = serde_json::from_str(&field(block, "data:")?).expect("JSON");
            Some((field(block, "id:").expect("an id"), data))
        })
        .collect()
}

#[tokio::test]
async fn clients_of_the_wires_with_sessions_list_tools_call_them_and_leave() {
    let server = server(true).await;
    for version in ["2025-06-18", "2025-11-25"] {
        let client = Client::open(&server, ADMIN, version).await;
        let tools = client.ask("tools/list", json!({})).await;
        let names: Vec<_> =
            tools["result"]["tools"].as_array().expect("tools").iter().map(|t| t["name"].clone()).collect();
        assert_eq!(
            names,
            [
                "project",
                "workspace",
                "session",
                "caller_tool_response",
                "config_limits",
                "agent",
                "model",
                "token",
                "audit",
                "server"
            ]
        );
        let result =
            client.call("session", json!({ "action": "spawn", "project_id": "p", "prompt": "go" })).await;
        assert_eq!(result["isError"], false, "{result}");
        let said = result["content"][0]["text"].as_str().expect("text");
        assert!(said.contains("New session created") && said.contains(SESSION), "{said}");
        assert_eq!(result["structuredContent"]["session_id"], SESSION);
        let (principal, operation, params) = server.last_call();
        assert!(principal.starts_with("token "), "{principal}");
        assert_eq!((operation, &params["message"]), (Operation::SessionSpawn, &json!("go")));

        let leave = client.request("DELETE", ADMIN).body(empty()).expect("a request");
        assert!(soon(server.send(leave)).await.status().is_success());
        let message = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" });
        assert_eq!(soon(server.send(client.post(&message))).await.status(), 404, "it is over");
    }
}

#[tokio::test]
async fn a_client_of_the_wire_without_sessions_needs_none() {
    let server = server(true).await;
    let ask = async |method: &str, name: Option<&str>, mut params: Value| {
        params["_meta"] = json!({
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": { "name": "test", "version": "1" },
            "io.modelcontextprotocol/clientCapabilities": {},
        });
        let message = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let mut request = server
            .request("POST", "/mcp/")
            .header("authorization", format!("Bearer {ADMIN}"))
            .header("content-type", "application/json")
            .header("accept", BOTH)
            .header("mcp-protocol-version", "2026-07-28")
            .header("mcp-method", method);
        if let Some(name) = name {
            request = request.header("mcp-name", name);
        }
        let response = soon(server.send(request.body(text(&message.to_string())).expect("a request"))).await;
        assert!(response.headers().get("mcp-session-id").is_none());
        rpc(response).await
    };
    let found = ask("server/discover", None, json!({})).await;
    let versions = found["result"]["supportedVersions"].to_string();
    for version in ["2025-06-18", "2025-11-25", "2026-07-28"] {
        assert!(versions.contains(version), "{found}");
    }
    let tools = ask("tools/list", None, json!({})).await;
    assert_eq!(tools["result"]["tools"].as_array().map(Vec::len), Some(10), "{tools}");
    let params = json!({ "name": "session", "arguments": { "action": "get", "session_id": SESSION } });
    let result = ask("tools/call", Some("session"), params).await;
    assert_eq!(result["result"]["structuredContent"]["session_id"], SESSION, "{result}");
}

/// W8: rights were those of who had opened the session.
#[tokio::test]
async fn w8_a_session_gives_no_right_to_another_token() {
    let server = server(true).await;
    let client = Client::open(&server, ADMIN, "2025-11-25").await;
    let message = json!({
        "jsonrpc": "2.0", "id": 1, "method": "tools/call",
        "params": { "name": "token", "arguments": { "action": "list" } },
    });
    let with = |method: &str, token: &str| {
        let request = client.request(method, token).header("content-type", "application/json");
        request.header("accept", BOTH).body(text(&message.to_string())).expect("a request")
    };
    let before = server.fake.calls.lock().expect("no panic").len();
    for token in [READER, PROJECT] {
        for method in ["POST", "GET", "DELETE"] {
            let response = soon(server.send(with(method, token))).await;
            assert_eq!(response.status(), 404, "{method} as {token}");
        }
    }
    assert_eq!(server.fake.calls.lock().expect("no panic").len(), before, "nothing reached the engine");
    // The positive control: the session is there, for its owner.
    let answer = rpc(soon(server.send(with("POST", ADMIN))).await).await;
    assert_eq!(answer["result"]["isError"], false, "{answer}");
    // And the rights are those of each request: a session of another token has that token's.
    let reader = Client::open(&server, READER, "2025-11-25").await;
    let refused = reader.call("token", json!({ "action": "list" })).await;
    assert_eq!(refused["structuredContent"]["error"]["code"], "forbidden", "{refused}");
    server.fake.revoked.send_replace(true);
    assert_eq!(
        soon(server.send(with("POST", ADMIN))).await.status(),
        401,
        "a revoked token ends with its request"
    );
}

#[tokio::test]
async fn who_is_nobody_gets_a_json_rpc_error_whatever_was_sent() {
    let server = server(true).await;
    let bodies = [r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#, r#"{"method":"tools/call"}"#, "", "{"];
    for (authorization, words) in [
        (None, "Authentication required (Bearer token)"),
        (Some("Bearer wrong"), "Invalid or expired token"),
        (Some("Basic b3Vi"), "Authentication required (Bearer token)"),
    ] {
        for (method, path) in [("POST", "/mcp"), ("POST", "/mcp/"), ("GET", "/mcp"), ("DELETE", "/mcp")] {
            for body in bodies {
                let mut request = server.request(method, path);
                if let Some(value) = authorization {
                    request = request.header("authorization", value);
                }
                let response = soon(server.send(request.body(text(body)).expect("a request"))).await;
                assert_eq!(response.status(), 401, "{method} {path} with {authorization:?}");
                assert!(response.headers().contains_key("www-authenticate"));
                let (_, answer) = json_of(response).await;
                assert_eq!(answer["jsonrpc"], "2.0");
                assert_eq!(answer["error"]["code"], -32001, "{answer}");
                assert_eq!(answer["error"]["message"], words, "{answer}");
            }
        }
    }
    assert!(server.fake.calls.lock().expect("no panic").is_empty(), "nothing reached the engine");
}

/// CVE-2026-42559 and its kin: a page of another site reached a local server by a name that it made point there.
#[tokio::test]
async fn neither_wire_is_reached_by_another_host_or_origin() {
    let server = server(true).await;
    let bodies = [
        r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"a","version":"1"}}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"server/discover","params":{}}"#,
        r#"{"method":"tools/list"}"#,
    ];
    for body in bodies {
        for (host, origin, refused) in [
            ("localhost", None, false),
            ("evil.example", None, true),
            ("localhost.evil.example", None, true),
            ("localhost", Some("https://evil.example"), true),
            ("localhost", Some("null"), true),
            ("localhost", Some("http://localhost:6274"), false),
        ] {
            for path in ["/mcp", "/mcp/"] {
                let request = http::Request::post(path).header("host", host);
                let request = request.header("authorization", format!("Bearer {ADMIN}"));
                let request = request.header("content-type", "application/json").header("accept", BOTH);
                let request =
                    if let Some(origin) = origin { request.header("origin", origin) } else { request };
                let response = soon(server.send(request.body(text(body)).expect("a request"))).await;
                assert_eq!(response.status() == 403, refused, "{host} {origin:?} {body}");
                assert!(response.headers().get("access-control-allow-origin").is_none());
            }
        }
    }
}

#[tokio::test]
async fn a_bare_call_is_answered_whatever_its_content_type() {
    let server = server(true).await;
    let bare = async |token: &str, kind: Option<&str>, body: &str| {
        let mut request = server
            .request("POST", "/mcp")
            .header("authorization", format!("Bearer {token}"))
            .header("accept", "*/*");
        if let Some(kind) = kind {
            request = request.header("content-type", kind);
        }
        let response = soon(server.send(request.body(text(body)).expect("a request"))).await;
        assert_eq!(response.headers()["content-type"], "application/json");
        json_of(response).await
    };
    let list = r#"{"method":"tools/call","params":{"name":"project","arguments":{"action":"list"}}}"#;
    for kind in
        [Some("application/x-www-form-urlencoded"), Some("text/plain"), Some("application/json"), None]
    {
        let (status, answer) = bare(ADMIN, kind, list).await;
        assert_eq!((status, &answer["isError"]), (200, &json!(false)), "{kind:?}: {answer}");
    }
    let tokens = r#"{"method":"tools/call","params":{"name":"token","arguments":{"action":"list"}}}"#;
    for (token, body, status, code) in [
        (READER, tokens, 403, "forbidden"),
        (
            ADMIN,
            r#"{"method":"tools/call","params":{"name":"image_rebuild","arguments":{}}}"#,
            404,
            "not_found",
        ),
        (ADMIN, r#"{"method":"tools/call","params":{"name":"project"}}"#, 400, "invalid_argument"),
        (ADMIN, r#"{"method":"tools/call","params":5}"#, 400, "invalid_argument"),
        (ADMIN, r#"{"method":"resources/list"}"#, 400, "invalid_argument"),
        (ADMIN, "{}", 400, "invalid_argument"),
    ] {
        let (got, answer) = bare(token, None, body).await;
        let error = &answer["structuredContent"]["error"];
        assert_eq!((got, error["code"].as_str()), (status, Some(code)), "{body}: {answer}");
        assert_eq!(answer["isError"], true);
        assert!(answer["request_id"].is_string());
    }
}

#[tokio::test]
async fn what_is_no_message_is_refused_in_json_rpc() {
    let server = server(true).await;
    let post = |body: &str| {
        let request = server.request("POST", "/mcp").header("authorization", format!("Bearer {ADMIN}"));
        let request = request.header("content-type", "application/json").header("accept", BOTH);
        request.body(text(body)).expect("a request")
    };
    let large = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{}"}}"#, "x".repeat(1024 * 1024));
    for (body, status, code) in
        [("{", 400, -32700), ("[]", 400, -32600), ("7", 400, -32600), (large.as_str(), 413, -32600)]
    {
        let (got, answer) = json_of(soon(server.send(post(body))).await).await;
        assert_eq!((got, &answer["error"]["code"]), (status, &json!(code)), "{answer}");
    }
    server.phase.send_replace(Phase::Draining);
    let response = soon(server.send(post(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#))).await;
    assert!(response.headers().contains_key("retry-after"));
    assert_eq!(json_of(response).await.0, 503);
}

#[tokio::test]
async fn who_asks_too_often_is_told_so_in_json_rpc() {
    let server = server(true).await;
    let one = NonZeroU32::MIN;
    server.rate_limit.send_replace(RateLimit { per_1000_s: one, burst: one });
    let list = || {
        let request = server.request("POST", "/mcp").header("authorization", format!("Bearer {ADMIN}"));
        request.body(text(r#"{"method":"tools/list"}"#)).expect("a request")
    };
    assert_eq!(soon(server.send(list())).await.status(), 200);
    let response = soon(server.send(list())).await;
    assert_eq!(response.status(), 429);
    let wait: u64 = response.headers()["retry-after"].to_str().expect("text").parse().expect("seconds");
    assert!(wait > 1, "{wait}");
    assert_eq!(json_of(response).await.1["error"]["code"], -32029);
}

/// W7: a fault in a handler was the end of the process.
#[tokio::test]
async fn w7_a_call_that_panics_is_answered_and_the_next_one_too() {
    let server = server(true).await;
    let client = Client::open(&server, ADMIN, "2025-11-25").await;
    // The fake panics here.
    let result = client.call("project", json!({ "action": "delete", "project_id": "1" })).await;
    assert_eq!(result["structuredContent"]["error"]["code"], "internal", "{result}");
    assert!(!result.to_string().contains("the fake panics"), "the inside stays inside");
    let result = client.call("server", json!({ "action": "status" })).await;
    assert_eq!(result["isError"], false);
}

#[tokio::test]
async fn mistakes_in_a_call_are_named_and_an_unknown_tool_is_an_error_of_the_protocol() {
    let server = server(true).await;
    let client = Client::open(&server, ADMIN, "2025-11-25").await;
    for (arguments, words) in [
        (json!({}), "action parameter is required for session tool; valid actions: spawn"),
        (json!({ "action": "x" }), "unknown action 'x' for session tool; valid actions: spawn"),
        (json!({ "action": "get", "sesion": 1 }), "unknown parameter `sesion`"),
    ] {
        let result = client.call("session", arguments).await;
        assert_eq!(result["isError"], true);
        assert_eq!(result["structuredContent"]["error"]["code"], "invalid_argument");
        assert!(result["content"][0]["text"].as_str().is_some_and(|text| text.contains(words)), "{result}");
    }
    let answer = client.ask("tools/call", json!({ "name": "image_rebuild", "arguments": {} })).await;
    assert_eq!(answer["error"]["code"], -32602, "{answer}");
}

/// W30: one client got events, only after `logging/setLevel`, and none during plain text.
#[tokio::test]
async fn w30_every_client_that_follows_is_pushed_every_event_without_asking_for_a_level() {
    let server = server(true).await;
    let (one, two) =
        (Client::open(&server, ADMIN, "2025-11-25").await, Client::open(&server, ADMIN, "2025-06-18").await);
    let listen = |client: &Client<'_>, after: Option<&str>| {
        let request = client.request("GET", ADMIN).header("accept", "text/event-stream");
        let request = if let Some(id) = after { request.header("last-event-id", id) } else { request };
        server.send(request.body(empty()).expect("a request"))
    };
    let mut early = soon(listen(&one, None)).await;
    assert_eq!(early.headers()["content-type"], "text/event-stream");
    for client in [&one, &two] {
        client.call("session", json!({ "action": "spawn", "project_id": "p", "message": "go" })).await;
    }
    let mut late = soon(listen(&two, None)).await;
    server.fake.events.send_modify(|events| events.0 = 3);
    let mut last = String::new();
    for stream in [&mut early, &mut late] {
        let got = messages(stream.body_mut(), 3).await;
        for (index, (id, message)) in got.iter().enumerate() {
            assert_eq!(message["method"], "notifications/message");
            assert_eq!(message["params"]["logger"], "oubliette.session");
            let data = &message["params"]["data"];
            assert_eq!((&data["session_id"], &data["index"]), (&json!(SESSION), &json!(index)), "{message}");
            last.clone_from(id);
        }
    }
    // After a cut it goes on where it stood: nothing lost, nothing twice.
    drop(late);
    server.fake.events.send_modify(|events| events.0 = 5);
    let mut again = soon(listen(&two, Some(&last))).await;
    let indices: Vec<_> = messages(again.body_mut(), 2)
        .await
        .iter()
        .map(|(_, m)| m["params"]["data"]["index"].clone())
        .collect();
    assert_eq!(indices, [3, 4]);
}

#[tokio::test]
async fn a_newer_stream_takes_the_place_of_the_older_and_a_revoked_token_hears_no_more() {
    let server = server(true).await;
    let client = Client::open(&server, ADMIN, "2025-11-25").await;
    let listen = || {
        let request = client.request("GET", ADMIN).header("accept", "text/event-stream");
        server.send(request.body(empty()).expect("a request"))
    };
    let older = soon(listen()).await;
    let mut newer = soon(listen()).await;
    soon(older.into_body().collect()).await.expect("it ends");
    client.call("session", json!({ "action": "message", "session_id": SESSION, "message": "go" })).await;
    client.call("session", json!({ "action": "spawn", "project_id": "p", "message": "go" })).await;
    server.fake.events.send_modify(|events| events.0 = 1);
    assert_eq!(messages(newer.body_mut(), 1).await.len(), 1, "the positive control");
    server.fake.revoked.send_replace(true);
    soon(newer.into_body().collect()).await.expect("it ends at once, without another event");
}

#[tokio::test]
async fn prompts_resources_and_completions_are_there() {
    let server = server(true).await;
    let client = Client::open(&server, ADMIN, "2025-11-25").await;
    let prompts = client.ask("prompts/list", json!({})).await;
    assert_eq!(prompts["result"]["prompts"][0]["name"], "delegate", "{prompts}");
    let prompt =
        client.ask("prompts/get", json!({ "name": "review", "arguments": { "session_id": SESSION } })).await;
    assert!(prompt["result"]["messages"][0]["content"]["text"].as_str().is_some_and(|t| t.contains(SESSION)));
    let missing = client.ask("prompts/get", json!({ "name": "review" })).await;
    assert_eq!(missing["error"]["code"], -32602, "{missing}");

    let templates = client.ask("resources/templates/list", json!({})).await;
    assert_eq!(templates["result"]["resourceTemplates"].as_array().map(Vec::len), Some(3));
    let project = client.ask("resources/read", json!({ "uri": "oubliette://projects/p" })).await;
    assert_eq!(project["result"]["contents"][0]["mimeType"], "application/json", "{project}");
    assert_eq!(server.last_call().1, Operation::ProjectGet);
    let unknown = client.ask("resources/read", json!({ "uri": "file:///etc/passwd" })).await;
    assert_eq!(unknown["error"]["data"]["code"], "not_found", "{unknown}");
    let completed = client
        .ask(
            "completion/complete",
            json!({
                "ref": { "type": "ref/prompt", "name": "review" },
                "argument": { "name": "session_id", "value": "go" },
            }),
        )
        .await;
    assert!(completed["result"]["completion"]["values"].is_array(), "{completed}");
    assert_eq!(server.last_call().1, Operation::SessionList);
}

#[tokio::test]
async fn a_long_call_tells_its_progress_and_ends_when_its_client_cancels_it() {
    let server = server(true).await;
    let client = Client::open(&server, ADMIN, "2025-11-25").await;
    let arguments = json!({ "action": "events", "session_id": SESSION, "since_index": -1, "wait_ms": 60000 });
    let message = json!({
        "jsonrpc": "2.0", "id": "long", "method": "tools/call",
        "params": { "name": "session", "arguments": arguments, "_meta": { "progressToken": "p1" } },
    });
    let mut response = soon(server.send(client.post(&message))).await;
    let mut seen = String::new();
    soon(async {
        while !seen.contains("notifications/progress") {
            let frame = response.body_mut().frame().await.expect("the stream is open").expect("a frame");
            seen.push_str(&String::from_utf8_lossy(frame.data_ref().expect("data")));
        }
    })
    .await;
    assert!(seen.contains("\"p1\""), "{seen}");
    let cancel =
        json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": "long" } });
    assert_eq!(soon(server.send(client.post(&cancel))).await.status(), 202);
    soon(response.into_body().collect()).await.expect("it ends without an event");
}
