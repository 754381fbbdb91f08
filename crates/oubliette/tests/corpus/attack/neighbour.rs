//! Another session: what it keeps to itself, and the attempts to get it.

use std::io;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;

use super::sys;
use super::tools::DIAL;
use super::tools::done;
use super::tools::hears;
use super::tools::holds;
use super::tools::reads;
use super::tools::stopped;
use crate::case::Case;
use crate::case::Control::Root;
use crate::case::Control::SameUser;
use crate::place::Place;

/// Bytes of the shared segment.
const SEGMENT: usize = 4096;

pub(super) const CASES: &[Case] = &[
    Case::inside(
        "sessions.temporary",
        "read a file in another session's `/tmp`",
        "`/tmp` is shared between sessions",
        SameUser,
        |p| reads(p, &p.neighbour.file),
    ),
    Case::inside(
        "sessions.shared_memory",
        "read a file in another session's `/dev/shm`",
        "memory files are shared",
        SameUser,
        |p| reads(p, &p.neighbour.shared_memory),
    ),
    Case::inside(
        "sessions.segment",
        "attach another session's System V segment",
        "IPC is shared",
        SameUser,
        |p| {
            let key = usize::try_from(p.neighbour.segment).unwrap_or_default();
            let attached = sys::call(libc::SYS_shmget, &[key, 0, 0]).and_then(|id| {
                sys::call(libc::SYS_shmat, &[usize::try_from(id).unwrap_or_default(), 0, 0o10000])
            });
            match attached {
                Ok(at) => holds(p, &sys::segment_text(at, SEGMENT)),
                Err(error) => stopped(p, &error),
            }
        },
    ),
    Case::inside(
        "sessions.port",
        "connect to a server on another session's loopback",
        "the network is shared between sessions",
        SameUser,
        |p| {
            let address = std::net::SocketAddr::from(([127, 0, 0, 1], p.neighbour.port));
            hears(p, std::net::TcpStream::connect_timeout(&address, DIAL))
        },
    ),
    Case::inside(
        "sessions.abstract",
        "connect to another session's abstract socket",
        "names without a path are shared",
        SameUser,
        |p| {
            hears(
                p,
                SocketAddr::from_abstract_name(&p.neighbour.abstract_name)
                    .and_then(|name| UnixStream::connect_addr(&name)),
            )
        },
    ),
    Case::inside(
        "sessions.workspace",
        "read another session's workspace by its path on the host",
        "workspaces of others are shown",
        Root,
        |p| reads(p, p.neighbour.workspace.join("canary.txt")),
    ),
    Case::inside(
        "sessions.workspace_list",
        "list the folder in which workspaces lie",
        "workspaces of others are seen",
        Root,
        |p| done(p, std::fs::read_dir(p.neighbour.workspace.parent().unwrap_or(&p.neighbour.workspace))),
    ),
    Case::inside(
        "sessions.gate",
        "connect to another session's gate",
        "models are used on another's account",
        Root,
        |p| done(p, UnixStream::connect(&p.neighbour.gate)),
    ),
    Case::inside(
        "sessions.launcher",
        "connect to another session's launcher",
        "another's sandbox can be ended",
        Root,
        |p| done(p, UnixStream::connect(&p.neighbour.launcher)),
    ),
    Case::inside(
        "sessions.folder",
        "reach another session's files through its process's root",
        "the same uid sees through `/proc`",
        SameUser,
        |p| reads(p, format!("/proc/{}/root{}", p.neighbour.pid, p.neighbour.file.display())),
    ),
    Case::inside(
        "sessions.memory",
        "open another session's memory",
        "the same uid sees through `/proc`",
        SameUser,
        |p| done(p, std::fs::File::open(format!("/proc/{}/mem", p.neighbour.pid))),
    ),
    Case::inside(
        "sessions.limits",
        "change the limits of another session's process",
        "the same uid may",
        SameUser,
        |p| {
            let Some(pid) = rustix::process::Pid::from_raw(p.neighbour.pid) else {
                return crate::case::Verdict::Held("no process".to_owned());
            };
            let number = usize::try_from(pid.as_raw_nonzero().get()).unwrap_or_default();
            let mut now = [0_u64; 2];
            done(p, sys::call(libc::SYS_prlimit64, &[number, 7, 0, sys::address_mut(&mut now)]))
        },
    ),
];

/// Plays the other session until it is killed.
pub(super) fn main(place: &Place) -> Result<(), String> {
    let failed = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    let own = &place.neighbour;
    std::fs::write(&own.file, &place.canary).map_err(failed("temporary file"))?;
    std::fs::write(&own.shared_memory, &place.canary).map_err(failed("memory file"))?;
    let key = usize::try_from(own.segment).unwrap_or_default();
    let at = sys::call(libc::SYS_shmget, &[key, SEGMENT, 0o1600])
        .and_then(|id| sys::call(libc::SYS_shmat, &[usize::try_from(id).unwrap_or_default(), 0, 0]))
        .map_err(failed("segment"))?;
    sys::write_segment(at, &place.canary);
    let tcp = TcpListener::bind(("127.0.0.1", own.port)).map_err(failed("port"))?;
    let name = SocketAddr::from_abstract_name(&own.abstract_name).map_err(failed("name"))?;
    let unix = UnixListener::bind_addr(&name).map_err(failed("abstract socket"))?;
    let canary = place.canary.clone();
    std::thread::spawn(move || say_to_all(unix.incoming(), &canary));
    std::fs::write(place.scratch.join("neighbour-ready"), "").map_err(failed("mark"))?;
    say_to_all(tcp.incoming(), &place.canary);
    Ok(())
}

/// Takes a segment away that a neighbour outside made.
pub(crate) fn forget(place: &Place) {
    let key = usize::try_from(place.neighbour.segment).unwrap_or_default();
    // What is gone already need not go.
    let _gone = sys::call(libc::SYS_shmget, &[key, 0, 0])
        .and_then(|id| sys::call(libc::SYS_shmctl, &[usize::try_from(id).unwrap_or_default(), 0, 0]));
}

/// Says the canary to whoever connects.
pub(crate) fn say_to_all<S: io::Write>(connections: impl Iterator<Item = io::Result<S>>, canary: &str) {
    for mut stream in connections.flatten() {
        // One that hung up at once hears nothing.
        stream.write_all(canary.as_bytes()).ok();
    }
}
