//! The file of the first version, as its runbook has it.

use super::*;

fn place(file: &str) -> Place {
    let place = Place::new("");
    let home = place.dir.path().join("home");
    fs::remove_dir_all(home.join("config")).expect("it was there");
    fs::write(home.join("config.yaml"), file).expect("a file");
    fs::set_permissions(home.join("config.yaml"), fs::Permissions::from_mode(0o600)).expect("our own file");
    place
}

#[test]
fn the_runbooks_file_is_read_with_every_value() {
    let place = place(include_str!("../migrate/runbook-v1.yaml"));
    let loaded = place.load().expect("no mistakes");
    assert_eq!(loaded.home.layout(), ob_core::home::Layout::V1);
    assert_eq!(loaded.settings.server.address, ":8080");
    assert_eq!(loaded.settings.sandbox.memory, Some(4 << 30));
    assert_eq!(loaded.settings.limits.max_cost, MicroUsd(10_000_000));
    let set: Vec<_> = loaded
        .values
        .iter()
        .filter(|value| value.origin != "default")
        .map(|v| format!("{} = {}  # {}", v.path, v.value, v.origin))
        .collect();
    insta::assert_snapshot!("values", place.clean(&set.join("\n")));
    insta::assert_snapshot!("warnings", place.clean(&loaded.warnings.join("\n")));
    let root = fs::canonicalize(place.dir.path().join("home")).expect("it exists");
    assert_eq!(loaded.home.log_file(), root.join("logs/oubliette.log"));
    assert_eq!(loaded.home.projects(), root.join("projects"));
}

#[test]
fn every_mistake_is_told_with_its_line() {
    let place = place(
        "server:\n  adress: \":8080\"\nruntime:\n  memory: 4Q\n  cpus: none\n  preference: docker\nrecursion: 3\n\
         log:\n  level: [debug]\nmodels:\n  demonstration: no\n  demonstration: true\npaths:\n  data: {}\ntypo: 1\n",
    );
    let text = place.clean(&place.load().expect_err("all wrong").to_string());
    insta::assert_snapshot!("mistakes", text);
}

#[test]
fn a_broken_file_says_where_it_breaks() {
    for (file, expected) in [
        ("server:\n  address: \"x\n", "config.yaml:"),
        ("server:\n address: a\n  b: c\n", "config.yaml:3:"),
        ("- a\n", "config.yaml:1:1: expected an object, found a list"),
        ("just words\n", "config.yaml:1:1: expected an object, found a string"),
    ] {
        let text = place(file).load().expect_err(file).to_string();
        assert!(text.contains(expected), "{text}");
        assert_eq!(text.lines().count(), 1, "what follows from it is no news: {text}");
    }
}

#[test]
fn variables_go_over_it_too() {
    let file = "runtime:\n  memory: 2G\n  preference: auto\nrecursion:\n  max_cost_usd: 3\n";
    let place = || place(file).env("CONTAINER_RUNTIME", "namespace").env("OUBLIETTE_RUNTIME__MEMORY", "1G");
    let settings = place().env("DEFAULT_MAX_COST_USD", "2").load().expect("the environment wins").settings;
    assert_eq!(settings.sandbox.backend, "namespace");
    assert_eq!((settings.sandbox.memory, settings.limits.max_cost), (Some(1 << 30), MicroUsd(2_000_000)));
    let shown = |loaded: &Loaded, path: &str| {
        loaded.values.iter().find(|value| value.path == path).map(|value| value.origin.clone())
    };
    let loaded = place().load().expect("the environment wins");
    assert_eq!(shown(&loaded, "sandbox.backend").as_deref(), Some("CONTAINER_RUNTIME"));
    // Under one roof they contradict each other.
    let error = place().env("OUBLIETTE_SANDBOX__MEMORY", "2G").load().expect_err("two names").to_string();
    assert!(error.contains("is the old name of sandbox.memory, which is set too"), "{error}");
}
