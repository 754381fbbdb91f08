//! What the store says, as a refusal that people may see.

use ob_core::Refusal;
use ob_core::RefusalCode;
use ob_store::StoreError;

/// The refusal for a store's error. Details that are not for showing go to the log.
pub(crate) fn store(error: &StoreError) -> Refusal {
    match error {
        StoreError::OverLimit(over) => Refusal::new(RefusalCode::LimitExceeded, over.to_string())
            .fix("raise the project's `max_cost_usd`, or start a new session"),
        StoreError::Fenced { session } => {
            Refusal::unavailable(format!("session `{session}` is owned by another server"))
                .fix("ask that server")
        }
        StoreError::Missing { kind, id } => Refusal::not_found(kind, id),
        StoreError::Full => Refusal::unavailable("the disk of the home is full; nothing was lost")
            .fix("free some space, then try again"),
        StoreError::Closed => Refusal::unavailable("the server is stopping").fix("try again when it is back"),
        StoreError::Engine { message } => {
            tracing::error!(%message, "the store failed");
            Refusal::unavailable("the database cannot be written or read")
                .fix("see the log, and `oubliette doctor`")
        }
    }
}
