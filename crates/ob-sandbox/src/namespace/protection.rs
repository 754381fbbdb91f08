//! The protections of a sandbox by name, so that a test can leave one out and see that it notices.
//!
//! Every sandbox of a shipped program has all of them: there is no way to say otherwise but
//! [`super::NamespaceBackend::weakened`], which is compiled for tests and benches only (feature `weakened`).

/// One protection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// The filters of system calls.
    SystemCalls,
    /// Landlock, the second line behind the mounts.
    Landlock,
    /// Parts of `/proc` that are covered.
    ProcMasks,
    /// No capability, not even in the sandbox's own user namespace.
    Capabilities,
    /// A session of its own: no terminal of the server's controls it.
    Session,
    /// A process namespace: nobody else's processes are seen.
    Processes,
    /// A network namespace: nothing but a loopback.
    Network,
    /// An IPC namespace.
    Ipc,
    /// An empty environment.
    Environment,
    /// The system's folders are read-only.
    ReadOnlySystem,
    /// The root and `/run` are read-only once everything is in its place.
    SealedRoot,
    /// Bounds of each process.
    Bounds,
    /// The guest is hidden from other processes inside.
    HiddenGuest,
    /// Control groups with the limits that were asked for.
    ControlGroups,
}

/// Those that a backend's sandboxes have: all, but what a test leaves out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Protections {
    left_out: Vec<Protection>,
}

// === impl Protections ===

impl Protections {
    /// All but these.
    #[cfg(any(test, feature = "weakened"))]
    pub fn without(left_out: &[Protection]) -> Self {
        Self { left_out: left_out.to_vec() }
    }

    /// True if it is in place.
    pub fn has(&self, protection: Protection) -> bool {
        !self.left_out.contains(&protection)
    }
}
