//! A device, by what it can be asked to do.

use super::{LinkError, LinkHealth};
use crate::provision::bytes::Digest;
use crate::provision::device::{DeviceId, Holding, Identification};
use crate::provision::dialogue::{Item, Misfit, Verb};
use crate::provision::injected::Observed;
use std::pin::Pin;
use std::time::Duration;

/// What a device will have answered when it is awaited. Dropping it leaves the device in the middle of its answer: the
/// next question must cope with that.
pub type Reply<'a, T> = Pin<Box<dyn Future<Output = Result<T, LinkError>> + Send + 'a>>;

/// The device in a bay, for the time of one attempt.
///
/// Every verb has a deadline of its own. `Sync`, because a bay's task may look at it between two awaits.
///
/// # Errors
///
/// `Silent`, `Refused`, `Malformed`, `Gone` and `Io`, each with what was asked; `Unable` from a verb that a driver does
/// not implement, because its devices cannot do that.
pub trait Device: Send + Sync {
    /// How well the link to it has worked since its port was opened.
    fn health(&self) -> LinkHealth;

    /// Whether another program opened its port after it was opened here, and has it still.
    fn shared(&self) -> bool {
        false
    }

    /// Whether it can hold these values, and give them back.
    ///
    /// # Errors
    ///
    /// What does not fit.
    fn can_hold(&self, holding: &Holding) -> Result<(), Misfit>;

    /// Looks once who is there now, which may be another device; `Silent` where nobody answers within `wait`.
    fn look(&mut self, wait: Duration) -> Reply<'_, Identification>;

    /// Asks it who it is.
    fn identify(&mut self) -> Reply<'_, Identification>;

    /// Has it take and save what it is to hold, apart from the certificate, and its ID where that does not come from
    /// itself. That proves nothing: only what is read back after a restart does.
    fn inject<'a>(
        &'a mut self,
        holding: &'a Holding,
        assigned: Option<&'a DeviceId>,
    ) -> Reply<'a, ()>;

    /// Has it start anew, and watches until it has: gives what it says of itself then. `before` is what it has just
    /// said of itself. `Silent` where it does not come back in time, `Swapped` where another one does.
    fn restart<'a>(&'a mut self, before: &'a Identification) -> Reply<'a, Identification>;

    /// Finds out what its link can do, where the device can say it; nothing that follows depends on that.
    fn tune(&mut self) -> Reply<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Reads back what it holds. What its own digest proves need not be read again; where anything is not as
    /// expected, everything is read, so that it can be told what.
    fn read_back<'a>(&'a mut self, expected: &'a Expected) -> Reply<'a, Observation>;

    /// Has it make a key, if it has none, and gives its DER certificate request with that common name.
    fn make_key<'a>(&'a mut self, common_name: &'a str) -> Reply<'a, Vec<u8>> {
        let _ = common_name;
        unable(Verb::MakeKey)
    }

    /// Installs a certificate chain, the device's own certificate first, each in DER.
    fn install<'a>(&'a mut self, chain: &'a [Vec<u8>]) -> Reply<'a, ()> {
        let _ = chain;
        unable(Verb::Take(Item::Certificate))
    }

    /// Has it prove that it can use its key: gives the DER signature over
    /// [`proof_message`](crate::provision::device::proof_message) of the nonce.
    fn prove(&mut self, nonce: [u8; 32]) -> Reply<'_, Vec<u8>> {
        let _ = nonce;
        unable(Verb::Sign)
    }

    /// Passes one command to its TPM, once, and gives the response.
    fn tpm<'a>(&'a mut self, command: &'a [u8]) -> Reply<'a, Vec<u8>> {
        let _ = command;
        unable(Verb::AskTpm)
    }

    /// Seals it, if it holds what `holds` is the digest of; gives the digest that it confirms.
    fn seal(&mut self, holds: Digest) -> Reply<'_, Digest> {
        let _ = holds;
        unable(Verb::Seal)
    }
}

/// What a device should hold, and what it says of that since its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Digest of what it should hold.
    pub holds: Digest,
    /// The digest that it gave of what it holds.
    pub says: Digest,
    /// Its certificates in DER, its own first, one after the other; empty where it has none.
    pub chain: Vec<u8>,
}

/// What a device holds, value by value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The values, with the digest of the leaf certificate.
    pub observed: Observed,
    /// The certificates in DER, the device's own first; empty where it has none.
    pub chain: Vec<Vec<u8>>,
}

/// What a device was found to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observation {
    /// Each value was read.
    Values(Held),
    /// Its own digests say it.
    Digests {
        /// Digest of the values and of the leaf certificate.
        holds: Digest,
        /// Digest of its certificates, one after the other; of nothing where it should have none.
        chain: Digest,
    },
}

/// The answer of a device that does not have the verb.
pub(super) fn unable<'a, T: Send + 'a>(what: Verb) -> Reply<'a, T> {
    Box::pin(std::future::ready(Err(LinkError::Unable { what })))
}
