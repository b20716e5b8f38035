//! Verification: is the ledger's file what the events in it say, and are the events what was written?

use super::failure::Failure;
use super::store;
use super::wal::{self, WalDamage};
use super::{LedgerError, chain, project};
use crate::provision::bytes::Digest;
use crate::provision::fault::Fault;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

/// How many findings of SQLite's own check are reported.
const INTEGRITY_FINDINGS: u32 = 1000;

/// How often a log that seems damaged is read, and the pause between: longer than another process takes to finish
/// the frame that it is writing.
const LOG_READS: usize = 5;
const LOG_PAUSE: Duration = Duration::from_millis(4);

/// Offset and value of the two bytes in the file's header that say that the file goes with a write-ahead log.
/// Source: SQLite "Database File Format", section 1.3.
const WAL_MARK: (usize, [u8; 2]) = (18, [2, 2]);

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// How many events the ledger holds.
    pub events: u64,
    /// The version of its tables.
    pub version: u32,
    /// Whether the tables are of an older version: they are made anew when a station opens the ledger next, and were
    /// not looked at.
    pub outdated: bool,
    /// All damage; none if the ledger is whole.
    pub damages: Vec<Damage>,
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// Where.
    pub place: Place,
    /// What; the code of `fault`, where there is one.
    pub what: String,
    /// In what an event contradicts those before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

/// Where damage was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// An event, by its place in the chain.
    Event(i64),
    /// The ledger's file; the finding names page or object where SQLite does.
    File,
    /// A table, index or trigger.
    Schema(String),
    /// A row of a projection.
    Row {
        /// The table.
        table: String,
        /// The row's key.
        key: String,
    },
    /// The header of the write-ahead log.
    LogHeader,
    /// A frame of the write-ahead log, from 1.
    LogFrame(usize),
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Event(seq) => write!(f, "event {seq}: ")?,
            Place::File => write!(f, "file: ")?,
            Place::Schema(name) => write!(f, "schema of {name}: ")?,
            Place::Row { table, key } => write!(f, "table {table}, row {key}: ")?,
            Place::LogHeader => write!(f, "write-ahead log, header: ")?,
            Place::LogFrame(frame) => write!(f, "write-ahead log, frame {frame}: ")?,
        }
        f.write_str(&self.what)
    }
}

/// Checks the ledger at `path` without changing it: the write-ahead log, the schema, SQLite's structures, the chain,
/// and every projection against one rebuilt from the events. It may be in use meanwhile.
///
/// Of a ledger of an older version the events are checked, and that they can be taken over: nothing that its tables
/// hold will be used.
///
/// A station that was killed between the two halves of a frame can leave one unacknowledged frame in the log that
/// cannot be told from damage; it is gone after the station's next start and end.
///
/// # Errors
/// When the file cannot be opened or read at all, and when a newer program wrote in it. What is wrong inside it is in
/// the report.
pub fn verify(path: &Path) -> Result<Report, LedgerError> {
    let storage = |error: std::io::Error| LedgerError::Storage {
        path: path.to_path_buf(),
        reason: error.to_string(),
    };
    let mut check = Check {
        report: Report {
            events: 0,
            version: 0,
            outdated: false,
            damages: Vec::new(),
        },
    };
    check.mark(path).map_err(storage)?;
    let has_log = check.log(&store::wal_path(path)).map_err(storage)?;
    let opened = match has_log {
        true => store::open_reader(path),
        false => store::open_immutable(path),
    };
    if let Err(error) = opened
        .map_err(Failure::from)
        .and_then(|db| check.all(&db, path))
    {
        match error {
            Failure::Sqlite(e) if e.sqlite_error_code() == Some(ErrorCode::CannotOpen) => {
                return Err(Failure::Sqlite(e).at(path));
            }
            Failure::Sqlite(e) => check.found(Place::File, e.to_string()),
            Failure::Damaged(what) => check.found(Place::File, what),
            Failure::Refused(newer) => return Err(newer),
            newer @ Failure::Newer { .. } => return Err(newer.at(path)),
        }
    }
    Ok(check.report)
}

struct Check {
    report: Report,
}

impl Check {
    fn found(&mut self, place: Place, what: impl Into<String>) {
        let what = what.into();
        self.report.damages.push(Damage {
            place,
            what,
            fault: None,
        });
    }

    /// Without its mark, SQLite would open the file and leave the log aside.
    fn mark(&mut self, path: &Path) -> std::io::Result<()> {
        let mut header = Vec::new();
        let file = std::fs::File::open(path)?;
        std::io::Read::read_to_end(&mut std::io::Read::take(file, 100), &mut header)?;
        let (offset, mark) = WAL_MARK;
        if header.get(offset..offset + mark.len()) != Some(&mark[..]) {
            self.found(
                Place::File,
                "page 1 does not say that a log goes with the file",
            );
        }
        Ok(())
    }

    /// Checks the log, if there is one, and says whether there is.
    ///
    /// Damage is what stays when it is read again; what another process is just writing does not stay.
    fn log(&mut self, path: &Path) -> std::io::Result<bool> {
        let read = || match std::fs::read(path) {
            Ok(log) => Ok(Some(log)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        let Some(log) = read()? else {
            return Ok(false);
        };
        let mut damages = wal::check(&log);
        for _ in 1..LOG_READS {
            if damages.is_empty() {
                break;
            }
            std::thread::sleep(LOG_PAUSE);
            let again = wal::check(&read()?.unwrap_or_default());
            damages.retain(|damage| again.contains(damage));
        }
        for damage in damages {
            match damage {
                WalDamage::Header => self.found(Place::LogHeader, "it is not whole"),
                WalDamage::Frame(frame) => self.found(
                    Place::LogFrame(frame),
                    "it is not whole; this and all that follows is lost",
                ),
            }
        }
        Ok(true)
    }

    /// Checks all that SQLite can show, as of one moment.
    fn all(&mut self, db: &Connection, path: &Path) -> Result<(), Failure> {
        db.execute_batch("BEGIN")?;
        store::refuse_newer(db, path)?;
        let fresh = store::open_in_memory()?;
        self.versions(db, &fresh)?;
        self.schema(db, &fresh)?;
        self.integrity(db)?;
        if self.chain(db, &fresh)? && !self.report.outdated {
            for (table, key) in project::TABLES {
                self.projection(db, &fresh, table, key)?;
            }
        }
        Ok(())
    }

    fn versions(&mut self, db: &Connection, fresh: &Connection) -> Result<(), Failure> {
        let (found, wanted) = (store::pragmas(db)?, store::pragmas(fresh)?);
        if found.application_id != wanted.application_id {
            self.found(Place::File, "page 1: the application ID is not a ledger's");
        }
        self.report.version = found.user_version;
        self.report.outdated = (1..wanted.user_version).contains(&found.user_version);
        if found.user_version != wanted.user_version && !self.report.outdated {
            self.found(
                Place::File,
                format!(
                    "page 1: the version is {}, not {}",
                    found.user_version, wanted.user_version
                ),
            );
        }
        Ok(())
    }

    /// Of an older version, what belongs to the events must be as it is now: that is never made anew.
    fn schema(&mut self, db: &Connection, fresh: &Connection) -> Result<(), Failure> {
        let sql = match self.report.outdated {
            true => "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE tbl_name = 'events'",
            false => "SELECT type, name, tbl_name, sql FROM sqlite_schema",
        };
        let differences = differences(&rows(db, sql, 2)?, &rows(fresh, sql, 2)?);
        for (name, what) in differences {
            self.found(Place::Schema(name), what);
        }
        Ok(())
    }

    fn integrity(&mut self, db: &Connection) -> Result<(), Failure> {
        let mut statement = db.prepare(&format!("PRAGMA integrity_check({INTEGRITY_FINDINGS})"))?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let finding: String = row.get(0)?;
            if finding != "ok" {
                self.found(Place::File, finding);
            }
        }
        Ok(())
    }

    /// Checks the chain and lets each event take effect in `fresh`; says whether `fresh` can be compared.
    fn chain(&mut self, db: &Connection, fresh: &Connection) -> Result<bool, Failure> {
        let before = self.report.damages.len();
        fresh.execute_batch("BEGIN")?;
        let mut statement = db.prepare(&chain::in_order())?;
        let mut rows = statement.query([])?;
        let mut walk = chain::Walk::new();
        while let Some(row) = rows.next()? {
            let entry = chain::entry(row)?;
            self.report.events += 1;
            for (seq, what) in walk.step(&entry) {
                self.found(Place::Event(seq), what);
            }
            let seq = entry.seq;
            let applied = entry
                .recorded()
                .and_then(|event| project::apply(fresh, &event));
            match applied {
                Ok(()) => {}
                Err(Failure::Refused(error)) => self.contradicts(seq, error.fault()),
                Err(Failure::Damaged(what)) => self.found(Place::Event(seq), what),
                Err(Failure::Sqlite(error)) => self.found(Place::Event(seq), error.to_string()),
                Err(newer @ Failure::Newer { .. }) => return Err(newer),
            }
        }
        Ok(self.report.damages.len() == before)
    }

    fn contradicts(&mut self, seq: i64, fault: Fault) {
        self.report.damages.push(Damage {
            place: Place::Event(seq),
            what: fault.code().to_owned(),
            fault: Some(fault),
        });
    }

    fn projection(
        &mut self,
        db: &Connection,
        fresh: &Connection,
        table: &str,
        key: &str,
    ) -> Result<(), Failure> {
        // The key comes first in the row, so that it can be named; all columns follow.
        let sql = format!("SELECT {key}, * FROM {table}");
        let keys = key.split(", ").count();
        for (key, what) in differences(&rows(db, &sql, keys)?, &rows(fresh, &sql, keys)?) {
            let table = table.to_owned();
            self.found(Place::Row { table, key }, what);
        }
        Ok(())
    }
}

/// The digest of each row that `sql` gives, whatever it holds, by the text of its first `keys` columns.
fn rows(db: &Connection, sql: &str, keys: usize) -> Result<BTreeMap<String, Digest>, Failure> {
    let mut statement = db.prepare(sql)?;
    let count = statement.column_count();
    let mut rows = statement.query([])?;
    let mut found = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let columns = (0..count)
            .map(|index| row.get_ref(index))
            .collect::<rusqlite::Result<Vec<_>>>()?;
        let key: Vec<String> = columns[..keys].iter().map(|value| show(*value)).collect();
        found.insert(key.join(" "), chain::hash(columns.into_iter()));
    }
    Ok(found)
}

fn differences(
    found: &BTreeMap<String, Digest>,
    wanted: &BTreeMap<String, Digest>,
) -> Vec<(String, &'static str)> {
    let there = found.iter().filter_map(|(key, digest)| {
        let what = match wanted.get(key) {
            None => "it should not be there",
            Some(wanted) if wanted != digest => "it is not what it should be",
            Some(_) => return None,
        };
        Some((key.clone(), what))
    });
    let gone = wanted
        .keys()
        .filter(|key| !found.contains_key(*key))
        .map(|key| (key.clone(), "it is missing"));
    there.chain(gone).collect()
}

/// A value as a person can read it, on one line.
fn show(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => "NULL".to_owned(),
        ValueRef::Integer(value) => value.to_string(),
        ValueRef::Real(value) => value.to_string(),
        ValueRef::Text(text) => {
            crate::provision::fault::harmless(&String::from_utf8_lossy(text), 200)
        }
        ValueRef::Blob(blob) => data_encoding::HEXLOWER.encode(blob),
    }
}
