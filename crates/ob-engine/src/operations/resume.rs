//! Going on where work was: which workspace and which session a spawn means that asks for no new ones.
//!
//! A message goes on in a session of the workspace that was named, never in one of another workspace (W38). Two spawns
//! at once do not both start a session for want of one: who comes second is refused and may try again (W40).

use std::sync::Arc;

use ob_core::Refusal;
use ob_core::RefusalCode;
use ob_core::WorkspaceId;
use ob_core::caller::Caller;
use ob_core::operation::SessionAccepted;
use ob_core::operation::SessionSpawn;
use ob_core::record::SessionRecord;
use ob_core::record::WorkspaceKind;

use crate::Engine;

impl Engine {
    /// `session.spawn`: goes on in a session if that is asked for and there is one, else starts one.
    pub(super) async fn session_spawn_or_go_on(
        self: &Arc<Self>,
        mut params: SessionSpawn,
    ) -> Result<SessionAccepted, Refusal> {
        if params.in_place || (params.create_workspace && params.workspace_id.is_none()) {
            return self.session_spawn(params, None).await;
        }
        self.refuse_while_draining()?;
        let project = self.shared.project(params.project_id).await?;
        if params.workspace_id.is_none() {
            params.workspace_id = self.first_workspace(&params).await?;
        }
        if params.new_session {
            return self.session_spawn(params, None).await;
        }
        let place = params.workspace_id.map_or_else(|| project.id.as_uuid(), |id| id.as_uuid());
        let _starts_alone = self.starts.alone("workspace", place)?;
        // A child belongs to the session that waits for it.
        let is_free = |session: &SessionRecord| {
            Some(session.workspace) == params.workspace_id && session.parent.is_none()
        };
        if params.workspace_id.is_some()
            && let Some(record) = self.newest_active(params.project_id, is_free).await?
        {
            if let Some(model) = &params.model
                && self.shared.catalogue.resolve(Some(model)).await? != record.model
            {
                return Err(Refusal::conflict(format!(
                    "session `{}` goes on with {}, and another model was asked for",
                    record.id, record.model
                ))
                .fix("leave `model` out, or ask for `new_session`"));
            }
            refuse_another_agent(&params, &record)?;
            let caller = Caller::declared(params.caller_id.clone(), params.caller_tools.clone())?;
            match self.session_message(record, params.message.clone(), caller).await {
                // It came to its end meanwhile.
                Err(refusal) if refusal.code == RefusalCode::Conflict => {}
                answer => return answer.map(|accepted| SessionAccepted { resumed: true, ..accepted }),
            }
        }
        self.session_spawn(params, None).await
    }

    /// The project's own workspace: the first clone that was made of it.
    async fn first_workspace(&self, params: &SessionSpawn) -> Result<Option<WorkspaceId>, Refusal> {
        let all = self.shared.store.workspaces(params.project_id).await.map_err(|error| error.refusal())?;
        Ok(all.into_iter().rfind(|workspace| workspace.kind == WorkspaceKind::Clone).map(|first| first.id))
    }
}

/// A session keeps its agent and what that was told: what a message says of it must be so already (W27).
fn refuse_another_agent(params: &SessionSpawn, record: &SessionRecord) -> Result<(), Refusal> {
    let (agent, options) = (&record.agent, &record.agent_options);
    let others = [
        ("agent", params.agent.as_ref().is_some_and(|asked| asked != agent)),
        ("autonomy_level", params.autonomy_level.is_some_and(|asked| asked != options.autonomy)),
        ("reasoning_level", params.reasoning_level.is_some_and(|asked| Some(asked) != options.reasoning)),
        ("tools_allowed", !params.tools_allowed.is_empty() && params.tools_allowed != options.tools_allowed),
        (
            "tools_disallowed",
            params.tools_disallowed.iter().any(|tool| !options.tools_disallowed.contains(tool)),
        ),
    ];
    match others.into_iter().find(|(_, is_another)| *is_another) {
        None => Ok(()),
        Some((name, _)) => {
            let what = format!(
                "session `{}` goes on as it was started, and another `{name}` was asked for",
                record.id
            );
            Err(Refusal::conflict(what).fix(format!("leave `{name}` out, or ask for `new_session`")))
        }
    }
}
