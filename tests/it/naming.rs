//! Where a device's ID comes from: itself, its label or the station; and what is known of the port that it is behind.

#![allow(clippy::unwrap_used)]

pub mod place;

use crate::scenarios::line::in_a_process_with_an_hsm;
use dps_station::fixtures::scenario::Flaw;
use dps_station::ledger::{AllocationState, verify};
use dps_station::provision::device::{DeviceId, Identification};
use dps_station::provision::event::Event;
use dps_station::provision::product::UsbId;
use dps_station::station::close_open_attempts;
use dps_station::words;
use place::{Hall, fault};
use ulid::Ulid;

const SCANNED: &str = "source = \"scanned\"\nformat = \"GW-####\"";
const ALLOCATED: &str = "source = \"allocated\"\nformat = \"GW-####\"";

#[test]
fn a_scanned_label_becomes_the_id_of_a_unit_that_has_none() {
    in_a_process_with_an_hsm(
        "naming::a_scanned_label_becomes_the_id_of_a_unit_that_has_none",
        |plant| async move {
            let hall = Hall::new(&plant, SCANNED);
            let mut place = hall.open("1");
            let first = hall.blank("a", None);

            place.plug(&first);
            place.until_scan_is_wanted().await;
            place.scans.put("GW-7");
            let refused = place.stay().await;
            assert_eq!(fault(&refused).code(), "wrong_label");
            assert!(words::of(fault(&refused)).what.contains("GW-####"));

            place.pull().await;
            place.plug(&first);
            place.until_scan_is_wanted().await;
            place.scans.put(" GW-0007 ");
            let passed = place.stay().await;
            assert_eq!(enrolled(&passed), "GW-0007");
            assert_eq!(first.lock().unwrap().own_id(), "GW-0007");
            let names = passed.iter().find_map(|event| match event {
                Event::Identified {
                    identification,
                    assigned,
                    scanned,
                } => Some((identification.clone(), assigned.clone(), scanned.clone())),
                _ => None,
            });
            let (said, assigned, scanned) = names.unwrap();
            assert!(said.blank && said.device_id.as_str().starts_with("uid-"));
            assert_eq!(assigned.unwrap().as_str(), "GW-0007");
            assert_eq!(scanned.unwrap(), "GW-0007");

            // Scanned while the first unit is still there: for nobody, once that has left.
            place.scans.put("GW-0099");
            place.pull().await;
            let second = hall.blank("b", None);
            place.plug(&second);
            place.until_scan_is_wanted().await;
            place.scans.put("GW-0007");
            let duplicate = place.stay().await;
            assert_eq!(fault(&duplicate).code(), "duplicate_identity");
            assert!(words::of(fault(&duplicate)).what.contains("GW-0007"));

            // Scanned before the unit comes: it is taken, once.
            place.pull().await;
            place.scans.put("GW-0008");
            place.plug(&second);
            assert_eq!(enrolled(&place.stay().await), "GW-0008");

            // The name is tied to the microcontroller.
            place.pull().await;
            place.scans.put("GW-0009");
            place.plug(&first);
            let wrong = place.stay().await;
            assert_eq!(fault(&wrong).code(), "wrong_label");
            assert!(
                words::of(fault(&wrong))
                    .what
                    .contains("on record as GW-0007")
            );
            place.pull().await;
            place.scans.put("GW-0007");
            place.plug(&first);
            let again = place.stay().await;
            assert_eq!(again.last().unwrap().kind(), "recognised");

            place.close().await;
            assert_eq!(hall.line.ledger.units().await.unwrap().len(), 2);
            assert_eq!(verify(&hall.ledger()).unwrap().damages, []);
        },
    );
}

#[test]
fn the_label_of_a_unit_with_an_id_must_say_that_id_and_a_unit_must_keep_what_it_was_given() {
    in_a_process_with_an_hsm(
        "naming::the_label_of_a_unit_with_an_id_must_say_that_id_and_a_unit_must_keep_what_it_was_given",
        |plant| async move {
            let hall = Hall::new(&plant, "scan = \"required\"");
            let mut place = hall.open("1");
            let unit = hall.own("GW-A");
            place.scans.put("GW-B");
            place.plug(&unit);
            let failed = place.stay().await;
            assert_eq!(failed.last().unwrap().kind(), "failed");
            assert_eq!(fault(&failed).code(), "wrong_label");
            place.pull().await;
            place.scans.put("GW-A");
            place.plug(&unit);
            assert_eq!(enrolled(&place.stay().await), "GW-A");
            place.pull().await;

            // A wrong label on a unit that passed is no verdict on the unit.
            place.scans.put("GW-B");
            place.plug(&unit);
            let again = place.stay().await;
            assert_eq!(again.last().unwrap().kind(), "interrupted");
            place.pull().await;
            place.scans.put("uid");
            place.plug(&hall.blank("c", None));
            assert_eq!(place.stay().await.last().unwrap().kind(), "failed");
            place.close().await;

            let hall = Hall::new(&plant, SCANNED);
            let mut place = hall.open("1");
            let forgets = Flaw::SettingChangedAtReset("dps/device_id".to_owned());
            place.scans.put("GW-0001");
            place.plug(&hall.blank("d", Some(forgets)));
            let failed = place.stay().await;
            assert_eq!(fault(&failed).code(), "does_not_hold");
            assert!(
                words::of(fault(&failed))
                    .what
                    .contains("calls itself FW-0001")
            );
            assert!(matches!(
                failed.last(),
                Some(Event::Failed {
                    disable: Some(_),
                    ..
                })
            ));
            place.close().await;
        },
    );
}

#[test]
fn numbers_are_checked_out_confirmed_or_returned() {
    in_a_process_with_an_hsm(
        "naming::numbers_are_checked_out_confirmed_or_returned",
        |plant| async move {
            let hall = Hall::new(&plant, ALLOCATED);
            let mut place = hall.open("1");
            place.plug(&hall.blank("a", None));
            assert_eq!(enrolled(&place.stay().await), "GW-0001");
            place.pull().await;

            // A unit that fails before its number meant anything gives it back, and is counted as itself.
            let bad = hall.misnaming("b");
            place.plug(&bad);
            let failed = place.stay().await;
            assert_eq!(failed.last().unwrap().kind(), "failed");
            place.pull().await;
            assert_eq!(
                hall.numbers().await,
                ["GW-0001 Confirmed", "GW-0002 Returned"]
            );
            place.plug(&hall.blank("c", None));
            assert_eq!(enrolled(&place.stay().await), "GW-0002");
            place.pull().await;
            let units = hall.line.ledger.units().await.unwrap();
            let verdicts: Vec<_> = units.iter().map(|unit| unit.verdict.is_some()).collect();
            assert_eq!(verdicts, [true, true, true]);
            place.plug(&bad);
            let failed = place.stay().await;
            assert_eq!(failed.last().unwrap().kind(), "failed", "{failed:?}");
            place.pull().await;
            assert_eq!(hall.line.ledger.units().await.unwrap().len(), 3);

            // A number that was used stays with its unit, though that failed.
            let forgets = Flaw::SettingChangedAtReset("dps/id_scope".to_owned());
            let used = hall.blank("d", Some(forgets));
            place.plug(&used);
            assert_eq!(fault(&place.stay().await).code(), "does_not_hold");
            place.pull().await;
            place.close().await;
            let given = ["GW-0001 Confirmed", "GW-0002 Confirmed", "GW-0003 Out"];
            assert_eq!(hall.numbers().await, given);
            assert_eq!(verify(&hall.ledger()).unwrap().damages, []);
        },
    );
}

#[test]
fn a_number_outlives_the_station_that_checked_it_out() {
    in_a_process_with_an_hsm(
        "naming::a_number_outlives_the_station_that_checked_it_out",
        |plant| async move {
            let hall = Hall::new(&plant, ALLOCATED);
            let unit = hall.blank("a", None);

            // Dead after the check-out and before the unit is identified by it.
            let ledger = &hall.line.ledger;
            let attempt = Ulid::from_parts(1, 1);
            let arrived = Event::Arrived {
                bay: "1".to_owned(),
                port: "p".to_owned(),
            };
            ledger.arrive(attempt, &arrived).await.unwrap();
            let number = DeviceId::parse("GW-0001").unwrap();
            let event = Event::IdCheckedOut {
                device_id: number.clone(),
                format: serde_json::from_str("\"GW-####\"").unwrap(),
                uid: place::uid("a"),
            };
            ledger.check_out(attempt, &event).await.unwrap();
            assert_eq!(close_open_attempts(&hall.line).await.unwrap(), 1);

            // Dead at any event before the number is written.
            for seen in ["identified", "accepted", "key_read", "serial_reserved"] {
                let mut place = hall.open("1");
                place.plug(&unit);
                place.until_event(seen).await;
                place.kill().await;
                close_open_attempts(&hall.line).await.unwrap();
                assert_eq!(hall.numbers().await, ["GW-0001 Out"], "{seen}");
            }
            let mut place = hall.open("1");
            place.plug(&unit);
            assert_eq!(enrolled(&place.stay().await), "GW-0001");
            place.close().await;
            let rows = ledger.allocations().await.unwrap();
            assert_eq!(rows[0].state, AllocationState::Confirmed);
        },
    );
}

#[test]
fn bays_that_want_a_number_at_once_get_different_ones() {
    in_a_process_with_an_hsm(
        "naming::bays_that_want_a_number_at_once_get_different_ones",
        |plant| async move {
            let hall = Hall::new(&plant, ALLOCATED);
            let mut places: Vec<_> = ["1", "2", "3", "4"].map(|name| hall.open(name)).into();
            for (place, unit) in places.iter_mut().zip(["a", "b", "c", "d"]) {
                place.plug(&hall.blank(unit, None));
            }
            let mut given = Vec::new();
            for place in &mut places {
                given.push(enrolled(&place.stay().await));
            }
            given.sort();
            assert_eq!(given, ["GW-0001", "GW-0002", "GW-0003", "GW-0004"]);
        },
    );
}

#[test]
fn a_unit_under_a_new_number_in_mid_job_is_the_same_job() {
    in_a_process_with_an_hsm(
        "naming::a_unit_under_a_new_number_in_mid_job_is_the_same_job",
        |plant| async move {
            let hall = Hall::new(&plant, "");
            let mut place = hall.open("1");
            place.plug_renumbered(&hall.own("GW-A"));
            let events = place.stay().await;
            let numbers = place.numbers();
            assert!(
                numbers.len() == 2 && numbers[0] != numbers[1],
                "{numbers:?}"
            );
            let count = |kind| events.iter().filter(|event| event.kind() == kind).count();
            assert_eq!((count("arrived"), count("identified")), (1, 1));
            assert_eq!((count("restarted"), count("passed")), (1, 1));
            place.close().await;
        },
    );
}

#[test]
fn a_product_may_demand_its_usb_device() {
    in_a_process_with_an_hsm(
        "naming::a_product_may_demand_its_usb_device",
        |plant| async move {
            let usb = UsbId {
                vendor: 0x2fe3,
                product: 4,
            };
            let hall = Hall::with(&plant, |product| product.usb = vec![usb]);
            let mut place = hall.open("1");
            place.plug(&hall.own("GW-A"));
            let failed = place.stay().await;
            assert_eq!(failed.last().unwrap().kind(), "failed");
            assert_eq!(fault(&failed).code(), "not_a_device_we_know");
            place.close().await;

            let product = &hall.line.products[0].product;
            let says = |model: &str| Identification {
                stock: false,
                ..Identification::of_stock(DeviceId::parse("GW-A").unwrap(), model)
            };
            assert!(product.fits(&says("SIM-X509"), Some(usb)));
            assert!(!product.fits(&says("SIM-X509"), Some(UsbId { product: 5, ..usb })));
            assert!(!product.fits(&says("OTHER"), Some(usb)));
            assert!(plant.product.fits(&says("SIM-X509"), None));
        },
    );
}

/// The device ID that a unit passed with.
fn enrolled(events: &[Event]) -> String {
    match events.last() {
        Some(Event::Passed { enrollment }) => enrollment.device_id.to_string(),
        other => panic!("no PASS: {other:?}"),
    }
}
