//! The file: opening it for the writer and for readers, its settings, its version, and what can be wrong with it.

use super::LedgerError;
use super::failure::Failure;
use crate::provision::fault::harmless;
use rusqlite::{Connection, OpenFlags, OptionalExtension};
use rustix::fs::FlockOperation;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Marks a SQLite file as a ledger of this program (`PRAGMA application_id`): "STNL".
pub const APPLICATION_ID: i32 = 0x5354_4e4c;

/// How long to wait for another process that writes to the ledger.
const BUSY_LIMIT: Duration = Duration::from_secs(5);

/// How many prepared statements a connection keeps: more than the writer has.
const STATEMENTS: usize = 64;

/// All tables, as a new ledger gets them.
const SCHEMA: &str = include_str!("schema.sql");

/// The version of a ledger that this program makes (`PRAGMA user_version`): of its tables and of the stored form of its
/// events. Whatever changes either raises it; tables of an older version are made anew from the events.
pub const VERSION: u32 = 4;

/// How much of a station's ID is shown, in characters.
const STATION_MAX: usize = 64;

/// How to open a ledger.
#[derive(Clone, Debug)]
pub struct Options {
    /// The file; made if it is not there.
    pub path: PathBuf,
    /// The station that records.
    pub station: String,
    /// The time in milliseconds since 1970 (UTC).
    pub clock: fn() -> i64,
    /// Is told how far the tables of a ledger of an older version have been made anew; not called for any other.
    pub progress: fn(&Migration),
    /// The largest size that the file may grow to, in pages of 4096 bytes; `None` for the disk's own limit.
    pub max_pages: Option<u32>,
}

/// How far the tables of a ledger of an older version have been made anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    /// The ledger.
    pub path: PathBuf,
    /// The version that its tables get.
    pub version: u32,
    /// Events that have taken effect.
    pub done: u64,
    /// All events.
    pub events: u64,
}

impl fmt::Display for Migration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ledger {}: bringing its tables to version {}, {} of {} events",
            self.path.display(),
            self.version,
            self.done,
            self.events
        )
    }
}

/// Settings of a connection, as SQLite reports them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pragmas {
    /// `journal_mode`.
    pub journal_mode: String,
    /// `synchronous`: 2 is FULL.
    pub synchronous: i64,
    /// `foreign_keys`.
    pub foreign_keys: bool,
    /// `recursive_triggers`: with it, REPLACE cannot delete an event behind the triggers' back.
    pub recursive_triggers: bool,
    /// `busy_timeout`, in milliseconds.
    pub busy_timeout_ms: i64,
    /// `application_id`.
    pub application_id: i32,
    /// `user_version`.
    pub user_version: u32,
}

/// Opens the file for writing, and makes it if it is not there; its tables may be none, or those of an older version.
pub fn open_writer(options: &Options) -> Result<Connection, LedgerError> {
    let path = &options.path;
    let at = |e: Failure| e.at(path);
    let db = Connection::open(path).map_err(|e| at(e.into()))?;
    db.busy_timeout(BUSY_LIMIT).map_err(|e| at(e.into()))?;
    if known_version(&db, path)? != 0 {
        check_station(&db, options).map_err(at)?;
    }
    configure(&db, options.max_pages).map_err(at)?;
    Ok(db)
}

/// Opens the ledger for reading.
pub fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    open_read_only(path, "")
}

/// Opens a ledger that nobody has open, without leaving a trace: no lock, no shared memory, no log file.
pub fn open_immutable(path: &Path) -> rusqlite::Result<Connection> {
    open_read_only(path, "?immutable=1")
}

/// Makes a fresh, empty ledger in memory.
pub fn open_in_memory() -> rusqlite::Result<Connection> {
    let db = Connection::open_in_memory()?;
    db.set_prepared_statement_cache_capacity(STATEMENTS);
    db.pragma_update(None, "foreign_keys", true)?;
    make(&db)?;
    Ok(db)
}

/// Claims the ledger at `path` for one station, until the file given back is dropped; none where another process has it.
/// The lock is on a file beside the ledger: SQLite's own locks come and go with each transaction.
///
/// # Errors
/// That file cannot be made.
pub fn station_lock(path: &Path) -> std::io::Result<Option<File>> {
    let file = File::create(station_lock_path(path))?;
    let locked = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
    Ok(locked.is_ok().then_some(file))
}

/// The file whose lock says that a station runs on the ledger at `path`.
pub fn station_lock_path(path: &Path) -> PathBuf {
    beside(path, "-station")
}

/// Reads the settings of `db`.
pub fn pragmas(db: &Connection) -> rusqlite::Result<Pragmas> {
    Ok(Pragmas {
        journal_mode: db.pragma_query_value(None, "journal_mode", |row| row.get(0))?,
        synchronous: db.pragma_query_value(None, "synchronous", |row| row.get(0))?,
        foreign_keys: db.pragma_query_value(None, "foreign_keys", |row| row.get(0))?,
        recursive_triggers: db.pragma_query_value(None, "recursive_triggers", |row| row.get(0))?,
        busy_timeout_ms: db.pragma_query_value(None, "busy_timeout", |row| row.get(0))?,
        application_id: db.pragma_query_value(None, "application_id", |row| row.get(0))?,
        user_version: db.pragma_query_value(None, "user_version", |row| row.get(0))?,
    })
}

/// The log file that SQLite keeps beside the ledger at `path` while it is open.
pub fn wal_path(path: &Path) -> PathBuf {
    beside(path, "-wal")
}

/// The file or folder beside the ledger at `path` whose name is the ledger's with `end` after it.
pub fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

fn configure(db: &Connection, max_pages: Option<u32>) -> Result<(), Failure> {
    db.set_prepared_statement_cache_capacity(STATEMENTS);
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "FULL")?;
    db.pragma_update(None, "foreign_keys", true)?;
    db.pragma_update(None, "recursive_triggers", true)?;
    db.pragma_update(None, "trusted_schema", false)?;
    if let Some(pages) = max_pages {
        db.pragma_update(None, "max_page_count", pages)?;
    }
    Ok(())
}

/// Refuses a file that is not a ledger or is of a newer version, before anything in it is touched; returns its version,
/// which is 0 for a blank file.
pub fn known_version(db: &Connection, path: &Path) -> Result<u32, LedgerError> {
    let at = |e: rusqlite::Error| Failure::from(e).at(path);
    let found = pragmas(db).map_err(at)?;
    let objects: i64 = db
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(at)?;
    let blank = found.application_id == 0 && found.user_version == 0 && objects == 0;
    if found.application_id != APPLICATION_ID && !blank {
        return Err(LedgerError::NotALedger {
            path: path.to_path_buf(),
        });
    }
    match found.user_version {
        newer if newer > VERSION => Err(self::newer(newer, path)),
        0 if !blank => Err(LedgerError::Damaged {
            path: path.to_path_buf(),
            reason: "page 1: no ledger has version 0".to_owned(),
        }),
        known => Ok(known),
    }
}

/// Refuses a ledger that a newer program has brought to its version, perhaps since it was opened here.
pub fn refuse_newer(db: &Connection, path: &Path) -> Result<(), Failure> {
    let found: u32 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
    match found > VERSION {
        true => Err(Failure::Refused(newer(found, path))),
        false => Ok(()),
    }
}

fn newer(found: u32, path: &Path) -> LedgerError {
    LedgerError::Newer {
        path: path.to_path_buf(),
        found,
        known: VERSION,
    }
}

/// Refuses a ledger that another station began, as when a file was copied to the wrong place.
pub fn check_station(db: &Connection, options: &Options) -> Result<(), Failure> {
    let first = "SELECT station FROM events ORDER BY seq LIMIT 1";
    let found: Option<String> = db.query_row(first, [], |row| row.get(0)).optional()?;
    match found {
        Some(found) if found != options.station => {
            Err(Failure::Refused(LedgerError::OtherStation {
                path: options.path.clone(),
                found: harmless(&found, STATION_MAX),
                ours: options.station.clone(),
            }))
        }
        _ => Ok(()),
    }
}

/// Makes all tables in a blank file, and marks it as a ledger of this version.
pub fn make(db: &Connection) -> rusqlite::Result<()> {
    db.execute_batch(SCHEMA)?;
    stamp(db)
}

/// Makes every table but that of the events, with its indices, as a new ledger has them.
pub fn make_projections(db: &Connection) -> rusqlite::Result<()> {
    let fresh = open_in_memory()?;
    let sql = "SELECT sql FROM sqlite_schema WHERE tbl_name <> 'events' AND sql IS NOT NULL ORDER BY rowid";
    let mut statement = fresh.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        db.execute_batch(&row.get::<_, String>(0)?)?;
    }
    Ok(())
}

/// Marks the file as a ledger of this version.
pub fn stamp(db: &Connection) -> rusqlite::Result<()> {
    db.pragma_update(None, "application_id", APPLICATION_ID)?;
    db.pragma_update(None, "user_version", VERSION)
}

/// Makes the name of a new file as durable as its content.
pub fn sync_folder(path: &Path) -> std::io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder)?.sync_all()
}

fn open_read_only(path: &Path, query: &str) -> rusqlite::Result<Connection> {
    let escaped = path
        .to_string_lossy()
        .replace('%', "%25")
        .replace('?', "%3f")
        .replace('#', "%23");
    // An authority would follow a second slash: "file:" and an absolute path has none.
    let uri = format!("file:{escaped}{query}");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(uri, flags)?;
    db.busy_timeout(BUSY_LIMIT)?;
    db.pragma_update(None, "query_only", true)?;
    db.pragma_update(None, "trusted_schema", false)?;
    Ok(db)
}
