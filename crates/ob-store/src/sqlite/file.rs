//! Files, folders and connections: modes, pragmas, and a new database that appears whole or not at all.

use std::fs;
use std::fs::File;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use ob_crash::CrashPoint;
use ob_crash::reach;
use rusqlite::Connection;
use rusqlite::OpenFlags;
use rusqlite::config::DbConfig;

use super::fault::Fault;

/// How long a statement waits for a lock that another connection or process holds.
pub(crate) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The WAL is started anew when it has grown so long, in bytes: recovery after a crash reads it all. The crash harness
/// gets there within a second.
pub(crate) const WAL_CAP: u64 = if ob_crash::ENABLED { 512 * 1024 } else { 64 * 1024 * 1024 };

/// Statements that a connection keeps prepared; more than the engine has.
const STATEMENTS_CACHED: usize = 64;

/// A file that was being made and was not touched for so long was left by a crash.
const DRAFT_AGE: Duration = Duration::from_secs(60 * 60);

/// Of the database's folder and those above it, so many may be as new as it is: the folder itself, the home, and what
/// the home is in.
const FLUSHED_ABOVE: usize = 3;

/// Folders hold people's work: only their owner may enter.
const FOLDER_MODE: u32 = 0o700;
/// Files hold people's work: only their owner may read.
const FILE_MODE: u32 = 0o600;

/// Makes a folder, and those above it, if missing; their names are durable, whoever made them, up to that of the home.
pub(crate) fn make_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(path)?;
    for above in path.ancestors().skip(1).take(FLUSHED_ABOVE) {
        match sync_folder(if above.as_os_str().is_empty() { Path::new(".") } else { above }) {
            // What we may not look into was not made by us.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => break,
            flushed => flushed?,
        }
    }
    Ok(())
}

/// Makes a file that must not exist, for its owner only.
pub(crate) fn make_file(path: &Path) -> io::Result<File> {
    fs::OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path)
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Removes what a crash left of files that were being made, of which nobody who still makes them can be the owner.
pub(crate) fn remove_old_drafts(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_draft =
            name.to_str().is_some_and(|name| name.starts_with("new-") || name.contains(".db.new-"));
        if is_draft {
            // Who makes it may be done with it by now.
            remove_if_old(&entry).or_else(|error| match error.kind() {
                io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            })?;
        }
    }
    Ok(())
}

fn remove_if_old(draft: &fs::DirEntry) -> io::Result<()> {
    if draft.metadata()?.modified()?.elapsed().is_ok_and(|age| age > DRAFT_AGE) {
        fs::remove_file(draft.path())?;
    }
    Ok(())
}

/// The folder a file is in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// The path of a file beside `path` whose name continues with `suffix`.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Takes away what others may do with a file that was there before us.
pub(crate) fn tighten(path: &Path) -> io::Result<()> {
    let mode = fs::metadata(path)?.permissions().mode();
    if mode & 0o077 == 0 {
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(FILE_MODE))
}

/// A connection that may write: WAL, every commit flushed to the disk before it returns.
pub(crate) fn open_writable(path: &Path) -> Result<Connection, Fault> {
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    set_up(&connection)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "journal_size_limit", i64::try_from(WAL_CAP).unwrap_or(i64::MAX))?;
    Ok(connection)
}

/// A connection that only reads.
pub(crate) fn open_readable(path: &Path) -> Result<Connection, Fault> {
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    set_up(&connection)?;
    Ok(connection)
}

fn set_up(connection: &Connection) -> Result<(), Fault> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_CACHED);
    // Otherwise a statement whose plan might depend on a parameter is prepared anew for each value of it.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    Ok(())
}

/// Makes a database with `fill` if there is none at `path`. It is filled under another name without a flush, flushed
/// once, and then given its name: a crash leaves no half-made database, and of several processes one wins.
pub(crate) fn make_database(
    path: &Path,
    fill: impl FnOnce(&mut Connection) -> Result<(), Fault>,
) -> Result<(), Fault> {
    // An empty file is what an interrupted `cp` or a `touch` leaves; SQLite takes it for a new database as well.
    if fs::metadata(path).is_ok_and(|found| found.len() > 0) {
        return Ok(());
    }
    let folder = folder_of(path);
    make_folder(folder)?;
    let draft = beside(path, &format!(".new-{:016x}", rand::random::<u64>()));
    let made = draft_database(&draft, fill).and_then(|()| match fs::hard_link(&draft, path) {
        Ok(()) => {
            reach(CrashPoint::DatabaseNamed);
            Ok(sync_folder(folder)?)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if fs::metadata(path)?.len() == 0 {
                fs::rename(&draft, path)?;
                sync_folder(folder)?;
            }
            Ok(())
        }
        Err(error) => Err(error.into()),
    });
    // It is gone already if it was renamed.
    fs::remove_file(&draft).or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    })?;
    made
}

fn draft_database(
    draft: &Path,
    fill: impl FnOnce(&mut Connection) -> Result<(), Fault>,
) -> Result<(), Fault> {
    drop(make_file(draft)?);
    let mut connection = Connection::open_with_flags(draft, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    connection.pragma_update(None, "synchronous", "OFF")?;
    connection.pragma_update(None, "journal_mode", "MEMORY")?;
    fill(&mut connection)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.close().map_err(|(_, error)| error)?;
    File::open(draft)?.sync_all()?;
    reach(CrashPoint::DatabaseDrafted);
    Ok(())
}
