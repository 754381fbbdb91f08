//! Completions and manual pages, as shells and `man` take them.

use std::path::Path;
use std::process::Command;

use ob_testkit::Answer;
use ob_testkit::ModelServer;

use crate::harness::Home;
use crate::harness::can_sandbox;
use crate::harness::shown;

const SHELLS: [&str; 5] = ["bash", "elvish", "fish", "powershell", "zsh"];

/// What a shell's script is answered for these words, the last of them half typed.
fn answer(home: &Home, shell: &str, words: &[&str]) -> Vec<String> {
    let root = home.root();
    let words = [&["oubliette", "--dir", root.to_str().unwrap()], words].concat();
    let index = (words.len() - 1).to_string();
    let plain = home.command([""; 0]);
    let output = Command::new(plain.get_program())
        .arg("--")
        .args(&words)
        .env_clear()
        .envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .envs([("COMPLETE", shell), ("_CLAP_COMPLETE_INDEX", &index), ("_CLAP_IFS", "\n")])
        .output()
        .unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{shell}: {}", shown(&output));
    // Some shells are told what a candidate is, behind it.
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| line.split(['\t', ':']).next().unwrap().to_owned()).collect()
}

fn bin() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_oubliette")).parent().unwrap()
}

/// A program on this machine; nothing, and a word about it, if it is not there.
fn found(program: &str) -> Option<Command> {
    let path = std::env::var_os("PATH").unwrap();
    if !std::env::split_paths(&path).any(|folder| folder.join(program).is_file()) {
        eprintln!("skipped: {program} is not installed");
        return None;
    }
    let mut command = Command::new(program);
    let path =
        std::env::join_paths([bin().to_owned()].into_iter().chain(std::env::split_paths(&path))).unwrap();
    command.env_clear().env("PATH", path).env("LC_ALL", "C.UTF-8").env("TERM", "dumb");
    Some(command)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_shell_completes_what_the_server_knows_and_a_tab_starts_nothing() {
    if !can_sandbox() {
        return;
    }
    let model = ModelServer::start().await.unwrap();
    model.otherwise(Answer::text("Done."));
    tokio::task::spawn_blocking(move || {
        let home = Home::new(&model);
        for shell in SHELLS {
            assert!(answer(&home, shell, &["ses"]).contains(&"session".to_owned()), "{shell}");
            assert_eq!(answer(&home, shell, &["session", "get", "gogol_"]), [""; 0], "{shell}");
            assert_eq!(
                answer(&home, shell, &["token", "revoke", ""]),
                answer(&home, shell, &["token", "info", ""])
            );
        }
        assert!(!home.root().exists(), "a TAB makes nothing");

        let source = home.repository("thing", &[("a.txt", "one\n")]);
        let session = home.spawn(&source, "Look at $(this) `and` that");
        let token = home.json(&["token", "create", "--name", "ci", "--scope", "admin:ro"]);
        let project = home.json(&["project", "list"])[0]["id"].as_str().unwrap().to_owned();
        for shell in SHELLS {
            let has = |words: &[&str], candidate: &str| {
                let answered = answer(&home, shell, words);
                assert!(answered.iter().any(|c| c == candidate), "{shell} {words:?}: {answered:?}");
            };
            has(&["session", "get", ""], &session);
            has(&["session", "events", "gogol_"], &session);
            has(&["session", "end", &session[session.len() - 4..]], &session);
            has(&["session", "diff", "la"], "last");
            has(&["session", "list", "--before", ""], &session);
            has(&["session", "list", "--status", "comp"], "completed");
            has(&["project", "get", ""], &project);
            has(&["token", "revoke", ""], "ci");
            has(&["token", "info", "tok_"], token["record"]["id"].as_str().unwrap());
            assert!(answer(&home, shell, &["session", "get", "nothing"]).is_empty(), "{shell}");
        }

        // With the server down tokens are still known, and a TAB does not start it.
        home.ok(["stop"]);
        assert!(answer(&home, "bash", &["token", "revoke", "c"]).contains(&"ci".to_owned()));
        assert!(answer(&home, "bash", &["session", "get", "gogol_"]).is_empty());
        assert_eq!(home.run(["status"]).status.code(), Some(4));
    })
    .await
    .unwrap();
}

#[test]
fn bash_takes_the_script_and_completes_with_it() {
    let Some(mut bash) = found("bash") else { return };
    let script = "\
        source <(oubliette completions bash)\n\
        COMP_WORDS=(oubliette config sh) COMP_CWORD=2 COMP_TYPE=9\n\
        _clap_complete_oubliette oubliette sh config\n\
        printf '%s\\n' \"${COMPREPLY[@]}\"\n\
        complete -p oubliette\n";
    let output = bash.args(["--norc", "-c", script]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        said.starts_with("show\n") && said.contains("-F _clap_complete_oubliette oubliette"),
        "{}",
        shown(&output)
    );
}

#[test]
fn the_scripts_are_of_their_shells() {
    for shell in SHELLS {
        let output = Command::new(env!("CARGO_BIN_EXE_oubliette"))
            .args(["completions", shell])
            .env_clear()
            .output()
            .unwrap();
        let script = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && script.contains("COMPLETE"), "{shell}: {}", shown(&output));
        assert!(!script.contains(bin().to_str().unwrap()), "it goes to other machines: {script}");
        let (program, check): (&str, &[&str]) = match shell {
            "bash" => ("bash", &["-n"]),
            "zsh" => ("zsh", &["-n"]),
            "fish" => ("fish", &["--no-execute"]),
            _ => continue,
        };
        let Some(mut checker) = found(program) else { continue };
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("script");
        std::fs::write(&file, &script).unwrap();
        let output = checker.args(check).arg(&file).output().unwrap();
        assert!(output.status.success(), "{shell}: {}", shown(&output));
    }
}

#[test]
fn man_reads_every_page_without_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let made = Command::new(env!("CARGO_BIN_EXE_oubliette"))
        .args(["man", "--out"])
        .arg(folder.path())
        .env_clear()
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", shown(&made));
    for page in ["oubliette.1", "oubliette-run.1", "oubliette-session-events.1"] {
        let Some(mut man) = found("man") else { return };
        let output = man.args(["--warnings", "--local-file"]).arg(folder.path().join(page)).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && output.stderr.is_empty(), "{page}: {}", shown(&output));
        assert!(text.contains("SYNOPSIS") && text.contains("--dir"), "{page}: {text}");
    }
}
