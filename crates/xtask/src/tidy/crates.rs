//! Which crate may depend on which: the layers, the pure crates, the owners of heavy dependencies.
//!
//! ```text
//! 5  oubliette                                                       oubliette-guest (only ob-core)
//! 4  ob-server
//! 3  ob-engine
//! 2  ob-gate    ob-agent
//! 1  ob-config  ob-telemetry  ob-store  ob-sandbox  ob-component     tools: ob-fuzz, ob-testkit, xtask
//! 0  ob-core
//! ```

use serde::Deserialize;

use super::File;
use super::Finding;

/// The layer of each crate; one may depend on those below it.
const LAYERS: [(&str, u8); 12] = [
    ("ob-core", 0),
    ("ob-config", 1),
    ("ob-telemetry", 1),
    ("ob-store", 1),
    ("ob-sandbox", 1),
    ("ob-component", 1),
    ("ob-gate", 2),
    ("ob-agent", 2),
    ("ob-engine", 3),
    ("ob-server", 4),
    ("oubliette", 5),
    ("oubliette-guest", 5),
];
/// Crates that are never shipped: they may depend on all, and others on them only for their tests.
const TOOLS: [&str; 3] = ["ob-fuzz", "ob-testkit", "xtask"];
/// Crates that do no I/O, and everything that they may depend on.
const PURE: [(&str, &[&str]); 2] = [
    (
        "ob-core",
        &["hex", "jiff", "regex", "schemars", "serde", "serde_json", "sha2", "subtle", "thiserror", "uuid"],
    ),
    (
        "ob-agent",
        &["agent-client-protocol-schema", "base64", "ob-core", "serde", "serde_json", "sha2", "thiserror"],
    ),
];
/// Crates of ours that may depend on nothing else of ours.
const APART: [(&str, &[&str]); 1] = [("oubliette-guest", &["ob-core"])];
/// Dependencies that have one owner.
const OWNED: [(&str, &str); 1] = [("rusqlite", "ob-store")];

/// The feature of `ob-sandbox` that is for tests and benches only.
const WEAKENED: &str = "weakened";

const RULE: &str = "layers";

/// A crate of this workspace.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Crate {
    /// Its name.
    pub name: String,
    /// What it depends on.
    pub dependencies: Vec<Dependency>,
}

/// What a crate depends on.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Dependency {
    /// The other crate.
    pub name: String,
    /// `dev` or `build`, or nothing for an ordinary one.
    pub kind: Option<String>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Crate>,
}

/// Reads the output of `cargo metadata`.
///
/// # Errors
/// If it is not of the form that is known.
pub fn read(metadata: &str) -> anyhow::Result<Vec<Crate>> {
    let Metadata { packages } = serde_json::from_str(metadata)?;
    Ok(packages)
}

/// Checks who depends on whom.
pub fn check(crates: &[Crate], errors: &mut Vec<Finding>) {
    for one in crates {
        let mut say = |text: String| {
            errors.push(Finding {
                path: format!("crates/{}/Cargo.toml", one.name),
                line: 1,
                rule: RULE,
                text,
            });
        };
        if layer(&one.name).is_none() && !is_tool(&one.name) {
            say(format!(
                "`{}` has no layer; give it one in `LAYERS` of xtask's tidy, and in ARCHITECTURE.md",
                one.name
            ));
        }
        for dependency in &one.dependencies {
            if let Some(text) = broken(&one.name, dependency, crates) {
                say(text);
            }
        }
    }
}

/// The rule that this dependency breaks.
fn broken(from: &str, dependency: &Dependency, crates: &[Crate]) -> Option<String> {
    let to = dependency.name.as_str();
    let is_dev = dependency.kind.as_deref() == Some("dev");
    let is_ours = to != from && crates.iter().any(|one| one.name == to);
    if let Some((_, owner)) = OWNED.iter().find(|(name, owner)| *name == to && *owner != from) {
        return Some(format!(
            "`{from}` depends on `{to}`, which only `{owner}` may; ask `{owner}` for what you need"
        ));
    }
    if let Some((_, allowed)) = PURE.iter().find(|(name, _)| *name == from)
        && !is_dev
        && !allowed.contains(&to)
    {
        return Some(format!("`{from}` does no I/O, and `{to}` is not on the list of what it may depend on"));
    }
    if is_tool(to) && !is_dev && !is_tool(from) {
        return Some(format!("`{from}` ships, and `{to}` is for tests and chores; make it a dev-dependency"));
    }
    if !is_ours || is_tool(from) || is_tool(to) {
        return None;
    }
    if let Some((_, allowed)) = APART.iter().find(|(name, _)| *name == from)
        && !allowed.contains(&to)
    {
        return Some(format!("`{from}` stands apart and may not depend on `{to}`"));
    }
    match (layer(from), layer(to)) {
        (Some(above), Some(below)) if below >= above => Some(format!(
            "`{from}` of layer {above} depends on `{to}` of layer {below}; an arrow points to a lower layer only"
        )),
        _ => None,
    }
}

/// Checks that each crate takes the lints of the workspace.
pub fn check_manifests(files: &[File], errors: &mut Vec<Finding>) {
    for file in files.iter().filter(|file| is_manifest(&file.path)) {
        let mut section = "";
        let inherits = file.text.lines().map(str::trim).any(|line| {
            if line.starts_with('[') {
                section = line;
            }
            let key: String = line.split_whitespace().collect();
            key == "lints.workspace=true" || section == "[lints]" && key == "workspace=true"
        });
        if let Some(line) = weakened(&file.text) {
            let text = "only tests and benches may have sandboxes that lack a protection; move it to `[dev-dependencies]`";
            errors.push(Finding { path: file.path.clone(), line, rule: RULE, text: text.to_owned() });
        }
        if !inherits {
            let text =
                "the lints of the workspace are not taken; add `[lints]` with `workspace = true`".to_owned();
            errors.push(Finding { path: file.path.clone(), line: 1, rule: "lints", text });
        }
    }
}

/// The line on which a manifest makes what ships depend on the feature of `ob-sandbox` that leaves protections out.
fn weakened(text: &str) -> Option<usize> {
    let mut section = "";
    for (number, line) in (1..).zip(text.lines().map(str::trim)) {
        if line.starts_with('[') {
            section = line;
        }
        let is_for_tests = section.starts_with("[dev-dependencies");
        let is_declared = section == "[features]" && line.starts_with("weakened = []");
        if line.contains(WEAKENED) && !line.starts_with('#') && !is_for_tests && !is_declared {
            return Some(number);
        }
    }
    None
}

fn is_manifest(path: &str) -> bool {
    matches!(path.split('/').collect::<Vec<_>>().as_slice(), ["crates", _, "Cargo.toml"])
}

fn layer(name: &str) -> Option<u8> {
    LAYERS.iter().find(|(known, _)| *known == name).map(|(_, layer)| *layer)
}

fn is_tool(name: &str) -> bool {
    TOOLS.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A workspace in which `from` depends on `to`.
    fn findings(from: &str, to: &str, kind: Option<&str>) -> usize {
        let dependency = Dependency { name: to.to_owned(), kind: kind.map(str::to_owned) };
        let mut crates: Vec<Crate> = LAYERS
            .iter()
            .map(|(name, _)| *name)
            .chain(TOOLS)
            .map(|name| Crate { name: name.to_owned(), dependencies: Vec::new() })
            .collect();
        match crates.iter_mut().find(|one| one.name == from) {
            Some(one) => one.dependencies.push(dependency),
            None => crates.push(Crate { name: from.to_owned(), dependencies: vec![dependency] }),
        }
        let mut errors = Vec::new();
        check(&crates, &mut errors);
        errors.len()
    }

    #[test]
    fn the_table_of_arrows() {
        let dev = Some("dev");
        let table = [
            ("down", "ob-engine", "ob-gate", None, 0),
            ("far down", "oubliette", "ob-core", None, 0),
            ("up", "ob-core", "ob-store", None, 1),
            ("up, built in", "ob-sandbox", "ob-engine", Some("build"), 1),
            ("up, for tests", "ob-store", "ob-engine", dev, 1),
            ("sideways", "ob-gate", "ob-agent", None, 1),
            ("sideways, for tests", "ob-config", "ob-store", dev, 1),
            ("itself, for tests", "ob-store", "ob-store", dev, 0),
            ("a crate without a layer", "ob-new", "ob-core", None, 1),
            ("the guest and the core", "oubliette-guest", "ob-core", None, 0),
            ("the guest and more of us", "oubliette-guest", "ob-config", None, 1),
            ("the guest and the testkit", "oubliette-guest", "ob-testkit", dev, 0),
            ("a test and the testkit", "ob-core", "ob-testkit", dev, 0),
            ("a product and the testkit", "ob-engine", "ob-testkit", None, 1),
            ("a product and xtask", "oubliette", "xtask", Some("build"), 1),
            ("a tool and all", "ob-testkit", "ob-server", None, 0),
            ("a pure crate and what it may", "ob-core", "serde", None, 0),
            ("a pure crate and a runtime", "ob-core", "tokio", None, 1),
            ("the driver and a runtime", "ob-agent", "tokio", None, 1),
            ("the driver and a lower layer that does I/O", "ob-agent", "ob-store", None, 1),
            ("a pure crate's tests", "ob-core", "proptest", dev, 0),
            ("the owner of SQL", "ob-store", "rusqlite", None, 0),
            ("SQL elsewhere", "ob-engine", "rusqlite", None, 1),
            ("SQL in tests elsewhere", "ob-engine", "rusqlite", dev, 1),
        ];
        for (name, from, to, kind, expected) in table {
            assert_eq!(findings(from, to, kind), expected, "{name}");
        }
    }

    #[test]
    fn metadata_of_cargo_is_understood() {
        let metadata = r#"{"packages":[{"name":"a","version":"1","dependencies":[{"name":"b","kind":"dev","req":"*"}]}]}"#;
        let dependency = Dependency { name: "b".to_owned(), kind: Some("dev".to_owned()) };
        let expected = Crate { name: "a".to_owned(), dependencies: vec![dependency] };
        assert_eq!(read(metadata).expect("it is read"), [expected]);
    }

    #[test]
    fn nothing_that_ships_has_sandboxes_without_a_protection() {
        let table = [
            ("[features]\nweakened = []\n", None),
            ("[features]\ndefault = [\"weakened\"]\n", Some(2)),
            ("[dev-dependencies]\nob-sandbox = { features = [\"weakened\"] }\n", None),
            ("[dependencies]\nob-sandbox = { features = [\"weakened\"] }\n", Some(2)),
            ("[dependencies.ob-sandbox]\n\nfeatures = [\"weakened\"]\n", Some(3)),
        ];
        for (text, expected) in table {
            assert_eq!(weakened(text), expected, "{text}");
        }
    }

    #[test]
    fn a_crate_takes_the_lints_of_the_workspace() {
        let table = [
            ("[lints]\nworkspace = true\n", 0),
            ("[package]\nlints.workspace = true\n", 0),
            ("[package]\nname = \"a\"\n", 1),
            ("[lints]\n[dependencies]\nworkspace = true\n", 1),
            ("[lints]\nworkspace = false\n", 1),
        ];
        for (text, expected) in table {
            let file = File { path: "crates/a/Cargo.toml".to_owned(), text: text.to_owned() };
            let mut errors = Vec::new();
            check_manifests(&[file], &mut errors);
            assert_eq!(errors.len(), expected, "{text}");
        }
    }
}
