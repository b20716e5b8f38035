//! How to talk to a device: everything the bay may ask of what is plugged in.

mod dialogue;
pub mod loopback;
pub mod port;
pub mod session;
pub mod smp;
pub mod stock;
mod wire;

use crate::provision::device::{DeviceId, Holding};
pub use crate::provision::health::LinkHealth;
use crate::provision::injected::Readback;
use serde::{Deserialize, Serialize};
use smp::{Refusal, frame, group};
use std::io;
use std::time::Duration;

/// The longest settings key, in bytes (Zephyr, `MCUMGR_GRP_SETTINGS_NAME_LEN`, less its terminating zero).
const LONGEST_KEY: usize = 31;
/// The longest host name, in bytes (RFC 1035, section 2.3.4, as text).
const LONGEST_HOST: usize = 253;

/// A session with the device in a bay.
pub type DeviceLink = session::Session<port::Port>;

/// How to talk over one bay's port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LinkOptions {
    /// Bits per second; USB CDC ACM and pseudo-terminals ignore it.
    pub baud: u32,
    /// Longest packet to begin with, in bytes. 182 fit two lines, which is what a Zephyr server buffers by default.
    pub frame_size: usize,
    /// Longest packet to try for when a session opens, in bytes: the size doubles from `frame_size` as long as an
    /// echo of that size comes back.
    pub frame_limit: usize,
    /// Longest line, in bytes, with marker and newline.
    pub line_length: usize,
    /// Pause between the lines of a packet, in milliseconds.
    pub line_pause_ms: u64,
    /// How long to wait for an ordinary answer, in milliseconds.
    pub answer_ms: u64,
    /// How long to wait in all for a key to be made or a TPM to work, in milliseconds.
    pub slow_answer_ms: u64,
    /// How long all commands to a device's TPM in one step may take, in milliseconds: the slowest TPM known makes an
    /// RSA key in 7.5 s, and two may have to be made.
    pub tpm_ms: u64,
    /// How long a device may take to start anew, in milliseconds.
    pub restart_ms: u64,
    /// How long what has appeared in the bay may take to say who it is, in milliseconds.
    pub arrival_ms: u64,
    /// How often an ordinary request is sent, at least once.
    pub tries: u32,
    /// Number of the provisioning user group.
    pub user_group: u16,
    /// Level to set on DTR after opening; absent leaves it as the system sets it.
    pub dtr: Option<bool>,
    /// Level to set on RTS after opening; absent leaves it as the system sets it.
    pub rts: Option<bool>,
}

/// Under which settings keys the device keeps what is injected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Injection {
    /// Key of the ID scope; Zephyr takes keys of at most 31 characters.
    pub id_scope: String,
    /// Key of the global endpoint.
    pub endpoint: String,
    /// Key of the registration ID.
    pub registration_id: String,
    /// Key of the device ID, which is injected only where it does not come from the device.
    pub device_id: String,
    /// How values are sent.
    pub value: ValueType,
    /// The longest value that the device gives back whole, in bytes. Zephyr's own limit is 32
    /// (`MCUMGR_GRP_SETTINGS_VALUE_LEN`); firmware with the provisioning group has 253.
    pub value_limit: usize,
    /// Key under which a device with stock firmware has its own ID; for injection-only products, which need it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id_key: Option<String>,
    /// How much of the global endpoint such a device must give back; every other value must come back whole.
    pub endpoint_readback: Readback,
}

/// The CBOR type of a setting's value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ValueType {
    /// A byte string, as Zephyr has it.
    #[default]
    Bytes,
    /// A text, as Apache Mynewt has it (`sys/config/src/config_mgmt.c`).
    Text,
}

/// What a device was found to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The values, with the digest of the leaf certificate.
    pub holding: Holding,
    /// The certificates in DER, the device's own first; empty on a TPM device.
    pub chain: Vec<Vec<u8>>,
}

/// Why a device or its port did not do what was asked.
#[derive(Debug, thiserror::Error)]
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
        /// What it was asked, as a verb.
        what: &'static str,
    },
    /// The device answered that it will not.
    #[error("{port}: the device refused to {what} because {}", meaning(.refusal, *.user_group))]
    Refused {
        /// The port's path.
        port: String,
        /// What it was asked, as a verb.
        what: &'static str,
        /// Its answer.
        refusal: Refusal,
        /// The group whose codes are [`group::Code`].
        user_group: u16,
    },
    /// The answer makes no sense.
    #[error("{port}: the device was asked to {what} and answered nonsense: {why}")]
    Malformed {
        /// The port's path.
        port: String,
        /// What it was asked, as a verb.
        what: &'static str,
        /// What is wrong with the answer.
        why: String,
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
        source: io::Error,
    },
}

impl Default for LinkOptions {
    fn default() -> Self {
        let two_lines = frame::packet_in(2, frame::LINE_LENGTH);
        Self {
            baud: 115_200,
            frame_size: two_lines,
            frame_limit: two_lines,
            line_length: frame::LINE_LENGTH,
            line_pause_ms: 0,
            answer_ms: 1_000,
            slow_answer_ms: 15_000,
            tpm_ms: 25_000,
            restart_ms: 15_000,
            arrival_ms: 5_000,
            tries: 4,
            user_group: group::GROUP,
            dtr: None,
            rts: None,
        }
    }
}

impl LinkOptions {
    fn answer(&self) -> Duration {
        Duration::from_millis(self.answer_ms)
    }

    fn slow_answer(&self) -> Duration {
        Duration::from_millis(self.slow_answer_ms)
    }
}

impl Default for Injection {
    fn default() -> Self {
        Self {
            id_scope: "dps/id_scope".to_owned(),
            endpoint: "dps/endpoint".to_owned(),
            registration_id: "dps/reg_id".to_owned(),
            device_id: "dps/device_id".to_owned(),
            value: ValueType::default(),
            value_limit: LONGEST_HOST,
            id_key: None,
            endpoint_readback: Readback::default(),
        }
    }
}

impl Injection {
    /// Whether a device can hold these values under these keys, and give them back; if not, why. Only the endpoint
    /// may be longer than what comes back, where [`Self::endpoint_readback`] says so.
    ///
    /// # Errors
    ///
    /// A sentence that names the key or the value.
    pub fn fits(&self, holding: &Holding) -> Result<(), String> {
        let no_value = String::new(); // each device's own
        let values = [
            (&self.device_id, "device ID", &no_value),
            (&self.id_scope, "ID scope", &holding.id_scope),
            (&self.endpoint, "global endpoint", &holding.global_endpoint),
            (
                &self.registration_id,
                "registration ID",
                &holding.registration_id,
            ),
        ];
        for (key, name, value) in values {
            if key.is_empty() || key.len() > LONGEST_KEY {
                return Err(format!(
                    "the settings key {key:?} must have 1 to {LONGEST_KEY} characters"
                ));
            }
            if values.iter().filter(|(other, ..)| *other == key).count() > 1 {
                return Err(format!("two values have the settings key {key:?}"));
            }
            let whole = name != "global endpoint" || self.endpoint_readback == Readback::Whole;
            if whole && value.len() > self.value_limit {
                return Err(format!(
                    "the {name} {value:?} has {} bytes, and the device gives back no more than {}",
                    value.len(),
                    self.value_limit
                ));
            }
        }
        Ok(())
    }
}

impl LinkError {
    /// The provisioning group's code, if the device refused with one.
    pub fn code(&self) -> Option<group::Code> {
        match self {
            Self::Refused {
                refusal,
                user_group,
                ..
            } => code_of(refusal, *user_group),
            _ => None,
        }
    }

    /// Whether the device answered that it does not know the command: as stock firmware does to *identify*.
    pub fn is_unknown_command(&self) -> bool {
        let unknown = Refusal {
            group: None,
            code: smp::COMMON_NOT_SUPPORTED,
        };
        matches!(self, Self::Refused { refusal, .. } if *refusal == unknown)
    }

    /// Whether the port itself is lost, so that going on needs it to be opened again.
    pub fn lost_port(&self) -> bool {
        matches!(self, Self::Gone { .. } | Self::Io { .. })
    }
}

fn code_of(refusal: &Refusal, user_group: u16) -> Option<group::Code> {
    match refusal.group {
        Some(group) if group == user_group => group::Code::of(refusal.code),
        Some(_) => None,
        None => group::Code::of(refusal.code.checked_sub(smp::COMMON_USER)?),
    }
}

fn meaning(refusal: &Refusal, user_group: u16) -> String {
    match (code_of(refusal, user_group), refusal) {
        (Some(code), _) => code.meaning().to_owned(),
        (
            _,
            Refusal {
                group: Some(smp::SETTINGS_GROUP),
                code: smp::SETTINGS_KEY_NOT_FOUND | smp::SETTINGS_ROOT_NOT_FOUND,
            },
        ) => "it does not know the settings key, or not such a value".to_owned(),
        (
            _,
            Refusal {
                group: None,
                code: smp::COMMON_NOT_SUPPORTED,
            },
        ) => "its firmware does not know the command".to_owned(),
        (
            _,
            Refusal {
                code: smp::NO_CODE, ..
            },
        ) => "of an error that it gave no number of".to_owned(),
        (
            _,
            Refusal {
                group: Some(group),
                code,
            },
        ) => format!("of error {code} of group {group}"),
        (_, Refusal { group: None, code }) => format!("of error {code}"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn options_have_defaults_and_refuse_unknown_keys() {
        let options: LinkOptions = toml::from_str("baud = 921600").unwrap();
        assert_eq!((options.baud, options.frame_size), (921_600, 182));
        assert!(toml::from_str::<LinkOptions>("bauds = 1").is_err());
        let injection: Injection = toml::from_str("value = \"text\"").unwrap();
        assert_eq!(injection.value, ValueType::Text);
        assert_eq!(injection.id_scope, "dps/id_scope");
    }

    #[test]
    fn values_that_cannot_be_read_back_whole_are_refused() {
        let holding = Holding {
            id_scope: "0ne00112233".to_owned(),
            global_endpoint: "global.azure-devices-provisioning.net".to_owned(),
            registration_id: "gw-0001".to_owned(),
            certificate_sha256: None,
        };
        let keys: Injection = toml::from_str("value_limit = 32").unwrap();
        let why = keys.fits(&holding).unwrap_err();
        assert_eq!(
            why,
            "the global endpoint \"global.azure-devices-provisioning.net\" has 37 bytes, and the device gives back no \
             more than 32"
        );
        let by_prefix = Injection {
            endpoint_readback: Readback::Prefix,
            ..keys
        };
        assert_eq!(by_prefix.fits(&holding), Ok(()));
        let long = Holding {
            registration_id: "x".repeat(33),
            ..holding.clone()
        };
        assert!(by_prefix.fits(&long).is_err());
        assert_eq!(Injection::default().fits(&long), Ok(()));
        for id_scope in ["", "a/key/of/thirty-two/characters!!", "dps/endpoint"] {
            let keys = Injection {
                id_scope: id_scope.to_owned(),
                ..Injection::default()
            };
            assert!(keys.fits(&holding).is_err(), "{id_scope}");
        }
    }

    #[test]
    fn a_refusal_says_why_in_either_version() {
        for (group, code) in [(Some(64), 3), (None, 259)] {
            let error = LinkError::Refused {
                port: "/dev/x".to_owned(),
                what: "sign",
                refusal: Refusal { group, code },
                user_group: 64,
            };
            assert_eq!(error.code(), Some(group::Code::Sealed));
            assert_eq!(
                error.to_string(),
                "/dev/x: the device refused to sign because it is sealed"
            );
        }
    }
}
