//! The audit, in a database of its own (`audit.db`): added to, read, and checked; never changed.

use std::sync::Arc;

use async_trait::async_trait;
use ob_core::Principal;
use ob_core::Timestamp;
use ob_core::audit::Asker;
use ob_core::audit::AuditEntry;
use ob_core::audit::AuditRow;
use ob_core::audit::AuditVerdict;
use ob_core::audit::about;
use ob_core::operation::Operation;
use ob_core::record::TokenRecord;
use serde_json::Value;
use serde_json::json;
use sha2::Digest as _;
use sha2::Sha256;

use crate::StoreError;
use crate::tokens::SecretHash;
use crate::tokens::SharedTokens;
use crate::tokens::Tokens;

/// The hash before the first entry.
pub const FIRST: [u8; 32] = [0; 32];

/// Which entries to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditPage {
    /// Those with a higher number, oldest first.
    After(u64),
    /// Those with a lower number, newest first.
    Before(u64),
}

/// Where the audit is kept. Several processes may add to it: the server, and `oubliette token` beside it.
#[async_trait]
pub trait Audit: Send + Sync + 'static {
    /// Adds an entry. When this returns, no crash undoes it.
    async fn append(&self, entry: AuditEntry) -> Result<(), StoreError>;
    /// Some entries.
    async fn page(&self, page: AuditPage, limit: usize) -> Result<Vec<AuditRow>, StoreError>;
    /// Looks at every entry.
    async fn verify(&self) -> Result<AuditVerdict, StoreError>;
}

/// An audit that everyone shares.
pub type SharedAudit = Arc<dyn Audit>;

/// Tokens whose every change is in the audit before it is made: for whoever changes them without a server.
pub struct AuditedTokens {
    /// Where they are.
    pub tokens: SharedTokens,
    /// Where it is told.
    pub audit: SharedAudit,
}

// === impl AuditedTokens ===

impl AuditedTokens {
    async fn tell(&self, at: Timestamp, operation: Operation, params: &Value) -> Result<(), StoreError> {
        let asker = Asker::from(&Principal::Operator);
        self.audit.append(AuditEntry::permitted(at, &asker, operation, &about(params))).await
    }
}

#[async_trait]
impl Tokens for AuditedTokens {
    async fn create(&self, record: TokenRecord, hash: SecretHash) -> Result<bool, StoreError> {
        let params = json!({ "name": record.name, "scope": record.scope });
        self.tell(record.created_at, Operation::TokenCreate, &params).await?;
        self.tokens.create(record, hash).await
    }

    async fn find(&self, hash: &SecretHash) -> Result<Option<TokenRecord>, StoreError> {
        self.tokens.find(hash).await
    }

    async fn list(&self) -> Result<Vec<TokenRecord>, StoreError> {
        self.tokens.list().await
    }

    async fn get(&self, id_or_name: &str) -> Result<Option<TokenRecord>, StoreError> {
        self.tokens.get(id_or_name).await
    }

    fn revision(&self) -> Result<u64, StoreError> {
        self.tokens.revision()
    }

    async fn revoke(&self, id_or_name: &str, at: Timestamp) -> Result<Option<TokenRecord>, StoreError> {
        self.tell(at, Operation::TokenRevoke, &json!({ "token": id_or_name })).await?;
        self.tokens.revoke(id_or_name, at).await
    }
}

/// The hash of an entry: over the one before, its number and its text.
pub fn link(before: &[u8; 32], seq: u64, entry: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(before);
    hash.update(seq.to_be_bytes());
    hash.update(entry.as_bytes());
    hash.finalize().into()
}
