//! `oubliette token`: straight on `auth.db`, so that it works with the server up or down and takes effect at once.

use std::sync::Arc;

use ob_core::Home;
use ob_core::Refusal;
use ob_core::Scope;
use ob_core::Timestamp;
use ob_core::operation::TokenCreate;
use ob_core::operation::TokenCreated;
use ob_core::record::TokenRecord;
use ob_engine::Clock as _;
use ob_engine::SystemClock;
use ob_store::audit::AuditedTokens;
use ob_store::tokens;
use ob_store::tokens::SharedTokens;

use super::Context;
use super::OK;
use super::args::Global;
use super::args::TokenCommand;
use super::output::Output;
use super::table::Table;
use super::text;

/// Runs the command.
pub(crate) async fn command(
    command: TokenCommand,
    context: &Context,
    global: &Global,
    output: &Output,
) -> Result<u8, Refusal> {
    let loaded = super::load(context, global)?;
    let home = &loaded.home;
    if super::make_home(context, global, &loaded)? {
        output.hint(&format!("made a home at {}", home.root().display()));
    }
    let tokens = open(home).await?;
    let now = SystemClock.now();
    perform(command, &tokens, now, output).await
}

/// The tokens of a home, whose every change is told to its audit.
pub(crate) async fn open(home: &Home) -> Result<SharedTokens, Refusal> {
    let refuse = |error: ob_store::StoreError| error.refusal();
    let tokens = ob_store::sqlite::open_tokens(&home.auth_database()).await.map_err(refuse)?;
    let audit = ob_store::sqlite::open_audit(&home.audit_database()).await.map_err(refuse)?;
    Ok(Arc::new(AuditedTokens { tokens, audit }))
}

async fn perform(
    command: TokenCommand,
    tokens: &SharedTokens,
    now: Timestamp,
    output: &Output,
) -> Result<u8, Refusal> {
    match command {
        TokenCommand::Create { name, scope, expires_in } => {
            let scope: Scope = scope.parse()?;
            let created = create(tokens, now, &name, scope, expires_in.as_deref()).await?;
            output.data(&created, || format!("{}\n", created.secret));
            output.hint(&format!("token {} ({}) — the secret is shown this once", created.record.id, scope));
        }
        TokenCommand::List => {
            let list = tokens.list().await.map_err(|error| error.refusal())?;
            output.data(&list, || output.table(&table(&list, now)));
            if list.is_empty() {
                output.hint("no token; make one with `oubliette token create --name N --scope S`");
            }
        }
        TokenCommand::Revoke { token } => {
            let record = tokens
                .revoke(&token, now)
                .await
                .map_err(|error| error.refusal())?
                .ok_or_else(|| unknown(&token))?;
            output.data(&record, || format!("revoked {} ({})\n", record.id, record.name));
        }
        TokenCommand::Info { token } => {
            let record =
                tokens.get(&token).await.map_err(|error| error.refusal())?.ok_or_else(|| unknown(&token))?;
            output.data(&record, || {
                let names = ["id", "name", "scope", "state", "created", "expires"];
                let row = row(&record, now);
                names.iter().zip(row).map(|(name, value)| format!("{name:<8} {value}\n")).collect()
            });
        }
    }
    Ok(OK)
}

/// Makes a token; its secret is in the answer and nowhere else.
pub(crate) async fn create(
    tokens: &SharedTokens,
    now: Timestamp,
    name: &str,
    scope: Scope,
    expires_in: Option<&str>,
) -> Result<TokenCreated, Refusal> {
    let seconds = |length: &str| {
        text::parse_duration(length).ok_or_else(|| {
            Refusal::invalid(format!("`{}` is no length of time", text::one_line(length)))
                .fix("use a number with s, m, h, d or w: `30d`")
        })
    };
    let expires_in_s = expires_in.map(seconds).transpose()?;
    let params = TokenCreate { name: name.to_owned(), scope, expires_in_s };
    let mut random = [0; 40];
    rand::fill(&mut random);
    tokens::issue(&**tokens, &params, now, random).await
}

/// Tokens under a header: of its words no row has `ID`, and ids come first, so that a script can take them.
fn table(list: &[TokenRecord], now: Timestamp) -> Table<'static> {
    Table::new("ID")
        .column("NAME", 0)
        .column("SCOPE", 2)
        .state("STATE", 1)
        .column("CREATED", 4)
        .column("EXPIRES", 3)
        .rows(list.iter().map(|record| row(record, now)))
}

fn row(record: &TokenRecord, now: Timestamp) -> Vec<String> {
    let state = match record.revoked_at {
        Some(_) => "revoked",
        None if record.is_valid_at(now) => "valid",
        None => "expired",
    };
    vec![
        record.id.to_string(),
        record.name.clone(),
        record.scope.to_string(),
        state.to_owned(),
        text::instant(record.created_at),
        record.expires_at.map_or_else(|| "never".to_owned(), text::instant),
    ]
}

fn unknown(token: &str) -> Refusal {
    Refusal::not_found("token", text::one_line(token)).fix("list them with `oubliette token list`")
}

#[cfg(test)]
mod tests {
    use ob_core::RefusalCode;

    use super::super::paint::Paint;
    use super::*;

    /// On a real `auth.db`, as with the server down.
    async fn opened(folder: &tempfile::TempDir) -> SharedTokens {
        ob_store::sqlite::open_tokens(&folder.path().join("auth.db")).await.expect("a token store")
    }

    #[tokio::test]
    async fn a_token_is_made_found_listed_and_revoked_with_the_server_down() {
        let folder = tempfile::tempdir().expect("a folder");
        let now = Timestamp::from_micros(1_795_000_000_000_000);
        let tokens = opened(&folder).await;
        let made = create(&tokens, now, "ci", Scope::AdminReadOnly, Some("30d")).await.expect("a token");
        assert!(made.secret.starts_with("oub_") && made.secret.len() == 68);
        assert_ne!(made.record.id.as_str(), made.secret);
        let taken = create(&tokens, now, "ci", Scope::Admin, None).await.err().expect("the name is taken");
        assert_eq!(taken.code, RefusalCode::Conflict);

        // Another process sees it at once.
        let other = opened(&folder).await;
        let found = other.find(&tokens::hash(&made.secret)).await.expect("a read").expect("the token");
        assert_eq!(found, made.record);
        let list = table(&other.list().await.expect("a read"), now).show(None, Paint(false));
        let mut lines = list.lines();
        assert!(lines.next().is_some_and(|line| line.starts_with("ID ")));
        assert!(lines.clone().all(|line| line.starts_with("tok_") && !line.contains("ID")), "{list}");
        assert!(!list.contains(&made.secret));
        for _ in 0..2 {
            let revoked = other.revoke("ci", now).await.expect("a write").expect("the token");
            assert_eq!(revoked.revoked_at, Some(now), "revoking twice is fine");
        }
        let found = tokens.find(&tokens::hash(&made.secret)).await.expect("a read").expect("the token");
        assert!(!found.is_valid_at(now), "revoking takes effect at once");
    }

    #[tokio::test]
    async fn names_and_lengths_of_time_are_checked() {
        let folder = tempfile::tempdir().expect("a folder");
        let tokens = opened(&folder).await;
        for (name, expires) in [("", None), ("A", None), ("a b", None), ("a/b", None), ("a", Some("soon"))] {
            let refusal = create(&tokens, Timestamp::default(), name, Scope::Admin, expires).await;
            assert_eq!(refusal.err().map(|r| r.code), Some(RefusalCode::InvalidArgument), "{name}");
        }
    }
}
