//! The cage: what the first process of a sandbox gives up for good, for itself and all that it starts.
//!
//! bubblewrap puts up the walls that need privileges or a view of the host. What any process can take from itself, and
//! only has to keep taken, is an order in a file that the server writes and bubblewrap shows inside, read-only. The
//! guest carries it out before it does anything else, and ends the sandbox if it cannot: an order that is not carried
//! out whole is a sandbox that is not started.

use serde::Deserialize;
use serde::Serialize;

/// Where the order is inside.
pub const CAGE_FILE: &str = "/run/cage.json";
/// The most bytes of an order.
pub const MAX_CAGE: u64 = 256 * 1024;
/// The first Landlock interface that is used: the one before it cannot allow moving a file between folders, which every
/// build does.
pub const LANDLOCK_LEAST: u32 = 2;
/// The last Landlock interface whose rights are used; of a later one the kernel has, nothing more is.
pub const LANDLOCK_MOST: u32 = 6;

/// The order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cage {
    /// Rights to files, as a second line behind the mounts; `None` where the kernel has no Landlock.
    pub landlock: Option<Landlock>,
    /// The permissions that new files do not get.
    pub umask: u32,
    /// True if no other process inside may trace the guest, or read its memory, files and environment.
    pub is_guest_hidden: bool,
}

/// A Landlock ruleset: what no rule names is denied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Landlock {
    /// The version of the kernel's interface; all rights and scopes that it knows are restricted.
    pub abi: u32,
    /// What stays allowed.
    pub rules: Vec<FileRule>,
}

/// What may be done with a path inside and all below it, also across mounts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRule {
    /// The path inside; must exist.
    pub path: String,
    /// What.
    pub access: FileAccess,
}

/// What may be done with files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileAccess {
    /// Folders may be listed.
    List,
    /// And files read.
    Read,
    /// And executed.
    Execute,
    /// Everything, but making devices.
    Change,
    /// Files may be read and written and told what to do, as devices are; none made.
    Use,
}
