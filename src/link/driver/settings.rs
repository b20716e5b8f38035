//! The standard settings group, and what a product says of it: keys, type and length of values.
//!
//! Each value is an exchange of its own: a write has one name and one value, and several are nothing that the group has
//! (Zephyr, `smp_groups/smp_group_3.rst`).

use crate::link::LinkError;
use crate::link::session::{Patience, Question, Session};
use crate::link::smp::{self, Map, Op};
use crate::provision::bounds::within;
use crate::provision::device::Holding;
use crate::provision::dialogue::{Grounds, Item, Misfit, Verb};
use crate::provision::fault::harmless;
use crate::provision::injected::Readback;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};

/// The longest value of a setting that is looked at, in characters.
pub(super) const MAX_SETTING: usize = 256;
/// The longest settings key, in bytes (Zephyr, `MCUMGR_GRP_SETTINGS_NAME_LEN`, less its terminating zero).
const LONGEST_KEY: usize = 31;
/// The longest host name, in bytes (RFC 1035, section 2.3.4, as text).
const LONGEST_HOST: usize = 253;

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
    #[serde(deserialize_with = "within::<_, _, 1, 256>")]
    pub value_limit: usize,
    /// Key under which a device with stock firmware has its own ID; for injection-only products, which need it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id_key: Option<String>,
    /// How much of the global endpoint such a device must give back; every other value must come back whole.
    pub endpoint_readback: Readback,
    /// How a device with the provisioning group shows what it holds.
    pub read_back: ReadBack,
}

/// How a device with the provisioning group shows, after its restart, what it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadBack {
    /// By the digest that *identify* gives; each value is read where that is not the one expected.
    #[default]
    Digest,
    /// By each value.
    Values,
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
            read_back: ReadBack::default(),
        }
    }
}

impl Injection {
    /// Whether a device can hold these values under these keys, and give them back; if not, why. Only the endpoint
    /// may be longer than what comes back, where [`Self::endpoint_readback`] says so.
    ///
    /// # Errors
    ///
    /// What does not fit.
    pub fn fits(&self, holding: &Holding) -> Result<(), Misfit> {
        let no_value = String::new(); // each device's own
        let values = [
            (&self.device_id, Item::DeviceId, &no_value),
            (&self.id_scope, Item::IdScope, &holding.id_scope),
            (
                &self.endpoint,
                Item::GlobalEndpoint,
                &holding.global_endpoint,
            ),
            (
                &self.registration_id,
                Item::RegistrationId,
                &holding.registration_id,
            ),
        ];
        for (key, item, value) in values {
            if key.is_empty() || key.len() > LONGEST_KEY {
                let (key, max) = (key.clone(), LONGEST_KEY);
                return Err(Misfit::Key { key, max });
            }
            if values.iter().filter(|(other, ..)| *other == key).count() > 1 {
                return Err(Misfit::SameKey { key: key.clone() });
            }
            let whole = item != Item::GlobalEndpoint || self.endpoint_readback == Readback::Whole;
            if whole && value.len() > self.value_limit {
                return Err(Misfit::Value {
                    item,
                    value: value.clone(),
                    max: self.value_limit,
                });
            }
        }
        Ok(())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Session<S> {
    /// Writes ID scope, global endpoint and registration ID, and saves them, with what was written before.
    ///
    /// # Errors
    ///
    /// Here and below: `Silent`, `Refused`, `Malformed`, `Gone` and `Io`, each with what was asked.
    pub async fn inject(&mut self, holding: &Holding, keys: &Injection) -> Result<(), LinkError> {
        let values = [
            (Item::IdScope, &keys.id_scope, &holding.id_scope),
            (
                Item::GlobalEndpoint,
                &keys.endpoint,
                &holding.global_endpoint,
            ),
            (
                Item::RegistrationId,
                &keys.registration_id,
                &holding.registration_id,
            ),
        ];
        for (item, key, value) in values {
            self.write_setting(Verb::Take(item), key, value, keys.value)
                .await?;
        }
        let question = settings(Verb::Save, Op::Write, smp::SETTINGS_SAVE);
        self.ask(question, |_| Map::new()).await?;
        Ok(())
    }

    /// Writes one setting; it is in the device's RAM then.
    pub(super) async fn write_setting(
        &mut self,
        what: Verb,
        key: &str,
        value: &str,
        value_type: ValueType,
    ) -> Result<(), LinkError> {
        let body = Map::new().text("name", key);
        let body = match value_type {
            ValueType::Bytes => body.bytes("val", value.as_bytes()),
            ValueType::Text => body.text("val", value),
        };
        let question = settings(what, Op::Write, smp::SETTING);
        self.ask(question, |_| body.clone()).await?;
        Ok(())
    }

    /// The value of one setting, made harmless; empty if the device does not have it.
    pub(super) async fn read_setting(
        &mut self,
        what: Verb,
        key: &str,
        patience: Patience,
    ) -> Result<String, LinkError> {
        let question = Question {
            patience,
            ..settings(what, Op::Read, smp::SETTING)
        };
        let (value, _) = self
            .ask_setting(question, Map::new().text("name", key))
            .await?;
        Ok(value)
    }

    /// The same, and the most bytes that the device gives of any value, where it says so because it was asked for
    /// more.
    pub(super) async fn ask_setting(
        &mut self,
        question: Question,
        body: Map,
    ) -> Result<(String, Option<usize>), LinkError> {
        let reply = match self.ask(question, |_| body.clone()).await {
            Ok(reply) => reply,
            Err(error) if error.grounds().is_some_and(is_no_such_key) => {
                return Ok((String::new(), None));
            }
            Err(error) => return Err(error),
        };
        let value = reply.get_bytes("val");
        let value = value.or_else(|_| reply.get_text("val").map(str::as_bytes));
        let value = self.field(question.what, value)?;
        let text = harmless(&String::from_utf8_lossy(value), MAX_SETTING);
        Ok((text, reply.get_size("max_size").ok()))
    }
}

pub(super) fn settings(what: Verb, op: Op, command: u8) -> Question {
    Question {
        what,
        op,
        group: smp::SETTINGS_GROUP,
        command,
        patience: Patience::Ordinary,
    }
}

/// In either version.
fn is_no_such_key(grounds: Grounds) -> bool {
    let in_version_1 = Grounds::Numbered {
        code: smp::COMMON_NO_ENTRY,
        group: None,
    };
    grounds == Grounds::UnknownSetting || grounds == in_version_1
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_defaults() {
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
        let too_long = Misfit::Value {
            item: Item::GlobalEndpoint,
            value: holding.global_endpoint.clone(),
            max: 32,
        };
        assert_eq!(why, too_long);
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
}
