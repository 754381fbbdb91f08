//! `oubliette init`: a home with a configuration that says what there is to say, and a first token. Nothing needs it: the
//! server and `token` make a missing home by themselves, and never ask.

use std::path::Path;
use std::path::PathBuf;

use ob_core::Home;
use ob_core::Refusal;
use ob_core::Scope;
use ob_core::home::Layout;
use ob_core::operation::TokenCreated;
use ob_engine::Clock as _;
use ob_engine::SystemClock;
use serde_json::json;

use super::Context;
use super::OK;
use super::args::Global;
use super::args::InitArgs;
use super::failed;
use super::output::Output;
use super::token;

/// The name of the first token.
const TOKEN: &str = "admin";

/// What became of the configuration.
enum Written {
    /// There was none.
    New,
    /// There was one, which has this name now.
    Over(PathBuf),
    /// There is one, and it stays.
    Kept,
}

/// Runs the command.
pub(crate) async fn command(
    args: &InitArgs,
    context: &Context,
    global: &Global,
    output: &Output,
) -> Result<u8, Refusal> {
    // A file with mistakes is what somebody may want to get rid of.
    let (loaded, _) = ob_config::load_anyway(&super::options(context, global))
        .map_err(|mistakes| super::has_mistakes(&mistakes))?;
    let home = &loaded.home;
    if home.layout() == Layout::V1 {
        return Err(Refusal::conflict(format!(
            "{} has a configuration of the first version",
            home.root().display()
        ))
        .fix("it works as it is; `oubliette config migrate` turns it into the present form"));
    }
    let file = loaded.file.clone().unwrap_or_else(|| home.config().join(ob_config::FILE_V2));
    let there = file.exists();
    if there && !args.force && !output.can_ask() {
        return Err(Refusal::conflict(format!("{} is there already", file.display()))
            .fix("`oubliette init --force` writes it anew and keeps the old one beside it"));
    }
    let over = there && (args.force || is_wanted(&file, output).await);
    let is_new = super::make_home(context, global, &loaded)?;
    let written = if over || !file.exists() {
        let old = ob_config::write_default(&file)
            .map_err(|error| failed(&format!("write {}", file.display()), &error))?;
        old.map_or(Written::New, Written::Over)
    } else if is_new {
        Written::New
    } else {
        Written::Kept
    };
    let token = first_token(home).await?;
    let value = json!({
        "home": home.root(), "file": file, "written": !matches!(written, Written::Kept),
        "old": match &written { Written::Over(old) => Some(old), _ => None },
        "token": token.as_ref().map(|made| &made.record), "secret": token.as_ref().map(|made| &made.secret),
    });
    output.data(&value, || token.as_ref().map_or_else(String::new, |made| format!("{}\n", made.secret)));
    output.hint(&format!("home {}", home.root().display()));
    match written {
        Written::New => output.hint(&format!("configuration {}, all defaults", file.display())),
        Written::Over(old) => {
            output.hint(&format!(
                "configuration {}, all defaults; the old one is {}",
                file.display(),
                old.display()
            ));
        }
        Written::Kept => output.hint(&format!("configuration {}, as it was", file.display())),
    }
    match token {
        Some(made) => output.hint(&format!(
            "token {TOKEN} ({}) may do everything — the secret is shown this once",
            made.record.id
        )),
        None => output.hint(&format!(
            "there is a token {TOKEN} already; for a new one `oubliette token revoke {TOKEN}` and this again"
        )),
    }
    output.hint("start the server with `oubliette --daemon`");
    Ok(OK)
}

/// Asks whether to write over a file; anything but a yes is a no.
async fn is_wanted(file: &Path, output: &Output) -> bool {
    output.ask(&format!("{} is there already: write it anew, all defaults? [y/N]", file.display()));
    let line = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map(|_| line)
    });
    let answer = line.await.ok().and_then(Result::ok).unwrap_or_default();
    matches!(answer.trim().to_lowercase().as_str(), "y" | "yes")
}

/// A token for whoever made the home; none if there is one of its name which is not revoked.
async fn first_token(home: &Home) -> Result<Option<TokenCreated>, Refusal> {
    let tokens = token::open(home).await?;
    let known = tokens.list().await.map_err(|error| error.refusal())?;
    if known.iter().any(|token| token.name == TOKEN && token.revoked_at.is_none()) {
        return Ok(None);
    }
    token::create(&tokens, SystemClock.now(), TOKEN, Scope::Admin, None).await.map(Some)
}
