//! Why a device or its port did not do what was asked.

use super::smp::frame::PacketLength;
use super::smp::{self, HEADER_LENGTH, PacketError, SmpError, frame, group};
use crate::provision::device::DeviceId;
use crate::provision::dialogue::{Grounds, Nonsense, Verb};
use crate::provision::fault::Holder;
use std::io;
use std::sync::Arc;

/// Why a device or its port did not do what was asked.
#[derive(Clone, Debug)]
pub enum LinkError {
    /// Nothing is plugged in.
    PortMissing {
        /// The port's path.
        port: String,
    },
    /// Another program has the port.
    PortBusy {
        /// The port's path.
        port: String,
        /// The program; absent where the system shows none to this user.
        holder: Option<Holder>,
    },
    /// What is at the port's path is no serial port.
    NotAPort {
        /// The port's path.
        port: String,
    },
    /// This user may not open the port.
    PortDenied {
        /// The port's path.
        port: String,
        /// The group that owns the port.
        group: String,
    },
    /// The port went away while it was in use.
    Gone {
        /// The port's path.
        port: String,
    },
    /// No answer, however often it was asked.
    Silent {
        /// The port's path.
        port: String,
        /// What it was asked.
        what: Verb,
    },
    /// The device answered that it will not.
    Refused {
        /// The port's path.
        port: String,
        /// What it was asked.
        what: Verb,
        /// Its answer.
        grounds: Grounds,
    },
    /// The answer makes no sense.
    Malformed {
        /// The port's path.
        port: String,
        /// What it was asked.
        what: Verb,
        /// What is wrong with the answer.
        nonsense: Nonsense,
    },
    /// No device of this kind can do it: its driver does not have the verb, and the device was not asked.
    Unable {
        /// What it would have been asked.
        what: Verb,
    },
    /// The device that came back is not the one that was there before.
    Swapped {
        /// The port's path.
        port: String,
        /// What it calls itself.
        found: DeviceId,
    },
    /// The device answers, and has not started anew although it was told to.
    NotRestarted {
        /// What it calls itself.
        device: DeviceId,
    },
    /// The system failed.
    Io {
        /// The port's path.
        port: String,
        /// What the system said.
        source: Arc<io::Error>,
    },
}

impl LinkError {
    /// Why the device will not do it, if that is what it said.
    pub fn grounds(&self) -> Option<Grounds> {
        match self {
            Self::Refused { grounds, .. } => Some(*grounds),
            _ => None,
        }
    }

    /// Whether the port itself is lost, so that going on needs it to be opened again.
    pub fn lost_port(&self) -> bool {
        matches!(self, Self::Gone { .. } | Self::Io { .. })
    }
}

impl SmpError {
    /// What the error means; `user_group` is the group whose codes are [`group::Code`].
    pub(super) fn grounds(self, user_group: u16) -> Grounds {
        let code = match self.group {
            Some(group) if group == user_group => group::Code::of(self.code),
            Some(_) => None,
            None => self
                .code
                .checked_sub(smp::COMMON_USER)
                .and_then(group::Code::of),
        };
        match (code, self.group, self.code) {
            (Some(code), ..) => code.grounds(),
            (
                _,
                Some(smp::SETTINGS_GROUP),
                smp::SETTINGS_KEY_NOT_FOUND | smp::SETTINGS_ROOT_NOT_FOUND,
            ) => Grounds::UnknownSetting,
            (_, None, smp::COMMON_NOT_SUPPORTED) => Grounds::UnknownCommand,
            (_, _, smp::NO_CODE) => Grounds::Unnumbered,
            (_, group, code) => Grounds::Numbered { code, group },
        }
    }
}

impl From<PacketError> for Nonsense {
    fn from(error: PacketError) -> Self {
        match error {
            PacketError::Length => Self::Length,
            PacketError::Header => Self::Header,
            PacketError::Body => Self::Body,
            PacketError::Field(name) => Self::Field(name.to_owned()),
        }
    }
}

impl From<PacketLength> for Nonsense {
    fn from(PacketLength(found): PacketLength) -> Self {
        Self::Unsendable {
            found,
            min: HEADER_LENGTH,
            max: frame::MAX_PACKET,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_why_in_either_version() {
        for (group, code) in [(Some(64), 3), (None, 259)] {
            let error = SmpError { group, code };
            assert_eq!(error.grounds(64), Grounds::Sealed);
        }
    }

    #[test]
    fn errors_that_are_not_the_groups_own_have_grounds_where_they_are_known() {
        let numbered = |code, group| Grounds::Numbered { code, group };
        for (group, code, grounds) in [
            (Some(3), 3, Grounds::UnknownSetting),
            (Some(3), 5, Grounds::UnknownSetting),
            (None, 8, Grounds::UnknownCommand),
            (None, 5, numbered(5, None)),
            (Some(9), 3, numbered(3, Some(9))),
            (Some(3), smp::NO_CODE, Grounds::Unnumbered),
            (None, 300, numbered(300, None)),
        ] {
            assert_eq!(SmpError { group, code }.grounds(64), grounds);
        }
    }
}
