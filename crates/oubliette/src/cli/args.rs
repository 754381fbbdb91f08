//! The arguments: what can be typed. What `--help` adds to them is in [`help`].

use std::ffi::OsStr;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use clap::ColorChoice;
use clap::CommandFactory as _;
use clap::FromArgMatches as _;
use clap::Parser;
use clap::Subcommand;
use clap::ValueEnum as _;
use clap::ValueHint;
use ob_core::Refusal;

use super::completions::Ids;
use super::help;
use super::text;

/// Levels of autonomy and of reasoning.
const LEVELS: [&str; 4] = ["off", "low", "medium", "high"];
/// Over the options that every command has, so that they do not stand among its own.
const EVERYWHERE: &str = "Options of every command";

/// Run AI agents unattended, each in a kernel sandbox.
#[derive(Debug, Parser)]
#[command(
    name = "oubliette",
    version = crate::version::FULL,
    about = "Run AI agents unattended, each in a kernel sandbox",
    long_about = "Run AI agents unattended, each in a kernel sandbox, durable from its first event.\n\nWithout a \
                  command, `oubliette` starts the server in the foreground.",
    after_long_help = help::EXAMPLES,
    after_help = "More with `--help`; try `oubliette run \"TASK\" --project .`",
    disable_help_subcommand = true,
    infer_subcommands = false
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    /// Start the server in the background; returns when it is ready
    #[arg(long)]
    pub(crate) daemon: bool,
    /// Take the place of the server that runs: it drains and leaves its sandboxes to the new one
    #[arg(long)]
    pub(crate) takeover: bool,
    /// How a background server knows that it is one
    #[arg(long, hide = true)]
    pub(crate) detached: bool,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// Options of every command.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Global {
    /// The home: where the server keeps its things
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "D", value_hint = ValueHint::DirPath)]
    pub(crate) dir: Option<PathBuf>,
    /// The configuration file (also `-config F`)
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "F", value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,
    /// Print data as JSON
    #[arg(long, global = true, help_heading = EVERYWHERE)]
    pub(crate) json: bool,
    /// Colours: auto, always or never
    #[arg(
        long, global = true, help_heading = EVERYWHERE, value_name = "WHEN", default_value = "auto",
        hide_default_value = true, hide_possible_values = true
    )]
    pub(crate) color: ColorChoice,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Give an agent a task in a folder and watch it
    #[command(after_help = help::RUN)]
    Run(RunArgs),
    /// Start the server
    #[command(after_help = help::SERVE)]
    Serve(ServeArgs),
    /// Show what the server is doing
    Status,
    /// Stop the server
    #[command(after_help = help::STOP)]
    Stop(StopArgs),
    /// Let the server read its configuration anew; says what is in effect and what needs a restart
    Reload,
    /// Make a home with a configuration of all defaults and an admin token; nothing needs it
    #[command(after_help = help::INIT)]
    Init(InitArgs),
    /// Check, show, compare and migrate the configuration
    #[command(subcommand, arg_required_else_help = true, after_help = help::CONFIG)]
    Config(ConfigCommand),
    /// Check this machine: what is missing, what that costs, what mends it
    #[command(after_help = help::DOCTOR)]
    Doctor(DoctorArgs),
    /// The home's store
    #[command(subcommand, arg_required_else_help = true)]
    Store(StoreCommand),
    /// What to send with a report
    #[command(subcommand, arg_required_else_help = true)]
    Support(SupportCommand),
    /// Make, list and revoke tokens; works with the server up or down
    #[command(subcommand, arg_required_else_help = true, after_help = help::TOKEN)]
    Token(TokenCommand),
    /// What was changed or refused, by whom: list, verify and export it
    #[command(subcommand, arg_required_else_help = true, after_help = help::AUDIT)]
    Audit(AuditCommand),
    /// Projects: where work happens
    #[command(subcommand, arg_required_else_help = true, after_help = help::PROJECT)]
    Project(ProjectCommand),
    /// Sessions: conversations with agents
    #[command(subcommand, arg_required_else_help = true, after_help = help::SESSION)]
    Session(SessionCommand),
    /// Agents: who can work in sessions
    #[command(subcommand, arg_required_else_help = true, after_help = help::AGENT)]
    Agent(AgentCommand),
    /// Models: what agents think with
    #[command(subcommand, arg_required_else_help = true, after_help = help::MODEL)]
    Model(ModelCommand),
    /// Speak MCP on standard input and output, or set up a client that does
    #[command(after_help = help::MCP)]
    Mcp(McpArgs),
    /// Print a completion script for a shell; it completes ids of sessions, projects and tokens as well
    #[command(after_help = help::COMPLETIONS)]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print this program's manual page, or write all of them into a folder
    #[command(after_help = help::MAN)]
    Man(ManArgs),
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// What the agent shall do
    #[arg(value_hint = ValueHint::Other)]
    pub(crate) task: String,
    /// The folder to work on, a git repository as a rule
    #[arg(long, value_name = "DIR", default_value = ".", value_hint = ValueHint::DirPath)]
    pub(crate) project: PathBuf,
    /// Work in the folder itself instead of a clone
    #[arg(long, conflicts_with = "apply")]
    pub(crate) in_place: bool,
    /// The model: an alias, or provider/model
    #[arg(long, value_name = "M", add = Ids::Model)]
    pub(crate) model: Option<String>,
    /// The agent: `oubliette agent list` shows them
    #[arg(long, value_name = "NAME", add = Ids::Agent)]
    pub(crate) agent: Option<String>,
    #[command(flatten)]
    pub(crate) told: Told,
    /// Apply the changes to the folder if the agent completes
    #[arg(long, conflicts_with = "detach")]
    pub(crate) apply: bool,
    /// Keep the session for more messages
    #[arg(long)]
    pub(crate) keep: bool,
    /// Return at once and let it work
    #[arg(long)]
    pub(crate) detach: bool,
}

/// What an agent is told besides its task.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Told {
    /// What it may do without asking: off (look), low (change files), medium (run commands), high (everything)
    #[arg(long, value_name = "LEVEL", value_parser = LEVELS)]
    pub(crate) autonomy: Option<String>,
    /// How hard its model shall think: off, low, medium, high
    #[arg(long, value_name = "LEVEL", value_parser = LEVELS)]
    pub(crate) reasoning: Option<String>,
    /// A tool that it may use, by its own name; then it may use no other. May be given again
    #[arg(long = "allow-tool", value_name = "TOOL")]
    pub(crate) allowed: Vec<String>,
    /// A tool that it may not use, by its own name. May be given again
    #[arg(long = "deny-tool", value_name = "TOOL")]
    pub(crate) denied: Vec<String>,
}

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ServeArgs {
    /// In the background; returns when it is ready
    #[arg(long)]
    pub(crate) daemon: bool,
    /// Take the place of the server that runs: it drains and leaves its sandboxes to the new one
    #[arg(long)]
    pub(crate) takeover: bool,
    /// How a background server knows that it is one
    #[arg(long, hide = true)]
    pub(crate) detached: bool,
}

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// Write over a configuration that is there, without asking; the old one is kept beside it
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    /// Leave sandboxes running for the next server, for `sandbox.lease_s`
    #[arg(long)]
    pub(crate) keep_sandboxes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct McpArgs {
    /// Write this server into the file of a client
    #[arg(long, value_enum, value_name = "CLIENT")]
    pub(crate) setup: Option<super::mcp::McpClient>,
    /// What the client's token may do: admin, admin:ro, project:UUID or project:UUID:ro
    #[arg(long, value_name = "S", requires = "setup")]
    pub(crate) scope: Option<String>,
    /// When the client's token stops working: 90s, 15m, 12h, 30d, 8w
    #[arg(long, value_name = "D", requires = "setup")]
    pub(crate) expires_in: Option<String>,
}

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct DoctorArgs {
    /// Print only the commands that mend what is not well
    #[arg(long)]
    pub(crate) fix_hints: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ManArgs {
    /// Write `oubliette.1` and a page for each command into this folder
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Read everything that is stored and say what is wrong with it
    #[command(after_help = help::STORE_CHECK)]
    Check,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SupportCommand {
    /// Pack what helps to find a fault into one file, without secrets
    #[command(after_help = help::BUNDLE)]
    Bundle {
        /// The file to make, instead of `oubliette-support-TIME.tar.gz` here
        #[arg(long, value_name = "F", value_hint = ValueHint::FilePath)]
        out: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Tell every mistake, as file:line:column: key: what
    Check,
    /// Show every value in effect; secrets are not shown
    Show {
        /// And where each comes from: a place in the file, a variable, or the default
        #[arg(long)]
        origin: bool,
    },
    /// Show what `reload` would change; without a server, what is not the default
    Diff,
    /// Turn a `config.yaml` into `config/oubliette.jsonc`, with its comments
    Migrate {
        /// Print the new file and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Print the JSON Schema of the file, for editors
    Schema,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token; its secret is printed once
    Create {
        /// Its name: a-z, 0-9, `.`, `_`, `-`, at most 64
        #[arg(long, value_name = "N")]
        name: String,
        /// admin, admin:ro, project:UUID or project:UUID:ro
        #[arg(long, value_name = "S", add = Ids::Scope)]
        scope: String,
        /// When it stops working: 90s, 15m, 12h, 30d, 8w
        #[arg(long, value_name = "D")]
        expires_in: Option<String>,
    },
    /// List tokens, without their secrets
    List,
    /// Revoke a token, at once
    Revoke {
        /// Its id or name
        #[arg(value_name = "ID|NAME", add = Ids::Token)]
        token: String,
    },
    /// Show one token
    Info {
        /// Its id or name
        #[arg(value_name = "ID|NAME", add = Ids::Token)]
        token: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// List entries, newest first
    List {
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: usize,
        /// Only entries with a lower number
        #[arg(long, value_name = "SEQ")]
        before: Option<u64>,
    },
    /// Look at every entry: each is there and as it was written, or what is not; exits 1 then
    Verify,
    /// Print entries for other programs, oldest first, one JSON object a line
    Export {
        /// Only entries with a higher number
        #[arg(long, value_name = "SEQ", default_value_t = 0)]
        after: u64,
        /// As events of the Open Cybersecurity Schema Framework
        #[arg(long)]
        ocsf: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum AgentCommand {
    /// List the agents that sessions can have
    List,
    /// Look whether an agent can be used, and what it can be told
    Check {
        /// Its name
        #[arg(add = Ids::Agent)]
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelCommand {
    /// List the models that sessions can name, and whether each can be used
    List,
    /// Send a model one small request: does it answer, how fast, and does it call a tool well
    Check {
        /// Its name: an alias, or provider/model
        #[arg(add = Ids::Model)]
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ProjectCommand {
    /// Make a project
    Create {
        /// Its name
        name: String,
        /// The folder that workspaces are cloned from
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        source: Option<PathBuf>,
        /// For people
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
        /// The default model
        #[arg(long, value_name = "M", add = Ids::Model)]
        model: Option<String>,
        /// The most that one tree of sessions may spend, in US dollars
        #[arg(long, value_name = "USD")]
        max_cost_usd: Option<f64>,
        /// The agent of its sessions
        #[arg(long, value_name = "NAME", add = Ids::Agent)]
        agent: Option<String>,
        /// What its agents may do without asking: off (look), low (change files), medium (run commands), high (everything)
        #[arg(long, value_name = "LEVEL", value_parser = LEVELS)]
        autonomy: Option<String>,
        /// How hard its agents' models shall think: off, low, medium, high
        #[arg(long, value_name = "LEVEL", value_parser = LEVELS)]
        reasoning: Option<String>,
        /// A tool that its agents may never use, by the agent's own name. May be given again
        #[arg(long = "deny-tool", value_name = "TOOL")]
        denied: Vec<String>,
        /// What its sandboxes and its trees of sessions may use instead of the server's limit: memory=8G, cpu=1.5, disk=40G,
        /// wall_time=3600, depth=2, agents=10, live_agents=5, time=7200, …
        #[arg(long = "limit", value_name = "NAME=N")]
        limits: Vec<String>,
    },
    /// List projects
    List {
        /// Only those whose name contains this
        #[arg(long, value_name = "TEXT")]
        name_contains: Option<String>,
        /// At most so many, 1 to 1000
        #[arg(long, value_name = "N")]
        limit: Option<u32>,
    },
    /// Show a project
    Get {
        /// Its id
        #[arg(add = Ids::Project)]
        id: String,
    },
    /// Delete a project with its workspaces
    Delete {
        /// Its id
        #[arg(add = Ids::Project)]
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum SessionCommand {
    /// List sessions, newest first
    List {
        /// Only of this project
        #[arg(long, value_name = "ID", add = Ids::Project)]
        project: Option<String>,
        /// Only with this status
        #[arg(long, value_name = "STATUS", value_parser = ["active", "completed", "failed"])]
        status: Option<String>,
        /// At most so many, 1 to 1000
        #[arg(long, value_name = "N")]
        limit: Option<u32>,
        /// Only older than this session
        #[arg(long, value_name = "ID", add = Ids::Session)]
        before: Option<String>,
    },
    /// Show a session
    Get {
        /// Its id, the end of it, or `last`
        #[arg(default_value = "last", add = Ids::Session)]
        id: String,
    },
    /// Show what happened in a session
    #[command(after_help = help::EVENTS)]
    Events {
        /// Its id, the end of it, or `last`
        #[arg(default_value = "last", add = Ids::Session)]
        id: String,
        /// Go on until the session is over
        #[arg(long)]
        follow: bool,
        /// Only events with a higher number
        #[arg(long, value_name = "N", default_value_t = -1, allow_negative_numbers = true)]
        cursor: i64,
    },
    /// Give a session another task
    Message {
        /// Its id, the end of it, or `last`
        #[arg(add = Ids::Session)]
        id: String,
        /// The task
        #[arg(value_hint = ValueHint::Other)]
        message: String,
    },
    /// Answer what the agent asked
    #[command(after_help = help::ANSWER)]
    Answer {
        /// The session's id, the end of it, or `last`
        #[arg(add = Ids::Session)]
        id: String,
        /// The answer
        #[arg(value_hint = ValueHint::Other)]
        answer: String,
        /// Which question, if there are several
        #[arg(long, value_name = "ID", value_hint = ValueHint::Other)]
        question: Option<String>,
    },
    /// Answer a call of a tool of the session's caller
    Respond {
        /// The session's id, the end of it, or `last`
        #[arg(add = Ids::Session)]
        id: String,
        /// The call, as its event and `session get` name it
        #[arg(value_name = "REQUEST", value_hint = ValueHint::Other)]
        request: String,
        /// What came of it: JSON, or a text
        #[arg(value_hint = ValueHint::Other)]
        result: String,
        /// It could not be done; the result says why
        #[arg(long)]
        error: bool,
    },
    /// Stop what the agent is doing; the session goes on
    Interrupt {
        /// Its id, the end of it, or `last`
        #[arg(default_value = "last", add = Ids::Session)]
        id: String,
    },
    /// End a session; its events and changes stay
    End {
        /// Its id, the end of it, or `last`
        #[arg(default_value = "last", add = Ids::Session)]
        id: String,
    },
    /// Show what a session changed, as a patch
    Diff {
        /// Its id, the end of it, or `last`
        #[arg(default_value = "last", add = Ids::Session)]
        id: String,
    },
    /// Apply what a session changed to the project's folder
    Apply {
        /// Its id, the end of it, or `last`
        #[arg(default_value = "last", add = Ids::Session)]
        id: String,
        /// Another folder
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        to: Option<PathBuf>,
        /// Only say whether it would apply
        #[arg(long)]
        check: bool,
    },
}

/// What was typed, understood; or what is wrong with it, or the help that was asked for.
pub(crate) fn parse(argv: &[OsString]) -> Result<Cli, clap::Error> {
    let argv = normalise(argv);
    let mut command = command().color(colour(&argv));
    let mut matches = command.try_get_matches_from_mut(argv)?;
    Cli::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))
}

/// True if JSON was asked for, also on a line that is not understood.
pub(crate) fn is_json(argv: &[OsString]) -> bool {
    argv.iter().take_while(|word| *word != "--").any(|word| word == "--json")
}

/// What is wrong with a line, for programs.
pub(crate) fn refusal(error: &clap::Error) -> Refusal {
    let text = error.to_string();
    let mut parts = text.split("\n\n");
    let what = parts.next().unwrap_or_default();
    let what = what.strip_prefix("error: ").unwrap_or(what);
    let tip = parts.find_map(|part| part.trim_start().strip_prefix("tip: "));
    let fix = tip.map_or_else(
        || "see `oubliette --help`, and `--help` behind each command".to_owned(),
        text::one_line,
    );
    Refusal::invalid(text::one_line(what)).fix(fix)
}

/// The definition of all arguments, with their help in groups.
pub(crate) fn command() -> clap::Command {
    help::grouped(Cli::command())
}

/// The colours that were asked for, for what is said before the arguments are understood.
fn colour(argv: &[OsString]) -> ColorChoice {
    let mut words = argv.iter().map(OsString::as_os_str).take_while(|word| *word != "--");
    let mut chosen = ColorChoice::Auto;
    while let Some(word) = words.next() {
        let value = match word.to_str() {
            Some("--color") => words.next().and_then(OsStr::to_str),
            Some(word) => word.strip_prefix("--color="),
            None => None,
        };
        chosen = value.and_then(|value| ColorChoice::from_str(value, false).ok()).unwrap_or(chosen);
    }
    chosen
}

/// `-config F` and `-config=F`, as they were always typed, in clap's spelling. Nothing after `--` is touched.
pub(crate) fn normalise(argv: &[OsString]) -> Vec<OsString> {
    let mut options = true;
    let mut normal = Vec::with_capacity(argv.len());
    for (position, argument) in argv.iter().enumerate() {
        options &= argument != "--";
        let text = argument.to_str().filter(|_| options && position > 0).unwrap_or_default();
        if text == "-config" {
            normal.push("--config".into());
        } else if let Some(file) = text.strip_prefix("-config=") {
            normal.push(format!("--config={file}").into());
        } else {
            normal.push(argument.clone());
        }
    }
    normal
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &[&str]) -> Result<Cli, clap::Error> {
        let argv: Vec<OsString> = line.iter().map(Into::into).collect();
        super::parse(&argv)
    }

    #[test]
    fn the_definition_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn every_spelling_of_the_configuration_file_is_one_option() {
        for line in [
            &["oubliette", "-config", "f"][..],
            &["oubliette", "-config=f"],
            &["oubliette", "--config", "f"],
            &["oubliette", "--config=f"],
            &["oubliette", "serve", "-config", "f"],
            &["./oubliette-server", "-config", "f"],
        ] {
            let cli = parse(line).expect("a valid line");
            assert_eq!(cli.global.config.as_deref(), Some(std::path::Path::new("f")), "{line:?}");
        }
        let cli = parse(&["oubliette", "run", "--", "-config"]).expect("a task");
        assert!(matches!(cli.command, Some(Command::Run(run)) if run.task == "-config"));
    }

    #[test]
    fn the_forms_of_the_contract_parse() {
        for line in [
            &["oubliette"][..],
            &["oubliette", "--daemon"],
            &["oubliette", "serve", "--daemon"],
            &["oubliette", "--dir", "/h", "status", "--json"],
            &["oubliette", "run", "fix it", "--project", ".", "--in-place"],
            &["oubliette", "run", "fix it", "--project", ".", "--model", "m", "--apply", "--keep"],
            &["oubliette", "stop", "--keep-sandboxes"],
            &["oubliette", "--daemon", "--takeover"],
            &["oubliette", "reload"],
            &["oubliette", "config", "show", "--origin"],
            &["oubliette", "config", "migrate", "--dry-run"],
            &["oubliette", "token", "create", "--name", "a", "--scope", "admin", "--expires-in", "30d"],
            &["oubliette", "token", "revoke", "tok_0123456789ab"],
            &["oubliette", "token", "info", "a"],
            &["oubliette", "audit", "list", "--limit", "5", "--before", "9"],
            &["oubliette", "audit", "export", "--ocsf", "--after", "3"],
            &["oubliette", "session", "events", "last", "--follow", "--cursor", "-1"],
            &["oubliette", "session", "apply", "--to", "/x", "--check"],
            &["oubliette", "support", "bundle", "--out", "f"],
            &["oubliette", "completions", "bash"],
            &["oubliette", "mcp"],
            &["oubliette", "mcp", "--setup", "claude"],
            &["oubliette", "mcp", "--setup", "claude-code", "--config", "/c.json", "--scope", "admin"],
            &["oubliette", "man", "--out", "/x"],
            &["oubliette", "--color", "never", "session", "list", "--color=always"],
        ] {
            assert!(parse(line).is_ok(), "{line:?}: {}", parse(line).expect_err("checked"));
        }
    }

    #[test]
    fn colours_are_known_before_the_arguments_are() {
        let of = |line: &[&str]| colour(&line.iter().map(Into::into).collect::<Vec<_>>());
        assert_eq!(of(&["oubliette", "sesion"]), ColorChoice::Auto);
        assert_eq!(of(&["oubliette", "--color", "never", "sesion"]), ColorChoice::Never);
        assert_eq!(of(&["oubliette", "sesion", "--color=always"]), ColorChoice::Always);
        assert_eq!(of(&["oubliette", "run", "--", "--color=always"]), ColorChoice::Auto);
        assert_eq!(of(&["oubliette", "--color", "mauve"]), ColorChoice::Auto);
    }

    #[test]
    fn help_reads_well() {
        let help = |path: &[&str]| {
            let mut command = command().term_width(100);
            command.build();
            let mut at = &mut command;
            for name in path {
                at = at.find_subcommand_mut(name).expect("a subcommand");
            }
            at.render_long_help().to_string()
        };
        insta::assert_snapshot!("help", help(&[]));
        insta::assert_snapshot!("help_run", help(&["run"]));
        insta::assert_snapshot!("help_session", help(&["session"]));
        insta::assert_snapshot!("help_config", help(&["config"]));
        insta::assert_snapshot!("help_mcp", help(&["mcp"]));
        insta::assert_snapshot!("help_token_create", help(&["token", "create"]));
    }

    #[test]
    fn a_line_that_is_not_understood_is_a_refusal_for_programs() {
        let refusal = |line: &[&str]| super::refusal(&parse(line).expect_err("a wrong line"));
        let wrong = refusal(&["oubliette", "sesion", "--json"]);
        assert_eq!(wrong.message, "unrecognized subcommand 'sesion'");
        assert_eq!(wrong.fix.as_deref(), Some("a similar subcommand exists: 'session'"));
        let wrong = refusal(&["oubliette", "session", "list", "--status", "done"]);
        assert!(wrong.message.ends_with("[possible values: active, completed, failed]"), "{wrong}");
        assert!(wrong.fix.is_some_and(|fix| fix.contains("--help")));
    }

    #[test]
    fn usage_errors_say_what_is_allowed() {
        let error = |line: &[&str]| parse(line).expect_err("a wrong line").to_string();
        insta::assert_snapshot!(
            "usage_errors",
            [
                error(&["oubliette", "sesion"]),
                error(&["oubliette", "run"]),
                error(&["oubliette", "run", "x", "--in-place", "--apply"]),
                error(&["oubliette", "session", "events", "--cursor", "x"]),
                error(&["oubliette", "session", "list", "--status", "done"]),
            ]
            .join("----\n")
        );
    }
}
