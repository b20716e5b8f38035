//! What can go wrong with ports and devices, in English.

use crate::provision::device::NameError;
use crate::provision::dialogue::{Grounds, Item, Misfit, Nonsense, Verb};
use crate::provision::fault::{AdapterTrouble, Doing, Fault, Gone, Holder, Stranger};

const CHECK_PLUG: &str = "check plug and power, then put the unit in again";

pub fn what(fault: &Fault) -> Option<String> {
    Some(match fault {
        Fault::PortMissing { bay, port } => format!("{}{port}: there is no such port", at(bay)),
        Fault::PortBusy { bay, port, holder } => match holder {
            Some(Holder { pid, program }) => format!(
                "{}{port}: another program, {program} (process {pid}), has the port open",
                at(bay)
            ),
            None => format!("{}{port}: another program is using the port", at(bay)),
        },
        Fault::NotAPort { bay, port } => format!("{}{port} is no serial port", at(bay)),
        Fault::PortDenied { bay, port, group } => format!(
            "{}{port}: no permission to open the port; this user must join the group {group}",
            at(bay)
        ),
        Fault::DeviceGone { bay, how } => format!("{}{}", at(bay), gone(how)),
        Fault::DeviceSilent { bay, port, asked } => format!(
            "bay {bay}: {port}: the device did not answer when asked to {}",
            verb(*asked)
        ),
        Fault::DeviceRefused {
            bay,
            port,
            asked,
            grounds: found,
        } => format!(
            "bay {bay}: {port}: the device refused to {} because {}",
            verb(*asked),
            grounds(*found)
        ),
        Fault::DeviceUnable { bay, asked } => {
            format!("bay {bay}: no device of this kind can {}", verb(*asked))
        }
        Fault::NotADeviceWeKnow { bay, how } => stranger(bay, how),
        Fault::BaySilent { bay, units, step } => format!(
            "bay {bay}: {units} units in a row fell silent at the same step, {}",
            doing(*step)
        ),
        Fault::PowerLost { bay, device } => {
            format!("bay {bay}: {device} started anew in the middle of its job")
        }
        Fault::KeepsRestarting { bay, device, times } => format!(
            "bay {bay}: {device} came back by itself each time that it was served, which was {times} times in a row"
        ),
        Fault::AdapterFailed { port, how } => match how {
            AdapterTrouble::Gone => format!("{port}: the adapter went away"),
            AdapterTrouble::Io(said) => format!("{port}: the adapter failed ({said})"),
            AdapterTrouble::SendsNothing => {
                format!("{port}: the adapter does not send what it is given")
            }
        },
        Fault::TooSlow {
            bay,
            step,
            limit_ms,
        } => format!("bay {bay}: {} took longer than {limit_ms} ms", doing(*step)),
        _ => return None,
    })
}

pub fn next(fault: &Fault) -> Option<&'static str> {
    Some(match fault {
        Fault::PortMissing { .. } => {
            "plug the adapter in, or correct the bay's port in station.toml"
        }
        Fault::PortBusy { .. } => "close the other program",
        Fault::NotAPort { .. } => "correct the bay's port in station.toml",
        Fault::PortDenied { .. } => "log out and in again after joining it",
        Fault::DeviceGone {
            how: Gone::Unscanned(_),
            ..
        } => "put the unit in again and scan its label",
        Fault::DeviceGone {
            how: Gone::NoReturn(_),
            ..
        }
        | Fault::TooSlow { .. } => "put the unit in again; set it aside if that does not help",
        Fault::DeviceGone { .. } => "put the unit in again",
        Fault::AdapterFailed { .. } => {
            "plug the adapter in again, and replace it if that does not help"
        }
        Fault::DeviceSilent { .. } | Fault::PowerLost { .. } => CHECK_PLUG,
        Fault::KeepsRestarting { .. } => {
            "check plug and power, leave the unit out for ten seconds, then put the unit in again; set it aside if that does not help"
        }
        Fault::DeviceUnable { .. } => {
            "correct the product in station.toml: it asks more of its devices than they can do"
        }
        Fault::BaySilent { .. } => "check the bay's contacts and cable, then put the unit in again",
        _ => return None,
    })
}

/// The bay that a fault is of; nothing where the port is no bay's.
fn at(bay: &str) -> String {
    match bay {
        "" => String::new(),
        bay => format!("bay {bay}: "),
    }
}

fn gone(how: &Gone) -> String {
    match how {
        Gone::Unplugged(port) => format!("{port}: the device was unplugged"),
        Gone::Io { port, said } => format!("{port}: {said}"),
        Gone::NoReturn(port) => {
            format!("{port}: the device was told to start anew, and did not come back")
        }
        Gone::Unscanned(device) => format!("{device} left before its label was scanned"),
    }
}

fn stranger(bay: &str, how: &Stranger) -> String {
    match how {
        Stranger::Nonsense {
            port,
            asked,
            nonsense: found,
        } => format!(
            "bay {bay}: {port}: the device was asked to {} and answered nonsense: {}",
            verb(*asked),
            nonsense(found)
        ),
        Stranger::Talks => {
            format!("bay {bay}: what is plugged in talks, and does not answer as our devices do")
        }
        Stranger::NoProduct { device, model, usb } => {
            let place = usb
                .as_ref()
                .map_or(String::new(), |usb| format!(" on USB {usb}"));
            format!("{device} is a {model}{place}, and no product here is")
        }
    }
}

/// What is done with a unit, as "making its key".
/// A step with a unit, as it is named in the middle of a sentence.
pub fn doing(step: Doing) -> &'static str {
    match step {
        Doing::Answering => "answering",
        Doing::MakingKey => "making its key",
        Doing::ReadingEndorsement => "reading its endorsement key",
        Doing::Drafting => "drafting its certificate",
        Doing::Signing => "signing its certificate",
        Doing::Writing => "writing to it",
        Doing::Restarting => "restarting it",
        Doing::ReadingBack => "reading back",
        Doing::ProvingKey => "proving its key",
        Doing::Rehearsing => "rehearsing with its TPM",
        Doing::Sealing => "sealing it",
    }
}

/// What a device is asked, as the end of "it was asked to ...".
pub fn verb(verb: Verb) -> String {
    let fixed = match verb {
        Verb::Identify => "identify itself",
        Verb::MakeKey => "make a key",
        Verb::Show(one) => return format!("show its {}", item(one)),
        Verb::Take(one) => return format!("take its {}", item(one)),
        Verb::Save => "save its settings",
        Verb::Sign => "sign a nonce",
        Verb::Seal => "seal itself",
        Verb::AskTpm => "ask its TPM",
        Verb::Restart => "start anew",
        Verb::TakeMark => "take a value for the time until it starts anew",
        Verb::ShowMark => "show whether it has started anew",
        Verb::Echo => "echo",
        Verb::Parameters => "say how long packets may be",
        Verb::Listen => "take what is sent",
    };
    fixed.to_owned()
}

fn item(item: Item) -> &'static str {
    match item {
        Item::DeviceId => "device ID",
        Item::IdScope => "ID scope",
        Item::GlobalEndpoint => "global endpoint",
        Item::RegistrationId => "registration ID",
        Item::Certificate => "certificate",
        Item::CertificateRequest => "certificate request",
    }
}

/// Why a device will not do it, as the end of "it refused because ...".
fn grounds(grounds: Grounds) -> String {
    let fixed = match grounds {
        Grounds::Unknown => "of an unknown error",
        Grounds::Malformed => "it found the request malformed",
        Grounds::Sealed => "it is sealed",
        Grounds::NoObject => "it has no such object",
        Grounds::BadOffset => "a part came out of order",
        Grounds::TooLong => "the data are too long for it",
        Grounds::BadDigest => "the data arrived damaged",
        Grounds::HoldsOther => "it holds something else",
        Grounds::NoKey => "it has no key",
        Grounds::NoTpm => "it has no TPM",
        Grounds::TpmFailed => "its TPM did not answer",
        Grounds::StorageFailed => "its flash failed",
        Grounds::UnknownSetting => "it does not know the settings key, or not such a value",
        Grounds::UnknownCommand => "its firmware does not know the command",
        Grounds::Unnumbered => "of an error without a number",
        Grounds::Numbered { code, group: None } => return format!("of error {code}"),
        Grounds::Numbered {
            code,
            group: Some(group),
        } => return format!("of error {code} of group {group}"),
    };
    fixed.to_owned()
}

fn nonsense(nonsense: &Nonsense) -> String {
    let fixed = match nonsense {
        Nonsense::Length => "the length in the header does not fit",
        Nonsense::Header => "the header has an unknown version or operation",
        Nonsense::Body => "the body is not a CBOR map of sane size",
        Nonsense::Field(name) => {
            return format!("the field {name:?} is missing or has the wrong type");
        }
        Nonsense::TooLong { field, found, max } => {
            return format!(
                "the field {field:?} is too long: {found} bytes, and {max} is the most"
            );
        }
        Nonsense::Unsendable { found, min, max } => {
            return format!("a packet has {min} to {max} bytes, not {found}");
        }
        Nonsense::OtherRequest => "it is the answer to another request",
        Nonsense::OtherPart => "it is another part",
        Nonsense::TookOtherPart => "it has another part",
        Nonsense::Parts => "the parts do not make up the whole",
        Nonsense::Damaged => "it arrived damaged each time",
        Nonsense::HoldsOther => "it now holds something else",
        Nonsense::SealedOther => "it sealed something else",
        Nonsense::OtherValue => "it has another value",
        Nonsense::NoCertificates => "not DER certificates",
        Nonsense::LongSignature => "the signature is too long",
        Nonsense::GroupVersion(version) => {
            return format!("it speaks version {version} of the provisioning group");
        }
        Nonsense::Nameless => "it has neither a device ID nor a microcontroller's unique ID",
        Nonsense::DeviceId(error) => return format!("its device ID {}", name(error)),
        Nonsense::CutOff(length) => {
            return format!("it gives {length} bytes and may have more");
        }
    };
    fixed.to_owned()
}

fn name(error: &NameError) -> String {
    error.to_string()
}

/// Why a device of a product cannot hold a value and give it back.
pub fn misfit(misfit: &Misfit) -> String {
    match misfit {
        Misfit::Key { key, max } => {
            format!("the settings key {key:?} must have 1 to {max} characters")
        }
        Misfit::SameKey { key } => format!("two values have the settings key {key:?}"),
        Misfit::Value {
            item: one,
            value,
            max,
        } => format!(
            "the {} {value:?} has {} bytes, and the device gives back no more than {max}",
            item(*one),
            value.len()
        ),
    }
}
