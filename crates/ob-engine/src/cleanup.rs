//! Cleanup: looking every so often for what nobody needs any more, and at the disk.
//!
//! ```text
//! start, interval, changed settings -> look at the folders -> no record? -> since when? -> for long: removed
//!                                   -> how full is the disk                             -> one line in the log
//! ```
//!
//! What has a record is never touched: sessions, their events and their workspaces stay until someone deletes them, and
//! a session that has nothing to do gives its sandbox back by itself (`actor`). What has none is of a delete that did not
//! come to its end. It is left alone for the retention all the same, so that whoever deletes it right now is not raced.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ob_store::StoreError;
use ob_telemetry::CleanupDone;
use ob_telemetry::DiskUse;
use tokio::sync::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::Engine;
use crate::health;
use crate::leftovers::Thing;

/// What a pass found and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Projects, workspaces and agents' homes without a record whose files are gone now.
    pub removed: usize,
    /// Those that stay until they were seen for the retention.
    pub waiting: usize,
    /// How full the disk of the home is, if that can be told.
    pub disk: Option<DiskUse>,
}

/// What is remembered between two passes.
#[derive(Default)]
pub(crate) struct Cleaning {
    /// Since when things were seen without a record. Held during a pass, so that there is one at a time.
    unowned: Mutex<HashMap<Thing, Instant>>,
    changed: Notify,
}

// === impl Cleaning ===

impl Cleaning {
    /// There are other settings, which count at once.
    pub(crate) fn changed(&self) {
        self.changed.notify_one();
    }
}

// === impl Engine ===

impl Engine {
    /// Cleans now and then every interval, in the background, until the server stops.
    pub fn clean_regularly(self: &Arc<Self>) {
        let engine = Arc::clone(self);
        self.tracker.spawn(async move {
            let forever = async {
                loop {
                    let settings = engine.shared.cleanup.get();
                    if settings.enabled {
                        // Its line in the log says what came of it.
                        engine.clean().await;
                    }
                    tokio::select! {
                        () = tokio::time::sleep(settings.interval) => {}
                        () = engine.cleaning.changed.notified() => {}
                    }
                }
            };
            tokio::select! {
                () = forever => {}
                _ = engine.stop_requested() => {}
                () = engine.superseded() => {}
            }
        });
    }

    /// One pass.
    pub async fn clean(&self) -> Cleaned {
        let began = Instant::now();
        let mut unowned = self.cleaning.unowned.lock().await;
        let settings = self.shared.cleanup.get();
        let mut cleaned = Cleaned { disk: self.disk_use().await, ..Cleaned::default() };
        if let Err(error) = self.clean_files(&mut unowned, settings.retention, &mut cleaned).await {
            tracing::warn!(%error, "cannot tell which files belong to nobody");
        }
        let Cleaned { removed, waiting, disk } = cleaned;
        CleanupDone { removed, waiting, disk, took: began.elapsed() }.emit(&self.shared.metrics);
        cleaned
    }

    async fn clean_files(
        &self,
        unowned: &mut HashMap<Thing, Instant>,
        retention: Duration,
        cleaned: &mut Cleaned,
    ) -> Result<(), StoreError> {
        let found = self.shared.files.look(&self.shared.home).await;
        let mut seen = HashMap::new();
        for thing in found.things() {
            if thing.has_record(&self.shared).await? {
                continue;
            }
            let since = unowned.get(&thing).copied().unwrap_or_else(Instant::now);
            if since.elapsed() >= retention && thing.remove_unowned(&self.shared, &self.claims).await? {
                cleaned.removed += 1;
            } else {
                seen.insert(thing, since);
            }
        }
        cleaned.waiting = seen.len();
        *unowned = seen;
        Ok(())
    }

    async fn disk_use(&self) -> Option<DiskUse> {
        let (home, limits) = (self.shared.home.clone(), self.shared.cleanup.get());
        let asked = tokio::task::spawn_blocking(move || health::disk_use(&home, &limits));
        // A disk that hangs says nothing, and holds up nothing.
        tokio::time::timeout(health::CHECK_MAX, asked).await.ok()?.ok()?
    }
}
