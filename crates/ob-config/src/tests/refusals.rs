//! What is wrong is refused, what is doubtful is warned about, each with its place.

use super::*;

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
            "containers": {"dev": "image"}, "backup": {"enabled": true},
            "credentials": {"github": {"default": "x"}},
            "defaults": {"container": {"type": "dev"}, "backup": {}},
        }"#,
    )
    .env("OUBLIETTE_DEV", "1")
    .env("OUBLIETTE_HOEM", "/x");
    let loaded = place.load().expect("no mistakes");
    assert_eq!(loaded.warnings.len(), 7, "{:#?}", loaded.warnings);
    insta::assert_snapshot!("warnings", place.clean(&loaded.warnings.join("\n")));
}

/// What the cleanup says of time counts for sessions that have nothing to do, unless `sandbox` says otherwise.
#[test]
fn retention_is_the_idle_time_of_sandboxes_and_percents_have_an_order() {
    let idle = |file: &str| Place::new(file).load().expect(file).settings.sandbox.idle.as_secs();
    assert_eq!(idle("{}"), 3600);
    assert_eq!(idle(r#"{"cleanup": {"retention_minutes": 2}}"#), 120);
    assert_eq!(idle(r#"{"sandbox": {"idle_s": 7}, "cleanup": {"retention_minutes": 2}}"#), 7);
    for file in [
        r#"{"cleanup": {"disk_warn_percent": 95}}"#,
        r#"{"cleanup": {"disk_error_percent": 50}}"#,
        r#"{"cleanup": {"disk_warn_percent": 60, "disk_error_percent": 50}}"#,
    ] {
        let text = Place::new(file).load().expect_err(file).to_string();
        assert!(text.contains("under cleanup.disk_warn_percent"), "{file}: {text}");
    }
    assert!(Place::new(r#"{"cleanup": {"disk_warn_percent": 90}}"#).load().is_ok());
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
fn prices_keys_and_wires_that_make_no_sense_have_a_place() {
    for (file, expected) in [
        (
            r#"{"models": {"prices": {"m": {"someday": {"input": 1, "output": 1}}}}}"#,
            "m.someday: is no day; allowed: `YYYY-MM-DD`",
        ),
        (r#"{"models": {"prices": {"m": {"2026-02-30": {"input": 1, "output": 1}}}}}"#, "is no day"),
        (
            r#"{"models": {"prices": {"m": {"2026-01-31": {"input": 1}}}}}"#,
            "2026-01-31: needs both `input` and `output`",
        ),
        (
            r#"{"models": {"prices": {"m": {"2026-01-31": {}}}}}"#,
            "2026-01-31: needs both `input` and `output`",
        ),
        (r#"{"models": {"unpriced": "cheap"}}"#, "allowed: `free`, `refuse`"),
        (r#"{"models": {"retries": 11}}"#, "from 0 to 10"),
        (
            r#"{"credentials": {"providers": {"credentials": {"openai": {"wire": "grpc"}}}}}"#,
            "allowed: `chat`, `responses`, `openai`, `anthropic`, `google`",
        ),
        (
            r#"{"credentials": {"providers": {"credentials": {"openai": {"api_keys": ["sk-fine", "sk bad"]}}}}}"#,
            "a key in it holds a space",
        ),
        (
            r#"{"credentials": {"providers": {"credentials": {"openai": {"api_keys": "sk"}}}}}"#,
            "expected a list of keys",
        ),
    ] {
        let text = Place::new(file).load().expect_err(file).to_string();
        assert!(text.contains(expected), "{file}: {text}");
        assert!(!text.contains("sk bad") && !text.contains("sk-fine"), "a key is in a message: {text}");
    }
}
