//! What went wrong at a bay: whose matter it is, as a fault.

use crate::link::LinkError;
use crate::link::loopback::LoopbackError;
use crate::provision::device::{DeviceId, Identification};
use crate::provision::fault::{
    AdapterTrouble, BridgeTrouble, Doing, Fault, Gone, LabelTrouble, Stall, Stranger, TpmGarble,
    TpmTrouble, said,
};
use crate::provision::job::Effect;
use crate::provision::product::UsbId;
use crate::tpm::TpmError;
use std::time::Duration;

/// Whose matter a fault of the link is.
pub(crate) fn link_fault(bay: &str, error: &LinkError) -> Fault {
    let bay = bay.to_owned();
    match error.clone() {
        LinkError::PortMissing { port } => Fault::PortMissing { bay, port },
        LinkError::PortBusy { port, holder } => Fault::PortBusy { bay, port, holder },
        LinkError::NotAPort { port } => Fault::NotAPort { bay, port },
        LinkError::PortDenied { port, group } => Fault::PortDenied { bay, port, group },
        LinkError::Gone { port } => Fault::DeviceGone {
            bay,
            how: Gone::Unplugged(port),
        },
        LinkError::Io { port, source } => Fault::DeviceGone {
            bay,
            how: Gone::Io {
                port,
                said: said(&source),
            },
        },
        LinkError::Swapped { found, .. } => Fault::Swapped {
            found,
            before: None,
        },
        LinkError::NotRestarted { device } => Fault::NoRestart { device },
        LinkError::Silent { port, what: asked } => Fault::DeviceSilent { bay, port, asked },
        LinkError::Refused {
            port,
            what: asked,
            grounds,
        } => Fault::DeviceRefused {
            bay,
            port,
            asked,
            grounds,
        },
        LinkError::Unable { what: asked } => Fault::DeviceUnable { bay, asked },
        LinkError::Malformed {
            port,
            what: asked,
            nonsense,
        } => Fault::NotADeviceWeKnow {
            bay,
            how: Stranger::Nonsense {
                port,
                asked,
                nonsense,
            },
        },
    }
}

/// A unit whose port comes and goes with it did not come back from its restart.
pub(super) fn no_return(bay: &str, port: &str) -> Fault {
    Fault::DeviceGone {
        bay: bay.to_owned(),
        how: Gone::NoReturn(port.to_owned()),
    }
}

/// Why a port could not be tested; the name is empty where it is no bay's.
pub(crate) fn loopback_fault(bay: &str, error: &LoopbackError) -> Fault {
    match error {
        LoopbackError::NoPlug { port } => Fault::NoPlug { port: port.clone() },
        LoopbackError::Talks { port } => Fault::PortTalks { port: port.clone() },
        LoopbackError::Random { .. } => Fault::NoRandom,
        LoopbackError::SendsNothing { port } => Fault::AdapterFailed {
            port: port.clone(),
            how: AdapterTrouble::SendsNothing,
        },
        LoopbackError::Link(LinkError::Gone { port }) => Fault::AdapterFailed {
            port: port.clone(),
            how: AdapterTrouble::Gone,
        },
        LoopbackError::Link(LinkError::Io { port, source }) => Fault::AdapterFailed {
            port: port.clone(),
            how: AdapterTrouble::Io(said(source)),
        },
        LoopbackError::Link(error) => link_fault(bay, error),
    }
}

pub(super) fn step_of(effect: &Effect) -> Doing {
    match effect {
        Effect::RequestCertificate { .. } => Doing::MakingKey,
        Effect::ReadEndorsement => Doing::ReadingEndorsement,
        Effect::Draft { .. } => Doing::Drafting,
        Effect::Sign { .. } => Doing::Signing,
        Effect::Write { .. } => Doing::Writing,
        Effect::Restart => Doing::Restarting,
        Effect::ReadBack { .. } => Doing::ReadingBack,
        Effect::ProveKey => Doing::ProvingKey,
        Effect::Rehearse { .. } => Doing::Rehearsing,
        Effect::Seal { .. } => Doing::Sealing,
    }
}

pub(super) fn no_ca(product: &str) -> Fault {
    Fault::NoCa {
        product: product.to_owned(),
    }
}

pub(super) fn too_slow(bay: &str, step: Doing, limit: Duration) -> Fault {
    Fault::TooSlow {
        bay: bay.to_owned(),
        step,
        limit_ms: ms(limit),
    }
}

/// It talks, and says who it is to no driver.
pub(super) fn talks(bay: &str) -> Fault {
    Fault::NotADeviceWeKnow {
        bay: bay.to_owned(),
        how: Stranger::Talks,
    }
}

pub(super) fn no_product(bay: &str, found: &Identification, usb: Option<UsbId>) -> Fault {
    Fault::NotADeviceWeKnow {
        bay: bay.to_owned(),
        how: Stranger::NoProduct {
            device: found.device_id.clone(),
            model: found.model.clone(),
            usb: usb.map(|usb| usb.to_string()),
        },
    }
}

/// A device that is in another bay already.
pub(super) fn in_two_bays(device: &DeviceId, other: &str) -> Fault {
    Fault::InTwoBays {
        device: device.clone(),
        other: other.to_owned(),
    }
}

/// The label is another one than the unit's, which is on record.
pub(super) fn wrong_label(label: &str, known: &DeviceId) -> Fault {
    Fault::WrongLabel(LabelTrouble::OnRecord {
        label: label.to_owned(),
        known: known.clone(),
    })
}

pub(super) fn no_port_list(error: &std::io::Error) -> Fault {
    Fault::NoPortList { said: said(error) }
}

/// Nothing came back from the TPM, as far as the device itself went silent.
pub(super) fn tpm_silent(bay: &str, error: &LinkError) -> Option<Fault> {
    let LinkError::Silent { port, what } = error else {
        return None;
    };
    Some(Fault::TpmStalled {
        bay: bay.to_owned(),
        how: Stall::Silent {
            port: port.clone(),
            asked: *what,
        },
    })
}

/// Nothing came back from the TPM before the deadline.
pub(super) fn tpm_late(bay: &str, error: &TpmError) -> Option<Fault> {
    let TpmError::Deadline { command, limit } = error else {
        return None;
    };
    Some(Fault::TpmStalled {
        bay: bay.to_owned(),
        how: Stall::Deadline {
            command: (*command).to_owned(),
            limit_ms: ms(*limit),
        },
    })
}

/// Whose matter a fault of the TPM of `device` is.
pub(super) fn tpm_fault(bay: &str, device: &DeviceId, error: &TpmError) -> Fault {
    let bay = bay.to_owned();
    match error {
        TpmError::Template { handle, fault } => Fault::EkTemplate {
            bay,
            handle: *handle,
            fault: fault.clone(),
        },
        TpmError::AnotherKey { .. } => Fault::OtherTpm {
            device: device.clone(),
        },
        TpmError::NotActivated(error) => Fault::EkNotProved {
            bay,
            said: said(error),
        },
        TpmError::Busy { command, rc, limit } => Fault::TpmBusy {
            bay,
            command: (*command).to_owned(),
            rc: *rc,
            limit_ms: ms(*limit),
        },
        TpmError::LockedOut { command } => Fault::TpmLocked {
            bay,
            command: (*command).to_owned(),
        },
        TpmError::Name { handle } => Fault::TpmGarbled {
            bay,
            how: TpmGarble::Name { handle: *handle },
        },
        TpmError::Malformed { command, why } => Fault::TpmGarbled {
            bay,
            how: TpmGarble::Response {
                command: (*command).to_owned(),
                flaw: *why,
            },
        },
        error => match trouble(error) {
            Ok(how) => Fault::TpmFailed { bay, how },
            Err(how) => Fault::TpmBridge { bay, how },
        },
    }
}

/// Whether the TPM did not do it, or the station's own part failed.
fn trouble(error: &TpmError) -> Result<TpmTrouble, BridgeTrouble> {
    match error {
        TpmError::Command { task, error } => Ok(TpmTrouble::Task {
            task: *task,
            said: said(error),
        }),
        TpmError::Raw { command, rc } => Ok(TpmTrouble::Command {
            command: (*command).to_owned(),
            rc: *rc,
        }),
        TpmError::Link { command, .. } => Ok(TpmTrouble::Link {
            command: (*command).to_owned(),
        }),
        TpmError::Deadline { command, limit } => Ok(TpmTrouble::Deadline {
            command: (*command).to_owned(),
            limit_ms: ms(*limit),
        }),
        TpmError::NotAllowed(code) => Err(BridgeTrouble::NotAllowed(*code)),
        TpmError::TooMany(max) => Err(BridgeTrouble::TooMany(*max)),
        TpmError::TooLong { found, max } => Err(BridgeTrouble::TooLong {
            found: *found,
            max: *max,
        }),
        other => Err(BridgeTrouble::Bridge(said(other))),
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
