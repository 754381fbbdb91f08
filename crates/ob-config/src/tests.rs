//! Whole configurations in, settings, origins and mistakes out.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use ob_core::MicroUsd;
use ob_core::model::Price;
use proptest::prelude::*;
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
                    "main": {"provider": "openai", "api_key": "sk-main", "description": "x", "default_model": "m1"},
                    "own": {"base_url": "http://127.0.0.1:1/v1/"},
                },
                "default": "main",
            }},
            "defaults": {"limits": {"max_cost_usd": 2.5}, "agent": {"model": "fast"}},
            "models": {
                "models": {"fast": {
                    "model": "gpt-x", "displayName": "Fast", "baseUrl": "https://example.org/v1", "apiKey": "k-alias",
                    "maxOutputTokens": 4096, "provider": "own", "extraHeaders": {"X-Title": "t"},
                    "price": {"input": 3, "output": 15.0, "cached_input": 0.3},
                }},
                "discover_ports": [9000, 9001], "demonstration": false,
            },
            "sandbox": {
                "backend": "namespace", "read_only": ["/usr"], "toolchains": "off", "env": {"A": "b"},
                "bubblewrap": "/opt/bwrap",
                "memory": "2g", "cpus": 1.5, "pids": 100, "lease_s": 60, "idle_s": 120,
            },
            "log": {"format": "json", "level": "info,ob_gate=debug"},
        }"#,
    );
    let loaded = place.load().expect("all good");
    assert_eq!(loaded.warnings, Vec::<String>::new());
    insta::assert_snapshot!("every_key", format!("{:#?}", loaded.settings));
    let origins: Vec<String> = loaded.origins.iter().map(|(key, place)| format!("{key}: {place}")).collect();
    insta::assert_snapshot!("every_origin", place.clean(&origins.join("\n")));
    let price = loaded.settings.models.aliases["fast"].price.expect("it is given");
    let expected = Price {
        input: MicroUsd(3_000_000),
        output: MicroUsd(15_000_000),
        cached_input: Some(MicroUsd(300_000)),
    };
    assert_eq!(price, expected);
    assert_eq!(loaded.settings.redactor_secrets(), ["k-alias", "sk-main"]);

    // And the list above is the whole schema.
    let mut keys = Vec::new();
    collect_keys(ROOT, String::new(), &mut keys);
    let missing: Vec<&String> = keys
        .iter()
        .filter(|key| !loaded.origins.keys().any(|origin| fits(key, origin)))
        .filter(|key| !key.starts_with("runtime.") && !key.starts_with("recursion."))
        .filter(|key| *key != "models.defaults.session_model")
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
        r#"{"runtime": {"preference": "namespace", "memory": "1G", "cpus": 2}, "recursion": {"max_cost_usd": 1}}"#,
    );
    assert_eq!(old.sandbox.backend, "namespace");
    assert_eq!((old.sandbox.memory, old.sandbox.cpu_millis), (Some(1 << 30), Some(2000)));
    assert_eq!(old.limits.max_cost, MicroUsd(1_000_000));
    assert_eq!(
        mistakes(r#"{"runtime": {"memory": "1G"}, "sandbox": {"memory": "1G"}}"#),
        ["is the old name of sandbox.memory, which is set too"]
    );
}

#[test]
fn all_mistakes_are_told_at_once_with_their_places() {
    let place = Place::new(
        r#"{
  "server": { "adress": ":8080", "address": "example.org:80" },
  "serverr": {},
  "sandbox": {
    "memory": "12", "cpus": 0, "pids": "many", "lease_s": 5, "backend": "docker",
    "read_only": ["/", "~/.ssh", "gone"], "env": {"1A": "x"},
    "memory": "4G",
  },
  "defaults": { "limits": { "max_cost_usd": -1 }, "agent": [] },
  "models": {
    "models": {
      "a b": {},
      "fast": { "base_url": "x", "baseUrl": "ftp://x", "extraHeaders": {"A": 1}, "price": {"input": 1} },
      "slow": { "provider": "opena" },
    },
    "discover_ports": [0, "80"],
    "demonstration": "perhaps",
  },
  "credentials": { "providers": { "credentials": {
    "openai": { "api_key": "has a space" }, "mine": { "api_key": 7 }, "opnai": {},
    "leaky": { "base_url": "https://me:hunter2hunter2@example.org/v1" },
  }, "default": "mien" } },
  "log": { "format": "xml", "level": "loud" },
}
"#,
    )
    .env("OUBLIETTE_SERVER__ADRESS", ":1")
    .env("OUBLIETTE_SANDBOX__ENV__PATH", "x")
    .env("OUBLIETTE_MODELS__DISCOVER_PORTS", "[1,")
    .env("SERVER_ADDR", "nowhere");
    let text = place.clean(&place.load().expect_err("all wrong").to_string());
    assert!(!text.contains("hunter2") && !text.contains("has a space"), "a key is in a message");
    insta::assert_snapshot!("mistakes", text);
}

#[test]
fn a_broken_file_says_where_it_breaks() {
    for (file, expected) in [
        ("{", ":1:1: unterminated object"),
        ("{\n  \"a\" 1}", ":2:"),
        ("{\"server\": {}\n \"log\": {}}", ":1:14: expected comma"),
        ("[1]", ":1:1: expected an object, found a list"),
        ("{'a': 1}", ":1:2: single-quoted strings are not allowed"),
    ] {
        let text = Place::new(file).load().expect_err(file).to_string();
        assert!(text.contains(&format!("oubliette.jsonc{expected}")), "{text}");
    }
    let deep = "[".repeat(100_000);
    let text = Place::new(&deep).load().expect_err("too deep").to_string();
    assert!(text.contains("nesting depth"), "{text}");
}

#[test]
fn a_file_that_is_none_is_refused() {
    let at = |place: &Place| place.dir.path().join("home/config/oubliette.jsonc");
    let fifo = Place::new("");
    fs::remove_file(at(&fifo)).expect("it was there");
    rustix::fs::mknodat(rustix::fs::CWD, at(&fifo), rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
        .expect("a FIFO");
    assert!(fifo.load().expect_err("a FIFO").to_string().contains("is not a regular file"));
    let binary = Place::new("");
    fs::write(at(&binary), b"{\"a\xff\": 1}").expect("our own file");
    assert!(binary.load().expect_err("binary").to_string().contains("is not UTF-8 at byte 3"));
    let huge = Place::new(&" ".repeat((1 << 20) + 1));
    assert!(huge.load().expect_err("huge").to_string().contains("is larger than"));
}

#[test]
fn what_has_no_effect_yet_is_told_and_no_mistake() {
    let place = Place::new(
        r#"{
            "containers": {"dev": "image"}, "backup": {"enabled": true}, "cleanup": {}, "rate_limit": {"burst": 1},
            "credentials": {"github": {"default": "x"}},
            "defaults": {"container": {"type": "dev"}, "backup": {}, "limits": {"max_recursion_depth": 3}},
        }"#,
    )
    .env("DEFAULT_MAX_RECURSION_DEPTH", "3")
    .env("OUBLIETTE_HOEM", "/x");
    let loaded = place.load().expect("no mistakes");
    assert_eq!(loaded.warnings.len(), 10, "{:#?}", loaded.warnings);
    insta::assert_snapshot!("warnings", place.clean(&loaded.warnings.join("\n")));
}

#[test]
fn the_environment_goes_over_the_file() {
    let file = r#"{"server": {"address": "127.0.0.1:1"}, "models": {"models": {"Big": {"model": "a", "baseUrl": "http://127.0.0.1:9/v1"}}}}"#;
    let address = |place: Place| place.load().expect("no mistakes").settings.server.address;
    assert_eq!(address(Place::new(file)), "127.0.0.1:1");
    assert_eq!(address(Place::new(file).env("SERVER_ADDR", "")), "127.0.0.1:1", "empty is unset");
    assert_eq!(address(Place::new(file).env("SERVER_ADDR", "127.0.0.1:2")), "127.0.0.1:2");
    let both = || Place::new(file).env("SERVER_ADDR", "127.0.0.1:2").env("OUBLIETTE_SERVER__ADDRESS", ":3");
    assert_eq!(address(both()), ":3");
    assert_eq!(address(both().env("OUBLIETTE_SERVER__ADDRESS", "\":4\"")), ":4", "JSON is read too");
    assert_eq!(address(both().env("OUBLIETTE_SERVER__ADDRESS", "null")), "localhost:8080", "null is unset");

    let loaded = Place::new(file)
        .env("CONTAINER_RUNTIME", "NAMESPACE")
        .env("DEFAULT_MAX_COST_USD", "0.25")
        .env("OUBLIETTE_SANDBOX__ENV", r#"{"A": "b"}"#)
        .env("OUBLIETTE_SANDBOX__LEASE_S", "30")
        .env("OUBLIETTE_SANDBOX__MEMORY", "1G")
        .env("OUBLIETTE_MODELS__DEMONSTRATION", "false")
        .env("OUBLIETTE_MODELS__MODELS__BIG__BASE_URL", "http://127.0.0.1:7/v1")
        .env("OUBLIETTE_MODELS__MODELS__SMALL__BASEURL", "http://127.0.0.1:8/v1")
        .load()
        .expect("no mistakes");
    let settings = &loaded.settings;
    assert_eq!(settings.sandbox.backend, "namespace");
    assert_eq!(settings.limits.max_cost, MicroUsd(250_000));
    assert_eq!(settings.sandbox.env["A"], "b");
    assert_eq!(settings.sandbox.lease.as_secs(), 30);
    assert_eq!(settings.sandbox.memory, Some(1 << 30));
    assert!(!settings.models.demonstration);
    assert_eq!(settings.models.aliases["Big"].base_url.as_deref(), Some("http://127.0.0.1:7/v1"));
    assert_eq!(settings.models.aliases["Big"].model, "a", "the rest of the file's alias stays");
    assert_eq!(settings.models.aliases["small"].base_url.as_deref(), Some("http://127.0.0.1:8/v1"));
    assert_eq!(loaded.origins["sandbox.backend"], "CONTAINER_RUNTIME");
    assert_eq!(loaded.origins["sandbox.lease_s"], "OUBLIETTE_SANDBOX__LEASE_S");
}

#[test]
fn every_value_key_can_be_set_by_a_variable() {
    let mut keys = Vec::new();
    collect_keys(ROOT, String::new(), &mut keys);
    for key in keys {
        let name = format!("OUBLIETTE_{}", key.replace('.', "__").replace('*', "x").to_uppercase());
        // Wrong for every kind, so that a mistake proves that the key was found.
        let error = Place::new("{}").env(&name, "\u{7}").load().expect_err(&name).to_string();
        assert!(error.starts_with(&format!("{name}: {}", key.replace('*', "x"))), "{error}");
        assert!(!error.contains("unknown key"), "{error}");
    }
}

#[test]
fn two_variables_for_one_key_are_a_mistake() {
    let place =
        Place::new("{}").env("OUBLIETTE_SANDBOX__LEASE_S", "30").env("OUBLIETTE_SANDBOX__LEASES", "40");
    let error = place.load().expect_err("which one?").to_string();
    assert!(error.contains("sets the same key as"), "{error}");
}

#[test]
fn a_key_in_the_environment_is_a_provider() {
    let loaded =
        Place::new("{}").env("OPENAI_API_KEY", "sk-1").env("OPENAI_MODEL", "m").load().expect("fine");
    let provider = &loaded.settings.models.providers["openai"];
    assert_eq!(provider.base_url, "https://api.openai.com/v1");
    assert!(provider.api_key.is_some());
    assert_eq!(loaded.settings.models.session_model.as_deref(), Some("openai/m"));
    assert_eq!(loaded.origins["credentials.providers.credentials.openai.api_key"], "OPENAI_API_KEY");

    let local = Place::new("{}").env("OPENAI_BASE_URL", "http://127.0.0.1:9/v1/").load().expect("fine");
    let provider = &local.settings.models.providers["openai"];
    assert_eq!(provider.base_url, "http://127.0.0.1:9/v1");
    assert!(provider.api_key.is_none());

    let none = Place::new("{}").env("OPENAI_MODEL", "m").load().expect("fine");
    assert!(none.settings.models.providers.is_empty());
    assert!(none.warnings[0].contains("has no effect without OPENAI_API_KEY"), "{:?}", none.warnings);
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
        (session("gpt-zz"), "", Some("gpt-zz")),
        (String::new(), default, Some("openai/d")),
        (String::new(), "", None),
    ] {
        let file = file(&model, default);
        assert_eq!(settings(&file).models.session_model.as_deref(), expected, "{file}");
    }
    let near = mistakes(&file(&session("quik"), default));
    assert!(near[0].contains("did you mean `quick`?"), "{near:?}");
    assert_eq!(near.len(), 1);
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
fn a_key_in_a_wrong_place_is_not_quoted() {
    let key = "sk-abcdefghijklmnopqrstuvwxyz0123456789";
    for file in [
        format!(r#"{{"log": {{"level": "{key}"}}}}"#),
        format!(r#"{{"server": {{"address": "{key}"}}}}"#),
        format!(r#"{{"{key}": 1}}"#),
        format!(r#"{{"credentials": "{key}"}}"#),
    ] {
        let text = Place::new(&file).load().expect_err("wrong").to_string();
        assert!(!text.contains("abcdefghij"), "{text}");
    }
}

#[test]
fn a_file_with_a_key_that_others_can_read_is_warned_about() {
    let with_key = r#"{"credentials": {"providers": {"credentials": {"openai": {"api_key": "k"}}}}}"#;
    for (file, mode, warned) in
        [(with_key, 0o644, true), (with_key, 0o640, true), (with_key, 0o600, false), ("{}", 0o644, false)]
    {
        let place = Place::new(file);
        let path = place.dir.path().join("home/config/oubliette.jsonc");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("our own file");
        let warnings = place.load().expect("fine").warnings;
        assert_eq!(warnings.iter().any(|w| w.contains("chmod 600")), warned, "{mode:o} {warnings:?}");
    }
}

#[test]
fn an_exposed_address_is_warned_about() {
    for (address, warned) in
        [(":8080", true), ("0.0.0.0:1", true), ("[::1]:1", false), ("localhost:1", false)]
    {
        let file = format!(r#"{{"server": {{"address": "{address}"}}}}"#);
        let warnings = Place::new(&file).load().expect("fine").warnings;
        assert_eq!(!warnings.is_empty(), warned, "{address}: {warnings:?}");
    }
}

#[test]
fn a_sandbox_gets_no_more_than_the_machine_has() {
    let small = Machine { memory: 1 << 30, cpu_millis: 2000 };
    let silent = load_on(&Place::new("{}").options, small).expect("fine");
    assert_eq!(silent.settings.sandbox.memory, Some(1 << 30));
    assert_eq!(silent.settings.sandbox.cpu_millis, Some(2000));
    assert_eq!(silent.warnings, Vec::<String>::new(), "a default is clamped without a word");
    let place = Place::new(r#"{"sandbox": {"memory": "8G", "cpus": 8}}"#);
    let told = load_on(&place.options, small).expect("fine");
    assert_eq!(told.settings.sandbox.memory, Some(1 << 30));
    assert_eq!(told.warnings.len(), 2);
    assert!(told.warnings[0].contains("this machine has 1 GiB"), "{:?}", told.warnings);
}

#[test]
fn our_own_port_is_not_looked_at() {
    assert_eq!(settings("{}").models.discover_ports, [11434, 8000, 1234, 8081]);
    let moved = settings(r#"{"server": {"address": "localhost:8000"}}"#);
    assert_eq!(moved.models.discover_ports, [11434, 8080, 1234, 8081]);
}

fn rust_of(person: &Path) {
    for folder in [".rustup/toolchains/stable", ".cargo/bin", ".cargo/registry"] {
        fs::create_dir_all(person.join(folder)).expect("a folder");
    }
    for file in [".cargo/bin/cargo", ".cargo/credentials.toml"] {
        fs::write(person.join(file), "").expect("a file");
    }
}

#[test]
fn rust_is_shown_to_sandboxes_without_cargos_keys() {
    let place = Place::new("{}");
    let person = place.dir.path().join("nobody");
    rust_of(&person);
    let sandbox = place.load().expect("fine").settings.sandbox;
    assert_eq!(sandbox.read_only, [person.join(".rustup"), person.join(".cargo/bin")]);
    assert_eq!(sandbox.path, [person.join(".cargo/bin")]);
    assert_eq!(sandbox.env["RUSTUP_HOME"], person.join(".rustup").to_string_lossy());
    assert_eq!(sandbox.env["CARGO_HOME"], "/home/agent/.cargo");
    for folder in &sandbox.read_only {
        assert!(!person.join(".cargo/credentials.toml").starts_with(folder));
    }
    let off = place.env("OUBLIETTE_SANDBOX__TOOLCHAINS", "off").load().expect("fine").settings.sandbox;
    assert_eq!((off.read_only.len(), off.path.len(), off.env.len()), (0, 0, 0));
}

#[test]
fn rust_elsewhere_is_found_and_a_wild_rustup_home_is_not_followed() {
    let place = Place::new(r#"{"sandbox": {"env": {"CARGO_HOME": "/workspace/.cargo"}}}"#);
    let other = place.dir.path().join("opt");
    rust_of(&other);
    let place = place
        .env("RUSTUP_HOME", &other.join(".rustup").to_string_lossy())
        .env("CARGO_HOME", &other.join(".cargo").to_string_lossy());
    let sandbox = place.load().expect("fine").settings.sandbox;
    assert_eq!(sandbox.read_only, [other.join(".rustup"), other.join(".cargo/bin")]);
    assert_eq!(sandbox.env["CARGO_HOME"], "/workspace/.cargo", "the operator's word stands");

    // The person's whole folder, or ours, does not become visible because a variable says so.
    let person = place.dir.path().join("nobody");
    fs::create_dir_all(person.join("toolchains")).expect("a folder");
    fs::create_dir_all(place.dir.path().join("home/toolchains")).expect("a folder");
    for wild in [person, place.dir.path().join("home")] {
        let place = Place { options: place.options.clone(), dir: TempDir::new().expect("a folder") };
        let place = place.env("RUSTUP_HOME", &wild.to_string_lossy());
        let sandbox = place.load().expect("fine").settings.sandbox;
        assert!(!sandbox.read_only.contains(&wild), "{}", wild.display());
    }
}

#[test]
fn folders_with_secrets_cannot_be_shown_and_others_can() {
    let place = Place::new("{}");
    let person = place.dir.path().join("nobody");
    for folder in [".ssh", ".cargo/registry", "code/lib"] {
        fs::create_dir_all(person.join(folder)).expect("a folder");
    }
    std::os::unix::fs::symlink("/", place.dir.path().join("home/link")).expect("a link");
    let try_folder = |folder: &str| {
        let mut place = Place { options: place.options.clone(), dir: TempDir::new().expect("a folder") };
        let list = serde_json_string(folder);
        place = place.env("OUBLIETTE_SANDBOX__READ_ONLY", &format!("[{list}]"));
        place.load().map(|loaded| loaded.settings.sandbox.read_only)
    };
    for folder in ["/", "/proc", "/etc", "~/", "~/.ssh", "~/.cargo", ".", "config", "link", "/nowhere-at-all"]
    {
        let text = try_folder(folder).expect_err(folder).to_string();
        assert!(text.contains("cannot be shown") || text.contains("does not exist"), "{folder}: {text}");
    }
    assert_eq!(try_folder("/usr").expect("harmless"), [Path::new("/usr")]);
    assert_eq!(try_folder("~/code/lib").expect("harmless"), [person.join("code/lib")]);
    assert_eq!(try_folder("~/.cargo/registry").expect("harmless"), [person.join(".cargo/registry")]);
}

fn serde_json_string(text: &str) -> String {
    format!("{text:?}")
}

#[test]
fn a_process_knows_where_it_stands() {
    let options = LoadOptions::of_this_process(None, None).expect("the tests have a folder");
    assert!(options.cwd.is_absolute());
    let path = options.env[std::ffi::OsStr::new("PATH")].to_string_lossy().into_owned();
    assert!(!format!("{options:?}").contains(&path), "values are not shown");
}

#[test]
fn every_variable_is_documented_once() {
    let mut names: Vec<&str> = VARIABLES.iter().map(|variable| variable.name).collect();
    names.sort_unstable();
    let all = names.len();
    names.dedup();
    assert_eq!(names.len(), all);
    assert!(VARIABLES.iter().all(|variable| variable.doc.ends_with('.')));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_read_or_refused_and_never_panics(text in "\\PC*") {
        drop(jsonc::parse(&text).map(|node| check::check(&node, "f")));
    }

    #[test]
    fn any_bytes_as_a_file_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let place = Place::new("");
        fs::write(place.dir.path().join("home/config/oubliette.jsonc"), bytes).expect("our own file");
        drop(place.load());
    }

    /// Something like a configuration, so that the deeper layers are reached.
    #[test]
    fn any_tree_of_known_words_is_read_or_refused(
        words in prop::collection::vec(prop::sample::select(vec![
            "{", "}", "[", "]", ",", ":", "\"server\"", "\"address\"", "\"models\"", "\"credentials\"", "\"providers\"",
            "\"sandbox\"", "\"memory\"", "\"env\"", "\"a\"", "\"openai\"", "1", "-1", "1e999", "null", "true", "\"\\u0000\"",
            "\"price\"", "\"input\"", "\"default\"", "\"extraHeaders\"", "// x\n",
        ]), 0..60),
    ) {
        let place = Place::new(&format!("{{{}", words.concat()));
        drop(place.load());
    }

    #[test]
    fn any_variable_is_read_or_refused(name in "[A-Z_]{0,30}", value in "\\PC*") {
        drop(Place::new("{}").env(&format!("OUBLIETTE_{name}"), &value.replace('\0', "")).load());
    }

    #[test]
    fn any_value_of_any_key_is_read_or_refused(index in 0usize..100, value in "[0-9a-zA-Z\"{}:,./ -]{0,20}") {
        let mut keys = Vec::new();
        collect_keys(ROOT, String::new(), &mut keys);
        let key = &keys[index % keys.len()];
        let name = format!("OUBLIETTE_{}", key.replace('.', "__").replace('*', "x").to_uppercase());
        drop(Place::new("{}").env(&name, &value).load());
    }
}

#[test]
fn choices_are_lower_case_words() {
    fn walk(shape: Shape) {
        match shape {
            Shape::Section(keys) => keys.iter().for_each(|key| walk(key.shape)),
            Shape::Named(each) => walk(*each),
            Shape::Value(Kind::Choice(words)) => {
                assert!(words.iter().all(|word| word.bytes().all(|byte| byte.is_ascii_lowercase())));
            }
            Shape::Value(_) | Shape::Later => {}
        }
    }
    walk(ROOT);
}
