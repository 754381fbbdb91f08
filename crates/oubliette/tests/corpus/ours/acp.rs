//! An agent that lies to the driver. The driver is fed the agent's output; the control is a client that believes it.

use std::fmt::Write as _;
use std::path::PathBuf;

use ob_agent::Driver;
use ob_agent::DriverOptions;
use ob_agent::Output;
use ob_core::EventBody;
use ob_core::EventKind;
use ob_core::TurnNumber;
use ob_core::agent::Autonomy;
use serde_json::Value;
use serde_json::json;

use crate::case::Case;
use crate::case::Verdict;
use crate::case::Verdict::Got;
use crate::case::Verdict::Held;

const CONTROL: &str = "the same lines to a client that believes them";
/// The most bytes that an agent may make the server keep for it.
const KEPT_MAX: usize = 40 * 1024 * 1024;

/// What a client made of an agent's lines.
#[derive(Default)]
struct Seen {
    /// What it sent to the agent.
    sent: String,
    /// The agent may be given tasks.
    ready: bool,
    /// How often the one turn ended.
    stops: usize,
    /// What it would show: kind, role and text.
    events: Vec<Value>,
    /// Bytes that it keeps.
    kept: usize,
}

/// A client: the handshake's lines, then a prompt, then the attack's.
type Client = fn(&[String], &[String]) -> Seen;

/// An attack: lines before the prompt, lines after it, and whether they did it.
struct Attack {
    before: Vec<String>,
    after: Vec<String>,
    worked: Box<dyn Fn(&Seen) -> bool>,
}

struct Row(&'static str, &'static str, &'static str);

const ROWS: &[Row] = &[
    Row("acp.read", "ask the client for a file of the host", "the server reads files for the agent"),
    Row("acp.read_parents", "ask for one behind the workspace's `..`", "paths are joined and not looked at"),
    Row("acp.write", "have the client write a file of the host", "the server writes files for the agent"),
    Row("acp.terminal", "have the client run a command", "the server runs programs for the agent"),
    Row("acp.second_stop", "answer the prompt twice", "a later turn is ended by an earlier answer"),
    Row("acp.foreign_stop", "answer a request that was never made", "a turn is ended by nobody"),
    Row("acp.early_stop", "answer the prompt before it is sent", "a turn is ended before it begins"),
    Row("acp.other_session", "speak for another conversation", "words of one session stand in another"),
    Row("acp.as_user", "say something as the user", "the log says that the user said it"),
    Row("acp.usage", "report usage of its own", "the books hold what the agent says"),
    Row(
        "acp.forced_permission",
        "ask for permission with ways to refuse only",
        "a refusal is given as a leave",
    ),
    Row("acp.version", "speak a version that does not exist", "a version is used that nobody knows"),
    Row("acp.long_session", "open a conversation with an id of a megabyte", "every request holds a megabyte"),
    Row("acp.no_session", "open a conversation without an id", "requests name nothing"),
    Row("acp.deep", "send data a hundred levels deep", "readers of the log break on it"),
    Row("acp.many_values", "send a line with 300,000 values", "memory without bound"),
    Row("acp.long_line", "never end a line", "memory without bound"),
    Row("acp.long_name", "name a tool with a megabyte", "every view holds a megabyte"),
    Row("acp.long_ids", "ask and ask with ids of a megabyte, and read nothing", "memory without bound"),
    Row(
        "acp.odd_ids",
        "use ids that are negative, fractions, too large, lists",
        "a turn is ended by what is no id",
    ),
    Row("acp.half_characters", "send halves of characters", "text that is no text breaks the log"),
    Row("acp.initialize_back", "send the client's own requests back to it", "the agent drives the client"),
];

/// All of them.
pub(super) fn cases() -> Vec<Case> {
    ROWS.iter().map(|Row(id, tries, shows)| Case::part(id, tries, shows, CONTROL, driven, believed)).collect()
}

fn driven(id: &str) -> Verdict {
    judged(id, real)
}

fn believed(id: &str) -> Verdict {
    judged(id, naive)
}

fn judged(id: &str, client: Client) -> Verdict {
    let folder = tempfile::tempdir().expect("a folder");
    let attack = attack(id, folder.path().to_owned());
    let seen = client(&attack.before, &attack.after);
    let what = format!("{} events, {} stops, {} bytes kept", seen.events.len(), seen.stops, seen.kept);
    if (attack.worked)(&seen) { Got(what) } else { Held(what) }
}

fn hello() -> Vec<String> {
    lines([
        json!({ "id": 1, "result": { "protocolVersion": 1 } }),
        json!({ "id": 2, "result": { "sessionId": "s" } }),
    ])
}

fn lines<const N: usize>(values: [Value; N]) -> Vec<String> {
    values.iter().map(|value| format!("{value}\n")).collect()
}

fn update(session: &str, update: Value) -> Value {
    json!({ "method": "session/update", "params": { "sessionId": session, "update": update } })
}

fn said(kind: &str, text: &str) -> Value {
    json!({ "sessionUpdate": kind, "content": { "type": "text", "text": text } })
}

fn stop(id: Value) -> Value {
    json!({ "id": id, "result": { "stopReason": "end_turn" } })
}

/// Lines of the attack, and when it worked.
fn attack(id: &str, folder: PathBuf) -> Attack {
    let secret = folder.join("secret.txt");
    std::fs::write(&secret, "canary").expect("written");
    let mark = folder.join("mark");
    let asks = |method: &str, params: Value| lines([json!({ "id": 70, "method": method, "params": params })]);
    let after =
        |after: Vec<String>, worked: Box<dyn Fn(&Seen) -> bool>| Attack { before: hello(), after, worked };
    let as_hello =
        |before: Vec<String>| Attack { before, after: vec![], worked: Box::new(|seen| seen.ready) };
    let has_event = |role: &'static str, text: &'static str| -> Box<dyn Fn(&Seen) -> bool> {
        Box::new(move |seen| {
            seen.events
                .iter()
                .any(|e| e["role"] == role && e["text"].as_str().is_some_and(|t| t.contains(text)))
        })
    };
    match id {
        "acp.read" => after(
            asks("fs/read_text_file", json!({ "sessionId": "s", "path": secret })),
            Box::new(|seen| seen.sent.contains("canary")),
        ),
        "acp.read_parents" => {
            let inside = secret.strip_prefix("/").unwrap().display();
            let path = format!("{}/{}{inside}", folder.display(), "../".repeat(20));
            after(
                asks("fs/read_text_file", json!({ "sessionId": "s", "path": path })),
                Box::new(|seen| seen.sent.contains("canary")),
            )
        }
        "acp.write" => {
            let path = mark.clone();
            after(
                asks("fs/write_text_file", json!({ "sessionId": "s", "path": mark, "content": "x" })),
                Box::new(move |_| path.exists()),
            )
        }
        "acp.terminal" => {
            let path = mark.clone();
            after(
                asks("terminal/create", json!({ "sessionId": "s", "command": "touch", "args": [mark] })),
                Box::new(move |_| path.exists()),
            )
        }
        "acp.second_stop" => after(lines([stop(json!(3)), stop(json!(3))]), Box::new(|seen| seen.stops > 1)),
        "acp.foreign_stop" => after(lines([stop(json!(99))]), Box::new(|seen| seen.stops > 0)),
        "acp.early_stop" => {
            let mut before = hello();
            before.extend(lines([stop(json!(3))]));
            Attack { before, after: vec![], worked: Box::new(|seen| seen.stops > 0) }
        }
        "acp.other_session" => after(
            lines([update("other", said("agent_message_chunk", "spoken")), stop(json!(3))]),
            has_event("agent", "spoken"),
        ),
        "acp.as_user" => after(
            lines([update("s", said("user_message_chunk", "spoken")), stop(json!(3))]),
            has_event("user", "spoken"),
        ),
        "acp.usage" => after(
            lines([
                update(
                    "s",
                    json!({ "sessionUpdate": "usage_update", "used": 5, "size": 9, "cost": { "amount": 1000.0, "currency": "USD" } }),
                ),
                stop(json!(3)),
            ]),
            Box::new(|seen| seen.events.iter().any(|e| e["type"] == "usage")),
        ),
        "acp.forced_permission" => {
            let options = json!([{ "optionId": "never", "name": "Yes", "kind": "reject_always" }]);
            after(
                asks(
                    "session/request_permission",
                    json!({ "sessionId": "s", "toolCall": { "toolCallId": "t" }, "options": options }),
                ),
                Box::new(|seen| seen.sent.contains("\"never\"")),
            )
        }
        "acp.version" => as_hello(lines([
            json!({ "id": 1, "result": { "protocolVersion": 999 } }),
            json!({ "id": 2, "result": { "sessionId": "s" } }),
        ])),
        "acp.long_session" => as_hello(lines([
            json!({ "id": 1, "result": { "protocolVersion": 1 } }),
            json!({ "id": 2, "result": { "sessionId": "s".repeat(1 << 20) } }),
        ])),
        "acp.no_session" => as_hello(lines([
            json!({ "id": 1, "result": { "protocolVersion": 1 } }),
            json!({ "id": 2, "result": {} }),
        ])),
        "acp.deep" => {
            let deep = format!("{}1{}", "[".repeat(100), "]".repeat(100));
            let line = format!("{{\"method\":\"note\",\"params\":{deep}}}\n");
            after(vec![line], Box::new(|seen| seen.events.iter().any(|event| depth(event) > 80)))
        }
        "acp.many_values" => {
            let many = format!("[{}1]", "1,".repeat(300_000));
            let line = format!("{{\"method\":\"note\",\"params\":{many}}}\n");
            after(vec![line], Box::new(|seen| seen.events.iter().map(values).sum::<usize>() > 150_000))
        }
        "acp.long_line" => after(vec!["x".repeat(KEPT_MAX + 1)], Box::new(|seen| seen.kept > KEPT_MAX)),
        "acp.long_name" => {
            let call =
                json!({ "sessionUpdate": "tool_call", "toolCallId": "t", "title": "n".repeat(1 << 20) });
            after(
                lines([update("s", call)]),
                Box::new(|seen| {
                    seen.events.iter().any(|e| e["tool_name"].as_str().is_some_and(|name| name.len() > 4096))
                }),
            )
        }
        "acp.long_ids" => {
            let ask = format!("{}\n", json!({ "id": "i".repeat(1 << 20), "method": "any" }));
            after(vec![ask; KEPT_MAX / (1 << 20) + 2], Box::new(|seen| seen.sent.len() > KEPT_MAX))
        }
        "acp.odd_ids" => {
            let mut odd = lines([
                stop(json!(-3)),
                stop(json!(3.5)),
                stop(json!([3])),
                stop(json!({ "id": 3 })),
                stop(json!(u64::MAX)),
            ]);
            odd.push("{\"id\":1e400,\"result\":{\"stopReason\":\"end_turn\"}}\n".to_owned());
            after(odd, Box::new(|seen| seen.stops > 0))
        }
        "acp.half_characters" => {
            let line = "{\"method\":\"session/update\",\"params\":{\"sessionId\":\"s\",\"update\":{\"sessionUpdate\":\"agent_message_chunk\",\"content\":{\"type\":\"text\",\"text\":\"kept \\ud83d\"}}}}\n";
            let lost: Box<dyn Fn(&Seen) -> bool> = Box::new(|seen| {
                !seen
                    .events
                    .iter()
                    .any(|e| e["role"] == "agent" && e["text"].as_str().is_some_and(|t| t.contains("kept")))
            });
            let mut all = vec![line.to_owned()];
            all.extend(lines([stop(json!(3))]));
            after(all, lost)
        }
        "acp.initialize_back" => after(
            asks("session/prompt", json!({ "sessionId": "s", "prompt": [] })),
            Box::new(|seen| {
                seen.sent.contains("\"id\":70,\"result\"") || seen.sent.contains("\"result\":{},\"id\":70")
            }),
        ),
        other => unreachable!("{other} is in the table"),
    }
}

/// The driver of the server.
fn real(before: &[String], after: &[String]) -> Seen {
    let mut driver = Driver::new(DriverOptions {
        cwd: "/workspace".to_owned(),
        resume: None,
        autonomy: Autonomy::High,
        mode: None,
        tools: None,
    });
    let mut seen = Seen::default();
    let take = |outputs: Vec<Output>, seen: &mut Seen| {
        for output in outputs {
            match output {
                Output::Event(event) => seen.events.push(shown(&event)),
                Output::Ready { .. } => seen.ready = true,
                Output::TurnStopped(_) => seen.stops += 1,
                Output::Failed(_) => {}
            }
        }
    };
    for line in before {
        take(driver.receive(line.as_bytes()), &mut seen);
    }
    if !after.is_empty() || seen.ready {
        let turn = TurnNumber(1);
        take(driver.prompt(turn, "do"), &mut seen);
    }
    for line in after {
        take(driver.receive(line.as_bytes()), &mut seen);
    }
    seen.sent = String::from_utf8_lossy(driver.outbox().1).into_owned();
    seen.kept = driver.save().len();
    seen
}

fn shown(event: &EventBody) -> Value {
    let mut value = serde_json::to_value(event).expect("JSON");
    // What the agent said of another conversation is told as the system's note of it.
    if event.kind == EventKind::System {
        value["role"] = Value::Null;
    }
    value
}

/// A client as one would write it first.
fn naive(before: &[String], after: &[String]) -> Seen {
    let mut seen = Seen::default();
    for line in before.iter().chain(after) {
        seen.kept += line.len();
        let Ok(value) = serde_json::from_str::<Value>(line) else { continue };
        let params = &value["params"];
        let answer = match value["method"].as_str() {
            Some("fs/read_text_file") => json!(
                std::fs::read_to_string(params["path"].as_str().unwrap_or_default()).unwrap_or_default()
            ),
            Some("fs/write_text_file") => {
                json!(std::fs::write(params["path"].as_str().unwrap_or_default(), "x").is_ok())
            }
            Some("terminal/create") => {
                let arguments = params["args"].as_array().into_iter().flatten().filter_map(Value::as_str);
                json!(
                    std::process::Command::new(params["command"].as_str().unwrap_or_default())
                        .args(arguments)
                        .status()
                        .is_ok()
                )
            }
            Some("session/request_permission") => params["options"][0]["optionId"].clone(),
            Some("session/update") => {
                let update = &params["update"];
                let role = if update["sessionUpdate"] == "user_message_chunk" { "user" } else { "agent" };
                let kind = if update["sessionUpdate"] == "usage_update" { "usage" } else { "message" };
                seen.events.push(json!({ "type": kind, "role": role, "text": update["content"]["text"], "tool_name": update["title"] }));
                continue;
            }
            Some("note") => {
                seen.events.push(params.clone());
                continue;
            }
            Some(_) => json!({}),
            None => {
                seen.ready |= value["result"].is_object();
                seen.stops += usize::from(value["result"]["stopReason"].is_string());
                continue;
            }
        };
        writeln!(seen.sent, "{{\"id\":{},\"result\":{answer}}}", value["id"]).unwrap();
    }
    seen
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or_default(),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or_default(),
        _ => 0,
    }
}

fn values(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(values).sum::<usize>(),
        Value::Object(fields) => 1 + fields.values().map(values).sum::<usize>(),
        _ => 1,
    }
}
