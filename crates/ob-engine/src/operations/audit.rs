//! The audit: reading it, and what comes into it from the doors.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use ob_core::Refusal;
use ob_core::Timestamp;
use ob_core::audit::AuditEntry;
use ob_core::audit::AuditRow;
use ob_core::audit::AuditVerdict;
use ob_core::operation::AuditExport;
use ob_core::operation::AuditExported;
use ob_core::operation::AuditFormat;
use ob_core::operation::AuditList;
use ob_store::audit::AuditPage;
use serde_json::Value;

use super::Asked;
use crate::Engine;

/// Entries of a list, if nobody says how many.
const LIST: u32 = 100;

/// The most entries of one answer.
const PAGE_MAX: u32 = 1000;

/// Failed logins that are written one by one within [`LOGINS_EVERY`]. More of them are counted in the next entry, since whoever
/// guesses must not fill the disk.
const LOGINS: u32 = 20;
const LOGINS_EVERY: Duration = Duration::from_secs(1);

/// What is written of failed logins, and what is only counted. A std lock: held for a few additions.
#[derive(Debug, Default)]
pub(crate) struct FailedLogins(Mutex<Window>);

#[derive(Debug, Default)]
struct Window {
    began: Timestamp,
    written: u32,
    counted: u64,
}

// === impl FailedLogins ===

impl FailedLogins {
    /// One more: how many were only counted before it, or nothing if this one is only counted too.
    fn one(&self, now: Timestamp) -> Option<u64> {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A clock that was set back begins a new window as well.
        if now.since(window.began) >= LOGINS_EVERY || now < window.began {
            (window.began, window.written) = (now, 0);
        }
        if window.written == LOGINS {
            window.counted += 1;
            return None;
        }
        window.written += 1;
        Some(std::mem::take(&mut window.counted))
    }
}

// === impl Engine ===

impl Engine {
    /// Does it, and writes into the audit if it was refused.
    pub(super) async fn perform_audited(
        self: &Arc<Self>,
        asked: &Asked,
        params: Value,
    ) -> Result<Value, Refusal> {
        let outcome = self.perform(asked, params).await;
        if let Err(refusal) = &outcome {
            self.audit_refusal(asked, refusal).await;
        }
        outcome
    }

    /// Tells the audit of a request without a valid token.
    pub async fn login_failed(&self, request: Option<String>, address: Option<IpAddr>) {
        let now = self.shared.now();
        if let Some(and_more) = self.failed_logins.one(now) {
            self.audit(AuditEntry::login_failed(now, request, address, and_more)).await;
        }
    }

    pub(super) async fn audit_list(&self, params: AuditList) -> Result<Vec<AuditRow>, Refusal> {
        let limit = limited(params.limit, LIST)?;
        let page = AuditPage::Before(params.before.unwrap_or(u64::MAX));
        self.shared.audit.page(page, limit).await.map_err(|error| error.refusal())
    }

    pub(super) async fn audit_verify(&self) -> Result<AuditVerdict, Refusal> {
        self.shared.audit.verify().await.map_err(|error| error.refusal())
    }

    pub(super) async fn audit_export(&self, params: AuditExport) -> Result<AuditExported, Refusal> {
        let limit = limited(params.limit, PAGE_MAX)?;
        let rows = self.shared.audit.page(AuditPage::After(params.after), limit).await;
        let rows = rows.map_err(|error| error.refusal())?;
        let last = rows.last().map_or(params.after, |row| row.seq);
        let entries = rows.iter().map(|row| match params.format {
            AuditFormat::Ocsf => Ok(row.ocsf()),
            AuditFormat::Json => super::answer(row),
        });
        Ok(AuditExported { entries: entries.collect::<Result<_, _>>()?, last })
    }
}

fn limited(given: Option<u32>, unset: u32) -> Result<usize, Refusal> {
    let limit = given.unwrap_or(unset);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(Refusal::invalid(format!("`limit` is {limit}, and may be 1 to {PAGE_MAX}"))
            .fix("ask for less and go on from the last one"));
    }
    Ok(usize::try_from(limit).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_failed_logins_is_counted_and_not_written() {
        let logins = FailedLogins::default();
        let at = |seconds: i64| Timestamp::from_micros(1_795_000_000_000_000 + seconds * 1_000_000);
        let written = (0..1000).filter_map(|_| logins.one(at(0))).collect::<Vec<_>>();
        assert_eq!(written, vec![0; 20]);
        assert_eq!(logins.one(at(1)), Some(980), "the next one tells of them");
        assert_eq!(logins.one(at(1)), Some(0));
        assert_eq!(logins.one(at(-100)), Some(0), "a clock that was set back silences nobody");
    }
}
