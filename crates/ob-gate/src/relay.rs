//! A provider's event stream on its way to the agent: passed on event by event, and read on the way. In the agent's own
//! wire byte by byte, else translated.
//!
//! ```text
//! reading --last event, or end after a finish--> settled --> over
//!    |
//!    +--malformed, cut, silent, too large--> settled --> one error event --> over
//! ```
//!
//! Pulled by the connection: no task and no queue of its own, so a slow agent slows the provider, and an agent that
//! hangs up drops it all, which cancels the provider and settles the charge.

use std::time::Duration;

use bytes::Bytes;
use bytes::BytesMut;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use ob_core::model::ModelRef;
use ob_core::model::Tokens;
use ob_core::model::Wire;

use crate::meter::Charge;
use crate::models::Provider;
use crate::refuse::Again;
use crate::refuse::GateRefusal;
use crate::sse::Block;
use crate::sse::Splitter;
use crate::sse::TooLarge;
use crate::translate::Translator;
use crate::upstream;
use crate::wire::Watch;

/// A stream that is not what it says it is.
pub(crate) const BAD_STREAM: &str = "bad_model_stream";
/// How long a provider may take to end the stream after its last event, so that the connection can be used again.
const TAIL: Duration = Duration::from_millis(200);

/// A stream on its way.
pub(crate) struct Relay {
    upstream: BoxStream<'static, reqwest::Result<Bytes>>,
    splitter: Splitter,
    charge: Option<Charge>,
    model: ModelRef,
    mask: Mask,
    idle: Duration,
    manner: Manner,
    tokens: Tokens,
    finished: bool,
    over: bool,
}

/// How a stream is passed on.
pub(crate) struct Manner {
    /// Reads the provider's wire.
    pub(crate) watch: Watch,
    /// The agent's wire.
    pub(crate) agent: Wire,
    /// The agent does not see an event that only holds the usage.
    pub(crate) hide_usage: bool,
    /// Turns the provider's wire into the agent's, where they differ.
    pub(crate) translator: Option<Translator>,
}

/// Knows a provider's secrets and hides them in bytes that are passed on, should the provider repeat them.
pub(crate) struct Mask(Vec<String>);

/// How one step ends.
enum Step {
    Pass(Bytes),
    Done(Bytes),
    Skip,
}

// === impl Relay ===

impl Relay {
    pub(crate) fn new(
        response: reqwest::Response,
        charge: Charge,
        model: ModelRef,
        mask: Mask,
        options: &crate::GateOptions,
        manner: Manner,
    ) -> Self {
        Self {
            upstream: response.bytes_stream().fuse().boxed(),
            splitter: Splitter::new(options.max_event),
            charge: Some(charge),
            model,
            mask,
            idle: options.stream_idle_timeout,
            manner,
            tokens: Tokens::default(),
            finished: false,
            over: false,
        }
    }

    /// The first bytes for the agent. If there are none for a fault, nothing was delivered and nothing settled yet: the
    /// charge comes back with the refusal.
    pub(crate) async fn begin(mut self) -> Result<(Option<Bytes>, Self), (GateRefusal, Option<Charge>)> {
        match self.step().await {
            Ok(Some(bytes)) => Ok((Some(bytes), self)),
            Ok(None) => {
                self.end(None).await;
                Ok((None, self))
            }
            Err(refused) => Err((refused, self.charge.take())),
        }
    }

    /// The next bytes for the agent; `None` at the end. A fault is the last of them, as an event.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        if self.over {
            // Only to see the end, so that the connection can be used for the next call.
            if self.charge.is_none() && self.finished {
                drop(tokio::time::timeout(TAIL, self.upstream.next()).await);
            }
            return None;
        }
        match self.step().await {
            Ok(Some(bytes)) => Some(bytes),
            Ok(None) => {
                self.end(None).await;
                None
            }
            Err(failure) => {
                self.finished = false;
                self.end(Some(&failure)).await;
                Some(failure.sse(self.manner.agent))
            }
        }
    }

    async fn end(&mut self, failure: Option<&GateRefusal>) {
        self.over = true;
        if let Some(mut charge) = self.charge.take() {
            if failure.is_none() {
                charge.whole();
            }
            charge.finish(failure).await;
        }
    }

    async fn step(&mut self) -> Result<Option<Bytes>, GateRefusal> {
        loop {
            while let Some(block) = self.splitter.next_block().map_err(|TooLarge| self.too_large())? {
                match self.look(block)? {
                    Step::Pass(bytes) => return Ok(Some(bytes)),
                    Step::Done(bytes) => {
                        // The usage is durable before the agent sees the end.
                        self.finished = true;
                        self.end(None).await;
                        return Ok(Some(bytes));
                    }
                    Step::Skip => {}
                }
            }
            match tokio::time::timeout(self.idle, self.upstream.next()).await {
                Err(_) => return Err(upstream::silent(&self.model, self.idle)),
                Ok(Some(Ok(bytes))) => self.splitter.push(&bytes),
                Ok(Some(Err(_))) if self.finished => return self.last().await,
                Ok(Some(Err(_))) => {
                    return Err(self.malformed("a stream that breaks off in the middle").again(Again::Soon));
                }
                Ok(None) => return self.last().await,
            }
        }
    }

    /// The stream ended without a last event: Google's have none, and some providers leave out `[DONE]`.
    async fn last(&mut self) -> Result<Option<Bytes>, GateRefusal> {
        let mut rest = BytesMut::new();
        if let Some(block) = self.splitter.rest() {
            match self.look(block)? {
                Step::Done(bytes) => {
                    self.finished = true;
                    self.end(None).await;
                    return Ok(Some(bytes));
                }
                Step::Pass(bytes) => rest.extend_from_slice(&bytes),
                Step::Skip => {}
            }
        }
        if !self.finished {
            if rest.is_empty() {
                let failure = self.malformed("a stream that ends before the answer does");
                return Err(failure.again(Again::Soon));
            }
            // What came is passed on first; the next step finds the end.
            return Ok(Some(rest.freeze()));
        }
        self.end(None).await;
        if let Some(translator) = &mut self.manner.translator {
            rest.extend_from_slice(&translator.finish(self.tokens));
        }
        Ok((!rest.is_empty()).then(|| rest.freeze()))
    }

    fn look(&mut self, block: Block) -> Result<Step, GateRefusal> {
        let Some(data) = &block.data else { return Ok(Step::Pass(self.mask.hide(block.raw))) };
        if data.trim_ascii() == b"[DONE]" {
            let finish = self.manner.translator.as_mut().map(|translator| translator.finish(self.tokens));
            return Ok(Step::Done(finish.unwrap_or(block.raw)));
        }
        let Some(chunk) = self.manner.watch.event(data) else {
            return Err(self.malformed("an event that is none of its wire"));
        };
        if let Some(error) = chunk.error {
            return Err(self.provider_error(&error));
        }
        self.finished |= chunk.finishes || chunk.ends;
        if let Some(usage) = chunk.usage {
            self.tokens = usage.tokens;
        }
        if let Some(charge) = &mut self.charge {
            charge.wrote(chunk.written_bytes);
            if let Some(usage) = chunk.usage {
                charge.reported(usage);
            }
        }
        let bytes = match &mut self.manner.translator {
            None if self.manner.hide_usage && chunk.is_only_usage => return Ok(Step::Skip),
            None => block.raw,
            Some(translator) => {
                let translated = translator.event(data);
                let mut bytes = translated.map_err(|broken| self.malformed(&broken.to_string()))?;
                if chunk.ends
                    && let Some(translator) = &mut self.manner.translator
                {
                    bytes.extend_from_slice(&translator.finish(self.tokens));
                }
                bytes.freeze()
            }
        };
        let bytes = self.mask.hide(bytes);
        Ok(match chunk.ends {
            true => Step::Done(bytes),
            false if bytes.is_empty() => Step::Skip,
            false => Step::Pass(bytes),
        })
    }

    fn malformed(&self, what: &str) -> GateRefusal {
        upstream::malformed(&self.model, BAD_STREAM, what)
    }

    fn too_large(&self) -> GateRefusal {
        self.malformed("an event that is too large")
    }

    fn provider_error(&self, error: &serde_json::Value) -> GateRefusal {
        let said = error.get("message").unwrap_or(error);
        let said = said.as_str().map_or_else(|| said.to_string(), ToString::to_string);
        let said = upstream::shown(&said, &self.mask.redactor());
        let message = format!("the provider of {} failed in its answer: {said}", self.model);
        let refusal = ob_core::Refusal::unavailable(message).fix("try again, or use another model");
        GateRefusal::bad_gateway("provider_error", refusal).again(Again::Soon)
    }
}

// === impl Mask ===

impl Mask {
    pub(crate) fn new(provider: &Provider) -> Self {
        // What is shorter is found in ordinary words.
        Self(provider.secrets().into_iter().filter(|secret| secret.len() >= 8).collect())
    }

    /// The same bytes, without the secrets.
    pub(crate) fn hide(&self, bytes: Bytes) -> Bytes {
        let text = String::from_utf8_lossy(&bytes);
        if !self.0.iter().any(|secret| text.contains(secret.as_str())) {
            return bytes;
        }
        let hidden = self
            .0
            .iter()
            .fold(text.into_owned(), |text, secret| text.replace(secret.as_str(), ob_core::redact::MASK));
        tracing::warn!("a provider repeated its key in an answer; it was hidden");
        hidden.into()
    }

    fn redactor(&self) -> ob_core::redact::Redactor {
        ob_core::redact::Redactor::new(self.0.iter().cloned())
    }
}
