//! Everything that can be on record: the one vocabulary of the ledger, the job, the outbox and the reports.
//!
//! Invariant: an event says what happened, never what was meant to happen, and holds all that recovery needs.
//! A variant's name and fields are its stored form: change them only together with its version in [`stored`].

mod balance;
mod enrollment;
mod proof;
pub mod stored;

pub use balance::Balance;
pub use enrollment::{EnrolledIdentity, Enrollment, EnrollmentRecord, IdentityRef, Listing, Order};
pub use proof::{EndorsementRecord, EndorsementVerdict, Proof};

use super::bytes::{Blob, Digest};
use super::device::{DeviceId, Holding, Identification, RegistrationId, SerialNumber};
use super::fault::{Fault, Unsigned};
use super::health::LinkHealth;
use super::injected::Observed;
use super::loopback::Loopback;
use super::naming::IdFormat;
use serde::{Deserialize, Serialize};
use ulid::Ulid;

/// Something that happened. The ledger stores it with time, station, attempt, device and product digest beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Event {
    // --- an attempt: one stay of one device in one bay
    /// A device, not yet known, appeared in a bay; opens the attempt.
    Arrived {
        /// The bay's name.
        bay: String,
        /// The port's path.
        port: String,
    },
    /// The device said who it is; binds the attempt to the device and takes the claim on it.
    Identified {
        /// What the device says of itself.
        identification: Identification,
        /// The ID that it is to bear, where that does not come from the device.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        assigned: Option<DeviceId>,
        /// The label that was scanned for it, made harmless.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        scanned: Option<String>,
    },
    /// The station gives the next number to the unit with this microcontroller, before it is identified by it.
    IdCheckedOut {
        /// The ID.
        device_id: DeviceId,
        /// The format that it is the next of.
        format: IdFormat,
        /// The microcontroller's unique ID.
        uid: Blob,
    },
    /// The unit failed before anything was reserved, signed or written under its number: another may have that.
    IdReturned {
        /// The ID.
        device_id: DeviceId,
        /// The microcontroller's unique ID; what is on record of the unit goes on under its provisional name.
        uid: Blob,
        /// Why.
        reason: Box<Fault>,
    },
    /// How well the link worked in this attempt; stands before the event that ends it.
    LinkMeasured {
        /// What was counted.
        health: LinkHealth,
    },
    /// The attempt ended without a verdict on a device: nobody answered, the cable was pulled, the station stopped.
    Interrupted {
        /// Why.
        fault: Fault,
    },

    // --- the job: one device's provisioning, over all its attempts
    /// The product's policy accepts the device.
    Accepted {
        /// The product's name.
        product: String,
        /// Digest of the product's definition.
        product_digest: Digest,
    },
    /// The device made, or already had, a key, and asked for a certificate with it.
    KeyRead {
        /// The DER certificate request.
        csr: Blob,
        /// The key in it: DER SubjectPublicKeyInfo. Unique among live devices.
        public_key: Blob,
    },
    /// The endorsement key was read from the device's TPM and found genuine.
    EndorsementRead(Box<EndorsementRecord>),
    /// The device's registration ID follows from its identity. Unique among live devices.
    RegistrationIdDerived {
        /// The registration ID.
        registration_id: RegistrationId,
    },
    /// These exact bytes, with this serial number, are what the HSM will be asked to sign, once.
    SerialReserved {
        /// What will be signed, and what for.
        reservation: Reservation,
    },
    /// The reservation will never be used: signing was asked for and its outcome is unknown or useless.
    SerialAbandoned {
        /// The serial number.
        serial: SerialNumber,
        /// Why.
        reason: Unsigned,
    },
    /// The HSM signed the reservation and the result passed its self-check.
    Signed {
        /// The serial number.
        serial: SerialNumber,
        /// The finished object in DER (a certificate, a request), or the bare signature of a self-test.
        result: Blob,
    },
    /// Certificate and configuration were written to the device and saved.
    Written {
        /// What the device was asked to hold.
        asked: Holding,
    },
    /// The device was seen to start anew: by its start counter, or, with stock firmware, which has none (both are 0
    /// then), because a value that was not saved was gone.
    Restarted {
        /// Its start counter before.
        boots_before: u64,
        /// Its start counter after.
        boots_after: u64,
    },
    /// What the device holds after the restart.
    ReadBack {
        /// The values read, each as the device gave it; by digest, those whose digest it gave.
        observed: Holding,
        /// The most bytes that the device gives of any value, where it says so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        value_limit: Option<usize>,
        /// Whether the device showed it by the digest of what it holds, and not value by value.
        #[serde(default)]
        by_digest: bool,
    },
    /// The device used the identity it now holds.
    Proved {
        /// How.
        proof: Proof,
    },
    /// The device confirmed that its provisioning commands are locked.
    Sealed {
        /// Digest of what the sealed device holds.
        holds: Digest,
    },
    /// A unit that passed before came back, sealed and unchanged; nothing was done to it.
    Recognised {
        /// Digest of what it holds.
        holds: Digest,
    },
    /// PASS. Puts the enrollment into the outbox.
    Passed {
        /// What to enroll.
        enrollment: EnrollmentRecord,
    },
    /// INJECTED: a unit with stock firmware gives back what was written. It has no identity and is never enrolled.
    Injected {
        /// What was read back.
        observed: Holding,
        /// How many bytes of the global endpoint that is, where the device gave no more and the policy takes that.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        endpoint_prefix: Option<usize>,
    },
    /// FAIL: this unit is bad.
    Failed {
        /// Why.
        fault: Fault,
        /// The enrollment to hold as disabled in DPS, where a certificate was issued: a unit that did not PASS
        /// cannot register.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        disable: Option<Box<EnrollmentRecord>>,
    },
    /// ERROR: the station could not do its part; the unit is not judged.
    Errored {
        /// Why.
        fault: Fault,
    },

    // --- the station's own ports
    /// A port was tested with a loopback plug in the place of a device. A bay whose last test failed is out of service.
    LoopbackTested {
        /// The bay's name; absent for a port that is no bay's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bay: Option<String>,
        /// The port's path.
        port: String,
        /// What was found.
        result: Box<Loopback>,
        /// Whether it was within the limits.
        passed: bool,
    },

    // --- the shift
    /// A shift began.
    ShiftOpened {
        /// Its name.
        shift: String,
    },
    /// A shift ended, with its balance.
    ShiftClosed {
        /// Its name.
        shift: String,
        /// The count of units.
        balance: Balance,
    },

    // --- the outbox: enrollment of what passed, and of what a person lists
    /// A person's list asks for a device to be enrolled that is no unit of this line. Puts it into the outbox.
    Listed(Box<Listing>),
    /// Calls to the service were charged to this station's share before they were made.
    Charged {
        /// Name of the DPS instance.
        dps: String,
        /// Operations charged.
        operations: u32,
        /// The registration IDs about to be sent; an answer that never came is found here.
        sending: Vec<RegistrationId>,
    },
    /// The service asked to be left alone for a while; nobody calls it until then.
    ServiceBusy {
        /// Name of the DPS instance.
        dps: String,
        /// For how long, in milliseconds.
        pause_ms: u64,
    },
    /// A person paused the upload, in whichever process it runs.
    UploadPaused {
        /// Name of the DPS instance.
        dps: String,
    },
    /// A person let the upload go on.
    UploadResumed {
        /// Name of the DPS instance.
        dps: String,
    },
    /// The service holds the enrollment: its content was read back and equals ours.
    Enrolled {
        /// The registration ID.
        registration_id: RegistrationId,
        /// The service's entity tag.
        etag: String,
    },
    /// The service refused the enrollment, or holds another content under the same ID: a person must look.
    EnrollmentRefused {
        /// The registration ID.
        registration_id: RegistrationId,
        /// Why, in the service's words.
        fault: Fault,
    },
    /// The service holds the enrollment as disabled: of a unit that did not pass, so that it cannot register; of one
    /// that passed, because somebody disabled it there.
    EnrollmentDisabled {
        /// The registration ID.
        registration_id: RegistrationId,
    },
    /// A refused record is to be sent again, as a person decided.
    EnrollmentRetried {
        /// What was meant when it was refused.
        was: Box<EnrollmentRecord>,
        /// What is meant now: the same device, identity and DPS, with the content that the product has today.
        now: Box<EnrollmentRecord>,
    },
    /// A person orders that the service is to hold this record otherwise than it does.
    EnrollmentOrdered {
        /// The registration ID.
        registration_id: RegistrationId,
        /// How.
        order: Order,
    },
    /// The service does not hold the enrollment any more, as a person ordered.
    EnrollmentDeleted {
        /// The registration ID.
        registration_id: RegistrationId,
    },
    /// The upload of this record did not succeed this time and will be tried again.
    EnrollmentDeferred {
        /// The registration ID.
        registration_id: RegistrationId,
        /// Why.
        fault: Fault,
        /// Not before this time, in milliseconds since 1970.
        next_try_ms: i64,
    },
}

/// The exact bytes that the HSM will be asked to sign, and what for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    /// What the signature is for.
    pub purpose: Purpose,
    /// Name of the CA (or of the key) that signs.
    pub ca: String,
    /// The serial number; unique in the ledger. A self-test has one too, as its name.
    pub serial: SerialNumber,
    /// The DER to-be-signed bytes.
    pub tbs: Blob,
}

/// What a signature is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// A device's certificate.
    Leaf,
    /// A root CA's certificate.
    Root,
    /// An issuing CA's certificate.
    Issuing,
    /// A request to a customer's root.
    Request,
    /// Proof of possession for DPS.
    Verification,
    /// The start-up check that the key in the HSM is the one in the CA certificate.
    SelfTest,
}

/// An event as it stands in the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// Its place in the chain, from 1.
    pub seq: u64,
    /// When it was recorded, in milliseconds since 1970 (UTC).
    pub at_ms: i64,
    /// The station that recorded it.
    pub station: String,
    /// The person who did it; absent for what the station did by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operator: Option<String>,
    /// The attempt it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<Ulid>,
    /// The device it is about, once known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceId>,
    /// Digest of the product's definition that was in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product_digest: Option<Digest>,
    /// Why the person did it, in their words; absent where nobody said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
    /// What happened.
    pub event: Event,
}

impl Event {
    /// The variant's name as it is stored, such as `serial_reserved`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Arrived { .. } => "arrived",
            Self::Identified { .. } => "identified",
            Self::IdCheckedOut { .. } => "id_checked_out",
            Self::IdReturned { .. } => "id_returned",
            Self::LinkMeasured { .. } => "link_measured",
            Self::Interrupted { .. } => "interrupted",
            Self::Accepted { .. } => "accepted",
            Self::KeyRead { .. } => "key_read",
            Self::EndorsementRead(_) => "endorsement_read",
            Self::RegistrationIdDerived { .. } => "registration_id_derived",
            Self::SerialReserved { .. } => "serial_reserved",
            Self::SerialAbandoned { .. } => "serial_abandoned",
            Self::Signed { .. } => "signed",
            Self::Written { .. } => "written",
            Self::Restarted { .. } => "restarted",
            Self::ReadBack { .. } => "read_back",
            Self::Proved { .. } => "proved",
            Self::Sealed { .. } => "sealed",
            Self::Recognised { .. } => "recognised",
            Self::Passed { .. } => "passed",
            Self::Injected { .. } => "injected",
            Self::Failed { .. } => "failed",
            Self::Errored { .. } => "errored",
            Self::LoopbackTested { .. } => "loopback_tested",
            Self::ShiftOpened { .. } => "shift_opened",
            Self::ShiftClosed { .. } => "shift_closed",
            Self::Listed(_) => "listed",
            Self::Charged { .. } => "charged",
            Self::ServiceBusy { .. } => "service_busy",
            Self::UploadPaused { .. } => "upload_paused",
            Self::UploadResumed { .. } => "upload_resumed",
            Self::Enrolled { .. } => "enrolled",
            Self::EnrollmentRefused { .. } => "enrollment_refused",
            Self::EnrollmentDisabled { .. } => "enrollment_disabled",
            Self::EnrollmentRetried { .. } => "enrollment_retried",
            Self::EnrollmentOrdered { .. } => "enrollment_ordered",
            Self::EnrollmentDeleted { .. } => "enrollment_deleted",
            Self::EnrollmentDeferred { .. } => "enrollment_deferred",
        }
    }

    /// The version of its stored form.
    pub fn version(&self) -> u32 {
        stored::version(self.kind()).expect("every kind has its version in the table")
    }

    /// What was read back, if that is what it tells of.
    pub fn observed(&self) -> Option<Observed> {
        match self {
            Self::ReadBack {
                observed,
                value_limit,
                ..
            } => Some(Observed {
                holding: observed.clone(),
                value_limit: *value_limit,
            }),
            _ => None,
        }
    }

    /// The device that an [`Event::Identified`] binds its attempt to: the one assigned, else the one that it says
    /// it is.
    pub fn identified(&self) -> Option<&DeviceId> {
        match self {
            Self::Identified {
                identification,
                assigned,
                ..
            } => Some(assigned.as_ref().unwrap_or(&identification.device_id)),
            _ => None,
        }
    }

    /// Whether the attempt that it belongs to is over with it.
    pub fn ends_attempt(&self) -> bool {
        matches!(
            self,
            Self::Interrupted { .. }
                | Self::Recognised { .. }
                | Self::Passed { .. }
                | Self::Injected { .. }
                | Self::Failed { .. }
                | Self::Errored { .. }
        )
    }
}
