//! The driver for stock firmware: a plain SMP server that keeps settings and does not know the provisioning group.
//!
//! Such a device can only be injected: it has no identity to extract or to prove. It is told apart by its answer to
//! *identify* (that its firmware does not know the command, or whatever else is no identification), named by a setting
//! that holds its ID, and seen to have started anew because a value that was written and not saved is gone (Zephyr,
//! `subsys/mgmt/mcumgr/grp/settings_mgmt`: a write goes to RAM, and only a save to storage).

use super::settings::{Injection, MAX_SETTING, settings};
use super::{Driver, Found, Group, who};
use crate::link::device::unable;
use crate::link::port::Port;
use crate::link::session::{Patience, Question, Session, StartSign};
use crate::link::smp::{self, Map, Op};
use crate::link::{Device, DeviceLink, Expected, Held, LinkError, LinkHealth, Observation, Reply};
use crate::provision::device::{DeviceId, Holding, Identification};
use crate::provision::dialogue::{Item, Misfit, Nonsense, Verb};
use crate::provision::injected::Observed;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// How long a device that has just answered may take to give its ID.
const ID_WAIT: Duration = Duration::from_millis(500);

/// Devices with stock firmware, of one product.
#[derive(Clone, Debug)]
pub(super) struct Stock {
    keys: Injection,
    id_key: String,
    /// What their model is, which they do not say.
    model: String,
}

impl Stock {
    /// For devices that keep what is injected under these keys, and their own ID under `id_key`. They do not say what
    /// their model is: it is the product's.
    pub fn new(keys: Injection, id_key: String, model: &str) -> Self {
        let model = model.to_owned();
        Self {
            keys,
            id_key,
            model,
        }
    }

    fn identification(&self, id: DeviceId) -> Identification {
        Identification::of_stock(id, &self.model)
    }
}

impl Driver for Stock {
    fn kind(&self) -> &'static str {
        "stock settings"
    }

    fn find<'a>(&'a self, link: &'a mut DeviceLink, wait: Duration) -> Reply<'a, Found> {
        Box::pin(async move {
            match link.hello(wait).await {
                // The number of the provisioning group is anybody's: such firmware may have a group of its own there.
                Err(LinkError::Refused { .. } | LinkError::Malformed { .. }) => {}
                // Firmware with the group is never taken for stock.
                Ok(identification) => {
                    return Ok(Found {
                        kind: Group::KIND,
                        identification,
                    });
                }
                Err(error) => return Err(error),
            }
            let patience = Patience::Once(ID_WAIT);
            let id = link.smp.stock_id_with(&self.id_key, patience).await?;
            Ok(Found {
                kind: self.kind(),
                identification: self.identification(id),
            })
        })
    }

    fn device<'a>(&'a self, link: &'a mut DeviceLink) -> Box<dyn Device + 'a> {
        Box::new(StockDevice { driver: self, link })
    }
}

/// A device with stock firmware. It has no key, no TPM that could be reached, and no seal.
struct StockDevice<'a> {
    driver: &'a Stock,
    link: &'a mut DeviceLink,
}

impl Device for StockDevice<'_> {
    fn health(&self) -> LinkHealth {
        self.link.health()
    }

    fn shared(&self) -> bool {
        self.link.shared()
    }

    fn can_hold(&self, holding: &Holding) -> Result<(), Misfit> {
        self.driver.keys.fits(holding)
    }

    fn look(&mut self, wait: Duration) -> Reply<'_, Identification> {
        Box::pin(async move { Ok(who(self.link, &[self.driver], wait).await?.identification) })
    }

    fn identify(&mut self) -> Reply<'_, Identification> {
        Box::pin(async move {
            let id = self.link.smp.stock_id(&self.driver.id_key).await?;
            Ok(self.driver.identification(id))
        })
    }

    /// Such a device keeps the ID that it has: there is none to assign.
    fn inject<'a>(
        &'a mut self,
        holding: &'a Holding,
        assigned: Option<&'a DeviceId>,
    ) -> Reply<'a, ()> {
        match assigned {
            Some(_) => unable(Verb::Take(Item::DeviceId)),
            None => Box::pin(self.link.smp.inject(holding, &self.driver.keys)),
        }
    }

    fn restart<'a>(&'a mut self, _: &'a Identification) -> Reply<'a, Identification> {
        Box::pin(async move {
            let Stock { id_key, keys, .. } = self.driver;
            let id = self.link.smp.restart_stock(id_key, keys).await?;
            Ok(self.driver.identification(id))
        })
    }

    /// Such a device gives no digest.
    fn read_back<'a>(&'a mut self, _: &'a Expected) -> Reply<'a, Observation> {
        Box::pin(async move {
            Ok(Observation::Values(Held {
                observed: self.link.smp.observe(&self.driver.keys).await?,
                chain: Vec::new(),
            }))
        })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Session<S> {
    /// The ID of a device with stock firmware, from the setting `id_key`.
    ///
    /// # Errors
    ///
    /// Here and below: `Malformed` also where the value makes no sense or is cut off, besides those of
    /// [`Session::identify`].
    pub async fn stock_id(&mut self, id_key: &str) -> Result<DeviceId, LinkError> {
        self.stock_id_with(id_key, Patience::Ordinary).await
    }

    /// Reads what was injected, each value as far as the device gives it.
    pub async fn observe(&mut self, keys: &Injection) -> Result<Observed, LinkError> {
        let reads = [
            (Item::IdScope, &keys.id_scope),
            (Item::GlobalEndpoint, &keys.endpoint),
            (Item::RegistrationId, &keys.registration_id),
        ];
        let mut values = Vec::new();
        let mut value_limit = None;
        for (item, key) in reads {
            let question = settings(Verb::Show(item), Op::Read, smp::SETTING);
            // Only a device that was asked for more than it gives says how much that is.
            let body = Map::new()
                .text("name", key)
                .uint("max_size", MAX_SETTING as u64);
            let (value, limit) = self.ask_setting(question, body).await?;
            values.push(value);
            value_limit = value_limit.max(limit);
        }
        let [id_scope, global_endpoint, registration_id] =
            <[String; 3]>::try_from(values).expect("one value for each of three reads");
        Ok(Observed {
            holding: Holding {
                id_scope,
                global_endpoint,
                registration_id,
                certificate_sha256: None,
            },
            value_limit,
        })
    }

    async fn stock_id_with(
        &mut self,
        id_key: &str,
        patience: Patience,
    ) -> Result<DeviceId, LinkError> {
        let what = Verb::Show(Item::DeviceId);
        let question = Question {
            patience,
            ..settings(what, Op::Read, smp::SETTING)
        };
        let body = Map::new()
            .text("name", id_key)
            .uint("max_size", MAX_SETTING as u64);
        let (text, limit) = self.ask_setting(question, body).await?;
        if limit == Some(text.len()) {
            return Err(self.stream.malformed(what, Nonsense::CutOff(text.len())));
        }
        DeviceId::parse(&text)
            .map_err(|error| self.stream.malformed(what, Nonsense::DeviceId(error)))
    }
}

impl Session<Port> {
    /// Resets a device with stock firmware and watches until it has started anew.
    ///
    /// It has no start counter. So a mark is written over the registration ID, which was saved before, and is not
    /// saved: when it is gone, RAM was lost.
    ///
    /// # Errors
    ///
    /// `Silent` when the device does not come back in the options' time, `Swapped` when another one does.
    pub async fn restart_stock(
        &mut self,
        id_key: &str,
        keys: &Injection,
    ) -> Result<DeviceId, LinkError> {
        let what = Verb::TakeMark;
        let mark = Mark {
            device: self.stock_id(id_key).await?,
            id_key: id_key.to_owned(),
            key: keys.registration_id.clone(),
            text: format!("mark-{:08x}", self.request_id()),
        };
        self.write_setting(what, &mark.key, &mark.text, keys.value)
            .await?;
        if self
            .read_setting(what, &mark.key, Patience::Ordinary)
            .await?
            != mark.text
        {
            return Err(self.stream.malformed(what, Nonsense::OtherValue));
        }
        self.restart_watching(&mark).await
    }
}

/// A value in the RAM of a device, and which device it is.
struct Mark {
    device: DeviceId,
    id_key: String,
    key: String,
    text: String,
}

impl StartSign for Mark {
    type Device = DeviceId;

    fn device(&self) -> DeviceId {
        self.device.clone()
    }

    async fn look(
        &self,
        session: &mut Session<Port>,
        patience: Patience,
    ) -> Result<Option<DeviceId>, LinkError> {
        let text = session
            .read_setting(Verb::ShowMark, &self.key, patience)
            .await?;
        if text == self.text {
            return Ok(None);
        }
        // A device that is just starting may answer before it has loaded its settings: that is nonsense, and waited out.
        let found = session.stock_id_with(&self.id_key, patience).await?;
        if found != self.device {
            return Err(LinkError::Swapped {
                port: session.stream.port(),
                found,
            });
        }
        Ok(Some(found))
    }
}
