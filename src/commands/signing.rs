//! Signatures of the CA for itself: reserved, asked for once, checked, and their outcome recorded whatever it is.

use super::Failure;
use crate::hsm::Hsm;
use crate::ledger::{Ledger, ReservationState};
use crate::provision::bytes::Blob;
use crate::provision::certificate::{self, Issuer, assemble, draft_self_test};
use crate::provision::device::SerialNumber;
use crate::provision::event::{Event, Purpose, Reservation};

/// Has the HSM sign a self-test, and verifies it with the key in the CA's certificate.
pub(super) async fn self_test(
    hsm: &Hsm,
    label: &str,
    issuer: &Issuer,
    ledger: &Ledger,
) -> Result<(), Failure> {
    abandon_open(ledger, issuer.name()).await?;
    let reservation = draft_self_test(issuer.name(), random_serial());
    let serial = reservation.serial.clone();
    let reserved = ledger.reserve(reservation.clone()).await?;
    let checked = match hsm.sign(label, reserved).await {
        Ok(signature) => {
            certificate::verify_proof(issuer.spki(), &reservation.tbs.0, &signature)
                .map(|()| signature)
                .map_err(|_| {
                    Failure::station(format!(
                        "the key {label} in the HSM is not the one in the certificate of CA {}: correct label, token or issuing in station.toml",
                        issuer.name()
                    ))
                })
        }
        Err(error) => Err(Failure::from(error)),
    };
    settle(ledger, serial, checked).await.map(|_| ())
}

/// Reserves, signs once, checks, and records the outcome whatever it is.
pub(super) async fn sign(
    hsm: &Hsm,
    label: &str,
    signer: &[u8],
    reservation: Reservation,
    ledger: &Ledger,
) -> Result<Vec<u8>, Failure> {
    let reserved = ledger.reserve(reservation.clone()).await?;
    let signed = match hsm.sign(label, reserved).await {
        Ok(signature) => {
            let der = assemble(&reservation.tbs.0, &signature);
            certificate::check_signature(&der, &reservation, signer)
                .map(|()| der)
                .map_err(Failure::from)
        }
        Err(error) => Err(Failure::from(error)),
    };
    settle(ledger, reservation.serial, signed).await
}

/// Gives up what an earlier process reserved for this CA itself and did not finish.
pub(super) async fn abandon_open(ledger: &Ledger, ca: &str) -> Result<(), Failure> {
    for row in ledger.reservations().await? {
        let own = row.ca == ca && row.purpose != Purpose::Leaf;
        if own && row.state == ReservationState::Reserved {
            let reason = "an earlier process stopped before the outcome was on record".to_owned();
            ledger
                .record(&Event::SerialAbandoned {
                    serial: row.serial,
                    reason,
                })
                .await?;
        }
    }
    Ok(())
}

/// A serial number that nobody can foresee.
pub(super) fn random_serial() -> SerialNumber {
    let mut random = [0; SerialNumber::OCTETS];
    aws_lc_rs::rand::fill(&mut random).expect("the system's random numbers do not run out");
    SerialNumber::from_random(random)
}

async fn settle(
    ledger: &Ledger,
    serial: SerialNumber,
    outcome: Result<Vec<u8>, Failure>,
) -> Result<Vec<u8>, Failure> {
    let event = match &outcome {
        Ok(result) => Event::Signed {
            serial,
            result: Blob(result.clone()),
        },
        Err(failure) => Event::SerialAbandoned {
            serial,
            reason: failure.sentence.clone(),
        },
    };
    ledger.record(&event).await?;
    outcome
}
