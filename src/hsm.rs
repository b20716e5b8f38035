//! PKCS #11: signs only what was reserved; reopens, re-finds, fails closed.
//!
//! A module belongs to one thread of this process, however many tokens of it are in use. That thread owns the library
//! and every session. Before each use of a key it asks the token whether the session still lives and finds the key
//! again, because a handle kept over a lost session may be stale. What only reads is tried three times: on the session
//! at hand, on a new session, and after finalizing and initializing the module. A PIN that was refused is never tried
//! again. A signature is asked for once: if that fails, its serial number is to be abandoned.
//!
//! The one thing that this room knows of the ledger is [`Reserved`], because that is what makes "signs only what was
//! reserved" true: no caller can bring bytes that are not on record, or bring the same ones twice.
//!
//! A call into a module cannot be cancelled. One that outlives its deadline leaves the module out of use until it
//! returns, and whatever it says in the end is thrown away. The deadline is the call's own: how long it waited for its turn
//! does not count.
//!
//! # Why so
//!
//! - **`cryptoki`, under the name `pkcs11`.** The crate that is called `pkcs11` is abandoned, every version of it is
//!   unsound (RUSTSEC-2022-0034: safe code reads freed memory), and its author points to cryptoki. `.ci/deny.toml`
//!   keeps the old one out.
//! - **Any error means: look again, from the session up.** Four modules answered the same loss of a session with three
//!   different codes, and on two of them a handle from before was stale. So no code is matched, except those that speak
//!   of the PIN: some tokens lock themselves after a few wrong ones.
//! - **One thread for a module.** On SoftHSM more threads sign no faster, since it holds a lock of its own; and one
//!   thread makes plain which call came first.
//! - **P-256 with the digest made here (`CKM_ECDSA`).** SoftHSM 2.6 has no mechanism that takes the message itself.

mod clock;
mod signer;
mod token;

use crate::ledger::Reserved;
pub use crate::provision::fault::HsmError;
use secrecy::SecretString;
use signer::{Module, ModuleThread};
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long opening may take, logging in and one recovery included.
const OPEN_DEADLINE: Duration = Duration::from_secs(30);
/// How long making a key may take; network HSMs take their time for the random numbers.
const MAKE_DEADLINE: Duration = Duration::from_secs(60);
/// How long finding a key or signing may take.
const CALL_DEADLINE: Duration = Duration::from_secs(10);

/// How long the end of a token's last use may block the thread that ends it.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);

/// Where a token is, and how to log in to it.
#[derive(Clone, Debug)]
pub struct HsmOptions {
    /// Path of the PKCS #11 module, a shared library.
    pub module: PathBuf,
    /// Label of the token; exactly one token of the module must have it.
    pub token: String,
    /// The user's PIN.
    pub pin: SecretString,
}

/// A token that is logged in to. Clones share its session, which closes with the last of them: that blocks for some
/// milliseconds, at most for two seconds. Drop it before the process ends.
#[derive(Clone)]
pub struct Hsm(Arc<Opened>);

/// What happened on a token since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meter {
    /// Signatures made.
    pub signatures: u64,
    /// Signatures asked for that failed.
    pub sign_faults: u64,
    /// Sessions opened; more than one, and one for each key made, means that the token was lost.
    pub sessions: u64,
    /// Logins tried.
    pub logins: u64,
    /// How long the last signature took, without the finding of the key.
    pub last_signature: Duration,
    /// The longest that a signature took.
    pub longest_signature: Duration,
    /// The sum over all signatures.
    pub signing: Duration,
}

impl Hsm {
    /// Loads and initializes the module, unless another token of it is open already, and logs in to the token.
    ///
    /// A module reads its own environment (`SOFTHSM2_CONF`) when it is initialized, so that must be set before the
    /// process starts its threads.
    pub async fn open(options: HsmOptions) -> Result<Self, HsmError> {
        let HsmOptions { module, token, pin } = options;
        let signer = ModuleThread::of(&module)?;
        let meter = Arc::new(Mutex::new(Meter::default()));
        let opened = Opened {
            id: signer.new_id(),
            signer,
            meter: Arc::clone(&meter),
            token: token.clone(),
            suspect: AtomicBool::new(false),
        };
        opened
            .call("open", OPEN_DEADLINE, move |module, id| {
                module.open(id, token, pin, meter)
            })
            .await?;
        Ok(Self(Arc::new(opened)))
    }

    /// The public key (DER SubjectPublicKeyInfo) of the P-256 key with this label, which is made if there is none: a
    /// pair that signs, stays in the token, and cannot be read.
    pub async fn find_or_make_key(&self, label: &str) -> Result<Vec<u8>, HsmError> {
        let label = label.to_owned();
        self.0
            .call("find or make key", MAKE_DEADLINE, move |module, id| {
                module.find_or_make_key(id, &label)
            })
            .await
    }

    /// The public key (DER SubjectPublicKeyInfo) of the key with this label. Refuses a key that can leave the token.
    pub async fn public_key(&self, label: &str) -> Result<Vec<u8>, HsmError> {
        let label = label.to_owned();
        self.0
            .call("public key", CALL_DEADLINE, move |module, id| {
                module.public_key(id, &label)
            })
            .await
    }

    /// Signs the reserved bytes with the key of this label: ECDSA with SHA-256, as the DER that a certificate holds
    /// (RFC 3279, section 2.2.3).
    ///
    /// Whatever error comes back, and if this future is dropped, the signature may or may not have been made: the
    /// reservation is spent, and its serial number must be abandoned.
    pub async fn sign(&self, label: &str, reserved: Reserved) -> Result<Vec<u8>, HsmError> {
        let label = label.to_owned();
        let signed = self
            .0
            .call("sign", CALL_DEADLINE, move |module, id| {
                module.sign(id, &label, &reserved)
            })
            .await;
        self.0.suspect.store(signed.is_err(), Ordering::Relaxed);
        signed
    }

    /// Whether it is worth reserving a serial number: yes, unless the last signature failed. Then the key with this label
    /// is looked for first, which costs nothing but time.
    ///
    /// # Errors
    /// Why the key cannot sign now.
    pub async fn ready(&self, label: &str) -> Result<(), HsmError> {
        if !self.0.suspect.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.public_key(label).await?;
        self.0.suspect.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// What happened on the token so far.
    pub fn meter(&self) -> Meter {
        *self.0.meter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Hsm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hsm")
            .field("token", &self.0.token)
            .field("meter", &self.meter())
            .finish_non_exhaustive()
    }
}

/// One opening of a token: its number in the signer thread's book.
struct Opened {
    signer: Arc<ModuleThread>,
    id: u64,
    token: String,
    meter: Arc<Mutex<Meter>>,
    /// Whether the last signature failed.
    suspect: AtomicBool,
}

impl Opened {
    /// Runs `act` on the module's thread, and tells the trace how that went; `what` names it there.
    async fn call<T: Send + 'static>(
        &self,
        what: &'static str,
        deadline: Duration,
        act: impl FnOnce(&mut Module, u64) -> Result<T, HsmError> + Send + 'static,
    ) -> Result<T, HsmError> {
        let id = self.id;
        let began = Instant::now();
        let result = self.signer.call(deadline, move |module| act(module, id));
        let result = result.await;
        let took_us = began.elapsed().as_micros();
        let error = result.as_ref().err().map(|error| format!("{error:?}"));
        tracing::info!(target: "hsm", call = what, token = self.token, took_us, error);
        result
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        let id = self.id;
        // Blocks: a process that ends while its module is still closing sessions crashes or hangs in the module's own
        // end.
        self.signer
            .finish(CLOSE_DEADLINE, move |module| module.close(id));
    }
}
