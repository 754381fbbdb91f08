//! Mounts and namespaces: another view of the machine than the one that was given.

use std::io;

use super::sys;
use super::tools::done;
use super::tools::reached;
use super::tools::stopped;
use crate::case::Case;
use crate::case::Control::Root;
use crate::case::Control::SameUser;
use crate::case::Verdict;
use crate::place::Place;

/// `fsopen` and what follows it, the same numbers on all architectures.
const OPEN_TREE: i64 = 428;
const MOVE_MOUNT: i64 = 429;
const FSOPEN: i64 = 430;
const FSPICK: i64 = 433;
const MOUNT_SETATTR: i64 = 442;

pub(super) const CASES: &[Case] = &[
    Case::inside(
        "mounts.memory",
        "mount a file system in memory",
        "the view of files can be changed",
        Root,
        |p| mount(p, Some(c"none"), c"/tmp", Some(c"tmpfs"), 0),
    ),
    Case::inside(
        "mounts.bind",
        "bind the root elsewhere",
        "mounts can be had without their flags",
        Root,
        |p| mount(p, Some(c"/"), c"/tmp", None, libc::MS_BIND),
    ),
    Case::inside("mounts.writable", "remount `/usr` writable", "read-only mounts can be opened", Root, |p| {
        // Root's own view first gets a mount there that can be remounted.
        if p.is_control {
            drop(mount(p, Some(c"/usr"), c"/usr", None, libc::MS_BIND));
        }
        mount(p, None, c"/usr", None, libc::MS_REMOUNT | libc::MS_BIND)
    }),
    Case::inside("mounts.processes", "mount another `/proc`", "a `/proc` without masks", Root, |p| {
        mount(p, Some(c"proc"), c"/tmp", Some(c"proc"), 0)
    }),
    Case::inside("mounts.groups", "mount the control groups", "limits can be lifted", Root, |p| {
        mount(p, Some(c"none"), c"/tmp", Some(c"cgroup2"), 0)
    })
    .needs("version 2 control groups"),
    Case::inside("mounts.unmount", "unmount `/tmp`", "what lies under a mount can be seen", Root, |p| {
        if p.is_control {
            drop(mount(p, Some(c"none"), c"/tmp", Some(c"tmpfs"), 0));
        }
        done(p, sys::call(libc::SYS_umount2, &[text(c"/tmp"), 2]))
    }),
    Case::inside("mounts.pivot", "make another folder the root", "the root can be left", Root, |p| {
        reached(p, libc::SYS_pivot_root, &[text(c"/tmp"), text(c"/tmp")])
    }),
    Case::inside("mounts.chroot", "change the root", "a set-id program can be fooled", Root, |p| {
        done(p, sys::call(libc::SYS_chroot, &[text(c"/")]))
    }),
    Case::inside(
        "mounts.new_interface",
        "open a file system with the new interface",
        "the new calls were forgotten",
        Root,
        |p| done(p, sys::call(FSOPEN, &[text(c"tmpfs"), 0])),
    ),
    Case::inside(
        "mounts.pick",
        "pick a mount with the new interface",
        "mounts can be changed by descriptor",
        Root,
        |p| done(p, sys::call(FSPICK, &[as_folder(), text(c"/"), 0])),
    ),
    Case::inside(
        "mounts.copy_tree",
        "copy a tree of mounts by descriptor",
        "mounts can be had without a mount",
        Root,
        |p| done(p, sys::call(OPEN_TREE, &[as_folder(), text(c"/"), 1])),
    ),
    Case::inside("mounts.move", "move a mount by descriptor", "mounts can be moved away", Root, |p| {
        reached(p, MOVE_MOUNT, &[as_folder(), text(c"/tmp"), as_folder(), text(c"/tmp"), 0])
    }),
    Case::inside(
        "mounts.attributes",
        "change a mount's attributes",
        "read-only can be taken off",
        Root,
        |p| {
            let attributes = [0_u64, 1, 0, 0];
            reached(p, MOUNT_SETATTR, &[as_folder(), text(c"/usr"), 0, sys::address(&attributes), 32])
        },
    ),
    Case::inside(
        "namespaces.user",
        "make a user namespace",
        "all capabilities, over the kernel's whole surface",
        SameUser,
        |p| unshare(p, libc::CLONE_NEWUSER),
    ),
    Case::inside("namespaces.mount", "make a mount namespace", "mounts of one's own", Root, |p| {
        unshare(p, libc::CLONE_NEWNS)
    }),
    Case::inside(
        "namespaces.network",
        "make a network namespace",
        "network devices of one's own",
        Root,
        |p| unshare(p, libc::CLONE_NEWNET),
    ),
    Case::inside(
        "namespaces.process",
        "make a process namespace",
        "a first process of one's own",
        Root,
        |p| unshare(p, libc::CLONE_NEWPID),
    ),
    Case::inside(
        "namespaces.names",
        "make a namespace of host names",
        "host names of one's own",
        Root,
        |p| unshare(p, libc::CLONE_NEWUTS),
    ),
    Case::inside("namespaces.ipc", "make an IPC namespace", "queues of one's own", Root, |p| {
        unshare(p, libc::CLONE_NEWIPC)
    }),
    Case::inside(
        "namespaces.groups",
        "make a control group namespace",
        "a root of groups of one's own",
        Root,
        |p| unshare(p, libc::CLONE_NEWCGROUP),
    ),
    Case::inside("namespaces.time", "make a time namespace", "clocks of one's own", Root, |p| {
        unshare(p, 0x80)
    })
    .needs("time namespaces"),
    Case::inside(
        "namespaces.user_and_mount",
        "make a user and a mount namespace at once",
        "what root does, as nobody",
        SameUser,
        |p| unshare(p, libc::CLONE_NEWUSER | libc::CLONE_NEWNS),
    ),
    Case::inside(
        "namespaces.clone",
        "start a process in a new user namespace",
        "`clone` does what `unshare` may not",
        SameUser,
        |p| {
            // A child without a stack of its own goes on behind the call, and ends.
            match sys::call(libc::SYS_clone, &[(libc::CLONE_NEWUSER | libc::SIGCHLD) as usize, 0, 0, 0, 0]) {
                Ok(0) => {
                    sys::call(libc::SYS_exit_group, &[0]).ok();
                    Verdict::Held("not reached".to_owned())
                }
                answer => done(p, answer),
            }
        },
    ),
    Case::inside(
        "namespaces.clone3",
        "start one with `clone3`, whose arguments lie in memory",
        "a filter cannot look at them",
        SameUser,
        |p| {
            let mut wanted = [0_u64; 11];
            wanted[0] = u64::from(libc::CLONE_NEWUSER.cast_unsigned());
            wanted[4] = u64::from(libc::SIGCHLD.cast_unsigned());
            match sys::call(libc::SYS_clone3, &[sys::address(&wanted), 88]) {
                Ok(0) => {
                    sys::call(libc::SYS_exit_group, &[0]).ok();
                    Verdict::Held("not reached".to_owned())
                }
                answer => done(p, answer),
            }
        },
    ),
    Case::inside(
        "namespaces.enter",
        "enter the namespaces of the first process",
        "more than one's own can be entered",
        Root,
        |p| {
            let space = std::fs::File::open("/proc/self/ns/uts");
            match space {
                Ok(file) => {
                    use std::os::fd::AsRawFd as _;
                    let number = usize::try_from(file.as_raw_fd()).unwrap_or_default();
                    done(p, sys::call(libc::SYS_setns, &[number, 0]))
                }
                Err(error) => stopped(p, &error),
            }
        },
    ),
    Case::inside(
        "namespaces.host_name",
        "change the host name",
        "the host's name can be changed",
        Root,
        |p| {
            let name = rustix::system::uname().nodename().to_owned();
            done(p, sys::call(libc::SYS_sethostname, &[text(&name), name.count_bytes()]))
        },
    ),
];

fn text(of: &std::ffi::CStr) -> usize {
    sys::address(of.to_bytes_with_nul())
}

fn as_folder() -> usize {
    i64::from(libc::AT_FDCWD).cast_unsigned() as usize
}

fn mount(
    place: &Place,
    source: Option<&std::ffi::CStr>,
    target: &std::ffi::CStr,
    kind: Option<&std::ffi::CStr>,
    flags: u64,
) -> Verdict {
    let arguments = [source.map_or(0, text), text(target), kind.map_or(0, text), flags as usize, 0];
    done(place, sys::call(libc::SYS_mount, &arguments))
}

fn unshare(place: &Place, flags: i32) -> Verdict {
    done(place, sys::call(libc::SYS_unshare, &[flags.cast_unsigned() as usize]))
}

/// Leaves the host's mounts, names and queues to the host: what root's controls do there harms nobody.
pub(super) fn leave_the_hosts() -> io::Result<()> {
    let spaces = libc::CLONE_NEWNS | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC;
    sys::call(libc::SYS_unshare, &[spaces.cast_unsigned() as usize])?;
    let private = (libc::MS_REC | libc::MS_PRIVATE) as usize;
    sys::call(libc::SYS_mount, &[text(c"none"), text(c"/"), 0, private, 0])?;
    Ok(())
}
