//! The gate: the only way out of a sandbox. One unix socket for each session, and the socket is the identity.
//!
//! It carries the guest link (an upgrade) and the model routes. Keys are added outside; what a call may cost is reserved
//! before it is made and settled when it is known.

use std::path::Path;
use std::sync::Arc;

use ob_core::Refusal;
use ob_core::SessionId;
use ob_core::TreeId;
use ob_core::model::ModelRef;
use ob_sandbox::link::Guest;
use ob_store::Epoch;
use ob_store::SharedStore;

/// What all gates of a server share.
pub struct Gates {
    _private: (),
}

/// Whose gate it is.
#[derive(Clone, Debug)]
pub struct GateSession {
    /// The session.
    pub id: SessionId,
    /// The tree that pays.
    pub tree: TreeId,
    /// The model that its agent uses, whatever it asks for.
    pub model: ModelRef,
    /// The owner's epoch, for the fence of each commit.
    pub epoch: Epoch,
    /// The uid that may connect: that of the sandbox.
    pub peer_uid: u32,
}

/// An open gate; dropping it closes the socket and cuts what runs through it.
pub struct OpenGate {
    _private: (),
}

// === impl Gates ===

impl Gates {
    /// Gates over this store and these models.
    pub fn new(_store: SharedStore, _models: Arc<models::Models>) -> Self {
        todo!()
    }

    /// Opens the gate of a session: listens on `dir/gate.sock`, replacing a socket that an earlier server left. Link
    /// connections go to `guest`.
    pub async fn open(&self, _dir: &Path, _session: GateSession, _guest: Guest) -> std::io::Result<OpenGate> {
        todo!()
    }
}

pub mod models {
    //! Which provider answers for a model, and with what key. The only place that holds keys.

    use super::ModelRef;
    use super::Refusal;

    /// The models of this server.
    pub struct Models {
        _private: (),
    }

    /// A provider, ready to be asked.
    #[derive(Clone)]
    pub struct Provider {
        /// The base URL, with `/v1`.
        pub base_url: String,
        /// The key. Has no `Debug`.
        pub api_key: Option<secrecy::SecretString>,
        /// Added to each request.
        pub extra_headers: Vec<(String, String)>,
        /// The most tokens of one answer; part of the reservation.
        pub max_output_tokens: u32,
        /// What it costs.
        pub price: Option<ob_core::model::Price>,
    }

    // === impl Models ===

    impl Models {
        /// No models yet.
        pub fn new() -> Self {
            todo!()
        }

        /// Adds or replaces the provider that answers for this model.
        pub fn put(&self, _model: ModelRef, _provider: Provider) {
            todo!()
        }

        /// The provider that answers for this model, or why there is none.
        pub fn provider(&self, _model: &ModelRef) -> Result<Provider, Refusal> {
            todo!()
        }
    }

    impl Default for Models {
        fn default() -> Self {
            Self::new()
        }
    }
}
