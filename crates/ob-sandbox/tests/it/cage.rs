//! What a sandbox gives up for good: each protection, and the same attempt in a sandbox that lacks it, where it works.

use std::fs;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;

use ob_sandbox::Backend as _;
use ob_sandbox::Limits;
use ob_sandbox::namespace::landlock;
use ob_sandbox::namespace::protection::Protection;
use ob_sandbox::namespace::seccomp;

use crate::probe::Attempt;
use crate::probe::GETPID_32;
use crate::probe::MOUNT;
use crate::probe::Outcome;
use crate::world::EPOCH;
use crate::world::World;
use crate::world::is_root;
use crate::world::processes;
use crate::world::within;

/// Calls that an unprivileged process is denied also without the filter, by a check of capabilities or by a switch of the
/// host's kernel that comes before any look at the arguments. The filter's own part is shown instruction by instruction
/// in the unit tests.
const DENIED_TWICE: [&str; 37] = [
    "acct",
    "bpf",
    "chroot",
    "delete_module",
    "fanotify_init",
    "fanotify_mark",
    "finit_module",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "init_module",
    "ioperm",
    "iopl",
    "kcmp",
    "kexec_file_load",
    "kexec_load",
    "lookup_dcookie",
    "mknod",
    "mknodat",
    "mount_setattr",
    "move_mount",
    "open_by_handle_at",
    "open_tree",
    "perf_event_open",
    "pivot_root",
    "quotactl",
    "quotactl_fd",
    "reboot",
    "setdomainname",
    "sethostname",
    "swapoff",
    "swapon",
    "syslog",
    "umount2",
    "userfaultfd",
    "vhangup",
];

/// The version of Landlock from which on signals do not leave.
const SIGNALS_SCOPED: u32 = 6;

/// Each denial's examples as system calls, with the call's name and the error that is right. A place that the denial does
/// not look at holds what the kernel would refuse, so that nothing happens where there is no filter.
fn attempts() -> Vec<(&'static str, i32, Attempt)> {
    let mut all = Vec::new();
    for denial in seccomp::DENIALS {
        let examples = denial.when.denied();
        // The first and last few of long lists.
        let count = examples.len();
        let some = examples.iter().enumerate().filter(|(n, _)| *n < 8 || n + 8 >= count);
        for (_, arguments) in some {
            for call in denial.calls {
                let mut arguments = *arguments;
                let judges_first = !matches!(
                    denial.when,
                    seccomp::When::Always
                        | seccomp::When::MakesSetId(..)
                        | seccomp::When::MakesType(..)
                        | seccomp::When::SetsBound(..)
                );
                if !judges_first || (arguments[0] == 0 && arguments[1..] != [0; 5]) {
                    arguments[0] = u64::MAX;
                }
                let attempt = Attempt { number: call.1, arguments };
                all.push((seccomp::name(call), denial.answer.errno(), attempt));
            }
        }
    }
    all
}

fn expected(errno: i32) -> Outcome {
    if errno == 0 { Outcome::Worked } else { Outcome::Failed(errno) }
}

#[tokio::test]
async fn each_denied_call_is_answered_as_the_table_says_and_not_without_the_filter() {
    let Some(world) = World::new() else { return };
    let attempts = attempts();
    let calls: Vec<Attempt> = attempts.iter().map(|(_, _, attempt)| attempt.clone()).collect();
    let filtered = world.probe(&[], &calls).await;
    assert_eq!(filtered.len(), calls.len());
    for ((name, errno, attempt), outcome) in attempts.iter().zip(&filtered) {
        assert_eq!(*outcome, expected(*errno), "{name} {:x?}", attempt.arguments);
    }
    // The control: without the filter the kernel itself answers, and something else.
    let plain = world.probe(&[Protection::SystemCalls], &calls).await;
    let passes = |call: &str| {
        attempts
            .iter()
            .zip(&plain)
            .any(|((name, errno, _), outcome)| *name == call && *outcome != expected(*errno))
    };
    let calls = seccomp::DENIALS.iter().flat_map(|denial| denial.calls).map(seccomp::name);
    let without_control: Vec<&str> =
        calls.filter(|call| !DENIED_TWICE.contains(call) && !passes(call)).collect();
    assert!(without_control.is_empty(), "denied without the filter too: {without_control:?}");
}

#[tokio::test]
async fn a_call_by_the_table_of_32_bit_programs_ends_the_process() {
    let Some(world) = World::new() else { return };
    if !cfg!(target_arch = "x86_64") {
        return;
    }
    let attempt = [Attempt { number: GETPID_32, arguments: [0; 6] }];
    assert_eq!(world.probe(&[], &attempt).await, [Outcome::Killed(libc::SIGSYS)]);
    let control = world.probe(&[Protection::SystemCalls], &attempt).await;
    assert_ne!(control, [Outcome::Killed(libc::SIGSYS)], "the control: no filter ends it");
}

#[tokio::test]
async fn filter_capabilities_and_landlock_each_forbid_a_mount_alone() {
    let Some(world) = World::new() else { return };
    let mount = [Attempt { number: MOUNT, arguments: [0; 6] }];
    let denied = [Outcome::Failed(libc::EPERM)];
    let lines = [Protection::SystemCalls, Protection::Capabilities, Protection::Landlock];
    assert_eq!(
        world.probe(&lines, &mount).await,
        [Outcome::Worked],
        "the control: without all three it works"
    );
    let has_landlock = landlock::usable(landlock::kernel()).is_some();
    for line in lines.into_iter().filter(|line| has_landlock || *line != Protection::Landlock) {
        let others: Vec<Protection> = lines.into_iter().filter(|other| *other != line).collect();
        assert_eq!(world.probe(&others, &mount).await, denied, "{line:?} alone");
    }
    assert_eq!(world.probe(&[], &mount).await, denied);
}

#[tokio::test]
async fn landlock_holds_where_a_mount_would_not() {
    let Some(world) = World::new() else { return };
    let abi = landlock::usable(landlock::kernel());
    assert_eq!(world.guests(&[]).walls().landlock, abi, "what is said is what is used");
    assert_eq!(world.guests(&[Protection::Landlock]).walls().landlock, None);
    // The root and `/run` are writable by mistake.
    let script =
        "echo x > /run/planted && echo WROTE; mkdir /planted && echo MADE; ls / > /dev/null && echo LISTED";
    let mistake = [Protection::SealedRoot];
    let both = [Protection::SealedRoot, Protection::Landlock];
    let control = world.inside_without(&both, &world.spec("control"), script).await;
    assert!(control.contains("WROTE") && control.contains("MADE"), "the control: {control}");
    if abi.is_none() {
        return;
    }
    let said = world.inside_without(&mistake, &world.spec("held"), script).await;
    assert!(!said.contains("WROTE") && !said.contains("MADE"), "{said}");
    assert!(said.contains("LISTED"), "{said}");
}

#[tokio::test]
async fn landlock_lets_a_build_do_what_builds_do() {
    let Some(world) = World::new() else { return };
    let said = world
        .inside(
            "set -e; cd /workspace; mkdir -p a b; echo x > a/f; mv a/f b/f; ln b/f a/hard; ln -s ../b/f a/soft
             cat a/soft; truncate -s 0 b/f; mkfifo a/pipe; cp /bin/true a/run; a/run; cp /bin/true /tmp/run; /tmp/run
             echo x > /dev/null; : > /dev/shm/made; rm -r a b; echo 0 > /proc/self/oom_score_adj; echo ALL",
        )
        .await;
    assert!(said.contains("ALL"), "{said}");
}

#[tokio::test]
async fn what_is_the_machines_in_proc_is_covered() {
    let Some(world) = World::new() else { return };
    let script = "cd /proc; for f in interrupts kcore key-users keys kmsg latency_stats sched_debug sysrq-trigger timer_list; do
             (cat $f | head -c 1 | grep -q . && echo READ $f) 2> /dev/null; (echo x > $f) 2> /dev/null && echo WROTE $f; done
             for d in acpi asound bus fs irq scsi; do ls $d 2> /dev/null | grep -q . && echo LISTED $d; done
             for f in $(find sys -type f 2> /dev/null); do test -w $f && echo WRITABLE $f; done
             cat sys/kernel/osrelease meminfo cpuinfo stat | grep -q MemTotal && echo PLAIN";
    let said = world.inside(script).await;
    for bad in ["READ", "WROTE", "LISTED", "WRITABLE"] {
        assert!(!said.contains(bad), "{said}");
    }
    assert!(said.contains("PLAIN"), "the rest is there: {said}");
    let control = world.inside_without(&[Protection::ProcMasks], &world.spec("control"), script).await;
    for good in ["READ interrupts", "LISTED fs", "WRITABLE"] {
        assert!(control.contains(good), "the control: {good} in {control}");
    }
}

#[tokio::test]
async fn turns_on_the_processors_are_short() {
    let Some(world) = World::new() else { return };
    let slice = |sched: &str| -> Option<u64> {
        let line = sched.lines().find(|line| line.starts_with("se.slice"))?;
        line.rsplit(':').next()?.trim().parse().ok()
    };
    // Kernels before 6.12 have turns of one length, and not all say which.
    let Some(control) = slice(&fs::read_to_string("/proc/self/sched").unwrap_or_default()) else { return };
    let inside = slice(&world.inside("cat /proc/self/sched").await).expect("the same file");
    let is_old = is_before(6, 12);
    assert!(inside == 300_000 || is_old, "{inside} ns inside");
    assert!(control > 300_000 || is_old, "the control: {control} ns outside");
}

#[tokio::test]
async fn bounds_are_set_and_the_one_on_core_dumps_stays() {
    let Some(world) = World::new() else { return };
    let script = "ulimit -c 0 && echo PRETENDED; cat /proc/self/limits; umask";
    let said = world.inside(script).await;
    let bound = |text: &str, name: &str| -> Vec<String> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().take(2).map(str::to_owned).collect()
    };
    assert_eq!(bound(&said, "Max core file size"), ["1", "1"], "{said}");
    for name in ["Max nice priority", "Max realtime priority"] {
        assert_eq!(bound(&said, name), ["0", "0"], "{said}");
    }
    assert!(said.contains("PRETENDED") && said.contains("0022"), "{said}");
    let left_out = [Protection::Bounds, Protection::SystemCalls];
    let control = world.inside_without(&left_out, &world.spec("control"), script).await;
    assert_ne!(bound(&control, "Max core file size"), ["1", "1"], "the control");
}

#[tokio::test]
async fn there_is_no_terminal_and_devices_are_the_harmless_ones() {
    let Some(world) = World::new() else { return };
    let said = world
        .inside("ls /dev; (echo x > /dev/tty) 2> /dev/null && echo TERMINAL; cut -d' ' -f6,7 /proc/self/stat")
        .await;
    assert!(!said.contains("TERMINAL"), "{said}");
    let devices: Vec<&str> = said.lines().take_while(|line| !line.contains(' ')).collect();
    let harmless = [
        "console", "core", "fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout",
        "tty", "urandom", "zero",
    ];
    assert!(devices.iter().all(|device| harmless.contains(device)), "{devices:?}");
    assert!(devices.contains(&"null"), "{said}");
    let session = said.lines().last().unwrap_or_default();
    assert!(
        session.starts_with("1 0") || session.starts_with("2 0"),
        "a session of its own, no terminal: {said}"
    );
    // Outside of it the session is the launcher's, which has no number inside.
    let script = "cut -d' ' -f6,7 /proc/self/stat";
    let control = world.inside_without(&[Protection::Session], &world.spec("control"), script).await;
    assert!(control.starts_with("0 "), "the control: {control}");
}

#[tokio::test]
async fn nothing_is_open_inside_but_input_output_and_errors() {
    let Some(world) = World::new() else { return };
    // The server leaks a descriptor of something precious, past an exec.
    let secret = tempfile::tempfile().expect("a file");
    let leaked = rustix::io::fcntl_dupfd_cloexec(&secret, 60).expect("a copy");
    rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).expect("open across exec");
    let said = world.inside("ls /proc/self/fd").await;
    // The last one is the folder that is being listed.
    assert_eq!(said.split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3"], "{said}");
    let output = std::process::Command::new("ls").arg("/proc/self/fd").output().expect("ls");
    let control = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = leaked.as_raw_fd().to_string();
    assert!(
        control.lines().any(|line| line == number),
        "the control: a child of the server has it: {control}"
    );
}

#[tokio::test]
async fn the_guest_is_hidden_from_what_it_starts() {
    let Some(world) = World::new() else { return };
    for (left_out, is_hidden) in [(&[][..], true), (&[Protection::HiddenGuest][..], false)] {
        let name = if is_hidden { "hidden" } else { "control" };
        let spec = world.spec(name);
        let backend = world.guests(left_out);
        backend.start(&spec).await.expect("starts");
        // The owner of its files in `/proc` is who may look into it: with another one, nobody inside.
        let is_guest = |folder: &std::path::Path| {
            let line = fs::read(folder.join("cmdline")).unwrap_or_default();
            let of_this = fs::read_to_string(folder.join("mountinfo")).unwrap_or_default();
            line == b"/run/guest/init\0" && of_this.contains(world.path("work").to_str().expect("text"))
        };
        crate::world::until(|| !processes(is_guest).is_empty()).await;
        let guest = processes(is_guest)[0];
        let owner = || fs::metadata(format!("/proc/{guest}/environ")).map_or(0, |metadata| metadata.uid());
        let sandbox = if is_root() { crate::world::HOST_UID } else { rustix::process::geteuid().as_raw() };
        if is_hidden {
            crate::world::until(|| owner() != sandbox).await;
        } else {
            assert_eq!(owner(), sandbox, "the control: it can be looked into");
        }
        within(backend.end(&spec.id, &spec.runtime, EPOCH)).await.expect("ends");
    }
}

#[tokio::test]
async fn namespaces_keep_out_what_would_be_seen_without_them() {
    let Some(world) = World::new() else { return };
    let script = "readlink /proc/self/ns/ipc /proc/self/ns/net; ls /proc | grep -c '^[0-9]'";
    let said = world.inside(script).await;
    let own = |name: &str| {
        fs::read_link(format!("/proc/self/ns/{name}")).expect("there").to_string_lossy().into_owned()
    };
    assert!(!said.contains(&own("ipc")) && !said.contains(&own("net")), "{said}");
    let left_out = [Protection::Ipc, Protection::Network];
    let control = world.inside_without(&left_out, &world.spec("control"), script).await;
    assert!(control.contains(&own("ipc")) && control.contains(&own("net")), "the control: {control}");
}

#[tokio::test]
async fn processes_of_the_host_are_neither_seen_nor_killed() {
    let Some(world) = World::new() else { return };
    // One of the very uid that the sandbox has on the host.
    let victim = || {
        let mut command = std::process::Command::new("sleep");
        if is_root() {
            command.uid(crate::world::HOST_UID);
        }
        Victim(command.arg("1000").spawn().expect("sleep"))
    };
    let killing = |pid: u32| {
        format!("grep -q sleep /proc/{pid}/cmdline && echo SEEN; kill -9 {pid} && echo KILLED; echo TRIED")
    };
    let mut alive = victim();
    let said = world.inside(&killing(alive.0.id())).await;
    assert!(said.contains("TRIED") && !said.contains("SEEN") && !said.contains("KILLED"), "{said}");
    assert!(alive.0.try_wait().expect("ours").is_none(), "it lives");
    // Landlock keeps signals inside as well, where the kernel has that.
    let left_out = [Protection::Processes, Protection::Landlock];
    let control = world.inside_without(&left_out, &world.spec("control"), &killing(alive.0.id())).await;
    assert!(control.contains("SEEN") && control.contains("KILLED"), "the control: {control}");
    crate::world::until(|| alive.0.try_wait().is_ok_and(|status| status.is_some())).await;
    if landlock::usable(landlock::kernel()).is_some_and(|abi| abi >= SIGNALS_SCOPED) {
        let mut alive = victim();
        let spec = world.spec("second");
        let said = world.inside_without(&[Protection::Processes], &spec, &killing(alive.0.id())).await;
        assert!(said.contains("SEEN") && !said.contains("KILLED"), "Landlock alone: {said}");
        assert!(alive.0.try_wait().expect("ours").is_none(), "it lives");
    }
}

#[tokio::test]
async fn the_servers_environment_is_kept_out() {
    let Some(world) = World::new() else { return };
    // Cargo sets some for this test, which plays the server.
    let (name, value) =
        std::env::vars().find(|(name, _)| name == "CARGO_MANIFEST_DIR").expect("cargo runs it");
    let script = "cat /proc/1/environ /proc/self/environ | tr '\\0' '\\n'";
    let said = world.inside(script).await;
    assert!(said.contains("TERM=dumb") && !said.contains(&name), "{said}");
    let control = world.inside_without(&[Protection::Environment], &world.spec("control"), script).await;
    assert!(control.contains(&format!("{name}={value}")), "the control: {control}");
}

#[tokio::test]
async fn files_of_the_system_are_not_written_even_if_they_are_the_sandboxs_own() {
    let Some(world) = World::new() else { return };
    if !is_root() {
        // Nobody else can put a file there.
        return;
    }
    let own = tempfile::Builder::new().prefix("cage-").tempfile_in("/usr/local/share").expect("a file");
    std::os::unix::fs::chown(own.path(), Some(crate::world::HOST_UID), Some(crate::world::HOST_UID))
        .expect("given");
    let script = format!("echo planted > {}; cat {0}; echo TRIED", own.path().display());
    let said = world.inside(&script).await;
    assert!(said.contains("TRIED") && !said.contains("planted\n"), "{said}");
    assert_eq!(fs::metadata(own.path()).expect("there").len(), 0, "nothing was written");
    let left_out = [Protection::ReadOnlySystem, Protection::Landlock];
    let control = world.inside_without(&left_out, &world.spec("control"), &script).await;
    assert!(control.contains("planted\n"), "the control: {control}");
    assert_eq!(fs::read_to_string(own.path()).expect("there"), "planted\n", "on the host");
}

#[tokio::test]
async fn control_groups_bound_what_a_sandbox_takes() {
    let Some(world) = World::new() else { return };
    let limits = Limits { pids: Some(20), ..Limits::NONE };
    if world.guests(&[]).holds(&limits).is_err() || !is_root() {
        // An ordinary user's machine may have other means, which have tests of their own.
        return;
    }
    // Those that could be started stay until they are counted: what is refused says so and is none of them.
    let script = "i=0; while [ $i -lt 60 ]; do sleep 1000 & i=$((i + 1)); done 2> /dev/null; \
                  n=0; for p in /proc/[0-9]*; do n=$((n + 1)); done; echo COUNT $n; kill -9 -1";
    let count = |said: &str| -> Option<u32> {
        said.lines().find_map(|line| line.strip_prefix("COUNT ")?.parse().ok())
    };
    let spec = |name: &str| ob_sandbox::SandboxSpec { limits, ..world.spec(name) };
    // At the bound a shell may give up before it has counted.
    let said = world.inside_of(&spec("bounded"), script).await;
    assert!(count(&said).is_none_or(|count| count <= 21), "{said}");
    let control = world.inside_without(&[Protection::ControlGroups], &spec("control"), script).await;
    assert!(count(&control).is_some_and(|count| count > 60), "the control: {control}");
}

/// A process of the host, which ends with the test.
struct Victim(std::process::Child);

impl Drop for Victim {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// True if the kernel is older than this version.
fn is_before(major: u32, minor: u32) -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse::<u32>().ok());
    (numbers.next(), numbers.next()) < (Some(major), Some(minor))
}
