//! The network: the host's loopback, everything beyond, name look-ups, metadata services, and every other family.

use std::io;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::net::UdpSocket;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::UnixDatagram;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use std::time::Instant;

use super::sys;
use super::tools::DIAL;
use super::tools::did;
use super::tools::done;
use super::tools::hears;
use super::tools::holds;
use super::tools::reached;
use super::tools::stopped;
use crate::case::Case;
use crate::case::Control::Network;
use crate::case::Control::Root;
use crate::case::Control::SameUser;
use crate::case::Verdict;
use crate::case::Verdict::Got;
use crate::case::Verdict::Held;
use crate::case::Verdict::Missing;
use crate::place::Place;

/// Where clouds tell machines who they are, and their keys.
const METADATA: [IpAddr; 6] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];
/// The network is up within this.
const PATIENCE: Duration = Duration::from_secs(5);
/// A resolver that everyone knows, a host in a private network, one in the open, and a neighbour's link address.
const RESOLVER: IpAddr = IpAddr::V4(Ipv4Addr::new(8, 8, 8, 8));
const PRIVATE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const BRIDGE: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 17, 0, 1));
const OPEN: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 80));
const OPEN6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x80));
const STUB: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53));

pub(super) const CASES: &[Case] = &[
    Case::inside(
        "network.loopback4",
        "connect to a listener on the host's 127.0.0.1",
        "services of the host are reached",
        SameUser,
        |p| hears(p, tcp(IpAddr::V4(Ipv4Addr::LOCALHOST), p.tcp4)),
    ),
    Case::inside(
        "network.loopback6",
        "connect to a listener on the host's `::1`",
        "IPv6 was forgotten",
        SameUser,
        |p| hears(p, tcp(IpAddr::V6(Ipv6Addr::LOCALHOST), p.tcp6)),
    )
    .needs("IPv6"),
    Case::inside(
        "network.loopback_mapped",
        "connect to it by the IPv6 form of its IPv4 address",
        "a filter of addresses is gone around",
        SameUser,
        |p| hears(p, tcp(IpAddr::V6(Ipv4Addr::LOCALHOST.to_ipv6_mapped()), p.tcp4)),
    )
    .needs("IPv6"),
    Case::inside(
        "network.any_address",
        "connect to it by 0.0.0.0",
        "a filter of addresses is gone around",
        SameUser,
        |p| hears(p, tcp(IpAddr::V4(Ipv4Addr::UNSPECIFIED), p.tcp4)),
    ),
    Case::inside(
        "network.other_loopback",
        "connect to it by another address of 127/8",
        "only one address is confined",
        SameUser,
        |p| hears(p, tcp(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)), p.udp4)),
    ),
    Case::inside(
        "network.datagram",
        "send a datagram to the host's loopback",
        "UDP was forgotten",
        SameUser,
        |p| {
            let answer = UdpSocket::bind("127.0.0.1:0").and_then(|socket| {
                socket.set_read_timeout(Some(DIAL))?;
                socket.send_to(b"hello", (Ipv4Addr::LOCALHOST, p.udp4))?;
                let mut bytes = [0; 256];
                let (count, _) = socket.recv_from(&mut bytes)?;
                Ok(String::from_utf8_lossy(&bytes[..count]).into_owned())
            });
            match answer {
                Ok(text) => holds(p, &text),
                Err(error) => stopped(p, &error),
            }
        },
    ),
    Case::inside(
        "network.api",
        "connect to the server's own address",
        "an agent is an operator's client",
        SameUser,
        |p| done(p, tcp(IpAddr::V4(Ipv4Addr::LOCALHOST), p.api)),
    ),
    Case::inside(
        "network.machine_addresses",
        "connect to a listener by every address the machine has",
        "an address other than loopback leads to the host",
        SameUser,
        own_addresses,
    ),
    Case::inside(
        "network.private",
        "connect into a private network",
        "the organisation's network is reached",
        Network,
        |p| dials(p, PRIVATE, 80),
    ),
    Case::inside(
        "network.bridge",
        "connect to the container engine's bridge",
        "containers of the host are reached",
        Network,
        |p| dials(p, BRIDGE, 2375),
    ),
    Case::inside(
        "network.internet",
        "connect into the open network",
        "data can be carried out",
        Network,
        |p| dials(p, OPEN, 443),
    ),
    Case::inside(
        "network.internet6",
        "connect into the open IPv6 network",
        "IPv6 was forgotten",
        Network,
        |p| dials(p, OPEN6, 443),
    ),
    Case::inside(
        "network.unix_path",
        "connect to a unix socket of the host by its path",
        "services of the host are reached",
        SameUser,
        |p| hears(p, UnixStream::connect(&p.unix)),
    ),
    Case::inside(
        "network.unix_datagram",
        "send to the host's log socket",
        "the host's log can be written",
        SameUser,
        |p| {
            let path = if p.is_control { p.unix.with_extension("dgram") } else { "/dev/log".into() };
            done(p, UnixDatagram::unbound().and_then(|socket| socket.send_to(b"x", path)))
        },
    ),
    Case::inside(
        "network.engine",
        "find a container engine's socket",
        "the host is the attacker's",
        SameUser,
        |p| {
            let known = [
                "/var/run/docker.sock",
                "/run/docker.sock",
                "/run/podman/podman.sock",
                "/run/containerd/containerd.sock",
            ];
            let own = p.unix.display().to_string();
            let found = known
                .into_iter()
                .chain(p.is_control.then_some(own.as_str()))
                .find(|path| UnixStream::connect(path).is_ok());
            found.map_or_else(|| Held("none answers".to_owned()), |path| Got(path.to_owned()))
        },
    ),
    Case::inside(
        "network.bus",
        "find the system bus or the service manager",
        "services of the host can be started",
        SameUser,
        |p| {
            let known =
                ["/run/dbus/system_bus_socket", "/run/systemd/private", "/run/systemd/io.systemd.Manager"];
            let own = p.unix.display().to_string();
            let found = known
                .into_iter()
                .chain(p.is_control.then_some(own.as_str()))
                .find(|path| Path::new(path).exists());
            found.map_or_else(|| Held("none is there".to_owned()), |path| Got(path.to_owned()))
        },
    ),
    Case::inside("network.raw", "make a raw socket", "packets of any form can be sent", Root, |p| {
        socket(p, libc::AF_INET, libc::SOCK_RAW, 255)
    }),
    Case::inside("network.packets", "make a packet socket", "the network can be listened to", Root, |p| {
        socket(p, libc::AF_PACKET, libc::SOCK_RAW, 0)
    }),
    Case::inside("network.vsock", "make a vsock socket", "the hypervisor is reached", SameUser, |p| {
        socket(p, libc::AF_VSOCK, libc::SOCK_STREAM, 0)
    })
    .needs("vsock"),
    Case::inside(
        "network.crypto",
        "make a socket of the kernel's ciphers",
        "a part of the kernel with a history is open",
        SameUser,
        |p| socket(p, libc::AF_ALG, libc::SOCK_SEQPACKET, 0),
    )
    .needs("the kernel's cipher sockets"),
    Case::inside(
        "network.bluetooth",
        "make a Bluetooth socket",
        "devices of the host are reached",
        SameUser,
        |p| socket(p, libc::AF_BLUETOOTH, libc::SOCK_RAW, 1),
    )
    .needs("Bluetooth"),
    Case::inside("network.can", "make a CAN socket", "devices of the host are reached", SameUser, |p| {
        socket(p, libc::AF_CAN, libc::SOCK_RAW, 1)
    })
    .needs("CAN"),
    Case::inside("network.tipc", "make a TIPC socket", "a cluster is reached", SameUser, |p| {
        socket(p, libc::AF_TIPC, libc::SOCK_STREAM, 0)
    })
    .needs("TIPC"),
    Case::inside("network.fast_path", "make an XDP socket", "packets go around the firewall", Root, |p| {
        socket(p, libc::AF_XDP, libc::SOCK_RAW, 0)
    })
    .needs("XDP sockets"),
    Case::inside(
        "network.devices",
        "make a network device with netlink",
        "a device that leads out",
        Root,
        new_device,
    ),
    Case::inside(
        "network.shortcut",
        "put a device into loopback's place with an ioctl",
        "the network can be changed",
        Root,
        |p| {
            // SIOCSIFFLAGS for a device of no name: who may not is told so before the name is looked up.
            let request = [0_u64; 5];
            match UdpSocket::bind("127.0.0.1:0") {
                Ok(socket) => {
                    use std::os::fd::AsRawFd as _;
                    let number = usize::try_from(socket.as_raw_fd()).unwrap_or_default();
                    match sys::call(libc::SYS_ioctl, &[number, 0x8914, sys::address(&request)]) {
                        Err(error) if error.raw_os_error() == Some(libc::ENODEV) && p.is_control => {
                            Got(format!("the kernel looked for the device: {error}"))
                        }
                        other => done(p, other),
                    }
                }
                Err(error) => stopped(p, &error),
            }
        },
    ),
    Case::inside(
        "abstract.connect",
        "connect to an abstract socket of the host",
        "names without a path are shared",
        SameUser,
        |p| hears(p, abstract_stream(&p.abstract_name)),
    ),
    Case::inside(
        "abstract.list",
        "find it in the list of unix sockets",
        "the host's sockets are seen",
        SameUser,
        |p| {
            let list = std::fs::read_to_string("/proc/net/unix").unwrap_or_default();
            if list.contains(&p.abstract_name) {
                Got("it is in the list".to_owned())
            } else {
                Held("it is not".to_owned())
            }
        },
    ),
    Case::inside(
        "abstract.display",
        "connect to the display's abstract socket",
        "the desktop can be watched and typed into",
        SameUser,
        |p| {
            let name = if p.is_control { &p.abstract_name } else { "/tmp/.X11-unix/X0" };
            done(p, abstract_stream(name))
        },
    ),
    Case::inside(
        "dns.resolver",
        "send a question to a public resolver",
        "names carry data out",
        Network,
        |p| asks(p, RESOLVER),
    ),
    Case::inside(
        "dns.stub",
        "send one to the machine's own resolver",
        "the host asks for the attacker",
        Network,
        |p| asks(p, STUB),
    ),
    Case::inside("dns.stream", "connect to a resolver by TCP", "the long form was forgotten", Network, |p| {
        dials(p, RESOLVER, 53)
    }),
    Case::inside(
        "dns.configured",
        "ask whatever resolver the configuration names",
        "the host's configuration is inside",
        Root,
        |p| {
            let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
            match text.lines().find(|line| line.starts_with("nameserver")) {
                Some(line) => Got(line.to_owned()),
                None if p.is_control => Missing("this machine has no resolver".to_owned()),
                None => Held("none is named".to_owned()),
            }
        },
    )
    .needs("a configured resolver"),
    Case::inside(
        "dns.cache",
        "find the socket of a name cache",
        "the host asks for the attacker",
        SameUser,
        |p| {
            let known =
                ["/run/nscd/socket", "/run/systemd/resolve/io.systemd.Resolve", "/var/run/nscd/socket"];
            let own = p.unix.display().to_string();
            let found = known
                .into_iter()
                .chain(p.is_control.then_some(own.as_str()))
                .find(|path| UnixStream::connect(path).is_ok());
            found.map_or_else(|| Held("none answers".to_owned()), |path| Got(path.to_owned()))
        },
    ),
    Case::inside(
        "dns.multicast",
        "ask the neighbourhood by multicast",
        "machines nearby are found",
        Network,
        |p| asks(p, IpAddr::V4(Ipv4Addr::new(224, 0, 0, 251))),
    ),
    Case::inside(
        "metadata.common",
        "connect to 169.254.169.254",
        "the cloud's keys of this machine (AWS, GCP, Azure, …)",
        Network,
        |p| dials(p, METADATA[0], 80),
    ),
    Case::inside(
        "metadata.tasks",
        "connect to 169.254.170.2",
        "the keys of a container task (ECS)",
        Network,
        |p| dials(p, METADATA[1], 80),
    ),
    Case::inside(
        "metadata.alibaba",
        "connect to 100.100.100.200",
        "the cloud's keys (Alibaba)",
        Network,
        |p| dials(p, METADATA[2], 80),
    ),
    Case::inside(
        "metadata.azure",
        "connect to 168.63.129.16",
        "the cloud's settings (Azure)",
        Network,
        |p| dials(p, METADATA[3], 80),
    ),
    Case::inside("metadata.oracle", "connect to 192.0.0.192", "the cloud's keys (Oracle)", Network, |p| {
        dials(p, METADATA[4], 80)
    }),
    Case::inside("metadata.ipv6", "connect to `fd00:ec2::254`", "the cloud's keys over IPv6", Network, |p| {
        dials(p, METADATA[5], 80)
    }),
];

fn tcp(address: IpAddr, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&SocketAddr::new(address, port), DIAL)?;
    stream.set_read_timeout(Some(DIAL))?;
    Ok(stream)
}

fn dials(place: &Place, address: IpAddr, port: u16) -> Verdict {
    done(place, tcp(address, port))
}

/// A question for an address, and any answer to it.
fn asks(place: &Place, resolver: IpAddr) -> Verdict {
    const QUESTION: &[u8] =
        b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x06corpus\x07invalid\x00\x00\x01\x00\x01";
    let port = if resolver.is_multicast() { 5353 } else { 53 };
    let asked = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        socket.set_read_timeout(Some(DIAL))?;
        socket.send_to(QUESTION, (resolver, port))?;
        // What is sent into a group is heard by whoever listens; an answer is not needed to carry data out.
        if resolver.is_multicast() { Ok(0) } else { socket.recv(&mut [0; 512]) }
    });
    done(place, asked)
}

fn abstract_stream(name: &str) -> io::Result<UnixStream> {
    let stream = UnixStream::connect_addr(&std::os::unix::net::SocketAddr::from_abstract_name(name)?)?;
    stream.set_read_timeout(Some(DIAL))?;
    Ok(stream)
}

fn socket(place: &Place, family: i32, kind: i32, protocol: i32) -> Verdict {
    let arguments = [family, kind, protocol].map(|n| usize::try_from(n).unwrap_or_default());
    reached(place, libc::SYS_socket, &arguments)
}

/// Every address in the routing table of this place.
fn own_addresses(place: &Place) -> Verdict {
    let table = std::fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
    let mut tried = 0;
    for address in table.lines().filter_map(|line| line.split("-- ").nth(1)?.trim().parse::<Ipv4Addr>().ok())
    {
        tried += 1;
        if let Got(what) = hears(place, tcp(IpAddr::V4(address), place.tcp4)) {
            return Got(format!("{address}: {what}"));
        }
    }
    Held(format!("none of {tried} leads there"))
}

/// `RTM_NEWLINK` for a dummy device, without a kind: who may not is told so; who may is told what is missing.
fn new_device(place: &Place) -> Verdict {
    let raw = match sys::call(libc::SYS_socket, &[16, 3, 0]) {
        Ok(raw) => usize::try_from(raw).unwrap_or_default(),
        Err(error) => return stopped(place, &error),
    };
    let mut message = [0_u8; 32];
    message[..4].copy_from_slice(&32_u32.to_ne_bytes());
    message[4..6].copy_from_slice(&16_u16.to_ne_bytes());
    // Request, acknowledge, create, exclusively.
    message[6..8].copy_from_slice(&0x605_u16.to_ne_bytes());
    if let Err(error) = sys::call(libc::SYS_sendto, &[raw, sys::address(&message), 32, 0, 0, 0]) {
        return stopped(place, &error);
    }
    let mut answer = [0_u8; 256];
    if let Err(error) = sys::call(libc::SYS_recvfrom, &[raw, sys::address_mut(&mut answer), 256, 0, 0, 0]) {
        return stopped(place, &error);
    }
    let code = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
    match -code {
        0 => Got("made".to_owned()),
        libc::EPERM | libc::EACCES => Held("Operation not permitted".to_owned()),
        other => Got(format!("the kernel looked at it: {}", io::Error::from_raw_os_error(other))),
    }
}

/// Makes a network in which all the addresses exist and somebody listens at each.
pub(super) fn wire() -> io::Result<()> {
    sys::call(libc::SYS_unshare, &[libc::CLONE_NEWNET as usize])?;
    let ip = |arguments: &[&str]| -> io::Result<()> {
        let status = Command::new("ip").args(arguments).status()?;
        if status.success() { Ok(()) } else { Err(io::Error::other(format!("ip {arguments:?}: {status}"))) }
    };
    ip(&["link", "set", "lo", "up"])?;
    ip(&["route", "add", "224.0.0.0/4", "dev", "lo"])?;
    let others = [(RESOLVER, 53), (PRIVATE, 80), (BRIDGE, 2375), (OPEN, 443), (OPEN6, 443), (STUB, 53)];
    for (address, port) in METADATA.map(|address| (address, 80)).into_iter().chain(others) {
        let length = if address.is_ipv4() { 32 } else { 128 };
        if address != STUB {
            // Without a check for duplicates an IPv6 address is usable at once.
            let text = format!("{address}/{length}");
            let nodad: &[&str] = if address.is_ipv6() { &["nodad"] } else { &[] };
            ip(&[&["addr", "add", &text, "dev", "lo"], nodad].concat())?;
        }
        let listener = TcpListener::bind((address, port))?;
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                drop(stream)
            }
        });
        // The kernel makes the route to an IPv6 address a moment after the address.
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = TcpStream::connect((address, port)) {
            if Instant::now() > deadline {
                return Err(error);
            }
            std::thread::yield_now();
        }
        if port == 53 {
            let socket = UdpSocket::bind((address, port))?;
            std::thread::spawn(move || {
                let mut bytes = [0; 512];
                while let Ok((count, from)) = socket.recv_from(&mut bytes) {
                    socket.send_to(&bytes[..count], from).ok();
                }
            });
        }
    }
    Ok(())
}

/// Used by the classes that open devices.
pub(super) fn ioctl(place: &Place, number: usize, request: usize, argument: usize) -> Verdict {
    did(
        place,
        sys::call(libc::SYS_ioctl, &[number, request, argument])
            .map_err(|error| rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO)),
    )
}
