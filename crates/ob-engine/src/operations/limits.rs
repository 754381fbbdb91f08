//! What there is to use, who says so, and what is left.

use ob_core::Refusal;
use ob_core::ledger::Ledger;
use ob_core::operation::ConfigLimits;
use ob_core::operation::LimitShown;
use ob_core::operation::LimitSource;
use ob_core::operation::LimitsShown;
use ob_core::record::ProjectRecord;
use ob_core::record::SessionRecord;
use ob_core::resource::Resource;

use super::Asked;
use crate::Engine;

// === impl Engine ===

impl Engine {
    pub(super) async fn config_limits(
        &self,
        asked: &Asked,
        params: ConfigLimits,
    ) -> Result<LimitsShown, Refusal> {
        let (project, session) = match params {
            ConfigLimits { project_id: Some(project), session_id: None } => {
                self.permit_project(asked, project).await?;
                (project, None)
            }
            ConfigLimits { project_id: None, session_id: Some(session) } => {
                let record = self.permit_session(asked, &session).await?;
                (record.project, Some(record))
            }
            ConfigLimits { .. } => {
                return Err(Refusal::invalid("`config_limits` is about a project or a session")
                    .fix("give one of `project_id` and `session_id`"));
            }
        };
        let project = self.shared.project(project).await?;
        let mut limits = self.tree_limits(&project, session.as_ref()).await?;
        limits.extend(self.sandbox_limits(&project));
        Ok(LimitsShown { project_id: project.id, session_id: session.map(|session| session.id), limits })
    }

    /// Of the session's tree, or of one that begins now.
    async fn tree_limits(
        &self,
        project: &ProjectRecord,
        session: Option<&SessionRecord>,
    ) -> Result<Vec<LimitShown>, Refusal> {
        let ledger = match session {
            Some(session) => {
                self.shared.store.ledger(&session.tree).await.map_err(|error| error.refusal())?
            }
            None => None,
        };
        let Some(Ledger { limits, reserved, used }) = ledger else {
            let (limit, source) = match project.max_cost {
                Some(cost) => (cost, LimitSource::Project),
                None => (*self.shared.max_cost.get(), LimitSource::Server),
            };
            return Ok(vec![
                unused("cost", COST, Some(limit.0), source),
                unused("tokens", "tokens", None, LimitSource::Nobody),
            ]);
        };
        let of_tree = |name: &str, unit: &str, limit: Option<u64>, used: u64, reserved: u64| LimitShown {
            name: name.to_owned(),
            unit: unit.to_owned(),
            limit,
            source: if limit.is_some() { LimitSource::Tree } else { LimitSource::Nobody },
            used: Some(used),
            reserved: Some(reserved),
            remaining: limit.map(|limit| limit.saturating_sub(used).saturating_sub(reserved)),
        };
        Ok(vec![
            of_tree("cost", COST, limits.max_cost.map(|cost| cost.0), used.cost.0, reserved.cost.0),
            of_tree("tokens", "tokens", limits.max_tokens, used.tokens, reserved.tokens),
        ])
    }

    fn sandbox_limits(&self, project: &ProjectRecord) -> impl Iterator<Item = LimitShown> {
        let bounds = self.shared.project_limits(project).bounds();
        Resource::ALL.into_iter().map(move |resource| {
            let bound = bounds.iter().find(|(bounded, _)| *bounded == resource).map(|(_, bound)| *bound);
            let source = match bound {
                None => LimitSource::Nobody,
                Some(_) if project.limits.contains_key(&resource) => LimitSource::Project,
                Some(_) => LimitSource::Server,
            };
            let name = serde_json::to_value(resource).ok();
            let name = name.as_ref().and_then(|name| name.as_str()).unwrap_or_default();
            unused(name, unit(resource), bound, source)
        })
    }
}

/// Millionths of a US dollar.
const COST: &str = "micro_usd";

fn unused(name: &str, unit: &str, limit: Option<u64>, source: LimitSource) -> LimitShown {
    let (name, unit) = (name.to_owned(), unit.to_owned());
    LimitShown { name, unit, limit, source, used: None, reserved: None, remaining: None }
}

const fn unit(resource: Resource) -> &'static str {
    match resource {
        Resource::Memory | Resource::Disk => "bytes",
        Resource::Pids => "processes",
        Resource::Cpu => "milli_cpu",
        Resource::OpenFiles | Resource::Inodes => "files",
        Resource::WallTime => "ms",
        Resource::OutputRate => "bytes_per_s",
    }
}
