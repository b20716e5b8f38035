//! A fault: a code and its arguments. Who must act follows from the code; words are made at the edge.
//!
//! Invariant: a fault holds facts only, none of them a secret: names, numbers, digests, and what others said (an
//! operating system, a service, an HSM, a parser), which is made harmless and bounded. The one exception is [`Told`],
//! the sentence that a ledger of the first form kept.
//!
//! The facts that need types of their own lie in this file's folder, one file for each part that finds them. What a
//! person reads is made of them by the crate's room `words`; a new fault is a variant here and a row there.

mod certificate;
mod cloud;
mod device;
mod endorsement;
mod hsm;
mod ledger;
mod link;
mod tpm;

pub use certificate::{CertificateName, Flaw, KeyFound, KeyKind, KeyPolicy};
pub use cloud::{ClockSkew, Complaint, Difference, DpsSetting, Malformed, NoAnswer, RecordTrouble};
pub use device::{HeldValue, IdentityKind, LabelTrouble, Mismatch};
pub use endorsement::{EkFlaw, Encoding, TemplateFault, TpmAttribute};
pub use hsm::{HsmError, KeyFlaw, PinAdvice};
pub use ledger::LedgerTrouble;
pub use link::{Doing, Gone, Stranger};
pub use tpm::{BridgeTrouble, NoChallenge, ResponseFlaw, Stall, TpmGarble, TpmTask, TpmTrouble};

use super::device::{DeviceId, RegistrationId};
use super::dialogue::{Grounds, Misfit, Verb};
use super::naming::IdFormat;
use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantNames};

/// Whose matter a fault is. It decides between FAIL (the unit is bad) and ERROR (the station or the cloud is).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blame {
    /// The device under test: a FAIL.
    Device,
    /// The station, its ports, its HSM or its configuration: an ERROR, which never counts against a unit.
    Station,
    /// The provisioning service.
    Cloud,
}

/// Something went wrong: a code, and the arguments with which it is told.
///
/// It is stored and reported as `{"code": "device_silent", "args": {…}}`. A variant's name and fields are that form:
/// they change only together with the version of the events that hold faults.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, IntoStaticStr, VariantNames)]
#[serde(tag = "code", content = "args", rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Fault {
    // --- the port, and what is plugged into it
    /// Nothing is at the port's path.
    PortMissing {
        /// The bay's name.
        bay: String,
        /// The port's path.
        port: String,
    },
    /// Another process has the port.
    PortBusy {
        /// The bay's name.
        bay: String,
        /// The port's path.
        port: String,
    },
    /// This user may not open the port.
    PortDenied {
        /// The bay's name.
        bay: String,
        /// The port's path.
        port: String,
        /// The group that owns the port.
        group: String,
    },
    /// The device went away.
    DeviceGone {
        /// The bay's name.
        bay: String,
        /// How that was seen.
        how: Gone,
    },
    /// The device did not answer, however often it was asked.
    DeviceSilent {
        /// The bay's name.
        bay: String,
        /// The port's path.
        port: String,
        /// What it was asked.
        asked: Verb,
    },
    /// The device answered that it will not.
    DeviceRefused {
        /// The bay's name.
        bay: String,
        /// The port's path.
        port: String,
        /// What it was asked.
        asked: Verb,
        /// Why not.
        grounds: Grounds,
    },
    /// The product asks more of its devices than they can do.
    DeviceUnable {
        /// The bay's name.
        bay: String,
        /// What it would have been asked.
        asked: Verb,
    },
    /// What is plugged in is none of the line's devices.
    NotADeviceWeKnow {
        /// The bay's name.
        bay: String,
        /// Why not.
        how: Stranger,
    },
    /// Several units in a row fell silent at the same step: the bay is to blame.
    BaySilent {
        /// The bay's name.
        bay: String,
        /// How many.
        units: usize,
        /// The step.
        step: Doing,
    },
    /// The unit started anew in the middle of its job.
    PowerLost {
        /// The bay's name.
        bay: String,
        /// The unit.
        device: DeviceId,
    },
    /// A step with the unit took longer than its product allows.
    TooSlow {
        /// The bay's name.
        bay: String,
        /// The step.
        step: Doing,
        /// The limit, in milliseconds.
        limit_ms: u64,
    },

    // --- the unit, as it names itself and is named
    /// Its label and what it is do not go together.
    WrongLabel(LabelTrouble),
    /// No label was scanned for it in time.
    NotScanned {
        /// The bay's name.
        bay: String,
        /// The unit.
        device: DeviceId,
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
        /// What the product's names look like.
        format: IdFormat,
    },
    /// Every number of the format is given out.
    NoFreeId {
        /// The format.
        format: IdFormat,
    },
    /// The same device is in another bay.
    InTwoBays {
        /// The device.
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
        /// The product's name.
        product: String,
    },
    /// It is of another model.
    WrongModel {
        /// The unit.
        device: DeviceId,
        /// The model that it says it is.
        model: String,
        /// The product's model.
        wanted: String,
    },
    /// It runs firmware that the product does not take.
    WrongFirmware {
        /// The unit.
        device: DeviceId,
        /// The version that it says it runs.
        firmware: String,
        /// The product's name.
        product: String,
        /// The versions that the product takes.
        allowed: Vec<String>,
    },
    /// It has no TPM, and its product needs one.
    NoTpm {
        /// The unit.
        device: DeviceId,
        /// The product's name.
        product: String,
    },
    /// Its device ID does not fit a certificate's common name.
    IdTooLong {
        /// The unit.
        device: DeviceId,
    },
    /// It is sealed, and does not hold what this station gave it.
    SealedUnknown {
        /// The unit.
        device: DeviceId,
    },

    // --- what it holds, and whether it is the unit that it was
    /// It does not hold what was written.
    DoesNotHold {
        /// The unit.
        device: DeviceId,
        /// In what.
        how: Mismatch,
    },
    /// It did not start anew when it was reset.
    NoRestart {
        /// The unit.
        device: DeviceId,
    },
    /// Another device is where it was.
    Swapped {
        /// What the other one calls itself.
        found: DeviceId,
        /// The device that was there before; absent where that is not known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<DeviceId>,
    },
    /// Its certificate is for another key than the one that it shows.
    NewKey {
        /// The unit.
        device: DeviceId,
    },

    // --- its certificate
    /// Its certificate request is no good.
    RequestInvalid {
        /// In what.
        flaw: Flaw,
    },
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
        /// In what.
        flaw: Flaw,
    },
    /// The CA cannot issue this.
    CaUnfit {
        /// Name of the CA.
        ca: String,
        /// Which certificate of the CA's own path is at fault; absent where it is the CA's own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        which: Option<CertificateName>,
        /// In what.
        flaw: Flaw,
    },
    /// The product's profile asks for something that a certificate cannot say.
    DraftImpossible {
        /// What.
        flaw: Flaw,
    },
    /// What was signed is not what was reserved, or was not signed by the key that should have.
    SignedWrongly {
        /// In what.
        flaw: Flaw,
    },
    /// The product names no CA.
    NoCa {
        /// The product's name.
        product: String,
    },
    /// The HSM gave no certificate.
    NotSigned {
        /// Why.
        why: Unsigned,
    },
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
        /// The subject of the certificate above it; absent for the EK certificate itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        which: Option<String>,
        /// Its last day, as `YYYY-MM-DD`.
        day: String,
    },
    /// The EK certificate, or one above it, is not valid yet.
    EkCertificateNotYetValid {
        /// The subject of the certificate above it; absent for the EK certificate itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        which: Option<String>,
        /// Its first day, as `YYYY-MM-DD`.
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
    OtherTpm {
        /// The unit.
        device: DeviceId,
    },
    /// Its TPM did not meet the challenge that DPS will put to it.
    ChallengeNotMet {
        /// The unit.
        device: DeviceId,
    },

    /// The endorsement key in its TPM is not of the TCG's template.
    EkTemplate {
        /// The bay's name.
        bay: String,
        /// The key's handle.
        handle: u32,
        /// In what it differs.
        fault: TemplateFault,
    },
    /// Its TPM cannot open a credential that was made for the endorsement key that it showed.
    EkNotProved {
        /// The bay's name.
        bay: String,
        /// What the TSS said.
        said: String,
    },
    /// Its TPM's answers do not add up.
    TpmGarbled {
        /// The bay's name.
        bay: String,
        /// How.
        how: TpmGarble,
    },
    /// Its TPM did not do what it was asked.
    TpmFailed {
        /// The bay's name.
        bay: String,
        /// How.
        how: TpmTrouble,
    },
    /// Nothing came back from its TPM.
    TpmStalled {
        /// The bay's name.
        bay: String,
        /// On which way that was seen.
        how: Stall,
    },
    /// The station's own part of talking to a TPM failed.
    TpmBridge {
        /// The bay's name.
        bay: String,
        /// How.
        how: BridgeTrouble,
    },
    /// No challenge can be made for a TPM from what is on record of it.
    NoChallenge {
        /// The bay's name.
        bay: String,
        /// Why not.
        why: NoChallenge,
    },

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
        /// The device.
        device: DeviceId,
        /// The event's kind.
        kind: String,
    },
    /// The record of a device lacks what its last event needs.
    RecordIncomplete {
        /// The device.
        device: DeviceId,
    },

    // --- the station
    /// What is to be written could not be read back from such a device.
    CannotBeReadBack(Misfit),
    /// An earlier process ended while a unit was in the bay.
    StationStopped {
        /// The bay's name.
        bay: String,
    },
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
    LoopbackFailed {
        /// The bay's name.
        bay: String,
    },
    /// No loopback plug is on the port: what was sent did not come back.
    NoPlug {
        /// The port's path.
        port: String,
    },
    /// Bytes come from a port that should be tested, and nobody sent them.
    PortTalks {
        /// The port's path.
        port: String,
    },
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
        /// Name of the DPS instance.
        dps: String,
        /// Where its service API is.
        url: String,
        /// What the network said.
        said: String,
    },
    /// The service does not take the credential.
    DpsUnauthorized {
        /// Name of the DPS instance.
        dps: String,
        /// Where its service API is.
        url: String,
        /// Its words.
        complaint: Complaint,
        /// How far the station's clock is from the service's, where that may be the reason.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        clock: Option<ClockSkew>,
    },
    /// The service is too busy.
    DpsThrottled {
        /// Name of the DPS instance.
        dps: String,
        /// Where its service API is.
        url: String,
        /// Its words.
        complaint: Complaint,
    },
    /// The service refused the call.
    DpsRefused {
        /// Name of the DPS instance.
        dps: String,
        /// Where its service API is.
        url: String,
        /// Its words.
        complaint: Complaint,
    },
    /// The service gave no usable answer.
    DpsNoAnswer {
        /// Name of the DPS instance.
        dps: String,
        /// Where its service API is.
        url: String,
        /// What came instead.
        why: NoAnswer,
    },
    /// What answered does not speak the protocol.
    DpsMalformed {
        /// Name of the DPS instance.
        dps: String,
        /// Where its service API is.
        url: String,
        /// What it said.
        why: Malformed,
    },
    /// The options of a DPS instance cannot work.
    DpsConfiguration {
        /// Name of the DPS instance.
        dps: String,
        /// Which option, and why.
        setting: DpsSetting,
    },
    /// The station's share of the service's quota stays used up.
    DpsShare {
        /// Name of the DPS instance.
        dps: String,
        /// The share, in operations a minute.
        share: u32,
    },
    /// The station's clock is wrong by more than two minutes.
    ClockWrong {
        /// Name of the DPS instance that shows it.
        dps: String,
        /// By how much.
        skew: ClockSkew,
    },
    /// The service will not have this record, or holds another one under its registration ID.
    EnrollmentRefused {
        /// Name of the DPS instance.
        dps: String,
        /// The registration ID.
        registration_id: RegistrationId,
        /// Why.
        why: RecordTrouble,
    },
    /// The record is put off, and known not to be there: it may be sent again.
    EnrollmentDeferred {
        /// Name of the DPS instance.
        dps: String,
        /// The registration ID.
        registration_id: RegistrationId,
        /// Why.
        why: RecordTrouble,
    },
    /// The record is put off while nobody knows what its last call did: it is read back first.
    EnrollmentUnanswered {
        /// Name of the DPS instance.
        dps: String,
        /// The registration ID.
        registration_id: RegistrationId,
        /// Why.
        why: RecordTrouble,
    },

    /// A fault as ledgers of the first form keep it.
    #[serde(untagged)]
    Told(Told),
}

/// A fault that was recorded as a sentence. It keeps that sentence, in the language in which it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Told {
    /// A stable word for programs, such as `device_silent`.
    pub code: String,
    /// Who must act.
    pub blame: Blame,
    /// What happened, naming the thing; one clause, no full stop.
    pub what: String,
    /// What to do next; one clause, no full stop.
    pub next: String,
}

/// Why a reservation came to no certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unsigned {
    /// The signature was asked for, and its outcome is not known.
    OutcomeUnknown,
    /// An earlier attempt ended before the outcome was on record.
    AttemptEnded,
    /// The station stopped before the outcome was on record.
    StationStopped,
    /// The record lacks the reservation, the key or the CA.
    RecordIncomplete,
    /// The HSM gave no signature, or what it gave did not pass its check.
    Fault(Box<Fault>),
    /// What a ledger of the first form says.
    #[serde(untagged)]
    Told(String),
}

impl Fault {
    /// The stable word for programs, such as `device_silent`.
    pub fn code(&self) -> &str {
        match self {
            Self::Told(told) => &told.code,
            fault => fault.into(),
        }
    }

    /// Who must act.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Told(told) => told.blame,
            fault if fault.is_of_station() => Blame::Station,
            fault if fault.is_of_cloud() => Blame::Cloud,
            _ => Blame::Device,
        }
    }

    fn is_of_station(&self) -> bool {
        matches!(
            self,
            Self::PortMissing { .. }
                | Self::PortBusy { .. }
                | Self::PortDenied { .. }
                | Self::DeviceUnable { .. }
                | Self::BaySilent { .. }
                | Self::TpmBridge { .. }
                | Self::NoChallenge { .. }
                | Self::NoFreeId { .. }
                | Self::CaUnfit { .. }
                | Self::DraftImpossible { .. }
                | Self::SignedWrongly { .. }
                | Self::NoCa { .. }
                | Self::NotSigned { .. }
                | Self::Hsm(_)
                | Self::Ledger { .. }
                | Self::RecordDamaged { .. }
                | Self::RecordIncomplete { .. }
                | Self::CannotBeReadBack(_)
                | Self::StationStopped { .. }
                | Self::NoBay { .. }
                | Self::BayLost { .. }
                | Self::LoopbackFailed { .. }
                | Self::NoPlug { .. }
                | Self::PortTalks { .. }
                | Self::NoRandom
                | Self::NoPortList { .. }
                | Self::DpsUnauthorized { .. }
                | Self::DpsConfiguration { .. }
                | Self::DpsShare { .. }
                | Self::ClockWrong { .. }
        )
    }

    fn is_of_cloud(&self) -> bool {
        matches!(
            self,
            Self::DpsUnreachable { .. }
                | Self::DpsThrottled { .. }
                | Self::DpsRefused { .. }
                | Self::DpsNoAnswer { .. }
                | Self::DpsMalformed { .. }
                | Self::EnrollmentRefused { .. }
                | Self::EnrollmentDeferred { .. }
                | Self::EnrollmentUnanswered { .. }
        )
    }
}

/// Makes foreign text safe for a screen, a file or a label: at most `max` characters, control characters and
/// everything that is not printable replaced by `?`.
///
/// Direction marks and zero-width characters go too: they can make one ID look like another.
pub fn harmless(text: &str, max: usize) -> String {
    let bad = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    text.chars()
        .take(max)
        .map(|c| if bad(c) { '?' } else { c })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_bounded_and_has_no_escapes() {
        assert_eq!(harmless("a\x1b[31mb\r\n\u{202e}c", 80), "a?[31mb???c");
        assert_eq!(harmless(&"x".repeat(100), 5), "xxxxx");
    }

    #[test]
    fn a_fault_is_a_code_with_arguments_and_an_old_one_keeps_its_sentence() {
        let fault = Fault::NoCa {
            product: "sensor".to_owned(),
        };
        let text = r#"{"code":"no_ca","args":{"product":"sensor"}}"#;
        assert_eq!(serde_json::to_string(&fault).unwrap(), text);
        assert_eq!(serde_json::from_str::<Fault>(text).unwrap(), fault);
        assert_eq!((fault.code(), fault.blame()), ("no_ca", Blame::Station));

        let text = r#"{"code":"no_ca","blame":"station","what":"product sensor has no CA","next":"name one"}"#;
        let told: Fault = serde_json::from_str(text).unwrap();
        assert!(matches!(&told, Fault::Told(told) if told.next == "name one"));
        assert_eq!((told.code(), told.blame()), ("no_ca", Blame::Station));
        assert_eq!(serde_json::to_string(&told).unwrap(), text);
        let wrong = r#"{"code":"no_ca","args":{"products":"sensor"}}"#;
        assert!(serde_json::from_str::<Fault>(wrong).is_err());
    }
}
