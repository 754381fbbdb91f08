//! Patches as tools and models write them.

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, content) in files {
        fs::write(folder.path().join(name), content).expect("it is writable");
    }
    folder
}

fn content(folder: &TempDir, name: &str) -> String {
    fs::read_to_string(folder.path().join(name)).expect("it is readable")
}

fn apply_to(folder: &TempDir, text: &str) -> Result<(String, Vec<Diff>), String> {
    patch(folder.path(), &Arguments { patch: text.to_owned() })
}

#[test]
fn several_files_are_changed_made_and_removed_at_once() {
    let folder = folder(&[("a.py", "one\ntwo\nthree\n"), ("old.py", "gone\n")]);
    let text = "diff --git a/a.py b/a.py\nindex 1..2 100644\n--- a/a.py\n+++ b/a.py\n@@ -1,3 +1,4 @@ top\n one\n-two\n+TWO\n+half\n three\n\
--- a/old.py\n+++ /dev/null\n@@ -1 +0,0 @@\n-gone\n--- /dev/null\n+++ b/deep/new.py\n@@ -0,0 +1,2 @@\n+x\n+y\n";
    let (summary, diffs) = apply_to(&folder, text).expect("it fits");
    assert_eq!(summary, "patched `a.py`, first at line 2\nremoved `old.py`\nmade `deep/new.py`");
    assert_eq!(content(&folder, "a.py"), "one\nTWO\nhalf\nthree\n");
    assert_eq!(content(&folder, "deep/new.py"), "x\ny\n");
    assert!(!folder.path().join("old.py").exists());
    assert_eq!(diffs.len(), 3);
    assert_eq!(
        (diffs[0].old_text.as_deref(), diffs[0].new_text.as_str()),
        (Some("one\ntwo\nthree\n"), "one\nTWO\nhalf\nthree\n")
    );
    assert_eq!((diffs[2].old_text.as_deref(), diffs[2].new_text.as_str()), (None, "x\ny\n"));
}

#[test]
fn nothing_is_changed_if_one_hunk_does_not_fit() {
    let folder = folder(&[("a", "one\n"), ("b", "let total = a + b;\n")]);
    let text =
        "--- a/a\n+++ b/a\n@@ -1 +1 @@\n-one\n+1\n--- a/b\n+++ b/b\n@@ -1 +1 @@\n-let total = a - b;\n+x\n";
    let refusal = apply_to(&folder, text).expect_err("the second does not fit");
    assert!(refusal.contains("hunk 1 does not fit") && refusal.contains("nearest lines"), "{refusal}");
    assert!(refusal.ends_with("nothing was changed"), "{refusal}");
    assert_eq!(
        (content(&folder, "a").as_str(), content(&folder, "b").as_str()),
        ("one\n", "let total = a + b;\n")
    );
}

#[test]
fn what_was_written_is_put_back_if_a_later_file_cannot_be() {
    let folder = folder(&[("a", "one\n"), ("file", "")]);
    let text = "--- a/a\n+++ b/a\n@@\n-one\n+1\n--- /dev/null\n+++ b/made\n@@\n+x\n--- /dev/null\n+++ b//proc/none/x\n@@\n+x\n";
    let refusal = apply_to(&folder, text).expect_err("nothing can be made there");
    assert!(
        refusal.contains("cannot change `/proc/none/x`") && refusal.ends_with("nothing was changed"),
        "{refusal}"
    );
    assert_eq!(content(&folder, "a"), "one\n");
    assert!(!folder.path().join("made").exists());
}

#[test]
fn wrong_numbers_and_lost_spaces_do_no_harm() {
    let folder = folder(&[("f", "a\n\nb\nc\nd\n")]);
    apply_to(&folder, "--- f\n+++ f\n@@ -90,7 +12,1 @@\n a\n\n-b\n+B\n@@ nonsense @@\n-d\n+D\n\n\n")
        .expect("it fits");
    assert_eq!(content(&folder, "f"), "a\n\nB\nc\nD\n");
}

#[test]
fn of_several_places_the_number_decides_and_without_one_it_is_asked() {
    let folder = folder(&[("f", "x\ny\nx\ny\n")]);
    let refusal = apply_to(&folder, "--- f\n+++ f\n@@\n-y\n+z\n").expect_err("it fits twice");
    assert!(refusal.contains("fits `f` at lines 2, 4"), "{refusal}");
    apply_to(&folder, "--- f\n+++ f\n@@ -4 +4 @@\n-y\n+z\n").expect("the number is right");
    assert_eq!(content(&folder, "f"), "x\ny\nx\nz\n");
}

#[test]
fn lines_can_be_added_where_there_are_none_and_after_a_number() {
    let folder = folder(&[("empty", ""), ("f", "a\nb\n")]);
    apply_to(&folder, "--- empty\n+++ empty\n@@\n+x\n").expect("there is one place only");
    assert_eq!(content(&folder, "empty"), "x\n");
    apply_to(&folder, "--- f\n+++ f\n@@ -1,0 +2 @@\n+half\n").expect("the place is named");
    assert_eq!(content(&folder, "f"), "a\nhalf\nb\n");
    let refusal = apply_to(&folder, "--- f\n+++ f\n@@\n+x\n").expect_err("the place is not named");
    assert!(refusal.contains("does not say where"), "{refusal}");
}

#[test]
fn the_ends_of_lines_and_of_the_file_are_kept() {
    let folder = folder(&[("dos", "a\r\nb\r\n"), ("torn", "a\nb")]);
    apply_to(&folder, "--- dos\n+++ dos\n@@\n a\n-b\n+B\n+C\n").expect("it fits but for the ends");
    assert_eq!(content(&folder, "dos"), "a\r\nB\r\nC\r\n");
    apply_to(&folder, "--- torn\n+++ torn\n@@\n-a\n+A\n").expect("it fits");
    assert_eq!(content(&folder, "torn"), "A\nb");
    let whole = "--- torn\n+++ torn\n@@\n-b\n\\ No newline at end of file\n+B\n";
    apply_to(&folder, whole).expect("it fits");
    assert_eq!(content(&folder, "torn"), "A\nB\n");
}

#[test]
fn prefixes_of_git_are_names_where_there_is_such_a_folder() {
    let folder = folder(&[("f", "outer\n")]);
    fs::create_dir(folder.path().join("b")).expect("it is new");
    fs::write(folder.path().join("b/f"), "inner\n").expect("it is writable");
    apply_to(&folder, "--- b/f\n+++ b/f\n@@\n-inner\n+INNER\n").expect("the whole name is a file");
    assert_eq!((content(&folder, "f").as_str(), content(&folder, "b/f").as_str()), ("outer\n", "INNER\n"));
}

#[test]
fn patches_that_make_no_sense_are_refused_with_the_reason() {
    let folder = folder(&[("f", "a\nb\n")]);
    for (text, reason) in [
        ("", "the patch is empty"),
        ("*** Begin Patch\n", "is no part of a unified patch"),
        ("@@ -1 +1 @@\n-a\n+b\n", "a hunk needs `--- a/FILE`"),
        ("--- f\n+++ f\n", "changes nothing in `f`"),
        ("--- f\n+++ f\n@@\n a\n", "changes nothing"),
        ("--- f\n+++ f\n@@\n-a\n*b\n", "line 5: a line of a hunk begins"),
        ("--- a/f\n+++ b/g\n@@\n-a\n+x\n", "moves no file"),
        ("--- /dev/null\n+++ /dev/null\n@@\n+a\n", "must have a name"),
        ("--- /dev/null\n+++ b/f\n@@\n+a\n", "`f` is there already"),
        ("--- a/f\n+++ /dev/null\n@@\n-a\n", "not all of its lines"),
        ("--- none\n+++ none\n@@\n-a\n+x\n", "does not exist"),
        ("--- f\n+++ f\n@@\n-a\n+x\n--- f\n+++ f\n@@\n-b\n+y\n", "is in the patch twice"),
    ] {
        let refusal = apply_to(&folder, text).expect_err(text);
        assert!(refusal.contains(reason), "{text}: {refusal}");
        assert_eq!(content(&folder, "f"), "a\nb\n", "{text}");
    }
}

proptest! {
    #[test]
    fn a_diff_of_two_texts_makes_the_one_from_the_other(
        before in prop::collection::vec("[ab-]{0,2}", 1..30),
        after in prop::collection::vec("[ab+]{0,2}", 1..30),
        ends in any::<(bool, bool)>(),
        around in 0_usize..4,
    ) {
        let text = |lines: &[String], ends: bool| lines.join("\n") + if ends { "\n" } else { "" };
        let (before, after) = (text(&before, ends.0), text(&after, ends.1));
        prop_assume!(before != after && !before.is_empty() && !after.is_empty());
        let diff = similar::TextDiff::from_lines(&before, &after)
            .unified_diff()
            .context_radius(around)
            .header("a/f", "b/f")
            .to_string();
        let patches = parse::parse(&diff).map_err(TestCaseError::fail)?;
        let applied = apply("f", &before, &patches[0].hunks);
        prop_assert_eq!(applied, Ok(after), "{}", diff);
    }

    #[test]
    fn nothing_makes_it_panic(text in "(--- f\n\\+\\+\\+ f\n@@[ -,0-9+@]{0,9}\n)?([ +\\\\@-]?[ab]{0,2}\n){0,12}") {
        for patch in parse::parse(&text).unwrap_or_default() {
            let _refused = apply("f", "a\nb\nab\n", &patch.hunks);
        }
    }
}
