//! Ledgers that older programs wrote: read, verified, taken over without a loss, continued and enrolled.

use super::*;
use crate::support::run;
use dps_station::dps::{API_VERSION, Dps, DpsOptions, ProxyChoice};
use dps_station::enroller::{Terms, drain};
use dps_station::fixtures::dps::{Emulator, EmulatorOptions};
use dps_station::ledger::OutboxState;
use dps_station::provision::upload::Progress;
use rusqlite::Connection;
use rusqlite::types::Value;
use std::collections::BTreeMap;
use std::process::Command;
use std::time::SystemTime;
use tokio::sync::watch;

/// The station that wrote them.
const STATION: &str = "demo";

/// Operations a minute: more than any of them needs.
const SHARE: u32 = 1_000;

/// Later than any of them, whatever the time is where the tests run.
fn years_later() -> i64 {
    const TEN_YEARS_MS: i64 = 10 * 365 * 24 * 3_600_000;
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    i64::try_from(since.unwrap().as_millis()).unwrap() + TEN_YEARS_MS
}

/// Each ledger by its name, loaded into a file of a folder of its own.
fn ledgers() -> Vec<(String, tempfile::TempDir, PathBuf)> {
    let mut texts: Vec<_> = std::fs::read_dir(golden_folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "sql"))
        .collect();
    texts.sort();
    assert!(texts.len() >= 12, "two ledgers of each of six forms");
    let load = |text: PathBuf| {
        let name = text.file_stem().unwrap().to_string_lossy().into_owned();
        let (folder, path) = load(&name);
        (name, folder, path)
    };
    texts.into_iter().map(load).collect()
}

fn as_its_station(path: &Path) -> Options {
    Options {
        station: STATION.to_owned(),
        clock: years_later,
        ..options(path)
    }
}

/// Every row of these tables and columns, each as text.
fn tables(path: &Path, tables: &[(String, String)]) -> BTreeMap<String, Vec<String>> {
    let db = Connection::open(path).unwrap();
    let rows = |name: &String, columns: &String| {
        let mut statement = db
            .prepare(&format!("SELECT {columns} FROM {name}"))
            .unwrap();
        let count = statement.column_count();
        let row = |row: &rusqlite::Row<'_>| {
            let values = (0..count).map(|index| row.get::<_, Value>(index).unwrap());
            Ok(format!("{:?}", values.collect::<Vec<_>>()))
        };
        let rows = statement.query_map([], row).unwrap();
        let mut rows: Vec<_> = rows.map(Result::unwrap).collect();
        rows.sort();
        rows
    };
    let rows = |(name, columns): &(String, String)| (name.clone(), rows(name, columns));
    tables.iter().map(rows).collect()
}

/// Every table but `events` and those of newer forms, with its columns; without the faults, whose text is made when they
/// are shown.
fn projections(path: &Path) -> Vec<(String, String)> {
    let db = Connection::open(path).unwrap();
    let sql = "SELECT schema.name, group_concat(info.name)
         FROM sqlite_schema AS schema JOIN pragma_table_info(schema.name) AS info
         WHERE schema.type = 'table' AND schema.name <> 'events' AND info.name <> 'fault' GROUP BY schema.name";
    let mut statement = db.prepare(sql).unwrap();
    let names = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
    names.unwrap().map(Result::unwrap).collect()
}

#[tokio::test]
async fn each_ledger_of_an_older_program_is_taken_over_without_a_loss_and_continued() {
    for (name, _folder, path) in ledgers() {
        let old = verify(&path).unwrap();
        assert_eq!(old.damages, [], "{name}");
        let version = match &name[..5] {
            "form6" => 3,
            "form5" => 2,
            _ => 1,
        };
        assert_eq!((old.version, old.outdated), (version, true), "{name}");
        let names = projections(&path);
        let before = tables(&path, &names);
        let all_of_it = [("events".to_owned(), "*".to_owned())];
        let events = tables(&path, &all_of_it);

        let ledger = Ledger::open(as_its_station(&path)).unwrap();
        assert_eq!(clean(&path), old.events, "{name}");
        assert_eq!(tables(&path, &names), before, "{name}");
        assert_eq!(tables(&path, &all_of_it), events, "{name}");
        assert_eq!(all(&ledger).await.len() as u64, old.events, "{name}");

        if let Some(open) = ledger.current_shift().await.unwrap() {
            let balance = ledger.balance(&open.shift).await.unwrap();
            let closed = Event::ShiftClosed {
                shift: open.shift,
                balance,
            };
            ledger.record(&closed).await.unwrap();
        }
        let opened = Event::ShiftOpened {
            shift: "golden".to_owned(),
        };
        ledger.record(&opened).await.unwrap();
        pass(&ledger, 99).await;
        let balance = ledger.balance("golden").await.unwrap();
        assert_eq!((balance.passed, balance.pending), (1, 1), "{name}");
        ledger.close().await.unwrap();
        assert!(clean(&path) >= old.events + 8, "{name}");
    }
}

#[tokio::test]
async fn what_an_older_program_left_in_the_outbox_is_enrolled() {
    for (name, folder, path) in ledgers() {
        let cloud = Emulator::start(EmulatorOptions::new(folder.path()))
            .await
            .unwrap();
        let options = DpsOptions {
            name: "main".to_owned(),
            service_url: format!("https://localhost:{}", cloud.port()),
            credential: cloud.connection_string().into(),
            ca_file: Some(cloud.ca_file().to_owned()),
            api_version: API_VERSION.to_owned(),
            proxy: ProxyChoice::Never,
        };
        let dps = Dps::new(options, years_later).unwrap();
        let ledger = Ledger::open(as_its_station(&path)).unwrap();
        let waiting = ledger.outbox_counts("main").await.unwrap().waiting;
        assert!(waiting > 0, "{name}");
        let (said, _) = watch::channel(Progress::default());
        let summary = drain(&ledger, &dps, &Terms::new(SHARE, "test"), &said).await;
        assert!(summary.all_settled(), "{name}: {summary:?}");
        assert_eq!(summary.enrolled + summary.disabled, waiting, "{name}");
        for row in ledger.outbox(OutboxFilter::default()).await.unwrap() {
            let held = dps.get(&row.registration_id).await.unwrap();
            match row.state {
                OutboxState::Enrolled | OutboxState::Disabled => {}
                OutboxState::Refused => assert!(row.fault.is_some(), "{name}"),
                other => panic!("{name}: {other:?}"),
            }
            // What had been enrolled before is in the cloud of then.
            assert!(
                held.is_some() || row.state != OutboxState::Pending,
                "{name}"
            );
        }
        ledger.close().await.unwrap();
        clean(&path);
    }
}

#[test]
fn the_program_verifies_shows_and_continues_each_of_them() {
    for (name, folder, path) in ledgers() {
        let config = folder.path().join("station.toml");
        let text = format!(
            "[station]\nid = \"{STATION}\"\nsimulated = true\nledger = \"ledger.sqlite\"\n"
        );
        std::fs::write(&config, text).unwrap();
        let station = |arguments: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_station"));
            command.args(["--json", "--config"]).arg(&config);
            let ended = run(command.args(arguments));
            assert_eq!(ended.code(), Some(0), "{name}: {ended:?}");
            ended
        };
        let verified = station(&["ledger", "verify"]).objects();
        assert_eq!(verified[0]["outdated"], true, "{name}");
        let old = verify(&path).unwrap();
        assert!(old.outdated, "{name}: verifying changes nothing");

        let shown = station(&["ledger", "show"]);
        assert_eq!(shown.objects().len() as u64, old.events, "{name}");
        let said = format!(
            "bringing its tables to version 4, {0} of {0} events",
            old.events
        );
        assert!(shown.stderr.contains(&said), "{name}: {shown:?}");
        let again = station(&["ledger", "show"]);
        assert_eq!((again.stdout, again.stderr), (shown.stdout, String::new()));

        if shown_open(&path) {
            station(&["shift", "close"]);
        }
        station(&["shift", "open", "golden"]);
        let verified = station(&["ledger", "verify"]).objects();
        assert_eq!(verified[0]["outdated"], false, "{name}");
    }
}

/// Whether a shift is open.
fn shown_open(path: &Path) -> bool {
    let db = Connection::open(path).unwrap();
    let sql = "SELECT EXISTS (SELECT 1 FROM shift WHERE closed_seq IS NULL)";
    db.query_row(sql, [], |row| row.get(0)).unwrap()
}
