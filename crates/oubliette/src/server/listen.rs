//! Opens the listeners, and says who is in the way.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use ob_core::Home;
use ob_core::Refusal;
use tokio::net::TcpListener;
use tokio::net::UnixListener;

use super::cannot;

/// A process that listens where we wanted to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Occupant {
    pid: u32,
    name: String,
}

/// Binds every address. Of several, those whose kind of address this machine has not are left out; with port 0, all
/// get the port that the first one got.
pub(crate) async fn tcp(wanted: &[SocketAddr]) -> Result<Vec<TcpListener>, Refusal> {
    let mut listeners: Vec<TcpListener> = Vec::new();
    let mut port = None;
    for address in wanted {
        let mut address = *address;
        if let (0, Some(port)) = (address.port(), port) {
            address.set_port(port);
        }
        match TcpListener::bind(address).await {
            Ok(listener) => {
                port = listener.local_addr().ok().map(|bound| bound.port());
                listeners.push(listener);
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(in_use(address)),
            Err(error) if wanted.len() > 1 && is_missing_family(&error) => {
                tracing::info!(%address, %error, "this machine has no such address; left out");
            }
            Err(error) => {
                return Err(Refusal::unavailable(format!("cannot listen on {address}: {error}"))
                    .fix("take another with `SERVER_ADDR=localhost:PORT` or `server.address`"));
            }
        }
    }
    if listeners.is_empty() {
        return Err(Refusal::unavailable("none of the addresses to listen on exists on this machine")
            .fix("take another with `SERVER_ADDR=localhost:PORT` or `server.address`"));
    }
    Ok(listeners)
}

fn is_missing_family(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

/// The control socket, for its owner only. Whoever calls this holds the home's lock, so a socket file that is there
/// was left by a server that is gone.
pub(crate) fn control(home: &Home) -> Result<UnixListener, Refusal> {
    let path = home.control_socket();
    let failed = |error: &io::Error| cannot(&format!("listen on {}", path.display()), error);
    match fs::remove_file(&path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(&error)),
    }
    // The folder is private, so the socket is not reachable by others before its own mode is set.
    let listener = UnixListener::bind(&path).map_err(|error| failed(&error))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(|error| failed(&error))?;
    Ok(listener)
}

/// Why an address cannot be had: who has it, and what to do.
pub(crate) fn in_use(address: SocketAddr) -> Refusal {
    let occupant = occupant(address.port());
    let who = match &occupant {
        Some(Occupant { pid, name }) => format!("pid {pid} ({name})"),
        None => "a process of another user".to_owned(),
    };
    let stop = match &occupant {
        Some(Occupant { pid, name }) if name.contains("oubliette") => {
            format!("stop that server (`kill {pid}`, or `oubliette stop --dir ITS_HOME`)")
        }
        Some(Occupant { pid, .. }) => format!("stop it (`kill {pid}`)"),
        None => "stop it".to_owned(),
    };
    Refusal::unavailable(format!("address {address} is in use by {who}")).fix(format!(
        "{stop}, or take another address: `SERVER_ADDR=localhost:{}`",
        address.port().checked_add(1).unwrap_or(8081)
    ))
}

/// The process that listens on a port, as far as we may see.
fn occupant(port: u16) -> Option<Occupant> {
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| listening_inodes(&table, port))
        .collect();
    let links: Vec<PathBuf> = inodes.iter().map(|inode| format!("socket:[{inode}]").into()).collect();
    fs::read_dir("/proc").ok()?.filter_map(Result::ok).find_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        let holds = fs::read_dir(process.path().join("fd"))
            .ok()?
            .filter_map(Result::ok)
            .filter_map(|fd| fs::read_link(fd.path()).ok())
            .any(|target| links.contains(&target));
        let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        holds.then(|| Occupant { pid, name: name.trim().to_owned() })
    })
}

/// The inodes of sockets that listen on a port, from the kernel's table.
fn listening_inodes(table: &str, port: u16) -> Vec<String> {
    /// The state of a socket that listens.
    const LISTEN: &str = "0A";
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (_, hex) = fields.get(1)?.rsplit_once(':')?;
            let ours = u16::from_str_radix(hex, 16) == Ok(port) && fields.get(3) == Some(&LISTEN);
            ours.then(|| (*fields.get(9)?).to_owned().into()).flatten()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use ob_core::RefusalCode;
    use ob_core::home::Layout;

    use super::*;

    #[tokio::test]
    async fn an_address_in_use_names_address_holder_and_fix() {
        let mine = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = mine.local_addr().expect("its address");
        let refusal = tcp(&[address]).await.expect_err("it is taken");
        assert_eq!((refusal.code, refusal.code.exit_code()), (RefusalCode::Unavailable, 6));
        assert!(refusal.message.contains(&address.to_string()), "{refusal}");
        assert!(refusal.message.contains(&format!("pid {}", std::process::id())), "{refusal}");
        assert!(refusal.fix.is_some_and(|fix| fix.contains("SERVER_ADDR")));
        drop(mine);
        assert_eq!(tcp(&[address]).await.expect("it is free now").len(), 1);
    }

    #[tokio::test]
    async fn both_loopbacks_get_one_port() {
        let wanted = ["127.0.0.1:0".parse().expect("an address"), "[::1]:0".parse().expect("an address")];
        let ports: Vec<u16> = tcp(&wanted)
            .await
            .expect("free")
            .iter()
            .map(|listener| listener.local_addr().expect("its address").port())
            .collect();
        assert!(ports.windows(2).all(|pair| pair[0] == pair[1]) && ports[0] != 0, "{ports:?}");
    }

    #[tokio::test]
    async fn the_control_socket_is_its_owners_and_replaces_one_that_was_left() {
        let folder = tempfile::tempdir().expect("a folder");
        let home = Home::new(folder.path().into(), Layout::V2, folder.path().into());
        drop(control(&home).expect("bound"));
        let listener = control(&home).expect("bound again");
        let mode = fs::metadata(home.control_socket()).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(listener);
    }

    #[test]
    fn the_kernels_table_is_read_by_port_and_state() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4242 1 0\n\
             1: 0100007F:1F90 0100007F:ABCD 01 00000000:00000000 00:00000000 00000000  1000        0 4343 1 0\n\
             2: garbage\n";
        assert_eq!(listening_inodes(table, 8080), ["4242"]);
        assert!(listening_inodes(table, 8081).is_empty());
    }
}
