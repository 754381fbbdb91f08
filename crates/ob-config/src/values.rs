//! Every value as it is in effect, with where it came from, fit to be shown; and what differs between two of them.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;

use ob_core::redact::MASK;
use ob_core::redact::Redactor;
use secrecy::ExposeSecret as _;
use serde_json::Value;
use sha2::Digest as _;

use crate::check::Checked;
use crate::check::Findings;
use crate::check::check;
use crate::jsonc;
use crate::reference;
use crate::schema::new_name;
use crate::settings::is_sensitive_name;
use crate::sizes::show_size;
use crate::tree::Node;

/// What a running server takes without a restart. A key that is not here needs one.
const LIVE: [&str; 11] = [
    "agents.",
    "cleanup.",
    "credentials.providers.",
    "defaults.agent.autonomy",
    "defaults.agent.model",
    "defaults.agent.reasoning",
    "defaults.limits.",
    "log.level",
    "models.",
    "rate_limit.",
    "sandbox.",
];

/// And of those, what it does not: these choose the backend, which is made once.
const RESTART: [&str; 2] = ["sandbox.backend", "sandbox.bubblewrap"];

/// Where a value comes from that nobody set.
const DEFAULT: &str = "default";

/// A value in effect.
#[derive(Clone, PartialEq, Eq)]
pub struct ConfigValue {
    /// The path of its key, with dots, under its present name.
    pub path: String,
    /// The value; a secret is `"[redacted]"`.
    pub value: Value,
    /// `file:line:column`, a variable's name, or `default`.
    pub origin: String,
    /// Differs if the value differs, also for a secret. Not shown: a short secret is found by trying.
    fingerprint: [u8; 32],
}

/// A difference between two configurations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The path of the key.
    pub path: String,
    /// What it was; nothing if it was not set and has no default.
    pub from: Option<Value>,
    /// What it is.
    pub to: Option<Value>,
    /// Where what it is comes from; nothing if it is not set any more.
    pub origin: Option<String>,
    /// True if a running server does not take it.
    pub needs_restart: bool,
}

// === impl ConfigValue ===

impl fmt::Debug for ConfigValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {} ({})", self.path, self.value, self.origin)
    }
}

/// True if a running server takes another value of this key. A name that the operator chose may be `<name>`.
pub(crate) fn is_live(path: &str) -> bool {
    let path = new_name(path);
    let starts = |known: &str| path == known || (known.ends_with('.') && path.starts_with(known));
    LIVE.iter().any(|known| starts(known)) && !RESTART.contains(&path)
}

/// What is in effect: what was set, and the defaults of the rest.
pub(crate) fn in_effect(findings: &Findings, redactor: &Redactor) -> Vec<ConfigValue> {
    let mut values = BTreeMap::new();
    for (path, found) in &defaults().values {
        let Some((value, fingerprint)) = shown(&found.value) else { continue };
        let path = path.join(".");
        values.insert(path.clone(), ConfigValue { path, value, origin: DEFAULT.to_owned(), fingerprint });
    }
    let from_environment: BTreeSet<String> = findings
        .values
        .iter()
        .filter(|(_, found)| !found.in_file)
        .map(|(path, _)| new_name(&path.join(".")).to_owned())
        .collect();
    for (path, found) in &findings.values {
        let Some((mut value, fingerprint)) = shown(&found.value) else { continue };
        redactor.redact_json(&mut value);
        let said = path.join(".");
        let path = new_name(&said).to_owned();
        // The environment goes over the file, by whichever name.
        if found.in_file && from_environment.contains(&path) {
            continue;
        }
        let origin = if path == said { found.place.clone() } else { format!("{} ({said})", found.place) };
        values.insert(path.clone(), ConfigValue { path, value, origin, fingerprint });
    }
    values.into_values().collect()
}

/// The defaults, read as if they were written in a file.
fn defaults() -> Findings {
    let mut root = Node::empty();
    for key in reference::reference() {
        let path: Vec<String> = key.path.split('.').map(str::to_owned).collect();
        // A test sees to it that each default is a value of its key.
        if let Some(node) = key.default.and_then(|default| jsonc::parse(default).ok()) {
            root.put(&path, node);
        }
    }
    check(&root, DEFAULT)
}

/// What is in effect if nothing is set.
pub fn default_values() -> Vec<ConfigValue> {
    in_effect(&Findings::default(), &Redactor::default())
}

/// What changed from one configuration to another, by path.
pub fn changes(from: &[ConfigValue], to: &[ConfigValue]) -> Vec<Change> {
    let by_path = |values: &'_ [ConfigValue]| {
        values.iter().map(|value| (value.path.clone(), value.clone())).collect::<BTreeMap<_, _>>()
    };
    let (from, to) = (by_path(from), by_path(to));
    let mut paths: Vec<&String> = from.keys().chain(to.keys()).collect();
    paths.sort();
    paths.dedup();
    paths
        .into_iter()
        .filter(|path| from.get(*path).map(|v| v.fingerprint) != to.get(*path).map(|v| v.fingerprint))
        .map(|path| Change {
            path: path.clone(),
            from: from.get(path).map(|value| value.value.clone()),
            to: to.get(path).map(|value| value.value.clone()),
            origin: to.get(path).map(|value| value.origin.clone()),
            needs_restart: !is_live(path),
        })
        .collect()
}

/// What a server runs with after it took what it can take of `to`.
pub fn after_reload(from: &[ConfigValue], to: &[ConfigValue]) -> Vec<ConfigValue> {
    let kept = from.iter().filter(|value| !is_live(&value.path));
    let mut values: Vec<_> = kept.chain(to.iter().filter(|value| is_live(&value.path))).cloned().collect();
    values.sort_by(|a, b| a.path.cmp(&b.path));
    values
}

/// A value as it may be shown, and what tells it from others.
fn shown(value: &Checked) -> Option<(Value, [u8; 32])> {
    let plain = |value: Value| {
        let fingerprint = fingerprint(&value.to_string());
        (value, fingerprint)
    };
    Some(match value {
        Checked::Name => return None,
        Checked::Secret(secret) => (MASK.into(), fingerprint(secret.expose_secret())),
        Checked::Secrets(secrets) => {
            let all: Vec<&str> = secrets.iter().map(|secret| secret.expose_secret()).collect();
            (all.iter().map(|_| MASK).collect(), fingerprint(&format!("{all:?}")))
        }
        Checked::Text(text) => plain(text.clone().into()),
        Checked::Flag(flag) => plain((*flag).into()),
        Checked::Usd(usd) => plain(number(&usd.to_string())),
        Checked::Whole(number) => plain((*number).into()),
        Checked::Millis(millis) => plain(number(&format!("{}.{:03}", millis / 1000, millis % 1000))),
        Checked::Bytes(bytes) => plain(show_size(*bytes).replace(' ', "").into()),
        Checked::List(list) => plain(list.clone().into()),
        Checked::Ports(ports) => plain(ports.clone().into()),
        Checked::Texts(texts) => {
            let hidden = |(name, text): (&String, &String)| {
                let text = if is_sensitive_name(name) { MASK } else { text };
                (name.clone(), Value::from(text))
            };
            (Value::Object(texts.iter().map(hidden).collect()), fingerprint(&format!("{texts:?}")))
        }
    })
}

/// Digits as the shortest number that they are.
fn number(digits: &str) -> Value {
    let short =
        if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { digits };
    serde_json::from_str(short.trim_start_matches('$')).unwrap_or_else(|_| digits.into())
}

fn fingerprint(text: &str) -> [u8; 32] {
    sha2::Sha256::digest(text.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LoadOptions;

    fn values(file: &str) -> Vec<ConfigValue> {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("oubliette.jsonc"), file).expect("a file");
        let options =
            LoadOptions { dir: Some(dir.path().into()), cwd: dir.path().into(), ..LoadOptions::default() };
        crate::load(&options).expect(file).values
    }

    fn changed(from: &str, to: &str) -> Vec<(String, bool)> {
        changes(&values(from), &values(to)).into_iter().map(|c| (c.path, c.needs_restart)).collect()
    }

    #[test]
    fn what_means_the_same_is_no_change() {
        assert_eq!(changed("{}", r#"{"sandbox": {"memory": "4096M", "cpus": 4.0, "lease_s": 900}}"#), []);
        assert_eq!(changed(r#"{"runtime": {"cpus": 2}}"#, r#"{"sandbox": {"cpus": "2"}}"#), []);
        let with = |key: &str| {
            format!(r#"{{"models": {{"models": {{"m": {{"baseUrl": "http://h/v1", "apiKey": "{key}"}}}}}}}}"#)
        };
        assert_eq!(changed(&with("k-1"), &with("k-1")), []);
        assert_eq!(changed(&with("k-1"), &with("k-2")), [("models.models.m.apiKey".to_owned(), false)]);
        let shown = format!("{:?}", values(&with("k-1")));
        assert!(!shown.contains("k-1") && shown.contains("[redacted]"), "{shown}");
    }

    #[test]
    fn a_server_takes_what_it_can_and_goes_on_needing_a_restart_for_the_rest() {
        let (before, after) = (
            values("{}"),
            values(r#"{"server": {"address": ":1"}, "log": {"level": "debug", "format": "json"}}"#),
        );
        let needs = |changes: Vec<Change>| -> Vec<(String, bool)> {
            changes.into_iter().map(|change| (change.path, change.needs_restart)).collect()
        };
        let expected = [("log.format", true), ("log.level", false), ("server.address", true)];
        assert_eq!(
            needs(changes(&before, &after)),
            expected.map(|(path, restart)| (path.to_owned(), restart))
        );
        let now = after_reload(&before, &after);
        let pending = [("log.format", true), ("server.address", true)];
        assert_eq!(needs(changes(&now, &after)), pending.map(|(path, restart)| (path.to_owned(), restart)));
        assert_eq!(needs(changes(&after_reload(&now, &before), &before)), [], "and back again");
    }

    #[test]
    fn values_of_names_that_sound_secret_are_not_shown() {
        let file = r#"{"sandbox": {"env": {"MY_TOKEN": "t0psecret", "PLAIN": "shown"}},
            "models": {"models": {"m": {"baseUrl": "http://h/v1", "extraHeaders": {"X-Api-Key": "t0psecret", "X-Team": "a"}}}}}"#;
        let text = format!("{:?}", values(file));
        assert!(!text.contains("t0psecret") && text.contains("shown") && text.contains("X-Team"), "{text}");
    }
}
