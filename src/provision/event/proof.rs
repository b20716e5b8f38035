//! What is on record of a device's proof of who it is: its endorsement key, and how it used its identity.
//!
//! Invariant: what was accepted for less than full proof says so, with the policy's reason.

use crate::provision::bytes::{Blob, Digest};
use crate::provision::fault::Fault;
use serde::{Deserialize, Serialize};

/// An endorsement key, with all that was found about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndorsementRecord {
    /// The EK as DPS wants it: `TPM2B_PUBLIC`. Unique among live devices.
    pub endorsement_key: Blob,
    /// The storage root key as `TPM2B_PUBLIC`.
    pub storage_root_key: Blob,
    /// The EK certificate from the TPM's NV memory, in DER; absent where the policy allows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Blob>,
    /// What the TPM carries of its maker's intermediate certificates, in DER, one after the other; absent where the
    /// vendor roots alone complete the chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<Blob>,
    /// Whether the station made the key persistent at its handle, where none was.
    #[serde(default)]
    pub persisted: bool,
    /// What makes the EK genuine, or why less was accepted.
    pub verdict: EndorsementVerdict,
}

/// What makes an EK genuine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum EndorsementVerdict {
    /// The EK certificate is for this key and chains to a vendor root.
    Genuine {
        /// TCG manufacturer attribute, such as `id:49465800`.
        manufacturer: String,
        /// TCG model attribute.
        model: String,
        /// TCG firmware version attribute.
        version: String,
        /// Subject of the vendor root that the chain ends at.
        anchor: String,
        /// Digest of the vendor roots in use.
        roots_digest: Digest,
    },
    /// The product's policy accepts less, and says why.
    Waived {
        /// The policy's reason; absent where the product merely does not require what was missing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// What was missing; absent where nothing was.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        missing: Option<Box<Fault>>,
    },
}

/// How a device proved that it can use its identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "proof", rename_all = "snake_case")]
pub enum Proof {
    /// It signed a nonce with the key in its certificate, and the path validates.
    Signature {
        /// The nonce.
        nonce: Digest,
        /// The ECDSA signature, DER.
        signature: Blob,
    },
    /// Its TPM activated a credential, and signed as DPS will ask it to.
    TpmRehearsal {
        /// The SAS string that the TPM signed.
        signed: String,
        /// The HMAC it gave, equal to the expected one.
        hmac: Digest,
    },
}
