//! What only a backend that isolates promises. For one that does not, each attack must succeed: it is the control.

use std::io::Write as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::PermissionsExt as _;

use super::Ground;

/// Runs an attack; `got` says from what it printed whether it got through.
async fn attack(ground: &Ground, script: &str, got: impl Fn(&str) -> bool) {
    let live = ground.start(ground.spec("attack")).await;
    let said = live.said(script).await;
    let got = got(&said);
    if ground.backend().isolates() {
        assert!(!got, "the attack got through: {said}");
    } else {
        assert!(got, "the control: without walls it gets through: {said}");
    }
    live.end().await;
}

/// A file that everyone on the host may read.
pub async fn files_of_the_host_are_not_read(ground: &Ground) {
    let mut file = tempfile::Builder::new().tempfile_in("/var/tmp").expect("a file");
    file.write_all(b"canary-file").expect("written");
    let readable = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(file.path(), readable).expect("readable by all");
    attack(ground, &format!("cat {}", file.path().display()), |said| said.contains("canary-file")).await;
}

/// The test itself, which plays the server.
pub async fn processes_of_the_host_are_not_seen(ground: &Ground) {
    let own = std::process::id();
    let name = std::fs::read_to_string("/proc/self/comm").expect("a name");
    attack(ground, &format!("cat /proc/{own}/comm"), |said| said.trim() == name.trim()).await;
}

/// A service that listens on this machine only.
pub async fn loopback_of_the_host_is_not_reached(ground: &Ground) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
    let port = listener.local_addr().expect("bound").port();
    let script = format!("bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port} && echo REACHED'");
    attack(ground, &script, |said| said.contains("REACHED")).await;
}

/// A socket without a file.
pub async fn abstract_sockets_of_the_host_are_not_seen(ground: &Ground) {
    let name = format!("conformance-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).expect("a name");
    let _listener = std::os::unix::net::UnixListener::bind_addr(&address).expect("a listener");
    attack(ground, "cat /proc/net/unix", |said| said.contains(&name)).await;
}

/// The host's uid shows: it is not mapped to one of its own.
pub async fn no_other_user_can_be_had(ground: &Ground) {
    attack(ground, "cat /proc/self/uid_map", |said| {
        said.split_whitespace().collect::<Vec<_>>() == ["0", "0", "4294967295"]
    })
    .await;
}
