//! What happens when a ledger of an older version is opened: progress, refusals, kills, and how long it takes.

use super::*;
use dps_station::ledger::station_lock;
use dps_station::words;
use rusqlite::Connection;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};

/// The version that this program makes.
const CURRENT: u32 = 4;

/// A ledger of version 1.
const OLD: &str = "form4-shift";

fn old() -> (tempfile::TempDir, PathBuf, Options) {
    let (folder, path) = load(OLD);
    let options = Options {
        station: "demo".to_owned(),
        ..options(&path)
    };
    (folder, path, options)
}

fn version(path: &Path) -> u32 {
    let db = Connection::open(path).unwrap();
    db.pragma_query_value(None, "user_version", |row| row.get(0))
        .unwrap()
}

#[tokio::test]
async fn progress_is_told_at_the_beginning_and_the_end_and_at_most_once_a_second() {
    static TOLD: Mutex<Vec<(u64, u64)>> = Mutex::new(Vec::new());
    static TIME_MS: AtomicI64 = AtomicI64::new(0);
    let (_folder, path, options) = old();
    let ledger = Ledger::open(Options {
        progress: |m| TOLD.lock().unwrap().push((m.done, m.events)),
        clock: || TIME_MS.fetch_add(100, Ordering::Relaxed),
        ..options
    })
    .unwrap();
    let all = clean(&path);
    let told = TOLD.lock().unwrap().clone();
    assert_eq!((told[0], *told.last().unwrap()), ((0, all), (all, all)));
    // A tenth of a second passes with each event.
    assert_eq!(told.len() as u64, 2 + all / 10, "{told:?}");
    ledger.close().await.unwrap();
    let ledger = Ledger::open(Options {
        progress: |_| panic!("nothing is to be made anew"),
        station: "demo".to_owned(),
        ..super::options(&path)
    });
    ledger.unwrap().close().await.unwrap();
}

#[tokio::test]
async fn a_kill_at_any_moment_leaves_the_old_ledger() {
    let (folder, path, options) = old();
    let ledger = Ledger::open(Options {
        progress: |m| {
            copy_live(&m.path, &m.path.with_extension(m.done.to_string()));
        },
        clock: {
            static TIME_MS: AtomicI64 = AtomicI64::new(0);
            || TIME_MS.fetch_add(10, Ordering::Relaxed)
        },
        ..options
    });
    ledger.unwrap().close().await.unwrap();
    let events = clean(&path);
    let copies: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    assert!(copies.len() > 2, "{copies:?}");
    for copy in copies {
        let copy = copy.join("ledger.sqlite");
        assert_eq!(version(&copy), 1);
        let report = verify(&copy).unwrap();
        assert_eq!((report.damages, report.outdated), (Vec::new(), true));
        let options = Options {
            station: "demo".to_owned(),
            ..super::options(&copy)
        };
        Ledger::open(options).unwrap().close().await.unwrap();
        assert_eq!(clean(&copy), events);
    }
}

#[tokio::test]
async fn an_old_ledger_on_which_a_station_runs_is_left_alone_until_that_ends() {
    let (_folder, path, options) = old();
    let running = station_lock(&path).unwrap().unwrap();
    let refused = Ledger::open(options.clone()).err().unwrap();
    assert!(matches!(refused, LedgerError::Busy { .. }), "{refused:?}");
    assert_eq!(version(&path), 1);
    drop(running);
    let ledger = Ledger::open(options).unwrap();
    assert!(station_lock(&path).unwrap().is_some(), "it is given back");
    ledger.close().await.unwrap();
}

#[tokio::test]
async fn an_old_ledger_whose_chain_is_damaged_is_refused_unchanged() {
    let change =
        "UPDATE events SET body = replace(body, 'early', 'later') WHERE kind = 'shift_opened'";
    let hole = "DELETE FROM events WHERE seq = 20";
    let foreign = "UPDATE events SET prev = zeroblob(32) WHERE seq = 20";
    for (sql, named) in [
        (change, "do not fit"),
        (hole, "event 20"),
        (foreign, "event 20"),
    ] {
        let (_folder, path, options) = old();
        let sql = sql.replace("'early'", "'20'");
        edit_events(&path, &sql);
        let before = std::fs::read(&path).unwrap();
        let error = Ledger::open(options).unwrap_err();
        assert!(matches!(error, LedgerError::Damaged { .. }), "{error:?}");
        assert!(words::sentence(&error.fault()).contains(named), "{error:?}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
        let report = verify(&path).unwrap();
        assert!(report.outdated && !report.damages.is_empty(), "{report:?}");
    }
}

/// Changes events as no program does, and leaves one file.
fn edit_events(path: &Path, sql: &str) {
    let db = Connection::open(path).unwrap();
    let triggers = "SELECT group_concat(sql, ';') FROM sqlite_schema WHERE type = 'trigger'";
    let triggers: String = db.query_row(triggers, [], |row| row.get(0)).unwrap();
    db.execute_batch("DROP TRIGGER events_never_change; DROP TRIGGER events_never_go; DROP TRIGGER events_in_order")
        .unwrap();
    assert!(db.execute(sql, []).unwrap() > 0, "{sql}");
    db.execute_batch(&triggers).unwrap();
    db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .unwrap();
}

#[tokio::test]
async fn an_old_ledger_whose_events_contradict_one_another_is_refused_unchanged() {
    let (_folder, path, options) = old();
    let shift = r#"{"kind":"shift_closed","shift":"none","balance":{"open_before":0,"scanned":0,"passed":0,"failed":0,"scrapped":0,"open_after":0,"enrolled":0,"covered":0,"pending":0,"refused":0}}"#;
    append_stored(&path, "shift_closed", 1, shift);
    let error = Ledger::open(options).unwrap_err();
    assert!(
        words::sentence(&error.fault()).contains("shift none is not open"),
        "{error:?}"
    );
    assert_eq!(version(&path), 1);
    assert_ne!(verify(&path).unwrap().damages, []);
}

#[tokio::test]
async fn the_ledger_of_another_station_is_refused_before_it_is_touched() {
    let (_folder, path, options) = old();
    let before = std::fs::read(&path).unwrap();
    let error = Ledger::open(Options {
        station: "line-2".to_owned(),
        ..options
    })
    .unwrap_err();
    assert!(
        matches!(error, LedgerError::OtherStation { .. }),
        "{error:?}"
    );
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn a_newer_ledger_is_refused_by_reading_writing_and_verifying_too() {
    let folder = folder();
    let path = folder.path().join("ledger.sqlite");
    let ledger = open(&path);
    pass(&ledger, 1).await;
    let db = Connection::open(&path).unwrap();
    db.pragma_update(None, "user_version", CURRENT + 1).unwrap();
    let newer = |error: LedgerError| {
        assert!(
            matches!(error, LedgerError::Newer { found, .. } if found == CURRENT + 1),
            "{error:?}"
        );
    };
    newer(ledger.units().await.unwrap_err());
    newer(ledger.record(&charged(&[1])).await.unwrap_err());
    newer(verify(&path).unwrap_err());
    newer(Ledger::open(options(&path)).unwrap_err());
    db.pragma_update(None, "user_version", CURRENT).unwrap();
    assert_eq!(clean(&path), 7);
}

/// How many units the large ledger has.
const UNITS: u32 = 50_000;

#[tokio::test]
#[ignore = "takes minutes: to be run by hand, for the figures that it prints"]
async fn fifty_thousand_units_are_taken_over_in_two_minutes_of_work() {
    let (_folder, path) = load("form4-line");
    multiply(&path, UNITS);
    let size = std::fs::metadata(&path).unwrap().len();
    let (before, work, start) = (peak_rss_kib(), worked_ms(), std::time::Instant::now());
    let ledger = Ledger::open(Options {
        station: "demo".to_owned(),
        progress: |m| eprintln!("{m}"),
        clock: || {
            let since = std::time::UNIX_EPOCH.elapsed().unwrap();
            i64::try_from(since.as_millis()).unwrap()
        },
        ..options(&path)
    })
    .unwrap();
    let (took, after) = (start.elapsed(), peak_rss_kib());
    let work = worked_ms() - work;
    eprintln!(
        "{UNITS} units, {size} bytes: {took:?}, {work} ms of work, peak RSS {before} KiB before, {after} KiB after"
    );
    assert_eq!(
        ledger.outbox_counts("main").await.unwrap().waiting,
        UNITS + 4
    );
    assert!(work < 120_000, "{work} ms");
    assert!(after - before < 200 * 1024, "{after} KiB");
}

/// How long processors have worked for this process, in milliseconds: what else the machine does is not counted.
fn worked_ms() -> u64 {
    const TICK_MS: u64 = 10;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let (_, after_name) = stat.rsplit_once(") ").unwrap();
    let ticks = after_name.split(' ').skip(11).take(2);
    ticks
        .map(|ticks| ticks.parse::<u64>().unwrap() * TICK_MS)
        .sum()
}

/// The most memory that this process has had, in KiB.
fn peak_rss_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Appends `count` units that went the way of the first one of the ledger.
fn multiply(path: &Path, count: u32) {
    const FIRST: &str = "sim-x509-0001";
    let mut db = Connection::open(path).unwrap();
    let sql = "SELECT kind, body, device FROM events WHERE attempt = (SELECT attempt FROM events WHERE device = ?) ORDER BY seq";
    let events: Vec<(String, String, Option<String>)> = {
        let mut statement = db.prepare(sql).unwrap();
        let rows = statement.query_map([FIRST], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
        rows.unwrap().map(Result::unwrap).collect()
    };
    assert_eq!(events.last().unwrap().0, "passed");
    let transaction = db.transaction().unwrap();
    let mut head: (i64, Vec<u8>) = transaction
        .query_row(
            "SELECT seq, hash FROM events ORDER BY seq DESC LIMIT 1",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .unwrap();
    for number in 0..count {
        let name = format!("gw-{number:08}");
        let attempt = Ulid::from_parts(number.into(), number.into()).to_string();
        for (kind, body, device) in &events {
            let body = own(body, number).replace(FIRST, &name);
            let device = device.as_ref().map(|_| name.as_str());
            let attempt = Some(attempt.as_str());
            head = append_row(&transaction, head, attempt, device, (kind, 1, &body));
        }
    }
    transaction.commit().unwrap();
    db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .unwrap();
}

/// The body with what must be one unit's only made so.
fn own(body: &str, number: u32) -> String {
    use data_encoding::{BASE64, HEXLOWER};
    let mut body: serde_json::Value = serde_json::from_str(body).unwrap();
    for place in [
        "/identification/uid",
        "/public_key",
        "/csr",
        "/result",
        "/enrollment/identity/certificate",
    ] {
        if let Some(value) = body.pointer_mut(place) {
            let mut bytes = BASE64.decode(value.as_str().unwrap().as_bytes()).unwrap();
            bytes.extend(number.to_be_bytes());
            *value = BASE64.encode(&bytes).into();
        }
    }
    for place in ["/serial", "/reservation/serial"] {
        if let Some(value) = body.pointer_mut(place) {
            let mut octets = [0x41; SerialNumber::OCTETS];
            octets[4..8].copy_from_slice(&number.to_be_bytes());
            *value = HEXLOWER.encode(&octets).into();
        }
    }
    body.to_string()
}
