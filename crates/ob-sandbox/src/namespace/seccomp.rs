//! System calls that a sandbox is denied, compiled once into the form that bubblewrap loads.
//!
//! A deny list: the walls are the namespaces; this takes away what would weaken them (set-id bits, new namespaces and
//! mounts), what crosses them (vsock is not confined by a network namespace), and kernel surface that no build or
//! agent needs. A call whose arguments lie in memory cannot be judged here, so it is answered as unknown, and the C
//! library falls back to one that can (`clone3` to `clone`, `openat2` to `openat`).
//!
//! Programs for another architecture than the host's are killed: their call numbers mean other calls.

use std::collections::BTreeMap;

use seccompiler::BpfProgram;
use seccompiler::SeccompAction;
use seccompiler::SeccompCmpArgLen::Dword;
use seccompiler::SeccompCmpOp;
use seccompiler::SeccompCondition;
use seccompiler::SeccompFilter;
use seccompiler::SeccompRule;
use seccompiler::TargetArch;
use seccompiler::sock_filter;

/// `SYS_open_tree_attr`, since Linux 6.15, the same on all architectures.
const SYS_OPEN_TREE_ATTR: i64 = 467;
/// The bit of a call number that selects the x32 table on x86-64.
const X32_BIT: u32 = 0x4000_0000;
/// Set-user-id and set-group-id.
const SET_ID_BITS: [u64; 2] = [0o4000, 0o2000];
/// `O_CREAT`, and the bit of `O_TMPFILE` that is its own: only with these is a mode given.
const CREATING: [u64; 2] = [0o100, 0o20_000_000];
/// Flags of `clone` and `unshare` that ask for a namespace.
const NAMESPACE_FLAGS: [u64; 7] =
    [0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000];
/// `CLONE_NEWTIME`, which only `unshare` takes (in `clone` the bit belongs to the exit signal).
const NEW_TIME: u64 = 0x80;
/// Socket families that stay: unix, IPv4, IPv6, netlink. Others are not all confined by a network namespace.
const FAMILIES: [u64; 4] = [1, 2, 10, 16];
/// Ioctls that put words into a terminal's mouth: `TIOCSTI`, `TIOCLINUX`.
const TERMINAL_INJECTION: [u64; 2] = [0x5412, 0x541c];

/// Could not be compiled for this machine.
#[derive(Debug, thiserror::Error)]
pub(super) enum FilterError {
    /// No table for the architecture.
    #[error("no system call filter for this processor architecture")]
    Architecture(#[source] seccompiler::BackendError),
    /// A rule is wrong.
    #[error("the system call filter does not compile")]
    Compile(#[source] seccompiler::BackendError),
}

/// The filters, as bytes for `--add-seccomp-fd`, all of which apply.
pub(super) fn filters() -> Result<Vec<Vec<u8>>, FilterError> {
    [(libc::EPERM, forbidden()), (libc::ENOSYS, unknown()), (libc::EAFNOSUPPORT, families())]
        .into_iter()
        .map(|(errno, rules)| compile(errno, rules.map_err(FilterError::Compile)?))
        .collect()
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;
type Compiled<T> = Result<T, seccompiler::BackendError>;

/// Answered with `EPERM`.
fn forbidden() -> Compiled<Rules> {
    let mut rules = Rules::new();
    let always = [
        // Mounts and roots, old interface and new: the view of files is fixed.
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_chroot,
        libc::SYS_open_tree,
        SYS_OPEN_TREE_ATTR,
        libc::SYS_move_mount,
        libc::SYS_fsopen,
        libc::SYS_fsconfig,
        libc::SYS_fsmount,
        libc::SYS_fspick,
        libc::SYS_mount_setattr,
        libc::SYS_setns,
        // Into another process: the guest shares the sandbox with strangers' code.
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_process_madvise,
        libc::SYS_pidfd_getfd,
        libc::SYS_kcmp,
        // Key rings are not confined by all namespaces.
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_request_key,
        // Kernel surface with a history.
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_fanotify_init,
        libc::SYS_open_by_handle_at,
        libc::SYS_lookup_dcookie,
        // The machine itself. Capabilities guard these too.
        libc::SYS_kexec_load,
        libc::SYS_kexec_file_load,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_delete_module,
        libc::SYS_reboot,
        libc::SYS_swapon,
        libc::SYS_swapoff,
        libc::SYS_syslog,
        libc::SYS_acct,
        libc::SYS_quotactl,
        libc::SYS_quotactl_fd,
        libc::SYS_settimeofday,
        libc::SYS_clock_settime,
        libc::SYS_sethostname,
        libc::SYS_setdomainname,
        libc::SYS_vhangup,
    ];
    rules.extend(always.map(|call| (call, Vec::new())));
    #[cfg(target_arch = "x86_64")]
    rules.extend(
        [libc::SYS_iopl, libc::SYS_ioperm, libc::SYS_modify_ldt, libc::SYS_uselib]
            .map(|call| (call, Vec::new())),
    );

    // A set-id file made inside must not even exist: in a user's own folder it would belong to the user.
    for (call, mode) in [
        (libc::SYS_fchmod, 1),
        (libc::SYS_fchmodat, 2),
        (libc::SYS_fchmodat2, 2),
        (libc::SYS_mkdirat, 2),
        (libc::SYS_mknodat, 2),
    ] {
        rules.insert(call, any_bit(mode, &SET_ID_BITS)?);
    }
    rules.insert(libc::SYS_openat, creating_set_id(2, 3)?);
    #[cfg(target_arch = "x86_64")]
    {
        for call in [libc::SYS_chmod, libc::SYS_creat, libc::SYS_mkdir, libc::SYS_mknod] {
            rules.insert(call, any_bit(1, &SET_ID_BITS)?);
        }
        rules.insert(libc::SYS_open, creating_set_id(1, 2)?);
    }

    rules.insert(libc::SYS_clone, any_bit(0, &NAMESPACE_FLAGS)?);
    let mut flags = NAMESPACE_FLAGS.to_vec();
    flags.push(NEW_TIME);
    rules.insert(libc::SYS_unshare, any_bit(0, &flags)?);
    let injections = TERMINAL_INJECTION
        .iter()
        .map(|request| SeccompRule::new(vec![SeccompCondition::new(1, Dword, SeccompCmpOp::Eq, *request)?]));
    rules.insert(libc::SYS_ioctl, injections.collect::<Compiled<_>>()?);
    Ok(rules)
}

/// Answered with `ENOSYS`, as by a kernel that lacks them: their arguments lie in memory.
fn unknown() -> Compiled<Rules> {
    let calls = [
        libc::SYS_clone3,
        libc::SYS_openat2,
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
    ];
    Ok(calls.map(|call| (call, Vec::new())).into())
}

/// Answered with `EAFNOSUPPORT`: sockets of all but the named families.
fn families() -> Compiled<Rules> {
    let none_of = FAMILIES
        .iter()
        .map(|family| SeccompCondition::new(0, Dword, SeccompCmpOp::Ne, *family))
        .collect::<Compiled<Vec<_>>>()?;
    let rule = SeccompRule::new(none_of)?;
    Ok([libc::SYS_socket, libc::SYS_socketpair].map(|call| (call, vec![rule.clone()])).into())
}

/// Matches if any of `bits` is set in an argument.
fn any_bit(argument: u8, bits: &[u64]) -> Compiled<Vec<SeccompRule>> {
    bits.iter().map(|bit| SeccompRule::new(vec![has_bit(argument, *bit)?])).collect()
}

/// Matches if a file is made with a set-id bit.
fn creating_set_id(flags: u8, mode: u8) -> Compiled<Vec<SeccompRule>> {
    let mut rules = Vec::new();
    for creating in CREATING {
        for bit in SET_ID_BITS {
            rules.push(SeccompRule::new(vec![has_bit(flags, creating)?, has_bit(mode, bit)?])?);
        }
    }
    Ok(rules)
}

fn has_bit(argument: u8, bit: u64) -> Compiled<SeccompCondition> {
    SeccompCondition::new(argument, Dword, SeccompCmpOp::MaskedEq(bit), bit)
}

fn compile(errno: i32, rules: Rules) -> Result<Vec<u8>, FilterError> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH).map_err(FilterError::Architecture)?;
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(errno.unsigned_abs()),
        architecture,
    )
    .map_err(FilterError::Compile)?;
    let program: BpfProgram = filter.try_into().map_err(FilterError::Compile)?;
    Ok(x32_killer(architecture).iter().chain(&program).flat_map(bytes).collect())
}

/// The x32 table has the architecture of x86-64 and other numbers; the compiler does not know of it. Jumps are
/// relative, so this may stand in front.
fn x32_killer(architecture: TargetArch) -> Vec<sock_filter> {
    if architecture != TargetArch::x86_64 {
        return Vec::new();
    }
    let load_word = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    let jump_if_at_least = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
    let answer = (libc::BPF_RET | libc::BPF_K) as u16;
    vec![
        sock_filter { code: load_word, jt: 0, jf: 0, k: 0 },
        sock_filter { code: jump_if_at_least, jt: 0, jf: 1, k: X32_BIT },
        sock_filter { code: answer, jt: 0, jf: 0, k: libc::SECCOMP_RET_KILL_PROCESS },
    ]
}

/// An instruction as the kernel reads it.
fn bytes(instruction: &sock_filter) -> [u8; 8] {
    let [c0, c1] = instruction.code.to_ne_bytes();
    let [k0, k1, k2, k3] = instruction.k.to_ne_bytes();
    [c0, c1, instruction.jt, instruction.jf, k0, k1, k2, k3]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_compile_and_fit_the_kernels_limit() {
        for filter in filters().expect("this machine's architecture has a table") {
            assert_eq!(filter.len() % 8, 0);
            assert!(filter.len() / 8 <= 4096, "the kernel takes at most 4096 instructions");
        }
    }
}
