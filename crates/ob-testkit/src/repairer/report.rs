//! The last words: what was wrong and what was changed, or what was tried in vain.

use std::fmt::Write as _;

use super::failure::Run;
use super::plan::Edit;

/// The tests pass after these edits.
pub(super) fn success(first: &Run, kept: &[Edit], attempts: usize, command: &str) -> String {
    let mut said = format!("Repaired: all tests pass now. Before: {}.\n", first.summary());
    for edit in kept {
        let (old, new) = (edit.old_line.trim(), edit.new_line.trim());
        add(
            &mut said,
            format_args!("\n- `{}:{}`: `{old}` was wrong, it is `{new}` now.", edit.path, edit.line + 1),
        );
    }
    let attempts = if attempts == 1 { "one change".to_string() } else { format!("{attempts} changes") };
    add(
        &mut said,
        format_args!(
            "\n\nI tried {attempts} and ran `{command}` after each. I am a script: that the tests pass is all I know, so \
             read the diff."
        ),
    );
    said
}

/// Nothing helped, and everything is as it was.
pub(super) fn failure(first: &Run, tried: &[String]) -> String {
    let mut said = format!("I could not repair this. {}", capitalized(&first.summary()));
    let telling = first.reasons.iter().find(|reason| !reason.starts_with("thread "));
    match telling.or(first.reasons.first()) {
        Some(reason) => add(&mut said, format_args!(" (`{reason}`).")),
        None => said.push('.'),
    }
    if tried.is_empty() {
        said.push_str(" I found no line that a small change could mend, so I changed nothing.");
        return said;
    }
    add(
        &mut said,
        format_args!(
            " I tried {} small changes, one after the other, and took each back: the files are as they were.\n",
            tried.len()
        ),
    );
    for attempt in tried {
        add(&mut said, format_args!("\n- {attempt}"));
    }
    said
}

/// A change could not be taken back.
pub(super) fn stuck(edit: &Edit) -> String {
    format!(
        "I could not repair this, and I could not take my last change back: `{}:{}` should be `{}` again. `git diff` \
         shows what is left.",
        edit.path,
        edit.line + 1,
        edit.old_line.trim()
    )
}

fn add(said: &mut String, words: std::fmt::Arguments<'_>) {
    said.write_fmt(words).expect("a text takes any words");
}

fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}
