//! Sessions: spawn, message, interrupt, end, get, list, events.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::TryStreamExt as _;
use futures_util::stream;
use futures_util::stream::BoxStream;
use ob_core::EventBody;
use ob_core::EventKind;
use ob_core::Principal;
use ob_core::QuestionId;
use ob_core::Refusal;
use ob_core::SessionId;
use ob_core::TreeId;
use ob_core::TurnNumber;
use ob_core::WorkspaceId;
use ob_core::audit::Asker;
use ob_core::caller;
use ob_core::caller::Caller;
use ob_core::event::Role;
use ob_core::operation::EventPage;
use ob_core::operation::EventView;
use ob_core::operation::Operation;
use ob_core::operation::SessionAccepted;
use ob_core::operation::SessionEnded;
use ob_core::operation::SessionEvents;
use ob_core::operation::SessionInterrupted;
use ob_core::operation::SessionList;
use ob_core::operation::SessionSpawn;
use ob_core::question::Question;
use ob_core::record::ProjectRecord;
use ob_core::record::SessionRecord;
use ob_core::record::SessionView;
use ob_core::record::TurnRecord;
use ob_core::record::WorkspaceKind;
use ob_core::record::WorkspaceRecord;
use ob_core::resource::is_isolated;
use ob_core::session::Session;
use ob_core::turn::TurnState;
use ob_crash::CrashPoint;
use ob_crash::reach;
use ob_store::Commit;
use ob_store::SessionFilter;
use ob_store::SessionSummary;
use ob_store::StoreError;
use ob_store::Write;
use ob_telemetry::SessionCreated;
use serde_json::Value;
use serde_json::json;
use tokio::sync::oneshot;

use super::Asked;
use super::children;
use super::limits::tree_limits;
use super::projects::page_size;
use super::result::result_wait;
use crate::Engine;
use crate::actor::Actor;
use crate::actor::Begin;
use crate::actor::Command;
use crate::actors::Entered;
use crate::actors::Place;

/// The most bytes of a message.
const MESSAGE_MAX: usize = 256 * 1024;
/// The most characters of a session's title.
const TITLE_MAX: usize = 80;
/// Events in one read of the log.
const PAGE: usize = 1000;
/// The most events in one answer.
const PAGE_MAX: u32 = 10_000;
/// Views of sessions that are put together at once.
const VIEWS: usize = 16;
/// The longest wait for a first event.
const WAIT_MAX: u32 = 60_000;

impl Engine {
    /// Starts a session, below `parent` if it has one.
    pub(super) async fn session_spawn(
        self: &Arc<Self>,
        params: SessionSpawn,
        parent: Option<&SessionRecord>,
    ) -> Result<SessionAccepted, Refusal> {
        self.refuse_while_draining()?;
        let shared = &self.shared;
        check_message(&params.message)?;
        result_wait(params.wait_ms)?;
        let caller = Caller::declared(params.caller_id.clone(), params.caller_tools.clone())?;
        let callers = caller.map_or_else(|| Ok(Vec::new()), |caller| caller::with(&[], caller))?;
        let _project_is_used = self.claims.uses("project", params.project_id.as_uuid())?;
        let _workspace_is_used =
            params.workspace_id.map(|id| self.claims.uses("workspace", id.as_uuid())).transpose()?;
        let project = shared.project(params.project_id).await?;
        // What this machine lacks is told now, and not by a session that fails.
        let backend = shared.backend()?;
        backend.check().await?;
        backend.holds(&shared.project_limits(&project))?;
        let model = match (&params.model, parent) {
            (None, Some(parent)) => parent.model.clone(),
            (asked, _) => shared.catalogue.resolve(asked.as_deref().or(project.model.as_deref())).await?,
        };
        let shown = shared.sandbox.get();
        let (agent, agent_options) = shared.agents.choose(&params, &project.agent, &shown.read_only).await?;
        let now = shared.now();
        let place = self.new_place().await?;
        let id = place.session().clone();
        let tree = parent.map_or_else(|| TreeId::new(now, self.random_u32()), |parent| parent.tree.clone());
        let (workspace, new_workspace) = self.workspace_for(&params, &project, &id).await?;
        let first = TurnNumber::default().next();
        let record = SessionRecord {
            id: id.clone(),
            project: project.id,
            workspace: workspace.id,
            tree: tree.clone(),
            parent: parent.map(|parent| parent.id.clone()),
            core: Session::new(Some(first)),
            agent,
            agent_options,
            model: model.clone(),
            backend: backend.name().to_owned(),
            enforcement: None,
            title: title(&params.message),
            last_turn: first,
            callers,
            questions: Vec::new(),
            last_question: QuestionId::default(),
            end_when_idle: params.end_when_idle,
            reason: None,
            created_at: now,
            updated_at: now,
        };
        drop(backend);
        let turn = TurnRecord {
            session: id.clone(),
            number: first,
            prompt: params.message.clone(),
            state: TurnState::Queued,
            stop: None,
            created_at: now,
            ended_at: None,
        };
        let mut writes = Vec::new();
        match parent {
            None => {
                writes.push(Write::PutTree { tree, limits: tree_limits(&project, &shared.limits.get()) });
            }
            Some(_) => writes.extend(self.late_limits(&tree, &project).await?),
        }
        writes.extend(new_workspace.then(|| Write::PutWorkspace(workspace.clone())));
        writes.push(Write::PutSession(Box::new(record.clone())));
        writes.push(Write::PutTurn(turn.clone()));
        writes.push(Write::Append {
            session: id.clone(),
            events: vec![
                EventBody::new(EventKind::Status).text("created").data(json!({ "state": "created" })),
                EventBody::system(format!("model: {model}")).data(json!({ "model": model })),
                EventBody::new(EventKind::Message).turn(first).role(Role::User).text(params.message),
            ],
        });
        writes.extend(parent.map(|parent| children::started(parent, &record)));
        reach(CrashPoint::SpawnBefore);
        let commit = Commit { writes, fence: Some(shared.epoch) };
        if let Err(error) = shared.store.commit(commit).await {
            if let (Some(parent), StoreError::OverLimit(over)) = (parent, &error) {
                self.tell_of_limit(parent, *over).await;
            }
            return Err(error.refusal());
        }
        reach(CrashPoint::SpawnCommitted);
        SessionCreated { session: &id, project: project.id }.emit(&shared.metrics);
        let actor = Actor::new(Arc::clone(shared), place, record, vec![turn]);
        self.tracker.spawn(actor.run(Begin::Fresh));
        Ok(SessionAccepted {
            session_id: id,
            project_id: project.id,
            workspace_id: workspace.id,
            turn: first,
            last_index: -1,
            model,
            resumed: false,
            result: None,
        })
    }

    pub(super) async fn session_message(
        &self,
        record: SessionRecord,
        message: String,
        caller: Option<Caller>,
    ) -> Result<SessionAccepted, Refusal> {
        self.refuse_while_draining()?;
        check_message(&message)?;
        let message = |reply| Command::Message { text: message, caller, reply };
        let (turn, last_index) = self.ask(&record, message).await?;
        Ok(SessionAccepted {
            session_id: record.id,
            project_id: record.project,
            workspace_id: record.workspace,
            turn,
            last_index,
            model: record.model,
            resumed: false,
            result: None,
        })
    }

    pub(super) async fn session_interrupt(
        &self,
        record: SessionRecord,
    ) -> Result<SessionInterrupted, Refusal> {
        self.ask(&record, |reply| Command::Interrupt { reply }).await?;
        self.interrupt_below(&record).await?;
        Ok(SessionInterrupted { session_id: record.id, interrupted: true })
    }

    pub(super) async fn session_end(
        &self,
        record: SessionRecord,
        principal: &Principal,
    ) -> Result<SessionEnded, Refusal> {
        if !record.core.state.is_over() {
            let reason = format!("ended by {principal}");
            if let Err(refusal) = self.ask(&record, |reply| Command::End { reason, reply }).await
                && !self.is_over(&record.id).await?
            {
                return Err(refusal);
            }
        }
        Ok(SessionEnded { session_id: record.id, ended: true })
    }

    /// Asks the session's actor; one that is not driven is taken over first.
    pub(super) async fn ask<T>(
        &self,
        record: &SessionRecord,
        command: impl FnOnce(oneshot::Sender<Result<T, Refusal>>) -> Command,
    ) -> Result<T, Refusal> {
        let session = &record.id;
        if !record.core.state.is_over() {
            let (reply, answer) = oneshot::channel();
            // Held until the answer is there: an actor leaves only when nobody can tell it anything.
            let actor = self.actor(session)?;
            if actor.send(command(reply)).await.is_ok()
                && let Ok(answer) = answer.await
            {
                return answer;
            }
        }
        // It is over, or it is no longer ours.
        Err(if self.is_over(session).await? {
            Refusal::conflict(format!("session `{session}` is over"))
                .fix("start another one with `oubliette run`")
        } else {
            Refusal::unavailable(format!("session `{session}` is not driven by this server now"))
                .fix("try again in a moment")
        })
    }

    async fn is_over(&self, session: &SessionId) -> Result<bool, Refusal> {
        let found = self.shared.store.session(session).await.map_err(|error| error.refusal())?;
        Ok(found.is_none_or(|record| record.core.state.is_over()))
    }

    pub(super) async fn session_list(
        &self,
        principal: &Principal,
        params: SessionList,
    ) -> Result<Vec<SessionView>, Refusal> {
        let limit = page_size(params.limit)?;
        if let Principal::Session { id, .. } = principal {
            return self.list_below(id, params, limit).await;
        }
        let projects = match (params.project_id, principal) {
            (Some(project), _) if principal.may_see(project) => Some(vec![project]),
            (Some(project), _) => {
                return Err(
                    Refusal::not_found("project", project).fix("list them with `oubliette project list`")
                );
            }
            (None, Principal::Operator) => None,
            (None, _) => {
                let all = self.shared.store.projects().await.map_err(|error| error.refusal())?;
                Some(all.into_iter().map(|project| project.id).filter(|id| principal.may_see(*id)).collect())
            }
        };
        if let Some(before) = &params.before {
            // Else its answer would tell whether it exists.
            let asked = Asked::new(principal.into(), Operation::SessionGet, &Value::Null);
            self.permit_session(&asked, before).await?;
        }
        let filter =
            SessionFilter { projects, status: params.status, tree: None, before: params.before, limit };
        let records = self.shared.store.sessions(filter).await.map_err(|error| error.refusal())?;
        self.views(records).await
    }

    /// What is shown of sessions. One that was deleted meanwhile is left out.
    pub(super) async fn views(&self, records: Vec<SessionRecord>) -> Result<Vec<SessionView>, Refusal> {
        let summary = async |record: SessionRecord| {
            let summary = self.shared.store.summary(&record.id).await.map_err(|error| error.refusal())?;
            Ok::<_, Refusal>(summary.map(view_of))
        };
        let views: Vec<_> = stream::iter(records).map(summary).buffered(VIEWS).try_collect().await?;
        // A list is to be looked over: what each tool is like, says the session itself.
        Ok(views.into_iter().flatten().map(|view| SessionView { callers: Vec::new(), ..view }).collect())
    }

    /// A page of the log; waits for a first event if asked to.
    pub(super) async fn session_events(
        &self,
        record: &SessionRecord,
        params: &SessionEvents,
    ) -> Result<EventPage, Refusal> {
        let limit = match params.limit.unwrap_or(PAGE as u32) {
            limit @ 1..=PAGE_MAX => limit as usize,
            limit => {
                return Err(Refusal::invalid(format!("limit {limit} is out of bounds")).fix("use 1 to 10000"));
            }
        };
        let wait = match params.wait_ms.unwrap_or(0) {
            wait @ 0..=WAIT_MAX => Duration::from_millis(u64::from(wait)),
            wait => {
                return Err(
                    Refusal::invalid(format!("wait_ms {wait} is out of bounds")).fix("use 0 to 60000")
                );
            }
        };
        let from = from_cursor(params.cursor)?;
        let store = &self.shared.store;
        if !wait.is_zero() && !record.core.state.is_over() {
            let mut doorbell = store.doorbell(&record.id).await.map_err(|error| error.refusal())?;
            let mut stop = self.stop.subscribe();
            // No event in time is an empty page.
            tokio::select! {
                _ = doorbell.wait_for(|next| *next > from) => {}
                _ = stop.wait_for(Option::is_some) => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
        let events = store.events(&record.id, from, limit).await.map_err(|error| error.refusal())?;
        // The state is read after the events: a session that is over has no event behind these but what the next page has.
        let record = store.session(&record.id).await.map_err(|error| error.refusal())?;
        let record = record.ok_or_else(|| {
            Refusal::not_found("session", &params.session_id).fix("list them with `oubliette session list`")
        })?;
        let events: Vec<EventView> = events.into_iter().map(view).collect();
        Ok(EventPage {
            session_id: record.id,
            state: record.core.state.as_str().to_owned(),
            status: record.core.state.status(),
            last_index: events
                .last()
                .map_or(params.cursor, |event| i64::try_from(event.index).unwrap_or(i64::MAX)),
            events,
        })
    }

    /// A session's events from a cursor on, as they become durable. Ends when the session is over and everything was
    /// delivered, or the server stops.
    pub async fn follow(
        self: &Arc<Self>,
        asker: impl Into<Asker>,
        params: SessionEvents,
    ) -> Result<BoxStream<'static, Result<EventView, Refusal>>, Refusal> {
        let about = json!({ "session_id": params.session_id });
        let asked = Asked::new(asker.into(), Operation::SessionEvents, &about);
        let record = match self.permit_session(&asked, &params.session_id).await {
            Ok(record) => record,
            Err(refusal) => {
                self.audit_refusal(&asked, &refusal).await;
                return Err(refusal);
            }
        };
        let from = from_cursor(params.cursor)?;
        let doorbell = self.shared.store.doorbell(&record.id).await.map_err(|error| error.refusal())?;
        let state = (Arc::clone(&self.shared.store), record.id, doorbell, from, self.stop.subscribe());
        let pages = stream::try_unfold(state, |(store, id, mut doorbell, from, mut stop)| async move {
            loop {
                let events = store.events(&id, from, PAGE).await.map_err(|error| error.refusal())?;
                if let Some(last) = events.last() {
                    let next = last.index + 1;
                    let page = stream::iter(events.into_iter().map(|event| Ok(view(event))));
                    return Ok::<_, Refusal>(Some((page, (store, id, doorbell, next, stop))));
                }
                let over = store
                    .session(&id)
                    .await
                    .map_err(|error| error.refusal())?
                    .is_none_or(|record| record.core.state.is_over());
                // The state and its event are one commit: if it is over, the read above may have missed that event.
                if over && *doorbell.borrow_and_update() <= from {
                    return Ok(None);
                }
                tokio::select! {
                    rung = doorbell.wait_for(|next| *next > from) => if rung.is_err() { return Ok(None) },
                    _ = stop.wait_for(Option::is_some) => return Ok(None),
                }
            }
        });
        Ok(pages.try_flatten().boxed())
    }

    async fn workspace_for(
        &self,
        params: &SessionSpawn,
        project: &ProjectRecord,
        _session: &SessionId,
    ) -> Result<(WorkspaceRecord, bool), Refusal> {
        let shared = &self.shared;
        let refuse = |error: ob_store::StoreError| error.refusal();
        if let Some(id) = params.workspace_id {
            if params.in_place {
                return Err(Refusal::invalid("`workspace_id` and `in_place` exclude each other")
                    .fix("leave one of them out"));
            }
            let found = shared.store.workspace(id).await.map_err(refuse)?;
            let found = found.filter(|workspace| workspace.project == project.id);
            return found.map(|workspace| (workspace, false)).ok_or_else(|| {
                Refusal::not_found("workspace", id).fix("leave `workspace_id` out to get a new one")
            });
        }
        let id = WorkspaceId::from_uuid(shared.clock.uuid());
        let (kind, path) = if params.in_place {
            let source = project.source.clone().ok_or_else(|| {
                Refusal::invalid("the project has no source folder to work in")
                    .fix("leave `in_place` out, or make a project with `source`")
            })?;
            if shared.home.root().starts_with(&source) {
                return Err(Refusal::invalid(
                    "the server's own home, with its keys, is in the project's folder",
                )
                .fix("leave `in_place` out, or keep the home elsewhere (`--dir`)"));
            }
            (WorkspaceKind::InPlace, source)
        } else {
            (WorkspaceKind::Clone, shared.home.workspace(project.id, id))
        };
        let record = WorkspaceRecord {
            id,
            project: project.id,
            kind,
            path,
            base_commit: None,
            created_at: shared.now(),
        };
        Ok((record, true))
    }

    /// The place of a new session: an id that no session has, and whose short form no sandbox has.
    async fn new_place(&self) -> Result<Place, Refusal> {
        loop {
            let id = SessionId::new(self.shared.now(), self.random_u32());
            let place = match self.actors.enter(&id) {
                Entered::Vacant(place) => place,
                Entered::Driven(_) | Entered::Taken(_) => continue,
                Entered::Closed => {
                    return Err(
                        Refusal::unavailable("the server is stopping").fix("try again when it is back")
                    );
                }
            };
            let known = self.shared.store.session(&id).await.map_err(|error| error.refusal())?;
            // A folder that is there may be one that is being cleaned up.
            if known.is_none() && !self.shared.home.sandbox_runtime(&id).exists() {
                return Ok(place);
            }
        }
    }

    fn random_u32(&self) -> u32 {
        let mut bytes = [0; 4];
        self.shared.clock.random(&mut bytes);
        u32::from_ne_bytes(bytes)
    }
}

fn view(event: ob_core::Event) -> EventView {
    EventView { index: event.index, at: event.at, body: event.body }
}

/// What is shown of a session.
pub(super) fn view_of(summary: SessionSummary) -> SessionView {
    let SessionSummary { record, next_index, ledger, last_stop } = summary;
    SessionView {
        state: record.core.state.as_str().to_owned(),
        status: record.core.state.status(),
        session_id: record.id,
        project_id: record.project,
        workspace_id: record.workspace,
        tree_id: record.tree,
        parent_id: record.parent,
        title: record.title,
        agent: record.agent,
        agent_options: record.agent_options,
        model: record.model,
        isolated: is_isolated(&record.backend),
        backend: record.backend,
        enforcement: record.enforcement,
        callers: record.callers,
        questions: record.questions.into_iter().filter(Question::is_open).collect(),
        turns: record.last_turn.0,
        last_stop,
        last_index: i64::try_from(next_index).unwrap_or(i64::MAX) - 1,
        ledger,
        reason: record.reason,
        created_at: record.created_at,
        updated_at: record.updated_at,
    }
}

fn from_cursor(cursor: i64) -> Result<u64, Refusal> {
    u64::try_from(cursor.saturating_add(1))
        .map_err(|_| Refusal::invalid(format!("cursor {cursor} is out of bounds")).fix("use -1 or more"))
}

fn check_message(message: &str) -> Result<(), Refusal> {
    if message.trim().is_empty() {
        return Err(Refusal::invalid("the message is empty").fix("say what the agent shall do"));
    }
    if message.len() > MESSAGE_MAX {
        return Err(Refusal::invalid(format!("the message has {} bytes", message.len()))
            .fix("use at most 256 KiB; put the rest into a file of the project"));
    }
    Ok(())
}

fn title(message: &str) -> String {
    let line = message.trim().lines().next().unwrap_or_default();
    let clean: String = line.chars().filter(|c| !c.is_control()).collect();
    if clean.chars().count() <= TITLE_MAX {
        clean
    } else {
        let mut cut: String = clean.chars().take(TITLE_MAX - 1).collect();
        cut.push('…');
        cut
    }
}
