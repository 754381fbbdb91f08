//! What the model is told before anything else.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use super::text;

/// The file in a workspace that speaks to agents.
const INSTRUCTIONS: &str = "AGENTS.md";
/// How much of it is taken, in bytes.
const MAX_INSTRUCTIONS: u64 = 32 * 1024;

/// The system prompt for a working directory, with the project's own instructions if it has any.
pub(crate) fn system(cwd: &Path, tools: Option<&[&str]>) -> String {
    let mut prompt = format!(
        "You are a software engineer working alone in a sandbox. Nobody watches while you work and nobody can answer \
questions; the person who gave you the task reads your last message and the changes you made.

The working directory is {}. Relative paths start there. The sandbox is yours: you may read, change and run anything in \
it. It has no network except through proxies that were set up for it.

How to work:
- Look before you change: use `list`, `search` and `read` to find the code that matters. Ask for several independent \
reads or searches at once.
- Find out how the project is built and tested, and run its tests before and after a change with `run`.
- Fix causes, not symptoms. Make the smallest change that does the task well, in the style of the code around it. Never \
weaken or delete a test to make it pass unless the task says so.
- Use `edit` for a change, `patch` for changes that belong together, and `write` for new files. What an edit or a patch \
replaces must match the file exactly, without the line numbers that `read` shows.
- Commands get no input; they must not wait for any. Processes left in the background end with their command.
- For work of several steps, show them with `plan` and keep it true. In long work old results are left out of the \
conversation: put what you decided and found out into its notes, which stay.
- If a call fails, read the message and change something before you try again.
- Leave no temporary files. Do not commit unless the task says so.
- When the task is done and checked, or when it cannot be done, stop calling tools and say in a few sentences what was \
wrong, what you changed, how you checked it, and what is left. Say plainly what you did not check.",
        cwd.display()
    );
    if let Some(tools) = tools {
        prompt.push_str("\n\nIn this session you have these tools and no other: ");
        prompt.push_str(&tools.join(", "));
        prompt.push_str(". Do what can be done with them, and say what could not.");
    }
    if let Some(instructions) = instructions(cwd) {
        prompt.push_str("\n\nThe project's instructions for agents (");
        prompt.push_str(INSTRUCTIONS);
        prompt.push_str("):\n\n");
        prompt.push_str(&instructions);
    }
    prompt
}

fn instructions(cwd: &Path) -> Option<String> {
    let path = cwd.join(INSTRUCTIONS);
    // A pipe or a device under that name would never end.
    if !path.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    let mut file = File::open(path).ok()?.take(MAX_INSTRUCTIONS + 1);
    file.read_to_end(&mut bytes).ok()?;
    let is_cut = bytes.len() as u64 > MAX_INSTRUCTIONS;
    bytes.truncate(MAX_INSTRUCTIONS as usize);
    let mut instructions = text::clean(&bytes);
    if is_cut {
        instructions.push_str("\n[the file goes on; `read` it]");
    }
    Some(instructions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_projects_instructions_are_included_and_bounded() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        assert!(!system(folder.path(), None).contains(INSTRUCTIONS));

        std::fs::write(folder.path().join(INSTRUCTIONS), "Use tabs.").expect("it is writable");
        assert!(system(folder.path(), None).ends_with("Use tabs."));

        std::fs::write(folder.path().join(INSTRUCTIONS), "x".repeat(1 << 20)).expect("it is writable");
        let prompt = system(folder.path(), None);
        assert!(prompt.ends_with("[the file goes on; `read` it]"));
        assert!(prompt.len() < 40 * 1024);
    }
}
