//! What can go wrong between a bay and what is plugged into it.
//!
//! Invariant: what a device said is here only as numbers and as text that was made harmless.

use crate::provision::device::DeviceId;
use crate::provision::dialogue::{Nonsense, Verb};
use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

/// A program of this machine that has a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its process ID.
    pub pid: u32,
    /// Its name, as the kernel has it: at most 15 characters.
    pub program: String,
}

/// How a device was found to be gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gone {
    /// Its port went away; the port's path.
    Unplugged(String),
    /// The system failed on its port.
    Io {
        /// The port's path.
        port: String,
        /// What the system said.
        said: String,
    },
    /// It left before its label was scanned.
    Unscanned(DeviceId),
    /// It was told to start anew, and its port, which comes and goes with it, did not come back; the port's path.
    NoReturn(String),
}

/// What a port does instead of working.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdapterTrouble {
    /// It went away.
    Gone,
    /// The system failed on it; what that said.
    Io(String),
    /// It does not send what it is given.
    SendsNothing,
}

/// What makes a thing in a bay none of the line's devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stranger {
    /// Its answer makes no sense.
    Nonsense {
        /// The port's path.
        port: String,
        /// What it was asked.
        asked: Verb,
        /// What is wrong with its answer.
        nonsense: Nonsense,
    },
    /// It talks, and says who it is to no driver.
    Talks,
    /// It says who it is, and no product of the line fits.
    NoProduct {
        /// What it calls itself.
        device: DeviceId,
        /// The model that it says it is.
        model: String,
        /// The USB device behind the port, as `vendor:product`; absent where there is none, or no product asks for it.
        usb: Option<String>,
    },
}

/// What is done with a unit at a step of its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Doing {
    /// It is asked who it is.
    Answering,
    /// Its key is made.
    MakingKey,
    /// Its endorsement key is read.
    ReadingEndorsement,
    /// Its certificate is drafted.
    Drafting,
    /// Its certificate is signed.
    Signing,
    /// Certificate and configuration are written.
    Writing,
    /// It is restarted.
    Restarting,
    /// What it holds is read back.
    ReadingBack,
    /// It proves its key.
    ProvingKey,
    /// Its TPM rehearses the first contact.
    Rehearsing,
    /// It is sealed.
    Sealing,
}
