//! From checked keys to [`Settings`]: defaults, second names, what keys mean together.

mod agents;
mod models;
mod paths;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use ob_core::Home;
use secrecy::SecretString;

use crate::Machine;
use crate::Mistake;
use crate::address;
use crate::check::Checked;
use crate::check::Findings;
use crate::check::Found;
use crate::check::show;
use crate::env::Environment;
use crate::home;
use crate::read_only;
use crate::settings::CleanupSettings;
use crate::settings::Settings;
use crate::sizes::show_size;

/// What became of the findings.
pub(crate) struct Resolved {
    pub(crate) home: Home,
    pub(crate) settings: Settings,
    pub(crate) origins: BTreeMap<String, String>,
    pub(crate) mistakes: Vec<Mistake>,
    pub(crate) warnings: Vec<String>,
}

struct Resolver<'a> {
    values: BTreeMap<Vec<String>, Found>,
    out: Resolved,
    home: &'a home::Found,
    env: &'a Environment,
    machine: Machine,
    /// Providers whose key stands in the environment.
    env_keys: BTreeSet<String>,
}

/// A value and its place.
struct Placed<T> {
    value: T,
    place: String,
    in_file: bool,
}

/// Resolves.
pub(crate) fn resolve(
    findings: Findings,
    home: &home::Found,
    env: &Environment,
    machine: Machine,
) -> Resolved {
    let mut resolver = Resolver {
        values: findings.values,
        out: Resolved {
            home: Home::new(home.root.clone(), home.layout, home.runtime.clone()),
            settings: Settings::default(),
            origins: BTreeMap::new(),
            mistakes: findings.mistakes,
            warnings: findings.warnings,
        },
        home,
        env,
        machine,
        env_keys: BTreeSet::new(),
    };
    resolver.server();
    resolver.limits();
    resolver.providers();
    resolver.prices();
    resolver.aliases();
    resolver.session_model();
    resolver.discovery();
    // What it says of time is the default of sandboxes.
    resolver.cleanup();
    resolver.sandbox();
    resolver.agents();
    resolver.rate_limit();
    resolver.log();
    resolver.out.home = resolver.paths();
    // Read by editors.
    drop(resolver.text(&["$schema"]));
    debug_assert!(
        resolver.values.values().all(|found| matches!(found.value, Checked::Name)),
        "every key of the schema has an effect"
    );
    resolver.out
}

macro_rules! takers {
    ($($name:ident, $variant:ident, $type:ty;)*) => {
        $(
            fn $name(&mut self, path: &[&str]) -> Option<Placed<$type>> {
                let found = self.take(path)?;
                match found.value {
                    Checked::$variant(value) => {
                        Some(Placed { value, place: found.place, in_file: found.in_file })
                    }
                    // The schema gives each key one kind, so this is a key that is read as another.
                    _ => unreachable!("{} is read as another kind than the schema's", path.join(".")),
                }
            }
        )*
    };
}

// === impl Resolver ===

impl Resolver<'_> {
    takers! {
        text, Text, String;
        secret, Secret, SecretString;
        secrets, Secrets, Vec<SecretString>;
        flag, Flag, bool;
        usd, Usd, ob_core::MicroUsd;
        whole, Whole, u32;
        millis, Millis, u32;
        bytes, Bytes, u64;
        list, List, Vec<String>;
        ports, Ports, Vec<u16>;
        texts, Texts, BTreeMap<String, String>;
    }

    /// Takes a value out and notes where it came from.
    fn take(&mut self, path: &[&str]) -> Option<Found> {
        let path: Vec<String> = path.iter().map(|name| (*name).to_owned()).collect();
        let found = self.values.remove(&path)?;
        self.out.origins.insert(path.join("."), found.place.clone());
        Some(found)
    }

    /// The names that the operator chose under a path, each with its place.
    fn names(&self, path: &[&str]) -> Vec<(String, String)> {
        self.values
            .iter()
            .filter(|(at, found)| {
                matches!(found.value, Checked::Name)
                    && at.len() == path.len() + 1
                    && at.iter().zip(path).all(|(a, b)| a == b)
            })
            .filter_map(|(at, found)| Some((at.last()?.clone(), found.place.clone())))
            .collect()
    }

    /// True if something under a path is wrong already: what follows from that is no news.
    fn is_broken(&self, path: &str) -> bool {
        let under = format!(": {path}.");
        self.out.mistakes.iter().any(|mistake| mistake.place.contains(&under))
    }

    fn mistake(&mut self, place: &str, path: &str, what: impl Into<String>) {
        self.out.mistakes.push(Mistake::new(format!("{place}: {path}"), what));
    }

    /// One of two names of the same thing. The environment goes over the file; both together in one of them are a
    /// mistake.
    fn either<T>(
        &mut self,
        path: [&str; 2],
        first: Option<Placed<T>>,
        second: Option<Placed<T>>,
    ) -> Option<Placed<T>> {
        match (first, second) {
            (Some(first), Some(second)) if first.in_file != second.in_file => {
                Some(if first.in_file { second } else { first })
            }
            (Some(first), Some(second)) => {
                self.mistake(
                    &second.place,
                    path[1],
                    format!("is the old name of {}, which is set too", path[0]),
                );
                Some(first)
            }
            (first, second) => first.or(second),
        }
    }

    fn server(&mut self) {
        let Some(address) = self.text(&["server", "address"]) else { return };
        if address::parse(&address.value).is_ok_and(|addresses| address::is_exposed(&addresses)) {
            self.out.warnings.push(format!(
                "{}: server.address: {} can be reached from other machines, without encryption; \
                 put a proxy with TLS before it, or use `{}`",
                address.place,
                show(&address.value),
                crate::DEFAULT_ADDRESS
            ));
        }
        self.out.settings.server.address = address.value;
    }

    fn limits(&mut self) {
        let now = self.usd(&["defaults", "limits", "max_cost_usd"]);
        let old = self.usd(&["recursion", "max_cost_usd"]);
        if let Some(cost) = self.either(["defaults.limits.max_cost_usd", "recursion.max_cost_usd"], now, old)
        {
            self.out.settings.limits.max_cost = cost.value;
        }
        let now = self.whole(&["defaults", "limits", "max_recursion_depth"]);
        let old = self.whole(&["recursion", "max_depth"]);
        if let Some(depth) =
            self.either(["defaults.limits.max_recursion_depth", "recursion.max_depth"], now, old)
        {
            self.out.settings.limits.max_depth = depth.value;
        }
        let now = self.whole(&["defaults", "limits", "max_agents_per_session"]);
        let old = self.whole(&["recursion", "max_agents"]);
        if let Some(agents) =
            self.either(["defaults.limits.max_agents_per_session", "recursion.max_agents"], now, old)
        {
            self.out.settings.limits.max_agents = agents.value;
        }
        let live = self.whole(&["defaults", "limits", "max_live_agents"]);
        self.out.settings.limits.max_live = live.map(|live| live.value);
        let wall = self.whole(&["defaults", "limits", "max_wall_s"]);
        self.out.settings.limits.max_wall = wall.map(|wall| Duration::from_secs(wall.value.into()));
    }

    fn discovery(&mut self) {
        if let Some(ports) = self.ports(&["models", "discover_ports"]) {
            self.out.settings.models.discover_ports = ports.value;
        }
        if let Some(flag) = self.flag(&["models", "demonstration"]) {
            self.out.settings.models.demonstration = flag.value;
        }
        // We would find ourselves.
        let own: Vec<u16> = address::parse(&self.out.settings.server.address)
            .map(|addresses| addresses.iter().map(std::net::SocketAddr::port).collect())
            .unwrap_or_default();
        self.out.settings.models.discover_ports.retain(|port| !own.contains(port));
    }

    fn sandbox(&mut self) {
        let (now, old) = (self.text(&["sandbox", "backend"]), self.text(&["runtime", "preference"]));
        if let Some(backend) = self.either(["sandbox.backend", "runtime.preference"], now, old) {
            if backend.value == "process" && backend.in_file && !self.home.is_trusted {
                self.mistake(
                    &backend.place,
                    "sandbox.backend",
                    "a file that was found in the working directory may not take the walls away; name the home with \
                     `--dir`, or set it in the environment",
                );
            }
            if backend.value == "process" {
                self.out.warnings.push(format!(
                    "{}: sandbox.backend: `process` isolates nothing: agents run as plain processes of this machine",
                    backend.place
                ));
            }
            self.out.settings.sandbox.backend = backend.value;
        }
        self.memory();
        self.cpus();
        if let Some(pids) = self.whole(&["sandbox", "pids"]) {
            self.out.settings.sandbox.pids = Some(pids.value);
        }
        if let Some(files) = self.whole(&["sandbox", "open_files"]) {
            self.out.settings.sandbox.open_files = Some(files.value);
        }
        if let Some(disk) = self.bytes(&["sandbox", "disk"]) {
            self.out.settings.sandbox.disk = Some(disk.value);
        }
        if let Some(inodes) = self.whole(&["sandbox", "inodes"]) {
            self.out.settings.sandbox.inodes = Some(inodes.value);
        }
        if let Some(wall) = self.whole(&["sandbox", "wall_s"]) {
            self.out.settings.sandbox.wall = Some(Duration::from_secs(u64::from(wall.value)));
        }
        if let Some(rate) = self.bytes(&["sandbox", "output_rate"]) {
            self.out.settings.sandbox.output_rate = Some(rate.value);
        }
        if let Some(limits) = self.text(&["sandbox", "limits"]) {
            self.out.settings.sandbox.best_effort = limits.value == "best_effort";
        }
        if let Some(lease) = self.whole(&["sandbox", "lease_s"]) {
            self.out.settings.sandbox.lease = Duration::from_secs(u64::from(lease.value));
        }
        if let Some(idle) = self.whole(&["sandbox", "idle_s"]) {
            self.out.settings.sandbox.idle = Duration::from_secs(u64::from(idle.value));
        }
        if let Some(program) = self.text(&["sandbox", "bubblewrap"]) {
            if program.in_file && !self.home.is_trusted {
                self.mistake(
                    &program.place,
                    "sandbox.bubblewrap",
                    "a file that was found in the working directory may not name a program; name the home once with \
                     `--dir .`, or set it in the environment",
                );
            } else {
                self.out.settings.sandbox.bubblewrap = Some(self.home.root.join(program.value));
            }
        }
        if let Some(env) = self.texts(&["sandbox", "env"]) {
            self.out.settings.sandbox.env = env.value;
        }
        self.read_only();
    }

    fn memory(&mut self) {
        let (now, old) = (self.bytes(&["sandbox", "memory"]), self.bytes(&["runtime", "memory"]));
        let most = self.machine.memory;
        let sandbox = &mut self.out.settings.sandbox;
        sandbox.memory = sandbox.memory.map(|memory| memory.min(most));
        let Some(memory) = self.either(["sandbox.memory", "runtime.memory"], now, old) else { return };
        if memory.value > most {
            self.out.warnings.push(format!(
                "{}: sandbox.memory: this machine has {}; a sandbox gets at most that",
                memory.place,
                show_size(most)
            ));
        }
        self.out.settings.sandbox.memory = Some(memory.value.min(most));
    }

    fn cpus(&mut self) {
        let (now, old) = (self.millis(&["sandbox", "cpus"]), self.millis(&["runtime", "cpus"]));
        let most = self.machine.cpu_millis;
        let sandbox = &mut self.out.settings.sandbox;
        sandbox.cpu_millis = sandbox.cpu_millis.map(|millis| millis.min(most));
        let Some(millis) = self.either(["sandbox.cpus", "runtime.cpus"], now, old) else { return };
        if millis.value > most {
            self.out.warnings.push(format!(
                "{}: sandbox.cpus: this machine has {}; a sandbox gets at most that",
                millis.place,
                most / 1000
            ));
        }
        self.out.settings.sandbox.cpu_millis = Some(millis.value.min(most));
    }

    fn read_only(&mut self) {
        let root = self.home.root.clone();
        let named = self.list(&["sandbox", "read_only"]);
        let toolchains = self.text(&["sandbox", "toolchains"]);
        let mut folders: Vec<PathBuf> = Vec::new();
        if let Some(named) = named {
            if named.in_file && !self.home.is_trusted {
                self.mistake(
                    &named.place,
                    "sandbox.read_only",
                    "a file that was found in the working directory may not show folders of this machine to sandboxes; \
                     name the home once with `--dir .`",
                );
            }
            for text in named.value {
                match read_only::named(&text, &root, self.env) {
                    Ok(path) => folders.push(path),
                    Err(what) => self.mistake(&named.place, "sandbox.read_only", what),
                }
            }
        }
        if toolchains.is_none_or(|word| word.value == "auto") {
            let found = read_only::toolchains(self.env, &root);
            for path in &found.read_only {
                let note = "sandbox.toolchains (auto)".to_owned();
                self.out.origins.insert(format!("sandbox.read_only {}", path.display()), note);
            }
            folders.extend(found.read_only);
            self.out.settings.sandbox.path = found.path;
            for (name, value) in found.env {
                self.out.settings.sandbox.env.entry(name.to_owned()).or_insert(value);
            }
        }
        let mut seen = BTreeSet::new();
        folders.retain(|path| seen.insert(path.clone()));
        self.out.settings.sandbox.read_only = folders;
    }

    fn cleanup(&mut self) {
        let minutes = |minutes: u32| Duration::from_secs(u64::from(minutes) * 60);
        let mut cleanup = CleanupSettings::default();
        if let Some(enabled) = self.flag(&["cleanup", "enabled"]) {
            cleanup.enabled = enabled.value;
        }
        if let Some(interval) = self.whole(&["cleanup", "interval_minutes"]) {
            cleanup.interval = minutes(interval.value);
        }
        if let Some(retention) = self.whole(&["cleanup", "retention_minutes"]) {
            cleanup.retention = minutes(retention.value);
            // What `sandbox.idle_s` says goes over this.
            self.out.settings.sandbox.idle = cleanup.retention;
        }
        let warn = self.whole(&["cleanup", "disk_warn_percent"]);
        let error = self.whole(&["cleanup", "disk_error_percent"]);
        cleanup.disk_warn_percent = warn.as_ref().map_or(cleanup.disk_warn_percent, |warn| warn.value);
        cleanup.disk_error_percent = error.as_ref().map_or(cleanup.disk_error_percent, |error| error.value);
        let CleanupSettings { disk_warn_percent, disk_error_percent, .. } = cleanup;
        if let Some(set) = error.or(warn)
            && disk_warn_percent > disk_error_percent
        {
            self.mistake(
                &set.place,
                "cleanup.disk_error_percent",
                format!(
                    "is {disk_error_percent}, under cleanup.disk_warn_percent, which is {disk_warn_percent}"
                ),
            );
        }
        self.out.settings.cleanup = cleanup;
    }

    fn rate_limit(&mut self) {
        // The schema lets no zero through.
        if let Some(rate) = self.millis(&["rate_limit", "requests_per_second"])
            && let Some(rate) = NonZeroU32::new(rate.value)
        {
            self.out.settings.rate_limit.per_1000_s = rate;
        }
        if let Some(burst) = self.whole(&["rate_limit", "burst"])
            && let Some(burst) = NonZeroU32::new(burst.value)
        {
            self.out.settings.rate_limit.burst = burst;
        }
    }

    fn log(&mut self) {
        if let Some(format) = self.text(&["log", "format"]) {
            self.out.settings.log.json = format.value == "json";
        }
        if let Some(level) = self.text(&["log", "level"]) {
            self.out.settings.log.filter = level.value;
        }
    }
}
