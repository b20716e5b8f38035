//! The right to one signature: what the ledger answers when a reservation is on record, and nobody else can make.

use super::writer::Subject;
use super::{Claim, Ledger, LedgerError, Written, only};
use crate::provision::bytes::Digest;
use crate::provision::event::{Event, Recorded, Reservation};

/// A reservation that is on record, as the right to have it signed once: the only thing that [`crate::hsm::Hsm::sign`]
/// takes.
///
/// It comes from [`Ledger::reserve`] or [`Ledger::reserve_for`], which give it after the commit, to the process that
/// recorded the reservation and to no other. A reservation that is read from the ledger gives no such right: whoever
/// recorded it may have had it signed, so it can only be given up.
///
/// ```
/// use dps_station::hsm::Hsm;
/// use dps_station::ledger::{Ledger, Reserved};
/// use dps_station::provision::event::Reservation;
///
/// async fn once(ledger: &Ledger, hsm: &Hsm, reservation: Reservation) {
///     let reserved: Reserved = ledger.reserve(reservation).await.expect("on record");
///     let _ = hsm.sign("issuing", reserved).await;
/// }
/// ```
///
/// It cannot be made from a reservation:
///
/// ```compile_fail,E0423
/// use dps_station::ledger::Reserved;
/// use dps_station::provision::event::Reservation;
///
/// fn forge(reservation: Reservation) -> Reserved {
///     Reserved(reservation)
/// }
/// ```
///
/// Nor from a record that was read:
///
/// ```compile_fail,E0624
/// use dps_station::ledger::Reserved;
/// use dps_station::provision::event::Recorded;
///
/// fn forge(recorded: &Recorded) -> Option<Reserved> {
///     Reserved::committed(recorded)
/// }
/// ```
///
/// It cannot be copied:
///
/// ```compile_fail,E0599
/// use dps_station::ledger::Reserved;
///
/// fn copy(reserved: Reserved) -> [Reserved; 2] {
///     [reserved.clone(), reserved]
/// }
/// ```
///
/// And it is spent when it is used, whatever comes of it:
///
/// ```compile_fail,E0382
/// use dps_station::hsm::Hsm;
/// use dps_station::ledger::Reserved;
///
/// async fn twice(hsm: &Hsm, reserved: Reserved) {
///     let _ = hsm.sign("issuing", reserved).await;
///     let _ = hsm.sign("issuing", reserved).await;
/// }
/// ```
#[derive(Debug)]
pub struct Reserved(Reservation);

impl Reserved {
    /// Takes the reservation out of what was just committed; none if that is something else. For the writer only, and
    /// once for each commit.
    pub(super) fn committed(recorded: &Recorded) -> Option<Self> {
        match &recorded.event {
            Event::SerialReserved { reservation } => Some(Self(reservation.clone())),
            _ => None,
        }
    }

    /// What was reserved.
    pub fn reservation(&self) -> &Reservation {
        &self.0
    }
}

impl Ledger {
    /// Records a reservation that is for no device, and gives the right to have it signed.
    ///
    /// [`LedgerError::Illegal`]: it is a leaf's, or its serial number was reserved before.
    pub async fn reserve(&self, reservation: Reservation) -> Result<Reserved, LedgerError> {
        let (_, reserved) = self
            .record_reservation(Subject::Station, None, reservation)
            .await?;
        Ok(reserved)
    }

    /// Records the reservation of a leaf for the device of `claim`, and gives the right to have it signed.
    ///
    /// Refused as by [`Ledger::append`]; [`LedgerError::Illegal`] also where it is no leaf's, or its serial number was
    /// reserved before.
    pub async fn reserve_for(
        &self,
        claim: &Claim,
        product_digest: Option<Digest>,
        reservation: Reservation,
    ) -> Result<(Recorded, Reserved), LedgerError> {
        let subject = Subject::Claim(claim.clone());
        self.record_reservation(subject, product_digest, reservation)
            .await
    }

    async fn record_reservation(
        &self,
        subject: Subject,
        product_digest: Option<Digest>,
        reservation: Reservation,
    ) -> Result<(Recorded, Reserved), LedgerError> {
        let event = Event::SerialReserved { reservation };
        let Written {
            recorded, reserved, ..
        } = self.write(subject, product_digest, &event).await?;
        let reserved = reserved.expect("the writer answers a reservation with the right to it");
        Ok((only(recorded), reserved))
    }
}
