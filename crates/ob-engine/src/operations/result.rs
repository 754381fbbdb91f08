//! What came of a turn, waited for if need be.

use std::time::Duration;

use ob_core::Event;
use ob_core::EventKind;
use ob_core::Refusal;
use ob_core::SessionId;
use ob_core::TurnNumber;
use ob_core::event::Role;
use ob_core::operation::SessionAccepted;
use ob_core::operation::SessionResult;
use ob_core::operation::TurnResult;
use ob_core::record::SessionRecord;
use ob_store::StoreError;
use serde_json::Value;

use super::answer;
use super::parse;
use crate::Engine;

/// The longest wait, in milliseconds.
const WAIT_MAX: u32 = 60_000;
/// While it waits, the turn is looked at at least this often: one that is withdrawn before it began rings no bell.
const LOOK: Duration = Duration::from_secs(1);
/// Events in one look for the agent's last words, from the end of the log.
const WINDOW: u64 = 200;
/// The most bytes of the agent's last words.
const TEXT_MAX: usize = 64 * 1024;

// === impl Engine ===

impl Engine {
    pub(super) async fn session_result(
        &self,
        record: &SessionRecord,
        params: &SessionResult,
    ) -> Result<TurnResult, Refusal> {
        let wait = result_wait(params.wait_ms)?;
        self.turn_result(&record.id, params.turn.map_or(record.last_turn, TurnNumber), wait).await
    }

    /// The answer of a spawn, with what came of its task within the time.
    pub(super) async fn with_result(&self, accepted: Value, wait_ms: u32) -> Result<Value, Refusal> {
        let mut accepted: SessionAccepted = parse(accepted)?;
        let wait = Duration::from_millis(wait_ms.into());
        accepted.result = Some(self.turn_result(&accepted.session_id, accepted.turn, wait).await?);
        answer(accepted)
    }

    async fn turn_result(
        &self,
        session: &SessionId,
        turn: TurnNumber,
        wait: Duration,
    ) -> Result<TurnResult, Refusal> {
        let refuse = |error: StoreError| error.refusal();
        let store = &self.shared.store;
        let mut doorbell = store.doorbell(session).await.map_err(refuse)?;
        let mut stop = self.stop.subscribe();
        let deadline = tokio::time::sleep(wait);
        tokio::pin!(deadline);
        let (found, record) = loop {
            let seen = *doorbell.borrow_and_update();
            let found = store.turn(session, turn).await.map_err(refuse)?;
            let record = store.session(session).await.map_err(refuse)?;
            let (Some(found), Some(record)) = (found, record) else {
                return Err(Refusal::not_found("turn", turn).fix("`session get` says how many there are"));
            };
            if found.state.is_over() || wait.is_zero() {
                break (found, record);
            }
            tokio::select! {
                rung = doorbell.wait_for(|next| *next > seen) => if rung.is_err() { break (found, record) },
                () = tokio::time::sleep(LOOK) => {}
                _ = stop.wait_for(Option::is_some) => break (found, record),
                () = &mut deadline => break (found, record),
            }
        };
        let next = *doorbell.borrow();
        Ok(TurnResult {
            session_id: session.clone(),
            turn,
            done: found.state.is_over(),
            stop: found.stop,
            state: record.core.state.as_str().to_owned(),
            text: self.last_words(session, turn, next).await.map_err(refuse)?,
            reason: record.reason,
        })
    }

    /// The last that the agent said in a turn, looked for from the end of the log.
    async fn last_words(
        &self,
        session: &SessionId,
        turn: TurnNumber,
        mut end: u64,
    ) -> Result<Option<String>, StoreError> {
        while end > 0 {
            let from = end.saturating_sub(WINDOW);
            let mut events = Vec::new();
            let mut next = from;
            while next < end {
                let limit = usize::try_from(end - next).unwrap_or(usize::MAX);
                let page = self.shared.store.events(session, next, limit).await?;
                let Some(last) = page.last() else { break };
                next = last.index + 1;
                events.extend(page);
            }
            if let Some(said) = events.iter().rev().find_map(|event| words(event, turn)) {
                return Ok(Some(said));
            }
            if events.iter().any(|event| event.body.turn.is_some_and(|other| other < turn)) {
                return Ok(None);
            }
            end = from;
        }
        Ok(None)
    }
}

/// What the agent said to whoever gave it this turn, if this event is that.
fn words(event: &Event, turn: TurnNumber) -> Option<String> {
    let body = &event.body;
    let is_said =
        body.kind == EventKind::Message && body.role == Some(Role::Agent) && body.turn == Some(turn);
    let text = body.text.as_ref().filter(|text| is_said && !text.is_empty())?;
    Some(text[..text.floor_char_boundary(TEXT_MAX)].to_owned())
}

/// For how long to wait, within bounds.
pub(super) fn result_wait(wait_ms: Option<u32>) -> Result<Duration, Refusal> {
    match wait_ms.unwrap_or(0) {
        wait @ 0..=WAIT_MAX => Ok(Duration::from_millis(wait.into())),
        wait => Err(Refusal::invalid(format!("wait_ms {wait} is out of bounds")).fix("use 0 to 60000")),
    }
}
