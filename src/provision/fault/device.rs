//! What can be wrong with a unit's names, and with the values that it holds.
//!
//! Invariant: each of these says what was found and what was wanted, and nothing of what to do about it.

use crate::provision::device::DeviceId;
use crate::provision::naming::IdFormat;
use serde::{Deserialize, Serialize};

/// What of an identity may be seen on one live device only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdentityKind {
    /// A public key.
    PublicKey,
    /// A TPM's endorsement key.
    EndorsementKey,
    /// A registration ID.
    RegistrationId,
    /// A microcontroller's unique ID.
    Uid,
}

impl IdentityKind {
    /// The kind's name in the ledger.
    pub fn word(self) -> &'static str {
        match self {
            Self::PublicKey => "public_key",
            Self::EndorsementKey => "endorsement_key",
            Self::RegistrationId => "registration_id",
            Self::Uid => "uid",
        }
    }
}

/// How a label and a unit do not go together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LabelTrouble {
    /// The unit says that it is another one.
    OfAnother {
        /// What the label says; absent where none was scanned.
        label: Option<String>,
        /// The unit.
        device: DeviceId,
    },
    /// The unit is on record under another name.
    OnRecord {
        /// What the label says.
        label: String,
        /// The unit's name on record.
        known: DeviceId,
    },
    /// The label is no name of such a unit.
    Form {
        /// What the label says.
        label: String,
        /// What such names look like.
        format: IdFormat,
    },
}

/// In what a device does not hold what was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mismatch {
    /// These values are not those that were written.
    Values(Vec<HeldValue>),
    /// The certificates after its own are not those that were written.
    Chain,
    /// What it sealed is not what was read back.
    Sealed,
    /// Its key is gone after the restart.
    KeyLost,
    /// It calls itself otherwise after the restart; absent for nothing at all.
    Name(Option<DeviceId>),
}

/// A value that a device holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeldValue {
    /// The device ID, where the station gives it.
    DeviceId,
    /// The ID scope.
    IdScope,
    /// The global endpoint.
    GlobalEndpoint,
    /// The registration ID.
    RegistrationId,
    /// The certificate.
    Certificate,
}
