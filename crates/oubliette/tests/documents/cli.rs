//! `docs/cli.md`: the help of every command, as the program prints it.

use std::fmt::Write as _;

use std::process::Command;

use crate::is_current;

const HEAD: &str = "\
# Commands

<!-- Generated from the program's own help by `UPDATE_DOCS=1 cargo test -p oubliette --test documents`. -->

What a command prints as data goes to standard output, hints and progress go to standard error. Nothing ever asks, but for
Ctrl-C at a task that is watched on a terminal, and `init` before it writes over a configuration. With `--json` data is JSON: one value, or one line for each event. A refusal,
and also a line that is not understood, is then `{\"error\": {\"code\", \"message\", \"fix\"}}` on standard error.

On a terminal lines and tables fit its width, and follow it when it changes; in a pipe each line is whole. There are colours
on a terminal that does not call itself dumb (`TERM=dumb`), unless `NO_COLOR` is set or `CLICOLOR` is 0; `CLICOLOR_FORCE` asks for
them in a pipe as well, and `--color` (`always`, `never`, `auto`) is stronger than all of these. A patch in a pipe (`session diff`)
and JSON have none. What an agent wrote cannot give commands to your terminal.

Commands that need a server start one in the background if none runs, except `status` and `stop`. They talk to the server of a
home (`--dir`, else `OUBLIETTE_HOME`, else `~/.oubliette`) over a socket that only its owner may open, so they need no token.
";

#[test]
fn the_page_of_the_commands_is_their_help() {
    let mut page = HEAD.to_owned();
    let mut open = vec![Vec::new()];
    let mut seen = 0;
    while let Some(path) = open.pop() {
        let help = help(&path);
        let name = ["oubliette"].iter().chain(&path).copied().collect::<Vec<_>>().join(" ");
        writeln!(page, "\n## `{name}`\n\n```text\n{}\n```", help.trim_end()).unwrap();
        for command in commands(&help).into_iter().rev() {
            // Names live as long as the test: there are two dozen.
            let command: &'static str = String::leak(command);
            open.push(path.iter().copied().chain([command]).collect());
        }
        seen += 1;
    }
    assert!(seen > 20, "the program's list of commands was not understood: {seen}");
    is_current("docs/cli.md", &page);
}

fn help(path: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_oubliette"))
        .args(path)
        .arg("--help")
        .env_clear()
        .env("COLUMNS", "100")
        .output()
        .unwrap();
    assert!(output.status.success(), "{path:?}: {output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// The names under `Commands:`, or under the headings of groups of them.
fn commands(help: &str) -> Vec<String> {
    /// Headings of something else.
    const OTHERS: [&str; 6] =
        ["Arguments:", "Options:", "Options of every command:", "Examples:", "Exit codes:", "Environment:"];
    let mut is_list = false;
    let mut names = Vec::new();
    for line in help.lines() {
        match line.strip_prefix("  ") {
            Some(row) if is_list && !row.starts_with(' ') => {
                names.extend(row.split_whitespace().next().map(str::to_owned));
            }
            Some(_) => {}
            None => is_list = line.ends_with(':') && !OTHERS.contains(&line),
        }
    }
    names
}
