//! Completions: the script that a shell loads, and the answers that it then asks this program for.
//!
//! The script knows nothing: at each TAB it runs `COMPLETE=SHELL oubliette -- WORDS`, and the answer comes from the
//! definition of the arguments and, for ids, from the server of the home that the words name. A TAB starts nothing, makes
//! nothing and says nothing: what cannot be looked up within [`LOOK_UP_MAX`] is not offered.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Command;
use clap::builder::ArgExt;
use clap_complete::ArgValueCompleter;
use clap_complete::CompletionCandidate;
use clap_complete::Shell;
use clap_complete::env::Shells;
use ob_config::Loaded;
use ob_core::Refusal;
use ob_core::Scope;
use ob_core::operation::Operation;
use ob_core::operation::ProjectList;
use ob_core::operation::SessionList;
use ob_core::record::ProjectRecord;
use ob_core::record::SessionView;

use super::Context;
use super::FAILED;
use super::OK;
use super::args;
use super::args::Global;
use super::client::Client;
use super::failed;
use super::output::Output;
use super::text;

/// The variable by which a script asks; its value is the shell.
const VARIABLE: &str = "COMPLETE";
/// What the script runs, and for which command it completes.
const PROGRAM: &str = "oubliette";
/// How long a person waits for a TAB.
const LOOK_UP_MAX: Duration = Duration::from_millis(800);
/// How many ids are offered: the newest, a few screens of them.
const OFFERED_MAX: u32 = 200;
/// Characters of what stands beside a candidate.
const BESIDE_MAX: usize = 60;

/// The values that an argument takes are names of things that exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ids {
    /// Sessions, and `last`.
    Session,
    /// Projects.
    Project,
    /// Tokens.
    Token,
    /// What a token may do.
    Scope,
    /// Models of the configuration and of servers of this machine.
    Model,
    /// Agents.
    Agent,
}

/// Where ids are looked up.
struct Source {
    context: Context,
    global: Global,
}

// === impl Ids ===

impl ArgExt for Ids {}

/// `oubliette completions SHELL`.
pub(crate) fn command(shell: Shell, output: &Output) -> Result<u8, Refusal> {
    let shells = Shells::builtins();
    let shell = shells
        .completer(&shell.to_string())
        .ok_or_else(|| Refusal::invalid(format!("there are no completions for {shell}")))?;
    let mut script = Vec::new();
    shell
        .write_registration(VARIABLE, PROGRAM, PROGRAM, PROGRAM, &mut script)
        .map_err(|error| failed("write the script", &error))?;
    output.bytes(&script);
    Ok(OK)
}

/// Answers a script's question; nothing if none was asked.
pub(crate) fn answer(context: &Context, output: &Output) -> Option<u8> {
    let asked = context.var(VARIABLE)?;
    let shells = Shells::builtins();
    let shell = shells.completer(asked)?;
    // Else it is a command like any other, by somebody who has such a variable.
    let (dashes, words) = context.argv.get(1..)?.split_first()?;
    if dashes != "--" || words.is_empty() {
        return None;
    }
    let words = args::normalise(words);
    let source = Arc::new(Source { context: context.clone(), global: global(&words) });
    let mut program = with_ids(args::command(), &source);
    let mut answer = Vec::new();
    // What goes wrong has no place to be told: the person is in the middle of a line.
    if shell.write_complete(&mut program, words, Some(&context.cwd), &mut answer).is_err() {
        return Some(FAILED);
    }
    output.bytes(&answer);
    Some(OK)
}

/// The home that the words before the cursor name.
fn global(words: &[OsString]) -> Global {
    let value_of = |option: &str| -> Option<PathBuf> {
        let with_value = format!("{option}=");
        words.iter().enumerate().find_map(|(at, word)| {
            if word == option {
                return words.get(at + 1).map(PathBuf::from);
            }
            word.to_str()?.strip_prefix(&with_value).map(PathBuf::from)
        })
    };
    Global { dir: value_of("--dir"), config: value_of("--config"), ..Global::default() }
}

/// The program, with a look-up for each argument that names things.
fn with_ids(program: Command, source: &Arc<Source>) -> Command {
    let program = program.mut_args(|arg| match arg.get::<Ids>().copied() {
        None => arg,
        Some(ids) => {
            let source = Arc::clone(source);
            arg.add(ArgValueCompleter::new(move |typed: &OsStr| source.candidates(ids, typed)))
        }
    });
    program.mut_subcommands(|command| with_ids(command, source))
}

// === impl Source ===

impl Source {
    /// What fits the beginning, or the end, of what was typed.
    fn candidates(&self, ids: Ids, typed: &OsStr) -> Vec<CompletionCandidate> {
        let typed = typed.to_str().unwrap_or_default();
        let options = super::options(&self.context, &self.global);
        let Ok((loaded, _)) = ob_config::load_anyway(&options) else { return Vec::new() };
        let looked_up = within(async {
            match ids {
                Ids::Session => sessions(&loaded).await,
                Ids::Project => projects(&loaded).await,
                Ids::Token => tokens(&loaded).await,
                Ids::Scope => scopes(&loaded).await,
                Ids::Model => models(&loaded).await,
                Ids::Agent => agents(&loaded),
            }
        });
        looked_up
            .unwrap_or_default()
            .into_iter()
            .filter(|(name, _)| is_plain(name) && (name.starts_with(typed) || name.ends_with(typed)))
            .map(|(name, beside)| {
                let beside = text::cut(&text::one_line(&beside), BESIDE_MAX);
                CompletionCandidate::new(name).help(Some(beside.into()))
            })
            .collect()
    }
}

/// A name, and what tells a person which thing that is.
type Candidate = (String, String);

async fn sessions(loaded: &Loaded) -> Vec<Candidate> {
    let params = SessionList { limit: Some(OFFERED_MAX), ..SessionList::default() };
    let client = Client::new(loaded.home.control_socket());
    let sessions: Vec<SessionView> = client.call(Operation::SessionList, &params).await.unwrap_or_default();
    let newest = sessions.first().map(|_| ("last".to_owned(), "the newest session".to_owned()));
    let each = sessions.into_iter().map(|s| (s.session_id.to_string(), format!("{}: {}", s.state, s.title)));
    newest.into_iter().chain(each).collect()
}

async fn projects(loaded: &Loaded) -> Vec<Candidate> {
    let params = ProjectList { limit: Some(OFFERED_MAX), ..ProjectList::default() };
    let client = Client::new(loaded.home.control_socket());
    let projects: Vec<ProjectRecord> = client.call(Operation::ProjectList, &params).await.unwrap_or_default();
    projects.into_iter().map(|project| (project.id.to_string(), project.name)).collect()
}

/// From the file, as `token` itself does; there need not be a server, but there must be the file.
async fn tokens(loaded: &Loaded) -> Vec<Candidate> {
    let file = loaded.home.auth_database();
    if !file.is_file() {
        return Vec::new();
    }
    let Ok(tokens) = ob_store::sqlite::open_tokens(&file).await else { return Vec::new() };
    let valid =
        tokens.list().await.unwrap_or_default().into_iter().filter(|token| token.revoked_at.is_none());
    valid
        .flat_map(|token| [(token.name, token.scope.to_string()), (token.id.to_string(), String::new())])
        .collect()
}

async fn scopes(loaded: &Loaded) -> Vec<Candidate> {
    let everything = [
        (Scope::Admin.to_string(), "everything".to_owned()),
        (Scope::AdminReadOnly.to_string(), "look at everything".to_owned()),
    ];
    let of_projects = projects(loaded).await.into_iter().flat_map(|(id, name)| {
        [
            (format!("project:{id}"), name.clone()),
            (format!("project:{id}:ro"), format!("{name}, looking only")),
        ]
    });
    everything.into_iter().chain(of_projects).collect()
}

async fn models(loaded: &Loaded) -> Vec<Candidate> {
    let models = &loaded.settings.models;
    let aliases = models.aliases.iter().map(|(name, alias)| (name.clone(), alias.model.clone()));
    let providers = models.providers.iter().filter_map(|(name, provider)| {
        Some((format!("{name}/{}", provider.default_model.as_ref()?), String::new()))
    });
    let found = ob_gate::discovery::find_local(&models.discover_ports).await;
    let local = found.iter().flat_map(|server| {
        let provider = server.program.provider();
        server.models.iter().map(move |model| {
            (format!("{provider}/{}", model.name), format!("{} of this machine", server.program.title()))
        })
    });
    aliases.chain(providers).chain(local).collect()
}

fn agents(loaded: &Loaded) -> Vec<Candidate> {
    let own =
        loaded.settings.agents.agents.keys().map(|name| (name.clone(), "of the configuration".to_owned()));
    let presets =
        ob_agent::presets::PRESETS.iter().map(|preset| (preset.name.to_owned(), preset.title.to_owned()));
    let builtin = (ob_core::agent::BUILTIN.to_owned(), "comes with Oubliette".to_owned());
    std::iter::once(builtin).chain(own).chain(presets).collect()
}

/// True if a shell takes the name as it is: it is put into a line that a person is about to run.
fn is_plain(name: &str) -> bool {
    !name.starts_with('-') && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:/@-".contains(&b))
}

/// The result of a look-up, if it comes in time.
fn within<T>(look_up: impl Future<Output = T>) -> Option<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let result = runtime.block_on(async { tokio::time::timeout(LOOK_UP_MAX, look_up).await.ok() });
    // A disk that hangs must not hold the line.
    runtime.shutdown_background();
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &[&str]) -> Vec<OsString> {
        line.iter().map(Into::into).collect()
    }

    #[test]
    fn the_home_is_the_one_that_the_line_names() {
        let home = |line: &[&str]| global(&args::normalise(&words(line)));
        assert_eq!(home(&["oubliette", "--dir", "/h", "session", "get", ""]).dir, Some("/h".into()));
        assert_eq!(home(&["oubliette", "session", "--dir=/h", "get", ""]).dir, Some("/h".into()));
        assert_eq!(home(&["oubliette", "-config", "f", "session", "get", ""]).config, Some("f".into()));
        assert_eq!(home(&["oubliette", "session", "get", "--dir"]).dir, None);
    }

    #[test]
    fn a_name_that_a_shell_would_obey_is_not_offered() {
        for plain in [
            "gogol_20261118_110640_deadbeef",
            "project:00000000-0000-0000-0000-000000000001:ro",
            "openai/gpt-5",
        ] {
            assert!(is_plain(plain), "{plain}");
        }
        for obeyed in ["$(reboot)", "a b", "a;b", "--dir", "a'b", "a\nb", "a*"] {
            assert!(!is_plain(obeyed), "{obeyed}");
        }
    }

    #[test]
    fn every_id_of_the_commands_is_completed() {
        let mut open = vec![(String::new(), args::command())];
        let mut completed = Vec::new();
        while let Some((path, command)) = open.pop() {
            for arg in command.get_arguments().filter(|arg| arg.get::<Ids>().is_some()) {
                completed.push(format!("{path}{} {}", command.get_name(), arg.get_id()));
            }
            for inner in command.get_subcommands() {
                open.push((format!("{path}{} ", command.get_name()), inner.clone()));
            }
        }
        completed.sort();
        insta::assert_snapshot!("completed", completed.join("\n"));
    }
}
