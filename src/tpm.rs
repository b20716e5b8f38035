//! A device's TPM, reached through tss-esapi over raw commands that travel on the device's link.
//!
//! tss-esapi blocks and cannot be cancelled, so each [`run`] has its own thread for it, and the bytes go through a
//! bridge in this process (`tpm/bridge.rs`): the thread speaks the TCG simulator's protocol to a loopback port, and the
//! task of the bay relays each command over its own link. When the deadline passes the sockets are closed, which ends
//! the thread's wait at once.
//!
//! The C library under tss-esapi writes its errors to stderr, across the operator's screen, unless the environment
//! has `TSS2_LOG=all+NONE` before its first call. Only `main` can set that safely, before any thread starts.
//!
//! # Why so
//!
//! - **tss-esapi 7.7, and exactly that.** Version 8 demands tpm2-tss 4.1, and Debian 12 has 3.2. To be looked at again
//!   with Debian 13.
//! - **The simulator's protocol (mssim) on loopback.** This version of tss-esapi takes no transport of one's own, only
//!   the kinds that it knows. With mssim the TSS keeps two connections for its life, so that both ports can be closed
//!   to everybody else as soon as it has connected; with swtpm's protocol it connects anew for each command, and the
//!   ports would have to stay open to every user of the machine.
//! - **Acknowledgements at once.** The TSS sends header and command in two writes, and waits for the first to be
//!   acknowledged: 40 ms a command, unless the bridge asks its socket for quick acknowledgement before every read. Then
//!   a whole run costs 128 ms against 114 ms straight to the TPM, and over a serial line the wire dwarfs both.
//! - **Credentials are made by aws-lc, in [`provision::endorsement`](crate::provision::endorsement).** That takes OAEP
//!   with a label and AES-CFB, which ring does not have; and one crypto backend is enough, so ring is kept out.
//! - **A flush before each run.** A run that was cut off leaves objects and sessions in the TPM; three of those, and it
//!   has no room for the next.

mod bridge;
mod busy;
pub mod jobs;
pub mod roots;
mod wire;

use crate::provision::fault::{ResponseFlaw, TemplateFault, TpmTask};
use bridge::Bridge;
pub use busy::Limit;
use std::fmt::Display;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::{sleep_until, timeout, timeout_at};
use tss_esapi::Context;
use wire::Wire;
pub use wire::{ALLOWED, CommandRecord, command_name};

/// How long the thread may take to end once its sockets are closed. It takes about a millisecond.
const JOIN_LIMIT: Duration = Duration::from_secs(5);

/// Something about a device's TPM did not work.
#[derive(Debug, thiserror::Error)]
pub enum TpmError {
    /// The run did not end in time.
    #[error("the TPM did not answer {command} within {} ms", limit.as_millis())]
    Deadline {
        /// The command that was under way.
        command: &'static str,
        /// The limit for all runs of the step.
        limit: Duration,
    },
    /// The TPM put a command off until there was no time left.
    #[error("the TPM put {command} off ({rc:#x}) for {} ms", limit.as_millis())]
    Busy {
        /// The command.
        command: &'static str,
        /// The response code.
        rc: u32,
        /// The limit for all runs of the step.
        limit: Duration,
    },
    /// The TPM takes no authorizations for the time being.
    #[error("the TPM is locked out: it refused {command}")]
    LockedOut {
        /// The command.
        command: &'static str,
    },
    /// The link to the device failed; its own words.
    #[error("the link failed during {command}: {why}")]
    Link {
        /// The command that was under way.
        command: &'static str,
        /// What the link says.
        why: String,
    },
    /// The TSS asked for a command that a provisioning station does not need.
    #[error("the command {0:#010x} is not allowed")]
    NotAllowed(u32),
    /// A run with more commands than any job needs.
    #[error("a run may not have more than {0} commands")]
    TooMany(usize),
    /// The device's answer is not a TPM response.
    #[error("the answer to {command} is no TPM response: {why:?}")]
    Malformed {
        /// The command.
        command: &'static str,
        /// What is wrong with it.
        why: ResponseFlaw,
    },
    /// A TPM command failed.
    #[error("{task:?} failed: {error}")]
    Command {
        /// What was being done.
        task: TpmTask,
        /// The response code.
        error: tss_esapi::Error,
    },
    /// A raw command failed.
    #[error("{command} failed with {rc:#x}")]
    Raw {
        /// The command.
        command: &'static str,
        /// The response code.
        rc: u32,
    },
    /// A key in the TPM is not what it should be.
    #[error("the key at {handle:#010x} {fault:?}")]
    Template {
        /// Its handle.
        handle: u32,
        /// In what it differs.
        fault: TemplateFault,
    },
    /// The TPM's name of a key is not the digest of its public area: one of the two was changed on the way.
    #[error("the key at {handle:#010x} does not match its name")]
    Name {
        /// Its handle.
        handle: u32,
    },
    /// The TPM has another key than the one that was read from it before.
    #[error("the key at {handle:#010x} is not the one that was read before")]
    AnotherKey {
        /// Its handle.
        handle: u32,
    },
    /// The TPM cannot open a credential that was made for the endorsement key that it showed.
    #[error(
        "the TPM cannot use the endorsement key that it showed, which may be another TPM's ({0})"
    )]
    NotActivated(tss_esapi::Error),
    /// The text to sign is longer than one TPM command takes.
    #[error("a text of {found} bytes cannot be signed: {max} is the most")]
    TooLong {
        /// Bytes in the text.
        found: usize,
        /// The most that fit.
        max: usize,
    },
    /// The vendor roots cannot be read.
    #[error("vendor roots: {} {why}", path.display())]
    Roots {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The station's own part failed: no loopback port, or the thread died.
    #[error("the TPM bridge failed: {0}")]
    Bridge(String),
}

/// A way to a TPM: these bytes to it, those bytes back.
///
/// A trait and not an `AsyncFnMut`, whose future cannot be shown to be `Send`, so that a bay could not be spawned.
pub trait Relay: Send {
    /// Why a command did not come through.
    type Error: Display;

    /// Carries one command to the TPM and its response back. The future may be dropped at any time.
    fn transact(
        &mut self,
        command: Vec<u8>,
    ) -> impl Future<Output = Result<Vec<u8>, Self::Error>> + Send;
}

/// Runs `job` against the TPM behind `relay`, which carries one command to it and one response back.
///
/// First all transient objects and sessions that an earlier run may have left are flushed: the station is the TPM's
/// only user. Every command is written to `log`, with no parameters. A command that the TPM puts off is sent again
/// (`tpm/busy.rs`). When `limit` passes, the future of `relay` is dropped in the middle of its command, so the link must
/// drain late bytes before its next use. However the run ends, its thread has ended and its sockets are closed when
/// this function returns; and where the TPM still answers, nothing of a run that failed is left in it.
pub async fn run<T: Send + 'static>(
    relay: &mut impl Relay,
    log: &mut Vec<CommandRecord>,
    limit: Limit,
    job: impl FnOnce(&mut Context) -> Result<T, TpmError> + Send + 'static,
) -> Result<T, TpmError> {
    let mut wire = Wire::new(relay, log, limit);
    let flushed = timeout_at(limit.ends, wire.flush_everything()).await;
    flushed.map_err(|_| wire.late())??;
    let done = bridged(&mut wire, limit, job).await;
    if done.as_ref().is_err_and(TpmError::still_answers) {
        // What cannot be cleared away now is before the next run; the fault is the run's.
        let _ = timeout_at(limit.ends, wire.flush_everything()).await;
    }
    done
}

/// The job in its thread, and its commands on their way.
async fn bridged<T: Send + 'static>(
    wire: &mut Wire<'_, impl Relay>,
    limit: Limit,
    job: impl FnOnce(&mut Context) -> Result<T, TpmError> + Send + 'static,
) -> Result<T, TpmError> {
    let bridge = Bridge::bind().await?;
    let conf = bridge.tcti();
    let mut thread = tokio::task::spawn_blocking(move || {
        let mut context = Context::new(conf).map_err(|error| TpmError::Command {
            task: TpmTask::Connect,
            error,
        })?;
        job(&mut context)
    });
    let served = tokio::select! {
        biased;
        ended = &mut thread => return ended.unwrap_or_else(|e| Err(TpmError::Bridge(e.to_string()))),
        served = bridge.serve(wire) => served,
        () = sleep_until(limit.ends) => Err(wire.late()),
    };
    // Here the bridge is gone, with its sockets and listeners, and so the thread's wait has ended.
    let ended = timeout(JOIN_LIMIT, thread).await;
    let ended = ended.map_err(|_| TpmError::Bridge("its thread does not end".to_owned()))?;
    served?; // the real cause; the TSS says only that its connection is gone
    ended.unwrap_or_else(|e| Err(TpmError::Bridge(e.to_string())))
}

impl TpmError {
    /// Whether the TPM had answered whatever it was asked when this went wrong.
    fn still_answers(&self) -> bool {
        matches!(
            self,
            Self::Busy { .. }
                | Self::LockedOut { .. }
                | Self::Command { .. }
                | Self::Template { .. }
                | Self::Name { .. }
                | Self::AnotherKey { .. }
                | Self::NotActivated(_)
        )
    }
}
