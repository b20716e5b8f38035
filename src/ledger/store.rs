//! The file: opening it for the writer and for readers, its settings, its version, and what can be wrong with it.

use super::LedgerError;
use super::migrate::{self, Migration};
use crate::provision::fault::harmless;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, ffi};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Marks a SQLite file as a ledger of this program (`PRAGMA application_id`): "STNL".
pub const APPLICATION_ID: i32 = 0x5354_4e4c;

/// How long to wait for another process that writes to the ledger.
pub const BUSY_LIMIT: Duration = Duration::from_secs(5);

/// How many prepared statements a connection keeps: more than the writer has.
const STATEMENTS: usize = 64;

/// All tables, as a new ledger gets them.
const SCHEMA: &str = include_str!("schema.sql");

/// The version of a ledger that this program makes (`PRAGMA user_version`): of its tables and of the stored form of its
/// events. Whatever changes either raises it; tables of an older version are made anew from the events.
pub const VERSION: u32 = 2;

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

/// Why a statement or a request came to nothing, before the file's name is added.
#[derive(Debug)]
pub enum Failure {
    /// A rule of the ledger forbids it; nothing is wrong with the file.
    Refused(LedgerError),
    /// The file holds what it cannot hold.
    Damaged(String),
    /// A newer program wrote this event.
    Newer {
        /// The event's place.
        seq: i64,
        /// Its kind.
        kind: String,
        /// The version of its stored form.
        version: i64,
    },
    /// SQLite failed.
    Sqlite(rusqlite::Error),
}

impl Failure {
    /// An event that has no stored form.
    pub fn unstorable(error: impl std::fmt::Display) -> Self {
        Self::illegal(format!("the event cannot be stored: {error}"))
    }

    /// A request that contradicts what is on record.
    pub fn illegal(what: impl Into<String>) -> Self {
        Self::Refused(LedgerError::Illegal(what.into()))
    }

    /// Whether the file is at fault, so that nothing else could be written either.
    pub fn is_of_file(&self) -> bool {
        match self {
            Self::Refused(_) => false,
            Self::Damaged(_) | Self::Newer { .. } => true,
            Self::Sqlite(error) => {
                error.sqlite_error_code() != Some(ErrorCode::ConstraintViolation)
            }
        }
    }

    /// The failure of an event that is on record: that it contradicts what stands before it is damage.
    pub fn of_event(self, seq: i64) -> Self {
        match self {
            Self::Refused(error) => Self::Damaged(format!("event {seq}: {:?}", error.fault())),
            Self::Damaged(what) => Self::Damaged(format!("event {seq}: {what}")),
            Self::Sqlite(ref error) if !self.is_of_file() => {
                Self::Damaged(format!("event {seq}: {error}"))
            }
            Self::Newer { .. } | Self::Sqlite(_) => self,
        }
    }

    /// The failure as callers see it.
    pub fn at(self, path: &Path) -> LedgerError {
        let path = path.to_path_buf();
        match self {
            Self::Refused(error) => error,
            Self::Damaged(reason) => LedgerError::Damaged { path, reason },
            Self::Newer { seq, kind, version } => LedgerError::NewerEvent {
                path,
                seq,
                kind,
                version,
            },
            Self::Sqlite(error) => match error.sqlite_error_code() {
                Some(ErrorCode::DiskFull) => LedgerError::Full { path },
                // The index of the log did not fit.
                _ if error
                    .sqlite_error()
                    .is_some_and(|e| e.extended_code == ffi::SQLITE_IOERR_SHMSIZE) =>
                {
                    LedgerError::Full { path }
                }
                Some(ErrorCode::NotADatabase) => LedgerError::NotALedger { path },
                Some(ErrorCode::DatabaseBusy) => LedgerError::Busy { path },
                Some(ErrorCode::DatabaseCorrupt) => LedgerError::Damaged {
                    path,
                    reason: error.to_string(),
                },
                _ => LedgerError::Storage {
                    path,
                    reason: error.to_string(),
                },
            },
        }
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// Opens the ledger for writing; makes it, or brings it to this program's version, where needed.
pub fn open_writer(options: &Options) -> Result<Connection, LedgerError> {
    let path = &options.path;
    let fresh = !path.exists();
    let at = |e: Failure| e.at(path);
    let mut db = Connection::open(path).map_err(|e| at(e.into()))?;
    db.busy_timeout(BUSY_LIMIT).map_err(|e| at(e.into()))?;
    if known_version(&db, path)? != 0 {
        check_station(&db, options).map_err(at)?;
    }
    configure(&db, options.max_pages).map_err(at)?;
    migrate::to_this_version(&mut db, options)?;
    if fresh {
        sync_folder(path).map_err(|e| LedgerError::Storage {
            path: path.to_path_buf(),
            reason: e.to_string(),
        })?;
    }
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
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
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
fn sync_folder(path: &Path) -> std::io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    std::fs::File::open(folder)?.sync_all()
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
