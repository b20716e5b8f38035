//! A driver that the station does not have, for devices in this process's memory, goes through a real bay.

use super::codes::books::{Books, End};
use super::plant::{self, Plant, STEP_DEADLINE};
use super::scenarios::line::{MODEL, in_a_process_with_an_hsm, options};
use dps_station::bay::{Bay, CaKey, Line, LineProduct};
use dps_station::fixtures::pty::Pty;
use dps_station::ledger::{OutboxState, ReservationState, verify};
use dps_station::link::{
    Device, DeviceLink, Driver, Expected, Found, Held, Injection, LinkError, LinkHealth,
    Observation, Reply, of_product,
};
use dps_station::provision::bytes::{Blob, Digest};
use dps_station::provision::device::{DeviceId, Holding, Identification, proof_message};
use dps_station::provision::dialogue::{Grounds, Misfit, Verb};
use dps_station::provision::event::{Event, Recorded};
use dps_station::provision::fault::{Blame, Fault, Mismatch};
use dps_station::provision::floor::Report;
use dps_station::provision::injected::Observed;
use dps_station::provision::product::Product;
use dps_station::provision::verdict::Verdict;
use dps_station::words;
use rcgen::SigningKey;
use std::future::ready;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};

/// How long an attempt may take, on a machine that does much else.
const ATTEMPT_MAX: Duration = Duration::from_secs(60);

/// What a toy can do beside holding what it was given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    /// Has a key, and can be sealed.
    #[default]
    Whole,
    /// The same, but says that it has started anew when it has not.
    Idle,
    /// The same, but seals something else than it says that it holds.
    SealsOther,
    /// Has no verbs but those that every device has.
    Bare,
}

/// Its driver, and what it remembers.
struct Toys {
    toy: Mutex<Toy>,
}

#[derive(Default)]
struct Toy {
    kind: Kind,
    boots: u64,
    key: Option<rcgen::KeyPair>,
    chain: Vec<Vec<u8>>,
    /// What it was given, and what of it outlives a restart.
    given: Option<Holding>,
    sealed: bool,
}

impl Toy {
    fn holding(&self) -> Holding {
        let nothing = Holding {
            id_scope: String::new(),
            global_endpoint: String::new(),
            registration_id: String::new(),
            certificate_sha256: None,
        };
        Holding {
            certificate_sha256: self.chain.first().map(|leaf| Digest::of(leaf)),
            ..self.given.clone().unwrap_or(nothing)
        }
    }

    fn identification(&self) -> Identification {
        Identification {
            device_id: DeviceId::parse("TOY-1").unwrap(),
            blank: false,
            model: MODEL.to_owned(),
            firmware: "1".to_owned(),
            uid: Blob(vec![1]),
            boots: self.boots,
            sealed: self.sealed,
            tpm: false,
            holds: self.holding().digest(),
            stock: false,
        }
    }
}

impl Driver for Toys {
    fn kind(&self) -> &'static str {
        "toy"
    }

    fn find<'a>(&'a self, _: &'a mut DeviceLink, _: Duration) -> Reply<'a, Found> {
        let identification = self.toy.lock().unwrap().identification();
        answer(Ok(Found {
            kind: self.kind(),
            identification,
        }))
    }

    fn device<'a>(&'a self, _: &'a mut DeviceLink) -> Box<dyn Device + 'a> {
        match self.toy.lock().unwrap().kind {
            Kind::Bare => Box::new(Bare(&self.toy)),
            _ => Box::new(Whole(Bare(&self.toy))),
        }
    }
}

fn answer<'a, T: Send + 'a>(result: Result<T, LinkError>) -> Reply<'a, T> {
    Box::pin(ready(result))
}

struct Bare<'a>(&'a Mutex<Toy>);

impl Device for Bare<'_> {
    fn health(&self) -> LinkHealth {
        LinkHealth::default()
    }

    fn can_hold(&self, _: &Holding) -> Result<(), Misfit> {
        Ok(())
    }

    fn look(&mut self, _: Duration) -> Reply<'_, Identification> {
        self.identify()
    }

    fn identify(&mut self) -> Reply<'_, Identification> {
        answer(Ok(self.0.lock().unwrap().identification()))
    }

    fn inject<'a>(&'a mut self, holding: &'a Holding, _: Option<&'a DeviceId>) -> Reply<'a, ()> {
        self.0.lock().unwrap().given = Some(holding.clone());
        answer(Ok(()))
    }

    fn restart<'a>(&'a mut self, _: &'a Identification) -> Reply<'a, Identification> {
        let mut toy = self.0.lock().unwrap();
        toy.boots += u64::from(toy.kind != Kind::Idle);
        drop(toy);
        self.identify()
    }

    fn read_back<'a>(&'a mut self, _: &'a Expected) -> Reply<'a, Observation> {
        let toy = self.0.lock().unwrap();
        answer(Ok(Observation::Values(Held {
            observed: Observed::whole(toy.holding()),
            chain: toy.chain.clone(),
        })))
    }
}

struct Whole<'a>(Bare<'a>);

impl Device for Whole<'_> {
    fn health(&self) -> LinkHealth {
        self.0.health()
    }

    fn shared(&self) -> bool {
        self.0.shared()
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

    fn make_key<'a>(&'a mut self, common_name: &'a str) -> Reply<'a, Vec<u8>> {
        let mut toy = self.0.0.lock().unwrap();
        let make = || rcgen::KeyPair::generate().unwrap();
        let key = toy.key.get_or_insert_with(make);
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let name = &mut params.distinguished_name;
        name.push(rcgen::DnType::CommonName, common_name);
        answer(Ok(params.serialize_request(key).unwrap().der().to_vec()))
    }

    fn install<'a>(&'a mut self, chain: &'a [Vec<u8>]) -> Reply<'a, ()> {
        self.0.0.lock().unwrap().chain = chain.to_vec();
        answer(Ok(()))
    }

    fn prove(&mut self, nonce: [u8; 32]) -> Reply<'_, Vec<u8>> {
        let toy = self.0.0.lock().unwrap();
        answer(match &toy.key {
            Some(key) => Ok(key.sign(&proof_message(&nonce)).unwrap()),
            None => Err(LinkError::Refused {
                port: "toy".to_owned(),
                what: Verb::Sign,
                grounds: Grounds::NoKey,
            }),
        })
    }

    fn seal(&mut self, holds: Digest) -> Reply<'_, Digest> {
        let mut toy = self.0.0.lock().unwrap();
        toy.sealed = true;
        answer(Ok(match toy.kind {
            Kind::SealsOther => Digest::of(b"other"),
            _ => holds,
        }))
    }
}

/// One attempt in a bay at whose port nobody answers; the toy's product is the last of the line's.
async fn attempt(
    kind: Kind,
    mut products: Vec<LineProduct>,
    product: Arc<Product>,
    signer: Option<CaKey>,
) -> Stay {
    let dir = TempDir::new().unwrap();
    let port = dir.path().join("bay");
    let mut pty = Pty::open(&port).unwrap();
    let toy = Toy {
        kind,
        ..Toy::default()
    };
    let driver = Arc::new(Toys {
        toy: Mutex::new(toy),
    });
    products.push(LineProduct {
        product,
        driver: driver.clone(),
        signer,
        step_deadline: STEP_DEADLINE,
    });
    let path = dir.path().join("ledger.sqlite");
    let ledger = plant::ledger(&path);
    let line = Line {
        ledger: ledger.clone(),
        products,
        present: Mutex::default(),
        loopback: Default::default(),
        clock: plant::clock,
    };
    let (sender, mut reports) = mpsc::channel(64);
    let (_stop, stopped) = watch::channel(false);
    let bay = Bay {
        name: "1".to_owned(),
        port,
        hotplug: false,
        link: options(),
        limits: Default::default(),
        line: Arc::new(line),
        reports: sender,
        test: Arc::default(),
        scans: Arc::default(),
    };
    let bay = tokio::spawn(bay.run(stopped));
    let mut events = Vec::new();
    let ended = tokio::time::timeout(ATTEMPT_MAX, async {
        while !events.last().is_some_and(Event::ends_attempt) {
            if let Report::Event { recorded, .. } = reports.recv().await.expect("the bay runs") {
                let Recorded { event, .. } = *recorded;
                events.push(event);
            }
        }
    });
    ended.await.expect("it ends in time");
    bay.abort();
    let _ = bay.await;
    let mut sent = [0; 64];
    let count = pty.read(&mut sent).await.unwrap();
    assert_eq!(verify(&path).unwrap().damages, []);
    Stay {
        events,
        books: Books::of(&ledger).await,
        sent: sent[..count].to_vec(),
        driver,
    }
}

struct Stay {
    events: Vec<Event>,
    /// What is on record afterwards.
    books: Books,
    sent: Vec<u8>,
    driver: Arc<Toys>,
}

fn kinds(events: &[Event]) -> Vec<&'static str> {
    events.iter().map(Event::kind).collect()
}

#[test]
fn a_driver_of_ones_own_takes_a_device_from_arrival_to_pass() {
    in_a_process_with_an_hsm(
        "driver::a_driver_of_ones_own_takes_a_device_from_arrival_to_pass",
        |plant: Arc<Plant>| async move {
            let (product, signer) = (Arc::clone(&plant.product), plant.signer.clone());
            let done = attempt(Kind::Whole, Vec::new(), product, Some(signer)).await;
            let ladder = [
                "arrived",
                "identified",
                "accepted",
                "key_read",
                "registration_id_derived",
                "serial_reserved",
                "signed",
                "written",
                "restarted",
                "read_back",
                "proved",
                "sealed",
                "link_measured",
                "passed",
            ];
            assert_eq!(kinds(&done.events), ladder, "{:?}", done.events);
            let toy = done.driver.toy.lock().unwrap();
            assert_eq!(toy.given.as_ref().unwrap().registration_id, "toy-1");
            assert_eq!((toy.sealed, toy.chain.len()), (true, 2));
            assert_eq!(done.sent, b"\n", "only what opening the port sends");
        },
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_driver_does_not_have_is_the_stations_matter_and_not_the_units() {
    let product = Arc::new(plant::product(MODEL, Vec::new(), Vec::new()));
    // Of the same model, and first: who found a device decides which products it may become.
    let others = vec![LineProduct {
        product: Arc::clone(&product),
        driver: of_product(Injection::default(), MODEL),
        signer: None,
        step_deadline: STEP_DEADLINE,
    }];
    let done = attempt(Kind::Bare, others, product, None).await;
    let end = End {
        verdict: "errored",
        code: "device_unable",
        blame: Blame::Station,
        after: "accepted",
    };
    let fault = end.check(&done.events);
    let nothing = Books {
        units: vec![None],
        ..Books::default()
    };
    assert_eq!(done.books, nothing);
    assert_eq!(
        words::of(fault).what,
        "bay 1: no device of this kind can make a key"
    );
}

/// Over a real cable the driver itself sees the first of these, and the second is an answer that makes no sense to it.
#[test]
fn a_device_that_does_not_do_what_it_says_fails_and_its_certificate_is_disabled() {
    in_a_process_with_an_hsm(
        "driver::a_device_that_does_not_do_what_it_says_fails_and_its_certificate_is_disabled",
        |plant: Arc<Plant>| async move {
            for (kind, code, after) in [
                (Kind::Idle, "no_restart", "written"),
                (Kind::SealsOther, "does_not_hold", "proved"),
            ] {
                let (product, signer) = (Arc::clone(&plant.product), plant.signer.clone());
                let before = signer.hsm.meter().signatures;
                let done = attempt(kind, Vec::new(), product, Some(signer)).await;
                let end = End {
                    verdict: "failed",
                    code,
                    blame: Blame::Device,
                    after,
                };
                let fault = end.check(&done.events);
                if let Fault::DoesNotHold { how, .. } = fault {
                    assert_eq!(*how, Mismatch::Sealed);
                }
                let books = Books {
                    units: vec![Some(Verdict::Failed)],
                    reservations: vec![ReservationState::Signed],
                    outbox: vec![OutboxState::DisablePending],
                    ..Books::default()
                };
                assert_eq!(done.books, books, "{code}");
                let signatures = plant.signer.hsm.meter().signatures - before;
                assert_eq!(signatures, 1, "{code}");
            }
        },
    );
}
