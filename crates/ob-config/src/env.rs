//! The environment: every variable that is read, as one table, and how variables go over the file.
//!
//! Any key may also be set by `OUBLIETTE_<SECTION>__<KEY>`: two underscores between the names of its path, upper or
//! lower case, with or without single underscores. The value is JSON, or plain text for a key that is text.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use crate::Mistake;
use crate::Mistakes;
use crate::check::is_name;
use crate::check::unknown;
use crate::jsonc;
use crate::schema::Kind;
use crate::schema::ROOT;
use crate::schema::Shape;
use crate::schema::fold;
use crate::tree::Node;
use crate::tree::Origin;
use crate::tree::Value;

/// A variable that is read, and what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// What it does, one sentence.
    pub doc: &'static str,
}

/// The home, under `--dir`.
pub(crate) const OUBLIETTE_HOME: &str = "OUBLIETTE_HOME";
/// `server.address`.
pub(crate) const SERVER_ADDR: &str = "SERVER_ADDR";
/// `defaults.limits.max_cost_usd`.
pub(crate) const DEFAULT_MAX_COST_USD: &str = "DEFAULT_MAX_COST_USD";
/// `defaults.limits.max_recursion_depth`.
pub(crate) const DEFAULT_MAX_RECURSION_DEPTH: &str = "DEFAULT_MAX_RECURSION_DEPTH";
/// `defaults.limits.max_agents_per_session`.
pub(crate) const DEFAULT_MAX_AGENTS_PER_SESSION: &str = "DEFAULT_MAX_AGENTS_PER_SESSION";
/// `sandbox.backend`.
pub(crate) const CONTAINER_RUNTIME: &str = "CONTAINER_RUNTIME";
/// The key of the provider `openai`.
pub(crate) const OPENAI_API_KEY: &str = "OPENAI_API_KEY";
/// The base URL of the provider `openai`.
pub(crate) const OPENAI_BASE_URL: &str = "OPENAI_BASE_URL";
/// The default model of the provider `openai`.
pub(crate) const OPENAI_MODEL: &str = "OPENAI_MODEL";
/// The key of the provider `anthropic`.
pub(crate) const ANTHROPIC_API_KEY: &str = "ANTHROPIC_API_KEY";
/// The key of the provider `gemini`.
pub(crate) const GEMINI_API_KEY: &str = "GEMINI_API_KEY";
/// Where programs are.
pub(crate) const PATH: &str = "PATH";
/// The person's own folder.
pub(crate) const HOME: &str = "HOME";
/// Where sockets may be, if there is one.
pub(crate) const XDG_RUNTIME_DIR: &str = "XDG_RUNTIME_DIR";
/// Where programs keep what they remember, if not in `~/.local/state`.
pub(crate) const XDG_STATE_HOME: &str = "XDG_STATE_HOME";
/// Where Rust's toolchains are.
pub(crate) const RUSTUP_HOME: &str = "RUSTUP_HOME";
/// Where cargo is.
pub(crate) const CARGO_HOME: &str = "CARGO_HOME";

/// Before the path of a key.
const PREFIX: &str = "OUBLIETTE_";
/// Between the names of a path.
const SEPARATOR: &str = "__";

/// Every variable that is read.
pub const VARIABLES: &[Variable] = &[
    Variable { name: OUBLIETTE_HOME, doc: "The home, unless `--dir` names one." },
    Variable { name: SERVER_ADDR, doc: "Sets `server.address`." },
    Variable { name: DEFAULT_MAX_COST_USD, doc: "Sets `defaults.limits.max_cost_usd`." },
    Variable { name: DEFAULT_MAX_RECURSION_DEPTH, doc: "Sets `defaults.limits.max_recursion_depth`." },
    Variable { name: DEFAULT_MAX_AGENTS_PER_SESSION, doc: "Sets `defaults.limits.max_agents_per_session`." },
    Variable { name: CONTAINER_RUNTIME, doc: "Sets `sandbox.backend`." },
    Variable { name: OPENAI_API_KEY, doc: "Configures the provider `openai` with this key." },
    Variable {
        name: OPENAI_BASE_URL,
        doc: "The base URL of the provider `openai`; configures it even without a key.",
    },
    Variable { name: OPENAI_MODEL, doc: "The default model of the provider `openai`." },
    Variable { name: ANTHROPIC_API_KEY, doc: "Configures the provider `anthropic` with this key." },
    Variable { name: GEMINI_API_KEY, doc: "Configures the provider `gemini` with this key." },
    Variable {
        name: "OUBLIETTE_<SECTION>__<KEY>",
        doc: "Sets any key, over the file and over the names above.",
    },
    Variable {
        name: "OUBLIETTE_TOKEN",
        doc: "The token that `oubliette mcp` asks with; without it, it asks as the operator.",
    },
    Variable { name: HOME, doc: "Where `~/.oubliette` and the toolchains are looked for." },
    Variable { name: PATH, doc: "Where programs of agents are looked for, behind `agents.path`." },
    Variable { name: XDG_RUNTIME_DIR, doc: "Where sockets go, for a server that does not run as root." },
    Variable {
        name: XDG_STATE_HOME,
        doc: "Where it is noted which homes you named, if not in `~/.local/state`.",
    },
    Variable { name: RUSTUP_HOME, doc: "Rust's toolchains, if not in `~/.rustup`." },
    Variable {
        name: CARGO_HOME,
        doc: "Cargo's folder, if not `~/.cargo`; only its `bin` is ever shown to a sandbox.",
    },
];

/// Short names of keys, from the first version.
const SHORT: [(&str, &[&str]); 7] = [
    (SERVER_ADDR, &["server", "address"]),
    (DEFAULT_MAX_COST_USD, &["defaults", "limits", "max_cost_usd"]),
    (DEFAULT_MAX_RECURSION_DEPTH, &["defaults", "limits", "max_recursion_depth"]),
    (DEFAULT_MAX_AGENTS_PER_SESSION, &["defaults", "limits", "max_agents_per_session"]),
    (CONTAINER_RUNTIME, &["sandbox", "backend"]),
    (ANTHROPIC_API_KEY, &["credentials", "providers", "credentials", "anthropic", "api_key"]),
    (GEMINI_API_KEY, &["credentials", "providers", "credentials", "gemini", "api_key"]),
];

/// Known, and without effect in this version.
const LATER: [&str; 3] = ["OUBLIETTE_DEV", "FACTORY_API_KEY", "DEFAULT_GITHUB_TOKEN"];

/// Variables with the prefix and without a separator that are read elsewhere, by the build, or told elsewhere.
const OTHERS: [&str; 4] = ["OUBLIETTE_COMMIT", "OUBLIETTE_DEV", "OUBLIETTE_GUEST", "OUBLIETTE_TOKEN"];

/// The variables of the environment that have a value. Has no `Debug` on purpose: it holds keys.
pub(crate) struct Environment {
    values: BTreeMap<String, String>,
    raw: BTreeMap<String, OsString>,
}

// === impl Environment ===

impl Environment {
    /// Empty variables count as unset. Fails if a variable that is read is not UTF-8; paths need not be.
    pub(crate) fn new(env: &BTreeMap<OsString, OsString>) -> Result<Self, Mistakes> {
        let (mut values, mut raw, mut mistakes) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        for (name, value) in env {
            let Some(name) = name.to_str().filter(|_| !value.is_empty()) else {
                continue;
            };
            raw.insert(name.to_owned(), value.clone());
            match value.to_str() {
                Some(value) => {
                    values.insert(name.to_owned(), value.to_owned());
                }
                None if name.contains(SEPARATOR) && name.starts_with(PREFIX)
                    || SHORT.iter().any(|(short, _)| *short == name)
                    || [OPENAI_API_KEY, OPENAI_BASE_URL, OPENAI_MODEL].contains(&name) =>
                {
                    mistakes.push(Mistake::new(name, "is not UTF-8"));
                }
                None => {}
            }
        }
        if mistakes.is_empty() { Ok(Self { values, raw }) } else { Err(Mistakes(mistakes)) }
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// A variable that is a path, of any bytes.
    pub(crate) fn path(&self, name: &str) -> Option<PathBuf> {
        self.raw.get(name).map(PathBuf::from)
    }

    /// A variable that is a list of folders, as far as they are absolute.
    pub(crate) fn folders(&self, name: &str) -> Vec<PathBuf> {
        let list = self.path(name).map(PathBuf::into_os_string).unwrap_or_default();
        std::env::split_paths(&list).filter(|path| path.is_absolute()).collect()
    }

    /// A variable that is an absolute path.
    pub(crate) fn absolute(&self, name: &str) -> Option<PathBuf> {
        self.path(name).filter(|path| path.is_absolute())
    }
}

/// Puts the environment over the file's tree.
pub(crate) fn overlay(
    mut root: Node,
    env: &Environment,
    mistakes: &mut Vec<Mistake>,
    warnings: &mut Vec<String>,
) -> Node {
    for name in LATER {
        if env.text(name).is_some() {
            warnings.push(format!("{name}: is not used yet"));
        }
    }
    for (name, path) in SHORT {
        if let Some(value) = env.text(name) {
            put(&mut root, path, name, value, mistakes);
        }
    }
    overlay_openai(&mut root, env, mistakes, warnings);
    for (name, value) in
        env.values.range(PREFIX.to_owned()..).take_while(|(name, _)| name.starts_with(PREFIX))
    {
        let path = name.strip_prefix(PREFIX).unwrap_or(name);
        if !path.contains(SEPARATOR) {
            if name != OUBLIETTE_HOME && !OTHERS.contains(&name.as_str()) {
                warnings.push(format!("{name}: is not read; a key is set by `OUBLIETTE_<SECTION>__<KEY>`"));
            }
            continue;
        }
        let segments: Vec<&str> = path.split(SEPARATOR).collect();
        match resolve_path(&root, &segments) {
            Ok((path, shape)) => match parse_value(value, shape) {
                Ok(node) => set(&mut root, &path, node.in_variable(name), mistakes),
                Err(what) => mistakes.push(Mistake::new(format!("{name}: {}", path.join(".")), what)),
            },
            Err(what) => mistakes.push(Mistake::new(name, what)),
        }
    }
    root
}

fn overlay_openai(
    root: &mut Node,
    env: &Environment,
    mistakes: &mut Vec<Mistake>,
    warnings: &mut Vec<String>,
) {
    const OPENAI: [&str; 4] = ["credentials", "providers", "credentials", "openai"];
    let exists = OPENAI.iter().try_fold(&*root, |node, name| node.get(name)).is_some();
    let configures = env.text(OPENAI_API_KEY).is_some() || env.text(OPENAI_BASE_URL).is_some();
    for (variable, key) in
        [(OPENAI_API_KEY, "api_key"), (OPENAI_BASE_URL, "base_url"), (OPENAI_MODEL, "default_model")]
    {
        let Some(value) = env.text(variable) else { continue };
        if exists || configures {
            put(root, &[&OPENAI[..], &[key]].concat(), variable, value, mistakes);
        } else {
            warnings.push(format!("{variable}: has no effect without {OPENAI_API_KEY} or {OPENAI_BASE_URL}"));
        }
    }
}

fn put(root: &mut Node, path: &[&str], variable: &str, value: &str, mistakes: &mut Vec<Mistake>) {
    let path: Vec<String> = path.iter().map(|name| (*name).to_owned()).collect();
    let node = Node { origin: Origin::Variable(variable.to_owned()), value: Value::Text(value.to_owned()) };
    set(root, &path, node, mistakes);
}

fn set(root: &mut Node, path: &[String], node: Node, mistakes: &mut Vec<Mistake>) {
    let before = path.iter().try_fold(&*root, |at, name| at.get(name)).map(|node| node.origin.clone());
    if let (Some(Origin::Variable(before)), Origin::Variable(now)) = (&before, &node.origin)
        && before.starts_with(PREFIX)
        && fold(before) == fold(now)
    {
        mistakes.push(Mistake::new(now, format!("sets the same key as {before}; unset one of them")));
        return;
    }
    let place = match &node.origin {
        Origin::Variable(name) => name.clone(),
        Origin::File { .. } => String::new(),
    };
    if !root.put(path, node) {
        mistakes.push(Mistake::new(
            format!("{place}: {}", path.join(".")),
            "cannot be set: something on its way is not an object",
        ));
    }
}

/// The key that the segments of a variable's name mean.
fn resolve_path(root: &Node, segments: &[&str]) -> Result<(Vec<String>, Shape), String> {
    let (mut path, mut shape, mut node): (Vec<String>, Shape, Option<&Node>) = (Vec::new(), ROOT, Some(root));
    for segment in segments {
        let so_far = if path.is_empty() { String::new() } else { format!("{}.", path.join(".")) };
        let name = match shape {
            Shape::Section(keys) => {
                let key = keys.iter().find(|key| fold(key.name) == fold(segment)).ok_or_else(|| {
                    format!("{so_far}{}: {}", segment.to_lowercase(), unknown(segment, keys))
                })?;
                shape = key.shape;
                key.name.to_owned()
            }
            Shape::Named(each) => {
                shape = *each;
                let known = match node.map(|node| &node.value) {
                    Some(Value::Object(entries)) => entries.iter().find(|e| fold(&e.name) == fold(segment)),
                    _ => None,
                };
                let name = known.map_or_else(|| segment.to_lowercase(), |entry| entry.name.clone());
                if !is_name(&name) {
                    return Err(format!("`{so_far}` needs a name after it"));
                }
                name
            }
            Shape::Value(_) => {
                return Err(format!("{} is one value; give all of it as JSON", path.join(".")));
            }
            // Whatever is under it is without effect too.
            Shape::Later => segment.to_lowercase(),
        };
        node = node.and_then(|node| node.get(&name));
        path.push(name);
    }
    Ok((path, shape))
}

/// The value of a variable: text as it is where text is wanted, else JSON.
fn parse_value(text: &str, shape: Shape) -> Result<Node, String> {
    let plain = Node { origin: Origin::Variable(String::new()), value: Value::Text(text.to_owned()) };
    match shape {
        // A quoted string is JSON, so that what was copied from a file works.
        Shape::Value(
            Kind::Text
            | Kind::Secret
            | Kind::Choice(_)
            | Kind::Url
            | Kind::Address
            | Kind::Filter
            | Kind::Size
            | Kind::Rate,
        ) => match jsonc::parse(text) {
            Ok(node) if matches!(node.value, Value::Text(_) | Value::Null) && !text.trim().is_empty() => {
                Ok(node)
            }
            _ => Ok(plain),
        },
        Shape::Value(Kind::Flag | Kind::Usd | Kind::Whole { .. } | Kind::Cpus | Kind::PerSecond) => {
            Ok(jsonc::parse(text).unwrap_or(plain))
        }
        Shape::Value(
            Kind::Secrets | Kind::Paths | Kind::Words | Kind::Ports | Kind::Variables | Kind::Headers,
        )
        | Shape::Section(_)
        | Shape::Named(_) => jsonc::parse(text)
            .map_err(|error| format!("is not JSON: {} at character {}", error.what, error.column)),
        Shape::Later => Ok(plain),
    }
}
