//! Variables go over the file.

use ob_core::model::Wire;

use ob_core::agent::Autonomy;
use ob_core::agent::Reasoning;

use super::*;

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
    // What an editor reads is in no variable.
    for key in keys.into_iter().filter(|key| key != "$schema") {
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
    assert_eq!(provider.wires, [Wire::Responses, Wire::Chat]);
    assert!(provider.api_key.is_some());
    assert_eq!(loaded.settings.models.session_model.as_deref(), Some("openai/m"));
    assert_eq!(loaded.origins["credentials.providers.credentials.openai.api_key"], "OPENAI_API_KEY");

    let local = Place::new("{}").env("OPENAI_BASE_URL", "http://127.0.0.1:9/v1/").load().expect("fine");
    let provider = &local.settings.models.providers["openai"];
    assert_eq!(provider.base_url, "http://127.0.0.1:9/v1");
    assert_eq!(provider.wires, [Wire::Chat], "what others with that form have for sure");
    assert!(provider.api_key.is_none());

    let none = Place::new("{}").env("OPENAI_MODEL", "m").load().expect("fine");
    assert!(none.settings.models.providers.is_empty());
    assert!(none.warnings[0].contains("has no effect without OPENAI_API_KEY"), "{:?}", none.warnings);
}

#[test]
fn of_several_keys_the_one_with_a_model_is_the_default() {
    let place = || Place::new("{}").env("ANTHROPIC_API_KEY", "k-1").env("GEMINI_API_KEY", "k-2");
    let both = place().load().expect("fine").settings.models;
    assert_eq!(both.providers["anthropic"].base_url, "https://api.anthropic.com/v1");
    assert_eq!(both.providers["gemini"].base_url, "https://generativelanguage.googleapis.com/v1beta/openai");
    assert_eq!(both.providers["anthropic"].wires, [Wire::Messages]);
    assert_eq!(both.providers["gemini"].wires, [Wire::Google, Wire::Chat]);
    assert_eq!(both.session_model, None, "nobody said which");
    let told = place().env("OPENAI_API_KEY", "k-3").env("OPENAI_MODEL", "m").load().expect("fine");
    assert_eq!(told.settings.models.session_model.as_deref(), Some("openai/m"));
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

/// W51: defaults, and a mode, that were read and had no effect. Each has one, or says that it has none.
#[test]
fn w51_a_default_counts_or_is_told_to_count_for_nothing() {
    let model = |file: &str| Place::new(file).load().expect(file).settings.models.session_model;
    let provider = r#""credentials": { "providers": { "credentials": { "p": { "base_url": "http://127.0.0.1:9/v1" } } } }"#;
    let with = |rest: &str| format!("{{ {provider}, {rest} }}");
    assert_eq!(model(&with(r#""defaults": { "agent": { "model": "p/a" } }"#)).as_deref(), Some("p/a"));
    assert_eq!(
        model(&with(r#""models": { "defaults": { "session_model": "p/b" } }"#)).as_deref(),
        Some("p/b")
    );
    let told = |file: &str, env: &str, name: &str| {
        let mut place = Place::new(file);
        if !env.is_empty() {
            place = place.env(env, "1");
        }
        let warnings = place.load().expect(file).warnings;
        assert!(
            warnings.iter().any(|w| w.contains(name) && w.contains("not used yet")),
            "{name}: {warnings:?}"
        );
    };
    told(r#"{ "defaults": { "container": { "type": "dev" } } }"#, "", "defaults.container");
    told(r#"{ "defaults": { "agent": { "mcp_servers": {} } } }"#, "", "defaults.agent.mcp_servers");
    let agents = |file: &str| Place::new(file).load().expect(file).settings.agents;
    let old =
        agents(r#"{ "models": { "defaults": { "autonomy_mode": "low", "reasoning_effort": "high" } } }"#);
    let new = agents(r#"{ "defaults": { "agent": { "autonomy": "low", "reasoning": "high" } } }"#);
    assert_eq!((old.autonomy, old.reasoning), (Autonomy::Low, Some(Reasoning::High)));
    assert_eq!((new.autonomy, new.reasoning), (old.autonomy, old.reasoning));
    told(r#"{ "models": { "defaults": { "included_models": [] } } }"#, "", "models.defaults.included_models");
    told("{}", "OUBLIETTE_DEV", "OUBLIETTE_DEV");
}
