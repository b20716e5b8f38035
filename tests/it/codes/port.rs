//! Ports that cannot be opened, and ports that cannot be tested: what the bay says, that nothing is on record against
//! any unit, and that the next unit passes as soon as the port is right.

use super::books::{Books, End};
use crate::loopback::tested;
use crate::naming::place::{Hall, Place};
use crate::scenarios::line::{in_a_process_with_an_hsm, options};
use dps_station::fixtures::pty::Pty;
use dps_station::ledger::{OutboxState, ReservationState, verify};
use dps_station::link::port::Port;
use dps_station::provision::fault::{Blame, Fault, Gone};
use dps_station::provision::verdict::Verdict;
use std::os::unix::fs::symlink;

/// A file that nobody may open for writing, whatever rights a user has.
const DENIED: &str = "/proc/sys/kernel/ostype";

/// The bay is in service: a unit passes, and it is the only one on record.
async fn serves(hall: &Hall, mut place: Place) {
    place.plug(&hall.own("GW-A"));
    let events = place.stay().await;
    assert_eq!(events.last().unwrap().kind(), "passed", "{events:?}");
    place.close().await;
    let books = Books {
        units: vec![Some(Verdict::Passed)],
        reservations: vec![ReservationState::Signed],
        outbox: vec![OutboxState::Pending],
        ..Books::default()
    };
    assert_eq!(Books::of(&hall.line.ledger).await, books);
    assert_eq!(verify(&hall.ledger()).unwrap().damages, []);
}

/// Nothing is on record, of a unit or otherwise.
async fn nothing_on_record(hall: &Hall) {
    assert_eq!(hall.line.ledger.all_events(0, 10).await.unwrap(), []);
}

fn is(fault: &Fault, code: &str) {
    assert_eq!(
        (fault.code(), fault.blame()),
        (code, Blame::Station),
        "{fault:?}"
    );
}

#[test]
fn a_bay_whose_port_cannot_be_opened_is_out_until_it_can() {
    in_a_process_with_an_hsm(
        "codes::port::a_bay_whose_port_cannot_be_opened_is_out_until_it_can",
        |plant| async move {
            let hsm = &plant.signer.hsm;
            let before = hsm.meter().signatures;
            let hall = Hall::with(&plant, |_| ());
            let mut place = hall.open_fixed("1");
            is(&place.trouble().await, "port_missing");
            nothing_on_record(&hall).await;
            serves(&hall, place).await;

            let hall = Hall::with(&plant, |_| ());
            let pty = Pty::open(&hall.port("1")).unwrap();
            let held = Port::open(&hall.port("1"), &options()).unwrap();
            let mut place = hall.open_fixed("1");
            is(&place.trouble().await, "port_busy");
            nothing_on_record(&hall).await;
            drop((held, pty));
            serves(&hall, place).await;

            let hall = Hall::with(&plant, |_| ());
            symlink(DENIED, hall.port("1")).unwrap();
            let mut place = hall.open_fixed("1");
            is(&place.trouble().await, "port_denied");
            nothing_on_record(&hall).await;
            serves(&hall, place).await;

            let hall = Hall::with(&plant, |_| ());
            symlink("/dev/null", hall.port("1")).unwrap();
            let mut place = hall.open_fixed("1");
            is(&place.trouble().await, "not_a_port");
            nothing_on_record(&hall).await;
            serves(&hall, place).await;
            assert_eq!(hsm.meter().signatures - before, 4);
        },
    );
}

#[test]
fn a_unit_whose_port_never_comes_back_is_told_of_as_a_unit() {
    in_a_process_with_an_hsm(
        "codes::port::a_unit_whose_port_never_comes_back_is_told_of_as_a_unit",
        |plant| async move {
            let hall = Hall::with(&plant, |_| ());
            let mut place = hall.open("1");
            place.plug_for_the_last_time(&hall.own("GW-A"));
            let events = place.stay().await;
            let end = End {
                verdict: "failed",
                code: "device_gone",
                blame: Blame::Device,
                after: "written",
            };
            let fault = end.check(&events);
            assert!(
                matches!(
                    fault,
                    Fault::DeviceGone {
                        how: Gone::NoReturn(_),
                        ..
                    }
                ),
                "{fault:?}"
            );
            place.close().await;
            let books = Books {
                units: vec![Some(Verdict::Failed)],
                reservations: vec![ReservationState::Signed],
                outbox: vec![OutboxState::DisablePending],
                ..Books::default()
            };
            assert_eq!(Books::of(&hall.line.ledger).await, books);
        },
    );
}

#[test]
fn a_port_that_failed_or_could_not_be_tested_says_so() {
    in_a_process_with_an_hsm(
        "codes::port::a_port_that_failed_or_could_not_be_tested_says_so",
        |plant| async move {
            // Nothing comes back from the port.
            let hall = Hall::with(&plant, |_| ());
            let mut place = hall.open("1");
            place.test.notify_one();
            let silent = Pty::open(&hall.port("1")).unwrap();
            is(&place.trouble().await, "no_plug");
            nothing_on_record(&hall).await;
            assert!(!hall.line.ledger.out_of_service("1").await.unwrap());
            drop(silent);
            serves(&hall, place).await;

            // What comes was never sent.
            let hall = Hall::with(&plant, |_| ());
            let mut place = hall.open("1");
            place.test.notify_one();
            let mut pty = Pty::open(&hall.port("1")).unwrap();
            let talk = tokio::spawn(async move {
                loop {
                    pty.write_all(&[b'.'; 256]).await.unwrap();
                }
            });
            is(&place.trouble().await, "port_talks");
            nothing_on_record(&hall).await;
            assert!(!hall.line.ledger.out_of_service("1").await.unwrap());
            talk.abort();
            place.close().await;

            // It goes away before the plug was found.
            let hall = Hall::with(&plant, |_| ());
            let mut place = hall.open("1");
            place.test.notify_one();
            let mut pty = Pty::open(&hall.port("1")).unwrap();
            let unplug = tokio::spawn(async move {
                let mut heard = [0; 64];
                // What asks for the plug ends so.
                while !heard.contains(&0x15) {
                    pty.read(&mut heard).await.unwrap();
                }
            });
            is(&place.trouble().await, "adapter_failed");
            nothing_on_record(&hall).await;
            assert!(!hall.line.ledger.out_of_service("1").await.unwrap());
            unplug.await.unwrap();
            place.close().await;

            // It failed, which keeps the bay out, until it passes.
            let hall = Hall::with(&plant, |_| ());
            let ledger = &hall.line.ledger;
            ledger.record(&tested(false)).await.unwrap();
            let mut place = hall.open("1");
            is(&place.trouble().await, "loopback_failed");
            assert_eq!(Books::of(ledger).await, Books::default());
            ledger.record(&tested(true)).await.unwrap();
            serves(&hall, place).await;
        },
    );
}
