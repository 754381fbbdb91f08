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

/// The secret of a new token: `oub_` and 64 hexadecimal digits of these random bytes.
pub fn new_secret(random: [u8; 32]) -> String {
    format!("oub_{}", hex::encode(random))
}

/// What is kept of a secret.
pub fn hash(secret: &str) -> SecretHash {
    use sha2::Digest as _;
    sha2::Sha256::digest(secret.as_bytes()).into()
}

#[cfg(test)]
mod secret_tests {
    use super::*;

    #[test]
    fn a_secret_has_its_form_and_its_hash_is_of_the_whole_text() {
        let secret = new_secret([0xab; 32]);
        assert_eq!((secret.len(), &secret[..8]), (68, "oub_abab"));
        assert_eq!(
            hex::encode(hash("abc")),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
