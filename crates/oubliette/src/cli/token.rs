//! `oubliette token`: straight on `auth.db`, so that it works with the server up or down and takes effect at once.

use ob_config::Loaded;
use ob_core::Refusal;
use ob_core::RefusalCode;
use ob_core::Scope;
use ob_core::Timestamp;
use ob_core::TokenId;
use ob_core::operation::TokenCreated;
use ob_core::record::TokenRecord;
use ob_store::StoreError;
use ob_store::tokens;
use ob_store::tokens::SharedTokens;
use serde_json::json;

use super::OK;
use super::args::TokenCommand;
use super::failed;
use super::output::Output;
use super::text;

/// Runs the command.
pub(crate) async fn command(command: TokenCommand, loaded: Loaded, output: &Output) -> Result<u8, Refusal> {
    let home = &loaded.home;
    if ob_config::make_home(home).map_err(|error| failed("make the home", &error))? {
        output.hint(&format!("made a home at {}", home.root().display()));
    }
    let tokens = ob_store::sqlite::open_tokens(&home.auth_database()).await.map_err(store)?;
    let now = Timestamp::from_micros(jiff::Timestamp::now().as_microsecond());
    perform(command, &tokens, now, output).await
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
            let list = tokens.list().await.map_err(store)?;
            output.data(&json!({ "tokens": list }), || {
                let rows: Vec<_> = list.iter().map(|record| row(record, now)).collect();
                output.table(&["ID", "NAME", "SCOPE", "STATE", "CREATED", "EXPIRES"], &rows)
            });
        }
        TokenCommand::Revoke { token } => {
            let record = tokens.revoke(&token, now).await.map_err(store)?.ok_or_else(|| unknown(&token))?;
            output.data(&record, || format!("revoked {} ({})\n", record.id, record.name));
        }
        TokenCommand::Info { token } => {
            let record = tokens.get(&token).await.map_err(store)?.ok_or_else(|| unknown(&token))?;
            output.data(&record, || {
                let names = ["id", "name", "scope", "state", "created", "expires"];
                let row = row(&record, now);
                names.iter().zip(row).map(|(name, value)| format!("{name:<8} {value}\n")).collect()
            });
        }
    }
    Ok(OK)
}

async fn create(
    tokens: &SharedTokens,
    now: Timestamp,
    name: &str,
    scope: Scope,
    expires_in: Option<&str>,
) -> Result<TokenCreated, Refusal> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
    if !(1..=64).contains(&name.len()) || !name.bytes().all(plain) {
        return Err(Refusal::invalid(format!(
            "`{}` is no name for a token",
            text::cut(&text::one_line(name), 80)
        ))
        .fix("use 1 to 64 of a-z, 0-9, `.`, `_` and `-`"));
    }
    let expires_at = match expires_in {
        None => None,
        Some(length) => {
            let seconds = text::parse_duration(length).ok_or_else(|| {
                Refusal::invalid(format!("`{}` is no length of time", text::one_line(length)))
                    .fix("use a number with s, m, h, d or w: `30d`")
            })?;
            Some(now.saturating_add(std::time::Duration::from_secs(seconds)))
        }
    };
    let secret = tokens::new_secret(rand::random());
    let record = TokenRecord {
        id: TokenId::new(rand::random()),
        name: name.to_owned(),
        scope,
        created_at: now,
        expires_at,
        revoked_at: None,
    };
    if !tokens.create(record.clone(), tokens::hash(&secret)).await.map_err(store)? {
        return Err(Refusal::conflict(format!("there is a token called `{name}` already"))
            .fix(format!("take another name, or revoke it with `oubliette token revoke {name}`")));
    }
    Ok(TokenCreated { record, secret })
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

fn store(error: StoreError) -> Refusal {
    match error {
        StoreError::Full => Refusal::unavailable("the disk is full").fix("free some space"),
        other => Refusal::new(RefusalCode::Unavailable, format!("the token store failed: {other}"))
            .fix("see `oubliette doctor`"),
    }
}

#[cfg(test)]
mod tests {
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
        let list = text::table(
            &["ID", "NAME", "SCOPE", "STATE", "CREATED", "EXPIRES"],
            &other.list().await.expect("a read").iter().map(|r| row(r, now)).collect::<Vec<_>>(),
            None,
        );
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
