//! Stock firmware: a plain SMP server that keeps settings and does not know the provisioning group.
//!
//! Such a device can only be injected: it has no identity to extract or to prove. It is told apart by its answer to
//! *identify* ([`LinkError::is_unknown_command`]), named by a setting that holds its ID, and seen to have started anew
//! because a value that was written and not saved is gone (Zephyr, `subsys/mgmt/mcumgr/grp/settings_mgmt`: a write
//! goes to RAM, and only a save to storage).

use super::dialogue::{MAX_SETTING, settings};
use super::port::Port;
use super::session::{Patience, Question, Session, StartSign};
use super::smp::{self, Map, Op};
use super::{Injection, LinkError};
use crate::provision::device::{DeviceId, Holding};
use crate::provision::injected::Observed;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

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

    /// The same, asked once of a device that has just answered that it does not know *identify*; `Silent` where it
    /// does not answer within `wait`.
    pub async fn find_stock(
        &mut self,
        id_key: &str,
        wait: Duration,
    ) -> Result<DeviceId, LinkError> {
        self.stock_id_with(id_key, Patience::Once(wait)).await
    }

    /// Reads what was injected, each value as far as the device gives it.
    pub async fn observe(&mut self, keys: &Injection) -> Result<Observed, LinkError> {
        let reads = [
            ("show its ID scope", &keys.id_scope),
            ("show its global endpoint", &keys.endpoint),
            ("show its registration ID", &keys.registration_id),
        ];
        let mut values = Vec::new();
        let mut value_limit = None;
        for (what, key) in reads {
            let question = settings(what, Op::Read, smp::SETTING);
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
        let what = "show its device ID";
        let question = Question {
            patience,
            ..settings(what, Op::Read, smp::SETTING)
        };
        let body = Map::new()
            .text("name", id_key)
            .uint("max_size", MAX_SETTING as u64);
        let (text, limit) = self.ask_setting(question, body).await?;
        if limit == Some(text.len()) {
            let why = format!("it gives {} bytes and may have more", text.len());
            return Err(self.malformed(what, why));
        }
        DeviceId::parse(&text)
            .map_err(|error| self.malformed(what, format!("its device ID {error}")))
    }

    async fn stock_setting(
        &mut self,
        what: &'static str,
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
        let what = "take a value for the time until it starts anew";
        let mark = Mark {
            device: self.stock_id(id_key).await?,
            id_key: id_key.to_owned(),
            key: keys.registration_id.clone(),
            text: format!("mark-{:08x}", self.request_id()),
        };
        self.write_setting(what, &mark.key, &mark.text, keys.value)
            .await?;
        if self
            .stock_setting(what, &mark.key, Patience::Ordinary)
            .await?
            != mark.text
        {
            return Err(self.malformed(what, "it has another value"));
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

    async fn look(
        &self,
        session: &mut Session<Port>,
        patience: Patience,
    ) -> Result<Option<DeviceId>, LinkError> {
        let text = session
            .stock_setting("show whether it has started anew", &self.key, patience)
            .await?;
        if text == self.text {
            return Ok(None);
        }
        // A device that is just starting may answer before it has loaded its settings: that is nonsense, and waited out.
        let found = session.stock_id_with(&self.id_key, patience).await?;
        if found != self.device {
            return Err(LinkError::Swapped {
                port: session.port(),
                found,
            });
        }
        Ok(Some(found))
    }
}
