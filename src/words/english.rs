//! English: one row for each code, and the clauses that its arguments are told in.

mod certificate;
mod cloud;
mod endorsement;
mod hsm;
mod ledger;
mod link;
mod list;
mod tpm;
mod upload;

pub use certificate::{flaw as certificate_flaw, key_kind};
pub use cloud::{complaint, difference};
pub use endorsement::flaw as endorsement_flaw;
pub use link::{doing as step, misfit};
pub use list::{class, line};
pub use upload::progress;

use super::Words;
use crate::provision::device::DeviceId;
use crate::provision::fault::{
    Blame, Fault, HeldValue, IdentityKind, LabelTrouble, Mismatch, Unsigned,
};
use crate::provision::floor::Outcome;
use crate::provision::verdict::Verdict;

const SET_ASIDE: &str = "set the unit aside and call the process engineer";
const SET_BOTH_ASIDE: &str = "set both units aside and call the process engineer";
const COMPARE: &str = "compare label and unit, then put the unit in again and scan its own label";
const VERIFY: &str = "run `station ledger verify`";
const START_AGAIN: &str = "start the station again";

/// What a fault means for the unit in the bay.
pub fn meaning(blame: Blame) -> &'static str {
    match blame {
        Blame::Device => "this unit is not provisioned",
        Blame::Station => "the unit is not judged; the station must be put right",
        Blame::Cloud => "the record is kept; nothing is lost",
    }
}

/// The same where the attempt ended without a verdict: that alone means nothing bad.
pub fn meaning_of(verdict: Verdict, blame: Blame) -> &'static str {
    match verdict {
        Verdict::Interrupted => "the unit is not judged; nothing is lost",
        _ => meaning(blame),
    }
}

/// An attempt that ended well.
pub fn good(outcome: &Outcome) -> Words {
    let as_asked = "what was read back is what was asked";
    let (what, meaning) = match (outcome.verdict, outcome.endpoint_prefix) {
        (Verdict::Recognised, _) => (
            "passed before, is sealed, and holds what it held then".to_owned(),
            "this unit is ready; nothing was done to it",
        ),
        (Verdict::Injected, prefix) => (
            prefix.map_or(as_asked.to_owned(), |length| {
                format!("{as_asked}, the first {length} bytes of the endpoint")
            }),
            "this unit is configured and on record; it has no identity and is not enrolled",
        ),
        _ => (as_asked.to_owned(), "this unit is ready and on record"),
    };
    Words {
        what,
        meaning,
        next: "remove the unit".to_owned(),
    }
}

/// What happened.
pub fn what(fault: &Fault) -> String {
    match fault {
        Fault::WrongLabel(trouble) => label(trouble),
        Fault::NotScanned { bay, device } => {
            format!("bay {bay}: no label was scanned for {device}")
        }
        Fault::NothingAnswers {
            bay,
            label,
            waited_ms,
        } => format!(
            "bay {bay}: the label {label} was scanned, and nothing in the bay has answered for {} s",
            waited_ms / 1000
        ),
        Fault::NoUid { device } => format!("{device} has no unique ID to tie a name to"),
        Fault::OtherFormat { known, format } => {
            format!("the unit is on record as {known}, and its product has {format}")
        }
        Fault::NoFreeId { format } => format!("no number of the form {format} is free"),
        Fault::InTwoBays { device, other } => format!("{device} is already in bay {other}"),
        Fault::DuplicateIdentity { device, same } => match same {
            Some((kind, other)) => format!("{device} has the same {} as {other}", identity(*kind)),
            None => format!("{device} is on record as another unit"),
        },
        Fault::DoesNotHold { device, how } => mismatch(device, how),
        Fault::NoRestart { device } => format!("{device} did not start anew when it was reset"),
        Fault::Swapped { found, before } => match before {
            Some(before) if before == found => {
                format!("another unit that calls itself {found} too is in the bay now")
            }
            Some(before) => format!("{found} is in the bay where {before} was"),
            None => format!("another device, {found}, is in the bay now"),
        },
        Fault::NewKey { device } => {
            format!("{device} has another key than the one its certificate is for")
        }
        Fault::NotSigned { why } => format!("the HSM gave no certificate ({})", unsigned(why)),
        Fault::Ledger { path, trouble } => ledger::what(path, trouble),
        Fault::RecordDamaged { device, kind } => {
            format!("a recorded {kind} does not follow from what stands before it for {device}")
        }
        Fault::RecordIncomplete { device } => {
            format!("the record of {device} lacks what its last event needs")
        }
        Fault::CannotBeReadBack(why) => link::misfit(why),
        Fault::Told(told) => told.what.clone(),
        fault => policy(fault)
            .or_else(|| link::what(fault))
            .or_else(|| tpm::what(fault))
            .or_else(|| certificate::what(fault))
            .or_else(|| endorsement::what(fault))
            .or_else(|| station(fault))
            .or_else(|| cloud::what(fault))
            .unwrap_or_else(|| fault.code().replace('_', " ")),
    }
}

fn policy(fault: &Fault) -> Option<String> {
    Some(match fault {
        Fault::NoId { device, product } => {
            format!(
                "{device} has no ID of its own, and product {product} takes what the device has"
            )
        }
        Fault::WrongModel {
            device,
            model,
            wanted,
        } => format!("{device} is a {model}, not a {wanted}"),
        Fault::WrongFirmware {
            device,
            firmware,
            product,
            allowed,
        } => format!(
            "{device} runs firmware {firmware}, and product {product} takes {}",
            allowed.join(", ")
        ),
        Fault::NoTpm { device, product } => {
            format!("{device} has no TPM, and product {product} needs one")
        }
        Fault::IdTooLong { device } => {
            format!("{device} is longer than the 64 characters of a certificate's CN")
        }
        Fault::SealedUnknown { device } => {
            format!("{device} is sealed, and not with what this station gave it")
        }
        _ => return None,
    })
}

fn station(fault: &Fault) -> Option<String> {
    Some(match fault {
        Fault::StationStopped { bay } => {
            format!("the station stopped while a unit was in bay {bay}")
        }
        Fault::NoBay { last } => format!("no bay can be opened; the last said: {}", what(last)),
        Fault::BayLost { said } => format!("a bay stopped unexpectedly ({said})"),
        Fault::LoopbackFailed { bay } => format!("bay {bay} failed its last loopback test"),
        Fault::NoPlug { port } => format!("no loopback plug is on {port}"),
        Fault::PortTalks { port } => format!("something on {port} talks by itself"),
        Fault::NoRandom => "the system gives no random numbers".to_owned(),
        Fault::NoPortList { said } => {
            format!("the ports of this machine cannot be listed ({said})")
        }
        _ => return None,
    })
}

/// What to do next.
pub fn next(fault: &Fault) -> String {
    let fixed = match fault {
        Fault::WrongLabel(_) => COMPARE,
        Fault::NotScanned { .. } => "put the unit in again and scan its label",
        Fault::NoFreeId { .. } => "give the product another format in station.toml",
        Fault::InTwoBays { .. } => "take one of the two out and check its label",
        Fault::DuplicateIdentity { .. } => SET_BOTH_ASIDE,
        Fault::SealedUnknown { .. } => {
            "load fresh firmware, which clears the seal, and put the unit in again"
        }
        Fault::NothingAnswers { .. } => {
            "check plug and power, then scan the label and put the unit in again; set it aside if that does not help"
        }
        Fault::Swapped { .. } => "put one unit in, and leave it until it is done",
        Fault::NotSigned { .. } => "see `station check`, then put the unit in again",
        Fault::RecordDamaged { .. } | Fault::RecordIncomplete { .. } => VERIFY,
        Fault::CannotBeReadBack(_) => "correct the product's keys and limits in station.toml",
        Fault::StationStopped { .. } => "put the unit in again",
        Fault::BayLost { .. } | Fault::NoRandom => START_AGAIN,
        Fault::NoPlug { .. } => "take the unit out, put the plug in",
        Fault::PortTalks { .. } => "take the unit out, put the loopback plug in",
        Fault::LoopbackFailed { .. } => "put the loopback plug in and test the bay until it passes",
        Fault::NoPortList { .. } => "mount /sys, then start the station again",
        Fault::NoBay { last } => return next(last),
        Fault::Ledger { trouble, .. } => ledger::next(trouble),
        Fault::Told(told) => return told.next.clone(),
        fault => {
            return certificate::next(fault)
                .or_else(|| link::next(fault))
                .or_else(|| tpm::next(fault))
                .or_else(|| endorsement::next(fault))
                .map(str::to_owned)
                .or_else(|| cloud::next(fault))
                .unwrap_or_else(|| SET_ASIDE.to_owned());
        }
    };
    fixed.to_owned()
}

fn label(trouble: &LabelTrouble) -> String {
    match trouble {
        LabelTrouble::OfAnother { label, device } => {
            let label = label.as_deref().unwrap_or("nothing");
            format!("the label says {label}, and the unit is {device}")
        }
        LabelTrouble::OnRecord { label, known } => {
            format!("the label says {label}, and the unit is on record as {known}")
        }
        LabelTrouble::Form { label, format } => {
            format!("the label says {label}, and the ID of such a unit looks like {format}")
        }
    }
}

fn identity(kind: IdentityKind) -> &'static str {
    match kind {
        IdentityKind::PublicKey => "public key",
        IdentityKind::EndorsementKey => "endorsement key",
        IdentityKind::RegistrationId => "registration ID",
        IdentityKind::Uid => "microcontroller",
    }
}

fn mismatch(device: &DeviceId, how: &Mismatch) -> String {
    match how {
        Mismatch::Values(values) => {
            let names: Vec<_> = values.iter().copied().map(held).collect();
            let (verb, those) = match names.len() {
                1 => ("is", "the one"),
                _ => ("are", "those"),
            };
            let names = names.join(" and ");
            format!("the {names} read back from {device} {verb} not {those} written")
        }
        Mismatch::Chain => {
            format!("the certificates that {device} holds after its own are not those written")
        }
        Mismatch::Sealed => format!("what {device} sealed is not what was read back"),
        Mismatch::KeyLost => format!("the key of {device} is gone after the restart"),
        Mismatch::Name(Some(name)) => format!("{device} calls itself {name} after the restart"),
        Mismatch::Name(None) => format!("{device} has no name after the restart"),
    }
}

fn held(value: HeldValue) -> &'static str {
    match value {
        HeldValue::DeviceId => "device ID",
        HeldValue::IdScope => "ID scope",
        HeldValue::GlobalEndpoint => "global endpoint",
        HeldValue::RegistrationId => "registration ID",
        HeldValue::Certificate => "certificate",
    }
}

/// Why a reservation came to no certificate.
fn unsigned(why: &Unsigned) -> String {
    match why {
        Unsigned::OutcomeUnknown => {
            "the signature was asked for, and its outcome is not known".to_owned()
        }
        Unsigned::AttemptEnded => {
            "an earlier attempt ended before the outcome was on record".to_owned()
        }
        Unsigned::StationStopped => {
            "the station stopped before the outcome was on record".to_owned()
        }
        Unsigned::RecordIncomplete => {
            "the record lacks the reservation, the key or the CA".to_owned()
        }
        Unsigned::Fault(fault) => what(fault),
        Unsigned::Told(reason) => reason.clone(),
    }
}
