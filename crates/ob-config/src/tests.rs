//! Whole configurations in, settings, origins and mistakes out.

mod environment;
mod first_version;
mod hostile;
mod refusals;
mod sandbox;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use ob_core::MicroUsd;
use ob_core::model::Price;
use tempfile::TempDir;

use super::*;
use crate::schema::Kind;
use crate::schema::ROOT;
use crate::schema::Shape;

const BIG: Machine = Machine { memory: 64 << 30, cpu_millis: 64_000 };

/// A home with this file in it, and nothing else of the machine.
struct Place {
    dir: TempDir,
    options: LoadOptions,
}

impl Place {
    fn new(file: &str) -> Self {
        let dir = TempDir::new().expect("a temporary folder");
        let home = dir.path().join("home");
        fs::create_dir_all(home.join("config")).expect("a folder");
        let path = home.join("config/oubliette.jsonc");
        fs::write(&path, file).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("our own file");
        let options = LoadOptions {
            dir: Some(home),
            env: [(OsString::from("HOME"), dir.path().join("nobody").into_os_string())].into(),
            cwd: dir.path().to_owned(),
            uid: rustix::process::geteuid().as_raw(),
            ..LoadOptions::default()
        };
        Self { dir, options }
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.options.env.insert(name.into(), value.into());
        self
    }

    fn load(&self) -> Result<Loaded, Mistakes> {
        load_on(&self.options, BIG)
    }

    /// The text without the temporary folder's name.
    fn clean(&self, text: &str) -> String {
        let real = fs::canonicalize(self.dir.path()).expect("it exists");
        text.replace(&*real.to_string_lossy(), "/TMP").replace(&*self.dir.path().to_string_lossy(), "/TMP")
    }
}

fn settings(file: &str) -> Settings {
    Place::new(file).load().expect("no mistakes").settings
}

/// The mistakes of a file, without their places.
fn mistakes(file: &str) -> Vec<String> {
    Place::new(file).load().expect_err(file).0.into_iter().map(|mistake| mistake.what).collect()
}

#[test]
fn an_empty_file_no_file_and_the_file_of_a_new_home_say_the_same() {
    let expected = format!("{:?}", settings("{}"));
    for file in ["", "// nothing\n", "{ /* nothing */ }", "\u{feff}{}", "{\"server\": null}", DEFAULT_FILE] {
        assert_eq!(format!("{:?}", settings(file)), expected, "{file:?}");
    }
    let place = Place::new("");
    fs::remove_dir_all(place.dir.path().join("home")).expect("it was there");
    let loaded = place.load().expect("nothing is no mistake");
    assert_eq!(format!("{:?}", loaded.settings), expected);
    assert_eq!(loaded.warnings, Vec::<String>::new());
    assert!(!loaded.home.root().exists(), "loading makes nothing");
    insta::assert_snapshot!("defaults", format!("{:#?}", loaded.settings));
}

#[test]
fn what_the_file_of_a_new_home_says_behind_comments_is_the_default() {
    let uncommented: String = DEFAULT_FILE
        .lines()
        .map(|line| match line.trim_start().strip_prefix("// ") {
            Some(rest) if line.starts_with("  //") && rest.starts_with(['"', ' ', '}']) => {
                format!("{rest}\n")
            }
            _ => format!("{line}\n"),
        })
        .collect::<String>()
        .replace("\"…\"", "\"put-something-here\"");
    let loaded = Place::new(&uncommented).load().expect(&uncommented);
    for key in ["server.address", "defaults.limits.max_cost_usd", "sandbox.lease_s", "log.level"] {
        assert!(loaded.origins.contains_key(key), "{key} is not in the file of a new home");
    }
    let mut said = loaded.settings;
    assert_eq!(said.models.session_model.take().as_deref(), Some("openai/put-something-here"));
    said.models.providers.clear();
    said.agents.agents.clear();
    assert_eq!(format!("{said:?}"), format!("{:?}", settings("{}")));
}

/// Every key has an effect: what is set is found in the settings.
#[test]
fn every_key_has_its_effect() {
    let place = Place::new(
        r#"{
            "server": {"address": "127.0.0.1:9000"},
            "credentials": {"providers": {
                "credentials": {
                    "main": {"provider": "openai", "api_key": "sk-main", "api_keys": ["sk-2nd", "sk-3rd"], "wire": "responses", "tools": "schema", "description": "x", "default_model": "m1"},
                    "own": {"base_url": "http://127.0.0.1:1/v1/"},
                },
                "default": "main",
            }},
            "defaults": {"limits": {"max_cost_usd": 2.5, "max_recursion_depth": 2, "max_agents_per_session": 9,
                         "max_live_agents": 4, "max_wall_s": 60}, "agent": {"model": "fast", "autonomy": "medium", "reasoning": "low"}},
            "models": {
                "models": {"fast": {
                    "model": "gpt-x", "displayName": "Fast", "baseUrl": "https://example.org/v1", "apiKey": "k-alias",
                    "maxOutputTokens": 4096, "provider": "own", "extraHeaders": {"X-Title": "t"},
                    "price": {"input": 3, "output": 15.0, "cached_input": 0.3, "cache_write": 3.75}, "wire": "anthropic", "tools": "native",
                }},
                "prices": {"large": {
                    "2026-01-31": {"input": 1, "output": 2, "cached_input": 0.5, "cache_write": 1.5},
                    "2025-01-31": {"input": 2, "output": 4},
                }},
                "unpriced": "refuse", "retries": 4,
                "discover_ports": [9000, 9001], "demonstration": false,
            },
            "sandbox": {
                "backend": "namespace", "read_only": ["/usr"], "toolchains": "off", "env": {"A": "b"},
                "bubblewrap": "/opt/bwrap",
                "memory": "2g", "cpus": 1.5, "pids": 100, "open_files": 300, "disk": "1G", "inodes": 5000,
                "wall_s": 3600, "output_rate": "64k", "limits": "best_effort", "lease_s": 60, "idle_s": 120,
            },
            "agents": {
                "default": "mine", "path": ["/usr/bin"],
                "agents": {"mine": {"command": ["my-agent", ""], "protocol": "plain", "prompt": "input", "env": {"A": "{gate}"}}},
            },
            "rate_limit": {"requests_per_second": 2.5, "burst": 7},
            "cleanup": {
                "enabled": false, "interval_minutes": 10, "retention_minutes": 30, "disk_warn_percent": 70, "disk_error_percent": 75,
            },
            "log": {"format": "json", "level": "info,ob_gate=debug"},
            "paths": {"projects": "p", "data": "d", "logs": "/l", "sockets": "/tmp/s"},
            "$schema": "oubliette.schema.json",
        }"#,
    );
    let loaded = place.load().expect("all good");
    assert_eq!(loaded.warnings, Vec::<String>::new());
    insta::assert_snapshot!("every_key", format!("{:#?}", loaded.settings));
    let origins: Vec<String> = loaded.origins.iter().map(|(key, place)| format!("{key}: {place}")).collect();
    insta::assert_snapshot!("every_origin", place.clean(&origins.join("\n")));
    let shown: Vec<_> =
        loaded.values.iter().map(|v| format!("{} = {}  # {}", v.path, v.value, v.origin)).collect();
    insta::assert_snapshot!("every_value", place.clean(&shown.join("\n")));
    let price = loaded.settings.models.aliases["fast"].price.expect("it is given");
    let expected = Price {
        input: MicroUsd(3_000_000),
        output: MicroUsd(15_000_000),
        cached_input: Some(MicroUsd(300_000)),
        cache_write: Some(MicroUsd(3_750_000)),
    };
    assert_eq!(price, expected);
    assert_eq!(loaded.settings.redactor_secrets(), ["k-alias", "sk-2nd", "sk-3rd", "sk-main"]);

    // And the list above is the whole schema.
    let mut keys = Vec::new();
    collect_keys(ROOT, String::new(), &mut keys);
    let missing: Vec<&String> = keys
        .iter()
        .filter(|key| !loaded.origins.keys().any(|origin| fits(key, origin)))
        .filter(|key| !key.starts_with("runtime.") && !key.starts_with("recursion."))
        // Other names of keys that are there.
        .filter(|key| !key.starts_with("models.defaults."))
        .collect();
    assert_eq!(missing, Vec::<&String>::new());
}

fn collect_keys(shape: Shape, path: String, keys: &mut Vec<String>) {
    match shape {
        Shape::Section(entries) => {
            for key in entries {
                let path = if path.is_empty() { key.name.to_owned() } else { format!("{path}.{}", key.name) };
                collect_keys(key.shape, path, keys);
            }
        }
        Shape::Named(each) => collect_keys(*each, format!("{path}.*"), keys),
        Shape::Value(_) => keys.push(path),
        Shape::Later => {}
    }
}

fn fits(key: &str, origin: &str) -> bool {
    let (key, origin): (Vec<&str>, Vec<&str>) = (key.split('.').collect(), origin.split('.').collect());
    key.len() == origin.len() && key.iter().zip(&origin).all(|(k, o)| *k == "*" || k == o)
}

#[test]
fn the_old_names_mean_the_same_and_not_both_at_once() {
    let old = settings(
        r#"{"runtime": {"preference": "namespace", "memory": "1G", "cpus": 2}, "recursion": {"max_cost_usd": 1, "max_depth": 5, "max_agents": 7}}"#,
    );
    assert_eq!(old.sandbox.backend, "namespace");
    assert_eq!((old.sandbox.memory, old.sandbox.cpu_millis), (Some(1 << 30), Some(2000)));
    assert_eq!(old.limits.max_cost, MicroUsd(1_000_000));
    assert_eq!((old.limits.max_depth, old.limits.max_agents), (5, 7));
    assert_eq!(
        mistakes(r#"{"runtime": {"memory": "1G"}, "sandbox": {"memory": "1G"}}"#),
        ["is the old name of sandbox.memory, which is set too"]
    );
}

#[test]
fn the_session_model_is_an_alias_or_gets_its_provider() {
    let file = |model: &str, default: &str| {
        format!(
            r#"{{"credentials": {{"providers": {{"credentials": {{
                "openai": {{"api_key": "k1", "default_model": "d"}}, "groq": {{"api_key": "k2"}}
               }} {default} }}}},
               "models": {{"models": {{"quick": {{"provider": "groq", "model": "g"}}}} {model} }}}}"#
        )
    };
    let session = |model: &str| format!(r#", "defaults": {{"session_model": "{model}"}}"#);
    let default = r#", "default": "openai""#;
    for (model, default, expected) in [
        (session("quick"), "", Some("quick")),
        (session("groq/llama"), "", Some("groq/llama")),
        (session("gpt-zz"), default, Some("openai/gpt-zz")),
        (session("meta/llama"), default, Some("openai/meta/llama")),
        (session("local/x"), "", Some("local/x")),
        // Of several providers the one that names a model is the default.
        (session("gpt-zz"), "", Some("openai/gpt-zz")),
        (String::new(), default, Some("openai/d")),
        (String::new(), "", Some("openai/d")),
    ] {
        let file = file(&model, default);
        assert_eq!(settings(&file).models.session_model.as_deref(), expected, "{file}");
    }
    let near = mistakes(&file(&session("quik"), default));
    assert!(near[0].contains("did you mean `quick`?"), "{near:?}");
    assert_eq!(near.len(), 1);
}

#[test]
fn agents_are_defined_whole_or_not_at_all() {
    let one = |text: &str| format!(r#"{{"agents": {{"agents": {{{text}}}}}}}"#);
    let mine = settings(&one(r#""mine": {"command": ["a"]}"#)).agents.agents["mine"].clone();
    assert_eq!((mine.plain, mine.command), (None, vec!["a".to_owned()]), "ACP if nothing is said");
    for (text, expected) in [
        (r#""mine": {}"#, "needs `command`"),
        (r#""mine": {"command": []}"#, "names no program"),
        (r#""mine": {"command": ["  "]}"#, "names no program"),
        (r#""mine": {"command": "a b"}"#, "expected a list of texts"),
        (r#""mine": {"command": ["a"], "prompt": "input"}"#, "is for a plain program"),
        (r#""builtin": {"command": ["a"]}"#, "is the name of the built-in agent"),
    ] {
        let found = mistakes(&one(text));
        assert!(found.len() == 1 && found[0].contains(expected), "{text}: {found:?}");
    }
}

#[test]
fn programs_of_agents_are_looked_for_where_it_is_said_and_then_in_the_path() {
    let place = Place::new(r#"{"agents": {"path": ["/usr/bin", "/no/such"]}}"#)
        .env("PATH", "/opt/x:relative:/usr/bin");
    let text = place.load().expect_err("one folder is missing").to_string();
    assert!(text.contains("/no/such does not exist"), "{text}");
    let loaded = Place::new("{}").env("PATH", "/opt/x:relative:/usr/bin").load().expect("fine");
    assert_eq!(loaded.settings.agents.search, ["/opt/x", "/usr/bin"].map(PathBuf::from));
    assert_eq!(
        loaded.settings.agents.hidden.why_not(loaded.home.root()),
        Some("it holds files of this server")
    );
    assert_eq!(loaded.settings.agents.hidden.why_not(Path::new("/opt")), None);
}

#[test]
fn no_key_is_in_debug_origins_or_warnings() {
    let place = Place::new(
        r#"{
            "credentials": {"providers": {"credentials": {"p": {"base_url": "http://10.0.0.1/v1", "api_key": "hunter2file"}}}},
            "models": {"models": {"m": {"provider": "p", "apiKey": "hunter2alias", "extraHeaders": {"X-Api-Key": "hunter2header"}}}},
            "sandbox": {"env": {"TOKEN": "hunter2inside"}},
        }"#,
    )
    .env("OPENAI_API_KEY", "hunter2env");
    let loaded = place.load().expect("fine");
    let shown = format!("{loaded:?} {:?} {:?} {:?}", place.options, loaded.origins, loaded.warnings);
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(shown.contains("[REDACTED]"), "the control: a key was there to be shown");
    assert_eq!(
        loaded.settings.redactor_secrets(),
        ["hunter2alias", "hunter2env", "hunter2file", "hunter2header"]
    );
    assert!(loaded.warnings.iter().any(|w| w.contains("without encryption, to http://10.0.0.1/v1")));
}

#[test]
fn our_own_port_is_not_looked_at() {
    assert_eq!(settings("{}").models.discover_ports, [11434, 8000, 1234, 8081]);
    let moved = settings(r#"{"server": {"address": "localhost:8000"}}"#);
    assert_eq!(moved.models.discover_ports, [11434, 8080, 1234, 8081]);
}

#[test]
fn choices_are_lower_case_words() {
    fn walk(shape: Shape) {
        match shape {
            Shape::Section(keys) => keys.iter().for_each(|key| walk(key.shape)),
            Shape::Named(each) => walk(*each),
            Shape::Value(Kind::Choice(words)) => {
                let is_fit = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
                assert!(words.iter().all(|word| word.bytes().all(is_fit)));
            }
            Shape::Value(_) | Shape::Later => {}
        }
    }
    walk(ROOT);
}
