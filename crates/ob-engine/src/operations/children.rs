//! Children: sessions that a session starts, within the limits of its tree and with no more rights than it has itself.
//!
//! Who is whose child comes from the gate that was asked through, never from a parameter. The limits are kept by the store
//! (`ob_core::ledger::Ledger::join`), in the transaction that records the child.

use std::sync::Arc;

use ob_core::EventBody;
use ob_core::EventKind;
use ob_core::Refusal;
use ob_core::RefusalCode;
use ob_core::SessionId;
use ob_core::ledger::OverLimit;
use ob_core::operation::SessionAccepted;
use ob_core::operation::SessionList;
use ob_core::operation::SessionSpawn;
use ob_core::record::SessionRecord;
use ob_core::record::SessionView;
use ob_store::Commit;
use ob_store::StoreError;
use ob_store::Write;
use serde_json::json;

use crate::Engine;
use crate::actor::Command;
use crate::family::Family;

// === impl Engine ===

impl Engine {
    /// `session.spawn`, asked for by a session: the new one is its child.
    pub(super) async fn session_spawn_child(
        self: &Arc<Self>,
        parent: &SessionId,
        params: SessionSpawn,
    ) -> Result<SessionAccepted, Refusal> {
        let found = self.shared.store.session(parent).await.map_err(|error| error.refusal())?;
        let parent = found.ok_or_else(|| {
            Refusal::not_found("session", parent).fix("it was deleted: there is nothing left to do")
        })?;
        let params = never_weaker(params, &parent)?;
        self.session_spawn(params, Some(&parent)).await
    }

    /// A child that was refused is an event of its parent: it says which limit of the tree was reached.
    pub(super) async fn tell_of_limit(&self, parent: &SessionRecord, over: OverLimit) {
        let refusal = StoreError::OverLimit(over).refusal();
        let event =
            EventBody::new(EventKind::Error).text(format!("no child was started: {refusal}")).data(json!({
                "code": refusal.code, "message": refusal.message, "fix": refusal.fix,
                "limit": over.name(), "value": over.limit(), "source": "tree",
            }));
        let append = Write::Append { session: parent.id.clone(), events: vec![event] };
        let commit = Commit { writes: vec![append], fence: Some(self.shared.epoch) };
        if let Err(error) = self.record(commit).await {
            // The refusal stands without it.
            tracing::warn!(session = %parent.id, %error, "an event about a limit was lost");
        }
    }

    /// Stops what those below a session work on. Whoever is not at work is left alone.
    pub(super) async fn interrupt_below(&self, session: &SessionRecord) -> Result<(), Refusal> {
        let family = Family::of(&self.shared.store, &session.tree).await.map_err(|error| error.refusal())?;
        let has_work = |below: &&SessionRecord| below.core.active.is_some() || !below.core.queue.is_empty();
        for below in family.below(&session.id).filter(has_work) {
            match self.ask(below, |reply| Command::Interrupt { reply }).await {
                Ok(()) => {}
                // It is done by itself meanwhile.
                Err(refusal) if refusal.code == RefusalCode::Conflict => {}
                Err(refusal) => return Err(refusal),
            }
        }
        Ok(())
    }

    /// The sessions below one, newest first.
    pub(super) async fn list_below(
        &self,
        session: &SessionId,
        params: SessionList,
        limit: usize,
    ) -> Result<Vec<SessionView>, Refusal> {
        let found = self.shared.store.session(session).await.map_err(|error| error.refusal())?;
        let Some(record) = found else { return Ok(Vec::new()) };
        if params.project_id.is_some_and(|project| project != record.project) {
            return Err(Refusal::not_found("project", "of another tree").fix("leave `project_id` out"));
        }
        let family = Family::of(&self.shared.store, &record.tree).await.map_err(|error| error.refusal())?;
        let mut below: Vec<_> = family.below(session).cloned().collect();
        if let Some(before) = &params.before {
            let place = below.iter().position(|record| record.id == *before).ok_or_else(|| {
                Refusal::not_found("session", before).fix("leave `before` out to begin with the newest")
            })?;
            below.drain(..=place);
        }
        below.retain(|record| params.status.is_none_or(|status| record.core.state.status() == status));
        below.truncate(limit);
        self.views(below).await
    }
}

/// The event by which a parent's log tells of its child, in the commit that makes the child.
pub(super) fn started(parent: &SessionRecord, child: &SessionRecord) -> Write {
    let event = EventBody::system(format!("started session {}: {}", child.id, child.title))
        .data(json!({ "child": child.id, "workspace": child.workspace }));
    let event = EventBody { turn: parent.core.active, ..event };
    Write::Append { session: parent.id.clone(), events: vec![event] }
}

/// Invariant 8, `never_weaker`: what a child asks for, unless it is more than its parent has. What it does not say is as its
/// parent has it.
fn never_weaker(mut params: SessionSpawn, parent: &SessionRecord) -> Result<SessionSpawn, Refusal> {
    let refuse = |what: &str, fix: &str| Err(Refusal::new(RefusalCode::Forbidden, what).fix(fix));
    if params.in_place || params.workspace_id.is_some_and(|workspace| workspace != parent.workspace) {
        return refuse(
            "a child works in its parent's workspace or in a new one",
            "leave `in_place` and `workspace_id` out; `create_workspace` makes a new one",
        );
    }
    if !params.create_workspace {
        params.workspace_id = Some(parent.workspace);
    }
    let options = &parent.agent_options;
    if params.autonomy_level.is_some_and(|level| level > options.autonomy) {
        return refuse(
            "a child may do no more without asking than its parent",
            "ask for a lower `autonomy_level`, or leave it out",
        );
    }
    let is_bound = !options.tools_allowed.is_empty() || !options.tools_disallowed.is_empty();
    if is_bound && params.agent.as_ref().is_some_and(|agent| *agent != parent.agent) {
        return refuse(
            "this session may not use all tools, and another agent's have other names",
            "leave `agent` out",
        );
    }
    if !options.tools_allowed.is_empty() {
        if let Some(more) = params.tools_allowed.iter().find(|tool| !options.tools_allowed.contains(tool)) {
            return refuse(&format!("its parent may not use `{more}`"), "leave it out of `tools_allowed`");
        }
        if params.tools_allowed.is_empty() {
            params.tools_allowed.clone_from(&options.tools_allowed);
        }
    }
    for tool in &options.tools_disallowed {
        if !params.tools_disallowed.contains(tool) {
            params.tools_disallowed.push(tool.clone());
        }
    }
    params.agent.get_or_insert_with(|| parent.agent.clone());
    params.autonomy_level.get_or_insert(options.autonomy);
    params.reasoning_level = params.reasoning_level.or(options.reasoning);
    Ok(params)
}
