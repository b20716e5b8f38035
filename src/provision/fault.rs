//! A fault: a code and its arguments. Who must act follows from the code; words are made at the edge.
//!
//! Invariant: a fault holds facts only, none of them a secret: names, numbers, digests, and what others said (an
//! operating system, a service, an HSM, a parser), which is made harmless and bounded. The one exception is [`Told`],
//! the sentence that a ledger of the first form kept.
//!
//! The facts that need types of their own lie in this file's folder, one file for each part that finds them. What a
//! person reads is made of them by the crate's room `words`; a new fault is a variant here and a row there.

mod blame;
mod certificate;
mod cloud;
mod device;
mod endorsement;
mod hsm;
mod ledger;
mod link;
mod text;
mod told;
mod tpm;

pub use blame::Blame;
pub use certificate::{CertificateName, Flaw, KeyFound, KeyKind, KeyPolicy};
pub use cloud::{
    ClockSkew, Complaint, Difference, DpsSetting, DpsUntrusted, Malformed, NoAnswer, NoToken,
    ProxyRefused, ProxyUnreachable, RecordTrouble, TokenTrouble, TrustFlaw, TurnHolder,
    UploadPaused,
};
pub use device::{HeldValue, IdentityKind, LabelTrouble, Mismatch};
pub use endorsement::{EkFlaw, Encoding, TemplateFault, TpmAttribute};
pub use hsm::{HsmError, KeyFlaw, PinAdvice};
pub use ledger::LedgerTrouble;
pub use link::{AdapterTrouble, Doing, Gone, Holder, Stranger};
pub use text::{harmless, said};
pub use told::{Told, Unsigned};
pub use tpm::{BridgeTrouble, NoChallenge, ResponseFlaw, Stall, TpmGarble, TpmTask, TpmTrouble};

use super::device::{DeviceId, RegistrationId};
use super::dialogue::{Grounds, Misfit, Verb};
use super::naming::IdFormat;
use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantNames};

/// Something went wrong: a code, and the arguments with which it is told.
///
/// It is stored and reported as `{"code": "device_silent", "args": {…}}`. A variant's name and fields are that form:
/// they change only together with the version of the events that hold faults.
///
/// Some fields recur: `bay` is a bay's name (empty where a port is no bay's), `port` the path of its port, `device` the
/// unit that the fault is about, `asked` what it was asked, `product` a product's name, `format` what the names of its
/// devices look like, `command` a TPM's, `limit_ms` a limit in milliseconds; `dps` is the name of a DPS instance, `url`
/// where its service API is, `complaint` its words, `registration_id` the record that the fault is about. `how`, `why`
/// and `flaw` say in what way it is so. `which` is the subject of the certificate above an EK certificate, absent for
/// that itself, and `day` its first or last day as `YYYY-MM-DD`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, IntoStaticStr, VariantNames)]
#[serde(tag = "code", content = "args", rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
#[allow(missing_docs)] // of the fields that recur
pub enum Fault {
    // --- the port, and what is plugged into it
    /// Nothing is at the port's path.
    PortMissing { bay: String, port: String },
    /// Another process has the port.
    PortBusy {
        bay: String,
        port: String,
        /// The program; absent where the system shows none to this user.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        holder: Option<Holder>,
    },
    /// What is at the port's path is no serial port.
    NotAPort { bay: String, port: String },
    /// This user may not open the port.
    PortDenied {
        bay: String,
        port: String,
        /// The group that owns the port.
        group: String,
    },
    /// The device went away.
    DeviceGone {
        bay: String,
        /// How that was seen.
        how: Gone,
    },
    /// The device did not answer, however often it was asked.
    DeviceSilent {
        bay: String,
        port: String,
        asked: Verb,
    },
    /// The device answered that it will not.
    DeviceRefused {
        bay: String,
        port: String,
        asked: Verb,
        /// Why not.
        grounds: Grounds,
    },
    /// The product asks more of its devices than they can do.
    DeviceUnable {
        bay: String,
        /// What it would have been asked.
        asked: Verb,
    },
    /// What is plugged in is none of the line's devices.
    NotADeviceWeKnow { bay: String, how: Stranger },
    /// Several units in a row fell silent at the same step: the bay is to blame.
    BaySilent {
        bay: String,
        /// How many.
        units: usize,
        /// The step.
        step: Doing,
    },
    /// The unit started anew in the middle of its job.
    PowerLost { bay: String, device: DeviceId },
    /// The unit keeps starting anew by itself.
    KeepsRestarting {
        bay: String,
        device: DeviceId,
        /// So often it was served without ever being away.
        times: u32,
    },
    /// A step with the unit took longer than its product allows.
    TooSlow {
        bay: String,
        /// The step.
        step: Doing,
        limit_ms: u64,
    },

    // --- the unit, as it names itself and is named
    /// Its label and what it is do not go together.
    WrongLabel(LabelTrouble),
    /// No label was scanned for it in time.
    NotScanned { bay: String, device: DeviceId },
    /// Its label was scanned, and no unit answered in time.
    NothingAnswers {
        bay: String,
        /// What the label says.
        label: String,
        /// Since when, in milliseconds.
        waited_ms: u64,
    },
    /// It has no unique ID that a name could be tied to.
    NoUid {
        /// What it calls itself.
        device: DeviceId,
    },
    /// It is on record under a name that its product does not use.
    OtherFormat {
        /// Its name on record.
        known: DeviceId,
        format: IdFormat,
    },
    /// Every number of the format is given out.
    NoFreeId { format: IdFormat },
    /// The same device is in another bay.
    InTwoBays {
        device: DeviceId,
        /// The other bay's name.
        other: String,
    },
    /// Another live device has the same identity.
    DuplicateIdentity {
        /// The device in the bay.
        device: DeviceId,
        /// What is the same, and who had it first; absent where the device ID itself is another unit's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        same: Option<(IdentityKind, DeviceId)>,
    },

    // --- the product's policy
    /// It has no device ID, and its product takes what the device has.
    NoId {
        /// What it is called for the time being.
        device: DeviceId,
        product: String,
    },
    /// It is of another model.
    WrongModel {
        device: DeviceId,
        /// The model that it says it is.
        model: String,
        /// The product's model.
        wanted: String,
    },
    /// It runs firmware that the product does not take.
    WrongFirmware {
        device: DeviceId,
        /// The version that it says it runs.
        firmware: String,
        product: String,
        /// The versions that the product takes.
        allowed: Vec<String>,
    },
    /// It has no TPM, and its product needs one.
    NoTpm { device: DeviceId, product: String },
    /// Its device ID does not fit a certificate's common name.
    IdTooLong { device: DeviceId },
    /// It is sealed, and does not hold what this station gave it.
    SealedUnknown { device: DeviceId },

    // --- what it holds, and whether it is the unit that it was
    /// It does not hold what was written.
    DoesNotHold { device: DeviceId, how: Mismatch },
    /// It did not start anew when it was reset.
    NoRestart { device: DeviceId },
    /// Another device is where it was.
    Swapped {
        /// What the other one calls itself.
        found: DeviceId,
        /// The device that was there before; absent where that is not known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<DeviceId>,
    },
    /// Its certificate is for another key than the one that it shows.
    NewKey { device: DeviceId },

    // --- its certificate
    /// Its certificate request is no good.
    RequestInvalid { flaw: Flaw },
    /// Its certificate request is not signed by the key in it.
    RequestUnsigned,
    /// Its certificate request names another device, none, or several.
    RequestSubject {
        /// The common names in the request, at most three.
        found: Vec<String>,
        /// The name that belongs there.
        expected: String,
    },
    /// Its key is of a kind that the product does not take.
    KeyRefused {
        /// The kind found.
        found: KeyFound,
        /// The kinds that the product takes.
        allowed: KeyPolicy,
    },
    /// It could not use the key in its certificate.
    ProofFailed,
    /// The certificate that it holds does not lead to the CA's root.
    PathInvalid {
        /// Which certificate of the path is at fault.
        which: CertificateName,
        flaw: Flaw,
    },
    /// The CA cannot issue this.
    CaUnfit {
        /// Name of the CA.
        ca: String,
        /// Which certificate of the CA's own path is at fault; absent where it is the CA's own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        which: Option<CertificateName>,
        flaw: Flaw,
    },
    /// The product's profile asks for something that a certificate cannot say.
    DraftImpossible {
        /// What.
        flaw: Flaw,
    },
    /// What was signed is not what was reserved, or was not signed by the key that should have.
    SignedWrongly { flaw: Flaw },
    /// The product names no CA.
    NoCa { product: String },
    /// The HSM gave no certificate.
    NotSigned { why: Unsigned },
    /// The HSM did not do what it was asked.
    Hsm(HsmError),

    // --- its endorsement key
    /// The TPM has no EK certificate.
    EkCertificateMissing,
    /// The EK certificate is not well-formed, or breaks a rule.
    EkCertificateBroken {
        /// Which rule.
        flaw: EkFlaw,
    },
    /// The EK certificate is for another key.
    EkCertificateAnotherKey,
    /// The EK certificate lacks the extended key usage of EK certificates.
    EkCertificateNoUsage,
    /// The EK certificate, or one above it, is not valid any more.
    EkCertificateExpired {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        which: Option<String>,
        day: String,
    },
    /// The EK certificate, or one above it, is not valid yet.
    EkCertificateNotYetValid {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        which: Option<String>,
        day: String,
    },
    /// No vendor root or intermediate has the issuer's name.
    EkCertificateUnknownMaker {
        /// The name that was looked for.
        issuer: String,
    },
    /// A vendor certificate has the issuer's name, but its key did not sign.
    EkCertificateBadSignature {
        /// The name that the EK certificate claims.
        issuer: String,
    },
    /// It has another TPM than when it was first seen.
    OtherTpm { device: DeviceId },
    /// Its TPM did not meet the challenge that DPS will put to it.
    ChallengeNotMet { device: DeviceId },

    /// The endorsement key in its TPM is not of the TCG's template.
    EkTemplate {
        bay: String,
        /// The key's handle.
        handle: u32,
        /// In what it differs.
        fault: TemplateFault,
    },
    /// Its TPM cannot open a credential that was made for the endorsement key that it showed.
    EkNotProved {
        bay: String,
        /// What the TSS said.
        said: String,
    },
    /// Its TPM's answers do not add up.
    TpmGarbled { bay: String, how: TpmGarble },
    /// Its TPM did not do what it was asked.
    TpmFailed { bay: String, how: TpmTrouble },
    /// Its TPM put a command off until there was no time left.
    TpmBusy {
        bay: String,
        command: String,
        /// The response code.
        rc: u32,
        limit_ms: u64,
    },
    /// Its TPM takes no authorizations for the time being: too many were wrong.
    TpmLocked { bay: String, command: String },
    /// Nothing came back from its TPM.
    TpmStalled {
        bay: String,
        /// On which way that was seen.
        how: Stall,
    },
    /// The station's own part of talking to a TPM failed.
    TpmBridge { bay: String, how: BridgeTrouble },
    /// No challenge can be made for a TPM from what is on record of it.
    NoChallenge { bay: String, why: NoChallenge },

    // --- the record
    /// The ledger did not do what it was asked.
    Ledger {
        /// The ledger's file.
        path: String,
        /// Why not.
        trouble: LedgerTrouble,
    },
    /// A recorded event does not follow from what stands before it.
    RecordDamaged {
        device: DeviceId,
        /// The event's kind.
        kind: String,
    },
    /// The record of a device lacks what its last event needs.
    RecordIncomplete { device: DeviceId },

    // --- the station
    /// What is to be written could not be read back from such a device.
    CannotBeReadBack(Misfit),
    /// An earlier process ended while a unit was in the bay.
    StationStopped { bay: String },
    /// No bay could be opened at all.
    NoBay {
        /// What the last of them said.
        last: Box<Fault>,
    },
    /// A bay's task ended unexpectedly.
    BayLost {
        /// What it said.
        said: String,
    },
    /// A bay failed its last loopback test.
    LoopbackFailed { bay: String },
    /// No loopback plug is on the port: what was sent did not come back.
    NoPlug { port: String },
    /// The port that should be tested does not work.
    AdapterFailed {
        port: String,
        /// In what way.
        how: AdapterTrouble,
    },
    /// Bytes come from a port that should be tested, and nobody sent them.
    PortTalks { port: String },
    /// The system gives no random numbers.
    NoRandom,
    /// The ports of this machine cannot be listed.
    NoPortList {
        /// What the system said.
        said: String,
    },

    // --- the cloud
    /// No connection to the service.
    DpsUnreachable {
        dps: String,
        url: String,
        /// What the network said.
        said: String,
    },
    /// Nothing comes through the proxy on the way to the service.
    ProxyUnreachable(ProxyUnreachable),
    /// The proxy on the way to the service does not take who the station is to it.
    ProxyRefused(ProxyRefused),
    /// What answers in the service's place does not prove to be it.
    DpsUntrusted(DpsUntrusted),
    /// What should give the token for the service gave none.
    NoToken(NoToken),
    /// The service does not take the credential.
    DpsUnauthorized {
        dps: String,
        url: String,
        complaint: Box<Complaint>,
        /// Whether it was a shared access signature, which an instance may refuse altogether.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        sas: bool,
        /// How far the station's clock is from the service's, where that may be the reason.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        clock: Option<ClockSkew>,
    },
    /// The service is too busy.
    DpsThrottled {
        dps: String,
        url: String,
        complaint: Box<Complaint>,
    },
    /// The service refused the call.
    DpsRefused {
        dps: String,
        url: String,
        complaint: Box<Complaint>,
    },
    /// The service gave no usable answer.
    DpsNoAnswer {
        dps: String,
        url: String,
        /// What came instead.
        why: NoAnswer,
    },
    /// What answered does not speak the protocol.
    DpsMalformed {
        dps: String,
        url: String,
        /// What it said.
        why: Malformed,
    },
    /// The options of a DPS instance cannot work.
    DpsConfiguration {
        dps: String,
        /// Which option, and why.
        setting: DpsSetting,
    },
    /// The station's share of the service's quota stays used up.
    DpsShare {
        dps: String,
        /// The share, in operations a minute.
        share: u32,
    },
    /// Another process, or another upload of this one, is at this outbox.
    UploadElsewhere { dps: String, holder: TurnHolder },
    /// A person has paused the upload.
    UploadPaused(UploadPaused),
    /// The station's clock is wrong by more than two minutes.
    ClockWrong {
        /// Name of the DPS instance that shows it.
        dps: String,
        /// By how much.
        skew: ClockSkew,
    },
    /// The service will not have this record, or holds another one under its registration ID.
    EnrollmentRefused {
        dps: String,
        registration_id: RegistrationId,
        why: RecordTrouble,
    },
    /// The record is put off, and known not to be there: it may be sent again.
    EnrollmentDeferred {
        dps: String,
        registration_id: RegistrationId,
        why: RecordTrouble,
    },
    /// The record is put off while nobody knows what its last call did: it is read back first.
    EnrollmentUnanswered {
        dps: String,
        registration_id: RegistrationId,
        why: RecordTrouble,
    },

    /// A fault as ledgers of the first form keep it.
    #[serde(untagged)]
    Told(Told),
}
