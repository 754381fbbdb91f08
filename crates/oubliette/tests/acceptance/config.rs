//! Homes and configuration, by the real program.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;

use ob_testkit::ModelServer;
use serde_json::Value;

use crate::harness::Home;
use crate::harness::is_alive;
use crate::harness::shown;
use crate::harness::until;

/// The file of the first version's runbook.
const RUNBOOK: &str = include_str!("../../../ob-config/src/migrate/runbook-v1.yaml");

/// A present one with something of each section.
const PRESENT: &str = r#"{
  // The second version's runbook says: check provider API keys in `oubliette.jsonc`.
  "server": { "address": "127.0.0.1:0" },
  "credentials": {
    "providers": {
      "credentials": {
        "main": { "base_url": "http://127.0.0.1:9/v1", "api_key": "k-canary-in-the-file", "default_model": "m-1" },
      },
      "default": "main",
    },
  },
  "defaults": { "limits": { "max_cost_usd": 10.00, "max_agents_per_session": 50 }, "backup": { "enabled": true } },
  "models": { "demonstration": false, "discover_ports": [] },
}
"#;

/// A home that says only what its file says.
fn home(file: &str, text: &str) -> Home {
    let mut home = Home::without_model();
    for name in
        ["OUBLIETTE_SERVER__ADDRESS", "OUBLIETTE_MODELS__DEMONSTRATION", "OUBLIETTE_MODELS__DISCOVER_PORTS"]
    {
        home.set(name, "");
    }
    write(&home, file, text);
    home
}

/// Puts a file in the place of the one that is there, as editors do.
fn write(home: &Home, file: &str, text: &str) {
    let path = home.root().join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let draft = path.with_extension("draft");
    fs::write(&draft, text).unwrap();
    fs::rename(draft, path).unwrap();
}

fn log(home: &Home) -> String {
    fs::read_to_string(home.root().join("data/logs/oubliette.log")).unwrap_or_default()
}

/// The program in the working directory `cwd`, with nothing said about where the home is.
fn unnamed(home: &Home, cwd: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oubliette"));
    let path = std::env::var_os("PATH").unwrap();
    command.env_clear().env("PATH", path).env("HOME", home.user("person")).args(args).current_dir(cwd);
    command
}

#[test]
fn every_mistake_is_told_at_once_in_the_documented_form() {
    let wrong =
        "{\n  \"server\": { \"adress\": \":1\" },\n  \"sandbox\": { \"memory\": \"4Q\", \"pids\": 1 },\n}\n";
    let home = home("config/oubliette.jsonc", wrong);
    let output = home.run(["config", "check"]);
    let file = fs::canonicalize(home.root()).unwrap().join("config/oubliette.jsonc").display().to_string();
    let expected = format!(
        "{file}:2:15: server.adress: unknown key; did you mean `address`?\n\
         {file}:3:26: sandbox.memory: `4Q` is no size; allowed: bytes, or a number with K, M, G or T, like `4G`\n\
         {file}:3:40: sandbox.pids: `1` is not a whole number from 16 to 4194304\n"
    );
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stdout)), (Some(2), expected.into()));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "3 mistakes\n");
    let listed: Value = serde_json::from_slice(&home.run(["config", "check", "--json"]).stdout).unwrap();
    assert_eq!(listed["mistakes"].as_array().unwrap().len(), 3);
    // And every command that needs a configuration says the same.
    let refused = home.run(["session", "list"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("did you mean `address`?"),
        "{}",
        shown(&refused)
    );
}

#[test]
fn the_files_of_both_runbooks_are_read_and_no_key_is_shown() {
    for (file, text, line) in [
        ("config.yaml", RUNBOOK, "server.address = \":8080\""),
        ("config/oubliette.jsonc", PRESENT, "credentials.providers.default = \"main\""),
        ("oubliette.jsonc", PRESENT, "defaults.limits.max_cost_usd = 10"),
    ] {
        let home = home(file, text);
        assert!(home.ok(["config", "check"]).ends_with(&format!("{file}: no mistakes\n")));
        let values = home.ok(["config", "show"]);
        assert!(values.lines().any(|shown| shown == line), "{values}");
        let origins = home.ok(["config", "show", "--origin"]);
        assert!(origins.lines().any(|l| l.starts_with(line) && l.contains(&format!("{file}:"))), "{origins}");
        assert!(origins.contains("log.level = \"info\"  # default"), "{origins}");
        let everything = format!("{values}{origins}{}", home.ok(["config", "show", "--json"]));
        assert!(!everything.contains("canary") && !everything.contains("ghp_xxx"), "{everything}");
    }
    let mut home = home("config/oubliette.jsonc", PRESENT);
    home.set("OUBLIETTE_LOG__LEVEL", "debug");
    let origins = home.ok(["config", "show", "--origin"]);
    assert!(origins.contains("log.level = \"debug\"  # OUBLIETTE_LOG__LEVEL"), "{origins}");
    let schema: Value = serde_json::from_str(&home.ok(["config", "schema"])).unwrap();
    assert_eq!(schema, ob_config::json_schema());
}

#[test]
fn a_file_of_the_first_version_is_migrated_once_and_means_the_same() {
    let home = home("config.yaml", RUNBOOK);
    let values = |home: &Home| -> Vec<(Value, Value)> {
        let listed = home.json(&["config", "show"]);
        let listed = listed.as_array().unwrap().iter();
        listed.map(|value| (value["path"].clone(), value["value"].clone())).collect()
    };
    let before = values(&home);
    let text = home.ok(["config", "migrate", "--dry-run"]);
    assert!(text.contains("// Four of the eight cores.") && text.contains("\"max_agents_per_session\": 50"));
    assert!(home.root().join("config.yaml").exists() && !home.root().join("config").exists());
    home.ok(["config", "migrate"]);
    assert_eq!(fs::read_to_string(home.root().join("config/oubliette.jsonc")).unwrap(), text);
    assert_eq!(fs::read_to_string(home.root().join("config.yaml.old")).unwrap(), RUNBOOK);
    assert_eq!(values(&home), before);
    let again = home.run(["config", "migrate"]);
    assert_eq!(again.status.code(), Some(3), "{}", shown(&again));
}

/// Validate whole, swap, keep the last good one, say what needs a restart.
#[tokio::test(flavor = "multi_thread")]
async fn a_running_server_takes_a_changed_file_and_keeps_the_last_good_one() {
    let model = ModelServer::start().await.unwrap();
    tokio::task::spawn_blocking(move || {
        let file = |level: &str, name: &str, port: &str| {
            PRESENT
                .replace("http://127.0.0.1:9/v1", &model.base_url())
                .replace("m-1", name)
                .replace("127.0.0.1:0", port)
                .replace(
                    "\"models\": {",
                    &format!("\"log\": {{ \"level\": \"{level}\" }},\n  \"models\": {{"),
                )
        };
        let home = home("config/oubliette.jsonc", &file("info", "m-1", "127.0.0.1:0"));
        home.start();
        let uses = |home: &Home| home.json(&["status"])["model"]["model"].clone();
        assert_eq!(uses(&home), "m-1");
        assert!(home.ok(["reload"]).contains("nothing changed"));
        assert!(home.ok(["config", "diff"]).contains("runs with what the configuration says"));

        // By itself, when the file is replaced.
        write(&home, "config/oubliette.jsonc", &file("debug", "m-2", "127.0.0.1:0"));
        until("the new model", || uses(&home) == "m-2");
        until("the log to tell", || log(&home).contains("configuration reloaded"));
        assert!(log(&home).contains("log.level"), "{}", log(&home));

        // What cannot be taken is named, and goes on being named.
        write(&home, "config/oubliette.jsonc", &file("debug", "m-2", "127.0.0.1:1"));
        until("the log to tell", || log(&home).contains("needs_restart=\"server.address\""));
        for command in [&["config", "diff"][..], &["reload"]] {
            let text = home.ok(command);
            assert!(
                text.contains("server.address: \"127.0.0.1:0\" -> \"127.0.0.1:1\" (needs a restart)"),
                "{text}"
            );
        }

        // A mistake changes nothing.
        write(
            &home,
            "config/oubliette.jsonc",
            &file("debug", "m-3", "127.0.0.1:1").replace("api_key", "api_kye"),
        );
        until("the refusal", || log(&home).contains("configuration refused"));
        assert!(log(&home).contains("did you mean `api_key`?"));
        let refused = home.run(["reload"]);
        assert_eq!(refused.status.code(), Some(2), "{}", shown(&refused));
        assert!(String::from_utf8_lossy(&refused.stderr).contains("did you mean `api_key`?"));
        assert_eq!(uses(&home), "m-2");
        let metrics = home.get("/metrics");
        assert!(metrics.contains("oubliette_config_reloads_total{status=\"refused\"}"), "{metrics}");
        assert!(!metrics.contains("oubliette_config_reloads_total{status=\"refused\"} 0\n"), "{metrics}");

        // Mended, and told by a signal.
        write(&home, "config/oubliette.jsonc", &file("info", "m-4", "127.0.0.1:0"));
        assert!(Command::new("kill").args(["-HUP", &home.pid().to_string()]).status().unwrap().success());
        until("the newest model", || uses(&home) == "m-4");
        assert!(!log(&home).contains("canary"), "a key is in the log");

        // A broken file keeps nobody from stopping.
        write(&home, "config/oubliette.jsonc", "{");
        let stopped = home.run(["stop"]);
        assert!(stopped.status.success(), "{}", shown(&stopped));
        assert!(
            String::from_utf8_lossy(&stopped.stderr).contains("oubliette config check"),
            "{}",
            shown(&stopped)
        );
    })
    .await
    .unwrap();
}

#[test]
fn a_new_server_takes_the_place_of_the_one_that_runs() {
    let home = Home::without_model();
    home.start();
    let first = home.pid();
    assert!(home.ok(["--daemon"]).starts_with(&format!("already running: pid {first}")));
    let second = home.run(["serve"]);
    assert_eq!(second.status.code(), Some(5), "{}", shown(&second));
    let told = String::from_utf8_lossy(&second.stderr).into_owned();
    for part in [format!("pid {first}"), "version ".into(), "since ".into(), "--takeover".into()] {
        assert!(told.contains(&part), "{part} in {told}");
    }
    assert!(home.ok(["--daemon", "--takeover"]).starts_with("started: pid "));
    assert_ne!(home.pid(), first);
    until("the first to be gone", || !is_alive(first));
    home.ok(["status"]);
}

/// W57: the same home for every command, whatever it is called, and with nothing said; its server has a pid file, and no
/// shell reads its name.
#[test]
fn every_command_finds_the_same_home() {
    let home = Home::without_model();
    let odd = home.user("it's a \"home\" $(of mine)");
    fs::create_dir_all(&odd).unwrap();
    fs::write(odd.join("config.yaml"), "server:\n  address: 127.0.0.1:0\nmodels:\n  discover_ports: []\n")
        .unwrap();
    let run = |args: &[&str]| {
        let output = unnamed(&home, &odd, args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", shown(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let secret = run(&["token", "create", "--name", "ops", "--scope", "admin"]);
    let started = run(&["--daemon"]);
    assert!(started.contains(&fs::canonicalize(&odd).unwrap().display().to_string()), "{started}");
    assert!(odd.join("data/auth.db").exists() && odd.join("logs/oubliette.log").exists());
    let status: Value = serde_json::from_str(&run(&["status", "--json"])).unwrap();
    assert_eq!(status["home"], fs::canonicalize(&odd).unwrap().to_str().unwrap());
    assert!(run(&["token", "list"]).contains("ops"));
    let real = fs::canonicalize(&odd).unwrap();
    for args in [&["doctor"][..], &["store", "check"], &["config", "check"]] {
        let told: Value = serde_json::from_str(&run(&[args, &["--json"]].concat())).unwrap();
        assert_eq!(told["home"], real.to_str().unwrap(), "{args:?}");
    }
    let pid = fs::read_to_string(odd.join("data/oubliette.pid")).unwrap();
    assert_eq!(status["pid"].to_string(), pid.trim());
    let command_line = fs::read(format!("/proc/{}/cmdline", pid.trim())).unwrap();
    assert!(command_line.starts_with(b"oubliette-server\0"), "{}", String::from_utf8_lossy(&command_line));
    let address = status["addresses"][0].as_str().unwrap();
    let answer = Command::new("curl")
        .args([
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "-H",
            &format!("Authorization: Bearer {}", secret.trim()),
        ])
        .arg(format!("http://{address}/api/v1/projects"))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&answer.stdout), "200");
    run(&["stop"]);
}

/// A clone that brings a home is not obeyed until its user said so.
#[test]
fn a_home_that_came_with_a_clone_is_not_obeyed() {
    let home = Home::without_model();
    let clone = home.user("clone");
    fs::create_dir_all(clone.join(".oubliette/config")).unwrap();
    let file = clone.join(".oubliette/config/oubliette.jsonc");
    let evil = PRESENT.replace("http://127.0.0.1:9/v1", "https://models.example/v1");
    fs::write(&file, &evil).unwrap();
    let refused = unnamed(&home, &clone, &["run", "x", "--project", "."]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2), "{}", shown(&refused));
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(told.contains("may not say where tasks and code go") && told.contains("--dir ."), "{told}");
    fs::create_dir(clone.join(".oubliette/data")).unwrap();
    fs::write(&file, "{}").unwrap();
    let refused = unnamed(&home, &clone, &["token", "list"]).output().unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("not made here by you"), "{}", shown(&refused));
    // The positive control: named once, it is obeyed.
    fs::write(&file, &evil).unwrap();
    for (args, ok) in [
        (&["config", "check"][..], false),
        (&["token", "list", "--dir", ".oubliette"], true),
        (&["config", "check"], true),
    ] {
        let output = unnamed(&home, &clone, args).output().unwrap();
        assert_eq!(output.status.success(), ok, "{args:?}: {}", shown(&output));
    }
}

/// `cp data/auth.db` while tokens are made: each copy is a database with every token that was acknowledged before.
#[test]
fn a_copy_of_the_tokens_is_complete_while_the_server_runs() {
    let home = Home::without_model();
    home.start();
    let (from, to) = (home.root().join("data/auth.db"), home.user("copied"));
    fs::create_dir_all(to.join("data")).unwrap();
    for n in 0..10 {
        home.ok(["token", "create", "--name", &format!("t{n}"), "--scope", "admin:ro"]);
        let name = format!("beside{n}");
        let mut maker = home.command(["token", "create", "--name", &name, "--scope", "admin:ro"]);
        let maker = maker.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        assert!(Command::new("cp").arg(&from).arg(to.join("data/auth.db")).status().unwrap().success());
        assert!(maker.unwrap().wait().unwrap().success());
        let listed = unnamed(&home, &home.user("."), &["token", "list", "--dir", to.to_str().unwrap()])
            .output()
            .unwrap();
        let names = String::from_utf8(listed.stdout.clone()).unwrap();
        for known in 0..=n {
            assert!(names.contains(&format!(" t{known} ")), "t{known} in {}", shown(&listed));
        }
        for file in ["auth.db", "auth.db-wal", "auth.db-shm"] {
            fs::remove_file(to.join("data").join(file)).ok();
        }
    }
}
