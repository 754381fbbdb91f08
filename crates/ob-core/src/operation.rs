//! The operation table: every capability, defined once. From it come the routes, the permission matrix and the
//! reference documents; doors only translate.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::Serialize;

use crate::agent::AgentView;
use crate::agent::Autonomy;
use crate::agent::Reasoning;
use crate::audit::AuditRow;
use crate::audit::AuditVerdict;
use crate::authorize::Scope;
use crate::caller::CallerTool;
use crate::id::ProjectId;
use crate::id::QuestionId;
use crate::id::SessionId;
use crate::id::TurnNumber;
use crate::id::WorkspaceId;
use crate::model::ModelChecked;
use crate::model::ModelView;
use crate::question::Question;
use crate::record::ProjectRecord;
use crate::record::SessionView;
use crate::record::TokenRecord;
use crate::record::WorkspaceRecord;

/// What an operation does to its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Looks.
    Read,
    /// Changes.
    Write,
    /// Concerns who may do what, or the server itself.
    Admin,
    /// Changes the session that asks; only its agent may, from within its sandbox.
    Inside,
}

/// What an operation is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetKind {
    /// The server as a whole.
    Global,
    /// One project, or a session or workspace in it.
    Project,
}

/// How an operation is reached over HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Reads; parameters in path and query.
    Get,
    /// Changes; parameters in path and body.
    Post,
    /// Removes; parameters in path.
    Delete,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct OperationSpec {
    /// The tool that it is an action of.
    pub tool: &'static str,
    /// The action.
    pub action: &'static str,
    /// What it is about.
    pub target: TargetKind,
    /// What it does to it.
    pub access: Access,
    /// Its method over HTTP.
    pub method: Method,
    /// Its path over HTTP under `/api/v1`, parameters in braces.
    pub path: &'static str,
    /// What it does, one sentence for people.
    pub doc: &'static str,
    /// The JSON Schema of its parameters.
    pub parameters: fn() -> schemars::Schema,
    /// The JSON Schema of what it answers.
    pub answer: fn() -> schemars::Schema,
}

macro_rules! operations {
    ($($(#[doc = $doc:literal])+ $variant:ident = $tool:literal $action:literal, $target:ident $access:ident,
        $method:ident $path:literal, $params:ty => $answer:ty;)*) => {
        /// Every operation.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Operation {
            $($(#[doc = $doc])+ $variant,)*
        }

        impl Operation {
            /// Every operation, in the order of the documents.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The row of this operation.
            pub const fn spec(self) -> OperationSpec {
                match self {
                    $(Self::$variant => OperationSpec {
                        tool: $tool,
                        action: $action,
                        target: TargetKind::$target,
                        access: Access::$access,
                        method: Method::$method,
                        path: $path,
                        doc: concat!($($doc),+),
                        parameters: || schemars::schema_for!($params),
                        answer: || schemars::schema_for!($answer),
                    },)*
                }
            }
        }
    };
}

operations! {
    /// Makes a project from a folder of this machine, or an empty one.
    ProjectCreate = "project" "create", Global Write, Post "/projects", ProjectCreate => ProjectRecord;
    /// Lists the projects that the asker may see.
    ProjectList = "project" "list", Global Read, Get "/projects", ProjectList => Vec<ProjectRecord>;
    /// Shows one project.
    ProjectGet = "project" "get", Project Read, Get "/projects/{project_id}", ProjectTarget => ProjectRecord;
    /// Deletes a project with its workspaces; refused while it has active sessions.
    ProjectDelete = "project" "delete", Project Write, Delete "/projects/{project_id}", ProjectTarget => ProjectDeleted;
    /// Lists the workspaces of a project.
    WorkspaceList = "workspace" "list", Project Read, Get "/projects/{project_id}/workspaces", ProjectTarget => Vec<WorkspaceRecord>;
    /// Deletes a workspace that has no active session.
    WorkspaceDelete = "workspace" "delete", Project Write, Delete "/projects/{project_id}/workspaces/{workspace_id}", WorkspaceTarget => WorkspaceDeleted;
    /// Starts a session with its first task.
    SessionSpawn = "session" "spawn", Project Write, Post "/sessions", SessionSpawn => SessionAccepted;
    /// Gives a session another task, after what it already has.
    SessionMessage = "session" "message", Project Write, Post "/sessions/{session_id}/message", SessionMessage => SessionAccepted;
    /// Answers what a session's agent asked.
    SessionAnswer = "session" "answer", Project Write, Post "/sessions/{session_id}/answer", SessionAnswer => Question;
    /// Stops what the session's agent is doing; the session goes on.
    SessionInterrupt = "session" "interrupt", Project Write, Post "/sessions/{session_id}/interrupt", SessionTarget => SessionInterrupted;
    /// Ends a session, its agent and its sandbox; its events and its workspace stay.
    SessionEnd = "session" "end", Project Write, Post "/sessions/{session_id}/end", SessionTarget => SessionEnded;
    /// Shows one session.
    SessionGet = "session" "get", Project Read, Get "/sessions/{session_id}", SessionTarget => SessionView;
    /// Lists sessions, newest first, of one project or of all that the asker may see.
    SessionList = "session" "list", Global Read, Get "/sessions", SessionList => Vec<SessionView>;
    /// Reads a session's events from a cursor, as a page or as a stream.
    SessionEvents = "session" "events", Project Read, Get "/sessions/{session_id}/events", SessionEvents => EventPage;
    /// Tells what came of a session's task, if need be once it is over.
    SessionResult = "session" "result", Project Read, Get "/sessions/{session_id}/result", SessionResult => TurnResult;
    /// Shows what changed in the session's workspace, as a patch.
    SessionDiff = "session" "diff", Project Read, Get "/sessions/{session_id}/diff", SessionTarget => SessionDiff;
    /// Answers a call of a tool of the session's caller: `result`, or `error` if it could not be done.
    CallerToolResponse = "caller_tool_response" "send", Project Write, Post "/sessions/{session_id}/caller_tool_response", CallerToolResponse => Question;
    /// Asks a person, and tells the answer once there is one; only for agents, from within their sandboxes.
    SessionAsk = "ask" "person", Project Inside, Post "/ask", SessionAsk => Question;
    /// Calls a tool of the session's caller, and tells its result once there is one; only for agents, from within their sandboxes.
    CallerToolCall = "caller_tool" "call", Project Inside, Post "/caller_tool", CallerToolCall => Question;
    /// Shows what a project's sessions may use, or what a session's tree may and has: each limit, who sets it, and what is left.
    ConfigLimits = "config_limits" "get", Project Read, Get "/limits", ConfigLimits => LimitsShown;
    /// Lists the agents that sessions can have.
    AgentList = "agent" "list", Global Read, Get "/agents", Nothing => Vec<AgentView>;
    /// Looks whether an agent can be used: where its program is, its version, what it can be told and what is missing.
    AgentCheck = "agent" "check", Global Read, Get "/agents/{agent}", AgentTarget => AgentView;
    /// Lists the models that sessions can name: configured ones, and those of servers found on this machine. Calls none.
    ModelList = "model" "list", Global Read, Get "/models", Nothing => Vec<ModelView>;
    /// Sends a model one small request, as an agent would, and tells whether it answers, how fast, and whether it calls a tool well; what that costs counts towards no limit.
    ModelCheck = "model" "check", Global Admin, Post "/models/check", ModelTarget => ModelChecked;
    /// Makes a token; its secret is in the answer and nowhere else.
    TokenCreate = "token" "create", Global Admin, Post "/tokens", TokenCreate => TokenCreated;
    /// Lists tokens, without their secrets.
    TokenList = "token" "list", Global Admin, Get "/tokens", Nothing => Vec<TokenRecord>;
    /// Revokes a token, at once.
    TokenRevoke = "token" "revoke", Global Admin, Post "/tokens/{token}/revoke", TokenTarget => TokenRecord;
    /// Shows one token, without its secret.
    TokenInfo = "token" "info", Global Admin, Get "/tokens/{token}", TokenTarget => TokenRecord;
    /// Lists the audit, newest first: what was changed or refused, by whom, in which request.
    AuditList = "audit" "list", Global Admin, Get "/audit", AuditList => Vec<AuditRow>;
    /// Looks at the whole audit: every entry is there and as it was written, or what is not.
    AuditVerify = "audit" "verify", Global Admin, Get "/audit/verify", Nothing => AuditVerdict;
    /// Reads the audit for other programs, oldest first, page by page.
    AuditExport = "audit" "export", Global Admin, Get "/audit/export", AuditExport => AuditExported;
    /// Shows what the server is doing.
    ServerStatus = "server" "status", Global Read, Get "/server", Nothing => ServerStatus;
    /// Stops the server: it takes no more work, ends or keeps its sandboxes, and exits.
    ServerStop = "server" "stop", Global Admin, Post "/server/stop", ServerStop => ServerStopping;
    /// Reads the configuration anew and takes what a running server can take; the rest needs a restart.
    ServerReload = "server" "reload", Global Admin, Post "/server/reload", ServerReload => ServerReloaded;
}

// === impl OperationSpec ===

impl OperationSpec {
    /// `tool.action`.
    pub fn name(&self) -> String {
        format!("{}.{}", self.tool, self.action)
    }
}

/// No parameters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// Parameters of `project create`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProjectCreate {
    /// Its name, 1 to 200 characters.
    #[schemars(length(min = 1, max = 200))]
    pub name: String,
    /// For people.
    #[serde(default)]
    pub description: String,
    /// The folder on the server's machine that workspaces are cloned from. Absolute.
    #[serde(default)]
    pub source: Option<PathBuf>,
    /// The most that one tree of sessions may spend, in US dollars; the server's default if unset.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub max_cost_usd: Option<f64>,
    /// The default model, as the configuration names it.
    #[serde(default)]
    pub model: Option<String>,
    /// How far below its root, which is at 0, a session of one tree may be; the server's default if unset.
    #[serde(default)]
    #[schemars(range(max = 100))]
    pub max_recursion_depth: Option<u32>,
    /// The most sessions that one tree may ever have, the root among them; the server's default if unset.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_agents_per_session: Option<u32>,
    /// The most sessions of one tree that are not over at any time; the server's default if unset.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_live_agents: Option<u32>,
    /// For how many seconds one tree may start sessions and call models; the server's default if unset.
    #[serde(default)]
    #[schemars(range(min = 1, max = 31_536_000))]
    pub max_wall_s: Option<u64>,
    /// What its sandboxes may use, where that differs from the server's limits: bytes of `memory` and `disk`, bytes a
    /// second of `output_rate`, thousandths of `cpu`, milliseconds of `wall_time`, numbers of `pids`, `open_files`,
    /// `inodes`.
    #[serde(default)]
    pub limits: std::collections::BTreeMap<crate::resource::Resource, u64>,
    /// The agent of its sessions, by its name in `agent list`; the server's default if unset.
    #[serde(default)]
    pub agent_runtime: Option<String>,
    /// What its agents may do without asking; the server's default if unset.
    #[serde(default)]
    pub autonomy: Option<Autonomy>,
    /// How hard its agents' models shall think.
    #[serde(default)]
    pub reasoning: Option<Reasoning>,
    /// Tools that its agents may never use, by the agent's own names.
    #[serde(default)]
    #[schemars(length(max = 100))]
    pub disabled_tools: Vec<String>,
}

/// Parameters of `project list`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProjectList {
    /// Only those whose name contains this, upper and lower case alike.
    #[serde(default)]
    pub name_contains: Option<String>,
    /// At most so many, 1 to 1000.
    #[serde(default)]
    pub limit: Option<u32>,
}

/// A project.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProjectTarget {
    /// The project.
    pub project_id: ProjectId,
}

/// A workspace of a project.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WorkspaceTarget {
    /// The project.
    pub project_id: ProjectId,
    /// The workspace.
    pub workspace_id: WorkspaceId,
}

/// Parameters of `session spawn`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SessionSpawn {
    /// The project.
    pub project_id: ProjectId,
    /// The task, 1 byte to 256 KiB.
    #[schemars(length(min = 1, max = 262_144))]
    pub message: String,
    /// The workspace to work in; if unset, `create_workspace` says which.
    #[serde(default)]
    pub workspace_id: Option<WorkspaceId>,
    /// Without `workspace_id`: work in a new clone of the project's source; if false, in the project's first workspace.
    #[serde(default = "yes")]
    pub create_workspace: bool,
    /// Start a new session; if false, go on in the newest one of the workspace, if there is one that is not over.
    #[serde(default = "yes")]
    pub new_session: bool,
    /// Work in the project's source folder itself instead of a clone.
    #[serde(default)]
    pub in_place: bool,
    /// The model, as the configuration names it; the project's default if unset.
    #[serde(default)]
    pub model: Option<String>,
    /// End the session when it has nothing more to do.
    #[serde(default)]
    pub end_when_idle: bool,
    /// The agent, by its name in `agent list`; the project's default if unset.
    #[serde(default)]
    pub agent: Option<String>,
    /// What the agent may do without asking; the project's default if unset.
    #[serde(default)]
    pub autonomy_level: Option<Autonomy>,
    /// How hard the agent's model shall think; the project's default if unset.
    #[serde(default)]
    pub reasoning_level: Option<Reasoning>,
    /// The only tools that the agent may use, by its own names; all if there are none.
    #[serde(default)]
    #[schemars(length(max = 100))]
    pub tools_allowed: Vec<String>,
    /// Tools that the agent may not use, by its own names; the project's come on top.
    #[serde(default)]
    #[schemars(length(max = 100))]
    pub tools_disallowed: Vec<String>,
    /// Wait so many milliseconds for the task to be over and tell what came of it, at most 60000; if unset, the
    /// answer comes at once.
    #[serde(default)]
    #[schemars(range(max = 60_000))]
    pub wait_ms: Option<u32>,
    /// Who you are to the agent, if you do something for it: 1 to 32 letters, digits, `-` and `_`.
    #[serde(default)]
    #[schemars(length(min = 1, max = 32))]
    pub caller_id: Option<String>,
    /// What you do for the agent, which is offered each as `{caller_id}_{name}`; a call is a `caller_tool_request` event.
    #[serde(default)]
    #[schemars(length(max = 32))]
    pub caller_tools: Vec<CallerTool>,
}

/// Parameters of `session message`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SessionMessage {
    /// The session.
    pub session_id: SessionId,
    /// The task, 1 byte to 256 KiB.
    #[schemars(length(min = 1, max = 262_144))]
    pub message: String,
    /// Who you are to the agent, if you do something for it: 1 to 32 letters, digits, `-` and `_`.
    #[serde(default)]
    #[schemars(length(min = 1, max = 32))]
    pub caller_id: Option<String>,
    /// What you do for the agent from now on, in the place of what you declared before.
    #[serde(default)]
    #[schemars(length(max = 32))]
    pub caller_tools: Vec<CallerTool>,
}

/// Parameters of `session answer`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SessionAnswer {
    /// The session.
    pub session_id: SessionId,
    /// The question, as the session's `questions` name it; the open one if unset and there is only one.
    #[serde(default)]
    pub question_id: Option<QuestionId>,
    /// The answer, 1 byte to 64 KiB; one of the question's choices if it has any.
    #[schemars(length(min = 1, max = 65_536))]
    pub answer: String,
}

/// Parameters of `caller_tool_response`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CallerToolResponse {
    /// The session.
    pub session_id: SessionId,
    /// The call, as its `caller_tool_request` event names it.
    pub request_id: QuestionId,
    /// What came of it: a text or any JSON, at most 64 KiB.
    #[serde(default)]
    pub result: Option<serde_json::Value>,
    /// Why it could not be done; instead of `result`.
    #[serde(default)]
    pub error: Option<String>,
}

/// Parameters of a call of a caller's tool. Whose call it is, is said by the gate that it comes through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CallerToolCall {
    /// The tool, as the agent is offered it.
    pub tool: String,
    /// What it is called with, at most 32 KiB.
    #[serde(default)]
    pub arguments: serde_json::Map<String, serde_json::Value>,
    /// For how many milliseconds this call waits for its result, at most 60000; 50000 if unset.
    #[serde(default)]
    #[schemars(range(max = 60_000))]
    pub wait_ms: Option<u32>,
}

/// Parameters of `ask`. Whose question it is, is said by the gate that it comes through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SessionAsk {
    /// What you want to know, 1 byte to 16 KiB, with all that one has to know to answer it.
    #[schemars(length(min = 1, max = 16_384))]
    pub question: String,
    /// Answers to choose from, at most 20 of 200 bytes; if there are none, the answer may be anything.
    #[serde(default)]
    #[schemars(length(max = 20))]
    pub choices: Vec<String>,
    /// For how many seconds it may be answered, 10 to 604800; a day if unset.
    #[serde(default)]
    #[schemars(range(min = 10, max = 604_800))]
    pub timeout_s: Option<u32>,
    /// For how many milliseconds this call waits for the answer, at most 60000; 50000 if unset.
    #[serde(default)]
    #[schemars(range(max = 60_000))]
    pub wait_ms: Option<u32>,
}

/// A session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SessionTarget {
    /// The session.
    pub session_id: SessionId,
}

/// Parameters of `session result`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SessionResult {
    /// The session.
    pub session_id: SessionId,
    /// The turn, as `spawn` and `message` number it; the newest one if unset.
    #[serde(default)]
    pub turn: Option<u32>,
    /// If it is not over yet, wait so many milliseconds for it, at most 60000.
    #[serde(default)]
    #[schemars(range(max = 60_000))]
    pub wait_ms: Option<u32>,
}

/// Parameters of `session list`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SessionList {
    /// Only of this project.
    #[serde(default)]
    pub project_id: Option<ProjectId>,
    /// Only with this status.
    #[serde(default)]
    pub status: Option<crate::session::SessionStatus>,
    /// At most so many, 1 to 1000; 100 if unset.
    #[serde(default)]
    pub limit: Option<u32>,
    /// Only sessions older than this one: the last of the page before.
    #[serde(default)]
    pub before: Option<SessionId>,
}

/// Parameters of `session events`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SessionEvents {
    /// The session.
    pub session_id: SessionId,
    /// Only events with a higher number; -1, the default, is from the start.
    #[serde(default = "from_the_start")]
    pub cursor: i64,
    /// At most so many, 1 to 10000; 1000 if unset.
    #[serde(default)]
    pub limit: Option<u32>,
    /// If there is none yet, wait so many milliseconds for one, at most 60000.
    #[serde(default)]
    pub wait_ms: Option<u32>,
}

/// Parameters of `config_limits`: one of the two.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigLimits {
    /// The project.
    #[serde(default)]
    pub project_id: Option<ProjectId>,
    /// The session.
    #[serde(default)]
    pub session_id: Option<SessionId>,
}

/// What `config_limits` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LimitsShown {
    /// The project.
    pub project_id: ProjectId,
    /// The session, if it was asked for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<SessionId>,
    /// Each limit.
    pub limits: Vec<LimitShown>,
}

/// A limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LimitShown {
    /// `cost`, `tokens`, `depth`, `agents`, `live_agents` and `time` of a tree of sessions; the others are of each sandbox.
    pub name: String,
    /// What is counted.
    pub unit: String,
    /// The most; no limit if unset.
    pub limit: Option<u64>,
    /// Who sets it.
    pub source: LimitSource,
    /// What is used, where it is counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<u64>,
    /// What calls that are under way may still use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserved: Option<u64>,
    /// What is left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining: Option<u64>,
}

/// Who sets a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LimitSource {
    /// The project.
    Project,
    /// The server's configuration.
    Server,
    /// The tree, when it began: its project or the server may say something else by now.
    Tree,
    /// Nobody: there is none.
    Nobody,
}

/// An agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AgentTarget {
    /// Its name.
    pub agent: String,
}

/// A model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelTarget {
    /// Its name: an alias, or `provider/model`.
    #[schemars(length(min = 1, max = 400))]
    pub model: String,
}

/// Parameters of `token create`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenCreate {
    /// Its name, `[a-z0-9._-]{1,64}`.
    #[schemars(regex(pattern = r"^[a-z0-9._-]{1,64}$"))]
    pub name: String,
    /// What it may do.
    pub scope: Scope,
    /// Seconds until it stops working; never if unset.
    #[serde(default)]
    pub expires_in_s: Option<u64>,
}

/// A token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenTarget {
    /// Its public id or its name.
    pub token: String,
}

/// Parameters of `audit list`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuditList {
    /// Only entries with a lower number; from the newest on if unset.
    #[serde(default)]
    pub before: Option<u64>,
    /// At most so many, 1 to 1000; 100 if unset.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1000))]
    pub limit: Option<u32>,
}

/// The form that `audit export` gives an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AuditFormat {
    /// As it is.
    #[default]
    Json,
    /// As an event of the Open Cybersecurity Schema Framework.
    Ocsf,
}

/// Parameters of `audit export`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuditExport {
    /// Only entries with a higher number; 0, the default, is from the start.
    #[serde(default)]
    pub after: u64,
    /// At most so many, 1 to 1000; 1000 if unset.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1000))]
    pub limit: Option<u32>,
    /// How each entry is written.
    #[serde(default)]
    pub format: AuditFormat,
}

/// What `audit export` answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AuditExported {
    /// The entries, to be written one to a line.
    pub entries: Vec<serde_json::Value>,
    /// The number of the last one: `after` for the next page; nothing more is there when a page is empty.
    pub last: u64,
}

/// Parameters of `server stop`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServerStop {
    /// Leave sandboxes running for the next server.
    #[serde(default)]
    pub keep_sandboxes: bool,
}

/// Parameters of `server reload`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServerReload {
    /// Only tell what would change.
    #[serde(default)]
    pub dry_run: bool,
}

/// What `session spawn` and `session message` answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SessionAccepted {
    /// The session.
    pub session_id: SessionId,
    /// Its project.
    pub project_id: ProjectId,
    /// Its workspace.
    pub workspace_id: WorkspaceId,
    /// The turn that the message became.
    pub turn: TurnNumber,
    /// The number of the newest event before the turn; -1 if there is none.
    pub last_index: i64,
    /// The model that will be used.
    pub model: crate::model::ModelRef,
    /// True if the message went to a session that was there already.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub resumed: bool,
    /// What came of the task, if the call was to wait for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<TurnResult>,
}

/// What `project delete` answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProjectDeleted {
    /// The project that was.
    pub deleted: ProjectId,
}

/// What `workspace delete` answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkspaceDeleted {
    /// The workspace that was.
    pub deleted: WorkspaceId,
}

/// What `session interrupt` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SessionInterrupted {
    /// The session.
    pub session_id: SessionId,
    /// True.
    pub interrupted: bool,
}

/// What `session end` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SessionEnded {
    /// The session.
    pub session_id: SessionId,
    /// True.
    pub ended: bool,
}

/// What came of a turn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TurnResult {
    /// The session.
    pub session_id: SessionId,
    /// The turn.
    pub turn: TurnNumber,
    /// True if the turn is over; false if it was not within the time that was asked for.
    pub done: bool,
    /// How the turn stopped, if it is over.
    pub stop: Option<crate::session::TurnStop>,
    /// The session's state in one word.
    pub state: String,
    /// The last that the agent said in the turn, its first 64 KiB; all of it is in the events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Why the session ended or failed, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What `session diff` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SessionDiff {
    /// The session.
    pub session_id: SessionId,
    /// The project's source folder, which the patch fits, if it has one.
    pub source: Option<PathBuf>,
    /// True if the session worked in the source folder itself: there is nothing to apply.
    pub in_place: bool,
    /// The patch, as `git diff --binary` writes it; empty if nothing changed.
    pub patch: String,
    /// Names of the files that changed.
    pub files: Vec<String>,
}

/// What `session events` answers as a page.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EventPage {
    /// The session.
    pub session_id: SessionId,
    /// The session's state in one word.
    pub state: String,
    /// `active`, `completed` or `failed`.
    pub status: crate::session::SessionStatus,
    /// The number of the last event in this page, or the cursor if the page is empty: the next cursor.
    pub last_index: i64,
    /// The events, in order, without a gap.
    pub events: Vec<EventView>,
}

/// An event on the wire.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EventView {
    /// Its number in the session, from 0.
    pub index: u64,
    /// When it was committed.
    pub at: crate::Timestamp,
    /// What happened, its fields beside the two above.
    #[serde(flatten)]
    pub body: crate::EventBody,
}

/// What `token create` answers. The only place where a secret is shown.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
pub struct TokenCreated {
    /// The token's record.
    pub record: crate::record::TokenRecord,
    /// `oub_` and 64 hexadecimal digits; shown once.
    pub secret: String,
}

/// What `server status` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServerStatus {
    /// The version of the program.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// `starting`, `ready`, `draining`.
    pub state: String,
    /// Where it keeps its things.
    pub home: PathBuf,
    /// The addresses that it listens on.
    pub addresses: Vec<String>,
    /// When it started.
    pub started_at: crate::Timestamp,
    /// Sessions that are not over.
    pub active_sessions: u64,
    /// Sandboxes that run.
    pub sandboxes: u64,
    /// The sandbox backend.
    pub backend: String,
    /// False if it keeps nothing that runs inside from the machine.
    pub isolated: bool,
    /// The model that sessions get by default; nothing if there is none, with the reason in `model_missing`.
    pub model: Option<crate::model::ModelRef>,
    /// Why there is no model.
    pub model_missing: Option<String>,
}

/// What `server stop` answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServerStopping {
    /// True.
    pub stopping: bool,
    /// True if its sandboxes go on for the next server.
    pub keep_sandboxes: bool,
}

/// What `server reload` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServerReloaded {
    /// False if it was only asked what would change.
    pub applied: bool,
    /// What differs from what the server ran with.
    pub changes: Vec<ConfigChange>,
    /// What the operator should know of the configuration.
    pub warnings: Vec<String>,
}

/// A value of the configuration that differs from what the server runs with. Secrets are not shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigChange {
    /// The path of its key, with dots.
    pub path: String,
    /// What the server runs with; nothing if the key is not set.
    pub from: Option<serde_json::Value>,
    /// What the configuration says; nothing if the key is not set any more.
    pub to: Option<serde_json::Value>,
    /// Where it says so: `file:line:column`, a variable's name, or `default`.
    pub origin: Option<String>,
    /// True if the server goes on with the old value until it is started anew.
    pub needs_restart: bool,
}

const fn from_the_start() -> i64 {
    -1
}

const fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_and_routes_are_unique() {
        let names: BTreeSet<_> = Operation::ALL.iter().map(|o| o.spec().name()).collect();
        let routes: BTreeSet<_> =
            Operation::ALL.iter().map(|o| format!("{:?} {}", o.spec().method, o.spec().path)).collect();
        assert_eq!((names.len(), routes.len()), (Operation::ALL.len(), Operation::ALL.len()));
    }

    #[test]
    fn every_path_parameter_is_a_required_parameter() {
        for operation in Operation::ALL {
            let spec = operation.spec();
            let schema = (spec.parameters)();
            let required = schema.get("required").and_then(|r| r.as_array()).cloned().unwrap_or_default();
            for name in spec.path.split(['{', '}']).skip(1).step_by(2) {
                assert!(required.iter().any(|r| r == name), "{}: {name} in {}", spec.name(), spec.path);
            }
        }
    }

    #[test]
    fn unknown_parameters_are_refused_by_name() {
        for operation in Operation::ALL {
            let schema = (operation.spec().parameters)();
            assert_eq!(
                schema.get("additionalProperties"),
                Some(&serde_json::json!(false)),
                "{}",
                operation.spec().name()
            );
        }
        let error = serde_json::from_str::<SessionList>(r#"{"projct_id":1}"#).expect_err("unknown");
        assert!(error.to_string().contains("projct_id"), "{error}");
    }

    #[test]
    fn what_reads_is_a_get_and_what_changes_is_not() {
        for operation in Operation::ALL {
            let spec = operation.spec();
            if spec.access != Access::Admin {
                assert_eq!(spec.access == Access::Read, spec.method == Method::Get, "{}", spec.name());
            }
        }
    }
}
