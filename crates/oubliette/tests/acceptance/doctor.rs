//! `doctor` and `store check`: each bad case made for real, told with its cost, and mended by the commands that they name.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use ob_testkit::Answer;
use ob_testkit::ModelServer;
use ob_testkit::model_server::Step;
use serde_json::Value;

use crate::harness::Home;
use crate::harness::KEY;
use crate::harness::Mount;
use crate::harness::fill;
use crate::harness::is_root;
use crate::harness::shown;

/// What doctor, or another command that checks, says: its exit code and its checks.
fn checked(home: &Home, command: &[&str]) -> (i32, Value) {
    let output = home.run(command.iter().chain(&["--json"]));
    let value: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", shown(&output)));
    let healthy = value["healthy"].as_bool().unwrap();
    let code = output.status.code().unwrap();
    assert_eq!(code == 0, healthy, "the code says what the value says: {}", shown(&output));
    assert!(!format!("{value}").contains(KEY), "no key is ever shown");
    (code, value)
}

fn doctor(home: &Home) -> (i32, Value) {
    checked(home, &["doctor"])
}

/// The check of this name.
fn check<'a>(value: &'a Value, name: &str) -> &'a Value {
    let checks = value["checks"].as_array().unwrap();
    checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no {name} in {value:#}"))
}

/// Asserts what became of a check, that it says what mends it, and gives its commands.
fn ill<'a>(value: &'a Value, name: &str, state: &str, found: &str) -> Vec<&'a str> {
    let check = check(value, name);
    assert_eq!(check["state"], state, "{check:#}");
    assert!(check["found"].as_str().unwrap().contains(found), "no `{found}` in {check:#}");
    assert!(check["cost"].is_string() && check["fix"].is_string(), "{check:#}");
    let commands = check["commands"].as_array().map(Vec::as_slice).unwrap_or_default();
    commands.iter().map(|command| command.as_str().unwrap()).collect()
}

fn well(value: &Value, name: &str) {
    assert_eq!(check(value, name)["state"], "ok", "{:#}", check(value, name));
}

/// Runs a command as a person who typed it.
fn typed(command: &str) {
    let output = Command::new("sh").args(["-ec", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", shown(&output));
}

#[test]
fn a_machine_that_has_everything_is_healthy_without_a_home_and_none_is_made() {
    let mut home = Home::without_model();
    home.set("OUBLIETTE_SERVER__ADDRESS", "127.0.0.1:0");
    let (code, value) = doctor(&home);
    assert_eq!(code, 0, "{value:#}");
    for name in ["kernel", "bubblewrap", "user_namespaces", "seccomp", "git", "home", "database", "address"] {
        well(&value, name);
    }
    assert_eq!(
        check(&value, "model")["state"],
        "not_configured",
        "which is never healthy, and never a fault"
    );
    assert!(check(&value, "disk")["value"].as_f64().unwrap() > 0.0);
    let (code, value) = checked(&home, &["store", "check"]);
    assert_eq!(code, 0, "{value:#}");
    assert!(!home.root().exists(), "looking makes nothing");
}

#[test]
fn without_bubblewrap_and_git_on_the_path_both_are_named_with_their_packages() {
    let mut home = Home::without_model();
    home.set("PATH", "/nonexistent");
    let (code, value) = doctor(&home);
    assert_eq!(code, 4);
    assert_eq!(ill(&value, "git", "missing", "not on the PATH").len(), 1);
    let commands = ill(&value, "bubblewrap", "missing", "not installed");
    assert!(commands[0].contains("install") && commands[0].ends_with("bubblewrap"), "{commands:?}");
    ill(&value, "user_namespaces", "failed", "without bubblewrap");

    let script = home.run(["doctor", "--fix-hints"]);
    assert_eq!(script.status.code(), Some(4));
    let script = String::from_utf8(script.stdout).unwrap();
    assert!(script.contains("# git: not on the PATH\n"), "{script}");
    // The command itself, but that it only says what it would do.
    if commands[0].starts_with("apt-get ") && Path::new("/usr/bin/apt-get").exists() {
        typed(&commands[0].replace("install -y", "install --simulate"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_is_dead_mute_or_refuses_the_key_is_told_apart_and_holds_nothing_up() {
    let mute = ModelServer::start().await.unwrap();
    mute.otherwise(Answer::text("never").before_head(Step::Hang));
    let strict = ModelServer::start().await.unwrap();
    strict.otherwise(Answer::status(401, "{}"));
    let good = ModelServer::start().await.unwrap();
    good.otherwise(Answer::status(200, r#"{"data":[{"id":"small"}]}"#));
    tokio::task::spawn_blocking(move || {
        let mut home = Home::new(&mute);
        let (code, value) = doctor(&home);
        assert_eq!(code, 0, "a provider is not required: {value:#}");
        let commands = ill(&value, "provider:openai", "failed", "did not answer within");
        assert!(commands[0].starts_with("curl "), "{commands:?}");
        well(&value, "git");

        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        home.set("OPENAI_BASE_URL", &format!("http://{free}/v1"));
        ill(&doctor(&home).1, "provider:openai", "failed", "no connection");
        home.set("OPENAI_BASE_URL", &strict.base_url());
        ill(&doctor(&home).1, "provider:openai", "failed", "refuses the key");
        home.set("OPENAI_BASE_URL", &good.base_url());
        let (_, value) = doctor(&home);
        well(&value, "provider:openai");
        well(&value, "model");
    })
    .await
    .unwrap();
}

#[test]
fn a_taken_address_is_told_with_its_holder_and_the_command_takes_another() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut home = Home::without_model();
    home.set("OUBLIETTE_SERVER__ADDRESS", &taken.local_addr().unwrap().to_string());
    let (code, value) = doctor(&home);
    assert_eq!(code, 4);
    let commands = ill(&value, "address", "failed", &format!("pid {}", std::process::id()));
    assert!(commands[0].starts_with("SERVER_ADDR=localhost:"), "{commands:?}");
}

#[test]
fn wrong_modes_are_told_and_the_commands_close_them() {
    let home = Home::without_model();
    home.ok(["token", "list"]);
    let (root, data) = (home.root(), home.root().join("data"));
    for (path, mode) in [(&root, 0o755), (&data, 0o777)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let (_, value) = doctor(&home);
    for command in ill(&value, "permissions", "warn", "data") {
        typed(command);
    }
    well(&doctor(&home).1, "permissions");
}

#[test]
fn a_configuration_with_mistakes_is_told_and_the_machine_is_looked_at_all_the_same() {
    let home = Home::without_model();
    fs::create_dir_all(home.root().join("config")).unwrap();
    fs::write(home.root().join("config/oubliette.jsonc"), "{ \"sandbx\": 1 }\n").unwrap();
    let (code, value) = doctor(&home);
    assert_eq!(code, 4);
    let configuration = check(&value, "configuration");
    assert!(configuration["found"].as_str().unwrap().contains("sandbx"), "{configuration:#}");
    well(&value, "git");
}

#[test]
fn a_read_only_home_is_told_and_the_command_makes_it_writable() {
    if !is_root() {
        eprintln!("skipped: a mount needs root");
        return;
    }
    let home = Home::without_model();
    fs::create_dir(home.root()).unwrap();
    let mount = Mount::tmpfs(&home.root(), "8m");
    home.ok(["token", "list"]);
    typed(&format!("mount -o remount,ro {}", home.root().display()));
    let (code, value) = doctor(&home);
    assert_eq!(code, 4);
    let commands = ill(&value, "home", "failed", "Read-only file system");
    ill(&value, "filesystem", "warn", "tmpfs");
    well(&value, "database");
    assert_eq!(checked(&home, &["store", "check"]).0, 0, "what cannot be written can be read");
    commands.iter().for_each(|command| typed(command));
    well(&doctor(&home).1, "home");
    drop(mount);
}

#[test]
fn a_full_disk_is_told_before_and_after_it_is_full() {
    if !is_root() {
        eprintln!("skipped: a small file system needs root");
        return;
    }
    let home = Home::without_model();
    fs::create_dir(home.root()).unwrap();
    let mount = Mount::tmpfs(&home.root(), "128m");
    for command in ill(&doctor(&home).1, "disk", "warn", "MiB free") {
        typed(command);
    }
    fill(&home.root().join("ballast"));
    let (_, value) = doctor(&home);
    ill(&value, "disk", "failed", "0 B free");
    assert_eq!(check(&value, "disk")["unit"], "bytes");
    drop(mount);
}

#[test]
fn a_server_that_runs_is_named_and_its_store_is_checked_beside_it() {
    let home = Home::without_model();
    home.start();
    let pid = home.pid().to_string();
    let (code, value) = doctor(&home);
    assert_eq!(code, 0, "{value:#}");
    for name in ["address", "control_socket"] {
        assert!(check(&value, name)["found"].as_str().unwrap().contains(&pid), "{value:#}");
    }
    let (code, value) = checked(&home, &["store", "check"]);
    assert_eq!(code, 0, "{value:#}");
    assert!(check(&value, "server")["found"].as_str().unwrap().contains(&pid));

    let answer = home.get("/health");
    let health: Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    let checks = &health["checks"];
    assert_eq!((&checks["store"]["status"], &checks["store"]["required"]), (&"ok".into(), &true.into()));
    assert_eq!(checks["model"]["status"], "not_configured");
    assert!(checks["disk"]["value"].is_number() && checks["disk"]["threshold"].is_number(), "{health:#}");
    assert!(checks["store"]["last_ok"].is_string() && checks["model"]["last_ok"].is_null(), "{health:#}");
}

#[test]
fn a_broken_database_is_told_by_doctor_by_store_check_and_by_the_server_that_cannot_start() {
    let home = Home::without_model();
    home.start();
    home.ok(["stop"]);
    let database = home.root().join("data/oubliette.db");
    let mut bytes = fs::read(&database).unwrap();
    bytes[..100].fill(0x5a);
    fs::write(&database, &bytes).unwrap();
    let (code, value) = doctor(&home);
    assert_eq!(code, 4);
    assert!(ill(&value, "database", "failed", "not a database").len() >= 3);
    assert_eq!(checked(&home, &["store", "check"]).0, 4);
    let output = home.run(["--daemon"]);
    assert_eq!(output.status.code(), Some(6), "{}", shown(&output));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("oubliette doctor"), "the refusal leads to where it is told: {said}");
}
