//! Making a new ledger, and bringing one of an older version to this one: its tables are made anew from its events.
//!
//! The events stay as they are, and are checked on the way. All of it is one transaction: whatever stops it leaves the
//! ledger of the older version.

use super::failure::Failure;
use super::store::{self, Migration, Options, VERSION};
use super::{LedgerError, chain, project, sql};
use rusqlite::{Connection, TransactionBehavior};
use std::fs::File;
use std::path::Path;

/// How often progress is told, in milliseconds; the beginning and the end are always told.
const TOLD_EVERY_MS: i64 = 1_000;

/// Memory for pages while tables are made anew, in KiB (SQLite counts it negative). Rows come in no order.
const CACHE_KIB: i64 = 65_536;

/// Opens the ledger for writing; makes it, or brings it to this program's version, where needed.
pub fn open_writer(options: &Options) -> Result<Connection, LedgerError> {
    let path = &options.path;
    let fresh = !path.exists();
    let mut db = store::open_writer(options)?;
    to_this_version(&mut db, options)?;
    if fresh {
        store::sync_folder(path).map_err(|e| LedgerError::Storage {
            path: path.to_path_buf(),
            reason: e.to_string(),
        })?;
    }
    Ok(db)
}

/// Makes the tables of a blank file, or those of an older version anew; leaves alone what is of this version.
fn to_this_version(db: &mut Connection, options: &Options) -> Result<(), LedgerError> {
    let path = &options.path;
    let found = store::known_version(db, path)?;
    if found == VERSION {
        return Ok(());
    }
    // A program of the older version may have a station run on it, and would write on as it knows the tables.
    let _alone = match found {
        0 => None,
        _ => Some(alone(path)?),
    };
    let at = |e: rusqlite::Error| Failure::from(e).at(path);
    let usual = db.pragma_query_value(None, "cache_size", |row| row.get::<_, i64>(0));
    let usual = usual.map_err(at)?;
    db.pragma_update(None, "cache_size", -CACHE_KIB)
        .map_err(at)?;
    let transaction = db
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(at)?;
    // Another process may have been here first.
    match store::known_version(&transaction, path)? {
        VERSION => {}
        0 => store::make(&transaction).map_err(at)?,
        _ => rebuild(&transaction, options).map_err(|e| e.at(path))?,
    }
    transaction.commit().map_err(at)?;
    db.pragma_update(None, "cache_size", usual).map_err(at)
}

fn alone(path: &Path) -> Result<File, LedgerError> {
    match store::station_lock(path) {
        Ok(Some(lock)) => Ok(lock),
        Ok(None) => Err(LedgerError::Busy {
            path: path.to_path_buf(),
        }),
        Err(error) => Err(LedgerError::Storage {
            path: path.to_path_buf(),
            reason: error.to_string(),
        }),
    }
}

fn rebuild(db: &Connection, options: &Options) -> Result<(), Failure> {
    store::check_station(db, options)?;
    // The tables name one another, and go in any order.
    db.pragma_update(None, "defer_foreign_keys", true)?;
    for name in projections(db)? {
        let name = name.replace('"', "\"\"");
        db.execute_batch(&format!("DROP TABLE \"{name}\""))?;
    }
    db.pragma_update(None, "defer_foreign_keys", false)?;
    store::make_projections(db)?;
    replay(db, options)?;
    Ok(store::stamp(db)?)
}

/// All tables but that of the events, whatever an older program made.
fn projections(db: &Connection) -> Result<Vec<String>, Failure> {
    let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name <> 'events'
         AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'";
    sql::rows(db, sql, [], |row| Ok(row.get(0)?))
}

/// Lets every event take effect, in order, as long as the chain is whole.
fn replay(db: &Connection, options: &Options) -> Result<(), Failure> {
    let events: i64 = db.query_row("SELECT coalesce(max(seq), 0) FROM events", [], |row| {
        row.get(0)
    })?;
    let mut progress = Migration {
        path: options.path.clone(),
        version: VERSION,
        done: 0,
        events: events.cast_unsigned(),
    };
    (options.progress)(&progress);
    let mut told_ms = (options.clock)();
    let mut statement = db.prepare(&chain::in_order())?;
    let mut rows = statement.query([])?;
    let mut walk = chain::Walk::new();
    while let Some(row) = rows.next()? {
        let entry = chain::entry(row)?;
        let seq = entry.seq;
        if let Some((seq, what)) = walk.step(&entry).into_iter().next() {
            return Err(Failure::Damaged(what).of_event(seq));
        }
        entry
            .recorded()
            .and_then(|event| project::apply(db, &event))
            .map_err(|failure| failure.of_event(seq))?;
        progress.done += 1;
        let now_ms = (options.clock)();
        if now_ms.saturating_sub(told_ms) >= TOLD_EVERY_MS {
            told_ms = now_ms;
            (options.progress)(&progress);
        }
    }
    (options.progress)(&progress);
    Ok(())
}
