//! The live side of a session: its sandbox, its gate, the link to its agent's process. Made, found again and ended by
//! tasks that report to the actor by signals.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use ob_agent::Driver;
use ob_agent::presets;
use ob_component::Permit;
use ob_core::Refusal;
use ob_core::link::Ack;
use ob_core::link::WORKSPACE_DIR;
use ob_core::record::SessionRecord;
use ob_core::record::WorkspaceKind;
use ob_core::record::WorkspaceRecord;
use ob_gate::OpenGate;
use ob_sandbox::Backend;
use ob_sandbox::Enforcement;
use ob_sandbox::SandboxError;
use ob_sandbox::link::Guest;
use ob_sandbox::link::LinkError;
use ob_sandbox::link::Output;
use ob_store::Commit;
use ob_store::Write;
use ob_telemetry::SandboxEnded;
use ob_telemetry::SandboxStartFailed;
use ob_telemetry::SandboxStarted;
use serde::Deserialize;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::sync::DropGuard;

use super::Signal;
use super::What;
use crate::Shared;
use crate::workspace;

/// A new sandbox's guest dials within this.
const DIAL: Duration = Duration::from_secs(15);
/// A sandbox that an earlier server left dials again within this: its guest tries at least twice a second.
const REDIAL: Duration = Duration::from_secs(10);
/// Pieces of input that wait for the agent to take them: prompts and cancellations, one or two at a time.
const INPUTS: usize = 8;
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
    /// The driver as an earlier server saved it, if the sandbox was found again.
    pub(super) adopted: Option<SavedDriver>,
    /// The agent's own id of the conversation that it should continue.
    pub(super) resume: Option<String>,
    /// True if the agent did continue it.
    pub(super) resumed: bool,
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
    _counted: Counted,
    /// Open for as long as the sandbox is ours.
    _gate: OpenGate,
}

/// What a backend calls a sandbox.
#[derive(Clone)]
struct Place {
    id: String,
    runtime: PathBuf,
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
            adopted: None,
            resume: None,
            resumed: false,
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
            _counted: counted,
            _gate: gate,
        }
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
        tokio::spawn(async move {
            if let Err(error) = backend.end(&place.id, &place.runtime).await {
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

/// One direction of bytes or news.
#[derive(Clone)]
struct Pump {
    guest: Guest,
    process: String,
    generation: u32,
    signal: mpsc::Sender<Signal>,
    stop: CancellationToken,
}

// === impl Pump ===

impl Pump {
    fn spawn(self, work: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(async move { self.stop.run_until_cancelled_owned(work).await });
    }

    async fn tell(&self, what: What) {
        // An actor that is gone needs no news.
        drop(self.signal.send(Signal { generation: self.generation, what }).await);
    }

    async fn stdout(self, from: u64) {
        let mut output = self.guest.output(&self.process, Output::Stdout, from);
        while let Some(chunk) = output.next().await {
            match chunk {
                Ok(bytes) => self.tell(What::Stdout(bytes)).await,
                Err(LinkError::Closed) => return,
                Err(error) => return self.tell(What::SandboxEnded(error.to_string())).await,
            }
        }
        self.tell(What::StdoutEnd).await;
    }

    /// Keeps the end of the error output, and acknowledges both streams: there is one acknowledgement for both.
    async fn stderr(self, from: u64, last_words: Arc<Mutex<VecDeque<u8>>>, mut acks: watch::Receiver<u64>) {
        let read = Arc::new(std::sync::atomic::AtomicU64::new(from));
        let (wake, mut woken) = watch::channel(());
        let reader = {
            let read = Arc::clone(&read);
            let mut output = self.guest.output(&self.process, Output::Stderr, from);
            async move {
                while let Some(Ok(bytes)) = output.next().await {
                    {
                        let mut words = last_words.lock().expect("no one panics with it");
                        words.extend(&bytes);
                        let excess = words.len().saturating_sub(LAST_WORDS);
                        words.drain(..excess);
                    }
                    read.fetch_add(bytes.len() as u64, std::sync::atomic::Ordering::Relaxed);
                    wake.send_replace(());
                }
                std::future::pending::<()>().await;
            }
        };
        let acknowledger = async {
            loop {
                tokio::select! {
                    changed = acks.changed() => if changed.is_err() { return },
                    _ = woken.changed() => {}
                }
                let ack = Ack {
                    stdout: *acks.borrow_and_update(),
                    stderr: read.load(std::sync::atomic::Ordering::Relaxed),
                };
                if let Err(LinkError::Closed) = self.guest.ack(&self.process, ack).await {
                    return;
                }
            }
        };
        tokio::select! {
            () = reader => {}
            () = acknowledger => {}
        }
    }

    async fn stdin(self, mut inputs: mpsc::Receiver<(u64, Bytes)>) {
        while let Some((offset, bytes)) = inputs.recv().await {
            match self.guest.write_stdin(&self.process, offset, bytes).await {
                Ok(offset) => self.tell(What::Sent(offset)).await,
                // That the process or the sandbox is gone is told by others.
                Err(LinkError::Refused { .. } | LinkError::Closed) => return,
                Err(error) => return self.tell(What::SandboxEnded(error.to_string())).await,
            }
        }
    }

    async fn exit(self) {
        match self.guest.exit(&self.process).await {
            Ok(exit) => self.tell(What::Exit(exit)).await,
            Err(LinkError::Closed) => {}
            Err(error) => self.tell(What::SandboxEnded(error.to_string())).await,
        }
    }
}

/// What a start needs besides the session.
pub(super) struct Start {
    /// What is left of an earlier sandbox; it is ended first.
    pub(super) old: Option<Live>,
    /// What must be over before.
    pub(super) before: Option<JoinHandle<()>>,
    /// A pause, so that what fails at once does not fail again at once.
    pub(super) after: Duration,
    /// The start is no longer wanted: it stops before it makes a sandbox.
    pub(super) unwanted: CancellationToken,
    /// Which start it is.
    pub(super) generation: u32,
    /// Where to tell.
    pub(super) signal: mpsc::Sender<Signal>,
}

/// Why a start failed.
struct StartFailure {
    refusal: Refusal,
    may_help: bool,
}

// === impl StartFailure ===

impl StartFailure {
    /// Another try may succeed.
    fn passing(refusal: Refusal) -> Self {
        Self { refusal, may_help: true }
    }

    /// Somebody has to do something first.
    fn lasting(refusal: Refusal) -> Self {
        Self { refusal, may_help: false }
    }
}

/// Makes a sandbox for the session, after what is left of an earlier one has ended.
pub(super) fn start(shared: Arc<Shared>, record: SessionRecord, start: Start) -> JoinHandle<()> {
    let Start { old, before, after, unwanted, generation, signal } = start;
    tokio::spawn(async move {
        wait_for(before).await;
        let started = match unwanted.run_until_cancelled(tokio::time::sleep(after)).await {
            Some(()) => try_start(&shared, &record, old, generation, &unwanted).await,
            None => Ok(None),
        };
        let what = match started {
            Ok(Some(live)) => {
                watch_end(&shared, &record, &live, generation, signal.clone());
                What::Started(Box::new(live))
            }
            // Whoever did not want it any more does what is to be done.
            Ok(None) => return,
            Err(StartFailure { refusal, may_help }) => {
                SandboxStartFailed { session: &record.id, backend: &record.backend, refusal: &refusal }
                    .emit(&shared.metrics);
                What::StartFailed { refusal, may_help }
            }
        };
        drop(signal.send(Signal { generation, what }).await);
    })
}

/// Finds the sandbox of an earlier server again.
pub(super) fn adopt(
    shared: Arc<Shared>,
    record: SessionRecord,
    saved: Option<SavedDriver>,
    generation: u32,
    signal: mpsc::Sender<Signal>,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let what = match try_adopt(&shared, &record, saved).await {
            Ok(live) => {
                watch_end(&shared, &record, &live, generation, signal.clone());
                What::Started(Box::new(live))
            }
            Err(reason) => What::AdoptFailed(reason),
        };
        drop(signal.send(Signal { generation, what }).await);
    })
}

/// Ends the sandbox of a session, and tells if anyone wants to know.
pub(super) fn end(
    shared: Arc<Shared>,
    record: SessionRecord,
    live: Option<Live>,
    before: Option<JoinHandle<()>>,
    tell: Option<(u32, mpsc::Sender<Signal>)>,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        wait_for(before).await;
        match end_sandbox(&shared, &record, live).await {
            Ok(()) => {
                let reason = "ended by its server";
                SandboxEnded { session: &record.id, backend: &record.backend, reason }.emit(&shared.metrics);
            }
            Err(refusal) => tracing::error!(session = %record.id, %refusal, "cannot end the sandbox"),
        }
        if let Some((generation, signal)) = tell {
            drop(signal.send(Signal { generation, what: What::Released }).await);
        }
    })
}

async fn wait_for(before: Option<JoinHandle<()>>) {
    if let Some(before) = before {
        // It is bounded by its own time-outs.
        drop(before.await);
    }
}

async fn end_sandbox(shared: &Shared, record: &SessionRecord, live: Option<Live>) -> Result<(), Refusal> {
    let backend = match live {
        Some(live) => {
            live.guest.close();
            Arc::clone(&live.backend)
        }
        None => shared.backend()?,
    };
    backend.end(record.id.suffix(), &shared.home.sandbox_runtime(&record.id)).await.map_err(refuse)
}

async fn try_start(
    shared: &Arc<Shared>,
    record: &SessionRecord,
    old: Option<Live>,
    generation: u32,
    unwanted: &CancellationToken,
) -> Result<Option<Live>, StartFailure> {
    end_sandbox(shared, record, old).await.map_err(StartFailure::passing)?;
    let prepare = async {
        // After a crash, all sessions want a sandbox at once.
        let turn = Arc::clone(&shared.starts).acquire_owned().await;
        let turn = turn.map_err(|_| {
            StartFailure::lasting(Refusal::internal("no start is allowed any more").fix("see the log"))
        })?;
        let preset = presets::find(&record.agent).map_err(StartFailure::lasting)?;
        let backend = shared.backend().map_err(StartFailure::lasting)?;
        backend.check().await.map_err(StartFailure::lasting)?;
        shared.catalogue.ensure(&record.model).await.map_err(StartFailure::lasting)?;
        let workspace = prepared_workspace(shared, record).await.map_err(StartFailure::lasting)?;
        let spec = shared.sandbox_spec(record, &workspace).await.map_err(StartFailure::passing)?;
        Ok((turn, preset, backend, spec))
    };
    // Only what makes no sandbox is cut off: a sandbox that is being made must be known to be ended.
    let Some(prepared) = unwanted.run_until_cancelled(prepare).await else { return Ok(None) };
    let (_turn, preset, backend, spec) = prepared?;
    let guest = Guest::new();
    let gate = shared.open_gate(record, &spec, guest.clone()).await.map_err(StartFailure::passing)?;
    let began = std::time::Instant::now();
    let started = backend.start(&spec).await.map_err(|error| match error {
        SandboxError::Refused(refusal) => StartFailure::lasting(refusal),
        failed @ SandboxError::Failed { .. } => StartFailure::passing(refuse(failed)),
    })?;
    let process = format!("agent-{}-{generation}", shared.epoch.0);
    let ready = async {
        guest.connected(DIAL).await?;
        guest.spawn(&process, &preset.process(WORKSPACE_DIR)).await
    };
    if let Err(error) = ready.await {
        guest.close();
        if let Err(error) = backend.end(&spec.id, &spec.runtime).await {
            tracing::error!(session = %record.id, %error, "cannot end a sandbox that did not come up");
        }
        let refusal = Refusal::unavailable(format!("the sandbox did not come up: {error}"))
            .fix("see the log, and `oubliette doctor`");
        return Err(StartFailure::passing(refusal));
    }
    SandboxStarted { session: &record.id, backend: backend.name(), took: began.elapsed() }
        .emit(&shared.metrics);
    let resume = match shared.store.driver(&record.id).await {
        Ok(saved) => saved
            .and_then(|bytes| SavedDriver::decode(&bytes))
            .and_then(|saved| Driver::restore(&saved.driver).ok())
            .and_then(|driver| driver.agent_session().map(ToOwned::to_owned)),
        Err(_) => None,
    };
    let place = Place { id: spec.id, runtime: spec.runtime };
    let counted = Counted::new(shared);
    let mut live = Live::new(process, place, started.enforcement, guest, gate, backend, counted);
    live.resume = resume;
    Ok(Some(live))
}

async fn try_adopt(
    shared: &Arc<Shared>,
    record: &SessionRecord,
    saved: Option<SavedDriver>,
) -> Result<Live, String> {
    let saved = saved.ok_or("its agent had not been started")?;
    let backend = shared.backend().map_err(|refusal| refusal.to_string())?;
    let runtime = shared.home.sandbox_runtime(&record.id);
    if let Some(end) = backend.adopt(record.id.suffix(), &runtime).await.map_err(|error| error.to_string())? {
        return Err(end.reason);
    }
    shared.catalogue.ensure(&record.model).await.map_err(|refusal| refusal.to_string())?;
    let workspace = prepared_workspace(shared, record).await.map_err(|refusal| refusal.to_string())?;
    let spec = shared.sandbox_spec(record, &workspace).await.map_err(|refusal| refusal.to_string())?;
    let guest = Guest::new();
    let gate = shared.open_gate(record, &spec, guest.clone()).await.map_err(|refusal| refusal.to_string())?;
    guest.connected(REDIAL).await.map_err(|error| error.to_string())?;
    let status = guest.status(&saved.process).await.map_err(|error| error.to_string())?;
    let place = Place { id: spec.id, runtime: spec.runtime };
    let enforcement = Enforcement::BestEffort;
    let counted = Counted::new(shared);
    let mut live = Live::new(saved.process.clone(), place, enforcement, guest, gate, backend, counted);
    // What it wrote there while nobody listened is skipped: only the end of it is ever shown.
    live.stderr_from = status.stderr_end;
    live.adopted = Some(saved);
    live.resumed = true;
    Ok(live)
}

/// The session's workspace with its files; they are copied on first use.
async fn prepared_workspace(shared: &Shared, record: &SessionRecord) -> Result<WorkspaceRecord, Refusal> {
    let find = async || {
        let found = shared.store.workspace(record.workspace).await.map_err(|error| error.refusal())?;
        found.ok_or_else(|| {
            Refusal::not_found("workspace", record.workspace).fix("start a session in a new workspace")
        })
    };
    let workspace = find().await?;
    if workspace.base_commit.is_some() {
        return Ok(workspace);
    }
    // Two sessions may share a workspace that is not there yet. The later one must see what the earlier one did: making
    // it anew would take it away from under an agent.
    let turn = shared.preparing(record.workspace);
    let _turn = turn.lock().await;
    let mut workspace = find().await?;
    if workspace.base_commit.is_some() {
        return Ok(workspace);
    }
    let project = shared.project(record.project).await?;
    let plan = workspace::ClonePlan {
        source: project.source.clone(),
        home: shared.home.root().to_owned(),
        base: shared.home.workspace_base(record.project, workspace.id),
        workspace: (workspace.kind == WorkspaceKind::Clone).then(|| workspace.path.clone()),
        owner: shared.owner_of(&project),
    };
    let cloned = shared.files.prepare(&plan).await?;
    tracing::info!(session = %record.id, workspace = %workspace.id, dirty = cloned.dirty, "workspace prepared");
    workspace.base_commit = Some(cloned.base_commit);
    shared
        .store
        .commit(Commit { writes: vec![Write::PutWorkspace(workspace.clone())], fence: None })
        .await
        .map_err(|error| error.refusal())?;
    Ok(workspace)
}

/// Tells the actor when the sandbox ends by itself.
fn watch_end(
    shared: &Arc<Shared>,
    record: &SessionRecord,
    live: &Live,
    generation: u32,
    signal: mpsc::Sender<Signal>,
) {
    let shared = Arc::clone(shared);
    let (session, name) = (record.id.clone(), record.backend.clone());
    let backend = Arc::clone(&live.backend);
    let place = live.place.clone();
    let stop = live.pumps.clone();
    tokio::spawn(async move {
        if let Some(end) = stop.run_until_cancelled(backend.ended(&place.id, &place.runtime)).await {
            SandboxEnded { session: &session, backend: &name, reason: &end.reason }.emit(&shared.metrics);
            let what = What::SandboxEnded(end.reason);
            drop(signal.send(Signal { generation, what }).await);
        }
    });
}

fn refuse(error: SandboxError) -> Refusal {
    match error {
        SandboxError::Refused(refusal) => refusal,
        SandboxError::Failed { id, what } => {
            Refusal::unavailable(format!("sandbox {id}: {what}")).fix("see the log, and `oubliette doctor`")
        }
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
