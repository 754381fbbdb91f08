//! Tokens, in a database of their own (`auth.db`). Only hashes of secrets are kept.

use std::sync::Arc;

use async_trait::async_trait;
use ob_core::Timestamp;
use ob_core::record::TokenRecord;

use crate::StoreError;

/// SHA-256 of a token's whole secret text.
pub type SecretHash = [u8; 32];

/// Where tokens are kept. Several processes may have it open: the server, and `oubliette token` beside it.
#[async_trait]
pub trait Tokens: Send + Sync + 'static {
    /// Adds a token; refuses (`false`) if one that is not revoked has its name.
    async fn create(&self, record: TokenRecord, hash: SecretHash) -> Result<bool, StoreError>;
    /// The token whose secret has this hash, valid or not. Sees at once what another process changed.
    async fn find(&self, hash: &SecretHash) -> Result<Option<TokenRecord>, StoreError>;
    /// All tokens, newest first.
    async fn list(&self) -> Result<Vec<TokenRecord>, StoreError>;
    /// The token with this public id, or the newest with this name.
    async fn get(&self, id_or_name: &str) -> Result<Option<TokenRecord>, StoreError>;
    /// Revokes by public id or name; twice is fine. `None` if there is no such token.
    async fn revoke(&self, id_or_name: &str, at: Timestamp) -> Result<Option<TokenRecord>, StoreError>;
}

/// Tokens that everyone shares.
pub type SharedTokens = Arc<dyn Tokens>;
