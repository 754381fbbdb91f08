//! What `--help` and the manual pages say beside the arguments: groups of commands, examples, rules.

use std::fmt::Write as _;

use clap::Command;

/// Commands under headings, in the order in which a newcomer meets them. What is in none stands last.
const GROUPS: [(&str, &[&str]); 4] = [
    ("Work", &["run", "session", "project", "agent", "model", "mcp"]),
    ("The server", &["serve", "status", "stop", "reload"]),
    ("The home and the machine", &["init", "config", "token", "audit", "store", "doctor", "support"]),
    ("Your shell", &["completions", "man"]),
];
/// Over commands that are in no group.
const OTHERS: &str = "More";

/// Under the help of the program.
pub(crate) const EXAMPLES: &str = "\
Examples:
  oubliette run \"make the tests pass\" --project .    on a clone; you get a diff
  oubliette run \"make the tests pass\" --project . --apply
  oubliette session list                             what runs and what ran
  oubliette session events last --follow             watch it
  oubliette --daemon                                 a server in the background
  oubliette doctor                                   what this machine lacks

Exit codes:
  0 ok, 1 failure, 2 usage, 3 not found, 4 unhealthy, 5 refused, 6 unavailable,
  130 interrupted by you

Environment:
  OUBLIETTE_HOME                         the home, if --dir does not say
  OUBLIETTE_SECTION__KEY                 any key of the configuration
  NO_COLOR, CLICOLOR_FORCE, CLICOLOR=0   colours, if --color does not say";

/// Under the help of `mcp`.
pub(crate) const MCP: &str = "\
Without --setup it speaks MCP on standard input and output, for a client that
starts it, and starts the server if none runs. With a token in OUBLIETTE_TOKEN
it may do what the token may, else everything.

With --setup it makes a token for the client, writes itself into the client's
file, keeps everything else in it, and revokes the token of an entry before.
The token may do everything in the project of this folder if it is one, else
read; --scope says otherwise. --config names the client's file.

Examples:
  oubliette mcp --setup claude-code
  oubliette mcp --setup vscode --scope admin --expires-in 30d
  oubliette mcp --setup cursor --config .cursor/mcp.json";

/// Under the help of `run`.
pub(crate) const RUN: &str = "\
The agent works on a clone of DIR in a sandbox. When it is done you see its
changes as a diff and apply them yourself, or at once with --apply. A server is
started if none runs. It keeps the session safe: if this command or the server
dies, nothing is lost, and `oubliette session events ID --follow` goes on.

Ctrl-C asks whether to stop the agent or to leave it working; a second one
leaves it working. Where there is no terminal to ask on, the first one stops the
agent. TERM leaves it working.

Examples:
  oubliette run \"fix the failing test\" --project .
  oubliette run \"add a --version flag\" --project ~/src/tool --apply
  oubliette run \"explain src/main.rs\" --model openai/gpt-5
  oubliette run \"plan the change\" --keep    and then `oubliette session message`
  oubliette run \"fix it\" --json | jq -r 'select(.type == \"end\").patch'";

/// Under the help of `serve`.
pub(crate) const SERVE: &str = "\
In the foreground it ends on TERM, INT and `oubliette stop`; work that is not done
goes on with the next server. HUP reads the configuration anew, USR1 opens the log
anew, USR2 writes the status into it.

Examples:
  oubliette serve                            the same as `oubliette` alone
  oubliette serve --daemon                   returns when it is ready
  oubliette serve --daemon --takeover        an upgrade: sandboxes stay";

/// Under the help of `stop`.
pub(crate) const STOP: &str = "\
It takes no more work, ends its sandboxes and exits. Sessions stay: those that had
work to do go on with the next server, the others sleep until their next message.

Examples:
  oubliette stop
  oubliette stop --keep-sandboxes            and start the next one soon";

/// Under the help of `doctor`.
pub(crate) const DOCTOR: &str = "\
It needs no server and no home, and changes nothing. Each check says what was
found, what it costs not to have it, and what mends it. The exit code is 0 if all
that is required works, and 4 if not.

Examples:
  oubliette doctor
  oubliette doctor --fix-hints > mend.sh     read it before you run it
  oubliette doctor --json | jq '.checks[] | select(.state != \"ok\")'";

/// Under the help of `support bundle`.
pub(crate) const BUNDLE: &str = "\
It holds versions, the configuration with the origin of each value, what `doctor`
finds, the end of the log, the server's status, health and metrics, and the names
of the home's files. Keys, tokens and passwords are taken out; tasks, events,
patches and files of projects are not in it. Look into it before you send it.

Examples:
  oubliette support bundle                           in the working directory
  oubliette support bundle --out report.tar.gz";

/// Under the help of `store check`.
pub(crate) const STORE_CHECK: &str = "\
It checks the database's pages and references, that events are numbered without a
gap and can be read, that blobs are there with the content that their names say,
that sessions are in states that they can be in, and that books are the sums of
their calls. It only reads, and works with the server up or down.";

/// Under the help of `session`.
pub(crate) const SESSION: &str = "\
ID may be cut to its end, as long as one session only has it; `last`, which is
also meant where an ID may be left out, is the newest session.

Examples:
  oubliette session list --status active
  oubliette session events --follow          the newest one, until it is over
  oubliette session message last \"and now the documents\"
  oubliette session diff 3fa2 | git apply    what it changed";

/// Under the help of `session answer`.
pub(crate) const ANSWER: &str = "\
A session that waits for an answer is `waiting_answer`, and `oubliette session get`
shows what it asks. The answer reaches the agent in the turn that asked, or as the
next message if that is over.

Examples:
  oubliette session get last
  oubliette session answer last \"the staging database\"
  oubliette session answer 3fa2 yes --question q2";

/// Under the help of `session events`.
pub(crate) const EVENTS: &str = "\
--follow goes on over a restart of the server, with nothing lost and nothing
doubled. Ctrl-C and TERM stop watching, and the session goes on.

Examples:
  oubliette session events last --follow
  oubliette session events last --json | jq -r 'select(.type == \"message\").text'
  oubliette session events last --follow --cursor 41    only what is new";

/// Under the help of `agent`.
pub(crate) const AGENT: &str = "\
Any agent works in the same sandbox, on any model, with the same limits and events.
Its program is looked for in `agents.path` and the server's PATH, and shown to the
sandbox read-only; its configuration is made for it, and leads to the gate. An
agent of your own goes into `agents.agents` of the configuration. `check` ends
with 4 if the agent cannot be used.

Examples:
  oubliette agent list
  oubliette agent check opencode
  oubliette run \"fix the failing test\" --agent opencode --autonomy medium";

/// Under the help of `model`.
pub(crate) const MODEL: &str = "\
A model is an alias or a provider's model of the configuration, or one of a server
that was found on this machine: ollama/NAME, llamacpp/NAME, vllm/NAME, and local/NAME
for any. `list` asks each provider what it has and calls no model. `check` calls the
model once; that costs what a short answer costs, and counts towards no limit. It
ends with 4 if an agent could not work with the model.

Examples:
  oubliette model list
  oubliette model check ollama/qwen3:8b
  oubliette run \"fix the failing test\" --model ollama/qwen3:8b";

/// Under the help of `project`.
pub(crate) const PROJECT: &str = "\
`oubliette run` makes a project for a folder by itself; here you give one limits,
a model and a description, or make one without a folder.

Examples:
  oubliette project create tool --source ~/src/tool --limit memory=8G --limit cpu=4
  oubliette project list --name-contains tool";

/// Under the help of `token`.
pub(crate) const TOKEN: &str = "\
Programs on the HTTP address need a token; commands on this machine do not. A
token's id is public, its secret is printed once.

Examples:
  oubliette token create --name ci --scope admin:ro --expires-in 30d
  oubliette token list
  oubliette token revoke ci";

/// Under the help of `init`.
pub(crate) const INIT: &str = "\
The server and `token` make a missing home by themselves and never ask. This one
prints a first token, with the scope admin and the name admin, and asks before it
writes over a configuration; where it cannot ask, it refuses.

Examples:
  oubliette init
  oubliette init --dir /srv/oubliette --force        the old one becomes .old";

/// Under the help of `audit`.
pub(crate) const AUDIT: &str = "\
Every change is in the audit before it is done, and every refusal and request
without a valid token after it. Each entry is chained to the one before.

Examples:
  oubliette audit list --limit 20
  oubliette audit verify
  oubliette audit export --ocsf > audit.jsonl";

/// Under the help of `config`.
pub(crate) const CONFIG: &str = "\
A server reads its file anew when it changes, on SIGHUP and on `oubliette reload`.
A file with mistakes changes nothing: the last good one stays in effect.

Examples:
  oubliette config check                             before you reload
  oubliette config show --origin                     who set what
  oubliette config migrate --dry-run                 what config.yaml would become";

/// Under the help of `completions`.
pub(crate) const COMPLETIONS: &str = "\
The script asks this program at each TAB, so it need not be made anew after an
upgrade. Ids come from the server of the home that the line names, if one runs.

Examples:
  oubliette completions bash > ~/.local/share/bash-completion/completions/oubliette
  oubliette completions zsh > ~/.zfunc/_oubliette       a folder of your $fpath
  oubliette completions fish > ~/.config/fish/completions/oubliette.fish
  oubliette completions elvish >> ~/.config/elvish/rc.elv
  oubliette completions powershell >> $PROFILE";

/// Under the help of `man`.
pub(crate) const MAN: &str = "\
Examples:
  oubliette man | man -l -                           read it
  oubliette man --out ~/.local/share/man/man1        install all of them";

/// The program with its commands under headings instead of in one long list.
pub(crate) fn grouped(program: Command) -> Command {
    let heading = *program.get_styles().get_header();
    let name = *program.get_styles().get_literal();
    let visible: Vec<&Command> = program.get_subcommands().filter(|command| !command.is_hide_set()).collect();
    let width = visible.iter().map(|command| command.get_name().len()).max().unwrap_or_default();
    let mut list = String::new();
    let mut section = |title: &str, commands: &[&Command]| {
        if commands.is_empty() {
            return;
        }
        writeln!(list, "{heading}{title}:{heading:#}").ok();
        for command in commands {
            let pad = width - command.get_name().len();
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            writeln!(list, "  {name}{}{name:#}{:pad$}  {about}", command.get_name(), "").ok();
        }
        list.push('\n');
    };
    for (title, names) in GROUPS {
        let of_group: Vec<&Command> =
            names.iter().filter_map(|name| visible.iter().copied().find(|c| c.get_name() == *name)).collect();
        section(title, &of_group);
    }
    let has_group = |command: &Command| GROUPS.iter().any(|(_, names)| names.contains(&command.get_name()));
    section(OTHERS, &visible.iter().copied().filter(|command| !has_group(command)).collect::<Vec<_>>());
    let template = format!(
        "{{before-help}}{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{list}{heading}Options:{heading:#}\n{{options}}{{after-help}}"
    );
    program.help_template(template)
}

#[cfg(test)]
mod tests {
    use super::super::args;

    #[test]
    fn every_command_is_in_the_help_once() {
        let mut program = args::command();
        let help = program.render_long_help().to_string();
        for command in program.get_subcommands().filter(|command| !command.is_hide_set()) {
            let line = format!("\n  {} ", command.get_name());
            assert_eq!(help.matches(&line).count(), 1, "{}: {help}", command.get_name());
        }
        assert!(help.contains("\nWork:\n") && help.contains("\nOptions:\n"), "{help}");
    }

    #[test]
    fn every_command_says_what_it_does_and_no_line_is_too_long() {
        let mut open = vec![args::command()];
        while let Some(command) = open.pop() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            for line in after.lines() {
                assert!(line.chars().count() <= 90, "{}: {line}", command.get_name());
            }
            open.extend(command.get_subcommands().cloned());
        }
    }
}
