//! What is to be enrolled for one device: as it goes on record, by reference, and as the service gets it.
//!
//! Invariant: what is on record refers to what identifies the device by digest only, so that no event holds a secret.

use crate::provision::bytes::{Blob, Digest};
use crate::provision::content::Content;
use crate::provision::device::{Attestation, DeviceId, RegistrationId};
use serde::{Deserialize, Serialize};

/// What to enroll in DPS for one device, as it goes on record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrollmentRecord {
    /// Name of the DPS instance.
    pub dps: String,
    /// The registration ID.
    pub registration_id: RegistrationId,
    /// The device ID in IoT Hub.
    pub device_id: DeviceId,
    /// What identifies the device.
    pub identity: IdentityRef,
    /// Desired properties of the initial twin, as JSON; absent for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial_desired: Option<serde_json::Value>,
    /// Tags of the initial twin, as JSON; absent for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_tags: Option<serde_json::Value>,
    /// What else it says.
    #[serde(default, skip_serializing_if = "Content::is_empty")]
    pub content: Content,
}

/// What identifies a device, by the digest of what an earlier event of the same device holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum IdentityRef {
    /// The leaf certificate that was [signed](super::Event::Signed).
    X509 {
        /// SHA-256 of its DER.
        certificate_sha256: Digest,
    },
    /// The endorsement key that was [read](super::Event::EndorsementRead).
    Tpm {
        /// SHA-256 of its `TPM2B_PUBLIC`.
        endorsement_key_sha256: Digest,
    },
}

/// What to enroll in DPS for one device: an individual enrollment's content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrollment {
    /// Name of the DPS instance.
    pub dps: String,
    /// The registration ID.
    pub registration_id: RegistrationId,
    /// The device ID in IoT Hub.
    pub device_id: DeviceId,
    /// The attestation.
    pub identity: EnrolledIdentity,
    /// Desired properties of the initial twin, as JSON; absent for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial_desired: Option<serde_json::Value>,
    /// Tags of the initial twin, as JSON; absent for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_tags: Option<serde_json::Value>,
    /// What else it says.
    #[serde(default, skip_serializing_if = "Content::is_empty")]
    pub content: Content,
}

/// What a line of a person's list asks to be enrolled.
///
/// Nothing of it was seen at a unit: it stands here whole, with what identifies the device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// What to enroll.
    pub enrollment: Enrollment,
    /// The key in the certificate: DER SubjectPublicKeyInfo; absent for a TPM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<Blob>,
    /// The list's file, as it was named.
    pub file: String,
    /// SHA-256 of the whole list.
    pub file_sha256: Digest,
    /// The line in it, from 1.
    pub line: u64,
}

/// What a person orders of an enrollment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// The device may register, whoever disabled it.
    Enable,
    /// The device may not register.
    Disable,
    /// The service is to hold nothing.
    Delete,
}

/// The attestation part of an enrollment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum EnrolledIdentity {
    /// The exact leaf certificate.
    X509 {
        /// DER of the leaf.
        certificate: Blob,
    },
    /// The endorsement key.
    Tpm {
        /// `TPM2B_PUBLIC` of the EK.
        endorsement_key: Blob,
        /// `TPM2B_PUBLIC` of the SRK; empty where it is not known, as with a device of a list.
        storage_root_key: Blob,
    },
}

impl EnrollmentRecord {
    /// The enrollment with `identity` in the place of the reference to it.
    pub fn resolved(self, identity: EnrolledIdentity) -> Enrollment {
        Enrollment {
            dps: self.dps,
            registration_id: self.registration_id,
            device_id: self.device_id,
            identity,
            initial_desired: self.initial_desired,
            initial_tags: self.initial_tags,
            content: self.content,
        }
    }
}

impl IdentityRef {
    /// The digest, of whatever it is.
    pub fn digest(&self) -> Digest {
        match self {
            Self::X509 { certificate_sha256 } => *certificate_sha256,
            Self::Tpm {
                endorsement_key_sha256,
            } => *endorsement_key_sha256,
        }
    }
}

impl Enrollment {
    /// As it goes on record: with what identifies the device by reference.
    pub fn record(&self) -> EnrollmentRecord {
        EnrollmentRecord {
            dps: self.dps.clone(),
            registration_id: self.registration_id.clone(),
            device_id: self.device_id.clone(),
            identity: self.identity.reference(),
            initial_desired: self.initial_desired.clone(),
            initial_tags: self.initial_tags.clone(),
            content: self.content.clone(),
        }
    }

    /// Which attestation the enrollment uses.
    pub fn attestation(&self) -> Attestation {
        match self.identity {
            EnrolledIdentity::X509 { .. } => Attestation::X509,
            EnrolledIdentity::Tpm { .. } => Attestation::Tpm,
        }
    }
}

impl EnrolledIdentity {
    /// What stands for it on record.
    pub fn reference(&self) -> IdentityRef {
        match self {
            Self::X509 { certificate } => IdentityRef::X509 {
                certificate_sha256: Digest::of(&certificate.0),
            },
            Self::Tpm {
                endorsement_key, ..
            } => IdentityRef::Tpm {
                endorsement_key_sha256: Digest::of(&endorsement_key.0),
            },
        }
    }
}
