//! A user's own folder as the workspace: what an agent could leave under `.git` for the user's next git to run.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;

use crate::batch::Batch;
use crate::case::Case;
use crate::case::Verdict;
use crate::case::Verdict::Got;
use crate::case::Verdict::Held;
use crate::harness::until;

const CONTROL: &str = "the same command in a copy of the folder, without a sandbox";
const RUNS: &str = "the user's next git runs the agent's program";

/// A command in the folder; it worked if it ends well.
struct Row(&'static str, &'static str, &'static str, &'static str);

const ROWS: &[Row] = &[
    Row("in_place.hook", "write a hook", RUNS, "echo evil > .git/hooks/post-commit"),
    Row(
        "in_place.hook_link",
        "link a hook to a file in the tree",
        RUNS,
        "ln -s ../../evil .git/hooks/pre-commit",
    ),
    Row(
        "in_place.hook_mode",
        "make a sample of a hook a hook",
        RUNS,
        "mv .git/hooks/sample .git/hooks/pre-commit",
    ),
    Row("in_place.hooks_removed", "remove the folder of hooks, to make another", RUNS, "rm -r .git/hooks"),
    Row(
        "in_place.hooks_moved",
        "move the folder of hooks away, to make another",
        RUNS,
        "mv .git/hooks .git/other",
    ),
    Row("in_place.configuration", "write the configuration", RUNS, "echo evil >> .git/config"),
    Row("in_place.configuration_by_git", "have git write it", RUNS, "git config core.pager evil"),
    Row(
        "in_place.configuration_moved",
        "move another file over it",
        RUNS,
        "cp .git/config new && mv -f new .git/config",
    ),
    Row("in_place.configuration_removed", "remove it, to make another", RUNS, "rm .git/config"),
    Row(
        "in_place.configuration_linked",
        "hard-link it to a file that can be written",
        RUNS,
        "ln .git/config writable && echo evil >> writable",
    ),
    Row(
        "in_place.worktree_configuration",
        "write the worktree's configuration",
        RUNS,
        "echo evil > .git/config.worktree",
    ),
    Row(
        "in_place.common_folder",
        "name another folder as the repository's common one",
        RUNS,
        "echo ../evil > .git/commondir",
    ),
    Row("in_place.modules", "make a submodule's repository", RUNS, "mkdir -p .git/modules/evil"),
    Row("in_place.repository_moved", "move the repository away, to make another", RUNS, "mv .git other"),
    Row("in_place.repository_removed", "remove the repository, to make another", RUNS, "rm -r .git"),
    Row(
        "in_place.set_uid",
        "make a set-uid program of the user's",
        "whoever runs it is the user",
        "cp /usr/bin/id id && chmod 4755 id && [ -u id ]",
    ),
];

/// All of them.
pub(super) fn cases() -> Vec<Case> {
    ROWS.iter()
        .map(|Row(id, tries, shows, _)| Case::seen(id, tries, shows, CONTROL, tried, controlled))
        .collect()
}

fn tried(batch: &Batch, id: &str) -> Verdict {
    let outcome = outcome(batch);
    match &outcome.refused {
        Some(reason) => Held(format!("refused: {reason}")),
        None => verdict(&outcome.inside, id),
    }
}

fn controlled(batch: &Batch, id: &str) -> Verdict {
    verdict(&outcome(batch).without, id)
}

fn verdict(worked: &BTreeSet<String>, id: &str) -> Verdict {
    if worked.contains(id) { Got("it worked".to_owned()) } else { Held("it did not work".to_owned()) }
}

/// What worked in the sandbox, and what without one.
#[derive(Default)]
pub(crate) struct Outcome {
    inside: BTreeSet<String>,
    without: BTreeSet<String>,
    /// Why there is no such session at all.
    refused: Option<String>,
}

fn outcome(batch: &Batch) -> &Outcome {
    batch.once.in_place.get_or_init(|| {
        if !batch.inside.has_walls {
            return Outcome { refused: Some(refused(batch)), ..Outcome::default() };
        }
        let source = batch.home.repository("in-place", &[("a.txt", "one\n")]);
        let prepared =
            "git config extensions.worktreeConfig true; mkdir -p .git/hooks; echo x > .git/hooks/sample";
        assert!(shell(&source, prepared));
        let mut without = BTreeSet::new();
        for Row(id, .., command) in ROWS {
            // Some take the repository away: each has its own.
            let copy = source.with_file_name("copy-in-place");
            assert!(Command::new("cp").arg("-a").args([&source, &copy]).status().expect("cp").success());
            if shell(&copy, command) {
                without.insert((*id).to_owned());
            }
            std::fs::remove_dir_all(copy).expect("ours");
        }
        let session = batch.session_in_place(&source);
        // The program's own answer, in case a command takes the folder for what was said away.
        let commands: Vec<String> = ROWS
            .iter()
            .map(|Row(id, .., command)| format!("({command}) 2>/dev/null && echo {id} >> worked"))
            .collect();
        batch.sh(&session, &format!("echo began > worked; {}; true", commands.join("; ")));
        let said = std::fs::read_to_string(source.join("worked")).expect("it began");
        assert!(said.starts_with("began"), "{said}");
        batch.home.ok(["session", "end", &session]);
        Outcome { inside: said.lines().skip(1).map(str::to_owned).collect(), without, refused: None }
    })
}

/// How a root server says no to a user's own folder where it has no walls to put around it.
fn refused(batch: &Batch) -> String {
    let source = batch.home.repository("in-place", &[("a.txt", "one\n")]);
    let folder = source.to_str().expect("text");
    let words = ["run", "Look.", "--project", folder, "--in-place", "--detach", "--keep"];
    let session = batch.home.json(&words)["session_id"].as_str().expect("an id").to_owned();
    until("the session to be refused", || batch.home.state(&session) == "failed");
    batch.home.json(&["session", "get", &session])["reason"].to_string()
}

fn shell(folder: &Path, command: &str) -> bool {
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).current_dir(folder).stdin(Stdio::null());
    shell.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}
