//! The system calls that are denied, each with when, how and why. The filters, the page for users and the tests are made
//! from this one table.

use std::fmt;

/// A system call: its name in the C library, and its number.
pub type Call = (&'static str, i64);

/// Some calls that are denied for one reason.
#[derive(Clone, Copy, Debug)]
pub struct Denial {
    /// What they are about, in a few words.
    pub about: &'static str,
    /// The calls.
    pub calls: &'static [Call],
    /// With which arguments.
    pub when: When,
    /// What the caller gets.
    pub answer: Answer,
    /// Why nobody inside may.
    pub reason: &'static str,
}

/// With which arguments a call is denied. An argument is given by its place, from 0; of each, 32 bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// With any.
    Always,
    /// If a bit is set.
    AnyBit(u8, &'static [u64]),
    /// If it is one of these.
    OneOf(u8, &'static [u64]),
    /// If it is none of these.
    NoneOf(u8, &'static [u64]),
    /// If the first is this socket family, and the third none of these protocols.
    Protocol(u64, &'static [u64]),
    /// If a file is made (flags of `open`) with a set-id bit (its mode).
    MakesSetId(u8, u8),
    /// If a file of one of these types is made.
    MakesType(u8, &'static [u64]),
    /// If this bound of a process is given a new value, at that address.
    SetsBound(u8, u64, u8),
}

/// What a caller gets who is denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Answer {
    /// `EPERM`.
    Forbidden,
    /// `ENOSYS`, as by a kernel that lacks the call: the C library then uses another.
    Unknown,
    /// `EAFNOSUPPORT`, as by a kernel that lacks the family.
    NoFamily,
    /// `EPROTONOSUPPORT`, as by a kernel that lacks the protocol.
    NoProtocol,
    /// 0, and nothing is done: programs insist on it, and it makes no difference to them.
    Pretended,
}

/// `S_ISUID` and `S_ISGID`.
pub(super) const SET_ID_BITS: [u64; 2] = [0o4000, 0o2000];
/// `O_CREAT`, and the bit of `O_TMPFILE` that is its own: only with these is a mode given.
pub(super) const CREATING: [u64; 2] = [0o100, 0o20_000_000];
/// `S_IFMT`.
pub(super) const FILE_TYPE: u64 = 0o170_000;
/// `S_IFCHR` and `S_IFBLK`.
const DEVICES: [u64; 2] = [0o020_000, 0o060_000];
/// Flags of `clone` that ask for a namespace: mounts, control groups, host name, IPC, users, processes, network.
const NAMESPACES: [u64; 7] =
    [0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000];
/// The same for `unshare`, with `CLONE_NEWTIME`, whose bit belongs to the exit signal in `clone`.
const NAMESPACES_AND_TIME: [u64; 8] =
    [0x80, 0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000];
/// `TIOCSTI`, `TIOCLINUX`, `TIOCCONS`.
const TERMINAL_INJECTION: [u64; 3] = [0x5412, 0x541c, 0x541d];
/// `TIOCSETD`.
const LINE_DISCIPLINE: [u64; 1] = [0x5423];
/// Plain, 32-bit names, version 2.6 names, both, without address randomisation (sanitizers, debuggers), and the question.
const PERSONALITIES: [u64; 6] = [0, 0x8, 0x2_0000, 0x2_0008, 0x4_0000, 0xffff_ffff];
/// `AF_UNIX`, `AF_INET`, `AF_INET6`, `AF_NETLINK`.
const FAMILIES: [u64; 4] = [1, 2, 10, 16];
/// The family's own choice, ICMP, TCP, UDP, ICMPv6.
const INTERNET_PROTOCOLS: [u64; 5] = [0, 1, 6, 17, 58];
/// `NETLINK_ROUTE`.
const NETLINK_PROTOCOLS: [u64; 1] = [0];
/// `RLIMIT_CORE`.
const CORE: u64 = 4;

/// Names of the C library's numbers.
macro_rules! calls {
    ($($name:ident)*) => { &[$((stringify!($name), libc::$name)),*] };
}
/// Calls that only the x86-64 table has.
#[cfg(target_arch = "x86_64")]
macro_rules! x86_calls {
    ($($name:ident)*) => { calls!($($name)*) };
}
#[cfg(not(target_arch = "x86_64"))]
macro_rules! x86_calls {
    ($($name:ident)*) => {
        &[]
    };
}

/// Newer than some C libraries' headers; the same number on all architectures.
const FCHMODAT2: &[Call] = &[("SYS_fchmodat2", 452)];
const OPEN_TREE_ATTR: &[Call] = &[("SYS_open_tree_attr", 467)];

const SET_ID: &str =
    "A set-id file made inside must not even exist: in a user's own folder it would belong to the user.";
const MOUNTS: &str = "The view of files is fixed when the sandbox starts.";

const NAMESPACE: &str = "In a user namespace of its own a process has every capability there, and with it most of the kernel that has had holes.";
const DEVICE: &str = "A device file is a way to the device, wherever it is opened.";
const CORE_DUMP: &str = "The bound that is set at the start, 1 byte, also keeps a host's crash handler, which runs as root outside, from looking at what crashed inside; 0 would not.";
const MACHINE: &str = "Belongs to the machine. Capabilities guard it too.";

/// The table.
pub static DENIALS: &[Denial] = &[
    Denial {
        about: "mounts",
        calls: calls!(SYS_mount SYS_umount2 SYS_pivot_root SYS_chroot),
        when: When::Always,
        answer: Answer::Forbidden,
        reason: MOUNTS,
    },
    Denial {
        about: "mounts",
        calls: calls!(SYS_open_tree SYS_move_mount SYS_fsopen SYS_fsconfig SYS_fsmount SYS_fspick SYS_mount_setattr),
        when: When::Always,
        answer: Answer::Forbidden,
        reason: MOUNTS,
    },
    Denial {
        about: "mounts",
        calls: OPEN_TREE_ATTR,
        when: When::Always,
        answer: Answer::Forbidden,
        reason: MOUNTS,
    },
    Denial {
        about: "new namespaces",
        calls: calls!(SYS_clone),
        when: When::AnyBit(0, &NAMESPACES),
        answer: Answer::Forbidden,
        reason: NAMESPACE,
    },
    Denial {
        about: "new namespaces",
        calls: calls!(SYS_unshare),
        when: When::AnyBit(0, &NAMESPACES_AND_TIME),
        answer: Answer::Forbidden,
        reason: NAMESPACE,
    },
    Denial {
        about: "other namespaces",
        calls: calls!(SYS_setns),
        when: When::Always,
        answer: Answer::Forbidden,
        reason: "Leads into another sandbox or out of this one if ever a descriptor of one is found.",
    },
    Denial {
        about: "processes, newer call",
        calls: calls!(SYS_clone3),
        when: When::Always,
        answer: Answer::Unknown,
        reason: "Its flags lie in memory, where a filter cannot see them; `clone` is used instead.",
    },
    Denial {
        about: "other processes",
        calls: calls!(SYS_ptrace SYS_process_vm_readv SYS_process_vm_writev SYS_process_madvise SYS_pidfd_getfd SYS_kcmp),
        when: When::Always,
        answer: Answer::Forbidden,
        reason: "The guest and the agent share the sandbox with code of strangers, which must not take them over.",
    },
    Denial {
        about: "key rings",
        calls: calls!(SYS_keyctl SYS_add_key SYS_request_key),
        when: When::Always,
        answer: Answer::Forbidden,
        reason: "Key rings belong to a uid of the host and are not confined by all namespaces: the server's user may keep keys there.",
    },
    Denial {
        about: "asynchronous rings",
        calls: calls!(SYS_io_uring_setup SYS_io_uring_enter SYS_io_uring_register),
        when: When::Always,
        answer: Answer::Unknown,
        reason: "Does what other calls do past every filter, and has had more holes than any other part of the kernel.",
    },
    Denial {
        about: "programs and counters in the kernel",
        calls: calls!(SYS_bpf SYS_perf_event_open),
        when: When::Always,
        answer: Answer::Forbidden,
        reason: "Runs code in the kernel, and measures other processes; a long history of holes.",
    },
    Denial {
        about: "page faults in user hands",
        calls: calls!(SYS_userfaultfd),
        when: When::Always,
        answer: Answer::Forbidden,
        reason: "Stops the kernel at a place of one's choice, which makes its races easy to win.",
    },
    Denial {
        about: "files by handle, watching all files",
        calls: calls!(SYS_open_by_handle_at SYS_fanotify_init SYS_fanotify_mark SYS_lookup_dcookie),
        when: When::Always,
        answer: Answer::Forbidden,
        reason: "Reaches files past the paths that are shown.",
    },
    Denial {
        about: "opening files, newer call",
        calls: calls!(SYS_openat2),
        when: When::Always,
        answer: Answer::Unknown,
        reason: "The mode of a new file lies in memory, where a filter cannot see set-id bits; `openat` is used instead.",
    },
    Denial {
        about: "set-id files",
        calls: calls!(SYS_fchmod),
        when: When::AnyBit(1, &SET_ID_BITS),
        answer: Answer::Forbidden,
        reason: SET_ID,
    },
    Denial {
        about: "set-id files",
        calls: calls!(SYS_fchmodat SYS_mkdirat SYS_mknodat),
        when: When::AnyBit(2, &SET_ID_BITS),
        answer: Answer::Forbidden,
        reason: SET_ID,
    },
    Denial {
        about: "set-id files",
        calls: FCHMODAT2,
        when: When::AnyBit(2, &SET_ID_BITS),
        answer: Answer::Forbidden,
        reason: SET_ID,
    },
    Denial {
        about: "set-id files",
        calls: calls!(SYS_openat),
        when: When::MakesSetId(2, 3),
        answer: Answer::Forbidden,
        reason: SET_ID,
    },
    Denial {
        about: "set-id files",
        calls: x86_calls!(SYS_chmod SYS_creat SYS_mkdir SYS_mknod),
        when: When::AnyBit(1, &SET_ID_BITS),
        answer: Answer::Forbidden,
        reason: SET_ID,
    },
    Denial {
        about: "set-id files",
        calls: x86_calls!(SYS_open),
        when: When::MakesSetId(1, 2),
        answer: Answer::Forbidden,
        reason: SET_ID,
    },
    Denial {
        about: "devices",
        calls: calls!(SYS_mknodat),
        when: When::MakesType(2, &DEVICES),
        answer: Answer::Forbidden,
        reason: DEVICE,
    },
    Denial {
        about: "devices",
        calls: x86_calls!(SYS_mknod),
        when: When::MakesType(1, &DEVICES),
        answer: Answer::Forbidden,
        reason: DEVICE,
    },
    Denial {
        about: "words in a terminal's mouth",
        calls: calls!(SYS_ioctl),
        when: When::OneOf(1, &TERMINAL_INJECTION),
        answer: Answer::Forbidden,
        reason: "Types into the terminal of whoever looks, as if at the keyboard.",
    },
    Denial {
        about: "line disciplines",
        calls: calls!(SYS_ioctl),
        when: When::OneOf(1, &LINE_DISCIPLINE),
        answer: Answer::Forbidden,
        reason: "Loads drivers for modems and the like, several of which have had holes.",
    },
    Denial {
        about: "socket families",
        calls: calls!(SYS_socket SYS_socketpair),
        when: When::NoneOf(0, &FAMILIES),
        answer: Answer::NoFamily,
        reason: "Unix, IPv4, IPv6 and netlink stay. Others, such as vsock, Bluetooth and the kernel's ciphers, are not all confined by a network namespace, or load drivers.",
    },
    Denial {
        about: "protocols over IPv4",
        calls: calls!(SYS_socket),
        when: When::Protocol(2, &INTERNET_PROTOCOLS),
        answer: Answer::NoProtocol,
        reason: "TCP, UDP and ICMP stay. Others (SCTP, DCCP, raw) load drivers that have had holes, for a network that has nothing but a loopback.",
    },
    Denial {
        about: "protocols over IPv6",
        calls: calls!(SYS_socket),
        when: When::Protocol(10, &INTERNET_PROTOCOLS),
        answer: Answer::NoProtocol,
        reason: "As over IPv4.",
    },
    Denial {
        about: "netlink",
        calls: calls!(SYS_socket),
        when: When::Protocol(16, &NETLINK_PROTOCOLS),
        answer: Answer::NoProtocol,
        reason: "Addresses and routes stay, since the C library asks for them to resolve `localhost`. The rest are doors to packet filters, audit, ciphers and device events.",
    },
    Denial {
        about: "the personality of a process",
        calls: calls!(SYS_personality),
        when: When::NoneOf(0, &PERSONALITIES),
        answer: Answer::Forbidden,
        reason: "Other systems' behaviours make memory executable or map the page at zero.",
    },
    Denial {
        about: "core dumps",
        calls: calls!(SYS_prlimit64),
        when: When::SetsBound(1, CORE, 2),
        answer: Answer::Pretended,
        reason: CORE_DUMP,
    },
    Denial {
        about: "core dumps",
        calls: calls!(SYS_setrlimit),
        when: When::OneOf(0, &[CORE]),
        answer: Answer::Pretended,
        reason: CORE_DUMP,
    },
    Denial {
        about: "the kernel itself",
        calls: calls!(SYS_kexec_load SYS_kexec_file_load SYS_init_module SYS_finit_module SYS_delete_module SYS_reboot SYS_syslog SYS_acct),
        when: When::Always,
        answer: Answer::Forbidden,
        reason: MACHINE,
    },
    Denial {
        about: "swap, quotas, memory of other nodes",
        calls: calls!(SYS_swapon SYS_swapoff SYS_quotactl SYS_quotactl_fd SYS_move_pages SYS_migrate_pages),
        when: When::Always,
        answer: Answer::Forbidden,
        reason: MACHINE,
    },
    Denial {
        about: "clocks and names of the machine",
        calls: calls!(SYS_settimeofday SYS_clock_settime SYS_clock_adjtime SYS_adjtimex SYS_sethostname SYS_setdomainname SYS_vhangup),
        when: When::Always,
        answer: Answer::Forbidden,
        reason: MACHINE,
    },
    Denial {
        about: "turns on the processors",
        calls: calls!(SYS_sched_setattr),
        when: When::Always,
        answer: Answer::Pretended,
        reason: "Neighbours would wait for a sandbox that gives itself long turns; libraries call it only to keep what is.",
    },
    Denial {
        about: "ports and segments",
        calls: x86_calls!(SYS_iopl SYS_ioperm SYS_modify_ldt SYS_uselib),
        when: When::Always,
        answer: Answer::Forbidden,
        reason: "For programs of the nineties; each has had holes.",
    },
];

// === impl When ===

impl When {
    /// Arguments that are denied, one example for each way to be, also with what the kernel does not look at set.
    pub fn denied(self) -> Vec<[u64; 6]> {
        let one = |place: u8, value: u64| with(&[(place, value)]);
        let above = |value: u64| value | 1 << 32;
        match self {
            Self::Always => vec![[0; 6]],
            Self::AnyBit(place, bits) => {
                bits.iter().flat_map(|bit| [one(place, *bit), one(place, above(*bit))]).collect()
            }
            Self::OneOf(place, values) => {
                values.iter().flat_map(|value| [one(place, *value), one(place, above(*value))]).collect()
            }
            Self::NoneOf(place, values) => {
                (0..64).filter(|value| !values.contains(value)).map(|value| one(place, value)).collect()
            }
            Self::Protocol(family, protocols) => (0..=262)
                .filter(|protocol| !protocols.contains(protocol))
                .map(|protocol| with(&[(0, family), (1, 3), (2, protocol)]))
                .collect(),
            Self::MakesSetId(flags, mode) => CREATING
                .iter()
                .flat_map(|flag| SET_ID_BITS.map(|bit| with(&[(flags, *flag), (mode, bit | 0o755)])))
                .collect(),
            Self::MakesType(mode, types) => types.iter().map(|kind| one(mode, kind | 0o600)).collect(),
            Self::SetsBound(place, bound, address) => vec![with(&[(place, bound), (address, 1 << 40)])],
        }
    }

    /// Arguments that are not denied; none if all are.
    pub fn allowed(self) -> Vec<[u64; 6]> {
        let one = |place: u8, value: u64| with(&[(place, value)]);
        match self {
            Self::Always => Vec::new(),
            Self::AnyBit(place, bits) => {
                vec![one(place, 0), one(place, bits.iter().fold(0xffff_ffff, |rest, bit| rest & !bit))]
            }
            Self::OneOf(place, _) => vec![one(place, 0x5401), one(place, 7)],
            Self::NoneOf(place, values) => values.iter().map(|value| one(place, *value)).collect(),
            Self::Protocol(family, protocols) => {
                protocols.iter().map(|protocol| with(&[(0, family), (1, 2), (2, *protocol)])).collect()
            }
            Self::MakesSetId(flags, mode) => {
                vec![
                    with(&[(flags, CREATING[0]), (mode, 0o755)]),
                    with(&[(flags, 0), (mode, SET_ID_BITS[0])]),
                ]
            }
            Self::MakesType(mode, _) => vec![one(mode, 0o010_600), one(mode, 0o100_600)],
            Self::SetsBound(place, bound, address) => {
                vec![with(&[(place, bound)]), with(&[(place, bound + 1), (address, 1 << 40)])]
            }
        }
    }
}

/// As a page for users says it.
impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Always => f.write_str("always"),
            Self::AnyBit(_, bits) if **bits == SET_ID_BITS => f.write_str("with a set-id bit"),
            Self::AnyBit(..) => f.write_str("with a flag for a new namespace"),
            Self::OneOf(_, values) if **values == TERMINAL_INJECTION => {
                f.write_str("`TIOCSTI`, `TIOCLINUX`, `TIOCCONS`")
            }
            Self::OneOf(_, values) if **values == LINE_DISCIPLINE => f.write_str("`TIOCSETD`"),
            Self::OneOf(..) => f.write_str("for core dumps"),
            Self::NoneOf(_, values) if **values == FAMILIES => f.write_str("all families but those"),
            Self::NoneOf(..) => f.write_str("all but names and address randomisation"),
            Self::Protocol(..) => f.write_str("all protocols but those"),
            Self::MakesSetId(..) => f.write_str("a new file with a set-id bit"),
            Self::MakesType(..) => f.write_str("a device"),
            Self::SetsBound(..) => f.write_str("for core dumps"),
        }
    }
}

// === impl Answer ===

impl Answer {
    /// All of them.
    pub(super) const ALL: [Self; 5] =
        [Self::Forbidden, Self::Unknown, Self::NoFamily, Self::NoProtocol, Self::Pretended];

    /// The error number, or 0.
    pub fn errno(self) -> i32 {
        match self {
            Self::Forbidden => libc::EPERM,
            Self::Unknown => libc::ENOSYS,
            Self::NoFamily => libc::EAFNOSUPPORT,
            Self::NoProtocol => libc::EPROTONOSUPPORT,
            Self::Pretended => 0,
        }
    }

    /// As a page for users says it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Forbidden => "`EPERM`",
            Self::Unknown => "`ENOSYS`",
            Self::NoFamily => "`EAFNOSUPPORT`",
            Self::NoProtocol => "`EPROTONOSUPPORT`",
            Self::Pretended => "done, without effect",
        }
    }
}

fn with(arguments: &[(u8, u64)]) -> [u64; 6] {
    let mut all = [0; 6];
    for (place, value) in arguments {
        all[usize::from(*place)] = *value;
    }
    all
}
