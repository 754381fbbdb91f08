//! Hostile repositories: what git would run, read or wait for if the server let it.
//!
//! A trap is set by a shell script in a repository. A session is started on it; the control does in a copy of it what
//! a person would. A trap that went off has made its mark, a file.

use std::collections::HashMap;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use crate::batch::Batch;
use crate::batch::open_to_all;
use crate::case::Case;
use crate::case::Verdict;
use crate::case::Verdict::Got;
use crate::case::Verdict::Held;
use crate::harness::until;

const CONTROL: &str = "a person's own git in a copy of the repository";

/// A way to make git do what its user did not ask for.
struct Trap {
    id: &'static str,
    tries: &'static str,
    shows: &'static str,
    /// Run in a repository with one commit of `a.txt`; `$M` is the mark to make, `$SECRET` a private file.
    set: &'static str,
    /// What a person would do there.
    spring: &'static str,
    /// The repository is broken by it: a session of its own, which may fail.
    alone: bool,
}

/// Traps that leave the repository whole share one.
const fn trap(
    id: &'static str,
    tries: &'static str,
    shows: &'static str,
    set: &'static str,
    spring: &'static str,
) -> Trap {
    Trap { id, tries, shows, set, spring, alone: false }
}

const fn alone(
    id: &'static str,
    tries: &'static str,
    shows: &'static str,
    set: &'static str,
    spring: &'static str,
) -> Trap {
    Trap { id, tries, shows, set, spring, alone: true }
}

const RUNS: &str = "the server runs a program of the repository's";

const TRAPS: &[Trap] = &[
    trap(
        "git.monitor",
        "name a program as the file system monitor",
        RUNS,
        "git config core.fsmonitor \"touch $M #\"",
        "git status",
    ),
    trap(
        "git.clean_filter",
        "name a program as a clean filter, and give it a changed file",
        RUNS,
        "git config filter.c.clean \"touch $M; cat\"; echo 'c.* filter=c' >> .git/info/attributes; echo 1 > c.txt; git add c.txt; git $ME commit -qm c; echo 2 > c.txt; touch -d '1 hour ago' c.txt",
        "git status",
    ),
    trap(
        "git.smudge_filter",
        "name a program as a smudge filter",
        RUNS,
        "git config filter.s.smudge \"touch $M; cat\"; echo 's.* filter=s' >> .git/info/attributes; echo 1 > s.txt; git -c filter.s.smudge= add s.txt; git $ME commit -qm s",
        "rm s.txt; git checkout s.txt",
    ),
    trap(
        "git.process_filter",
        "name a program as a long-running filter",
        RUNS,
        "git config filter.p.process \"touch $M\"; echo 'p.* filter=p' >> .git/info/attributes; echo 1 > p.txt",
        "git add p.txt",
    ),
    trap(
        "git.odd_filter",
        "name a filter with an equals sign in its name",
        RUNS,
        "printf 'o.txt filter=a=b\\n' >> .git/info/attributes; git config 'filter.a=b.clean' \"touch $M; cat\"; echo 1 > o.txt; git -c 'filter.a=b.clean=' add o.txt; git $ME commit -qm o; echo 2 > o.txt; touch -d '1 hour ago' o.txt",
        "git add o.txt",
    ),
    trap(
        "git.included",
        "include a configuration that names a filter",
        RUNS,
        "printf '[filter \"i\"]\\n clean = \"touch %s; cat\"\\n' $M > .git/more; git config include.path more; echo 'i.* filter=i' >> .git/info/attributes; echo 1 > i.txt; git -c filter.i.clean= add i.txt; git $ME commit -qm i; echo 2 > i.txt; touch -d '1 hour ago' i.txt",
        "git add i.txt",
    ),
    trap(
        "git.included_if",
        "include it only for this folder",
        RUNS,
        "printf '[filter \"f\"]\\n clean = \"touch %s; cat\"\\n' $M > .git/even-more; git config \"includeIf.gitdir:/.path\" even-more; echo 'f.* filter=f' >> .git/info/attributes; echo 1 > f.txt; git -c filter.f.clean= add f.txt; git $ME commit -qm f; echo 2 > f.txt; touch -d '1 hour ago' f.txt",
        "git add f.txt",
    ),
    trap(
        "git.worktree_configuration",
        "name a filter in the worktree's own configuration",
        RUNS,
        "git config extensions.worktreeConfig true; git config core.repositoryformatversion 1; git config --worktree filter.w.clean \"touch $M; cat\"; echo 'w.* filter=w' >> .git/info/attributes; echo 1 > w.txt; git -c filter.w.clean= add w.txt; git $ME commit -qm w; echo 2 > w.txt; touch -d '1 hour ago' w.txt",
        "git add w.txt",
    ),
    trap(
        "git.tracked_attributes",
        "name the filter in a tracked `.gitattributes`",
        RUNS,
        "git config filter.t.clean \"touch $M; cat\"; echo 't.* filter=t' >> .gitattributes; echo 1 > t.txt; git -c filter.t.clean= add t.txt .gitattributes; git $ME commit -qm t; echo 2 > t.txt; touch -d '1 hour ago' t.txt",
        "git add t.txt",
    ),
    trap(
        "git.external_diff",
        "name a program that shows differences",
        RUNS,
        "git config diff.external \"touch $M\"",
        "echo 3 >> a.txt; git diff",
    ),
    trap(
        "git.text_conversion",
        "name a program that makes text of a file",
        RUNS,
        "git config diff.x.textconv \"touch $M; cat\"; echo 'x.* diff=x' >> .git/info/attributes; echo 1 > x.txt; git add x.txt; git $ME commit -qm x; echo 2 > x.txt",
        "git diff --no-ext-diff --textconv x.txt",
    ),
    trap(
        "git.hook_checkout",
        "bring a hook that runs after a checkout",
        RUNS,
        "printf '#!/bin/sh\\ntouch %s\\n' $M > .git/hooks/post-checkout; chmod +x .git/hooks/post-checkout",
        "git -c core.fsmonitor= checkout -q -b other",
    ),
    trap(
        "git.hook_transaction",
        "bring a hook that runs when a reference moves",
        RUNS,
        "printf '#!/bin/sh\\ntouch %s\\n' $M > .git/hooks/reference-transaction; chmod +x .git/hooks/reference-transaction",
        "git update-ref refs/heads/y HEAD",
    ),
    trap(
        "git.hook_index",
        "bring a hook that runs when the index is written",
        RUNS,
        "printf '#!/bin/sh\\ntouch %s\\n' $M > .git/hooks/post-index-change; chmod +x .git/hooks/post-index-change",
        "echo new > n.txt; git -c core.fsmonitor= add n.txt",
    ),
    trap(
        "git.hooks_in_tree",
        "point the path of hooks into the tree",
        RUNS,
        "mkdir -p hooks; printf '#!/bin/sh\\ntouch %s\\n' $M > hooks/pre-commit; chmod +x hooks/pre-commit",
        "git config core.hooksPath hooks; git -c user.name=T -c user.email=t@localhost -c commit.gpgSign=false commit -q --allow-empty -m h",
    ),
    trap(
        "git.submodule_filter",
        "bring a nested repository with a filter of its own",
        RUNS,
        "git init -q nested; (cd nested; echo 1 > n; git add n; git $ME commit -qm n; git config filter.n.clean \"touch $M; cat\"; mkdir -p .git/info; echo 'n filter=n' > .git/info/attributes); git add nested 2>/dev/null; git $ME commit -qm nested; echo 2 > nested/n; touch -d '1 hour ago' nested/n",
        "git status",
    ),
    trap(
        "git.submodule_monitor",
        "bring a nested repository with a monitor of its own",
        RUNS,
        "git init -q inner; (cd inner; echo 1 > n; git add n; git $ME commit -qm n; git config core.fsmonitor \"touch $M #\"); git add inner 2>/dev/null; git $ME commit -qm inner; echo 2 > inner/n; touch -d '1 hour ago' inner/n",
        "git status",
    ),
    trap(
        "git.ssh_command",
        "name a program as ssh, and a remote that needs it",
        RUNS,
        "git config core.sshCommand \"touch $M #\"; git remote add away ssh://nobody.invalid/x",
        "git fetch away",
    ),
    trap(
        "git.upload_program",
        "name a program as the remote's end",
        RUNS,
        "git remote add near ./nested; git config remote.near.uploadpack \"touch $M #\"",
        "git fetch near",
    ),
    trap(
        "git.external_protocol",
        "name a remote that is a program",
        RUNS,
        "git remote add ext \"ext::sh -c touch% $M\"",
        "git -c protocol.ext.allow=always fetch ext",
    ),
    trap(
        "git.signing_program",
        "name a program that signs",
        RUNS,
        "git config commit.gpgSign true; git config gpg.program \"$M.sh\"; printf '#!/bin/sh\\ntouch %s\\n' $M > $M.sh; chmod +x $M.sh",
        "git -c user.name=T -c user.email=t@localhost -c core.hooksPath=/dev/null -c core.fsmonitor= commit -S -q --allow-empty -m g",
    ),
    trap(
        "git.merge_driver",
        "name a program that merges",
        RUNS,
        "git config merge.m.driver \"touch $M\"; echo 'm.* merge=m' >> .git/info/attributes",
        "C=\"git $ME\"; B=$(git branch --show-current); echo 1 > m.t; $C add m.t; $C commit -qm m1; $C branch side; echo 2 > m.t; $C commit -qam m2; $C checkout -qf side; echo 3 > m.t; $C commit -qam m3; $C merge -q $B",
    ),
    trap(
        "git.link_to_secret",
        "track a link to a private file",
        "private files are copied for the agent",
        "ln -s $SECRET link-out; git add link-out; git $ME commit -qm link",
        "cp link-out $M; grep -q canary $M",
    ),
    alone(
        "git.lazy_fetch",
        "miss an object, and name a program that fetches it",
        RUNS,
        "git config extensions.partialClone origin; git config core.repositoryformatversion 1; git config remote.origin.promisor true; git config remote.origin.url ssh://nobody.invalid/x; git config core.sshCommand \"touch $M #\"; T=$(git rev-parse HEAD^{tree}); rm -f .git/index .git/objects/$(echo $T | cut -c1-2)/$(echo $T | cut -c3-)",
        "git status",
    ),
    alone(
        "git.lazy_fetch_of_head",
        "miss the newest commit itself",
        RUNS,
        "git config extensions.partialClone origin; git config core.repositoryformatversion 1; git config remote.origin.promisor true; git config remote.origin.url ./; git config remote.origin.uploadpack \"touch $M #\"; T=$(git rev-parse HEAD); rm -f .git/objects/$(echo $T | cut -c1-2)/$(echo $T | cut -c3-)",
        "git log",
    ),
    alone(
        "git.worktree_elsewhere",
        "name a private folder as the working tree",
        "private files are copied for the agent",
        "git config core.worktree $(dirname $SECRET)",
        "git -c safe.directory='*' add -A; git ls-files | grep -q secret.txt && touch $M",
    ),
    alone(
        "git.linked_objects",
        "link the folder of objects to a private one",
        "private history is copied for the agent",
        "git init -q --bare $M.private; mv .git/objects $M.objects; ln -s $M.objects .git/objects",
        "git log -p > $M",
    ),
    alone(
        "git.linked_index",
        "be a repository of somebody else's inside a bare one",
        "a folder's own files are taken for git's",
        "mkdir bare; git init -q --bare bare; git -C bare config core.fsmonitor \"touch $M #\"; git -C bare config core.bare false; git -C bare config core.worktree ..; rm -rf .git; cp -r bare/* .; rm -rf bare",
        "git --git-dir=. status; git status",
    ),
    alone(
        "git.waiting_pipe",
        "bring a pipe where git reads its settings, so that it waits for ever",
        "a session starts for ever and cannot be ended",
        "mkfifo .gitattributes",
        "timeout 2 git status; [ $? = 124 ] && touch $M",
    ),
];

/// What the traps did: the attempt's verdict and the control's.
pub(crate) type Sprung = HashMap<&'static str, (Verdict, Verdict)>;

/// All of them.
pub(super) fn cases() -> Vec<Case> {
    TRAPS.iter().map(|trap| Case::seen(trap.id, trap.tries, trap.shows, CONTROL, tried, controlled)).collect()
}

fn tried(batch: &Batch, id: &str) -> Verdict {
    verdicts(batch).get(id).map_or_else(|| Held("never made".to_owned()), |(attempt, _)| attempt.clone())
}

fn controlled(batch: &Batch, id: &str) -> Verdict {
    verdicts(batch).get(id).map_or_else(|| Held("never made".to_owned()), |(_, control)| control.clone())
}

/// What all traps did, sprung once.
fn verdicts(batch: &Batch) -> &Sprung {
    batch.once.sprung.get_or_init(|| {
        let marks = batch.folder.path().join("marks");
        std::fs::create_dir(&marks).expect("a folder");
        // A program that runs without walls must be able to say so.
        open_to_all(&marks, 0o777);
        let shared: Vec<&Trap> = TRAPS.iter().filter(|trap| !trap.alone).collect();
        let mut verdicts = sprung(batch, &marks, "shared", &shared);
        for trap in TRAPS.iter().filter(|trap| trap.alone) {
            verdicts.extend(sprung(batch, &marks, trap.id, &[trap]));
        }
        verdicts
    })
}

/// Sets traps in one repository, has a session started on it, then springs them in a copy.
fn sprung(batch: &Batch, marks: &Path, name: &str, traps: &[&Trap]) -> Sprung {
    let source = batch.home.repository(&format!("trap-{name}"), &[("a.txt", "one\n")]);
    let mark = |trap: &Trap| marks.join(trap.id);
    for trap in traps {
        script(batch, &source, &mark(trap), trap.set);
    }
    let copy = source.with_file_name(format!("copy-{name}"));
    assert!(Command::new("cp").arg("-a").args([&source, &copy]).status().unwrap().success());
    // Setting a trap may spring it.
    for trap in traps {
        std::fs::remove_file(mark(trap)).ok();
    }
    let ended = start(batch, &source);
    let attempts: Vec<Verdict> = traps
        .iter()
        .map(|trap| if mark(trap).exists() { Got("it made its mark".to_owned()) } else { ended.clone() })
        .collect();
    let mut verdicts = HashMap::new();
    for (trap, attempt) in traps.iter().zip(attempts) {
        std::fs::remove_file(mark(trap)).ok();
        script(batch, &copy, &mark(trap), trap.spring);
        let control = if mark(trap).exists() {
            Got("it made its mark".to_owned())
        } else {
            Held("it did not".to_owned())
        };
        verdicts.insert(trap.id, (attempt, control));
    }
    verdicts
}

/// Starts a session on a repository and waits until it has a workspace or has failed. It must end when told.
fn start(batch: &Batch, source: &Path) -> Verdict {
    batch.model.otherwise(ob_testkit::Answer::text("Done."));
    let output = batch.home.run([
        "run",
        "Look.",
        "--project",
        source.to_str().unwrap(),
        "--detach",
        "--keep",
        "--json",
    ]);
    let Ok(answer) = serde_json::from_slice::<serde_json::Value>(&output.stdout) else {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Held(format!("refused: {said}"));
    };
    let session = answer["session_id"].as_str().unwrap().to_owned();
    // A trap that makes git wait has the session wait: then it must end when it is told to.
    let settled = within(Duration::from_secs(10), || {
        matches!(batch.home.state(&session).as_str(), "idle" | "failed" | "ended")
    });
    let got = secret_in(&workspace(batch, &session), &batch.canary);
    let reason = batch.home.json(&["session", "get", &session])["reason"].to_string();
    batch.home.run(["session", "end", &session]);
    let is_over = || matches!(batch.home.state(&session).as_str(), "failed" | "ended");
    if !settled && !within(Duration::from_secs(10), is_over) {
        return Got("the session neither starts nor ends".to_owned());
    }
    until("the session to be over", is_over);
    match got {
        Some(path) => Got(format!("the agent has {}", path.display())),
        None => Held(format!("nothing of it was run; {reason}")),
    }
}

fn workspace(batch: &Batch, session: &str) -> PathBuf {
    batch.workspace(session)
}

/// A file of a workspace that holds what is private, links not followed.
fn secret_in(workspace: &Path, canary: &str) -> Option<PathBuf> {
    let mut folders = vec![workspace.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file()
                && std::fs::read(entry.path()).is_ok_and(|b| String::from_utf8_lossy(&b).contains(canary))
            {
                return Some(entry.path());
            }
        }
    }
    None
}

fn within(patience: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let deadline = std::time::Instant::now() + patience;
    loop {
        if is_so() {
            return true;
        }
        if std::time::Instant::now() > deadline {
            return false;
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// Runs a script in a repository; what it says and how it ends is of no interest.
fn script(batch: &Batch, folder: &Path, mark: &Path, text: &str) {
    Command::new("timeout")
        .args(["20", "sh", "-c", text])
        .current_dir(folder)
        .env("M", mark)
        .env("ME", "-c user.name=T -c user.email=t@localhost -c commit.gpgSign=false -c core.hooksPath=/dev/null -c core.fsmonitor=")
        .env("SECRET", &batch.inside.secret)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_EDITOR", "true")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("a shell");
}
