//! The agent in a sandbox: speaks ACP, and does what the seed says. What it writes can be told apart in the log, so that
//! the checker sees if a piece is lost, doubled or out of order.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt as _;
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use serde_json::json;

use crate::guest::Sandbox;
use crate::net;
use crate::process::Channel;
use crate::process::Process;

/// A stop that is asked for and not obeyed is forced by the host after 20 s.
const DEAF: Duration = Duration::from_secs(45);

/// What an agent remembers of its conversation.
struct Conversation<'a> {
    sandbox: &'a Sandbox,
    process: &'a Process,
    id: String,
    /// Questions that it asked the host so far.
    asked: u64,
    cancelled: bool,
}

/// How a run ends.
enum Done {
    Answer(Value),
    Crash,
}

/// An agent, until it exits or its sandbox ends.
pub(crate) async fn run(sandbox: &Sandbox, process: &Process) {
    let chance = &sandbox.world.chance;
    let mut conversation = Conversation { sandbox, process, id: String::new(), asked: 0, cancelled: false };
    let may_load = chance.one_in(2);
    loop {
        let Ok(asked) = serde_json::from_str::<Value>(&process.line().await) else { continue };
        let id = asked["id"].clone();
        tokio::time::sleep(chance.millis(0..=50)).await;
        if !sandbox.world.is_calm() && chance.one_in(60) {
            return crash(sandbox, process).await;
        }
        match asked["method"].as_str() {
            Some("initialize") => {
                let result =
                    json!({ "protocolVersion": 1, "agentCapabilities": { "loadSession": may_load } });
                conversation.answer(&id, Ok(result)).await;
            }
            Some("session/new") => {
                conversation.id = format!("conversation-{}", sandbox.world.number());
                conversation.answer(&id, Ok(json!({ "sessionId": conversation.id }))).await;
            }
            Some("session/load") => {
                let known = asked["params"]["sessionId"].as_str().unwrap_or_default().to_owned();
                if sandbox.world.told.knows_conversation(&known) && !chance.one_in(6) {
                    conversation.id = known;
                    conversation.update(json!({ "sessionUpdate": "user_message_chunk" })).await;
                    conversation.say("an old message").await;
                    conversation.answer(&id, Ok(json!({}))).await;
                } else {
                    let error = json!({ "code": -32602, "message": "no such conversation" });
                    conversation.answer(&id, Err(error)).await;
                }
            }
            Some("session/prompt") => {
                let text = asked["params"]["prompt"][0]["text"].as_str().unwrap_or_default().to_owned();
                match conversation.prompt(&text).await {
                    Done::Answer(result) => {
                        let answer = if result.get("code").is_some() { Err(result) } else { Ok(result) };
                        conversation.answer(&id, answer).await;
                    }
                    Done::Crash => return crash(sandbox, process).await,
                }
            }
            _ => {}
        }
    }
}

/// A command that makes a patch.
pub(crate) async fn command(sandbox: &Sandbox, process: &Process) {
    let chance = &sandbox.world.chance;
    tokio::time::sleep(chance.millis(0..=100)).await;
    let text = if process.name() == "patch" { patch(process.name()) } else { "one\0two\0".to_owned() };
    for piece in text.as_bytes().chunks(1000) {
        process.write(Channel::Stdout, piece).await;
    }
    tokio::time::sleep(chance.millis(0..=20)).await;
    process.exit(Some(0), None);
}

/// What every patch is here: more than fits a window.
pub(crate) fn patch(seed: &str) -> String {
    (0..200).map(|line| format!("+{seed} line {line}\n")).collect()
}

async fn crash(sandbox: &Sandbox, process: &Process) {
    let chance = &sandbox.world.chance;
    if chance.one_in(2) {
        process.write(Channel::Stderr, b"the agent trips over its feet\n").await;
    }
    if chance.one_in(3) {
        process.write(Channel::Stdout, b"{\"half\": ").await;
    }
    sandbox.world.note(&format!("crash {} {}", sandbox.id, process.name()));
    process.exit(Some(1), None);
}

// === impl Conversation ===

impl Conversation<'_> {
    async fn write(&self, message: &Value) {
        self.process.write(Channel::Stdout, format!("{message}\n").as_bytes()).await;
    }

    async fn answer(&self, id: &Value, answer: Result<Value, Value>) {
        let message = match answer {
            Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
            Err(error) => json!({ "jsonrpc": "2.0", "id": id, "error": error }),
        };
        self.write(&message).await;
    }

    async fn update(&self, update: Value) {
        let params = json!({ "sessionId": self.id, "update": update });
        self.write(&json!({ "jsonrpc": "2.0", "method": "session/update", "params": params })).await;
    }

    async fn say(&self, text: &str) {
        let content = json!({ "type": "text", "text": text });
        self.update(json!({ "sessionUpdate": "agent_message_chunk", "content": content })).await;
    }

    /// Works on a task, listening for a stop meanwhile.
    async fn prompt(&mut self, text: &str) -> Done {
        let world = std::sync::Arc::clone(&self.sandbox.world);
        let (chance, told) = (&world.chance, &world.told);
        let Some(run) = told.begin_run(&world, self.sandbox, self.process, &self.id, text).await else {
            return Done::Answer(json!({ "stopReason": "refusal" }));
        };
        self.cancelled = false;
        let pieces = chance.between(0..=10);
        for piece in 0..pieces {
            let pause = chance.millis(0..=if chance.one_in(6) { 3000 } else { 120 });
            self.listen(pause).await;
            if self.cancelled && !chance.one_in(8) {
                return Done::Answer(json!({ "stopReason": "cancelled" }));
            }
            let padding = if chance.one_in(10) { "x".repeat(3000) } else { String::new() };
            self.say(&format!("r{run}.{piece} {padding}")).await;
            told.wrote(run, piece);
            match chance.below(if world.is_calm() { 24 } else { 36 }) {
                0..=5 => self.ask_model().await,
                6 => self.ask_leave().await,
                7 => self.use_tool(run).await,
                8 => self.process.write(Channel::Stdout, b"a line for people\n").await,
                9 => self.process.write(Channel::Stderr, b"a warning\n").await,
                // Never comes back by itself, but in calm weather.
                30 => self.hang().await,
                31 => self.deafen().await,
                32 => return Done::Crash,
                _ => {}
            }
        }
        told.finish_run(run, pieces);
        if self.cancelled {
            return Done::Answer(json!({ "stopReason": "cancelled" }));
        }
        Done::Answer(match chance.below(12) {
            0 => json!({ "code": -32603, "message": "it went wrong" }),
            1 => json!({ "stopReason": "max_tokens" }),
            _ => json!({ "stopReason": "end_turn" }),
        })
    }

    /// Waits, and takes note of a stop.
    async fn listen(&mut self, pause: Duration) {
        let until = tokio::time::Instant::now() + pause;
        while let Ok(line) = tokio::time::timeout_at(until, self.process.line()).await {
            self.hear(&line);
        }
    }

    fn hear(&mut self, line: &str) {
        let said: Value = serde_json::from_str(line).unwrap_or_default();
        match said["method"].as_str() {
            Some("session/cancel") => self.cancelled = true,
            Some("session/prompt") => {
                self.sandbox.world.wrong(&format!("{} got a turn while it had one", self.sandbox.id));
            }
            _ => {}
        }
    }

    /// Waits for a stop.
    async fn hang(&mut self) {
        let world = std::sync::Arc::clone(&self.sandbox.world);
        world.note(&format!("hang {}", self.sandbox.id));
        while !self.cancelled {
            tokio::select! {
                biased;
                line = self.process.line() => self.hear(&line),
                () = world.calm() => return,
            }
        }
    }

    /// Hears nothing for longer than the host has patience.
    async fn deafen(&self) {
        tokio::select! {
            biased;
            () = tokio::time::sleep(DEAF) => {}
            () = self.sandbox.world.calm() => {}
        }
    }

    /// Asks for leave, and waits for the answer.
    async fn ask_leave(&mut self) {
        self.asked += 1;
        let id = format!("leave-{}", self.asked);
        let params = json!({
            "sessionId": self.id,
            "toolCall": { "toolCallId": id, "title": "write a file" },
            "options": [{ "optionId": "yes", "name": "Yes", "kind": "allow_once" }],
        });
        let ask =
            json!({ "jsonrpc": "2.0", "id": id, "method": "session/request_permission", "params": params });
        self.write(&ask).await;
        loop {
            let line = self.process.line().await;
            if serde_json::from_str::<Value>(&line).is_ok_and(|said| said["id"] == id) {
                return;
            }
            self.hear(&line);
        }
    }

    async fn use_tool(&self, run: u64) {
        let call = format!("call-{run}-{}", self.sandbox.world.number());
        let begun =
            json!({ "sessionUpdate": "tool_call", "toolCallId": call, "title": "ls", "status": "pending" });
        self.update(begun).await;
        tokio::time::sleep(self.sandbox.world.chance.millis(0..=80)).await;
        let done = json!({ "sessionUpdate": "tool_call_update", "toolCallId": call, "status": "completed" });
        self.update(done).await;
    }

    /// One call to a model, through the gate. What goes wrong with it is the gate's to tell.
    async fn ask_model(&self) {
        let world = &self.sandbox.world;
        let call = async {
            let wire = net::dial(world, &self.sandbox.gate, self.sandbox.uid, &self.sandbox.gone)?;
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(wire)).await?;
            let gone = self.sandbox.gone.clone();
            tokio::spawn(async move { gone.run_until_cancelled_owned(connection).await.map(drop) });
            let message = self.sandbox.session.as_ref().map(ToString::to_string).unwrap_or_default();
            let body = json!({
                "model": "any",
                "stream": world.chance.one_in(2),
                "max_tokens": 200,
                "messages": [{ "role": "user", "content": message }],
            });
            let request = Request::post("http://gate/v1/chat/completions")
                .header(http::header::HOST, "gate")
                .body(Full::new(Bytes::from(body.to_string())))?;
            let answer = sender.send_request(request).await?;
            let status = answer.status();
            let length = answer.into_body().collect().await?.to_bytes().len();
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>((status.as_u16(), length))
        };
        // Some agents lose their patience, and hang up.
        let patience =
            if world.chance.one_in(5) { world.chance.millis(0..=100) } else { Duration::from_secs(90) };
        let outcome = match tokio::time::timeout(patience, call).await {
            Ok(Ok((status, length))) => format!("{status}, {length} bytes"),
            Ok(Err(_)) => "broken".to_owned(),
            Err(_) => "hung up".to_owned(),
        };
        world.note(&format!("model {} {outcome}", self.sandbox.id));
    }
}
