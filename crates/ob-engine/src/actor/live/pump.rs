//! Carries bytes and news between an agent's process and the actor.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex;

use bytes::Bytes;
use futures_util::StreamExt as _;
use ob_core::link::Ack;
use ob_sandbox::link::Guest;
use ob_sandbox::link::LinkError;
use ob_sandbox::link::Output;
use ob_sandbox::link::Pace;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::LAST_WORDS;
use crate::actor::Signal;
use crate::actor::What;

/// One direction of bytes or news.
#[derive(Clone)]
pub(super) struct Pump {
    pub(super) guest: Guest,
    pub(super) process: String,
    pub(super) generation: u32,
    pub(super) signal: mpsc::Sender<Signal>,
    pub(super) stop: CancellationToken,
    /// The most bytes of output in a second.
    pub(super) output_rate: Option<u64>,
}

// === impl Pump ===

impl Pump {
    pub(super) fn spawn(self, work: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(async move { self.stop.run_until_cancelled_owned(work).await });
    }

    async fn tell(&self, what: What) {
        // An actor that is gone needs no news.
        drop(self.signal.send(Signal { generation: self.generation, what }).await);
    }

    pub(super) async fn stdout(self, from: u64) {
        let mut output = self.guest.output(&self.process, Output::Stdout, from);
        let mut pace = self.output_rate.map(Pace::new);
        while let Some(chunk) = output.next().await {
            match chunk {
                Ok(bytes) => {
                    let count = bytes.len();
                    self.tell(What::Stdout(bytes)).await;
                    self.hold_back(pace.as_mut(), count).await;
                }
                Err(LinkError::Closed) => return,
                Err(error) => return self.tell(What::SandboxEnded(error.to_string())).await,
            }
        }
        self.tell(What::StdoutEnd).await;
    }

    /// Waits as long as the pace asks for; the guest, and behind it the agent, wait as well.
    async fn hold_back(&self, pace: Option<&mut Pace>, count: usize) {
        let Some(pace) = pace else { return };
        let Some(pause) = pace.take(count, Instant::now()) else { return };
        if let Some(hit) = pace.report(Instant::now()) {
            self.tell(What::LimitHit(hit)).await;
        }
        tokio::time::sleep(pause).await;
    }

    /// Keeps the end of the error output, and acknowledges both streams: there is one acknowledgement for both.
    pub(super) async fn stderr(
        self,
        from: u64,
        last_words: Arc<Mutex<VecDeque<u8>>>,
        mut acks: watch::Receiver<u64>,
    ) {
        let read = Arc::new(std::sync::atomic::AtomicU64::new(from));
        let (wake, mut woken) = watch::channel(());
        let reader = {
            let read = Arc::clone(&read);
            let mut output = self.guest.output(&self.process, Output::Stderr, from);
            let (pump, mut pace) = (self.clone(), self.output_rate.map(Pace::new));
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
                    pump.hold_back(pace.as_mut(), bytes.len()).await;
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

    pub(super) async fn stdin(self, mut inputs: mpsc::Receiver<(u64, Bytes)>) {
        while let Some((offset, bytes)) = inputs.recv().await {
            match self.guest.write_stdin(&self.process, offset, bytes).await {
                Ok(offset) => self.tell(What::Sent(offset)).await,
                // That the process or the sandbox is gone is told by others.
                Err(LinkError::Refused { .. } | LinkError::Closed) => return,
                Err(error) => return self.tell(What::SandboxEnded(error.to_string())).await,
            }
        }
    }

    pub(super) async fn exit(self) {
        match self.guest.exit(&self.process).await {
            Ok(exit) => self.tell(What::Exit(exit)).await,
            Err(LinkError::Closed) => {}
            Err(error) => self.tell(What::SandboxEnded(error.to_string())).await,
        }
    }
}
