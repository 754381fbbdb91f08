//! What is shown of a session is never older than what was acknowledged.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use ob_core::MicroUsd;
use ob_core::SessionId;
use ob_core::Timestamp;
use ob_core::TurnNumber;
use ob_core::ledger::Amount;
use ob_core::ledger::TreeLimits;
use ob_core::record::SessionRecord;
use ob_core::session::TurnStop;
use ob_core::turn::TurnState;
use tokio::task::JoinSet;

use super::Place;
use super::append;
use super::charge;
use super::commit;
use super::reserve;
use super::seed_with;
use super::turn;
use crate::SessionSummary;
use crate::SharedStore;
use crate::Write;

/// Rounds of each writer, and tokens that each of them uses.
const ROUNDS: u32 = 60;

async fn summary(store: &SharedStore, record: &SessionRecord) -> SessionSummary {
    store.summary(&record.id).await.expect("read").expect("there")
}

/// Changes everything that a summary shows, one commit after the other, and looks after each.
async fn change(store: SharedStore, mut record: SessionRecord) {
    for round in 1..=ROUNDS {
        let told = commit(&store, vec![append(&record.id, format!("{round}"))]).await.expect("append");
        let seen = summary(&store, &record).await;
        assert_eq!(seen.next_index, told.first_index[0] + 1, "its own events");

        record.last_turn = TurnNumber(round);
        record.title = format!("round {round}");
        commit(&store, vec![Write::PutSession(Box::new(record.clone()))]).await.expect("session");
        assert_eq!(summary(&store, &record).await.record, record);
        assert_eq!(store.session(&record.id).await.expect("read").as_ref(), Some(&record));

        let stop = if round % 2 == 0 { TurnStop::EndTurn } else { TurnStop::Cancelled };
        let mut turn = turn(&record.id, round, TurnState::Queued);
        turn.stop = Some(stop);
        commit(&store, vec![Write::PutTurn(turn)]).await.expect("turn");
        assert_eq!(summary(&store, &record).await.last_stop, Some(stop));

        let charge = charge();
        commit(&store, vec![reserve(charge, &record, 5)]).await.expect("reserve");
        let used = Amount::new(1, MicroUsd(0));
        commit(&store, vec![Write::Settle { charge, used }]).await.expect("settle");
        // Another one of the tree uses as much, at its own pace.
        assert!(summary(&store, &record).await.ledger.used.tokens >= u64::from(round));

        let mut refused = record.clone();
        refused.title = "must not be seen".into();
        let nobody = SessionId::new(Timestamp::from_micros(0), rand::random());
        let writes =
            vec![append(&record.id, "x"), Write::PutSession(Box::new(refused)), append(&nobody, "refused")];
        commit(&store, writes).await.expect_err("nobody is there");
        let seen = summary(&store, &record).await;
        assert_eq!((seen.record, seen.next_index), (record.clone(), u64::from(round)), "as it was");
    }
}

/// Whoever was answered reads what they wrote, and nobody sees a session go back, whoever else reads meanwhile.
pub async fn a_summary_is_never_older_than_what_was_acknowledged(place: &impl Place) {
    let store = place.open().await;
    let first = seed_with(&store, TreeLimits::default(), None).await;
    let mut second = super::session(&super::workspace(first.project), &first.tree);
    second.workspace = first.workspace;
    commit(&store, vec![Write::PutSession(Box::new(second.clone()))])
        .await
        .expect("a second one of the tree");

    let is_over = Arc::new(AtomicBool::new(false));
    let mut readers = JoinSet::new();
    for record in [&first, &second, &first, &second] {
        let (store, record, is_over) = (store.clone(), record.clone(), Arc::clone(&is_over));
        readers.spawn(async move {
            let mut before = summary(&store, &record).await;
            while !is_over.load(Ordering::Relaxed) {
                let now = summary(&store, &record).await;
                assert!(now.next_index >= before.next_index, "events");
                assert!(now.record.last_turn >= before.record.last_turn, "turns");
                assert!(now.ledger.used.tokens >= before.ledger.used.tokens, "books");
                before = now;
                tokio::task::yield_now().await;
            }
        });
    }
    let mut writers = JoinSet::new();
    writers.spawn(change(store.clone(), first.clone()));
    writers.spawn(change(store.clone(), second.clone()));
    writers.join_all().await;
    is_over.store(true, Ordering::Relaxed);
    readers.join_all().await;

    for record in [&first, &second] {
        assert_eq!(summary(&store, record).await.ledger.used.tokens, 2 * u64::from(ROUNDS));
    }
    commit(&store, vec![Write::DeleteProject(first.project)]).await.expect("delete");
    for record in [&first, &second] {
        assert_eq!(store.summary(&record.id).await.expect("read"), None, "gone with its project");
        assert_eq!(store.session(&record.id).await.expect("read"), None);
    }
    store.close().await.expect("close");
    store.summary(&first.id).await.expect_err("a closed store has nothing more to say");
}
