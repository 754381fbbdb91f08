//! What there is to use, who says so, and what is left.

use ob_config::LimitSettings;
use ob_core::Refusal;
use ob_core::TreeId;
use ob_core::ledger::Ledger;
use ob_core::ledger::TreeLimits;
use ob_core::operation::ConfigLimits;
use ob_core::operation::LimitShown;
use ob_core::operation::LimitSource;
use ob_core::operation::LimitsShown;
use ob_core::record::ProjectRecord;
use ob_core::record::SessionRecord;
use ob_core::resource::Resource;
use ob_store::StoreError;
use ob_store::Write;

use super::Asked;
use crate::Engine;
use crate::family::Family;

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
        let refuse = |error: StoreError| error.refusal();
        let found = match session {
            Some(session) => {
                let ledger = self.shared.store.ledger(&session.tree).await.map_err(refuse)?;
                let family = Family::of(&self.shared.store, &session.tree).await.map_err(refuse)?;
                ledger.map(|ledger| (ledger, family, &session.id))
            }
            None => None,
        };
        let Some((ledger, family, session)) = found else {
            return Ok(self.limits_of_new_trees(project));
        };
        let Ledger { limits, reserved, used, .. } = ledger;
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
            of_tree("depth", LEVELS, limits.max_depth.map(u64::from), number(family.depth(session)), 0),
            of_tree("agents", SESSIONS, limits.max_agents.map(u64::from), number(family.agents()), 0),
            of_tree("live_agents", SESSIONS, limits.max_live.map(u64::from), number(family.live()), 0),
            of_tree("time", "ms", limits.max_wall_ms, ledger.age_ms(self.shared.now()).unwrap_or(0), 0),
        ])
    }

    /// A tree that an earlier version made knows no limits of its sessions: it gets today's with its first child, and keeps
    /// what it may spend.
    pub(super) async fn late_limits(
        &self,
        tree: &TreeId,
        project: &ProjectRecord,
    ) -> Result<Option<Write>, Refusal> {
        let ledger = self.shared.store.ledger(tree).await.map_err(|error| error.refusal())?;
        let Some(Ledger { limits: known @ TreeLimits { max_agents: None, .. }, .. }) = ledger else {
            return Ok(None);
        };
        let TreeLimits { max_cost, max_tokens, .. } = known;
        let limits = TreeLimits { max_cost, max_tokens, ..tree_limits(project, &self.shared.limits.get()) };
        Ok(Some(Write::PutTree { tree: tree.clone(), limits }))
    }

    fn limits_of_new_trees(&self, project: &ProjectRecord) -> Vec<LimitShown> {
        let limits = tree_limits(project, &self.shared.limits.get());
        let own = project.trees;
        let source = |is_own: bool| if is_own { LimitSource::Project } else { LimitSource::Server };
        let or_nobody =
            |is_own, limit: Option<u64>| if limit.is_some() { source(is_own) } else { LimitSource::Nobody };
        let [cost, tokens] = [limits.max_cost.map(|cost| cost.0), limits.max_tokens];
        let [depth, agents, live] =
            [limits.max_depth, limits.max_agents, limits.max_live].map(|limit| limit.map(u64::from));
        let time = limits.max_wall_ms;
        vec![
            unused("cost", COST, cost, source(project.max_cost.is_some())),
            unused("tokens", "tokens", tokens, LimitSource::Nobody),
            unused("depth", LEVELS, depth, source(own.max_depth.is_some())),
            unused("agents", SESSIONS, agents, source(own.max_agents.is_some())),
            // Whoever limits how many there may ever be limits how many there may be at once.
            unused("live_agents", SESSIONS, live, source(own.max_live.or(own.max_agents).is_some())),
            unused("time", "ms", time, or_nobody(own.max_wall_ms.is_some(), time)),
        ]
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

/// What a tree that begins now may be and spend: as its project says, else as the server does.
pub(super) fn tree_limits(project: &ProjectRecord, server: &LimitSettings) -> TreeLimits {
    let own = project.trees;
    let agents = own.max_agents.unwrap_or(server.max_agents);
    let wall = server.max_wall.map(|wall| u64::try_from(wall.as_millis()).unwrap_or(u64::MAX));
    TreeLimits {
        max_cost: Some(project.max_cost.unwrap_or(server.max_cost)),
        max_tokens: None,
        max_depth: Some(own.max_depth.unwrap_or(server.max_depth)),
        max_agents: Some(agents),
        max_live: Some(own.max_live.or(server.max_live).map_or(agents, |live| live.min(agents))),
        max_wall_ms: own.max_wall_ms.or(wall),
    }
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// Levels below the root.
const LEVELS: &str = "levels";
/// Agents are sessions.
const SESSIONS: &str = "sessions";
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
