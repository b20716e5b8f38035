//! What the station asks of a device: the provisioning group and the settings, as the station's side speaks them.

use super::session::{Patience, Question, Session};
use super::smp::{self, Map, Op, PacketError, group};
use super::{Held, Injection, LinkError, ValueType};
use crate::provision::bytes::{Blob, Digest};
use crate::provision::device::{DeviceId, Holding, Identification};
use crate::provision::fault::harmless;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// How often an object is read, or sent, that did not arrive whole.
const OBJECT_TRIES: u32 = 3;
/// The longest value of a setting that is looked at, in characters.
pub(super) const MAX_SETTING: usize = 256;
/// The longest signature, in bytes: that of a 4096-bit RSA key, where a product takes such.
const MAX_SIGNATURE: usize = 512;

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Session<S> {
    /// Asks the device who it is.
    ///
    /// # Errors
    ///
    /// Here and below: `Silent`, `Refused`, `Malformed`, `Gone` and `Io`, each with what was asked.
    pub async fn identify(&mut self) -> Result<Identification, LinkError> {
        self.identify_with(Patience::Ordinary).await
    }

    /// Asks once whether a device is there, and who it is; `Silent` where nobody answers within `wait`.
    pub async fn find(&mut self, wait: Duration) -> Result<Identification, LinkError> {
        self.settle().await?;
        self.identify_with(Patience::Once(wait)).await
    }

    pub(super) async fn identify_with(
        &mut self,
        patience: Patience,
    ) -> Result<Identification, LinkError> {
        let question = Question {
            patience,
            ..self.provisioning("identify itself", Op::Read, group::IDENTIFY)
        };
        let reply = self.ask(question, |_| Map::new()).await?;
        identification(&reply).map_err(|why| self.malformed(question.what, why))
    }

    /// Has the device make a key, if it has none, and gives its DER certificate request with that common name.
    pub async fn make_key(&mut self, common_name: &str) -> Result<Vec<u8>, LinkError> {
        let question = Question {
            patience: Patience::Slow,
            ..self.provisioning("make a key", Op::Write, group::MAKE_KEY)
        };
        self.ask_once(question, Map::new().text("cn", common_name))
            .await?;
        self.read_object("show its certificate request", group::REQUEST)
            .await
    }

    /// Installs a certificate chain, the device's own certificate first, each in DER. An equal chain may be installed
    /// again.
    pub async fn install(&mut self, chain: &[Vec<u8>]) -> Result<(), LinkError> {
        let question = self.provisioning("take its certificate", Op::Write, group::WRITE_OBJECT);
        let whole = chain.concat();
        let head = Map::new().uint("obj", group::CHAIN);
        let reply = self.send_parts(question, &head, &whole).await?;
        let now = self.field(question.what, reply.get_32("sha"))?;
        if Digest(now) != Digest::of(&whole) {
            return Err(self.malformed(question.what, "it now holds something else"));
        }
        Ok(())
    }

    /// Writes the device ID. It is saved with what [`Session::inject`] writes, and counts from the next start on.
    pub async fn assign(&mut self, id: &DeviceId, keys: &Injection) -> Result<(), LinkError> {
        self.write_setting(
            "take its device ID",
            &keys.device_id,
            id.as_str(),
            keys.value,
        )
        .await
    }

    /// Writes ID scope, global endpoint and registration ID, and saves them. That proves nothing: only what is read
    /// back after a restart does.
    pub async fn inject(&mut self, holding: &Holding, keys: &Injection) -> Result<(), LinkError> {
        let values = [
            ("take its ID scope", &keys.id_scope, &holding.id_scope),
            (
                "take its global endpoint",
                &keys.endpoint,
                &holding.global_endpoint,
            ),
            (
                "take its registration ID",
                &keys.registration_id,
                &holding.registration_id,
            ),
        ];
        for (what, key, value) in values {
            self.write_setting(what, key, value, keys.value).await?;
        }
        let question = settings("save its settings", Op::Write, smp::SETTINGS_SAVE);
        self.ask(question, |_| Map::new()).await?;
        Ok(())
    }

    /// Reads everything that the device holds, each value whole. A value that is not there is empty.
    pub async fn read_back(&mut self, keys: &Injection) -> Result<Held, LinkError> {
        let id_scope = self
            .read_setting("show its ID scope", &keys.id_scope)
            .await?;
        let global_endpoint = self
            .read_setting("show its global endpoint", &keys.endpoint)
            .await?;
        let what = "show its registration ID";
        let registration_id = self.read_setting(what, &keys.registration_id).await?;
        let what = "show its certificate";
        let chain = self.read_object(what, group::CHAIN).await?;
        let chain: Vec<Vec<u8>> = group::split_chain(&chain)
            .ok_or_else(|| self.malformed(what, "not DER certificates"))?
            .into_iter()
            .map(<[u8]>::to_vec)
            .collect();
        let holding = Holding {
            id_scope,
            global_endpoint,
            registration_id,
            certificate_sha256: chain.first().map(|leaf| Digest::of(leaf)),
        };
        Ok(Held { holding, chain })
    }

    /// Has the device sign a nonce with its key; gives the DER signature over [`group::PROOF_PREFIX`] and the nonce.
    pub async fn sign(&mut self, nonce: [u8; 32]) -> Result<Vec<u8>, LinkError> {
        let question = Question {
            patience: Patience::Slow,
            ..self.provisioning("sign a nonce", Op::Write, group::SIGN)
        };
        let reply = self
            .ask_once(question, Map::new().bytes("nonce", &nonce))
            .await?;
        let signature = self.field(question.what, reply.get_bytes("sig"))?;
        if signature.len() > MAX_SIGNATURE {
            return Err(self.malformed(question.what, "the signature is too long"));
        }
        Ok(signature.to_vec())
    }

    /// Seals the device, if it holds what `holds` is the digest of; gives the digest that it confirms.
    pub async fn seal(&mut self, holds: Digest) -> Result<Digest, LinkError> {
        let question = self.provisioning("seal itself", Op::Write, group::SEAL);
        let reply = self
            .ask_once(question, Map::new().bytes("holds", &holds.0))
            .await?;
        let confirmed = Digest(self.field(question.what, reply.get_32("holds"))?);
        if confirmed != holds {
            return Err(self.malformed(question.what, "it sealed something else"));
        }
        Ok(confirmed)
    }

    /// Passes one command to the device's TPM and gives the response. The command is executed once, however often it
    /// had to be sent.
    pub async fn tpm(&mut self, command: &[u8]) -> Result<Vec<u8>, LinkError> {
        let question = Question {
            patience: Patience::Slow,
            ..self.provisioning("ask its TPM", Op::Write, group::TPM)
        };
        let rid = self.request_id();
        let head = Map::new().uint("rid", rid);
        let reply = self.send_parts(question, &head, command).await?;
        self.check_id(question.what, rid, &reply)?;
        let first = self.field(question.what, Part::of(&reply, group::MAX_TPM))?;
        self.read_rest(question.what, group::RESPONSE, first).await
    }

    /// Asks for something that the device does once for this request, however often it is sent.
    async fn ask_once(&mut self, question: Question, body: Map) -> Result<Map, LinkError> {
        let rid = self.request_id();
        let body = body.uint("rid", rid);
        let reply = self.ask(question, |_| body.clone()).await?;
        self.check_id(question.what, rid, &reply)?;
        Ok(reply)
    }

    fn check_id(&self, what: &'static str, rid: u64, reply: &Map) -> Result<(), LinkError> {
        match reply.get_uint("rid") {
            Ok(id) if id == rid => Ok(()),
            Ok(_) => Err(self.malformed(what, "it is the answer to another request")),
            Err(error) => Err(self.malformed(what, error)),
        }
    }

    /// Writes one setting; it is in the device's RAM then.
    pub(super) async fn write_setting(
        &mut self,
        what: &'static str,
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
    async fn read_setting(&mut self, what: &'static str, key: &str) -> Result<String, LinkError> {
        let question = settings(what, Op::Read, smp::SETTING);
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
            Err(LinkError::Refused { refusal, .. }) if is_no_such_key(refusal) => {
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

    /// Reads one object whole, as its digest says; begins again when it does not fit.
    async fn read_object(&mut self, what: &'static str, object: u64) -> Result<Vec<u8>, LinkError> {
        let reply = self.read_part(what, object, 0).await?;
        let first = self.field(what, Part::of(&reply, group::MAX_OBJECT))?;
        self.read_rest(what, object, first).await
    }

    /// Completes an object of which the first part is there.
    async fn read_rest(
        &mut self,
        what: &'static str,
        object: u64,
        first: Part,
    ) -> Result<Vec<u8>, LinkError> {
        let Part {
            length,
            digest,
            data: mut whole,
        } = first;
        for _ in 0..OBJECT_TRIES {
            while whole.len() < length {
                let reply = self.read_part(what, object, whole.len()).await?;
                let data = self.field(what, reply.get_bytes("data"))?;
                if data.is_empty() || whole.len() + data.len() > length {
                    return Err(self.malformed(what, "the parts do not make up the whole"));
                }
                whole.extend_from_slice(data);
            }
            if Digest::of(&whole) == digest {
                return Ok(whole);
            }
            self.health.retries += 1;
            whole.clear();
        }
        Err(self.malformed(what, "it arrived damaged each time"))
    }

    async fn read_part(
        &mut self,
        what: &'static str,
        object: u64,
        offset: usize,
    ) -> Result<Map, LinkError> {
        let question = self.provisioning(what, Op::Read, group::READ_OBJECT);
        let body = |_| Map::new().uint("obj", object).uint("off", offset as u64);
        let reply = self.ask(question, body).await?;
        if self.field(what, reply.get_size("off"))? != offset {
            return Err(self.malformed(what, "it is another part"));
        }
        Ok(reply)
    }

    /// Sends `data` in parts, each with `head`, and gives the reply to the last; begins again when the device found
    /// the whole damaged.
    async fn send_parts(
        &mut self,
        question: Question,
        head: &Map,
        data: &[u8],
    ) -> Result<Map, LinkError> {
        let digest = Digest::of(data);
        let mut tries = 1;
        let mut offset = 0;
        loop {
            let mut part = head.clone().uint("off", offset as u64);
            if offset == 0 {
                part = part.uint("len", data.len() as u64).bytes("sha", &digest.0);
            }
            let body = |room: usize| {
                let end = data.len().min(offset + part.room_for("data", room));
                part.clone().bytes("data", &data[offset..end])
            };
            let reply = match self.ask(question, body).await {
                Ok(reply) => reply,
                Err(error)
                    if error.code() == Some(group::Code::BadDigest) && tries < OBJECT_TRIES =>
                {
                    tries += 1;
                    self.health.retries += 1;
                    offset = 0;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let next = self.field(question.what, reply.get_size("off"))?;
            if next == data.len() {
                return Ok(reply);
            }
            if next <= offset || next > data.len() {
                return Err(self.malformed(question.what, "it has another part"));
            }
            offset = next;
        }
    }

    fn provisioning(&self, what: &'static str, op: Op, command: u8) -> Question {
        Question {
            what,
            op,
            group: self.options.user_group,
            command,
            patience: Patience::Ordinary,
        }
    }

    fn field<T>(&self, what: &'static str, field: Result<T, PacketError>) -> Result<T, LinkError> {
        field.map_err(|error| self.malformed(what, error))
    }
}

/// The first part of something that is read in parts.
struct Part {
    length: usize,
    digest: Digest,
    data: Vec<u8>,
}

impl Part {
    fn of(reply: &Map, limit: usize) -> Result<Self, PacketError> {
        let length = reply.get_size("len")?;
        let data = reply.get_bytes("data")?;
        if length > limit {
            return Err(PacketError::Field("len"));
        }
        if data.len() > length {
            return Err(PacketError::Field("data"));
        }
        Ok(Self {
            length,
            digest: Digest(reply.get_32("sha")?),
            data: data.to_vec(),
        })
    }
}

pub(super) fn settings(what: &'static str, op: Op, command: u8) -> Question {
    Question {
        what,
        op,
        group: smp::SETTINGS_GROUP,
        command,
        patience: Patience::Ordinary,
    }
}

fn is_no_such_key(refusal: smp::Refusal) -> bool {
    match refusal.group {
        Some(group) => {
            let unknown = [smp::SETTINGS_KEY_NOT_FOUND, smp::SETTINGS_ROOT_NOT_FOUND];
            group == smp::SETTINGS_GROUP && unknown.contains(&refusal.code)
        }
        None => refusal.code == smp::COMMON_NO_ENTRY,
    }
}

fn identification(reply: &Map) -> Result<Identification, String> {
    let text = |error: PacketError| error.to_string();
    let version = reply.get_uint("v").map_err(text)?;
    if version != group::PAGE_VERSION {
        return Err(format!(
            "it speaks version {version} of the provisioning group"
        ));
    }
    let name = |key| match reply.get_text(key) {
        Ok(name) if name.len() <= group::MAX_NAME => Ok(harmless(name, group::MAX_NAME)),
        Ok(_) => Err(PacketError::Field(key).to_string()),
        Err(error) => Err(text(error)),
    };
    let uid = reply.get_bytes("uid").map_err(text)?;
    if uid.len() > group::MAX_UID {
        return Err(PacketError::Field("uid").to_string());
    }
    let uid = Blob(uid.to_vec());
    let id = reply.get_text("id").map_err(text)?;
    let device_id = match id {
        "" => DeviceId::provisional(&uid)
            .ok_or("it has neither a device ID nor a microcontroller's unique ID")?,
        id => DeviceId::parse(id).map_err(|error| format!("its device ID {error}"))?,
    };
    Ok(Identification {
        stock: false,
        device_id,
        blank: id.is_empty(),
        model: name("model")?,
        firmware: name("fw")?,
        uid,
        boots: reply.get_uint("boots").map_err(text)?,
        sealed: reply.get_flag("sealed").map_err(text)?,
        tpm: reply.get_flag("tpm").map_err(text)?,
        holds: Digest(reply.get_32("holds").map_err(text)?),
    })
}
