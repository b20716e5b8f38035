//! What the unit in the bay is to be called: by itself, by its label, or by the next number.

use super::attempt::Attempt;
use super::faults::{in_two_bays, no_port_list, no_product, wrong_label};
use super::memory::Memory;
use super::presence::PRESENCE_TIMEOUT;
use super::{Bay, LineProduct, StationFault, refusal};
use crate::ledger::LedgerError;
use crate::link::{DeviceLink, Found, port};
use crate::provision::bytes::Blob;
use crate::provision::device::{DeviceId, Identification};
use crate::provision::event::Event;
use crate::provision::fault::{Fault, Gone, LabelTrouble};
use crate::provision::floor::Report;
use crate::provision::naming::{IdFormat, IdSource, Naming};
use crate::provision::product::UsbId;
use std::time::Duration;
use tokio::time::sleep;
use ulid::Ulid;

/// How long a unit waits for its label to be scanned.
const SCAN_LIMIT: Duration = Duration::from_secs(60);
/// How long a label that was scanned waits for its unit to answer.
const LABEL_LIMIT: Duration = Duration::from_secs(30);
/// How many numbers are tried that turn out to be taken: as many bays may want one at once, and more.
const CHECK_OUT_TRIES: u32 = 1_000;

/// What a unit is to be called.
#[derive(Default)]
pub(super) struct Names {
    /// The ID that it is to bear, where that does not come from itself.
    pub assigned: Option<DeviceId>,
    /// The label that was scanned for it.
    pub scanned: Option<String>,
}

/// No name, and the unit is to blame, or the operator; or the station itself failed.
type Tried<T> = Result<Result<T, Fault>, StationFault>;

impl Bay {
    /// The first product that what was found in this bay may become: one whose driver is for such devices.
    pub(super) async fn product_for(&self, found: &Found) -> Result<&LineProduct, Fault> {
        let products = &self.line.products;
        let usb = match products.iter().any(|made| !made.product.usb.is_empty()) {
            true => self.usb().await?,
            false => None,
        };
        let Found {
            kind,
            identification,
        } = found;
        let fits = products
            .iter()
            .find(|made| made.driver.kind() == *kind && made.product.fits(identification, usb));
        fits.ok_or_else(|| no_product(&self.name, identification, usb))
    }

    /// The USB device behind the bay's port.
    async fn usb(&self) -> Result<Option<UsbId>, Fault> {
        let path = self.port.clone();
        let looked = tokio::task::spawn_blocking(move || port::usb_behind(&path)).await;
        let found = looked.map_err(std::io::Error::other).and_then(|usb| usb);
        found.map_err(|error| no_port_list(&error))
    }

    /// Finds out what the unit is to be called; a number is checked out on record before anything else is done.
    ///
    /// A microcontroller that is on record keeps the name that it has there.
    pub(super) async fn name(
        &self,
        attempt: &mut Attempt,
        link: &mut DeviceLink,
        found: &Identification,
        naming: &Naming,
        memory: &mut Memory,
    ) -> Tried<Names> {
        if memory.returns.is_often() {
            return self.known_name(found, naming, memory).await;
        }
        let mut names = Names::default();
        if naming.is_the_devices() {
            return Ok(Ok(names));
        }
        self.begin(attempt).await?;
        if naming.wants_scan() {
            match self.label(link, found, memory).await {
                Ok(label) => names.scanned = Some(label),
                Err(fault) => return Ok(Err(fault)),
            }
        }
        let Some(format) = naming.format.as_ref().filter(|_| naming.injects()) else {
            return Ok(Ok(names));
        };
        if found.uid.0.is_empty() {
            let device = found.device_id.clone();
            return Ok(Err(Fault::NoUid { device }));
        }
        let known = self.line.ledger.device_of_uid(&found.uid).await;
        let known = known.map_err(StationFault::ledger)?;
        let on_label = names.scanned.as_deref();
        let on_label = match naming.source {
            IdSource::Scanned => on_label,
            IdSource::Device | IdSource::Allocated => None,
        };
        let name = match (known, on_label) {
            (Some(known), label) => keep(known, label, format),
            (None, Some(label)) => format.device_id(label).ok_or_else(|| {
                Fault::WrongLabel(LabelTrouble::Form {
                    label: label.to_owned(),
                    format: format.clone(),
                })
            }),
            (None, None) => self.check_out(attempt.id, format, &found.uid).await?,
        };
        Ok(name.and_then(|name| {
            names.assigned = Some(self.enter_as(found, name)?);
            Ok(names)
        }))
    }

    /// Notes that the unit is in this bay by the name that it is to bear, which no other bay may have.
    fn enter_as(&self, found: &Identification, name: DeviceId) -> Result<DeviceId, Fault> {
        if name != found.device_id
            && let Some(other) = self.enter(&name)
        {
            return Err(in_two_bays(&name, &other));
        }
        Ok(name)
    }

    /// What a unit is called that is only to get its verdict, as far as that is known: no label is waited for, and no
    /// number given out.
    async fn known_name(
        &self,
        found: &Identification,
        naming: &Naming,
        memory: &mut Memory,
    ) -> Tried<Names> {
        if !naming.injects() {
            return Ok(Ok(Names::default()));
        }
        let known = self.line.ledger.device_of_uid(&found.uid).await;
        let assigned = known.map_err(StationFault::ledger)?;
        Ok(match assigned {
            Some(name) => self.enter_as(found, name).map(|name| Names {
                assigned: Some(name),
                scanned: None,
            }),
            None => Err(memory.returns.verdict(&self.name, &found.device_id)),
        })
    }

    /// Gives out the next number. Another bay or process may be faster: then it is the one after.
    async fn check_out(&self, attempt: Ulid, format: &IdFormat, uid: &Blob) -> Tried<DeviceId> {
        let ledger = &self.line.ledger;
        let mut from = 1;
        for _ in 0..CHECK_OUT_TRIES {
            let number = ledger.next_number(format, from).await;
            let number = number.map_err(StationFault::ledger)?;
            let Some(device_id) = format.numbered(number) else {
                break;
            };
            let event = Event::IdCheckedOut {
                device_id: device_id.clone(),
                format: format.clone(),
                uid: uid.clone(),
            };
            match ledger.check_out(attempt, &event).await {
                Ok(recorded) => {
                    self.report_event(recorded).await;
                    return Ok(Ok(device_id));
                }
                Err(LedgerError::Taken { .. }) => from = number + 1,
                Err(error) => return refusal(&device_id, error).map(Err),
            }
        }
        let format = format.clone();
        Ok(Err(Fault::NoFreeId { format }))
    }

    /// The unit's label: the one scanned last for this bay, or the next one, as long as the unit is there.
    async fn label(
        &self,
        link: &mut DeviceLink,
        found: &Identification,
        memory: &mut Memory,
    ) -> Result<String, Fault> {
        if let Some(label) = self.scans.take() {
            return Ok(label);
        }
        self.report_waiting().await;
        let device = &found.device_id;
        let gone = || Fault::DeviceGone {
            bay: self.name.clone(),
            how: Gone::Unscanned(device.clone()),
        };
        let label = tokio::select! {
            label = self.scans.next() => label,
            () = self.departure(link, Some(found), memory) => return Err(gone()),
            () = sleep(SCAN_LIMIT) => {
                return Err(Fault::NotScanned {
                    bay: self.name.clone(),
                    device: device.clone(),
                });
            }
        };
        // Looking whether the unit was there may have been cut off in the middle: this clears the line.
        match self.look(link, PRESENCE_TIMEOUT).await {
            Ok(Found {
                identification: now,
                ..
            }) if !now.same_unit(found) || now.boots != found.boots => Err(gone()),
            Err(error) if error.lost_port() => Err(gone()),
            _ => Ok(label), // a unit that is silent now is for the job's first step to judge
        }
    }

    /// That the unit is dead whose label was scanned: none has answered since, and the label is no other unit's.
    pub(super) fn unanswered(&self) -> Option<Fault> {
        let mut products = self.line.products.iter();
        if !products.any(|made| made.product.naming.wants_scan()) {
            return None;
        }
        let label = self.scans.take_older(LABEL_LIMIT)?;
        Some(Fault::NothingAnswers {
            bay: self.name.clone(),
            label,
            waited_ms: u64::try_from(LABEL_LIMIT.as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// Says that the bay waits: for a unit, or for the label of the one that is in it.
    pub(super) async fn report_waiting(&self) {
        let mut products = self.line.products.iter();
        self.report(Report::BayWaiting {
            at_ms: self.now(),
            bay: self.name.clone(),
            for_scan: products.any(|made| made.product.naming.wants_scan()),
        })
        .await;
    }
}

/// A microcontroller keeps its name, and its label must say it.
fn keep(known: DeviceId, label: Option<&str>, format: &IdFormat) -> Result<DeviceId, Fault> {
    if let Some(label) = label.filter(|label| *label != known.as_str()) {
        return Err(wrong_label(label, &known));
    }
    let name = format.device_id(known.as_str());
    name.ok_or_else(|| Fault::OtherFormat {
        known,
        format: format.clone(),
    })
}
