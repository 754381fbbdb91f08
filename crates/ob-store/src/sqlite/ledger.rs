//! Writes of trees and charges. The arithmetic is [`ob_core::ledger`]; here are only its rows.

use ob_core::MicroUsd;
use ob_core::Timestamp;
use ob_core::TreeId;
use ob_core::check_invariant;
use ob_core::id::ChargeId;
use ob_core::ledger::Amount;
use ob_core::ledger::Joining;
use ob_core::ledger::Ledger;
use ob_core::ledger::TreeLimits;
use rusqlite::Connection;
use rusqlite::OptionalExtension as _;
use rusqlite::Row;
use rusqlite::params;

use super::apply::Applier;
use super::fault::Fault;
use super::record::missing;
use super::record::parse;
use crate::StoreError;

/// The columns that [`read`] reads, after one that the caller may choose.
pub(crate) const COLUMNS: &str =
    "max_cost, max_tokens, reserved_cost, reserved_tokens, used_cost, used_tokens, max_depth, max_agents, max_live,
     max_wall_ms, began_at";

/// The books in columns 1 to 11 of a row.
pub(crate) fn read(row: &Row<'_>) -> rusqlite::Result<Ledger> {
    Ok(Ledger {
        limits: TreeLimits {
            max_cost: row.get::<_, Option<u64>>(1)?.map(MicroUsd),
            max_tokens: row.get(2)?,
            max_depth: row.get(7)?,
            max_agents: row.get(8)?,
            max_live: row.get(9)?,
            max_wall_ms: row.get(10)?,
        },
        began_at: row.get::<_, Option<i64>>(11)?.map(Timestamp::from_micros),
        reserved: Amount::new(row.get(4)?, MicroUsd(row.get(3)?)),
        used: Amount::new(row.get(6)?, MicroUsd(row.get(5)?)),
    })
}

/// SQLite's integers are signed: what is more than nine quintillion counts as that.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The amount as it can be stored.
fn storable(amount: Amount) -> Amount {
    let most = i64::MAX.unsigned_abs();
    Amount::new(amount.tokens.min(most), MicroUsd(amount.cost.0.min(most)))
}

/// Makes a tree, or changes its limits. When it began stays.
pub(crate) fn put_tree(
    connection: &Connection,
    applier: &mut Applier,
    tree: &TreeId,
    limits: TreeLimits,
    at: Timestamp,
) -> Result<(), Fault> {
    connection
        .prepare_cached(
            "INSERT INTO trees (id, max_cost, max_tokens, max_depth, max_agents, max_live, max_wall_ms, began_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
             ON CONFLICT (id) DO UPDATE SET max_cost = excluded.max_cost, max_tokens = excluded.max_tokens,
               max_depth = excluded.max_depth, max_agents = excluded.max_agents, max_live = excluded.max_live,
               max_wall_ms = excluded.max_wall_ms",
        )?
        .execute(params![
            tree.as_str(),
            limits.max_cost.map(|cost| signed(cost.0)),
            limits.max_tokens.map(signed),
            limits.max_depth,
            limits.max_agents,
            limits.max_live,
            limits.max_wall_ms.map(signed),
            at.as_micros()
        ])?;
    applier.trees.remove(tree);
    applier.changed.trees.push(tree.clone());
    Ok(())
}

/// Lets a session into its tree, below `parent` if it has one, or says which limit forbids it; the tree's key. Nothing
/// counts who is in the tree but the rows of its sessions, so no crash and no mistake can let the two differ.
pub(crate) fn join(
    connection: &Connection,
    applier: &mut Applier,
    tree: &TreeId,
    parent: Option<i64>,
    at: Timestamp,
) -> Result<i64, Fault> {
    let (tree_key, ledger) = books(connection, applier, tree)?;
    let (agents, live) = connection
        .prepare_cached(
            "SELECT count(*), count(*) FILTER (WHERE status = 'active') FROM sessions WHERE tree_key = ?1",
        )?
        .query_row([tree_key], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let depth = match parent {
        None => 0,
        Some(parent) => connection
            .prepare_cached(
                "WITH RECURSIVE above (key, depth) AS (
                   SELECT ?1, 1 UNION ALL
                   SELECT parent_key, depth + 1 FROM sessions JOIN above USING (key) WHERE parent_key IS NOT NULL
                 ) SELECT max(depth) FROM above",
            )?
            .query_row([parent], |row| row.get(0))?,
    };
    ledger.join(Joining { depth, agents, live }, at).map_err(StoreError::OverLimit)?;
    Ok(tree_key)
}

/// Reserves for a call, once: a charge that is known already changes nothing.
pub(crate) fn reserve(
    connection: &Connection,
    applier: &mut Applier,
    (charge, tree, session_key): (ChargeId, &TreeId, i64),
    amount: Amount,
    at: Timestamp,
) -> Result<(), Fault> {
    let charge = charge.to_string();
    let (tree_key, ledger) = books(connection, applier, tree)?;
    let known = connection.prepare_cached("SELECT 1 FROM charges WHERE id = ?1")?.exists([&charge])?;
    if known {
        return Ok(());
    }
    let amount = storable(amount);
    let ledger = ledger.reserve(amount, at).map_err(StoreError::OverLimit)?;
    let committed = ledger.used.cost.plus(ledger.reserved.cost);
    check_invariant!(
        LimitsHold,
        ledger.limits.max_cost.is_none_or(|limit| committed <= limit),
        "tree {tree}: {committed} of {:?}",
        ledger.limits.max_cost
    );
    connection
        .prepare_cached(
            "INSERT INTO charges (id, tree_key, session_key, cost, tokens, reserved_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![charge, tree_key, session_key, amount.cost.0, amount.tokens, at.as_micros()])?;
    write(connection, applier, tree, tree_key, ledger)
}

/// Ends a reservation; a charge that is not open changes nothing.
pub(crate) fn settle(
    connection: &Connection,
    applier: &mut Applier,
    charge: ChargeId,
    used: Amount,
    at: Timestamp,
) -> Result<(), Fault> {
    let open: Option<(i64, String, Amount)> = connection
        .prepare_cached(
            "SELECT charges.key, trees.id, charges.cost, charges.tokens FROM charges
             JOIN trees ON trees.key = charges.tree_key WHERE charges.id = ?1 AND charges.settled_at IS NULL",
        )?
        .query_row([charge.to_string()], |row| {
            Ok((row.get(0)?, row.get(1)?, Amount::new(row.get(3)?, MicroUsd(row.get(2)?))))
        })
        .optional()?;
    let Some((key, tree, reserved)) = open else { return Ok(()) };
    let tree: TreeId = parse(&tree)?;
    let used = storable(used);
    connection
        .prepare_cached(
            "UPDATE charges SET used_cost = ?2, used_tokens = ?3, settled_at = ?4 WHERE key = ?1",
        )?
        .execute(params![key, used.cost.0, used.tokens, at.as_micros()])?;
    let (tree_key, ledger) = books(connection, applier, &tree)?;
    write(connection, applier, &tree, tree_key, ledger.settle(reserved, used))
}

/// The books of a tree, as the open transaction sees them.
fn books(connection: &Connection, applier: &mut Applier, tree: &TreeId) -> Result<(i64, Ledger), Fault> {
    if let Some(books) = applier.trees.get(tree) {
        return Ok(*books);
    }
    let books = connection
        .prepare_cached(&format!("SELECT key, {COLUMNS} FROM trees WHERE id = ?1"))?
        .query_row([tree.as_str()], |row| Ok((row.get(0)?, read(row)?)))
        .optional()?
        .ok_or_else(|| missing("tree", tree))?;
    applier.trees.insert(tree.clone(), books);
    Ok(books)
}

fn write(
    connection: &Connection,
    applier: &mut Applier,
    tree: &TreeId,
    tree_key: i64,
    ledger: Ledger,
) -> Result<(), Fault> {
    let ledger = Ledger { reserved: storable(ledger.reserved), used: storable(ledger.used), ..ledger };
    connection
        .prepare_cached(
            "UPDATE trees SET reserved_cost = ?2, reserved_tokens = ?3, used_cost = ?4, used_tokens = ?5 WHERE key = ?1",
        )?
        .execute(params![
            tree_key,
            ledger.reserved.cost.0,
            ledger.reserved.tokens,
            ledger.used.cost.0,
            ledger.used.tokens
        ])?;
    applier.trees.insert(tree.clone(), (tree_key, ledger));
    applier.changed.trees.push(tree.clone());
    Ok(())
}
