//! `docs/cli.md`: the help of every command, as the program prints it.

use std::process::Command;

use crate::is_current;

const HEAD: &str = "\
# Commands

<!-- Generated from the program's own help by `UPDATE_DOCS=1 cargo test -p oubliette --test documents`. -->

What a command prints as data goes to standard output, hints and progress go to standard error, and nothing ever asks.
With `--json` data is JSON: one value, or one line for each event. A refusal is then `{\"error\": {\"code\", \"message\",
\"fix\"}}` on standard error.

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
        page.push_str(&format!("\n## `{name}`\n\n```text\n{}\n```\n", help.trim_end()));
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

/// The names under `Commands:`.
fn commands(help: &str) -> Vec<String> {
    let list = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    list.take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ").filter(|rest| !rest.starts_with(' ')))
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .collect()
}
