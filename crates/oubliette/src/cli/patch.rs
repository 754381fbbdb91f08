//! Shows and applies patches.

use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use ob_core::Refusal;
use ob_core::SessionId;
use ob_core::operation::SessionDiff;

use super::failed;
use super::output::Output;
use super::paint::Ink;
use super::paint::Paint;
use super::text;

/// Lines of a patch that a run shows: what a person reads, and a few screens more.
const SHOWN_LINES_MAX: usize = 500;
/// Bytes of a line that a run shows; what is longer was written by a program, for a program.
const SHOWN_LINE_MAX: usize = 2000;
/// Lines of what git says against a patch: the first ones tell why, the others are the same for more files.
const CONFLICT_LINES_MAX: usize = 8;

/// Prints a patch: as it is into a pipe, so that it applies; safe and in colour on a terminal.
pub(crate) fn show(patch: &str, output: &Output) {
    if output.shown {
        output.text(&coloured(patch, output.paint));
    } else {
        output.text(patch);
    }
}

/// Prints what a person wants to see of a patch at the end of a run: text, and not without end. All of it is in
/// `session diff`.
pub(crate) fn show_short(diff: &SessionDiff, output: &Output) {
    let (short, left_out) = shorten(&diff.patch);
    if output.paint.0 {
        output.text(&coloured(&short, output.paint));
    } else {
        show(&short, output);
    }
    if left_out > 0 {
        output.hint(&format!(
            "{} left out here; see all of it with `oubliette session diff {}`",
            text::plural(left_out, "line"),
            diff.session_id
        ));
    }
}

/// The first lines of a patch, without the contents of binary files, and how many lines are left out.
fn shorten(patch: &str) -> (String, usize) {
    let (mut short, mut lines, mut left_out, mut binary) = (String::new(), 0, 0, false);
    for line in patch.split_inclusive('\n') {
        if line.starts_with("diff --git ") {
            binary = false;
        }
        if binary || lines >= SHOWN_LINES_MAX || line.len() > SHOWN_LINE_MAX {
            left_out += 1;
            continue;
        }
        binary = line.starts_with("GIT binary patch");
        short.push_str(line);
        lines += 1;
    }
    (short, left_out)
}

fn coloured(patch: &str, paint: Paint) -> String {
    let mut shown = String::new();
    for line in patch.lines() {
        let line = text::sanitise(line);
        shown.extend([&paint.text(ink(&line), &line), "\n"]);
    }
    shown
}

/// What a line of a patch looks like.
fn ink(line: &str) -> Ink {
    match line.as_bytes() {
        [b'+', b'+', b'+', ..] | [b'-', b'-', b'-', ..] | [b'd', b'i', b'f', b'f', ..] => Ink::Bold,
        [b'+', ..] => Ink::Green,
        [b'-', ..] => Ink::Red,
        [b'@', ..] => Ink::Cyan,
        _ => Ink::Plain,
    }
}

/// The folder that a session's patch goes to.
pub(crate) fn target(diff: &SessionDiff, to: Option<PathBuf>) -> Result<PathBuf, Refusal> {
    if diff.in_place {
        return Err(Refusal::conflict(
            "the session worked in the folder itself: its changes are there already",
        )
        .fix("look at them with `git diff`"));
    }
    to.or_else(|| diff.source.clone()).ok_or_else(|| {
        Refusal::invalid("the session's project has no folder of yours")
            .fix(format!("name one: `oubliette session apply {} --to DIR`", diff.session_id))
    })
}

/// Applies a patch to a folder, all or nothing; with `check`, only finds out whether it would.
pub(crate) fn apply(diff: &SessionDiff, folder: &Path, check: bool) -> Result<(), Refusal> {
    let tried = git_apply(folder, &diff.patch, true)?;
    if let Err(why) = tried {
        return Err(conflict(&diff.session_id, folder, &why));
    }
    if check {
        return Ok(());
    }
    git_apply(folder, &diff.patch, false)?.map_err(|why| conflict(&diff.session_id, folder, &why))
}

fn conflict(session: &SessionId, folder: &Path, why: &str) -> Refusal {
    let why = text::sanitise(why);
    let mut lines: Vec<&str> = why.trim_end().lines().take(CONFLICT_LINES_MAX).collect();
    let more = why.trim_end().lines().count() - lines.len();
    let and_more = format!("and {more} more");
    if more > 0 {
        lines.push(&and_more);
    }
    Refusal::conflict(format!(
        "the changes do not fit {}; nothing was changed there\n{}",
        folder.display(),
        lines.join("\n")
    ))
    .fix(format!("save them with `oubliette session diff {session} > changes.patch` and merge them with `git apply --3way changes.patch`"))
}

/// Runs `git apply`; the inner error is what git says against it.
fn git_apply(folder: &Path, patch: &str, check: bool) -> Result<Result<(), String>, Refusal> {
    let mut git = Command::new("git");
    git.arg("-C").arg(folder).arg("apply").arg("--whitespace=nowarn");
    if check {
        git.arg("--check");
    }
    // The patch is relative to this folder, also when it lies inside a larger repository or git is told of another.
    git.env("GIT_CEILING_DIRECTORIES", folder.parent().unwrap_or(folder));
    for variable in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX"] {
        git.env_remove(variable);
    }
    git.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let missing = |error: &std::io::Error| failed("run git", error).fix("install git");
    let mut child = git.spawn().map_err(|error| missing(&error))?;
    if let Some(mut stdin) = child.stdin.take()
        && let Err(error) = stdin.write_all(patch.as_bytes())
        && error.kind() != std::io::ErrorKind::BrokenPipe
    {
        // A broken pipe is git's verdict on the first bytes; it says why below.
        return Err(failed("write to git", &error));
    }
    let done = child.wait_with_output().map_err(|error| missing(&error))?;
    if done.status.success() {
        Ok(Ok(()))
    } else {
        Ok(Err(String::from_utf8_lossy(&done.stderr).into_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const PATCH: &str = "diff --git a/a.txt b/a.txt\n--- a/a.txt\n+++ b/a.txt\n@@ -1 +1 @@\n-one\n+two\n";

    fn diff(patch: &str) -> SessionDiff {
        SessionDiff {
            session_id: "gogol_20261118_110640_deadbeef".parse().expect("an id"),
            source: None,
            in_place: false,
            patch: patch.to_owned(),
            files: vec!["a.txt".to_owned()],
        }
    }

    #[test]
    fn a_patch_that_fits_is_applied_and_one_that_does_not_changes_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("a.txt");
        fs::write(&file, "one\n").expect("written");
        apply(&diff(PATCH), folder.path(), true).expect("it fits");
        assert_eq!(fs::read_to_string(&file).expect("read"), "one\n", "checking changes nothing");
        apply(&diff(PATCH), folder.path(), false).expect("it fits");
        assert_eq!(fs::read_to_string(&file).expect("read"), "two\n");
        let refusal = apply(&diff(PATCH), folder.path(), false).expect_err("it was applied already");
        assert!(refusal.fix.is_some_and(|fix| fix.contains("session diff gogol_20261118_110640_deadbeef")));
        assert_eq!(fs::read_to_string(&file).expect("read"), "two\n");
    }

    #[test]
    fn a_patch_goes_into_the_folder_also_inside_a_larger_repository() {
        let outer = tempfile::tempdir().expect("a folder");
        let git = Command::new("git").arg("-C").arg(outer.path()).args(["init", "-q"]).status();
        assert!(git.expect("git runs").success());
        let inner = outer.path().join("inner");
        fs::create_dir(&inner).expect("made");
        fs::write(inner.join("a.txt"), "one\n").expect("written");
        apply(&diff(PATCH), &inner, false).expect("it fits");
        assert_eq!(fs::read_to_string(inner.join("a.txt")).expect("read"), "two\n");
    }

    #[test]
    fn a_patch_that_leaves_the_folder_is_refused() {
        let outer = tempfile::tempdir().expect("a folder");
        let folder = outer.path().join("project");
        fs::create_dir(&folder).expect("made");
        fs::write(outer.path().join("a.txt"), "one\n").expect("written");
        fs::create_dir(folder.join("real")).expect("made");
        std::os::unix::fs::symlink(outer.path(), folder.join("link")).expect("linked");
        for name in ["../a.txt", "link/a.txt", ".git/config"] {
            let patch = PATCH.replace("a.txt", name);
            assert!(apply(&diff(&patch), &folder, false).is_err(), "{name}");
        }
        assert_eq!(fs::read_to_string(outer.path().join("a.txt")).expect("read"), "one\n");
        // The positive control: the same patch under a plain name.
        fs::write(folder.join("a.txt"), "one\n").expect("written");
        apply(&diff(PATCH), &folder, false).expect("it fits");
    }

    #[test]
    fn a_run_shows_text_and_counts_what_it_leaves_out() {
        let binary = "diff --git a/x b/x\nindex 0..1\nGIT binary patch\nliteral 3\nKabc\n\n";
        let (short, left_out) = shorten(&format!("{binary}{PATCH}"));
        assert_eq!(short, format!("diff --git a/x b/x\nindex 0..1\nGIT binary patch\n{PATCH}"));
        assert_eq!(left_out, 3);
        let (short, left_out) = shorten(&"+line\n".repeat(SHOWN_LINES_MAX + 7));
        assert_eq!((short.lines().count(), left_out), (SHOWN_LINES_MAX, 7));
        assert_eq!(shorten(PATCH), (PATCH.to_owned(), 0));
    }

    #[test]
    fn a_conflict_of_many_files_names_the_first() {
        let why: String = (0..90).map(|n| format!("error: file{n}: already exists\n")).collect();
        let refusal = conflict(&diff("").session_id, Path::new("/thing"), &why);
        assert_eq!(refusal.message.lines().count(), 1 + CONFLICT_LINES_MAX + 1);
        assert!(refusal.message.ends_with("and 82 more"), "{}", refusal.message);
    }

    #[test]
    fn a_patch_on_a_terminal_is_safe() {
        let shown = coloured("diff --git a b\n+evil\x1b[2J\n-x\n@@ 1\n same\n", Paint(true));
        assert!(!shown.contains("[2J"), "{shown:?}");
        assert_eq!(coloured("+a\x1b[2Jb\n", Paint(false)), "+ab\n");
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(16))]

        /// Whatever a patch holds: what is shown is lines of it, few and short ones, and nothing that a terminal obeys.
        #[test]
        fn what_is_shown_of_a_patch_is_bounded_and_safe(
            parts in proptest::collection::vec(
                "(diff --git a b\n|GIT binary patch\n|[+-]\\PC{0,12}\n|\x1b\\[31m|[\\x00-\\x7f]{0,20}|x{3000})", 0..700,
            ),
        ) {
            let patch = parts.concat();
            let (short, left_out) = shorten(&patch);
            let lines: Vec<&str> = short.split_inclusive('\n').collect();
            proptest::prop_assert!(lines.len() <= SHOWN_LINES_MAX);
            proptest::prop_assert!(lines.iter().all(|line| line.len() <= SHOWN_LINE_MAX));
            proptest::prop_assert_eq!(lines.len() + left_out, patch.split_inclusive('\n').count());
            let mut rest = patch.split_inclusive('\n');
            proptest::prop_assert!(lines.iter().all(|line| rest.any(|other| other == *line)), "in order, unchanged");
            let shown = coloured(&short, Paint(false));
            proptest::prop_assert!(!shown.chars().any(|c| c.is_control() && c != '\n' && c != '\t'));
        }
    }
}
