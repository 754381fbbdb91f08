//! Checks a tree against the schema: every key known, every value of its kind and in its bounds. What each kind allows
//! is said here, once.

use std::collections::BTreeMap;

use ob_core::ledger::MicroUsd;
use secrecy::SecretString;

use crate::Mistake;
use crate::address;
use crate::schema::Key;
use crate::schema::Kind;
use crate::schema::ROOT;
use crate::schema::Shape;
use crate::schema::nearest;
use crate::settings::is_sensitive_name;
use crate::sizes::parse_size;
use crate::sizes::parse_thousandths;
use crate::sizes::show_size;
use crate::tree::Entry;
use crate::tree::Node;
use crate::tree::Origin;
use crate::tree::Value;

/// The least memory in which an agent and a test run can live.
const LEAST_MEMORY: u64 = 64 << 20;
/// The least output a second with which an agent gets anywhere.
const LEAST_RATE: u64 = 16 << 10;

/// More characters than this of a wrong value are not repeated.
const SHOWN: usize = 40;

/// Names that an operator may choose: they stand in paths, in metrics and before a `/`.
const NAMES: &str = "letters, digits, `.`, `_` and `-`, at most 64";

/// A value that passed.
pub(crate) enum Checked {
    /// The place of a name that the operator chose; it may have no values.
    Name,
    Text(String),
    Secret(SecretString),
    Secrets(Vec<SecretString>),
    Flag(bool),
    Usd(MicroUsd),
    Whole(u32),
    Millis(u32),
    Bytes(u64),
    List(Vec<String>),
    Ports(Vec<u16>),
    Texts(BTreeMap<String, String>),
}

/// A value that passed, and where it stood.
pub(crate) struct Found {
    pub(crate) value: Checked,
    pub(crate) place: String,
    pub(crate) in_file: bool,
}

/// What a tree holds and what is wrong with it.
#[derive(Default)]
pub(crate) struct Findings {
    /// By key path.
    pub(crate) values: BTreeMap<Vec<String>, Found>,
    pub(crate) mistakes: Vec<Mistake>,
    pub(crate) warnings: Vec<String>,
    /// True if the file, and not only the environment, holds a key.
    pub(crate) holds_file_secret: bool,
}

/// Checks a tree; `file` is the file's name for messages.
pub(crate) fn check(root: &Node, file: &str) -> Findings {
    let mut checker = Checker { file, path: Vec::new(), findings: Findings::default() };
    checker.walk(root, ROOT);
    checker.findings
}

struct Checker<'a> {
    file: &'a str,
    path: Vec<String>,
    findings: Findings,
}

// === impl Checker ===

impl Checker<'_> {
    fn walk(&mut self, node: &Node, shape: Shape) {
        match (shape, &node.value) {
            (Shape::Later, _) => {
                let place = self.place(&node.origin);
                self.findings.warnings.push(format!("{place}: is not used yet"));
            }
            (_, Value::Null) => {}
            (Shape::Section(keys), Value::Object(entries)) => self.section(keys, entries),
            (Shape::Named(each), Value::Object(entries)) => self.named(*each, entries),
            (Shape::Value(kind), value) => match read(kind, value) {
                Ok(checked) => {
                    self.note_secret(&checked, &node.origin);
                    let found = Found {
                        value: checked,
                        place: node.origin.place(self.file),
                        in_file: node.origin.is_file(),
                    };
                    self.findings.values.insert(self.path.clone(), found);
                }
                Err(what) => self.mistake(&node.origin, what),
            },
            (Shape::Section(_) | Shape::Named(_), value) => {
                self.mistake(&node.origin, format!("expected {}, found {}", shape.wants(), value.kind()));
            }
        }
    }

    fn section(&mut self, keys: &'static [Key], entries: &[Entry]) {
        for (at, entry) in entries.iter().enumerate() {
            self.path.push(entry.name.clone());
            if self.is_first(entries, at) {
                match keys.iter().find(|key| key.name == entry.name) {
                    Some(key) => self.walk(&entry.node, key.shape),
                    None => self.mistake(&entry.origin, unknown(&entry.name, keys)),
                }
            }
            self.path.pop();
        }
    }

    fn named(&mut self, each: Shape, entries: &[Entry]) {
        for (at, entry) in entries.iter().enumerate() {
            self.path.push(entry.name.clone());
            if !is_name(&entry.name) {
                self.mistake(&entry.origin, format!("this is no name; allowed: {NAMES}"));
            } else if self.is_first(entries, at) {
                let found = Found {
                    value: Checked::Name,
                    place: entry.origin.place(self.file),
                    in_file: entry.origin.is_file(),
                };
                self.findings.values.insert(self.path.clone(), found);
                self.walk(&entry.node, each);
            }
            self.path.pop();
        }
    }

    /// False, and a mistake, if an entry before has the same name.
    fn is_first(&mut self, entries: &[Entry], at: usize) -> bool {
        let first = entries.iter().position(|entry| entry.name == entries[at].name).unwrap_or(at);
        if first < at {
            let what = format!("given twice, first at {}", entries[first].origin.place(self.file));
            self.mistake(&entries[at].origin, what);
        }
        first == at
    }

    fn note_secret(&mut self, checked: &Checked, origin: &Origin) {
        let secret = match checked {
            Checked::Secret(_) | Checked::Secrets(_) => true,
            Checked::Texts(texts) => texts.keys().any(|name| is_sensitive_name(name)),
            _ => false,
        };
        self.findings.holds_file_secret |= secret && origin.is_file();
    }

    fn place(&self, origin: &Origin) -> String {
        let place = origin.place(self.file);
        if self.path.is_empty() { place } else { format!("{place}: {}", self.path.join(".")) }
    }

    fn mistake(&mut self, origin: &Origin, what: String) {
        let place = self.place(origin);
        self.findings.mistakes.push(Mistake { place, what });
    }
}

/// The text for a name that no key has.
pub(crate) fn unknown(name: &str, keys: &[Key]) -> String {
    let known: Vec<&str> = keys.iter().map(|key| key.name).collect();
    match nearest(name, known.iter().copied()) {
        Some(meant) => format!("unknown key; did you mean `{meant}`?"),
        None => format!("unknown key; allowed: {}", known.join(", ")),
    }
}

/// True if an operator may choose this name.
pub(crate) fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

/// Reads a value of a kind, or says what is wrong and what is allowed.
fn read(kind: Kind, value: &Value) -> Result<Checked, String> {
    let expected = |what: &str| Err(format!("expected {what}, found {}", value.kind()));
    match (kind, value) {
        (Kind::Text, Value::Text(text)) => plain(text).map(Checked::Text),
        (Kind::Secret, Value::Text(text)) => secret(text).map(Checked::Secret),
        (Kind::Secrets, Value::List(items)) => secrets(items),
        (Kind::Choice(allowed), Value::Text(text)) => choice(text, allowed),
        (Kind::Flag, Value::Flag(flag)) => Ok(Checked::Flag(*flag)),
        (Kind::Flag, Value::Text(text)) => match text.to_ascii_lowercase().as_str() {
            "true" => Ok(Checked::Flag(true)),
            "false" => Ok(Checked::Flag(false)),
            _ => Err(format!("{} is not true or false", show(text))),
        },
        (Kind::Usd, Value::Number(text) | Value::Text(text)) => text
            .trim()
            .parse::<f64>()
            .ok()
            .and_then(MicroUsd::from_usd)
            .map(Checked::Usd)
            .ok_or_else(|| format!("{} is no amount of US dollars; allowed: 0 to 1000000000", show(text))),
        (Kind::Whole { least, most }, Value::Number(text) | Value::Text(text)) => text
            .trim()
            .parse::<u32>()
            .ok()
            .filter(|number| (least..=most).contains(number))
            .map(Checked::Whole)
            .ok_or_else(|| format!("{} is not a whole number from {least} to {most}", show(text))),
        (Kind::Cpus, Value::Number(text) | Value::Text(text)) => parse_thousandths(text)
            .filter(|millis| (10..=1_024_000).contains(millis))
            .map(Checked::Millis)
            .ok_or_else(|| format!("{} is no number of processors; allowed: 0.01 to 1024", show(text))),
        (Kind::PerSecond, Value::Number(text) | Value::Text(text)) => parse_thousandths(text)
            .filter(|millis| (1..=1_000_000_000).contains(millis))
            .map(Checked::Millis)
            .ok_or_else(|| format!("{} is no number in a second; allowed: 0.001 to 1000000", show(text))),
        (Kind::Size | Kind::Rate, Value::Number(text) | Value::Text(text)) => {
            let bytes = parse_size(text).ok_or_else(|| {
                format!("{} is no size; allowed: bytes, or a number with K, M, G or T, like `4G`", show(text))
            })?;
            let least = if kind == Kind::Rate { LEAST_RATE } else { LEAST_MEMORY };
            if bytes < least {
                return Err(format!("{} is under the least of {}", show(text), show_size(least)));
            }
            Ok(Checked::Bytes(bytes))
        }
        (Kind::Paths, Value::List(items)) => paths(items),
        (Kind::Words, Value::List(items)) => words(items),
        (Kind::Ports, Value::List(items)) => ports(items),
        (Kind::Variables, Value::Object(entries)) => texts(entries, "variable", is_variable),
        (Kind::Headers, Value::Object(entries)) => texts(entries, "header", is_header),
        (Kind::Url, Value::Text(text)) => url(text),
        (Kind::Address, Value::Text(text)) => address::parse(text).map(|_| Checked::Text(text.clone())),
        (Kind::Filter, Value::Text(text)) => filter(text),
        (Kind::Flag, _) => expected("true or false"),
        (Kind::Usd | Kind::Whole { .. } | Kind::Cpus | Kind::PerSecond, _) => expected("a number"),
        (Kind::Size | Kind::Rate, _) => expected("a size like `4G`"),
        (Kind::Paths, _) => expected("a list of folders"),
        (Kind::Words, _) => expected("a list of texts, the program first"),
        (Kind::Secrets, _) => expected("a list of keys"),
        (Kind::Ports, _) => expected("a list of ports"),
        (Kind::Variables | Kind::Headers, _) => expected("an object of names and strings"),
        (Kind::Text | Kind::Secret | Kind::Choice(_) | Kind::Url | Kind::Address | Kind::Filter, _) => {
            expected("a string")
        }
    }
}

fn plain(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("is empty; leave the key out if there is nothing to say".to_owned());
    }
    if text.chars().any(char::is_control) {
        return Err("holds a control character".to_owned());
    }
    Ok(text.to_owned())
}

/// A key goes into a header, so it must be fit for one. It is never shown.
fn secret(text: &str) -> Result<SecretString, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("is empty; leave the key out if none is needed".to_owned());
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("holds a space or a character that a key cannot have".to_owned());
    }
    Ok(SecretString::from(text))
}

fn secrets(items: &[Node]) -> Result<Checked, String> {
    items
        .iter()
        .map(|item| match &item.value {
            Value::Text(text) => secret(text).map_err(|what| format!("a key in it {what}")),
            other => Err(format!("expected a list of keys, found {} in it", other.kind())),
        })
        .collect::<Result<_, _>>()
        .map(Checked::Secrets)
}

fn choice(text: &str, allowed: &'static [&'static str]) -> Result<Checked, String> {
    match allowed.iter().find(|word| word.eq_ignore_ascii_case(text)) {
        Some(word) => Ok(Checked::Text((*word).to_owned())),
        None => Err(format!("{} is not available; allowed: {}", show(text), quoted(allowed))),
    }
}

fn paths(items: &[Node]) -> Result<Checked, String> {
    items
        .iter()
        .map(|item| match &item.value {
            Value::Text(text) if text.contains('\0') => Err("a path holds a NUL".to_owned()),
            Value::Text(text) if text.is_empty() => Err("a path is empty".to_owned()),
            Value::Text(text) => Ok(text.clone()),
            other => Err(format!("expected a list of folders, found {} in it", other.kind())),
        })
        .collect::<Result<_, _>>()
        .map(Checked::List)
}

fn words(items: &[Node]) -> Result<Checked, String> {
    let words: Vec<String> = items
        .iter()
        .map(|item| match &item.value {
            Value::Text(text) if text.contains('\0') => Err("a text in it holds a NUL".to_owned()),
            Value::Text(text) => Ok(text.clone()),
            other => Err(format!("expected a list of texts, found {} in it", other.kind())),
        })
        .collect::<Result<_, _>>()?;
    match words.first() {
        Some(program) if !program.trim().is_empty() => Ok(Checked::List(words)),
        _ => Err("names no program; the first text is the program".to_owned()),
    }
}

fn ports(items: &[Node]) -> Result<Checked, String> {
    items
        .iter()
        .map(|item| match &item.value {
            Value::Number(text) => text
                .parse::<u16>()
                .ok()
                .filter(|port| *port > 0)
                .ok_or_else(|| format!("{} is no port; allowed: 1 to 65535", show(text))),
            other => Err(format!("expected a list of ports, found {} in it", other.kind())),
        })
        .collect::<Result<_, _>>()
        .map(Checked::Ports)
}

fn texts(entries: &[Entry], what: &str, is_valid: fn(&str, &str) -> bool) -> Result<Checked, String> {
    let mut texts = BTreeMap::new();
    for entry in entries {
        let name = show(&entry.name);
        let Value::Text(text) = &entry.node.value else {
            return Err(format!("the {what} {name} must be a string, and is {}", entry.node.value.kind()));
        };
        if !is_valid(&entry.name, text) {
            return Err(format!("the {what} {name} has a name or a value that a {what} cannot have"));
        }
        if texts.insert(entry.name.clone(), text.clone()).is_some() {
            return Err(format!("the {what} {name} is given twice"));
        }
    }
    Ok(Checked::Texts(texts))
}

fn is_variable(name: &str, value: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && !value.contains('\0')
}

fn is_header(name: &str, value: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
        && value.bytes().all(|byte| byte == b'\t' || (b' '..=b'~').contains(&byte))
}

/// A base URL; it is not shown if it holds a password.
fn url(text: &str) -> Result<Checked, String> {
    const ALLOWED: &str =
        "allowed: `http://` or `https://`, a host, and a path, like `https://api.openai.com/v1`";
    let lower = text.to_ascii_lowercase();
    let rest = lower.strip_prefix("https://").or_else(|| lower.strip_prefix("http://"));
    let authority = rest.map(|rest| rest.split('/').next().unwrap_or_default());
    match authority {
        Some(authority) if authority.contains('@') => {
            Err("holds a user name or a password; put the key into `api_key`".to_owned())
        }
        Some(authority) if !authority.is_empty() && !authority.starts_with(':') => {
            if text.contains(['?', '#']) || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(format!(
                    "is no base URL: it holds a query or a character that it cannot have; {ALLOWED}"
                ));
            }
            Ok(Checked::Text(text.trim_end_matches('/').to_owned()))
        }
        _ => Err(format!("{} is no base URL; {ALLOWED}", show(text))),
    }
}

/// A level, or `target=level` pairs, separated by commas.
fn filter(text: &str) -> Result<Checked, String> {
    const LEVELS: &[&str] = &["off", "error", "warn", "info", "debug", "trace"];
    for part in text.split(',') {
        let (target, level) = part.trim().rsplit_once('=').map_or((None, part.trim()), |(t, l)| (Some(t), l));
        let is_level = LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level));
        let is_target = target.is_none_or(|target| {
            !target.is_empty()
                && target
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':' | b'-'))
        });
        if !is_level || !is_target {
            return Err(format!(
                "{} is no log level; allowed: {}, or `target=level` pairs like `info,ob_gate=debug`",
                show(part),
                quoted(LEVELS)
            ));
        }
    }
    Ok(Checked::Text(text.to_owned()))
}

fn quoted(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

/// A wrong value for a message: cut, and without control characters.
pub(crate) fn show(text: &str) -> String {
    let clean: String = text.chars().take(SHOWN).map(|c| if c.is_control() { '?' } else { c }).collect();
    let more = if text.chars().count() > SHOWN { "…" } else { "" };
    format!("`{clean}{more}`")
}
