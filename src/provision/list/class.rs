//! What a line of a list is, beside what the ledger has on record.
//!
//! Invariant: a line is taken only where nothing on record speaks against it; what the line says of a device that the
//! line itself provisioned never changes that device's record.

use super::Trouble;
use crate::provision::batch::same_keys;
use crate::provision::device::{DeviceId, RegistrationId};
use crate::provision::event::Enrollment;
use crate::provision::fault::IdentityKind;

/// What a line of a list is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Class {
    /// It is not on record, and goes into the outbox.
    New,
    /// It is on record with what it says.
    Same,
    /// It is on record with something else, in these fields, spelt as the list or DPS spells them.
    Differs(Vec<&'static str>),
    /// It cannot be meant.
    Malformed(Trouble),
    /// This line has the same registration ID, device ID, endorsement key or certificate.
    Twice(u64),
    /// What it says is on record as another's.
    Known(Known),
}

/// As whose it is on record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// This device has the same identity.
    Identity(IdentityKind, DeviceId),
    /// The device is a unit of the line, which has not got this registration ID.
    Unit,
    /// The device is on record with another registration ID.
    Registered(RegistrationId),
}

/// What the ledger has on record beside a line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OnRecord {
    /// What is to be enrolled under the line's registration ID.
    pub enrollment: Option<Enrollment>,
    /// Whether the line may take its place: it came from a list too, and the service is known not to hold it.
    pub replaceable: bool,
    /// Another device that has something that only one may have.
    pub holder: Option<(IdentityKind, DeviceId)>,
    /// Whether the device was ever in a bay.
    pub unit: bool,
    /// Another registration ID that the device has.
    pub registered: Option<RegistrationId>,
}

impl Class {
    /// Its name, as programs read it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Same => "same",
            Self::Differs(_) => "differs",
            Self::Malformed(_) => "malformed",
            Self::Twice(_) => "twice",
            Self::Known(_) => "known",
        }
    }

    /// Whether a person must look at the line.
    pub fn is_bad(&self) -> bool {
        !matches!(self, Self::New | Self::Same)
    }
}

/// What a line is that asks for `ours`.
pub fn class(ours: &Enrollment, found: OnRecord) -> Class {
    if let Some((kind, other)) = found.holder {
        return Class::Known(Known::Identity(kind, other));
    }
    match found.enrollment {
        Some(theirs) => match differing(ours, &theirs) {
            fields if found.replaceable && (!fields.is_empty()) => Class::New,
            fields if fields.is_empty() => Class::Same,
            fields => Class::Differs(fields),
        },
        None if found.unit => Class::Known(Known::Unit),
        None => match found.registered {
            Some(other) => Class::Known(Known::Registered(other)),
            None => Class::New,
        },
    }
}

/// The fields in which they differ. A list says nothing of desired properties, and of tags only where it has some.
fn differing(ours: &Enrollment, theirs: &Enrollment) -> Vec<&'static str> {
    let fields = [
        ("dps", ours.dps == theirs.dps),
        ("deviceId", ours.device_id == theirs.device_id),
        ("attestation", same_keys(&ours.identity, &theirs.identity)),
        (
            "tags",
            ours.initial_tags.is_none() || ours.initial_tags == theirs.initial_tags,
        ),
    ];
    let differ = fields.into_iter().filter(|(_, same)| !same);
    differ.map(|(field, _)| field).collect()
}
