//! Devices: made, found, and terminals that can be made to type.

use std::fs::OpenOptions;
use std::os::fd::AsRawFd as _;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use super::network::ioctl;
use super::sys;
use super::tools::done;
use super::tools::opens;
use super::tools::stopped;
use crate::case::Case;
use crate::case::Control::Root;
use crate::case::Control::SameUser;
use crate::case::Verdict;
use crate::place::Place;

pub(super) const CASES: &[Case] = &[
    Case::inside(
        "devices.block",
        "make a node of the first disk",
        "the host's disk is readable",
        Root,
        |p| node(p, libc::S_IFBLK, 8, 0),
    ),
    Case::inside(
        "devices.memory_node",
        "make a node of the machine's memory",
        "everything is readable",
        Root,
        |p| node(p, libc::S_IFCHR, 1, 1),
    ),
    Case::inside("devices.memory", "open `/dev/mem`", "everything is readable", Root, |p| {
        opens(p, "/dev/mem", false)
    })
    .needs("`/dev/mem`"),
    Case::inside(
        "devices.messages",
        "open `/dev/kmsg`",
        "the kernel's log can be read and written",
        Root,
        |p| opens(p, "/dev/kmsg", true),
    )
    .needs("`/dev/kmsg`"),
    Case::inside(
        "devices.virtual_machine",
        "open `/dev/kvm`",
        "the hypervisor's surface is open",
        Root,
        |p| opens(p, "/dev/kvm", true),
    )
    .needs("`/dev/kvm`"),
    Case::inside("devices.tunnel", "open `/dev/net/tun`", "a network device can be made", Root, |p| {
        opens(p, "/dev/net/tun", true)
    })
    .needs("`/dev/net/tun`"),
    Case::inside("devices.fuse", "open `/dev/fuse`", "a file system of the attacker's", Root, |p| {
        opens(p, "/dev/fuse", true)
    })
    .needs("`/dev/fuse`"),
    Case::inside("devices.loop", "open the control of loop devices", "files can be made disks", Root, |p| {
        opens(p, "/dev/loop-control", true)
    })
    .needs("loop devices"),
    Case::inside("devices.vsock", "open `/dev/vsock`", "the hypervisor is reached", Root, |p| {
        opens(p, "/dev/vsock", false)
    })
    .needs("`/dev/vsock`"),
    Case::inside(
        "devices.disks",
        "find a block device under `/dev`",
        "the host's disks are shown",
        Root,
        |p| {
            use std::os::unix::fs::FileTypeExt as _;
            let found = std::fs::read_dir("/dev")
                .into_iter()
                .flatten()
                .flatten()
                .find(|entry| entry.file_type().is_ok_and(|kind| kind.is_block_device()));
            match found {
                Some(entry) => Verdict::Got(entry.path().display().to_string()),
                None if p.is_control => Verdict::Missing("this machine has no disk".to_owned()),
                None => Verdict::Held("none".to_owned()),
            }
        },
    )
    .needs("a disk under `/dev`"),
    Case::inside(
        "devices.terminal",
        "open the controlling terminal",
        "the operator's terminal is reached",
        SameUser,
        |p| {
            if p.is_control
                && let Err(error) = own_terminal()
            {
                return stopped(p, &error);
            }
            opens(p, "/dev/tty", true)
        },
    ),
    Case::inside(
        "devices.type",
        "put a key press into a terminal (`TIOCSTI`)",
        "the operator's shell runs a command",
        Root,
        |p| terminal(p, 0x5412),
    )
    .needs("a kernel that lets root do it"),
    Case::inside(
        "devices.paste",
        "paste into the console (`TIOCLINUX`)",
        "the operator's shell runs a command",
        Root,
        |p| terminal(p, 0x541c),
    )
    .needs("a virtual console"),
    Case::inside(
        "devices.other_terminals",
        "open a terminal of the host",
        "operators can be written to",
        Root,
        |p| {
            let own = own_terminal();
            let path = match &own {
                Ok(path) if p.is_control => path.clone(),
                // Inside, numbers of terminals are its own: one that it did not make must not be there.
                _ => "/dev/pts/7".to_owned(),
            };
            opens(p, &path, true)
        },
    ),
];

fn node(place: &Place, kind: u32, major: u32, minor: u32) -> Verdict {
    let path = place.scratch.join(format!("node-{}", std::process::id()));
    let text = format!("{}\0", path.display());
    let number = usize::try_from(rustix::fs::makedev(major, minor)).unwrap_or_default();
    let at = i64::from(libc::AT_FDCWD).cast_unsigned() as usize;
    let arguments = [at, sys::address(text.as_bytes()), (kind | 0o600) as usize, number];
    let made = sys::call(libc::SYS_mknodat, &arguments);
    std::fs::remove_file(path).ok();
    done(place, made)
}

/// The terminal's own side: closing it would end this process before it has told what it got.
static KEPT: OnceLock<OwnedFd> = OnceLock::new();

/// Makes a terminal and takes it as the controlling one, in a session of its own. Its name.
fn own_terminal() -> std::io::Result<String> {
    // A leader of a group may not begin a session; a child of it that is none may.
    rustix::process::setsid().ok();
    let main = rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR)?;
    rustix::pty::grantpt(&main)?;
    rustix::pty::unlockpt(&main)?;
    let path = rustix::pty::ptsname(&main, Vec::new())?.to_string_lossy().into_owned();
    let side = OpenOptions::new().read(true).write(true).open(&path)?;
    rustix::process::ioctl_tiocsctty(&side)?;
    KEPT.set(main).ok();
    Ok(path)
}

fn terminal(place: &Place, request: usize) -> Verdict {
    // The terminal of its own is what an attacker would have of a shared one.
    let path = match own_terminal() {
        Ok(made) => made,
        Err(error) => return stopped(place, &error),
    };
    let opened = OpenOptions::new().read(true).write(true).open(&path);
    match opened {
        Ok(side) => {
            let number = usize::try_from(side.as_raw_fd()).unwrap_or_default();
            // Subcode 2 of the console's request is a selection; the byte is also a harmless key.
            match ioctl(place, number, request, sys::address(&[2_u8; 16])) {
                Verdict::Held(why) if place.is_control => Verdict::Missing(why),
                verdict => verdict,
            }
        }
        Err(error) => stopped(place, &error),
    }
}
