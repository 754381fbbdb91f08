//! What an agent says over ACP: however its bytes are cut and whenever the server crashes, the same comes out.

use ob_agent::Driver;
use ob_agent::DriverOptions;
use ob_agent::Output;
use ob_core::EventBody;
use ob_core::TurnNumber;
use ob_core::agent::Autonomy;
use ob_core::link::ExitStatus;

use crate::Control;

/// What an agent says before it can be prompted; the third is the end of the first turn.
const BEFORE: [&str; 2] = [
    "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"protocolVersion\":1,\"agentCapabilities\":{\"loadSession\":true}}}\n",
    "{\"jsonrpc\":\"2.0\",\"id\":2,\"result\":{\"sessionId\":\"s1\"}}\n",
];

/// The most bytes that may wait for an agent that does not read: what the outbox allows, with room for one answer.
const OUTBOX_MOST: usize = 8 * 1024 * 1024;

pub(crate) const WORDS: &[&str] = &[
    "\"jsonrpc\":\"2.0\"",
    "\"id\":3",
    "\"method\":\"session/update\"",
    "\"params\"",
    "\"result\"",
    "\"error\"",
    "\"sessionUpdate\":\"agent_message_chunk\"",
    "\"sessionUpdate\":\"tool_call\"",
    "\"toolCallId\"",
    "\"content\"",
    "\"stopReason\":\"end_turn\"",
    "\"sessionId\":\"s1\"",
    "session/request_permission",
    "fs/read_text_file",
    "\n",
];

/// First byte: how far the conversation is. Second: the size of pieces. Third: how often the server crashes.
pub(crate) fn run(data: &[u8]) {
    let mut control = Control::new(data);
    let (stage, piece, crash) = (control.byte() % 3, control.byte() % 32 + 1, control.byte() % 8);
    let bytes = control.rest;
    let whole = conversation(stage, [bytes].into_iter(), |_| false);
    let pieces = conversation(stage, bytes.chunks(piece.into()), |n| n % 8 < crash.into());
    assert_eq!(whole, pieces, "cuts and crashes change nothing");
}

/// What comes out, and what is said to the agent.
fn conversation<'a>(
    stage: u8,
    pieces: impl Iterator<Item = &'a [u8]>,
    crashes: impl Fn(usize) -> bool,
) -> (Vec<Output>, Vec<u8>) {
    let resume = (stage == 0).then(|| "s0".to_owned());
    let mut driver = Driver::new(DriverOptions {
        cwd: "/workspace".to_owned(),
        resume,
        autonomy: Autonomy::Medium,
        mode: Some("m".to_owned()),
        tools: Some("http://127.0.0.1:4000/mcp".to_owned()),
    });
    let mut outputs = Vec::new();
    if stage > 0 {
        for line in BEFORE {
            outputs.extend(driver.receive(line.as_bytes()));
        }
    }
    if stage > 1 {
        outputs.extend(driver.prompt(TurnNumber(1), "mend it"));
    }
    for (n, piece) in pieces.enumerate() {
        outputs.extend(driver.receive(piece));
        if crashes(n) {
            driver = Driver::restore(&driver.save()).expect("what was saved restores");
        }
        assert!(driver.outbox().1.len() <= OUTBOX_MOST, "what waits for the agent is bounded");
    }
    let said = driver.outbox().1.to_vec();
    outputs.extend(driver.exited(ExitStatus { code: Some(0), signal: None }));
    for output in &outputs {
        if let Output::Event(body) = output {
            let stored = serde_json::to_string(body).expect("an event can be stored");
            let read: EventBody = serde_json::from_str(&stored).expect("an event can be read");
            assert_eq!(&read, &**body, "what is stored is what is read");
        }
    }
    let failed = outputs.iter().filter(|output| matches!(output, Output::Failed(_))).count();
    assert!(failed <= 1, "an agent is given up once");
    (outputs, said)
}
