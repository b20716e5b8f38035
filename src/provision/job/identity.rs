//! What identifies a device, one variant an attestation, and what the record knows of it.
//!
//! Invariant: for each attestation there is at most one identity, the one that was recorded last.

use super::Known;
use crate::provision::bytes::{Blob, Digest};
use crate::provision::device::Attestation;
use crate::provision::event::{EndorsementRecord, IdentityRef};

/// What identifies a device.
#[derive(Clone, Debug)]
pub(super) enum Identity {
    /// A key that was made on the device.
    X509(DeviceKey),
    /// Its TPM's endorsement key.
    Tpm(Box<EndorsementRecord>),
}

/// A key that was made on the device.
#[derive(Clone, Debug)]
pub(super) struct DeviceKey {
    /// The request that it came in.
    pub csr: Blob,
    /// DER SubjectPublicKeyInfo.
    pub public_key: Blob,
    /// The device's certificate, which may be for an earlier key.
    pub certificate: Option<Certificate>,
}

/// A certificate that the station has issued to the device.
#[derive(Clone, Debug)]
pub(super) struct Certificate {
    /// The certificate.
    pub der: Blob,
    /// The key that it is for.
    pub public_key: Blob,
}

impl Identity {
    fn attestation(&self) -> Attestation {
        match self {
            Self::X509(_) => Attestation::X509,
            Self::Tpm(_) => Attestation::Tpm,
        }
    }

    /// What stands for it on record; none while it has no certificate yet and needs one.
    pub(super) fn reference(&self) -> Option<IdentityRef> {
        match self {
            Self::X509(key) => key.certificate.as_ref().map(|c| IdentityRef::X509 {
                certificate_sha256: Digest::of(&c.der.0),
            }),
            Self::Tpm(record) => Some(IdentityRef::Tpm {
                endorsement_key_sha256: Digest::of(&record.endorsement_key.0),
            }),
        }
    }
}

impl Certificate {
    pub(super) fn is_for(&self, public_key: &Blob) -> bool {
        self.public_key == *public_key
    }
}

impl Known {
    /// Takes the place of what was known for the same attestation.
    pub(super) fn learn(&mut self, identity: Identity) {
        self.identities.insert(identity.attestation(), identity);
    }

    /// The key that was made on the device.
    pub(super) fn key(&self) -> Option<&DeviceKey> {
        match self.identities.get(&Attestation::X509)? {
            Identity::X509(key) => Some(key),
            Identity::Tpm(_) => None,
        }
    }

    pub(super) fn key_mut(&mut self) -> Option<&mut DeviceKey> {
        match self.identities.get_mut(&Attestation::X509)? {
            Identity::X509(key) => Some(key),
            Identity::Tpm(_) => None,
        }
    }

    /// The certificate that the device was given.
    pub(super) fn certificate(&self) -> Option<&Certificate> {
        self.key()?.certificate.as_ref()
    }
}
