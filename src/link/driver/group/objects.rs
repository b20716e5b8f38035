//! What is read and written in parts: certificate requests, chains, TPM commands and responses.

use super::within;
use crate::link::LinkError;
use crate::link::session::{Question, Session};
use crate::link::smp::{Map, Op, group};
use crate::provision::bytes::Digest;
use crate::provision::dialogue::{Grounds, Nonsense, Verb};
use tokio::io::{AsyncRead, AsyncWrite};

/// How often an object is read, or sent, that did not arrive whole.
const OBJECT_TRIES: u32 = 3;

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Session<S> {
    /// Reads one object whole, as its digest says; begins again when it does not fit.
    pub(super) async fn read_object(
        &mut self,
        what: Verb,
        object: u64,
    ) -> Result<Vec<u8>, LinkError> {
        let first = self.first_part(what, object).await?;
        self.read_rest(what, object, first).await
    }

    /// Reads the beginning of an object, with length and digest of the whole.
    pub(super) async fn first_part(&mut self, what: Verb, object: u64) -> Result<Part, LinkError> {
        let reply = self.read_part(what, object, 0).await?;
        self.field(what, Part::of(&reply, group::MAX_OBJECT))
    }

    /// Completes an object of which the first part is there.
    pub(super) async fn read_rest(
        &mut self,
        what: Verb,
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
                    return Err(self.stream.malformed(what, Nonsense::Parts));
                }
                whole.extend_from_slice(data);
            }
            if Digest::of(&whole) == digest {
                return Ok(whole);
            }
            self.stream.health.retries += 1;
            whole.clear();
        }
        Err(self.stream.malformed(what, Nonsense::Damaged))
    }

    async fn read_part(
        &mut self,
        what: Verb,
        object: u64,
        offset: usize,
    ) -> Result<Map, LinkError> {
        let question = self.provisioning(what, Op::Read, group::READ_OBJECT);
        let body = |_| Map::new().uint("obj", object).uint("off", offset as u64);
        let reply = self.ask(question, body).await?;
        if self.field(what, reply.get_size("off"))? != offset {
            return Err(self.stream.malformed(what, Nonsense::OtherPart));
        }
        Ok(reply)
    }

    /// Sends `data` in parts, each with `head`, and gives the reply to the last; begins again when the device found
    /// the whole damaged.
    pub(super) async fn send_parts(
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
                    if error.grounds() == Some(Grounds::BadDigest) && tries < OBJECT_TRIES =>
                {
                    tries += 1;
                    self.stream.health.retries += 1;
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
                return Err(self
                    .stream
                    .malformed(question.what, Nonsense::TookOtherPart));
            }
            offset = next;
        }
    }
}

/// The first part of something that is read in parts.
pub(super) struct Part {
    length: usize,
    digest: Digest,
    data: Vec<u8>,
}

impl Part {
    pub fn of(reply: &Map, limit: usize) -> Result<Self, Nonsense> {
        let length = reply.get_size("len")?;
        let data = reply.get_bytes("data")?;
        within("data", length, limit)?;
        within("data", data.len(), length)?;
        Ok(Self {
            length,
            digest: Digest(reply.get_32("sha")?),
            data: data.to_vec(),
        })
    }

    /// Whether it is the beginning of `whole`, and its digest that of the whole.
    pub fn is_of(&self, whole: &[u8]) -> bool {
        self.length == whole.len()
            && whole.starts_with(&self.data)
            && self.digest == Digest::of(whole)
    }
}
