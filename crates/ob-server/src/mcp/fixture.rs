//! What the official conformance suite wants to find besides our own: its test tools, prompts and resources.
//!
//! Only in builds with the feature `conformance`, of which none ships. Everything around it is what ships: who asks, wires,
//! MCP sessions, streams. What it does not know goes on to [`Answers`], so refusals and our own tools are the real ones.

#![expect(deprecated, reason = "the suite asks clients before 2026-07-28 for samples and logs")]

mod content;
mod questions;
mod rounds;

use std::sync::Arc;

use rmcp::ErrorData;
use rmcp::RoleServer;
use rmcp::ServerHandler;
use rmcp::model::CallToolRequestParams;
use rmcp::model::CallToolResponse;
use rmcp::model::CompleteRequestParams;
use rmcp::model::CompleteResult;
use rmcp::model::GetPromptRequestParams;
use rmcp::model::GetPromptResponse;
use rmcp::model::InitializeResult;
use rmcp::model::ListPromptsResult;
use rmcp::model::ListResourceTemplatesResult;
use rmcp::model::ListResourcesResult;
use rmcp::model::ListToolsResult;
use rmcp::model::PaginatedRequestParams;
use rmcp::model::ReadResourceRequestParams;
use rmcp::model::ReadResourceResponse;
use rmcp::model::SetLevelRequestParams;
use rmcp::model::SubscribeRequestParams;
use rmcp::model::SubscriptionFilter;
use rmcp::model::Tool;
use rmcp::model::UnsubscribeRequestParams;
use rmcp::service::RequestContext;
use rmcp::service::SubscriptionContext;
use tokio::sync::broadcast;

use super::answers::Answers;
use crate::edge::Site;
use rounds::Rounds;

/// Changes of lists that a subscriber may be behind; the suite makes one at a time.
const CHANGES: usize = 16;

/// A list that changed.
#[derive(Clone, Copy, Debug)]
enum Change {
    Tools,
    Prompts,
}

/// Our answers, and those that the suite wants.
#[derive(Clone)]
pub(super) struct Fixture {
    answers: Answers,
    rounds: Arc<Rounds>,
    changes: broadcast::Sender<Change>,
}

// === impl Fixture ===

impl Fixture {
    pub(super) fn new(site: Arc<Site>) -> Self {
        Self { answers: Answers::new(site), rounds: Arc::default(), changes: broadcast::Sender::new(CHANGES) }
    }

    fn tools(&self) -> impl Iterator<Item = Tool> {
        let names = content::TOOLS.iter().chain(questions::TOOLS).copied().chain(self.rounds.tools());
        names
            .map(|name| Tool::new(name, "For the conformance suite.", content::schema(name)))
            .collect::<Vec<_>>()
            .into_iter()
    }
}

impl ServerHandler for Fixture {
    fn get_info(&self) -> InitializeResult {
        let mut info = self.answers.get_info();
        if let Some(tools) = &mut info.capabilities.tools {
            tools.list_changed = Some(true);
        }
        if let Some(prompts) = &mut info.capabilities.prompts {
            prompts.list_changed = Some(true);
        }
        if let Some(resources) = &mut info.capabilities.resources {
            resources.subscribe = Some(true);
        }
        info
    }

    async fn set_level(
        &self,
        request: SetLevelRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.answers.set_level(request, context).await
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        self.tools().find(|tool| tool.name == name)
    }

    async fn list_tools(
        &self,
        request: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let mut list = self.answers.list_tools(request, context).await?;
        list.tools.extend(self.tools());
        Ok(list)
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        match &*request.name {
            "test_trigger_tool_change" => Ok(self.changed(Change::Tools)),
            "test_trigger_prompt_change" => Ok(self.changed(Change::Prompts)),
            name if content::TOOLS.contains(&name) => content::call(name, &context).await,
            name if questions::TOOLS.contains(&name) => {
                let arguments = request.arguments.unwrap_or_default();
                questions::call(&request.name, &arguments, &context).await
            }
            name if self.rounds.knows(name) => self.rounds.call(&request, &context),
            _ => self.answers.call_tool(request, context).await,
        }
    }

    async fn list_resources(
        &self,
        request: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        let mut list = self.answers.list_resources(request, context).await?;
        list.resources.extend(content::resources());
        Ok(list)
    }

    async fn list_resource_templates(
        &self,
        request: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        let mut list = self.answers.list_resource_templates(request, context).await?;
        list.resource_templates.push(content::template());
        Ok(list)
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        match content::resource(&request.uri) {
            Some(resource) => Ok(resource.into()),
            None => self.answers.read_resource(request, context).await,
        }
    }

    async fn subscribe(
        &self,
        _: SubscribeRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        Ok(())
    }

    async fn unsubscribe(
        &self,
        _: UnsubscribeRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        Ok(())
    }

    async fn list_prompts(
        &self,
        request: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        let mut list = self.answers.list_prompts(request, context).await?;
        list.prompts.extend(content::prompts());
        Ok(list)
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
        if request.name == rounds::PROMPT {
            return rounds::prompt(&request);
        }
        let arguments = request.arguments.clone().unwrap_or_default();
        match content::prompt(&request.name, &arguments) {
            Some(prompt) => Ok(prompt.into()),
            None => self.answers.get_prompt(request, context).await,
        }
    }

    async fn complete(
        &self,
        request: CompleteRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CompleteResult, ErrorData> {
        self.answers.complete(request, context).await
    }

    fn accepted_subscription_filter(&self, requested: &SubscriptionFilter) -> Option<SubscriptionFilter> {
        Some(requested.supported_by(&self.get_info().capabilities))
    }

    async fn listen(&self, context: SubscriptionContext) -> Result<(), ErrorData> {
        let mut changes = self.changes.subscribe();
        loop {
            let change = tokio::select! {
                () = context.cancelled() => return Ok(()),
                change = changes.recv() => change,
            };
            let told = match change {
                Ok(Change::Tools) => context.sink().notify_tool_list_changed().await,
                Ok(Change::Prompts) => context.sink().notify_prompt_list_changed().await,
                Err(broadcast::error::RecvError::Lagged(_)) => continue,
                Err(broadcast::error::RecvError::Closed) => return Ok(()),
            };
            if let Err(error) = told {
                // Not what it listens to, or it went away.
                tracing::debug!(%error, "a change was not told");
            }
        }
    }
}

impl Fixture {
    fn changed(&self, change: Change) -> CallToolResponse {
        // Nobody has to listen.
        self.changes.send(change).ok();
        content::said("The change was told.")
    }
}
