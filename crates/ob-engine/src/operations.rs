//! Operations: authorise, parse, perform. One function for each row of the table.

mod projects;
mod resume;
mod sessions;
mod tokens;

pub(crate) use tokens::invalid_token;

use std::sync::Arc;

use ob_core::Principal;
use ob_core::ProjectId;
use ob_core::Refusal;
use ob_core::SessionId;
use ob_core::authorize::Target;
use ob_core::authorize::authorize;
use ob_core::operation::AgentTarget;
use ob_core::operation::Operation;
use ob_core::operation::ProjectTarget;
use ob_core::operation::ServerReload;
use ob_core::operation::ServerStatus;
use ob_core::operation::ServerStop;
use ob_core::operation::ServerStopping;
use ob_core::operation::SessionEvents;
use ob_core::operation::SessionMessage;
use ob_core::operation::SessionSpawn;
use ob_core::operation::SessionTarget;
use ob_core::operation::WorkspaceTarget;
use ob_core::record::SessionRecord;
use ob_telemetry::OperationDone;
use ob_telemetry::RefusalGiven;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tracing::Instrument as _;

use crate::Engine;

impl Engine {
    /// Does an operation for a principal: authorises, checks the parameters, performs. Every door calls this.
    ///
    /// A project or session that the principal may not see is not found, so that ids cannot be probed.
    pub async fn call(
        self: &Arc<Self>,
        principal: &Principal,
        operation: Operation,
        params: Value,
    ) -> Result<Value, Refusal> {
        let began = std::time::Instant::now();
        let outcome = if operation == Operation::SessionEvents {
            // It only reads, and may wait for long: it goes when its caller goes.
            self.perform(principal, operation, params).await
        } else {
            // A caller that goes away half way must not leave things half done.
            let (engine, principal) = (Arc::clone(self), principal.clone());
            let work = async move { engine.perform(&principal, operation, params).await };
            self.tracker.spawn(work.in_current_span()).await.unwrap_or_else(|error| {
                tracing::error!(%error, "an operation was cut off");
                Err(Refusal::internal("the operation was cut off").fix("see the log, then try again"))
            })
        };
        let metrics = &self.shared.metrics;
        if let Err(refusal) = &outcome {
            RefusalGiven { asked: &operation.spec().name(), refusal }.emit(metrics);
        }
        let code = outcome.as_ref().map(|_| ()).map_err(|refusal| refusal.code);
        OperationDone { operation, outcome: code, took: began.elapsed() }.emit(metrics);
        outcome
    }

    async fn perform(
        self: &Arc<Self>,
        principal: &Principal,
        operation: Operation,
        params: Value,
    ) -> Result<Value, Refusal> {
        use Operation as O;
        match operation {
            O::ProjectCreate => {
                authorize(principal, operation, Target::Global)?;
                answer(self.project_create(parse(params)?).await?)
            }
            O::ProjectList => {
                authorize(principal, operation, Target::Global)?;
                answer(self.project_list(principal, parse(params)?).await?)
            }
            O::ProjectGet => {
                let params: ProjectTarget = parse(params)?;
                self.permit_project(principal, operation, params.project_id)?;
                answer(self.shared.project(params.project_id).await?)
            }
            O::ProjectDelete => {
                let params: ProjectTarget = parse(params)?;
                self.permit_project(principal, operation, params.project_id)?;
                answer(self.project_delete(params.project_id).await?)
            }
            O::WorkspaceList => {
                let params: ProjectTarget = parse(params)?;
                self.permit_project(principal, operation, params.project_id)?;
                answer(self.workspace_list(params.project_id).await?)
            }
            O::WorkspaceDelete => {
                let params: WorkspaceTarget = parse(params)?;
                self.permit_project(principal, operation, params.project_id)?;
                answer(self.workspace_delete(params).await?)
            }
            O::SessionSpawn => {
                let params: SessionSpawn = parse(params)?;
                self.permit_project(principal, operation, params.project_id)?;
                answer(self.session_spawn_or_go_on(params).await?)
            }
            O::SessionMessage => {
                let params: SessionMessage = parse(params)?;
                let record = self.permit_session(principal, operation, &params.session_id).await?;
                answer(self.session_message(record, params.message).await?)
            }
            O::SessionInterrupt => {
                let params: SessionTarget = parse(params)?;
                let record = self.permit_session(principal, operation, &params.session_id).await?;
                answer(self.session_interrupt(record).await?)
            }
            O::SessionEnd => {
                let params: SessionTarget = parse(params)?;
                let record = self.permit_session(principal, operation, &params.session_id).await?;
                answer(self.session_end(record, principal).await?)
            }
            O::SessionGet => {
                let params: SessionTarget = parse(params)?;
                let id = &params.session_id;
                let summary = self.shared.store.summary(id).await.map_err(|error| error.refusal())?;
                let permitted = permitted(principal, operation, id, summary, |summary| &summary.record)?;
                answer(sessions::view_of(permitted))
            }
            O::SessionList => {
                authorize(principal, operation, Target::Global)?;
                answer(self.session_list(principal, parse(params)?).await?)
            }
            O::SessionEvents => {
                let params: SessionEvents = parse(params)?;
                let record = self.permit_session(principal, operation, &params.session_id).await?;
                answer(self.session_events(&record, &params).await?)
            }
            O::SessionDiff => {
                let params: SessionTarget = parse(params)?;
                let record = self.permit_session(principal, operation, &params.session_id).await?;
                let _project_is_used = self.claims.uses("project", record.project.as_uuid())?;
                let _workspace_is_used = self.claims.uses("workspace", record.workspace.as_uuid())?;
                answer(crate::diff::diff(&self.shared, &record).await?)
            }
            O::AgentList => {
                authorize(principal, operation, Target::Global)?;
                let ob_core::operation::Nothing {} = parse(params)?;
                answer(self.shared.agents.list(&self.shared.sandbox.get().read_only).await)
            }
            O::AgentCheck => {
                authorize(principal, operation, Target::Global)?;
                let AgentTarget { agent } = parse(params)?;
                answer(self.shared.agents.check(&agent, &self.shared.sandbox.get().read_only).await?)
            }
            O::TokenCreate => {
                authorize(principal, operation, Target::Global)?;
                answer(self.token_create(parse(params)?).await?)
            }
            O::TokenList => {
                authorize(principal, operation, Target::Global)?;
                let ob_core::operation::Nothing {} = parse(params)?;
                answer(self.token_list().await?)
            }
            O::TokenRevoke => {
                authorize(principal, operation, Target::Global)?;
                answer(self.token_revoke(parse(params)?).await?)
            }
            O::TokenInfo => {
                authorize(principal, operation, Target::Global)?;
                answer(self.token_info(parse(params)?).await?)
            }
            O::ServerStatus => {
                authorize(principal, operation, Target::Global)?;
                let ob_core::operation::Nothing {} = parse(params)?;
                answer(self.server_status().await?)
            }
            O::ServerReload => {
                authorize(principal, operation, Target::Global)?;
                let ServerReload { dry_run } = parse(params)?;
                answer(self.reload(dry_run).await?)
            }
            O::ServerStop => {
                authorize(principal, operation, Target::Global)?;
                let ServerStop { keep_sandboxes } = parse(params)?;
                self.stop.send_replace(Some(keep_sandboxes));
                answer(ServerStopping { stopping: true, keep_sandboxes })
            }
        }
    }

    fn permit_project(
        &self,
        principal: &Principal,
        operation: Operation,
        project: ProjectId,
    ) -> Result<(), Refusal> {
        if !principal.may_see(project) {
            return Err(Refusal::not_found("project", project).fix("list them with `oubliette project list`"));
        }
        authorize(principal, operation, Target::Project(project))
    }

    pub(crate) async fn permit_session(
        &self,
        principal: &Principal,
        operation: Operation,
        session: &SessionId,
    ) -> Result<SessionRecord, Refusal> {
        let found = self.shared.store.session(session).await.map_err(|error| error.refusal())?;
        permitted(principal, operation, session, found, |record| record)
    }

    /// Work that a stopping server does not take.
    pub(crate) fn refuse_while_draining(&self) -> Result<(), Refusal> {
        self.ready().map_err(|reason| Refusal::unavailable(reason).fix("try again when it is back"))
    }

    async fn server_status(&self) -> Result<ServerStatus, Refusal> {
        let shared = &self.shared;
        let (model, model_missing) = match shared.catalogue.resolve(None).await {
            Ok(model) => (Some(model), None),
            Err(refusal) => (None, Some(refusal.to_string())),
        };
        Ok(ServerStatus {
            version: self.version.clone(),
            pid: std::process::id(),
            state: if self.ready().is_ok() { "ready" } else { "draining" }.to_owned(),
            home: shared.home.root().to_owned(),
            addresses: self.addresses.clone(),
            started_at: self.started_at,
            active_sessions: shared.store.active_sessions().await.map_err(|error| error.refusal())?,
            sandboxes: shared.sandboxes.load(std::sync::atomic::Ordering::Relaxed),
            isolated: shared.backend().is_ok_and(|backend| backend.isolates()),
            backend: shared
                .backend()
                .map_or_else(|refusal| refusal.to_string(), |backend| backend.name().to_owned()),
            model,
            model_missing,
        })
    }
}

/// What was found of a session, for whoever may see it and do this with it.
fn permitted<T>(
    principal: &Principal,
    operation: Operation,
    session: &SessionId,
    found: Option<T>,
    record: impl Fn(&T) -> &SessionRecord,
) -> Result<T, Refusal> {
    let unknown = || Refusal::not_found("session", session).fix("list them with `oubliette session list`");
    let found = found.filter(|found| principal.may_see(record(found).project)).ok_or_else(unknown)?;
    authorize(principal, operation, Target::Project(record(&found).project))?;
    Ok(found)
}

/// Parameters as the operation's type, or a refusal that names what is wrong with them.
pub(crate) fn parse<T: DeserializeOwned>(params: Value) -> Result<T, Refusal> {
    // No parameters at all are an empty object.
    let params = if params.is_null() { Value::Object(serde_json::Map::new()) } else { params };
    serde_json::from_value(params).map_err(|error| {
        Refusal::invalid(format!("the parameters are not right: {error}"))
            .fix("see the operation's schema in the reference")
    })
}

fn answer(value: impl Serialize) -> Result<Value, Refusal> {
    serde_json::to_value(value).map_err(|error| {
        tracing::error!(%error, "an answer cannot be written as JSON");
        Refusal::internal("the answer cannot be written").fix("see the log")
    })
}
