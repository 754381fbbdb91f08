//! `oubliette init`: a home, a configuration and a first token, once.

use std::fs;

use crate::harness::Home;
use crate::harness::shown;
use crate::terminal::Terminal;

/// A configuration that somebody wrote.
const MINE: &str = "{ \"log\": { \"level\": \"warn\" } } // mine\n";

#[test]
fn a_home_is_made_once_and_nothing_in_it_is_lost_or_written_over_unasked() {
    let home = Home::without_model();
    let file = home.root().join("config/oubliette.jsonc");
    let made = home.run(["init"]);
    assert!(made.status.success(), "{}", shown(&made));
    let secret = String::from_utf8(made.stdout).unwrap();
    assert!(secret.starts_with("oub_") && secret.lines().count() == 1, "{secret}");
    assert!(fs::read_to_string(&file).unwrap().contains("// \"server\""));

    // Without a terminal it refuses; what is there stays.
    fs::write(&file, MINE).unwrap();
    let again = home.run(["init"]);
    assert_eq!(again.status.code(), Some(5), "{}", shown(&again));
    assert_eq!(fs::read_to_string(&file).unwrap(), MINE);

    // On one it asks; only a yes is one.
    let on_terminal = |answer: &str| {
        let mut terminal = Terminal::run(home.command(["init"]).env("TERM", "xterm"), 120);
        terminal.shows("[y/N]");
        terminal.keys(answer);
        let (status, _) = terminal.end();
        assert!(status.success(), "{status}\n{}", terminal.text());
        terminal.text()
    };
    for answer in ["\n", "n\n", "oh yes\n"] {
        let text = on_terminal(answer);
        assert!(text.contains("as it was") && !text.contains("oub_"), "{text}");
        assert_eq!(fs::read_to_string(&file).unwrap(), MINE, "{answer:?}");
    }
    let text = on_terminal("y\n");
    assert!(text.contains("oubliette.jsonc.old"), "{text}");
    assert_eq!(fs::read_to_string(file.with_extension("jsonc.old")).unwrap(), MINE);
    assert_ne!(fs::read_to_string(&file).unwrap(), MINE);

    // A first token comes again only after it was revoked.
    assert!(home.json(&["init", "--force"])["secret"].is_null());
    home.ok(["token", "revoke", "admin"]);
    let second = home.json(&["init", "--force"])["secret"].as_str().unwrap().to_owned();
    assert_ne!(second, secret.trim());
    assert_eq!(home.json(&["config", "check"])["mistakes"], serde_json::json!([]));
}

#[test]
fn a_home_of_the_first_version_stays_one() {
    let home = Home::without_model();
    fs::create_dir_all(home.root()).unwrap();
    fs::write(home.root().join("config.yaml"), "log:\n  level: info\n").unwrap();
    let output = home.run(["init", "--force"]);
    assert_eq!(output.status.code(), Some(5), "{}", shown(&output));
    assert!(String::from_utf8_lossy(&output.stderr).contains("config migrate"), "{}", shown(&output));
    assert!(!home.root().join("config").exists());
}
