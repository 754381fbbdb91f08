//! The guest link's vocabulary: what the host asks of the guest and what the guest answers.
//!
//! The guest dials the gate's socket with an HTTP/1.1 upgrade to [`UPGRADE`]; then the roles turn round: the guest
//! serves HTTP/2 on that connection and the host asks. A process is named by the host, and its streams by byte offsets,
//! so every request may be repeated after a redial without doing anything twice:
//!
//! | request | meaning |
//! | --- | --- |
//! | `PUT /v1/processes/{id}` + [`ProcessSpec`] | start it; again with the same id: nothing |
//! | `GET /v1/processes/{id}` | its [`ProcessStatus`] |
//! | `GET /v1/processes` | the status of all |
//! | `GET /v1/processes/{id}/stdout?offset=N`, `…/stderr?offset=N` | bytes from `N` on, until end of stream, which the trailer [`STREAM_END`] confirms |
//! | `POST /v1/processes/{id}/ack` + [`Ack`] | bytes below these offsets are durable and may be forgotten |
//! | `POST /v1/processes/{id}/stdin?offset=N[&close=true]` | write bytes that begin at `N`; what was already taken is skipped; answers [`StdinTaken`] |
//! | `POST /v1/processes/{id}/signal[?request=R]` + [`SignalRequest`] | send a signal to its process group; again with the same number `R`: nothing |
//! | `GET /v1/processes/{id}/exit` | wait for its [`ExitStatus`] |
//! | `DELETE /v1/processes/{id}` | forget one that has exited; one that is not known: nothing |
//!
//! Everything that the guest says is untrusted: bodies are bounded by [`MAX_JSON`], fields are checked by these types.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Serialize;

/// The protocol named in the HTTP upgrade.
pub const UPGRADE: &str = "guest-link/1";
/// The path of the upgrade request.
pub const UPGRADE_PATH: &str = "/link";
/// Where the gate's folder is inside a sandbox.
pub const GATE_DIR: &str = "/run/gate";
/// The gate's socket inside a sandbox.
pub const GATE_SOCKET: &str = "/run/gate/gate.sock";
/// The loopback port inside a sandbox that leads to the gate.
pub const GATE_PORT: u16 = 4000;
/// Where the workspace is inside a sandbox.
pub const WORKSPACE_DIR: &str = "/workspace";
/// The agent's home inside a sandbox.
pub const HOME_DIR: &str = "/home/agent";
/// The guest program inside a sandbox.
pub const GUEST_PROGRAM: &str = "/run/guest/init";
/// The variable that names the gate's socket to a guest without walls.
pub const OUTSIDE_SOCKET: &str = "GATE_SOCKET";
/// The variable that names the workspace to a guest without walls.
pub const OUTSIDE_WORKSPACE: &str = "WORKSPACE";
/// The trailer that ends an output stream; its value is the stream's end. One that ends without was cut.
pub const STREAM_END: &str = "stream-end";
/// The most bytes of any JSON body on the link.
pub const MAX_JSON: usize = 256 * 1024;
/// The most bytes of one stream that the guest keeps before it stops reading from the process.
pub const STREAM_WINDOW: usize = 256 * 1024;
/// The most processes that a guest runs or remembers at once.
pub const MAX_PROCESSES: usize = 256;

/// What to start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessSpec {
    /// Program and arguments; the program is looked up in `PATH` unless it has a slash. Not empty.
    pub argv: Vec<String>,
    /// The working directory; the workspace if unset.
    #[serde(default)]
    pub cwd: Option<String>,
    /// Added to the sandbox's own environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// True if something will be written to its input; otherwise that is empty.
    #[serde(default)]
    pub stdin: bool,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExitStatus {
    /// Its exit code, if it exited.
    #[serde(default)]
    pub code: Option<i32>,
    /// The signal that ended it, if one did.
    #[serde(default)]
    pub signal: Option<i32>,
}

/// Where a process stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessStatus {
    /// The name that the host gave it.
    pub id: String,
    /// Bytes of its input that were taken.
    pub stdin_taken: u64,
    /// Bytes that it wrote to its output so far, read by the guest.
    pub stdout_end: u64,
    /// Bytes that it wrote to its error output so far, read by the guest.
    pub stderr_end: u64,
    /// How it ended, if it did.
    #[serde(default)]
    pub exit: Option<ExitStatus>,
}

/// Bytes below these offsets may be forgotten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ack {
    /// Of standard output.
    pub stdout: u64,
    /// Of standard error.
    pub stderr: u64,
}

/// The input up to here was taken: the end of the request that it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StdinTaken {
    /// The offset of the next byte.
    pub offset: u64,
}

/// A signal to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignalRequest {
    /// Its number.
    pub signal: i32,
}

/// A refusal of the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestError {
    /// `not_found`, `spawn_failed`, `invalid`, `too_many`, `gone` (bytes that were acknowledged).
    pub code: String,
    /// For people.
    pub message: String,
}

// === impl ExitStatus ===

impl ExitStatus {
    /// True for exit code 0.
    pub fn is_success(&self) -> bool {
        self.code == Some(0)
    }
}

impl std::fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.code, self.signal) {
            (Some(code), _) => write!(f, "exit code {code}"),
            (None, Some(signal)) => write!(f, "signal {signal}"),
            (None, None) => f.write_str("an unknown end"),
        }
    }
}

/// True if `id` may name a process: 1 to 64 of `[a-z0-9._-]`.
pub fn is_process_id(id: &str) -> bool {
    (1..=64).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-'))
}
