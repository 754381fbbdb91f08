//! The audit in memory, with a fault on demand.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use ob_core::audit::AuditEntry;
use ob_core::audit::AuditRow;
use ob_core::audit::AuditVerdict;
use ob_store::StoreError;
use ob_store::audit::Audit;
use ob_store::audit::AuditPage;
use ob_store::audit::FIRST;
use ob_store::audit::link;

/// Entries in memory, chained as the real ones are.
#[derive(Debug, Default)]
pub struct MemoryAudit {
    entries: Mutex<Vec<AuditEntry>>,
    is_full: AtomicBool,
}

// === impl MemoryAudit ===

impl MemoryAudit {
    /// From now on nothing can be added, or it can again.
    pub fn set_full(&self, is_full: bool) {
        self.is_full.store(is_full, Ordering::Relaxed);
    }

    /// Everything, oldest first.
    pub fn rows(&self) -> Vec<AuditRow> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut seq, mut hash) = (0, FIRST);
        let row = |entry: &AuditEntry| {
            seq += 1;
            hash = link(&hash, seq, &serde_json::to_string(entry).expect("an entry is JSON"));
            AuditRow { seq, entry: entry.clone(), hash: hex::encode(hash) }
        };
        entries.iter().map(row).collect()
    }
}

#[async_trait]
impl Audit for MemoryAudit {
    async fn append(&self, entry: AuditEntry) -> Result<(), StoreError> {
        if self.is_full.load(Ordering::Relaxed) {
            return Err(StoreError::Full);
        }
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
        Ok(())
    }

    async fn page(&self, page: AuditPage, limit: usize) -> Result<Vec<AuditRow>, StoreError> {
        let rows = self.rows().into_iter();
        Ok(match page {
            AuditPage::After(seq) => rows.filter(|row| row.seq > seq).take(limit).collect(),
            AuditPage::Before(seq) => rows.rev().filter(|row| row.seq < seq).take(limit).collect(),
        })
    }

    async fn verify(&self) -> Result<AuditVerdict, StoreError> {
        let rows = self.rows();
        let entries = u64::try_from(rows.len()).unwrap_or(u64::MAX);
        let head = rows.last().map_or_else(|| hex::encode(FIRST), |row| row.hash.clone());
        Ok(AuditVerdict { intact: true, entries, head, faults: Vec::new() })
    }
}
