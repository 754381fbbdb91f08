//! `oubliette config` and `oubliette reload`: what the configuration says, what is wrong with it, and what a server made
//! of it. All but `reload` and a part of `diff` need no server.

use ob_config::LoadOptions;
use ob_config::MigrateError;
use ob_config::Migration;
use ob_core::Refusal;
use ob_core::operation::ConfigChange;
use ob_core::operation::Operation;
use ob_core::operation::ServerReload;
use ob_core::operation::ServerReloaded;
use serde_json::Value;
use serde_json::json;

use super::Context;
use super::OK;
use super::args::ConfigCommand;
use super::args::Global;
use super::client::CallError;
use super::hub::Hub;
use super::output::Output;
use super::text;
use crate::server;
use crate::server::reload::changes_between;

/// Runs a command of `config`.
pub(crate) async fn command(
    command: ConfigCommand,
    context: &Context,
    global: &Global,
    output: &Output,
) -> Result<u8, Refusal> {
    let options = super::options(context, global);
    match command {
        ConfigCommand::Check => Ok(check(&options, output)),
        ConfigCommand::Show { origin } => show(&options, origin, output),
        ConfigCommand::Diff => diff(&Hub::load(context, global)?, output).await,
        ConfigCommand::Migrate { dry_run } => migrate(&options, dry_run, output),
        ConfigCommand::Schema => {
            output.text(&format!("{:#}\n", ob_config::json_schema()));
            Ok(OK)
        }
    }
}

/// `oubliette reload`.
pub(crate) async fn reload(hub: &Hub, output: &Output) -> Result<u8, Refusal> {
    let params = ServerReload { dry_run: false };
    let done: ServerReloaded = hub.client.call(Operation::ServerReload, &params).await?;
    tell_warnings(&done.warnings, output);
    output.data(&done, || match done.changes.as_slice() {
        [] => "nothing changed\n".to_owned(),
        changes => listed(changes, "needs a restart", "in effect"),
    });
    Ok(OK)
}

/// Mistakes are the data here, one a line, for people and for editors; the exit code is that of any command which they
/// stop.
fn check(options: &LoadOptions, output: &Output) -> u8 {
    let (loaded, mistakes) = match ob_config::load(options) {
        Ok(loaded) => (Some(loaded), Vec::new()),
        Err(mistakes) => (None, mistakes.0),
    };
    let warnings = loaded.as_ref().map(|loaded| loaded.warnings.clone()).unwrap_or_default();
    let listed: Vec<Value> = mistakes.iter().map(|m| json!({ "place": m.place, "what": m.what })).collect();
    let value = json!({
        "home": loaded.as_ref().map(|loaded| loaded.home.root()),
        "file": loaded.as_ref().and_then(|loaded| loaded.file.clone()),
        "mistakes": listed,
        "warnings": warnings,
    });
    output.data(&value, || match &loaded {
        Some(loaded) => match &loaded.file {
            Some(file) => format!("{}: no mistakes\n", file.display()),
            None => format!("{} has no configuration file: all defaults\n", loaded.home.root().display()),
        },
        None => {
            mistakes.iter().map(|mistake| format!("{}\n", text::sanitise(&mistake.to_string()))).collect()
        }
    });
    tell_warnings(&warnings, output);
    if mistakes.is_empty() {
        return OK;
    }
    output.hint(&text::plural(mistakes.len(), "mistake"));
    Refusal::invalid("").code.exit_code()
}

fn show(options: &LoadOptions, origin: bool, output: &Output) -> Result<u8, Refusal> {
    let loaded = ob_config::load(options).map_err(|mistakes| super::has_mistakes(&mistakes))?;
    let values: Vec<Value> = loaded
        .values
        .iter()
        .map(|value| json!({ "path": value.path, "value": value.value, "origin": value.origin }))
        .collect();
    output.data(&values, || {
        let line = |value: &ob_config::ConfigValue| {
            let from = if origin { format!("  # {}", value.origin) } else { String::new() };
            format!("{} = {}{from}\n", value.path, value.value)
        };
        text::sanitise(&loaded.values.iter().map(line).collect::<String>())
    });
    Ok(OK)
}

async fn diff(hub: &Hub, output: &Output) -> Result<u8, Refusal> {
    let params = ServerReload { dry_run: true };
    let (changes, is_running) = match hub.client.call(Operation::ServerReload, &params).await {
        Ok(ServerReloaded { changes, .. }) => (changes, true),
        Err(CallError::Absent) => (changes_between(&ob_config::default_values(), &hub.loaded.values), false),
        Err(error) => return Err(error.into()),
    };
    output.data(&changes, || match (changes.as_slice(), is_running) {
        ([], true) => "the server runs with what the configuration says\n".to_owned(),
        ([], false) => "everything is the default\n".to_owned(),
        (changes, true) => listed(changes, "needs a restart", "by `oubliette reload`"),
        (changes, false) => listed(changes, "", ""),
    });
    if !is_running {
        output.hint("no server runs on this home: compared with the defaults");
    }
    Ok(OK)
}

fn migrate(options: &LoadOptions, dry_run: bool, output: &Output) -> Result<u8, Refusal> {
    let migration = Migration::plan(options).map_err(not_migrated)?;
    let value = json!({
        "from": migration.from, "to": migration.to, "backup": migration.backup, "text": migration.text,
        "done": !dry_run,
    });
    let (from, to) = (migration.from.display(), migration.to.display());
    if dry_run {
        output.data(&value, || migration.text.clone());
        output.hint(&format!("this would be {to}; {from} would become {}", migration.backup.display()));
        return Ok(OK);
    }
    migration.perform().map_err(not_migrated)?;
    output.data(&value, || format!("wrote {to}; {from} is {} now\n", migration.backup.display()));
    let home = ob_config::load_anyway(options).ok().map(|(loaded, _)| loaded.home);
    if home.is_some_and(|home| server::lock::holder(&home).is_some()) {
        output.hint("start the server anew, without `-config` if it had that: it knows the old file only");
    }
    Ok(OK)
}

fn not_migrated(error: MigrateError) -> Refusal {
    match error {
        MigrateError::Mistakes(mistakes) => super::has_mistakes(&mistakes),
        MigrateError::Nothing(_) => Refusal::new(ob_core::RefusalCode::NotFound, error.to_string())
            .fix("name the home with `--dir`, or the file with `--config`"),
        MigrateError::Differs(_) => Refusal::internal(error.to_string()).fix("please report it"),
        MigrateError::Write { .. } => {
            Refusal::unavailable(error.to_string()).fix("make room or give leave, then try again")
        }
    }
}

fn tell_warnings(warnings: &[String], output: &Output) {
    for warning in warnings {
        output.warn(warning);
    }
}

/// A line for each change, with a word on when it counts.
fn listed(changes: &[ConfigChange], restart: &str, live: &str) -> String {
    let shown =
        |value: &Option<Value>| value.as_ref().map_or_else(|| "unset".to_owned(), ToString::to_string);
    changes
        .iter()
        .map(|change| {
            let (from, to) = (shown(&change.from), shown(&change.to));
            // A secret is shown as the same before and after.
            let value = if from == to { "another value".to_owned() } else { format!("{from} -> {to}") };
            let origin = change.origin.as_ref().map(|origin| format!("  # {origin}")).unwrap_or_default();
            let word = if change.needs_restart { restart } else { live };
            let word = if word.is_empty() { String::new() } else { format!(" ({word})") };
            format!("{}\n", text::one_line(&format!("{}: {value}{word}{origin}", change.path)))
        })
        .collect()
}
