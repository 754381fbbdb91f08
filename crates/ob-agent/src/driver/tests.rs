//! The driver against scripted agents: what it says, and what comes out.

use proptest::prelude::*;

use super::*;

mod golden;
mod handshake;
mod hostile;
mod properties;
mod session;
mod turns;

const T1: TurnNumber = TurnNumber(1);
const T2: TurnNumber = TurnNumber(2);
const HELLO: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":1,"agentCapabilities":{"loadSession":true},"agentInfo":{"name":"mock","version":"0.3"}}}"#;
const OPENED: &str = r#"{"jsonrpc":"2.0","id":2,"result":{"sessionId":"s1"}}"#;
const END: &str = r#"{"jsonrpc":"2.0","id":3,"result":{"stopReason":"end_turn"}}"#;

/// A driver in the middle of a script.
struct Script {
    driver: Driver,
}

impl Script {
    fn new(resume: Option<&str>) -> Self {
        Self::with(resume, Autonomy::High, None)
    }

    fn with(resume: Option<&str>, autonomy: Autonomy, mode: Option<&str>) -> Self {
        let (resume, mode) = (resume.map(str::to_owned), mode.map(str::to_owned));
        Self {
            driver: Driver::new(DriverOptions {
                cwd: "/workspace".to_owned(),
                resume,
                autonomy,
                mode,
                tools: None,
            }),
        }
    }

    /// An agent that is ready, and has taken everything.
    fn ready() -> Self {
        let mut script = Self::new(None);
        script.says(HELLO);
        let outputs = script.says(OPENED);
        assert_eq!(outputs.last(), Some(&Output::Ready { resumed: false }));
        script.heard();
        script
    }

    /// An agent that works on the first turn; the prompt is request 3.
    fn prompted() -> Self {
        let mut script = Self::ready();
        assert_eq!(script.driver.prompt(T1, "fix it"), []);
        script.heard();
        script
    }

    /// The agent writes a line.
    fn says(&mut self, line: &str) -> Vec<Output> {
        let mut outputs = self.driver.receive(line.as_bytes());
        outputs.extend(self.driver.receive(b"\n"));
        outputs
    }

    /// The agent reports an update of the conversation.
    fn updates(&mut self, update: &Value) -> Vec<Output> {
        self.says(&update_line(update))
    }

    /// The agent reads everything that waits.
    fn heard(&mut self) -> Vec<Value> {
        let (base, bytes) = self.driver.outbox();
        let end = base + bytes.len() as u64;
        let lines = std::str::from_utf8(bytes).expect("whole lines").lines();
        let messages = lines.map(|line| serde_json::from_str(line).expect("JSON")).collect();
        self.driver.sent(end);
        messages
    }
}

fn update_line(update: &Value) -> String {
    json!({ "jsonrpc": "2.0", "method": "session/update", "params": { "sessionId": "s1", "update": update } })
        .to_string()
}

fn message(text: &str) -> Value {
    json!({ "sessionUpdate": "agent_message_chunk", "content": { "type": "text", "text": text } })
}

fn thought(text: &str) -> Value {
    json!({ "sessionUpdate": "agent_thought_chunk", "content": { "type": "text", "text": text } })
}

fn events(outputs: &[Output]) -> Vec<&EventBody> {
    outputs
        .iter()
        .filter_map(|output| match output {
            Output::Event(body) => Some(&**body),
            _ => None,
        })
        .collect()
}

#[test]
fn an_agent_is_told_of_its_sessions_tools_if_it_takes_servers_over_http() {
    let url = "http://127.0.0.1:4000/mcp";
    let told = |capabilities: Value, resume: Option<&str>| {
        let mut script = Script::new(resume);
        script.driver.state.tools = Some(url.to_owned());
        script.heard();
        let hello = json!({
            "jsonrpc": "2.0", "id": 1, "result": { "protocolVersion": 1, "agentCapabilities": capabilities },
        });
        script.says(&hello.to_string());
        // As after a crash in between.
        script.driver = Driver::restore(&script.driver.save()).expect("our own");
        script.heard()[0].clone()
    };
    let server = json!([{ "type": "http", "name": "oubliette", "url": url, "headers": [] }]);
    let new = told(json!({ "mcpCapabilities": { "http": true } }), None);
    assert_eq!((&new["method"], &new["params"]["mcpServers"]), (&json!("session/new"), &server));
    let load = told(json!({ "loadSession": true, "mcpCapabilities": { "http": true } }), Some("s0"));
    assert_eq!((&load["method"], &load["params"]["mcpServers"]), (&json!("session/load"), &server));
    for capabilities in [json!({}), json!({ "mcpCapabilities": { "http": false, "sse": true } })] {
        assert_eq!(
            told(capabilities, None)["params"]["mcpServers"],
            json!([]),
            "it would refuse the session"
        );
    }
}

/// One short line for each output.
fn short(outputs: &[Output]) -> Vec<String> {
    outputs
        .iter()
        .map(|output| match output {
            Output::Event(body) => {
                let kind = serde_json::to_value(body.kind).expect("a word");
                let word = kind.as_str().expect("a word");
                match body.text.as_deref().or(body.tool_name.as_deref()) {
                    Some(text) => format!("{word}: {text}"),
                    None => word.to_owned(),
                }
            }
            Output::Ready { resumed } => format!("ready, resumed: {resumed}"),
            Output::TurnStopped(stop) => format!("stopped: {stop:?}"),
            Output::Failed(refusal) => format!("failed: {}", refusal.message),
        })
        .collect()
}
