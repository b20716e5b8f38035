//! What passes between the job and the world: effects to perform, facts found, and what comes next.
//!
//! Invariant: an effect says all that is needed to perform it; a fact says what was found, never what was meant.

use crate::provision::bytes::{Blob, Digest};
use crate::provision::device::{DeviceId, Holding, Identification, RegistrationId, SerialNumber};
use crate::provision::endorsement::credential::Challenge;
use crate::provision::endorsement::template::{EndorsementKey, StorageKey};
use crate::provision::event::{EndorsementRecord, Event, Reservation};
use crate::provision::fault::{Fault, Unsigned};
use crate::provision::injected::Observed;
use crate::provision::verdict::Verdict;

/// What the job asks to be done in the world.
#[derive(Debug)]
pub enum Effect {
    /// Have the device make a key, unless it has one, and ask for a certificate with this CN.
    RequestCertificate {
        /// The CN.
        common_name: String,
    },
    /// Read the endorsement key from the device's TPM and find out whether it is genuine.
    ReadEndorsement,
    /// Draw a serial number and draft a certificate.
    Draft {
        /// The device's DER certificate request, already checked.
        csr: Blob,
        /// The CN.
        common_name: String,
    },
    /// Have the HSM sign the reservation that was just recorded, once. Only who recorded it has the right to.
    Sign {
        /// Its serial number.
        serial: SerialNumber,
    },
    /// Write certificate chain and configuration to the device, and save.
    Write {
        /// What the device is to hold.
        holding: Holding,
        /// DER certificates, leaf first; empty on a device without certificates.
        chain: Vec<Blob>,
        /// The ID that it is to bear, where that does not come from itself.
        assigned: Option<DeviceId>,
    },
    /// Reset the device and watch it start anew.
    Restart,
    /// Read back what it holds.
    ReadBack {
        /// What it should hold.
        holding: Holding,
        /// DER certificates that it should have, leaf first; empty on a device without certificates.
        chain: Vec<Blob>,
    },
    /// Have the device sign a nonce with its key.
    ProveKey,
    /// Activate a credential in the device's TPM and rehearse DPS's nonce challenge.
    Rehearse {
        /// The endorsement key and its companion.
        endorsement: Box<EndorsementRecord>,
        /// The registration ID that the SAS string names.
        registration_id: RegistrationId,
    },
    /// Lock the provisioning commands.
    Seal {
        /// Digest of what the device must hold.
        holds: Digest,
    },
}

/// What was found when an effect was performed.
pub enum Fact {
    /// The device's DER certificate request.
    Request(Vec<u8>),
    /// What the device's TPM holds; the time is in milliseconds since 1970.
    Endorsement {
        /// The endorsement key.
        endorsement_key: Box<EndorsementKey>,
        /// The storage root key.
        storage_root_key: Box<StorageKey>,
        /// The EK certificate from NV memory, if there is one.
        certificate: Option<Vec<u8>>,
        /// The intermediate certificates that the TPM carries, if the verdict depends on them.
        chain: Vec<u8>,
        /// Whether the station made the key persistent.
        persisted: bool,
        /// Now.
        at_ms: i64,
    },
    /// A draft.
    Drafted(Reservation),
    /// The HSM's DER signature, or why there is none. Whatever went wrong, the reservation is spent.
    Signature(Result<Vec<u8>, Unsigned>),
    /// Everything was written and saved.
    Written(Holding),
    /// The device was seen to start anew, and says this of itself.
    Restarted(Identification),
    /// What the device holds, value by value.
    Observed(Observed, Vec<Blob>),
    /// What the device holds, by its own digests.
    Confirmed {
        /// Digest of the values and of the leaf certificate.
        holds: Digest,
        /// Digest of its certificates, one after the other.
        chain: Digest,
    },
    /// The device signed this nonce; the time is in milliseconds since 1970.
    KeyProof {
        /// The nonce.
        nonce: Digest,
        /// The DER signature.
        signature: Vec<u8>,
        /// Now.
        at_ms: i64,
    },
    /// The TPM's answer to the challenge that DPS will put to it.
    Rehearsed {
        /// The challenge.
        challenge: Box<Challenge>,
        /// The text that was to be signed.
        signed: String,
        /// What the TPM took out of the credential.
        activated: Vec<u8>,
        /// Its signature.
        hmac: Digest,
    },
    /// The device is sealed and holds this.
    Sealed(Digest),
    /// It could not be done; who must act says what that means.
    Fault(Fault),
    /// The device went away.
    Gone(Fault),
}

/// What to do next.
#[derive(Debug)]
pub enum Next {
    /// Nothing: the attempt has ended.
    Done(Verdict),
    /// Record this.
    Record(Event),
    /// Do this, and bring what was found to [`Job::interpret`](super::Job::interpret).
    Do(Effect),
}
