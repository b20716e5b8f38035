//! What went wrong at a bay, in the operator's words: whose matter it is, and what to do next.

use crate::link::LinkError;
use crate::provision::fault::Fault;
use crate::provision::job::Effect;

/// Whose matter a fault of the link is, and what to do about it.
pub(super) fn link_fault(bay: &str, error: &LinkError) -> Fault {
    let what = format!("bay {bay}: {error}");
    match error {
        LinkError::PortMissing { .. } => Fault::station(
            "port_missing",
            what,
            "plug the adapter in, or correct the bay's port in station.toml",
        ),
        LinkError::PortBusy { .. } => Fault::station("port_busy", what, "close the other program"),
        LinkError::PortDenied { .. } => {
            Fault::station("port_denied", what, "log out and in again after joining it")
        }
        LinkError::Gone { .. } | LinkError::Io { .. } => {
            Fault::device("device_gone", what, "put the unit in again")
        }
        LinkError::Swapped { .. } => Fault::device(
            "swapped",
            what,
            "put one unit in, and leave it until it is done",
        ),
        LinkError::Silent { .. } => Fault::device(
            "device_silent",
            what,
            "check plug and power, then put the unit in again",
        ),
        LinkError::Refused { .. } => Fault::device(
            "device_refused",
            what,
            "set the unit aside and call the process engineer",
        ),
        LinkError::Malformed { .. } => Fault::device(
            "not_a_device_we_know",
            what,
            "set the unit aside and call the process engineer",
        ),
    }
}

pub(super) fn step_name(effect: &Effect) -> &'static str {
    match effect {
        Effect::RequestCertificate { .. } => "making its key",
        Effect::ReadEndorsement => "reading its endorsement key",
        Effect::Draft { .. } => "drafting its certificate",
        Effect::Sign { .. } => "signing its certificate",
        Effect::Write { .. } => "writing to it",
        Effect::Restart => "restarting it",
        Effect::ReadBack => "reading back",
        Effect::ProveKey => "proving its key",
        Effect::Rehearse { .. } => "rehearsing with its TPM",
        Effect::Seal { .. } => "sealing it",
    }
}

pub(super) fn cannot_be_read_back(why: String) -> Fault {
    let next = "correct the product's keys and limits in station.toml";
    Fault::station("cannot_be_read_back", why, next)
}

pub(super) fn no_ca(product: &str) -> Fault {
    Fault::NoCa {
        product: product.to_owned(),
    }
}
