//! Units that come back, units that are two of a kind, and numbers that run out: how the last attempt ends, and what is
//! on record then.

use super::books::{Books, End};
use crate::naming::place::{Hall, alter, spec, uid};
use crate::plant::{self, Plant};
use crate::scenarios::line::in_a_process_with_an_hsm;
use dps_station::fixtures::device::SharedDevice;
use dps_station::fixtures::pty::Pty;
use dps_station::fixtures::scenario::Flaw;
use dps_station::ledger::{AllocationState, OutboxState, ReservationState, verify};
use dps_station::provision::bytes::Blob;
use dps_station::provision::certificate::Issuer;
use dps_station::provision::device::DeviceId;
use dps_station::provision::event::Event;
use dps_station::provision::fault::{Blame, Fault, IdentityKind};
use dps_station::provision::product::{Product, SigningCa};
use dps_station::provision::verdict::Verdict;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose,
};
use serde_json::{Value, json};
use std::sync::Arc;
use ulid::Ulid;

const ALLOCATED: &str = "source = \"allocated\"\nformat = \"GW-#\"";
const LABELLED: &str = "scan = \"required\"";

/// What is on record of one unit that passed.
fn one_passed() -> Books {
    Books {
        units: vec![Some(Verdict::Passed)],
        reservations: vec![ReservationState::Signed],
        outbox: vec![OutboxState::Pending],
        ..Books::default()
    }
}

fn fails(code: &'static str, after: &'static str) -> End {
    End {
        verdict: "failed",
        code,
        blame: Blame::Device,
        after,
    }
}

fn unnamed(code: &'static str, blame: Blame) -> End {
    End {
        verdict: "interrupted",
        code,
        blame,
        after: "arrived",
    }
}

/// One stay of a unit in a hall.
async fn stay(hall: &Hall, unit: &SharedDevice) -> Vec<Event> {
    let mut place = hall.open("1");
    place.plug(unit);
    let events = place.stay().await;
    place.pull().await;
    place.close().await;
    events
}

async fn passes(hall: &Hall, unit: &SharedDevice) {
    let events = stay(hall, unit).await;
    assert_eq!(events.last().unwrap().kind(), "passed", "{events:?}");
}

/// What is on record is this, it hangs together, and the HSM has made so many signatures since.
async fn holds(hall: &Hall, books: Books, plant: &Plant, before: u64, signatures: u64) {
    assert_eq!(Books::of(&hall.line.ledger).await, books);
    assert_eq!(verify(&hall.ledger()).unwrap().damages, []);
    assert_eq!(signed(plant) - before, signatures);
}

fn signed(plant: &Plant) -> u64 {
    plant.signer.hsm.meter().signatures
}

#[test]
fn a_sealed_unit_that_is_not_as_the_record_has_it_fails() {
    in_a_process_with_an_hsm(
        "codes::several::a_sealed_unit_that_is_not_as_the_record_has_it_fails",
        |plant| async move {
            let (here, elsewhere) = (Hall::with(&plant, |_| ()), Hall::with(&plant, |_| ()));
            let end = fails("sealed_unknown", "identified");
            let unknown = elsewhere.own("GW-A");
            passes(&elsewhere, &unknown).await;
            let before = signed(&plant);
            end.check(&stay(&here, &unknown).await);
            let failed = Books {
                units: vec![Some(Verdict::Failed)],
                ..Books::default()
            };
            holds(&here, failed, &plant, before, 0).await;
            assert_eq!(Books::of(&elsewhere.line.ledger).await, one_passed());

            // On record here, and it passed; but what it holds is from elsewhere.
            let (known, twin) = (here.own("GW-B"), elsewhere.own("GW-B"));
            passes(&here, &known).await;
            passes(&elsewhere, &twin).await;
            let before = signed(&plant);
            end.check(&stay(&here, &twin).await);
            let books = Books {
                units: vec![Some(Verdict::Failed); 2],
                reservations: vec![ReservationState::Signed],
                outbox: vec![OutboxState::DisablePending],
                ..Books::default()
            };
            holds(&here, books, &plant, before, 0).await;
        },
    );
}

#[test]
fn a_unit_that_comes_back_with_another_key_gets_no_second_certificate() {
    in_a_process_with_an_hsm(
        "codes::several::a_unit_that_comes_back_with_another_key_gets_no_second_certificate",
        |plant| async move {
            let hall = Hall::with(&plant, |_| ());
            let forgets = Flaw::SettingChangedAtReset("dps/id_scope".to_owned());
            let unit = hall.unit("a", spec("GW-A"), |device| device.with_flaw(Some(forgets)));
            fails("does_not_hold", "read_back").check(&stay(&hall, &unit).await);
            let before = signed(&plant);
            hall.copy_flash("a", "a", |flash| flash["private_key"] = Value::Null);
            let again = hall.unit("a", spec("GW-A"), |device| device);
            fails("new_key", "accepted").check(&stay(&hall, &again).await);
            let books = Books {
                units: vec![Some(Verdict::Failed)],
                reservations: vec![ReservationState::Signed],
                outbox: vec![OutboxState::DisablePending],
                ..Books::default()
            };
            holds(&hall, books, &plant, before, 0).await;
        },
    );
}

#[test]
fn a_unit_whose_certificate_has_ended_fails_and_one_of_a_ca_that_was_replaced_does_not() {
    in_a_process_with_an_hsm(
        "codes::several::a_unit_whose_certificate_has_ended_fails_and_one_of_a_ca_that_was_replaced_does_not",
        |plant| async move {
            let for_a_day = |product: &mut Product| product.profile.validity_days = 1;
            let hall = Hall::with(&plant, for_a_day);
            let forgets = Flaw::SettingChangedAtReset("dps/id_scope".to_owned());
            let unit = hall.unit("a", spec("GW-A"), |device| device.with_flaw(Some(forgets)));
            fails("does_not_hold", "read_back").check(&stay(&hall, &unit).await);

            // Its certificate is under a CA that this line does not have any more.
            let mut replaced = hall.turned(&plant, for_a_day);
            let ca = another_ca();
            let made = &mut Arc::get_mut(&mut replaced.line).unwrap().products[0];
            let issuer = Issuer::parse(&ca.name, &ca.issuing.0).unwrap();
            made.signer.as_mut().unwrap().issuer = Arc::new(issuer);
            alter(made, |product| product.ca = Some(ca));
            let unit = hall.unit("a", spec("GW-A"), |device| device);
            let end = End {
                verdict: "errored",
                code: "ca_unfit",
                blame: Blame::Station,
                after: "read_back",
            };
            end.check(&stay(&replaced, &unit).await);

            let mut later = hall.turned(&plant, for_a_day);
            Arc::get_mut(&mut later.line).unwrap().clock = two_days_later;
            let unit = hall.unit("a", spec("GW-A"), |device| device);
            fails("path_invalid", "read_back").check(&stay(&later, &unit).await);
        },
    );
}

/// A CA of other keys than the plant's.
fn another_ca() -> SigningCa {
    let params = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params
    };
    let (root_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let root = params("another root");
    let issuing = params("another CA")
        .signed_by(&key, &rcgen::Issuer::from_params(&root, &root_key))
        .unwrap();
    SigningCa {
        name: "ca".to_owned(),
        issuing: Blob(issuing.der().to_vec()),
        root: Blob(root.self_signed(&root_key).unwrap().der().to_vec()),
    }
}

fn two_days_later() -> i64 {
    const TWO_DAYS_MS: i64 = 2 * 86_400_000;
    plant::clock() + TWO_DAYS_MS
}

#[test]
fn a_unit_with_the_key_of_another_fails_and_names_it() {
    in_a_process_with_an_hsm(
        "codes::several::a_unit_with_the_key_of_another_fails_and_names_it",
        |plant| async move {
            let hall = Hall::with(&plant, |_| ());
            passes(&hall, &hall.own("GW-A")).await;
            let before = signed(&plant);
            // The flash image of a finished unit, with what makes the unit another one.
            hall.copy_flash("GW-A", "GW-B", |flash| {
                flash["device_id"] = json!("GW-B");
                flash["uid"] = json!(uid("GW-B"));
                flash["sealed"] = json!(false);
            });
            let end = fails("duplicate_identity", "accepted");
            let events = stay(&hall, &hall.own("GW-B")).await;
            let first = DeviceId::parse("GW-A").unwrap();
            let named = Fault::DuplicateIdentity {
                device: DeviceId::parse("GW-B").unwrap(),
                same: Some((IdentityKind::PublicKey, first)),
            };
            assert_eq!(*end.check(&events), named);
            let books = Books {
                units: vec![Some(Verdict::Passed), Some(Verdict::Failed)],
                ..one_passed()
            };
            holds(&hall, books, &plant, before, 0).await;
        },
    );
}

#[test]
fn a_unit_that_is_in_another_bay_is_not_taken_twice() {
    in_a_process_with_an_hsm(
        "codes::several::a_unit_that_is_in_another_bay_is_not_taken_twice",
        |plant| async move {
            let hall = Hall::new(&plant, LABELLED);
            let before = signed(&plant);
            let (mut first, mut second) = (hall.open("1"), hall.open("2"));
            first.plug(&hall.unit("one", spec("GW-A"), |device| device));
            first.until_scan_is_wanted().await;
            second.plug(&hall.unit("two", spec("GW-A"), |device| device));
            let end = unnamed("in_two_bays", Blame::Device);
            let events = second.stay().await;
            let fault = end.check(&events);
            assert!(matches!(fault, Fault::InTwoBays { other, .. } if other == "1"));
            second.close().await;
            first.scans.put("GW-A");
            let events = first.stay().await;
            assert_eq!(events.last().unwrap().kind(), "passed", "{events:?}");
            first.close().await;
            holds(&hall, one_passed(), &plant, before, 1).await;
        },
    );
}

#[test]
fn a_unit_whose_name_cannot_be_kept_or_given_is_not_named() {
    in_a_process_with_an_hsm(
        "codes::several::a_unit_whose_name_cannot_be_kept_or_given_is_not_named",
        |plant| async move {
            // It passed under a name of its own, and the line has turned to numbers since.
            let hall = Hall::with(&plant, |_| ());
            let unit = hall.own("OLD-1");
            passes(&hall, &unit).await;
            let before = signed(&plant);
            let numbers = hall.turned(&plant, |product| {
                product.naming = toml::from_str(ALLOCATED).unwrap();
            });
            let end = unnamed("other_format", Blame::Device);
            let events = stay(&numbers, &unit).await;
            let fault = end.check(&events);
            assert!(matches!(fault, Fault::OtherFormat { known, .. } if known.as_str() == "OLD-1"));
            holds(&numbers, one_passed(), &plant, before, 0).await;

            let hall = Hall::new(&plant, ALLOCATED);
            for number in 1..=9 {
                give_out(&hall, number).await;
            }
            let end = unnamed("no_free_id", Blame::Station);
            end.check(&stay(&hall, &hall.blank("a", None)).await);
            let books = Books {
                numbers: vec![AllocationState::Out; 9],
                ..Books::default()
            };
            holds(&hall, books, &plant, before, 0).await;
        },
    );
}

/// A unit had this number given to it, and left.
async fn give_out(hall: &Hall, number: u8) {
    let attempt = Ulid::from_parts(number.into(), 1);
    let ledger = &hall.line.ledger;
    let arrived = Event::Arrived {
        bay: "2".to_owned(),
        port: "p".to_owned(),
    };
    ledger.arrive(attempt, &arrived).await.unwrap();
    let checked_out = Event::IdCheckedOut {
        device_id: DeviceId::parse(&format!("GW-{number}")).unwrap(),
        format: serde_json::from_str("\"GW-#\"").unwrap(),
        uid: uid(&number.to_string()),
    };
    ledger.check_out(attempt, &checked_out).await.unwrap();
    let fault = Fault::StationStopped {
        bay: "2".to_owned(),
    };
    let ended = Event::Interrupted { fault };
    ledger.end_attempt(attempt, &ended).await.unwrap();
}

/// This takes as long as the bay waits for a label: a minute, in which it does next to nothing.
#[test]
fn a_unit_whose_label_nobody_scans_is_not_named() {
    in_a_process_with_an_hsm(
        "codes::several::a_unit_whose_label_nobody_scans_is_not_named",
        |plant| async move {
            let hall = Hall::new(&plant, LABELLED);
            let before = signed(&plant);
            let unit = hall.own("GW-A");
            unnamed("not_scanned", Blame::Device).check(&stay(&hall, &unit).await);
            holds(&hall, Books::default(), &plant, before, 0).await;
        },
    );
}

/// Whether its port is there without it or not. This takes as long as a label waits for its unit, and a little more.
#[test]
fn a_label_whose_unit_is_dead_is_told_of() {
    in_a_process_with_an_hsm(
        "codes::several::a_label_whose_unit_is_dead_is_told_of",
        |plant| async move {
            let before = signed(&plant);
            let halls = [true, false].map(|hotplug| (hotplug, Hall::new(&plant, LABELLED)));
            let mut waiting = Vec::new();
            for (hotplug, hall) in &halls {
                let place = match hotplug {
                    true => hall.open("1"),
                    false => hall.open_fixed("1"),
                };
                place.scans.put("GW-A");
                let port = (!hotplug).then(|| Pty::open(&hall.port("1")).unwrap());
                waiting.push((hall, place, port));
            }
            for (hall, mut place, port) in waiting {
                let events = place.stay().await;
                let fault = unnamed("nothing_answers", Blame::Device)
                    .check(&events)
                    .clone();
                assert!(matches!(&fault, Fault::NothingAnswers { label, .. } if label == "GW-A"));
                // The next label is for the next unit.
                drop(port);
                place.pull().await;
                place.scans.put("GW-B");
                place.plug_firmly(&hall.own("GW-B"));
                let events = place.stay().await;
                assert_eq!(events.last().unwrap().kind(), "passed", "{events:?}");
                place.close().await;
            }
            for (_, hall) in &halls {
                assert_eq!(Books::of(&hall.line.ledger).await, one_passed());
                assert_eq!(verify(&hall.ledger()).unwrap().damages, []);
            }
            assert_eq!(signed(&plant) - before, 2);
        },
    );
}
