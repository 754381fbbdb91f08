//! Projects and workspaces.

use ob_core::Principal;
use ob_core::ProjectId;
use ob_core::Refusal;
use ob_core::ledger::MicroUsd;
use ob_core::operation::ProjectCreate;
use ob_core::operation::ProjectDeleted;
use ob_core::operation::ProjectList;
use ob_core::operation::WorkspaceDeleted;
use ob_core::operation::WorkspaceTarget;
use ob_core::record::ProjectAgent;
use ob_core::record::ProjectRecord;
use ob_core::record::SessionRecord;
use ob_core::record::WorkspaceKind;
use ob_core::record::WorkspaceRecord;
use ob_core::resource::check_limits;
use ob_core::session::SessionStatus;
use ob_crash::CrashPoint;
use ob_crash::reach;
use ob_store::Commit;
use ob_store::SessionFilter;
use ob_store::Write;

use crate::Engine;

/// The most characters of a project's name.
const NAME_MAX: usize = 200;

impl Engine {
    pub(super) async fn project_create(&self, params: ProjectCreate) -> Result<ProjectRecord, Refusal> {
        self.refuse_while_draining()?;
        let name = params.name.trim();
        if name.is_empty() || name.chars().count() > NAME_MAX || name.chars().any(char::is_control) {
            return Err(Refusal::invalid("the name is empty, too long or has control characters")
                .fix("use 1 to 200 printable characters"));
        }
        let source = match params.source {
            None => None,
            Some(source) => {
                if !source.is_absolute() {
                    return Err(Refusal::invalid(format!("`{}` is not an absolute path", source.display()))
                        .fix("give the whole path of the folder"));
                }
                let canonical = tokio::fs::canonicalize(&source).await.map_err(|error| {
                    Refusal::not_found("folder", source.display()).fix(format!("check the path: {error}"))
                })?;
                if !canonical.is_dir() {
                    return Err(Refusal::invalid(format!("`{}` is not a folder", source.display()))
                        .fix("name the folder that holds the project"));
                }
                if canonical.parent().is_none() {
                    return Err(Refusal::invalid("the root folder cannot be a project")
                        .fix("name the folder that holds the project"));
                }
                let home = tokio::fs::canonicalize(self.shared.home.root()).await;
                // A clone would take the configuration's keys and the tokens along.
                if home.is_ok_and(|home| canonical == home || canonical.starts_with(home.join("data"))) {
                    return Err(Refusal::invalid(format!(
                        "`{}` holds this server's own files",
                        canonical.display()
                    ))
                    .fix("keep the home elsewhere (`--dir`), for example in `~/.oubliette`"));
                }
                Some(canonical)
            }
        };
        let max_cost = match params.max_cost_usd {
            None => None,
            Some(usd) => Some(MicroUsd::from_usd(usd).ok_or_else(|| {
                Refusal::invalid(format!("max_cost_usd {usd} is not an amount")).fix("use 0 to 1000000000")
            })?),
        };
        check_limits(&params.limits)?;
        if let Some(model) = &params.model {
            self.shared.catalogue.resolve(Some(model)).await?;
        }
        let agent = ProjectAgent {
            name: params.agent_runtime,
            autonomy: params.autonomy,
            reasoning: params.reasoning,
            disabled_tools: params.disabled_tools,
        };
        self.shared.agents.check_project(&agent)?;
        let id = ProjectId::from_uuid(self.shared.clock.uuid());
        let record = ProjectRecord {
            id,
            number: 0,
            name: name.to_owned(),
            description: params.description,
            source,
            max_cost,
            model: params.model,
            limits: params.limits,
            agent,
            created_at: self.shared.now(),
        };
        self.write(vec![Write::PutProject(record)]).await?;
        // The store has given it a number.
        self.shared.project(id).await
    }

    pub(super) async fn project_list(
        &self,
        principal: &Principal,
        params: ProjectList,
    ) -> Result<Vec<ProjectRecord>, Refusal> {
        let limit = page_size(params.limit)?;
        let wanted = params.name_contains.map(|name| name.to_lowercase());
        let all = self.shared.store.projects().await.map_err(|error| error.refusal())?;
        Ok(all
            .into_iter()
            .filter(|project| principal.may_see(project.id))
            .filter(|project| wanted.as_ref().is_none_or(|name| project.name.to_lowercase().contains(name)))
            .take(limit)
            .collect())
    }

    pub(super) async fn project_delete(&self, id: ProjectId) -> Result<ProjectDeleted, Refusal> {
        let project = self.shared.project(id).await?;
        let _deleting = self.claims.deletes("project", id.as_uuid())?;
        self.refuse_if_active(id, |_| true).await?;
        self.write(vec![Write::DeleteProject(project.id)]).await?;
        reach(CrashPoint::DeleteRecorded);
        self.shared.files.remove(&self.shared.home.project(id)).await?;
        reach(CrashPoint::DeleteDone);
        Ok(ProjectDeleted { deleted: id })
    }

    pub(super) async fn workspace_list(&self, project: ProjectId) -> Result<Vec<WorkspaceRecord>, Refusal> {
        self.shared.project(project).await?;
        self.shared.store.workspaces(project).await.map_err(|error| error.refusal())
    }

    pub(super) async fn workspace_delete(
        &self,
        params: WorkspaceTarget,
    ) -> Result<WorkspaceDeleted, Refusal> {
        let found = self.shared.store.workspace(params.workspace_id).await;
        let found = found.map_err(|error| error.refusal())?;
        let record = found.filter(|workspace| workspace.project == params.project_id).ok_or_else(|| {
            Refusal::not_found("workspace", params.workspace_id)
                .fix("list them with the operation `workspace.list`")
        })?;
        let _project_is_used = self.claims.uses("project", params.project_id.as_uuid())?;
        let _deleting = self.claims.deletes("workspace", record.id.as_uuid())?;
        self.refuse_if_active(params.project_id, |session| session.workspace == record.id).await?;
        self.write(vec![Write::DeleteWorkspace(record.id)]).await?;
        reach(CrashPoint::DeleteRecorded);
        // A folder of the user's is never removed.
        if record.kind == WorkspaceKind::Clone {
            self.shared.files.remove(&self.shared.home.workspace(record.project, record.id)).await?;
        }
        self.shared.files.remove(&self.shared.home.workspace_base(record.project, record.id)).await?;
        reach(CrashPoint::DeleteDone);
        Ok(WorkspaceDeleted { deleted: record.id })
    }

    async fn refuse_if_active(
        &self,
        project: ProjectId,
        concerns: impl Fn(&SessionRecord) -> bool,
    ) -> Result<(), Refusal> {
        self.newest_active(project, concerns).await?.map_or(Ok(()), |session| {
            Err(Refusal::conflict(format!("it has active sessions, such as `{}`", session.id))
                .fix("end them first with `oubliette session end ID`"))
        })
    }

    /// The newest session of a project that is not over and that something concerns.
    pub(super) async fn newest_active(
        &self,
        project: ProjectId,
        concerns: impl Fn(&SessionRecord) -> bool,
    ) -> Result<Option<SessionRecord>, Refusal> {
        let mut before = None;
        loop {
            let filter = SessionFilter {
                projects: Some(vec![project]),
                status: Some(SessionStatus::Active),
                before: before.take(),
                limit: 1000,
            };
            let active = self.shared.store.sessions(filter).await.map_err(|error| error.refusal())?;
            let Some(last) = active.last() else { return Ok(None) };
            before = Some(last.id.clone());
            if let Some(found) = active.into_iter().find(&concerns) {
                return Ok(Some(found));
            }
        }
    }

    pub(super) async fn write(&self, writes: Vec<Write>) -> Result<(), Refusal> {
        let commit = Commit { writes, fence: None };
        reach(CrashPoint::RecordBefore);
        self.shared.store.commit(commit).await.map_err(|error| error.refusal())?;
        reach(CrashPoint::RecordCommitted);
        Ok(())
    }
}

/// A page size within its bounds; 100 if unset.
pub(super) fn page_size(limit: Option<u32>) -> Result<usize, Refusal> {
    match limit.unwrap_or(100) {
        limit @ 1..=1000 => Ok(limit as usize),
        limit => Err(Refusal::invalid(format!("limit {limit} is out of bounds")).fix("use 1 to 1000")),
    }
}
