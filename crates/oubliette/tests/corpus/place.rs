//! What an attacker knows: everything. Each attempt is told where the thing is that it is after.

use std::path::PathBuf;

/// The place that an attempt is made in, and what is to be got there.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Place {
    /// True outside, where the attempt must work.
    pub(crate) is_control: bool,
    /// False in a sandbox that does not isolate. Where things are there, an attempt finds out itself.
    pub(crate) has_walls: bool,
    /// What every secret of this run holds, and nothing else does.
    pub(crate) canary: String,
    /// A file of the host that everyone may read.
    pub(crate) secret: PathBuf,
    /// The uid that is the attacker's on the host.
    pub(crate) uid: u32,
    /// The server's home.
    pub(crate) home: PathBuf,
    /// A writable folder of the attacker's own.
    pub(crate) scratch: PathBuf,
    /// A listener on the host's IPv4 loopback; it says the canary to whoever connects.
    pub(crate) tcp4: u16,
    /// The same on IPv6.
    pub(crate) tcp6: u16,
    /// A socket on the host's loopback that answers each datagram with the canary.
    pub(crate) udp4: u16,
    /// The server's own address.
    pub(crate) api: u16,
    /// A unix socket of the host that says the canary.
    pub(crate) unix: PathBuf,
    /// A listener of the host with an abstract name that says the canary.
    pub(crate) abstract_name: String,
    /// The gate's socket.
    pub(crate) gate: PathBuf,
    /// The program that the next sandbox will run.
    pub(crate) program: PathBuf,
    /// A process that does not want to be looked into: inside the guest, outside a child.
    pub(crate) target: i32,
    /// A neighbour: another session of the same project, with the same uid.
    pub(crate) neighbour: Neighbour,
}

/// Another session, or what plays it outside.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Neighbour {
    /// A process of it, by its number on the host. Its environment and command line hold the canary.
    pub(crate) pid: i32,
    /// It listens on its loopback, on an abstract name and on a path under `/tmp`, and says the canary.
    pub(crate) port: u16,
    /// The abstract name.
    pub(crate) abstract_name: String,
    /// A file under `/tmp` that holds the canary.
    pub(crate) file: PathBuf,
    /// A file under `/dev/shm` that holds it.
    pub(crate) shared_memory: PathBuf,
    /// The key of a System V segment that holds it.
    pub(crate) segment: i32,
    /// Its workspace on the host, with a file `canary.txt`.
    pub(crate) workspace: PathBuf,
    /// Its gate's socket on the host.
    pub(crate) gate: PathBuf,
    /// Its launcher's socket on the host.
    pub(crate) launcher: PathBuf,
}
