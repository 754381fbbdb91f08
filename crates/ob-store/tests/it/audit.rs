//! The audit's promise: what was added is there, in order, and whatever is done to it behind its back is found.

use std::path::Path;

use ob_core::Principal;
use ob_core::RefusalCode;
use ob_core::Timestamp;
use ob_core::audit::Asker;
use ob_core::audit::AuditEntry;
use ob_core::audit::AuditRow;
use ob_core::audit::about;
use ob_core::operation::Operation;
use ob_store::audit::AuditPage;
use ob_store::audit::AuditedTokens;
use ob_store::audit::SharedAudit;
use ob_store::sqlite::open_audit;
use ob_store::tokens::Tokens as _;
use rusqlite::Connection;
use rusqlite::params;
use serde_json::json;

const ENTRIES: u64 = 12;

fn entry(number: i64) -> AuditEntry {
    let asker = Asker { principal: Principal::Operator, request: Some(format!("request-{number}")) };
    let about = about(&json!({ "session_id": "gogol_20261118_110640_deadbeef" }));
    let at = Timestamp::from_micros(1_795_000_000_000_000 + number);
    if number % 3 == 0 {
        AuditEntry::refused(at, &asker, Operation::SessionEnd, &about, RefusalCode::Forbidden)
    } else {
        AuditEntry::permitted(at, &asker, Operation::SessionMessage, &about)
    }
}

async fn filled(path: &Path) -> SharedAudit {
    let audit = open_audit(path).await.expect("opens");
    for number in 0..i64::try_from(ENTRIES).expect("few") {
        audit.append(entry(number)).await.expect("added");
    }
    audit
}

async fn all(audit: &SharedAudit) -> Vec<AuditRow> {
    audit.page(AuditPage::After(0), 1000).await.expect("read")
}

#[tokio::test]
async fn what_was_added_is_there_in_order_and_still_after_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("data/audit.db");
    let audit = filled(&path).await;
    let rows = all(&audit).await;
    assert_eq!(rows.iter().map(|row| row.seq).collect::<Vec<_>>(), (1..=ENTRIES).collect::<Vec<_>>());
    assert_eq!(rows[4].entry, entry(4));
    let newest = audit.page(AuditPage::Before(u64::MAX), 3).await.expect("read");
    assert_eq!(newest.iter().map(|row| row.seq).collect::<Vec<_>>(), [12, 11, 10]);
    let verdict = audit.verify().await.expect("looked at");
    assert!(verdict.intact, "{verdict:?}");
    assert_eq!((verdict.entries, &verdict.head), (ENTRIES, &rows[11].hash));
    drop(audit);

    let audit = open_audit(&path).await.expect("opens again");
    assert_eq!(all(&audit).await, rows);
    let mode = std::fs::metadata(&path).expect("it is there").permissions();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o600);
}

#[tokio::test]
async fn writers_of_several_processes_make_one_chain() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("audit.db");
    let (one, other) = (open_audit(&path).await.expect("opens"), open_audit(&path).await.expect("opens"));
    let mut both = tokio::task::JoinSet::new();
    for number in 0..100 {
        let audit = SharedAudit::clone(if number % 2 == 0 { &one } else { &other });
        both.spawn(async move { audit.append(entry(number)).await });
    }
    while let Some(added) = both.join_next().await {
        added.expect("no panic").expect("added");
    }
    let verdict = other.verify().await.expect("looked at");
    assert!(verdict.intact && verdict.entries == 100, "{verdict:?}");
}

#[tokio::test]
async fn the_file_itself_refuses_to_forget() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("audit.db");
    let audit = filled(&path).await;
    let file = Connection::open(&path).expect("opens");
    for statement in ["DELETE FROM audit WHERE seq = 3", "UPDATE audit SET entry = '{}' WHERE seq = 3"] {
        let refused = file.execute(statement, []).expect_err("a mistake");
        assert!(refused.to_string().contains("only ever added to"), "{refused}");
    }
    assert!(audit.verify().await.expect("looked at").intact);
}

/// Each entry in turn: dropped, a bit of its text or its hash flipped, its number changed, two of them exchanged.
#[tokio::test]
async fn one_flipped_bit_or_one_dropped_row_is_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("audit.db");
    let audit = filled(&path).await;
    let file = Connection::open(&path).expect("opens");
    file.execute_batch("DROP TRIGGER audit_never_changes; DROP TRIGGER audit_never_shrinks")
        .expect("dropped");
    let read = |seq: u64| -> (Vec<u8>, Vec<u8>) {
        file.query_row("SELECT CAST(entry AS BLOB), hash FROM audit WHERE seq = ?1", [seq], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .expect("a row")
    };
    let write = |seq: u64, entry: &[u8], hash: &[u8]| {
        file.execute(
            "INSERT OR REPLACE INTO audit (seq, entry, hash) VALUES (?1, CAST(?2 AS TEXT), ?3)",
            params![seq, entry, hash],
        )
        .expect("written");
    };
    let forget = |seq: u64| {
        file.execute("DELETE FROM audit WHERE seq = ?1", [seq]).expect("deleted");
    };
    let mut tried = 0;
    for seq in 1..=ENTRIES {
        let (entry, hash) = read(seq);
        let mut mutations: Vec<(String, Box<dyn Fn() + '_>)> = Vec::new();
        mutations.push((format!("{seq} dropped"), Box::new(move || forget(seq))));
        for (name, place) in [("text", 0), ("hash", 1)] {
            let bits = if place == 0 { entry.len() * 8 } else { hash.len() * 8 };
            for bit in (0..bits).step_by(61) {
                let (mut entry, mut hash) = (entry.clone(), hash.clone());
                let bytes = if place == 0 { &mut entry } else { &mut hash };
                bytes[bit / 8] ^= 1 << (bit % 8);
                mutations.push((
                    format!("bit {bit} of the {name} of {seq}"),
                    Box::new(move || write(seq, &entry, &hash)),
                ));
            }
        }
        let (other_entry, other_hash) = read(seq % ENTRIES + 1);
        mutations.push((
            format!("{seq} and the next exchanged"),
            Box::new({
                let (entry, hash) = (entry.clone(), hash.clone());
                move || {
                    write(seq, &other_entry, &other_hash);
                    write(seq % ENTRIES + 1, &entry, &hash);
                }
            }),
        ));
        let (next_entry, next_hash) = read(seq % ENTRIES + 1);
        for (what, mutate) in &mutations {
            mutate();
            let verdict = audit.verify().await.expect("looked at");
            assert!(!verdict.intact && !verdict.faults.is_empty(), "{what} was not found");
            write(seq, &entry, &hash);
            write(seq % ENTRIES + 1, &next_entry, &next_hash);
            tried += 1;
        }
        let verdict = audit.verify().await.expect("looked at");
        assert!(verdict.intact, "put back as it was: {verdict:?}");
    }
    assert!(tried > 300, "{tried} mutations");
    // Whoever takes entries from the end and knows of the head leaves a head that fits nothing.
    file.execute("UPDATE head SET seq = seq - 1", []).expect("changed");
    assert!(!audit.verify().await.expect("looked at").intact);
}

#[tokio::test]
async fn tokens_that_are_changed_without_a_server_are_in_the_audit_without_their_secrets() {
    let folder = tempfile::tempdir().expect("a folder");
    let audit = open_audit(&folder.path().join("audit.db")).await.expect("opens");
    let tokens = ob_store::sqlite::open_tokens(&folder.path().join("auth.db")).await.expect("opens");
    let tokens = AuditedTokens { tokens, audit: SharedAudit::clone(&audit) };
    let params = ob_core::operation::TokenCreate {
        name: "ci".to_owned(),
        scope: ob_core::Scope::AdminReadOnly,
        expires_in_s: None,
    };
    let made = ob_store::tokens::issue(&tokens, &params, Timestamp::default(), [7; 40]).await.expect("made");
    tokens.revoke(made.record.id.as_str(), Timestamp::default()).await.expect("revoked");
    // A secret in the place of a name is no name.
    tokens.revoke(&made.secret, Timestamp::default()).await.expect("asked");
    let told: Vec<_> =
        all(&audit).await.into_iter().map(|row| (row.entry.operation, row.entry.about)).collect();
    let of = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    assert_eq!(
        told,
        [
            ("token.create".to_owned(), of(&[("name", "ci"), ("scope", "admin:ro")])),
            ("token.revoke".to_owned(), of(&[("token", made.record.id.as_str())])),
            ("token.revoke".to_owned(), of(&[])),
        ]
    );
    let text = std::fs::read(folder.path().join("audit.db-wal")).unwrap_or_default();
    assert!(!text.is_empty() && !String::from_utf8_lossy(&text).contains(&made.secret[8..40]));
}
