//! The guest at rest: when nothing was asked of it for a while, it lets go of its code (see [`crate::idle`]), once, as the last
//! thing before it waits.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::Notify;

use crate::idle::Code;

/// As long as this nothing is asked of a guest at rest. Short beside what a person or a model takes.
const QUIET: Duration = Duration::from_secs(1);

/// Knows whether anything is asked.
#[derive(Debug)]
pub(super) struct Rest {
    code: Code,
    asked: Notify,
    is_due: AtomicBool,
}

// === impl Rest ===

impl Rest {
    pub(super) fn new() -> Self {
        Self { code: Code::find(), asked: Notify::new(), is_due: AtomicBool::new(false) }
    }

    /// Something was asked.
    pub(super) fn disturb(&self) {
        self.asked.notify_one();
    }

    /// Waits for quiet, for ever.
    pub(super) async fn run(&self) {
        loop {
            while tokio::time::timeout(QUIET, self.asked.notified()).await.is_ok() {}
            self.is_due.store(true, Ordering::Relaxed);
            self.asked.notified().await;
        }
    }

    /// To be called when the thread is about to wait.
    pub(super) fn before_wait(&self) {
        if self.is_due.swap(false, Ordering::Relaxed) {
            self.code.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn rest_is_due_once_after_quiet_and_again_only_after_a_request() {
        let rest = Arc::new(Rest::new());
        let runs = Arc::clone(&rest);
        let task = tokio::spawn(async move { runs.run().await });
        let is_due = || rest.is_due.swap(false, Ordering::Relaxed);
        tokio::time::advance(QUIET / 2).await;
        rest.disturb();
        tokio::task::yield_now().await;
        tokio::time::advance(QUIET / 2 + QUIET / 4).await;
        tokio::task::yield_now().await;
        assert!(!is_due(), "it was asked something");
        tokio::time::advance(QUIET).await;
        tokio::task::yield_now().await;
        assert!(is_due());
        tokio::time::advance(QUIET * 10).await;
        tokio::task::yield_now().await;
        assert!(!is_due(), "once");
        rest.disturb();
        tokio::task::yield_now().await;
        tokio::time::advance(QUIET * 2).await;
        tokio::task::yield_now().await;
        assert!(is_due(), "again");
        task.abort();
    }
}
