//! The schema: numbered SQL files, applied once and in order, each known by its checksum.
//!
//! A database whose applied migrations differ from ours was made by another program, or by an edited one; it is
//! refused, and nothing in it is changed. Before an existing database is changed, a snapshot is put beside it.

use std::fs::File;
use std::path::Path;
use std::path::PathBuf;

use jiff::Timestamp;
use ob_crash::CrashPoint;
use ob_crash::reach;
use rusqlite::Connection;
use rusqlite::TransactionBehavior;
use rusqlite::params;
use sha2::Digest as _;
use sha2::Sha256;

use super::fault::Fault;
use super::file;

/// One step of a schema.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Migration {
    /// Its file's name; the number is its place in the list, from 1.
    pub(crate) name: &'static str,
    /// What it does.
    pub(crate) sql: &'static str,
}

/// The schema of `oubliette.db`.
pub(crate) const MAIN: &[Migration] = &[
    Migration { name: "0001_first", sql: include_str!("sql/main/0001_first.sql") },
    Migration { name: "0002_tail", sql: include_str!("sql/main/0002_tail.sql") },
    Migration { name: "0003_family", sql: include_str!("sql/main/0003_family.sql") },
];

/// The schema of `auth.db`.
pub(crate) const AUTH: &[Migration] =
    &[Migration { name: "0001_first", sql: include_str!("sql/auth/0001_first.sql") }];

/// The schema of `audit.db`.
pub(crate) const AUDIT: &[Migration] =
    &[Migration { name: "0001_first", sql: include_str!("sql/audit/0001_first.sql") }];

/// The table that a database is known by.
const LEDGER: &str = "CREATE TABLE schema_migrations (
  number     INTEGER PRIMARY KEY,
  name       TEXT NOT NULL,
  sha256     TEXT NOT NULL,
  applied_at INTEGER NOT NULL
) STRICT";

/// Makes the database if it is missing, brings its schema up to date, and opens it for writing.
pub(crate) fn open(path: &Path, migrations: &[Migration]) -> Result<Connection, Fault> {
    file::make_database(path, |connection| {
        connection.execute_batch(LEDGER)?;
        apply(connection, 0, migrations)
    })?;
    file::remove_old_drafts(file::folder_of(path))?;
    file::tighten(path)?;
    let mut connection = file::open_writable(path)?;
    let applied = verify(&connection, path, migrations)?;
    let mode: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
    if mode != "wal" {
        connection.pragma_update(None, "journal_mode", "WAL")?;
    }
    if applied < migrations.len() {
        let snapshot = snapshot(&connection, path, applied)?;
        tracing::info!(snapshot = %snapshot.display(), from = applied, to = migrations.len(), "migrating the database");
        reach(CrashPoint::SnapshotMade);
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // Another process may have been quicker.
        let applied = verify(&transaction, path, migrations)?;
        apply(&transaction, applied, migrations)?;
        reach(CrashPoint::MigrationApplied);
        transaction.commit()?;
        reach(CrashPoint::MigrationCommitted);
    }
    Ok(connection)
}

/// Makes the main database as a program made it that knew only so many migrations.
#[cfg(feature = "conformance")]
pub(crate) fn make_older(path: &Path, migrations: usize) -> Result<(), Fault> {
    open(path, &MAIN[..migrations]).map(drop)
}

/// How many migrations are applied, if they are ours.
pub(crate) fn verify(connection: &Connection, path: &Path, migrations: &[Migration]) -> Result<usize, Fault> {
    let shown = path.display();
    let known: bool = connection.query_row(
        "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'schema_migrations')",
        [],
        |row| row.get(0),
    )?;
    if !known {
        return Err(Fault::engine(format!(
            "{shown} is not a database of Oubliette; move it away, or name another home"
        )));
    }
    let mut statement =
        connection.prepare("SELECT number, name, sha256 FROM schema_migrations ORDER BY number")?;
    let mut rows = statement.query([])?;
    let mut applied = 0;
    while let Some(row) = rows.next()? {
        let (number, name, sum): (usize, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let Some(ours) = migrations.get(applied) else {
            return Err(Fault::engine(format!(
                "{shown} has migration {number} ({name}) and this program knows {}: a newer Oubliette wrote it; \
                 use that one, or restore a backup of before",
                migrations.len()
            )));
        };
        if number != applied + 1 || name != ours.name || sum != checksum(ours) {
            return Err(Fault::engine(format!(
                "{shown} was made with another text of migration {number} ({name}): this program or the database \
                 was edited; use the program that made it, or restore a backup"
            )));
        }
        applied += 1;
    }
    Ok(applied)
}

fn apply(connection: &Connection, from: usize, migrations: &[Migration]) -> Result<(), Fault> {
    for (index, migration) in migrations.iter().enumerate().skip(from) {
        connection.execute_batch(migration.sql)?;
        connection.execute(
            "INSERT INTO schema_migrations (number, name, sha256, applied_at) VALUES (?1, ?2, ?3, ?4)",
            params![index + 1, migration.name, checksum(migration), Timestamp::now().as_microsecond()],
        )?;
    }
    Ok(())
}

fn checksum(migration: &Migration) -> String {
    hex::encode(Sha256::digest(migration.sql.as_bytes()))
}

/// Copies the database as it is before a migration, in one read transaction, and makes the copy durable.
fn snapshot(connection: &Connection, path: &Path, applied: usize) -> Result<PathBuf, Fault> {
    let stamp = Timestamp::now().strftime("%Y%m%d_%H%M%S");
    let copy =
        file::beside(path, &format!(".before-{:04}-{stamp}-{:08x}", applied + 1, rand::random::<u32>()));
    // Made first, for its mode: `VACUUM INTO` takes an empty file.
    drop(file::make_file(&copy)?);
    let name = copy.to_str().ok_or_else(|| Fault::engine("the path of the database is not UTF-8"))?;
    connection.execute("VACUUM INTO ?1", [name])?;
    File::open(&copy)?.sync_all()?;
    file::sync_folder(file::folder_of(path))?;
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Migration = Migration { name: "0001_one", sql: "CREATE TABLE one (x INTEGER) STRICT" };
    const TWO: Migration = Migration { name: "0002_two", sql: "CREATE TABLE two (x INTEGER) STRICT" };
    const EDITED: Migration = Migration { name: "0001_one", sql: "CREATE TABLE one (x TEXT) STRICT" };
    const BROKEN: Migration =
        Migration { name: "0002_two", sql: "CREATE TABLE two (x INTEGER) STRICT; NONSENSE" };

    fn refusal(path: &Path, migrations: &[Migration]) -> String {
        format!("{:?}", open(path, migrations).expect_err("must be refused"))
    }

    #[test]
    fn an_edited_migration_a_newer_schema_and_a_foreign_file_are_refused_unchanged() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("x.db");
        drop(open(&path, &[ONE, TWO]).expect("new"));
        let before = std::fs::read(&path).expect("read");
        assert!(refusal(&path, &[EDITED, TWO]).contains("another text of migration 1"));
        assert!(refusal(&path, &[ONE]).contains("a newer Oubliette"));
        assert_eq!(std::fs::read(&path).expect("read"), before);
        drop(open(&path, &[ONE, TWO]).expect("the right program still opens it"));

        let foreign = folder.path().join("foreign.db");
        Connection::open(&foreign).expect("open").execute_batch("CREATE TABLE a (b)").expect("sql");
        assert!(refusal(&foreign, &[ONE]).contains("is not a database of Oubliette"));
        let text = folder.path().join("text.db");
        std::fs::write(&text, "not a database, but long enough to look at").expect("write");
        assert!(refusal(&text, &[ONE]).contains("not a database"));
    }

    #[test]
    fn a_migration_keeps_the_data_and_leaves_a_snapshot_of_before() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("x.db");
        let connection = open(&path, &[ONE]).expect("new");
        connection.execute("INSERT INTO one VALUES (7)", []).expect("insert");
        drop(connection);

        open(&path, &[ONE, BROKEN]).expect_err("a broken migration fails");
        let connection = open(&path, &[ONE, TWO]).expect("the failed one left nothing");
        let kept: i64 = connection.query_row("SELECT x FROM one", [], |row| row.get(0)).expect("row");
        assert_eq!(kept, 7);
        connection.execute("INSERT INTO two VALUES (8)", []).expect("migrated");

        let snapshots: Vec<PathBuf> = std::fs::read_dir(folder.path())
            .expect("list")
            .map(|entry| entry.expect("entry").path())
            .filter(|path| path.to_string_lossy().contains(".before-0002-"))
            .collect();
        assert_eq!(snapshots.len(), 2, "one of each attempt");
        let snapshot = open(&snapshots[0], &[ONE]).expect("a snapshot is a whole database of before");
        let kept: i64 = snapshot.query_row("SELECT x FROM one", [], |row| row.get(0)).expect("row");
        assert_eq!(kept, 7);
    }

    #[test]
    fn several_openers_of_a_missing_database_make_one() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("x.db");
        std::thread::scope(|scope| {
            for n in 0..8 {
                let path = &path;
                scope.spawn(move || {
                    let connection = open(path, &[ONE]).expect("open");
                    connection.execute("INSERT INTO one VALUES (?1)", [n]).expect("insert");
                });
            }
        });
        let connection = open(&path, &[ONE]).expect("open");
        let count: i64 = connection.query_row("SELECT count(*) FROM one", [], |row| row.get(0)).expect("row");
        assert_eq!(count, 8);
        assert_eq!(
            std::fs::read_dir(folder.path())
                .expect("list")
                .filter(|entry| {
                    entry.as_ref().is_ok_and(|entry| entry.file_name().to_string_lossy().contains(".new-"))
                })
                .count(),
            0
        );
    }

    #[test]
    fn applied_migrations_are_not_edited() {
        // Written by hand: a migration that was released never changes again; a new one gets a line here.
        let released = [
            (
                MAIN,
                vec![
                    "f57456f69bb0dea8caf8efbc2f3ff8602acdd99ee0044a12fd9e5bc53d686af5",
                    "61c92127d8baaa7bf6bc1d2c201a16fe836fb0dba4f8b7432fba73ea9b8caa0c",
                    "fc618dd7dc8bc4102e64fb66bc9f179b1ed7955c60b4597cb178a595170fae53",
                ],
            ),
            (AUTH, vec!["496dca31287057fdd7f264d9311724a49e752058ddaec82253f52163caac7866"]),
        ];
        for (migrations, sums) in released {
            assert_eq!(migrations.iter().map(checksum).collect::<Vec<_>>(), sums);
        }
    }
}
