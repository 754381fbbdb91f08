//! What the server answers, whatever the wire: tools, resources, prompts, completions.
//!
//! A handler keeps nothing between requests; who asks comes with each.

#![expect(deprecated, reason = "clients before 2026-07-28 expect logging, as which events are pushed")]

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use ob_core::Refusal;
use ob_core::SessionId;
use ob_core::operation::Operation;
use rmcp::ErrorData;
use rmcp::RoleServer;
use rmcp::ServerHandler;
use rmcp::model::CallToolRequestParams;
use rmcp::model::CallToolResponse;
use rmcp::model::CallToolResult;
use rmcp::model::CompleteRequestParams;
use rmcp::model::CompleteResult;
use rmcp::model::GetPromptRequestParams;
use rmcp::model::GetPromptResponse;
use rmcp::model::Implementation;
use rmcp::model::InitializeResult;
use rmcp::model::ListPromptsResult;
use rmcp::model::ListResourceTemplatesResult;
use rmcp::model::ListResourcesResult;
use rmcp::model::ListToolsResult;
use rmcp::model::PaginatedRequestParams;
use rmcp::model::ProgressNotificationParam;
use rmcp::model::ReadResourceRequestParams;
use rmcp::model::ReadResourceResponse;
use rmcp::model::ServerCapabilities;
use rmcp::model::SetLevelRequestParams;
use rmcp::service::RequestContext;
use serde_json::Value;
use tokio::time::Instant;
use tracing::Instrument as _;

use super::Caller;
use super::outcome;
use super::prompts;
use super::resources;
use super::tools;
use super::tools::NoCall;
use crate::api;
use crate::edge::Site;

/// A call that takes longer tells its client so again and again, if the client asked for progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

const INSTRUCTIONS: &str = "\
Oubliette runs AI agents unattended, each in a sandbox on a copy of a project. Find a project (`project` list), start \
a session with a task (`session` spawn), read what happens (`session` events, again and again from `last_index`, with \
`wait_ms` 30000), and look at the changes (`session` diff). What is not allowed is answered with a code and what to do \
about it.";

/// The handler of one listener's requests.
#[derive(Clone)]
pub(super) struct Answers {
    site: Arc<Site>,
}

// === impl Answers ===

impl Answers {
    pub(super) fn new(site: Arc<Site>) -> Self {
        Self { site }
    }

    /// Does an operation: tells its progress, goes when the client cancels it, and answers if it panics.
    async fn perform(
        &self,
        caller: &Caller,
        operation: Operation,
        params: Value,
        context: &RequestContext<RoleServer>,
    ) -> Result<Value, Refusal> {
        let (doors, asker) = (Arc::clone(&caller.doors), caller.asker.clone());
        let work = AssertUnwindSafe(api::perform(&self.site, doors, asker, operation, params)).catch_unwind();
        let mut work = std::pin::pin!(work);
        let token = context.meta.get_progress_token();
        let began = Instant::now();
        let mut beat = tokio::time::interval_at(began + PROGRESS_EVERY, PROGRESS_EVERY);
        loop {
            tokio::select! {
                done = work.as_mut() => return done.unwrap_or_else(|_| {
                    tracing::error!(operation = operation.spec().name(), "an MCP call panicked");
                    Err(Refusal::internal("a fault of the server; the log has it under the request id")
                        .fix("report it with the log lines of this request id"))
                }),
                () = context.ct.cancelled() => {
                    return Err(Refusal::conflict("the call was cancelled by its client")
                        .fix("what it had begun to change is finished; look before you call again"));
                }
                _ = beat.tick(), if token.is_some() => {
                    let Some(token) = token.clone() else { continue };
                    let mut progress = ProgressNotificationParam::new(token, began.elapsed().as_secs_f64());
                    progress.message = Some(format!("{} is at it", operation.spec().name()));
                    if context.peer.notify_progress(progress).await.is_err() {
                        tracing::debug!("nobody hears of the progress any more");
                    }
                }
            }
        }
    }
}

impl ServerHandler for Answers {
    fn get_info(&self) -> InitializeResult {
        let capabilities = ServerCapabilities::builder()
            .enable_logging()
            .enable_completions()
            .enable_prompts()
            .enable_resources()
            .enable_tools()
            .build();
        let server = Implementation::new("oubliette", env!("CARGO_PKG_VERSION")).with_title("Oubliette");
        InitializeResult::new(capabilities).with_server_info(server).with_instructions(INSTRUCTIONS)
    }

    /// Every level is fine: a client gets the events of the sessions that it follows.
    async fn set_level(
        &self,
        _: SetLevelRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        Ok(())
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let offered = tools::offered(&caller(&context)?).await.map_err(|refusal| error_of(&refusal))?;
        Ok(ListToolsResult::with_all_items(offered))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let caller = caller(&context)?;
        let span = tracing::info_span!("mcp", id = %caller.request.0, tool = %request.name);
        let result = async {
            let called = tools::call(&caller.asker.principal, &request.name, request.arguments);
            let (operation, params) = match called {
                Ok(call) => call,
                Err(NoCall::Refused(refusal)) => return Ok(outcome::refused(&refusal)),
                Err(NoCall::UnknownTool(name)) => {
                    return Err(ErrorData::invalid_params(format!("tool `{name}` not found"), None));
                }
            };
            match self.perform(&caller, operation, params, &context).await {
                Ok(answer) => {
                    follow(&caller, operation, &answer);
                    Ok(outcome::done(operation, answer))
                }
                Err(refusal) => Ok(outcome::refused(&refusal)),
            }
        };
        let result: Result<CallToolResult, ErrorData> = result.instrument(span).await;
        result.map(CallToolResponse::from)
    }

    async fn list_resources(
        &self,
        request: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        let cursor = request.and_then(|page| page.cursor);
        resources::list(&caller(&context)?, cursor).await.map_err(|refusal| error_of(&refusal))
    }

    async fn list_resource_templates(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        Ok(ListResourceTemplatesResult::with_all_items(resources::templates()))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let read = resources::read(&caller(&context)?, &request.uri).await;
        read.map(Into::into).map_err(|refusal| {
            let mut error = error_of(&refusal);
            if let Some(data) = &mut error.data {
                data["uri"] = request.uri.into();
            }
            error
        })
    }

    async fn list_prompts(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        Ok(ListPromptsResult::with_all_items(prompts::all()))
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
        let arguments = request.arguments.unwrap_or_default();
        prompts::get(&request.name, &arguments).map(Into::into).map_err(|refusal| error_of(&refusal))
    }

    async fn complete(
        &self,
        request: CompleteRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CompleteResult, ErrorData> {
        let caller = caller(&context)?;
        let completed = resources::complete(&caller, &request.argument.name, &request.argument.value).await;
        completed.map_err(|refusal| error_of(&refusal))
    }
}

/// Who asks in this request.
fn caller(context: &RequestContext<RoleServer>) -> Result<Caller, ErrorData> {
    let parts = context.extensions.get::<http::request::Parts>();
    parts.and_then(|parts| parts.extensions.get::<Caller>()).cloned().ok_or_else(|| {
        tracing::error!("an MCP request came without its caller");
        ErrorData::internal_error("the request has no caller", None)
    })
}

/// Whoever starts a session, talks to it or looks at it is told what happens in it.
fn follow(caller: &Caller, operation: Operation, answer: &Value) {
    let looks =
        matches!(operation, Operation::SessionSpawn | Operation::SessionMessage | Operation::SessionEvents);
    let (Some(follows), true) = (&caller.follows, looks) else { return };
    let session = answer["session_id"].as_str().and_then(|id| id.parse::<SessionId>().ok());
    if let Some(session) = session {
        follows.add(&session, answer["last_index"].as_i64().unwrap_or(-1));
    }
}

/// A refusal as a JSON-RPC error, for what has no result of its own to say it in.
fn error_of(refusal: &Refusal) -> ErrorData {
    use ob_core::RefusalCode as Code;
    let data = Some(serde_json::json!({ "code": refusal.code, "fix": refusal.fix }));
    let message = refusal.to_string();
    match refusal.code {
        Code::NotFound => ErrorData::resource_not_found(message, data),
        Code::InvalidArgument => ErrorData::invalid_params(message, data),
        Code::Internal => ErrorData::internal_error(message, data),
        _ => ErrorData::invalid_request(message, data),
    }
}
