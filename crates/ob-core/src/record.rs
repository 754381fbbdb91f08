//! Records: what the store keeps of each thing, and what the doors show of it. No record holds a secret.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::Serialize;

use crate::agent::AgentOptions;
use crate::agent::Autonomy;
use crate::agent::Reasoning;
use crate::authorize::Scope;
use crate::caller::Caller;
use crate::id::ProjectId;
use crate::id::QuestionId;
use crate::id::SessionId;
use crate::id::TokenId;
use crate::id::TreeId;
use crate::id::TurnNumber;
use crate::id::WorkspaceId;
use crate::ledger::Ledger;
use crate::ledger::MicroUsd;
use crate::model::ModelRef;
use crate::question::Question;
use crate::resource::Enforcement;
use crate::resource::Resource;
use crate::session::Session;
use crate::session::TurnStop;
use crate::time::Timestamp;
use crate::turn::TurnState;

/// A project: where work happens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProjectRecord {
    /// Its id.
    pub id: ProjectId,
    /// A small number that is never used again; a server that runs as root derives the project's host uid from it.
    pub number: u32,
    /// Its name; need not be unique.
    pub name: String,
    /// For people.
    #[serde(default)]
    pub description: String,
    /// The folder on this machine that workspaces are cloned from, if any. Absolute.
    #[serde(default)]
    pub source: Option<PathBuf>,
    /// The most that one tree of sessions may spend.
    #[serde(default)]
    pub max_cost: Option<MicroUsd>,
    /// The default model, as the configuration names it.
    #[serde(default)]
    pub model: Option<String>,
    /// What its trees may be, where that differs from the server's limits.
    #[serde(default, skip_serializing_if = "ProjectTrees::is_empty")]
    pub trees: ProjectTrees,
    /// What its sandboxes may use, where that differs from the server's limits, in the unit of each resource.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<Resource, u64>,
    /// Its agent, where that differs from the server's.
    #[serde(default, skip_serializing_if = "ProjectAgent::is_empty")]
    pub agent: ProjectAgent,
    /// When it was made.
    pub created_at: Timestamp,
}

/// What the trees of a project's sessions may be. What is unset is as the server has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProjectTrees {
    /// How far below the root a session may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_depth: Option<u32>,
    /// The most sessions ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_agents: Option<u32>,
    /// The most sessions that are not over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_live: Option<u32>,
    /// For how long a tree may start sessions and call models, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_wall_ms: Option<u64>,
}

// === impl ProjectTrees ===

impl ProjectTrees {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What sessions of a project ask of their agent if they do not say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProjectAgent {
    /// Which one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it may do without asking.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autonomy: Option<Autonomy>,
    /// How hard its model shall think.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<Reasoning>,
    /// Tools that it may never use; what a session names comes on top.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disabled_tools: Vec<String>,
}

// === impl ProjectAgent ===

impl ProjectAgent {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// How a workspace got its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WorkspaceKind {
    /// Our own copy: a clone of the project's source, or empty.
    Clone,
    /// The user's own folder, by explicit choice.
    InPlace,
}

/// A workspace: one working directory of a project.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkspaceRecord {
    /// Its id.
    pub id: WorkspaceId,
    /// Its project.
    pub project: ProjectId,
    /// How it got its files.
    pub kind: WorkspaceKind,
    /// The working directory on this machine. Absolute.
    pub path: PathBuf,
    /// The commit in the workspace's base repository that diffs are made against.
    #[serde(default)]
    pub base_commit: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
}

/// A session, whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// Its id.
    pub id: SessionId,
    /// Its project.
    pub project: ProjectId,
    /// Its workspace.
    pub workspace: WorkspaceId,
    /// The tree that its limits belong to.
    pub tree: TreeId,
    /// The session that started it, if any.
    #[serde(default)]
    pub parent: Option<SessionId>,
    /// Where it stands.
    pub core: Session,
    /// The agent that runs in it.
    pub agent: String,
    /// What is asked of it.
    #[serde(default)]
    pub agent_options: AgentOptions,
    /// The model that it uses.
    pub model: ModelRef,
    /// The sandbox backend.
    pub backend: String,
    /// How the limits of its newest sandbox are held; nothing before the first one.
    #[serde(default)]
    pub enforcement: Option<Enforcement>,
    /// The first words of the task.
    pub title: String,
    /// Number of the newest turn.
    pub last_turn: TurnNumber,
    /// Who does something for its agent, and what.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub callers: Vec<Caller>,
    /// What its agent asked and was not told yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub questions: Vec<Question>,
    /// The id of its newest question.
    #[serde(default, skip_serializing_if = "QuestionId::is_none")]
    pub last_question: QuestionId,
    /// True if the session ends by itself when its queue is empty (`run`).
    #[serde(default)]
    pub end_when_idle: bool,
    /// Why it ended or failed, for people.
    #[serde(default)]
    pub reason: Option<String>,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When its state last changed.
    pub updated_at: Timestamp,
}

// === impl SessionRecord ===

impl SessionRecord {
    /// What may be answered, oldest first.
    pub fn open_questions(&self) -> impl Iterator<Item = &Question> {
        self.questions.iter().filter(|question| question.is_open())
    }

    /// True if something may be answered.
    pub fn has_open_question(&self) -> bool {
        self.open_questions().next().is_some()
    }
}

/// A turn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TurnRecord {
    /// Its session.
    pub session: SessionId,
    /// Its number in the session, from 1.
    pub number: TurnNumber,
    /// What the agent was told.
    pub prompt: String,
    /// Where it stands.
    pub state: TurnState,
    /// How it stopped, if it did.
    #[serde(default)]
    pub stop: Option<TurnStop>,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When it was over.
    #[serde(default)]
    pub ended_at: Option<Timestamp>,
}

/// A token, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TokenRecord {
    /// The public id.
    pub id: TokenId,
    /// The name that its maker gave it, `[a-z0-9._-]{1,64}`, unique among tokens that are not revoked.
    pub name: String,
    /// What it may do.
    pub scope: Scope,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it stops working, if ever.
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
    /// When it was revoked, if it was.
    #[serde(default)]
    pub revoked_at: Option<Timestamp>,
}

/// A session as the doors show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SessionView {
    /// Its id.
    pub session_id: SessionId,
    /// Its project.
    pub project_id: ProjectId,
    /// Its workspace.
    pub workspace_id: WorkspaceId,
    /// Its tree.
    pub tree_id: TreeId,
    /// The session that started it, if one did.
    #[serde(default)]
    pub parent_id: Option<SessionId>,
    /// Its state in one word.
    pub state: String,
    /// `active`, `completed` or `failed`.
    pub status: crate::session::SessionStatus,
    /// The first words of the task.
    pub title: String,
    /// The agent.
    pub agent: String,
    /// What is asked of it.
    #[serde(default)]
    pub agent_options: AgentOptions,
    /// The model.
    pub model: ModelRef,
    /// The sandbox backend.
    pub backend: String,
    /// False if the backend keeps nothing that runs inside from the machine.
    #[serde(default = "is_isolated_by_default")]
    pub isolated: bool,
    /// How the limits of its newest sandbox are held; nothing before the first one.
    #[serde(default)]
    pub enforcement: Option<Enforcement>,
    /// Number of turns.
    pub turns: u32,
    /// How the newest turn that is over stopped.
    #[serde(default)]
    pub last_stop: Option<TurnStop>,
    /// Who does something for its agent, and what; not in lists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub callers: Vec<Caller>,
    /// What its agent asked and nobody answered yet, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub questions: Vec<Question>,
    /// The number of the newest event; -1 if there is none.
    pub last_index: i64,
    /// The books of its tree.
    pub ledger: Ledger,
    /// Why it ended or failed, for people.
    #[serde(default)]
    pub reason: Option<String>,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When its state last changed.
    pub updated_at: Timestamp,
}

/// Servers that do not say so know no other backend.
const fn is_isolated_by_default() -> bool {
    true
}

impl TokenRecord {
    /// True if the token works at `now`.
    pub fn is_valid_at(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|end| now < end)
    }
}
