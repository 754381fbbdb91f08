//! `support bundle`: whatever is broken, there is one file, and no secret is in it.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::harness::Home;
use crate::harness::shown;
use crate::process::Stopped;

/// Words that stand in the planted secrets and nowhere else.
const CANARIES: [&str; 9] = [
    "canary-environment",
    "canary-file",
    "canary-comment",
    "canary-header",
    "canary-sandbox",
    "canary-login",
    "canary-log",
    "canary-foreign",
    "canary\\\"quoted",
];

/// A configuration with a secret wherever one can be.
const FILE: &str = r#"{
  // api_key: "canary-comment-0123456789"
  "credentials": { "providers": { "credentials": {
    "main": { "base_url": "http://127.0.0.1:9/v1", "api_key": "canary-file-0123456789", "default_model": "m" },
  } } },
  "models": { "demonstration": false, "discover_ports": [], "models": {
    "m": { "provider": "main", "model": "m-1", "extraHeaders": { "X-Api-Key": "canary-header-0123456789" } },
  } },
  "sandbox": { "env": { "MY_TOKEN": "canary-sandbox-0123456789", "PLAIN": "plain-value" } },
}
"#;

/// What a bundle holds, by name, and the file itself. Unpacked by the program that its readers use.
fn bundle(home: &Home, name: &str) -> (PathBuf, Vec<(String, String)>) {
    let file = home.user(&format!("{name}.tar.gz"));
    let output = home.run(["support", "bundle", "--out", file.to_str().unwrap()]);
    assert!(output.status.success(), "{}", shown(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("wrote {}\n", file.display()));
    let folder = home.user(name);
    fs::create_dir(&folder).unwrap();
    assert!(Command::new("tar").arg("-xzf").arg(&file).arg("-C").arg(&folder).status().unwrap().success());
    let top = fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    let read = |path: &Path| {
        (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(path).unwrap())
    };
    (file, fs::read_dir(top).unwrap().map(|entry| read(&entry.unwrap().path())).collect())
}

fn part<'a>(parts: &'a [(String, String)], name: &str) -> &'a str {
    let found = parts.iter().find(|(part, _)| part == name);
    &found
        .unwrap_or_else(|| panic!("{name} in {:?}", parts.iter().map(|(name, _)| name).collect::<Vec<_>>()))
        .1
}

fn has_no_secret(parts: &[(String, String)], token: &str) {
    for (name, text) in parts {
        for canary in CANARIES.iter().copied().chain([token, "canary\"quoted"]) {
            assert!(!text.contains(canary), "{canary} in {name}:\n{text}");
        }
    }
}

/// A home with a secret everywhere, and the token that it made.
fn planted() -> (Home, String) {
    let mut home = Home::without_model();
    home.set("OPENAI_API_KEY", "canary-environment-0123456789");
    home.set("OPENAI_BASE_URL", "http://127.0.0.1:9/v1");
    home.set("SOMEBODYS_SECRET", "canary\"quoted\\and-so-on");
    home.set("UNRELATED_PASSWORD", "canary-foreign-0123456789");
    fs::create_dir_all(home.root().join("config")).unwrap();
    fs::write(home.root().join("config/oubliette.jsonc"), FILE).unwrap();
    let token = home.ok(["token", "create", "--name", "ops", "--scope", "admin"]).trim().to_owned();
    (home, token)
}

#[test]
fn a_bundle_holds_what_is_needed_and_no_secret_wherever_it_was_planted() {
    let (home, token) = planted();
    home.start();
    let log = home.root().join("data/logs/oubliette.log");
    let mut log = fs::File::options().append(true).open(log).unwrap();
    // As a program might have said it that knows nothing of redaction.
    writeln!(log, "an old line: sk-canary-log-0123456789 {token} canary-file-0123456789 \"canary\\\"quoted\\\\and-so-on\"")
        .unwrap();
    let (file, parts) = bundle(&home, "running");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    has_no_secret(&parts, &token);

    // The positive control: each place where one was planted is in there.
    let configuration = part(&parts, "configuration.txt");
    for line in [
        "credentials.main.api_key = \"[redacted]\"",
        "plain-value",
        "X-Api-Key",
        "MY_TOKEN",
        "oubliette.jsonc:4:",
    ] {
        assert!(configuration.contains(line), "{line} in {configuration}");
    }
    let log = part(&parts, "log.txt");
    assert!(
        log.contains("an old line: [redacted] [redacted] [redacted]") && log.contains("server started"),
        "{log}"
    );
    assert!(part(&parts, "environment.txt").contains("OPENAI_API_KEY\n"));
    assert!(
        !part(&parts, "environment.txt").contains("SOMEBODYS"),
        "what does not concern us is not even named"
    );
    assert!(part(&parts, "metrics.txt").contains("oubliette_build_info"));
    let server: Value = serde_json::from_str(part(&parts, "server.json")).unwrap();
    assert_eq!((&server["holder"]["pid"], &server["health"]["status"]), (&home.pid().into(), &"ok".into()));
    let doctor: Value = serde_json::from_str(part(&parts, "doctor.json")).unwrap();
    assert!(doctor["checks"].as_array().unwrap().len() > 20);
    let versions: Value = serde_json::from_str(part(&parts, "versions.json")).unwrap();
    assert!(home.ok(["--version"]).contains(versions["oubliette"].as_str().unwrap()));
    assert!(part(&parts, "files.txt").contains("auth.db"));
    assert!(!parts.iter().any(|(name, _)| name == "missing.txt"));

    let again = home.run(["support", "bundle", "--out", file.to_str().unwrap()]);
    assert_eq!(again.status.code(), Some(5), "nothing is written over: {}", shown(&again));
}

#[test]
fn a_bundle_of_what_is_broken_says_what_it_lacks_and_holds_no_secret_either() {
    let (home, token) = planted();
    let file = home.root().join("config/oubliette.jsonc");
    // A login in an address is refused, and so is what follows it.
    let login = FILE.replace("http://127", "http://me:canary-login@127");
    fs::write(&file, login.replace("\"PLAIN\":", "\"PLAIN\": canary-file-0123456789,")).unwrap();
    let check = home.run(["config", "check"]);
    assert_eq!(check.status.code(), Some(2), "{}", shown(&check));
    let (_, parts) = bundle(&home, "broken");
    has_no_secret(&parts, &token);
    assert!(part(&parts, "configuration.txt").contains("mistake: "), "{}", part(&parts, "configuration.txt"));
    let missing = part(&parts, "missing.txt");
    assert!(missing.contains("metrics.txt: no server runs") && missing.contains("log.txt: "), "{missing}");
}

#[test]
fn a_bundle_of_a_server_that_hangs_does_not_wait_for_it() {
    let home = Home::without_model();
    home.start();
    let stopped = Stopped::new(home.pid());
    let (_, parts) = bundle(&home, "hanging");
    let server: Value = serde_json::from_str(part(&parts, "server.json")).unwrap();
    assert_eq!(server["holder"]["pid"], home.pid());
    let missing = part(&parts, "missing.txt");
    assert!(missing.contains("metrics.txt: the server did not answer within"), "{missing}");
    assert!(part(&parts, "log.txt").contains("server started"));
    drop(stopped);
}
