//! Drives an agent over the Agent Client Protocol (ACP, version 1, JSON-RPC lines over stdio).
//!
//! [`Driver`] is sans-io and its whole state can be saved: the engine commits the state together with the events that
//! came out of the bytes it consumed, so after a crash the next server goes on at exactly that byte
//! (invariant 2, `acknowledged_means_kept`).

use ob_core::EventBody;
use ob_core::Refusal;
use ob_core::TurnNumber;
use ob_core::link::ExitStatus;
use ob_core::session::TurnStop;

/// What the driver needs to know of its session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverOptions {
    /// The working directory inside the sandbox.
    pub cwd: String,
    /// The agent's own session id from before, if it should continue that conversation.
    pub resume: Option<String>,
}

/// What came out of a step.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Something to append to the session's log.
    Event(Box<EventBody>),
    /// The agent waits for a prompt.
    Ready {
        /// True if the agent continues its earlier conversation; false if it knows nothing of it.
        resumed: bool,
    },
    /// The active turn is over.
    TurnStopped(TurnStop),
    /// The agent is of no more use (it exited, or broke the protocol): end its process. The session decides what then.
    Failed(Refusal),
}

/// Drives one agent process.
#[derive(Debug)]
pub struct Driver {
    _private: (),
}

// === impl Driver ===

impl Driver {
    /// A driver for an agent process that was just started; the outbox holds the handshake.
    pub fn new(_options: DriverOptions) -> Self {
        todo!()
    }

    /// A driver as it was saved.
    pub fn restore(_state: &[u8]) -> Result<Self, Refusal> {
        todo!()
    }

    /// The whole state, to be committed with the outputs of the steps before.
    pub fn save(&self) -> Vec<u8> {
        todo!()
    }

    /// The next bytes of the agent's standard output, of any length.
    pub fn receive(&mut self, _bytes: &[u8]) -> Vec<Output> {
        todo!()
    }

    /// The offset in the agent's standard output up to which everything is in this state.
    pub fn stdout_offset(&self) -> u64 {
        todo!()
    }

    /// The agent's process ended.
    pub fn exited(&mut self, _exit: ExitStatus) -> Vec<Output> {
        todo!()
    }

    /// Gives the agent a turn. Only when it is ready and no turn is active.
    pub fn prompt(&mut self, _turn: TurnNumber, _text: &str) -> Vec<Output> {
        todo!()
    }

    /// The turn that the agent works on.
    pub fn active(&self) -> Option<TurnNumber> {
        todo!()
    }

    /// Tells the agent to stop the active turn; nothing if there is none. Twice is fine.
    pub fn cancel(&mut self) -> Vec<Output> {
        todo!()
    }

    /// The agent's own id of the conversation, to resume it later.
    pub fn agent_session(&self) -> Option<&str> {
        todo!()
    }

    /// What is still to be written to the agent's standard input: the offset of the first byte, and the bytes.
    pub fn outbox(&self) -> (u64, &[u8]) {
        todo!()
    }

    /// The agent's standard input has taken everything below this offset.
    pub fn sent(&mut self, _offset: u64) {
        todo!()
    }
}
