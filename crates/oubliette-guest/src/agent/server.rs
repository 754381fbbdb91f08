//! The server: methods in, sessions and their turns, responses out.
//!
//! One task owns the sessions. A turn takes its session with it and brings it back, so no session is shared.

use std::collections::HashMap;
use std::path::Path;
use std::rc::Rc;

use agent_client_protocol_schema::ProtocolVersion;
use agent_client_protocol_schema::v1::AGENT_METHOD_NAMES;
use agent_client_protocol_schema::v1::AgentCapabilities;
use agent_client_protocol_schema::v1::CancelNotification;
use agent_client_protocol_schema::v1::Error;
use agent_client_protocol_schema::v1::ErrorCode;
use agent_client_protocol_schema::v1::Implementation;
use agent_client_protocol_schema::v1::InitializeRequest;
use agent_client_protocol_schema::v1::InitializeResponse;
use agent_client_protocol_schema::v1::LoadSessionRequest;
use agent_client_protocol_schema::v1::LoadSessionResponse;
use agent_client_protocol_schema::v1::NewSessionRequest;
use agent_client_protocol_schema::v1::NewSessionResponse;
use agent_client_protocol_schema::v1::PromptCapabilities;
use agent_client_protocol_schema::v1::PromptRequest;
use agent_client_protocol_schema::v1::PromptResponse;
use agent_client_protocol_schema::v1::RequestId;
use agent_client_protocol_schema::v1::SessionId;
use agent_client_protocol_schema::v1::StopReason;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::model::Client;
use super::options::Options;
use super::rpc;
use super::rpc::Incoming;
use super::rpc::Line;
use super::rpc::Outbox;
use super::session;
use super::session::Session;
use super::transcript::OpenError;
use super::turn;
use super::turn::Turn;

/// The most sessions of one process; each holds its transcript in memory.
const MAX_SESSIONS: usize = 16;
/// What a cancelled turn leaves behind in the transcript.
const CANCELLED: &str = "stopped by the user";

/// Serves one client.
pub(crate) struct Server {
    options: Rc<Options>,
    model: Rc<Client>,
    out: Outbox,
    sessions: HashMap<SessionId, Slot>,
    turns: JoinSet<Finished>,
}

/// Where a session is.
enum Slot {
    /// Here.
    Idle(Box<Session>),
    /// With its turn; this stops the turn.
    Busy(CancellationToken),
}

/// A turn that is over.
struct Finished {
    session: Box<Session>,
    request: RequestId,
    result: Result<StopReason, Error>,
}

// === impl Server ===

impl Server {
    pub(crate) fn new(options: Options, out: Outbox) -> Self {
        let model = Rc::new(Client::new(options.endpoint.clone(), options.idle_timeout));
        Self { options: Rc::new(options), model, out, sessions: HashMap::new(), turns: JoinSet::new() }
    }

    /// Serves until there are no more lines. Turns that are under way then are dropped.
    pub(crate) async fn serve(mut self, mut lines: mpsc::Receiver<Line>) {
        loop {
            tokio::select! {
                line = lines.recv() => match line {
                    Some(line) => self.take(line).await,
                    None => break,
                },
                Some(turn) = self.turns.join_next() => match turn {
                    Ok(finished) => self.finish(finished).await,
                    // Nothing aborts turns while we serve, so this one panicked.
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                },
            }
        }
        self.turns.shutdown().await;
    }

    async fn take(&mut self, line: Line) {
        let incoming = match line {
            Line::Whole(line) => rpc::parse(&line),
            Line::TooLong => {
                let why = format!("a line may have {} bytes at most", rpc::MAX_LINE);
                Incoming::Malformed(RequestId::Null, Error::invalid_request().data(Value::from(why)))
            }
        };
        match incoming {
            Incoming::Request { id, method, params } => {
                if method == AGENT_METHOD_NAMES.session_prompt {
                    // Answered when its turn is over, unless it cannot begin.
                    if let Err(error) = self.prompt(id.clone(), params) {
                        self.out.respond(id, Err(error)).await;
                    }
                } else {
                    let result = self.call(&method, params).await;
                    self.out.respond(id, result).await;
                }
            }
            Incoming::Notification { method, params } => {
                if method == AGENT_METHOD_NAMES.session_cancel {
                    self.cancel(params);
                }
            }
            Incoming::Malformed(id, error) => self.out.respond(id, Err(error)).await,
            Incoming::Nothing => {}
        }
    }

    async fn call(&mut self, method: &str, params: Value) -> Result<Value, Error> {
        if method == AGENT_METHOD_NAMES.initialize {
            answer(&initialize(&parse(params)?))
        } else if method == AGENT_METHOD_NAMES.session_new {
            answer(&self.new_session(parse(params)?)?)
        } else if method == AGENT_METHOD_NAMES.session_load {
            answer(&self.load_session(parse(params)?).await?)
        } else {
            Err(Error::method_not_found().data(json!({ "method": method })))
        }
    }

    fn new_session(&mut self, request: NewSessionRequest) -> Result<NewSessionResponse, Error> {
        check(&request.cwd, request.mcp_servers.is_empty())?;
        self.make_room()?;
        let session = Session::create(&self.options.home, request.cwd, self.options.context_tokens)
            .map_err(|error| unusable(&error))?;
        let id = session.id.clone();
        self.sessions.insert(id.clone(), Slot::Idle(Box::new(session)));
        Ok(NewSessionResponse::new(id))
    }

    async fn load_session(&mut self, request: LoadSessionRequest) -> Result<LoadSessionResponse, Error> {
        check(&request.cwd, request.mcp_servers.is_empty())?;
        let id = request.session_id;
        if let Some(Slot::Busy(_)) = self.sessions.get(&id) {
            return Err(invalid("a turn of this session is under way; cancel it first"));
        }
        // Its lock is free only when it is dropped.
        self.sessions.remove(&id);
        self.make_room()?;
        let mut session = Session::load(&self.options.home, &id.0, request.cwd, self.options.context_tokens)
            .map_err(|error| match error {
                OpenError::Missing => Error::session_not_found(id.clone()),
                other => unusable(&other),
            })?;
        session.replay(&self.out).await;
        self.sessions.insert(id, Slot::Idle(Box::new(session)));
        Ok(LoadSessionResponse::new())
    }

    /// Starts a turn.
    fn prompt(&mut self, request: RequestId, params: Value) -> Result<(), Error> {
        let prompt: PromptRequest = parse(params)?;
        let id = prompt.session_id;
        let text = session::prompt_text(prompt.prompt).map_err(invalid)?;
        let cancelled = CancellationToken::new();
        let slot = self.sessions.get_mut(&id).ok_or_else(|| Error::session_not_found(id.clone()))?;
        let mut session = match std::mem::replace(slot, Slot::Busy(cancelled.clone())) {
            Slot::Idle(session) => session,
            busy @ Slot::Busy(_) => {
                *slot = busy;
                return Err(invalid("a turn of this session is under way; wait for it or cancel it"));
            }
        };
        let out = self.out.clone();
        let model = Rc::clone(&self.model);
        let options = Rc::clone(&self.options);
        self.turns.spawn_local(async move {
            let turn = Turn { out: &out, model: &model, options: &options };
            let ended = tokio::select! {
                biased;
                () = cancelled.cancelled() => None,
                ended = turn.run(&mut session, text) => Some(ended),
            };
            let closing = match &ended {
                Some(Ok(_)) => Ok(()),
                Some(Err(error)) => session.abandon(&out, &format!("stopped: {error}")).await,
                None => session.abandon(&out, CANCELLED).await,
            };
            let result = match (ended, closing) {
                (Some(Err(error)), _) => Err(error.into()),
                (_, Err(error)) => Err(turn::TurnError::Transcript(error).into()),
                (Some(Ok(stop)), Ok(())) => Ok(stop),
                (None, Ok(())) => Ok(StopReason::Cancelled),
            };
            Finished { session, request, result }
        });
        Ok(())
    }

    async fn finish(&mut self, finished: Finished) {
        let Finished { session, request, result } = finished;
        self.sessions.insert(session.id.clone(), Slot::Idle(session));
        let result = result.and_then(|stop| answer(&PromptResponse::new(stop)));
        self.out.respond(request, result).await;
    }

    /// A notification that makes no sense has no one to be told to.
    fn cancel(&mut self, params: Value) {
        if let Ok(notification) = serde_json::from_value::<CancelNotification>(params)
            && let Some(Slot::Busy(cancelled)) = self.sessions.get(&notification.session_id)
        {
            cancelled.cancel();
        }
    }

    /// Lets an idle session go if there are too many; it can be loaded again.
    fn make_room(&mut self) -> Result<(), Error> {
        if self.sessions.len() < MAX_SESSIONS {
            return Ok(());
        }
        let idle = self.sessions.iter().find(|(_, slot)| matches!(slot, Slot::Idle(_)));
        match idle.map(|(id, _)| id.clone()) {
            Some(id) => {
                self.sessions.remove(&id);
                Ok(())
            }
            None => Err(invalid("too many sessions work at once; cancel one")),
        }
    }
}

fn initialize(_request: &InitializeRequest) -> InitializeResponse {
    // We speak this version only; a client that does not will say so and leave.
    InitializeResponse::new(ProtocolVersion::V1)
        .agent_capabilities(
            AgentCapabilities::new()
                .load_session(true)
                .prompt_capabilities(PromptCapabilities::new().embedded_context(true)),
        )
        .agent_info(Implementation::new("oubliette-agent", env!("CARGO_PKG_VERSION")))
}

fn check(cwd: &Path, is_without_servers: bool) -> Result<(), Error> {
    if !turn::is_workable(cwd) {
        return Err(invalid(&format!(
            "`cwd` must be an existing folder with an absolute path, not `{}`",
            cwd.display()
        )));
    }
    if !is_without_servers {
        return Err(invalid("this agent connects to no MCP servers; leave `mcpServers` empty"));
    }
    Ok(())
}

fn parse<T: DeserializeOwned>(params: Value) -> Result<T, Error> {
    serde_json::from_value(params).map_err(|error| invalid(&error.to_string()))
}

fn answer(response: &impl Serialize) -> Result<Value, Error> {
    serde_json::to_value(response).map_err(Error::into_internal_error)
}

fn invalid(why: &str) -> Error {
    Error::new(ErrorCode::InvalidParams.into(), why)
}

fn unusable(error: &OpenError) -> Error {
    let message = match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    Error::new(ErrorCode::InternalError.into(), message)
}
