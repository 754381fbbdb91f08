//! Folders of this machine that sandboxes may read: those that the operator names, and Rust's toolchains.
//!
//! **Invariant:** no folder is shown that holds our own files, the person's whole folder, or cargo's credentials
//! (`no_secret_inside`). Paths are compared after links are resolved.

use std::path::Path;
use std::path::PathBuf;

use crate::env;
use crate::env::Environment;
use crate::home::resolve_links;

/// The system's own folders: the sandbox's policy decides what of them is inside.
const SYSTEM: [&str; 9] =
    ["/proc", "/sys", "/dev", "/run", "/etc", "/boot", "/tmp", "/var/run", "/workspace"];

/// Folders in which people and programs keep keys, in a person's own folder.
const PRIVATE: [&str; 9] =
    [".ssh", ".gnupg", ".aws", ".kube", ".docker", ".netrc", ".oubliette", ".config/gh", ".git-credentials"];

/// Rust's toolchains of the person, as far as there are any.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Toolchains {
    pub(crate) read_only: Vec<PathBuf>,
    pub(crate) path: Vec<PathBuf>,
    /// Set for everything inside, unless the operator sets them.
    pub(crate) env: Vec<(&'static str, String)>,
}

/// Where cargo may write inside: it is pointed away from the person's own folder, which is not there.
const CARGO_HOME_INSIDE: &str = "/home/agent/.cargo";

/// Looks for Rust's toolchains. Never shows cargo's own folder: its `credentials.toml` holds keys.
pub(crate) fn toolchains(env: &Environment, home: &Path) -> Toolchains {
    let person = env.absolute(env::HOME);
    let folder = |variable: &str, name: &str| {
        env.absolute(variable).or_else(|| person.as_ref().map(|person| person.join(name)))
    };
    let mut found = Toolchains::default();
    if let Some(rustup) = folder(env::RUSTUP_HOME, ".rustup")
        && rustup.join("toolchains").is_dir()
        && let Some(text) = rustup.to_str()
        && why_not(&rustup, home, person.as_deref()).is_none()
    {
        found.env.push((env::RUSTUP_HOME, text.to_owned()));
        found.env.push((env::CARGO_HOME, CARGO_HOME_INSIDE.to_owned()));
        found.read_only.push(rustup);
    }
    if let Some(cargo) = folder(env::CARGO_HOME, ".cargo") {
        let bin = cargo.join("bin");
        let has_cargo = bin.join("cargo").exists() || bin.join("rustc").exists();
        let is_inside = resolve_links(&cargo).starts_with(resolve_links(&bin));
        if has_cargo && !is_inside && why_not(&bin, home, person.as_deref()).is_none() {
            found.path.push(bin.clone());
            found.read_only.push(bin);
        }
    }
    found
}

/// A folder that the operator named, absolute; or why it cannot be shown.
pub(crate) fn named(text: &str, home: &Path, env: &Environment) -> Result<PathBuf, String> {
    let person = env.absolute(env::HOME);
    let path = match (text.strip_prefix("~/"), &person) {
        (Some(rest), Some(person)) => person.join(rest),
        (Some(_), None) => return Err(format!("`{text}` needs HOME, which is not set")),
        (None, _) => home.join(text),
    };
    if !path.exists() {
        return Err(format!("{} does not exist", path.display()));
    }
    match why_not(&path, home, person.as_deref()) {
        Some(why) => Err(format!("{} cannot be shown to sandboxes: {why}", path.display())),
        None => Ok(path),
    }
}

/// Why a path cannot be shown, if so.
pub(crate) fn why_not(path: &Path, home: &Path, person: Option<&Path>) -> Option<&'static str> {
    let real = resolve_links(path);
    let home = resolve_links(home);
    let overlaps = |other: &Path| real.starts_with(other) || other.starts_with(&real);
    if real == Path::new("/") {
        return Some("it is everything");
    }
    if overlaps(&home) {
        return Some("it holds files of this server");
    }
    if SYSTEM.iter().any(|system| real.starts_with(system)) && !is_scratch(&real) {
        return Some("the sandbox has its own");
    }
    let person = person.map(resolve_links)?;
    if person.starts_with(&real) {
        return Some("it is the whole of a person's folder");
    }
    if PRIVATE.iter().any(|name| overlaps(&person.join(name))) {
        return Some("people keep keys there");
    }
    let cargo = person.join(".cargo");
    if cargo.starts_with(&real) || real.starts_with(cargo.join("credentials.toml")) {
        return Some("cargo keeps keys there");
    }
    None
}

/// A folder under `/tmp` is scratch of this machine and may be shown; `/tmp` itself may not.
fn is_scratch(real: &Path) -> bool {
    real.starts_with("/tmp") && real != Path::new("/tmp")
}
