//! Records: sessions in states that they can be in, turns without a gap, books that add up, tokens that can be read.

use ob_core::MicroUsd;
use ob_core::record::SessionRecord;
use ob_core::record::TokenRecord;
use ob_core::record::TurnRecord;
use ob_core::session::SessionState;
use rusqlite::Connection;

use super::Faults;
use crate::sqlite::fault::Fault;

/// Sessions: what the columns say, what the record says, and what a session can be.
pub(super) fn sessions(connection: &Connection) -> Result<(String, Faults), Fault> {
    let newest: u64 =
        connection.query_row("SELECT coalesce(max(epoch), 0) FROM epochs", [], |row| row.get(0))?;
    let mut statement =
        connection.prepare("SELECT id, state, status, epoch, record FROM sessions ORDER BY key")?;
    let mut rows = statement.query([])?;
    let (mut count, mut faults) = (0_u64, Faults::default());
    while let Some(row) = rows.next()? {
        count += 1;
        let (id, state, status): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let epoch: Option<u64> = row.get(3)?;
        let record = row.get_ref(4)?.as_str().map_err(rusqlite::Error::from)?;
        if let Err(why) = session(&id, &state, &status, record) {
            faults.add(format!("session {id}: {why}"));
        } else if epoch.is_some_and(|epoch| epoch > newest) {
            faults.add(format!("session {id}: owned by a server that never was"));
        }
    }
    Ok((format!("{count} sessions, each in a state that it can be in"), faults))
}

fn session(id: &str, state: &str, status: &str, record: &str) -> Result<(), String> {
    let record: SessionRecord = serde_json::from_str(record).map_err(|error| error.to_string())?;
    let Some(known) = SessionState::parse(state) else { return Err(format!("its state is `{state}`")) };
    let core = &record.core;
    if record.id.as_str() != id {
        return Err(format!("its record is that of {}", record.id));
    }
    if core.state != known {
        return Err(format!("filed as {state}, and its record says {}", core.state.as_str()));
    }
    if known.status().as_str() != status {
        return Err(format!("{state} and {status} at once"));
    }
    let works = matches!(known, SessionState::Running | SessionState::Waiting(_));
    let may_work = works || matches!(known, SessionState::Starting | SessionState::Interrupted);
    if works && core.active.is_none() {
        return Err(format!("{state} without a turn that it works on"));
    }
    if !may_work && core.active.is_some() {
        return Err(format!("{state} with a turn that it works on"));
    }
    if (known.is_over() || matches!(known, SessionState::Idle | SessionState::Asleep))
        && !core.queue.is_empty()
    {
        return Err(format!("{state} with turns that wait"));
    }
    let newest = core.active.iter().chain(&core.queue).max();
    if newest.is_some_and(|turn| *turn > record.last_turn) {
        return Err("it works on a turn that was never accepted".to_owned());
    }
    Ok(())
}

/// Turns: from 1 without a gap, each as its record says.
pub(super) fn turns(connection: &Connection) -> Result<(String, Faults), Fault> {
    let mut statement = connection.prepare(
        "SELECT sessions.id, turns.number, turns.state, turns.record FROM turns
         JOIN sessions ON sessions.key = session_key ORDER BY session_key, number",
    )?;
    let mut rows = statement.query([])?;
    let (mut count, mut faults) = (0_u64, Faults::default());
    let mut last: Option<(String, u32)> = None;
    while let Some(row) = rows.next()? {
        count += 1;
        let (id, number, state): (String, u32, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let record = row.get_ref(3)?.as_str().map_err(rusqlite::Error::from)?;
        let expected = match &last {
            Some((session, last)) if *session == id => last + 1,
            _ => 1,
        };
        match serde_json::from_str::<TurnRecord>(record) {
            Err(error) => faults.add(format!("turn {number} of session {id}: {error}")),
            Ok(turn)
                if turn.state.as_str() != state || turn.number.0 != number || turn.session.as_str() != id =>
            {
                faults.add(format!("turn {number} of session {id} is filed as another"));
            }
            Ok(_) if number != expected => {
                faults.add(format!("session {id}: turn {number} where {expected} is due"));
            }
            Ok(_) => {}
        }
        last = Some((id, number));
    }
    Ok((format!("{count} turns, each in its place"), faults))
}

/// Books: what a tree has reserved and spent is what its calls have.
///
/// A tree may have spent more than its calls say: those of a deleted project are gone and their money is not.
pub(super) fn ledger(connection: &Connection) -> Result<(String, Faults), Fault> {
    let mut statement = connection.prepare(
        "SELECT trees.id, reserved_cost, reserved_tokens, trees.used_cost, trees.used_tokens,
                coalesce(sum(cost) FILTER (WHERE settled_at IS NULL), 0),
                coalesce(sum(tokens) FILTER (WHERE settled_at IS NULL), 0),
                coalesce(sum(charges.used_cost), 0), coalesce(sum(charges.used_tokens), 0)
         FROM trees LEFT JOIN charges ON charges.tree_key = trees.key GROUP BY trees.key",
    )?;
    let mut rows = statement.query([])?;
    let (mut count, mut faults) = (0_u64, Faults::default());
    while let Some(row) = rows.next()? {
        count += 1;
        let tree: String = row.get(0)?;
        let number = |column: usize| row.get::<_, u64>(column);
        for (what, book, sum, exact) in [
            ("reserved", MicroUsd(number(1)?), MicroUsd(number(5)?), true),
            ("spent", MicroUsd(number(3)?), MicroUsd(number(7)?), false),
        ] {
            if book < sum || exact && book != sum {
                faults.add(format!("tree {tree}: {what} {book} in its books, {sum} in its calls"));
            }
        }
        for (what, book, sum, exact) in
            [("reserved", number(2)?, number(6)?, true), ("spent", number(4)?, number(8)?, false)]
        {
            if book < sum || exact && book != sum {
                faults.add(format!("tree {tree}: {what} {book} tokens in its books, {sum} in its calls"));
            }
        }
    }
    Ok((format!("{count} trees, whose books are the sums of their calls"), faults))
}

/// Tokens: each can be read, and is filed as what it is.
pub(super) fn tokens(connection: &Connection) -> Result<(String, Faults), Fault> {
    let mut statement = connection.prepare("SELECT id, name, revoked_at, record FROM tokens ORDER BY key")?;
    let mut rows = statement.query([])?;
    let (mut count, mut faults) = (0_u64, Faults::default());
    while let Some(row) = rows.next()? {
        count += 1;
        let (id, name, revoked): (String, String, Option<i64>) = (row.get(0)?, row.get(1)?, row.get(2)?);
        match serde_json::from_str::<TokenRecord>(row.get_ref(3)?.as_str().map_err(rusqlite::Error::from)?) {
            Err(error) => faults.add(format!("token {id}: {error}")),
            Ok(token)
                if token.id.as_str() != id
                    || token.name != name
                    || token.revoked_at.map(ob_core::Timestamp::as_micros) != revoked =>
            {
                faults.add(format!("token {id} is filed as another"));
            }
            Ok(_) => {}
        }
    }
    Ok((format!("{count} tokens"), faults))
}
