//! Where on this machine sandboxes get control groups of their own, and how limits are written there.
//!
//! In this order: the server's own version 2 group if its controllers are handed down (systemd `Delegate=yes`, a
//! container); the top of version 2 for root; version 1 controllers. A version 2 hierarchy without controllers still
//! serves to kill all of a sandbox at once. Names are neutral: an operator's search for the product finds servers only.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::path::PathBuf;

use ob_core::launch::ControlGroup;
use ob_core::launch::GroupLimit;
use ob_core::resource::Enforcement;
use ob_core::resource::Means;
use ob_core::resource::Resource;
use sha2::Digest as _;
use sha2::Sha256;

use crate::Limits;

/// The period that processor limits are counted in, in microseconds; the kernel's default.
const CPU_PERIOD_US: u64 = 100_000;
/// The least quota the kernel takes, in microseconds.
const CPU_LEAST_US: u64 = 1_000;
/// Controllers that limits need.
const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];
/// A sandbox's share of contended processors; 1024 and 100 are what others have. The server and whoever works at the
/// machine go first, and all sandboxes are alike.
const CPU_SHARES_V1: &str = "256";
const CPU_WEIGHT_V2: &str = "25";
/// The group that the server moves to when its own is needed as a parent: version 2 allows processes in leaves only.
const SERVER_LEAF: &str = "server";

/// Parents of sandboxes' groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hierarchy {
    /// Of version 2, and the controllers that work below it.
    pub unified: Option<(PathBuf, Vec<String>)>,
    /// Of version 1, by controller.
    pub legacy: Vec<(String, PathBuf)>,
}

/// Groups to make for one sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Groups {
    /// For the launcher.
    pub wanted: Vec<ControlGroup>,
    /// How memory, processes and processors are held if the launcher can write all of it.
    pub enforcement: Enforcement,
}

// === impl Hierarchy ===

impl Hierarchy {
    /// Looks at this machine, and makes room below the server's own group if it may.
    pub fn detect() -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let found = Self::parse(&mounts, &own);
        let unified = found.unified.and_then(|(path, _)| usable_unified(&path, &mounts));
        let legacy = found.legacy.into_iter().filter(|(_, path)| is_writable(path)).collect();
        Self { unified, legacy }
    }

    /// The server's own groups, from the text of `/proc/self/mountinfo` and `/proc/self/cgroup`.
    pub fn parse(mounts: &str, own: &str) -> Self {
        let mut hierarchy = Self::default();
        for line in own.lines() {
            let mut fields = line.splitn(3, ':');
            let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            for mount in mounts.lines().filter_map(GroupMount::parse) {
                let Some(below) = Path::new(path).strip_prefix(&mount.root).ok() else { continue };
                let folder = mount.at.join(below);
                if controllers.is_empty() && mount.is_unified {
                    hierarchy.unified.get_or_insert((folder, Vec::new()));
                } else if !mount.is_unified {
                    for controller in controllers.split(',').filter(|c| mount.options.iter().any(|o| o == c))
                    {
                        if CONTROLLERS.contains(&controller) {
                            hierarchy.legacy.push((controller.to_owned(), folder.clone()));
                        }
                    }
                }
            }
        }
        hierarchy
    }

    /// The name of the groups of the sandbox in this runtime folder.
    ///
    /// The folder names them and not the sandbox's id: servers of other homes on this machine have sandboxes of the same
    /// ids, and ending one must not kill another.
    pub fn group_name(runtime: &Path) -> String {
        let digest = Sha256::digest(runtime.as_os_str().as_bytes());
        format!("sandbox-{}", hex::encode(&digest[..8]))
    }

    /// The groups of the sandbox in this runtime folder with these limits.
    pub fn groups(&self, runtime: &Path, limits: &Limits) -> Groups {
        let name = Self::group_name(runtime);
        let mut wanted = Vec::new();
        let mut enforcement = Enforcement::default();
        let mut unified_limits = Vec::new();
        for (resource, controller, is_asked) in [
            (Resource::Memory, "memory", limits.memory.is_some()),
            (Resource::Pids, "pids", limits.pids.is_some()),
            (Resource::Cpu, "cpu", limits.cpu_millis.is_some()),
        ] {
            if !is_asked {
                continue;
            }
            let in_unified = self
                .unified
                .as_ref()
                .is_some_and(|(_, controllers)| controllers.iter().any(|c| c == controller));
            let means = if in_unified {
                unified_limits.extend(writes(resource, limits, true));
                Means::CgroupV2
            } else if let Some((_, parent)) = self.legacy.iter().find(|(c, _)| c == controller) {
                wanted
                    .push(ControlGroup { path: parent.join(&name), limits: writes(resource, limits, false) });
                Means::CgroupV1
            } else {
                Means::None
            };
            enforcement.set(resource, means);
        }
        if let Some((parent, _)) = &self.unified {
            wanted.push(ControlGroup { path: parent.join(&name), limits: unified_limits });
        } else if wanted.is_empty()
            && let Some((_, parent)) = self.legacy.iter().find(|(c, _)| c == "pids")
        {
            // Without limits too, so that its processes can be counted and killed.
            wanted.push(ControlGroup { path: parent.join(&name), limits: Vec::new() });
        }
        Groups { wanted, enforcement }
    }
}

/// A mounted control group file system.
struct GroupMount {
    /// The group that is its root.
    root: PathBuf,
    at: PathBuf,
    is_unified: bool,
    options: Vec<String>,
}

// === impl GroupMount ===

impl GroupMount {
    fn parse(line: &str) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(3);
        let (root, at) = (before.next()?, before.next()?);
        let mut after = after.split(' ');
        let kind = after.next()?;
        let options = after.nth(1)?.split(',').map(str::to_owned).collect();
        let is_unified = match kind {
            "cgroup2" => true,
            "cgroup" => false,
            _ => return None,
        };
        Some(Self { root: root.into(), at: at.into(), is_unified, options })
    }
}

/// A place in version 2 that sandboxes' groups can be made in, and the controllers that work there.
fn usable_unified(own: &Path, mounts: &str) -> Option<(PathBuf, Vec<String>)> {
    let top = mounts.lines().filter_map(GroupMount::parse).find(|m| m.is_unified).map(|m| m.at);
    let candidates = [Some(own.to_owned()), top];
    let mut second_best = None;
    for folder in candidates.into_iter().flatten().filter(|folder| is_writable(folder)) {
        let enabled = enable_controllers(&folder);
        if CONTROLLERS.iter().all(|wanted| enabled.iter().any(|c| c == wanted)) {
            return Some((folder, enabled));
        }
        second_best.get_or_insert((folder, enabled));
    }
    second_best
}

/// Hands controllers down to the groups below `folder`; returns those that are.
fn enable_controllers(folder: &Path) -> Vec<String> {
    let read = |name: &str| words(&fs::read_to_string(folder.join(name)).unwrap_or_default());
    let available = read("cgroup.controllers");
    let missing = |enabled: &[String]| -> Vec<String> {
        CONTROLLERS
            .iter()
            .filter(|c| available.iter().any(|a| a == *c) && !enabled.iter().any(|e| e == *c))
            .map(|c| format!("+{c}"))
            .collect()
    };
    let wanted = missing(&read("cgroup.subtree_control")).join(" ");
    if !wanted.is_empty() && fs::write(folder.join("cgroup.subtree_control"), &wanted).is_err() {
        // Processes in the group are in the way. If they are only this server, it moves to a leaf.
        let own = std::process::id().to_string();
        let leaf = folder.join(SERVER_LEAF);
        if read("cgroup.procs").iter().all(|pid| *pid == own)
            && (fs::create_dir(&leaf).is_ok() || leaf.is_dir())
            && fs::write(leaf.join("cgroup.procs"), "0").is_ok()
        {
            fs::write(folder.join("cgroup.subtree_control"), &wanted).ok();
        }
    }
    read("cgroup.subtree_control")
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn is_writable(folder: &Path) -> bool {
    rustix::fs::access(folder, rustix::fs::Access::WRITE_OK).is_ok()
}

/// Files of one controller, and what to write.
fn writes(resource: Resource, limits: &Limits, is_unified: bool) -> Vec<GroupLimit> {
    let limit = |file: &str, value: String| GroupLimit { file: file.into(), value, resource: Some(resource) };
    let helps =
        |file: &str, value: &str| GroupLimit { file: file.into(), value: value.into(), resource: None };
    match (resource, is_unified) {
        (Resource::Memory, true) => limits.memory.map_or_else(Vec::new, |bytes| {
            // Without swap accounting there is no such file, and mostly no swap either.
            vec![limit("memory.max", bytes.to_string()), helps("memory.swap.max", "0")]
        }),
        (Resource::Memory, false) => limits.memory.map_or_else(Vec::new, |bytes| {
            let memory = limit("memory.limit_in_bytes", bytes.to_string());
            vec![memory, helps("memory.memsw.limit_in_bytes", &bytes.to_string())]
        }),
        (Resource::Pids, _) => {
            limits.pids.map_or_else(Vec::new, |count| vec![limit("pids.max", count.to_string())])
        }
        (Resource::Cpu, is_unified) => limits.cpu_millis.map_or_else(Vec::new, |millis| {
            let quota = (u64::from(millis) * CPU_PERIOD_US / 1000).max(CPU_LEAST_US);
            if is_unified {
                let most = limit("cpu.max", format!("{quota} {CPU_PERIOD_US}"));
                vec![most, helps("cpu.weight", CPU_WEIGHT_V2)]
            } else {
                vec![limit("cpu.cfs_quota_us", quota.to_string()), helps("cpu.shares", CPU_SHARES_V1)]
            }
        }),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Limits =
        Limits { memory: Some(1 << 30), pids: Some(64), cpu_millis: Some(1500), ..Limits::NONE };

    fn paths(groups: &Groups) -> Vec<String> {
        let shown = |limit: &GroupLimit| format!("{} {}", limit.file, limit.value);
        let each = |g: &ControlGroup| g.limits.iter().map(shown).collect::<Vec<_>>().join(", ");
        groups.wanted.iter().map(|g| format!("{}: {}", g.path.display(), each(g))).collect()
    }

    #[test]
    fn a_delegated_version_two_group_takes_all_limits_at_once() {
        let hierarchy = Hierarchy {
            unified: Some(("/sys/fs/cgroup/own".into(), vec!["cpu".into(), "memory".into(), "pids".into()])),
            legacy: vec![],
        };
        let groups = hierarchy.groups(Path::new("/a"), &ALL);
        assert_eq!(groups.enforcement.0.values().collect::<Vec<_>>(), [&Means::CgroupV2; 3]);
        assert_eq!(
            paths(&groups),
            [concat!(
                "/sys/fs/cgroup/own/sandbox-6a50dc8584134c7d: memory.max 1073741824, memory.swap.max 0, ",
                "pids.max 64, cpu.max 150000 100000, cpu.weight 25"
            )]
        );
    }

    #[test]
    fn version_one_controllers_each_have_a_group_below_the_servers_own() {
        let mounts = "30 24 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      31 24 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
                      32 24 0:28 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
                      33 24 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";
        let own = "8:pids:/\n4:memory:/jobs/7\n1:cpu,cpuacct:/\n0::/";
        let hierarchy = Hierarchy::parse(mounts, own);
        assert_eq!(hierarchy.unified, Some(("/sys/fs/cgroup/unified/".into(), vec![])));
        let groups = hierarchy.groups(Path::new("/a"), &ALL);
        assert_eq!(groups.enforcement.0.values().collect::<Vec<_>>(), [&Means::CgroupV1; 3]);
        assert_eq!(
            paths(&groups),
            [
                concat!(
                    "/sys/fs/cgroup/memory/jobs/7/sandbox-6a50dc8584134c7d: memory.limit_in_bytes 1073741824, ",
                    "memory.memsw.limit_in_bytes 1073741824"
                ),
                "/sys/fs/cgroup/pids/sandbox-6a50dc8584134c7d: pids.max 64",
                "/sys/fs/cgroup/cpu/sandbox-6a50dc8584134c7d: cpu.cfs_quota_us 150000, cpu.shares 256",
                "/sys/fs/cgroup/unified/sandbox-6a50dc8584134c7d: ",
            ]
        );
    }

    #[test]
    fn a_limit_without_a_controller_is_not_called_enforced() {
        let nothing = Hierarchy::default();
        let missing = nothing.groups(Path::new("/a"), &ALL).enforcement.missing();
        assert_eq!(missing, [Resource::Memory, Resource::Pids, Resource::Cpu]);
        assert!(
            nothing.groups(Path::new("/a"), &Limits::default()).enforcement.is_full(),
            "nothing asked is all enforced"
        );
    }
}
