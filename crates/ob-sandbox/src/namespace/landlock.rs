//! Landlock: what this kernel has of it, and what a sandbox is restricted to.
//!
//! The second line behind the mounts. What no mount shows is not there at all; Landlock says for what is there what may
//! be done with it, so that a mount that is wrong (writable by mistake, or there by mistake) still gives nothing. TCP is
//! not restricted: the sandbox has a network of its own, and test suites use any port of its loopback.

use ob_core::cage::FileAccess;
use ob_core::cage::FileRule;
use ob_core::cage::LANDLOCK_LEAST;
use ob_core::cage::LANDLOCK_MOST;
use ob_core::cage::Landlock;
use ob_core::link::HOME_DIR;
use ob_core::link::WORKSPACE_DIR;

use super::policy::Policy;

/// The version of the interface that sandboxes on this machine use; `None` if the kernel has none that is of use.
pub fn usable(kernel: Option<u32>) -> Option<u32> {
    kernel.filter(|abi| *abi >= LANDLOCK_LEAST).map(|abi| abi.min(LANDLOCK_MOST))
}

/// The version of the kernel's interface; `None` if it has none, or if it is switched off.
pub fn kernel() -> Option<u32> {
    #![expect(unsafe_code, reason = "no safe wrapper asks only for the version")]
    const VERSION: libc::c_uint = 1;
    // SAFETY: with this flag the call takes no pointer and makes nothing; it returns a number.
    let abi = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<libc::c_void>(), 0_usize, VERSION)
    };
    u32::try_from(abi).ok().filter(|abi| *abi > 0)
}

/// What a sandbox with these mounts may do with files.
pub(super) fn order(policy: &Policy, abi: u32) -> Landlock {
    let mut rules = Vec::new();
    let mut add = |path: &str, access| rules.push(FileRule { path: path.to_owned(), access });
    // Tools list the root; below it, only what is named is read.
    add("/", FileAccess::List);
    add("/usr", FileAccess::Execute);
    for name in &policy.layout.folders {
        add(&format!("/{name}"), FileAccess::Execute);
    }
    add("/etc", FileAccess::Read);
    add("/proc", FileAccess::Use);
    add("/dev", FileAccess::Use);
    add("/dev/shm", FileAccess::Change);
    add("/tmp", FileAccess::Change);
    // The guest is there too, and is the built-in agent's program.
    add("/run", FileAccess::Execute);
    for mount in &policy.read_only {
        add(&mount.target, FileAccess::Execute);
    }
    add(HOME_DIR, FileAccess::Change);
    let workspace = if policy.workspace_writable { FileAccess::Change } else { FileAccess::Execute };
    add(WORKSPACE_DIR, workspace);
    Landlock { abi, rules }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_is_what_the_kernel_has_and_this_knows() {
        for (kernel, used) in
            [(None, None), (Some(1), None), (Some(2), Some(2)), (Some(6), Some(6)), (Some(9), Some(6))]
        {
            assert_eq!(usable(kernel), used, "{kernel:?}");
        }
    }
}
