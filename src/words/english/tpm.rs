//! What can go wrong with TPMs, in English.

use super::endorsement::template;
use super::link::verb;
use crate::provision::fault::{
    BridgeTrouble, Fault, NoChallenge, ResponseFlaw, Stall, TpmGarble, TpmTask, TpmTrouble,
};

const AGAIN: &str = "put the unit in again; set it aside if that does not help";

pub fn what(fault: &Fault) -> Option<String> {
    Some(match fault {
        Fault::EkTemplate { bay, handle, fault } => {
            format!("bay {bay}: the key at {handle:#010x} {}", template(fault))
        }
        Fault::EkNotProved { bay, said } => format!(
            "bay {bay}: the TPM cannot use the endorsement key that it showed, which may be another TPM's ({said})"
        ),
        Fault::TpmGarbled { bay, how } => format!("bay {bay}: {}", garble(how)),
        Fault::TpmFailed { bay, how } => format!("bay {bay}: {}", trouble(how)),
        Fault::TpmBusy {
            bay,
            command,
            rc,
            limit_ms,
        } => format!(
            "bay {bay}: the TPM put {command} off again and again ({rc:#x}), and {limit_ms} ms were over"
        ),
        Fault::TpmLocked { bay, command } => format!(
            "bay {bay}: the TPM is locked: it was given a wrong password too often, and so refuses {command} (0x921)"
        ),
        Fault::TpmStalled { bay, how } => format!("bay {bay}: {}", stall(how)),
        Fault::TpmBridge { bay, how } => format!("bay {bay}: {}", bridge(how)),
        Fault::NoChallenge { bay, why } => format!(
            "bay {bay}: no challenge can be made for the TPM ({})",
            no_challenge(why)
        ),
        _ => return None,
    })
}

pub fn next(fault: &Fault) -> Option<&'static str> {
    Some(match fault {
        Fault::TpmGarbled { .. } => AGAIN,
        Fault::TpmBusy { .. } => {
            "leave the unit without power for a minute, then put the unit in again; set it aside if that does not help"
        }
        Fault::TpmLocked { .. } => {
            "set the unit aside and have its TPM's lockout reset; it also ends by itself if the unit stays powered for some hours"
        }
        Fault::TpmStalled { .. } => {
            "check plug and power, then put the unit in again; set it aside if that does not help"
        }
        Fault::TpmBridge { .. } => "start the station again",
        Fault::NoChallenge { .. } => "run `station ledger verify`",
        _ => return None,
    })
}

fn garble(how: &TpmGarble) -> String {
    match how {
        TpmGarble::Name { handle } => {
            format!("the key at {handle:#010x} does not match its name")
        }
        TpmGarble::Response { command, flaw } => {
            format!(
                "the answer to {command} is not a TPM response: {}",
                response(*flaw)
            )
        }
    }
}

fn response(flaw: ResponseFlaw) -> String {
    match flaw {
        ResponseFlaw::Length(bytes) => format!("it has {bytes} bytes"),
        ResponseFlaw::Size(bytes) => format!("it has {bytes} bytes, and says another number"),
        ResponseFlaw::LongError(rc) => format!("it has code {rc:#x} and goes on after it"),
        ResponseFlaw::Handles => "its list of handles is broken".to_owned(),
        ResponseFlaw::Hmac => "its HMAC is not 32 bytes long".to_owned(),
        ResponseFlaw::Piece { asked, found } => {
            format!("it has {found} bytes where {asked} were asked for")
        }
    }
}

fn trouble(how: &TpmTrouble) -> String {
    match how {
        TpmTrouble::Task { task: one, said } => format!("{} failed: {said}", task(*one)),
        TpmTrouble::Command { command, rc } => format!("{command} failed with {rc:#x}"),
        TpmTrouble::Link { command } => format!("the link failed during {command}"),
        TpmTrouble::Deadline { command, limit_ms } => late(command, *limit_ms),
    }
}

fn late(command: &str, limit_ms: u64) -> String {
    format!("the TPM did not answer {command} within {limit_ms} ms")
}

fn task(task: TpmTask) -> &'static str {
    match task {
        TpmTask::Connect => "connecting the TSS",
        TpmTask::FindChain => "looking for intermediate certificates",
        TpmTask::Hmac => "HMAC",
        TpmTask::Flush => "forgetting a key",
        TpmTask::NameHandle => "naming a handle",
        TpmTask::Persist => "making the endorsement key persistent",
        TpmTask::ReadPersistent => "reading a persistent key",
        TpmTask::MakePrimary => "making a primary key",
        TpmTask::EncodePublic => "encoding a public area",
        TpmTask::ReadNv => "reading NV memory",
        TpmTask::PolicySession => "a policy session",
        TpmTask::PolicySecret => "PolicySecret",
        TpmTask::ActivateCredential => "ActivateCredential",
        TpmTask::Import => "importing the HMAC key",
    }
}

fn stall(how: &Stall) -> String {
    match how {
        Stall::Silent { port, asked } => format!(
            "{port}: the device did not answer when asked to {}",
            verb(*asked)
        ),
        Stall::Deadline { command, limit_ms } => late(command, *limit_ms),
    }
}

fn bridge(how: &BridgeTrouble) -> String {
    match how {
        BridgeTrouble::NotAllowed(code) => format!("the command {code:#010x} is not allowed"),
        BridgeTrouble::TooMany(max) => format!("a run may not have more than {max} commands"),
        BridgeTrouble::TooLong { found, max } => {
            format!("a text of {found} bytes cannot be signed: {max} is the most")
        }
        BridgeTrouble::Bridge(said) => format!("the TPM bridge failed: {said}"),
    }
}

fn no_challenge(why: &NoChallenge) -> String {
    match why {
        NoChallenge::Key(fault) => format!("a recorded key {}", template(fault)),
        NoChallenge::Encryption => "the key cannot be encrypted to".to_owned(),
        NoChallenge::Truncated(item) => format!("the challenge ends inside item {item} of 6"),
        NoChallenge::Trailing => "the challenge goes on after its six items".to_owned(),
    }
}
