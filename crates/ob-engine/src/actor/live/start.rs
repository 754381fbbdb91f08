//! Makes, finds again and ends a session's sandbox: tasks that report to the actor by signals.

use std::sync::Arc;
use std::time::Duration;

use ob_agent::Driver;
use ob_core::Refusal;
use ob_core::model::ModelSource;
use ob_core::record::SessionRecord;
use ob_core::resource::LimitHit;
use ob_crash::CrashPoint;
use ob_crash::reach;
use ob_sandbox::SandboxError;
use ob_sandbox::link::Guest;
use ob_sandbox::link::LinkError;
use ob_telemetry::SandboxEnded;
use ob_telemetry::SandboxStartFailed;
use ob_telemetry::SandboxStarted;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::COME_UP;
use super::Counted;
use super::DIAL;
use super::Live;
use super::Place;
use super::REDIAL;
use super::SavedDriver;
use crate::actor::Signal;
use crate::actor::What;
use crate::shared::Shared;

/// What a start needs besides the session.
pub(in crate::actor) struct Start {
    /// What is left of an earlier sandbox; it is ended first.
    pub(in crate::actor) old: Option<Live>,
    /// What must be over before.
    pub(in crate::actor) before: Option<JoinHandle<()>>,
    /// A pause, so that what fails at once does not fail again at once.
    pub(in crate::actor) after: Duration,
    /// The start is no longer wanted: it stops before it makes a sandbox.
    pub(in crate::actor) unwanted: CancellationToken,
    /// Which start it is.
    pub(in crate::actor) generation: u32,
    /// Where to tell.
    pub(in crate::actor) signal: mpsc::Sender<Signal>,
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
pub(in crate::actor) fn start(shared: Arc<Shared>, record: SessionRecord, start: Start) -> JoinHandle<()> {
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
pub(in crate::actor) fn adopt(
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
            Err(Gone { reason, limit }) => What::AdoptFailed { reason, limit },
        };
        drop(signal.send(Signal { generation, what }).await);
    })
}

/// Ends the sandbox of a session, and tells if anyone wants to know.
pub(in crate::actor) fn end(
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
    // A server that slept for long must not end its successor's sandbox: both are in the same place.
    shared.still_owns(&record.id).await?;
    let backend = match live {
        Some(live) => {
            live.guest.close();
            Arc::clone(&live.backend)
        }
        None => shared.backend()?,
    };
    reach(CrashPoint::EndBefore);
    let runtime = shared.home.sandbox_runtime(&record.id);
    backend.end(record.id.suffix(), &runtime, shared.epoch).await.map_err(refuse)?;
    reach(CrashPoint::EndAfter);
    Ok(())
}

async fn try_start(
    shared: &Arc<Shared>,
    record: &SessionRecord,
    old: Option<Live>,
    generation: u32,
    unwanted: &CancellationToken,
) -> Result<Option<Live>, StartFailure> {
    end_sandbox(shared, record, old).await.map_err(StartFailure::passing)?;
    reach(CrashPoint::StartBegun);
    let prepare = async {
        // After a crash, all sessions want a sandbox at once.
        let turn = Arc::clone(&shared.starts).acquire_owned().await;
        let turn = turn.map_err(|_| {
            StartFailure::lasting(Refusal::internal("no start is allowed any more").fix("see the log"))
        })?;
        let shown = shared.sandbox.get();
        let agent = shared.agents.ready(record, &shown.read_only).await.map_err(StartFailure::lasting)?;
        let backend = shared.backend().map_err(StartFailure::lasting)?;
        backend.check().await.map_err(StartFailure::lasting)?;
        let waits_for = model_missing(shared, record).await.map_err(StartFailure::lasting)?;
        let workspace = shared.prepared_workspace(record).await.map_err(StartFailure::lasting)?;
        let mut spec = shared.sandbox_spec(record, &workspace).await.map_err(StartFailure::passing)?;
        agent.show(&mut spec);
        // A workspace that is copied takes long enough for a successor to come.
        shared.still_owns(&record.id).await.map_err(StartFailure::passing)?;
        Ok((turn, agent, backend, spec, waits_for))
    };
    // Only what makes no sandbox is cut off: a sandbox that is being made must be known to be ended.
    let Some(prepared) = unwanted.run_until_cancelled(prepare).await else { return Ok(None) };
    let (_turn, agent, backend, spec, waits_for) = prepared?;
    let inside = backend.inside(&spec);
    let guest = Guest::new();
    let gate =
        shared.open_gate(&**backend, record, &spec, guest.clone()).await.map_err(StartFailure::passing)?;
    reach(CrashPoint::StartPrepared);
    let began = std::time::Instant::now();
    let started = backend.start(&spec).await.map_err(|error| match error {
        SandboxError::Refused(refusal) => StartFailure::lasting(refusal),
        failed @ (SandboxError::Failed { .. } | SandboxError::Owned { .. }) => {
            StartFailure::passing(refuse(failed))
        }
    })?;
    reach(CrashPoint::StartLaunched);
    let process = format!("agent-{}-{generation}", shared.epoch.0);
    let ready = async {
        guest.connected(DIAL).await?;
        reach(CrashPoint::StartDialled);
        // The guest program has another name in sandboxes of other backends.
        guest.spawn(&process, &agent.process(&inside.guest, &inside.workspace)).await
    };
    // A link that is cut is waited for, and that of a sandbox which is gone never comes back.
    let ready = tokio::time::timeout(COME_UP, ready).await.unwrap_or(Err(LinkError::TimedOut(COME_UP)));
    if let Err(error) = ready {
        guest.close();
        if let Err(error) = backend.end(&spec.id, &spec.runtime, spec.epoch).await {
            tracing::error!(session = %record.id, %error, "cannot end a sandbox that did not come up");
        }
        let refusal = Refusal::unavailable(format!("the sandbox did not come up: {error}"))
            .fix("see the log, and `oubliette doctor`");
        return Err(StartFailure::passing(refusal));
    }
    reach(CrashPoint::StartSpawned);
    SandboxStarted { session: &record.id, backend: backend.name(), took: began.elapsed() }
        .emit(&shared.metrics);
    let resume = match shared.store.driver(&record.id).await {
        Ok(saved) => saved
            .and_then(|bytes| SavedDriver::decode(&bytes))
            .and_then(|saved| Driver::restore(&saved.driver).ok())
            .and_then(|driver| driver.agent_session().map(ToOwned::to_owned)),
        Err(_) => None,
    };
    let place = Place { id: spec.id.clone(), runtime: spec.runtime.clone(), workspace: inside.workspace };
    let counted = Counted::new(shared);
    let mut live = Live::new(process, place, started.enforcement, guest, gate, backend, counted);
    live.output_rate = spec.limits.output_rate;
    live.resume = resume;
    live.mode = agent.mode;
    live.waits_for = waits_for;
    Ok(Some(live))
}

/// Why a sandbox was not found again.
struct Gone {
    reason: String,
    /// The limit that it was ended for.
    limit: Option<LimitHit>,
}

// === impl Gone ===

impl Gone {
    fn because(reason: impl std::fmt::Display) -> Self {
        Self { reason: reason.to_string(), limit: None }
    }
}

async fn try_adopt(
    shared: &Arc<Shared>,
    record: &SessionRecord,
    saved: Option<SavedDriver>,
) -> Result<Live, Gone> {
    let saved = saved.ok_or_else(|| Gone::because("its agent had not been started"))?;
    let backend = shared.backend().map_err(Gone::because)?;
    let runtime = shared.home.sandbox_runtime(&record.id);
    if let Some(end) =
        backend.adopt(record.id.suffix(), &runtime, shared.epoch).await.map_err(Gone::because)?
    {
        return Err(Gone { reason: end.reason, limit: end.limit });
    }
    reach(CrashPoint::AdoptHeld);
    // Whatever is wrong with its model: the sandbox holds work, and the model may come back.
    let waits_for = shared.catalogue.ensure(&record.model).await.err();
    let workspace = shared.prepared_workspace(record).await.map_err(Gone::because)?;
    let spec = shared.sandbox_spec(record, &workspace).await.map_err(Gone::because)?;
    shared.still_owns(&record.id).await.map_err(Gone::because)?;
    let guest = Guest::new();
    let gate = shared.open_gate(&**backend, record, &spec, guest.clone()).await.map_err(Gone::because)?;
    let found = async {
        guest.connected(REDIAL).await?;
        guest.status(&saved.process).await
    };
    let found = tokio::time::timeout(COME_UP, found).await.unwrap_or(Err(LinkError::TimedOut(COME_UP)));
    let status = found.map_err(Gone::because)?;
    reach(CrashPoint::AdoptDialled);
    let workspace = backend.inside(&spec).workspace;
    let place = Place { id: spec.id.clone(), runtime: spec.runtime.clone(), workspace };
    let enforcement = backend.enforcement(&place.runtime).await.unwrap_or_default();
    let counted = Counted::new(shared);
    let mut live = Live::new(saved.process.clone(), place, enforcement, guest, gate, backend, counted);
    live.output_rate = spec.limits.output_rate;
    // What it wrote there while nobody listened is skipped: only the end of it is ever shown.
    live.stderr_from = status.stderr_end;
    live.adopted = Some(saved);
    live.waits_for = waits_for;
    live.resumed = true;
    Ok(live)
}

/// What is wrong with the session's model, if waiting may help: a server on this machine may only be slower to start
/// than we are. Fails if it will not help.
async fn model_missing(shared: &Shared, record: &SessionRecord) -> Result<Option<Refusal>, Refusal> {
    match shared.catalogue.ensure(&record.model).await {
        Ok(()) => Ok(None),
        Err(refusal) if record.model.source == ModelSource::Local => Ok(Some(refusal)),
        Err(refusal) => Err(refusal),
    }
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
        let tell = async |what| drop(signal.send(Signal { generation, what }).await);
        let mut hits = backend.limit_hits(&place.id);
        let watched = async {
            let ended = backend.ended(&place.id, &place.runtime);
            tokio::pin!(ended);
            loop {
                tokio::select! {
                    biased;
                    hit = next_hit(&mut hits) => tell(What::LimitHit(hit)).await,
                    end = &mut ended => return end,
                }
            }
        };
        if let Some(end) = stop.run_until_cancelled(watched).await {
            SandboxEnded { session: &session, backend: &name, reason: &end.reason }.emit(&shared.metrics);
            tell(end.limit.map_or(What::SandboxEnded(end.reason), What::LimitHit)).await;
        }
    });
}

/// The next limit that is reached; never, if nobody tells.
async fn next_hit(hits: &mut Option<mpsc::Receiver<LimitHit>>) -> LimitHit {
    if let Some(receiver) = hits
        && let Some(hit) = receiver.recv().await
    {
        return hit;
    }
    *hits = None;
    std::future::pending().await
}

fn refuse(error: SandboxError) -> Refusal {
    match error {
        SandboxError::Refused(refusal) => refusal,
        owned @ SandboxError::Owned { .. } => {
            Refusal::conflict(owned.to_string()).fix("ask the server that owns it")
        }
        SandboxError::Failed { id, what } => {
            Refusal::unavailable(format!("sandbox {id}: {what}")).fix("see the log, and `oubliette doctor`")
        }
    }
}
