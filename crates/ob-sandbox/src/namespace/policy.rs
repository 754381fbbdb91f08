//! What a sandbox sees and may do, as arguments of bubblewrap.
//!
//! [`Policy::argv`] is pure: all looking at the host happens before, in [`HostLayout::read`] and the backend. The
//! whole result is a snapshot in the tests, so that no wall moves unnoticed.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Component;
use std::path::Path;

use ob_core::Refusal;
use ob_core::cage::CAGE_FILE;
use ob_core::link::GATE_DIR;
use ob_core::link::GATE_PORT;
use ob_core::link::GUEST_PROGRAM;
use ob_core::link::HOME_DIR;
use ob_core::link::OUTSIDE_SOCKET;
use ob_core::link::WORKSPACE_DIR;

use super::git::GitMount;
use super::protection::Protection;
use super::protection::Protections;

/// The uid and gid inside, whatever they are on the host.
pub const INSIDE_ID: u32 = 1000;

/// Folders at the root that are either links into `/usr` or folders of their own.
const BASE_FOLDERS: [&str; 6] = ["bin", "sbin", "lib", "lib32", "lib64", "libx32"];
/// Places that no configured path may cover or lie in: they are the walls.
const RESERVED: [&str; 8] = ["/proc", "/dev", "/run", "/sys", WORKSPACE_DIR, HOME_DIR, "/usr", "/etc"];
/// Variables that configuration does not change: they lead to the gate.
const GATE_VARIABLES: [&str; 3] = ["OPENAI_BASE_URL", "OPENAI_API_KEY", OUTSIDE_SOCKET];
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Files of `/proc` that are covered where others than root may use them.
const MASKED_FILES: [&str; 9] = [
    "interrupts",
    "kcore",
    "key-users",
    "keys",
    "kmsg",
    "latency_stats",
    "sched_debug",
    "sysrq-trigger",
    "timer_list",
];
/// Folders of `/proc` that are covered where there is something in them: switches and lists of the host's devices and
/// file systems.
const MASKED_FOLDERS: [&str; 6] = ["acpi", "asound", "bus", "fs", "irq", "scsi"];
/// What covers a file: it cannot be opened where devices are not allowed.
const COVER: &str = "/dev/null";

/// What of the host's own system goes into every sandbox, and what of its kernel does not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostLayout {
    /// Links at the root: name and target.
    pub links: Vec<(String, String)>,
    /// Folders at the root that are no links.
    pub folders: Vec<String>,
    /// Files of `/proc` that this kernel has and that are covered.
    pub masked_files: Vec<String>,
    /// Folders of `/proc` likewise.
    pub masked_folders: Vec<String>,
}

/// A path of the host as bubblewrap is to open it, and where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// On the host, or in the stage.
    pub source: String,
    /// Inside.
    pub target: String,
}

/// One sandbox's walls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// What the host's system looks like.
    pub layout: HostLayout,
    /// Source of `/etc`.
    pub etc: String,
    /// Source of the workspace.
    pub workspace: String,
    /// False for looking only.
    pub workspace_writable: bool,
    /// Mounts in the workspace that protect a user's repository.
    pub git: Vec<GitMount>,
    /// Source of the home; one in memory if unset.
    pub home: Option<String>,
    /// Source of the gate's folder.
    pub gate: String,
    /// Source of the guest program.
    pub guest: String,
    /// Configured paths, all read-only.
    pub read_only: Vec<Mount>,
    /// Environment besides the fixed one.
    pub env: Vec<(String, String)>,
    /// Descriptors of the system call filters.
    pub filter_fds: Vec<u32>,
    /// The most bytes of `/tmp`, and of a home in memory.
    pub memory_files: Option<u64>,
    /// Descriptor of the order that the first process carries out.
    pub cage_fd: u32,
    /// What protects; all, but in tests.
    pub protections: Protections,
}

// === impl HostLayout ===

impl HostLayout {
    /// Looks at this host.
    pub fn read() -> Self {
        let mut layout = Self::default();
        for name in BASE_FOLDERS {
            let path = Path::new("/").join(name);
            match (fs::read_link(&path), fs::symlink_metadata(&path)) {
                (Ok(target), _) => {
                    layout.links.push((name.to_owned(), target.to_string_lossy().into_owned()))
                }
                (Err(_), Ok(metadata)) if metadata.is_dir() => layout.folders.push(name.to_owned()),
                _ => {}
            }
        }
        let is_for_others = |metadata: fs::Metadata| metadata.mode() & 0o006 != 0;
        let proc = |name: &&&str| Path::new("/proc").join(name);
        layout.masked_files = MASKED_FILES
            .iter()
            .filter(|name| fs::metadata(proc(name)).is_ok_and(is_for_others))
            .map(|name| (*name).to_owned())
            .collect();
        layout.masked_folders = MASKED_FOLDERS
            .iter()
            .filter(|name| fs::read_dir(proc(name)).is_ok_and(|mut entries| entries.next().is_some()))
            .map(|name| (*name).to_owned())
            .collect();
        layout
    }
}

// === impl Policy ===

impl Policy {
    /// The arguments, in the order in which bubblewrap does them.
    ///
    /// The order is security, since a later mount covers an earlier one:
    /// 1. namespaces, identity, environment: nothing of the host's is inherited;
    /// 2. the system, read-only, so that nothing configured can replace it later (see [`check_target`]);
    /// 3. fresh `/proc`, with covers on what is the machine's, `/dev`, `/tmp`, `/run`, which belong to this sandbox alone;
    /// 4. configured paths, read-only, still before anything that the sandbox can write, so that no link planted
    ///    there redirects where they are mounted;
    /// 5. home, workspace, then the protections inside the workspace;
    /// 6. gate and guest under `/run`, last, so that nothing covers them;
    /// 7. the root and `/run` become read-only: their folders cannot be moved from under the mounts.
    pub fn argv(&self) -> Vec<String> {
        let mut argv = Arguments::default();
        let has = |protection| self.protections.has(protection);
        argv.push(&["--unshare-user"]);
        argv.push_if(has(Protection::Ipc), &["--unshare-ipc"]);
        argv.push_if(has(Protection::Processes), &["--unshare-pid", "--as-pid-1"]);
        argv.push_if(has(Protection::Network), &["--unshare-net"]);
        argv.push(&["--unshare-uts", "--unshare-cgroup-try"]);
        let id = INSIDE_ID.to_string();
        argv.push(&["--uid", &id, "--gid", &id, "--hostname", "sandbox", "--die-with-parent"]);
        argv.push_if(has(Protection::Session), &["--new-session"]);
        argv.push(&[if has(Protection::Capabilities) { "--cap-drop" } else { "--cap-add" }, "ALL"]);
        for fd in &self.filter_fds {
            argv.push(&["--add-seccomp-fd", &fd.to_string()]);
        }
        argv.push_if(has(Protection::Environment), &["--clearenv"]);
        for (name, value) in self.environment() {
            argv.push(&["--setenv", &name, &value]);
        }

        let system = if has(Protection::ReadOnlySystem) { "--ro-bind" } else { "--bind" };
        argv.push(&[system, "/usr", "/usr"]);
        for name in &self.layout.folders {
            argv.push(&[system, &format!("/{name}"), &format!("/{name}")]);
        }
        for (name, target) in &self.layout.links {
            argv.push(&["--symlink", target, &format!("/{name}")]);
        }
        argv.push(&[system, &self.etc, "/etc"]);

        argv.push(&["--proc", "/proc", "--dev", "/dev"]);
        if has(Protection::ProcMasks) {
            self.mask_proc(&mut argv);
        }
        self.in_memory(&mut argv, "1777", "/tmp");
        argv.push(&["--perms", "0755", "--tmpfs", "/run"]);

        for mount in &self.read_only {
            argv.push(&["--ro-bind", &mount.source, &mount.target]);
        }

        match &self.home {
            Some(home) => argv.push(&["--bind", home, HOME_DIR]),
            None => self.in_memory(&mut argv, "0700", HOME_DIR),
        }
        let bind = |writable: bool| if writable { "--bind" } else { "--ro-bind" };
        argv.push(&[bind(self.workspace_writable), &self.workspace, WORKSPACE_DIR]);
        for mount in &self.git {
            argv.push(&[
                bind(mount.writable && self.workspace_writable),
                &format!("{}/{}", self.workspace, mount.path),
                &format!("{WORKSPACE_DIR}/{}", mount.path),
            ]);
        }

        argv.push(&["--ro-bind", &self.gate, GATE_DIR]);
        argv.push(&["--ro-bind", &self.guest, GUEST_PROGRAM]);
        argv.push(&["--perms", "0444", "--file", &self.cage_fd.to_string(), CAGE_FILE]);
        argv.push_if(has(Protection::SealedRoot), &["--remount-ro", "/run", "--remount-ro", "/"]);
        argv.push(&["--chdir", WORKSPACE_DIR]);
        argv.words
    }

    /// A folder in memory.
    fn in_memory(&self, argv: &mut Arguments, mode: &str, target: &str) {
        if let Some(most) = self.memory_files {
            argv.push(&["--size", &most.to_string()]);
        }
        argv.push(&["--perms", mode, "--tmpfs", target]);
    }

    /// Covers what is there for the machine and not for a sandbox. A device cannot be opened on such a mount, so a file
    /// is covered by one.
    fn mask_proc(&self, argv: &mut Arguments) {
        argv.push(&["--ro-bind", "/proc/sys", "/proc/sys"]);
        for name in &self.layout.masked_files {
            argv.push(&["--ro-bind", COVER, &format!("/proc/{name}")]);
        }
        for name in &self.layout.masked_folders {
            let folder = format!("/proc/{name}");
            argv.push(&["--perms", "0555", "--tmpfs", &folder, "--remount-ro", &folder]);
        }
    }

    fn environment(&self) -> Vec<(String, String)> {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let mut all = vec![
            pair("PATH", PATH),
            pair("HOME", HOME_DIR),
            pair("USER", "agent"),
            pair("LANG", "C.UTF-8"),
            pair("TERM", "dumb"),
            pair("TMPDIR", "/tmp"),
        ];
        all.extend(self.env.iter().cloned());
        all.push((GATE_VARIABLES[0].to_owned(), format!("http://127.0.0.1:{GATE_PORT}/v1")));
        // Keys are added outside; clients insist on having one.
        all.push((GATE_VARIABLES[1].to_owned(), "local".to_owned()));
        all
    }
}

#[derive(Default)]
struct Arguments {
    words: Vec<String>,
}

// === impl Arguments ===

impl Arguments {
    fn push(&mut self, words: &[&str]) {
        self.words.extend(words.iter().map(|word| (*word).to_owned()));
    }

    fn push_if(&mut self, is_wanted: bool, words: &[&str]) {
        if is_wanted {
            self.push(words);
        }
    }
}

/// A path as text for bubblewrap: absolute, without `..`, UTF-8, no NUL.
pub fn check_source(path: &Path) -> Result<&str, Refusal> {
    let text = path.to_str().filter(|text| !text.contains('\0'));
    let is_plain = path.is_absolute()
        && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    match text {
        Some(text) if is_plain => Ok(text),
        _ => Err(Refusal::invalid(format!("{} is not an absolute path without `..`", path.display()))
            .fix("give the full path of the folder, in UTF-8")),
    }
}

/// Where a configured path may go: nowhere that covers a wall, or that the sandbox can write (a link planted there
/// would redirect the mount).
pub fn check_target(target: &str) -> Result<(), Refusal> {
    let path = Path::new(check_source(Path::new(target))?);
    let collides = |reserved: &str| path.starts_with(reserved) || Path::new(reserved).starts_with(path);
    let reserved = RESERVED.iter().find(|reserved| collides(reserved));
    // The temporary folder itself must stay; what lies in it may be shown.
    let reserved = reserved.copied().or_else(|| (path == Path::new("/tmp")).then_some("/tmp"));
    match reserved {
        None => Ok(()),
        Some(reserved) => Err(Refusal::invalid(format!(
            "`{target}` inside a sandbox would cover or lie in {reserved}"
        ))
        .fix("leave it out of `sandbox.read_only`, or give it another place inside; /usr is there already")),
    }
}

/// A variable that may be set.
pub fn check_variable(name: &str, value: &str) -> Result<(), Refusal> {
    let refused = |why: &str| {
        Err(Refusal::invalid(format!("the variable `{}` {why}", name.escape_debug()))
            .fix("correct it in `sandbox.env`"))
    };
    if name.is_empty() || name.contains(['=', '\0']) {
        return refused("has no proper name");
    }
    if value.contains('\0') {
        return refused("has a NUL byte");
    }
    if GATE_VARIABLES.contains(&name) {
        return refused("leads to the gate and is not changed");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Policy {
        Policy {
            layout: HostLayout {
                links: vec![("bin".into(), "usr/bin".into()), ("lib".into(), "usr/lib".into())],
                folders: vec!["lib64".into()],
                masked_files: vec!["keys".into()],
                masked_folders: vec!["fs".into()],
            },
            etc: "/data/etc-1".into(),
            workspace: "/data/workspace".into(),
            workspace_writable: true,
            git: vec![
                GitMount { path: ".git".into(), writable: true },
                GitMount { path: ".git/hooks".into(), writable: false },
            ],
            home: Some("/data/home".into()),
            gate: "/data/gate".into(),
            guest: "/data/sandbox-1".into(),
            read_only: vec![Mount { source: "/opt/tools".into(), target: "/opt/tools".into() }],
            env: vec![("CARGO_NET_OFFLINE".into(), "true".into())],
            filter_fds: vec![10, 11],
            memory_files: None,
            cage_fd: 12,
            protections: Protections::default(),
        }
    }

    /// One option a line, as a person reads it.
    fn shown(argv: &[String]) -> String {
        let mut text = String::new();
        for word in argv {
            text.push_str(if word.starts_with("--") && !text.is_empty() { "\n" } else { " " });
            text.push_str(if word.is_empty() { "''" } else { word });
        }
        text
    }

    #[test]
    fn the_whole_policy_of_a_repository_with_a_toolchain() {
        insta::assert_snapshot!(shown(&policy().argv()));
    }

    #[test]
    fn a_sandbox_for_looking_has_no_writable_mount_of_the_host() {
        let looking = Policy { workspace_writable: false, home: None, ..policy() };
        let argv = looking.argv();
        assert!(!argv.iter().any(|word| word == "--bind"), "{}", shown(&argv));
        assert!(policy().argv().iter().any(|word| word == "--bind"), "the control: a working one has");
    }

    #[test]
    fn configured_paths_never_cover_or_enter_a_wall() {
        for target in [
            "/",
            "/proc",
            "/proc/sys",
            "/dev",
            "/run/gate",
            "/workspace",
            "/workspace/.git",
            "/usr/bin",
            "/etc/passwd",
            "/tmp",
            "/home",
            "/home/agent/.cargo",
            "relative",
            "/opt/../etc",
            "/opt\0--bind",
        ] {
            assert!(check_target(target).is_err(), "{target}");
        }
        for target in ["/root/.rustup", "/opt/tools", "/nix/store", "/tmp/tools"] {
            assert!(check_target(target).is_ok(), "{target}");
        }
        assert!(check_target("/home/other").is_ok());
    }

    #[test]
    fn the_gates_variables_and_malformed_ones_are_refused() {
        for (name, value) in [
            ("", "x"),
            ("A=B", "x"),
            ("A\0", "x"),
            ("A", "x\0--bind"),
            ("OPENAI_API_KEY", "k"),
            (OUTSIDE_SOCKET, "s"),
        ] {
            assert!(check_variable(name, value).is_err(), "{name:?}");
        }
        assert!(check_variable("RUSTUP_HOME", "/root/.rustup").is_ok());
    }
}
