//! A fault's code, and whose matter it is: that follows from the code.
//!
//! Invariant: whoever must act for a code is the same wherever and whenever it is read.

use super::Fault;
use serde::{Deserialize, Serialize};

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
                | Self::NotAPort { .. }
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
                | Self::AdapterFailed { .. }
                | Self::PortTalks { .. }
                | Self::NoRandom
                | Self::NoPortList { .. }
                | Self::ProxyRefused(_)
                | Self::NoToken(_)
                | Self::DpsUntrusted(_)
                | Self::DpsUnauthorized { .. }
                | Self::DpsConfiguration { .. }
                | Self::DpsShare { .. }
                | Self::UploadElsewhere { .. }
                | Self::UploadPaused { .. }
                | Self::ClockWrong { .. }
        )
    }

    fn is_of_cloud(&self) -> bool {
        matches!(
            self,
            Self::DpsUnreachable { .. }
                | Self::ProxyUnreachable(_)
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
