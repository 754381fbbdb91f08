//! A turn: ask the model, do what it wants, tell it the results, until it wants nothing more.
//!
//! ```text
//!   prompt -> ask -> answer without calls ----------------------> end of turn
//!              ^        | calls: announce, run, write down, tell
//!              +--------+
//! ```
//!
//! A turn may be dropped at any await. Whatever it has announced and not settled is then closed by
//! [`Session::abandon`].

use std::io;
use std::path::Path;
use std::time::Duration;

use agent_client_protocol_schema::v1::Error;
use agent_client_protocol_schema::v1::ErrorCode;
use agent_client_protocol_schema::v1::SessionUpdate;
use agent_client_protocol_schema::v1::StopReason;
use agent_client_protocol_schema::v1::ToolCallStatus;
use agent_client_protocol_schema::v1::ToolCallUpdate;
use agent_client_protocol_schema::v1::ToolCallUpdateFields;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
use serde_json::json;
use tokio::time::Instant;
use tokio::time::sleep;

use super::model::Answer;
use super::model::Client;
use super::model::Finish;
use super::model::Message;
use super::model::ModelError;
use super::model::Piece;
use super::model::Request;
use super::model::StreamOptions;
use super::options::Options;
use super::prompt;
use super::repetition;
use super::repetition::Repetition;
use super::repetition::Verdict;
use super::rpc::Outbox;
use super::session;
use super::session::Session;
use super::tools::Outcome;
use super::tools::Place;
use super::tools::Tool;
use super::transcript::Call;
use super::transcript::Item;

/// The most answers of the model in one turn.
const MAX_ANSWERS: usize = 100;
/// How often a failed model call is repeated.
const MAX_RETRIES: u32 = 3;
/// The longest wait between two attempts to reach the model.
const LONGEST_BACKOFF: Duration = Duration::from_secs(8);
/// Read-only calls that run at once. Each may take a thread.
const AT_ONCE: usize = 6;

/// Why a turn could not go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TurnError {
    /// The model failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The transcript cannot be written. Going on would mean forgetting.
    #[error("the transcript cannot be written: {0}")]
    Transcript(#[from] io::Error),
    /// The model does the same thing over and over.
    #[error(
        "the model repeats itself: `{tool}` gave the same result again and again, also after it was told"
    )]
    Repetition {
        /// The call's title.
        tool: String,
    },
}

/// What a turn works with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn<'a> {
    pub(crate) out: &'a Outbox,
    pub(crate) model: &'a Client,
    pub(crate) options: &'a Options,
}

// === impl Turn ===

impl Turn<'_> {
    /// Runs until the model stops.
    pub(crate) async fn run(self, session: &mut Session, prompt: String) -> Result<StopReason, TurnError> {
        session.transcript.append(Item::User { text: prompt })?;
        let system = prompt::system(&session.cwd, self.options.tools.as_deref());
        let mut repetition = Repetition::default();
        for _ in 0..MAX_ANSWERS {
            let answer = self.ask(session, &system).await?;
            let stop = match answer.finish {
                Finish::Done if answer.calls.is_empty() => Some(StopReason::EndTurn),
                Finish::Done => None,
                // The last call is cut, and the others may depend on it.
                Finish::Length => Some(StopReason::MaxTokens),
                Finish::Refused => Some(StopReason::Refusal),
            };
            let calls = if stop.is_some() { Vec::new() } else { session.unique(answer.calls) };
            session.partial.clear();
            if !answer.text.is_empty() || !calls.is_empty() {
                session.transcript.append(Item::Assistant { text: answer.text, calls: calls.clone() })?;
            }
            if let Some(stop) = stop {
                return Ok(stop);
            }
            self.work(session, calls, &mut repetition).await?;
        }
        Ok(StopReason::MaxTurnRequests)
    }

    /// Gets a whole answer. A conversation that is longer than the model takes is shortened, as long as that helps.
    async fn ask(self, session: &mut Session, system: &str) -> Result<Answer, TurnError> {
        let tools = &*self.options.schema();
        let fixed = system.len() + tools.to_string().len();
        let mut refused = usize::MAX;
        loop {
            let mut messages = vec![Message::System { content: system.to_owned() }];
            messages.extend(session.window.messages(session.transcript.items(), fixed));
            let request = Request {
                model: &self.options.model,
                messages: &messages,
                tools,
                reasoning_effort: self.options.reasoning.as_deref(),
                stream: true,
                stream_options: StreamOptions { include_usage: true },
            };
            // Strings and numbers only; this cannot fail.
            let request = Bytes::from(serde_json::to_vec(&request).map_err(io::Error::other)?);
            drop(messages);
            match self.persist(session, request).await {
                Ok(answer) => {
                    session.window.measured(answer.request_tokens);
                    return Ok(answer);
                }
                Err(error) if error.is_overflow() && session.window.sent() < refused => {
                    refused = session.window.sent();
                    session.window.overflowed();
                    let note =
                        session.chunk(format!("{error}; asking again with less of the conversation\n"));
                    self.out.update(&session.id, SessionUpdate::AgentThoughtChunk(note)).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Asks until there is an answer. A call that failed in passing is repeated: nothing was done because of it yet.
    async fn persist(self, session: &mut Session, request: Bytes) -> Result<Answer, ModelError> {
        let mut retries = 0;
        let mut unreachable_since = None;
        let mut waits = Backoff::new(self.options.retry_wait);
        loop {
            let error = match self.attempt(session, request.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if error.is_unreachable() {
                let since = *unreachable_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= self.options.patience {
                    return Err(error);
                }
                sleep(waits.next()).await;
                continue;
            }
            unreachable_since = None;
            if !error.is_transient() || retries == MAX_RETRIES {
                return Err(error);
            }
            retries += 1;
            let note = format!("{error}; asking again ({retries} of {MAX_RETRIES})\n");
            let note = session.chunk(note);
            self.out.update(&session.id, SessionUpdate::AgentThoughtChunk(note)).await;
            sleep(waits.next().max(error.retry_after())).await;
        }
    }

    /// Asks once, and shows the answer as it comes.
    async fn attempt(self, session: &mut Session, request: Bytes) -> Result<Answer, ModelError> {
        session.begin_message();
        let mut stream = self.model.ask(request).await?;
        loop {
            let piece = match stream.next().await? {
                Ok(piece) => piece,
                Err(answer) => return Ok(answer),
            };
            let room = self.out.room().await;
            match piece {
                Piece::Text(text) => {
                    session.partial.push_str(&text);
                    room.update(&session.id, SessionUpdate::AgentMessageChunk(session.chunk(text)));
                }
                Piece::Thought(text) => {
                    room.update(&session.id, SessionUpdate::AgentThoughtChunk(session.chunk(text)));
                }
            }
        }
    }

    /// Makes the calls of one answer: read-only ones that stand together at once, others one after the other.
    async fn work(
        self,
        session: &mut Session,
        calls: Vec<Call>,
        repetition: &mut Repetition,
    ) -> Result<(), TurnError> {
        let mut queue = Vec::with_capacity(calls.len());
        for call in calls {
            let tool =
                self.options.permit(&call.name).and_then(|()| Tool::parse(&call.name, &call.arguments));
            let announced = session::announcement(&call, tool.as_ref().ok(), &session.cwd);
            self.out.update(&session.id, SessionUpdate::ToolCall(announced)).await;
            queue.push((call, tool));
        }
        let mut queue = queue.into_iter().peekable();
        while let Some(first) = queue.next() {
            let is_read_only =
                |(_, tool): &(Call, Result<Tool, String>)| tool.as_ref().is_ok_and(Tool::is_read_only);
            let mut together = vec![first];
            if is_read_only(&together[0]) {
                while let Some(next) = queue.next_if(is_read_only) {
                    together.push(next);
                }
            }
            for (call, _) in together.iter().filter(|(_, tool)| tool.is_ok()) {
                let fields = ToolCallUpdateFields::new().status(ToolCallStatus::InProgress);
                let update = ToolCallUpdate::new(call.id.clone(), fields);
                self.out.update(&session.id, SessionUpdate::ToolCallUpdate(update)).await;
            }
            let place = &Place { cwd: session.cwd.clone(), outputs: session.outputs.clone() };
            let mut outcomes = stream::iter(together)
                .map(|(call, tool)| async move {
                    let title = tool.as_ref().map_or_else(|_| call.name.clone(), Tool::title);
                    let plan = tool.as_ref().ok().and_then(Tool::plan);
                    let outcome = match tool {
                        Ok(tool) => tool.call(place.clone()).await,
                        Err(text) => Outcome { text, ..Outcome::default() },
                    };
                    (call, title, plan, outcome)
                })
                .buffered(AT_ONCE);
            while let Some((call, title, plan, mut outcome)) = outcomes.next().await {
                let verdict = repetition.observe(&call.name, &call.arguments, &outcome.text);
                if verdict == Verdict::Tell {
                    outcome.text.push_str(&told());
                }
                if let Some(rest) = outcome.rest.take() {
                    outcome.text.push('\n');
                    outcome.text.push_str(&rest);
                }
                session.settle(self.out, &call.id, &outcome).await?;
                if let Some(plan) = plan {
                    self.out.update(&session.id, SessionUpdate::Plan(plan)).await;
                }
                if verdict == Verdict::Stop {
                    return Err(TurnError::Repetition { tool: title });
                }
            }
        }
        Ok(())
    }
}

/// Waits that double.
struct Backoff(Duration);

// === impl Backoff ===

impl Backoff {
    fn new(first: Duration) -> Self {
        Self(first)
    }

    fn next(&mut self) -> Duration {
        let wait = self.0.min(LONGEST_BACKOFF);
        self.0 = wait * 2;
        wait
    }
}

// === impl TurnError ===

impl From<TurnError> for Error {
    fn from(error: TurnError) -> Self {
        let (code, fix) = match &error {
            TurnError::Model(error) => (error.code(), error.fix()),
            TurnError::Transcript(_) => ("transcript_unwritable", "free some space in the agent's home"),
            TurnError::Repetition { .. } => {
                ("model_repeats", "say what it should try instead, or use another model")
            }
        };
        let status = match &error {
            TurnError::Model(error) => error.status(),
            _ => None,
        };
        let mut message = error.to_string();
        if !fix.is_empty() {
            message.push_str("; ");
            message.push_str(fix);
        }
        let data = json!({"code": code, "fix": fix, "status": status});
        Self::new(ErrorCode::InternalError.into(), message).data(data)
    }
}

/// True if a folder can be worked in.
pub(crate) fn is_workable(cwd: &Path) -> bool {
    cwd.is_absolute() && cwd.is_dir()
}

fn told() -> String {
    format!(
        "\n[this call gave the same result {} times, and nothing else changed in between; do something else, or stop]",
        repetition::LIMIT
    )
}
