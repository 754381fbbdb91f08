//! Attempts to get out of a sandbox, or to take something into it.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use ob_sandbox::Backend as _;

use crate::world::EPOCH;
use crate::world::HOST_UID;
use crate::world::World;
use crate::world::is_root;
use crate::world::processes;
use crate::world::within;

/// Runs a shell script on the host, as the control of one inside.
fn outside(script: &str) -> String {
    let output = Command::new("sh").args(["-c", script]).output().expect("a shell");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_walls_hold_for_an_unprivileged_server_too() {
    if !is_root() {
        return;
    }
    if World::new().is_none() {
        return;
    }
    let this = std::env::current_exe().expect("this test");
    let output = Command::new("setpriv")
        .args(["--reuid", "54322", "--regid", "54322", "--clear-groups", "--"])
        .arg(this)
        .args([
            "walls::",
            "cage::",
            "life::",
            "repository::",
            "conformance::",
            "limits::",
            "--test-threads",
            "2",
        ])
        .env("OUBLIETTE_GUEST", crate::world::guest().expect("built"))
        .env("HOME", "/nonexistent")
        .current_dir("/")
        .output()
        .expect("setpriv");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains(" passed") && !said.contains(" 0 passed"), "{said}");
}

#[tokio::test]
async fn the_machine_is_found_fit() {
    let Some(world) = World::new() else { return };
    world.backend("true").check().await.expect("this machine runs the other tests");
}

#[tokio::test]
async fn a_process_inside_has_no_privilege_and_cannot_gain_any() {
    let Some(world) = World::new() else { return };
    let said = world.inside("id -u; id -g; cat /proc/self/status; cat /proc/1/status").await;
    assert!(said.starts_with("1000\n1000\n"), "{said}");
    for line in [
        "CapEff:\t0000000000000000",
        "CapPrm:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "CapAmb:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
    ] {
        assert_eq!(said.matches(line).count(), 2, "{line} in {said}");
    }
    let host = outside("cat /proc/self/status");
    assert!(!host.contains("Seccomp:\t2"), "the control: the host has no filter");
}

#[tokio::test]
async fn seen_from_the_host_it_is_not_root_and_has_a_neutral_name() {
    let Some(world) = World::new() else { return };
    let spec = world.spec("names");
    let backend = world.staying(&spec).await;
    let marker = world.path("work").join("ready-names");
    let uid = if is_root() { HOST_UID } else { rustix::process::geteuid().as_raw() };
    assert_eq!(fs::metadata(&marker).expect("made inside").uid(), uid);

    // All processes in or under the sandbox: descendants of its launcher.
    let own = std::process::id();
    let parent = |folder: &std::path::Path| {
        let status = fs::read_to_string(folder.join("status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("PPid:\t").map(str::to_owned));
        line.and_then(|pid| pid.parse::<u32>().ok()).unwrap_or(0)
    };
    let program = |folder: &std::path::Path| fs::read_link(folder.join("exe")).unwrap_or_default();
    let launchers = processes(|f| parent(f) == own && program(f).starts_with(world.path("programs")));
    assert_eq!(launchers.len(), 1, "one launcher");
    let mut family = launchers;
    let mut next = 0;
    while next < family.len() {
        let pid = family[next];
        family.extend(processes(|folder| parent(folder) == pid));
        next += 1;
    }
    assert!(family.len() >= 5, "launcher, bubblewrap, shell and two sleeps: {family:?}");
    for pid in &family {
        let line = fs::read(format!("/proc/{pid}/cmdline")).expect("alive");
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        assert!(!line.contains("oubliette"), "{line}");
        assert!(!line.contains(world.path("").to_str().expect("text")), "no host path: {line}");
    }
    for pid in &family[1..] {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("alive");
        assert!(status.contains(&format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}")), "{status}");
        assert!(uid != 0 && status.contains("CapEff:\t0000000000000000"), "{status}");
    }
    within(backend.end("names", &spec.runtime, EPOCH)).await.expect("ends");
}

#[tokio::test]
async fn a_set_id_file_cannot_be_made_inside_and_one_that_is_there_gives_nothing() {
    let Some(world) = World::new() else { return };
    // One that somebody put there, owned by whom the server can make it own.
    let planted = world.path("work").join("planted");
    fs::copy("/usr/bin/id", &planted).expect("a program");
    fs::set_permissions(&planted, fs::Permissions::from_mode(0o4755)).expect("set-id");
    let said = world
        .inside(
            "cd /workspace; cp /usr/bin/id mine
             for mode in 4755 2755 6755 u+s g+s; do chmod $mode mine && echo MADE $mode; done
             mkdir -m 2777 folder && echo MADE folder
             python3 - <<'END'
import os
for name, make in [
    ('open', lambda: os.open('o', os.O_CREAT | os.O_WRONLY, 0o4755)),
    ('tmpfile', lambda: os.open('.', os.O_TMPFILE | os.O_WRONLY, 0o4755)),
    ('mknod', lambda: os.mknod('m', 0o104755)),
    ('fchmod', lambda: os.fchmod(os.open('mine', os.O_RDONLY), 0o4755)),
]:
    try:
        make()
        print('MADE', name)
    except PermissionError:
        print('refused', name)
END
             ./planted -u; chmod 0755 mine && echo plain works",
        )
        .await;
    assert!(!said.contains("MADE"), "{said}");
    assert!(said.contains("plain works"), "the control: other modes work: {said}");
    if said.contains("refused") {
        assert_eq!(said.matches("refused").count(), 4, "{said}");
    }
    assert!(said.contains("\n1000\n"), "the planted one runs as nobody else: {said}");
    for entry in fs::read_dir(world.path("work")).expect("the workspace").flatten() {
        let metadata = entry.metadata().expect("there");
        assert!(
            entry.path() == planted || metadata.mode() & 0o6000 == 0,
            "{} has mode {:o}",
            entry.path().display(),
            metadata.mode()
        );
    }
    let control = tempfile::NamedTempFile::new().expect("a file");
    fs::set_permissions(control.path(), fs::Permissions::from_mode(0o4755))
        .expect("the control: outside it works");
    assert_eq!(fs::metadata(control.path()).expect("there").mode() & 0o4000, 0o4000);
}

#[tokio::test]
async fn no_new_namespace_mount_or_trace_can_be_made() {
    let Some(world) = World::new() else { return };
    let attempts = "
        unshare -U true && echo GOT user namespace
        unshare -Urm mount -t tmpfs none /tmp && echo GOT mount
        unshare -m true && echo GOT mount namespace
        unshare -n true && echo GOT network namespace
        mount -t tmpfs none /tmp && echo GOT plain mount
        mount -o remount,rw / && echo GOT remount
        umount /run/gate && echo GOT umount
        chroot / true && echo GOT chroot
        nsenter -t 1 -m true && echo GOT nsenter
        touch /made && echo GOT root
        touch /usr/made && echo GOT usr
        touch /etc/made && echo GOT etc
        mv /run/guest /run/other && echo GOT guest moved
        echo 1 > /proc/sys/kernel/panic && echo GOT sysctl
        cat /proc/kcore > /dev/null && echo GOT kcore
        echo h > /proc/sysrq-trigger && echo GOT sysrq
        true";
    let said = world.inside(attempts).await;
    assert!(!said.contains("GOT"), "{said}");
    let control = outside("unshare -Urm mount -t tmpfs none /tmp && echo GOT mount");
    assert!(control.contains("GOT"), "the control: the host allows it");
}

#[tokio::test]
async fn only_named_system_calls_are_denied_and_each_with_its_answer() {
    let Some(world) = World::new() else { return };
    let probe = r"
import ctypes, socket, os
libc = ctypes.CDLL(None, use_errno=True)
def call(name, number, *args):
    ctypes.set_errno(0)
    libc.syscall(number, *args)
    print(name, ctypes.get_errno())
call('io_uring_setup', 425, 1, 0)
call('openat2', 437, -100, 0, 0, 0)
call('clone3', 435, 0, 0)
call('unshare_user', 272, 0x10000000)
call('ptrace', 101, 0, 0, 0, 0)
call('keyctl', 250, 0, 0, 0)
call('bpf', 321, 0, 0, 0)
call('open_tree', 428, -100, 0, 0)
for family in (40, 17, 38, 31):
    try:
        socket.socket(family, socket.SOCK_STREAM if family == 40 else socket.SOCK_RAW)
        print('family', family, 'MADE')
    except OSError as error:
        print('family', family, error.errno)
socket.socket(socket.AF_UNIX); socket.socket(socket.AF_INET); print('plain sockets work')
";
    if std::env::consts::ARCH != "x86_64" || outside("python3 -c 'print(1)'") != "1\n" {
        return;
    }
    fs::write(world.path("home/probe.py"), probe).expect("a script");
    let said = world.inside("python3 /home/agent/probe.py").await;
    if said.contains("not found") {
        return;
    }
    for (name, errno) in [
        ("io_uring_setup", 38),
        ("openat2", 38),
        ("clone3", 38),
        ("unshare_user", 1),
        ("ptrace", 1),
        ("keyctl", 1),
        ("bpf", 1),
        ("open_tree", 1),
        ("family 40", 97),
        ("family 17", 97),
        ("family 38", 97),
        ("family 31", 97),
    ] {
        assert!(said.contains(&format!("{name} {errno}\n")), "{name} {errno} in {said}");
    }
    assert!(said.contains("plain sockets work"), "{said}");
}

#[tokio::test]
async fn no_network_is_reached_but_its_own_loopback() {
    let Some(world) = World::new() else { return };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
    let port = listener.local_addr().expect("bound").port();
    let dial = format!("bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port}' && echo CONNECTED; cat /proc/net/dev");
    let said = world.inside(&dial).await;
    assert!(!said.contains("CONNECTED"), "{said}");
    let table = said.split_once("face |").map_or("", |(_, table)| table);
    let devices: Vec<&str> = table.lines().filter_map(|l| l.split_once(':')).map(|(n, _)| n.trim()).collect();
    assert_eq!(devices, ["lo"], "{said}");
    assert!(outside(&dial).contains("CONNECTED"), "the control: the host reaches it");
}

#[tokio::test]
async fn abstract_sockets_of_the_host_are_not_reached() {
    use std::os::linux::net::SocketAddrExt as _;
    let Some(world) = World::new() else { return };
    let name = format!("walls-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).expect("a name");
    let _listener = std::os::unix::net::UnixListener::bind_addr(&address).expect("a listener");
    let said = world.inside("cat /proc/net/unix").await;
    assert!(said.contains("Num"), "it has a table: {said}");
    assert!(!said.contains(&name), "{said}");
    assert!(outside("cat /proc/net/unix").contains(&name), "the control: the host sees it");
}

#[tokio::test]
async fn files_of_the_host_outside_the_policy_are_not_there() {
    let Some(world) = World::new() else { return };
    let mut secret = tempfile::NamedTempFile::new().expect("a file");
    secret.write_all(b"canary-file").expect("written");
    fs::set_permissions(secret.path(), fs::Permissions::from_mode(0o644)).expect("readable by all");
    let look = format!(
        "cat {0}; ls /tmp /root /home /var /mnt /srv /opt /boot /sys; cat /etc/shadow /etc/hostname; ls /etc; ls -a /",
        secret.path().display()
    );
    let said = world.inside(&look).await;
    assert!(!said.contains("canary-file"), "{said}");
    for absent in ["\nshadow", "\nhostname", "\nssh\n", "\nboot\n", "\nsrv\n", "\nvar\n", "\nopt\n"] {
        assert!(!said.contains(absent), "{absent} in {said}");
    }
    assert!(said.contains("\nworkspace\n") && said.contains("\npasswd\n"), "the control: it lists: {said}");
    let there = outside(&look);
    assert!(there.contains("canary-file") && there.contains("\nvar\n"), "the control: the host has them");
}

#[tokio::test]
async fn nothing_of_the_servers_environment_is_inside() {
    let Some(world) = World::new() else { return };
    let mut spec = world.spec("environment");
    spec.env = vec![("MARK".into(), "given".into())];
    let said = world.inside_of(&spec, "cat /proc/1/environ /proc/self/environ | tr '\\0' '\\n'").await;
    assert!(said.contains("MARK=given"), "what is given is there: {said}");
    assert!(
        said.contains("OPENAI_BASE_URL=http://127.0.0.1:4000/v1") && said.contains("TERM=dumb"),
        "{said}"
    );
    // Cargo sets these for the test, which plays the server.
    assert!(
        std::env::vars().any(|(name, _)| name.starts_with("CARGO") || name == "OUBLIETTE_GUEST"),
        "the control"
    );
    let allowed = [
        "PATH",
        "HOME",
        "USER",
        "LANG",
        "TERM",
        "TMPDIR",
        "MARK",
        "OPENAI_BASE_URL",
        "OPENAI_API_KEY",
        "PWD",
        "OLDPWD",
        "_",
        "SHLVL",
    ];
    for line in said.lines() {
        let name = line.split_once('=').map_or(line, |(name, _)| name);
        assert!(allowed.contains(&name), "{line}");
    }
}

#[tokio::test]
async fn another_sandboxs_processes_and_files_are_not_seen() {
    let Some(world) = World::new() else { return };
    let other = World::new().expect("a second");
    let spec = other.spec("other");
    let backend = other.staying(&spec).await;
    let said =
        world.inside("ls /proc | grep -E '^[0-9]+$'; ls /tmp /workspace; kill -9 -1; ls -R /run").await;
    let pids: Vec<u32> = said.lines().filter_map(|line| line.parse().ok()).collect();
    assert!(pids.len() <= 6 && pids.iter().all(|pid| *pid < 50), "{said}");
    assert!(!said.contains("ready-other"), "{said}");
    assert!(other.path("work/ready-other").exists(), "the control: it is on the host");
    assert!(
        backend.adopt("other", &spec.runtime, EPOCH).await.expect("answers").is_none(),
        "the other one still runs"
    );
    within(backend.end("other", &spec.runtime, EPOCH)).await.expect("ends");
}

#[tokio::test]
async fn the_gates_folder_is_reached_and_not_written() {
    let Some(world) = World::new() else { return };
    let listener = std::os::unix::net::UnixListener::bind(world.path("gate/gate.sock")).expect("a gate");
    fs::set_permissions(world.path("gate/gate.sock"), fs::Permissions::from_mode(0o666))
        .expect("open to the uid");
    let dialled = std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a dial");
        rustix::net::sockopt::socket_peercred(&stream).expect("a peer").uid.as_raw()
    });
    let said = world
        .inside(
            "touch /run/gate/made && echo WROTE; rm -f /run/gate/gate.sock && echo REMOVED
             mv /run/gate /run/other && echo MOVED
             python3 -c 'import socket; s = socket.socket(socket.AF_UNIX); s.connect(\"/run/gate/gate.sock\")' && echo DIALLED",
        )
        .await;
    assert!(!said.contains("WROTE") && !said.contains("REMOVED") && !said.contains("MOVED"), "{said}");
    if !said.contains("DIALLED") {
        eprintln!("no python inside to dial with: {said}");
        return;
    }
    let uid = if is_root() { HOST_UID } else { rustix::process::geteuid().as_raw() };
    assert_eq!(dialled.join().expect("dialled"), uid, "the gate knows who dials");
}

#[tokio::test]
async fn configured_paths_are_read_only_at_their_place_also_below_private_folders() {
    let Some(world) = World::new() else { return };
    fs::create_dir_all(world.path("private/tools")).expect("folders");
    fs::write(world.path("private/tools/tool"), "tool-content").expect("a tool");
    fs::set_permissions(world.path("private"), fs::Permissions::from_mode(0o700)).expect("private");
    let mut spec = world.spec("tools");
    spec.read_only = vec![world.path("private/tools")];
    spec.read_only_at = vec![(world.path("private/tools/tool"), "/opt/tool".into())];
    let path = world.path("private/tools");
    let said = world
        .inside_of(
            &spec,
            &format!(
                "cat {0}/tool /opt/tool; touch {0}/made && echo WROTE; echo x > /opt/tool && echo WROTE; ls {1}",
                path.display(),
                world.path("").display()
            ),
        )
        .await;
    assert_eq!(said.matches("tool-content").count(), 2, "{said}");
    assert!(!said.contains("WROTE"), "{said}");
    assert!(!said.contains("programs"), "what lies beside it is not shown: {said}");
}

#[tokio::test]
async fn builds_work_inside() {
    let Some(world) = World::new() else { return };
    if outside("command -v gcc make git").lines().count() != 3 {
        return;
    }
    let said = world
        .inside(
            "set -e; cd /workspace
             printf 'int main(void){return 0;}' > a.c; printf 'a: a.c\\n\\tgcc -o a a.c\\n' > Makefile
             make -s; ./a && echo BUILT
             git init -q . && git add -A && git -c user.name=a -c user.email=a@b commit -qm one && git log --oneline | grep -c one
             sh -c 'echo x | tee /tmp/file > /dev/null; mktemp' && echo TEMPORARY",
        )
        .await;
    assert!(said.contains("BUILT") && said.contains("TEMPORARY"), "{said}");
}
