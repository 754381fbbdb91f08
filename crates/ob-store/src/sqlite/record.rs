//! Writes of projects, workspaces, sessions, turns and driver states.

use std::fmt::Display;

use ob_core::ProjectId;
use ob_core::SessionId;
use ob_core::Timestamp;
use ob_core::TreeId;
use ob_core::WorkspaceId;
use ob_core::id::ChargeId;
use ob_core::ledger::Amount;
use ob_core::record::ProjectRecord;
use ob_core::record::SessionRecord;
use ob_core::record::TurnRecord;
use ob_core::record::WorkspaceRecord;
use ob_core::session::SessionState;
use rusqlite::Connection;
use rusqlite::OptionalExtension as _;
use rusqlite::params;

use super::apply::Applier;
use super::fault::Fault;
use super::ledger;
use crate::Epoch;
use crate::StoreError;

/// Refuses because `id` does not exist.
pub(crate) fn missing(kind: &'static str, id: impl Display) -> Fault {
    StoreError::Missing { kind, id: id.to_string() }.into()
}

/// The key of a row by its id. `select` is one of our own statements.
fn key(connection: &Connection, select: &'static str, id: &str) -> Result<Option<i64>, Fault> {
    Ok(connection.prepare_cached(select)?.query_row([id], |row| row.get(0)).optional()?)
}

fn project_key(connection: &Connection, project: ProjectId) -> Result<Option<i64>, Fault> {
    key(connection, "SELECT key FROM projects WHERE id = ?1", &project.to_string())
}

/// Makes or replaces a project. Its number is given once and never changes.
pub(crate) fn put_project(connection: &Connection, project: &ProjectRecord) -> Result<(), Fault> {
    let id = project.id.to_string();
    let number: Option<u32> = connection
        .prepare_cached("SELECT number FROM projects WHERE id = ?1")?
        .query_row([&id], |row| row.get(0))
        .optional()?;
    if let Some(number) = number {
        let json = serde_json::to_string(&ProjectRecord { number, ..project.clone() })?;
        connection
            .prepare_cached("UPDATE projects SET record = ?2 WHERE id = ?1")?
            .execute(params![id, json])?;
        return Ok(());
    }
    let next: u32 = connection
        .prepare_cached("SELECT value FROM meta WHERE name = 'next_project_number'")?
        .query_row([], |row| row.get(0))?;
    let number = if project.number == 0 { next } else { project.number };
    if connection.prepare_cached("SELECT 1 FROM projects WHERE number = ?1")?.exists([number])? {
        let message = format!("project number {number} is taken");
        return Err(StoreError::Engine { message }.into());
    }
    let json = serde_json::to_string(&ProjectRecord { number, ..project.clone() })?;
    connection
        .prepare_cached("INSERT INTO projects (id, number, record) VALUES (?1, ?2, ?3)")?
        .execute(params![id, number, json])?;
    connection
        .prepare_cached("UPDATE meta SET value = ?1 WHERE name = 'next_project_number'")?
        .execute([u64::from(number).max(u64::from(next) - 1) + 1])?;
    Ok(())
}

/// Removes a project with all that is in it, and returns the sessions that are gone. Their events are only noted to be
/// purged, so this takes no longer for long logs.
pub(crate) fn delete_project(
    connection: &Connection,
    applier: &mut Applier,
    project: ProjectId,
    at: Timestamp,
) -> Result<Vec<SessionId>, Fault> {
    let Some(key) = project_key(connection, project)? else { return Ok(Vec::new()) };
    // A tree may outlive its sessions here if it has others elsewhere: it gets back what they reserved.
    for charge in open_charges_of(connection, key)? {
        ledger::settle(connection, applier, charge, Amount::default(), at)?;
    }
    let mut select = connection.prepare_cached("SELECT id FROM sessions WHERE project_key = ?1")?;
    let mut rows = select.query([key])?;
    let mut sessions = Vec::new();
    while let Some(row) = rows.next()? {
        sessions.push(parse(row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?)?);
    }
    connection
        .prepare_cached("INSERT INTO purges (session_key) SELECT key FROM sessions WHERE project_key = ?1")?
        .execute([key])?;
    let mut select =
        connection.prepare_cached("SELECT DISTINCT tree_key FROM sessions WHERE project_key = ?1")?;
    let trees: Vec<i64> = select.query_map([key], |row| row.get(0))?.collect::<Result<_, _>>()?;
    connection.prepare_cached("DELETE FROM projects WHERE key = ?1")?.execute([key])?;
    let mut delete = connection.prepare_cached(
        "DELETE FROM trees WHERE key = ?1 AND NOT EXISTS (SELECT 1 FROM sessions WHERE tree_key = ?1)",
    )?;
    for tree in trees {
        delete.execute([tree])?;
    }
    applier.trees.clear();
    Ok(sessions)
}

fn open_charges_of(connection: &Connection, project_key: i64) -> Result<Vec<ChargeId>, Fault> {
    let mut select = connection.prepare_cached(
        "SELECT charges.id FROM charges JOIN sessions ON sessions.key = charges.session_key
         WHERE sessions.project_key = ?1 AND charges.settled_at IS NULL",
    )?;
    let mut rows = select.query([project_key])?;
    let mut charges = Vec::new();
    while let Some(row) = rows.next()? {
        charges.push(parse(row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?)?);
    }
    Ok(charges)
}

/// An id as this store wrote it.
pub(crate) fn parse<T>(text: &str) -> Result<T, Fault>
where
    T: std::str::FromStr<Err = ob_core::id::InvalidId>,
{
    text.parse().map_err(|error| Fault::engine(format!("a stored id is malformed: {error}")))
}

/// Makes or replaces a workspace. Its project never changes.
pub(crate) fn put_workspace(
    connection: &Connection,
    workspace: &WorkspaceRecord,
    json: &str,
) -> Result<(), Fault> {
    let project =
        project_key(connection, workspace.project)?.ok_or_else(|| missing("project", workspace.project))?;
    connection
        .prepare_cached(
            "INSERT INTO workspaces (id, project_key, record) VALUES (?1, ?2, ?3)
             ON CONFLICT (id) DO UPDATE SET record = excluded.record",
        )?
        .execute(params![workspace.id.to_string(), project, json])?;
    Ok(())
}

/// Removes a workspace; sessions that worked in it stay.
pub(crate) fn delete_workspace(connection: &Connection, workspace: WorkspaceId) -> Result<(), Fault> {
    connection.prepare_cached("DELETE FROM workspaces WHERE id = ?1")?.execute([workspace.to_string()])?;
    Ok(())
}

/// Makes a session, owned by the epoch of the commit if it has one, and returns its key. It is let into its tree here.
pub(crate) fn insert_session(
    connection: &Connection,
    applier: &mut Applier,
    session: &SessionRecord,
    json: &str,
    owner: Option<Epoch>,
    at: Timestamp,
) -> Result<i64, Fault> {
    let project =
        project_key(connection, session.project)?.ok_or_else(|| missing("project", session.project))?;
    let workspace =
        key(connection, "SELECT key FROM workspaces WHERE id = ?1", &session.workspace.to_string())?
            .ok_or_else(|| missing("workspace", session.workspace))?;
    let parent = match &session.parent {
        None => None,
        Some(parent) => Some(parent_key(connection, parent, &session.tree)?),
    };
    let tree = ledger::join(connection, applier, &session.tree, parent, at)?;
    let state = session.core.state;
    connection
        .prepare_cached(
            "INSERT INTO sessions (id, project_key, workspace_key, tree_key, parent_key, epoch, state, status, record)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?
        .insert(params![
            session.id.as_str(),
            project,
            workspace,
            tree,
            parent,
            owner.map(|epoch| epoch.0),
            state.as_str(),
            state.status().as_str(),
            json
        ])
        .map_err(Fault::from)
}

/// The key of a parent in this tree. One that is over, or about to be, has no more children: whoever ends them after it
/// finds them all.
fn parent_key(connection: &Connection, parent: &SessionId, tree: &TreeId) -> Result<i64, Fault> {
    let found: Option<(i64, String)> = connection
        .prepare_cached(
            "SELECT sessions.key, state FROM sessions JOIN trees ON trees.key = tree_key
             WHERE sessions.id = ?1 AND trees.id = ?2",
        )?
        .query_row([parent.as_str(), tree.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let (key, state) = found.ok_or_else(|| missing("session", parent))?;
    if SessionState::parse(&state).is_none_or(SessionState::takes_no_children) {
        return Err(StoreError::ParentOver { parent: parent.clone() }.into());
    }
    Ok(key)
}

/// Replaces a session's record. Where it belongs (project, workspace, tree, parent) never changes.
pub(crate) fn update_session(
    connection: &Connection,
    key: i64,
    session: &SessionRecord,
    json: &str,
) -> Result<(), Fault> {
    let state = session.core.state;
    connection
        .prepare_cached("UPDATE sessions SET state = ?2, status = ?3, record = ?4 WHERE key = ?1")?
        .execute(params![key, state.as_str(), state.status().as_str(), json])?;
    Ok(())
}

/// Makes or replaces a turn.
pub(crate) fn put_turn(
    connection: &Connection,
    session_key: i64,
    turn: &TurnRecord,
    json: &str,
) -> Result<(), Fault> {
    connection
        .prepare_cached(
            "INSERT INTO turns (session_key, number, state, record) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (session_key, number) DO UPDATE SET state = excluded.state, record = excluded.record",
        )?
        .execute(params![session_key, turn.number.0, turn.state.as_str(), json])?;
    Ok(())
}

/// Replaces a driver's state.
pub(crate) fn put_driver(connection: &Connection, session_key: i64, state: &[u8]) -> Result<(), Fault> {
    connection
        .prepare_cached(
            "INSERT INTO drivers (session_key, state) VALUES (?1, ?2)
             ON CONFLICT (session_key) DO UPDATE SET state = excluded.state",
        )?
        .execute(params![session_key, state])?;
    Ok(())
}
