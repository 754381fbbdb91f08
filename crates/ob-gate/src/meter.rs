//! What a call costs: reserved before it is made, settled on every path.
//!
//! ```text
//! reserve --> Charge (nothing sent) --> sent --> reported | seen so far
//!                |                        |             |
//!                v drop                   v drop        v finish
//!            settle with 0        settle with an estimate, settle with the report; usage event in the same commit
//! ```
//!
//! Both commits run in tasks of their own: whoever waits for them may go away at any moment (an agent that hangs up, a
//! panic, a gate that closes), and the charge is still settled, once.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use http::StatusCode;
use ob_core::EventBody;
use ob_core::EventKind;
use ob_core::MicroUsd;
use ob_core::Refusal;
use ob_core::RefusalCode;
use ob_core::event::Usage;
use ob_core::id::ChargeId;
use ob_core::ledger::Amount;
use ob_core::ledger::OverLimit;
use ob_core::model::Price;
use ob_core::model::Tokens;
use ob_crash::CrashPoint;
use ob_crash::reach;
use ob_store::Commit;
use ob_store::SharedStore;
use ob_store::StoreError;
use ob_store::Write;
use ob_telemetry::Metrics;
use ob_telemetry::ModelCallDone;
use serde_json::json;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use crate::GateSession;
use crate::Shared;
use crate::outside::Outside;
use crate::refuse::GateRefusal;
use crate::refuse::LIMIT_EXCEEDED;
use crate::wire::Reported;

/// How often a settlement is tried; with the default backoff, for a minute and a half. The engine settles what is still
/// open at the next start.
const SETTLE_ATTEMPTS: u32 = 9;
/// Bytes of an answer that count as one token in an estimate. A stream that is cut is charged so.
const BYTES_PER_TOKEN: u64 = 3;

/// Reserves and settles for one session. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Meter {
    store: SharedStore,
    outside: Arc<dyn Outside>,
    session: GateSession,
    tasks: TaskTracker,
    backoff: Duration,
    told: Arc<Told>,
    metrics: Metrics,
}

/// Which limits the session's log already tells of, so that an agent that tries again and again does not flood it.
#[derive(Default)]
struct Told {
    cost: AtomicBool,
    tokens: AtomicBool,
    time: AtomicBool,
}

/// A reservation. Whatever becomes of it, it is settled once. Without one, a call that nobody pays for.
pub(crate) struct Charge {
    open: Option<OpenCharge>,
}

struct OpenCharge {
    meter: Meter,
    runtime: Handle,
    id: ChargeId,
    price: Option<Price>,
    input_tokens: u64,
    seen: Seen,
    events: Vec<EventBody>,
    began: Instant,
}

/// What is known of a call so far.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    sent: bool,
    whole: bool,
    reported: Option<Reported>,
    written_bytes: u64,
    chunks: u64,
}

// === impl Meter ===

impl Meter {
    pub(crate) fn new(shared: &Shared, session: GateSession, tasks: TaskTracker) -> Self {
        let backoff = shared.options.settle_backoff;
        let (store, metrics) = (Arc::clone(&shared.store), shared.metrics.clone());
        let outside = Arc::clone(&shared.outside);
        Self { store, outside, session, tasks, backoff, told: Arc::default(), metrics }
    }

    /// Reserves for a call that reads and writes at most so many tokens. Nothing may be sent before this returns.
    pub(crate) async fn reserve(
        &self,
        input_tokens: u64,
        output_tokens: u64,
        price: Option<Price>,
    ) -> Result<Charge, GateRefusal> {
        let meter = self.clone();
        let amount = match &price {
            Some(price) => price.reservation(input_tokens, output_tokens),
            None => Amount::new(input_tokens.saturating_add(output_tokens), MicroUsd(0)),
        };
        let reserving = self.tasks.spawn(async move {
            let id = meter.outside.charge_id();
            let GateSession { tree, id: session, .. } = meter.session.clone();
            reach(CrashPoint::ReserveBefore);
            meter.commit(vec![Write::Reserve { charge: id, tree, session, amount }]).await?;
            reach(CrashPoint::Reserved);
            let runtime = Handle::current();
            let (seen, events) = (Seen::default(), Vec::new());
            let began = Instant::now();
            Ok(Charge {
                open: Some(OpenCharge { meter, runtime, id, price, input_tokens, seen, events, began }),
            })
        });
        // If the caller goes away here, the task's result is dropped, and with it the charge: that settles it.
        let reserved = match reserving.await {
            Ok(reserved) => reserved,
            Err(error) => {
                Err(StoreError::Engine { message: format!("the reservation was cut off: {error}") })
            }
        };
        match reserved {
            Ok(charge) => {
                self.told.cost.store(false, Ordering::Relaxed);
                self.told.tokens.store(false, Ordering::Relaxed);
                self.told.time.store(false, Ordering::Relaxed);
                Ok(charge)
            }
            Err(StoreError::OverLimit(over)) => Err(self.over_limit(over).await),
            Err(error) => Err(store_refusal(&error)),
        }
    }

    /// Adds an event that belongs to no charge. It is told to the log only if it cannot be kept.
    pub(crate) async fn tell(&self, event: EventBody) {
        let append = Write::Append { session: self.session.id.clone(), events: vec![event] };
        if let Err(error) = self.commit(vec![append]).await {
            tracing::warn!(session = %self.session.id, %error, "an event of the gate was lost");
        }
    }

    async fn over_limit(&self, over: OverLimit) -> GateRefusal {
        let (told, what) = match over {
            OverLimit::Cost { .. } => (&self.told.cost, "cost"),
            OverLimit::Tokens { .. } => (&self.told.tokens, "token"),
            // The others are of sessions that join, and no call is one.
            OverLimit::WallTime { .. }
            | OverLimit::Depth { .. }
            | OverLimit::Agents { .. }
            | OverLimit::Live { .. } => (&self.told.time, "time"),
        };
        let refusal =
            Refusal::new(RefusalCode::LimitExceeded, format!("{what} limit of this session: {over}"))
                .fix("raise the limit of its project, or start a smaller task");
        let refused = GateRefusal::new(StatusCode::TOO_MANY_REQUESTS, LIMIT_EXCEEDED, refusal);
        if !told.swap(true, Ordering::Relaxed) {
            self.tell(refused.event()).await;
        }
        refused
    }

    async fn commit(&self, writes: Vec<Write>) -> Result<(), StoreError> {
        self.store.commit(Commit { writes, fence: Some(self.session.epoch) }).await.map(drop)
    }

    async fn settle(self, id: ChargeId, used: Amount, events: Vec<EventBody>) {
        let mut wait = self.backoff;
        for attempt in 1..=SETTLE_ATTEMPTS {
            let mut writes = vec![Write::Settle { charge: id, used }];
            if !events.is_empty() {
                writes.push(Write::Append { session: self.session.id.clone(), events: events.clone() });
            }
            reach(CrashPoint::SettleBefore);
            match self.commit(writes).await {
                Ok(()) => return reach(CrashPoint::Settled),
                // A later owner settles it, or it went with its project.
                Err(
                    error @ (StoreError::Fenced { .. } | StoreError::Missing { .. } | StoreError::Closed),
                ) => {
                    tracing::info!(session = %self.session.id, charge = %id, %error, "a charge is left to its owner");
                    return;
                }
                Err(error) => {
                    tracing::warn!(session = %self.session.id, charge = %id, %error, attempt, "a charge was not settled");
                }
            }
            tokio::time::sleep(wait).await;
            wait *= 2;
        }
        tracing::error!(session = %self.session.id, charge = %id, "a charge stays open until the next start");
    }
}

// === impl Charge ===

impl Charge {
    /// A charge that is nobody's: nothing was reserved, and nothing is settled.
    pub(crate) const fn of_nobody() -> Self {
        Self { open: None }
    }

    /// The request is on its way: from here on the call costs something.
    pub(crate) fn sent(&mut self) {
        self.seen(|seen| seen.sent = true);
    }

    /// The provider did not take the request: it costs nothing after all.
    pub(crate) fn not_taken(&mut self) {
        self.seen(|seen| *seen = Seen::default());
    }

    /// The provider reported what was used. A later report replaces an earlier one.
    pub(crate) fn reported(&mut self, usage: Reported) {
        self.seen(|seen| seen.reported = Some(usage));
    }

    /// A chunk with so many bytes of answer came.
    pub(crate) fn wrote(&mut self, bytes: u64) {
        self.seen(|seen| {
            seen.written_bytes = seen.written_bytes.saturating_add(bytes);
            seen.chunks += u64::from(bytes > 0);
        });
    }

    /// Its name, which no other charge has.
    pub(crate) fn id(&self) -> Option<ChargeId> {
        self.open.as_ref().map(|open| open.id)
    }

    /// The answer is whole.
    pub(crate) fn whole(&mut self) {
        self.seen(|seen| seen.whole = true);
    }

    /// Settles with what is known, and tells of a failure if there was one. Returns when that is durable.
    pub(crate) async fn finish(mut self, failure: Option<&GateRefusal>) {
        if let (Some(open), Some(failure)) = (&mut self.open, failure) {
            open.events.push(failure.event());
        }
        if let Some(settling) = self.open.take().map(OpenCharge::settle)
            && let Err(error) = settling.await
        {
            tracing::error!(%error, "a settlement was cut off");
        }
    }

    fn seen(&mut self, note: impl FnOnce(&mut Seen)) {
        if let Some(open) = &mut self.open {
            note(&mut open.seen);
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if let Some(open) = self.open.take() {
            drop(open.settle());
        }
    }
}

// === impl OpenCharge ===

impl OpenCharge {
    /// Settles in a task that no one can cut off.
    fn settle(mut self) -> tokio::task::JoinHandle<()> {
        let tokens = self.tokens();
        let usage = tokens.map(|tokens| self.usage(tokens));
        let used = usage.as_ref().map_or(Amount::default(), |usage| {
            Amount::new(usage.input_tokens.saturating_add(usage.output_tokens), usage.cost)
        });
        self.count(usage.as_ref());
        if let (Some(tokens), Some(usage)) = (tokens, usage) {
            let mut data = json!({ "charge": self.id });
            for (name, tokens) in
                [("cache_write_tokens", tokens.cache_written), ("reasoning_tokens", tokens.reasoning)]
            {
                if tokens > 0 {
                    data[name] = json!(tokens);
                }
            }
            if self.price.is_none() {
                data["unpriced"] = json!(true);
            }
            if !self.seen.whole {
                data["cut"] = json!(true);
            }
            let mut event = EventBody::new(EventKind::Usage).data(data);
            event.usage = Some(usage);
            self.events.insert(0, event);
        }
        let Self { meter, runtime, id, events, .. } = self;
        let tasks = meter.tasks.clone();
        tasks.spawn_on(meter.settle(id, used, events), &runtime)
    }

    fn count(&self, usage: Option<&Usage>) {
        // A failure is the only event that a charge has before it is settled.
        let status = match (self.seen.sent, self.seen.whole && self.events.is_empty()) {
            (_, true) => "ok",
            (true, false) => "cut",
            (false, false) => "failed",
        };
        let session = &self.meter.session;
        ModelCallDone {
            session: &session.id,
            provider: &session.model.provider,
            model: &session.model.model,
            status,
            input_tokens: usage.map_or(0, |usage| usage.input_tokens),
            output_tokens: usage.map_or(0, |usage| usage.output_tokens),
            cost: usage.map_or(MicroUsd(0), |usage| usage.cost),
            took: self.began.elapsed(),
        }
        .emit(&self.meter.metrics);
    }

    /// What the call used; `None` if nothing was sent.
    fn tokens(&self) -> Option<Tokens> {
        if !self.seen.sent {
            return None;
        }
        // A chunk holds a token or more.
        let output = self.seen.written_bytes.div_ceil(BYTES_PER_TOKEN).max(self.seen.chunks);
        Some(match self.seen.reported {
            Some(Reported { tokens, is_final: true }) => tokens,
            // What was read is known, and of what was written at least this.
            Some(Reported { tokens, is_final: false }) => {
                Tokens { output: tokens.output.max(output), ..tokens }
            }
            None => Tokens { input: self.input_tokens, output, ..Tokens::default() },
        })
    }

    fn usage(&self, tokens: Tokens) -> Usage {
        Usage {
            input_tokens: tokens.input,
            output_tokens: tokens.output,
            cached_tokens: tokens.cached,
            cost: self.price.map_or(MicroUsd(0), |price| price.cost(tokens)),
            model: self.meter.session.model.model.clone(),
            estimated: !self.seen.reported.is_some_and(|reported| reported.is_final),
        }
    }
}

fn store_refusal(error: &StoreError) -> GateRefusal {
    let refusal = match error {
        StoreError::Full => {
            Refusal::unavailable("the server's disk is full, so the call cannot be accounted for")
                .fix("free space on the disk of the server's home")
        }
        StoreError::Fenced { .. } => Refusal::conflict("another server owns this session now")
            .fix("nothing to do here: its new owner opens a new gate"),
        _ => Refusal::unavailable("the call could not be accounted for")
            .fix("see the server's log, and check with `oubliette doctor`"),
    };
    tracing::warn!(%error, "a reservation failed");
    GateRefusal::new(StatusCode::SERVICE_UNAVAILABLE, "accounting_unavailable", refusal)
}
