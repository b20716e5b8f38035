//! The thread that a module belongs to, and what it does there: sessions, recovery, finding and signing.

use super::token::{self, Names};
use super::{HsmError, Meter};
use crate::ledger::Reserved;
use crate::provision::bytes::Digest;
use crate::provision::fault::PinAdvice;
use pkcs11::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use pkcs11::mechanism::Mechanism;
use pkcs11::session::Session;
use secrecy::{ExposeSecret, SecretString};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{oneshot, watch};

/// Calls that may wait for the signer thread.
const QUEUE: usize = 64;

/// Until a login is tried again that failed without a word about the PIN: it may have been judged all the same.
const PIN_PAUSE: Duration = Duration::from_secs(10);

/// A module is initialized once in a process, so each has one signer thread, kept for the life of the process.
static SIGNERS: Mutex<BTreeMap<PathBuf, Arc<ModuleThread>>> = Mutex::new(BTreeMap::new());

type Task = Box<dyn FnOnce(&mut Module) + Send>;

/// The way to the thread that owns a module.
pub(super) struct ModuleThread {
    module: String,
    queue: SyncSender<Task>,
    state: Arc<State>,
    ids: AtomicU64,
}

/// What the thread is at.
struct State {
    /// The call that is under way.
    call: watch::Sender<Option<Call>>,
    /// Whether that call has outlived its deadline. It opens again as soon as the call returns.
    hung: watch::Sender<bool>,
}

/// A call that is under way.
#[derive(Clone, Copy)]
struct Call {
    number: u64,
    /// Whoever waits from then on, for this call or for the turn after it, waits in vain.
    until: Instant,
}

impl State {
    fn begin(&self, number: u64, deadline: Duration) {
        let until = Instant::now() + deadline;
        self.call.send_replace(Some(Call { number, until }));
    }

    fn end(&self) {
        self.call.send_modify(|call| {
            *call = None;
            self.hung.send_if_modified(std::mem::take);
        });
    }

    /// The call of this number is late; nothing, if it has returned meanwhile.
    fn late(&self, number: u64) {
        let call = self.call.borrow();
        if call.is_some_and(|call| call.number == number) {
            self.hung.send_replace(true);
        }
    }
}

impl ModuleThread {
    /// The signer thread of the module at `path`, started if there is none yet.
    pub fn of(path: &Path) -> Result<Arc<Self>, HsmError> {
        let failed = |error: std::io::Error| HsmError::Module {
            module: path.display().to_string(),
            said: error.to_string(),
        };
        let path = path.canonicalize().map_err(failed)?;
        let mut signers = SIGNERS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(signer) = signers.get(&path) {
            return Ok(Arc::clone(signer));
        }
        let signer = Arc::new(Self::start(path.clone()).map_err(failed)?);
        signers.insert(path, Arc::clone(&signer));
        Ok(signer)
    }

    fn start(path: PathBuf) -> std::io::Result<Self> {
        let (queue, tasks): (_, Receiver<Task>) = sync_channel(QUEUE);
        let module = path.display().to_string();
        std::thread::Builder::new()
            .name("hsm-signer".to_owned())
            .spawn(move || {
                let mut module = Module::new(path);
                for task in tasks {
                    task(&mut module);
                }
            })?;
        Ok(Self {
            module,
            queue,
            state: Arc::new(State {
                call: watch::Sender::new(None),
                hung: watch::Sender::new(false),
            }),
            ids: AtomicU64::new(0),
        })
    }

    /// A number for one opening of a token.
    pub fn new_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// Runs `act` on the thread and waits for its result, at most for `deadline` from when its turn has come. If it is
    /// late, it fails, and so do all that wait or come until the thread has returned from it; what has not begun by then
    /// never does.
    pub async fn call<T: Send + 'static>(
        &self,
        deadline: Duration,
        act: impl FnOnce(&mut Module) -> Result<T, HsmError> + Send + 'static,
    ) -> Result<T, HsmError> {
        let hung = || HsmError::Hung {
            module: self.module.clone(),
        };
        if *self.state.hung.borrow() {
            return Err(hung());
        }
        let (number, state) = (self.new_id(), Arc::clone(&self.state));
        let (begin, begun) = oneshot::channel();
        let (reply, answer) = oneshot::channel();
        let task: Task = Box::new(move |module| {
            if reply.is_closed() || begin.send(()).is_err() {
                return; // nobody waits any more
            }
            state.begin(number, deadline);
            let result = act(module);
            state.end();
            let _ = reply.send(result); // late, it is thrown away
        });
        self.queue.try_send(task).map_err(|error| match error {
            TrySendError::Full(_) => HsmError::Busy {
                module: self.module.clone(),
            },
            TrySendError::Disconnected(_) => hung(),
        })?;
        if !self.turn(begun).await {
            return Err(hung());
        }
        match tokio::time::timeout(deadline, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(hung()),
            Err(_) => {
                self.state.late(number);
                Err(hung())
            }
        }
    }

    /// Waits for a call's turn; false if that does not come, because one before it outlives its deadline. Whoever asked for
    /// that one may have gone: each that waits looks for itself.
    async fn turn(&self, mut begun: oneshot::Receiver<()>) -> bool {
        let mut hangs = self.state.hung.subscribe();
        let mut calls = self.state.call.subscribe();
        loop {
            let before = *calls.borrow_and_update();
            let late = async {
                match before {
                    Some(call) => tokio::time::sleep_until(call.until.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                turn = &mut begun => return turn.is_ok(),
                _ = hangs.wait_for(|hung| *hung) => return false,
                _ = calls.changed() => {}
                () = late => before.into_iter().for_each(|call| self.state.late(call.number)),
            }
        }
    }

    /// Has `act` run on the thread and blocks until it has, at most for `deadline`; not at all if the module hangs.
    pub fn finish(&self, deadline: Duration, act: impl FnOnce(&mut Module) + Send + 'static) {
        if *self.state.hung.borrow() {
            return;
        }
        let (number, state) = (self.new_id(), Arc::clone(&self.state));
        let (done, end) = sync_channel(1);
        let task: Task = Box::new(move |module| {
            state.begin(number, deadline);
            act(module);
            state.end();
            let _ = done.send(()); // nobody waits any more
        });
        if self.queue.try_send(task).is_ok() {
            let _ = end.recv_timeout(deadline); // late or not, there is nothing else to do
        }
    }
}

/// A module and the tokens in use of it, as its thread knows them.
pub(super) struct Module {
    path: PathBuf,
    library: Option<Pkcs11>,
    initialized: bool,
    tokens: BTreeMap<u64, Token>,
    refused: Vec<RefusedPin>,
}

/// One opening of a token.
struct Token {
    names: Names,
    pin: SecretString,
    session: Option<Session>,
    meter: Arc<Mutex<Meter>>,
    /// A login that failed without a word about the PIN, and until when it is not tried again.
    unjudged: Option<(Instant, HsmError)>,
}

/// A PIN that a token refused: kept for the life of the process, because each try counts, whoever makes it.
struct RefusedPin {
    token: String,
    pin: SecretString,
    error: HsmError,
}

/// What to throw away before asking again.
#[derive(Clone, Copy)]
enum Renew {
    Nothing,
    Session,
    Module,
}

impl Module {
    fn new(path: PathBuf) -> Self {
        Self {
            path,
            library: None,
            initialized: false,
            tokens: BTreeMap::new(),
            refused: Vec::new(),
        }
    }

    pub fn open(
        &mut self,
        id: u64,
        label: String,
        pin: SecretString,
        meter: Arc<Mutex<Meter>>,
    ) -> Result<(), HsmError> {
        let token = Token {
            names: Names {
                module: self.path.display().to_string(),
                token: label,
            },
            pin,
            session: None,
            meter,
            unjudged: None,
        };
        self.tokens.insert(id, token);
        self.ask(id, |_, _| Ok(()))
    }

    /// Forgets an opening; the last one finalizes the module.
    pub fn close(&mut self, id: u64) {
        self.tokens.remove(&id);
        if self.tokens.is_empty() {
            self.finalize();
        }
    }

    pub fn find_or_make_key(&mut self, id: u64, label: &str) -> Result<Vec<u8>, HsmError> {
        match self.public_key(id, label) {
            Err(HsmError::KeyMissing { .. }) => {}
            found => return found,
        }
        let token = self.token(id);
        let session = token.session.as_ref().expect("the key was just looked for");
        let made = token::make_key(session, &token.names, label);
        // Looked for on a new session: whether a failure left a pair behind is not known, and a TPM without a resource
        // manager has room for one loaded key, which it puts away with the session.
        token.session = None;
        made?;
        self.public_key(id, label)
    }

    pub fn public_key(&mut self, id: u64, label: &str) -> Result<Vec<u8>, HsmError> {
        self.ask(id, |session, names| {
            token::public_key(session, names, label)
        })
    }

    pub fn sign(&mut self, id: u64, label: &str, reserved: &Reserved) -> Result<Vec<u8>, HsmError> {
        let digest = Digest::of(&reserved.reservation().tbs.0);
        let key = self.ask(id, |session, names| {
            token::private_key(session, names, label)
        })?;
        let token = self.token(id);
        let session = token
            .session
            .as_ref()
            .expect("the key was just found on it");
        let begun = Instant::now();
        let signed = session
            .sign(&Mechanism::Ecdsa, key, &digest.0)
            .map_err(|error| token::said(&error))
            .and_then(|raw| token::signature_to_der(&raw));
        let took = begun.elapsed();
        token.count(|meter| match &signed {
            Ok(_) => {
                meter.signatures += 1;
                meter.last_signature = took;
                meter.longest_signature = meter.longest_signature.max(took);
                meter.signing += took;
            }
            Err(_) => meter.sign_faults += 1,
        });
        signed.map_err(|said| {
            token.session = None;
            token.names.sign(label, said)
        })
    }

    /// Asks something that may be asked again: on the session at hand, on a new one, on a newly initialized module.
    fn ask<T>(
        &mut self,
        id: u64,
        question: impl Fn(&Session, &Names) -> Result<T, HsmError>,
    ) -> Result<T, HsmError> {
        let mut attempt = |renew| {
            match renew {
                Renew::Nothing => {}
                Renew::Session => self.token(id).session = None,
                Renew::Module => self.finalize(),
            }
            let library = self.library()?;
            let token = self.tokens.get_mut(&id).expect(OPEN);
            let (session, names) = token.session(&library, &mut self.refused)?;
            question(session, names)
        };
        for renew in [Renew::Nothing, Renew::Session] {
            match attempt(renew) {
                Err(HsmError::Token { .. } | HsmError::TokenMissing { .. }) => {}
                answer => return answer,
            }
        }
        attempt(Renew::Module)
    }

    /// The library, loaded and initialized.
    fn library(&mut self) -> Result<Pkcs11, HsmError> {
        let failed = |error: pkcs11::error::Error| HsmError::Module {
            module: self.path.display().to_string(),
            said: token::said(&error),
        };
        let library = match &self.library {
            Some(library) => library.clone(),
            None => self
                .library
                .insert(Pkcs11::new(&self.path).map_err(failed)?)
                .clone(),
        };
        if !self.initialized {
            // An "already initialized" is an error too: someone else in this process would finalize it under us.
            let arguments = CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK);
            library.initialize(arguments).map_err(failed)?;
            self.initialized = true;
        }
        Ok(library)
    }

    /// Ends every session, because their handles may be given out anew, then the module.
    fn finalize(&mut self) {
        for token in self.tokens.values_mut() {
            token.session = None;
        }
        if let Some(library) = self.library.clone().filter(|_| self.initialized) {
            use pkcs11::error::{Error::Pkcs11, RvError::CryptokiNotInitialized};
            let ended = library.finalize();
            self.initialized = !matches!(ended, Ok(()) | Err(Pkcs11(CryptokiNotInitialized, _)));
        }
    }

    fn token(&mut self, id: u64) -> &mut Token {
        self.tokens.get_mut(&id).expect(OPEN)
    }
}

const OPEN: &str = "an opening asks only between its open and its close";

impl Token {
    /// A session that is logged in: the one at hand if the token still knows it, else a new one.
    fn session(
        &mut self,
        library: &Pkcs11,
        refused: &mut Vec<RefusedPin>,
    ) -> Result<(&Session, &Names), HsmError> {
        let pin = self.pin.expose_secret();
        let same =
            |past: &&RefusedPin| past.token == self.names.token && past.pin.expose_secret() == pin;
        if let Some(past) = refused.iter().find(same) {
            return Err(past.error.clone());
        }
        let session = match self.session.take() {
            Some(session) => {
                token::check_session(&session, &self.names)?;
                session
            }
            None => {
                if let Some((until, error)) = &self.unjudged
                    && Instant::now() < *until
                {
                    return Err(error.clone());
                }
                self.log_in(library, refused)?
            }
        };
        Ok((self.session.insert(session), &self.names))
    }

    fn log_in(
        &mut self,
        library: &Pkcs11,
        refused: &mut Vec<RefusedPin>,
    ) -> Result<Session, HsmError> {
        let opened = token::open_session(library, &self.names).and_then(|session| {
            self.count(|meter| {
                meter.sessions += 1;
                meter.logins += 1;
            });
            token::log_in(&session, &self.names, &self.pin)?;
            Ok(session)
        });
        // Whatever it answered: a token with few tries left has counted this one.
        let opened = opened.map_err(|error| match error {
            HsmError::Pin {
                token,
                said,
                advice: PinAdvice::Wait,
            } if token::tries_are_low(library, &self.names) => HsmError::Pin {
                token,
                said,
                advice: PinAdvice::Look,
            },
            error => error,
        });
        self.unjudged = match &opened {
            Err(error) if token::is_unjudged(error) => {
                Some((Instant::now() + PIN_PAUSE, error.clone()))
            }
            _ => None,
        };
        if let Err(error @ HsmError::Pin { .. }) = &opened
            && self.unjudged.is_none()
        {
            refused.push(RefusedPin {
                token: self.names.token.clone(),
                pin: self.pin.clone(),
                error: error.clone(),
            });
        }
        opened
    }

    fn count(&self, change: impl FnOnce(&mut Meter)) {
        change(&mut self.meter.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_call_that_hangs_keeps_all_others_away_until_it_returns_and_its_result_is_thrown_away()
     {
        let signer = ModuleThread::start(PathBuf::from("/no/such/module.so")).unwrap();
        let (release, released) = sync_channel::<()>(0);
        let slow = signer.call(Duration::from_millis(20), move |_| {
            released.recv().unwrap();
            Ok(1)
        });
        let waiting = signer.call(Duration::from_secs(5), |_| -> Result<(), _> {
            unreachable!("nobody waits for it any more")
        });
        let (slow, waiting) = tokio::join!(biased; slow, waiting);
        assert!(matches!(slow, Err(HsmError::Hung { .. })));
        assert!(matches!(waiting, Err(HsmError::Hung { .. })));
        let queued = signer.call(Duration::from_secs(5), |_| Ok(2));
        assert!(matches!(queued.await, Err(HsmError::Hung { .. })));

        let mut hangs = signer.state.hung.subscribe();
        release.send(()).unwrap();
        hangs.wait_for(|hung| !hung).await.unwrap();
        let later = signer.call(Duration::from_secs(5), |_| Ok(3));
        assert_eq!(later.await.ok(), Some(3));
    }

    #[tokio::test]
    async fn the_deadline_does_not_count_the_wait_for_the_calls_before() {
        let signer = ModuleThread::start(PathBuf::from("/no/such/module.so")).unwrap();
        let (release, released) = sync_channel::<()>(0);
        let slow = signer.call(Duration::from_secs(60), move |_| {
            released.recv().unwrap();
            Ok(())
        });
        let (begun, mut beginning) = oneshot::channel();
        let short = signer.call(Duration::from_millis(500), move |_| {
            begun.send(()).unwrap();
            Ok(())
        });
        let freed = async {
            let much_later = Duration::from_millis(1_000);
            assert!(
                tokio::time::timeout(much_later, &mut beginning)
                    .await
                    .is_err()
            );
            release.send(()).unwrap();
        };
        let (slow, short, ()) = tokio::join!(biased; slow, short, freed);
        assert_eq!((slow.is_ok(), short.is_ok()), (true, true));
    }

    #[tokio::test]
    async fn a_call_that_nobody_waits_for_any_more_never_begins() {
        let signer = ModuleThread::start(PathBuf::from("/no/such/module.so")).unwrap();
        let (release, released) = sync_channel::<()>(0);
        let busy: Task = Box::new(move |_| released.recv().unwrap());
        signer.queue.try_send(busy).unwrap();
        let (begun, beginning) = sync_channel::<()>(1);
        let dropped = signer.call(Duration::from_secs(5), move |_| {
            begun.send(()).unwrap();
            Ok(())
        });
        tokio::select! {
            biased;
            _ = dropped => unreachable!("the thread is busy"),
            () = std::future::ready(()) => {}
        }
        release.send(()).unwrap();
        signer
            .call(Duration::from_secs(5), |_| Ok(()))
            .await
            .unwrap();
        assert!(beginning.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_call_that_hangs_is_noticed_by_those_after_it_where_who_asked_has_gone() {
        let signer = ModuleThread::start(PathBuf::from("/no/such/module.so")).unwrap();
        let (release, released) = sync_channel::<()>(0);
        let (begun, beginning) = oneshot::channel();
        let asked = signer.call(Duration::from_millis(200), move |_| {
            begun.send(()).unwrap();
            released.recv().unwrap();
            Ok(())
        });
        tokio::select! {
            biased;
            _ = asked => unreachable!("it hangs"),
            begun = beginning => begun.unwrap(),
        }
        let after = signer.call(Duration::from_secs(60), |_| Ok(()));
        let after = tokio::time::timeout(Duration::from_secs(20), after).await;
        assert!(matches!(after, Ok(Err(HsmError::Hung { .. }))));
        let come = signer.call(Duration::from_secs(60), |_| Ok(()));
        assert!(matches!(come.await, Err(HsmError::Hung { .. })));
        release.send(()).unwrap();
        let mut hangs = signer.state.hung.subscribe();
        hangs.wait_for(|hung| !hung).await.unwrap();
        signer
            .call(Duration::from_secs(5), |_| Ok(()))
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn a_module_that_is_not_there_is_named() {
        let signer = ModuleThread::start(PathBuf::from("/no/such/module.so")).unwrap();
        let result = signer
            .call(Duration::from_secs(5), |module| {
                module.library().map(|_| ())
            })
            .await;
        let named = matches!(
            result.unwrap_err(),
            HsmError::Module { module, .. } if module == "/no/such/module.so"
        );
        assert!(named);
    }
}
