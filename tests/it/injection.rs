//! Devices with stock firmware through a real bay: they are injected and read back, and never enrolled.

use super::plant;
use super::scenarios::line::options;
use dps_station::bay::{Bay, Line, LineProduct};
use dps_station::fixtures::device::stock::{Habit, Stock, System};
use dps_station::fixtures::device::{Cable, Device, DeviceSpec, SharedDevice, run_device};
use dps_station::fixtures::scenario::Flaw;
use dps_station::ledger::{OutboxFilter, verify};
use dps_station::link::smp::{Map, SmpError, group};
use dps_station::link::{Injection, ValueType, of_product};
use dps_station::provision::bytes::{Blob, Digest};
use dps_station::provision::device::{
    Attestation, DeviceId, Holding, Identification, RegistrationId,
};
use dps_station::provision::event::{Event, Proof, Recorded};
use dps_station::provision::fault::Fault;
use dps_station::provision::floor::{Counts, Floor, Report};
use dps_station::provision::injected::Readback;
use dps_station::provision::job::{Effect, Job, Next};
use dps_station::provision::product::Product;
use dps_station::provision::verdict::Verdict;
use dps_station::words;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

const ID_KEY: &str = "factory/serial";
const MODEL: &str = "SENSOR-1";
/// How long one stay may take, on a machine that does much else.
const STAY_MAX: Duration = Duration::from_secs(60);
/// What happens to a unit from arrival to verdict.
const LADDER: [&str; 9] = [
    "arrived",
    "identified",
    "accepted",
    "registration_id_derived",
    "written",
    "restarted",
    "read_back",
    "link_measured",
    "injected",
];

/// An injection-only product.
fn product(endpoint: &str, readback: Readback) -> Product {
    let mut product = plant::product(MODEL, Vec::new(), Vec::new());
    product.attestation = None;
    product.ca = None;
    product.endpoint_readback = readback;
    product.value_limit = 32;
    product.dps.global_endpoint = endpoint.to_owned();
    product
}

fn keys(system: System, readback: Readback) -> Injection {
    Injection {
        id_scope: "net/scope".to_owned(),
        endpoint: "net/host".to_owned(),
        registration_id: "net/registration".to_owned(),
        value: match system {
            System::Zephyr => ValueType::Bytes,
            System::Mynewt => ValueType::Text,
        },
        value_limit: 32,
        id_key: Some(ID_KEY.to_owned()),
        endpoint_readback: readback,
        ..Injection::default()
    }
}

/// A bay for the product, and its ledger.
struct Hall {
    dir: TempDir,
    system: System,
    line: Arc<Line>,
    floor: Floor,
    said: mpsc::Receiver<Report>,
    stop: watch::Sender<bool>,
    bay: JoinHandle<()>,
}

const LONG_ENDPOINT: &str = "global.azure-devices-provisioning.net";
const SHORT_ENDPOINT: &str = "global.azure";

impl Hall {
    async fn open(system: System, endpoint: &str, readback: Readback) -> Self {
        let dir = TempDir::new().unwrap();
        let ledger = plant::ledger(&dir.path().join("ledger.sqlite"));
        let shift = "early".to_owned();
        ledger.record(&Event::ShiftOpened { shift }).await.unwrap();
        let line = Arc::new(Line {
            ledger,
            products: vec![LineProduct {
                product: Arc::new(product(endpoint, readback)),
                driver: of_product(keys(system, readback), MODEL),
                signer: None,
                step_deadline: plant::STEP_DEADLINE,
            }],
            present: Mutex::default(),
            loopback: Default::default(),
            clock: plant::clock,
        });
        let (reports, said) = mpsc::channel(64);
        let (stop, stopped) = watch::channel(false);
        let bay = Bay {
            name: "1".to_owned(),
            port: dir.path().join("bay"),
            hotplug: true,
            link: options(),
            limits: Default::default(),
            line: Arc::clone(&line),
            reports,
            test: Arc::default(),
            scans: Arc::default(),
        };
        Self {
            dir,
            system,
            line,
            floor: Floor::new("S1", true, 0),
            said,
            stop,
            bay: tokio::spawn(async move { bay.run(stopped).await.unwrap() }),
        }
    }

    fn device(&self, id: &str, flaw: Option<Flaw>) -> SharedDevice {
        self.device_with(id, flaw, None)
    }

    fn device_with(&self, id: &str, flaw: Option<Flaw>, habit: Option<Habit>) -> SharedDevice {
        let spec = DeviceSpec {
            device_id: DeviceId::parse(id).unwrap(),
            model: "not told".to_owned(),
            firmware: "not told".to_owned(),
            uid: vec![7; 12],
            kind: Attestation::X509,
        };
        let flash = self.dir.path().join(format!("{id}.json"));
        let stock = Stock {
            system: self.system,
            keys: ["net/scope", "net/host", "net/registration"]
                .map(str::to_owned)
                .to_vec(),
            id_key: ID_KEY.to_owned(),
            habit,
        };
        let device = Device::load_or_make(&flash, spec).unwrap();
        let device = device.with_flaw(flaw).with_stock_firmware(stock).unwrap();
        Arc::new(Mutex::new(device))
    }

    /// One stay of a device, until its verdict and its removal.
    async fn stay(&mut self, device: &SharedDevice) -> Vec<Event> {
        let cable = Cable::uart(&self.dir.path().join("bay"));
        let plug = tokio::spawn(run_device(Arc::clone(device), cable));
        let mut events = Vec::new();
        while !events.last().is_some_and(Event::ends_attempt) {
            if let Report::Event { recorded, .. } = self.next().await {
                events.push(recorded.event);
            }
        }
        plug.abort();
        while !matches!(self.next().await, Report::Removed { .. }) {}
        events
    }

    /// What the ledger has counted.
    async fn counts(&self) -> Counts {
        let standing = self.line.ledger.lookout().look().await.unwrap().unwrap();
        standing.shift.unwrap().counts
    }

    async fn next(&mut self) -> Report {
        let report = tokio::time::timeout(STAY_MAX, self.said.recv()).await;
        let report = report.expect("a report in time").expect("the bay runs");
        self.floor.fold(&report);
        report
    }

    /// Ends the bay; what is on record is whole, and nothing is to be enrolled.
    async fn close(self) {
        self.stop.send(true).unwrap();
        drop(self.said);
        self.bay.await.unwrap();
        let outbox = self
            .line
            .ledger
            .outbox(OutboxFilter::default())
            .await
            .unwrap();
        assert_eq!(outbox, []);
        let damages = verify(&self.dir.path().join("ledger.sqlite")).unwrap();
        assert_eq!(damages.damages, []);
    }
}

fn kinds(events: &[Event]) -> Vec<&'static str> {
    events.iter().map(Event::kind).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_is_injected_and_again_when_it_comes_back() {
    let mut hall = Hall::open(System::Zephyr, LONG_ENDPOINT, Readback::Prefix).await;
    let device = hall.device("SN-0001", None);
    for stay in 1..=2 {
        let events = hall.stay(&device).await;
        assert_eq!(kinds(&events), LADDER, "{stay}: {events:?}");
        let Event::Identified { identification, .. } = &events[1] else {
            panic!("{events:?}");
        };
        let id = DeviceId::parse("SN-0001").unwrap();
        assert_eq!(*identification, Identification::of_stock(id, MODEL));
        let Some(Event::Injected {
            observed,
            endpoint_prefix,
        }) = events.last()
        else {
            panic!("{events:?}");
        };
        assert_eq!(observed.global_endpoint, LONG_ENDPOINT[..32]);
        assert_eq!(observed.registration_id, "sn-0001");
        assert_eq!(*endpoint_prefix, Some(32), "the record says so");
    }
    let saved = |key: &str| {
        device
            .lock()
            .unwrap()
            .saved_setting(key)
            .map(<[u8]>::to_vec)
    };
    assert_eq!(saved("net/host").unwrap(), LONG_ENDPOINT.as_bytes());
    assert_eq!(saved("net/registration").unwrap(), b"sn-0001");
    let counts = hall.counts().await;
    assert_eq!((counts.injected, counts.units()), (1, 1));
    let ledger = &hall.line.ledger;
    let units = ledger.units().await.unwrap();
    assert_eq!(units.len(), 1);
    assert_eq!(units[0].verdict, Some(Verdict::Injected));
    let balance = ledger.balance("early").await.unwrap();
    assert_eq!((balance.scanned, balance.injected), (1, 1));
    assert_eq!(
        (balance.passed, balance.failed, balance.open_after),
        (0, 0, 0)
    );
    hall.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_comes_back_whole_is_recorded_as_such() {
    for (system, endpoint) in [
        (System::Zephyr, SHORT_ENDPOINT),
        (System::Mynewt, SHORT_ENDPOINT),
    ] {
        let mut hall = Hall::open(system, endpoint, Readback::Whole).await;
        let events = hall.stay(&hall.device("SN-0001", None)).await;
        let whole = matches!(
            events.last(),
            Some(Event::Injected { endpoint_prefix: None, observed }) if observed.global_endpoint == endpoint
        );
        assert!(whole, "{system:?}: {events:?}");
        hall.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_value_fails_the_unit_under_either_policy() {
    for (endpoint, readback, key, value) in [
        (SHORT_ENDPOINT, Readback::Whole, "net/scope", "ID scope"),
        (
            LONG_ENDPOINT,
            Readback::Prefix,
            "net/host",
            "global endpoint",
        ),
    ] {
        let mut hall = Hall::open(System::Zephyr, endpoint, readback).await;
        let flaw = Flaw::SettingChangedAtReset(key.to_owned());
        let events = hall.stay(&hall.device("SN-0001", Some(flaw))).await;
        let Some(Event::Failed { fault, disable }) = events.last() else {
            panic!("{events:?}");
        };
        assert_eq!((fault.code(), disable), ("does_not_hold", &None));
        assert!(
            words::of(fault).what.contains(value),
            "{}",
            words::of(fault).what
        );
        let sound = hall.stay(&hall.device("SN-0002", None)).await;
        assert_eq!(kinds(&sound), LADDER, "{sound:?}");
        let counts = hall.counts().await;
        assert_eq!((counts.failed, counts.injected), (1, 1));
        hall.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_back_is_not_written() {
    let mut hall = Hall::open(System::Zephyr, LONG_ENDPOINT, Readback::Whole).await;
    let device = hall.device("SN-0001", None);
    let events = hall.stay(&device).await;
    let Some(Event::Errored { fault }) = events.last() else {
        panic!("{events:?}");
    };
    assert_eq!(fault.code(), "cannot_be_read_back");
    assert_eq!(device.lock().unwrap().saved_setting("net/scope"), None);
    hall.close().await;
}

/// What such firmware answers when it is asked for its identification, which it knows nothing of.
#[tokio::test(flavor = "multi_thread")]
async fn a_unit_that_has_the_groups_number_for_something_else_is_injected() {
    let refusal = |group, code| Habit::OwnGroupRefuses(SmpError { group, code });
    let own = Some(group::GROUP);
    let habits = [
        refusal(own, 1),
        refusal(own, group::Code::Sealed as u32),
        refusal(own, 4711),
        refusal(Some(2), 7),
        refusal(None, 3),
        refusal(None, 256 + group::Code::StorageFailed as u32),
        Habit::OwnGroupSays(Map::new()),
        Habit::OwnGroupSays(Map::new().uint("temperature", 21)),
        Habit::OwnGroupSays(Map::new().uint("id", 7).text("model", MODEL)),
    ];
    let mut hall = Hall::open(System::Zephyr, SHORT_ENDPOINT, Readback::Whole).await;
    for (n, habit) in habits.into_iter().enumerate() {
        let device = hall.device_with(&format!("SN-{n}"), None, Some(habit.clone()));
        let events = hall.stay(&device).await;
        assert_eq!(kinds(&events), LADDER, "{habit:?}: {events:?}");
    }
    hall.close().await;
}

/// It says that it gives no more than nothing of any value: then nothing is what it holds.
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_of_which_nothing_comes_back_fails_the_unit() {
    let mut hall = Hall::open(System::Zephyr, LONG_ENDPOINT, Readback::Prefix).await;
    let nothing = Habit::GivesNothing("net/host".to_owned());
    let events = hall
        .stay(&hall.device_with("SN-0001", None, Some(nothing)))
        .await;
    let Some(Event::Failed { fault, disable }) = events.last() else {
        panic!("{events:?}");
    };
    assert_eq!((fault.code(), disable), ("does_not_hold", &None));
    let said = words::of(fault).what;
    assert!(said.contains("global endpoint"), "{said}");
    hall.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_may_be_cut_off_names_no_unit() {
    let mut hall = Hall::open(System::Zephyr, SHORT_ENDPOINT, Readback::Whole).await;
    let events = hall.stay(&hall.device(&"S".repeat(40), None)).await;
    let Some(Event::Interrupted { fault }) = events.last() else {
        panic!("{events:?}");
    };
    assert!(
        words::of(fault).what.contains("32 bytes and may have more"),
        "{}",
        words::of(fault).what
    );
    hall.close().await;
}

fn recorded(event: Event) -> Recorded {
    Recorded {
        seq: 1,
        at_ms: 0,
        station: "S1".to_owned(),
        operator: None,
        attempt: None,
        device: Some(id()),
        product_digest: None,
        because: None,
        event,
    }
}

fn id() -> DeviceId {
    DeviceId::parse("SN-0001").unwrap()
}

/// The record of one attempt that ends in INJECTED.
fn way() -> Vec<Recorded> {
    let product = product(SHORT_ENDPOINT, Readback::Whole);
    let registration_id = RegistrationId::of_device(&id());
    let holding = product.holding(&registration_id, None);
    let events = [
        Event::Identified {
            identification: Identification::of_stock(id(), MODEL),
            assigned: None,
            scanned: None,
        },
        Event::Accepted {
            product: product.name,
            product_digest: Digest::of(b"product"),
        },
        Event::RegistrationIdDerived { registration_id },
        Event::Written {
            asked: holding.clone(),
        },
        Event::Restarted {
            boots_before: 0,
            boots_after: 0,
        },
        Event::ReadBack {
            observed: holding.clone(),
            value_limit: Some(32),
            by_digest: false,
        },
        Event::Injected {
            observed: holding,
            endpoint_prefix: None,
        },
    ];
    events.map(recorded).to_vec()
}

fn recover(product: Product, events: &[Recorded]) -> Option<Job> {
    Job::recover(id(), Arc::new(product), events).ok()
}

#[test]
fn an_event_follows_only_where_the_ladder_has_it() {
    let stock = || product(SHORT_ENDPOINT, Readback::Whole);
    let way = way();
    let kinds: Vec<_> = way.iter().map(|recorded| recorded.event.kind()).collect();
    let fault = || Fault::StationStopped {
        bay: "1".to_owned(),
    };
    let never = [
        Event::KeyRead {
            csr: Blob::default(),
            public_key: Blob::default(),
        },
        Event::Proved {
            proof: Proof::TpmRehearsal {
                signed: String::new(),
                hmac: Digest::of(b""),
            },
        },
        Event::Sealed {
            holds: Digest::of(b""),
        },
        Event::Recognised {
            holds: Digest::of(b""),
        },
    ];
    for on_record in 1..=way.len() {
        let last = kinds[on_record - 1];
        let follows = |event: Event| {
            let events = [&way[..on_record], &[recorded(event)]].concat();
            recover(stock(), &events).is_some()
        };
        for next in &way {
            let kind = next.event.kind();
            let right = kinds.get(on_record) == Some(&kind) || kind == "identified";
            assert_eq!(follows(next.event.clone()), right, "{kind} after {last}");
        }
        for event in &never {
            assert!(!follows(event.clone()), "{} after {last}", event.kind());
        }
        let ended = last == "injected";
        assert_eq!(follows(Event::Interrupted { fault: fault() }), !ended);
        let job = recover(stock(), &way[..on_record]).unwrap();
        assert_eq!(job.interrupted(fault()).is_empty(), ended);
    }
    let mut job = recover(stock(), &way).unwrap();
    assert!(matches!(job.next(), Next::Done(Verdict::Injected)));
    let asks = |on_record: usize| recover(stock(), &way[..on_record]).unwrap().next();
    assert!(matches!(asks(3), Next::Do(Effect::Write { chain, .. }) if chain.is_empty()));
    assert!(matches!(asks(6), Next::Record(event) if event == way[6].event));
}

#[test]
fn a_device_that_gets_other_firmware_starts_over() {
    let identification = Identification {
        stock: false,
        boots: 3,
        ..Identification::of_stock(id(), MODEL)
    };
    let identified = Event::Identified {
        identification,
        assigned: None,
        scanned: None,
    };
    let events = [way(), vec![recorded(identified)]].concat();
    let with_keys = plant::product(MODEL, Vec::new(), Vec::new());
    let mut job = recover(with_keys, &events).unwrap();
    let Next::Record(accepted @ Event::Accepted { .. }) = job.next() else {
        panic!("not accepted");
    };
    let events = [events, vec![recorded(accepted)]].concat();
    let with_keys = plant::product(MODEL, Vec::new(), Vec::new());
    let mut job = recover(with_keys, &events).unwrap();
    assert!(matches!(
        job.next(),
        Next::Do(Effect::RequestCertificate { .. })
    ));
    let holding = Holding {
        id_scope: String::new(),
        global_endpoint: String::new(),
        registration_id: String::new(),
        certificate_sha256: None,
    };
    let injected = recorded(Event::Injected {
        observed: holding,
        endpoint_prefix: None,
    });
    assert!(job.apply(&injected).is_err());
}
