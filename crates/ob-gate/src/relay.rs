//! A provider's event stream on its way to the agent: passed on event by event, byte by byte, and read on the way.
//!
//! ```text
//! reading --[DONE] or end after a finish_reason--> settled --> over
//!    |
//!    +--malformed, cut, silent, too large--> settled --> one error event --> over
//! ```
//!
//! Pulled by the connection: no task and no queue of its own, so a slow agent slows the provider, and an agent that
//! hangs up drops it all, which cancels the provider and settles the charge.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;

use crate::GateSession;
use crate::meter::Charge;
use crate::models::Provider;
use crate::refuse::GateRefusal;
use crate::sse::Block;
use crate::sse::Chunk;
use crate::sse::Splitter;
use crate::sse::TooLarge;
use crate::upstream;

/// A stream that is not what it says it is.
pub(crate) const BAD_STREAM: &str = "bad_model_stream";
/// How long a provider may take to end the stream after its last event, so that the connection can be used again.
const TAIL: Duration = Duration::from_millis(200);

/// A stream on its way.
pub(crate) struct Relay {
    upstream: BoxStream<'static, reqwest::Result<Bytes>>,
    splitter: Splitter,
    charge: Option<Charge>,
    session: GateSession,
    mask: Mask,
    idle: Duration,
    hide_usage: bool,
    finished: bool,
    over: bool,
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
        session: GateSession,
        mask: Mask,
        options: &crate::GateOptions,
        hide_usage: bool,
    ) -> Self {
        Self {
            upstream: response.bytes_stream().fuse().boxed(),
            splitter: Splitter::new(options.max_event),
            charge: Some(charge),
            session,
            mask,
            idle: options.stream_idle_timeout,
            hide_usage,
            finished: false,
            over: false,
        }
    }

    /// The next bytes for the agent; `None` at the end. After an error there is nothing more.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, GateRefusal>> {
        if self.over {
            // Only to see the end, so that the connection can be used for the next call.
            if self.charge.is_none() && self.finished {
                drop(tokio::time::timeout(TAIL, self.upstream.next()).await);
            }
            return None;
        }
        match self.step().await {
            Ok(Some(bytes)) => Some(Ok(bytes)),
            Ok(None) => {
                self.end(None).await;
                None
            }
            Err(failure) => {
                self.finished = false;
                self.end(Some(&failure)).await;
                Some(Err(failure))
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
                Err(_) => return Err(upstream::silent(&self.session, self.idle)),
                Ok(Some(Ok(bytes))) => self.splitter.push(&bytes),
                Ok(Some(Err(_))) if self.finished => return self.last(),
                Ok(Some(Err(_))) => return Err(self.malformed("a stream that breaks off in the middle")),
                Ok(None) => return self.last(),
            }
        }
    }

    /// The stream ended without `[DONE]`: some providers do so after the last choice is finished.
    fn last(&mut self) -> Result<Option<Bytes>, GateRefusal> {
        if let Some(block) = self.splitter.rest() {
            match self.look(block)? {
                Step::Done(bytes) => {
                    self.finished = true;
                    return Ok(Some(bytes));
                }
                Step::Pass(bytes) => return Ok(Some(bytes)),
                Step::Skip => {}
            }
        }
        if self.finished {
            return Ok(None);
        }
        Err(self.malformed("a stream that ends before the answer does"))
    }

    fn look(&mut self, block: Block) -> Result<Step, GateRefusal> {
        let Some(data) = &block.data else { return Ok(Step::Pass(self.mask.hide(block.raw))) };
        if data.trim_ascii() == b"[DONE]" {
            return Ok(Step::Done(block.raw));
        }
        let Some(chunk) = Chunk::parse(data) else {
            return Err(self.malformed("an event that is no chunk of a chat completion"));
        };
        if let Some(error) = chunk.error {
            return Err(self.provider_error(&error));
        }
        self.finished |= chunk.finishes;
        if let Some(charge) = &mut self.charge {
            charge.wrote(chunk.written_bytes);
            if let Some(usage) = chunk.usage {
                charge.reported(usage);
            }
        }
        if self.hide_usage && chunk.is_only_usage {
            return Ok(Step::Skip);
        }
        Ok(Step::Pass(self.mask.hide(block.raw)))
    }

    fn malformed(&self, what: &str) -> GateRefusal {
        upstream::malformed(&self.session, BAD_STREAM, what)
    }

    fn too_large(&self) -> GateRefusal {
        self.malformed("an event that is too large")
    }

    fn provider_error(&self, error: &serde_json::Value) -> GateRefusal {
        let said = error.get("message").unwrap_or(error);
        let said = said.as_str().map_or_else(|| said.to_string(), ToString::to_string);
        let said = upstream::shown(&said, &self.mask.redactor());
        let message = format!("the provider of {} failed in its answer: {said}", self.session.model);
        let refusal = ob_core::Refusal::unavailable(message).fix("try again, or use another model");
        GateRefusal::bad_gateway("provider_error", refusal)
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
