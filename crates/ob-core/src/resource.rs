//! What a sandbox may use so much of: names, how each limit is held, and what is told when one is reached.
//!
//! A limit is never silent. Where it is held is in the session's [`Enforcement`]; each time it is reached is a
//! [`LimitHit`], which becomes an event of the session and a count in the metrics.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::Serialize;

use crate::refusal::Refusal;
use crate::refusal::RefusalCode;

/// The name of the backend that isolates nothing; wherever a sandbox is listed, one of it is marked unsafe.
pub const UNSAFE_BACKEND: &str = "process";

/// A backend's name for people, marked if it isolates nothing.
pub fn marked_backend(name: &str) -> String {
    if is_isolated(name) { name.to_owned() } else { format!("{name} (UNSAFE: isolates nothing)") }
}

/// False if the backend of this name keeps nothing that runs inside from the machine.
pub fn is_isolated(name: &str) -> bool {
    name != UNSAFE_BACKEND
}

/// Something that a sandbox may use so much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// Bytes of memory, files in memory included.
    Memory,
    /// Processes and threads at once.
    Pids,
    /// Thousandths of a processor.
    Cpu,
    /// Open files of one process.
    OpenFiles,
    /// Bytes on disk of the workspace and the home.
    Disk,
    /// Files and folders of the workspace and the home.
    Inodes,
    /// Milliseconds that the sandbox lives.
    WallTime,
    /// Bytes a second that the agent writes to its output.
    OutputRate,
}

/// How a limit is held on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Means {
    /// By the kernel, in a control group of version 2.
    CgroupV2,
    /// By the kernel, in a control group of version 1.
    CgroupV1,
    /// By the kernel, as a resource limit of each process.
    Rlimit,
    /// By the launcher, which measures and ends the sandbox.
    Watch,
    /// By the reader, which lets the writer wait.
    FlowControl,
    /// Not at all, which the configuration accepted.
    None,
}

/// How each limit of a sandbox is held. Only limits that were asked for are in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Enforcement(pub BTreeMap<Resource, Means>);

/// What happened at a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Consequence {
    /// More was refused: a fork failed.
    Refused,
    /// The kernel killed a process.
    Killed,
    /// It goes on, slower.
    Slowed,
    /// The sandbox was ended.
    Ended,
}

/// A limit was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LimitHit {
    /// Which.
    pub resource: Resource,
    /// How much was used, in the unit of the resource.
    pub used: u64,
    /// How much may be.
    pub bound: u64,
    /// How often since the last report.
    pub times: u64,
    /// What happened.
    pub consequence: Consequence,
}

// === impl Resource ===

impl Resource {
    /// Every resource.
    pub const ALL: [Self; 8] = [
        Self::Memory,
        Self::Pids,
        Self::Cpu,
        Self::OpenFiles,
        Self::Disk,
        Self::Inodes,
        Self::WallTime,
        Self::OutputRate,
    ];

    /// The name in events, metrics and records.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpu => "cpu",
            Self::OpenFiles => "open_files",
            Self::Disk => "disk",
            Self::Inodes => "inodes",
            Self::WallTime => "wall_time",
            Self::OutputRate => "output_rate",
        }
    }

    /// The key of the configuration that sets its limit.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Memory => "sandbox.memory",
            Self::Pids => "sandbox.pids",
            Self::Cpu => "sandbox.cpus",
            Self::OpenFiles => "sandbox.open_files",
            Self::Disk => "sandbox.disk",
            Self::Inodes => "sandbox.inodes",
            Self::WallTime => "sandbox.wall_s",
            Self::OutputRate => "sandbox.output_rate",
        }
    }

    /// The least that a limit may be: less of it and no agent gets anywhere.
    pub const fn least(self) -> u64 {
        match self {
            Self::Memory | Self::Disk => 64 << 20,
            Self::Pids => 16,
            Self::Cpu => 10,
            Self::OpenFiles => 256,
            Self::Inodes => 1000,
            Self::WallTime => 1000,
            Self::OutputRate => 16 << 10,
        }
    }

    /// What it limits, in words.
    const fn noun(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "processes and threads",
            Self::Cpu => "processors",
            Self::OpenFiles => "open files",
            Self::Disk => "disk space of the workspace and the home",
            Self::Inodes => "files and folders of the workspace and the home",
            Self::WallTime => "time",
            Self::OutputRate => "output a second",
        }
    }

    /// An amount of it for people.
    pub fn show(self, amount: u64) -> String {
        match self {
            Self::Memory | Self::Disk | Self::OutputRate => show_bytes(amount),
            Self::Cpu => format!("{}.{:03}", amount / 1000, amount % 1000)
                .trim_end_matches('0')
                .trim_end_matches('.')
                .to_owned(),
            Self::WallTime => format!("{} s", amount / 1000),
            Self::Pids | Self::OpenFiles | Self::Inodes => amount.to_string(),
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Enforcement ===

impl Enforcement {
    /// Notes how a limit is held.
    pub fn set(&mut self, resource: Resource, means: Means) {
        self.0.insert(resource, means);
    }

    /// How a limit is held; `None` if none was asked for.
    pub fn of(&self, resource: Resource) -> Option<Means> {
        self.0.get(&resource).copied()
    }

    /// Limits that were asked for and are not held.
    pub fn missing(&self) -> Vec<Resource> {
        self.0.iter().filter(|(_, means)| **means == Means::None).map(|(resource, _)| *resource).collect()
    }

    /// True if all limits that were asked for are held.
    pub fn is_full(&self) -> bool {
        self.missing().is_empty()
    }

    /// Why a sandbox without these limits is not made.
    pub fn refusal(missing: &[Resource]) -> Refusal {
        let names: Vec<String> =
            missing.iter().map(|resource| format!("`{}` ({})", resource.key(), resource.noun())).collect();
        Refusal::unavailable(format!("this machine cannot hold the limit {}", names.join(", "))).fix(
            "let the server have control groups: run it as root, or as `systemd-run --user --scope -p Delegate=yes \
             oubliette`, or accept it with `sandbox.limits` set to `best_effort`",
        )
    }
}

/// Limits as a project sets them, each in the unit of its resource.
///
/// # Errors
/// Names the first that is under the least, or over what can be counted.
pub fn check_limits(limits: &BTreeMap<Resource, u64>) -> Result<(), Refusal> {
    for (resource, amount) in limits {
        let least = resource.least();
        if *amount < least {
            return Err(Refusal::invalid(format!(
                "the limit `{resource}` is {}, under the least of {}",
                resource.show(*amount),
                resource.show(least)
            ))
            .fix(format!("give at least {}, or leave it out for the server's own", resource.show(least))));
        }
        let is_counted = matches!(resource, Resource::Pids | Resource::Cpu | Resource::OpenFiles);
        if is_counted && u32::try_from(*amount).is_err() || *amount > i64::MAX.unsigned_abs() {
            return Err(Refusal::invalid(format!("the limit `{resource}` is too large"))
                .fix("leave it out for the server's own"));
        }
    }
    Ok(())
}

// === impl LimitHit ===

impl LimitHit {
    /// What happened, one sentence without full stop.
    pub fn message(&self) -> String {
        let (resource, bound) = (self.resource, self.resource.show(self.bound));
        let what = match self.consequence {
            Consequence::Refused => "more was refused",
            Consequence::Killed => "the kernel killed a process",
            Consequence::Slowed => "it goes on, slower",
            Consequence::Ended => "the sandbox was ended",
        };
        let used = resource.show(self.used);
        let noun = resource.noun();
        format!("limit `{resource}` reached: {used} of {bound} ({noun}); {what}")
    }

    /// What to do about it.
    pub fn fix(&self) -> String {
        let key = self.resource.key();
        match self.resource {
            Resource::Disk | Resource::Inodes => {
                format!("raise `{key}`, or remove files from the workspace, and start another session")
            }
            Resource::WallTime => format!("raise `{key}`, or give the work in smaller pieces"),
            _ => format!("raise `{key}`, or have the work use less"),
        }
    }

    /// The refusal of a session that ends because of it.
    pub fn refusal(&self) -> Refusal {
        Refusal::new(RefusalCode::LimitExceeded, self.message()).fix(self.fix())
    }
}

/// Bytes for people, in the largest unit of which there is at least one.
fn show_bytes(bytes: u64) -> String {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        let whole = bytes >> shift;
        if whole > 0 {
            let tenths = ((bytes - (whole << shift)) >> (shift - 10)) * 10 / 1024;
            return match tenths {
                0 => format!("{whole} {unit}"),
                _ => format!("{whole}.{tenths} {unit}"),
            };
        }
    }
    format!("{bytes} bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_serde() {
        for resource in Resource::ALL {
            assert_eq!(serde_json::to_value(resource).expect("a name"), resource.as_str());
        }
    }

    #[test]
    fn a_report_maps_names_to_means() {
        let mut enforcement = Enforcement::default();
        enforcement.set(Resource::Memory, Means::CgroupV1);
        enforcement.set(Resource::Cpu, Means::None);
        let json = serde_json::to_string(&enforcement).expect("json");
        assert_eq!(json, r#"{"memory":"cgroup_v1","cpu":"none"}"#);
        assert_eq!(serde_json::from_str::<Enforcement>(&json).expect("reads"), enforcement);
        assert_eq!(enforcement.missing(), [Resource::Cpu]);
        assert!(Enforcement::refusal(&enforcement.missing()).message.contains("sandbox.cpus"));
    }

    #[test]
    fn each_limit_says_what_was_used_and_which_key_raises_it() {
        for resource in Resource::ALL {
            let hit = LimitHit {
                resource,
                used: 3 << 30,
                bound: 2 << 30,
                times: 1,
                consequence: Consequence::Ended,
            };
            let refusal = hit.refusal();
            assert_eq!(refusal.code, RefusalCode::LimitExceeded);
            assert!(refusal.message.contains(resource.as_str()), "{refusal}");
            assert!(refusal.fix.is_some_and(|fix| fix.contains(resource.key())), "{resource}");
        }
        let hit = LimitHit {
            resource: Resource::Disk,
            used: 10 << 30,
            bound: (10 << 30) - 1,
            times: 1,
            consequence: Consequence::Ended,
        };
        assert_eq!(
            hit.message(),
            "limit `disk` reached: 10 GiB of 9.9 GiB (disk space of the workspace and the home); the sandbox was ended"
        );
    }

    #[test]
    fn limits_of_a_project_are_held_against_the_least() {
        for resource in Resource::ALL {
            let one = |amount| BTreeMap::from([(resource, amount)]);
            assert!(check_limits(&one(resource.least())).is_ok(), "{resource}");
            let refusal = check_limits(&one(resource.least() - 1)).expect_err("too small");
            assert!(refusal.message.contains(resource.as_str()) && refusal.fix.is_some(), "{refusal}");
            assert!(check_limits(&one(u64::MAX)).is_err(), "{resource}");
        }
    }

    #[test]
    fn amounts_are_shown_as_people_write_them() {
        for (resource, amount, text) in [
            (Resource::Cpu, 1500, "1.5"),
            (Resource::Cpu, 2000, "2"),
            (Resource::Cpu, 10_000, "10"),
            (Resource::WallTime, 60_000, "60 s"),
            (Resource::Memory, 1536 << 20, "1.5 GiB"),
            (Resource::Memory, 100, "100 bytes"),
            (Resource::Pids, 4096, "4096"),
        ] {
            assert_eq!(resource.show(amount), text);
        }
    }
}
