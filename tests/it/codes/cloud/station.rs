//! What ends the station, or is found on record when a unit comes: nothing is lost, and the line goes on.

use crate::plant;
use crate::tpm::device::{Device, trusted};
use crate::tpm_line::hall::{Chip, Hall, spec};
use dps_station::bay::Bay;
use dps_station::ledger::{Claim, Ledger, LedgerError, Options};
use dps_station::link::{
    self, DeviceLink, Driver, Expected, Found, LinkHealth, Observation, Reply,
};
use dps_station::provision::bytes::{Blob, Digest};
use dps_station::provision::device::{Attestation, DeviceId, Holding, Identification};
use dps_station::provision::dialogue::Misfit;
use dps_station::provision::event::Event;
use dps_station::provision::fault::{Blame, Fault, LedgerTrouble};
use dps_station::provision::floor::Floor;
use dps_station::provision::product::Product;
use dps_station::provision::verdict::Verdict;
use dps_station::station::{
    REPORTS_MAX, Station, Uploader, WATCHED_MAX, Watchers, close_open_attempts,
};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{broadcast, mpsc, watch};
use ulid::Ulid;

/// How long a station may take to end, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of a page of the ledger's file, as SQLite has them unless it is told otherwise.
const PAGE: u64 = 4096;
/// More pages than one attempt fills.
const ROOM_MAX: u32 = 40;

fn hall() -> Hall {
    Hall::new(trusted(), |_| ())
}

fn chip() -> Chip {
    Chip::new(Device::new(None).into_parts())
}

/// Runs a station with one bay until it fails, and gives its fault, which is its own.
async fn station_fails(hall: &Hall, change: impl FnOnce(&mut Bay)) -> Fault {
    let (sender, reports) = mpsc::channel(REPORTS_MAX);
    let mut bay = hall.bay(sender.clone());
    change(&mut bay);
    let ledger = hall.line.ledger.clone();
    let station = Station {
        id: "S1".to_owned(),
        simulated: true,
        line: Arc::clone(&hall.line),
        bays: vec![bay],
        reports,
        uploader: Uploader::new(ledger, Vec::new(), sender, plant::clock),
    };
    let (_orders, commands) = mpsc::channel(1);
    let watchers = Watchers {
        reports: broadcast::channel(WATCHED_MAX).0,
        floors: watch::channel(Arc::new(Floor::new("S1", true, 0))).0,
        commands,
    };
    let ended = tokio::time::timeout(PATIENCE, station.run(watchers)).await;
    let fault = ended.expect("it ends").expect_err("it fails").0;
    assert_eq!(fault.blame(), Blame::Station, "{fault:?}");
    fault
}

/// The kinds of all events on record of a unit, and the last of them.
async fn story(hall: &Hall, name: &str) -> (Vec<&'static str>, Event) {
    let device = spec(name).device_id;
    let events = hall.line.ledger.events(&device).await.unwrap();
    let kinds = events.iter().map(|e| e.event.kind()).collect();
    (kinds, events.last().unwrap().event.clone())
}

/// Opens the hall's ledger anew, with at most so many pages.
fn reopen(hall: &mut Hall, max_pages: Option<u32>) -> Result<(), LedgerError> {
    let options = Options {
        path: hall.ledger_file(),
        station: "S1".to_owned(),
        clock: plant::clock,
        progress: |_| {},
        max_pages,
    };
    let line = Arc::get_mut(&mut hall.line).expect("no bay is open");
    line.ledger = Ledger::open(options)?;
    Ok(())
}

fn pages(file: &Path) -> u32 {
    u32::try_from(file.metadata().unwrap().len() / PAGE).unwrap()
}

/// What the next start finds: the attempt is ended as interrupted, and the unit passes when it is put in again.
async fn goes_on(hall: &Hall, tpm: Chip) {
    assert_eq!(close_open_attempts(&hall.line).await.unwrap(), 1);
    let (_, last) = story(hall, "sim-1").await;
    let stopped = Fault::StationStopped {
        bay: "1".to_owned(),
    };
    assert_eq!(last, Event::Interrupted { fault: stopped });
    hall.ends(&[("sim-1", None)]).await;
    assert_eq!(close_open_attempts(&hall.line).await.unwrap(), 0);
    let stay = hall.stay("sim-1", tpm).await;
    assert!(stay.passed(), "{stay:?}");
    hall.ends(&[("sim-1", Some(Verdict::Passed))]).await;
}

#[tokio::test]
async fn a_ledger_that_is_full_in_an_attempt_stops_the_station_and_the_unit_passes_later() {
    let (mut hall, tpm) = (hall(), chip());
    hall.line.ledger.clone().close().await.unwrap();
    let empty = pages(&hall.ledger_file());
    let mut room = 0;
    loop {
        room += 1;
        assert!(room < ROOM_MAX, "it is never full in an attempt");
        if reopen(&mut hall, Some(empty + room)).is_err() {
            continue;
        }
        let plug = hall.plug_in(hall.device("sim-1", tpm.clone()));
        let fault = station_fails(&hall, |_| ()).await;
        plug.pull();
        assert_eq!(fault.code(), "ledger");
        let full = matches!(&fault, Fault::Ledger { path, trouble: LedgerTrouble::Full }
            if *path == hall.ledger_file().display().to_string());
        assert!(full, "{fault:?}");
        let open = hall.line.ledger.open_attempts().await.unwrap();
        let begun = open.iter().any(|attempt| attempt.claim.is_some());
        hall.line.ledger.clone().close().await.unwrap();
        if begun {
            break;
        }
        // Whoever arrived and was not identified is of no interest here.
        reopen(&mut hall, None).unwrap();
        close_open_attempts(&hall.line).await.unwrap();
        hall.line.ledger.clone().close().await.unwrap();
    }
    reopen(&mut hall, None).unwrap();
    goes_on(&hall, tpm).await;
}

#[tokio::test]
async fn a_station_without_a_port_ends_and_writes_nothing() {
    let hall = hall();
    let fault = station_fails(&hall, |bay| bay.hotplug = false).await;
    let Fault::NoBay { last } = &fault else {
        panic!("{fault:?}");
    };
    assert_eq!((fault.code(), last.code()), ("no_bay", "port_missing"));
    assert!(hall.line.ledger.all_events(1, 1).await.unwrap().is_empty());
    hall.ends(&[]).await;
}

/// A driver that finds its devices, and falls over as soon as one is to be asked.
struct Falling(Arc<dyn Driver>);

impl Driver for Falling {
    fn kind(&self) -> &'static str {
        self.0.kind()
    }

    fn find<'a>(&'a self, link: &'a mut DeviceLink, wait: Duration) -> Reply<'a, Found> {
        self.0.find(link, wait)
    }

    fn device<'a>(&'a self, link: &'a mut DeviceLink) -> Box<dyn link::Device + 'a> {
        Box::new(Fallen(self.0.device(link)))
    }
}

/// A device whose TPM makes the bay fall over, when it is on record who it is.
struct Fallen<'a>(Box<dyn link::Device + 'a>);

impl link::Device for Fallen<'_> {
    fn health(&self) -> LinkHealth {
        self.0.health()
    }

    fn can_hold(&self, holding: &Holding) -> Result<(), Misfit> {
        self.0.can_hold(holding)
    }

    fn look(&mut self, wait: Duration) -> Reply<'_, Identification> {
        self.0.look(wait)
    }

    fn identify(&mut self) -> Reply<'_, Identification> {
        self.0.identify()
    }

    fn inject<'a>(
        &'a mut self,
        holding: &'a Holding,
        assigned: Option<&'a DeviceId>,
    ) -> Reply<'a, ()> {
        self.0.inject(holding, assigned)
    }

    fn restart<'a>(&'a mut self, before: &'a Identification) -> Reply<'a, Identification> {
        self.0.restart(before)
    }

    fn read_back<'a>(&'a mut self, expected: &'a Expected) -> Reply<'a, Observation> {
        self.0.read_back(expected)
    }

    fn tpm<'a>(&'a mut self, _: &'a [u8]) -> Reply<'a, Vec<u8>> {
        panic!("it falls over");
    }
}

#[tokio::test]
async fn a_bay_that_falls_over_ends_the_station_and_its_attempt_is_closed_later() {
    let (mut hall, tpm) = (hall(), chip());
    // As a process begins: with this driver, and nobody in a bay.
    let begin = |hall: &mut Hall, driver| {
        let line = Arc::get_mut(&mut hall.line).expect("no bay is open");
        line.products[0].driver = driver;
        line.present = Default::default();
    };
    let sound = Arc::clone(&hall.line.products[0].driver);
    begin(&mut hall, Arc::new(Falling(Arc::clone(&sound))));
    let plug = hall.plug_in(hall.device("sim-1", tpm.clone()));
    let fault = station_fails(&hall, |_| ()).await;
    plug.pull();
    assert!(
        matches!(&fault, Fault::BayLost { said } if said.contains("panicked")),
        "{fault:?}"
    );
    assert_eq!(fault.code(), "bay_lost");
    let open = hall.line.ledger.open_attempts().await.unwrap();
    assert_eq!(open.len(), 1);
    assert_eq!(story(&hall, "sim-1").await.0, ["identified", "accepted"]);

    begin(&mut hall, sound);
    goes_on(&hall, tpm).await;
}

/// Has a unit on record whose last event does not follow from the one before it.
async fn damage(ledger: &Ledger, name: &str) -> Claim {
    let attempt = Ulid::generate();
    let arrived = Event::Arrived {
        bay: "1".to_owned(),
        port: "/dev/null".to_owned(),
    };
    ledger.arrive(attempt, &arrived).await.unwrap();
    let spec = spec(name);
    let identified = Event::Identified {
        identification: Identification {
            device_id: spec.device_id,
            blank: false,
            model: spec.model,
            firmware: spec.firmware,
            uid: Blob(spec.uid),
            boots: 1,
            sealed: false,
            tpm: true,
            holds: Digest::of(b""),
            stock: false,
        },
        assigned: None,
        scanned: None,
    };
    let (claim, _) = ledger.identify(attempt, &identified).await.unwrap();
    let restarted = Event::Restarted {
        boots_before: 1,
        boots_after: 2,
    };
    ledger.append(&claim, None, &restarted).await.unwrap();
    claim
}

#[tokio::test]
async fn a_record_that_does_not_hang_together_is_that_units_error_only() {
    let hall = hall();
    damage(&hall.line.ledger, "sim-1").await;
    let damaged = Fault::RecordDamaged {
        device: spec("sim-1").device_id,
        kind: "restarted".to_owned(),
    };
    // A station that starts ends the attempt, and asks nothing of a record that it cannot follow.
    assert_eq!(close_open_attempts(&hall.line).await.unwrap(), 1);
    let (_, last) = story(&hall, "sim-1").await;
    let fault = damaged.clone();
    assert_eq!(last, Event::Interrupted { fault });

    let mut bay = hall.open();
    let plug = hall.plug_in(hall.device("sim-1", chip()));
    let stay = bay.stay().await;
    plug.pull();
    assert_eq!(stay.errored(), &damaged);
    assert_eq!(damaged.code(), "record_damaged");
    let kinds = ["arrived", "identified", "link_measured", "errored"];
    assert_eq!(stay.kinds(), kinds);
    let plug = hall.plug_in(hall.device("sim-2", chip()));
    let stay = bay.stay().await;
    assert!(stay.passed(), "{stay:?}");
    plug.pull();
    bay.close().await;
    hall.ends(&[("sim-1", None), ("sim-2", Some(Verdict::Passed))])
        .await;
}

/// A unit is sealed as one with a TPM and lost before it can say so; then its product asks for a certificate.
#[tokio::test]
async fn a_sealed_unit_without_what_its_product_asks_for_comes_to_no_verdict() {
    let (mut hall, tpm) = (hall(), chip());
    let mut bay = hall.open();
    let _plug = hall.plug_in_until_sealed(hall.device("sim-1", tpm.clone()));
    let stay = bay.stay().await;
    bay.close().await;
    let kinds = stay.kinds();
    assert!(
        kinds.contains(&"proved") && !kinds.contains(&"sealed"),
        "{kinds:?}"
    );
    assert!(hall.is_sealed("sim-1"));

    let made = &mut Arc::get_mut(&mut hall.line)
        .expect("no bay is open")
        .products[0];
    let mut product = Product::clone(&made.product);
    product.attestation = Some(Attestation::X509);
    made.product = Arc::new(product);
    let stay = hall.stay("sim-1", tpm).await;
    assert_eq!(stay.errored().code(), "record_incomplete");
    let kinds = [
        "arrived",
        "identified",
        "sealed",
        "link_measured",
        "errored",
    ];
    assert_eq!(stay.kinds(), kinds);
    hall.ends(&[("sim-1", None)]).await;
}
