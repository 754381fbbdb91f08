//! Tokens: names, revoking, several processes, and copies of the file while it is in use.

use std::fs;
use std::path::Path;

use ob_core::Timestamp;
use ob_core::TokenId;
use ob_core::authorize::Scope;
use ob_core::record::TokenRecord;
use ob_store::sqlite::open_tokens;
use ob_store::tokens::SecretHash;
use ob_store::tokens::SharedTokens;
use rusqlite::Connection;

use crate::Folder;

fn token(n: u64, name: &str) -> TokenRecord {
    TokenRecord {
        id: TokenId::new(n),
        name: name.into(),
        scope: Scope::Admin,
        created_at: Timestamp::from_micros(1),
        expires_at: None,
        revoked_at: None,
    }
}

fn hash(n: u8) -> SecretHash {
    [n; 32]
}

async fn open(path: &Path) -> SharedTokens {
    open_tokens(path).await.expect("the token store opens")
}

#[tokio::test]
async fn a_token_is_found_by_its_hash_only_and_its_name_is_free_after_revoking() {
    let folder = Folder::new();
    let path = folder.path().join("data/auth.db");
    let tokens = open(&path).await;
    let first = token(1, "ci");
    assert!(tokens.create(first.clone(), hash(1)).await.expect("create"));
    assert!(!tokens.create(token(2, "ci"), hash(2)).await.expect("create"), "the name is taken");
    assert_eq!(tokens.find(&hash(1)).await.expect("find"), Some(first.clone()));
    assert_eq!(tokens.find(&hash(2)).await.expect("find"), None);
    let mut near = hash(1);
    near[31] ^= 1;
    assert_eq!(tokens.find(&near).await.expect("find"), None, "the same prefix is not enough");

    let at = Timestamp::from_micros(7);
    let revoked = TokenRecord { revoked_at: Some(at), ..first };
    assert_eq!(tokens.revoke("ci", at).await.expect("revoke"), Some(revoked.clone()));
    let later = Timestamp::from_micros(8);
    assert_eq!(tokens.revoke(revoked.id.as_str(), later).await.expect("again"), Some(revoked.clone()));
    assert_eq!(tokens.find(&hash(1)).await.expect("find"), Some(revoked.clone()), "valid or not");
    assert_eq!(tokens.revoke("nobody", at).await.expect("revoke"), None);

    assert!(tokens.create(token(3, "ci"), hash(3)).await.expect("create"), "the name is free again");
    assert_eq!(tokens.get("ci").await.expect("get"), Some(token(3, "ci")), "the newest of the name");
    assert_eq!(tokens.get(revoked.id.as_str()).await.expect("get"), Some(revoked.clone()));
    assert_eq!(tokens.get("").await.expect("get"), None);
    assert_eq!(tokens.list().await.expect("list"), [token(3, "ci"), revoked], "newest first");
}

#[tokio::test]
async fn a_copy_of_the_file_alone_is_complete_after_each_change() {
    let folder = Folder::new();
    let path = folder.path().join("auth.db");
    let tokens = open(&path).await;
    for n in 1..=5_u8 {
        assert!(tokens.create(token(n.into(), &format!("t{n}")), hash(n)).await.expect("create"));
        let copy = folder.path().join(format!("copy{n}.db"));
        fs::copy(&path, &copy).expect("copy");
        assert_eq!(open(&copy).await.list().await.expect("list").len(), usize::from(n));
    }
    Connection::open(&path).expect("open").execute_batch("VACUUM").expect("an operator may vacuum");
    assert!(tokens.find(&hash(3)).await.expect("find").is_some());
    assert!(tokens.create(token(6, "t6"), hash(6)).await.expect("create"));
}

#[tokio::test(flavor = "multi_thread")]
async fn several_processes_change_tokens_and_see_each_other_at_once() {
    let folder = Folder::new();
    let path = folder.path().join("auth.db");
    let mut tasks = tokio::task::JoinSet::new();
    for process in 0..4_u8 {
        let path = path.clone();
        tasks.spawn(async move {
            let tokens = open(&path).await;
            let mut made = 0;
            for n in 0..5_u8 {
                let number = process * 5 + n + 1;
                assert!(
                    tokens
                        .create(token(number.into(), &format!("t{number}")), hash(number))
                        .await
                        .expect("create")
                );
                made += u32::from(tokens.create(token(99, "shared"), hash(99)).await.expect("create"));
            }
            made
        });
    }
    assert_eq!(tasks.join_all().await.into_iter().sum::<u32>(), 1, "one of all made the shared name");
    let (one, two) = (open(&path).await, open(&path).await);
    assert_eq!(one.list().await.expect("list").len(), 21);
    two.revoke("shared", Timestamp::from_micros(5)).await.expect("revoke");
    let seen = one.find(&hash(99)).await.expect("find").expect("there");
    assert!(!seen.is_valid_at(Timestamp::from_micros(6)), "revoked is revoked, everywhere");
}

#[tokio::test]
async fn a_file_that_is_replaced_is_noticed() {
    let folder = Folder::new();
    let (path, backup) = (folder.path().join("auth.db"), folder.path().join("backup.db"));
    let tokens = open(&path).await;
    assert!(tokens.create(token(1, "kept"), hash(1)).await.expect("create"));
    fs::copy(&path, &backup).expect("copy");
    assert!(tokens.create(token(2, "later"), hash(2)).await.expect("create"));
    assert!(tokens.find(&hash(2)).await.expect("find").is_some());
    for suffix in ["-wal", "-shm"] {
        fs::remove_file(folder.path().join(format!("auth.db{suffix}")))
            .expect("a restore clears these first");
    }
    fs::rename(&backup, &path).expect("restore");
    assert!(tokens.find(&hash(1)).await.expect("find").is_some());
    assert!(tokens.find(&hash(2)).await.expect("find").is_none());
    assert!(tokens.create(token(3, "new"), hash(3)).await.expect("create"));
    assert_eq!(open(&path).await.list().await.expect("list").len(), 2, "written to the file that is there");
}

#[tokio::test]
async fn a_revision_tells_that_something_changed_whoever_changed_it() {
    let folder = Folder::new();
    let (path, backup) = (folder.path().join("auth.db"), folder.path().join("backup.db"));
    let (one, two) = (open(&path).await, open(&path).await);
    let mut seen = vec![one.revision().expect("a number")];
    let mut is_another = |what: &str| {
        let now = one.revision().expect("a number");
        assert!(!seen.contains(&now), "{what}: {now} after {seen:?}");
        seen.push(now);
    };
    assert!(one.create(token(1, "mine"), hash(1)).await.expect("create"));
    is_another("created here");
    fs::copy(&path, &backup).expect("copy");
    two.revoke("mine", Timestamp::from_micros(5)).await.expect("revoke");
    is_another("revoked by another");
    for suffix in ["-wal", "-shm"] {
        fs::remove_file(folder.path().join(format!("auth.db{suffix}")))
            .expect("a restore clears these first");
    }
    fs::rename(&backup, &path).expect("restore");
    is_another("the file was replaced");
    assert!(one.find(&hash(1)).await.expect("find").is_some());
    let now = one.revision().expect("a number");
    assert_eq!(one.revision().expect("a number"), now, "looking changes nothing");
}
