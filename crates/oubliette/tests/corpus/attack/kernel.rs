//! `/proc`, signals, tracing, clocks and key rings.

use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Seek as _;
use std::io::SeekFrom;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;

use super::sys;
use super::tools::did;
use super::tools::done;
use super::tools::opens;
use super::tools::reached;
use super::tools::reads;
use super::tools::says;
use super::tools::stopped;
use super::tools::text_of;
use crate::case::Case;
use crate::case::Control::Root;
use crate::case::Control::SameUser;
use crate::case::Verdict;
use crate::case::Verdict::Got;
use crate::case::Verdict::Held;
use crate::place::Place;

/// An address at which nothing is, for calls that must fail there and not before.
const NOWHERE: usize = 8;

pub(super) const CASES: &[Case] = &[
    Case::inside(
        "proc.sysrq",
        "open `sysrq-trigger` for writing",
        "the machine can be rebooted",
        Root,
        |p| opens(p, "/proc/sysrq-trigger", true),
    )
    .needs("`/proc/sysrq-trigger`"),
    Case::inside(
        "proc.core_pattern",
        "open `core_pattern` for writing",
        "the host runs a program at the next crash",
        Root,
        |p| opens(p, "/proc/sys/kernel/core_pattern", true),
    ),
    Case::inside(
        "proc.modprobe",
        "open the path of `modprobe` for writing",
        "the host runs a program at the next unknown format",
        Root,
        |p| opens(p, "/proc/sys/kernel/modprobe", true),
    )
    .needs("loadable modules"),
    Case::inside(
        "proc.settings",
        "open a setting of the memory for writing",
        "settings of the host can be changed",
        Root,
        |p| opens(p, "/proc/sys/vm/overcommit_memory", true),
    ),
    Case::inside(
        "proc.formats",
        "register a format of programs",
        "the host runs an interpreter of the attacker's",
        Root,
        |p| opens(p, "/proc/sys/fs/binfmt_misc/register", true),
    )
    .needs("binfmt_misc, mounted"),
    Case::inside("proc.memory", "read the kernel's memory", "everything is readable", Root, |p| {
        done(p, File::open("/proc/kcore").and_then(|mut file| io::Read::read(&mut file, &mut [0; 64])))
    })
    .needs("`/proc/kcore`"),
    Case::inside(
        "proc.messages",
        "open the kernel's messages",
        "what happens on the host is readable",
        Root,
        |p| opens(p, "/proc/kmsg", false),
    ),
    Case::inside(
        "proc.symbols",
        "read where the kernel's functions are",
        "the kernel can be aimed at",
        Root,
        symbols,
    )
    .needs("addresses that the kernel shows to root"),
    Case::inside("proc.timers", "read the list of timers", "what runs on the host is readable", Root, |p| {
        says(p, "/proc/timer_list")
    })
    .needs("`/proc/timer_list`"),
    Case::inside(
        "proc.interrupts",
        "open the affinity of interrupts for writing",
        "the host's devices can be slowed down",
        Root,
        |p| opens(p, "/proc/irq/default_smp_affinity", true),
    )
    .needs("`/proc/irq`"),
    Case::inside(
        "proc.ranges",
        "open the memory type ranges for writing",
        "the host's memory can be slowed down",
        Root,
        |p| opens(p, "/proc/mtrr", true),
    )
    .needs("`/proc/mtrr`"),
    Case::inside(
        "proc.other_arguments",
        "read the arguments of a process of the host",
        "processes of the host are seen",
        SameUser,
        |p| reads(p, format!("/proc/{}/cmdline", p.neighbour.pid)),
    ),
    Case::inside(
        "proc.other_environment",
        "read the environment of a process of the host",
        "secrets of the host's processes are readable",
        SameUser,
        |p| reads(p, format!("/proc/{}/environ", p.neighbour.pid)),
    ),
    Case::inside(
        "proc.all_processes",
        "look for the canary in the arguments of every process",
        "some process of the host is seen",
        SameUser,
        all_processes,
    ),
    Case::inside(
        "proc.groups",
        "open a control group's release agent for writing",
        "the host runs a program (CVE-2022-0492)",
        Root,
        release_agent,
    )
    .needs("version 1 control groups"),
    Case::inside(
        "proc.identity_map",
        "write the map of uids of a process",
        "more uids can be had",
        SameUser,
        identity_map,
    ),
    Case::inside(
        "proc.target_memory",
        "open the first process's memory for writing",
        "the guest can be changed from inside",
        SameUser,
        |p| opens(p, &format!("/proc/{}/mem", p.target), true),
    ),
    Case::inside(
        "proc.target_environment",
        "read the first process's environment and find a secret",
        "the guest was given a secret",
        SameUser,
        |p| reads(p, format!("/proc/{}/environ", p.target)),
    ),
    Case::inside(
        "signals.other",
        "signal a process of the host",
        "processes of the host can be killed",
        SameUser,
        |p| did(p, pid(p.neighbour.pid).and_then(rustix::process::test_kill_process)),
    ),
    Case::inside(
        "signals.thread",
        "signal a thread of the host",
        "threads are found where processes are not",
        SameUser,
        |p| {
            let number = as_argument(p.neighbour.pid);
            done(p, sys::call(libc::SYS_tkill, &[number, 0]))
        },
    ),
    Case::inside(
        "signals.group",
        "signal a process group of the host",
        "groups are found where processes are not",
        SameUser,
        |p| did(p, pid(p.neighbour.pid).and_then(rustix::process::test_kill_process_group)),
    ),
    Case::inside(
        "signals.queue",
        "queue a signal with a value to a process of the host",
        "another call finds it",
        SameUser,
        |p| {
            // What a queued signal looks like: any other origin may not be claimed.
            let mut information = [0_i32; 32];
            information[2] = libc::SI_QUEUE;
            let arguments = [as_argument(p.neighbour.pid), 0, sys::address(&information)];
            done(p, sys::call(libc::SYS_rt_sigqueueinfo, &arguments))
        },
    ),
    Case::inside(
        "signals.handle",
        "open a handle of a process of the host",
        "handles are given where signals are not",
        SameUser,
        |p| {
            did(
                p,
                pid(p.neighbour.pid)
                    .and_then(|pid| rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())),
            )
        },
    ),
    Case::inside(
        "signals.first_process",
        "kill the first process",
        "an agent can end its own sandbox's guest",
        SameUser,
        |p| {
            let Ok(target) = pid(p.target) else { return Held("no target".to_owned()) };
            if let Err(error) = rustix::process::kill_process(target, rustix::process::Signal::KILL) {
                return stopped(p, &error.into());
            }
            // The kernel says yes to a signal that it then drops.
            let gone = (0..200).any(|_| {
                std::thread::park_timeout(std::time::Duration::from_millis(1));
                let state = std::fs::read_to_string(format!("/proc/{}/stat", p.target)).unwrap_or_default();
                state.is_empty() || state.contains(") Z ")
            });
            if gone { Got("it is gone".to_owned()) } else { Held("it is still there".to_owned()) }
        },
    ),
    Case::inside(
        "signals.priority",
        "change the priority of a process of the host",
        "the host's processes can be slowed down",
        SameUser,
        |p| done(p, sys::call(libc::SYS_getpriority, &[0, as_argument(p.neighbour.pid)])),
    ),
    Case::inside(
        "trace.attach",
        "attach to the first process as a debugger",
        "the guest can be driven",
        SameUser,
        |p| {
            done(
                p,
                sys::call(libc::SYS_ptrace, &[as_request(libc::PTRACE_ATTACH), as_argument(p.target), 0, 0]),
            )
        },
    ),
    Case::inside("trace.seize", "seize the first process", "a newer call attaches", SameUser, |p| {
        done(p, sys::call(libc::SYS_ptrace, &[as_request(libc::PTRACE_SEIZE), as_argument(p.target), 0, 0]))
    }),
    Case::inside("trace.traceme", "be traced by the parent", "tracing works at all", SameUser, |p| {
        // A signal would stop this process for its tracer, which does not know of it.
        let all = [u64::MAX];
        let blocked = sys::call(libc::SYS_rt_sigprocmask, &[0, sys::address(&all), 0, 8]);
        let traced = || sys::call(libc::SYS_ptrace, &[as_request(libc::PTRACE_TRACEME), 0, 0, 0]);
        done(p, blocked.and_then(|_| traced()))
    }),
    Case::inside(
        "trace.read_memory",
        "read the first process's memory with `process_vm_readv`",
        "the guest's memory is readable",
        SameUser,
        |p| vectors(p, libc::SYS_process_vm_readv),
    ),
    Case::inside(
        "trace.write_memory",
        "write the first process's memory with `process_vm_writev`",
        "the guest's memory is writable",
        SameUser,
        |p| vectors(p, libc::SYS_process_vm_writev),
    ),
    Case::inside(
        "trace.memory_file",
        "read the first process's memory through `/proc`",
        "the guest's memory is readable",
        SameUser,
        |p| {
            done(
                p,
                File::open(format!("/proc/{}/maps", p.target)).and_then(|file| {
                    let first = text_of(file, 64)?;
                    let start = first.split('-').next().unwrap_or_default();
                    let start = u64::from_str_radix(start, 16).map_err(io::Error::other)?;
                    let mut memory = File::open(format!("/proc/{}/mem", p.target))?;
                    memory.seek(SeekFrom::Start(start))?;
                    io::Read::read(&mut memory, &mut [0; 16])
                }),
            )
        },
    ),
    Case::inside(
        "trace.take_descriptor",
        "take a descriptor of the first process",
        "the guest's connection to the host can be had",
        SameUser,
        |p| {
            let handle = pid(p.target)
                .and_then(|pid| rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()));
            match handle {
                Ok(handle) => {
                    let number = usize::try_from(handle.as_raw_fd()).unwrap_or_default();
                    done(p, sys::call(libc::SYS_pidfd_getfd, &[number, 0, 0]))
                }
                Err(error) => stopped(p, &error.into()),
            }
        },
    ),
    Case::inside(
        "trace.compare",
        "compare kernel objects of two processes",
        "the layout of the kernel's memory leaks",
        SameUser,
        |p| {
            let own = as_argument(std::process::id().cast_signed());
            done(p, sys::call(libc::SYS_kcmp, &[own, as_argument(p.target), 0, 0, 0]))
        },
    )
    .needs("`kcmp`"),
    Case::inside(
        "trace.descriptors",
        "list the first process's descriptors",
        "what the guest holds open is seen",
        SameUser,
        |p| done(p, std::fs::read_dir(format!("/proc/{}/fd", p.target))),
    ),
    Case::inside("time.clock", "set the clock", "the host's time can be changed", Root, |p| {
        // A time that is none: the kernel must look at it to see that.
        let time = [0_i64, -1];
        reached(p, libc::SYS_clock_settime, &[0, sys::address(&time)])
    }),
    Case::inside("time.day", "set the time of day", "an older call sets the clock", Root, |p| {
        let time = [0_i64, -1];
        reached(p, libc::SYS_settimeofday, &[sys::address(&time), 0])
    }),
    Case::inside("time.rate", "change the rate of the clock", "the host's time can be bent", Root, |p| {
        // A mode with a value that no clock has.
        let mut wanted = [0_i64; 32];
        wanted[0] = 0x4000;
        wanted[10] = 1;
        reached(p, libc::SYS_adjtimex, &[sys::address_mut(&mut wanted)])
    }),
    Case::inside(
        "time.hardware",
        "open the hardware's clock",
        "the host's clock can be set behind its back",
        Root,
        |p| opens(p, "/dev/rtc0", false),
    )
    .needs("`/dev/rtc0`"),
    Case::inside(
        "keys.add",
        "add a key to the session's key ring",
        "key rings are shared with the host",
        SameUser,
        |p| {
            done(
                p,
                sys::call(
                    libc::SYS_add_key,
                    &[
                        sys::address(c"user".to_bytes_with_nul()),
                        sys::address(c"corpus".to_bytes_with_nul()),
                        sys::address("x"),
                        1,
                        as_argument(-2),
                    ],
                ),
            )
        },
    )
    .needs("key rings"),
    Case::inside("keys.ask", "ask for a key", "the host runs a program that makes keys", SameUser, |p| {
        reached(p, libc::SYS_request_key, &[NOWHERE, NOWHERE, 0, 0])
    })
    .needs("key rings"),
    Case::inside(
        "keys.control",
        "ask which key ring this session has",
        "key rings of the host are reached",
        SameUser,
        |p| done(p, sys::call(libc::SYS_keyctl, &[0, as_argument(-3), 1])),
    )
    .needs("key rings"),
    Case::inside(
        "kernel.bpf",
        "load a program into the kernel",
        "the kernel's largest surface is open",
        Root,
        |p| reached(p, libc::SYS_bpf, &[5, NOWHERE, 48]),
    )
    .needs("bpf"),
    Case::inside(
        "kernel.events",
        "open a performance counter",
        "the kernel's counters are open",
        Root,
        |p| reached(p, libc::SYS_perf_event_open, &[NOWHERE, 0, as_argument(-1), as_argument(-1), 0]),
    )
    .needs("performance counters"),
    Case::inside(
        "kernel.rings",
        "set up `io_uring`",
        "calls can be made that no filter sees",
        SameUser,
        |p| reached(p, libc::SYS_io_uring_setup, &[1, NOWHERE]),
    )
    .needs("`io_uring`"),
    Case::inside(
        "kernel.page_faults",
        "handle page faults in user space",
        "the kernel can be stopped half way",
        Root,
        |p| reached(p, libc::SYS_userfaultfd, &[0]),
    )
    .needs("`userfaultfd`"),
    Case::inside("kernel.modules", "load a module", "the kernel runs the attacker's code", Root, |p| {
        reached(p, libc::SYS_init_module, &[NOWHERE, 1, NOWHERE])
    })
    .needs("loadable modules"),
    Case::inside("kernel.replace", "load another kernel", "the machine is the attacker's", Root, |p| {
        reached(p, libc::SYS_kexec_load, &[0, 1000, NOWHERE, 0])
    })
    .needs("kexec"),
    Case::inside(
        "kernel.reboot",
        "reboot, with wrong magic numbers",
        "the machine can be stopped",
        Root,
        |p| reached(p, libc::SYS_reboot, &[0, 0, 0, 0]),
    ),
    Case::inside(
        "kernel.swap",
        "swap to a file that is none",
        "the machine's swap can be changed",
        Root,
        |p| reached(p, libc::SYS_swapoff, &[NOWHERE]),
    )
    .needs("swap"),
    Case::inside("kernel.log", "read the kernel's log", "what happens on the host is readable", Root, |p| {
        reached(p, libc::SYS_syslog, &[10, 0, 0])
    }),
    Case::inside(
        "kernel.long_turns",
        "ask for the longest turns on the processors",
        "neighbours wait for a sandbox that never sleeps",
        SameUser,
        long_turns,
    )
    .needs("a kernel that lets programs choose (6.12)"),
    #[cfg(target_arch = "x86_64")]
    Case::inside(
        "kernel.x32_table",
        "make a call of the x32 table",
        "the filter knows the wrong numbers",
        SameUser,
        |p| match sys::x32_getpid() {
            number if number > 0 => Got(format!("it says {number}")),
            error => stopped(p, &io::Error::from_raw_os_error(i32::try_from(-error).unwrap_or(libc::ENOSYS))),
        },
    )
    .needs("the x32 table"),
    #[cfg(target_arch = "x86_64")]
    Case::inside(
        "kernel.i386_table",
        "make a call of the 32-bit table",
        "the filter knows the wrong numbers",
        SameUser,
        |p| match sys::i386_getpid() {
            number if number > 0 => Got(format!("it says {number}")),
            error => stopped(p, &io::Error::from_raw_os_error(-error)),
        },
    )
    .needs("the 32-bit table"),
];

fn pid(number: i32) -> rustix::io::Result<rustix::process::Pid> {
    rustix::process::Pid::from_raw(number).ok_or(rustix::io::Errno::SRCH)
}

/// A signed number as the kernel takes it.
fn as_argument(number: i32) -> usize {
    i64::from(number).cast_unsigned() as usize
}

fn as_request(number: libc::c_uint) -> usize {
    number as usize
}

fn symbols(place: &Place) -> Verdict {
    match File::open("/proc/kallsyms").and_then(|file| text_of(file, 4096)) {
        Ok(text) => {
            let known = text.lines().filter(|line| !line.starts_with("0000000000000000")).count();
            match known {
                0 if place.is_control => Verdict::Missing("the kernel hides them from everyone".to_owned()),
                0 => Held("all addresses are hidden".to_owned()),
                count => Got(format!("{count} addresses")),
            }
        }
        Err(error) => stopped(place, &error),
    }
}

fn all_processes(place: &Place) -> Verdict {
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let text = File::open(entry.path().join("cmdline")).and_then(|file| text_of(file, 4096));
        // The attempt's own arguments name only a place and a case.
        if text.unwrap_or_default().contains(&place.canary) {
            return Got(entry.path().display().to_string());
        }
    }
    Held("none".to_owned())
}

fn release_agent(place: &Place) -> Verdict {
    let groups = ["memory", "cpu", "cpu,cpuacct", "pids", "rdma", "devices", "freezer"];
    let mut last = stopped(place, &io::Error::from_raw_os_error(libc::ENOENT));
    for group in groups {
        last = opens(place, &format!("/sys/fs/cgroup/{group}/release_agent"), true);
        if matches!(last, Got(_)) {
            return last;
        }
    }
    last
}

/// The file can be written once, by the owner of a new user namespace.
fn identity_map(place: &Place) -> Verdict {
    if place.is_control
        && let Err(error) = sys::call(libc::SYS_unshare, &[libc::CLONE_NEWUSER as usize])
    {
        return stopped(place, &error);
    }
    let uid = rustix::process::getuid().as_raw();
    let outside = if place.is_control { place.uid } else { uid };
    let map = format!("0 {outside} 1");
    done(
        place,
        OpenOptions::new()
            .write(true)
            .open("/proc/self/uid_map")
            .and_then(|mut file| file.write_all(map.as_bytes())),
    )
}

fn vectors(place: &Place, number: i64) -> Verdict {
    let mut own = [0_u8; 16];
    // In the control the child runs the same program at addresses of its own, which its map tells.
    let map = std::fs::read_to_string(format!("/proc/{}/maps", place.target)).unwrap_or_default();
    let writable = map.lines().find(|line| line.contains(" rw-p "));
    let start = writable.and_then(|line| usize::from_str_radix(line.split('-').next()?, 16).ok());
    let local = [sys::address_mut(&mut own), own.len()];
    let remote = [start.unwrap_or(NOWHERE), if number == libc::SYS_process_vm_readv { own.len() } else { 0 }];
    let arguments = [as_argument(place.target), sys::address(&local), 1, sys::address(&remote), 1, 0];
    done(place, sys::call(number, &arguments))
}

/// `struct sched_attr` as the kernel has it: the fourth word is the length of a turn in nanoseconds.
fn long_turns(place: &Place) -> Verdict {
    const LONGEST: u64 = 100_000_000;
    let mut attributes = [0_u64; 6];
    let size = size_of_val(&attributes);
    attributes[0] = size as u64;
    attributes[3] = LONGEST;
    if let Err(error) = sys::call(libc::SYS_sched_setattr, &[0, sys::address(&attributes), 0]) {
        return stopped(place, &error);
    }
    let mut now = [0_u64; 6];
    match sys::call(libc::SYS_sched_getattr, &[0, sys::address_mut(&mut now), size, 0]) {
        Ok(_) if now[3] == LONGEST => Got("turns of 100 ms".to_owned()),
        Ok(_) if place.is_control => Verdict::Missing("turns of one length only".to_owned()),
        Ok(_) => Held(format!("its turns have {} ns", now[3])),
        Err(error) => stopped(place, &error),
    }
}
