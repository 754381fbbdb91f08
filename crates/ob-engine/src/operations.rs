//! Operations: authorise, parse, perform. One function for each row of the table.

mod audit;
mod children;
mod limits;
mod models;
mod permit;
mod projects;
mod questions;
mod result;
mod resume;
mod sessions;
mod tokens;

pub(crate) use audit::FailedLogins;
pub(crate) use permit::Asked;
pub(crate) use tokens::invalid_token;

use std::sync::Arc;

use ob_core::Principal;
use ob_core::Refusal;
use ob_core::audit::Asker;
use ob_core::authorize::Target;
use ob_core::operation::AgentTarget;
use ob_core::operation::CallerToolCall;
use ob_core::operation::CallerToolResponse;
use ob_core::operation::Operation;
use ob_core::operation::ProjectTarget;
use ob_core::operation::ServerReload;
use ob_core::operation::ServerStatus;
use ob_core::operation::ServerStop;
use ob_core::operation::ServerStopping;
use ob_core::operation::SessionAnswer;
use ob_core::operation::SessionAsk;
use ob_core::operation::SessionEvents;
use ob_core::operation::SessionMessage;
use ob_core::operation::SessionResult;
use ob_core::operation::SessionSpawn;
use ob_core::operation::SessionTarget;
use ob_core::operation::WorkspaceTarget;
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
        asker: impl Into<Asker>,
        operation: Operation,
        params: Value,
    ) -> Result<Value, Refusal> {
        let began = std::time::Instant::now();
        let asked = Asked::new(asker.into(), operation, &params);
        let wait = wait_after(operation, &params);
        let principal = asked.asker.principal.clone();
        let outcome = if only_looks(operation) {
            // It goes when its caller goes; some wait for long.
            self.perform_audited(&asked, params).await
        } else {
            // A caller that goes away half way must not leave things half done.
            let engine = Arc::clone(self);
            let work = async move { engine.perform_audited(&asked, params).await };
            self.tracker.spawn(work.in_current_span()).await.unwrap_or_else(|error| {
                tracing::error!(%error, "an operation was cut off");
                Err(Refusal::internal("the operation was cut off").fix("see the log, then try again"))
            })
        };
        let outcome = match (outcome, wait) {
            // What was asked for is done by now, whoever waits for what comes of it.
            (Ok(accepted), Some(wait)) => match &principal {
                Principal::Session { id, .. } if operation != Operation::SessionSpawn => {
                    self.with_answer(id, accepted, wait).await
                }
                _ => self.with_result(accepted, wait).await,
            },
            (outcome, _) => outcome,
        };
        let metrics = &self.shared.metrics;
        if let Err(refusal) = &outcome {
            RefusalGiven { asked: &operation.spec().name(), refusal }.emit(metrics);
        }
        let code = outcome.as_ref().map(|_| ()).map_err(|refusal| refusal.code);
        OperationDone { operation, outcome: code, took: began.elapsed() }.emit(metrics);
        outcome
    }

    async fn perform(self: &Arc<Self>, asked: &Asked, params: Value) -> Result<Value, Refusal> {
        use Operation as O;
        let principal = &asked.asker.principal;
        match asked.operation {
            O::ProjectCreate => {
                self.permit(asked, Target::Global).await?;
                answer(self.project_create(parse(params)?).await?)
            }
            O::ProjectList => {
                self.permit(asked, Target::Global).await?;
                answer(self.project_list(principal, parse(params)?).await?)
            }
            O::ProjectGet => {
                let params: ProjectTarget = parse(params)?;
                self.permit_project(asked, params.project_id).await?;
                answer(self.shared.project(params.project_id).await?)
            }
            O::ProjectDelete => {
                let params: ProjectTarget = parse(params)?;
                self.permit_project(asked, params.project_id).await?;
                answer(self.project_delete(params.project_id).await?)
            }
            O::WorkspaceList => {
                let params: ProjectTarget = parse(params)?;
                self.permit_project(asked, params.project_id).await?;
                answer(self.workspace_list(params.project_id).await?)
            }
            O::WorkspaceDelete => {
                let params: WorkspaceTarget = parse(params)?;
                self.permit_project(asked, params.project_id).await?;
                answer(self.workspace_delete(params).await?)
            }
            O::SessionSpawn => {
                let params: SessionSpawn = parse(params)?;
                self.permit_project(asked, params.project_id).await?;
                questions::declared(principal, params.caller_id.clone(), params.caller_tools.clone())?;
                answer(match principal {
                    Principal::Session { id, .. } => self.session_spawn_child(id, params).await?,
                    _ => self.session_spawn_or_go_on(params).await?,
                })
            }
            O::SessionMessage => {
                let params: SessionMessage = parse(params)?;
                let record = self.permit_session(asked, &params.session_id).await?;
                let caller = questions::declared(principal, params.caller_id, params.caller_tools)?;
                answer(self.session_message(record, params.message, caller).await?)
            }
            O::SessionAnswer => {
                let params: SessionAnswer = parse(params)?;
                let record = self.permit_session(asked, &params.session_id).await?;
                answer(self.session_answer(&record, params, principal).await?)
            }
            O::SessionInterrupt => {
                let params: SessionTarget = parse(params)?;
                let record = self.permit_session(asked, &params.session_id).await?;
                answer(self.session_interrupt(record).await?)
            }
            O::SessionEnd => {
                let params: SessionTarget = parse(params)?;
                let record = self.permit_session(asked, &params.session_id).await?;
                answer(self.session_end(record, principal).await?)
            }
            O::SessionGet => {
                let params: SessionTarget = parse(params)?;
                let id = &params.session_id;
                let summary = self.shared.store.summary(id).await.map_err(|error| error.refusal())?;
                let permitted = self.permitted(asked, id, summary, |summary| &summary.record).await?;
                answer(sessions::view_of(permitted))
            }
            O::SessionList => {
                self.permit(asked, Target::Global).await?;
                answer(self.session_list(principal, parse(params)?).await?)
            }
            O::SessionEvents => {
                let params: SessionEvents = parse(params)?;
                let record = self.permit_session(asked, &params.session_id).await?;
                answer(self.session_events(&record, &params).await?)
            }
            O::SessionResult => {
                let params: SessionResult = parse(params)?;
                let record = self.permit_session(asked, &params.session_id).await?;
                answer(self.session_result(&record, &params).await?)
            }
            O::SessionDiff => {
                let params: SessionTarget = parse(params)?;
                let record = self.permit_session(asked, &params.session_id).await?;
                let _project_is_used = self.claims.uses("project", record.project.as_uuid())?;
                let _workspace_is_used = self.claims.uses("workspace", record.workspace.as_uuid())?;
                answer(crate::diff::diff(&self.shared, &record).await?)
            }
            O::SessionAsk => {
                let params: SessionAsk = parse(params)?;
                let record = self.permit_oneself(asked).await?;
                answer(self.session_ask(&record, params).await?)
            }
            O::CallerToolResponse => {
                let params: CallerToolResponse = parse(params)?;
                let record = self.permit_session(asked, &params.session_id).await?;
                answer(self.caller_tool_response(&record, params, principal).await?)
            }
            O::CallerToolCall => {
                let params: CallerToolCall = parse(params)?;
                let record = self.permit_oneself(asked).await?;
                answer(self.caller_tool_call(&record, params).await?)
            }
            O::ConfigLimits => answer(self.config_limits(asked, parse(params)?).await?),
            O::AgentList => {
                self.permit(asked, Target::Global).await?;
                let ob_core::operation::Nothing {} = parse(params)?;
                answer(self.shared.agents.list(&self.shared.sandbox.get().read_only).await)
            }
            O::AgentCheck => {
                self.permit(asked, Target::Global).await?;
                let AgentTarget { agent } = parse(params)?;
                answer(self.shared.agents.check(&agent, &self.shared.sandbox.get().read_only).await?)
            }
            O::ModelList => {
                self.permit(asked, Target::Global).await?;
                let ob_core::operation::Nothing {} = parse(params)?;
                answer(self.model_list().await)
            }
            O::ModelCheck => {
                self.permit(asked, Target::Global).await?;
                answer(self.model_check(parse(params)?).await?)
            }
            O::TokenCreate => {
                self.permit(asked, Target::Global).await?;
                answer(self.token_create(parse(params)?).await?)
            }
            O::TokenList => {
                self.permit(asked, Target::Global).await?;
                let ob_core::operation::Nothing {} = parse(params)?;
                answer(self.token_list().await?)
            }
            O::TokenRevoke => {
                self.permit(asked, Target::Global).await?;
                answer(self.token_revoke(parse(params)?).await?)
            }
            O::TokenInfo => {
                self.permit(asked, Target::Global).await?;
                answer(self.token_info(parse(params)?).await?)
            }
            O::AuditList => {
                self.permit(asked, Target::Global).await?;
                answer(self.audit_list(parse(params)?).await?)
            }
            O::AuditVerify => {
                self.permit(asked, Target::Global).await?;
                let ob_core::operation::Nothing {} = parse(params)?;
                answer(self.audit_verify().await?)
            }
            O::AuditExport => {
                self.permit(asked, Target::Global).await?;
                answer(self.audit_export(parse(params)?).await?)
            }
            O::ServerStatus => {
                self.permit(asked, Target::Global).await?;
                let ob_core::operation::Nothing {} = parse(params)?;
                answer(self.server_status().await?)
            }
            O::ServerReload => {
                self.permit(asked, Target::Global).await?;
                let ServerReload { dry_run } = parse(params)?;
                answer(self.reload(dry_run).await?)
            }
            O::ServerStop => {
                self.permit(asked, Target::Global).await?;
                let ServerStop { keep_sandboxes } = parse(params)?;
                self.stop.send_replace(Some(keep_sandboxes));
                answer(ServerStopping { stopping: true, keep_sandboxes })
            }
        }
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

/// True for what reads from the store and does nothing else.
const fn only_looks(operation: Operation) -> bool {
    use Operation as O;
    matches!(
        operation,
        O::ProjectList
            | O::ProjectGet
            | O::WorkspaceList
            | O::SessionGet
            | O::SessionList
            | O::SessionEvents
            | O::SessionResult
            | O::ConfigLimits
            | O::TokenList
            | O::TokenInfo
    )
}

/// For how long an operation is to wait for what comes of what it did. What is out of bounds was refused by then.
fn wait_after(operation: Operation, params: &Value) -> Option<u32> {
    let given = params.get("wait_ms").and_then(Value::as_u64).and_then(|wait| u32::try_from(wait).ok());
    match operation {
        Operation::SessionSpawn => given,
        Operation::SessionAsk | Operation::CallerToolCall => Some(given.unwrap_or(questions::WAIT_DEFAULT)),
        _ => None,
    }
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
