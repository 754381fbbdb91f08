//! Who asks for what, and whether they may: the one way to the authoriser, and to the audit.

use std::collections::BTreeMap;

use ob_core::Principal;
use ob_core::ProjectId;
use ob_core::Refusal;
use ob_core::SessionId;
use ob_core::audit;
use ob_core::audit::Asker;
use ob_core::audit::AuditEntry;
use ob_core::authorize::Kin;
use ob_core::authorize::Target;
use ob_core::authorize::authorize;
use ob_core::operation::Access;
use ob_core::operation::Operation;
use ob_core::record::SessionRecord;
use serde_json::Value;

use crate::Engine;

/// Who asks for what.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) asker: Asker,
    pub(crate) operation: Operation,
    /// What it is about, as the audit has it.
    about: BTreeMap<String, String>,
}

// === impl Asked ===

impl Asked {
    pub(crate) fn new(asker: Asker, operation: Operation, params: &Value) -> Self {
        // Reads are in the audit only if they are refused.
        Self { asker, operation, about: audit::about(params) }
    }
}

// === impl Engine ===

impl Engine {
    /// Asks the authoriser. What changes something is in the audit when this returns, and only then done.
    pub(crate) async fn permit(&self, asked: &Asked, target: Target) -> Result<(), Refusal> {
        authorize(&asked.asker.principal, asked.operation, target)?;
        if asked.operation.spec().access == Access::Read {
            return Ok(());
        }
        let entry = AuditEntry::permitted(self.shared.now(), &asked.asker, asked.operation, &asked.about);
        match self.shared.audit.append(entry).await {
            Ok(()) => Ok(()),
            Err(error) if only_stops(asked.operation) => {
                tracing::error!(%error, operation = %asked.operation.spec().name(), "not in the audit, and done");
                Ok(())
            }
            Err(error) => {
                let refusal = error.refusal();
                let message = format!("what is done must be in the audit: {}", refusal.message);
                Err(Refusal { message, ..refusal })
            }
        }
    }

    /// The same for a project, which is not found by whoever may not see it.
    pub(crate) async fn permit_project(&self, asked: &Asked, project: ProjectId) -> Result<(), Refusal> {
        if !asked.asker.principal.may_see(project) {
            return Err(Refusal::not_found("project", project).fix("list them with `oubliette project list`"));
        }
        self.permit(asked, Target::Project(project)).await
    }

    /// The same for a session.
    pub(crate) async fn permit_session(
        &self,
        asked: &Asked,
        session: &SessionId,
    ) -> Result<SessionRecord, Refusal> {
        let found = self.shared.store.session(session).await.map_err(|error| error.refusal())?;
        self.permitted(asked, session, found, |record| record).await
    }

    /// The same for the session that asks. Whoever is none is refused.
    pub(crate) async fn permit_oneself(&self, asked: &Asked) -> Result<SessionRecord, Refusal> {
        match &asked.asker.principal {
            Principal::Session { id, .. } => self.permit_session(asked, id).await,
            _ => Err(match self.permit(asked, Target::Global).await {
                Err(refusal) => refusal,
                Ok(()) => Refusal::internal("there is no session to ask for").fix("report it"),
            }),
        }
    }

    /// What was found of a session, for whoever may see it and do this with it.
    pub(crate) async fn permitted<T: Send>(
        &self,
        asked: &Asked,
        session: &SessionId,
        found: Option<T>,
        record: impl Fn(&T) -> &SessionRecord,
    ) -> Result<T, Refusal> {
        let unknown =
            || Refusal::not_found("session", session).fix("list them with `oubliette session list`");
        let found = found.ok_or_else(unknown)?;
        let SessionRecord { id, project, parent, .. } = record(&found);
        let (id, project, parent) = (id.clone(), *project, parent.clone());
        let principal = &asked.asker.principal;
        let kin = self.kin(principal, id, parent).await?;
        let hidden = matches!(principal, Principal::Session { .. }) && kin == Kin::Other;
        if hidden || !principal.may_see(project) {
            return Err(unknown());
        }
        self.permit(asked, Target::Session { project, kin }).await?;
        Ok(found)
    }

    /// What a session is to whoever asks, as the store has it: nothing that is said in a request counts.
    async fn kin(
        &self,
        principal: &Principal,
        session: SessionId,
        parent: Option<SessionId>,
    ) -> Result<Kin, Refusal> {
        let Principal::Session { id: asker, .. } = principal else { return Ok(Kin::Other) };
        if *asker == session {
            return Ok(Kin::Oneself);
        }
        let mut above = parent;
        while let Some(id) = above {
            if id == *asker {
                return Ok(Kin::Below);
            }
            let found = self.shared.store.session(&id).await.map_err(|error| error.refusal())?;
            above = found.and_then(|record| record.parent);
        }
        Ok(Kin::Other)
    }

    /// Writes a refusal into the audit. That it cannot be written does not make it less of one.
    pub(crate) async fn audit_refusal(&self, asked: &Asked, refusal: &Refusal) {
        let (asker, code) = (&asked.asker, refusal.code);
        let entry = AuditEntry::refused(self.shared.now(), asker, asked.operation, &asked.about, code);
        self.audit(entry).await;
    }

    /// Adds an entry about something that did not happen.
    pub(super) async fn audit(&self, entry: AuditEntry) {
        if let Err(error) = self.shared.audit.append(entry).await {
            tracing::error!(%error, "a refusal is not in the audit");
        }
    }
}

/// True for what ends something: that must be possible on a full disk.
const fn only_stops(operation: Operation) -> bool {
    matches!(
        operation,
        Operation::SessionInterrupt | Operation::SessionEnd | Operation::TokenRevoke | Operation::ServerStop
    )
}
