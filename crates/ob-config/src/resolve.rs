//! From checked keys to [`Settings`]: defaults, second names, what keys mean together.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use ob_core::model::Price;
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
use crate::home::FoundBy;
use crate::read_only;
use crate::schema::nearest;
use crate::settings::ModelAlias;
use crate::settings::ProviderSettings;
use crate::settings::Settings;
use crate::sizes::show_size;

/// Base URLs of providers that speak OpenAI's chat completions.
const KNOWN_PROVIDERS: [(&str, &str); 8] = [
    ("openai", "https://api.openai.com/v1"),
    ("anthropic", "https://api.anthropic.com/v1"),
    ("deepseek", "https://api.deepseek.com/v1"),
    ("gemini", "https://generativelanguage.googleapis.com/v1beta/openai"),
    ("groq", "https://api.groq.com/openai/v1"),
    ("mistral", "https://api.mistral.ai/v1"),
    ("ollama", "http://127.0.0.1:11434/v1"),
    ("openrouter", "https://openrouter.ai/api/v1"),
];

/// Providers that no configuration names: a local server that was found, and the demonstration model.
const BUILT_IN: [&str; 2] = ["local", "demonstration"];

const PROVIDERS: [&str; 3] = ["credentials", "providers", "credentials"];
const ALIASES: [&str; 2] = ["models", "models"];

/// What became of the findings.
pub(crate) struct Resolved {
    pub(crate) settings: Settings,
    pub(crate) origins: BTreeMap<String, String>,
    pub(crate) mistakes: Vec<Mistake>,
    pub(crate) warnings: Vec<String>,
}

struct Resolver<'a> {
    values: BTreeMap<Vec<String>, Found>,
    /// Where the home was found by the working directory, the file may have been written by anyone.
    is_file_trusted: bool,
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
        is_file_trusted: home.by != FoundBy::WorkingDirectory,
        out: Resolved {
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
    resolver.aliases();
    resolver.session_model();
    resolver.discovery();
    resolver.sandbox();
    resolver.log();
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

    /// One of two names of the same thing; both together are a mistake.
    fn either<T>(
        &mut self,
        path: [&str; 2],
        first: Option<Placed<T>>,
        second: Option<Placed<T>>,
    ) -> Option<Placed<T>> {
        if let (Some(_), Some(second)) = (&first, &second) {
            self.mistake(&second.place, path[1], format!("is the old name of {}, which is set too", path[0]));
        }
        first.or(second)
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
    }

    fn providers(&mut self) {
        for (name, place) in self.names(&PROVIDERS) {
            let path = format!("{}.{name}", PROVIDERS.join("."));
            let key = |last: &'static str| [&PROVIDERS[..], &[name.as_str(), last]].concat();
            let kind = self.text(&key("provider"));
            let api_key = self.secret(&key("api_key"));
            let base_url = self.text(&key("base_url"));
            let default_model = self.text(&key("default_model"));
            // Read for its effect on people only.
            drop(self.text(&key("description")));
            let kind = kind.map_or_else(|| name.clone(), |kind| kind.value);
            let known = KNOWN_PROVIDERS.iter().find(|(known, _)| *known == kind).map(|(_, url)| *url);
            let Some(url) = base_url.as_ref().map(|url| url.value.clone()).or(known.map(str::to_owned))
            else {
                if self.is_broken(&path) {
                    continue;
                }
                let names = KNOWN_PROVIDERS.map(|(known, _)| known);
                let what = match nearest(&kind, names) {
                    Some(meant) => format!("unknown provider {}; did you mean `{meant}`?", show(&kind)),
                    None => format!(
                        "provider {} needs the `base_url` of an OpenAI-compatible server; \
                         known without one: {}",
                        show(&kind),
                        names.join(", ")
                    ),
                };
                self.mistake(&place, &path, what);
                continue;
            };
            let is_env_key = api_key.as_ref().is_some_and(|key| !key.in_file);
            if is_env_key {
                self.env_keys.insert(name.clone());
                if let Some(url) = base_url.as_ref().filter(|url| url.in_file) {
                    self.check_trust(&url.place, &format!("{path}.base_url"));
                }
            }
            if api_key.is_some() && is_plain_http(&url) {
                let warning =
                    format!("{place}: {path}: its key goes over the network without encryption, to {url}");
                self.out.warnings.push(warning);
            }
            let provider = ProviderSettings {
                base_url: url,
                api_key: api_key.map(|key| key.value),
                default_model: default_model.map(|model| model.value),
            };
            self.out.settings.models.providers.insert(name, provider);
        }
    }

    /// A file that was only found in the working directory must not send a person's key anywhere.
    fn check_trust(&mut self, place: &str, path: &str) {
        if !self.is_file_trusted {
            self.mistake(
                place,
                path,
                "a file that was found in the working directory may not say where a key of the environment goes; \
                 name the home with `--dir`, or set the URL in the environment",
            );
        }
    }

    /// The provider that is meant if none is named.
    fn default_provider(&self) -> Option<String> {
        let path: Vec<String> = ["credentials", "providers", "default"].map(str::to_owned).to_vec();
        let providers = &self.out.settings.models.providers;
        match self.values.get(&path).map(|found| &found.value) {
            Some(Checked::Text(name)) => providers.contains_key(name).then(|| name.clone()),
            _ if providers.len() == 1 => providers.keys().next().cloned(),
            _ => None,
        }
    }

    fn aliases(&mut self) {
        let default_provider = self.default_provider();
        for (name, place) in self.names(&ALIASES) {
            let path = format!("{}.{name}", ALIASES.join("."));
            let key = |rest: &[&'static str]| [&ALIASES[..], &[name.as_str()], rest].concat();
            let model = self.text(&key(&["model"]));
            let base_url = self.text(&key(&["baseUrl"]));
            let api_key = self.secret(&key(&["apiKey"]));
            let max_output_tokens = self.whole(&key(&["maxOutputTokens"])).map(|most| most.value);
            let extra_headers = self.texts(&key(&["extraHeaders"])).map(|headers| headers.value);
            let provider = self.text(&key(&["provider"]));
            let price = self.price(&key(&["price"]), &place, &path);
            drop(self.text(&key(&["displayName"])));
            let provider = match provider {
                Some(provider) => {
                    if base_url.is_none() {
                        self.check_provider(&provider, &format!("{path}.provider"));
                    }
                    provider.value
                }
                None => match &default_provider {
                    Some(provider) => provider.clone(),
                    None if base_url.is_some() => name.clone(),
                    None => {
                        self.mistake(
                            &place,
                            &path,
                            "needs a `provider` or a `baseUrl`: no default provider is set",
                        );
                        continue;
                    }
                },
            };
            if let Some(url) = base_url.as_ref().filter(|url| url.in_file)
                && self.env_keys.contains(&provider)
                && api_key.is_none()
            {
                self.check_trust(&url.place, &format!("{path}.baseUrl"));
            }
            let alias = ModelAlias {
                provider,
                model: model.map_or_else(|| name.clone(), |model| model.value),
                base_url: base_url.map(|url| url.value),
                api_key: api_key.map(|key| key.value),
                max_output_tokens,
                extra_headers: extra_headers.unwrap_or_default(),
                price,
            };
            self.out.settings.models.aliases.insert(name, alias);
        }
    }

    fn price(&mut self, key: &[&str], place: &str, path: &str) -> Option<Price> {
        let input = self.usd(&[key, &["input"]].concat());
        let output = self.usd(&[key, &["output"]].concat());
        let cached = self.usd(&[key, &["cached_input"]].concat());
        match (input, output, cached) {
            (Some(input), Some(output), cached) => Some(Price {
                input: input.value,
                output: output.value,
                cached_input: cached.map(|cached| cached.value),
            }),
            (None, None, None) => None,
            _ => {
                self.mistake(
                    place,
                    &format!("{path}.price"),
                    "needs both `input` and `output`, in US dollars for a million tokens",
                );
                None
            }
        }
    }

    /// A provider that is named must be configured; a well-known one may still wait for its key.
    fn check_provider(&mut self, name: &Placed<String>, path: &str) {
        let providers = &self.out.settings.models.providers;
        if providers.contains_key(&name.value) || BUILT_IN.contains(&name.value.as_str()) {
            return;
        }
        if KNOWN_PROVIDERS.iter().any(|(known, _)| *known == name.value) {
            self.out.warnings.push(format!(
                "{}: {path}: the provider `{}` has no credentials, so this cannot be used yet",
                name.place, name.value
            ));
            return;
        }
        let known: Vec<&str> = providers.keys().map(String::as_str).collect();
        let what = match nearest(&name.value, known.iter().copied()) {
            Some(meant) => {
                format!("no provider {} is configured; did you mean `{meant}`?", show(&name.value))
            }
            None if known.is_empty() => {
                format!("no provider {} is configured; add it to {}", show(&name.value), PROVIDERS.join("."))
            }
            None => {
                format!("no provider {} is configured; configured: {}", show(&name.value), known.join(", "))
            }
        };
        self.mistake(&name.place, path, what);
    }

    fn session_model(&mut self) {
        let default_provider = self.default_provider();
        if let Some(name) = self.text(&["credentials", "providers", "default"]) {
            self.check_provider(&name, "credentials.providers.default");
        }
        let now = self.text(&["models", "defaults", "session_model"]);
        let agent = self.text(&["defaults", "agent", "model"]);
        let asked = match (now, agent) {
            (Some(model), _) => Some((model, "models.defaults.session_model")),
            (None, Some(model)) => Some((model, "defaults.agent.model")),
            (None, None) => None,
        };
        let chosen = match asked {
            Some((model, path)) => self.known_model(model, path, default_provider.as_deref()),
            None => default_provider.and_then(|name| {
                let model = self.out.settings.models.providers.get(&name)?.default_model.as_ref()?;
                Some(format!("{name}/{model}"))
            }),
        };
        self.out.settings.models.session_model = chosen;
    }

    /// An alias, or `provider/model`; the bare name of a model belongs to the default provider.
    fn known_model(&mut self, model: Placed<String>, path: &str, provider: Option<&str>) -> Option<String> {
        let models = &self.out.settings.models;
        let name = model.value.as_str();
        let prefix = name.split_once('/').map(|(prefix, _)| prefix);
        let is_full = prefix.is_some_and(|p| models.providers.contains_key(p) || BUILT_IN.contains(&p));
        if models.aliases.contains_key(name) || is_full {
            return Some(model.value);
        }
        if let Some(meant) = nearest(name, models.aliases.keys().map(String::as_str)) {
            let what = format!(
                "no alias {} is configured; did you mean `{meant}`? \
                 A model that really has this name is written `provider/{}`",
                show(name),
                show(name).trim_matches('`')
            );
            self.mistake(&model.place, path, what);
            return None;
        }
        match provider {
            Some(provider) => Some(format!("{provider}/{name}")),
            None => Some(model.value),
        }
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
            self.out.settings.sandbox.backend = backend.value;
        }
        self.memory();
        self.cpus();
        if let Some(pids) = self.whole(&["sandbox", "pids"]) {
            self.out.settings.sandbox.pids = Some(pids.value);
        }
        if let Some(lease) = self.whole(&["sandbox", "lease_s"]) {
            self.out.settings.sandbox.lease = Duration::from_secs(u64::from(lease.value));
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
        let root = self.home.home.root().to_owned();
        let named = self.list(&["sandbox", "read_only"]);
        let toolchains = self.text(&["sandbox", "toolchains"]);
        let mut folders: Vec<PathBuf> = Vec::new();
        if let Some(named) = named {
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

    fn log(&mut self) {
        if let Some(format) = self.text(&["log", "format"]) {
            self.out.settings.log.json = format.value == "json";
        }
        if let Some(level) = self.text(&["log", "level"]) {
            self.out.settings.log.filter = level.value;
        }
    }
}

fn is_plain_http(url: &str) -> bool {
    let Some(rest) = url.to_ascii_lowercase().strip_prefix("http://").map(str::to_owned) else {
        return false;
    };
    let authority = rest.split('/').next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host != "localhost" && !host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}
