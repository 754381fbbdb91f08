//! A client of the server's address that knows nothing of the program: plain HTTP, REST and MCP.

use std::io::Read as _;
use std::io::Write as _;

use ob_core::operation::Method;
use ob_core::operation::Operation;
use serde_json::Value;
use serde_json::json;

use crate::harness::Home;

/// An answer: status, head and body.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

/// The server of a home, with a token.
#[derive(Clone)]
pub(crate) struct Http {
    address: String,
    token: String,
}

/// An MCP session, on the wire of 2025-11-25.
pub(crate) struct Mcp {
    http: Http,
    session: String,
}

// === impl Http ===

impl Http {
    pub(crate) fn new(home: &Home, token: &str) -> Self {
        let address = home.json(&["status"])["addresses"][0].as_str().unwrap().to_owned();
        Self { address, token: token.to_owned() }
    }

    /// A new token's secret, and a client with it.
    pub(crate) fn with_scope(home: &Home, name: &str, scope: &str) -> Self {
        let made = home.json(&["token", "create", "--name", name, "--scope", scope]);
        Self::new(home, made["secret"].as_str().unwrap())
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    pub(crate) fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let mut stream = std::net::TcpStream::connect(&self.address).unwrap();
        // HTTP/1.0, so that the end of the connection is the end of the body, whatever kind of body it is.
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nHost: {}\r\nAuthorization: Bearer {}\r\n{headers}Content-Length: {}\r\n\r\n{body}",
            self.address,
            self.token,
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    /// An operation over REST: its result, or the code of its refusal with the status.
    pub(crate) fn rest(&self, operation: Operation, params: &Value) -> Result<Value, (u16, String)> {
        let spec = operation.spec();
        let mut rest = params.as_object().unwrap().clone();
        let mut path = "/api/v1".to_owned();
        for (position, part) in spec.path.split(['{', '}']).enumerate() {
            let part = if position % 2 == 0 {
                part.to_owned()
            } else {
                rest.remove(part).unwrap().as_str().unwrap().to_owned()
            };
            path.push_str(&part);
        }
        let answer = match spec.method {
            Method::Get => {
                let query: Vec<_> =
                    rest.iter().map(|(k, v)| format!("{k}={}", v.to_string().trim_matches('"'))).collect();
                self.ask("GET", &format!("{path}?{}", query.join("&")), "", "")
            }
            Method::Delete => self.ask("DELETE", &path, "", ""),
            Method::Post => {
                let body = Value::Object(rest).to_string();
                self.ask("POST", &path, "Content-Type: application/json\r\n", &body)
            }
        };
        let value: Value = serde_json::from_str(&answer.body).unwrap_or_default();
        if answer.status == 200 { Ok(value) } else { Err((answer.status, code(&value))) }
    }

    /// A tool by a bare call.
    pub(crate) fn bare(&self, tool: &str, arguments: &Value) -> Result<Value, (u16, String)> {
        let body = json!({ "method": "tools/call", "params": { "name": tool, "arguments": arguments } });
        let form = "Content-Type: application/x-www-form-urlencoded\r\nAccept: */*\r\n";
        let answer = self.ask("POST", "/mcp", form, &body.to_string());
        let value: Value = serde_json::from_str(&answer.body).unwrap();
        let result = value["structuredContent"].clone();
        if answer.status == 200 { Ok(result) } else { Err((answer.status, code(&result))) }
    }
}

/// The code of a refusal, whatever form a problem has.
fn code(problem: &Value) -> String {
    problem["error"]["code"].as_str().or_else(|| problem["code"].as_str()).unwrap_or_default().to_owned()
}

// === impl Mcp ===

impl Mcp {
    pub(crate) fn open(http: &Http) -> Self {
        let mut mcp = Self { http: http.clone(), session: String::new() };
        let params = json!({
            "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "test", "version": "1" },
        });
        let answer =
            mcp.post(&json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params }));
        assert_eq!(answer.status, 200, "{}", answer.body);
        let id = answer.head.lines().find_map(|line| line.strip_prefix("mcp-session-id: ")).unwrap();
        mcp.session = format!("Mcp-Session-Id: {id}\r\nMcp-Protocol-Version: 2025-11-25\r\n");
        let initialized = mcp.post(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }));
        assert_eq!(initialized.status, 202, "{}", initialized.body);
        mcp
    }

    fn post(&self, message: &Value) -> Answer {
        let headers = format!(
            "{}Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n",
            self.session
        );
        self.http.ask("POST", "/mcp", &headers, &message.to_string())
    }

    /// A request's answer.
    pub(crate) fn ask(&self, method: &str, params: &Value) -> Value {
        let answer = self.post(&json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }));
        let mut data = answer.body.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim);
        let last = data.rfind(|data| !data.is_empty()).unwrap_or(&answer.body);
        serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {}", answer.body))
    }

    /// A tool's result: the text and the data of one that did, or the code and the text of one that did not.
    pub(crate) fn call(&self, tool: &str, arguments: &Value) -> Result<(String, Value), (String, String)> {
        let answer = self.ask("tools/call", &json!({ "name": tool, "arguments": arguments }));
        let result = &answer["result"];
        let text = result["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
        if result["isError"] == true {
            return Err((code(&result["structuredContent"]), text));
        }
        Ok((text, result["structuredContent"].clone()))
    }
}
