//! `oubliette mcp --setup CLIENT`: a token of its own for a client, and an entry in the client's file that starts us.
//!
//! The token may do as little as is of use: everything in the project of the folder that the command is given in, else
//! read. The file is looked at first, so that one that cannot be merged costs nothing; and the token that an older entry
//! held is revoked when the new file is in place.

use std::fs;
use std::io;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::path::PathBuf;

use ob_core::ProjectId;
use ob_core::Refusal;
use ob_core::Scope;
use ob_engine::Clock as _;
use ob_engine::SystemClock;
use ob_store::tokens;
use ob_store::tokens::SharedTokens;
use serde_json::json;

use super::clients::Launch;
use super::clients::McpClient;
use super::merge;
use super::merge::Merged;
use crate::cli::Context;
use crate::cli::OK;
use crate::cli::args::Global;
use crate::cli::args::McpArgs;
use crate::cli::failed;
use crate::cli::hub::Hub;
use crate::cli::output::Output;
use crate::cli::project;
use crate::cli::token;
use crate::server;

/// The largest file of a client that is read, in bytes.
const FILE_MAX: u64 = 16 * 1024 * 1024;

/// The most names that are tried for a token.
const NAMES_MAX: u32 = 1000;

/// Runs the command.
pub(super) async fn command(
    client: McpClient,
    args: &McpArgs,
    context: &Context,
    global: &Global,
    output: &Output,
) -> Result<u8, Refusal> {
    // With `--setup`, `--config` is the client's file; ours is found as always.
    let own = Global { config: None, ..global.clone() };
    let hub = Hub::load(context, &own)?;
    let home = &hub.loaded.home;
    if crate::cli::make_home(context, &own, &hub.loaded)? {
        output.hint(&format!("made a home at {}", home.root().display()));
    }
    let file = match &global.config {
        Some(file) => context.cwd.join(file),
        None => client.file(context)?,
    };
    // A link is followed, so that it stays one.
    let file = file.canonicalize().unwrap_or(file);
    let text = read(&file)?;
    let root = home.root().canonicalize().unwrap_or_else(|_| home.root().to_owned());
    let launch = |secret: &str| Launch {
        program: server::own_program(),
        home: root.clone(),
        secret: secret.to_owned(),
    };
    merged(client, &text, &launch("oub_"))?;

    let (scope, why) = match &args.scope {
        Some(scope) => (scope.parse()?, "as asked for"),
        None => least(&hub, output).await,
    };
    let tokens = token::open(home).await?;
    let now = SystemClock.now();
    let name = free_name(&tokens, client).await?;
    let created = token::create(&tokens, now, &name, scope, args.expires_in.as_deref()).await?;
    let written = merged(client, &text, &launch(&created.secret)).and_then(|merged| {
        write(&file, &merged.text).map_err(|error| failed(&format!("write {}", file.display()), &error))?;
        Ok(merged.replaced)
    });
    let old = match written {
        Ok(replaced) => match replaced {
            Some(secret) => tokens.find(&tokens::hash(&secret)).await.map_err(|error| error.refusal())?,
            None => None,
        },
        Err(refusal) => {
            // A token that nobody has is of no use to anyone.
            tokens.revoke(created.record.id.as_str(), now).await.map_err(|error| error.refusal())?;
            return Err(refusal);
        }
    };
    if let Some(old) = &old {
        tokens.revoke(old.id.as_str(), now).await.map_err(|error| error.refusal())?;
    }
    let value = json!({
        "client": client.name(), "file": file, "token": created.record, "revoked": old.as_ref().map(|old| &old.id),
    });
    output.data(&value, || format!("{}: {}\n", client.name(), file.display()));
    output.hint(&format!("token {name} ({}) may {scope}: {why}", created.record.id));
    if let Some(old) = old {
        output.hint(&format!("the token of the entry before, {} ({}), is revoked", old.name, old.id));
    }
    output.hint("start the client anew to use it");
    Ok(OK)
}

/// As little as is of use, and why.
async fn least(hub: &Hub, output: &Output) -> (Scope, &'static str) {
    match project_here(hub, output).await {
        Ok(Some(project)) => (Scope::Project(project), "everything in the project of this folder"),
        Ok(None) | Err(_) => (
            Scope::AdminReadOnly,
            "this folder is no project; give `--scope project:UUID`, or `--scope admin` for everything",
        ),
    }
}

async fn project_here(hub: &Hub, output: &Output) -> Result<Option<ProjectId>, Refusal> {
    let Ok(folder) = hub.context.cwd.canonicalize() else { return Ok(None) };
    hub.ensure(output).await?;
    Ok(project::of_folder(hub, &folder).await?.map(|project| project.id))
}

fn merged(client: McpClient, text: &str, launch: &Launch) -> Result<Merged, Refusal> {
    let entry = client.entry(launch);
    if client.is_toml() {
        merge::toml(text, client.section(), client.environment(), &entry)
    } else {
        merge::json(text, client.section(), client.environment(), &entry)
    }
}

/// A name that no token has which is not revoked.
async fn free_name(tokens: &SharedTokens, client: McpClient) -> Result<String, Refusal> {
    let all = tokens.list().await.map_err(|error| error.refusal())?;
    let is_free = |name: &str| !all.iter().any(|token| token.name == name && token.revoked_at.is_none());
    let first = format!("mcp-{}", client.name());
    let further = (2..NAMES_MAX).map(|number| format!("{first}-{number}"));
    std::iter::once(first.clone()).chain(further).find(|name| is_free(name)).ok_or_else(|| {
        Refusal::conflict("this client has too many tokens").fix("revoke some with `oubliette token revoke`")
    })
}

/// The client's file; empty if there is none.
fn read(file: &Path) -> Result<String, Refusal> {
    match fs::metadata(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(failed(&format!("read {}", file.display()), &error)),
        Ok(found) if !found.is_file() => {
            return Err(Refusal::invalid(format!("{} is not a file", file.display()))
                .fix("name the client's file with `--config PATH`"));
        }
        Ok(found) if found.len() > FILE_MAX => {
            return Err(Refusal::invalid(format!("{} has more than 16 MiB", file.display()))
                .fix("name the client's file with `--config PATH`"));
        }
        Ok(_) => {}
    }
    fs::read_to_string(file).map_err(|error| failed(&format!("read {}", file.display()), &error))
}

/// Replaces the file in one step by one that only its owner can read: it holds a token.
fn write(file: &Path, text: &str) -> io::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new: PathBuf = folder.join(name);
    let written = (|| {
        let mut open = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        open.write_all(text.as_bytes())?;
        open.sync_all()?;
        fs::rename(&new, file)?;
        fs::File::open(folder)?.sync_all()
    })();
    if written.is_err() {
        // It may not be there.
        fs::remove_file(&new).ok();
    }
    written
}
