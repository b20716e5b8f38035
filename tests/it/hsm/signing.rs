//! What the station has signed for itself: on record before, checked after, and given up where that fails.

use super::{PIN, alone, make_pair, options, own_session, signatures};
use crate::plant;
use crate::support::spy;
use dps_station::hsm::{Hsm, HsmError};
use dps_station::ledger::{Ledger, OutboxFilter, ReservationRow, ReservationState, verify};
use dps_station::provision::certificate::{CaProfile, Issuer, draft_root, draft_self_test};
use dps_station::provision::device::SerialNumber;
use dps_station::provision::event::{Event, Purpose, Reservation};
use dps_station::provision::fault::{Blame, Fault, Flaw, Unsigned};
use dps_station::signing::{SigningKey, abandon_open};
use pkcs11::context::Pkcs11;
use std::path::Path;

fn ledger(directory: &Path) -> Ledger {
    plant::ledger(&directory.join("ledger.sqlite"))
}

fn serial(number: u8) -> SerialNumber {
    SerialNumber::from_random([number; SerialNumber::OCTETS])
}

fn root(number: u8, key: &[u8]) -> Reservation {
    let profile = CaProfile {
        common_name: "SIMULATED Root".to_owned(),
        organization: None,
        validity_days: 30,
    };
    draft_root("ca", key, &profile, serial(number), 1_800_000_000_000).unwrap()
}

/// What became of each reservation, in the order of the record.
async fn outcomes(ledger: &Ledger) -> Vec<Event> {
    let events = ledger.all_events(1, 100).await.unwrap();
    let events = events.into_iter().map(|recorded| recorded.event);
    events
        .filter(|event| !matches!(event, Event::SerialReserved { .. }))
        .collect()
}

#[test]
fn what_is_signed_is_on_record_with_its_result() {
    let name = "signing::what_is_signed_is_on_record_with_its_result";
    alone(name, &["line"], async |directory| {
        let ledger = ledger(&directory);
        let hsm = Hsm::open(options(spy(), "line", PIN)).await.unwrap();
        let public_key = hsm.find_or_make_key("root").await.unwrap();
        let key = SigningKey {
            hsm: &hsm,
            label: "root",
            public_key: &public_key,
        };
        let der = key
            .certificate(root(1, &public_key), &ledger)
            .await
            .unwrap();
        assert_eq!(Issuer::parse("ca", &der).unwrap().spki(), public_key);
        key.self_test("ca", &ledger).await.unwrap();

        let outcomes = outcomes(&ledger).await;
        let [
            Event::Signed {
                serial: first,
                result,
            },
            Event::Signed { .. },
        ] = &outcomes[..]
        else {
            panic!("{outcomes:?}");
        };
        assert_eq!((first, &result.0), (&serial(1), &der));
        let rows = ledger.reservations().await.unwrap();
        let mut purposes: Vec<_> = rows.iter().map(|row| row.purpose).collect();
        purposes.sort_by_key(|purpose| format!("{purpose:?}"));
        assert_eq!(purposes, [Purpose::Root, Purpose::SelfTest]);

        // The serial number is spent: nothing is signed with it again.
        let again = key.certificate(root(1, &public_key), &ledger).await;
        assert!(matches!(again, Err(Fault::Ledger { .. })), "{again:?}");
        assert_eq!(signatures(&directory), 2);
    });
}

#[test]
fn what_fails_its_check_is_given_up_and_not_handed_out() {
    let name = "signing::what_fails_its_check_is_given_up_and_not_handed_out";
    alone(name, &["line"], async |directory| {
        let ledger = ledger(&directory);
        let hsm = Hsm::open(options(spy(), "line", PIN)).await.unwrap();
        let expected = hsm.find_or_make_key("root").await.unwrap();
        hsm.find_or_make_key("other").await.unwrap();
        let library = Pkcs11::new(spy()).unwrap();
        make_pair(&own_session(&library, "line"), "mute", false, false);
        let key = |label| SigningKey {
            hsm: &hsm,
            label,
            public_key: &expected,
        };
        let other = key("other").certificate(root(1, &expected), &ledger).await;
        let flaw = Flaw::BadSignature;
        let unsound = Fault::SignedWrongly { flaw };
        assert_eq!(other, Err(unsound.clone()));
        let other = key("other").self_test("ca", &ledger).await;
        let other_key = Fault::Hsm(HsmError::AnotherKey {
            label: "other".to_owned(),
            ca: "ca".to_owned(),
        });
        assert_eq!(other, Err(other_key.clone()));
        let mute = key("mute").certificate(root(2, &expected), &ledger).await;
        let Err(mute @ Fault::Hsm(HsmError::Sign { .. })) = mute else {
            panic!("{mute:?}");
        };

        let reasons: Vec<_> = outcomes(&ledger)
            .await
            .into_iter()
            .map(|event| match event {
                Event::SerialAbandoned { reason, .. } => reason,
                event => panic!("{event:?}"),
            })
            .collect();
        let faults = [unsound, other_key, mute];
        let codes = faults.each_ref().map(|fault| (fault.code(), fault.blame()));
        let expected = ["signed_wrongly", "hsm", "hsm"].map(|code| (code, Blame::Station));
        assert_eq!(codes, expected);
        assert_eq!(
            reasons,
            faults.map(|fault| Unsigned::Fault(Box::new(fault)))
        );
        // Two signatures came, and no reservation was used twice or is still open.
        assert_eq!(signatures(&directory), 2);
        let rows = ledger.reservations().await.unwrap();
        assert_eq!(rows.len(), 3);
        let given_up = |row: &ReservationRow| row.state == ReservationState::Abandoned;
        assert!(rows.iter().all(given_up), "{rows:?}");
        assert_eq!(ledger.units().await.unwrap(), []);
        let outbox = ledger.outbox(OutboxFilter::default()).await.unwrap();
        assert_eq!(outbox, []);
        let file = directory.join("ledger.sqlite");
        assert_eq!(verify(&file).unwrap().damages, []);
    });
}

#[tokio::test]
async fn what_an_earlier_process_left_open_is_given_up_for_this_ca_only() {
    let directory = tempfile::TempDir::new().unwrap();
    let ledger = ledger(directory.path());
    for (number, ca) in [(1, "ca"), (2, "other")] {
        let left = draft_self_test(ca, serial(number));
        ledger.reserve(left).await.unwrap();
    }
    for _ in 0..2 {
        abandon_open(&ledger, "ca").await.unwrap();
        let rows = ledger.reservations().await.unwrap();
        let states: Vec<_> = rows
            .iter()
            .map(|row| (row.ca.as_str(), row.state))
            .collect();
        let expected = [
            ("ca", ReservationState::Abandoned),
            ("other", ReservationState::Reserved),
        ];
        assert_eq!(states, expected);
    }
}
