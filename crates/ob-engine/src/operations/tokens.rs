//! Tokens, and whose secret a request carries.

use ob_core::Principal;
use ob_core::Refusal;
use ob_core::RefusalCode;
use ob_core::operation::TokenCreate;
use ob_core::operation::TokenCreated;
use ob_core::operation::TokenTarget;
use ob_core::record::TokenRecord;
use ob_store::tokens;

use crate::Engine;

impl Engine {
    /// Whose secret this is. What is wrong with one that is not valid is not told.
    pub async fn authenticate(&self, secret: &str) -> Result<Principal, Refusal> {
        let found = self.shared.tokens.find(&tokens::hash(secret)).await;
        let record = found.map_err(|error| error.refusal())?.ok_or_else(invalid_token)?;
        if !record.is_valid_at(self.shared.now()) {
            return Err(invalid_token());
        }
        Ok(Principal::Token { id: record.id, scope: record.scope })
    }

    pub(super) async fn token_create(&self, params: TokenCreate) -> Result<TokenCreated, Refusal> {
        let mut random = [0; 40];
        self.shared.clock.random(&mut random);
        tokens::issue(&*self.shared.tokens, &params, self.shared.now(), random).await
    }

    pub(super) async fn token_list(&self) -> Result<Vec<TokenRecord>, Refusal> {
        self.shared.tokens.list().await.map_err(|error| error.refusal())
    }

    pub(super) async fn token_revoke(&self, params: TokenTarget) -> Result<TokenRecord, Refusal> {
        let revoked = self.shared.tokens.revoke(&params.token, self.shared.now()).await;
        let revoked = revoked.map_err(|error| error.refusal())?.ok_or_else(|| unknown(&params.token))?;
        self.standing.ring();
        Ok(revoked)
    }

    pub(super) async fn token_info(&self, params: TokenTarget) -> Result<TokenRecord, Refusal> {
        let found = self.shared.tokens.get(&params.token).await;
        found.map_err(|error| error.refusal())?.ok_or_else(|| unknown(&params.token))
    }
}

/// What is said of a secret that is not valid, whatever is wrong with it.
pub(crate) fn invalid_token() -> Refusal {
    Refusal::new(RefusalCode::Unauthenticated, "Invalid or expired token")
        .fix("make one with `oubliette token create`")
}

fn unknown(token: &str) -> Refusal {
    let shown: String = token.chars().take(64).collect();
    // A secret that was given in place of an id must not be repeated.
    let shown = if shown.starts_with("oub_") { "oub_…".to_owned() } else { shown };
    Refusal::not_found("token", shown).fix("list them with `oubliette token list`")
}
