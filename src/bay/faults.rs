//! What went wrong at a bay, in the operator's words: whose matter it is, and what to do next.

use crate::link::LinkError;
use crate::provision::device::{DeviceId, Identification};
use crate::provision::dialogue::Misfit;
use crate::provision::fault::Fault;
use crate::provision::job::Effect;
use crate::provision::naming::IdFormat;
use crate::provision::product::UsbId;
use crate::tpm::TpmError;
use std::fmt::Display;
use std::io;
use std::time::Duration;

const SET_ASIDE: &str = "set the unit aside and call the process engineer";
const CHECK_PLUG: &str = "check plug and power, then put the unit in again";
const ONE_UNIT: &str = "put one unit in, and leave it until it is done";
const COMPARE: &str = "compare label and unit, then put the unit in again and scan its own label";
const SCAN: &str = "put the unit in again and scan its label";

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
        LinkError::Swapped { .. } => Fault::device("swapped", what, ONE_UNIT),
        LinkError::Silent { .. } => Fault::device("device_silent", what, CHECK_PLUG),
        LinkError::Refused { .. } => Fault::device("device_refused", what, SET_ASIDE),
        LinkError::Unable { .. } => Fault::station(
            "device_unable",
            what,
            "correct the product in station.toml: it asks more of its devices than they can do",
        ),
        LinkError::Malformed { .. } => Fault::device("not_a_device_we_know", what, SET_ASIDE),
    }
}

pub(super) fn step_name(effect: &Effect) -> &'static str {
    match effect {
        Effect::RequestCertificate { .. } => "making its key",
        Effect::ReadEndorsement => "reading its endorsement key",
        Effect::Draft { .. } => "drafting its certificate",
        Effect::Sign(_) => "signing its certificate",
        Effect::Write { .. } => "writing to it",
        Effect::Restart => "restarting it",
        Effect::ReadBack => "reading back",
        Effect::ProveKey => "proving its key",
        Effect::Rehearse { .. } => "rehearsing with its TPM",
        Effect::Seal { .. } => "sealing it",
    }
}

pub(super) fn cannot_be_read_back(misfit: &Misfit) -> Fault {
    let next = "correct the product's keys and limits in station.toml";
    Fault::station("cannot_be_read_back", misfit.to_string(), next)
}

pub(super) fn no_ca(product: &str) -> Fault {
    Fault::station(
        "no_ca",
        format!("product {product} has no CA"),
        "name one in station.toml",
    )
}

/// Another unit is where the one of this attempt was.
pub(super) fn swapped(bay: &str, found: &DeviceId, before: &DeviceId) -> Fault {
    let what = format!("bay {bay}: {found} is where {before} was");
    Fault::device("swapped", what, ONE_UNIT)
}

pub(super) fn power_lost(bay: &str, device: &DeviceId) -> Fault {
    let what = format!("bay {bay}: {device} started anew in the middle of its job");
    Fault::device("power_lost", what, CHECK_PLUG)
}

pub(super) fn too_slow(bay: &str, step: &str, limit: Duration) -> Fault {
    let what = format!(
        "bay {bay}: {step} took longer than {} ms",
        limit.as_millis()
    );
    let next = "put the unit in again; set it aside if that does not help";
    Fault::device("too_slow", what, next)
}

pub(super) fn key_lost(device: &DeviceId) -> Fault {
    let what =
        format!("{device} does not hold what was written: its key is gone after the restart");
    Fault::device("does_not_hold", what, SET_ASIDE)
}

/// It talks, and says who it is to no driver.
pub(super) fn talks(bay: &str) -> Fault {
    let what =
        format!("bay {bay}: what is plugged in talks, and does not answer as our devices do");
    Fault::device("not_a_device_we_know", what, SET_ASIDE)
}

pub(super) fn no_product(found: &Identification, usb: Option<UsbId>) -> Fault {
    let place = match usb {
        Some(usb) => format!(" on USB {usb}"),
        None => String::new(),
    };
    let (device, model) = (&found.device_id, &found.model);
    let what = format!("{device} is a {model}{place}, and no product here is");
    Fault::device("not_a_device_we_know", what, SET_ASIDE)
}

/// A device that is in another bay already.
pub(super) fn in_two_bays(device: &DeviceId, other: &str) -> Fault {
    Fault::device(
        "in_two_bays",
        format!("{device} is already in bay {other}"),
        "take one of the two out and check its label",
    )
}

/// The verdict of the bay instead of a unit's: several in a row fell silent.
pub(super) fn bay_silent(bay: &str, units: usize, step: &str) -> Fault {
    Fault::station(
        "bay_silent",
        format!("bay {bay}: {units} units in a row fell silent at the same step, {step}"),
        "check the bay's contacts and cable, then put the unit in again",
    )
}

/// The unit left while it waited for its label.
pub(super) fn gone_unscanned(bay: &str, device: &DeviceId) -> Fault {
    let what = format!("bay {bay}: {device} left before its label was scanned");
    Fault::device("device_gone", what, SCAN)
}

pub(super) fn not_scanned(bay: &str, device: &DeviceId) -> Fault {
    let what = format!("bay {bay}: no label was scanned for {device}");
    Fault::device("not_scanned", what, SCAN)
}

/// The label is another one than the unit's, which is on record.
pub(super) fn wrong_label(label: &str, known: &DeviceId) -> Fault {
    let what = format!("the label says {label}, and the unit is on record as {known}");
    Fault::device("wrong_label", what, COMPARE)
}

/// The label is none of such a unit.
pub(super) fn wrong_format(label: &str, format: &IdFormat) -> Fault {
    let what = format!("the label says {label}, and the ID of such a unit looks like {format}");
    Fault::device("wrong_label", what, COMPARE)
}

/// The unit's name on record is none of its product.
pub(super) fn other_format(known: &DeviceId, format: &IdFormat) -> Fault {
    let what = format!("the unit is on record as {known}, and its product has {format}");
    Fault::device("other_format", what, SET_ASIDE)
}

pub(super) fn no_uid(device: &DeviceId) -> Fault {
    let what = format!("{device} has no unique ID to tie a name to");
    Fault::device("no_uid", what, SET_ASIDE)
}

pub(super) fn no_free_id(format: &IdFormat) -> Fault {
    let what = format!("no number of the form {format} is free");
    let next = "give the product another format in station.toml";
    Fault::station("no_free_id", what, next)
}

pub(super) fn no_port_list(error: &io::Error) -> Fault {
    let what = format!("the ports of this machine cannot be listed ({error})");
    let next = "mount /sys, then start the station again";
    Fault::station("no_port_list", what, next)
}

/// Nothing came back from the TPM; `how` says on which way that was seen.
pub(super) fn tpm_stalled(bay: &str, how: &impl Display) -> Fault {
    let what = format!("bay {bay}: {how}");
    let next =
        "check plug and power, then put the unit in again; set it aside if that does not help";
    Fault::device("tpm_stalled", what, next)
}

pub(super) fn no_challenge(why: &str) -> Fault {
    let what = format!("no challenge can be made for the TPM ({why})");
    Fault::station("no_challenge", what, "run `station ledger verify`")
}

/// Whose matter a fault of the TPM is.
pub(super) fn tpm_fault(bay: &str, error: &TpmError) -> Fault {
    let what = format!("bay {bay}: {error}");
    match error {
        TpmError::Template { .. } => Fault::device("ek_template", what, SET_ASIDE),
        TpmError::AnotherKey { .. } => Fault::device("other_tpm", what, SET_ASIDE),
        TpmError::NotActivated(_) => Fault::device("ek_not_proved", what, SET_ASIDE),
        TpmError::Name { .. } | TpmError::Malformed { .. } => Fault::device(
            "tpm_garbled",
            what,
            "put the unit in again; set it aside if that does not help",
        ),
        TpmError::Command { .. }
        | TpmError::Raw { .. }
        | TpmError::Link { .. }
        | TpmError::Deadline { .. } => Fault::device("tpm_failed", what, SET_ASIDE),
        TpmError::NotAllowed(_)
        | TpmError::TooMany(_)
        | TpmError::TooLong { .. }
        | TpmError::Roots { .. }
        | TpmError::Bridge(_) => Fault::station("tpm_bridge", what, "start the station again"),
    }
}
