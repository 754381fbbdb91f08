//! Power fails at any moment of a store's life.

use std::collections::BTreeMap;
use std::path::Path;

use ob_core::Event;
use ob_core::SessionId;
use ob_core::Timestamp;
use ob_core::TokenId;
use ob_core::authorize::Scope;
use ob_core::event::INLINE_PAYLOAD_MAX;
use ob_core::record::TokenRecord;
use ob_store::SessionFilter;
use ob_store::SharedStore;
use ob_store::StoreError;
use ob_store::Write;
use ob_store::conformance::append;
use ob_store::conformance::commit;
use ob_store::conformance::event;
use ob_store::conformance::in_time;
use ob_store::conformance::log;
use ob_store::conformance::seed;
use ob_store::sqlite::SqliteOptions;
use ob_store::sqlite::open_tokens;
use ob_store::tokens::SharedTokens;
use rand::Rng as _;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rusqlite::Connection;

use crate::disk::Disk;
use crate::disk::Lie;
use crate::disk::Op;
use crate::disk::Watch;

/// Power losses in `make test`; `OUBLIETTE_POWER_LOSSES` sets another number.
const LOSSES: usize = 60;
/// A lying disk is found out within so many.
const LIES: usize = 400;
/// Times that the store is opened in one life.
const OPENINGS: usize = 3;
/// Rounds of commits between opening and closing.
const ROUNDS: usize = 12;
/// Commits at once.
const LANES: usize = 4;
/// Two of them are more than the tail holds, and so move at once.
const BULKY: usize = 60_000;

pub(crate) fn options(folder: &Path) -> SqliteOptions {
    SqliteOptions { database: folder.join("data/oubliette.db"), blobs: folder.join("data/blobs") }
}

pub(crate) async fn open(folder: &Path) -> Result<SharedStore, StoreError> {
    ob_store::sqlite::open(options(folder)).await
}

/// What was acknowledged.
enum Kept {
    /// These events of this session, the first with this number.
    Events(Events),
    /// The token of this number.
    Token(u8),
}

struct Events {
    session: SessionId,
    first: u64,
    texts: Vec<String>,
}

// === impl Kept ===

impl Kept {
    const fn events(&self) -> Option<&Events> {
        match self {
            Self::Events(events) => Some(events),
            Self::Token(_) => None,
        }
    }
}

/// A store's life on a disk, from its making on: what was acknowledged, and the journal with a mark for each.
async fn life(folder: &Path, seed_of_life: u64, bulky: usize) -> (Vec<Kept>, Disk) {
    let mut rng = StdRng::seed_from_u64(seed_of_life);
    let watch = Watch::start(folder);
    let mut kept = Vec::new();
    let mut sessions = Vec::new();
    for opening in 0..OPENINGS {
        let store = open(folder).await.expect("a sound disk");
        let tokens = open_tokens(&folder.join("data/auth.db")).await.expect("a sound disk");
        let record = seed(&store).await;
        sessions.push(record.id);
        for round in 0..ROUNDS {
            let mut lanes = tokio::task::JoinSet::new();
            for lane in 0..LANES {
                let session = sessions[rng.random_range(0..sessions.len())].clone();
                let store = store.clone();
                let length = match rng.random_range(0..20) {
                    0 => 2 * INLINE_PAYLOAD_MAX,
                    1..=3 => 5_000,
                    _ => 20,
                };
                let texts: Vec<String> = (0..rng.random_range(1..4))
                    .map(|n| format!("{opening}.{round}.{lane}.{n}:{}", "x".repeat(length)))
                    .collect();
                lanes.spawn(
                    async move { (session.clone(), texts.clone(), keep(&store, session, texts).await) },
                );
            }
            while let Some(done) = lanes.join_next().await {
                let (session, texts, first) = done.expect("no panic");
                Watch::mark(kept.len());
                kept.push(Kept::Events(Events { session, first, texts }));
            }
            if round % 4 == 0 {
                let number = u8::try_from(kept.len() % 251).expect("small");
                if create_token(&tokens, number).await {
                    Watch::mark(kept.len());
                    kept.push(Kept::Token(number));
                }
            }
        }
        for number in 0..bulky {
            let texts = vec![format!("{opening}.bulky.{number}:{}", "y".repeat(BULKY))];
            let first = keep(&store, sessions[0].clone(), texts.clone()).await;
            Watch::mark(kept.len());
            kept.push(Kept::Events(Events { session: sessions[0].clone(), first, texts }));
        }
        in_time(store.close()).await.expect("a clean end");
    }
    (kept, watch.end())
}

/// Makes the token of this number; false if there is one.
async fn create_token(tokens: &SharedTokens, number: u8) -> bool {
    let record = TokenRecord {
        id: TokenId::new(number.into()),
        name: format!("token-{number}"),
        scope: Scope::Admin,
        created_at: Timestamp::from_micros(1),
        expires_at: None,
        revoked_at: None,
    };
    tokens.create(record, [number; 32]).await.expect("a sound disk")
}

async fn keep(store: &SharedStore, session: SessionId, texts: Vec<String>) -> u64 {
    let events = texts.into_iter().map(event).collect();
    commit(store, vec![Write::Append { session, events }]).await.expect("a sound disk").first_index[0]
}

/// What is wrong with the store on the disk that a power loss left, after the first `until` changes; nothing if all that
/// was acknowledged before is there, nothing else is, and the store goes on.
async fn wrong(kept: &[Kept], disk: &Disk, until: usize, lie: Lie, rng: &mut StdRng) -> Option<String> {
    let folder = tempfile::tempdir().expect("a folder");
    disk.image(until, lie, rng, folder.path());
    let store = match open(folder.path()).await {
        Ok(store) => store,
        Err(fault) => return Some(format!("it does not open: {fault}")),
    };
    let tokens = match open_tokens(&folder.path().join("data/auth.db")).await {
        Ok(tokens) => tokens,
        Err(fault) => return Some(format!("the tokens do not open: {fault}")),
    };
    let outcome = wrong_inside(&store, &tokens, kept, disk, until).await;
    in_time(store.close()).await.expect("a clean end");
    let database = Connection::open(options(folder.path()).database).expect("it was opened before");
    let check: String = database.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("a row");
    outcome.or_else(|| (check != "ok").then_some(check))
}

async fn wrong_inside(
    store: &SharedStore,
    tokens: &SharedTokens,
    kept: &[Kept],
    disk: &Disk,
    until: usize,
) -> Option<String> {
    let marks = disk.journal[..until].iter().filter_map(|op| match op {
        Op::Mark { number } => Some(*number),
        _ => None,
    });
    let mut promised: BTreeMap<&SessionId, Vec<&Events>> = BTreeMap::new();
    for number in marks {
        match &kept[number] {
            Kept::Events(events) => promised.entry(&events.session).or_default().push(events),
            Kept::Token(number) => {
                if tokens.find(&[*number; 32]).await.expect("readable").is_none() {
                    return Some(format!("token {number} is lost"));
                }
            }
        }
    }
    let all = || kept.iter().filter_map(Kept::events);
    let written = |text: &str| all().filter(|one| one.texts.iter().any(|known| known == text)).count();
    for (session, promised) in promised {
        let events = match whole_log(store, session).await {
            Ok(events) => events,
            Err(fault) => return Some(format!("{session} cannot be read: {fault}")),
        };
        for one in promised {
            for (number, text) in (one.first..).zip(&one.texts) {
                let found =
                    events.get(usize::try_from(number).expect("few")).and_then(|e| e.body.text.as_ref());
                if found != Some(text) {
                    let found = found.map(|text| text.chars().take(20).collect::<String>());
                    return Some(format!("event {number} of {session} is lost: {found:?} is there"));
                }
            }
        }
        for event in &events {
            if event.body.text.as_deref().is_some_and(|text| written(text) != 1) {
                return Some(format!("event {} of {session} was never written", event.index));
            }
        }
    }
    // All goes on.
    let all =
        store.sessions(SessionFilter { limit: 100, ..SessionFilter::default() }).await.expect("readable");
    for session in all {
        let before = log(store, &session.id).await.len() as u64;
        let committed =
            commit(store, vec![append(&session.id, "after the loss")]).await.expect("a sound disk");
        if committed.first_index != [before] {
            return Some(format!(
                "{} goes on with {:?} after {before} events",
                session.id, committed.first_index
            ));
        }
    }
    None
}

/// All events of a session; a page has a bound in bytes.
async fn whole_log(store: &SharedStore, session: &SessionId) -> Result<Vec<Event>, StoreError> {
    let mut events: Vec<Event> = Vec::new();
    loop {
        let page = store.events(session, events.len() as u64, 1_000).await?;
        if page.is_empty() {
            return Ok(events);
        }
        events.extend(page);
    }
}

fn losses() -> usize {
    std::env::var("OUBLIETTE_POWER_LOSSES").map_or(LOSSES, |text| text.parse().expect("a number"))
}

async fn survives(bulky: usize, losses: usize) {
    let seed = rand::random();
    let folder = tempfile::tempdir().expect("a folder");
    let (kept, disk) = life(folder.path(), seed, bulky).await;
    assert!(kept.len() >= OPENINGS * ROUNDS && disk.journal.len() > 2 * kept.len(), "the journal is there");
    let mut rng = StdRng::seed_from_u64(seed);
    for loss in 0..losses {
        let until = rng.random_range(0..=disk.journal.len());
        let wrong = wrong(&kept, &disk, until, Lie::None, &mut rng).await;
        assert_eq!(wrong, None, "seed {seed}, loss {loss}, after {until} of {}", disk.journal.len());
    }
}

/// Invariant 2, `acknowledged_means_kept`, when the page cache is lost too.
#[tokio::test(flavor = "multi_thread")]
async fn whenever_the_power_fails_all_that_was_acknowledged_is_kept() {
    survives(0, losses()).await;
}

/// With checkpoints in the background, and events that move from the tail to their place without a flush.
#[tokio::test(flavor = "multi_thread")]
async fn a_power_loss_while_the_log_is_copied_and_events_move_loses_nothing() {
    survives(30, losses() / 6).await;
}

/// The positive controls: each kind of flush is needed, and its lack is seen.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_does_not_flush_is_found_out() {
    let folder = tempfile::tempdir().expect("a folder");
    let (kept, disk) = life(folder.path(), 1, 0).await;
    for lie in [Lie::Database, Lie::Blobs, Lie::Folders] {
        let mut rng = StdRng::seed_from_u64(2);
        let mut found = None;
        for _ in 0..LIES {
            let until = rng.random_range(0..=disk.journal.len());
            found = wrong(&kept, &disk, until, lie, &mut rng).await;
            if found.is_some() {
                break;
            }
        }
        assert!(found.is_some(), "{lie:?} is not found out");
    }
}
