//! A station on which nothing happens: it wakes nobody, reads nothing, and still hears what another process records.
#![allow(clippy::unwrap_used)]

use crate::plant;
use dps_station::bay::Line;
use dps_station::ledger::{Ledger, Options};
use dps_station::provision::device::{DeviceId, Identification};
use dps_station::provision::event::Event;
use dps_station::provision::floor::{Command, Floor, Report};
use dps_station::station::{Station, Uploader, WATCHED_MAX, Watchers, close_open_attempts};
use rusqlite::Connection;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{broadcast, mpsc, watch};
use ulid::Ulid;

/// The longest that anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

fn open(path: &Path) -> Ledger {
    let options = Options {
        path: path.to_path_buf(),
        station: "S1".to_owned(),
        clock: plant::clock,
        progress: |_| {},
        max_pages: None,
    };
    Ledger::open(options).unwrap()
}

/// A station without bays, and what those who look on have of it.
struct Quiet {
    orders: mpsc::Sender<Command>,
    reports: broadcast::Receiver<Arc<Report>>,
    floors: watch::Receiver<Arc<Floor>>,
    ended: tokio::task::JoinHandle<Floor>,
}

async fn start(ledger: &Ledger) -> Quiet {
    let line = Arc::new(Line {
        ledger: ledger.clone(),
        products: Vec::new(),
        present: Mutex::default(),
        loopback: Default::default(),
        clock: plant::clock,
    });
    close_open_attempts(&line).await.unwrap();
    let (sender, reports) = mpsc::channel(16);
    let station = Station {
        id: "S1".to_owned(),
        simulated: true,
        line,
        bays: Vec::new(),
        reports,
        uploader: Uploader::new(ledger.clone(), Vec::new(), sender, plant::clock),
    };
    let (orders, commands) = mpsc::channel(1);
    let (told, reports) = broadcast::channel(WATCHED_MAX);
    let (shown, floors) = watch::channel(Arc::new(Floor::new("S1", true, 0)));
    let watchers = Watchers {
        reports: told,
        floors: shown,
        commands,
    };
    let ended = tokio::spawn(async move { station.run(watchers).await.unwrap() });
    Quiet {
        orders,
        reports,
        floors,
        ended,
    }
}

impl Quiet {
    async fn report(&mut self) -> Report {
        let next = tokio::time::timeout(PATIENCE, self.reports.recv()).await;
        (*next.unwrap().unwrap()).clone()
    }

    async fn shown(&mut self) -> Arc<Floor> {
        let changed = tokio::time::timeout(PATIENCE, self.floors.changed()).await;
        changed.unwrap().unwrap();
        self.floors.borrow_and_update().clone()
    }

    async fn quit(self) -> Floor {
        self.orders.send(Command::Quit).await.unwrap();
        tokio::time::timeout(PATIENCE, self.ended)
            .await
            .unwrap()
            .unwrap()
    }
}

fn shift_opened(name: &str) -> Event {
    Event::ShiftOpened {
        shift: name.to_owned(),
    }
}

/// A unit that comes, and fails.
async fn fail(ledger: &Ledger, number: u8) {
    let attempt = Ulid::generate();
    let arrived = Event::Arrived {
        bay: "1".to_owned(),
        port: "p".to_owned(),
    };
    ledger.arrive(attempt, &arrived).await.unwrap();
    let identified = Event::Identified {
        identification: Identification {
            device_id: DeviceId::parse(&format!("GW-{number:04}")).unwrap(),
            blank: false,
            model: String::new(),
            firmware: String::new(),
            uid: Default::default(),
            boots: 1,
            sealed: false,
            tpm: false,
            holds: dps_station::provision::bytes::Digest([0; 32]),
            stock: false,
        },
        assigned: None,
        scanned: None,
    };
    let (claim, _) = ledger.identify(attempt, &identified).await.unwrap();
    let failed = Event::Failed {
        fault: dps_station::provision::fault::Fault::ProofFailed,
        disable: None,
    };
    ledger.append(&claim, None, &failed).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_station_on_which_nothing_happens_shows_nothing_anew_and_is_seen_to_live() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(&folder.path().join("ledger.sqlite"));
    ledger.record(&shift_opened("early")).await.unwrap();
    let mut quiet = start(&ledger).await;
    let first = quiet.report().await;
    assert!(
        matches!(&first, Report::ShiftState { name, .. } if name == "early"),
        "{first:?}"
    );
    while quiet.shown().await.shift.is_none() {}
    for _ in 0..3 {
        let report = quiet.report().await;
        let Report::Alive { at_ms } = report else {
            panic!("{report:?}");
        };
        assert!(!quiet.floors.has_changed().unwrap(), "nobody is woken");
        let shown = quiet.floors.borrow().clone();
        assert!(
            shown.last_report_ms >= at_ms,
            "who looks sees that it lives"
        );
    }
    quiet.quit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_process_records_is_told_and_shown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.sqlite");
    let ledger = open(&path);
    ledger.record(&shift_opened("early")).await.unwrap();
    let mut quiet = start(&ledger).await;
    while quiet.shown().await.shift.is_none() {}
    let other = open(&path);
    let balance = other.balance("early").await.unwrap();
    let closed = Event::ShiftClosed {
        shift: "early".to_owned(),
        balance,
    };
    other.record(&closed).await.unwrap();
    other.record(&shift_opened("late")).await.unwrap();
    loop {
        if let Report::ShiftState { name, open, .. } = quiet.report().await
            && name == "late"
        {
            break assert!(open);
        }
    }
    while quiet.shown().await.shift.as_ref().unwrap().name != "late" {}
    quiet.quit().await;
}

/// What the units of the shift went through is not read: one of the events of a finished one is no event any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_reads_how_the_shift_stands_and_none_of_its_events() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.sqlite");
    let ledger = open(&path);
    ledger.record(&shift_opened("early")).await.unwrap();
    for number in 1..=3 {
        fail(&ledger, number).await;
    }
    let db = Connection::open(&path).unwrap();
    let spoil =
        "DROP TRIGGER events_never_change; UPDATE events SET body = '' WHERE kind = 'failed'";
    db.execute_batch(spoil).unwrap();
    let mut quiet = start(&ledger).await;
    let first = quiet.report().await;
    let Report::ShiftState { counts, .. } = &first else {
        panic!("{first:?}");
    };
    assert_eq!((counts.failed, counts.units()), (3, 3));
    assert_eq!(quiet.quit().await.counts.failed, 3);
}
