//! The pure job against a world of bytes: whatever happens in whatever order, what the record says is true.

use crate::plant::product;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use dps_station::provision::bytes::{Blob, Digest};
use dps_station::provision::certificate::{
    CaProfile, Csr, Issuer, KeyPolicy, assemble, draft_issuing, draft_leaf, draft_root,
};
use dps_station::provision::device::{
    Attestation, DeviceId, Holding, Identification, SerialNumber, proof_message,
};
use dps_station::provision::event::{Event, Recorded, Reservation};
use dps_station::provision::fault::{Fault, Unsigned};
use dps_station::provision::injected::Observed;
use dps_station::provision::job::{Effect, Fact, IllegalTransition, Job, Next};
use dps_station::provision::product::Product;
use dps_station::provision::verdict::Verdict;
use proptest::prelude::*;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PublicKeyData};
use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

/// A fixed time, at which the certificates of this file are made and valid.
const NOW_MS: i64 = 1_800_000_000_000;

/// What happens at the next step of the job.
#[derive(Clone, Copy, Debug)]
enum Happening {
    /// It is done, and recorded.
    Done,
    /// The station is killed before it is done.
    KilledBefore,
    /// It is done, and the station is killed before it is on record.
    KilledAfter,
    /// It fails, and the device is to blame.
    DeviceFault,
    /// It fails, and the station is to blame.
    StationFault,
    /// The device is pulled out before it is done.
    Pulled,
}
use Happening::*;

fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    let happening = prop_oneof![
        12 => Just(Done),
        1 => Just(KilledBefore),
        1 => Just(KilledAfter),
        1 => Just(DeviceFault),
        1 => Just(StationFault),
        1 => Just(Pulled),
    ];
    prop::collection::vec(happening, 0..120)
}

proptest! {
    #[test]
    fn whatever_happens_nothing_is_signed_twice_and_every_pass_is_earned(happenings in happenings()) {
        let mut world = World::new();
        for happening in happenings {
            world.step(happening);
        }
        while !world.rests() {
            world.step(Done);
        }
        world.is_true();
    }
}

#[test]
fn an_event_that_does_not_follow_is_an_error() {
    let mut world = World::new();
    while !world.rests() {
        world.step(Done);
    }
    let way = &world.events;
    let kinds: Vec<_> = way.iter().map(|recorded| recorded.event.kind()).collect();
    assert_eq!(kinds.len(), 12, "{kinds:?}");
    let fault = || Fault::StationStopped {
        bay: "1".to_owned(),
    };
    let abandoned = Event::SerialAbandoned {
        serial: reservation(way).serial.clone(),
        reason: Unsigned::OutcomeUnknown,
    };
    let arrived = Event::Arrived {
        bay: "1".to_owned(),
        port: "p".to_owned(),
    };
    let recognised = Event::Recognised {
        holds: Digest::of(b"something"),
    };
    for on_record in 1..=way.len() {
        let follows = |event: &Event| {
            let events = [&way[..on_record], &[recorded(99, event.clone())]].concat();
            recover(&events).is_ok()
        };
        let last = kinds[on_record - 1];
        for next in way {
            let kind = next.event.kind();
            let right = kinds.get(on_record) == Some(&kind) || kind == "identified";
            assert_eq!(follows(&next.event), right, "{kind} after {last}");
        }
        let under_way = last != "passed";
        assert_eq!(follows(&Event::Interrupted { fault: fault() }), under_way);
        assert_eq!(follows(&Event::Errored { fault: fault() }), under_way);
        let failed = Event::Failed {
            fault: fault(),
            disable: None,
        };
        assert_eq!(follows(&failed), under_way);
        assert_eq!(
            follows(&abandoned),
            last == "serial_reserved",
            "after {last}"
        );
        assert!(!follows(&arrived) && !follows(&recognised), "after {last}");
    }
}

#[test]
fn a_signature_is_asked_for_once() {
    let mut world = World::new();
    while world.events.last().map(|recorded| recorded.event.kind()) != Some("serial_reserved") {
        world.step(Done);
    }
    let mut job = world.job.take().unwrap();
    let reserved = reservation(&world.events).serial.clone();
    let Next::Do(Effect::Sign { serial }) = job.next() else {
        panic!("what was just reserved is to be signed");
    };
    assert_eq!(serial, reserved);
    for _ in 0..2 {
        let Next::Record(Event::SerialAbandoned { serial, .. }) = job.next() else {
            panic!("what may have been signed is to be given up");
        };
        assert_eq!(serial, reserved);
    }
}

#[test]
fn a_record_follows_whatever_the_product_is_now() {
    let mut world = World::new();
    while world.events.last().map(|recorded| recorded.event.kind()) != Some("written") {
        world.step(Done);
    }
    world.step(Pulled);
    while !world.rests() {
        world.step(Done);
    }
    for attestation in [None, Some(Attestation::Tpm), Some(Attestation::X509)] {
        let mut product = (*FACTORY.product).clone();
        product.attestation = attestation;
        let job = Job::recover(id(), Arc::new(product), &world.events);
        assert!(job.is_ok(), "{attestation:?}: {:?}", job.err());
    }
}

fn reservation(events: &[Recorded]) -> &Reservation {
    let found = events.iter().find_map(|recorded| match &recorded.event {
        Event::SerialReserved { reservation } => Some(reservation),
        _ => None,
    });
    found.expect("a certificate was reserved")
}

fn recover(events: &[Recorded]) -> Result<Job, IllegalTransition> {
    Job::recover(id(), Arc::clone(&FACTORY.product), events)
}

/// A device, an HSM, a record, and the job that is between them.
struct World {
    device: Device,
    events: Vec<Recorded>,
    /// What the HSM was asked to sign.
    signed: BTreeSet<SerialNumber>,
    drafts: u8,
    job: Option<Job>,
    verdict: Option<Verdict>,
}

#[derive(Clone, Default)]
struct Device {
    boots: u64,
    holds: Option<Holding>,
    chain: Vec<Blob>,
    sealed: bool,
}

impl World {
    fn new() -> Self {
        Self {
            device: Device::default(),
            events: Vec::new(),
            signed: BTreeSet::new(),
            drafts: 0,
            job: None,
            verdict: None,
        }
    }

    /// Whether the unit has passed, and nothing more is to come.
    fn rests(&self) -> bool {
        matches!(self.verdict, Some(Verdict::Passed | Verdict::Recognised))
    }

    fn step(&mut self, happening: Happening) {
        let Some(mut job) = self.job.take() else {
            self.device.boots += 1;
            self.record(Event::Identified {
                identification: self.device.identification(),
                assigned: None,
                scanned: None,
            });
            self.job = Some(recover(&self.events).unwrap());
            return;
        };
        let next = job.next();
        let recovered = recover(&self.events).unwrap().next();
        match (&next, &recovered) {
            (Next::Do(Effect::Sign { .. }), recovered) => assert!(
                matches!(recovered, Next::Record(Event::SerialAbandoned { .. })),
                "a record is enough to sign from: {recovered:?}"
            ),
            (next, recovered) => assert_eq!(class(next), class(recovered)),
        }
        match (next, happening) {
            (Next::Done(verdict), _) => self.verdict = Some(verdict),
            (_, KilledBefore) => self.die(),
            (Next::Record(event), happening) => {
                self.move_by(job, event);
                if matches!(happening, KilledAfter) {
                    self.die();
                }
            }
            (Next::Do(effect), KilledAfter) => {
                self.perform(effect);
                self.die();
            }
            (Next::Do(effect), happening) => {
                let fact = match (happening, &effect) {
                    (DeviceFault | StationFault, Effect::Sign { .. }) => {
                        Fact::Signature(Err(Unsigned::OutcomeUnknown))
                    }
                    (DeviceFault, _) => Fact::Fault(Fault::NoRestart { device: id() }),
                    (StationFault, _) => Fact::Fault(Fault::NoCa {
                        product: "test".to_owned(),
                    }),
                    (Pulled, Effect::Sign { .. } | Effect::Draft { .. }) => self.perform(effect),
                    (Pulled, _) => Fact::Gone(Fault::Swapped {
                        found: id(),
                        before: None,
                    }),
                    _ => self.perform(effect),
                };
                let event = job.interpret(fact);
                self.move_by(job, event);
            }
        }
    }

    fn record(&mut self, event: Event) -> Recorded {
        let recorded = recorded(self.events.len() as u64 + 1, event);
        self.events.push(recorded.clone());
        recorded
    }

    fn move_by(&mut self, mut job: Job, event: Event) {
        job.apply(&self.record(event)).unwrap();
        self.job = Some(job);
    }

    /// The station is gone; the next one ends what it left open.
    fn die(&mut self) {
        self.job = None;
        let job = recover(&self.events).unwrap();
        let fault = Fault::StationStopped {
            bay: "1".to_owned(),
        };
        for event in job.interrupted(fault) {
            self.record(event);
        }
        recover(&self.events).unwrap();
    }

    fn perform(&mut self, effect: Effect) -> Fact {
        match effect {
            Effect::RequestCertificate { .. } => Fact::Request(FACTORY.request.clone()),
            Effect::Draft { csr, common_name } => {
                self.drafts += 1;
                Fact::Drafted(FACTORY.draft(&csr, &common_name, self.drafts))
            }
            Effect::Sign { serial } => {
                let last = self.events.last().map(|recorded| &recorded.event);
                let Some(Event::SerialReserved { reservation }) = last else {
                    panic!("{last:?} gives no right to a signature");
                };
                assert_eq!(reservation.serial, serial);
                let signature = FACTORY.issuing.sign(&reservation.tbs.0);
                assert!(self.signed.insert(serial.clone()), "{serial} signed twice");
                Fact::Signature(Ok(signature))
            }
            Effect::Write { holding, chain, .. } => {
                assert!(!self.device.sealed);
                self.device.holds = Some(holding.clone());
                self.device.chain = chain;
                Fact::Written(holding)
            }
            Effect::Restart => {
                self.device.boots += 1;
                Fact::Restarted(self.device.identification())
            }
            Effect::ReadBack { .. } => Fact::Observed(
                Observed::whole(self.device.holding()),
                self.device.chain.clone(),
            ),
            Effect::ProveKey => {
                let nonce = Digest([7; 32]);
                Fact::KeyProof {
                    nonce,
                    signature: FACTORY.device.sign(&proof_message(&nonce.0)),
                    at_ms: NOW_MS,
                }
            }
            Effect::Seal { holds } => {
                assert_eq!(holds, self.device.holding().digest());
                self.device.sealed = true;
                Fact::Sealed(holds)
            }
            effect => panic!("{effect:?} of a product without a TPM"),
        }
    }

    /// The record's PASS is earned, and of the one certificate that the device holds.
    fn is_true(&self) {
        let mut certificates = 0;
        for (place, recorded) in self.events.iter().enumerate() {
            match &recorded.event {
                Event::Signed { serial, .. } => {
                    assert!(self.signed.contains(serial));
                    certificates += 1;
                }
                Event::Passed { enrollment } => {
                    self.is_earned(place);
                    assert_eq!(enrollment.device_id, id());
                }
                _ => {}
            }
        }
        assert_eq!(certificates, 1);
        assert!(self.device.sealed);
    }

    /// Read back, proved and sealed in the same attempt; or sealed in an earlier one that did all but record it, with
    /// nothing written since.
    fn is_earned(&self, passed: usize) {
        let kinds: Vec<_> = self.events[..passed]
            .iter()
            .map(|recorded| recorded.event.kind())
            .collect();
        let begin = kinds
            .iter()
            .rposition(|kind| *kind == "identified")
            .unwrap();
        if kinds[begin..] == ["identified", "sealed"] {
            let proved = kinds.iter().rposition(|kind| *kind == "proved").unwrap();
            let since = &kinds[proved + 1..];
            assert!(!since.contains(&"accepted"), "{kinds:?}");
        } else {
            assert!(
                kinds.ends_with(&["read_back", "proved", "sealed"]),
                "{kinds:?}"
            );
        }
    }
}

impl Device {
    fn holding(&self) -> Holding {
        self.holds.clone().unwrap_or(Holding {
            id_scope: String::new(),
            global_endpoint: String::new(),
            registration_id: String::new(),
            certificate_sha256: None,
        })
    }

    fn identification(&self) -> Identification {
        Identification {
            device_id: id(),
            blank: false,
            model: "M".to_owned(),
            firmware: "1".to_owned(),
            uid: Blob(vec![7; 12]),
            boots: self.boots,
            sealed: self.sealed,
            tpm: false,
            holds: self.holding().digest(),
            stock: false,
        }
    }
}

fn class(next: &Next) -> String {
    match next {
        Next::Done(verdict) => format!("{verdict:?}"),
        Next::Record(event) => event.kind().to_owned(),
        Next::Do(effect) => {
            let text = format!("{effect:?}");
            text.chars().take_while(|c| c.is_alphanumeric()).collect()
        }
    }
}

fn id() -> DeviceId {
    DeviceId::parse("GW-0001").unwrap()
}

fn recorded(seq: u64, event: Event) -> Recorded {
    Recorded {
        seq,
        at_ms: NOW_MS,
        station: "S1".to_owned(),
        operator: None,
        attempt: None,
        device: Some(id()),
        product_digest: None,
        because: None,
        event,
    }
}

/// Keys and certificates, made once: making them is slow, and no test depends on which they are.
static FACTORY: LazyLock<Factory> = LazyLock::new(Factory::make);

struct Factory {
    issuing: Key,
    issuer: Issuer,
    device: Key,
    request: Vec<u8>,
    product: Arc<Product>,
}

struct Key {
    pair: KeyPair,
    signer: EcdsaKeyPair,
}

impl Key {
    fn make() -> Self {
        let pair = KeyPair::generate().unwrap();
        let der = pair.serialize_der();
        let signer = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &der).unwrap();
        Self { pair, signer }
    }

    fn spki(&self) -> Vec<u8> {
        self.pair.subject_public_key_info()
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let signature = self.signer.sign(&SystemRandom::new(), message).unwrap();
        signature.as_ref().to_vec()
    }
}

impl Factory {
    fn make() -> Self {
        let (root, issuing, device) = (Key::make(), Key::make(), Key::make());
        let profile = CaProfile {
            common_name: "SIMULATED CA".to_owned(),
            organization: None,
            validity_days: 7000,
        };
        let draft = draft_root("ca", &root.spki(), &profile, serial(1), NOW_MS).unwrap();
        let root_der = assemble(&draft.tbs.0, &root.sign(&draft.tbs.0));
        let anchor = Issuer::parse("ca", &root_der).unwrap();
        let draft = draft_issuing(&anchor, &issuing.spki(), &profile, serial(2), NOW_MS).unwrap();
        let issuing_der = assemble(&draft.tbs.0, &root.sign(&draft.tbs.0));
        let mut asked = CertificateParams::default();
        asked.distinguished_name = DistinguishedName::new();
        asked
            .distinguished_name
            .push(DnType::CommonName, id().as_str());
        let request = asked.serialize_request(&device.pair).unwrap();
        Self {
            issuer: Issuer::parse("ca", &issuing_der).unwrap(),
            issuing,
            device,
            request: request.der().to_vec(),
            product: Arc::new(product("M", root_der, issuing_der)),
        }
    }

    fn draft(&self, csr: &Blob, common_name: &str, number: u8) -> Reservation {
        let csr = Csr::parse(&csr.0, common_name, &KeyPolicy::default()).unwrap();
        let (serial, profile) = (serial(number), &self.product.profile);
        draft_leaf(&self.issuer, &csr, common_name, serial, NOW_MS, profile).unwrap()
    }
}

fn serial(number: u8) -> SerialNumber {
    SerialNumber::from_random([number; SerialNumber::OCTETS])
}
