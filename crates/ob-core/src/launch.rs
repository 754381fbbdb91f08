//! The launcher's vocabulary: the plan it is given, its one answer, and what it is told afterwards.
//!
//! ```text
//! server --plan (stdin)--> launcher --answer (one line, stdout)--> server
//! server <--control.sock, JSON lines--> launcher            hold | end
//!                                       launcher --end.json--> whoever looks
//! ```
//!
//! The launcher outlives the server, so a later server speaks to an earlier server's launcher: [`ControlRequest`],
//! [`ControlAnswer`] and [`EndRecord`] only grow. The plan goes to a launcher of the same build.
//!
//! Each request names its server's epoch. A server that was stopped for long and goes on may not know yet that it has a
//! successor; the launcher does, and refuses it.

use std::path::PathBuf;

use crate::epoch::Epoch;
use crate::resource::Enforcement;
use crate::resource::LimitHit;
use crate::resource::Resource;
use serde::Deserialize;
use serde::Serialize;

/// The launcher's control socket, in the sandbox's runtime folder.
pub const CONTROL_SOCKET: &str = "control.sock";
/// How the sandbox ended, in the runtime folder; there only once nothing of it runs any more.
pub const END_FILE: &str = "end.json";
/// The control groups that a launcher made, in the runtime folder, for whoever cleans up after a killed launcher.
pub const GROUPS_FILE: &str = "groups.json";
/// How each limit is held, in the runtime folder, for whoever adopts the sandbox: an [`Enforcement`].
pub const ENFORCEMENT_FILE: &str = "enforcement.json";
/// The latest server that used the runtime folder, in decimal; see [`Epoch`].
pub const OWNER_FILE: &str = "owner";
/// What the launcher itself complained of, in the runtime folder.
pub const LOG_FILE: &str = "launcher.log";
/// The most bytes of a plan.
pub const MAX_PLAN: usize = 1024 * 1024;
/// The most bytes of any line on the control socket and of the answer.
pub const MAX_LINE: usize = 4096;
/// The first descriptor that [`LaunchPlan::data`] takes in bubblewrap; the others follow.
pub const FIRST_DATA_FD: u32 = 10;
/// The descriptor with bubblewrap's arguments.
pub const ARGS_FD: u32 = 9;
/// Where staged sources are, in the private view that bubblewrap is started in: [`LaunchPlan::stage`] by number.
/// bubblewrap itself needs this folder to exist, so it does.
pub const STAGE_DIR: &str = "/tmp";

/// What a launcher does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaunchPlan {
    /// The sandbox's runtime folder; exists.
    pub runtime: PathBuf,
    /// bubblewrap. Not used with `direct`.
    pub bwrap: PathBuf,
    /// Its arguments; without NUL bytes.
    pub args: Vec<String>,
    /// The first process inside and its arguments.
    pub command: Vec<String>,
    /// The first process is started without bubblewrap: nothing is isolated.
    pub direct: Option<Direct>,
    /// The server's environment is kept on the way in. For the control of a test; no backend of a shipped program asks
    /// for it.
    pub keeps_environment: bool,
    /// Contents of files that the arguments name by descriptor, in base64.
    pub data: Vec<String>,
    /// Host paths that are made visible to the sandbox's uid; only with `user`.
    pub stage: Vec<StagedSource>,
    /// The uid and gid that bubblewrap runs as, if the launcher is root. Never 0.
    pub user: Option<u32>,
    /// Bounds of each process inside, soft and hard alike; a lower one that is there already stays.
    pub bounds: Vec<(Bound, u64)>,
    /// Control groups to make and join.
    pub groups: Vec<ControlGroup>,
    /// Limits that each process inherits.
    pub rlimits: Vec<ProcessLimit>,
    /// Limits that the launcher holds itself.
    pub watch: Watched,
    /// How each limit is held if all of the above can be done.
    pub enforcement: Enforcement,
    /// Placeholders under a user's `.git`, taken away again after the last sandbox there.
    pub placeholders: Option<Placeholders>,
    /// Milliseconds without a server until the sandbox is ended.
    pub lease_ms: u64,
    /// The server that makes it. A later one that holds it becomes its owner.
    pub epoch: Epoch,
}

/// A host path in the private view.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StagedSource {
    /// The host path.
    pub path: PathBuf,
    /// False if the sandbox may write.
    pub read_only: bool,
    /// The owner on disk, shown as the sandbox's uid and gid; what the sandbox makes belongs to them on disk.
    pub owner: Option<Owner>,
}

/// Who owns a folder on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owner {
    /// The uid.
    pub uid: u32,
    /// The gid.
    pub gid: u32,
}

/// What a bound is on; the names of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// Bytes of a core dump. 1, and not 0, since 0 still runs a handler that the host may have for crashes: as root,
    /// outside.
    Core,
    /// Bytes that are kept in memory.
    Memlock,
    /// Bytes in message queues.
    Msgqueue,
    /// How far above others a process may put itself.
    Nice,
    /// The same, ahead of all others.
    Rtprio,
}

/// A control group to make and join.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControlGroup {
    /// Its folder.
    pub path: PathBuf,
    /// Files in it to write, in this order.
    pub limits: Vec<GroupLimit>,
}

/// A file of a control group to write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupLimit {
    /// The file's name.
    pub file: String,
    /// What to write.
    pub value: String,
    /// The limit that is not held if this cannot be written; unset for what only helps.
    pub resource: Option<Resource>,
}

/// A limit of the kernel on each process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessLimit {
    /// Which.
    pub kind: ProcessLimitKind,
    /// How much, soft and hard.
    pub most: u64,
}

/// The limits of the kernel on each process that are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcessLimitKind {
    /// The most open files; the soft limit stays as it is if it is lower.
    OpenFiles,
    /// The largest file, in bytes.
    FileSize,
    /// The most processes of the user, in the user namespace.
    Processes,
}

/// Limits that the launcher holds itself, and what it needs for the report of others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watched {
    /// Milliseconds that the sandbox may live.
    pub wall_ms: Option<u64>,
    /// What it may store.
    pub disk: Option<WatchedDisk>,
    /// Bounds by resource, for reports.
    pub bounds: Vec<(Resource, u64)>,
}

/// Folders that a sandbox may fill so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchedDisk {
    /// The folders on the host, which count together.
    pub folders: Vec<PathBuf>,
    /// Bytes that they may take.
    pub bytes: Option<u64>,
    /// Files and folders that may be in them.
    pub inodes: Option<u64>,
    /// What is there at first does not count: a user's own folder.
    pub only_growth: bool,
}

/// A first process without walls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Direct {
    /// Its whole environment.
    pub env: Vec<(String, String)>,
    /// Its working directory.
    pub cwd: PathBuf,
}

/// Files that exist only so that a sandbox cannot make them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Placeholders {
    /// The folder that sandboxes of the workspace lock, so that the last one cleans up.
    pub lock: PathBuf,
    /// Files, with the content that shows nobody else wrote them.
    pub files: Vec<(PathBuf, String)>,
    /// Empty folders.
    pub folders: Vec<PathBuf>,
}

/// The launcher's one answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LaunchAnswer {
    /// bubblewrap runs and the control socket listens.
    Ok {
        /// How each limit is held.
        enforcement: Enforcement,
    },
    /// It does not, and nothing is left over.
    Error(String),
}

/// What a server asks of a launcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum ControlRequest {
    /// The asker owns the sandbox from now on, and is there for it as long as the connection is open.
    Hold {
        /// Which server asks.
        #[serde(default)]
        epoch: Epoch,
    },
    /// End the sandbox, answer when nothing of it is left.
    End {
        /// Which server asks.
        #[serde(default)]
        epoch: Epoch,
    },
}

/// What a launcher answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ControlAnswer {
    /// It runs.
    Running,
    /// Nothing of it is left, and [`END_FILE`] is written.
    Ended,
    /// It goes on, and reached a limit. Told on connections that hold, unasked.
    Limit(LimitHit),
    /// It belongs to a later server than the asker: nothing was done.
    Owned,
}

/// How a sandbox ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndRecord {
    /// In words.
    pub reason: String,
    /// When, in microseconds since the epoch.
    pub at_micros: i64,
    /// The limit that it was ended for, if that is why.
    #[serde(default)]
    pub limit: Option<LimitHit>,
}
