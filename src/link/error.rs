//! Why a device or its port did not do what was asked.

use super::smp::frame::PacketLength;
use super::smp::{self, HEADER_LENGTH, PacketError, SmpError, frame, group};
use crate::provision::device::DeviceId;
use crate::provision::dialogue::{Grounds, Nonsense, Verb};
use std::io;
use std::sync::Arc;

/// Why a device or its port did not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LinkError {
    /// Nothing is plugged in.
    #[error("{port}: there is no such port")]
    PortMissing {
        /// The port's path.
        port: String,
    },
    /// Another process has the port.
    #[error("{port}: another program is using the port")]
    PortBusy {
        /// The port's path.
        port: String,
    },
    /// This user may not open the port.
    #[error("{port}: no permission to open the port; this user must join the group {group}")]
    PortDenied {
        /// The port's path.
        port: String,
        /// The group that owns the port.
        group: String,
    },
    /// The port went away while it was in use.
    #[error("{port}: the device was unplugged")]
    Gone {
        /// The port's path.
        port: String,
    },
    /// No answer, however often it was asked.
    #[error("{port}: the device did not answer when asked to {what}")]
    Silent {
        /// The port's path.
        port: String,
        /// What it was asked.
        what: Verb,
    },
    /// The device answered that it will not.
    #[error("{port}: the device refused to {what} because {grounds}")]
    Refused {
        /// The port's path.
        port: String,
        /// What it was asked.
        what: Verb,
        /// Its answer.
        grounds: Grounds,
    },
    /// The answer makes no sense.
    #[error("{port}: the device was asked to {what} and answered nonsense: {nonsense}")]
    Malformed {
        /// The port's path.
        port: String,
        /// What it was asked.
        what: Verb,
        /// What is wrong with the answer.
        nonsense: Nonsense,
    },
    /// No device of this kind can do it: its driver does not have the verb, and the device was not asked.
    #[error("no device of this kind can {what}")]
    Unable {
        /// What it would have been asked.
        what: Verb,
    },
    /// The device that came back is not the one that was there before.
    #[error("{port}: another device, {found}, is there now")]
    Swapped {
        /// The port's path.
        port: String,
        /// What it calls itself.
        found: DeviceId,
    },
    /// The system failed.
    #[error("{port}: {source}")]
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
    use crate::provision::dialogue::Item;

    fn refused(what: Verb, error: SmpError) -> String {
        let error = LinkError::Refused {
            port: "/dev/x".to_owned(),
            what,
            grounds: error.grounds(64),
        };
        error.to_string()
    }

    #[test]
    fn a_refusal_says_why_in_either_version() {
        for (group, code) in [(Some(64), 3), (None, 259)] {
            let error = SmpError { group, code };
            assert_eq!(error.grounds(64), Grounds::Sealed);
            assert_eq!(
                refused(Verb::Sign, error),
                "/dev/x: the device refused to sign a nonce because it is sealed"
            );
        }
    }

    #[test]
    fn errors_that_are_not_the_groups_own_are_said_in_words_where_there_are_some() {
        for (group, code, why) in [
            (
                Some(3),
                3,
                "it does not know the settings key, or not such a value",
            ),
            (
                Some(3),
                5,
                "it does not know the settings key, or not such a value",
            ),
            (None, 8, "its firmware does not know the command"),
            (None, 5, "of error 5"),
            (Some(9), 3, "of error 3 of group 9"),
            (
                Some(3),
                smp::NO_CODE,
                "of an error that it gave no number of",
            ),
            (None, 300, "of error 300"),
        ] {
            assert_eq!(
                refused(Verb::Show(Item::IdScope), SmpError { group, code }),
                format!("/dev/x: the device refused to show its ID scope because {why}")
            );
        }
    }
}
