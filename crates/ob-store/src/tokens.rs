//! Tokens, in a database of their own (`auth.db`). Only hashes of secrets are kept.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ob_core::Refusal;
use ob_core::Timestamp;
use ob_core::TokenId;
use ob_core::operation::TokenCreate;
use ob_core::operation::TokenCreated;
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
    /// A number that is another one after any process changed anything. Takes microseconds.
    fn revision(&self) -> Result<u64, StoreError>;
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

/// Makes a token. The only place where one is made: the server and the command line both call it.
pub async fn issue(
    tokens: &dyn Tokens,
    params: &TokenCreate,
    now: Timestamp,
    random: [u8; 40],
) -> Result<TokenCreated, Refusal> {
    let name = &params.name;
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    if !(1..=64).contains(&name.len()) || !name.bytes().all(fits) {
        let shown: String = name.chars().take(80).collect();
        return Err(
            Refusal::invalid(format!("`{shown}` is not a token name")).fix("use 1 to 64 of `a-z0-9._-`")
        );
    }
    let (id, secret) = random.split_at(8);
    let id = u64::from_ne_bytes(id.try_into().expect("split at 8"));
    let secret = new_secret(secret.try_into().expect("32 are left"));
    let record = TokenRecord {
        id: TokenId::new(id),
        name: name.clone(),
        scope: params.scope,
        created_at: now,
        expires_at: params.expires_in_s.map(|seconds| now.saturating_add(Duration::from_secs(seconds))),
        revoked_at: None,
    };
    match tokens.create(record.clone(), hash(&secret)).await {
        Ok(true) => Ok(TokenCreated { record, secret }),
        Ok(false) => Err(Refusal::conflict(format!("a token `{name}` exists"))
            .fix("choose another name, or revoke that one first with `oubliette token revoke`")),
        Err(error) => Err(error.refusal()),
    }
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
