//! The live side of a session: its sandbox, its gate, the link to its agent's process. Made, found again and ended by
//! tasks that report to the actor by signals.

mod pump;
mod start;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use ob_agent::Driver;
use ob_component::Permit;
use ob_core::Refusal;
use ob_core::link::GATE_PORT;
use ob_core::model::ModelRef;
use ob_core::resource::Enforcement;
use ob_gate::OpenGate;
use ob_sandbox::Backend;
use ob_sandbox::Walls;
use ob_sandbox::link::Guest;
use serde::Deserialize;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::sync::DropGuard;

use super::Signal;
use super::What;
use crate::shared::Shared;

use pump::Pump;

pub(super) use start::Start;
pub(super) use start::adopt;
pub(super) use start::end;
pub(super) use start::start;

/// A new sandbox's guest dials within this.
const DIAL: Duration = Duration::from_secs(15);
/// A sandbox that an earlier server left dials again within this: its guest tries at least twice a second.
const REDIAL: Duration = Duration::from_secs(10);
/// From its dial to the first answer, a guest takes no longer than this, even if its link is cut meanwhile.
const COME_UP: Duration = Duration::from_secs(45);
/// Pieces of input that wait for the agent to take them: prompts and cancellations, one or two at a time.
const INPUTS: usize = 8;
/// A model server of this machine that does not answer is looked for again after this, and later after longer.
const MODEL_AGAIN: Duration = Duration::from_millis(500);
const MODEL_AGAIN_MAX: Duration = Duration::from_secs(10);
/// How much of an agent's error output is kept for the message when it fails.
const LAST_WORDS: usize = 2048;

/// What the driver needs to go on after a crash: the store keeps it as bytes.
#[derive(Serialize, Deserialize)]
pub(super) struct SavedDriver {
    /// The agent's process in the sandbox.
    pub(super) process: String,
    /// The driver's own state.
    #[serde(with = "as_text")]
    pub(super) driver: Vec<u8>,
}

/// What of a session is outside of the store.
pub(super) struct Live {
    pub(super) process: String,
    pub(super) enforcement: Enforcement,
    /// The most output of its agent in a second.
    output_rate: Option<u64>,
    /// The driver as an earlier server saved it, if the sandbox was found again.
    pub(super) adopted: Option<SavedDriver>,
    /// The agent's own id of the conversation that it should continue.
    pub(super) resume: Option<String>,
    /// The mode that the agent is put into, if not its own.
    pub(super) mode: Option<String>,
    /// True if the agent did continue it.
    pub(super) resumed: bool,
    /// Why there is no model for it yet.
    pub(super) waits_for: Option<Refusal>,
    place: Place,
    guest: Guest,
    backend: Arc<Permit<dyn Backend>>,
    /// Where to go on with the error output.
    stderr_from: u64,
    input: Option<mpsc::Sender<(u64, Bytes)>>,
    queued_to: u64,
    acks: watch::Sender<u64>,
    last_words: Arc<Mutex<VecDeque<u8>>>,
    pumps: CancellationToken,
    _stop_pumps: DropGuard,
    /// Counts this sandbox among those that run.
    counted: Counted,
    /// Open for as long as the sandbox is ours.
    _gate: OpenGate,
}

/// What a backend calls a sandbox, and where that has its things.
#[derive(Clone)]
struct Place {
    id: String,
    runtime: PathBuf,
    /// The working directory, as processes inside see it.
    workspace: String,
}

// === impl SavedDriver ===

impl SavedDriver {
    pub(super) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings serialise")
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

// === impl Live ===

impl Live {
    fn new(
        process: String,
        place: Place,
        enforcement: Enforcement,
        guest: Guest,
        gate: OpenGate,
        backend: Arc<Permit<dyn Backend>>,
        counted: Counted,
    ) -> Self {
        let pumps = CancellationToken::new();
        Self {
            process,
            enforcement,
            output_rate: None,
            adopted: None,
            resume: None,
            mode: None,
            resumed: false,
            waits_for: None,
            place,
            guest,
            backend,
            stderr_from: 0,
            input: None,
            queued_to: 0,
            acks: watch::Sender::new(0),
            last_words: Arc::default(),
            _stop_pumps: pumps.clone().drop_guard(),
            pumps,
            counted,
            _gate: gate,
        }
    }

    /// The working directory, as processes inside see it.
    pub(super) fn workspace(&self) -> &str {
        &self.place.workspace
    }

    /// Where processes inside find the tools of the session; nothing where the gate has no port of its own for that.
    pub(super) fn tools(&self) -> Option<String> {
        self.backend.isolates().then(|| format!("http://127.0.0.1:{GATE_PORT}/mcp"))
    }

    /// What holds the sandbox from within.
    pub(super) fn walls(&self) -> Walls {
        self.backend.walls()
    }

    /// Starts to carry bytes and news between the agent and the actor, from where the driver stands.
    pub(super) fn attach(&mut self, driver: &Driver, generation: u32, signal: &mpsc::Sender<Signal>) {
        let (input, inputs) = mpsc::channel(INPUTS);
        self.input = Some(input);
        self.queued_to = driver.outbox().0;
        self.acks.send_replace(driver.stdout_offset());
        let pump = Pump {
            guest: self.guest.clone(),
            process: self.process.clone(),
            generation,
            signal: signal.clone(),
            stop: self.pumps.clone(),
            output_rate: self.output_rate,
        };
        pump.clone().spawn(pump.clone().stdout(driver.stdout_offset()));
        pump.clone().spawn(pump.clone().stderr(
            self.stderr_from,
            Arc::clone(&self.last_words),
            self.acks.subscribe(),
        ));
        pump.clone().spawn(pump.clone().stdin(inputs));
        pump.clone().spawn(pump.clone().exit());
    }

    /// Looks for the model until it answers, and tells the actor.
    pub(super) fn await_model(&self, model: ModelRef, generation: u32, signal: &mpsc::Sender<Signal>) {
        let shared = Arc::clone(&self.counted.0);
        let (signal, stop) = (signal.clone(), self.pumps.clone());
        tokio::spawn(async move {
            let looking = async {
                let mut pause = MODEL_AGAIN;
                while shared.catalogue.ensure(&model).await.is_err() {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(MODEL_AGAIN_MAX);
                }
            };
            if stop.run_until_cancelled(looking).await.is_some() {
                drop(signal.send(Signal { generation, what: What::ModelFound }).await);
            }
        });
    }

    /// Hands what the driver wants to say to the agent's input; what does not fit goes with the next step.
    pub(super) fn flush(&mut self, driver: &Driver) {
        let Some(input) = &self.input else { return };
        let (start, bytes) = driver.outbox();
        let skip = usize::try_from(self.queued_to.saturating_sub(start)).unwrap_or(usize::MAX);
        let Some(rest) = bytes.get(skip..).filter(|rest| !rest.is_empty()) else { return };
        let from = start + skip as u64;
        if input.try_send((from, Bytes::copy_from_slice(rest))).is_ok() {
            self.queued_to = from + rest.len() as u64;
        }
    }

    /// Everything that the agent wrote below this offset is durable.
    pub(super) fn acknowledge(&self, stdout: u64) {
        self.acks.send_replace(stdout);
    }

    /// The end of what the agent wrote to its error output.
    pub(super) fn last_words(&self) -> String {
        let mut words = self.last_words.lock().expect("no one panics with it").clone();
        let text = String::from_utf8_lossy(words.make_contiguous()).into_owned();
        text.trim().chars().filter(|c| !c.is_control() || *c == '\n').collect()
    }

    /// Ends the sandbox now, without waiting; the loss will be noticed.
    pub(super) fn kill(&self) {
        let backend = Arc::clone(&self.backend);
        let place = self.place.clone();
        let epoch = self.counted.0.epoch;
        tokio::spawn(async move {
            if let Err(error) = backend.end(&place.id, &place.runtime, epoch).await {
                tracing::error!(%error, "cannot end a sandbox");
            }
        });
    }
}

/// One sandbox that runs, as the gauge counts them.
struct Counted(Arc<Shared>);

// === impl Counted ===

impl Counted {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.sandboxes.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(shared))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.sandboxes.fetch_sub(1, Ordering::Relaxed);
    }
}

mod as_text {
    //! The driver's state is JSON text; it is kept as such, so that a person can read the store.

    use serde::Deserialize as _;

    pub(super) fn serialize<S: serde::Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        let text = std::str::from_utf8(bytes).map_err(serde::ser::Error::custom)?;
        serializer.serialize_str(text)
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<u8>, D::Error> {
        String::deserialize(deserializer).map(String::into_bytes)
    }
}
