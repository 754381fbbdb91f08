//! What the backend without walls (`process`) holds of the corpus, and what it cannot.
//!
//! There an agent is a process of this machine with a uid of its project's. The kernel keeps such a process from what is
//! root's, and the server's own doors are as they are everywhere; files that everyone may read, the network, other
//! processes of the uid and the calls of the kernel are open. This list says which is which, and a run finds it wrong in
//! both directions.

use crate::case::Case;
use crate::case::How;

/// What becomes of an attempt without walls, for a server that runs as root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Without {
    /// It is stopped there too.
    Holds,
    /// It works, wherever its control does.
    Open,
    /// Settings of the machine's kernel decide, or its network.
    Depends,
    /// There is no such session: its start is refused.
    Refused,
    /// It is not made, for this reason; nothing would stop it.
    Untried(&'static str),
    /// It is made on code that knows no backend: once is enough.
    Same,
}

/// The attacker's own guest is the target, and everything it tries goes through it.
const OWN_SESSION: &str = "it would stop the session that makes the attempts";

/// What nothing stops.
const OPEN: &[&str] = &[
    "paths.absolute",
    "paths.parents",
    "paths.root_of_self",
    "paths.root_of_init",
    "paths.folder_of_init",
    "paths.open_at_raw",
    "links.symbolic",
    "links.descriptors",
    "links.swapped_folder",
    "proc.target_memory",
    "signals.other",
    "signals.thread",
    "signals.group",
    "signals.queue",
    "signals.handle",
    "signals.priority",
    "trace.traceme",
    "trace.read_memory",
    "trace.memory_file",
    "trace.take_descriptor",
    "trace.compare",
    "trace.descriptors",
    "keys.add",
    "keys.ask",
    "keys.control",
    "kernel.rings",
    "kernel.long_turns",
    "kernel.i386_table",
    "namespaces.user",
    "namespaces.user_and_mount",
    "namespaces.clone",
    "namespaces.clone3",
    "network.loopback4",
    "network.loopback6",
    "network.loopback_mapped",
    "network.any_address",
    "network.other_loopback",
    "network.datagram",
    "network.api",
    "network.machine_addresses",
    "network.unix_path",
    "network.vsock",
    "abstract.connect",
    "abstract.list",
    "dns.configured",
    "setuid.chmod",
    "setuid.group",
    "setuid.create",
    "setuid.node",
    "setuid.new_chmod",
    "sessions.shared_memory",
    "sessions.segment",
    "sessions.port",
    "sessions.abstract",
    "sessions.folder",
    "sessions.memory",
    "sessions.limits",
];

/// What some machines let every user do, what a machine's network reaches, and what takes as long as there are files.
const DEPENDS: &[&str] = &[
    "devices.disks",
    "devices.type",
    "dns.multicast",
    "dns.resolver",
    "dns.stream",
    "dns.stub",
    "kernel.bpf",
    "kernel.events",
    "kernel.log",
    "kernel.page_faults",
    "metadata.alibaba",
    "metadata.azure",
    "metadata.common",
    "metadata.ipv6",
    "metadata.oracle",
    "metadata.tasks",
    "network.bridge",
    "network.internet",
    "network.internet6",
    "network.private",
    "paths.search",
    "proc.messages",
    "proc.symbols",
    "time.clock",
    "time.day",
];

/// What nothing stops, and nobody should try.
const UNTRIED: &[(&str, &str)] = &[
    ("signals.everything", "it would end whatever has this uid on the machine"),
    ("signals.first_process", OWN_SESSION),
    ("trace.attach", OWN_SESSION),
    ("trace.seize", OWN_SESSION),
    ("trace.write_memory", OWN_SESSION),
];

// === impl Without ===

impl Without {
    /// What becomes of this one.
    pub(crate) fn of(case: &Case) -> Self {
        if matches!(case.how, How::Part(..)) {
            return Self::Same;
        }
        if let Some((_, reason)) = UNTRIED.iter().find(|(id, _)| *id == case.id) {
            return Self::Untried(reason);
        }
        match case.class() {
            "in_place" => Self::Refused,
            _ if OPEN.contains(&case.id) => Self::Open,
            _ if DEPENDS.contains(&case.id) => Self::Depends,
            _ => Self::Holds,
        }
    }

    /// True if it is made once more.
    pub(crate) fn is_tried(self) -> bool {
        matches!(self, Self::Holds | Self::Open | Self::Depends | Self::Refused)
    }

    /// For the page.
    pub(crate) fn words(self) -> String {
        match self {
            Self::Holds | Self::Same => "holds".to_owned(),
            Self::Open => "**open**".to_owned(),
            Self::Depends => "up to the machine".to_owned(),
            Self::Refused => "refused".to_owned(),
            Self::Untried(reason) => format!("**open**, not tried: {reason}"),
        }
    }
}

/// Ids of the lists that no case has.
pub(crate) fn unknown(cases: &[Case]) -> Vec<&'static str> {
    let listed = OPEN.iter().chain(DEPENDS).copied().chain(UNTRIED.iter().map(|(id, _)| *id));
    listed.filter(|id| cases.iter().all(|case| case.id != *id)).collect()
}
