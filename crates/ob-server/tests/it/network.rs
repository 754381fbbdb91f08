//! An address that is not loopback, for tests of what counts by address: in a network of the test's own, so that it is
//! there on every machine.

use std::io;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::UdpSocket;
use std::process::Command;

use rustix::net::AddressFamily;
use rustix::net::RecvFlags;
use rustix::net::SendFlags;
use rustix::net::SocketType;
use rustix::net::netlink::SocketAddrNetlink;

/// Tells a test that it is in such a network.
const INSIDE: &str = "OB_SERVER_TEST_NETWORK";

/// Of the block for documentation: nobody has it.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

/// An address for the test of this name, with its module. None if it ran elsewhere, or cannot run here; then it says so.
pub(crate) fn address(test: &str) -> Option<IpAddr> {
    if std::env::var_os(INSIDE).is_some() {
        give_address().expect("the network is ours");
        return Some(ADDRESS.into());
    }
    // The same test once more, with nothing of the machine's network.
    let program = std::env::current_exe().expect("this program");
    let elsewhere = Command::new("bwrap")
        .args(["--dev-bind", "/", "/", "--unshare-user", "--unshare-net", "--cap-add", "CAP_NET_ADMIN"])
        .arg(program)
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .output();
    let why = match elsewhere {
        Ok(output) if output.status.success() => {
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(said.contains("1 passed"), "there is no test {test}: {said}");
            return None;
        }
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            // What bubblewrap cannot do it says itself; all else is the test's.
            assert!(said.starts_with("bwrap: "), "{said}\n{}", String::from_utf8_lossy(&output.stdout));
            said
        }
        Err(error) => format!("bwrap: {error}"),
    };
    let own = own_address();
    if own.is_none() {
        assert!(
            std::env::var_os("CI").is_none(),
            "no address but loopback, and no network of its own: {why}"
        );
        eprintln!("skipped: no address but loopback, and no network of its own: {why}");
    }
    own
}

/// The address that this machine has in its network, if it has one. Nothing is sent.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_loopback())
}

/// Gives the loopback interface, the first of a new network, one more address; see `rtnetlink(7)`.
fn give_address() -> io::Result<()> {
    const NEW_ADDRESS: u16 = 20;
    // A request, to be answered, that makes something.
    const FLAGS: u16 = 0x1 | 0x4 | 0x400;
    const LOCAL: u16 = 2;
    let mut message = Vec::new();
    // The head: the length of all, what, how, number, sender.
    message.extend(32_u32.to_ne_bytes());
    message.extend(NEW_ADDRESS.to_ne_bytes());
    message.extend(FLAGS.to_ne_bytes());
    message.extend([1_u32.to_ne_bytes(), 0_u32.to_ne_bytes()].concat());
    // IPv4, all bits, no flags, everywhere, the first interface.
    message.extend([2, 32, 0, 0]);
    message.extend(1_u32.to_ne_bytes());
    // One attribute: the address.
    message.extend([8_u16.to_ne_bytes(), LOCAL.to_ne_bytes()].concat());
    message.extend(ADDRESS.octets());
    let socket = rustix::net::socket(AddressFamily::NETLINK, SocketType::RAW, None)?;
    rustix::net::sendto(&socket, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut answer = [0; 256];
    let (read, _) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty())?;
    // Behind the head of the answer is an error, or zero.
    let code: [u8; 4] = answer[..read].get(16..20).and_then(|code| code.try_into().ok()).unwrap_or([0xff; 4]);
    match i32::from_ne_bytes(code) {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(-error)),
    }
}
