//! What is still to be written to the agent's input, by offset, so that after a redial or a crash nothing is written
//! twice or left out.

use agent_client_protocol_schema::v1::RequestId;
use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;
use serde_json::json;

/// The most bytes that may wait when an answer is added. An agent that asks without end and never reads gets no more.
pub(crate) const OUTBOX_MAX: usize = 16 * 1024 * 1024;

/// Lines for the agent's input.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Outbox {
    /// The offset of the first byte in `bytes`.
    base: u64,
    #[serde(with = "base64_bytes")]
    bytes: Vec<u8>,
    /// The id of the last request. An id is never used again.
    last_id: u64,
}

/// The agent asks more than it reads.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full;

// === impl Outbox ===

impl Outbox {
    /// The offset of the first byte that was not taken yet, and the bytes.
    pub(crate) fn waiting(&self) -> (u64, &[u8]) {
        (self.base, &self.bytes)
    }

    /// Everything below `offset` was taken. A claim beyond the end counts as the end: the guest is not trusted.
    pub(crate) fn taken(&mut self, offset: u64) {
        let taken = offset.saturating_sub(self.base).min(self.bytes.len() as u64);
        self.base += taken;
        self.bytes.drain(..usize::try_from(taken).unwrap_or(self.bytes.len()));
    }

    /// Adds a request and tells its id.
    pub(crate) fn request(&mut self, method: &str, params: &impl Serialize) -> u64 {
        self.last_id += 1;
        self.line(&json!({ "jsonrpc": "2.0", "id": self.last_id, "method": method, "params": params }));
        self.last_id
    }

    /// Adds a notification.
    pub(crate) fn notify(&mut self, method: &str, params: &impl Serialize) {
        self.line(&json!({ "jsonrpc": "2.0", "method": method, "params": params }));
    }

    /// Answers a request of the agent.
    pub(crate) fn answer(&mut self, id: &RequestId, result: &impl Serialize) -> Result<(), Full> {
        self.reply(&json!({ "jsonrpc": "2.0", "id": id, "result": result }))
    }

    /// Refuses a request of the agent.
    pub(crate) fn refuse(&mut self, id: &RequestId, error: &impl Serialize) -> Result<(), Full> {
        self.reply(&json!({ "jsonrpc": "2.0", "id": id, "error": error }))
    }

    /// Moves the offset, so that a test does not depend on the length of what was said before.
    #[cfg(test)]
    pub(crate) fn rebase(&mut self, base: u64) {
        self.base = base;
    }

    fn reply(&mut self, message: &Value) -> Result<(), Full> {
        if self.bytes.len() > OUTBOX_MAX {
            return Err(Full);
        }
        self.line(message);
        Ok(())
    }

    fn line(&mut self, message: &Value) {
        self.bytes.extend_from_slice(message.to_string().as_bytes());
        self.bytes.push(b'\n');
    }
}

/// Bytes as base64 in a saved state: a cut may fall within a character.
pub(crate) mod base64_bytes {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::Deserialize as _;
    use serde::de::Error as _;

    pub(crate) fn serialize<S: serde::Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(crate) fn deserialize<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<u8>, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        STANDARD.decode(text.as_bytes()).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_is_gone_and_offsets_go_on() {
        let mut outbox = Outbox::default();
        outbox.notify("é", &json!({}));
        let all = outbox.waiting().1.to_vec();
        let middle = all.iter().position(|byte| *byte >= 0x80).expect("the character") as u64 + 1;
        outbox.taken(middle);
        assert_eq!(outbox.waiting(), (middle, &all[usize::try_from(middle).expect("small")..]));
        let saved = serde_json::to_string(&outbox).expect("it saves");
        assert_eq!(serde_json::from_str::<Outbox>(&saved).expect("it restores"), outbox);
        outbox.taken(3);
        assert_eq!(outbox.waiting().0, middle, "an old claim changes nothing");
        outbox.taken(u64::MAX);
        assert_eq!(outbox.waiting(), (all.len() as u64, &[][..]));
    }

    #[test]
    fn an_agent_that_asks_and_never_reads_is_told_no_more() {
        let mut outbox = Outbox::default();
        let id = RequestId::Str("x".repeat(1024 * 1024));
        let answered = (0..64).take_while(|_| outbox.answer(&id, &json!({})).is_ok()).count();
        assert!((16..20).contains(&answered), "{answered}");
        outbox.taken(u64::MAX);
        assert_eq!(outbox.answer(&id, &json!({})), Ok(()));
    }
}
