//! MCP sessions: bounded in number, each bound to who opened it, forgotten with what it followed when it ends.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use futures_util::Stream;
use futures_util::StreamExt as _;
use futures_util::stream;
use futures_util::stream::BoxStream;
use http::HeaderMap;
use http::HeaderValue;
use ob_core::Principal;
use ob_core::Refusal;
use ob_core::RefusalCode;
use rmcp::model::ClientJsonRpcMessage;
use rmcp::model::ServerJsonRpcMessage;
use rmcp::transport::streamable_http_server::session::ServerSseMessage;
use rmcp::transport::streamable_http_server::session::SessionId;
use rmcp::transport::streamable_http_server::session::SessionManager;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;

use super::follows::Follows;

/// MCP sessions of one listener at a time. One costs about 20 KiB.
const SESSIONS_MAX: usize = 1024;

/// MCP sessions of one token at a time, so that none can take them all.
const SESSIONS_OF_ONE_MAX: usize = 256;

/// An MCP session without a request for so long is over: its client went away without a word.
const IDLE_MAX: Duration = Duration::from_secs(60 * 60);

/// The MCP sessions of a listener: the library's, with who opened each.
pub(super) struct Sessions {
    library: LocalSessionManager,
    /// A std lock: held for one look-up, never across an await.
    bound: Mutex<HashMap<Box<str>, Bound>>,
}

struct Bound {
    owner: Principal,
    follows: Arc<Follows>,
}

// === impl Sessions ===

impl Default for Sessions {
    fn default() -> Self {
        let mut library = LocalSessionManager::default();
        library.session_config.keep_alive = Some(IDLE_MAX);
        Self { library, bound: Mutex::default() }
    }
}

impl Sessions {
    /// What an MCP session of this principal follows; nothing if it has no such session.
    pub(super) fn of(&self, session: &HeaderValue, principal: &Principal) -> Option<Arc<Follows>> {
        let bound = self.bound.lock().unwrap_or_else(PoisonError::into_inner);
        let found = bound.get(session.to_str().ok()?)?;
        (found.owner == *principal).then(|| Arc::clone(&found.follows))
    }

    /// Whether this principal may have one more.
    ///
    /// # Errors
    /// `limit_exceeded` if there are too many.
    pub(super) fn admit(&self, principal: &Principal) -> Result<(), Refusal> {
        let bound = self.bound.lock().unwrap_or_else(PoisonError::into_inner);
        let own = bound.values().filter(|session| session.owner == *principal).count();
        let (count, max, whose) = if own >= SESSIONS_OF_ONE_MAX {
            (own, SESSIONS_OF_ONE_MAX, "this token")
        } else {
            (bound.len(), SESSIONS_MAX, "this server")
        };
        if count < max {
            return Ok(());
        }
        Err(Refusal::new(RefusalCode::LimitExceeded, format!("{whose} has {count} MCP sessions, the most"))
            .fix("end some with DELETE, or wait: one that is idle for an hour ends"))
    }

    /// Notes who opened a session.
    pub(super) fn bind(&self, session: &HeaderValue, principal: &Principal) {
        let Ok(session) = session.to_str() else { return };
        let new = Bound { owner: principal.clone(), follows: Arc::new(Follows::default()) };
        self.bound.lock().unwrap_or_else(PoisonError::into_inner).insert(session.into(), new);
    }

    /// What the library tells the client of the session that a request names, without being asked: nothing so far, but
    /// what is late for the answer that it belongs to.
    pub(super) async fn unasked(&self, headers: &HeaderMap) -> BoxStream<'static, String> {
        let session = headers.get(super::SESSION).and_then(|id| id.to_str().ok());
        let Some(session) = session else { return stream::empty().boxed() };
        match self.library.create_standalone_stream(&SessionId::from(session)).await {
            Ok(messages) => messages
                .filter_map(|told| async move { serde_json::to_string(told.message.as_deref()?).ok() })
                .boxed(),
            Err(error) => {
                tracing::debug!(%error, "the MCP session ends");
                stream::empty().boxed()
            }
        }
    }

    fn forget(&self, session: &str) {
        drop(self.bound.lock().unwrap_or_else(PoisonError::into_inner).remove(session));
    }
}

/// The library's own, but for the end of a session, which it alone knows of.
impl SessionManager for Sessions {
    type Error = <LocalSessionManager as SessionManager>::Error;
    type Transport = <LocalSessionManager as SessionManager>::Transport;

    async fn create_session(&self) -> Result<(SessionId, Self::Transport), Self::Error> {
        self.library.create_session().await
    }

    async fn initialize_session(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<ServerJsonRpcMessage, Self::Error> {
        self.library.initialize_session(id, message).await
    }

    async fn has_session(&self, id: &SessionId) -> Result<bool, Self::Error> {
        self.library.has_session(id).await
    }

    async fn close_session(&self, id: &SessionId) -> Result<(), Self::Error> {
        self.forget(id);
        self.library.close_session(id).await
    }

    async fn create_stream(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        self.library.create_stream(id, message).await
    }

    async fn accept_message(&self, id: &SessionId, message: ClientJsonRpcMessage) -> Result<(), Self::Error> {
        self.library.accept_message(id, message).await
    }

    async fn create_standalone_stream(
        &self,
        id: &SessionId,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        self.library.create_standalone_stream(id).await
    }

    async fn resume(
        &self,
        id: &SessionId,
        last_event_id: String,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        self.library.resume(id, last_event_id).await
    }
}

#[cfg(test)]
mod tests {
    use ob_core::Scope;
    use ob_core::TokenId;

    use super::*;

    fn token(number: u64) -> Principal {
        Principal::Token { id: TokenId::new(number), scope: Scope::Admin }
    }

    #[test]
    fn a_session_is_there_for_who_opened_it_and_for_nobody_else() {
        let sessions = Sessions::default();
        let id = HeaderValue::from_static("some-session");
        sessions.bind(&id, &token(1));
        assert!(sessions.of(&id, &token(1)).is_some());
        assert!(sessions.of(&id, &token(2)).is_none());
        assert!(sessions.of(&id, &Principal::Operator).is_none());
        sessions.forget("some-session");
        assert!(sessions.of(&id, &token(1)).is_none());
    }

    #[test]
    fn one_token_cannot_take_all_sessions() {
        let sessions = Sessions::default();
        for number in 0..SESSIONS_OF_ONE_MAX {
            sessions.admit(&token(1)).expect("there is room");
            sessions.bind(&HeaderValue::try_from(format!("s{number}")).expect("a value"), &token(1));
        }
        let refusal = sessions.admit(&token(1)).expect_err("it has enough");
        assert_eq!(refusal.code, RefusalCode::LimitExceeded);
        sessions.admit(&token(2)).expect("others have room");
        sessions.forget("s0");
        sessions.admit(&token(1)).expect("one ended");
    }
}
