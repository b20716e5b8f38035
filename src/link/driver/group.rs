//! The driver for firmware with the provisioning group: each verb as the group and the settings have it.

mod objects;

use super::settings::Injection;
use super::{Driver, Found, who};
use crate::link::port::Port;
use crate::link::session::{Patience, Question, Session, StartSign};
use crate::link::smp::{Map, Op, group};
use crate::link::{
    Device, DeviceLink, Expected, Held, LinkError, LinkHealth, Observation, ReadBack, Reply,
};
use crate::provision::bytes::{Blob, Digest};
use crate::provision::device::{DeviceId, Holding, Identification};
use crate::provision::dialogue::{Item, Misfit, Nonsense, Verb};
use crate::provision::fault::harmless;
use crate::provision::injected::Observed;
use objects::Part;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// The longest signature, in bytes: that of a 4096-bit RSA key, where a product takes such.
const MAX_SIGNATURE: usize = 512;

/// Devices with the provisioning group, of one product.
#[derive(Clone, Debug, Default)]
pub(super) struct Group {
    keys: Injection,
}

impl Group {
    /// The kind's name.
    pub const KIND: &str = "provisioning group";

    /// For devices that keep what is injected under these keys.
    pub fn new(keys: Injection) -> Self {
        Self { keys }
    }
}

impl Driver for Group {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    fn find<'a>(&'a self, link: &'a mut DeviceLink, wait: Duration) -> Reply<'a, Found> {
        Box::pin(async move {
            Ok(Found {
                kind: Self::KIND,
                identification: link.hello(wait).await?,
            })
        })
    }

    fn device<'a>(&'a self, link: &'a mut DeviceLink) -> Box<dyn Device + 'a> {
        Box::new(GroupDevice { driver: self, link })
    }
}

/// A device with the provisioning group.
struct GroupDevice<'a> {
    driver: &'a Group,
    link: &'a mut DeviceLink,
}

impl Device for GroupDevice<'_> {
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
        Box::pin(self.link.smp.identify())
    }

    fn make_key<'a>(&'a mut self, common_name: &'a str) -> Reply<'a, Vec<u8>> {
        Box::pin(self.link.smp.make_key(common_name))
    }

    fn install<'a>(&'a mut self, chain: &'a [Vec<u8>]) -> Reply<'a, ()> {
        Box::pin(self.link.smp.install(chain))
    }

    fn inject<'a>(
        &'a mut self,
        holding: &'a Holding,
        assigned: Option<&'a DeviceId>,
    ) -> Reply<'a, ()> {
        let (smp, keys) = (&mut self.link.smp, &self.driver.keys);
        Box::pin(async move {
            if let Some(id) = assigned {
                smp.assign(id, keys).await?;
            }
            smp.inject(holding, keys).await
        })
    }

    fn restart<'a>(&'a mut self, before: &'a Identification) -> Reply<'a, Identification> {
        Box::pin(self.link.smp.restart_from(before))
    }

    fn tune(&mut self) -> Reply<'_, ()> {
        Box::pin(self.link.tune())
    }

    fn read_back<'a>(&'a mut self, expected: &'a Expected) -> Reply<'a, Observation> {
        let (smp, keys) = (&mut self.link.smp, &self.driver.keys);
        Box::pin(async move {
            let by_digest = keys.read_back == ReadBack::Digest && expected.says == expected.holds;
            match by_digest && smp.holds_chain(&expected.chain).await? {
                true => Ok(Observation::Digests {
                    holds: expected.says,
                    chain: Digest::of(&expected.chain),
                }),
                false => smp.read_back(keys).await.map(Observation::Values),
            }
        })
    }

    fn prove(&mut self, nonce: [u8; 32]) -> Reply<'_, Vec<u8>> {
        Box::pin(self.link.smp.sign(nonce))
    }

    fn tpm<'a>(&'a mut self, command: &'a [u8]) -> Reply<'a, Vec<u8>> {
        Box::pin(self.link.smp.tpm(command))
    }

    fn seal(&mut self, holds: Digest) -> Reply<'_, Digest> {
        Box::pin(self.link.smp.seal(holds))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Session<S> {
    /// Asks the device who it is.
    ///
    /// # Errors
    ///
    /// Here and below: `Silent`, `Refused`, `Malformed`, `Gone` and `Io`, each with what was asked.
    pub async fn identify(&mut self) -> Result<Identification, LinkError> {
        self.identify_with(Patience::Ordinary).await
    }

    /// The same, with this patience.
    pub(super) async fn identify_with(
        &mut self,
        patience: Patience,
    ) -> Result<Identification, LinkError> {
        let question = Question {
            patience,
            ..self.provisioning(Verb::Identify, Op::Read, group::IDENTIFY)
        };
        let reply = self.ask(question, |_| Map::new()).await?;
        identification(&reply).map_err(|why| self.stream.malformed(question.what, why))
    }

    /// Has the device make a key, if it has none, and gives its DER certificate request with that common name.
    pub async fn make_key(&mut self, common_name: &str) -> Result<Vec<u8>, LinkError> {
        let question = Question {
            patience: Patience::Slow,
            ..self.provisioning(Verb::MakeKey, Op::Write, group::MAKE_KEY)
        };
        self.ask_once(question, Map::new().text("cn", common_name))
            .await?;
        self.read_object(Verb::Show(Item::CertificateRequest), group::REQUEST)
            .await
    }

    /// Installs a certificate chain, the device's own certificate first, each in DER. An equal chain may be installed
    /// again.
    pub async fn install(&mut self, chain: &[Vec<u8>]) -> Result<(), LinkError> {
        let question = self.provisioning(
            Verb::Take(Item::Certificate),
            Op::Write,
            group::WRITE_OBJECT,
        );
        let whole = chain.concat();
        let head = Map::new().uint("obj", group::CHAIN);
        let reply = self.send_parts(question, &head, &whole).await?;
        let now = self.field(question.what, reply.get_32("sha"))?;
        if Digest(now) != Digest::of(&whole) {
            return Err(self.stream.malformed(question.what, Nonsense::HoldsOther));
        }
        Ok(())
    }

    /// Writes the device ID. It is saved with what [`Session::inject`] writes, and counts from the next start on.
    async fn assign(&mut self, id: &DeviceId, keys: &Injection) -> Result<(), LinkError> {
        let what = Verb::Take(Item::DeviceId);
        self.write_setting(what, &keys.device_id, id.as_str(), keys.value)
            .await
    }

    /// Reads everything that the device holds, each value whole. A value that is not there is empty.
    pub async fn read_back(&mut self, keys: &Injection) -> Result<Held, LinkError> {
        let id_scope = self.whole(Item::IdScope, &keys.id_scope).await?;
        let global_endpoint = self.whole(Item::GlobalEndpoint, &keys.endpoint).await?;
        let registration_id = self
            .whole(Item::RegistrationId, &keys.registration_id)
            .await?;
        let what = Verb::Show(Item::Certificate);
        let chain = self.read_object(what, group::CHAIN).await?;
        let chain: Vec<Vec<u8>> = group::split_chain(&chain)
            .ok_or_else(|| self.stream.malformed(what, Nonsense::NoCertificates))?
            .into_iter()
            .map(<[u8]>::to_vec)
            .collect();
        let holding = Holding {
            id_scope,
            global_endpoint,
            registration_id,
            certificate_sha256: chain.first().map(|leaf| Digest::of(leaf)),
        };
        Ok(Held {
            observed: Observed::whole(holding),
            chain,
        })
    }

    /// Whether the device's certificates are these, as the digest says that it gives with their first part. Without
    /// certificates there is nothing to ask: the digest of what a device holds tells of its own one.
    async fn holds_chain(&mut self, chain: &[u8]) -> Result<bool, LinkError> {
        if chain.is_empty() {
            return Ok(true);
        }
        let what = Verb::Show(Item::Certificate);
        let first = self.first_part(what, group::CHAIN).await?;
        Ok(first.is_of(chain))
    }

    async fn whole(&mut self, item: Item, key: &str) -> Result<String, LinkError> {
        self.read_setting(Verb::Show(item), key, Patience::Ordinary)
            .await
    }

    /// Has the device sign a nonce with its key; gives the DER signature over [`group::PROOF_PREFIX`] and the nonce.
    pub async fn sign(&mut self, nonce: [u8; 32]) -> Result<Vec<u8>, LinkError> {
        let question = Question {
            patience: Patience::Slow,
            ..self.provisioning(Verb::Sign, Op::Write, group::SIGN)
        };
        let reply = self
            .ask_once(question, Map::new().bytes("nonce", &nonce))
            .await?;
        let signature = self.field(question.what, reply.get_bytes("sig"))?;
        if signature.len() > MAX_SIGNATURE {
            return Err(self
                .stream
                .malformed(question.what, Nonsense::LongSignature));
        }
        Ok(signature.to_vec())
    }

    /// Seals the device, if it holds what `holds` is the digest of; gives the digest that it confirms.
    pub async fn seal(&mut self, holds: Digest) -> Result<Digest, LinkError> {
        let question = self.provisioning(Verb::Seal, Op::Write, group::SEAL);
        let reply = self
            .ask_once(question, Map::new().bytes("holds", &holds.0))
            .await?;
        let confirmed = Digest(self.field(question.what, reply.get_32("holds"))?);
        if confirmed != holds {
            return Err(self.stream.malformed(question.what, Nonsense::SealedOther));
        }
        Ok(confirmed)
    }

    /// Passes one command to the device's TPM and gives the response. The command is executed once, however often it
    /// had to be sent.
    pub async fn tpm(&mut self, command: &[u8]) -> Result<Vec<u8>, LinkError> {
        let question = Question {
            patience: Patience::Slow,
            ..self.provisioning(Verb::AskTpm, Op::Write, group::TPM)
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

    fn check_id(&self, what: Verb, rid: u64, reply: &Map) -> Result<(), LinkError> {
        match reply.get_uint("rid") {
            Ok(id) if id == rid => Ok(()),
            Ok(_) => Err(self.stream.malformed(what, Nonsense::OtherRequest)),
            Err(error) => Err(self.stream.malformed(what, error)),
        }
    }

    fn provisioning(&self, what: Verb, op: Op, command: u8) -> Question {
        Question {
            what,
            op,
            group: self.options.user_group,
            command,
            patience: Patience::Ordinary,
        }
    }
}

impl Session<Port> {
    /// Resets the device and watches until it has started anew; gives what it says of itself then.
    ///
    /// # Errors
    ///
    /// `Silent` when it does not come back in the options' time, `Swapped` when another device does; what
    /// [`Session::identify`] gives before the reset.
    pub async fn restart(&mut self) -> Result<Identification, LinkError> {
        let before = self.identify().await?;
        self.restart_from(&before).await
    }

    /// The same for a device that has just said `before` of itself.
    ///
    /// # Errors
    ///
    /// Those of [`Session::restart`].
    async fn restart_from(&mut self, before: &Identification) -> Result<Identification, LinkError> {
        self.restart_watching(before).await
    }
}

/// What a device with a start counter said of itself before.
impl StartSign for Identification {
    type Device = Self;

    fn device(&self) -> DeviceId {
        self.device_id.clone()
    }

    async fn look(
        &self,
        session: &mut Session<Port>,
        patience: Patience,
    ) -> Result<Option<Self>, LinkError> {
        let now = session.identify_with(patience).await?;
        if !now.same_unit(self) {
            return Err(LinkError::Swapped {
                port: session.stream.port(),
                found: now.device_id,
            });
        }
        Ok((now.boots > self.boots).then_some(now))
    }
}

/// Whether a field is no longer than it may be, in bytes.
fn within(field: &str, found: usize, max: usize) -> Result<(), Nonsense> {
    match found <= max {
        true => Ok(()),
        false => Err(Nonsense::TooLong {
            field: field.to_owned(),
            found,
            max,
        }),
    }
}

fn identification(reply: &Map) -> Result<Identification, Nonsense> {
    let version = reply.get_uint("v")?;
    if version != group::PAGE_VERSION {
        return Err(Nonsense::GroupVersion(version));
    }
    let name = |key| -> Result<String, Nonsense> {
        let name = reply.get_text(key)?;
        within(key, name.len(), group::MAX_NAME)?;
        Ok(harmless(name, group::MAX_NAME))
    };
    let uid = reply.get_bytes("uid")?;
    within("uid", uid.len(), group::MAX_UID)?;
    let uid = Blob(uid.to_vec());
    let id = reply.get_text("id")?;
    let device_id = match id {
        "" => DeviceId::provisional(&uid).ok_or(Nonsense::Nameless)?,
        id => DeviceId::parse(id).map_err(Nonsense::DeviceId)?,
    };
    Ok(Identification {
        stock: false,
        device_id,
        blank: id.is_empty(),
        model: name("model")?,
        firmware: name("fw")?,
        uid,
        boots: reply.get_uint("boots")?,
        sealed: reply.get_flag("sealed")?,
        tpm: reply.get_flag("tpm")?,
        holds: Digest(reply.get_32("holds")?),
    })
}
