//! Signing for anyone but a leaf: reserved, asked for once, checked, and the outcome recorded whatever it is.
//!
//! A leaf is signed by a bay, as its job says. All that the station signs for itself goes through here, so that each
//! signature has its reservation on record before the HSM is asked, and none is believed unchecked.

use crate::hsm::{Hsm, HsmError};
use crate::ledger::{Ledger, ReservationState};
use crate::provision::bytes::Blob;
use crate::provision::certificate::{assemble, check_signature, draft_self_test, verify_proof};
use crate::provision::device::SerialNumber;
use crate::provision::event::{Event, Purpose, Reservation};
use crate::provision::fault::{Fault, Unsigned};

/// A key in the HSM, and the public key that it is taken for.
#[derive(Clone, Copy, Debug)]
pub struct SigningKey<'a> {
    /// The token that it is in.
    pub hsm: &'a Hsm,
    /// Its label there.
    pub label: &'a str,
    /// What its signatures must verify under: DER SubjectPublicKeyInfo.
    pub public_key: &'a [u8],
}

impl SigningKey<'_> {
    /// Has a certificate signed, and checks it; gives its DER. For a CA's certificate, follow with
    /// [`crate::provision::certificate::Issuer::parse`].
    pub async fn certificate(&self, draft: Reservation, ledger: &Ledger) -> Result<Vec<u8>, Fault> {
        self.sign(draft, ledger, |draft, signature| {
            let der = assemble(&draft.tbs.0, &signature);
            check_signature(&der, draft, self.public_key)?;
            Ok(der)
        })
        .await
    }

    /// Has a self-test of CA `ca` signed, and finds out whether the key is the one in its certificate. First gives up
    /// what is open of this CA, as [`abandon_open`] does.
    pub async fn self_test(&self, ca: &str, ledger: &Ledger) -> Result<(), Fault> {
        abandon_open(ledger, ca).await?;
        let draft = draft_self_test(ca, random_serial());
        self.sign(draft, ledger, |draft, signature| {
            let verified = verify_proof(self.public_key, &draft.tbs.0, &signature);
            verified.map_err(|_| {
                Fault::Hsm(HsmError::AnotherKey {
                    label: self.label.to_owned(),
                    ca: ca.to_owned(),
                })
            })?;
            Ok(signature)
        })
        .await?;
        Ok(())
    }

    /// Reserves, has it signed once, lets `check` make the result of the signature, and records the outcome.
    async fn sign(
        &self,
        draft: Reservation,
        ledger: &Ledger,
        check: impl FnOnce(&Reservation, Vec<u8>) -> Result<Vec<u8>, Fault>,
    ) -> Result<Vec<u8>, Fault> {
        let reserved = ledger.reserve(draft.clone()).await?;
        let signed = self.hsm.sign(self.label, reserved).await;
        let outcome = signed
            .map_err(Fault::Hsm)
            .and_then(|signature| check(&draft, signature));
        let serial = draft.serial;
        let event = match &outcome {
            Ok(result) => Event::Signed {
                serial,
                result: Blob(result.clone()),
            },
            Err(fault) => Event::SerialAbandoned {
                serial,
                reason: Unsigned::Fault(Box::new(fault.clone())),
            },
        };
        ledger.record(&event).await?;
        outcome
    }
}

/// Gives up what an earlier process reserved for this CA itself and did not finish.
pub async fn abandon_open(ledger: &Ledger, ca: &str) -> Result<(), Fault> {
    for row in ledger.reservations().await? {
        let own = row.ca == ca && row.purpose != Purpose::Leaf;
        if own && row.state == ReservationState::Reserved {
            let given_up = Event::SerialAbandoned {
                serial: row.serial,
                reason: Unsigned::StationStopped,
            };
            ledger.record(&given_up).await?;
        }
    }
    Ok(())
}

/// A serial number that nobody can foresee.
pub fn random_serial() -> SerialNumber {
    let mut random = [0; SerialNumber::OCTETS];
    aws_lc_rs::rand::fill(&mut random).expect("the system's random numbers do not run out");
    SerialNumber::from_random(random)
}
